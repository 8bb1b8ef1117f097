//! Users of the host's directory, as far as the office must know them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::UserId;
use crate::state_graph::{State, StateGraph};

/// The state of a user. Users belong to the host: the office only asks whether one is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserState {
    /// Just created.
    Registered,
    /// Waits for approval.
    Requested,
    /// Withdrawn.
    Aborted,
    /// Approved, not yet active.
    Approved,
    /// Refused.
    Rejected,
    /// May have cards.
    Active,
    /// May not have cards for now.
    Inactive,
    /// Locked for good.
    Locked,
}

impl State for UserState {
    fn name(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Requested => "requested",
            Self::Aborted => "aborted",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Locked => "locked",
        }
    }
}

impl fmt::Display for UserState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

use UserState::{Aborted, Active, Approved, Inactive, Locked, Registered, Rejected, Requested};

#[rustfmt::skip]
static USER: StateGraph<UserState> = StateGraph::new(
    "user",
    Registered,
    &[Aborted, Rejected, Locked],
    &[
        (Registered, &[Requested, Approved, Active]),
        (Requested,  &[Approved, Rejected, Aborted]),
        (Approved,   &[Active, Aborted]),
        (Active,     &[Inactive, Locked]),
        (Inactive,   &[Active, Locked]),
        (Aborted,    &[]),
        (Rejected,   &[]),
        (Locked,     &[]),
    ],
);

/// The graph of a user's life, for hosts that keep their users by it.
pub fn user_graph() -> &'static StateGraph<UserState> {
    &USER
}

/// A user as the host's directory gives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The id in the host's directory.
    pub id: UserId,
    /// The state; only [`UserState::Active`] users get cards.
    pub state: UserState,
    /// What the directory knows of the user, by attribute name, such as `commonName`.
    pub attributes: BTreeMap<String, String>,
}

impl User {
    /// A user with these attributes.
    pub fn new(id: UserId, state: UserState, attributes: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { id, state, attributes: attributes.into_iter().collect() }
    }

    /// Whether the user may have cards.
    pub fn is_active(&self) -> bool {
        self.state == UserState::Active
    }
}
