//! The kit with which hosts test their own adapters: one check for each clause of a contract.
//!
//! A host says with a factory how its adapter is opened, and runs `check_all` of the module for that trait, or each of its
//! `clauses` as a test of its own. A check panics where a clause is not kept, and names it.
//!
//! | trait | factory | checks |
//! |---|---|---|
//! | [`CardRepository`] | [`StoreFactory`] | [`card_repository`] |
//! | [`UserRepository`](crate::host::UserRepository) | [`DirectoryFactory`] | [`user_repository`] |
//! | [`GoCardsProvider`](crate::host::GoCardsProvider) | [`BureauFactory`] | [`go_cards_provider`] |
//! | [`CertificateAuthority`](crate::host::CertificateAuthority) | [`CaFactory`] | [`certificate_authority`] |
//! | [`CardPersonalizer`](crate::host::CardPersonalizer) | [`PersonalizerFactory`] | [`card_personalizer`] |
//!
//! The checks ask for error variants and not only for errors, let eight callers race over handles of their own, drop all
//! handles and open the adapter again, and let time pass. What a factory cannot show or bring about is not checked: the more
//! it can, the more is sure.
//!
//! The kit is harmless on a shared database: it makes fresh ids from a seed, claims only its own jobs, gives back nothing
//! that others hold, and deletes nothing. It leaves what it has stored. One check, `feed_loses_nothing`, reads through the
//! feed of changes once, and so takes its time on a large database. In a directory it reads, and lets only users of its own
//! join and leave. At a bureau, a CA and a personalizer it leaves orders, revoked certificates and cards for tests: give it
//! those for tests.
//!
//! # Examples
//! The whole test file of a host with a store of its own, for which the store in memory stands here:
//!
//! ```
//! // tests/my_store.rs, with `cardwright = { version = "0.1", features = ["conformance"] }` below `[dev-dependencies]`
//! use std::{sync::Arc, time::Duration};
//!
//! use cardwright::adapters::memory::{ManualClock, MemoryRepository as MyStore};
//! use cardwright::conformance::{Call, Kit, StoreFactory, block_on, card_repository, on_threads};
//! use cardwright::host::CardRepository;
//!
//! struct Opened(ManualClock, MyStore);
//!
//! #[async_trait::async_trait]
//! impl StoreFactory for Opened {
//!     async fn open(&self) -> Arc<dyn CardRepository> { Arc::new(self.1.clone()) }
//!     async fn pass_time(&self, duration: Duration) { self.0.advance(duration) }
//!     async fn at_once(&self, calls: Vec<Call>) { on_threads(calls).await }
//! }
//!
//! # /* A test among the documentation's examples would not be run: it is called below instead.
//! #[test]
//! # */
//! fn my_store_keeps_every_clause() {
//!     let clock = ManualClock::new("2026-03-01T08:00:00Z".parse().unwrap());
//!     let store = MyStore::new(Arc::new(clock.clone()));
//!     block_on(card_repository::check_all(&Kit::new(&Opened(clock, store), uuid::Uuid::new_v4())));
//! }
//! # my_store_keeps_every_clause();
//! ```
//!
//! The modules of the other traits show theirs.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use async_trait::async_trait;
use futures::channel::oneshot;
use futures::future::BoxFuture;
use uuid::Uuid;

use self::card_personalizer::PersonalizerFactory;
use self::certificate_authority::CaFactory;
use self::go_cards_provider::BureauFactory;
use self::user_repository::DirectoryFactory;
use crate::host::CardRepository;

/// The list of a contract's clauses, and the functions that check one or all of them.
macro_rules! clauses {
    ($factory:ty, $subject:literal, $contract:literal; $($clause:ident),* $(,)?) => {
        /// The names of all clauses, in the order of the contract.
        pub fn clauses() -> Vec<&'static str> {
            vec![$(stringify!($clause)),*]
        }

        /// Checks the clause with this name, for hosts that make one test of each.
        ///
        /// # Panics
        #[doc = concat!("If ", $subject, " does not keep the clause, or if there is no such clause.")]
        pub async fn check(kit: &Kit<'_, $factory>, clause: &str) {
            match clause {
                $(stringify!($clause) => $clause(kit).await,)*
                _ => panic!("{clause:?} is no clause of the contract of a {}", $contract),
            }
        }

        /// Checks all clauses, one after the other.
        ///
        /// # Panics
        #[doc = concat!("At the first clause that ", $subject, " does not keep.")]
        pub async fn check_all(kit: &Kit<'_, $factory>) {
            $($clause(kit).await;)*
        }
    };
}

pub mod card_personalizer;
pub mod card_repository;
pub mod certificate_authority;
pub mod go_cards_provider;
pub mod user_repository;

/// One of several calls that run at once.
pub type Call = BoxFuture<'static, ()>;

/// Opens the store under test.
///
/// The store may hold other data, and others may use it meanwhile. Its clock must show a time between the years 2002
/// and 2900.
#[async_trait]
pub trait StoreFactory: Send + Sync {
    /// A new handle onto the store, as independent of the others as handles in production are: another connection, another
    /// pool. All handles see the same data, also those that were opened after all others were dropped.
    async fn open(&self) -> Arc<dyn CardRepository>;

    /// Lets time pass by the store's clock: moves it on, or waits.
    async fn pass_time(&self, duration: Duration);

    /// Runs these calls at once, as concurrently as can be, and returns when all have ended. A panic of one is a panic of
    /// this. For a store that needs no runtime, [`on_threads`] does it; otherwise each is a task of that runtime.
    async fn at_once(&self, calls: Vec<Call>);
}

/// Runs each call to its end on a thread of its own: a ready [`StoreFactory::at_once`] for stores that need no runtime.
///
/// # Panics
/// If one of the calls panics, with the message of that one.
pub async fn on_threads(calls: Vec<Call>) {
    let running: Vec<_> = calls
        .into_iter()
        .map(|call| {
            let (ended, end) = oneshot::channel::<()>();
            let thread = thread::spawn(move || {
                // Also a panic drops it, and so tells the end.
                let _ended = ended;
                block_on(call);
            });
            (thread, end)
        })
        .collect();
    for (thread, end) in running {
        let _: Result<(), oneshot::Canceled> = end.await;
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Runs a future to its end on this thread, for stores that need no runtime.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// What a check works with: the factory of what is under test, and a seed for ids of its own.
///
/// [`new`](Self::new) makes one for a store, [`of_directory`](Self::of_directory) for a directory, [`of_bureau`](Self::of_bureau)
/// for a bureau, [`of_ca`](Self::of_ca) for a CA, [`of_personalizer`](Self::of_personalizer) for a personalizer.
pub struct Kit<'a, F: ?Sized = dyn StoreFactory> {
    factory: &'a F,
    seed: Uuid,
    drawn: AtomicU64,
    lease: Duration,
}

impl<F: ?Sized> fmt::Debug for Kit<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kit").field("seed", &self.seed).field("lease", &self.lease).finish_non_exhaustive()
    }
}

impl<'a> Kit<'a> {
    /// A kit for a store, whose ids all derive from the seed. On a store that keeps its data, each kit needs another seed,
    /// such as a random one.
    pub fn new(factory: &'a (dyn StoreFactory + 'static), seed: Uuid) -> Self {
        Self::with(factory, seed)
    }

    /// The same with another length for the leases that the checks let pass. For a store whose clock cannot be moved, a
    /// few seconds are a good one; the default is a minute.
    #[must_use]
    pub const fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// A part of a lease, in quarters.
    fn quarters(&self, quarters: u32) -> Duration {
        self.lease / 4 * quarters
    }

    async fn pass_time(&self, duration: Duration) {
        self.factory.pass_time(duration).await;
    }

    /// Runs all at once and gives what they gave, in the order in which they ended.
    async fn at_once<T: Send + 'static>(&self, calls: Vec<BoxFuture<'static, T>>) -> Vec<T> {
        gather(calls, |calls| self.factory.at_once(calls)).await
    }
}

impl<'a> Kit<'a, dyn DirectoryFactory> {
    /// A kit for a directory. The users that it lets join have ids that derive from the seed: each kit needs another seed,
    /// such as a random one.
    pub fn of_directory(factory: &'a (dyn DirectoryFactory + 'static), seed: Uuid) -> Self {
        Self::with(factory, seed)
    }
}

impl<'a> Kit<'a, dyn BureauFactory> {
    /// A kit for a provider, whose references all derive from the seed: each kit needs another seed, such as a random one.
    pub fn of_bureau(factory: &'a (dyn BureauFactory + 'static), seed: Uuid) -> Self {
        Self::with(factory, seed)
    }
}

impl<'a> Kit<'a, dyn CaFactory> {
    /// A kit for a CA, whose keys all derive from the seed: each kit needs another seed, such as a random one.
    pub fn of_ca(factory: &'a (dyn CaFactory + 'static), seed: Uuid) -> Self {
        Self::with(factory, seed)
    }
}

impl<'a> Kit<'a, dyn PersonalizerFactory> {
    /// A kit for a personalizer, whose references and cards all derive from the seed: each kit needs another seed, such as a
    /// random one.
    pub fn of_personalizer(factory: &'a (dyn PersonalizerFactory + 'static), seed: Uuid) -> Self {
        Self::with(factory, seed)
    }
}

impl<'a, F: ?Sized> Kit<'a, F> {
    fn with(factory: &'a F, seed: Uuid) -> Self {
        Self { factory, seed, drawn: AtomicU64::new(0), lease: Duration::from_secs(60) }
    }

    /// An id that no other call gives.
    fn id(&self) -> Uuid {
        let place = self.drawn.fetch_add(1, Ordering::Relaxed);
        Uuid::new_v5(&self.seed, &place.to_be_bytes())
    }
}

/// Runs all in the factory's way and gives what they gave, in the order in which they ended.
async fn gather<T: Send + 'static, R: Future<Output = ()> + Send>(
    calls: Vec<BoxFuture<'static, T>>,
    run: impl FnOnce(Vec<Call>) -> R + Send,
) -> Vec<T> {
    let count = calls.len();
    let results = Arc::new(Mutex::new(Vec::with_capacity(count)));
    let calls = calls
        .into_iter()
        .map(|call| {
            let results = Arc::clone(&results);
            let call: Call = Box::pin(async move {
                let result = call.await;
                results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
            });
            call
        })
        .collect();
    run(calls).await;
    let results = std::mem::take(&mut *results.lock().unwrap_or_else(PoisonError::into_inner));
    assert_eq!(results.len(), count, "the factory's `at_once` must run every call to its end");
    results
}
