//! Secrets: a PIN, a PUK and a private key go onto the card and nowhere else.

use std::error::Error as _;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cardwright::adapters::sqlite::{SqliteOptions, SqliteRepository};
use cardwright::host::{
    CardPersonalizer, CardQuery, CardRepository, CertificateQuery, DiscardOutcome, Entropy, FinishOrder, FinishOutcome,
    JobQuery, PrepareOrder, PrepareOutcome, Prepared, RequestQuery,
};
use cardwright::process::{Answer, ItemId};
use cardwright::{Actor, CardState, Error, JobKind, ObjectId, Secret};
use futures::executor::block_on;
use proptest::prelude::*;

use crate::bad_input::{AWAY, CALM, Directory};
use crate::eavesdropping::{Log, Seeded};
use crate::office::{
    ACTIVATE, CARD_SCRIPT, ISSUE, LOCK, Office, REPEAT_PRODUCTION, SYNC_ORPHANS, SYNC_PRODUCTION, clock, operator,
    service,
};
use crate::producing::{issue, resolve, state_of};
use crate::watched::{Watched, jobs};

// ---- a machine that tells ------------------------------------------------------------------------------------------

/// What becomes of a card that is finished.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Good,
    Spoiled,
    Unavailable,
    Unknown,
}

/// The PIN, the PUK and the private keys that a machine was handed; empty where there was none.
#[derive(Clone, Default)]
struct Handed {
    pin: String,
    puk: String,
    keys: Vec<String>,
}

impl Handed {
    /// The lines of the keys that only those who know them can write.
    fn key_lines(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().flat_map(|key| key.lines()).filter(|line| !line.starts_with("-----"))
    }

    fn all(&self) -> impl Iterator<Item = &str> {
        [self.pin.as_str(), self.puk.as_str()].into_iter().filter(|secret| !secret.is_empty()).chain(self.key_lines())
    }
}

type Words = fn(&Handed) -> String;
type Fates = Box<dyn Iterator<Item = (Fate, Words)> + Send>;

/// A machine that keeps all that it is handed, as none may, and says it in its words.
#[derive(Clone)]
struct Talkative {
    fates: Arc<Mutex<Fates>>,
    handed: Arc<Mutex<Vec<Handed>>>,
    /// What the orders look like to those who print them.
    printed: Arc<Mutex<String>>,
}

impl Talkative {
    fn new(fates: impl IntoIterator<Item = (Fate, Words), IntoIter: Send + 'static>) -> Self {
        Self {
            fates: Arc::new(Mutex::new(Box::new(fates.into_iter()))),
            handed: Arc::default(),
            printed: Arc::default(),
        }
    }

    fn handed(&self) -> Vec<Handed> {
        self.handed.lock().expect("not poisoned").clone()
    }
}

fn text_of(secret: &Secret) -> String {
    String::from_utf8(secret.expose().to_vec()).expect("digits, or PEM")
}

#[async_trait]
impl CardPersonalizer for Talkative {
    async fn prepare(&self, order: &PrepareOrder<'_>) -> PrepareOutcome {
        PrepareOutcome::Prepared(Prepared::new(order.reference))
    }

    async fn finish(&self, order: FinishOrder<'_>) -> FinishOutcome {
        let digits =
            |secret: &Option<(Secret, _)>| secret.as_ref().map(|(secret, _)| text_of(secret)).unwrap_or_default();
        let keys = order.certificates.iter().filter_map(|certificate| certificate.private_key.as_ref());
        let handed = Handed { pin: digits(&order.pin), puk: digits(&order.puk), keys: keys.map(text_of).collect() };
        write!(self.printed.lock().expect("not poisoned"), "{order:?} {:?}", order.pin).expect("a string");
        let (fate, words) = self.fates.lock().expect("not poisoned").next().unwrap_or((Fate::Good, |_| String::new()));
        let reason = words(&handed);
        self.handed.lock().expect("not poisoned").push(handed);
        match fate {
            Fate::Good => FinishOutcome::Good,
            Fate::Spoiled => FinishOutcome::Spoiled { reason },
            Fate::Unavailable => FinishOutcome::Unavailable { reason },
            Fate::Unknown => FinishOutcome::Unknown { reason },
        }
    }

    async fn discard(&self, _: &str) -> DiscardOutcome {
        DiscardOutcome::Done
    }
}

/// A source of the bytes of a list, over and over, from which the engine makes their last digits.
#[derive(Debug)]
struct Digits(&'static [&'static [u8]], Mutex<usize>);

impl Entropy for Digits {
    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()> {
        let mut draw = self.1.lock().expect("not poisoned");
        let digits = self.0[*draw % self.0.len()];
        *draw += 1;
        for (byte, digit) in bytes.iter_mut().zip(digits.iter().cycle()) {
            *byte = *digit;
        }
        Ok(())
    }
}

// ---- one after the other ---------------------------------------------------------------------------------------------

/// What is kept of the words of a machine that comes to such an end.
fn kept(office: &Office, fate: Fate) -> String {
    let card = office.request("u1");
    issue(office, card);
    match fate {
        Fate::Spoiled => office.card(card).failure.expect("it failed").cause,
        _ => jobs(office, JobKind::FinishCard)[0].remark.clone().expect("why"),
    }
}

#[test]
fn private_key_is_taken_out_of_the_words_of_a_machine_line_by_line() {
    let body: Words = |handed| format!("cannot import {}", handed.key_lines().collect::<Vec<_>>().join(" and "));
    let whole: Words = |handed| format!("cannot import {}", handed.keys.join(" and "));
    for fate in [Fate::Spoiled, Fate::Unavailable, Fate::Unknown] {
        for (words, remains) in [(body, "cannot import … and …"), (whole, "(the words held a private key)")] {
            let machine = Talkative::new([(fate, words)]);
            let office = Office::with(|builder| builder.personalizer(machine.clone()));
            assert_eq!(kept(&office, fate), remains, "{fate:?}");
            assert_eq!(machine.handed()[0].key_lines().count(), 2, "there were keys");
        }
    }
}

#[test]
fn puk_that_holds_the_pin_is_taken_out_of_the_words_of_a_machine_whole() {
    let words: Words = |handed| format!("VERIFY {} {}", handed.pin, handed.puk);
    for fate in [Fate::Spoiled, Fate::Unavailable, Fate::Unknown] {
        let machine = Talkative::new([(fate, words)]);
        let digits = Digits(&[&[4, 8, 2, 9], &[7, 4, 8, 2, 9, 1, 3, 6]], Mutex::default());
        let office = Office::with(|builder| builder.personalizer(machine.clone()).entropy(digits));
        office.script(CARD_SCRIPT, "CardsPINLength = 4\nCardsPUKLength = 8\nCardsPUKDeliveryMethod = \"print\"");
        assert_eq!(kept(&office, fate), "VERIFY … …", "{fate:?}");
        let handed = machine.handed().remove(0);
        assert_eq!((handed.pin.as_str(), handed.puk.as_str()), ("4829", "74829136"));
    }
}

#[test]
fn broken_source_of_random_bytes_makes_no_card_and_keeps_nobody_waiting() {
    let broken: [&'static [&'static [u8]]; 3] = [&[&[0]], &[&[7]], &[&[255]]];
    for byte in broken {
        let office = Office::with(|builder| builder.entropy(Digits(byte, Mutex::default())));
        let card = office.request("u1");
        assert_eq!(state_of(&issue(&office, card)), "begun");
        assert_eq!((office.state(card), office.personalizer.calls().finish), (CardState::Approved, 0));
        let remark = jobs(&office, JobKind::FinishCard)[0].remark.clone().expect("why");
        assert_eq!(remark, "the source of random bytes gives nothing random");
    }
}

// ---- whatever the machine says -----------------------------------------------------------------------------------------

/// Random bytes that become digits from 4 to 9: few other numbers are made of those alone.
#[derive(Debug)]
struct HighDigits(Seeded);

impl Entropy for HighDigits {
    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()> {
        bytes.fill_with(|| self.0.next().to_le_bytes()[7] % 6 + 4);
        Ok(())
    }
}

/// Whether a secret stands in a text. A short one stands in many an id by chance: there it is not looked for.
fn stands_in(secret: &str, text: &str, without_ids: &str) -> bool {
    if secret.len() < 10 { without_ids.contains(secret) } else { text.contains(secret) }
}

/// A text without the runs of hexadecimal digits and dashes that are as long as an id.
fn without_ids(text: &str) -> String {
    let mut kept = String::new();
    let mut run = String::new();
    for character in text.chars().chain(['\n']) {
        if character.is_ascii_hexdigit() || character == '-' {
            run.push(character);
            continue;
        }
        if run.len() < 32 {
            kept.push_str(&run);
        }
        run.clear();
        kept.push(character);
    }
    kept
}

/// An error as everybody may show it, with all its causes.
fn words_of(error: &Error) -> String {
    let mut words = format!("{error} {error:?}");
    let mut cause = error.source();
    while let Some(next) = cause {
        write!(words, " {next} {next:?}").expect("a string");
        cause = next.source();
    }
    words
}

/// An office with a talkative machine, on a file, whose store and directory can be away.
struct Stage {
    office: Office,
    machine: Talkative,
    store: SqliteRepository,
    watched: Arc<Watched>,
    directory: Directory,
    folder: tempfile::TempDir,
    /// All that its callers were told.
    told: String,
    errors: usize,
}

impl Stage {
    fn new(machine: Talkative, seed: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = clock();
        let options = SqliteOptions::new(Arc::new(clock.clone()));
        let store = SqliteRepository::open_with(folder.path().join("office.db"), options).expect("it opens");
        let (watched, directory) = (Watched::new(store.clone()), Directory::new());
        let office = Office::on(Arc::clone(&watched), clock, |builder| {
            let builder = builder.personalizer(machine.clone()).users(directory.clone());
            builder.entropy(HighDigits(Seeded::new(seed)))
        });
        // The same case is the same story each time.
        let office = Office { runs: Some(Arc::default()), ..office };
        Self { office, machine, store, watched, directory, folder, told: String::new(), errors: 0 }
    }

    fn run(&mut self, process: &str, actor: &Actor, answer: Answer) {
        match self.office.try_run(process, actor, answer) {
            Ok((report, outcomes)) => {
                let shown = serde_json::to_string(&(&report, &outcomes)).expect("it can be written");
                write!(self.told, "{report:?} {outcomes:?} {shown}").expect("a string");
            }
            Err(error) => self.errored(&error),
        }
    }

    fn errored(&mut self, error: &Error) {
        self.errors += 1;
        self.told.push_str(&words_of(error));
    }

    fn of_all(&self, state: CardState) -> Answer {
        let query = CardQuery { states: vec![state], ..CardQuery::default() };
        let cards = block_on(self.office.engine.card_page(&query, None, 100)).expect("readable");
        Answer::ids(cards.iter().map(|card| ItemId::Card(card.id)))
    }

    /// Makes cards again and again, with the store and the directory away for a while in between.
    fn play(&mut self, away: usize) {
        for n in 1..=4 {
            self.office.request(&format!("u{n}"));
        }
        self.run(ISSUE, &operator(), self.of_all(CardState::Approved));
        for round in 0..2 {
            self.office.clock.advance(Duration::from_secs(24 * 3600));
            self.watched.be_away(away, 12);
            self.run(SYNC_PRODUCTION, &service(), Answer::new());
            if let Err(error) = block_on(self.office.engine.card_page(&CardQuery::default(), None, 10)) {
                self.errored(&error);
            }
            self.watched.be_back();
            self.directory.set(AWAY);
            self.run(SYNC_PRODUCTION, &service(), Answer::new());
            self.run(REPEAT_PRODUCTION, &operator(), self.of_all(CardState::Failed));
            self.directory.set(CALM);
            self.office.clock.advance(Duration::from_secs(24 * 3600));
            self.run(SYNC_PRODUCTION, &service(), Answer::new());
            for doubt in block_on(self.office.engine.doubts(None, 100)).expect("readable") {
                resolve(&self.office, ItemId::Job(doubt.id), if round == 0 { "good card" } else { "spoiled" });
            }
            self.run(REPEAT_PRODUCTION, &operator(), self.of_all(CardState::Failed));
        }
        self.run(SYNC_ORPHANS, &service(), Answer::new());
        self.run(ACTIVATE, &operator(), self.of_all(CardState::Issued));
        self.run(LOCK, &operator(), self.of_all(CardState::Active).with("reason", "superseded"));
        self.office.request("u5");
        self.directory.set(AWAY);
        self.run(ISSUE, &operator(), self.of_all(CardState::Approved));
        self.watched.be_away(0, 3);
        let error = block_on(self.office.engine.open(ISSUE, &operator())).map(|_| ()).expect_err("the store is away");
        self.errored(&error);
        self.watched.be_back();
    }

    /// All that the store gives, and what its callers and those who print its parts were told.
    fn everything(&self) -> String {
        block_on(async {
            let engine = &self.office.engine;
            let cards = engine.card_page(&CardQuery::default(), None, 1000).await.expect("readable");
            let jobs = engine.job_page(&JobQuery::default(), None, 10_000).await.expect("readable");
            let certificates = engine.certificate_page(&CertificateQuery::default(), None, 1000).await;
            let requests = engine.request_page(&RequestQuery::default(), None, 1000).await.expect("readable");
            let feed = engine.changes_since(None, 100_000).await.expect("readable");
            let keys: Vec<String> = feed
                .entries
                .iter()
                .filter_map(|entry| match &entry.entry.object {
                    ObjectId::Record(key) => Some(key.clone()),
                    ObjectId::Run(run) => Some(format!("run/{run}")),
                    _ => None,
                })
                .collect();
            let records = self.store.records(&keys).await.expect("readable");
            assert!(!records.is_empty() && !cards.is_empty() && !feed.entries.is_empty());
            let stored =
                format!("{cards:?} {jobs:?} {:?} {requests:?} {feed:?} {records:?}", certificates.expect("readable"));
            let printed = self.machine.printed.lock().expect("not poisoned");
            format!("{stored} {printed} {:?} {:?} {}", self.store, self.office.engine, self.told)
        })
    }

    fn bytes(&self) -> String {
        let files = std::fs::read_dir(self.folder.path()).expect("readable");
        let bytes = files.flat_map(|file| std::fs::read(file.expect("readable").path()).expect("readable"));
        String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
    }
}

/// Ways of saying what a machine was handed.
const WORDS: [Words; 4] = [
    |handed| format!("VERIFY {} and {} answered 63C2", handed.pin, handed.puk),
    |handed| format!("{}{}{}", handed.puk, handed.pin, handed.keys.join("")),
    |handed| handed.all().collect::<Vec<_>>().join(", "),
    |handed| handed.key_lines().chain(["PIN", &handed.pin, "", &handed.puk]).collect::<Vec<_>>().join("\n"),
];

/// What becomes of a card, and which words go with it.
fn fate() -> impl Strategy<Value = (Fate, usize)> {
    let fates = vec![Fate::Good, Fate::Spoiled, Fate::Unavailable, Fate::Unknown];
    (prop::sample::select(fates), 0..WORDS.len())
}

fn script() -> impl Strategy<Value = String> {
    let lengths = (prop::sample::select(vec![4, 6, 8, 12]), prop::sample::select(vec![6, 8, 12]));
    let pin = prop::sample::select(vec!["print", "email", "nopin"]);
    let puk = prop::sample::select(vec!["print", "email", "nopuk"]);
    let ends = prop::sample::select(vec![("issued", "on hold"), ("issued", "valid"), ("active", "valid")]);
    (lengths, pin, puk, ends).prop_map(|((pin_length, puk_length), pin, puk, (card, certificate))| {
        format!(
            "CardsPINLength = {pin_length}\nCardsPUKLength = {puk_length}\nCardsPINDeliveryMethod = \"{pin}\"\n\
             CardsPUKDeliveryMethod = \"{puk}\"\nCardsCardEndState = \"{card}\"\n\
             CardsCertificateEndState = \"{certificate}\""
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_secret_is_in_the_store_in_a_log_in_an_error_or_in_debug_output(
        script in script(),
        fates in prop::collection::vec(fate(), 4..12),
        away in 0..40_usize,
        seed in any::<u64>(),
    ) {
        let log = Log::default();
        let stage = log.while_listening(|| {
            let fates: Vec<_> = fates.into_iter().map(|(fate, words)| (fate, WORDS[words])).collect();
            let mut stage = Stage::new(Talkative::new(fates.into_iter().cycle()), seed);
            stage.office.script(CARD_SCRIPT, &script);
            stage.play(away);
            stage
        });
        let logged = log.text();
        prop_assert!(logged.contains("next_chunk run=") && logged.contains("run interrupted"), "{logged}");
        prop_assert!(stage.errors > 0 && stage.told.contains("out for lunch"), "{}", stage.told);
        let everything = format!("{} {logged}", stage.everything());
        let (plain, bytes) = (without_ids(&everything), stage.bytes());
        prop_assert!(bytes.len() > 10_000 && bytes.contains("production_begun"), "the files hold something");
        let handed = stage.machine.handed();
        prop_assert!(!handed.is_empty());
        for secret in handed.iter().flat_map(Handed::all) {
            prop_assert!(!stands_in(secret, &everything, &plain), "{secret} is told or stored");
            prop_assert!(secret.len() < 10 || !bytes.contains(secret), "{secret} is in the files");
        }
        prop_assert!(!everything.contains("PRIVATE KEY") && !bytes.contains("PRIVATE KEY"));
    }
}
