//! Cards that are made here: issued, activated, locked, made again, and what is left over swept.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future as _;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use async_trait::async_trait;
use cardwright::adapters::memory::MemoryRepository;
use cardwright::adapters::simulator::{
    CaBehaviour, ChangeScript, FindScript, FinishScript, HandleState, IssueScript, PersonalizerBehaviour,
    PrepareScript, SimulatedClock, SimulatedPersonalizer,
};
use cardwright::adapters::sqlite::{SqliteOptions, SqliteRepository};
use cardwright::host::{
    CardPersonalizer, CardQuery, CertificateQuery, Clock as _, DiscardOutcome, FinishOrder, FinishOutcome, JobQuery,
    PrepareOrder, PrepareOutcome, Prepared,
};
use cardwright::options::OptionSource;
use cardwright::process::{Answer, ItemId, Outcome, RefusalCode};
use cardwright::{
    Card, CardId, CardState, Certificate, CertificateKind, CertificateState, Delivery, EngineSettings, JobKind,
    JobState, RevocationReason, StateAtCa, User, UserState,
};
use futures::executor::block_on;
use proptest::prelude::*;

use crate::office::{
    ACTIVATE, APPROVAL, CARD_SCRIPT, ISSUE, LOCK, Office, REPEAT_PRODUCTION, REQUEST, RESOLVE, SYNC_ORPHANS,
    SYNC_PRODUCTION, administrator, approver, clock, operator, person, rules, user_item,
};
use crate::watched::{second, store};

const HOUR: Duration = Duration::from_secs(3600);

fn refused(outcome: &Outcome, code: RefusalCode) -> &str {
    match outcome {
        Outcome::Refused(refusal) if refusal.code == code => &refusal.reason,
        other => panic!("{code} was expected: {other:?}"),
    }
}

fn state_of(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Done { state, .. } => state,
        other => panic!("it should be done: {other:?}"),
    }
}

fn issue(office: &Office, card: CardId) -> Outcome {
    office.one(ISSUE, &operator(), ItemId::Card(card), &[])
}

/// A card that is issued.
fn issued(office: &Office, user: &str) -> CardId {
    let card = office.request(user);
    assert_eq!(state_of(&issue(office, card)), "issued");
    card
}

fn activate(office: &Office, card: CardId) -> Outcome {
    office.one(ACTIVATE, &operator(), ItemId::Card(card), &[])
}

fn lock(office: &Office, card: CardId, reason: &str) -> Outcome {
    office.one(LOCK, &operator(), ItemId::Card(card), &[("reason", reason)])
}

fn states(office: &Office, card: CardId) -> Vec<(CertificateKind, CertificateState, StateAtCa)> {
    let mut states: Vec<_> = office.certificates(card).iter().map(|c| (c.kind, c.state(), c.at_ca)).collect();
    states.sort_unstable();
    states
}

fn at_ca(office: &Office) -> Vec<StateAtCa> {
    office.ca.ledger().into_iter().map(|entry| entry.state).collect()
}

fn open_jobs(office: &Office, kind: JobKind) -> usize {
    let query = JobQuery { kinds: vec![kind], states: vec![JobState::Open] };
    block_on(office.engine.job_page(&query, None, 1000)).expect("jobs can be listed").len()
}

/// Lets a day pass and does what came due.
fn a_day_later(office: &Office) {
    office.clock.advance(24 * HOUR);
    office.sync(SYNC_PRODUCTION);
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
    assert!(office.ca.ledger().iter().all(|entry| entry.reason == Some(RevocationReason::KeyCompromise)));
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
    assert!(
        states(&office, card).iter().all(|(_, ours, ca)| (*ours, *ca) == (CertificateState::Valid, StateAtCa::Valid))
    );
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
    assert!(office.ca.ledger().iter().all(|entry| !entry.made_key));
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
    assert!(states(&office, card).iter().all(|(_, ours, _)| *ours == CertificateState::Issued));

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
    for (prepare, finish, resolution, state) in [
        (Some(PrepareScript::LoseReplyAfterPreparing), None, "spoiled", CardState::Failed),
        (Some(PrepareScript::Silent), None, "send again", CardState::Issued),
        (None, Some(FinishScript::LoseReplyAfterFinishing), "good card", CardState::Issued),
        (None, Some(FinishScript::LoseReplyAfterSpoiling), "spoiled", CardState::Failed),
        (None, Some(FinishScript::Silent), "spoiled", CardState::Failed),
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
        assert!(office.ca.ledger().iter().all(|entry| entry.state != StateAtCa::Revoked), "nor swept");
        refused(&issue(&office, card), RefusalCode::InDoubt);
        let values = [("resolution", resolution), ("reason", "looked into the machine")];
        office.one(RESOLVE, &operator(), ItemId::Card(card), &values);
        a_day_later(&office);
        assert_eq!(office.state(card), state, "{resolution}");
        office.sync(SYNC_ORPHANS);
        a_day_later(&office);
        fits_together(&office).expect("all fits");
    }
}

/// A machine that begins what it is asked and never says how it went.
#[derive(Clone, Default)]
struct Hanging(Arc<Mutex<(u32, u32)>>);

#[async_trait]
impl CardPersonalizer for Hanging {
    async fn prepare(&self, order: &PrepareOrder<'_>) -> PrepareOutcome {
        let calls = {
            let mut calls = self.0.lock().expect("not poisoned");
            calls.0 += 1;
            calls.0
        };
        if calls == 1 { std::future::pending().await } else { PrepareOutcome::Prepared(Prepared::new(order.reference)) }
    }

    async fn finish(&self, _: FinishOrder<'_>) -> FinishOutcome {
        self.0.lock().expect("not poisoned").1 += 1;
        std::future::pending().await
    }

    async fn discard(&self, _: &str) -> DiscardOutcome {
        DiscardOutcome::Done
    }
}

#[test]
fn worker_that_dies_while_the_machine_is_at_work_leaves_a_doubt_and_no_second_card() {
    let (clock, machine) = (SimulatedClock::new(clock().now()), Hanging::default());
    let store = MemoryRepository::new(Arc::new(clock.clone()));
    let office = Office::on(store, clock, |builder| builder.personalizer(machine.clone()));
    let card = office.request("u1");
    let dies_while = |process: &str, answer: Answer| {
        let run = block_on(office.engine.open(process, &operator())).expect("it opens");
        let mut execution = block_on(office.engine.next(&run, answer)).expect("it begins");
        let mut work = pin!(execution.next_chunk());
        for _ in 0..50 {
            assert!(work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
    };
    dies_while(ISSUE, Answer::ids([ItemId::Card(card)]));
    assert_eq!(*machine.0.lock().expect("not poisoned"), (1, 0));
    office.clock.advance(24 * HOUR);
    assert_eq!(office.sync(SYNC_PRODUCTION).in_doubt, 1);
    assert_eq!(*machine.0.lock().expect("not poisoned"), (1, 0), "it is not asked again");

    let again = [("resolution", "send again"), ("reason", "the tray is empty")];
    office.one(RESOLVE, &operator(), ItemId::Card(card), &again);
    dies_while(SYNC_PRODUCTION, Answer::new());
    assert_eq!(*machine.0.lock().expect("not poisoned"), (2, 1), "now it hangs while the card is finished");
    office.clock.advance(24 * HOUR);
    assert_eq!(office.sync(SYNC_PRODUCTION).in_doubt, 1);
    assert_eq!(*machine.0.lock().expect("not poisoned"), (2, 1), "it is not asked again");
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

type Act = Box<dyn FnOnce() + Send>;

/// A machine that does its work, and lets a test act before its answer arrives.
#[derive(Clone)]
struct Slow {
    machine: SimulatedPersonalizer,
    before_answer: Arc<Mutex<Option<Act>>>,
}

impl Slow {
    fn act(&self) {
        let act = self.before_answer.lock().expect("not poisoned").take();
        if let Some(act) = act {
            std::thread::spawn(act).join().expect("what the test does works");
        }
    }
}

#[async_trait]
impl CardPersonalizer for Slow {
    async fn prepare(&self, order: &PrepareOrder<'_>) -> PrepareOutcome {
        let outcome = self.machine.prepare(order).await;
        self.act();
        outcome
    }

    async fn finish(&self, order: FinishOrder<'_>) -> FinishOutcome {
        let outcome = self.machine.finish(order).await;
        self.act();
        outcome
    }

    async fn discard(&self, handle: &str) -> DiscardOutcome {
        self.machine.discard(handle).await
    }
}

#[test]
fn card_that_is_made_when_nobody_waits_any_more_is_on_record_and_put_aside() {
    for (resolution, code, left) in [
        ("send again", "late_prepared_card", HandleState::Discarded),
        ("spoiled", "late_prepared_card", HandleState::Discarded),
    ] {
        let (store, clock) = store();
        let before_answer = Arc::default();
        let mut slow = None;
        let office = Office::on(store.clone(), clock, |builder| {
            let machine = SimulatedPersonalizer::new(3, Arc::new(self::clock()));
            let machine = Slow { machine, before_answer: Arc::clone(&before_answer) };
            slow = Some(machine.clone());
            builder.personalizer(machine)
        });
        let slow = slow.expect("it was built");
        let card = office.request("u1");
        let other = second(&office, store, |builder| builder.personalizer(slow.clone()));
        let act: Act = Box::new(move || {
            other.clock.advance(HOUR);
            assert_eq!(other.sync(SYNC_PRODUCTION).in_doubt, 1);
            let values = [("resolution", resolution), ("reason", "the tray looks empty")];
            other.one(RESOLVE, &operator(), ItemId::Card(card), &values);
        });
        *before_answer.lock().expect("not poisoned") = Some(act);
        issue(&office, card);
        a_day_later(&office);
        assert!(office.history(card).contains(&code.to_owned()), "{resolution}: {:?}", office.history(card));
        let first = &slow.machine.ledger()[0];
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
    assert!(office.certificates(card).iter().all(|certificate| certificate.at_ca == StateAtCa::Revoked));
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
        assert!(office.certificates(card).iter().all(|c| c.at_ca == state), "{state:?}");
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

// ---- secrets -----------------------------------------------------------------------------------------------------------

/// A personalizer that remembers every PIN and PUK, as none may.
#[derive(Clone, Default)]
struct Nosy(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl CardPersonalizer for Nosy {
    async fn prepare(&self, order: &PrepareOrder<'_>) -> PrepareOutcome {
        PrepareOutcome::Prepared(Prepared::new(format!("H-{}", order.reference)))
    }

    async fn finish(&self, order: FinishOrder<'_>) -> FinishOutcome {
        let mut seen = self.0.lock().expect("not poisoned");
        let before = seen.len();
        for (secret, _) in order.pin.iter().chain(&order.puk) {
            seen.push(String::from_utf8(secret.expose().to_vec()).expect("digits"));
        }
        let shown = format!("{order:?}");
        assert!(seen.iter().all(|secret| !shown.contains(secret)), "an order shows no secret: {shown}");
        // And says them in its reasons.
        let reason = format!("VERIFY {} answered 63C2", seen[before..].join(" "));
        match seen.len() % 6 {
            0 => FinishOutcome::Spoiled { reason },
            2 => FinishOutcome::Unknown { reason },
            _ => FinishOutcome::Good,
        }
    }

    async fn discard(&self, _: &str) -> DiscardOutcome {
        DiscardOutcome::Done
    }
}

#[test]
fn no_pin_or_puk_is_ever_in_the_store_or_a_report() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("office.db");
    let clock = clock();
    let store = SqliteRepository::open_with(&path, SqliteOptions::new(Arc::new(clock.clone()))).expect("it opens");
    let nosy = Nosy::default();
    let office = Office::on(store, clock, |builder| builder.personalizer(nosy.clone()));
    office.script(
        CARD_SCRIPT,
        "CardsPINLength = 12\nCardsPUKLength = 12\nCardsPUKDeliveryMethod = \"email\"\nCardsPINDeliveryMethod = \"print\"",
    );
    let cards: Vec<ItemId> = (1..=10).map(|n| ItemId::Card(office.request(&format!("u{n}")))).collect();
    let (report, outcomes) = office.run(ISSUE, &operator(), Answer::ids(cards.clone()));
    office.run(REPEAT_PRODUCTION, &operator(), Answer::ids(cards));
    let seen = nosy.0.lock().expect("not poisoned").clone();
    assert!(seen.len() >= 20 && seen.iter().collect::<BTreeSet<_>>().len() == seen.len(), "{}", seen.len());
    let everything = block_on(everything_of(&office));
    let shown = format!("{report:?} {outcomes:?} {everything} {:?}", office.engine);
    let mut files = Vec::new();
    for file in std::fs::read_dir(folder.path()).expect("readable") {
        files.extend(std::fs::read(file.expect("readable").path()).expect("readable"));
    }
    assert!(files.len() > 10_000, "the files hold something");
    for secret in &seen {
        assert!(secret.len() == 12 && secret.bytes().all(|digit| digit.is_ascii_digit()));
        assert!(!shown.contains(secret.as_str()));
        assert!(!files.windows(12).any(|bytes| bytes == secret.as_bytes()));
    }
}

async fn everything_of(office: &Office) -> String {
    let cards = office.engine.card_page(&CardQuery::default(), None, 1000).await.expect("readable");
    let jobs = office.engine.job_page(&JobQuery::default(), None, 10_000).await.expect("readable");
    let certificates =
        office.engine.certificate_page(&CertificateQuery::default(), None, 1000).await.expect("readable");
    let feed = office.engine.changes_since(None, 100_000).await.expect("readable");
    format!("{cards:?} {jobs:?} {certificates:?} {:?}", feed.entries)
}

// ---- what must fit together ----------------------------------------------------------------------------------------

/// What must fit together over cards and their current certificates (DOMAIN.md 1), for our states, and toward the CA where no
/// job is open for a certificate.
fn fits_together(office: &Office) -> Result<(), String> {
    let cards = block_on(office.engine.card_page(&CardQuery::default(), None, 10_000)).map_err(|e| e.to_string())?;
    let certificates = block_on(office.engine.certificate_page(&CertificateQuery::default(), None, 10_000))
        .map_err(|e| e.to_string())?;
    let jobs = block_on(office.engine.job_page(&JobQuery::default(), None, 100_000)).map_err(|e| e.to_string())?;
    let owed: BTreeSet<CardId> = jobs
        .iter()
        .filter(|job| matches!(job.state, JobState::Open | JobState::InDoubt))
        .filter_map(|j| j.card)
        .collect();
    let at_ca: BTreeMap<String, StateAtCa> =
        office.ca.ledger().into_iter().map(|entry| (entry.certificate.serial.clone(), entry.state)).collect();
    let mut active = BTreeSet::new();
    for card in &cards {
        let own: Vec<&Certificate> = certificates.iter().filter(|c| c.card == card.id).collect();
        let current: Vec<CertificateState> = own.iter().filter(|c| c.is_current(card)).map(|c| c.state()).collect();
        let good: &[CertificateState] = match card.state() {
            CardState::Active => &[CertificateState::Valid],
            CardState::Issued => &[CertificateState::OnHold, CertificateState::Valid],
            CardState::Inactive => &[CertificateState::OnHold],
            _ => &[],
        };
        if !current.iter().all(|state| good.contains(state)) {
            return Err(format!("card {} is {} with {current:?}", card.id, card.state()));
        }
        if card.state() == CardState::Active && !active.insert(card.holder.clone()) {
            return Err(format!("user {:?} has two active cards", card.holder));
        }
        for certificate in own.iter().filter(|_| !owed.contains(&card.id)) {
            let found = at_ca.get(&certificate.issued.serial).copied();
            let fits = match certificate.state() {
                CertificateState::Valid => found == Some(StateAtCa::Valid),
                CertificateState::OnHold => found == Some(StateAtCa::OnHold),
                CertificateState::Revoked => matches!(found, Some(StateAtCa::Revoked | StateAtCa::Expired)),
                CertificateState::Issued | CertificateState::Expired => true,
            };
            if !fits {
                return Err(format!("{} of card {} is {found:?} at the CA", certificate.state(), card.id));
            }
        }
        block_on(office.engine.verify_card(card)).map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Whether nothing is left of productions that ended without a card.
fn nothing_left_over(office: &Office) -> Result<(), String> {
    let cards: BTreeMap<CardId, Card> = block_on(office.engine.card_page(&CardQuery::default(), None, 10_000))
        .map_err(|e| e.to_string())?
        .into_iter()
        .map(|card| (card.id, card))
        .collect();
    let usable = office.ca.ledger().into_iter().filter(|entry| entry.state != StateAtCa::Revoked);
    let certificates = block_on(office.engine.certificate_page(&CertificateQuery::default(), None, 10_000))
        .map_err(|e| e.to_string())?;
    for entry in usable {
        let ours = certificates.iter().find(|c| c.issued.serial == entry.certificate.serial);
        let kept = ours.is_some_and(|c| c.is_current(&cards[&c.card]));
        if !kept {
            let card = ours.map(|c| &cards[&c.card]);
            let busy = card.and_then(|card| card.busy.as_ref()).map(|busy| busy.job);
            let job = block_on(office.engine.jobs(&busy.into_iter().collect::<Vec<_>>())).map_err(|e| e.to_string())?;
            let codes = card.map(|card| office.history(card.id));
            return Err(format!(
                "{} is left: {:?} {job:?} {codes:?}",
                entry.certificate.serial,
                ours.map(|c| c.state())
            ));
        }
    }
    Ok(())
}

#[derive(Clone, Debug)]
enum Step {
    Request(u8),
    Issue,
    Repeat,
    Activate(u8),
    Lock(u8),
    Sweep,
    Production,
    Resolve(bool),
    GiveUp,
    Leave(u8),
    Return(u8),
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..4_u8).prop_map(Step::Request),
        4 => Just(Step::Issue),
        2 => Just(Step::Repeat),
        3 => (0..8_u8).prop_map(Step::Activate),
        1 => (0..8_u8).prop_map(Step::Lock),
        1 => Just(Step::Sweep),
        2 => Just(Step::Production),
        1 => any::<bool>().prop_map(Step::Resolve),
        2 => Just(Step::Wait),
        1 => Just(Step::GiveUp),
        1 => (1..4_u8).prop_map(Step::Leave),
        1 => (1..4_u8).prop_map(Step::Return),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_and_fails_what_must_fit_together_does(
        steps in prop::collection::vec(step(), 5..40),
        faulty in any::<bool>(),
        blind in any::<bool>(),
        active in any::<bool>(),
    ) {
        let office = Office::new();
        if faulty {
            office.ca.behave(CaBehaviour::faulty().decided_after(HOUR).can_look(!blind));
            office.personalizer.behave(PersonalizerBehaviour::faulty().makes_keys(blind));
        }
        if active {
            office.script(CARD_SCRIPT, "CardsCardEndState = \"active\"\nCardsCertificateEndState = \"valid\"");
        }
        let all = |state| {
            let query = CardQuery { states: vec![state], ..CardQuery::default() };
            block_on(office.engine.card_page(&query, None, 100)).expect("readable")
        };
        let run = |process, cards: Vec<Card>, values: &[(&str, &str)]| {
            if !cards.is_empty() {
                let answer = Answer::ids(cards.iter().map(|card| ItemId::Card(card.id)));
                let answer = values.iter().fold(answer, |answer, (field, value)| answer.with(*field, *value));
                office.run(process, &operator(), answer);
            }
        };
        let settle = |good: bool| {
            for doubt in block_on(office.engine.doubts(None, 100)).expect("readable") {
                let resolution = match (doubt.kind(), good) {
                    (JobKind::FinishCard, true) => "good card",
                    (JobKind::FinishCard | JobKind::PrepareCard, false) => "spoiled",
                    // What the CA may have for a card that is given up already, nobody gives up without having looked.
                    (JobKind::IssueCertificate, false) if doubt.card.is_some_and(|id| office.card(id).production.is_some()) => {
                        "give up"
                    }
                    _ => "send again",
                };
                let answer = Answer::ids([ItemId::Job(doubt.id)]).with("resolution", resolution).with("reason", "seen");
                office.run(RESOLVE, &operator(), answer);
            }
        };
        for step in &steps {
            match step {
                Step::Request(user) => drop(office.run(REQUEST, &operator(), Answer::ids([user_item(&format!("u{user}"))]))),
                Step::Issue => run(ISSUE, all(CardState::Approved), &[]),
                Step::Repeat => run(REPEAT_PRODUCTION, all(CardState::Failed), &[]),
                Step::Activate(n) => run(ACTIVATE, all(CardState::Issued).into_iter().skip(usize::from(*n)).take(1).collect(), &[]),
                Step::Lock(n) => {
                    let cards = all(CardState::Active).into_iter().chain(all(CardState::Issued));
                    run(LOCK, cards.skip(usize::from(*n)).take(1).collect(), &[("reason", "superseded")]);
                }
                Step::Sweep => drop(office.sync(SYNC_ORPHANS)),
                Step::Production => drop(office.sync(SYNC_PRODUCTION)),
                Step::Resolve(good) => settle(*good),
                Step::Wait => office.clock.advance(6 * HOUR),
                Step::GiveUp => run(RESOLVE, all(CardState::Approved), &[("resolution", "give up"), ("reason", "enough")]),
                Step::Leave(user) => office.users.put(User { state: UserState::Inactive, ..person(u32::from(*user)) }),
                Step::Return(user) => office.users.put(person(u32::from(*user))),
            }
            if let Err(problem) = fits_together(&office) {
                return Err(TestCaseError::fail(format!("after {step:?}: {problem}")));
            }
        }
        // Then nothing fails any more: all comes to an end, and nothing is left over.
        office.ca.behave(CaBehaviour::calm());
        office.personalizer.behave(PersonalizerBehaviour::calm().makes_keys(blind));
        for _ in 0..12 {
            settle(true);
            office.clock.advance(25 * HOUR);
            office.sync(SYNC_PRODUCTION);
            office.sync(SYNC_ORPHANS);
        }
        fits_together(&office).map_err(TestCaseError::fail)?;
        nothing_left_over(&office).map_err(TestCaseError::fail)?;
        let open = JobQuery { states: vec![JobState::Open, JobState::InDoubt], ..JobQuery::default() };
        prop_assert_eq!(block_on(office.engine.job_page(&open, None, 100)).expect("readable"), vec![]);
        prop_assert!(all(CardState::Approved).iter().all(|card| card.busy.is_none()));
    }
}
