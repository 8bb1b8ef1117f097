//! The background worker, on simulated time.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cardwright::adapters::memory::MemoryRepository;
use cardwright::adapters::simulator::{SimulatedBureau, SimulatedClock};
use cardwright::host::{AccessPolicy, CardOrder, Decision, FindOutcome, GoCardsProvider, PlaceOutcome, Placement};
use cardwright::host::{CardQuery, Clock, StatusOutcome};
use cardwright::options::ResolvedOptions;
use cardwright::process::{
    Answer, Component, Field, HouseRules, Item, ItemId, ItemKind, Needs, Plan, PlanContext, Process, ProcessDefinition,
    ProcessPackage, Refusal, RegistryError, Slot, StartPoint,
};
use cardwright::worker::{Figures, Schedule, Stopped, Worker};
use cardwright::{Actor, CardState, Engine, EngineSettings, Error, JobKind, JobState, Report, SymbolicName};
use chrono::{DateTime, TimeDelta, Utc};
use futures::executor::block_on;

use crate::office::{
    ABORT, ISSUE, ORDER, Office, SYNC_ORDERS, SYNC_ORPHANS, SYNC_PRODUCTION, SYNC_STATUS, administrator, operator,
    service, user_item,
};
use crate::watched::{Watched, jobs, second, store};

const HOUR: Duration = Duration::from_secs(3600);

/// An office, and an engine of a worker on the same store.
fn office_and_engine(
    change: impl FnOnce(cardwright::EngineBuilder) -> cardwright::EngineBuilder,
) -> (Office, Arc<Engine>) {
    let (repository, clock) = store();
    let office = Office::on(repository.clone(), clock, |builder| builder);
    let engine = Arc::new(second(&office, repository, change).engine);
    (office, engine)
}

fn order_all(office: &Office) {
    order(office, 1..=10);
}

fn order(office: &Office, users: std::ops::RangeInclusive<u64>) {
    let people: Vec<ItemId> = users.clone().map(|number| user_item(&format!("u{number}"))).collect();
    let report = office.run(ORDER, &operator(), Answer::ids(people)).0;
    assert_eq!(report.done["processing"], users.count() as u64);
}

/// An office whose time moves only when it is told to, and an engine of a worker on the same store.
fn still_office_and_engine(
    change: impl FnOnce(cardwright::EngineBuilder) -> cardwright::EngineBuilder,
) -> (Office, Arc<Engine>) {
    let clock = SimulatedClock::new(crate::office::clock().now());
    let repository = MemoryRepository::new(Arc::new(clock.clone()));
    let office = Office::on(repository.clone(), clock, |builder| builder);
    let engine = Arc::new(second(&office, repository, change).engine);
    (office, engine)
}

/// A worker that does nothing but order.
fn only_orders(engine: Arc<Engine>, schedule: Schedule) -> Worker {
    [SYNC_STATUS, SYNC_PRODUCTION, SYNC_ORPHANS]
        .iter()
        .fold(Worker::new(engine, service()), |worker, name| {
            worker.schedule(name, Schedule::jobs().lanes(0)).expect("it is one")
        })
        .schedule(SYNC_ORDERS, schedule)
        .expect("it is one")
}

/// Lets all lanes do what they can at this moment.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// Lets time pass in steps.
async fn pass(office: &Office, steps: u32, step: Duration) {
    for _ in 0..steps {
        settle().await;
        office.clock.advance(step);
    }
    settle().await;
}

const MINUTE: Duration = Duration::from_secs(60);

/// A clock that is ahead by so many seconds.
#[derive(Clone)]
struct Ahead(SimulatedClock, Arc<AtomicI64>);

#[async_trait]
impl Clock for Ahead {
    fn now(&self) -> DateTime<Utc> {
        self.0.now() + TimeDelta::seconds(self.1.load(Ordering::Relaxed))
    }
    async fn sleep(&self, duration: Duration) {
        self.0.sleep(duration).await;
    }
}

fn count(office: &Office, state: CardState) -> usize {
    let query = CardQuery { states: vec![state], ..CardQuery::default() };
    block_on(office.engine.card_page(&query, None, 100)).expect("cards can be read").len()
}

/// Ready once this is so. Gives up when it does not come.
async fn until(mut is_so: impl FnMut() -> bool) {
    for _ in 0..200_000 {
        if is_so() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it does not come");
}

/// A worker that looks twice an hour, so that days pass quickly.
fn leisurely(engine: Arc<Engine>, lanes: usize) -> Worker {
    let schedule = Schedule::jobs().every(HOUR / 2).lanes(lanes);
    [SYNC_ORDERS, SYNC_STATUS, SYNC_PRODUCTION]
        .iter()
        .fold(Worker::new(engine, service()), |worker, name| worker.schedule(name, schedule).expect("it is one"))
}

fn figures(worker: &Worker, process: &str) -> Figures {
    let name = SymbolicName::new(process).expect("a valid name");
    worker.watch().processes().remove(&name).expect("it is a background process")
}

/// Nobody is at a job any more.
fn assert_nothing_is_claimed(office: &Office) {
    let claimed: Vec<_> = jobs(office, JobKind::PlaceOrder).into_iter().filter(|job| job.claim.is_some()).collect();
    assert_eq!(claimed, []);
}

#[tokio::test]
async fn a_worker_does_all_there_is_to_do() {
    let (office, engine) = office_and_engine(|builder| builder);
    order_all(&office);
    let worker = leisurely(engine, 1);
    let backlog = worker.watch().health().await.expect("the store can be read").backlog;
    assert_eq!(backlog.iter().map(|kind| (kind.kind, kind.due)).collect::<Vec<_>>(), [(JobKind::PlaceOrder, 10)]);
    assert_eq!(backlog[0].oldest_due, Some(jobs(&office, JobKind::PlaceOrder)[0].due));

    let stopped = worker.run(until(|| count(&office, CardState::Produced) == 10)).await;
    assert_eq!(stopped, Stopped::Finished);
    assert_eq!(office.bureau.ledger().len(), 10, "once each");
    assert_eq!(office.mail.sent().len(), 10, "the messages are sent too");
    let orders = figures(&worker, SYNC_ORDERS);
    assert_eq!((orders.in_doubt, orders.refused, orders.interrupted), (0, 0, 0), "{orders:?}");
    assert!(orders.done >= 10, "{orders:?}");
    assert!(figures(&worker, SYNC_STATUS).runs > 10, "statuses are read again and again");
    assert_eq!(worker.watch().health().await.expect("the store can be read").backlog, []);
}

#[tokio::test]
async fn a_worker_goes_on_with_productions_and_sweeps() {
    let (office, engine) = office_and_engine(|builder| builder);
    let cards: Vec<_> = ["u1", "u2"].iter().map(|user| ItemId::Card(office.request(user))).collect();
    office.personalizer.outage(office.clock.now() + HOUR);
    office.run(ISSUE, &operator(), Answer::ids(cards));
    assert_eq!(count(&office, CardState::Issued), 0);
    let worker = Worker::new(engine, service());
    worker.run(until(|| count(&office, CardState::Issued) == 2 && figures(&worker, SYNC_ORPHANS).runs > 2)).await;
    assert!(figures(&worker, SYNC_PRODUCTION).done > 0);
}

#[tokio::test]
async fn two_workers_with_many_lanes_order_nothing_twice() {
    let (repository, clock) = store();
    let office = Office::on(repository.clone(), clock, |builder| builder);
    order_all(&office);
    let engines = ["one", "two"].map(|name| {
        Arc::new(
            second(&office, repository.clone(), |builder| {
                builder.worker(name).settings(EngineSettings::new().chunk(1))
            })
            .engine,
        )
    });
    let workers = engines.map(|engine| leisurely(engine, 4));
    let produced = || until(|| count(&office, CardState::Produced) == 10);
    let ended = futures::join!(workers[0].run(produced()), workers[1].run(produced()));
    assert_eq!(ended, (Stopped::Finished, Stopped::Finished));
    assert_eq!(office.bureau.ledger().len(), 10);
}

/// All that was told of one time, where every run could be opened.
async fn once(worker: &Worker) -> Vec<(SymbolicName, Report)> {
    let told = worker.run_once().await.into_iter();
    told.map(|(name, report)| (name, report.expect("it can be opened"))).collect()
}

#[tokio::test]
async fn once_does_what_is_due_and_no_more() {
    let (office, engine) = office_and_engine(|builder| builder);
    order_all(&office);
    let worker = Worker::new(Arc::clone(&engine), service());
    let reports = once(&worker).await;
    assert!(reports.iter().all(|(_, report)| report.items > 0), "{reports:?}");
    let ordered = reports.iter().find(|(name, _)| name.as_str() == SYNC_ORDERS);
    assert_eq!(ordered.expect("it is among them").1.done["ordered"], 10);
    assert_eq!(count(&office, CardState::Ordered), 10);
    assert_nothing_is_claimed(&office);
    assert_eq!(once(&worker).await, [], "nothing is due");
}

#[tokio::test]
async fn once_tells_of_a_run_that_was_broken_off_before_its_first_item() {
    let (repository, clock) = store();
    let repository = Watched::new(repository);
    let office = Office::on(Arc::clone(&repository), clock, |builder| builder);
    let engine = Arc::new(second(&office, Arc::clone(&repository), |builder| builder).engine);
    let worker = only_orders(engine, Schedule::jobs());
    repository.take_calls();
    assert_eq!(once(&worker).await, [], "nothing is due");
    let calls = repository.take_calls();
    assert_eq!(calls["claim"], 1);
    // The last call is the claim.
    repository.be_away(calls.values().sum::<u64>() as usize - 1, 1);
    let reports = once(&worker).await;
    let [(name, report)] = reports.as_slice() else { panic!("there is one: {reports:?}") };
    assert_eq!((name.as_str(), report.items), (SYNC_ORDERS, 0));
    let why = report.interrupted.as_ref().expect("it was broken off").to_string();
    assert!(why.contains("out for lunch"), "{why}");
}

#[tokio::test]
async fn trouble_is_left_alone_for_longer_and_longer_and_does_not_last() {
    let settings = EngineSettings::new().chunk(1).back_off(Duration::from_secs(1));
    let (office, engine) = office_and_engine(|builder| builder.settings(settings));
    order_all(&office);
    office.bureau.outage(office.clock.now() + TimeDelta::hours(8));
    let worker = only_orders(engine, Schedule::jobs().lanes(3).back_off(Duration::from_secs(10), HOUR));
    let stop = async {
        until(|| figures(&worker, SYNC_ORDERS).interrupted > 5).await;
        let figures = figures(&worker, SYNC_ORDERS);
        assert_eq!(figures.last_trouble.as_deref(), Some("the outside does not want to be called for now"));
        until(|| count(&office, CardState::Ordered) == 10).await;
    };
    worker.run(stop).await;
    let figures = figures(&worker, SYNC_ORDERS);
    // From 10 s to 43 min in nine steps, then every hour: 16 or so, and one lane speaks for all.
    assert!((14..=20).contains(&figures.interrupted), "{figures:?}");
    assert_eq!((figures.backs_off_until, figures.last_trouble), (None, None), "it is over");
    assert_eq!(office.bureau.ledger().len(), 10);
}

#[tokio::test]
async fn trouble_that_all_lanes_meet_at_once_counts_once_for_the_wait() {
    let (office, engine) = still_office_and_engine(|builder| builder.settings(EngineSettings::new().chunk(1)));
    order_all(&office);
    office.bureau.outage(office.clock.now() + TimeDelta::hours(8));
    let worker = only_orders(engine, Schedule::jobs().lanes(8).back_off(Duration::from_secs(10), HOUR));
    worker.run(settle()).await;
    let wait = figures(&worker, SYNC_ORDERS).backs_off_until.expect("there was trouble") - office.clock.now();
    assert!(wait <= TimeDelta::seconds(13), "10 s, stretched by a quarter at most: {wait}");
}

#[tokio::test]
async fn a_lane_that_waits_hears_of_the_trouble_of_another() {
    let (office, engine) = still_office_and_engine(|builder| builder.settings(EngineSettings::new().chunk(1)));
    let worker = only_orders(engine, Schedule::jobs().lanes(8).back_off(HOUR, HOUR));
    let stop = async {
        settle().await;
        order_all(&office);
        office.bureau.outage(office.clock.now() + TimeDelta::hours(8));
        pass(&office, 12, Duration::from_secs(1)).await;
    };
    worker.run(stop).await;
    assert_eq!(figures(&worker, SYNC_ORDERS).interrupted, 1);
}

#[tokio::test]
async fn trouble_that_is_over_is_forgotten_when_nothing_is_due_too() {
    let (office, engine) = still_office_and_engine(|builder| builder);
    let away = || office.bureau.outage(office.clock.now() + TimeDelta::minutes(10));
    order(&office, 1..=1);
    away();
    let worker = only_orders(engine, Schedule::jobs().back_off(Duration::from_secs(10), HOUR));
    let stop = async {
        pass(&office, 60, MINUTE).await;
        assert_eq!(count(&office, CardState::Ordered), 1);
        assert_eq!(figures(&worker, SYNC_ORDERS).last_trouble, None);
        order(&office, 2..=2);
        away();
        office.clock.advance(Duration::from_secs(7));
        settle().await;
    };
    worker.run(stop).await;
    let figures = figures(&worker, SYNC_ORDERS);
    let wait = figures.backs_off_until.expect("there is trouble again") - office.clock.now();
    assert!(wait <= TimeDelta::seconds(13), "as if for the first time: {wait}");
}

/// A bureau whose first call is answered when it is released, and which is away for all others.
struct FirstSlow(SimulatedBureau, AtomicBool, Arc<tokio::sync::Semaphore>);

#[async_trait]
impl GoCardsProvider for FirstSlow {
    fn placement(&self) -> Placement {
        self.0.placement()
    }
    async fn place(&self, orders: &[CardOrder]) -> Vec<PlaceOutcome> {
        if self.1.swap(true, Ordering::Relaxed) {
            return vec![PlaceOutcome::Unavailable { reason: "away".to_owned() }; orders.len()];
        }
        let _permit = self.2.acquire().await;
        self.0.place(orders).await
    }
    async fn status(&self, order_ids: &[String]) -> Vec<StatusOutcome> {
        self.0.status(order_ids).await
    }
    async fn find(&self, reference: &str) -> FindOutcome {
        self.0.find(reference).await
    }
}

#[tokio::test]
async fn what_one_lane_began_before_the_trouble_of_another_does_not_end_it() {
    let clock = SimulatedClock::new(crate::office::clock().now());
    let repository = MemoryRepository::new(Arc::new(clock.clone()));
    let office = Office::on(repository.clone(), clock, |builder| builder);
    let released = Arc::new(tokio::sync::Semaphore::new(0));
    let bureau = FirstSlow(office.bureau.clone(), AtomicBool::default(), Arc::clone(&released));
    let settings = EngineSettings::new().chunk(1);
    let engine = Arc::new(second(&office, repository, |builder| builder.bureau(bureau).settings(settings)).engine);
    order_all(&office);
    let worker = only_orders(engine, Schedule::jobs().lanes(2));
    let stop = async {
        settle().await;
        assert_eq!(figures(&worker, SYNC_ORDERS).interrupted, 1);
        released.add_permits(1);
        settle().await;
        assert_eq!(count(&office, CardState::Ordered), 1);
    };
    worker.run(stop).await;
    let figures = figures(&worker, SYNC_ORDERS);
    assert_eq!(figures.interrupted, 1, "nobody has called again: {figures:?}");
    assert!(figures.backs_off_until.is_some() && figures.last_trouble.is_some(), "{figures:?}");
}

#[tokio::test]
async fn a_clock_that_was_ahead_and_is_put_right_stops_nobody() {
    for outage in [0, 2] {
        let clock = SimulatedClock::new(crate::office::clock().now());
        let repository = MemoryRepository::new(Arc::new(clock.clone()));
        let office = Office::on(repository.clone(), clock, |builder| builder);
        let ahead = Arc::new(AtomicI64::new(30 * 24 * 3600));
        let clock = Ahead(office.clock.clone(), Arc::clone(&ahead));
        let engine = Arc::new(second(&office, repository, |builder| builder.clock(clock)).engine);
        order(&office, 1..=5);
        office.bureau.outage(office.clock.now() + TimeDelta::minutes(outage));
        let worker = only_orders(engine, Schedule::jobs().per_minute(600));
        let stop = async {
            settle().await;
            ahead.store(0, Ordering::Relaxed);
            pass(&office, 3, MINUTE).await;
            order(&office, 6..=10);
            pass(&office, 10, MINUTE).await;
        };
        worker.run(stop).await;
        assert!(office.bureau.ledger().len() >= 5, "{outage}: {:?}", figures(&worker, SYNC_ORDERS));
        let new = count(&office, CardState::Processing);
        // What was put off by the clock that was ahead waits in the store, where anybody may order it at once.
        assert!(new <= if outage == 0 { 0 } else { 5 }, "{outage}: {:?}", figures(&worker, SYNC_ORDERS));
    }
}

#[tokio::test]
async fn what_is_switched_off_while_much_is_due_stops_after_the_chunk() {
    let (office, engine) = still_office_and_engine(|builder| builder.settings(EngineSettings::new().chunk(1)));
    order_all(&office);
    let worker = only_orders(engine, Schedule::jobs().per_minute(1));
    let stop = async {
        pass(&office, 2, MINUTE).await;
        let figures = figures(&worker, SYNC_ORDERS);
        assert!(figures.runs >= 2 && figures.done >= 2, "seen while there is more to do: {figures:?}");
        let ordered = office.bureau.ledger().len();
        office.engine.disable(SYNC_ORDERS, Slot::Background, &administrator()).await.expect("it can be switched off");
        pass(&office, 30, MINUTE).await;
        assert_eq!(office.bureau.ledger().len(), ordered);
    };
    worker.run(stop).await;
}

#[tokio::test]
async fn schedules_without_measure_work() {
    for every in [Duration::ZERO, Duration::MAX] {
        let (office, engine) = office_and_engine(|builder| builder);
        order_all(&office);
        office.bureau.outage(office.clock.now() + Duration::from_secs(1));
        let schedule = Schedule::jobs().every(every).back_off(every, every).per_minute(0);
        let worker = only_orders(engine, schedule);
        worker.run(until(|| count(&office, CardState::Ordered) == 10)).await;
        assert_eq!(figures(&worker, SYNC_ORDERS).in_doubt, 0);
    }
    assert_eq!(Schedule::jobs().per_minute(0), Schedule::jobs().per_minute(1));
}

/// A clock that panics the first times somebody waits for long.
struct Broke(SimulatedClock, AtomicU64);

#[async_trait]
impl Clock for Broke {
    fn now(&self) -> DateTime<Utc> {
        self.0.now()
    }
    async fn sleep(&self, duration: Duration) {
        assert!(duration < HOUR || self.1.fetch_add(1, Ordering::Relaxed) >= 2, "it broke");
        self.0.sleep(duration).await;
    }
}

#[tokio::test]
async fn a_lane_that_ends_is_started_again() {
    let (repository, clock) = store();
    let office = Office::on(repository.clone(), clock, |builder| builder);
    let broke = Broke(office.clock.clone(), AtomicU64::new(0));
    let engine = Arc::new(second(&office, repository, |builder| builder.clock(broke)).engine);
    let worker = only_orders(engine, Schedule::jobs().every(HOUR * 2));
    let stop = async {
        until(|| figures(&worker, SYNC_ORDERS).runs == 1).await;
        order_all(&office);
        let done = async {
            while count(&office, CardState::Ordered) < 10 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), done).await.expect("it goes on");
    };
    assert_eq!(worker.run(stop).await, Stopped::Finished);
}

/// A bureau that takes as long as the test wants.
struct SlowBureau {
    inner: SimulatedBureau,
    begun: Arc<AtomicU64>,
    released: Arc<tokio::sync::Semaphore>,
}

#[async_trait]
impl GoCardsProvider for SlowBureau {
    fn placement(&self) -> Placement {
        self.inner.placement()
    }
    async fn place(&self, orders: &[CardOrder]) -> Vec<PlaceOutcome> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let _permit = self.released.acquire().await;
        self.inner.place(orders).await
    }
    async fn status(&self, order_ids: &[String]) -> Vec<StatusOutcome> {
        self.inner.status(order_ids).await
    }
    async fn find(&self, reference: &str) -> FindOutcome {
        self.inner.find(reference).await
    }
}

/// An office with ten orders, and a worker whose bureau answers once it is released.
fn slow(
    change: impl FnOnce(cardwright::EngineBuilder) -> cardwright::EngineBuilder,
) -> (Office, Worker, Arc<AtomicU64>, Arc<tokio::sync::Semaphore>) {
    // Time moves only when it is told to: the call is not given up.
    let clock = SimulatedClock::new(crate::office::clock().now());
    let repository = MemoryRepository::new(Arc::new(clock.clone()));
    let office = Office::on(repository.clone(), clock, |builder| builder);
    let (begun, released) = (Arc::new(AtomicU64::new(0)), Arc::new(tokio::sync::Semaphore::new(0)));
    let bureau =
        SlowBureau { inner: office.bureau.clone(), begun: Arc::clone(&begun), released: Arc::clone(&released) };
    let settings = EngineSettings::new().chunk(4).orders_per_call(2);
    let engine =
        Arc::new(second(&office, repository, |builder| change(builder.bureau(bureau).settings(settings))).engine);
    order_all(&office);
    let worker = Worker::new(engine, service());
    (office, worker, begun, released)
}

#[tokio::test]
async fn stopped_it_finishes_the_call_it_is_at_and_releases_the_rest() {
    let (office, worker, begun, released) = slow(|builder| builder);
    let stop = async {
        until(|| begun.load(Ordering::Relaxed) == 1).await;
        let released = Arc::clone(&released);
        tokio::spawn(async move {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            released.add_permits(1);
        });
    };
    assert_eq!(worker.run(stop).await, Stopped::Finished);
    assert_eq!((count(&office, CardState::Ordered), count(&office, CardState::Processing)), (2, 8), "one call for two");
    assert_eq!(figures(&worker, SYNC_ORDERS).done, 2, "what was done before the stop counts");
    assert_nothing_is_claimed(&office);
    assert_eq!(jobs(&office, JobKind::PlaceOrder).iter().filter(|job| job.state == JobState::InDoubt).count(), 0);
}

#[tokio::test]
async fn cut_off_it_loses_nothing_and_what_was_being_sent_is_in_doubt() {
    let (office, worker, begun, _released) = slow(|builder| builder);
    let worker = worker.grace(Duration::from_millis(20));
    assert_eq!(worker.run(until(|| begun.load(Ordering::Relaxed) == 1)).await, Stopped::CutOff(1));
    assert_eq!(count(&office, CardState::Processing), 10);
    office.clock.advance(HOUR);
    office.sync(SYNC_ORDERS);
    assert_eq!(count(&office, CardState::Ordered), 8);
    let doubts = block_on(office.engine.doubts(None, 10)).expect("doubts can be read");
    assert_eq!(doubts.len(), 2, "two orders were in the call");
}

#[tokio::test]
async fn a_rate_is_kept() {
    let (office, engine) = office_and_engine(|builder| builder.settings(EngineSettings::new().chunk(1)));
    order_all(&office);
    let schedule = Schedule::jobs().lanes(2).per_minute(1);
    let worker = Worker::new(engine, service()).schedule(SYNC_ORDERS, schedule).expect("it is one");
    let start = office.clock.now();
    let most = AtomicU64::new(0);
    let stop = until(|| {
        most.fetch_max(figures(&worker, SYNC_ORDERS).last_minute, Ordering::Relaxed);
        count(&office, CardState::Processing) == 0
    });
    worker.run(stop).await;
    let minutes = (office.clock.now() - start).num_minutes();
    // Two lanes may begin at once; orders and messages are items.
    assert!(minutes >= 8, "{minutes} minutes for ten orders");
    let most = most.into_inner();
    assert!((1..=3).contains(&most), "{most} in a minute");
}

/// A clock that remembers for how long it was slept by.
#[derive(Clone)]
struct Remembering(SimulatedClock, Arc<Mutex<Vec<u64>>>);

#[async_trait]
impl Clock for Remembering {
    fn now(&self) -> DateTime<Utc> {
        self.0.now()
    }
    async fn sleep(&self, duration: Duration) {
        self.1.lock().expect("not poisoned").push(duration.as_secs());
        self.0.sleep(duration).await;
    }
}

#[tokio::test]
async fn waits_are_stretched_and_shortened_at_random() {
    let (repository, clock) = store();
    let office = Office::on(repository.clone(), clock.clone(), |builder| builder);
    let remembering = Remembering(clock, Arc::default());
    let slept = Arc::clone(&remembering.1);
    let engine = Arc::new(second(&office, repository, |builder| builder.clock(remembering)).engine);
    only_orders(engine, Schedule::jobs().every(100 * MINUTE))
        .run(until(|| slept.lock().expect("whole").len() > 50))
        .await;
    let slept = slept.lock().expect("whole");
    let (shortest, longest) = (slept.iter().min().expect("there are some"), slept.iter().max().expect("some"));
    assert!((4500..5600).contains(shortest) && (6400..=7500).contains(longest), "a quarter more or less: {slept:?}");
}

#[tokio::test]
async fn a_rate_is_kept_also_once() {
    let (office, engine) = office_and_engine(|builder| builder.settings(EngineSettings::new().chunk(2)));
    order_all(&office);
    let start = office.clock.now();
    let worker =
        Worker::new(engine, service()).schedule(SYNC_ORDERS, Schedule::jobs().per_minute(2)).expect("it is one");
    once(&worker).await;
    assert_eq!(count(&office, CardState::Ordered), 10);
    assert!((office.clock.now() - start).num_minutes() >= 4, "ten orders in chunks of two, two a minute");
}

/// Says no to every job.
struct NoJobs;

#[async_trait]
impl AccessPolicy for NoJobs {
    async fn may_start(&self, _: &Actor, _: &SymbolicName) -> Decision {
        Decision::Yes
    }
    async fn may(&self, _: &Actor, _: &SymbolicName, objects: &[ItemId]) -> Vec<Decision> {
        vec![Decision::No { reason: "not today".to_owned() }; objects.len()]
    }
}

/// Says no once: when it is asked for the third time whether this process may be started.
struct NotTheThird(SymbolicName, AtomicU64);

#[async_trait]
impl AccessPolicy for NotTheThird {
    async fn may_start(&self, _: &Actor, process: &SymbolicName) -> Decision {
        if *process == self.0 && self.1.fetch_add(1, Ordering::Relaxed) == 2 {
            return Decision::No { reason: "not just now".to_owned() };
        }
        Decision::Yes
    }
    async fn may(&self, _: &Actor, _: &SymbolicName, objects: &[ItemId]) -> Vec<Decision> {
        vec![Decision::Yes; objects.len()]
    }
}

#[tokio::test]
async fn once_finishes_its_lanes_where_one_of_them_cannot_begin() {
    let name = SymbolicName::new(SYNC_ORDERS).expect("a valid name");
    let (office, worker, begun, released) = slow(|builder| builder.access(NotTheThird(name, AtomicU64::new(0))));
    let worker = worker.schedule(SYNC_ORDERS, Schedule::jobs().lanes(2)).expect("it is one");
    // One lane has opened its run and is at the bureau when the other asks.
    let answer = async {
        until(|| begun.load(Ordering::Relaxed) == 1).await;
        settle().await;
        released.add_permits(1);
    };
    let (told, ()) = futures::join!(worker.run_once(), answer);
    let orders: Vec<_> = told.iter().filter(|(name, _)| name.as_str() == SYNC_ORDERS).map(|(_, told)| told).collect();
    let [Err(Error::NotPermitted { .. }), Ok(report)] = orders.as_slice() else { panic!("one of two: {told:?}") };
    assert_eq!(report.done["ordered"], 10);
    assert_eq!(count(&office, CardState::Ordered), 10);
    assert_nothing_is_claimed(&office);
}

#[tokio::test]
async fn once_does_the_others_where_one_is_switched_off() {
    let (office, engine) = office_and_engine(|builder| builder);
    order_all(&office);
    office.sync(SYNC_ORDERS);
    office.clock.advance(HOUR);
    block_on(office.engine.disable(SYNC_ORDERS, Slot::Background, &administrator())).expect("it can be switched off");
    let told = once(&Worker::new(engine, service())).await;
    let [(name, report)] = told.as_slice() else { panic!("there is one: {told:?}") };
    assert_eq!((name.as_str(), report.items), (SYNC_STATUS, 10));
}

#[tokio::test]
async fn what_is_not_permitted_is_not_tried_again_at_once() {
    let (office, engine) = office_and_engine(|builder| builder.access(NoJobs));
    order_all(&office);
    let worker = Worker::new(engine, service());
    let start = office.clock.now();
    worker.run(until(|| office.clock.now() - start > TimeDelta::minutes(10))).await;
    let figures = figures(&worker, SYNC_ORDERS);
    assert!((100..=170).contains(&figures.runs), "every five seconds or so for ten minutes: {figures:?}");
    assert_eq!(office.bureau.ledger().len(), 0);
}

#[tokio::test]
async fn what_is_switched_off_waits_until_it_is_switched_on() {
    let (office, engine) = office_and_engine(|builder| builder);
    order_all(&office);
    block_on(office.engine.disable(SYNC_ORDERS, Slot::Background, &administrator())).expect("it can be switched off");
    let worker = Worker::new(engine, service());
    let start = office.clock.now();
    let stop = async {
        until(|| office.clock.now() - start > TimeDelta::hours(1)).await;
        assert_eq!(count(&office, CardState::Processing), 10);
        block_on(office.engine.enable(SYNC_ORDERS, Slot::Background, &administrator())).expect("it can be switched on");
        until(|| count(&office, CardState::Processing) == 0).await;
    };
    worker.run(stop).await;
    assert_eq!(figures(&worker, SYNC_ORDERS).interrupted, 0, "that is no trouble");
}

/// A background process of a host's that panics.
struct Broken(ProcessDefinition);

impl Process for Broken {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }
    fn fields(&self, _: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        panic!("it is broken")
    }
    fn needs(&self) -> Needs {
        Needs::nothing()
    }
    fn plan(&self, _: Item, _: &PlanContext<'_>) -> Result<Plan, Refusal> {
        panic!("it is broken")
    }
}

#[tokio::test]
async fn a_process_that_panics_spoils_nothing_but_its_own_runs() {
    let name = SymbolicName::new("TestBroken").expect("a valid name");
    let definition = ProcessDefinition::new(name, "Broken", "Test", ItemKind::New)
        .offered(Component::Background, StartPoint::Schedule)
        .fits([Slot::Background]);
    let (office, engine) =
        office_and_engine(|builder| builder.package(ProcessPackage::new().process(Broken(definition))));
    order_all(&office);
    let worker = leisurely(engine, 1);
    worker.run(until(|| count(&office, CardState::Produced) == 10)).await;
    let broken = figures(&worker, "TestBroken");
    assert!(broken.interrupted > 1 && broken.done == 0, "{broken:?}");
    assert_eq!(broken.last_trouble.as_deref(), Some("it panicked"));
}

#[test]
fn only_background_processes_can_be_scheduled() {
    let (_, engine) = office_and_engine(|builder| builder);
    let worker = || Worker::new(Arc::clone(&engine), service());
    let unknown = worker().schedule("CardsAddonExtProdBatchSyncOrders", Schedule::jobs()).expect_err("misspelled");
    assert!(unknown.to_string().contains("did you mean `CardsAddonExtProdBatchSyncOrder`?"), "{unknown}");
    let of_people = worker().schedule(ABORT, Schedule::jobs()).expect_err("people start it");
    assert!(matches!(of_people, RegistryError::NotBackground { .. }), "{of_people}");
}
