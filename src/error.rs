//! What a caller of the engine sees when something does not work.

use crate::host::{DirectoryError, RepositoryError};
use crate::id::{ActorId, RunId, SymbolicName};
use crate::options::{OptionProblem, OptionProblems};
use crate::process::{AnswerError, RegistryError, Slot};

/// Why the engine did not do what was asked. Items that are refused one by one are not errors: see
/// [`Outcome::Refused`](crate::process::Outcome::Refused).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No process has this name: correct the name.
    #[error(transparent)]
    Process(#[from] RegistryError),
    /// The process is in no slot: an administrator adds it to one, see [`Engine::enable`](crate::Engine::enable).
    #[error("{process} is switched off; it can be added to these slots: {slots}")]
    Disabled {
        /// The process.
        process: SymbolicName,
        /// The slots that it fits in.
        slots: String,
    },
    /// The access policy says no: ask somebody else.
    #[error("{actor} may not run {process}: {reason}")]
    NotPermitted {
        /// Who asked.
        actor: ActorId,
        /// For what.
        process: SymbolicName,
        /// The policy's reason.
        reason: String,
    },
    /// The answer does not fit the form: correct the answer.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The run cannot go on as it was opened: open the process again.
    #[error("run {run} cannot go on: {why}; open the process again")]
    RunOutdated {
        /// The run.
        run: RunId,
        /// Why.
        why: &'static str,
    },
    /// The run id was used for something else: take another.
    #[error("run {run} was begun {}", begun_as(what, found, given))]
    RunTaken {
        /// The run.
        run: RunId,
        /// What differs: process, actor or answer.
        what: &'static str,
        /// What it was begun with; of an answer only the digest is kept.
        found: String,
        /// What was given now; of an answer its digest.
        given: String,
    },
    /// The process does not fit in this slot: take one of those it fits in.
    #[error("{process} does not fit in slot {slot}; it fits in {allowed}")]
    Slot {
        /// The process.
        process: SymbolicName,
        /// The slot that was asked for.
        slot: Slot,
        /// The slots that it fits in.
        allowed: String,
    },
    /// An option script has problems, all of them listed; the last good version stays in force.
    #[error(transparent)]
    Options(#[from] OptionProblems),
    /// The process reads options of a script whose version cannot be used: it does not load in this release, or contradicts another script. An
    /// administrator puts another version in force, see [`Engine::set_options`](crate::Engine::set_options) and
    /// [`Engine::restore_options`](crate::Engine::restore_options); processes that read none of its options go on. A run that was begun with that
    /// version cannot be continued in this release: open another.
    #[error(
        "{process} reads options of `{script}`, whose version {version} cannot be used: put another version in force"
    )]
    BrokenScript {
        /// The process.
        process: SymbolicName,
        /// The script.
        script: String,
        /// The version that cannot be used, by its hash.
        version: String,
        /// What is wrong with it.
        source: OptionProblems,
    },
    /// One option cannot be read.
    #[error(transparent)]
    Option(#[from] OptionProblem),
    /// No such script, or no such version of it: see what [`Engine::option_versions`](crate::Engine::option_versions) gives.
    #[error("option script `{script}` has no version {version}; it has {known}")]
    NoSuchVersion {
        /// The script.
        script: String,
        /// The version that was asked for.
        version: String,
        /// What there is.
        known: String,
    },
    /// Others changed the same record again and again: try again.
    #[error("{what} was changed by others meanwhile, again and again")]
    ChangedMeanwhile {
        /// The record.
        what: String,
    },
    /// The store failed: see [`is_transient`](Self::is_transient). What was reported as done is stored.
    #[error("{during} failed: {source}")]
    Store {
        /// What was being done.
        during: &'static str,
        /// The cause.
        source: RepositoryError,
    },
    /// The user directory failed.
    #[error("{during} failed: {source}")]
    Directory {
        /// What was being done.
        during: &'static str,
        /// The cause.
        source: DirectoryError,
    },
    /// A record of the office cannot be read: it was written by a newer release or by hand.
    #[error("record `{key}` cannot be read: {source}")]
    Record {
        /// The record.
        key: String,
        /// The cause.
        source: serde_json::Error,
    },
}

impl Error {
    /// Whether trying the same again later may work.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Store { source, .. } => source.is_transient(),
            Self::Directory { source, .. } => source.is_transient(),
            Self::ChangedMeanwhile { .. } => true,
            _ => false,
        }
    }
}

/// In words what a run was begun with. The digests of two answers tell a person nothing.
fn begun_as(what: &str, found: &str, given: &str) -> String {
    match what {
        "answer" => "with another answer".to_owned(),
        what => format!("as something else: its {what} was {found}, not {given}"),
    }
}

/// Adds what was being done to the error of a host trait.
pub(crate) trait During<T> {
    fn during(self, what: &'static str) -> Result<T, Error>;
}

impl<T> During<T> for Result<T, RepositoryError> {
    fn during(self, during: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Store { during, source })
    }
}

impl<T> During<T> for Result<T, DirectoryError> {
    fn during(self, during: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Directory { during, source })
    }
}

/// An error with all its causes, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let cause_words = next.to_string();
        // Some say in their own words what their cause says.
        if !words.contains(&cause_words) {
            words.push_str(": ");
            words.push_str(&cause_words);
        }
        cause = next.source();
    }
    words
}
