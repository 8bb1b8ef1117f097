//! The quickstart example as people start it: with the sample, killed in the middle, started again, and with bad input.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cardwright::adapters::sqlite::SqliteRepository;
use cardwright::host::{CardQuery, CardRepository as _, JobQuery};
use cardwright::{Card, CardState, ChainKey, Job, JobState, ObjectId, verify_chain};
use futures::executor::block_on;

/// Of the 920 active people of the sample, three have names that are too long for the card.
const CARDS: usize = 917;

#[test]
fn the_sample_is_read_and_bad_rows_are_named_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let text = finished(&folder.path().join("office.db"));
    assert!(text.contains("980  people, 920 of them active"), "{text}");
    assert!(text.contains("12  rows stand there a second time"), "{text}");
    assert!(text.contains("8  rows are wrong"), "{text}");
    for line in [121, 251, 391, 457, 569, 686, 815, 913] {
        assert!(text.contains(&format!("line {line}: ")), "{line}: {text}");
    }
    assert_eq!(text.lines().filter(|line| line.trim_start().starts_with("line ")).count(), 8, "{text}");
    assert!(text.contains("917  processing") && text.contains("60  refused: user not active"), "{text}");
    assert!(text.contains("3  refused: card element"), "{text}");
    assert!(text.contains("1  aborted") && text.contains("processing, in doubt"), "{text}");
    assert!(text.contains("sealed entries is whole"), "{text}");
}

#[test]
fn killed_anywhere_it_finishes_the_same_run_and_a_new_one_is_refused() {
    for stage in ["ordering 300 ", "sending 2", "produced "] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("office.db");
        kill_at(&file, stage);
        let run_file = folder.path().join("office.db.run");
        let run = std::fs::read_to_string(&run_file).expect("a run that was killed is in hand");

        let text = finished(&file);
        assert!(text.contains(run.trim()), "{stage}: {text}");
        assert!(text.contains("done by an earlier start of this run"), "{stage}: {text}");
        assert!(!run_file.exists(), "{stage}: the run is finished");
        let cards = check_office(&file, stage);
        assert_eq!(cards.len(), CARDS, "{stage}: one card for each who is active and has a name that fits");

        let open = cards.iter().filter(|card| card.is_open_order()).count();
        let text = finished(&file);
        assert!(text.contains(&format!("{open}  refused: open order")), "{stage}: {open} open orders: {text}");
        assert!(!text.contains(run.trim()), "{stage}: a new run was begun: {text}");
        check_office(&file, stage);
    }
}

#[test]
fn bad_input_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/people.csv");
    std::fs::write(path("no.db"), [7; 5000]).unwrap();
    std::fs::write(path("no.csv"), [0xff, 0x00, b',', b'\n'].repeat(900)).unwrap();
    std::fs::write(path("other.csv"), "name,colour\nx,red\n").unwrap();
    for (people, office, words) in [
        (sample, path("no.db"), "not a database"),
        (path("missing.csv"), path("office.db"), "missing.csv: "),
        (path("no.csv"), path("office.db"), "not a list of people"),
        (path("other.csv"), path("office.db"), "not a list of people"),
        (folder.path().to_owned(), path("office.db"), "error: "),
    ] {
        let output = command().arg(people).arg(&office).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words}: {errors}");
        assert!(errors.starts_with("error: ") && errors.contains(words), "{words}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{words}: {errors}");
        assert!(!path("office.db").exists(), "{words}: nothing is begun");
    }
    assert_eq!(std::fs::read(path("no.db")).unwrap(), [7; 5000], "what is no office is left alone");
}

/// Beside the test stands the example: `cargo test` builds both.
fn command() -> Command {
    let test = std::env::current_exe().expect("a test knows where it is");
    let folder: PathBuf = test.ancestors().nth(2).expect("tests stand in deps").join("examples");
    let example = folder.join("quickstart").with_extension(std::env::consts::EXE_EXTENSION);
    assert!(example.exists(), "the example is not built: cargo build --example quickstart");
    Command::new(example)
}

fn start(file: &Path) -> Command {
    let mut command = command();
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/people.csv")).arg(file);
    command
}

/// Runs it to its end and gives what it printed.
fn finished(file: &Path) -> String {
    let Output { status, stdout, stderr } = start(file).output().expect("the example starts");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("it prints text")
}

/// Kills it (SIGKILL) as soon as its progress begins with this.
fn kill_at(file: &Path, stage: &str) {
    let mut child = start(file).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the example starts");
    let progress = BufReader::new(child.stderr.take().expect("a pipe was asked for"));
    let reached = progress.lines().map_while(Result::ok).any(|line| line.starts_with(stage));
    child.kill().expect("it runs");
    let status = child.wait().expect("it ended");
    assert!(reached && !status.success(), "{stage}: it was to be killed in the middle");
}

/// What must hold of the office, however often it was killed.
fn check_office(file: &Path, stage: &str) -> Vec<Card> {
    let store = SqliteRepository::open(file).expect("the office can be opened");
    let cards = block_on(store.card_page(&CardQuery::default(), None, 10_000)).unwrap();
    let mut open_orders: BTreeMap<_, u32> = BTreeMap::new();
    let mut numbers = BTreeSet::new();
    let mut order_ids = BTreeSet::new();
    for card in &cards {
        assert!(numbers.insert(card.number.clone()), "{stage}: number {:?} twice", card.number);
        if card.is_open_order() {
            *open_orders.entry(card.holder.clone()).or_default() += 1;
        }
        if let Some(id) = card.order.as_ref().and_then(|order| order.order_id.clone()) {
            assert!(order_ids.insert(id.clone()), "{stage}: order {id} twice");
        }
        let in_doubt = card.busy.as_ref().is_some_and(|busy| busy.in_doubt);
        let settled = matches!(card.state(), CardState::Produced | CardState::Failed | CardState::Aborted);
        assert!(settled || (card.state() == CardState::Processing && in_doubt), "{stage}: {card:?}");
    }
    assert!(open_orders.values().all(|count| *count == 1), "{stage}: two open orders of one user");
    for card in cards.iter().step_by(10) {
        let object = ObjectId::Card(card.id);
        let entries = block_on(store.history(&object, 0, 1000)).unwrap();
        verify_chain(&object, &entries, &card.history, &ChainKey::new(b"a key for trials")).unwrap();
    }
    let doubts: Vec<Job> =
        block_on(store.job_page(&JobQuery { states: vec![JobState::InDoubt], ..JobQuery::default() }, None, 10_000))
            .unwrap();
    assert!(doubts.len() <= 40, "{stage}: a kill leaves at most one call of 20 in doubt, not {}", doubts.len());
    cards
}
