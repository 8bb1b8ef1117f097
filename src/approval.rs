//! Approval requests: one person asks for a card, another decides.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::actor::Actor;
use crate::card::Route;
use crate::history::{ChainHead, HistoryEntry, ObjectId, Stamp, Why};
use crate::id::{CardId, RequestId, SymbolicName, UserId};
use crate::state_graph::{State, StateGraph, TransitionError};

/// The state of an approval request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestState {
    /// Waits for an approver.
    Open,
    /// An approver said yes.
    Approved,
    /// An approver said no, with a reason.
    Rejected,
    /// The requester withdrew it.
    Aborted,
}

impl State for RequestState {
    fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Aborted => "aborted",
        }
    }
}

impl fmt::Display for RequestState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

use RequestState::{Aborted, Approved, Open, Rejected};

#[rustfmt::skip]
static REQUEST: StateGraph<RequestState> = StateGraph::new(
    "approval request",
    Open,
    &[Approved, Rejected, Aborted],
    &[
        (Open,     &[Approved, Rejected, Aborted]),
        (Approved, &[]),
        (Rejected, &[]),
        (Aborted,  &[]),
    ],
);

/// The graph of every approval request.
pub fn request_graph() -> &'static StateGraph<RequestState> {
    &REQUEST
}

/// A request that waits for approval, or did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRequest {
    /// Its id.
    pub id: RequestId,
    state: RequestState,
    /// The version it was loaded with; 0 if it is not stored yet.
    #[serde(skip)]
    pub version: u64,
    /// The process in which it was asked.
    pub process: SymbolicName,
    /// How the card is to be made.
    pub route: Route,
    /// The choices made when it was asked, by form field.
    pub choices: BTreeMap<String, String>,
    /// The card that was asked for.
    pub card: CardId,
    /// Whom the card is for.
    pub holder: UserId,
    /// Who asked.
    pub requester: Actor,
    /// Why it was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was asked.
    pub created: DateTime<Utc>,
    /// The end of its history.
    pub history: ChainHead,
}

impl ApprovalRequest {
    /// A new open request, with the history entry of its creation. Process, requester and time are those of the stamp.
    #[expect(clippy::too_many_arguments, reason = "each is a fact of its own and none has a default")]
    pub fn open(
        id: RequestId,
        route: Route,
        choices: BTreeMap<String, String>,
        card: CardId,
        holder: UserId,
        requester: Actor,
        stamp: &Stamp<'_>,
        why: Why<'_>,
    ) -> (Self, HistoryEntry) {
        let mut request = Self {
            id,
            state: REQUEST.start(),
            version: 0,
            process: stamp.process.clone(),
            route,
            choices,
            card,
            holder,
            requester,
            reason: None,
            created: stamp.at,
            history: ChainHead::default(),
        };
        let entry = request.history.append(ObjectId::Request(id), None, request.state.name(), stamp, why);
        (request, entry)
    }

    /// Its state.
    pub const fn state(&self) -> RequestState {
        self.state
    }

    /// Moves it to another state; the only way in which its state changes.
    ///
    /// # Errors
    /// [`TransitionError`] if [`request_graph`] does not allow it.
    pub fn transition(
        &mut self,
        to: RequestState,
        stamp: &Stamp<'_>,
        why: Why<'_>,
    ) -> Result<HistoryEntry, TransitionError> {
        let object = ObjectId::Request(self.id);
        if !REQUEST.allows(self.state, to) {
            return Err(TransitionError::new(&REQUEST, object, self.state, to));
        }
        let from = std::mem::replace(&mut self.state, to);
        Ok(self.history.append(object, Some(from.name()), to.name(), stamp, why))
    }

    /// The history entry of a change that leaves the state as it is, such as a postponement.
    pub fn note(&mut self, stamp: &Stamp<'_>, why: Why<'_>) -> HistoryEntry {
        let state = self.state.name();
        self.history.append(ObjectId::Request(self.id), Some(state), state, stamp, why)
    }

    /// Whether this actor is the one who asked: the same person, or, where one of them is no person, the same login.
    pub fn was_asked_by(&self, actor: &Actor) -> bool {
        match (&self.requester.person, &actor.person) {
            (Some(asked), Some(acts)) => asked == acts,
            _ => self.requester.id == actor.id,
        }
    }
}
