//! Orders whose outcome is unknown, orders that the bureau does not take for now, and who settles what.

use std::sync::Arc;
use std::time::Duration;

use cardwright::adapters::simulator::{BureauBehaviour, PlaceScript};
use cardwright::host::{CardQuery, PlaceOutcome};
use cardwright::process::{
    Answer, AnswerError, Field, HouseRules, Item, ItemId, ItemKind, Needs, Outcome, Plan, PlanContext, Process,
    ProcessDefinition, ProcessPackage, Refusal, RefusalCode, Slot,
};
use cardwright::{CardId, CardState, Error, FailurePhase, JobKind, JobState, ObjectId, SymbolicName, options};
use futures::FutureExt as _;
use futures::executor::block_on;

use crate::office::{
    ABORT, ORDER, ORDER_SCRIPT, Office, REPEAT, RESOLVE, SYNC_ORDERS, SYNC_STATUS, operator, service, user_item,
};
use crate::watched::{TestBureau, Watched, jobs, second, store};

const HOUR: Duration = Duration::from_secs(3600);

/// An office with a card whose order was sent and whose answer was lost.
fn lost(script: PlaceScript) -> (Office, CardId) {
    let office = Office::new();
    let card = office.order("u1");
    office.bureau.next_place(script);
    let report = office.sync(SYNC_ORDERS);
    assert_eq!(report.in_doubt, 1, "{report:?}");
    (office, card)
}

fn in_doubt(office: &Office) -> Vec<CardId> {
    let query = CardQuery { in_doubt: Some(true), ..CardQuery::default() };
    block_on(office.engine.card_page(&query, None, 100)).unwrap().into_iter().map(|card| card.id).collect()
}

fn code(outcome: &Outcome) -> RefusalCode {
    match outcome {
        Outcome::Refused(refusal) => refusal.code.clone(),
        other => panic!("refused, not {other:?}"),
    }
}

fn resolve(office: &Office, card: CardId, values: &[(&str, &str)]) -> Outcome {
    office.one(RESOLVE, &operator(), ItemId::Card(card), values)
}

fn references(office: &Office) -> Vec<String> {
    office.bureau.ledger().into_iter().map(|entry| entry.reference).collect()
}

/// A host's process that takes any card, but not a busy one.
struct AnyCard(ProcessDefinition);

impl AnyCard {
    fn package() -> ProcessPackage {
        let name = SymbolicName::new("TestLookAtCard").unwrap();
        let definition = ProcessDefinition::new(name, "Look at card", "Test", ItemKind::Card).fits([Slot::Batch]);
        ProcessPackage::new().process(Self(definition))
    }
}

impl Process for AnyCard {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }
    fn fields(&self, _: &options::ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        Vec::new()
    }
    fn needs(&self) -> Needs {
        Needs::nothing()
    }
    fn plan(&self, mut item: Item, _: &PlanContext<'_>) -> Result<Plan, Refusal> {
        Ok(Plan::unchanged(item.take_card()?.state().to_string()))
    }
}

#[test]
fn a_lost_answer_leaves_the_order_in_doubt_and_it_is_never_sent_again_by_itself() {
    for (script, accepted) in [(PlaceScript::LoseReplyAfterAccepting, 1), (PlaceScript::LoseReplyBeforeAccepting, 0)] {
        let (office, card) = lost(script);
        assert_eq!(office.state(card), CardState::Processing);
        assert!(office.card(card).busy.unwrap().in_doubt);
        assert_eq!(in_doubt(&office), [card]);
        let doubts = block_on(office.engine.doubts(None, 10)).unwrap();
        assert_eq!(doubts.len(), 1);
        assert_eq!((doubts[0].card, doubts[0].state), (Some(card), JobState::InDoubt));
        assert_eq!(office.history(card), ["created", "order_decided", "in_doubt"]);

        for _ in 0..5 {
            office.clock.advance(24 * HOUR);
            let report = office.sync(SYNC_ORDERS);
            assert_eq!(report.items, 0, "{report:?}");
            office.sync(SYNC_STATUS);
        }
        assert_eq!(office.bureau.calls().placed_orders, 1, "sent once");
        assert_eq!(office.bureau.ledger().len(), accepted);
        assert_eq!(in_doubt(&office), [card]);
    }
}

#[test]
fn a_word_about_one_doubt_settles_no_later_one() {
    let (office, card) = lost(PlaceScript::LoseReplyBeforeAccepting);
    let doubt = || block_on(office.engine.doubts(None, 10)).unwrap().remove(0).doubt();
    let settle = |item: ItemId, doubt: &str| {
        let values = [("doubt", doubt), ("resolution", "send again"), ("reason", "the bureau has no such order")];
        office.one(RESOLVE, &operator(), item, &values)
    };
    // Two people look at the same doubt. One settles it; the order is sent again, and its answer is lost again.
    let seen = doubt();
    assert!(matches!(settle(ItemId::Card(card), &seen), Outcome::Done { .. }));
    office.bureau.next_place(PlaceScript::LoseReplyAfterAccepting);
    office.clock.advance(HOUR);
    assert_eq!(office.sync(SYNC_ORDERS).in_doubt, 1);

    // What the other has to say was not said of this, whenever and for whatever it is said.
    let job = ItemId::Job(office.card(card).busy.unwrap().job);
    for (item, named) in [(ItemId::Card(card), seen.as_str()), (job.clone(), seen.as_str()), (job.clone(), "none")] {
        assert_eq!(code(&settle(item, named)), RefusalCode::ChangedMeanwhile);
    }
    let nothing = Answer::ids([job.clone()]).with("resolution", "send again").with("reason", "no").with("doubt", " ");
    let nothing = office.try_run(RESOLVE, &operator(), nothing);
    assert!(matches!(nothing, Err(Error::Answer(AnswerError::Missing { .. }))), "{nothing:?}");
    assert_eq!(in_doubt(&office), [card]);
    office.sync(SYNC_ORDERS);
    assert_eq!(office.bureau.ledger().len(), 1, "nothing was sent again");

    // Whoever names it has seen it; given up and ordered again, the card has another job, which may be in doubt too.
    let seen = doubt();
    let given_up = [("doubt", seen.as_str()), ("resolution", "give up"), ("reason", "it never came")];
    assert!(matches!(office.one(RESOLVE, &operator(), job, &given_up), Outcome::Done { .. }));
    office.one(REPEAT, &operator(), ItemId::Card(card), &[]);
    office.bureau.next_place(PlaceScript::LoseReplyAfterAccepting);
    assert_eq!(office.sync(SYNC_ORDERS).in_doubt, 1);
    assert_eq!(code(&settle(ItemId::Card(card), &seen)), RefusalCode::ChangedMeanwhile);
    assert!(
        matches!(settle(ItemId::Card(card), &format!("{seen} {}", doubt())), Outcome::Done { .. }),
        "one of several"
    );
}

#[test]
fn an_order_in_doubt_is_refused_by_everything_but_its_resolution() {
    let office = Office::with(|builder| builder.package(AnyCard::package()));
    let card = office.order("u1");
    let look = |office: &Office| office.one("TestLookAtCard", &operator(), ItemId::Card(card), &[]);
    assert_eq!(code(&look(&office)), RefusalCode::Busy, "waiting is busy");
    office.bureau.next_place(PlaceScript::LoseReplyAfterAccepting);
    office.sync(SYNC_ORDERS);

    assert_eq!(code(&look(&office)), RefusalCode::InDoubt);
    assert_eq!(code(&office.one(ABORT, &operator(), ItemId::Card(card), &[])), RefusalCode::InDoubt);
    assert_eq!(code(&office.one(ORDER, &operator(), user_item("u1"), &[])), RefusalCode::OpenOrder);
    assert_eq!(office.state(card), CardState::Processing, "nothing is lost");

    let resolution = [("resolution", "accepted"), ("orderId", "GC-000001"), ("reason", "asked them")];
    resolve(&office, card, &resolution);
    assert!(matches!(look(&office), Outcome::Unchanged { .. }));
}

#[test]
fn settled_as_accepted_the_order_is_followed_and_the_holder_told() {
    let (office, card) = lost(PlaceScript::LoseReplyAfterAccepting);
    let values = [("resolution", "accepted"), ("orderId", " GC-000001 "), ("reason", "on the phone")];
    let Outcome::Done { state, .. } = resolve(&office, card, &values) else { panic!() };
    assert_eq!(state, "ordered");
    let order = office.card(card).order.unwrap();
    assert_eq!(order.order_id.as_deref(), Some("GC-000001"));
    assert!(office.card(card).busy.is_none());
    assert_eq!(in_doubt(&office), []);
    assert_eq!(office.history(card), ["created", "order_decided", "in_doubt", "settled_accepted", "accepted"]);
    office.sync(SYNC_ORDERS);
    assert_eq!(office.mail.sent().len(), 1);
    office.clock.advance(10 * 24 * HOUR);
    office.sync(SYNC_STATUS);
    assert_eq!(office.state(card), CardState::Produced);
    assert_eq!(office.bureau.ledger().len(), 1);
}

#[test]
fn settled_as_not_accepted_it_is_sent_again_once_under_a_new_reference() {
    let (office, card) = lost(PlaceScript::LoseReplyBeforeAccepting);
    let first = jobs(&office, JobKind::PlaceOrder)[0].attempt.clone().unwrap().reference;
    let values = [("resolution", "send again"), ("reason", "they have nothing")];
    let Outcome::Done { state, .. } = resolve(&office, card, &values) else { panic!() };
    assert_eq!(state, "processing");
    assert_eq!(in_doubt(&office), []);

    office.sync(SYNC_ORDERS);
    office.sync(SYNC_ORDERS);
    assert_eq!(office.state(card), CardState::Ordered);
    assert_eq!(references(&office).len(), 1, "one more production");
    assert_ne!(references(&office)[0], first);
    assert_eq!(office.history(card), ["created", "order_decided", "in_doubt", "settled_send_again", "accepted"]);
}

#[test]
fn an_order_that_waits_to_be_sent_again_can_be_aborted() {
    let (office, card) = lost(PlaceScript::LoseReplyBeforeAccepting);
    resolve(&office, card, &[("resolution", "send again"), ("reason", "they have nothing")]);
    office.one(ABORT, &operator(), ItemId::Card(card), &[]);
    assert_eq!(office.state(card), CardState::Aborted);
    office.sync(SYNC_ORDERS);
    assert_eq!(office.bureau.ledger().len(), 0);
}

#[test]
fn given_up_the_card_has_failed_and_can_be_ordered_again() {
    let (office, card) = lost(PlaceScript::LoseReplyBeforeAccepting);
    resolve(&office, card, &[("resolution", "give up"), ("reason", "no longer wanted")]);
    let failed = office.card(card);
    assert_eq!(failed.state(), CardState::Failed);
    assert_eq!(failed.failure.unwrap().phase, FailurePhase::Ordering);
    assert!(failed.busy.is_none() && failed.reservations.is_empty());

    let Outcome::Done { .. } = office.one(REPEAT, &operator(), ItemId::Card(card), &[]) else { panic!() };
    office.sync(SYNC_ORDERS);
    assert_eq!(office.state(card), CardState::Ordered);

    let (office, card) = lost(PlaceScript::LoseReplyBeforeAccepting);
    resolve(&office, card, &[("resolution", "give up"), ("reason", "no longer wanted")]);
    let other = office.order("u1");
    assert_ne!(other, card, "the open order is free");
    assert_eq!(code(&office.one(REPEAT, &operator(), ItemId::Card(card), &[])), RefusalCode::OpenOrder);
}

#[test]
fn a_doubt_is_settled_with_a_reason_and_an_order_id_where_there_is_one() {
    let (office, card) = lost(PlaceScript::LoseReplyAfterAccepting);
    for (values, missing) in [
        (&[("resolution", "give up")][..], "reason"),
        (&[("resolution", "give up"), ("reason", "  ")], "reason"),
        (&[("reason", "asked")], "resolution"),
    ] {
        let answer = Answer::ids([ItemId::Card(card)]);
        let answer = values.iter().fold(answer, |answer, (field, value)| answer.with(*field, *value));
        match office.try_run(RESOLVE, &operator(), answer) {
            Err(Error::Answer(AnswerError::Missing { field, .. })) => assert_eq!(field, missing),
            other => panic!("{missing} is missing: {other:?}"),
        }
    }
    for order_id in [&[][..], &[("orderId", " ")], &[("orderId", "A\nB")]] {
        let values = [&[("resolution", "accepted"), ("reason", "asked")], order_id].concat();
        assert_eq!(code(&resolve(&office, card, &values)), RefusalCode::OrderId, "{order_id:?}");
    }
    assert_eq!(in_doubt(&office), [card]);
}

#[test]
fn what_is_not_in_doubt_cannot_be_settled() {
    let office = Office::new();
    let card = office.order("u1");
    let values = [("resolution", "give up"), ("reason", "why not")];
    assert_eq!(code(&resolve(&office, card, &values)), RefusalCode::NotInDoubt);
    office.sync(SYNC_ORDERS);
    assert_eq!(code(&resolve(&office, card, &values)), RefusalCode::WrongState);
}

#[test]
fn a_bureau_that_can_look_finds_what_it_accepted() {
    let office = Office::new();
    office.bureau.behave(BureauBehaviour::calm().can_look(true));
    let card = office.order("u1");
    office.bureau.next_place(PlaceScript::LoseReplyAfterAccepting);
    let report = office.sync(SYNC_ORDERS);
    assert_eq!((report.in_doubt, report.done.get("ordered")), (0, Some(&1)), "{report:?}");
    assert_eq!(office.card(card).order.unwrap().order_id.as_deref(), Some("GC-000001"));
    assert_eq!(office.bureau.ledger().len(), 1);
}

#[test]
fn not_found_is_no_proof_and_stays_in_doubt() {
    let office = Office::new();
    office.bureau.behave(BureauBehaviour::calm().can_look(true));
    let card = office.order("u1");
    office.bureau.next_place(PlaceScript::LoseReplyBeforeAccepting);
    let report = office.sync(SYNC_ORDERS);
    assert_eq!(report.in_doubt, 1, "{report:?}");
    office.clock.advance(24 * HOUR);
    office.sync(SYNC_ORDERS);
    assert_eq!(in_doubt(&office), [card]);
    assert_eq!(office.bureau.calls().placed_orders, 1);
}

#[test]
fn an_idempotent_bureau_gets_the_same_reference_again_and_makes_one_card() {
    for script in [PlaceScript::LoseReplyAfterAccepting, PlaceScript::LoseReplyBeforeAccepting] {
        let office = Office::new();
        office.bureau.behave(BureauBehaviour::calm().idempotent(true));
        let card = office.order("u1");
        office.bureau.next_place(script);
        office.sync(SYNC_ORDERS);
        assert_eq!(office.state(card), CardState::Processing);
        assert_eq!(in_doubt(&office), [], "nobody needs to settle this");
        let waits = jobs(&office, JobKind::PlaceOrder)[0].attempt.clone().unwrap().reference;
        assert_eq!(code(&office.one(ABORT, &operator(), ItemId::Card(card), &[])), RefusalCode::BeingSent);

        office.clock.advance(HOUR);
        office.sync(SYNC_ORDERS);
        assert_eq!(office.state(card), CardState::Ordered);
        assert_eq!(office.bureau.calls().placed_orders, 2);
        assert_eq!(references(&office), [waits]);
    }
}

#[test]
fn a_bureau_that_is_silent_or_later_than_the_time_out_leaves_the_order_in_doubt() {
    for (script, accepted) in
        [(PlaceScript::Silent, 0), (PlaceScript::Late(HOUR), 1), (PlaceScript::Late(Duration::MAX), 1)]
    {
        let before = crate::office::clock();
        let (office, card) = lost(script);
        assert_eq!(in_doubt(&office), [card]);
        assert_eq!(office.bureau.ledger().len(), accepted);
        use cardwright::host::Clock as _;
        let waited = office.clock.now() - before.now();
        assert_eq!(waited.num_seconds(), 30, "the time-out of a call, no longer");
    }
    let office = Office::new();
    let card = office.order("u1");
    office.bureau.next_place(PlaceScript::Late(Duration::from_secs(20)));
    office.sync(SYNC_ORDERS);
    assert_eq!(office.state(card), CardState::Ordered, "late, but in time");
}

#[test]
fn one_lost_answer_in_a_call_leaves_the_others_alone() {
    let office = Office::new();
    let cards: Vec<_> = ["u1", "u2", "u3"].map(|user| office.order(user)).into();
    let lost = office.card(cards[1]).attributes["commonName"].clone();
    office
        .bureau
        .next_place_where(move |order| order.elements.get("NAME") == Some(&lost), PlaceScript::LoseReplyAfterAccepting);
    let report = office.sync(SYNC_ORDERS);
    assert_eq!((report.in_doubt, report.done.get("ordered")), (1, Some(&2)), "{report:?}");
    assert_eq!(in_doubt(&office), [cards[1]]);
}

/// Sends orders of eight users and dies while the bureau makes the first three.
fn crashed(behaviour: BureauBehaviour) -> (Office, Vec<CardId>) {
    let office = Office::new();
    office.bureau.behave(behaviour);
    let cards = (1..=8).map(|number| office.order(&format!("u{number}"))).collect();
    office.bureau.next_place(PlaceScript::Late(Duration::from_secs(20)));
    block_on(async {
        let run = office.engine.open(SYNC_ORDERS, &service()).await.unwrap();
        let mut execution = office.engine.next(&run, Answer::new()).await.unwrap();
        assert!(execution.next_chunk().now_or_never().is_none(), "the answer is still on its way");
    });
    assert_eq!(office.bureau.ledger().len(), 3, "three orders go in one call");
    (office, cards)
}

#[test]
fn after_a_crash_exactly_what_was_in_flight_is_in_doubt() {
    let (office, cards) = crashed(BureauBehaviour::calm());
    let in_flight: Vec<_> = references(&office);
    // While the claims of the dead worker live, its jobs are nobody else's.
    let report = office.sync(SYNC_ORDERS);
    assert_eq!(report.done.get("ordered"), Some(&4), "those that were not claimed: {report:?}");
    assert_eq!(in_doubt(&office), []);

    office.clock.advance(Duration::from_secs(301));
    let report = office.sync(SYNC_ORDERS);
    assert_eq!((report.in_doubt, report.done.get("ordered")), (3, Some(&1)), "{report:?}");
    let doubtful = block_on(office.engine.doubts(None, 10)).unwrap();
    let mut references: Vec<_> = doubtful.iter().map(|job| job.attempt.clone().unwrap().reference).collect();
    references.sort();
    let mut sent = in_flight;
    sent.sort();
    assert_eq!(references, sent, "what was in flight, and nothing else");
    assert_eq!(office.bureau.ledger().len(), 8, "no card was ordered twice");
    assert_eq!(cards.iter().filter(|card| office.state(**card) == CardState::Ordered).count(), 5);
}

#[test]
fn after_a_crash_a_rich_bureau_leaves_nothing_in_doubt() {
    for behaviour in [BureauBehaviour::calm().can_look(true), BureauBehaviour::calm().idempotent(true)] {
        let (office, cards) = crashed(behaviour);
        office.clock.advance(Duration::from_secs(301));
        let report = office.sync(SYNC_ORDERS);
        assert_eq!((report.in_doubt, report.done.get("ordered")), (0, Some(&8)), "{report:?}");
        assert!(cards.iter().all(|card| office.state(*card) == CardState::Ordered));
        assert_eq!(office.bureau.ledger().len(), 8, "one production each");
    }
}

#[test]
fn what_is_being_sent_cannot_be_aborted() {
    let (office, cards) = crashed(BureauBehaviour::calm());
    let sent = references(&office);
    let mut being_sent = 0;
    for card in cards {
        match office.one(ABORT, &operator(), ItemId::Card(card), &[]) {
            Outcome::Done { .. } => {}
            refused => {
                assert_eq!(code(&refused), RefusalCode::BeingSent);
                being_sent += 1;
            }
        }
    }
    assert_eq!(being_sent, 4, "three are at the bureau, one is claimed");
    assert_eq!(references(&office), sent);
}

#[test]
fn an_unavailable_bureau_is_tried_again_later_and_later() {
    let office = Office::new();
    let card = office.order("u1");
    let mut waits = Vec::new();
    for _ in 0..4 {
        office.bureau.next_place(PlaceScript::Unavailable);
        use cardwright::host::Clock as _;
        let now = office.clock.now();
        office.sync(SYNC_ORDERS);
        assert_eq!(office.state(card), CardState::Processing);
        let due = jobs(&office, JobKind::PlaceOrder)[0].due;
        waits.push((due - now).num_seconds());
        let calls = office.bureau.calls().place;
        office.clock.advance((due - now).to_std().unwrap() - Duration::from_secs(1));
        office.sync(SYNC_ORDERS);
        assert_eq!(office.bureau.calls().place, calls, "not before it is due");
        office.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(waits, [30, 60, 120, 240]);
    office.sync(SYNC_ORDERS);
    assert_eq!(office.state(card), CardState::Ordered);
    assert_eq!(office.history(card), ["created", "order_decided", "accepted"]);
}

#[test]
fn a_rate_limit_is_kept_and_the_rest_waits_for_the_next_sync() {
    let office = Office::new();
    for number in 1..=6 {
        office.order(&format!("u{number}"));
    }
    office.bureau.every_place_where(|_| true, PlaceScript::RateLimited(Duration::from_secs(600)));
    let report = office.sync(SYNC_ORDERS);
    assert_eq!(office.bureau.calls().place, 1, "a bureau that is asked to wait for is not asked on: {report:?}");
    let due = jobs(&office, JobKind::PlaceOrder);
    use cardwright::host::Clock as _;
    let now = office.clock.now();
    assert_eq!(due.iter().filter(|job| (job.due - now).num_seconds() == 600).count(), 3);
    assert!(due.iter().all(|job| job.claim.is_none()), "nothing stays claimed");
}

#[test]
fn an_order_that_the_bureau_did_not_take_can_be_aborted() {
    for script in [PlaceScript::Unavailable, PlaceScript::RateLimited(HOUR)] {
        for queue in [true, false] {
            let office = Office::new();
            office.script(ORDER_SCRIPT, &format!("CardsAddonExtProdQueueCards = {queue}"));
            office.bureau.next_place(script.clone());
            let card = office.order("u1");
            if queue {
                office.sync(SYNC_ORDERS);
            }
            assert_eq!(office.bureau.calls().place, 1);
            assert_eq!(office.state(card), CardState::Processing);
            office.one(ABORT, &operator(), ItemId::Card(card), &[]);
            assert_eq!(office.state(card), CardState::Aborted);
            office.clock.advance(2 * HOUR);
            office.sync(SYNC_ORDERS);
            assert_eq!(office.bureau.calls().place, 1);
        }
    }
}

#[test]
fn without_the_queue_a_lost_answer_is_in_doubt_all_the_same() {
    let office = Office::new();
    office.script(ORDER_SCRIPT, "CardsAddonExtProdQueueCards = false");
    office.bureau.next_place(PlaceScript::LoseReplyAfterAccepting);
    let (report, outcomes) = office.run(ORDER, &operator(), Answer::ids([user_item("u1")]));
    assert_eq!(report.in_doubt, 1, "{report:?}");
    let Outcome::InDoubt { card: Some(card), .. } = outcomes[0].1 else { panic!("{outcomes:?}") };
    assert_eq!((office.state(card), in_doubt(&office)), (CardState::Processing, vec![card]));
}

#[test]
fn a_refused_order_has_failed_with_the_bureaus_words() {
    for queue in [true, false] {
        let office = Office::new();
        office.script(ORDER_SCRIPT, &format!("CardsAddonExtProdQueueCards = {queue}"));
        office.bureau.next_place(PlaceScript::Refuse("the article is sold out".to_owned()));
        let (_, outcomes) = office.run(ORDER, &operator(), Answer::ids([user_item("u1")]));
        let Outcome::Done { object: Some(ObjectId::Card(card)), .. } = outcomes[0].1 else { panic!() };
        office.sync(SYNC_ORDERS);
        let failure = office.card(card).failure.unwrap();
        assert_eq!((failure.phase, failure.cause.as_str()), (FailurePhase::Ordering, "the article is sold out"));
        assert_eq!(office.history(card), ["created", "order_decided", "refused"]);
        assert_ne!(office.order("u1"), card, "the open order is free");
    }
}

/// A sync that hangs until a second one has put its order in doubt and a person has settled it; then the answer comes.
fn late_answer(settle: impl FnOnce(&Office, CardId) + Send + 'static) -> (Office, CardId) {
    let (repository, clock) = store();
    let office = Office::on(repository.clone(), clock, |builder| builder);
    let card = office.order("u1");
    let bureau = TestBureau::new(office.bureau.clone());
    let slow = second(&office, repository.clone(), |builder| builder.bureau(bureau.clone()));
    let other = second(&office, repository, |builder| builder);
    bureau.before_answer(move || {
        other.clock.advance(HOUR);
        assert_eq!(other.sync(SYNC_ORDERS).in_doubt, 1);
        settle(&other, card);
    });
    slow.sync(SYNC_ORDERS);
    (office, card)
}

#[test]
fn an_answer_that_comes_while_its_attempt_is_in_doubt_settles_it() {
    let (office, card) = late_answer(|_, _| {});
    assert_eq!(office.state(card), CardState::Ordered);
    assert_eq!(in_doubt(&office), []);
    assert_eq!(office.history(card), ["created", "order_decided", "in_doubt", "accepted"]);
}

#[test]
fn a_late_answer_to_an_attempt_that_is_over_is_recorded_and_not_applied() {
    let (office, card) = late_answer(|other, card| {
        resolve(other, card, &[("resolution", "give up"), ("reason", "they said no")]);
    });
    assert_eq!(office.state(card), CardState::Failed);
    let history = office.history(card);
    assert_eq!(history.last().map(String::as_str), Some("late_acceptance"), "{history:?}");
    let entries = block_on(office.engine.history(&ObjectId::Card(card))).unwrap();
    assert_eq!(entries.last().unwrap().reference.as_deref(), Some("GC-000001"));
    assert_eq!(jobs(&office, JobKind::TrackOrder).len(), 0, "it is not followed");

    let (office, card) = late_answer(|other, card| {
        resolve(other, card, &[("resolution", "send again"), ("reason", "they said no")]);
        other.sync(SYNC_ORDERS);
    });
    let order = office.card(card).order.unwrap();
    assert_eq!(order.order_id.as_deref(), Some("GC-000002"), "the order that is waited for");
    let history = office.history(card);
    assert_eq!(history[history.len() - 2..], ["accepted", "late_acceptance"]);
}

#[test]
fn settled_as_accepted_the_late_answer_of_the_same_order_changes_nothing() {
    let (office, card) = late_answer(|other, card| {
        let values = [("resolution", "accepted"), ("orderId", "GC-000001"), ("reason", "they said so")];
        resolve(other, card, &values);
    });
    assert_eq!(office.state(card), CardState::Ordered);
    assert_eq!(office.history(card), ["created", "order_decided", "in_doubt", "settled_accepted", "accepted"]);
}

#[test]
fn an_acceptance_that_comes_before_the_order_is_sent_again_keeps_it_from_being_placed_twice() {
    let (office, card) = late_answer(|other, card| {
        resolve(other, card, &[("resolution", "send again"), ("reason", "they said no")]);
    });
    office.clock.advance(HOUR);
    office.sync(SYNC_ORDERS);
    assert_eq!(office.state(card), CardState::Ordered);
    assert_eq!(office.bureau.ledger().len(), 1);
}

#[test]
fn an_acceptance_of_the_attempt_before_does_not_answer_the_one_in_flight() {
    let (office, card) = late_answer(|other, card| {
        resolve(other, card, &[("resolution", "send again"), ("reason", "they said no")]);
        other.bureau.next_place(PlaceScript::Late(Duration::from_secs(20)));
        block_on(async {
            let run = other.engine.open(SYNC_ORDERS, &service()).await.unwrap();
            let mut execution = other.engine.next(&run, Answer::new()).await.unwrap();
            assert!(execution.next_chunk().now_or_never().is_none(), "the second attempt is on its way");
        });
    });
    assert_eq!(office.state(card), CardState::Processing);
    assert_eq!(office.history(card).last().map(String::as_str), Some("late_acceptance"));
    assert_eq!(jobs(&office, JobKind::PlaceOrder)[0].attempt.as_ref().unwrap().number, 2, "it is still waited for");
}

#[test]
fn of_aborting_and_sending_at_once_only_one_wins() {
    let (repository, clock) = store();
    let watched = Watched::new(repository.clone());
    let office = Office::on(Arc::clone(&watched), clock, |builder| builder);
    let card = office.order("u1");
    let other = second(&office, repository, |builder| builder);
    // The order is sent after the abort has looked and before it commits.
    watched.before_commit(move || drop(other.sync(SYNC_ORDERS)));
    let outcome = office.one(ABORT, &operator(), ItemId::Card(card), &[]);
    assert_eq!(code(&outcome), RefusalCode::WrongState);
    assert_eq!((office.state(card), office.bureau.ledger().len()), (CardState::Ordered, 1));

    let (repository, clock) = store();
    let watched = Watched::new(repository.clone());
    let office = Office::on(repository, clock, |builder| builder);
    let card = office.order("u1");
    let other = second(&office, Arc::clone(&watched), |builder| builder);
    // The order is taken back while the bureau's answer is being stored: too late, the answer stands.
    let aborting = second(&office, Arc::clone(&watched), |builder| builder);
    let aborted = Arc::new(std::sync::Mutex::new(None));
    let seen = Arc::clone(&aborted);
    watched.before_commit(move || {
        *seen.lock().unwrap() = Some(aborting.one(ABORT, &operator(), ItemId::Card(card), &[]));
    });
    other.sync(SYNC_ORDERS);
    assert_eq!(code(aborted.lock().unwrap().as_ref().unwrap()), RefusalCode::BeingSent);
    assert_eq!(office.state(card), CardState::Ordered);
}

#[test]
fn a_not_now_to_the_second_sending_says_nothing_about_the_first() {
    let not_now = [
        PlaceOutcome::Unavailable { reason: "no route".to_owned() },
        PlaceOutcome::RateLimited { retry_after: Duration::from_secs(60) },
    ];
    for not_now in not_now {
        let (repository, clock) = store();
        let quiet = Office::on(repository.clone(), clock, |builder| builder);
        quiet.bureau.behave(BureauBehaviour::calm().idempotent(true));
        let bureau = TestBureau::new(quiet.bureau.clone());
        let office = second(&quiet, repository, |builder| builder.bureau(bureau.clone()));
        let card = office.order("u1");
        office.bureau.next_place(PlaceScript::LoseReplyAfterAccepting);
        office.sync(SYNC_ORDERS);
        office.clock.advance(HOUR);
        bureau.next_unheard(not_now);
        office.sync(SYNC_ORDERS);
        assert_eq!(code(&office.one(ABORT, &operator(), ItemId::Card(card), &[])), RefusalCode::BeingSent);
        office.clock.advance(HOUR);
        office.sync(SYNC_ORDERS);
        assert_eq!(office.state(card), CardState::Ordered);
        assert_eq!(office.bureau.ledger().len(), 1, "one card, under the first reference");
    }
}

#[test]
fn a_not_now_to_the_first_sending_says_nothing_about_the_second() {
    let (repository, clock) = store();
    let office = Office::on(repository.clone(), clock, |builder| builder);
    office.bureau.behave(BureauBehaviour::calm().idempotent(true));
    let bureau = TestBureau::new(office.bureau.clone());
    let slow = second(&office, repository.clone(), |builder| builder.bureau(bureau.clone()));
    let other = second(&office, repository, |builder| builder);
    let card = office.order("u1");
    // The first is told to wait, and is slow to hear it: another has sent the same attempt again, and it was accepted.
    office.bureau.next_place(PlaceScript::RateLimited(Duration::from_secs(60)));
    office.bureau.next_place(PlaceScript::LoseReplyAfterAccepting);
    bureau.before_answer(move || {
        other.clock.advance(HOUR);
        other.sync(SYNC_ORDERS);
        assert_eq!(other.bureau.ledger().len(), 1, "it was accepted");
    });
    slow.sync(SYNC_ORDERS);
    assert_eq!(code(&office.one(ABORT, &operator(), ItemId::Card(card), &[])), RefusalCode::BeingSent);
    office.clock.advance(HOUR);
    office.sync(SYNC_ORDERS);
    assert_eq!(office.state(card), CardState::Ordered);
    assert_eq!(office.bureau.ledger().len(), 1, "one card, under the first reference");
}
