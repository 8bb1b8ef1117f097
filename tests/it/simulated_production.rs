//! The simulated CA and the simulated card personalizer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cardwright::adapters::simulator::{
    CaBehaviour, CaCalls, ChangeScript, DiscardScript, FindScript, FinishScript, HandleState, IssueScript,
    PersonalizerBehaviour, PrepareScript, SimulatedCa, SimulatedClock, SimulatedPersonalizer,
};
use cardwright::host::{
    CaOutcome, CaStatusOutcome, CardCertificate, CardPersonalizer as _, CertificateAuthority as _, CertificateOrder,
    DiscardOutcome, FindCertificateOutcome, FinishOrder, FinishOutcome, IssueOutcome, PrepareOrder, PrepareOutcome,
    Prepared,
};
use cardwright::{
    ActorId, Card, CardId, CardKind, CertificateKind, ChainKey, Delivery, IssuedCertificate, RevocationReason, Route,
    Secret, Stamp, StateAtCa, SymbolicName, Why,
};
use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use uuid::Uuid;

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn start() -> DateTime<Utc> {
    "2030-01-07T08:00:00Z".parse().expect("a time")
}

fn no() -> String {
    "no".to_owned()
}

/// What is answered at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("an answer at once")
}

// ---- the CA ------------------------------------------------------------------------------------------------------

fn ca(behaviour: CaBehaviour) -> (SimulatedClock, SimulatedCa) {
    let clock = SimulatedClock::new(start());
    let ca = SimulatedCa::new(1, Arc::new(clock.clone())).behaving(behaviour);
    (clock, ca)
}

fn calm() -> (SimulatedClock, SimulatedCa) {
    ca(CaBehaviour::calm())
}

fn order(key: &str) -> CertificateOrder {
    CertificateOrder::new(key, "authentication", "Ada Byron", start() + 365 * DAY)
}

fn ask(ca: &SimulatedCa, key: &str) -> IssueOutcome {
    now(ca.issue(&order(key)))
}

fn issued(ca: &SimulatedCa, key: &str) -> IssuedCertificate {
    match ask(ca, key) {
        IssueOutcome::Issued(certificate) => certificate,
        other => panic!("{key}: {other:?}"),
    }
}

fn state(ca: &SimulatedCa, certificate: &IssuedCertificate) -> CaStatusOutcome {
    now(ca.status(std::slice::from_ref(certificate))).remove(0)
}

fn known(state: StateAtCa) -> CaStatusOutcome {
    CaStatusOutcome::Known(state)
}

fn revoke(ca: &SimulatedCa, certificate: &IssuedCertificate) -> CaOutcome {
    now(ca.revoke(certificate, RevocationReason::KeyCompromise))
}

#[test]
fn serial_numbers_are_unique_and_follow_from_seed_and_key() {
    let (_, one) = calm();
    let (_, same) = calm();
    let keys: Vec<String> = (0..1000).map(|n| format!("K{n}")).collect();
    let certificates: Vec<_> = keys.iter().map(|key| issued(&one, key)).collect();
    let backwards: Vec<_> = keys.iter().rev().map(|key| issued(&same, key)).collect();
    assert!(certificates.iter().eq(backwards.iter().rev()));
    let serials: BTreeSet<_> = certificates.iter().map(|certificate| &certificate.serial).collect();
    assert_eq!(serials.len(), 1000);
    let positive = |serial: &&String| serial.len() == 32 && serial.as_str() < "8";
    assert!(serials.iter().all(positive));
    let other = SimulatedCa::new(2, Arc::new(SimulatedClock::new(start())));
    assert_ne!(issued(&other, "K0").serial, certificates[0].serial);
}

#[test]
fn what_it_issues_is_marked_as_no_certificate_and_names_nobody() {
    let (_, ca) = calm();
    let certificate = issued(&ca, "K");
    assert!(certificate.pem.contains("This is not a certificate."), "{}", certificate.pem);
    assert!(!certificate.pem.contains("BEGIN CERTIFICATE"), "{}", certificate.pem);
    let shown = format!("{certificate:?} {ca:?} {:?}", ca.ledger());
    for absent in ["Ada", "PRIVATE KEY"] {
        assert!(!shown.contains(absent), "{shown}");
    }
}

#[test]
fn each_script_decides_one_order() {
    let (_, ca) = calm();
    ca.next_issue(IssueScript::Refuse(no()));
    ca.next_issue(IssueScript::Unavailable);
    ca.next_issue(IssueScript::LoseReplyAfterIssuing);
    ca.next_issue(IssueScript::LoseReplyBeforeIssuing);
    ca.next_issue(IssueScript::IssueAfter(HOUR));
    assert_eq!(ask(&ca, "1"), IssueOutcome::Refused { reason: no() });
    assert!(matches!(ask(&ca, "2"), IssueOutcome::Unavailable { .. }));
    assert!(matches!(ask(&ca, "3"), IssueOutcome::Unknown { .. }));
    assert!(matches!(ask(&ca, "4"), IssueOutcome::Unknown { .. }));
    assert_eq!(ask(&ca, "5"), IssueOutcome::Pending);
    issued(&ca, "6");
    let keys: Vec<_> = ca.ledger().into_iter().map(|entry| entry.key).collect();
    assert_eq!((keys, ca.refused(), ca.pending()), (vec!["3".into(), "6".into()], vec!["1".into()], vec!["5".into()]));

    ca.next_issue(IssueScript::Unavailable);
    ca.next_issue_where(|order| order.key == "8", IssueScript::Refuse(no()));
    ca.every_issue_where(|order| order.key.starts_with('9'), IssueScript::LoseReplyBeforeIssuing);
    assert!(matches!(ask(&ca, "8"), IssueOutcome::Refused { .. }));
    assert!(matches!(ask(&ca, "9"), IssueOutcome::Unavailable { .. }));
    for _ in 0..3 {
        assert!(matches!(ask(&ca, "9"), IssueOutcome::Unknown { .. }));
    }
}

#[test]
fn what_is_issued_is_never_denied_and_what_is_refused_stays_so() {
    let (_, ca) = calm();
    let certificate = issued(&ca, "K");
    ca.next_issue(IssueScript::Refuse(no()));
    assert_eq!(ask(&ca, "K"), IssueOutcome::Issued(certificate.clone()));
    ca.next_issue(IssueScript::Unavailable);
    assert!(matches!(ask(&ca, "K"), IssueOutcome::Unknown { .. }), "unavailable would say: surely not issued");
    ca.behave(CaBehaviour::calm().refusing("authentication"));
    assert_eq!(ask(&ca, "K"), IssueOutcome::Issued(certificate));
    assert!(matches!(ask(&ca, "L"), IssueOutcome::Refused { .. }));
    ca.behave(CaBehaviour::calm());
    assert!(matches!(ask(&ca, "L"), IssueOutcome::Refused { .. }));
    assert!(matches!(now(ca.find("L")), FindCertificateOutcome::Refused { .. }));
    assert_eq!(ca.ledger().len(), 1);
}

#[test]
fn a_pending_order_is_decided_in_its_time() {
    let (clock, ca) = calm();
    for (key, script) in [
        ("yes", IssueScript::IssueAfter(2 * HOUR)),
        ("no", IssueScript::RefuseAfter(HOUR, no())),
        ("never", IssueScript::IssueAfter(Duration::MAX)),
    ] {
        ca.next_issue(script);
        assert_eq!(ask(&ca, key), IssueOutcome::Pending);
        assert_eq!(ask(&ca, key), IssueOutcome::Pending);
        assert!(matches!(now(ca.find(key)), FindCertificateOutcome::Pending));
    }
    clock.advance(HOUR);
    assert!(matches!(now(ca.find("no")), FindCertificateOutcome::Refused { .. }));
    assert!(matches!(now(ca.find("yes")), FindCertificateOutcome::Pending));
    clock.advance(10 * DAY);
    assert_eq!(ca.ledger()[0].at, start() + 2 * HOUR);
    assert!(matches!(now(ca.find("yes")), FindCertificateOutcome::Found { private_key: Some(_), .. }));
    assert_eq!((ca.pending(), ca.refused()), (vec!["never".to_owned()], vec![no()]));

    let (clock, ca) = self::ca(CaBehaviour::calm().pending(1000).pending_refused(500).decided_after(HOUR).spread(DAY));
    for n in 0..100 {
        assert_eq!(ask(&ca, &n.to_string()), IssueOutcome::Pending);
    }
    clock.advance(HOUR + DAY);
    let (issued, refused) = (ca.ledger().len(), ca.refused().len());
    assert!(issued + refused == 100 && issued > 20 && refused > 20, "{issued} issued, {refused} refused");
    let times: BTreeSet<_> = ca.ledger().into_iter().map(|entry| entry.at).collect();
    assert!(times.len() > 10, "each takes its own time");
}

#[test]
fn a_profile_can_be_refused_alone() {
    let (_, ca) = ca(CaBehaviour::calm().refusing("signature"));
    let mut signature = order("1");
    signature.profile = "signature".to_owned();
    assert!(matches!(now(ca.issue(&signature)), IssueOutcome::Refused { .. }));
    issued(&ca, "2");
    // Also a script cannot have it issued.
    signature.key = "3".to_owned();
    ca.next_issue(IssueScript::IssueAfter(HOUR));
    assert_eq!(now(ca.issue(&signature)), IssueOutcome::Pending);
    signature.key = "4".to_owned();
    ca.next_issue(IssueScript::LoseReplyAfterIssuing);
    assert!(matches!(now(ca.issue(&signature)), IssueOutcome::Refused { .. }));
    let all = self::ca(CaBehaviour::calm().refused(1000)).1;
    assert!(matches!(ask(&all, "1"), IssueOutcome::Refused { .. }));
}

#[test]
fn keys_are_made_here_or_come_with_the_request() {
    let (_, ca) = calm();
    let certificate = issued(&ca, "here");
    for _ in 0..2 {
        let FindCertificateOutcome::Found { private_key: Some(key), .. } = now(ca.find("here")) else {
            panic!("the key is given each time")
        };
        let public_key = SimulatedCa::public_key_for(key.expose());
        assert_eq!(SimulatedCa::public_key_in(&certificate), Some(public_key.as_str()));
    }
    revoke(&ca, &certificate);
    assert!(matches!(now(ca.find("here")), FindCertificateOutcome::Found { private_key: None, .. }));

    let mut requested = order("card");
    requested.request = Some("-----BEGIN CERTIFICATE REQUEST-----\nx\n".to_owned());
    let IssueOutcome::Issued(certificate) = now(ca.issue(&requested)) else { panic!("it is issued") };
    let public_key = SimulatedCa::public_key_for(requested.request.as_deref().unwrap_or_default().as_bytes());
    assert_eq!(SimulatedCa::public_key_in(&certificate), Some(public_key.as_str()));
    assert!(matches!(now(ca.find("card")), FindCertificateOutcome::Found { private_key: None, .. }));
    assert_eq!(ca.ledger().iter().map(|entry| entry.made_key).collect::<Vec<_>>(), [true, false]);

    requested.key = "malformed".to_owned();
    requested.request = Some("x".to_owned());
    assert!(matches!(now(ca.issue(&requested)), IssueOutcome::Refused { .. }));
    for behaviour in [CaBehaviour::calm().makes_keys(false), CaBehaviour::calm().can_look(false)] {
        let (_, ca) = self::ca(behaviour);
        assert!(matches!(ask(&ca, "none"), IssueOutcome::Refused { .. }));
        requested.request = Some("-----BEGIN CERTIFICATE REQUEST-----\nx\n".to_owned());
        assert!(matches!(now(ca.issue(&requested)), IssueOutcome::Issued(_)));
    }
}

#[test]
fn each_script_decides_one_change_or_look() {
    let (_, ca) = calm();
    let certificate = issued(&ca, "K");
    ca.next_hold(ChangeScript::Unavailable);
    ca.next_hold(ChangeScript::Refuse(no()));
    ca.next_hold(ChangeScript::LoseReplyAfterDoing);
    assert!(matches!(now(ca.hold(&certificate)), CaOutcome::Unavailable { .. }));
    assert_eq!(now(ca.hold(&certificate)), CaOutcome::Refused { reason: no() });
    assert_eq!(state(&ca, &certificate), known(StateAtCa::Valid));
    assert!(matches!(now(ca.hold(&certificate)), CaOutcome::Unavailable { .. }));
    assert_eq!(state(&ca, &certificate), known(StateAtCa::OnHold));
    assert_eq!(now(ca.hold(&certificate)), CaOutcome::Done);

    ca.next_remove_hold(ChangeScript::Unavailable);
    assert!(matches!(now(ca.remove_hold(&certificate)), CaOutcome::Unavailable { .. }));
    assert_eq!(now(ca.remove_hold(&certificate)), CaOutcome::Done);
    ca.next_revoke(ChangeScript::LoseReplyAfterDoing);
    assert!(matches!(revoke(&ca, &certificate), CaOutcome::Unavailable { .. }));
    assert_eq!(revoke(&ca, &certificate), CaOutcome::AlreadyRevoked);

    ca.next_find(FindScript::Unavailable);
    ca.next_find(FindScript::CannotLook);
    assert!(matches!(now(ca.find("K")), FindCertificateOutcome::Unavailable { .. }));
    assert!(matches!(now(ca.find("K")), FindCertificateOutcome::CannotLook));
    assert!(matches!(now(ca.find("K")), FindCertificateOutcome::Found { .. }));
    assert!(matches!(now(ca.find("L")), FindCertificateOutcome::NotFound));

    let mut expected = CaCalls::default();
    (expected.issue, expected.find, expected.hold) = (1, 3, 4);
    (expected.remove_hold, expected.revoke, expected.status) = (2, 2, 2);
    let entry = ca.ledger().remove(0);
    assert_eq!((entry.calls, entry.reason), (expected, Some(RevocationReason::KeyCompromise)));
    assert_eq!(ca.calls_for("L").find, 1);
    assert_eq!(ca.calls().find, 4);
}

#[test]
fn late_and_silent_answers_hold_up_the_call_only() {
    let (clock, ca) = calm();
    ca.next_issue(IssueScript::Late(HOUR));
    let late_order = order("late");
    let mut late = ca.issue(&late_order);
    assert!((&mut late).now_or_never().is_none());
    assert_eq!(ca.ledger().len(), 1, "it is issued at once");
    clock.advance(HOUR);
    assert!(matches!(late.now_or_never(), Some(IssueOutcome::Issued(_))));

    ca.next_issue(IssueScript::Silent);
    ca.next_issue(IssueScript::Late(Duration::MAX));
    for key in ["silent", "late for ever"] {
        let order = order(key);
        let mut call = ca.issue(&order);
        assert!((&mut call).now_or_never().is_none());
        clock.advance(100 * DAY);
        assert!(call.now_or_never().is_none());
    }
    assert!(matches!(now(ca.find("silent")), FindCertificateOutcome::NotFound));
    assert!(matches!(now(ca.find("late for ever")), FindCertificateOutcome::Found { .. }));

    let certificate = issued(&ca, "changed");
    ca.next_hold(ChangeScript::Silent);
    assert!(ca.hold(&certificate).now_or_never().is_none());
    ca.next_revoke(ChangeScript::Late(HOUR));
    assert!(ca.revoke(&certificate, RevocationReason::Superseded).now_or_never().is_none());
    let last = ca.ledger().pop().expect("an entry");
    assert_eq!(last.reason, Some(RevocationReason::Superseded));
    ca.next_find(FindScript::Late(HOUR));
    assert!(ca.find("changed").now_or_never().is_none());
}

#[test]
fn an_outage_stops_everything_and_uses_up_no_script() {
    let (clock, ca) = calm();
    let certificate = issued(&ca, "K");
    ca.outage(start() + HOUR);
    ca.next_issue(IssueScript::Refuse(no()));
    ca.next_revoke(ChangeScript::Refuse(no()));
    assert!(matches!(ask(&ca, "L"), IssueOutcome::Unavailable { .. }));
    assert!(matches!(ask(&ca, "K"), IssueOutcome::Unknown { .. }));
    assert!(matches!(now(ca.find("K")), FindCertificateOutcome::Unavailable { .. }));
    assert!(matches!(now(ca.hold(&certificate)), CaOutcome::Unavailable { .. }));
    assert!(matches!(revoke(&ca, &certificate), CaOutcome::Unavailable { .. }));
    assert!(matches!(state(&ca, &certificate), CaStatusOutcome::Unavailable { .. }));
    clock.advance(HOUR);
    assert_eq!(ask(&ca, "L"), IssueOutcome::Refused { reason: no() });
    assert_eq!(revoke(&ca, &certificate), CaOutcome::Refused { reason: no() });
    assert_eq!(revoke(&ca, &certificate), CaOutcome::Done);
}

#[test]
fn a_ca_without_hold_or_look_says_so() {
    let (_, ca) = ca(CaBehaviour::calm().can_hold(false));
    let certificate = issued(&ca, "K");
    assert_eq!(now(ca.hold(&certificate)), CaOutcome::Unsupported);
    assert_eq!(now(ca.remove_hold(&certificate)), CaOutcome::Unsupported);
    assert_eq!(revoke(&ca, &certificate), CaOutcome::Done);
    ca.behave(CaBehaviour::calm().can_look(false));
    assert!(matches!(now(ca.find("K")), FindCertificateOutcome::CannotLook));
}

#[test]
fn validity_ends_and_is_cut() {
    let (clock, ca) = ca(CaBehaviour::calm().longest_validity(10 * DAY));
    let certificate = issued(&ca, "K");
    assert_eq!(certificate.valid_until, start() + 10 * DAY);
    clock.advance(10 * DAY);
    assert_eq!(state(&ca, &certificate), known(StateAtCa::Expired));
    assert_eq!(revoke(&ca, &certificate), CaOutcome::AlreadyExpired);
    assert_eq!(now(ca.hold(&certificate)), CaOutcome::AlreadyExpired);
}

#[test]
fn a_person_at_the_ca_may_change_a_certificate() {
    let (_, ca) = calm();
    let certificate = issued(&ca, "K");
    assert!(ca.set_state(&certificate.serial, StateAtCa::OnHold));
    assert_eq!(state(&ca, &certificate), known(StateAtCa::OnHold));
    assert!(!ca.set_state(&certificate.serial, StateAtCa::Expired));
    assert!(ca.set_state(&certificate.serial, StateAtCa::Revoked));
    assert!(!ca.set_state(&certificate.serial, StateAtCa::Valid));
    assert!(!ca.set_state("unknown", StateAtCa::Valid));
    assert_eq!(now(ca.remove_hold(&certificate)), CaOutcome::AlreadyRevoked);
}

#[test]
fn the_fates_of_orders_follow_from_the_seed_and_not_from_their_order() {
    let fates = |seed, backwards: bool| {
        let behaviour = CaBehaviour::faulty().refused(200).unavailable(200).lost_after_issuing(200).late(0).silent(0);
        let ca = SimulatedCa::new(seed, Arc::new(SimulatedClock::new(start()))).behaving(behaviour);
        let mut keys: Vec<_> = (0..300).map(|n| n.to_string()).collect();
        if backwards {
            keys.reverse();
        }
        let mut fates: Vec<_> = keys.into_iter().map(|key| (ask(&ca, &key), key)).collect();
        fates.sort_by(|one, other| one.1.cmp(&other.1));
        fates
    };
    assert_eq!(fates(1, false), fates(1, true));
    assert_ne!(fates(1, false), fates(2, false));
}

#[test]
fn behaviours_can_be_data() {
    let ca = CaBehaviour::faulty().refusing("signature");
    let text = serde_json::to_string(&ca).expect("JSON");
    assert_eq!(serde_json::from_str::<CaBehaviour>(&text).expect("a behaviour"), ca);
    let machine = PersonalizerBehaviour::faulty().makes_keys(true);
    let text = serde_json::to_string(&machine).expect("JSON");
    assert_eq!(serde_json::from_str::<PersonalizerBehaviour>(&text).expect("a behaviour"), machine);
    assert!(serde_json::from_str::<CaBehaviour>(r#"{"can_hodl": true}"#).is_err());
}

// ---- the personalizer --------------------------------------------------------------------------------------------

fn machine(behaviour: PersonalizerBehaviour) -> (SimulatedClock, SimulatedPersonalizer) {
    let clock = SimulatedClock::new(start());
    let machine = SimulatedPersonalizer::new(1, Arc::new(clock.clone())).behaving(behaviour);
    (clock, machine)
}

fn calm_machine() -> (SimulatedClock, SimulatedPersonalizer) {
    machine(PersonalizerBehaviour::calm())
}

fn card(number: u128) -> Card {
    let actor = ActorId::new("tester").expect("an id");
    let process = SymbolicName::new("Test").expect("a name");
    let stamp = Stamp { at: start(), actor: &actor, process: &process, run: None, key: &ChainKey::none() };
    let id = CardId::new(Uuid::from_u128(number));
    Card::create(id, CardKind::Permanent, Route::Local, &stamp, Why::code("created")).0
}

fn prepare(machine: &SimulatedPersonalizer, card: &Card) -> PrepareOutcome {
    let kinds = [CertificateKind::Authentication, CertificateKind::Signature];
    now(machine.prepare(&PrepareOrder::new("prepare", card, &kinds)))
}

fn prepared(machine: &SimulatedPersonalizer, card: &Card) -> Prepared {
    match prepare(machine, card) {
        PrepareOutcome::Prepared(prepared) => prepared,
        other => panic!("{other:?}"),
    }
}

fn finish_order<'a>(handle: &'a str, card: &'a Card, pin: &str) -> FinishOrder<'a> {
    let certificate = IssuedCertificate {
        issuer: "CN=Tests".to_owned(),
        serial: "1".to_owned(),
        valid_until: start() + DAY,
        pem: "for tests".to_owned(),
    };
    let secret = |text: &str| Secret::new(text.as_bytes().to_vec());
    let mut order = FinishOrder::new("finish", handle, card);
    order.certificates.push(CardCertificate {
        kind: CertificateKind::Signature,
        certificate,
        private_key: Some(secret("the key 20480915")),
    });
    order.pin = Some((secret(pin), Delivery::Print));
    order.puk = Some((secret("84716253"), Delivery::Email));
    order
}

fn finish(machine: &SimulatedPersonalizer, handle: &str, card: &Card) -> FinishOutcome {
    now(machine.finish(finish_order(handle, card, "482913")))
}

fn states(machine: &SimulatedPersonalizer) -> Vec<HandleState> {
    machine.ledger().into_iter().map(|card| card.state).collect()
}

#[test]
fn a_finished_card_is_on_the_books_without_its_secrets() {
    let (_, machine) = calm_machine();
    for (number, pin) in [(1, "482913"), (2, "170395"), (3, "482913")] {
        let card = card(number);
        let handle = prepared(&machine, &card).handle;
        assert_eq!(now(machine.finish(finish_order(&handle, &card, pin))), FinishOutcome::Good);
        assert_eq!(machine.finished_for(card.id), 1);
    }
    let books = machine.ledger();
    let first = &books[0];
    assert_eq!((first.state, first.card), (HandleState::Finished, card(1).id));
    assert_eq!((first.reference.as_str(), &first.finish_references[..]), ("prepare", &["finish".to_owned()][..]));
    assert_eq!(first.wanted, [CertificateKind::Authentication, CertificateKind::Signature]);
    assert_eq!((&first.written[..], &first.with_key[..]), (&[CertificateKind::Signature][..], &first.written[..]));
    let pins: Vec<_> = books.iter().map(|card| card.pin.expect("a PIN")).collect();
    assert_eq!((pins[0].length, pins[0].delivery), (6, Delivery::Print));
    let puk = first.puk.expect("a PUK");
    assert_eq!((puk.length, puk.delivery), (8, Delivery::Email));
    assert!(pins[0].digest != pins[1].digest && pins[0].digest == pins[2].digest);
    assert_eq!(pins[1].digest, SimulatedPersonalizer::digest(b"170395"));
    let shown = format!("{machine:?} {books:?}");
    for secret in ["482913", "170395", "84716253", "20480915"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn each_script_decides_one_card() {
    let (_, machine) = calm_machine();
    let card = card(1);
    machine.next_prepare(PrepareScript::Spoil(no()));
    machine.next_prepare(PrepareScript::Jam);
    machine.next_prepare(PrepareScript::LoseReplyAfterPreparing);
    machine.next_prepare(PrepareScript::LoseReplyBeforePreparing);
    assert_eq!(prepare(&machine, &card), PrepareOutcome::Spoiled { reason: no() });
    assert!(matches!(prepare(&machine, &card), PrepareOutcome::Unavailable { .. }));
    assert!(matches!(prepare(&machine, &card), PrepareOutcome::Unknown { .. }));
    assert!(matches!(prepare(&machine, &card), PrepareOutcome::Unknown { .. }));
    assert_eq!(states(&machine), [HandleState::Spoiled, HandleState::Prepared]);

    for (script, outcome, state) in [
        (FinishScript::Spoil(no()), FinishOutcome::Spoiled { reason: no() }, HandleState::Spoiled),
        (FinishScript::Jam, FinishOutcome::Unavailable { reason: no() }, HandleState::Prepared),
        (FinishScript::LoseReplyAfterFinishing, FinishOutcome::Unknown { reason: no() }, HandleState::Finished),
        (FinishScript::LoseReplyAfterSpoiling, FinishOutcome::Unknown { reason: no() }, HandleState::Spoiled),
        (FinishScript::LoseReplyBeforeFinishing, FinishOutcome::Unknown { reason: no() }, HandleState::Prepared),
    ] {
        let handle = prepared(&machine, &card).handle;
        machine.next_finish(script.clone());
        let found = finish(&machine, &handle, &card);
        assert_eq!(std::mem::discriminant(&found), std::mem::discriminant(&outcome), "{script:?}");
        assert_eq!(states(&machine).last(), Some(&state), "{script:?}");
    }

    let handle = prepared(&machine, &card).handle;
    machine.next_discard(DiscardScript::Jam);
    machine.next_discard(DiscardScript::LoseReplyAfterDiscarding);
    assert!(matches!(now(machine.discard(&handle)), DiscardOutcome::Unavailable { .. }));
    assert_eq!(states(&machine).last(), Some(&HandleState::Prepared));
    assert!(matches!(now(machine.discard(&handle)), DiscardOutcome::Unavailable { .. }));
    assert_eq!(states(&machine).last(), Some(&HandleState::Discarded));
    assert_eq!(now(machine.discard(&handle)), DiscardOutcome::Done);
    let calls = machine.calls();
    assert_eq!((calls.prepare, calls.finish, calls.discard), (10, 5, 3));
}

#[test]
fn scripts_can_be_for_one_card_or_for_all_of_a_kind() {
    let (_, machine) = calm_machine();
    let (good, bad) = (card(1), card(2));
    let id = bad.id;
    machine.every_finish_where(move |card| card.id == id, FinishScript::Spoil(no()));
    machine.next_prepare_where(move |card| card.id == id, PrepareScript::Jam);
    machine.every_prepare_where(|_| true, PrepareScript::Prepare);
    machine.next_finish_where(|_| true, FinishScript::Jam);
    let handle = prepared(&machine, &good).handle;
    assert!(matches!(finish(&machine, &handle, &good), FinishOutcome::Unavailable { .. }));
    assert_eq!(finish(&machine, &handle, &good), FinishOutcome::Good);
    assert!(matches!(prepare(&machine, &bad), PrepareOutcome::Unavailable { .. }));
    for _ in 0..3 {
        let handle = prepared(&machine, &bad).handle;
        assert!(matches!(finish(&machine, &handle, &bad), FinishOutcome::Spoiled { .. }));
    }
}

#[test]
fn chips_have_serial_numbers_of_their_own_unless_a_test_wants_two_alike() {
    let (_, machine) = calm_machine();
    let serials: BTreeSet<_> = (0..500).map(|n| prepared(&machine, &card(n)).chip_serial.expect("a chip")).collect();
    assert_eq!(serials.len(), 500);
    let first = serials.first().cloned().expect("a serial number");
    machine.next_chip_serial(first.clone());
    assert_eq!(prepared(&machine, &card(1)).chip_serial, Some(first.clone()));
    assert_ne!(prepared(&machine, &card(1)).chip_serial, Some(first));
    machine.behave(PersonalizerBehaviour::calm().has_chips(false));
    assert_eq!(prepared(&machine, &card(1)).chip_serial, None);
}

#[test]
fn keys_on_the_card_come_as_requests_that_the_ca_takes() {
    let (_, machine) = machine(PersonalizerBehaviour::calm().makes_keys(true));
    let (_, ca) = ca(CaBehaviour::calm().makes_keys(false));
    let requests = prepared(&machine, &card(1)).requests;
    assert_eq!(requests.keys().copied().collect::<Vec<_>>(), CertificateKind::ALL[..2]);
    let mut public_keys = BTreeSet::new();
    for (kind, request) in requests {
        assert!(request.contains("This is not a request."));
        let mut order = order(kind.name());
        order.request = Some(request);
        let IssueOutcome::Issued(certificate) = now(ca.issue(&order)) else { panic!("it is issued") };
        public_keys.insert(SimulatedCa::public_key_in(&certificate).map(str::to_owned));
    }
    assert_eq!(public_keys.len(), 2);
}

#[test]
fn a_handle_is_finished_once_and_for_its_own_card() {
    let (_, machine) = calm_machine();
    let (card, other) = (card(1), self::card(2));
    let handle = prepared(&machine, &card).handle;
    assert!(matches!(finish(&machine, &handle, &other), FinishOutcome::Spoiled { .. }));
    assert!(matches!(finish(&machine, "unknown", &card), FinishOutcome::Spoiled { .. }));
    assert_eq!(finish(&machine, &handle, &card), FinishOutcome::Good);
    // Neither good, for the new PIN is not on it, nor spoiled, for it is usable.
    assert!(matches!(finish(&machine, &handle, &card), FinishOutcome::Unknown { .. }));
    assert_eq!(machine.finished_for(card.id), 1);
    assert_eq!(now(machine.discard(&handle)), DiscardOutcome::Done);
    assert_eq!(states(&machine), [HandleState::Finished]);

    let lost = prepared(&machine, &card).handle;
    machine.restart();
    assert!(matches!(finish(&machine, &lost, &card), FinishOutcome::Spoiled { .. }));
    assert_eq!(states(&machine), [HandleState::Finished, HandleState::Spoiled]);
}

#[test]
fn a_machine_can_be_late_silent_or_away() {
    let (clock, machine) = calm_machine();
    let card = card(1);
    machine.next_prepare(PrepareScript::Late(HOUR));
    let order = PrepareOrder::new("late", &card, &[]);
    let mut late = machine.prepare(&order);
    assert!((&mut late).now_or_never().is_none());
    assert_eq!(states(&machine), [HandleState::Prepared]);
    clock.advance(HOUR);
    let Some(PrepareOutcome::Prepared(prepared)) = late.now_or_never() else { panic!("it is late, not lost") };

    machine.next_finish(FinishScript::Silent);
    machine.next_finish(FinishScript::Late(Duration::MAX));
    assert!(machine.finish(finish_order(&prepared.handle, &card, "482913")).now_or_never().is_none());
    assert_eq!(states(&machine), [HandleState::Prepared]);
    assert!(machine.finish(finish_order(&prepared.handle, &card, "482913")).now_or_never().is_none());
    assert_eq!(states(&machine), [HandleState::Finished]);
    machine.next_prepare(PrepareScript::Silent);
    assert!(machine.prepare(&order).now_or_never().is_none());
    machine.next_discard(DiscardScript::Silent);
    assert!(machine.discard("any").now_or_never().is_none());

    let handle = self::prepared(&machine, &card).handle;
    machine.outage(start() + 2 * HOUR);
    assert!(matches!(prepare(&machine, &card), PrepareOutcome::Unavailable { .. }));
    assert!(matches!(finish(&machine, &handle, &card), FinishOutcome::Unavailable { .. }));
    assert!(matches!(now(machine.discard(&handle)), DiscardOutcome::Unavailable { .. }));
    clock.advance(HOUR);
    assert_eq!(finish(&machine, &handle, &card), FinishOutcome::Good);
}

#[test]
fn the_fates_of_cards_follow_from_the_seed_and_not_from_their_order() {
    let fates = |seed, backwards: bool| {
        let behaviour = PersonalizerBehaviour::calm().prepare_jammed(200).finish_spoiled(200).finish_lost(200);
        let machine = SimulatedPersonalizer::new(seed, Arc::new(SimulatedClock::new(start()))).behaving(behaviour);
        let mut numbers: Vec<u128> = (0..200).collect();
        if backwards {
            numbers.reverse();
        }
        let fate = |number| {
            let card = card(number);
            let outcome = prepare(&machine, &card);
            let finished = match &outcome {
                PrepareOutcome::Prepared(prepared) => Some(finish(&machine, &prepared.handle, &card)),
                _ => None,
            };
            (number, outcome, finished)
        };
        let mut fates: Vec<_> = numbers.into_iter().map(fate).collect();
        fates.sort_by_key(|(number, ..)| *number);
        fates
    };
    assert_eq!(fates(1, false), fates(1, true));
    assert_ne!(fates(1, false), fates(2, false));
    let spoiled =
        fates(1, false).iter().filter(|(_, _, end)| matches!(end, Some(FinishOutcome::Spoiled { .. }))).count();
    assert!((10..80).contains(&spoiled), "{spoiled} of about 160 at 200 in a thousand");
}
