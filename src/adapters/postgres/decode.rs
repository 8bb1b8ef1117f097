//! Rows as what they were stored from. What cannot be read is named by its table and key.

use std::fmt::Display;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use sqlx::Row as _;
use sqlx::postgres::{PgRow, Postgres};
use uuid::Uuid;

use super::problem::Problem;
use crate::approval::ApprovalRequest;
use crate::card::Card;
use crate::certificate::Certificate;
use crate::change_set::{Record, Reservation};
use crate::history::HistoryEntry;
use crate::host::FeedEntry;
use crate::job::{Claim, Job};

/// A column, of what is named by the closure.
pub(super) fn column<'r, T: sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>>(
    row: &'r PgRow,
    place: usize,
    what: impl Display,
) -> Result<T, Problem> {
    row.try_get(place).map_err(|source| Problem::Unreadable { what: what.to_string(), source: source.into() })
}

/// Columns 1 and 2: a version and the JSON.
fn versioned<T: DeserializeOwned>(row: &PgRow, what: impl Display) -> Result<(T, u64), Problem> {
    let version = unsigned(column(row, 1, &what)?, &what)?;
    Ok((json(row, 2, &what)?, version))
}

fn json<T: DeserializeOwned>(row: &PgRow, place: usize, what: impl Display) -> Result<T, Problem> {
    let data: &str = column(row, place, &what)?;
    serde_json::from_str(data).map_err(|source| Problem::Unreadable { what: what.to_string(), source: source.into() })
}

/// A number that is stored with a sign and has none.
pub(super) fn unsigned(number: i64, what: impl Display) -> Result<u64, Problem> {
    u64::try_from(number).map_err(|source| Problem::Unreadable { what: what.to_string(), source: source.into() })
}

fn name(row: &PgRow, table: &str) -> Result<String, Problem> {
    Ok(format!("{table} {}", column::<Uuid>(row, 0, table)?))
}

pub(super) fn card(row: &PgRow) -> Result<Card, Problem> {
    let (mut card, version): (Card, _) = versioned(row, name(row, "card")?)?;
    card.version = version;
    Ok(card)
}

pub(super) fn request(row: &PgRow) -> Result<ApprovalRequest, Problem> {
    let (mut request, version): (ApprovalRequest, _) = versioned(row, name(row, "request")?)?;
    request.version = version;
    Ok(request)
}

pub(super) fn certificate(row: &PgRow) -> Result<Certificate, Problem> {
    let (mut certificate, version): (Certificate, _) = versioned(row, name(row, "certificate")?)?;
    certificate.version = version;
    Ok(certificate)
}

pub(super) fn job(row: &PgRow) -> Result<Job, Problem> {
    let what = name(row, "job")?;
    let (mut job, version): (Job, _) = versioned(row, &what)?;
    job.version = version;
    let (worker, until): (Option<String>, Option<DateTime<Utc>>) = (column(row, 3, &what)?, column(row, 4, &what)?);
    job.claim = worker.zip(until).map(|(worker, until)| Claim { worker, until });
    let attempts = unsigned(column(row, 5, &what)?, &what)?;
    job.attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
    let has_attempt = column::<Option<&str>>(row, 6, &what)?.is_some();
    job.attempt = if has_attempt { Some(json(row, 6, &what)?) } else { None };
    Ok(job)
}

pub(super) fn record(row: &PgRow) -> Result<Record, Problem> {
    let key: &str = column(row, 0, "record")?;
    let (mut record, version): (Record, _) = versioned(row, format_args!("record {key}"))?;
    record.version = version;
    Ok(record)
}

pub(super) fn reservation(row: &PgRow) -> Result<Reservation, Problem> {
    Ok(Reservation { key: column(row, 0, "reservation")?, owner: column(row, 1, "reservation")? })
}

/// An entry of the history, with its place in the feed.
pub(super) fn entry(row: &PgRow) -> Result<FeedEntry, Problem> {
    let (transaction, position): (i64, i64) = (column(row, 0, "history")?, column(row, 1, "history")?);
    let cursor = format!("{transaction}.{position}");
    let entry: HistoryEntry = json(row, 2, format_args!("history entry {cursor}"))?;
    Ok(FeedEntry { cursor, entry })
}
