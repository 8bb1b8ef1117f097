//! A small world that belongs to a seed: who is polled next, what goes wrong, and when time moves.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use cardwright::adapters::memory::{MemoryRepository, MemoryUsers, RecordingNotifier};
use cardwright::adapters::simulator::{
    BureauBehaviour, CaBehaviour, PersonalizerBehaviour, SimulatedBureau, SimulatedCa, SimulatedClock,
    SimulatedPersonalizer,
};
use cardwright::host::{
    AllowAll, CardQuery, CardRepository as _, CertificateQuery, Clock as _, JobQuery, RepositoryError,
};
use cardwright::process::{Answer, ItemId};
use cardwright::{
    ActorId, Card, CardId, CardState, Engine, EngineSettings, Job, JobId, JobKind, JobState, ObjectId, User, UserId,
    UserState,
};
use chrono::{DateTime, TimeDelta, TimeZone as _, Utc};
use futures::executor::block_on;

use super::acts::{Act, PEOPLE_AT_WORK, Script, perform};
use super::turn::{Turn, Wish};
use crate::eavesdropping::{Eavesdropper, Log, Seeded};
use crate::gate::Gated;
use crate::invariants::{AT_EVERY_STEP, Check, Crash, Evidence, House, ONCE_RECOVERED, Ran, broken};
use crate::office::{
    CARD_SCRIPT, ISSUE, ORDER_SCRIPT, Office, REQUEST, SYNC_ORDERS, SYNC_ORPHANS, SYNC_PRODUCTION, SYNC_STATUS,
    TEMPORARY_SCRIPT, person, rules, service, user_item,
};
use crate::watched::Watched;

pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How many people there are.
pub(super) const PEOPLE: u64 = 6;

/// How many orders, cards or certificates one task tries at once.
const AT_ONCE: usize = 2;

/// How many things the seed decides while things go wrong.
const STEPS: u64 = 2500;

/// How many commits there are between two looks at everything.
const COMMITS_PER_SCAN: u64 = 40;

/// How many items a run takes at once, and so how many jobs.
const CHUNK: usize = 3;

/// How many attempts a job may take while the outside is away again and again.
const MOST_ATTEMPTS: u32 = 15;

/// How many engines work on the store.
const ENGINES: usize = 2;

/// What the bureau can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bureau {
    /// It cannot look, and takes two orders under one reference as two.
    Poor,
    /// It can look, but finds things late, and takes two orders under one reference as two.
    Looking,
    /// It can look, and takes two orders under one reference as one.
    Rich,
}

impl Bureau {
    fn able(self, behaviour: BureauBehaviour) -> BureauBehaviour {
        match self {
            Self::Poor => behaviour,
            Self::Looking => behaviour.can_look(true).found_late(2 * HOUR),
            Self::Rich => behaviour.can_look(true).idempotent(true).card_id_at_once(true),
        }
    }
}

/// What a seed came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Came {
    pub(super) steps: u64,
    pub(super) commits: u64,
    pub(super) crashes: u64,
    pub(super) faults: BTreeMap<String, u64>,
    /// How often each thing happened to cards, certificates and requests.
    pub(super) events: BTreeMap<String, u64>,
    /// How many jobs were ever in doubt, and how many still when nothing else was due any more.
    pub(super) doubts: (u64, u64),
    /// The same for the same seed, whatever happens.
    pub(super) digest: u64,
}

/// Something that is being done by an engine.
struct Task {
    engine: usize,
    act: Act,
    work: Pin<Box<dyn Future<Output = Result<Option<Ran>, cardwright::Error>> + Send>>,
    woken: Arc<Flag>,
    /// Until then, and until so many steps were done.
    paused_until: Option<(DateTime<Utc>, u64)>,
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(super) struct World {
    pub(super) dice: Seeded,
    pub(super) turn: Turn,
    pub(super) clock: SimulatedClock,
    pub(super) store: MemoryRepository,
    watched: Arc<Watched>,
    pub(super) bureau: SimulatedBureau,
    pub(super) ca: SimulatedCa,
    pub(super) machine: SimulatedPersonalizer,
    ear: Eavesdropper,
    users: MemoryUsers,
    mail: RecordingNotifier,
    kind: Bureau,
    makes_keys: bool,
    ca_looks: bool,
    /// Looks at everything, and is seen by nobody.
    auditor: Office,
    engines: Vec<Arc<Engine>>,
    /// What the engines are called when they claim jobs.
    names: Vec<String>,
    tasks: Vec<Task>,
    /// What a crash has interrupted.
    pub(super) unfinished: Vec<Act>,
    /// Every run that was begun, to be started once more.
    pub(super) begun: Vec<Act>,
    pub(super) script: Script,
    runs: Vec<Ran>,
    cursor: Option<String>,
    commits_at_scan: u64,
    before: BTreeMap<ObjectId, Vec<cardwright::HistoryEntry>>,
    ever_in_doubt: BTreeSet<JobId>,
    /// What the engine left behind that has just died.
    left_behind: Option<Crash>,
    crashes: u64,
    steps: u64,
}

/// What was wrong, and when.
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) trace: Vec<String>,
}

impl World {
    /// Lives through a seed; `Err` says what was wrong.
    pub(super) fn live(seed: u64, kind: Bureau, traced: bool) -> Result<Came, Wrong> {
        let log = Log::default();
        log.clone().while_listening(|| {
            let mut world = Self::new(seed, kind, traced);
            let came = world.go_through(&log);
            let mut trace = world.turn.desk().trace.take().unwrap_or_default();
            if traced && came.is_err() {
                trace.extend(world.books());
            }
            came.map_err(|what| Wrong { what: format!("step {}: {what}", world.steps), trace })
        })
    }

    fn new(seed: u64, kind: Bureau, traced: bool) -> Self {
        let dice = Seeded::new(seed.wrapping_mul(3) + kind as u64);
        // The gates draw for themselves, so that what is drawn here stays the same.
        let turn = Turn::new(dice.next(), traced);
        let clock = SimulatedClock::new(Utc.with_ymd_and_hms(2030, 1, 7, 8, 0, 0).single().expect("a valid time"));
        let time = || Arc::new(clock.clone());
        let store = MemoryRepository::new(time());
        let machine = SimulatedPersonalizer::new(seed, time());
        let auditor = Office::on(store.clone(), clock.clone(), |builder| builder);
        let mut world = Self {
            watched: Watched::new(store.clone()),
            bureau: SimulatedBureau::new(seed, time()),
            ca: SimulatedCa::new(seed, time()),
            ear: Eavesdropper::new(machine.clone()),
            machine,
            users: MemoryUsers::new((1..=PEOPLE as u32).map(person)),
            mail: RecordingNotifier::new(),
            kind,
            makes_keys: dice.next().is_multiple_of(4),
            ca_looks: true,
            engines: Vec::new(),
            names: (0..ENGINES).map(worker).collect(),
            tasks: Vec::new(),
            unfinished: Vec::new(),
            begun: Vec::new(),
            script: Script::drawn(&dice),
            runs: Vec::new(),
            cursor: None,
            commits_at_scan: 0,
            before: BTreeMap::new(),
            ever_in_doubt: BTreeSet::new(),
            left_behind: None,
            crashes: 0,
            steps: 0,
            auditor,
            dice,
            turn,
            clock,
            store,
        };
        world.ca_looks = !(world.makes_keys && world.chance(50));
        world.auditor = Office {
            bureau: world.bureau.clone(),
            ca: world.ca.clone(),
            personalizer: world.machine.clone(),
            users: world.users.clone(),
            mail: world.mail.clone(),
            ..world.auditor
        };
        for (script, text) in
            [ORDER_SCRIPT, CARD_SCRIPT, TEMPORARY_SCRIPT].map(|name| (name, world.script.text(name, &world.dice)))
        {
            world.auditor.script(script, &text);
        }
        world.behave(true);
        world.engines = (0..ENGINES).map(|number| world.engine(number)).collect();
        world
    }

    /// An engine on this world, every call of which passes a gate.
    fn engine(&self, number: usize) -> Arc<Engine> {
        let settings = EngineSettings::new().chunk(CHUNK).orders_per_call(AT_ONCE).statuses_per_call(CHUNK);
        let settings = settings.cards_at_once(AT_ONCE).certificates_at_once(AT_ONCE);
        let engine = Engine::builder()
            .repository(Gated(Arc::clone(&self.watched), self.turn.at("store")))
            .users(Gated(self.users.clone(), self.turn.at("users")))
            .bureau(Gated(self.bureau.clone(), self.turn.at("bureau")))
            .certificate_authority(Gated(self.ca.clone(), self.turn.at("CA")))
            .personalizer(Gated(self.ear.clone(), self.turn.at("machine")))
            .notifier(Gated(self.mail.clone(), self.turn.at("mail")))
            .access(AllowAll)
            .clock(self.clock.clone())
            .entropy(Seeded::new(self.dice.next()))
            .rules(rules())
            .settings(settings)
            .worker(&self.names[number]);
        Arc::new(engine.build().expect("the engine has all its parts"))
    }

    // ---- the seed's dice ---------------------------------------------------------------------------------------------

    pub(super) fn below(&self, most: u64) -> u64 {
        self.dice.next() % most.max(1)
    }

    /// So many times in a hundred.
    pub(super) fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(super) fn pick<T: Clone>(&self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len() as u64) as usize].clone())
    }

    fn seconds(&self, least: u64, most: u64) -> Duration {
        Duration::from_secs(least + self.below(most - least + 1))
    }

    // ---- the two phases ----------------------------------------------------------------------------------------------

    fn go_through(&mut self, log: &Log) -> Result<Came, String> {
        if self.chance(35) {
            self.make_cards()?;
        }
        while self.steps < STEPS {
            self.steps += 1;
            let ready = self.ready();
            match self.pick(&ready) {
                Some(task) if !self.chance(9) => self.poll(task),
                _ => self.something_happens(),
            }
            self.look()?;
        }
        self.calm_down()?;
        let recovered_in = self.recover()?;
        let mut evidence = self.evidence();
        evidence.recovered_in = recovered_in;
        let still_in_doubt = evidence.doubts();
        self.check(&[AT_EVERY_STEP, ONCE_RECOVERED].concat(), &evidence)?;

        let mut recovered_in = recovered_in;
        // What is given up may turn out to be in doubt at the CA.
        for _ in 0..3 {
            self.settle_all()?;
            recovered_in = self.recover()?;
        }
        let mut evidence = self.evidence();
        evidence.recovered_in = recovered_in;
        evidence.secrets = self.ear.heard();
        evidence.texts = vec![
            ("the store or a report", evidence.as_text()),
            ("the log", log.text()),
            ("an engine", format!("{:?}", self.engines)),
        ];
        self.check(&[AT_EVERY_STEP, ONCE_RECOVERED].concat(), &evidence)?;
        let left = evidence.doubts();
        if !left.is_empty() {
            return Err(format!("people cannot settle {left:?}"));
        }
        Ok(self.summary(&evidence, still_in_doubt.len() as u64))
    }

    /// Some people have cards already, before anything goes wrong.
    fn make_cards(&mut self) -> Result<(), String> {
        self.turn.desk().calm = true;
        self.behave(false);
        for users in [["u1", "u2"], ["u1", "u3"]] {
            let act = self.act(REQUEST, service(), Answer::ids(users.map(user_item)));
            self.begin(act);
            self.run_on()?;
        }
        let approved = self.cards().into_iter().filter(|card| card.state() == CardState::Approved);
        let approved: Vec<_> = approved.map(|card| ItemId::Card(card.id)).collect();
        let act = self.act(ISSUE, service(), Answer::ids(approved));
        self.begin(act);
        self.run_on()?;
        self.behave(true);
        self.turn.desk().calm = false;
        Ok(())
    }

    fn summary(&self, evidence: &Evidence, still_in_doubt: u64) -> Came {
        let mut events: BTreeMap<String, u64> = BTreeMap::new();
        for entry in &evidence.feed {
            *events.entry(entry.code.to_string()).or_default() += 1;
        }
        let desk = self.turn.desk();
        let mut digest = DefaultHasher::new();
        (desk.digest(), evidence.as_text(), format!("{:?}", evidence.histories)).hash(&mut digest);
        Came {
            steps: self.steps,
            commits: desk.commits,
            crashes: self.crashes,
            faults: desk.faults.clone(),
            events,
            doubts: (self.ever_in_doubt.len() as u64, still_in_doubt),
            digest: digest.finish(),
        }
    }

    /// No more faults; all users are back; what was begun comes to an end, or dies and is begun again.
    fn calm_down(&mut self) -> Result<(), String> {
        self.turn.desk().calm = true;
        self.turn.desk().tell(|| "calm".to_owned());
        self.behave(false);
        self.watched.be_back();
        (1..=PEOPLE as u32).for_each(|number| self.users.put(person(number)));
        if self.chance(50) {
            (0..ENGINES).for_each(|engine| self.crash(engine));
        }
        self.run_on()?;
        for act in std::mem::take(&mut self.unfinished) {
            self.begin(act);
            self.run_on()?;
        }
        Ok(())
    }

    /// Lets time pass and the syncs and the sweep run, until nothing is due any more; how long that took.
    fn recover(&mut self) -> Result<Option<TimeDelta>, String> {
        let begin = self.clock.now();
        // What nobody may still be asking for is looked for ten times.
        let waits = [10 * MINUTE, 90 * MINUTE, 5 * DAY, 5 * DAY, 5 * DAY, 5 * DAY];
        for wait in waits.into_iter().chain(std::iter::repeat_n(DAY, 12)) {
            self.clock.advance(wait);
            for process in [SYNC_ORDERS, SYNC_STATUS, SYNC_PRODUCTION, SYNC_ORPHANS] {
                let act = self.act(process, service(), Answer::new());
                self.begin(act);
                self.run_on()?;
            }
            let swept = self.runs.last().is_some_and(|sweep| sweep.report.done_in_all() == 0);
            if swept && self.jobs(&[JobState::Open]).is_empty() {
                return Ok(Some(self.clock.now() - begin));
            }
        }
        Ok(None)
    }

    /// People look at the books of bureau, CA and machine, and settle all that is in doubt.
    fn settle_all(&mut self) -> Result<(), String> {
        for job in self.jobs(&[JobState::InDoubt]) {
            let act = self.settle(&job, true);
            self.begin(act);
            self.run_on()?;
        }
        Ok(())
    }

    /// All tasks go on until they are done; time moves only when all sleep.
    fn run_on(&mut self) -> Result<(), String> {
        let mut polls = 0;
        while !self.tasks.is_empty() {
            self.tasks.iter_mut().for_each(|task| task.paused_until = None);
            let ready = self.ready();
            match self.pick(&ready) {
                Some(task) => self.poll(task),
                None if self.clock.advance_to_next() => {}
                None => return Err("a task waits for ever".to_owned()),
            }
            self.look()?;
            polls += 1;
            if polls > 1_000_000 {
                return Err("a task goes on for ever".to_owned());
            }
        }
        Ok(())
    }

    // ---- the tasks ---------------------------------------------------------------------------------------------------

    /// How many tasks are at work, people's and services'.
    pub(super) fn at_work(&self) -> (usize, usize) {
        let services = self.tasks.iter().filter(|task| task.act.is_a_service()).count();
        (self.tasks.len() - services, services)
    }

    /// Lets one of the engines begin.
    pub(super) fn begin(&mut self, act: Act) {
        let engine = self.below(ENGINES as u64) as usize;
        self.turn.desk().tell(|| format!("{} begins {act:?}", worker(engine)));
        let work = Box::pin(perform(Arc::clone(&self.engines[engine]), act.clone()));
        let woken = Arc::new(Flag(AtomicBool::new(true)));
        self.tasks.push(Task { engine, act, work, woken, paused_until: None });
    }

    fn ready(&mut self) -> Vec<usize> {
        let now = self.clock.now();
        let is_ready = |task: &Task| {
            task.woken.0.load(Ordering::Relaxed)
                && task.paused_until.is_none_or(|(until, step)| until <= now && step <= self.steps)
        };
        (0..self.tasks.len()).filter(|place| is_ready(&self.tasks[*place])).collect()
    }

    fn poll(&mut self, place: usize) {
        let task = &mut self.tasks[place];
        task.woken.0.store(false, Ordering::Relaxed);
        task.paused_until = None;
        let engine = task.engine;
        self.turn.desk().tell(|| format!("  {} goes on with {}", worker(engine), task.act.name()));
        let waker = Waker::from(Arc::clone(&task.woken));
        let polled = task.work.as_mut().poll(&mut Context::from_waker(&waker));
        let wish = self.turn.desk().wish.take();
        if let Poll::Ready(ended) = polled {
            let Task { act, .. } = self.tasks.swap_remove(place);
            self.turn.desk().tell(|| format!("  {} ended: {ended:?}", act.name()));
            match ended {
                Ok(ran) => {
                    let interrupted = ran.as_ref().is_some_and(|ran| ran.report.interrupted.is_some());
                    self.runs.extend(ran);
                    if interrupted && !act.is_a_service() {
                        self.unfinished.push(act);
                    } else if act.is_a_run() {
                        self.begun.push(act);
                    }
                }
                Err(error) => {
                    self.turn.desk().count(format!("a run did not begin: {}", kind_of(&error)));
                    if !act.is_a_service() {
                        self.unfinished.push(act);
                    }
                }
            }
            return;
        }
        match wish {
            Some(Wish::Pause(time, steps)) => {
                let task = &mut self.tasks[place];
                let lease =
                    if time > 5 * MINUTE { "a worker stood still beyond its lease" } else { "a worker stood still" };
                let until = self.clock.now() + TimeDelta::from_std(time).expect("it is short");
                task.paused_until = Some((until, self.steps + steps));
                let mut desk = self.turn.desk();
                desk.count(lease);
                desk.tell(|| format!("  it stands still until {until}"));
            }
            Some(Wish::Crash) => self.crash(engine),
            None => {}
        }
    }

    /// An engine dies with all that it was doing, and another takes its place.
    pub(super) fn crash(&mut self, engine: usize) {
        self.turn.desk().tell(|| format!("{} dies", worker(engine)));
        let (dead, alive): (Vec<Task>, Vec<Task>) =
            std::mem::take(&mut self.tasks).into_iter().partition(|task| task.engine == engine);
        self.tasks = alive;
        if !dead.is_empty() {
            self.crashes += 1;
            self.left_behind = Some(self.left_by(engine, dead.len()));
        }
        let people = dead.into_iter().map(|task| task.act).filter(|act| !act.is_a_service());
        self.unfinished.extend(people);
        self.names[engine] = format!("{}, after {} crashes", worker(engine), self.crashes);
        self.engines[engine] = self.engine(engine);
    }

    /// What an engine was trying when it died, with all these tasks.
    fn left_by(&self, engine: usize, tasks: usize) -> Crash {
        let own = |job: &&Job| {
            job.attempt.is_some() && job.claim.as_ref().is_some_and(|claim| claim.worker == self.names[engine])
        };
        let in_flight = self.jobs(&[JobState::Open]).iter().filter(own).map(|job| job.id).collect();
        let in_doubt = self.jobs(&[JobState::InDoubt]).iter().map(|job| job.id).collect();
        Crash { in_doubt, in_flight, at_once: tasks * CHUNK }
    }

    // ---- what goes wrong ---------------------------------------------------------------------------------------------

    /// How the outside behaves.
    fn behave(&self, faulty: bool) {
        let bureau =
            BureauBehaviour::calm().in_production_after(10 * MINUTE).shipped_after(3 * HOUR).delivered_after(HOUR);
        let (ca, machine) = (CaBehaviour::calm(), PersonalizerBehaviour::calm());
        let (bureau, ca, machine) = if faulty {
            let late = if self.chance(50) { 10 * Duration::from_secs(1) } else { 10 * MINUTE };
            let bureau = bureau.refused(60).unavailable(60).rate_limited(40).lost_after_accepting(70);
            let bureau = bureau.lost_before_accepting(70).late(40).late_by(late).production_failed(150);
            let bureau = bureau.status_unknown(250).status_backwards(100).status_repeated(100);
            let bureau = bureau.status_unavailable(60).status_rate_limited(60).spread(HOUR);
            let ca = ca.refused(25).unavailable(50).pending(70).pending_refused(200).decided_after(10 * MINUTE);
            let ca = ca.lost_after_issuing(40).lost_before_issuing(40).late(30).silent(15).late_by(late);
            let ca = ca.change_unavailable(60).change_lost(50).read_unavailable(40).spread(HOUR);
            let machine = machine.prepare_spoiled(30).prepare_jammed(50).prepare_lost(40).prepare_late(30);
            let machine = machine.prepare_silent(10).finish_spoiled(50).finish_jammed(50).finish_lost(40);
            (bureau, ca, machine.finish_late(30).finish_silent(10).discard_jammed(50).late_by(late))
        } else {
            (bureau, ca, machine)
        };
        self.bureau.behave(self.kind.able(bureau));
        self.ca.behave(ca.can_look(self.ca_looks));
        self.machine.behave(machine.makes_keys(self.makes_keys));
        if !faulty {
            let now = self.clock.now();
            self.bureau.outage(now);
            self.ca.outage(now);
            self.machine.outage(now);
        }
    }

    fn something_happens(&mut self) {
        let (people, services) = self.at_work();
        match self.below(100) {
            0..45 if people < 5 => self.somebody_comes(),
            45..62 if services < 3 => {
                let process =
                    self.pick(&[SYNC_ORDERS, SYNC_ORDERS, SYNC_STATUS, SYNC_PRODUCTION, SYNC_PRODUCTION, SYNC_ORPHANS]);
                let act = self.act(process.expect("there are some"), service(), Answer::new());
                self.begin(act);
            }
            62..64 => self.outage(),
            64..66 => self.trouble_with_the_store(),
            66..69 => self.somebody_leaves_or_returns(),
            69..71 => {
                let act = self.other_options();
                self.begin(act);
            }
            71 => {
                let engine = self.below(ENGINES as u64) as usize;
                self.crash(engine);
            }
            72 if self.chance(25) => {
                self.turn.desk().count("the machine was started anew");
                self.machine.restart();
            }
            73..78 if !self.unfinished.is_empty() => {
                let place = self.below(self.unfinished.len() as u64) as usize;
                let act = self.unfinished.remove(place);
                self.begin(act);
            }
            78 => {
                if let Some(act) = self.pick(&self.begun) {
                    self.begin(act);
                }
            }
            _ => self.time_passes(),
        }
    }

    fn time_passes(&self) {
        let time = match self.below(100) {
            0..55 => self.seconds(1, 5),
            55..75 => self.seconds(6, 60),
            75..94 => self.seconds(120, 1500),
            94..99 => self.seconds(3600, 6 * 3600),
            _ => self.seconds(24 * 3600, 3 * 24 * 3600),
        };
        if time > HOUR {
            self.turn.desk().count("the clock jumped");
        }
        self.turn.desk().tell(|| format!("{time:?} pass"));
        self.clock.advance(time);
    }

    fn outage(&self) {
        let until = self.clock.now() + TimeDelta::from_std(self.seconds(30, 600)).expect("it is short");
        let who = self.pick(&["bureau", "CA", "machine"]).expect("there are some");
        match who {
            "bureau" => self.bureau.outage(until),
            "CA" => self.ca.outage(until),
            _ => self.machine.outage(until),
        }
        let mut desk = self.turn.desk();
        desk.count(format!("{who} was away"));
        desk.tell(|| format!("{who} is away until {until}"));
    }

    fn trouble_with_the_store(&self) {
        let trouble = self.pick(&["a commit failed", "the answer to a commit was lost", "the store was away"]);
        let trouble = trouble.expect("there are some");
        match trouble {
            "a commit failed" => self.watched.fail_commits([Some(RepositoryError::unavailable("locked"))]),
            "the answer to a commit was lost" => self.watched.lose_answers([true]),
            _ => self.watched.be_away(0, 1 + self.below(4) as usize),
        }
        let mut desk = self.turn.desk();
        desk.count(trouble);
        desk.tell(|| trouble.to_owned());
    }

    fn somebody_leaves_or_returns(&self) {
        let user = person(1 + self.below(PEOPLE) as u32);
        let leaves = self.chance(30);
        let state = if leaves { UserState::Inactive } else { UserState::Active };
        if leaves {
            self.turn.desk().count("a user left");
        }
        self.turn.desk().tell(|| format!("user {} is {state:?}", user.id));
        self.users.put(User { state, ..user });
    }

    // ---- looking -----------------------------------------------------------------------------------------------------

    pub(super) fn jobs(&self, states: &[JobState]) -> Vec<Job> {
        let query = JobQuery { states: states.to_vec(), ..JobQuery::default() };
        block_on(self.store.job_page(&query, None, usize::MAX)).expect("jobs can be read")
    }

    pub(super) fn cards(&self) -> Vec<Card> {
        block_on(self.store.card_page(&CardQuery::default(), None, usize::MAX)).expect("cards can be read")
    }

    /// After every commit a look at the cards that it was about; now and then at everything.
    fn look(&mut self) -> Result<(), String> {
        if let Some(crash) = self.left_behind.take() {
            let evidence = Evidence { jobs: self.jobs(&[]), crash: Some(crash), ..Evidence::default() };
            let check = AT_EVERY_STEP.iter().filter(|(name, _)| *name == "doubt_is_at_most_what_was_in_flight");
            self.check(&check.copied().collect::<Vec<_>>(), &evidence)?;
        }
        let page = block_on(self.store.changes_since(self.cursor.as_deref(), usize::MAX)).expect("it can be read");
        if page.entries.is_empty() {
            return Ok(());
        }
        self.cursor = page.cursor;
        self.ever_in_doubt.extend(self.jobs(&[JobState::InDoubt]).into_iter().map(|job| job.id));
        let commits = self.turn.desk().commits;
        if commits >= self.commits_at_scan + COMMITS_PER_SCAN {
            self.commits_at_scan = commits;
            let evidence = self.evidence();
            self.check(AT_EVERY_STEP, &evidence)?;
            self.before = evidence.histories;
            return Ok(());
        }
        let mut cards = BTreeSet::new();
        for entry in page.entries {
            match entry.entry.object {
                ObjectId::Card(card) => drop(cards.insert(card)),
                ObjectId::Certificate(id) => {
                    let found = block_on(self.store.certificates(&[id])).expect("certificates can be read");
                    cards.extend(found.into_iter().map(|certificate| certificate.card));
                }
                ObjectId::Request(id) => {
                    let found = block_on(self.store.requests(&[id])).expect("requests can be read");
                    cards.extend(found.into_iter().map(|request| request.card));
                }
                _ => {}
            }
        }
        if cards.is_empty() { Ok(()) } else { self.check(AT_EVERY_STEP, &self.evidence_about(&cards)) }
    }

    /// What the books say, in words: the histories, the jobs, and what was made outside.
    fn books(&self) -> Vec<String> {
        let evidence = self.evidence();
        let history = evidence.feed.iter().map(|entry| {
            let (at, reference) = (entry.at, entry.reference.as_deref().unwrap_or_default());
            format!("{at} {}: {:?} -> {} ({} {reference})", entry.object, entry.from, entry.to, entry.code)
        });
        let jobs = evidence.jobs.iter().map(|job| format!("{job:?}"));
        let bureau = evidence.bureau.iter().map(|entry| format!("{entry:?}"));
        let ca = evidence.ca.iter().map(|entry| format!("{entry:?}"));
        let machine = evidence.machine.iter().map(|entry| format!("{entry:?}"));
        history.chain(jobs).chain(bureau).chain(ca).chain(machine).collect()
    }

    fn check(&self, checks: &[Check], evidence: &Evidence) -> Result<(), String> {
        let broken = broken(checks, evidence);
        if broken.is_empty() { Ok(()) } else { Err(broken.join("\n")) }
    }

    /// Everything there is.
    fn evidence(&self) -> Evidence {
        let mut evidence = Evidence::of(&self.auditor, &self.store);
        evidence.runs = self.runs.clone();
        evidence.before = self.before.clone();
        self.complete(evidence)
    }

    /// Everything about these cards and the other cards of their holders.
    fn evidence_about(&self, ids: &BTreeSet<CardId>) -> Evidence {
        let store = &self.store;
        let jobs: BTreeMap<JobId, Job> = self.jobs(&[]).into_iter().map(|job| (job.id, job)).collect();
        let read = async {
            let mut cards = store.cards(&ids.iter().copied().collect::<Vec<_>>()).await?;
            let holders: BTreeSet<UserId> = cards.iter().filter_map(|card| card.holder.clone()).collect();
            let others = store.cards_of(&holders.into_iter().collect::<Vec<_>>(), &CardState::ALL).await?;
            cards.extend(others.into_iter().filter(|card| !ids.contains(&card.id)));
            let ids: Vec<CardId> = cards.iter().map(|card| card.id).collect();
            let query = CertificateQuery { cards: ids.clone(), ..CertificateQuery::default() };
            let requests: Vec<_> = cards.iter().filter_map(|card| card.request).collect();
            let ours = |card: Option<CardId>| card.is_none_or(|card| ids.contains(&card));
            let of_job = |text: &str| ours(text.parse().ok().and_then(|id: JobId| jobs.get(&id)?.card));
            let of_attempt = |text: &str| of_job(text.rsplit_once('-').map_or("", |(job, _)| job));
            let mut evidence = Evidence {
                certificates: store.certificate_page(&query, None, usize::MAX).await?,
                requests: store.requests(&requests).await?,
                bureau: self.bureau.ledger().into_iter().filter(|entry| of_attempt(&entry.reference)).collect(),
                ca: self.ca.ledger().into_iter().filter(|entry| of_job(&entry.key)).collect(),
                machine: self.machine.ledger().into_iter().filter(|entry| ids.contains(&entry.card)).collect(),
                ..Evidence::default()
            };
            evidence.jobs = jobs.into_values().filter(|job| job.card.is_some_and(|id| ids.contains(&id))).collect();
            let owed =
                |id| evidence.jobs.iter().any(|job| matches!(&job.task, cardwright::Task::Notify(m) if m.id == id));
            evidence.mail = self.mail.sent().into_iter().filter(|message| owed(message.id)).collect();
            let keys: BTreeSet<String> = cards
                .iter()
                .flat_map(|card| {
                    let of_holder =
                        card.holder.iter().flat_map(|h| [format!("open-order/{h}"), format!("active-card/{h}")]);
                    let number = card.number.iter().map(|number| format!("number/{number}"));
                    card.reservations.iter().cloned().chain(of_holder).chain(number).collect::<Vec<_>>()
                })
                .collect();
            evidence.held = store.reservations(&keys.into_iter().collect::<Vec<_>>()).await?;
            evidence.cards = cards;
            let objects = (ids.iter().map(|id| ObjectId::Card(*id)))
                .chain(evidence.certificates.iter().map(|certificate| ObjectId::Certificate(certificate.id)))
                .chain(evidence.requests.iter().map(|request| ObjectId::Request(request.id)));
            let mut histories = BTreeMap::new();
            for object in objects {
                let entries = store.history(&object, 0, usize::MAX).await?;
                evidence.feed.extend(entries.iter().cloned());
                histories.insert(object, entries);
            }
            evidence.histories = histories;
            Ok::<_, RepositoryError>(evidence)
        };
        self.complete(block_on(read).expect("all can be read"))
    }

    /// Adds what only the world knows.
    fn complete(&self, mut evidence: Evidence) -> Evidence {
        let people = PEOPLE_AT_WORK.iter().map(|(login, person)| {
            let login = ActorId::new(*login).expect("a valid login");
            (login, UserId::new(*person).expect("a valid id"))
        });
        evidence.people = people.collect();
        evidence.house = House {
            orders_are_approved: self.script.orders_are_always_approved,
            requests_are_approved: self.script.requests_are_always_approved,
            several_orders: self.script.several_orders_at_times,
            several_active: self.script.several_active_at_times,
        };
        evidence.most_attempts = Some(MOST_ATTEMPTS);
        // Whoever dies when: only what was tried can be in doubt, and what the CA has refused.
        let may_be =
            |job: &&Job| job.attempts > 0 || matches!(job.kind(), JobKind::RemoveHold | JobKind::RevokeCertificate);
        let in_flight = evidence.jobs.iter().filter(may_be).map(|job| job.id).collect();
        evidence.crash = Some(Crash { in_doubt: BTreeSet::new(), in_flight, at_once: usize::MAX });
        evidence
    }
}

pub(super) fn worker(number: usize) -> String {
    format!("worker {number}")
}

fn kind_of(error: &cardwright::Error) -> String {
    let words = format!("{error:?}");
    words.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
}
