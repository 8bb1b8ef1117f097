//! What is particular to the store on a SQLite file; the contract of every store is checked by the conformance kit.

use std::collections::BTreeSet;
use std::future::Future as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Waker};
use std::time::Duration;

use cardwright::adapters::memory::ManualClock;
use cardwright::adapters::sqlite::{SqliteOptions, SqliteRepository};
use cardwright::conformance::block_on as wait;
use cardwright::host::{
    CardQuery, CardRepository, CertificateQuery, ClaimRequest, Clock as _, CommitError, JobQuery, RepositoryError,
    RequestQuery, TextPrefix,
};
use cardwright::{
    ActorId, Busy, Card, CardId, CardKind, CardState, Certificate, CertificateId, CertificateKind, CertificateState,
    ChainKey, ChangeSet, Conflict, IssuedCertificate, Job, JobId, JobKind, JobState, ObjectId, Record, Reservation,
    Route, RunId, Stamp, StoredId, SymbolicName, Task, UserId, Why, verify_chain,
};
use chrono::{DateTime, TimeDelta, Utc};
use tempfile::TempDir;
use uuid::Uuid;

type Tested = Result<(), Box<dyn std::error::Error>>;

/// An id that no other call of this test run gives.
fn fresh() -> Uuid {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Uuid::from_u128(NEXT.fetch_add(1, Ordering::Relaxed).into())
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cards.db");
    (folder, path)
}

fn open_at(path: &Path, clock: &ManualClock) -> SqliteRepository {
    SqliteRepository::open_with(path, SqliteOptions::new(Arc::new(clock.clone()))).unwrap()
}

/// Drops the last handle, which closes the file and removes its log.
fn close(store: SqliteRepository, path: &Path) {
    drop(store);
    closed(path);
}

fn closed(path: &Path) {
    assert!(!path.with_extension("db-wal").exists(), "the file was not closed");
}

pub(crate) struct Office {
    actor: ActorId,
    process: SymbolicName,
    key: ChainKey,
    at: DateTime<Utc>,
    run: Option<RunId>,
}

impl Office {
    pub(crate) fn new() -> Self {
        Self {
            actor: ActorId::new("clerk").unwrap(),
            process: SymbolicName::new("Issue").unwrap(),
            key: ChainKey::none(),
            at: DateTime::UNIX_EPOCH + TimeDelta::days(19_000),
            run: None,
        }
    }

    pub(crate) fn stamp(&self) -> Stamp<'_> {
        Stamp { at: self.at, actor: &self.actor, process: &self.process, run: self.run, key: &self.key }
    }

    pub(crate) fn card(&self, changes: &mut ChangeSet, number: &str, surname: &str) -> Card {
        let id = CardId::new(fresh());
        let (mut card, entry) =
            Card::create(id, CardKind::Permanent, Route::External, &self.stamp(), Why::code("created"));
        card.holder = Some(UserId::new(format!("user {number}")).unwrap());
        card.number = Some(number.to_owned());
        card.production_type = Some("badge".to_owned());
        card.attributes.insert("surname".to_owned(), surname.to_owned());
        Arc::make_mut(&mut card.searchable).insert("surname".to_owned());
        changes.history.push(entry);
        changes.put_card(card.clone());
        card
    }

    pub(crate) fn certificate(&self, changes: &mut ChangeSet, card: CardId) -> Certificate {
        let issued = IssuedCertificate {
            issuer: "CN=Office CA".to_owned(),
            serial: "0a1b".to_owned(),
            valid_until: self.at,
            pem: "-----BEGIN CERTIFICATE-----".to_owned(),
        };
        let (id, production) = (CertificateId::new(fresh()), JobId::new(fresh()));
        let kind = CertificateKind::Signature;
        let (certificate, entry) = Certificate::issued(id, card, kind, production, "key", issued, &self.stamp());
        changes.history.push(entry);
        changes.certificates.push(certificate.clone());
        certificate
    }

    pub(crate) fn job(&self, changes: &mut ChangeSet) -> Job {
        let job =
            Job::new(JobId::new(fresh()), Task::PlaceOrder { notify_holder: false, queued: true }, None, &self.stamp());
        changes.jobs.push(job.clone());
        job
    }
}

pub(crate) fn reservation(key: &str, owner: &str) -> Reservation {
    Reservation { key: key.to_owned(), owner: owner.to_owned() }
}

pub(crate) fn conflicts(result: Result<(), CommitError>) -> Vec<Conflict> {
    match result {
        Err(CommitError::Conflicts(conflicts)) => conflicts,
        other => panic!("conflicts were expected, not {other:?}"),
    }
}

fn ids(cards: &[Card]) -> BTreeSet<CardId> {
    cards.iter().map(|card| card.id).collect()
}

#[test]
fn what_is_stored_is_there_after_reopening() -> Tested {
    let (_folder, path) = folder();
    let office = Office::new();
    let mut changes = ChangeSet::new();
    let mut card = office.card(&mut changes, "1", "Ångström");
    let mut certificate = office.certificate(&mut changes, card.id);
    let mut job = office.job(&mut changes);
    let record = Record::new("a\0b", serde_json::json!({"next": 7}));
    changes.records.push(record.clone());
    changes.takes.push(reservation("number/1", "me"));
    let entry = changes.history[0].clone();
    {
        let store = SqliteRepository::open(&path)?;
        wait(store.commit(&changes))?;
        close(store, &path);
    }
    let store = SqliteRepository::open(&path)?;
    card.version = 1;
    certificate.version = 1;
    job.version = 1;
    assert_eq!(wait(store.certificates(&[certificate.id, certificate.id]))?, [certificate]);
    assert_eq!(wait(store.cards(&[card.id, card.id, CardId::new(fresh())]))?, [card.clone()]);
    assert_eq!(wait(store.jobs(&[job.id]))?, [job]);
    assert_eq!(wait(store.records(&["a\0b".to_owned()]))?, [Record { version: 1, ..record }]);
    assert_eq!(wait(store.reservations(&["number/1".to_owned()]))?, [reservation("number/1", "me")]);
    assert_eq!(wait(store.history(&ObjectId::Card(card.id), 0, 10))?, std::slice::from_ref(&entry));
    assert_eq!(wait(store.history(&ObjectId::Card(card.id), 1, 10))?, []);
    let page = wait(store.changes_since(None, 10))?;
    assert_eq!(page.entries[0].entry, entry);
    let next = wait(store.changes_since(page.cursor.as_deref(), 10))?;
    assert_eq!((next.entries.len(), next.cursor), (0, page.cursor));
    for cursor in ["", "x", "-1", "+1", "99999999999999999999"] {
        let refused = wait(store.changes_since(Some(cursor), 1));
        assert!(matches!(refused, Err(RepositoryError::Rejected { .. })), "{cursor}: {refused:?}");
    }
    assert_eq!(format!("{store:?}"), format!("SqliteRepository({path:?})"));
    Ok(())
}

/// A file as the release with version 1 of the schema left it.
fn version_1(path: &Path) -> Tested {
    rusqlite::Connection::open(path)?.execute_batch(include_str!("sqlite_version_1.sql"))?;
    Ok(())
}

/// The texts of all tables and indices.
fn schema(path: &Path) -> rusqlite::Result<Vec<Option<String>>> {
    let file = rusqlite::Connection::open(path)?;
    let mut texts = file.prepare("SELECT sql FROM sqlite_schema ORDER BY type, name")?;
    texts.query_map([], |row| row.get(0))?.collect()
}

#[test]
fn a_file_of_version_1_is_brought_up_to_date_with_all_that_it_holds() -> Tested {
    let (_folder, path) = folder();
    version_1(&path)?;
    let store = SqliteRepository::open(&path)?;

    let number = |number: u128| Uuid::from_u128(number);
    let holder = UserId::new("CN=Ångström, Åsa")?;
    let cards = wait(store.cards(&[1, 2, 3, 4].map(|card| CardId::new(number(card)))))?;
    let states: Vec<CardState> = cards.iter().map(Card::state).collect();
    assert_eq!(states, [CardState::Requested, CardState::Processing, CardState::Approved]);
    for card in &cards {
        assert_eq!((card.version, card.holder.as_ref()), (1, Some(&holder)));
        assert_eq!((&card.production, card.produced, &card.chip_serial), (&None, None, &None));
        let history = wait(store.history(&ObjectId::Card(card.id), 0, 10))?;
        verify_chain(&ObjectId::Card(card.id), &history, &card.history, &ChainKey::none())?;
    }
    for query in [
        CardQuery { holders: vec![holder.clone()], ..CardQuery::default() },
        CardQuery { text: vec![TextPrefix::new("surname", "ÅNG")], ..CardQuery::default() },
        CardQuery { production_types: vec!["badge".to_owned()], ..CardQuery::default() },
        CardQuery { states, ..CardQuery::default() },
    ] {
        assert_eq!(wait(store.card_page(&query, None, 10))?, cards, "{query:?}");
    }
    assert_eq!(wait(store.request_page(&RequestQuery::default(), None, 10))?.len(), 1);
    assert_eq!(wait(store.records(&["numbers/cards".to_owned()]))?.len(), 1);
    assert_eq!(wait(store.reservations(&[format!("open-order/{holder}")]))?.len(), 1);
    assert_eq!(wait(store.changes_since(None, 99))?.entries.len(), 7);
    // The numbers of the kinds are in the file.
    for (job, kind) in (11..).zip([JobKind::PlaceOrder, JobKind::TrackOrder, JobKind::Notify, JobKind::Custom]) {
        let jobs = wait(store.job_page(&JobQuery { kinds: vec![kind], states: Vec::new() }, None, 10))?;
        assert_eq!(jobs.iter().map(|job| (job.id, job.kind())).collect::<Vec<_>>(), [(JobId::new(number(job)), kind)]);
        assert_eq!(jobs[0].claim.is_some(), kind == JobKind::TrackOrder);
    }

    let office = Office::new();
    let mut changes = ChangeSet::new();
    let mut card = cards[2].clone();
    changes.move_card(&mut card, CardState::Issued, &office.stamp(), Why::code("issued"))?;
    let mut certificate = office.certificate(&mut changes, card.id);
    changes.put_card(card);
    wait(store.commit(&changes))?;
    let query = CertificateQuery { cards: vec![certificate.card], states: vec![CertificateState::Issued] };
    certificate.version = 1;
    assert_eq!(wait(store.certificate_page(&query, None, 10))?, [certificate]);
    assert_eq!(wait(store.cards(&[cards[2].id]))?[0].version, 2);
    close(store, &path);

    let new = path.with_extension("new.db");
    close(SqliteRepository::open(&new)?, &new);
    assert_eq!(schema(&path)?, schema(&new)?, "an old file and a new one have the same schema");
    Ok(())
}

#[test]
fn many_can_bring_an_old_file_up_to_date_at_once() -> Tested {
    let (_folder, path) = folder();
    version_1(&path)?;
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                let store = SqliteRepository::open(&path).unwrap();
                assert_eq!(wait(store.certificate_page(&CertificateQuery::default(), None, 10)).unwrap(), []);
                assert_eq!(wait(store.card_page(&CardQuery::default(), None, 10)).unwrap().len(), 3);
            });
        }
    });
    Ok(())
}

#[test]
fn a_newer_schema_is_refused() -> Tested {
    let (_folder, path) = folder();
    close(SqliteRepository::open(&path)?, &path);
    rusqlite::Connection::open(&path)?.pragma_update(None, "user_version", 99)?;
    match SqliteRepository::open(&path) {
        Err(RepositoryError::Rejected { reason, .. }) => {
            assert!(reason.contains("cards.db") && reason.contains("99") && reason.contains("up to 2"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[test]
fn a_foreign_database_is_refused_and_left_alone() -> Tested {
    for change in ["CREATE TABLE t (a)", "PRAGMA application_id = 5", "PRAGMA user_version = 1"] {
        let (_folder, path) = folder();
        rusqlite::Connection::open(&path)?.execute_batch(change)?;
        let before = std::fs::read(&path)?;
        match SqliteRepository::open(&path) {
            Err(RepositoryError::Rejected { reason, .. }) => {
                assert!(reason.contains("not a cardwright store"), "{reason}");
            }
            other => panic!("{change}: {other:?}"),
        }
        assert_eq!(std::fs::read(&path)?, before, "{change}");
    }
    Ok(())
}

#[test]
fn what_is_no_database_is_called_corrupt() -> Tested {
    let (_folder, path) = folder();
    std::fs::write(&path, "a shopping list, and a long one at that. ".repeat(300))?;
    match SqliteRepository::open(&path) {
        Err(RepositoryError::Corrupt { reason, source }) => {
            assert_eq!(reason, format!("`{}`: the file is not a database", path.display()));
            assert!(source.is_some());
        }
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[test]
fn a_path_that_cannot_be_opened_is_unavailable() {
    let (folder, _) = folder();
    let missing = SqliteRepository::open(folder.path().join("no such folder").join("cards.db"));
    assert!(matches!(missing, Err(RepositoryError::Unavailable { .. })), "{missing:?}");
    let memory = SqliteRepository::open(":memory:");
    assert!(matches!(memory, Err(RepositoryError::Rejected { .. })), "{memory:?}");
}

/// A store with enough cards that its file has many pages.
fn large_store(path: &Path) -> Vec<CardId> {
    let office = Office::new();
    let store = SqliteRepository::open(path).unwrap();
    let mut changes = ChangeSet::new();
    let ids = (0..500).map(|n| office.card(&mut changes, &n.to_string(), "Meier").id).collect();
    wait(store.commit(&changes)).unwrap();
    close(store, path);
    ids
}

/// Opens the file and reads all of it.
fn read_everything(path: &Path, ids: &[CardId]) -> Result<(), RepositoryError> {
    let store = SqliteRepository::open(path)?;
    wait(store.cards(ids))?;
    wait(store.changes_since(None, 10_000))?;
    let query = CardQuery { text: vec![TextPrefix::new("surname", "m")], ..CardQuery::default() };
    wait(store.card_page(&query, None, 10_000))?;
    Ok(())
}

#[test]
fn a_damaged_file_is_called_corrupt_and_named() -> Tested {
    for truncate in [true, false] {
        let (_folder, path) = folder();
        let ids = large_store(&path);
        read_everything(&path, &ids)?;
        closed(&path);
        let mut bytes = std::fs::read(&path)?;
        let third = bytes.len() / 3 / 4096 * 4096;
        if truncate {
            bytes.truncate(third);
        } else {
            bytes[third..2 * third].fill(0xA5);
        }
        std::fs::write(&path, bytes)?;
        match read_everything(&path, &ids) {
            Err(RepositoryError::Corrupt { reason, .. }) => {
                assert!(reason.contains(&*path.to_string_lossy()), "{reason}")
            }
            other => panic!("truncated: {truncate}: {other:?}"),
        }
    }
    Ok(())
}

#[test]
fn data_that_cannot_be_read_names_the_object() -> Tested {
    let (_folder, path) = folder();
    let office = Office::new();
    let mut changes = ChangeSet::new();
    let card = office.card(&mut changes, "1", "Meier");
    let store = SqliteRepository::open(&path)?;
    wait(store.commit(&changes))?;
    rusqlite::Connection::open(&path)?.execute_batch("UPDATE card SET data = '{}'")?;
    match wait(store.cards(&[card.id])) {
        Err(RepositoryError::Corrupt { reason, .. }) => assert!(reason.contains(&card.id.to_string()), "{reason}"),
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[test]
fn of_two_that_open_the_file_at_once_one_wins_a_reservation() -> Tested {
    let (_folder, path) = folder();
    let start = Barrier::new(2);
    let won: Vec<usize> = std::thread::scope(|scope| {
        let racers: Vec<_> = ["a", "b"]
            .into_iter()
            .map(|owner| {
                let (path, start) = (&path, &start);
                scope.spawn(move || {
                    start.wait();
                    let store = SqliteRepository::open(path);
                    start.wait();
                    let store = store.unwrap();
                    (0..50)
                        .filter(|n| {
                            let mut changes = ChangeSet::new();
                            changes.takes.push(reservation(&n.to_string(), owner));
                            match wait(store.commit(&changes)) {
                                Ok(()) => true,
                                Err(CommitError::Conflicts(conflicts)) => {
                                    let other = if owner == "a" { "b" } else { "a" };
                                    let taken = Conflict::Taken { key: n.to_string(), owner: other.to_owned() };
                                    assert_eq!(conflicts, [taken]);
                                    false
                                }
                                Err(error) => panic!("{error:?}"),
                            }
                        })
                        .count()
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert_eq!(won.iter().sum::<usize>(), 50);
    Ok(())
}

#[test]
fn many_can_create_the_file_at_once() {
    for _ in 0..10 {
        let (_folder, path) = folder();
        let start = Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    start.wait();
                    SqliteRepository::open(&path).unwrap();
                });
            }
        });
    }
}

#[test]
fn every_conflict_is_named_and_nothing_is_stored() -> Tested {
    let (_folder, path) = folder();
    let office = Office::new();
    let store = SqliteRepository::open(&path)?;
    let mut changes = ChangeSet::new();
    let card = office.card(&mut changes, "1", "Meier");
    let certificate = office.certificate(&mut changes, card.id);
    let job = office.job(&mut changes);
    changes.records.push(Record::new("options", serde_json::json!(1)));
    changes.takes.push(reservation("held", "somebody"));
    wait(store.commit(&changes))?;

    let mut wrong = ChangeSet::new();
    let other = office.card(&mut wrong, "2", "Huber");
    let missing = office.card(&mut wrong, "3", "Huber");
    wrong.cards[1].version = 4;
    wrong.cards.push(other.clone());
    wrong.cards.push(card.clone());
    let mut unknown = office.certificate(&mut wrong, card.id);
    unknown.version = 3;
    wrong.certificates = vec![certificate.clone(), unknown.clone()];
    wrong.jobs.push(Job { version: 7, ..job.clone() });
    wrong.records.push(Record { version: 2, ..Record::new("options", serde_json::json!(2)) });
    wrong.releases.extend([reservation("held", "another"), reservation("free", "me")]);
    wrong.takes.extend([reservation("held", "me"), reservation("new", "me"), reservation("new", "you")]);
    let version = |object, expected, found| Conflict::Version { object, expected, found };
    let of_card = |id| StoredId::Object(ObjectId::Card(id));
    let mut expected = vec![
        version(of_card(missing.id), 4, 0),
        version(of_card(other.id), 0, 1),
        version(of_card(card.id), 0, 1),
        version(StoredId::Object(ObjectId::Certificate(certificate.id)), 0, 1),
        version(StoredId::Object(ObjectId::Certificate(unknown.id)), 3, 0),
        version(StoredId::Job(job.id), 7, 1),
        version(StoredId::Object(ObjectId::Record("options".to_owned())), 2, 1),
        Conflict::NotHeld { key: "held".to_owned(), owner: "another".to_owned() },
        Conflict::NotHeld { key: "free".to_owned(), owner: "me".to_owned() },
        Conflict::Taken { key: "held".to_owned(), owner: "somebody".to_owned() },
        Conflict::Taken { key: "new".to_owned(), owner: "me".to_owned() },
    ];
    expected.sort();
    assert_eq!(conflicts(wait(store.commit(&wrong))), expected);
    assert_eq!(wait(store.cards(&[other.id, missing.id]))?, []);
    assert_eq!(wait(store.reservations(&["new".to_owned()]))?, []);

    let mut handed_on = ChangeSet::new();
    handed_on.releases.push(reservation("held", "somebody"));
    handed_on.takes.push(reservation("held", "me"));
    wait(store.commit(&handed_on))?;

    let mut again = ChangeSet::new();
    again.history.clone_from(&changes.history);
    again.takes.push(reservation("new", "me"));
    let refused = wait(store.commit(&again));
    assert!(matches!(refused, Err(CommitError::Store(RepositoryError::Rejected { .. }))), "{refused:?}");
    assert_eq!(wait(store.reservations(&["new".to_owned()]))?, []);
    Ok(())
}

#[test]
fn queries_agree_with_their_meaning() -> Tested {
    let (_folder, path) = folder();
    let office = Office::new();
    let store = SqliteRepository::open(&path)?;
    let mut changes = ChangeSet::new();
    for (n, surname) in ["Meier", "Meyer", "Ångström", "angst", "\u{10FFFF}x", "Mei\0er", "%_"].iter().enumerate() {
        for copy in 0..3 {
            let mut card = office.card(&mut changes, &format!("{n}{copy}"), surname);
            changes.cards.pop();
            if copy > 0 {
                changes.move_card(&mut card, CardState::Requested, &office.stamp(), Why::code("asked"))?;
                card.production_type = None;
            }
            if copy > 1 {
                card.busy = Some(Busy { job: JobId::new(fresh()), since: office.at, in_doubt: true });
                card.holder = None;
            }
            changes.put_card(card);
        }
    }
    wait(store.commit(&changes))?;
    // Changed terms replace the old ones.
    let mut renamed = wait(store.cards(&[changes.cards[0].id]))?.remove(0);
    renamed.attributes.insert("surname".to_owned(), "Zander".to_owned());
    wait(store.commit(&change_of(renamed)))?;
    let stored = wait(store.card_page(&CardQuery::default(), None, 1_000))?;
    assert_eq!(stored.len(), 21);

    let text = |name: &str, prefix: &str| TextPrefix::new(name, prefix);
    let mut queries = vec![CardQuery::default()];
    for prefix in ["", "mei", "ME", "meier", "ÅNG", "\u{10FFFF}", "%", "zan", "Mei\0", "none"] {
        queries.push(CardQuery { text: vec![text("surname", prefix)], ..CardQuery::default() });
        queries.push(CardQuery { text: vec![text("surname", prefix), text("number", "0")], ..CardQuery::default() });
    }
    let states = [vec![], vec![CardState::Requested], vec![CardState::Requested, CardState::Registered]];
    let types = [vec![], vec!["badge".to_owned()], vec!["badge".to_owned(), "none".to_owned(), "badge".to_owned()]];
    let holders = [vec![], vec![UserId::new("user 10")?, UserId::new("user 11")?, UserId::new("nobody")?]];
    for states in &states {
        for types in &types {
            for holders in &holders {
                for in_doubt in [None, Some(false), Some(true)] {
                    for kind in [None, Some(CardKind::Permanent), Some(CardKind::Temporary)] {
                        for route in [None, Some(Route::External), Some(Route::Local)] {
                            queries.push(CardQuery {
                                kind,
                                route,
                                states: states.clone(),
                                holders: holders.clone(),
                                production_types: types.clone(),
                                in_doubt,
                                text: Vec::new(),
                            });
                        }
                    }
                }
            }
        }
    }
    for query in &queries {
        let expected: Vec<&Card> = stored.iter().filter(|card| query.matches(card)).collect();
        let mut found: Vec<Card> = Vec::new();
        loop {
            let page = wait(store.card_page(query, found.last().map(|card| card.id), 4))?;
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{query:?}");
    }
    let of = wait(store.cards_of(&holders[1], &[CardState::Requested]))?;
    let wanted = |card: &&Card| card.holder.as_ref().is_some_and(|h| holders[1].contains(h));
    let expected: Vec<Card> =
        stored.iter().filter(wanted).filter(|c| c.state() == CardState::Requested).cloned().collect();
    assert_eq!((ids(&of), of.len()), (ids(&expected), 1));
    Ok(())
}

fn change_of(card: Card) -> ChangeSet {
    let mut changes = ChangeSet::new();
    changes.put_card(card);
    changes
}

#[test]
fn claims_are_leased_and_fenced() -> Tested {
    let (_folder, path) = folder();
    let clock = ManualClock::new(DateTime::UNIX_EPOCH + TimeDelta::days(20_000));
    let store = open_at(&path, &clock);
    let mut office = Office::new();
    office.run = Some(RunId::new(fresh()));
    let mut changes = ChangeSet::new();
    for n in 0..6 {
        let mut job = office.job(&mut changes);
        job.due = office.at + TimeDelta::seconds(-n);
        *changes.jobs.last_mut().ok_or("no job")? = job;
    }
    let early = office.job(&mut changes);
    changes.jobs.last_mut().ok_or("no job")?.due = clock.now() + TimeDelta::seconds(100);
    wait(store.commit(&changes))?;

    let lease = Duration::from_secs(10);
    let request = ClaimRequest::new("a", 4, lease);
    let first = wait(store.claim(&request))?;
    let expected: Vec<JobId> = changes.jobs[2..6].iter().rev().map(|job| job.id).collect();
    assert_eq!(first.iter().map(|job| job.id).collect::<Vec<_>>(), expected);
    assert!(first.iter().all(|job| job.version == 2 && job.claim.as_ref().is_some_and(|claim| claim.worker == "a")));
    assert_eq!(wait(store.jobs(&[first[0].id]))?, first[..1]);
    let rest = wait(store.claim(&ClaimRequest { run: office.run, limit: 10, ..request.clone() }))?;
    assert_eq!(rest.len(), 2);
    let by_id = ClaimRequest { ids: vec![early.id, first[0].id], early: true, ..request.clone() };
    assert_eq!(wait(store.claim(&by_id))?.len(), 1);
    assert_eq!(wait(store.claim(&ClaimRequest { kinds: vec![JobKind::Notify], ..by_id }))?, []);

    clock.advance(Duration::from_secs(9));
    let held = [(first[0].id, 2), (first[1].id, 1)];
    assert_eq!(wait(store.renew(&held, lease))?, [first[0].id]);
    clock.advance(Duration::from_secs(9));
    let again = wait(store.claim(&ClaimRequest { limit: 2, ..request.clone() }))?;
    assert_eq!(again.iter().map(|job| (job.id, job.version)).collect::<Vec<_>>(), [(first[1].id, 3), (first[2].id, 3)]);
    assert_eq!(wait(store.renew(&[(first[1].id, 2)], lease))?, []);

    wait(store.release(&[(first[1].id, 2), (first[2].id, 3)]))?;
    assert_eq!(wait(store.renew(&[(first[2].id, 3)], lease))?, []);
    let released = ClaimRequest { ids: vec![first[1].id, first[2].id], ..request };
    assert_eq!(wait(store.claim(&released))?.iter().map(|job| job.id).collect::<Vec<_>>(), [first[2].id]);

    let attempt = |job: &Job| job.next_attempt(clock.now());
    let current = wait(store.jobs(&[first[0].id]))?.remove(0);
    let stored = wait(store.record_attempts(
        &[(current.id, current.version, attempt(&current)), (first[1].id, 2, attempt(&first[1]))],
        lease,
    ))?;
    assert_eq!(stored.len(), 1);
    assert_eq!((stored[0].version, stored[0].attempts), (3, 1));
    assert_eq!(stored[0].attempt, Some(attempt(&current)));
    assert_eq!(stored[0].claim.as_ref().map(|claim| claim.until), Some(clock.now() + TimeDelta::seconds(10)));
    assert_eq!(wait(store.jobs(&[current.id]))?, stored);

    let mut done = stored[0].clone();
    done.state = JobState::Done;
    wait(store.commit(&change_of_job(done.clone())))?;
    done.version += 1;
    let query = JobQuery { states: vec![JobState::Done], ..JobQuery::default() };
    assert_eq!(wait(store.job_page(&query, None, 10))?, [done.clone()]);
    let query = JobQuery { kinds: vec![JobKind::PlaceOrder], ..JobQuery::default() };
    assert_eq!(wait(store.job_page(&query, None, 10))?.len(), 7);
    let late = conflicts(wait(store.commit(&change_of_job(current))));
    assert_eq!(late, [Conflict::Version { object: StoredId::Job(done.id), expected: 2, found: 4 }]);
    Ok(())
}

fn change_of_job(job: Job) -> ChangeSet {
    let mut changes = ChangeSet::new();
    changes.jobs.push(job);
    changes
}

#[test]
fn a_commit_whose_future_is_dropped_still_takes_effect() -> Tested {
    let (_folder, path) = folder();
    let store = SqliteRepository::open(&path)?;
    let mut changes = ChangeSet::new();
    changes.takes.push(reservation("kept", "me"));
    {
        let mut commit = pin!(store.commit(&changes));
        assert!(commit.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    // Writes are done in order: once this one is, so is that.
    wait(store.commit(&ChangeSet::new()))?;
    assert_eq!(wait(store.reservations(&["kept".to_owned()]))?.len(), 1);
    Ok(())
}

#[test]
fn a_locked_file_is_unavailable() -> Tested {
    let (_folder, path) = folder();
    let mut options = SqliteOptions::default();
    options.busy_timeout = Duration::from_millis(20);
    let store = SqliteRepository::open_with(&path, options)?;
    let other = rusqlite::Connection::open(&path)?;
    other.execute_batch("BEGIN IMMEDIATE")?;
    let mut changes = ChangeSet::new();
    changes.takes.push(reservation("key", "me"));
    let refused = wait(store.commit(&changes));
    assert!(matches!(refused, Err(CommitError::Store(RepositoryError::Unavailable { .. }))), "{refused:?}");
    assert_eq!(wait(store.reservations(&["key".to_owned()]))?, []);
    other.execute_batch("ROLLBACK")?;
    wait(store.commit(&changes))?;
    Ok(())
}

#[test]
fn waiting_writes_share_a_transaction_and_fail_each_by_itself() -> Tested {
    let (_folder, path) = folder();
    let store = SqliteRepository::open(&path)?;
    let taken: usize = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..8)
            .map(|caller| {
                let store = store.clone();
                scope.spawn(move || {
                    (0..50)
                        .filter(|n| {
                            let mut changes = ChangeSet::new();
                            changes.takes.push(reservation(&format!("own {caller} {n}"), "me"));
                            changes.takes.push(reservation(&format!("shared {n}"), &caller.to_string()));
                            wait(store.commit(&changes)).is_ok()
                        })
                        .count()
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).sum()
    });
    assert_eq!(taken, 50);
    let own: Vec<String> = (0..8).flat_map(|c| (0..50).map(move |n| format!("own {c} {n}"))).collect();
    assert_eq!(wait(store.reservations(&own))?.len(), 50);
    Ok(())
}
