//! Temporary cards for the stock: an administrator switches the process on, an operator fills in its form, orders five
//! cards, takes one back, and follows the others until they are made.
//!
//! ```text
//! cargo run --example temporary_cards
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use cardwright::adapters::memory::{MemoryRepository, MemoryUsers, RecordingNotifier};
use cardwright::adapters::simulator::{BureauBehaviour, SimulatedBureau, SimulatedClock};
use cardwright::host::{CardQuery, RolePolicy};
use cardwright::process::{Answer, Form, HouseRules, ItemId, Slot};
use cardwright::{Actor, ActorId, Card, CardElement, CardState, Engine, ProductionType, Report, Role, UserId};
use futures::executor::block_on;

const ORDER: &str = "TempCardsAddonExtProdProcOrder";
const ABORT: &str = "TempCardsAddonExtProdProcAbort";
const SYNC_ORDERS: &str = "CardsAddonExtProdBatchSyncOrder";
const SYNC_STATUS: &str = "CardsAddonExtProdBatchSyncStatus";

fn main() -> Result<(), Box<dyn Error>> {
    block_on(run())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let clock = SimulatedClock::new("2030-01-07T08:00:00Z".parse()?);
    let bureau = SimulatedBureau::new(1, Arc::new(clock.clone())).behaving(BureauBehaviour::calm());
    let visitor =
        ProductionType::new("standard", "VISITOR-1").element(CardElement::required("NUMBER", Card::NUMBER, 9));
    let engine = Engine::builder()
        .repository(MemoryRepository::new(Arc::new(clock.clone())))
        .users(MemoryUsers::default())
        .bureau(bureau.clone())
        .notifier(RecordingNotifier::new())
        .access(RolePolicy::standard())
        .clock(clock.clone())
        .rules(HouseRules::new().production_type(visitor).status_map(SimulatedBureau::status_map()))
        .build()?;
    let operator = Actor::person(ActorId::new("olga")?, UserId::new("olga")?, [Role::Operator]);
    let administrator = Actor::person(ActorId::new("ada")?, UserId::new("ada")?, [Role::Administrator]);
    let service = Actor::system(ActorId::new("sync")?, [Role::BatchSync]);

    println!("Off by default");
    if let Err(error) = engine.open(ORDER, &operator).await {
        println!("  {error}");
    }
    engine.enable(ORDER, Slot::New, &administrator).await?;
    engine.enable(ABORT, Slot::Card(CardState::Processing), &administrator).await?;
    println!("  ada adds it to the slot, and the abort of its orders too");

    let run = engine.open(ORDER, &operator).await?;
    println!("\nThe form of \"{}\": {}", run.form.title, run.form.description);
    println!("  {:<16} {:<16} {:<9} {:<9} what may be answered", "field", "label", "required", "preset");
    for field in &run.form.fields {
        let (required, preset) = (if field.required { "yes" } else { "no" }, field.preset.as_deref().unwrap_or("-"));
        println!("  {:<16} {:<16} {required:<9} {preset:<9} {}", field.name, field.label, field.kind);
    }

    println!("\nAmounts that are refused, before anything is done");
    for amount in ["", "0", "10", "three"] {
        if let Err(error) = engine.next(&run, Answer::new().with(Form::AMOUNT, amount)).await {
            println!("  {error}");
        }
    }

    println!("\nFive cards are ordered, and one is taken back");
    let report = engine.next(&run, Answer::new().with(Form::AMOUNT, "5")).await?.finish().await?;
    show(&engine, "ordered", &report).await?;
    let waiting = engine.card_page(&CardQuery::default(), None, 1).await?;
    let first = waiting.first().ok_or("five cards were ordered")?;
    let run = engine.open(ABORT, &operator).await?;
    let report = engine.next(&run, Answer::ids([ItemId::Card(first.id)])).await?.finish().await?;
    show(&engine, "one taken back", &report).await?;

    println!("\nThe background service sends the orders, and asks for their status");
    let run = engine.open(SYNC_ORDERS, &service).await?;
    let report = engine.next(&run, Answer::new()).await?.finish().await?;
    show(&engine, "orders sent", &report).await?;
    for hours in [5, 3 * 24] {
        clock.advance(Duration::from_secs(hours * 60 * 60));
        let run = engine.open(SYNC_STATUS, &service).await?;
        let report = engine.next(&run, Answer::new()).await?.finish().await?;
        show(&engine, &format!("{hours} hours later"), &report).await?;
    }

    println!("\nWhat the bureau has made");
    for order in bureau.ledger() {
        let number = order.elements.get("NUMBER").map_or("", String::as_str);
        println!("  {}  {}  number {number}  {}", order.order_id, order.article, order.status);
    }
    Ok(())
}

/// What a run came to, and the states that the cards are in after it.
async fn show(engine: &Engine, what: &str, report: &Report) -> Result<(), Box<dyn Error>> {
    // A run that ended before its last item says why in its report; the same run id would finish it.
    if let Some(why) = &report.interrupted {
        return Err(format!("run {} was interrupted: {why}", report.run).into());
    }
    let cards = engine.card_page(&CardQuery::default(), None, 100).await?;
    let states: Vec<String> = cards.iter().map(|card| card.state().to_string()).collect();
    println!("  {what:<16} {} done; the cards are now {}", report.done_in_all(), states.join(", "));
    Ok(())
}
