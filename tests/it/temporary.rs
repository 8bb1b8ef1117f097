//! Temporary cards for the stock.

use cardwright::process::{Answer, AnswerError, ItemId, Outcome, RefusalCode};
use cardwright::{CardId, CardKind, CardState, Error, NumberRange, ObjectId};

use crate::office::{
    ABORT, ORDER_TEMPORARY, Office, REPEAT, SYNC_ORDERS, SYNC_STATUS, TEMPORARY_SCRIPT, UPDATE, operator,
};

const ABORT_TEMPORARY: &str = "TempCardsAddonExtProdProcAbort";
const UPDATE_TEMPORARY: &str = "TempCardsAddonExtProdProcUpdate";

const VISITOR: &str = r#"TempCardsAddonExtProdProductionType = "visitor""#;

fn order(office: &Office, amount: &str) -> Vec<CardId> {
    let (report, outcomes) = office.run(ORDER_TEMPORARY, &operator(), Answer::new().with("amount", amount));
    assert_eq!(report.refused_in_all(), 0, "{report:?}");
    outcomes
        .into_iter()
        .map(|(_, outcome)| match outcome {
            Outcome::Done { object: Some(ObjectId::Card(card)), .. } => card,
            other => panic!("a card: {other:?}"),
        })
        .collect()
}

fn refused(outcome: &Outcome) -> RefusalCode {
    match outcome {
        Outcome::Refused(refusal) => refusal.code.clone(),
        other => panic!("refused, not {other:?}"),
    }
}

#[test]
fn every_amount_from_one_to_nine_gives_so_many_cards_of_the_temporary_range_without_holder() {
    for amount in 1..=9_usize {
        let office = Office::with(|builder| {
            let range = NumberRange::new([(500, 599)]).unwrap().prefix("TMP-");
            builder.number_range(CardKind::Temporary, range)
        });
        office.script(TEMPORARY_SCRIPT, VISITOR);
        let cards = order(&office, &amount.to_string());
        assert_eq!(cards.len(), amount);
        let mut numbers = Vec::new();
        for id in cards {
            let card = office.card(id);
            assert_eq!(
                (card.kind(), card.state(), card.holder.clone()),
                (CardKind::Temporary, CardState::Processing, None)
            );
            assert_eq!(office.history(id), ["created", "order_decided"]);
            numbers.extend(card.number);
        }
        let expected: Vec<_> = (500..500 + amount).map(|number| format!("TMP-{number}")).collect();
        assert_eq!(numbers, expected);
    }
}

#[test]
fn other_amounts_are_refused_before_anything_is_done() {
    let office = Office::new();
    for amount in ["0", "10", "three", "-1", "1.5", "4294967297"] {
        let answer = Answer::new().with("amount", amount);
        let error = office.try_run(ORDER_TEMPORARY, &operator(), answer).unwrap_err();
        assert!(matches!(error, Error::Answer(AnswerError::NotAllowed { .. })), "{amount}: {error}");
    }
    let error = office.try_run(ORDER_TEMPORARY, &operator(), Answer::new()).unwrap_err();
    assert!(matches!(error, Error::Answer(AnswerError::Missing { .. })), "{error}");
}

#[test]
fn the_amount_cannot_be_got_round_by_ticking_cards_that_do_not_exist_yet() {
    let office = Office::new();
    let answer = Answer::ids((1..=20).map(ItemId::New)).with("amount", "1");
    let error = office.try_run(ORDER_TEMPORARY, &operator(), answer).unwrap_err();
    assert!(matches!(error, Error::Answer(AnswerError::WrongKind { .. })), "{error}");
}

#[test]
fn without_the_queue_temporary_cards_are_ordered_at_once() {
    let office = Office::new();
    office.script(TEMPORARY_SCRIPT, &format!("{VISITOR}\nTempCardsAddonExtProdQueueCards = false"));
    for card in order(&office, "4") {
        assert_eq!(office.state(card), CardState::Ordered);
    }
    assert_eq!(office.bureau.ledger().len(), 4);
    office.sync(SYNC_ORDERS);
    assert_eq!(office.mail.sent().len(), 0, "nobody holds them, so nobody is told");
}

#[test]
fn temporary_cards_have_no_open_order_rule() {
    let office = visitors();
    let first = order(&office, "2");
    let second = order(&office, "2");
    assert!(first.iter().all(|card| !second.contains(card)));
    assert!(first.iter().all(|card| office.card(*card).reservations.is_empty()));
}

#[test]
fn a_user_that_the_host_passes_must_be_active() {
    let office = visitors();
    for (user, code) in [("gone", RefusalCode::UserNotActive), ("nobody", RefusalCode::NotFound)] {
        let answer = Answer::new().with("amount", "2").with("user", user);
        let (report, _) = office.run(ORDER_TEMPORARY, &operator(), answer);
        assert_eq!(report.refused.get(&code), Some(&2), "{report:?}");
    }
    let answer = Answer::new().with("amount", "2").with("user", "u1");
    let (report, outcomes) = office.run(ORDER_TEMPORARY, &operator(), answer);
    assert_eq!(report.done.get("processing"), Some(&2), "{report:?}");
    for (_, outcome) in outcomes {
        let Outcome::Done { object: Some(ObjectId::Card(card)), .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!(office.card(card).holder, None, "the user is asked for and not chosen");
    }
}

#[test]
fn a_production_type_is_chosen_among_those_on_offer() {
    let office = Office::new();
    office.script(TEMPORARY_SCRIPT, r#"TempCardsAddonExtProdProductionType = { "visitor" }"#);
    let cards = order(&office, "1");
    assert_eq!(office.card(cards[0]).production_type.as_deref(), Some("visitor"));
    let answer = Answer::new().with("amount", "1").with("productionType", "standard");
    let error = office.try_run(ORDER_TEMPORARY, &operator(), answer).unwrap_err();
    assert!(matches!(error, Error::Answer(AnswerError::NotAllowed { .. })), "{error}");
}

#[test]
fn a_type_that_wants_a_holders_name_does_for_no_temporary_card() {
    let office = Office::new();
    let (report, _) = office.run(ORDER_TEMPORARY, &operator(), Answer::new().with("amount", "2"));
    assert_eq!(report.refused.get(&RefusalCode::CardElement), Some(&2), "{report:?}");
}

#[test]
fn abort_and_update_take_only_the_kind_that_is_in_their_name() {
    let office = visitors();
    let permanent = office.order("u1");
    let temporary = order(&office, "1")[0];
    let abort = |process, card| refused(&office.one(process, &operator(), ItemId::Card(card), &[]));
    assert_eq!(abort(ABORT, temporary), RefusalCode::WrongKind);
    assert_eq!(abort(ABORT_TEMPORARY, permanent), RefusalCode::WrongKind);

    office.sync(SYNC_ORDERS);
    assert_eq!(abort(UPDATE, temporary), RefusalCode::WrongKind);
    assert_eq!(abort(UPDATE_TEMPORARY, permanent), RefusalCode::WrongKind);
}

#[test]
fn a_temporary_order_is_aborted_in_the_queue() {
    let office = visitors();
    let cards = order(&office, "2");
    office.one(ABORT_TEMPORARY, &operator(), ItemId::Card(cards[0]), &[]);
    assert_eq!(office.state(cards[0]), CardState::Aborted);
    office.sync(SYNC_ORDERS);
    assert_eq!(office.bureau.ledger().len(), 1);
    let late = office.one(ABORT_TEMPORARY, &operator(), ItemId::Card(cards[1]), &[]);
    assert_eq!(refused(&late), RefusalCode::WrongState);
}

#[test]
fn a_temporary_order_is_updated_by_hand_and_followed_to_produced() {
    let office = visitors();
    let card = order(&office, "1")[0];
    office.sync(SYNC_ORDERS);
    office.clock.advance(std::time::Duration::from_secs(5 * 3600));
    office.one(UPDATE_TEMPORARY, &operator(), ItemId::Card(card), &[]);
    assert_eq!(office.state(card), CardState::InProduction);
    office.clock.advance(std::time::Duration::from_secs(10 * 24 * 3600));
    office.sync(SYNC_STATUS);
    assert_eq!(office.state(card), CardState::Produced);
}

#[test]
fn a_temporary_card_that_failed_has_failed_for_good() {
    let office = visitors();
    let card = order(&office, "1")[0];
    office.sync(SYNC_ORDERS);
    let order_id = office.card(card).order.unwrap().order_id.unwrap();
    office.bureau.set_status(&order_id, "production failed");
    office.one(UPDATE_TEMPORARY, &operator(), ItemId::Card(card), &[]);
    assert_eq!(office.state(card), CardState::Failed);
    assert_eq!(refused(&office.one(REPEAT, &operator(), ItemId::Card(card), &[])), RefusalCode::WrongKind);
    assert_eq!(office.state(card), CardState::Failed);
}

/// An office whose temporary cards need no name.
fn visitors() -> Office {
    let office = Office::new();
    office.script(TEMPORARY_SCRIPT, VISITOR);
    office
}
