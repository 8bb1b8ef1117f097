//! What is particular to the store in PostgreSQL; the contract of every store is checked by the conformance kit.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{BufRead as _, BufReader, Write as _};
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cardwright::adapters::postgres::{PostgresRepository, SchemaName};
use cardwright::adapters::simulator::SimulatedClock;
use cardwright::host::{
    CardQuery, CardRepository, CertificateQuery, ClaimRequest, Clock as _, CommitError, JobQuery, RepositoryError,
    RequestQuery, SystemClock, TextPrefix,
};
use cardwright::process::Answer;
use cardwright::{
    Attempt, Card, CardId, CardState, ChangeSet, Conflict, Job, ObjectId, Record, RequestId, StoredId, Why,
};
use futures::future::{Either, join_all, select};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

use crate::database::{Database, pool_of, runtime, server};
use crate::office::{self, ORDER, ORDER_SCRIPT, SYNC_ORDERS, operator, run_id, service, user_item};
use crate::sqlite::{Office, conflicts, reservation};

type Tested = Result<(), Box<dyn Error>>;

fn wait<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(future)
}

/// A change set with cards of these names.
fn cards(names: &[&str]) -> ChangeSet {
    let mut changes = ChangeSet::new();
    for (number, name) in names.iter().enumerate() {
        Office::new().card(&mut changes, &number.to_string(), name);
    }
    changes
}

fn ids(changes: &ChangeSet) -> Vec<CardId> {
    changes.cards.iter().map(|card| card.id).collect()
}

fn take(key: &str) -> ChangeSet {
    let mut changes = ChangeSet::new();
    changes.takes.push(reservation(key, "me"));
    changes
}

/// All that an error says, and all that it came from.
fn whole(error: &dyn Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text} {error} {error:?}");
        source = error.source();
    }
    text
}

fn rejected<T: std::fmt::Debug>(result: Result<T, RepositoryError>, words: &str) -> RepositoryError {
    match result {
        Err(error @ RepositoryError::Rejected { .. }) if error.to_string().contains(words) => error,
        other => panic!("it should be refused, and say `{words}`: {other:?}"),
    }
}

fn unavailable<T: std::fmt::Debug>(result: Result<T, RepositoryError>, words: &str) {
    match result {
        Err(error @ RepositoryError::Unavailable { .. }) if error.to_string().contains(words) => {}
        other => panic!("it should be unavailable, and say `{words}`: {other:?}"),
    }
}

fn failure(result: Result<(), CommitError>) -> Result<(), RepositoryError> {
    match result {
        Err(CommitError::Store(error)) => Err(error),
        other => panic!("the store should fail: {other:?}"),
    }
}

/// A store on these options.
fn store_on(options: PgConnectOptions, schema: &SchemaName) -> PostgresRepository {
    let _entered = runtime().enter();
    let pool = pool_of(1).acquire_timeout(Duration::from_millis(500)).connect_lazy_with(options);
    PostgresRepository::new(pool, schema.clone())
}

/// A connection beside the store.
async fn beside(database: &Database) -> PgConnection {
    let mut connection = PgConnection::connect_with(&server()).await.expect("a connection");
    let path = format!("SET search_path TO \"{}\"", database.schema);
    connection.execute(AssertSqlSafe(path)).await.expect("it is set");
    connection
}

/// Waits until a connection of this database waits for a lock; which one.
async fn waiting(database: &Database, beside: &mut PgConnection) -> i32 {
    for _ in 0..10_000 {
        let query = "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'";
        let query = sqlx::query_scalar(query).bind(database.schema.as_str());
        if let Some(process) = query.fetch_optional(&mut *beside).await.expect("it can be read") {
            return process;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("nobody waits for a lock");
}

// ---- the way in --------------------------------------------------------------------------------------------------------

#[test]
fn names_of_schemas_are_checked() {
    let long = "x".repeat(64);
    for name in ["", "a\"; DROP TABLE card; --", "Cards", "1a", "ä", "a b", "pg_cards", "information_schema", &long] {
        let refused = SchemaName::new(name).expect_err("it is refused").to_string();
        assert!(refused.contains("1 to 63"), "{refused}");
    }
    for name in ["cards", "_1", "public", "select", &long[1..]] {
        assert_eq!(SchemaName::new(name).expect("a name").as_str(), name);
    }
}

#[test]
fn a_store_says_nothing_of_its_password() {
    let database = Database::without_store();
    assert!(!format!("{:?}", database.store()).contains("secret"));
}

#[test]
fn a_wrong_address_user_or_database_is_told_apart() {
    let database = Database::new();
    let refused = |options: PgConnectOptions| wait(store_on(options, &database.schema).cards(&[]));
    unavailable(refused(server().port(1)), "no connection came free");
    unavailable(refused(server().host("no-such-host.invalid")), "connection");
    unavailable(refused(server().socket("/no such folder")), "cannot be found");
    for error in [
        rejected(refused(server().password("hunter2")), "user or password"),
        rejected(refused(server().username("nobody").password("hunter2")), "user or password"),
        rejected(refused(server().database("nowhere")), "no such database"),
    ] {
        let text = whole(&error);
        assert!(!text.contains("hunter2") && !text.contains("secret") && !text.contains("postgres://"), "{text}");
    }
    let closed = store_on(server(), &database.schema);
    let pool = database.pool();
    wait(pool.close());
    rejected(wait(PostgresRepository::new(pool, database.schema.clone()).cards(&[])), "closed by the host");
    assert_eq!(wait(closed.cards(&[])).unwrap(), []);
}

#[test]
fn a_missing_permission_is_named() -> Tested {
    let database = Database::new();
    let role = database.schema.as_str();
    wait(database.run(&format!("CREATE ROLE \"{role}\" LOGIN PASSWORD 'secret'")));
    let user = server().username(role);
    rejected(wait(store_on(user.clone(), &database.schema).cards(&[])), "permission");
    rejected(wait(store_on(user.clone(), &database.schema).migrate()), "permission");
    rejected(wait(store_on(user.clone(), &Database::without_store().schema).migrate()), "permission");
    wait(database.run(&format!(
        "GRANT USAGE ON SCHEMA \"{role}\" TO \"{role}\"; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA \"{role}\" TO \"{role}\""
    )));
    // Who only works with it needs no more than that.
    let store = store_on(user, &database.schema);
    wait(store.migrate())?;
    wait(store.commit(&cards(&["Meier"])))?;
    wait(store.claim(&ClaimRequest::new("worker", 1, Duration::from_secs(1))))?;
    Ok(())
}

#[test]
fn a_missing_migration_says_what_to_call() {
    let database = Database::without_store();
    let store = database.store();
    rejected(wait(store.cards(&[])), "call `migrate()` first");
    rejected(wait(store.changes_since(None, 1)), "call `migrate()` first");
    rejected(wait(store.claim(&ClaimRequest::new("worker", 1, Duration::from_secs(1)))), "call `migrate()` first");
    rejected(failure(wait(store.commit(&take("a")))), "call `migrate()` first");
}

#[test]
fn a_schema_of_a_newer_release_is_refused() {
    let database = Database::new();
    wait(database.store().migrate()).expect("there is nothing to do");
    wait(database.run("INSERT INTO @cardwright_migration VALUES (99, now())"));
    rejected(wait(database.store().migrate()), "its version is 99, this release knows up to 1");
}

#[test]
fn a_store_does_nothing_on_a_schema_of_another_release() -> Tested {
    let database = Database::new();
    let store = database.store();
    wait(store.commit(&take("a")))?;
    let refused = |store: &PostgresRepository, words: &str| {
        rejected(wait(store.cards(&[])), words);
        rejected(wait(store.card_page(&CardQuery::default(), None, 1)), words);
        rejected(wait(store.changes_since(None, 1)), words);
        rejected(wait(store.claim(&ClaimRequest::new("worker", 1, Duration::from_secs(1)))), words);
        rejected(failure(wait(store.commit(&take("b")))), words);
    };
    wait(database.run("INSERT INTO @cardwright_migration VALUES (2, now())"));
    refused(&store, "its version is 2, this release knows up to 1");
    refused(&database.store(), "its version is 2, this release knows up to 1");
    wait(database.run("DELETE FROM @cardwright_migration WHERE version = 2"));
    wait(store.commit(&take("b")))?;
    // As if its own migration had not been run yet.
    let older = Database::without_store();
    wait(older.run(&format!("CREATE SCHEMA \"{}\"", older.schema)));
    wait(older.run("CREATE TABLE @cardwright_migration (version integer PRIMARY KEY, at timestamptz NOT NULL)"));
    let store = older.store();
    refused(&store, "its version is 0, this release wants 1: call `migrate()` first");
    wait(store.migrate())?;
    wait(store.commit(&take("a")))?;
    Ok(())
}

#[test]
fn a_migration_waits_for_a_call_that_has_begun() {
    let database = Database::new();
    let cancelled = wait(held_up(&database, &database.store(), async |process, watch| {
        let lock = "BEGIN; LOCK TABLE cardwright_migration IN ACCESS EXCLUSIVE MODE NOWAIT";
        let refused = watch.execute(lock).await.expect_err("the call has read the version").to_string();
        assert!(refused.contains("could not obtain lock"), "{refused}");
        watch.execute("ROLLBACK").await.expect("it ends");
        sqlx::query("SELECT pg_cancel_backend($1)").bind(process).execute(watch).await.expect("it is cancelled");
    }));
    unavailable(failure(cancelled), "cancelled");
}

#[test]
fn a_schema_that_was_renamed_is_not_mistaken_for_another() -> Tested {
    let database = Database::new();
    let (old, new, aside) = (&database.schema, Database::without_store().schema, Database::without_store().schema);
    let store = database.store();
    let mut changes = take("a");
    Office::new().job(&mut changes);
    wait(store.commit(&changes))?;
    let rename = |from: &SchemaName, to: &SchemaName| {
        wait(database.run(&format!("ALTER SCHEMA \"{from}\" RENAME TO \"{to}\"")));
    };
    let words = "are those of another name that it had: call `migrate()` first";
    let refused = |store: &PostgresRepository| {
        rejected(wait(store.cards(&[])), words);
        rejected(failure(wait(store.commit(&take("b")))), words);
        rejected(wait(store.claim(&ClaimRequest::new("worker", 1, Duration::from_secs(1)))), words);
    };
    rename(old, &new);
    let renamed = store_on(server(), &new);
    refused(&renamed);
    // Nor if the old name stands for a store again.
    wait(store.migrate())?;
    refused(&renamed);
    wait(renamed.migrate())?;
    wait(renamed.commit(&take("b")))?;
    // Nor if two change their names.
    rename(old, &aside);
    rename(&new, old);
    rename(&aside, &new);
    refused(&renamed);
    refused(&store);
    wait(store.migrate())?;
    wait(renamed.migrate())?;
    let keys = ["a".to_owned(), "b".to_owned()];
    assert_eq!(wait(store.reservations(&keys))?.len(), 2);
    assert_eq!(wait(renamed.reservations(&keys))?, []);
    let claimed = wait(store.claim(&ClaimRequest::new("worker", 9, Duration::from_secs(1))))?;
    assert_eq!((claimed.len(), claimed[0].version), (1, 2), "nobody has claimed it before");
    Ok(())
}

#[test]
fn a_function_that_is_gone_comes_back_with_the_next_migration() -> Tested {
    let database = Database::new();
    let store = database.store();
    wait(store.commit(&take("a")))?;
    for named in ["jobs", "store", "enter", "moment", "ahead"] {
        wait(database.run(&format!("DROP FUNCTION @{named}")));
        let calls = async || {
            store.jobs(&[]).await?;
            store.changes_since(None, 1).await?;
            store.claim(&ClaimRequest::new("worker", 1, Duration::from_secs(1))).await?;
            store.commit(&take(named)).await.or_else(|error| failure(Err(error)))
        };
        let refused = rejected(wait(calls()), "call `migrate()` first").to_string();
        assert!(refused.contains("its functions are gone"), "{refused}");
        assert!(refused.contains(&format!("{named} does not exist")), "{refused}");
        assert!(!refused.contains("uuid"), "without its arguments: {refused}");
        wait(store.migrate())?;
        wait(calls())?;
    }
    Ok(())
}

#[test]
fn a_migration_makes_functions_of_another_build_anew() -> Tested {
    let database = Database::new();
    let store = database.store();
    let changes = cards(&["a"]);
    wait(store.commit(&changes))?;
    // What they take or give was something else.
    wait(database.run(
        "DROP FUNCTION @cards(text, uuid[]);
         CREATE FUNCTION @cards(known text, ids uuid[]) RETURNS boolean LANGUAGE sql AS 'SELECT false';
         CREATE FUNCTION @certificates_of(known text, cards uuid[], after uuid, at_most bigint) RETURNS boolean LANGUAGE sql AS 'SELECT false';
         CREATE FUNCTION @mine(a integer) RETURNS integer LANGUAGE sql AS 'SELECT a';
         COMMENT ON FUNCTION @enter(text) IS 'another build'",
    ));
    wait(store.migrate())?;
    assert_eq!(wait(store.cards(&ids(&changes)))?.len(), 1);
    let query = "SELECT proname::text FROM pg_proc WHERE pronamespace = $1::regnamespace \
        AND proname IN ('cards', 'certificates_of', 'mine') ORDER BY 1";
    let query = sqlx::query_scalar::<_, String>(query).bind(database.schema.as_str());
    assert_eq!(
        wait(query.fetch_all(&database.pool()))?,
        ["cards", "certificates_of", "mine"],
        "one of each, and the host's own"
    );
    Ok(())
}

#[test]
fn what_no_migration_brings_back_is_named() -> Tested {
    let database = Database::new();
    let store = database.store();
    wait(database.run("ALTER TABLE @card RENAME TO aside"));

    for refused in [wait(store.migrate()), wait(store.cards(&[])).map(drop)] {
        let refused = rejected(refused, "restore it from a backup").to_string();
        assert!(refused.contains("relation \"card\" does not exist"), "{refused}");
        assert!(!refused.contains("call `migrate()`"), "{refused}");
    }
    wait(database.run("ALTER TABLE @aside RENAME TO card; ALTER TABLE @job DROP COLUMN due CASCADE"));
    wait(store.migrate())?;
    rejected(wait(store.claim(&ClaimRequest::new("worker", 1, Duration::from_secs(1)))), "restore it from a backup");
    // Without the table that says of what version it is, it could be anything.
    wait(database.run("DROP TABLE @cardwright_migration"));
    rejected(wait(store.cards(&[])), "call `migrate()` first");
    let refused = rejected(wait(store.migrate()), "take another schema, or restore that table").to_string();
    assert!(refused.contains("relation \"card\" already exists"), "{refused}");
    Ok(())
}

#[test]
fn a_lease_begins_when_nobody_is_in_the_way_any_more() -> Tested {
    let database = Database::new();
    let store = database.store();
    let mut changes = ChangeSet::new();
    let job = Office::new().job(&mut changes);
    wait(store.commit(&changes))?;
    let lease = Duration::from_millis(500);
    let claimed = wait(store.claim(&ClaimRequest::new("worker", 1, Duration::from_secs(60))))?.remove(0);
    let attempt = Attempt { reference: "r".to_owned(), number: 1, started: job.created };
    let attempts = [(job.id, claimed.version, attempt)];
    let held = async |call: std::pin::Pin<Box<dyn Future<Output = Result<(), RepositoryError>> + '_>>| {
        let mut other = beside(&database).await;
        other.execute("BEGIN; SELECT FROM job FOR UPDATE").await?;
        let wait = async {
            waiting(&database, &mut beside(&database).await).await;
            tokio::time::sleep(2 * lease).await;
            other.execute("ROLLBACK").await
        };
        let (called, ended) = futures::future::join(call, wait).await;
        ended?;
        called?;
        let left = "SELECT claim_until > clock_timestamp() FROM job";
        assert!(sqlx::query_scalar::<_, bool>(left).fetch_one(&mut other).await?, "it is held");
        Ok::<_, Box<dyn Error>>(())
    };
    wait(held(Box::pin(async { store.record_attempts(&attempts, lease).await.map(|_| ()) })))?;
    wait(held(Box::pin(async { store.renew(&[(job.id, claimed.version + 1)], lease).await.map(|_| ()) })))?;
    Ok(())
}

#[test]
fn what_others_create_for_themselves_hides_nothing() -> Tested {
    let database = Database::new();
    let pool = wait(async { pool_of(1).connect_lazy_with(database.options.clone()) });
    let store = PostgresRepository::new(pool.clone(), database.schema.clone());
    wait(pool.execute("CREATE TEMPORARY TABLE card (LIKE pg_class); CREATE TEMPORARY TABLE reservation (a integer)"))?;
    let changes = cards(&["Meier"]);
    wait(store.commit(&changes))?;
    assert_eq!(wait(store.cards(&ids(&changes)))?.len(), 1);
    wait(store.commit(&take("a")))?;
    Ok(())
}

#[test]
fn two_dozen_may_migrate_at_once() -> Tested {
    let database = Arc::new(Database::without_store());
    let all = (0..24).map(|_| {
        let store = database.store();
        runtime().spawn(async move { store.migrate().await })
    });
    for migrated in wait(join_all(all)) {
        migrated??;
    }
    wait(database.store().commit(&cards(&["Meier"])))?;
    Ok(())
}

#[test]
fn a_database_that_is_not_in_utf_8_is_refused() {
    let database = Database::without_store();
    let name = database.schema.as_str();
    wait(database.run(&format!("CREATE DATABASE \"{name}\" ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")));
    let store = store_on(server().database(name), &database.schema);
    rejected(wait(store.migrate()), "ENCODING 'UTF8'");
}

// ---- in the way --------------------------------------------------------------------------------------------------------

/// Lets a commit wait for a key that another is about to take, and does something to it meanwhile.
async fn held_up(
    database: &Database,
    store: &PostgresRepository,
    meanwhile: impl AsyncFnOnce(i32, &mut PgConnection),
) -> Result<(), CommitError> {
    let mut other = beside(database).await;
    other.execute("BEGIN; INSERT INTO reservation VALUES ('a', 'other')").await.expect("it is taken");
    let mut watch = beside(database).await;
    let mut changes = cards(&["Meier"]);
    changes.append(take("a"));
    let commit = store.commit(&changes);
    let act = async {
        let process = waiting(database, &mut watch).await;
        meanwhile(process, &mut watch).await;
    };
    let (done, ()) = futures::join!(commit, act);
    other.execute("ROLLBACK").await.expect("it is given up");
    let found = store.cards(&ids(&changes)).await.expect("cards can be read");
    assert_eq!(found.len(), usize::from(done.is_ok()), "all or nothing: {done:?}");
    done
}

#[test]
fn a_connection_that_is_killed_before_commit_has_stored_nothing() {
    let database = Database::new();
    let killed = wait(held_up(&database, &database.store(), async |process, watch| {
        sqlx::query("SELECT pg_terminate_backend($1)").bind(process).execute(watch).await.expect("it is killed");
    }));
    unavailable(failure(killed), "stopping, starting");
}

#[test]
fn a_statement_that_takes_too_long_has_stored_nothing() {
    let database = Database::new();
    let options = database.options.clone().options([("statement_timeout", "300")]);
    let late = wait(held_up(&database, &store_on(options, &database.schema), async |_, _| ()));
    unavailable(failure(late), "statement_timeout");
    let options = database.options.clone().options([("lock_timeout", "300")]);
    let late = wait(held_up(&database, &store_on(options, &database.schema), async |_, _| ()));
    unavailable(failure(late), "a lock was not given");
}

#[test]
fn a_twin_that_comes_in_between_is_a_conflict() -> Tested {
    let database = Database::new();
    let store = database.store();
    let twin = cards(&["Meier"]);
    wait(store.commit(&twin))?;
    let (mut other, mut beside_it, mut watch) =
        wait(async { (beside(&database).await, beside(&database).await, beside(&database).await) });
    wait(beside_it.execute(
        "CREATE TABLE aside AS SELECT * FROM card; CREATE TABLE entries AS SELECT * FROM history; \
         DELETE FROM card; DELETE FROM card_term; DELETE FROM history",
    ))?;
    wait(other.execute("BEGIN; INSERT INTO reservation VALUES ('a', 'other')"))?;
    let mut changes = twin.clone();
    changes.append(take("a"));
    let commit = store.commit(&changes);
    let act = async {
        waiting(&database, &mut watch).await;
        // What comes second looks into the history only when the key is free again and its card is there.
        beside_it.execute("BEGIN; LOCK TABLE history IN ACCESS EXCLUSIVE MODE").await?;
        other.execute("COMMIT").await?;
        waiting(&database, &mut watch).await;
        other.execute("DELETE FROM reservation").await?;
        beside_it
            .execute("INSERT INTO card SELECT * FROM aside; INSERT INTO history SELECT * FROM entries; COMMIT")
            .await
    };
    let (done, acted) = wait(futures::future::join(commit, act));
    acted?;
    let Err(CommitError::Conflicts(conflicts)) = done else { panic!("its twin is there: {done:?}") };
    let object = StoredId::Object(ObjectId::Card(twin.cards[0].id));
    assert_eq!(conflicts, [Conflict::Version { object, expected: 0, found: 1 }]);
    Ok(())
}

#[test]
fn a_read_leaves_nothing_open_on_a_runtime_that_stands_still() -> Tested {
    let database = Database::new();
    let still = Builder::new_current_thread().enable_all().build()?;
    let store = still.block_on(async {
        let pool = pool_of(1).connect_lazy_with(database.options.clone());
        PostgresRepository::new(pool, database.schema.clone())
    });
    still.block_on(store.cards(&[]))?;
    still.block_on(store.card_page(&CardQuery::default(), None, 1))?;
    let query = "SELECT state FROM pg_stat_activity WHERE application_name = $1";
    let states: Vec<String> =
        wait(sqlx::query_scalar(query).bind(database.schema.as_str()).fetch_all(&database.pool()))?;
    assert!(states.contains(&"idle".to_owned()), "it is connected: {states:?}");
    assert!(!states.iter().any(|state| state.contains("transaction")), "{states:?}");
    Ok(())
}

#[test]
fn calls_one_after_the_other_go_by_one_connection_and_the_pool_gets_it_back() -> Tested {
    const CALLS: usize = 100;
    let database = Database::new();
    let given = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&given);
    let pool = wait(async {
        let pool = pool_of(4).before_acquire(move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Ok(true) })
        });
        pool.connect_lazy_with(database.options.clone())
    });
    let store = PostgresRepository::new(pool.clone(), database.schema.clone());
    wait(async {
        for number in 0..CALLS / 2 {
            store.commit(&take(&number.to_string())).await?;
            store.jobs(&[]).await?;
        }
        Ok::<_, CommitError>(())
    })?;
    // However slow the machine.
    assert!(given.load(Ordering::Relaxed) < CALLS / 2, "{given:?}");
    wait(async {
        while pool.num_idle() < pool.size() as usize {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Nobody keeps one from a host that closes the pool, and nobody goes on without it.
        store.jobs(&[]).await?;
        let closed = tokio::time::timeout(Duration::from_secs(30), pool.close()).await;
        closed.expect("it is closed");
        Ok::<_, RepositoryError>(())
    })?;
    rejected(wait(store.jobs(&[])), "the pool was closed by the host");
    Ok(())
}

#[test]
fn a_runtime_that_ends_takes_no_connection_with_it() -> Tested {
    for (is_single, is_used) in [(false, false), (false, true), (true, false), (true, true)] {
        let database = Database::new();
        let pool = database.pool();
        let store = PostgresRepository::new(pool.clone(), database.schema.clone());
        let mut own = if is_single { Builder::new_current_thread() } else { Builder::new_multi_thread() };
        let own = own.enable_all().build()?;
        own.block_on(store.jobs(&[]))?;
        drop(own);
        if is_used {
            // At once: what was left there is broken.
            wait(store.claim(&ClaimRequest::new("worker", 1, Duration::from_secs(1))))?;
        }
        let closed = wait(async { tokio::time::timeout(Duration::from_secs(30), pool.close()).await });
        closed.expect("it is closed");
    }
    Ok(())
}

#[test]
fn calls_that_go_on_and_on_leave_others_their_turn() -> Tested {
    let database = Database::new();
    // Less than for how long one is kept in all.
    let pool = pool_of(2).acquire_timeout(Duration::from_millis(800));
    let pool = wait(async { pool.connect_lazy_with(database.options.clone()) });
    let store = PostgresRepository::new(pool.clone(), database.schema.clone());
    wait(async {
        let one = pool.acquire().await?;
        let calls = async {
            loop {
                store.jobs(&[]).await.expect("it is read");
            }
        };
        let other = pool.acquire();
        match select(pin!(calls), pin!(other)).await {
            Either::Left((never, _)) => never,
            Either::Right((other, _)) => drop((one, other?)),
        }
        Ok(())
    })
}

#[test]
fn an_exhausted_pool_is_unavailable() -> Tested {
    let database = Database::new();
    let pool = wait(async { pool_of(1).acquire_timeout(Duration::from_millis(200)).connect_lazy_with(server()) });
    let store = PostgresRepository::new(pool.clone(), database.schema.clone());
    let only = wait(pool.acquire())?;
    unavailable(wait(store.cards(&[])), "in use");
    unavailable(failure(wait(store.commit(&take("a")))), "in use");
    wait(async { drop(only) });
    wait(store.commit(&take("a")))?;
    Ok(())
}

#[test]
fn a_deadlock_is_tried_again() -> Tested {
    let database = Database::new();
    let store = database.store();
    let mut changes = cards(&["a", "b"]);
    wait(store.commit(&changes))?;
    let office = Office::new();
    changes.history.clear();
    for card in &mut changes.cards {
        card.version = 1;
        changes.history.push(card.note(&office.stamp(), Why::code("noted")));
    }
    let mut order = ids(&changes);
    order.sort_unstable();
    // A sequence counts what is undone too.
    let counting = "CREATE SEQUENCE @updates;
        CREATE FUNCTION @counted() RETURNS trigger LANGUAGE plpgsql
            AS 'BEGIN PERFORM nextval(TG_ARGV[0]::regclass); RETURN NEW; END';
        CREATE TRIGGER counted BEFORE UPDATE ON @card FOR EACH ROW EXECUTE FUNCTION @counted('@updates')";
    wait(async {
        database.run(counting).await;
        let mut other = beside(&database).await;
        let lock = async |other: &mut PgConnection, id: CardId| {
            let query = sqlx::query("SELECT 1 FROM card WHERE id = $1 FOR UPDATE").bind(id.uuid());
            query.execute(other).await.expect("it is locked");
        };
        // Whoever notices gives way; the other shall not.
        other.execute("SET deadlock_timeout = '1 h'; BEGIN").await?;
        lock(&mut other, order[1]).await;
        let cross = async {
            waiting(&database, &mut beside(&database).await).await;
            lock(&mut other, order[0]).await;
            other.execute("ROLLBACK").await.expect("it ends");
        };
        let (done, ()) = futures::join!(store.commit(&changes), cross);
        done?;
        let updates: i64 = sqlx::query_scalar("SELECT last_value FROM updates").fetch_one(&mut other).await?;
        assert_eq!(updates, 3, "the first was undone, then both were made");
        Ok(())
    })
}

#[test]
fn what_others_are_always_in_the_way_of_is_given_up_for_now() -> Tested {
    let database = Database::new();
    let refusing = "CREATE SEQUENCE @tries;
        CREATE FUNCTION @refuse() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM nextval(TG_ARGV[0]::regclass); RAISE EXCEPTION ''not now'' USING ERRCODE = ''40001''; END';
        CREATE TRIGGER refusing BEFORE INSERT ON @card FOR EACH ROW EXECUTE FUNCTION @refuse('@tries')";
    wait(database.run(refusing));
    unavailable(failure(wait(database.store().commit(&cards(&["a"])))), "others changed the same");
    let tries: i64 = wait(sqlx::query_scalar("SELECT last_value FROM tries").fetch_one(&mut wait(beside(&database))))?;
    assert_eq!(tries, 8);
    Ok(())
}

#[test]
fn a_server_that_only_reads_for_now_is_away() -> Tested {
    let database = Database::new();
    let options = database.options.clone().options([("default_transaction_read_only", "on")]);
    unavailable(failure(wait(store_on(options, &database.schema).commit(&cards(&["a"])))), "read-only");
    Ok(())
}

#[test]
fn outside_a_runtime_nothing_is_done_and_that_is_said() -> Tested {
    let database = Database::new();
    let store = database.store();
    rejected(futures::executor::block_on(store.cards(&[])), "within a tokio runtime");
    assert_eq!(wait(store.cards(&[]))?, []);
    Ok(())
}

#[test]
fn overlapping_batches_in_any_order_wait_for_one_another() -> Tested {
    const AT_ONCE: usize = 6;
    const ROUNDS: usize = 15;
    // So that deadlocks of others are not counted.
    let database = Database::apart();
    let name = database.schema.as_str();
    let options = database.options.clone().application_name(&format!("{name} x"));
    let store = || {
        let _entered = runtime().enter();
        PostgresRepository::new(pool_of(2).connect_lazy_with(options.clone()), database.schema.clone())
    };
    let first = store();
    wait(first.migrate())?;
    let changes = cards(&["x"; 30]);
    wait(first.commit(&changes))?;
    let ids = ids(&changes);
    let stored = Arc::new(AtomicUsize::new(0));
    let all = (0..AT_ONCE).map(|caller| {
        let (store, mut ids, stored) = (store(), ids.clone(), Arc::clone(&stored));
        runtime().spawn(async move {
            for round in 0..ROUNDS {
                let count = ids.len();
                ids.rotate_left(7 * (caller + round) % count);
                if (caller + round) % 2 == 0 {
                    ids.reverse();
                }
                let mut changes = ChangeSet::new();
                let found = store.cards(&ids[..20]).await?;
                for id in &ids[..20] {
                    let mut card = found.iter().find(|card| card.id == *id).expect("it is stored").clone();
                    changes.note_card(&mut card, &Office::new().stamp(), Why::code("noted"));
                    // What is held by the one before is handed on, what is free is taken.
                    let key = format!("key/{id}");
                    for held in store.reservations(std::slice::from_ref(&key)).await? {
                        changes.releases.push(held);
                    }
                    changes.takes.push(reservation(&key, &format!("{caller} {round}")));
                    changes.put_card(card);
                }
                match store.commit(&changes).await {
                    Ok(()) => _ = stored.fetch_add(1, Ordering::Relaxed),
                    Err(CommitError::Conflicts(_)) => {}
                    Err(CommitError::Store(error)) => return Err(error),
                }
            }
            Ok(())
        })
    });
    for done in wait(join_all(all)) {
        done??;
    }
    assert!(stored.load(Ordering::Relaxed) >= ROUNDS, "some of them were stored");
    // A connection tells what it has counted at the latest when it ends.
    drop(first);
    wait(database.left_by(&options));
    let query = "SELECT deadlocks FROM pg_stat_database WHERE datname = $1";
    let deadlocks: i64 = wait(sqlx::query_scalar(query).bind(name).fetch_one(&database.pool()))?;
    assert_eq!(deadlocks, 0);
    Ok(())
}

#[test]
fn conflicts_are_named_whatever_level_the_database_prefers() -> Tested {
    let database = Database::new();
    let options = database.options.clone().options([("default_transaction_isolation", "serializable")]);
    let stores: Vec<_> = (0..8).map(|_| store_on(options.clone(), &database.schema)).collect();
    for round in 0..5 {
        let changes = take(&format!("key {round}"));
        let all = stores.iter().map(|store| {
            let (store, changes) = (store.clone(), changes.clone());
            runtime().spawn(async move { store.commit(&changes).await })
        });
        let mut winners = 0;
        for done in wait(join_all(all)) {
            match done? {
                Ok(()) => winners += 1,
                Err(CommitError::Conflicts(named)) => {
                    let key = format!("key {round}");
                    assert_eq!(named, [Conflict::Taken { key, owner: "me".to_owned() }]);
                }
                Err(error) => return Err(error.into()),
            }
        }
        assert_eq!(winners, 1);
    }
    Ok(())
}

#[test]
fn claims_find_what_is_free_whatever_level_the_database_prefers() -> Tested {
    const WORKERS: usize = 8;
    const JOBS: usize = 200;
    let database = Database::new();
    let mut changes = ChangeSet::new();
    (0..JOBS).for_each(|_| _ = Office::new().job(&mut changes));
    wait(database.store().commit(&changes))?;
    let options = database.options.clone().options([("default_transaction_isolation", "serializable")]);
    let all = (0..WORKERS).map(|worker| {
        let store = store_on(options.clone(), &database.schema);
        runtime().spawn(async move {
            let mut claimed = Vec::new();
            loop {
                let wanted = ClaimRequest::new(format!("worker {worker}"), 5, Duration::from_secs(60));
                let jobs = store.claim(&wanted).await?;
                if jobs.is_empty() {
                    return Ok::<_, RepositoryError>(claimed);
                }
                claimed.extend(jobs.into_iter().map(|job| job.id));
            }
        })
    });
    let mut claimed = Vec::new();
    for done in wait(join_all(all)) {
        claimed.extend(done??);
    }
    assert_eq!(claimed.len(), JOBS);
    claimed.sort_unstable();
    claimed.dedup();
    assert_eq!(claimed.len(), JOBS, "each was claimed once");
    Ok(())
}

#[test]
fn a_call_that_is_dropped_leaves_nothing_open() -> Tested {
    let database = Database::new();
    let proxy = wait(Proxy::start(Cut::Never));
    let pool = wait(async { pool_of(1).connect_lazy_with(database.options.clone().port(proxy.port)) });
    let store = PostgresRepository::new(pool.clone(), database.schema.clone());
    for passed in 0.. {
        let changes = cards(&["Meier"]);
        // Dropped while the next thing that it says is on its way.
        let done = wait(async {
            proxy.hold.after(passed);
            let (commit, held) = (pin!(store.commit(&changes)), pin!(proxy.hold.held.notified()));
            match select(commit, held).await {
                Either::Left((done, _)) => Some(done),
                Either::Right(_) => None,
            }
        });
        proxy.hold.let_go();
        // The only connection of the pool must be free of it, and what others do on it must last.
        let (open, alone): (bool, bool) = wait(async {
            let mut connection = pool.acquire().await?;
            // What was on its way is done now or never.
            let others = "SELECT count(*) FROM pg_stat_activity \
                WHERE application_name = current_setting('application_name') AND pid <> pg_backend_pid()";
            while sqlx::query_scalar::<_, i64>(others).fetch_one(&mut *connection).await? > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            connection.execute("CREATE TEMPORARY TABLE IF NOT EXISTS own (a integer)").await?;
            let query = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL, \
                now() <> (SELECT xact_start FROM pg_stat_activity WHERE pid = pg_backend_pid())";
            sqlx::query_as(query).fetch_one(&mut *connection).await
        })?;
        assert!(!open && !alone, "a transaction was left open after {passed} messages");
        let found = wait(store.cards(&ids(&changes)))?.len();
        let history = wait(store.history(&ObjectId::Card(changes.cards[0].id), 0, 9))?.len();
        assert_eq!(found, history, "all or nothing");
        if let Some(done) = done {
            assert!(done.is_ok() && found == 1, "{done:?}");
            // BEGIN, preparing, the call and COMMIT; more where the pool asks for a sign of life in time to be held.
            assert!(passed >= 4, "it was dropped here and there");
            break;
        }
    }
    Ok(())
}

/// A call that waits, within this runtime, for a key that another is about to take.
fn held_call(
    runtime: &Runtime,
    database: &Database,
) -> (PgPool, impl Future<Output = Result<(), CommitError>> + use<>) {
    let pool = runtime.block_on(async { pool_of(1).min_connections(1).connect_lazy_with(database.options.clone()) });
    let store = PostgresRepository::new(pool.clone(), database.schema.clone());
    let mut call = Box::pin(async move { store.commit(&take("a")).await });
    runtime.block_on(async {
        let mut watch = beside(database).await;
        let waits = pin!(waiting(database, &mut watch));
        assert!(matches!(select(&mut call, waits).await, Either::Right(_)), "it waits");
    });
    (pool, call)
}

#[test]
fn a_call_may_be_dropped_outside_the_runtime() -> Tested {
    for ends in [false, true] {
        let database = Database::new();
        let mut other = wait(beside(&database));
        wait(other.execute("BEGIN; INSERT INTO reservation VALUES ('a', 'other')"))?;
        let own = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (pool, call) = held_call(&own, &database);
        if ends {
            drop(own);
            drop(call);
        } else {
            drop(call);
            // It has given back the only connection.
            own.block_on(async { pool.acquire().await.map(drop) })?;
        }
        wait(other.execute("ROLLBACK"))?;
        assert_eq!(wait(database.store().reservations(&["a".to_owned()]))?, []);
    }
    Ok(())
}

// ---- the line ----------------------------------------------------------------------------------------------------------

/// When a proxy cuts the line.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Never,
    /// Before the server hears of a statement.
    Before,
    /// After the server has answered to a statement, before the client hears of that.
    After,
}

/// Holds one message of the client.
struct Hold {
    /// How many that ask for an answer pass before it.
    passing: AtomicUsize,
    held: Notify,
    goes_on: Notify,
}

impl Hold {
    fn after(&self, passing: usize) {
        self.passing.store(passing, Ordering::SeqCst);
    }

    /// Lets pass what is held, and all that comes.
    fn let_go(&self) {
        self.after(usize::MAX);
        self.goes_on.notify_one();
    }

    async fn pass(&self) {
        if self.passing.fetch_sub(1, Ordering::SeqCst) == 0 {
            self.held.notify_one();
            self.goes_on.notified().await;
        }
    }
}

/// Passes on what client and server say, and counts statements; cuts the line once.
struct Proxy {
    port: u16,
    statements: Arc<AtomicUsize>,
    hold: Arc<Hold>,
    /// How many statements pass before the one at which it cuts.
    passing: Arc<AtomicUsize>,
}

impl Proxy {
    async fn start(cut: Cut) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let statements = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&statements);
        let hold = Hold { passing: AtomicUsize::new(usize::MAX), held: Notify::new(), goes_on: Notify::new() };
        let hold = Arc::new(hold);
        let holds = Arc::clone(&hold);
        let passing = Arc::new(AtomicUsize::new(0));
        let passes = Arc::clone(&passing);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect((server().get_host(), server().get_port())).await.expect("the server");
                Self::pass(client, server, cut, &passes, &counted, &holds).await;
            }
        });
        Self { port, statements, hold, passing }
    }

    async fn pass(
        client: TcpStream,
        server: TcpStream,
        cut: Cut,
        passing: &AtomicUsize,
        statements: &AtomicUsize,
        hold: &Hold,
    ) {
        for line in [&client, &server] {
            line.set_nodelay(true).expect("it is set");
        }
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let done = AtomicBool::new(false);
        let up = async {
            let mut length = [0; 4];
            // The first message has no kind.
            let mut is_first = true;
            loop {
                let kind = if is_first { 0 } else { from_client.read_u8().await? };
                from_client.read_exact(&mut length).await?;
                let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
                from_client.read_exact(&mut body).await?;
                statements.fetch_add(usize::from(matches!(kind, b'Q' | b'E')), Ordering::Relaxed);
                if matches!(kind, b'Q' | b'E') && passing.fetch_sub(1, Ordering::Relaxed) == 0 {
                    match cut {
                        Cut::Never => {}
                        Cut::Before => return Ok::<(), std::io::Error>(()),
                        Cut::After => done.store(true, Ordering::Relaxed),
                    }
                }
                if matches!(kind, b'Q' | b'S') {
                    hold.pass().await;
                }
                let mut message = if is_first { Vec::new() } else { vec![kind] };
                message.extend(length);
                message.extend(body);
                to_server.write_all(&message).await?;
                is_first = false;
            }
        };
        let down = async {
            let mut buffer = vec![0; 65536];
            loop {
                let count = from_server.read(&mut buffer).await?;
                if count == 0 || done.load(Ordering::Relaxed) {
                    return Ok::<(), std::io::Error>(());
                }
                to_client.write_all(&buffer[..count]).await?;
            }
        };
        let (up, down) = (pin!(up), pin!(down));
        // Whichever ends first ends both.
        futures::future::select(up, down).await;
    }
}

fn through(proxy: &Proxy, database: &Database) -> PostgresRepository {
    store_on(database.options.clone().port(proxy.port), &database.schema)
}

#[test]
fn a_line_that_is_cut_at_commit_leaves_the_outcome_unknown() -> Tested {
    for (cut, stored) in [(Cut::After, true), (Cut::Before, false)] {
        let database = Database::new();
        let proxy = wait(Proxy::start(cut));
        // After BEGIN and the call comes COMMIT.
        proxy.passing.store(2, Ordering::Relaxed);
        let store = through(&proxy, &database);
        let changes = cards(&["Meier"]);
        let lost = failure(wait(store.commit(&changes)));
        assert!(matches!(lost, Err(RepositoryError::OutcomeUnknown { .. })), "{lost:?}");
        // As the contract says: the same again.
        let again = wait(store.commit(&changes));
        if stored {
            let object = StoredId::Object(ObjectId::Card(changes.cards[0].id));
            assert_eq!(conflicts(again), [Conflict::Version { object, expected: 0, found: 1 }]);
        } else {
            again?;
        }
        assert_eq!(wait(store.cards(&ids(&changes)))?.len(), 1);
        assert_eq!(wait(store.history(&ObjectId::Card(changes.cards[0].id), 0, 9))?.len(), 1);
    }
    Ok(())
}

#[test]
fn a_line_that_is_cut_at_any_statement_loses_no_card_and_orders_none_twice() {
    let _entered = runtime().enter();
    for cut in [Cut::Before, Cut::After] {
        let (mut cuts, mut doubts) = (0, 0);
        for statement in 0.. {
            let database = Database::new();
            let proxy = wait(Proxy::start(cut));
            proxy.passing.store(usize::MAX, Ordering::Relaxed);
            let clock = SimulatedClock::new(SystemClock.now()).auto();
            let options = database.options.clone().port(proxy.port);
            let store = PostgresRepository::new(pool_of(1).connect_lazy_with(options), database.schema.clone());
            let office = office::Office::on(store, clock, |builder| builder);
            office.script(ORDER_SCRIPT, "CardsAddonExtProdQueueCards = true");
            proxy.passing.store(statement, Ordering::Relaxed);

            let people = (1..=5).map(|number| user_item(&format!("u{number}"))).collect::<Vec<_>>();
            let order = async || {
                let run = office.engine.open_as(run_id(1), ORDER, &operator()).await?;
                office.engine.next(&run, Answer::ids(people.clone())).await?.finish().await
            };
            let mut done = None;
            for _ in 0..3 {
                done = wait(order()).ok().filter(|report| report.interrupted.is_none());
                if done.is_some() {
                    break;
                }
            }
            let report = done.expect("a line is cut once");
            assert_eq!(report.done_in_all() + report.done_earlier, 5, "{cut:?} {statement}: {report:?}");
            for _ in 0..3 {
                drop(office.try_run(SYNC_ORDERS, &service(), Answer::new()));
                // What was claimed and not released is free again.
                let day = Duration::from_secs(24 * 3600);
                wait(database.pass_time(day));
                office.clock.advance(day);
            }
            let is_over = proxy.passing.load(Ordering::Relaxed) < usize::MAX / 2;
            let cards = wait(database.store().card_page(&CardQuery::default(), None, 99)).expect("cards can be read");
            let holders: BTreeSet<_> = cards.iter().map(|card| card.holder.clone()).collect();
            assert_eq!((cards.len(), holders.len()), (5, 5), "{cut:?} {statement}");
            let ledger = office.bureau.ledger();
            // The reference of an attempt is its job and a number.
            let job = |reference: &str| reference.rsplit_once('-').map(|(job, _)| job.to_owned());
            let ordered_jobs: BTreeSet<_> = ledger.iter().map(|entry| job(&entry.reference)).collect();
            assert_eq!(ledger.len(), ordered_jobs.len(), "{cut:?} {statement}: ordered once");
            let (ordered, others): (Vec<_>, Vec<_>) = cards.iter().partition(|card| card.state() == CardState::Ordered);
            assert!(ordered.len() <= ledger.len() && ledger.len() <= 5, "{cut:?} {statement}: {ledger:?}");
            for card in &others {
                assert!(card.busy.as_ref().is_some_and(|busy| busy.in_doubt), "{cut:?} {statement}: {card:?}");
            }
            assert!(others.len() <= 3, "no more than one call is in doubt");
            doubts += others.len();
            if is_over {
                break;
            }
            cuts += 1;
        }
        println!("{cut:?}: {cuts} statements, {doubts} orders in doubt");
        assert!(cuts > 10, "{cuts}");
    }
}

#[test]
fn a_line_that_is_cut_in_a_claim_leaves_the_outcome_unknown() -> Tested {
    let database = Database::new();
    let mut changes = ChangeSet::new();
    let job = Office::new().job(&mut changes);
    wait(database.store().commit(&changes))?;
    let claim = ClaimRequest::new("worker", 9, Duration::from_secs(60));
    let unknown = |result: Result<Vec<Job>, RepositoryError>| match result {
        Err(RepositoryError::OutcomeUnknown { .. }) => {}
        other => panic!("nobody knows: {other:?}"),
    };
    let cut_off = || through(&wait(Proxy::start(Cut::After)), &database);
    unknown(wait(cut_off().claim(&claim)));
    assert_eq!(wait(database.store().claim(&claim))?, [], "it was claimed, by nobody who knows");
    let claimed = wait(database.store().jobs(&[job.id]))?.remove(0);
    let attempt = Attempt { reference: "r".to_owned(), number: 1, started: job.created };
    let attempts = [(job.id, claimed.version, attempt.clone())];
    unknown(wait(cut_off().record_attempts(&attempts, claim.lease)));
    let recorded = wait(database.store().jobs(&[job.id]))?.remove(0);
    assert_eq!((recorded.attempts, recorded.attempt), (1, Some(attempt)));
    assert_eq!(wait(database.store().record_attempts(&attempts, claim.lease))?, [], "it is not stored twice");
    // What only reads has no outcome.
    unavailable(wait(cut_off().jobs(&[job.id])), "lost");
    Ok(())
}

#[test]
fn a_commit_has_a_constant_number_of_statements() -> Tested {
    let database = Database::new();
    let proxy = wait(Proxy::start(Cut::Never));
    let store = through(&proxy, &database);
    let office = Office::new();
    let mut counts = Vec::new();
    for size in [1_usize, 300] {
        let mut old = ChangeSet::new();
        for number in 0..size {
            let card = office.card(&mut old, &number.to_string(), "Meier");
            office.certificate(&mut old, card.id);
            office.job(&mut old);
            old.records.push(Record::new(format!("old/{size}/{number}"), 1.into()));
            old.takes.push(reservation(&format!("old/{size}/{number}"), "me"));
        }
        wait(store.commit(&old))?;
        let mut changes = ChangeSet::new();
        for number in 0..size {
            let card = office.card(&mut changes, &number.to_string(), "Meier");
            office.certificate(&mut changes, card.id);
            office.job(&mut changes);
            changes.records.push(Record::new(format!("new/{size}/{number}"), 1.into()));
            changes.takes.push(reservation(&format!("new/{size}/{number}"), "me"));
        }
        changes.releases = old.takes;
        let raised = |changes: &mut ChangeSet, mut card: Card| {
            card.version = 1;
            card.number = Some(format!("renamed {}", card.id));
            changes.note_card(&mut card, &office.stamp(), Why::code("renamed"));
            changes.put_card(card);
        };
        old.cards.into_iter().for_each(|card| raised(&mut changes, card));
        for mut certificate in old.certificates {
            certificate.version = 1;
            changes.history.push(certificate.note(&office.stamp(), Why::code("noted")));
            changes.certificates.push(certificate);
        }
        changes.jobs.extend(old.jobs.into_iter().map(|job| cardwright::Job { version: 1, ..job }));
        changes.records.extend(old.records.into_iter().map(|record| Record { version: 1, ..record }));
        let before = proxy.statements.load(Ordering::Relaxed);
        wait(store.commit(&changes))?;
        counts.push(proxy.statements.load(Ordering::Relaxed) - before);
    }
    assert_eq!(counts[0], counts[1]);
    assert_eq!(counts[0], 3, "a beginning, one for all that is stored, an end");
    Ok(())
}

/// A server of the test's own.
pub(crate) struct Server(Child);

impl Server {
    /// A server of its own, and its URL.
    pub(crate) fn start() -> (Self, String) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/postgres");
        let server = Command::new(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut server = Self(server);
        let url = server.line();
        (server, url)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        // The script says nothing until it is asked: nothing is lost in the buffer.
        BufReader::new(self.0.stdout.as_mut().expect("it is piped")).read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    pub(crate) fn tell(&mut self, order: &str) {
        writeln!(self.0.stdin.as_mut().expect("it is piped"), "{order}").expect("it listens");
        assert_eq!(self.line(), order);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_that_restarts_is_away_for_a_while() -> Tested {
    server();
    let (mut server, url) = Server::start();
    let options = PgConnectOptions::from_str(&url)?;
    let store = store_on(options, &SchemaName::new("cards")?);
    wait(store.migrate())?;
    let changes = cards(&["Meier"]);
    wait(store.commit(&changes))?;
    server.tell("stop");
    unavailable(wait(store.cards(&ids(&changes))), "");
    unavailable(failure(wait(store.commit(&take("a")))), "");
    unavailable(wait(store.claim(&ClaimRequest::new("worker", 1, Duration::from_secs(1)))), "");
    server.tell("start");
    assert_eq!(wait(store.cards(&ids(&changes)))?.len(), 1);
    wait(store.commit(&take("a")))?;
    Ok(())
}

#[test]
fn no_call_goes_through_a_whole_table() -> Tested {
    const FEW: usize = 10;
    let database = Database::new();
    let office = Office::new();
    let as_of = |name: &str| database.options.clone().application_name(&format!("{}_{name}", database.schema));
    let mut all = ChangeSet::new();
    for number in 0..2_000 {
        let card = office.card(&mut all, &number.to_string(), &format!("Meier {number}"));
        office.certificate(&mut all, card.id);
        office.job(&mut all);
        all.records.push(Record::new(format!("record/{number}"), 1.into()));
        all.takes.push(reservation(&format!("key/{number}"), "me"));
    }
    wait(store_on(as_of("filling"), &database.schema).commit(&all))?;
    wait(database.left_by(&as_of("filling")));
    // Nobody has told the planner yet how much there is: autovacuum comes later.
    let before = wait(touched(&database, all.cards.len()))?;
    let store = store_on(as_of("few"), &database.schema);
    // From the middle: whoever reads from the beginning reads much.
    let ids = &ids(&all)[1_000..][..FEW];
    let certificates: Vec<_> = all.certificates.iter().skip(1_000).take(FEW).map(|one| one.id).collect();
    let jobs: Vec<_> = all.jobs.iter().take(FEW).map(|one| one.id).collect();
    let keys = |what: &str| (0..FEW).map(|number| format!("{what}/{number}")).collect::<Vec<_>>();
    let holder = all.cards[0].holder.clone().into_iter().collect::<Vec<_>>();
    let of_cards = CertificateQuery { cards: ids.to_vec(), ..CertificateQuery::default() };
    let in_state = CertificateQuery { states: vec![all.certificates[0].state()], ..of_cards.clone() };
    let lease = Duration::from_secs(60);
    let counts = wait(async {
        let claimed = store.claim(&ClaimRequest::new("worker", FEW, lease)).await?;
        let of_ids =
            store.claim(&ClaimRequest { ids: jobs.clone(), ..ClaimRequest::new("worker", FEW, lease) }).await?;
        let held: Vec<_> = claimed.iter().chain(&of_ids).map(|job| (job.id, job.version)).collect();
        let number = |number| Attempt { reference: "r".to_owned(), number, started: all.jobs[0].created };
        let attempts: Vec<_> = held.iter().map(|(id, version)| (*id, *version, number(1))).collect();
        let recorded = store.record_attempts(&attempts, lease).await?;
        let held: Vec<_> = recorded.iter().map(|job| (job.id, job.version)).collect();
        let renewed = store.renew(&held, lease).await?;
        store.release(&held).await?;
        Ok::<_, RepositoryError>([
            store.cards(ids).await?.len(),
            store.certificates(&certificates).await?.len(),
            store.requests(&[RequestId::new(uuid::Uuid::nil())]).await?.len() + FEW,
            store.jobs(&jobs).await?.len(),
            store.records(&keys("record")).await?.len(),
            store.reservations(&keys("key")).await?.len(),
            claimed.len(),
            held.len() - claimed.len() + FEW - of_ids.len(),
            renewed.len() - held.len() + FEW,
            store.cards_of(&holder, &[all.cards[0].state()]).await?.len().min(1) * FEW,
            store.certificate_page(&of_cards, None, 2 * FEW).await?.len(),
            store.certificate_page(&in_state, None, 2 * FEW).await?.len(),
        ])
    })?;
    assert_eq!(counts, [FEW; 12]);
    let mut changes = ChangeSet::new();
    for mut card in wait(store.cards(ids))? {
        card.number = Some(format!("renamed {}", card.id));
        changes.note_card(&mut card, &office.stamp(), Why::code("renamed"));
        changes.put_card(card);
        office.card(&mut changes, "new", "Meier");
    }
    for mut certificate in wait(store.certificates(&certificates))? {
        changes.history.push(certificate.note(&office.stamp(), Why::code("noted")));
        changes.certificates.push(certificate);
    }
    changes.jobs = wait(store.jobs(&jobs))?;
    changes.records = wait(store.records(&keys("record")))?;
    changes.releases = keys("key").iter().map(|key| reservation(key, "me")).collect();
    changes.takes = keys("taken").iter().map(|key| reservation(key, "me")).collect();
    wait(store.commit(&changes))?;
    drop(store);
    wait(database.left_by(&as_of("few")));
    let after = wait(touched(&database, all.cards.len() + FEW))?;
    for ((table, scans, read), (_, scans_before, read_before)) in after.into_iter().zip(before) {
        assert_eq!(scans, scans_before, "{table} was read from beginning to end");
        let read = read - read_before;
        assert!(read <= 300, "{read} entries of indices were read for a few rows of {table}");
    }

    let before = wait(touched(&database, all.cards.len() + FEW))?;
    wait(database.is_followed());
    let store = store_on(as_of("pages"), &database.schema);
    let of_text = |prefix: &str| CardQuery { text: vec![TextPrefix::new("surname", prefix)], ..CardQuery::default() };
    let of_state = CardQuery { states: vec![all.cards[0].state()], ..CardQuery::default() };
    let middle = all.cards[1_000].id;
    let counts = wait(async {
        Ok::<_, RepositoryError>([
            store.card_page(&of_state, Some(middle), FEW).await?.len(),
            store.card_page(&of_text("meier"), Some(middle), FEW).await?.len(),
            store.card_page(&of_text("meier 199"), None, FEW).await?.len(),
            store.card_page(&CardQuery { holders: holder.clone(), ..CardQuery::default() }, None, FEW).await?.len()
                * FEW,
            store.card_page(&CardQuery::default(), Some(middle), FEW).await?.len(),
            store.certificate_page(&CertificateQuery::default(), None, FEW).await?.len(),
            store.request_page(&RequestQuery::default(), None, FEW).await?.len() + FEW,
            store.job_page(&JobQuery::default(), None, FEW).await?.len(),
            store.history(&ObjectId::Card(middle), 0, 1).await?.len() * FEW,
            store.changes_since(None, FEW).await?.entries.len(),
        ])
    })?;
    assert_eq!(counts, [FEW; 10]);
    drop(store);
    wait(database.left_by(&as_of("pages")));
    let after = wait(touched(&database, all.cards.len() + FEW))?;
    for ((table, scans, read), (_, scans_before, read_before)) in after.into_iter().zip(before) {
        assert_eq!(scans, scans_before, "{table} was read from beginning to end for a page");
        let read = read - read_before;
        // Of a text, so many are counted as decide how it is looked up.
        assert!(
            read <= if table == "card_term" { 1_000 } else { 300 },
            "{read} entries of indices were read for pages of {table}"
        );
    }
    Ok(())
}

/// Of each table that grows: how often it was read from beginning to end, and how many entries of its indices were read; once the
/// server has counted so many new cards.
async fn touched(database: &Database, cards: usize) -> Result<Vec<(String, i64, i64)>, sqlx::Error> {
    let pool = database.pool();
    let (schema, cards) = (database.schema.as_str(), i64::try_from(cards).expect("a number"));
    let count = "SELECT coalesce(sum(n_tup_ins), 0)::bigint FROM pg_stat_user_tables WHERE schemaname = $1 AND relname = 'card'";
    while sqlx::query_scalar::<_, i64>(count).bind(schema).fetch_one(&pool).await? < cards {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let query = "SELECT t.relname::text, t.seq_scan, sum(i.idx_tup_read)::bigint FROM pg_stat_user_tables AS t \
        JOIN pg_stat_user_indexes AS i USING (relid) WHERE t.schemaname = $1 AND t.relname <> 'cardwright_migration' \
        GROUP BY t.relname, t.seq_scan ORDER BY 1";
    sqlx::query_as(query).bind(schema).fetch_all(&pool).await
}

// ---- what is stored ----------------------------------------------------------------------------------------------------

#[test]
fn what_cannot_be_read_is_named() -> Tested {
    let database = Database::new();
    let store = database.store();
    let mut changes = cards(&["Meier"]);
    let job = Office::new().job(&mut changes);
    let record = Record::new("the record", 1.into());
    changes.records.push(record.clone());
    wait(store.commit(&changes))?;
    let corrupt = |result: Result<(), RepositoryError>, what: &str| match result {
        Err(RepositoryError::Corrupt { reason, .. }) => assert!(reason.contains(what), "{reason}"),
        other => panic!("{what}: {other:?}"),
    };
    let card = changes.cards[0].id;
    for change in ["UPDATE @card SET data = '{}'", "UPDATE @card SET version = -1"] {
        wait(database.run(change));
        corrupt(wait(store.cards(&[card])).map(|_| ()), &format!("card {card}"));
        corrupt(wait(store.card_page(&CardQuery::default(), None, 9)).map(|_| ()), &format!("card {card}"));
    }
    wait(database.run("UPDATE @job SET data = 'x'; UPDATE @record SET data = '[]'; UPDATE @history SET data = '1'"));
    corrupt(wait(store.jobs(&[job.id])).map(|_| ()), &format!("job {}", job.id));
    let claim = ClaimRequest::new("worker", 9, Duration::from_secs(9));
    let mut others = ChangeSet::new();
    let readable = Office::new().job(&mut others);
    wait(store.commit(&others))?;
    corrupt(wait(store.claim(&claim)).map(|_| ()), &format!("job {}", job.id));
    assert_eq!(wait(store.claim(&claim))?.iter().map(|job| job.id).collect::<Vec<_>>(), [readable.id]);
    corrupt(wait(store.records(&[record.key])).map(|_| ()), "record the record");
    corrupt(wait(store.changes_since(None, 9)).map(|_| ()), "history entry");
    Ok(())
}

#[test]
fn texts_of_any_length_are_searched() -> Tested {
    let database = Database::new();
    let store = database.store();
    let long = "long ä".repeat(2_000);
    let (first, second) = (format!("{long}1"), format!("{long}2"));
    let changes = cards(&[&first, &second, "short", &first]);
    wait(store.commit(&changes))?;
    let page = |prefix: &str, limit: usize| {
        let query = CardQuery { text: vec![TextPrefix::new("surname", prefix)], ..CardQuery::default() };
        let mut found = Vec::new();
        loop {
            let after = found.last().copied();
            let page: Vec<CardId> =
                wait(store.card_page(&query, after, limit)).unwrap().iter().map(|card| card.id).collect();
            found.extend_from_slice(&page);
            if page.len() < limit {
                return found;
            }
        }
    };
    let of = |places: &[usize]| {
        let mut ids: Vec<CardId> = places.iter().map(|place| changes.cards[*place].id).collect();
        ids.sort_unstable();
        ids
    };
    for limit in [1, 2, 9] {
        assert_eq!(page("long", limit), of(&[0, 1, 3]), "{limit}");
        assert_eq!(page(&first, limit), of(&[0, 3]), "{limit}");
        assert_eq!(page(&second, limit), of(&[1]), "{limit}");
        assert_eq!(page(&long[..511], limit), of(&[0, 1, 3]), "{limit}");
    }
    Ok(())
}

#[test]
fn a_text_that_many_have_is_paged_like_one_that_few_have() -> Tested {
    let database = Database::new();
    let store = database.store();
    let names: Vec<String> = (0..2_200).map(|number| format!("Meier {number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let changes = cards(&names);
    wait(store.commit(&changes))?;
    for texts in
        [vec![("surname", "meier")], vec![("surname", "m"), ("number", "2")], vec![("surname", ""), ("number", "")]]
    {
        let text: Vec<_> = texts.into_iter().map(|(name, prefix)| TextPrefix::new(name, prefix)).collect();
        let query = CardQuery { text, ..CardQuery::default() };
        let mut expected: Vec<CardId> =
            changes.cards.iter().filter(|card| query.matches(card)).map(|card| card.id).collect();
        expected.sort_unstable();
        let mut found: Vec<CardId> = Vec::new();
        loop {
            let page = wait(store.card_page(&query, found.last().copied(), 700))?;
            found.extend(page.iter().map(|card| card.id));
            if page.len() < 700 {
                break;
            }
        }
        assert_eq!(found, expected, "{query:?}");
    }
    Ok(())
}

#[test]
fn a_card_that_has_a_text_twice_is_on_a_page_once() -> Tested {
    for count in [3, 450] {
        let database = Database::new();
        let store = database.store();
        let mut changes = cards(&vec!["Meier"; count]);
        for card in &mut changes.cards {
            card.number = Some("17".to_owned());
            card.attributes.insert(Card::NUMBER.to_owned(), "17b".to_owned());
            card.searchable = Arc::new([Card::NUMBER.to_owned()].into());
        }
        wait(store.commit(&changes))?;
        let mut expected = ids(&changes);
        expected.sort_unstable();
        for limit in [1, 2, 7, 500] {
            for texts in [vec!["17"], vec!["1", "17b"]] {
                let text = texts.into_iter().map(|prefix| TextPrefix::new(Card::NUMBER, prefix)).collect();
                let query = CardQuery { text, ..CardQuery::default() };
                let mut found: Vec<CardId> = Vec::new();
                loop {
                    let page = wait(store.card_page(&query, found.last().copied(), limit))?;
                    found.extend(page.iter().map(|card| card.id));
                    if page.len() < limit {
                        break;
                    }
                }
                assert_eq!(found, expected, "{count} cards, {limit} on a page");
            }
        }
    }
    Ok(())
}

#[test]
fn the_feed_waits_for_who_began_before() -> Tested {
    let (server, url) = Server::start();
    let options = PgConnectOptions::from_str(&url)?;
    let store = store_on(options.clone(), &SchemaName::new("cards")?);
    wait(store.migrate())?;
    wait(async {
        let mut slow = PgConnection::connect_with(&options).await?;
        slow.execute("BEGIN; SELECT pg_current_xact_id()").await?;
        let changes = cards(&["Meier"]);
        store.commit(&changes).await?;
        assert_eq!(store.changes_since(None, 9).await?.entries, []);
        slow.execute("ROLLBACK").await?;
        assert_eq!(store.changes_since(None, 9).await?.entries.len(), 1);
        for cursor in ["", "1", "x.1", "-1.1", "1.+1", "1.", ".1", "1.1.1", "99999999999999999999.1"] {
            let refused = store.changes_since(Some(cursor), 1).await;
            assert!(matches!(refused, Err(RepositoryError::Rejected { .. })), "{cursor}: {refused:?}");
        }
        Ok::<_, Box<dyn Error>>(())
    })?;
    drop(server);
    Ok(())
}

#[test]
fn the_feed_goes_on_after_a_move_to_another_server() -> Tested {
    let database = Database::new();
    let store = database.store();
    let mut changes = cards(&["a", "b"]);
    wait(store.commit(&changes))?;
    wait(database.is_followed());
    assert_eq!(wait(store.changes_since(None, 99))?.entries.len(), 2);
    // As if the server before had counted further.
    wait(database.run("UPDATE @history SET transaction = transaction + 1000000000"));
    assert_eq!(wait(store.changes_since(None, 99))?.entries, []);
    wait(store.migrate())?;
    let before = wait(store.changes_since(None, 99))?;
    assert_eq!(before.entries.len(), 2);
    let mut card = changes.cards.remove(0);
    card.version = 1;
    let mut later = ChangeSet::new();
    later.note_card(&mut card, &Office::new().stamp(), Why::code("noted"));
    later.put_card(card);
    wait(store.commit(&later))?;
    wait(store.migrate())?;
    // Nothing else tells when the feed has come so far: its numbers are ahead of the server's.
    let page = loop {
        let page = wait(store.changes_since(before.cursor.as_deref(), 99))?;
        if !page.entries.is_empty() {
            break page;
        }
    };
    assert_eq!(page.entries.iter().map(|one| one.entry.clone()).collect::<Vec<_>>(), later.history);
    Ok(())
}

#[test]
fn an_entry_that_is_there_already_is_refused_and_named() -> Tested {
    let database = Database::new();
    let store = database.store();
    let changes = cards(&["a", "b"]);
    wait(store.commit(&changes))?;
    let object = changes.history[1].object.clone();
    let mut again = ChangeSet::new();
    again.history.push(changes.history[1].clone());
    rejected(failure(wait(store.commit(&again))), &format!("{object} already has a history entry 1"));
    let mut twice = cards(&["c"]);
    twice.history.push(twice.history[0].clone());
    rejected(failure(wait(store.commit(&twice))), "already has a history entry 1");
    assert_eq!(wait(store.cards(&ids(&twice)))?, []);
    Ok(())
}
