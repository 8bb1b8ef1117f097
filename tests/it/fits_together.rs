//! What must fit together: cards, their certificates, the jobs that are owed, and what the CA has in its books.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cardwright::adapters::memory::MemoryRepository;
use cardwright::adapters::simulator::{CaBehaviour, CaLedgerEntry, PersonalizerBehaviour, SimulatedCa};
use cardwright::host::{CardQuery, CardRepository as _, CertificateQuery, JobQuery};
use cardwright::process::{Answer, ItemId, Outcome};
use cardwright::{
    Card, CardId, CardState, Certificate, CertificateState, Job, JobId, JobKind, JobState, StateAtCa, Task, User,
    UserState,
};
use futures::FutureExt as _;
use futures::executor::block_on;
use proptest::prelude::*;

use crate::invariants::{AT_EVERY_STEP, Evidence, broken};
use crate::office::{
    ACTIVATE, CARD_SCRIPT, ISSUE, LOCK, Office, REPEAT_PRODUCTION, REQUEST, RESOLVE, SYNC_ORPHANS, SYNC_PRODUCTION,
    operator, person, user_item,
};
use crate::producing::resolve;
use crate::watched::{Watched, second, store};

const HOUR: Duration = Duration::from_secs(3600);

/// Whether all that the office has fits together, by itself and with what the CA has, and every card's history verifies.
pub(crate) fn fits_together(office: &Office) -> Result<(), String> {
    let books = Books::of_office(office);
    books.ours_fit()?;
    books.ours_fit_the_ca()?;
    for card in books.cards.values() {
        block_on(office.engine.verify_card(card)).map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Whether nothing is left of cards that are not to be used, once all jobs are done and the sweep was there.
pub(crate) fn nothing_left_over(office: &Office) -> Result<(), String> {
    Books::of_office(office).nothing_is_left()
}

/// What is stored, and what the CA has in its books, at one moment.
struct Books {
    cards: BTreeMap<CardId, Card>,
    certificates: Vec<Certificate>,
    jobs: BTreeMap<JobId, Job>,
    at_ca: Vec<CaLedgerEntry>,
}

impl Books {
    fn of_office(office: &Office) -> Self {
        let engine = &office.engine;
        let cards = block_on(engine.card_page(&CardQuery::default(), None, 10_000)).expect("readable");
        let certificates =
            block_on(engine.certificate_page(&CertificateQuery::default(), None, 10_000)).expect("readable");
        let jobs = block_on(engine.job_page(&JobQuery::default(), None, 100_000)).expect("readable");
        Self::new(cards, certificates, jobs, &office.ca)
    }

    /// The same, also in the middle of a commit: what is in memory is there at once.
    fn of_store(store: &MemoryRepository, ca: &SimulatedCa) -> Self {
        let cards = store.card_page(&CardQuery::default(), None, 10_000).now_or_never();
        let certificates = store.certificate_page(&CertificateQuery::default(), None, 10_000).now_or_never();
        let jobs = store.job_page(&JobQuery::default(), None, 100_000).now_or_never();
        let (Some(Ok(cards)), Some(Ok(certificates)), Some(Ok(jobs))) = (cards, certificates, jobs) else {
            panic!("the store is in memory")
        };
        Self::new(cards, certificates, jobs, ca)
    }

    fn new(cards: Vec<Card>, certificates: Vec<Certificate>, jobs: Vec<Job>, ca: &SimulatedCa) -> Self {
        let cards = cards.into_iter().map(|card| (card.id, card)).collect();
        let jobs = jobs.into_iter().map(|job| (job.id, job)).collect();
        Self { cards, certificates, jobs, at_ca: ca.ledger() }
    }

    /// What holds for our own states in every commit.
    fn ours_fit(&self) -> Result<(), String> {
        let mut active = BTreeSet::new();
        for card in self.cards.values() {
            if card.state() == CardState::Active && !active.insert(card.holder.clone()) {
                return Err(format!("user {:?} has two active cards", card.holder));
            }
            self.job_fits(card)?;
        }
        self.certificates.iter().try_for_each(|certificate| self.certificate_fits(certificate))
    }

    /// A card that is being made is busy with a link of its production; another is not busy. The job is not done yet, and is
    /// in doubt if the card is.
    fn job_fits(&self, card: &Card) -> Result<(), String> {
        let job = card.busy.as_ref().and_then(|busy| self.jobs.get(&busy.job));
        let fits = match (&card.production, &card.busy, job) {
            (None, None, None) => true,
            (Some(_), Some(busy), Some(job)) => {
                let state = if busy.in_doubt { JobState::InDoubt } else { JobState::Open };
                job.kind().is_link() && job.card == Some(card.id) && job.state == state
            }
            _ => false,
        };
        if fits {
            return Ok(());
        }
        Err(format!("card {} is {}, {:?} and {:?} with {job:?}", card.id, card.state(), card.busy, card.production))
    }

    fn certificate_fits(&self, certificate: &Certificate) -> Result<(), String> {
        let card = &self.cards[&certificate.card];
        let (state, at_ca) = (certificate.state(), certificate.at_ca);
        let ended = matches!(state, CertificateState::Revoked | CertificateState::Expired);
        let fits_the_card = match card.state() {
            // Only a good card has certificates that are more than issued.
            _ if card.produced != Some(certificate.production) => ended || state == CertificateState::Issued,
            CardState::Active => ended || state == CertificateState::Valid,
            CardState::Issued => ended || matches!(state, CertificateState::OnHold | CertificateState::Valid),
            CardState::Inactive => ended || state == CertificateState::OnHold,
            _ => ended,
        };
        if !fits_the_card {
            return Err(format!("card {} is {} with a certificate {state}", card.id, card.state()));
        }
        // Where the CA has not followed yet, that is owed.
        let follows = match state {
            CertificateState::Issued => true,
            CertificateState::Valid => at_ca == StateAtCa::Valid || self.owes(certificate, JobKind::RemoveHold),
            CertificateState::OnHold => at_ca == StateAtCa::OnHold,
            CertificateState::Revoked => {
                matches!(at_ca, StateAtCa::Revoked | StateAtCa::Expired)
                    || self.owes(certificate, JobKind::RevokeCertificate)
            }
            CertificateState::Expired => at_ca == StateAtCa::Expired,
        };
        if follows {
            return Ok(());
        }
        Err(format!("a certificate of card {} is {state} and {at_ca:?} at the CA, and nothing is owed", card.id))
    }

    /// Whether a job of this kind about a certificate is not done yet.
    fn owes(&self, certificate: &Certificate, kind: JobKind) -> bool {
        self.jobs.values().filter(|job| job.kind() == kind && is_owed(job)).any(|job| match &job.task {
            Task::HoldCertificate { certificate: id }
            | Task::RemoveHold { certificate: id }
            | Task::RevokeCertificate { certificate: id, .. } => *id == certificate.id,
            _ => false,
        })
    }

    /// What holds toward the CA between two calls to it.
    fn ours_fit_the_ca(&self) -> Result<(), String> {
        let at_ca: BTreeMap<&str, StateAtCa> =
            self.at_ca.iter().map(|entry| (entry.certificate.serial.as_str(), entry.state)).collect();
        for certificate in &self.certificates {
            let found = at_ca.get(certificate.issued.serial.as_str()).copied();
            let fits = match certificate.state() {
                CertificateState::Issued => matches!(found, Some(StateAtCa::Valid | StateAtCa::OnHold)),
                CertificateState::Valid => {
                    found == Some(StateAtCa::Valid) || self.owes(certificate, JobKind::RemoveHold)
                }
                CertificateState::OnHold => found == Some(StateAtCa::OnHold),
                CertificateState::Revoked => {
                    matches!(found, Some(StateAtCa::Revoked | StateAtCa::Expired))
                        || self.owes(certificate, JobKind::RevokeCertificate)
                }
                CertificateState::Expired => found == Some(StateAtCa::Expired),
            };
            if !fits {
                return Err(format!("{} of card {} is {found:?} at the CA", certificate.state(), certificate.card));
            }
        }
        let serials: BTreeSet<&str> = self.certificates.iter().map(|c| c.issued.serial.as_str()).collect();
        for entry in self.at_ca.iter().filter(|entry| !serials.contains(entry.certificate.serial.as_str())) {
            let asked_for = self.jobs.values().find(|job| job.id.uuid().simple().to_string() == entry.key);
            if !asked_for.is_some_and(is_owed) {
                return Err(format!("the CA has {}, of which nobody knows: {asked_for:?}", entry.certificate.serial));
            }
        }
        Ok(())
    }

    /// What holds once all is done: only cards that can be used have certificates that are not revoked.
    fn nothing_is_left(&self) -> Result<(), String> {
        for entry in self.at_ca.iter().filter(|entry| matches!(entry.state, StateAtCa::Valid | StateAtCa::OnHold)) {
            let ours = self.certificates.iter().find(|c| c.issued.serial == entry.certificate.serial);
            let card = ours.map(|certificate| &self.cards[&certificate.card]);
            let usable = [CardState::Issued, CardState::Active, CardState::Inactive];
            let kept =
                ours.zip(card).is_some_and(|(ours, card)| ours.is_current(card) && usable.contains(&card.state()));
            if !kept {
                let state = ours.map(Certificate::state);
                let job = card.and_then(|card| card.busy.as_ref()).and_then(|busy| self.jobs.get(&busy.job));
                return Err(format!("{} is left: {state:?} {card:?} {job:?}", entry.certificate.serial));
            }
        }
        Ok(())
    }
}

fn is_owed(job: &Job) -> bool {
    matches!(job.state, JobState::Open | JobState::InDoubt)
}

// ---- whatever is done and fails ------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Step {
    Request(u8),
    Issue,
    Repeat,
    Activate(u8),
    Lock(u8),
    Sweep,
    Production,
    Resolve(bool),
    GiveUp,
    Leave(u8),
    Return(u8),
    Wait,
    /// Another engine syncs right before one of the next commits, perhaps after the claims have run out.
    Meanwhile(usize, bool),
    /// The answer of one of the next commits is lost.
    Lose(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..4_u8).prop_map(Step::Request),
        4 => Just(Step::Issue),
        2 => Just(Step::Repeat),
        3 => (0..8_u8).prop_map(Step::Activate),
        1 => (0..8_u8).prop_map(Step::Lock),
        1 => Just(Step::Sweep),
        2 => Just(Step::Production),
        1 => any::<bool>().prop_map(Step::Resolve),
        2 => Just(Step::Wait),
        1 => Just(Step::GiveUp),
        1 => (1..4_u8).prop_map(Step::Leave),
        1 => (1..4_u8).prop_map(Step::Return),
        2 => (0..6_usize, any::<bool>()).prop_map(|(commits, late)| Step::Meanwhile(commits, late)),
        2 => (0..6_usize).prop_map(Step::Lose),
    ]
}

/// Two engines on one store, whose every commit is looked at.
struct World {
    office: Office,
    other: Arc<Office>,
    store: Arc<Watched>,
    problem: Arc<Mutex<Option<String>>>,
}

impl World {
    fn new() -> Self {
        let (inner, clock) = store();
        let (first, second_store) = (Watched::new(inner.clone()), Watched::new(inner.clone()));
        let office = Office::on(Arc::clone(&first), clock, |builder| builder);
        // The same steps are the same story each time.
        let office = Office { runs: Some(Arc::default()), ..office };
        let other = second(&office, Arc::clone(&second_store), |builder| builder);
        let problem: Arc<Mutex<Option<String>>> = Arc::default();
        for watched in [&first, &second_store] {
            let (inner, ca, problem) = (inner.clone(), office.ca.clone(), Arc::clone(&problem));
            watched.after_every_commit(move || {
                if let Err(found) = Books::of_store(&inner, &ca).ours_fit() {
                    problem.lock().expect("not poisoned").get_or_insert(found);
                }
            });
        }
        Self { office, other: Arc::new(other), store: first, problem }
    }

    fn cards(&self, state: CardState) -> Vec<Card> {
        let query = CardQuery { states: vec![state], ..CardQuery::default() };
        block_on(self.office.engine.card_page(&query, None, 100)).expect("readable")
    }

    fn run(&self, process: &str, cards: Vec<Card>, values: &[(&str, &str)]) {
        if !cards.is_empty() {
            let answer = Answer::ids(cards.iter().map(|card| ItemId::Card(card.id)));
            let answer = values.iter().fold(answer, |answer, (field, value)| answer.with(*field, *value));
            self.office.run(process, &operator(), answer);
        }
    }

    /// Settles all that is in doubt.
    fn settle(&self, good: bool) {
        for doubt in block_on(self.office.engine.doubts(None, 100)).expect("readable") {
            let busy = doubt.card.and_then(|id| self.office.card(id).busy);
            let is_waited_for = busy.is_some_and(|busy| busy.job == doubt.id);
            let resolution = match (doubt.kind(), good) {
                (JobKind::FinishCard, true) => "good card",
                (JobKind::FinishCard | JobKind::PrepareCard, false) => "spoiled",
                // What the CA may have for a production that is given up already, nobody gives up without a look.
                (JobKind::IssueCertificate, false) if is_waited_for => "give up",
                _ => "send again",
            };
            let outcome = resolve(&self.office, ItemId::Job(doubt.id), resolution);
            // A good card is not for one who has left.
            if resolution == "good card" && matches!(outcome, Outcome::Refused(_)) {
                resolve(&self.office, ItemId::Job(doubt.id), "spoiled");
            }
        }
    }

    fn take(&self, step: &Step) {
        let office = &self.office;
        match step {
            Step::Request(user) => {
                office.run(REQUEST, &operator(), Answer::ids([user_item(&format!("u{user}"))]));
            }
            Step::Issue => self.run(ISSUE, self.cards(CardState::Approved), &[]),
            Step::Repeat => self.run(REPEAT_PRODUCTION, self.cards(CardState::Failed), &[]),
            Step::Activate(n) => {
                let cards = self.cards(CardState::Issued).into_iter();
                self.run(ACTIVATE, cards.skip(usize::from(*n)).take(1).collect(), &[]);
            }
            Step::Lock(n) => {
                let cards = self.cards(CardState::Active).into_iter().chain(self.cards(CardState::Issued));
                self.run(LOCK, cards.skip(usize::from(*n)).take(1).collect(), &[("reason", "superseded")]);
            }
            Step::Sweep => drop(office.sync(SYNC_ORPHANS)),
            Step::Production => drop(office.sync(SYNC_PRODUCTION)),
            Step::Resolve(good) => self.settle(*good),
            Step::Wait => office.clock.advance(6 * HOUR),
            Step::GiveUp => {
                let values = [("resolution", "give up"), ("reason", "enough")];
                self.run(RESOLVE, self.cards(CardState::Approved), &values);
            }
            Step::Leave(user) => office.users.put(User { state: UserState::Inactive, ..person(u32::from(*user)) }),
            Step::Return(user) => office.users.put(person(u32::from(*user))),
            Step::Meanwhile(commits, late) => {
                for _ in 0..*commits {
                    self.store.before_commit(|| {});
                }
                let (other, late) = (Arc::clone(&self.other), *late);
                self.store.before_commit(move || {
                    if late {
                        other.clock.advance(HOUR);
                    }
                    other.sync(SYNC_PRODUCTION);
                });
            }
            Step::Lose(commits) => {
                self.store.lose_answers(std::iter::repeat_n(false, *commits).chain([true]));
            }
        }
    }

    /// What did not fit in a commit, or does not now.
    fn check(&self) -> Result<(), TestCaseError> {
        if let Some(problem) = self.problem.lock().expect("not poisoned").take() {
            return Err(TestCaseError::fail(format!("in a commit: {problem}")));
        }
        fits_together(&self.office).map_err(TestCaseError::fail)
    }
}

/// A CA with more of all faults than there are in earnest.
fn faulty_ca() -> CaBehaviour {
    let faulty = CaBehaviour::faulty().unavailable(80).pending(200).pending_refused(200).decided_after(HOUR);
    faulty.lost_after_issuing(80).lost_before_issuing(40).late(40).silent(20).change_unavailable(80).change_lost(80)
}

fn faulty_machine() -> PersonalizerBehaviour {
    let faulty =
        PersonalizerBehaviour::faulty().prepare_jammed(50).prepare_lost(50).prepare_late(40).discard_jammed(80);
    faulty.finish_spoiled(100).finish_jammed(80).finish_lost(80).finish_late(40).finish_silent(20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_and_fails_what_must_fit_together_does_in_every_commit(
        steps in prop::collection::vec(step(), 5..40),
        faulty in any::<bool>(),
        keys_on_the_card in any::<bool>(),
        blind in any::<bool>(),
        active in any::<bool>(),
    ) {
        let world = World::new();
        let office = &world.office;
        let machine = |behaviour: PersonalizerBehaviour| behaviour.makes_keys(keys_on_the_card);
        office.personalizer.behave(machine(PersonalizerBehaviour::calm()));
        if faulty {
            // A CA that cannot look makes no keys.
            office.ca.behave(faulty_ca().can_look(!(blind && keys_on_the_card)));
            office.personalizer.behave(machine(faulty_machine()));
        }
        if active {
            office.script(CARD_SCRIPT, "CardsCardEndState = \"active\"\nCardsCertificateEndState = \"valid\"");
        }
        for step in &steps {
            world.take(step);
            world.check().map_err(|problem| TestCaseError::fail(format!("after {step:?}: {problem}")))?;
        }
        // Then nothing fails any more: all comes to an end, and nothing is left over.
        office.ca.behave(CaBehaviour::calm());
        office.personalizer.behave(machine(PersonalizerBehaviour::calm()));
        for _ in 0..12 {
            world.settle(true);
            office.clock.advance(25 * HOUR);
            office.sync(SYNC_PRODUCTION);
            office.sync(SYNC_ORPHANS);
        }
        world.check()?;
        nothing_left_over(office).map_err(TestCaseError::fail)?;
        let owed = JobQuery { states: vec![JobState::Open, JobState::InDoubt], ..JobQuery::default() };
        prop_assert_eq!(block_on(office.engine.job_page(&owed, None, 100)).expect("readable"), vec![]);
        prop_assert!(world.cards(CardState::Approved).iter().all(|card| card.busy.is_none()));
        prop_assert_eq!(broken(AT_EVERY_STEP, &Evidence::of(office, &world.store)), [""; 0]);
    }
}
