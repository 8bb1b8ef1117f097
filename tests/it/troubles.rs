//! What machines, CAs and people do to a production that is under way.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cardwright::adapters::memory::{MemoryRepository, MemoryUsers, RecordingNotifier};
use cardwright::adapters::simulator::{
    ChangeScript, FinishScript, HandleState, PersonalizerBehaviour, PrepareScript, SimulatedCa, SimulatedPersonalizer,
};
use cardwright::host::{
    AllowAll, CardPersonalizer, Clock as _, DiscardOutcome, FinishOrder, FinishOutcome, PrepareOrder, PrepareOutcome,
};
use cardwright::process::{Answer, FieldKind, ItemId, Outcome, RefusalCode};
use cardwright::{CardState, CertificateKind, Engine, EngineSettings, JobKind, StateAtCa, User, UserState, Withdrawal};
use futures::executor::block_on;

use crate::fits_together::nothing_left_over;
use crate::machines::Workshop;
use crate::office::{
    CARD_SCRIPT, ISSUE, ORDER, Office, REPEAT_PRODUCTION, RESOLVE, SYNC_ORPHANS, clock, operator, person, rules,
    user_item,
};
use crate::producing::{a_day_later, issue, issued, lock, refused, state_of};

/// A machine with few places for cards.
#[derive(Clone)]
struct SmallMachine {
    inner: SimulatedPersonalizer,
    places: usize,
    taken: Arc<Mutex<BTreeSet<String>>>,
    most: Arc<Mutex<usize>>,
}

impl SmallMachine {
    fn new(places: usize) -> Self {
        Self {
            inner: SimulatedPersonalizer::new(3, Arc::new(clock())).behaving(PersonalizerBehaviour::calm()),
            places,
            taken: Arc::default(),
            most: Arc::default(),
        }
    }
}

#[async_trait]
impl CardPersonalizer for SmallMachine {
    async fn prepare(&self, order: &PrepareOrder<'_>) -> PrepareOutcome {
        if self.taken.lock().unwrap().len() >= self.places {
            return PrepareOutcome::Unavailable { reason: "all places are taken".to_owned() };
        }
        let outcome = self.inner.prepare(order).await;
        if let PrepareOutcome::Prepared(prepared) = &outcome {
            let mut taken = self.taken.lock().unwrap();
            taken.insert(prepared.handle.clone());
            let mut most = self.most.lock().unwrap();
            *most = taken.len().max(*most);
        }
        outcome
    }

    async fn finish(&self, order: FinishOrder<'_>) -> FinishOutcome {
        let handle = order.handle.to_owned();
        let outcome = self.inner.finish(order).await;
        self.taken.lock().unwrap().remove(&handle);
        outcome
    }

    async fn discard(&self, handle: &str) -> DiscardOutcome {
        self.taken.lock().unwrap().remove(handle);
        self.inner.discard(handle).await
    }
}

fn six_cards(office: &Office) -> Vec<ItemId> {
    (1..=6).map(|n| ItemId::Card(office.request(&format!("u{n}")))).collect()
}

#[test]
fn machine_with_one_place_makes_one_card_after_the_other() {
    for (places, at_once) in [(1, 1), (2, 2), (3, 2)] {
        let machine = SmallMachine::new(places);
        let settings = EngineSettings::new().cards_at_once(at_once);
        let office = Office::with(|builder| builder.personalizer(machine.clone()).settings(settings));
        let (report, _) = office.run(ISSUE, &operator(), Answer::ids(six_cards(&office)));
        assert_eq!(report.done.get("issued"), Some(&6), "{places} places: {report:?}");
        assert_eq!(*machine.most.lock().unwrap(), at_once);
    }
}

#[test]
fn while_the_ca_is_away_no_more_cards_are_begun() {
    let machine = SmallMachine::new(6);
    let settings = EngineSettings::new().cards_at_once(2);
    let office = Office::with(|builder| builder.personalizer(machine.clone()).settings(settings));
    let cards = six_cards(&office);
    office.ca.outage(office.clock.now() + chrono::TimeDelta::hours(3));
    office.run(ISSUE, &operator(), Answer::ids(cards.clone()));
    assert_eq!(machine.inner.calls().prepare, 2, "though there are places left");
    a_day_later(&office);
    for card in cards {
        let ItemId::Card(card) = card else { unreachable!() };
        assert_eq!(office.state(card), CardState::Issued, "one sync is enough: those at hand are finished first");
    }
}

#[test]
fn chip_of_a_card_that_was_not_made_may_go_into_another() {
    let office = Office::new();
    let (spoiled, other, third) = (office.request("u1"), office.request("u2"), office.request("u3"));
    for _ in 0..3 {
        office.personalizer.next_chip_serial("CHIP-1");
    }
    office.personalizer.next_finish(FinishScript::Spoil("bent".to_owned()));
    issue(&office, spoiled);
    assert_eq!((office.state(spoiled), office.card(spoiled).chip_serial), (CardState::Failed, None));
    assert_eq!(state_of(&issue(&office, other)), "issued");
    issue(&office, third);
    assert_eq!(office.state(third), CardState::Failed, "a card that was made keeps its chip");
    lock(&office, other, "unspecified");
    office.personalizer.next_chip_serial("CHIP-1");
    office.one(REPEAT_PRODUCTION, &operator(), ItemId::Card(third), &[]);
    assert_eq!(office.state(third), CardState::Failed, "for good");
}

#[test]
fn card_whose_chip_serial_is_none_is_put_aside() {
    for serial in ["", "a\u{0}b", &"9".repeat(201)] {
        let Workshop { office, machine, .. } = Workshop::new();
        let card = office.request("u1");
        let given = serial.to_owned();
        machine.next_prepared(move |prepared| prepared.chip_serial = Some(given.clone()));
        issue(&office, card);
        let failure = office.card(card).failure.expect("it failed");
        assert_eq!(failure.cause, "the personalizer gave a chip serial that is none");
        assert_eq!(office.personalizer.ledger()[0].state, HandleState::Discarded);
        office.one(REPEAT_PRODUCTION, &operator(), ItemId::Card(card), &[]);
        assert_eq!(office.state(card), CardState::Issued);
    }
}

#[test]
fn machine_may_take_longer_than_a_directory_but_not_for_ever() {
    for (seconds, issued) in [(60, true), (150, false)] {
        let office = Office::new();
        office.personalizer.next_finish(FinishScript::Late(Duration::from_secs(seconds)));
        let card = office.request("u1");
        let outcome = issue(&office, card);
        assert_eq!(matches!(outcome, Outcome::InDoubt { .. }), !issued, "{seconds} s: {outcome:?}");
        assert_eq!(office.state(card) == CardState::Issued, issued);
    }
}

#[test]
fn good_card_is_not_for_a_holder_who_has_left() {
    let office = Office::new();
    let card = office.request("u1");
    office.personalizer.next_finish(FinishScript::LoseReplyAfterFinishing);
    issue(&office, card);
    office.users.put(User { state: UserState::Inactive, ..person(1) });
    let resolve = |what| {
        let values = [("resolution", what), ("reason", "looked into the tray")];
        office.one(RESOLVE, &operator(), ItemId::Card(card), &values)
    };
    refused(&resolve("good card"), RefusalCode::UserNotActive);
    assert!(office.card(card).busy.is_some_and(|busy| busy.in_doubt), "nothing was changed");
    assert_eq!(state_of(&resolve("spoiled")), "failed");
    office.sync(SYNC_ORPHANS);
    nothing_left_over(&office).expect("its certificates are revoked");
}

// ---- the CA --------------------------------------------------------------------------------------------------------

#[test]
fn certificate_that_was_changed_at_the_ca_is_written_onto_no_card() {
    let active = "CardsCardEndState = \"active\"\nCardsCertificateEndState = \"valid\"";
    for (script, state) in
        [("", StateAtCa::Revoked), ("", StateAtCa::Valid), (active, StateAtCa::Revoked), (active, StateAtCa::OnHold)]
    {
        let office = Office::new();
        office.script(CARD_SCRIPT, script);
        let card = office.request("u1");
        office.personalizer.next_finish(FinishScript::Jam);
        issue(&office, card);
        for entry in office.ca.ledger() {
            assert!(office.ca.set_state(&entry.certificate.serial, state));
        }
        a_day_later(&office);
        assert_eq!(office.state(card), CardState::Failed, "{state:?}");
        let cause = office.card(card).failure.expect("it failed").cause;
        assert!(cause.contains("was expected"), "{cause}");
        assert!(office.personalizer.ledger()[0].written.is_empty());
        office.sync(SYNC_ORPHANS);
        nothing_left_over(&office).expect("what the CA knows is revoked");
        let at_ca: Vec<_> = office.certificates(card).iter().map(|certificate| certificate.at_ca).collect();
        assert_eq!(at_ca, [StateAtCa::Revoked; 2]);
    }
}

#[test]
fn serial_number_that_the_ca_gives_twice_is_for_a_person() {
    let Workshop { office, ca, .. } = Workshop::new();
    let mut first = None;
    ca.every_certificate(move |issued| *issued = first.get_or_insert_with(|| issued.clone()).clone());
    office.script(CARD_SCRIPT, "CardsCertificates = { signature = false }");
    let cards: Vec<_> = ["u1", "u2"].map(|user| office.request(user)).into();
    let (report, _) = office.run(ISSUE, &operator(), Answer::ids(cards.iter().copied().map(ItemId::Card)));
    assert_eq!((report.in_doubt, report.done.get("issued")), (1, Some(&1)), "{report:?}");
    let doubt = block_on(office.engine.doubts(None, 10)).expect("readable").remove(0);
    assert_eq!(doubt.kind(), JobKind::IssueCertificate);
    assert!(doubt.remark.expect("why").contains("which is already that of certificate"));
    assert_eq!(cards.iter().map(|card| office.certificates(*card).len()).sum::<usize>(), 1);
}

#[test]
fn hold_that_waits_can_be_given_up() {
    let office = Office::new();
    let card = office.request("u1");
    office.ca.next_hold(ChangeScript::Unavailable);
    issue(&office, card);
    assert_eq!(office.state(card), CardState::Approved);
    let values = [("resolution", "give up"), ("reason", "nobody wants it any more")];
    assert_eq!(state_of(&office.one(RESOLVE, &operator(), ItemId::Card(card), &values)), "failed");
    office.sync(SYNC_ORPHANS);
    nothing_left_over(&office).expect("it is revoked");
    assert_eq!(office.card(card).busy, None);
}

// ---- options -------------------------------------------------------------------------------------------------------

#[test]
fn function_may_have_the_operator_asked_for_some_cards() {
    let office = Office::new();
    office.script(
        CARD_SCRIPT,
        "CardsCertificates = function(card, user)\n  local asked = \"ask\"\n  \
         if user.commonName == \"Person 2\" then asked = \"ask, on\" end\n  \
         if user.commonName == \"Person 3\" then asked = false end\n  \
         return { authentication = true, signature = asked, encryption = false }\nend",
    );
    let run = block_on(office.engine.open(ISSUE, &operator())).expect("it opens");
    let fields: Vec<_> = run.form.fields.iter().map(|field| (field.name.as_str(), field.preset.as_deref())).collect();
    let names = ["certificate.authentication", "certificate.signature", "certificate.encryption"];
    assert_eq!(fields, names.map(|name| (name, None)), "it may ask about any");
    assert!(run.form.fields.iter().all(|field| !field.required && matches!(&field.kind, FieldKind::Choice(_))));
    let signed = |user: &str, answer: &[(&str, &str)]| {
        let card = office.request(user);
        office.one(ISSUE, &operator(), ItemId::Card(card), answer);
        assert_eq!(office.state(card), CardState::Issued);
        office.certificates(card).iter().any(|certificate| certificate.kind == CertificateKind::Signature)
    };
    for (user, unanswered, yes, no) in
        [("u1", false, true, false), ("u2", true, true, false), ("u3", false, false, false)]
    {
        let answer = |value| [("certificate.signature", value)];
        assert_eq!(
            (signed(user, &[]), signed(user, &answer("yes")), signed(user, &answer("no"))),
            (unanswered, yes, no)
        );
    }
}

// ---- what nobody wants, and nobody does ----------------------------------------------------------------------------

#[test]
fn approved_card_that_nobody_wants_is_aborted_as_long_as_it_is_not_being_made() {
    let office = Office::new();
    let (unwanted, begun) = (office.request("u1"), office.request("u2"));
    let abort = |card| office.one("CardsProcAbort", &operator(), ItemId::Card(card), &[("reason", "left the company")]);
    assert_eq!(state_of(&abort(unwanted)), "aborted");
    assert_eq!(office.card(unwanted).withdrawal, Some(Withdrawal::Approved));
    assert_eq!(office.history(unwanted).last().map(String::as_str), Some("approved_card_aborted"));
    refused(&issue(&office, unwanted), RefusalCode::WrongState);
    office.personalizer.next_prepare(PrepareScript::Jam);
    issue(&office, begun);
    refused(&abort(begun), RefusalCode::Busy);
}

#[test]
fn office_without_a_bureau_makes_cards_and_orders_none() {
    let machine = SimulatedPersonalizer::new(3, Arc::new(clock()));
    let ca = SimulatedCa::new(7, Arc::new(clock()));
    let engine = |store: MemoryRepository| {
        Engine::builder()
            .repository(store)
            .users(MemoryUsers::new((1..=3).map(person)))
            .certificate_authority(ca.clone())
            .personalizer(machine.clone())
            .notifier(RecordingNotifier::new())
            .access(AllowAll)
            .clock(clock())
            .rules(rules())
            .build()
            .expect("a bureau is not needed")
    };
    let office = Office { engine: engine(MemoryRepository::new(Arc::new(clock()))), ..Office::new() };
    let outcome = office.one(ORDER, &operator(), user_item("u1"), &[]);
    let reason = refused(&outcome, RefusalCode::NotEquipped);
    assert_eq!(reason, "this office has no card bureau");
    issued(&office, "u2");
}
