//! What goes wrong in the database, and what that means for the caller.

use std::error::Error as StdError;

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::adapters::rows::Unwritable;
use crate::host::RepositoryError;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// The connection was lost after what ends a transaction was sent, and before its answer came.
    #[error("the connection was lost while committing")]
    Commit(#[source] sqlx::Error),
    /// Others were in the way each time.
    #[error("others changed the same again and again")]
    Busy,
    #[error("{what} cannot be read")]
    Unreadable { what: String, source: Box<dyn StdError + Send + Sync> },
    #[error(transparent)]
    Unwritable(#[from] Unwritable),
    #[error("its version is {found}, this release knows up to {known}")]
    NewerSchema { found: i32, known: i32 },
    #[error("its version is {found}, this release wants {known}: call `migrate()` first")]
    OlderSchema { found: i32, known: i32 },
    #[error("its functions are gone, or are those of another name that it had: call `migrate()` first ({})", said(.0))]
    OtherFunctions(#[source] sqlx::Error),
    #[error("a part of it is gone that `migrate()` does not bring back; restore it from a backup ({})", said(.0))]
    Damaged(#[source] sqlx::Error),
    #[error("the server has not what a store needs; it must be PostgreSQL 14 or newer ({})", said(.0))]
    OtherServer(#[source] sqlx::Error),
    #[error("the database stores texts as {0}; it must be created with ENCODING 'UTF8'")]
    Encoding(String),
    #[error("{object} already has a history entry {sequence}")]
    BrokenChain { object: String, sequence: i64 },
    #[error("its calls must be awaited within a tokio runtime")]
    NoRuntime,
    #[error("`{0}` is no cursor of this store")]
    Cursor(String),
}

impl Problem {
    /// Whether the same may well work at once: nothing was stored, and who was in the way has gone on.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Sql(error) => matches!(code(error).as_deref(), Some("40001" | "40P01")) || is_of_another_level(error),
            Self::Busy => true,
            _ => false,
        }
    }

    /// The same of what ends a transaction: without an answer, nobody knows whether it was stored.
    pub(super) fn of_commit(self) -> Self {
        match self {
            // What cannot be written was not sent.
            Self::Sql(error) if !is_answer(&error) && !matches!(error, sqlx::Error::Encode(_)) => Self::Commit(error),
            other => other,
        }
    }

    /// The same, of this schema.
    pub(super) fn of(self, schema: &str) -> RepositoryError {
        let (remedy, what) = match &self {
            Self::Sql(error) => judge(error),
            Self::Commit(_) => (Remedy::Ask, self.to_string()),
            Self::Busy => (Remedy::TryLater, self.to_string()),
            Self::Unreadable { .. } => (Remedy::Repair, self.to_string()),
            _ => (Remedy::GiveUp, self.to_string()),
        };
        let reason = format!("schema `{schema}`: {what}");
        let source: Option<Box<dyn StdError + Send + Sync>> = match self {
            Self::Sql(error)
            | Self::Commit(error)
            | Self::OtherFunctions(error)
            | Self::Damaged(error)
            | Self::OtherServer(error) => Some(Box::new(error)),
            Self::Unreadable { source, .. } => Some(source),
            Self::Unwritable(error) => Some(Box::new(error)),
            _ => None,
        };
        match remedy {
            Remedy::TryLater => RepositoryError::Unavailable { reason, source },
            Remedy::Ask => RepositoryError::OutcomeUnknown { reason, source },
            Remedy::Repair => RepositoryError::Corrupt { reason, source },
            Remedy::GiveUp => RepositoryError::Rejected { reason, source },
        }
    }
}

/// What the caller does next.
enum Remedy {
    TryLater,
    Ask,
    Repair,
    GiveUp,
}

/// The code by which PostgreSQL names an error.
pub(super) fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned())
}

/// Whether `enter` in `functions.sql` has refused the level that the database prefers.
pub(super) fn is_of_another_level(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("CW003")
}

/// Whether a schema of another version or name would be the reason: `enter` in `functions.sql` has refused it, or there is no such
/// function.
pub(super) fn is_of_functions(error: &sqlx::Error) -> bool {
    matches!(code(error).as_deref(), Some("CW001" | "42883" | "3F000")) && !is_of_tables(error)
}

/// Whether there is no such table or column, or none of that type, for which there is no such operator.
pub(super) fn is_of_tables(error: &sqlx::Error) -> bool {
    match code(error).as_deref() {
        Some("42883") => of_server(error).is_some_and(|error| error.routine() == Some("op_error")),
        code => matches!(code, Some("42P01" | "42703")),
    }
}

/// What the server says, without the types of a function's arguments.
fn said(error: &sqlx::Error) -> String {
    let message = error.as_database_error().map_or("", |error| error.message());
    match (message.split_once('('), message.rsplit_once(')')) {
        (Some((before, _)), Some((_, after))) if message.starts_with("function ") => format!("{before}{after}"),
        _ => message.to_owned(),
    }
}

/// Whether an answer to what ends a transaction says for sure that nothing was stored. Of what ends the connection, nobody knows when
/// it came; but a statement is never cancelled (57014) any more once the server has begun to commit it.
pub(super) fn is_answer(error: &sqlx::Error) -> bool {
    let ends = |code: &str| ["08", "57", "58", "XX"].contains(&code.get(..2).unwrap_or_default());
    code(error).is_some_and(|code| code == "57014" || !ends(&code))
}

/// Whether the server ends the connection with it.
pub(super) fn is_the_last(error: &sqlx::Error) -> bool {
    of_server(error).is_some_and(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

fn of_server(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

fn judge(error: &sqlx::Error) -> (Remedy, String) {
    use Remedy::{GiveUp, Repair, TryLater};
    use sqlx::Error;
    let (remedy, what) = match error {
        Error::Database(error) => return judge_code(error.code().unwrap_or_default().as_ref(), error.message()),
        Error::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {
            (TryLater, "the server cannot be found; look at the host or socket of the URL, and whether it runs")
        }
        Error::Io(_) => (TryLater, "the connection to the server was lost, or there is none"),
        Error::PoolTimedOut => (
            TryLater,
            "no connection came free in time: all of the pool are in use, or the server cannot be reached or is starting",
        ),
        Error::PoolClosed => (GiveUp, "the pool was closed by the host"),
        Error::Configuration(_) => (GiveUp, "the pool's connection options are wrong; look at the URL"),
        Error::Tls(_) => (GiveUp, "there is no TLS as wanted; look at `sslmode` in the URL and at sqlx's TLS features"),
        Error::Protocol(_) => (TryLater, "the server said what was not expected; the connection is given up"),
        Error::WorkerCrashed => (TryLater, "the connection was given up"),
        Error::ColumnDecode { .. } | Error::Decode(_) | Error::ColumnNotFound(_) | Error::TypeNotFound { .. } => {
            (Repair, "a column holds what it should not")
        }
        _ => (GiveUp, "the statement was refused"),
    };
    (remedy, what.to_owned())
}

fn judge_code(code: &str, message: &str) -> (Remedy, String) {
    use Remedy::{GiveUp, Repair, TryLater};
    let (remedy, what) = match code {
        "40001" | "40P01" => (TryLater, "others changed the same at the same time"),
        "57014" => (TryLater, "the statement was cancelled, or took longer than `statement_timeout`"),
        "55P03" => (TryLater, "a lock was not given in time"),
        "53300" => (TryLater, "the server has too many connections"),
        "53100" => (TryLater, "the disk of the server is full; make room and try again"),
        "25P03" | "25P04" | "57P05" => (TryLater, "the server ended the connection for taking too long"),
        "28P01" | "28000" => (GiveUp, "the server refuses user or password; correct them in the URL"),
        "3D000" => (GiveUp, "there is no such database; correct the URL or create it"),
        "42501" => (GiveUp, "the database user lacks a permission; GRANT it, or let the owner of the schema do it"),
        "42P01" | "42703" | "42883" | "3F000" => {
            (GiveUp, "there is no store in it, or an old one: call `migrate()` first")
        }
        "42P07" | "42710" | "42723" => (
            GiveUp,
            "what a store is made of is there already, though its table `cardwright_migration` does not say so: take another \
             schema, or restore that table from a backup",
        ),
        "25006" => (
            TryLater,
            "the server or the session is read-only; if no other server is taking over just now, connect to the primary",
        ),
        "54000" => (GiveUp, "a key is longer than an index takes (about 2,700 bytes)"),
        "26000" => {
            (GiveUp, "a prepared statement is gone; a pooler between must keep sessions or know prepared statements")
        }
        "XX001" | "XX002" => (Repair, "the database is damaged"),
        _ => match code.get(..2) {
            Some("08" | "53" | "57" | "58") => (TryLater, "the server is stopping, starting or out of resources"),
            _ => (GiveUp, "the statement was refused"),
        },
    };
    // What the server says names users, tables and values, never a password.
    (remedy, if message.is_empty() { what.to_owned() } else { format!("{what} ({message})") })
}
