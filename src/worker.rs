//! The background worker: runs what is to be done regularly, on one instance or on many.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::actor::Actor;
use crate::engine::{Engine, Interruption, Report};
use crate::error::{Error, with_causes};
use crate::host::Backlog;
use crate::id::SymbolicName;
use crate::process::{Answer, RegistryError};

/// Runs the background processes of an engine: the syncs, the sweep, and those of a host's own, each on its [`Schedule`].
///
/// Every process that is offered to the background service on a schedule is run: what is due is done at once, lane by lane; where
/// nothing is due, the worker waits. Where the outside does not want to be called, or the store is away, all lanes of that process
/// leave it alone, for longer each time. Waits are stretched or shortened a little at random, so that instances that were
/// started together do not go on calling together.
///
/// Any number of workers may run on one store, in any number of processes: each job is claimed by one of them. A worker that
/// dies loses nothing; what it had claimed is claimed by others when the lease ends.
///
/// ```
/// # use std::sync::Arc;
/// # use std::time::Duration;
/// # use cardwright::{Actor, ActorId, Engine, Role};
/// use cardwright::worker::{Schedule, Worker};
///
/// # async fn example(engine: Engine, shut_down: impl Future<Output = ()>) -> Result<(), cardwright::Error> {
/// let service = Actor::system(ActorId::new("worker").expect("a valid id"), [Role::BatchSync]);
/// let worker = Worker::new(Arc::new(engine), service)
///     .schedule("CardsAddonExtProdBatchSyncOrder", Schedule::jobs().lanes(4))?
///     .schedule("CardsBatchSyncOrphans", Schedule::sweep().every(Duration::from_secs(24 * 3600)))?;
/// worker.run(shut_down).await;
/// # Ok(())
/// # }
/// ```
pub struct Worker {
    engine: Arc<Engine>,
    actor: Actor,
    schedules: BTreeMap<SymbolicName, Schedule>,
    grace: Duration,
    tallies: Arc<Mutex<BTreeMap<SymbolicName, Tally>>>,
}

/// The shortest wait of a schedule, so that others have their turn.
const SHORTEST: Duration = Duration::from_millis(1);

/// The longest wait of a schedule.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// How much longer a wait becomes at most by chance.
const LONGER: f64 = 1.25;

/// How long a lane that came to its end waits until it is started again.
const RESTART: Duration = Duration::from_millis(100);

/// How a background process is run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    every: Duration,
    lanes: usize,
    per_minute: Option<NonZeroU32>,
    back_off: Duration,
    longest_back_off: Duration,
}

impl Schedule {
    /// For a process that does due jobs: looks for them every 5 s, in one lane, at any rate, and backs off from 5 s to 5 min.
    pub const fn jobs() -> Self {
        Self {
            every: Duration::from_secs(5),
            lanes: 1,
            per_minute: None,
            back_off: Duration::from_secs(5),
            longest_back_off: Duration::from_secs(300),
        }
    }

    /// For a process that goes through all there is: once an hour, and otherwise like [`jobs`](Self::jobs).
    pub const fn sweep() -> Self {
        Self { every: Duration::from_secs(3600), ..Self::jobs() }
    }

    /// How long to wait after a look that found nothing to do; after a run, for a process that does not do due jobs. 5 s for
    /// [`jobs`](Self::jobs), an hour for a [`sweep`](Self::sweep); from 1 ms to 365 days.
    #[must_use]
    pub fn every(self, every: Duration) -> Self {
        Self { every: every.clamp(SHORTEST, LONGEST), ..self }
    }

    /// How many runs of it go on at once on this worker, each with a chunk of its own; 1 by default. None leaves the process to
    /// other workers.
    #[must_use]
    pub const fn lanes(self, lanes: usize) -> Self {
        Self { lanes, ..self }
    }

    /// At most so many items a minute on this worker, at least 1; as many as there are by default. All jobs of the process count,
    /// its messages too.
    ///
    /// The wait comes after the chunk: what may come at once is a chunk ([`EngineSettings::chunk`](crate::EngineSettings::chunk)),
    /// and with several lanes a chunk for each.
    #[must_use]
    pub fn per_minute(self, items: u32) -> Self {
        Self { per_minute: Some(NonZeroU32::new(items).unwrap_or(NonZeroU32::MIN)), ..self }
    }

    /// How long to wait after the first time that the outside or the store would not, 5 s by default, doubled each time; and at
    /// longest, 5 min by default. Both from 1 ms to 365 days.
    #[must_use]
    pub fn back_off(self, first: Duration, longest: Duration) -> Self {
        let [back_off, longest_back_off] = [first, longest].map(|wait| wait.clamp(SHORTEST, LONGEST));
        Self { back_off, longest_back_off, ..self }
    }

    /// How long so many items take at this rate.
    fn takes(&self, items: u64) -> TimeDelta {
        let Some(per_minute) = self.per_minute else { return TimeDelta::zero() };
        let micros = items.saturating_mul(60_000_000) / u64::from(per_minute.get());
        delta(Duration::from_micros(micros).min(LONGEST))
    }
}

/// How a worker came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Everything that was begun is finished, and what else was claimed is released; if the store is away just then, its leases end.
    Finished,
    /// So many lanes were cut off when the grace was over. What they had claimed is claimed again when the leases end; what was being
    /// sent is looked for or in doubt then.
    CutOff(usize),
}

/// Figures of a worker and of the store it works on.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// How much is due and in doubt in the store, by kind of jobs, whoever is to do it.
    pub backlog: Vec<Backlog>,
    /// What this worker did, by process.
    pub processes: BTreeMap<SymbolicName, Figures>,
}

/// What a worker did with one process since it was made. Its items are jobs, and the messages that go with an order are jobs of the
/// process that sends the order; those of a sweep are what it looks through.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Figures {
    /// How many runs came to their end. A run of due jobs is a look and the chunk it found.
    pub runs: u64,
    /// How often the outside or the store would not.
    pub interrupted: u64,
    /// How many items are done.
    pub done: u64,
    /// How many had nothing new.
    pub unchanged: u64,
    /// How many ended in doubt.
    pub in_doubt: u64,
    /// How many were refused.
    pub refused: u64,
    /// How many items were dealt with in the last minute.
    pub last_minute: u64,
    /// Until when it is left alone after trouble.
    pub backs_off_until: Option<DateTime<Utc>>,
    /// What the last trouble was, in words; forgotten after a run without trouble.
    pub last_trouble: Option<String>,
}

impl Worker {
    /// A worker that acts as this actor, usually a service of role [`Role::BatchSync`](crate::Role::BatchSync).
    pub fn new(engine: Arc<Engine>, actor: Actor) -> Self {
        let mut schedules = BTreeMap::new();
        for definition in engine.definitions().filter(|definition| definition.is_background()) {
            let schedule = if definition.jobs.is_empty() { Schedule::sweep() } else { Schedule::jobs() };
            schedules.insert(definition.name.clone(), schedule);
        }
        let tallies = schedules.keys().map(|name| (name.clone(), Tally::default())).collect();
        Self { engine, actor, schedules, grace: Duration::from_secs(60), tallies: Arc::new(Mutex::new(tallies)) }
    }

    /// Runs a background process on another schedule.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::NotBackground`].
    pub fn schedule(mut self, process: &str, schedule: Schedule) -> Result<Self, RegistryError> {
        let name = self.engine.background(process)?.name.clone();
        self.schedules.insert(name, schedule);
        Ok(self)
    }

    /// How long [`run`](Self::run) waits for what was begun once it is to stop; a minute by default. A call to the outside
    /// should fit in, and a chunk of a sweep.
    #[must_use]
    pub fn grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// A handle to the figures of this worker.
    pub fn watch(&self) -> Watch {
        Watch { engine: Arc::clone(&self.engine), tallies: Arc::clone(&self.tallies) }
    }

    /// Works until `stop` is ready; then finishes the calls at hand and releases what else was claimed. Dropped, it stops at once,
    /// as if it had been killed.
    ///
    /// Runs on the tokio runtime it is called on, which needs its timers enabled, each lane as a task of its own. What goes wrong is
    /// in the [figures](Self::watch) and in the log, and is tried again.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn run(&self, stop: impl Future<Output = ()>) -> Stopped {
        let (stopping, stopped) = watch::channel(false);
        let mut lanes = JoinSet::new();
        for (name, schedule) in &self.schedules {
            for _ in 0..schedule.lanes {
                let (lane, mut stopped) = (self.lane(name), stopped.clone());
                lanes.spawn(async move {
                    while AssertUnwindSafe(lane.work(&mut stopped)).catch_unwind().await.is_err() {
                        tracing::error!(process = %lane.process, "a lane came to its end and is started again");
                        tokio::time::sleep(RESTART).await;
                    }
                });
            }
        }
        stop.await;
        stopping.send_replace(true);
        let all = async { while lanes.join_next().await.is_some() {} };
        if tokio::time::timeout(self.grace, all).await.is_ok() {
            return Stopped::Finished;
        }
        let left = lanes.len();
        lanes.shutdown().await;
        Stopped::CutOff(left)
    }

    /// Runs each process once, until nothing is due any more, and gives what became of those lanes that did something or were broken
    /// off: the report, which says so if the run was, or why no run could be opened. A process that is switched off has nothing to do.
    ///
    /// # Panics
    /// Outside a tokio runtime; and where a process of the host's panics, once all others are done.
    pub async fn run_once(&self) -> Vec<(SymbolicName, Result<Report, Error>)> {
        let mut told = Vec::new();
        let mut panicked = None;
        for (name, schedule) in &self.schedules {
            let mut lanes = JoinSet::new();
            for _ in 0..schedule.lanes {
                let lane = self.lane(name);
                lanes.spawn(async move {
                    let (_going, mut stopped) = watch::channel(false);
                    lane.run(true, &mut stopped).await
                });
            }
            while let Some(joined) = lanes.join_next().await {
                match joined {
                    Ok(Ok(Some(report))) if report.items > 0 || report.interrupted.is_some() => {
                        told.push((name.clone(), Ok(report)));
                    }
                    Ok(Ok(_) | Err(Error::Disabled { .. })) => {}
                    Ok(Err(error)) => told.push((name.clone(), Err(error))),
                    Err(error) if error.is_panic() => panicked = Some(error.into_panic()),
                    Err(_) => {}
                }
            }
        }
        match panicked {
            Some(panic) => std::panic::resume_unwind(panic),
            None => told,
        }
    }

    fn lane(&self, process: &SymbolicName) -> Lane {
        Lane {
            engine: Arc::clone(&self.engine),
            actor: self.actor.clone(),
            process: process.clone(),
            does_jobs: self.engine.background(process.as_str()).is_ok_and(|definition| !definition.jobs.is_empty()),
            schedule: self.schedules.get(process).copied().unwrap_or(Schedule::jobs()),
            tallies: Arc::clone(&self.tallies),
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("actor", &self.actor)
            .field("schedules", &self.schedules)
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}

/// Tells the figures of a worker, also while it runs.
#[derive(Clone)]
pub struct Watch {
    engine: Arc<Engine>,
    tallies: Arc<Mutex<BTreeMap<SymbolicName, Tally>>>,
}

impl Watch {
    /// The figures now. Reads the store once, by an index; half a minute between two looks is often enough.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn health(&self) -> Result<Health, Error> {
        let backlog = self.engine.backlog(None).await?;
        Ok(Health { backlog, processes: self.processes() })
    }

    /// What this worker did, by process, without a look at the store.
    pub fn processes(&self) -> BTreeMap<SymbolicName, Figures> {
        let mut tallies = lock(&self.tallies);
        let now = self.engine.now();
        tallies.iter_mut().map(|(name, tally)| (name.clone(), tally.figures(now))).collect()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("processes", &self.processes()).finish_non_exhaustive()
    }
}

/// What all lanes of one process share.
#[derive(Debug, Default)]
struct Tally {
    figures: Figures,
    /// How often in a row there was trouble.
    setbacks: u32,
    /// Before then, the rate does not allow for a further chunk.
    free_at: Option<DateTime<Utc>>,
    /// What was dealt with and when, for the last minute.
    recent: VecDeque<(DateTime<Utc>, u64)>,
}

impl Tally {
    fn figures(&mut self, now: DateTime<Utc>) -> Figures {
        self.forget(now);
        let last_minute = self.recent.iter().map(|(_, items)| items).sum();
        let backs_off_until = self.figures.backs_off_until.filter(|until| *until > now);
        Figures { last_minute, backs_off_until, ..self.figures.clone() }
    }

    /// Forgets what is not of the last minute, also what a clock that was ahead put down.
    fn forget(&mut self, now: DateTime<Utc>) {
        while self.recent.front().is_some_and(|(at, _)| *at <= now - TimeDelta::minutes(1) || *at > now) {
            self.recent.pop_front();
        }
    }

    /// Counts the chunk between these two reports of a run.
    fn dealt_with(&mut self, before: &Report, after: &Report, schedule: &Schedule, now: DateTime<Utc>) {
        let items = after.items - before.items;
        self.forget(now);
        if items > 0 {
            self.recent.push_back((now, items));
            self.free_at = self.free_at.max(Some(now)).and_then(|from| from.checked_add_signed(schedule.takes(items)));
        }
        let figures = &mut self.figures;
        figures.done += after.done_in_all() - before.done_in_all();
        figures.unchanged += after.unchanged - before.unchanged;
        figures.in_doubt += after.in_doubt - before.in_doubt;
        figures.refused += after.refused_in_all() - before.refused_in_all();
    }

    /// Leaves it alone for a while; for longer, if it was over and the trouble was not.
    fn trouble(&mut self, words: String, schedule: &Schedule, now: DateTime<Utc>) {
        self.figures.interrupted += 1;
        self.figures.last_trouble = Some(words);
        if self.figures.backs_off_until.is_none_or(|until| until <= now) {
            let wait = schedule.back_off.saturating_mul(1 << self.setbacks.min(20)).min(schedule.longest_back_off);
            self.setbacks = self.setbacks.saturating_add(1);
            self.figures.backs_off_until = now.checked_add_signed(delta(jittered(wait)));
        }
    }

    /// How long it is still left alone.
    fn back_off(&mut self, schedule: &Schedule, now: DateTime<Utc>) -> Duration {
        let longest = delta(schedule.longest_back_off.mul_f64(LONGER));
        wait(&mut self.figures.backs_off_until, longest, now)
    }

    /// How long the rate does not allow for a further chunk; at longest, for what all lanes may have done at once.
    fn rate(&mut self, schedule: &Schedule, chunk: u64, now: DateTime<Utc>) -> Duration {
        wait(&mut self.free_at, schedule.takes(chunk.saturating_mul(schedule.lanes as u64)), now)
    }

    /// A run that began then had no trouble: what trouble there was before is over.
    fn went_well(&mut self, began: DateTime<Utc>) {
        if self.figures.backs_off_until.is_none_or(|until| until <= began) {
            self.setbacks = 0;
            self.figures.backs_off_until = None;
            self.figures.last_trouble = None;
        }
    }
}

/// One of the runs of a process that go on at once.
struct Lane {
    engine: Arc<Engine>,
    actor: Actor,
    process: SymbolicName,
    does_jobs: bool,
    schedule: Schedule,
    tallies: Arc<Mutex<BTreeMap<SymbolicName, Tally>>>,
}

impl Lane {
    /// Works until it is to stop.
    async fn work(&self, stopped: &mut watch::Receiver<bool>) {
        loop {
            self.wait_for_turn(true, stopped).await;
            if *stopped.borrow() {
                return;
            }
            let mut pause = jittered(self.schedule.every);
            // A process of the host's that panics spoils its run, not the worker.
            match AssertUnwindSafe(self.run(!self.does_jobs, stopped)).catch_unwind().await {
                // What came due meanwhile is done at once. What is refused stays due and waits.
                Ok(Ok(Some(report))) if self.does_jobs && report.items > report.refused_in_all() => {
                    pause = Duration::ZERO;
                }
                // Switched off: until an administrator switches it on again.
                Ok(Ok(_) | Err(Error::Disabled { .. })) => {}
                Ok(Err(error)) => self.trouble(with_causes(&error)),
                Err(_) => self.trouble("it panicked".to_owned()),
            }
            self.wait(pause, stopped).await;
        }
    }

    /// A whole run, or one chunk of due jobs: what an administrator changes counts from the next run on. Where there is trouble
    /// with some jobs, the others are done as long as that is left alone. `None` if it was not begun, since it is to stop.
    async fn run(&self, whole: bool, stopped: &mut watch::Receiver<bool>) -> Result<Option<Report>, Error> {
        self.wait_for_turn(false, stopped).await;
        if *stopped.borrow() {
            return Ok(None);
        }
        let began = self.engine.now();
        let run = self.engine.open(self.process.as_str(), &self.actor).await?;
        let mut execution = self.engine.next(&run, Answer::new()).await?;
        let stop = execution.stop_handle();
        let mut had_trouble = false;
        loop {
            let before = execution.report().clone();
            let ended = {
                let mut chunk = pin!(execution.next_chunk());
                tokio::select! {
                    biased;
                    outcomes = &mut chunk => outcomes,
                    () = is_to_stop(stopped) => {
                        stop.stop();
                        chunk.await
                    }
                }
            }?
            .is_none();
            self.with(|tally, now| tally.dealt_with(&before, execution.report(), &self.schedule, now));
            let trouble = execution.trouble().filter(|trouble| !had_trouble && *trouble != Interruption::Stopped);
            if let Some(trouble) = trouble {
                had_trouble = true;
                self.trouble(trouble.to_string());
            }
            let goes_on =
                whole || (had_trouble && !self.with(|tally, now| tally.back_off(&self.schedule, now)).is_zero());
            if ended || !goes_on {
                break;
            }
            self.wait_for_turn(false, stopped).await;
            // It may have been switched off meanwhile.
            if *stopped.borrow() || self.engine.open(self.process.as_str(), &self.actor).await.is_err() {
                stop.stop();
            }
        }
        self.with(|tally, _| {
            tally.figures.runs += 1;
            if !had_trouble {
                tally.went_well(began);
            }
        });
        Ok(Some(execution.report().clone()))
    }

    fn trouble(&self, words: String) {
        tracing::warn!(process = %self.process, trouble = %words, "left alone for a while");
        self.with(|tally, now| tally.trouble(words, &self.schedule, now));
    }

    /// Waits until the rate allows for another chunk, and for a new run until the trouble is over, unless it is to stop.
    async fn wait_for_turn(&self, new_run: bool, stopped: &mut watch::Receiver<bool>) {
        let chunk = self.engine.chunk();
        while !*stopped.borrow() {
            let wait = self.with(|tally, now| {
                let back_off = if new_run { tally.back_off(&self.schedule, now) } else { Duration::ZERO };
                back_off.max(tally.rate(&self.schedule, chunk, now))
            });
            if wait.is_zero() {
                return;
            }
            self.wait(wait, stopped).await;
        }
    }

    /// Waits, unless it is to stop.
    async fn wait(&self, duration: Duration, stopped: &mut watch::Receiver<bool>) {
        if !duration.is_zero() {
            tokio::select! {
                () = self.engine.sleep(duration) => {}
                () = is_to_stop(stopped) => {}
            }
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Tally, DateTime<Utc>) -> T) -> T {
        let mut tallies = lock(&self.tallies);
        change(tallies.entry(self.process.clone()).or_default(), self.engine.now())
    }
}

async fn is_to_stop(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

fn lock<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

/// How long until then. What lies further off than the longest wait comes of a clock that was ahead and is put right: it is drawn in.
fn wait(until: &mut Option<DateTime<Utc>>, longest: TimeDelta, now: DateTime<Utc>) -> Duration {
    *until = (*until).min(now.checked_add_signed(longest));
    until.map_or(Duration::ZERO, |until| (until - now).to_std().unwrap_or(Duration::ZERO))
}

/// A quarter more or less than this, at random. Nothing depends on what it comes to.
fn jittered(duration: Duration) -> Duration {
    let mut bytes = [0; 4];
    let drawn =
        getrandom::fill(&mut bytes).map_or(0.5, |()| f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX));
    duration.mul_f64(LONGER - drawn / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RunId;
    use uuid::Uuid;

    #[test]
    fn a_tally_that_nobody_looks_at_keeps_the_last_minute_only() {
        let report = |items| Report {
            run: RunId::new(Uuid::nil()),
            items,
            done: BTreeMap::new(),
            unchanged: items,
            done_earlier: 0,
            in_doubt: 0,
            refused: BTreeMap::new(),
            interrupted: None,
        };
        let (none, chunk) = (report(0), report(1));
        let mut tally = Tally::default();
        let start = DateTime::<Utc>::UNIX_EPOCH;
        for second in 0..1000 {
            tally.dealt_with(&none, &chunk, &Schedule::jobs(), start + TimeDelta::seconds(second));
        }
        assert_eq!(tally.recent.len(), 60);
        tally.dealt_with(&none, &chunk, &Schedule::jobs(), start);
        assert_eq!(tally.recent.len(), 1, "the clock was ahead and is put right");
    }
}
