//! What is read.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Encode, QueryBuilder, Type};
use uuid::Uuid;

use super::PostgresRepository;
use super::connection::{Session, known};
use super::decode;
use super::pages::{self, Values, Walk};
use super::problem::Problem;
use super::statements as sql;
use crate::adapters::codes::{ALL_JOB_STATES, Code as _, codes, integer, limit, object_bytes};
use crate::approval::ApprovalRequest;
use crate::card::{Card, CardState};
use crate::certificate::Certificate;
use crate::history::{HistoryEntry, ObjectId};
use crate::host::{Backlog, CardQuery, CertificateQuery, FeedPage, JobQuery, RequestQuery};
use crate::id::{CardId, CertificateId, JobId, RequestId, RunId, UserId};
use crate::job::{Job, JobKind};

pub(super) type Statement<'a> = Query<'a, Postgres, PgArguments>;

/// A statement that reads, as it grows.
pub(super) struct Text {
    schema: String,
    builder: QueryBuilder<Postgres>,
}

impl Text {
    /// Adds to it; `@` stands for the schema and a dot.
    pub(super) fn add(&mut self, text: &str) -> &mut Self {
        self.builder.push(text.replace('@', &self.schema));
        self
    }

    /// Adds a value.
    pub(super) fn value<'t, T: Encode<'t, Postgres> + Type<Postgres>>(&mut self, value: T) -> &mut Self {
        self.builder.push_bind(value);
        self
    }

    /// All of it, with its values.
    fn query(&mut self) -> Statement<'_> {
        self.builder.build()
    }

    #[cfg(test)]
    pub(super) fn into_string(self) -> String {
        self.builder.into_string()
    }
}

impl PostgresRepository {
    /// A statement that begins like this.
    pub(super) fn text(&self, begin: &str) -> Text {
        let mut text = Text { schema: format!("\"{}\".", self.schema), builder: QueryBuilder::new("") };
        text.add(begin);
        text
    }

    /// What a statement finds.
    async fn all<T>(
        &self,
        query: Statement<'_>,
        decode: impl Fn(&PgRow) -> Result<T, Problem>,
    ) -> Result<Vec<T>, Problem> {
        let mut session = self.begin().await?;
        let found = find(&mut session, query, decode).await;
        session.leave().await;
        found
    }

    /// A call of a function of the schema with so many arguments, beside what its caller believes.
    pub(super) fn function(&self, name: &str, arguments: usize) -> AssertSqlSafe<String> {
        let places: String = (1..=arguments).map(|place| format!(", ${place}")).collect();
        self.sql(&format!("SELECT * FROM @{name}({}{places})", known(self.schema.as_str())))
    }

    /// What has one of these keys.
    pub(super) async fn of_keys<T, K>(
        &self,
        function: &str,
        keys: &[K],
        decode: fn(&PgRow) -> Result<T, Problem>,
    ) -> Result<Vec<T>, Problem>
    where
        K: Sync,
        for<'q> &'q [K]: Encode<'q, Postgres> + Type<Postgres>,
    {
        let query = sqlx::query(self.function(function, 1)).bind(keys);
        self.read(query).await?.iter().map(decode).collect()
    }

    pub(super) async fn find_cards_of(&self, holders: &[UserId], states: &[CardState]) -> Result<Vec<Card>, Problem> {
        let holders = texts(holders.iter().map(UserId::as_str));
        let query = sqlx::query(self.function("cards_of", 2)).bind(holders).bind(codes(states, &[]));
        self.read(query).await?.iter().map(decode::card).collect()
    }

    pub(super) async fn find_cards(
        &self,
        query: &CardQuery,
        after: Option<CardId>,
        at_most: usize,
    ) -> Result<Vec<Card>, Problem> {
        let mut session = self.begin().await?;
        let found = self.find_cards_in(&mut session, query, after, at_most).await;
        session.leave().await;
        found
    }

    async fn find_cards_in(
        &self,
        session: &mut Session,
        query: &CardQuery,
        mut after: Option<CardId>,
        at_most: usize,
    ) -> Result<Vec<Card>, Problem> {
        // The cards of given holders are few anyway.
        let fewest = if query.text.is_empty() || !query.holders.is_empty() {
            None
        } else {
            let count = |row: &PgRow| Ok((decode::column(row, 0, "a count")?, decode::column(row, 1, "a count")?));
            pages::fewest(find(session, pages::counts(self, &query.text).query(), count).await?)
        };
        let mut found = Vec::new();
        loop {
            let mut text = pages::cards(self, query, fewest, after.map(CardId::uuid), limit(at_most));
            let page = find(session, text.query(), decode::card).await?;
            let is_last = page.len() < at_most;
            after = page.last().map(|card| card.id).or(after);
            // Terms that are longer than what is stored of them are compared here.
            found.extend(page.into_iter().filter(|card| pages::is_exact(query) || query.matches(card)));
            if is_last || found.len() >= at_most {
                found.truncate(at_most);
                return Ok(found);
            }
        }
    }

    pub(super) async fn find_requests(
        &self,
        query: &RequestQuery,
        after: Option<RequestId>,
        at_most: usize,
    ) -> Result<Vec<ApprovalRequest>, Problem> {
        let holders = texts(query.holders.iter().map(UserId::as_str));
        let along = (!holders.is_empty()).then_some(Walk::Along("holder", Values::Texts(holders)));
        let after = after.map(RequestId::uuid);
        self.find_of("request", along, codes(&query.states, &[]), after, at_most, decode::request).await
    }

    pub(super) async fn find_certificates(
        &self,
        query: &CertificateQuery,
        after: Option<CertificateId>,
        at_most: usize,
    ) -> Result<Vec<Certificate>, Problem> {
        let cards = distinct(query.cards.iter().map(|card| card.uuid()));
        let (states, after) = (codes(&query.states, &[]), after.map(CertificateId::uuid));
        if cards.is_empty() {
            return self.find_of("certificate", None, states, after, at_most, decode::certificate).await;
        }
        let query = sqlx::query(self.function("certificates_of", 4)).bind(cards).bind(states);
        self.read(query.bind(after).bind(limit(at_most))).await?.iter().map(decode::certificate).collect()
    }

    /// A page of those in these states (all, if there are none), along the states if along nothing else.
    async fn find_of<T>(
        &self,
        table: &str,
        along: Option<Walk<'_>>,
        states: Vec<i16>,
        after: Option<Uuid>,
        at_most: usize,
        decode: impl Fn(&PgRow) -> Result<T, Problem>,
    ) -> Result<Vec<T>, Problem> {
        let (walk, filter) = match along {
            Some(walk) => (walk, states),
            None if states.is_empty() => (Walk::Ids, states),
            None => (Walk::Along("state", Values::Codes(states)), Vec::new()),
        };
        let mut text = pages::page(self, table, walk, after, limit(at_most), |text| {
            if !filter.is_empty() {
                text.add(" AND state = ANY(").value(filter.clone()).add(")");
            }
        });
        self.all(text.query(), decode).await
    }

    pub(super) async fn find_jobs(
        &self,
        query: &JobQuery,
        after: Option<JobId>,
        at_most: usize,
    ) -> Result<Vec<Job>, Problem> {
        let walk = if query.kinds.is_empty() && query.states.is_empty() {
            Walk::Ids
        } else {
            let kinds = codes(&query.kinds, &JobKind::ALL);
            let of_state = |state| kinds.iter().map(move |kind| 32 * state + kind);
            let both = codes(&query.states, &ALL_JOB_STATES).into_iter().flat_map(of_state).collect();
            Walk::Along("state * 32 + kind", Values::Codes(both))
        };
        let mut text = pages::page(self, "job", walk, after.map(JobId::uuid), limit(at_most), |_| ());
        self.all(text.query(), decode::job).await
    }

    pub(super) async fn count_jobs(&self, due_by: DateTime<Utc>, run: Option<RunId>) -> Result<Vec<Backlog>, Problem> {
        let kinds: BTreeMap<i16, JobKind> = JobKind::ALL.into_iter().map(|kind| (kind.code(), kind)).collect();
        let codes: Vec<i16> = kinds.keys().copied().collect();
        let text = if run.is_some() { sql::BACKLOG_OF_RUN } else { sql::BACKLOG };
        let mut query = sqlx::query(self.sql(text)).bind(codes).bind(due_by);
        if let Some(run) = run {
            query = query.bind(run.uuid());
        }
        let counted = self.all(query, |row| {
            let count = |place| decode::unsigned(decode::column(row, place, "a count")?, "a count");
            let kind = kinds.get(&decode::column::<i16>(row, 0, "a kind of jobs")?);
            let oldest_due = decode::column(row, 2, "a due time")?;
            kind.map(|kind| Ok(Backlog { kind: *kind, due: count(1)?, oldest_due, in_doubt: count(3)? })).transpose()
        });
        let mut counted: Vec<Backlog> = counted.await?.into_iter().flatten().collect();
        counted.retain(|counted| *counted != Backlog::none(counted.kind));
        counted.sort_unstable_by_key(|counted| counted.kind);
        Ok(counted)
    }

    pub(super) async fn find_history(
        &self,
        object: &ObjectId,
        after: u64,
        at_most: usize,
    ) -> Result<Vec<HistoryEntry>, Problem> {
        let mut bytes = Vec::with_capacity(17);
        object_bytes(object, &mut bytes);
        let query = sqlx::query(self.sql(sql::HISTORY)).bind(bytes).bind(integer(after)).bind(limit(at_most));
        self.all(query, |row| Ok(decode::entry(row)?.entry)).await
    }

    pub(super) async fn find_changes(&self, cursor: Option<&str>, at_most: usize) -> Result<FeedPage, Problem> {
        let (transaction, position) = place(cursor)?;
        let query = sqlx::query(self.sql(sql::CHANGES)).bind(transaction).bind(position).bind(limit(at_most));
        let entries = self.all(query, decode::entry).await?;
        let cursor = entries.last().map(|last| last.cursor.clone()).or_else(|| cursor.map(str::to_owned));
        Ok(FeedPage { entries, cursor })
    }
}

async fn find<T>(
    session: &mut Session,
    query: Statement<'_>,
    decode: impl Fn(&PgRow) -> Result<T, Problem>,
) -> Result<Vec<T>, Problem> {
    query.fetch_all(session.connection()).await?.iter().map(decode).collect()
}

/// The place in the feed that a cursor stands for.
fn place(cursor: Option<&str>) -> Result<(i64, i64), Problem> {
    let Some(cursor) = cursor else { return Ok((0, 0)) };
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let parts = cursor.split_once('.');
    parts
        .and_then(|(transaction, position)| Some((number(transaction)?, number(position)?)))
        .ok_or_else(|| Problem::Cursor(cursor.chars().take(100).collect()))
}

/// Each once.
pub(super) fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values.dedup();
    values
}

/// Each text once.
pub(super) fn texts<'a>(values: impl Iterator<Item = &'a str>) -> Vec<String> {
    distinct(values.map(str::to_owned))
}
