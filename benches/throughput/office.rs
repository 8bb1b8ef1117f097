//! An office to measure: the engine on any store, a directory that makes its users up, and a bureau that accepts at once.

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use cardwright::adapters::memory::{ManualClock, MemoryUsers, RecordingNotifier};
use cardwright::adapters::simulator::{SimulatedCa, SimulatedPersonalizer};
use cardwright::host::{
    Accepted, AllowAll, CardOrder, CardQuery, CardRepository, Clock as _, DirectoryError, FindOutcome, GoCardsProvider,
    OrderStatus, PlaceOutcome, Placement, StatusMap, StatusOutcome, UserFilter, UserPage, UserRepository,
};
use cardwright::options::{OptionSource, OptionValue, QUEUE_CARDS, SEND_ORDERED_EMAIL};
use cardwright::process::{Answer, Filter, HouseRules, ItemId};
use cardwright::{
    Actor, ActorId, Card, CardElement, CardState, Engine, EngineSettings, ProductionType, Role, RunId, User, UserId,
    UserState,
};
use chrono::{DateTime, Utc};
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

pub(crate) type Fallible<T = ()> = Result<T, Box<dyn Error>>;

/// A process and what it is called in the table.
pub(crate) type Stage = (&'static str, &'static str);

/// Waits on this thread.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(future)
}

/// Where connections wait. What opens a pool must [`enter`](Runtime::enter) it.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: LazyLock<Runtime> =
        LazyLock::new(|| Builder::new_multi_thread().enable_all().build().expect("a runtime"));
    &RUNTIME
}

/// Ordering at the bureau, in the order in which it must be done.
pub(crate) const ORDERING: &[Stage] = &[
    ("CardsAddonExtProdBoProcOrderMultiple", "order multiple, queued"),
    ("CardsAddonExtProdBatchSyncOrder", "dispatch"),
    ("CardsAddonExtProdBatchSyncStatus", "status sync"),
];

/// Ordering without the queue: the run that orders also sends.
pub(crate) const DIRECT: &[Stage] = &[("CardsAddonExtProdBoProcOrderMultiple", "order multiple, direct")];

/// Making cards, in the order in which it must be done. Keys and signatures are simulated: what they cost is shown apart.
pub(crate) const ISSUING: &[Stage] =
    &[("CardsBoProcRequestMulitple", "request multiple"), ("CardsBoProcIssueMultiple", "issue multiple")];

/// Everything around one engine.
pub(crate) struct Office {
    pub(crate) engine: Engine,
    clock: ManualClock,
}

impl Office {
    /// An office whose store must run by the same clock. Nobody is sent an e-mail.
    pub(crate) fn new(
        repository: impl CardRepository,
        users: impl UserRepository,
        clock: ManualClock,
        settings: EngineSettings,
    ) -> Fallible<Self> {
        let engine = Engine::builder()
            .repository(repository)
            .users(users)
            .bureau(InstantBureau)
            .certificate_authority(SimulatedCa::new(7, Arc::new(clock.clone())))
            .personalizer(SimulatedPersonalizer::new(7, Arc::new(clock.clone())))
            .notifier(RecordingNotifier::new())
            .access(AllowAll)
            .clock(clock.clone())
            .rules(rules())
            .settings(settings)
            .build()?;
        let office = Self { engine, clock };
        office.set(&[(SEND_ORDERED_EMAIL.name(), false)])?;
        Ok(office)
    }

    /// From now on the run that orders also sends, and leaves nothing to the sync.
    pub(crate) fn send_at_once(&self) -> Fallible {
        self.set(&[(SEND_ORDERED_EMAIL.name(), false), (QUEUE_CARDS.name(), false)])
    }

    fn set(&self, options: &[(&str, bool)]) -> Fallible {
        let values: BTreeMap<_, _> =
            options.iter().map(|(name, value)| ((*name).to_owned(), OptionValue::Boolean(*value))).collect();
        let administrator = Actor::person(ActorId::new("ada")?, UserId::new("p-ada")?, [Role::Administrator]);
        let source = OptionSource::Values(values);
        wait(self.engine.set_options("CardsAddonExtProdScriptOptions", source, &administrator))?;
        Ok(())
    }

    /// Does a stage for all cards. The ids that come out are the same each time.
    pub(crate) fn run(&self, number: usize, (process, _): Stage, cards: usize) -> Fallible {
        let answer = match process {
            "CardsAddonExtProdBoProcOrderMultiple" | "CardsBoProcRequestMulitple" => selection(0..cards),
            "CardsBoProcIssueMultiple" => {
                let states = vec![CardState::Approved];
                Answer::all(Filter::Cards(CardQuery { states, ..CardQuery::default() }))
            }
            _ => Answer::new(),
        };
        self.finish(number, process, answer, cards)
    }

    /// Orders cards for these users; `number` is that of the run.
    pub(crate) fn order(&self, number: usize, users: Range<usize>) -> Fallible {
        self.finish(number, ORDERING[0].0, selection(users.clone()), users.len())
    }

    fn finish(&self, number: usize, process: &str, answer: Answer, cards: usize) -> Fallible {
        let service = Actor::system(ActorId::new("bench")?, [Role::BatchSync, Role::Operator]);
        let report = wait(async {
            let run = self.engine.open_as(RunId::new(Uuid::from_u128(1 + number as u128)), process, &service).await?;
            self.engine.next(&run, answer).await?.finish().await
        })?;
        if report.done_in_all() != cards as u64 || report.interrupted.is_some() {
            return Err(format!("{process} did not do all {cards} cards: {report:?}").into());
        }
        Ok(())
    }

    /// What the clock says.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Lets the time come at which the bureau is asked again.
    pub(crate) fn next_day(&self) {
        self.clock.advance(std::time::Duration::from_secs(24 * 3600));
    }
}

pub(crate) fn clock() -> Fallible<ManualClock> {
    Ok(ManualClock::new("2030-01-07T08:00:00Z".parse()?))
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
        .status_map(StatusMap::new().with("shipped", CardState::Produced))
}

pub(crate) fn user_id(number: usize) -> UserId {
    UserId::new(format!("u{number:07}")).expect("a valid id")
}

/// A last name that every seventh has, but for those with the rare one.
pub(crate) const COMMON: &str = "Baker";

/// A last name that 62 users have, all of them among the first thousand.
pub(crate) const RARE: &str = "Quist";

pub(crate) fn user(number: usize) -> User {
    let last = match number {
        0..992 if number % 16 == 3 => RARE,
        _ => ["Ångström", COMMON, "Černý", "Dvořák", "Evans", "Fournier", "García"][number % 7],
    };
    User::new(
        user_id(number),
        UserState::Active,
        [
            ("commonName", format!("Person {number} {last}")),
            ("upn", format!("u{number:07}@corp.example.com")),
            ("firstName", "Person".to_owned()),
            ("lastName", last.to_owned()),
            ("email", format!("u{number:07}@example.com")),
            ("employeeNumber", format!("E{number:07}")),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    )
}

/// The first so many users, in memory.
pub(crate) fn users(count: usize) -> MemoryUsers {
    MemoryUsers::new((0..count).map(user))
}

fn selection(users: Range<usize>) -> Answer {
    Answer::ids(users.map(|number| ItemId::User(user_id(number))))
}

/// So many users, none of whom takes any memory: each is made up when asked for.
pub(crate) struct EndlessUsers(pub(crate) usize);

#[async_trait]
impl UserRepository for EndlessUsers {
    async fn users(&self, ids: &[UserId]) -> Result<Vec<User>, DirectoryError> {
        let number = |id: &UserId| id.as_str().strip_prefix('u')?.parse().ok().filter(|number| *number < self.0);
        Ok(ids.iter().filter_map(number).map(user).collect())
    }

    async fn search(&self, _: &UserFilter, cursor: Option<&str>, limit: usize) -> Result<UserPage, DirectoryError> {
        let expired = |_| DirectoryError::CursorExpired;
        let start: usize = cursor.map_or(Ok(0), |cursor| cursor.parse().map_err(expired))?;
        let end = (start + limit).min(self.0);
        Ok(UserPage { users: (start..end).map(user).collect(), next: (end < self.0).then(|| end.to_string()) })
    }

    async fn photo(&self, _: &UserId) -> Result<Option<Vec<u8>>, DirectoryError> {
        Ok(None)
    }
}

/// Accepts every order at once, and has shipped whatever it is asked for.
struct InstantBureau;

#[async_trait]
impl GoCardsProvider for InstantBureau {
    fn placement(&self) -> Placement {
        Placement::NotIdempotent
    }

    async fn place(&self, orders: &[CardOrder]) -> Vec<PlaceOutcome> {
        let accepted = |order: &CardOrder| Accepted { order_id: format!("O-{}", order.reference), card_id: None };
        orders.iter().map(|order| PlaceOutcome::Accepted(accepted(order))).collect()
    }

    async fn status(&self, order_ids: &[String]) -> Vec<StatusOutcome> {
        let shipped = |order_id: &String| OrderStatus {
            order_id: order_id.clone(),
            text: "shipped".to_owned(),
            ..OrderStatus::default()
        };
        order_ids.iter().map(|order_id| StatusOutcome::Known(shipped(order_id))).collect()
    }

    async fn find(&self, _: &str) -> FindOutcome {
        FindOutcome::CannotLook
    }
}
