//! What the bureau says of its orders, and what follows from it.

use std::time::Duration;

use cardwright::host::{Clock as _, OrderStatus};
use cardwright::process::{ItemId, Outcome, RefusalCode};
use cardwright::{CardId, CardState, FailurePhase, JobKind, JobState, ReadOut, User, UserState};
use futures::executor::block_on;

use crate::office::{ABORT, Office, REPEAT, RESOLVE, SYNC_ORDERS, SYNC_STATUS, UPDATE, operator, person, user_id};
use crate::watched::{TestBureau, jobs};

const HOUR: Duration = Duration::from_secs(3600);

/// An office with a card that the bureau has accepted.
fn ordered() -> (Office, CardId, String) {
    let office = Office::new();
    let card = office.order("u1");
    office.sync(SYNC_ORDERS);
    let order_id = order_id(&office, card);
    (office, card, order_id)
}

fn order_id(office: &Office, card: CardId) -> String {
    office.card(card).order.unwrap().order_id.unwrap()
}

fn update(office: &Office, card: CardId) -> Outcome {
    office.one(UPDATE, &operator(), ItemId::Card(card), &[])
}

fn status(order_id: &str, text: &str) -> OrderStatus {
    OrderStatus { order_id: order_id.to_owned(), text: text.to_owned(), ..OrderStatus::default() }
}

/// An office whose bureau says what the test wants.
fn speaking() -> (Office, TestBureau, CardId, String) {
    let mut bureau = None;
    let (repository, clock) = crate::watched::store();
    let first = Office::on(repository.clone(), clock, |builder| builder);
    let office = crate::watched::second(&first, repository, |builder| {
        let speaking = TestBureau::new(first.bureau.clone());
        bureau = Some(speaking.clone());
        builder.bureau(speaking)
    });
    let card = office.order("u1");
    office.sync(SYNC_ORDERS);
    let order_id = order_id(&office, card);
    (office, bureau.unwrap(), card, order_id)
}

#[test]
fn status_moves_forward_only() {
    let (office, card, order_id) = ordered();
    office.bureau.set_status(&order_id, "in production");
    update(&office, card);
    assert_eq!(office.state(card), CardState::InProduction);
    office.bureau.set_status(&order_id, "received");
    assert!(matches!(update(&office, card), Outcome::Unchanged { .. }));
    assert_eq!(office.state(card), CardState::InProduction);
    office.bureau.set_status(&order_id, "shipped");
    update(&office, card);
    assert_eq!(office.state(card), CardState::Produced);
    assert_eq!(
        office.history(card),
        ["created", "order_decided", "accepted", "status", "status_not_forward", "status"]
    );
}

#[test]
fn a_step_may_be_skipped() {
    let (office, card, order_id) = ordered();
    office.bureau.set_status(&order_id, "Delivered ");
    let Outcome::Done { state, .. } = update(&office, card) else { panic!() };
    assert_eq!(state, "produced");
    assert!(office.card(card).order.unwrap().times.delivered.is_some());
}

#[test]
fn nothing_new_is_a_success_without_trace() {
    let (office, card, _) = ordered();
    office.clock.advance(5 * HOUR);
    update(&office, card);
    let before = office.card(card);
    for _ in 0..3 {
        let Outcome::Unchanged { state } = update(&office, card) else { panic!() };
        assert_eq!(state, "in production");
        office.clock.advance(HOUR);
        let report = office.sync(SYNC_STATUS);
        assert_eq!((report.items, report.unchanged), (1, 1), "{report:?}");
    }
    assert_eq!(office.card(card), before, "not even a new version");
}

#[test]
fn an_unknown_text_is_kept_recorded_once_and_changes_nothing() {
    let (office, card, order_id) = ordered();
    office.bureau.set_status(&order_id, "waiting for plastic");
    for _ in 0..3 {
        assert!(matches!(update(&office, card), Outcome::Unchanged { .. }));
    }
    let order = office.card(card).order.unwrap();
    assert_eq!(order.status.as_deref(), Some("waiting for plastic"));
    assert_eq!(order.unknown_statuses.iter().collect::<Vec<_>>(), ["waiting for plastic"]);
    assert_eq!(office.history(card), ["created", "order_decided", "accepted", "status_unknown"]);
    assert_eq!(office.state(card), CardState::Ordered);
    // It goes on when the bureau speaks plainly again.
    office.bureau.set_status(&order_id, "in production");
    update(&office, card);
    assert_eq!(office.state(card), CardState::InProduction);
}

#[test]
fn a_status_of_another_order_is_recorded_and_changes_nothing() {
    let (office, bureau, card, order_id) = speaking();
    let read_outs = vec![ReadOut { technology: "LEGIC".to_owned(), value: "AFFE".to_owned() }];
    bureau.next_status(OrderStatus { read_outs, card_id: Some("x".to_owned()), ..status("GC-999999", "shipped") });
    assert!(matches!(update(&office, card), Outcome::Unchanged { .. }));
    let after = office.card(card);
    assert_eq!(after.state(), CardState::Ordered);
    let order = after.order.unwrap();
    assert_eq!((order.order_id.as_deref(), order.card_id, order.status), (Some(order_id.as_str()), None, None));
    assert!(order.read_outs.is_empty());
    assert_eq!(office.history(card), ["created", "order_decided", "accepted", "status_of_another_order"]);
}

#[test]
fn all_read_outs_are_kept_also_several_of_one_technology_and_twice_the_same() {
    let (office, bureau, card, order_id) = speaking();
    let read_out =
        |technology: &str, value: &str| ReadOut { technology: technology.to_owned(), value: value.to_owned() };
    let first = vec![read_out("LEGIC", "1"), read_out("LEGIC", "2"), read_out("MIFARE", "3"), read_out("LEGIC", "1")];
    bureau.next_status(OrderStatus { read_outs: first.clone(), ..status(&order_id, "in production") });
    bureau.next_status(OrderStatus { read_outs: first.clone(), ..status(&order_id, "in production") });
    bureau.next_status(OrderStatus { read_outs: vec![read_out("LEGIC", "4")], ..status(&order_id, "in production") });
    update(&office, card);
    assert_eq!(office.card(card).order.unwrap().read_outs, first);
    update(&office, card);
    assert_eq!(office.card(card).order.unwrap().read_outs, first, "the same message again adds nothing");
    update(&office, card);
    let kept = office.card(card).order.unwrap().read_outs;
    assert_eq!((kept.len(), &kept[4]), (5, &read_out("LEGIC", "4")));
}

#[test]
fn times_and_read_outs_of_a_shipped_card_are_kept() {
    let (office, card, _) = ordered();
    office.clock.advance(10 * 24 * HOUR);
    office.sync(SYNC_STATUS);
    let order = office.card(card).order.unwrap();
    assert!(order.times.produced.is_some() && order.times.delivered.is_some());
    let technologies: Vec<_> = order.read_outs.iter().map(|read| read.technology.as_str()).collect();
    assert_eq!(technologies, ["LEGIC", "LEGIC", "MIFARE"]);
}

#[test]
fn produced_and_failed_end_the_questions() {
    for (text, state) in [("shipped", CardState::Produced), ("production failed", CardState::Failed)] {
        let (office, card, order_id) = ordered();
        office.bureau.set_status(&order_id, text);
        update(&office, card);
        assert_eq!(office.state(card), state);
        let asked = office.bureau.calls().status;
        for _ in 0..3 {
            office.clock.advance(24 * HOUR);
            assert_eq!(office.sync(SYNC_STATUS).items, 0);
        }
        assert_eq!(office.bureau.calls().status, asked);
        assert!(jobs(&office, JobKind::TrackOrder).iter().all(|job| job.state == JobState::Done));
    }
}

#[test]
fn a_status_is_asked_for_again_after_the_poll_interval() {
    let (office, _, _) = ordered();
    for _ in 0..3 {
        assert_eq!(office.sync(SYNC_STATUS).items, 0, "not before it is due");
        office.clock.advance(Duration::from_secs(900));
        assert_eq!(office.sync(SYNC_STATUS).items, 1);
    }
    assert_eq!(office.bureau.calls().status, 3);
}

#[test]
fn a_bureau_that_does_not_answer_for_now_is_asked_again_and_nothing_changes() {
    let (office, card, _) = ordered();
    office.clock.advance(5 * HOUR);
    office.bureau.outage(office.clock.now() + chrono::TimeDelta::minutes(10));
    let before = office.card(card);
    let report = office.sync(SYNC_STATUS);
    assert_eq!(report.refused.get(&RefusalCode::HeldBack), Some(&1), "{report:?}");
    assert_eq!(office.card(card), before);
    office.clock.advance(Duration::from_secs(11 * 60));
    office.sync(SYNC_STATUS);
    assert_eq!(office.state(card), CardState::InProduction);
}

#[test]
fn a_failed_production_is_repeated_with_fresh_data_and_the_earlier_order_id_kept() {
    let (office, card, first) = ordered();
    office.bureau.set_status(&first, "production failed");
    update(&office, card);
    let failed = office.card(card);
    assert_eq!(failed.failure.as_ref().unwrap().phase, FailurePhase::BureauProduction);
    assert_eq!(failed.failure.as_ref().unwrap().cause, "production failed");

    let mut user = person(1);
    user.attributes.insert("commonName".to_owned(), "Person One".to_owned());
    user.attributes.remove("employeeNumber");
    office.users.put(user);
    let Outcome::Done { state, .. } = office.one(REPEAT, &operator(), ItemId::Card(card), &[]) else { panic!() };
    assert_eq!(state, "processing");
    office.sync(SYNC_ORDERS);

    let again = office.card(card);
    let order = again.order.unwrap();
    assert_eq!(again.failure, None);
    assert_eq!(again.number, failed.number, "the card keeps its number");
    assert_eq!(order.earlier, std::slice::from_ref(&first));
    assert_ne!(order.order_id, Some(first));
    assert!(order.read_outs.is_empty() && order.status.is_none(), "those were of the earlier order");
    let placed = &office.bureau.ledger()[1];
    assert_eq!(placed.elements["NAME"], "Person One");
    assert!(!placed.elements.contains_key("EMPLOYEE"));
    assert_eq!(office.history(card), ["created", "order_decided", "accepted", "status", "order_repeated", "accepted"]);
}

#[test]
fn a_status_of_the_earlier_order_changes_nothing() {
    let (office, bureau, card, first) = speaking();
    bureau.next_status(status(&first, "production failed"));
    update(&office, card);
    office.one(REPEAT, &operator(), ItemId::Card(card), &[]);
    office.sync(SYNC_ORDERS);
    bureau.next_status(status(&first, "shipped"));
    assert!(matches!(update(&office, card), Outcome::Unchanged { .. }));
    assert_eq!(office.state(card), CardState::Ordered);
    assert_eq!(office.history(card).last().map(String::as_str), Some("status_of_another_order"));
    office.clock.advance(10 * 24 * HOUR);
    office.sync(SYNC_STATUS);
    assert_eq!(office.state(card), CardState::Produced, "the present order is followed on");
}

#[test]
fn repeating_checks_user_and_open_order_again() {
    let (office, card, first) = ordered();
    office.bureau.set_status(&first, "production failed");
    update(&office, card);
    let repeat = || match office.one(REPEAT, &operator(), ItemId::Card(card), &[]) {
        Outcome::Refused(refusal) => refusal.code,
        other => panic!("refused, not {other:?}"),
    };
    office.users.put(User { state: UserState::Inactive, ..person(1) });
    assert_eq!(repeat(), RefusalCode::UserNotActive);
    office.users.put(person(1));
    office.order("u1");
    assert_eq!(repeat(), RefusalCode::OpenOrder);
    assert_eq!(office.state(card), CardState::Failed);
}

#[test]
fn update_takes_what_is_ordered_or_in_production_only() {
    let office = Office::new();
    let card = office.order("u1");
    let Outcome::Refused(refusal) = update(&office, card) else { panic!() };
    assert_eq!(refusal.code, RefusalCode::WrongState);
    office.one(ABORT, &operator(), ItemId::Card(card), &[]);
    let Outcome::Refused(refusal) = update(&office, card) else { panic!() };
    assert_eq!(refusal.code, RefusalCode::WrongState);
}

#[test]
fn the_queued_order_of_a_user_who_is_no_longer_active_is_held_back_and_sent_when_she_is() {
    let office = Office::new();
    let card = office.order("u1");
    let other = office.order("u2");
    office.users.put(User { state: UserState::Inactive, ..person(1) });
    let report = office.sync(SYNC_ORDERS);
    assert_eq!(report.refused.get(&RefusalCode::HeldBack), Some(&1), "{report:?}");
    assert_eq!((office.state(card), office.state(other)), (CardState::Processing, CardState::Ordered));
    assert_eq!(office.bureau.ledger().len(), 1);
    let job = jobs(&office, JobKind::PlaceOrder).into_iter().find(|job| job.card == Some(card)).unwrap();
    assert!(job.remark.unwrap().contains("held back") && job.attempt.is_none());

    office.clock.advance(2 * HOUR);
    let report = office.sync(SYNC_ORDERS);
    assert_eq!(report.refused.get(&RefusalCode::HeldBack), Some(&1), "still: {report:?}");
    office.users.put(person(1));
    office.clock.advance(2 * HOUR);
    office.sync(SYNC_ORDERS);
    assert_eq!(office.state(card), CardState::Ordered);
    assert_eq!(office.card(card).holder, Some(user_id("u1")));
}

#[test]
fn an_order_that_is_held_back_can_be_aborted() {
    let office = Office::new();
    let card = office.order("u1");
    office.users.put(User { state: UserState::Inactive, ..person(1) });
    office.sync(SYNC_ORDERS);
    office.one(ABORT, &operator(), ItemId::Card(card), &[]);
    assert_eq!(office.state(card), CardState::Aborted);
}

#[test]
fn the_card_ordered_email_goes_out_at_least_once_under_one_message_id() {
    use cardwright::host::NotifyOutcome;
    let office = Office::new();
    office.mail.answer_with(NotifyOutcome::Unavailable { reason: "mail is down".to_owned() });
    let card = office.order("u1");
    office.sync(SYNC_ORDERS);
    office.sync(SYNC_ORDERS);
    assert_eq!((office.state(card), office.mail.sent().len()), (CardState::Ordered, 0));
    let owed = jobs(&office, JobKind::Notify).remove(0);
    office.mail.answer_with(NotifyOutcome::Sent);
    office.clock.advance(HOUR);
    office.sync(SYNC_STATUS);
    office.sync(SYNC_ORDERS);
    let sent = office.mail.sent();
    assert_eq!(sent.len(), 1);
    let cardwright::Task::Notify(message) = owed.task else { panic!("a message") };
    assert_eq!(sent[0], message);
    assert_eq!(sent[0].recipient, cardwright::Recipient::Email("u1@example.com".to_owned()));
    assert_eq!(sent[0].data["number"], office.card(card).number.unwrap());
}

#[test]
fn without_an_address_or_where_it_is_refused_the_email_is_recorded_as_not_sent_and_the_order_stands() {
    use cardwright::host::NotifyOutcome;
    let office = Office::new();
    let mut user = person(1);
    user.attributes.remove("email");
    office.users.put(user);
    let without = office.order("u1");
    let refused = office.order("u2");
    office.mail.answer_with(NotifyOutcome::Refused { reason: "no such mailbox".to_owned() });
    office.sync(SYNC_ORDERS);
    office.sync(SYNC_ORDERS);
    assert_eq!((office.state(without), office.state(refused)), (CardState::Ordered, CardState::Ordered));
    assert_eq!(office.history(without).last().map(String::as_str), Some("email_not_sent_no_address"));
    assert_eq!(office.history(refused).last().map(String::as_str), Some("message_not_sent"));
}

#[test]
fn the_email_is_an_option() {
    let office = Office::new();
    office.script(crate::office::ORDER_SCRIPT, "CardsAddonExtProdSendCardOrderedEmail = false");
    office.order("u1");
    office.sync(SYNC_ORDERS);
    office.sync(SYNC_ORDERS);
    assert_eq!((office.bureau.ledger().len(), office.mail.sent().len()), (1, 0));
}

#[test]
fn a_status_of_another_order_that_comes_again_and_again_is_recorded_once() {
    let (office, bureau, card, _) = speaking();
    for _ in 0..3 {
        bureau.next_status(status("GC-999999", "shipped"));
        update(&office, card);
    }
    let noted = office.history(card).into_iter().filter(|code| code == "status_of_another_order").count();
    assert_eq!(noted, 1);
}

/// Syncs statuses twice a day, for so many days.
fn days_pass(office: &Office, days: u32) {
    for _ in 0..2 * days {
        office.clock.advance(12 * HOUR);
        office.sync(SYNC_STATUS);
    }
}

#[test]
fn an_order_without_news_for_too_long_is_listed_and_asked_for_no_more() {
    let (office, card, order_id) = ordered();
    office.bureau.set_status(&order_id, "received");
    days_pass(&office, 20);
    office.bureau.set_status(&order_id, "in production");
    days_pass(&office, 29);
    let doubts = || block_on(office.engine.doubts(None, 10)).unwrap();
    assert_eq!(doubts(), [], "there was news in between");
    days_pass(&office, 3);

    let doubt = doubts().remove(0);
    assert_eq!((doubt.kind(), doubt.card, doubt.doubts), (JobKind::TrackOrder, Some(card), 1));
    assert!(doubt.remark.as_deref().unwrap().starts_with("the bureau has said nothing new for 30 days"), "{doubt:?}");
    assert_eq!(office.state(card), CardState::InProduction, "nothing is guessed");
    assert_eq!(office.history(card).last().unwrap(), "in_doubt");
    let asked = office.bureau.calls().status;
    days_pass(&office, 100);
    assert_eq!(office.bureau.calls().status, asked);
    assert_eq!(doubts().len(), 1);

    // A person has called the bureau.
    let said = [("resolution", "accepted"), ("orderId", order_id.as_str()), ("reason", "it is on its way")];
    office.one(RESOLVE, &operator(), ItemId::Job(doubt.id), &said);
    days_pass(&office, 2);
    let order = office.card(card).order.unwrap();
    assert_eq!((doubts(), order.order_id, order.earlier), (Vec::new(), Some(order_id.clone()), Vec::new()));
    office.bureau.set_status(&order_id, "shipped");
    days_pass(&office, 1);
    assert_eq!(office.state(card), CardState::Produced);
}

#[test]
fn an_order_that_the_bureau_does_not_know_for_too_long_is_listed() {
    let (office, bureau, card, _) = speaking();
    bureau.forget_orders();
    days_pass(&office, 29);
    assert_eq!(block_on(office.engine.doubts(None, 10)).unwrap(), []);
    days_pass(&office, 3);
    let doubt = block_on(office.engine.doubts(None, 10)).unwrap().remove(0);
    let said = [("resolution", "give up"), ("reason", "they have lost it")];
    office.one(RESOLVE, &operator(), ItemId::Job(doubt.id), &said);
    assert_eq!(office.state(card), CardState::Failed);
    assert_eq!(block_on(office.engine.doubts(None, 10)).unwrap(), []);
}

#[test]
fn who_was_not_asked_was_not_silent() {
    let quiet = || {
        let (office, _, order_id) = ordered();
        office.bureau.set_status(&order_id, "received");
        days_pass(&office, 20);
        office
    };
    let no_doubts = |office: &Office| assert_eq!(block_on(office.engine.doubts(None, 10)).unwrap(), []);
    // A bureau that is away, and says the same as before when it is back.
    let office = quiet();
    office.bureau.outage(office.clock.now() + chrono::TimeDelta::days(90));
    days_pass(&office, 95);
    no_doubts(&office);
    // Nobody works; and a clock that is wrong for once.
    for leap in [100, 4000] {
        let office = quiet();
        office.clock.advance(leap * 24 * HOUR);
        days_pass(&office, 5);
        no_doubts(&office);
        days_pass(&office, 10);
        assert_eq!(block_on(office.engine.doubts(None, 10)).unwrap().len(), 1, "it goes on being silent");
    }
}

#[test]
fn an_order_in_doubt_is_not_updated_by_hand() {
    let (office, card, order_id) = ordered();
    office.bureau.set_status(&order_id, "received");
    days_pass(&office, 32);
    office.bureau.set_status(&order_id, "shipped");
    let Outcome::Refused(refusal) = update(&office, card) else { panic!("nobody has asked the bureau") };
    assert_eq!(refusal.code, RefusalCode::InDoubt);
    assert!(refusal.reason.contains("must be settled first"), "{}", refusal.reason);
}
