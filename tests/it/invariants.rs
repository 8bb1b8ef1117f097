//! What must never happen, as checks over evidence: everything that store, outside and runs say at one moment.
//!
//! Some hold at every step, also while a worker lies dead and nobody has cleaned up after it ([`AT_EVERY_STEP`]); some only once
//! all is recovered: claims have ended, the syncs and the sweep have run, and no job is due ([`ONCE_RECOVERED`]). A check that is
//! about commits holds at every step because the tests look after every single call to the store.
//!
//! Unknown is not absent: what is in doubt may have happened or not, and is never taken for either ([`Knowledge`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cardwright::adapters::simulator::{
    CaLedgerEntry, FinishScript, HandleState, LedgerEntry, PersonalizerLedgerEntry, PlaceScript,
};
use cardwright::host::{CardQuery, CardRepository, CertificateQuery, JobQuery, RequestQuery};
use cardwright::options::{MULTIPLE_ACTIVE, MULTIPLE_CARDS, ORDER_APPROVAL, REQUEST_APPROVAL, Subject};
use cardwright::process::{Answer, ItemId, Outcome};
use cardwright::{
    Actor, ActorId, ApprovalRequest, Card, CardId, CardKind, CardState, Certificate, CertificateState, ChainHead,
    ChainKey, HistoryEntry, Job, JobId, JobKind, JobState, Message, MessageId, MessageKind, ObjectId, Record, Report,
    RequestState, Reservation, Route, RunId, StateAtCa, Task, UserId, Withdrawal, verify_chain,
};
use chrono::TimeDelta;
use futures::executor::block_on;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::office::{
    ABORT, ACTIVATE, APPROVAL, ISSUE, LOCK, ORDER, ORDER_SCRIPT, Office, REPEAT, REQUEST, SYNC_ORDERS, SYNC_ORPHANS,
    SYNC_STATUS, administrator, approver, operator, run_id, service, user_id, user_item,
};
use crate::watched::store;

// ---- the evidence --------------------------------------------------------------------------------------------------

/// Everything that can be known at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) cards: Vec<Card>,
    pub(crate) certificates: Vec<Certificate>,
    pub(crate) requests: Vec<ApprovalRequest>,
    pub(crate) jobs: Vec<Job>,
    /// Records that have a history: runs, options in force, enablement.
    pub(crate) records: Vec<Record>,
    /// The history of each object, as it is read for that object.
    pub(crate) histories: BTreeMap<ObjectId, Vec<HistoryEntry>>,
    /// The history of everything, as the feed gives it.
    pub(crate) feed: Vec<HistoryEntry>,
    /// The reservations whose keys can be guessed.
    pub(crate) held: Vec<Reservation>,
    /// What the bureau made.
    pub(crate) bureau: Vec<LedgerEntry>,
    /// What the CA issued.
    pub(crate) ca: Vec<CaLedgerEntry>,
    /// What the personalizer took.
    pub(crate) machine: Vec<PersonalizerLedgerEntry>,
    /// What the notifier sent.
    pub(crate) mail: Vec<Message>,
    /// What the runs reported that came to an end, in that order.
    pub(crate) runs: Vec<Ran>,
    /// What was reported of runs before they were cut off: some of their items.
    pub(crate) cut_off: Vec<Ran>,
    /// Whose logins these are.
    pub(crate) people: BTreeMap<ActorId, UserId>,
    pub(crate) house: House,
    /// The histories when they were last looked at.
    pub(crate) before: BTreeMap<ObjectId, Vec<HistoryEntry>>,
    /// What a worker left behind that died.
    pub(crate) crash: Option<Crash>,
    /// How many attempts a job may have taken, where more than a few are to be expected.
    pub(crate) most_attempts: Option<u32>,
    /// How long it took until nothing was due any more.
    pub(crate) recovered_in: Option<TimeDelta>,
    /// Every PIN and PUK.
    pub(crate) secrets: Vec<String>,
    /// Everything that was stored, logged, reported or shown, by where it was found.
    pub(crate) texts: Vec<(&'static str, String)>,
}

/// A run that came to an end: what it reported of all and of each item.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ran {
    pub(crate) report: Report,
    pub(crate) outcomes: Vec<(ItemId, Outcome)>,
}

/// The options in force that invariants speak of.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct House {
    pub(crate) orders_are_approved: bool,
    pub(crate) requests_are_approved: bool,
    pub(crate) several_orders: bool,
    pub(crate) several_active: bool,
}

/// What a worker left behind that died.
#[derive(Clone, Debug, Default)]
pub(crate) struct Crash {
    /// What was in doubt before recovery began.
    pub(crate) in_doubt: BTreeSet<JobId>,
    /// What was being tried: the attempt is stored and has no answer.
    pub(crate) in_flight: BTreeSet<JobId>,
    /// How many things one worker may try at once.
    pub(crate) at_once: usize,
}

/// What the office knows of something that was made outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knowledge {
    /// Its answer is stored, or a person has said what became of it.
    Known,
    /// It is listed as in doubt.
    Unknown,
    /// The office does not know that there is something to be known.
    Absent,
}

impl Evidence {
    /// Looks at everything there is around an office and its store.
    pub(crate) fn of(office: &Office, store: &dyn CardRepository) -> Self {
        Self::with(office, store, async |evidence| {
            let objects: BTreeSet<ObjectId> =
                evidence.feed.iter().map(|entry| entry.object.clone()).chain(evidence.objects()).collect();
            for object in objects {
                let entries = office.engine.history(&object).await?;
                evidence.histories.insert(object, entries);
            }
            Ok(())
        })
    }

    /// The same of an office with many cards: histories are taken from the feed.
    pub(crate) fn of_many(office: &Office, store: &dyn CardRepository) -> Self {
        Self::with(office, store, async |evidence| {
            for entry in &evidence.feed {
                evidence.histories.entry(entry.object.clone()).or_default().push(entry.clone());
            }
            Ok(())
        })
    }

    fn with(
        office: &Office,
        store: &dyn CardRepository,
        histories: impl AsyncFnOnce(&mut Self) -> Result<(), cardwright::Error>,
    ) -> Self {
        const ALL: usize = 1_000_000;
        let engine = &office.engine;
        let read = async {
            let mut evidence = Self {
                cards: engine.card_page(&CardQuery::default(), None, ALL).await?,
                certificates: engine.certificate_page(&CertificateQuery::default(), None, ALL).await?,
                requests: engine.request_page(&RequestQuery::default(), None, ALL).await?,
                jobs: engine.job_page(&JobQuery::default(), None, ALL).await?,
                feed: engine.changes_since(None, ALL).await?.entries.into_iter().map(|entry| entry.entry).collect(),
                bureau: office.bureau.ledger(),
                ca: office.ca.ledger(),
                machine: office.personalizer.ledger(),
                mail: office.mail.sent(),
                ..Self::default()
            };
            histories(&mut evidence).await?;
            let flags = [ORDER_APPROVAL, REQUEST_APPROVAL, MULTIPLE_CARDS, MULTIPLE_ACTIVE];
            let options = engine.options().await?.resolve(&flags.map(|flag| flag.name()), &Subject::new(None, None));
            let options = options.expect("these options are no functions");
            let [orders_are_approved, requests_are_approved, several_orders, several_active] =
                flags.map(|flag| options.get(flag).expect("it is yes or no"));
            evidence.house = House { orders_are_approved, requests_are_approved, several_orders, several_active };
            Ok::<_, cardwright::Error>(evidence)
        };
        let mut evidence = block_on(read).expect("all can be read");
        let keys = evidence.histories.keys().filter_map(record_key).collect::<Vec<_>>();
        evidence.records = block_on(store.records(&keys)).expect("records can be read");
        let holders = evidence.cards.iter().filter_map(|card| card.holder.as_ref());
        let keys: BTreeSet<String> = holders
            .flat_map(|holder| [format!("open-order/{holder}"), format!("active-card/{holder}")])
            .chain(evidence.cards.iter().flat_map(|card| card.reservations.clone()))
            .chain(evidence.cards.iter().filter_map(|card| Some(format!("number/{}", card.number.as_ref()?))))
            .collect();
        let keys: Vec<String> = keys.into_iter().collect();
        evidence.held = block_on(store.reservations(&keys)).expect("reservations can be read");
        let people = [operator(), approver(), administrator()];
        evidence.people = people.into_iter().filter_map(|actor| Some((actor.id, actor.person?))).collect();
        evidence
    }

    /// The same in parts of so many cards, each with what is about them: some checks hold everything against everything. What is
    /// about no card is in the first part.
    pub(crate) fn parts(self, size: usize) -> Vec<Self> {
        let of_card: BTreeMap<CardId, usize> =
            self.cards.iter().enumerate().map(|(place, card)| (card.id, place / size)).collect();
        let of_job: BTreeMap<JobId, usize> =
            self.jobs.iter().filter_map(|job| Some((job.id, *of_card.get(&job.card?)?))).collect();
        let part_of = |object: &ObjectId| match object {
            ObjectId::Card(card) => of_card.get(card).copied().unwrap_or_default(),
            _ => 0,
        };
        let part_of_job = |job: Option<JobId>| job.and_then(|job| of_job.get(&job).copied()).unwrap_or_default();
        let common = || Self {
            people: self.people.clone(),
            house: self.house,
            crash: self.crash.clone(),
            most_attempts: self.most_attempts,
            recovered_in: self.recovered_in,
            ..Self::default()
        };
        let mut parts: Vec<Self> = (0..=self.cards.len() / size).map(|_| common()).collect();
        for card in self.cards {
            parts[of_card[&card.id]].cards.push(card);
        }
        for job in self.jobs {
            parts[part_of_job(Some(job.id))].jobs.push(job);
        }
        for entry in self.feed {
            parts[part_of(&entry.object)].feed.push(entry);
        }
        for (object, entries) in self.histories {
            parts[part_of(&object)].histories.insert(object, entries);
        }
        for held in self.held {
            let card = held.owner.parse().ok().and_then(|card| of_card.get(&card).copied());
            parts[card.unwrap_or_default()].held.push(held);
        }
        for message in self.mail {
            parts[part_of_job(Some(JobId::new(message.id.uuid())))].mail.push(message);
        }
        for entry in self.bureau {
            let job = entry.reference.rsplit_once('-').and_then(|(job, _)| job.parse().ok());
            parts[part_of_job(job)].bureau.push(entry);
        }
        let others = (self.certificates, self.requests, self.records, self.ca, self.machine);
        (parts[0].certificates, parts[0].requests, parts[0].records, parts[0].ca, parts[0].machine) = others;
        parts
    }

    /// The evidence as text, to be searched for what should not be in it.
    pub(crate) fn as_text(&self) -> String {
        let stored = (&self.cards, &self.certificates, &self.requests, &self.jobs, &self.records, &self.held);
        format!("{stored:?} {:?} {:?} {:?} {:?} {:?}", self.feed, self.runs, self.mail, self.bureau, self.machine)
    }

    /// The jobs that are in doubt.
    pub(crate) fn doubts(&self) -> BTreeSet<JobId> {
        self.jobs_in(JobState::InDoubt).map(|job| job.id).collect()
    }

    /// What must be there after a run, whatever happened on the way, by what people call it; `None` for what nobody knows, since
    /// it is in doubt. Numbers are not part of it: there may be gaps.
    pub(crate) fn end_state(&self) -> BTreeMap<String, Option<String>> {
        let mut cards: Vec<&Card> = self.cards.iter().collect();
        cards.sort_by_key(|card| (card.holder.clone(), card.kind(), card.route(), card.number.clone()));
        let in_doubt: BTreeSet<CardId> = self.jobs_in(JobState::InDoubt).filter_map(|job| job.card).collect();
        let mut state = BTreeMap::new();
        let mut ordinals: BTreeMap<String, u32> = BTreeMap::new();
        for card in cards {
            let holder = card.holder.as_ref().map_or("the stock", UserId::as_str);
            let name = format!("{} card, {}, of {holder}", card.kind().name(), card.route().name());
            let ordinal = ordinals.entry(name.clone()).or_default();
            *ordinal += 1;
            let mut certificates: Vec<_> = (self.certificates.iter())
                .filter(|certificate| certificate.card == card.id)
                .map(|certificate| {
                    (certificate.kind, certificate.state(), certificate.at_ca, certificate.is_current(card))
                })
                .collect();
            certificates.sort_unstable();
            let productions =
                self.bureau.iter().filter(|entry| self.card_of(&entry.reference) == Some(card.id)).count();
            let taken = self.machine.iter().filter(|entry| entry.card == card.id);
            let mut taken: Vec<_> = taken.map(|entry| (format!("{:?}", entry.state), &entry.written)).collect();
            taken.sort();
            let request = self.requests.iter().find(|request| Some(request.id) == card.request);
            let mut mail: Vec<_> = (self.jobs.iter())
                .filter(|job| job.card == Some(card.id))
                .filter_map(|job| if let Task::Notify(message) = &job.task { Some(message) } else { None })
                .filter(|message| self.mail.iter().any(|sent| sent.id == message.id))
                .map(|message| format!("{:?} to {:?}", message.kind, message.recipient))
                .collect();
            mail.sort();
            let order = card.order.as_ref().map(|order| (order.order_id.is_some(), order.earlier.len(), &order.status));
            let known = format!(
                "{} {order:?} {productions} {:?} {:?} {:?} {certificates:?} {taken:?} {:?} {mail:?}",
                card.state(),
                card.failure,
                card.withdrawal,
                card.production_type,
                request.map(|request| (request.state(), &request.reason)),
            );
            state.insert(format!("{name} {ordinal}"), (!in_doubt.contains(&card.id)).then_some(known));
        }
        let options = self.records.iter().filter(|record| !record.key.starts_with("run/"));
        state.extend(options.map(|record| (record.key.clone(), Some(in_force(record)))));
        state
    }

    fn objects(&self) -> impl Iterator<Item = ObjectId> {
        self.heads().map(|(object, ..)| object)
    }

    /// Every object that says itself where its history ends, with its state by name and how often it was stored.
    fn heads(&self) -> impl Iterator<Item = (ObjectId, ChainHead, Option<&'static str>, u64)> {
        use cardwright::State as _;
        let cards = self.cards.iter().map(|c| (ObjectId::Card(c.id), c.history, Some(c.state().name()), c.version));
        let certificates = self.certificates.iter();
        let certificates =
            certificates.map(|c| (ObjectId::Certificate(c.id), c.history, Some(c.state().name()), c.version));
        let requests = self.requests.iter();
        let requests = requests.map(|r| (ObjectId::Request(r.id), r.history, Some(r.state().name()), r.version));
        let records = self.records.iter().map(|record| (object_of(record), record.history, None, 0));
        cards.chain(certificates).chain(requests).chain(records)
    }

    fn history(&self, card: CardId) -> &[HistoryEntry] {
        self.histories.get(&ObjectId::Card(card)).map_or(&[], Vec::as_slice)
    }

    fn times(&self, card: CardId, code: &str) -> usize {
        self.history(card).iter().filter(|entry| entry.code == code).count()
    }

    pub(crate) fn jobs_in(&self, state: JobState) -> impl Iterator<Item = &Job> {
        self.jobs.iter().filter(move |job| job.state == state)
    }

    fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.iter().find(|job| job.id == id)
    }

    fn card(&self, id: CardId) -> Option<&Card> {
        self.cards.iter().find(|card| card.id == id)
    }

    /// The job of an attempt, and which of its attempts it is: outside it is known as `<job>-<number>`.
    fn attempt(&self, reference: &str) -> Option<(&Job, u32)> {
        let (job, number) = reference.rsplit_once('-')?;
        Some((self.job(job.parse().ok()?)?, number.parse().ok()?))
    }

    fn card_of(&self, reference: &str) -> Option<CardId> {
        self.attempt(reference)?.0.card
    }

    /// Whether a person has said of this attempt, or of its job, that nothing came of it.
    fn settled(&self, card: CardId, reference: &str) -> bool {
        let codes = ["settled_send_again", "settled_given_up", "settled_spoiled"];
        let job = self.attempt(reference).map(|(job, _)| job.id.to_string());
        self.history(card).iter().any(|entry| {
            let about = entry.reference.as_deref();
            codes.contains(&entry.code.as_ref()) && (about == Some(reference) || about == job.as_deref())
        })
    }

    /// What is known of an attempt, apart from what came of it.
    fn knowledge(&self, reference: &str) -> Knowledge {
        let Some((job, number)) = self.attempt(reference) else { return Knowledge::Absent };
        match job.state {
            _ if job.card.is_some_and(|card| self.settled(card, reference)) => Knowledge::Known,
            _ if number > job.attempts => Knowledge::Absent,
            JobState::InDoubt => Knowledge::Unknown,
            JobState::Done => Knowledge::Known,
            JobState::Open | JobState::Cancelled => Knowledge::Absent,
        }
    }

    /// Whether the certificate under this key is in doubt. A person may have said something of it before: it can be so again.
    fn is_in_doubt(&self, key: &str) -> bool {
        key.parse().ok().and_then(|job| self.job(job)).is_some_and(|job| job.state == JobState::InDoubt)
    }

    /// Whether the card's own production of this certificate still runs, or waits for a person.
    fn is_in_production(&self, certificate: &Certificate) -> bool {
        let production = self.card(certificate.card).and_then(|card| card.production.as_ref());
        production.is_some_and(|production| production.id == certificate.production)
    }

    /// Whether what the CA says of a certificate is a person's to settle.
    fn is_in_doubt_at_ca(&self, certificate: &Certificate) -> bool {
        self.jobs_in(JobState::InDoubt).any(|job| match &job.task {
            Task::RevokeCertificate { certificate: id, .. }
            | Task::RemoveHold { certificate: id }
            | Task::HoldCertificate { certificate: id } => *id == certificate.id,
            _ => false,
        })
    }
}

fn record_key(object: &ObjectId) -> Option<String> {
    match object {
        ObjectId::Run(run) => Some(format!("run/{run}")),
        ObjectId::Record(key) => Some(key.clone()),
        _ => None,
    }
}

fn object_of(record: &Record) -> ObjectId {
    let run = record.key.strip_prefix("run/").and_then(|run| run.parse::<RunId>().ok());
    run.map_or_else(|| ObjectId::Record(record.key.clone()), ObjectId::Run)
}

/// What counts of a record: of a script the last version, not when and how often it was set.
fn in_force(record: &Record) -> String {
    let versions = record.value.get("versions").and_then(|versions| versions.as_array());
    let hash = versions.and_then(|versions| versions.last()?.get("hash").cloned());
    hash.unwrap_or_else(|| record.value.clone()).to_string()
}

// ---- the checks ----------------------------------------------------------------------------------------------------

/// A named check.
pub(crate) type Check = (&'static str, fn(&Evidence) -> Result<(), String>);

macro_rules! checks {
    ($($check:ident),* $(,)?) => { &[$((stringify!($check), $check)),*] };
}

/// What holds after every commit, whoever has died.
pub(crate) const AT_EVERY_STEP: &[Check] = checks![
    one_production_for_each_attempt,
    done_is_stored,
    cards_and_certificates_fit,
    every_change_has_its_entry,
    no_card_moves_backwards,
    repeated_run_adds_nothing,
    aborted_is_never_ordered,
    no_number_twice,
    no_secret_is_written,
    one_open_order_and_one_active_card,
    one_open_deciding_job,
    approved_by_another_before_it_left,
    no_message_under_two_ids,
    doubt_is_at_most_what_was_in_flight,
];

/// What holds once nothing is due any more.
pub(crate) const ONCE_RECOVERED: &[Check] =
    checks![what_is_made_outside_is_known, ca_agrees, every_job_is_done_or_in_doubt, no_certificate_is_left_over];

/// The checks that the evidence does not stand up to, with what is wrong.
pub(crate) fn broken(checks: &[Check], evidence: &Evidence) -> Vec<String> {
    checks.iter().filter_map(|(name, check)| Some(format!("{name}: {}", check(evidence).err()?))).collect()
}

fn wrong(is_wrong: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if is_wrong { Err(what()) } else { Ok(()) }
}

/// How often each of these is there.
fn counts<T: Ord>(of: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    of.into_iter().for_each(|thing| *counts.entry(thing).or_default() += 1);
    counts
}

fn first_twice<T: Ord>(of: impl IntoIterator<Item = T>) -> Option<T> {
    counts(of).into_iter().find(|(_, count)| *count > 1).map(|(thing, _)| thing)
}

/// Invariant 1, at every step. Nothing is made outside without an attempt that was stored before; the bureau makes at most one
/// card for each, the CA one certificate; and no card is made twice without a person's word, by whomever.
fn one_production_for_each_attempt(evidence: &Evidence) -> Result<(), String> {
    let references = evidence.bureau.iter().map(|entry| &entry.reference);
    let taken = evidence.machine.iter().map(|entry| &entry.reference);
    for reference in references.clone().chain(taken.clone()) {
        let stored = evidence.attempt(reference).is_some_and(|(job, number)| number <= job.attempts);
        wrong(!stored, || format!("{reference} was sent before it was stored"))?;
    }
    if let Some(reference) = first_twice(references.clone()).or_else(|| first_twice(taken)) {
        return Err(format!("{reference} was made twice"));
    }
    let keys = evidence.ca.iter().map(|entry| entry.key.as_str());
    for key in keys.clone() {
        let stored = key.parse().ok().and_then(|job| evidence.job(job)).is_some_and(|job| job.attempts > 0);
        wrong(!stored, || format!("certificate {key} was asked for before that was stored"))?;
    }
    if let Some(key) = first_twice(keys) {
        return Err(format!("two certificates were issued under {key}"));
    }
    for card in &evidence.cards {
        let again = |kind| {
            let about = |entry: &&HistoryEntry| {
                let about = entry.reference.as_deref().unwrap_or_default();
                let job = evidence.attempt(about).map(|(job, _)| job).or_else(|| evidence.job(about.parse().ok()?));
                entry.code == "settled_send_again" && job.is_some_and(|job| job.kind() == kind)
            };
            evidence.history(card.id).iter().filter(about).count()
        };
        let ordered = references.clone().filter(|reference| evidence.card_of(reference) == Some(card.id)).count();
        let words = 1 + evidence.times(card.id, "order_repeated") + again(JobKind::PlaceOrder);
        wrong(ordered > words, || format!("the bureau makes card {} {ordered} times", card.id))?;
        let taken = evidence.machine.iter().filter(|entry| entry.card == card.id);
        let words = evidence.times(card.id, "production_begun") + again(JobKind::PrepareCard);
        wrong(taken.clone().count() > words, || format!("too many blanks were taken for card {}", card.id))?;
        let finished = taken.filter(|entry| entry.state == HandleState::Finished);
        let jobs = finished.filter_map(|entry| Some(evidence.attempt(&entry.reference)?.0.id));
        wrong(first_twice(jobs).is_some(), || format!("card {} was finished twice", card.id))?;
    }
    Ok(())
}

/// Invariant 2, at every step. What a run reports as done exists, and its history says so.
fn done_is_stored(evidence: &Evidence) -> Result<(), String> {
    for Ran { report, outcomes } in evidence.runs.iter().chain(&evidence.cut_off) {
        let done = outcomes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Done { .. })).count();
        let counted = (report.items, report.done_in_all()) == (outcomes.len() as u64, done as u64);
        wrong(!counted, || format!("run {} miscounted {outcomes:?}", report.run))?;
        for (item, outcome) in outcomes {
            let stored = match (outcome, item) {
                (Outcome::Done { state, .. }, ItemId::Job(job)) if state == JobState::Done.name() => {
                    evidence.job(*job).is_some_and(|job| job.state == JobState::Done)
                }
                (Outcome::Done { object: Some(object), state }, _) => {
                    let entries = evidence.histories.get(object).map_or(&[][..], Vec::as_slice);
                    let says = |entry: &HistoryEntry| match state.as_ref() {
                        "begun" => entry.code == "production_begun",
                        state => entry.to == state,
                    };
                    evidence.objects().any(|stored| stored == *object) && entries.iter().any(says)
                }
                (Outcome::Done { object: None, .. }, ItemId::Job(job)) => evidence.job(*job).is_some(),
                (Outcome::DoneEarlier { object: Some(object) }, _) => {
                    evidence.objects().any(|stored| stored == *object)
                }
                (Outcome::DoneEarlier { object: None }, ItemId::Job(job)) => evidence.job(*job).is_some(),
                (Outcome::DoneEarlier { object: None }, _) => false,
                _ => true,
            };
            wrong(!stored, || format!("run {} reports {outcome:?} of {item}, which is not stored", report.run))?;
        }
    }
    Ok(())
}

/// Invariant 4 for our own states, at every step. A card's current certificates fit its state; those of a production that runs or is
/// in doubt are issued and nothing else, so that they can still be written.
fn cards_and_certificates_fit(evidence: &Evidence) -> Result<(), String> {
    use CertificateState::{OnHold, Valid};
    for card in &evidence.cards {
        let good: &[CertificateState] = match card.state() {
            CardState::Active | CardState::Assigned => &[Valid],
            CardState::Issued => &[OnHold, Valid],
            CardState::Inactive => &[OnHold],
            _ => &[],
        };
        let own = evidence.certificates.iter().filter(|certificate| certificate.card == card.id);
        for certificate in own.filter(|certificate| certificate.is_current(card)) {
            let state = certificate.state();
            let fits = good.contains(&state);
            wrong(!fits, || format!("card {} is {} with a certificate that is {state}", card.id, card.state()))?;
        }
    }
    let running = evidence.certificates.iter().filter(|certificate| evidence.is_in_production(certificate));
    let touched = running.map(Certificate::state).find(|state| *state != CertificateState::Issued);
    wrong(touched.is_some(), || format!("a certificate is {touched:?} and not written yet"))
}

/// Invariant 5, at every step. Every object's history verifies, leads from its creation to its state without a gap, has at least one
/// entry for each time that it was stored, stands in the feed once, and only ever grows.
fn every_change_has_its_entry(evidence: &Evidence) -> Result<(), String> {
    let mut feed: BTreeMap<&ObjectId, Vec<&HistoryEntry>> = BTreeMap::new();
    for entry in &evidence.feed {
        feed.entry(&entry.object).or_default().push(entry);
    }
    let mut known = BTreeSet::new();
    for (object, head, state, version) in evidence.heads() {
        let entries = evidence.histories.get(&object).map_or(&[][..], Vec::as_slice);
        verify_chain(&object, entries, &head, &ChainKey::none()).map_err(|error| error.to_string())?;
        wrong(version > head.length, || format!("{object} was changed {version} times with {} entries", head.length))?;
        let mut last = None;
        for entry in entries {
            let follows = entry.from.as_deref() == last;
            wrong(!follows, || format!("entry {} of {object} does not follow", entry.sequence))?;
            last = Some(entry.to.as_ref());
        }
        wrong(state.is_some() && last != state, || format!("{object} is {state:?}, its history says {last:?}"))?;
        let in_feed = feed.get(&object).is_some_and(|feed| feed.iter().copied().eq(entries));
        wrong(!in_feed, || format!("the feed says something else of {object}"))?;
        let before = evidence.before.get(&object).map_or(&[][..], Vec::as_slice);
        wrong(!entries.starts_with(before), || format!("the history of {object} was not continued"))?;
        known.insert(object);
    }
    let lost = feed.into_keys().chain(evidence.before.keys()).find(|object| !known.contains(object));
    wrong(lost.is_some(), || format!("there is history of {lost:?}, which is not there"))
}

/// Invariant 6, at every step. A card goes only where its graph leads, and a status moves it only if it is of the order that the
/// bureau accepted last.
fn no_card_moves_backwards(evidence: &Evidence) -> Result<(), String> {
    for card in &evidence.cards {
        let mut order = None;
        for entry in evidence.history(card.id) {
            match entry.code.as_ref() {
                "accepted" | "order_id_corrected" => order = entry.reference.as_deref(),
                "order_repeated" => order = None,
                _ => {}
            }
            let (Some(from), to) = (entry.from.as_deref().and_then(CardState::named), CardState::named(&entry.to))
            else {
                continue;
            };
            if to == Some(from) {
                continue;
            }
            let allowed = to.is_some_and(|to| card.graph().allows(from, to));
            wrong(!allowed, || format!("card {} went from {from} to {}", card.id, entry.to))?;
            let back = order_rank(from).zip(to.and_then(order_rank)).is_some_and(|(from, to)| to < from);
            wrong(back && entry.code == "status", || {
                format!("a status took card {} from {from} to {}", card.id, entry.to)
            })?;
            let of_another = entry.code == "status" && entry.reference.as_deref() != order;
            wrong(of_another, || format!("card {} was moved by a status of another order", card.id))?;
        }
    }
    Ok(())
}

/// How far an order is, whatever the graphs say.
const fn order_rank(state: CardState) -> Option<u8> {
    match state {
        CardState::Ordered => Some(1),
        CardState::InProduction => Some(2),
        CardState::Produced | CardState::Failed => Some(3),
        _ => None,
    }
}

/// Invariant 7, at every step. What a run decides of an object it decides once, it makes no more objects than it has items, and
/// whenever it is asked it names the same object for an item.
fn repeated_run_adds_nothing(evidence: &Evidence) -> Result<(), String> {
    const DECIDED: [&str; 15] = [
        "created",
        "approval_wanted",
        "approval_not_needed",
        "approved",
        "rejected",
        "postponed",
        "request_withdrawn",
        "order_decided",
        "order_repeated",
        "order_taken_back",
        "production_begun",
        "activated",
        "locked",
        "orphaned",
        "job_settled",
    ];
    let is_decided = |code: &str| DECIDED.contains(&code) || code.starts_with("settled_");
    // A card and its request are different objects, and so are a card and its certificate.
    let decided = evidence.feed.iter().filter(|entry| entry.run.is_some() && is_decided(&entry.code));
    if let Some((run, object, code)) = first_twice(decided.map(|entry| (entry.run, &entry.object, &entry.code))) {
        return Err(format!("run {run:?} decided {code} of {object} twice"));
    }
    for Ran { report, outcomes } in &evidence.runs {
        let made = evidence
            .cards
            .iter()
            .filter(|card| evidence.history(card.id).first().is_some_and(|entry| entry.run == Some(report.run)));
        let made = made.count();
        wrong(made > outcomes.len(), || format!("run {} made {made} cards of {} items", report.run, outcomes.len()))?;
    }
    let mut objects: BTreeMap<(RunId, &ItemId), String> = BTreeMap::new();
    for Ran { report, outcomes } in evidence.runs.iter().chain(&evidence.cut_off) {
        for (item, outcome) in outcomes {
            let object = match outcome {
                Outcome::Done { object: Some(object), .. } => object.to_string(),
                Outcome::DoneEarlier { object: Some(object) } => object.to_string(),
                Outcome::InDoubt { card: Some(card), .. } => ObjectId::Card(*card).to_string(),
                _ => continue,
            };
            let first = objects.entry((report.run, item)).or_insert_with(|| object.clone());
            wrong(*first != object, || format!("run {} gave {item} {first} and {object}", report.run))?;
        }
    }
    Ok(())
}

/// Invariant 9, at every step. An order that was aborted was not and is not accepted, unless a person has said of that very order
/// that it was not accepted; what was accepted is not aborted. A card whose first order was made and failed is ordered again: it
/// is that order which counts.
fn aborted_is_never_ordered(evidence: &Evidence) -> Result<(), String> {
    for card in &evidence.cards {
        let entries = evidence.history(card.id);
        let last = entries.iter().rposition(|entry| entry.code == "order_repeated").unwrap_or_default();
        let was = |state: &str| entries[last..].iter().any(|entry| entry.to == state);
        if !was("aborted") {
            continue;
        }
        wrong(was("ordered"), || format!("card {} was ordered and aborted", card.id))?;
        let made = evidence.bureau.iter().map(|entry| &entry.reference).find(|reference| {
            let attempt = evidence.attempt(reference);
            let of_this = |(job, _): (&Job, u32)| job.card == Some(card.id) && job.state != JobState::Done;
            attempt.is_some_and(of_this) && !evidence.settled(card.id, reference)
        });
        wrong(made.is_some(), || format!("card {} was aborted, and the bureau makes it as {made:?}", card.id))?;
    }
    Ok(())
}

/// Invariant 10, at every step. No two cards have one number, and each card holds its own.
fn no_number_twice(evidence: &Evidence) -> Result<(), String> {
    let number = first_twice(evidence.cards.iter().filter_map(|card| card.number.as_ref()));
    wrong(number.is_some(), || format!("two cards have number {number:?}"))?;
    for card in &evidence.cards {
        let Some(number) = &card.number else { return Err(format!("card {} has no number", card.id)) };
        let own = Reservation { key: format!("number/{number}"), owner: card.id.to_string() };
        wrong(!evidence.held.contains(&own), || format!("card {} does not hold its number {number}", card.id))?;
    }
    Ok(())
}

/// Invariant 12, at every step. No PIN or PUK is in any text, neither as digits nor as bytes.
fn no_secret_is_written(evidence: &Evidence) -> Result<(), String> {
    for secret in &evidence.secrets {
        let bytes = format!("{:?}", secret.as_bytes());
        let shapes = [secret.as_str(), bytes.trim_matches(['[', ']'])];
        let found = evidence.texts.iter().find(|(_, text)| shapes.iter().any(|shape| text.contains(shape)));
        wrong(found.is_some(), || format!("{} says a PIN or PUK", found.map_or("", |(place, _)| place)))?;
    }
    Ok(())
}

/// Invariant 13, at every step. With the options off that allow several, no user has two open orders or two active cards; and a
/// place is held by a card that needs it, and given back by one that does not.
fn one_open_order_and_one_active_card(evidence: &Evidence) -> Result<(), String> {
    let is_active = |card: &&Card| card.kind() == CardKind::Permanent && card.state() == CardState::Active;
    let of = |card: &Card| card.holder.clone();
    let open = first_twice(evidence.cards.iter().filter(|card| card.is_open_order()).filter_map(of));
    wrong(open.is_some() && !evidence.house.several_orders, || format!("{open:?} has two open orders"))?;
    let active = first_twice(evidence.cards.iter().filter(is_active).filter_map(of));
    wrong(active.is_some() && !evidence.house.several_active, || format!("{active:?} has two active cards"))?;
    let places = evidence.held.iter().filter(|held| !held.key.starts_with("number/"));
    let held: BTreeSet<(&str, &str)> = places.map(|held| (held.key.as_str(), held.owner.as_str())).collect();
    let ids: Vec<(String, &Card)> = evidence.cards.iter().map(|card| (card.id.to_string(), card)).collect();
    let listed: BTreeSet<(&str, &str)> =
        ids.iter().flat_map(|(id, card)| card.reservations.iter().map(|key| (key.as_str(), id.as_str()))).collect();
    wrong(held != listed, || format!("the store holds {held:?}, the cards say {listed:?}"))?;
    for (_, card) in &ids {
        for key in &card.reservations {
            let becomes = card.production.as_ref().is_some_and(|made| made.card_end_state == CardState::Active);
            let handle = card.production.as_ref().and_then(|made| made.handle.as_deref());
            let needed = match key.split_once('/') {
                Some(("active-card", _)) => is_active(card) || becomes,
                Some(("chip", serial)) => card.chip_serial.as_deref().map(str::to_lowercase).as_deref() == Some(serial),
                Some(("handle", held)) => handle == Some(held),
                _ => card.is_open_order(),
            };
            wrong(!needed, || format!("card {} is {} and still holds {key}", card.id, card.state()))?;
        }
    }
    Ok(())
}

/// Invariant 14, at every step. A card waits for at most one job, names it, and is of one mind with it about the doubt. An order
/// that the bureau has accepted is followed by a job of its own.
fn one_open_deciding_job(evidence: &Evidence) -> Result<(), String> {
    for card in &evidence.cards {
        let decides = |job: &&Job| match &job.task {
            Task::PlaceOrder { .. } | Task::PrepareCard | Task::HoldCertificate { .. } | Task::FinishCard => true,
            // That of a production which was given up is looked after until its certificate can be revoked.
            Task::IssueCertificate { production, .. } => {
                card.production.as_ref().is_some_and(|own| own.id == *production)
            }
            _ => false,
        };
        let open = evidence.jobs.iter().filter(|job| job.card == Some(card.id)).filter(decides);
        let open = open.filter(|job| matches!(job.state, JobState::Open | JobState::InDoubt));
        let open: Vec<_> = open.map(|job| (job.id, job.state == JobState::InDoubt)).collect();
        let named: Vec<_> = card.busy.iter().map(|busy| (busy.job, busy.in_doubt)).collect();
        wrong(open != named, || format!("card {} waits for {named:?}, open are {open:?}", card.id))?;
        let waits = card.state() == CardState::Processing || card.production.is_some();
        wrong(waits == named.is_empty(), || format!("card {} is {} for {named:?}", card.id, card.state()))?;
        let order_id = card.order.as_ref().and_then(|order| order.order_id.as_ref());
        let follows = |job: &Job| {
            job.card == Some(card.id)
                && job.state == JobState::Open
                && matches!(&job.task, Task::TrackOrder { order_id: followed } if Some(followed) == order_id)
        };
        let under_way = matches!(card.state(), CardState::Ordered | CardState::InProduction);
        let lost = under_way && !evidence.jobs.iter().any(follows);
        wrong(lost, || format!("card {} is {} and nobody follows its order", card.id, card.state()))?;
    }
    Ok(())
}

/// Invariant 15, at every step. A card that was asked for has gone on only after somebody said yes who is neither the requester nor
/// the holder; where orders need a yes, none was sent without.
fn approved_by_another_before_it_left(evidence: &Evidence) -> Result<(), String> {
    for card in &evidence.cards {
        let sent = evidence.bureau.iter().filter(|entry| evidence.card_of(&entry.reference) == Some(card.id));
        let Some(request) = card.request.and_then(|id| evidence.requests.iter().find(|request| request.id == id))
        else {
            let needs = match card.route() {
                Route::External => evidence.house.orders_are_approved,
                Route::Local => evidence.house.requests_are_approved,
            };
            let needs = needs && card.kind() == CardKind::Permanent;
            wrong(needs || card.request.is_some(), || format!("card {} was never asked for", card.id))?;
            continue;
        };
        let waits = match card.state() {
            CardState::Requested | CardState::Rejected => true,
            CardState::Aborted => card.withdrawal == Some(Withdrawal::Request),
            _ => false,
        };
        if waits {
            wrong(sent.count() > 0, || format!("card {} left without a yes", card.id))?;
            continue;
        }
        let entries = evidence.histories.get(&ObjectId::Request(request.id)).map_or(&[][..], Vec::as_slice);
        let yes = entries.iter().find(|entry| entry.code == "approved");
        let yes = yes.filter(|_| request.state() == RequestState::Approved);
        let yes = yes.ok_or_else(|| format!("card {} is {} without a yes", card.id, card.state()))?;
        let who = evidence.people.get(&yes.actor).ok_or_else(|| format!("nobody knows who {} is", yes.actor))?;
        let own = *who == request.holder || Some(who) == request.requester.person.as_ref();
        wrong(own, || format!("{who} approved card {}, which is their own", card.id))?;
        for entry in sent {
            wrong(entry.at < yes.at, || format!("card {} left before the yes", card.id))?;
        }
    }
    Ok(())
}

/// Invariant 16, at every step. A message is owed before it is sent, and the same thing is said again only when it has happened
/// again.
fn no_message_under_two_ids(evidence: &Evidence) -> Result<(), String> {
    let mut said: BTreeMap<String, (BTreeSet<_>, usize)> = BTreeMap::new();
    for message in &evidence.mail {
        let owed = |job: &&Job| matches!(&job.task, Task::Notify(owed) if owed == message);
        let job = evidence.jobs.iter().find(owed).ok_or_else(|| format!("{message:?} is sent and not owed"))?;
        let may = match (job.card, &message.kind) {
            (Some(card), MessageKind::CardOrdered) => evidence.times(card, "accepted"),
            _ => 1,
        };
        let what = format!("{:?} to {:?} of {:?}", message.kind, message.recipient, job.card);
        let (ids, most) = said.entry(what).or_default();
        ids.insert(message.id);
        *most = may;
    }
    let twice = said.iter().find(|(_, (ids, most))| ids.len() > *most);
    wrong(twice.is_some(), || format!("said under two ids: {twice:?}"))
}

/// Invariant 17, at every step. When a worker has died, only what it was trying can become doubtful, and it tries no more at once
/// than it may.
fn doubt_is_at_most_what_was_in_flight(evidence: &Evidence) -> Result<(), String> {
    let Some(Crash { in_doubt, in_flight, at_once }) = &evidence.crash else { return Ok(()) };
    wrong(in_flight.len() > *at_once, || format!("{} were tried at once", in_flight.len()))?;
    let new: Vec<_> = evidence.doubts().into_iter().filter(|job| !in_doubt.contains(job)).collect();
    let other = new.iter().find(|job| !in_flight.contains(job));
    wrong(other.is_some(), || format!("{other:?} is in doubt and was not being tried"))
}

/// Invariant 3, once recovered. Whatever was made outside, by bureau, CA or machine, is known to us, or in doubt and so listed.
fn what_is_made_outside_is_known(evidence: &Evidence) -> Result<(), String> {
    for entry in &evidence.bureau {
        let card = evidence.card_of(&entry.reference);
        let order = card.and_then(|card| evidence.card(card)?.order.as_ref());
        let named = order.is_some_and(|order| {
            order.order_id.as_ref() == Some(&entry.order_id) || order.earlier.contains(&entry.order_id)
        });
        let late = card.is_some_and(|card| {
            let late = |e: &HistoryEntry| e.code == "late_acceptance" && e.reference.as_ref() == Some(&entry.order_id);
            evidence.history(card).iter().any(late) || evidence.settled(card, &entry.reference)
        });
        let unknown = evidence.knowledge(&entry.reference) == Knowledge::Unknown;
        wrong(!(named || late || unknown), || format!("nobody knows of order {}", entry.order_id))?;
    }
    for entry in &evidence.ca {
        let stored = evidence.certificates.iter().any(|c| c.issued.serial == entry.certificate.serial);
        let unknown = evidence.is_in_doubt(&entry.key);
        // Where the CA cannot look, a person looks and revokes it by hand.
        let job: Option<JobId> = entry.key.parse().ok();
        let by_hand =
            |e: &HistoryEntry| e.code == "job_settled" && job.is_some_and(|job| e.reference == Some(job.to_string()));
        let card = job.and_then(|job| evidence.job(job)?.card);
        let settled = card.is_some_and(|card| evidence.history(card).iter().any(by_hand));
        wrong(!(stored || unknown || settled), || format!("nobody knows of certificate {}", entry.certificate.serial))?;
    }
    for entry in &evidence.machine {
        for reference in std::iter::once(&entry.reference).chain(&entry.finish_references) {
            let absent = evidence.knowledge(reference) == Knowledge::Absent;
            wrong(absent, || format!("nobody knows of {} at the machine", entry.handle))?;
        }
    }
    Ok(())
}

/// Invariant 4 toward the CA, once recovered. The CA says of each certificate what we say, unless a person must settle that.
fn ca_agrees(evidence: &Evidence) -> Result<(), String> {
    for certificate in evidence.certificates.iter().filter(|certificate| !evidence.is_in_doubt_at_ca(certificate)) {
        let entry = evidence.ca.iter().find(|entry| entry.certificate.serial == certificate.issued.serial);
        let at_ca = entry.map(|entry| entry.state);
        let fits = match certificate.state() {
            CertificateState::Valid => at_ca == Some(StateAtCa::Valid),
            CertificateState::OnHold => at_ca == Some(StateAtCa::OnHold),
            CertificateState::Revoked => matches!(at_ca, Some(StateAtCa::Revoked | StateAtCa::Expired)),
            CertificateState::Expired => at_ca == Some(StateAtCa::Expired),
            CertificateState::Issued => evidence.is_in_production(certificate),
        };
        let state = certificate.state();
        wrong(!fits, || format!("certificate {} is {state}, the CA says {at_ca:?}", certificate.issued.serial))?;
    }
    Ok(())
}

/// Invariant 8, once recovered. No job is left that somebody could do, none took more than a few attempts, and it did not take for
/// ever.
fn every_job_is_done_or_in_doubt(evidence: &Evidence) -> Result<(), String> {
    const ATTEMPTS: u32 = 5;
    const LONGEST: TimeDelta = TimeDelta::days(60);
    for job in &evidence.jobs {
        let ended = matches!(job.state, JobState::Done | JobState::Cancelled | JobState::InDoubt);
        wrong(!ended, || format!("job {} to {} is {}: {:?}", job.id, job.kind(), job.state, job.remark))?;
        wrong(job.attempts > evidence.most_attempts.unwrap_or(ATTEMPTS), || {
            format!("job {} was tried {} times", job.id, job.attempts)
        })?;
    }
    let took = evidence.recovered_in.ok_or("it did not come to an end")?;
    wrong(took > LONGEST, || format!("it took {} days", took.num_days()))
}

/// Invariant 11, once recovered. Of every certificate that the CA ever issued, only those can be used that belong to their card's
/// last good production; none is left issued but not written. What is in doubt stays until it is settled.
fn no_certificate_is_left_over(evidence: &Evidence) -> Result<(), String> {
    for entry in &evidence.ca {
        let ours = evidence.certificates.iter().find(|c| c.issued.serial == entry.certificate.serial);
        let may_stay = match ours {
            Some(certificate) => {
                let card = evidence.card(certificate.card);
                card.is_some_and(|card| certificate.is_current(card))
                    || evidence.is_in_production(certificate)
                    || evidence.is_in_doubt_at_ca(certificate)
            }
            None => evidence.is_in_doubt(&entry.key),
        };
        let usable = matches!(entry.state, StateAtCa::Valid | StateAtCa::OnHold);
        wrong(usable && !may_stay, || format!("certificate {} is left over", entry.certificate.serial))?;
    }
    for certificate in &evidence.certificates {
        let left = certificate.state() == CertificateState::Issued && !evidence.is_in_production(certificate);
        wrong(left, || format!("certificate {} is left issued", certificate.issued.serial))?;
    }
    Ok(())
}

// ---- the checks are checked ------------------------------------------------------------------------------------------

/// A week in an office: cards that were ordered, approved, aborted, refused and ordered again, and one that is in doubt; cards that
/// were made here, spoiled, activated and locked; and a run that was started twice.
fn a_week() -> Evidence {
    const HOUR: Duration = Duration::from_secs(3600);
    let (store, clock) = store();
    let office = Office::on(store.clone(), clock, |builder| builder);
    let mut runs = Vec::new();
    let mut run = |id: u128, process: &str, actor: &Actor, answer: Answer| {
        let outcomes = block_on(async {
            let run = office.engine.open_as(run_id(id), process, actor).await?;
            let mut execution = office.engine.next(&run, answer).await?;
            let mut outcomes = Vec::new();
            while let Some(chunk) = execution.next_chunk().await? {
                outcomes.extend(chunk);
            }
            runs.push(Ran { report: execution.report().clone(), outcomes: outcomes.clone() });
            Ok::<_, cardwright::Error>(outcomes)
        });
        outcomes.expect("the run goes through").remove(0)
    };
    let card_of = |(_, outcome): (ItemId, Outcome)| match outcome {
        Outcome::Done { object: Some(ObjectId::Card(card)), .. } => ItemId::Card(card),
        other => panic!("a card: {other:?}"),
    };
    let user = |name: &str| Answer::ids([user_item(name)]);

    let activated = card_of(run(1, REQUEST, &operator(), user("u1")));
    run(2, ISSUE, &operator(), Answer::ids([activated.clone()]));
    run(3, ACTIVATE, &operator(), Answer::ids([activated]));
    let spoiled = card_of(run(4, REQUEST, &operator(), user("u2")));
    office.personalizer.next_finish(FinishScript::Spoil("bent".to_owned()));
    run(5, ISSUE, &operator(), Answer::ids([spoiled]));
    run(6, SYNC_ORPHANS, &service(), Answer::new());
    let locked = card_of(run(7, REQUEST, &operator(), user("u3")));
    run(8, ISSUE, &operator(), Answer::ids([locked.clone()]));
    run(9, LOCK, &operator(), Answer::ids([locked]));

    office.script(ORDER_SCRIPT, "CardsAddonExtProdApproval = true");
    run(10, ORDER, &operator(), user("u4"));
    let asked = block_on(office.engine.request_page(&RequestQuery::default(), None, 1)).expect("readable").remove(0);
    run(11, APPROVAL, &approver(), Answer::ids([ItemId::Request(asked.id)]).with("decision", "approve"));
    office.script(ORDER_SCRIPT, "");
    let aborted = card_of(run(12, ORDER, &operator(), user("u5")));
    run(13, ABORT, &operator(), Answer::ids([aborted]));
    run(14, SYNC_ORDERS, &service(), Answer::new());
    let repeated = card_of(run(15, ORDER, &operator(), user("u6")));
    office.bureau.next_place(PlaceScript::Refuse("sold out".to_owned()));
    run(16, SYNC_ORDERS, &service(), Answer::new());
    run(17, REPEAT, &operator(), Answer::ids([repeated]));
    run(18, SYNC_ORDERS, &service(), Answer::new());
    run(19, ORDER, &operator(), user("u7"));
    office.bureau.next_place(PlaceScript::LoseReplyAfterAccepting);
    run(20, SYNC_ORDERS, &service(), Answer::new());
    run(19, ORDER, &operator(), user("u7"));
    office.clock.advance(5 * 24 * HOUR);
    run(21, SYNC_STATUS, &service(), Answer::new());

    let mut evidence = Evidence::of(&office, &store);
    evidence.runs = runs;
    evidence.recovered_in = Some(TimeDelta::days(5));
    evidence.crash = Some(Crash { in_doubt: BTreeSet::new(), in_flight: evidence.doubts(), at_once: 1 });
    evidence.before = evidence.histories.clone();
    evidence.secrets = vec!["480215739926".to_owned()];
    evidence.texts = vec![("the store", evidence.as_text())];
    evidence
}

/// The same thing, but for one field that only the library sets.
fn altered<T: Serialize + DeserializeOwned>(thing: &T, field: &str, value: &str) -> T {
    let mut json = serde_json::to_value(thing).expect("it is a plain value");
    json[field] = value.into();
    serde_json::from_value(json).expect("it is still one")
}

impl Evidence {
    /// The only card of this user.
    fn card_of_user(&mut self, user: &str) -> &mut Card {
        let own = |card: &&mut Card| card.holder.as_ref().is_some_and(|holder| holder.as_str() == user);
        self.cards.iter_mut().find(own).expect("everybody has one")
    }

    fn certificate_in(&mut self, state: CertificateState) -> &mut Certificate {
        self.certificates.iter_mut().find(|certificate| certificate.state() == state).expect("there is one")
    }

    fn history_of_user(&mut self, user: &str) -> &mut Vec<HistoryEntry> {
        let card = self.card_of_user(user).id;
        self.histories.get_mut(&ObjectId::Card(card)).expect("it has a history")
    }

    fn order_of_user(&mut self, user: &str) -> &mut Job {
        let card = self.card_of_user(user).id;
        let own = |job: &&mut Job| job.card == Some(card) && job.kind() == JobKind::PlaceOrder;
        self.jobs.iter_mut().find(own).expect("it was ordered")
    }
}

/// A forgery of the evidence, and the check that must see it.
type Forgery = (&'static str, &'static str, fn(&mut Evidence));

const FORGERIES: &[Forgery] = &[
    ("one_production_for_each_attempt", "the bureau makes a card twice", |e| e.bureau.push(e.bureau[0].clone())),
    ("one_production_for_each_attempt", "an attempt was sent before it was stored", |e| {
        let last = e.bureau.len() - 1;
        e.bureau[last].reference = e.bureau[last].reference.replace("-1", "-2");
    }),
    ("one_production_for_each_attempt", "a second attempt without a person's word", |e| {
        e.order_of_user("u7").attempts = 2;
        let mut second = e.bureau.last().expect("it has orders").clone();
        second.reference = second.reference.replace("-1", "-2");
        e.bureau.push(second);
    }),
    ("one_production_for_each_attempt", "a second blank for a card", |e| {
        let mut second = e.machine[0].clone();
        second.reference = e.machine[1].reference.clone();
        e.machine.remove(1);
        e.machine.push(second);
    }),
    ("one_production_for_each_attempt", "two certificates under one key", |e| e.ca.push(e.ca[0].clone())),
    ("done_is_stored", "a card that was reported is not there", |e| drop(e.cards.remove(0))),
    ("done_is_stored", "a state that was reported is not in the history", |e| drop(e.history_of_user("u1").pop())),
    ("done_is_stored", "a card is not there that was reported before the run was cut off", |e| {
        e.cut_off = std::mem::take(&mut e.runs);
        drop(e.cards.remove(0));
    }),
    ("done_is_stored", "a run counts wrongly", |e| e.runs[0].report.items += 1),
    ("cards_and_certificates_fit", "an active card with a certificate on hold", |e| {
        let certificate = e.certificate_in(CertificateState::Valid);
        *certificate = altered(certificate, "state", "on_hold");
    }),
    ("cards_and_certificates_fit", "a locked card whose certificates were left", |e| {
        let card = e.card_of_user("u1");
        *card = altered(card, "state", "locked");
    }),
    ("cards_and_certificates_fit", "a certificate was swept that was to be written", |e| {
        let certificate = e.certificate_in(CertificateState::Revoked).clone();
        let made = r#"{"id": "", "certificates": [], "card_end_state": "issued", "certificate_end_state": "on_hold",
            "pin": {"length": 6, "delivery": "print"}, "puk": {"length": 8, "delivery": "none"}}"#;
        let mut production: serde_json::Value = serde_json::from_str(made).expect("it is JSON");
        production["id"] = certificate.production.to_string().into();
        let card = e.cards.iter_mut().find(|card| card.id == certificate.card).expect("it is there");
        card.production = serde_json::from_value(production).expect("it is a production");
    }),
    ("every_change_has_its_entry", "an entry is missing", |e| drop(e.history_of_user("u4").remove(1))),
    ("every_change_has_its_entry", "two entries are swapped", |e| e.history_of_user("u4").swap(1, 2)),
    ("every_change_has_its_entry", "an entry was edited", |e| e.history_of_user("u4")[1].code = "created".into()),
    ("every_change_has_its_entry", "a state changed without an entry", |e| {
        let card = e.card_of_user("u1");
        *card = altered(card, "state", "inactive");
    }),
    ("every_change_has_its_entry", "a change without an entry", |e| e.card_of_user("u1").version = 99),
    ("every_change_has_its_entry", "the feed leaves one out", |e| drop(e.feed.remove(0))),
    ("every_change_has_its_entry", "the feed gives one twice", |e| e.feed.push(e.feed[0].clone())),
    ("every_change_has_its_entry", "an object was removed whole", |e| {
        let card = e.cards.remove(0);
        e.histories.remove(&ObjectId::Card(card.id));
        e.feed.retain(|entry| entry.object != ObjectId::Card(card.id));
    }),
    ("every_change_has_its_entry", "what was there before is no longer", |e| {
        let first = e.before.values_mut().next().expect("there is history");
        first.push(first[0].clone());
    }),
    ("no_card_moves_backwards", "a produced card is ordered again", |e| {
        let history = e.history_of_user("u4");
        let mut back = history.last().expect("it has one").clone();
        (back.from, back.to, back.code) = (Some("produced".into()), "ordered".into(), "status".into());
        history.push(back);
    }),
    ("no_card_moves_backwards", "a status of an earlier order moved the card", |e| {
        let status = e.history_of_user("u6").iter_mut().rfind(|entry| entry.code == "status");
        status.expect("it was produced").reference = Some("GC-000000".to_owned());
    }),
    ("repeated_run_adds_nothing", "a run created a card twice", |e| {
        let created = e.feed.iter().find(|entry| entry.code == "created").expect("cards were created").clone();
        e.feed.push(created);
    }),
    ("repeated_run_adds_nothing", "a run that was repeated made another card", |e| {
        let object = e.cards[0].id;
        let last = e.runs.iter_mut().rfind(|ran| ran.report.done_earlier > 0).expect("one was repeated");
        last.outcomes[0].1 = Outcome::DoneEarlier { object: Some(ObjectId::Card(object)) };
    }),
    ("repeated_run_adds_nothing", "a run that was cut off had made another card", |e| {
        let object = e.cards[0].id;
        let mut last = e.runs.iter().rfind(|ran| ran.report.done_earlier > 0).expect("one was repeated").clone();
        last.outcomes[0].1 = Outcome::DoneEarlier { object: Some(ObjectId::Card(object)) };
        e.cut_off.push(last);
    }),
    ("repeated_run_adds_nothing", "a run made more cards than it has items", |e| e.runs[0].outcomes.clear()),
    ("aborted_is_never_ordered", "the bureau makes an aborted card", |e| {
        let reference = format!("{}-1", e.order_of_user("u5").id.uuid().simple());
        e.bureau[0].reference = reference;
    }),
    ("aborted_is_never_ordered", "an ordered card was aborted", |e| {
        let history = e.history_of_user("u4");
        let mut aborted = history.last().expect("it has one").clone();
        aborted.to = "aborted".into();
        history.push(aborted);
    }),
    ("no_number_twice", "two cards have one number", |e| e.cards[1].number = e.cards[0].number.clone()),
    ("no_number_twice", "a number is not held", |e| e.held.retain(|held| !held.key.starts_with("number/"))),
    ("no_secret_is_written", "a PIN in a text", |e| e.texts.push(("a log", "VERIFY 480215739926".to_owned()))),
    ("no_secret_is_written", "a PIN as bytes", |e| e.texts.push(("a log", format!("{:?}", b"480215739926")))),
    ("one_open_order_and_one_active_card", "two open orders", |e| {
        e.card_of_user("u6").holder = e.card_of_user("u4").holder.clone();
    }),
    ("one_open_order_and_one_active_card", "two active cards", |e| {
        let mut second = e.card_of_user("u1").clone();
        second.id = CardId::new(uuid::Uuid::from_u128(1));
        e.cards.push(second);
    }),
    ("one_open_order_and_one_active_card", "a place was not given back", |e| {
        let owner = e.card_of_user("u5").id.to_string();
        e.held.push(Reservation { key: "open-order/u5".to_owned(), owner });
    }),
    ("one_open_order_and_one_active_card", "a place is held by a card that is over", |e| {
        let key = "open-order/u5".to_owned();
        let owner = e.card_of_user("u5").id.to_string();
        e.card_of_user("u5").reservations.push(key.clone());
        e.held.push(Reservation { key, owner });
    }),
    ("one_open_deciding_job", "a card waits for two", |e| {
        let second = Job { id: JobId::new(uuid::Uuid::from_u128(1)), ..e.order_of_user("u7").clone() };
        e.jobs.push(second);
    }),
    ("one_open_deciding_job", "a card waits for none", |e| e.card_of_user("u7").busy = None),
    ("one_open_deciding_job", "a card does not know of its doubt", |e| {
        e.card_of_user("u7").busy.as_mut().expect("it waits").in_doubt = false;
    }),
    ("one_open_deciding_job", "nobody follows an order", |e| {
        let card = e.card_of_user("u4");
        *card = altered(card, "state", "ordered");
    }),
    ("approved_by_another_before_it_left", "the requester approved", |e| {
        let approved = e.histories.values_mut().flatten().filter(|entry| entry.code == "approved");
        approved.for_each(|entry| entry.actor = operator().id);
    }),
    ("approved_by_another_before_it_left", "the holder approved", |e| {
        e.people.insert(approver().id, user_id("u4"));
    }),
    ("approved_by_another_before_it_left", "nobody knows who approved", |e| e.people.clear()),
    ("approved_by_another_before_it_left", "nobody has approved", |e| {
        e.requests[0] = altered(&e.requests[0], "state", "open");
    }),
    ("approved_by_another_before_it_left", "the order left before", |e| {
        e.bureau.iter_mut().for_each(|entry| entry.at -= TimeDelta::days(1));
    }),
    ("approved_by_another_before_it_left", "orders need a yes and one has none", |e| {
        e.house.orders_are_approved = true;
    }),
    ("no_message_under_two_ids", "a message that is not owed", |e| {
        e.mail[0].id = MessageId::new(uuid::Uuid::from_u128(1));
    }),
    ("no_message_under_two_ids", "the same under two ids", |e| {
        let mut second = e.mail[0].clone();
        second.id = MessageId::new(uuid::Uuid::from_u128(1));
        let first = e.jobs.iter().find(|job| job.task == Task::Notify(e.mail[0].clone())).expect("it is owed");
        let job = JobId::new(uuid::Uuid::from_u128(1));
        e.jobs.push(Job { id: job, task: Task::Notify(second.clone()), ..first.clone() });
        e.mail.push(second);
    }),
    ("doubt_is_at_most_what_was_in_flight", "something else is in doubt", |e| {
        e.crash.as_mut().expect("it died").in_flight.clear();
    }),
    ("doubt_is_at_most_what_was_in_flight", "too much was tried at once", |e| {
        e.crash.as_mut().expect("it died").at_once = 0;
    }),
    ("what_is_made_outside_is_known", "an order was forgotten", |e| {
        e.card_of_user("u4").order.as_mut().expect("it was ordered").order_id = None;
    }),
    ("what_is_made_outside_is_known", "what is in doubt is not listed", |e| {
        e.order_of_user("u7").state = JobState::Cancelled;
    }),
    ("what_is_made_outside_is_known", "a certificate was forgotten", |e| drop(e.certificates.pop())),
    ("what_is_made_outside_is_known", "a blank was forgotten", |e| {
        let prepare = e.jobs.iter_mut().find(|job| job.kind() == JobKind::PrepareCard);
        prepare.expect("a card was prepared").state = JobState::Open;
    }),
    ("ca_agrees", "the CA holds what is valid", |e| {
        let usable = e.ca.iter_mut().find(|entry| entry.state == StateAtCa::Valid);
        usable.expect("one is valid").state = StateAtCa::OnHold;
    }),
    ("ca_agrees", "the CA does not know it", |e| e.ca.clear()),
    ("every_job_is_done_or_in_doubt", "a job is left", |e| e.order_of_user("u4").state = JobState::Open),
    ("every_job_is_done_or_in_doubt", "it was tried again and again", |e| e.order_of_user("u4").attempts = 100),
    ("every_job_is_done_or_in_doubt", "it never ends", |e| e.recovered_in = None),
    ("every_job_is_done_or_in_doubt", "it takes for ever", |e| e.recovered_in = Some(TimeDelta::days(100))),
    ("no_certificate_is_left_over", "a locked card's certificate can be used", |e| {
        let revoked = e.ca.iter_mut().find(|entry| entry.state == StateAtCa::Revoked);
        revoked.expect("one is revoked").state = StateAtCa::Valid;
    }),
    ("no_certificate_is_left_over", "a spoiled card's certificate is left issued", |e| {
        let certificate = e.certificate_in(CertificateState::Revoked);
        *certificate = altered(certificate, "state", "issued");
    }),
];

#[test]
fn every_invariant_sees_what_breaks_it() {
    let week = a_week();
    let all: BTreeMap<_, _> = AT_EVERY_STEP.iter().chain(ONCE_RECOVERED).copied().collect();
    let names: Vec<Check> = AT_EVERY_STEP.iter().chain(ONCE_RECOVERED).copied().collect();
    assert_eq!(broken(&names, &week), [""; 0]);
    for (name, what, forge) in FORGERIES {
        let mut forged = week.clone();
        forge(&mut forged);
        let seen = all[name](&forged);
        assert!(seen.is_err(), "{name} does not see it: {what}");
    }
    let tried: BTreeSet<_> = FORGERIES.iter().map(|(name, ..)| *name).collect();
    assert_eq!(tried, all.into_keys().collect(), "every check can fail");
}

#[test]
fn what_is_in_doubt_is_unknown_and_not_absent() {
    let mut evidence = a_week();
    let reference = format!("{}-1", evidence.order_of_user("u7").id.uuid().simple());
    assert_eq!(evidence.knowledge(&reference), Knowledge::Unknown);
    assert_eq!(evidence.knowledge(&reference.replace("-1", "-2")), Knowledge::Absent);
    let state = evidence.end_state();
    assert_eq!(state.get("permanent card, external, of u7 1"), Some(&None), "nobody can say how it ended");
    assert!(state["permanent card, external, of u4 1"].as_ref().is_some_and(|state| state.starts_with("produced")));
    evidence.order_of_user("u7").state = JobState::Open;
    assert_eq!(evidence.knowledge(&reference), Knowledge::Absent);
}
