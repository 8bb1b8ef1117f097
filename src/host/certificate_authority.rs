use std::fmt;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::certificate::{IssuedCertificate, RevocationReason, StateAtCa};
use crate::secret::Secret;

/// Issues, holds and revokes certificates.
///
/// # Contract
/// Each clause has a check of the same name in
/// [`conformance::certificate_authority`](crate::conformance::certificate_authority).
/// - **`one_certificate_per_key`**: a key names one certificate. Asking again for a key that has one gives that one, never a
///   second, also to callers that ask at once; so a request whose answer was lost can be made again.
/// - **`validity_is_never_longer`**: a certificate is valid for as long as was asked for, or shorter.
/// - **`found_is_what_was_issued`**: [`find`](Self::find) gives what was issued under the key, whatever has become of it, and
///   *not found* only for a key under which there is nothing. A CA that cannot look says so: then an unanswered request is for
///   a person.
/// - **`refused_leaves_nothing`**: a profile that the CA does not have and a request that it cannot read are refused. After
///   *refused* nothing is issued under the key, then or later, unless it is asked for again.
/// - **`request_keeps_its_key`**: a certificate that was asked for with a PKCS#10 request certifies the key in that request,
///   and comes without a private key.
/// - **`ca_side_key_comes_with_find`**: a certificate that was asked for without a request has a key of its own, made by the
///   CA; [`find`](Self::find) gives that key each time, until the certificate is revoked. A CA that cannot look cannot hand a
///   key out, and refuses such an order.
/// - **`repeating_changes_nothing`**: hold, remove hold and revoke may be repeated: the second is a success too, where
///   revoke may say *done* or *already revoked*.
/// - **`revoked_stays_revoked`**: revoke is for good. Hold and remove hold of a revoked certificate say *already revoked*, or
///   *unsupported*, and revoke never says that.
/// - **`status_tells_what_was_done`**: [`status`](Self::status) gives one result for each certificate, in their order, and
///   says what was last done; *not found* for a certificate that this CA did not issue, and nothing can be done to that one.
///
/// # Not required
/// Hold ([`CaOutcome::Unsupported`]); looking by key ([`FindCertificateOutcome::CannotLook`]); keys made at the CA (refuse the
/// order); requests, where the CA makes keys; answering at once ([`IssueOutcome::Pending`]); remembering what was refused
/// ([`FindCertificateOutcome::NotFound`]).
///
/// # Cancellation
/// A dropped call may or may not have taken effect. All but `issue` may be repeated; `issue` too, under the same key.
///
/// # Errors
/// All are outcomes.
///
/// # Implementing
/// A [`CaFactory`](crate::conformance::certificate_authority::CaFactory) says how yours is opened;
/// [`check_all`](crate::conformance::certificate_authority::check_all) checks it.
#[async_trait]
pub trait CertificateAuthority: Send + Sync + 'static {
    /// Issues a certificate.
    async fn issue(&self, order: &CertificateOrder) -> IssueOutcome;

    /// Looks for what was issued under a key.
    async fn find(&self, key: &str) -> FindCertificateOutcome;

    /// Puts a certificate on hold (RFC 5280 certificateHold).
    async fn hold(&self, certificate: &IssuedCertificate) -> CaOutcome;

    /// Takes a certificate off hold (RFC 5280 removeFromCRL).
    async fn remove_hold(&self, certificate: &IssuedCertificate) -> CaOutcome;

    /// Revokes a certificate for good.
    async fn revoke(&self, certificate: &IssuedCertificate, reason: RevocationReason) -> CaOutcome;

    /// What the CA says of these certificates, one result each.
    async fn status(&self, certificates: &[IssuedCertificate]) -> Vec<CaStatusOutcome>;
}

forward!(CertificateAuthority {
    async fn issue(&self, order: &CertificateOrder) -> IssueOutcome;
    async fn find(&self, key: &str) -> FindCertificateOutcome;
    async fn hold(&self, certificate: &IssuedCertificate) -> CaOutcome;
    async fn remove_hold(&self, certificate: &IssuedCertificate) -> CaOutcome;
    async fn revoke(&self, certificate: &IssuedCertificate, reason: RevocationReason) -> CaOutcome;
    async fn status(&self, certificates: &[IssuedCertificate]) -> Vec<CaStatusOutcome>;
});

/// An order for one certificate. Name, UPN and e-mail address are the card's attributes `commonName`, `upn` and `email`: see
/// [`UserToCardMap`](crate::UserToCardMap).
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateOrder {
    /// Our key, one for each certificate: printable ASCII, at most 100 characters.
    pub key: String,
    /// The name of the profile at the CA, such as `authentication`.
    pub profile: String,
    /// The holder's common name.
    pub common_name: String,
    /// The holder's user principal name, for the subject alternative name.
    pub upn: Option<String>,
    /// The holder's e-mail address.
    pub email: Option<String>,
    /// Until when it should be valid; a CA may make it shorter, never longer.
    pub valid_until: DateTime<Utc>,
    /// The PKCS#10 request in PEM, if the key was made on the card; `None`: the CA makes the key.
    pub request: Option<String>,
}

impl CertificateOrder {
    /// An order whose key the CA makes.
    pub fn new(
        key: impl Into<String>,
        profile: impl Into<String>,
        common_name: impl Into<String>,
        valid_until: DateTime<Utc>,
    ) -> Self {
        Self {
            key: key.into(),
            profile: profile.into(),
            common_name: common_name.into(),
            upn: None,
            email: None,
            valid_until,
            request: None,
        }
    }
}

impl fmt::Debug for CertificateOrder {
    /// Without the holder's personal values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateOrder")
            .field("key", &self.key)
            .field("profile", &self.profile)
            .field("valid_until", &self.valid_until)
            .field("request", &self.request.is_some())
            .finish_non_exhaustive()
    }
}

/// What became of an order for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssueOutcome {
    /// Here it is.
    Issued(IssuedCertificate),
    /// Taken, and not decided yet: it is looked for later.
    Pending,
    /// A final no; the production fails.
    Refused {
        /// The CA's words.
        reason: String,
    },
    /// Surely not issued: try again later.
    Unavailable {
        /// What is in the way.
        reason: String,
    },
    /// Perhaps issued.
    Unknown {
        /// What happened.
        reason: String,
    },
}

/// What is found under a key.
#[derive(Debug)]
pub enum FindCertificateOutcome {
    /// A certificate, and its private key (PKCS#8, in PEM) if the CA made that and still gives it.
    Found {
        /// The certificate.
        certificate: IssuedCertificate,
        /// The key, for the card.
        private_key: Option<Secret>,
    },
    /// An order that is not decided yet.
    Pending,
    /// An order that was refused.
    Refused {
        /// The CA's words.
        reason: String,
    },
    /// Nothing.
    NotFound,
    /// The CA has no way to look.
    CannotLook,
    /// It has, but not for now.
    Unavailable {
        /// What is in the way.
        reason: String,
    },
}

/// What became of holding, removing the hold, or revoking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaOutcome {
    /// Done.
    Done,
    /// It is revoked already: a success where it was to be revoked.
    AlreadyRevoked,
    /// It has expired already: a success where it was to be revoked.
    AlreadyExpired,
    /// A final no.
    Refused {
        /// The CA's words.
        reason: String,
    },
    /// This CA does not do that.
    Unsupported,
    /// Not for now, or perhaps done: it is asked again.
    Unavailable {
        /// What is in the way.
        reason: String,
    },
}

/// What the CA says of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaStatusOutcome {
    /// Its state.
    Known(StateAtCa),
    /// The CA does not know the certificate.
    NotFound,
    /// Not for now.
    Unavailable {
        /// What is in the way.
        reason: String,
    },
}
