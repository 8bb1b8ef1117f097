//! The local production of a card: what was decided when it began, and what is known of it so far.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::card::CardState;
use crate::certificate::{CertificateKind, CertificateState};
use crate::id::JobId;

/// A production that runs: prepare the card, have each certificate issued, hold those that are to be on hold, finish the card.
///
/// Each link is a [`Job`](crate::Job); the card is busy with the one that is due. PIN and PUK are not here: they are drawn when
/// the card is finished, and handed on once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Production {
    /// Its first job, which names it.
    pub id: JobId,
    /// The kinds of certificates that the card gets, each once, in the order in which they are issued.
    pub certificates: Vec<CertificateKind>,
    /// The state in which the card ends: issued or active.
    pub card_end_state: CardState,
    /// The state in which its certificates end: on hold or valid.
    pub certificate_end_state: CertificateState,
    /// The PIN.
    pub pin: SecretPlan,
    /// The PUK.
    pub puk: SecretPlan,
    /// What the personalizer calls the card at hand; from when it was prepared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// The certificate requests (PKCS#10, in PEM) by kind, if the keys are made on the card.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<CertificateKind, String>,
}

/// How a PIN or PUK is made and reaches the holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretPlan {
    /// How many digits it has.
    pub length: u8,
    /// How the holder gets it; [`Delivery::None`]: there is none.
    pub delivery: Delivery,
}

/// How a PIN or PUK reaches the holder. The personalizer delivers it, or hands it to whoever does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Not at all: none is drawn.
    None,
    /// On a printed letter.
    Print,
    /// By e-mail.
    Email,
}
