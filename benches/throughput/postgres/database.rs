//! Schemas in the PostgreSQL server that `CARDWRIGHT_POSTGRES` names.

use std::path::Path;
use std::str::FromStr as _;

use cardwright::EngineSettings;
use cardwright::adapters::memory::ManualClock;
use cardwright::adapters::postgres::{PostgresRepository, SchemaName};
use cardwright::host::{CardRepository, UserRepository};
use chrono::{DateTime, Utc};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use crate::office::{self, Fallible, Office, wait};

const URL: &str = "CARDWRIGHT_POSTGRES";

/// A server to measure.
#[derive(Clone)]
pub(crate) struct Server(PgConnectOptions);

impl Server {
    /// The server, if one is named; by its socket if it runs on this machine. Over TCP, sqlx 0.9.0 lets small packets wait for others
    /// (it does not set `TCP_NODELAY`), so that now and then a statement stands still for 40 ms.
    pub(crate) fn named() -> Fallible<Option<Self>> {
        let Ok(url) = std::env::var(URL) else { return Ok(None) };
        let options = PgConnectOptions::from_str(&url)?;
        let folders: String = wait(async {
            let mut connection = PgConnection::connect_with(&options).await?;
            sqlx::query_scalar("SELECT current_setting('unix_socket_directories')").fetch_one(&mut connection).await
        })?;
        let socket = |folder: &&str| Path::new(folder).join(format!(".s.PGSQL.{}", options.get_port())).exists();
        let near = ["127.0.0.1", "localhost"].contains(&options.get_host());
        Ok(Some(Self(match folders.split(", ").find(socket).filter(|_| near) {
            Some(folder) => options.clone().socket(folder),
            None => options,
        })))
    }

    /// What it is and how it is set, on one line. What is to be `reliable` must wait for its disk.
    pub(crate) fn describe(&self, reliable: bool) -> Fallible<String> {
        const SHOWN: [&str; 5] = ["fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size"];
        wait(async {
            let mut connection = PgConnection::connect_with(&self.0).await?;
            let mut settings = Vec::new();
            for name in SHOWN {
                let value: String =
                    sqlx::query_scalar("SELECT current_setting($1)").bind(name).fetch_one(&mut connection).await?;
                if reliable && value == "off" {
                    let remedy = "set CARDWRIGHT_POSTGRES_FSYNC=on for scripts/postgres, or CARDWRIGHT_BENCH_CARDS for a quick look";
                    return Err(format!("{name} is off, so the figures would say nothing: {remedy}").into());
                }
                settings.push(format!("{name} {value}"));
            }
            let version: String =
                sqlx::query_scalar("SELECT split_part(version(), ' ', 2)").fetch_one(&mut connection).await?;
            let by = if self.0.get_socket().is_some() { "its socket" } else { "TCP" };
            Ok(format!("PostgreSQL {version} by {by}: {}", settings.join(", ")))
        })
    }
}

/// A schema of its own with a store in it.
pub(crate) struct Database {
    server: Server,
    schema: SchemaName,
    pool: PgPool,
}

impl Database {
    /// A new one, once everything that was written before is on the disk: no measurement pays for the one before it.
    pub(crate) fn new(server: &Server, name: &str) -> Fallible<Self> {
        let schema = SchemaName::new(format!("bench_{}_{name}", std::process::id()))?;
        let _entered = office::runtime().enter();
        // No question to the server before each transaction whether the connection is still there: a host on a good line does without.
        let pool = PgPoolOptions::new().max_connections(4).test_before_acquire(false);
        let pool = pool.connect_lazy_with(server.0.clone());
        let database = Self { server: server.clone(), schema, pool };
        wait(database.store().migrate())?;
        database.run("CHECKPOINT")?;
        Ok(database)
    }

    /// The store, on the pool of a host.
    pub(crate) fn store(&self) -> PostgresRepository {
        PostgresRepository::new(self.pool.clone(), self.schema.clone())
    }

    /// An office on its store, or on what stands before it, by the same clock.
    pub(crate) fn office(
        &self,
        store: impl CardRepository,
        users: impl UserRepository,
        settings: EngineSettings,
    ) -> Fallible<Office> {
        let clock: ManualClock = office::clock()?;
        let office = Office::new(store, users, clock, settings)?;
        self.set_time(office.now())?;
        Ok(office)
    }

    /// Stops the clock of the store at this time.
    pub(crate) fn set_time(&self, time: DateTime<Utc>) -> Fallible {
        let time = time.to_rfc3339();
        self.run(&format!(
            "CREATE OR REPLACE FUNCTION @moment() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT timestamptz ''{time}'''"
        ))
    }

    /// A text, with `@` for the schema and a dot.
    pub(crate) fn text(&self, text: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(text.replace('@', &format!("{}.", self.schema)))
    }

    /// Runs statements beside the store.
    pub(crate) fn run(&self, text: &str) -> Fallible {
        wait(async {
            let mut connection = self.connect().await?;
            connection.execute(sqlx::raw_sql(self.text(text))).await?;
            Ok(())
        })
    }

    /// A connection beside the store.
    pub(crate) async fn connect(&self) -> sqlx::Result<PgConnection> {
        PgConnection::connect_with(&self.server.0).await
    }

    /// A pool beside the store.
    pub(crate) fn pool(&self) -> PgPool {
        self.pool.clone()
    }

    /// Takes all of it away; it takes room that the next one needs.
    pub(crate) fn remove(self) -> Fallible {
        self.run(&format!("DROP SCHEMA {} CASCADE", self.schema))?;
        wait(self.pool.close());
        Ok(())
    }
}
