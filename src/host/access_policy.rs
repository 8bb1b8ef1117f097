use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::actor::{Actor, Role};
use crate::id::SymbolicName;
use crate::process::{ItemId, ProcessDefinition};

/// Decides who may start which process, and on what.
///
/// # Contract
/// - **`one_decision_per_object`**: [`may`](Self::may) gives as many decisions as objects, in their order. Any other number
///   counts as no to all.
/// - **`asked_at_open_and_per_chunk`**: [`may_start`](Self::may_start) is asked when a process is opened,
///   [`may`](Self::may) once for each chunk.
///
/// # Not required
/// Caching: what it says is used at once and forgotten.
///
/// # Cancellation
/// Only reads: a dropped call has no effect.
///
/// # Errors
/// None: a policy that cannot tell says no and why.
#[async_trait]
pub trait AccessPolicy: Send + Sync + 'static {
    /// Whether the actor may start the process at all.
    async fn may_start(&self, actor: &Actor, process: &SymbolicName) -> Decision;

    /// Whether the actor may do it to each of these objects.
    async fn may(&self, actor: &Actor, process: &SymbolicName, objects: &[ItemId]) -> Vec<Decision>;
}

forward!(AccessPolicy {
    async fn may_start(&self, actor: &Actor, process: &SymbolicName) -> Decision;
    async fn may(&self, actor: &Actor, process: &SymbolicName, objects: &[ItemId]) -> Vec<Decision>;
});

/// A yes, or a no with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Allowed.
    Yes,
    /// Not allowed.
    No {
        /// Why.
        reason: String,
    },
}

/// Allows everybody everything. For trials, tests and hosts that check before they call.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

#[async_trait]
impl AccessPolicy for AllowAll {
    async fn may_start(&self, _: &Actor, _: &SymbolicName) -> Decision {
        Decision::Yes
    }

    async fn may(&self, _: &Actor, _: &SymbolicName, objects: &[ItemId]) -> Vec<Decision> {
        vec![Decision::Yes; objects.len()]
    }
}

/// Decides by role alone, from a table that the host may load and change. A process that is not in it is for nobody.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RolePolicy {
    table: BTreeMap<SymbolicName, BTreeSet<Role>>,
}

impl RolePolicy {
    /// An empty table: nobody may do anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// The table for the processes that come with the library, each with the roles of its definition (see [`crate::process`]):
    /// operators request, order, issue, activate, lock and abort; card production administrators also repeat and settle doubts;
    /// approvers approve; operators and self-service users withdraw requests of their own; the background service syncs;
    /// administrators set options and enable processes.
    pub fn standard() -> Self {
        crate::process::standard_roles().into_iter().fold(Self::new(), |policy, (process, roles)| Self {
            table: {
                let mut table = policy.table;
                table.entry(process).or_default().extend(roles);
                table
            },
        })
    }

    /// The same with one more role for a process.
    #[must_use]
    pub fn allow(mut self, process: SymbolicName, role: Role) -> Self {
        self.table.entry(process).or_default().insert(role);
        self
    }

    /// The same with the roles that a definition says usually run the process: what a host calls for each process of its own.
    #[must_use]
    pub fn allow_roles_of(mut self, definition: &ProcessDefinition) -> Self {
        self.table.entry(definition.name.clone()).or_default().extend(definition.roles.iter().cloned());
        self
    }

    fn decide(&self, actor: &Actor, process: &SymbolicName) -> Decision {
        match self.table.get(process) {
            Some(roles) if roles.iter().any(|role| actor.has(role)) => Decision::Yes,
            Some(roles) => {
                let names: Vec<_> = roles.iter().map(ToString::to_string).collect();
                Decision::No { reason: format!("{process} is for {}", names.join(", ")) }
            }
            None => Decision::No { reason: format!("{process} is for no role") },
        }
    }
}

#[async_trait]
impl AccessPolicy for RolePolicy {
    async fn may_start(&self, actor: &Actor, process: &SymbolicName) -> Decision {
        self.decide(actor, process)
    }

    async fn may(&self, actor: &Actor, process: &SymbolicName, objects: &[ItemId]) -> Vec<Decision> {
        vec![self.decide(actor, process); objects.len()]
    }
}
