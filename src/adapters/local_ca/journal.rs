//! What a CA must never forget, and where the host keeps it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::certificate::{IssuedCertificate, RevocationReason};

/// Keeps what a [`LocalCa`](super::LocalCa) has done: numbered records that are only ever added.
///
/// A database needs one table: a number as its primary key, and a text with the record as JSON.
///
/// # Contract
/// Each clause has a test of the same name in `tests/it/local_ca.rs`, to be taken for one's own.
/// - **`appended_is_durable`**: when [`append`](Self::append) says *ok*, the record is there after a crash and a power cut.
/// - **`a_number_is_given_once`**: of two that append under one number, one gets [`JournalError::Taken`], and nothing of it
///   is stored. So several instances of a CA may share a journal.
/// - **`numbers_have_no_gaps`**: a record is stored under the number after the last one, beginning with 1; under any other
///   number it is *taken* too.
/// - **`read_gives_all_in_order`**: [`read`](Self::read) gives every record after a number, in the order of numbers.
///
/// # Not required
/// Secrecy: private keys in the records are sealed. But records hold names, UPNs and e-mail addresses, as certificates do.
///
/// # Cancellation
/// A dropped `append` may or may not have stored the record: the CA reads before it goes on.
///
/// # Errors
/// | situation | variant |
/// |---|---|
/// | another record has the number | [`JournalError::Taken`] |
/// | surely not stored, or not to be read for now | [`JournalError::Unavailable`] |
/// | perhaps stored | [`JournalError::OutcomeUnknown`] |
/// | what is stored cannot be read | [`JournalError::Damaged`] |
#[async_trait]
pub trait CaJournal: Send + Sync + 'static {
    /// All records after the one with this number; 0 for all.
    async fn read(&self, after: u64) -> Result<Vec<CaRecord>, JournalError>;

    /// Stores a record durably under a number.
    async fn append(&self, number: u64, record: &CaRecord) -> Result<(), JournalError>;
}

#[async_trait]
impl<T: CaJournal + ?Sized> CaJournal for Arc<T> {
    async fn read(&self, after: u64) -> Result<Vec<CaRecord>, JournalError> {
        (**self).read(after).await
    }

    async fn append(&self, number: u64, record: &CaRecord) -> Result<(), JournalError> {
        (**self).append(number, record).await
    }
}

#[async_trait]
impl<T: CaJournal + ?Sized> CaJournal for Box<T> {
    async fn read(&self, after: u64) -> Result<Vec<CaRecord>, JournalError> {
        (**self).read(after).await
    }

    async fn append(&self, number: u64, record: &CaRecord) -> Result<(), JournalError> {
        (**self).append(number, record).await
    }
}

/// One thing that a CA has done. A host stores it and gives it back; it need not look into it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum CaRecord {
    /// The journal of this CA begins.
    Begun {
        /// The CA's name.
        issuer: String,
        /// SHA-256 of the CA's public key, in hexadecimal digits.
        authority: String,
    },
    /// A certificate was issued.
    Issued {
        /// The key of the order.
        key: String,
        /// The certificate.
        certificate: IssuedCertificate,
        /// The private key that the CA made for it, sealed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sealed_key: Option<String>,
    },
    /// An order was refused, for good.
    Refused {
        /// The key of the order.
        key: String,
        /// Why.
        reason: String,
    },
    /// A private key was dropped: it is not given any more.
    KeyDropped {
        /// The key of the order.
        key: String,
    },
    /// A certificate was put on hold.
    Held {
        /// Its serial number.
        serial: String,
        /// When.
        at: DateTime<Utc>,
    },
    /// A certificate was taken off hold.
    HoldRemoved {
        /// Its serial number.
        serial: String,
        /// When.
        at: DateTime<Utc>,
    },
    /// A certificate was revoked.
    Revoked {
        /// Its serial number.
        serial: String,
        /// When.
        at: DateTime<Utc>,
        /// Why.
        reason: RevocationReason,
    },
    /// A revocation list was made.
    ListMade {
        /// Its number.
        number: u64,
        /// When.
        at: DateTime<Utc>,
    },
}

impl fmt::Debug for CaRecord {
    /// Without keys and personal values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begun { issuer, .. } => f.debug_struct("Begun").field("issuer", issuer).finish_non_exhaustive(),
            Self::Issued { key, certificate, .. } => {
                f.debug_struct("Issued").field("key", key).field("serial", &certificate.serial).finish_non_exhaustive()
            }
            Self::Refused { key, reason } => {
                f.debug_struct("Refused").field("key", key).field("reason", reason).finish()
            }
            Self::KeyDropped { key } => f.debug_struct("KeyDropped").field("key", key).finish(),
            Self::Held { serial, at } => f.debug_struct("Held").field("serial", serial).field("at", at).finish(),
            Self::HoldRemoved { serial, at } => {
                f.debug_struct("HoldRemoved").field("serial", serial).field("at", at).finish()
            }
            Self::Revoked { serial, at, reason } => {
                f.debug_struct("Revoked").field("serial", serial).field("at", at).field("reason", reason).finish()
            }
            Self::ListMade { number, at } => {
                f.debug_struct("ListMade").field("number", number).field("at", at).finish()
            }
        }
    }
}

/// Why a journal could not do what was asked, by what the CA does next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// Another record has this number: read, and decide again.
    #[error("another record has this number")]
    Taken,
    /// Surely not stored, or not to be read for now: try again later.
    #[error("the journal is unavailable: {reason}")]
    Unavailable {
        /// What is in the way.
        reason: String,
    },
    /// Perhaps stored: read before doing anything.
    #[error("whether the record was stored is unknown: {reason}")]
    OutcomeUnknown {
        /// What happened.
        reason: String,
    },
    /// What is stored cannot be read: a person must look.
    #[error("the journal is damaged: {reason}")]
    Damaged {
        /// What was found where.
        reason: String,
    },
}

/// A journal in memory, for trials and tests. Clones share one.
///
/// ```
/// use cardwright::adapters::local_ca::{CaJournal as _, MemoryJournal};
/// use futures::FutureExt as _;
///
/// assert_eq!(MemoryJournal::new().read(0).now_or_never(), Some(Ok(vec![])));
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryJournal {
    records: Arc<Mutex<Vec<CaRecord>>>,
}

impl MemoryJournal {
    /// An empty journal.
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl CaJournal for MemoryJournal {
    async fn read(&self, after: u64) -> Result<Vec<CaRecord>, JournalError> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let after = usize::try_from(after).unwrap_or(usize::MAX);
        Ok(records.get(after..).unwrap_or_default().to_vec())
    }

    async fn append(&self, number: u64, record: &CaRecord) -> Result<(), JournalError> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if usize::try_from(number).ok() != records.len().checked_add(1) {
            return Err(JournalError::Taken);
        }
        records.push(record.clone());
        Ok(())
    }
}
