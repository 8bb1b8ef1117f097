//! Certificates: states, their graph, and the reasons for which one is revoked.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::history::{ChainHead, HistoryEntry, ObjectId, Stamp, Why};
use crate::id::{CardId, CertificateId, JobId};
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

impl CertificateKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Authentication, Self::Signature, Self::Encryption];

    /// The name that options and profiles use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Authentication => "authentication",
            Self::Signature => "signature",
            Self::Encryption => "encryption",
        }
    }
}

impl fmt::Display for CertificateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
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

/// A certificate as the CA made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedCertificate {
    /// Who issued it, as the CA names itself, such as the issuer's distinguished name.
    pub issuer: String,
    /// The serial number at the CA, in hexadecimal digits.
    pub serial: String,
    /// Until when it is valid.
    pub valid_until: DateTime<Utc>,
    /// The certificate itself, in PEM.
    pub pem: String,
}

/// What the CA last said of a certificate. Our own state is what our processes have decided; the jobs bring the CA after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateAtCa {
    /// Usable.
    Valid,
    /// On hold (RFC 5280 certificateHold).
    OnHold,
    /// Revoked.
    Revoked,
    /// Its validity has passed.
    Expired,
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
    /// The production that it was made in: a card has the certificates of its last good one.
    pub production: JobId,
    /// Our key for it at the CA.
    pub key: String,
    /// What the CA made.
    pub issued: IssuedCertificate,
    /// What the CA last said of it.
    pub at_ca: StateAtCa,
    /// The end of its history.
    pub history: ChainHead,
}

impl Certificate {
    /// A certificate that the CA has just returned, in state issued.
    pub fn issued(
        id: CertificateId,
        card: CardId,
        kind: CertificateKind,
        production: JobId,
        key: impl Into<String>,
        issued: IssuedCertificate,
        stamp: &Stamp<'_>,
    ) -> (Self, HistoryEntry) {
        let mut certificate = Self {
            id,
            card,
            kind,
            state: CERTIFICATE.start(),
            version: 0,
            production,
            key: key.into(),
            issued,
            at_ca: StateAtCa::Valid,
            history: ChainHead::default(),
        };
        let object = ObjectId::Certificate(id);
        let state = certificate.state.name();
        let why = Why::code("issued").about(&certificate.issued.serial);
        let entry = certificate.history.append(object, None, state, stamp, why);
        (certificate, entry)
    }

    /// Whether it counts for what its card and its certificates must fit: it is of the card's last good production, and was
    /// neither revoked nor has expired.
    pub fn is_current(&self, card: &crate::card::Card) -> bool {
        card.produced == Some(self.production) && !CERTIFICATE.is_final(self.state)
    }

    /// The history entry of a change that leaves the state as it is.
    pub fn note(&mut self, stamp: &Stamp<'_>, why: Why<'_>) -> HistoryEntry {
        let state = self.state.name();
        self.history.append(ObjectId::Certificate(self.id), Some(state), state, stamp, why)
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
    /// All reasons.
    pub const ALL: [Self; 8] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::CaCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::PrivilegeWithdrawn,
        Self::AaCompromise,
    ];

    /// The reason with this RFC name.
    ///
    /// # Errors
    /// [`UnknownReason`] for any other text, so that a typo cannot revoke anything. `certificateHold` and
    /// `removeFromCRL` are not here: they do not end a certificate.
    pub fn named(name: &str) -> Result<Self, UnknownReason> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.name() == name)
            .ok_or_else(|| UnknownReason(name.chars().take(100).collect()))
    }

    /// The RFC name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::CaCompromise => "cACompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
            Self::PrivilegeWithdrawn => "privilegeWithdrawn",
            Self::AaCompromise => "aACompromise",
        }
    }
}

/// A text that is no revocation reason of RFC 5280.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no revocation reason: allowed are unspecified, keyCompromise, cACompromise, affiliationChanged, \
     superseded, cessationOfOperation, privilegeWithdrawn, aACompromise"
)]
pub struct UnknownReason(String);
