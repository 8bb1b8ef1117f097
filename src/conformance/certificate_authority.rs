//! Checks of a [`CertificateAuthority`], one for each clause of its contract and named like it.
//!
//! # Panics
//! Every check panics where its clause is not kept. What the CA calls unavailable is tried again for some seconds; what it
//! calls pending is waited for with [`CaFactory::pass_time`].
//!
//! # Examples
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use cardwright::adapters::simulator::{CaBehaviour, SimulatedCa, SimulatedClock};
//! use cardwright::conformance::certificate_authority::{CaFactory, KeyIn, check_all};
//! use cardwright::conformance::{Call, Kit, block_on, on_threads};
//! use cardwright::host::{CertificateAuthority, CertificateOrder};
//!
//! struct Simulated {
//!     clock: SimulatedClock,
//!     ca: SimulatedCa,
//! }
//!
//! #[async_trait::async_trait]
//! impl CaFactory for Simulated {
//!     async fn open(&self) -> Arc<dyn CertificateAuthority> {
//!         Arc::new(self.ca.clone())
//!     }
//!
//!     async fn pass_time(&self, duration: Duration) {
//!         self.clock.advance(duration);
//!     }
//!
//!     async fn at_once(&self, calls: Vec<Call>) {
//!         on_threads(calls).await;
//!     }
//!
//!     fn order(&self, key: &str) -> CertificateOrder {
//!         let valid_until = "2031-01-07T08:00:00Z".parse().expect("a time");
//!         CertificateOrder::new(key, "authentication", "Ann", valid_until)
//!     }
//!
//!     fn refused_order(&self, key: &str) -> CertificateOrder {
//!         let mut order = self.order(key);
//!         order.profile = "unknown".to_owned();
//!         order
//!     }
//!
//!     fn request(&self) -> Option<String> {
//!         Some(format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n", uuid::Uuid::new_v4()))
//!     }
//!
//!     fn public_key(&self, of: KeyIn<'_>) -> Option<Vec<u8>> {
//!         let key = match of {
//!             KeyIn::Certificate(certificate) => SimulatedCa::public_key_in(certificate)?.to_owned(),
//!             KeyIn::Request(request) => SimulatedCa::public_key_for(request.as_bytes()),
//!             KeyIn::PrivateKey(key) => SimulatedCa::public_key_for(key.expose()),
//!         };
//!         Some(key.into_bytes())
//!     }
//! }
//!
//! let clock = SimulatedClock::new("2030-01-07T08:00:00Z".parse()?);
//! let behaviour = CaBehaviour::calm().refusing("unknown");
//! let ca = SimulatedCa::new(1, Arc::new(clock.clone())).behaving(behaviour);
//! block_on(check_all(&Kit::of_ca(&Simulated { clock, ca }, uuid::Uuid::new_v4())));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;

use super::{Call, Kit, gather};
use crate::host::{
    CaOutcome, CaStatusOutcome, CertificateAuthority, CertificateOrder, Clock as _, FindCertificateOutcome,
    IssueOutcome, SystemClock,
};
use crate::{IssuedCertificate, RevocationReason, Secret, StateAtCa};

/// Opens the CA under test, and knows what its checks need to know of it.
///
/// Others may use the CA meanwhile.
#[async_trait]
pub trait CaFactory: Send + Sync {
    /// A new handle onto the CA, as independent of the others as handles in production are.
    async fn open(&self) -> Arc<dyn CertificateAuthority>;

    /// Lets the CA decide what is pending: moves its clock on by this time, or waits as long as it takes.
    async fn pass_time(&self, duration: Duration);

    /// Runs these calls at once, as concurrently as can be, and returns when all have ended. A panic of one is a panic of
    /// this. For a CA that needs no runtime, [`on_threads`](super::on_threads) does it; otherwise each is a task of that runtime.
    async fn at_once(&self, calls: Vec<Call>);

    /// An order under this key, without a request, that the CA takes, or would take with a request. Its validity is shorter
    /// than what the CA gives at most.
    fn order(&self, key: &str) -> CertificateOrder;

    /// An order under this key that the CA refuses, such as for a profile that it does not have.
    fn refused_order(&self, key: &str) -> CertificateOrder;

    /// A PKCS#10 request in PEM with a fresh key that fits [`order`](Self::order); `None` if the CA makes all keys.
    fn request(&self) -> Option<String>;

    /// The public key in a certificate, a request or a private key, always in the same form, such as the bytes of its
    /// SubjectPublicKeyInfo. `None` if it cannot be read.
    fn public_key(&self, of: KeyIn<'_>) -> Option<Vec<u8>>;
}

/// Where a public key is looked for.
#[derive(Clone, Copy, Debug)]
pub enum KeyIn<'a> {
    /// In a certificate.
    Certificate(&'a IssuedCertificate),
    /// In a request, in PEM.
    Request(&'a str),
    /// In a private key (PKCS#8, in PEM).
    PrivateKey(&'a Secret),
}

clauses! {
    dyn CaFactory, "the CA", "certificate authority";
    one_certificate_per_key,
    validity_is_never_longer,
    found_is_what_was_issued,
    refused_leaves_nothing,
    request_keeps_its_key,
    ca_side_key_comes_with_find,
    repeating_changes_nothing,
    revoked_stays_revoked,
    status_tells_what_was_done,
}

/// One key gives one certificate, however often and by how many it is asked for, and another key another.
pub async fn one_certificate_per_key(kit: &Kit<'_, dyn CaFactory>) {
    const CLAUSE: &str = "one_certificate_per_key";
    let ca = Ca::open(kit, CLAUSE).await;
    let order = ca.order();
    let first = ca.issued(&order).await;
    for again in [&ca, &Ca::open(kit, CLAUSE).await] {
        assert_eq!(again.issued(&order).await, first, "{CLAUSE}: who asks again must get the same certificate");
    }
    let other = ca.issued(&ca.order()).await;
    assert_ne!(name(&other), name(&first), "{CLAUSE}: the certificate of another key must have another serial number");
    drop(ca);
    kit.factory.pass_time(STEP).await;
    let ca = Ca::open(kit, CLAUSE).await;
    assert_eq!(ca.issued(&order).await, first, "{CLAUSE}: also once the CA was opened again");

    for _ in 0..4 {
        let contested = ca.order();
        let mut calls: Vec<BoxFuture<'static, IssueOutcome>> = Vec::new();
        for _ in 0..8 {
            let (handle, order) = (kit.factory.open().await, contested.clone());
            calls.push(Box::pin(async move { handle.issue(&order).await }));
        }
        let outcomes = gather(calls, |calls| kit.factory.at_once(calls)).await;
        let certificate = ca.issued(&contested).await;
        for outcome in outcomes {
            match outcome {
                IssueOutcome::Issued(issued) => {
                    assert_eq!(issued, certificate, "{CLAUSE}: eight who ask at once must get the same certificate")
                }
                IssueOutcome::Refused { reason } => {
                    panic!("{CLAUSE}: an order that was taken was also refused: {reason}")
                }
                IssueOutcome::Pending | IssueOutcome::Unavailable { .. } | IssueOutcome::Unknown { .. } => {}
            }
        }
    }
}

/// What is issued ends when it was asked to, or earlier.
pub async fn validity_is_never_longer(kit: &Kit<'_, dyn CaFactory>) {
    const CLAUSE: &str = "validity_is_never_longer";
    let ca = Ca::open(kit, CLAUSE).await;
    let order = ca.order();
    let issued = ca.issued(&order).await;
    assert!(
        issued.valid_until <= order.valid_until,
        "{CLAUSE}: asked for until {}, valid until {}",
        order.valid_until,
        issued.valid_until
    );
}

/// A CA that can look finds what it issued, also later and by another handle, and nothing else.
pub async fn found_is_what_was_issued(kit: &Kit<'_, dyn CaFactory>) {
    const CLAUSE: &str = "found_is_what_was_issued";
    let ca = Ca::open(kit, CLAUSE).await;
    let order = ca.order();
    match ca.find(&order.key).await {
        Found::CannotLook => return,
        Found::Nothing => {}
        found => panic!("{CLAUSE}: under a fresh key there must be nothing, not {found:?}"),
    }
    let issued = ca.issued(&order).await;
    let assert_found = async |ca: &Ca<'_>, when: &str| match ca.find(&order.key).await {
        Found::Certificate(found, _) => assert_eq!(found, issued, "{CLAUSE}: {when}"),
        found => panic!("{CLAUSE}: {when} the certificate must be found, not {found:?}"),
    };
    assert_found(&ca, "once it was issued").await;
    assert_found(&Ca::open(kit, CLAUSE).await, "by another handle").await;
    drop(ca);
    let ca = Ca::open(kit, CLAUSE).await;
    assert_found(&ca, "opened again").await;
    match ca.find(&ca.order().key).await {
        Found::Nothing => {}
        found => panic!("{CLAUSE}: under another key there must be nothing, not {found:?}"),
    }
    ca.revoke(&issued).await;
    assert_found(&ca, "once it was revoked").await;
}

/// What cannot be issued is refused, and stays away.
pub async fn refused_leaves_nothing(kit: &Kit<'_, dyn CaFactory>) {
    const CLAUSE: &str = "refused_leaves_nothing";
    let ca = Ca::open(kit, CLAUSE).await;
    let mut unreadable = ca.order();
    unreadable.request = Some("this is not a request".to_owned());
    let orders =
        [(ca.kit.factory.refused_order(&ca.key()), "an order that the CA refuses"), (unreadable, "no request")];
    for (order, what) in orders {
        if let Ok(issued) = ca.decided(&order).await {
            panic!("{CLAUSE}: {what} was issued: {}", issued.serial);
        }
        for when in ["at once", "an hour later", "two hours later"] {
            match ca.find(&order.key).await {
                Found::Nothing | Found::Refused | Found::CannotLook => {}
                found @ Found::Certificate(..) => panic!("{CLAUSE}: {what}, {when}: {found:?}"),
            }
            kit.factory.pass_time(STEP).await;
        }
    }
}

/// The key in the request is the key in the certificate.
pub async fn request_keeps_its_key(kit: &Kit<'_, dyn CaFactory>) {
    const CLAUSE: &str = "request_keeps_its_key";
    let ca = Ca::open(kit, CLAUSE).await;
    for _ in 0..2 {
        let Some(request) = kit.factory.request() else { return };
        let mut order = kit.factory.order(&ca.key());
        order.request = Some(request.clone());
        let issued = ca.issued(&order).await;
        assert_eq!(
            ca.public_key(KeyIn::Certificate(&issued)),
            ca.public_key(KeyIn::Request(&request)),
            "{CLAUSE}: the certificate is for another key"
        );
        if let Found::Certificate(_, Some(_)) = ca.find(&order.key).await {
            panic!("{CLAUSE}: the CA has a private key that it cannot have");
        }
    }
}

/// A CA that makes keys gives each to who looks for the certificate.
pub async fn ca_side_key_comes_with_find(kit: &Kit<'_, dyn CaFactory>) {
    const CLAUSE: &str = "ca_side_key_comes_with_find";
    let ca = Ca::open(kit, CLAUSE).await;
    let mut keys = BTreeSet::new();
    for _ in 0..2 {
        let order = kit.factory.order(&ca.key());
        let Ok(issued) = ca.decided(&order).await else {
            assert!(kit.factory.request().is_some(), "{CLAUSE}: a CA that takes no requests must make keys");
            return;
        };
        let public_key = ca.public_key(KeyIn::Certificate(&issued));
        let assert_given = async |when: &str| match ca.find(&order.key).await {
            Found::Certificate(_, Some(private_key)) => assert_eq!(
                ca.public_key(KeyIn::PrivateKey(&private_key)),
                public_key,
                "{CLAUSE}: {when} the key is not that of the certificate"
            ),
            found => panic!("{CLAUSE}: {when} there must be a private key, not {found:?}"),
        };
        assert_given("at first").await;
        assert_given("for the second time").await;
        if ca.hold(&issued).await.is_some() {
            assert_given("on hold").await;
        }
        assert!(keys.insert(public_key), "{CLAUSE}: two certificates have one key");
    }
}

/// Hold, remove hold and revoke succeed also where they have nothing to do.
pub async fn repeating_changes_nothing(kit: &Kit<'_, dyn CaFactory>) {
    const CLAUSE: &str = "repeating_changes_nothing";
    let ca = Ca::open(kit, CLAUSE).await;
    let issued = ca.issued(&ca.order()).await;
    for when in ["hold", "hold, repeated"] {
        if let Some(outcome) = ca.hold(&issued).await {
            assert_eq!(outcome, CaOutcome::Done, "{CLAUSE}: {when}");
            ca.assert_state(&issued, StateAtCa::OnHold, when).await;
        }
    }
    for when in ["remove hold", "remove hold, repeated"] {
        if let Some(outcome) = ca.remove_hold(&issued).await {
            assert_eq!(outcome, CaOutcome::Done, "{CLAUSE}: {when}");
        }
        ca.assert_state(&issued, StateAtCa::Valid, when).await;
    }
    for when in ["revoke", "revoke, repeated"] {
        ca.revoke(&issued).await;
        ca.assert_state(&issued, StateAtCa::Revoked, when).await;
    }
}

/// Nothing brings a revoked certificate back, whether it was valid or on hold.
pub async fn revoked_stays_revoked(kit: &Kit<'_, dyn CaFactory>) {
    const CLAUSE: &str = "revoked_stays_revoked";
    for hold_first in [false, true] {
        let ca = Ca::open(kit, CLAUSE).await;
        let issued = ca.issued(&ca.order()).await;
        if hold_first {
            ca.hold(&issued).await;
        }
        ca.revoke(&issued).await;
        for (asked, outcome) in [("hold", ca.hold(&issued).await), ("remove hold", ca.remove_hold(&issued).await)] {
            assert!(
                matches!(outcome, None | Some(CaOutcome::AlreadyRevoked)),
                "{CLAUSE}: {asked} of a revoked certificate said {outcome:?}"
            );
            ca.assert_state(&issued, StateAtCa::Revoked, asked).await;
        }
        kit.factory.pass_time(STEP).await;
        ca.assert_state(&issued, StateAtCa::Revoked, "an hour later").await;
        drop(ca);
        let ca = Ca::open(kit, CLAUSE).await;
        ca.assert_state(&issued, StateAtCa::Revoked, "opened again").await;
    }
}

/// The status of many comes in their order, and is what was last done.
pub async fn status_tells_what_was_done(kit: &Kit<'_, dyn CaFactory>) {
    const CLAUSE: &str = "status_tells_what_was_done";
    let ca = Ca::open(kit, CLAUSE).await;
    let (valid, held, revoked) =
        (ca.issued(&ca.order()).await, ca.issued(&ca.order()).await, ca.issued(&ca.order()).await);
    // Such as a certificate of another CA under a serial number of this one.
    let foreign = IssuedCertificate { issuer: format!("CN=conformance {}", kit.id()), ..valid.clone() };
    let unknown = IssuedCertificate { serial: format!("7{}", kit.id().simple()), ..valid.clone() };
    let state_held = if ca.hold(&held).await.is_some() { StateAtCa::OnHold } else { StateAtCa::Valid };
    ca.revoke(&revoked).await;
    for stranger in [&foreign, &unknown] {
        let outcomes = [Some(ca.try_revoke(stranger).await), ca.hold(stranger).await];
        for outcome in outcomes.into_iter().flatten() {
            assert!(
                matches!(outcome, CaOutcome::Refused { .. }),
                "{CLAUSE}: to a certificate that was not issued here, this was done: {outcome:?}"
            );
        }
    }

    let asked = [&revoked, &valid, &foreign, &held, &unknown, &valid].map(Clone::clone);
    let known = |state| CaStatusOutcome::Known(state);
    let expected = [
        known(StateAtCa::Revoked),
        known(StateAtCa::Valid),
        CaStatusOutcome::NotFound,
        known(state_held),
        CaStatusOutcome::NotFound,
        known(StateAtCa::Valid),
    ];
    for ca in [&ca, &Ca::open(kit, CLAUSE).await] {
        assert_eq!(ca.status(&asked).await, expected, "{CLAUSE}");
    }
    assert_eq!(ca.status(&[]).await, [], "{CLAUSE}: none for none");
}

/// How much time passes before the CA is asked again for what is pending.
const STEP: Duration = Duration::from_secs(60 * 60);
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// A handle onto the CA under test. Tries again what the CA calls unavailable or pending.
struct Ca<'k> {
    kit: &'k Kit<'k, dyn CaFactory>,
    clause: &'static str,
    ca: Arc<dyn CertificateAuthority>,
}

/// What a look by key has found.
#[derive(Debug)]
enum Found {
    Certificate(IssuedCertificate, Option<Secret>),
    Refused,
    Nothing,
    CannotLook,
}

impl<'k> Ca<'k> {
    async fn open(kit: &'k Kit<'_, dyn CaFactory>, clause: &'static str) -> Self {
        Self { kit, clause, ca: kit.factory.open().await }
    }

    /// A key that nobody has used.
    fn key(&self) -> String {
        format!("conformance {}", self.kit.id())
    }

    /// An order that the CA takes, with a request if it takes requests.
    fn order(&self) -> CertificateOrder {
        let mut order = self.kit.factory.order(&self.key());
        order.request = self.kit.factory.request();
        order
    }

    fn public_key(&self, of: KeyIn<'_>) -> Vec<u8> {
        let found = self.kit.factory.public_key(of);
        found.unwrap_or_else(|| panic!("{}: there must be a public key in this: {of:?}", self.clause))
    }

    /// Has a certificate issued that the CA must issue.
    async fn issued(&self, order: &CertificateOrder) -> IssuedCertificate {
        match self.decided(order).await {
            Ok(certificate) => certificate,
            Err(reason) => panic!("{}: an order that the CA must take was refused: {reason}", self.clause),
        }
    }

    /// The certificate, or why it is refused.
    async fn decided(&self, order: &CertificateOrder) -> Result<IssuedCertificate, String> {
        let mut last = None;
        for _ in 0..TRIES {
            let outcome = self.ca.issue(order).await;
            match outcome {
                IssueOutcome::Issued(certificate) => return Ok(certificate),
                IssueOutcome::Refused { reason } => return Err(reason),
                IssueOutcome::Pending => self.kit.factory.pass_time(STEP).await,
                IssueOutcome::Unavailable { .. } | IssueOutcome::Unknown { .. } => SystemClock.sleep(PAUSE).await,
            }
            last = Some(outcome);
        }
        panic!("{}: an order was not decided when it was asked for {TRIES} times: {last:?}", self.clause)
    }

    async fn find(&self, key: &str) -> Found {
        for _ in 0..TRIES {
            match self.ca.find(key).await {
                FindCertificateOutcome::Found { certificate, private_key } => {
                    return Found::Certificate(certificate, private_key);
                }
                FindCertificateOutcome::Refused { .. } => return Found::Refused,
                FindCertificateOutcome::NotFound => return Found::Nothing,
                FindCertificateOutcome::CannotLook => return Found::CannotLook,
                FindCertificateOutcome::Pending => self.kit.factory.pass_time(STEP).await,
                FindCertificateOutcome::Unavailable { .. } => SystemClock.sleep(PAUSE).await,
            }
        }
        panic!("{}: a look by key got no answer {TRIES} times in a row", self.clause)
    }

    /// `None` if the CA does not do that.
    async fn hold(&self, certificate: &IssuedCertificate) -> Option<CaOutcome> {
        supported(self.patient("hold", || self.ca.hold(certificate)).await)
    }

    /// `None` if the CA does not do that.
    async fn remove_hold(&self, certificate: &IssuedCertificate) -> Option<CaOutcome> {
        supported(self.patient("remove hold", || self.ca.remove_hold(certificate)).await)
    }

    /// Revokes what this CA must revoke. Where it did so and could not answer, it is revoked already.
    async fn revoke(&self, certificate: &IssuedCertificate) {
        let outcome = self.try_revoke(certificate).await;
        assert!(
            matches!(outcome, CaOutcome::Done | CaOutcome::AlreadyRevoked),
            "{}: a certificate must be revoked, also if it was before: {outcome:?}",
            self.clause
        );
    }

    async fn try_revoke(&self, certificate: &IssuedCertificate) -> CaOutcome {
        self.patient("revoke", || self.ca.revoke(certificate, RevocationReason::Superseded)).await
    }

    async fn patient<'a>(&self, call: &str, attempt: impl Fn() -> BoxFuture<'a, CaOutcome>) -> CaOutcome {
        for _ in 0..TRIES {
            match attempt().await {
                CaOutcome::Unavailable { .. } => SystemClock.sleep(PAUSE).await,
                outcome => return outcome,
            }
        }
        panic!("{}: {call} was unavailable {TRIES} times in a row", self.clause)
    }

    async fn status(&self, certificates: &[IssuedCertificate]) -> Vec<CaStatusOutcome> {
        for _ in 0..TRIES {
            let outcomes = self.ca.status(certificates).await;
            assert_eq!(
                outcomes.len(),
                certificates.len(),
                "{}: there must be one result for each certificate",
                self.clause
            );
            if !outcomes.iter().any(|outcome| matches!(outcome, CaStatusOutcome::Unavailable { .. })) {
                return outcomes;
            }
            SystemClock.sleep(PAUSE).await;
        }
        panic!("{}: the status was unavailable {TRIES} times in a row", self.clause)
    }

    async fn assert_state(&self, certificate: &IssuedCertificate, state: StateAtCa, when: &str) {
        let found = self.status(std::slice::from_ref(certificate)).await;
        assert_eq!(found, [CaStatusOutcome::Known(state)], "{}: {when}", self.clause);
    }
}

fn supported(outcome: CaOutcome) -> Option<CaOutcome> {
    (outcome != CaOutcome::Unsupported).then_some(outcome)
}

/// What names a certificate everywhere.
fn name(certificate: &IssuedCertificate) -> (&str, &str) {
    (&certificate.issuer, &certificate.serial)
}
