//! One commit: one transaction with a constant number of statements, each for all rows of its kind.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::Query;
use uuid::Uuid;

use super::PostgresRepository;
use super::connection::Session;
use super::decode::{column, unsigned};
use super::problem::Problem;
use super::statements as sql;
use crate::adapters::codes::integer;
use crate::adapters::rows::{
    CardRow, CertificateRow, HistoryRow, JobRow, RecordRow, RequestRow, ReservationRow, Rows, TermRow,
};
use crate::change_set::{Conflict, StoredId};
use crate::history::ObjectId;
use crate::id::{CardId, CertificateId, JobId, RequestId};

/// How much of a search term is searched by; an index takes no more than about 2,700 bytes.
pub(super) const TERM_BYTES: usize = 512;

/// The beginning of a search term, as much of it as is stored.
fn cut(term: &str) -> &str {
    &term[..term.floor_char_boundary(TERM_BYTES)]
}

/// What is in the store already, of what a change set is about.
#[derive(Default)]
struct Found {
    versions: BTreeMap<StoredId, u64>,
    owners: BTreeMap<String, String>,
}

type Statement = Query<'static, Postgres, PgArguments>;

impl PostgresRepository {
    /// Stores all rows, or names everything that stands against it.
    pub(super) async fn try_commit(&self, rows: &Rows) -> Result<Vec<Conflict>, Problem> {
        let mut session = self.begin().await?;
        match self.store(&mut session, rows).await {
            Ok(true) => session.commit().await.map(|()| Vec::new()),
            Ok(false) => {
                session.roll_back().await;
                self.name_conflicts(rows).await
            }
            Err(problem) => {
                session.roll_back().await;
                Err(problem)
            }
        }
    }

    /// Whether nothing stands against it. Stops at the first table where something does. Rows are changed in one order for all, table
    /// by table, by key: the planner goes through what is given, which is in that order, or along the key itself.
    async fn store(&self, session: &mut Session, rows: &Rows) -> Result<bool, Problem> {
        let (new, changed) = halves(&rows.cards, |row| row.version);
        let Some(renamed) = self.update_cards(session, rows, &changed).await? else { return Ok(false) };
        if !self.put(session, sql::INSERT_CARDS, &new, |query, all| cards(query, rows, all)).await? {
            return Ok(false);
        }
        if !renamed.is_empty() {
            let (names, cards) = old_terms(&renamed)?;
            sqlx::query(self.sql(sql::DELETE_TERMS)).bind(names).bind(cards).execute(session.connection()).await?;
        }
        // In the order of their key, and each once: the same may stand there twice.
        let term = |row: &TermRow| (rows.at(row.name), row.card, cut(rows.at(row.folded)));
        let mut of_these: Vec<&TermRow> =
            rows.terms.iter().filter(|row| row.new || renamed.contains_key(&row.card)).collect();
        of_these.sort_by(|a, b| term(a).cmp(&term(b)));
        of_these.dedup_by(|a, b| term(a) == term(b));
        if !self.put(session, sql::INSERT_TERMS, &of_these, |query, all| terms(query, rows, all)).await? {
            return Ok(false);
        }

        let (new, changed) = halves(&rows.certificates, |row| row.version);
        let (new_requests, changed_requests) = halves(&rows.requests, |row| row.version);
        let (new_jobs, changed_jobs) = halves(&rows.jobs, |row| row.version);
        let (new_records, changed_records) = halves(&rows.records, |row| row.version);
        let (releases, takes): (Vec<_>, Vec<_>) = (rows.releases.iter().collect(), rows.takes.iter().collect());
        let stored = self
            .put(session, sql::UPDATE_CERTIFICATES, &changed, |query, all| certificates(query, rows, all))
            .await?
            && self.put(session, sql::INSERT_CERTIFICATES, &new, |query, all| certificates(query, rows, all)).await?
            && self
                .put(session, sql::UPDATE_REQUESTS, &changed_requests, |query, all| requests(query, rows, all))
                .await?
            && self.put(session, sql::INSERT_REQUESTS, &new_requests, |query, all| requests(query, rows, all)).await?
            && self.put(session, sql::UPDATE_JOBS, &changed_jobs, |query, all| jobs(query, rows, all)).await?
            && self.put(session, sql::INSERT_JOBS, &new_jobs, |query, all| jobs(query, rows, all)).await?
            && self.put(session, sql::UPDATE_RECORDS, &changed_records, |query, all| records(query, rows, all)).await?
            && self.put(session, sql::INSERT_RECORDS, &new_records, |query, all| records(query, rows, all)).await?
            && self.put(session, sql::RELEASE, &releases, |query, all| reservations(query, rows, all)).await?
            && self.put(session, sql::TAKE, &takes, |query, all| reservations(query, rows, all)).await?;
        if !stored {
            return Ok(false);
        }
        let entries: Vec<_> = rows.history.iter().collect();
        self.put(session, sql::INSERT_HISTORY, &entries, |query, all| history(query, rows, all)).await
    }

    /// Changes cards. Of those whose search terms change with it: which they were. Nothing if not all could be changed.
    async fn update_cards(
        &self,
        session: &mut Session,
        rows: &Rows,
        changed: &[&CardRow],
    ) -> Result<Option<BTreeMap<Uuid, String>>, Problem> {
        let mut renamed = BTreeMap::new();
        if changed.is_empty() {
            return Ok(Some(renamed));
        }
        let query = cards(sqlx::query(self.sql(sql::UPDATE_CARDS)), rows, changed);
        let updated = query.fetch_all(session.connection()).await?;
        for row in &updated {
            if let Some(terms) = column(row, 1, "card")? {
                renamed.insert(column(row, 0, "card")?, terms);
            }
        }
        Ok((updated.len() == changed.len()).then_some(renamed))
    }

    /// Writes all of a kind, in the order of their keys; whether all of them were written.
    async fn put<R: Sync>(
        &self,
        session: &mut Session,
        text: &str,
        all: &[&R],
        bind: impl FnOnce(Statement, &[&R]) -> Statement + Send,
    ) -> Result<bool, Problem> {
        if all.is_empty() {
            return Ok(true);
        }
        match bind(sqlx::query(self.sql(text)), all).execute(session.connection()).await {
            Ok(done) => Ok(done.rows_affected() == all.len() as u64),
            Err(error) if is_there_already(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Locks what is there of all that the rows are about, so that whoever is about to change it has ended.
    async fn lock(&self, session: &mut Session, rows: &Rows) -> Result<Found, Problem> {
        fn keys<R, K>(all: &[R], key: impl Fn(&R) -> K) -> Vec<K> {
            all.iter().map(key).collect()
        }
        let mut reservations = keys(&rows.releases, |row| rows.at(row.key));
        reservations.extend(rows.takes.iter().map(|row| rows.at(row.key)));
        let query = sqlx::query(self.sql(sql::LOCK))
            .bind(keys(&rows.cards, |row| row.id))
            .bind(keys(&rows.certificates, |row| row.id))
            .bind(keys(&rows.requests, |row| row.id))
            .bind(keys(&rows.jobs, |row| row.id))
            .bind(keys(&rows.records, |row| rows.at(row.key)))
            .bind(reservations);
        let mut found = Found::default();
        for row in query.fetch_all(session.connection()).await? {
            let what: i16 = column(&row, 0, "what was locked")?;
            if what == 6 {
                found.owners.insert(column(&row, 2, "reservation")?, column(&row, 4, "reservation")?);
                continue;
            }
            let id = |table| column::<Uuid>(&row, 1, table);
            let object = match what {
                1 => StoredId::Object(ObjectId::Card(CardId::new(id("card")?))),
                2 => StoredId::Object(ObjectId::Certificate(CertificateId::new(id("certificate")?))),
                3 => StoredId::Object(ObjectId::Request(RequestId::new(id("request")?))),
                4 => StoredId::Job(JobId::new(id("job")?)),
                _ => StoredId::Object(ObjectId::Record(column(&row, 2, "record")?)),
            };
            let version = unsigned(column(&row, 3, &object)?, &object)?;
            found.versions.insert(object, version);
        }
        Ok(found)
    }

    /// Everything that stands against it, once whoever is about to change the same has ended.
    async fn name_conflicts(&self, rows: &Rows) -> Result<Vec<Conflict>, Problem> {
        let mut session = self.begin().await?;
        let conflicts = self.conflicts_in(&mut session, rows).await;
        session.roll_back().await;
        conflicts
    }

    async fn conflicts_in(&self, session: &mut Session, rows: &Rows) -> Result<Vec<Conflict>, Problem> {
        // In this order: who has stored an entry that is seen has stored its object too.
        let otherwise = self.broken_chain(session, rows).await?;
        let conflicts = conflicts(rows, self.lock(session, rows).await?);
        if conflicts.is_empty() { Err(otherwise) } else { Ok(conflicts) }
    }

    /// What stands against it if no conflict does: an entry that the history has already, or nothing any more.
    async fn broken_chain(&self, session: &mut Session, rows: &Rows) -> Result<Problem, Problem> {
        let (objects, sequences): (Vec<&[u8]>, Vec<i64>) =
            rows.history.iter().map(|row| (rows.object(row), row.sequence)).unzip();
        let mut seen = BTreeSet::new();
        let twice = rows.history.iter().find(|row| !seen.insert((rows.object(row), row.sequence)));
        let row = match twice {
            Some(row) => Some(row),
            None => {
                let query = sqlx::query_scalar::<_, i64>(self.sql(sql::BROKEN_CHAIN)).bind(objects).bind(sequences);
                let place = query.fetch_optional(session.connection()).await?;
                place.and_then(|place| rows.history.get(usize::try_from(place - 1).ok()?))
            }
        };
        let broken = |row: &HistoryRow| Problem::BrokenChain { object: rows.object_name(row), sequence: row.sequence };
        Ok(row.map_or(Problem::Busy, broken))
    }
}

/// Names and cards of the search terms that these cards have had.
fn old_terms(renamed: &BTreeMap<Uuid, String>) -> Result<(Vec<String>, Vec<Uuid>), Problem> {
    let mut old = (Vec::new(), Vec::new());
    for (card, terms) in renamed {
        let what = || format!("the search terms of card {card}");
        let terms: Vec<(String, String)> = serde_json::from_str(terms)
            .map_err(|source| Problem::Unreadable { what: what(), source: source.into() })?;
        old.0.extend(terms.into_iter().map(|(name, _)| name));
        old.1.resize(old.0.len(), *card);
    }
    Ok(old)
}

/// Whether what should be new is not.
fn is_there_already(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.is_unique_violation())
}

/// The new ones and the changed ones.
fn halves<R>(all: &[R], version: impl Fn(&R) -> u64) -> (Vec<&R>, Vec<&R>) {
    all.iter().partition(|row| version(row) == 0)
}

fn conflicts(rows: &Rows, mut found: Found) -> Vec<Conflict> {
    let card = |row: &CardRow| (StoredId::Object(ObjectId::Card(CardId::new(row.id))), row.version);
    let certificate =
        |row: &CertificateRow| (StoredId::Object(ObjectId::Certificate(CertificateId::new(row.id))), row.version);
    let request = |row: &RequestRow| (StoredId::Object(ObjectId::Request(RequestId::new(row.id))), row.version);
    let job = |row: &JobRow| (StoredId::Job(JobId::new(row.id)), row.version);
    let record = |row: &RecordRow| (StoredId::Object(ObjectId::Record(rows.at(row.key).to_owned())), row.version);
    let objects = (rows.cards.iter().map(card))
        .chain(rows.certificates.iter().map(certificate))
        .chain(rows.requests.iter().map(request))
        .chain(rows.jobs.iter().map(job))
        .chain(rows.records.iter().map(record));
    let mut conflicts = Vec::new();
    for (object, expected) in objects {
        let stored = found.versions.get(&object).copied().unwrap_or(0);
        if stored == expected {
            // A second one of the same would come after this.
            found.versions.insert(object, stored + 1);
        } else {
            conflicts.push(Conflict::Version { object, expected, found: stored });
        }
    }
    let text = |row: &ReservationRow| (rows.at(row.key).to_owned(), rows.at(row.owner).to_owned());
    for (key, owner) in rows.releases.iter().map(text) {
        if found.owners.get(&key) == Some(&owner) {
            found.owners.remove(&key);
        } else {
            conflicts.push(Conflict::NotHeld { key, owner });
        }
    }
    for (key, owner) in rows.takes.iter().map(text) {
        match found.owners.get(&key) {
            Some(holder) => conflicts.push(Conflict::Taken { key, owner: holder.clone() }),
            None => {
                found.owners.insert(key, owner);
            }
        }
    }
    conflicts.sort_unstable();
    conflicts.dedup();
    conflicts
}

/// A column of all rows.
fn each<'a, R, T>(all: &[&'a R], value: impl Fn(&'a R) -> T) -> Vec<T> {
    all.iter().map(|row| value(row)).collect()
}

fn cards(query: Statement, rows: &Rows, all: &[&CardRow]) -> Statement {
    query
        .bind(each(all, |row| row.id))
        .bind(each(all, |row| integer(row.version)))
        .bind(each(all, |row| row.kind))
        .bind(each(all, |row| row.route))
        .bind(each(all, |row| row.state))
        .bind(each(all, |row| row.in_doubt))
        .bind(each(all, |row| rows.maybe(row.holder)))
        .bind(each(all, |row| rows.maybe(row.production_type)))
        .bind(each(all, |row| rows.at(row.terms)))
        .bind(each(all, |row| rows.at(row.data)))
}

fn terms(query: Statement, rows: &Rows, all: &[&TermRow]) -> Statement {
    query
        .bind(each(all, |row| row.card))
        .bind(each(all, |row| rows.at(row.name)))
        .bind(each(all, |row| cut(rows.at(row.folded))))
}

fn certificates(query: Statement, rows: &Rows, all: &[&CertificateRow]) -> Statement {
    query
        .bind(each(all, |row| row.id))
        .bind(each(all, |row| integer(row.version)))
        .bind(each(all, |row| row.card))
        .bind(each(all, |row| row.state))
        .bind(each(all, |row| rows.at(row.data)))
}

fn requests(query: Statement, rows: &Rows, all: &[&RequestRow]) -> Statement {
    query
        .bind(each(all, |row| row.id))
        .bind(each(all, |row| integer(row.version)))
        .bind(each(all, |row| row.state))
        .bind(each(all, |row| rows.at(row.holder)))
        .bind(each(all, |row| rows.at(row.data)))
}

fn jobs(query: Statement, rows: &Rows, all: &[&JobRow]) -> Statement {
    query
        .bind(each(all, |row| row.id))
        .bind(each(all, |row| integer(row.version)))
        .bind(each(all, |row| row.kind))
        .bind(each(all, |row| row.state))
        .bind(each(all, |row| time(row.due)))
        .bind(each(all, |row| row.run))
        .bind(each(all, |row| row.claim.map(|(worker, _)| rows.at(worker))))
        .bind(each(all, |row| row.claim.map(|(_, until)| time(until))))
        .bind(each(all, |row| rows.at(row.data)))
}

/// Microseconds that were a time before.
fn time(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or_default()
}

fn records(query: Statement, rows: &Rows, all: &[&RecordRow]) -> Statement {
    query
        .bind(each(all, |row| rows.at(row.key)))
        .bind(each(all, |row| integer(row.version)))
        .bind(each(all, |row| rows.at(row.data)))
}

fn reservations(query: Statement, rows: &Rows, all: &[&ReservationRow]) -> Statement {
    query.bind(each(all, |row| rows.at(row.key))).bind(each(all, |row| rows.at(row.owner)))
}

fn history(query: Statement, rows: &Rows, all: &[&HistoryRow]) -> Statement {
    query
        .bind(each(all, |row| rows.object(row)))
        .bind(each(all, |row| row.sequence))
        .bind(each(all, |row| rows.at(row.data)))
}
