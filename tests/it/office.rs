//! An office to test with: the engine on a store in memory (or on one of the test's choice), a simulated bureau, a directory
//! of a few people, and a clock that tests move.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cardwright::adapters::memory::{MemoryRepository, MemoryUsers, RecordingNotifier};
use cardwright::adapters::simulator::{
    BureauBehaviour, CaBehaviour, PersonalizerBehaviour, SimulatedBureau, SimulatedCa, SimulatedClock,
    SimulatedPersonalizer,
};
use cardwright::host::{AllowAll, CardRepository, CertificateQuery, Clock};
use cardwright::options::OptionSource;
use cardwright::process::{Answer, HouseRules, ItemId, Outcome, Selection, Slot};
use cardwright::{
    Actor, ActorId, Card, CardElement, CardId, CardState, Certificate, Engine, EngineBuilder, EngineSettings, Error,
    Job, ObjectId, ProductionType, Report, Role, RunId, User, UserId, UserState,
};
use chrono::{TimeZone as _, Utc};
use futures::executor::block_on;
use uuid::Uuid;

pub(crate) const ORDER: &str = "CardsAddonExtProdBoProcOrderMultiple";
pub(crate) const ORDER_TEMPORARY: &str = "TempCardsAddonExtProdProcOrder";
pub(crate) const REQUEST: &str = "CardsBoProcRequestMulitple";
pub(crate) const UPDATE: &str = "CardsAddonExtProdProcUpdate";
pub(crate) const ABORT: &str = "CardsAddonExtProdProcAbort";
pub(crate) const APPROVAL: &str = "CardsProcApproval";
pub(crate) const ABORT_REQUEST: &str = "CardsProcAbortRequest";
pub(crate) const REPEAT: &str = "CardsAddonExtProdProcRepeatOrder";
pub(crate) const RESOLVE: &str = "CardsProcResolveDoubt";
pub(crate) const SYNC_ORDERS: &str = "CardsAddonExtProdBatchSyncOrder";
pub(crate) const SYNC_STATUS: &str = "CardsAddonExtProdBatchSyncStatus";
pub(crate) const ISSUE: &str = "CardsBoProcIssueMultiple";
pub(crate) const REPEAT_PRODUCTION: &str = "CardsProcRepeatProduction";
pub(crate) const ACTIVATE: &str = "CardsProcActivate";
pub(crate) const LOCK: &str = "CardsProcLock";
pub(crate) const SYNC_PRODUCTION: &str = "CardsBatchSyncProduction";
pub(crate) const SYNC_ORPHANS: &str = "CardsBatchSyncOrphans";
pub(crate) const CARD_SCRIPT: &str = "CardsScriptOptions";
pub(crate) const ORDER_SCRIPT: &str = "CardsAddonExtProdScriptOptions";
pub(crate) const TEMPORARY_SCRIPT: &str = "TempCardsAddonExtProdScriptOptions";

/// Everything around one engine.
pub(crate) struct Office {
    pub(crate) engine: Engine,
    pub(crate) clock: SimulatedClock,
    pub(crate) bureau: SimulatedBureau,
    pub(crate) ca: SimulatedCa,
    pub(crate) personalizer: SimulatedPersonalizer,
    pub(crate) users: MemoryUsers,
    pub(crate) mail: RecordingNotifier,
    /// How many runs there were, where their ids are to be the same each time; else they are drawn.
    pub(crate) runs: Option<Arc<AtomicU64>>,
}

impl Office {
    /// Ten active people (`u1` to `u10`), one who is not (`gone`), a calm bureau, all processes switched on.
    pub(crate) fn new() -> Self {
        Self::with(|builder| builder)
    }

    /// The same with another engine: the closure may replace any part.
    pub(crate) fn with(change: impl FnOnce(EngineBuilder) -> EngineBuilder) -> Self {
        let clock = clock();
        let repository = MemoryRepository::new(Arc::new(clock.clone()));
        Self::on(repository, clock, change)
    }

    /// The same on another store, which must use the same clock.
    pub(crate) fn on(
        repository: impl CardRepository,
        clock: SimulatedClock,
        change: impl FnOnce(EngineBuilder) -> EngineBuilder,
    ) -> Self {
        let bureau =
            SimulatedBureau::new(7, Arc::new(clock.clone()) as Arc<dyn Clock>).behaving(BureauBehaviour::calm());
        let ca = SimulatedCa::new(7, Arc::new(clock.clone())).behaving(CaBehaviour::calm());
        let personalizer =
            SimulatedPersonalizer::new(7, Arc::new(clock.clone())).behaving(PersonalizerBehaviour::calm());
        let users = MemoryUsers::new((1..=10).map(person).chain([gone()]));
        let mail = RecordingNotifier::new();
        let builder = Engine::builder()
            .repository(repository)
            .users(users.clone())
            .bureau(bureau.clone())
            .certificate_authority(ca.clone())
            .personalizer(personalizer.clone())
            .notifier(mail.clone())
            .access(AllowAll)
            .clock(clock.clone())
            .rules(rules())
            .settings(EngineSettings::new().chunk(4).orders_per_call(3));
        let engine = change(builder).build().expect("the engine has all its parts");
        let office = Self { engine, clock, bureau, ca, personalizer, users, mail, runs: None };
        for (process, slot) in [
            (UPDATE, Slot::Card(CardState::Ordered)),
            (UPDATE, Slot::Card(CardState::InProduction)),
            (ABORT, Slot::Card(CardState::Processing)),
            (ORDER_TEMPORARY, Slot::New),
            ("TempCardsAddonExtProdProcAbort", Slot::Card(CardState::Processing)),
            ("TempCardsAddonExtProdProcUpdate", Slot::Card(CardState::Ordered)),
            ("TempCardsAddonExtProdProcUpdate", Slot::Card(CardState::InProduction)),
        ] {
            if let Err(error) = block_on(office.engine.enable(process, slot, &administrator())) {
                assert!(matches!(error, Error::NotPermitted { .. }), "{error}");
            }
        }
        office
    }

    /// Puts a script in force.
    pub(crate) fn script(&self, script: &str, text: &str) {
        block_on(self.engine.set_options(script, OptionSource::Script(text.to_owned()), &administrator()))
            .expect("the script is good");
    }

    /// Runs a process to its end, with all outcomes.
    pub(crate) fn run(&self, process: &str, actor: &Actor, answer: Answer) -> (Report, Vec<(ItemId, Outcome)>) {
        self.try_run(process, actor, answer).expect("the run goes through")
    }

    pub(crate) fn try_run(
        &self,
        process: &str,
        actor: &Actor,
        answer: Answer,
    ) -> Result<(Report, Vec<(ItemId, Outcome)>), Error> {
        let answer = if process == RESOLVE { self.naming_the_doubt(answer) } else { answer };
        block_on(async {
            let run = match &self.runs {
                Some(runs) => {
                    let id = run_id(u128::from(runs.fetch_add(1, Ordering::Relaxed)) + (1 << 64));
                    self.engine.open_as(id, process, actor).await?
                }
                None => self.engine.open(process, actor).await?,
            };
            let mut execution = self.engine.next(&run, answer).await?;
            let mut outcomes = Vec::new();
            while let Some(chunk) = execution.next_chunk().await? {
                outcomes.extend(chunk);
            }
            Ok((execution.report().clone(), outcomes))
        })
    }

    /// Whoever settles something has looked at it, unless the test says otherwise.
    pub(crate) fn naming_the_doubt(&self, answer: Answer) -> Answer {
        let Selection::Ids(items) = &answer.selection else { return answer };
        if answer.values.contains_key("doubt") {
            return answer;
        }
        let job_of = |item: &ItemId| match item {
            ItemId::Job(job) => Some(*job),
            ItemId::Card(card) => Some(block_on(self.engine.cards(&[*card])).ok()?.pop()?.busy?.job),
            _ => None,
        };
        let jobs: Vec<_> = items.iter().filter_map(job_of).collect();
        let jobs = block_on(self.engine.jobs(&jobs)).unwrap_or_default();
        let named = jobs.iter().map(Job::doubt).collect::<Vec<_>>().join(" ");
        answer.with("doubt", if named.is_empty() { "none" } else { &named })
    }

    /// Runs a process on one item and gives its outcome.
    pub(crate) fn one(&self, process: &str, actor: &Actor, item: ItemId, values: &[(&str, &str)]) -> Outcome {
        let answer = values.iter().fold(Answer::ids([item]), |answer, (field, value)| answer.with(*field, *value));
        let (_, mut outcomes) = self.run(process, actor, answer);
        assert_eq!(outcomes.len(), 1);
        outcomes.remove(0).1
    }

    /// Orders a card for a user and gives its id.
    pub(crate) fn order(&self, user: &str) -> CardId {
        match self.one(ORDER, &operator(), user_item(user), &[]) {
            Outcome::Done { object: Some(ObjectId::Card(card)), .. } => card,
            other => panic!("{user} gets a card: {other:?}"),
        }
    }

    /// Requests a card that is made here, approved at once, and gives its id.
    pub(crate) fn request(&self, user: &str) -> CardId {
        match self.one(REQUEST, &operator(), user_item(user), &[]) {
            Outcome::Done { object: Some(ObjectId::Card(card)), .. } => card,
            other => panic!("{user} gets a card: {other:?}"),
        }
    }

    /// The certificates of a card, by id.
    pub(crate) fn certificates(&self, card: CardId) -> Vec<Certificate> {
        let query = CertificateQuery { cards: vec![card], ..CertificateQuery::default() };
        block_on(self.engine.certificate_page(&query, None, 1000)).expect("certificates can be read")
    }

    /// Runs a background sync.
    pub(crate) fn sync(&self, process: &str) -> Report {
        self.run(process, &service(), Answer::new()).0
    }

    pub(crate) fn card(&self, id: CardId) -> Card {
        block_on(self.engine.cards(&[id])).expect("cards can be read").remove(0)
    }

    pub(crate) fn state(&self, id: CardId) -> CardState {
        self.card(id).state()
    }

    /// The codes of a card's history, whose chain must verify.
    pub(crate) fn history(&self, id: CardId) -> Vec<String> {
        let card = self.card(id);
        block_on(self.engine.verify_card(&card)).expect("history can be read").expect("the chain verifies");
        let entries = block_on(self.engine.history(&ObjectId::Card(id))).expect("history can be read");
        entries.into_iter().map(|entry| entry.code.into_owned()).collect()
    }
}

pub(crate) fn clock() -> SimulatedClock {
    SimulatedClock::new(Utc.with_ymd_and_hms(2030, 1, 7, 8, 0, 0).single().expect("a valid time")).auto()
}

/// A badge with the holder's name, the card number and an optional employee number.
pub(crate) fn rules() -> HouseRules {
    HouseRules::new()
        .production_type(
            ProductionType::new("standard", "ART-1")
                .element(CardElement::required("NAME", "commonName", 40))
                .element(CardElement::required("NUMBER", Card::NUMBER, 12))
                .element(CardElement::optional("EMPLOYEE", "employeeNumber", 10)),
        )
        .production_type(ProductionType::new("visitor", "ART-2").element(CardElement::required(
            "NUMBER",
            Card::NUMBER,
            12,
        )))
        .status_map(SimulatedBureau::status_map())
}

pub(crate) fn person(number: u32) -> User {
    User::new(
        user_id(&format!("u{number}")),
        UserState::Active,
        [
            ("commonName", format!("Person {number}")),
            ("firstName", "Person".to_owned()),
            ("lastName", format!("Ångström {number}")),
            ("email", format!("u{number}@example.com")),
            ("employeeNumber", format!("E{number:04}")),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    )
}

pub(crate) fn gone() -> User {
    User { id: user_id("gone"), state: UserState::Inactive, ..person(99) }
}

pub(crate) fn user_id(id: &str) -> UserId {
    UserId::new(id).expect("a valid id")
}

pub(crate) fn user_item(id: &str) -> ItemId {
    ItemId::User(user_id(id))
}

pub(crate) fn run_id(number: u128) -> RunId {
    RunId::new(Uuid::from_u128(number))
}

fn actor(login: &str, person: &str, roles: impl IntoIterator<Item = Role>) -> Actor {
    Actor::person(ActorId::new(login).expect("a valid login"), user_id(person), roles)
}

pub(crate) fn operator() -> Actor {
    actor("olga", "p-olga", [Role::Operator, Role::CardProductionAdministrator])
}

pub(crate) fn approver() -> Actor {
    actor("anton", "p-anton", [Role::Approver])
}

pub(crate) fn administrator() -> Actor {
    actor("ada", "p-ada", [Role::Administrator])
}

pub(crate) fn service() -> Actor {
    Actor::system(ActorId::new("sync").expect("a valid login"), [Role::BatchSync])
}
