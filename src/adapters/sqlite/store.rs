//! How the rows of a change set are stored, inside a transaction.

use std::collections::BTreeSet;

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, params};
use uuid::Uuid;

use super::problem::Problem;
use super::statements as sql;
use crate::adapters::codes::integer;
use crate::adapters::rows::Rows;
use crate::change_set::{Conflict, StoredId};
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

impl Rows {
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
            let (id, kind, route, state, in_doubt) = (Id(row.id), row.kind, row.route, row.state, row.in_doubt);
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
                let object = StoredId::Object(ObjectId::Card(CardId::new(row.id)));
                conflicts.push(stale(connection, sql::CARD_VERSION, &Id(row.id), object, row.version)?);
            }
        }
        if conflicts.is_empty() {
            let mut insert = connection.prepare_cached(sql::INSERT_TERM)?;
            for row in &self.terms {
                if row.new || changed_terms.contains(&Id(row.card)) {
                    insert.execute(params![self.at(row.name), self.at(row.folded), Id(row.card)])?;
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
                insert.execute(params![Id(row.id), Id(row.card), row.state, data])?
            } else {
                update.execute(params![Id(row.id), integer(row.version), Id(row.card), row.state, data])?
            };
            if done == 0 {
                let object = StoredId::Object(ObjectId::Certificate(CertificateId::new(row.id)));
                conflicts.push(stale(connection, sql::CERTIFICATE_VERSION, &Id(row.id), object, row.version)?);
            }
        }
        Ok(())
    }

    fn store_requests(&self, connection: &Connection, conflicts: &mut Vec<Conflict>) -> Result<(), Problem> {
        for row in &self.requests {
            let (holder, data) = (self.at(row.holder), self.at(row.data));
            let done = if row.version == 0 {
                connection.prepare_cached(sql::INSERT_REQUEST)?.execute(params![Id(row.id), row.state, holder, data])?
            } else {
                connection.prepare_cached(sql::UPDATE_REQUEST)?.execute(params![
                    Id(row.id),
                    integer(row.version),
                    row.state,
                    holder,
                    data
                ])?
            };
            if done == 0 {
                let object = StoredId::Object(ObjectId::Request(RequestId::new(row.id)));
                conflicts.push(stale(connection, sql::REQUEST_VERSION, &Id(row.id), object, row.version)?);
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
            let (data, id) = (self.at(row.data), Id(row.id));
            let (card, run) = (row.card.map(Id), row.run.map(Id));
            let done = if row.version == 0 {
                let worker = row.claim.map(|(worker, _)| self.at(worker));
                let until = row.claim.map(|(_, until)| until);
                insert.execute(params![id, row.kind, row.state, row.due, card, run, worker, until, data])?
            } else {
                let version = integer(row.version);
                let claimed = row.claim.is_some();
                update.execute(params![id, version, row.kind, row.state, row.due, card, run, claimed, data])?
            };
            if done == 0 {
                let object = StoredId::Job(JobId::new(row.id));
                conflicts.push(stale(connection, sql::JOB_VERSION, &Id(row.id), object, row.version)?);
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
            if insert.execute(params![self.object(row), row.sequence, self.at(row.data)])? == 0 {
                let sequence = u64::try_from(row.sequence).unwrap_or_default();
                return Err(Problem::BrokenChain { object: self.object_name(row), sequence });
            }
        }
        Ok(())
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
