//! Bad input, one test for each: it ends in the right refusal or error, the words say what, where, found and allowed, and
//! nothing is half-done.

use std::fmt::Display;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cardwright::adapters::local_ca::{CaIdentity, LocalCa, MemoryJournal};
use cardwright::adapters::memory::{MemoryRepository, MemoryUsers};
use cardwright::adapters::simulator::{BureauBehaviour, HandleState, PersonalizerBehaviour, PlaceScript};
use cardwright::host::{
    Accepted, AccessPolicy, Backlog, CardOrder, CardQuery, CardRepository, CertificateQuery, ClaimRequest, CommitError,
    Decision, DirectoryError, FeedPage, FindOutcome, GoCardsProvider, JobQuery, PlaceOutcome, Placement,
    RepositoryError, RequestQuery, RolePolicy, StatusOutcome, TextPrefix, UserFilter, UserPage, UserRepository,
};
use cardwright::options::{OptionSource, ResolvedOptions};
use cardwright::process::{
    Answer, AnswerError, Field, Filter, HouseRules, Item, ItemId, ItemKind, Needs, Outcome, Plan, PlanContext, Process,
    ProcessDefinition, ProcessPackage, Refusal, RefusalCode, RegistryError, Slot,
};
use cardwright::{
    Actor, ActorId, ApprovalRequest, Attempt, Card, CardId, CardKind, CardState, Certificate, CertificateId,
    CertificateKind, ChainKey, ChangeSet, EngineBuilder, EngineSettings, Error, HistoryEntry, Interruption, Job, JobId,
    JobKind, JobState, NumberRange, ObjectId, Record, Report, RequestId, RequestState, Reservation, Run, RunId, Secret,
    Stamp, SymbolicName, User, UserId, Why,
};
use chrono::{DateTime, Utc};
use futures::executor::block_on;
use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::machines::Machine;
use crate::office::{
    ABORT, ABORT_REQUEST, ACTIVATE, APPROVAL, ISSUE, ORDER, ORDER_SCRIPT, ORDER_TEMPORARY, Office, REPEAT,
    REPEAT_PRODUCTION, RESOLVE, SYNC_ORDERS, SYNC_STATUS, TEMPORARY_SCRIPT, UPDATE, administrator, approver, clock,
    operator, person, rules, run_id, service, user_id, user_item,
};
use crate::watched::{jobs, store};

// ---- processes ---------------------------------------------------------------------------------------------------

#[test]
fn unknown_process_is_refused_with_the_nearest_name() {
    let desk = Desk::new();
    let error = block_on(desk.office.engine.open("CardsAddonExtProdBoProcOrderMultipel", &operator())).unwrap_err();
    assert!(matches!(&error, Error::Process(RegistryError::Unknown { nearest: Some(name), .. }) if *name == ORDER));
    says(&error, &["CardsAddonExtProdBoProcOrderMultipel", "no such process", ORDER]);
    let error = block_on(desk.office.engine.open("", &operator())).unwrap_err();
    assert!(matches!(error, Error::Process(RegistryError::Unknown { nearest: None, .. })));
    let error = block_on(desk.office.engine.enable("Nonsense", Slot::Batch, &administrator())).unwrap_err();
    assert!(matches!(error, Error::Process(RegistryError::Unknown { .. })));
    desk.has_done_nothing();
}

#[test]
fn endless_process_name_is_refused_quickly_and_shortly() {
    let desk = Desk::new();
    let begun = Instant::now();
    let error = block_on(desk.office.engine.open(&"C".repeat(4_000_000), &operator())).unwrap_err();
    assert!(matches!(error, Error::Process(RegistryError::Unknown { .. })));
    assert!(error.to_string().len() < 400);
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
}

#[test]
fn disabled_process_is_refused_with_the_slots_it_fits_in() {
    let desk = Desk::new();
    let engine = &desk.office.engine;
    let run = block_on(engine.open(ORDER_TEMPORARY, &operator())).expect("it is on");
    block_on(engine.disable(ORDER_TEMPORARY, Slot::New, &administrator())).expect("it fits in new");
    let opened = block_on(engine.open(ORDER_TEMPORARY, &operator())).unwrap_err();
    let went_on = block_on(engine.next(&run, Answer::new().with("amount", "1"))).unwrap_err();
    for error in [opened, went_on] {
        assert!(matches!(&error, Error::Disabled { process, .. } if *process == ORDER_TEMPORARY), "{error}");
        says(&error, &[ORDER_TEMPORARY, "switched off", "new"]);
    }
    desk.has_done_nothing();
}

#[test]
fn process_in_a_slot_it_does_not_fit_in_is_refused() {
    let desk = Desk::new();
    let error = block_on(desk.office.engine.enable(ORDER, Slot::New, &administrator())).unwrap_err();
    assert!(matches!(error, Error::Slot { .. }), "{error}");
    says(&error, &[ORDER, "new", "batch"]);
}

#[test]
fn process_that_is_not_permitted_is_refused() {
    let desk = Desk::with(|builder| builder.access(RolePolicy::standard()));
    let error = desk.office.try_run(ORDER, &approver(), Answer::ids([user_item("u1")])).unwrap_err();
    assert!(matches!(error, Error::NotPermitted { .. }), "{error}");
    says(&error, &["anton", ORDER, "operator"]);
    let error = block_on(desk.office.engine.enable(ABORT, Slot::Card(CardState::Processing), &operator())).unwrap_err();
    assert!(matches!(error, Error::NotPermitted { .. }), "{error}");
    let values = OptionSource::Script(String::new());
    let error = block_on(desk.office.engine.set_options(ORDER_SCRIPT, values, &operator())).unwrap_err();
    assert!(matches!(error, Error::NotPermitted { .. }), "{error}");
    desk.has_done_nothing();
}

#[test]
fn object_that_is_not_permitted_is_refused_alone() {
    let desk = Desk::with(|builder| builder.access(Spares { id: user_item("u2"), decisions: None }));
    let (report, outcomes) = desk.office.run(ORDER, &operator(), Answer::ids(["u1", "u2", "u3"].map(user_item)));
    refused(&outcomes[1].1, RefusalCode::NotPermitted, &["u2 is spared"]);
    assert_eq!(report.done_in_all(), 2);
    assert_eq!(desk.cards().len(), 2);
}

#[test]
fn policy_that_decides_on_too_few_objects_permits_none() {
    let desk = Desk::with(|builder| builder.access(Spares { id: user_item("u2"), decisions: Some(1) }));
    let (report, outcomes) = desk.office.run(ORDER, &operator(), Answer::ids(["u1", "u3"].map(user_item)));
    assert_eq!(report.refused.get(&RefusalCode::NotPermitted), Some(&2));
    refused(&outcomes[0].1, RefusalCode::NotPermitted, &["1 decisions", "2 objects"]);
    desk.has_done_nothing();
}

// ---- states ------------------------------------------------------------------------------------------------------

#[test]
fn wrong_state_is_refused() {
    let desk = Desk::new();
    let card = desk.office.order("u1");
    let before = desk.office.card(card);
    for (process, allowed) in [(UPDATE, "ordered or in production"), (REPEAT, "failed")] {
        let outcome = desk.office.one(process, &operator(), ItemId::Card(card), &[]);
        refused(&outcome, RefusalCode::WrongState, &[&card.to_string(), "is processing", process, allowed]);
    }
    assert_eq!(desk.office.card(card), before);
    desk.office.sync(SYNC_ORDERS);
    let outcome = desk.office.one(ABORT, &operator(), ItemId::Card(card), &[]);
    refused(&outcome, RefusalCode::WrongState, &["is ordered", "processing"]);
}

#[test]
fn state_in_which_a_process_is_not_offered_is_refused() {
    let desk = Desk::new();
    let card = desk.office.order("u1");
    desk.office.sync(SYNC_ORDERS);
    block_on(desk.office.engine.disable(UPDATE, Slot::Card(CardState::Ordered), &administrator())).expect("it fits");
    let outcome = desk.office.one(UPDATE, &operator(), ItemId::Card(card), &[]);
    refused(&outcome, RefusalCode::NotOffered, &[UPDATE, "ordered", "cards in production"]);
    assert_eq!(desk.office.bureau.calls().status, 0);
}

#[test]
fn busy_card_is_refused() {
    let desk = Desk::with(|builder| builder.package(ProcessPackage::new().process(Touch::new())));
    let card = desk.office.order("u1");
    desk.office.clock.advance(Duration::from_secs(120));
    let before = desk.office.card(card);
    let outcome = desk.office.one(TOUCH, &operator(), ItemId::Card(card), &[]);
    refused(&outcome, RefusalCode::Busy, &[&card.to_string(), "being ordered since", "(2 min)"]);
    assert_eq!(desk.office.card(card), before);
}

#[test]
fn order_that_is_being_sent_is_not_aborted() {
    let desk = Desk::new();
    let card = desk.office.order("u1");
    let claimed =
        block_on(desk.store.claim(&ClaimRequest::new("another", 1, Duration::from_secs(60)))).expect("claims");
    assert_eq!(claimed.len(), 1);
    let before = desk.office.card(card);
    let outcome = desk.office.one(ABORT, &operator(), ItemId::Card(card), &[]);
    refused(&outcome, RefusalCode::BeingSent, &[&card.to_string(), "cannot be aborted"]);
    assert_eq!(desk.office.card(card), before);
}

#[test]
fn card_in_doubt_is_refused_and_never_sent_again() {
    let desk = Desk::with(|builder| builder.package(ProcessPackage::new().process(Touch::new())));
    let office = &desk.office;
    let card = office.order("u1");
    office.bureau.next_place(PlaceScript::LoseReplyAfterAccepting);
    assert_eq!(office.sync(SYNC_ORDERS).in_doubt, 1);
    let before = office.card(card);
    for process in [TOUCH, ABORT] {
        let outcome = office.one(process, &operator(), ItemId::Card(card), &[]);
        refused(&outcome, RefusalCode::InDoubt, &[&card.to_string(), "settle that first"]);
    }
    office.clock.advance(Duration::from_secs(24 * 3600));
    assert_eq!(office.sync(SYNC_ORDERS).items, 0);
    assert_eq!(office.card(card), before);
    assert_eq!(office.bureau.calls().placed_orders, 1);
}

#[test]
fn what_is_not_in_doubt_is_not_settled() {
    let desk = Desk::new();
    let card = desk.office.order("u1");
    let before = desk.office.card(card);
    let values = [("resolution", "give up"), ("reason", "I was told")];
    let outcome = desk.office.one(RESOLVE, &operator(), ItemId::Card(card), &values);
    refused(&outcome, RefusalCode::NotInDoubt, &["is open", "nothing to settle"]);
    assert_eq!(desk.office.card(card), before);
}

#[test]
fn user_who_is_not_active_is_refused() {
    let desk = Desk::new();
    let outcome = desk.office.one(ORDER, &operator(), user_item("gone"), &[]);
    refused(&outcome, RefusalCode::UserNotActive, &["gone", "is inactive", "only active"]);
    let outcome = desk.office.one_new(&[("amount", "1"), ("user", "gone")]);
    refused(&outcome, RefusalCode::UserNotActive, &["gone", "is inactive"]);
    desk.has_done_nothing();
}

// ---- selections --------------------------------------------------------------------------------------------------

#[test]
fn empty_selection_is_refused() {
    let desk = Desk::new();
    for (process, answer) in [
        (ORDER, Answer::new()),
        (ORDER, Answer::ids([])),
        (ABORT, Answer::ids([])),
        (APPROVAL, Answer::new().with("decision", "approve")),
        (ORDER_TEMPORARY, Answer::ids([]).with("amount", "3")),
        (SYNC_ORDERS, Answer::ids([])),
    ] {
        let error = desk.office.try_run(process, &operator(), answer).unwrap_err();
        assert!(matches!(error, Error::Answer(AnswerError::NothingSelected { .. })), "{process}: {error}");
        says(&error, &["nothing is selected"]);
    }
    desk.has_done_nothing();
}

#[test]
fn selection_that_matches_nothing_ends_at_once() {
    let desk = Desk::new();
    let nobody = UserFilter { text: vec![TextPrefix::new("lastName", "nobody")], ..UserFilter::default() };
    let (report, outcomes) = desk.office.run(ORDER, &operator(), Answer::all(Filter::Users(nobody)));
    assert_eq!((report.items, report.interrupted, outcomes), (0, None, Vec::new()));
    desk.has_done_nothing();
}

#[test]
fn ids_that_do_not_exist_are_refused() {
    let desk = Desk::new();
    let (card, request, job) = (CardId::new(uuid(1)), RequestId::new(uuid(2)), JobId::new(uuid(3)));
    let settle = [("resolution", "give up"), ("reason", "r")];
    for (process, item, values) in [
        (ORDER, user_item("nobody"), &[][..]),
        (ABORT, ItemId::Card(card), &[]),
        (APPROVAL, ItemId::Request(request), &[("decision", "approve")]),
        (ABORT_REQUEST, ItemId::Request(request), &[]),
        (RESOLVE, ItemId::Job(job), &settle),
        (SYNC_ORDERS, ItemId::Job(job), &[]),
    ] {
        let outcome = desk.office.one(process, &operator(), item.clone(), values);
        refused(&outcome, RefusalCode::NotFound, &[&item.to_string(), "does not exist"]);
    }
    let outcome = desk.office.one_new(&[("amount", "1"), ("user", "nobody")]);
    refused(&outcome, RefusalCode::NotFound, &["user nobody does not exist"]);
    desk.has_done_nothing();
}

#[test]
fn same_id_twice_counts_once() {
    let desk = Desk::new();
    let (report, outcomes) = desk.office.run(ORDER, &operator(), Answer::ids(["u1", "u2", "u1"].map(user_item)));
    assert_eq!((report.items, report.done_in_all(), outcomes.len()), (2, 2, 2));
    assert_eq!(desk.cards().len(), 2);
    let card = ItemId::Card(desk.cards()[0].id);
    let (report, _) = desk.office.run(ABORT, &operator(), Answer::ids([card.clone(), card]));
    assert_eq!((report.items, report.done_in_all()), (1, 1));
}

#[test]
fn card_and_its_own_job_in_one_selection_are_settled_once() {
    for job_first in [false, true] {
        let desk = Desk::new();
        let card = desk.office.order("u1");
        desk.office.bureau.next_place(PlaceScript::LoseReplyBeforeAccepting);
        desk.office.sync(SYNC_ORDERS);
        let job = desk.office.card(card).busy.expect("it is in doubt").job;
        let mut items = [ItemId::Card(card), ItemId::Job(job)];
        if job_first {
            items.reverse();
        }
        let answer = Answer::ids(items).with("resolution", "give up").with("reason", "r");
        let (report, _) = desk.office.run(RESOLVE, &operator(), answer);
        assert_eq!((report.done_in_all(), report.refused_in_all()), (1, 1), "{report:?}");
        assert_eq!(desk.office.state(card), CardState::Failed);
        let codes = desk.office.history(card);
        assert_eq!(codes.iter().filter(|code| *code == "given_up").count(), 1, "{codes:?}");
    }
}

#[test]
fn selection_of_the_wrong_kind_is_refused() {
    let desk = Desk::new();
    let card = ItemId::Card(CardId::new(uuid(1)));
    for (process, answer, found, allowed) in [
        (ORDER, Answer::ids([user_item("u1"), card]), "cards", "users"),
        (ORDER, Answer::all(Filter::Cards(CardQuery::default())), "cards", "users"),
        (ABORT, Answer::ids([user_item("u1")]), "users", "cards"),
        (APPROVAL, Answer::all(Filter::Users(UserFilter::default())).with("decision", "approve"), "users", "requests"),
        (SYNC_ORDERS, Answer::ids([ItemId::New(1)]), "new objects", "jobs"),
    ] {
        let error = desk.office.try_run(process, &operator(), answer).unwrap_err();
        assert!(matches!(error, Error::Answer(AnswerError::WrongKind { .. })), "{process}: {error}");
        says(&error, &[found, allowed]);
    }
    desk.has_done_nothing();
}

#[test]
fn card_attribute_that_is_not_searchable_is_refused() {
    let desk = Desk::new();
    for (name, shown) in [("email", "email".to_owned()), (&"x".repeat(100_000), "x".repeat(100))] {
        let query = CardQuery { text: vec![TextPrefix::new(name, "a")], ..CardQuery::default() };
        let error = desk.office.try_run(ABORT, &operator(), Answer::all(Filter::Cards(query.clone()))).unwrap_err();
        assert!(matches!(error, Error::Answer(AnswerError::NotSearchable { .. })), "{error}");
        says(&error, &[&shown, "number", "lastName"]);
        assert!(error.to_string().len() < 400);
        let error = block_on(desk.office.engine.card_page(&query, None, 10)).unwrap_err();
        assert!(matches!(error, Error::Answer(AnswerError::NotSearchable { .. })), "{error}");
    }
}

// ---- answers -----------------------------------------------------------------------------------------------------

#[test]
fn amount_that_is_not_one_to_nine_is_refused() {
    let desk = Desk::new();
    let nines = "9".repeat(1000);
    for amount in ["0", "10", "three", "-1", "3.5", "1e1", " 3", "٣", "3\0", "18446744073709551617", &nines] {
        let answer = Answer::new().with("amount", amount);
        let error = desk.office.try_run(ORDER_TEMPORARY, &operator(), answer).unwrap_err();
        assert!(matches!(error, Error::Answer(AnswerError::NotAllowed { .. })), "{amount}: {error}");
        let found: String = amount.escape_debug().take(100).collect();
        says(&error, &["`amount`", &found, "1 to 9"]);
    }
    for answer in [Answer::new(), Answer::new().with("amount", ""), Answer::new().with("amount", "  ")] {
        let error = desk.office.try_run(ORDER_TEMPORARY, &operator(), answer).unwrap_err();
        assert!(matches!(error, Error::Answer(AnswerError::Missing { .. })), "{error}");
        says(&error, &["`amount`", "1 to 9"]);
    }
    desk.has_done_nothing();
}

#[test]
fn new_objects_are_not_ticked_past_the_amount() {
    let desk = Desk::new();
    let answer = Answer::ids((1..=100).map(ItemId::New)).with("amount", "1");
    let error = desk.office.try_run(ORDER_TEMPORARY, &operator(), answer).unwrap_err();
    assert!(matches!(error, Error::Answer(AnswerError::WrongKind { .. })), "{error}");
    says(&error, &["new objects by number", "amount"]);
    desk.has_done_nothing();
}

#[test]
fn production_type_that_is_not_offered_is_refused() {
    let desk = Desk::new();
    for (process, answer, chosen, offered) in [
        (ORDER, Answer::ids([user_item("u1")]), "visitor", "standard"),
        (ORDER_TEMPORARY, Answer::new().with("amount", "1"), "standard", "visitor"),
    ] {
        let answer = answer.with("productionType", chosen);
        let error = desk.office.try_run(process, &operator(), answer).unwrap_err();
        assert!(matches!(error, Error::Answer(AnswerError::NotAllowed { .. })), "{error}");
        says(&error, &["`productionType`", chosen, offered]);
    }
    desk.has_done_nothing();
}

#[test]
fn production_type_that_a_function_does_not_offer_for_the_item_is_refused() {
    let desk = Desk::new();
    let text = "CardsAddonExtProdProductionType = function(card, user) return 7 end";
    desk.office.script(ORDER_SCRIPT, text);
    let outcome = desk.office.one(ORDER, &operator(), user_item("u1"), &[]);
    refused(&outcome, RefusalCode::OptionFailed, &["CardsAddonExtProdProductionType", "7"]);
    desk.has_done_nothing();
}

#[test]
fn production_type_that_the_bureau_does_not_know_is_refused() {
    for approval in ["false", "true"] {
        let desk = Desk::new();
        let text = format!("CardsAddonExtProdProductionType = \"gold\"\nCardsAddonExtProdApproval = {approval}");
        desk.office.script(ORDER_SCRIPT, &text);
        desk.office.script(TEMPORARY_SCRIPT, "TempCardsAddonExtProdProductionType = \"gold\"");
        let outcome = desk.office.one(ORDER, &operator(), user_item("u1"), &[]);
        refused(&outcome, RefusalCode::ProductionType, &["`gold`", "standard, visitor"]);
        let outcome = desk.office.one_new(&[("amount", "1")]);
        refused(&outcome, RefusalCode::ProductionType, &["`gold`", "standard, visitor"]);
        desk.has_done_nothing();
    }
}

#[test]
fn required_card_element_that_is_missing_is_refused() {
    for name in [None, Some(""), Some(" \t ")] {
        let desk = Desk::new();
        let mut user = person(1);
        user.attributes.remove("commonName");
        user.attributes.extend(name.map(|name| ("commonName".to_owned(), name.to_owned())));
        desk.office.users.put(user);
        let outcome = desk.office.one(ORDER, &operator(), user_item("u1"), &[]);
        refused(&outcome, RefusalCode::CardElement, &["`NAME`", "`standard`", "required", "`commonName` is empty"]);
        desk.has_done_nothing();
    }
}

#[test]
fn card_element_that_is_too_long_is_refused() {
    let desk = Desk::new();
    desk.office.users.put(with_attribute(person(1), "commonName", &"ö".repeat(41)));
    desk.office.users.put(with_attribute(person(2), "employeeNumber", "E1234567890"));
    desk.office.users.put(with_attribute(person(3), "commonName", &"🙂".repeat(40)));
    let (_, outcomes) = desk.office.run(ORDER, &operator(), Answer::ids(["u1", "u2"].map(user_item)));
    refused(&outcomes[0].1, RefusalCode::CardElement, &["`NAME`", "`standard`", "41 characters", "at most 40"]);
    refused(&outcomes[1].1, RefusalCode::CardElement, &["`EMPLOYEE`", "11 characters", "at most 10"]);
    desk.has_done_nothing();
    assert!(matches!(desk.office.one(ORDER, &operator(), user_item("u3"), &[]), Outcome::Done { .. }));
}

#[test]
fn card_number_that_does_not_fit_on_the_card_is_refused_before_it_is_drawn() {
    let range = NumberRange::new([(1, 9)]).expect("a range").prefix("ELEVEN-LONG").padding(2);
    let desk = Desk::with(|builder| builder.number_range(CardKind::Permanent, range));
    let outcome = desk.office.one(ORDER, &operator(), user_item("u1"), &[]);
    refused(&outcome, RefusalCode::CardElement, &["`NUMBER`", "13 characters", "at most 12"]);
    desk.has_done_nothing();
}

#[test]
fn reject_without_reason_is_refused() {
    let desk = Desk::new();
    let (card, request) = desk.requested("u1");
    for reason in [None, Some(""), Some(" \n ")] {
        let answer = Answer::ids([ItemId::Request(request)]).with("decision", "reject");
        let answer = reason.map_or(answer.clone(), |reason| answer.with("reason", reason));
        let error = desk.office.try_run(APPROVAL, &approver(), answer).unwrap_err();
        assert!(
            matches!(&error, Error::Answer(AnswerError::Missing { field, .. }) if field == "reason"),
            "{reason:?}: {error}"
        );
        says(&error, &["`reason`", "must be answered"]);
    }
    assert_eq!(desk.office.state(card), CardState::Requested);
    assert_eq!(desk.request(request).state(), RequestState::Open);
}

#[test]
fn approver_who_is_the_requester_or_the_holder_is_refused() {
    let desk = Desk::new();
    let (card, request) = desk.requested("u1");
    let login = |name: &str| ActorId::new(name).expect("a login");
    let second_login = Actor::person(login("olga.admin"), user_id("p-olga"), approver().roles);
    let holder = Actor::person(login("first"), user_id("u1"), approver().roles);
    for (actor, who) in [(&second_login, "requester"), (&holder, "holder")] {
        for values in [&[("decision", "approve")][..], &[("decision", "reject"), ("reason", "no")]] {
            let outcome = desk.office.one(APPROVAL, actor, ItemId::Request(request), values);
            let words = [actor.id.as_str(), who, &request.to_string(), "cannot decide"];
            refused(&outcome, RefusalCode::Person, &words);
        }
    }
    let outcome = desk.office.one(ABORT_REQUEST, &approver(), ItemId::Request(request), &[]);
    refused(&outcome, RefusalCode::Person, &[&request.to_string(), "requester only"]);
    assert_eq!(desk.office.state(card), CardState::Requested);
    assert_eq!(desk.request(request).state(), RequestState::Open);
}

#[test]
fn unknown_field_in_the_answer_is_refused() {
    let desk = Desk::new();
    for (process, answer, field, allowed) in [
        (ORDER, Answer::ids([user_item("u1")]).with("amount", "1"), "amount", "`productionType`"),
        (ORDER_TEMPORARY, Answer::new().with("Amount", "1"), "Amount", "`amount`, `user`, `productionType`"),
        (SYNC_ORDERS, Answer::new().with("x", "1"), "x", "none"),
    ] {
        let error = desk.office.try_run(process, &operator(), answer).unwrap_err();
        assert!(matches!(error, Error::Answer(AnswerError::UnknownField { .. })), "{error}");
        says(&error, &[field, allowed]);
    }
    let error = desk.office.try_run(SYNC_ORDERS, &service(), Answer::new().with("x".repeat(1 << 20), "")).unwrap_err();
    assert!(error.to_string().len() < 400, "{} bytes of message", error.to_string().len());
    desk.has_done_nothing();
}

#[test]
fn answers_with_nul_or_a_megabyte_of_text_are_refused() {
    let desk = Desk::new();
    let (card, request) = desk.requested("u1");
    let long = "x".repeat(1 << 20);
    for (field, value) in [("reason", "no\0way"), ("reason", &long), ("decision", "approve\0"), ("decision", &long)] {
        let answer = Answer::ids([ItemId::Request(request)]).with("decision", "reject").with(field, value);
        let error = desk.office.try_run(APPROVAL, &approver(), answer.with(field, value)).unwrap_err();
        assert!(matches!(error, Error::Answer(AnswerError::NotAllowed { .. })), "{field}: {error}");
        assert!(error.to_string().len() < 400 && !error.to_string().contains('\0'), "{field}");
        says(&error, &[field, "allowed is"]);
    }
    let answer = Answer::new().with("amount", "1").with("user", "u1\0");
    let error = desk.office.try_run(ORDER_TEMPORARY, &operator(), answer).unwrap_err();
    assert!(matches!(error, Error::Answer(AnswerError::NotAllowed { .. })), "{error}");
    assert_eq!(desk.office.state(card), CardState::Requested);
    assert_eq!(desk.cards().len(), 1);
}

// ---- others at the same time ------------------------------------------------------------------------------------------

#[test]
fn stale_object_is_loaded_and_planned_again() {
    let desk = Desk::new();
    let (first, second) = (desk.office.order("u1"), desk.office.order("u2"));
    let mut meddles = 0;
    desk.tricks.set(move |changes| match changes.cards.iter().find(|card| card.id == first) {
        Some(_) if meddles < 2 => {
            meddles += 1;
            Trick::ChangeFirst(first)
        }
        _ => Trick::None,
    });
    let (report, _) = desk.office.run(ABORT, &operator(), Answer::ids([first, second].map(ItemId::Card)));
    assert_eq!(report.done.get("aborted"), Some(&2), "{report:?}");
    assert_eq!(desk.office.history(first), ["created", "order_decided", "meddled", "meddled", "order_taken_back"]);
}

#[test]
fn object_that_is_stale_again_and_again_is_refused_alone() {
    let desk = Desk::new();
    let (first, second) = (desk.office.order("u1"), desk.office.order("u2"));
    desk.tricks.set(move |changes| match changes.cards.iter().find(|card| card.id == first) {
        Some(_) => Trick::ChangeFirst(first),
        None => Trick::None,
    });
    let (_, outcomes) = desk.office.run(ABORT, &operator(), Answer::ids([first, second].map(ItemId::Card)));
    let words = [&first.to_string()[..], "changed by others", "again and again"];
    refused(&outcomes[0].1, RefusalCode::ChangedMeanwhile, &words);
    assert!(matches!(outcomes[1].1, Outcome::Done { .. }));
    desk.tricks.none();
    assert_eq!((desk.office.state(first), desk.office.state(second)), (CardState::Processing, CardState::Aborted));
    assert_eq!(desk.office.sync(SYNC_ORDERS).done.get("ordered"), Some(&1), "the order still stands");
}

#[test]
fn run_id_used_again_for_something_else_is_refused() {
    let desk = Desk::new();
    let first = Answer::ids([user_item("u1")]);
    desk.run_as(1, ORDER, &operator(), first.clone()).expect("the first use");
    for (process, actor, answer, what, found, given) in [
        (ORDER_TEMPORARY, operator(), Answer::new().with("amount", "1"), "process", ORDER, ORDER_TEMPORARY),
        (ORDER, administrator(), first.clone(), "actor", "olga", "ada"),
        (ORDER, operator(), Answer::ids([user_item("u2")]), "answer", "", ""),
        (ORDER, operator(), first.clone().with("productionType", "standard"), "answer", "", ""),
    ] {
        let error = desk.run_as(1, process, &actor, answer).unwrap_err();
        assert!(matches!(&error, Error::RunTaken { what: differs, .. } if *differs == what), "{error}");
        says(&error, &[&run_id(1).to_string(), what, found, given]);
    }
    assert_eq!(desk.cards().len(), 1);
    let (report, _) = desk.run_as(1, ORDER, &operator(), first).expect("the same again");
    assert_eq!((report.done_earlier, desk.cards().len()), (1, 1));
}

#[test]
fn run_id_used_twice_at_once_for_two_things_does_one() {
    let desk = Desk::new();
    let engine = &desk.office.engine;
    let (first, second) = block_on(async {
        let run = engine.open_as(run_id(1), ORDER, &operator()).await.expect("it opens");
        let first = engine.next(&run, Answer::ids([user_item("u1")])).await.expect("the answer fits");
        let second = engine.next(&run, Answer::ids([user_item("u2")])).await.expect("nobody has begun yet");
        (first.finish().await.expect("done"), second.finish().await.expect("a report"))
    });
    assert_eq!(first.done_in_all(), 1);
    assert_eq!((second.done_in_all(), second.refused_in_all()), (0, 1), "{second:?}");
    assert!(matches!(&second.interrupted, Some(Interruption::Failed(why)) if why.contains("with another answer")));
    assert_eq!(desk.cards().len(), 1);
}

// ---- store and directory -----------------------------------------------------------------------------------------

#[test]
fn store_unavailable_in_mid_batch_can_be_continued() {
    each_commit_fails_once(|| Trick::Unavailable, true);
}

#[test]
fn commit_of_unknown_outcome_that_was_not_stored_is_made_again() {
    each_commit_fails_once(|| Trick::UnknownNotStored, false);
}

#[test]
fn commit_of_unknown_outcome_that_was_stored_is_not_doubled() {
    each_commit_fails_once(|| Trick::UnknownStored, false);
}

/// Orders for ten users in chunks of four, with the k-th commit failing, for every k; then goes on under the same run id.
fn each_commit_fails_once(trick: fn() -> Trick, interrupts: bool) {
    let everyone = || Answer::ids((1..=10).map(|number| user_item(&format!("u{number}"))));
    for k in 1..=6_u32 {
        let desk = Desk::new();
        let mut count = 0;
        desk.tricks.set(move |_| {
            count += 1;
            if count == k { trick() } else { Trick::None }
        });
        let (report, outcomes) = desk.run_as(1, ORDER, &operator(), everyone()).expect("a report");
        assert_eq!((report.items, outcomes.len()), (10, 10), "every item has an outcome: {report:?}");
        assert_eq!(report.interrupted.is_some(), interrupts, "commit {k}: {report:?}");
        if report.interrupted.is_some() {
            let chunks_before = u64::from((k - 1) / 2);
            assert_eq!(report.done_in_all(), (4 * chunks_before).min(10), "commit {k}");
            let (_, last) = &outcomes[9];
            refused(last, RefusalCode::Store, &["failed", "store is away"]);
            assert_eq!(desk.cards().len() as u64, report.done_in_all());
        }
        let (again, _) = desk.run_as(1, ORDER, &operator(), everyone()).expect("the same run");
        assert_eq!(again.interrupted, None);
        assert_eq!(again.refused_in_all(), 0, "{again:?}");
        assert_eq!(again.done_in_all() + again.done_earlier, 10, "commit {k}: {again:?}");
        let cards = desk.cards();
        let numbers: std::collections::BTreeSet<_> = cards.iter().filter_map(|card| card.number.as_ref()).collect();
        let holders: std::collections::BTreeSet<_> = cards.iter().filter_map(|card| card.holder.as_ref()).collect();
        assert_eq!((cards.len(), numbers.len(), holders.len(), desk.jobs().len()), (10, 10, 10, 10), "commit {k}");
        for card in &cards {
            assert_eq!(desk.office.history(card.id), ["created", "order_decided"]);
        }
        assert_eq!(desk.office.sync(SYNC_ORDERS).done.get("ordered"), Some(&10));
        assert_eq!(desk.office.bureau.ledger().len(), 10);
    }
}

#[test]
fn commit_of_unknown_outcome_that_was_stored_is_still_sent_by_the_same_run() {
    let desk = Desk::new();
    desk.office.script(ORDER_SCRIPT, "CardsAddonExtProdQueueCards = false");
    let mut first = true;
    desk.tricks.set(move |changes| match !changes.cards.is_empty() && std::mem::take(&mut first) {
        true => Trick::UnknownStored,
        false => Trick::None,
    });
    let (report, _) = desk.office.run(ORDER, &operator(), Answer::ids(["u1", "u2"].map(user_item)));
    assert_eq!((report.done.get("ordered"), report.interrupted), (Some(&2), None));
    assert_eq!(desk.office.bureau.ledger().len(), 2);
}

#[test]
fn store_that_stays_away_ends_the_run_and_reports_every_item() {
    let desk = Desk::new();
    desk.tricks.set(|_| Trick::UnknownNotStored);
    let (report, outcomes) =
        desk.office.run(ORDER, &operator(), Answer::ids((1..=9).map(|n| user_item(&format!("u{n}")))));
    assert!(matches!(&report.interrupted, Some(Interruption::Failed(why)) if why.contains("unknown")), "{report:?}");
    assert_eq!((outcomes.len(), report.refused.get(&RefusalCode::Store)), (9, Some(&9)));
    desk.has_done_nothing();
}

#[test]
fn stopped_run_reports_the_rest_and_can_be_continued() {
    let desk = Desk::new();
    let answer = || Answer::ids((1..=10).map(|n| user_item(&format!("u{n}"))));
    let outcomes = block_on(async {
        let run = desk.office.engine.open_as(run_id(1), ORDER, &operator()).await.expect("opens");
        let mut execution = desk.office.engine.next(&run, answer()).await.expect("fits");
        let mut outcomes = execution.next_chunk().await.expect("works").expect("a chunk");
        execution.stop_handle().stop();
        while let Some(chunk) = execution.next_chunk().await.expect("works") {
            outcomes.extend(chunk);
        }
        assert_eq!(execution.report().interrupted, Some(Interruption::Stopped));
        assert_eq!(execution.report().refused.get(&RefusalCode::Stopped), Some(&6));
        outcomes
    });
    assert_eq!((outcomes.len(), desk.cards().len()), (10, 4));
    refused(&outcomes[9].1, RefusalCode::Stopped, &["stopped before"]);
    let (report, _) = desk.run_as(1, ORDER, &operator(), answer()).expect("continues");
    assert_eq!((report.done_earlier, report.done_in_all(), desk.cards().len()), (4, 6, 10));
}

#[test]
fn answer_of_the_bureau_survives_a_store_that_fails_while_it_is_stored() {
    for trick in [|| Trick::Unavailable, || Trick::UnknownNotStored, || Trick::UnknownStored] {
        let desk = Desk::new();
        let card = desk.office.order("u1");
        let mut left = 2;
        desk.tricks.set(move |changes| {
            left -= i32::from(left > 0 && !changes.cards.is_empty());
            if left == 1 && !changes.cards.is_empty() { trick() } else { Trick::None }
        });
        desk.office.sync(SYNC_ORDERS);
        desk.tricks.none();
        assert_eq!(desk.office.state(card), CardState::Ordered);
        desk.office.sync(SYNC_ORDERS);
        assert_eq!((desk.office.bureau.calls().placed_orders, desk.office.mail.sent().len()), (1, 1));
    }
}

#[test]
fn directory_unavailable_refuses_the_items_at_hand_and_can_be_continued() {
    let directory = Directory::new();
    let desk = Desk::with(|builder| builder.users(directory.clone()));
    let answer = || Answer::ids((1..=6).map(|n| user_item(&format!("u{n}"))));
    for trouble in [AWAY, SILENT] {
        directory.set(trouble);
        let (report, outcomes) = desk.run_as(1, ORDER, &operator(), answer()).expect("a report");
        assert_eq!((report.refused.get(&RefusalCode::Store), outcomes.len()), (Some(&6), 6), "{report:?}");
        refused(&outcomes[0].1, RefusalCode::Store, &["loading users failed", "directory is unavailable"]);
        assert!(matches!(&report.interrupted, Some(Interruption::Failed(why)) if why.contains("directory")));
        let everyone = Filter::Users(UserFilter::default());
        let (report, _) = desk.office.run(ORDER, &operator(), Answer::all(everyone.clone()));
        assert!(matches!(&report.interrupted, Some(Interruption::Failed(why)) if why.contains("searching users")));
        let error = block_on(async {
            let run = desk.office.engine.open(ORDER, &operator()).await?;
            desk.office.engine.search(&run, &everyone, None, 5).await.map(|_| ())
        });
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Directory { source: DirectoryError::Unavailable { .. }, .. }), "{error}");
        assert!(error.is_transient());
        desk.has_done_nothing();
    }
    directory.set(CALM);
    let (report, _) = desk.run_as(1, ORDER, &operator(), answer()).expect("continues");
    assert_eq!((report.done_in_all(), desk.cards().len()), (6, 6));
}

#[test]
fn directory_unavailable_while_sending_sends_nothing_and_loses_nothing() {
    let directory = Directory::new();
    let desk = Desk::with(|builder| builder.users(directory.clone()));
    let card = desk.office.order("u1");
    directory.set(AWAY);
    let report = desk.office.sync(SYNC_ORDERS);
    assert!(matches!(&report.interrupted, Some(Interruption::Failed(why)) if why.contains("directory")), "{report:?}");
    assert_eq!((desk.office.bureau.calls().place, desk.office.state(card)), (0, CardState::Processing));
    directory.set(CALM);
    assert_eq!(desk.office.sync(SYNC_ORDERS).done.get("ordered"), Some(&1), "the claim was given back");
}

#[test]
fn directory_that_goes_away_between_two_calls_leaves_what_was_sent_in_the_report() {
    for queued in [true, false] {
        let directory = Directory::new();
        let desk = Desk::with(|builder| builder.users(directory.clone()));
        desk.office.script(ORDER_SCRIPT, &format!("CardsAddonExtProdQueueCards = {queued}"));
        let answer = Answer::ids((1..=4).map(|n| user_item(&format!("u{n}"))));
        // Orders go out three in a call, each with one look at the users; the run itself looks once.
        let report = if queued {
            desk.office.run(ORDER, &operator(), answer);
            directory.away_after(1);
            desk.office.sync(SYNC_ORDERS)
        } else {
            directory.away_after(2);
            desk.office.run(ORDER, &operator(), answer).0
        };
        assert!(
            matches!(&report.interrupted, Some(Interruption::Failed(why)) if why.contains("directory")),
            "{report:?}"
        );
        assert_eq!(report.done.get("ordered"), Some(&3), "{report:?}");
        assert_eq!(desk.office.bureau.ledger().len(), 3);
        let waits = desk.cards().into_iter().find(|card| card.state() == CardState::Processing).expect("one waits");
        let outcome = desk.office.one(ABORT, &operator(), ItemId::Card(waits.id), &[]);
        assert!(matches!(outcome, Outcome::Done { .. }), "nobody is sending it: {outcome:?}");
    }
}

#[test]
fn search_for_pages_of_nothing_still_comes_to_an_end() {
    let desk = Desk::new();
    let (found, next) = block_on(async {
        let run = desk.office.engine.open(ORDER, &operator()).await.expect("opens");
        let everyone = Filter::Users(UserFilter::default());
        let page = desk.office.engine.search(&run, &everyone, None, 0).await.expect("searches");
        (page.found.len(), page.next)
    });
    assert_eq!((found, next.is_some()), (1, true));
    desk.office.order("u1");
    desk.office.order("u2");
    let page = block_on(async {
        let run = desk.office.engine.open(ABORT, &operator()).await.expect("opens");
        desk.office.engine.search(&run, &Filter::Cards(CardQuery::default()), None, 0).await.expect("searches")
    });
    assert_eq!((page.found.len(), page.next.is_some()), (1, true));
}

#[test]
fn endless_time_out_is_taken_as_very_long() {
    let settings = EngineSettings::new().call_time_out(Duration::MAX).lease(Duration::MAX).poll_interval(Duration::MAX);
    let desk = Desk::with(|builder| builder.settings(settings));
    let card = desk.office.order("u1");
    desk.office.sync(SYNC_ORDERS);
    assert_eq!(desk.office.state(card), CardState::Ordered);
}

#[test]
fn expired_search_cursor_is_an_error_of_its_own() {
    let desk = Desk::new();
    let search = |process: &'static str, filter: Filter, cursor: &'static str| {
        let engine = &desk.office.engine;
        block_on(async {
            let run = engine.open(process, &operator()).await?;
            engine.search(&run, &filter, Some(cursor), 5).await.map(|_| ())
        })
        .unwrap_err()
    };
    let error = search(ORDER, Filter::Users(UserFilter::default()), "\0");
    assert!(matches!(error, Error::Directory { source: DirectoryError::CursorExpired, .. }), "{error}");
    let error = search(ABORT, Filter::Cards(CardQuery::default()), "nonsense");
    assert!(matches!(error, Error::Answer(AnswerError::NotAllowed { .. })), "{error}");
    says(&error, &["cursor", "nonsense", "page before"]);
}

// ---- the bureau --------------------------------------------------------------------------------------------------

#[test]
fn bureau_that_refuses_fails_the_card() {
    let desk = Desk::new();
    let card = desk.office.order("u1");
    desk.office.bureau.next_place(PlaceScript::Refuse("no such article".to_owned()));
    assert_eq!(desk.office.sync(SYNC_ORDERS).done.get("failed"), Some(&1));
    let failed = desk.office.card(card);
    assert_eq!(failed.failure.expect("it says why").cause, "no such article");
    assert!(failed.busy.is_none() && failed.reservations.is_empty());
    assert_eq!(desk.held("open-order/u1"), None, "the user may order again");
    desk.office.clock.advance(Duration::from_secs(24 * 3600));
    assert_eq!(desk.office.sync(SYNC_ORDERS).items, 0, "a final no is not tried again");
    assert_eq!((desk.office.bureau.ledger().len(), desk.office.mail.sent().len()), (0, 0));
}

#[test]
fn bureau_that_is_unavailable_is_tried_again_later() {
    let desk = Desk::new();
    let cards = ["u1", "u2", "u3", "u4"].map(|user| desk.office.order(user));
    let until = desk.store_now() + chrono::TimeDelta::minutes(10);
    desk.office.bureau.outage(until);
    let report = desk.office.sync(SYNC_ORDERS);
    assert_eq!(
        report.done_in_all() + report.in_doubt,
        u64::from(report.done.contains_key("processing")) * 3,
        "{report:?}"
    );
    assert_eq!(desk.office.bureau.calls().place, 1, "it is not asked again in the same sync");
    assert!(cards.iter().all(|card| desk.office.state(*card) == CardState::Processing));
    assert!(desk.jobs().iter().all(|job| job.state == JobState::Open && job.attempt.is_none() && job.claim.is_none()));
    let outcome = desk.office.one(ABORT, &operator(), ItemId::Card(cards[0]), &[]);
    assert!(matches!(outcome, Outcome::Done { .. }), "it can be taken back: {outcome:?}");
    desk.office.clock.advance(Duration::from_secs(3600));
    assert_eq!(desk.office.sync(SYNC_ORDERS).done.get("ordered"), Some(&3));
    assert_eq!(desk.office.bureau.ledger().len(), 3);
}

#[test]
fn bureau_that_limits_the_rate_is_asked_again_when_it_says() {
    let desk = Desk::new();
    let card = desk.office.order("u1");
    desk.office.bureau.next_place(PlaceScript::RateLimited(Duration::from_secs(1000)));
    desk.office.sync(SYNC_ORDERS);
    assert_eq!(desk.office.state(card), CardState::Processing);
    desk.office.clock.advance(Duration::from_secs(990));
    assert_eq!(desk.office.sync(SYNC_ORDERS).items, 0);
    desk.office.clock.advance(Duration::from_secs(11));
    assert_eq!(desk.office.sync(SYNC_ORDERS).done.get("ordered"), Some(&1));
    assert_eq!(desk.office.bureau.calls().place, 2);
}

#[test]
fn bureau_that_wants_to_be_left_alone_forever_does_not_stop_the_office() {
    for wait in [Duration::MAX, Duration::from_secs(9_000_000_000_000), Duration::from_secs(u64::from(u32::MAX) * 900)]
    {
        let desk = Desk::new();
        let card = desk.office.order("u1");
        desk.office.bureau.next_place(PlaceScript::RateLimited(wait));
        assert_eq!(desk.office.sync(SYNC_ORDERS).interrupted, Some(Interruption::HeldBack));
        assert_eq!(desk.office.state(card), CardState::Processing);
        let second = desk.office.order("u2");
        desk.office.sync(SYNC_ORDERS);
        assert_eq!(desk.office.state(second), CardState::Ordered);
        desk.office.bureau.behave(BureauBehaviour::calm().status_rate_limited(1000).retry_after(wait));
        desk.office.clock.advance(Duration::from_secs(3600));
        assert_eq!(desk.office.sync(SYNC_STATUS).interrupted, Some(Interruption::HeldBack));
    }
}

#[test]
fn bureau_that_is_silent_leaves_the_order_in_doubt() {
    for script in [PlaceScript::Silent, PlaceScript::Late(Duration::MAX)] {
        let desk = Desk::new();
        let card = desk.office.order("u1");
        desk.office.bureau.next_place(script);
        assert_eq!(desk.office.sync(SYNC_ORDERS).in_doubt, 1);
        let doubts = block_on(desk.office.engine.doubts(None, 10)).expect("readable");
        assert_eq!(doubts.len(), 1);
        assert!(doubts[0].remark.as_ref().is_some_and(|remark| remark.contains("did not answer in time")));
        assert!(desk.office.card(card).busy.is_some_and(|busy| busy.in_doubt));
        desk.office.clock.advance(Duration::from_secs(24 * 3600));
        assert_eq!(desk.office.sync(SYNC_ORDERS).items, 0);
        assert_eq!(desk.office.bureau.calls().place, 1);
    }
}

#[test]
fn bureau_that_gives_no_status_changes_nothing() {
    let desk = Desk::new();
    let card = desk.office.order("u1");
    desk.office.sync(SYNC_ORDERS);
    let before = desk.office.card(card);
    desk.office.bureau.outage(desk.store_now() + chrono::TimeDelta::days(1));
    let outcome = desk.office.one(UPDATE, &operator(), ItemId::Card(card), &[]);
    assert!(matches!(&outcome, Outcome::Refused(refusal) if refusal.code == RefusalCode::HeldBack), "{outcome:?}");
    assert_eq!(desk.office.card(card), before);
}

#[test]
fn words_of_the_bureau_are_kept_without_nul_and_not_endlessly() {
    let hostile = format!("no\0 {}", "x".repeat(1 << 20));
    let desk = Desk::new();
    let card = desk.office.order("u1");
    desk.office.bureau.next_place(PlaceScript::Refuse(hostile.clone()));
    desk.office.sync(SYNC_ORDERS);
    let cause = desk.office.card(card).failure.expect("it failed").cause;
    assert!(cause.starts_with("no\u{fffd} xx") && cause.len() < 2000, "{} bytes", cause.len());

    let card = desk.office.order("u2");
    desk.office.sync(SYNC_ORDERS);
    let order_id = desk.office.bureau.ledger()[0].order_id.clone();
    assert!(desk.office.bureau.set_status(&order_id, hostile));
    let outcome = desk.office.one(UPDATE, &operator(), ItemId::Card(card), &[]);
    assert!(matches!(outcome, Outcome::Unchanged { .. }), "{outcome:?}");
    let order = desk.office.card(card).order.expect("it was ordered");
    let kept = order.status.into_iter().chain(order.unknown_statuses);
    assert!(kept.map(|text| text.len()).sum::<usize>() < 4000);
    assert!(!serde_json::to_string(&desk.jobs()).expect("jobs are data").contains("\\u0000"));
}

#[test]
fn order_id_that_is_none_leaves_the_order_in_doubt() {
    for order_id in ["", "  ", "GC\0-1", &"9".repeat(100_000)] {
        let desk = Desk::with(|builder| builder.bureau(Accepts { order_id: order_id.to_owned() }));
        let card = desk.office.order("u1");
        assert_eq!(desk.office.sync(SYNC_ORDERS).in_doubt, 1);
        let doubts = block_on(desk.office.engine.doubts(None, 10)).expect("readable");
        let remark = doubts[0].remark.clone().expect("it says why");
        assert!(remark.contains("no order id") && remark.len() < 400 && !remark.contains('\0'), "{remark}");
        assert_eq!(desk.office.state(card), CardState::Processing);
        let values = [("resolution", "accepted"), ("orderId", "GC-1"), ("reason", "they told me")];
        desk.office.one(RESOLVE, &operator(), ItemId::Card(card), &values);
        assert_eq!(desk.office.state(card), CardState::Ordered);
    }
}

#[test]
fn bureau_that_answers_for_too_few_orders_leaves_all_in_doubt() {
    let desk = Desk::with(|builder| builder.bureau(Accepts { order_id: "one for all".to_owned() }));
    desk.office.order("u1");
    desk.office.order("u2");
    assert_eq!(desk.office.sync(SYNC_ORDERS).in_doubt, 2);
}

#[test]
fn number_range_that_is_exhausted_refuses_the_rest() {
    let range = NumberRange::new([(1, 6)]).expect("a range").excluding([2]);
    let desk = Desk::with(|builder| builder.number_range(CardKind::Permanent, range));
    let everyone = Answer::ids((1..=10).map(|n| user_item(&format!("u{n}"))));
    let (report, outcomes) = desk.office.run(ORDER, &operator(), everyone);
    assert_eq!((report.done_in_all(), report.refused.get(&RefusalCode::NumbersExhausted)), (5, Some(&5)));
    refused(&outcomes[9].1, RefusalCode::NumbersExhausted, &["number range", "permanent cards", "exhausted"]);
    assert_eq!((desk.cards().len(), desk.jobs().len()), (5, 5));
    assert_eq!(desk.held("open-order/u10"), None);
    assert!(matches!(desk.office.one_new(&[("amount", "1")]), Outcome::Done { .. }), "temporary cards have their own");
}

// ---- the CA --------------------------------------------------------------------------------------------------------

/// An office with the embedded CA, whose own certificate is good until then, and a machine of the test's choice.
fn with_embedded_ca(until: &str, profiles: [&str; 2]) -> (Office, Machine) {
    let (store, clock) = store();
    let time = |text: &str| text.parse().expect("a time");
    let identity = CaIdentity::self_signed("Example card CA", time("2026-01-01T00:00:00Z"), time(until));
    let builder = LocalCa::builder(identity.expect("a root")).sealing_key(Secret::new(vec![7; 32]));
    let ca = block_on(builder.open(MemoryJournal::new(), Arc::new(clock.clone()))).expect("the CA opens");
    let machine = Machine::new(&clock);
    let [logon, signature] = profiles.map(str::to_owned);
    let rules = rules()
        .certificate_profiles([(CertificateKind::Authentication, logon), (CertificateKind::Signature, signature)]);
    let office = Office::on(store, clock, |builder| {
        builder.certificate_authority(ca).personalizer(machine.clone()).rules(rules)
    });
    (Office { personalizer: machine.inner.clone(), ..office }, machine)
}

/// Why a card failed that was put aside without a certificate.
fn not_issued(office: &Office, card: CardId) -> String {
    let (report, _) = office.run(ISSUE, &operator(), Answer::ids([ItemId::Card(card)]));
    assert_eq!((report.done.get("failed"), report.interrupted.as_ref()), (Some(&1), None), "{report:?}");
    assert_eq!(office.certificates(card), []);
    assert_eq!(office.personalizer.ledger()[0].state, HandleState::Discarded);
    assert_eq!(office.personalizer.calls().finish, 0);
    office.card(card).failure.expect("it failed").cause
}

#[test]
fn profile_that_the_ca_does_not_have_fails_the_card() {
    let (office, _) = with_embedded_ca("2040-01-01T00:00:00Z", ["badge", "signature"]);
    let card = office.request("u1");
    says(&not_issued(&office, card), &["there is no profile \"badge\"", "authentication", "signature", "encryption"]);
}

#[test]
fn request_that_the_ca_cannot_read_fails_the_card() {
    let garbage = "-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n";
    let (office, machine) = with_embedded_ca("2040-01-01T00:00:00Z", ["authentication", "signature"]);
    machine.next_prepared(move |prepared| {
        let kinds = [CertificateKind::Authentication, CertificateKind::Signature];
        prepared.requests = kinds.map(|kind| (kind, garbage.to_owned())).into();
    });
    let card = office.request("u1");
    says(&not_issued(&office, card), &["the request is not a PKCS#10 request"]);
    // A machine whose requests are for trials only.
    office.personalizer.behave(PersonalizerBehaviour::calm().makes_keys(true));
    let outcome = office.one(REPEAT_PRODUCTION, &operator(), ItemId::Card(card), &[]);
    assert!(matches!(&outcome, Outcome::Done { state, .. } if state == "failed"), "{outcome:?}");
    says(&office.card(card).failure.expect("it failed").cause, &["the request is not PEM"]);
    // A machine that leaves the keys to the CA.
    office.personalizer.behave(PersonalizerBehaviour::calm());
    office.one(REPEAT_PRODUCTION, &operator(), ItemId::Card(card), &[]);
    assert_eq!(office.state(card), CardState::Issued);
}

#[test]
fn validity_past_that_of_the_ca_ends_with_the_ca() {
    let (office, _) = with_embedded_ca("2031-01-01T00:00:00Z", ["authentication", "signature"]);
    let (card, late) = (office.request("u1"), office.request("u2"));
    office.one(ISSUE, &operator(), ItemId::Card(card), &[]);
    let ends: Vec<_> = office.certificates(card).iter().map(|made| made.issued.valid_until.to_rfc3339()).collect();
    assert_eq!(ends, ["2031-01-01T00:00:00+00:00"; 2]);
    assert!(office.card(card).valid_until.is_some_and(|until| until.to_rfc3339() > ends[0]));
    // When the CA is over, so are its certificates, and it issues no others: the card waits until the CA is renewed.
    office.clock.advance(Duration::from_secs(400 * 24 * 3600));
    let outcome = office.one(ACTIVATE, &operator(), ItemId::Card(card), &[]);
    refused(&outcome, RefusalCode::Expired, &["the certificate for ", "2031-01-01"]);
    office.one(ISSUE, &operator(), ItemId::Card(late), &[]);
    assert_eq!((office.state(late), office.certificates(late)), (CardState::Approved, vec![]));
    let remark = jobs(&office, JobKind::IssueCertificate)
        .into_iter()
        .find_map(|job| job.remark.filter(|_| job.card == Some(late)));
    says(&remark.expect("why"), &["2031-01-01"]);
}

// ---- people ------------------------------------------------------------------------------------------------------

#[test]
fn ten_thousand_attributes_of_a_user_cost_little_and_only_the_mapped_ones_are_copied() {
    let desk = Desk::new();
    let many = |number| {
        let extra = (0..10_000).map(|n| (format!("attribute{n}"), format!("\0value {n}")));
        let User { id, state, mut attributes } = person(number);
        attributes.extend(extra);
        User { id, state, attributes }
    };
    (1..=4).for_each(|number| desk.office.users.put(many(number)));
    let begun = Instant::now();
    let (report, _) = desk.office.run(ORDER, &operator(), Answer::ids(["u1", "u2"].map(user_item)));
    assert_eq!(report.done_in_all(), 2, "{report:?}");
    assert!(desk.cards().iter().all(|card| card.attributes.len() == 5));
    let text = "CardsAddonExtProdQueueCards = function(card, user) return user.attribute9999 ~= \"\\0value 9999\" end";
    desk.office.script(ORDER_SCRIPT, text);
    let (report, _) = desk.office.run(ORDER, &operator(), Answer::ids(["u3", "u4"].map(user_item)));
    assert_eq!(report.done.get("ordered"), Some(&2), "the script sees them: {report:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn names_with_emoji_and_right_to_left_marks_reach_the_card_as_they_are() {
    let names = [
        "👩‍🚀 Zoë",
        "\u{200f}שרה כהן\u{200e}",
        "\u{202e}evil\u{202c}",
        "محمد",
        "a\u{301}e\u{308}",
        "李雷",
        "'; DROP TABLE cards; --",
    ];
    let desk = Desk::new();
    for (number, name) in (1..).zip(names) {
        desk.office.users.put(with_attribute(person(number), "commonName", name));
    }
    let (report, _) = desk.office.run(ORDER, &operator(), Answer::ids((1..=7).map(|n| user_item(&format!("u{n}")))));
    assert_eq!(report.done_in_all(), 7, "{report:?}");
    desk.office.sync(SYNC_ORDERS);
    let mut printed: Vec<String> =
        desk.office.bureau.ledger().iter().map(|entry| entry.elements["NAME"].clone()).collect();
    let mut expected = names.map(str::to_owned).to_vec();
    printed.sort();
    expected.sort();
    assert_eq!(printed, expected);
    for name in names {
        let query = CardQuery { text: vec![TextPrefix::new("commonName", name)], ..CardQuery::default() };
        let found = block_on(desk.office.engine.card_page(&query, None, 10)).expect("searchable");
        assert_eq!(found.len(), 1, "{name}");
    }
}

#[test]
fn nul_in_a_user_attribute_is_refused_before_anything_is_stored() {
    let desk = Desk::new();
    desk.office.users.put(with_attribute(person(1), "lastName", "Bobby\0Tables"));
    let (report, outcomes) = desk.office.run(ORDER, &operator(), Answer::ids(["u1", "u2"].map(user_item)));
    refused(&outcomes[0].1, RefusalCode::CardElement, &["u1", "`lastName`", "NUL"]);
    assert_eq!((report.done_in_all(), desk.cards().len()), (1, 1), "the others go on");
    assert_eq!(desk.held("open-order/u1"), None);
    assert!(UserId::new("u\0").is_err() && ActorId::new("o\0").is_err());
}

#[test]
fn user_attribute_longer_than_a_card_keeps_is_refused() {
    let desk = Desk::new();
    desk.office.users.put(with_attribute(person(1), "lastName", &"ß".repeat(1025)));
    desk.office.users.put(with_attribute(person(2), "lastName", &"ß".repeat(1024)));
    desk.office.users.put(with_attribute(person(3), "upn", &"x".repeat(1 << 20)));
    let (_, outcomes) = desk.office.run(ORDER, &operator(), Answer::ids(["u1", "u2", "u3"].map(user_item)));
    refused(&outcomes[0].1, RefusalCode::CardElement, &["u1", "`lastName`", "1025 characters", "at most 1024"]);
    assert!(matches!(outcomes[1].1, Outcome::Done { .. }));
    refused(&outcomes[2].1, RefusalCode::CardElement, &["u3", "`upn`", "1048576", "at most 1024"]);
    assert_eq!(desk.cards().len(), 1);
}

#[test]
fn repeated_order_is_refused_when_the_user_has_nul_in_an_attribute_by_now() {
    let desk = Desk::new();
    let card = desk.office.order("u1");
    desk.office.bureau.next_place(PlaceScript::Refuse("no".to_owned()));
    desk.office.sync(SYNC_ORDERS);
    let before = desk.office.card(card);
    desk.office.users.put(with_attribute(person(1), "email", "a\0b"));
    let outcome = desk.office.one(REPEAT, &operator(), ItemId::Card(card), &[]);
    refused(&outcome, RefusalCode::CardElement, &["u1", "`email`", "NUL"]);
    assert_eq!(desk.office.card(card), before);
}

// ---- sizes and serialized values -------------------------------------------------------------------------------------

#[test]
fn chunks_of_every_size_around_the_selection_do_the_same() {
    for count in [1_usize, 3, 4, 5, 8, 9] {
        for chunk in [1, 2, count - 1, count, count + 1, 1000] {
            let mut settings = EngineSettings::new();
            settings.chunk = chunk;
            let desk = Desk::with(|builder| builder.settings(settings));
            let commits = Arc::new(Mutex::new(0));
            let counted = Arc::clone(&commits);
            desk.tricks.set(move |changes| {
                *counted.lock().expect("not poisoned") += i32::from(!changes.cards.is_empty());
                Trick::None
            });
            let answer = Answer::ids((1..=count).map(|n| user_item(&format!("u{n}"))));
            let (report, outcomes) = desk.office.run(ORDER, &operator(), answer);
            assert_eq!((report.done_in_all(), outcomes.len()), (count as u64, count), "{count} in chunks of {chunk}");
            assert_eq!(*commits.lock().expect("not poisoned") as usize, count.div_ceil(chunk.max(1)));
            assert_eq!(desk.cards().len(), count);
        }
    }
}

#[test]
fn altered_run_is_refused() {
    type Change = fn(&mut Run);
    let changes: [(&str, Change); 5] = [
        ("id", |run| run.id = run_id(77)),
        ("process", |run| run.process = SymbolicName::new(ORDER_TEMPORARY).expect("a name")),
        ("actor", |run| run.actor = approver()),
        ("options", |run| run.options.clear()),
        ("an option", |run| drop(run.options.insert(ORDER_SCRIPT.to_owned(), "../../etc".to_owned()))),
    ];
    for (what, change) in changes {
        let desk = Desk::with(|builder| builder.chain_key(ChainKey::new(b"key of the house")));
        let mut run = block_on(desk.office.engine.open(ORDER, &operator())).expect("it opens");
        change(&mut run);
        let found = block_on(desk.office.engine.next(&run, Answer::ids([user_item("u1")]))).map(|_| ());
        assert!(matches!(found, Err(Error::RunOutdated { .. })), "{what}: {found:?}");
        let found =
            block_on(desk.office.engine.search(&run, &Filter::Users(UserFilter::default()), None, 5)).map(|_| ());
        assert!(matches!(found, Err(Error::RunOutdated { .. })), "{what}: {found:?}");
        desk.has_done_nothing();
    }
}

#[test]
fn run_that_was_opened_before_the_options_changed_is_opened_again() {
    let desk = Desk::new();
    let run = block_on(desk.office.engine.open(ORDER, &operator())).expect("it opens");
    desk.office.script(ORDER_SCRIPT, "CardsAddonExtProdApproval = true");
    let error = block_on(desk.office.engine.next(&run, Answer::ids([user_item("u1")]))).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::RunOutdated { .. }), "{error}");
    says(&error, &["the options have changed", "open the process again"]);
    assert!(desk.cards().is_empty());
}

#[test]
fn forged_form_in_a_run_counts_for_nothing() {
    let desk = Desk::new();
    let error = block_on(async {
        let mut run = desk.office.engine.open(ORDER_TEMPORARY, &operator()).await?;
        run.form.fields.clear();
        desk.office.engine.next(&run, Answer::new()).await.map(|_| ())
    })
    .unwrap_err();
    assert!(matches!(error, Error::Answer(AnswerError::Missing { .. })), "{error}");
    desk.has_done_nothing();
}

#[test]
fn mutated_runs_and_answers_never_panic_and_never_double() {
    let desk = Desk::new();
    let engine = &desk.office.engine;
    let card = desk.office.order("u10");
    let (_, request) = desk.requested("u9");
    let originals: Vec<(&str, Value)> = [
        (ORDER, Answer::ids([user_item("u1"), user_item("u2")]).with("productionType", "standard")),
        (ORDER, Answer::all(Filter::Users(UserFilter { text: vec![TextPrefix::new("lastName", "a")], active: None }))),
        (ORDER_TEMPORARY, Answer::new().with("amount", "3").with("user", "u1")),
        (ABORT, Answer::ids([ItemId::Card(card)])),
        (ABORT, Answer::all(Filter::Cards(CardQuery { states: vec![CardState::Processing], ..CardQuery::default() }))),
        (APPROVAL, Answer::ids([ItemId::Request(request)]).with("decision", "reject").with("reason", "no")),
        (SYNC_ORDERS, Answer::new()),
    ]
    .into_iter()
    .map(|(process, answer)| (process, json!(answer)))
    .collect();
    let mutation = || (any::<prop::sample::Index>(), junk());
    let mutations = || prop::collection::vec(mutation(), 0..3);
    let (worked, number) = (Mutex::new(0_u32), Mutex::new(0_u128));
    proptest!(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() }, |(
        original in prop::sample::select(originals),
        run_mutations in mutations(),
        answer_mutations in mutations(),
    )| {
        let (process, mut answer) = original;
        // Three of four times another run, else one that was begun before.
        *number.lock().expect("not poisoned") += 1;
        let number = *number.lock().expect("not poisoned");
        let id = run_id(number - number % 4 / 3);
        let Ok(run) = block_on(engine.open_as(id, process, &operator())) else { return Ok(()) };
        let mut run = json!(run);
        for (place, junk) in &run_mutations {
            mutate(&mut run, place, junk);
        }
        for (place, junk) in &answer_mutations {
            mutate(&mut answer, place, junk);
        }
        let (Ok(run), Ok(answer)) = (serde_json::from_value(run), serde_json::from_value::<Answer>(answer)) else {
            return Ok(());
        };
        if let Ok(execution) = block_on(engine.next(&run, answer)) {
            let report = block_on(execution.finish()).expect("a report");
            *worked.lock().expect("not poisoned") += u32::from(report.items > 0);
        }
    });
    let worked = *worked.lock().expect("not poisoned");
    assert!(worked > 50, "the mutations leave too little to do: {worked}");
    desk.office.sync(SYNC_ORDERS);
    let cards = desk.cards();
    let numbers: std::collections::BTreeSet<_> = cards.iter().filter_map(|card| card.number.as_ref()).collect();
    assert_eq!(numbers.len(), cards.len());
    for card in &cards {
        desk.office.history(card.id);
    }
    let open: Vec<_> =
        cards.iter().filter(|card| card.is_open_order()).filter_map(|card| card.holder.clone()).collect();
    let holders: std::collections::BTreeSet<_> = open.iter().collect();
    assert_eq!(open.len(), holders.len(), "nobody has two open orders");
    let ledger = desk.office.bureau.ledger();
    assert!(ledger.iter().all(|entry| desk.office.bureau.productions_for(&entry.reference) == 1));
}

/// What stands where something else should.
fn junk() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "u1",
            "u3",
            "standard",
            "visitor",
            "9",
            "0",
            "\0",
            "nothing",
            "approve",
            ORDER,
            ABORT,
            UPDATE,
            RESOLVE,
            SYNC_ORDERS,
            SYNC_STATUS,
            "olga",
            "number",
            "active",
            "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        ])
        .prop_map(Value::from),
        prop::sample::select(vec![
            json!({ "ids": [{ "user": "u4" }, { "user": "u5" }] }),
            json!({ "ids": [{ "new": 4_294_967_295_u32 }] }),
            json!({ "all": { "users": {} } }),
            json!({ "all": { "cards": { "text": [{ "name": "number", "prefix": "" }] } } }),
            json!({ "all": { "requests": {} } }),
            json!("nothing"),
        ]),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{0,8}", inner, 0..3).prop_map(|map| json!(map)),
        ]
    })
}

fn mutate(value: &mut Value, place: &prop::sample::Index, junk: &Value) {
    fn count(value: &Value) -> usize {
        1 + match value {
            Value::Array(items) => items.iter().map(count).sum(),
            Value::Object(fields) => fields.values().map(count).sum(),
            _ => 0,
        }
    }
    fn put(value: &mut Value, left: &mut usize, junk: &Value) {
        if *left == 0 {
            *value = junk.clone();
        }
        *left = left.wrapping_sub(1);
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| put(item, left, junk)),
            Value::Object(fields) => fields.values_mut().for_each(|field| put(field, left, junk)),
            _ => {}
        }
    }
    let mut left = place.index(count(value));
    put(value, &mut left, junk);
}

// ---- the desk ----------------------------------------------------------------------------------------------------

/// An office whose store can be looked into and can be made to fail.
struct Desk {
    office: Office,
    store: MemoryRepository,
    tricks: Tricks,
}

impl Desk {
    fn new() -> Self {
        Self::with(|builder| builder)
    }

    fn with(change: impl FnOnce(EngineBuilder) -> EngineBuilder) -> Self {
        let clock = clock();
        let store = MemoryRepository::new(Arc::new(clock.clone()));
        let tricks = Tricks::default();
        let tricky = TrickyRepository { store: store.clone(), tricks: tricks.clone() };
        let office = Office::on(tricky, clock, change);
        office.script(TEMPORARY_SCRIPT, "TempCardsAddonExtProdProductionType = \"visitor\"");
        Self { office, store, tricks }
    }

    fn cards(&self) -> Vec<Card> {
        block_on(self.store.card_page(&CardQuery::default(), None, usize::MAX)).expect("cards can be read")
    }

    fn jobs(&self) -> Vec<Job> {
        block_on(self.store.job_page(&JobQuery::default(), None, usize::MAX)).expect("jobs can be read")
    }

    fn request(&self, id: RequestId) -> ApprovalRequest {
        block_on(self.store.requests(&[id])).expect("requests can be read").remove(0)
    }

    /// Who holds a key.
    fn held(&self, key: &str) -> Option<String> {
        let held = block_on(self.store.reservations(&[key.to_owned()])).expect("reservations can be read");
        held.into_iter().next().map(|held| held.owner)
    }

    fn store_now(&self) -> chrono::DateTime<chrono::Utc> {
        cardwright::host::Clock::now(&self.office.clock)
    }

    /// Nothing but the administrator's settings and the runs themselves was ever stored, nobody holds anything, and the bureau heard nothing.
    fn has_done_nothing(&self) {
        let feed = block_on(self.store.changes_since(None, usize::MAX)).expect("the feed can be read");
        let done: Vec<&HistoryEntry> = feed
            .entries
            .iter()
            .map(|entry| &entry.entry)
            .filter(|e| !matches!(e.object, ObjectId::Record(_) | ObjectId::Run(_)))
            .collect();
        assert!(done.is_empty(), "{done:?}");
        assert!(self.cards().is_empty() && self.jobs().is_empty());
        for number in 1..=10 {
            assert_eq!(self.held(&format!("open-order/u{number}")), None);
            assert_eq!(self.held(&format!("number/C{number:08}")), None);
            assert_eq!(self.held(&format!("number/T{number:08}")), None);
        }
        assert_eq!(self.office.bureau.calls().place, 0);
        assert!(self.office.mail.sent().is_empty());
    }

    /// A card that waits for approval, asked for by the operator.
    fn requested(&self, user: &str) -> (CardId, RequestId) {
        self.office.script(ORDER_SCRIPT, "CardsAddonExtProdApproval = true");
        let card = self.office.order(user);
        self.office.script(ORDER_SCRIPT, "CardsAddonExtProdApproval = false");
        (card, self.office.card(card).request.expect("it has a request"))
    }

    fn run_as(
        &self,
        id: u128,
        process: &str,
        actor: &Actor,
        answer: Answer,
    ) -> Result<(Report, Vec<(ItemId, Outcome)>), Error> {
        block_on(async {
            let run = self.office.engine.open_as(run_id(id), process, actor).await?;
            let mut execution = self.office.engine.next(&run, answer).await?;
            let mut outcomes = Vec::new();
            while let Some(chunk) = execution.next_chunk().await? {
                outcomes.extend(chunk);
            }
            Ok((execution.report().clone(), outcomes))
        })
    }
}

impl Office {
    /// Orders temporary cards and gives the outcome of the first.
    fn one_new(&self, values: &[(&str, &str)]) -> Outcome {
        let answer = values.iter().fold(Answer::new(), |answer, (field, value)| answer.with(*field, *value));
        self.run(ORDER_TEMPORARY, &operator(), answer).1.remove(0).1
    }
}

#[track_caller]
fn refused(outcome: &Outcome, code: RefusalCode, words: &[&str]) {
    match outcome {
        Outcome::Refused(refusal) if refusal.code == code => says(refusal, words),
        other => panic!("refused as {code}, not {other:?}"),
    }
}

#[track_caller]
fn says(message: &impl Display, words: &[&str]) {
    let message = message.to_string();
    for word in words {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
}

fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn with_attribute(mut user: User, name: &str, value: &str) -> User {
    user.attributes.insert(name.to_owned(), value.to_owned());
    user
}

/// A process of the host's that takes any card in any state.
struct Touch(ProcessDefinition);

const TOUCH: &str = "HostProcTouch";

impl Touch {
    fn new() -> Self {
        let name = SymbolicName::new(TOUCH).expect("a name");
        Self(ProcessDefinition::new(name, "Touch", "Host", ItemKind::Card).fits([Slot::Batch]))
    }
}

impl Process for Touch {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }

    fn fields(&self, _: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        Vec::new()
    }

    fn needs(&self) -> Needs {
        Needs::nothing()
    }

    fn plan(&self, _: Item, _: &PlanContext<'_>) -> Result<Plan, Refusal> {
        Ok(Plan::unchanged("touched"))
    }
}

/// A bureau that answers each call with one acceptance, under an order id of the test's choice.
struct Accepts {
    order_id: String,
}

#[async_trait]
impl GoCardsProvider for Accepts {
    fn placement(&self) -> Placement {
        Placement::NotIdempotent
    }

    async fn place(&self, _: &[CardOrder]) -> Vec<PlaceOutcome> {
        vec![PlaceOutcome::Accepted(Accepted { order_id: self.order_id.clone(), card_id: None })]
    }

    async fn status(&self, _: &[String]) -> Vec<StatusOutcome> {
        Vec::new()
    }

    async fn find(&self, _: &str) -> FindOutcome {
        FindOutcome::CannotLook
    }
}

/// Says no for one object; may give too few decisions.
struct Spares {
    id: ItemId,
    decisions: Option<usize>,
}

#[async_trait]
impl AccessPolicy for Spares {
    async fn may_start(&self, _: &Actor, _: &SymbolicName) -> Decision {
        Decision::Yes
    }

    async fn may(&self, _: &Actor, _: &SymbolicName, objects: &[ItemId]) -> Vec<Decision> {
        let decide = |object: &ItemId| match object == &self.id {
            true => Decision::No { reason: format!("{object} is spared") },
            false => Decision::Yes,
        };
        objects.iter().take(self.decisions.unwrap_or(usize::MAX)).map(decide).collect()
    }
}

/// A directory that can be away or silent.
#[derive(Clone)]
pub(crate) struct Directory {
    users: MemoryUsers,
    trouble: Arc<AtomicU8>,
    /// How many calls are answered before it is away.
    answers: Arc<AtomicU8>,
}

pub(crate) const CALM: u8 = 0;
pub(crate) const AWAY: u8 = 1;
const SILENT: u8 = 2;

impl Directory {
    pub(crate) fn new() -> Self {
        Self { users: MemoryUsers::new((1..=10).map(person)), trouble: Arc::default(), answers: Arc::default() }
    }

    pub(crate) fn set(&self, trouble: u8) {
        self.trouble.store(trouble, Ordering::Relaxed);
    }

    fn away_after(&self, answers: u8) {
        self.answers.store(answers, Ordering::Relaxed);
        self.set(AWAY);
    }

    async fn trouble(&self) -> Result<(), DirectoryError> {
        match self.trouble.load(Ordering::Relaxed) {
            AWAY if self.answers.load(Ordering::Relaxed) > 0 => {
                self.answers.fetch_sub(1, Ordering::Relaxed);
                Ok(())
            }
            AWAY => Err(DirectoryError::Unavailable { reason: "the cable is out".to_owned() }),
            SILENT => futures::future::pending().await,
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl UserRepository for Directory {
    async fn users(&self, ids: &[UserId]) -> Result<Vec<User>, DirectoryError> {
        self.trouble().await?;
        self.users.users(ids).await
    }

    async fn search(
        &self,
        filter: &UserFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<UserPage, DirectoryError> {
        self.trouble().await?;
        self.users.search(filter, cursor, limit).await
    }

    async fn photo(&self, user: &UserId) -> Result<Option<Vec<u8>>, DirectoryError> {
        self.trouble().await?;
        self.users.photo(user).await
    }
}

/// What happens to a commit.
enum Trick {
    None,
    Unavailable,
    UnknownStored,
    UnknownNotStored,
    /// Another changes this card just before.
    ChangeFirst(CardId),
}

type Script = Box<dyn FnMut(&ChangeSet) -> Trick + Send>;

/// What happens to the commits to come.
#[derive(Clone, Default)]
struct Tricks(Arc<Mutex<Option<Script>>>);

impl Tricks {
    fn set(&self, script: impl FnMut(&ChangeSet) -> Trick + Send + 'static) {
        *self.0.lock().expect("not poisoned") = Some(Box::new(script));
    }

    fn none(&self) {
        *self.0.lock().expect("not poisoned") = None;
    }

    fn next(&self, changes: &ChangeSet) -> Trick {
        self.0.lock().expect("not poisoned").as_mut().map_or(Trick::None, |script| script(changes))
    }
}

/// A store whose commits go wrong as a test wants.
struct TrickyRepository {
    store: MemoryRepository,
    tricks: Tricks,
}

impl TrickyRepository {
    async fn change(&self, id: CardId) {
        let Some(mut card) = self.store.cards(&[id]).await.expect("readable").pop() else { return };
        let (actor, key) = (ActorId::new("another").expect("a login"), ChainKey::none());
        let process = SymbolicName::new("HostProcMeddle").expect("a name");
        let stamp = Stamp { at: card.created, actor: &actor, process: &process, run: None, key: &key };
        let mut changes = ChangeSet::new();
        changes.note_card(&mut card, &stamp, Why::code("meddled"));
        changes.put_card(card);
        self.store.commit(&changes).await.expect("nobody else is here");
    }
}

#[async_trait]
impl CardRepository for TrickyRepository {
    async fn commit(&self, changes: &ChangeSet) -> Result<(), CommitError> {
        let unknown = || RepositoryError::OutcomeUnknown { reason: "the store is away".to_owned(), source: None };
        match self.tricks.next(changes) {
            Trick::None => self.store.commit(changes).await,
            Trick::Unavailable => Err(RepositoryError::unavailable("the store is away").into()),
            Trick::UnknownStored => {
                self.store.commit(changes).await?;
                Err(unknown().into())
            }
            Trick::UnknownNotStored => Err(unknown().into()),
            Trick::ChangeFirst(card) => {
                self.change(card).await;
                self.store.commit(changes).await
            }
        }
    }

    async fn cards(&self, ids: &[CardId]) -> Result<Vec<Card>, RepositoryError> {
        self.store.cards(ids).await
    }

    async fn card_page(
        &self,
        query: &CardQuery,
        after: Option<CardId>,
        limit: usize,
    ) -> Result<Vec<Card>, RepositoryError> {
        self.store.card_page(query, after, limit).await
    }

    async fn cards_of(&self, holders: &[UserId], states: &[CardState]) -> Result<Vec<Card>, RepositoryError> {
        self.store.cards_of(holders, states).await
    }

    async fn requests(&self, ids: &[RequestId]) -> Result<Vec<ApprovalRequest>, RepositoryError> {
        self.store.requests(ids).await
    }

    async fn request_page(
        &self,
        query: &RequestQuery,
        after: Option<RequestId>,
        limit: usize,
    ) -> Result<Vec<ApprovalRequest>, RepositoryError> {
        self.store.request_page(query, after, limit).await
    }

    async fn certificates(&self, ids: &[CertificateId]) -> Result<Vec<Certificate>, RepositoryError> {
        self.store.certificates(ids).await
    }

    async fn certificate_page(
        &self,
        query: &CertificateQuery,
        after: Option<CertificateId>,
        limit: usize,
    ) -> Result<Vec<Certificate>, RepositoryError> {
        self.store.certificate_page(query, after, limit).await
    }

    async fn records(&self, keys: &[String]) -> Result<Vec<Record>, RepositoryError> {
        self.store.records(keys).await
    }

    async fn reservations(&self, keys: &[String]) -> Result<Vec<Reservation>, RepositoryError> {
        self.store.reservations(keys).await
    }

    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Job>, RepositoryError> {
        self.store.jobs(ids).await
    }

    async fn job_page(
        &self,
        query: &JobQuery,
        after: Option<JobId>,
        limit: usize,
    ) -> Result<Vec<Job>, RepositoryError> {
        self.store.job_page(query, after, limit).await
    }

    async fn backlog(&self, due_by: DateTime<Utc>, run: Option<RunId>) -> Result<Vec<Backlog>, RepositoryError> {
        self.store.backlog(due_by, run).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Job>, RepositoryError> {
        self.store.claim(request).await
    }

    async fn renew(&self, jobs: &[(JobId, u64)], lease: Duration) -> Result<Vec<JobId>, RepositoryError> {
        self.store.renew(jobs, lease).await
    }

    async fn release(&self, jobs: &[(JobId, u64)]) -> Result<(), RepositoryError> {
        self.store.release(jobs).await
    }

    async fn record_attempts(
        &self,
        attempts: &[(JobId, u64, Attempt)],
        lease: Duration,
    ) -> Result<Vec<Job>, RepositoryError> {
        self.store.record_attempts(attempts, lease).await
    }

    async fn history(&self, object: &ObjectId, after: u64, limit: usize) -> Result<Vec<HistoryEntry>, RepositoryError> {
        self.store.history(object, after, limit).await
    }

    async fn changes_since(&self, cursor: Option<&str>, limit: usize) -> Result<FeedPage, RepositoryError> {
        self.store.changes_since(cursor, limit).await
    }
}
