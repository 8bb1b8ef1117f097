use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::TextPrefix;
use crate::id::UserId;
use crate::user::User;

/// Reads users from the host's directory.
///
/// # Contract
/// Each clause has a check of the same name in [`conformance::user_repository`](crate::conformance::user_repository).
/// - **`known_users_come_back`**: [`users`](Self::users) gives every user that exists, whole and once, in any order, however
///   many ids it is given; unknown ids are left out, and nobody else is given.
/// - **`pages_keep_the_limit`**: a page of [`search`](Self::search) has at most `limit` users, which is at least 1.
/// - **`search_ends`**: following the cursors from `None` comes to a page without one.
/// - **`search_sees_everybody`**: a user that matches throughout a walk is seen at least once, and as [`users`](Self::users)
///   gives it, whoever joins and leaves meanwhile. The engine copes with seeing one twice.
/// - **`search_filters`**: every user of a page matches, as by [`UserFilter::matches`]. What the directory cannot search by is
///   [`DirectoryError::Unsupported`], never passed over.
/// - **`walks_do_not_meet`**: several walks at once, through one handle or several, see what each would see alone.
/// - **`cursor_goes_on_or_expires`**: a cursor goes on after its page, as often as it is used, through any handle, however
///   late; or it is [`DirectoryError::CursorExpired`]. A text that is no cursor, which may come from anybody, is expired
///   too, or some place in the walk.
/// - **`photo_belongs_to_its_user`**: [`photo`](Self::photo) gives the bytes of this user's photo, as often as it is asked
///   for, or `None` if the user has none or is not known.
/// - **`reading_changes_nothing`**: the directory stays as it is, whoever is looked for: asking for a user makes none.
/// - **`away_is_not_empty`**: while the directory cannot be reached, every call is [`DirectoryError::Unavailable`]: nobody
///   is unknown for that, no page the last, no photo missing.
///
/// # Not required
/// Writing; an order; full pages (one may be empty and not the last); snapshots over pages; cursors that outlive their
/// handle or the hour; searching by every attribute; news at once: a directory may be read through a cache.
///
/// # Cancellation
/// Only reads: a dropped call has no effect.
///
/// # Errors
/// | situation | variant |
/// |---|---|
/// | the directory cannot be reached | [`DirectoryError::Unavailable`] |
/// | the cursor is too old, another's, or none | [`DirectoryError::CursorExpired`] |
/// | it cannot search by that attribute | [`DirectoryError::Unsupported`] |
///
/// # Implementing
/// A [`DirectoryFactory`](crate::conformance::user_repository::DirectoryFactory) says how yours is opened and whom it knows;
/// [`check_all`](crate::conformance::user_repository::check_all) checks it.
#[async_trait]
pub trait UserRepository: Send + Sync + 'static {
    /// The users with these ids.
    async fn users(&self, ids: &[UserId]) -> Result<Vec<User>, DirectoryError>;

    /// Up to `limit` users that match: the first for no cursor, else those after the page that gave it.
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
