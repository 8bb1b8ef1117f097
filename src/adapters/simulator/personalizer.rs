use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::dice::SplitMix64;
use super::script::Scripts;
use super::{lock, pass};
use crate::card::Card;
use crate::certificate::CertificateKind;
use crate::host::{
    CardPersonalizer, Clock, DiscardOutcome, FinishOrder, FinishOutcome, PrepareOrder, PrepareOutcome, Prepared,
};
use crate::id::CardId;
use crate::production::Delivery;
use crate::secret::Secret;

// ---- behaviour ---------------------------------------------------------------------------------------------------

/// What a [`SimulatedPersonalizer`] can do, how often it fails, and how long it takes.
///
/// Rates are so many in a thousand. Data without a field takes it from [`calm`](Self::calm), the default.
///
/// ```
/// use cardwright::adapters::simulator::PersonalizerBehaviour;
///
/// // Keys are made on the card, and one card in ten is spoiled at the end.
/// let behaviour = PersonalizerBehaviour::calm().makes_keys(true).finish_spoiled(100);
/// assert!(behaviour.has_chips);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct PersonalizerBehaviour {
    /// Whether it makes keys on the card, and so gives a request for each kind of certificate.
    pub makes_keys: bool,
    /// Whether its cards have a chip with a serial number.
    pub has_chips: bool,

    /// Rate of cards that are spoiled when they are prepared.
    pub prepare_spoiled: u16,
    /// Rate of cards that are not prepared because the machine is jammed.
    pub prepare_jammed: u16,
    /// Rate of cards that are prepared while the answer is lost.
    pub prepare_lost: u16,
    /// Rate of cards that are prepared at once and answered [`late_by`](field@Self::late_by).
    pub prepare_late: u16,
    /// Rate of cards that are prepared and never answered.
    pub prepare_silent: u16,

    /// Rate of cards that are spoiled when they are finished.
    pub finish_spoiled: u16,
    /// Rate of cards that are not finished for now because the machine is jammed.
    pub finish_jammed: u16,
    /// Rate of cards that are finished while the answer is lost.
    pub finish_lost: u16,
    /// Rate of cards that are finished at once and answered [`late_by`](field@Self::late_by).
    pub finish_late: u16,
    /// Rate of cards that are finished and never answered.
    pub finish_silent: u16,

    /// Rate of cards that are not discarded for now.
    pub discard_jammed: u16,

    /// How long a late answer takes.
    pub late_by: Duration,
}

impl PersonalizerBehaviour {
    /// Cards with chips, keys made at the CA, and no faults.
    pub const fn calm() -> Self {
        Self {
            makes_keys: false,
            has_chips: true,
            prepare_spoiled: 0,
            prepare_jammed: 0,
            prepare_lost: 0,
            prepare_late: 0,
            prepare_silent: 0,
            finish_spoiled: 0,
            finish_jammed: 0,
            finish_lost: 0,
            finish_late: 0,
            finish_silent: 0,
            discard_jammed: 0,
            late_by: Duration::from_secs(10 * 60),
        }
    }

    /// As [`calm`](Self::calm), with a few of all faults.
    pub const fn faulty() -> Self {
        Self::calm()
            .prepare_spoiled(5)
            .prepare_jammed(10)
            .prepare_lost(2)
            .prepare_late(2)
            .prepare_silent(1)
            .finish_spoiled(10)
            .finish_jammed(10)
            .finish_lost(2)
            .finish_late(2)
            .finish_silent(1)
            .discard_jammed(10)
    }

    setters! {
        makes_keys: bool,
        has_chips: bool,
        prepare_spoiled: u16,
        prepare_jammed: u16,
        prepare_lost: u16,
        prepare_late: u16,
        prepare_silent: u16,
        finish_spoiled: u16,
        finish_jammed: u16,
        finish_lost: u16,
        finish_late: u16,
        finish_silent: u16,
        discard_jammed: u16,
        late_by: Duration,
    }

    fn draw_prepare(&self, dice: &mut SplitMix64) -> PrepareScript {
        let reason = dice.one_of(&SPOILED);
        let mut strikes = dice.strikes();
        if strikes(self.prepare_spoiled) {
            PrepareScript::Spoil(reason.to_owned())
        } else if strikes(self.prepare_jammed) {
            PrepareScript::Jam
        } else if strikes(self.prepare_lost) {
            PrepareScript::LoseReplyAfterPreparing
        } else if strikes(self.prepare_late) {
            PrepareScript::Late(self.late_by)
        } else if strikes(self.prepare_silent) {
            PrepareScript::Late(Duration::MAX)
        } else {
            PrepareScript::Prepare
        }
    }

    fn draw_finish(&self, dice: &mut SplitMix64) -> FinishScript {
        let reason = dice.one_of(&SPOILED);
        let mut strikes = dice.strikes();
        if strikes(self.finish_spoiled) {
            FinishScript::Spoil(reason.to_owned())
        } else if strikes(self.finish_jammed) {
            FinishScript::Jam
        } else if strikes(self.finish_lost) {
            FinishScript::LoseReplyAfterFinishing
        } else if strikes(self.finish_late) {
            FinishScript::Late(self.late_by)
        } else if strikes(self.finish_silent) {
            FinishScript::Late(Duration::MAX)
        } else {
            FinishScript::Finish
        }
    }
}

impl Default for PersonalizerBehaviour {
    fn default() -> Self {
        Self::calm()
    }
}

/// What happens when one card is prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PrepareScript {
    /// It is prepared.
    Prepare,
    /// It is spoiled, with this reason.
    Spoil(String),
    /// Nothing is done: the machine is jammed.
    Jam,
    /// It is prepared, and the answer is lost: the outcome is unknown, and nobody knows the handle.
    LoseReplyAfterPreparing,
    /// The order is lost on its way, so that nothing is done: the outcome is unknown.
    LoseReplyBeforePreparing,
    /// It is prepared at once; the answer comes after this time, or never for [`Duration::MAX`].
    Late(Duration),
    /// Nothing is done, and the call is never answered.
    Silent,
}

/// What happens when one card is finished.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishScript {
    /// It is complete.
    Finish,
    /// It is spoiled, with this reason.
    Spoil(String),
    /// Nothing is done: the machine is jammed.
    Jam,
    /// It is complete, and the answer is lost: the outcome is unknown.
    LoseReplyAfterFinishing,
    /// It is spoiled, and the answer is lost: the outcome is unknown.
    LoseReplyAfterSpoiling,
    /// The order is lost on its way, so that nothing is done: the outcome is unknown.
    LoseReplyBeforeFinishing,
    /// It is complete at once; the answer comes after this time, or never for [`Duration::MAX`].
    Late(Duration),
    /// Nothing is done, and the call is never answered.
    Silent,
}

/// What happens when one card is discarded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiscardScript {
    /// It is put aside.
    Discard,
    /// Nothing is done: the machine is jammed.
    Jam,
    /// It is put aside, and the answer is lost: it is asked again.
    LoseReplyAfterDiscarding,
    /// It is put aside at once; the answer comes after this time, or never for [`Duration::MAX`].
    Late(Duration),
    /// Nothing is done, and the call is never answered.
    Silent,
}

// ---- the personalizer --------------------------------------------------------------------------------------------

/// A card personalizer that exists in memory and on the time of the clock it is given. Clones share one personalizer.
///
/// By default it is [calm](PersonalizerBehaviour::calm). A card's fate depends on the seed, its id, and how often it was
/// prepared or finished before; not on what other cards came. The requests that it gives for keys on the card are texts
/// that look a little like PEM and that a [`SimulatedCa`](super::SimulatedCa) takes; there is no key.
///
/// It holds to the contract of [`CardPersonalizer`] in all that it does, and keeps of a PIN or PUK only how long it was,
/// how it was delivered, and a digest with which a test can tell whether two were the same.
///
/// ```
/// use std::sync::Arc;
///
/// use cardwright::adapters::simulator::{FinishScript, HandleState, SimulatedClock, SimulatedPersonalizer};
/// use cardwright::host::{CardPersonalizer, FinishOrder, FinishOutcome, PrepareOrder, PrepareOutcome};
/// use cardwright::{ActorId, Card, CardId, CardKind, ChainKey, Delivery, Route, Secret, Stamp, SymbolicName, Why};
/// use futures::FutureExt as _;
///
/// let at = "2030-01-07T08:00:00Z".parse()?;
/// let (actor, process, key) = (ActorId::new("olga")?, SymbolicName::new("Example")?, ChainKey::none());
/// let stamp = Stamp { at, actor: &actor, process: &process, run: None, key: &key };
/// let id = CardId::new(uuid::Uuid::from_u128(1));
/// let (card, _) = Card::create(id, CardKind::Permanent, Route::Local, &stamp, Why::code("made"));
///
/// let personalizer = SimulatedPersonalizer::new(1, Arc::new(SimulatedClock::new(at)));
/// let prepared = personalizer.prepare(&PrepareOrder::new("1", &card, &[])).now_or_never();
/// let Some(PrepareOutcome::Prepared(prepared)) = prepared else { panic!("a calm one prepares the card") };
///
/// // The card is finished, and the answer gets lost.
/// personalizer.next_finish(FinishScript::LoseReplyAfterFinishing);
/// let mut order = FinishOrder::new("2", &prepared.handle, &card);
/// order.pin = Some((Secret::new(b"482913".to_vec()), Delivery::Print));
/// let finished = personalizer.finish(order).now_or_never();
/// assert!(matches!(finished, Some(FinishOutcome::Unknown { .. })));
///
/// let books = personalizer.ledger();
/// assert_eq!(books[0].state, HandleState::Finished);
/// let pin = books[0].pin.expect("it was set");
/// assert_eq!((pin.length, pin.delivery), (6, Delivery::Print));
/// assert_eq!(pin.digest, SimulatedPersonalizer::digest(b"482913"));
/// assert!(!format!("{books:?}").contains("482913"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct SimulatedPersonalizer {
    seed: u64,
    clock: Arc<dyn Clock>,
    books: Arc<Mutex<Books>>,
}

#[derive(Default)]
struct Books {
    behaviour: PersonalizerBehaviour,
    cards: Vec<PersonalizerLedgerEntry>,
    by_handle: BTreeMap<String, usize>,
    chip_serials: BTreeSet<String>,
    next_chip_serials: Vec<String>,
    tries: BTreeMap<CardId, PersonalizerCalls>,
    prepare: Scripts<Card, PrepareScript>,
    finish: Scripts<Card, FinishScript>,
    discard: Scripts<str, DiscardScript>,
    outage_until: Option<DateTime<Utc>>,
    calls: PersonalizerCalls,
}

impl SimulatedPersonalizer {
    /// A personalizer that has made no cards.
    pub fn new(seed: u64, clock: Arc<dyn Clock>) -> Self {
        Self { seed, clock, books: Arc::default() }
    }

    /// The same personalizer with this behaviour, for all its clones.
    #[must_use]
    pub fn behaving(self, behaviour: PersonalizerBehaviour) -> Self {
        self.behave(behaviour);
        self
    }

    /// Behaves so from now on.
    pub fn behave(&self, behaviour: PersonalizerBehaviour) {
        self.lock().behaviour = behaviour;
    }

    /// How it behaves.
    pub fn behaviour(&self) -> PersonalizerBehaviour {
        self.lock().behaviour.clone()
    }

    /// Decides what happens when the next card is prepared; called again, the one after it. Not used up during an outage.
    pub fn next_prepare(&self, script: PrepareScript) {
        self.lock().prepare.next(script);
    }

    /// Decides what happens when the next card that matches is prepared. Goes before
    /// [`next_prepare`](Self::next_prepare). The closure must not call the personalizer.
    pub fn next_prepare_where(&self, matches: impl Fn(&Card) -> bool + Send + 'static, script: PrepareScript) {
        self.lock().prepare.next_where(matches, script);
    }

    /// Decides what happens whenever a card is prepared that matches and for which nothing else was scripted. The closure
    /// must not call the personalizer.
    pub fn every_prepare_where(&self, matches: impl Fn(&Card) -> bool + Send + 'static, script: PrepareScript) {
        self.lock().prepare.every_where(matches, script);
    }

    /// Decides what happens when the next card is finished; called again, the one after it. Not used up during an outage,
    /// nor by a handle that cannot be finished.
    pub fn next_finish(&self, script: FinishScript) {
        self.lock().finish.next(script);
    }

    /// Decides what happens when the next card that matches is finished. Goes before [`next_finish`](Self::next_finish).
    /// The closure must not call the personalizer.
    pub fn next_finish_where(&self, matches: impl Fn(&Card) -> bool + Send + 'static, script: FinishScript) {
        self.lock().finish.next_where(matches, script);
    }

    /// Decides what happens whenever a card is finished that matches and for which nothing else was scripted. The closure
    /// must not call the personalizer.
    pub fn every_finish_where(&self, matches: impl Fn(&Card) -> bool + Send + 'static, script: FinishScript) {
        self.lock().finish.every_where(matches, script);
    }

    /// Decides what happens when the next card is discarded; called again, the one after it. Not used up during an outage.
    pub fn next_discard(&self, script: DiscardScript) {
        self.lock().discard.next(script);
    }

    /// Gives the chip of the next card that is taken this serial number, even if another has it; called again, the one
    /// after it. All others are unique.
    pub fn next_chip_serial(&self, serial: impl Into<String>) {
        self.lock().next_chip_serials.push(serial.into());
    }

    /// Is jammed until then: nothing is prepared, finished or discarded.
    pub fn outage(&self, until: DateTime<Utc>) {
        self.lock().outage_until = Some(until);
    }

    /// Starts the machine anew: the cards at hand are lost, and count as spoiled.
    pub fn restart(&self) {
        for card in &mut self.lock().cards {
            if card.state == HandleState::Prepared {
                card.state = HandleState::Spoiled;
            }
        }
    }

    /// Every blank card that it ever took, in that order.
    pub fn ledger(&self) -> Vec<PersonalizerLedgerEntry> {
        self.lock().cards.clone()
    }

    /// How many cards it finished for this card of ours. More than one without a person's word is what must never happen.
    pub fn finished_for(&self, card: CardId) -> usize {
        let is_finished = |entry: &&PersonalizerLedgerEntry| entry.card == card && entry.state == HandleState::Finished;
        self.lock().cards.iter().filter(is_finished).count()
    }

    /// How often it was called.
    pub fn calls(&self) -> PersonalizerCalls {
        self.lock().calls
    }

    /// The digest that the ledger shows for a PIN or PUK of this value. All personalizers of one process give the same;
    /// another process gives another.
    pub fn digest(value: &[u8]) -> SecretDigest {
        static SALT: OnceLock<[u8; 32]> = OnceLock::new();
        let salt = SALT.get_or_init(|| {
            let mut salt = [0; 32];
            // Without a good salt the digest still tells values apart.
            let _ = getrandom::fill(&mut salt);
            salt
        });
        SecretDigest(Sha256::new().chain_update(salt).chain_update(value).finalize().into())
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }
}

impl fmt::Debug for SimulatedPersonalizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let books = self.lock();
        f.debug_struct("SimulatedPersonalizer")
            .field("seed", &self.seed)
            .field("behaviour", &books.behaviour)
            .field("cards", &books.cards.len())
            .field("outage_until", &books.outage_until)
            .field("calls", &books.calls)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl CardPersonalizer for SimulatedPersonalizer {
    async fn prepare(&self, order: &PrepareOrder<'_>) -> PrepareOutcome {
        let now = self.clock.now();
        let (answer, wait) = self.lock().prepare(self.seed, order, now);
        pass(&*self.clock, wait).await;
        answer
    }

    async fn finish(&self, order: FinishOrder<'_>) -> FinishOutcome {
        let now = self.clock.now();
        let (answer, wait) = self.lock().finish(self.seed, &order, now);
        // PIN, PUK and keys go before the wait.
        drop(order);
        pass(&*self.clock, wait).await;
        answer
    }

    async fn discard(&self, handle: &str) -> DiscardOutcome {
        let now = self.clock.now();
        let (answer, wait) = self.lock().discard(self.seed, handle, now);
        pass(&*self.clock, wait).await;
        answer
    }
}

/// How often a [`SimulatedPersonalizer`] was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PersonalizerCalls {
    /// Orders to prepare a card.
    pub prepare: u64,
    /// Orders to finish a card.
    pub finish: u64,
    /// Orders to discard a card.
    pub discard: u64,
}

/// One blank card that a [`SimulatedPersonalizer`] took.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PersonalizerLedgerEntry {
    /// What it calls the card.
    pub handle: String,
    /// Our card.
    pub card: CardId,
    /// Our reference of the attempt to prepare it.
    pub reference: String,
    /// Our references of the attempts to finish it that arrived, in that order.
    pub finish_references: Vec<String>,
    /// The serial number of its chip.
    pub chip_serial: Option<String>,
    /// The kinds of certificates that it was to get when it was prepared.
    pub wanted: Vec<CertificateKind>,
    /// What has become of it.
    pub state: HandleState,
    /// The kinds of certificates that were written onto it.
    pub written: Vec<CertificateKind>,
    /// The kinds among those that came with a private key.
    pub with_key: Vec<CertificateKind>,
    /// The PIN that was set.
    pub pin: Option<SetSecret>,
    /// The PUK that was set.
    pub puk: Option<SetSecret>,
    /// When it was taken.
    pub at: DateTime<Utc>,
}

/// What has become of a card that a [`SimulatedPersonalizer`] took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HandleState {
    /// It is at hand.
    Prepared,
    /// It is complete, and PIN and PUK are delivered.
    Finished,
    /// It was put aside before it was complete.
    Discarded,
    /// It is not usable.
    Spoiled,
}

/// What a [`SimulatedPersonalizer`] keeps of a PIN or PUK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetSecret {
    /// How many digits it had.
    pub length: usize,
    /// How the holder got it.
    pub delivery: Delivery,
    /// A digest of it.
    pub digest: SecretDigest,
}

/// A salted digest of a PIN or PUK, to tell whether two are the same. It can be compared, and neither shown nor stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretDigest([u8; 32]);

impl fmt::Debug for SecretDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretDigest(…)")
    }
}

// ---- the books ---------------------------------------------------------------------------------------------------

const SPOILED: [&str; 3] = ["the chip does not answer", "the ribbon tore", "the card is scratched"];
const JAMMED: &str = "the machine is jammed";
const LOST: &str = "the answer was lost";

impl Books {
    fn prepare(&mut self, seed: u64, order: &PrepareOrder<'_>, now: DateTime<Utc>) -> (PrepareOutcome, Duration) {
        use PrepareScript as Script;

        self.calls.prepare += 1;
        let tries = self.tries.entry(order.card.id).or_default();
        tries.prepare += 1;
        let tries = tries.prepare;
        let mut dice = SplitMix64::of(seed, "prepare", &order.card.id.to_string(), tries);
        let drawn = self.behaviour.draw_prepare(&mut dice);
        let script = if self.is_out(now) { Script::Jam } else { self.prepare.take(order.card).unwrap_or(drawn) };
        let lost = || PrepareOutcome::Unknown { reason: LOST.to_owned() };
        match script {
            Script::Prepare => (PrepareOutcome::Prepared(self.take(seed, order, tries, now)), Duration::ZERO),
            Script::Spoil(reason) => {
                let prepared = self.take(seed, order, tries, now);
                if let Some(card) = self.card(&prepared.handle) {
                    card.state = HandleState::Spoiled;
                }
                (PrepareOutcome::Spoiled { reason }, Duration::ZERO)
            }
            Script::Jam => (PrepareOutcome::Unavailable { reason: JAMMED.to_owned() }, Duration::ZERO),
            Script::LoseReplyAfterPreparing => {
                self.take(seed, order, tries, now);
                (lost(), Duration::ZERO)
            }
            Script::LoseReplyBeforePreparing => (lost(), Duration::ZERO),
            Script::Late(by) => (PrepareOutcome::Prepared(self.take(seed, order, tries, now)), by),
            Script::Silent => (lost(), Duration::MAX),
        }
    }

    /// Takes a blank card.
    fn take(&mut self, seed: u64, order: &PrepareOrder<'_>, tries: u64, now: DateTime<Utc>) -> Prepared {
        let mut dice = SplitMix64::of(seed, "card", &order.card.id.to_string(), tries);
        let handle = loop {
            let handle = format!("P-{:016X}", dice.next());
            if !self.by_handle.contains_key(&handle) {
                break handle;
            }
        };
        let mut prepared = Prepared::new(handle.clone());
        prepared.chip_serial = self.behaviour.has_chips.then(|| self.chip_serial(&mut dice));
        if self.behaviour.makes_keys {
            let request = |kind: &CertificateKind| (*kind, request(*kind, &mut dice));
            prepared.requests = order.certificates.iter().map(request).collect();
        }
        self.by_handle.insert(handle.clone(), self.cards.len());
        self.cards.push(PersonalizerLedgerEntry {
            handle,
            card: order.card.id,
            reference: order.reference.to_owned(),
            finish_references: Vec::new(),
            chip_serial: prepared.chip_serial.clone(),
            wanted: order.certificates.to_vec(),
            state: HandleState::Prepared,
            written: Vec::new(),
            with_key: Vec::new(),
            pin: None,
            puk: None,
            at: now,
        });
        prepared
    }

    /// The one that was asked for, or one that no chip has.
    fn chip_serial(&mut self, dice: &mut SplitMix64) -> String {
        if !self.next_chip_serials.is_empty() {
            let serial = self.next_chip_serials.remove(0);
            self.chip_serials.insert(serial.clone());
            return serial;
        }
        loop {
            // Seven bytes, as many chips have.
            let serial = format!("{:014X}", dice.next() >> 8);
            if self.chip_serials.insert(serial.clone()) {
                return serial;
            }
        }
    }

    fn finish(&mut self, seed: u64, order: &FinishOrder<'_>, now: DateTime<Utc>) -> (FinishOutcome, Duration) {
        use FinishScript as Script;

        self.calls.finish += 1;
        let tries = self.tries.entry(order.card.id).or_default();
        tries.finish += 1;
        let mut dice = SplitMix64::of(seed, "finish", &order.card.id.to_string(), tries.finish);
        let drawn = self.behaviour.draw_finish(&mut dice);
        let jammed = || (FinishOutcome::Unavailable { reason: JAMMED.to_owned() }, Duration::ZERO);
        let spoiled = |reason: &str| (FinishOutcome::Spoiled { reason: reason.to_owned() }, Duration::ZERO);
        let unknown = |reason: &str| (FinishOutcome::Unknown { reason: reason.to_owned() }, Duration::ZERO);
        if self.is_out(now) {
            return jammed();
        }
        let place = self.by_handle.get(order.handle).copied();
        let Some(card) = place.and_then(|place| self.cards.get_mut(place)) else {
            return spoiled("there is no such card at hand");
        };
        card.finish_references.push(order.reference.to_owned());
        match card.state {
            HandleState::Prepared if card.card == order.card.id => {}
            HandleState::Prepared => return spoiled("the card at hand is for another"),
            HandleState::Discarded => return spoiled("the card was put aside"),
            HandleState::Spoiled => return spoiled("the card is spoiled"),
            // It is usable, and this PIN is not on it.
            HandleState::Finished => return unknown("the card was completed before"),
        }
        match self.finish.take(order.card).unwrap_or(drawn) {
            Script::Finish => {
                card.complete(order);
                (FinishOutcome::Good, Duration::ZERO)
            }
            Script::Spoil(reason) => {
                card.state = HandleState::Spoiled;
                spoiled(&reason)
            }
            Script::Jam => jammed(),
            Script::LoseReplyAfterFinishing => {
                card.complete(order);
                unknown(LOST)
            }
            Script::LoseReplyAfterSpoiling => {
                card.state = HandleState::Spoiled;
                unknown(LOST)
            }
            Script::LoseReplyBeforeFinishing => unknown(LOST),
            Script::Late(by) => {
                card.complete(order);
                (FinishOutcome::Good, by)
            }
            Script::Silent => (FinishOutcome::Unknown { reason: LOST.to_owned() }, Duration::MAX),
        }
    }

    fn discard(&mut self, seed: u64, handle: &str, now: DateTime<Utc>) -> (DiscardOutcome, Duration) {
        self.calls.discard += 1;
        let jammed = || DiscardOutcome::Unavailable { reason: JAMMED.to_owned() };
        if self.is_out(now) {
            return (jammed(), Duration::ZERO);
        }
        let tries = self.card(handle).map(|card| card.card).map_or(0, |card| {
            let tries = self.tries.entry(card).or_default();
            tries.discard += 1;
            tries.discard
        });
        let mut dice = SplitMix64::of(seed, "discard", handle, tries);
        // What is not known has no count of its own to draw by.
        let strikes = tries > 0 && dice.strikes()(self.behaviour.discard_jammed);
        let drawn = if strikes { DiscardScript::Jam } else { DiscardScript::Discard };
        let (answer, wait) = match self.discard.take(handle).unwrap_or(drawn) {
            DiscardScript::Discard => (DiscardOutcome::Done, Duration::ZERO),
            DiscardScript::LoseReplyAfterDiscarding => {
                (DiscardOutcome::Unavailable { reason: LOST.to_owned() }, Duration::ZERO)
            }
            DiscardScript::Late(by) => (DiscardOutcome::Done, by),
            DiscardScript::Jam => return (jammed(), Duration::ZERO),
            DiscardScript::Silent => return (jammed(), Duration::MAX),
        };
        if let Some(card) = self.card(handle).filter(|card| card.state == HandleState::Prepared) {
            card.state = HandleState::Discarded;
        }
        (answer, wait)
    }

    fn card(&mut self, handle: &str) -> Option<&mut PersonalizerLedgerEntry> {
        let place = self.by_handle.get(handle).copied()?;
        self.cards.get_mut(place)
    }

    fn is_out(&self, now: DateTime<Utc>) -> bool {
        self.outage_until.is_some_and(|until| now < until)
    }
}

impl PersonalizerLedgerEntry {
    fn complete(&mut self, order: &FinishOrder<'_>) {
        let set = |(secret, delivery): &(Secret, Delivery)| SetSecret {
            length: secret.expose().len(),
            delivery: *delivery,
            digest: SimulatedPersonalizer::digest(secret.expose()),
        };
        self.state = HandleState::Finished;
        self.written = order.certificates.iter().map(|written| written.kind).collect();
        let with_key = order.certificates.iter().filter(|written| written.private_key.is_some());
        self.with_key = with_key.map(|written| written.kind).collect();
        self.pin = order.pin.as_ref().map(set);
        self.puk = order.puk.as_ref().map(set);
    }
}

/// A text that stands for a request with a key on the card.
fn request(kind: CertificateKind, dice: &mut SplitMix64) -> String {
    let (first, second) = (dice.next(), dice.next());
    format!(
        "-----BEGIN SIMULATED CERTIFICATE REQUEST-----\n\
         This is not a request. A simulated personalizer made it, for trials and tests.\n\
         kind: {kind}\n\
         public-key: {first:016x}{second:016x}\n\
         -----END SIMULATED CERTIFICATE REQUEST-----\n"
    )
}
