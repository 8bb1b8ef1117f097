//! Cards that are made here: issued, activated, locked, made again, and what is left over swept.

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use cardwright::adapters::memory::MemoryRepository;
use cardwright::adapters::simulator::{
    CaBehaviour, ChangeScript, FindScript, FinishScript, HandleState, IssueScript, PersonalizerBehaviour,
    PrepareScript, SimulatedClock,
};
use cardwright::host::{Clock as _, JobQuery};
use cardwright::options::OptionSource;
use cardwright::process::{Answer, ItemId, Outcome, RefusalCode};
use cardwright::{
    CardId, CardState, CertificateKind, CertificateState, Delivery, EngineSettings, JobKind, JobState,
    RevocationReason, StateAtCa, User, UserState,
};
use futures::executor::block_on;

use crate::fits_together::{fits_together, nothing_left_over};
use crate::machines::{Hanging, Workshop};
use crate::office::{
    ACTIVATE, APPROVAL, CARD_SCRIPT, ISSUE, LOCK, Office, REPEAT_PRODUCTION, RESOLVE, SYNC_ORPHANS, SYNC_PRODUCTION,
    administrator, approver, clock, operator, person, rules,
};

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn refused(outcome: &Outcome, code: RefusalCode) -> &str {
    match outcome {
        Outcome::Refused(refusal) if refusal.code == code => &refusal.reason,
        other => panic!("{code} was expected: {other:?}"),
    }
}

pub(crate) fn state_of(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Done { state, .. } => state,
        other => panic!("it should be done: {other:?}"),
    }
}

pub(crate) fn issue(office: &Office, card: CardId) -> Outcome {
    office.one(ISSUE, &operator(), ItemId::Card(card), &[])
}

/// A card that is issued.
pub(crate) fn issued(office: &Office, user: &str) -> CardId {
    let card = office.request(user);
    assert_eq!(state_of(&issue(office, card)), "issued");
    card
}

pub(crate) fn activate(office: &Office, card: CardId) -> Outcome {
    office.one(ACTIVATE, &operator(), ItemId::Card(card), &[])
}

pub(crate) fn lock(office: &Office, card: CardId, reason: &str) -> Outcome {
    office.one(LOCK, &operator(), ItemId::Card(card), &[("reason", reason)])
}

pub(crate) fn states(office: &Office, card: CardId) -> Vec<(CertificateKind, CertificateState, StateAtCa)> {
    let mut states: Vec<_> = office.certificates(card).iter().map(|c| (c.kind, c.state(), c.at_ca)).collect();
    states.sort_unstable();
    states
}

pub(crate) fn at_ca(office: &Office) -> Vec<StateAtCa> {
    office.ca.ledger().into_iter().map(|entry| entry.state).collect()
}

fn open_jobs(office: &Office, kind: JobKind) -> usize {
    let query = JobQuery { kinds: vec![kind], states: vec![JobState::Open] };
    block_on(office.engine.job_page(&query, None, 1000)).expect("jobs can be listed").len()
}

/// Lets a day pass and does what came due.
pub(crate) fn a_day_later(office: &Office) {
    office.clock.advance(24 * HOUR);
    office.sync(SYNC_PRODUCTION);
}

/// What a person says of a card or job that is in doubt, or gets nowhere.
pub(crate) fn resolve(office: &Office, item: ItemId, resolution: &str) -> Outcome {
    office.one(RESOLVE, &operator(), item, &[("resolution", resolution), ("reason", "looked into it")])
}

/// Runs a process until it waits for an answer, and drops it there.
pub(crate) fn dies_while(office: &Office, process: &str, answer: Answer) {
    let run = block_on(office.engine.open(process, &operator())).expect("it opens");
    let mut execution = block_on(office.engine.next(&run, answer)).expect("it begins");
    let mut work = pin!(execution.next_chunk());
    for _ in 0..50 {
        assert!(work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
}

use CertificateKind::{Authentication, Encryption, Signature};

// ---- the way of a card -------------------------------------------------------------------------------------------

#[test]
fn a_card_is_requested_approved_issued_activated_and_locked() {
    let office = Office::new();
    office.script(CARD_SCRIPT, "CardsBatchRequestApproval = true");
    let card = office.request("u1");
    assert_eq!(office.state(card), CardState::Requested);
    refused(&issue(&office, card), RefusalCode::WrongState);
    let request = office.card(card).request.expect("it waits for an approval");
    office.one(APPROVAL, &approver(), ItemId::Request(request), &[("decision", "approve")]);
    assert_eq!(office.state(card), CardState::Approved);

    assert_eq!(state_of(&issue(&office, card)), "issued");
    let on_hold = |kind| (kind, CertificateState::OnHold, StateAtCa::OnHold);
    assert_eq!(states(&office, card), [on_hold(Authentication), on_hold(Signature)]);
    let made = &office.personalizer.ledger()[0];
    assert_eq!((made.state, &made.written[..]), (HandleState::Finished, &[Authentication, Signature][..]));
    let pin = made.pin.expect("a PIN was set");
    assert_eq!((pin.length, pin.delivery, made.puk), (6, Delivery::Print, None));
    assert_eq!(office.card(card).chip_serial, made.chip_serial);

    assert_eq!(state_of(&activate(&office, card)), "active");
    let valid = |kind| (kind, CertificateState::Valid, StateAtCa::Valid);
    assert_eq!(states(&office, card), [valid(Authentication), valid(Signature)]);
    assert_eq!(at_ca(&office), [StateAtCa::Valid; 2]);

    assert_eq!(state_of(&lock(&office, card, "keyCompromise")), "locked");
    let revoked = |kind| (kind, CertificateState::Revoked, StateAtCa::Revoked);
    assert_eq!(states(&office, card), [revoked(Authentication), revoked(Signature)]);
    let reasons: Vec<_> = office.ca.ledger().iter().map(|entry| entry.reason).collect();
    assert_eq!(reasons, [Some(RevocationReason::KeyCompromise); 2]);
    assert_eq!(
        office.history(card),
        [
            "created",
            "approval_wanted",
            "approved",
            "production_begun",
            "card_prepared",
            "certificate_issued",
            "certificate_issued",
            "certificate_held",
            "certificate_held",
            "produced",
            "activated",
            "locked",
        ]
    );
}

#[test]
fn end_states_are_those_of_the_options_and_contradictory_ones_are_refused_at_load() {
    let office = Office::new();
    let script = OptionSource::Script("CardsCardEndState = \"active\"".to_owned());
    let bad = block_on(office.engine.set_options(CARD_SCRIPT, script, &administrator()));
    let words = bad.unwrap_err().to_string();
    assert!(words.contains("`CardsCardEndState = \"issued\"` or `CardsCertificateEndState = \"valid\"`"), "{words}");

    office.script(CARD_SCRIPT, "CardsCardEndState = \"active\"\nCardsCertificateEndState = \"valid\"");
    let card = office.request("u1");
    assert_eq!(state_of(&issue(&office, card)), "active");
    let valid = |kind| (kind, CertificateState::Valid, StateAtCa::Valid);
    assert_eq!(states(&office, card), [valid(Authentication), valid(Signature)]);
    assert_eq!(office.ca.calls().hold, 0);
}

#[test]
fn operator_is_asked_for_certificates_where_the_options_say_so() {
    let office = Office::new();
    office.script(
        CARD_SCRIPT,
        "CardsCertificates = { authentication = true, signature = \"ask\", encryption = \"ask, on\" }",
    );
    let run = block_on(office.engine.open(ISSUE, &operator())).expect("it opens");
    let fields: Vec<_> = run.form.fields.iter().map(|field| (field.name.as_str(), field.preset.as_deref())).collect();
    assert_eq!(fields, [("certificate.signature", Some("no")), ("certificate.encryption", Some("yes"))]);
    let kinds = |values: &[(&str, &str)], user: &str| {
        let card = office.request(user);
        office.one(ISSUE, &operator(), ItemId::Card(card), values);
        states(&office, card).into_iter().map(|(kind, ..)| kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&[], "u1"), [Authentication, Encryption]);
    assert_eq!(
        kinds(&[("certificate.signature", "yes"), ("certificate.encryption", "no")], "u2"),
        [Authentication, Signature]
    );
}

#[test]
fn with_all_kinds_off_a_card_has_no_certificates() {
    let office = Office::new();
    office.script(CARD_SCRIPT, "CardsCertificates = { authentication = false, signature = false, encryption = false }");
    let card = issued(&office, "u1");
    assert!(office.certificates(card).is_empty());
    assert_eq!(office.ca.calls().issue, 0);
    assert_eq!(state_of(&activate(&office, card)), "active");
}

#[test]
fn options_may_be_functions_of_the_card_and_its_user() {
    let office = Office::new();
    office.script(
        CARD_SCRIPT,
        "CardsPINLength = function(card, user) if user.commonName == \"Person 1\" then return 8 end return 4 end",
    );
    issued(&office, "u1");
    issued(&office, "u2");
    let lengths: Vec<_> =
        office.personalizer.ledger().iter().filter_map(|made| made.pin).map(|pin| pin.length).collect();
    assert_eq!(lengths, [8, 4]);
}

#[test]
fn keys_may_be_made_on_the_card() {
    let office = Office::new();
    office.personalizer.behave(PersonalizerBehaviour::calm().makes_keys(true));
    let card = issued(&office, "u1");
    assert_eq!(office.ca.ledger().iter().map(|entry| entry.made_key).collect::<Vec<_>>(), [false; 2]);
    assert!(office.personalizer.ledger()[0].with_key.is_empty());
    assert_eq!(office.certificates(card).len(), 2);
}

// ---- one active card -----------------------------------------------------------------------------------------------

#[test]
fn second_active_card_is_refused_unless_several_are_allowed() {
    let office = Office::new();
    let (first, second) = (issued(&office, "u1"), issued(&office, "u1"));
    activate(&office, first);
    let reason = refused(&activate(&office, second), RefusalCode::ActiveCard).to_owned();
    assert!(reason.contains(&first.to_string()), "{reason}");
    lock(&office, first, "superseded");
    assert_eq!(state_of(&activate(&office, second)), "active");

    office.script(CARD_SCRIPT, "CardsMultipleActive = true");
    let third = issued(&office, "u1");
    assert_eq!(state_of(&activate(&office, third)), "active");
}

#[test]
fn production_that_ends_active_keeps_the_place_and_gives_it_back_when_it_fails() {
    let office = Office::new();
    office.script(CARD_SCRIPT, "CardsCardEndState = \"active\"\nCardsCertificateEndState = \"valid\"");
    let (first, second) = (office.request("u1"), office.request("u1"));
    office.personalizer.next_prepare(PrepareScript::Jam);
    assert_eq!(state_of(&issue(&office, first)), "begun");
    let held = issue(&office, second);
    assert!(matches!(held, Outcome::Refused(_)), "{held:?}");
    office.personalizer.next_prepare(PrepareScript::Spoil("bent".to_owned()));
    a_day_later(&office);
    assert_eq!(office.state(first), CardState::Failed);
    assert_eq!(state_of(&issue(&office, second)), "active");
    refused(&office.one(REPEAT_PRODUCTION, &operator(), ItemId::Card(first), &[]), RefusalCode::ActiveCard);
}

#[test]
fn repeated_production_that_fails_again_gives_its_place_back() {
    let office = Office::new();
    office.script(CARD_SCRIPT, "CardsCardEndState = \"active\"\nCardsCertificateEndState = \"valid\"");
    let (first, second) = (office.request("u1"), office.request("u1"));
    for process in [ISSUE, REPEAT_PRODUCTION] {
        office.personalizer.next_finish(FinishScript::Spoil("bent".to_owned()));
        assert_eq!(state_of(&office.one(process, &operator(), ItemId::Card(first), &[])), "failed");
        assert_eq!(office.card(first).reservations, [""; 0], "{process}");
    }
    assert_eq!(state_of(&issue(&office, second)), "active");
}

// ---- what goes wrong -------------------------------------------------------------------------------------------------

#[test]
fn spoiled_card_fails_and_is_made_again_with_new_certificates() {
    let office = Office::new();
    let card = office.request("u1");
    office.personalizer.next_finish(FinishScript::Spoil("the ribbon tore".to_owned()));
    assert_eq!(state_of(&issue(&office, card)), "failed");
    let failure = office.card(card).failure.expect("it failed");
    assert!(failure.cause.contains("the ribbon tore"), "{failure:?}");
    let left = |kind| (kind, CertificateState::Issued, StateAtCa::OnHold);
    assert_eq!(states(&office, card), [left(Authentication), left(Signature)]);

    let again = office.one(REPEAT_PRODUCTION, &operator(), ItemId::Card(card), &[]);
    assert_eq!(state_of(&again), "issued");
    assert_eq!(office.certificates(card).len(), 4);
    let swept = office.sync(SYNC_ORPHANS);
    assert_eq!(swept.done.get("revoked"), Some(&2), "{swept:?}");
    let current: Vec<_> =
        office.certificates(card).into_iter().filter(|c| c.is_current(&office.card(card))).map(|c| c.state()).collect();
    assert_eq!(current, [CertificateState::OnHold; 2]);
    assert_eq!(at_ca(&office).into_iter().filter(|state| *state == StateAtCa::Revoked).count(), 2);
    assert_eq!(office.sync(SYNC_ORPHANS).items, 0);
}

#[test]
fn card_that_is_made_again_has_another_pin() {
    let office = Office::new();
    let card = office.request("u1");
    office.personalizer.next_finish(FinishScript::LoseReplyAfterFinishing);
    issue(&office, card);
    let spoiled = [("resolution", "spoiled"), ("reason", "it is bent")];
    office.one(RESOLVE, &operator(), ItemId::Card(card), &spoiled);
    assert_eq!(state_of(&office.one(REPEAT_PRODUCTION, &operator(), ItemId::Card(card), &[])), "issued");
    let pins: Vec<_> = office.personalizer.ledger().iter().filter_map(|made| made.pin).map(|pin| pin.digest).collect();
    assert!(pins.len() == 2 && pins[0] != pins[1], "the first PIN is void");
}

#[test]
fn ca_that_refuses_one_of_two_certificates_fails_the_card_and_the_other_is_swept() {
    let office = Office::new();
    office.ca.behave(CaBehaviour::calm().refusing("signature"));
    let card = office.request("u1");
    assert_eq!(state_of(&issue(&office, card)), "failed");
    assert_eq!(states(&office, card), [(Authentication, CertificateState::Issued, StateAtCa::Valid)]);
    assert_eq!(office.personalizer.ledger()[0].state, HandleState::Discarded);
    assert_eq!(office.sync(SYNC_ORPHANS).done.get("revoked"), Some(&1));
    assert_eq!(at_ca(&office), [StateAtCa::Revoked]);
}

#[test]
fn ca_without_hold_fails_a_card_whose_certificates_end_on_hold() {
    let office = Office::new();
    office.ca.behave(CaBehaviour::calm().can_hold(false));
    let card = office.request("u1");
    assert_eq!(state_of(&issue(&office, card)), "failed");
    assert!(office.card(card).failure.expect("it failed").cause.contains("does not do that"));
}

#[test]
fn jam_leaves_the_card_in_production_and_the_sync_goes_on() {
    let office = Office::new();
    let card = office.request("u1");
    office.personalizer.next_finish(FinishScript::Jam);
    assert_eq!(state_of(&issue(&office, card)), "begun");
    assert_eq!(office.state(card), CardState::Approved);
    let reason = refused(&issue(&office, card), RefusalCode::Busy).to_owned();
    assert!(reason.contains("being produced"), "{reason}");
    assert_eq!(office.sync(SYNC_ORPHANS).done.len(), 0, "a production that runs is left alone");
    a_day_later(&office);
    assert_eq!(office.state(card), CardState::Issued);
    assert_eq!(office.ca.ledger().len(), 2);
}

#[test]
fn certificate_whose_answer_was_lost_is_found_by_its_key() {
    for script in [IssueScript::LoseReplyAfterIssuing, IssueScript::LoseReplyBeforeIssuing, IssueScript::Silent] {
        let office = Office::new();
        let card = office.request("u1");
        office.ca.next_issue(script);
        issue(&office, card);
        a_day_later(&office);
        assert_eq!(office.state(card), CardState::Issued);
        assert_eq!(office.ca.ledger().len(), 2, "none was issued twice");
    }
}

#[test]
fn ca_that_cannot_look_leaves_a_lost_answer_to_a_person() {
    let office = Office::new();
    office.ca.behave(CaBehaviour::calm().can_look(false));
    office.personalizer.behave(PersonalizerBehaviour::calm().makes_keys(true));
    let card = office.request("u1");
    office.ca.next_issue(IssueScript::LoseReplyAfterIssuing);
    assert!(matches!(issue(&office, card), Outcome::InDoubt { card: Some(found), .. } if found == card));
    let values = |resolution| [("resolution", resolution), ("reason", "the CA's books")];
    refused(&office.one(RESOLVE, &operator(), ItemId::Card(card), &values("good card")), RefusalCode::NotOffered);
    office.one(RESOLVE, &operator(), ItemId::Card(card), &values("send again"));
    a_day_later(&office);
    assert_eq!(office.state(card), CardState::Issued);
    assert_eq!(office.ca.ledger().len(), 2, "one certificate for a key");
}

#[test]
fn ca_may_take_days_or_refuse_after_days() {
    let office = Office::new();
    let (slow, refusing) = (office.request("u1"), office.request("u2"));
    office.ca.next_issue(IssueScript::IssueAfter(50 * HOUR));
    issue(&office, slow);
    office.ca.next_issue(IssueScript::RefuseAfter(50 * HOUR, "not this one".to_owned()));
    issue(&office, refusing);
    a_day_later(&office);
    assert_eq!((office.state(slow), office.state(refusing)), (CardState::Approved, CardState::Approved));
    a_day_later(&office);
    a_day_later(&office);
    assert_eq!((office.state(slow), office.state(refusing)), (CardState::Issued, CardState::Failed));
    assert!(office.card(refusing).failure.expect("it failed").cause.contains("not this one"));
}

#[test]
fn what_only_a_person_can_see_is_in_doubt_and_nothing_else() {
    let on_hold = &[StateAtCa::OnHold; 2][..];
    for (prepare, finish, at_the_ca, resolution, state) in [
        (Some(PrepareScript::LoseReplyAfterPreparing), None, &[][..], "spoiled", CardState::Failed),
        (Some(PrepareScript::Silent), None, &[][..], "send again", CardState::Issued),
        (None, Some(FinishScript::LoseReplyAfterFinishing), on_hold, "good card", CardState::Issued),
        (None, Some(FinishScript::LoseReplyAfterSpoiling), on_hold, "spoiled", CardState::Failed),
        (None, Some(FinishScript::Silent), on_hold, "spoiled", CardState::Failed),
    ] {
        let office = Office::new();
        let card = office.request("u1");
        prepare.into_iter().for_each(|script| office.personalizer.next_prepare(script));
        finish.into_iter().for_each(|script| office.personalizer.next_finish(script));
        assert!(matches!(issue(&office, card), Outcome::InDoubt { .. }), "{resolution}");
        let before = office.personalizer.calls();
        a_day_later(&office);
        office.sync(SYNC_ORPHANS);
        assert_eq!(office.personalizer.calls(), before, "nothing is done to it by itself");
        assert_eq!(at_ca(&office), at_the_ca, "nor is anything issued or swept");
        refused(&issue(&office, card), RefusalCode::InDoubt);
        resolve(&office, ItemId::Card(card), resolution);
        a_day_later(&office);
        assert_eq!(office.state(card), state, "{resolution}");
        office.sync(SYNC_ORPHANS);
        a_day_later(&office);
        fits_together(&office).expect("all fits");
        nothing_left_over(&office).expect("nothing is left of a card that failed");
    }
}

#[test]
fn worker_that_dies_while_the_machine_is_at_work_leaves_a_doubt_and_no_second_card() {
    let (clock, machine) = (SimulatedClock::new(clock().now()), Hanging::default());
    let store = MemoryRepository::new(Arc::new(clock.clone()));
    let office = Office::on(store, clock, |builder| builder.personalizer(machine.clone()));
    let card = office.request("u1");
    dies_while(&office, ISSUE, Answer::ids([ItemId::Card(card)]));
    assert_eq!(machine.calls(), (1, 0));
    office.clock.advance(24 * HOUR);
    assert_eq!(office.sync(SYNC_PRODUCTION).in_doubt, 1);
    assert_eq!(machine.calls(), (1, 0), "it is not asked again");

    let again = [("resolution", "send again"), ("reason", "the tray is empty")];
    office.one(RESOLVE, &operator(), ItemId::Card(card), &again);
    dies_while(&office, SYNC_PRODUCTION, Answer::new());
    assert_eq!(machine.calls(), (2, 1), "now it hangs while the card is finished");
    office.clock.advance(24 * HOUR);
    assert_eq!(office.sync(SYNC_PRODUCTION).in_doubt, 1);
    assert_eq!(machine.calls(), (2, 1), "it is not asked again");
}

#[test]
fn holder_who_is_not_active_any_more_gets_no_card() {
    let office = Office::new();
    let card = office.request("u1");
    office.users.put(User { state: UserState::Inactive, ..person(1) });
    refused(&issue(&office, card), RefusalCode::UserNotActive);

    let under_way = office.request("u2");
    office.ca.next_issue(IssueScript::Unavailable);
    issue(&office, under_way);
    office.users.put(User { state: UserState::Inactive, ..person(2) });
    a_day_later(&office);
    assert_eq!(office.state(under_way), CardState::Failed);
    assert!(office.card(under_way).failure.expect("it failed").cause.contains("not active any more"));
    assert_eq!(at_ca(&office), [], "nothing is issued for one who has left");
}

#[test]
fn chip_that_another_card_has_is_not_taken() {
    let office = Office::new();
    office.personalizer.next_chip_serial("CHIP-1");
    issued(&office, "u1");
    office.personalizer.next_chip_serial("CHIP-1");
    let card = office.request("u2");
    assert_eq!(state_of(&issue(&office, card)), "failed");
    assert!(office.card(card).failure.expect("it failed").cause.contains("CHIP-1"));
    assert_eq!(office.personalizer.ledger()[1].state, HandleState::Discarded);
}

#[test]
fn two_cards_with_one_chip_in_the_same_call_are_told_apart() {
    let office = Office::new();
    let cards = [office.request("u1"), office.request("u2")];
    office.personalizer.next_chip_serial("CHIP-1");
    office.personalizer.next_chip_serial("CHIP-1");
    office.run(ISSUE, &operator(), Answer::ids(cards.map(ItemId::Card)));
    let mut states = cards.map(|card| office.state(card));
    states.sort_unstable();
    let mut wanted = [CardState::Issued, CardState::Failed];
    wanted.sort_unstable();
    assert_eq!(states, wanted);
}

#[test]
fn kind_without_a_profile_is_not_offered() {
    let office =
        Office::with(|builder| builder.rules(rules().certificate_profiles([(Authentication, "logon".to_owned())])));
    let card = office.request("u1");
    let reason = refused(&issue(&office, card), RefusalCode::Certificate).to_owned();
    assert!(reason.contains("signature"), "{reason}");
    office.script(CARD_SCRIPT, "CardsCertificates = { signature = false }");
    assert_eq!(state_of(&issue(&office, card)), "issued");
    assert_eq!(office.ca.ledger()[0].profile, "logon");
}

#[test]
fn card_that_is_made_when_nobody_waits_any_more_is_on_record_and_put_aside() {
    for (at, resolution, code, left) in [
        (JobKind::PrepareCard, "send again", "late_prepared_card", HandleState::Discarded),
        (JobKind::PrepareCard, "spoiled", "late_prepared_card", HandleState::Discarded),
        (JobKind::FinishCard, "spoiled", "late_good_card", HandleState::Finished),
    ] {
        let workshop = Workshop::new();
        let (office, other) = (&workshop.office, workshop.second());
        let card = office.request("u1");
        workshop.machine.before_answer(at, move || {
            other.clock.advance(HOUR);
            assert_eq!(other.sync(SYNC_PRODUCTION).in_doubt, 1);
            let values = [("resolution", resolution), ("reason", "the tray looks empty")];
            other.one(RESOLVE, &operator(), ItemId::Card(card), &values);
        });
        issue(office, card);
        a_day_later(office);
        assert!(office.history(card).contains(&code.to_owned()), "{resolution}: {:?}", office.history(card));
        let first = &office.personalizer.ledger()[0];
        assert_eq!(first.state, left, "{resolution}");
    }
}

#[test]
fn certificate_that_was_asked_for_once_is_got_hold_of_before_the_card_fails() {
    for can_look in [true, false] {
        let office = Office::new();
        office.ca.behave(CaBehaviour::calm().can_look(can_look));
        office.personalizer.behave(PersonalizerBehaviour::calm().makes_keys(true));
        let card = office.request("u1");
        office.ca.next_issue(IssueScript::LoseReplyAfterIssuing);
        if can_look {
            office.ca.next_find(FindScript::Unavailable);
        }
        issue(&office, card);
        let again = [("resolution", "send again"), ("reason", "asked the CA")];
        if !can_look {
            office.one(RESOLVE, &operator(), ItemId::Card(card), &again);
        }
        office.users.put(User { state: UserState::Inactive, ..person(1) });
        office.ca.outage(office.clock.now() + chrono::TimeDelta::hours(30));
        for _ in 0..4 {
            a_day_later(&office);
            if !can_look && office.card(card).busy.is_some_and(|busy| busy.in_doubt) {
                office.one(RESOLVE, &operator(), ItemId::Card(card), &again);
            }
        }
        assert_eq!(office.state(card), CardState::Failed, "can look: {can_look}");
        office.sync(SYNC_ORPHANS);
        nothing_left_over(&office).expect("what the CA issued is revoked");
    }
}

#[test]
fn revocation_waits_for_no_printer_and_no_directory() {
    let office = Office::with(|builder| builder.settings(EngineSettings::new().chunk(2)));
    let lost = issued(&office, "u9");
    let waiting: Vec<ItemId> = (1..=6).map(|n| ItemId::Card(office.request(&format!("u{n}")))).collect();
    office.personalizer.outage(office.clock.now() + chrono::TimeDelta::days(100));
    office.run(ISSUE, &operator(), Answer::ids(waiting));
    office.ca.outage(office.clock.now() + chrono::TimeDelta::minutes(5));
    lock(&office, lost, "keyCompromise");
    a_day_later(&office);
    assert_eq!(at_ca(&office), [StateAtCa::Revoked; 2], "one sync is enough");
}

#[test]
fn production_that_began_while_several_were_allowed_counts_for_the_one_that_is() {
    let office = Office::new();
    let ending = "CardsCardEndState = \"active\"\nCardsCertificateEndState = \"valid\"\n";
    office.script(CARD_SCRIPT, &format!("{ending}CardsMultipleActive = true"));
    let (slow, second) = (office.request("u1"), office.request("u1"));
    office.ca.next_issue(IssueScript::IssueAfter(50 * HOUR));
    issue(&office, slow);
    office.script(CARD_SCRIPT, ending);
    let reason = refused(&issue(&office, second), RefusalCode::ActiveCard).to_owned();
    assert!(reason.contains(&slow.to_string()), "{reason}");
    for _ in 0..4 {
        a_day_later(&office);
    }
    assert_eq!(office.state(slow), CardState::Active);
}

#[test]
fn card_whose_validity_is_over_is_neither_made_nor_activated() {
    let office = Office::new();
    let (made, not_made) = (issued(&office, "u1"), office.request("u2"));
    office.clock.advance(24 * HOUR * 1096);
    refused(&issue(&office, not_made), RefusalCode::Expired);
    refused(&activate(&office, made), RefusalCode::Expired);
    assert_eq!(office.personalizer.calls().prepare, 1);
}

#[test]
fn run_that_is_started_again_goes_on_with_the_productions_it_began() {
    let office = Office::new();
    let card = office.request("u1");
    let answer = || Answer::ids([ItemId::Card(card)]);
    let run = block_on(office.engine.open(ISSUE, &operator())).expect("it opens");
    office.personalizer.next_prepare(PrepareScript::Jam);
    block_on(async { office.engine.next(&run, answer()).await?.finish().await }).expect("it runs");
    assert_eq!(office.state(card), CardState::Approved);
    block_on(async { office.engine.next(&run, answer()).await?.finish().await }).expect("it runs");
    assert_eq!(office.state(card), CardState::Issued);
}

#[test]
fn production_that_gets_nowhere_can_be_given_up_and_leaves_nothing() {
    for late in [false, true] {
        let office = Office::new();
        let card = office.request("u1");
        office.ca.next_issue(IssueScript::IssueAfter(if late { 60 * HOUR } else { 24 * HOUR * 10_000 }));
        issue(&office, card);
        a_day_later(&office);
        let give_up = [("resolution", "give up"), ("reason", "nobody wants it any more")];
        let outcome = office.one(RESOLVE, &operator(), ItemId::Card(card), &give_up);
        assert_eq!(state_of(&outcome), "failed");
        assert_eq!(office.personalizer.ledger()[0].state, HandleState::Discarded);
        for _ in 0..4 {
            a_day_later(&office);
            office.sync(SYNC_ORPHANS);
        }
        nothing_left_over(&office).expect("what came late is revoked");
        assert_eq!(office.ca.ledger().len(), usize::from(late));
        fits_together(&office).expect("all fits");
    }
}

#[test]
fn certificate_that_comes_after_the_production_was_given_up_is_kept_and_swept() {
    let office = Office::new();
    office.ca.behave(CaBehaviour::calm().can_look(false));
    office.personalizer.behave(PersonalizerBehaviour::calm().makes_keys(true));
    let card = office.request("u1");
    office.ca.next_issue(IssueScript::LoseReplyAfterIssuing);
    issue(&office, card);
    let values = |resolution| [("resolution", resolution), ("reason", "no card is needed")];
    office.one(RESOLVE, &operator(), ItemId::Card(card), &values("give up"));
    a_day_later(&office);
    let doubts = block_on(office.engine.doubts(None, 10)).expect("readable");
    assert_eq!(doubts.len(), 1, "what the CA may have issued is listed until a person has looked");
    office.ca.behave(CaBehaviour::calm());
    office.one(RESOLVE, &operator(), ItemId::Job(doubts[0].id), &values("send again"));
    a_day_later(&office);
    office.sync(SYNC_ORPHANS);
    nothing_left_over(&office).expect("it is revoked");
}

#[test]
fn what_was_done_at_the_ca_by_hand_is_taken_over() {
    let office = Office::new();
    let card = issued(&office, "u1");
    office.ca.next_revoke(ChangeScript::Refuse("not mine".to_owned()));
    lock(&office, card, "unspecified");
    let doubts = block_on(office.engine.doubts(None, 10)).expect("readable");
    let values = |resolution| [("resolution", resolution), ("reason", "done by hand")];
    refused(&office.one(RESOLVE, &operator(), ItemId::Job(doubts[0].id), &values("give up")), RefusalCode::NotOffered);
    office.one(RESOLVE, &operator(), ItemId::Job(doubts[0].id), &values("accepted"));
    let revoked = |kind| (kind, CertificateState::Revoked, StateAtCa::Revoked);
    assert_eq!(states(&office, card), [revoked(Authentication), revoked(Signature)]);
    assert!(block_on(office.engine.doubts(None, 10)).expect("readable").is_empty());
}

// ---- the CA follows --------------------------------------------------------------------------------------------------

#[test]
fn lock_while_the_ca_is_down_locks_at_once_and_revokes_later() {
    let office = Office::new();
    let card = issued(&office, "u1");
    activate(&office, card);
    office.ca.outage(office.clock.now() + chrono::TimeDelta::hours(3));
    assert_eq!(state_of(&lock(&office, card, "keyCompromise")), "locked");
    let revoked = |kind| (kind, CertificateState::Revoked, StateAtCa::Valid);
    assert_eq!(states(&office, card), [revoked(Authentication), revoked(Signature)]);
    assert_eq!(open_jobs(&office, JobKind::RevokeCertificate), 2, "they are listed until they are done");
    a_day_later(&office);
    assert_eq!(open_jobs(&office, JobKind::RevokeCertificate), 0);
    assert_eq!(at_ca(&office), [StateAtCa::Revoked; 2]);
    fits_together(&office).expect("all fits");
}

#[test]
fn certificate_that_is_revoked_or_expired_already_is_a_success() {
    for state in [StateAtCa::Revoked, StateAtCa::Expired] {
        let office = Office::new();
        let card = issued(&office, "u1");
        for certificate in office.certificates(card).iter().filter(|_| state == StateAtCa::Revoked) {
            assert!(office.ca.set_state(&certificate.issued.serial, state));
        }
        if state == StateAtCa::Expired {
            office.clock.advance(24 * HOUR * 1100);
        }
        assert_eq!(state_of(&lock(&office, card, "unspecified")), "locked");
        assert_eq!(open_jobs(&office, JobKind::RevokeCertificate), 0, "{state:?}");
        let ended = |kind| (kind, CertificateState::Revoked, state);
        assert_eq!(states(&office, card), [ended(Authentication), ended(Signature)]);
    }
}

#[test]
fn certificate_that_the_ca_revoked_by_itself_is_not_valid_after_activation() {
    let office = Office::new();
    let card = issued(&office, "u1");
    let revoked = office.certificates(card).remove(0);
    office.ca.set_state(&revoked.issued.serial, StateAtCa::Revoked);
    assert_eq!(state_of(&activate(&office, card)), "active");
    let now = office.certificates(card).into_iter().find(|c| c.id == revoked.id).expect("it is there");
    assert_eq!((now.state(), now.at_ca), (CertificateState::Revoked, StateAtCa::Revoked));
    fits_together(&office).expect("all fits");
}

#[test]
fn revocation_that_the_ca_refuses_is_listed_for_a_person() {
    let office = Office::new();
    let card = issued(&office, "u1");
    office.ca.next_revoke(ChangeScript::Refuse("not mine".to_owned()));
    assert_eq!(state_of(&lock_or_doubt(&office, card)), "locked");
    let doubts = block_on(office.engine.doubts(None, 10)).expect("readable");
    assert_eq!(doubts.len(), 1);
    assert_eq!(office.state(card), CardState::Locked);
    let values = [("resolution", "send again"), ("reason", "asked the CA")];
    office.one(RESOLVE, &operator(), ItemId::Job(doubts[0].id), &values);
    a_day_later(&office);
    assert_eq!(at_ca(&office), [StateAtCa::Revoked; 2]);
}

fn lock_or_doubt(office: &Office, card: CardId) -> Outcome {
    match lock(office, card, "unspecified") {
        Outcome::InDoubt { .. } => Outcome::card(&office.card(card)),
        other => other,
    }
}
