//! The background worker: runs what is to be done regularly, on one instance or on many.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
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
/// started together do not call together.
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
    lines: Arc<Mutex<BTreeMap<SymbolicName, Line>>>,
}

/// How a background process is run.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Schedule {
    /// How long to wait after a look that found nothing to do; after a run, for one that does not look for jobs.
    pub every: Duration,
    /// How many runs of it go on at once on this worker. Each claims a chunk of its own.
    pub lanes: usize,
    /// At most so many items a minute on this worker; `None` for as many as there are. What is left waits before the next chunk,
    /// so that a chunk ([`EngineSettings::chunk`](crate::EngineSettings::chunk)) is what may come at once.
    pub per_minute: Option<u32>,
    /// How long to wait after the first time that the outside or the store would not; doubled each time, up to
    /// [`longest_back_off`](Self::longest_back_off).
    pub back_off: Duration,
    /// The longest time to wait after such trouble.
    pub longest_back_off: Duration,
}

impl Schedule {
    /// For a process that does due jobs: looks for them every 5 s, in one lane, backs off from 5 s to 5 min.
    pub const fn jobs() -> Self {
        Self {
            every: Duration::from_secs(5),
            lanes: 1,
            per_minute: None,
            back_off: Duration::from_secs(5),
            longest_back_off: Duration::from_secs(300),
        }
    }

    /// For a process that goes through all there is: once an hour.
    pub const fn sweep() -> Self {
        Self { every: Duration::from_secs(3600), ..Self::jobs() }
    }

    /// The same with another time between looks.
    #[must_use]
    pub const fn every(self, every: Duration) -> Self {
        Self { every, ..self }
    }

    /// The same with another number of lanes; none leaves the process to other workers.
    #[must_use]
    pub const fn lanes(self, lanes: usize) -> Self {
        Self { lanes, ..self }
    }

    /// The same with at most so many items a minute; at least 1.
    #[must_use]
    pub const fn per_minute(self, items: u32) -> Self {
        Self { per_minute: Some(if items == 0 { 1 } else { items }), ..self }
    }

    /// The same with another first and longest time to wait after trouble.
    #[must_use]
    pub const fn back_off(self, first: Duration, longest: Duration) -> Self {
        Self { back_off: first, longest_back_off: longest, ..self }
    }
}

/// How a worker came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Everything that was begun is finished, and nothing is claimed any more.
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

/// What a worker did with one process since it was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Figures {
    /// How many runs came to their end.
    pub runs: u64,
    /// How many of those the outside or the store broke off.
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
    /// What the last trouble was, in words.
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
        let lines = schedules.keys().map(|name| (name.clone(), Line::default())).collect();
        Self { engine, actor, schedules, grace: Duration::from_secs(60), lines: Arc::new(Mutex::new(lines)) }
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

    /// How long [`run`](Self::run) waits for what was begun once it is to stop; a minute by default. A chunk of calls should fit in.
    #[must_use]
    pub fn grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// A handle to the figures of this worker.
    pub fn watch(&self) -> Watch {
        Watch { engine: Arc::clone(&self.engine), lines: Arc::clone(&self.lines) }
    }

    /// Works until `stop` is ready; then finishes the chunks at hand and releases what else was claimed. Dropped, it stops at once, as if
    /// it had been killed.
    ///
    /// Runs on the tokio runtime it is called on, each lane as a task of its own. What goes wrong is in the
    /// [figures](Self::watch) and in the log, and is tried again.
    pub async fn run(&self, stop: impl Future<Output = ()>) -> Stopped {
        let (stopping, stopped) = watch::channel(false);
        let mut lanes = JoinSet::new();
        for (name, schedule) in &self.schedules {
            for _ in 0..schedule.lanes {
                lanes.spawn(self.lane(name, *schedule).work(stopped.clone()));
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

    /// Runs each process once, until nothing is due any more, and gives the reports of those that did something.
    ///
    /// # Errors
    /// What opening a run says. A run that was broken off says so in its report.
    pub async fn run_once(&self) -> Result<Vec<Report>, Error> {
        let mut reports = Vec::new();
        for (name, schedule) in &self.schedules {
            let mut lanes = JoinSet::new();
            for _ in 0..schedule.lanes {
                let lane = self.lane(name, *schedule);
                lanes.spawn(async move { lane.run_once(&mut watch::channel(false).1).await });
            }
            while let Some(joined) = lanes.join_next().await {
                match joined {
                    Ok(report) => reports.extend(report?.filter(|report| report.items > 0)),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                }
            }
        }
        Ok(reports)
    }

    fn lane(&self, process: &SymbolicName, schedule: Schedule) -> Lane {
        Lane {
            engine: Arc::clone(&self.engine),
            actor: self.actor.clone(),
            process: process.clone(),
            does_jobs: self.engine.background(process.as_str()).is_ok_and(|definition| !definition.jobs.is_empty()),
            schedule,
            lines: Arc::clone(&self.lines),
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
    lines: Arc<Mutex<BTreeMap<SymbolicName, Line>>>,
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
        let now = self.engine.now();
        let mut lines = lock(&self.lines);
        lines.iter_mut().map(|(name, line)| (name.clone(), line.figures(now))).collect()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("processes", &self.processes()).finish_non_exhaustive()
    }
}

/// What all lanes of one process share.
#[derive(Debug, Default)]
struct Line {
    figures: Figures,
    /// How often in a row there was trouble.
    setbacks: u32,
    /// Before then, the rate does not allow for a further chunk.
    free_at: Option<DateTime<Utc>>,
    /// What was dealt with and when, for the last minute.
    recent: VecDeque<(DateTime<Utc>, u64)>,
}

impl Line {
    fn figures(&mut self, now: DateTime<Utc>) -> Figures {
        while self.recent.front().is_some_and(|(at, _)| *at <= now - TimeDelta::minutes(1)) {
            self.recent.pop_front();
        }
        let last_minute = self.recent.iter().map(|(_, items)| items).sum();
        let backs_off_until = self.figures.backs_off_until.filter(|until| *until > now);
        Figures { last_minute, backs_off_until, ..self.figures.clone() }
    }

    fn dealt_with(&mut self, items: u64, now: DateTime<Utc>, per_minute: Option<u32>) {
        self.recent.push_back((now, items));
        if let Some(per_minute) = per_minute {
            let takes =
                TimeDelta::microseconds(i64::try_from(items * 60_000_000 / u64::from(per_minute)).unwrap_or(i64::MAX));
            let from = self.free_at.map_or(now, |free| free.max(now));
            self.free_at = from.checked_add_signed(takes);
        }
    }

    fn ended(&mut self, report: &Report) {
        let figures = &mut self.figures;
        figures.runs += 1;
        figures.done += report.done_in_all();
        figures.unchanged += report.unchanged;
        figures.in_doubt += report.in_doubt;
        figures.refused += report.refused_in_all();
    }

    /// Leaves it alone for a while.
    fn trouble(&mut self, words: String, schedule: &Schedule, now: DateTime<Utc>) {
        let wait = schedule.back_off.saturating_mul(1 << self.setbacks.min(20)).min(schedule.longest_back_off);
        self.setbacks = self.setbacks.saturating_add(1);
        self.figures.interrupted += 1;
        self.figures.last_trouble = Some(words);
        self.figures.backs_off_until = now.checked_add_signed(delta(jittered(wait)));
    }
}

/// One of the runs of a process that go on at once.
struct Lane {
    engine: Arc<Engine>,
    actor: Actor,
    process: SymbolicName,
    does_jobs: bool,
    schedule: Schedule,
    lines: Arc<Mutex<BTreeMap<SymbolicName, Line>>>,
}

impl Lane {
    /// Works until it is to stop.
    async fn work(self, mut stopped: watch::Receiver<bool>) {
        while !*stopped.borrow() {
            let mut pause = jittered(self.schedule.every);
            // A process of the host's that panics spoils its run, not the worker.
            match AssertUnwindSafe(self.run_once(&mut stopped)).catch_unwind().await {
                // What came due meanwhile is done at once. What is refused stays due and waits.
                Ok(Ok(Some(report))) if self.does_jobs && report.items > report.refused_in_all() => {
                    pause = Duration::ZERO;
                }
                // Switched off: until an administrator switches it on again.
                Ok(Ok(_) | Err(Error::Disabled { .. })) => {}
                Ok(Err(error)) => self.trouble(with_causes(&error)),
                Err(_) => self.trouble("it panicked".to_owned()),
            }
            let backs_off =
                self.with(|line| line.figures.backs_off_until).map_or(Duration::ZERO, |until| self.until(until));
            self.wait(pause.max(backs_off), &mut stopped).await;
        }
    }

    /// One run, to its end; `None` if it was not begun, since it is to stop.
    async fn run_once(&self, stopped: &mut watch::Receiver<bool>) -> Result<Option<Report>, Error> {
        let run = self.engine.open(self.process.as_str(), &self.actor).await?;
        let mut execution = self.engine.next(&run, Answer::new()).await?;
        loop {
            if let Some(free_at) = self.with(|line| line.free_at) {
                self.wait(self.until(free_at), stopped).await;
            }
            if *stopped.borrow() {
                return Ok((execution.report().items > 0).then(|| execution.report().clone()));
            }
            let Some(outcomes) = execution.next_chunk().await? else { break };
            let now = self.engine.now();
            self.with(|line| line.dealt_with(outcomes.len() as u64, now, self.schedule.per_minute));
        }
        let report = execution.report().clone();
        self.with(|line| line.ended(&report));
        match &report.interrupted {
            Some(Interruption::Failed(words)) => self.trouble(words.clone()),
            Some(Interruption::HeldBack) => self.trouble("the outside does not want to be called for now".to_owned()),
            Some(Interruption::Stopped) => {}
            None if report.items > 0 => self.with(|line| {
                line.setbacks = 0;
                line.figures.backs_off_until = None;
            }),
            None => {}
        }
        Ok(Some(report))
    }

    fn trouble(&self, words: String) {
        tracing::warn!(process = %self.process, trouble = %words, "left alone for a while");
        let now = self.engine.now();
        self.with(|line| line.trouble(words, &self.schedule, now));
    }

    fn until(&self, at: DateTime<Utc>) -> Duration {
        (at - self.engine.now()).to_std().unwrap_or(Duration::ZERO)
    }

    /// Waits, unless it is to stop.
    async fn wait(&self, duration: Duration, stopped: &mut watch::Receiver<bool>) {
        if !duration.is_zero() {
            tokio::select! {
                () = self.engine.sleep(duration) => {}
                _ = stopped.wait_for(|stop| *stop) => {}
            }
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Line) -> T) -> T {
        change(lock(&self.lines).entry(self.process.clone()).or_default())
    }
}

fn lock<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

/// A quarter more or less than this, at random. Nothing depends on what it comes to.
fn jittered(duration: Duration) -> Duration {
    let mut bytes = [0; 4];
    let drawn =
        getrandom::fill(&mut bytes).map_or(0.5, |()| f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX));
    duration.mul_f64(0.75 + drawn / 2.0)
}
