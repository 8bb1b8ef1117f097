//! Processes that are killed at random moments (SIGKILL): a worker on an SQLite file or in PostgreSQL, and the outside with its own
//! books behind a socket. Both are started again; in the end all must recover, and nothing may be lost or done twice.
//!
//! `CARDWRIGHT_SEED` gives the moments again, `CARDWRIGHT_KILLS` how many there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio, exit};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, thread};

use async_trait::async_trait;
use cardwright::adapters::memory::{MemoryUsers, RecordingNotifier};
use cardwright::adapters::simulator::SimulatedClock;
use cardwright::adapters::sqlite::SqliteRepository;
use cardwright::host::{
    AllowAll, CardQuery, CardRepository, Clock as _, JobQuery, Notifier, NotifyOutcome, SystemClock,
};
use cardwright::process::{Answer, ItemId};
use cardwright::{CardState, Engine, EngineSettings, HistoryEntry, JobId, JobKind, JobState, Message, ObjectId, Run};
use chrono::TimeDelta;
use futures::executor::block_on;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::crash::{being_tried, seed};
use crate::database::{Database, runtime};
use crate::eavesdropping::Seeded;
use crate::invariants::{AT_EVERY_STEP, Crash, Evidence, ONCE_RECOVERED, Ran, broken};
use crate::office::{
    ACTIVATE, CARD_SCRIPT, ISSUE, LOCK, ORDER, ORDER_SCRIPT, Office, REQUEST, SYNC_ORDERS, SYNC_ORPHANS,
    SYNC_PRODUCTION, SYNC_STATUS, operator, person, rules, service, user_item,
};
use crate::socket::{Books, CALL_TIME_OUT, Line, Variant, append, open_lines, serve};

/// How many orders, cards or certificates a worker tries at once.
const AT_ONCE: usize = 3;

/// How often the work list is gone through, each time for other people.
const BATCHES: u32 = 8;

/// For how many people cards are ordered, and for how many others they are made here, in each of them.
const ORDERED: u32 = 8;
const MADE: u32 = 2;

/// How often a worker on one file is killed.
const KILLS_EACH: usize = 4;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(60);

fn people() -> impl Iterator<Item = u32> {
    1..=BATCHES * (ORDERED + MADE)
}

// ---- the worker --------------------------------------------------------------------------------------------------------

/// What was shown of a run, from chunk to chunk; the last line about a start says most.
#[derive(Serialize, Deserialize)]
struct Shown {
    start: String,
    ended: bool,
    ran: Ran,
}

/// A run as a host keeps it, to go on with it.
#[derive(Serialize, Deserialize)]
struct Kept {
    run: Run,
    answer: Answer,
}

/// Somebody who works through a list, and begins where the one before was killed.
struct Worker {
    engine: Engine,
    folder: PathBuf,
    starts: u32,
    /// Starts also those runs again that came to their end.
    thorough: bool,
}

/// A notifier that writes down what it sends.
pub(crate) struct Mail(pub(crate) PathBuf);

#[async_trait]
impl Notifier for Mail {
    async fn send(&self, message: &Message) -> NotifyOutcome {
        append(&self.0, &(serde_json::to_string(message).expect("it is plain") + "\n"));
        NotifyOutcome::Sent
    }
}

impl Worker {
    fn new(folder: &Path, variant: Variant, store: Arc<dyn CardRepository>, thorough: bool) -> Self {
        for name in ["shown", "mail", "unanswered"] {
            open_lines(&folder.join(name));
        }
        let second = Duration::from_secs(1);
        let line = Line::new(folder, variant);
        let settings = EngineSettings::new().chunk(4).orders_per_call(AT_ONCE).cards_at_once(AT_ONCE);
        let settings = settings.certificates_at_once(AT_ONCE).statuses_per_call(20);
        let settings = settings.call_time_out(CALL_TIME_OUT).production_time_out(CALL_TIME_OUT).lease(second);
        let engine = Engine::builder()
            .repository(store)
            .users(MemoryUsers::new(people().map(person)))
            .bureau(line.clone())
            .certificate_authority(line.clone())
            .personalizer(line)
            .notifier(Mail(folder.join("mail")))
            .access(AllowAll)
            .rules(rules())
            .settings(settings.poll_interval(second).back_off(second).hold_back(second));
        let engine = engine.build().expect("it has all its parts");
        Self { engine, folder: folder.to_owned(), starts: 0, thorough }
    }

    fn work(&mut self) {
        for batch in 0..BATCHES {
            let first = batch * (ORDERED + MADE) + 1;
            let users = |from: u32, count: u32| (from..from + count).map(|number| user_item(&format!("u{number}")));
            let (ordered, made) = (users(first, ORDERED), users(first + ORDERED, MADE));
            self.step(&format!("order {batch}"), ORDER, |_| Some(Answer::ids(ordered)));
            self.step(&format!("request {batch}"), REQUEST, |_| Some(Answer::ids(made.clone())));
            self.step(&format!("issue {batch}"), ISSUE, |worker| worker.cards(made.clone(), CardState::Approved, 9));
            self.step(&format!("activate {batch}"), ACTIVATE, |worker| {
                worker.cards(made.clone(), CardState::Issued, 2)
            });
            self.step(&format!("lock {batch}"), LOCK, |worker| worker.cards(made, CardState::Active, 1));
            self.syncs();
        }
        let open = JobQuery { states: vec![JobState::Open], ..Default::default() };
        let any = |worker: &Self| !block_on(worker.engine.job_page(&open, None, 1)).expect("it can be read").is_empty();
        while !self.syncs() || any(self) {
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The cards of these people that are in this state.
    fn cards(&self, of: impl Iterator<Item = ItemId>, state: CardState, most: usize) -> Option<Answer> {
        let holders = of.filter_map(|item| if let ItemId::User(user) = item { Some(user) } else { None }).collect();
        let query = CardQuery { holders, states: vec![state], ..CardQuery::default() };
        let cards = block_on(self.engine.card_page(&query, None, most)).expect("cards can be read");
        (!cards.is_empty()).then(|| Answer::ids(cards.into_iter().map(|card| ItemId::Card(card.id))))
    }

    /// A run that is begun once, whoever is killed, if there is anything to answer. What is kept of it is there whole or not at all.
    fn step(&mut self, name: &str, process: &str, answer: impl FnOnce(&Self) -> Option<Answer>) {
        self.at(name.split(' ').next().expect("a word"));
        let path = |end| self.folder.join(format!("{name}.{end}"));
        let (kept, done) = (path("run"), path("done"));
        if done.exists() && !self.thorough {
            return;
        }
        if !kept.exists() {
            let Some(answer) = answer(self) else { return };
            let run = block_on(self.engine.open(process, &operator())).expect("it opens");
            let run = serde_json::to_vec(&Kept { run, answer }).expect("it is plain");
            fs::write(path("new"), run).and_then(|()| fs::rename(path("new"), &kept)).expect("it can be written");
        }
        let Kept { run, answer } = serde_json::from_slice(&fs::read(kept).expect("it is there")).expect("it is whole");
        self.run(&run, answer);
        fs::write(done, "").expect("it can be written");
    }

    /// Whether the sweep had nothing to do.
    fn syncs(&mut self) -> bool {
        let mut swept = 0;
        for process in [SYNC_ORDERS, SYNC_STATUS, SYNC_PRODUCTION, SYNC_ORPHANS] {
            self.at(process);
            let run = block_on(self.engine.open(process, &service())).expect("it opens");
            swept = self.run(&run, Answer::new());
        }
        swept == 0
    }

    /// Runs it to its end, and says at once what is shown; how many items are done.
    fn run(&mut self, run: &Run, answer: Answer) -> u64 {
        self.starts += 1;
        let start = format!("{} {}", std::process::id(), self.starts);
        block_on(async {
            let mut execution = self.engine.next(run, answer).await.expect("it begins");
            let mut outcomes = Vec::new();
            loop {
                let chunk = execution.next_chunk().await.expect("it goes on");
                let ended = chunk.is_none();
                outcomes.extend(chunk.into_iter().flatten());
                let ran = Ran { report: execution.report().clone(), outcomes: outcomes.clone() };
                let shown = Shown { start: start.clone(), ended, ran };
                append(&self.folder.join("shown"), &(serde_json::to_string(&shown).expect("it is plain") + "\n"));
                if ended {
                    return execution.report().done_in_all();
                }
            }
        })
    }

    /// Says what it does next, for the totals.
    fn at(&self, step: &str) {
        fs::write(self.folder.join("step"), step).expect("it can be written");
    }
}

// ---- processes -----------------------------------------------------------------------------------------------------------

const TASK: &str = "CARDWRIGHT_KILLED_TASK";
const FOLDER: &str = "CARDWRIGHT_KILLED_FOLDER";
const VARIANT: &str = "CARDWRIGHT_KILLED_VARIANT";
const FAULTS: &str = "CARDWRIGHT_KILLED_FAULTS";
const SCHEMA: &str = "CARDWRIGHT_KILLED_SCHEMA";

/// What the other processes do. Without a task it is none of them, and has nothing to do.
#[test]
fn other_process() {
    let (Ok(task), Some(folder)) = (env::var(TASK), env::var_os(FOLDER).map(PathBuf::from)) else { return };
    end_with_parent(2 * DEADLINE);
    let variant = Variant::ALL.into_iter().find(|variant| env::var(VARIANT).as_deref() == Ok(variant.name()));
    let variant = variant.expect("it is said what the outside can do");
    let _entered = runtime().enter();
    let store = || -> Arc<dyn CardRepository> {
        match env::var(SCHEMA) {
            Ok(schema) => Arc::new(worker_of(&Database::named(&schema)).store()),
            Err(_) => Arc::new(SqliteRepository::open(folder.join("office.db")).expect("the file opens")),
        }
    };
    match task.as_str() {
        "outside" => serve(&folder, variant, env::var(FAULTS).ok().and_then(|seed| seed.parse().ok())),
        "work" => Worker::new(&folder, variant, store(), false).work(),
        "end the work" => Worker::new(&folder, variant, store(), true).work(),
        other => panic!("no task {other}"),
    }
}

/// Neither outlives the one who started it, nor stays for ever.
pub(crate) fn end_with_parent(at_most: Duration) {
    thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        exit(3)
    });
    thread::spawn(move || {
        thread::sleep(at_most);
        exit(4)
    });
}

/// The same under the name by which workers are known to the server.
fn worker_of(database: &Database) -> Database {
    let mut worker = Database::named(database.schema.as_str());
    worker.options = worker.options.application_name(&format!("{}_worker", database.schema));
    worker
}

/// Another process, which is gone when this is dropped.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    fn start(task: &str, folder: &Path, variant: Variant, database: Option<&Database>, faults: Option<u64>) -> Self {
        let mut command = Command::new(env::current_exe().expect("a test knows where it is"));
        command.args(["--exact", "killed::other_process", "--nocapture"]);
        command.env(TASK, task).env(FOLDER, folder).env(VARIANT, variant.name()).env_remove(FAULTS);
        command.envs(faults.map(|seed| (FAULTS, seed.to_string())));
        command.env_remove(SCHEMA).envs(database.map(|database| (SCHEMA, database.schema.as_str())));
        Self::spawn(command, folder)
    }

    /// What it says goes into the log of the folder.
    pub(crate) fn spawn(mut command: Command, folder: &Path) -> Self {
        let log = || fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).expect("a log");
        command.stdin(Stdio::piped()).stdout(log()).stderr(log());
        Self(command.spawn().expect("it starts"))
    }

    /// Whether it still ran.
    pub(crate) fn kill(&mut self) -> bool {
        let ran = self.0.try_wait().expect("it can be asked").is_none();
        self.0.kill().expect("it is ours");
        self.0.wait().expect("it ends");
        ran
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// ---- a round ---------------------------------------------------------------------------------------------------------------

/// One file or database, with everything around it.
struct Round {
    folder: TempDir,
    database: Option<Database>,
    variant: Variant,
    random: Seeded,
    outside: Option<Process>,
    /// The histories when they were last looked at.
    histories: BTreeMap<ObjectId, Vec<HistoryEntry>>,
    /// What was being tried at some kill.
    in_flight: BTreeSet<JobId>,
    totals: Totals,
}

/// How often what happened.
#[derive(Clone, Default)]
struct Totals(BTreeMap<String, usize>);

impl Totals {
    fn count(&mut self, what: impl Into<String>, times: usize) {
        *self.0.entry(what.into()).or_default() += times;
    }

    fn of(&self, what: &str) -> usize {
        self.0.get(what).copied().unwrap_or_default()
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(what, times)| format!("{what}: {times}"))
    }
}

const KILLS: &str = "kills of the worker";

impl Round {
    fn new(variant: Variant, database: Option<Database>, random: Seeded) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut round = Self {
            folder,
            database,
            variant,
            random,
            outside: None,
            histories: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            totals: Totals::default(),
        };
        let office = round.office(&round.folder.path().join("office.db")).0;
        office.script(ORDER_SCRIPT, "CardsAddonExtProdQueueCards = function(card, user)\n  return user.employeeNumber:find('[02468]$') ~= nil\nend");
        office.script(CARD_SCRIPT, "CardsPINLength = 12\nCardsPUKLength = 12\nCardsPUKDeliveryMethod = \"print\"");
        round.start_the_outside(true);
        round
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// An office on such a file, or on the database, to look at it, with everything outside as its books say.
    fn office(&self, file: &Path) -> (Office, Arc<dyn CardRepository>, Books) {
        let store: Arc<dyn CardRepository> = match &self.database {
            Some(database) => Arc::new(database.store()),
            None => Arc::new(SqliteRepository::open(file).expect("the file opens")),
        };
        let users = MemoryUsers::new(people().map(person));
        let clock = SimulatedClock::new(SystemClock.now());
        let books = Books::read(self.path(), self.variant);
        let mail = RecordingNotifier::new();
        for message in lines::<Message>(&self.path().join("mail")) {
            block_on(mail.send(&message));
        }
        let office = Office::on(Arc::clone(&store), clock, |builder| builder.users(users.clone()));
        let (bureau, ca, personalizer) = (books.bureau.clone(), books.ca.clone(), books.machine.clone());
        (Office { bureau, ca, personalizer, users, mail, ..office }, store, books)
    }

    fn start_the_outside(&mut self, faulty: bool) {
        self.outside = None;
        let _ = fs::remove_file(self.path().join("port"));
        let faults = faulty.then(|| self.random.next());
        self.outside = Some(Process::start("outside", self.path(), self.variant, None, faults));
        let begun = Instant::now();
        while !self.path().join("port").exists() {
            assert!(begun.elapsed() < DEADLINE, "the outside does not start: {}", self.log());
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn up_to(&self, most: u64) -> Duration {
        Duration::from_millis(self.random.next() % most)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    /// Lets a worker work for some time, and kills it, and perhaps the outside before; whether it was not done before that.
    fn work_and_be_killed(&mut self) -> bool {
        let mut worker = Process::start("work", self.path(), self.variant, self.database.as_ref(), None);
        thread::sleep(Duration::from_millis(30) + self.up_to(400));
        if self.random.next().is_multiple_of(3) {
            self.outside.as_mut().expect("it was started").kill();
            self.totals.count("kills of the outside", 1);
            thread::sleep(self.up_to(100));
            self.start_the_outside(true);
            thread::sleep(self.up_to(200));
        }
        if !worker.kill() {
            let status = worker.0.wait().expect("it has ended");
            assert!(status.success(), "the worker failed: {}", self.log());
            return false;
        }
        self.totals.count(KILLS, 1);
        let step = fs::read_to_string(self.path().join("step")).unwrap_or_default();
        self.totals.count(format!("killed at {}", if step.is_empty() { "its start" } else { &step }), 1);
        let evidence = self.look();
        let problems = broken(AT_EVERY_STEP, &evidence);
        assert!(problems.is_empty(), "kill {}: {}", self.totals.of(KILLS), problems.join("\n"));
        self.histories = evidence.histories;
        true
    }

    /// Looks at a copy of the file, so that the next worker finds what the killed one left; or into the database, once the server has
    /// done what it still had from the killed one.
    fn look(&mut self) -> Evidence {
        if let Some(database) = &self.database {
            runtime().block_on(database.left_by(&worker_of(database).options));
            runtime().block_on(database.is_followed());
        }
        let copy = tempfile::tempdir().expect("a folder");
        for name in ["office.db", "office.db-wal"] {
            let _ = fs::copy(self.path().join(name), copy.path().join(name));
        }
        let (office, store, books) = self.office(&copy.path().join("office.db"));
        let mut evidence = Evidence::of(&office, store.as_ref());
        evidence.before = self.histories.clone();
        let mut starts: BTreeMap<String, Shown> = BTreeMap::new();
        for shown in lines::<Shown>(&self.path().join("shown")) {
            starts.insert(shown.start.clone(), shown);
        }
        let (ended, cut_off) = starts.into_values().partition::<Vec<_>, _>(|shown| shown.ended);
        evidence.runs = ended.into_iter().map(|shown| shown.ran).collect();
        evidence.cut_off = cut_off.into_iter().map(|shown| shown.ran).collect();
        evidence.secrets = books.secrets;
        evidence.texts = fs::read_dir(self.path())
            .expect("the folder can be read")
            .map(|file| file.expect("it is there").path())
            .filter(|path| path.file_name().is_some_and(|name| name != "books"))
            .map(|path| ("a file", String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()))
            .collect();
        evidence
            .texts
            .extend(self.database.iter().map(|database| ("the database", runtime().block_on(database.text()))));
        let unanswered = Line::unanswered(self.path());
        let unanswered: BTreeSet<JobId> = unanswered.iter().map(|job| job.parse().expect("a job")).collect();
        let tried: BTreeSet<JobId> =
            being_tried(&evidence).filter(|job| !unanswered.contains(job) && !self.in_flight.contains(job)).collect();
        assert!(tried.len() <= AT_ONCE, "{} were tried at once", tried.len());
        for job in evidence.jobs.iter().filter(|job| tried.contains(&job.id)) {
            self.totals.count(format!("killed while trying to {}", job.kind()), 1);
        }
        self.in_flight.extend(tried);
        let at_once = self.in_flight.len();
        evidence.crash = Some(Crash { in_doubt: unanswered, in_flight: self.in_flight.clone(), at_once });
        evidence
    }

    /// Lets a worker end its work undisturbed, and looks whether all is well.
    fn recover(&mut self) {
        self.start_the_outside(false);
        let mut worker = Process::start("end the work", self.path(), self.variant, self.database.as_ref(), None);
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = worker.0.try_wait().expect("it can be asked") {
                break status;
            }
            assert!(begun.elapsed() < DEADLINE, "it does not come to an end: {}", self.log());
            thread::sleep(Duration::from_millis(10));
        };
        assert!(status.success(), "the last worker failed: {}", self.log());
        let mut evidence = self.look();
        evidence.recovered_in = TimeDelta::from_std(begun.elapsed()).ok();
        let mut problems = broken(AT_EVERY_STEP, &evidence);
        problems.extend(broken(ONCE_RECOVERED, &evidence));
        assert!(problems.is_empty(), "after {} kills: {}", self.totals.of(KILLS), problems.join("\n"));
        let totals = &mut self.totals;
        totals.count("cards", evidence.cards.len());
        totals.count("orders at the bureau", evidence.bureau.len());
        totals.count("certificates at the CA", evidence.ca.len());
        totals.count("blanks at the machine", evidence.machine.len());
        totals.count("answers that were not heard", Line::unanswered(self.folder.path()).len());
        for job in evidence.jobs_in(JobState::InDoubt) {
            let cause = if self.in_flight.contains(&job.id) { "killed" } else { "answer not heard" };
            totals.count(format!("in doubt under {}: {}, {cause}", self.variant.name(), job.kind()), 1);
        }
        let orders_in_doubt =
            evidence.jobs_in(JobState::InDoubt).filter(|job| job.kind() == JobKind::PlaceOrder).count();
        assert!(self.variant != Variant::Rich || orders_in_doubt == 0, "what can be sent again is never in doubt");
        assert_eq!(evidence.cards.len(), people().count(), "one card for everybody");
        assert!(!evidence.secrets.is_empty() && !evidence.mail.is_empty(), "cards were made here, and people told");
    }
}

/// The lines of a file, but for a last one that was cut.
pub(crate) fn lines<T: for<'a> Deserialize<'a>>(path: &Path) -> Vec<T> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| serde_json::from_str(line).expect("a line is written whole")).collect()
}

#[test]
fn killed_processes_lose_nothing_and_do_nothing_twice() {
    let kills: usize = env::var("CARDWRIGHT_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(10);
    let random = Seeded::new(seed());
    let mut totals = Totals::default();
    let _entered = runtime().enter();
    for (number, variant) in (1..).zip(Variant::ALL.into_iter().cycle()) {
        let database = (number % 2 == 0).then(Database::new);
        let place = if database.is_some() { "in a database" } else { "in a file" };
        let mut round = Round::new(variant, database, Seeded::new(random.next()));
        let most = KILLS_EACH.min(kills - totals.of(KILLS));
        while round.totals.of(KILLS) < most && round.work_and_be_killed() {}
        round.recover();
        let lines: Vec<String> = round.totals.lines().collect();
        println!(
            "round {number} {place}, {}, {} of {kills}: {}",
            variant.name(),
            totals.of(KILLS) + most,
            lines.join("; ")
        );
        round.totals.0.into_iter().for_each(|(what, times)| totals.count(what, times));
        if totals.of(KILLS) >= kills {
            break;
        }
        assert!(totals.of(KILLS) >= number, "workers are killed before they are done");
    }
    totals.lines().for_each(|line| println!("{line}"));
    let tried = totals.0.keys().any(|what| what.starts_with("killed while trying"));
    assert!(kills < 50 || tried, "some were killed while they tried something");
}
