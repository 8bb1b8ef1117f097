use async_trait::async_trait;

use crate::job::Job;

/// Performs a host's own jobs ([`Task::Custom`](crate::Task)).
///
/// # Contract
/// - **`repeatable_means_repeatable`**: if [`repeatable`](Self::repeatable) is true, performing a job twice does no more
///   than once. Otherwise an attempt is stored first, and an attempt without an answer is in doubt until a person settles
///   it.
///
/// # Not required
/// Storing anything: the engine keeps the outcome.
///
/// # Cancellation
/// A dropped call counts as [`CustomOutcome::Unknown`].
///
/// # Errors
/// All outcomes are [`CustomOutcome`].
#[async_trait]
pub trait JobPerformer: Send + Sync + 'static {
    /// Whether doing it twice does no harm.
    fn repeatable(&self) -> bool;

    /// Does it. The attempt's reference, if one is stored, is in [`Job::attempt`].
    async fn perform(&self, job: &Job) -> CustomOutcome;
}

forward!(JobPerformer {
    fn repeatable(&self) -> bool;
    async fn perform(&self, job: &Job) -> CustomOutcome;
});

/// What became of a host's own job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CustomOutcome {
    /// Done; the remark is kept with the job and must hold no secret.
    Done {
        /// What is worth keeping.
        remark: String,
    },
    /// A final no.
    Refused {
        /// Why.
        reason: String,
    },
    /// Not for now, and surely not done: try again later.
    Unavailable {
        /// Why.
        reason: String,
    },
    /// Perhaps done.
    Unknown {
        /// What happened.
        reason: String,
    },
}
