//! Runs: plain values that any instance continues, each item on its own, nothing twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use async_trait::async_trait;
use cardwright::adapters::memory::MemoryUsers;
use cardwright::adapters::simulator::PlaceScript;
use cardwright::host::{CardQuery, DirectoryError, JobQuery, RepositoryError, UserFilter, UserPage, UserRepository};
use cardwright::process::{Answer, AnswerError, Filter, ItemId, Outcome, RefusalCode};
use cardwright::{
    CardId, CardKind, CardState, EngineSettings, Error, Interruption, JobKind, NumberRange, ObjectId, Report, Run,
    RunId, User, UserId, UserState,
};
use futures::TryStreamExt as _;
use futures::executor::block_on;

use crate::office::{
    ABORT, APPROVAL, ORDER, ORDER_SCRIPT, Office, SYNC_ORDERS, approver, operator, person, run_id, user_item,
};
use crate::watched::{TestBureau, Watched, jobs, second, store};

/// All ten active users.
fn everyone() -> Answer {
    Answer::all(Filter::Users(UserFilter { active: Some(true), ..UserFilter::default() }))
}

fn users(count: u32) -> MemoryUsers {
    MemoryUsers::new((1..=count).map(person))
}

fn cards(office: &Office) -> Vec<cardwright::Card> {
    block_on(office.engine.card_page(&CardQuery::default(), None, 10_000)).unwrap()
}

/// Runs under a given id.
fn run_as(office: &Office, id: RunId, answer: Answer) -> Result<(Report, Vec<(ItemId, Outcome)>), Error> {
    block_on(async {
        let run = office.engine.open_as(id, ORDER, &operator()).await?;
        let mut execution = office.engine.next(&run, answer).await?;
        let mut outcomes = Vec::new();
        while let Some(chunk) = execution.next_chunk().await? {
            outcomes.extend(chunk);
        }
        Ok((execution.report().clone(), outcomes))
    })
}

#[test]
fn a_run_is_a_plain_value_that_another_engine_continues() {
    let (repository, clock) = store();
    let office = Office::on(repository.clone(), clock, |builder| builder);
    let run = block_on(office.engine.open(ORDER, &operator())).unwrap();
    let text = serde_json::to_string(&run).unwrap();

    let other = second(&office, repository, |builder| builder);
    let again: Run = serde_json::from_str(&text).unwrap();
    assert_eq!(again, run);
    block_on(async {
        // The first engine does a chunk and is gone, the second does the rest.
        let mut execution = office.engine.next(&run, everyone()).await.unwrap();
        assert_eq!(execution.next_chunk().await.unwrap().unwrap().len(), 4);
        drop(execution);
        let report = other.engine.next(&again, everyone()).await.unwrap().finish().await.unwrap();
        assert_eq!((report.done_earlier, report.done.get("processing")), (4, Some(&6)), "{report:?}");
    });
    assert_eq!(cards(&office).len(), 10);
}

#[test]
fn cancel_is_nothing() {
    let (repository, clock) = store();
    let watched = Watched::new(repository);
    let office = Office::on(Arc::clone(&watched), clock, |builder| builder);
    watched.take_calls();
    let run = block_on(office.engine.open(ORDER, &operator())).unwrap();
    let execution = block_on(office.engine.next(&run, everyone())).unwrap();
    drop(execution);
    drop(run);
    assert_eq!(watched.take_calls().get("commit"), None);
    assert_eq!(cards(&office).len(), 0);
}

#[test]
fn the_same_run_again_reports_what_is_done_before_any_guard() {
    let office = Office::new();
    let answer = Answer::ids(["u1", "u2", "gone"].map(user_item));
    let (_, first) = run_as(&office, run_id(1), answer.clone()).unwrap();
    // Now the guards would refuse both: one has an open order, the other is not active besides.
    office.users.put(User { state: UserState::Inactive, ..person(2) });
    let (report, again) = run_as(&office, run_id(1), answer).unwrap();
    assert_eq!(report.done_earlier, 2, "{report:?}");
    assert_eq!(report.refused.get(&RefusalCode::UserNotActive), Some(&1), "what was refused is tried again");
    for ((_, first), (_, again)) in first.iter().zip(&again).take(2) {
        let Outcome::Done { object: Some(object), .. } = first else { panic!("{first:?}") };
        assert_eq!(*again, Outcome::DoneEarlier { object: Some(object.clone()) });
    }
    assert_eq!(cards(&office).len(), 2);
}

#[test]
fn a_run_id_is_refused_for_another_process_actor_or_answer() {
    let office = Office::new();
    run_as(&office, run_id(1), Answer::ids([user_item("u1")])).unwrap();
    let what = |error: Error| match error {
        Error::RunTaken { what, .. } => what,
        other => panic!("{other}"),
    };
    let error = run_as(&office, run_id(1), Answer::ids([user_item("u2")])).unwrap_err();
    assert_eq!(what(error), "answer");
    let error = block_on(office.engine.open_as(run_id(1), ORDER, &approver())).unwrap_err();
    assert_eq!(what(error), "actor");
    let error = block_on(office.engine.open_as(run_id(1), ABORT, &operator())).unwrap_err();
    assert_eq!(what(error), "process");
    assert_eq!(cards(&office).len(), 1);
}

#[test]
fn two_starts_of_a_run_id_for_different_things_do_not_mix() {
    let (repository, clock) = store();
    let watched = Watched::new(repository.clone());
    let office = Office::on(Arc::clone(&watched), clock, |builder| builder);
    let other = second(&office, repository, |builder| builder);
    watched.before_commit(move || {
        run_as(&other, run_id(1), Answer::ids([user_item("u2")])).unwrap();
    });
    let (report, outcomes) = run_as(&office, run_id(1), Answer::ids([user_item("u1")])).unwrap();
    assert!(matches!(report.interrupted, Some(Interruption::Failed(_))), "{report:?} {outcomes:?}");
    let holders: Vec<_> = cards(&office).into_iter().filter_map(|card| card.holder).collect();
    assert_eq!(holders, [UserId::new("u2").unwrap()]);
}

#[test]
fn a_run_keeps_the_options_it_began_with() {
    let office = Office::new();
    office.script(ORDER_SCRIPT, r#"CardsAddonExtProdProductionType = "visitor""#);
    block_on(async {
        let run = office.engine.open_as(run_id(1), ORDER, &operator()).await.unwrap();
        let mut execution = office.engine.next(&run, everyone()).await.unwrap();
        execution.next_chunk().await.unwrap();
    });
    office.script(ORDER_SCRIPT, "CardsAddonExtProdQueueCards = false");
    let (report, _) = run_as(&office, run_id(1), everyone()).unwrap();
    assert_eq!((report.done_earlier, report.done.get("processing")), (4, Some(&6)), "{report:?}");
    assert!(cards(&office).iter().all(|card| card.production_type.as_deref() == Some("visitor")));
    assert_eq!(office.bureau.calls().place, 0, "queued as when it began");

    office.users.put(person(11));
    let (report, _) = run_as(&office, run_id(2), Answer::ids([user_item("u11")])).unwrap();
    assert_eq!(report.done.get("ordered"), Some(&1), "a new run has the new options: {report:?}");
}

#[test]
fn a_stopped_run_keeps_what_is_committed_and_is_finished_later() {
    let office = Office::new();
    let report = block_on(async {
        let run = office.engine.open_as(run_id(1), ORDER, &operator()).await.unwrap();
        let mut execution = office.engine.next(&run, everyone()).await.unwrap();
        let stop = execution.stop_handle();
        assert_eq!(execution.next_chunk().await.unwrap().unwrap().len(), 4);
        stop.stop();
        assert_eq!(execution.next_chunk().await.unwrap(), None);
        assert_eq!(execution.next_chunk().await.unwrap(), None);
        execution.report().clone()
    });
    assert_eq!(report.interrupted, Some(Interruption::Stopped));
    assert_eq!((report.items, cards(&office).len()), (4, 4));
    let (report, _) = run_as(&office, run_id(1), everyone()).unwrap();
    assert_eq!((report.done_earlier, report.interrupted), (4, None));
    assert_eq!(cards(&office).len(), 10);
}

/// An engine that orders one card per call, and a bureau that lets a test act during a call.
fn one_per_call(office: &Office, repository: impl cardwright::host::CardRepository) -> (Office, TestBureau) {
    let bureau = TestBureau::new(office.bureau.clone());
    let settings = EngineSettings::new().orders_per_call(1);
    (second(office, repository, |builder| builder.settings(settings).bureau(bureau.clone())), bureau)
}

#[test]
fn a_sync_that_is_stopped_within_a_chunk_makes_no_further_call_and_releases_the_rest() {
    let (repository, clock) = store();
    let office = Office::on(repository.clone(), clock, |builder| builder);
    run_as(&office, run_id(1), everyone()).unwrap();
    let (other, bureau) = one_per_call(&office, repository);
    let report = block_on(async {
        let run = other.engine.open(SYNC_ORDERS, &crate::office::service()).await.unwrap();
        let execution = other.engine.next(&run, Answer::new()).await.unwrap();
        let stop = execution.stop_handle();
        bureau.before_answer(|| ());
        bureau.before_answer(move || stop.stop());
        execution.finish().await.unwrap()
    });
    assert_eq!((report.items, report.done.get("ordered")), (2, Some(&2)), "{report:?}");
    assert_eq!(report.interrupted, Some(Interruption::Stopped));
    assert_eq!(office.bureau.ledger().len(), 2);
    assert!(jobs(&office, JobKind::PlaceOrder).iter().all(|job| job.claim.is_none()));
    assert_eq!(office.sync(SYNC_ORDERS).done.get("ordered"), Some(&8), "the rest is due");
}

#[test]
fn a_run_that_is_stopped_while_it_orders_leaves_the_rest_in_the_queue() {
    let (repository, clock) = store();
    let office = Office::on(repository.clone(), clock, |builder| builder);
    let (other, bureau) = one_per_call(&office, repository);
    other.script(ORDER_SCRIPT, "CardsAddonExtProdQueueCards = false");
    let report = block_on(async {
        let run = other.engine.open(ORDER, &operator()).await.unwrap();
        let execution = other.engine.next(&run, everyone()).await.unwrap();
        let stop = execution.stop_handle();
        bureau.before_answer(move || stop.stop());
        execution.finish().await.unwrap()
    });
    assert_eq!((report.done.get("ordered"), report.done.get("processing")), (Some(&1), Some(&9)), "{report:?}");
    assert_eq!(office.bureau.ledger().len(), 1);
    assert_eq!(office.sync(SYNC_ORDERS).done.get("ordered"), Some(&9));
}

#[test]
fn outcomes_come_as_a_stream_with_one_for_each_item() {
    let office = Office::new();
    let ids: Vec<_> = ["u3", "gone", "u1", "nobody", "u2"].map(user_item).into();
    let outcomes: Vec<(ItemId, Outcome)> = block_on(async {
        let run = office.engine.open(ORDER, &operator()).await.unwrap();
        office.engine.next(&run, Answer::ids(ids.clone())).await.unwrap().into_stream().try_collect().await.unwrap()
    });
    assert_eq!(outcomes.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(), ids, "in the order of the selection");
    let codes: Vec<_> = outcomes
        .into_iter()
        .filter_map(|(_, outcome)| if let Outcome::Refused(refusal) = outcome { Some(refusal.code) } else { None })
        .collect();
    assert_eq!(codes, [RefusalCode::UserNotActive, RefusalCode::NotFound]);
}

#[test]
fn progress_says_how_far_it_is_and_of_how_many_if_known() {
    let office = Office::new();
    block_on(async {
        let run = office.engine.open(ORDER, &operator()).await.unwrap();
        let ids = (1..=6).map(|number| user_item(&format!("u{number}")));
        let mut execution = office.engine.next(&run, Answer::ids(ids)).await.unwrap();
        let mut seen = vec![(execution.progress().items, execution.progress().total)];
        while execution.next_chunk().await.unwrap().is_some() {
            seen.push((execution.progress().items, execution.progress().total));
        }
        assert_eq!(seen, [(0, Some(6)), (4, Some(6)), (6, Some(6))]);

        let run = office.engine.open(ORDER, &operator()).await.unwrap();
        let execution = office.engine.next(&run, everyone()).await.unwrap();
        assert_eq!(execution.progress().total, None);
    });
}

#[test]
fn all_that_match_goes_over_all_pages() {
    let office = Office::with(|builder| builder.users(users(103)));
    let (report, _) = office.run(ORDER, &operator(), everyone());
    assert_eq!(report.done.get("processing"), Some(&103), "{report:?}");

    let queued = CardQuery { states: vec![CardState::Processing], ..CardQuery::default() };
    // The cards leave the filter while the run walks over it.
    let (report, _) = office.run(ABORT, &operator(), Answer::all(Filter::Cards(queued)));
    assert_eq!(report.done.get("aborted"), Some(&103), "{report:?}");
}

#[test]
fn the_same_user_twice_counts_once() {
    let office = Office::new();
    let (report, outcomes) = office.run(ORDER, &operator(), Answer::ids(["u1", "u2", "u1", "u1"].map(user_item)));
    assert_eq!((report.items, outcomes.len(), report.done.get("processing")), (2, 2, Some(&2)));
    assert_eq!(cards(&office).len(), 2);
}

#[test]
fn an_empty_selection_and_the_wrong_kind_are_errors_of_the_answer() {
    let office = Office::new();
    for answer in [Answer::new(), Answer::ids([])] {
        let error = office.try_run(ORDER, &operator(), answer).unwrap_err();
        assert!(matches!(error, Error::Answer(AnswerError::NothingSelected { .. })), "{error}");
    }
    let card = ItemId::Card(office.order("u1"));
    let error = office.try_run(ORDER, &operator(), Answer::ids([user_item("u2"), card])).unwrap_err();
    assert!(matches!(error, Error::Answer(AnswerError::WrongKind { .. })), "{error}");
    assert_eq!(cards(&office).len(), 1);
}

#[test]
fn two_engines_that_order_for_the_same_users_at_once_give_each_exactly_one_open_order() {
    let (repository, clock) = store();
    let first = Office::on(repository.clone(), clock, |builder| builder.users(users(40)));
    let other = second(&first, repository, |builder| builder.users(users(40)));
    let start = Barrier::new(2);
    let reports: Vec<Report> = std::thread::scope(|scope| {
        let engines = [&first, &other].map(|office| {
            scope.spawn(|| {
                start.wait();
                office.run(ORDER, &operator(), everyone()).0
            })
        });
        engines.map(|engine| engine.join().unwrap()).into()
    });
    let done: u64 = reports.iter().map(Report::done_in_all).sum();
    let refused: u64 = reports.iter().map(Report::refused_in_all).sum();
    assert_eq!((done, refused), (40, 40), "{reports:?}");
    let mut open: BTreeMap<_, u32> = BTreeMap::new();
    for card in cards(&first).into_iter().filter(cardwright::Card::is_open_order) {
        *open.entry(card.holder).or_default() += 1;
    }
    assert_eq!(open.len(), 40);
    assert!(open.values().all(|count| *count == 1), "{open:?}");
}

#[test]
fn the_reservation_stops_a_second_order_that_the_look_did_not_see() {
    let (repository, clock) = store();
    let watched = Watched::new(repository.clone());
    let office = Office::on(Arc::clone(&watched), clock, |builder| builder);
    let other = second(&office, repository, |builder| builder);
    // Another orders for u2 after this run has looked and before it commits.
    watched.before_commit(move || {
        other.order("u2");
    });
    let (report, outcomes) = office.run(ORDER, &operator(), Answer::ids(["u1", "u2", "u3"].map(user_item)));
    assert_eq!(report.done.get("processing"), Some(&2), "the others are committed: {report:?}");
    assert_eq!(report.refused.get(&RefusalCode::OpenOrder), Some(&1), "planned again: {report:?}");
    assert!(matches!(&outcomes[1].1, Outcome::Refused(_)));
    let numbers: BTreeSet<_> = cards(&office).into_iter().map(|card| card.number.unwrap()).collect();
    assert_eq!(numbers.len(), 3, "no number twice");
}

#[test]
fn an_item_that_others_change_is_planned_again_and_the_others_go_on() {
    let (repository, clock) = store();
    let watched = Watched::new(repository.clone());
    let office = Office::on(Arc::clone(&watched), clock, |builder| builder);
    let queued: Vec<CardId> = ["u1", "u2", "u3"].map(|user| office.order(user)).into();
    let other = second(&office, repository, |builder| builder);
    let taken = queued[1];
    watched.before_commit(move || {
        other.one(ABORT, &operator(), ItemId::Card(taken), &[]);
    });
    let (report, outcomes) = office.run(ABORT, &operator(), Answer::ids(queued.iter().map(|id| ItemId::Card(*id))));
    assert_eq!(report.done.get("aborted"), Some(&2), "{report:?}");
    let Outcome::Refused(refusal) = &outcomes[1].1 else { panic!("{outcomes:?}") };
    assert_eq!(refusal.code, RefusalCode::WrongState);
    assert_eq!(office.history(taken).len(), 3, "aborted once");
}

#[test]
fn an_item_that_others_change_again_and_again_is_given_up_after_three_more_plans() {
    for (changes, gives) in [(3, None), (4, Some(RefusalCode::ChangedMeanwhile))] {
        let (repository, clock) = store();
        let watched = Watched::new(repository.clone());
        let office = Office::on(Arc::clone(&watched), clock, |builder| builder);
        office.script(ORDER_SCRIPT, "CardsAddonExtProdApproval = true");
        let card = office.order("u1");
        let request = ItemId::Request(office.card(card).request.unwrap());
        let other = Arc::new(second(&office, repository, |builder| builder));
        for _ in 0..changes {
            // A postponed request is another version of itself, and still open.
            let (other, request) = (Arc::clone(&other), request.clone());
            watched.before_commit(move || {
                other.one(APPROVAL, &approver(), request, &[("decision", "postpone")]);
            });
        }
        let outcome = office.one(APPROVAL, &approver(), request, &[("decision", "approve")]);
        match (outcome, gives) {
            (Outcome::Done { .. }, None) => assert_eq!(office.state(card), CardState::Processing),
            (Outcome::Refused(refusal), Some(code)) => {
                assert_eq!(refusal.code, code);
                assert_eq!(office.state(card), CardState::Requested);
            }
            (outcome, gives) => panic!("{changes} changes: {outcome:?}, not {gives:?}"),
        }
    }
}

#[test]
fn where_several_orders_are_allowed_a_user_gets_two_cards() {
    let office = Office::new();
    office.script(ORDER_SCRIPT, "CardsAddonExtProdMultipleCards = true");
    let (first, other) = (office.order("u1"), office.order("u1"));
    assert_ne!(first, other);
    office.script(ORDER_SCRIPT, "CardsAddonExtProdMultipleCards = false");
    office.one(ABORT, &operator(), ItemId::Card(first), &[]);
    let Outcome::Refused(refusal) = office.one(ORDER, &operator(), user_item("u1"), &[]) else { panic!() };
    assert_eq!(refusal.code, RefusalCode::OpenOrder, "the second one counts as well");
    office.one(ABORT, &operator(), ItemId::Card(other), &[]);
    office.order("u1");
}

#[test]
fn an_exhausted_number_range_refuses_the_rest() {
    let office = Office::with(|builder| {
        builder.number_range(CardKind::Permanent, NumberRange::new([(1, 3), (8, 10)]).unwrap().excluding([9]))
    });
    let (report, _) = office.run(ORDER, &operator(), everyone());
    assert_eq!(report.done.get("processing"), Some(&5), "{report:?}");
    assert_eq!(report.refused.get(&RefusalCode::NumbersExhausted), Some(&5), "{report:?}");
    let numbers: BTreeSet<_> = cards(&office).into_iter().filter_map(|card| card.number).collect();
    assert_eq!(numbers, ["1", "2", "3", "8", "10"].map(str::to_owned).into());
}

/// The calls to the store that a run on so many users takes.
fn calls(count: u32, chunk: usize) -> BTreeMap<&'static str, u64> {
    let (repository, clock) = store();
    let watched = Watched::new(repository);
    let office = Office::on(Arc::clone(&watched), clock, |builder| {
        builder.users(users(count)).settings(EngineSettings::new().chunk(chunk))
    });
    watched.take_calls();
    let (report, _) = office.run(ORDER, &operator(), everyone());
    assert_eq!(report.done_in_all(), u64::from(count), "{report:?}");
    watched.take_calls()
}

#[test]
fn statements_for_a_chunk_are_constant_and_each_chunk_is_one_commit() {
    assert_eq!(calls(4, 400), calls(40, 400));
    assert_eq!(calls(40, 400), calls(400, 400));
    let (ten, hundred) = (calls(40, 4), calls(400, 4));
    assert_eq!((ten["commit"], hundred["commit"]), (10, 100), "one commit a chunk");
    assert_eq!((ten["number draw"], hundred["number draw"]), (10, 100), "one draw a chunk");
    let statements = |calls: &BTreeMap<&str, u64>| calls.values().sum::<u64>();
    let per_chunk = (statements(&hundred) - statements(&ten)) / 90;
    assert_eq!(statements(&hundred) - statements(&ten), 90 * per_chunk, "as many for each chunk");
    assert!(per_chunk <= 6, "{per_chunk} statements a chunk: {hundred:?}");
}

#[test]
fn a_store_that_fails_in_mid_batch_leaves_a_run_that_can_be_continued() {
    let (repository, clock) = store();
    let watched = Watched::new(repository);
    let office = Office::on(Arc::clone(&watched), clock, |builder| builder);
    watched.fail_commits([None, Some(RepositoryError::unavailable("out for lunch"))]);
    let (report, outcomes) = run_as(&office, run_id(1), everyone()).unwrap();
    assert!(matches!(&report.interrupted, Some(Interruption::Failed(why)) if why.contains("out for lunch")));
    assert_eq!((report.done.get("processing"), report.refused.get(&RefusalCode::Store)), (Some(&4), Some(&4)));
    assert_eq!(outcomes.len(), 8, "the rest is not lost, only not done");
    let (report, _) = run_as(&office, run_id(1), everyone()).unwrap();
    assert_eq!((report.done_earlier, report.done.get("processing")), (4, Some(&6)), "{report:?}");
}

#[test]
fn a_commit_whose_outcome_is_unknown_is_made_again_and_counts_once() {
    let (repository, clock) = store();
    let watched = Watched::new(repository);
    let office = Office::on(Arc::clone(&watched), clock, |builder| builder);
    let unknown = || RepositoryError::OutcomeUnknown { reason: "the line went dead".to_owned(), source: None };
    watched.fail_commits([Some(unknown())]);
    let (report, _) = run_as(&office, run_id(1), Answer::ids(["u1", "u2"].map(user_item))).unwrap();
    assert_eq!((report.done.get("processing"), report.interrupted), (Some(&2), None));
    assert_eq!(cards(&office).len(), 2);
}

#[test]
fn an_unknown_outcome_stays_unknown_while_the_store_is_away() {
    let (repository, clock) = store();
    let watched = Watched::new(repository);
    let office = Office::on(Arc::clone(&watched), clock, |builder| builder);
    let unknown = || RepositoryError::OutcomeUnknown { reason: "the line went dead".to_owned(), source: None };
    let away = || RepositoryError::unavailable("out for lunch");
    watched.fail_commits([Some(unknown()), Some(away()), Some(away())]);
    let people = || Answer::ids(["u1", "u2"].map(user_item));
    let (report, _) = run_as(&office, run_id(1), people()).unwrap();
    let Some(Interruption::Failed(why)) = &report.interrupted else { panic!("{report:?}") };
    assert!(why.contains("the line went dead") && !why.contains("lunch"), "{why}");
    // The line may be cut at a commit of the administrator's too: it is made again.
    watched.fail_commits([Some(unknown())]);
    office.script(ORDER_SCRIPT, "CardsAddonExtProdQueueCards = true");
    let (report, _) = run_as(&office, run_id(1), people()).unwrap();
    assert_eq!((report.done.get("processing"), report.interrupted), (Some(&2), None));
}

/// A directory that never answers.
struct Silent;

#[async_trait]
impl UserRepository for Silent {
    async fn users(&self, _: &[UserId]) -> Result<Vec<User>, DirectoryError> {
        std::future::pending().await
    }
    async fn search(&self, _: &UserFilter, _: Option<&str>, _: usize) -> Result<UserPage, DirectoryError> {
        std::future::pending().await
    }
    async fn photo(&self, _: &UserId) -> Result<Option<Vec<u8>>, DirectoryError> {
        std::future::pending().await
    }
}

#[test]
fn a_directory_that_never_answers_ends_the_run_after_the_time_out() {
    for answer in [Answer::ids([user_item("u1")]), everyone()] {
        use cardwright::host::Clock as _;
        let office = Office::with(|builder| builder.users(Silent));
        let before = office.clock.now();
        let (report, _) = run_as(&office, run_id(1), answer).unwrap();
        assert!(
            matches!(&report.interrupted, Some(Interruption::Failed(why)) if why.contains("in time")),
            "{report:?}"
        );
        assert_eq!((office.clock.now() - before).num_seconds(), 30);
    }
}

#[test]
fn the_feed_gives_every_entry_once_and_goes_on_where_it_stopped() {
    let office = Office::new();
    let (mut entries, mut cursor) = (Vec::new(), None);
    let mut follow = |office: &Office| loop {
        let page = block_on(office.engine.changes_since(cursor.as_deref(), 3)).unwrap();
        if page.entries.is_empty() {
            return entries.clone();
        }
        assert_eq!(page.cursor.as_ref(), page.entries.last().map(|last| &last.cursor));
        cursor = page.cursor;
        entries.extend(page.entries.into_iter().map(|entry| entry.entry));
    };
    office.run(ORDER, &operator(), everyone());
    let first = follow(&office).len();
    office.clock.advance(Duration::from_secs(60));
    office.sync(SYNC_ORDERS);
    let all = follow(&office);
    assert!(all.len() > first);
    let distinct: BTreeSet<_> = all.iter().map(|entry| (entry.object.clone(), entry.sequence)).collect();
    assert_eq!(distinct.len(), all.len(), "none twice");
    for card in cards(&office) {
        let object = ObjectId::Card(card.id);
        let fed: Vec<_> = all.iter().filter(|entry| entry.object == object).cloned().collect();
        assert_eq!(fed, block_on(office.engine.history(&object)).unwrap(), "all, in order");
    }
    assert_eq!(all.iter().filter(|entry| entry.code == "run_begun").count(), 2, "the order and the sync");
}

#[test]
fn every_run_is_on_record_with_who_when_and_process() {
    let office = Office::new();
    run_as(&office, run_id(7), Answer::ids([user_item("u1")])).unwrap();
    let entries = block_on(office.engine.history(&ObjectId::Run(run_id(7)))).unwrap();
    assert_eq!(entries.len(), 1);
    let entry = &entries[0];
    assert_eq!((entry.actor.clone(), entry.process.as_str(), entry.run), (operator().id, ORDER, Some(run_id(7))));
    let jobs = block_on(office.engine.job_page(&JobQuery::default(), None, 10)).unwrap();
    assert_eq!(jobs[0].run, Some(run_id(7)));
}

#[test]
fn two_starts_of_the_same_run_at_once_do_each_item_once() {
    let (repository, clock) = store();
    let watched = Watched::new(repository.clone());
    let office = Office::on(Arc::clone(&watched), clock, |builder| builder);
    let other = second(&office, repository, |builder| builder);
    watched.before_commit(move || {
        run_as(&other, run_id(1), everyone()).unwrap();
    });
    let (report, _) = run_as(&office, run_id(1), everyone()).unwrap();
    assert_eq!((report.done_earlier, report.interrupted), (10, None));
    assert_eq!(cards(&office).len(), 10);
}

#[test]
fn a_directory_that_fails_while_orders_are_sent_leaves_nothing_claimed() {
    let (repository, clock) = store();
    let office = Office::on(repository.clone(), clock, |builder| builder);
    let card = office.order("u1");
    let blind = second(&office, repository, |builder| builder.users(Silent));
    let report = blind.sync(SYNC_ORDERS);
    assert!(matches!(report.interrupted, Some(Interruption::Failed(_))), "{report:?}");
    assert_eq!(office.bureau.calls().place, 0);
    // Nothing was sent: the order waits as before, and can be sent or taken back at once.
    let report = office.sync(SYNC_ORDERS);
    assert_eq!(report.done.get("ordered"), Some(&1), "{report:?}");
    assert_eq!(office.state(card), CardState::Ordered);
}

#[test]
fn a_doubt_that_was_stored_unheard_is_one_doubt() {
    let (repository, clock) = store();
    let watched = Watched::new(repository);
    let office = Office::on(Arc::clone(&watched), clock, |builder| builder);
    office.script(ORDER_SCRIPT, "CardsAddonExtProdQueueCards = true");
    let card = office.order("u1");
    office.bureau.next_place(PlaceScript::LoseReplyAfterAccepting);
    watched.lose_answers([true]);
    assert_eq!(office.sync(SYNC_ORDERS).in_doubt, 1);
    let doubts = block_on(office.engine.doubts(None, 9)).expect("doubts can be read");
    assert_eq!(doubts.iter().map(|job| job.doubts).collect::<Vec<_>>(), [1]);
    assert_eq!(office.history(card).iter().filter(|code| *code == "in_doubt").count(), 1, "{:?}", office.history(card));
}
