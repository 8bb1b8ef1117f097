//! Ordering cards, from the selection to the shipped card.

use std::time::Duration;

use cardwright::CardState;
use cardwright::process::{Answer, Filter, ItemId, RefusalCode};

use crate::office::{ABORT, ORDER, Office, SYNC_ORDERS, SYNC_STATUS, UPDATE, operator, user_item};

#[test]
fn queued_orders_are_sent_by_the_sync_and_followed_to_the_shipped_card() {
    let office = Office::new();
    let everyone = Answer::all(Filter::Users(Default::default()));
    let (report, _) = office.run(ORDER, &operator(), everyone);
    assert_eq!(report.done.get("processing"), Some(&10), "{report:?}");
    assert_eq!(report.refused.get(&RefusalCode::UserNotActive), Some(&1));
    assert_eq!(office.bureau.ledger().len(), 0, "nothing was sent yet");

    let report = office.sync(SYNC_ORDERS);
    assert_eq!(report.done.get("ordered"), Some(&10), "{report:?}");
    assert_eq!(office.bureau.ledger().len(), 10);
    office.sync(SYNC_ORDERS);
    assert_eq!(office.mail.sent().len(), 10, "each holder got one e-mail");

    office.clock.advance(Duration::from_secs(6 * 3600));
    let report = office.sync(SYNC_STATUS);
    assert_eq!(report.done.get("in production"), Some(&10), "{report:?}");
    office.clock.advance(Duration::from_secs(10 * 24 * 3600));
    let report = office.sync(SYNC_STATUS);
    assert_eq!(report.done.get("produced"), Some(&10), "{report:?}");
    assert_eq!(office.bureau.ledger().len(), 10, "nothing was ordered twice");
}

#[test]
fn an_order_is_aborted_in_the_queue_and_the_user_may_order_again() {
    let office = Office::new();
    let card = office.order("u1");
    office.one(ABORT, &operator(), ItemId::Card(card), &[]);
    assert_eq!(office.state(card), CardState::Aborted);
    assert_eq!(office.history(card), ["created", "order_decided", "order_taken_back"]);
    office.sync(SYNC_ORDERS);
    assert_eq!(office.bureau.ledger().len(), 0);
    assert_ne!(office.order("u1"), card);
}

#[test]
fn a_forced_update_reads_the_status_now() {
    let office = Office::new();
    let card = office.order("u1");
    office.sync(SYNC_ORDERS);
    office.clock.advance(Duration::from_secs(5 * 3600));
    office.one(UPDATE, &operator(), ItemId::Card(card), &[]);
    assert_eq!(office.state(card), CardState::InProduction);
    assert_eq!(office.history(card), ["created", "order_decided", "accepted", "status"]);
}

#[test]
fn without_the_queue_the_same_run_sends() {
    let office = Office::new();
    office.script(crate::office::ORDER_SCRIPT, "CardsAddonExtProdQueueCards = false");
    let (report, _) = office.run(ORDER, &operator(), Answer::ids([user_item("u1"), user_item("u2")]));
    assert_eq!(report.done.get("ordered"), Some(&2), "{report:?}");
    assert_eq!(office.bureau.ledger().len(), 2);
}
