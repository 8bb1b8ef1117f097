//! A store in a PostgreSQL database.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::approval::ApprovalRequest;
use crate::card::{Card, CardState};
use crate::certificate::Certificate;
use crate::change_set::{ChangeSet, Record, Reservation};
use crate::history::{HistoryEntry, ObjectId};
use crate::host::{
    Backlog, CardQuery, CardRepository, CertificateQuery, ClaimRequest, CommitError, FeedPage, JobQuery,
    RepositoryError, RequestQuery,
};
use crate::id::{CardId, CertificateId, JobId, RequestId, RunId, UserId};
use crate::job::{Attempt, Job};

mod claims;
mod commit;
mod connection;
mod decode;
mod pages;
mod pool;
mod problem;
mod queries;
mod statements;

use pool::Connections;
use problem::Problem;

/// A [`CardRepository`] in a schema of a PostgreSQL database (14 or newer, in UTF-8), for as many instances as the host runs.
///
/// It works on the host's own [`PgPool`], so time-outs, the size of the pool and TLS are the host's to choose: TLS is a feature of
/// `sqlx` (`tls-rustls-ring`, `tls-native-tls` and others), which the host enables in its own dependency on `sqlx` 0.9. Calls must
/// be awaited within a tokio runtime, and the pool made within one, as `sqlx` wants it. A pooler between must keep sessions, or know prepared statements.
///
/// As long as the pool may open more connections, or has some at rest, a call leaves its own for the next one: the pool gets it back once
/// nobody has taken it for 20 to 40 ms, or after a second. What the pool does when it gives a connection or gets one back (`before_acquire`, `after_release`,
/// a sign of life) is done for such a chain of calls, not for each.
///
/// Nothing is created silently: call [`migrate`](Self::migrate) where the host is installed or starts.
///
/// Leases run by the clock of the database, whatever the clocks of the instances say. A commit is one transaction of three statements,
/// however much it stores; it takes locks in one order, so that overlapping commits wait for one another. What
/// PostgreSQL nevertheless undoes (deadlock, serialization failure) is tried again a few times. A job that
/// cannot be read stays claimed until the lease ends; those that were claimed beside it are released, and found by the next claim.
///
/// The feed of changes shows what is older than every transaction that still runs in the whole server: one that stays open for hours
/// holds it up that long. After the database was restored into another server, [`migrate`](Self::migrate) must be called once.
///
/// A failover that loses commits (to a standby that is replicated asynchronously, or to a backup) makes the numbers of the lost transactions
/// come again, so a cursor of the feed from before may skip what is stored after it. Whoever follows the feed must then go back to a
/// cursor that is surely older than what was lost, or to the beginning (`None`): some entries come once more, and of those
/// that were read before, the lost ones never were.
///
/// # Examples
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use cardwright::adapters::postgres::{PostgresRepository, SchemaName};
/// use sqlx::postgres::PgPoolOptions;
///
/// let url = "postgres://office@db.example.org/office";
/// # let url = std::env::var("CARDWRIGHT_POSTGRES").map_err(|_| "no PostgreSQL: run scripts/test")?;
/// # let url = url.as_str();
/// // Connected when it is first used: what is wrong with it is then told in the store's words.
/// let pool = PgPoolOptions::new().max_connections(8).connect_lazy(url)?;
/// # let beside = pool.clone();
/// let store = PostgresRepository::new(pool, SchemaName::new("cards")?);
/// # let schema = format!("example_{}", uuid::Uuid::new_v4().simple());
/// # let store = PostgresRepository::new(beside.clone(), SchemaName::new(&schema)?);
/// store.migrate().await?;
/// # sqlx::query(sqlx::AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE"))).execute(&beside).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PostgresRepository {
    connections: Arc<Connections>,
    schema: SchemaName,
    /// Whether the database prefers another level than READ COMMITTED, so that each transaction must name it.
    prefers_another_level: Arc<AtomicBool>,
}

/// The name of a schema in the database.
#[derive(Clone, PartialEq, Eq)]
pub struct SchemaName(Arc<str>);

impl SchemaName {
    /// The name, if it is 1 to 63 lower-case ASCII letters, digits and underscores, no digit first, and not one that PostgreSQL keeps for itself
    /// (`pg_…`, `information_schema`).
    ///
    /// # Errors
    /// [`InvalidSchemaName`] for anything else.
    pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidSchemaName> {
        let name = name.as_ref();
        let well_formed = (1..=63).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            && !name.starts_with(|first: char| first.is_ascii_digit())
            && !name.starts_with("pg_")
            && name != "information_schema";
        if well_formed { Ok(Self(name.into())) } else { Err(InvalidSchemaName(name.chars().take(100).collect())) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SchemaName({:?})", self.0)
    }
}

/// A text that cannot be the name of a store's schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be the name of a schema: allowed are 1 to 63 lower-case letters, digits and underscores, no digit first, \
     and none of PostgreSQL's own names"
)]
pub struct InvalidSchemaName(String);

/// How often something is tried that others were in the way of.
const TRIES: usize = 8;

impl PostgresRepository {
    /// A store in this schema. Nothing is asked of the database yet.
    pub fn new(pool: PgPool, schema: SchemaName) -> Self {
        Self { connections: Connections::of(pool), schema, prefers_another_level: Arc::default() }
    }

    /// Creates the schema and what is in it, or brings it up to what this release writes. Does nothing if it is: call it at every
    /// start, and after the schema was renamed. Several instances may do so at once. It waits for the calls of those of an older release that still run; from then on
    /// all their calls are [`RepositoryError::Rejected`], as are those of a release that is newer than the schema.
    ///
    /// # Errors
    /// - [`RepositoryError::Rejected`]: it is a schema of a newer release, a table of the store is gone or something else has its name, a
    ///   permission is missing, the database is not in UTF-8, or the server is older than 14.
    /// - Others as every call.
    pub async fn migrate(&self) -> Result<(), RepositoryError> {
        self.patiently(|| connection::migrate(&self.connections, self.schema.as_str())).await
    }

    /// A statement for this schema.
    fn sql(&self, text: &str) -> AssertSqlSafe<String> {
        // The name of the schema was checked when it was made.
        AssertSqlSafe(text.replace('@', &format!("\"{}\".", self.schema)))
    }

    fn failed(&self, problem: Problem) -> RepositoryError {
        problem.of(self.schema.as_str())
    }

    /// Tries again what others were in the way of.
    async fn patiently<T, F: Future<Output = Result<T, Problem>>>(
        &self,
        work: impl Fn() -> F,
    ) -> Result<T, RepositoryError> {
        let mut done = work().await;
        for _ in 1..TRIES {
            match &done {
                Err(problem) if problem.is_passing() => done = work().await,
                _ => break,
            }
        }
        match done {
            Ok(value) => Ok(value),
            Err(problem) => Err(self.failed(self.explained(problem).await)),
        }
    }
}

impl fmt::Debug for PostgresRepository {
    /// Without the options of the pool, which hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresRepository").field("schema", &self.schema).finish_non_exhaustive()
    }
}

#[async_trait]
impl CardRepository for PostgresRepository {
    async fn commit(&self, changes: &ChangeSet) -> Result<(), CommitError> {
        if changes.is_empty() {
            return Ok(());
        }
        let conflicts = self.patiently(|| self.try_commit(changes)).await?;
        if conflicts.is_empty() { Ok(()) } else { Err(CommitError::Conflicts(conflicts)) }
    }

    async fn cards(&self, ids: &[CardId]) -> Result<Vec<Card>, RepositoryError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        self.patiently(|| self.of_keys("cards", &ids, decode::card)).await
    }

    async fn card_page(
        &self,
        query: &CardQuery,
        after: Option<CardId>,
        limit: usize,
    ) -> Result<Vec<Card>, RepositoryError> {
        self.patiently(|| self.find_cards(query, after, limit)).await
    }

    async fn cards_of(&self, holders: &[UserId], states: &[CardState]) -> Result<Vec<Card>, RepositoryError> {
        self.patiently(|| self.find_cards_of(holders, states)).await
    }

    async fn requests(&self, ids: &[RequestId]) -> Result<Vec<ApprovalRequest>, RepositoryError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        self.patiently(|| self.of_keys("requests", &ids, decode::request)).await
    }

    async fn request_page(
        &self,
        query: &RequestQuery,
        after: Option<RequestId>,
        limit: usize,
    ) -> Result<Vec<ApprovalRequest>, RepositoryError> {
        self.patiently(|| self.find_requests(query, after, limit)).await
    }

    async fn certificates(&self, ids: &[CertificateId]) -> Result<Vec<Certificate>, RepositoryError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        self.patiently(|| self.of_keys("certificates", &ids, decode::certificate)).await
    }

    async fn certificate_page(
        &self,
        query: &CertificateQuery,
        after: Option<CertificateId>,
        limit: usize,
    ) -> Result<Vec<Certificate>, RepositoryError> {
        self.patiently(|| self.find_certificates(query, after, limit)).await
    }

    async fn records(&self, keys: &[String]) -> Result<Vec<Record>, RepositoryError> {
        self.patiently(|| self.of_keys("records", keys, decode::record)).await
    }

    async fn reservations(&self, keys: &[String]) -> Result<Vec<Reservation>, RepositoryError> {
        self.patiently(|| self.of_keys("reservations", keys, decode::reservation)).await
    }

    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Job>, RepositoryError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        self.patiently(|| self.of_keys("jobs", &ids, decode::job)).await
    }

    async fn job_page(
        &self,
        query: &JobQuery,
        after: Option<JobId>,
        limit: usize,
    ) -> Result<Vec<Job>, RepositoryError> {
        self.patiently(|| self.find_jobs(query, after, limit)).await
    }

    async fn backlog(&self, due_by: DateTime<Utc>, run: Option<RunId>) -> Result<Vec<Backlog>, RepositoryError> {
        self.patiently(|| self.count_jobs(due_by, run)).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Job>, RepositoryError> {
        self.patiently(|| self.try_claim(request)).await
    }

    async fn renew(&self, jobs: &[(JobId, u64)], lease: Duration) -> Result<Vec<JobId>, RepositoryError> {
        self.patiently(|| self.try_renew(jobs, lease)).await
    }

    async fn release(&self, jobs: &[(JobId, u64)]) -> Result<(), RepositoryError> {
        self.patiently(|| self.try_release(jobs)).await
    }

    async fn record_attempts(
        &self,
        attempts: &[(JobId, u64, Attempt)],
        lease: Duration,
    ) -> Result<Vec<Job>, RepositoryError> {
        self.patiently(|| self.try_record(attempts, lease)).await
    }

    async fn history(&self, object: &ObjectId, after: u64, limit: usize) -> Result<Vec<HistoryEntry>, RepositoryError> {
        self.patiently(|| self.find_history(object, after, limit)).await
    }

    async fn changes_since(&self, cursor: Option<&str>, limit: usize) -> Result<FeedPage, RepositoryError> {
        self.patiently(|| self.find_changes(cursor, limit)).await
    }
}

#[cfg(test)]
mod tests {
    use super::pages::{self, Values, Walk};
    use super::{PostgresRepository, SchemaName, connection, statements};
    use crate::card::CardState;
    use crate::host::{CardQuery, TextPrefix};
    use crate::id::UserId;
    use sqlx::postgres::PgPoolOptions;
    use sqlx::{AssertSqlSafe, Executor as _};
    use uuid::Uuid;

    /// All texts of reads.
    fn reads(store: &PostgresRepository) -> Vec<String> {
        let text = |name: &str| TextPrefix::new(name, "a");
        let queries = [
            CardQuery::default(),
            CardQuery { holders: vec![UserId::new("a").expect("an id")], ..CardQuery::default() },
            CardQuery { states: vec![CardState::Active], in_doubt: Some(false), ..CardQuery::default() },
            CardQuery { production_types: vec!["a".to_owned()], ..CardQuery::default() },
            CardQuery { in_doubt: Some(true), states: vec![CardState::Active], ..CardQuery::default() },
            CardQuery { text: vec![text("a"), text("b")], states: vec![CardState::Active], ..CardQuery::default() },
        ];
        let mut texts = Vec::new();
        for query in &queries {
            for after in [None, Some(Uuid::nil())] {
                let fewest: &[_] =
                    if query.text.is_empty() { &[None] } else { &[None, Some((1, true)), Some((1, false))] };
                texts.extend(fewest.iter().map(|fewest| pages::cards(store, query, *fewest, after, 50)));
            }
        }
        texts.push(pages::counts(store, &queries[5].text));
        for (table, column) in
            [("request", "holder"), ("request", "state"), ("certificate", "state"), ("job", "state * 32 + kind")]
        {
            let walk = match column {
                "holder" => Walk::Along(column, Values::Texts(Vec::new())),
                _ => Walk::Along(column, Values::Codes(Vec::new())),
            };
            texts.push(pages::page(store, table, walk, Some(Uuid::nil()), 50, |_| ()));
            texts.push(pages::page(store, table, Walk::Ids, None, 50, |_| ()));
        }
        texts.into_iter().map(super::queries::Text::into_string).collect()
    }

    /// No statement walks through a whole table; each finds its rows by an index, and pages are in its order.
    #[test]
    fn every_statement_has_an_index() {
        let url = std::env::var("CARDWRIGHT_POSTGRES").unwrap_or_else(|_| {
            panic!("no PostgreSQL: run `scripts/test`, or `scripts/postgres cargo test`, or set CARDWRIGHT_POSTGRES to a URL")
        });
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
            let pool = PgPoolOptions::new().max_connections(1).connect(&url).await.expect("the server");
            let store = PostgresRepository::new(pool.clone(), SchemaName::new("plans").expect("a name"));
            store.migrate().await.expect("it is brought up to date");
            let mut connection = pool.acquire().await.expect("a connection");
            let begin = format!("{}; {}", statements::BEGIN, connection::entering("plans"));
            connection.execute(AssertSqlSafe(begin)).await.expect("it begins");
            let writes = statements::ALL.iter().map(|(_, text)| store.sql(text).0);
            for text in writes.chain(reads(&store)) {
                let count = (1..99).take_while(|number| text.contains(&format!("${number}"))).count();
                connection.execute(AssertSqlSafe(format!("PREPARE one AS {text}"))).await.expect("it is prepared");
                let values = vec!["NULL"; count].join(", ");
                let explain = AssertSqlSafe(format!("EXPLAIN EXECUTE one({values})"));
                let plan: Vec<String> = sqlx::query_scalar(explain).fetch_all(&mut *connection).await.expect("a plan");
                connection.execute("DEALLOCATE one").await.expect("it is forgotten");
                let plan = plan.join("\n");
                assert!(!plan.contains("Seq Scan"), "{text}\n{plan}");
                if text.contains("DISTINCT") {
                    // A page of it ends where it is full.
                    assert!(
                        plan.contains("Unique") && !plan.contains("Sort") && !plan.contains("Aggregate"),
                        "{text}\n{plan}"
                    );
                }
                for (place, line) in
                    plan.lines().enumerate().filter(|(_, line)| line.contains("Index ") && line.contains("Scan"))
                {
                    let bound = plan.lines().nth(place + 1).is_some_and(|next| next.contains("Index Cond"));
                    assert!(bound, "{text}\nis read as a whole: {line}\n{plan}");
                }
            }
        });
    }
}
