//! What the engine wrote, in its transactions, so that the same can be written by hand.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use cardwright::host::{
    Backlog, CardQuery, CardRepository, CertificateQuery, ClaimRequest, CommitError, FeedPage, JobQuery,
    RepositoryError, RequestQuery,
};
use cardwright::{
    ApprovalRequest, Attempt, Card, CardId, CardState, Certificate, CertificateId, ChangeSet, HistoryEntry, Job, JobId,
    ObjectId, Record, RequestId, Reservation, RunId, UserId,
};
use chrono::{DateTime, Utc};

/// One transaction.
#[derive(Clone)]
pub(crate) enum Write {
    /// What one commit stored.
    Commit(ChangeSet),
    /// Jobs as they were after they were claimed.
    Claim(Vec<Job>),
    /// Jobs as they were after their attempts were stored.
    Attempts(Vec<Job>),
}

/// Who is told of everything that is written, right after it was.
#[async_trait]
pub(crate) trait Witness: Clone + Send + Sync + 'static {
    async fn see(&self, write: Write);
}

/// A store that shows what is written to the one inside to a witness. A clone is another handle onto the same.
#[derive(Clone)]
pub(crate) struct Recorder<R, W> {
    inner: R,
    witness: W,
}

impl<R, W> Recorder<R, W> {
    pub(crate) fn new(inner: R, witness: W) -> Self {
        Self { inner, witness }
    }
}

/// Keeps a copy of everything.
#[derive(Clone, Default)]
pub(crate) struct Copies(Arc<Mutex<Vec<Write>>>);

impl Copies {
    /// What was written since this was last asked. A commit of records alone, as when numbers are drawn, becomes part of
    /// the commit after it: by hand it would be.
    pub(crate) fn take(&self) -> Vec<Write> {
        let writes = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut records = Vec::new();
        let mut merged = Vec::with_capacity(writes.len());
        for write in writes {
            match write {
                Write::Commit(mut changes) if is_of_records_alone(&changes) => {
                    records.append(&mut changes.records);
                }
                Write::Commit(mut changes) => {
                    changes.records.append(&mut records);
                    merged.push(Write::Commit(changes));
                }
                other => merged.push(other),
            }
        }
        merged
    }
}

#[async_trait]
impl Witness for Copies {
    async fn see(&self, write: Write) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(write);
    }
}

/// Whether it is what is stored when numbers are drawn.
pub(crate) fn is_of_records_alone(changes: &ChangeSet) -> bool {
    changes.cards.is_empty() && changes.jobs.is_empty() && changes.history.is_empty()
}

#[async_trait]
impl<R: CardRepository, W: Witness> CardRepository for Recorder<R, W> {
    async fn commit(&self, changes: &ChangeSet) -> Result<(), CommitError> {
        self.inner.commit(changes).await?;
        self.witness.see(Write::Commit(changes.clone())).await;
        Ok(())
    }

    async fn cards(&self, ids: &[CardId]) -> Result<Vec<Card>, RepositoryError> {
        self.inner.cards(ids).await
    }

    async fn card_page(
        &self,
        query: &CardQuery,
        after: Option<CardId>,
        limit: usize,
    ) -> Result<Vec<Card>, RepositoryError> {
        self.inner.card_page(query, after, limit).await
    }

    async fn cards_of(&self, holders: &[UserId], states: &[CardState]) -> Result<Vec<Card>, RepositoryError> {
        self.inner.cards_of(holders, states).await
    }

    async fn requests(&self, ids: &[RequestId]) -> Result<Vec<ApprovalRequest>, RepositoryError> {
        self.inner.requests(ids).await
    }

    async fn request_page(
        &self,
        query: &RequestQuery,
        after: Option<RequestId>,
        limit: usize,
    ) -> Result<Vec<ApprovalRequest>, RepositoryError> {
        self.inner.request_page(query, after, limit).await
    }

    async fn certificates(&self, ids: &[CertificateId]) -> Result<Vec<Certificate>, RepositoryError> {
        self.inner.certificates(ids).await
    }

    async fn certificate_page(
        &self,
        query: &CertificateQuery,
        after: Option<CertificateId>,
        limit: usize,
    ) -> Result<Vec<Certificate>, RepositoryError> {
        self.inner.certificate_page(query, after, limit).await
    }

    async fn records(&self, keys: &[String]) -> Result<Vec<Record>, RepositoryError> {
        self.inner.records(keys).await
    }

    async fn reservations(&self, keys: &[String]) -> Result<Vec<Reservation>, RepositoryError> {
        self.inner.reservations(keys).await
    }

    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Job>, RepositoryError> {
        self.inner.jobs(ids).await
    }

    async fn job_page(
        &self,
        query: &JobQuery,
        after: Option<JobId>,
        limit: usize,
    ) -> Result<Vec<Job>, RepositoryError> {
        self.inner.job_page(query, after, limit).await
    }

    async fn backlog(&self, due_by: DateTime<Utc>, run: Option<RunId>) -> Result<Vec<Backlog>, RepositoryError> {
        self.inner.backlog(due_by, run).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Job>, RepositoryError> {
        let jobs = self.inner.claim(request).await?;
        if !jobs.is_empty() {
            self.witness.see(Write::Claim(jobs.clone())).await;
        }
        Ok(jobs)
    }

    async fn renew(&self, jobs: &[(JobId, u64)], lease: Duration) -> Result<Vec<JobId>, RepositoryError> {
        self.inner.renew(jobs, lease).await
    }

    async fn release(&self, jobs: &[(JobId, u64)]) -> Result<(), RepositoryError> {
        self.inner.release(jobs).await
    }

    async fn record_attempts(
        &self,
        attempts: &[(JobId, u64, Attempt)],
        lease: Duration,
    ) -> Result<Vec<Job>, RepositoryError> {
        let jobs = self.inner.record_attempts(attempts, lease).await?;
        self.witness.see(Write::Attempts(jobs.clone())).await;
        Ok(jobs)
    }

    async fn history(&self, object: &ObjectId, after: u64, limit: usize) -> Result<Vec<HistoryEntry>, RepositoryError> {
        self.inner.history(object, after, limit).await
    }

    async fn changes_since(&self, cursor: Option<&str>, limit: usize) -> Result<FeedPage, RepositoryError> {
        self.inner.changes_since(cursor, limit).await
    }
}
