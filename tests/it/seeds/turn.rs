//! The gate of the simulator: every call yields before it is made and before its answer is seen, so that anything may happen in
//! between. It also lets workers stand still or die right there, and keeps count of what went wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use crate::eavesdropping::Seeded;
use crate::gate::Porter;

const MINUTE: u64 = 60;

/// What is to become of the task that is at work.
pub(super) enum Wish {
    /// It stands still for so long, like a machine that is suspended; while the others do so many steps.
    Pause(Duration, u64),
    /// Its engine dies, with all that it was doing.
    Crash,
}

/// Who stands at the gates of one world. A clone with another name stands at another gate.
#[derive(Clone)]
pub(super) struct Turn {
    gate: &'static str,
    desk: Arc<Mutex<Desk>>,
}

pub(super) struct Desk {
    dice: Seeded,
    /// Nothing goes wrong any more.
    pub(super) calm: bool,
    pub(super) wish: Option<Wish>,
    /// What went wrong, how often.
    pub(super) faults: BTreeMap<String, u64>,
    pub(super) commits: u64,
    digest: DefaultHasher,
    /// What happened, in words, if anybody wants to read it.
    pub(super) trace: Option<Vec<String>>,
}

impl Turn {
    pub(super) fn new(seed: u64, traced: bool) -> Self {
        let desk = Desk {
            dice: Seeded::new(seed),
            calm: false,
            wish: None,
            faults: BTreeMap::new(),
            commits: 0,
            digest: DefaultHasher::new(),
            trace: traced.then(Vec::new),
        };
        Self { gate: "", desk: Arc::new(Mutex::new(desk)) }
    }

    /// The same at this gate.
    pub(super) fn at(&self, gate: &'static str) -> Self {
        Self { gate, desk: Arc::clone(&self.desk) }
    }

    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().expect("nothing panics while it is held")
    }
}

impl Desk {
    /// Everything that happens is told here: it makes the digest of the events.
    pub(super) fn tell(&mut self, what: impl FnOnce() -> String) {
        let what = what();
        what.hash(&mut self.digest);
        if let Some(trace) = &mut self.trace {
            trace.push(what);
        }
    }

    pub(super) fn count(&mut self, fault: impl Into<String>) {
        *self.faults.entry(fault.into()).or_default() += 1;
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest.finish()
    }

    /// Whether and how the caller is stopped in its tracks at this call.
    fn strike(&mut self, gate: &str, call: &str) {
        if self.calm {
            return;
        }
        let dear = gate != "store" && ["place", "prepare", "finish", "issue"].contains(&call);
        let roll = self.dice.next() % 1000;
        let (crash, long, short) = if dear { (15, 85, 100) } else { (1, 2, 6) };
        self.wish = if roll < crash {
            Some(Wish::Crash)
        } else if roll < long {
            let steps = 50 + self.dice.next() % 300;
            Some(Wish::Pause(Duration::from_secs(6 * MINUTE + self.dice.next() % (15 * MINUTE)), steps))
        } else if roll < short {
            Some(Wish::Pause(Duration::from_secs(1 + self.dice.next() % MINUTE), 0))
        } else {
            return;
        };
    }
}

/// A call that has no answer yet.
pub(super) struct Passing {
    turn: Turn,
    call: &'static str,
    answered: bool,
}

impl Drop for Passing {
    fn drop(&mut self) {
        if !self.answered && self.turn.gate != "store" {
            let Self { turn, call, .. } = self;
            let mut desk = turn.desk();
            desk.count(format!("{} {call}: nobody waited for the answer", turn.gate));
            desk.tell(|| format!("    {} {call} was given up", turn.gate));
        }
    }
}

/// What an answer may say that is not what was hoped for.
const TROUBLE: [&str; 8] =
    ["Refused", "Unavailable", "RateLimited", "Unknown", "Pending", "Spoiled", "NotFound", "Conflicts"];

impl Porter for Turn {
    type Passing = Passing;

    async fn before(&self, call: &'static str) -> Passing {
        self.desk().strike(self.gate, call);
        let passing = Passing { turn: self.clone(), call, answered: false };
        yield_once().await;
        passing
    }

    async fn after(&self, mut passing: Passing, answer: &(dyn fmt::Debug + Sync)) {
        passing.answered = true;
        let call = passing.call;
        let told = match self.gate {
            "store" if call == "commit" => true,
            "store" | "users" => false,
            _ => true,
        };
        if told {
            let answer = format!("{answer:?}");
            let mut desk = self.desk();
            desk.commits += u64::from(call == "commit" && answer == "Ok(())");
            for trouble in TROUBLE {
                for _ in 0..answer.matches(trouble).count() {
                    desk.count(format!("{} {call}: {trouble}", self.gate));
                }
            }
            desk.tell(|| format!("    {} {call}: {answer}", self.gate));
            desk.strike(self.gate, call);
        }
        yield_once().await;
    }
}

async fn yield_once() {
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
