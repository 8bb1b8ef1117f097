use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::TextPrefix;
use crate::id::UserId;
use crate::user::User;

/// Reads users from the host's directory.
///
/// # Contract
/// - **`known_users_come_back`**: [`users`](Self::users) gives every user that exists, once, in any order; unknown ids are
///   left out.
/// - **`search_ends`**: following the cursors of [`search`](Self::search) from `None` comes to a page without one. A user
///   that matches throughout is seen at least once; the engine copes with seeing one twice.
/// - **`photo_is_by_reference`**: [`photo`](Self::photo) gives the photo's bytes, or `None` if the user has none.
///
/// # Not required
/// Writing; snapshots over pages; cursors that never expire (say [`DirectoryError::CursorExpired`]).
///
/// # Cancellation
/// Only reads: a dropped call has no effect.
///
/// # Errors
/// | situation | variant |
/// |---|---|
/// | the directory cannot be reached | [`DirectoryError::Unavailable`] |
/// | the cursor is too old | [`DirectoryError::CursorExpired`] |
/// | it cannot search by that attribute | [`DirectoryError::Unsupported`] |
#[async_trait]
pub trait UserRepository: Send + Sync + 'static {
    /// The users with these ids.
    async fn users(&self, ids: &[UserId]) -> Result<Vec<User>, DirectoryError>;

    /// Up to about `limit` users that match, from where the cursor points.
    async fn search(&self, filter: &UserFilter, cursor: Option<&str>, limit: usize)
    -> Result<UserPage, DirectoryError>;

    /// The user's photo.
    async fn photo(&self, user: &UserId) -> Result<Option<Vec<u8>>, DirectoryError>;
}

forward!(UserRepository {
    async fn users(&self, ids: &[UserId]) -> Result<Vec<User>, DirectoryError>;
    async fn search(&self, filter: &UserFilter, cursor: Option<&str>, limit: usize) -> Result<UserPage, DirectoryError>;
    async fn photo(&self, user: &UserId) -> Result<Option<Vec<u8>>, DirectoryError>;
});

/// Which users. `None` and an empty list match every user.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UserFilter {
    /// Only active users, or only those that are not.
    pub active: Option<bool>,
    /// With attributes that begin like this, all of them, without regard to case and accents.
    pub text: Vec<TextPrefix>,
}

impl UserFilter {
    /// Whether a user matches: the meaning of a filter, for adapters that filter in memory.
    pub fn matches(&self, user: &User) -> bool {
        self.active.is_none_or(|active| active == user.is_active())
            && self.text.iter().all(|text| {
                user.attributes
                    .get(&text.name)
                    .is_some_and(|value| crate::card::fold(value).starts_with(&crate::card::fold(&text.prefix)))
            })
    }
}

/// A page of users.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct UserPage {
    /// The users.
    pub users: Vec<User>,
    /// Where the next page begins, opaque; `None` after the last.
    pub next: Option<String>,
}

/// Why the directory did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// Cannot be reached: try again later.
    #[error("the user directory is unavailable: {reason}")]
    Unavailable {
        /// What is in the way.
        reason: String,
    },
    /// The cursor is too old: begin the search again.
    #[error("the search of the user directory has expired")]
    CursorExpired,
    /// It cannot do this: ask for something else.
    #[error("the user directory cannot do this: {reason}")]
    Unsupported {
        /// What it cannot do.
        reason: String,
    },
}

impl DirectoryError {
    /// Whether trying the same again later may work.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}
