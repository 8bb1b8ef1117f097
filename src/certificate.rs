//! Certificates: states, their graph, and the reasons for which one is revoked.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::history::{ChainHead, HistoryEntry, ObjectId, Stamp, Why};
use crate::id::{CardId, CertificateId};
use crate::state_graph::{State, StateGraph, TransitionError};

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateKind {
    /// To log on.
    Authentication,
    /// To sign.
    Signature,
    /// To encrypt.
    Encryption,
}

/// The state of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateState {
    /// The CA returned it and it is stored, before it is written to a card. Stays so if the production fails.
    Issued,
    /// Usable.
    Valid,
    /// Not usable for now: certificateHold at the CA.
    OnHold,
    /// Revoked for good.
    Revoked,
    /// Its validity has passed.
    Expired,
}

impl State for CertificateState {
    fn name(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Valid => "valid",
            Self::OnHold => "on hold",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

impl fmt::Display for CertificateState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

use CertificateState::{Expired, Issued, OnHold, Revoked, Valid};

#[rustfmt::skip]
static CERTIFICATE: StateGraph<CertificateState> = StateGraph::new(
    "certificate",
    Issued,
    &[Revoked, Expired],
    &[
        (Issued,  &[Valid, OnHold, Revoked, Expired]),
        (Valid,   &[OnHold, Revoked, Expired]),
        (OnHold,  &[Valid, Revoked, Expired]),
        (Revoked, &[]),
        (Expired, &[]),
    ],
);

/// The graph of every certificate.
pub fn certificate_graph() -> &'static StateGraph<CertificateState> {
    &CERTIFICATE
}

/// A certificate of a card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Its id.
    pub id: CertificateId,
    /// The card it was made for.
    pub card: CardId,
    /// What it is for.
    pub kind: CertificateKind,
    state: CertificateState,
    /// The version it was loaded with; 0 if it is not stored yet.
    #[serde(skip)]
    pub version: u64,
    /// Who issued it, as the CA names itself.
    pub issuer: String,
    /// The serial number at the CA, in hexadecimal digits.
    pub serial: String,
    /// Until when it is valid.
    pub valid_until: DateTime<Utc>,
    /// The end of its history.
    pub history: ChainHead,
}

impl Certificate {
    /// A certificate that the CA has just returned, in state issued.
    pub fn issued(
        id: CertificateId,
        card: CardId,
        kind: CertificateKind,
        issuer: impl Into<String>,
        serial: impl Into<String>,
        valid_until: DateTime<Utc>,
        stamp: &Stamp<'_>,
    ) -> (Self, HistoryEntry) {
        let mut certificate = Self {
            id,
            card,
            kind,
            state: CERTIFICATE.start(),
            version: 0,
            issuer: issuer.into(),
            serial: serial.into(),
            valid_until,
            history: ChainHead::default(),
        };
        let object = ObjectId::Certificate(id);
        let state = certificate.state.name();
        let entry = certificate.history.append(object, None, state, stamp, Why::code("issued"));
        (certificate, entry)
    }

    /// Its state.
    pub const fn state(&self) -> CertificateState {
        self.state
    }

    /// Moves it to another state; the only way in which its state changes.
    ///
    /// # Errors
    /// [`TransitionError`] if [`certificate_graph`] does not allow it.
    pub fn transition(
        &mut self,
        to: CertificateState,
        stamp: &Stamp<'_>,
        why: Why<'_>,
    ) -> Result<HistoryEntry, TransitionError> {
        let object = ObjectId::Certificate(self.id);
        if !CERTIFICATE.allows(self.state, to) {
            return Err(TransitionError::new(&CERTIFICATE, object, self.state, to));
        }
        let from = std::mem::replace(&mut self.state, to);
        Ok(self.history.append(object, Some(from.name()), to.name(), stamp, why))
    }
}

/// Why a certificate is revoked: the reasons of RFC 5280 section 5.3.1 that end a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RevocationReason {
    /// No reason given; the default.
    #[default]
    #[serde(rename = "unspecified")]
    Unspecified,
    /// The private key may be known to others.
    #[serde(rename = "keyCompromise")]
    KeyCompromise,
    /// The CA's own key may be known to others.
    #[serde(rename = "cACompromise")]
    CaCompromise,
    /// The holder left or changed the organisation.
    #[serde(rename = "affiliationChanged")]
    AffiliationChanged,
    /// Another certificate took its place.
    #[serde(rename = "superseded")]
    Superseded,
    /// It is no longer needed.
    #[serde(rename = "cessationOfOperation")]
    CessationOfOperation,
    /// The holder may no longer do what it was for.
    #[serde(rename = "privilegeWithdrawn")]
    PrivilegeWithdrawn,
    /// The attribute authority's key may be known to others.
    #[serde(rename = "aACompromise")]
    AaCompromise,
}

impl RevocationReason {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Unspecified, "unspecified"),
        (Self::KeyCompromise, "keyCompromise"),
        (Self::CaCompromise, "cACompromise"),
        (Self::AffiliationChanged, "affiliationChanged"),
        (Self::Superseded, "superseded"),
        (Self::CessationOfOperation, "cessationOfOperation"),
        (Self::PrivilegeWithdrawn, "privilegeWithdrawn"),
        (Self::AaCompromise, "aACompromise"),
    ];

    /// The reason with this RFC name.
    ///
    /// # Errors
    /// [`UnknownReason`] for any other text, so that a typo cannot revoke anything. `certificateHold` and
    /// `removeFromCRL` are not here: they do not end a certificate.
    pub fn named(name: &str) -> Result<Self, UnknownReason> {
        Self::ALL
            .into_iter()
            .find(|(_, known)| *known == name)
            .map(|(reason, _)| reason)
            .ok_or_else(|| UnknownReason(name.chars().take(100).collect()))
    }

    /// The RFC name.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(reason, _)| *reason == self).map_or("unspecified", |(_, name)| name)
    }
}

/// A text that is no revocation reason of RFC 5280.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no revocation reason: allowed are unspecified, keyCompromise, cACompromise, affiliationChanged, \
     superseded, cessationOfOperation, privilegeWithdrawn, aACompromise"
)]
pub struct UnknownReason(String);
