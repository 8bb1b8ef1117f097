//! The kit with which hosts test their own adapters: one check for each clause of a contract.
//!
//! A host says with a [`StoreFactory`] how its store is opened, and runs [`check_all`](card_repository::check_all), or
//! each of [`clauses`](card_repository::clauses) as a test of its own. A check panics where a clause is not kept.
//!
//! The kit is harmless on a shared database: it makes fresh ids from a seed, claims only its own jobs, gives back nothing
//! that others hold, and deletes nothing. It leaves what it has stored. One check, `feed_loses_nothing`, reads through the
//! feed of changes once, and so takes its time on a large database.
//!
//! # Examples
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use cardwright::adapters::memory::{ManualClock, MemoryRepository};
//! use cardwright::conformance::{Call, Kit, StoreFactory, block_on, card_repository, on_threads};
//! use cardwright::host::CardRepository;
//!
//! struct InMemory {
//!     clock: ManualClock,
//!     store: MemoryRepository,
//! }
//!
//! #[async_trait::async_trait]
//! impl StoreFactory for InMemory {
//!     async fn open(&self) -> Arc<dyn CardRepository> {
//!         Arc::new(self.store.clone())
//!     }
//!
//!     async fn pass_time(&self, duration: Duration) {
//!         self.clock.advance(duration);
//!     }
//!
//!     async fn at_once(&self, calls: Vec<Call>) {
//!         on_threads(calls).await;
//!     }
//! }
//!
//! let clock = ManualClock::new("2026-03-01T08:00:00Z".parse()?);
//! let store = MemoryRepository::new(Arc::new(clock.clone()));
//! let seed = uuid::Uuid::new_v4();
//! block_on(card_repository::check_all(&Kit::new(&InMemory { clock, store }, seed)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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

use crate::host::CardRepository;

pub mod card_repository;

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

/// What a check works with: the store's factory, and a seed for ids of its own.
pub struct Kit<'a> {
    factory: &'a dyn StoreFactory,
    seed: Uuid,
    drawn: AtomicU64,
    lease: Duration,
}

impl fmt::Debug for Kit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kit").field("seed", &self.seed).field("lease", &self.lease).finish_non_exhaustive()
    }
}

impl<'a> Kit<'a> {
    /// A kit whose ids all derive from the seed. On a store that keeps its data, each kit needs another seed, such as a
    /// random one.
    pub fn new(factory: &'a dyn StoreFactory, seed: Uuid) -> Self {
        Self { factory, seed, drawn: AtomicU64::new(0), lease: Duration::from_secs(60) }
    }

    /// The same with another length for the leases that the checks let pass. For a store whose clock cannot be moved, a
    /// few seconds are a good one; the default is a minute.
    #[must_use]
    pub const fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// An id that no other call gives.
    fn id(&self) -> Uuid {
        let place = self.drawn.fetch_add(1, Ordering::Relaxed);
        Uuid::new_v5(&self.seed, &place.to_be_bytes())
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
        self.factory.at_once(calls).await;
        let results = std::mem::take(&mut *results.lock().unwrap_or_else(PoisonError::into_inner));
        assert_eq!(results.len(), count, "StoreFactory::at_once must run every call to its end");
        results
    }
}
