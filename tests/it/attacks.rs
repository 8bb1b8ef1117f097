//! Attacks on cards that are made here: answers that are lost or late, workers and operators at once, machines and people
//! that do odd things.

use std::sync::Arc;
use std::time::Duration;

use cardwright::adapters::memory::MemoryRepository;
use cardwright::adapters::simulator::{
    CaBehaviour, DiscardScript, FinishScript, HandleState, IssueScript, PrepareScript, SimulatedClock,
};
use cardwright::host::{Clock as _, JobQuery};
use cardwright::process::{Answer, ItemId, RefusalCode};
use cardwright::{CardId, CardState, EngineSettings, JobKind, JobState};
use futures::executor::block_on;

use crate::fits_together::{fits_together, nothing_left_over};
use crate::machines::{Hanging, Workshop, bare};
use crate::office::{
    ACTIVATE, CARD_SCRIPT, ISSUE, Office, REPEAT_PRODUCTION, RESOLVE, SYNC_ORPHANS, SYNC_PRODUCTION, clock, operator,
    person, user_id,
};
use crate::producing::{a_day_later, activate, dies_while, issue, issued, refused, resolve, state_of};
use crate::watched::jobs;

const HOUR: Duration = Duration::from_secs(3600);

fn doubts(office: &Office) -> usize {
    block_on(office.engine.doubts(None, 10)).expect("readable").len()
}

/// Lets days pass, with all syncs.
fn days_later(office: &Office, days: usize) {
    for _ in 0..days {
        a_day_later(office);
        office.sync(SYNC_ORPHANS);
    }
}

// ---- answers that are lost -----------------------------------------------------------------------------------------

#[test]
fn every_commit_of_a_production_may_be_stored_unheard() {
    for lost in 0..7 {
        let Workshop { office, watched, .. } = Workshop::new();
        let card = office.request("u1");
        watched.lose_answers((0..7).map(|commit| commit == lost));
        let outcome = issue(&office, card);
        days_later(&office, 3);
        let codes = office.history(card);
        assert_eq!(office.state(card), CardState::Issued, "commit {lost}: {outcome:?} {codes:?}");
        assert!(!codes.iter().any(|code| code.starts_with("late")), "commit {lost}: {codes:?}");
        let machine: Vec<_> = office.personalizer.ledger().iter().map(|made| made.state).collect();
        assert_eq!(machine, [HandleState::Finished], "commit {lost}");
    }
}

#[test]
fn every_commit_of_a_group_may_be_stored_unheard() {
    for lost in 0..12 {
        let Workshop { office, watched, .. } = Workshop::with(EngineSettings::new().cards_at_once(10));
        let cards: Vec<_> = (1..=10).map(|n| office.request(&format!("u{n}"))).collect();
        watched.lose_answers((0..12).map(|commit| commit == lost));
        office.run(ISSUE, &operator(), Answer::ids(cards.iter().copied().map(ItemId::Card)));
        days_later(&office, 3);
        let made = cards.iter().filter(|card| office.state(**card) == CardState::Issued).count();
        assert_eq!(made, 10, "commit {lost}");
        assert_eq!(office.personalizer.ledger().len(), 10, "commit {lost}: no blank is lost");
    }
}

#[test]
fn card_that_came_late_is_put_aside_once_though_that_was_stored_unheard() {
    let workshop = Workshop::new();
    let (office, other) = (&workshop.office, workshop.second());
    let card = office.request("u1");
    let watched = Arc::clone(&workshop.watched);
    workshop.machine.before_answer(JobKind::PrepareCard, move || {
        other.clock.advance(HOUR);
        assert_eq!(other.sync(SYNC_PRODUCTION).in_doubt, 1);
        assert_eq!(state_of(&resolve(&other, ItemId::Card(card), "spoiled")), "failed");
        // The next commit meets a conflict and stores nothing; the one that records the late card is stored unheard.
        watched.lose_answers([true, true, false]);
    });
    let (report, _) = office.run(ISSUE, &operator(), Answer::ids([ItemId::Card(card)]));
    assert_eq!(report.interrupted, None);
    let codes = office.history(card);
    assert_eq!(codes.iter().filter(|code| *code == "late_prepared_card").count(), 1, "{codes:?}");
    days_later(office, 1);
    assert_eq!(office.personalizer.ledger()[0].state, HandleState::Discarded);
}

#[test]
fn answer_that_comes_while_its_card_is_in_doubt_settles_it() {
    for (at, finish, prepare, state) in [
        (JobKind::FinishCard, FinishScript::Finish, PrepareScript::Prepare, CardState::Issued),
        (JobKind::FinishCard, FinishScript::Spoil("bent".to_owned()), PrepareScript::Prepare, CardState::Failed),
        (JobKind::FinishCard, FinishScript::Jam, PrepareScript::Prepare, CardState::Approved),
        (JobKind::PrepareCard, FinishScript::Finish, PrepareScript::Prepare, CardState::Issued),
        (JobKind::PrepareCard, FinishScript::Finish, PrepareScript::Jam, CardState::Approved),
    ] {
        let workshop = Workshop::new();
        let (office, other) = (&workshop.office, workshop.second());
        let card = office.request("u1");
        office.personalizer.next_prepare(prepare.clone());
        office.personalizer.next_finish(finish.clone());
        workshop.machine.before_answer(at, move || {
            other.clock.advance(HOUR);
            assert_eq!(other.sync(SYNC_PRODUCTION).in_doubt, 1);
        });
        let outcome = issue(office, card);
        let what = format!("{at}, {prepare:?}, {finish:?}: {outcome:?} {:?}", office.history(card));
        assert_eq!((doubts(office), office.state(card)), (0, state), "{what}");
    }
}

// ---- several at once -----------------------------------------------------------------------------------------------

#[test]
fn two_engines_activate_one_of_two_cards_of_a_user() {
    let workshop = Workshop::new();
    let (office, other) = (&workshop.office, workshop.second());
    let (first, second) = (issued(office, "u1"), issued(office, "u1"));
    workshop.watched.before_commit(move || assert_eq!(state_of(&activate(&other, second)), "active"));
    refused(&activate(office, first), RefusalCode::ActiveCard);
    assert_eq!((office.state(first), office.state(second)), (CardState::Issued, CardState::Active));
}

#[test]
fn two_engines_make_one_card_once() {
    for process in [ISSUE, REPEAT_PRODUCTION] {
        let workshop = Workshop::new();
        let (office, other) = (&workshop.office, workshop.second());
        let card = office.request("u1");
        if process == REPEAT_PRODUCTION {
            office.personalizer.next_finish(FinishScript::Spoil("bent".to_owned()));
            issue(office, card);
        }
        workshop.watched.before_commit(move || {
            assert_eq!(state_of(&other.one(process, &operator(), ItemId::Card(card), &[])), "issued");
        });
        refused(&office.one(process, &operator(), ItemId::Card(card), &[]), RefusalCode::WrongState);
        assert_eq!(office.personalizer.finished_for(card), 1, "{process}");
    }
}

#[test]
fn sync_of_another_engine_at_any_commit_makes_no_second_card() {
    for commit in 0..7 {
        let workshop = Workshop::new();
        let (office, other) = (&workshop.office, workshop.second());
        let card = office.request("u1");
        for _ in 0..commit {
            workshop.watched.before_commit(|| {});
        }
        workshop.watched.before_commit(move || {
            other.clock.advance(HOUR);
            other.sync(SYNC_PRODUCTION);
        });
        issue(office, card);
        days_later(office, 3);
        assert_eq!((office.state(card), doubts(office)), (CardState::Issued, 0), "commit {commit}");
        assert_eq!(office.personalizer.finished_for(card), 1, "commit {commit}");
        fits_together(office).expect("all fits");
        nothing_left_over(office).expect("no certificate is left");
    }
}

#[test]
fn worker_whose_claims_end_in_a_long_batch_doubles_nothing() {
    let workshop = Workshop::with(EngineSettings::new().cards_at_once(2));
    let (office, other) = (&workshop.office, workshop.second());
    let cards: Vec<_> = (1..=10).map(|n| office.request(&format!("u{n}"))).collect();
    workshop.machine.before_answer(JobKind::FinishCard, move || {
        other.clock.advance(Duration::from_secs(400));
        let report = other.sync(SYNC_PRODUCTION);
        assert!(report.items > 2, "it takes over what is left: {report:?}");
    });
    office.run(ISSUE, &operator(), Answer::ids(cards.iter().copied().map(ItemId::Card)));
    days_later(office, 2);
    for card in cards {
        assert_eq!((office.state(card), office.personalizer.finished_for(card)), (CardState::Issued, 1));
    }
    assert_eq!(office.personalizer.ledger().len(), 10, "no blank is lost");
}

#[test]
fn what_is_given_up_twice_is_still_got_hold_of() {
    // In one run, the card and its job both ticked; and by two operators, one after the other.
    let both = |office: &Office, card, job| {
        let answer = Answer::ids([ItemId::Card(card), ItemId::Job(job)]);
        office.run(RESOLVE, &operator(), answer.with("resolution", "give up").with("reason", "enough"));
    };
    let one_by_one = |office: &Office, _, job| {
        for _ in 0..2 {
            resolve(office, ItemId::Job(job), "give up");
        }
    };
    for give_up in [both as fn(&Office, CardId, cardwright::JobId), one_by_one] {
        let office = Office::new();
        let card = office.request("u1");
        office.ca.next_issue(IssueScript::IssueAfter(60 * HOUR));
        issue(&office, card);
        a_day_later(&office);
        give_up(&office, card, office.card(card).busy.expect("it waits for the CA").job);
        assert_eq!(office.state(card), CardState::Failed);
        days_later(&office, 6);
        assert_eq!(office.ca.ledger().len(), 1, "it came late");
        nothing_left_over(&office).expect("what came late is revoked");
    }
}

// ---- engines that lack something -------------------------------------------------------------------------------------

#[test]
fn engine_without_a_ca_forgets_no_certificate() {
    let workshop = Workshop::new();
    let office = &workshop.office;
    let unequipped = bare(office, workshop.store.clone(), |builder| builder);
    let card = office.request("u1");
    office.ca.next_issue(IssueScript::IssueAfter(60 * HOUR));
    issue(office, card);
    a_day_later(office);
    assert_eq!(state_of(&resolve(&unequipped, ItemId::Card(card), "give up")), "failed");
    unequipped.sync(SYNC_PRODUCTION);
    days_later(office, 6);
    assert_eq!(office.ca.ledger().len(), 1, "it came late");
    nothing_left_over(office).expect("what came late is revoked");
}

#[test]
fn engine_without_a_machine_does_not_keep_another_from_its_work() {
    let workshop = Workshop::new();
    let office = &workshop.office;
    let unequipped = bare(office, workshop.store.clone(), |builder| builder);
    let card = office.request("u1");
    office.personalizer.next_prepare(PrepareScript::Jam);
    issue(office, card);
    office.clock.advance(HOUR);
    unequipped.sync(SYNC_PRODUCTION);
    office.sync(SYNC_PRODUCTION);
    assert_eq!(office.state(card), CardState::Issued);
}

// ---- machines --------------------------------------------------------------------------------------------------------

#[test]
fn finish_that_may_be_under_way_is_not_given_up() {
    let (clock, machine) = (SimulatedClock::new(clock().now()), Hanging::when_it_finishes());
    let store = MemoryRepository::new(Arc::new(clock.clone()));
    let office = Office::on(store, clock, |builder| builder.personalizer(machine.clone()));
    let card = office.request("u1");
    dies_while(&office, ISSUE, Answer::ids([ItemId::Card(card)]));
    assert_eq!(machine.calls(), (2, 1), "it was asked to finish the card, with a PIN");
    office.clock.advance(HOUR);
    refused(&resolve(&office, ItemId::Card(card), "give up"), RefusalCode::NotInDoubt);
    assert_eq!(office.sync(SYNC_PRODUCTION).in_doubt, 1, "it is in doubt first");
    assert_eq!(state_of(&resolve(&office, ItemId::Card(card), "spoiled")), "failed");
}

#[test]
fn chip_serial_is_the_same_in_any_case_and_with_any_space() {
    let office = Office::new();
    office.personalizer.next_chip_serial("04a1b2");
    issued(&office, "u1");
    office.personalizer.next_chip_serial("04A1B2 ");
    let card = office.request("u2");
    assert_eq!(state_of(&issue(&office, card)), "failed", "it is the same chip");
}

#[test]
fn one_card_that_jams_does_not_stop_the_others() {
    let office = Office::with(|builder| builder.settings(EngineSettings::new().cards_at_once(1)));
    let cards: Vec<CardId> = (1..=5).map(|n| office.request(&format!("u{n}"))).collect();
    let first = *cards.iter().min().expect("there are five");
    office.personalizer.every_finish_where(move |card| card.id == first, FinishScript::Jam);
    office.run(ISSUE, &operator(), Answer::ids(cards.iter().copied().map(ItemId::Card)));
    for _ in 0..5 {
        office.clock.advance(HOUR);
        office.sync(SYNC_PRODUCTION);
    }
    let made = cards.iter().filter(|card| office.state(**card) == CardState::Issued).count();
    assert_eq!(made, 4, "after five hourly syncs");
}

#[test]
fn putting_a_card_aside_can_be_given_up_when_the_machine_is_gone() {
    let office = Office::new();
    let card = office.request("u1");
    office.personalizer.next_finish(FinishScript::Spoil("bent".to_owned()));
    for _ in 0..50 {
        office.personalizer.next_discard(DiscardScript::Jam);
    }
    issue(&office, card);
    days_later(&office, 30);
    let open = JobQuery { kinds: vec![JobKind::DiscardCard], states: vec![JobState::Open] };
    let open = block_on(office.engine.job_page(&open, None, 9)).expect("readable");
    assert_eq!(open.len(), 1);
    assert_eq!(state_of(&resolve(&office, ItemId::Job(open[0].id), "give up")), "done");
    assert_eq!(jobs(&office, JobKind::DiscardCard)[0].state, JobState::Done);
}

// ---- people and time -------------------------------------------------------------------------------------------------

#[test]
fn good_card_is_not_for_a_holder_who_was_deleted() {
    let office = Office::new();
    let card = office.request("u1");
    office.personalizer.next_finish(FinishScript::LoseReplyAfterFinishing);
    issue(&office, card);
    office.users.remove(&user_id("u1"));
    refused(&resolve(&office, ItemId::Card(card), "good card"), RefusalCode::UserNotActive);
    assert!(office.card(card).busy.is_some_and(|busy| busy.in_doubt), "nothing was changed");
}

#[test]
fn card_in_doubt_whose_time_is_over_is_not_a_good_card() {
    let no_certificates = "CardsCertificates = { authentication = false, signature = false, encryption = false }";
    // The card's own time, and that of its certificates, which may be shorter.
    for (script, time) in [(no_certificates, 24 * HOUR * 1100), ("", 2 * HOUR)] {
        let office = Office::new();
        office.script(CARD_SCRIPT, script);
        office.ca.behave(CaBehaviour::calm().longest_validity(HOUR));
        let card = office.request("u1");
        office.personalizer.next_finish(FinishScript::LoseReplyAfterFinishing);
        issue(&office, card);
        office.clock.advance(time);
        refused(&resolve(&office, ItemId::Card(card), "good card"), RefusalCode::Expired);
        assert_eq!(state_of(&resolve(&office, ItemId::Card(card), "spoiled")), "failed");
    }
}

#[test]
fn card_whose_certificates_have_expired_is_not_activated() {
    for end_state in ["on hold", "valid"] {
        let office = Office::new();
        office.script(CARD_SCRIPT, &format!("CardsCertificateEndState = \"{end_state}\""));
        office.ca.behave(CaBehaviour::calm().longest_validity(HOUR));
        let card = issued(&office, "u1");
        office.clock.advance(2 * HOUR);
        let reason =
            refused(&office.one(ACTIVATE, &operator(), ItemId::Card(card), &[]), RefusalCode::Expired).to_owned();
        assert!(reason.starts_with("the certificate for "), "{reason}");
        assert_eq!(office.state(card), CardState::Issued);
    }
}

#[test]
fn card_whose_time_ends_while_it_is_made_is_not_finished() {
    let office = Office::new();
    office.script(
        CARD_SCRIPT,
        "CardsValidityDays = 1\nCardsCertificates = { authentication = false, signature = false, encryption = false }",
    );
    let card = office.request("u1");
    office.personalizer.next_finish(FinishScript::Jam);
    issue(&office, card);
    office.clock.advance(72 * HOUR);
    office.sync(SYNC_PRODUCTION);
    assert_eq!((office.state(card), office.personalizer.calls().finish), (CardState::Failed, 1));
    let cause = office.card(card).failure.expect("it failed").cause;
    assert!(cause.contains("was valid until 2030-01-08"), "{cause}");
}

#[test]
fn card_without_a_value_that_its_production_needs_costs_no_blank() {
    for (name, script) in [("commonName", ""), ("email", "CardsPINDeliveryMethod = \"email\"")] {
        let office = Office::new();
        office.script(CARD_SCRIPT, script);
        let mut user = person(1);
        user.attributes.remove(name);
        office.users.put(user);
        let card = office.request("u1");
        let reason = refused(&issue(&office, card), RefusalCode::CardElement).to_owned();
        assert!(reason.contains(&format!("no `{name}`")), "{reason}");
        assert_eq!(office.personalizer.calls().prepare, 0);
    }
}
