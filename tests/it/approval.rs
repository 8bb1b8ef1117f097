//! Requests that wait for approval: asking, deciding, withdrawing.

use cardwright::host::RequestQuery;
use cardwright::process::{Answer, AnswerError, Filter, ItemId, Outcome, RefusalCode, SelfApproval};
use cardwright::{
    Actor, ActorId, ApprovalRequest, CardId, CardState, Digest, Error, MessageKind, ObjectId, Recipient, RequestState,
    Role, User, UserState, Withdrawal,
};
use futures::executor::block_on;

use crate::office::{
    ABORT_REQUEST, APPROVAL, ORDER, ORDER_SCRIPT, Office, SYNC_ORDERS, approver, operator, person, rules, user_id,
    user_item,
};

const WITH_APPROVAL: &str = "CardsAddonExtProdApproval = true";

fn office() -> Office {
    let office = Office::new();
    office.script(ORDER_SCRIPT, WITH_APPROVAL);
    office
}

/// An approver by login and person.
fn login(login: &str, person: &str) -> Actor {
    Actor::person(ActorId::new(login).unwrap(), user_id(person), [Role::Approver, Role::Operator])
}

fn requests(office: &Office) -> Vec<ApprovalRequest> {
    block_on(office.engine.request_page(&RequestQuery::default(), None, 100)).unwrap()
}

/// Asks for a card and gives it with its request.
fn ask(office: &Office, user: &str) -> (CardId, ApprovalRequest) {
    let card = office.order(user);
    let request = requests(office).into_iter().find(|request| request.card == card).expect("a request was opened");
    (card, request)
}

fn request(office: &Office, request: &ApprovalRequest) -> ApprovalRequest {
    requests(office).into_iter().find(|other| other.id == request.id).unwrap()
}

fn decide(office: &Office, actor: &Actor, request: &ApprovalRequest, decision: &str) -> Outcome {
    office.one(APPROVAL, actor, ItemId::Request(request.id), &[("decision", decision), ("reason", "because")])
}

fn refused(outcome: &Outcome) -> RefusalCode {
    match outcome {
        Outcome::Refused(refusal) => refusal.code.clone(),
        other => panic!("refused, not {other:?}"),
    }
}

#[test]
fn with_approval_on_a_card_waits_as_requested_and_the_approvers_are_told() {
    let office = office();
    let (card, request) = ask(&office, "u1");
    assert_eq!(office.state(card), CardState::Requested);
    assert_eq!(request.state(), RequestState::Open);
    assert_eq!(request.requester, operator());
    assert_eq!(request.holder, user_id("u1"));
    assert_eq!(request.process.as_str(), ORDER);
    assert_eq!(request.choices.get("productionType").map(String::as_str), Some("standard"));
    assert_eq!(office.card(card).request, Some(request.id));

    office.sync(SYNC_ORDERS);
    assert_eq!(office.bureau.ledger().len(), 0, "nothing is ordered without approval");
    let mail = office.mail.sent();
    assert_eq!(mail.len(), 1);
    assert_eq!(mail[0].recipient, Recipient::Role(Role::Approver));
    assert_eq!(mail[0].kind, MessageKind::RequestWaiting);
    assert_eq!(mail[0].data.get("request"), Some(&request.id.to_string()));
}

#[test]
fn a_requested_card_counts_as_open_order() {
    let office = office();
    ask(&office, "u1");
    assert_eq!(refused(&office.one(ORDER, &operator(), user_item("u1"), &[])), RefusalCode::OpenOrder);
}

#[test]
fn many_requests_are_approved_in_one_run_and_wait_in_the_queue() {
    let office = office();
    for user in ["u1", "u2", "u3", "u4", "u5", "u6"] {
        ask(&office, user);
    }
    let open = RequestQuery { states: vec![RequestState::Open], ..RequestQuery::default() };
    let answer = Answer::all(Filter::Requests(open)).with("decision", "approve");
    let (report, _) = office.run(APPROVAL, &approver(), answer);
    assert_eq!(report.done.get("processing"), Some(&6), "{report:?}");
    assert!(requests(&office).iter().all(|request| request.state() == RequestState::Approved));

    office.sync(SYNC_ORDERS);
    office.sync(SYNC_ORDERS);
    assert_eq!(office.bureau.ledger().len(), 6);
    let told: Vec<_> = office.mail.sent().into_iter().filter(|m| m.kind == MessageKind::RequestApproved).collect();
    assert_eq!(told.len(), 6);
    assert!(told.iter().all(|message| message.recipient == Recipient::Actor(operator().id)));
}

#[test]
fn without_the_queue_approving_orders_at_once() {
    let office = office();
    office.script(ORDER_SCRIPT, "CardsAddonExtProdApproval = true\nCardsAddonExtProdQueueCards = false");
    let (card, request) = ask(&office, "u1");
    assert_eq!(office.bureau.ledger().len(), 0);
    let Outcome::Done { state, .. } = decide(&office, &approver(), &request, "approve") else { panic!() };
    assert_eq!(state, "ordered");
    assert_eq!(office.state(card), CardState::Ordered);
    assert_eq!(office.bureau.ledger().len(), 1);
    assert_eq!(office.history(card), ["created", "approval_wanted", "approved", "accepted"]);
}

#[test]
fn rejecting_needs_a_reason_which_the_request_keeps_and_the_history_only_as_digest() {
    let office = office();
    let (card, asked) = ask(&office, "u1");
    for reason in ["", "  \t"] {
        let answer = Answer::ids([ItemId::Request(asked.id)]).with("decision", "reject").with("reason", reason);
        let error = office.try_run(APPROVAL, &approver(), answer).unwrap_err();
        assert!(matches!(&error, Error::Answer(AnswerError::Missing { field, .. }) if field == "reason"), "{error}");
    }
    assert_eq!(request(&office, &asked).state(), RequestState::Open);

    let reason = "Person 1 leaves in March";
    let values = [("decision", "reject"), ("reason", reason)];
    office.one(APPROVAL, &approver(), ItemId::Request(asked.id), &values);
    assert_eq!(office.state(card), CardState::Rejected);
    let kept = request(&office, &asked);
    assert_eq!((kept.state(), kept.reason.as_deref()), (RequestState::Rejected, Some(reason)));
    for object in [ObjectId::Request(asked.id), ObjectId::Card(card)] {
        let entries = block_on(office.engine.history(&object)).unwrap();
        let last = entries.last().unwrap();
        assert_eq!((last.code.as_ref(), last.text), ("rejected", Some(Digest::of(reason))));
        assert!(!serde_json::to_string(&entries).unwrap().contains("March"), "only the digest");
    }

    office.sync(SYNC_ORDERS);
    let told = office.mail.sent().into_iter().find(|m| m.kind == MessageKind::RequestRejected).unwrap();
    assert_eq!(told.recipient, Recipient::Actor(operator().id));
    assert_eq!(told.data.get("reason").map(String::as_str), Some(reason));
    assert_ne!(office.order("u1"), card, "the open order is free again");
}

#[test]
fn a_postponed_request_stays_open_and_the_postponement_is_on_record() {
    let office = office();
    let (card, asked) = ask(&office, "u1");
    let Outcome::Done { state, .. } = decide(&office, &approver(), &asked, "postpone") else { panic!() };
    assert_eq!(state, "open");
    assert_eq!(request(&office, &asked).state(), RequestState::Open);
    assert_eq!(office.state(card), CardState::Requested);
    let entries = block_on(office.engine.history(&ObjectId::Request(asked.id))).unwrap();
    assert_eq!(entries.last().unwrap().code, "postponed");
    assert_eq!(entries.last().unwrap().actor, approver().id);
    assert!(matches!(decide(&office, &approver(), &asked, "approve"), Outcome::Done { .. }));
}

#[test]
fn a_decision_must_be_one_of_the_three() {
    let office = office();
    let (_, asked) = ask(&office, "u1");
    let answer = |decision: &str| Answer::ids([ItemId::Request(asked.id)]).with("decision", decision);
    let error = office.try_run(APPROVAL, &approver(), answer("perhaps")).unwrap_err();
    assert!(matches!(error, Error::Answer(AnswerError::NotAllowed { .. })), "{error}");
    let error = office.try_run(APPROVAL, &approver(), Answer::ids([ItemId::Request(asked.id)])).unwrap_err();
    assert!(matches!(error, Error::Answer(AnswerError::Missing { .. })), "{error}");
}

#[test]
fn requester_and_holder_cannot_decide_whatever_login_they_use() {
    let office = office();
    let (card, asked) = ask(&office, "u1");
    for decision in ["approve", "reject"] {
        for (who, other_login) in [("requester", login("olga-admin", "p-olga")), ("holder", login("anybody", "u1"))] {
            let outcome = decide(&office, &other_login, &asked, decision);
            assert_eq!(refused(&outcome), RefusalCode::Person, "{who} may not {decision}");
        }
    }
    assert_eq!(office.state(card), CardState::Requested);
    // The same login, but another person: logins are not what is compared.
    assert!(matches!(decide(&office, &login("olga", "p-somebody"), &asked, "approve"), Outcome::Done { .. }));
}

#[test]
fn each_ban_on_self_approval_is_relaxed_by_its_own_name_only() {
    let cases = [
        (SelfApproval::Nobody, false, false),
        (SelfApproval::Requester, true, false),
        (SelfApproval::Holder, false, true),
        (SelfApproval::Anybody, true, true),
    ];
    for (rule, requester_may, holder_may) in cases {
        let office = Office::with(|builder| builder.rules(rules().self_approval(rule)));
        office.script(ORDER_SCRIPT, WITH_APPROVAL);
        let (_, first) = ask(&office, "u1");
        let (_, second) = ask(&office, "u2");
        let by_requester = decide(&office, &operator(), &first, "approve");
        assert_eq!(matches!(by_requester, Outcome::Done { .. }), requester_may, "{rule:?}, requester");
        let by_holder = decide(&office, &login("second", "u2"), &second, "approve");
        assert_eq!(matches!(by_holder, Outcome::Done { .. }), holder_may, "{rule:?}, holder");
    }
}

#[test]
fn a_holder_who_is_no_longer_active_gets_no_approval() {
    let office = office();
    let (card, asked) = ask(&office, "u1");
    office.users.put(User { state: UserState::Locked, ..person(1) });
    assert_eq!(refused(&decide(&office, &approver(), &asked, "approve")), RefusalCode::UserNotActive);
    assert_eq!(office.state(card), CardState::Requested);
    assert_eq!(request(&office, &asked).state(), RequestState::Open);
    assert!(matches!(decide(&office, &approver(), &asked, "reject"), Outcome::Done { .. }), "it can be rejected");
}

#[test]
fn the_requester_withdraws_and_the_open_order_is_free() {
    let office = office();
    let (card, asked) = ask(&office, "u1");
    office.one(ABORT_REQUEST, &login("olga-at-home", "p-olga"), ItemId::Request(asked.id), &[]);
    assert_eq!(office.state(card), CardState::Aborted);
    assert_eq!(office.card(card).withdrawal, Some(Withdrawal::Request));
    assert_eq!(request(&office, &asked).state(), RequestState::Aborted);
    assert_eq!(office.history(card), ["created", "approval_wanted", "request_withdrawn"]);
    assert_ne!(ask(&office, "u1").0, card);
}

#[test]
fn nobody_else_withdraws_a_request() {
    let office = office();
    let (card, asked) = ask(&office, "u1");
    for other in [approver(), login("olga", "p-other"), login("holder", "u1")] {
        let outcome = office.one(ABORT_REQUEST, &other, ItemId::Request(asked.id), &[]);
        assert_eq!(refused(&outcome), RefusalCode::Person, "{other:?}");
    }
    assert_eq!(office.state(card), CardState::Requested);
}

#[test]
fn of_approving_and_withdrawing_the_second_is_refused() {
    let office = office();
    let (card, asked) = ask(&office, "u1");
    decide(&office, &approver(), &asked, "approve");
    let late = office.one(ABORT_REQUEST, &operator(), ItemId::Request(asked.id), &[]);
    assert_eq!(refused(&late), RefusalCode::WrongState);
    assert_eq!(office.state(card), CardState::Processing);

    let (card, asked) = ask(&office, "u2");
    office.one(ABORT_REQUEST, &operator(), ItemId::Request(asked.id), &[]);
    for decision in ["approve", "reject", "postpone"] {
        assert_eq!(refused(&decide(&office, &approver(), &asked, decision)), RefusalCode::WrongState);
    }
    assert_eq!(office.state(card), CardState::Aborted);
}

#[test]
fn a_repeatedly_ordered_card_does_not_bring_its_old_request_back() {
    let office = office();
    let (card, asked) = ask(&office, "u1");
    decide(&office, &approver(), &asked, "approve");
    // A request that is decided stays decided, even where its card could take the change.
    assert_eq!(refused(&decide(&office, &approver(), &asked, "approve")), RefusalCode::WrongState);
    office.sync(SYNC_ORDERS);
    assert_eq!(office.state(card), CardState::Ordered);
    assert_eq!(refused(&decide(&office, &approver(), &asked, "postpone")), RefusalCode::WrongState);
}
