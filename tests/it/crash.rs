//! A worker that dies at every single call to the store or the outside, before it and after it, or wherever it waits. Somebody else
//! finds what it left, finishes its run, and lets the syncs do the rest. Nothing is lost, nothing is done twice, and in the end all
//! is as if nobody had died, but for what is in doubt.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cardwright::adapters::memory::{MemoryRepository, MemoryUsers, RecordingNotifier};
use cardwright::adapters::simulator::{
    BureauBehaviour, CaBehaviour, ChangeScript, FinishScript, IssueScript, PersonalizerBehaviour, PlaceScript,
    PrepareScript, SimulatedBureau, SimulatedCa, SimulatedClock, SimulatedPersonalizer,
};
use cardwright::adapters::sqlite::{SqliteOptions, SqliteRepository};
use cardwright::host::{AllowAll, CardRepository, CertificateQuery, Clock as _, JobQuery, RequestQuery};
use cardwright::options::OptionSource;
use cardwright::process::{Answer, ItemId, Outcome, Slot};
use cardwright::{
    Actor, CardId, CardState, CertificateState, Engine, EngineSettings, Job, JobId, JobState, ObjectId, StateAtCa,
};
use chrono::TimeDelta;
use futures::executor::block_on;
use tempfile::TempDir;

use crate::database::{Simulated, runtime};
use crate::eavesdropping::{Eavesdropper, Log, Seeded};
use crate::gate::{Death, Gate, Gated, Passed};
use crate::invariants::{AT_EVERY_STEP, Crash, Evidence, ONCE_RECOVERED, Ran, broken};
use crate::office::{
    ABORT, ABORT_REQUEST, ACTIVATE, APPROVAL, CARD_SCRIPT, ISSUE, LOCK, ORDER, ORDER_SCRIPT, ORDER_TEMPORARY, Office,
    REPEAT, REPEAT_PRODUCTION, REQUEST, RESOLVE, SYNC_ORDERS, SYNC_ORPHANS, SYNC_PRODUCTION, SYNC_STATUS,
    TEMPORARY_SCRIPT, UPDATE, administrator, approver, clock, operator, person, run_id, service, user_item,
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How many orders, cards and certificates a worker tries at once.
const AT_ONCE: usize = 2;

/// How many items it takes at once; more than it tries.
const CHUNK: usize = 3;

/// The run of the worker that dies.
const RUN: u128 = 9;

// ---- the scenarios ---------------------------------------------------------------------------------------------------

/// Something that a worker does and may die of.
struct Scenario {
    name: &'static str,
    /// Whether something may be in doubt in the end, for it can neither be looked for nor be repeated.
    doubt: Doubt,
    /// What is there before, and what is done then.
    prepare: fn(&Office) -> Act,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    Never,
    Perhaps,
}
use Doubt::{Never, Perhaps};

/// What the worker does.
enum Act {
    Run(&'static str, Actor, Answer),
    SetOptions(&'static str, &'static str),
    Enable(&'static str, Slot),
    Disable(&'static str, Slot),
}

/// Every process and sync that comes with the library, and what an administrator does.
const SCENARIOS: &[Scenario] = &[
    scenario("order cards, queued", Never, |_| run(ORDER, users(4))),
    scenario("order cards, sent at once", Perhaps, |office| {
        office.script(ORDER_SCRIPT, DIRECT);
        run(ORDER, users(4))
    }),
    scenario("order cards, with approval", Never, |office| {
        office.script(ORDER_SCRIPT, "CardsAddonExtProdApproval = true");
        run(ORDER, users(2))
    }),
    scenario("order temporary cards, queued", Never, |office| {
        office.script(TEMPORARY_SCRIPT, VISITOR);
        run(ORDER_TEMPORARY, Answer::new().with("amount", "2"))
    }),
    scenario("order temporary cards, sent at once", Perhaps, |office| {
        office.script(TEMPORARY_SCRIPT, &format!("{VISITOR}\nTempCardsAddonExtProdQueueCards = false"));
        run(ORDER_TEMPORARY, Answer::new().with("amount", "2"))
    }),
    scenario("send what is queued", Perhaps, |office| {
        order(office, 3);
        sync(SYNC_ORDERS)
    }),
    scenario("send what is queued to a bureau that can look", Perhaps, |office| {
        office.bureau.behave(BureauBehaviour::calm().can_look(true));
        order(office, 2);
        sync(SYNC_ORDERS)
    }),
    scenario("send what is queued to a bureau that finds things late", Perhaps, |office| {
        office.bureau.behave(BureauBehaviour::calm().can_look(true).found_late(DAY));
        order(office, 1);
        sync(SYNC_ORDERS)
    }),
    scenario("send what is queued to a bureau that is idempotent", Never, |office| {
        office.bureau.behave(BureauBehaviour::rich());
        order(office, 2);
        sync(SYNC_ORDERS)
    }),
    scenario("send what the bureau refuses", Perhaps, |office| {
        office.bureau.every_place_where(|_| true, PlaceScript::Refuse("sold out".to_owned()));
        order(office, 1);
        sync(SYNC_ORDERS)
    }),
    scenario("bring orders up to date", Never, |office| {
        ordered(office, 2);
        office.clock.advance(5 * DAY);
        sync(SYNC_STATUS)
    }),
    scenario("update orders", Never, |office| {
        let cards = ordered(office, 2);
        office.clock.advance(5 * HOUR);
        run(UPDATE, items(cards))
    }),
    scenario("update temporary orders", Never, |office| {
        let cards = temporary(office, 2);
        office.sync(SYNC_ORDERS);
        office.clock.advance(5 * HOUR);
        run("TempCardsAddonExtProdProcUpdate", items(cards))
    }),
    scenario("abort an approved card", Never, |office| {
        let card = office.request("u1");
        run("CardsProcAbort", Answer::ids([ItemId::Card(card)]))
    }),
    scenario("abort orders", Never, |office| {
        let cards = order(office, 3);
        run(ABORT, items(cards[..2].to_vec()))
    }),
    scenario("abort temporary orders", Never, |office| {
        let cards = temporary(office, 3);
        run("TempCardsAddonExtProdProcAbort", items(cards[..2].to_vec()))
    }),
    scenario("repeat an order, queued", Never, |office| run(REPEAT, items(refused(office)))),
    scenario("repeat an order, sent at once", Perhaps, |office| {
        let cards = refused(office);
        office.script(ORDER_SCRIPT, DIRECT);
        run(REPEAT, items(cards))
    }),
    scenario("approve orders, queued", Never, |office| decide(office, 2, "approve")),
    scenario("approve orders, sent at once", Perhaps, |office| {
        let act = decide(office, 2, "approve");
        office.script(ORDER_SCRIPT, &format!("CardsAddonExtProdApproval = true\n{DIRECT}"));
        act
    }),
    scenario("reject orders", Never, |office| decide(office, 2, "reject")),
    scenario("postpone requests", Never, |office| decide(office, 2, "postpone")),
    scenario("withdraw requests", Never, |office| {
        let Act::Run(_, _, answer) = decide(office, 2, "approve") else { unreachable!() };
        run(ABORT_REQUEST, Answer { values: BTreeMap::new(), ..answer })
    }),
    scenario("request cards", Never, |_| run(REQUEST, users(2))),
    scenario("request cards, with approval", Never, |office| {
        office.script(CARD_SCRIPT, "CardsBatchRequestApproval = true");
        run(REQUEST, users(2))
    }),
    scenario("approve cards that are made here", Never, |office| {
        office.script(CARD_SCRIPT, "CardsBatchRequestApproval = true");
        office.run(REQUEST, &operator(), users(2));
        Act::Run(APPROVAL, approver(), requests(office).with("decision", "approve"))
    }),
    scenario("issue cards, on hold", Perhaps, |office| {
        let cards = requested(office, 2, "");
        run(ISSUE, items(cards))
    }),
    scenario("issue a card that was approved, makes its own keys and is active then", Perhaps, |office| {
        office.personalizer.behave(PersonalizerBehaviour::calm().makes_keys(true));
        office.script(CARD_SCRIPT, &format!("{SECRETS}{ACTIVE}{ONE}\nCardsBatchRequestApproval = true"));
        let (_, made) = office.run(REQUEST, &operator(), users(1));
        office.run(APPROVAL, &approver(), requests(office).with("decision", "approve"));
        run(ISSUE, items(cards_of(&made)))
    }),
    scenario("issue a card that makes its own keys, where the CA cannot look", Perhaps, |office| {
        office.ca.behave(CaBehaviour::calm().can_look(false));
        office.personalizer.behave(PersonalizerBehaviour::calm().makes_keys(true));
        let cards = requested(office, 1, ONE);
        run(ISSUE, items(cards))
    }),
    scenario("issue a card for which the CA refuses a certificate", Perhaps, |office| {
        office.ca.behave(CaBehaviour::calm().refusing("signature"));
        let cards = requested(office, 1, "");
        run(ISSUE, items(cards))
    }),
    scenario("repeat a production", Perhaps, |office| run(REPEAT_PRODUCTION, items(spoiled(office)))),
    scenario("go on with productions", Perhaps, |office| {
        office.personalizer.next_finish(FinishScript::Jam);
        issued(office, 1);
        office.clock.advance(HOUR);
        sync(SYNC_PRODUCTION)
    }),
    scenario("go on with a production that fails", Perhaps, |office| {
        office.personalizer.next_finish(FinishScript::Jam);
        issued(office, 1);
        office.personalizer.next_finish(FinishScript::Spoil("bent".to_owned()));
        office.clock.advance(HOUR);
        sync(SYNC_PRODUCTION)
    }),
    scenario("sweep what a failed production left", Never, |office| {
        spoiled(office);
        sync(SYNC_ORPHANS)
    }),
    scenario("activate cards", Never, |office| run(ACTIVATE, items(issued(office, 1)))),
    scenario("lock cards", Never, |office| {
        let cards = issued(office, 2);
        office.one(ACTIVATE, &operator(), ItemId::Card(cards[0]), &[]);
        run(LOCK, items(cards).with("reason", "keyCompromise"))
    }),
    scenario("revoke what could not be revoked at once", Never, |office| {
        let cards = issued(office, 1);
        office.ca.outage(office.clock.now() + TimeDelta::minutes(5));
        office.run(LOCK, &operator(), items(cards));
        office.clock.advance(HOUR);
        sync(SYNC_PRODUCTION)
    }),
    scenario("settle an order: accepted", Never, |office| {
        resolve(office, lost(office, PlaceScript::LoseReplyAfterAccepting), "accepted").order_id("GC-000001")
    }),
    scenario("settle an order: send again", Never, |office| {
        resolve(office, lost(office, PlaceScript::LoseReplyBeforeAccepting), "send again")
    }),
    scenario("settle an order: give up", Never, |office| {
        resolve(office, lost(office, PlaceScript::LoseReplyBeforeAccepting), "give up")
    }),
    scenario("settle an order whose id the bureau does not know: corrected", Never, |office| {
        resolve(office, misnamed(office, PlaceScript::LoseReplyAfterAccepting), "accepted").order_id("GC-000001")
    }),
    scenario("settle an order whose id the bureau does not know: give up", Never, |office| {
        resolve(office, misnamed(office, PlaceScript::LoseReplyBeforeAccepting), "give up")
    }),
    scenario("settle a card that may be prepared: send again", Never, |office| {
        office.personalizer.next_prepare(PrepareScript::LoseReplyBeforePreparing);
        resolve(office, in_production(office), "send again")
    }),
    scenario("settle a card that may be prepared: spoiled", Never, |office| {
        office.personalizer.next_prepare(PrepareScript::LoseReplyAfterPreparing);
        resolve(office, in_production(office), "spoiled")
    }),
    scenario("settle a card that may be finished: good card", Never, |office| {
        office.personalizer.next_finish(FinishScript::LoseReplyAfterFinishing);
        resolve(office, in_production(office), "good card")
    }),
    scenario("settle a card that may be finished: spoiled", Never, |office| {
        office.personalizer.next_finish(FinishScript::LoseReplyAfterSpoiling);
        resolve(office, in_production(office), "spoiled")
    }),
    scenario("settle a certificate that may be issued: send again", Never, |office| {
        office.ca.behave(CaBehaviour::calm().can_look(false));
        office.personalizer.behave(PersonalizerBehaviour::calm().makes_keys(true));
        office.ca.next_issue(IssueScript::LoseReplyAfterIssuing);
        resolve(office, in_production(office), "send again")
    }),
    scenario("give up a production that gets nowhere", Never, |office| {
        office.ca.next_issue(IssueScript::IssueAfter(2 * DAY));
        resolve(office, in_production(office), "give up")
    }),
    scenario("settle a revocation: done by hand", Never, |office| {
        let card = issued(office, 1)[0];
        office.ca.next_revoke(ChangeScript::Refuse("not mine".to_owned()));
        office.run(LOCK, &operator(), items([card]));
        for certificate in office.certificates(card) {
            office.ca.set_state(&certificate.issued.serial, StateAtCa::Revoked);
        }
        resolve(office, doubt(office), "accepted")
    }),
    scenario("settle a removal of a hold: send again", Never, |office| {
        let cards = issued(office, 1);
        office.ca.next_remove_hold(ChangeScript::Refuse("not now".to_owned()));
        office.run(ACTIVATE, &operator(), items(cards));
        resolve(office, doubt(office), "send again")
    }),
    scenario("put options in force", Never, |_| Act::SetOptions(ORDER_SCRIPT, DIRECT)),
    scenario("put options in force again", Never, |office| {
        office.script(ORDER_SCRIPT, "CardsAddonExtProdMultipleCards = true");
        Act::SetOptions(ORDER_SCRIPT, DIRECT)
    }),
    scenario("enable a process", Never, |office| {
        let slot = Slot::Card(CardState::Issued);
        block_on(office.engine.disable(LOCK, slot, &administrator())).expect("it is off");
        Act::Enable(LOCK, slot)
    }),
    scenario("disable a process", Never, |_| Act::Disable(LOCK, Slot::Card(CardState::Issued))),
];

const DIRECT: &str = "CardsAddonExtProdQueueCards = false";
const VISITOR: &str = "TempCardsAddonExtProdProductionType = \"visitor\"";
const ACTIVE: &str = "CardsCardEndState = \"active\"\nCardsCertificateEndState = \"valid\"\n";
/// One certificate is enough.
const ONE: &str = "CardsCertificates = { signature = false }";
/// PIN and PUK so long that none is in a text by chance.
const SECRETS: &str = "CardsPINLength = 12\nCardsPUKLength = 12\nCardsPUKDeliveryMethod = \"print\"\n";

const fn scenario(name: &'static str, doubt: Doubt, prepare: fn(&Office) -> Act) -> Scenario {
    Scenario { name, doubt, prepare }
}

fn run(process: &'static str, answer: Answer) -> Act {
    Act::Run(process, operator(), answer)
}

fn sync(process: &'static str) -> Act {
    Act::Run(process, service(), Answer::new())
}

fn resolve(office: &Office, item: ItemId, resolution: &str) -> Act {
    let answer = Answer::ids([item]).with("resolution", resolution).with("reason", "somebody looked");
    run(RESOLVE, office.naming_the_doubt(answer))
}

impl Act {
    fn order_id(self, id: &str) -> Self {
        match self {
            Self::Run(process, actor, answer) => Self::Run(process, actor, answer.with("orderId", id)),
            other => other,
        }
    }
}

fn users(count: u32) -> Answer {
    Answer::ids((1..=count).map(|number| user_item(&format!("u{number}"))))
}

fn items(cards: impl IntoIterator<Item = CardId>) -> Answer {
    Answer::ids(cards.into_iter().map(ItemId::Card))
}

fn cards_of(outcomes: &[(ItemId, Outcome)]) -> Vec<CardId> {
    let card = |outcome: &Outcome| match outcome {
        Outcome::Done { object: Some(ObjectId::Card(card)), .. } => *card,
        other => panic!("a card: {other:?}"),
    };
    outcomes.iter().map(|(_, outcome)| card(outcome)).collect()
}

fn order(office: &Office, count: u32) -> Vec<CardId> {
    cards_of(&office.run(ORDER, &operator(), users(count)).1)
}

fn ordered(office: &Office, count: u32) -> Vec<CardId> {
    let cards = order(office, count);
    office.sync(SYNC_ORDERS);
    cards
}

fn temporary(office: &Office, count: u32) -> Vec<CardId> {
    office.script(TEMPORARY_SCRIPT, VISITOR);
    let answer = Answer::new().with("amount", count.to_string());
    cards_of(&office.run(ORDER_TEMPORARY, &operator(), answer).1)
}

/// An order that the bureau refused.
fn refused(office: &Office) -> Vec<CardId> {
    office.bureau.next_place(PlaceScript::Refuse("sold out".to_owned()));
    ordered(office, 1)
}

/// An order whose answer was lost.
fn lost(office: &Office, script: PlaceScript) -> ItemId {
    office.bureau.next_place(script);
    ItemId::Card(ordered(office, 1)[0])
}

/// An order that a person has settled under a wrong order id.
fn misnamed(office: &Office, script: PlaceScript) -> ItemId {
    let item = lost(office, script);
    let wrong = [("resolution", "accepted"), ("orderId", "GC-9"), ("reason", "misheard")];
    office.one(RESOLVE, &operator(), item.clone(), &wrong);
    office.clock.advance(HOUR);
    office.sync(SYNC_STATUS);
    let ItemId::Card(card) = item else { unreachable!() };
    ItemId::Job(office.card(card).order.expect("it is ordered").job)
}

fn requests(office: &Office) -> Answer {
    let open = block_on(office.engine.request_page(&RequestQuery::default(), None, 100)).expect("requests can be read");
    Answer::ids(open.into_iter().map(|request| ItemId::Request(request.id)))
}

fn decide(office: &Office, count: u32, decision: &str) -> Act {
    office.script(ORDER_SCRIPT, "CardsAddonExtProdApproval = true");
    office.run(ORDER, &operator(), users(count));
    let answer = requests(office).with("decision", decision);
    Act::Run(APPROVAL, approver(), if decision == "reject" { answer.with("reason", "not now") } else { answer })
}

/// Cards that are ready to be made here.
fn requested(office: &Office, count: u32, options: &str) -> Vec<CardId> {
    office.script(CARD_SCRIPT, &format!("{SECRETS}{options}"));
    cards_of(&office.run(REQUEST, &operator(), users(count)).1)
}

fn issued(office: &Office, count: u32) -> Vec<CardId> {
    let cards = requested(office, count, "");
    office.run(ISSUE, &operator(), items(cards.clone()));
    cards
}

/// A card with one certificate that was spoiled at the end.
fn spoiled(office: &Office) -> Vec<CardId> {
    office.personalizer.next_finish(FinishScript::Spoil("bent".to_owned()));
    let cards = requested(office, 1, ONE);
    office.run(ISSUE, &operator(), items(cards.clone()));
    cards
}

/// A card whose production has stopped where the test wanted it to.
fn in_production(office: &Office) -> ItemId {
    ItemId::Card(issued(office, 1)[0])
}

/// The only job that is in doubt.
fn doubt(office: &Office) -> ItemId {
    let doubts = block_on(office.engine.doubts(None, 10)).expect("doubts can be read");
    assert_eq!(doubts.len(), 1);
    ItemId::Job(doubts[0].id)
}

// ---- the world ---------------------------------------------------------------------------------------------------------

/// What outlives a worker: the store and the outside.
struct World {
    gate: Gate,
    log: Log,
    /// How many runs there were: their ids are the same each time.
    runs: Arc<AtomicU64>,
    clock: SimulatedClock,
    store: Store,
    bureau: SimulatedBureau,
    ca: SimulatedCa,
    machine: SimulatedPersonalizer,
    ear: Eavesdropper,
    users: MemoryUsers,
    mail: RecordingNotifier,
}

enum Store {
    Memory(MemoryRepository),
    /// In a file, which is closed whenever a worker dies.
    File(TempDir),
    /// In a database, to which every worker has a pool of its own.
    Database(Box<Simulated>),
}

/// Where the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Memory,
    File,
    Database,
}

/// One engine on the world.
struct Worker {
    office: Office,
    store: Arc<dyn CardRepository>,
}

impl World {
    fn new(place: Place) -> Self {
        let clock = clock();
        let time = || Arc::new(clock.clone());
        let machine = SimulatedPersonalizer::new(7, time()).behaving(PersonalizerBehaviour::calm());
        Self {
            gate: Gate::default(),
            log: Log::default(),
            runs: Arc::default(),
            store: match place {
                Place::Memory => Store::Memory(MemoryRepository::new(time())),
                Place::File => Store::File(tempfile::tempdir().expect("a folder")),
                Place::Database => Store::Database(Box::new(Simulated::new(clock.clone()))),
            },
            bureau: SimulatedBureau::new(7, time()).behaving(BureauBehaviour::calm()),
            ca: SimulatedCa::new(7, time()).behaving(CaBehaviour::calm()),
            ear: Eavesdropper::new(machine.clone()),
            machine,
            users: MemoryUsers::new((1..=4).map(person)),
            mail: RecordingNotifier::new(),
            clock,
        }
    }

    fn worker(&self) -> Worker {
        let store: Arc<dyn CardRepository> = match &self.store {
            Store::Memory(store) => Arc::new(store.clone()),
            Store::File(folder) => {
                let path = folder.path().join("office.db");
                assert!(!path.with_extension("db-wal").exists(), "the file was closed");
                let options = SqliteOptions::new(Arc::new(self.clock.clone()));
                Arc::new(SqliteRepository::open_with(path, options).expect("the file opens"))
            }
            Store::Database(database) => Arc::new(database.store()),
        };
        let settings = EngineSettings::new().chunk(CHUNK).orders_per_call(AT_ONCE).statuses_per_call(AT_ONCE);
        let settings = settings.cards_at_once(AT_ONCE).certificates_at_once(AT_ONCE);
        let gated = Gated(Arc::clone(&store), self.gate.clone());
        let office = Office::on(gated, self.clock.clone(), |builder| {
            builder
                .users(Gated(self.users.clone(), self.gate.clone()))
                .bureau(Gated(self.bureau.clone(), self.gate.clone()))
                .certificate_authority(Gated(self.ca.clone(), self.gate.clone()))
                .personalizer(Gated(self.ear.clone(), self.gate.clone()))
                .notifier(Gated(self.mail.clone(), self.gate.clone()))
                .access(Gated(AllowAll, self.gate.clone()))
                .clock(Gated(self.clock.clone(), self.gate.clone()))
                .entropy(Seeded::new(7))
                .settings(settings)
        });
        let office = Office {
            bureau: self.bureau.clone(),
            ca: self.ca.clone(),
            personalizer: self.machine.clone(),
            users: self.users.clone(),
            mail: self.mail.clone(),
            runs: Some(Arc::clone(&self.runs)),
            ..office
        };
        Worker { office, store }
    }

    fn evidence(&self, worker: &Worker, runs: &[Ran]) -> Evidence {
        let mut evidence = Evidence::of(&worker.office, worker.store.as_ref());
        evidence.runs = runs.to_vec();
        evidence.secrets = self.ear.heard();
        if !evidence.secrets.is_empty() {
            evidence.texts = vec![
                ("the store or a report", evidence.as_text()),
                ("the log", self.log.text()),
                ("an engine", format!("{:?}", worker.office.engine)),
            ];
            if let Store::Database(database) = &self.store {
                evidence.texts.push(("the database", database.text()));
            }
            if let Store::File(folder) = &self.store {
                for file in std::fs::read_dir(folder.path()).expect("the folder can be read") {
                    let bytes = std::fs::read(file.expect("it is there").path()).expect("files can be read");
                    evidence.texts.push(("a file", String::from_utf8_lossy(&bytes).into_owned()));
                }
            }
        }
        evidence
    }

    /// Lets claims end and time pass, and the syncs and the sweep run that have something to do, until nothing is due any more; how
    /// long that took.
    fn recover(&self, worker: &Worker, runs: &mut Vec<Ran>) -> Option<TimeDelta> {
        let begin = self.clock.now();
        for wait in [10 * MINUTE, 5 * DAY, 5 * DAY, 5 * DAY, 5 * DAY] {
            self.clock.advance(wait);
            for process in [SYNC_ORDERS, SYNC_STATUS, SYNC_PRODUCTION, SYNC_ORPHANS] {
                if is_idle(&worker.office.engine, process) {
                    continue;
                }
                let (report, outcomes) = worker.office.run(process, &service(), Answer::new());
                runs.push(Ran { report, outcomes });
            }
            if is_idle(&worker.office.engine, "") {
                return Some(self.clock.now() - begin);
            }
        }
        None
    }
}

/// Whether there is nothing to do for a sync: no open job of its kinds (of any kind, if it has none), for the sweep no certificate
/// that is issued only.
fn is_idle(engine: &Engine, process: &str) -> bool {
    if process == SYNC_ORPHANS {
        let query = CertificateQuery { states: vec![CertificateState::Issued], ..CertificateQuery::default() };
        return block_on(engine.certificate_page(&query, None, 1)).expect("certificates can be read").is_empty();
    }
    let definition = engine.definitions().find(|definition| definition.name == process);
    let kinds = definition.map(|definition| definition.jobs.clone()).unwrap_or_default();
    let query = JobQuery { kinds, states: vec![JobState::Open] };
    block_on(engine.job_page(&query, None, 1)).expect("jobs can be read").is_empty()
}

/// Does it, or goes on with a run that was opened: such a run is kept as a host would keep it.
async fn perform(engine: &Engine, act: &Act, opened: &Mutex<Option<String>>) -> Option<Ran> {
    match act {
        Act::Run(process, actor, answer) => {
            let kept = opened.lock().expect("not poisoned").clone();
            let run = match kept {
                Some(text) => serde_json::from_str(&text).expect("a run is a plain value"),
                None => {
                    let run = engine.open_as(run_id(RUN), process, actor).await.expect("it opens");
                    let text = serde_json::to_string(&run).expect("a run is a plain value");
                    *opened.lock().expect("not poisoned") = Some(text);
                    run
                }
            };
            let mut execution = engine.next(&run, answer.clone()).await.expect("it begins");
            let mut outcomes = Vec::new();
            while let Some(chunk) = execution.next_chunk().await.expect("it goes on") {
                outcomes.extend(chunk);
            }
            Some(Ran { report: execution.report().clone(), outcomes })
        }
        Act::SetOptions(script, text) => {
            let source = OptionSource::Script((*text).to_owned());
            engine.set_options(script, source, &administrator()).await.expect("they are good");
            None
        }
        Act::Enable(process, slot) => {
            engine.enable(process, *slot, &administrator()).await.expect("it fits");
            None
        }
        Act::Disable(process, slot) => {
            engine.disable(process, *slot, &administrator()).await.expect("it fits");
            None
        }
    }
}

// ---- dying -------------------------------------------------------------------------------------------------------------

/// What came of it.
struct Tried {
    died: bool,
    passed: Passed,
    /// Once all is recovered.
    evidence: Evidence,
}

/// Lets a worker do it and perhaps die, another finish it, and all recover; `Err` says what was wrong on the way.
fn try_it(scenario: &Scenario, place: Place, death: Death) -> Result<Tried, Vec<String>> {
    let world = World::new(place);
    world.log.clone().while_listening(|| {
        let worker = world.worker();
        let act = (scenario.prepare)(&worker.office);
        let before = Evidence::of(&worker.office, worker.store.as_ref());
        let opened = Mutex::default();
        let (done, passed) = world.gate.pass(death, perform(&worker.office.engine, &act, &opened));
        let died = done.is_none();
        let mut runs: Vec<Ran> = done.flatten().into_iter().collect();
        // Work that is dropped, such as a request whose client went away, leaves its engine as it is.
        let worker = match death {
            Death::Before(_) | Death::After(_) => {
                drop(worker);
                world.worker()
            }
            Death::Waiting(_) => worker,
        };
        let mut left = world.evidence(&worker, &runs);
        left.before = before.histories.clone();
        let mut problems = broken(AT_EVERY_STEP, &left);

        let again = block_on(perform(&worker.office.engine, &act, &opened));
        let refused = again.iter().find(|again| again.report.refused_in_all() > 0);
        problems
            .extend(refused.map(|refused| format!("the second start refuses what it may do or has done: {refused:?}")));
        runs.extend(again);
        let recovered_in = world.recover(&worker, &mut runs);
        let mut evidence = world.evidence(&worker, &runs);
        evidence.recovered_in = recovered_in;
        let mut in_doubt: BTreeSet<JobId> = left.doubts();
        in_doubt.extend(being_tried(&before));
        let in_flight = being_tried(&left).filter(|job| !in_doubt.contains(job)).collect();
        evidence.crash = died.then_some(Crash { in_doubt, in_flight, at_once: AT_ONCE });
        evidence.before = left.histories;
        problems.extend(broken(AT_EVERY_STEP, &evidence));
        problems.extend(broken(ONCE_RECOVERED, &evidence));
        if problems.is_empty() { Ok(Tried { died, passed, evidence }) } else { Err(problems) }
    })
}

/// The jobs with an attempt that has no answer.
pub(crate) fn being_tried(evidence: &Evidence) -> impl Iterator<Item = JobId> {
    let tried = |job: &&Job| job.state == JobState::Open && job.attempt.is_some();
    evidence.jobs.iter().filter(tried).map(|job| job.id)
}

/// Lets a worker die at each of these points; how many there were. What went wrong is told for all of them.
fn die_at(scenario: &Scenario, place: Place, points: impl Fn(&Passed) -> Vec<Death>) -> Result<usize, String> {
    let name = scenario.name;
    let calm = try_it(scenario, place, Death::NEVER).map_err(|problems| format!("{name}: {}", problems.join("; ")))?;
    let wanted = calm.evidence.end_state();
    let refused = calm.evidence.runs.iter().take(1).find(|ran| ran.report.refused_in_all() > 0);
    assert!(refused.is_none(), "{name}: it does something: {refused:?}");
    assert!(wanted.values().all(Option::is_some), "{name}: nothing is in doubt where nobody dies");
    let points = points(&calm.passed);
    assert!(!points.is_empty(), "{name}: there is something to die of");
    let mut problems = Vec::new();
    let mut doubts = 0;
    for death in &points {
        let problem = match try_it(scenario, place, *death) {
            Ok(tried) => {
                doubts += tried.evidence.doubts().len();
                different(scenario, &wanted, &tried)
            }
            Err(problems) => Some(problems.join("; ")),
        };
        let call = match death {
            Death::Before(call) | Death::After(call) => calm.passed.calls.get(call - 1).copied().unwrap_or_default(),
            Death::Waiting(_) => "",
        };
        problems.extend(problem.map(|problem| format!("{death:?} {call}: {problem}")));
    }
    if scenario.doubt == Perhaps && doubts == 0 && points.len() >= calm.passed.waits {
        problems.push("nothing was ever in doubt".to_owned());
    }
    if !problems.is_empty() {
        return Err(format!("{name}: {} of {} points:\n{}", problems.len(), points.len(), problems.join("\n")));
    }
    let Passed { calls, waits } = calm.passed;
    println!("{name}: {} calls, {waits} waits, {} points, {doubts} doubts", calls.len(), points.len());
    Ok(points.len())
}

/// In what it differs from how it should have ended, apart from what is in doubt.
fn different(scenario: &Scenario, wanted: &BTreeMap<String, Option<String>>, tried: &Tried) -> Option<String> {
    if !tried.died {
        return Some("it did not come to this point".to_owned());
    }
    let found = tried.evidence.end_state();
    let things: BTreeSet<&String> = wanted.keys().chain(found.keys()).collect();
    let differs = |thing: &&&String| !matches!((wanted.get(**thing), found.get(**thing)), (Some(wanted), Some(found)) if found.is_none() || wanted == found);
    if let Some(thing) = things.iter().find(differs) {
        return Some(format!("{thing} is\n  {:?}, not\n  {:?}", found.get(*thing), wanted.get(*thing)));
    }
    let doubtful = found.into_iter().find(|(_, state)| state.is_none() && scenario.doubt == Doubt::Never);
    doubtful.map(|(thing, _)| format!("{thing} is in doubt"))
}

fn at_every_call(passed: &Passed) -> Vec<Death> {
    (1..=passed.calls.len()).flat_map(|call| [Death::Before(call), Death::After(call)]).collect()
}

fn at_every_wait(passed: &Passed) -> Vec<Death> {
    (1..=passed.waits).map(Death::Waiting).collect()
}

/// Goes through scenarios and tells of all that fail.
fn die_in<'a>(scenarios: impl Iterator<Item = &'a Scenario>, place: Place, points: impl Fn(&Passed) -> Vec<Death>) {
    let (mut tried, mut count, mut problems) = (0, 0, Vec::new());
    for scenario in scenarios {
        tried += 1;
        match die_at(scenario, place, &points) {
            Ok(points) => count += points,
            Err(problem) => problems.push(problem),
        }
    }
    assert!(problems.is_empty(), "{} scenarios:\n{}", problems.len(), problems.join("\n\n"));
    println!("{count} points in {tried} scenarios");
}

/// Whether every call is tried on a file too: cards are ordered and issued in it.
fn is_thorough(scenario: &Scenario) -> bool {
    ["order cards, queued", "order cards, sent at once", "issue cards, on hold"].contains(&scenario.name)
}

/// The seed of the environment variable CARDWRIGHT_SEED, or else a drawn one; printed, so that it can be given again.
pub(crate) fn seed() -> u64 {
    let drawn = || std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    let seed = std::env::var("CARDWRIGHT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(drawn);
    println!("CARDWRIGHT_SEED={seed}");
    seed
}

#[test]
fn worker_that_dies_at_any_call_loses_nothing_and_does_nothing_twice() {
    die_in(SCENARIOS.iter(), Place::Memory, at_every_call);
}

#[test]
fn work_that_is_dropped_wherever_it_waits_loses_nothing_and_does_nothing_twice() {
    die_in(SCENARIOS.iter(), Place::Memory, at_every_wait);
}

#[test]
fn worker_that_dies_while_it_orders_or_issues_leaves_a_file_that_another_opens() {
    die_in(SCENARIOS.iter().filter(|scenario| is_thorough(scenario)), Place::File, at_every_call);
}

#[test]
fn worker_that_dies_at_some_call_leaves_a_file_that_another_opens() {
    die_in(SCENARIOS.iter().filter(|scenario| !is_thorough(scenario)), Place::File, at_some_calls(2));
}

#[test]
fn worker_that_dies_at_some_call_leaves_a_database_that_another_opens() {
    let _entered = runtime().enter();
    die_in(SCENARIOS.iter(), Place::Database, at_some_calls(1));
}

/// So many drawn points, or as many as the environment variable CARDWRIGHT_POINTS says.
fn at_some_calls(points: usize) -> impl Fn(&Passed) -> Vec<Death> {
    let points = std::env::var("CARDWRIGHT_POINTS").ok().and_then(|points| points.parse().ok()).unwrap_or(points);
    let random = Seeded::new(seed());
    move |passed| {
        let all = at_every_call(passed);
        let most = all.len() as u64;
        (0..points).filter_map(|_| all.get(usize::try_from(random.next() % most).ok()?).copied()).collect()
    }
}

#[test]
fn every_process_that_comes_with_the_library_has_a_scenario() {
    let world = World::new(Place::Memory);
    let processes: BTreeSet<String> =
        world.worker().office.engine.definitions().map(|definition| definition.name.to_string()).collect();
    let tried =
        SCENARIOS.iter().filter_map(|scenario| match (scenario.prepare)(&World::new(Place::Memory).worker().office) {
            Act::Run(process, ..) => Some(process.to_owned()),
            Act::SetOptions(..) | Act::Enable(..) | Act::Disable(..) => None,
        });
    assert_eq!(tried.collect::<BTreeSet<_>>(), processes);
}
