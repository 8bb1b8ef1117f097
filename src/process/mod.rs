//! Processes: the named use cases, as pure plans.
//!
//! A [`Process`] is told what is known of one item and answers with a [`Plan`], what to store and what to do then, or with a
//! [`Refusal`]. It does no I/O, reads no clock and draws nothing at random; time, ids and options come in through the
//! [`PlanContext`]. Hosts add processes of their own as a [`ProcessPackage`].
//!
#![doc = include_str!("../../docs/processes.md")]

mod cards;
mod definition;
mod external_production;
mod form;
mod house_rules;
mod refusal;
mod registry;
mod temporary_cards;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use definition::{Component, ItemKind, ProcessDefinition, Slot, StartPoint};
pub use form::{Answer, AnswerError, Field, FieldKind, Filter, Form, Selection};
pub use house_rules::{HouseRules, SelfApproval};
pub use refusal::{Refusal, RefusalCode};
pub use registry::{OptionScript, ProcessPackage, ProcessRegistry, RegistryError};

pub(crate) use cards::production::{self, ProductionAnswer};
pub(crate) use external_production::order_job::{self, PlaceAnswer};
pub(crate) use external_production::{known_name, require_active};
pub(crate) use form::check_answers;
pub(crate) use house_rules::Equipment;
pub(crate) use registry::standard_roles;

use crate::actor::Actor;
use crate::approval::ApprovalRequest;
use crate::card::{Card, CardKind};
use crate::certificate::Certificate;
use crate::change_set::ChangeSet;
use crate::history::{ObjectId, Stamp};
use crate::id::{CardId, CertificateId, JobId, RequestId, RunId, UserId};
use crate::job::Job;
use crate::options::{OptionKey, OptionType, ResolvedOptions};
use crate::state_graph::State as _;
use crate::user::User;

/// One named use case. Pure: the same item and context give the same plan.
pub trait Process: Send + Sync + 'static {
    /// What it is, as data.
    fn definition(&self) -> &ProcessDefinition;

    /// The fields that its form asks for, besides the selection. Options are those in force, without an item: one that is a
    /// function of the item has no value here.
    fn fields(&self, options: &ResolvedOptions, rules: &HouseRules) -> Vec<Field>;

    /// What must be loaded for each item, besides the item itself.
    fn needs(&self) -> Needs;

    /// What to do with one item. Kind, state, slot, permission and busy cards have been checked.
    ///
    /// # Errors
    /// A [`Refusal`] of this item; the others go on.
    fn plan(&self, item: Item, context: &PlanContext<'_>) -> Result<Plan, Refusal>;
}

/// What an item of a run is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemId {
    /// A user of the host's directory.
    User(UserId),
    /// A card.
    Card(CardId),
    /// An approval request.
    Request(RequestId),
    /// A job.
    Job(JobId),
    /// A certificate.
    Certificate(CertificateId),
    /// The n-th of the new objects that the run makes, from 1.
    New(u32),
}

impl ItemId {
    /// The kind of the item.
    pub const fn kind(&self) -> ItemKind {
        match self {
            Self::User(_) => ItemKind::User,
            Self::Card(_) => ItemKind::Card,
            Self::Request(_) => ItemKind::Request,
            Self::Job(_) => ItemKind::Job,
            Self::Certificate(_) => ItemKind::Certificate,
            Self::New(_) => ItemKind::New,
        }
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "user {id}"),
            Self::Card(id) => write!(f, "card {id}"),
            Self::Request(id) => write!(f, "request {id}"),
            Self::Job(id) => write!(f, "job {id}"),
            Self::Certificate(id) => write!(f, "certificate {id}"),
            Self::New(place) => write!(f, "new {place}"),
        }
    }
}

/// What a process needs of each item, loaded in bulk for a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Needs {
    /// The user: the item itself, the holder of the card or request, or the one named in the form field `user`.
    pub user: bool,
    /// The job that the card's order or its busy mark names.
    pub job: bool,
    /// The other open orders of that user.
    pub open_orders: bool,
    /// The other active cards of that user.
    pub active_cards: bool,
    /// The certificates of the card.
    pub certificates: bool,
}

impl Needs {
    /// Nothing besides the item itself.
    pub const fn nothing() -> Self {
        Self { user: false, job: false, open_orders: false, active_cards: false, certificates: false }
    }

    /// Also the user.
    #[must_use]
    pub const fn user(self) -> Self {
        Self { user: true, ..self }
    }

    /// Also the job.
    #[must_use]
    pub const fn job(self) -> Self {
        Self { job: true, ..self }
    }

    /// Also the open orders of the user.
    #[must_use]
    pub const fn open_orders(self) -> Self {
        Self { open_orders: true, ..self }
    }

    /// Also the active cards of the user.
    #[must_use]
    pub const fn active_cards(self) -> Self {
        Self { active_cards: true, ..self }
    }

    /// Also the certificates of the card.
    #[must_use]
    pub const fn certificates(self) -> Self {
        Self { certificates: true, ..self }
    }
}

/// One item with what was loaded for it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Item {
    /// What it is.
    pub id: ItemId,
    /// The user, if wanted and there.
    pub user: Option<User>,
    /// The card: the item itself, or the one that the request, job or certificate is about.
    pub card: Option<Card>,
    /// The request: the item itself.
    pub request: Option<ApprovalRequest>,
    /// The job, if wanted and there.
    pub job: Option<Job>,
    /// The user's open orders other than the item's own card.
    pub open_orders: Vec<CardId>,
    /// The user's active cards other than the item's own card.
    pub active_cards: Vec<CardId>,
    /// The certificate: the item itself.
    pub certificate: Option<Certificate>,
    /// The certificates of the card, if wanted.
    pub certificates: Vec<Certificate>,
}

impl Item {
    /// An item of which nothing is known yet.
    pub const fn new(id: ItemId) -> Self {
        Self {
            id,
            user: None,
            card: None,
            request: None,
            job: None,
            open_orders: Vec::new(),
            active_cards: Vec::new(),
            certificate: None,
            certificates: Vec::new(),
        }
    }

    /// The user, or a refusal that names the item.
    ///
    /// # Errors
    /// [`RefusalCode::NotFound`].
    pub fn take_user(&mut self) -> Result<User, Refusal> {
        self.user.take().ok_or_else(|| Refusal::not_found(&self.id, "user"))
    }

    /// The card, or a refusal that names the item.
    ///
    /// # Errors
    /// [`RefusalCode::NotFound`].
    pub fn take_card(&mut self) -> Result<Card, Refusal> {
        self.card.take().ok_or_else(|| Refusal::not_found(&self.id, "card"))
    }

    /// The request, or a refusal that names the item.
    ///
    /// # Errors
    /// [`RefusalCode::NotFound`].
    pub fn take_request(&mut self) -> Result<ApprovalRequest, Refusal> {
        self.request.take().ok_or_else(|| Refusal::not_found(&self.id, "request"))
    }

    /// The certificate, or a refusal that names the item.
    ///
    /// # Errors
    /// [`RefusalCode::NotFound`].
    pub fn take_certificate(&mut self) -> Result<Certificate, Refusal> {
        self.certificate.take().ok_or_else(|| Refusal::not_found(&self.id, "certificate"))
    }

    /// The job, or a refusal that names the item.
    ///
    /// # Errors
    /// [`RefusalCode::NotFound`].
    pub fn take_job(&mut self) -> Result<Job, Refusal> {
        self.job.take().ok_or_else(|| Refusal::not_found(&self.id, "job"))
    }
}

/// What a plan may know besides its item.
#[derive(Clone, Copy, Debug)]
pub struct PlanContext<'a> {
    /// Who, when, in which process and run.
    pub stamp: Stamp<'a>,
    /// The actor, with person and roles.
    pub actor: &'a Actor,
    /// The run.
    pub run: RunId,
    /// The options for this item.
    pub options: &'a ResolvedOptions,
    /// What was answered in the form, complete and checked.
    pub answers: &'a BTreeMap<String, String>,
    /// What the host has set.
    pub rules: &'a HouseRules,
}

impl PlanContext<'_> {
    /// The value of an option for this item.
    ///
    /// # Errors
    /// [`RefusalCode::OptionFailed`] if a script function gave something else for this item.
    pub fn option<T: OptionType>(&self, key: OptionKey<T>) -> Result<T, Refusal> {
        self.options.get(key).map_err(|problem| Refusal::new(RefusalCode::OptionFailed, problem.to_string()))
    }

    /// What was answered in a field; empty if nothing was.
    pub fn answer(&self, field: &str) -> &str {
        self.answers.get(field).map_or("", String::as_str)
    }
}

/// What to do with one item: what to store, and what to do once it is stored.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// What to store. Empty for a plan that only performs jobs.
    pub changes: ChangeSet,
    /// The outcome if all goes well; jobs performed now may change it.
    pub outcome: Outcome,
    /// Whether the new card in the changes is to get a number, and from the range of which kind.
    pub number: Option<CardKind>,
    /// The jobs to perform in the same run, once the changes are stored.
    pub perform: Vec<JobId>,
}

impl Plan {
    /// Store this; the outcome is the card's new state.
    pub fn card(mut changes: ChangeSet, card: Card) -> Self {
        let outcome = Outcome::card(&card);
        changes.put_card(card);
        Self { changes, outcome, number: None, perform: Vec::new() }
    }

    /// Store this, with this outcome.
    pub const fn store(changes: ChangeSet, outcome: Outcome) -> Self {
        Self { changes, outcome, number: None, perform: Vec::new() }
    }

    /// Nothing to do: a success without effect.
    pub fn unchanged(state: impl Into<Cow<'static, str>>) -> Self {
        Self::store(ChangeSet::new(), Outcome::Unchanged { state: state.into() })
    }

    /// The same, performing a job as soon as all is stored.
    #[must_use]
    pub fn then_perform(mut self, job: JobId) -> Self {
        self.perform.push(job);
        self
    }

    /// The same, drawing a number for the new card.
    #[must_use]
    pub fn with_number(self, kind: CardKind) -> Self {
        Self { number: Some(kind), ..self }
    }
}

/// What became of one item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done; the object is now in this state.
    Done {
        /// The object that was made or changed.
        object: Option<ObjectId>,
        /// Its state.
        state: Cow<'static, str>,
    },
    /// Nothing new: a success.
    Unchanged {
        /// The state it is in.
        state: Cow<'static, str>,
    },
    /// An earlier start of the same run has done it.
    DoneEarlier {
        /// The object that was made or changed; none if it was a job.
        object: Option<ObjectId>,
    },
    /// Tried, and whether it was done is unknown: a person must settle it.
    InDoubt {
        /// The job that is in doubt.
        job: JobId,
        /// The card it is about, if it is about one.
        card: Option<CardId>,
        /// What happened.
        reason: String,
    },
    /// Refused, with the reason; nothing was changed.
    Refused(Refusal),
}

impl Outcome {
    /// Done, with the card's state.
    pub fn card(card: &Card) -> Self {
        Self::Done { object: Some(ObjectId::Card(card.id)), state: Cow::Borrowed(card.state().name()) }
    }
}
