use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::approval::{ApprovalRequest, RequestState};
use crate::card::{Card, CardKind, CardState, Route};
use crate::certificate::{Certificate, CertificateState};
use crate::change_set::{ChangeSet, Conflict, Record, Reservation};
use crate::history::{HistoryEntry, ObjectId};
use crate::id::{CardId, CertificateId, JobId, RequestId, RunId, UserId};
use crate::job::{Attempt, Job, JobKind, JobState};

/// Stores cards and all that belongs to them.
///
/// # Contract
/// Each clause has a check of the same name in [`conformance::card_repository`](crate::conformance::card_repository).
/// - **`commit_is_atomic`**: [`commit`](Self::commit) stores everything in the change set or, on any error but
///   [`RepositoryError::OutcomeUnknown`], nothing. No reader sees a part of it.
/// - **`stored_objects_come_back_equal`**: what was stored is read back as it was, with the version raised by one.
///   Times keep at least microseconds.
/// - **`stale_version_is_refused`**: an object is stored only if the store holds it under the version it carries
///   (version 0: not at all), and is then held under the next version.
/// - **`every_conflict_is_named`**: a refused commit names every stale object, every taken key and every key that is not
///   held, not only the first.
/// - **`reservation_has_one_holder`**: a key is held by one owner at a time; however many callers try at once, one wins.
///   Taking a key that is held is a conflict even for its own holder. Releases are done before takes, so one commit can
///   hand a key on.
/// - **`pages_are_stable`**: pages are in ascending order of id; a page starts after the id given, and one that is shorter than
///   its limit is the last. What exists throughout a walk is seen exactly once, whatever is added or changed meanwhile.
/// - **`queries_filter`**: a query gives exactly what matches all of its parts; an empty part matches everything. Texts
///   match by prefix of the folded value (see [`fold`](crate::fold)) and only for [`Card::search_terms`].
/// - **`claim_gives_due_open_jobs_once`**: a claim gives open jobs of the wanted kinds, ids and run that nobody has a
///   live claim on, earliest due first, and raises their version; two callers never get the same job.
/// - **`lease_ends_by_the_stores_clock`**: a claim that was not renewed in time can be claimed by another; renewing
///   works only while nobody else has claimed.
/// - **`released_job_can_be_claimed_at_once`**: a release ends the claim of exactly the versions given.
/// - **`attempt_is_fenced`**: [`record_attempts`](Self::record_attempts) stores an attempt only for a job that still has
///   the version given, raises the version, and renews the lease. A commit stores a job only under the version it was
///   claimed with, too: who has lost a claim stores nothing. A job that is committed without a claim is released.
/// - **`numbers_are_never_drawn_twice`**: of callers that raise the same record at once, one wins and the others get a
///   conflict.
/// - **`backlog_counts_what_is_open`**: [`backlog`](Self::backlog) counts the open jobs that are due by the time given, claimed or
///   not, and those in doubt, of each kind; and names the earliest due time among them.
/// - **`history_is_in_order`**: [`history`](Self::history) gives the entries of one object in the order of its chain.
/// - **`feed_loses_nothing`**: [`changes_since`](Self::changes_since) gives every entry once, entries of one object in
///   order; an entry never appears before a cursor that was already handed out.
/// - **`stored_is_stored`**: what a commit has reported as stored is there after the store is closed and opened again.
///
/// # Not required
/// Transactions over several calls; an order of [`cards`](Self::cards), [`jobs`](Self::jobs) and the like; storing
/// objects that are in no change set; a feed in the order of commits across objects, or one that shows an entry as soon as it is
/// stored; keys, production types and search terms of more than 2,000 bytes; retries (a run that meets a
/// failure is interrupted and can be continued; answers of the bureau are stored again and again). Texts hold no NUL: the library refuses it before it comes to a store.
///
/// # Cancellation
/// A call whose future is dropped may or may not have taken effect, or may yet, but never in part.
///
/// After [`RepositoryError::OutcomeUnknown`], commit the same change set again, or read back. The engine commits it again: should the first have been
/// stored, versions and reservations refuse the second, and the conflicts tell. Reading back is sure only once the first cannot take effect any more.
/// A claim, a renewal, a release or an attempt of which the outcome is unknown is left alone: nothing is sent, and the lease ends.
///
/// # Errors
/// | situation | variant |
/// |---|---|
/// | something changed meanwhile | [`CommitError::Conflicts`] |
/// | the store cannot be reached, is locked or full for now | [`RepositoryError::Unavailable`] |
/// | the connection was lost while committing | [`RepositoryError::OutcomeUnknown`]: commit the same change set again, or read back |
/// | what is stored cannot be read | [`RepositoryError::Corrupt`] |
/// | anything that will not go away by itself | [`RepositoryError::Rejected`] |
///
/// # Implementing
/// Run [`conformance::card_repository`](crate::conformance::card_repository) against it; `examples/custom_repository.rs`
/// shows a small store and its test.
#[async_trait]
pub trait CardRepository: Send + Sync + 'static {
    /// Stores everything in the change set, or nothing and says why.
    async fn commit(&self, changes: &ChangeSet) -> Result<(), CommitError>;

    /// The cards with these ids; those that do not exist are left out.
    async fn cards(&self, ids: &[CardId]) -> Result<Vec<Card>, RepositoryError>;

    /// Up to `limit` cards that match, by id, after the one given.
    async fn card_page(
        &self,
        query: &CardQuery,
        after: Option<CardId>,
        limit: usize,
    ) -> Result<Vec<Card>, RepositoryError>;

    /// All cards of these holders that are in one of these states; none if either is empty.
    async fn cards_of(&self, holders: &[UserId], states: &[CardState]) -> Result<Vec<Card>, RepositoryError>;

    /// The approval requests with these ids; those that do not exist are left out.
    async fn requests(&self, ids: &[RequestId]) -> Result<Vec<ApprovalRequest>, RepositoryError>;

    /// Up to `limit` approval requests that match, by id, after the one given.
    async fn request_page(
        &self,
        query: &RequestQuery,
        after: Option<RequestId>,
        limit: usize,
    ) -> Result<Vec<ApprovalRequest>, RepositoryError>;

    /// The certificates with these ids; those that do not exist are left out.
    async fn certificates(&self, ids: &[CertificateId]) -> Result<Vec<Certificate>, RepositoryError>;

    /// Up to `limit` certificates that match, by id, after the one given.
    async fn certificate_page(
        &self,
        query: &CertificateQuery,
        after: Option<CertificateId>,
        limit: usize,
    ) -> Result<Vec<Certificate>, RepositoryError>;

    /// The records with these keys; those that do not exist are left out.
    async fn records(&self, keys: &[String]) -> Result<Vec<Record>, RepositoryError>;

    /// Who holds these keys; those that nobody holds are left out.
    async fn reservations(&self, keys: &[String]) -> Result<Vec<Reservation>, RepositoryError>;

    /// The jobs with these ids, with their claims; those that do not exist are left out.
    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Job>, RepositoryError>;

    /// Up to `limit` jobs that match, by id, after the one given.
    async fn job_page(&self, query: &JobQuery, after: Option<JobId>, limit: usize)
    -> Result<Vec<Job>, RepositoryError>;

    /// Claims open jobs and gives them as they are now stored.
    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Job>, RepositoryError>;

    /// Lets the claims of these jobs, each at the version given, run for `lease` from now by the store's clock. Gives the
    /// ids of those that were still held.
    async fn renew(&self, jobs: &[(JobId, u64)], lease: Duration) -> Result<Vec<JobId>, RepositoryError>;

    /// Ends the claims of these jobs, each at the version given; others are left alone.
    async fn release(&self, jobs: &[(JobId, u64)]) -> Result<(), RepositoryError>;

    /// Stores an attempt for each job that still has the version given, raises its attempt count and version, and lets
    /// its claim run for `lease` from now. Gives those jobs as they are now stored.
    async fn record_attempts(
        &self,
        attempts: &[(JobId, u64, Attempt)],
        lease: Duration,
    ) -> Result<Vec<Job>, RepositoryError>;

    /// How much is to be done, by kind, in the order of kinds; of this run, or of all. A kind of which nothing is due or in doubt
    /// may be left out.
    /// [`Backlog::of`] counts jobs that were read; with many, a store had better count by itself.
    async fn backlog(&self, due_by: DateTime<Utc>, run: Option<RunId>) -> Result<Vec<Backlog>, RepositoryError>;

    /// Up to `limit` history entries of an object, after the sequence given.
    async fn history(&self, object: &ObjectId, after: u64, limit: usize) -> Result<Vec<HistoryEntry>, RepositoryError>;

    /// Up to `limit` history entries of all objects, after the cursor; `None` starts at the beginning.
    async fn changes_since(&self, cursor: Option<&str>, limit: usize) -> Result<FeedPage, RepositoryError>;
}

forward!(CardRepository {
    async fn commit(&self, changes: &ChangeSet) -> Result<(), CommitError>;
    async fn cards(&self, ids: &[CardId]) -> Result<Vec<Card>, RepositoryError>;
    async fn card_page(&self, query: &CardQuery, after: Option<CardId>, limit: usize) -> Result<Vec<Card>, RepositoryError>;
    async fn cards_of(&self, holders: &[UserId], states: &[CardState]) -> Result<Vec<Card>, RepositoryError>;
    async fn requests(&self, ids: &[RequestId]) -> Result<Vec<ApprovalRequest>, RepositoryError>;
    async fn request_page(&self, query: &RequestQuery, after: Option<RequestId>, limit: usize) -> Result<Vec<ApprovalRequest>, RepositoryError>;
    async fn certificates(&self, ids: &[CertificateId]) -> Result<Vec<Certificate>, RepositoryError>;
    async fn certificate_page(&self, query: &CertificateQuery, after: Option<CertificateId>, limit: usize) -> Result<Vec<Certificate>, RepositoryError>;
    async fn records(&self, keys: &[String]) -> Result<Vec<Record>, RepositoryError>;
    async fn reservations(&self, keys: &[String]) -> Result<Vec<Reservation>, RepositoryError>;
    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Job>, RepositoryError>;
    async fn job_page(&self, query: &JobQuery, after: Option<JobId>, limit: usize) -> Result<Vec<Job>, RepositoryError>;
    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Job>, RepositoryError>;
    async fn renew(&self, jobs: &[(JobId, u64)], lease: Duration) -> Result<Vec<JobId>, RepositoryError>;
    async fn release(&self, jobs: &[(JobId, u64)]) -> Result<(), RepositoryError>;
    async fn record_attempts(&self, attempts: &[(JobId, u64, Attempt)], lease: Duration) -> Result<Vec<Job>, RepositoryError>;
    async fn backlog(&self, due_by: DateTime<Utc>, run: Option<RunId>) -> Result<Vec<Backlog>, RepositoryError>;
    async fn history(&self, object: &ObjectId, after: u64, limit: usize) -> Result<Vec<HistoryEntry>, RepositoryError>;
    async fn changes_since(&self, cursor: Option<&str>, limit: usize) -> Result<FeedPage, RepositoryError>;
});

/// Which cards. An empty list or `None` matches every card.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CardQuery {
    /// Permanent or temporary.
    pub kind: Option<CardKind>,
    /// Local or external.
    pub route: Option<Route>,
    /// In one of these states.
    pub states: Vec<CardState>,
    /// Of one of these holders.
    pub holders: Vec<UserId>,
    /// Of one of these production types.
    pub production_types: Vec<String>,
    /// Whether the card's open job is in doubt.
    pub in_doubt: Option<bool>,
    /// With search terms that begin like this, all of them.
    pub text: Vec<TextPrefix>,
}

impl CardQuery {
    /// Whether a card matches: the meaning of a query, for stores that filter in memory and for tests.
    pub fn matches(&self, card: &Card) -> bool {
        self.kind.is_none_or(|kind| kind == card.kind())
            && self.route.is_none_or(|route| route == card.route())
            && (self.states.is_empty() || self.states.contains(&card.state()))
            && (self.holders.is_empty() || card.holder.as_ref().is_some_and(|holder| self.holders.contains(holder)))
            && (self.production_types.is_empty()
                || card.production_type.as_ref().is_some_and(|name| self.production_types.contains(name)))
            && self.in_doubt.is_none_or(|doubt| doubt == card.busy.as_ref().is_some_and(|busy| busy.in_doubt))
            && self.text.iter().all(|text| {
                let prefix = crate::card::fold(&text.prefix);
                card.search_terms().any(|(name, folded)| name == text.name && folded.starts_with(&prefix))
            })
    }
}

/// A text that begins like this, without regard to case and accents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextPrefix {
    /// The attribute; for cards one of [`UserToCardMap::searchable`](crate::UserToCardMap) or [`Card::NUMBER`].
    pub name: String,
    /// How it begins.
    pub prefix: String,
}

impl TextPrefix {
    /// `name` begins with `prefix`.
    pub fn new(name: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self { name: name.into(), prefix: prefix.into() }
    }
}

/// Which approval requests. An empty list matches every request.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestQuery {
    /// In one of these states.
    pub states: Vec<RequestState>,
    /// For one of these holders.
    pub holders: Vec<UserId>,
}

impl RequestQuery {
    /// Whether a request matches.
    pub fn matches(&self, request: &ApprovalRequest) -> bool {
        (self.states.is_empty() || self.states.contains(&request.state()))
            && (self.holders.is_empty() || self.holders.contains(&request.holder))
    }
}

/// Which certificates. An empty list matches every certificate.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificateQuery {
    /// Of one of these cards.
    pub cards: Vec<CardId>,
    /// In one of these states.
    pub states: Vec<CertificateState>,
}

impl CertificateQuery {
    /// Whether a certificate matches.
    pub fn matches(&self, certificate: &Certificate) -> bool {
        (self.cards.is_empty() || self.cards.contains(&certificate.card))
            && (self.states.is_empty() || self.states.contains(&certificate.state()))
    }
}

/// Which jobs. An empty list matches every job.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct JobQuery {
    /// Of one of these kinds.
    pub kinds: Vec<JobKind>,
    /// In one of these states.
    pub states: Vec<JobState>,
}

impl JobQuery {
    /// Whether a job matches.
    pub fn matches(&self, job: &Job) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&job.kind()))
            && (self.states.is_empty() || self.states.contains(&job.state))
    }
}

/// Which open jobs to claim, for whom and for how long. Empty lists and `None` match every job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRequest {
    /// Who claims; a name for people, the right is the version.
    pub worker: String,
    /// Of one of these kinds.
    pub kinds: Vec<JobKind>,
    /// Only these jobs.
    pub ids: Vec<JobId>,
    /// Only jobs of this run.
    pub run: Option<RunId>,
    /// Also jobs that are not due yet.
    pub early: bool,
    /// At most so many.
    pub limit: usize,
    /// How long the claim lasts from now, by the store's clock.
    pub lease: Duration,
}

impl ClaimRequest {
    /// Due jobs of any kind.
    pub fn new(worker: impl Into<String>, limit: usize, lease: Duration) -> Self {
        Self { worker: worker.into(), kinds: Vec::new(), ids: Vec::new(), run: None, early: false, limit, lease }
    }

    /// Whether an open job is wanted, without regard to claims and due times.
    pub fn wants(&self, job: &Job) -> bool {
        job.state == JobState::Open
            && (self.kinds.is_empty() || self.kinds.contains(&job.kind()))
            && (self.ids.is_empty() || self.ids.contains(&job.id))
            && self.run.is_none_or(|run| job.run == Some(run))
    }
}

/// How much there is to be done of one kind of jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    /// The kind.
    pub kind: JobKind,
    /// How many are open and due.
    pub due: u64,
    /// When the first of those was due.
    pub oldest_due: Option<DateTime<Utc>>,
    /// How many are in doubt.
    pub in_doubt: u64,
}

impl Backlog {
    /// Nothing of this kind.
    pub const fn none(kind: JobKind) -> Self {
        Self { kind, due: 0, oldest_due: None, in_doubt: 0 }
    }

    /// What there is to be done of these jobs, those that are done or cancelled aside: by kind, in the order of kinds.
    pub fn of<'a>(jobs: impl IntoIterator<Item = &'a Job>, due_by: DateTime<Utc>) -> Vec<Self> {
        let mut counts = BTreeMap::new();
        for job in jobs {
            let count = counts.entry(job.kind()).or_insert_with(|| Self::none(job.kind()));
            match job.state {
                JobState::Open if job.due <= due_by => {
                    count.due += 1;
                    count.oldest_due = Some(count.oldest_due.map_or(job.due, |oldest| oldest.min(job.due)));
                }
                JobState::InDoubt => count.in_doubt += 1,
                _ => {}
            }
        }
        counts.into_values().filter(|count| *count != Self::none(count.kind)).collect()
    }
}

/// A part of the feed of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedPage {
    /// The entries, each with the cursor after it.
    pub entries: Vec<FeedEntry>,
    /// The cursor after the last entry; the one asked with if there is none.
    pub cursor: Option<String>,
}

/// One entry of the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEntry {
    /// The cursor after this entry: opaque, to be handed back as it is.
    pub cursor: String,
    /// What happened.
    pub entry: HistoryEntry,
}

/// Why a commit stored nothing.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Something changed meanwhile: everything that did. The engine loads and plans those items again.
    #[error("{} changed meanwhile", describe(.0))]
    Conflicts(Vec<Conflict>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] RepositoryError),
}

fn describe(conflicts: &[Conflict]) -> String {
    match conflicts {
        [one] => format!("{one}; it"),
        _ => format!("{} things", conflicts.len()),
    }
}

/// Why a store could not do what was asked, by what the caller does next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepositoryError {
    /// Cannot be reached, or is locked or full for now: nothing was stored; try again later.
    #[error("the card store is unavailable: {reason}")]
    Unavailable {
        /// What is in the way.
        reason: String,
        /// The cause.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The connection was lost while committing: it may be stored or not. Commit the same change set again, or read back, before doing anything else.
    #[error("whether the commit was stored is unknown: {reason}")]
    OutcomeUnknown {
        /// What happened.
        reason: String,
        /// The cause.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// What is stored cannot be read: a person must look.
    #[error("the card store is damaged: {reason}")]
    Corrupt {
        /// What was found where.
        reason: String,
        /// The cause.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The store will not do it, now or later, such as opening a schema of a newer release.
    #[error("the card store refuses: {reason}")]
    Rejected {
        /// Why.
        reason: String,
        /// The cause.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl RepositoryError {
    /// An [`Unavailable`](Self::Unavailable) without a cause.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason.into(), source: None }
    }

    /// A [`Corrupt`](Self::Corrupt) without a cause.
    pub fn corrupt(reason: impl Into<String>) -> Self {
        Self::Corrupt { reason: reason.into(), source: None }
    }

    /// A [`Rejected`](Self::Rejected) without a cause.
    pub fn rejected(reason: impl Into<String>) -> Self {
        Self::Rejected { reason: reason.into(), source: None }
    }

    /// Whether trying the same again later may work.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Whether trying the same again will not help.
    pub const fn is_permanent(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Rejected { .. })
    }
}
