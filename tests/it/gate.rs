//! A gate that every call to the store and to the outside passes, and at which a worker can die.

use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use cardwright::host::{
    AccessPolicy, Backlog, CaOutcome, CaStatusOutcome, CardOrder, CardPersonalizer, CardQuery, CardRepository,
    CertificateAuthority, CertificateOrder, CertificateQuery, ClaimRequest, Clock, CommitError, CustomOutcome,
    Decision, DirectoryError, DiscardOutcome, FeedPage, FindCertificateOutcome, FindOutcome, FinishOrder,
    FinishOutcome, GoCardsProvider, IssueOutcome, JobPerformer, JobQuery, Notifier, NotifyOutcome, PlaceOutcome,
    Placement, PrepareOrder, PrepareOutcome, RepositoryError, RequestQuery, StatusOutcome, UserFilter, UserPage,
    UserRepository,
};
use cardwright::process::ItemId;
use cardwright::{
    Actor, ApprovalRequest, Attempt, Card, CardId, CardState, Certificate, CertificateId, ChangeSet, HistoryEntry,
    IssuedCertificate, Job, JobId, Message, ObjectId, Record, RequestId, Reservation, RevocationReason, RunId,
    SymbolicName, User, UserId,
};
use chrono::{DateTime, Utc};
use futures::executor::block_on;

/// Where a worker dies. Calls and awaits are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// Before this call is made.
    Before(usize),
    /// After this call was made, before its answer is seen.
    After(usize),
    /// When its work waits for the so manieth time: it is dropped. Every call is made and then waits once for its answer.
    Waiting(usize),
}

impl Death {
    /// It waits for every answer and lives.
    pub(crate) const NEVER: Self = Self::Waiting(usize::MAX);
}

/// Counts the calls of one worker, and lets it die at one of them.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<Mutex<Passage>>);

#[derive(Default)]
struct Passage {
    death: Option<Death>,
    dead: bool,
    calls: Vec<&'static str>,
    waits: usize,
}

impl Gate {
    /// Does the work, until it is done (what it came to) or the worker dies (`None`). Says how many calls and waits there were.
    pub(crate) fn pass<T>(&self, death: Death, work: impl Future<Output = T>) -> (Option<T>, Passed) {
        *self.passage() = Passage { death: Some(death), ..Passage::default() };
        let done = {
            let mut work = pin!(work);
            block_on(poll_fn(|context| match work.as_mut().poll(context) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending if self.dies_waiting() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }))
        };
        let Passage { calls, waits, .. } = std::mem::take(&mut *self.passage());
        (done, Passed { calls, waits })
    }

    fn passage(&self) -> std::sync::MutexGuard<'_, Passage> {
        self.0.lock().expect("nothing panics while it is held")
    }

    fn dies_waiting(&self) -> bool {
        let mut passage = self.passage();
        passage.waits += 1;
        passage.dead |= passage.death == Some(Death::Waiting(passage.waits));
        passage.dead
    }

    /// Nothing goes on once the worker is dead, whatever it had begun at the same time.
    async fn go_on(&self) {
        if self.passage().dead {
            pending().await
        }
    }
}

/// Who stands at a gate: asked before every call, told after it.
pub(crate) trait Porter: Clone + Send + Sync + 'static {
    /// What is known of a call that has gone through and has no answer yet. Dropped if none comes.
    type Passing: Send;

    /// Before a call: it goes on from here, or never.
    fn before(&self, call: &'static str) -> impl Future<Output = Self::Passing> + Send;

    /// After it was made, before its answer is seen.
    fn after(&self, passing: Self::Passing, answer: &(dyn fmt::Debug + Sync)) -> impl Future<Output = ()> + Send;
}

impl Porter for Gate {
    /// The number of the call.
    type Passing = usize;

    async fn before(&self, call: &'static str) -> usize {
        let number = {
            let mut passage = self.passage();
            if !passage.dead {
                passage.calls.push(call);
            }
            let number = passage.calls.len();
            passage.dead |= passage.death == Some(Death::Before(number));
            number
        };
        self.go_on().await;
        number
    }

    async fn after(&self, number: usize, _: &(dyn fmt::Debug + Sync)) {
        let slow = {
            let mut passage = self.passage();
            passage.dead |= passage.death == Some(Death::After(number));
            passage.is_slow()
        };
        if slow {
            let mut asked = false;
            poll_fn(|context| {
                if std::mem::replace(&mut asked, true) {
                    return Poll::Ready(());
                }
                context.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
        }
        self.go_on().await;
    }
}

impl Passage {
    fn is_slow(&self) -> bool {
        matches!(self.death, Some(Death::Waiting(_)))
    }
}

/// What passed the gate.
pub(crate) struct Passed {
    /// The calls, in their order.
    pub(crate) calls: Vec<&'static str>,
    /// How often the work waited.
    pub(crate) waits: usize,
}

/// A part of an office behind a gate: the store, or something outside.
#[derive(Clone)]
pub(crate) struct Gated<T, P = Gate>(pub(crate) T, pub(crate) P);

/// Lets the calls of a host trait through the gate. What is not async reads a setting and passes beside it.
macro_rules! gated {
    ($trait:ident {
        $(fn $sync:ident(&self $(, $sarg:ident: $sty:ty)*) -> $sret:ty;)*
        $(async fn $name:ident(&self $(, $arg:ident: $ty:ty)*) -> $ret:ty;)*
    }) => {
        #[async_trait]
        impl<T: $trait, P: Porter> $trait for Gated<T, P> {
            $(fn $sync(&self $(, $sarg: $sty)*) -> $sret {
                self.0.$sync($($sarg),*)
            })*
            $(async fn $name(&self $(, $arg: $ty)*) -> $ret {
                let passing = self.1.before(stringify!($name)).await;
                let answer = self.0.$name($($arg),*).await;
                self.1.after(passing, &answer).await;
                answer
            })*
        }
    };
}

gated!(CardRepository {
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
    async fn backlog(&self, due_by: DateTime<Utc>, run: Option<RunId>) -> Result<Vec<Backlog>, RepositoryError>;
    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Job>, RepositoryError>;
    async fn renew(&self, jobs: &[(JobId, u64)], lease: Duration) -> Result<Vec<JobId>, RepositoryError>;
    async fn release(&self, jobs: &[(JobId, u64)]) -> Result<(), RepositoryError>;
    async fn record_attempts(&self, attempts: &[(JobId, u64, Attempt)], lease: Duration) -> Result<Vec<Job>, RepositoryError>;
    async fn history(&self, object: &ObjectId, after: u64, limit: usize) -> Result<Vec<HistoryEntry>, RepositoryError>;
    async fn changes_since(&self, cursor: Option<&str>, limit: usize) -> Result<FeedPage, RepositoryError>;
});

gated!(UserRepository {
    async fn users(&self, ids: &[UserId]) -> Result<Vec<User>, DirectoryError>;
    async fn search(&self, filter: &UserFilter, cursor: Option<&str>, limit: usize) -> Result<UserPage, DirectoryError>;
    async fn photo(&self, user: &UserId) -> Result<Option<Vec<u8>>, DirectoryError>;
});

gated!(GoCardsProvider {
    fn placement(&self) -> Placement;
    async fn place(&self, orders: &[CardOrder]) -> Vec<PlaceOutcome>;
    async fn status(&self, order_ids: &[String]) -> Vec<StatusOutcome>;
    async fn find(&self, reference: &str) -> FindOutcome;
});

gated!(CertificateAuthority {
    async fn issue(&self, order: &CertificateOrder) -> IssueOutcome;
    async fn find(&self, key: &str) -> FindCertificateOutcome;
    async fn hold(&self, certificate: &IssuedCertificate) -> CaOutcome;
    async fn remove_hold(&self, certificate: &IssuedCertificate) -> CaOutcome;
    async fn revoke(&self, certificate: &IssuedCertificate, reason: RevocationReason) -> CaOutcome;
    async fn status(&self, certificates: &[IssuedCertificate]) -> Vec<CaStatusOutcome>;
});

gated!(CardPersonalizer {
    async fn prepare(&self, order: &PrepareOrder<'_>) -> PrepareOutcome;
    async fn finish(&self, order: FinishOrder<'_>) -> FinishOutcome;
    async fn discard(&self, handle: &str) -> DiscardOutcome;
});

gated!(Notifier {
    async fn send(&self, message: &Message) -> NotifyOutcome;
});

gated!(AccessPolicy {
    async fn may_start(&self, actor: &Actor, process: &SymbolicName) -> Decision;
    async fn may(&self, actor: &Actor, process: &SymbolicName, objects: &[ItemId]) -> Vec<Decision>;
});

gated!(JobPerformer {
    fn repeatable(&self) -> bool;
    async fn perform(&self, job: &Job) -> CustomOutcome;
});

/// A clock behind a gate: where every call waits, no sleep ever ends, so that no call is too late for having waited.
#[async_trait]
impl<T: Clock> Clock for Gated<T> {
    fn now(&self) -> DateTime<Utc> {
        self.0.now()
    }

    async fn sleep(&self, duration: Duration) {
        if self.1.passage().is_slow() {
            pending().await
        }
        self.0.sleep(duration).await;
    }
}
