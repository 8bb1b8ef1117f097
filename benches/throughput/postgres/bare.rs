//! The bare bound in PostgreSQL: what the engine wrote, in the same transactions, in sets by `unnest`, on one connection.
//!
//! As in SQLite, the rows and their bytes are those that a run of the engine left behind, the tables and indices those of the store,
//! and nothing is read. The rows are taken down right after each transaction, so that a card that is written twice in one stage has
//! both times the state that it had then.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use cardwright::{CardId, ChangeSet, JobId, Reservation};
use chrono::{DateTime, Utc};
use sqlx::postgres::{PgArguments, PgConnection, PgPool, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Executor as _, Row as _};
use uuid::Uuid;

use super::database::Database;
use super::shapes::{
    APPENDED, ATTEMPTED, CHANGED_CARDS, CHANGED_CERTIFICATES, CHANGED_JOBS, CLAIMED, GIVEN_BACK, NEW_CARDS,
    NEW_CERTIFICATES, NEW_JOBS, NEW_TERMS, RECORDS, Shape, TAKEN,
};
use crate::office::{Fallible, wait};
use crate::recorder::{Witness, Write, is_of_records_alone};

/// One transaction: its parts, one for each kind of rows.
pub(crate) type Transaction = Vec<Part>;

/// Rows of one shape.
pub(crate) struct Part {
    shape: &'static Shape,
    columns: Vec<Column>,
}

/// A column of all rows.
enum Column {
    Ids(Vec<Option<Uuid>>),
    Longs(Vec<i64>),
    Shorts(Vec<i16>),
    Flags(Vec<bool>),
    Texts(Vec<Option<String>>),
    Times(Vec<Option<DateTime<Utc>>>),
    Bytes(Vec<Vec<u8>>),
}

impl Column {
    fn read(row: &PgRow, place: usize, sort: &str) -> sqlx::Result<Self> {
        Ok(match sort {
            "uuid" => Self::Ids(row.try_get(place)?),
            "bigint" => Self::Longs(row.try_get(place)?),
            "smallint" => Self::Shorts(row.try_get(place)?),
            "boolean" => Self::Flags(row.try_get(place)?),
            "timestamptz" => Self::Times(row.try_get(place)?),
            "bytea" => Self::Bytes(row.try_get(place)?),
            _ => Self::Texts(row.try_get(place)?),
        })
    }

    fn bind(&self, query: Query<'static, Postgres, PgArguments>) -> Query<'static, Postgres, PgArguments> {
        match self {
            Self::Ids(values) => query.bind(values.as_slice()),
            Self::Longs(values) => query.bind(values.as_slice()),
            Self::Shorts(values) => query.bind(values.as_slice()),
            Self::Flags(values) => query.bind(values.as_slice()),
            Self::Texts(values) => query.bind(values.as_slice()),
            Self::Times(values) => query.bind(values.as_slice()),
            Self::Bytes(values) => query.bind(values.as_slice()),
        }
    }
}

/// Takes down the rows of each transaction from the schema that they were written to.
#[derive(Clone)]
pub(crate) struct RowWitness {
    pool: PgPool,
    database: Arc<Database>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    transactions: Vec<Transaction>,
    /// Drawn numbers, which by hand are stored together with what they are for.
    pending: Transaction,
}

impl RowWitness {
    pub(crate) fn new(database: Arc<Database>) -> Self {
        Self { pool: database.pool(), database, seen: Arc::default() }
    }

    /// What was written since this was last asked.
    pub(crate) fn take(&self) -> Vec<Transaction> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner).transactions)
    }

    async fn rows(&self, write: &Write) -> sqlx::Result<Transaction> {
        match write {
            Write::Commit(changes) => self.committed(changes).await,
            Write::Claim(jobs) => self.parts(&[(&CLAIMED, jobs.iter().map(|job| job.id.uuid()).collect())]).await,
            Write::Attempts(jobs) => self.parts(&[(&ATTEMPTED, jobs.iter().map(|job| job.id.uuid()).collect())]).await,
        }
    }

    async fn committed(&self, changes: &ChangeSet) -> sqlx::Result<Transaction> {
        assert!(changes.requests.is_empty(), "no stage asks for approval");
        fn halves<R>(all: &[R], version: impl Fn(&R) -> u64, id: impl Fn(&R) -> Uuid) -> (Vec<Uuid>, Vec<Uuid>) {
            let (new, changed): (Vec<&R>, Vec<&R>) = all.iter().partition(|row| version(row) == 0);
            (new.into_iter().map(&id).collect(), changed.into_iter().map(&id).collect())
        }
        let (new_cards, cards) = halves(&changes.cards, |card| card.version, |card| CardId::uuid(card.id));
        let (new_certificates, certificates) = halves(&changes.certificates, |one| one.version, |one| one.id.uuid());
        let (new_jobs, jobs) = halves(&changes.jobs, |job| job.version, |job| JobId::uuid(job.id));
        let of_cards = new_cards.clone();
        let mut transaction = self
            .parts(&[
                (&CHANGED_CARDS, cards),
                (&NEW_CARDS, new_cards),
                (&NEW_TERMS, of_cards),
                (&CHANGED_CERTIFICATES, certificates),
                (&NEW_CERTIFICATES, new_certificates),
                (&CHANGED_JOBS, jobs),
                (&NEW_JOBS, new_jobs),
            ])
            .await?;
        let keys: Vec<String> = changes.records.iter().map(|record| record.key.clone()).collect();
        if !keys.is_empty() {
            let query = sqlx::query(self.database.text(&RECORDS.reading("key = ANY($1)"))).bind(keys);
            transaction.push(Part::read(&RECORDS, &query.fetch_one(&self.pool).await?)?);
        }
        let owned = |all: &[Reservation], shape: &'static Shape| {
            let texts = |text: fn(&Reservation) -> &str| {
                Column::Texts(all.iter().map(|one| Some(text(one).to_owned())).collect())
            };
            let columns = [texts(|one| &one.key), texts(|one| &one.owner)];
            (!all.is_empty()).then(|| Part { shape, columns: columns.into_iter().take(shape.columns.len()).collect() })
        };
        transaction.extend(owned(&changes.releases, &GIVEN_BACK));
        transaction.extend(owned(&changes.takes, &TAKEN));
        if !changes.history.is_empty() {
            let last = "transaction = (SELECT max(transaction) FROM @history)";
            let query = sqlx::query(self.database.text(&APPENDED.reading(last)));
            transaction.push(Part::read(&APPENDED, &query.fetch_one(&self.pool).await?)?);
        }
        Ok(transaction)
    }

    async fn parts(&self, wanted: &[(&'static Shape, Vec<Uuid>)]) -> sqlx::Result<Transaction> {
        let mut parts = Vec::new();
        for (shape, ids) in wanted.iter().filter(|(_, ids)| !ids.is_empty()) {
            let by_id = format!("{} = ANY($1)", shape.columns[0].0);
            let query = sqlx::query(self.database.text(&shape.reading(&by_id))).bind(ids);
            parts.push(Part::read(shape, &query.fetch_one(&self.pool).await?)?);
        }
        Ok(parts)
    }
}

impl Part {
    /// Reads columns that are arrays of all rows.
    fn read(shape: &'static Shape, row: &PgRow) -> sqlx::Result<Self> {
        let columns = shape.columns.iter().enumerate().map(|(place, (_, sort))| Column::read(row, place, sort));
        Ok(Self { shape, columns: columns.collect::<Result<_, _>>()? })
    }
}

#[async_trait]
impl Witness for RowWitness {
    async fn see(&self, write: Write) {
        let mut rows = self.rows(&write).await.expect("what was written can be read");
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(&write, Write::Commit(changes) if is_of_records_alone(changes)) {
            seen.pending.append(&mut rows);
        } else {
            let mut transaction = std::mem::take(&mut seen.pending);
            transaction.append(&mut rows);
            seen.transactions.push(transaction);
        }
    }
}

/// How a transaction is written by hand.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// A statement for each kind of rows, between `BEGIN` and `COMMIT`.
    Parts,
    /// All kinds by one statement, which is a transaction by itself. Its parts see nothing of one another, so no row may be in two.
    Whole,
}

/// A schema that is written by hand.
pub(crate) struct BareSchema<'a> {
    database: &'a Database,
    connection: PgConnection,
}

impl<'a> BareSchema<'a> {
    /// On one connection, which goes by the indices: what has just been filled has no statistics that would lead there.
    pub(crate) fn new(database: &'a Database) -> Fallible<Self> {
        let connection = wait(async {
            let mut connection = database.connect().await?;
            connection
                .execute(
                    "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off; \
                     SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off",
                )
                .await?;
            Ok::<_, sqlx::Error>(connection)
        })?;
        Ok(Self { database, connection })
    }

    pub(crate) fn write(&mut self, transactions: &[Transaction], way: Way) -> Fallible {
        wait(async {
            for transaction in transactions {
                match way {
                    Way::Parts => {
                        self.connection.execute("BEGIN").await?;
                        for part in transaction {
                            self.send(&part.shape.writing(0), [part]).await?;
                        }
                        self.connection.execute("COMMIT").await?;
                    }
                    Way::Whole => {
                        let mut parts = Vec::new();
                        let mut given = 0;
                        for (place, part) in transaction.iter().enumerate() {
                            parts.push(format!("part_{place} AS ({})", part.shape.writing(given)));
                            given += part.columns.len();
                        }
                        self.send(&format!("WITH {} SELECT", parts.join(", ")), transaction).await?;
                    }
                }
            }
            Ok(())
        })
    }

    async fn send(&mut self, text: &str, parts: impl IntoIterator<Item = &Part>) -> Fallible {
        let columns = parts.into_iter().flat_map(|part| &part.columns);
        let query = columns.fold(sqlx::query(self.database.text(text)), |query, column| column.bind(query));
        query.execute(&mut self.connection).await?;
        Ok(())
    }
}

/// What a schema holds, to see that two hold the same: for each table, rows and bytes.
pub(crate) fn contents(database: &Database) -> Fallible<Vec<(i64, i64)>> {
    const SUMS: [&str; 6] = [
        "SELECT count(*), coalesce(sum(length(data) + length(terms) + state + version), 0)::bigint FROM @card",
        "SELECT count(*), coalesce(sum(length(folded)), 0) FROM @card_term",
        "SELECT count(*), coalesce(sum(length(data) + state + version), 0)::bigint FROM @certificate",
        "SELECT count(*), coalesce(sum(length(data) + state + version), 0)::bigint FROM @job",
        "SELECT count(*), coalesce(sum(length(key) + length(owner)), 0) FROM @reservation",
        "SELECT count(*), coalesce(sum(length(data)), 0) FROM @history",
    ];
    wait(async {
        let mut connection = database.connect().await?;
        let mut sums = Vec::new();
        for sum in SUMS {
            let AssertSqlSafe(text) = database.text(sum);
            sums.push(sqlx::query_as(AssertSqlSafe(text)).fetch_one(&mut connection).await?);
        }
        Ok(sums)
    })
}
