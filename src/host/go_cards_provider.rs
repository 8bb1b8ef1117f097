use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::card::{BureauTimes, CardState, ReadOut};

/// Speaks with the GO Cards bureau.
///
/// # Contract
/// Each clause has a check of the same name in [`conformance::go_cards_provider`](crate::conformance::go_cards_provider).
/// - **`accepted_means_ordered`**: *accepted* is said once the bureau has the order, whole and once, under the order id given,
///   which no other order has.
/// - **`failures_stay_apart`**: a final no of the bureau is *refused*; a bureau out of reach is *unavailable* or *unknown*; too
///   many orders are *rate-limited*, with a time to wait. What was not accepted for now is taken when it is placed again.
/// - **`one_result_per_order`**: [`place`](Self::place) and [`status`](Self::status) give one result for each order, in
///   their order; one that is refused does not spoil the others. Any other number counts as unknown for all.
/// - **`refused_means_not_accepted`**: *refused*, *unavailable* and *rate-limited* are said only when the bureau surely did
///   not accept, and will not. A lost or unreadable answer is *unknown*.
/// - **`no_retry_of_the_unknown`**: the provider never sends an order again by itself after an answer it did not
///   understand or did not get, neither at once nor later, alone or with others.
/// - **`found_means_accepted`**: [`find`](Self::find) says *found* only for an order that the bureau accepted under exactly
///   this reference, and gives its order id.
/// - **`accepted_is_found`**: if it can look at all, [`find`](Self::find) finds what the bureau has accepted, at once or some
///   hours later, and from then on; through every handle, and also where the answer to the order was lost.
/// - **`status_is_of_its_order`**: [`status`](Self::status) gives the status of exactly this order id, with that id and the id of
///   its card, as often as it is asked for, some hours after it was accepted at the latest; an id that the bureau does not
///   know is *not found*.
/// - **`not_found_means_looked`**: [`find`](Self::find) and [`status`](Self::status) say *not found* only when the bureau could
///   be asked; one out of reach is *unavailable*.
/// - **`reading_changes_nothing`**: [`find`](Self::find) and [`status`](Self::status) order nothing and end nothing.
/// - **`idempotent_means_one_order`**: if [`placement`](Self::placement) is idempotent, every handle says so, and placing
///   again under a reference that was accepted gives the same order id and no second order: at once, by many at a time, weeks
///   later, and though the bureau would not take such an order any more.
/// - **`idempotent_means_one_answer`**: if [`placement`](Self::placement) is idempotent, an order under a reference that was
///   refused is refused again, though the bureau would take such an order by now. A worker that was paused for hours may
///   still send what another worker was told no to, and nobody waits for that answer any more.
///
/// # Not required
/// Looking up by reference ([`FindOutcome::CannotLook`]); idempotency; cancellation at the bureau. Published GO Cards has
/// none of them. News at once: a status may be one that was true before.
///
/// # Cancellation
/// A dropped [`place`](Self::place) has an unknown outcome; the others only read.
///
/// # Errors
/// All are outcomes: [`PlaceOutcome`], [`StatusOutcome`], [`FindOutcome`].
///
/// # Implementing
/// A [`BureauFactory`](crate::conformance::go_cards_provider::BureauFactory) says how yours is opened, and how to look at the
/// bureau's books; [`check_all`](crate::conformance::go_cards_provider::check_all) checks it.
#[async_trait]
pub trait GoCardsProvider: Send + Sync + 'static {
    /// Whether placing twice under one reference gives one order.
    fn placement(&self) -> Placement;

    /// Places orders, one result each.
    async fn place(&self, orders: &[CardOrder]) -> Vec<PlaceOutcome>;

    /// Reads the status of orders by order id, one result each.
    async fn status(&self, order_ids: &[String]) -> Vec<StatusOutcome>;

    /// Looks for an order by our reference.
    async fn find(&self, reference: &str) -> FindOutcome;
}

forward!(GoCardsProvider {
    fn placement(&self) -> Placement;
    async fn place(&self, orders: &[CardOrder]) -> Vec<PlaceOutcome>;
    async fn status(&self, order_ids: &[String]) -> Vec<StatusOutcome>;
    async fn find(&self, reference: &str) -> FindOutcome;
});

/// Whether placing twice under one reference gives one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// It does, and a reference that was refused stays refused: an order whose outcome is unknown may be sent again.
    IdempotentByReference,
    /// It may give two: an order whose outcome is unknown is never sent again by itself.
    NotIdempotent,
}

/// One order: our reference, the article with its card elements, and where the card goes.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CardOrder {
    /// Our reference, one for each attempt to order.
    pub reference: String,
    /// The bureau's article id.
    pub article: String,
    /// The texts on the card, by element name.
    pub elements: BTreeMap<String, String>,
    /// The holder's e-mail address.
    pub email: Option<String>,
    /// Which of the bureau's known addresses the card is sent to; `None` for its default.
    pub address_key: Option<String>,
    /// The holder's photo.
    pub photo: Option<Vec<u8>>,
}

impl CardOrder {
    /// An order without elements.
    pub fn new(reference: impl Into<String>, article: impl Into<String>) -> Self {
        Self {
            reference: reference.into(),
            article: article.into(),
            elements: BTreeMap::new(),
            email: None,
            address_key: None,
            photo: None,
        }
    }
}

impl fmt::Debug for CardOrder {
    /// Shows the names of the elements, not what they say.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CardOrder")
            .field("reference", &self.reference)
            .field("article", &self.article)
            .field("elements", &self.elements.keys().collect::<Vec<_>>())
            .field("photo_bytes", &self.photo.as_ref().map(Vec::len))
            .finish_non_exhaustive()
    }
}

/// What the bureau said to an order. The four failures stay apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaceOutcome {
    /// Accepted.
    Accepted(Accepted),
    /// A final no; the card fails.
    Refused {
        /// The bureau's words.
        reason: String,
    },
    /// Surely not accepted: try again later.
    Unavailable {
        /// What is in the way.
        reason: String,
    },
    /// Surely not accepted: try again after the time given.
    RateLimited {
        /// How long to wait.
        retry_after: Duration,
    },
    /// Perhaps accepted.
    Unknown {
        /// What happened.
        reason: String,
    },
}

/// What the bureau gives for an accepted order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The bureau's order id.
    pub order_id: String,
    /// The bureau's card id, if it gives one at once.
    pub card_id: Option<String>,
}

/// What the bureau says of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatusOutcome {
    /// Its status.
    Known(OrderStatus),
    /// It does not know the order id (yet).
    NotFound,
    /// Not for now.
    Unavailable {
        /// What is in the way.
        reason: String,
    },
    /// Not before the time given.
    RateLimited {
        /// How long to wait.
        retry_after: Duration,
    },
}

/// The status of one card's order, as the bureau gives it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct OrderStatus {
    /// The order id that it belongs to.
    pub order_id: String,
    /// The bureau's card id.
    pub card_id: Option<String>,
    /// The status in the bureau's own words.
    pub text: String,
    /// The times it gives.
    pub times: BureauTimes,
    /// The chip read-outs it gives.
    pub read_outs: Vec<ReadOut>,
}

/// What a look-up by our reference gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FindOutcome {
    /// The bureau accepted it.
    Found(Accepted),
    /// It could look and did not find it. It may still be on its way.
    NotFound,
    /// It has no way to look.
    CannotLook,
    /// It has, but not for now.
    Unavailable {
        /// What is in the way.
        reason: String,
    },
}

/// Turns the bureau's status texts into states; the host's data, since the bureau does not publish its texts.
///
/// Texts are compared without case and outer blanks. A text that is not here changes nothing and is kept. Read as data, such as from a
/// configuration file, it is checked as by [`of`](Self::of).
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, CardState>", into = "BTreeMap<String, CardState>")]
pub struct StatusMap {
    texts: BTreeMap<String, CardState>,
}

impl StatusMap {
    /// An empty map: every text is unknown.
    pub fn new() -> Self {
        Self::default()
    }

    /// A map of these texts.
    ///
    /// # Errors
    /// [`StatusMapError`] for the first entry whose state is not a state of an order (ordered, in production, produced, failed), or whose text
    /// is there before with another state.
    pub fn of<T: AsRef<str>>(entries: impl IntoIterator<Item = (T, CardState)>) -> Result<Self, StatusMapError> {
        let mut map = Self::new();
        for (text, state) in entries {
            let text = text.as_ref();
            if !is_of_order(state) {
                return Err(StatusMapError::State { text: text.to_owned(), state });
            }
            match map.texts.insert(normal(text), state) {
                Some(other) if other != state => {
                    return Err(StatusMapError::Twice { text: text.to_owned(), state, other });
                }
                _ => {}
            }
        }
        Ok(map)
    }

    /// The same with one more text. Only ordered, in production, produced and failed are states of an order: others are
    /// not taken, and such a text stays unknown.
    #[must_use]
    pub fn with(mut self, text: &str, state: CardState) -> Self {
        if is_of_order(state) {
            self.texts.insert(normal(text), state);
        }
        self
    }

    /// The state that a text stands for.
    pub fn state(&self, text: &str) -> Option<CardState> {
        self.texts.get(&normal(text)).copied()
    }
}

impl TryFrom<BTreeMap<String, CardState>> for StatusMap {
    type Error = StatusMapError;

    fn try_from(entries: BTreeMap<String, CardState>) -> Result<Self, StatusMapError> {
        Self::of(entries)
    }
}

impl From<StatusMap> for BTreeMap<String, CardState> {
    fn from(map: StatusMap) -> Self {
        map.texts
    }
}

/// An entry that a [`StatusMap`] does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatusMapError {
    /// No order can be in this state.
    #[error(
        "status text {text:?}: {state} is not a state of an order; allowed are ordered, in production, produced and failed"
    )]
    State {
        /// The text.
        text: String,
        /// The state it was to stand for.
        state: CardState,
    },
    /// The text is there before, perhaps in other case, and stands for another state.
    #[error("status text {text:?} stands for {state} and, but for case and outer blanks, for {other} too")]
    Twice {
        /// The text.
        text: String,
        /// One state.
        state: CardState,
        /// The other.
        other: CardState,
    },
}

fn is_of_order(state: CardState) -> bool {
    matches!(state, CardState::Ordered | CardState::InProduction | CardState::Produced | CardState::Failed)
}

fn normal(text: &str) -> String {
    text.trim().to_lowercase()
}
