//! The office: the engine with its store, its simulated bureau and its people.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cardwright::adapters::memory::{MemoryUsers, RecordingNotifier};
use cardwright::adapters::simulator::{BureauBehaviour, PlaceScript, SimulatedBureau, SimulatedClock};
use cardwright::adapters::sqlite::{SqliteOptions, SqliteRepository};
use cardwright::host::{CardQuery, CardRepository as _, Clock as _, JobQuery, RolePolicy, SystemClock};
use cardwright::process::{HouseRules, Slot};
use cardwright::{
    Actor, ActorId, Card, CardElement, CardId, CardState, ChainKey, Engine, EngineSettings, Job, JobKind, JobState,
    ProductionType, Role, RunId, User, UserId,
};
use chrono::{DateTime, TimeDelta, Utc};

use crate::run_file::RunFile;

pub(crate) const HOUR: Duration = Duration::from_secs(60 * 60);

/// From so many people on, some mishaps are shown: an order is aborted, and the bureau is as poor as they are. With fewer
/// people all goes well.
const MANY: usize = 20;

pub(crate) struct Office {
    pub(crate) engine: Engine,
    pub(crate) bureau: SimulatedBureau,
    pub(crate) clock: SimulatedClock,
    /// Orders, aborts and updates.
    pub(crate) operator: Actor,
    /// Settles doubts.
    pub(crate) producer: Actor,
    /// Runs in the background; no person.
    pub(crate) service: Actor,
    pub(crate) people: u64,
    pub(crate) with_mishaps: bool,
    pub(crate) run: RunId,
    pub(crate) run_file: RunFile,
    administrator: Actor,
}

impl Office {
    pub(crate) async fn open(people: Vec<User>, file: &Path) -> Result<Self, Box<dyn Error>> {
        // Time is simulated, so that days pass in moments. It goes on where the office has got to, after all claims of an
        // earlier process have run out.
        let clock = SimulatedClock::new(SystemClock.now()).auto();
        let repository = SqliteRepository::open_with(file, SqliteOptions::new(Arc::new(clock.clone())))?;
        let past = Past::read(&repository).await?;
        let ahead = past.last.map_or(TimeDelta::zero(), |last| last - clock.now());
        clock.advance(ahead.to_std().unwrap_or_default() + HOUR);

        // The bureau is simulated too; on the orders of an earlier process it goes on.
        let (count, with_mishaps) = (people.len() as u64, people.len() >= MANY);
        let behaviour = if with_mishaps { BureauBehaviour::poor().late(0) } else { BureauBehaviour::calm() };
        let bureau = SimulatedBureau::new(2030, Arc::new(clock.clone())).behaving(behaviour);
        for (order_id, at) in past.accepted {
            bureau.remember(order_id, at);
        }
        if past.last.is_none() && with_mishaps {
            bureau.next_place(PlaceScript::LoseReplyAfterAccepting);
            bureau.next_place(PlaceScript::Refuse("the article is not available".to_owned()));
        }

        let badge = ProductionType::new("standard", "BADGE-1")
            .element(CardElement::required("NAME", "commonName", 64))
            .element(CardElement::required("NUMBER", Card::NUMBER, 12))
            .element(CardElement::optional("EMPLOYEE", "employeeNumber", 12));
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
        let person = |login: &str, role: Role| -> Result<Actor, Box<dyn Error>> {
            Ok(Actor::person(ActorId::new(login)?, UserId::new(login)?, [role]))
        };
        let run_file = RunFile::beside(file);
        Ok(Self {
            engine,
            bureau,
            clock,
            operator: person("olga", Role::Operator)?,
            producer: person("paul", Role::CardProductionAdministrator)?,
            service: Actor::system(ActorId::new("sync")?, [Role::BatchSync]),
            people: count,
            with_mishaps,
            run: run_file.run()?,
            run_file,
            administrator: person("ada", Role::Administrator)?,
        })
    }

    /// Adds a process that is off by default to the slots of cards in these states.
    pub(crate) async fn switch_on(&self, process: &str, states: &[CardState]) -> Result<(), Box<dyn Error>> {
        for state in states {
            self.engine.enable(process, Slot::Card(*state), &self.administrator).await?;
        }
        Ok(())
    }

    pub(crate) async fn open_jobs(&self, kinds: &[JobKind]) -> Result<Vec<Job>, Box<dyn Error>> {
        let query = JobQuery { kinds: kinds.to_vec(), states: vec![JobState::Open] };
        Ok(self.engine.job_page(&query, None, usize::MAX >> 1).await?)
    }

    /// The cards that these jobs are about.
    pub(crate) async fn cards_of(&self, jobs: &[Job]) -> Result<Vec<Card>, Box<dyn Error>> {
        let ids: Vec<CardId> = jobs.iter().filter_map(|job| job.card).collect();
        Ok(self.engine.cards(&ids).await?)
    }

    pub(crate) async fn card(&self, id: CardId) -> Result<Card, Box<dyn Error>> {
        Ok(self.engine.cards(&[id]).await?.pop().ok_or("the card is gone")?)
    }

    /// A card in this state that is not in doubt, if there is one.
    pub(crate) async fn any(&self, state: CardState) -> Result<Option<Card>, Box<dyn Error>> {
        let query = CardQuery { states: vec![state], in_doubt: Some(false), ..CardQuery::default() };
        Ok(self.engine.card_page(&query, None, 1).await?.pop())
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
