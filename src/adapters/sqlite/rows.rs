//! A change set as rows: written down where it is borrowed, stored in the writing thread.

use std::collections::BTreeSet;

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;
use uuid::Uuid;

use super::codes::{Code as _, integer, object_bytes};
use super::problem::Problem;
use super::statements as sql;
use crate::change_set::{ChangeSet, Conflict, StoredId};
use crate::history::ObjectId;
use crate::id::{CardId, CertificateId, JobId, RequestId};

/// An id as 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Id(Uuid);

impl ToSql for Id {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Blob(self.0.as_bytes())))
    }
}

/// A part of the text of all rows.
#[derive(Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
}

struct CardRow {
    id: Id,
    version: u64,
    kind: i64,
    route: i64,
    state: i64,
    in_doubt: bool,
    holder: Option<Span>,
    production_type: Option<Span>,
    terms: Span,
    data: Span,
}

struct TermRow {
    name: Span,
    folded: Span,
    card: Id,
    /// Whether its card is new; the terms of others are compared first.
    new: bool,
}

struct CertificateRow {
    id: Id,
    version: u64,
    card: Id,
    state: i64,
    data: Span,
}

struct RequestRow {
    id: Id,
    version: u64,
    state: i64,
    holder: Span,
    data: Span,
}

struct JobRow {
    id: Id,
    version: u64,
    kind: i64,
    state: i64,
    due: i64,
    card: Option<Id>,
    run: Option<Id>,
    claim: Option<(Span, i64)>,
    data: Span,
}

struct RecordRow {
    key: Span,
    version: u64,
    data: Span,
}

struct ReservationRow {
    key: Span,
    owner: Span,
}

struct HistoryRow {
    object: Span,
    sequence: i64,
    data: Span,
}

/// All rows of a change set. Each table in the order of its key, which keeps writes close together; the history as given.
pub(super) struct Rows {
    text: String,
    /// The objects of the history, which are no text.
    objects: Vec<u8>,
    cards: Vec<CardRow>,
    terms: Vec<TermRow>,
    certificates: Vec<CertificateRow>,
    requests: Vec<RequestRow>,
    jobs: Vec<JobRow>,
    records: Vec<RecordRow>,
    releases: Vec<ReservationRow>,
    takes: Vec<ReservationRow>,
    history: Vec<HistoryRow>,
}

/// One buffer for the text of all rows.
struct Buffer(Vec<u8>);

impl Buffer {
    fn text(&mut self, text: &str) -> Span {
        let start = self.0.len();
        self.0.extend_from_slice(text.as_bytes());
        Span { start, end: self.0.len() }
    }

    fn json(&mut self, what: &'static str, value: &impl Serialize) -> Result<Span, Problem> {
        let start = self.0.len();
        serde_json::to_writer(&mut self.0, value)
            .map_err(|source| Problem::Unwritable { what, source: source.into() })?;
        Ok(Span { start, end: self.0.len() })
    }
}

impl Rows {
    /// The rows of a change set.
    pub(super) fn of(changes: &ChangeSet) -> Result<Self, Problem> {
        let guess = 800 * changes.cards.len()
            + 2_500 * changes.certificates.len()
            + 500 * (changes.jobs.len() + changes.history.len())
            + 1024;
        let mut buffer = Buffer(Vec::with_capacity(guess));
        let mut terms = Vec::with_capacity(4 * changes.cards.len());
        let mut cards = Vec::with_capacity(changes.cards.len());
        let mut found = Vec::new();
        for card in &changes.cards {
            let id = Id(card.id.uuid());
            found.clear();
            found.extend(card.search_terms());
            for (name, folded) in &found {
                let (name, folded) = (buffer.text(name), buffer.text(folded));
                terms.push(TermRow { name, folded, card: id, new: card.version == 0 });
            }
            cards.push(CardRow {
                id,
                version: card.version,
                kind: card.kind().code(),
                route: card.route().code(),
                state: card.state().code(),
                in_doubt: card.busy.as_ref().is_some_and(|busy| busy.in_doubt),
                holder: card.holder.as_ref().map(|holder| buffer.text(holder.as_str())),
                production_type: card.production_type.as_ref().map(|name| buffer.text(name)),
                terms: buffer.json("a card", &found)?,
                data: buffer.json("a card", card)?,
            });
        }
        let mut certificates = Vec::with_capacity(changes.certificates.len());
        for certificate in &changes.certificates {
            certificates.push(CertificateRow {
                id: Id(certificate.id.uuid()),
                version: certificate.version,
                card: Id(certificate.card.uuid()),
                state: certificate.state().code(),
                data: buffer.json("a certificate", certificate)?,
            });
        }
        let mut requests = Vec::with_capacity(changes.requests.len());
        for request in &changes.requests {
            requests.push(RequestRow {
                id: Id(request.id.uuid()),
                version: request.version,
                state: request.state().code(),
                holder: buffer.text(request.holder.as_str()),
                data: buffer.json("a request", request)?,
            });
        }
        let mut jobs = Vec::with_capacity(changes.jobs.len());
        for job in &changes.jobs {
            jobs.push(JobRow {
                id: Id(job.id.uuid()),
                version: job.version,
                kind: job.kind().code(),
                state: job.state.code(),
                due: job.due.timestamp_micros(),
                card: job.card.map(|card| Id(card.uuid())),
                run: job.run.map(|run| Id(run.uuid())),
                claim: job.claim.as_ref().map(|claim| (buffer.text(&claim.worker), claim.until.timestamp_micros())),
                data: buffer.json("a job", job)?,
            });
        }
        let mut records = Vec::with_capacity(changes.records.len());
        for record in &changes.records {
            records.push(RecordRow {
                key: buffer.text(&record.key),
                version: record.version,
                data: buffer.json("a record", record)?,
            });
        }
        let mut reservations = |all: &[crate::change_set::Reservation]| -> Vec<ReservationRow> {
            all.iter()
                .map(|one| ReservationRow { key: buffer.text(&one.key), owner: buffer.text(&one.owner) })
                .collect()
        };
        let (releases, takes) = (reservations(&changes.releases), reservations(&changes.takes));
        let mut objects = Vec::with_capacity(17 * changes.history.len());
        let mut history = Vec::with_capacity(changes.history.len());
        for entry in &changes.history {
            let start = objects.len();
            object_bytes(&entry.object, &mut objects);
            history.push(HistoryRow {
                object: Span { start, end: objects.len() },
                sequence: integer(entry.sequence),
                data: buffer.json("a history entry", entry)?,
            });
        }
        // Text and JSON only: this cannot fail, and a lossy copy would never be made.
        let text =
            String::from_utf8(buffer.0).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        let mut rows =
            Self { text, objects, cards, terms, certificates, requests, jobs, records, releases, takes, history };
        rows.sort();
        Ok(rows)
    }

    fn sort(&mut self) {
        let text = |span: Span| &self.text.as_bytes()[span.start..span.end];
        // All stable: of two rows with one key, the first stays first.
        self.cards.sort_by_key(|row| row.id);
        self.terms.sort_by(|a, b| (text(a.name), text(a.folded), a.card).cmp(&(text(b.name), text(b.folded), b.card)));
        self.certificates.sort_by_key(|row| row.id);
        self.requests.sort_by_key(|row| row.id);
        self.jobs.sort_by_key(|row| row.id);
        self.records.sort_by(|a, b| text(a.key).cmp(text(b.key)));
        self.releases.sort_by(|a, b| text(a.key).cmp(text(b.key)));
        self.takes.sort_by(|a, b| text(a.key).cmp(text(b.key)));
    }

    fn at(&self, span: Span) -> &str {
        &self.text[span.start..span.end]
    }

    fn maybe(&self, span: Option<Span>) -> Option<&str> {
        span.map(|span| self.at(span))
    }

    /// Stores all rows, inside a transaction. If this gives conflicts, or fails, the transaction must be rolled back.
    pub(super) fn store(&self, connection: &Connection) -> Result<Vec<Conflict>, Problem> {
        let mut conflicts = Vec::new();
        self.store_cards(connection, &mut conflicts)?;
        self.store_certificates(connection, &mut conflicts)?;
        self.store_requests(connection, &mut conflicts)?;
        self.store_jobs(connection, &mut conflicts)?;
        self.store_records(connection, &mut conflicts)?;
        self.store_reservations(connection, &mut conflicts)?;
        if conflicts.is_empty() {
            self.store_history(connection)?;
        }
        conflicts.sort_unstable();
        conflicts.dedup();
        Ok(conflicts)
    }

    fn store_cards(&self, connection: &Connection, conflicts: &mut Vec<Conflict>) -> Result<(), Problem> {
        if self.cards.is_empty() {
            return Ok(());
        }
        let mut insert = connection.prepare_cached(sql::INSERT_CARD)?;
        let mut update = connection.prepare_cached(sql::UPDATE_CARD)?;
        let mut changed_terms: BTreeSet<Id> = BTreeSet::new();
        for row in &self.cards {
            let (holder, production_type) = (self.maybe(row.holder), self.maybe(row.production_type));
            let (terms, data) = (self.at(row.terms), self.at(row.data));
            let (id, kind, route, state, in_doubt) = (row.id, row.kind, row.route, row.state, row.in_doubt);
            let done = if row.version == 0 {
                insert.execute(params![id, kind, route, state, in_doubt, holder, production_type, terms, data])?
            } else {
                let version = integer(row.version);
                let all = params![id, version, kind, route, state, in_doubt, holder, production_type, terms, data];
                let mut done = update.execute(all)?;
                if done == 0
                    && let Some(old) = connection
                        .prepare_cached(sql::CARD_TERMS)?
                        .query_row(params![id, version], |found| found.get::<_, String>(0))
                        .optional()?
                {
                    if old != terms {
                        forget_terms(connection, id, &old)?;
                        changed_terms.insert(id);
                    }
                    done = connection.prepare_cached(sql::UPDATE_WHOLE_CARD)?.execute(all)?;
                }
                done
            };
            if done == 0 {
                let object = StoredId::Object(ObjectId::Card(CardId::new(row.id.0)));
                conflicts.push(stale(connection, sql::CARD_VERSION, &row.id, object, row.version)?);
            }
        }
        if conflicts.is_empty() {
            let mut insert = connection.prepare_cached(sql::INSERT_TERM)?;
            for row in &self.terms {
                if row.new || changed_terms.contains(&row.card) {
                    insert.execute(params![self.at(row.name), self.at(row.folded), row.card])?;
                }
            }
        }
        Ok(())
    }

    fn store_certificates(&self, connection: &Connection, conflicts: &mut Vec<Conflict>) -> Result<(), Problem> {
        if self.certificates.is_empty() {
            return Ok(());
        }
        let mut insert = connection.prepare_cached(sql::INSERT_CERTIFICATE)?;
        let mut update = connection.prepare_cached(sql::UPDATE_CERTIFICATE)?;
        for row in &self.certificates {
            let data = self.at(row.data);
            let done = if row.version == 0 {
                insert.execute(params![row.id, row.card, row.state, data])?
            } else {
                update.execute(params![row.id, integer(row.version), row.card, row.state, data])?
            };
            if done == 0 {
                let object = StoredId::Object(ObjectId::Certificate(CertificateId::new(row.id.0)));
                conflicts.push(stale(connection, sql::CERTIFICATE_VERSION, &row.id, object, row.version)?);
            }
        }
        Ok(())
    }

    fn store_requests(&self, connection: &Connection, conflicts: &mut Vec<Conflict>) -> Result<(), Problem> {
        for row in &self.requests {
            let (holder, data) = (self.at(row.holder), self.at(row.data));
            let done = if row.version == 0 {
                connection.prepare_cached(sql::INSERT_REQUEST)?.execute(params![row.id, row.state, holder, data])?
            } else {
                connection.prepare_cached(sql::UPDATE_REQUEST)?.execute(params![
                    row.id,
                    integer(row.version),
                    row.state,
                    holder,
                    data
                ])?
            };
            if done == 0 {
                let object = StoredId::Object(ObjectId::Request(RequestId::new(row.id.0)));
                conflicts.push(stale(connection, sql::REQUEST_VERSION, &row.id, object, row.version)?);
            }
        }
        Ok(())
    }

    fn store_jobs(&self, connection: &Connection, conflicts: &mut Vec<Conflict>) -> Result<(), Problem> {
        if self.jobs.is_empty() {
            return Ok(());
        }
        let mut insert = connection.prepare_cached(sql::INSERT_JOB)?;
        let mut update = connection.prepare_cached(sql::UPDATE_JOB)?;
        for row in &self.jobs {
            let data = self.at(row.data);
            let done = if row.version == 0 {
                let worker = row.claim.map(|(worker, _)| self.at(worker));
                let until = row.claim.map(|(_, until)| until);
                insert.execute(params![row.id, row.kind, row.state, row.due, row.card, row.run, worker, until, data])?
            } else {
                let version = integer(row.version);
                let claimed = row.claim.is_some();
                update
                    .execute(params![row.id, version, row.kind, row.state, row.due, row.card, row.run, claimed, data])?
            };
            if done == 0 {
                let object = StoredId::Job(JobId::new(row.id.0));
                conflicts.push(stale(connection, sql::JOB_VERSION, &row.id, object, row.version)?);
            }
        }
        Ok(())
    }

    fn store_records(&self, connection: &Connection, conflicts: &mut Vec<Conflict>) -> Result<(), Problem> {
        for row in &self.records {
            let (key, data) = (self.at(row.key), self.at(row.data));
            let done = if row.version == 0 {
                connection.prepare_cached(sql::INSERT_RECORD)?.execute(params![key, data])?
            } else {
                let version = integer(row.version);
                connection.prepare_cached(sql::UPDATE_RECORD)?.execute(params![key, version, data])?
            };
            if done == 0 {
                let object = StoredId::Object(ObjectId::Record(key.to_owned()));
                conflicts.push(stale(connection, sql::RECORD_VERSION, &key, object, row.version)?);
            }
        }
        Ok(())
    }

    fn store_reservations(&self, connection: &Connection, conflicts: &mut Vec<Conflict>) -> Result<(), Problem> {
        for row in &self.releases {
            let (key, owner) = (self.at(row.key), self.at(row.owner));
            if connection.prepare_cached(sql::RELEASE)?.execute(params![key, owner])? == 0 {
                conflicts.push(Conflict::NotHeld { key: key.to_owned(), owner: owner.to_owned() });
            }
        }
        if self.takes.is_empty() {
            return Ok(());
        }
        let mut take = connection.prepare_cached(sql::TAKE)?;
        for row in &self.takes {
            let key = self.at(row.key);
            if take.execute(params![key, self.at(row.owner)])? == 0 {
                let owner = connection
                    .prepare_cached(sql::RESERVATION_OWNER)?
                    .query_row(params![key], |found| found.get::<_, String>(0))?;
                conflicts.push(Conflict::Taken { key: key.to_owned(), owner });
            }
        }
        Ok(())
    }

    fn store_history(&self, connection: &Connection) -> Result<(), Problem> {
        if self.history.is_empty() {
            return Ok(());
        }
        let mut insert = connection.prepare_cached(sql::INSERT_HISTORY)?;
        for row in &self.history {
            let object = &self.objects[row.object.start..row.object.end];
            if insert.execute(params![object, row.sequence, self.at(row.data)])? == 0 {
                return Err(self.broken_chain(row));
            }
        }
        Ok(())
    }

    fn broken_chain(&self, row: &HistoryRow) -> Problem {
        let object = serde_json::from_str::<crate::history::HistoryEntry>(self.at(row.data))
            .map_or_else(|_| "an object".to_owned(), |entry| entry.object.to_string());
        Problem::BrokenChain { object, sequence: u64::try_from(row.sequence).unwrap_or_default() }
    }
}

fn forget_terms(connection: &Connection, card: Id, terms: &str) -> Result<(), Problem> {
    let old: Vec<(String, String)> = serde_json::from_str(terms).map_err(|source| Problem::Unreadable {
        what: format!("the search terms of card {}", card.0),
        source: source.into(),
    })?;
    let mut delete = connection.prepare_cached(sql::DELETE_TERM)?;
    for (name, folded) in old {
        delete.execute(params![name, folded, card])?;
    }
    Ok(())
}

fn stale(
    connection: &Connection,
    statement: &str,
    key: &dyn ToSql,
    object: StoredId,
    expected: u64,
) -> Result<Conflict, Problem> {
    let found: Option<i64> =
        connection.prepare_cached(statement)?.query_row(params![key], |found| found.get(0)).optional()?;
    Ok(Conflict::Version {
        object,
        expected,
        found: found.and_then(|version| u64::try_from(version).ok()).unwrap_or(0),
    })
}
