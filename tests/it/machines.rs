//! Machines and CAs of a test's choice: they do what the simulated ones do, a test changes what they give, and acts while
//! they are at work.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use cardwright::adapters::memory::MemoryRepository;
use cardwright::adapters::simulator::{SimulatedCa, SimulatedClock, SimulatedPersonalizer};
use cardwright::host::{
    AllowAll, CaOutcome, CaStatusOutcome, CardPersonalizer, CardRepository, CertificateAuthority, CertificateOrder,
    DiscardOutcome, FindCertificateOutcome, FinishOrder, FinishOutcome, IssueOutcome, PrepareOrder, PrepareOutcome,
    Prepared,
};
use cardwright::{Engine, EngineBuilder, EngineSettings, IssuedCertificate, JobKind, RevocationReason, Secret};

use crate::office::{Office, rules};
use crate::watched::{Watched, second, store};

/// What a test does at a certain moment.
pub(crate) type Act = Box<dyn FnOnce() + Send>;

/// How a test changes what a machine or a CA gives.
type Change<T> = Box<dyn FnMut(&mut T) + Send>;

/// Does it on a thread of its own, so that it may run an engine.
fn act(act: Option<Act>) {
    if let Some(act) = act {
        std::thread::spawn(act).join().expect("what the test does works");
    }
}

/// An office with such a machine and such a CA, on a store that is looked at.
pub(crate) struct Workshop {
    pub(crate) office: Office,
    pub(crate) machine: Machine,
    pub(crate) ca: OddCa,
    pub(crate) watched: Arc<Watched>,
    pub(crate) store: MemoryRepository,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        Self::with(EngineSettings::new().chunk(4))
    }

    pub(crate) fn with(settings: EngineSettings) -> Self {
        let (store, clock) = store();
        let (machine, ca, watched) = (Machine::new(&clock), OddCa::new(&clock), Watched::new(store.clone()));
        let office = Office::on(Arc::clone(&watched), clock, |builder| {
            builder.personalizer(machine.clone()).certificate_authority(ca.clone()).settings(settings)
        });
        let office = Office { personalizer: machine.inner.clone(), ca: ca.inner.clone(), ..office };
        Self { office, machine, ca, watched, store }
    }

    /// Another engine on the same store, with the same machine and CA.
    pub(crate) fn second(&self) -> Office {
        let parts =
            |builder: EngineBuilder| builder.personalizer(self.machine.clone()).certificate_authority(self.ca.clone());
        second(&self.office, self.store.clone(), parts)
    }
}

/// Another engine on the same store, with nothing to make or order cards with but what the closure adds.
pub(crate) fn bare(
    office: &Office,
    store: impl CardRepository,
    add: impl FnOnce(EngineBuilder) -> EngineBuilder,
) -> Office {
    let builder = Engine::builder()
        .repository(store)
        .users(office.users.clone())
        .notifier(office.mail.clone())
        .access(AllowAll)
        .clock(office.clock.clone())
        .rules(rules())
        .worker("bare");
    Office {
        engine: add(builder).build().expect("no more is needed"),
        clock: office.clock.clone(),
        bureau: office.bureau.clone(),
        ca: office.ca.clone(),
        personalizer: office.personalizer.clone(),
        users: office.users.clone(),
        mail: office.mail.clone(),
        runs: office.runs.clone(),
    }
}

/// A machine that makes cards; a test changes what it gives, and acts before it answers.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) inner: SimulatedPersonalizer,
    wishes: Arc<Mutex<MachineWishes>>,
}

#[derive(Default)]
struct MachineWishes {
    before_answer: Option<(JobKind, Act)>,
    prepared: VecDeque<Change<Prepared>>,
}

impl Machine {
    pub(crate) fn new(clock: &SimulatedClock) -> Self {
        Self { inner: SimulatedPersonalizer::new(3, Arc::new(clock.clone())), wishes: Arc::default() }
    }

    /// Does this once it has prepared or finished the next card, before its answer arrives.
    pub(crate) fn before_answer(&self, at: JobKind, act: impl FnOnce() + Send + 'static) {
        self.wishes().before_answer = Some((at, Box::new(act)));
    }

    /// Changes what it says of the next card that it prepares; called again, of the one after it.
    pub(crate) fn next_prepared(&self, change: impl FnMut(&mut Prepared) + Send + 'static) {
        self.wishes().prepared.push_back(Box::new(change));
    }

    fn act(&self, at: JobKind) {
        let wish = self.wishes().before_answer.take_if(|(kind, _)| *kind == at);
        act(wish.map(|(_, act)| act));
    }

    fn wishes(&self) -> MutexGuard<'_, MachineWishes> {
        self.wishes.lock().expect("not poisoned")
    }
}

#[async_trait]
impl CardPersonalizer for Machine {
    async fn prepare(&self, order: &PrepareOrder<'_>) -> PrepareOutcome {
        let mut outcome = self.inner.prepare(order).await;
        if let PrepareOutcome::Prepared(prepared) = &mut outcome
            && let Some(mut change) = self.wishes().prepared.pop_front()
        {
            change(prepared);
        }
        self.act(JobKind::PrepareCard);
        outcome
    }

    async fn finish(&self, order: FinishOrder<'_>) -> FinishOutcome {
        let outcome = self.inner.finish(order).await;
        self.act(JobKind::FinishCard);
        outcome
    }

    async fn discard(&self, handle: &str) -> DiscardOutcome {
        self.inner.discard(handle).await
    }
}

/// A machine that begins what it is asked and never says how it went. Only the first card that is to be prepared hangs.
#[derive(Clone, Default)]
pub(crate) struct Hanging(Arc<Mutex<(u32, u32)>>);

impl Hanging {
    /// How often it was asked to prepare and to finish a card.
    pub(crate) fn calls(&self) -> (u32, u32) {
        *self.0.lock().expect("not poisoned")
    }

    /// A machine that prepares cards, and hangs when it finishes one.
    pub(crate) fn when_it_finishes() -> Self {
        Self(Arc::new(Mutex::new((1, 0))))
    }
}

#[async_trait]
impl CardPersonalizer for Hanging {
    async fn prepare(&self, order: &PrepareOrder<'_>) -> PrepareOutcome {
        let calls = {
            let mut calls = self.0.lock().expect("not poisoned");
            calls.0 += 1;
            calls.0
        };
        if calls == 1 { std::future::pending().await } else { PrepareOutcome::Prepared(Prepared::new(order.reference)) }
    }

    async fn finish(&self, _: FinishOrder<'_>) -> FinishOutcome {
        self.0.lock().expect("not poisoned").1 += 1;
        std::future::pending().await
    }

    async fn discard(&self, _: &str) -> DiscardOutcome {
        DiscardOutcome::Done
    }
}

/// A call to a CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CaCall {
    Issue,
    Find,
    RemoveHold,
    Status,
}

/// A CA that does what the simulated one does; a test changes what it gives, and acts before it answers.
#[derive(Clone)]
pub(crate) struct OddCa {
    pub(crate) inner: SimulatedCa,
    wishes: Arc<Mutex<CaWishes>>,
}

#[derive(Default)]
struct CaWishes {
    before_answer: VecDeque<(CaCall, Act)>,
    certificates: Option<Change<IssuedCertificate>>,
    keys: Option<Change<Option<Secret>>>,
    statuses: Option<Change<Vec<CaStatusOutcome>>>,
    closed: bool,
}

impl OddCa {
    fn new(clock: &SimulatedClock) -> Self {
        Self { inner: SimulatedCa::new(5, Arc::new(clock.clone())), wishes: Arc::default() }
    }

    /// Does this once the next such call was made, before its answer arrives; called again, at the one after it.
    pub(crate) fn before_answer(&self, call: CaCall, act: impl FnOnce() + Send + 'static) {
        self.wishes().before_answer.push_back((call, Box::new(act)));
    }

    /// Changes every certificate that it issues or finds.
    pub(crate) fn every_certificate(&self, change: impl FnMut(&mut IssuedCertificate) + Send + 'static) {
        self.wishes().certificates = Some(Box::new(change));
    }

    /// Changes every private key that it gives.
    pub(crate) fn every_key(&self, change: impl FnMut(&mut Option<Secret>) + Send + 'static) {
        self.wishes().keys = Some(Box::new(change));
    }

    /// Changes what it says of the states of certificates.
    pub(crate) fn every_status(&self, change: impl FnMut(&mut Vec<CaStatusOutcome>) + Send + 'static) {
        self.wishes().statuses = Some(Box::new(change));
    }

    /// Does not take the next order, whatever is known of its key: it cannot even be reached.
    pub(crate) fn next_issue_is_not_taken(&self) {
        self.wishes().closed = true;
    }

    /// Does what the simulated one does from now on.
    pub(crate) fn be_right(&self) {
        *self.wishes() = CaWishes::default();
    }

    fn act(&self, at: CaCall) {
        let wish = {
            let queue = &mut self.wishes().before_answer;
            queue.iter().position(|(call, _)| *call == at).and_then(|place| queue.remove(place))
        };
        act(wish.map(|(_, act)| act));
    }

    fn wishes(&self) -> MutexGuard<'_, CaWishes> {
        self.wishes.lock().expect("not poisoned")
    }
}

#[async_trait]
impl CertificateAuthority for OddCa {
    async fn issue(&self, order: &CertificateOrder) -> IssueOutcome {
        if std::mem::take(&mut self.wishes().closed) {
            return IssueOutcome::Unavailable { reason: "connection refused".to_owned() };
        }
        let mut outcome = self.inner.issue(order).await;
        if let (IssueOutcome::Issued(certificate), Some(change)) = (&mut outcome, &mut self.wishes().certificates) {
            change(certificate);
        }
        self.act(CaCall::Issue);
        outcome
    }

    async fn find(&self, key: &str) -> FindCertificateOutcome {
        let mut outcome = self.inner.find(key).await;
        if let FindCertificateOutcome::Found { certificate, private_key } = &mut outcome {
            let mut wishes = self.wishes();
            if let Some(change) = &mut wishes.certificates {
                change(certificate);
            }
            if let Some(change) = &mut wishes.keys {
                change(private_key);
            }
        }
        self.act(CaCall::Find);
        outcome
    }

    async fn hold(&self, certificate: &IssuedCertificate) -> CaOutcome {
        self.inner.hold(certificate).await
    }

    async fn remove_hold(&self, certificate: &IssuedCertificate) -> CaOutcome {
        let outcome = self.inner.remove_hold(certificate).await;
        self.act(CaCall::RemoveHold);
        outcome
    }

    async fn revoke(&self, certificate: &IssuedCertificate, reason: RevocationReason) -> CaOutcome {
        self.inner.revoke(certificate, reason).await
    }

    async fn status(&self, certificates: &[IssuedCertificate]) -> Vec<CaStatusOutcome> {
        let mut statuses = self.inner.status(certificates).await;
        if let Some(change) = &mut self.wishes().statuses {
            change(&mut statuses);
        }
        self.act(CaCall::Status);
        statuses
    }
}
