//! One commit: one transaction, in which one statement stores all rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::QueryScalar;
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
use crate::change_set::{ChangeSet, Conflict, StoredId};
use crate::history::ObjectId;
use crate::id::{CardId, CertificateId, JobId, RequestId};

/// How much of a search term is stored and searched by; an index takes no more than about 2,700 bytes.
pub(super) const TERM_BYTES: usize = 512;

/// What is in the store already, of what a change set is about.
#[derive(Default)]
struct Found {
    versions: BTreeMap<StoredId, u64>,
    owners: BTreeMap<String, String>,
}

impl PostgresRepository {
    /// Stores all of it, or names everything that stands against it.
    pub(super) async fn try_commit(&self, changes: &ChangeSet) -> Result<Vec<Conflict>, Problem> {
        let place = OnceLock::new();
        let writing = async {
            let written = Rows::of(changes, TERM_BYTES)?;
            let rows = place.get_or_init(|| written);
            Ok::<_, Problem>((rows, self.storing(rows)))
        };
        // The server begins while the rows are written.
        let (begun, written) = futures::join!(Session::begin(&self.connections), writing);
        let (rows, query) = match written {
            Ok(written) => written,
            Err(problem) => {
                if let Ok(session) = begun {
                    session.roll_back().await;
                }
                return Err(problem);
            }
        };
        let mut session = begun?;
        match query.fetch_one(session.connection()).await {
            Ok(true) => session.commit().await.map(|()| Vec::new()),
            Err(error) if !is_there_already(&error) => {
                session.roll_back().await;
                Err(error.into())
            }
            // Something stands against it.
            Ok(false) | Err(_) => {
                session.roll_back().await;
                self.name_conflicts(rows).await
            }
        }
    }

    /// The call that stores all rows: whether nothing stands against it.
    fn storing<'a>(&self, rows: &'a Rows) -> QueryScalar<'a, Postgres, bool, PgArguments> {
        fn each<'a, R, T>(all: &'a [R], value: impl Fn(&'a R) -> T) -> Vec<T> {
            all.iter().map(value).collect()
        }
        // Each once: the same may stand there twice.
        let mut terms: Vec<&TermRow> = rows.terms.iter().filter(|row| row.new).collect();
        terms.dedup_by_key(|row| (rows.at(row.name), rows.at(row.folded), row.card));
        sqlx::query_scalar(self.function("store", 44))
            .bind(each(&rows.cards, |row| row.id))
            .bind(each(&rows.cards, |row| integer(row.version)))
            .bind(each(&rows.cards, |row| row.kind))
            .bind(each(&rows.cards, |row| row.route))
            .bind(each(&rows.cards, |row| row.state))
            .bind(each(&rows.cards, |row| row.in_doubt))
            .bind(each(&rows.cards, |row| rows.maybe(row.holder)))
            .bind(each(&rows.cards, |row| rows.maybe(row.production_type)))
            .bind(each(&rows.cards, |row| rows.at(row.terms)))
            .bind(each(&rows.cards, |row| rows.at(row.data)))
            .bind(each(&terms, |row| rows.at(row.name)))
            .bind(each(&terms, |row| rows.at(row.folded)))
            .bind(each(&terms, |row| row.card))
            .bind(each(&rows.certificates, |row| row.id))
            .bind(each(&rows.certificates, |row| integer(row.version)))
            .bind(each(&rows.certificates, |row| row.card))
            .bind(each(&rows.certificates, |row| row.state))
            .bind(each(&rows.certificates, |row| rows.at(row.data)))
            .bind(each(&rows.requests, |row| row.id))
            .bind(each(&rows.requests, |row| integer(row.version)))
            .bind(each(&rows.requests, |row| row.state))
            .bind(each(&rows.requests, |row| rows.at(row.holder)))
            .bind(each(&rows.requests, |row| rows.at(row.data)))
            .bind(each(&rows.jobs, |row| row.id))
            .bind(each(&rows.jobs, |row| integer(row.version)))
            .bind(each(&rows.jobs, |row| row.kind))
            .bind(each(&rows.jobs, |row| row.state))
            .bind(each(&rows.jobs, |row| time(row.due)))
            .bind(each(&rows.jobs, |row| row.run))
            .bind(each(&rows.jobs, |row| row.claim.map(|(worker, _)| rows.at(worker))))
            .bind(each(&rows.jobs, |row| row.claim.map(|(_, until)| time(until))))
            .bind(each(&rows.jobs, |row| i64::from(row.attempts)))
            .bind(each(&rows.jobs, |row| rows.maybe(row.attempt)))
            .bind(each(&rows.jobs, |row| rows.at(row.data)))
            .bind(each(&rows.records, |row| rows.at(row.key)))
            .bind(each(&rows.records, |row| integer(row.version)))
            .bind(each(&rows.records, |row| rows.at(row.data)))
            .bind(each(&rows.releases, |row| rows.at(row.key)))
            .bind(each(&rows.releases, |row| rows.at(row.owner)))
            .bind(each(&rows.takes, |row| rows.at(row.key)))
            .bind(each(&rows.takes, |row| rows.at(row.owner)))
            .bind(each(&rows.history, |row| rows.object(row)))
            .bind(each(&rows.history, |row| row.sequence))
            .bind(each(&rows.history, |row| rows.at(row.data)))
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

/// Whether what should be new is not.
fn is_there_already(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.is_unique_violation())
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

/// Microseconds that were a time before.
fn time(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or_default()
}
