//! The host's pool, and connections of it that one call leaves for the next.
//!
//! A pool asks the server for a sign of life whenever it gives a connection or gets one back, and gives next the one that has rested
//! longest. An engine makes one call after the other: each would cost two ways more, and go to a process of the server that has to
//! find its plans and pages first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool, Postgres};
use tokio::runtime::{self, Handle};
use tokio::task::JoinHandle;

/// For how long a connection waits for the next call, and how often those that have waited longer are given back to the pool.
const WAITING: Duration = Duration::from_millis(20);

/// For how long it goes from call to call in all: then the pool looks whether it is too old.
const KEPT: Duration = Duration::from_secs(1);

/// A connection of the pool, which gets it back wherever this is dropped: whoever drops it need not be within the runtime.
pub(super) struct Held {
    /// There until it is dropped.
    connection: Option<PoolConnection<Postgres>>,
    since: Instant,
    pub(super) runtime: Handle,
}

impl Held {
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("it is there until it is dropped")
    }

    /// Ends it, and with it all that was begun on it.
    pub(super) fn close(mut self) {
        if let Some(connection) = &mut self.connection {
            connection.close_on_drop();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The pool has a task see to it.
        let _entered = self.runtime.enter();
        drop(self.connection.take());
    }
}

/// The pool and what of it is at hand.
pub(super) struct Connections {
    pool: PgPool,
    at_hand: Mutex<AtHand>,
}

#[derive(Default)]
struct AtHand {
    /// Each with when it was left; the last one is taken first.
    left: Vec<(Held, Instant)>,
    /// The runtime that all of them are of, and its task that gives back what nobody takes.
    sweeping: Option<(runtime::Id, JoinHandle<()>)>,
}

impl AtHand {
    /// The runtime of those that are left, as long as it sweeps.
    fn runtime(&self) -> Option<runtime::Id> {
        self.sweeping.as_ref().filter(|(_, task)| !task.is_finished()).map(|(id, _)| *id)
    }
}

impl Connections {
    pub(super) fn of(pool: PgPool) -> Arc<Self> {
        Arc::new(Self { pool, at_hand: Mutex::default() })
    }

    /// One that was left a moment ago, or one of the pool.
    pub(super) async fn get(&self) -> sqlx::Result<Held> {
        let runtime = Handle::current();
        // One that was left longer ago may be broken meanwhile: the pool looks.
        match self.last_left(&runtime).filter(|(_, at)| at.elapsed() < WAITING) {
            Some((held, _)) => Ok(held),
            None => Ok(Held { connection: Some(self.pool.acquire().await?), since: Instant::now(), runtime }),
        }
    }

    fn last_left(&self, runtime: &Handle) -> Option<(Held, Instant)> {
        let mut at_hand = self.at_hand();
        // What a runtime that stands still or has ended would have to wake is of no use to another.
        if self.pool.is_closed() || at_hand.runtime() != Some(runtime.id()) { None } else { at_hand.left.pop() }
    }

    /// Leaves one on which nothing is begun for the next call, unless others may wait for it.
    pub(super) fn leave(self: &Arc<Self>, held: Held) {
        let is_spare = self.pool.size() < self.pool.options().get_max_connections() || self.pool.num_idle() > 0;
        if !is_spare || self.pool.is_closed() || held.since.elapsed() >= KEPT {
            return;
        }
        if self.at_hand().runtime().is_none() {
            // Not while that is locked: on a runtime that has ended, the task ends here and now.
            let task = held.runtime.spawn(Swept(Arc::clone(self)).sweep());
            let mut at_hand = self.at_hand();
            if at_hand.runtime().is_none() {
                at_hand.sweeping = Some((held.runtime.id(), task));
            }
        }
        let mut at_hand = self.at_hand();
        if at_hand.runtime() == Some(held.runtime.id()) {
            at_hand.left.push((held, Instant::now()));
        }
    }

    fn at_hand(&self) -> MutexGuard<'_, AtHand> {
        self.at_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives back what nobody takes; all of it when it ends, as it does with its runtime.
struct Swept(Arc<Connections>);

impl Swept {
    async fn sweep(self) {
        loop {
            tokio::time::sleep(WAITING).await;
            let (overdue, is_over) = {
                let mut at_hand = self.0.at_hand();
                let count = at_hand.left.partition_point(|(_, at)| at.elapsed() >= WAITING);
                let overdue: Vec<_> = at_hand.left.drain(..count).collect();
                let is_over = at_hand.left.is_empty();
                if is_over {
                    // Whoever leaves one from now on has another begin.
                    at_hand.sweeping = None;
                }
                (overdue, is_over)
            };
            drop(overdue);
            if is_over {
                return;
            }
        }
    }
}

impl Drop for Swept {
    fn drop(&mut self) {
        let left = std::mem::take(&mut self.0.at_hand().left);
        drop(left);
    }
}
