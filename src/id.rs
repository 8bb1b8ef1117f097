//! Identifiers: of cards, certificates, requests, jobs and runs, of the host's users, and symbolic names.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// The id with this value.
            pub const fn new(value: Uuid) -> Self {
                Self(value)
            }

            /// The value, for stores that have a UUID type.
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            /// The id that always comes out of the same run, item and purpose (UUID version 5), so that a run
            /// that is done again names the same things.
            pub fn derive(run: RunId, item: &str, purpose: &str) -> Self {
                Self(derive_uuid(run, item, purpose))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::parse_str(text)
                    .map(Self)
                    .map_err(|_| InvalidId::new(stringify!($name), text, "a UUID"))
            }
        }
    };
}

uuid_id! {
    /// Names one card.
    CardId
}
uuid_id! {
    /// Names one certificate.
    CertificateId
}
uuid_id! {
    /// Names one approval request.
    RequestId
}
uuid_id! {
    /// Names one job: something the office owes the outside world.
    JobId
}
uuid_id! {
    /// Names one run of a process. Starting a run again under the same id finishes it; it never doubles it.
    RunId
}
uuid_id! {
    /// Names one message to a person. A message that is sent again keeps its id.
    MessageId
}

fn derive_uuid(run: RunId, item: &str, purpose: &str) -> Uuid {
    let mut name = String::with_capacity(purpose.len() + 1 + item.len());
    name.push_str(purpose);
    name.push('\u{1f}');
    name.push_str(item);
    Uuid::new_v5(&run.0, name.as_bytes())
}

macro_rules! into_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.as_str().to_owned()
            }
        }
    };
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id, if the text is 1 to 256 characters and none of them is a control character.
            ///
            /// # Errors
            /// [`InvalidId`] for an empty or too long text, or one with control characters (NUL among them).
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidId> {
                let text = text.as_ref();
                let long = text.chars().count();
                if long == 0 || long > 256 || text.chars().any(char::is_control) {
                    return Err(InvalidId::new(
                        stringify!($name),
                        text,
                        "1 to 256 characters without control characters",
                    ));
                }
                Ok(Self(text.into()))
            }

            /// The text of the id.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        into_text!($name);

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), self.0)
            }
        }
    };
}

text_id! {
    /// Names one user in the host's directory: whatever the host uses, such as an employee id or a distinguished name.
    UserId
}
text_id! {
    /// Names who acts: the login of a person, or the name of a background service.
    ActorId
}

text_id! {
    /// Names a role of the host's own, see [`Role::Custom`](crate::Role::Custom).
    RoleName
}

/// The exact name of a process, an option, a script or a job performer, such as `CardsBoProcIssueMultiple`.
///
/// Symbolic names are data: they are compared as written, and never derived, corrected or re-cased.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct SymbolicName(Arc<str>);

impl SymbolicName {
    /// The name, if it is 1 to 100 ASCII letters and digits, a letter first.
    ///
    /// # Errors
    /// [`InvalidId`] for anything else.
    pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidId> {
        let name = name.as_ref();
        let well_formed = (1..=100).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric());
        if well_formed {
            Ok(Self(name.into()))
        } else {
            Err(InvalidId::new("symbolic name", name, "1 to 100 ASCII letters and digits, a letter first"))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SymbolicName {
    type Error = InvalidId;

    fn try_from(name: String) -> Result<Self, InvalidId> {
        Self::new(name)
    }
}

into_text!(SymbolicName);

impl FromStr for SymbolicName {
    type Err = InvalidId;

    fn from_str(name: &str) -> Result<Self, InvalidId> {
        Self::new(name)
    }
}

impl Borrow<str> for SymbolicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for SymbolicName {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for SymbolicName {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl fmt::Display for SymbolicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for SymbolicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

/// A text that is no id of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {found:?} is not valid: allowed is {allowed}")]
pub struct InvalidId {
    what: &'static str,
    found: String,
    allowed: &'static str,
}

impl InvalidId {
    fn new(what: &'static str, found: &str, allowed: &'static str) -> Self {
        Self { what, found: found.chars().take(100).collect(), allowed }
    }
}
