use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::dice::SplitMix64;
use super::script::Scripts;
use super::{later, lock, pass};
use crate::certificate::{IssuedCertificate, RevocationReason, StateAtCa};
use crate::host::{
    CaOutcome, CaStatusOutcome, CertificateAuthority, CertificateOrder, Clock, FindCertificateOutcome, IssueOutcome,
};
use crate::secret::Secret;

// ---- behaviour ---------------------------------------------------------------------------------------------------

/// What a [`SimulatedCa`] can do, how often it fails, and how long it takes.
///
/// Rates are so many in a thousand. Data without a field takes it from [`calm`](Self::calm), the default.
///
/// ```
/// use cardwright::adapters::simulator::CaBehaviour;
///
/// // A CA that knows no hold, offers no certificates to sign with, and is away for one call in a hundred.
/// let behaviour = CaBehaviour::calm().can_hold(false).refusing("signature").unavailable(10);
/// assert!(behaviour.refused_profiles.contains("signature"));
/// assert!(behaviour.can_look);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CaBehaviour {
    /// Whether it can put certificates on hold.
    pub can_hold: bool,
    /// Whether it can look for a certificate by our key. If not, it cannot hand out keys that it made either, and so
    /// refuses orders without a request.
    pub can_look: bool,
    /// Whether it makes keys for orders without a request, or refuses those.
    pub makes_keys: bool,
    /// The profiles for which it refuses every order.
    pub refused_profiles: BTreeSet<String>,
    /// The longest validity of a certificate; one that is to be valid for longer gets this.
    pub longest_validity: Duration,

    /// Rate of orders that are refused at once.
    pub refused: u16,
    /// Rate of orders that are not taken because something is in the way.
    pub unavailable: u16,
    /// Rate of orders that are decided later.
    pub pending: u16,
    /// Rate of orders decided later that are refused then.
    pub pending_refused: u16,
    /// Rate of orders for which a certificate is issued while the answer is lost.
    pub lost_after_issuing: u16,
    /// Rate of orders that get lost on their way, so that nobody knows.
    pub lost_before_issuing: u16,
    /// Rate of orders for which a certificate is issued at once and the answer comes [`late_by`](field@Self::late_by).
    pub late: u16,
    /// Rate of orders that get lost on their way and are never answered.
    pub silent: u16,

    /// Rate of hold, remove hold and revoke that are not done because something is in the way.
    pub change_unavailable: u16,
    /// Rate of hold, remove hold and revoke that are done while the answer is lost.
    pub change_lost: u16,
    /// Rate of looks by key and statuses that get no answer for now.
    pub read_unavailable: u16,

    /// How long an order takes that is decided later; [`Duration::MAX`]: for ever.
    pub decided_after: Duration,
    /// By how much it may take longer than that, for each order.
    pub spread: Duration,
    /// How long a late answer takes.
    pub late_by: Duration,
}

impl CaBehaviour {
    /// It can do everything, and does it at once and without any fault. The longest validity is ten years.
    pub const fn calm() -> Self {
        const HOUR: u64 = 60 * 60;
        Self {
            can_hold: true,
            can_look: true,
            makes_keys: true,
            refused_profiles: BTreeSet::new(),
            longest_validity: Duration::from_secs(10 * 365 * 24 * HOUR),
            refused: 0,
            unavailable: 0,
            pending: 0,
            pending_refused: 0,
            lost_after_issuing: 0,
            lost_before_issuing: 0,
            late: 0,
            silent: 0,
            change_unavailable: 0,
            change_lost: 0,
            read_unavailable: 0,
            decided_after: Duration::from_secs(2 * HOUR),
            spread: Duration::ZERO,
            late_by: Duration::from_secs(10 * 60),
        }
    }

    /// It can do everything, with a few of all faults.
    pub const fn faulty() -> Self {
        Self::calm()
            .refused(5)
            .unavailable(20)
            .pending(20)
            .pending_refused(100)
            .lost_after_issuing(5)
            .lost_before_issuing(5)
            .late(2)
            .silent(1)
            .change_unavailable(20)
            .change_lost(10)
            .read_unavailable(10)
            .spread(Duration::from_secs(12 * 60 * 60))
    }

    /// The same that also refuses every order for this profile.
    #[must_use]
    pub fn refusing(mut self, profile: impl Into<String>) -> Self {
        self.refused_profiles.insert(profile.into());
        self
    }

    setters! {
        can_hold: bool,
        can_look: bool,
        makes_keys: bool,
        longest_validity: Duration,
        refused: u16,
        unavailable: u16,
        pending: u16,
        pending_refused: u16,
        lost_after_issuing: u16,
        lost_before_issuing: u16,
        late: u16,
        silent: u16,
        change_unavailable: u16,
        change_lost: u16,
        read_unavailable: u16,
        decided_after: Duration,
        spread: Duration,
        late_by: Duration,
    }

    fn draw_issue(&self, dice: &mut SplitMix64) -> IssueScript {
        let reason = dice.one_of(&REFUSALS).to_owned();
        let mut strikes = dice.strikes();
        if strikes(self.refused) {
            IssueScript::Refuse(reason)
        } else if strikes(self.unavailable) {
            IssueScript::Unavailable
        } else if strikes(self.pending) {
            let after = self.decided_after.saturating_add(dice.up_to(self.spread));
            if dice.strikes()(self.pending_refused) {
                IssueScript::RefuseAfter(after, reason)
            } else {
                IssueScript::IssueAfter(after)
            }
        } else if strikes(self.lost_after_issuing) {
            IssueScript::LoseReplyAfterIssuing
        } else if strikes(self.lost_before_issuing) {
            IssueScript::LoseReplyBeforeIssuing
        } else if strikes(self.late) {
            IssueScript::Late(self.late_by)
        } else if strikes(self.silent) {
            IssueScript::Silent
        } else {
            IssueScript::Issue
        }
    }

    fn draw_change(&self, dice: &mut SplitMix64) -> ChangeScript {
        let mut strikes = dice.strikes();
        if strikes(self.change_unavailable) {
            ChangeScript::Unavailable
        } else if strikes(self.change_lost) {
            ChangeScript::LoseReplyAfterDoing
        } else {
            ChangeScript::Do
        }
    }
}

impl Default for CaBehaviour {
    fn default() -> Self {
        Self::calm()
    }
}

/// What happens to one order for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IssueScript {
    /// Issued.
    Issue,
    /// Refused with this reason.
    Refuse(String),
    /// Not taken; something is in the way.
    Unavailable,
    /// Taken, and issued after this time; never for [`Duration::MAX`].
    IssueAfter(Duration),
    /// Taken, and refused after this time with this reason.
    RefuseAfter(Duration, String),
    /// Issued, and the answer is lost: the outcome is unknown.
    LoseReplyAfterIssuing,
    /// Lost on the way, so that nothing is issued: the outcome is unknown.
    LoseReplyBeforeIssuing,
    /// Issued at once; the answer comes after this time, or never for [`Duration::MAX`].
    Late(Duration),
    /// Nothing is issued, and the call is never answered.
    Silent,
}

/// What happens to one hold, removal of a hold, or revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeScript {
    /// Done.
    Do,
    /// Not done, with this reason: a final no.
    Refuse(String),
    /// Not done; something is in the way.
    Unavailable,
    /// Done, and the answer is lost: it is asked again.
    LoseReplyAfterDoing,
    /// Done at once; the answer comes after this time, or never for [`Duration::MAX`].
    Late(Duration),
    /// Not done, and the call is never answered.
    Silent,
}

/// What happens to one look by key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FindScript {
    /// Answered with what there is.
    Look,
    /// This once the CA has no way to look.
    CannotLook,
    /// Something is in the way.
    Unavailable,
    /// The answer, as it is when the call arrives, comes after this time, or never for [`Duration::MAX`].
    Late(Duration),
}

// ---- the authority -----------------------------------------------------------------------------------------------

/// A certificate authority that exists in memory and on the time of the clock it is given. Clones share one authority.
///
/// What it issues are **not certificates**: they are texts that look a little like PEM, made quickly and without
/// cryptography. They name a "public key", which is a digest of the request, or of the text that stands for the private key
/// where the CA made that; [`public_key_in`](Self::public_key_in) and [`public_key_for`](Self::public_key_for) tell whether
/// the two belong together.
///
/// By default it is [calm](CaBehaviour::calm). An order's fate depends on the seed, its key, and how often that key was asked
/// for before; not on what other orders came.
///
/// It holds to the contract of [`CertificateAuthority`] in all that it does. For a key under which it has issued
/// something, an order is therefore never refused, and where something is in the way the outcome is unknown instead of
/// unavailable. An order that it has refused stays refused.
///
/// ```
/// use std::sync::Arc;
///
/// use cardwright::StateAtCa;
/// use cardwright::adapters::simulator::{IssueScript, SimulatedCa, SimulatedClock};
/// use cardwright::host::{CaOutcome, CertificateAuthority, CertificateOrder, FindCertificateOutcome, IssueOutcome};
/// use futures::FutureExt as _;
///
/// let clock = SimulatedClock::new("2030-01-07T08:00:00Z".parse()?);
/// let ca = SimulatedCa::new(1, Arc::new(clock));
/// let order = CertificateOrder::new("key 1", "signature", "Ann", "2031-01-07T08:00:00Z".parse()?);
///
/// // The certificate is issued, its answer gets lost, and it is found.
/// ca.next_issue(IssueScript::LoseReplyAfterIssuing);
/// assert!(matches!(ca.issue(&order).now_or_never(), Some(IssueOutcome::Unknown { .. })));
/// let Some(FindCertificateOutcome::Found { certificate, private_key: Some(private_key) }) =
///     ca.find("key 1").now_or_never()
/// else {
///     panic!("what was issued is found")
/// };
/// assert_eq!(
///     SimulatedCa::public_key_in(&certificate),
///     Some(SimulatedCa::public_key_for(private_key.expose()).as_str())
/// );
///
/// assert_eq!(ca.hold(&certificate).now_or_never(), Some(CaOutcome::Done));
/// let books = ca.ledger();
/// assert_eq!((books.len(), books[0].state, books[0].calls.issue), (1, StateAtCa::OnHold, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct SimulatedCa {
    seed: u64,
    clock: Arc<dyn Clock>,
    books: Arc<Mutex<Books>>,
}

#[derive(Default)]
struct Books {
    behaviour: CaBehaviour,
    certificates: Vec<Entry>,
    by_serial: BTreeMap<String, usize>,
    orders: BTreeMap<String, Standing>,
    calls: CaCalls,
    calls_by_key: BTreeMap<String, CaCalls>,
    issue: Scripts<CertificateOrder, IssueScript>,
    hold: Scripts<IssuedCertificate, ChangeScript>,
    remove_hold: Scripts<IssuedCertificate, ChangeScript>,
    revoke: Scripts<IssuedCertificate, ChangeScript>,
    find: Scripts<str, FindScript>,
    outage_until: Option<DateTime<Utc>>,
}

impl SimulatedCa {
    /// An authority without certificates.
    pub fn new(seed: u64, clock: Arc<dyn Clock>) -> Self {
        Self { seed, clock, books: Arc::default() }
    }

    /// The same authority with this behaviour, for all its clones.
    #[must_use]
    pub fn behaving(self, behaviour: CaBehaviour) -> Self {
        self.behave(behaviour);
        self
    }

    /// Behaves so from now on. What was taken before keeps its course.
    pub fn behave(&self, behaviour: CaBehaviour) {
        self.lock().behaviour = behaviour;
    }

    /// How it behaves.
    pub fn behaviour(&self) -> CaBehaviour {
        self.lock().behaviour.clone()
    }

    /// Decides the fate of the next order; called again, of the one after it. Not used up during an outage.
    pub fn next_issue(&self, script: IssueScript) {
        self.lock().issue.next(script);
    }

    /// Decides the fate of the next order that matches. Goes before [`next_issue`](Self::next_issue). The closure must not
    /// call the authority.
    pub fn next_issue_where(&self, matches: impl Fn(&CertificateOrder) -> bool + Send + 'static, script: IssueScript) {
        self.lock().issue.next_where(matches, script);
    }

    /// Decides the fate of every order that matches and for which nothing else was scripted. The closure must not call the
    /// authority.
    pub fn every_issue_where(&self, matches: impl Fn(&CertificateOrder) -> bool + Send + 'static, script: IssueScript) {
        self.lock().issue.every_where(matches, script);
    }

    /// Decides what becomes of the next hold; called again, of the one after it. Not used up during an outage, nor by an
    /// authority that cannot hold.
    pub fn next_hold(&self, script: ChangeScript) {
        self.lock().hold.next(script);
    }

    /// Decides what becomes of the next removal of a hold; called again, of the one after it. Not used up during an outage,
    /// nor by an authority that cannot hold.
    pub fn next_remove_hold(&self, script: ChangeScript) {
        self.lock().remove_hold.next(script);
    }

    /// Decides what becomes of the next revocation; called again, of the one after it. Not used up during an outage.
    pub fn next_revoke(&self, script: ChangeScript) {
        self.lock().revoke.next(script);
    }

    /// Decides what becomes of the next look by key; called again, of the one after it. Not used up during an outage, nor by
    /// an authority that cannot look.
    pub fn next_find(&self, script: FindScript) {
        self.lock().find.next(script);
    }

    /// Is out of reach until then: nothing is taken, changed or found.
    pub fn outage(&self, until: DateTime<Utc>) {
        self.lock().outage_until = Some(until);
    }

    /// Puts a certificate into this state by itself, as a person at the CA may do. `false` if there is no such certificate, or
    /// if its state cannot change in this way: it is revoked or expired, or is to expire, which only time can do.
    pub fn set_state(&self, serial: &str, state: StateAtCa) -> bool {
        let now = self.clock.now();
        let mut books = self.lock();
        books.settle_all(self.seed, now);
        let index = books.by_serial.get(serial).copied();
        let Some(entry) = index.and_then(|index| books.certificates.get_mut(index)) else { return false };
        if !matches!(entry.state(now), StateAtCa::Valid | StateAtCa::OnHold) {
            return false;
        }
        match state {
            StateAtCa::Valid => entry.held = false,
            StateAtCa::OnHold => entry.held = true,
            StateAtCa::Revoked => entry.reason = Some(RevocationReason::Unspecified),
            StateAtCa::Expired => return false,
        }
        true
    }

    /// Every certificate that it ever issued, in that order, with the state of now.
    pub fn ledger(&self) -> Vec<CaLedgerEntry> {
        let now = self.clock.now();
        let mut books = self.lock();
        books.settle_all(self.seed, now);
        books.certificates.iter().map(|entry| entry.shown(now, books.calls_for(&entry.key))).collect()
    }

    /// The keys of the orders that are not decided yet.
    pub fn pending(&self) -> Vec<String> {
        let now = self.clock.now();
        let mut books = self.lock();
        books.settle_all(self.seed, now);
        let pending = books.orders.iter().filter(|(_, standing)| matches!(standing, Standing::Pending { .. }));
        pending.map(|(key, _)| key.clone()).collect()
    }

    /// The keys of the orders that were refused.
    pub fn refused(&self) -> Vec<String> {
        let now = self.clock.now();
        let mut books = self.lock();
        books.settle_all(self.seed, now);
        let refused = books.orders.iter().filter(|(_, standing)| matches!(standing, Standing::Refused { .. }));
        refused.map(|(key, _)| key.clone()).collect()
    }

    /// How often it was called.
    pub fn calls(&self) -> CaCalls {
        self.lock().calls
    }

    /// How often it was called for one key, whether or not there is a certificate.
    pub fn calls_for(&self, key: &str) -> CaCalls {
        self.lock().calls_for(key)
    }

    /// What stands for the public key in one of its certificates. `None` if that is not one of these.
    pub fn public_key_in(certificate: &IssuedCertificate) -> Option<&str> {
        certificate.pem.lines().find_map(|line| line.strip_prefix(PUBLIC_KEY))
    }

    /// What stands for the public key in a certificate for this request or this private key.
    pub fn public_key_for(request_or_private_key: &[u8]) -> String {
        hexadecimal(&Sha256::digest(request_or_private_key))
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }

    async fn change(&self, change: Change, certificate: &IssuedCertificate) -> CaOutcome {
        let now = self.clock.now();
        let (answer, wait) = self.lock().change(self.seed, change, certificate, now);
        pass(&*self.clock, wait).await;
        answer
    }
}

impl fmt::Debug for SimulatedCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let books = self.lock();
        f.debug_struct("SimulatedCa")
            .field("seed", &self.seed)
            .field("behaviour", &books.behaviour)
            .field("certificates", &books.certificates.len())
            .field("outage_until", &books.outage_until)
            .field("calls", &books.calls)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl CertificateAuthority for SimulatedCa {
    async fn issue(&self, order: &CertificateOrder) -> IssueOutcome {
        let now = self.clock.now();
        let (answer, wait) = self.lock().issue(self.seed, order, now);
        pass(&*self.clock, wait).await;
        answer
    }

    async fn find(&self, key: &str) -> FindCertificateOutcome {
        let now = self.clock.now();
        let (answer, wait) = self.lock().find(self.seed, key, now);
        pass(&*self.clock, wait).await;
        answer
    }

    async fn hold(&self, certificate: &IssuedCertificate) -> CaOutcome {
        self.change(Change::Hold, certificate).await
    }

    async fn remove_hold(&self, certificate: &IssuedCertificate) -> CaOutcome {
        self.change(Change::RemoveHold, certificate).await
    }

    async fn revoke(&self, certificate: &IssuedCertificate, reason: RevocationReason) -> CaOutcome {
        self.change(Change::Revoke(reason), certificate).await
    }

    async fn status(&self, certificates: &[IssuedCertificate]) -> Vec<CaStatusOutcome> {
        let now = self.clock.now();
        let mut books = self.lock();
        books.calls.status += 1;
        certificates.iter().map(|certificate| books.status(self.seed, certificate, now)).collect()
    }
}

/// How often a [`SimulatedCa`] was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CaCalls {
    /// Orders for a certificate.
    pub issue: u64,
    /// Looks by key.
    pub find: u64,
    /// Holds.
    pub hold: u64,
    /// Removals of a hold.
    pub remove_hold: u64,
    /// Revocations.
    pub revoke: u64,
    /// Reads of the status; one call for many certificates counts once for the CA, and once for each of them.
    pub status: u64,
}

/// One certificate that a [`SimulatedCa`] issued.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CaLedgerEntry {
    /// Our key.
    pub key: String,
    /// The profile.
    pub profile: String,
    /// The holder's common name.
    pub common_name: String,
    /// The holder's user principal name.
    pub upn: Option<String>,
    /// The holder's e-mail address.
    pub email: Option<String>,
    /// What it issued.
    pub certificate: IssuedCertificate,
    /// Whether the CA made the key.
    pub made_key: bool,
    /// When it was issued.
    pub at: DateTime<Utc>,
    /// The state when the ledger was read.
    pub state: StateAtCa,
    /// Why it was revoked.
    pub reason: Option<RevocationReason>,
    /// How often each call was made for it.
    pub calls: CaCalls,
}

impl fmt::Debug for CaLedgerEntry {
    /// Without the holder's personal values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaLedgerEntry")
            .field("key", &self.key)
            .field("profile", &self.profile)
            .field("serial", &self.certificate.serial)
            .field("made_key", &self.made_key)
            .field("at", &self.at)
            .field("state", &self.state)
            .field("reason", &self.reason)
            .field("calls", &self.calls)
            .finish_non_exhaustive()
    }
}

// ---- the books ---------------------------------------------------------------------------------------------------

const REFUSALS: [&str; 3] = ["the subject is not allowed", "the quota is used up", "the profile is closed"];
const OUT_OF_REACH: &str = "the CA is out of reach";
const LOST: &str = "the answer was lost";
const PUBLIC_KEY: &str = "public-key: ";

/// How an order stands.
enum Standing {
    /// It is decided then.
    Pending { until: DateTime<Utc>, order: Box<CertificateOrder>, refused: Option<String> },
    /// For good.
    Refused { reason: String },
    /// The place of its certificate.
    Issued(usize),
}

/// An issued certificate.
struct Entry {
    key: String,
    profile: String,
    common_name: String,
    upn: Option<String>,
    email: Option<String>,
    certificate: IssuedCertificate,
    made_key: bool,
    at: DateTime<Utc>,
    held: bool,
    reason: Option<RevocationReason>,
}

#[derive(Clone, Copy)]
enum Change {
    Hold,
    RemoveHold,
    Revoke(RevocationReason),
}

impl Books {
    fn issue(&mut self, seed: u64, order: &CertificateOrder, now: DateTime<Utc>) -> (IssueOutcome, Duration) {
        use IssueScript as Script;

        self.calls.issue += 1;
        let calls = self.calls_by_key.entry(order.key.clone()).or_default();
        calls.issue += 1;
        let tries = calls.issue;
        self.settle(seed, &order.key, now);
        let script = if self.is_out(now) { Script::Unavailable } else { self.script(seed, order, tries) };
        let known = matches!(self.orders.get(&order.key), Some(Standing::Pending { .. } | Standing::Issued(_)));
        let lost = || IssueOutcome::Unknown { reason: LOST.to_owned() };
        match script {
            // It would say that there is surely nothing.
            Script::Unavailable if known => (lost(), Duration::ZERO),
            Script::Unavailable => (IssueOutcome::Unavailable { reason: OUT_OF_REACH.to_owned() }, Duration::ZERO),
            Script::LoseReplyBeforeIssuing => (lost(), Duration::ZERO),
            Script::Silent => (lost(), Duration::MAX),
            Script::Refuse(reason) => (self.decide(seed, order, now, now, Some(reason)), Duration::ZERO),
            Script::Issue => (self.decide(seed, order, now, now, None), Duration::ZERO),
            Script::IssueAfter(after) => (self.decide(seed, order, now, later(now, after), None), Duration::ZERO),
            Script::RefuseAfter(after, reason) => {
                (self.decide(seed, order, now, later(now, after), Some(reason)), Duration::ZERO)
            }
            Script::LoseReplyAfterIssuing => {
                self.decide(seed, order, now, now, None);
                (lost(), Duration::ZERO)
            }
            Script::Late(by) => (self.decide(seed, order, now, now, None), by),
        }
    }

    /// What happens to an order: as scripted, else as its profile or keys want it, else as drawn.
    fn script(&mut self, seed: u64, order: &CertificateOrder, tries: u64) -> IssueScript {
        let behaviour = &self.behaviour;
        let drawn = behaviour.draw_issue(&mut SplitMix64::of(seed, "issue", &order.key, tries));
        let scripted = self.issue.take(order);
        if let Some(reason) = behaviour.objection(order) {
            // What cannot be issued can still get lost, but never be issued.
            return match scripted.unwrap_or(drawn) {
                script @ (IssueScript::Unavailable
                | IssueScript::LoseReplyBeforeIssuing
                | IssueScript::Silent
                | IssueScript::Refuse(_)
                | IssueScript::RefuseAfter(..)) => script,
                IssueScript::IssueAfter(after) => IssueScript::RefuseAfter(after, reason),
                _ => IssueScript::Refuse(reason),
            };
        }
        scripted.unwrap_or(drawn)
    }

    /// Enters an order if there is none under its key, and says how the one that there is stands.
    fn decide(
        &mut self,
        seed: u64,
        order: &CertificateOrder,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
        refused: Option<String>,
    ) -> IssueOutcome {
        if !self.orders.contains_key(&order.key) {
            let pending = Standing::Pending { until, order: Box::new(order.clone()), refused };
            self.orders.insert(order.key.clone(), pending);
            self.settle(seed, &order.key, now);
        }
        match self.orders.get(&order.key) {
            Some(Standing::Issued(index)) => match self.certificates.get(*index) {
                Some(entry) => IssueOutcome::Issued(entry.certificate.clone()),
                None => IssueOutcome::Unknown { reason: LOST.to_owned() },
            },
            Some(Standing::Refused { reason }) => IssueOutcome::Refused { reason: reason.clone() },
            Some(Standing::Pending { .. }) | None => IssueOutcome::Pending,
        }
    }

    /// Decides the order under this key if it is time.
    fn settle(&mut self, seed: u64, key: &str, now: DateTime<Utc>) {
        match self.orders.get(key) {
            Some(Standing::Pending { until, .. }) if *until <= now => {}
            _ => return,
        }
        let Some(Standing::Pending { until, order, refused }) = self.orders.remove(key) else { return };
        let standing = match refused {
            Some(reason) => Standing::Refused { reason },
            None => {
                let entry = self.make(seed, *order, until);
                self.by_serial.insert(entry.certificate.serial.clone(), self.certificates.len());
                self.certificates.push(entry);
                Standing::Issued(self.certificates.len() - 1)
            }
        };
        self.orders.insert(key.to_owned(), standing);
    }

    /// Decides what is due, in the order in which it was due.
    fn settle_all(&mut self, seed: u64, now: DateTime<Utc>) {
        let due = |(key, standing): (&String, &Standing)| match standing {
            Standing::Pending { until, .. } if *until <= now => Some((*until, key.clone())),
            _ => None,
        };
        let mut keys: Vec<(DateTime<Utc>, String)> = self.orders.iter().filter_map(due).collect();
        keys.sort();
        for (_, key) in keys {
            self.settle(seed, &key, now);
        }
    }

    fn make(&self, seed: u64, order: CertificateOrder, at: DateTime<Utc>) -> Entry {
        let public_key = match &order.request {
            Some(request) => SimulatedCa::public_key_for(request.as_bytes()),
            None => SimulatedCa::public_key_for(private_key(seed, &order.key).as_bytes()),
        };
        let serial = self.serial(seed, &order.key);
        let valid_until = order.valid_until.min(later(at, self.behaviour.longest_validity));
        let pem = format!(
            "-----BEGIN SIMULATED CERTIFICATE-----\n\
             This is not a certificate. A simulated CA made it, for trials and tests.\n\
             serial: {serial}\n\
             profile: {}\n\
             valid-until: {}\n\
             {PUBLIC_KEY}{public_key}\n\
             -----END SIMULATED CERTIFICATE-----\n",
            order.profile.escape_debug(),
            valid_until.to_rfc3339_opts(SecondsFormat::Secs, true),
        );
        Entry {
            certificate: IssuedCertificate { issuer: format!("CN=Simulated CA {seed}"), serial, valid_until, pem },
            made_key: order.request.is_none(),
            key: order.key,
            profile: order.profile,
            common_name: order.common_name,
            upn: order.upn,
            email: order.email,
            at,
            held: false,
            reason: None,
        }
    }

    /// A serial number that is not taken.
    fn serial(&self, seed: u64, key: &str) -> String {
        let mut dice = SplitMix64::of(seed, "serial", key, 0);
        loop {
            // Positive, as serial numbers are.
            let serial = format!("{:016X}{:016X}", dice.next() >> 1, dice.next());
            if !self.by_serial.contains_key(&serial) {
                return serial;
            }
        }
    }

    fn find(&mut self, seed: u64, key: &str, now: DateTime<Utc>) -> (FindCertificateOutcome, Duration) {
        self.calls.find += 1;
        let calls = self.calls_by_key.entry(key.to_owned()).or_default();
        calls.find += 1;
        let tries = calls.find;
        let away = || (FindCertificateOutcome::Unavailable { reason: OUT_OF_REACH.to_owned() }, Duration::ZERO);
        if !self.behaviour.can_look {
            return (FindCertificateOutcome::CannotLook, Duration::ZERO);
        }
        if self.is_out(now) {
            return away();
        }
        self.settle(seed, key, now);
        let strikes = SplitMix64::of(seed, "find", key, tries).strikes()(self.behaviour.read_unavailable);
        match self.find.take(key) {
            Some(FindScript::Unavailable) => away(),
            None if strikes => away(),
            Some(FindScript::CannotLook) => (FindCertificateOutcome::CannotLook, Duration::ZERO),
            Some(FindScript::Late(by)) => (self.found(seed, key), by),
            Some(FindScript::Look) | None => (self.found(seed, key), Duration::ZERO),
        }
    }

    fn found(&self, seed: u64, key: &str) -> FindCertificateOutcome {
        match self.orders.get(key) {
            None => FindCertificateOutcome::NotFound,
            Some(Standing::Pending { .. }) => FindCertificateOutcome::Pending,
            Some(Standing::Refused { reason }) => FindCertificateOutcome::Refused { reason: reason.clone() },
            Some(Standing::Issued(index)) => match self.certificates.get(*index) {
                None => FindCertificateOutcome::NotFound,
                Some(entry) => FindCertificateOutcome::Found {
                    certificate: entry.certificate.clone(),
                    // It is made anew each time, so that none is kept. A revoked certificate needs none.
                    private_key: (entry.made_key && entry.reason.is_none())
                        .then(|| Secret::new(private_key(seed, key).into_bytes())),
                },
            },
        }
    }

    fn change(
        &mut self,
        seed: u64,
        change: Change,
        certificate: &IssuedCertificate,
        now: DateTime<Utc>,
    ) -> (CaOutcome, Duration) {
        let place = self.place(seed, certificate, now);
        let tries = self.count(place, |calls| match change {
            Change::Hold => &mut calls.hold,
            Change::RemoveHold => &mut calls.remove_hold,
            Change::Revoke(_) => &mut calls.revoke,
        });
        let away = || CaOutcome::Unavailable { reason: OUT_OF_REACH.to_owned() };
        if !self.behaviour.can_hold && !matches!(change, Change::Revoke(_)) {
            return (CaOutcome::Unsupported, Duration::ZERO);
        }
        if self.is_out(now) {
            return (away(), Duration::ZERO);
        }
        let (question, scripts) = match change {
            Change::Hold => ("hold", &mut self.hold),
            Change::RemoveHold => ("remove hold", &mut self.remove_hold),
            Change::Revoke(_) => ("revoke", &mut self.revoke),
        };
        let mut dice = SplitMix64::of(seed, question, &certificate.serial, tries);
        // What is not known has no count of its own to draw by.
        let drawn = if place.is_some() { self.behaviour.draw_change(&mut dice) } else { ChangeScript::Do };
        match scripts.take(certificate).unwrap_or(drawn) {
            ChangeScript::Do => (self.apply(change, place, now), Duration::ZERO),
            ChangeScript::Refuse(reason) => (CaOutcome::Refused { reason }, Duration::ZERO),
            ChangeScript::Unavailable => (away(), Duration::ZERO),
            ChangeScript::LoseReplyAfterDoing => {
                self.apply(change, place, now);
                (CaOutcome::Unavailable { reason: LOST.to_owned() }, Duration::ZERO)
            }
            ChangeScript::Late(by) => (self.apply(change, place, now), by),
            ChangeScript::Silent => (away(), Duration::MAX),
        }
    }

    fn apply(&mut self, change: Change, place: Option<usize>, now: DateTime<Utc>) -> CaOutcome {
        let Some(entry) = place.and_then(|place| self.certificates.get_mut(place)) else {
            return CaOutcome::Refused { reason: "there is no such certificate".to_owned() };
        };
        match entry.state(now) {
            StateAtCa::Revoked => return CaOutcome::AlreadyRevoked,
            StateAtCa::Expired => return CaOutcome::AlreadyExpired,
            StateAtCa::Valid | StateAtCa::OnHold => {}
        }
        match change {
            Change::Hold => entry.held = true,
            Change::RemoveHold => entry.held = false,
            Change::Revoke(reason) => entry.reason = Some(reason),
        }
        CaOutcome::Done
    }

    fn status(&mut self, seed: u64, certificate: &IssuedCertificate, now: DateTime<Utc>) -> CaStatusOutcome {
        let place = self.place(seed, certificate, now);
        let key = place.and_then(|place| self.certificates.get(place)).map(|entry| &entry.key);
        let reads = key.map_or(0, |key| {
            let calls = self.calls_by_key.entry(key.clone()).or_default();
            calls.status += 1;
            calls.status
        });
        let mut dice = SplitMix64::of(seed, "status", &certificate.serial, reads);
        let strikes = place.is_some() && dice.strikes()(self.behaviour.read_unavailable);
        if self.is_out(now) || strikes {
            return CaStatusOutcome::Unavailable { reason: OUT_OF_REACH.to_owned() };
        }
        match place.and_then(|place| self.certificates.get(place)) {
            Some(entry) => CaStatusOutcome::Known(entry.state(now)),
            None => CaStatusOutcome::NotFound,
        }
    }

    /// Where a certificate is, if it is one of these.
    fn place(&mut self, seed: u64, certificate: &IssuedCertificate, now: DateTime<Utc>) -> Option<usize> {
        if !self.by_serial.contains_key(&certificate.serial) {
            self.settle_all(seed, now);
        }
        let place = self.by_serial.get(&certificate.serial).copied()?;
        self.certificates.get(place).filter(|entry| entry.certificate.issuer == certificate.issuer).map(|_| place)
    }

    /// Counts a call, for all and for the certificate; gives the latter count.
    fn count(&mut self, place: Option<usize>, counter: impl Fn(&mut CaCalls) -> &mut u64) -> u64 {
        *counter(&mut self.calls) += 1;
        let Some(entry) = place.and_then(|place| self.certificates.get(place)) else { return 0 };
        let count = counter(self.calls_by_key.entry(entry.key.clone()).or_default());
        *count += 1;
        *count
    }

    fn calls_for(&self, key: &str) -> CaCalls {
        self.calls_by_key.get(key).copied().unwrap_or_default()
    }

    fn is_out(&self, now: DateTime<Utc>) -> bool {
        self.outage_until.is_some_and(|until| now < until)
    }
}

impl CaBehaviour {
    /// Why an order cannot be fulfilled.
    fn objection(&self, order: &CertificateOrder) -> Option<String> {
        if self.refused_profiles.contains(&order.profile) {
            return Some(format!("there is no profile {:?}", order.profile));
        }
        let reason = match &order.request {
            Some(request) if !request.starts_with("-----BEGIN ") => "the request is malformed",
            None if !self.makes_keys => "keys are not made here: a request is needed",
            None if !self.can_look => "keys that are made here could not be handed out: a request is needed",
            _ => return None,
        };
        Some(reason.to_owned())
    }
}

impl Entry {
    fn state(&self, now: DateTime<Utc>) -> StateAtCa {
        if self.reason.is_some() {
            StateAtCa::Revoked
        } else if self.certificate.valid_until <= now {
            StateAtCa::Expired
        } else if self.held {
            StateAtCa::OnHold
        } else {
            StateAtCa::Valid
        }
    }

    fn shown(&self, now: DateTime<Utc>, calls: CaCalls) -> CaLedgerEntry {
        CaLedgerEntry {
            key: self.key.clone(),
            profile: self.profile.clone(),
            common_name: self.common_name.clone(),
            upn: self.upn.clone(),
            email: self.email.clone(),
            certificate: self.certificate.clone(),
            made_key: self.made_key,
            at: self.at,
            state: self.state(now),
            reason: self.reason,
            calls,
        }
    }
}

/// The text that stands for a private key, always the same for one key of ours. No key of any kind.
fn private_key(seed: u64, key: &str) -> String {
    let mut dice = SplitMix64::of(seed, "private key", key, 0);
    let (first, second) = (dice.next(), dice.next());
    format!("-----BEGIN SIMULATED PRIVATE KEY-----\n{first:016x}{second:016x}\n-----END SIMULATED PRIVATE KEY-----\n")
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
