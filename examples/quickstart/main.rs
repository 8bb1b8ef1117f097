//! A card office from the first to the last step: reads people from a CSV file, orders a card for each at a bureau, and
//! follows the orders until the cards are made. The office is an SQLite file; the bureau and its time are simulated.
//!
//! ```text
//! cargo run --release --example quickstart [people.csv] [office.db]
//! ```
//!
//! Stop it wherever you like, even with `kill -9`, and start it again: it finishes what it began. Start it once more after
//! that: who has a card on order is refused another.

mod bar;
mod people;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use cardwright::adapters::memory::{MemoryUsers, RecordingNotifier};
use cardwright::adapters::simulator::{BureauBehaviour, PlaceScript, SimulatedBureau, SimulatedClock};
use cardwright::adapters::sqlite::{SqliteOptions, SqliteRepository};
use cardwright::host::{CardQuery, CardRepository as _, Clock as _, JobQuery, RolePolicy, SystemClock};
use cardwright::process::{Answer, Filter, HouseRules, ItemId, Outcome, Slot};
use cardwright::{
    Actor, ActorId, Card, CardElement, CardState, ChainKey, Engine, EngineSettings, JobKind, JobState, ObjectId,
    ProductionType, Report, Role, RunId, User, UserId,
};
use chrono::{DateTime, TimeDelta, Utc};
use futures::executor::block_on;
use uuid::Uuid;

use bar::Bar;

const ORDER: &str = "CardsAddonExtProdBoProcOrderMultiple";
const ABORT: &str = "CardsAddonExtProdProcAbort";
const UPDATE: &str = "CardsAddonExtProdProcUpdate";
const SYNC_ORDERS: &str = "CardsAddonExtProdBatchSyncOrder";
const SYNC_STATUS: &str = "CardsAddonExtProdBatchSyncStatus";

const HOUR: Duration = Duration::from_secs(60 * 60);

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let sample = || Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/people.csv");
    let people = arguments.next().map_or_else(sample, PathBuf::from);
    let office = arguments.next().map_or_else(|| PathBuf::from("cardwright-quickstart.db"), PathBuf::from);
    match block_on(run(&people, &office)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", in_one_line(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(people: &Path, file: &Path) -> Result<(), Box<dyn Error>> {
    let people = people::read(people)?;
    let office = Office::open(people, file).await?;
    office.switch_on(ABORT, &[CardState::Processing]).await?;
    office.switch_on(UPDATE, &[CardState::Ordered, CardState::InProduction]).await?;

    let ordered = office.order_for_everybody().await?;
    office.abort_one().await?;
    office.send_orders().await?;
    let updated = office.update_one().await?;
    office.follow_orders().await?;

    office.summary(&ordered).await?;
    office.doubts().await?;
    let produced = office.any(CardState::Produced).await?;
    if let Some(card) = updated.or(produced) {
        office.history(&card).await?;
    }
    fs::remove_file(&office.run_file)?;
    println!(
        "\nThe office is in {}. Start this again and see who is refused; delete the file to begin anew.",
        file.display()
    );
    Ok(())
}

// ---- the office --------------------------------------------------------------------------------------------------

struct Office {
    engine: Engine,
    bureau: SimulatedBureau,
    clock: SimulatedClock,
    operator: Actor,
    administrator: Actor,
    service: Actor,
    people: u64,
    run: RunId,
    /// Keeps the id of the run in hand as long as it is not finished.
    run_file: PathBuf,
}

impl Office {
    async fn open(people: Vec<User>, file: &Path) -> Result<Self, Box<dyn Error>> {
        // Time is simulated, so that days pass in moments. It goes on where the office has got to, after all claims of an
        // earlier process have run out.
        let clock = SimulatedClock::new(SystemClock.now()).auto();
        let repository = SqliteRepository::open_with(file, SqliteOptions::new(Arc::new(clock.clone())))?;
        let past = Past::read(&repository).await?;
        let ahead = past.last.map_or(TimeDelta::zero(), |last| last - clock.now());
        clock.advance(ahead.to_std().unwrap_or_default() + HOUR);

        // The bureau is simulated too: as poor as they are, and on the orders of an earlier process it goes on.
        let bureau = SimulatedBureau::new(2030, Arc::new(clock.clone())).behaving(BureauBehaviour::poor().late(0));
        for (order_id, at) in past.accepted {
            bureau.remember(order_id, at);
        }
        if past.last.is_none() {
            bureau.next_place(PlaceScript::LoseReplyAfterAccepting);
            bureau.next_place(PlaceScript::Refuse("the article is not available".to_owned()));
        }

        let badge = ProductionType::new("standard", "BADGE-1")
            .element(CardElement::required("NAME", "commonName", 64))
            .element(CardElement::required("NUMBER", Card::NUMBER, 12))
            .element(CardElement::optional("EMPLOYEE", "employeeNumber", 12));
        let count = people.len() as u64;
        let engine = Engine::builder()
            .repository(repository)
            .users(MemoryUsers::new(people))
            .bureau(bureau.clone())
            .notifier(RecordingNotifier::new())
            .access(RolePolicy::standard())
            .clock(clock.clone())
            .rules(HouseRules::new().production_type(badge).status_map(SimulatedBureau::status_map()))
            // A real office keeps its key outside the file that it seals.
            .chain_key(ChainKey::new(b"a key for trials"))
            .settings(EngineSettings::new().chunk(100))
            .build()?;
        let person = |login: &str, roles: &[Role]| -> Result<Actor, Box<dyn Error>> {
            Ok(Actor::person(ActorId::new(login)?, UserId::new(login)?, roles.iter().cloned()))
        };
        let mut run_file = file.as_os_str().to_owned();
        run_file.push(".run");
        let run_file = PathBuf::from(run_file);
        Ok(Self {
            engine,
            bureau,
            clock,
            operator: person("olga", &[Role::Operator])?,
            administrator: person("ada", &[Role::Administrator])?,
            service: Actor::system(ActorId::new("sync")?, [Role::BatchSync]),
            people: count,
            run: run_in_hand(&run_file)?,
            run_file,
        })
    }

    /// Adds a process that is off by default to the slots of cards in these states.
    async fn switch_on(&self, process: &str, states: &[CardState]) -> Result<(), Box<dyn Error>> {
        for state in states {
            self.engine.enable(process, Slot::Card(*state), &self.administrator).await?;
        }
        Ok(())
    }

    /// The batch: all that the search finds. Under the id of a run that was begun, it does what is left of it.
    async fn order_for_everybody(&self) -> Result<Report, Box<dyn Error>> {
        println!("\nOrdering a card for each, in run {}", self.run);
        let run = self.engine.open_as(self.run, ORDER, &self.operator).await?;
        let mut execution = self.engine.next(&run, Answer::all(Filter::Users(Default::default()))).await?;
        let mut examples = BTreeMap::new();
        let mut bar = Bar::new("ordering", self.people);
        while let Some(chunk) = execution.next_chunk().await? {
            for (item, outcome) in chunk {
                if let Outcome::Refused(refusal) = outcome {
                    examples.entry(refusal.code).or_insert(format!("{item}: {}", refusal.reason));
                }
            }
            bar.show(execution.progress().items);
        }
        bar.end();
        let report = execution.report().clone();
        if report.done_earlier > 0 {
            println!("  {:>5}  done by an earlier start of this run", report.done_earlier);
        }
        for (state, count) in &report.done {
            println!("  {count:>5}  {state}");
        }
        for (code, count) in &report.refused {
            println!("  {count:>5}  refused: {code}");
            println!("         such as {}", examples.get(code).map_or("", String::as_str));
        }
        finished(&report)?;
        Ok(report)
    }

    /// Takes one order out of the queue, unless that was done before.
    async fn abort_one(&self) -> Result<(), Box<dyn Error>> {
        if self.any(CardState::Aborted).await?.is_some() {
            return Ok(());
        }
        let Some(card) = self.any(CardState::Processing).await? else { return Ok(()) };
        let run = self.engine.open(ABORT, &self.operator).await?;
        finished(&self.engine.next(&run, Answer::ids([ItemId::Card(card.id)])).await?.finish().await?)?;
        println!("\nAborted the order of {}", self.reload(&card).await.map(|card| describe(&card))?);
        Ok(())
    }

    /// The background sync, until the queue is empty.
    async fn send_orders(&self) -> Result<(), Box<dyn Error>> {
        let waiting = self.open_jobs(JobKind::PlaceOrder).await?;
        println!("\nSending {waiting} orders to the bureau, which may refuse, be away, or lose its answer");
        let mut bar = Bar::new("sending", waiting);
        while self.open_jobs(JobKind::PlaceOrder).await? > 0 || self.open_jobs(JobKind::Notify).await? > 0 {
            self.sync(SYNC_ORDERS, JobKind::PlaceOrder, &mut bar).await?;
            self.clock.advance(HOUR / 20);
        }
        bar.end();
        println!("  the bureau has {} orders on its books", self.bureau.ledger().len());
        Ok(())
    }

    /// A forced update: the status sync would do the same later.
    async fn update_one(&self) -> Result<Option<Card>, Box<dyn Error>> {
        let Some(card) = self.any(CardState::Ordered).await? else { return Ok(None) };
        self.clock.advance(20 * HOUR);
        let run = self.engine.open(UPDATE, &self.operator).await?;
        finished(&self.engine.next(&run, Answer::ids([ItemId::Card(card.id)])).await?.finish().await?)?;
        let now = self.reload(&card).await?;
        println!("\nUpdated one order by hand, 20 hours later: it was {}, now it is {}", card.state(), describe(&now));
        Ok(Some(now))
    }

    /// The background sync, twice a day until every card is made or failed.
    async fn follow_orders(&self) -> Result<(), Box<dyn Error>> {
        let waiting = self.open_jobs(JobKind::TrackOrder).await?;
        println!("\nFollowing {waiting} orders");
        let mut bar = Bar::new("produced", waiting);
        let start = self.clock.now();
        while self.open_jobs(JobKind::TrackOrder).await? > 0 {
            self.clock.advance(12 * HOUR);
            self.sync(SYNC_STATUS, JobKind::TrackOrder, &mut bar).await?;
        }
        bar.end();
        println!("  {:.1} days later all are answered for", (self.clock.now() - start).num_hours() as f64 / 24.0);
        Ok(())
    }

    /// Runs a sync, chunk by chunk; the bar shows how many jobs of the kind are done.
    async fn sync(&self, process: &str, kind: JobKind, bar: &mut Bar) -> Result<(), Box<dyn Error>> {
        let run = self.engine.open(process, &self.service).await?;
        let mut execution = self.engine.next(&run, Answer::new()).await?;
        while execution.next_chunk().await?.is_some() {
            bar.show(bar.total().saturating_sub(self.open_jobs(kind).await?));
        }
        finished(execution.report())
    }

    async fn open_jobs(&self, kind: JobKind) -> Result<u64, Box<dyn Error>> {
        let query = JobQuery { kinds: vec![kind], states: vec![JobState::Open] };
        Ok(self.engine.job_page(&query, None, usize::MAX >> 1).await?.len() as u64)
    }

    async fn any(&self, state: CardState) -> Result<Option<Card>, Box<dyn Error>> {
        let query = CardQuery { states: vec![state], in_doubt: Some(false), ..CardQuery::default() };
        Ok(self.engine.card_page(&query, None, 1).await?.pop())
    }

    async fn reload(&self, card: &Card) -> Result<Card, Box<dyn Error>> {
        Ok(self.engine.cards(&[card.id]).await?.pop().ok_or("the card is gone")?)
    }

    // ---- what it came to -----------------------------------------------------------------------------------------

    async fn summary(&self, ordered: &Report) -> Result<(), Box<dyn Error>> {
        let mut states: BTreeMap<(CardState, bool), u64> = BTreeMap::new();
        let mut causes: BTreeMap<String, u64> = BTreeMap::new();
        let mut after = None;
        loop {
            let page = self.engine.card_page(&CardQuery::default(), after, 500).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            for card in page {
                *states.entry((card.state(), card.busy.as_ref().is_some_and(|busy| busy.in_doubt))).or_default() += 1;
                if let Some(failure) = card.failure {
                    *causes.entry(failure.cause).or_default() += 1;
                }
            }
        }
        println!("\nAll cards of the office");
        for ((state, in_doubt), count) in states {
            println!("  {count:>5}  {state}{}", if in_doubt { ", in doubt" } else { "" });
        }
        for (cause, count) in causes {
            println!("         of the failed, {count}: {cause}");
        }
        println!("\nNo card was ordered in this run for");
        for (code, count) in &ordered.refused {
            println!("  {count:>5}  {code}");
        }
        Ok(())
    }

    /// What only a person can settle.
    async fn doubts(&self) -> Result<(), Box<dyn Error>> {
        let doubts = self.engine.doubts(None, 1000).await?;
        if doubts.is_empty() {
            return Ok(());
        }
        println!(
            "\nIn doubt: sent, and never answered. Ask the bureau for the reference, then run CardsProcResolveDoubt:"
        );
        println!("\"accepted\" with its order id, \"send again\", or \"give up\". Nothing is sent twice by itself.");
        for job in doubts {
            let card = self.engine.cards(&Vec::from_iter(job.card)).await?.pop();
            let reference = job.attempt.map_or_else(String::new, |attempt| attempt.reference);
            println!("         {reference}  {}", card.as_ref().map_or_else(String::new, describe));
        }
        Ok(())
    }

    async fn history(&self, card: &Card) -> Result<(), Box<dyn Error>> {
        let card = self.reload(card).await?;
        println!("\nHistory of {}", describe(&card));
        for entry in self.engine.history(&ObjectId::Card(card.id)).await? {
            let step =
                entry.from.filter(|from| *from != entry.to).map_or_else(String::new, |from| format!("{from} → "));
            let (at, actor) = (entry.at.format("%F %H:%M"), entry.actor.as_str());
            let reference = entry.reference.unwrap_or_default();
            println!("  {:>3}  {at}  {actor:<5} {:<28} {} {reference}", entry.sequence, step + &entry.to, entry.code);
        }
        match self.engine.verify_card(&card).await? {
            Ok(entries) => println!("  its chain of {entries} sealed entries is whole"),
            Err(problem) => println!("  its chain is broken: {problem}"),
        }
        Ok(())
    }
}

/// What the store tells of earlier processes.
#[derive(Default)]
struct Past {
    /// When something last happened.
    last: Option<DateTime<Utc>>,
    /// The orders that the bureau accepted, and when.
    accepted: Vec<(String, DateTime<Utc>)>,
}

impl Past {
    /// Reads through the feed of changes.
    async fn read(repository: &SqliteRepository) -> Result<Self, Box<dyn Error>> {
        let mut past = Self::default();
        let mut cursor = None;
        loop {
            let page = repository.changes_since(cursor.as_deref(), 1000).await?;
            if page.entries.is_empty() {
                return Ok(past);
            }
            for entry in page.entries.into_iter().map(|feed| feed.entry) {
                past.last = past.last.max(Some(entry.at));
                past.accepted.extend(entry.reference.filter(|_| entry.code == "accepted").map(|id| (id, entry.at)));
            }
            cursor = page.cursor;
        }
    }
}

/// The run that an earlier process did not finish, or a new one.
fn run_in_hand(file: &Path) -> Result<RunId, Box<dyn Error>> {
    match fs::read_to_string(file) {
        Ok(id) => Ok(id.trim().parse().map_err(|error| format!("{}: {error}", file.display()))?),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            #[expect(clippy::disallowed_methods, reason = "a new run needs an id that no other has")]
            let run = RunId::new(Uuid::new_v4());
            fs::write(file, run.to_string())?;
            Ok(run)
        }
        Err(error) => Err(format!("{}: {error}", file.display()).into()),
    }
}

fn finished(report: &Report) -> Result<(), Box<dyn Error>> {
    match &report.interrupted {
        None => Ok(()),
        Some(interruption) => Err(format!("run {} was interrupted: {interruption:?}", report.run).into()),
    }
}

fn describe(card: &Card) -> String {
    let name = card.attributes.get("commonName").map_or("", String::as_str);
    format!("card {} of {name}, {}", card.number.as_deref().unwrap_or("without number"), card.state())
}

/// An error with its causes, as far as they say something new.
fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source()).map(ToString::to_string);
    causes.fold(String::new(), |line, cause| match line.as_str() {
        "" => cause,
        said if said.contains(&cause) => line,
        said => format!("{said}: {cause}"),
    })
}
