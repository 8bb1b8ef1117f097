//! A CA to embed: X.509 certificates for cards, and the list of those that are on hold or revoked.
//!
//! A [`LocalCa`] issues from PKCS#10 requests, for keys that were made on the card, or makes the keys itself. It keeps
//! nothing of its own: its certificate and key are the host's ([`CaIdentity`]), and what it has done goes to the host's
//! [`CaJournal`], durably, before any answer is given. So it may be stopped at any time, and opened again.
//!
//! ```
//! use std::sync::Arc;
//!
//! use cardwright::adapters::local_ca::{CaIdentity, LocalCa, MemoryJournal};
//! use cardwright::host::{CertificateAuthority, CertificateOrder, Clock, FindCertificateOutcome, IssueOutcome, SystemClock};
//! use cardwright::{RevocationReason, Secret};
//! # use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { futures::executor::block_on(async {
//! let now = SystemClock.now();
//! let root = CaIdentity::self_signed("Trial root", now, now + Duration::from_secs(86_400 * 3650))?;
//! let ca = LocalCa::builder(root)
//!     .crl_url("http://pki.example.com/cards.crl")
//!     .sealing_key(Secret::new(vec![7; 32])) // in earnest: 32 random bytes from where the host keeps its secrets
//!     .open(MemoryJournal::new(), Arc::new(SystemClock)) // or FileJournal::open("ca.journal")?, or the host's own
//!     .await?;
//!
//! let order = CertificateOrder::new("card 1", "authentication", "Ann Example", now + Duration::from_secs(86_400 * 365));
//! let IssueOutcome::Issued(certificate) = ca.issue(&order).await else { panic!("not issued") };
//! let FindCertificateOutcome::Found { private_key: Some(_key), .. } = ca.find("card 1").await else { panic!("no key") };
//! ca.drop_private_key("card 1").await?; // when it is on the card
//!
//! ca.revoke(&certificate, RevocationReason::KeyCompromise).await;
//! let list = ca.revocation_list().await?;
//! assert_eq!(list.number, 1);
//! assert!(list.pem.starts_with("-----BEGIN X509 CRL-----"));
//! # Ok(()) }) }
//! ```
//!
//! # Private keys
//! A private key that the CA makes stands in the journal in the same record as its certificate, sealed with
//! ChaCha20-Poly1305 under a key that the host gives, and bound to the serial number. One record means one durable write:
//! there is never a certificate without its key, nor a second store to keep in step; and the journal alone, or a backup of
//! it, gives no key away. Deriving the keys from one secret would need no store, but could never forget one. Dropping a key
//! ends its being given; its sealed bytes stay in the journal, and are worth nothing once the sealing key is destroyed.
//! The engine never drops one: it does not know which keys the host wants to keep, such as those for encryption. A host that
//! wants none kept drops the keys of certificates that are [valid](crate::CertificateState::Valid) or
//! [on hold](crate::CertificateState::OnHold), by [`Certificate::key`](crate::Certificate::key): only those are on finished cards.
//! Nonces are random: one sealing key is good for four thousand million certificates. Without a sealing key the CA makes no
//! keys, and refuses orders without a request. Copies that the libraries make of a key while they work are not wiped.
//!
//! # Renewing the CA
//! Give the new certificate; name, key and subject key identifier stay as they were. A CA with another name or key needs a
//! journal of its own.
//!
//! # Validity
//! A certificate begins five minutes ago, for clocks that are behind, and ends with the order's validity or the CA's,
//! whichever is first. While the CA's own certificate is not valid, everything is *unavailable*, nothing refused.
//!
//! # What it does not do
//! No OCSP, no delta lists, no key in a hardware module. All records are held in memory, about 2 KiB a certificate.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use futures::lock::{Mutex, MutexGuard};

use self::authority::{Authority, Content, ListContent, check_name, check_text, new_key, random_serial};
use self::register::{Entry, Issued, Register, Standing};
use self::request::{KeyKind, RequestedKey};
use self::sealing::Sealing;
use crate::certificate::{IssuedCertificate, RevocationReason, StateAtCa};
use crate::host::{
    CaOutcome, CaStatusOutcome, CertificateAuthority, CertificateOrder, Clock, FindCertificateOutcome, IssueOutcome,
};
use crate::secret::Secret;

mod authority;
mod file_journal;
mod hex;
mod journal;
mod profile;
mod register;
mod request;
mod sealing;

pub use authority::CaIdentity;
pub use file_journal::FileJournal;
pub use journal::{CaJournal, CaRecord, JournalError, MemoryJournal};
pub use profile::{KeyUsage, Profile};

/// A CA to embed. See the [module](self) for what it does.
pub struct LocalCa {
    authority: Authority,
    profiles: Vec<KnownProfile>,
    crl_url: Option<String>,
    crl_lifetime: TimeDelta,
    sealing: Option<Sealing>,
    journal: Box<dyn CaJournal>,
    clock: Arc<dyn Clock>,
    register: Mutex<Register>,
}

struct KnownProfile {
    profile: Profile,
    purposes: Vec<Vec<u64>>,
}

impl fmt::Debug for LocalCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCa")
            .field("issuer", &self.authority.name)
            .field("valid_until", &self.authority.until)
            .finish_non_exhaustive()
    }
}

/// Sets up a [`LocalCa`]; made by [`LocalCa::builder`].
pub struct LocalCaBuilder {
    identity: CaIdentity,
    profiles: Vec<Profile>,
    crl_url: Option<String>,
    crl_lifetime: Duration,
    sealing_key: Option<Secret>,
}

impl fmt::Debug for LocalCaBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCaBuilder")
            .field("identity", &self.identity)
            .field("profiles", &self.profiles)
            .field("crl_url", &self.crl_url)
            .field("crl_lifetime", &self.crl_lifetime)
            .field("sealing_key", &self.sealing_key)
            .finish()
    }
}

impl LocalCaBuilder {
    /// One more profile, or another in the place of the one with its name. `authentication`, `signature` and `encryption` are
    /// there from the start.
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profiles.retain(|known| known.name != profile.name);
        self.profiles.push(profile);
        self
    }

    /// Where the host publishes the revocation list: a URL (http, https or ldap) that stands in every certificate.
    #[must_use]
    pub fn crl_url(mut self, url: impl Into<String>) -> Self {
        self.crl_url = Some(url.into());
        self
    }

    /// For how long a revocation list is good; 7 days if not set. The host makes a new one sooner, and at least once in this
    /// time.
    #[must_use]
    pub const fn crl_lifetime(mut self, lifetime: Duration) -> Self {
        self.crl_lifetime = lifetime;
        self
    }

    /// With what private keys are sealed in the journal: 32 random bytes, which the host keeps like the CA's key. Without it
    /// the CA makes no keys.
    #[must_use]
    pub fn sealing_key(mut self, key: Secret) -> Self {
        self.sealing_key = Some(key);
        self
    }

    /// Checks everything, reads the journal, and opens the CA.
    ///
    /// # Errors
    /// | situation | variant |
    /// |---|---|
    /// | the CA's key and certificate cannot be used | [`LocalCaError::Identity`] |
    /// | a profile, the URL, the lifetime or the sealing key is wrong | [`LocalCaError::Settings`] |
    /// | the journal was begun by a CA with another name or key | [`LocalCaError::AnotherCa`] |
    /// | the journal cannot be read, or holds what cannot be | [`LocalCaError::Journal`] |
    pub async fn open(self, journal: impl CaJournal, clock: Arc<dyn Clock>) -> Result<LocalCa, LocalCaError> {
        let settings = |reason: String| LocalCaError::Settings { reason };
        let authority = Authority::new(&self.identity)?;
        let known = |profile: Profile| profile.purposes().map(|purposes| KnownProfile { profile, purposes });
        let profiles = self.profiles.into_iter().map(known).collect::<Result<_, _>>().map_err(settings)?;
        if let Some(url) = &self.crl_url {
            check_url(url).map_err(settings)?;
        }
        let crl_lifetime = TimeDelta::from_std(self.crl_lifetime).ok().filter(|lifetime| lifetime.num_seconds() >= 1);
        let crl_lifetime =
            crl_lifetime.ok_or_else(|| settings("the lifetime of a list must be a second or more".into()))?;
        let sealing = self
            .sealing_key
            .map(|key| Sealing::new(&key).ok_or_else(|| settings("the sealing key must have 32 bytes".into())));
        let ca = LocalCa {
            authority,
            profiles,
            crl_url: self.crl_url,
            crl_lifetime,
            sealing: sealing.transpose()?,
            journal: Box::new(journal),
            clock,
            register: Mutex::new(Register::default()),
        };
        ca.begin().await?;
        Ok(ca)
    }
}

/// A list of the certificates that are on hold or revoked (RFC 5280 section 5).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RevocationList {
    /// Its number; each is greater than all before.
    pub number: u64,
    /// When it was made.
    pub this_update: DateTime<Utc>,
    /// When the next is due at the latest.
    pub next_update: DateTime<Utc>,
    /// The list in DER, as it is published.
    pub der: Vec<u8>,
    /// The same in PEM.
    pub pem: String,
}

/// Why a CA cannot be opened, or cannot do what its host asked, by what the host does next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocalCaError {
    /// The CA's key and certificate cannot be used: give others.
    #[error("the CA cannot be used: {reason}")]
    Identity {
        /// What is wrong with them.
        reason: String,
    },
    /// A setting is wrong: correct it.
    #[error("the CA is set up wrongly: {reason}")]
    Settings {
        /// Which, and how.
        reason: String,
    },
    /// The journal is another CA's: give the one that belongs to this name and key.
    #[error("the journal was begun by another CA, or with another key: {issuer}")]
    AnotherCa {
        /// Whose it is.
        issuer: String,
    },
    /// The journal cannot be read or written.
    #[error("the journal of the CA failed")]
    Journal(#[source] JournalError),
    /// The CA's own certificate is not valid now: renew it.
    #[error("the certificate of the CA is valid from {from} until {until} only")]
    NotValid {
        /// From when it is valid.
        from: DateTime<Utc>,
        /// Until when.
        until: DateTime<Utc>,
    },
    /// It could not be signed.
    #[error("signing failed: {reason}")]
    Signing {
        /// What happened.
        reason: String,
    },
    /// Nothing was issued under the key.
    #[error("nothing was issued under this key")]
    NotFound,
}

impl LocalCa {
    /// Sets up a CA.
    pub fn builder(identity: CaIdentity) -> LocalCaBuilder {
        LocalCaBuilder {
            identity,
            profiles: vec![Profile::authentication(), Profile::signature(), Profile::encryption()],
            crl_url: None,
            crl_lifetime: Duration::from_secs(7 * 24 * 60 * 60),
            sealing_key: None,
        }
    }

    /// The CA's name, as it stands in [`IssuedCertificate::issuer`].
    pub fn issuer(&self) -> &str {
        &self.authority.name
    }

    /// Makes a new revocation list of all certificates that are on hold or revoked. One that has expired leaves the list
    /// when a list's lifetime has passed since, so that it stood on a list once more (RFC 5280 section 3.3).
    ///
    /// # Errors
    /// [`LocalCaError::Journal`], [`LocalCaError::NotValid`], [`LocalCaError::Signing`].
    pub async fn revocation_list(&self) -> Result<RevocationList, LocalCaError> {
        let made = self.change(|register, now| {
            let now = now.trunc_subsecs(0);
            self.check_valid(now)?;
            let until = now.checked_add_signed(self.crl_lifetime);
            let until = until.ok_or_else(|| signing("the lifetime of the list is too long"))?;
            let number = register.lists.checked_add(1).ok_or_else(|| signing("the numbers are used up"))?;
            let stands = |issued: &&Issued| {
                let gone = issued.certificate.valid_until.checked_add_signed(self.crl_lifetime);
                issued.standing != Standing::Good && gone.is_none_or(|gone| now <= gone)
            };
            let entry = |issued: &Issued| (issued.certificate.serial.clone(), issued.standing);
            let entries = register.issued().filter(stands).map(entry).collect();
            let content = ListContent { number, from: now, until, entries };
            let (der, pem) = self.authority.sign_list(&content).map_err(signing)?;
            let list = RevocationList { number, this_update: now, next_update: until, der, pem };
            Ok(Step::Record(CaRecord::ListMade { number, at: now }, list))
        });
        made.await
    }

    /// Drops the private key that was made for an order, when it is on the card: [`find`](CertificateAuthority::find) does
    /// not give it any more. Dropping it again changes nothing.
    ///
    /// # Errors
    /// [`LocalCaError::NotFound`] if nothing was issued under the key, [`LocalCaError::Journal`].
    pub async fn drop_private_key(&self, key: &str) -> Result<(), LocalCaError> {
        let dropped = self.change(|register, _| match register.under(key) {
            Some(Entry::Issued(Issued { sealed_key: Some(_), .. })) => {
                Ok(Step::Record(CaRecord::KeyDropped { key: key.to_owned() }, ()))
            }
            Some(Entry::Issued(_)) => Ok(Step::Answer(())),
            _ => Err(LocalCaError::NotFound),
        });
        dropped.await
    }

    /// Begins a new journal, or checks that it is this CA's, and that its keys can be opened.
    async fn begin(&self) -> Result<(), LocalCaError> {
        let begun = self.change(|register, _| {
            let own = (&self.authority.name, &self.authority.id);
            match &register.authority {
                None => {
                    let (issuer, authority) = (own.0.clone(), own.1.clone());
                    Ok(Step::Record(CaRecord::Begun { issuer, authority }, ()))
                }
                Some((name, id)) if (name, id) == own => Ok(Step::Answer(())),
                Some((name, _)) => Err(LocalCaError::AnotherCa { issuer: name.clone() }),
            }
        });
        begun.await?;
        let register = self.register().await?;
        let sealed = register.issued().find(|issued| issued.sealed_key.is_some());
        match (&self.sealing, sealed) {
            (Some(_), Some(issued)) if self.open_key(issued).is_err() => {
                let reason = "the private keys in the journal were sealed with another sealing key".to_owned();
                Err(LocalCaError::Settings { reason })
            }
            _ => Ok(()),
        }
    }

    /// The register, as far as the journal goes.
    async fn register(&self) -> Result<MutexGuard<'_, Register>, LocalCaError> {
        let mut register = self.register.lock().await;
        let records = self.journal.read(register.records).await.map_err(LocalCaError::Journal)?;
        for record in records {
            take_up(&mut register, record)?;
        }
        Ok(register)
    }

    /// Decides by what the journal says now, and records what was decided; decides again if another was quicker.
    async fn change<T: Send>(
        &self,
        decide: impl Fn(&Register, DateTime<Utc>) -> Result<Step<T>, LocalCaError> + Send + Sync,
    ) -> Result<T, LocalCaError> {
        const TRIES: u32 = 100;
        for _ in 0..TRIES {
            let mut register = self.register().await?;
            let (record, answer) = match decide(&register, self.clock.now())? {
                Step::Answer(answer) => return Ok(answer),
                Step::Record(record, answer) => (record, answer),
            };
            match self.journal.append(register.records.saturating_add(1), &record).await {
                Ok(()) => {
                    take_up(&mut register, record)?;
                    return Ok(answer);
                }
                Err(JournalError::Taken) => {}
                Err(error) => return Err(LocalCaError::Journal(error)),
            }
        }
        let reason = format!("others were quicker {TRIES} times");
        Err(LocalCaError::Journal(JournalError::Unavailable { reason }))
    }

    /// Decides on one certificate of this CA that is neither revoked nor has expired.
    async fn change_standing(
        &self,
        certificate: &IssuedCertificate,
        decide: impl Fn(&Issued, DateTime<Utc>) -> Option<CaRecord> + Send + Sync,
    ) -> CaOutcome {
        let serial = plain_serial(&certificate.serial);
        let changed = self.change(|register, now| {
            let answer = match register.numbered(&serial).filter(|_| certificate.issuer == self.authority.name) {
                None => CaOutcome::Refused { reason: "this CA did not issue the certificate".to_owned() },
                Some(Issued { standing: Standing::Revoked(..), .. }) => CaOutcome::AlreadyRevoked,
                Some(issued) if issued.certificate.valid_until < now => CaOutcome::AlreadyExpired,
                Some(issued) => match decide(issued, now) {
                    Some(record) => return Ok(Step::Record(record, CaOutcome::Done)),
                    None => CaOutcome::Done,
                },
            };
            Ok(Step::Answer(answer))
        });
        changed.await.unwrap_or_else(|error| CaOutcome::Unavailable { reason: in_full(&error) })
    }

    fn check_valid(&self, now: DateTime<Utc>) -> Result<(), LocalCaError> {
        let Authority { from, until, .. } = self.authority;
        if now < from || now > until { Err(LocalCaError::NotValid { from, until }) } else { Ok(()) }
    }

    /// Decides on an order: the record of a certificate, or why it is refused.
    fn decide(&self, order: &CertificateOrder, now: DateTime<Utc>) -> Result<Result<CaRecord, String>, LocalCaError> {
        self.check_valid(now)?;
        let approved = match self.examine(order, now) {
            Ok(approved) => approved,
            Err(reason) => return Ok(Err(reason)),
        };
        let Approved { profile, until, requested } = approved;
        let serial = random_serial().map_err(signing)?;
        let kind = requested.as_ref().map_or(KeyKind::Elliptic, |requested| requested.kind);
        let key_usage: Vec<_> =
            profile.profile.key_usage.iter().copied().filter(|usage| kind.is_able_to(*usage)).collect();
        if key_usage.is_empty() {
            return Ok(Err(format!("a key of this kind cannot be used for the profile `{}`", profile.profile.name)));
        }
        let content = Content {
            serial: &serial,
            common_name: &order.common_name,
            upn: order.upn.as_deref(),
            email: order.email.as_deref(),
            from: (now - TimeDelta::minutes(5)).trunc_subsecs(0).max(self.authority.from),
            until,
            key_usage,
            purposes: &profile.purposes,
            crl_url: self.crl_url.as_deref(),
        };
        let serial = hex::encode(&serial);
        let (pem, sealed_key) = match (requested, &self.sealing) {
            (Some(requested), _) => (self.authority.certify(&requested.key, &content).map_err(signing)?, None),
            (None, Some(sealing)) => {
                let (key, private_key) = new_key().map_err(signing)?;
                let sealed = sealing.seal(&private_key, &serial);
                let sealed = sealed.ok_or_else(|| signing("the private key could not be sealed"))?;
                (self.authority.certify(&key, &content).map_err(signing)?, Some(sealed))
            }
            (None, None) => return Ok(Err("this CA makes no keys, the order must bring a request".to_owned())),
        };
        let issuer = self.authority.name.clone();
        let certificate = IssuedCertificate { issuer, serial, valid_until: until, pem };
        Ok(Ok(CaRecord::Issued { key: order.key.clone(), certificate, sealed_key }))
    }

    /// Checks everything in an order, or says why it is refused. No reason repeats a personal value.
    fn examine(&self, order: &CertificateOrder, now: DateTime<Utc>) -> Result<Approved<'_>, String> {
        let profile = self.profiles.iter().find(|known| known.profile.name == order.profile).ok_or_else(|| {
            let known: Vec<_> = self.profiles.iter().map(|known| known.profile.name.as_str()).collect();
            let unknown: String = order.profile.chars().take(50).collect();
            format!("there is no profile {unknown:?}, there are {}", known.join(", "))
        })?;
        check_name(&order.common_name)?;
        if let Some(upn) = &order.upn {
            check_text("UPN", upn, 1024)?;
        }
        if let Some(email) = &order.email {
            check_email(email)?;
        }
        let until = order.valid_until.min(self.authority.until).trunc_subsecs(0);
        if until <= now {
            return Err("the validity that was ordered is over".to_owned());
        }
        let requested = order.request.as_deref().map(request::read).transpose()?;
        Ok(Approved { profile, until, requested })
    }

    fn open_key(&self, issued: &Issued) -> Result<Option<Secret>, String> {
        let Some(sealed) = &issued.sealed_key else { return Ok(None) };
        let Some(sealing) = &self.sealing else {
            return Err("the private key is sealed, and this CA was opened without a sealing key".to_owned());
        };
        let opened = sealing.open(sealed, &issued.certificate.serial);
        opened.map(Some).ok_or_else(|| "the private key cannot be opened with this sealing key".to_owned())
    }
}

#[async_trait]
impl CertificateAuthority for LocalCa {
    async fn issue(&self, order: &CertificateOrder) -> IssueOutcome {
        if let Err(reason) = check_order_key(&order.key) {
            return IssueOutcome::Refused { reason };
        }
        let issued = self.change(|register, now| match register.under(&order.key) {
            Some(Entry::Issued(issued)) => Ok(Step::Answer(IssueOutcome::Issued(issued.certificate.clone()))),
            Some(Entry::Refused(reason)) => Ok(Step::Answer(IssueOutcome::Refused { reason: reason.clone() })),
            None => Ok(match self.decide(order, now)? {
                Ok(record) => {
                    let CaRecord::Issued { certificate, .. } = &record else {
                        return Err(signing("no certificate was made"));
                    };
                    let answer = IssueOutcome::Issued(certificate.clone());
                    Step::Record(record, answer)
                }
                Err(reason) => {
                    let record = CaRecord::Refused { key: order.key.clone(), reason: reason.clone() };
                    Step::Record(record, IssueOutcome::Refused { reason })
                }
            }),
        });
        match issued.await {
            Ok(outcome) => outcome,
            Err(LocalCaError::Journal(error @ JournalError::OutcomeUnknown { .. })) => {
                IssueOutcome::Unknown { reason: error.to_string() }
            }
            Err(error) => IssueOutcome::Unavailable { reason: in_full(&error) },
        }
    }

    async fn find(&self, key: &str) -> FindCertificateOutcome {
        let register = match self.register().await {
            Ok(register) => register,
            Err(error) => return FindCertificateOutcome::Unavailable { reason: in_full(&error) },
        };
        match register.under(key) {
            None => FindCertificateOutcome::NotFound,
            Some(Entry::Refused(reason)) => FindCertificateOutcome::Refused { reason: reason.clone() },
            Some(Entry::Issued(issued)) => match self.open_key(issued) {
                Ok(private_key) => {
                    FindCertificateOutcome::Found { certificate: issued.certificate.clone(), private_key }
                }
                Err(reason) => FindCertificateOutcome::Unavailable { reason },
            },
        }
    }

    async fn hold(&self, certificate: &IssuedCertificate) -> CaOutcome {
        let held = self.change_standing(certificate, |issued, at| match issued.standing {
            Standing::Good => Some(CaRecord::Held { serial: issued.certificate.serial.clone(), at }),
            Standing::Held(_) | Standing::Revoked(..) => None,
        });
        held.await
    }

    async fn remove_hold(&self, certificate: &IssuedCertificate) -> CaOutcome {
        let removed = self.change_standing(certificate, |issued, at| match issued.standing {
            Standing::Held(_) => Some(CaRecord::HoldRemoved { serial: issued.certificate.serial.clone(), at }),
            Standing::Good | Standing::Revoked(..) => None,
        });
        removed.await
    }

    async fn revoke(&self, certificate: &IssuedCertificate, reason: RevocationReason) -> CaOutcome {
        let revoked = self.change_standing(certificate, |issued, at| {
            Some(CaRecord::Revoked { serial: issued.certificate.serial.clone(), at, reason })
        });
        revoked.await
    }

    async fn status(&self, certificates: &[IssuedCertificate]) -> Vec<CaStatusOutcome> {
        let register = match self.register().await {
            Ok(register) => register,
            Err(error) => {
                let reason = in_full(&error);
                return certificates.iter().map(|_| CaStatusOutcome::Unavailable { reason: reason.clone() }).collect();
            }
        };
        let now = self.clock.now();
        let status = |certificate: &IssuedCertificate| {
            let issued = register.numbered(&plain_serial(&certificate.serial));
            match issued.filter(|_| certificate.issuer == self.authority.name) {
                None => CaStatusOutcome::NotFound,
                Some(issued) => CaStatusOutcome::Known(match issued.standing {
                    Standing::Revoked(..) => StateAtCa::Revoked,
                    _ if issued.certificate.valid_until < now => StateAtCa::Expired,
                    Standing::Held(_) => StateAtCa::OnHold,
                    Standing::Good => StateAtCa::Valid,
                }),
            }
        };
        certificates.iter().map(status).collect()
    }
}

/// What was decided: an answer that changes nothing, or a record and the answer once it is stored.
enum Step<T> {
    Answer(T),
    Record(CaRecord, T),
}

/// An order that may be carried out.
struct Approved<'a> {
    profile: &'a KnownProfile,
    until: DateTime<Utc>,
    requested: Option<RequestedKey>,
}

fn take_up(register: &mut Register, record: CaRecord) -> Result<(), LocalCaError> {
    let number = register.records.saturating_add(1);
    register
        .apply(record)
        .map_err(|what| LocalCaError::Journal(JournalError::Damaged { reason: format!("record {number}: {what}") }))
}

fn signing(reason: impl Into<String>) -> LocalCaError {
    LocalCaError::Signing { reason: reason.into() }
}

/// An error with its cause, for an outcome that has words only.
fn in_full(error: &LocalCaError) -> String {
    match error {
        LocalCaError::Journal(cause) => cause.to_string(),
        error => error.to_string(),
    }
}

/// A serial number as the CA writes it; others write it in small letters, or with colons.
fn plain_serial(serial: &str) -> String {
    serial.chars().filter(|c| *c != ':').map(|c| c.to_ascii_uppercase()).take(100).collect()
}

fn check_order_key(key: &str) -> Result<(), String> {
    let printable = key.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if key.is_empty() || key.len() > 100 || !printable {
        return Err("the key must be printable ASCII of at most 100 characters".to_owned());
    }
    Ok(())
}

fn check_email(email: &str) -> Result<(), String> {
    check_text("e-mail address", email, 254)?;
    if !email.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the e-mail address has characters that an rfc822Name cannot hold".to_owned());
    }
    match email.rsplit_once('@') {
        Some((user, host)) if !user.is_empty() && !host.is_empty() => Ok(()),
        _ => Err("the e-mail address is not of the form user@host".to_owned()),
    }
}

fn check_url(url: &str) -> Result<(), String> {
    let known = ["http://", "https://", "ldap://"]
        .iter()
        .any(|scheme| url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')));
    if !known || url.len() > 2000 || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the URL of the revocation list must be an http, https or ldap URL in ASCII".to_owned());
    }
    Ok(())
}
