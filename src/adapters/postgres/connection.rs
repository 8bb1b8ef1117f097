//! Transactions on connections of the host's pool, and what the schema is brought up to.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};
use tokio::runtime::RuntimeFlavor;

use super::PostgresRepository;
use super::pool::{Connections, Held};
use super::problem::{Problem, is_answer, is_of_another_level, is_of_functions, is_of_tables, is_the_last};
use super::queries::Statement;
use super::statements::{BEGIN, LASTING, MIGRATING, OLD_FUNCTIONS};

/// What brings a schema from one version to the next; its version is how many of these it has had.
const MIGRATIONS: &[&str] = &[include_str!("schema.sql")];

/// What ends each migration.
const FUNCTIONS: &str = include_str!("functions.sql");

/// The version of the schema that this release writes.
const KNOWN: i32 = MIGRATIONS.len() as i32;

/// A connection that others get only once it is known to be idle. A call that is dropped halfway, or fails at the connection, closes it
/// instead: nothing that it had begun can come to those who get the connection next.
pub(super) struct Session {
    /// There until it is dropped.
    held: Option<Held>,
    idle: bool,
    connections: Arc<Connections>,
}

impl Session {
    /// A transaction, on a schema that may be of any version.
    pub(super) async fn begin(connections: &Arc<Connections>) -> Result<Self, Problem> {
        let mut session = Self::open(connections).await?;
        session.run(BEGIN.into_sql_str()).await?;
        Ok(session)
    }

    async fn open(connections: &Arc<Connections>) -> Result<Self, Problem> {
        let held = Some(connections.get().await?);
        Ok(Self { held, idle: false, connections: Arc::clone(connections) })
    }

    /// What statements run on.
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        self.held.as_mut().expect("it is there until it is dropped").connection()
    }

    /// Ends what was begun and keeps it.
    pub(super) async fn commit(mut self) -> Result<(), Problem> {
        match self.run("COMMIT".into_sql_str()).await {
            Ok(()) => self.idle = true,
            Err(problem) => {
                let problem = problem.of_commit();
                if !matches!(problem, Problem::Commit(_)) {
                    self.roll_back().await;
                }
                return Err(problem);
            }
        }
        Ok(())
    }

    /// Ends what was begun: keeps it if all went well.
    pub(super) async fn end<T>(self, result: Result<T, Problem>) -> Result<T, Problem> {
        match result {
            Ok(value) => self.commit().await.map(|()| value),
            Err(problem) => {
                self.roll_back().await;
                Err(problem)
            }
        }
    }

    /// Ends what was begun and keeps nothing of it. Where that cannot be said to the server, the connection is closed, which says the same.
    pub(super) async fn roll_back(mut self) {
        self.idle = self.run("ROLLBACK".into_sql_str()).await.is_ok();
    }

    /// Ends what only read. Nothing could be lost, so nobody waits for it, if the runtime has threads of its own: else it would stay
    /// open for as long as the host does something else.
    pub(super) async fn leave(self) {
        let runtime = self.held.as_ref().map(|held| held.runtime.clone());
        let end = async { drop(self.commit().await) };
        match runtime {
            Some(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => drop(runtime.spawn(end)),
            _ => end.await,
        }
    }

    async fn run(&mut self, text: SqlStr) -> Result<(), Problem> {
        sqlx::raw_sql(text).execute(self.connection()).await?;
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        match self.held.take() {
            Some(held) if self.idle => self.connections.leave(held),
            Some(held) => held.close(),
            None => {}
        }
    }
}

impl PostgresRepository {
    /// A connection of the pool with a transaction, on a schema that has the version of this release and keeps it till the end.
    pub(super) async fn begin(&self) -> Result<Session, Problem> {
        let mut session = Session::open(&self.connections).await?;
        let text = format!("{BEGIN}; {}", entering(self.schema.as_str()));
        match session.run(AssertSqlSafe(text).into_sql_str()).await {
            Ok(()) => Ok(session),
            Err(problem) => {
                session.roll_back().await;
                Err(problem)
            }
        }
    }

    /// What a statement gives that only reads and is a transaction by itself.
    pub(super) async fn read(&self, query: Statement<'_>) -> Result<Vec<PgRow>, Problem> {
        self.call(query, |problem| problem).await
    }

    /// The same of one that writes: if its answer is lost, nobody knows whether it has.
    pub(super) async fn write(&self, query: Statement<'_>) -> Result<Vec<PgRow>, Problem> {
        self.call(query, Problem::of_commit).await
    }

    async fn call(&self, query: Statement<'_>, lost: fn(Problem) -> Problem) -> Result<Vec<PgRow>, Problem> {
        if self.prefers_another_level.load(Ordering::Relaxed) {
            let mut session = Session::begin(&self.connections).await?;
            let rows = query.fetch_all(session.connection()).await;
            return session.end(rows.map_err(Problem::from)).await;
        }
        let mut session = Session::open(&self.connections).await?;
        let rows = query.fetch_all(session.connection()).await;
        session.idle = rows.as_ref().err().is_none_or(|error| is_answer(error) && !is_the_last(error));
        if rows.as_ref().err().is_some_and(is_of_another_level) {
            self.prefers_another_level.store(true, Ordering::Relaxed);
        }
        rows.map_err(|error| lost(error.into()))
    }

    /// The same problem, or that it comes from a schema of another version or name, or of which something is gone.
    pub(super) async fn explained(&self, problem: Problem) -> Problem {
        let Problem::Sql(error) = problem else { return problem };
        if !is_of_functions(&error) && !is_of_tables(&error) {
            return error.into();
        }
        let Ok(mut session) = Session::begin(&self.connections).await else { return error.into() };
        let found = version(&mut session, self.schema.as_str()).await;
        session.roll_back().await;
        match found {
            Ok(Some(found)) if found < KNOWN => Problem::OlderSchema { found, known: KNOWN },
            Ok(Some(_)) if is_of_functions(&error) => Problem::OtherFunctions(error),
            Ok(Some(_)) => Problem::Damaged(error),
            Err(newer @ Problem::NewerSchema { .. }) => newer,
            _ => error.into(),
        }
    }
}

/// Brings a schema up to what this release writes.
pub(super) async fn migrate(connections: &Arc<Connections>, schema: &str) -> Result<(), Problem> {
    // Who needs to change nothing needs no permission to, and waits for no other who migrates. What it has read of the version would
    // hold up those: that must end before it waits for them.
    let mut session = Session::begin(connections).await?;
    let is_done = is_done(&mut session, schema).await;
    if session.end(is_done).await.map_err(of_migration)? {
        return Ok(());
    }
    let mut session = Session::begin(connections).await?;
    let migrated = migrate_in(&mut session, schema).await;
    session.end(migrated).await.map_err(of_migration)
}

/// The same of a migration: a table that it does not find, nobody brings back, and functions that it does not find are the server's.
fn of_migration(problem: Problem) -> Problem {
    match problem {
        Problem::Sql(error) if is_of_tables(&error) => Problem::Damaged(error),
        Problem::Sql(error) if is_of_functions(&error) => Problem::OtherServer(error),
        other => other,
    }
}

async fn is_done(session: &mut Session, schema: &str) -> Result<bool, Problem> {
    if version(session, schema).await? != Some(KNOWN) {
        return Ok(false);
    }
    let made = FUNCTIONS.split("\nCREATE OR REPLACE FUNCTION ").skip(1).filter_map(|one| one.split('(').next());
    let lasting = LASTING.iter().map(|(name, _)| *name);
    if !missing(session, schema, made.chain(lasting).collect()).await?.is_empty()
        || moved(session, schema).await?.is_some()
        || made_of(session, schema).await? != Some(digest())
    {
        return Ok(false);
    }
    // Any function that looks where it did when it was made.
    let text = format!("SELECT FROM \"{schema}\".cards({}, '{{}}')", known(schema));
    match session.run(AssertSqlSafe(text).into_sql_str()).await {
        Err(Problem::Sql(error)) if is_of_functions(&error) => Ok(false),
        called => called.map(|()| true),
    }
}

/// The text that functions are made of, in short; it is the comment of `enter`.
fn digest() -> String {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(FUNCTIONS).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the functions of the schema were made of.
async fn made_of(session: &mut Session, schema: &str) -> Result<Option<String>, Problem> {
    let query = "SELECT obj_description(p.oid, 'pg_proc') FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace \
        WHERE n.nspname = $1 AND p.proname = 'enter'";
    Ok(sqlx::query_scalar(query).bind(schema).fetch_optional(session.connection()).await?.flatten())
}

/// Those of these functions that the schema does not have.
async fn missing(session: &mut Session, schema: &str, functions: Vec<&str>) -> Result<Vec<String>, Problem> {
    let query = "SELECT name FROM unnest($2::text[]) AS name WHERE NOT EXISTS (SELECT FROM pg_proc AS p \
        JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE n.nspname = $1 AND p.proname = name)";
    let query = sqlx::query_scalar(query).bind(schema).bind(functions);
    Ok(query.fetch_all(session.connection()).await?)
}

/// What a caller believes of a schema, as an argument of its functions.
pub(super) fn known(schema: &str) -> String {
    // The name was checked when it was made.
    format!("'{schema} {KNOWN}'")
}

/// Says what one believes of a schema, in a transaction.
pub(super) fn entering(schema: &str) -> String {
    format!("{}; SELECT \"{schema}\".enter({})", path(schema), known(schema))
}

/// Makes the schema what names stand for, and only then what a connection has for itself.
fn path(schema: &str) -> String {
    format!("SET LOCAL search_path TO \"{schema}\", pg_temp")
}

async fn migrate_in(session: &mut Session, schema: &str) -> Result<(), Problem> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('cardwright ' || $1, 0))")
        .bind(schema)
        .execute(session.connection())
        .await?;
    // Again, now that nobody else can: another instance may have been faster.
    let found = version(session, schema).await?;
    let encoding: String =
        sqlx::query_scalar("SELECT current_setting('server_encoding')").fetch_one(session.connection()).await?;
    if encoding != "UTF8" {
        return Err(Problem::Encoding(encoding));
    }
    if found.is_none() {
        // PostgreSQL wants permission to create a schema also where it exists.
        let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)")
            .bind(schema)
            .fetch_one(session.connection())
            .await?;
        if !exists {
            session.run(AssertSqlSafe(format!("CREATE SCHEMA \"{schema}\"")).into_sql_str()).await?;
        }
    }
    session.run(AssertSqlSafe(path(schema)).into_sql_str()).await?;
    if found.is_none() {
        session
            .run(
                "CREATE TABLE cardwright_migration (version integer PRIMARY KEY, at timestamptz NOT NULL)"
                    .into_sql_str(),
            )
            .await?;
    }
    if found.is_some_and(|found| found < KNOWN) {
        // Instances of older releases finish what they have begun, and begin nothing more.
        let text = MIGRATING.replace('@', &format!("\"{schema}\"."));
        session.run(AssertSqlSafe(text).into_sql_str()).await?;
    }
    for (version, migration) in (1..).zip(MIGRATIONS).filter(|(version, _)| Some(*version) > found) {
        session.run((*migration).into_sql_str()).await?;
        sqlx::query("INSERT INTO cardwright_migration (version, at) VALUES ($1, now())")
            .bind(version)
            .execute(session.connection())
            .await?;
    }
    // In a schema that has no store yet, others may have functions of these names.
    let gone = if found.is_some() {
        missing(session, schema, LASTING.map(|(name, _)| name).into()).await?
    } else {
        Vec::new()
    };
    for (name, text) in LASTING {
        if found.is_none() || gone.iter().any(|gone| gone == name) {
            session.run(text.into_sql_str()).await?;
        }
    }
    if found.is_some() {
        session.run(OLD_FUNCTIONS.into_sql_str()).await?;
    }
    session.run(FUNCTIONS.into_sql_str()).await?;
    let comment = format!("COMMENT ON FUNCTION enter(text) IS '{}'", digest());
    session.run(AssertSqlSafe(comment).into_sql_str()).await?;
    if let Some(ahead) = moved(session, schema).await? {
        let text = format!(
            "CREATE OR REPLACE FUNCTION ahead() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT {ahead}::bigint'"
        );
        session.run(AssertSqlSafe(text).into_sql_str()).await?;
    }
    Ok(())
}

/// If the history has numbers of transactions that this server has not come to, as after a restore: how far it must go ahead for the
/// feed to go on where it stood.
async fn moved(session: &mut Session, schema: &str) -> Result<Option<i64>, Problem> {
    let query = AssertSqlSafe(format!(
        "SELECT last + 1 - pg_snapshot_xmin(now)::text::bigint \
         FROM (SELECT max(transaction) AS last, pg_current_snapshot() AS now FROM \"{schema}\".history) AS history \
         WHERE last >= pg_snapshot_xmax(now)::text::bigint + \"{schema}\".ahead()"
    ));
    Ok(sqlx::query_scalar(query).fetch_optional(session.connection()).await?)
}

/// The version of the schema; nothing if there is no store in it.
async fn version(session: &mut Session, schema: &str) -> Result<Option<i32>, Problem> {
    let exists: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relname = 'cardwright_migration')",
    )
    .bind(schema)
    .fetch_one(session.connection())
    .await?;
    if !exists {
        return Ok(None);
    }
    let query = AssertSqlSafe(format!("SELECT coalesce(max(version), 0) FROM \"{schema}\".cardwright_migration"));
    let found: i32 = sqlx::query_scalar(query).fetch_one(session.connection()).await?;
    if found > KNOWN { Err(Problem::NewerSchema { found, known: KNOWN }) } else { Ok(Some(found)) }
}
