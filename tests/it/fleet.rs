//! Several machines: workers and operators on one PostgreSQL, and a bureau with its own books, each in a process of its own. Workers are
//! killed, connections cut, the bureau and the server started anew; in the end every card must be ordered, and none twice.
//!
//! `CARDWRIGHT_FLEET` says for how many people, `CARDWRIGHT_SEED` gives the same disturbances again, as far as the machine does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use cardwright::adapters::memory::{MemoryUsers, RecordingNotifier};
use cardwright::adapters::postgres::{PostgresRepository, SchemaName};
use cardwright::adapters::simulator::SimulatedClock;
use cardwright::host::{AllowAll, Clock as _, Notifier as _, SystemClock};
use cardwright::process::Answer;
use cardwright::worker::{Schedule, Worker};
use cardwright::{CardState, Engine, EngineSettings, JobId, JobState, Message, Report};
use chrono::TimeDelta;
use futures::executor::block_on;
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnectOptions, PgPool};

use crate::crash::seed;
use crate::database::{pool_of, runtime};
use crate::eavesdropping::Seeded;
use crate::invariants::{AT_EVERY_STEP, Crash, Evidence, ONCE_RECOVERED, broken};
use crate::killed::{Mail, Process, end_with_parent, lines};
use crate::office::{
    ORDER, ORDER_SCRIPT, Office, SYNC_ORDERS, SYNC_STATUS, operator, person, rules, run_id, service, user_item,
};
use crate::postgres::Server;
use crate::socket::{Books, CALL_TIME_OUT, Line, Variant, serve};

const WORKERS: usize = 4;
const LANES: usize = 4;
const ORDERS_PER_CALL: usize = 20;
/// How long all of it may take.
const DEADLINE: Duration = Duration::from_secs(400);

const TASK: &str = "CARDWRIGHT_FLEET_TASK";
const FOLDER: &str = "CARDWRIGHT_FLEET_FOLDER";
const PEOPLE: &str = "CARDWRIGHT_FLEET";
const URL: &str = "CARDWRIGHT_FLEET_URL";

fn people() -> u32 {
    env::var(PEOPLE).map_or(20_000, |people| people.parse().expect("CARDWRIGHT_FLEET is a number"))
}

fn pool(url: &str) -> PgPool {
    let _entered = runtime().enter();
    pool_of(6).connect_lazy_with(PgConnectOptions::from_str(url).expect("a URL"))
}

fn store(url: &str) -> PostgresRepository {
    PostgresRepository::new(pool(url), SchemaName::new("fleet").expect("a name"))
}

// ---- the processes -----------------------------------------------------------------------------------------------------

/// What the other processes do. Without a task it is none of them, and has nothing to do.
#[test]
fn other_process() {
    let (Ok(task), Ok(url), Some(folder)) = (env::var(TASK), env::var(URL), env::var_os(FOLDER).map(PathBuf::from))
    else {
        return;
    };
    end_with_parent(DEADLINE);
    match task.split_once(' ') {
        Some(("bureau", faults)) => serve(&folder, Variant::Poor, faults.parse().ok()),
        Some(("order", first)) => order(&folder, &url, first.parse().expect("a number")),
        _ => runtime().block_on(async {
            let lanes = Schedule::jobs().every(Duration::from_millis(300)).lanes(LANES);
            let lanes = lanes.back_off(Duration::from_millis(300), Duration::from_secs(2));
            let worker = Worker::new(Arc::new(engine(&folder, &url)), service());
            let worker = worker.schedule(SYNC_ORDERS, lanes).and_then(|worker| worker.schedule(SYNC_STATUS, lanes));
            worker.expect("they are background processes").run(std::future::pending()).await;
        }),
    }
}

fn engine(folder: &Path, url: &str) -> Engine {
    let second = Duration::from_secs(1);
    let settings = EngineSettings::new().chunk(200).orders_per_call(ORDERS_PER_CALL).statuses_per_call(100);
    let settings = settings.call_time_out(CALL_TIME_OUT).production_time_out(CALL_TIME_OUT).lease(second);
    let engine = Engine::builder()
        .repository(store(url))
        .users(MemoryUsers::new((1..=people()).map(person)))
        .bureau(Line::new(folder, Variant::Poor))
        .notifier(Mail(folder.join("mail")))
        .access(AllowAll)
        .rules(rules())
        .worker(format!("process {}", std::process::id()))
        .settings(settings.poll_interval(2 * second).back_off(second).hold_back(second));
    engine.build().expect("it has all its parts")
}

/// An operator who orders for most of the people, from one on, and begins again until all is done.
fn order(folder: &Path, url: &str, first: u32) {
    let engine = engine(folder, url);
    let most = people() * 3 / 5;
    let ids = (first..first + most).map(|number| user_item(&format!("u{number}")));
    let answer = Answer::ids(ids);
    let report: Report = runtime().block_on(async {
        loop {
            // The same run each time: what is done is done.
            let ran = async {
                let run = engine.open_as(run_id(u128::from(first)), ORDER, &operator()).await?;
                engine.next(&run, answer.clone()).await?.finish().await
            };
            match ran.await {
                Ok(report) if report.interrupted.is_none() => break report,
                Ok(Report { interrupted, .. }) => println!("interrupted: {interrupted:?}"),
                Err(error) => println!("not opened: {error}"),
            }
            SystemClock.sleep(Duration::from_millis(200)).await;
        }
    });
    let report = serde_json::to_string(&report).expect("it is plain");
    fs::write(folder.join(format!("report {first}")), report).expect("the folder can be written");
}

// ---- the fleet -----------------------------------------------------------------------------------------------------------

/// All processes, and what they share.
struct Fleet {
    folder: tempfile::TempDir,
    server: Server,
    url: String,
    pool: PgPool,
    random: Seeded,
    begun: Instant,
    bureau: Option<Process>,
    workers: Vec<Process>,
    operators: Vec<(u32, Process)>,
    counts: BTreeMap<&'static str, usize>,
}

impl Fleet {
    fn start() -> Self {
        let (server, url) = Server::start();
        let folder = tempfile::tempdir().expect("a folder");
        runtime().block_on(store(&url).migrate()).expect("it is brought up to date");
        let fleet = Self {
            pool: pool(&url),
            folder,
            server,
            url,
            random: Seeded::new(seed()),
            begun: Instant::now(),
            bureau: None,
            workers: Vec::new(),
            operators: Vec::new(),
            counts: BTreeMap::new(),
        };
        let office = Office::on(store(&fleet.url), SimulatedClock::new(SystemClock.now()), |builder| builder);
        office.script(ORDER_SCRIPT, "CardsAddonExtProdQueueCards = true");
        fleet
    }

    fn process(&self, task: &str) -> Process {
        let mut command = Command::new(env::current_exe().expect("a test knows where it is"));
        command.args(["--exact", "fleet::other_process", "--nocapture"]);
        command.env(TASK, task).env(FOLDER, self.folder.path()).env(URL, &self.url);
        Process::spawn(command, self.folder.path())
    }

    fn start_bureau(&mut self, faulty: bool) {
        self.bureau = None;
        let faults = if faulty { self.random.next().to_string() } else { "none".to_owned() };
        self.bureau = Some(self.process(&format!("bureau {faults}")));
    }

    fn below(&self, most: usize) -> usize {
        usize::try_from(self.random.next() % most as u64).unwrap_or_default()
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Something goes wrong: which of these, of ten.
    fn disturb(&mut self, what: usize) {
        match what {
            0..=2 => {
                let place = self.below(WORKERS);
                self.workers[place].kill();
                self.workers[place] = self.process("work");
                self.count("workers killed");
            }
            3..=6 => {
                let backends = "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity \
                    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 3) AS backend";
                if self.number(backends).is_some_and(|cut| cut > 0) {
                    self.count("times three connections were cut");
                }
            }
            7 => {
                self.start_bureau(true);
                self.count("bureaus killed");
            }
            8 if !self.operators.is_empty() => {
                let place = self.below(self.operators.len());
                let (first, mut operator) = self.operators.swap_remove(place);
                operator.kill();
                self.operators.push((first, self.process(&format!("order {first}"))));
                self.count("operators killed");
            }
            _ => {}
        }
    }

    /// What the database says, if it answers.
    fn number(&self, text: &str) -> Option<i64> {
        let found = runtime().block_on(sqlx::query_scalar(AssertSqlSafe(text.to_owned())).fetch_one(&self.pool));
        // Only while the server is away is there no answer.
        found
            .inspect_err(|error| {
                assert!(
                    error.as_database_error().is_none_or(|e| e.code().is_some_and(|code| code.starts_with("57"))),
                    "{error}"
                )
            })
            .ok()
    }

    fn cards(&self) -> i64 {
        self.number("SELECT count(*) FROM fleet.card").unwrap_or_default()
    }

    /// Waits until this is so; in the meantime things go wrong, or not.
    fn until(&mut self, is_so: impl Fn(&Self) -> bool, wrong: bool) {
        while !is_so(self) {
            assert!(self.begun.elapsed() < DEADLINE, "it does not come to an end; {:?}: {}", self.counts, self.log());
            thread::sleep(Duration::from_millis(if wrong { 400 } else { 300 }));
            if wrong {
                let what = self.below(10);
                self.disturb(what);
            }
            self.operators.retain_mut(|(_, operator)| {
                !operator.0.try_wait().is_ok_and(|ended| ended.is_some_and(|s| s.success()))
            });
        }
    }

    /// The end of what all have said.
    fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        log.chars().rev().take(3000).collect::<Vec<_>>().into_iter().rev().collect()
    }

    fn report(&self, first: u32) -> Report {
        let report =
            fs::read_to_string(self.folder.path().join(format!("report {first}"))).expect("it came to its end");
        serde_json::from_str(&report).expect("it is a report")
    }

    fn evidence(&self) -> Evidence {
        let books = Books::read(self.folder.path(), Variant::Poor);
        let mail = RecordingNotifier::new();
        for message in lines::<Message>(&self.folder.path().join("mail")) {
            block_on(mail.send(&message));
        }
        let store = store(&self.url);
        let users = MemoryUsers::new((1..=people()).map(person));
        let clock = SimulatedClock::new(SystemClock.now());
        let office = Office::on(store.clone(), clock, |builder| builder.users(users.clone()));
        let office = Office { bureau: books.bureau, users, mail, ..office };
        let mut evidence = Evidence::of_many(&office, &store);
        evidence.recovered_in = TimeDelta::from_std(self.begun.elapsed()).ok();
        evidence
    }
}

#[test]
fn a_fleet_orders_for_everybody_once_whatever_goes_wrong() {
    let _entered = runtime().enter();
    let mut fleet = Fleet::start();
    let everybody = i64::from(people());
    fleet.start_bureau(true);
    fleet.workers = (0..WORKERS).map(|_| fleet.process("work")).collect();
    // Some people are on the lists of both.
    fleet.operators = [1, people() * 2 / 5 + 1].map(|first| (first, fleet.process(&format!("order {first}")))).into();
    fleet.until(|fleet| fleet.cards() > 0, false);
    // Each at least once, whatever is drawn.
    [0, 3, 7, 8].into_iter().for_each(|what| fleet.disturb(what));
    fleet.until(|fleet| fleet.cards() >= everybody / 2, true);
    fleet.server.tell("stop");
    thread::sleep(Duration::from_secs(1));
    fleet.server.tell("start");
    fleet.until(|fleet| fleet.operators.is_empty() && fleet.cards() == everybody, true);
    let ordered = "SELECT count(*) FROM fleet.history WHERE data LIKE '%\"accepted\"%'";
    fleet.until(|fleet| fleet.number(ordered).is_some_and(|count| count > everybody * 3 / 4), true);
    let disturbed = fleet.begun.elapsed();

    fleet.start_bureau(false);
    fleet.until(|fleet| fleet.number("SELECT count(*) FROM fleet.job WHERE state = 0") == Some(0), false);
    fleet.workers.clear();
    let recovered = fleet.begun.elapsed();

    // Each person has one card, from one of the two operators.
    let reports = [1, people() * 2 / 5 + 1].map(|first| fleet.report(first));
    let done: u64 = reports.iter().map(|report| report.done_in_all() + report.done_earlier).sum();
    assert_eq!(done, u64::from(people()), "{reports:?}");
    let mut evidence = fleet.evidence();
    let holders: BTreeSet<_> = evidence.cards.iter().filter_map(|card| card.holder.as_ref()).collect();
    assert_eq!((evidence.cards.len(), holders.len()), (people() as usize, people() as usize));
    let numbers: BTreeSet<_> = evidence.cards.iter().filter_map(|card| card.number.as_ref()).collect();
    assert_eq!(numbers.len(), holders.len(), "each has a number of its own");

    // In doubt is what a call did not hear of, or what was in flight when a worker was killed or could not reach its store.
    let unanswered: BTreeSet<JobId> =
        Line::unanswered(fleet.folder.path()).iter().map(|job| job.parse().expect("a job")).collect();
    let in_flight: BTreeSet<JobId> = evidence.doubts().into_iter().filter(|job| !unanswered.contains(job)).collect();
    let killed = fleet.counts.get("workers killed").copied().unwrap_or_default();
    let at_once = (killed + WORKERS) * LANES * ORDERS_PER_CALL;
    let (in_doubt, lost) = (evidence.doubts().len(), in_flight.len());
    evidence.crash = Some(Crash { in_doubt: unanswered, in_flight, at_once });
    evidence.most_attempts = Some(1000);
    let produced = evidence.cards.iter().filter(|card| card.state() == CardState::Produced).count();
    let waiting = evidence.jobs_in(JobState::Open).count();
    assert_eq!((produced + in_doubt, waiting), (people() as usize, 0), "what is not made is in doubt");
    println!(
        "{everybody} people, {produced} cards made, {in_doubt} orders in doubt, {lost} of them of killed workers; {:?}; \
         disturbed for {} s, recovered after {} s",
        fleet.counts,
        disturbed.as_secs(),
        recovered.as_secs()
    );
    let problems: Vec<String> =
        evidence.parts(200).iter().flat_map(|part| broken(&[AT_EVERY_STEP, ONCE_RECOVERED].concat(), part)).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    // Of few people the operators are done before one can be killed.
    let kinds = if people() < 1_000 { 3 } else { 4 };
    assert!(fleet.counts.len() >= kinds, "each went wrong: {:?}", fleet.counts);
}
