//! What is read, and the claims of jobs.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::types::Value;
use rusqlite::{Connection, Params, Row, ToSql, params};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::problem::Problem;
use super::statements as sql;
use super::threads::Outcome;
use crate::adapters::codes::{ALL_JOB_STATES, Code, codes, integer, limit, past_prefix};
use crate::approval::{ApprovalRequest, RequestState};
use crate::card::{Card, CardState, fold};
use crate::certificate::{Certificate, CertificateState};
use crate::change_set::{Record, Reservation};
use crate::history::HistoryEntry;
use crate::host::{
    Backlog, CardQuery, CertificateQuery, ClaimRequest, FeedEntry, FeedPage, JobQuery, RequestQuery, TextPrefix,
};
use crate::id::{RunId, UserId};
use crate::job::{Attempt, Claim, Job, JobKind};

/// Values that a statement looks for in one go.
type Array = Rc<Vec<Value>>;

/// A page begins after this id; every id comes after no bytes at all.
fn after_bytes(after: Option<Uuid>) -> Vec<u8> {
    after.map_or_else(Vec::new, |id| id.as_bytes().to_vec())
}

pub(super) fn id_array(ids: impl Iterator<Item = Uuid>) -> Vec<Value> {
    ids.map(|id| Value::Blob(id.as_bytes().to_vec())).collect()
}

pub(super) fn text_array<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<Value> {
    texts.map(|text| Value::Text(text.to_owned())).collect()
}

pub(super) fn cards(connection: &Connection, ids: Vec<Value>) -> Result<Vec<Card>, Problem> {
    all(connection, sql::CARDS, params![Rc::new(ids)], card)
}

pub(super) fn cards_of(
    connection: &Connection,
    holders: Vec<Value>,
    states: &[CardState],
) -> Result<Vec<Card>, Problem> {
    all(connection, sql::CARDS_OF, params![Rc::new(holders), mask(states)], card)
}

pub(super) fn card_page(
    connection: &Connection,
    query: &CardQuery,
    after: Option<Uuid>,
    at_most: usize,
) -> Result<Vec<Card>, Problem> {
    let after = after_bytes(after);
    let at_most = limit(at_most);
    let kind = query.kind.map(|kind| kind.code());
    let route = query.route.map(|route| route.code());
    let states = mask_or_all(&query.states);
    let any_type = query.production_types.is_empty();
    let types: Array = Rc::new(text_array(query.production_types.iter().map(String::as_str)));
    let any_holder = query.holders.is_empty();
    let holders: Array = Rc::new(text_array(query.holders.iter().map(UserId::as_str)));
    let filter: [&dyn ToSql; 10] =
        [&after, &at_most, &kind, &route, &states, &query.in_doubt, &any_type, &types, &any_holder, &holders];
    let with = |last: &dyn ToSql, statement: &str| -> Result<Vec<Card>, Problem> {
        let mut parameters = filter.to_vec();
        parameters.push(last);
        all(connection, statement, parameters.as_slice(), card)
    };
    // What is likely to leave the fewest cards decides where to look.
    if !query.text.is_empty() {
        return one_snapshot(connection, || {
            let ids = card_ids_of_texts(connection, &query.text, &after)?;
            with(&Rc::new(ids), sql::CARD_PAGE_OF_IDS)
        });
    }
    if !any_holder {
        return all(connection, sql::CARD_PAGE_OF_HOLDERS, filter.as_slice(), card);
    }
    if query.in_doubt == Some(true) {
        return all(connection, sql::CARD_PAGE_IN_DOUBT, filter.as_slice(), card);
    }
    let branches: (&str, Vec<Value>) = if !query.states.is_empty() {
        (sql::CARD_IDS_IN_STATE, codes(&query.states, &[]).into_iter().map(Value::from).collect())
    } else if !any_type {
        let types: BTreeSet<&str> = query.production_types.iter().map(String::as_str).collect();
        (sql::CARD_IDS_OF_PRODUCTION_TYPE, text_array(types.into_iter()))
    } else {
        return all(connection, sql::CARD_PAGE, filter.as_slice(), card);
    };
    one_snapshot(connection, || {
        let (statement, values) = branches;
        let mut ids = Vec::new();
        for value in &values {
            let mut parameters = filter.to_vec();
            parameters.push(value);
            ids.extend(all(connection, statement, parameters.as_slice(), |row| Ok(row.get(0)?))?);
        }
        all(connection, sql::CARDS_IN_ORDER, params![first(ids, at_most)], card)
    })
}

/// The cards that have all of these texts, after an id.
fn card_ids_of_texts(connection: &Connection, texts: &[TextPrefix], after: &[u8]) -> Result<Vec<Value>, Problem> {
    let mut left: Option<BTreeSet<Vec<u8>>> = None;
    for text in texts {
        let from = fold(&text.prefix);
        // SQLite sorts a blob after every text.
        let to = past_prefix(&from).map_or(Value::Blob(Vec::new()), Value::Text);
        let found: BTreeSet<Vec<u8>> =
            all(connection, sql::CARD_IDS_OF_TEXT, params![text.name, from, to, after], |row| Ok(row.get(0)?))?
                .into_iter()
                .collect();
        left = Some(match left {
            Some(left) => left.intersection(&found).cloned().collect(),
            None => found,
        });
        if left.as_ref().is_some_and(BTreeSet::is_empty) {
            break;
        }
    }
    Ok(left.unwrap_or_default().into_iter().map(Value::Blob).collect())
}

pub(super) fn requests(connection: &Connection, ids: Vec<Value>) -> Result<Vec<ApprovalRequest>, Problem> {
    all(connection, sql::REQUESTS, params![Rc::new(ids)], request)
}

pub(super) fn request_page(
    connection: &Connection,
    query: &RequestQuery,
    after: Option<Uuid>,
    at_most: usize,
) -> Result<Vec<ApprovalRequest>, Problem> {
    let after = after_bytes(after);
    let at_most = limit(at_most);
    if !query.holders.is_empty() {
        let holders: Array = Rc::new(text_array(query.holders.iter().map(UserId::as_str)));
        let parameters = params![after, at_most, holders, mask_or_all(&query.states)];
        return all(connection, sql::REQUEST_PAGE_OF_HOLDERS, parameters, request);
    }
    if query.states.is_empty() {
        return all(connection, sql::REQUEST_PAGE, params![after, at_most], request);
    }
    one_snapshot(connection, || {
        let mut ids = Vec::new();
        for state in codes::<RequestState>(&query.states, &[]) {
            let parameters = params![after, at_most, state];
            ids.extend(all(connection, sql::REQUEST_IDS_IN_STATE, parameters, |row| Ok(row.get(0)?))?);
        }
        all(connection, sql::REQUESTS_IN_ORDER, params![first(ids, at_most)], request)
    })
}

pub(super) fn certificates(connection: &Connection, ids: Vec<Value>) -> Result<Vec<Certificate>, Problem> {
    all(connection, sql::CERTIFICATES, params![Rc::new(ids)], certificate)
}

pub(super) fn certificate_page(
    connection: &Connection,
    query: &CertificateQuery,
    after: Option<Uuid>,
    at_most: usize,
) -> Result<Vec<Certificate>, Problem> {
    let after = after_bytes(after);
    let at_most = limit(at_most);
    if !query.cards.is_empty() {
        let cards: Array = Rc::new(id_array(query.cards.iter().map(|card| card.uuid())));
        let parameters = params![after, at_most, cards, mask_or_all(&query.states)];
        return all(connection, sql::CERTIFICATE_PAGE_OF_CARDS, parameters, certificate);
    }
    if query.states.is_empty() {
        return all(connection, sql::CERTIFICATE_PAGE, params![after, at_most], certificate);
    }
    one_snapshot(connection, || {
        let mut ids = Vec::new();
        for state in codes::<CertificateState>(&query.states, &[]) {
            let parameters = params![after, at_most, state];
            ids.extend(all(connection, sql::CERTIFICATE_IDS_IN_STATE, parameters, |row| Ok(row.get(0)?))?);
        }
        all(connection, sql::CERTIFICATES_IN_ORDER, params![first(ids, at_most)], certificate)
    })
}

pub(super) fn records(connection: &Connection, keys: Vec<Value>) -> Result<Vec<Record>, Problem> {
    all(connection, sql::RECORDS, params![Rc::new(keys)], |row| {
        let mut record: Record = parse(row, 2, || Ok(format!("record {}", row.get::<_, String>(0)?)))?;
        record.version = version(row)?;
        Ok(record)
    })
}

pub(super) fn reservations(connection: &Connection, keys: Vec<Value>) -> Result<Vec<Reservation>, Problem> {
    all(connection, sql::RESERVATIONS, params![Rc::new(keys)], |row| {
        Ok(Reservation { key: row.get(0)?, owner: row.get(1)? })
    })
}

pub(super) fn jobs(connection: &Connection, ids: Vec<Value>) -> Result<Vec<Job>, Problem> {
    all(connection, sql::JOBS, params![Rc::new(ids)], job)
}

pub(super) fn job_page(
    connection: &Connection,
    query: &JobQuery,
    after: Option<Uuid>,
    at_most: usize,
) -> Result<Vec<Job>, Problem> {
    let after = after_bytes(after);
    let at_most = limit(at_most);
    if query.kinds.is_empty() && query.states.is_empty() {
        return all(connection, sql::JOB_PAGE, params![after, at_most], job);
    }
    one_snapshot(connection, || {
        let mut ids = Vec::new();
        for state in codes(&query.states, &ALL_JOB_STATES) {
            for kind in codes(&query.kinds, &JobKind::ALL) {
                let parameters = params![after, at_most, state, kind];
                ids.extend(all(connection, sql::JOB_IDS_IN_STATE, parameters, |row| Ok(row.get(0)?))?);
            }
        }
        all(connection, sql::JOBS_IN_ORDER, params![first(ids, at_most)], job)
    })
}

pub(super) fn backlog(
    connection: &Connection,
    due_by: DateTime<Utc>,
    run: Option<RunId>,
) -> Result<Vec<Backlog>, Problem> {
    let due_by = due_by.timestamp_micros();
    let run = run.map(|run| run.uuid().as_bytes().to_vec());
    one_snapshot(connection, || {
        let mut counts = Vec::new();
        for kind in JobKind::ALL {
            let due = |row: &Row<'_>| Ok((count(row)?, row.get::<_, Option<i64>>(1)?));
            let (due, oldest) = match &run {
                None => one(connection, sql::DUE_OF_KIND, params![due_by, kind.code()], due)?,
                Some(run) => one(connection, sql::DUE_OF_KIND_AND_RUN, params![due_by, kind.code(), run], due)?,
            };
            let in_doubt = one(connection, sql::IN_DOUBT_OF_KIND, params![kind.code(), run], count)?;
            let oldest_due = oldest.map(DateTime::from_timestamp_micros);
            let oldest_due = oldest_due.map(|due| due.ok_or(Problem::OutOfRange("a due time"))).transpose()?;
            counts.push(Backlog { kind, due, oldest_due, in_doubt });
        }
        counts.retain(|counted| *counted != Backlog::none(counted.kind));
        Ok(counts)
    })
}

fn count(row: &Row<'_>) -> Result<u64, Problem> {
    u64::try_from(row.get::<_, i64>(0)?).map_err(|_| Problem::OutOfRange("a count"))
}

/// What a statement gives that always gives one row.
fn one<T>(
    connection: &Connection,
    statement: &str,
    parameters: impl Params,
    read: impl Fn(&Row<'_>) -> Result<T, Problem>,
) -> Result<T, Problem> {
    let mut statement = connection.prepare_cached(statement)?;
    statement.query_row(parameters, |row| Ok(read(row)))?
}

pub(super) fn claim(
    connection: &Connection,
    wanted: &ClaimRequest,
    now: DateTime<Utc>,
) -> Result<Outcome<Vec<Job>>, Problem> {
    let free_by = now.timestamp_micros();
    let due_by = if wanted.early { i64::MAX } else { free_by };
    let at_most = limit(wanted.limit);
    let kinds = mask_or_all(&wanted.kinds);
    let run = wanted.run.map(|run| run.uuid().as_bytes().to_vec());
    let due_and_id = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?));
    let mut found = Vec::new();
    if !wanted.ids.is_empty() {
        let ids: Array = Rc::new(id_array(wanted.ids.iter().map(|id| id.uuid())));
        let parameters = params![due_by, free_by, at_most, kinds, ids, run];
        found = all(connection, sql::CLAIMABLE_OF_IDS, parameters, due_and_id)?;
    } else if let Some(run) = run {
        let parameters = params![due_by, free_by, at_most, kinds, run];
        found = all(connection, sql::CLAIMABLE_OF_RUN, parameters, due_and_id)?;
    } else {
        for kind in codes(&wanted.kinds, &JobKind::ALL) {
            let parameters = params![due_by, free_by, at_most, kinds, kind];
            found.extend(all(connection, sql::CLAIMABLE_OF_KIND, parameters, due_and_id)?);
        }
        found.sort_unstable();
        found.truncate(wanted.limit);
    }
    let until = lease_end(now, wanted.lease);
    let mut statement = connection.prepare_cached(sql::CLAIM)?;
    let mut claimed = Vec::with_capacity(found.len());
    for (_, id) in found {
        let mut rows = statement.query(params![id, wanted.worker, until])?;
        while let Some(row) = rows.next()? {
            claimed.push(job(row)?);
        }
    }
    Ok(if claimed.is_empty() { Outcome::Undo(claimed) } else { Outcome::Keep(claimed) })
}

pub(super) fn renew(
    connection: &Connection,
    jobs: Vec<(crate::id::JobId, u64)>,
    until: i64,
) -> Result<Outcome<Vec<crate::id::JobId>>, Problem> {
    let mut statement = connection.prepare_cached(sql::RENEW)?;
    let mut held = Vec::with_capacity(jobs.len());
    for (id, version) in jobs {
        if statement.execute(params![id.uuid().as_bytes(), integer(version), until])? > 0 {
            held.push(id);
        }
    }
    Ok(Outcome::Keep(held))
}

pub(super) fn release(connection: &Connection, jobs: &[(crate::id::JobId, u64)]) -> Result<Outcome<()>, Problem> {
    let mut statement = connection.prepare_cached(sql::RELEASE_JOB)?;
    for (id, version) in jobs {
        statement.execute(params![id.uuid().as_bytes(), integer(*version)])?;
    }
    Ok(Outcome::Keep(()))
}

/// An attempt as it is stored.
pub(super) struct AttemptRow {
    job: Uuid,
    version: i64,
    attempt: String,
}

impl AttemptRow {
    pub(super) fn new(job: Uuid, version: u64, attempt: &Attempt) -> Result<Self, Problem> {
        let attempt = serde_json::to_string(attempt)
            .map_err(|source| Problem::Unwritable { what: "an attempt", source: source.into() })?;
        Ok(Self { job, version: integer(version), attempt })
    }
}

pub(super) fn record_attempts(
    connection: &Connection,
    attempts: &[AttemptRow],
    until: i64,
) -> Result<Outcome<Vec<Job>>, Problem> {
    let mut statement = connection.prepare_cached(sql::RECORD_ATTEMPT)?;
    let mut stored = Vec::with_capacity(attempts.len());
    for AttemptRow { job: id, version, attempt } in attempts {
        let mut rows = statement.query(params![id.as_bytes(), version, until, attempt])?;
        while let Some(row) = rows.next()? {
            stored.push(job(row)?);
        }
    }
    Ok(Outcome::Keep(stored))
}

pub(super) fn history(
    connection: &Connection,
    object: &[u8],
    after: u64,
    at_most: usize,
) -> Result<Vec<HistoryEntry>, Problem> {
    all(connection, sql::HISTORY, params![object, integer(after), limit(at_most)], entry)
}

pub(super) fn changes_since(
    connection: &Connection,
    after: i64,
    asked: Option<String>,
    at_most: usize,
) -> Result<FeedPage, Problem> {
    let entries = all(connection, sql::CHANGES, params![after, limit(at_most)], |row| {
        Ok(FeedEntry { cursor: row.get::<_, i64>(0)?.to_string(), entry: entry(row)? })
    })?;
    let cursor = entries.last().map(|last| last.cursor.clone()).or(asked);
    Ok(FeedPage { entries, cursor })
}

/// The position that a cursor stands for.
pub(super) fn position(cursor: Option<&str>) -> Result<i64, Problem> {
    let Some(cursor) = cursor else { return Ok(0) };
    if !cursor.is_empty()
        && cursor.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(position) = cursor.parse()
    {
        return Ok(position);
    }
    Err(Problem::Cursor(cursor.chars().take(100).collect()))
}

/// Several statements that see the same.
fn one_snapshot<T>(connection: &Connection, read: impl FnOnce() -> Result<T, Problem>) -> Result<T, Problem> {
    // Rolled back when it goes out of scope, which ends a read as well as anything.
    let _transaction = connection.unchecked_transaction()?;
    read()
}

fn all<T>(
    connection: &Connection,
    statement: &str,
    parameters: impl Params,
    read: impl Fn(&Row<'_>) -> Result<T, Problem>,
) -> Result<Vec<T>, Problem> {
    let mut statement = connection.prepare_cached(statement)?;
    let mut rows = statement.query(parameters)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// The first of these ids, to be looked for.
fn first(mut ids: Vec<Vec<u8>>, at_most: i64) -> Array {
    ids.sort_unstable();
    ids.truncate(usize::try_from(at_most).unwrap_or(usize::MAX));
    Rc::new(ids.into_iter().map(Value::Blob).collect())
}

fn card(row: &Row<'_>) -> Result<Card, Problem> {
    let mut card: Card = parse(row, 2, || Ok(format!("card {}", id(row)?)))?;
    card.version = version(row)?;
    Ok(card)
}

fn request(row: &Row<'_>) -> Result<ApprovalRequest, Problem> {
    let mut request: ApprovalRequest = parse(row, 2, || Ok(format!("request {}", id(row)?)))?;
    request.version = version(row)?;
    Ok(request)
}

fn certificate(row: &Row<'_>) -> Result<Certificate, Problem> {
    let mut certificate: Certificate = parse(row, 2, || Ok(format!("certificate {}", id(row)?)))?;
    certificate.version = version(row)?;
    Ok(certificate)
}

fn job(row: &Row<'_>) -> Result<Job, Problem> {
    let mut job: Job = parse(row, 2, || Ok(format!("job {}", id(row)?)))?;
    job.version = version(row)?;
    if let (Some(worker), Some(until)) = (row.get(3)?, row.get(4)?) {
        let until = DateTime::from_timestamp_micros(until).ok_or(Problem::OutOfRange("the end of a claim"))?;
        job.claim = Some(Claim { worker, until });
    }
    Ok(job)
}

fn entry(row: &Row<'_>) -> Result<HistoryEntry, Problem> {
    parse(row, 1, || Ok(format!("history entry {}", row.get::<_, i64>(0)?)))
}

fn id(row: &Row<'_>) -> rusqlite::Result<Uuid> {
    row.get(0).map(Uuid::from_bytes)
}

fn version(row: &Row<'_>) -> Result<u64, Problem> {
    u64::try_from(row.get::<_, i64>(1)?).map_err(|_| Problem::OutOfRange("a version"))
}

fn parse<T: DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
    what: impl FnOnce() -> rusqlite::Result<String>,
) -> Result<T, Problem> {
    let data = row.get_ref(column)?.as_str().map_err(rusqlite::Error::from)?;
    serde_json::from_str(data).or_else(|source| Err(Problem::Unreadable { what: what()?, source: source.into() }))
}

/// One bit for each of these values.
fn mask<C: Code>(wanted: &[C]) -> i64 {
    wanted.iter().fold(0, |mask, value| mask | 1 << value.code())
}

/// One bit for each of these values; all bits if there are none.
fn mask_or_all<C: Code>(wanted: &[C]) -> i64 {
    if wanted.is_empty() { -1 } else { mask(wanted) }
}

/// The end of a lease that begins now.
pub(super) fn lease_end(now: DateTime<Utc>, lease: Duration) -> i64 {
    TimeDelta::from_std(lease)
        .ok()
        .and_then(|lease| now.checked_add_signed(lease))
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
        .timestamp_micros()
}
