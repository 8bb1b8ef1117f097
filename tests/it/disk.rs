//! Disk trouble under the store on SQLite: full, read-only, locked by another process, a log cut short. Each is a clear error, and what
//! was reported done is there afterwards; docs/TESTING.md says what no store can promise.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, io};

use cardwright::adapters::memory::MemoryUsers;
use cardwright::adapters::sqlite::{SqliteOptions, SqliteRepository};
use cardwright::host::{CardQuery, CardRepository as _, CommitError, RepositoryError, UserFilter};
use cardwright::process::{Answer, Filter, ItemId, Outcome, RefusalCode};
use cardwright::{Card, ChainError, ChainHeads, ChangeSet, Interruption, ObjectId, Record, Report, RunId, Verified};
use futures::executor::block_on;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::office::{ORDER, Office, SYNC_ORDERS, clock, operator, person, run_id};

const PEOPLE: u32 = 400;

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("cards.db");
    (folder, path)
}

fn options(change: impl FnOnce(&mut SqliteOptions)) -> SqliteOptions {
    let mut options = SqliteOptions::new(Arc::new(clock()));
    change(&mut options);
    options
}

fn open(path: &Path, options: SqliteOptions) -> Office {
    let store = SqliteRepository::open_with(path, options).expect("the store opens");
    Office::on(store, clock(), |builder| builder.users(MemoryUsers::new((1..=PEOPLE).map(person))))
}

/// Orders a card for everybody under this run id, chunk by chunk.
fn order_all(office: &Office, id: RunId) -> (Report, Vec<(ItemId, Outcome)>) {
    block_on(async {
        let run = office.engine.open_as(id, ORDER, &operator()).await.expect("the run opens");
        let answer = Answer::all(Filter::Users(UserFilter::default()));
        let mut execution = office.engine.next(&run, answer).await.expect("the answer fits");
        let mut outcomes = Vec::new();
        while let Some(chunk) = execution.next_chunk().await.expect("failures are part of the report") {
            outcomes.extend(chunk);
        }
        (execution.report().clone(), outcomes)
    })
}

/// The ids of the cards that were reported done.
fn done(outcomes: &[(ItemId, Outcome)]) -> BTreeSet<String> {
    let cards = outcomes.iter().filter_map(|(_, outcome)| match outcome {
        Outcome::Done { object: Some(ObjectId::Card(card)), .. } => Some(card.to_string()),
        _ => None,
    });
    cards.collect()
}

fn cards(office: &Office) -> Vec<Card> {
    block_on(office.engine.card_page(&CardQuery::default(), None, 10_000)).expect("cards can be read")
}

/// Everything that is there verifies, and these cards are.
fn check(office: &Office, reported: &BTreeSet<String>) {
    let verified = block_on(office.engine.verify_all(&ChainHeads::default())).expect("all can be read");
    assert_eq!(verified.problems, []);
    let there: BTreeSet<String> = cards(office).iter().map(|card| card.id.to_string()).collect();
    assert!(reported.is_subset(&there), "what was reported done is there");
}

/// The run goes on where it was interrupted, and doubles nothing.
fn finish(office: &Office, id: RunId, before: &BTreeSet<String>) {
    check(office, before);
    let (report, _) = order_all(office, id);
    assert_eq!((report.items, report.interrupted), (u64::from(PEOPLE), None));
    assert!(report.done_earlier >= before.len() as u64 && report.refused.is_empty(), "{:?}", report.refused);
    let cards = cards(office);
    let holders: BTreeSet<_> = cards.iter().map(|card| card.holder.clone()).collect();
    assert_eq!((cards.len(), holders.len()), (PEOPLE as usize, PEOPLE as usize), "one card for everybody");
    check(office, before);
}

/// A commit of its own, without the engine.
fn commit(store: &SqliteRepository, key: &str) -> Result<(), RepositoryError> {
    let mut changes = ChangeSet::new();
    changes.records.push(Record::new(key, serde_json::Value::String("x".repeat(10_000))));
    block_on(store.commit(&changes)).map_err(|error| match error {
        CommitError::Store(error) => error,
        other => panic!("{other}"),
    })
}

/// Says what is wrong, where, and what to do.
fn assert_words(words: &str, path: &Path, what: &str, to_do: &str) {
    for part in [what, to_do, &path.display().to_string()] {
        assert!(words.contains(part), "{part:?} is missing in {words:?}");
    }
}

// ---- full ----

#[test]
fn a_full_file_refuses_the_rest_and_loses_nothing_that_was_done() {
    let (_folder, path) = folder();
    let office = open(&path, options(|options| options.max_bytes = Some(600_000)));
    let (report, outcomes) = order_all(&office, run_id(1));
    let reported = done(&outcomes);
    assert!(!reported.is_empty() && reported.len() < PEOPLE as usize, "{report:?}");
    let Some(Interruption::Failed(words)) = &report.interrupted else { panic!("{report:?}") };
    assert_words(words, &path, "the disk is full", "make room");
    assert_eq!(report.refused.keys().collect::<Vec<_>>(), [&RefusalCode::Store]);
    assert_eq!(cards(&office).len(), reported.len(), "what was refused is not there");
    check(&office, &reported);
    drop(office);
    finish(&open(&path, options(|_| {})), run_id(1), &reported);
}

#[test]
fn a_full_file_can_be_read_and_what_fits_again_is_stored() {
    let (_folder, path) = folder();
    let store = SqliteRepository::open_with(&path, options(|options| options.max_bytes = Some(300_000))).unwrap();
    let stored = (0..100).take_while(|n| commit(&store, &format!("key {n}")).is_ok()).count();
    assert!((5..50).contains(&stored), "{stored}");
    let error = commit(&store, "one more").unwrap_err();
    assert!(matches!(error, RepositoryError::Unavailable { .. }) && error.is_transient(), "{error:?}");
    assert_words(&error.to_string(), &path, "the disk is full", "make room");
    let keys: Vec<String> = (0..100).map(|n| format!("key {n}")).collect();
    assert_eq!(block_on(store.records(&keys)).unwrap().len(), stored);
    // What needs no more room goes through.
    block_on(store.commit(&ChangeSet::new())).expect("nothing is stored easily");
    let record = block_on(store.records(&keys[..1])).unwrap().remove(0);
    let mut smaller = ChangeSet::new();
    smaller.records.push(Record { value: serde_json::Value::Null, ..record });
    block_on(store.commit(&smaller)).expect("a smaller one is");
}

/// The limit on file sizes of the operating system, which meets the log as well: the write in the middle of a commit fails.
#[test]
fn a_disk_that_takes_no_more_in_the_middle_of_a_commit_loses_nothing_that_was_done() {
    let (_folder, path) = folder();
    drop(open(&path, options(|_| {})));
    for blocks in [400, 700, 1100] {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\""), "sh"]);
        let said = child("order", &path, shell.arg(this()));
        let reported: BTreeSet<String> =
            said.iter().filter_map(|line| line.strip_prefix("done ")).map(str::to_owned).collect();
        let words = said.iter().find_map(|line| line.strip_prefix("interrupted ")).expect("it was interrupted");
        assert!(words.contains(&path.display().to_string()), "{words}");
        assert!(
            ["disk is full", "cannot be read or written", "committing failed"].iter().any(|what| words.contains(what)),
            "{words}"
        );
        assert!(reported.len() < PEOPLE as usize, "{blocks}: it was stopped");
        println!("{blocks} blocks: {} cards, {words}", reported.len());
        check(&open(&path, options(|_| {})), &reported);
    }
    finish(&open(&path, options(|_| {})), run_id(1), &BTreeSet::new());
}

// ---- read-only ----

#[test]
fn a_store_that_may_not_be_written_is_not_opened_and_says_so() {
    let (folder, path) = folder();
    drop(open(&path, options(|_| {})));
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
    for (of_folder, of_file) in [(0o777, 0o444), (0o555, 0o444), (0o555, 0o666)] {
        mode(&path, of_file);
        mode(folder.path(), 0o755);
        let mut program = Command::new(this());
        if OpenOptions::new().append(true).open(&path).is_ok() {
            // Who may write anywhere goes as somebody who may not.
            let binary = folder.path().join("child");
            if !binary.exists() {
                fs::hard_link(this(), &binary)
                    .or_else(|_| fs::copy(this(), &binary).map(drop))
                    .expect("a link or a copy");
            }
            program = Command::new(binary);
            program.uid(65_534).gid(65_534).current_dir(folder.path());
        }
        mode(folder.path(), of_folder);
        let said = child("open", &path, &mut program);
        mode(folder.path(), 0o755);
        let words = said.iter().find_map(|line| line.strip_prefix("refused ")).unwrap_or_else(|| panic!("{said:?}"));
        let file = path.display();
        let expected =
            format!("the card store refuses: `{file}`: the file is read-only; it and its folder must be writable");
        assert_eq!(words, expected, "folder {of_folder:o}, file {of_file:o}");
    }
    mode(&path, 0o644);
    check(&open(&path, options(|_| {})), &BTreeSet::new());
}

// ---- locked ----

#[test]
fn a_file_locked_by_another_process_is_unavailable_and_the_run_goes_on_afterwards() {
    let (_folder, path) = folder();
    let short = || options(|options| options.busy_timeout = Duration::from_millis(50));
    let office = open(&path, short());
    let store = SqliteRepository::open_with(&path, short()).unwrap();
    let lock = Lock::new(&path);

    let error = commit(&store, "key").unwrap_err();
    assert!(matches!(error, RepositoryError::Unavailable { .. }) && error.is_transient(), "{error:?}");
    assert_words(&error.to_string(), &path, "locked by another process", "try again");
    let (report, outcomes) = order_all(&office, run_id(1));
    assert_eq!(done(&outcomes).len(), 0);
    let Some(Interruption::Failed(words)) = &report.interrupted else { panic!("{report:?}") };
    assert_words(words, &path, "locked by another process", "try again");
    // What is there can be read meanwhile.
    check(&office, &BTreeSet::new());

    drop(lock);
    commit(&store, "key").expect("nobody has it now");
    finish(&office, run_id(1), &BTreeSet::new());
}

#[test]
fn a_lock_that_ends_in_time_is_waited_for() {
    let (_folder, path) = folder();
    let store = SqliteRepository::open_with(&path, options(|_| {})).unwrap();
    let lock = Lock::new(&path);
    let begun = Instant::now();
    let end = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop(lock);
    });
    commit(&store, "key").expect("it waits");
    assert!(begun.elapsed() >= Duration::from_millis(250), "it had to wait");
    end.join().unwrap();
}

#[test]
fn a_process_killed_while_it_had_the_lock_leaves_nothing_behind() {
    let (_folder, path) = folder();
    let store = SqliteRepository::open_with(&path, options(|_| {})).unwrap();
    commit(&store, "before").unwrap();
    let mut lock = Lock::new(&path);
    lock.0.kill().expect("it runs");
    lock.0.wait().expect("it ends");
    commit(&store, "after").expect("the lock went with the process");
    let keys = ["before", "after", "never"].map(str::to_owned);
    assert_eq!(block_on(store.records(&keys)).unwrap().len(), 2, "what it had not committed is not there");
}

/// Another process that holds the write lock, with something written and not committed, until this is dropped.
struct Lock(Child);

impl Lock {
    fn new(path: &Path) -> Self {
        let mut child = spawn("lock", path, &mut Command::new(this()));
        let mut said = BufReader::new(child.stdout.take().expect("a pipe was asked for")).lines();
        assert!(said.any(|line| line.is_ok_and(|line| line.ends_with("child: locked"))), "it has the lock");
        Self(child)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

// ---- a log cut short ----

#[test]
fn a_log_cut_short_anywhere_opens_and_what_is_left_verifies() {
    let (_folder, path) = folder();
    let office = open(&path, options(|_| {}));
    let log = log_of(&path);
    // Where each commit ended, and how many cards there were.
    let mut ends = vec![(fs::metadata(&log).expect("a log").len(), 0)];
    block_on(async {
        let run = office.engine.open_as(run_id(1), ORDER, &operator()).await.unwrap();
        let answer = Answer::all(Filter::Users(UserFilter::default()));
        let mut execution = office.engine.next(&run, answer).await.unwrap();
        for _ in 0..10 {
            execution.next_chunk().await.unwrap().expect("there are more");
            ends.push((fs::metadata(&log).unwrap().len(), ends.len() * 4));
        }
    });
    let heads =
        |office: &Office, saved: &ChainHeads| block_on(office.engine.verify_all(saved)).expect("it can be read");
    let Verified { heads: saved, problems, .. } = heads(&office, &ChainHeads::default());
    assert_eq!(problems, []);
    let (file, whole) = (fs::read(&path).unwrap(), fs::read(&log).unwrap());

    let mut seen = BTreeSet::new();
    let first = ends[0].0;
    let last = whole.len() as u64;
    for length in (0..=40).map(|step| first + (last - first) * step / 40).chain(ends.iter().map(|(end, _)| *end)) {
        for spoiled in [false, true] {
            let (_folder, copy) = folder();
            let mut log = whole.clone();
            let keep = usize::try_from(length).unwrap();
            if spoiled {
                log[keep..].fill(0xA5);
            } else {
                log.truncate(keep);
            }
            fs::write(&copy, &file).unwrap();
            fs::write(log_of(&copy), log).unwrap();
            let store = SqliteRepository::open_with(&copy, options(|_| {})).expect("it opens");
            let there = block_on(store.card_page(&CardQuery::default(), None, 10_000)).unwrap().len();
            drop(store);
            // Commits are there whole or not at all, up to the first that was cut.
            let wanted = ends.iter().filter(|(end, _)| *end <= length).map(|(_, cards)| *cards).max();
            assert_eq!(Some(there), wanted, "cut after {length} of {last} bytes");
            let office = open(&copy, options(|_| {}));
            check(&office, &BTreeSet::new());
            let lost = heads(&office, &saved).problems;
            let missing =
                lost.iter().filter(|problem| matches!(problem, ChainError::Missing { object: ObjectId::Card(_), .. }));
            assert_eq!(missing.count(), 40 - there, "saved heads tell what was lost");
            seen.insert(there);
        }
    }
    assert_eq!(seen.len(), 11, "it was cut after every commit: {seen:?}");
}

#[test]
fn a_lost_log_leaves_what_had_been_moved_into_the_file() {
    let (_folder, path) = folder();
    let office = open(&path, options(|_| {}));
    office.order("u1");
    drop(office);
    let office = open(&path, options(|_| {}));
    office.order("u2");
    let (_folder, copy) = folder();
    fs::copy(&path, &copy).unwrap();
    let office = open(&copy, options(|_| {}));
    let holders: Vec<_> = cards(&office).into_iter().filter_map(|card| card.holder).collect();
    assert_eq!(holders, [crate::office::user_id("u1")]);
    check(&office, &BTreeSet::new());
    office.sync(SYNC_ORDERS);
}

fn log_of(path: &Path) -> PathBuf {
    path.with_extension("db-wal")
}

// ---- the other process ----

const TASK: &str = "CARDWRIGHT_DISK_CHILD";
const FILE: &str = "CARDWRIGHT_DISK_FILE";

/// This test program.
fn this() -> PathBuf {
    env::current_exe().expect("a test knows where it is")
}

/// Starts the program, which is this test program, perhaps behind a shell, with one of the tasks of [`other_process`].
fn spawn(task: &str, path: &Path, program: &mut Command) -> Child {
    program
        .args(["--exact", "disk::other_process", "--nocapture"])
        .env(TASK, task)
        .env(FILE, path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the other process starts")
}

/// Runs it to its end; what it said.
fn child(task: &str, path: &Path, program: &mut Command) -> Vec<String> {
    let output = spawn(task, path, program).wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    text.lines().filter_map(|line| Some(line.split_once("child: ")?.1.to_owned())).collect()
}

fn say(words: &str) {
    println!("child: {words}");
    io::stdout().flush().expect("somebody listens");
}

/// What the other process does. Without a task it is no other process, and has nothing to do.
#[test]
fn other_process() {
    let (Ok(task), Some(path)) = (env::var(TASK), env::var_os(FILE).map(PathBuf::from)) else { return };
    match task.as_str() {
        "order" => {
            let store = match SqliteRepository::open_with(&path, options(|_| {})) {
                Ok(store) => store,
                Err(error) => return say(&format!("interrupted {error}")),
            };
            let office =
                Office::on(store, clock(), |builder| builder.users(MemoryUsers::new((1..=PEOPLE).map(person))));
            let (report, outcomes) = order_all(&office, run_id(1));
            done(&outcomes).iter().for_each(|card| say(&format!("done {card}")));
            if let Some(Interruption::Failed(words)) = report.interrupted {
                say(&format!("interrupted {words}"));
            }
        }
        "open" => match SqliteRepository::open_with(&path, options(|_| {})) {
            Ok(_) => say("opened"),
            Err(error) => say(&format!("refused {error}")),
        },
        "lock" => {
            let file = Connection::open(&path).expect("the file opens");
            file.execute_batch("BEGIN IMMEDIATE; INSERT INTO record (key, version, data) VALUES ('never', 1, 'null')")
                .expect("nobody else writes");
            say("locked");
            let _ = io::stdin().lines().next();
        }
        other => panic!("no task {other}"),
    }
}
