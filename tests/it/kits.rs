//! The kits for the CA and the personalizer: against the simulators, and against hosts that are broken on purpose.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cardwright::adapters::simulator::{
    CaBehaviour, FinishScript, HandleState, IssueScript, PersonalizerBehaviour, PrepareScript, SimulatedCa,
    SimulatedClock, SimulatedPersonalizer,
};
use cardwright::conformance::card_personalizer::{self, PersonalizerFactory, SeenCard, Trouble};
use cardwright::conformance::certificate_authority::{self, CaFactory, KeyIn};
use cardwright::conformance::{Call, Kit, block_on, card_repository, go_cards_provider, on_threads, user_repository};
use cardwright::host::{
    CaOutcome, CaStatusOutcome, CardCertificate, CardPersonalizer, CertificateAuthority, CertificateOrder,
    DiscardOutcome, FindCertificateOutcome, FinishOrder, FinishOutcome, IssueOutcome, PrepareOrder, PrepareOutcome,
};
use cardwright::{CertificateKind, Delivery, IssuedCertificate, RevocationReason, Secret, StateAtCa};
use futures::future::join_all;
use uuid::Uuid;

#[test]
fn every_clause_of_a_contract_has_a_check() {
    let contracts = [
        (include_str!("../../src/host/card_repository.rs"), card_repository::clauses()),
        (include_str!("../../src/host/user_repository.rs"), user_repository::clauses()),
        (include_str!("../../src/host/go_cards_provider.rs"), go_cards_provider::clauses()),
        (include_str!("../../src/host/certificate_authority.rs"), certificate_authority::clauses()),
        (include_str!("../../src/host/card_personalizer.rs"), card_personalizer::clauses()),
    ];
    for (source, checks) in contracts {
        let named: Vec<&str> = source
            .lines()
            .filter_map(|line| line.strip_prefix("/// - **`"))
            .filter_map(|line| line.split_once("`**"))
            .map(|(clause, _)| clause)
            .collect();
        assert_eq!(named, checks);
    }
}

// ---- the CA ------------------------------------------------------------------------------------------------------

#[test]
fn the_simulated_ca_keeps_every_clause_whatever_it_can_do() {
    for abilities in 0..16_u8 {
        let can = |ability: u8| abilities & (1 << ability) != 0;
        let (can_hold, can_look, makes_keys, takes_requests) = (can(0), can(1), can(2), can(3));
        if !(takes_requests || makes_keys && can_look) {
            // It would issue nothing at all.
            continue;
        }
        let behaviour = CaBehaviour::calm().can_hold(can_hold).can_look(can_look).makes_keys(makes_keys);
        let factory = Authority { takes_requests, ..Authority::new(behaviour) };
        let kit = factory.kit();
        for clause in certificate_authority::clauses() {
            block_on(certificate_authority::check(&kit, clause));
        }
    }
}

#[test]
fn the_simulated_ca_keeps_every_clause_with_faults_and_when_it_takes_its_time() {
    let slow = CaBehaviour::calm().pending(1000).decided_after(Duration::from_secs(3 * 24 * 60 * 60));
    let faulty = CaBehaviour::calm()
        .unavailable(200)
        .pending(200)
        .lost_after_issuing(200)
        .lost_before_issuing(200)
        .change_unavailable(200)
        .change_lost(200)
        .read_unavailable(100);
    for behaviour in [slow, faulty] {
        for takes_requests in [false, true] {
            let factory = Authority { takes_requests, ..Authority::new(behaviour.clone()) };
            block_on(certificate_authority::check_all(&factory.kit()));
        }
    }
}

#[test]
fn the_simulated_ca_keeps_every_clause_behind_arc_and_box_and_as_one_task() {
    let wraps: [fn(SimulatedCa) -> Arc<dyn CertificateAuthority>; 2] = [
        |ca| Arc::new(Arc::new(ca)),
        |ca| {
            let ca: Box<dyn CertificateAuthority> = Box::new(ca);
            Arc::new(ca)
        },
    ];
    for wrap in wraps {
        let factory = Authority { wrap, threads: false, ..Authority::new(CaBehaviour::calm()) };
        block_on(certificate_authority::check_all(&factory.kit()));
        // And once more on the same CA.
        block_on(certificate_authority::check_all(&Kit::of_ca(&factory, Uuid::from_u128(2))));
    }
}

#[test]
fn every_broken_ca_is_caught() {
    let flaws = [
        (CaFlaw::IssuesAnewEachTime, "one_certificate_per_key"),
        (CaFlaw::IssuesAnewToRacers, "one_certificate_per_key"),
        (CaFlaw::IssuesAnewWhenOpenedAgain, "one_certificate_per_key"),
        (CaFlaw::GivesAllTheFirst, "one_certificate_per_key"),
        (CaFlaw::IssuesForLonger, "validity_is_never_longer"),
        (CaFlaw::FindsNothing, "found_is_what_was_issued"),
        (CaFlaw::FindsTheFirstForAll, "found_is_what_was_issued"),
        (CaFlaw::ForgetsTheRevoked, "found_is_what_was_issued"),
        (CaFlaw::ForgetsWhenOpenedAgain, "found_is_what_was_issued"),
        (CaFlaw::IssuesWhatItRefused, "refused_leaves_nothing"),
        (CaFlaw::TakesAnyProfile, "refused_leaves_nothing"),
        (CaFlaw::TakesAnyRequest, "refused_leaves_nothing"),
        (CaFlaw::MakesKeysDespiteRequests, "request_keeps_its_key"),
        (CaFlaw::GivesKeysItCannotHave, "request_keeps_its_key"),
        (CaFlaw::KeepsKeysToItself, "ca_side_key_comes_with_find"),
        (CaFlaw::GivesKeysOnce, "ca_side_key_comes_with_find"),
        (CaFlaw::GivesAnotherKey, "ca_side_key_comes_with_find"),
        (CaFlaw::OneKeyForAll, "ca_side_key_comes_with_find"),
        (CaFlaw::RefusesTheSecondHold, "repeating_changes_nothing"),
        (CaFlaw::RefusesToRemoveNoHold, "repeating_changes_nothing"),
        (CaFlaw::RefusesTheSecondRevoke, "repeating_changes_nothing"),
        (CaFlaw::SecondHoldRemovesIt, "repeating_changes_nothing"),
        (CaFlaw::SaysDoneToTheRevoked, "revoked_stays_revoked"),
        (CaFlaw::RemovesRevocations, "revoked_stays_revoked"),
        (CaFlaw::RevivesWhenOpenedAgain, "revoked_stays_revoked"),
        (CaFlaw::StatusIsBackwards, "status_tells_what_was_done"),
        (CaFlaw::StatusLeavesOutStrangers, "status_tells_what_was_done"),
        (CaFlaw::StatusIsAlwaysValid, "status_tells_what_was_done"),
        (CaFlaw::LooksAtSerialsOnly, "status_tells_what_was_done"),
    ];
    assert_all_shown(&certificate_authority::clauses(), flaws.map(|(_, clause)| clause).as_slice());
    for (flaw, clause) in flaws {
        let factory = Authority { flaw: Some(flaw), ..Authority::new(CaBehaviour::calm()) };
        assert_caught(|| block_on(certificate_authority::check(&factory.kit(), clause)), flaw, clause);
    }
    // A CA that takes no requests must make keys, and one that cannot look must not.
    let factory = Authority { takes_requests: false, ..Authority::new(CaBehaviour::calm().makes_keys(false)) };
    let clause = "ca_side_key_comes_with_find";
    assert_caught(|| block_on(certificate_authority::check(&factory.kit(), clause)), "takes no orders", clause);
    let factory = Authority { flaw: Some(CaFlaw::CannotLookForItsKeys), ..Authority::new(CaBehaviour::calm()) };
    assert_caught(|| block_on(certificate_authority::check(&factory.kit(), clause)), "cannot look", clause);
}

/// Asserts that for each clause there is a broken host.
pub(crate) fn assert_all_shown(clauses: &[&str], shown: &[&str]) {
    for clause in clauses {
        assert!(shown.contains(clause), "nothing broken shows that {clause} checks anything");
    }
}

/// Asserts that this check fails, and says for which clause.
pub(crate) fn assert_caught(check: impl FnOnce(), flaw: impl std::fmt::Debug, clause: &str) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(check)) else {
        panic!("{clause} does not catch one that {flaw:?}");
    };
    let message = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    let message = message.expect("a message");
    assert!(message.contains(clause), "{clause} catches one that {flaw:?} for another reason: {message}");
}

/// Opens handles onto one simulated CA.
struct Authority {
    clock: SimulatedClock,
    ca: SimulatedCa,
    takes_requests: bool,
    requests: AtomicU64,
    threads: bool,
    wrap: fn(SimulatedCa) -> Arc<dyn CertificateAuthority>,
    flaw: Option<CaFlaw>,
    memory: Arc<CaMemory>,
}

impl Authority {
    fn new(behaviour: CaBehaviour) -> Self {
        let clock = SimulatedClock::new("2030-01-07T08:00:00Z".parse().expect("a time"));
        let ca = SimulatedCa::new(7, Arc::new(clock.clone())).behaving(behaviour.refusing("unknown"));
        Self {
            clock,
            ca,
            takes_requests: true,
            requests: AtomicU64::new(0),
            threads: true,
            wrap: |ca| Arc::new(ca),
            flaw: None,
            memory: Arc::default(),
        }
    }

    fn kit(&self) -> Kit<'_, dyn CaFactory> {
        Kit::of_ca(self, Uuid::from_u128(1))
    }
}

#[async_trait]
impl CaFactory for Authority {
    async fn open(&self) -> Arc<dyn CertificateAuthority> {
        if Arc::strong_count(&self.memory) == 1 {
            // No handle is left.
            self.memory.opened.fetch_add(1, Ordering::SeqCst);
        }
        match self.flaw {
            None => (self.wrap)(self.ca.clone()),
            Some(flaw) => Arc::new(BrokenCa { ca: self.ca.clone(), flaw, memory: Arc::clone(&self.memory) }),
        }
    }

    async fn pass_time(&self, duration: Duration) {
        self.clock.advance(duration);
    }

    async fn at_once(&self, calls: Vec<Call>) {
        if self.threads {
            on_threads(calls).await;
        } else {
            join_all(calls).await;
        }
    }

    fn order(&self, key: &str) -> CertificateOrder {
        let valid_until = "2031-01-07T08:00:00Z".parse().expect("a time");
        CertificateOrder::new(key, "authentication", "Ann", valid_until)
    }

    fn refused_order(&self, key: &str) -> CertificateOrder {
        let mut order = self.order(key);
        order.profile = "unknown".to_owned();
        order
    }

    fn request(&self) -> Option<String> {
        let count = self.requests.fetch_add(1, Ordering::Relaxed);
        self.takes_requests.then(|| format!("-----BEGIN CERTIFICATE REQUEST-----\n{count}\n"))
    }

    fn public_key(&self, of: KeyIn<'_>) -> Option<Vec<u8>> {
        let key = match of {
            KeyIn::Certificate(certificate) => SimulatedCa::public_key_in(certificate)?.to_owned(),
            KeyIn::Request(request) => SimulatedCa::public_key_for(request.as_bytes()),
            KeyIn::PrivateKey(key) => SimulatedCa::public_key_for(key.expose()),
        };
        Some(key.into_bytes())
    }
}

/// What a CA does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CaFlaw {
    IssuesAnewEachTime,
    IssuesAnewToRacers,
    IssuesAnewWhenOpenedAgain,
    GivesAllTheFirst,
    IssuesForLonger,
    FindsNothing,
    FindsTheFirstForAll,
    ForgetsTheRevoked,
    ForgetsWhenOpenedAgain,
    IssuesWhatItRefused,
    TakesAnyProfile,
    TakesAnyRequest,
    MakesKeysDespiteRequests,
    GivesKeysItCannotHave,
    KeepsKeysToItself,
    GivesKeysOnce,
    GivesAnotherKey,
    OneKeyForAll,
    CannotLookForItsKeys,
    RefusesTheSecondHold,
    RefusesToRemoveNoHold,
    RefusesTheSecondRevoke,
    SecondHoldRemovesIt,
    SaysDoneToTheRevoked,
    RemovesRevocations,
    RevivesWhenOpenedAgain,
    StatusIsBackwards,
    StatusLeavesOutStrangers,
    StatusIsAlwaysValid,
    LooksAtSerialsOnly,
}

/// A simulated CA with one flaw.
struct BrokenCa {
    ca: SimulatedCa,
    flaw: CaFlaw,
    memory: Arc<CaMemory>,
}

/// What the flawed handles share.
#[derive(Default)]
struct CaMemory {
    /// How often the CA was opened, all handles having been dropped.
    opened: AtomicU64,
    /// What was done when it was opened so often: keys that were issued, serial numbers that were revoked.
    done_in: Mutex<BTreeMap<String, u64>>,
    count: AtomicU64,
    first: Mutex<Option<String>>,
    under: Mutex<BTreeMap<String, IssuedCertificate>>,
    given: Mutex<Vec<String>>,
}

impl BrokenCa {
    fn has(&self, flaw: CaFlaw) -> bool {
        self.flaw == flaw
    }

    async fn state(&self, certificate: &IssuedCertificate) -> CaStatusOutcome {
        self.ca.status(std::slice::from_ref(certificate)).await.remove(0)
    }

    fn refused() -> CaOutcome {
        CaOutcome::Refused { reason: "no".to_owned() }
    }

    /// Notes what is done now.
    fn done(&self, what: &str) {
        let opened = self.memory.opened.load(Ordering::SeqCst);
        self.memory.done_in.lock().expect("the lock").insert(what.to_owned(), opened);
    }

    /// Whether this was done before the CA was opened again.
    fn was_done_before(&self, what: &str) -> bool {
        let opened = self.memory.opened.load(Ordering::SeqCst);
        self.memory.done_in.lock().expect("the lock").get(what).is_some_and(|done| *done < opened)
    }

    /// The key of the first order.
    fn first(&self, key: &str) -> String {
        self.memory.first.lock().expect("the lock").get_or_insert_with(|| key.to_owned()).clone()
    }
}

#[async_trait]
impl CertificateAuthority for BrokenCa {
    async fn issue(&self, order: &CertificateOrder) -> IssueOutcome {
        let mut changed = order.clone();
        let count = self.memory.count.fetch_add(1, Ordering::SeqCst);
        match self.flaw {
            CaFlaw::ForgetsWhenOpenedAgain => self.done(&order.key),
            CaFlaw::IssuesAnewWhenOpenedAgain => {
                changed.key = format!("{} {}", order.key, self.memory.opened.load(Ordering::SeqCst));
            }
            CaFlaw::IssuesAnewEachTime => changed.key = format!("{} {count}", order.key),
            CaFlaw::IssuesAnewToRacers => {
                // Looks, and then issues.
                if let Some(issued) = self.memory.under.lock().expect("the lock").get(&order.key) {
                    return IssueOutcome::Issued(issued.clone());
                }
                std::thread::sleep(Duration::from_millis(50));
                changed.key = format!("{} {count}", order.key);
                let outcome = self.ca.issue(&changed).await;
                if let IssueOutcome::Issued(issued) = &outcome {
                    self.memory.under.lock().expect("the lock").insert(order.key.clone(), issued.clone());
                }
                return outcome;
            }
            CaFlaw::GivesAllTheFirst | CaFlaw::FindsTheFirstForAll => {
                let first = self.first(&order.key);
                if self.has(CaFlaw::GivesAllTheFirst) {
                    changed.key = first;
                }
            }
            CaFlaw::IssuesForLonger => changed.valid_until += Duration::from_secs(1),
            CaFlaw::TakesAnyProfile => changed.profile = "authentication".to_owned(),
            CaFlaw::TakesAnyRequest => {
                changed.request = order.request.as_ref().map(|request| format!("-----BEGIN {request}"));
            }
            CaFlaw::MakesKeysDespiteRequests if order.request.as_ref().is_some_and(|it| it.starts_with('-')) => {
                changed.request = None;
            }
            CaFlaw::OneKeyForAll => {
                changed.request.get_or_insert_with(|| "-----BEGIN the only one".to_owned());
            }
            CaFlaw::IssuesWhatItRefused => {
                let outcome = self.ca.issue(order).await;
                if let IssueOutcome::Refused { .. } = outcome {
                    let key = format!("{} after all", order.key);
                    let good = CertificateOrder::new(key, "authentication", "Ann", order.valid_until);
                    if let IssueOutcome::Issued(issued) = self.ca.issue(&good).await {
                        self.memory.under.lock().expect("the lock").insert(order.key.clone(), issued);
                    }
                }
                return outcome;
            }
            _ => {}
        }
        self.ca.issue(&changed).await
    }

    async fn find(&self, key: &str) -> FindCertificateOutcome {
        let found = match self.flaw {
            CaFlaw::FindsNothing => return FindCertificateOutcome::NotFound,
            CaFlaw::ForgetsWhenOpenedAgain if self.was_done_before(key) => return FindCertificateOutcome::NotFound,
            CaFlaw::CannotLookForItsKeys => return FindCertificateOutcome::CannotLook,
            CaFlaw::FindsTheFirstForAll => {
                let first = self.memory.first.lock().expect("the lock").clone();
                return self.ca.find(first.as_deref().unwrap_or(key)).await;
            }
            CaFlaw::IssuesWhatItRefused => {
                let issued = self.memory.under.lock().expect("the lock").get(key).cloned();
                match issued {
                    Some(certificate) => FindCertificateOutcome::Found { certificate, private_key: None },
                    None => self.ca.find(key).await,
                }
            }
            _ => self.ca.find(key).await,
        };
        let FindCertificateOutcome::Found { certificate, private_key } = found else { return found };
        let secret = |text: &str| Some(Secret::new(text.as_bytes().to_vec()));
        let private_key = match self.flaw {
            CaFlaw::ForgetsTheRevoked
                if self.state(&certificate).await == CaStatusOutcome::Known(StateAtCa::Revoked) =>
            {
                return FindCertificateOutcome::NotFound;
            }
            CaFlaw::GivesKeysItCannotHave => private_key.or_else(|| secret("invented")),
            CaFlaw::KeepsKeysToItself => None,
            CaFlaw::GivesKeysOnce => {
                let mut given = self.memory.given.lock().expect("the lock");
                if given.contains(&certificate.serial) {
                    None
                } else {
                    given.push(certificate.serial.clone());
                    private_key
                }
            }
            CaFlaw::GivesAnotherKey => private_key.and_then(|_| secret("another")),
            CaFlaw::OneKeyForAll => secret("-----BEGIN the only one"),
            _ => private_key,
        };
        FindCertificateOutcome::Found { certificate, private_key }
    }

    async fn hold(&self, certificate: &IssuedCertificate) -> CaOutcome {
        let held = self.state(certificate).await == CaStatusOutcome::Known(StateAtCa::OnHold);
        match self.flaw {
            CaFlaw::RefusesTheSecondHold if held => Self::refused(),
            CaFlaw::SecondHoldRemovesIt if held => self.ca.remove_hold(certificate).await,
            CaFlaw::SaysDoneToTheRevoked => {
                self.ca.hold(certificate).await;
                CaOutcome::Done
            }
            _ => self.ca.hold(certificate).await,
        }
    }

    async fn remove_hold(&self, certificate: &IssuedCertificate) -> CaOutcome {
        let held = self.state(certificate).await == CaStatusOutcome::Known(StateAtCa::OnHold);
        match self.flaw {
            CaFlaw::RefusesToRemoveNoHold if !held => Self::refused(),
            CaFlaw::RemovesRevocations => {
                self.memory.given.lock().expect("the lock").push(certificate.serial.clone());
                self.ca.remove_hold(certificate).await
            }
            _ => self.ca.remove_hold(certificate).await,
        }
    }

    async fn revoke(&self, certificate: &IssuedCertificate, reason: RevocationReason) -> CaOutcome {
        let mut certificate = certificate.clone();
        if self.has(CaFlaw::LooksAtSerialsOnly) {
            certificate.issuer = "CN=Simulated CA 7".to_owned();
        }
        self.done(&certificate.serial);
        match self.ca.revoke(&certificate, reason).await {
            CaOutcome::AlreadyRevoked if self.has(CaFlaw::RefusesTheSecondRevoke) => Self::refused(),
            outcome => outcome,
        }
    }

    async fn status(&self, certificates: &[IssuedCertificate]) -> Vec<CaStatusOutcome> {
        let mut outcomes = self.ca.status(certificates).await;
        match self.flaw {
            CaFlaw::StatusIsBackwards => outcomes.reverse(),
            CaFlaw::StatusLeavesOutStrangers => outcomes.retain(|outcome| *outcome != CaStatusOutcome::NotFound),
            CaFlaw::StatusIsAlwaysValid => outcomes.fill(CaStatusOutcome::Known(StateAtCa::Valid)),
            CaFlaw::RevivesWhenOpenedAgain => {
                for (outcome, certificate) in outcomes.iter_mut().zip(certificates) {
                    if self.was_done_before(&certificate.serial) {
                        *outcome = CaStatusOutcome::Known(StateAtCa::Valid);
                    }
                }
            }
            CaFlaw::RemovesRevocations => {
                let revived = self.memory.given.lock().expect("the lock");
                for (outcome, certificate) in outcomes.iter_mut().zip(certificates) {
                    if revived.contains(&certificate.serial) {
                        *outcome = CaStatusOutcome::Known(StateAtCa::Valid);
                    }
                }
            }
            _ => {}
        }
        outcomes
    }
}

// ---- the personalizer --------------------------------------------------------------------------------------------

#[test]
fn the_simulated_personalizer_keeps_every_clause_whatever_it_can_do() {
    for makes_keys in [false, true] {
        for has_chips in [false, true] {
            for can_look in [false, true] {
                let behaviour = PersonalizerBehaviour::calm().makes_keys(makes_keys).has_chips(has_chips);
                let factory = Workshop { can_look, ..Workshop::new(behaviour) };
                let kit = factory.kit();
                for clause in card_personalizer::clauses() {
                    block_on(card_personalizer::check(&kit, clause));
                }
            }
        }
    }
}

#[test]
fn the_simulated_personalizer_keeps_every_clause_when_it_jams() {
    let behaviour = PersonalizerBehaviour::calm().prepare_jammed(300).finish_jammed(300).discard_jammed(300);
    let factory = Workshop { arranges: false, ..Workshop::new(behaviour) };
    block_on(card_personalizer::check_all(&factory.kit()));
}

#[test]
fn the_simulated_personalizer_keeps_every_clause_behind_arc_and_box_and_as_one_task() {
    let wraps: [fn(SimulatedPersonalizer) -> Arc<dyn CardPersonalizer>; 2] = [
        |personalizer| Arc::new(Arc::new(personalizer)),
        |personalizer| {
            let personalizer: Box<dyn CardPersonalizer> = Box::new(personalizer);
            Arc::new(personalizer)
        },
    ];
    for wrap in wraps {
        let factory = Workshop { wrap, threads: false, ..Workshop::new(PersonalizerBehaviour::calm()) };
        block_on(card_personalizer::check_all(&factory.kit()));
        block_on(card_personalizer::check_all(&Kit::of_personalizer(&factory, Uuid::from_u128(2))));
    }
}

#[test]
fn every_broken_personalizer_is_caught() {
    let flaws = [
        (Fault::OneHandleForAReference, "handles_are_never_reused"),
        (Fault::ReusesDiscardedHandles, "handles_are_never_reused"),
        (Fault::OneHandleForRacers, "handles_are_never_reused"),
        (Fault::NumbersAnewEachDay, "handles_are_never_reused"),
        (Fault::NumbersAnewWhenOpenedAgain, "handles_are_never_reused"),
        (Fault::RequestsForAllKinds, "requests_are_for_the_wanted_kinds"),
        (Fault::ForgetsARequest, "requests_are_for_the_wanted_kinds"),
        (Fault::OneRequestForAll, "requests_are_for_the_wanted_kinds"),
        (Fault::SaysPreparedWhenSpoiled, "spoiled_means_not_usable"),
        (Fault::SaysSpoiledWhenLost, "spoiled_means_not_usable"),
        (Fault::SaysUnavailableWhenLost, "spoiled_means_not_usable"),
        (Fault::SaysGoodWhenSpoiled, "spoiled_means_not_usable"),
        (Fault::SaysUnavailableWhenSpoiled, "spoiled_means_not_usable"),
        (Fault::FinishesSpoiledCardsLater, "spoiled_means_not_usable"),
        (Fault::DeliversNothing, "good_means_delivered"),
        (Fault::MailsLetters, "good_means_delivered"),
        (Fault::LeavesOutCertificates, "good_means_delivered"),
        (Fault::LogsPins, "secrets_are_not_kept"),
        (Fault::LogsPuksAsBytes, "secrets_are_not_kept"),
        (Fault::LogsKeysInHexadecimal, "secrets_are_not_kept"),
        (Fault::LogsPinsOfSpoiledCards, "secrets_are_not_kept"),
        (Fault::LogsPinsADayLater, "secrets_are_not_kept"),
        (Fault::CannotDiscardTwice, "discard_is_repeatable"),
        (Fault::CannotDiscardStrangers, "discard_is_repeatable"),
        (Fault::DiscardSpoilsFinishedCards, "discard_is_repeatable"),
        (Fault::FinishesWhatWasDiscarded, "discard_is_repeatable"),
        (Fault::FinishesStrangers, "discard_is_repeatable"),
        (Fault::FinishesDiscardedCardsLater, "discard_is_repeatable"),
        (Fault::FinishesAnythingWhenOpenedAgain, "discard_is_repeatable"),
    ];
    assert_all_shown(&card_personalizer::clauses(), flaws.map(|(_, clause)| clause).as_slice());
    for (flaw, clause) in flaws {
        let behaviour = PersonalizerBehaviour::calm().makes_keys(clause == "requests_are_for_the_wanted_kinds");
        let factory = Workshop { flaw: Some(flaw), ..Workshop::new(behaviour) };
        assert_caught(|| block_on(card_personalizer::check(&factory.kit(), clause)), flaw, clause);
    }
}

/// Opens handles onto one simulated personalizer.
struct Workshop {
    clock: SimulatedClock,
    personalizer: SimulatedPersonalizer,
    can_look: bool,
    arranges: bool,
    threads: bool,
    wrap: fn(SimulatedPersonalizer) -> Arc<dyn CardPersonalizer>,
    flaw: Option<Fault>,
    memory: Arc<Notes>,
}

impl Workshop {
    fn new(behaviour: PersonalizerBehaviour) -> Self {
        let clock = SimulatedClock::new("2030-01-07T08:00:00Z".parse().expect("a time"));
        Self {
            personalizer: SimulatedPersonalizer::new(7, Arc::new(clock.clone())).behaving(behaviour),
            clock,
            can_look: true,
            arranges: true,
            threads: true,
            wrap: |personalizer| Arc::new(personalizer),
            flaw: None,
            memory: Arc::default(),
        }
    }

    fn kit(&self) -> Kit<'_, dyn PersonalizerFactory> {
        Kit::of_personalizer(self, Uuid::from_u128(1))
    }
}

#[async_trait]
impl PersonalizerFactory for Workshop {
    async fn open(&self) -> Arc<dyn CardPersonalizer> {
        if Arc::strong_count(&self.memory) == 1 {
            // No handle is left.
            self.memory.opened.fetch_add(1, Ordering::SeqCst);
        }
        match self.flaw {
            None => (self.wrap)(self.personalizer.clone()),
            Some(flaw) => Arc::new(BrokenPersonalizer {
                personalizer: self.personalizer.clone(),
                flaw,
                memory: Arc::clone(&self.memory),
            }),
        }
    }

    async fn pass_time(&self, duration: Duration) {
        self.clock.advance(duration);
        self.memory.days.fetch_add(duration.as_secs() / (24 * 60 * 60), Ordering::SeqCst);
        let handles = std::mem::take(&mut *self.memory.finished_later.lock().expect("the lock"));
        let usable = handles.into_iter().map(|handle| (handle, SeenCard::new(true)));
        self.memory.seen.lock().expect("the lock").extend(usable);
        let lines = std::mem::take(&mut *self.memory.logged_later.lock().expect("the lock"));
        self.memory.log.lock().expect("the lock").extend(lines);
    }

    async fn at_once(&self, calls: Vec<Call>) {
        if self.threads {
            on_threads(calls).await;
        } else {
            join_all(calls).await;
        }
    }

    fn certificate(&self, kind: CertificateKind, request: Option<&str>) -> CardCertificate {
        let certificate = IssuedCertificate {
            issuer: "CN=Tests".to_owned(),
            serial: "1".to_owned(),
            valid_until: "2031-01-07T08:00:00Z".parse().expect("a time"),
            pem: "for tests".to_owned(),
        };
        let private_key = request.is_none().then(|| Secret::new(b"the key 20480915".to_vec()));
        CardCertificate { kind, certificate, private_key }
    }

    async fn look(&self, handle: &str) -> Option<SeenCard> {
        if !self.can_look {
            return None;
        }
        let overlooked = self.memory.seen.lock().expect("the lock").get(handle).cloned();
        if overlooked.is_some() {
            return overlooked;
        }
        let card = self.personalizer.ledger().into_iter().find(|card| card.handle == handle)?;
        let mut seen = SeenCard::new(card.state == HandleState::Finished);
        seen.certificates = card.written.into_iter().collect();
        seen.pin = card.pin.map(|pin| pin.delivery);
        seen.puk = card.puk.map(|puk| puk.delivery);
        Some(seen)
    }

    fn kept(&self) -> String {
        let log = self.memory.log.lock().expect("the lock").join("\n");
        format!("{:?} {:?} {log}", self.personalizer, self.personalizer.ledger())
    }

    fn arrange(&self, trouble: Trouble) -> bool {
        if !self.arranges {
            return false;
        }
        match trouble {
            Trouble::SpoilPrepare => self.personalizer.next_prepare(PrepareScript::Spoil("torn".to_owned())),
            Trouble::JamPrepare => self.personalizer.next_prepare(PrepareScript::Jam),
            Trouble::SpoilFinish => self.personalizer.next_finish(FinishScript::Spoil("torn".to_owned())),
            Trouble::JamFinish => self.personalizer.next_finish(FinishScript::Jam),
            Trouble::LoseFinish => self.personalizer.next_finish(FinishScript::LoseReplyAfterFinishing),
            _ => return false,
        }
        true
    }
}

/// What a personalizer does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    OneHandleForAReference,
    ReusesDiscardedHandles,
    OneHandleForRacers,
    NumbersAnewEachDay,
    NumbersAnewWhenOpenedAgain,
    RequestsForAllKinds,
    ForgetsARequest,
    OneRequestForAll,
    SaysPreparedWhenSpoiled,
    SaysSpoiledWhenLost,
    SaysUnavailableWhenLost,
    SaysGoodWhenSpoiled,
    SaysUnavailableWhenSpoiled,
    FinishesSpoiledCardsLater,
    DeliversNothing,
    MailsLetters,
    LeavesOutCertificates,
    LogsPins,
    LogsPuksAsBytes,
    LogsKeysInHexadecimal,
    LogsPinsOfSpoiledCards,
    LogsPinsADayLater,
    CannotDiscardTwice,
    CannotDiscardStrangers,
    DiscardSpoilsFinishedCards,
    FinishesWhatWasDiscarded,
    FinishesStrangers,
    FinishesDiscardedCardsLater,
    FinishesAnythingWhenOpenedAgain,
}

/// A simulated personalizer with one flaw.
struct BrokenPersonalizer {
    personalizer: SimulatedPersonalizer,
    flaw: Fault,
    memory: Arc<Notes>,
}

/// What the flawed handles share.
#[derive(Default)]
struct Notes {
    /// How often the personalizer was opened, all handles having been dropped.
    opened: AtomicU64,
    /// How many days have passed.
    days: AtomicU64,
    finished_later: Mutex<Vec<String>>,
    logged_later: Mutex<Vec<String>>,
    log: Mutex<Vec<String>>,
    handles: Mutex<BTreeMap<String, String>>,
    discarded: Mutex<Vec<String>>,
    seen: Mutex<BTreeMap<String, SeenCard>>,
}

impl BrokenPersonalizer {
    fn has(&self, flaw: Fault) -> bool {
        self.flaw == flaw
    }

    fn log(&self, line: String) {
        self.memory.log.lock().expect("the lock").push(line);
    }

    fn state(&self, handle: &str) -> Option<HandleState> {
        self.personalizer.ledger().into_iter().find(|card| card.handle == handle).map(|card| card.state)
    }

    fn is_opened_again(&self) -> bool {
        self.memory.opened.load(Ordering::SeqCst) > 1
    }

    /// What a person will see of this card tomorrow.
    fn finish_later(&self, handle: &str) {
        self.memory.finished_later.lock().expect("the lock").push(handle.to_owned());
    }

    /// What a person will see of this card.
    fn show(&self, handle: &str, usable: bool) {
        self.memory.seen.lock().expect("the lock").insert(handle.to_owned(), SeenCard::new(usable));
    }
}

#[async_trait]
impl CardPersonalizer for BrokenPersonalizer {
    async fn prepare(&self, order: &PrepareOrder<'_>) -> PrepareOutcome {
        let all = PrepareOrder::new(order.reference, order.card, &CertificateKind::ALL);
        let order = if self.has(Fault::RequestsForAllKinds) { &all } else { order };
        let mut outcome = self.personalizer.prepare(order).await;
        if self.has(Fault::SaysPreparedWhenSpoiled)
            && let PrepareOutcome::Spoiled { .. } = outcome
        {
            outcome = self.personalizer.prepare(order).await;
        }
        let PrepareOutcome::Prepared(prepared) = &mut outcome else { return outcome };
        let mut handles = self.memory.handles.lock().expect("the lock");
        match self.flaw {
            Fault::OneHandleForAReference => {
                prepared.handle =
                    handles.entry(order.reference.to_owned()).or_insert_with(|| prepared.handle.clone()).clone();
            }
            Fault::NumbersAnewEachDay | Fault::NumbersAnewWhenOpenedAgain => {
                let first = handles.entry(String::new()).or_insert_with(|| prepared.handle.clone());
                let day = self.memory.days.load(Ordering::SeqCst);
                if self.is_opened_again() || self.has(Fault::NumbersAnewEachDay) && day > 0 {
                    prepared.handle.clone_from(first);
                }
            }
            Fault::ReusesDiscardedHandles => {
                if let Some(handle) = self.memory.discarded.lock().expect("the lock").pop() {
                    prepared.handle = handle;
                }
            }
            Fault::OneHandleForRacers => {
                drop(handles);
                let before = self.personalizer.calls().prepare;
                std::thread::sleep(Duration::from_millis(50));
                if self.personalizer.calls().prepare != before {
                    prepared.handle = "the one in the machine".to_owned();
                }
            }
            Fault::ForgetsARequest if prepared.requests.len() > 1 => {
                prepared.requests.pop_last();
            }
            Fault::OneRequestForAll => prepared.requests.values_mut().for_each(|it| *it = "the same".to_owned()),
            _ => {}
        }
        outcome
    }

    async fn finish(&self, mut order: FinishOrder<'_>) -> FinishOutcome {
        let handle = order.handle;
        let text = |secret: &Secret| String::from_utf8_lossy(secret.expose()).into_owned();
        let mut pin = None;
        match self.flaw {
            Fault::DeliversNothing => (order.pin, order.puk) = (None, None),
            Fault::MailsLetters => {
                for (_, delivery) in order.pin.iter_mut().chain(&mut order.puk) {
                    *delivery = Delivery::Email;
                }
            }
            Fault::LeavesOutCertificates => order.certificates.truncate(1),
            Fault::LogsPins => order.pin.iter().for_each(|(pin, _)| self.log(format!("PIN={}", text(pin)))),
            Fault::LogsPuksAsBytes => order.puk.iter().for_each(|(puk, _)| self.log(format!("{:?}", puk.expose()))),
            Fault::LogsKeysInHexadecimal => {
                for key in order.certificates.iter().filter_map(|certificate| certificate.private_key.as_ref()) {
                    self.log(key.expose().iter().map(|byte| format!("{byte:02X}")).collect());
                }
            }
            Fault::LogsPinsOfSpoiledCards => pin = order.pin.as_ref().map(|(pin, _)| text(pin)),
            Fault::FinishesWhatWasDiscarded if self.state(handle) == Some(HandleState::Discarded) => {
                return FinishOutcome::Good;
            }
            Fault::FinishesAnythingWhenOpenedAgain if self.is_opened_again() => return FinishOutcome::Good,
            Fault::LogsPinsADayLater => {
                let lines = order.pin.iter().map(|(pin, _)| text(pin));
                self.memory.logged_later.lock().expect("the lock").extend(lines);
            }
            Fault::FinishesStrangers if self.state(handle).is_none() => return FinishOutcome::Good,
            _ => {}
        }
        let outcome = self.personalizer.finish(order).await;
        let reason = || "so it was said".to_owned();
        match (&outcome, self.flaw) {
            (FinishOutcome::Unknown { .. }, Fault::SaysSpoiledWhenLost) => FinishOutcome::Spoiled { reason: reason() },
            (FinishOutcome::Unknown { .. }, Fault::SaysUnavailableWhenLost) => {
                FinishOutcome::Unavailable { reason: reason() }
            }
            (FinishOutcome::Spoiled { .. }, Fault::SaysGoodWhenSpoiled) => FinishOutcome::Good,
            (FinishOutcome::Spoiled { .. }, Fault::SaysUnavailableWhenSpoiled) => {
                FinishOutcome::Unavailable { reason: reason() }
            }
            (FinishOutcome::Spoiled { .. }, Fault::FinishesSpoiledCardsLater) => {
                self.finish_later(handle);
                outcome
            }
            (FinishOutcome::Spoiled { .. }, Fault::LogsPinsOfSpoiledCards) => {
                self.log(format!("gave up with {pin:?}"));
                outcome
            }
            _ => outcome,
        }
    }

    async fn discard(&self, handle: &str) -> DiscardOutcome {
        let away = DiscardOutcome::Unavailable { reason: "no such card".to_owned() };
        match (self.flaw, self.state(handle)) {
            (Fault::CannotDiscardTwice, Some(HandleState::Discarded)) | (Fault::CannotDiscardStrangers, None) => {
                return away;
            }
            (Fault::DiscardSpoilsFinishedCards, Some(HandleState::Finished)) => self.show(handle, false),
            (Fault::FinishesDiscardedCardsLater, Some(HandleState::Prepared)) => self.finish_later(handle),
            (Fault::ReusesDiscardedHandles, _) => {
                self.memory.discarded.lock().expect("the lock").push(handle.to_owned());
            }
            _ => {}
        }
        self.personalizer.discard(handle).await
    }
}

#[test]
fn the_kit_waits_for_what_is_pending() {
    let factory = Authority::new(CaBehaviour::calm());
    factory.ca.next_issue(IssueScript::IssueAfter(Duration::from_secs(2 * 24 * 60 * 60)));
    block_on(certificate_authority::check(&factory.kit(), "validity_is_never_longer"));
    assert_eq!(factory.ca.ledger().len(), 1);
}
