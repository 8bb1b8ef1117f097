//! What goes wrong in a file, and what that means for the caller.

use std::sync::Arc;

use rusqlite::ErrorCode;

use crate::adapters::rows::Unwritable;
use crate::host::RepositoryError;

const READ_ONLY: &str = "the file is read-only; it and its folder must be writable";

/// What went wrong.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error(transparent)]
    Sqlite(Arc<rusqlite::Error>),
    /// The transaction as a whole could not be ended; its outcome is known unless the disk itself failed.
    #[error("committing failed")]
    Commit(#[source] Arc<rusqlite::Error>),
    /// SQLite has rolled back the transaction that this shared with another write.
    #[error("the transaction was rolled back")]
    Lost,
    #[error("{what} cannot be read")]
    Unreadable { what: String, source: Arc<serde_json::Error> },
    #[error("{what} cannot be written as JSON")]
    Unwritable { what: &'static str, source: Arc<serde_json::Error> },
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
    #[error("{READ_ONLY}")]
    ReadOnly,
    #[error("not a cardwright store")]
    Foreign,
    #[error("its schema has version {found}, this release knows up to {known}")]
    NewerSchema { found: i64, known: i64 },
    #[error("it cannot have a write-ahead log (journal mode {0})")]
    NoWriteAheadLog(String),
    #[error("{object} already has a history entry {sequence}")]
    BrokenChain { object: String, sequence: u64 },
    #[error("`{0}` is no cursor of this store")]
    Cursor(String),
    #[error("its thread could not be started")]
    NoThread(#[source] Arc<std::io::Error>),
    /// Only after a panic in a thread of the store.
    #[error("its thread has ended")]
    Stopped,
    #[error("its thread has ended")]
    StoppedMeanwhile,
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(Arc::new(error))
    }
}

impl From<Unwritable> for Problem {
    fn from(Unwritable { what, source }: Unwritable) -> Self {
        Self::Unwritable { what, source: source.into() }
    }
}

impl Problem {
    /// The same, of this file.
    pub(super) fn of(self, file: &Arc<str>) -> Failure {
        Failure { file: Arc::clone(file), problem: self }
    }
}

/// A problem and the name of the file that has it.
#[derive(Debug, thiserror::Error)]
#[error("`{file}`: {problem}")]
pub(super) struct Failure {
    file: Arc<str>,
    problem: Problem,
}

/// What the caller does next.
enum Remedy {
    TryLater,
    ReadBack,
    Repair,
    GiveUp,
}

impl From<Failure> for RepositoryError {
    fn from(Failure { file, problem }: Failure) -> Self {
        let reason = |what: &dyn std::fmt::Display| format!("`{file}`: {what}");
        let (remedy, reason) = match &problem {
            Problem::Sqlite(error) => {
                let (remedy, what) = judge(error);
                (remedy, reason(&what))
            }
            Problem::Commit(error) => match error.sqlite_error_code() {
                Some(ErrorCode::SystemIoFailure) => (Remedy::ReadBack, reason(&problem)),
                _ => {
                    let (remedy, what) = judge(error);
                    (remedy, reason(&what))
                }
            },
            Problem::StoppedMeanwhile => (Remedy::ReadBack, reason(&problem)),
            Problem::Unreadable { .. } | Problem::OutOfRange(_) => (Remedy::Repair, reason(&problem)),
            Problem::NoThread(_) | Problem::Lost => (Remedy::TryLater, reason(&problem)),
            Problem::Unwritable { .. }
            | Problem::ReadOnly
            | Problem::Foreign
            | Problem::NewerSchema { .. }
            | Problem::NoWriteAheadLog(_)
            | Problem::BrokenChain { .. }
            | Problem::Cursor(_)
            | Problem::Stopped => (Remedy::GiveUp, reason(&problem)),
        };
        let source: Option<Box<dyn std::error::Error + Send + Sync>> = match problem {
            Problem::Sqlite(error) | Problem::Commit(error) => Some(Box::new(error)),
            Problem::Unreadable { source, .. } | Problem::Unwritable { source, .. } => Some(Box::new(source)),
            Problem::NoThread(source) => Some(Box::new(source)),
            _ => None,
        };
        match remedy {
            Remedy::TryLater => Self::Unavailable { reason, source },
            Remedy::ReadBack => Self::OutcomeUnknown { reason, source },
            Remedy::Repair => Self::Corrupt { reason, source },
            Remedy::GiveUp => Self::Rejected { reason, source },
        }
    }
}

fn judge(error: &rusqlite::Error) -> (Remedy, &'static str) {
    use rusqlite::Error;
    match error {
        Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::InvalidColumnType(..)
        | Error::Utf8Error(..) => return (Remedy::Repair, "a column holds what it should not"),
        _ => {}
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
            (Remedy::TryLater, "locked by another process; try again when that is done")
        }
        Some(ErrorCode::DiskFull) => (Remedy::TryLater, "the disk is full; make room and try again"),
        Some(ErrorCode::CannotOpen) => {
            (Remedy::TryLater, "the file cannot be opened; its folder must be there, and both must be writable")
        }
        Some(ErrorCode::OutOfMemory) => (Remedy::TryLater, "out of memory"),
        Some(ErrorCode::SchemaChanged) => (Remedy::TryLater, "the schema changed meanwhile"),
        Some(ErrorCode::OperationInterrupted | ErrorCode::OperationAborted) => (Remedy::TryLater, "interrupted"),
        Some(ErrorCode::SystemIoFailure)
            if error.sqlite_error().is_some_and(|e| e.extended_code == rusqlite::ffi::SQLITE_IOERR_CORRUPTFS) =>
        {
            (Remedy::Repair, "the file system is damaged")
        }
        Some(ErrorCode::SystemIoFailure) => {
            (Remedy::TryLater, "the disk cannot be read or written; look at the disk and try again")
        }
        Some(ErrorCode::NotADatabase) => (Remedy::Repair, "the file is not a database"),
        Some(ErrorCode::DatabaseCorrupt) => (Remedy::Repair, "the file is corrupt"),
        Some(ErrorCode::ReadOnly) => (Remedy::GiveUp, READ_ONLY),
        Some(ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
            (Remedy::GiveUp, "access to the file is denied")
        }
        Some(ErrorCode::TooBig) => (Remedy::GiveUp, "a value is too large"),
        _ => (Remedy::GiveUp, "the statement was refused"),
    }
}
