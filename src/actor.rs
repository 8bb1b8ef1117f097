//! Who acts: a person or a system, with roles.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{ActorId, InvalidId, RoleName, UserId};

/// A role that an actor may have. What a role may do is the host's [`AccessPolicy`](crate::host::AccessPolicy).
///
/// The display is for people: `card production administrator`. As data, a role is written with underscores, `card_production_administrator`, and one
/// of the host's own as `{"custom": "porter"}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Role {
    /// The clerk who runs processes.
    Operator,
    /// Decides approval requests.
    Approver,
    /// Runs batch orders, repeats failed orders and settles doubts.
    CardProductionAdministrator,
    /// Edits option scripts and enables processes.
    Administrator,
    /// A user acting for herself.
    SelfService,
    /// The background service; no person.
    BatchSync,
    /// A role of the host's own.
    Custom(RoleName),
}

impl Role {
    /// A role of the host's own, by its name: 1 to 256 characters, none of them a control character.
    ///
    /// # Errors
    /// [`InvalidId`] for any other name.
    pub fn custom(name: impl AsRef<str>) -> Result<Self, InvalidId> {
        RoleName::new(name).map(Self::Custom)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Operator => "operator",
            Self::Approver => "approver",
            Self::CardProductionAdministrator => "card production administrator",
            Self::Administrator => "administrator",
            Self::SelfService => "self-service user",
            Self::BatchSync => "batch sync",
            Self::Custom(name) => name.as_str(),
        })
    }
}

/// Who runs a process: the login, the person behind it, and the roles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The login, or the name of the service.
    pub id: ActorId,
    /// The person behind the login; `None` for a system. People are compared by this, never by login.
    pub person: Option<UserId>,
    /// The roles the actor has now.
    pub roles: BTreeSet<Role>,
}

impl Actor {
    /// A person, by login, directory id and roles.
    pub fn person(id: ActorId, person: UserId, roles: impl IntoIterator<Item = Role>) -> Self {
        Self { id, person: Some(person), roles: roles.into_iter().collect() }
    }

    /// A background service.
    pub fn system(id: ActorId, roles: impl IntoIterator<Item = Role>) -> Self {
        Self { id, person: None, roles: roles.into_iter().collect() }
    }

    /// Whether the actor has the role.
    pub fn has(&self, role: &Role) -> bool {
        self.roles.contains(role)
    }
}
