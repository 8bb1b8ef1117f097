use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound as _, Utc};

/// Tells the time and waits.
///
/// # Contract
/// - **`now_is_utc`**: [`now`](Self::now) is the time in UTC. It may jump; nothing depends on it for safety.
/// - **`sleep_waits`**: [`sleep`](Self::sleep) is done when this clock has moved on by at least the duration.
///
/// # Not required
/// A runtime: the ready [`SystemClock`] waits on a thread of its own.
///
/// # Cancellation
/// A dropped sleep is forgotten.
///
/// # Errors
/// None.
#[async_trait]
pub trait Clock: Send + Sync + 'static {
    /// The time now, to the microsecond.
    fn now(&self) -> DateTime<Utc>;

    /// Waits.
    async fn sleep(&self, duration: Duration) -> ();
}

forward!(Clock {
    fn now(&self) -> DateTime<Utc>;
    async fn sleep(&self, duration: Duration) -> ();
});

/// The clock of the machine. Waits on one thread shared by all sleepers, so that it works under any runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place where the machine's clock is read")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }

    async fn sleep(&self, duration: Duration) {
        timer::wait(duration).await;
    }
}

/// One thread that wakes all sleepers.
mod timer {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;
    use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
    use std::sync::{LazyLock, Mutex, PoisonError};
    use std::time::{Duration, Instant};

    use futures::channel::oneshot;

    type Alarm = (Instant, oneshot::Sender<()>);

    static ALARMS: LazyLock<Mutex<Sender<Alarm>>> = LazyLock::new(|| {
        let (sender, receiver) = channel::<Alarm>();
        // Without the thread, sleepers are woken at once: a time-out then comes early, which is safe.
        let _ = std::thread::Builder::new().name("cardwright-timer".to_owned()).spawn(move || {
            let mut order = BinaryHeap::new();
            let mut sleepers = std::collections::BTreeMap::new();
            for count in 0_u64.. {
                let next = order.peek().map(|Reverse((at, _)): &Reverse<(Instant, u64)>| *at);
                let arrived = match next {
                    Some(at) => receiver.recv_timeout(at.saturating_duration_since(Instant::now())),
                    None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
                };
                match arrived {
                    Ok((at, sender)) => {
                        order.push(Reverse((at, count)));
                        sleepers.insert(count, sender);
                    }
                    Err(RecvTimeoutError::Timeout) => {
                        if let Some(Reverse((_, id))) = order.pop()
                            && let Some(sender) = sleepers.remove(&id)
                        {
                            let _: Result<(), ()> = sender.send(());
                        }
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        });
        Mutex::new(sender)
    });

    pub(super) async fn wait(duration: Duration) {
        let (sender, receiver) = oneshot::channel();
        let Some(at) = Instant::now().checked_add(duration) else {
            return std::future::pending().await;
        };
        let sent = ALARMS.lock().unwrap_or_else(PoisonError::into_inner).send((at, sender));
        if sent.is_ok() {
            let _: Result<(), oneshot::Canceled> = receiver.await;
        }
    }
}
