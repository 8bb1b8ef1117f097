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

use super::problem::Problem;

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
    /// The runtime that all of them are of, as long as a task of it gives back what nobody takes.
    swept_by: Option<runtime::Id>,
}

impl Connections {
    pub(super) fn of(pool: PgPool) -> Arc<Self> {
        Arc::new(Self { pool, at_hand: Mutex::default() })
    }

    /// One that was left a moment ago, or one of the pool.
    pub(super) async fn get(&self) -> Result<Held, Problem> {
        let runtime = Handle::try_current().map_err(|_| Problem::NoRuntime)?;
        // One that was left longer ago may be broken meanwhile: the pool looks.
        match self.last_left(&runtime).filter(|(_, at)| at.elapsed() < WAITING) {
            Some((held, _)) => Ok(held),
            None => Ok(Held { connection: Some(self.pool.acquire().await?), since: Instant::now(), runtime }),
        }
    }

    fn last_left(&self, runtime: &Handle) -> Option<(Held, Instant)> {
        let mut at_hand = self.at_hand();
        // What a runtime that stands still or has ended would have to wake is of no use to another.
        if self.pool.is_closed() || at_hand.swept_by != Some(runtime.id()) { None } else { at_hand.left.pop() }
    }

    /// Leaves one on which nothing is begun for the next call, unless others may wait for it.
    pub(super) fn leave(self: &Arc<Self>, held: Held) {
        let is_spare = self.pool.size() < self.pool.options().get_max_connections() || self.pool.num_idle() > 0;
        if !is_spare || self.pool.is_closed() || held.since.elapsed() >= KEPT {
            return;
        }
        let runtime = held.runtime.clone();
        let mut at_hand = self.at_hand();
        let is_first = at_hand.swept_by.is_none();
        if *at_hand.swept_by.get_or_insert(runtime.id()) == runtime.id() {
            at_hand.left.push((held, Instant::now()));
        }
        drop(at_hand);
        if is_first {
            // On a runtime that has ended, it ends here and now.
            drop(runtime.spawn(Swept { connections: Arc::clone(self), is_over: false }.sweep()));
        }
    }

    fn at_hand(&self) -> MutexGuard<'_, AtHand> {
        self.at_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives back what nobody takes; all of it when its runtime ends.
struct Swept {
    connections: Arc<Connections>,
    /// Whether nothing is left.
    is_over: bool,
}

impl Swept {
    async fn sweep(mut self) {
        while !self.is_over {
            tokio::time::sleep(WAITING).await;
            let overdue: Vec<_> = {
                let mut at_hand = self.connections.at_hand();
                let count = at_hand.left.partition_point(|(_, at)| at.elapsed() >= WAITING);
                let overdue = at_hand.left.drain(..count).collect();
                if at_hand.left.is_empty() {
                    // Whoever leaves one from now on has another begin.
                    at_hand.swept_by = None;
                    self.is_over = true;
                }
                overdue
            };
            drop(overdue);
        }
    }
}

impl Drop for Swept {
    fn drop(&mut self) {
        if !self.is_over {
            let AtHand { left, .. } = std::mem::take(&mut *self.connections.at_hand());
            drop(left);
        }
    }
}
