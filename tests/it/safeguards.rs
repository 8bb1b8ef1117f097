//! What keeps a production safe: one test for each thing that is looked at before a card, a certificate or an answer is taken.

use std::collections::BTreeMap;
use std::time::Duration;

use cardwright::adapters::simulator::{
    CaBehaviour, ChangeScript, DiscardScript, FinishScript, HandleState, IssueScript, PersonalizerBehaviour,
    PrepareScript,
};
use cardwright::host::CaStatusOutcome;
use cardwright::process::{Answer, ItemId, Outcome, RefusalCode};
use cardwright::{
    CardId, CardState, CertificateKind, CertificateState, EngineSettings, JobKind, JobState, StateAtCa, Task, User,
    UserState,
};
use futures::executor::block_on;

use crate::fits_together::{fits_together, nothing_left_over};
use crate::machines::{CaCall, Workshop, bare};
use crate::office::{
    CARD_SCRIPT, ISSUE, LOCK, Office, REPEAT_PRODUCTION, SYNC_ORPHANS, SYNC_PRODUCTION, operator, person,
};
use crate::producing::{a_day_later, activate, issue, issued, lock, refused, resolve, state_of, states};
use crate::watched::jobs;

use CertificateKind::{Authentication, Encryption, Signature};

const SECOND: Duration = Duration::from_secs(1);
const ONE_CERTIFICATE: &str = "CardsCertificates = { signature = false }";
const NO_CERTIFICATES: &str = "CardsCertificates = { authentication = false, signature = false, encryption = false }";

/// Why a card failed, and that it was put aside.
fn failure(office: &Office, card: CardId) -> String {
    assert_eq!(office.state(card), CardState::Failed);
    assert_eq!(office.personalizer.ledger()[0].state, HandleState::Discarded);
    office.card(card).failure.expect("it failed").cause
}

// ---- claims --------------------------------------------------------------------------------------------------------

#[test]
fn machine_may_take_as_long_as_its_time_out_and_nobody_else_takes_up_its_card() {
    for at in [JobKind::PrepareCard, JobKind::FinishCard] {
        let settings = EngineSettings::new().lease(60 * SECOND).production_time_out(300 * SECOND);
        let workshop = Workshop::with(settings);
        let (office, other) = (&workshop.office, workshop.second());
        let card = office.request("u1");
        workshop.machine.before_answer(at, move || {
            other.clock.advance(299 * SECOND);
            let report = other.sync(SYNC_PRODUCTION);
            assert_eq!(report.items, 0, "{report:?}");
        });
        assert_eq!(state_of(&issue(office, card)), "issued", "{at}");
    }
}

#[test]
fn claim_that_would_not_outlast_the_machine_is_renewed_before_the_ca_is_asked() {
    let settings =
        EngineSettings::new().cards_at_once(1).lease(2000 * SECOND).production_time_out(1000 * SECOND).chunk(9);
    let workshop = Workshop::with(settings);
    let (office, ca, other) = (&workshop.office, &workshop.ca, workshop.second());
    for user in ["u1", "u2", "u3"] {
        office.personalizer.next_finish(FinishScript::Jam);
        assert_eq!(state_of(&issue(office, office.request(user))), "begun");
    }
    office.clock.advance(3600 * SECOND);
    // All three are claimed at once. Two take nearly as long as they may, which leaves little to the third; and the CA, which
    // is asked once for the states and once for each key, is slow then, as slow as it may be.
    for _ in 0..2 {
        office.personalizer.next_finish(FinishScript::Late(980 * SECOND));
        ca.before_answer(CaCall::Status, || {});
        ca.before_answer(CaCall::Find, || {});
        ca.before_answer(CaCall::Find, || {});
    }
    for call in [CaCall::Status, CaCall::Find] {
        let clock = office.clock.clone();
        ca.before_answer(call, move || clock.advance(29 * SECOND));
    }
    ca.before_answer(CaCall::Find, move || {
        let report = other.sync(SYNC_PRODUCTION);
        assert_eq!(report.items, 0, "{report:?}");
    });
    let report = office.sync(SYNC_PRODUCTION);
    assert_eq!(report.done.get("issued"), Some(&3), "{report:?}");
}

#[test]
fn nobody_gives_up_a_production_that_somebody_is_at() {
    let workshop = Workshop::new();
    let (office, other) = (&workshop.office, workshop.second());
    let card = office.request("u1");
    workshop.ca.before_answer(CaCall::Issue, move || {
        let reason = refused(&resolve(&other, ItemId::Card(card), "give up"), RefusalCode::NotInDoubt).to_owned();
        assert!(reason.contains("there is nothing to settle"), "{reason}");
    });
    assert_eq!(state_of(&issue(office, card)), "issued");
    assert!(!office.history(card).contains(&"settled_given_up".to_owned()));
}

#[test]
fn engine_leaves_alone_what_it_has_no_part_for() {
    let workshop = Workshop::new();
    let office = &workshop.office;
    let unequipped = bare(office, workshop.store.clone(), |builder| builder);
    let (made, begun) = (issued(office, "u1"), office.request("u2"));
    office.personalizer.next_finish(FinishScript::Jam);
    issue(office, begun);
    office.clock.advance(3600 * SECOND);
    let before = jobs(office, JobKind::FinishCard);
    assert_eq!(unequipped.sync(SYNC_PRODUCTION).items, 0);
    assert_eq!(jobs(office, JobKind::FinishCard), before, "it was not even claimed");

    assert_eq!(state_of(&lock(&unequipped, made, "keyCompromise")), "locked");
    let owed = jobs(office, JobKind::RevokeCertificate);
    let untouched: Vec<_> = owed.iter().map(|job| (job.state, &job.claim, job.version)).collect();
    assert_eq!(untouched, [(JobState::Open, &None, 1); 2]);
    let report = office.sync(SYNC_PRODUCTION);
    assert_eq!((report.items, report.done.get("issued")), (3, Some(&1)), "{report:?}");
    assert!(office.ca.ledger().iter().filter(|entry| entry.state == StateAtCa::Revoked).count() == 2);
}

// ---- what the office has -------------------------------------------------------------------------------------------

#[test]
fn office_without_a_machine_makes_no_cards_and_without_a_ca_none_with_certificates() {
    let workshop = Workshop::new();
    let office = &workshop.office;
    let card = office.request("u1");
    let nothing = bare(office, workshop.store.clone(), |builder| builder);
    let with_machine = bare(office, workshop.store.clone(), |builder| builder.personalizer(workshop.machine.clone()));
    assert_eq!(refused(&issue(&nothing, card), RefusalCode::NotEquipped), "this office has no card personalizer");
    let reason = refused(&issue(&with_machine, card), RefusalCode::NotEquipped).to_owned();
    assert_eq!(reason, "this office has no certificate authority");
    assert_eq!(office.history(card).last().map(String::as_str), Some("approval_not_needed"), "nothing was begun");
    office.script(CARD_SCRIPT, NO_CERTIFICATES);
    assert_eq!(refused(&issue(&nothing, card), RefusalCode::NotEquipped), "this office has no card personalizer");
    assert_eq!(state_of(&issue(&with_machine, card)), "issued");
}

// ---- the holder ----------------------------------------------------------------------------------------------------

#[test]
fn holder_is_looked_at_again_before_the_hold_and_before_the_card_is_finished() {
    let before_the_hold: fn(&Office) = |office| office.ca.next_hold(ChangeScript::Unavailable);
    let before_the_finish: fn(&Office) = |office| office.personalizer.next_finish(FinishScript::Jam);
    for delay in [before_the_hold, before_the_finish] {
        let office = Office::new();
        let card = office.request("u1");
        delay(&office);
        assert_eq!(state_of(&issue(&office, card)), "begun");
        office.users.put(User { state: UserState::Inactive, ..person(1) });
        let calls = (office.ca.calls().hold, office.personalizer.calls().finish);
        a_day_later(&office);
        let cause = failure(&office, card);
        assert!(cause.contains("not active any more"), "{cause}");
        assert_eq!((office.ca.calls().hold, office.personalizer.calls().finish), calls, "nobody was asked");
    }
}

// ---- what the machine gives ------------------------------------------------------------------------------------------

#[test]
fn handle_that_is_none_leaves_the_card_in_doubt() {
    for handle in ["", " ", "a\nb", "a\0b", &"9".repeat(201)] {
        let Workshop { office, machine, .. } = Workshop::new();
        let card = office.request("u1");
        let given = handle.to_owned();
        machine.next_prepared(move |prepared| prepared.handle.clone_from(&given));
        let outcome = issue(&office, card);
        let words = "the personalizer gave a handle that is none";
        assert!(matches!(&outcome, Outcome::InDoubt { reason, .. } if reason == words), "{handle:?}: {outcome:?}");
        assert_eq!(office.ca.calls().issue, 0);
    }
}

#[test]
fn handle_that_another_card_has_leaves_the_card_in_doubt() {
    let Workshop { office, machine, .. } = Workshop::new();
    for _ in 0..2 {
        machine.next_prepared(|prepared| prepared.handle = "TRAY".to_owned());
    }
    let cards = [office.request("u1"), office.request("u2")];
    let answer = Answer::ids(cards.map(ItemId::Card));
    let (report, _) = office.run(ISSUE, &operator(), answer);
    assert_eq!((report.in_doubt, report.interrupted.as_ref()), (1, None), "{report:?}");
    let doubt = block_on(office.engine.doubts(None, 10)).expect("readable").remove(0);
    assert_eq!(doubt.kind(), JobKind::PrepareCard);
    let remark = doubt.remark.expect("why");
    assert!(remark.starts_with("the personalizer calls it TRAY, which is still held by "), "{remark}");
}

#[test]
fn requests_that_are_none_or_for_other_certificates_are_of_no_use() {
    let request = "-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n";
    let of = |kinds: &[CertificateKind], request: &str| {
        kinds.iter().map(|kind| (*kind, request.to_owned())).collect::<BTreeMap<_, _>>()
    };
    let wanted = [Authentication, Signature];
    let is_none = "the personalizer gave a certificate request that is none";
    let is_other = "the personalizer gave requests for other certificates than wanted";
    for (requests, words) in [
        (of(&wanted, "please"), is_none),
        (of(&wanted, ""), is_none),
        (of(&wanted, &request.replace(" REQUEST", "")), is_none),
        (of(&wanted, &request.repeat(2)), is_none),
        (of(&wanted, &request.replace("MAA=", "\0")), is_none),
        (of(&wanted, &request.replace("MAA=", &"MAA=\n".repeat(20_000))), is_none),
        (of(&wanted, &format!("{request} -----BEGIN PRIVATE KEY-----\nMAA=\n -----END PRIVATE KEY-----")), is_none),
        (of(&[Authentication], request), is_other),
        (of(&[Authentication, Encryption], request), is_other),
        (of(&[Authentication, Signature, Encryption], request), is_other),
    ] {
        let Workshop { office, machine, .. } = Workshop::new();
        let card = office.request("u1");
        let given = requests.clone();
        machine.next_prepared(move |prepared| prepared.requests.clone_from(&given));
        assert_eq!(state_of(&issue(&office, card)), "failed", "{requests:?}");
        assert_eq!(failure(&office, card), words);
        assert_eq!(office.ca.calls().issue, 0);
    }
}

// ---- what the CA gives -----------------------------------------------------------------------------------------------

#[test]
fn certificate_with_a_private_key_in_it_is_not_taken() {
    let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0IGtleQ==\n-----END PRIVATE KEY-----\n";
    for with_key in [
        (|pem, key| format!("{pem}{key}")) as fn(&str, &str) -> String,
        |pem, key| format!("{key}{pem}"),
        |pem, key| format!("{pem}{}", key.replace("-----BEGIN", " -----BEGIN")),
    ] {
        let Workshop { office, ca, .. } = Workshop::new();
        let card = office.request("u1");
        ca.every_certificate(move |issued| issued.pem = with_key(&issued.pem, key));
        let outcome = issue(&office, card);
        let says = |reason: &str| reason.starts_with("the CA gave a certificate that is none: serial ");
        assert!(matches!(&outcome, Outcome::InDoubt { reason, .. } if says(reason)), "{outcome:?}");
        assert_eq!(office.certificates(card), []);
        let stored = format!("{:?} {:?}", office.card(card), jobs(&office, JobKind::IssueCertificate));
        assert!(!stored.contains("c2VjcmV0IGtleQ==") && !stored.contains("PRIVATE KEY"), "{stored}");
        // A person sees to it that the CA gives what it should.
        ca.be_right();
        resolve(&office, ItemId::Card(card), "send again");
        a_day_later(&office);
        assert_eq!(office.state(card), CardState::Issued);
    }
}

#[test]
fn certificate_that_the_ca_does_not_know_is_written_onto_no_card() {
    let Workshop { office, ca, .. } = Workshop::new();
    let card = office.request("u1");
    ca.every_status(|statuses| statuses.fill(CaStatusOutcome::NotFound));
    assert_eq!(state_of(&issue(&office, card)), "failed");
    assert_eq!(failure(&office, card), "the CA does not know the certificate for authentication");
    assert_eq!(office.personalizer.calls().finish, 0);
}

#[test]
fn wrong_number_of_states_is_no_answer() {
    for change in [(|statuses| drop(statuses.pop())) as fn(&mut Vec<CaStatusOutcome>), |statuses| {
        statuses.push(CaStatusOutcome::Known(StateAtCa::OnHold))
    }] {
        let Workshop { office, ca, .. } = Workshop::new();
        let card = office.request("u1");
        ca.every_status(change);
        assert_eq!(state_of(&issue(&office, card)), "begun");
        assert_eq!((office.state(card), office.personalizer.calls().finish), (CardState::Approved, 0));
        let remark = jobs(&office, JobKind::FinishCard).remove(0).remark.expect("why");
        assert_eq!(remark, "the CA gave another number of answers than certificates");
        ca.be_right();
        a_day_later(&office);
        assert_eq!(office.state(card), CardState::Issued);
    }
}

#[test]
fn card_is_not_finished_without_the_keys_of_its_certificates() {
    let Workshop { office, ca, .. } = Workshop::new();
    let card = office.request("u1");
    ca.every_key(|key| *key = None);
    assert_eq!(state_of(&issue(&office, card)), "failed");
    assert_eq!(failure(&office, card), "the CA does not give the key of the certificate for authentication");
    assert_eq!(office.personalizer.calls().finish, 0);
    // With keys that are made on the card, there is nothing to give.
    office.personalizer.behave(PersonalizerBehaviour::calm().makes_keys(true));
    issued(&office, "u2");
}

#[test]
fn answer_that_was_long_on_its_way_does_not_undo_a_revocation() {
    let workshop = Workshop::new();
    let (office, other) = (&workshop.office, workshop.second());
    let card = issued(office, "u1");
    workshop.ca.before_answer(CaCall::RemoveHold, move || {
        let locked = other.one(LOCK, &operator(), ItemId::Card(card), &[("reason", "keyCompromise")]);
        assert_eq!(state_of(&locked), "locked");
    });
    activate(office, card);
    let revoked = |kind| (kind, CertificateState::Revoked, StateAtCa::Revoked);
    assert_eq!(states(office, card), [revoked(Authentication), revoked(Signature)]);
    fits_together(office).expect("all fits");
}

#[test]
fn late_certificate_whose_serial_number_is_taken_is_on_record_and_not_stored() {
    let Workshop { office, ca, .. } = Workshop::new();
    office.script(CARD_SCRIPT, ONE_CERTIFICATE);
    let mut first = None;
    ca.every_certificate(move |issued| *issued = first.get_or_insert_with(|| issued.clone()).clone());
    let made = issued(&office, "u1");
    let given_up = office.request("u2");
    office.ca.next_issue(IssueScript::IssueAfter(60 * 3600 * SECOND));
    issue(&office, given_up);
    a_day_later(&office);
    resolve(&office, ItemId::Card(given_up), "give up");
    for _ in 0..3 {
        office.clock.advance(24 * 3600 * SECOND);
        let report = office.sync(SYNC_PRODUCTION);
        assert_eq!(report.interrupted, None, "{report:?}");
    }
    assert_eq!((office.certificates(made).len(), office.certificates(given_up).len()), (1, 0));
    let found = jobs(&office, JobKind::IssueCertificate).into_iter().find(|job| job.card == Some(given_up));
    let job = found.expect("it is kept");
    assert_eq!(job.state, JobState::Done);
    let remark = job.remark.expect("why");
    assert!(remark.contains("which is already that of certificate"), "{remark}");
    office.sync(SYNC_ORPHANS);
    assert_eq!(states(&office, made), [(Authentication, CertificateState::OnHold, StateAtCa::OnHold)]);
}

// ---- what a second look found ----------------------------------------------------------------------------------------

#[test]
fn certificate_that_was_perhaps_issued_is_got_hold_of_though_the_ca_was_away_and_the_holder_left() {
    let Workshop { office, ca, .. } = Workshop::new();
    office.script(CARD_SCRIPT, ONE_CERTIFICATE);
    office.ca.behave(CaBehaviour::calm().can_look(false));
    office.personalizer.behave(PersonalizerBehaviour::calm().makes_keys(true));
    let card = office.request("u1");
    office.ca.next_issue(IssueScript::LoseReplyAfterIssuing);
    issue(&office, card);
    resolve(&office, ItemId::Card(card), "send again");
    ca.next_issue_is_not_taken();
    a_day_later(&office);
    office.users.put(User { state: UserState::Inactive, ..person(1) });
    for _ in 0..3 {
        a_day_later(&office);
        office.sync(SYNC_ORPHANS);
    }
    assert_eq!((office.state(card), office.certificates(card).len()), (CardState::Failed, 1));
    nothing_left_over(&office).expect("what the CA issued is revoked");
}

#[test]
fn engine_without_a_ca_keeps_nobody_from_finishing_cards() {
    let workshop = Workshop::new();
    let office = &workshop.office;
    let half = bare(office, workshop.store.clone(), |builder| builder.personalizer(workshop.machine.clone()));
    let card = office.request("u1");
    office.personalizer.next_finish(FinishScript::Jam);
    issue(office, card);
    for minute in 1..=120_u32 {
        office.clock.advance(60 * SECOND);
        half.sync(SYNC_PRODUCTION);
        if minute.is_multiple_of(60) {
            office.sync(SYNC_PRODUCTION);
        }
    }
    assert_eq!(office.state(card), CardState::Issued, "{:?}", jobs(office, JobKind::FinishCard));
}

/// Where the cards of the machine are, by handle.
fn places(office: &Office) -> BTreeMap<String, HandleState> {
    office.personalizer.ledger().into_iter().map(|entry| (entry.handle, entry.state)).collect()
}

#[test]
fn handle_of_a_card_that_is_being_made_is_never_put_aside_for_another() {
    let workshop = Workshop::new();
    let (office, other) = (&workshop.office, workshop.second());
    let (first, second, third) = (office.request("u1"), office.request("u2"), office.request("u3"));
    office.personalizer.next_finish(FinishScript::Jam);
    issue(office, first);
    let handle = office.card(first).production.and_then(|made| made.handle).expect("it is at hand");
    // An unusable card under the same handle.
    let same = handle.clone();
    workshop.machine.next_prepared(move |prepared| {
        prepared.handle.clone_from(&same);
        prepared.chip_serial = Some("\n".to_owned());
    });
    assert!(matches!(issue(office, second), Outcome::InDoubt { .. }));
    // A card under the same handle that came late.
    let same = handle.clone();
    workshop.machine.next_prepared(move |prepared| prepared.handle.clone_from(&same));
    workshop.machine.before_answer(JobKind::PrepareCard, move || {
        other.clock.advance(1200 * SECOND);
        other.personalizer.next_finish(FinishScript::Jam);
        other.sync(SYNC_PRODUCTION);
        resolve(&other, ItemId::Card(third), "spoiled");
    });
    issue(office, third);
    assert_eq!(office.history(third).last().map(String::as_str), Some("late_prepared_card"));
    a_day_later(office);
    assert_eq!((office.state(first), places(office)[&handle]), (CardState::Issued, HandleState::Finished));
}

#[test]
fn handle_is_given_again_only_once_its_card_is_put_aside() {
    let Workshop { office, machine, .. } = Workshop::new();
    let (first, second) = (office.request("u1"), office.request("u2"));
    office.ca.next_issue(IssueScript::Refuse("no".to_owned()));
    office.personalizer.next_discard(DiscardScript::Jam);
    issue(&office, first);
    let Task::DiscardCard { handle } = jobs(&office, JobKind::DiscardCard).remove(0).task else { unreachable!() };
    let same = handle.clone();
    machine.next_prepared(move |prepared| prepared.handle.clone_from(&same));
    assert!(matches!(issue(&office, second), Outcome::InDoubt { .. }), "it still waits to be put aside");
    resolve(&office, ItemId::Card(second), "spoiled");
    a_day_later(&office);
    assert_eq!(places(&office)[&handle], HandleState::Discarded);
    machine.next_prepared(move |prepared| prepared.handle.clone_from(&handle));
    office.ca.next_issue(IssueScript::IssueAfter(36 * 3600 * SECOND));
    assert_eq!(state_of(&office.one(REPEAT_PRODUCTION, &operator(), ItemId::Card(second), &[])), "begun");
}

#[test]
fn machine_that_wants_to_be_left_alone_is_however_often_the_store_is_not_heard() {
    let Workshop { office, watched, .. } = Workshop::new();
    let card = office.request("u1");
    for _ in 0..50 {
        office.personalizer.next_prepare(PrepareScript::Jam);
    }
    watched.lose_answers_about_jobs(40);
    issue(&office, card);
    assert_eq!(office.personalizer.calls().prepare, 1);
}

#[test]
fn card_that_is_only_begun_is_not_told_to_be_in_another_state_when_the_store_is_not_heard() {
    let Workshop { office, watched, .. } = Workshop::new();
    let card = office.request("u1");
    office.personalizer.next_finish(FinishScript::Jam);
    watched.lose_answers([false, true]);
    assert_eq!(state_of(&issue(&office, card)), "begun");
}
