//! The claims of jobs, each in a transaction of its own. All times are the database's.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::PostgresRepository;
use super::connection::Session;
use super::decode::{self, claim, column, unsigned};
use super::problem::Problem;
use super::statements as sql;
use crate::adapters::codes::{codes, integer, limit};
use crate::adapters::rows::Unwritable;
use crate::host::ClaimRequest;
use crate::id::JobId;
use crate::job::{Attempt, Job, JobKind};

/// No lease is longer: some hundred years.
const LONGEST: i64 = 10_000_000_000_000_000;

fn micros(lease: Duration) -> i64 {
    i64::try_from(lease.as_micros()).unwrap_or(LONGEST).min(LONGEST)
}

impl PostgresRepository {
    pub(super) async fn try_claim(&self, wanted: &ClaimRequest) -> Result<Vec<Job>, Problem> {
        let kinds = codes(&wanted.kinds, &JobKind::ALL);
        let run = wanted.run.map(|run| run.uuid());
        let text = match () {
            () if !wanted.ids.is_empty() => sql::CLAIM_OF_IDS,
            () if run.is_some() => sql::CLAIM_OF_RUN,
            () => sql::CLAIM_OF_KINDS,
        };
        let mut query = sqlx::query(self.sql(text))
            .bind(micros(wanted.lease))
            .bind(&wanted.worker)
            .bind(wanted.early)
            .bind(limit(wanted.limit))
            .bind(kinds);
        if !wanted.ids.is_empty() {
            query = query.bind(wanted.ids.iter().map(|id| id.uuid()).collect::<Vec<_>>()).bind(run);
        } else if run.is_some() {
            query = query.bind(run);
        }
        let mut session = self.begin().await?;
        let claimed = query.fetch_all(session.connection()).await;
        let mut claimed = session.end(claimed.map_err(Problem::from).and_then(|rows| jobs(&rows))).await?;
        claimed.sort_unstable_by_key(|job| (job.due, job.id));
        Ok(claimed)
    }

    pub(super) async fn try_renew(&self, jobs: &[(JobId, u64)], lease: Duration) -> Result<Vec<JobId>, Problem> {
        let (ids, versions) = columns(jobs.iter().copied());
        let query = sqlx::query_scalar::<_, Uuid>(self.sql(sql::RENEW)).bind(ids).bind(versions).bind(micros(lease));
        let mut session = self.begin().await?;
        let renewed = query.fetch_all(session.connection()).await;
        Ok(session.end(renewed.map_err(Problem::from)).await?.into_iter().map(JobId::new).collect())
    }

    pub(super) async fn try_release(&self, jobs: &[(JobId, u64)]) -> Result<(), Problem> {
        let (ids, versions) = columns(jobs.iter().copied());
        let query = sqlx::query(self.sql(sql::RELEASE_JOBS)).bind(ids).bind(versions);
        let mut session = self.begin().await?;
        let released = query.execute(session.connection()).await;
        session.end(released.map_err(Problem::from)).await.map(|_| ())
    }

    pub(super) async fn try_record(
        &self,
        attempts: &[(JobId, u64, Attempt)],
        lease: Duration,
    ) -> Result<Vec<Job>, Problem> {
        let mut session = self.begin().await?;
        let recorded = self.record_held(&mut session, attempts, lease).await;
        session.end(recorded).await
    }

    async fn record_held(
        &self,
        session: &mut Session,
        attempts: &[(JobId, u64, Attempt)],
        lease: Duration,
    ) -> Result<Vec<Job>, Problem> {
        let (ids, versions) = columns(attempts.iter().map(|(id, version, _)| (*id, *version)));
        let query = sqlx::query(self.sql(sql::HELD)).bind(ids).bind(versions);
        let held = jobs(&query.fetch_all(session.connection()).await?)?;
        let mut held: BTreeMap<JobId, Job> = held.into_iter().map(|job| (job.id, job)).collect();
        let mut tried = BTreeMap::new();
        for (id, version, attempt) in attempts {
            if held.get(id).is_some_and(|job| job.version == *version)
                && let Some(mut job) = held.remove(id)
            {
                job.attempts += 1;
                job.attempt = Some(attempt.clone());
                tried.insert(*id, job);
            }
        }
        let data = tried.values().map(serde_json::to_string).collect::<Result<Vec<_>, _>>();
        let data = data.map_err(|source| Unwritable { what: "a job", source })?;
        let ids: Vec<Uuid> = tried.keys().map(|id| id.uuid()).collect();
        let query = sqlx::query(self.sql(sql::RECORD_ATTEMPTS)).bind(ids).bind(data).bind(micros(lease));
        for row in query.fetch_all(session.connection()).await? {
            if let Some(job) = tried.get_mut(&JobId::new(column(&row, 0, "job")?)) {
                job.version = unsigned(column(&row, 1, "job")?, "job")?;
                job.claim = claim(&row, 2, "job")?;
            }
        }
        Ok(tried.into_values().collect())
    }
}

fn jobs(rows: &[PgRow]) -> Result<Vec<Job>, Problem> {
    rows.iter().map(decode::job).collect()
}

/// Ids and versions.
fn columns(jobs: impl Iterator<Item = (JobId, u64)>) -> (Vec<Uuid>, Vec<i64>) {
    jobs.map(|(id, version)| (id.uuid(), integer(version))).unzip()
}
