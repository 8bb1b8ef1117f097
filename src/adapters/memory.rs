//! Hosts in memory, for trials and tests: a card store, a user directory, a notifier that keeps what it was given, and a
//! clock that stands still until it is moved.
//!
//! [`MemoryRepository`] is the strictest store there is: what works with it works with every store that keeps the
//! contract of [`CardRepository`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use futures::channel::oneshot;
use uuid::Uuid;

use crate::host::{
    Backlog, CardQuery, CardRepository, CertificateQuery, ClaimRequest, Clock, CommitError, DirectoryError, FeedEntry,
    FeedPage, JobQuery, Notifier, NotifyOutcome, RepositoryError, RequestQuery, UserFilter, UserPage, UserRepository,
};
use crate::{
    ApprovalRequest, Attempt, Card, CardId, CardState, Certificate, CertificateId, CertificateState, ChangeSet, Claim,
    Conflict, HistoryEntry, Job, JobId, JobKind, JobState, Message, ObjectId, Record, RequestId, RequestState,
    Reservation, RunId, StoredId, User, UserId, fold,
};

/// A card store in memory. A clone is another handle onto the same store; with the last handle, all is gone.
///
/// Beyond the contract of [`CardRepository`] it refuses an object that stands twice in one change set as a
/// [`Conflict::Version`], and a history entry that does not continue its chain as [`RepositoryError::Rejected`].
///
/// # Examples
/// ```
/// use std::sync::Arc;
///
/// use cardwright::adapters::memory::MemoryRepository;
/// use cardwright::host::SystemClock;
///
/// let repository = MemoryRepository::new(Arc::new(SystemClock));
/// let second_handle = repository.clone();
/// # drop(second_handle);
/// ```
#[derive(Clone)]
pub struct MemoryRepository {
    clock: Arc<dyn Clock>,
    store: Arc<Mutex<Store>>,
}

impl MemoryRepository {
    /// An empty store whose leases run by this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, store: Arc::default() }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }
}

impl fmt::Debug for MemoryRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let store = self.store();
        f.debug_struct("MemoryRepository")
            .field("cards", &store.cards.len())
            .field("requests", &store.requests.len())
            .field("jobs", &store.jobs.len())
            .field("certificates", &store.certificates.len())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl CardRepository for MemoryRepository {
    async fn commit(&self, changes: &ChangeSet) -> Result<(), CommitError> {
        let mut store = self.store();
        let conflicts = store.conflicts(changes);
        if !conflicts.is_empty() {
            return Err(CommitError::Conflicts(conflicts));
        }
        store.append_history(&changes.history)?;
        store.apply(changes);
        Ok(())
    }

    async fn cards(&self, ids: &[CardId]) -> Result<Vec<Card>, RepositoryError> {
        let store = self.store();
        Ok(distinct(ids).filter_map(|id| store.cards.get(id).cloned()).collect())
    }

    async fn card_page(
        &self,
        query: &CardQuery,
        after: Option<CardId>,
        limit: usize,
    ) -> Result<Vec<Card>, RepositoryError> {
        let store = self.store();
        let matching = |card: &&Card| query.matches(card);
        let of_ids = |ids: &mut dyn Iterator<Item = CardId>| {
            ids.filter_map(|id| store.cards.get(&id)).filter(matching).take(limit).cloned().collect()
        };
        Ok(if !query.holders.is_empty() {
            let found =
                distinct(&query.holders).flat_map(|holder| of_owner(&store.cards_by_holder, holder, FIRST_CARD));
            of_ids(&mut ascending_after(after, found))
        } else if let Some(text) = query.text.first() {
            let prefix = fold(&text.prefix);
            let terms = store.terms.get(&text.name);
            let found = terms.into_iter().flat_map(|terms| {
                terms
                    .range((prefix.clone(), FIRST_CARD)..)
                    .take_while(|(folded, _)| folded.starts_with(&prefix))
                    .map(|(_, id)| *id)
            });
            of_ids(&mut ascending_after(after, found))
        } else if query.in_doubt == Some(true) {
            of_ids(&mut store.cards_in_doubt.range(beyond(after)).copied())
        } else if !query.states.is_empty() {
            let states = distinct(&query.states).filter_map(|state| store.cards_by_state.get(state));
            of_ids(&mut merged(states.map(|ids| ids.range(beyond(after)).copied())))
        } else {
            store.cards.range(beyond(after)).map(|(_, card)| card).filter(matching).take(limit).cloned().collect()
        })
    }

    async fn cards_of(&self, holders: &[UserId], states: &[CardState]) -> Result<Vec<Card>, RepositoryError> {
        let store = self.store();
        Ok(distinct(holders)
            .flat_map(|holder| of_owner(&store.cards_by_holder, holder, FIRST_CARD))
            .filter_map(|id| store.cards.get(&id))
            .filter(|card| states.contains(&card.state()))
            .cloned()
            .collect())
    }

    async fn requests(&self, ids: &[RequestId]) -> Result<Vec<ApprovalRequest>, RepositoryError> {
        let store = self.store();
        Ok(distinct(ids).filter_map(|id| store.requests.get(id).cloned()).collect())
    }

    async fn request_page(
        &self,
        query: &RequestQuery,
        after: Option<RequestId>,
        limit: usize,
    ) -> Result<Vec<ApprovalRequest>, RepositoryError> {
        let store = self.store();
        let matching = |request: &&ApprovalRequest| query.matches(request);
        let of_ids = |ids: &mut dyn Iterator<Item = RequestId>| {
            ids.filter_map(|id| store.requests.get(&id)).filter(matching).take(limit).cloned().collect()
        };
        Ok(if !query.holders.is_empty() {
            let found =
                distinct(&query.holders).flat_map(|holder| of_owner(&store.requests_by_holder, holder, FIRST_REQUEST));
            of_ids(&mut ascending_after(after, found))
        } else if !query.states.is_empty() {
            let states = distinct(&query.states).filter_map(|state| store.requests_by_state.get(state));
            of_ids(&mut merged(states.map(|ids| ids.range(beyond(after)).copied())))
        } else {
            let requests = store.requests.range(beyond(after)).map(|(_, request)| request);
            requests.filter(matching).take(limit).cloned().collect()
        })
    }

    async fn certificates(&self, ids: &[CertificateId]) -> Result<Vec<Certificate>, RepositoryError> {
        let store = self.store();
        Ok(distinct(ids).filter_map(|id| store.certificates.get(id).cloned()).collect())
    }

    async fn certificate_page(
        &self,
        query: &CertificateQuery,
        after: Option<CertificateId>,
        limit: usize,
    ) -> Result<Vec<Certificate>, RepositoryError> {
        let store = self.store();
        let matching = |certificate: &&Certificate| query.matches(certificate);
        let of_ids = |ids: &mut dyn Iterator<Item = CertificateId>| {
            ids.filter_map(|id| store.certificates.get(&id)).filter(matching).take(limit).cloned().collect()
        };
        Ok(if !query.cards.is_empty() {
            let found =
                distinct(&query.cards).flat_map(|card| of_owner(&store.certificates_by_card, card, FIRST_CERTIFICATE));
            of_ids(&mut ascending_after(after, found))
        } else if !query.states.is_empty() {
            let states = distinct(&query.states).filter_map(|state| store.certificates_by_state.get(state));
            of_ids(&mut merged(states.map(|ids| ids.range(beyond(after)).copied())))
        } else {
            let certificates = store.certificates.range(beyond(after)).map(|(_, certificate)| certificate);
            certificates.filter(matching).take(limit).cloned().collect()
        })
    }

    async fn records(&self, keys: &[String]) -> Result<Vec<Record>, RepositoryError> {
        let store = self.store();
        Ok(distinct(keys).filter_map(|key| store.records.get(key).cloned()).collect())
    }

    async fn reservations(&self, keys: &[String]) -> Result<Vec<Reservation>, RepositoryError> {
        let store = self.store();
        Ok(distinct(keys)
            .filter_map(|key| store.reservations.get_key_value(key))
            .map(|(key, owner)| Reservation { key: key.clone(), owner: owner.clone() })
            .collect())
    }

    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Job>, RepositoryError> {
        let store = self.store();
        Ok(distinct(ids).filter_map(|id| store.jobs.get(id).cloned()).collect())
    }

    async fn job_page(
        &self,
        query: &JobQuery,
        after: Option<JobId>,
        limit: usize,
    ) -> Result<Vec<Job>, RepositoryError> {
        let store = self.store();
        let matching = |job: &&Job| query.matches(job);
        Ok(if query.states.is_empty() || query.states.contains(&JobState::Done) {
            store.jobs.range(beyond(after)).map(|(_, job)| job).filter(matching).take(limit).cloned().collect()
        } else {
            let states = distinct(&query.states).filter_map(|state| store.unsettled_jobs.get(state));
            let ids = merged(states.map(|ids| ids.range(beyond(after)).copied()));
            ids.filter_map(|id| store.jobs.get(&id)).filter(matching).take(limit).cloned().collect()
        })
    }

    async fn backlog(&self, due_by: DateTime<Utc>, run: Option<RunId>) -> Result<Vec<Backlog>, RepositoryError> {
        let store = self.store();
        let jobs = store.unsettled_jobs.values().flatten().filter_map(|id| store.jobs.get(id));
        Ok(Backlog::of(jobs.filter(|job| run.is_none() || job.run == run), due_by))
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Job>, RepositoryError> {
        let mut store = self.store();
        let now = self.clock.now();
        let until = end_of_lease(now, request.lease);
        let ids = store.claimable(request, now);
        let mut claimed = Vec::with_capacity(ids.len());
        for id in ids {
            claimed.extend(store.change_job(id, |job| {
                job.version += 1;
                job.claim = Some(Claim { worker: request.worker.clone(), until });
            }));
        }
        Ok(claimed)
    }

    async fn renew(&self, jobs: &[(JobId, u64)], lease: Duration) -> Result<Vec<JobId>, RepositoryError> {
        let mut store = self.store();
        let until = end_of_lease(self.clock.now(), lease);
        let mut renewed = Vec::with_capacity(jobs.len());
        for (id, version) in jobs {
            if store.jobs.get(id).is_some_and(|job| job.version == *version && job.claim.is_some()) {
                store.touch_job(*id, |job| extend(job, until));
                renewed.push(*id);
            }
        }
        Ok(renewed)
    }

    async fn release(&self, jobs: &[(JobId, u64)]) -> Result<(), RepositoryError> {
        let mut store = self.store();
        for (id, version) in jobs {
            if store.jobs.get(id).is_some_and(|job| job.version == *version) {
                store.touch_job(*id, |job| job.claim = None);
            }
        }
        Ok(())
    }

    async fn record_attempts(
        &self,
        attempts: &[(JobId, u64, Attempt)],
        lease: Duration,
    ) -> Result<Vec<Job>, RepositoryError> {
        let mut store = self.store();
        let until = end_of_lease(self.clock.now(), lease);
        let mut recorded = Vec::with_capacity(attempts.len());
        for (id, version, attempt) in attempts {
            if store.jobs.get(id).is_some_and(|job| job.version == *version) {
                recorded.extend(store.change_job(*id, |job| {
                    job.version += 1;
                    job.attempts += 1;
                    job.attempt = Some(attempt.clone());
                    extend(job, until);
                }));
            }
        }
        Ok(recorded)
    }

    async fn history(&self, object: &ObjectId, after: u64, limit: usize) -> Result<Vec<HistoryEntry>, RepositoryError> {
        let store = self.store();
        let Some(chain) = store.chains.get(object) else { return Ok(Vec::new()) };
        let skipped = usize::try_from(after).unwrap_or(usize::MAX);
        Ok(chain.iter().skip(skipped).take(limit).filter_map(|place| store.feed.get(*place)).cloned().collect())
    }

    async fn changes_since(&self, cursor: Option<&str>, limit: usize) -> Result<FeedPage, RepositoryError> {
        let store = self.store();
        let start = match cursor {
            None => 0,
            Some(cursor) => cursor
                .parse::<usize>()
                .ok()
                .filter(|start| *start <= store.feed.len())
                .ok_or_else(|| RepositoryError::rejected(format!("{cursor:?} is no cursor of this store")))?,
        };
        let entries: Vec<FeedEntry> = (start + 1..)
            .zip(store.feed.iter().skip(start).take(limit))
            .map(|(after, entry)| FeedEntry { cursor: after.to_string(), entry: entry.clone() })
            .collect();
        let cursor = entries.last().map(|last| last.cursor.clone()).or_else(|| cursor.map(str::to_owned));
        Ok(FeedPage { entries, cursor })
    }
}

/// What is stored, and the indices that keep every look-up from going through all of it.
#[derive(Default)]
struct Store {
    cards: BTreeMap<CardId, Card>,
    cards_by_holder: BTreeSet<(UserId, CardId)>,
    cards_by_state: BTreeMap<CardState, BTreeSet<CardId>>,
    cards_in_doubt: BTreeSet<CardId>,
    /// By name of the search term: the folded values with their cards.
    terms: BTreeMap<String, BTreeSet<(String, CardId)>>,
    certificates: BTreeMap<CertificateId, Certificate>,
    certificates_by_card: BTreeSet<(CardId, CertificateId)>,
    certificates_by_state: BTreeMap<CertificateState, BTreeSet<CertificateId>>,
    requests: BTreeMap<RequestId, ApprovalRequest>,
    requests_by_holder: BTreeSet<(UserId, RequestId)>,
    requests_by_state: BTreeMap<RequestState, BTreeSet<RequestId>>,
    jobs: BTreeMap<JobId, Job>,
    /// By state, all jobs but those that are done.
    unsettled_jobs: BTreeMap<JobState, BTreeSet<JobId>>,
    /// Open jobs without a claim, and the same by run.
    free_jobs: BTreeSet<(JobKind, DateTime<Utc>, JobId)>,
    free_jobs_by_run: BTreeSet<(RunId, DateTime<Utc>, JobId)>,
    /// Open jobs with a claim, by the end of the lease.
    leased_jobs: BTreeSet<(DateTime<Utc>, JobId)>,
    records: BTreeMap<String, Record>,
    reservations: BTreeMap<String, String>,
    feed: Vec<HistoryEntry>,
    /// Where in the feed the entries of an object stand, in the order of its chain.
    chains: BTreeMap<ObjectId, Vec<usize>>,
}

impl Store {
    /// Everything that speaks against a commit.
    fn conflicts(&self, changes: &ChangeSet) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        check_versions(
            changes.cards.iter().map(|card| (card.id, card.version)),
            |id| self.cards.get(id).map_or(0, |card| card.version),
            |id| StoredId::Object(ObjectId::Card(id)),
            &mut conflicts,
        );
        check_versions(
            changes.certificates.iter().map(|certificate| (certificate.id, certificate.version)),
            |id| self.certificates.get(id).map_or(0, |certificate| certificate.version),
            |id| StoredId::Object(ObjectId::Certificate(id)),
            &mut conflicts,
        );
        check_versions(
            changes.requests.iter().map(|request| (request.id, request.version)),
            |id| self.requests.get(id).map_or(0, |request| request.version),
            |id| StoredId::Object(ObjectId::Request(id)),
            &mut conflicts,
        );
        check_versions(
            changes.jobs.iter().map(|job| (job.id, job.version)),
            |id| self.jobs.get(id).map_or(0, |job| job.version),
            StoredId::Job,
            &mut conflicts,
        );
        check_versions(
            changes.records.iter().map(|record| (record.key.as_str(), record.version)),
            |key| self.records.get(*key).map_or(0, |record| record.version),
            |key| StoredId::Object(ObjectId::Record(key.to_owned())),
            &mut conflicts,
        );
        self.check_reservations(changes, &mut conflicts);
        conflicts
    }

    fn check_reservations(&self, changes: &ChangeSet, conflicts: &mut Vec<Conflict>) {
        let mut released = BTreeSet::new();
        for Reservation { key, owner } in &changes.releases {
            if self.reservations.get(key) != Some(owner) || !released.insert(key) {
                conflicts.push(Conflict::NotHeld { key: key.clone(), owner: owner.clone() });
            }
        }
        for Reservation { key, .. } in &changes.takes {
            if let Some(owner) = self.reservations.get(key)
                && !released.contains(key)
            {
                conflicts.push(Conflict::Taken { key: key.clone(), owner: owner.clone() });
            }
        }
        let mut takes: Vec<&Reservation> = changes.takes.iter().collect();
        takes.sort_by(|a, b| a.key.cmp(&b.key));
        for same_key in takes.chunk_by(|a, b| a.key == b.key) {
            for _ in 1..same_key.len() {
                conflicts.push(Conflict::Taken { key: same_key[0].key.clone(), owner: same_key[0].owner.clone() });
            }
        }
    }

    /// Appends all entries, or none if one does not continue its chain.
    fn append_history(&mut self, entries: &[HistoryEntry]) -> Result<(), RepositoryError> {
        let start = self.feed.len();
        self.feed.reserve(entries.len());
        for entry in entries {
            let chain = self.chains.entry(entry.object.clone()).or_default();
            let next = chain.len() as u64 + 1;
            if entry.sequence != next {
                if next == 1 {
                    self.chains.remove(&entry.object);
                }
                self.cut_history(start);
                return Err(RepositoryError::rejected(format!(
                    "the history of {} goes on with entry {next}, not with entry {}",
                    entry.object, entry.sequence
                )));
            }
            chain.push(self.feed.len());
            self.feed.push(entry.clone());
        }
        Ok(())
    }

    fn cut_history(&mut self, start: usize) {
        for entry in self.feed.drain(start..) {
            if let Some(chain) = self.chains.get_mut(&entry.object) {
                chain.pop();
                if chain.is_empty() {
                    self.chains.remove(&entry.object);
                }
            }
        }
    }

    /// Stores what was checked; nothing in it can fail.
    fn apply(&mut self, changes: &ChangeSet) {
        for card in &changes.cards {
            self.put_card(card);
        }
        for certificate in &changes.certificates {
            self.put_certificate(certificate);
        }
        for request in &changes.requests {
            self.put_request(request);
        }
        for job in &changes.jobs {
            let mut stored = job.clone();
            stored.version += 1;
            let new = JobKeys::of(&stored);
            let old = self.jobs.insert(job.id, stored);
            self.index_job(job.id, old.as_ref().map(JobKeys::of), new);
        }
        for record in &changes.records {
            let mut stored = record.clone();
            stored.version += 1;
            self.records.insert(record.key.clone(), stored);
        }
        for Reservation { key, .. } in &changes.releases {
            self.reservations.remove(key);
        }
        for Reservation { key, owner } in &changes.takes {
            self.reservations.insert(key.clone(), owner.clone());
        }
    }

    fn put_card(&mut self, card: &Card) {
        let id = card.id;
        let mut stored = card.clone();
        stored.version += 1;
        let old = self.cards.insert(id, stored);
        let old = old.as_ref();

        index_owner(&mut self.cards_by_holder, id, old.and_then(|old| old.holder.as_ref()), card.holder.as_ref());
        index_state(&mut self.cards_by_state, id, old.map(Card::state), Some(card.state()));
        let in_doubt = |card: &Card| card.busy.as_ref().is_some_and(|busy| busy.in_doubt);
        if in_doubt(card) {
            self.cards_in_doubt.insert(id);
        } else if old.is_some_and(in_doubt) {
            self.cards_in_doubt.remove(&id);
        }

        if let Some(old) = old {
            if old.number == card.number && old.attributes == card.attributes && old.searchable == card.searchable {
                return;
            }
            for (name, folded) in old.search_terms() {
                if let Some(terms) = self.terms.get_mut(name) {
                    terms.remove(&(folded, id));
                }
            }
        }
        for (name, folded) in card.search_terms() {
            if let Some(terms) = self.terms.get_mut(name) {
                terms.insert((folded, id));
            } else {
                self.terms.insert(name.to_owned(), BTreeSet::from([(folded, id)]));
            }
        }
    }

    fn put_certificate(&mut self, certificate: &Certificate) {
        let id = certificate.id;
        let mut stored = certificate.clone();
        stored.version += 1;
        let old = self.certificates.insert(id, stored);
        let old = old.as_ref();
        index_owner(&mut self.certificates_by_card, id, old.map(|old| &old.card), Some(&certificate.card));
        index_state(&mut self.certificates_by_state, id, old.map(Certificate::state), Some(certificate.state()));
    }

    fn put_request(&mut self, request: &ApprovalRequest) {
        let id = request.id;
        let mut stored = request.clone();
        stored.version += 1;
        let old = self.requests.insert(id, stored);
        let old = old.as_ref();
        index_owner(&mut self.requests_by_holder, id, old.map(|old| &old.holder), Some(&request.holder));
        index_state(&mut self.requests_by_state, id, old.map(ApprovalRequest::state), Some(request.state()));
    }

    /// Changes a job and gives a copy of it.
    fn change_job(&mut self, id: JobId, change: impl FnOnce(&mut Job)) -> Option<Job> {
        self.touch_job(id, change);
        self.jobs.get(&id).cloned()
    }

    fn touch_job(&mut self, id: JobId, change: impl FnOnce(&mut Job)) {
        if let Some(job) = self.jobs.get_mut(&id) {
            let old = JobKeys::of(job);
            change(job);
            let new = JobKeys::of(job);
            self.index_job(id, Some(old), new);
        }
    }

    fn index_job(&mut self, id: JobId, old: Option<JobKeys>, new: JobKeys) {
        if old == Some(new) {
            return;
        }
        let unsettled = |keys: JobKeys| Some(keys.state).filter(|state| *state != JobState::Done);
        index_state(&mut self.unsettled_jobs, id, old.and_then(unsettled), unsettled(new));
        if let Some(old) = old.filter(|old| old.state == JobState::Open) {
            if let Some(until) = old.until {
                self.leased_jobs.remove(&(until, id));
            } else {
                self.free_jobs.remove(&(old.kind, old.due, id));
                if let Some(run) = old.run {
                    self.free_jobs_by_run.remove(&(run, old.due, id));
                }
            }
        }
        if new.state == JobState::Open {
            if let Some(until) = new.until {
                self.leased_jobs.insert((until, id));
            } else {
                self.free_jobs.insert((new.kind, new.due, id));
                if let Some(run) = new.run {
                    self.free_jobs_by_run.insert((run, new.due, id));
                }
            }
        }
    }

    /// The jobs that a claim gives, earliest due first.
    fn claimable(&self, request: &ClaimRequest, now: DateTime<Utc>) -> Vec<JobId> {
        let latest = if request.early { DateTime::<Utc>::MAX_UTC } else { now };
        let wanted = |id: &JobId| {
            self.jobs.get(id).filter(|job| {
                job.due <= latest && request.wants(job) && job.claim.as_ref().is_none_or(|claim| claim.until <= now)
            })
        };
        let in_order = |ids: &mut dyn Iterator<Item = &JobId>| {
            let mut found: Vec<_> = ids.filter_map(wanted).map(|job| (job.due, job.id)).collect();
            found.sort_unstable();
            found
        };
        if !request.ids.is_empty() {
            let found = in_order(&mut distinct(&request.ids));
            return found.into_iter().take(request.limit).map(|(_, id)| id).collect();
        }

        type Source<'a> = Box<dyn Iterator<Item = (DateTime<Utc>, JobId)> + 'a>;
        let expired = in_order(&mut self.leased_jobs.range(..=(now, LAST_JOB)).map(|(_, id)| id));
        let mut sources: Vec<Source<'_>> = vec![Box::new(expired.into_iter())];
        const EARLIEST: DateTime<Utc> = DateTime::<Utc>::MIN_UTC;
        if let Some(run) = request.run {
            let free = self.free_jobs_by_run.range((run, EARLIEST, FIRST_JOB)..=(run, latest, LAST_JOB));
            sources.push(Box::new(free.map(|(_, due, id)| (*due, *id))));
        } else {
            let kinds = if request.kinds.is_empty() { &JobKind::ALL[..] } else { &request.kinds[..] };
            for kind in distinct(kinds) {
                let free = self.free_jobs.range((*kind, EARLIEST, FIRST_JOB)..=(*kind, latest, LAST_JOB));
                sources.push(Box::new(free.map(|(_, due, id)| (*due, *id))));
            }
        }
        merged(sources.into_iter()).map(|(_, id)| id).filter(|id| wanted(id).is_some()).take(request.limit).collect()
    }
}

/// What a job is indexed by.
#[derive(Clone, Copy, PartialEq, Eq)]
struct JobKeys {
    kind: JobKind,
    state: JobState,
    due: DateTime<Utc>,
    run: Option<RunId>,
    until: Option<DateTime<Utc>>,
}

impl JobKeys {
    fn of(job: &Job) -> Self {
        Self {
            kind: job.kind(),
            state: job.state,
            due: job.due,
            run: job.run,
            until: job.claim.as_ref().map(|claim| claim.until),
        }
    }
}

const FIRST_CARD: CardId = CardId::new(Uuid::nil());
const FIRST_CERTIFICATE: CertificateId = CertificateId::new(Uuid::nil());
const FIRST_REQUEST: RequestId = RequestId::new(Uuid::nil());
const FIRST_JOB: JobId = JobId::new(Uuid::nil());
const LAST_JOB: JobId = JobId::new(Uuid::max());

/// Names each object that is stored under another version, or that stands a second time in the change set.
fn check_versions<K: Ord + Copy>(
    items: impl ExactSizeIterator<Item = (K, u64)> + Clone,
    stored: impl Fn(&K) -> u64,
    object: impl Fn(K) -> StoredId,
    conflicts: &mut Vec<Conflict>,
) {
    for (key, expected) in items.clone() {
        let found = stored(&key);
        if found != expected {
            conflicts.push(Conflict::Version { object: object(key), expected, found });
        }
    }
    if items.len() > 1 && !items.clone().is_sorted_by(|(a, _), (b, _)| a < b) {
        let mut sorted: Vec<(K, u64)> = items.collect();
        sorted.sort_unstable();
        for pair in sorted.windows(2) {
            if pair[0].0 == pair[1].0 {
                let found = pair[0].1 + 1;
                conflicts.push(Conflict::Version { object: object(pair[1].0), expected: pair[1].1, found });
            }
        }
    }
}

fn index_owner<O: Ord + Clone, I: Ord + Copy>(index: &mut BTreeSet<(O, I)>, id: I, old: Option<&O>, new: Option<&O>) {
    if old != new {
        if let Some(old) = old {
            index.remove(&(old.clone(), id));
        }
        if let Some(new) = new {
            index.insert((new.clone(), id));
        }
    }
}

fn index_state<S: Ord, I: Ord + Copy>(index: &mut BTreeMap<S, BTreeSet<I>>, id: I, old: Option<S>, new: Option<S>) {
    if old != new {
        if let Some(ids) = old.and_then(|old| index.get_mut(&old)) {
            ids.remove(&id);
        }
        if let Some(new) = new {
            index.entry(new).or_default().insert(id);
        }
    }
}

/// All ids of an owner; `first` is the lowest id there is.
fn of_owner<'a, O: Ord + Clone, I: Ord + Copy + 'a>(
    index: &'a BTreeSet<(O, I)>,
    owner: &'a O,
    first: I,
) -> impl Iterator<Item = I> + 'a {
    index.range((owner.clone(), first)..).take_while(move |(of, _)| of == owner).map(|(_, id)| *id)
}

/// Each of these once, in order.
fn distinct<T: Ord>(items: &[T]) -> impl Iterator<Item = &T> {
    let mut items: Vec<&T> = items.iter().collect();
    items.sort_unstable();
    items.dedup();
    items.into_iter()
}

/// Those after an id, each once, in order.
fn ascending_after<I: Ord>(after: Option<I>, ids: impl Iterator<Item = I>) -> impl Iterator<Item = I> {
    let mut ids: Vec<I> = ids.filter(|id| after.as_ref().is_none_or(|after| id > after)).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter()
}

/// The range after an id.
fn beyond<I>(after: Option<I>) -> (Bound<I>, Bound<I>) {
    (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

/// Several ascending sequences as one, taken only as far as it is read.
fn merged<T: Ord + Copy, S: Iterator<Item = T>>(sources: impl Iterator<Item = S>) -> impl Iterator<Item = T> {
    let mut sources: Vec<_> = sources.map(Iterator::peekable).collect();
    std::iter::from_fn(move || {
        let heads = sources.iter_mut().enumerate();
        let (_, place) = heads.filter_map(|(place, source)| source.peek().map(|head| (*head, place))).min()?;
        sources[place].next()
    })
}

fn extend(job: &mut Job, until: DateTime<Utc>) {
    if let Some(claim) = &mut job.claim {
        claim.until = until;
    }
}

fn end_of_lease(now: DateTime<Utc>, lease: Duration) -> DateTime<Utc> {
    later(now, lease).trunc_subsecs(6)
}

fn later(now: DateTime<Utc>, duration: Duration) -> DateTime<Utc> {
    let duration = TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
    now.checked_add_signed(duration).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// A thread that panicked while it held the lock was in a test that fails anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A user directory in memory. A clone is another handle onto the same directory.
///
/// # Examples
/// ```
/// use cardwright::adapters::memory::MemoryUsers;
/// use cardwright::{User, UserId, UserState};
///
/// # fn main() -> Result<(), cardwright::InvalidId> {
/// let ada = User::new(UserId::new("ada")?, UserState::Active, [("commonName".into(), "Ada Lovelace".into())]);
/// let users = MemoryUsers::new([ada]).with_photo(UserId::new("ada")?, vec![0xff, 0xd8]);
/// # drop(users);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryUsers {
    directory: Arc<Mutex<Directory>>,
}

#[derive(Default)]
struct Directory {
    users: BTreeMap<UserId, User>,
    photos: BTreeMap<UserId, Vec<u8>>,
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("users", &self.users.len()).field("photos", &self.photos.len()).finish()
    }
}

impl MemoryUsers {
    /// A directory of these users; of two with the same id, the later.
    pub fn new(users: impl IntoIterator<Item = User>) -> Self {
        let users = users.into_iter().map(|user| (user.id.clone(), user)).collect();
        Self { directory: Arc::new(Mutex::new(Directory { users, photos: BTreeMap::new() })) }
    }

    /// The same, with a photo of this user.
    #[must_use]
    pub fn with_photo(self, user: UserId, photo: Vec<u8>) -> Self {
        lock(&self.directory).photos.insert(user, photo);
        self
    }

    /// Adds a user, or puts the new one in the place of the old.
    pub fn put(&self, user: User) {
        lock(&self.directory).users.insert(user.id.clone(), user);
    }

    /// Takes a user out, with the photo. Nothing happens if there is no such user.
    pub fn remove(&self, user: &UserId) {
        let mut directory = lock(&self.directory);
        directory.users.remove(user);
        directory.photos.remove(user);
    }
}

impl FromIterator<User> for MemoryUsers {
    fn from_iter<I: IntoIterator<Item = User>>(users: I) -> Self {
        Self::new(users)
    }
}

#[async_trait]
impl UserRepository for MemoryUsers {
    async fn users(&self, ids: &[UserId]) -> Result<Vec<User>, DirectoryError> {
        let directory = lock(&self.directory);
        Ok(distinct(ids).filter_map(|id| directory.users.get(id).cloned()).collect())
    }

    async fn search(
        &self,
        filter: &UserFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<UserPage, DirectoryError> {
        // The cursor is the last user of the page before.
        let after = cursor.map(UserId::new).transpose().map_err(|_| DirectoryError::CursorExpired)?;
        let directory = lock(&self.directory);
        let mut matching =
            directory.users.range(beyond(after)).map(|(_, user)| user).filter(|user| filter.matches(user));
        let users: Vec<User> = matching.by_ref().take(limit.max(1)).cloned().collect();
        let next = matching.next().and_then(|_| users.last()).map(|last| last.id.to_string());
        Ok(UserPage { users, next })
    }

    async fn photo(&self, user: &UserId) -> Result<Option<Vec<u8>>, DirectoryError> {
        Ok(lock(&self.directory).photos.get(user).cloned())
    }
}

/// A notifier that sends nothing and keeps what it was given. A clone is another handle onto the same messages.
#[derive(Clone, Debug, Default)]
pub struct RecordingNotifier {
    outbox: Arc<Mutex<Outbox>>,
}

#[derive(Debug, Default)]
struct Outbox {
    sent: Vec<Message>,
    answer: Option<NotifyOutcome>,
}

impl RecordingNotifier {
    /// A notifier that says of every message that it was sent.
    pub fn new() -> Self {
        Self::default()
    }

    /// What it says of every message from now on. Messages that it does not send are not kept.
    pub fn answer_with(&self, outcome: NotifyOutcome) {
        lock(&self.outbox).answer = Some(outcome);
    }

    /// The messages that were sent, in order; one that was given twice is there twice.
    pub fn sent(&self) -> Vec<Message> {
        lock(&self.outbox).sent.clone()
    }
}

#[async_trait]
impl Notifier for RecordingNotifier {
    async fn send(&self, message: &Message) -> NotifyOutcome {
        let mut outbox = lock(&self.outbox);
        let outcome = outbox.answer.clone().unwrap_or(NotifyOutcome::Sent);
        if outcome == NotifyOutcome::Sent {
            outbox.sent.push(message.clone());
        }
        outcome
    }
}

/// A clock that stands still until it is moved. A clone is another handle onto the same clock.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use cardwright::adapters::memory::ManualClock;
/// use cardwright::host::Clock as _;
///
/// let clock = ManualClock::new("2026-03-01T08:00:00Z".parse()?);
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now().to_rfc3339(), "2026-03-01T08:01:00+00:00");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock {
    hands: Arc<Mutex<Hands>>,
}

#[derive(Debug)]
struct Hands {
    now: DateTime<Utc>,
    sleepers: Vec<(DateTime<Utc>, oneshot::Sender<()>)>,
}

impl ManualClock {
    /// A clock that shows this time.
    pub fn new(start: DateTime<Utc>) -> Self {
        Self { hands: Arc::new(Mutex::new(Hands { now: start, sleepers: Vec::new() })) }
    }

    /// Moves the clock on and wakes whoever has slept long enough.
    pub fn advance(&self, duration: Duration) {
        let mut hands = lock(&self.hands);
        let now = later(hands.now, duration);
        hands.now = now;
        let mut due = Vec::new();
        for (at, sleeper) in std::mem::take(&mut hands.sleepers) {
            if at <= now {
                due.push(sleeper);
            } else if !sleeper.is_canceled() {
                hands.sleepers.push((at, sleeper));
            }
        }
        // Whoever is woken may look at the clock at once.
        drop(hands);
        for sleeper in due {
            let _: Result<(), ()> = sleeper.send(());
        }
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        lock(&self.hands).now.trunc_subsecs(6)
    }

    async fn sleep(&self, duration: Duration) {
        if duration.is_zero() {
            return;
        }
        let (sleeper, woken) = oneshot::channel();
        {
            let mut hands = lock(&self.hands);
            let at = later(hands.now, duration);
            hands.sleepers.push((at, sleeper));
        }
        let _: Result<(), oneshot::Canceled> = woken.await;
    }
}
