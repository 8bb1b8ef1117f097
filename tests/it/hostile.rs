//! Attacks: stores that are away at the worst moment, host processes that plan nonsense, work that is dropped at every await,
//! and many engines at once. Each test says what is right now.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cardwright::adapters::memory::MemoryRepository;
use cardwright::adapters::simulator::{BureauBehaviour, PlaceScript, SimulatedBureau, SimulatedClock};
use cardwright::adapters::sqlite::{SqliteOptions, SqliteRepository};
use cardwright::host::{
    AccessPolicy, CardQuery, CardRepository, Clock, CustomOutcome, Decision, JobPerformer, PlaceOutcome, UserFilter,
};
use cardwright::options::ResolvedOptions;
use cardwright::process::{
    Answer, Field, Filter, HouseRules, Item, ItemId, ItemKind, Needs, Outcome, Plan, PlanContext, Process,
    ProcessDefinition, ProcessPackage, Refusal, RefusalCode, SelfApproval, Slot,
};
use cardwright::{
    Actor, ActorId, Card, CardId, CardKind, CardState, ChainKey, ChangeSet, EngineBuilder, EngineSettings,
    Interruption, Job, JobId, JobKind, JobState, Message, MessageId, MessageKind, Recipient, Record, Report, Role,
    Route, Stamp, SymbolicName, Task, UserId, Why,
};
use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use futures::executor::block_on;

use crate::gate::{Death, Gate, Gated};
use crate::office::{
    ABORT, APPROVAL, ORDER, ORDER_SCRIPT, Office, REPEAT, RESOLVE, SYNC_ORDERS, SYNC_STATUS, UPDATE, approver, clock,
    operator, rules, service, user_id, user_item,
};
use crate::watched::{TestBureau, Watched, jobs, second, store};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const DIRECT: &str = "CardsAddonExtProdQueueCards = false";

// ---- offices and host processes ----------------------------------------------------------------------------------

/// An office whose store and bureau a test can interfere with.
struct Bugged {
    office: Office,
    store: Arc<Watched>,
    bureau: TestBureau,
    /// The store behind the one that is watched.
    repository: MemoryRepository,
    /// Another engine on the same store, with which nobody interferes.
    plain: Office,
}

impl Bugged {
    fn new() -> Self {
        Self::with(|builder| builder)
    }

    fn with(change: impl FnOnce(EngineBuilder) -> EngineBuilder) -> Self {
        let (repository, clock) = store();
        let watched = Watched::new(repository.clone());
        let plain = Office::on(repository.clone(), clock, |builder| builder);
        let bureau = TestBureau::new(plain.bureau.clone());
        let office =
            second(&plain, Arc::clone(&watched), |builder| change(builder.bureau(bureau.clone()).worker("first")));
        Self { office, store: watched, bureau, repository, plain }
    }

    /// The same with store, bureau and clock behind a gate.
    fn gated(&self) -> (Office, Gate) {
        let gate = Gate::default();
        let office = second(&self.office, Gated(self.repository.clone(), gate.clone()), |builder| {
            builder
                .bureau(Gated(self.bureau.clone(), gate.clone()))
                .clock(Gated(self.office.clock.clone(), gate.clone()))
                .worker("gated")
        });
        (office, gate)
    }

    /// One more engine on the same store, with which nobody interferes.
    fn other(&self, change: impl FnOnce(EngineBuilder) -> EngineBuilder) -> Office {
        second(&self.office, self.repository.clone(), change)
    }
}

type PlanItem = Box<dyn Fn(Item, &PlanContext<'_>) -> Result<Plan, Refusal> + Send + Sync>;

/// A process of a host that plans what a test wants.
struct HostProcess(ProcessDefinition, PlanItem);

impl Process for HostProcess {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }
    fn fields(&self, _: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        Vec::new()
    }
    fn needs(&self) -> Needs {
        Needs::nothing().user()
    }
    fn plan(&self, item: Item, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
        (self.1)(item, context)
    }
}

fn name(name: &str) -> SymbolicName {
    SymbolicName::new(name).unwrap()
}

/// A package with one process.
fn host(
    process: &str,
    items: ItemKind,
    plan: impl Fn(Item, &PlanContext<'_>) -> Result<Plan, Refusal> + Send + Sync + 'static,
) -> ProcessPackage {
    let definition = ProcessDefinition::new(name(process), process, "Host", items).fits([Slot::Batch]).even_busy();
    ProcessPackage::new().process(HostProcess(definition, Box::new(plan)))
}

/// Adds a note to a card and changes nothing else.
fn note() -> ProcessPackage {
    host("HostNote", ItemKind::Card, |mut item, context| {
        let mut card = item.take_card()?;
        let mut changes = ChangeSet::new();
        changes.note_card(&mut card, &context.stamp, Why::code("noted"));
        Ok(Plan::card(changes, card))
    })
}

/// Lets a card fail whatever it is waiting for.
fn give_up() -> ProcessPackage {
    host("HostGiveUp", ItemKind::Card, |mut item, context| {
        let mut card = item.take_card()?;
        card.busy = None;
        let mut changes = ChangeSet::new();
        changes.move_card(&mut card, CardState::Failed, &context.stamp, Why::code("host_gave_up"))?;
        Ok(Plan::card(changes, card))
    })
}

/// Performs a host's jobs with the same outcome each time, until a test wants another.
#[derive(Clone)]
struct Machine(Arc<Mutex<CustomOutcome>>);

impl Machine {
    fn new(outcome: CustomOutcome) -> Self {
        Self(Arc::new(Mutex::new(outcome)))
    }
}

#[async_trait]
impl JobPerformer for Machine {
    fn repeatable(&self) -> bool {
        false
    }
    async fn perform(&self, _: &Job) -> CustomOutcome {
        self.0.lock().unwrap().clone()
    }
}

/// Owes a user a job that is about no card, and does it at once. Only `HostMachine` can do such jobs.
fn owe(machine: &Machine) -> ProcessPackage {
    host("HostOwe", ItemKind::User, |mut item, context| {
        let user = item.take_user()?;
        let performer = if user.id == user_id("u2") { "HostNobody" } else { "HostMachine" };
        let job = JobId::derive(context.run, &item.id.to_string(), "job");
        let task = Task::Custom { performer: name(performer), data: serde_json::Value::Null };
        let mut changes = ChangeSet::new();
        changes.jobs.push(Job::new(job, task, None, &context.stamp));
        Ok(Plan::store(changes, Outcome::Done { object: None, state: "owed".into() }).then_perform(job))
    })
    .performer(name("HostMachine"), machine.clone())
}

fn users(numbers: impl IntoIterator<Item = u32>) -> Answer {
    Answer::ids(numbers.into_iter().map(|number| user_item(&format!("u{number}"))))
}

fn cards(office: &Office) -> Vec<Card> {
    block_on(office.engine.card_page(&CardQuery::default(), None, 10_000)).unwrap()
}

fn is_in_doubt(card: &Card) -> bool {
    card.busy.as_ref().is_some_and(|busy| busy.in_doubt)
}

fn code(outcome: &Outcome) -> RefusalCode {
    match outcome {
        Outcome::Refused(refusal) => refusal.code.clone(),
        other => panic!("refused, not {other:?}"),
    }
}

/// What must hold whatever happened: histories verify, a user has one open order, what a card waits for exists and is of the
/// same opinion, and no job was ordered twice.
fn assert_sound(office: &Office, label: &str) {
    let orders = jobs(office, JobKind::PlaceOrder);
    let mut open: BTreeMap<UserId, u32> = BTreeMap::new();
    for card in cards(office) {
        let verified = block_on(office.engine.verify_card(&card)).unwrap();
        assert!(verified.is_ok(), "{label}: {verified:?}");
        if card.is_open_order() {
            *open.entry(card.holder.clone().unwrap()).or_default() += 1;
        }
        match &card.busy {
            Some(busy) => {
                let job = orders.iter().find(|job| job.id == busy.job).expect("what a card waits for exists");
                let expected = if busy.in_doubt { JobState::InDoubt } else { JobState::Open };
                assert_eq!(job.state, expected, "{label}: {}", card.id);
            }
            None => assert_ne!(card.state(), CardState::Processing, "{label}: {} waits for nothing", card.id),
        }
    }
    assert!(open.values().all(|count| *count == 1), "{label}: {open:?}");
    let mut ordered: BTreeMap<String, u32> = BTreeMap::new();
    for entry in office.bureau.ledger() {
        *ordered.entry(entry.reference.split('-').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    assert!(ordered.values().all(|count| *count == 1), "{label}: {ordered:?}");
}

// ---- answers survive ---------------------------------------------------------------------------------------------

#[test]
fn a_store_that_is_away_after_the_bureau_has_accepted_loses_nothing() {
    for (after, calls) in (0..3).flat_map(|after| (1..=6).map(move |calls| (after, calls))) {
        let Bugged { office, store, bureau, .. } = Bugged::new();
        let card = office.order("u1");
        let away = Arc::clone(&store);
        bureau.before_answer(move || away.be_away(after, calls));
        let report = office.sync(SYNC_ORDERS);
        store.be_back();
        let label = format!("{after} calls, then {calls} that fail: {report:?}");
        assert_eq!((office.state(card), office.bureau.ledger().len()), (CardState::Ordered, 1), "{label}");
        assert_eq!(office.card(card).order.unwrap().order_id.as_deref(), Some("GC-000001"), "{label}");
        assert_eq!((report.done.get("ordered"), report.in_doubt), (Some(&1), 0), "{label}");
        assert_eq!(office.history(card), ["created", "order_decided", "accepted"], "{label}");
        assert_eq!(block_on(office.engine.doubts(None, 10)).unwrap(), [], "{label}");
    }
}

#[test]
fn answers_whose_commit_was_stored_unheard_are_counted_and_the_sync_goes_on() {
    for lost in 0..3 {
        let Bugged { office, store, .. } =
            Bugged::with(|b| b.settings(EngineSettings::new().chunk(3).orders_per_call(3)));
        office.run(ORDER, &operator(), users(1..=9));
        store.lose_answers((0..3).map(|commit| commit == lost));
        let report = office.sync(SYNC_ORDERS);
        assert_eq!((report.done.get("ordered"), report.interrupted.as_ref()), (Some(&9), None), "{lost}: {report:?}");
        assert_eq!((report.in_doubt, office.bureau.ledger().len()), (0, 9), "{lost}: {report:?}");
        assert!(cards(&office).iter().all(|card| card.state() == CardState::Ordered));
        assert_sound(&office, "stored unheard");
    }
}

#[test]
fn a_late_surely_not_accepted_takes_the_doubt_away() {
    let bugged = Bugged::new();
    let Bugged { office, bureau, .. } = &bugged;
    let other = bugged.other(|builder| builder);
    let card = office.order("u1");
    bureau.next_unheard(PlaceOutcome::Unavailable { reason: "surely not accepted".to_owned() });
    bureau.before_answer(move || {
        other.clock.advance(HOUR);
        assert_eq!(other.sync(SYNC_ORDERS).in_doubt, 1, "it cannot know");
    });
    office.sync(SYNC_ORDERS);
    let job = &jobs(office, JobKind::PlaceOrder)[0];
    assert_eq!((job.state, job.attempt.as_ref()), (JobState::Open, None));
    assert!(!is_in_doubt(&office.card(card)));
    assert_eq!(office.history(card), ["created", "order_decided", "in_doubt", "not_accepted"]);
    assert_eq!(block_on(office.engine.doubts(None, 10)).unwrap(), []);

    office.clock.advance(HOUR);
    office.sync(SYNC_ORDERS);
    assert_eq!((office.state(card), office.bureau.ledger().len()), (CardState::Ordered, 1));
}

#[test]
fn one_card_that_others_keep_changing_does_not_cost_the_other_orders_of_the_call_their_answers() {
    for (changes, hot_is) in [(20, CardState::Ordered), (150, CardState::Processing)] {
        let bugged = Bugged::with(|builder| builder.package(note()));
        let office = &bugged.office;
        let other = Arc::new(bugged.other(|builder| builder.package(note())));
        let cards: Vec<CardId> = ["u1", "u2", "u3"].map(|user| office.order(user)).into();
        for _ in 0..changes {
            let (other, hot) = (Arc::clone(&other), cards[0]);
            bugged.store.before_commit(move || {
                other.one("HostNote", &operator(), ItemId::Card(hot), &[]);
            });
        }
        let report = office.sync(SYNC_ORDERS);
        let states: Vec<CardState> = cards.iter().map(|card| office.state(*card)).collect();
        assert_eq!(states, [hot_is, CardState::Ordered, CardState::Ordered], "{changes}: {report:?}");
        assert_eq!(office.bureau.ledger().len(), 3);
        // However that went on: nothing is sent again.
        office.clock.advance(DAY);
        office.sync(SYNC_ORDERS);
        assert_eq!(is_in_doubt(&office.card(cards[0])), hot_is == CardState::Processing);
        assert_eq!(office.bureau.ledger().len(), 3);
        assert_sound(office, "hot");
    }
}

// ---- plans that cannot be stored ---------------------------------------------------------------------------------

/// A store in memory, or on a file in this folder.
fn any_store(folder: Option<&Path>, clock: &SimulatedClock) -> Arc<dyn CardRepository> {
    let time: Arc<dyn Clock> = Arc::new(clock.clone());
    match folder {
        None => Arc::new(MemoryRepository::new(time)),
        Some(folder) => {
            Arc::new(SqliteRepository::open_with(folder.join("office.db"), SqliteOptions::new(time)).unwrap())
        }
    }
}

#[test]
fn a_plan_that_cannot_be_stored_is_refused_alone() {
    type Spoil = fn(&mut ChangeSet, &Card);
    let spoilt: [(&str, Spoil); 3] = [
        ("without its history entry", |changes, _| changes.history.clear()),
        ("with the same card twice", |changes, card| changes.put_card(card.clone())),
        ("with one history entry twice", |changes, _| changes.history.extend(changes.history.clone())),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (what, spoil) in spoilt {
        for sqlite in [false, true] {
            let label = format!("{what}, SQLite {sqlite}");
            let folder = folder.path().join(what);
            std::fs::create_dir_all(&folder).unwrap();
            let package = host("HostNote", ItemKind::Card, move |mut item, context| {
                let mut card = item.take_card()?;
                let mut changes = ChangeSet::new();
                changes.note_card(&mut card, &context.stamp, Why::code("noted"));
                if card.holder == Some(user_id("u2")) {
                    spoil(&mut changes, &card);
                }
                Ok(Plan::card(changes, card))
            });
            let clock = clock();
            let store = any_store(sqlite.then_some(folder.as_path()), &clock);
            let office = Office::on(store, clock, |builder| builder.package(package));
            let cards: Vec<CardId> = (1..=6).map(|number| office.order(&format!("u{number}"))).collect();
            let selected = Answer::ids(cards.iter().copied().map(ItemId::Card));
            let (report, outcomes) = office.run("HostNote", &operator(), selected);
            assert_eq!(report.done.get("processing"), Some(&5), "{label}: {report:?}");
            assert_eq!((code(&outcomes[1].1), report.interrupted), (RefusalCode::BadPlan, None), "{label}");
            assert_eq!(office.history(cards[1]), ["created", "order_decided"], "{label}");
            assert_eq!(office.history(cards[0]), ["created", "order_decided", "noted"], "{label}");
            // It is a card like the others ever after.
            let report = office.sync(SYNC_ORDERS);
            assert_eq!((report.done.get("ordered"), report.interrupted), (Some(&6), None), "{label}");
            assert_sound(&office, &label);
        }
    }
}

#[test]
fn a_plan_of_two_new_cards_draws_one_number() {
    let package = host("HostTwoCards", ItemKind::User, |item, context| {
        let mut changes = ChangeSet::new();
        let [first, _] = ["first", "other"].map(|purpose| {
            let id = CardId::derive(context.run, &item.id.to_string(), purpose);
            let why = Why::code("created");
            let (card, entry) = Card::create(id, CardKind::Permanent, Route::Local, &context.stamp, why);
            changes.history.push(entry);
            changes.put_card(card.clone());
            card
        });
        Ok(Plan::store(changes, Outcome::card(&first)).with_number(CardKind::Permanent))
    });
    let office = Office::with(|builder| builder.package(package));
    let (report, _) = office.run("HostTwoCards", &operator(), users(1..=3));
    assert_eq!((report.done.get("registered"), report.interrupted), (Some(&3), None));
    let cards = cards(&office);
    let numbers: BTreeSet<String> = cards.iter().filter_map(|card| card.number.clone()).collect();
    assert_eq!((cards.len(), numbers.len()), (6, 3));
    assert_eq!(cards.iter().filter(|card| card.number.is_some()).count(), 3, "one of each two");
}

#[test]
fn items_of_one_chunk_that_change_the_same_record_all_get_done() {
    let (repository, clock) = store();
    let books = repository.clone();
    let package = host("HostCount", ItemKind::User, move |_, _| {
        let key = "host/department".to_owned();
        let held = books.records(std::slice::from_ref(&key)).now_or_never().expect("memory does not wait").unwrap();
        let mut record = held.into_iter().next().unwrap_or_else(|| Record::new(key, serde_json::json!(0)));
        record.value = serde_json::json!(record.value.as_u64().unwrap_or_default() + 1);
        let mut changes = ChangeSet::new();
        changes.records.push(record);
        Ok(Plan::store(changes, Outcome::Done { object: None, state: "counted".into() }))
    });
    let settings = EngineSettings::new().chunk(10);
    let office = Office::on(repository.clone(), clock, |builder| builder.settings(settings).package(package));
    let (report, _) = office.run("HostCount", &operator(), users(1..=10));
    assert_eq!((report.done.get("counted"), report.interrupted), (Some(&10), None), "{:?}", report.refused);
    let record = block_on(repository.records(&["host/department".to_owned()])).unwrap().remove(0);
    assert_eq!(record.value, serde_json::json!(10));
}

// ---- what becomes of a run ---------------------------------------------------------------------------------------

/// Orders three chunks at once, one of which (from 0) is dropped when it waits for the so manieth time, and asked for again.
fn chunk_dropped(chunk: usize, waits: usize, stop: bool) -> (Bugged, Report, bool) {
    let bugged = Bugged::new();
    bugged.plain.script(ORDER_SCRIPT, DIRECT);
    let (office, gate) = bugged.gated();
    let run = block_on(office.engine.open(ORDER, &operator())).unwrap();
    let mut execution = block_on(office.engine.next(&run, users(1..=10))).unwrap();
    let mut outcomes = Vec::new();
    for _ in 0..chunk {
        outcomes.extend(block_on(execution.next_chunk()).unwrap().unwrap());
    }
    let (done, _) = gate.pass(Death::Waiting(waits), execution.next_chunk());
    let dropped = done.is_none();
    outcomes.extend(done.into_iter().flat_map(|chunk| chunk.unwrap().unwrap()));
    if stop {
        execution.stop_handle().stop();
    }
    while let Some(chunk) = block_on(execution.next_chunk()).unwrap() {
        outcomes.extend(chunk);
    }
    let report = execution.report().clone();
    let items: BTreeSet<ItemId> = outcomes.iter().map(|(item, _)| item.clone()).collect();
    assert_eq!((outcomes.len(), items.len(), report.items), (10, 10, 10), "dropped at wait {waits}: {report:?}");
    (bugged, report, dropped)
}

#[test]
fn a_chunk_that_was_dropped_in_the_middle_and_is_asked_for_again_gives_every_item_its_outcome() {
    for (chunk, waits) in (0..3).flat_map(|chunk| (1..30).map(move |waits| (chunk, waits))) {
        let (Bugged { plain: office, .. }, report, dropped) = chunk_dropped(chunk, waits, false);
        let label = format!("chunk {chunk} dropped at wait {waits}: {report:?}");
        assert_eq!(report.done_in_all() + report.done_earlier + report.in_doubt, 10, "{label}");
        assert_eq!(cards(&office).len(), 10, "{label}");
        assert_sound(&office, &label);
        office.clock.advance(HOUR);
        office.sync(SYNC_ORDERS);
        let settled = |card: &Card| card.state() == CardState::Ordered || is_in_doubt(card);
        assert!(cards(&office).iter().all(settled), "{label}");
        assert_sound(&office, &label);
        assert!(dropped || waits > 10, "{waits} are few places");
        assert!(!dropped || waits < 29, "{waits} are not all places");
    }
}

#[test]
fn a_run_stopped_with_a_dropped_chunk_at_hand_finishes_that_chunk_first() {
    let (_, report, dropped) = chunk_dropped(1, 3, true);
    assert!(dropped);
    assert_eq!(report.refused.get(&RefusalCode::Stopped), Some(&2), "{report:?}");
    let (ordered, queued) = (report.done.get("ordered"), report.done.get("processing"));
    assert_eq!((ordered, queued), (Some(&4), Some(&4)), "stored, and not sent any more: {report:?}");
    assert_eq!(report.interrupted, Some(Interruption::Stopped));
}

#[test]
fn a_run_that_is_stopped_after_its_last_chunk_is_not_interrupted() {
    let office = Office::new();
    for answer in [users(1..=4), Answer::all(Filter::Users(UserFilter::default()))] {
        let report = block_on(async {
            let run = office.engine.open(ORDER, &operator()).await.unwrap();
            let mut execution = office.engine.next(&run, answer).await.unwrap();
            let mut chunks = if execution.progress().total.is_some() { 1 } else { 3 };
            while chunks > 0 {
                execution.next_chunk().await.unwrap().unwrap();
                chunks -= 1;
            }
            execution.stop_handle().stop();
            execution.finish().await.unwrap()
        });
        assert_eq!(report.interrupted, None, "{report:?}");
        assert!(!report.refused.contains_key(&RefusalCode::Stopped), "{report:?}");
    }
}

// ---- syncs -------------------------------------------------------------------------------------------------------

/// Denies these jobs, and nothing else.
#[derive(Clone, Default)]
struct Denied(Arc<Mutex<BTreeSet<ItemId>>>);

#[async_trait]
impl AccessPolicy for Denied {
    async fn may_start(&self, _: &Actor, _: &SymbolicName) -> Decision {
        Decision::Yes
    }
    async fn may(&self, _: &Actor, _: &SymbolicName, objects: &[ItemId]) -> Vec<Decision> {
        let denied = self.0.lock().unwrap();
        let decide = |id| if denied.contains(id) { Decision::No { reason: "not hers".into() } } else { Decision::Yes };
        objects.iter().map(decide).collect()
    }
}

#[test]
fn a_sync_refuses_a_denied_job_once_and_leaves_it_to_others() {
    let denied = Denied::default();
    let office = Office::with(|builder| builder.access(denied.clone()));
    let [first, hers] = ["u1", "u2"].map(|user| office.order(user));
    let job = office.card(hers).busy.unwrap().job;
    denied.0.lock().unwrap().insert(ItemId::Job(job));

    let (report, outcomes) = office.run(SYNC_ORDERS, &service(), Answer::new());
    assert_eq!(report.refused, [(RefusalCode::NotPermitted, 1)].into(), "{outcomes:?}");
    assert_eq!((report.done.get("ordered"), report.interrupted), (Some(&1), None), "{outcomes:?}");
    assert_eq!((office.state(first), office.state(hers)), (CardState::Ordered, CardState::Processing));
    assert_eq!(office.bureau.calls().placed_orders, 1);
    let stored = block_on(office.engine.jobs(&[job])).unwrap().remove(0);
    assert!(!stored.is_being_tried(office.clock.now()), "{stored:?}");

    denied.0.lock().unwrap().clear();
    assert_eq!(office.sync(SYNC_ORDERS).done.get("ordered"), Some(&1), "at once");
    assert_eq!(office.state(hers), CardState::Ordered);
}

#[test]
fn jobs_that_are_denied_do_not_stand_in_the_way_of_the_others() {
    let denied = Denied::default();
    let office = Office::with(|builder| builder.access(denied.clone()));
    // More than a chunk of them, and due before the one that is allowed.
    let hers: Vec<CardId> = (1..=9).map(|number| office.order(&format!("u{number}"))).collect();
    office.clock.advance(SECOND);
    let allowed = office.order("u10");
    denied.0.lock().unwrap().extend(hers.iter().map(|card| ItemId::Job(office.card(*card).busy.unwrap().job)));
    let report = office.sync(SYNC_ORDERS);
    assert_eq!(report.refused, [(RefusalCode::NotPermitted, 9)].into(), "each once: {report:?}");
    assert_eq!((office.state(allowed), office.bureau.ledger().len()), (CardState::Ordered, 1), "{report:?}");
}

#[test]
fn the_status_sync_does_not_place_orders() {
    let office = Office::new();
    let card = office.order("u1");
    let job = ItemId::Job(office.card(card).busy.unwrap().job);
    assert_eq!(code(&office.one(SYNC_STATUS, &service(), job.clone(), &[])), RefusalCode::WrongKind);
    assert_eq!((office.state(card), office.bureau.calls().place), (CardState::Processing, 0));
    office.one(SYNC_ORDERS, &service(), job, &[]);
    assert_eq!(office.state(card), CardState::Ordered);
}

/// A clock that is an hour behind that of the store.
#[derive(Clone)]
struct Behind(SimulatedClock);

#[async_trait]
impl Clock for Behind {
    fn now(&self) -> DateTime<Utc> {
        self.0.now() - TimeDelta::hours(1)
    }
    async fn sleep(&self, duration: Duration) {
        self.0.sleep(duration).await;
    }
}

#[test]
fn a_sync_ends_although_jobs_come_due_again_while_it_runs() {
    let (repository, clock) = store();
    let behind = Behind(clock.clone());
    let offices = [
        Office::on(repository, clock, |builder| builder.clock(behind)),
        Office::with(|b| b.settings(EngineSettings::new().chunk(4).poll_interval(Duration::from_micros(1)))),
    ];
    for office in offices {
        office.run(ORDER, &operator(), users(1..=6));
        office.sync(SYNC_ORDERS);
        for _ in 0..3 {
            office.clock.advance(HOUR);
            let chunks = block_on(async {
                let run = office.engine.open(SYNC_STATUS, &service()).await.unwrap();
                let mut execution = office.engine.next(&run, Answer::new()).await.unwrap();
                let mut chunks = 0;
                while execution.next_chunk().await.unwrap().is_some() && chunks < 50 {
                    chunks += 1;
                }
                let statuses = execution.report().unchanged;
                assert!((5..=7).contains(&statuses), "each once, and no less: {:?}", execution.report());
                chunks
            });
            assert!(chunks <= 4, "{chunks} chunks");
        }
    }
}

#[test]
fn a_rate_limit_without_end_holds_an_order_back_for_a_day() {
    let office = Office::new();
    let card = office.order("u1");
    office.bureau.next_place(PlaceScript::RateLimited(Duration::MAX));
    office.sync(SYNC_ORDERS);
    assert_eq!(jobs(&office, JobKind::PlaceOrder)[0].due, office.clock.now() + TimeDelta::days(1));
    office.clock.advance(DAY - SECOND);
    assert_eq!(office.sync(SYNC_ORDERS).items, 0);
    office.clock.advance(2 * SECOND);
    office.sync(SYNC_ORDERS);
    assert_eq!(office.state(card), CardState::Ordered);
}

#[test]
fn an_update_that_learns_nothing_says_so() {
    let office = Office::new();
    let card = office.order("u1");
    office.sync(SYNC_ORDERS);
    office.bureau.outage(office.clock.now() + TimeDelta::hours(1));
    let (report, outcomes) = office.run(UPDATE, &operator(), Answer::ids([ItemId::Card(card)]));
    assert_eq!((code(&outcomes[0].1), report.unchanged), (RefusalCode::HeldBack, 0));
    assert_eq!(office.state(card), CardState::Ordered);

    office.clock.advance(2 * HOUR);
    let outcome = office.one(UPDATE, &operator(), ItemId::Card(card), &[]);
    assert!(matches!(outcome, Outcome::Unchanged { .. }), "{outcome:?}");
}

// ---- people ------------------------------------------------------------------------------------------------------

#[test]
fn where_a_login_belongs_to_no_person_nobody_approves() {
    let nobody = Actor { person: None, ..approver() };
    let unknown = Actor { person: None, ..operator() };
    for (rule, may) in [
        (SelfApproval::Nobody, [false, false]),
        // The holder must still be told apart, and an approver who is nobody cannot be.
        (SelfApproval::Requester, [false, true]),
        (SelfApproval::Holder, [false, false]),
        (SelfApproval::Anybody, [true, true]),
    ] {
        let cases = [("an approver", operator(), &nobody), ("a requester", unknown.clone(), &approver())];
        for ((who, requester, approver), may) in cases.into_iter().zip(may) {
            let office = Office::with(|builder| builder.rules(rules().self_approval(rule)));
            office.script(ORDER_SCRIPT, "CardsAddonExtProdApproval = true");
            office.run(ORDER, &requester, users([1]));
            let card = cards(&office).remove(0);
            let request = ItemId::Request(card.request.unwrap());
            let outcome = office.one(APPROVAL, approver, request, &[("decision", "approve")]);
            if may {
                assert!(matches!(outcome, Outcome::Done { .. }), "{who} without a person, {rule:?}: {outcome:?}");
            } else {
                assert_eq!(code(&outcome), RefusalCode::Person, "{who} without a person, {rule:?}");
                assert_eq!(office.state(card.id), CardState::Requested);
            }
        }
    }
}

// ---- doubts ------------------------------------------------------------------------------------------------------

#[test]
fn an_order_id_that_was_mistyped_can_be_corrected_or_given_up() {
    for correct in [true, false] {
        let office = Office::new();
        let card = office.order("u1");
        office.bureau.next_place(PlaceScript::LoseReplyAfterAccepting);
        office.sync(SYNC_ORDERS);
        let accepted = |id| [("resolution", "accepted"), ("orderId", id), ("reason", "on the phone")];
        office.one(RESOLVE, &operator(), ItemId::Card(card), &accepted("GC-00000I"));
        let track = ItemId::Job(jobs(&office, JobKind::TrackOrder)[0].id);
        let early = office.one(RESOLVE, &operator(), track.clone(), &accepted("GC-000001"));
        assert_eq!(code(&early), RefusalCode::NotInDoubt, "nobody has seen yet that it is wrong");

        let outcome = office.one(UPDATE, &operator(), ItemId::Card(card), &[]);
        assert_eq!(code(&outcome), RefusalCode::HeldBack);
        if correct {
            let blank = office.one(RESOLVE, &operator(), track.clone(), &accepted("  "));
            assert_eq!(code(&blank), RefusalCode::OrderId);
            office.one(RESOLVE, &operator(), track, &accepted("GC-000001"));
            let order = office.card(card).order.unwrap();
            assert_eq!((order.order_id.as_deref(), order.earlier.len()), (Some("GC-000001"), 1));
            office.clock.advance(10 * DAY);
            office.sync(SYNC_STATUS);
            assert_eq!(office.state(card), CardState::Produced);
        } else {
            let values = [("resolution", "give up"), ("reason", "they have never heard of it")];
            office.one(RESOLVE, &operator(), track, &values);
            assert_eq!(office.state(card), CardState::Failed);
            office.one(REPEAT, &operator(), ItemId::Card(card), &[]);
            office.sync(SYNC_ORDERS);
            assert_eq!(office.state(card), CardState::Ordered);
        }
        assert_sound(&office, "corrected");
    }
}

/// How a job ends whose card was given up while its order was under way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Meanwhile {
    Accepted,
    Lost,
    WorkerDied,
}

#[test]
fn a_job_whose_card_no_longer_waits_for_it_is_not_polled_for_ever() {
    for meanwhile in [Meanwhile::Accepted, Meanwhile::Lost, Meanwhile::WorkerDied] {
        let bugged = Bugged::with(|builder| builder.package(give_up()));
        let office = &bugged.office;
        let other = bugged.other(|builder| builder.package(give_up()));
        let card = office.order("u1");
        let give_up = move || {
            assert!(matches!(other.one("HostGiveUp", &operator(), ItemId::Card(card), &[]), Outcome::Done { .. }))
        };
        if meanwhile == Meanwhile::WorkerDied {
            office.bureau.next_place(PlaceScript::Late(20 * SECOND));
            block_on(async {
                let run = office.engine.open(SYNC_ORDERS, &service()).await.unwrap();
                let mut execution = office.engine.next(&run, Answer::new()).await.unwrap();
                assert!(execution.next_chunk().now_or_never().is_none(), "the answer is still on its way");
            });
            give_up();
        } else {
            if meanwhile == Meanwhile::Lost {
                office.bureau.next_place(PlaceScript::LoseReplyAfterAccepting);
            }
            bugged.bureau.before_answer(give_up);
            office.sync(SYNC_ORDERS);
        }
        office.clock.advance(HOUR);
        office.sync(SYNC_ORDERS);
        assert_eq!(office.state(card), CardState::Failed);
        let job = jobs(office, JobKind::PlaceOrder).remove(0);
        if meanwhile == Meanwhile::Accepted {
            assert_eq!(job.state, JobState::Done, "{job:?}");
            assert_eq!(office.history(card).last().map(String::as_str), Some("late_acceptance"));
        } else {
            assert_eq!(job.state, JobState::InDoubt, "{meanwhile:?}: {job:?}");
            assert_eq!(block_on(office.engine.doubts(None, 10)).unwrap()[0].id, job.id);
        }
        for _ in 0..3 {
            office.clock.advance(HOUR);
            assert_eq!(office.sync(SYNC_ORDERS).items, 0, "{meanwhile:?}");
        }
        assert_eq!((office.bureau.ledger().len(), jobs(office, JobKind::PlaceOrder).remove(0)), (1, job.clone()));
        if job.state == JobState::InDoubt {
            let values = [("resolution", "give up"), ("reason", "it was never made")];
            let outcome = office.one(RESOLVE, &operator(), ItemId::Job(job.id), &values);
            assert!(matches!(outcome, Outcome::Done { .. }), "{meanwhile:?}: {outcome:?}");
            assert_eq!(block_on(office.engine.doubts(None, 10)).unwrap(), []);
        }
    }
}

// ---- a host's own jobs -------------------------------------------------------------------------------------------

#[test]
fn a_job_of_the_host_that_is_about_no_card_is_in_doubt_like_any_other() {
    let machine = Machine::new(CustomOutcome::Unknown { reason: "the machine went dark".to_owned() });
    let office = Office::with(|builder| builder.package(owe(&machine)));
    let (report, outcomes) = office.run("HostOwe", &operator(), users([1]));
    let Outcome::InDoubt { job, card: None, .. } = outcomes[0].1 else { panic!("{outcomes:?}") };
    assert_eq!(report.in_doubt, 1);
    assert_eq!(block_on(office.engine.doubts(None, 10)).unwrap()[0].id, job);

    let values = [("resolution", "accepted"), ("reason", "somebody saw it")];
    let outcome = office.one(RESOLVE, &operator(), ItemId::Job(job), &values);
    assert!(matches!(outcome, Outcome::Done { .. }), "without an order id: {outcome:?}");
    assert_eq!(block_on(office.engine.doubts(None, 10)).unwrap(), []);
}

#[test]
fn a_job_that_nobody_here_performs_is_refused_before_it_is_stored() {
    let machine = Machine::new(CustomOutcome::Done { remark: "done".to_owned() });
    let office = Office::with(|builder| builder.package(owe(&machine)));
    let (report, outcomes) = office.run("HostOwe", &operator(), users([1, 2]));
    assert_eq!((code(&outcomes[1].1), report.done_in_all()), (RefusalCode::NotEquipped, 1), "{outcomes:?}");
    assert_eq!(jobs(&office, JobKind::Custom).len(), 1);
}

#[test]
fn a_job_of_the_host_that_was_not_possible_is_done_by_the_next_sync_of_orders() {
    let machine = Machine::new(CustomOutcome::Unavailable { reason: "out of paper".to_owned() });
    let office = Office::with(|builder| builder.package(owe(&machine)));
    office.run("HostOwe", &operator(), users([1]));
    let job = jobs(&office, JobKind::Custom).remove(0);
    assert_eq!((job.state, job.attempt), (JobState::Open, None));
    *machine.0.lock().unwrap() = CustomOutcome::Done { remark: "engraved".to_owned() };
    office.clock.advance(HOUR);
    let report = office.sync(SYNC_ORDERS);
    assert_eq!((report.done.get("done"), report.interrupted), (Some(&1), None));
    assert_eq!(jobs(&office, JobKind::Custom)[0].state, JobState::Done);
}

#[test]
fn twenty_messages_about_one_card_are_each_sent_once() {
    let package = host("HostMail", ItemKind::Card, |mut item, context| {
        let mut card = item.take_card()?;
        let mut changes = ChangeSet::new();
        changes.note_card(&mut card, &context.stamp, Why::code("mail"));
        for number in 0..20 {
            let id = JobId::derive(context.run, &item.id.to_string(), &format!("message {number}"));
            let message = Message {
                id: MessageId::new(id.uuid()),
                kind: MessageKind::Custom("reminder".to_owned()),
                recipient: Recipient::Role(Role::Operator),
                data: BTreeMap::new(),
                locale: None,
            };
            changes.jobs.push(Job::new(id, Task::Notify(message), Some(card.id), &context.stamp));
        }
        Ok(Plan::card(changes, card))
    });
    let office = Office::with(|builder| builder.package(package).settings(EngineSettings::new()));
    let card = office.order("u1");
    office.one("HostMail", &operator(), ItemId::Card(card), &[]);
    let report = office.sync(SYNC_STATUS);
    assert_eq!((report.done.get("done"), report.interrupted), (Some(&20), None));
    office.clock.advance(HOUR);
    office.sync(SYNC_STATUS);
    let sent: BTreeSet<MessageId> = office.mail.sent().iter().map(|message| message.id).collect();
    assert_eq!((office.mail.sent().len(), sent.len()), (20, 20));
}

// ---- history -----------------------------------------------------------------------------------------------------

#[test]
fn a_card_read_before_it_changed_verifies_and_an_entry_slipped_in_is_found() {
    let Bugged { office, store, .. } = Bugged::new();
    let card = office.order("u1");
    let before = office.card(card);
    office.sync(SYNC_ORDERS);
    let verified = block_on(office.engine.verify_card(&before)).unwrap();
    assert_eq!(verified.ok(), Some(3), "what came after continues what was there");

    // A forger who knows the rules: the entry continues the chain, as no key is set. Only the card does not know of it.
    let (actor, process) = (ActorId::new("mallory").unwrap(), name("HostNote"));
    let (at, key) = (office.clock.now(), ChainKey::none());
    let stamp = Stamp { at, actor: &actor, process: &process, run: None, key: &key };
    store.forge(office.card(card).note(&stamp, Why::code("forged")));
    for known in [before, office.card(card)] {
        let verified = block_on(office.engine.verify_card(&known)).unwrap();
        assert!(verified.is_err(), "read at version {}: {verified:?}", known.version);
    }
}

// ---- many at once ------------------------------------------------------------------------------------------------

/// What one clerk does, again and again.
fn clerk(office: &Office, kind: usize) {
    let in_state = |state| Filter::Cards(CardQuery { states: vec![state], ..CardQuery::default() });
    match kind % 4 {
        0 | 1 => drop(office.run(ORDER, &operator(), users(1..=10))),
        2 => drop(office.sync(SYNC_ORDERS)),
        _ => {
            office.run(ABORT, &operator(), Answer::all(in_state(CardState::Processing)));
            office.run(REPEAT, &operator(), Answer::all(in_state(CardState::Failed)));
            office.sync(SYNC_STATUS);
        }
    }
}

#[test]
fn many_engines_at_once_on_one_store_lose_nothing_and_order_nothing_twice() {
    const ENGINES: usize = 4;
    let folder = tempfile::tempdir().unwrap();
    let drawn = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    for (seed, sqlite) in [1, 2, drawn].into_iter().flat_map(|seed| [(seed, false), (seed, true)]) {
        let label = format!("seed {seed}, SQLite {sqlite}");
        println!("{label}");
        let clock = clock();
        let folder = folder.path().join(seed.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        let memory = any_store(None, &clock);
        let open = || if sqlite { any_store(Some(&folder), &clock) } else { Arc::clone(&memory) };
        let bureau = SimulatedBureau::new(seed, Arc::new(clock.clone()));
        bureau.behave(if seed % 2 == 0 { BureauBehaviour::poor() } else { BureauBehaviour::calm() });
        let first = Office::on(open(), clock.clone(), |builder| builder.bureau(bureau.clone()));
        let first = Office { bureau, ..first };
        first.script(ORDER_SCRIPT, if seed % 3 == 0 { DIRECT } else { "" });
        let offices: Vec<Office> = (0..ENGINES)
            .map(|engine| second(&first, open(), |builder| builder.worker(format!("engine {engine}"))))
            .collect();
        std::thread::scope(|scope| {
            for (engine, office) in offices.iter().enumerate() {
                scope.spawn(move || (0..4).for_each(|round| clerk(office, engine + round)));
            }
        });
        first.clock.advance(2 * HOUR);
        first.sync(SYNC_ORDERS);
        assert_sound(&first, &label);

        // What the bureau makes is known to its card, or the card is in doubt.
        let cards = cards(&first);
        let orders = cards.iter().filter_map(|card| card.order.as_ref());
        let known: BTreeSet<&String> = orders.flat_map(|order| order.order_id.iter().chain(&order.earlier)).collect();
        let unknown = first.bureau.ledger().into_iter().filter(|entry| !known.contains(&entry.order_id)).count();
        let in_doubt = cards.iter().filter(|card| is_in_doubt(card)).count();
        assert!(unknown <= in_doubt, "{label}: {unknown} unknown, {in_doubt} in doubt");
        assert!(!first.bureau.ledger().is_empty(), "{label}: something was ordered");
    }
}
