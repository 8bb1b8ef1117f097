use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};

use super::{later, lock};
use crate::host::Clock;

/// A clock whose time moves only when it is told to. Clones share one time.
///
/// A sleep begins when it is first polled, and is done when the time has been moved past its end.
#[derive(Clone)]
pub struct SimulatedClock {
    time: Arc<Mutex<Time>>,
}

struct Time {
    now: DateTime<Utc>,
    auto: bool,
    count: u64,
    sleepers: BTreeMap<Alarm, Waker>,
}

/// When a sleep is over; the number keeps those of one moment in the order in which they began.
type Alarm = (DateTime<Utc>, u64);

impl SimulatedClock {
    /// A clock that stands still at this time.
    pub fn new(start: DateTime<Utc>) -> Self {
        let time = Time { now: start, auto: false, count: 0, sleepers: BTreeMap::new() };
        Self { time: Arc::new(Mutex::new(time)) }
    }

    /// From now on, a sleep moves the time by itself, for all clones of this clock: nobody has to call
    /// [`advance`](Self::advance).
    ///
    /// Where several sleep at once, such as a late answer and the time-out that waits for it, the one that ends first
    /// goes first: a sleep moves the time when it is polled for the second time and no other ends before it. A sleep
    /// that is kept but no longer polled therefore holds up the later ones.
    #[must_use]
    pub fn auto(self) -> Self {
        let wakers = {
            let mut time = self.lock();
            time.auto = true;
            time.next_waker()
        };
        wake(wakers);
        self
    }

    /// Moves the time on, and wakes the sleeps that are over then, first ended first.
    pub fn advance(&self, by: Duration) {
        let wakers = {
            let mut time = self.lock();
            let to = later(time.now, by);
            time.pass(to)
        };
        wake(wakers);
    }

    /// Moves the time on to the end of the next sleep. `false` if nobody sleeps; the time stays then.
    pub fn advance_to_next(&self) -> bool {
        let wakers = {
            let mut time = self.lock();
            let Some((&(at, _), _)) = time.sleepers.first_key_value() else { return false };
            time.pass(at)
        };
        wake(wakers);
        true
    }

    /// How many sleep.
    pub fn sleepers(&self) -> usize {
        self.lock().sleepers.len()
    }

    fn lock(&self) -> MutexGuard<'_, Time> {
        lock(&self.time)
    }
}

impl fmt::Debug for SimulatedClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.lock();
        f.debug_struct("SimulatedClock")
            .field("now", &time.now)
            .field("auto", &time.auto)
            .field("sleepers", &time.sleepers.len())
            .finish()
    }
}

#[async_trait]
impl Clock for SimulatedClock {
    fn now(&self) -> DateTime<Utc> {
        self.lock().now.trunc_subsecs(6)
    }

    async fn sleep(&self, duration: Duration) {
        Sleep { clock: self, duration, alarm: None }.await;
    }
}

impl Time {
    /// Moves on and gives those to wake, in order.
    fn pass(&mut self, to: DateTime<Utc>) -> Vec<Waker> {
        self.now = self.now.max(to);
        let mut wakers = Vec::new();
        while let Some(entry) = self.sleepers.first_entry()
            && entry.key().0 <= self.now
        {
            wakers.push(entry.remove());
        }
        wakers.extend(self.next_waker());
        wakers
    }

    /// Where sleeps move the time, the next one must know that it is its turn.
    fn next_waker(&self) -> Option<Waker> {
        self.sleepers.first_key_value().filter(|_| self.auto).map(|(_, waker)| waker.clone())
    }
}

struct Sleep<'a> {
    clock: &'a SimulatedClock,
    duration: Duration,
    alarm: Option<Alarm>,
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let clock = self.clock;
        let mut time = clock.lock();
        let begins = self.alarm.is_none();
        let alarm = match self.alarm {
            Some(alarm) => alarm,
            None => {
                // A time beyond what a clock can show never comes.
                let at = TimeDelta::from_std(self.duration).ok().and_then(|by| time.now.checked_add_signed(by));
                let Some(at) = at else { return Poll::Pending };
                time.count += 1;
                *self.alarm.insert((at, time.count))
            }
        };
        if alarm.0 <= time.now {
            return Poll::Ready(());
        }
        time.sleepers.insert(alarm, context.waker().clone());
        if !time.auto {
            return Poll::Pending;
        }
        if begins {
            drop(time);
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if time.sleepers.first_key_value().is_some_and(|(first, _)| *first != alarm) {
            return Poll::Pending;
        }
        time.sleepers.remove(&alarm);
        let wakers = time.pass(alarm.0);
        drop(time);
        wake(wakers);
        Poll::Ready(())
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        let waker = {
            let mut time = self.clock.lock();
            let slept = self.alarm.and_then(|alarm| time.sleepers.remove(&alarm));
            slept.and_then(|_| time.next_waker())
        };
        wake(waker);
    }
}

/// Called without the lock: a waker may run anything.
fn wake(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}
