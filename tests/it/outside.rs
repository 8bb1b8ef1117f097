//! What the outside is asked, call by call: mocks that refuse every call that was not foreseen.

use std::time::Duration;

use async_trait::async_trait;
use cardwright::host::{
    Accepted, CardOrder, FindOutcome, GoCardsProvider, Notifier, NotifyOutcome, OrderStatus, PlaceOutcome, Placement,
    StatusOutcome,
};
use cardwright::process::Answer;
use cardwright::{CardState, Message, MessageKind};
use futures::executor::block_on;
use mockall::{Sequence, mock};

use crate::office::{ORDER, Office, SYNC_ORDERS, SYNC_STATUS, operator, user_item};

mock! {
    Bureau {}

    #[async_trait]
    impl GoCardsProvider for Bureau {
        fn placement(&self) -> Placement;
        async fn place(&self, orders: &[CardOrder]) -> Vec<PlaceOutcome>;
        async fn status(&self, order_ids: &[String]) -> Vec<StatusOutcome>;
        async fn find(&self, reference: &str) -> FindOutcome;
    }
}

mock! {
    Post {}

    #[async_trait]
    impl Notifier for Post {
        async fn send(&self, message: &Message) -> NotifyOutcome;
    }
}

fn bureau(placement: Placement) -> MockBureau {
    let mut bureau = MockBureau::new();
    bureau.expect_placement().return_const(placement);
    bureau
}

fn accepted(order: &CardOrder) -> PlaceOutcome {
    PlaceOutcome::Accepted(Accepted { order_id: format!("B-{}", order.elements["NUMBER"]), card_id: None })
}

fn lost(orders: &[CardOrder]) -> Vec<PlaceOutcome> {
    vec![PlaceOutcome::Unknown { reason: "connection lost".to_owned() }; orders.len()]
}

#[test]
fn bureau_gets_the_orders_of_two_cards_in_one_call_and_is_asked_for_their_status_in_one() {
    let mut bureau = bureau(Placement::NotIdempotent);
    bureau
        .expect_place()
        .withf(|orders| {
            orders.len() == 2
                && orders[0].reference != orders[1].reference
                && orders.iter().all(|order| order.article == "ART-1" && order.elements.len() == 3)
                && ["Person 1", "Person 2"]
                    .iter()
                    .all(|name| orders.iter().any(|order| order.elements["NAME"] == *name))
        })
        .times(1)
        .returning(|orders| orders.iter().map(accepted).collect());
    bureau.expect_status().withf(|orders| orders.len() == 2).times(1).returning(|orders| {
        let status = |order_id: &String| OrderStatus {
            order_id: order_id.clone(),
            text: "Producing".to_owned(),
            ..OrderStatus::default()
        };
        orders.iter().map(|order_id| StatusOutcome::Known(status(order_id))).collect()
    });
    bureau.expect_find().never();
    let office = Office::with(|builder| builder.bureau(bureau));
    office.run(ORDER, &operator(), Answer::ids([user_item("u1"), user_item("u2")]));
    assert_eq!(office.sync(SYNC_ORDERS).done.get("ordered"), Some(&2));
    assert_eq!(office.sync(SYNC_ORDERS).items, 0);
    office.clock.advance(Duration::from_secs(24 * 3600));
    assert_eq!(office.sync(SYNC_STATUS).items, 2);
}

#[test]
fn order_whose_reply_is_lost_is_looked_for_and_never_sent_again() {
    let mut bureau = bureau(Placement::NotIdempotent);
    bureau.expect_place().times(1).returning(lost);
    bureau.expect_find().times(1..).return_const(FindOutcome::NotFound);
    bureau.expect_status().never();
    let office = Office::with(|builder| builder.bureau(bureau));
    let card = office.order("u1");
    for _ in 0..5 {
        office.sync(SYNC_ORDERS);
        office.sync(SYNC_STATUS);
        office.clock.advance(Duration::from_secs(24 * 3600));
    }
    assert_eq!(office.state(card), CardState::Processing);
    assert_eq!(block_on(office.engine.doubts(None, 10)).expect("readable").len(), 1);
}

#[test]
fn order_whose_reply_is_lost_is_sent_again_under_its_reference_where_that_is_safe() {
    let mut bureau = bureau(Placement::IdempotentByReference);
    let mut turns = Sequence::new();
    let first = std::sync::Arc::new(std::sync::OnceLock::new());
    let sent = std::sync::Arc::clone(&first);
    bureau.expect_place().times(1).in_sequence(&mut turns).returning(move |orders| {
        first.set(orders[0].reference.clone()).expect("sent once");
        lost(orders)
    });
    bureau.expect_find().return_const(FindOutcome::CannotLook);
    bureau
        .expect_place()
        .withf(move |orders| orders.len() == 1 && sent.get() == Some(&orders[0].reference))
        .times(1)
        .in_sequence(&mut turns)
        .returning(|orders| orders.iter().map(accepted).collect());
    let office = Office::with(|builder| builder.bureau(bureau));
    let card = office.order("u1");
    for _ in 0..5 {
        office.sync(SYNC_ORDERS);
        office.clock.advance(Duration::from_secs(3600));
    }
    assert_eq!(office.state(card), CardState::Ordered);
}

#[test]
fn message_that_could_not_be_sent_is_given_again_under_the_same_id() {
    let mut post = MockPost::new();
    let mut turns = Sequence::new();
    let first = std::sync::Arc::new(std::sync::OnceLock::new());
    let sent = std::sync::Arc::clone(&first);
    let unavailable = NotifyOutcome::Unavailable { reason: "no route".to_owned() };
    post.expect_send().times(1).in_sequence(&mut turns).returning(move |message| {
        first.set(message.id).expect("sent once");
        unavailable.clone()
    });
    post.expect_send()
        .withf(move |message| message.kind == MessageKind::CardOrdered && sent.get() == Some(&message.id))
        .times(1)
        .in_sequence(&mut turns)
        .return_const(NotifyOutcome::Sent);
    let office = Office::with(|builder| builder.notifier(post));
    office.order("u1");
    for _ in 0..5 {
        office.sync(SYNC_ORDERS);
        office.clock.advance(Duration::from_secs(3600));
    }
}
