//! A PostgreSQL server for tests: the one that `scripts/postgres` starts, a schema for each test.

use std::env;
use std::fmt::Debug;
use std::str::FromStr as _;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use cardwright::adapters::postgres::{PostgresRepository, SchemaName};
use cardwright::adapters::simulator::SimulatedClock;
use cardwright::host::{CardRepository, Clock as _};
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::runtime::{self, Runtime};
use uuid::Uuid;

use crate::gate::{Gated, Porter};

/// Where connections wait. What is polled elsewhere needs [`Runtime::enter`].
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
    });
    &RUNTIME
}

/// The server for tests.
pub(crate) fn server() -> PgConnectOptions {
    let url = env::var("CARDWRIGHT_POSTGRES").unwrap_or_else(|_| {
        panic!(
            "no PostgreSQL: run `scripts/test`, or `scripts/postgres cargo test`, or set CARDWRIGHT_POSTGRES to a URL"
        )
    });
    PgConnectOptions::from_str(&url).expect("CARDWRIGHT_POSTGRES is a URL")
}

/// A schema of its own in the database for tests.
pub(crate) struct Database {
    pub(crate) options: PgConnectOptions,
    pub(crate) schema: SchemaName,
    /// How far the clock of the store is ahead.
    ahead: Mutex<Duration>,
}

impl Database {
    /// A schema with a store in it.
    pub(crate) fn new() -> Self {
        let database = Self::without_store();
        runtime().block_on(database.store().migrate()).expect("it is brought up to date");
        database
    }

    /// A schema that is not there yet.
    pub(crate) fn without_store() -> Self {
        let drawn = || std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        let id = Uuid::from_u64_pair(drawn(), drawn()).simple();
        Self::named(&format!("test_{id}"))
    }

    /// A database of its own, without a schema.
    pub(crate) fn apart() -> Self {
        let mut database = Self::without_store();
        let name = database.schema.as_str();
        let create = format!("CREATE DATABASE \"{name}\" ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0");
        runtime().block_on(database.run(&create));
        database.options = database.options.database(name);
        database
    }

    /// The schema with this name, as another process has made it.
    pub(crate) fn named(schema: &str) -> Self {
        let options = server().application_name(schema);
        Self { options, schema: SchemaName::new(schema).expect("a name"), ahead: Mutex::default() }
    }

    /// A pool of its own.
    pub(crate) fn pool(&self) -> PgPool {
        let _entered = runtime().enter();
        pool_of(4).connect_lazy_with(self.options.clone())
    }

    /// A store with a pool of its own.
    pub(crate) fn store(&self) -> PostgresRepository {
        PostgresRepository::new(self.pool(), self.schema.clone())
    }

    /// A statement, with `@` for the schema and a dot.
    pub(crate) async fn run(&self, text: &str) {
        let text = text.replace('@', &format!("\"{}\".", self.schema));
        sqlx::raw_sql(AssertSqlSafe(text)).execute(&self.pool()).await.expect("it is run");
    }

    /// Waits until the server has ended every connection of these options.
    pub(crate) async fn left_by(&self, options: &PgConnectOptions) {
        let pool = self.pool();
        let query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
        loop {
            let query = sqlx::query_scalar::<_, i64>(query).bind(options.get_application_name());
            if query.fetch_one(&pool).await.expect("it can be read") == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until the feed shows all that is stored: others on the server hold it up while they write.
    pub(crate) async fn is_followed(&self) {
        let pool = self.pool();
        let query = format!(
            "SELECT count(*) FROM \"{}\".history WHERE transaction >= pg_snapshot_xmin(pg_current_snapshot())::text::bigint",
            self.schema
        );
        loop {
            let query = sqlx::query_scalar::<_, i64>(AssertSqlSafe(query.clone()));
            if query.fetch_one(&pool).await.expect("it can be read") == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// All that is in it.
    pub(crate) async fn text(&self) -> String {
        let pool = self.pool();
        let mut text = String::new();
        for table in ["card", "card_term", "certificate", "request", "job", "record", "reservation", "history"] {
            let query =
                format!("SELECT coalesce(string_agg(t::text, chr(10)), '') FROM \"{}\".{table} AS t", self.schema);
            let rows: String = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&pool).await.expect("it is read");
            text.push_str(&rows);
        }
        text
    }

    /// Lets time pass for the store.
    pub(crate) async fn pass_time(&self, duration: Duration) {
        let ahead = {
            let mut ahead = self.ahead.lock().expect("not poisoned");
            *ahead += duration;
            *ahead
        };
        self.run(&format!(
            "CREATE OR REPLACE FUNCTION @moment() RETURNS timestamptz LANGUAGE sql VOLATILE \
             AS 'SELECT clock_timestamp() + {} * interval ''1 microsecond'''",
            ahead.as_micros()
        ))
        .await;
    }
}

/// A store on simulated time.
pub(crate) struct Simulated {
    database: Arc<Database>,
    clock: SimulatedClock,
}

impl Simulated {
    pub(crate) fn new(clock: SimulatedClock) -> Self {
        let database = Database::new();
        let text = "CREATE TABLE @clock (at timestamptz NOT NULL); INSERT INTO @clock VALUES ('2000-01-01'); \
            CREATE OR REPLACE FUNCTION @moment() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT at FROM @clock'";
        runtime().block_on(database.run(text));
        Self { database: Arc::new(database), clock }
    }

    /// A store with a pool of its own.
    pub(crate) fn store(&self) -> impl CardRepository + use<> {
        let hand = Hand { pool: self.database.pool(), database: Arc::clone(&self.database), clock: self.clock.clone() };
        Gated(self.database.store(), hand)
    }

    /// All that is in it.
    pub(crate) fn text(&self) -> String {
        runtime().block_on(self.database.text())
    }
}

/// Sets the clock in the database before every call, as the simulated one shows it, and lets the feed come.
#[derive(Clone)]
struct Hand {
    pool: PgPool,
    database: Arc<Database>,
    clock: SimulatedClock,
}

impl Porter for Hand {
    type Passing = ();

    async fn before(&self, call: &'static str) {
        if ["claim", "renew", "record_attempts"].contains(&call) {
            let text = AssertSqlSafe(format!("UPDATE \"{}\".clock SET at = $1", self.database.schema));
            sqlx::query(text).bind(self.clock.now()).execute(&self.pool).await.expect("it is set");
        }
        if call == "changes_since" {
            self.database.is_followed().await;
        }
    }

    async fn after(&self, (): (), _: &(dyn Debug + Sync)) {}
}

/// A pool that gives up soon.
pub(crate) fn pool_of(connections: u32) -> PgPoolOptions {
    PgPoolOptions::new().max_connections(connections).acquire_timeout(Duration::from_secs(20))
}
