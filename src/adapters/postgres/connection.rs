//! Transactions on connections of the host's pool, and what the schema is brought up to.

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool, Postgres};
use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};

use super::problem::{Problem, is_answer};
use super::statements::BEGIN;

/// What brings a schema from one version to the next; its version is how many of these it has had.
const MIGRATIONS: &[&str] = &[include_str!("schema.sql")];

/// The version of the schema that this release writes.
const KNOWN: i32 = MIGRATIONS.len() as i32;

/// A connection that is given back to the pool only once it is known to be idle. A call that is dropped halfway, or fails at the
/// connection, closes it instead: nothing that it had begun can come to those who get the connection next.
pub(super) struct Session {
    connection: PoolConnection<Postgres>,
    idle: bool,
}

impl Session {
    /// A connection of the pool with a transaction.
    pub(super) async fn begin(pool: &PgPool) -> Result<Self, Problem> {
        let mut session = Self { connection: pool.acquire().await?, idle: false };
        session.run(BEGIN.into_sql_str()).await?;
        Ok(session)
    }

    /// What statements run on.
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Ends what was begun and keeps it.
    pub(super) async fn commit(mut self) -> Result<(), Problem> {
        match self.run("COMMIT".into_sql_str()).await {
            Ok(()) => self.idle = true,
            Err(Problem::Sql(error)) if !is_answer(&error) => return Err(Problem::Commit(error)),
            Err(problem) => {
                self.roll_back().await;
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

    /// Ends what only read: there is nothing that could be lost.
    pub(super) async fn leave(mut self) {
        self.idle = self.run("COMMIT".into_sql_str()).await.is_ok();
    }

    async fn run(&mut self, text: SqlStr) -> Result<(), Problem> {
        sqlx::raw_sql(text).execute(&mut *self.connection).await?;
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.idle {
            self.connection.close_on_drop();
        }
    }
}

/// Brings a schema up to what this release writes.
pub(super) async fn migrate(pool: &PgPool, schema: &str) -> Result<(), Problem> {
    let mut session = Session::begin(pool).await?;
    let migrated = migrate_in(&mut session, schema).await;
    session.end(migrated).await
}

async fn migrate_in(session: &mut Session, schema: &str) -> Result<(), Problem> {
    // Who needs to change nothing needs no permission to, and waits for nobody.
    if version(session, schema).await? == Some(KNOWN) && moved(session, schema).await?.is_none() {
        return Ok(());
    }
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
    session.run(AssertSqlSafe(format!("SET LOCAL search_path TO \"{schema}\"")).into_sql_str()).await?;
    if found.is_none() {
        session
            .run(
                "CREATE TABLE cardwright_migration (version integer PRIMARY KEY, at timestamptz NOT NULL)"
                    .into_sql_str(),
            )
            .await?;
    }
    for (version, migration) in (1..).zip(MIGRATIONS).filter(|(version, _)| Some(*version) > found) {
        session.run((*migration).into_sql_str()).await?;
        sqlx::query("INSERT INTO cardwright_migration (version, at) VALUES ($1, now())")
            .bind(version)
            .execute(session.connection())
            .await?;
    }
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
