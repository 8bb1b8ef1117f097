//! A card store of one's own, as small as can be, checked clause by clause with the conformance kit; and the same store
//! with a flaw, which the kit finds.
//!
//! ```text
//! cargo run --example custom_repository
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use cardwright::adapters::memory::ManualClock;
use cardwright::conformance::card_repository::{check, clauses};
use cardwright::conformance::{Call, Kit, StoreFactory, block_on, on_threads};
use cardwright::host::{
    Backlog, CardQuery, CardRepository, CertificateQuery, ClaimRequest, Clock as _, CommitError, FeedEntry, FeedPage,
    JobQuery, RepositoryError, RequestQuery,
};
use cardwright::{
    ApprovalRequest, Attempt, Card, CardId, CardState, Certificate, CertificateId, ChangeSet, Claim, Conflict,
    HistoryEntry, Job, JobId, ObjectId, Record, RequestId, Reservation, RunId, StoredId, UserId,
};
use chrono::{DateTime, Utc};
use uuid::Uuid;

/// A store in which everything is found by looking at all of it. Handles share what is stored.
#[derive(Clone)]
struct SmallStore {
    clock: ManualClock,
    state: Arc<Mutex<State>>,
    /// The flaw: it believes whoever commits to have seen the latest version.
    careless: bool,
}

#[derive(Default)]
struct State {
    cards: BTreeMap<CardId, Card>,
    certificates: BTreeMap<CertificateId, Certificate>,
    requests: BTreeMap<RequestId, ApprovalRequest>,
    jobs: BTreeMap<JobId, Job>,
    records: BTreeMap<String, Record>,
    /// Keys with their owners.
    reservations: BTreeMap<String, String>,
    /// The history of all objects; a cursor of the feed is a place in it.
    history: Vec<HistoryEntry>,
}

impl SmallStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_of(&self, lease: Duration) -> DateTime<Utc> {
        self.clock.now() + lease
    }
}

impl State {
    /// All that speaks against a commit: every stale version, every taken key, every key that is not held.
    fn conflicts(&self, changes: &ChangeSet) -> Vec<Conflict> {
        let cards = changes.cards.iter().map(|card| {
            let found = self.cards.get(&card.id).map_or(0, |stored| stored.version);
            (StoredId::Object(ObjectId::Card(card.id)), card.version, found)
        });
        let certificates = changes.certificates.iter().map(|certificate| {
            let found = self.certificates.get(&certificate.id).map_or(0, |stored| stored.version);
            (StoredId::Object(ObjectId::Certificate(certificate.id)), certificate.version, found)
        });
        let requests = changes.requests.iter().map(|request| {
            let found = self.requests.get(&request.id).map_or(0, |stored| stored.version);
            (StoredId::Object(ObjectId::Request(request.id)), request.version, found)
        });
        let jobs = changes
            .jobs
            .iter()
            .map(|job| (StoredId::Job(job.id), job.version, self.jobs.get(&job.id).map_or(0, |stored| stored.version)));
        let records = changes.records.iter().map(|record| {
            let found = self.records.get(&record.key).map_or(0, |stored| stored.version);
            (StoredId::Object(ObjectId::Record(record.key.clone())), record.version, found)
        });
        let objects = cards.chain(certificates).chain(requests).chain(jobs).chain(records);
        let stale = objects.filter(|(_, expected, found)| expected != found);
        let mut conflicts: Vec<Conflict> =
            stale.map(|(object, expected, found)| Conflict::Version { object, expected, found }).collect();
        let mut held = self.reservations.clone();
        for Reservation { key, owner } in &changes.releases {
            if held.get(key) == Some(owner) {
                held.remove(key);
            } else {
                conflicts.push(Conflict::NotHeld { key: key.clone(), owner: owner.clone() });
            }
        }
        for Reservation { key, owner } in &changes.takes {
            if let Some(owner) = held.insert(key.clone(), owner.clone()) {
                conflicts.push(Conflict::Taken { key: key.clone(), owner });
            }
        }
        conflicts
    }

    /// Stores what nothing speaks against, each object under its next version.
    fn apply(&mut self, changes: ChangeSet) {
        for mut card in changes.cards {
            card.version += 1;
            self.cards.insert(card.id, card);
        }
        for mut certificate in changes.certificates {
            certificate.version += 1;
            self.certificates.insert(certificate.id, certificate);
        }
        for mut request in changes.requests {
            request.version += 1;
            self.requests.insert(request.id, request);
        }
        for mut job in changes.jobs {
            job.version += 1;
            self.jobs.insert(job.id, job);
        }
        for mut record in changes.records {
            record.version += 1;
            self.records.insert(record.key.clone(), record);
        }
        for Reservation { key, .. } in &changes.releases {
            self.reservations.remove(key);
        }
        self.reservations.extend(changes.takes.into_iter().map(|taken| (taken.key, taken.owner)));
        self.history.extend(changes.history);
    }

    /// The job, if it still has the version that the caller knows.
    fn job_at(&mut self, id: JobId, version: u64) -> Option<&mut Job> {
        self.jobs.get_mut(&id).filter(|job| job.version == version)
    }
}

/// Those of these keys that are there, each once.
fn found<K: Ord + Clone, V: Clone>(stored: &BTreeMap<K, V>, keys: &[K]) -> Vec<V> {
    let keys: BTreeSet<&K> = keys.iter().collect();
    keys.into_iter().filter_map(|key| stored.get(key).cloned()).collect()
}

/// Up to so many that match, in order, after a key.
fn page<K: Ord, V: Clone>(
    stored: &BTreeMap<K, V>,
    after: Option<K>,
    limit: usize,
    matches: impl Fn(&V) -> bool,
) -> Vec<V> {
    let after = after.map_or(Bound::Unbounded, Bound::Excluded);
    stored
        .range((after, Bound::Unbounded))
        .map(|(_, value)| value)
        .filter(|v| matches(v))
        .take(limit)
        .cloned()
        .collect()
}

#[async_trait]
impl CardRepository for SmallStore {
    async fn commit(&self, changes: &ChangeSet) -> Result<(), CommitError> {
        let mut state = self.state();
        let mut conflicts = state.conflicts(changes);
        if self.careless {
            conflicts.retain(|conflict| !matches!(conflict, Conflict::Version { .. }));
        }
        if !conflicts.is_empty() {
            return Err(CommitError::Conflicts(conflicts));
        }
        state.apply(changes.clone());
        Ok(())
    }

    async fn cards(&self, ids: &[CardId]) -> Result<Vec<Card>, RepositoryError> {
        Ok(found(&self.state().cards, ids))
    }

    async fn card_page(
        &self,
        query: &CardQuery,
        after: Option<CardId>,
        limit: usize,
    ) -> Result<Vec<Card>, RepositoryError> {
        Ok(page(&self.state().cards, after, limit, |card| query.matches(card)))
    }

    async fn cards_of(&self, holders: &[UserId], states: &[CardState]) -> Result<Vec<Card>, RepositoryError> {
        let wanted = |card: &Card| {
            card.holder.as_ref().is_some_and(|holder| holders.contains(holder)) && states.contains(&card.state())
        };
        Ok(page(&self.state().cards, None, usize::MAX, wanted))
    }

    async fn requests(&self, ids: &[RequestId]) -> Result<Vec<ApprovalRequest>, RepositoryError> {
        Ok(found(&self.state().requests, ids))
    }

    async fn request_page(
        &self,
        query: &RequestQuery,
        after: Option<RequestId>,
        limit: usize,
    ) -> Result<Vec<ApprovalRequest>, RepositoryError> {
        Ok(page(&self.state().requests, after, limit, |request| query.matches(request)))
    }

    async fn certificates(&self, ids: &[CertificateId]) -> Result<Vec<Certificate>, RepositoryError> {
        Ok(found(&self.state().certificates, ids))
    }

    async fn certificate_page(
        &self,
        query: &CertificateQuery,
        after: Option<CertificateId>,
        limit: usize,
    ) -> Result<Vec<Certificate>, RepositoryError> {
        Ok(page(&self.state().certificates, after, limit, |certificate| query.matches(certificate)))
    }

    async fn records(&self, keys: &[String]) -> Result<Vec<Record>, RepositoryError> {
        Ok(found(&self.state().records, keys))
    }

    async fn reservations(&self, keys: &[String]) -> Result<Vec<Reservation>, RepositoryError> {
        let keys: BTreeSet<&String> = keys.iter().collect();
        let state = self.state();
        let held = keys.into_iter().filter_map(|key| state.reservations.get_key_value(key));
        Ok(held.map(|(key, owner)| Reservation { key: key.clone(), owner: owner.clone() }).collect())
    }

    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Job>, RepositoryError> {
        Ok(found(&self.state().jobs, ids))
    }

    async fn job_page(
        &self,
        query: &JobQuery,
        after: Option<JobId>,
        limit: usize,
    ) -> Result<Vec<Job>, RepositoryError> {
        Ok(page(&self.state().jobs, after, limit, |job| query.matches(job)))
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Job>, RepositoryError> {
        let mut state = self.state();
        let (now, until) = (self.clock.now(), self.end_of(request.lease));
        let mut free: Vec<&mut Job> = (state.jobs.values_mut())
            .filter(|job| request.wants(job) && (request.early || job.due <= now))
            .filter(|job| job.claim.as_ref().is_none_or(|claim| claim.until <= now))
            .collect();
        free.sort_by_key(|job| (job.due, job.id));
        free.truncate(request.limit);
        let claimed = free.into_iter().map(|job| {
            job.version += 1;
            job.claim = Some(Claim { worker: request.worker.clone(), until });
            job.clone()
        });
        Ok(claimed.collect())
    }

    async fn renew(&self, jobs: &[(JobId, u64)], lease: Duration) -> Result<Vec<JobId>, RepositoryError> {
        let (mut state, until) = (self.state(), self.end_of(lease));
        let mut renewed = Vec::new();
        for (id, version) in jobs {
            if let Some(claim) = state.job_at(*id, *version).and_then(|job| job.claim.as_mut()) {
                claim.until = until;
                renewed.push(*id);
            }
        }
        Ok(renewed)
    }

    async fn release(&self, jobs: &[(JobId, u64)]) -> Result<(), RepositoryError> {
        let mut state = self.state();
        for (id, version) in jobs {
            if let Some(job) = state.job_at(*id, *version) {
                job.claim = None;
            }
        }
        Ok(())
    }

    async fn record_attempts(
        &self,
        attempts: &[(JobId, u64, Attempt)],
        lease: Duration,
    ) -> Result<Vec<Job>, RepositoryError> {
        let (mut state, until) = (self.state(), self.end_of(lease));
        let mut recorded = Vec::new();
        for (id, version, attempt) in attempts {
            if let Some(job) = state.job_at(*id, *version) {
                job.version += 1;
                job.attempts += 1;
                job.attempt = Some(attempt.clone());
                if let Some(claim) = &mut job.claim {
                    claim.until = until;
                }
                recorded.push(job.clone());
            }
        }
        Ok(recorded)
    }

    async fn backlog(&self, due_by: DateTime<Utc>, run: Option<RunId>) -> Result<Vec<Backlog>, RepositoryError> {
        Ok(Backlog::of(self.state().jobs.values().filter(|job| run.is_none() || job.run == run), due_by))
    }

    async fn history(&self, object: &ObjectId, after: u64, limit: usize) -> Result<Vec<HistoryEntry>, RepositoryError> {
        let state = self.state();
        let entries = state.history.iter().filter(|entry| entry.object == *object && entry.sequence > after);
        Ok(entries.take(limit).cloned().collect())
    }

    async fn changes_since(&self, cursor: Option<&str>, limit: usize) -> Result<FeedPage, RepositoryError> {
        let state = self.state();
        let start = cursor.map_or(Ok(0), str::parse::<usize>);
        let start = start.map_err(|_| RepositoryError::rejected("no cursor of this store"))?;
        let entries = (start + 1..).zip(state.history.iter().skip(start).take(limit));
        let entries: Vec<FeedEntry> =
            entries.map(|(after, entry)| FeedEntry { cursor: after.to_string(), entry: entry.clone() }).collect();
        let cursor = entries.last().map(|last| last.cursor.clone()).or(cursor.map(str::to_owned));
        Ok(FeedPage { entries, cursor })
    }
}

// ---- the check ---------------------------------------------------------------------------------------------------

/// How the kit opens the store, lets time pass, and calls it from several sides at once.
#[async_trait]
impl StoreFactory for SmallStore {
    async fn open(&self) -> Arc<dyn CardRepository> {
        Arc::new(self.clone())
    }

    async fn pass_time(&self, duration: Duration) {
        self.clock.advance(duration);
    }

    async fn at_once(&self, calls: Vec<Call>) {
        on_threads(calls).await;
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // A check panics where its clause is not kept; here the message is shown beside the clause instead.
    std::panic::set_hook(Box::new(|_| {}));
    let clock = ManualClock::new("2030-01-07T08:00:00Z".parse()?);
    let store = SmallStore { clock, state: Arc::default(), careless: false };
    println!("A small store");
    let broken = check_all(&store);
    println!("\nThe same store without a look at versions");
    let caught = check_all(&SmallStore { state: Arc::default(), careless: true, ..store });
    println!("\nThe first breaks {broken} clauses; the second breaks {caught}.");
    if broken == 0 && caught > 0 { Ok(()) } else { Err("the kit should pass the first and catch the second".into()) }
}

/// Checks each clause and says how many are broken.
fn check_all(store: &SmallStore) -> usize {
    let kit = Kit::new(store, Uuid::from_u128(1));
    let mut broken = 0;
    for clause in clauses() {
        let outcome = catch_unwind(AssertUnwindSafe(|| block_on(check(&kit, clause))));
        match outcome {
            Ok(()) => println!("  kept    {clause}"),
            Err(panic) => {
                broken += 1;
                let message =
                    panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
                println!("  BROKEN  {clause}");
                println!("          {}", in_words(message.unwrap_or("the store panicked"), clause));
            }
        }
    }
    broken
}

/// What a check says, without the assertion that it was and the name of the clause, which stands in the line above.
fn in_words<'a>(message: &'a str, clause: &str) -> &'a str {
    let line = message.lines().next().unwrap_or_default();
    let words = match line.split_once(" failed: ") {
        Some((assertion, words)) if assertion.starts_with("assertion") => words,
        _ => line,
    };
    words.strip_prefix(clause).and_then(|words| words.strip_prefix(": ")).unwrap_or(words)
}
