//! Checks of a [`CardPersonalizer`], one for each clause of its contract and named like it.
//!
//! The checks prepare and finish cards: give them a machine for tests. Some of what a personalizer promises cannot be seen by
//! asking it: the [`PersonalizerFactory`] looks at cards and letters, and at what the personalizer has kept.
//!
//! # Panics
//! Every check panics where its clause is not kept. What the personalizer calls unavailable is tried again for some seconds.
//!
//! # Examples
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use cardwright::adapters::simulator::{
//!     FinishScript, HandleState, PrepareScript, SimulatedClock, SimulatedPersonalizer,
//! };
//! use cardwright::conformance::card_personalizer::{PersonalizerFactory, SeenCard, Trouble, check_all};
//! use cardwright::conformance::{Call, Kit, block_on, on_threads};
//! use cardwright::host::{CardCertificate, CardPersonalizer};
//! use cardwright::{CertificateKind, IssuedCertificate, Secret};
//!
//! struct Simulated(SimulatedPersonalizer, SimulatedClock);
//!
//! #[async_trait::async_trait]
//! impl PersonalizerFactory for Simulated {
//!     async fn open(&self) -> Arc<dyn CardPersonalizer> {
//!         Arc::new(self.0.clone())
//!     }
//!
//!     async fn pass_time(&self, duration: Duration) {
//!         self.1.advance(duration);
//!     }
//!
//!     async fn at_once(&self, calls: Vec<Call>) {
//!         on_threads(calls).await;
//!     }
//!
//!     fn certificate(&self, kind: CertificateKind, request: Option<&str>) -> CardCertificate {
//!         let certificate = IssuedCertificate {
//!             issuer: "CN=Tests".to_owned(),
//!             serial: "1".to_owned(),
//!             valid_until: "2031-01-07T08:00:00Z".parse().expect("a time"),
//!             pem: "for tests".to_owned(),
//!         };
//!         let private_key = request.is_none().then(|| Secret::new(b"the key 20480915".to_vec()));
//!         CardCertificate { kind, certificate, private_key }
//!     }
//!
//!     async fn look(&self, handle: &str) -> Option<SeenCard> {
//!         let card = self.0.ledger().into_iter().find(|card| card.handle == handle)?;
//!         let mut seen = SeenCard::new(card.state == HandleState::Finished);
//!         seen.certificates = card.written.into_iter().collect();
//!         seen.pin = card.pin.map(|pin| pin.delivery);
//!         seen.puk = card.puk.map(|puk| puk.delivery);
//!         Some(seen)
//!     }
//!
//!     fn kept(&self) -> String {
//!         format!("{:?} {:?}", self.0, self.0.ledger())
//!     }
//!
//!     fn arrange(&self, trouble: Trouble) -> bool {
//!         match trouble {
//!             Trouble::SpoilPrepare => self.0.next_prepare(PrepareScript::Spoil("torn".to_owned())),
//!             Trouble::JamPrepare => self.0.next_prepare(PrepareScript::Jam),
//!             Trouble::SpoilFinish => self.0.next_finish(FinishScript::Spoil("torn".to_owned())),
//!             Trouble::JamFinish => self.0.next_finish(FinishScript::Jam),
//!             Trouble::LoseFinish => self.0.next_finish(FinishScript::LoseReplyAfterFinishing),
//!             _ => return false,
//!         }
//!         true
//!     }
//! }
//!
//! let clock = SimulatedClock::new("2030-01-07T08:00:00Z".parse()?);
//! let factory = Simulated(SimulatedPersonalizer::new(1, Arc::new(clock.clone())), clock);
//! block_on(check_all(&Kit::of_personalizer(&factory, uuid::Uuid::new_v4())));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;

use super::{Call, Kit, gather};
use crate::host::{
    CardCertificate, CardPersonalizer, Clock as _, DiscardOutcome, FinishOrder, FinishOutcome, PrepareOrder,
    PrepareOutcome, Prepared, SystemClock,
};
use crate::{
    ActorId, Card, CardId, CardKind, CertificateKind, ChainKey, Delivery, Route, Secret, Stamp, SymbolicName, UserId,
    Why,
};

/// Opens the personalizer under test, looks at its cards, and knows what the checks need to know of it.
#[async_trait]
pub trait PersonalizerFactory: Send + Sync {
    /// A new handle onto the personalizer, as independent of the others as handles in production are.
    async fn open(&self) -> Arc<dyn CardPersonalizer>;

    /// Lets the machine do what it still has to do: moves its clock on by this time, or waits as long as that takes.
    async fn pass_time(&self, duration: Duration);

    /// Runs these calls at once, as concurrently as can be, and returns when all have ended. A panic of one is a panic of
    /// this. For a personalizer that needs no runtime, [`on_threads`](super::on_threads) does it; otherwise each is a task of
    /// that runtime.
    async fn at_once(&self, calls: Vec<Call>);

    /// A certificate of this kind for a card: for this request if the card made the key, else with a private key.
    fn certificate(&self, kind: CertificateKind, request: Option<&str>) -> CardCertificate;

    /// Looks at a card and at the letters and messages to its holder, as a person would. `None` if that cannot be done: then
    /// what only this can show is not checked.
    async fn look(&self, handle: &str) -> Option<SeenCard>;

    /// All that the personalizer has kept and can be read by anyone but the holder: its logs, its files, its `Debug` output.
    fn kept(&self) -> String;

    /// Arranges that the next such call meets this trouble. `false` if that cannot be done: then the answer to it is not
    /// checked.
    fn arrange(&self, trouble: Trouble) -> bool;
}

/// What a person sees who has a card in his hands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeenCard {
    /// Whether the card is complete and can be used.
    pub usable: bool,
    /// The kinds of certificates on it.
    pub certificates: BTreeSet<CertificateKind>,
    /// How the holder gets the PIN that was set; `None` if none was set or it does not get to him.
    pub pin: Option<Delivery>,
    /// How the holder gets the PUK that was set; `None` if none was set or it does not get to him.
    pub puk: Option<Delivery>,
}

impl SeenCard {
    /// A card without certificates, PIN and PUK.
    pub const fn new(usable: bool) -> Self {
        Self { usable, certificates: BTreeSet::new(), pin: None, puk: None }
    }
}

/// What can go wrong with one card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// The next card is spoiled when it is prepared.
    SpoilPrepare,
    /// The machine is jammed when the next card is to be prepared.
    JamPrepare,
    /// The next card is spoiled when it is finished.
    SpoilFinish,
    /// The machine is jammed when the next card is to be finished.
    JamFinish,
    /// The next card is finished, and it gets lost that it was.
    LoseFinish,
}

clauses! {
    dyn PersonalizerFactory, "the personalizer", "card personalizer";
    handles_are_never_reused,
    requests_are_for_the_wanted_kinds,
    spoiled_means_not_usable,
    good_means_delivered,
    secrets_are_not_kept,
    discard_is_repeatable,
}

/// Every prepared card has a handle of its own, whatever became of those before, however many are prepared at once, and also
/// on another day and once the machine was opened again.
pub async fn handles_are_never_reused(kit: &Kit<'_, dyn PersonalizerFactory>) {
    const CLAUSE: &str = "handles_are_never_reused";
    let machine = Machine::open(kit, CLAUSE).await;
    let card = machine.card();
    let reference = machine.reference();
    let mut handles = BTreeSet::new();
    let mut assert_new = |handle: &str, when: &str| {
        assert!(!handle.is_empty(), "{CLAUSE}: a handle is a name");
        assert!(handles.insert(handle.to_owned()), "{CLAUSE}: {handle} was given before, {when}");
    };
    let first = machine.prepare_under(&reference, &card, &[]).await;
    assert_new(&first.handle, "at first");
    let second = machine.prepare_under(&reference, &card, &[]).await;
    assert_new(&second.handle, "to the same card under the same reference");
    machine.discard(&first.handle).await;
    assert_new(&machine.prepare(&card, &[]).await.handle, "to a card that was discarded");
    machine.finish(&second, &card).await;
    assert_new(&machine.prepare(&card, &[]).await.handle, "to a card that was finished");

    let mut calls: Vec<BoxFuture<'static, PrepareOutcome>> = Vec::new();
    for _ in 0..8 {
        let (handle, card, reference) = (kit.factory.open().await, machine.card(), machine.reference());
        calls.push(Box::pin(async move { handle.prepare(&PrepareOrder::new(&reference, &card, &[])).await }));
    }
    for outcome in gather(calls, |calls| kit.factory.at_once(calls)).await {
        if let PrepareOutcome::Prepared(prepared) = outcome {
            assert_new(&prepared.handle, "to one of eight that were prepared at once");
        }
    }
    kit.factory.pass_time(DAY).await;
    assert_new(&machine.prepare(&card, &[]).await.handle, "the day before");
    drop(machine);
    let machine = Machine::open(kit, CLAUSE).await;
    assert_new(&machine.prepare(&card, &[]).await.handle, "before the machine was opened again");
}

/// There is a request for each kind wanted, or never any.
pub async fn requests_are_for_the_wanted_kinds(kit: &Kit<'_, dyn PersonalizerFactory>) {
    const CLAUSE: &str = "requests_are_for_the_wanted_kinds";
    let machine = Machine::open(kit, CLAUSE).await;
    let all = CertificateKind::ALL;
    let makes_keys = !machine.prepare(&machine.card(), &all).await.requests.is_empty();
    let mut seen = BTreeSet::new();
    for wanted in [&all[..], &all[..1], &all[1..2], &all[1..], &[]] {
        let prepared = machine.prepare(&machine.card(), wanted).await;
        let given: BTreeSet<CertificateKind> = prepared.requests.keys().copied().collect();
        let expected = wanted.iter().copied().filter(|_| makes_keys).collect();
        assert_eq!(given, expected, "{CLAUSE}: wanted were {wanted:?}");
        for (kind, request) in prepared.requests {
            assert!(seen.insert(request), "{CLAUSE}: the request for {kind} was given before");
        }
    }
}

/// What is said of a card that went wrong is what a person sees who looks at it, at once and a day later.
pub async fn spoiled_means_not_usable(kit: &Kit<'_, dyn PersonalizerFactory>) {
    const CLAUSE: &str = "spoiled_means_not_usable";
    let machine = Machine::open(kit, CLAUSE).await;
    for trouble in [Trouble::SpoilPrepare, Trouble::JamPrepare] {
        if kit.factory.arrange(trouble) {
            let card = machine.card();
            let outcome = machine.machine.prepare(&PrepareOrder::new(&machine.reference(), &card, &[])).await;
            assert!(!matches!(outcome, PrepareOutcome::Prepared(_)), "{CLAUSE}: {trouble:?} gave {outcome:?}");
        }
    }
    let mut spoiled = Vec::new();
    for trouble in [Trouble::SpoilFinish, Trouble::JamFinish, Trouble::LoseFinish] {
        let card = machine.card();
        let prepared = machine.prepare(&card, &[CertificateKind::Authentication]).await;
        if !kit.factory.arrange(trouble) {
            machine.discard(&prepared.handle).await;
            continue;
        }
        let outcome = machine.try_finish(&prepared, &card).await;
        let usable = kit.factory.look(&prepared.handle).await.map(|seen| seen.usable);
        match outcome {
            FinishOutcome::Good => {
                assert_ne!(usable, Some(false), "{CLAUSE}: {trouble:?}: said to be good, and is not usable");
            }
            FinishOutcome::Spoiled { .. } => {
                assert_ne!(usable, Some(true), "{CLAUSE}: {trouble:?}: said to be spoiled, and is usable");
                spoiled.push((trouble, prepared.handle));
            }
            FinishOutcome::Unavailable { .. } => {
                assert_ne!(usable, Some(true), "{CLAUSE}: {trouble:?}: nothing was done, and the card is usable");
                // The same card is made when it is asked for again.
                machine.finish(&prepared, &card).await;
            }
            FinishOutcome::Unknown { .. } => {}
        }
    }
    kit.factory.pass_time(DAY).await;
    for (trouble, handle) in spoiled {
        let usable = kit.factory.look(&handle).await.map(|seen| seen.usable);
        assert_ne!(usable, Some(true), "{CLAUSE}: {trouble:?}: said to be spoiled, and is usable a day later");
    }
}

/// A card that is good has what it should have, and its holder gets PIN and PUK.
pub async fn good_means_delivered(kit: &Kit<'_, dyn PersonalizerFactory>) {
    const CLAUSE: &str = "good_means_delivered";
    let machine = Machine::open(kit, CLAUSE).await;
    let all = &CertificateKind::ALL[..];
    let deliveries = [
        (all, Some(Delivery::Print), Some(Delivery::Email)),
        (&all[1..2], Some(Delivery::Email), None),
        (&[], Some(Delivery::Print), Some(Delivery::Print)),
        (&all[..1], None, None),
    ];
    for (kinds, pin, puk) in deliveries {
        let card = machine.card();
        let prepared = machine.prepare(&card, kinds).await;
        let secrets = (pin.map(|_| machine.digits(6)), puk.map(|_| machine.digits(8)));
        machine.finish_with(&prepared, &card, kinds, (secrets.0.as_deref(), pin), (secrets.1.as_deref(), puk)).await;
        let Some(seen) = kit.factory.look(&prepared.handle).await else { return };
        let mut expected = SeenCard::new(true);
        expected.certificates = kinds.iter().copied().collect();
        (expected.pin, expected.puk) = (pin, puk);
        assert_eq!(seen, expected, "{CLAUSE}: this is what a person sees of a good card");
    }
}

/// No PIN, PUK or private key can be read anywhere once a card was finished, spoiled or lost, nor a day later.
pub async fn secrets_are_not_kept(kit: &Kit<'_, dyn PersonalizerFactory>) {
    const CLAUSE: &str = "secrets_are_not_kept";
    let machine = Machine::open(kit, CLAUSE).await;
    let kinds = [CertificateKind::Authentication];
    let mut all: Vec<(&str, Vec<u8>)> = Vec::new();
    for trouble in [None, Some(Trouble::SpoilFinish), Some(Trouble::JamFinish), Some(Trouble::LoseFinish)] {
        let card = machine.card();
        let prepared = machine.prepare(&card, &kinds).await;
        if trouble.is_some_and(|trouble| !kit.factory.arrange(trouble)) {
            machine.discard(&prepared.handle).await;
            continue;
        }
        // So long that no other number is like it.
        let (pin, puk) = (machine.digits(12), machine.digits(12));
        let order = machine.finish_order(
            &prepared,
            &card,
            &kinds,
            (Some(&pin), Some(Delivery::Print)),
            (Some(&puk), Some(Delivery::Email)),
        );
        let keys: Vec<Vec<u8>> = order
            .certificates
            .iter()
            .filter_map(|certificate| certificate.private_key.as_ref())
            .map(|key| key.expose().to_vec())
            .collect();
        let outcome = machine.machine.finish(order).await;
        let shown = format!("{} {outcome:?}", kit.factory.kept());
        let secrets = [("PIN", pin.into_bytes()), ("PUK", puk.into_bytes())];
        for (what, secret) in secrets.into_iter().chain(keys.into_iter().map(|key| ("private key", key))) {
            assert!(!shows(&shown, &secret), "{CLAUSE}: the {what} can be read after {outcome:?}");
            all.push((what, secret));
        }
    }
    kit.factory.pass_time(DAY).await;
    let kept = kit.factory.kept();
    for (what, secret) in all {
        assert!(!shows(&kept, &secret), "{CLAUSE}: the {what} can be read a day later");
    }
}

/// Discarding is done as often as it is asked for; it spoils no finished card, and what was put aside stays so.
pub async fn discard_is_repeatable(kit: &Kit<'_, dyn PersonalizerFactory>) {
    const CLAUSE: &str = "discard_is_repeatable";
    let machine = Machine::open(kit, CLAUSE).await;
    let other = Machine::open(kit, CLAUSE).await;
    let card = machine.card();

    let aside = machine.prepare(&card, &[]).await;
    for machine in [&machine, &machine, &other] {
        machine.discard(&aside.handle).await;
    }
    let mut never = aside.clone();
    never.handle = machine.reference();
    machine.discard(&never.handle).await;
    for (prepared, what) in [(&aside, "was discarded"), (&never, "was never given")] {
        let outcome = machine.try_finish(prepared, &card).await;
        assert!(outcome != FinishOutcome::Good, "{CLAUSE}: a handle that {what} was finished");
        let usable = kit.factory.look(&prepared.handle).await.map(|seen| seen.usable);
        assert_ne!(usable, Some(true), "{CLAUSE}: a card whose handle {what} is usable");
    }

    let finished = machine.prepare(&card, &[]).await;
    machine.finish(&finished, &card).await;
    let before = kit.factory.look(&finished.handle).await;
    for machine in [&machine, &machine, &other] {
        machine.discard(&finished.handle).await;
    }
    let after = kit.factory.look(&finished.handle).await;
    assert_eq!(after, before, "{CLAUSE}: a finished card must stay as it is");

    drop((machine, other));
    kit.factory.pass_time(DAY).await;
    let machine = Machine::open(kit, CLAUSE).await;
    let outcome = machine.try_finish(&aside, &card).await;
    assert!(
        outcome != FinishOutcome::Good,
        "{CLAUSE}: what was discarded was finished once the machine was opened again"
    );
    let usable = kit.factory.look(&aside.handle).await.map(|seen| seen.usable);
    assert_ne!(usable, Some(true), "{CLAUSE}: a card that was discarded is usable a day later");
    let after = kit.factory.look(&finished.handle).await;
    assert_eq!(after, before, "{CLAUSE}: a finished card must stay as it is, also a day later");
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// A PIN or PUK, and how it is delivered.
type Given<'s> = (Option<&'s str>, Option<Delivery>);

/// A handle onto the personalizer under test. Tries again what it calls unavailable.
struct Machine<'k> {
    kit: &'k Kit<'k, dyn PersonalizerFactory>,
    clause: &'static str,
    machine: Arc<dyn CardPersonalizer>,
}

impl<'k> Machine<'k> {
    async fn open(kit: &'k Kit<'_, dyn PersonalizerFactory>, clause: &'static str) -> Self {
        Self { kit, clause, machine: kit.factory.open().await }
    }

    /// A text that nobody has used.
    fn reference(&self) -> String {
        format!("conformance {}", self.kit.id())
    }

    /// So many digits that nobody has used.
    fn digits(&self, count: usize) -> String {
        let digits = format!("{:039}", self.kit.id().as_u128());
        digits[digits.len() - count..].to_owned()
    }

    /// A card to be made, with a holder and a number.
    fn card(&self) -> Card {
        let at = chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::days(11_000);
        let actor = ActorId::new("conformance").expect("the text is an id");
        let process = SymbolicName::new("Conformance").expect("the text is a symbolic name");
        let stamp = Stamp { at, actor: &actor, process: &process, run: None, key: &ChainKey::none() };
        let id = CardId::new(self.kit.id());
        let (mut card, _) = Card::create(id, CardKind::Permanent, Route::Local, &stamp, Why::code("created"));
        card.holder = Some(UserId::new(format!("conformance {id}")).expect("the text is an id"));
        card.number = Some("0007".to_owned());
        card.attributes = [("commonName", "Zoë Example"), ("email", "zoe@example.org")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        card
    }

    async fn prepare(&self, card: &Card, kinds: &[CertificateKind]) -> Prepared {
        self.prepare_under(&self.reference(), card, kinds).await
    }

    /// Prepares what must be prepared.
    async fn prepare_under(&self, reference: &str, card: &Card, kinds: &[CertificateKind]) -> Prepared {
        for _ in 0..TRIES {
            match self.machine.prepare(&PrepareOrder::new(reference, card, kinds)).await {
                PrepareOutcome::Prepared(prepared) => return prepared,
                PrepareOutcome::Unavailable { .. } => SystemClock.sleep(PAUSE).await,
                outcome => panic!("{}: a card that nothing stands against was not prepared: {outcome:?}", self.clause),
            }
        }
        panic!("{}: prepare was unavailable {TRIES} times in a row", self.clause)
    }

    fn finish_order<'o>(
        &self,
        prepared: &'o Prepared,
        card: &'o Card,
        kinds: &[CertificateKind],
        pin: Given<'_>,
        puk: Given<'_>,
    ) -> FinishOrder<'o> {
        let secret = |(value, delivery): Given<'_>| {
            value.zip(delivery).map(|(value, delivery)| (Secret::new(value.as_bytes().to_vec()), delivery))
        };
        let mut order = FinishOrder::new("", &prepared.handle, card);
        let certificate = |kind: &CertificateKind| {
            self.kit.factory.certificate(*kind, prepared.requests.get(kind).map(String::as_str))
        };
        order.certificates = kinds.iter().map(certificate).collect();
        order.pin = secret(pin);
        order.puk = secret(puk);
        order
    }

    /// Finishes what must be finished.
    async fn finish_with(
        &self,
        prepared: &Prepared,
        card: &Card,
        kinds: &[CertificateKind],
        pin: Given<'_>,
        puk: Given<'_>,
    ) {
        for _ in 0..TRIES {
            let reference = self.reference();
            let mut order = self.finish_order(prepared, card, kinds, pin, puk);
            order.reference = &reference;
            match self.machine.finish(order).await {
                FinishOutcome::Good => return,
                FinishOutcome::Unavailable { .. } => SystemClock.sleep(PAUSE).await,
                outcome => panic!("{}: a card that nothing stands against was not finished: {outcome:?}", self.clause),
            }
        }
        panic!("{}: finish was unavailable {TRIES} times in a row", self.clause)
    }

    /// Finishes a card that must be finished, with the certificates it made requests for, a PIN and no PUK.
    async fn finish(&self, prepared: &Prepared, card: &Card) {
        let kinds: Vec<CertificateKind> = prepared.requests.keys().copied().collect();
        let pin = self.digits(6);
        self.finish_with(prepared, card, &kinds, (Some(&pin), Some(Delivery::Print)), (None, None)).await;
    }

    async fn try_finish(&self, prepared: &Prepared, card: &Card) -> FinishOutcome {
        let kinds: Vec<CertificateKind> = prepared.requests.keys().copied().collect();
        let (reference, pin) = (self.reference(), self.digits(6));
        let mut order = self.finish_order(prepared, card, &kinds, (Some(&pin), Some(Delivery::Print)), (None, None));
        order.reference = &reference;
        self.machine.finish(order).await
    }

    async fn discard(&self, handle: &str) {
        for _ in 0..TRIES {
            match self.machine.discard(handle).await {
                DiscardOutcome::Done => return,
                DiscardOutcome::Unavailable { .. } => SystemClock.sleep(PAUSE).await,
            }
        }
        panic!("{}: discard was unavailable {TRIES} times in a row", self.clause)
    }
}

/// Whether a secret can be read in a text: as it is, as bytes, or in hexadecimal digits.
fn shows(text: &str, secret: &[u8]) -> bool {
    let bytes = format!("{secret:?}");
    let listed = bytes.trim_matches(['[', ']']);
    let hexadecimal: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    text.as_bytes().windows(secret.len().max(1)).any(|window| window == secret)
        || text.contains(listed)
        || text.to_lowercase().contains(&hexadecimal)
}
