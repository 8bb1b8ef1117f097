use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, NaiveDateTime, SubsecRound as _, Utc};
use serde::{Deserialize, Serialize};

use super::dice::SplitMix64;
use super::script::Scripts;
use super::{later, lock, pass};
use crate::card::{CardState, ReadOut};
use crate::host::{
    Accepted, CardOrder, Clock, FindOutcome, GoCardsProvider, OrderStatus, PlaceOutcome, Placement, StatusMap,
    StatusOutcome,
};

// ---- behaviour ---------------------------------------------------------------------------------------------------

/// What a [`SimulatedBureau`] can do, how often it fails, and how long it takes.
///
/// Rates are so many in a thousand. Data without a field takes it from [`poor`](Self::poor), the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BureauBehaviour {
    /// Whether placing twice under one reference gives one order.
    pub idempotent: bool,
    /// Whether it can look for an order by our reference.
    pub can_look: bool,
    /// Whether it gives its card id with the answer to the order, and not only with the status.
    pub card_id_at_once: bool,

    /// Rate of orders that are refused.
    pub refused: u16,
    /// Rate of orders that are not accepted because something is in the way.
    pub unavailable: u16,
    /// Rate of orders that are not accepted because there were too many.
    pub rate_limited: u16,
    /// Rate of orders that are accepted while the answer is lost.
    pub lost_after_accepting: u16,
    /// Rate of orders that get lost on their way, so that nobody knows.
    pub lost_before_accepting: u16,
    /// Rate of orders that are accepted at once and answered [`late_by`](field@Self::late_by).
    pub late: u16,

    /// Rate of accepted orders whose production fails.
    pub production_failed: u16,
    /// Rate of accepted orders that show a status text that is in no map, for a part of the time in production.
    pub status_unknown: u16,
    /// Rate of status reads that give the message of the step before, as it was then.
    pub status_backwards: u16,
    /// Rate of status reads that give the last message once more, though there may be news.
    pub status_repeated: u16,
    /// Rate of status reads that get no answer for now.
    pub status_unavailable: u16,
    /// Rate of status reads that were too many.
    pub status_rate_limited: u16,

    /// How long a late answer takes.
    pub late_by: Duration,
    /// How long to wait after too many orders or reads.
    pub retry_after: Duration,
    /// How long after it was accepted an order can be found by our reference. Its status is known at once.
    pub found_late: Duration,
    /// How long after it was accepted a card goes into production.
    pub in_production_after: Duration,
    /// How long after it was accepted a card is shipped, or its production fails.
    pub shipped_after: Duration,
    /// How long after it was shipped a card is delivered.
    pub delivered_after: Duration,
    /// By how much the bureau may take longer than that, for each order and step.
    pub spread: Duration,
}

impl BureauBehaviour {
    /// As poor as published GO Cards, and without any fault: it can neither look by reference nor tell two orders under
    /// one reference apart from one. In production after 4 hours, shipped after 3 days, delivered a day later.
    pub const fn calm() -> Self {
        const HOUR: u64 = 60 * 60;
        Self {
            idempotent: false,
            can_look: false,
            card_id_at_once: false,
            refused: 0,
            unavailable: 0,
            rate_limited: 0,
            lost_after_accepting: 0,
            lost_before_accepting: 0,
            late: 0,
            production_failed: 0,
            status_unknown: 0,
            status_backwards: 0,
            status_repeated: 0,
            status_unavailable: 0,
            status_rate_limited: 0,
            late_by: Duration::from_secs(10 * 60),
            retry_after: Duration::from_secs(60),
            found_late: Duration::ZERO,
            in_production_after: Duration::from_secs(4 * HOUR),
            shipped_after: Duration::from_secs(3 * 24 * HOUR),
            delivered_after: Duration::from_secs(24 * HOUR),
            spread: Duration::ZERO,
        }
    }

    /// As poor as published GO Cards, with a few of all faults, and up to 12 hours slower than [`calm`](Self::calm).
    pub const fn poor() -> Self {
        Self::calm()
            .refused(5)
            .unavailable(10)
            .rate_limited(10)
            .lost_after_accepting(2)
            .lost_before_accepting(2)
            .late(1)
            .production_failed(5)
            .status_unknown(30)
            .status_backwards(20)
            .status_repeated(20)
            .status_unavailable(10)
            .status_rate_limited(10)
            .spread(Duration::from_secs(12 * 60 * 60))
    }

    /// What one may wish for: it finds orders by our reference, takes two orders under one reference as one, and has no
    /// faults.
    pub const fn rich() -> Self {
        Self::calm().idempotent(true).can_look(true).card_id_at_once(true)
    }

    setters! {
        idempotent: bool,
        can_look: bool,
        card_id_at_once: bool,
        refused: u16,
        unavailable: u16,
        rate_limited: u16,
        lost_after_accepting: u16,
        lost_before_accepting: u16,
        late: u16,
        production_failed: u16,
        status_unknown: u16,
        status_backwards: u16,
        status_repeated: u16,
        status_unavailable: u16,
        status_rate_limited: u16,
        late_by: Duration,
        retry_after: Duration,
        found_late: Duration,
        in_production_after: Duration,
        shipped_after: Duration,
        delivered_after: Duration,
        spread: Duration,
    }

    fn draw_place(&self, dice: &mut SplitMix64) -> PlaceScript {
        let reason = dice.one_of(&REFUSALS);
        let mut strikes = dice.strikes();
        if strikes(self.refused) {
            PlaceScript::Refuse(reason.to_owned())
        } else if strikes(self.unavailable) {
            PlaceScript::Unavailable
        } else if strikes(self.rate_limited) {
            PlaceScript::RateLimited(self.retry_after)
        } else if strikes(self.lost_after_accepting) {
            PlaceScript::LoseReplyAfterAccepting
        } else if strikes(self.lost_before_accepting) {
            PlaceScript::LoseReplyBeforeAccepting
        } else if strikes(self.late) {
            PlaceScript::Late(self.late_by)
        } else {
            PlaceScript::Accept
        }
    }
}

impl Default for BureauBehaviour {
    fn default() -> Self {
        Self::poor()
    }
}

/// What happens to one order that is placed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlaceScript {
    /// Accepted.
    Accept,
    /// Refused with this reason.
    Refuse(String),
    /// Not accepted; something is in the way.
    Unavailable,
    /// Not accepted; to be tried again after this time.
    RateLimited(Duration),
    /// Accepted, and the answer is lost: the outcome is unknown.
    LoseReplyAfterAccepting,
    /// Lost on the way, so that it is not accepted: the outcome is unknown.
    LoseReplyBeforeAccepting,
    /// Accepted at once; the answer to the whole call comes after this time, or never for [`Duration::MAX`].
    Late(Duration),
    /// Not accepted; the whole call is never answered.
    Silent,
}

// ---- the bureau --------------------------------------------------------------------------------------------------

/// A bureau that exists in memory and on the time of the clock it is given. Clones share one bureau. With a store that outlives the
/// process, tell it of the orders from before ([`remember`](Self::remember)), or it does not know them.
///
/// By default it is [as poor as published GO Cards](BureauBehaviour::poor). An order's fate depends on the seed, its
/// reference, and how often that reference was tried before; not on what other orders came. All orders of one call are
/// taken when the call arrives; one late or silent answer among them holds up the answer to the whole call.
///
/// It holds to the contract of [`GoCardsProvider`] in all that it does. While it is
/// [idempotent](field@BureauBehaviour::idempotent), an order under a reference that it accepted before is therefore
/// never refused, and where something is in the way the outcome is unknown instead of unavailable; one under a reference
/// that it refused is never accepted.
#[derive(Clone)]
pub struct SimulatedBureau {
    seed: u64,
    clock: Arc<dyn Clock>,
    books: Arc<Mutex<Books>>,
}

#[derive(Default)]
struct Books {
    behaviour: BureauBehaviour,
    orders: Vec<Placed>,
    by_order_id: BTreeMap<String, usize>,
    by_reference: BTreeMap<String, Vec<usize>>,
    tries: BTreeMap<String, u64>,
    /// The references that it refused, and why.
    refused: BTreeMap<String, String>,
    scripts: Scripts<CardOrder, PlaceScript>,
    outage_until: Option<DateTime<Utc>>,
    calls: BureauCalls,
}

impl SimulatedBureau {
    /// A bureau without orders.
    pub fn new(seed: u64, clock: Arc<dyn Clock>) -> Self {
        Self { seed, clock, books: Arc::default() }
    }

    /// The same bureau with this behaviour, for all its clones.
    #[must_use]
    pub fn behaving(self, behaviour: BureauBehaviour) -> Self {
        self.behave(behaviour);
        self
    }

    /// Behaves so from now on. What was accepted before keeps its course.
    pub fn behave(&self, behaviour: BureauBehaviour) {
        self.lock().behaviour = behaviour;
    }

    /// How it behaves.
    pub fn behaviour(&self) -> BureauBehaviour {
        self.lock().behaviour.clone()
    }

    /// The status map that fits its texts.
    pub fn status_map() -> StatusMap {
        StatusMap::new()
            .with(RECEIVED, CardState::Ordered)
            .with(IN_PRODUCTION, CardState::InProduction)
            .with(SHIPPED, CardState::Produced)
            .with(DELIVERED, CardState::Produced)
            .with(PRODUCTION_FAILED, CardState::Failed)
    }

    /// Decides the fate of the next order; called again, of the one after it. Not used up during an outage.
    pub fn next_place(&self, script: PlaceScript) {
        self.lock().scripts.next(script);
    }

    /// Decides the fate of the next order that matches. Goes before [`next_place`](Self::next_place). The closure must
    /// not call the bureau.
    pub fn next_place_where(&self, matches: impl Fn(&CardOrder) -> bool + Send + 'static, script: PlaceScript) {
        self.lock().scripts.next_where(matches, script);
    }

    /// Decides the fate of every order that matches and for which nothing else was scripted. The closure must not call
    /// the bureau.
    pub fn every_place_where(&self, matches: impl Fn(&CardOrder) -> bool + Send + 'static, script: PlaceScript) {
        self.lock().scripts.every_where(matches, script);
    }

    /// Is out of reach until then: nothing is accepted, read or found.
    pub fn outage(&self, until: DateTime<Utc>) {
        self.lock().outage_until = Some(until);
    }

    /// Gives this order this status text from now on, whatever its course was. A text for produced comes with
    /// times and read-outs. `false` if there is no such order.
    pub fn set_status(&self, order_id: &str, text: impl Into<String>) -> bool {
        let now = self.clock.now();
        let mut books = self.lock();
        let order = books.by_order_id.get(order_id).copied().and_then(|index| books.orders.get_mut(index));
        order.map(|order| order.set = Some((text.into(), now))).is_some()
    }

    /// Takes an order on its books that it accepted at an earlier time, such as the bureau of an earlier process, so that
    /// it goes on with it. Without effect if it knows the order id.
    ///
    /// The order's course is drawn from its order id; what was on the card is not known any more.
    pub fn remember(&self, order_id: impl Into<String>, accepted: DateTime<Utc>) {
        let order_id = order_id.into();
        let mut books = self.lock();
        if !books.by_order_id.contains_key(&order_id) {
            let mut dice = SplitMix64::of(self.seed, "course", &order_id, 0);
            let course = Course::draw(&books.behaviour, accepted, &mut dice);
            let order = CardOrder::new(order_id.clone(), "");
            books.enter(Placed::new(order_id, &order, accepted, course));
        }
    }

    /// Everything that it ever accepted, in that order, with the status of now.
    pub fn ledger(&self) -> Vec<LedgerEntry> {
        let now = self.clock.now();
        self.lock().orders.iter().map(|order| order.entry(now)).collect()
    }

    /// How many orders it accepted under this reference. More than one is what must never happen.
    pub fn productions_for(&self, reference: &str) -> usize {
        self.lock().by_reference.get(reference).map_or(0, Vec::len)
    }

    /// How often it was called.
    pub fn calls(&self) -> BureauCalls {
        self.lock().calls
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }

    /// Takes the orders of one call; gives the answers and how long they take.
    fn take(&self, orders: &[CardOrder]) -> (Vec<PlaceOutcome>, Duration) {
        let now = self.clock.now();
        let mut books = self.lock();
        books.calls.place += 1;
        books.calls.placed_orders += orders.len() as u64;
        let mut wait = Duration::ZERO;
        let answers = orders.iter().map(|order| {
            let (answer, late_by) = books.take(self.seed, order, now);
            wait = wait.max(late_by);
            answer
        });
        (answers.collect(), wait)
    }
}

impl fmt::Debug for SimulatedBureau {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let books = self.lock();
        f.debug_struct("SimulatedBureau")
            .field("seed", &self.seed)
            .field("behaviour", &books.behaviour)
            .field("orders", &books.orders.len())
            .field("outage_until", &books.outage_until)
            .field("calls", &books.calls)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl GoCardsProvider for SimulatedBureau {
    fn placement(&self) -> Placement {
        if self.lock().behaviour.idempotent { Placement::IdempotentByReference } else { Placement::NotIdempotent }
    }

    async fn place(&self, orders: &[CardOrder]) -> Vec<PlaceOutcome> {
        let (answers, wait) = self.take(orders);
        pass(&*self.clock, wait).await;
        answers
    }

    async fn status(&self, order_ids: &[String]) -> Vec<StatusOutcome> {
        let now = self.clock.now();
        let mut books = self.lock();
        books.calls.status += 1;
        books.calls.read_orders += order_ids.len() as u64;
        order_ids.iter().map(|order_id| books.read(self.seed, order_id, now)).collect()
    }

    async fn find(&self, reference: &str) -> FindOutcome {
        let now = self.clock.now();
        let mut books = self.lock();
        books.calls.find += 1;
        books.find(reference, now)
    }
}

impl Books {
    fn is_out(&self, now: DateTime<Utc>) -> bool {
        self.outage_until.is_some_and(|until| now < until)
    }

    fn take(&mut self, seed: u64, order: &CardOrder, now: DateTime<Utc>) -> (PlaceOutcome, Duration) {
        use PlaceScript as Script;

        let script = if self.is_out(now) { Script::Unavailable } else { self.script(seed, order) };
        let known = self.behaviour.idempotent && self.by_reference.contains_key(&order.reference);
        let refused = self.refused.get(&order.reference).filter(|_| self.behaviour.idempotent);
        let script = match (script, refused) {
            (Script::Accept | Script::Late(_), Some(reason)) => Script::Refuse(reason.clone()),
            (Script::LoseReplyAfterAccepting, Some(_)) => Script::LoseReplyBeforeAccepting,
            (Script::Refuse(_), None) if known => Script::Accept,
            (Script::Unavailable | Script::RateLimited(_), None) if known => Script::LoseReplyBeforeAccepting,
            (script, _) => script,
        };
        let mut late_by = Duration::ZERO;
        let answer = match script {
            Script::Accept => PlaceOutcome::Accepted(self.accept(seed, order, now)),
            Script::Refuse(reason) => {
                self.refused.insert(order.reference.clone(), reason.clone());
                PlaceOutcome::Refused { reason }
            }
            Script::Unavailable => PlaceOutcome::Unavailable { reason: OUT_OF_REACH.to_owned() },
            Script::RateLimited(retry_after) => PlaceOutcome::RateLimited { retry_after },
            Script::LoseReplyAfterAccepting => {
                self.accept(seed, order, now);
                PlaceOutcome::Unknown { reason: LOST.to_owned() }
            }
            Script::LoseReplyBeforeAccepting => PlaceOutcome::Unknown { reason: LOST.to_owned() },
            Script::Late(by) => {
                late_by = by;
                PlaceOutcome::Accepted(self.accept(seed, order, now))
            }
            Script::Silent => {
                late_by = Duration::MAX;
                PlaceOutcome::Unknown { reason: LOST.to_owned() }
            }
        };
        (answer, late_by)
    }

    /// What happens to an order: as scripted, else as drawn.
    fn script(&mut self, seed: u64, order: &CardOrder) -> PlaceScript {
        let tries = self.tries.entry(order.reference.clone()).or_default();
        *tries += 1;
        let drawn = self.behaviour.draw_place(&mut SplitMix64::of(seed, "place", &order.reference, *tries));
        self.scripts.take(order).unwrap_or(drawn)
    }

    fn accept(&mut self, seed: u64, order: &CardOrder, now: DateTime<Utc>) -> Accepted {
        let under_reference = self.by_reference.entry(order.reference.clone()).or_default();
        let earlier = under_reference.first().and_then(|index| self.orders.get(*index));
        if let Some(earlier) = earlier.filter(|_| self.behaviour.idempotent) {
            return earlier.accepted(&self.behaviour);
        }
        let mut dice = SplitMix64::of(seed, "course", &order.reference, under_reference.len() as u64);
        // Orders that it remembers may have taken ids already.
        let free = |number: &usize| !self.by_order_id.contains_key(&order_id(*number));
        let number = (self.orders.len() + 1..).find(free).unwrap_or_default();
        let course = Course::draw(&self.behaviour, now, &mut dice);
        let placed = Placed::new(order_id(number), order, now, course);
        let accepted = placed.accepted(&self.behaviour);
        self.enter(placed);
        accepted
    }

    fn enter(&mut self, placed: Placed) {
        let place = self.orders.len();
        self.by_reference.entry(placed.reference.clone()).or_default().push(place);
        self.by_order_id.insert(placed.order_id.clone(), place);
        self.orders.push(placed);
    }

    fn read(&mut self, seed: u64, order_id: &str, now: DateTime<Utc>) -> StatusOutcome {
        if self.is_out(now) {
            return StatusOutcome::Unavailable { reason: OUT_OF_REACH.to_owned() };
        }
        let index = self.by_order_id.get(order_id).copied();
        let Some(order) = index.and_then(|index| self.orders.get_mut(index)) else { return StatusOutcome::NotFound };

        order.reads += 1;
        let mut dice = SplitMix64::of(seed, "read", &order.reference, order.reads);
        let mut strikes = dice.strikes();
        let message = if order.set.is_some() {
            order.message(now)
        } else if strikes(self.behaviour.status_unavailable) {
            return StatusOutcome::Unavailable { reason: OUT_OF_REACH.to_owned() };
        } else if strikes(self.behaviour.status_rate_limited) {
            return StatusOutcome::RateLimited { retry_after: self.behaviour.retry_after };
        } else if strikes(self.behaviour.status_backwards) {
            order.message(order.step_before(now))
        } else if strikes(self.behaviour.status_repeated) {
            order.told.clone().unwrap_or_else(|| order.message(now))
        } else {
            order.message(now)
        };
        order.told = Some(message.clone());
        StatusOutcome::Known(message)
    }

    fn find(&self, reference: &str, now: DateTime<Utc>) -> FindOutcome {
        if !self.behaviour.can_look {
            return FindOutcome::CannotLook;
        }
        if self.is_out(now) {
            return FindOutcome::Unavailable { reason: OUT_OF_REACH.to_owned() };
        }
        let order = self.by_reference.get(reference).and_then(|found| self.orders.get(*found.first()?));
        match order.filter(|order| later(order.at, self.behaviour.found_late) <= now) {
            Some(order) => FindOutcome::Found(order.accepted(&self.behaviour)),
            None => FindOutcome::NotFound,
        }
    }
}

/// How often a [`SimulatedBureau`] was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BureauCalls {
    /// Calls that place orders.
    pub place: u64,
    /// Orders in them.
    pub placed_orders: u64,
    /// Calls that read statuses.
    pub status: u64,
    /// Order ids in them.
    pub read_orders: u64,
    /// Calls that look for a reference.
    pub find: u64,
}

/// One order that a [`SimulatedBureau`] accepted, and so one card that it makes.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LedgerEntry {
    /// Our reference.
    pub reference: String,
    /// The bureau's order id.
    pub order_id: String,
    /// The bureau's card id.
    pub card_id: String,
    /// The article.
    pub article: String,
    /// The texts on the card, by element name.
    pub elements: BTreeMap<String, String>,
    /// The holder's e-mail address.
    pub email: Option<String>,
    /// Which address it goes to.
    pub address_key: Option<String>,
    /// The size of the photo.
    pub photo_bytes: Option<usize>,
    /// When it was accepted.
    pub at: DateTime<Utc>,
    /// The status text when the ledger was read.
    pub status: String,
}

impl fmt::Debug for LedgerEntry {
    /// Shows the names of the elements, not what they say.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerEntry")
            .field("reference", &self.reference)
            .field("order_id", &self.order_id)
            .field("card_id", &self.card_id)
            .field("article", &self.article)
            .field("elements", &self.elements.keys().collect::<Vec<_>>())
            .field("photo_bytes", &self.photo_bytes)
            .field("at", &self.at)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

// ---- the life of an order ----------------------------------------------------------------------------------------

const RECEIVED: &str = "received";
const IN_PRODUCTION: &str = "in production";
const SHIPPED: &str = "shipped";
const DELIVERED: &str = "delivered";
const PRODUCTION_FAILED: &str = "production failed";
/// Texts that are in no map.
const HELD: [&str; 3] = ["on hold at customs", "quality check", "awaiting material"];
const REFUSALS: [&str; 3] = ["the article is not available", "the photo is too small", "an element is too long"];
const OUT_OF_REACH: &str = "the bureau is out of reach";
const LOST: &str = "the answer was lost";

/// An accepted order.
struct Placed {
    order_id: String,
    reference: String,
    article: String,
    elements: BTreeMap<String, String>,
    email: Option<String>,
    address_key: Option<String>,
    photo_bytes: Option<usize>,
    at: DateTime<Utc>,
    course: Course,
    /// The text that a test gave it, and when.
    set: Option<(String, DateTime<Utc>)>,
    reads: u64,
    told: Option<OrderStatus>,
}

/// What becomes of an order, and when; drawn when it is accepted.
struct Course {
    in_production: DateTime<Utc>,
    /// Shows a text that is in no map from the one time to the other.
    held: Option<(DateTime<Utc>, DateTime<Utc>, &'static str)>,
    done: DateTime<Utc>,
    delivered: DateTime<Utc>,
    fails: bool,
    chips: u64,
}

impl Course {
    fn draw(behaviour: &BureauBehaviour, at: DateTime<Utc>, dice: &mut SplitMix64) -> Self {
        let in_production = later(later(at, behaviour.in_production_after), dice.up_to(behaviour.spread));
        let done = later(later(at, behaviour.shipped_after), dice.up_to(behaviour.spread)).max(in_production);
        let delivered = later(later(done, behaviour.delivered_after), dice.up_to(behaviour.spread));
        let third = (done - in_production) / 3;
        let text = dice.one_of(&HELD);
        Self {
            in_production,
            held: dice.strikes()(behaviour.status_unknown).then_some((in_production + third, done - third, text)),
            done,
            delivered,
            fails: dice.strikes()(behaviour.production_failed),
            chips: dice.next(),
        }
    }

    fn text(&self, now: DateTime<Utc>) -> &'static str {
        if now >= self.done {
            match (self.fails, now >= self.delivered) {
                (true, _) => PRODUCTION_FAILED,
                (false, false) => SHIPPED,
                (false, true) => DELIVERED,
            }
        } else if let Some((from, to, text)) = self.held
            && (from..to).contains(&now)
        {
            text
        } else if now >= self.in_production {
            IN_PRODUCTION
        } else {
            RECEIVED
        }
    }

    /// Two of one technology and one of another.
    fn read_outs(&self) -> Vec<ReadOut> {
        let mut dice = SplitMix64(self.chips);
        let technologies = ["LEGIC", "LEGIC", "MIFARE"];
        let read =
            |technology: &str| ReadOut { technology: technology.to_owned(), value: format!("{:016X}", dice.next()) };
        technologies.into_iter().map(read).collect()
    }
}

impl Placed {
    fn new(order_id: String, order: &CardOrder, at: DateTime<Utc>, course: Course) -> Self {
        Self {
            order_id,
            reference: order.reference.clone(),
            article: order.article.clone(),
            elements: order.elements.clone(),
            email: order.email.clone(),
            address_key: order.address_key.clone(),
            photo_bytes: order.photo.as_ref().map(Vec::len),
            at,
            course,
            set: None,
            reads: 0,
            told: None,
        }
    }

    /// The bureau's id of the only card in the order.
    fn card_id(&self) -> String {
        format!("{}-1", self.order_id)
    }

    fn accepted(&self, behaviour: &BureauBehaviour) -> Accepted {
        Accepted { order_id: self.order_id.clone(), card_id: behaviour.card_id_at_once.then(|| self.card_id()) }
    }

    fn entry(&self, now: DateTime<Utc>) -> LedgerEntry {
        LedgerEntry {
            reference: self.reference.clone(),
            order_id: self.order_id.clone(),
            card_id: self.card_id(),
            article: self.article.clone(),
            elements: self.elements.clone(),
            email: self.email.clone(),
            address_key: self.address_key.clone(),
            photo_bytes: self.photo_bytes,
            at: self.at,
            status: self.text(now).to_owned(),
        }
    }

    fn text(&self, now: DateTime<Utc>) -> &str {
        self.set.as_ref().map_or_else(|| self.course.text(now), |(text, _)| text)
    }

    /// What the bureau knows at this time.
    fn message(&self, now: DateTime<Utc>) -> OrderStatus {
        let text = self.text(now);
        let set_at = self.set.as_ref().map(|(_, at)| *at);
        let mut message = OrderStatus {
            order_id: self.order_id.clone(),
            card_id: Some(self.card_id()),
            text: text.to_owned(),
            ..OrderStatus::default()
        };
        let is = |known: &str| text.trim().eq_ignore_ascii_case(known);
        if is(SHIPPED) || is(DELIVERED) {
            message.times.produced = Some(without_zone(set_at.unwrap_or(self.course.done)));
            message.times.delivered = is(DELIVERED).then(|| without_zone(set_at.unwrap_or(self.course.delivered)));
            message.read_outs = self.course.read_outs();
        }
        message
    }

    /// When the step before the present one began.
    fn step_before(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let course = &self.course;
        let mut steps = vec![self.at, course.in_production, course.done, course.delivered];
        steps.extend(course.held.iter().flat_map(|(from, to, _)| [*from, *to]));
        steps.retain(|step| *step <= now && course.text(*step) != course.text(now));
        steps.into_iter().max().unwrap_or(now)
    }
}

fn order_id(number: usize) -> String {
    format!("GC-{number:06}")
}

fn without_zone(at: DateTime<Utc>) -> NaiveDateTime {
    at.naive_utc().trunc_subsecs(0)
}
