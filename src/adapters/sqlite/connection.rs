//! Opening a file: what it must be, and what it is brought up to.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::problem::Problem;

/// Marks a file as ours: "Card".
pub(super) const APPLICATION_ID: i64 = 0x4361_7264;

/// What brings a file from one version to the next; the version of a file is how many of these it has had.
const MIGRATIONS: &[&str] = &[include_str!("schema.sql"), include_str!("certificates.sql")];

/// The version of the schema that this release writes.
const KNOWN: i64 = MIGRATIONS.len() as i64;

/// After so many pages the log is moved into the file. Rare and large is what makes bulk orders fast.
const CHECKPOINT_PAGES: i64 = 8_000;

/// How large the log stays when it is empty.
const LOG_BYTES: i64 = 64 << 20;

/// How much of the file the writer keeps in memory, in KiB (negative by SQLite's convention).
const WRITER_CACHE: i64 = -64 << 10;

/// Opens the connection that writes; creates the file, or brings it up to date, if need be.
pub(super) fn open_writer(path: &Path, busy_timeout: Duration, max_bytes: Option<u64>) -> Result<Connection, Problem> {
    let mut connection = connect(path, busy_timeout)?;
    // SQLite opens a file that may only be read for reading, without a word.
    if connection.is_readonly(rusqlite::MAIN_DB)? {
        return Err(Problem::ReadOnly);
    }
    // Looked at before anything is written: a foreign file is left as it is.
    check_alone(&connection)?;
    keep_log(&connection, busy_timeout)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    connection.pragma_update(None, "cache_size", WRITER_CACHE)?;
    migrate(&mut connection)?;
    if let Some(bytes) = max_bytes {
        let page: i64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        let pages = i64::try_from(bytes).unwrap_or(i64::MAX) / page.max(1);
        // Asked for fewer than there are, SQLite lets the file be as large as it is; asked for none, it changes nothing.
        connection.pragma_update(None, "max_page_count", pages.max(1))?;
    }
    Ok(connection)
}

/// Opens a connection that reads a file that [`open_writer`] has opened before.
pub(super) fn open_reader(path: &Path, busy_timeout: Duration) -> Result<Connection, Problem> {
    let connection = connect(path, busy_timeout)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn connect(path: &Path, busy_timeout: Duration) -> Result<Connection, Problem> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(busy_timeout)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_prepared_statement_cache_capacity(64);
    rusqlite::vtab::array::load_module(&connection)?;
    Ok(connection)
}

/// As [`check`], outside a transaction. All of it is read from one snapshot: half of what another process is creating
/// would look like a foreign file.
fn check_alone(connection: &Connection) -> Result<i64, Problem> {
    let _transaction = connection.unchecked_transaction()?;
    check(connection)
}

/// The version of the schema; 0 for an empty file. Inside a transaction.
fn check(connection: &Connection) -> Result<i64, Problem> {
    let application: i64 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let objects: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match application {
        APPLICATION_ID if found > KNOWN => Err(Problem::NewerSchema { found, known: KNOWN }),
        APPLICATION_ID if found > 0 => Ok(found),
        0 if found == 0 && objects == 0 => Ok(0),
        _ => Err(Problem::Foreign),
    }
}

/// Switches to a write-ahead log. Two processes that do this to a new file at once are told "busy" without waiting.
fn keep_log(connection: &Connection, busy_timeout: Duration) -> Result<(), Problem> {
    let begun = Instant::now();
    loop {
        let mode = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0));
        match mode {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => return Err(Problem::NoWriteAheadLog(mode)),
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && begun.elapsed() < busy_timeout =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn migrate(connection: &mut Connection) -> Result<(), Problem> {
    if check_alone(connection)? == KNOWN {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Again, now that nobody else can: another process may have been faster.
    let found = check(&transaction)?;
    for (version, migration) in (1_i64..).zip(MIGRATIONS) {
        if version > found {
            transaction.execute_batch(migration)?;
            transaction.pragma_update(None, "user_version", version)?;
        }
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.commit()?;
    Ok(())
}
