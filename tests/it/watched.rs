//! Parts of an office that tests look over the shoulder of: a store that counts its calls, fails where a test wants it and lets
//! a test act at the moment of a commit, a bureau that lets a test act while an order is being sent, and a second engine on the
//! same store.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cardwright::adapters::memory::MemoryRepository;
use cardwright::adapters::simulator::{SimulatedBureau, SimulatedClock};
use cardwright::host::{
    Backlog, CardOrder, CardQuery, CardRepository, CertificateQuery, ClaimRequest, CommitError, FeedPage, FindOutcome,
    GoCardsProvider, JobQuery, OrderStatus, PlaceOutcome, Placement, RepositoryError, RequestQuery, StatusOutcome,
};
use cardwright::{
    ApprovalRequest, Attempt, Card, CardId, CardState, Certificate, CertificateId, ChangeSet, EngineBuilder,
    HistoryEntry, Job, JobId, ObjectId, Record, RequestId, Reservation, RunId, UserId,
};
use chrono::{DateTime, Utc};

use crate::office::{Office, clock};

type Hook = Box<dyn FnOnce() + Send>;
type Look = Box<dyn Fn() + Send>;

/// What is done to a history that is read.
type Forgery = Box<dyn Fn(&mut Vec<HistoryEntry>) + Send>;

/// What a test did at a certain moment, on a thread of its own so that it may run an engine.
fn act(hook: Option<Hook>) {
    if let Some(hook) = hook {
        std::thread::spawn(hook).join().expect("what the test does at that moment works");
    }
}

/// A store that counts, and fails or waits where a test wants it.
pub(crate) struct Watched {
    inner: Box<dyn CardRepository>,
    calls: Mutex<BTreeMap<&'static str, u64>>,
    before_commit: Mutex<VecDeque<Hook>>,
    after_commit: Mutex<Option<Look>>,
    failures: Mutex<VecDeque<Option<RepositoryError>>>,
    lost: Mutex<VecDeque<bool>>,
    lost_jobs: Mutex<usize>,
    away: Mutex<VecDeque<bool>>,
    forged: Mutex<Vec<HistoryEntry>>,
    forgery: Mutex<Option<Forgery>>,
}

impl Watched {
    pub(crate) fn new(inner: impl CardRepository) -> Arc<Self> {
        Arc::new(Self {
            inner: Box::new(inner),
            calls: Mutex::default(),
            before_commit: Mutex::default(),
            after_commit: Mutex::default(),
            failures: Mutex::default(),
            lost: Mutex::default(),
            lost_jobs: Mutex::default(),
            away: Mutex::default(),
            forged: Mutex::default(),
            forgery: Mutex::default(),
        })
    }

    /// Does this right before the next commit of cards; called again, before the one after it.
    pub(crate) fn before_commit(&self, hook: impl FnOnce() + Send + 'static) {
        self.before_commit.lock().unwrap().push_back(Box::new(hook));
    }

    /// Looks at the store after every commit from now on, also after one whose answer is lost. It must not wait for anything.
    pub(crate) fn after_every_commit(&self, look: impl Fn() + Send + 'static) {
        *self.after_commit.lock().unwrap() = Some(Box::new(look));
    }

    /// What becomes of the next commits of cards: `None` lets one through.
    pub(crate) fn fail_commits(&self, failures: impl IntoIterator<Item = Option<RepositoryError>>) {
        self.failures.lock().unwrap().extend(failures);
    }

    /// Whether the answers of the next commits of cards are lost although they are stored.
    pub(crate) fn lose_answers(&self, lost: impl IntoIterator<Item = bool>) {
        self.lost.lock().unwrap().extend(lost);
    }

    /// Loses the answers of so many commits of jobs alone, although they are stored.
    pub(crate) fn lose_answers_about_jobs(&self, commits: usize) {
        *self.lost_jobs.lock().unwrap() = commits;
    }

    /// Lets so many calls through from now on, reads and all, and fails the next ones.
    pub(crate) fn be_away(&self, after: usize, calls: usize) {
        let mut away = self.away.lock().unwrap();
        away.extend(std::iter::repeat_n(false, after));
        away.extend(std::iter::repeat_n(true, calls));
    }

    /// Fails no more.
    pub(crate) fn be_back(&self) {
        self.away.lock().unwrap().clear();
    }

    /// Slips this entry into the history that is read.
    pub(crate) fn forge(&self, entry: HistoryEntry) {
        self.forged.lock().unwrap().push(entry);
    }

    /// Does this to every history that is read.
    pub(crate) fn falsify(&self, forgery: impl Fn(&mut Vec<HistoryEntry>) + Send + 'static) {
        *self.forgery.lock().unwrap() = Some(Box::new(forgery));
    }

    /// The calls so far, and forgets them.
    pub(crate) fn take_calls(&self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    fn begin(&self, call: &'static str) -> Result<(), RepositoryError> {
        *self.calls.lock().unwrap().entry(call).or_default() += 1;
        let away = self.away.lock().unwrap().pop_front().unwrap_or_default();
        if away { Err(RepositoryError::unavailable("out for lunch")) } else { Ok(()) }
    }
}

#[async_trait]
impl CardRepository for Watched {
    async fn commit(&self, changes: &ChangeSet) -> Result<(), CommitError> {
        let numbers = changes.cards.is_empty() && changes.records.iter().any(|r| r.key.starts_with("numbers/"));
        self.begin(if numbers { "number draw" } else { "commit" })?;
        if !changes.cards.is_empty() {
            let hook = self.before_commit.lock().unwrap().pop_front();
            act(hook);
            let failure = self.failures.lock().unwrap().pop_front().flatten();
            if let Some(failure) = failure {
                return Err(failure.into());
            }
        }
        let committed = self.inner.commit(changes).await;
        if let Some(look) = self.after_commit.lock().unwrap().as_ref().filter(|_| committed.is_ok()) {
            look();
        }
        let jobs_alone = changes.cards.is_empty() && !changes.jobs.is_empty() && committed.is_ok();
        let mut lost_jobs = self.lost_jobs.lock().unwrap();
        if jobs_alone && *lost_jobs > 0 {
            *lost_jobs -= 1;
            return Err(RepositoryError::OutcomeUnknown { reason: "nobody heard".to_owned(), source: None }.into());
        }
        drop(lost_jobs);
        let cards = !changes.cards.is_empty() && committed.is_ok();
        if cards && self.lost.lock().unwrap().pop_front().unwrap_or_default() {
            return Err(
                RepositoryError::OutcomeUnknown { reason: "the line went dead".to_owned(), source: None }.into()
            );
        }
        committed
    }

    async fn cards(&self, ids: &[CardId]) -> Result<Vec<Card>, RepositoryError> {
        self.begin("cards")?;
        self.inner.cards(ids).await
    }

    async fn card_page(
        &self,
        query: &CardQuery,
        after: Option<CardId>,
        limit: usize,
    ) -> Result<Vec<Card>, RepositoryError> {
        self.begin("card_page")?;
        self.inner.card_page(query, after, limit).await
    }

    async fn cards_of(&self, holders: &[UserId], states: &[CardState]) -> Result<Vec<Card>, RepositoryError> {
        self.begin("cards_of")?;
        self.inner.cards_of(holders, states).await
    }

    async fn requests(&self, ids: &[RequestId]) -> Result<Vec<ApprovalRequest>, RepositoryError> {
        self.begin("requests")?;
        self.inner.requests(ids).await
    }

    async fn request_page(
        &self,
        query: &RequestQuery,
        after: Option<RequestId>,
        limit: usize,
    ) -> Result<Vec<ApprovalRequest>, RepositoryError> {
        self.begin("request_page")?;
        self.inner.request_page(query, after, limit).await
    }

    async fn certificates(&self, ids: &[CertificateId]) -> Result<Vec<Certificate>, RepositoryError> {
        self.begin("certificates")?;
        self.inner.certificates(ids).await
    }

    async fn certificate_page(
        &self,
        query: &CertificateQuery,
        after: Option<CertificateId>,
        limit: usize,
    ) -> Result<Vec<Certificate>, RepositoryError> {
        self.begin("certificate_page")?;
        self.inner.certificate_page(query, after, limit).await
    }

    async fn records(&self, keys: &[String]) -> Result<Vec<Record>, RepositoryError> {
        let numbers = keys.iter().all(|key| key.starts_with("numbers/"));
        self.begin(if numbers { "number look" } else { "records" })?;
        self.inner.records(keys).await
    }

    async fn reservations(&self, keys: &[String]) -> Result<Vec<Reservation>, RepositoryError> {
        self.begin("reservations")?;
        self.inner.reservations(keys).await
    }

    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Job>, RepositoryError> {
        self.begin("jobs")?;
        self.inner.jobs(ids).await
    }

    async fn job_page(
        &self,
        query: &JobQuery,
        after: Option<JobId>,
        limit: usize,
    ) -> Result<Vec<Job>, RepositoryError> {
        self.begin("job_page")?;
        self.inner.job_page(query, after, limit).await
    }

    async fn backlog(&self, due_by: DateTime<Utc>, run: Option<RunId>) -> Result<Vec<Backlog>, RepositoryError> {
        self.begin("backlog")?;
        self.inner.backlog(due_by, run).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Job>, RepositoryError> {
        self.begin("claim")?;
        self.inner.claim(request).await
    }

    async fn renew(&self, jobs: &[(JobId, u64)], lease: Duration) -> Result<Vec<JobId>, RepositoryError> {
        self.begin("renew")?;
        self.inner.renew(jobs, lease).await
    }

    async fn release(&self, jobs: &[(JobId, u64)]) -> Result<(), RepositoryError> {
        self.begin("release")?;
        self.inner.release(jobs).await
    }

    async fn record_attempts(
        &self,
        attempts: &[(JobId, u64, Attempt)],
        lease: Duration,
    ) -> Result<Vec<Job>, RepositoryError> {
        self.begin("record_attempts")?;
        self.inner.record_attempts(attempts, lease).await
    }

    async fn history(&self, object: &ObjectId, after: u64, limit: usize) -> Result<Vec<HistoryEntry>, RepositoryError> {
        self.begin("history")?;
        let mut entries = self.inner.history(object, after, limit).await?;
        let forged = self.forged.lock().unwrap();
        entries.extend(forged.iter().filter(|entry| entry.object == *object && entry.sequence > after).cloned());
        if let Some(forgery) = &*self.forgery.lock().unwrap() {
            forgery(&mut entries);
        }
        Ok(entries)
    }

    async fn changes_since(&self, cursor: Option<&str>, limit: usize) -> Result<FeedPage, RepositoryError> {
        self.begin("changes_since")?;
        self.inner.changes_since(cursor, limit).await
    }
}

/// A bureau that says what a test wants once, and otherwise what the simulated one says.
#[derive(Clone)]
pub(crate) struct TestBureau {
    inner: SimulatedBureau,
    after_place: Arc<Mutex<VecDeque<Hook>>>,
    statuses: Arc<Mutex<VecDeque<OrderStatus>>>,
    unheard: Arc<Mutex<VecDeque<PlaceOutcome>>>,
    forgetful: Arc<AtomicBool>,
}

impl TestBureau {
    pub(crate) fn new(inner: SimulatedBureau) -> Self {
        Self {
            inner,
            after_place: Arc::default(),
            statuses: Arc::default(),
            unheard: Arc::default(),
            forgetful: Arc::default(),
        }
    }

    /// Does this once the next call was made, before its answer arrives.
    pub(crate) fn before_answer(&self, hook: impl FnOnce() + Send + 'static) {
        self.after_place.lock().unwrap().push_back(Box::new(hook));
    }

    /// Answers the next call with this for each order, and does not hear of the orders.
    pub(crate) fn next_unheard(&self, outcome: PlaceOutcome) {
        self.unheard.lock().unwrap().push_back(outcome);
    }

    /// Knows no order any more when it is asked.
    pub(crate) fn forget_orders(&self) {
        self.forgetful.store(true, Ordering::Relaxed);
    }

    /// Answers the next question for a status with this.
    pub(crate) fn next_status(&self, status: OrderStatus) {
        self.statuses.lock().unwrap().push_back(status);
    }
}

#[async_trait]
impl GoCardsProvider for TestBureau {
    fn placement(&self) -> Placement {
        self.inner.placement()
    }

    async fn place(&self, orders: &[CardOrder]) -> Vec<PlaceOutcome> {
        let unheard = self.unheard.lock().unwrap().pop_front();
        let answers = match unheard {
            Some(outcome) => vec![outcome; orders.len()],
            None => self.inner.place(orders).await,
        };
        let hook = self.after_place.lock().unwrap().pop_front();
        act(hook);
        answers
    }

    async fn status(&self, order_ids: &[String]) -> Vec<StatusOutcome> {
        let answers = self.inner.status(order_ids).await;
        if self.forgetful.load(Ordering::Relaxed) {
            return vec![StatusOutcome::NotFound; order_ids.len()];
        }
        let mut statuses = self.statuses.lock().unwrap();
        answers.into_iter().map(|answer| statuses.pop_front().map_or(answer, StatusOutcome::Known)).collect()
    }

    async fn find(&self, reference: &str) -> FindOutcome {
        self.inner.find(reference).await
    }
}

/// A store in memory with its clock.
pub(crate) fn store() -> (MemoryRepository, SimulatedClock) {
    let clock = clock();
    (MemoryRepository::new(Arc::new(clock.clone())), clock)
}

/// Another engine on the same store, with the same bureau, users and mail, and whatever the closure changes.
pub(crate) fn second(
    office: &Office,
    repository: impl CardRepository,
    change: impl FnOnce(EngineBuilder) -> EngineBuilder,
) -> Office {
    let other = Office::on(repository, office.clock.clone(), |builder| {
        change(
            builder
                .users(office.users.clone())
                .bureau(office.bureau.clone())
                .certificate_authority(office.ca.clone())
                .personalizer(office.personalizer.clone())
                .notifier(office.mail.clone())
                .worker("second"),
        )
    });
    Office {
        bureau: office.bureau.clone(),
        ca: office.ca.clone(),
        personalizer: office.personalizer.clone(),
        users: office.users.clone(),
        mail: office.mail.clone(),
        runs: office.runs.clone(),
        ..other
    }
}

/// The only job of this kind that is open, in doubt, or whatever it is.
pub(crate) fn jobs(office: &Office, kind: cardwright::JobKind) -> Vec<Job> {
    let query = JobQuery { kinds: vec![kind], states: Vec::new() };
    futures::executor::block_on(office.engine.job_page(&query, None, 1000)).expect("jobs can be listed")
}
