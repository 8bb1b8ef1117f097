//! The claims of jobs, each in a transaction of its own. All times are the database's.

use std::time::Duration;

use uuid::Uuid;

use super::PostgresRepository;
use super::decode;
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
        let ids = (!wanted.ids.is_empty()).then(|| wanted.ids.iter().map(|id| id.uuid()).collect::<Vec<_>>());
        let query = sqlx::query(self.function("claim", 7))
            .bind(micros(wanted.lease))
            .bind(&wanted.worker)
            .bind(wanted.early)
            .bind(limit(wanted.limit))
            .bind(codes(&wanted.kinds, &JobKind::ALL))
            .bind(ids)
            .bind(wanted.run.map(|run| run.uuid()));
        let (mut claimed, mut unreadable) = (Vec::new(), None);
        for row in &self.write(query).await? {
            match decode::job(row) {
                Ok(job) => claimed.push(job),
                Err(problem) => unreadable = Some(problem),
            }
        }
        if let Some(problem) = unreadable {
            // It stays claimed for now, so that it keeps nobody from the others.
            let readable: Vec<_> = claimed.iter().map(|job| (job.id, job.version)).collect();
            self.try_release(&readable).await?;
            return Err(problem);
        }
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
        let mut attempts: Vec<_> = attempts.iter().collect();
        attempts.sort_by_key(|(id, version, _)| (*id, *version));
        attempts.dedup_by_key(|(id, version, _)| (*id, *version));
        let data = attempts.iter().map(|(_, _, attempt)| serde_json::to_string(attempt)).collect::<Result<Vec<_>, _>>();
        let data = data.map_err(|source| Unwritable { what: "an attempt", source })?;
        let (ids, versions) = columns(attempts.iter().map(|(id, version, _)| (*id, *version)));
        let query =
            sqlx::query(self.function("record_attempts", 4)).bind(micros(lease)).bind(ids).bind(versions).bind(data);
        self.write(query).await?.iter().map(decode::job).collect()
    }
}

/// Ids and versions, in the order in which commits change them.
fn columns(jobs: impl Iterator<Item = (JobId, u64)>) -> (Vec<Uuid>, Vec<i64>) {
    let mut both: Vec<_> = jobs.map(|(id, version)| (id.uuid(), integer(version))).collect();
    both.sort_unstable();
    both.into_iter().unzip()
}
