//! Checks of a [`GoCardsProvider`], one for each clause of its contract and named like it.
//!
//! The checks order cards: give them a bureau for tests. Some of what a provider promises cannot be seen by asking it: the
//! [`BureauFactory`] looks into the bureau's books, and lets answers get lost.
//!
//! # Panics
//! Every check panics where its clause is not kept. What the provider calls unavailable or rate-limited is tried again for
//! some seconds; what may not be known yet is waited for with [`BureauFactory::pass_time`].
//!
//! # Examples
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use cardwright::adapters::simulator::{BureauBehaviour, PlaceScript, SimulatedBureau, SimulatedClock};
//! use cardwright::conformance::go_cards_provider::{BureauFactory, Event, SeenOrder, check_all};
//! use cardwright::conformance::{Call, Kit, block_on, on_threads};
//! use cardwright::host::{CardOrder, Clock as _, GoCardsProvider};
//! use chrono::TimeDelta;
//!
//! struct Simulated {
//!     clock: SimulatedClock,
//!     bureau: SimulatedBureau,
//! }
//!
//! #[async_trait::async_trait]
//! impl BureauFactory for Simulated {
//!     async fn open(&self) -> Arc<dyn GoCardsProvider> {
//!         Arc::new(self.bureau.clone())
//!     }
//!
//!     async fn pass_time(&self, duration: Duration) {
//!         self.clock.advance(duration);
//!     }
//!
//!     async fn at_once(&self, calls: Vec<Call>) {
//!         on_threads(calls).await;
//!     }
//!
//!     fn order(&self, reference: &str) -> CardOrder {
//!         let mut order = CardOrder::new(reference, "ART-1");
//!         order.elements.insert("NAME".to_owned(), "Zoë Example".to_owned());
//!         order.email = Some("zoe@example.org".to_owned());
//!         order.photo = Some(vec![0xff, 0xd8, 0xff]);
//!         order
//!     }
//!
//!     fn refused_order(&self, reference: &str) -> CardOrder {
//!         CardOrder::new(reference, "withdrawn")
//!     }
//!
//!     async fn look(&self, reference: &str) -> Option<Vec<SeenOrder>> {
//!         let entries = self.bureau.ledger().into_iter().filter(|entry| entry.reference == reference);
//!         let seen = entries.map(|entry| {
//!             let mut seen = SeenOrder::new(entry.order_id, entry.article);
//!             seen.elements = entry.elements;
//!             seen.email = entry.email;
//!             seen.address_key = entry.address_key;
//!             seen.photo_bytes = entry.photo_bytes;
//!             seen
//!         });
//!         Some(seen.collect())
//!     }
//!
//!     async fn arrange(&self, event: Event<'_>) -> bool {
//!         let (reference, script) = match event {
//!             Event::TooMany(reference) => (reference, PlaceScript::RateLimited(Duration::from_secs(60))),
//!             Event::LoseAnswer(reference) => (reference, PlaceScript::LoseReplyAfterAccepting),
//!             Event::LoseOrder(reference) => (reference, PlaceScript::LoseReplyBeforeAccepting),
//!             Event::Away | Event::Back => {
//!                 let days = if event == Event::Away { 1_000 } else { 0 };
//!                 self.bureau.outage(self.clock.now() + TimeDelta::days(days));
//!                 return true;
//!             }
//!             _ => return false,
//!         };
//!         let reference = reference.to_owned();
//!         self.bureau.next_place_where(move |order| order.reference == reference, script);
//!         true
//!     }
//! }
//!
//! let clock = SimulatedClock::new("2030-01-07T08:00:00Z".parse()?);
//! let bureau = SimulatedBureau::new(1, Arc::new(clock.clone())).behaving(BureauBehaviour::rich());
//! bureau.every_place_where(|order| order.article == "withdrawn", PlaceScript::Refuse("no such article".to_owned()));
//! block_on(check_all(&Kit::of_bureau(&Simulated { clock, bureau }, uuid::Uuid::new_v4())));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;

use super::{Call, Kit, gather};
use crate::host::{
    Accepted, CardOrder, Clock as _, FindOutcome, GoCardsProvider, OrderStatus, PlaceOutcome, Placement, StatusOutcome,
    SystemClock,
};

/// Opens the provider under test, and knows what its checks need to know of the bureau.
///
/// Others may use the bureau meanwhile, but for the moments in which it is [away](Event::Away).
#[async_trait]
pub trait BureauFactory: Send + Sync {
    /// A new handle onto the provider, as independent of the others as handles in production are.
    async fn open(&self) -> Arc<dyn GoCardsProvider>;

    /// Lets the bureau get on with its orders: moves its clock on by this time, or waits as long as it takes.
    async fn pass_time(&self, duration: Duration);

    /// Runs these calls at once, as concurrently as can be, and returns when all have ended. A panic of one is a panic of
    /// this. For a provider that needs no runtime, [`on_threads`](super::on_threads) does it; otherwise each is a task of that
    /// runtime.
    async fn at_once(&self, calls: Vec<Call>);

    /// An order under this reference that the bureau takes, with all that the provider has to pass on. The same order for the
    /// same reference.
    fn order(&self, reference: &str) -> CardOrder;

    /// An order under this reference that the bureau refuses for good, such as for an article that it does not have.
    fn refused_order(&self, reference: &str) -> CardOrder;

    /// The orders under this reference in the bureau's books, as a person there would see them. `None` if nobody can look:
    /// then what only this can show is not checked.
    async fn look(&self, reference: &str) -> Option<Vec<SeenOrder>>;

    /// Makes this happen. `false` if that cannot be done: then what only this can show is not checked.
    async fn arrange(&self, event: Event<'_>) -> bool;
}

/// What can happen to a bureau, or to an order on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'r> {
    /// The bureau cannot be reached from now on.
    Away,
    /// It can be reached again.
    Back,
    /// When the order under this reference is sent next, it is one too many.
    TooMany(&'r str),
    /// When the order under this reference is sent next, it is accepted and the answer gets lost.
    LoseAnswer(&'r str),
    /// When the order under this reference is sent next, it is accepted and the answer cannot be understood.
    GarbleAnswer(&'r str),
    /// When the order under this reference is sent next, it does not arrive, and nobody is told.
    LoseOrder(&'r str),
}

/// An order in the bureau's books.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeenOrder {
    /// The bureau's order id.
    pub order_id: String,
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
}

impl SeenOrder {
    /// An order of this article without elements, addresses and photo.
    pub fn new(order_id: impl Into<String>, article: impl Into<String>) -> Self {
        Self {
            order_id: order_id.into(),
            article: article.into(),
            elements: BTreeMap::new(),
            email: None,
            address_key: None,
            photo_bytes: None,
        }
    }

    /// What a bureau must have in its books of an order.
    fn of(order: &CardOrder, order_id: &str) -> Self {
        Self {
            order_id: order_id.to_owned(),
            article: order.article.clone(),
            elements: order.elements.clone(),
            email: order.email.clone(),
            address_key: order.address_key.clone(),
            photo_bytes: order.photo.as_ref().map(Vec::len),
        }
    }
}

impl fmt::Debug for SeenOrder {
    /// Shows the names of the elements, not what they say.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeenOrder")
            .field("order_id", &self.order_id)
            .field("article", &self.article)
            .field("elements", &self.elements.keys().collect::<Vec<_>>())
            .field("photo_bytes", &self.photo_bytes)
            .finish_non_exhaustive()
    }
}

clauses! {
    dyn BureauFactory, "the provider", "GO Cards provider";
    accepted_means_ordered,
    failures_stay_apart,
    one_result_per_order,
    refused_means_not_accepted,
    no_retry_of_the_unknown,
    found_means_accepted,
    accepted_is_found,
    status_is_of_its_order,
    not_found_means_looked,
    reading_changes_nothing,
    idempotent_means_one_order,
    idempotent_means_one_answer,
}

/// What was accepted stands in the bureau's books, whole and once, under an order id of its own.
pub async fn accepted_means_ordered(kit: &Kit<'_, dyn BureauFactory>) {
    const CLAUSE: &str = "accepted_means_ordered";
    let bureau = Bureau::open(kit, CLAUSE).await;
    let mut order_ids = BTreeSet::new();
    let mut orders = Vec::new();
    for _ in 0..2 {
        orders.push(bureau.accepted(kit).await);
    }
    let mut calls: Vec<BoxFuture<'static, Option<(CardOrder, Accepted)>>> = Vec::new();
    for _ in 0..8 {
        let (bureau, order) = (Bureau::open(kit, CLAUSE).await, bureau.order(kit));
        calls.push(Box::pin(async move {
            match bureau.place_one(&order).await {
                PlaceOutcome::Accepted(accepted) => Some((order, accepted)),
                _ => None,
            }
        }));
    }
    orders.extend(gather(calls, |calls| kit.factory.at_once(calls)).await.into_iter().flatten());
    for (order, accepted) in orders {
        let order_id = accepted.order_id;
        assert!(!order_id.is_empty(), "{CLAUSE}: an order id is a name");
        if let Some(seen) = kit.factory.look(&order.reference).await {
            assert_eq!(seen, [SeenOrder::of(&order, &order_id)], "{CLAUSE}: this is what the bureau has of {order:?}");
        }
        assert!(order_ids.insert(order_id.clone()), "{CLAUSE}: two orders were accepted under the order id {order_id}");
    }
}

/// A final no, a bureau out of reach and too many orders are told apart, and the latter two pass.
pub async fn failures_stay_apart(kit: &Kit<'_, dyn BureauFactory>) {
    const CLAUSE: &str = "failures_stay_apart";
    let bureau = Bureau::open(kit, CLAUSE).await;
    for _ in 0..2 {
        // Tries again after anything but a final no, and gives up where there never is one.
        bureau.refused(kit).await;
    }

    let order = bureau.order(kit);
    if kit.factory.arrange(Event::TooMany(&order.reference)).await {
        let outcome = bureau.place_one(&order).await;
        let PlaceOutcome::RateLimited { retry_after } = outcome else {
            panic!("{CLAUSE}: one order too many must be rate-limited, not: {outcome:?}");
        };
        kit.factory.pass_time(retry_after).await;
        bureau.accept(kit, &order).await;
    }

    let order = bureau.order(kit);
    if kit.factory.arrange(Event::Away).await {
        let outcome = bureau.place_one(&order).await;
        kit.factory.arrange(Event::Back).await;
        match outcome {
            PlaceOutcome::Unavailable { .. } => {
                bureau.accept(kit, &order).await;
            }
            PlaceOutcome::Unknown { .. } => {}
            outcome => panic!("{CLAUSE}: a bureau out of reach must be unavailable or unknown, not: {outcome:?}"),
        }
    }
}

/// The results of one call stand where their orders stand, whatever each of them is.
pub async fn one_result_per_order(kit: &Kit<'_, dyn BureauFactory>) {
    const CLAUSE: &str = "one_result_per_order";
    let bureau = Bureau::open(kit, CLAUSE).await;
    assert_eq!(bureau.provider.place(&[]).await, [], "{CLAUSE}: none for none");
    assert_eq!(bureau.provider.status(&[]).await, [], "{CLAUSE}: none for none");

    let (orders, order_ids) = bureau.mixed_call(kit).await;
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (place, order) in orders.iter().enumerate() {
        let seen = kit.factory.look(&order.reference).await.unwrap_or_default();
        places.extend(seen.into_iter().map(|seen| (seen.order_id, place)));
    }
    for (place, order_id) in order_ids.iter().enumerate() {
        let Some(order_id) = order_id else { continue };
        let found = places.get(order_id).copied().unwrap_or(place);
        assert_eq!(found, place, "{CLAUSE}: the result at place {place} belongs to the order at place {found}");
    }

    let good: Vec<&String> = order_ids.iter().flatten().collect();
    let unknown = bureau.text(kit);
    let asked: Vec<String> =
        [good[2], good[0], &unknown, good[1], good[0], good[2], good[1]].into_iter().cloned().collect();
    for _ in 0..PATIENCE {
        let statuses = bureau.status(kit, &asked).await;
        let mut known = 0;
        for (place, status) in statuses.into_iter().enumerate() {
            let StatusOutcome::Known(status) = status else { continue };
            known += 1;
            let misplaced = asked.contains(&status.order_id) && status.order_id != asked[place];
            assert!(!misplaced, "{CLAUSE}: the status at place {place} is that of another order of the call");
        }
        if known >= asked.len() - 1 {
            break;
        }
        kit.factory.pass_time(HOUR).await;
    }
}

/// What was said not to be accepted is not in the bureau's books, and does not come into them.
pub async fn refused_means_not_accepted(kit: &Kit<'_, dyn BureauFactory>) {
    const CLAUSE: &str = "refused_means_not_accepted";
    let bureau = Bureau::open(kit, CLAUSE).await;
    let references: Vec<String> = (0..5).map(|_| bureau.text(kit)).collect();
    let events = [
        None,
        Some(Event::TooMany(&references[1])),
        Some(Event::LoseAnswer(&references[2])),
        Some(Event::GarbleAnswer(&references[3])),
        Some(Event::Away),
    ];
    let mut not_accepted = Vec::new();
    for (event, reference) in events.into_iter().zip(&references) {
        if let Some(event) = event
            && !kit.factory.arrange(event).await
        {
            continue;
        }
        let order = match event {
            None => kit.factory.refused_order(reference),
            Some(_) => kit.factory.order(reference),
        };
        let outcome = bureau.place_one(&order).await;
        if event == Some(Event::Away) {
            kit.factory.arrange(Event::Back).await;
        }
        if !matches!(outcome, PlaceOutcome::Accepted(_) | PlaceOutcome::Unknown { .. }) {
            not_accepted.push((reference, event, outcome));
        }
    }
    for when in ["at once", "a day later", "two days later"] {
        for (reference, event, outcome) in &not_accepted {
            let seen = kit.factory.look(reference).await.unwrap_or_default();
            assert_eq!(
                seen,
                [],
                "{CLAUSE}: {when}, the bureau has an order to which this was said: {outcome:?} ({event:?})"
            );
        }
        kit.factory.pass_time(DAY).await;
    }
}

/// An order without an answer that could be understood is not sent a second time.
pub async fn no_retry_of_the_unknown(kit: &Kit<'_, dyn BureauFactory>) {
    const CLAUSE: &str = "no_retry_of_the_unknown";
    let bureau = Bureau::open(kit, CLAUSE).await;
    for others in [0, 2] {
        for kind in 0..3 {
            let mut orders: Vec<CardOrder> = (0..others + 1).map(|_| bureau.order(kit)).collect();
            let unlucky = orders[others / 2].reference.clone();
            let event = match kind {
                0 => Event::LoseAnswer(&unlucky),
                1 => Event::GarbleAnswer(&unlucky),
                _ => Event::LoseOrder(&unlucky),
            };
            if !kit.factory.arrange(event).await {
                continue;
            }
            let outcome = bureau.place(&orders).await.swap_remove(others / 2);
            let arrives = kind != 2;
            assert!(
                arrives || !matches!(outcome, PlaceOutcome::Accepted(_)),
                "{CLAUSE}: an order that got lost was sent again: {outcome:?}"
            );
            // A call of each kind, by which the provider may come to what it has put off.
            kit.factory.pass_time(DAY).await;
            bureau.status(kit, &[bureau.text(kit)]).await;
            bureau.find(&bureau.text(kit)).await;
            orders.push(bureau.accepted(kit).await.0);
            kit.factory.pass_time(DAY).await;
            for order in &orders {
                let count = kit.factory.look(&order.reference).await.map_or(0, |seen| seen.len());
                let most = usize::from(arrives || order.reference != unlucky);
                assert!(count <= most, "{CLAUSE}: {event:?}: an order was sent again; the bureau has it {count} times");
            }
        }
    }
}

/// A look finds an order under exactly this reference that was accepted, and nothing else.
pub async fn found_means_accepted(kit: &Kit<'_, dyn BureauFactory>) {
    const CLAUSE: &str = "found_means_accepted";
    let bureau = Bureau::open(kit, CLAUSE).await;
    let assert_not_found = async |reference: &str, what: &str| {
        if let FindOutcome::Found(found) = bureau.find(reference).await {
            panic!("{CLAUSE}: {what} was found: {found:?}");
        }
    };
    assert_not_found(&bureau.text(kit), "an order that was never placed").await;
    let refused = bureau.refused(kit).await;
    let lost = bureau.order(kit);
    if kit.factory.arrange(Event::LoseOrder(&lost.reference)).await {
        bureau.place_one(&lost).await;
        assert_not_found(&lost.reference, "an order that never arrived").await;
    }
    let (order, accepted) = bureau.accepted(kit).await;
    let (other, _) = bureau.accepted(kit).await;
    kit.factory.pass_time(DAY).await;
    assert_not_found(&refused.reference, "an order that was refused").await;
    let reference = &order.reference;
    for like in [&reference[..reference.len() - 1], &reference[1..], &format!("{reference}0"), ""] {
        assert_not_found(like, &format!("an order under {reference}, by {like:?},")).await;
    }
    assert_not_found(&bureau.text(kit), "an order that was never placed").await;
    let assert_own = async |order: &CardOrder, accepted: Option<&Accepted>| {
        let FindOutcome::Found(found) = bureau.find(&order.reference).await else { return };
        if let Some(accepted) = accepted {
            assert_eq!(found.order_id, accepted.order_id, "{CLAUSE}: another order was found");
        }
        let seen = kit.factory.look(&order.reference).await;
        let in_the_books = seen.is_none_or(|seen| seen.iter().any(|seen| seen.order_id == found.order_id));
        assert!(in_the_books, "{CLAUSE}: what was found is not in the bureau's books: {found:?}");
    };
    assert_own(&order, Some(&accepted)).await;
    assert_own(&other, None).await;
}

/// A provider that can look finds what was accepted, also by another handle, later, and where nobody was told.
pub async fn accepted_is_found(kit: &Kit<'_, dyn BureauFactory>) {
    const CLAUSE: &str = "accepted_is_found";
    let bureau = Bureau::open(kit, CLAUSE).await;
    if bureau.find(&bureau.text(kit)).await == FindOutcome::CannotLook {
        return;
    }
    let (order, accepted) = bureau.accepted(kit).await;
    let found = bureau.found(kit, &order.reference, "once it was accepted").await;
    assert_eq!(found.order_id, accepted.order_id, "{CLAUSE}");
    let other = Bureau::open(kit, CLAUSE).await;
    let again = other.found(kit, &order.reference, "by another handle").await;
    assert_eq!(again.order_id, accepted.order_id, "{CLAUSE}: by another handle");

    let unheard = bureau.order(kit);
    if kit.factory.arrange(Event::LoseAnswer(&unheard.reference)).await {
        bureau.place_one(&unheard).await;
        if kit.factory.look(&unheard.reference).await.is_some_and(|seen| seen.len() == 1) {
            bureau.found(kit, &unheard.reference, "though the answer was lost").await;
        }
    }

    drop((bureau, other));
    let bureau = Bureau::open(kit, CLAUSE).await;
    for when in ["opened again", "a month later", "two months later"] {
        let again = bureau.found_now(&order.reference, when).await;
        assert_eq!(again.order_id, accepted.order_id, "{CLAUSE}: {when}");
        kit.factory.pass_time(30 * DAY).await;
    }
}

/// A status is that of the order asked for, whoever asks and however often.
pub async fn status_is_of_its_order(kit: &Kit<'_, dyn BureauFactory>) {
    const CLAUSE: &str = "status_is_of_its_order";
    let bureau = Bureau::open(kit, CLAUSE).await;
    let orders = [bureau.accepted(kit).await.1, bureau.accepted(kit).await.1];
    // Card ids with the order ids that they were said with.
    let mut cards: BTreeMap<String, String> =
        orders.iter().filter_map(|order| Some((order.card_id.clone()?, order.order_id.clone()))).collect();
    let mut assert_own = |order: &Accepted, status: OrderStatus, when: &str| {
        assert_eq!(status.order_id, order.order_id, "{CLAUSE}: {when}, the status is of another order");
        if let Some(card_id) = status.card_id {
            let of = cards.entry(card_id.clone()).or_insert_with(|| order.order_id.clone());
            assert_eq!(*of, order.order_id, "{CLAUSE}: {when}, the card {card_id} is said to be of another order");
            let count = cards.values().filter(|of| **of == order.order_id).count();
            assert_eq!(count, 1, "{CLAUSE}: {when}, the order of one card is said to be of another card: {card_id}");
        }
    };
    for order in &orders {
        let status = bureau.known_status(kit, &order.order_id).await;
        assert_own(order, status, "once it is known");
    }
    let other = Bureau::open(kit, CLAUSE).await;
    drop(bureau);
    for when in ["read again", "a day later", "many days later"] {
        for order in orders.iter().rev() {
            match other.status(kit, std::slice::from_ref(&order.order_id)).await.swap_remove(0) {
                StatusOutcome::Known(status) => assert_own(order, status, when),
                outcome => panic!("{CLAUSE}: {when}, a status that was known is not: {outcome:?}"),
            }
        }
        kit.factory.pass_time(if when == "read again" { DAY } else { 30 * DAY }).await;
    }
    for unknown in [other.text(kit), format!("{}0", orders[1].order_id)] {
        let outcome = other.status(kit, std::slice::from_ref(&unknown)).await.swap_remove(0);
        assert_eq!(outcome, StatusOutcome::NotFound, "{CLAUSE}: of an order that is not known");
    }
}

/// Nothing is called not found while the bureau cannot be asked.
pub async fn not_found_means_looked(kit: &Kit<'_, dyn BureauFactory>) {
    const CLAUSE: &str = "not_found_means_looked";
    let bureau = Bureau::open(kit, CLAUSE).await;
    let (order, accepted) = bureau.accepted(kit).await;
    bureau.known_status(kit, &accepted.order_id).await;
    if !kit.factory.arrange(Event::Away).await {
        return;
    }
    let found = [bureau.provider.find(&order.reference).await, bureau.provider.find(&bureau.text(kit)).await];
    let asked = [accepted.order_id, bureau.text(kit)];
    let statuses = bureau.provider.status(&asked).await;
    // Before anything is said of it, so that it does not stay away.
    kit.factory.arrange(Event::Back).await;
    for outcome in found {
        assert_ne!(outcome, FindOutcome::NotFound, "{CLAUSE}: a bureau out of reach was not looked through");
    }
    for outcome in statuses {
        assert_ne!(outcome, StatusOutcome::NotFound, "{CLAUSE}: a bureau out of reach was not asked for a status");
    }
}

/// However many look and read at once, nothing is ordered and nothing ends by it.
pub async fn reading_changes_nothing(kit: &Kit<'_, dyn BureauFactory>) {
    const CLAUSE: &str = "reading_changes_nothing";
    let bureau = Bureau::open(kit, CLAUSE).await;
    let (order, accepted) = bureau.accepted(kit).await;
    bureau.known_status(kit, &accepted.order_id).await;
    let before = kit.factory.look(&order.reference).await;
    let nothing = bureau.text(kit);
    let mut calls: Vec<BoxFuture<'static, ()>> = Vec::new();
    for _ in 0..8 {
        let provider = kit.factory.open().await;
        let (reference, nothing) = (order.reference.clone(), nothing.clone());
        let order_ids = [accepted.order_id.clone(), nothing.clone()];
        calls.push(Box::pin(async move {
            provider.find(&reference).await;
            provider.find(&nothing).await;
            provider.status(&order_ids).await;
        }));
    }
    gather(calls, |calls| kit.factory.at_once(calls)).await;

    let after = kit.factory.look(&order.reference).await;
    assert_eq!(after, before, "{CLAUSE}: what the bureau has of an order is other than before it was read");
    let made = kit.factory.look(&nothing).await.unwrap_or_default();
    assert_eq!(made, [], "{CLAUSE}: looking for an order has ordered something");
    let found = bureau.find(&nothing).await;
    assert!(!matches!(found, FindOutcome::Found(_)), "{CLAUSE}: what was looked for is there now: {found:?}");
    let status = bureau.status(kit, &[accepted.order_id]).await.swap_remove(0);
    assert!(matches!(status, StatusOutcome::Known(_)), "{CLAUSE}: a status that many have read is gone: {status:?}");
}

/// Where placing is idempotent, one reference gives one order, however often, when and by how many it is placed.
pub async fn idempotent_means_one_order(kit: &Kit<'_, dyn BureauFactory>) {
    const CLAUSE: &str = "idempotent_means_one_order";
    let bureau = Bureau::open(kit, CLAUSE).await;
    let other = Bureau::open(kit, CLAUSE).await;
    let says = [bureau.provider.placement(), other.provider.placement()];
    assert_eq!(says[0], says[1], "{CLAUSE}: two handles say different things of one bureau");
    if says[0] == Placement::NotIdempotent {
        return;
    }
    let assert_once = async |order: &CardOrder, when: &str| {
        let count = kit.factory.look(&order.reference).await.map_or(1, |seen| seen.len());
        assert_eq!(count, 1, "{CLAUSE}: {when}, there must be one order under one reference");
    };

    let (order, accepted) = bureau.accepted(kit).await;
    for (bureau, when) in [(&bureau, "placed again"), (&other, "placed again through another handle")] {
        let again = bureau.accept(kit, &order).await;
        assert_eq!(again.order_id, accepted.order_id, "{CLAUSE}: {when}");
    }
    let worse = kit.factory.refused_order(&order.reference);
    let again = bureau.accept(kit, &worse).await;
    assert_eq!(again.order_id, accepted.order_id, "{CLAUSE}: placed again as an order that would be refused by now");
    assert_once(&order, "placed again").await;

    let twice = bureau.order(kit);
    let outcomes = bureau.place(&[twice.clone(), twice.clone()]).await;
    let accepted_twice = bureau.accept(kit, &twice).await;
    for outcome in outcomes {
        if let PlaceOutcome::Accepted(accepted) = outcome {
            assert_eq!(accepted.order_id, accepted_twice.order_id, "{CLAUSE}: twice in one call");
        }
    }
    assert_once(&twice, "twice in one call").await;

    let unheard = bureau.order(kit);
    if kit.factory.arrange(Event::LoseAnswer(&unheard.reference)).await {
        bureau.place_one(&unheard).await;
        bureau.accept(kit, &unheard).await;
        assert_once(&unheard, "placed again after the answer was lost").await;
    }

    for _ in 0..4 {
        let contested = bureau.order(kit);
        let mut calls: Vec<BoxFuture<'static, PlaceOutcome>> = Vec::new();
        for _ in 0..8 {
            let (bureau, order) = (Bureau::open(kit, CLAUSE).await, contested.clone());
            calls.push(Box::pin(async move { bureau.place_one(&order).await }));
        }
        let outcomes = gather(calls, |calls| kit.factory.at_once(calls)).await;
        let order_id = bureau.accept(kit, &contested).await.order_id;
        for outcome in outcomes {
            if let PlaceOutcome::Accepted(accepted) = outcome {
                assert_eq!(accepted.order_id, order_id, "{CLAUSE}: eight who place one order at once get one order");
            }
        }
        assert_once(&contested, "placed by eight at once").await;
    }

    drop((bureau, other));
    kit.factory.pass_time(60 * DAY).await;
    let bureau = Bureau::open(kit, CLAUSE).await;
    let again = bureau.accept(kit, &order).await;
    assert_eq!(again.order_id, accepted.order_id, "{CLAUSE}: placed again two months later");
    assert_once(&order, "placed again two months later").await;
}

/// Where placing is idempotent, what was refused under a reference is refused under it for ever.
pub async fn idempotent_means_one_answer(kit: &Kit<'_, dyn BureauFactory>) {
    const CLAUSE: &str = "idempotent_means_one_answer";
    let bureau = Bureau::open(kit, CLAUSE).await;
    if bureau.provider.placement() == Placement::NotIdempotent {
        return;
    }
    let reference = bureau.refused(kit).await.reference;
    let better = kit.factory.order(&reference);
    bureau.refuse(kit, &better, "an order that would be taken by now").await;
    Bureau::open(kit, CLAUSE).await.refuse(kit, &better, "through another handle").await;
    let outcomes = bureau.place(&[better.clone(), bureau.order(kit), better.clone()]).await;
    for outcome in [&outcomes[0], &outcomes[2]] {
        let is_accepted = matches!(outcome, PlaceOutcome::Accepted(_));
        assert!(!is_accepted, "{CLAUSE}: among others of one call, a reference that was refused was accepted");
    }
    kit.factory.pass_time(60 * DAY).await;
    Bureau::open(kit, CLAUSE).await.refuse(kit, &better, "two months later").await;
    let made = kit.factory.look(&reference).await.unwrap_or_default();
    assert_eq!(made, [], "{CLAUSE}: under a reference that was refused there is an order");
}

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How many hours the bureau may need until it knows what it has accepted.
const PATIENCE: u32 = 48;
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// A handle onto the provider under test.
struct Bureau {
    clause: &'static str,
    provider: Arc<dyn GoCardsProvider>,
}

impl Bureau {
    async fn open(kit: &Kit<'_, dyn BureauFactory>, clause: &'static str) -> Self {
        Self { clause, provider: kit.factory.open().await }
    }

    /// A reference or order id that nobody has used.
    fn text(&self, kit: &Kit<'_, dyn BureauFactory>) -> String {
        format!("conformance {}", kit.id())
    }

    /// An order that the bureau takes, under a fresh reference.
    fn order(&self, kit: &Kit<'_, dyn BureauFactory>) -> CardOrder {
        kit.factory.order(&self.text(kit))
    }

    async fn place(&self, orders: &[CardOrder]) -> Vec<PlaceOutcome> {
        let outcomes = self.provider.place(orders).await;
        assert_eq!(outcomes.len(), orders.len(), "{}: there must be one result for each order", self.clause);
        outcomes
    }

    async fn place_one(&self, order: &CardOrder) -> PlaceOutcome {
        self.place(std::slice::from_ref(order)).await.swap_remove(0)
    }

    /// An order that was accepted at its first answer; one in doubt is left alone.
    async fn accepted(&self, kit: &Kit<'_, dyn BureauFactory>) -> (CardOrder, Accepted) {
        for _ in 0..TRIES {
            let order = self.order(kit);
            if let Some(accepted) = self.try_accept(kit, &order).await {
                return (order, accepted);
            }
        }
        panic!("{}: the outcomes of {TRIES} orders in a row are unknown", self.clause)
    }

    /// Places an order until it is accepted, also where an outcome is unknown.
    async fn accept(&self, kit: &Kit<'_, dyn BureauFactory>, order: &CardOrder) -> Accepted {
        for _ in 0..TRIES {
            if let Some(accepted) = self.try_accept(kit, order).await {
                return accepted;
            }
        }
        panic!("{}: the outcome of an order is unknown {TRIES} times in a row", self.clause)
    }

    /// Places an order that the bureau must take until it is accepted, or its outcome is unknown.
    async fn try_accept(&self, kit: &Kit<'_, dyn BureauFactory>, order: &CardOrder) -> Option<Accepted> {
        for _ in 0..TRIES {
            match self.place_one(order).await {
                PlaceOutcome::Accepted(accepted) => return Some(accepted),
                PlaceOutcome::Unknown { .. } => return None,
                PlaceOutcome::Refused { reason } => {
                    panic!("{}: an order that the bureau must take was refused: {reason}", self.clause)
                }
                PlaceOutcome::RateLimited { retry_after } => kit.factory.pass_time(retry_after).await,
                PlaceOutcome::Unavailable { .. } => SystemClock.sleep(PAUSE).await,
            }
        }
        panic!("{}: an order could not be placed {TRIES} times in a row", self.clause)
    }

    /// Places an order that the bureau must refuse until it is decided.
    async fn refuse(&self, kit: &Kit<'_, dyn BureauFactory>, order: &CardOrder, when: &str) {
        for _ in 0..TRIES {
            match self.place_one(order).await {
                PlaceOutcome::Refused { .. } => return,
                PlaceOutcome::Accepted(_) => {
                    panic!("{}: {when}, a reference that was refused was accepted", self.clause)
                }
                PlaceOutcome::RateLimited { retry_after } => kit.factory.pass_time(retry_after).await,
                PlaceOutcome::Unavailable { .. } | PlaceOutcome::Unknown { .. } => SystemClock.sleep(PAUSE).await,
            }
        }
        panic!("{}: {when}, an order was not decided {TRIES} times in a row", self.clause)
    }

    /// An order that was refused.
    async fn refused(&self, kit: &Kit<'_, dyn BureauFactory>) -> CardOrder {
        let mut last = None;
        for _ in 0..TRIES {
            let order = kit.factory.refused_order(&self.text(kit));
            let outcome = self.place_one(&order).await;
            match outcome {
                PlaceOutcome::Refused { .. } => return order,
                PlaceOutcome::Accepted(_) => panic!("{}: an order that cannot be was accepted", self.clause),
                PlaceOutcome::RateLimited { retry_after } => kit.factory.pass_time(retry_after).await,
                PlaceOutcome::Unavailable { .. } | PlaceOutcome::Unknown { .. } => SystemClock.sleep(PAUSE).await,
            }
            last = Some(outcome);
        }
        panic!("{}: a final no of the bureau must be refused; {TRIES} orders ended otherwise: {last:?}", self.clause)
    }

    /// Places three good orders and two bad ones in one call, and again until each is decided. Gives the orders, and the order
    /// ids of those that were accepted.
    async fn mixed_call(&self, kit: &Kit<'_, dyn BureauFactory>) -> (Vec<CardOrder>, Vec<Option<String>>) {
        let mut last = Vec::new();
        for _ in 0..TRIES {
            let good = [true, false, true, true, false];
            let orders: Vec<CardOrder> = good
                .iter()
                .map(|good| {
                    let reference = self.text(kit);
                    if *good { kit.factory.order(&reference) } else { kit.factory.refused_order(&reference) }
                })
                .collect();
            let outcomes = self.place(&orders).await;
            let mut order_ids = Vec::new();
            for (place, (outcome, good)) in outcomes.iter().zip(good).enumerate() {
                match outcome {
                    PlaceOutcome::Accepted(accepted) if good => order_ids.push(Some(accepted.order_id.clone())),
                    PlaceOutcome::Refused { .. } if !good => order_ids.push(None),
                    PlaceOutcome::RateLimited { retry_after } => kit.factory.pass_time(*retry_after).await,
                    PlaceOutcome::Unavailable { .. } | PlaceOutcome::Unknown { .. } => {}
                    outcome => panic!(
                        "{}: the result at place {place} of a call is not of the order there: {outcome:?}",
                        self.clause
                    ),
                }
            }
            if order_ids.len() == orders.len() {
                return (orders, order_ids);
            }
            last = outcomes;
            SystemClock.sleep(PAUSE).await;
        }
        panic!("{}: no call in {TRIES} was decided for each of its orders: {last:?}", self.clause)
    }

    /// What a look gives, once it gives anything.
    async fn find(&self, reference: &str) -> FindOutcome {
        for _ in 0..TRIES {
            match self.provider.find(reference).await {
                FindOutcome::Unavailable { .. } => SystemClock.sleep(PAUSE).await,
                outcome => return outcome,
            }
        }
        panic!("{}: a look by reference got no answer {TRIES} times in a row", self.clause)
    }

    async fn found_now(&self, reference: &str, when: &str) -> Accepted {
        match self.find(reference).await {
            FindOutcome::Found(found) => found,
            outcome => panic!("{}: {when}, an accepted order must be found, not: {outcome:?}", self.clause),
        }
    }

    /// What a look finds, at the latest after some hours.
    async fn found(&self, kit: &Kit<'_, dyn BureauFactory>, reference: &str, when: &str) -> Accepted {
        for _ in 0..PATIENCE {
            match self.find(reference).await {
                FindOutcome::NotFound => kit.factory.pass_time(HOUR).await,
                _ => return self.found_now(reference, when).await,
            }
        }
        self.found_now(reference, when).await
    }

    /// The status of each, once the bureau answers for all.
    async fn status(&self, kit: &Kit<'_, dyn BureauFactory>, order_ids: &[String]) -> Vec<StatusOutcome> {
        for _ in 0..TRIES {
            let outcomes = self.provider.status(order_ids).await;
            assert_eq!(outcomes.len(), order_ids.len(), "{}: there must be one result for each order id", self.clause);
            let wait = outcomes.iter().find_map(|outcome| match outcome {
                StatusOutcome::RateLimited { retry_after } => Some(Some(*retry_after)),
                StatusOutcome::Unavailable { .. } => Some(None),
                StatusOutcome::Known(_) | StatusOutcome::NotFound => None,
            });
            match wait {
                None => return outcomes,
                Some(Some(retry_after)) => kit.factory.pass_time(retry_after).await,
                Some(None) => SystemClock.sleep(PAUSE).await,
            }
        }
        panic!("{}: no status could be read {TRIES} times in a row", self.clause)
    }

    /// The status of an order that was accepted, at the latest after some hours.
    async fn known_status(&self, kit: &Kit<'_, dyn BureauFactory>, order_id: &String) -> OrderStatus {
        for _ in 0..PATIENCE {
            match self.status(kit, std::slice::from_ref(order_id)).await.swap_remove(0) {
                StatusOutcome::Known(status) => return status,
                _ => kit.factory.pass_time(HOUR).await,
            }
        }
        panic!("{}: the status of an accepted order is not known after {PATIENCE} hours", self.clause)
    }
}
