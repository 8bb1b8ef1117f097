//! The quickstart example as people start it: with the sample and with files of their own, killed in the middle, started
//! again, read along in part, and with bad input.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cardwright::adapters::sqlite::SqliteRepository;
use cardwright::host::{CardQuery, CardRepository as _, JobQuery};
use cardwright::{Card, CardState, ChainKey, Job, JobState, ObjectId, verify_chain};
use futures::executor::block_on;

const HEADER: &str = "id,common_name,upn,first_name,last_name,email,employee_number,department,active";

/// Of the 920 active people of the sample, three have names that are too long for the card.
const CARDS: usize = 917;

#[test]
fn the_sample_is_read_and_bad_rows_are_named_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let text = finished(&folder.path().join("office.db"));
    assert!(text.contains("980  people, 920 of them active"), "{text}");
    assert!(text.contains("12  duplicate rows, counted once"), "{text}");
    assert!(text.contains("8  wrong rows, left out"), "{text}");
    for line in [121, 251, 391, 457, 569, 686, 815, 913] {
        assert!(text.contains(&format!("line {line}: ")), "{line}: {text}");
    }
    assert_eq!(text.lines().filter(|line| line.trim_start().starts_with("line ")).count(), 8, "{text}");
    assert!(text.contains("917  processing") && text.contains("60  refused: user not active"), "{text}");
    assert!(text.contains("3  refused: card element"), "{text}");
    assert!(text.contains("1  aborted") && text.contains("card C"), "{text}");
    assert!(text.contains("settles one of") && text.contains("the bureau found it"), "{text}");
    // What became of the 916 that were sent adds up.
    let rows = text.lines().skip_while(|line| !line.starts_with("Sending 916 orders")).skip(1);
    let rows = rows.take_while(|line| !line.is_empty());
    let counts = rows.map(|row| row.split_whitespace().next().unwrap().parse::<u32>().expect("a count"));
    assert_eq!(counts.sum::<u32>(), 916, "{text}");
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
fn a_row_is_named_by_the_line_on_which_it_begins() {
    let [first, second, third] = ["u1,Ada,,,,,,,maybe", "u2,Ben,,,,,,,yes", "u3,Eva"];
    for (ending, words) in
        [("\n", "LF"), ("\r\n", "CR LF"), ("\r", "CR"), ("\n\n", "blank lines"), ("\r\n\r\n", "both")]
    {
        let text = [HEADER, first, second, third].map(|line| format!("{line}{ending}")).concat();
        let printed = printed_for(&text);
        let place = |row: usize| 1 + row * if ending.len() > 1 && ending != "\r\n" { 2 } else { 1 };
        for (row, reason) in [(1, "active is"), (3, "2 columns, 9 are wanted")] {
            assert!(printed.contains(&format!("line {}: {reason}", place(row))), "{words}: {printed}");
        }
        assert!(
            printed.contains("1  person, 1 of them active") && printed.contains("2  wrong rows"),
            "{words}: {printed}"
        );
    }
}

#[test]
fn a_quote_that_is_not_closed_is_named_with_all_that_it_swallows() {
    let rest = "u3,Cem,,,,,,,yes\nu4,Dai,,,,,,,yes\n";
    for (row, words) in [
        ("u2,\"Ben,,,,,,,yes", "lines 3 to 5: a quote is not closed; everything after it is left out"),
        ("u2,\"Ben,,,,,,,yes\nu5,Eva\",,,,,,,yes", "lines 3 to 4: a quote is not closed, or closed lines later"),
    ] {
        let printed = printed_for(&format!("{HEADER}\nu1,Ada,,,,,,,yes\n{row}\n{rest}"));
        assert!(printed.contains(words), "{printed}");
    }
    let printed = printed_for(&format!("{HEADER}\nu1,\"Berg, \"\"Ada\"\"\",,,,,,,yes\nu2,5\" Ben,,,,,,,yes\n"));
    assert!(printed.contains("2  people, 2 of them active") && !printed.contains("wrong"), "{printed}");
}

#[test]
fn spaces_around_an_id_make_nobody_twice() {
    let rows = "u1,Ada,,,,,,,yes\n u1 ,Ada,,,,,,,yes\nu1 ,Ada, ,,,,,, yes\n u1,Eva,,,,,,,yes\n";
    let printed = printed_for(&format!("{HEADER}\n{rows}"));
    assert!(printed.contains("1  person, 1 of them active"), "{printed}");
    assert!(printed.contains("2  duplicate rows, counted once"), "{printed}");
    assert!(printed.contains("line 5: id u1 is there already, with other data"), "{printed}");
}

#[test]
fn a_few_people_get_their_cards_and_no_mishaps() {
    let printed = printed_for(&format!("{HEADER}\nu1,Ada \u{1b}[31m,,,,,,,yes\n"));
    for words in
        ["Sending 1 order to", "1  accepted", "Following 1 order at", "All 1 card of", "1  produced", "is whole"]
    {
        assert!(printed.contains(words), "{words}: {printed}");
    }
    assert!(!printed.contains("borted one") && !printed.contains("settles"), "{printed}");
    assert!(
        !printed.contains('\u{1b}') && printed.contains("Ada \u{fffd}[31m"),
        "a name steers no terminal: {printed}"
    );

    let printed = printed_for(&format!("{HEADER}\n"));
    assert!(printed.contains("0  people") && printed.contains("has no cards"), "{printed}");
    assert!(!printed.contains("Sending") && !printed.contains("Following") && !printed.contains("later"), "{printed}");
}

#[test]
fn orders_of_people_who_are_gone_are_held_back_and_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("office.db");
    kill_at(&file, "sending 1");
    let people = folder.path().join("people.csv");
    std::fs::write(&people, format!("{HEADER}\nu0001,Ada,,,,,,,yes\n")).unwrap();
    let output = command().arg(&people).arg(&file).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("held back, such as: user "), "{text}");
    assert!(!folder.path().join("office.db.run").exists());
}

#[test]
fn a_run_file_without_a_run_and_several_starts_at_once_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let people = folder.path().join("people.csv");
    std::fs::write(&people, format!("{HEADER}\nu1,Ada,,,,,,,yes\nu2,Ben,,,,,,,yes\n")).unwrap();
    let file = folder.path().join("office.db");
    // Killed between making the file and writing it.
    std::fs::write(folder.path().join("office.db.run"), "").unwrap();
    let start = || {
        let mut command = command();
        command
            .arg(&people)
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the example starts")
    };
    for child in [start(), start(), start()] {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let store = SqliteRepository::open(&file).expect("the office can be opened");
    let cards = block_on(store.card_page(&CardQuery::default(), None, 100)).unwrap();
    let holders: Vec<_> = cards.iter().filter(|card| card.is_open_order()).map(|card| card.holder.clone()).collect();
    assert!(holders.len() == 2 && holders[0] != holders[1], "one open order each: {cards:?}");
    let left = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(left.into_iter().all(|name| !name.contains(".run")), "the run is finished");
}

#[test]
fn whoever_reads_along_may_go_and_a_full_disk_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    for (gone, name) in [(false, "first"), (true, "second")] {
        let file = folder.path().join(name);
        let mut child = start(&file).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        if gone {
            drop(child.stderr.take());
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(141), "as if told SIGPIPE");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!errors.contains("panicked") && !errors.contains("error"), "{errors}");
    }
    if cfg!(target_os = "linux") {
        let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = start(&folder.path().join("third")).stdout(full()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.starts_with("error: standard output: ") && errors.lines().count() == 1, "{errors}");
        let status = start(&folder.path().join("fourth")).stdout(full()).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(1));
    }
}

#[test]
fn it_says_how_it_is_used() {
    let output = command().arg("--help").output().unwrap();
    assert!(output.status.success() && output.stdout.starts_with(b"usage: quickstart [people.csv] [office.db]\n"));
    let output = command().arg("--fast").output().unwrap();
    assert!(output.status.code() == Some(2) && output.stderr.starts_with(b"usage: "));
}

#[test]
fn bad_input_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/people.csv");
    std::fs::write(path("no.db"), [7; 5000]).unwrap();
    std::fs::write(path("no.csv"), [0xff, 0x00, b',', b'\n'].repeat(900)).unwrap();
    std::fs::write(path("other.csv"), "name,colour\nx,red\n").unwrap();
    std::fs::write(path("semicolons.csv"), HEADER.replace(',', ";")).unwrap();
    for (people, office, words) in [
        (sample, path("no.db"), "not a database"),
        (path("missing.csv"), path("office.db"), "missing.csv: "),
        (path("no.csv"), path("office.db"), "not a list of people"),
        (path("other.csv"), path("office.db"), "not a list of people"),
        (path("semicolons.csv"), path("office.db"), "separated by semicolons instead of commas"),
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

/// Runs it to its end in a new office with this file of people, and gives what it printed.
fn printed_for(people: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("people.csv");
    std::fs::write(&file, people).unwrap();
    let Output { status, stdout, stderr } = command().arg(&file).arg(folder.path().join("office.db")).output().unwrap();
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
