//! The example that makes 1,000 cards, as people start it: its figures add up, and are those of the office that it leaves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cardwright::adapters::sqlite::SqliteRepository;
use cardwright::host::{CardQuery, CardRepository as _, CertificateQuery};
use cardwright::{ChainKey, ObjectId, verify_chain};
use futures::executor::block_on;

#[test]
fn its_figures_add_up_and_are_those_of_the_office() {
    let folder = tempfile::tempdir().unwrap();
    let Output { status, stdout, stderr } = start(folder.path());
    let text = String::from_utf8(stdout).expect("it prints text");
    assert!(status.success(), "{text}{}", String::from_utf8_lossy(&stderr));

    assert_eq!(figure(&text, "requests approved"), 1000, "{text}");
    let (cards, card_states) = sum(&text, "cards: ");
    let (blanks, blank_states) = sum(&text, "blank cards: ");
    let (certificates, certificate_states) = sum(&text, "certificates: ");
    let of = |states: &BTreeMap<String, usize>, name: &str| states.get(name).copied().unwrap_or_default();
    assert_eq!((cards, card_states.values().sum()), (1000, 1000));
    assert_eq!(blank_states.values().sum::<usize>(), blanks);
    assert_eq!(certificate_states.values().sum::<usize>(), certificates);
    assert_eq!(figure(&text, "serial numbers of certificates, each once"), certificates);
    assert_eq!(of(&card_states, "locked"), 1);
    assert!(of(&card_states, "active") > 900 && of(&card_states, "issued") > 0);

    let made = cards - of(&card_states, "failed");
    assert_eq!(figure(&text, "letters, one for each card made"), made);
    assert_eq!(of(&blank_states, "complete"), made + 1, "the one in doubt had to be destroyed");
    assert!(of(&blank_states, "spoiled") > 0, "the machine spoiled some");
    assert_eq!(of(&certificate_states, "valid"), 2 * of(&card_states, "active"));
    assert_eq!(of(&certificate_states, "on hold"), 2 * of(&card_states, "issued"));
    let swept = section(&text, "Certificates of productions that failed");
    assert_eq!(of(&certificate_states, "revoked"), 2 + figure(swept, "revoked"));
    let listed = of(&certificate_states, "revoked") + of(&certificate_states, "on hold");
    assert_eq!(figure(&text, "entries: "), listed);
    assert_eq!(figure(&text, "things owed, 0 in doubt"), 0);

    assert!(text.contains(&format!("verify OK; it counts {listed} entries")), "{text}");
    assert!(text.contains("good.pem: OK"), "{text}");
    assert_eq!(text.matches("certificate revoked").count(), 2, "the locked one and the one on hold: {text}");
    assert!(text.contains("Its PIN:   * * * * * *\n"), "{text}");
    let six_digits = |word: &str| word.len() == 6 && word.bytes().all(|byte| byte.is_ascii_digit());
    assert!(!text.split(|c: char| !c.is_alphanumeric()).any(six_digits), "no PIN: {text}");
    assert_eq!(text.matches("In doubt: card").count(), 1, "{text}");
    assert!(text.contains("sealed entries is whole"), "{text}");

    check_office(folder.path(), &card_states, &certificate_states);
    for file in ["ca.pem", "ca.journal", "cards.crl", "cards.crl.pem"] {
        assert!(folder.path().join(file).exists(), "{file} stays");
    }
    let Output { status, stderr, .. } = start(folder.path());
    let words = String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(1), "an office is not written over");
    assert!(words.starts_with("error: ") && words.contains("an office already"), "{words}");
}

fn check_office(folder: &Path, states: &BTreeMap<String, usize>, certificate_states: &BTreeMap<String, usize>) {
    let store = SqliteRepository::open(folder.join("office.db")).expect("the office can be opened");
    let cards = block_on(store.card_page(&CardQuery::default(), None, 10_000)).unwrap();
    assert_eq!(&tally(cards.iter().map(|card| card.state().to_string())), states);
    let certificates = block_on(store.certificate_page(&CertificateQuery::default(), None, 10_000)).unwrap();
    assert_eq!(&tally(certificates.iter().map(|certificate| certificate.state().to_string())), certificate_states);
    for card in cards.iter().step_by(50) {
        let object = ObjectId::Card(card.id);
        let entries = block_on(store.history(&object, 0, 1000)).unwrap();
        verify_chain(&object, &entries, &card.history, &ChainKey::new(b"a key for trials")).unwrap();
    }
}

/// Beside the test stands the example: `cargo test` builds both.
fn start(folder: &Path) -> Output {
    let test = std::env::current_exe().expect("a test knows where it is");
    let examples: PathBuf = test.ancestors().nth(2).expect("tests stand in deps").join("examples");
    let example = examples.join("issue_cards").with_extension(std::env::consts::EXE_EXTENSION);
    assert!(example.exists(), "the example is not built: cargo build --example issue_cards");
    Command::new(example).arg(folder).output().expect("the example starts")
}

/// The number and the rest of the first line that is a number and a text that begins so.
fn line<'a>(text: &'a str, begins: &str) -> (usize, &'a str) {
    let found = text.lines().find_map(|line| {
        let (number, words) = line.trim_start().split_once("  ")?;
        Some((number.parse().ok()?, words.strip_prefix(begins)?))
    });
    found.unwrap_or_else(|| panic!("no figure for {begins:?} in {text}"))
}

fn figure(text: &str, begins: &str) -> usize {
    line(text, begins).0
}

/// A figure and the terms that it is made of.
fn sum(text: &str, begins: &str) -> (usize, BTreeMap<String, usize>) {
    let (figure, terms) = line(text, begins);
    let term = |term: &str| {
        let (count, what) = term.split_once(' ').expect("a count and what");
        (what.to_owned(), count.parse().expect("a count"))
    };
    (figure, terms.split(" + ").map(term).collect())
}

/// What stands after a heading.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    text.split_once(heading).unwrap_or_else(|| panic!("no {heading:?} in {text}")).1
}

fn tally(names: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    names.fold(BTreeMap::new(), |mut counts, name| {
        *counts.entry(name).or_default() += 1;
        counts
    })
}
