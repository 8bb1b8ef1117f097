//! Checks of a [`CardRepository`], one for each clause of its contract and named like it.
//!
//! # Panics
//! Every check panics where its clause is not kept, and where the store fails. What a store calls transient is tried again
//! for some seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::BoxFuture;
use serde_json::json;
use uuid::Uuid;

use super::{Kit, StoreFactory};
use crate::host::{
    Backlog, CardQuery, CardRepository, CertificateQuery, ClaimRequest, Clock as _, CommitError, FeedPage, JobQuery,
    RepositoryError, RequestQuery, SystemClock, TextPrefix,
};
use crate::{
    Actor, ActorId, ApprovalRequest, Attempt, BureauTimes, Busy, Card, CardId, CardKind, CardState, Certificate,
    CertificateId, CertificateKind, CertificateState, ChainKey, ChangeSet, Conflict, Delivery, Failure, FailurePhase,
    HistoryEntry, IssuedCertificate, Job, JobId, JobKind, JobState, Message, MessageId, MessageKind, ObjectId, Order,
    Production, ReadOut, Recipient, Record, RequestId, RequestState, Reservation, RevocationReason, Role, Route, RunId,
    SecretPlan, Stamp, StateAtCa, StoredId, SymbolicName, Task, UserId, Why, Withdrawal, certificate_graph,
    verify_chain,
};

clauses! {
    dyn StoreFactory, "the store", "card repository";
    commit_is_atomic,
    stored_objects_come_back_equal,
    stale_version_is_refused,
    every_conflict_is_named,
    reservation_has_one_holder,
    pages_are_stable,
    queries_filter,
    claim_gives_due_open_jobs_once,
    lease_ends_by_the_stores_clock,
    released_job_can_be_claimed_at_once,
    attempt_is_fenced,
    numbers_are_never_drawn_twice,
    backlog_counts_what_is_open,
    history_is_in_order,
    feed_loses_nothing,
    stored_is_stored,
}

/// A commit stores everything, or nothing whatever spoils it; and a reader sees all of it or nothing.
pub async fn commit_is_atomic(kit: &Kit<'_>) {
    const CLAUSE: &str = "commit_is_atomic";
    let store = Store::open(kit, CLAUSE).await;
    let scene = Scene::new(kit);
    let old = Everything::new(kit, &scene);
    store.commit(&old.changes()).await;
    old.assert_stored(&store, "after a commit").await;
    let held = reservation(&scene, kit, "atomic");
    store.commit(&ChangeSet { takes: vec![held.clone()], ..ChangeSet::new() }).await;

    let spoilers = [
        ("a stale card", ChangeSet { cards: vec![old.card.clone()], ..ChangeSet::new() }),
        ("a stale certificate", ChangeSet { certificates: vec![old.certificate.clone()], ..ChangeSet::new() }),
        ("a stale request", ChangeSet { requests: vec![old.request.clone()], ..ChangeSet::new() }),
        ("a stale job", ChangeSet { jobs: vec![old.job.clone()], ..ChangeSet::new() }),
        ("a stale record", ChangeSet { records: vec![old.record.clone()], ..ChangeSet::new() }),
        ("a taken key", ChangeSet { takes: vec![old.reservation.clone()], ..ChangeSet::new() }),
        (
            "a key that is not held",
            ChangeSet { releases: vec![reservation(&scene, kit, "nobody's")], ..ChangeSet::new() },
        ),
    ];
    for (spoiler, spoiled) in spoilers {
        let new = Everything::new(kit, &scene);
        let mut changes = new.changes();
        changes.releases.push(held.clone());
        changes.append(spoiled);
        store.refused(&changes, spoiler).await;
        new.assert_absent(&store, spoiler).await;
        assert_eq!(
            store.reservations(std::slice::from_ref(&held.key)).await,
            std::slice::from_ref(&held),
            "{CLAUSE}: a commit that was refused for {spoiler} gave a reservation back"
        );
    }
    old.assert_stored(&store, "after refused commits").await;

    const ROUNDS: usize = 25;
    let (first, second) = (scene.card(kit), scene.card(kit));
    let ids = [first.0.id, second.0.id];
    store.commit(&cards_with_history([first.clone(), second.clone()])).await;
    let mut calls: Vec<BoxFuture<'static, ()>> = Vec::new();
    let writer = Store::open(kit, CLAUSE).await;
    calls.push(Box::pin(async move {
        for round in 0..ROUNDS {
            let mut cards = writer.cards(&ids).await;
            for card in &mut cards {
                card.number = Some(format!("{round}"));
            }
            writer.commit(&ChangeSet { cards, ..ChangeSet::new() }).await;
        }
    }));
    for _ in 0..3 {
        let reader = Store::open(kit, CLAUSE).await;
        calls.push(Box::pin(async move {
            for _ in 0..2 * ROUNDS {
                let cards = reader.cards(&ids).await;
                assert_eq!(cards.len(), 2, "{CLAUSE}: stored cards must be readable at any time");
                assert_eq!(
                    (&cards[0].number, cards[0].version),
                    (&cards[1].number, cards[1].version),
                    "{CLAUSE}: a reader saw a part of a commit"
                );
            }
        }));
    }
    kit.at_once(calls).await;
}

/// Objects with all there can be in them are read back as they were, under the next version.
pub async fn stored_objects_come_back_equal(kit: &Kit<'_>) {
    const CLAUSE: &str = "stored_objects_come_back_equal";
    let store = Store::open(kit, CLAUSE).await;
    let scene = Scene::new(kit);
    let (bare, bare_entry) = scene.card(kit);
    let (full, full_entry) = scene.full_card(kit);
    let (certificates, certificate_entries) = scene.certificates_of_every_state(kit, full.id);
    let (request, request_entry) = scene.request(kit);
    let mut record = scene.record(kit);
    record.value = json!({
        "text": "Zoë \"x\" \\ %_'; --",
        "list": [1, null, true, {"deep": []}],
        "big": 9_007_199_254_740_993_i64,
    });
    let record_entry =
        record.history.append(ObjectId::Record(record.key.clone()), None, "set", &scene.stamp(), Why::code("set"));
    let jobs = scene.jobs_of_every_kind(kit, full.id);
    let mut history = vec![bare_entry.clone(), full_entry.clone(), request_entry.clone(), record_entry.clone()];
    history.extend(certificate_entries.iter().flatten().cloned());
    let changes = ChangeSet {
        cards: vec![bare.clone(), full.clone()],
        certificates: certificates.clone(),
        requests: vec![request.clone()],
        jobs: jobs.clone(),
        records: vec![record.clone()],
        history,
        ..ChangeSet::new()
    };
    store.commit(&changes).await;

    let unknown = CardId::new(kit.id());
    store.same(&store.cards(&[bare.id, unknown, full.id]).await, &[raised(&bare), raised(&full)], "cards");
    let ids: Vec<CertificateId> = certificates.iter().map(|one| one.id).chain([CertificateId::new(kit.id())]).collect();
    let stored: Vec<Certificate> = certificates.iter().map(raised).collect();
    store.same(&store.certificates(&ids).await, &stored, "certificates");
    store.same(&store.requests(&[request.id, RequestId::new(kit.id())]).await, &[raised(&request)], "requests");
    store.same(&store.records(&[record.key.clone(), scene.text("unknown")]).await, &[raised(&record)], "records");
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).chain([JobId::new(kit.id())]).collect();
    store.same(&store.jobs(&ids).await, &jobs.iter().map(raised).collect::<Vec<_>>(), "jobs");
    for entry in [bare_entry, full_entry, request_entry, record_entry] {
        store.same(&store.history(&entry.object, 0, 10).await, std::slice::from_ref(&entry), "history entries");
    }
    for entries in certificate_entries {
        store.same(&store.history(&entries[0].object, 0, 10).await, &entries, "history entries of certificates");
    }

    // What is taken out of an object again is gone, and a claimed job is stored with its claim.
    let mut emptied = raised(&full);
    let entry = emptied.note(&scene.stamp(), Why::code("emptied").about("x-1").because("a reason"));
    emptied.holder = None;
    emptied.number = None;
    emptied.attributes.clear();
    emptied.searchable = Arc::default();
    emptied.order = None;
    emptied.busy = None;
    emptied.production = None;
    emptied.produced = None;
    emptied.chip_serial = None;
    let mut reconciled = stored[0].clone();
    reconciled.at_ca = StateAtCa::Expired;
    reconciled.issued.pem.clear();
    let mut claimed = store.claim(&scene.claim(kit, 1)).await;
    let Some(job) = claimed.first_mut() else {
        panic!("{CLAUSE}: an open job that is due must be claimable");
    };
    job.remark = Some("tried".to_owned());
    job.setbacks = 2;
    let job = job.clone();
    let changes = ChangeSet {
        cards: vec![emptied.clone()],
        certificates: vec![reconciled.clone()],
        jobs: vec![job.clone()],
        history: vec![entry.clone()],
        ..ChangeSet::new()
    };
    store.commit(&changes).await;
    store.same(&store.cards(&[emptied.id]).await, &[raised(&emptied)], "changed cards");
    store.same(&store.certificates(&[reconciled.id]).await, &[raised(&reconciled)], "changed certificates");
    store.same(&store.jobs(&[job.id]).await, &[raised(&job)], "claimed jobs");
    store.same(&store.history(&entry.object, 1, 10).await, &[entry], "later history entries");
}

/// An object is stored only over the version that it was loaded with, and one of several writers wins.
pub async fn stale_version_is_refused(kit: &Kit<'_>) {
    const CLAUSE: &str = "stale_version_is_refused";
    let store = Store::open(kit, CLAUSE).await;
    let scene = Scene::new(kit);
    let card = scene.card(kit).0;
    let certificate = scene.certificate(kit, card.id).0;
    let request = scene.request(kit).0;
    let job = scene.job(kit, place_order());
    let record = scene.record(kit);
    let with_version = |version: u64| {
        let (mut card, mut certificate) = (card.clone(), certificate.clone());
        let (mut request, mut job, mut record) = (request.clone(), job.clone(), record.clone());
        card.version = version;
        certificate.version = version;
        request.version = version;
        job.version = version;
        record.version = version;
        [
            ChangeSet { cards: vec![card], ..ChangeSet::new() },
            ChangeSet { certificates: vec![certificate], ..ChangeSet::new() },
            ChangeSet { requests: vec![request], ..ChangeSet::new() },
            ChangeSet { jobs: vec![job], ..ChangeSet::new() },
            ChangeSet { records: vec![record], ..ChangeSet::new() },
        ]
    };
    let objects = [
        StoredId::Object(ObjectId::Card(card.id)),
        StoredId::Object(ObjectId::Certificate(certificate.id)),
        StoredId::Object(ObjectId::Request(request.id)),
        StoredId::Job(job.id),
        StoredId::Object(ObjectId::Record(record.key.clone())),
    ];
    let refuse = async |expected: u64, found: u64| {
        for (changes, object) in with_version(expected).into_iter().zip(&objects) {
            let what = format!("{object} that carries version {expected} where the store has {found}");
            assert_eq!(
                store.refused(&changes, &what).await,
                [Conflict::Version { object: object.clone(), expected, found }],
                "{CLAUSE}: {what}"
            );
        }
    };
    let accept = async |version: u64| {
        for changes in with_version(version) {
            store.commit(&changes).await;
        }
    };
    refuse(3, 0).await;
    accept(0).await;
    refuse(0, 1).await;
    refuse(2, 1).await;
    accept(1).await;
    refuse(0, 2).await;
    refuse(1, 2).await;
    let versions = [
        store.cards(&[card.id]).await.first().map(|card| card.version),
        store.certificates(&[certificate.id]).await.first().map(|certificate| certificate.version),
        store.requests(&[request.id]).await.first().map(|request| request.version),
        store.jobs(&[job.id]).await.first().map(|job| job.version),
        store.records(std::slice::from_ref(&record.key)).await.first().map(|record| record.version),
    ];
    assert_eq!(versions, [Some(2); 5], "{CLAUSE}: each commit raises the version by one");

    for (changes, object) in with_version(2).into_iter().zip(&objects) {
        let mut calls: Vec<BoxFuture<'static, bool>> = Vec::new();
        for _ in 0..8 {
            let (store, changes) = (Store::open(kit, CLAUSE).await, changes.clone());
            calls.push(Box::pin(async move { store.try_commit(&changes).await.is_ok() }));
        }
        let winners = kit.at_once(calls).await.into_iter().filter(|won| *won).count();
        assert_eq!(winners, 1, "{CLAUSE}: of eight writers of one version of {object}, one must win");
    }
}

/// A refused commit names everything that stands against it, however much that is.
pub async fn every_conflict_is_named(kit: &Kit<'_>) {
    const CLAUSE: &str = "every_conflict_is_named";
    const MANY: usize = 120;
    let store = Store::open(kit, CLAUSE).await;
    let scene = Scene::new(kit);
    let cards: Vec<Card> = (0..MANY).map(|_| scene.card(kit).0).collect();
    let certificates: Vec<Certificate> = cards.iter().map(|card| scene.certificate(kit, card.id).0).collect();
    let request = scene.request(kit).0;
    let job = scene.job(kit, place_order());
    let record = scene.record(kit);
    let taken: Vec<Reservation> = (0..MANY).map(|_| reservation(&scene, kit, "first")).collect();
    store
        .commit(&ChangeSet {
            cards: cards.clone(),
            certificates: certificates.clone(),
            requests: vec![request.clone()],
            jobs: vec![job.clone()],
            records: vec![record.clone()],
            takes: taken.clone(),
            ..ChangeSet::new()
        })
        .await;

    let mut ahead = scene.card(kit).0;
    ahead.version = 7;
    let good = scene.card(kit).0;
    let mut certificate_ahead = scene.certificate(kit, ahead.id).0;
    certificate_ahead.version = 7;
    let good_certificate = scene.certificate(kit, good.id).0;
    let to_second = |reservation: &Reservation| Reservation { owner: "second".to_owned(), ..reservation.clone() };
    let nobodys = reservation(&scene, kit, "second");
    let anothers = to_second(&taken[0]);
    let mut changes = ChangeSet {
        cards: cards.clone(),
        certificates: certificates.clone(),
        requests: vec![request.clone()],
        jobs: vec![job.clone()],
        records: vec![record.clone()],
        releases: vec![nobodys.clone(), anothers.clone()],
        takes: taken.iter().map(to_second).collect(),
        ..ChangeSet::new()
    };
    changes.cards.insert(MANY / 2, ahead.clone());
    changes.cards.insert(MANY / 3, good.clone());
    changes.certificates.insert(MANY / 2, certificate_ahead.clone());
    changes.certificates.insert(MANY / 3, good_certificate.clone());

    let version = |object: StoredId| Conflict::Version { object, expected: 0, found: 1 };
    let mut expected: Vec<Conflict> =
        cards.iter().map(|card| version(StoredId::Object(ObjectId::Card(card.id)))).collect();
    expected.extend(certificates.iter().map(|one| version(StoredId::Object(ObjectId::Certificate(one.id)))));
    for object in [ObjectId::Card(ahead.id), ObjectId::Certificate(certificate_ahead.id)] {
        expected.push(Conflict::Version { object: StoredId::Object(object), expected: 7, found: 0 });
    }
    expected.push(version(StoredId::Object(ObjectId::Request(request.id))));
    expected.push(version(StoredId::Job(job.id)));
    expected.push(version(StoredId::Object(ObjectId::Record(record.key.clone()))));
    expected.extend(
        taken.iter().map(|Reservation { key, owner }| Conflict::Taken { key: key.clone(), owner: owner.clone() }),
    );
    expected.extend([nobodys, anothers].map(|Reservation { key, owner }| Conflict::NotHeld { key, owner }));
    expected.sort();
    let mut named = store.refused(&changes, "a change set with many conflicts").await;
    named.dedup();
    for conflict in &expected {
        assert!(named.contains(conflict), "{CLAUSE}: this one is not: {conflict}");
    }
    assert_eq!(named, expected, "{CLAUSE}: nothing else is named");
    store.same(&store.cards(&[good.id]).await, &[], "cards beside the conflicts");
    let found = store.certificates(&[good_certificate.id]).await;
    store.same(&found, &[], "certificates beside the conflicts");
}

/// A key is taken once, however many try, and can be handed on in one commit.
pub async fn reservation_has_one_holder(kit: &Kit<'_>) {
    const CLAUSE: &str = "reservation_has_one_holder";
    let store = Store::open(kit, CLAUSE).await;
    let scene = Scene::new(kit);
    let take = |reservation: &Reservation| ChangeSet { takes: vec![reservation.clone()], ..ChangeSet::new() };
    let release = |reservation: &Reservation| ChangeSet { releases: vec![reservation.clone()], ..ChangeSet::new() };
    let first = reservation(&scene, kit, "first");
    let second = Reservation { owner: "second".to_owned(), ..first.clone() };
    let key = std::slice::from_ref(&first.key);
    let taken = Conflict::Taken { key: first.key.clone(), owner: first.owner.clone() };
    let not_held = |by: &Reservation| Conflict::NotHeld { key: by.key.clone(), owner: by.owner.clone() };

    assert_eq!(store.reservations(key).await, [], "{CLAUSE}: nobody holds a fresh key");
    store.commit(&take(&first)).await;
    for again in [&second, &first] {
        let what = format!("a key that is taken, taken again by {}", again.owner);
        assert_eq!(store.refused(&take(again), &what).await, std::slice::from_ref(&taken), "{CLAUSE}: {what}");
    }
    assert_eq!(
        store.refused(&release(&second), "a release by another").await,
        [not_held(&second)],
        "reservation_has_one_holder"
    );
    assert_eq!(store.reservations(key).await, std::slice::from_ref(&first), "{CLAUSE}: the first keeps the key");

    let mut hand_on = take(&second);
    hand_on.releases.push(first.clone());
    store.commit(&hand_on).await;
    assert_eq!(store.reservations(key).await, std::slice::from_ref(&second), "{CLAUSE}: a key is handed on");
    assert_eq!(
        store.refused(&release(&first), "a release by the holder before").await,
        [not_held(&first)],
        "reservation_has_one_holder"
    );
    store.commit(&release(&second)).await;
    assert_eq!(store.reservations(key).await, [], "{CLAUSE}: a key that was given back is free");
    store.commit(&take(&first)).await;

    let twice = reservation(&scene, kit, "first");
    let both = ChangeSet {
        takes: vec![twice.clone(), Reservation { owner: "second".to_owned(), ..twice.clone() }],
        ..ChangeSet::new()
    };
    let conflicts = store.refused(&both, "a key taken twice in one change set").await;
    assert!(
        conflicts.iter().all(|conflict| matches!(conflict, Conflict::Taken { key, .. } if *key == twice.key)),
        "{CLAUSE}: a key taken twice in one change set is taken, not {conflicts:?}"
    );

    for round in 0..6 {
        let contested = reservation(&scene, kit, "nobody").key;
        type Attempted = (String, Result<(), Vec<Conflict>>);
        let mut calls: Vec<BoxFuture<'static, Attempted>> = Vec::new();
        for caller in 0..8 {
            let store = Store::open(kit, CLAUSE).await;
            let owner = format!("caller {caller}");
            let changes = take(&Reservation { key: contested.clone(), owner: owner.clone() });
            calls.push(Box::pin(async move { (owner, store.try_commit(&changes).await) }));
        }
        // Once as one task that interleaves them, then truly at once.
        let results = if round == 0 { futures::future::join_all(calls).await } else { kit.at_once(calls).await };
        let winners: Vec<&String> =
            results.iter().filter(|(_, result)| result.is_ok()).map(|(owner, _)| owner).collect();
        assert_eq!(winners.len(), 1, "{CLAUSE}: of eight callers one must win, not {winners:?}");
        let held = store.reservations(std::slice::from_ref(&contested)).await;
        assert_eq!(
            held,
            [Reservation { key: contested.clone(), owner: winners[0].clone() }],
            "{CLAUSE}: who was told to hold the key must hold it"
        );
        for (owner, result) in &results {
            let expected = [Conflict::Taken { key: contested.clone(), owner: winners[0].clone() }];
            assert!(
                result.as_ref().err().is_none_or(|conflicts| *conflicts == expected),
                "{CLAUSE}: {owner} must be told who has it, not {result:?}"
            );
        }
    }
}

/// A walk over pages sees what exists throughout exactly once, whatever happens meanwhile.
pub async fn pages_are_stable(kit: &Kit<'_>) {
    const CLAUSE: &str = "pages_are_stable";
    const COUNT: usize = 23;
    const LIMIT: usize = 4;
    let store = Store::open(kit, CLAUSE).await;
    let scene = Scene::new(kit);
    let new_card = |number: usize| {
        let (mut card, entry) = scene.card(kit);
        card.attributes.insert("conformance".to_owned(), format!("{} {number}", scene.run));
        Arc::make_mut(&mut card.searchable).insert("conformance".to_owned());
        (card, entry)
    };

    let queries = [
        CardQuery { holders: vec![scene.holder.clone()], ..CardQuery::default() },
        CardQuery { text: vec![TextPrefix::new("conformance", scene.run.to_string())], ..CardQuery::default() },
    ];
    store.commit(&cards_with_history((0..COUNT).map(new_card))).await;
    for query in queries {
        let known: BTreeSet<CardId> = all_cards(&store, &query).await.iter().map(|card| card.id).collect();
        assert!(known.len() >= COUNT, "{CLAUSE}: a walk must see all {COUNT} cards, not {}", known.len());
        let mut seen: Vec<CardId> = Vec::new();
        loop {
            let page = store.card_page(&query, seen.last().copied(), LIMIT).await;
            let Some(last) = page.last() else { break };
            // New cards land before and after the place of the walk; known ones change on both sides.
            let mut changes = cards_with_history([new_card(seen.len())]);
            let sides = known.iter().filter(|id| **id > last.id).take(1).chain(known.first());
            for mut card in store.cards(&sides.copied().collect::<Vec<_>>()).await {
                changes.note_card(&mut card, &scene.stamp(), Why::code("touched"));
                card.number = Some(format!("{}", card.version));
                changes.put_card(card);
            }
            store.commit(&changes).await;
            seen.extend(page.iter().map(|card| card.id));
        }
        let seen: BTreeSet<CardId> = seen.into_iter().collect();
        assert!(known.is_subset(&seen), "{CLAUSE}: a walk missed cards: {:?}", known.difference(&seen));
    }

    let requests: Vec<_> = (0..COUNT).map(|_| scene.request(kit)).collect();
    let known: BTreeSet<RequestId> = requests.iter().map(|(request, _)| request.id).collect();
    store.commit(&requests_with_history(requests)).await;
    let query = RequestQuery { holders: vec![scene.holder.clone()], ..RequestQuery::default() };
    let mut seen: Vec<RequestId> = Vec::new();
    loop {
        let page = store.request_page(&query, seen.last().copied(), LIMIT).await;
        if page.is_empty() {
            break;
        }
        store.commit(&requests_with_history([scene.request(kit)])).await;
        seen.extend(page.iter().map(|request| request.id));
    }
    assert!(known.iter().all(|id| seen.contains(id)), "{CLAUSE}: a walk missed requests");

    certificate_pages_are_stable(kit, &store, &scene).await;

    let span = Span::new(kit);
    let job = |place: u16| Job { id: span.job(place), ..scene.job(kit, place_order()) };
    store.commit(&ChangeSet { jobs: (1..=23).map(|place| job(place * 10)).collect(), ..ChangeSet::new() }).await;
    let mut seen: Vec<JobId> = Vec::new();
    for round in 0.. {
        let after = seen.last().copied().unwrap_or(span.job(0));
        let page = store.job_page(&JobQuery::default(), Some(after), LIMIT).await;
        let own: Vec<JobId> = page.iter().map(|job| job.id).filter(|id| span.contains(id.uuid())).collect();
        if own.is_empty() {
            break;
        }
        seen.extend(own);
        // New jobs land before and after the place of the walk, for as long as they leave it an end.
        if round < 20 {
            let new = [job(1 + 10 * round), job(301 + round)];
            store.commit(&ChangeSet { jobs: new.to_vec(), ..ChangeSet::new() }).await;
        }
    }
    assert!((1..=23).all(|place| seen.contains(&span.job(place * 10))), "{CLAUSE}: a walk missed jobs");
}

async fn certificate_pages_are_stable(kit: &Kit<'_>, store: &Store, scene: &Scene) {
    const COUNT: u16 = 23;
    const LIMIT: usize = 4;
    let span = Span::new(kit);
    let card = CardId::new(kit.id());
    let certificate = |place: u16| scene.certificate_with(span.certificate(place), card, CertificateKind::Signature);
    store.commit(&certificates_with_history((1..=COUNT).map(|place| certificate(place * 10)))).await;
    let known: BTreeSet<CertificateId> = (1..=COUNT).map(|place| span.certificate(place * 10)).collect();
    let queries = [
        CertificateQuery { cards: vec![card, CardId::new(kit.id())], ..CertificateQuery::default() },
        CertificateQuery { states: vec![CertificateState::Issued], ..CertificateQuery::default() },
        CertificateQuery::default(),
    ];
    for (walk, query) in (0_u16..).zip(queries) {
        let mut seen: Vec<CertificateId> = Vec::new();
        for round in 0.. {
            let after = seen.last().copied().unwrap_or(span.certificate(0));
            let page = store.certificate_page(&query, Some(after), LIMIT).await;
            let own: Vec<CertificateId> = page.iter().map(|one| one.id).filter(|id| span.contains(id.uuid())).collect();
            let Some(last) = own.last().copied() else { break };
            // New certificates land before and after the place of the walk; known ones change on both sides.
            let mut changes = ChangeSet::new();
            if round < 20 {
                let new = [1 + 10 * round + walk, 301 + 10 * round + walk];
                changes = certificates_with_history(new.map(certificate));
            }
            let sides: Vec<CertificateId> =
                known.iter().filter(|id| **id > last).take(1).chain(known.first()).copied().collect();
            for mut known in store.certificates(&sides).await {
                changes.history.push(known.note(&scene.stamp(), Why::code("touched")));
                known.at_ca = StateAtCa::OnHold;
                changes.certificates.push(known);
            }
            store.commit(&changes).await;
            seen.extend(own);
        }
        let seen: BTreeSet<CertificateId> = seen.into_iter().collect();
        assert!(known.is_subset(&seen), "pages_are_stable: a walk missed certificates: {:?}", known.difference(&seen));
    }
}

/// A query gives exactly what matches.
pub async fn queries_filter(kit: &Kit<'_>) {
    const CLAUSE: &str = "queries_filter";
    let store = Store::open(kit, CLAUSE).await;
    let scene = Scene::new(kit);
    let others = Scene::new(kit);
    let mut cards = filter_cards(kit, &scene, &others);
    store.commit(&cards_with_history(cards.clone())).await;
    check_card_queries(&store, &scene, &others, &cards).await;

    // What a card was before is not found any more; some stay as they were.
    let mut changes = ChangeSet::new();
    for (card, _) in cards.iter().skip(3) {
        let mut card = raised(card);
        if let Some(name) = card.attributes.get_mut("commonName") {
            *name = format!("renamed {name}");
        }
        card.holder = Some(others.holder.clone());
        card.number = None;
        card.busy = None;
        if let Some(to) = card.graph().after(card.state()).first()
            && let Err(error) = changes.move_card(&mut card, *to, &scene.stamp(), Why::code("moved"))
        {
            panic!("{CLAUSE}: {error}");
        }
        changes.put_card(card);
    }
    store.commit(&changes).await;
    for card in &changes.cards {
        if let Some((known, _)) = cards.iter_mut().find(|(known, _)| known.id == card.id) {
            *known = raised(card);
        }
    }
    check_card_queries(&store, &scene, &others, &cards).await;

    for states in [&[CardState::Requested][..], &[CardState::Unassigned, CardState::Registered], &[CardState::Locked]] {
        for holders in [vec![scene.holder.clone()], vec![scene.holder.clone(), others.holder.clone()]] {
            let expected: BTreeSet<CardId> = cards
                .iter()
                .map(|(card, _)| card)
                .filter(|card| card.holder.as_ref().is_some_and(|holder| holders.contains(holder)))
                .filter(|card| states.contains(&card.state()))
                .map(|card| card.id)
                .collect();
            let found: Vec<CardId> = store.cards_of(&holders, states).await.iter().map(|card| card.id).collect();
            assert_eq!(found.len(), expected.len(), "{CLAUSE}: cards of {holders:?} in {states:?}");
            assert_eq!(
                found.into_iter().collect::<BTreeSet<_>>(),
                expected,
                "{CLAUSE}: cards of {holders:?} in {states:?}"
            );
        }
    }
    check_certificate_queries(kit, &store, &scene).await;
    check_request_queries(kit, &store, &scene, &others).await;
    check_job_queries(kit, &store, &scene).await;
}

/// A claim gives each due open job to one caller, earliest due first.
pub async fn claim_gives_due_open_jobs_once(kit: &Kit<'_>) {
    const CLAUSE: &str = "claim_gives_due_open_jobs_once";
    let store = Store::open(kit, CLAUSE).await;
    let scene = Scene::new(kit);
    // Open, and the earliest due first.
    let mut jobs = scene.jobs_of_every_kind(kit, CardId::new(kit.id()));
    jobs.extend(scene.jobs_of_every_kind(kit, CardId::new(kit.id())));
    for (place, job) in jobs.iter_mut().rev().enumerate() {
        job.due = scene.at - Duration::from_secs(place as u64);
    }
    let mut later = scene.job(kit, place_order());
    later.due = far_away();
    let closed = [JobState::InDoubt, JobState::Done, JobState::Cancelled]
        .map(|state| Job { state, ..scene.job(kit, place_order()) });
    let other = Job { run: Some(RunId::new(kit.id())), ..scene.job(kit, place_order()) };
    let mut all = jobs.clone();
    all.push(later.clone());
    all.push(other.clone());
    all.extend(closed);
    store.commit(&ChangeSet { jobs: all, ..ChangeSet::new() }).await;

    let mut left = ids(&jobs);
    let claimed = store.claim(&ClaimRequest { kinds: vec![JobKind::Notify], ..scene.claim(kit, 3) }).await;
    let notify: Vec<&Job> = jobs.iter().filter(|job| job.kind() == JobKind::Notify).take(3).collect();
    assert_eq!(
        ids(&claimed),
        ids(notify.iter().copied()),
        "{CLAUSE}: the earliest due of the wanted kind, not more than wanted"
    );
    for (claimed, job) in claimed.iter().zip(notify) {
        let mut expected = raised(&raised(job));
        expected.claim.clone_from(&claimed.claim);
        assert_eq!(*claimed, expected, "{CLAUSE}: a claim raises the version by one");
        let worker = claimed.claim.as_ref().map(|claim| claim.worker.as_str());
        assert_eq!(worker, Some(WORKER), "{CLAUSE}: a claimed job says who has claimed it");
    }
    store.same(&store.jobs(&ids(&claimed)).await, &claimed, "claimed jobs");
    left.retain(|id| !ids(&claimed).contains(id));

    let next = ids(&store.claim(&scene.claim(kit, 2)).await);
    assert_eq!(next, left[..2], "{CLAUSE}: the earliest due that nobody has claimed");
    left.retain(|id| !next.contains(id));

    let some = vec![left[2], next[0], left[0], claimed[0].id];
    let next = ids(&store.claim(&ClaimRequest { ids: some, run: None, ..scene.claim(kit, 9) }).await);
    assert_eq!(next, [left[0], left[2]], "{CLAUSE}: the wanted ids that nobody has claimed");
    left.retain(|id| !next.contains(id));

    assert_eq!(
        ids(&store.claim(&scene.claim(kit, 99)).await),
        left,
        "{CLAUSE}: what is left of the run, and neither closed jobs nor those that are not due"
    );
    assert_eq!(ids(&store.claim(&scene.claim(kit, 99)).await), [], "{CLAUSE}: a claimed job is not given again");
    assert_eq!(
        ids(&store.claim(&ClaimRequest { early: true, ..scene.claim(kit, 99) }).await),
        [later.id],
        "{CLAUSE}: an early claim gives what is not due yet"
    );
    let found = store.jobs(&[other.id]).await;
    assert!(
        found.iter().all(|job| job.version == 1 && job.claim.is_none()),
        "{CLAUSE}: the jobs of other runs are left alone"
    );

    let scene = Scene::new(kit);
    let jobs: Vec<Job> = (0..40).map(|_| scene.job(kit, place_order())).collect();
    let all: BTreeSet<JobId> = jobs.iter().map(|job| job.id).collect();
    store.commit(&ChangeSet { jobs, ..ChangeSet::new() }).await;
    let mut calls: Vec<BoxFuture<'static, Vec<JobId>>> = Vec::new();
    for _ in 0..8 {
        let (store, request) = (Store::open(kit, CLAUSE).await, scene.claim(kit, 3));
        calls.push(Box::pin(async move {
            let mut given = Vec::new();
            for _ in 0..3 {
                given.extend(ids(&store.claim(&request).await));
            }
            given
        }));
    }
    let mut given: Vec<JobId> = kit.at_once(calls).await.into_iter().flatten().collect();
    given.extend(ids(&store.claim(&scene.claim(kit, 99)).await));
    assert_eq!(given.len(), all.len(), "{CLAUSE}: eight callers got each job exactly once");
    assert_eq!(given.into_iter().collect::<BTreeSet<_>>(), all, "{CLAUSE}: none is left out");
}

/// A claim ends when its lease does, and renewing keeps it while nobody else has claimed.
pub async fn lease_ends_by_the_stores_clock(kit: &Kit<'_>) {
    const CLAUSE: &str = "lease_ends_by_the_stores_clock";
    let (store, other) = (Store::open(kit, CLAUSE).await, Store::open(kit, CLAUSE).await);
    let scene = Scene::new(kit);
    let jobs = vec![scene.job(kit, place_order()), scene.job(kit, place_order())];
    let all = ids(&jobs);
    store.commit(&ChangeSet { jobs, ..ChangeSet::new() }).await;
    let mine = store.claim(&scene.claim(kit, 9)).await;
    let versions = versions(&mine);
    let kept = versions.iter().copied().find(|(id, _)| *id == all[0]);
    let kept: Vec<(JobId, u64)> = kept.into_iter().collect();

    kit.pass_time(kit.quarters(2)).await;
    assert_eq!(ids(&other.claim(&scene.claim(kit, 9)).await), [], "{CLAUSE}: it has not ended yet");
    assert_eq!(store.renew(&kept, kit.lease).await, [all[0]], "{CLAUSE}: a held claim is renewed");
    let wrong: Vec<(JobId, u64)> = kept.iter().map(|(id, version)| (*id, version - 1)).collect();
    assert_eq!(store.renew(&wrong, kit.lease).await, [], "{CLAUSE}: another version is not renewed");
    let read = store.jobs(&all[..1]).await;
    assert_eq!(self::versions(&read), kept, "{CLAUSE}: renewing leaves the version as it is");

    kit.pass_time(kit.quarters(3)).await;
    let theirs = other.claim(&scene.claim(kit, 9)).await;
    assert_eq!(ids(&theirs), [all[1]], "{CLAUSE}: the claim that was not renewed can be claimed, the other cannot");
    let before: Vec<u64> = versions.iter().filter(|(id, _)| *id == all[1]).map(|(_, version)| version + 1).collect();
    assert_eq!(
        theirs.iter().map(|job| job.version).collect::<Vec<_>>(),
        before,
        "{CLAUSE}: claiming from another raises the version too"
    );
    let lost: Vec<(JobId, u64)> = versions.iter().copied().filter(|(id, _)| *id == all[1]).collect();
    assert_eq!(store.renew(&lost, kit.lease).await, [], "{CLAUSE}: a lost claim is not renewed");
    let job = mine.iter().filter(|job| job.id == all[1]).cloned().collect();
    store.refused(&ChangeSet { jobs: job, ..ChangeSet::new() }, "a job whose claim was lost").await;

    kit.pass_time(kit.quarters(3)).await;
    assert_eq!(ids(&other.claim(&scene.claim(kit, 9)).await), [all[0]], "{CLAUSE}: a renewed lease ends as well");
}

/// A release ends the claims of exactly the versions given.
pub async fn released_job_can_be_claimed_at_once(kit: &Kit<'_>) {
    const CLAUSE: &str = "released_job_can_be_claimed_at_once";
    let (store, other) = (Store::open(kit, CLAUSE).await, Store::open(kit, CLAUSE).await);
    let scene = Scene::new(kit);
    let jobs: Vec<Job> = (0..3).map(|_| scene.job(kit, place_order())).collect();
    let all = ids(&jobs);
    store.commit(&ChangeSet { jobs, ..ChangeSet::new() }).await;
    let mine = store.claim(&scene.claim(kit, 9)).await;
    let version = |id: JobId| mine.iter().find(|job| job.id == id).map_or(0, |job| job.version);
    store.release(&[(all[0], version(all[0])), (all[1], version(all[1]) - 1), (JobId::new(kit.id()), 1)]).await;
    let theirs = other.claim(&scene.claim(kit, 9)).await;
    assert_eq!(ids(&theirs), [all[0]], "{CLAUSE}: the released job and no other");
    assert!(theirs.iter().all(|job| job.version > version(job.id)), "{CLAUSE}: the new claim has another version");
    store.release(&[(all[0], version(all[0]))]).await;
    assert_eq!(
        ids(&store.claim(&scene.claim(kit, 9)).await),
        [],
        "{CLAUSE}: a late release does not end the claim of another"
    );
    assert_eq!(
        store.renew(&[(all[2], version(all[2]))], kit.lease).await,
        [all[2]],
        "{CLAUSE}: claims that were not released go on"
    );
}

/// Only who holds the version given stores an attempt or commits a job.
pub async fn attempt_is_fenced(kit: &Kit<'_>) {
    const CLAUSE: &str = "attempt_is_fenced";
    let (store, other) = (Store::open(kit, CLAUSE).await, Store::open(kit, CLAUSE).await);
    let scene = Scene::new(kit);
    let jobs: Vec<Job> = (0..2).map(|_| scene.job(kit, place_order())).collect();
    let all = ids(&jobs);
    store.commit(&ChangeSet { jobs, ..ChangeSet::new() }).await;
    let mut mine = store.claim(&scene.claim(kit, 9)).await;
    mine.sort_by_key(|job| all.iter().position(|id| *id == job.id));
    let Ok([first, second]) = <[Job; 2]>::try_from(mine) else {
        panic!("{CLAUSE}: both open jobs must be claimable");
    };
    kit.pass_time(kit.quarters(3)).await;

    let attempt = first.next_attempt(scene.at);
    let attempts = [
        (first.id, first.version, attempt.clone()),
        (second.id, second.version - 1, second.next_attempt(scene.at)),
        (JobId::new(kit.id()), 1, attempt.clone()),
    ];
    let given = store.record_attempts(&attempts, kit.lease).await;
    assert_eq!(ids(&given), [first.id], "{CLAUSE}: only the job that has the version given");
    let tried = given[0].clone();
    let mut expected = first.clone();
    expected.version += 1;
    expected.attempts += 1;
    expected.attempt = Some(attempt.clone());
    expected.claim = tried.claim.clone();
    assert_eq!(tried, expected, "{CLAUSE}: the attempt, its count and the version, and nothing else");
    assert!(
        tried.claim.as_ref().map(|claim| claim.until) > first.claim.as_ref().map(|claim| claim.until),
        "{CLAUSE}: storing an attempt renews the lease"
    );
    store.same(&store.jobs(&[first.id, second.id]).await, &[tried.clone(), second.clone()], "the jobs");
    let late = store.record_attempts(&[(first.id, first.version, attempt.clone())], kit.lease).await;
    assert_eq!(ids(&late), [], "{CLAUSE}: the version before stores no second attempt");
    store.refused(&ChangeSet { jobs: vec![first.clone()], ..ChangeSet::new() }, "a job under the version before").await;

    kit.pass_time(kit.quarters(3)).await;
    let theirs = other.claim(&scene.claim(kit, 9)).await;
    assert_eq!(ids(&theirs), [second.id], "{CLAUSE}: the lease of the attempt has not ended, the other has");
    let late = [(second.id, second.version, second.next_attempt(scene.at))];
    assert_eq!(
        ids(&store.record_attempts(&late, kit.lease).await),
        [],
        "{CLAUSE}: who has lost a claim stores no attempt"
    );
    store.refused(&ChangeSet { jobs: vec![second], ..ChangeSet::new() }, "a job whose claim was lost").await;
    store.same(&store.jobs(&[theirs[0].id]).await, &theirs, "jobs of others");

    // A commit with the claim keeps it; one without gives it back.
    let mut kept = tried;
    kept.remark = Some("looked".to_owned());
    store.commit(&ChangeSet { jobs: vec![kept.clone()], ..ChangeSet::new() }).await;
    kept.version += 1;
    assert_eq!(ids(&other.claim(&scene.claim(kit, 9)).await), [], "{CLAUSE}: a commit with the claim keeps it");
    kept.claim = None;
    kept.attempt = None;
    store.commit(&ChangeSet { jobs: vec![kept.clone()], ..ChangeSet::new() }).await;
    assert_eq!(
        ids(&other.claim(&scene.claim(kit, 9)).await),
        [kept.id],
        "{CLAUSE}: a commit without the claim gives the job back"
    );
}

/// Many callers that raise one record draw each number once.
pub async fn numbers_are_never_drawn_twice(kit: &Kit<'_>) {
    const CLAUSE: &str = "numbers_are_never_drawn_twice";
    const CALLERS: usize = 8;
    const ROUNDS: u64 = 3;
    const DRAWS: u64 = 5;
    let store = Store::open(kit, CLAUSE).await;
    let scene = Scene::new(kit);
    let key = scene.record(kit).key;
    let object = StoredId::Object(ObjectId::Record(key.clone()));

    // All raise what all have read; the first time, there is nothing yet.
    for round in 0..ROUNDS {
        let mut calls: Vec<BoxFuture<'static, Result<(), Vec<Conflict>>>> = Vec::new();
        for _ in 0..CALLERS {
            let store = Store::open(kit, CLAUSE).await;
            let records = vec![store.next_number(&key).await];
            calls.push(Box::pin(async move { store.try_commit(&ChangeSet { records, ..ChangeSet::new() }).await }));
        }
        let results = kit.at_once(calls).await;
        let winners = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(winners, 1, "{CLAUSE}: of {CALLERS} callers one must win");
        for conflicts in results.into_iter().filter_map(Result::err) {
            assert!(
                matches!(&conflicts[..], [Conflict::Version { object: named, expected, .. }]
                    if *named == object && *expected == round),
                "{CLAUSE}: who does not win gets a conflict, not {conflicts:?}"
            );
        }
    }
    let mut calls: Vec<BoxFuture<'static, Vec<u64>>> = Vec::new();
    for _ in 0..CALLERS {
        let (store, key) = (Store::open(kit, CLAUSE).await, key.clone());
        calls.push(Box::pin(async move {
            let mut drawn = Vec::new();
            while (drawn.len() as u64) < DRAWS {
                let record = store.next_number(&key).await;
                let number = record.value.as_u64().unwrap_or(0);
                if store.try_commit(&ChangeSet { records: vec![record], ..ChangeSet::new() }).await.is_ok() {
                    drawn.push(number);
                }
            }
            drawn
        }));
    }
    let mut drawn: Vec<u64> = kit.at_once(calls).await.into_iter().flatten().collect();
    drawn.sort_unstable();
    let last = ROUNDS + CALLERS as u64 * DRAWS;
    assert_eq!(drawn, (ROUNDS + 1..=last).collect::<Vec<_>>(), "numbers_are_never_drawn_twice");
    let record = store.records(std::slice::from_ref(&key)).await;
    assert_eq!(
        record.first().map(|record| (record.version, record.value.clone())),
        Some((last, json!(last))),
        "{CLAUSE}: the record counts every draw"
    );
}

/// What is open and due is counted, and what is in doubt, whoever has claimed it.
pub async fn backlog_counts_what_is_open(kit: &Kit<'_>) {
    const CLAUSE: &str = "backlog_counts_what_is_open";
    let (store, other) = (Store::open(kit, CLAUSE).await, Store::open(kit, CLAUSE).await);
    let scene = Scene::new(kit);
    let mut jobs = Vec::new();
    for hour in -3..=3 {
        for state in [JobState::Open, JobState::InDoubt, JobState::Done, JobState::Cancelled] {
            for job in scene.jobs_of_every_kind(kit, CardId::new(kit.id())) {
                let due = scene.at + TimeDelta::hours(hour);
                // Of each kind another number.
                if job.kind() as i64 + hour >= 0 {
                    jobs.push(Job { id: JobId::new(kit.id()), state, due, ..job });
                }
            }
        }
    }
    let strangers = Job { run: Some(RunId::new(kit.id())), due: scene.at, ..scene.job(kit, place_order()) };
    store.commit(&ChangeSet { jobs: jobs.iter().cloned().chain([strangers]).collect(), ..ChangeSet::new() }).await;
    store.claim(&scene.claim(kit, 7)).await;
    for due_by in [scene.at, scene.at + TimeDelta::hours(2), scene.at - TimeDelta::days(1)] {
        let mine = Backlog::of(&jobs, due_by);
        assert_eq!(other.backlog(due_by, Some(scene.run)).await, mine, "{CLAUSE}: of one run, due by {due_by}");
        let all = other.backlog(due_by, None).await;
        for own in mine {
            let is_in = all.iter().any(|all| {
                all.kind == own.kind
                    && all.due >= own.due
                    && all.in_doubt >= own.in_doubt
                    && (own.oldest_due.is_none() || all.oldest_due.is_some_and(|due| Some(due) <= own.oldest_due))
            });
            assert!(is_in, "{CLAUSE}: of all runs there is at least as much as of one, {own:?}, not {all:?}");
        }
    }
    assert_eq!(other.backlog(scene.at, Some(RunId::new(kit.id()))).await, [], "{CLAUSE}: of a run that has nothing");
}

/// The entries of an object come in the order of its chain, page by page.
pub async fn history_is_in_order(kit: &Kit<'_>) {
    const CLAUSE: &str = "history_is_in_order";
    let store = Store::open(kit, CLAUSE).await;
    let scene = Scene::new(kit);
    let (mut card, entry) = scene.card(kit);
    let (mut other, other_entry) = scene.card(kit);
    let (mut certificate, certificate_entry) = scene.certificate(kit, card.id);
    let (mut request, request_entry) = scene.request(kit);
    let mut record = scene.record(kit);
    let mut chain = vec![entry];
    let mut other_chain = vec![other_entry];
    let mut certificate_chain = vec![certificate_entry];
    let mut request_chain = vec![request_entry];
    let mut record_chain = Vec::new();
    let mut stored = [0; 5];
    for round in 0..6_usize {
        // Some commits bring several entries of one chain, those of others in between.
        let mut changes = ChangeSet::new();
        for _ in 0..=round % 3 {
            chain.push(card.note(&scene.stamp(), Why::code("noted")));
            other_chain.push(other.note(&scene.stamp(), Why::code("noted")));
        }
        certificate_chain.push(certificate.note(&scene.stamp(), Why::code("reconciled")));
        request_chain.push(request.note(&scene.stamp(), Why::code("postponed")));
        let object = ObjectId::Record(record.key.clone());
        record_chain.push(record.history.append(object, None, "set", &scene.stamp(), Why::code("set")));
        let chains = [&chain, &other_chain, &certificate_chain, &request_chain, &record_chain];
        for (chain, stored) in chains.into_iter().zip(&mut stored) {
            changes.history.extend_from_slice(&chain[*stored..]);
            *stored = chain.len();
        }
        changes.cards = vec![card.clone(), other.clone()];
        changes.certificates = vec![certificate.clone()];
        changes.requests = vec![request.clone()];
        changes.records = vec![record.clone()];
        store.commit(&changes).await;
        card = raised(&card);
        other = raised(&other);
        certificate = raised(&certificate);
        request = raised(&request);
        record = raised(&record);
    }
    for (chain, head) in [
        (&chain, &card.history),
        (&other_chain, &other.history),
        (&certificate_chain, &certificate.history),
        (&request_chain, &request.history),
        (&record_chain, &record.history),
    ] {
        let object = &chain[0].object;
        let found = store.history(object, 0, 100).await;
        assert_eq!(found, *chain, "{CLAUSE}: all entries of {object}");
        if let Err(error) = verify_chain(object, &found, head, &scene.key) {
            panic!("{CLAUSE}: {error}");
        }
        assert_eq!(store.history(object, 3, 2).await, chain[3..5], "{CLAUSE}: a page of {object}");
        assert_eq!(store.history(object, chain.len() as u64, 9).await, [], "{CLAUSE}: nothing after the end");
    }
    let unknown = ObjectId::Card(CardId::new(kit.id()));
    assert_eq!(store.history(&unknown, 0, 9).await, [], "{CLAUSE}: an unknown object has no history");
}

/// Who follows the feed while others write misses nothing and sees nothing twice.
pub async fn feed_loses_nothing(kit: &Kit<'_>) {
    const CLAUSE: &str = "feed_loses_nothing";
    const WRITERS: usize = 4;
    const COMMITS: usize = 12;
    let store = Store::open(kit, CLAUSE).await;
    let scene = Scene::new(kit);
    let mut start = None;
    loop {
        let page = store.changes_since(start.as_deref(), 1_000).await;
        if page.entries.is_empty() {
            assert_eq!(page.cursor, start, "{CLAUSE}: an empty page has the cursor that was asked with");
            break;
        }
        start = page.cursor;
    }

    let mut chains = BTreeMap::new();
    let mut calls: Vec<BoxFuture<'static, Vec<(String, HistoryEntry)>>> = Vec::new();
    for _ in 0..WRITERS {
        let store = Store::open(kit, CLAUSE).await;
        let (mut card, mut entry) = scene.card(kit);
        let mut changes = Vec::new();
        let mut chain = Vec::new();
        for _ in 0..COMMITS {
            let next = card.note(&scene.stamp(), Why::code("noted"));
            chain.extend([entry.clone(), next.clone()]);
            changes.push(ChangeSet { cards: vec![card.clone()], history: vec![entry, next], ..ChangeSet::new() });
            card = raised(&card);
            entry = card.note(&scene.stamp(), Why::code("noted"));
        }
        chains.insert(ObjectId::Card(card.id), chain);
        calls.push(Box::pin(async move {
            for changes in changes {
                store.commit(&changes).await;
            }
            Vec::new()
        }));
    }
    let reader = Store::open(kit, CLAUSE).await;
    let own: BTreeSet<ObjectId> = chains.keys().cloned().collect();
    let count = chains.values().map(Vec::len).sum();
    let from = start.clone();
    let objects = own.clone();
    calls.push(Box::pin(async move { reader.follow(from, 3, &objects, count).await }));
    let live: Vec<(String, HistoryEntry)> = kit.at_once(calls).await.into_iter().flatten().collect();

    let mut seen: BTreeMap<ObjectId, Vec<HistoryEntry>> = BTreeMap::new();
    for (_, entry) in &live {
        seen.entry(entry.object.clone()).or_default().push(entry.clone());
    }
    assert_eq!(seen, chains, "{CLAUSE}: who follows the feed sees every entry once and in order");
    let later = store.follow(start, 1_000, &own, count).await;
    assert_eq!(later, live, "{CLAUSE}: a second walk sees the same in the same order");
    for place in [0, count / 2, count - 2] {
        let rest = store.follow(Some(live[place].0.clone()), 7, &own, count - place - 1).await;
        assert_eq!(rest, live[place + 1..], "{CLAUSE}: a cursor goes on after its entry");
    }
}

/// What was stored is there for handles that are opened later.
pub async fn stored_is_stored(kit: &Kit<'_>) {
    const CLAUSE: &str = "stored_is_stored";
    let scene = Scene::new(kit);
    let everything = Everything::new(kit, &scene);
    let first = Store::open(kit, CLAUSE).await;
    first.commit(&everything.changes()).await;
    let claimed = first.claim(&scene.claim(kit, 9)).await;
    assert_eq!(ids(&claimed), [everything.job.id], "{CLAUSE}: an open job can be claimed");
    drop(first);
    let second = Store::open(kit, CLAUSE).await;
    second.same(&second.jobs(&[everything.job.id]).await, &claimed, "claimed jobs");
    second.release(&versions(&claimed)).await;
    let mut job = claimed[0].clone();
    job.version -= 1;
    job.claim = None;
    drop(second);
    let third = Store::open(kit, CLAUSE).await;
    let mut found = third.jobs(&[job.id]).await;
    for found in &mut found {
        assert!(found.claim.is_none(), "{CLAUSE}: a release is stored too");
        found.version = 1;
    }
    third.same(&found, &[job], "released jobs");
    everything.assert_stored(&third, "after the store was opened again").await;
}

/// One of everything that a commit can store.
struct Everything {
    card: Card,
    certificate: Certificate,
    request: ApprovalRequest,
    job: Job,
    record: Record,
    reservation: Reservation,
    history: Vec<HistoryEntry>,
}

impl Everything {
    fn new(kit: &Kit<'_>, scene: &Scene) -> Self {
        let (card, card_entry) = scene.card(kit);
        let (certificate, certificate_entry) = scene.certificate(kit, card.id);
        let (request, request_entry) = scene.request(kit);
        Self {
            card,
            certificate,
            request,
            job: scene.job(kit, place_order()),
            record: scene.record(kit),
            reservation: reservation(scene, kit, "everything"),
            history: vec![card_entry, certificate_entry, request_entry],
        }
    }

    fn changes(&self) -> ChangeSet {
        ChangeSet {
            cards: vec![self.card.clone()],
            certificates: vec![self.certificate.clone()],
            requests: vec![self.request.clone()],
            jobs: vec![self.job.clone()],
            records: vec![self.record.clone()],
            takes: vec![self.reservation.clone()],
            history: self.history.clone(),
            ..ChangeSet::new()
        }
    }

    async fn assert_stored(&self, store: &Store, when: &str) {
        store.same(&store.cards(&[self.card.id]).await, &[raised(&self.card)], when);
        store.same(&store.certificates(&[self.certificate.id]).await, &[raised(&self.certificate)], when);
        store.same(&store.requests(&[self.request.id]).await, &[raised(&self.request)], when);
        // The job may have been claimed since.
        assert_eq!(ids(&store.jobs(&[self.job.id]).await), [self.job.id], "{when}");
        store.same(&store.records(std::slice::from_ref(&self.record.key)).await, &[raised(&self.record)], when);
        store.same(
            &store.reservations(std::slice::from_ref(&self.reservation.key)).await,
            std::slice::from_ref(&self.reservation),
            when,
        );
        for entry in &self.history {
            store.same(&store.history(&entry.object, 0, 9).await, std::slice::from_ref(entry), when);
        }
    }

    async fn assert_absent(&self, store: &Store, spoiler: &str) {
        let what = format!("what a commit that was refused for {spoiler} has stored");
        store.same(&store.cards(&[self.card.id]).await, &[], &what);
        store.same(&store.certificates(&[self.certificate.id]).await, &[], &what);
        store.same(&store.requests(&[self.request.id]).await, &[], &what);
        store.same(&store.jobs(&[self.job.id]).await, &[], &what);
        store.same(&store.records(std::slice::from_ref(&self.record.key)).await, &[], &what);
        store.same(&store.reservations(std::slice::from_ref(&self.reservation.key)).await, &[], &what);
        for entry in &self.history {
            store.same(&store.history(&entry.object, 0, 9).await, &[], &what);
        }
    }
}

/// Cards of two holders and of none that differ in all that a query asks for.
fn filter_cards(kit: &Kit<'_>, scene: &Scene, others: &Scene) -> Vec<(Card, HistoryEntry)> {
    let kinds = [
        (CardKind::Permanent, Route::Local),
        (CardKind::Permanent, Route::External),
        (CardKind::Temporary, Route::Local),
        (CardKind::Temporary, Route::External),
    ];
    let names = ["Ångström", "angelo", "ANGSTROM%", "an_strom", "Ann", "O'Hara \\ \"x\"", "ﬁn", "Жанна"];
    let mut cards = Vec::new();
    for (place, name) in names.into_iter().enumerate() {
        let (kind, route) = kinds[place % kinds.len()];
        let (mut card, entry) = Card::create(CardId::new(kit.id()), kind, route, &scene.stamp(), Why::code("created"));
        card.holder = match place % 3 {
            0 => None,
            1 => Some(others.holder.clone()),
            _ => Some(scene.holder.clone()),
        };
        card.attributes.insert("commonName".to_owned(), name.to_owned());
        card.attributes.insert("conformance".to_owned(), format!("{} {name}", scene.run));
        card.attributes.insert("secret".to_owned(), name.to_owned());
        card.searchable = Arc::new(["commonName", "conformance", "absent"].map(str::to_owned).into());
        card.number = Some(format!("C-{place}"));
        card.production_type = (place % 2 == 0).then(|| format!("type {}", place % 4));
        let busy = Busy { job: JobId::new(kit.id()), since: scene.at, in_doubt: place % 4 == 1 };
        card.busy = (place % 2 == 1).then_some(busy);
        cards.push((card, entry));
    }
    cards
}

async fn check_card_queries(store: &Store, scene: &Scene, others: &Scene, cards: &[(Card, HistoryEntry)]) {
    let own = TextPrefix::new("conformance", scene.run.to_string().to_uppercase());
    let mut queries = vec![CardQuery::default()];
    for kind in [CardKind::Permanent, CardKind::Temporary] {
        queries.push(CardQuery { kind: Some(kind), ..CardQuery::default() });
    }
    for route in [Route::Local, Route::External] {
        queries.push(CardQuery { route: Some(route), kind: Some(CardKind::Permanent), ..CardQuery::default() });
    }
    for states in
        [vec![CardState::Registered], vec![CardState::Requested, CardState::Unassigned], vec![CardState::Locked]]
    {
        queries.push(CardQuery { states, ..CardQuery::default() });
    }
    for production_types in [vec!["type 0"], vec!["type 0", "type 2"], vec!["type"]] {
        let production_types = production_types.into_iter().map(str::to_owned).collect();
        queries.push(CardQuery { production_types, ..CardQuery::default() });
    }
    for in_doubt in [true, false] {
        queries.push(CardQuery { in_doubt: Some(in_doubt), ..CardQuery::default() });
    }
    for prefix in ["ang", "ÅNGSTR", "angstrom%", "an_", "%", "_", "o'hara \\", "fin", "жан", "renamed a", "x", ""] {
        for name in ["commonName", "secret", "absent", Card::NUMBER] {
            queries.push(CardQuery { text: vec![TextPrefix::new(name, prefix)], ..CardQuery::default() });
        }
    }
    queries.push(CardQuery { text: vec![TextPrefix::new(Card::NUMBER, "c-")], ..CardQuery::default() });
    queries.push(CardQuery {
        states: vec![CardState::Registered, CardState::Requested],
        text: vec![TextPrefix::new("commonName", "an"), TextPrefix::new(Card::NUMBER, "C-")],
        in_doubt: Some(false),
        ..CardQuery::default()
    });
    for query in queries {
        // On a store with other data only what is sure to be ours can be compared: by a text, by holders, or by both.
        let by_text = CardQuery { text: [&query.text[..], std::slice::from_ref(&own)].concat(), ..query.clone() };
        let text_first = CardQuery { text: [std::slice::from_ref(&own), &query.text[..]].concat(), ..query.clone() };
        let by_holder = CardQuery { holders: vec![scene.holder.clone()], ..query.clone() };
        let by_both = CardQuery { holders: vec![scene.holder.clone(), others.holder.clone()], ..by_text.clone() };
        for query in [by_text, text_first, by_holder, by_both] {
            let mut expected: Vec<Card> =
                cards.iter().map(|(card, _)| card).filter(|card| query.matches(card)).cloned().collect();
            for card in &mut expected {
                card.version = card.version.max(1);
            }
            expected.sort_by_key(|card| card.id);
            let found = all_cards(store, &query).await;
            let numbers = |cards: &[Card]| cards.iter().map(|card| card.attributes.clone()).collect::<Vec<_>>();
            assert_eq!(ids_of(&found), ids_of(&expected), "queries_filter: {query:?} gave {:?}", numbers(&found));
            assert_eq!(found, expected, "queries_filter: pages give cards as they are stored");
        }
    }
}

async fn check_certificate_queries(kit: &Kit<'_>, store: &Store, scene: &Scene) {
    let span = Span::new(kit);
    let cards = [CardId::new(kit.id()), CardId::new(kit.id()), CardId::new(kit.id())];
    let mut certificates = Vec::new();
    let states: Vec<CertificateState> = certificate_graph().states().collect();
    for (place, (state, card)) in (1..=15_u16).zip(states.iter().cycle().zip(cards.iter().cycle())) {
        let kind = CertificateKind::ALL[usize::from(place) % 3];
        let (certificate, entry) = scene.certificate_with(span.certificate(place), *card, kind);
        let mut changes = certificates_with_history([(certificate, entry)]);
        store.commit(&changes).await;
        let mut certificate = raised(&changes.certificates.remove(0));
        if certificate.state() != *state {
            // What a certificate was before is not found any more.
            let changes = ChangeSet { history: vec![moved(&mut certificate, *state, scene)], ..ChangeSet::new() };
            store.commit(&ChangeSet { certificates: vec![certificate.clone()], ..changes }).await;
            certificate = raised(&certificate);
        }
        certificates.push(certificate);
    }
    let nobodys = CardId::new(kit.id());
    let [first, second, _] = cards;
    for of in [vec![], vec![first], vec![second, nobodys, first, second], vec![nobodys]] {
        for states in [
            vec![],
            vec![CertificateState::Issued],
            vec![CertificateState::OnHold, CertificateState::Valid],
            vec![CertificateState::Expired, CertificateState::Revoked, CertificateState::Expired],
        ] {
            let query = CertificateQuery { cards: of.clone(), states };
            let mut found: Vec<Certificate> = Vec::new();
            loop {
                let after = found.last().map_or(span.certificate(0), |certificate| certificate.id);
                let page = store.certificate_page(&query, Some(after), 4).await;
                let before = found.len();
                found.extend(page.into_iter().filter(|certificate| span.contains(certificate.id.uuid())));
                if found.len() == before {
                    break;
                }
            }
            let expected: Vec<Certificate> =
                certificates.iter().filter(|certificate| query.matches(certificate)).cloned().collect();
            assert_eq!(found, expected, "queries_filter: {query:?}");
        }
    }
    let query = CertificateQuery { cards: vec![first], ..CertificateQuery::default() };
    let found = store.certificate_page(&query, None, 99).await;
    let expected: Vec<Certificate> = certificates.into_iter().filter(|certificate| certificate.card == first).collect();
    assert_eq!(found, expected, "queries_filter: the first page of {query:?}");
}

async fn check_request_queries(kit: &Kit<'_>, store: &Store, scene: &Scene, others: &Scene) {
    let mut requests = Vec::new();
    let moves = [None, Some(RequestState::Approved), Some(RequestState::Rejected), Some(RequestState::Aborted)];
    for (place, to) in moves.into_iter().cycle().take(12).enumerate() {
        let scene = if place % 3 == 0 { others } else { scene };
        let (mut request, entry) = scene.request(kit);
        let mut history = vec![entry];
        if let Some(to) = to {
            let moved = request.transition(to, &scene.stamp(), Why::code("decided"));
            history.push(moved.unwrap_or_else(|error| panic!("queries_filter: {error}")));
        }
        store.commit(&ChangeSet { requests: vec![request.clone()], history, ..ChangeSet::new() }).await;
        requests.push(raised(&request));
    }
    requests.sort_by_key(|request| request.id);
    for states in [vec![], vec![RequestState::Open], vec![RequestState::Approved, RequestState::Aborted]] {
        for holders in [vec![scene.holder.clone()], vec![scene.holder.clone(), others.holder.clone()]] {
            let query = RequestQuery { states: states.clone(), holders };
            let mut found: Vec<ApprovalRequest> = Vec::new();
            loop {
                let page = store.request_page(&query, found.last().map(|request| request.id), 3).await;
                if page.is_empty() {
                    break;
                }
                found.extend(page);
            }
            let expected: Vec<_> = requests.iter().filter(|request| query.matches(request)).cloned().collect();
            assert_eq!(found, expected, "queries_filter: {query:?}");
        }
    }
}

async fn check_job_queries(kit: &Kit<'_>, store: &Store, scene: &Scene) {
    let span = Span::new(kit);
    let tasks: Vec<Job> = scene.jobs_of_every_kind(kit, CardId::new(kit.id()));
    let states = [JobState::Open, JobState::InDoubt, JobState::Done, JobState::Cancelled, JobState::Open];
    let jobs: Vec<Job> = (1..=60)
        .zip(tasks.iter().cycle())
        .map(|(place, job)| Job {
            id: span.job(place),
            state: states[usize::from(place) % states.len()],
            ..job.clone()
        })
        .collect();
    store.commit(&ChangeSet { jobs: jobs.clone(), ..ChangeSet::new() }).await;
    let mut wanted = vec![vec![], vec![JobKind::PlaceOrder, JobKind::Custom, JobKind::RevokeCertificate]];
    wanted.extend(JobKind::ALL.map(|kind| vec![kind]));
    for kinds in wanted {
        for states in [vec![], vec![JobState::Open], vec![JobState::InDoubt, JobState::Cancelled], vec![JobState::Done]]
        {
            let query = JobQuery { kinds: kinds.clone(), states };
            let mut found: Vec<Job> = Vec::new();
            loop {
                let after = found.last().map_or(span.job(0), |job| job.id);
                let page = store.job_page(&query, Some(after), 6).await;
                let before = found.len();
                found.extend(page.into_iter().filter(|job| span.contains(job.id.uuid())));
                if found.len() == before {
                    break;
                }
            }
            let expected: Vec<Job> = jobs.iter().filter(|job| query.matches(job)).map(raised).collect();
            assert_eq!(found, expected, "queries_filter: {query:?}");
        }
    }
}

/// All that one check stores: its own run, its own holder.
struct Scene {
    at: DateTime<Utc>,
    actor: ActorId,
    process: SymbolicName,
    run: RunId,
    holder: UserId,
    key: ChainKey,
}

const WORKER: &str = "conformance";

impl Scene {
    fn new(kit: &Kit<'_>) -> Self {
        let run = RunId::new(kit.id());
        Self {
            at: moment(981_173_106_123_456),
            actor: ActorId::new("conformance").expect("the text is an id"),
            process: SymbolicName::new("Conformance").expect("the text is a symbolic name"),
            run,
            holder: UserId::new(format!("cn=Zoë \"%_' {run}")).expect("the text is an id"),
            key: ChainKey::none(),
        }
    }

    fn stamp(&self) -> Stamp<'_> {
        Stamp { at: self.at, actor: &self.actor, process: &self.process, run: Some(self.run), key: &self.key }
    }

    fn text(&self, text: &str) -> String {
        format!("conformance {} {text}", self.run)
    }

    fn card(&self, kit: &Kit<'_>) -> (Card, HistoryEntry) {
        let id = CardId::new(kit.id());
        let (mut card, entry) =
            Card::create(id, CardKind::Permanent, Route::External, &self.stamp(), Why::code("created"));
        card.holder = Some(self.holder.clone());
        (card, entry)
    }

    fn full_card(&self, kit: &Kit<'_>) -> (Card, HistoryEntry) {
        let (mut card, entry) = self.card(kit);
        card.number = Some("0007".to_owned());
        card.attributes = [("commonName", "Zoë \"x\" \\ %_'; --"), ("empty", ""), ("城市", "東京 🗼\n\tx")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        card.searchable = Arc::new(["commonName", "empty", "absent"].map(str::to_owned).into());
        card.production_type = Some("badge & more".to_owned());
        let naive = |micros| moment(micros).naive_utc();
        card.order = Some(Order {
            order_id: Some("order-1".to_owned()),
            card_id: Some("card-1".to_owned()),
            status: Some("In Production".to_owned()),
            unknown_statuses: ["Lost".to_owned(), "found".to_owned()].into(),
            times: BureauTimes {
                produced: Some(naive(981_173_106_000_001)),
                delivered: None,
                activated: Some(naive(981_173_106_999_999)),
            },
            read_outs: vec![
                ReadOut { technology: "b".to_owned(), value: "2".to_owned() },
                ReadOut { technology: "a".to_owned(), value: "1".to_owned() },
                ReadOut { technology: "b".to_owned(), value: "2".to_owned() },
            ],
            earlier: vec!["order-0".to_owned(), "order--1".to_owned()],
            ..Order::decided(JobId::new(kit.id()))
        });
        card.failure = Some(Failure { phase: FailurePhase::BureauProduction, cause: "no plastic".to_owned() });
        card.withdrawal = Some(Withdrawal::Order);
        card.request = Some(RequestId::new(kit.id()));
        card.busy = Some(Busy { job: JobId::new(kit.id()), since: moment(981_173_106_000_001), in_doubt: true });
        card.reservations = vec![self.text("z"), self.text("a")];
        card.production = Some(Production {
            id: JobId::new(kit.id()),
            certificates: vec![CertificateKind::Signature, CertificateKind::Authentication],
            card_end_state: CardState::Active,
            certificate_end_state: CertificateState::Valid,
            pin: SecretPlan { length: 6, delivery: Delivery::Print },
            puk: SecretPlan { length: 8, delivery: Delivery::None },
            handle: Some("tray \"3\" / slot 7".to_owned()),
            requests: [(CertificateKind::Signature, "-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n".to_owned())].into(),
        });
        card.produced = Some(JobId::new(kit.id()));
        card.chip_serial = Some("04:A1:é".to_owned());
        card.valid_until = Some(moment(1_981_173_106_999_999));
        (card, entry)
    }

    fn certificate(&self, kit: &Kit<'_>, card: CardId) -> (Certificate, HistoryEntry) {
        self.certificate_with(CertificateId::new(kit.id()), card, CertificateKind::Authentication)
    }

    fn certificate_with(&self, id: CertificateId, card: CardId, kind: CertificateKind) -> (Certificate, HistoryEntry) {
        let issued = IssuedCertificate {
            issuer: "CN=Zoë \"CA\" \\ %_'; --, O=東京".to_owned(),
            serial: "00ab12".to_owned(),
            valid_until: moment(1_981_173_106_999_999),
            pem: "-----BEGIN CERTIFICATE-----\r\nMIIB+/==\r\n-----END CERTIFICATE-----\n".to_owned(),
        };
        Certificate::issued(id, card, kind, JobId::new(self.run.uuid()), self.text("key"), issued, &self.stamp())
    }

    /// Certificates of a card, each with its history.
    fn certificates_of_every_state(&self, kit: &Kit<'_>, card: CardId) -> (Vec<Certificate>, Vec<Vec<HistoryEntry>>) {
        let at_ca = [StateAtCa::Valid, StateAtCa::OnHold, StateAtCa::Revoked, StateAtCa::Expired];
        let made = certificate_graph().states().zip(CertificateKind::ALL.into_iter().cycle());
        made.zip(at_ca.into_iter().cycle())
            .map(|((state, kind), at_ca)| {
                let (mut certificate, entry) = self.certificate_with(CertificateId::new(kit.id()), card, kind);
                certificate.at_ca = at_ca;
                let mut history = vec![entry];
                if certificate.state() != state {
                    history.push(moved(&mut certificate, state, self));
                }
                (certificate, history)
            })
            .unzip()
    }

    fn request(&self, kit: &Kit<'_>) -> (ApprovalRequest, HistoryEntry) {
        ApprovalRequest::open(
            RequestId::new(kit.id()),
            Route::External,
            [("reason".to_owned(), "a \"new\" badge".to_owned())].into(),
            CardId::new(kit.id()),
            self.holder.clone(),
            Actor::person(
                self.actor.clone(),
                self.holder.clone(),
                [Role::Operator, Role::custom("keeper of keys").expect("a good name")],
            ),
            &self.stamp(),
            Why::code("asked"),
        )
    }

    fn record(&self, kit: &Kit<'_>) -> Record {
        Record::new(self.text(&kit.id().to_string()), json!({"next": 1}))
    }

    fn job(&self, kit: &Kit<'_>, task: Task) -> Job {
        Job::new(JobId::new(kit.id()), task, None, &self.stamp())
    }

    /// Open jobs, all due.
    fn jobs_of_every_kind(&self, kit: &Kit<'_>, card: CardId) -> Vec<Job> {
        let message = |kind, recipient, locale: Option<&str>| {
            Task::Notify(Message {
                id: MessageId::new(kit.id()),
                kind,
                recipient,
                data: [("number".to_owned(), "0007".to_owned())].into(),
                locale: locale.map(str::to_owned),
            })
        };
        let certificate = CertificateId::new(kit.id());
        let tasks = [
            place_order(),
            Task::TrackOrder { order_id: "order-1".to_owned() },
            Task::PrepareCard,
            Task::IssueCertificate { kind: CertificateKind::Encryption, production: JobId::new(kit.id()) },
            Task::HoldCertificate { certificate },
            Task::FinishCard,
            Task::DiscardCard { handle: "tray \"3\" / slot 7".to_owned() },
            Task::RemoveHold { certificate },
            Task::RevokeCertificate { certificate, reason: RevocationReason::CaCompromise },
            message(MessageKind::CardOrdered, Recipient::Email("zoë@example.org".to_owned()), Some("de-CH")),
            message(MessageKind::Custom("lost".to_owned()), Recipient::Role(Role::Approver), None),
            Task::Custom { performer: self.process.clone(), data: json!({"list": [1, "two", null]}) },
        ];
        let mut jobs: Vec<Job> = tasks.into_iter().map(|task| self.job(kit, task)).collect();
        jobs[0].card = Some(card);
        jobs[1].attempts = 3;
        jobs[1].attempt = Some(Attempt { reference: "ref-3".to_owned(), number: 3, started: self.at });
        jobs[1].setbacks = 4;
        jobs[1].remark = Some("was \"away\"".to_owned());
        jobs[2].doubts = 3;
        (jobs[1].silent_days, jobs[1].silent_at) = (2, Some(self.at));
        jobs[3].unanswered = true;
        jobs
    }

    /// A claim of this run's jobs.
    fn claim(&self, kit: &Kit<'_>, limit: usize) -> ClaimRequest {
        ClaimRequest { run: Some(self.run), ..ClaimRequest::new(WORKER, limit, kit.lease) }
    }
}

/// Ids that follow each other with none of others between, so that pages of them can be compared on any store.
struct Span {
    base: u128,
}

impl Span {
    fn new(kit: &Kit<'_>) -> Self {
        Self { base: kit.id().as_u128() & !0xffff }
    }

    const fn job(&self, place: u16) -> JobId {
        JobId::new(self.id(place))
    }

    const fn certificate(&self, place: u16) -> CertificateId {
        CertificateId::new(self.id(place))
    }

    const fn id(&self, place: u16) -> Uuid {
        Uuid::from_u128(self.base | place as u128)
    }

    const fn contains(&self, id: Uuid) -> bool {
        id.as_u128() & !0xffff == self.base
    }
}

const fn place_order() -> Task {
    Task::PlaceOrder { notify_holder: true, queued: true }
}

fn reservation(scene: &Scene, kit: &Kit<'_>, owner: &str) -> Reservation {
    Reservation { key: scene.text(&kit.id().to_string()), owner: owner.to_owned() }
}

fn cards_with_history(cards: impl IntoIterator<Item = (Card, HistoryEntry)>) -> ChangeSet {
    let (cards, history) = cards.into_iter().unzip();
    ChangeSet { cards, history, ..ChangeSet::new() }
}

fn certificates_with_history(certificates: impl IntoIterator<Item = (Certificate, HistoryEntry)>) -> ChangeSet {
    let (certificates, history) = certificates.into_iter().unzip();
    ChangeSet { certificates, history, ..ChangeSet::new() }
}

fn requests_with_history(requests: impl IntoIterator<Item = (ApprovalRequest, HistoryEntry)>) -> ChangeSet {
    let (requests, history) = requests.into_iter().unzip();
    ChangeSet { requests, history, ..ChangeSet::new() }
}

/// Moves a certificate that is in state issued, from which every other state can be reached.
fn moved(certificate: &mut Certificate, to: CertificateState, scene: &Scene) -> HistoryEntry {
    certificate.transition(to, &scene.stamp(), Why::code("moved")).expect("every state follows issued")
}

fn moment(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).expect("the time is in range")
}

/// A time that no store's clock shows: in the year 2900.
fn far_away() -> DateTime<Utc> {
    moment(29_348_000_000_000_000)
}

fn ids<'a>(jobs: impl IntoIterator<Item = &'a Job>) -> Vec<JobId> {
    jobs.into_iter().map(|job| job.id).collect()
}

fn ids_of(cards: &[Card]) -> Vec<CardId> {
    cards.iter().map(|card| card.id).collect()
}

fn versions(jobs: &[Job]) -> Vec<(JobId, u64)> {
    jobs.iter().map(|job| (job.id, job.version)).collect()
}

/// All cards that match, page by page.
async fn all_cards(store: &Store, query: &CardQuery) -> Vec<Card> {
    let mut found: Vec<Card> = Vec::new();
    loop {
        let page = store.card_page(query, found.last().map(|card| card.id), 7).await;
        if page.is_empty() {
            return found;
        }
        found.extend(page);
    }
}

/// What is stored with an id, in any order.
trait Stored: Clone + PartialEq + std::fmt::Debug {
    fn key(&self) -> String;
}

/// What is stored under a version.
trait Versioned: Stored {
    fn version(&mut self) -> &mut u64;
}

macro_rules! versioned {
    ($($type:ty: $key:ident),*) => {
        $(impl Stored for $type {
            fn key(&self) -> String {
                self.$key.to_string()
            }
        }

        impl Versioned for $type {
            fn version(&mut self) -> &mut u64 {
                &mut self.version
            }
        })*
    };
}

versioned!(Card: id, Certificate: id, ApprovalRequest: id, Job: id, Record: key);

impl Stored for Reservation {
    fn key(&self) -> String {
        self.key.clone()
    }
}

impl Stored for HistoryEntry {
    fn key(&self) -> String {
        format!("{} {:20}", self.object, self.sequence)
    }
}

/// As it is stored by a commit: under the next version.
fn raised<T: Versioned>(object: &T) -> T {
    let mut object = object.clone();
    *object.version() += 1;
    object
}

/// A handle onto the store under test. Tries again what the store calls transient; any other error is a panic.
struct Store {
    clause: &'static str,
    store: Arc<dyn CardRepository>,
}

impl Store {
    async fn open(kit: &Kit<'_>, clause: &'static str) -> Self {
        Self { clause, store: kit.factory.open().await }
    }

    /// Asserts that these are the same, in any order.
    fn same<T: Stored>(&self, found: &[T], expected: &[T], what: &str) {
        let sorted = |objects: &[T]| {
            let mut objects = objects.to_vec();
            objects.sort_by_key(Stored::key);
            objects
        };
        assert_eq!(sorted(found), sorted(expected), "{}: these must be as they were stored: {what}", self.clause);
    }

    /// Commits what must be stored.
    async fn commit(&self, changes: &ChangeSet) {
        if let Err(conflicts) = self.try_commit(changes).await {
            panic!("{}: a commit that nothing stands against was refused: {conflicts:?}", self.clause);
        }
    }

    /// Commits what must be refused, and gives the conflicts in order.
    async fn refused(&self, changes: &ChangeSet, what: &str) -> Vec<Conflict> {
        match self.try_commit(changes).await {
            Ok(()) => panic!("{}: this was stored and must be refused: {what}", self.clause),
            Err(conflicts) => conflicts,
        }
    }

    async fn try_commit(&self, changes: &ChangeSet) -> Result<(), Vec<Conflict>> {
        self.patient("commit", || async {
            match self.store.commit(changes).await {
                Ok(()) => Ok(Ok(())),
                Err(CommitError::Conflicts(mut conflicts)) => {
                    assert!(!conflicts.is_empty(), "{}: a refused commit must name its conflicts", self.clause);
                    conflicts.sort();
                    Ok(Err(conflicts))
                }
                Err(CommitError::Store(error)) => Err(error),
            }
        })
        .await
    }

    async fn cards(&self, ids: &[CardId]) -> Vec<Card> {
        self.patient("cards", || self.store.cards(ids)).await
    }

    async fn card_page(&self, query: &CardQuery, after: Option<CardId>, limit: usize) -> Vec<Card> {
        let page = self.patient("card_page", || self.store.card_page(query, after, limit)).await;
        assert_page(page.iter().map(|found| found.id), after, limit);
        page
    }

    async fn cards_of(&self, holders: &[UserId], states: &[CardState]) -> Vec<Card> {
        self.patient("cards_of", || self.store.cards_of(holders, states)).await
    }

    async fn certificates(&self, ids: &[CertificateId]) -> Vec<Certificate> {
        self.patient("certificates", || self.store.certificates(ids)).await
    }

    async fn certificate_page(
        &self,
        query: &CertificateQuery,
        after: Option<CertificateId>,
        limit: usize,
    ) -> Vec<Certificate> {
        let page = self.patient("certificate_page", || self.store.certificate_page(query, after, limit)).await;
        assert_page(page.iter().map(|found| found.id), after, limit);
        page
    }

    async fn requests(&self, ids: &[RequestId]) -> Vec<ApprovalRequest> {
        self.patient("requests", || self.store.requests(ids)).await
    }

    async fn request_page(&self, query: &RequestQuery, after: Option<RequestId>, limit: usize) -> Vec<ApprovalRequest> {
        let page = self.patient("request_page", || self.store.request_page(query, after, limit)).await;
        assert_page(page.iter().map(|found| found.id), after, limit);
        page
    }

    async fn records(&self, keys: &[String]) -> Vec<Record> {
        self.patient("records", || self.store.records(keys)).await
    }

    /// The record of a number range as it is, raised by one and not stored yet.
    async fn next_number(&self, key: &String) -> Record {
        let found = self.records(std::slice::from_ref(key)).await.pop();
        let mut record = found.unwrap_or_else(|| Record::new(key.clone(), json!(0)));
        record.value = json!(record.value.as_u64().unwrap_or(0) + 1);
        record
    }

    async fn reservations(&self, keys: &[String]) -> Vec<Reservation> {
        self.patient("reservations", || self.store.reservations(keys)).await
    }

    async fn jobs(&self, ids: &[JobId]) -> Vec<Job> {
        self.patient("jobs", || self.store.jobs(ids)).await
    }

    async fn job_page(&self, query: &JobQuery, after: Option<JobId>, limit: usize) -> Vec<Job> {
        let page = self.patient("job_page", || self.store.job_page(query, after, limit)).await;
        assert_page(page.iter().map(|found| found.id), after, limit);
        page
    }

    async fn claim(&self, request: &ClaimRequest) -> Vec<Job> {
        self.patient("claim", || self.store.claim(request)).await
    }

    async fn renew(&self, jobs: &[(JobId, u64)], lease: Duration) -> Vec<JobId> {
        self.patient("renew", || self.store.renew(jobs, lease)).await
    }

    async fn release(&self, jobs: &[(JobId, u64)]) {
        self.patient("release", || self.store.release(jobs)).await;
    }

    async fn record_attempts(&self, attempts: &[(JobId, u64, Attempt)], lease: Duration) -> Vec<Job> {
        self.patient("record_attempts", || self.store.record_attempts(attempts, lease)).await
    }

    /// What is to be done, without kinds of which there is nothing.
    async fn backlog(&self, due_by: DateTime<Utc>, run: Option<RunId>) -> Vec<Backlog> {
        let mut counts = self.patient("backlog", || self.store.backlog(due_by, run)).await;
        assert!(counts.is_sorted_by_key(|counted| counted.kind), "{}: kinds must be in order", self.clause);
        counts.retain(|counted| *counted != Backlog::none(counted.kind));
        counts
    }

    async fn history(&self, object: &ObjectId, after: u64, limit: usize) -> Vec<HistoryEntry> {
        self.patient("history", || self.store.history(object, after, limit)).await
    }

    async fn changes_since(&self, cursor: Option<&str>, limit: usize) -> FeedPage {
        self.patient("changes_since", || self.store.changes_since(cursor, limit)).await
    }

    async fn patient<T, F>(&self, call: &str, attempt: impl Fn() -> F) -> T
    where
        F: Future<Output = Result<T, RepositoryError>>,
    {
        for _ in 0..TRIES {
            match attempt().await {
                Ok(value) => return value,
                Err(error) if error.is_transient() => SystemClock.sleep(PAUSE).await,
                Err(error) => panic!("{}: {call} failed: {error}", self.clause),
            }
        }
        panic!("{}: {call} was unavailable {TRIES} times in a row", self.clause);
    }

    /// Follows the feed until so many entries of these objects were seen, and a little further.
    async fn follow(
        &self,
        mut cursor: Option<String>,
        limit: usize,
        own: &BTreeSet<ObjectId>,
        count: usize,
    ) -> Vec<(String, HistoryEntry)> {
        let mut seen = Vec::new();
        let mut idle = 0;
        while idle < TRIES / 2 && (seen.len() < count || idle < 2) {
            let page = self.changes_since(cursor.as_deref(), limit).await;
            assert!(page.entries.len() <= limit, "feed_loses_nothing: a page has at most as many entries as asked for");
            if page.entries.is_empty() {
                assert_eq!(page.cursor, cursor, "feed_loses_nothing: an empty page has the cursor that was asked with");
                idle += 1;
                SystemClock.sleep(PAUSE).await;
                continue;
            }
            idle = 0;
            let last = page.entries.last().map(|last| last.cursor.clone());
            assert_eq!(page.cursor, last, "feed_loses_nothing: the cursor of a page is that after its last entry");
            cursor = page.cursor;
            let entries = page.entries.into_iter().map(|entry| (entry.cursor, entry.entry));
            seen.extend(entries.filter(|(_, entry)| own.contains(&entry.object)));
        }
        seen
    }
}

/// Asserts what holds for every page, so that every walk ends and sees nothing twice.
fn assert_page<I: Ord + Copy>(page: impl ExactSizeIterator<Item = I> + Clone, after: Option<I>, limit: usize) {
    assert!(page.len() <= limit, "pages_are_stable: a page has at most as many as were asked for");
    assert!(
        after.into_iter().chain(page).is_sorted_by(|a, b| a < b),
        "pages_are_stable: a page is in ascending order of id and starts after the id given"
    );
}

const TRIES: u32 = 1_000;
const PAUSE: Duration = Duration::from_millis(5);
