use std::fmt;

use serde::{Deserialize, Serialize};

use crate::actor::Role;
use crate::card::{CardKind, CardState, Route};
use crate::id::SymbolicName;
use crate::job::JobKind;
use crate::state_graph::State as _;

/// What a process is, as data that a host can show, store and compare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProcessDefinition {
    /// Its symbolic name: exact, and data.
    pub name: SymbolicName,
    /// The name that people see.
    pub title: String,
    /// The package it belongs to.
    pub package: String,
    /// For whom it is.
    pub component: Component,
    /// Where it is offered.
    pub start_point: StartPoint,
    /// What it does, in a sentence or two.
    pub description: String,
    /// The kinds of items it takes.
    pub items: Vec<ItemKind>,
    /// Only cards of this kind.
    pub card_kind: Option<CardKind>,
    /// Only cards of this route.
    pub route: Option<Route>,
    /// Only cards in these states; empty: any state.
    pub required_states: Vec<CardState>,
    /// What may come out, in words.
    pub outcomes: Vec<String>,
    /// The options it reads.
    pub options: Vec<SymbolicName>,
    /// The jobs it performs, for a background process.
    pub jobs: Vec<JobKind>,
    /// The slots it fits in.
    pub slots: Vec<Slot>,
    /// Whether it is in all its slots from the start. Otherwise it is refused until an administrator adds it to one.
    pub on: bool,
    /// Whether it also takes a card whose next state an open job decides.
    pub takes_busy_cards: bool,
    /// The roles that usually run it. By itself this allows nothing: the access policy decides.
    /// [`RolePolicy::standard`](crate::host::RolePolicy::standard) allows what the definitions of this library say; what those of a host's own
    /// processes say is added with [`RolePolicy::allow_roles_of`](crate::host::RolePolicy::allow_roles_of).
    pub roles: Vec<Role>,
}

impl ProcessDefinition {
    /// A process that takes items of one kind, fits in no slot yet, and is on. Set the rest with the methods below; at least one slot is needed.
    pub fn new(name: SymbolicName, title: impl Into<String>, package: impl Into<String>, items: ItemKind) -> Self {
        Self {
            name,
            title: title.into(),
            package: package.into(),
            component: Component::Operator,
            start_point: StartPoint::BatchOrders,
            description: String::new(),
            items: vec![items],
            card_kind: None,
            route: None,
            required_states: Vec::new(),
            outcomes: Vec::new(),
            options: Vec::new(),
            jobs: Vec::new(),
            slots: Vec::new(),
            on: true,
            takes_busy_cards: false,
            roles: vec![Role::Operator, Role::CardProductionAdministrator],
        }
    }

    /// Whether the background service runs it by itself.
    pub fn is_background(&self) -> bool {
        self.component == Component::Background && self.start_point == StartPoint::Schedule
    }

    /// For whom it is and where it is offered.
    #[must_use]
    pub fn offered(self, component: Component, start_point: StartPoint) -> Self {
        Self { component, start_point, ..self }
    }

    /// What it does.
    #[must_use]
    pub fn described(self, description: impl Into<String>) -> Self {
        Self { description: description.into(), ..self }
    }

    /// Also takes items of this kind.
    #[must_use]
    pub fn also_takes(mut self, items: ItemKind) -> Self {
        self.items.push(items);
        self
    }

    /// Only cards of this kind and route.
    #[must_use]
    pub fn for_cards(self, kind: Option<CardKind>, route: Option<Route>) -> Self {
        Self { card_kind: kind, route, ..self }
    }

    /// Only cards in these states.
    #[must_use]
    pub fn requires(self, states: impl IntoIterator<Item = CardState>) -> Self {
        Self { required_states: states.into_iter().collect(), ..self }
    }

    /// What may come out.
    #[must_use]
    pub fn gives(self, outcomes: impl IntoIterator<Item = &'static str>) -> Self {
        Self { outcomes: outcomes.into_iter().map(str::to_owned).collect(), ..self }
    }

    /// The options it reads.
    #[must_use]
    pub fn reads(self, options: impl IntoIterator<Item = SymbolicName>) -> Self {
        Self { options: options.into_iter().collect(), ..self }
    }

    /// The slots it fits in.
    #[must_use]
    pub fn fits(self, slots: impl IntoIterator<Item = Slot>) -> Self {
        Self { slots: slots.into_iter().collect(), ..self }
    }

    /// Off until an administrator adds it to a slot.
    #[must_use]
    pub fn off(self) -> Self {
        Self { on: false, ..self }
    }

    /// Takes cards whose next state an open job decides.
    #[must_use]
    pub fn even_busy(self) -> Self {
        Self { takes_busy_cards: true, ..self }
    }

    /// Performs jobs of these kinds in the background.
    #[must_use]
    pub fn performs(self, jobs: impl IntoIterator<Item = JobKind>) -> Self {
        Self { jobs: jobs.into_iter().collect(), ..self }
    }

    /// The roles that usually run it.
    #[must_use]
    pub fn run_by(self, roles: impl IntoIterator<Item = Role>) -> Self {
        Self { roles: roles.into_iter().collect(), ..self }
    }
}

/// For whom a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    /// For operators.
    Operator,
    /// For users acting for themselves.
    SelfService,
    /// For no person.
    Background,
}

/// Where a process is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartPoint {
    /// The batch orders page.
    BatchOrders,
    /// The quick search, without an object.
    QuickSearch,
    /// The profile of a card.
    CardProfile,
    /// The list of approval requests.
    Requests,
    /// A schedule of the background service.
    Schedule,
}

/// What kind of item a process takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemKind {
    /// Users.
    User,
    /// Cards.
    Card,
    /// Approval requests.
    Request,
    /// Jobs.
    Job,
    /// Certificates.
    Certificate,
    /// Nothing that exists: it makes new objects, as many as the form says.
    New,
}

impl fmt::Display for ItemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::User => "users",
            Self::Card => "cards",
            Self::Request => "requests",
            Self::Job => "jobs",
            Self::Certificate => "certificates",
            Self::New => "new objects",
        })
    }
}

/// A place in which a process can be offered. A process that is in no slot is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// Start without an object.
    New,
    /// The batch page.
    Batch,
    /// An additional command on a card in this state.
    Card(CardState),
    /// A command on an open approval request.
    Request,
    /// The background service.
    Background,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("new"),
            Self::Batch => f.write_str("batch"),
            Self::Card(state) => write!(f, "cards {}", state.name()),
            Self::Request => f.write_str("open requests"),
            Self::Background => f.write_str("background"),
        }
    }
}
