//! Somebody who can write to the store changes the past: entries of the history edited, deleted, inserted, swapped, objects removed
//! whole, the past sealed anew. Checking says which object and which entry, or the documents say that it cannot.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cardwright::adapters::memory::MemoryRepository;
use cardwright::adapters::sqlite::{SqliteOptions, SqliteRepository};
use cardwright::host::{Clock as _, RepositoryError};
use cardwright::process::{ItemId, Outcome};
use cardwright::{
    CardId, CardState, ChainError, ChainHead, ChainHeads, ChainKey, Error, HistoryEntry, ObjectId, Stamp, State as _,
    Verified, Why,
};
use futures::executor::block_on;
use rusqlite::{Connection, params};
use tempfile::TempDir;

use crate::office::{
    APPROVAL, CARD_SCRIPT, ISSUE, Office, REQUEST, SYNC_ORDERS, SYNC_STATUS, approver, clock, operator, user_item,
};
use crate::watched::{Watched, store};

/// An office with a past, and what it takes to look at it again.
struct Past {
    _folder: TempDir,
    path: PathBuf,
    key: fn() -> ChainKey,
    /// An ordered card with three entries, and another.
    card: CardId,
    other: CardId,
    /// The heads as they were saved before the forger came.
    saved: ChainHeads,
}

fn open(path: &Path, key: ChainKey) -> Office {
    let clock = clock();
    let store = SqliteRepository::open_with(path, SqliteOptions::new(Arc::new(clock.clone()))).expect("it opens");
    Office::on(store, clock, |builder| builder.chain_key(key))
}

fn verify(office: &Office, saved: &ChainHeads) -> Verified {
    block_on(office.engine.verify_all(saved)).expect("the store can be read")
}

/// Orders, a made card with certificates, a request that was approved, an option script.
fn live(office: &Office) -> (CardId, CardId) {
    let (card, other) = (office.order("u1"), office.order("u2"));
    office.sync(SYNC_ORDERS);
    let made = office.request("u3");
    office.one(ISSUE, &operator(), ItemId::Card(made), &[]);
    office.script(CARD_SCRIPT, "CardsBatchRequestApproval = true");
    let Outcome::Done { object: Some(ObjectId::Card(asked)), .. } =
        office.one(REQUEST, &operator(), user_item("u4"), &[])
    else {
        panic!("a card is requested")
    };
    let request = ItemId::Request(office.card(asked).request.expect("it was asked for"));
    office.one(APPROVAL, &approver(), request, &[("decision", "approve")]);
    (card, other)
}

impl Past {
    fn new(key: fn() -> ChainKey) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("cards.db");
        let office = open(&path, key());
        let (card, other) = live(&office);
        let Verified { heads: saved, entries, problems, .. } = verify(&office, &ChainHeads::default());
        assert_eq!(problems, [], "nobody was there yet");
        assert_eq!(entries, saved.0.values().map(|head| head.length).sum::<u64>());
        for kind in ["card", "certificate", "request", "run", "record"] {
            let of_kind = |object: &ObjectId| object.to_string().starts_with(kind);
            assert!(saved.0.keys().any(of_kind), "there is a {kind} with a history");
        }
        assert_eq!(saved.0[&ObjectId::Card(card)].length, 3);
        Self { _folder: folder, path, key, card, other, saved }
    }

    /// The same past in a file of its own.
    fn copy(&self) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("cards.db");
        std::fs::copy(&self.path, &path).expect("the file can be copied");
        Self { _folder: folder, path, saved: self.saved.clone(), ..*self }
    }

    /// What the forger does to the file while nobody has it open.
    fn tamper(&self, statements: &[&str]) {
        let file = Connection::open(&self.path).expect("the file opens");
        for statement in statements {
            let statement = statement.replace(":card", &hex(1, self.card)).replace(":other", &hex(1, self.other));
            let done = file.execute(&statement, params![]).unwrap_or_else(|error| panic!("{statement}: {error}"));
            assert!(done > 0, "{statement} changes something");
        }
    }

    /// What is found against the seals alone, and what against the saved heads.
    fn found(&self) -> [Vec<ChainError>; 2] {
        let office = open(&self.path, (self.key)());
        [&ChainHeads::default(), &self.saved].map(|saved| verify(&office, saved).problems)
    }
}

/// How the file names an object.
fn hex(kind: u8, card: CardId) -> String {
    format!("x'{kind:02x}{}'", card.uuid().simple())
}

fn key() -> ChainKey {
    ChainKey::new(b"known to the host alone")
}

/// What may be done to the past of a card with three entries, as statements, and what of it is named.
#[rustfmt::skip]
fn forgeries(card: CardId, other: CardId) -> Vec<(&'static str, Vec<&'static str>, ChainError)> {
    let (object, of) = (ObjectId::Card(card), ObjectId::Card(other));
    let broken = |sequence| ChainError::BrokenSeal { object: object.clone(), sequence };
    let order = |expected, found| ChainError::OutOfSequence { object: object.clone(), expected, found };
    let head = |found| ChainError::WrongHead { object: object.clone(), expected: 3, found };
    vec![
        ("another state", vec!["UPDATE history SET data = json_set(data, '$.to', 'active') WHERE object = :card AND sequence = 3"], broken(3)),
        ("another person", vec!["UPDATE history SET data = json_set(data, '$.actor', 'nobody') WHERE object = :card AND sequence = 1"], broken(1)),
        ("another time", vec!["UPDATE history SET data = json_set(data, '$.at', '2029-01-01T00:00:00Z') WHERE object = :card AND sequence = 2"], broken(2)),
        ("another reason", vec!["UPDATE history SET data = json_remove(data, '$.reference') WHERE object = :card AND sequence = 3"], broken(3)),
        ("the first deleted", vec!["DELETE FROM history WHERE object = :card AND sequence = 1"], order(1, 2)),
        ("one in the middle deleted", vec!["DELETE FROM history WHERE object = :card AND sequence = 2"], order(2, 3)),
        ("the last deleted", vec!["DELETE FROM history WHERE object = :card AND sequence = 3"], head(2)),
        ("all deleted", vec!["DELETE FROM history WHERE object = :card"], head(0)),
        ("one added", vec!["INSERT INTO history (object, sequence, data) SELECT object, 4, json_set(data, '$.sequence', 4) FROM history WHERE object = :card AND sequence = 3"], broken(4)),
        ("one doubled", vec!["INSERT INTO history (object, sequence, data) SELECT object, 4, data FROM history WHERE object = :card AND sequence = 3"], order(4, 3)),
        ("one put in between", vec![
            "UPDATE history SET sequence = 4 WHERE object = :card AND sequence = 3",
            "INSERT INTO history (object, sequence, data) SELECT object, 3, json_set(data, '$.sequence', 3) FROM history WHERE object = :card AND sequence = 2",
        ], broken(3)),
        ("two swapped", vec!["UPDATE history SET data = (SELECT h.data FROM history h WHERE h.object = history.object AND h.sequence = 5 - history.sequence) WHERE object = :card AND sequence IN (2, 3)"], order(2, 3)),
        ("one of another card", vec!["UPDATE history SET data = (SELECT h.data FROM history h WHERE h.object = :other AND h.sequence = 2) WHERE object = :card AND sequence = 2"],
            ChainError::OfAnother { object: object.clone(), sequence: 2, of }),
        ("the card without its history", vec!["DELETE FROM card WHERE id = substr(:card, 2)"], ChainError::Missing { object: object.clone(), known: 3 }),
        ("the card's own end", vec!["UPDATE card SET data = json_set(data, '$.history.length', 2) WHERE id = substr(:card, 2)"],
            ChainError::WrongHead { object: object.clone(), expected: 2, found: 3 }),
    ]
}

#[test]
fn whatever_is_done_to_the_history_is_found_by_object_and_entry() {
    for key in [ChainKey::none, key] {
        let untouched = Past::new(key);
        for (name, statements, expected) in forgeries(untouched.card, untouched.other) {
            let past = untouched.copy();
            past.tamper(&statements);
            let [by_seals, by_heads] = past.found();
            assert_eq!(by_seals, std::slice::from_ref(&expected), "{name}");
            assert_eq!(by_heads, std::slice::from_ref(&expected), "{name}");
            assert!(expected.to_string().starts_with(&format!("card {}: ", past.card)), "{expected}");
        }
    }
}

#[test]
fn what_was_removed_whole_is_found_against_saved_heads_only() {
    let past = Past::new(key);
    let tables = [("card", 1), ("certificate", 2), ("request", 3)];
    for (table, tag) in tables {
        past.tamper(&[
            &format!(
                "DELETE FROM history WHERE hex(object) LIKE '0{tag}%' AND substr(object, 2) = (SELECT min(id) FROM {table})"
            ),
            &format!("DELETE FROM {table} WHERE id = (SELECT min(id) FROM {table})"),
        ]);
    }
    past.tamper(&[
        "DELETE FROM record WHERE key = (SELECT min(key) FROM record WHERE key LIKE 'run/%')",
        "DELETE FROM history WHERE hex(object) LIKE '04%' AND NOT EXISTS (SELECT 1 FROM record WHERE \
         replace(substr(key, 5), '-', '') = lower(hex(substr(object, 2))))",
    ]);
    let [by_seals, by_heads] = past.found();
    let left: Vec<&ObjectId> = by_seals.iter().map(ChainError::object).collect();
    // At most the run is still named, by what was done in it and is there.
    assert!(
        matches!(left[..], [] | [ObjectId::Run(_)]),
        "who took everything left nothing that does not fit: {left:?}"
    );
    let kinds: Vec<String> = by_heads
        .iter()
        .map(|problem| match problem {
            ChainError::Missing { object, known: 1.. } => object.to_string().split(' ').next().unwrap().to_owned(),
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(kinds, ["card", "certificate", "request", "run"]);
}

#[test]
fn history_that_was_taken_from_runs_and_options_is_found() {
    let past = Past::new(key);
    past.tamper(&["DELETE FROM history WHERE hex(object) LIKE '04%' OR hex(object) LIKE '05%'"]);
    let [by_seals, _] = past.found();
    let objects: Vec<String> = by_seals.iter().map(|problem| problem.object().to_string()).collect();
    assert!(objects.iter().any(|object| object.starts_with("run ")), "{objects:?}");
    assert!(objects.iter().any(|object| object.contains("options")), "{objects:?}");
}

#[test]
fn what_is_found_is_found_again_the_next_time() {
    let past = Past::new(key);
    past.tamper(&["DELETE FROM history WHERE object = :card", "DELETE FROM card WHERE id = substr(:card, 2)"]);
    let office = open(&past.path, key());
    let first = verify(&office, &past.saved);
    // The heads go through a file, as hosts keep them.
    let kept = serde_json::to_string(&first.heads).expect("heads can be written");
    let second = verify(&office, &serde_json::from_str(&kept).expect("and read"));
    assert_eq!(first.problems.len(), 1);
    assert_eq!(first, second);
}

#[test]
fn an_entry_that_is_none_any_more_is_an_error_of_the_store_that_names_it() {
    let past = Past::new(key);
    past.tamper(&["UPDATE history SET data = 'nothing' WHERE object = :card AND sequence = 2"]);
    let office = open(&past.path, key());
    let error = block_on(office.engine.verify_all(&past.saved)).expect_err("it cannot be read");
    let Error::Store { source: RepositoryError::Corrupt { reason, .. }, .. } = &error else { panic!("{error:?}") };
    let file = Connection::open(&past.path).expect("the file opens");
    let row = format!("SELECT position FROM history WHERE object = {} AND sequence = 2", hex(1, past.card));
    let position: i64 = file.query_row(&row, [], |row| row.get(0)).expect("a row");
    assert!(reason.ends_with(&format!("history entry {position} cannot be read")), "{reason}");
}

/// Writes the past of the card anew: the last change was made by somebody else. Sealed with the forger's own key, and fitting in
/// itself: entries, and where the card says that they end.
fn write_anew(past: &Past, seal: &ChainKey) {
    let file = Connection::open(&past.path).expect("the file opens");
    let mut head = ChainHead::default();
    let mut read = file
        .prepare(&format!("SELECT data FROM history WHERE object = {} ORDER BY sequence", hex(1, past.card)))
        .expect("a statement");
    let rows = read.query_map([], |row| row.get::<_, String>(0)).expect("rows").collect::<Result<Vec<_>, _>>();
    for text in rows.expect("texts") {
        let old: HistoryEntry = serde_json::from_str(&text).expect("an entry");
        let state = |name: &str| CardState::named(name).expect("a state").name();
        let actor = if old.sequence == 3 { approver().id } else { old.actor.clone() };
        let stamp = Stamp { at: old.at, actor: &actor, process: &old.process, run: old.run, key: seal };
        let why = Why { code: known_code(&old.code), reference: old.reference.as_deref(), text: None };
        let new = head.append(old.object.clone(), old.from.as_deref().map(state), state(&old.to), &stamp, why);
        let text = serde_json::to_string(&new).expect("an entry");
        let row = format!("UPDATE history SET data = ?1 WHERE object = {} AND sequence = ?2", hex(1, past.card));
        assert_eq!(file.execute(&row, params![text, new.sequence.cast_signed()]).expect("written"), 1);
    }
    let head = serde_json::to_string(&head).expect("a head");
    let row = format!(
        "UPDATE card SET data = json_set(data, '$.history', json(?1)) WHERE id = substr({}, 2)",
        hex(1, past.card)
    );
    assert_eq!(file.execute(&row, params![head]).expect("written"), 1);
}

fn known_code(code: &str) -> &'static str {
    ["created", "order_decided", "accepted"].into_iter().find(|known| *known == code).expect("a code of the three")
}

#[test]
fn a_past_that_was_sealed_anew_is_found_with_a_key_and_without_one_by_saved_heads_only() {
    let past = Past::new(key);
    write_anew(&past, &ChainKey::none());
    let object = ObjectId::Card(past.card);
    let broken = ChainError::BrokenSeal { object: object.clone(), sequence: 1 };
    assert_eq!(past.found(), [vec![broken.clone()], vec![broken.clone()]]);
    write_anew(&past, &ChainKey::new(b"a guess"));
    assert_eq!(past.found(), [vec![broken.clone()], vec![broken]]);

    let past = Past::new(ChainKey::none);
    write_anew(&past, &ChainKey::none());
    let object = ObjectId::Card(past.card);
    assert_eq!(past.found(), [vec![], vec![ChainError::NotContinued { object, sequence: 3 }]]);
}

#[test]
fn a_card_put_back_to_what_it_was_is_found_against_saved_heads() {
    let past = Past::new(key);
    let head = |office: &Office| office.card(past.card).history;
    let office = open(&past.path, key());
    let saved = verify(&office, &past.saved).heads;
    let now = head(&office);
    drop(office);
    // The seal of the second entry is known to who can read the file.
    past.tamper(&[
        "DELETE FROM history WHERE object = :card AND sequence = 3",
        "UPDATE card SET data = json_set(data, '$.state', 'processing', '$.history.length', 2, '$.history.seal', \
         (SELECT json_extract(h.data, '$.seal') FROM history h WHERE h.object = :card AND h.sequence = 2)) \
         WHERE id = substr(:card, 2)",
    ]);
    let object = ObjectId::Card(past.card);
    assert_eq!(past.found(), [vec![], vec![ChainError::NotContinued { object, sequence: now.length }]]);
    assert_eq!(saved, past.saved, "nothing was added meanwhile");
}

#[test]
fn what_came_after_the_heads_were_saved_continues_them() {
    let past = Past::new(key);
    let office = open(&past.path, key());
    let order = office.card(past.card).order.and_then(|order| order.order_id).expect("it was ordered");
    office.bureau.remember(order, office.clock.now());
    office.clock.advance(Duration::from_secs(100 * 3600));
    office.sync(SYNC_STATUS);
    office.order("u5");
    let verified = verify(&office, &past.saved);
    assert_eq!(verified.problems, []);
    assert!(verified.heads.0.len() > past.saved.0.len());
    assert!(verified.heads.0[&ObjectId::Card(past.card)].length > 3);
}

// ---- a store of a host's own ----

type Forgery = fn(&mut Vec<HistoryEntry>);

#[test]
fn a_foreign_store_that_gives_another_past_is_found_by_object_and_entry() {
    let (repository, clock) = store();
    let watched = Watched::new(repository);
    let office = Office::on(Arc::clone(&watched), clock, |builder| builder.chain_key(key()));
    let (card, other) = live(&office);
    let object = ObjectId::Card(card);
    let saved = verify(&office, &ChainHeads::default()).heads;
    let of_other = block_on(office.engine.history(&ObjectId::Card(other))).expect("history can be read").remove(1);

    let order = |expected, found| ChainError::OutOfSequence { object: object.clone(), expected, found };
    let forgeries: [(Forgery, ChainError); 5] = [
        (|entries| entries[1].actor = approver().id, ChainError::BrokenSeal { object: object.clone(), sequence: 2 }),
        (|entries| drop(entries.remove(1)), order(2, 3)),
        (|entries| entries.insert(1, entries[1].clone()), order(3, 2)),
        (|entries| entries.swap(0, 2), order(1, 3)),
        (|entries| drop(entries.pop()), ChainError::WrongHead { object: object.clone(), expected: 3, found: 2 }),
    ];
    for (forgery, expected) in forgeries {
        let object = object.clone();
        watched.falsify(move |entries| {
            if entries.len() == 3 && entries[0].object == object {
                forgery(entries);
            }
        });
        assert_eq!(verify(&office, &saved).problems, std::slice::from_ref(&expected));
        let by_card = block_on(office.engine.verify_card(&office.card(card))).expect("it can be read");
        assert_eq!(by_card, Err(expected));
    }
    let expected = ChainError::OfAnother { object: object.clone(), sequence: 2, of: ObjectId::Card(other) };
    watched.falsify(move |entries| {
        if entries.len() == 3 && entries[0].object == object {
            entries[1] = of_other.clone();
        }
    });
    assert_eq!(verify(&office, &saved).problems, [expected]);
}

#[test]
fn a_store_put_back_from_an_old_backup_is_found_against_saved_heads() {
    let (repository, clock) = store();
    let office = Office::on(repository, clock.clone(), |builder| builder.chain_key(key()));
    let (card, _) = live(&office);
    let saved = verify(&office, &ChainHeads::default()).heads;
    let backup = MemoryRepository::new(Arc::new(clock.clone()));
    let old = Office::on(backup, clock, |builder| builder.chain_key(key()));
    let problems = verify(&old, &saved).problems;
    let missing: BTreeMap<_, _> = problems.iter().map(|problem| (problem.object(), problem)).collect();
    let object = ObjectId::Card(card);
    assert_eq!(missing[&object], &ChainError::Missing { object: object.clone(), known: 3 });
    let words = missing[&object].to_string();
    assert_eq!(words, format!("card {card}: it is not in the store; 3 entries of its history are known"));
    let requests = saved.0.keys().filter(|object| matches!(object, ObjectId::Request(_)));
    assert!(requests.clone().count() > 0 && requests.into_iter().all(|object| missing.contains_key(object)));
}
