//! What the examples `worker` and `web_service` have in common: an office whose instances share a store, and a bureau that needs none.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cardwright::adapters::memory::{MemoryUsers, RecordingNotifier};
use cardwright::adapters::postgres::{PostgresRepository, SchemaName};
use cardwright::adapters::sqlite::SqliteRepository;
use cardwright::host::{
    Accepted, CardOrder, CardRepository, Clock as _, FindOutcome, GoCardsProvider, OrderStatus, PlaceOutcome,
    Placement, RolePolicy, StatusMap, StatusOutcome, SystemClock,
};
use cardwright::options::OptionSource;
use cardwright::process::{HouseRules, Slot};
use cardwright::{
    Actor, ActorId, Card, CardElement, CardState, ChainKey, Engine, EngineSettings, ProductionType, Role, User, UserId,
    UserState,
};
use sqlx::postgres::PgPoolOptions;

/// A store by its address: `postgres://…`, or the path of an SQLite file.
pub(crate) async fn store(address: &str) -> Result<Arc<dyn CardRepository>, Box<dyn Error>> {
    if !address.contains("://") {
        return Ok(Arc::new(SqliteRepository::open(address)?));
    }
    // Connected when it is first used, so that what is wrong is told in the store's words.
    let pool = PgPoolOptions::new().max_connections(8).acquire_timeout(Duration::from_secs(5)).connect_lazy(address)?;
    let store = PostgresRepository::new(pool, SchemaName::new("cardwright")?);
    store.migrate().await.map_err(|error| error.to_string())?;
    Ok(Arc::new(store))
}

/// An engine on this store: 500 people, one badge, the badge bureau below. With `approval`, orders are approved from now on.
pub(crate) async fn office(
    store: Arc<dyn CardRepository>,
    worker: &str,
    approval: bool,
) -> Result<Engine, Box<dyn Error>> {
    let people = (1..=500).map(person).collect::<Result<Vec<User>, _>>()?;
    let badge = ProductionType::new("standard", "BADGE-1")
        .element(CardElement::required("NAME", "commonName", 40))
        .element(CardElement::required("NUMBER", Card::NUMBER, 12));
    let statuses = StatusMap::new().with("in production", CardState::InProduction).with("shipped", CardState::Produced);
    let engine = Engine::builder()
        .repository(store)
        .users(MemoryUsers::new(people))
        .bureau(ClockworkBureau)
        .notifier(RecordingNotifier::new())
        .access(RolePolicy::standard())
        .rules(HouseRules::new().production_type(badge).status_map(statuses))
        // All instances have the key: a run that one has opened, another takes.
        .chain_key(ChainKey::new(b"an example's key is no secret; a service reads its own from a vault"))
        .settings(EngineSettings::new().chunk(20).poll_interval(Duration::from_secs(2)))
        .worker(worker)
        .build()?;
    let (abort, administrator) = ("CardsAddonExtProdProcAbort", actor("ada", Role::Administrator)?);
    engine.enable(abort, Slot::Card(CardState::Processing), &administrator).await?;
    if approval {
        let script = OptionSource::Script("CardsAddonExtProdApproval = true".to_owned());
        engine.set_options("CardsAddonExtProdScriptOptions", script, &administrator).await?;
    }
    Ok(engine)
}

fn person(number: u32) -> Result<User, Box<dyn Error>> {
    let attributes = [
        ("commonName", format!("Person {number}")),
        ("lastName", format!("Person {number}")),
        ("email", format!("p{number}@example.org")),
    ];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value));
    Ok(User::new(UserId::new(format!("p{number}"))?, UserState::Active, attributes))
}

/// A person who acts.
pub(crate) fn actor(login: &str, role: Role) -> Result<Actor, Box<dyn Error>> {
    Ok(Actor::person(ActorId::new(login)?, UserId::new(login)?, [role]))
}

/// Who acts in the background.
pub(crate) fn service() -> Result<Actor, Box<dyn Error>> {
    Ok(Actor::system(ActorId::new("worker")?, [Role::BatchSync]))
}

/// A bureau without books, so that every instance of the example can ask it: the order id says when the order was accepted, and
/// the clock does the rest. A card takes six seconds. Of the card of the last person it never says whether it has accepted it.
struct ClockworkBureau;

#[async_trait]
impl GoCardsProvider for ClockworkBureau {
    fn placement(&self) -> Placement {
        Placement::NotIdempotent
    }

    async fn place(&self, orders: &[CardOrder]) -> Vec<PlaceOutcome> {
        SystemClock.sleep(Duration::from_millis(20)).await;
        let now = SystemClock.now().timestamp();
        let accept = |order: &CardOrder| {
            if order.email.as_deref() == Some("p500@example.org") {
                return PlaceOutcome::Unknown { reason: "the answer was lost".to_owned() };
            }
            let order_id = format!("CW-{now}-{}", order.reference);
            PlaceOutcome::Accepted(Accepted { order_id, card_id: None })
        };
        orders.iter().map(accept).collect()
    }

    async fn status(&self, order_ids: &[String]) -> Vec<StatusOutcome> {
        let now = SystemClock.now().timestamp();
        let read = |order_id: &String| {
            let accepted = order_id.strip_prefix("CW-").and_then(|rest| rest.split('-').next()?.parse::<i64>().ok());
            let Some(accepted) = accepted else { return StatusOutcome::NotFound };
            let text = if now - accepted < 6 { "in production" } else { "shipped" };
            let (order_id, text) = (order_id.clone(), text.to_owned());
            StatusOutcome::Known(OrderStatus { order_id, text, ..OrderStatus::default() })
        };
        order_ids.iter().map(read).collect()
    }

    async fn find(&self, _: &str) -> FindOutcome {
        FindOutcome::CannotLook
    }
}
