//! How much faster several workers are than one: each a process with four lanes on one PostgreSQL, against a bureau that takes 20 ms
//! for each call of one order.
//!
//! ```text
//! CARDWRIGHT_POSTGRES=postgres://… cargo bench --bench workers
//! ```
//!
//! `CARDWRIGHT_BENCH_CARDS` says how many orders a worker has to do (2,000; with fewer nothing is judged). It fails where several workers
//! are not as much faster as they must be. Without a server it says so and ends.

use std::error::Error;
use std::process::{Child, Command, Stdio};
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cardwright::adapters::memory::{MemoryUsers, RecordingNotifier};
use cardwright::adapters::postgres::{PostgresRepository, SchemaName};
use cardwright::host::{
    Accepted, AllowAll, CardOrder, FindOutcome, GoCardsProvider, PlaceOutcome, Placement, StatusOutcome,
};
use cardwright::process::{Answer, HouseRules, ItemId};
use cardwright::worker::{Schedule, Worker};
use cardwright::{
    Actor, ActorId, Card, CardElement, Engine, EngineSettings, JobKind, ProductionType, Role, User, UserId, UserState,
};
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

const SYNC_ORDERS: &str = "CardsAddonExtProdBatchSyncOrder";
const URL: &str = "CARDWRIGHT_POSTGRES";
const SCHEMA: &str = "CARDWRIGHT_BENCH_SCHEMA";
const CALL: Duration = Duration::from_millis(20);
const LANES: usize = 4;
const ROUNDS: usize = 3;
/// How many orders a worker has to do for what is measured to be judged.
const FULL: u32 = 2000;
/// How many workers, and how many times as fast as one they must be.
const FLEETS: [(u32, Option<f64>); 3] = [(1, None), (2, Some(1.7)), (4, Some(3.0))];
/// Longer takes no round.
const DEADLINE: Duration = Duration::from_secs(300);

type Any<T> = Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Any<()> {
    let Ok(url) = std::env::var(URL) else {
        println!("bench workers: no PostgreSQL; set {URL} to a URL, or run it by scripts/postgres");
        return Ok(());
    };
    match std::env::var(SCHEMA) {
        Ok(schema) => work(&url, &schema).await,
        Err(_) => measure(&url).await,
    }
}

async fn measure(url: &str) -> Any<()> {
    let orders: u32 = std::env::var("CARDWRIGHT_BENCH_CARDS").map_or(Ok(FULL), |cards| cards.parse())?;
    println!("{LANES} lanes a worker, {} ms a call, one order a call", CALL.as_millis());
    println!("{:>8} {:>8} {:>10} {:>16}   of one  goal  reached", "workers", "orders", "orders/s", "(spread)");
    let mut one = None;
    let mut missed = false;
    for (workers, goal) in FLEETS {
        let mut rates = Vec::new();
        for round in 0..ROUNDS {
            let schema = format!("bench_{}_{workers}_{round}", std::process::id());
            rates.push(rate(url, &schema, workers, orders).await?);
        }
        rates.sort_by(f64::total_cmp);
        let [lowest, rate, highest] = [0, ROUNDS / 2, ROUNDS - 1].map(|place| rates[place]);
        let ratio = rate / *one.get_or_insert(rate);
        let spread = format!("({lowest:.0} to {highest:.0})");
        let verdict = match goal.filter(|_| orders == FULL) {
            None => "-       -".to_owned(),
            Some(goal) => format!("{goal:.1}     {}", if ratio >= goal { "yes" } else { "NO" }),
        };
        missed |= verdict.ends_with("NO");
        println!("{workers:>8} {:>8} {rate:>10.0} {spread:>16}     {ratio:.2}   {verdict}", orders * workers);
    }
    if missed { Err("several workers are not as much faster as they must be".into()) } else { Ok(()) }
}

/// Orders a second, from the first to the last that is done, when all workers have started.
async fn rate(url: &str, schema: &str, workers: u32, orders: u32) -> Any<f64> {
    let (engine, pool) = engine(url, schema)?;
    let people = (1..=orders * workers).map(|number| UserId::new(format!("u{number}")).map(ItemId::User));
    let people = Answer::ids(people.collect::<Result<Vec<_>, _>>()?);
    PostgresRepository::new(pool.clone(), SchemaName::new(schema)?).migrate().await?;
    let operator = Actor::person(ActorId::new("olga")?, UserId::new("olga")?, [Role::Operator]);
    let run = engine.open("CardsAddonExtProdBoProcOrderMultiple", &operator).await?;
    let report = engine.next(&run, people).await?.finish().await?;
    assert_eq!(report.done_in_all(), u64::from(orders * workers), "{report:?}");

    let processes = (0..workers).map(|_| start(schema)).collect::<Result<Vec<Process>, _>>()?;
    let due = async || -> Any<u64> {
        let backlog = engine.backlog(None).await?;
        Ok(backlog.iter().find(|kind| kind.kind == JobKind::PlaceOrder).map_or(0, |kind| kind.due))
    };
    let down_to = async |few: u64| -> Any<()> {
        while due().await? > few {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    };
    // A worker's first chunks are claimed and not done yet: it is under way.
    let all = due().await?;
    tokio::time::timeout(DEADLINE, down_to(all - all / 10)).await??;
    let (begun, first) = (Instant::now(), due().await?);
    tokio::time::timeout(DEADLINE, down_to(all / 10)).await??;
    let (took, last) = (begun.elapsed(), due().await?);
    drop(processes);
    sqlx::query(AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE"))).execute(&pool).await?;
    Ok((first - last) as f64 / took.as_secs_f64())
}

/// A worker, which ends with this.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(schema: &str) -> std::io::Result<Process> {
    Command::new(std::env::current_exe()?).env(SCHEMA, schema).stdin(Stdio::null()).spawn().map(Process)
}

async fn work(url: &str, schema: &str) -> Any<()> {
    let orders = Schedule::jobs().every(Duration::from_millis(20)).lanes(LANES);
    let (engine, _) = engine(url, schema)?;
    let service = Actor::system(ActorId::new("worker")?, [Role::BatchSync]);
    let worker = Worker::new(Arc::new(engine), service)
        .schedule(SYNC_ORDERS, orders)?
        .schedule("CardsAddonExtProdBatchSyncStatus", orders.lanes(0))?
        .schedule("CardsBatchSyncProduction", orders.lanes(0))?;
    worker.run(std::future::pending()).await;
    Ok(())
}

/// An engine on this schema, for 40,000 people.
fn engine(url: &str, schema: &str) -> Any<(Engine, PgPool)> {
    let pool = PgPoolOptions::new().max_connections(8).connect_lazy_with(PgConnectOptions::from_str(url)?);
    let badge = ProductionType::new("standard", "BADGE-1")
        .element(CardElement::required("NAME", "commonName", 40))
        .element(CardElement::required("NUMBER", Card::NUMBER, 12));
    let person = |number: u32| -> Any<User> {
        let name = ("commonName".to_owned(), format!("Person {number}"));
        Ok(User::new(UserId::new(format!("u{number}"))?, UserState::Active, [name]))
    };
    let engine = Engine::builder()
        .repository(PostgresRepository::new(pool.clone(), SchemaName::new(schema)?))
        .users(MemoryUsers::new((1..=40_000).map(person).collect::<Any<Vec<_>>>()?))
        .bureau(SlowBureau)
        .notifier(RecordingNotifier::new())
        .access(AllowAll)
        .rules(HouseRules::new().production_type(badge))
        .settings(EngineSettings::new().chunk(50).orders_per_call(1))
        .worker(format!("process {}", std::process::id()))
        .build()?;
    Ok((engine, pool))
}

/// Accepts every order after 20 ms.
struct SlowBureau;

#[async_trait]
impl GoCardsProvider for SlowBureau {
    fn placement(&self) -> Placement {
        Placement::NotIdempotent
    }

    async fn place(&self, orders: &[CardOrder]) -> Vec<PlaceOutcome> {
        tokio::time::sleep(CALL).await;
        let accept = |order: &CardOrder| Accepted { order_id: order.reference.clone(), card_id: None };
        orders.iter().map(|order| PlaceOutcome::Accepted(accept(order))).collect()
    }

    async fn status(&self, order_ids: &[String]) -> Vec<StatusOutcome> {
        vec![StatusOutcome::NotFound; order_ids.len()]
    }

    async fn find(&self, _: &str) -> FindOutcome {
        FindOutcome::CannotLook
    }
}
