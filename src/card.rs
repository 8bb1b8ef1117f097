//! Cards: kinds, routes, states, and the four state graphs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::history::{ChainHead, HistoryEntry, ObjectId, Stamp, Why};
use crate::id::{CardId, JobId, RequestId, UserId};
use crate::production::Production;
use crate::state_graph::{State, StateGraph, TransitionError};

/// Whether a card is made for one person for good, or lies in stock and is handed out for some days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CardKind {
    /// Made for one user.
    Permanent,
    /// Kept in stock, assigned to users for a time.
    Temporary,
}

impl CardKind {
    /// The name that people use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Permanent => "permanent",
            Self::Temporary => "temporary",
        }
    }
}

/// How a card is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// On the company's own printers and encoders.
    Local,
    /// By the bureau.
    External,
}

impl Route {
    /// The name that people use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::External => "external",
        }
    }
}

/// The state of a card. Which may follow which depends on kind and route: see [`card_graph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CardState {
    /// The card object was just created.
    Registered,
    /// Asked for; a permanent card waits here for approval.
    Requested,
    /// Withdrawn: see [`Card::withdrawal`] for which of the three.
    Aborted,
    /// An approver said no.
    Rejected,
    /// Ready to be issued locally.
    Approved,
    /// The order is decided and not yet answered: it waits in the queue or is being sent.
    Processing,
    /// The bureau accepted the order and gave an order id.
    Ordered,
    /// The bureau is making it.
    InProduction,
    /// Made and shipped.
    Produced,
    /// Ordering, bureau production or local production failed: see [`Card::failure`].
    Failed,
    /// Produced locally; must be activated before use.
    Issued,
    /// Usable; certificates valid.
    Active,
    /// Not usable; certificates on hold.
    Inactive,
    /// A temporary card in stock.
    Unassigned,
    /// A temporary card handed to a user.
    Assigned,
    /// Locked for good; certificates revoked.
    Locked,
    /// Its validity has passed.
    Expired,
}

impl CardState {
    /// All states.
    pub const ALL: [Self; 17] = [
        Self::Registered,
        Self::Requested,
        Self::Aborted,
        Self::Rejected,
        Self::Approved,
        Self::Processing,
        Self::Ordered,
        Self::InProduction,
        Self::Produced,
        Self::Failed,
        Self::Issued,
        Self::Active,
        Self::Inactive,
        Self::Unassigned,
        Self::Assigned,
        Self::Locked,
        Self::Expired,
    ];

    /// The state with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

impl State for CardState {
    fn name(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Requested => "requested",
            Self::Aborted => "aborted",
            Self::Rejected => "rejected",
            Self::Approved => "approved",
            Self::Processing => "processing",
            Self::Ordered => "ordered",
            Self::InProduction => "in production",
            Self::Produced => "produced",
            Self::Failed => "failed",
            Self::Issued => "issued",
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Unassigned => "unassigned",
            Self::Assigned => "assigned",
            Self::Locked => "locked",
            Self::Expired => "expired",
        }
    }
}

impl fmt::Display for CardState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

use CardState::{
    Aborted, Active, Approved, Assigned, Expired, Failed, InProduction, Inactive, Issued, Locked, Ordered, Processing,
    Produced, Registered, Rejected, Requested, Unassigned,
};

#[rustfmt::skip]
static PERMANENT_LOCAL: StateGraph<CardState> = StateGraph::new(
    "permanent card, local",
    Registered,
    &[Aborted, Rejected, Locked, Expired],
    &[
        (Registered, &[Requested, Approved, Issued, Active, Failed]),
        (Requested,  &[Approved, Rejected, Aborted]),
        (Approved,   &[Issued, Active, Failed, Aborted]),
        (Failed,     &[Issued, Active]),
        (Issued,     &[Active, Locked, Expired]),
        (Active,     &[Inactive, Locked, Expired]),
        (Inactive,   &[Active, Locked, Expired]),
        (Aborted,    &[]),
        (Rejected,   &[]),
        (Locked,     &[]),
        (Expired,    &[]),
    ],
);

#[rustfmt::skip]
static PERMANENT_EXTERNAL: StateGraph<CardState> = StateGraph::new(
    "permanent card, external",
    Registered,
    &[Aborted, Rejected, Locked, Expired],
    &[
        (Registered,   &[Requested, Processing]),
        (Requested,    &[Processing, Rejected, Aborted]),
        (Processing,   &[Ordered, Failed, Aborted]),
        (Ordered,      &[InProduction, Produced, Failed]),
        (InProduction, &[Produced, Failed]),
        (Failed,       &[Processing]),
        (Produced,     &[Active, Locked, Expired]),
        (Active,       &[Inactive, Locked, Expired]),
        (Inactive,     &[Active, Locked, Expired]),
        (Aborted,      &[]),
        (Rejected,     &[]),
        (Locked,       &[]),
        (Expired,      &[]),
    ],
);

#[rustfmt::skip]
static TEMPORARY_LOCAL: StateGraph<CardState> = StateGraph::new(
    "temporary card, local",
    Requested,
    &[Aborted, Locked],
    &[
        (Requested,  &[Unassigned, Failed, Aborted]),
        (Failed,     &[Unassigned]),
        (Unassigned, &[Assigned, Locked]),
        (Assigned,   &[Assigned, Unassigned, Expired, Locked]),
        (Expired,    &[Unassigned]),
        (Aborted,    &[]),
        (Locked,     &[]),
    ],
);

#[rustfmt::skip]
static TEMPORARY_EXTERNAL: StateGraph<CardState> = StateGraph::new(
    "temporary card, external",
    Requested,
    &[Aborted, Failed, Locked],
    &[
        (Requested,    &[Processing]),
        (Processing,   &[Ordered, Failed, Aborted]),
        (Ordered,      &[InProduction, Produced, Failed]),
        (InProduction, &[Produced, Failed]),
        (Produced,     &[Unassigned]),
        (Unassigned,   &[Assigned, Locked]),
        (Assigned,     &[Assigned, Unassigned, Expired, Locked]),
        (Expired,      &[Unassigned]),
        (Aborted,      &[]),
        (Failed,       &[]),
        (Locked,       &[]),
    ],
);

/// The graph of a card of this kind and route.
#[doc = include_str!("../docs/states.md")]
pub fn card_graph(kind: CardKind, route: Route) -> &'static StateGraph<CardState> {
    match (kind, route) {
        (CardKind::Permanent, Route::Local) => &PERMANENT_LOCAL,
        (CardKind::Permanent, Route::External) => &PERMANENT_EXTERNAL,
        (CardKind::Temporary, Route::Local) => &TEMPORARY_LOCAL,
        (CardKind::Temporary, Route::External) => &TEMPORARY_EXTERNAL,
    }
}

/// A card: an employee badge or a temporary card, from the moment it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Card {
    /// Its id.
    pub id: CardId,
    kind: CardKind,
    route: Route,
    state: CardState,
    /// The version it was loaded with; 0 for a card that is not stored yet. A store raises it by one with each commit.
    #[serde(skip)]
    pub version: u64,
    /// The user it belongs to; `None` for a temporary card in stock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<UserId>,
    /// Its number from a number range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<String>,
    /// What was copied from the user when it was ordered, by card attribute.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Which of its attributes it can be found by; shared by all cards that got it from the same mapping.
    #[serde(default, skip_serializing_if = "nothing")]
    pub searchable: Arc<BTreeSet<String>>,
    /// The production type it is ordered as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub production_type: Option<String>,
    /// What is known of its order at the bureau; `None` until an order was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// Why it failed, while it is failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Which kind of withdrawal aborted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawal: Option<Withdrawal>,
    /// The approval request it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// The open job that will decide its next state. While set, processes refuse the card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy: Option<Busy>,
    /// The reservations it holds, such as its user's open order; given back when it no longer needs them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reservations: Vec<String>,
    /// Its local production, while that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub production: Option<Production>,
    /// The last good local production: the card's certificates are those that were made in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub produced: Option<JobId>,
    /// The serial number of its chip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chip_serial: Option<String>,
    /// Until when it is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<DateTime<Utc>>,
    /// When it was created.
    pub created: DateTime<Utc>,
    /// The end of its history.
    pub history: ChainHead,
}

fn nothing(names: &BTreeSet<String>) -> bool {
    names.is_empty()
}

impl Serialize for Card {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Card {
    /// A card in a state that its kind and route do not have is no card.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let card = Self::deserialize(deserializer)?;
        if card.graph().contains(card.state) {
            return Ok(card);
        }
        Err(serde::de::Error::custom(format!("a {} cannot be {}", card.graph().name(), card.state)))
    }
}

impl Card {
    /// A new card in the start state of its graph, with the history entry of its creation.
    pub fn create(id: CardId, kind: CardKind, route: Route, stamp: &Stamp<'_>, why: Why<'_>) -> (Self, HistoryEntry) {
        let state = card_graph(kind, route).start();
        let mut card = Self {
            id,
            kind,
            route,
            state,
            version: 0,
            holder: None,
            number: None,
            attributes: BTreeMap::new(),
            searchable: Arc::default(),
            production_type: None,
            order: None,
            failure: None,
            withdrawal: None,
            request: None,
            busy: None,
            reservations: Vec::new(),
            production: None,
            produced: None,
            chip_serial: None,
            valid_until: None,
            created: stamp.at,
            history: ChainHead::default(),
        };
        let entry = card.history.append(ObjectId::Card(id), None, state.name(), stamp, why);
        (card, entry)
    }

    /// Permanent or temporary; fixed when it is created.
    pub const fn kind(&self) -> CardKind {
        self.kind
    }

    /// Local or external; fixed when it is created.
    pub const fn route(&self) -> Route {
        self.route
    }

    /// Its state.
    pub const fn state(&self) -> CardState {
        self.state
    }

    /// The graph of its kind and route.
    pub fn graph(&self) -> &'static StateGraph<CardState> {
        card_graph(self.kind, self.route)
    }

    /// Moves the card to another state and returns the history entry. The only way in which a card's state changes.
    ///
    /// # Errors
    /// [`TransitionError`] if the graph of its kind and route does not allow it; the card is unchanged then.
    pub fn transition(
        &mut self,
        to: CardState,
        stamp: &Stamp<'_>,
        why: Why<'_>,
    ) -> Result<HistoryEntry, TransitionError> {
        let graph = self.graph();
        if !graph.allows(self.state, to) {
            return Err(TransitionError::new(graph, ObjectId::Card(self.id), self.state, to));
        }
        let from = std::mem::replace(&mut self.state, to);
        Ok(self.history.append(ObjectId::Card(self.id), Some(from.name()), to.name(), stamp, why))
    }

    /// The history entry of a change that leaves the state as it is.
    pub fn note(&mut self, stamp: &Stamp<'_>, why: Why<'_>) -> HistoryEntry {
        let state = self.state.name();
        self.history.append(ObjectId::Card(self.id), Some(state), state, stamp, why)
    }

    /// How the key begins that keeps a user's place for an active card.
    pub(crate) const ACTIVE_KEY: &str = "active-card/";

    /// The key that keeps the serial number of a chip for its card. Machines write serial numbers in either case.
    pub(crate) fn chip_key(serial: &str) -> String {
        format!("{}{}", Self::CHIP_KEY, serial.trim().to_ascii_lowercase())
    }

    const CHIP_KEY: &str = "chip/";

    /// The key that keeps what the personalizer calls a card at hand.
    pub(crate) fn handle_key(handle: &str) -> String {
        format!("{}{handle}", Self::HANDLE_KEY)
    }

    const HANDLE_KEY: &str = "handle/";

    /// Whether it counts as its user's active card: a permanent one that is active, or in a production that ends so.
    pub(crate) fn is_or_becomes_active(&self) -> bool {
        let becomes = |production: &Production| production.card_end_state == Active;
        self.kind == CardKind::Permanent && (self.state == Active || self.production.as_ref().is_some_and(becomes))
    }

    /// Whether it still needs a reservation that it holds: its user's place for an active card while it is active or in
    /// production, the serial number of a chip for as long as that is its own, a handle while the card at hand is being made,
    /// anything else while it is an open order.
    pub(crate) fn needs(&self, key: &str) -> bool {
        if key.starts_with(Self::ACTIVE_KEY) {
            self.is_or_becomes_active()
        } else if key.starts_with(Self::CHIP_KEY) {
            self.chip_serial.as_deref().map(Self::chip_key).as_deref() == Some(key)
        } else if key.starts_with(Self::HANDLE_KEY) {
            let handle = self.production.as_ref().and_then(|production| production.handle.as_deref());
            handle.map(Self::handle_key).as_deref() == Some(key)
        } else {
            self.is_open_order()
        }
    }

    /// Whether it counts as its user's open order: a permanent external card that is requested, processing, ordered,
    /// in production or produced.
    pub fn is_open_order(&self) -> bool {
        self.kind == CardKind::Permanent
            && self.route == Route::External
            && Self::OPEN_ORDER_STATES.contains(&self.state)
    }

    /// The states in which a permanent external card is an open order.
    pub const OPEN_ORDER_STATES: [CardState; 5] = [Requested, Processing, Ordered, InProduction, Produced];

    /// The values it can be found by: its number and its searchable attributes, folded for case and accents.
    pub fn search_terms(&self) -> impl Iterator<Item = (&str, String)> {
        let number = self.number.as_deref().map(|number| (Self::NUMBER, number));
        let attributes = self
            .searchable
            .iter()
            .filter_map(|name| self.attributes.get(name).map(|value| (name.as_str(), value.as_str())));
        number.into_iter().chain(attributes).map(|(name, value)| (name, fold(value)))
    }

    /// The name under which a card's number is searched and mapped to card elements.
    pub const NUMBER: &'static str = "number";
}

/// A text folded for search: without case, without accents, and with the few letters that people type otherwise replaced, so
/// that `Ångström` is found by `angs` and `Groß` by `gross`.
///
/// ```
/// assert_eq!(cardwright::fold("Ångström"), "angstrom");
/// assert_eq!(cardwright::fold("ΓΙΏΡΓΟΣ"), cardwright::fold("Γιώργος"));
/// ```
pub fn fold(text: &str) -> String {
    use unicode_normalization::UnicodeNormalization as _;
    use unicode_normalization::char::is_combining_mark;
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let mut folded = String::with_capacity(text.len());
    for c in text.nfkd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase) {
        match c {
            'ς' => folded.push('σ'),
            'ß' => folded.push_str("ss"),
            'æ' => folded.push_str("ae"),
            'œ' => folded.push_str("oe"),
            'ø' => folded.push('o'),
            'ł' => folded.push('l'),
            'đ' | 'ð' => folded.push('d'),
            'ı' => folded.push('i'),
            // Lower case of a few letters brings a mark of its own.
            c if is_combining_mark(c) => {}
            c => folded.push(c),
        }
    }
    folded
}

/// What is known of a card's order at the bureau.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The job that places it.
    pub job: JobId,
    /// The bureau's order id, once it accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<String>,
    /// The bureau's id of this card in the order, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card_id: Option<String>,
    /// The last status text that the bureau gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Status texts that the status map does not know, and those of other orders; they changed nothing.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unknown_statuses: BTreeSet<String>,
    /// The times that the bureau gave.
    #[serde(default)]
    pub times: BureauTimes,
    /// The chip read-outs, all of them, as the bureau gave them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read_outs: Vec<ReadOut>,
    /// Order ids of earlier orders for this card.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<String>,
}

impl Order {
    /// An order that was just decided.
    pub fn decided(job: JobId) -> Self {
        Self {
            job,
            order_id: None,
            card_id: None,
            status: None,
            unknown_statuses: BTreeSet::new(),
            times: BureauTimes::default(),
            read_outs: Vec::new(),
            earlier: Vec::new(),
        }
    }

    /// How many different unknown status texts are kept; further ones are not.
    pub const UNKNOWN_STATUSES_KEPT: usize = 20;
}

/// Times as GO Cards gives them: without a zone.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BureauTimes {
    /// When the card was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub produced: Option<NaiveDateTime>,
    /// When it was delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered: Option<NaiveDateTime>,
    /// When it was activated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activated: Option<NaiveDateTime>,
}

/// One chip read-out that came back with a produced card. Several of one technology may come; all are kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReadOut {
    /// The chip technology, as the bureau names it.
    pub technology: String,
    /// What was read, such as a serial number.
    pub value: String,
}

/// Why a card failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// In which phase.
    pub phase: FailurePhase,
    /// The cause, in the words of the one who refused.
    pub cause: String,
}

/// The phase in which a card failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailurePhase {
    /// The order was refused or given up.
    Ordering,
    /// The bureau could not make it.
    BureauProduction,
    /// It could not be made locally.
    LocalProduction,
}

/// Which kind of withdrawal aborted a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Withdrawal {
    /// The request, by its requester.
    Request,
    /// An approved card, by an operator.
    Approved,
    /// The order, from the queue.
    Order,
}

/// The open job that will decide a card's next state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Busy {
    /// The job.
    pub job: JobId,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Whether the outcome of the job is unknown and a person must settle it.
    #[serde(default)]
    pub in_doubt: bool,
}
