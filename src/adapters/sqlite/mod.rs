//! A store on an embedded SQLite file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::adapters::codes;
use crate::adapters::rows::Rows;
use crate::approval::ApprovalRequest;
use crate::card::{Card, CardState};
use crate::certificate::Certificate;
use crate::change_set::{ChangeSet, Record, Reservation};
use crate::history::{HistoryEntry, ObjectId};
use crate::host::{
    Backlog, CardQuery, CardRepository, CertificateQuery, ClaimRequest, Clock, CommitError, FeedPage, JobQuery,
    RepositoryError, RequestQuery, SystemClock,
};
use crate::id::{CardId, CertificateId, JobId, RequestId, RunId, UserId};
use crate::job::{Attempt, Job};

mod connection;
mod problem;
mod queries;
mod statements;
mod store;
mod threads;

use problem::Problem;
use threads::{Outcome, Threads};

/// A [`CardRepository`] on one SQLite file, for one machine: nothing to install, nothing to run.
///
/// What a commit has reported as stored survives a crash of the process and of the machine. Several processes may open the
/// same file; it must lie on a local disk. No call blocks its caller: one thread writes, two read. Writes that wait at the
/// same time share one transaction and so one wait for the disk, and still succeed or fail each by itself.
///
/// A clone is another handle to the same store. Dropping the last handle waits until what was begun is finished and the file
/// is closed, its log moved into it; that takes moments.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("cards.db");
/// use cardwright::adapters::sqlite::SqliteRepository;
///
/// let store = SqliteRepository::open(path)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SqliteRepository(Arc<Store>);

struct Store {
    path: PathBuf,
    /// The file as it was named, for errors.
    file: Arc<str>,
    clock: Arc<dyn Clock>,
    threads: Threads,
}

/// How a [`SqliteRepository`] is opened.
#[derive(Clone)]
#[non_exhaustive]
pub struct SqliteOptions {
    /// What leases run by; all processes that open the file should agree on the time.
    pub clock: Arc<dyn Clock>,
    /// How long to wait for another process that is writing before the store is called unavailable. 10 s by default.
    pub busy_timeout: Duration,
    /// How large the file may grow, in bytes; beyond that, the disk is said to be full. `None`: as large as it will. The log beside
    /// the file is not counted.
    pub max_bytes: Option<u64>,
}

impl SqliteOptions {
    /// With this clock, and all else by default.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, busy_timeout: Duration::from_secs(10), max_bytes: None }
    }
}

impl Default for SqliteOptions {
    /// With the clock of the machine.
    fn default() -> Self {
        Self::new(Arc::new(SystemClock))
    }
}

impl fmt::Debug for SqliteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteOptions")
            .field("busy_timeout", &self.busy_timeout)
            .field("max_bytes", &self.max_bytes)
            .finish_non_exhaustive()
    }
}

/// How many threads read.
const READERS: usize = 2;

impl SqliteRepository {
    /// Opens a file, or creates it, with the default options.
    ///
    /// Blocks until the file is open, which takes moments, or minutes when an older file is brought up to date: call it
    /// before the runtime starts, or on a thread that may block.
    ///
    /// # Errors
    /// - [`RepositoryError::Unavailable`]: the file cannot be opened, is locked, or the disk is full.
    /// - [`RepositoryError::Corrupt`]: it is no database, or a damaged one.
    /// - [`RepositoryError::Rejected`]: it may not be written, is a database of another program, or one of a newer release.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, RepositoryError> {
        Self::open_with(path, SqliteOptions::default())
    }

    /// Opens a file, or creates it. Blocks as [`open`](Self::open) does.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self, RepositoryError> {
        let path = path.as_ref().to_owned();
        let file: Arc<str> = path.to_string_lossy().into();
        let start = || -> Result<Threads, Problem> {
            let writer = connection::open_writer(&path, options.busy_timeout, options.max_bytes)?;
            let readers =
                (0..READERS).map(|_| connection::open_reader(&path, options.busy_timeout)).collect::<Result<_, _>>()?;
            Threads::start(writer, readers)
        };
        let threads = start().map_err(|problem| problem.of(&file))?;
        Ok(Self(Arc::new(Store { path, file, clock: options.clock, threads })))
    }

    fn failed(&self, problem: Problem) -> RepositoryError {
        problem.of(&self.0.file).into()
    }

    async fn read<T, F>(&self, work: F) -> Result<T, RepositoryError>
    where
        T: Send + 'static,
        F: FnOnce(&rusqlite::Connection) -> Result<T, Problem> + Send + 'static,
    {
        self.0.threads.read(work).await.map_err(|problem| self.failed(problem))
    }

    async fn write<T, F>(&self, work: F) -> Result<T, RepositoryError>
    where
        T: Send + 'static,
        F: FnOnce(&rusqlite::Connection) -> Result<Outcome<T>, Problem> + Send + 'static,
    {
        self.0.threads.write(work).await.map_err(|problem| self.failed(problem))
    }
}

impl fmt::Debug for SqliteRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SqliteRepository").field(&self.0.path).finish()
    }
}

#[async_trait]
impl CardRepository for SqliteRepository {
    async fn commit(&self, changes: &ChangeSet) -> Result<(), CommitError> {
        let rows = Rows::of(changes, usize::MAX).map_err(|error| self.failed(error.into()))?;
        let conflicts = self
            .write(move |connection| {
                let conflicts = rows.store(connection)?;
                Ok(if conflicts.is_empty() { Outcome::Keep(conflicts) } else { Outcome::Undo(conflicts) })
            })
            .await?;
        if conflicts.is_empty() { Ok(()) } else { Err(CommitError::Conflicts(conflicts)) }
    }

    async fn cards(&self, ids: &[CardId]) -> Result<Vec<Card>, RepositoryError> {
        let ids = queries::id_array(ids.iter().map(|id| id.uuid()));
        self.read(move |connection| queries::cards(connection, ids)).await
    }

    async fn card_page(
        &self,
        query: &CardQuery,
        after: Option<CardId>,
        limit: usize,
    ) -> Result<Vec<Card>, RepositoryError> {
        let query = query.clone();
        self.read(move |connection| queries::card_page(connection, &query, after.map(CardId::uuid), limit)).await
    }

    async fn cards_of(&self, holders: &[UserId], states: &[CardState]) -> Result<Vec<Card>, RepositoryError> {
        let holders = queries::text_array(holders.iter().map(UserId::as_str));
        let states = states.to_vec();
        self.read(move |connection| queries::cards_of(connection, holders, &states)).await
    }

    async fn requests(&self, ids: &[RequestId]) -> Result<Vec<ApprovalRequest>, RepositoryError> {
        let ids = queries::id_array(ids.iter().map(|id| id.uuid()));
        self.read(move |connection| queries::requests(connection, ids)).await
    }

    async fn request_page(
        &self,
        query: &RequestQuery,
        after: Option<RequestId>,
        limit: usize,
    ) -> Result<Vec<ApprovalRequest>, RepositoryError> {
        let query = query.clone();
        self.read(move |connection| queries::request_page(connection, &query, after.map(RequestId::uuid), limit)).await
    }

    async fn certificates(&self, ids: &[CertificateId]) -> Result<Vec<Certificate>, RepositoryError> {
        let ids = queries::id_array(ids.iter().map(|id| id.uuid()));
        self.read(move |connection| queries::certificates(connection, ids)).await
    }

    async fn certificate_page(
        &self,
        query: &CertificateQuery,
        after: Option<CertificateId>,
        limit: usize,
    ) -> Result<Vec<Certificate>, RepositoryError> {
        let query = query.clone();
        let after = after.map(CertificateId::uuid);
        self.read(move |connection| queries::certificate_page(connection, &query, after, limit)).await
    }

    async fn records(&self, keys: &[String]) -> Result<Vec<Record>, RepositoryError> {
        let keys = queries::text_array(keys.iter().map(String::as_str));
        self.read(move |connection| queries::records(connection, keys)).await
    }

    async fn reservations(&self, keys: &[String]) -> Result<Vec<Reservation>, RepositoryError> {
        let keys = queries::text_array(keys.iter().map(String::as_str));
        self.read(move |connection| queries::reservations(connection, keys)).await
    }

    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Job>, RepositoryError> {
        let ids = queries::id_array(ids.iter().map(|id| id.uuid()));
        self.read(move |connection| queries::jobs(connection, ids)).await
    }

    async fn job_page(
        &self,
        query: &JobQuery,
        after: Option<JobId>,
        limit: usize,
    ) -> Result<Vec<Job>, RepositoryError> {
        let query = query.clone();
        self.read(move |connection| queries::job_page(connection, &query, after.map(JobId::uuid), limit)).await
    }

    async fn backlog(&self, due_by: DateTime<Utc>, run: Option<RunId>) -> Result<Vec<Backlog>, RepositoryError> {
        self.read(move |connection| queries::backlog(connection, due_by, run)).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Job>, RepositoryError> {
        let (request, clock) = (request.clone(), Arc::clone(&self.0.clock));
        // The time is read when the claim is made, not when it is asked for.
        self.write(move |connection| queries::claim(connection, &request, clock.now())).await
    }

    async fn renew(&self, jobs: &[(JobId, u64)], lease: Duration) -> Result<Vec<JobId>, RepositoryError> {
        let (jobs, clock) = (jobs.to_vec(), Arc::clone(&self.0.clock));
        self.write(move |connection| queries::renew(connection, jobs, queries::lease_end(clock.now(), lease))).await
    }

    async fn release(&self, jobs: &[(JobId, u64)]) -> Result<(), RepositoryError> {
        let jobs = jobs.to_vec();
        self.write(move |connection| queries::release(connection, &jobs)).await
    }

    async fn record_attempts(
        &self,
        attempts: &[(JobId, u64, Attempt)],
        lease: Duration,
    ) -> Result<Vec<Job>, RepositoryError> {
        let clock = Arc::clone(&self.0.clock);
        let attempts = attempts
            .iter()
            .map(|(id, version, attempt)| queries::AttemptRow::new(id.uuid(), *version, attempt))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|problem| self.failed(problem))?;
        self.write(move |connection| {
            queries::record_attempts(connection, &attempts, queries::lease_end(clock.now(), lease))
        })
        .await
    }

    async fn history(&self, object: &ObjectId, after: u64, limit: usize) -> Result<Vec<HistoryEntry>, RepositoryError> {
        let mut bytes = Vec::with_capacity(17);
        codes::object_bytes(object, &mut bytes);
        self.read(move |connection| queries::history(connection, &bytes, after, limit)).await
    }

    async fn changes_since(&self, cursor: Option<&str>, limit: usize) -> Result<FeedPage, RepositoryError> {
        let after = queries::position(cursor).map_err(|problem| self.failed(problem))?;
        let asked = cursor.map(str::to_owned);
        self.read(move |connection| queries::changes_since(connection, after, asked, limit)).await
    }
}

#[cfg(test)]
mod tests {
    use super::{connection, statements};
    use std::time::Duration;

    /// No statement walks through a whole table; each finds its rows by an index or by the key.
    #[test]
    fn every_statement_has_an_index() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let connection = connection::open_writer(&folder.path().join("plans.db"), Duration::from_secs(1), None)
            .map_err(|problem| problem.to_string())?;
        for (name, text) in statements::ALL {
            let mut plan = connection
                .prepare(&format!("EXPLAIN QUERY PLAN {text}"))
                .map_err(|error| format!("{name}: {error}"))?;
            let parameters = vec![rusqlite::types::Null; plan.parameter_count()];
            let steps = plan
                .query_map(rusqlite::params_from_iter(parameters), |row| row.get::<_, String>(3))?
                .collect::<Result<Vec<_>, _>>()?;
            for step in &steps {
                assert!(!step.contains("SCAN") || step.starts_with("SCAN rarray VIRTUAL TABLE"), "{name}: {steps:?}");
                // Of a few values each, what is found for one is in order, what is found for all is not.
                let of_several = ["OF_HOLDERS", "OF_CARDS", "OF_IDS"].iter().any(|of| name.ends_with(of));
                assert!(!step.contains("TEMP B-TREE") || of_several, "{name} sorts: {steps:?}");
            }
        }
        Ok(())
    }
}
