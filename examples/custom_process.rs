//! A host's own package: a process `AcmeProcPrintParkingPermit` on produced cards, an option in a script of its own, a
//! performer that talks to the permit printer, and a background process for the permits that had to wait.
//!
//! ```text
//! cargo run --example custom_process
//! ```

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use cardwright::adapters::memory::{MemoryRepository, MemoryUsers, RecordingNotifier};
use cardwright::adapters::simulator::{BureauBehaviour, SimulatedBureau, SimulatedClock};
use cardwright::host::{CardQuery, CustomOutcome, JobPerformer, RolePolicy};
use cardwright::options::{Allowed, OptionKey, OptionSource, OptionSpec, ResolvedOptions};
use cardwright::process::{
    Answer, Component, Field, FieldKind, Filter, HouseRules, Item, ItemId, ItemKind, Needs, OptionScript, Outcome,
    Plan, PlanContext, Process, ProcessDefinition, ProcessPackage, Refusal, RefusalCode, Slot, StartPoint,
};
use cardwright::{
    Actor, ActorId, Card, CardElement, CardState, ChangeSet, Engine, InvalidId, Job, JobId, JobKind, ObjectId,
    ProductionType, Role, SymbolicName, Task, User, UserId, UserState, Why,
};
use futures::executor::block_on;
use serde_json::json;

const PERMIT: &str = "AcmeProcPrintParkingPermit";
const BATCH: &str = "AcmeBatchPrintParkingPermits";
const PRINTER: &str = "AcmePermitPrinter";
const SCRIPT: &str = "AcmeScriptOptions";
const PERMIT_DAYS: OptionKey<u32> = OptionKey::new("AcmePermitDays");

// ---- the package -------------------------------------------------------------------------------------------------

fn package(printer: Printer) -> Result<ProcessPackage, InvalidId> {
    let allowed = Allowed::Integer { min: 1, max: 365 };
    let days = OptionSpec::new(PERMIT_DAYS.name(), SCRIPT, allowed, 30, "For how many days a permit is good.");
    Ok(ProcessPackage::new()
        .process(PrintPermit::new()?)
        .process(PrintWaiting::new()?)
        .options(OptionScript::new(SymbolicName::new(SCRIPT)?, [days]).shipped("AcmePermitDays = 30"))
        .performer(SymbolicName::new(PRINTER)?, printer))
}

/// Print parking permit: a permit for each chosen card that is produced.
struct PrintPermit(ProcessDefinition, SymbolicName);

impl PrintPermit {
    fn new() -> Result<Self, InvalidId> {
        let definition =
            ProcessDefinition::new(SymbolicName::new(PERMIT)?, "Print parking permit", "Acme", ItemKind::Card)
                .offered(Component::Operator, StartPoint::CardProfile)
                .described("Prints a parking permit for the holder of the card.")
                .requires([CardState::Produced])
                .gives(["permit printed", "permit waits for the printer"])
                .reads([SymbolicName::new(PERMIT_DAYS.name())?])
                .fits([Slot::Card(CardState::Produced)])
                .run_by([Role::Operator]);
        Ok(Self(definition, SymbolicName::new(PRINTER)?))
    }
}

impl Process for PrintPermit {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }

    fn fields(&self, _: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        vec![Field::required("plate", "Number plate", FieldKind::Text { max_length: 10 })]
    }

    fn needs(&self) -> Needs {
        Needs::nothing()
    }

    /// Only says what is to be done: the permit is a job, stored together with the card's history.
    fn plan(&self, mut item: Item, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
        let mut card = item.take_card()?;
        let plate = context.answer("plate");
        if plate.contains('?') {
            let code = RefusalCode::Custom("number plate".to_owned());
            return Err(Refusal::new(code, format!("{plate:?} is no number plate")));
        }
        let days = context.option(PERMIT_DAYS)?;
        let data = json!({ "card": card.number, "plate": plate, "days": days });
        let task = Task::Custom { performer: self.1.clone(), data };
        let id = JobId::derive(context.run, &item.id.to_string(), "permit");
        let job = Job::new(id, task, Some(card.id), &context.stamp);
        let mut changes = ChangeSet::new();
        changes.note_card(&mut card, &context.stamp, Why::code("permit_wanted"));
        changes.jobs.push(job);
        Ok(Plan::card(changes, card).then_perform(id))
    }
}

/// The background process for permits that had to wait: it takes up the jobs that are due.
struct PrintWaiting(ProcessDefinition);

impl PrintWaiting {
    fn new() -> Result<Self, InvalidId> {
        let name = SymbolicName::new(BATCH)?;
        let definition = ProcessDefinition::new(name, "Print waiting permits", "Acme", ItemKind::Job)
            .offered(Component::Background, StartPoint::Schedule)
            .described("Prints the permits that had to wait for the printer.")
            .performs([JobKind::Custom])
            .fits([Slot::Background])
            .run_by([Role::BatchSync]);
        Ok(Self(definition))
    }
}

impl Process for PrintWaiting {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }

    fn fields(&self, _: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        Vec::new()
    }

    fn needs(&self) -> Needs {
        Needs::nothing()
    }

    fn plan(&self, mut item: Item, _: &PlanContext<'_>) -> Result<Plan, Refusal> {
        let job = item.take_job()?;
        Ok(Plan::unchanged(job.state.name()).then_perform(job.id))
    }
}

/// The permit printer. Printing twice costs a second sheet, so an attempt is stored before each print.
#[derive(Clone, Default)]
struct Printer {
    paper: Arc<AtomicU32>,
    printed: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl JobPerformer for Printer {
    fn repeatable(&self) -> bool {
        false
    }

    async fn perform(&self, job: &Job) -> CustomOutcome {
        let Task::Custom { data, .. } = &job.task else {
            return CustomOutcome::Refused { reason: "not a permit".to_owned() };
        };
        if self.paper.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sheets| sheets.checked_sub(1)).is_err() {
            return CustomOutcome::Unavailable { reason: "out of paper".to_owned() };
        }
        let permit = format!("card {}, plate {}, {} days", data["card"], data["plate"], data["days"]);
        self.printed.lock().unwrap_or_else(PoisonError::into_inner).push(permit);
        CustomOutcome::Done { remark: "printed".to_owned() }
    }
}

// ---- the office that uses it -------------------------------------------------------------------------------------

fn main() -> Result<(), Box<dyn Error>> {
    block_on(run())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let clock = SimulatedClock::new("2030-01-07T08:00:00Z".parse()?);
    let bureau = SimulatedBureau::new(1, Arc::new(clock.clone())).behaving(BureauBehaviour::calm());
    let printer = Printer::default();
    let badge = ProductionType::new("standard", "BADGE-1").element(CardElement::required("NAME", "commonName", 40));
    let engine = Engine::builder()
        .repository(MemoryRepository::new(Arc::new(clock.clone())))
        .users(MemoryUsers::new([person("Ada Berg")?, person("Ben Moreau")?]))
        .bureau(bureau)
        .notifier(RecordingNotifier::new())
        .access(
            RolePolicy::standard()
                .allow(SymbolicName::new(PERMIT)?, Role::Operator)
                .allow(SymbolicName::new(BATCH)?, Role::BatchSync),
        )
        .clock(clock.clone())
        .rules(HouseRules::new().production_type(badge).status_map(SimulatedBureau::status_map()))
        .package(package(printer.clone())?)
        .build()?;
    let operator = Actor::person(ActorId::new("olga")?, UserId::new("Olga Petri")?, [Role::Operator]);
    let administrator = Actor::person(ActorId::new("ada")?, UserId::new("Ada Berg")?, [Role::Administrator]);
    let service = Actor::system(ActorId::new("sync")?, [Role::BatchSync]);

    println!("Among the definitions");
    for definition in engine.definitions().filter(|definition| definition.package == "Acme") {
        println!("  {:<30} {:<24} {}", definition.name.as_str(), definition.title, definition.description);
    }

    println!("\nCommands of a card, from the order to the produced card");
    let everybody = Answer::all(Filter::Users(Default::default()));
    act(&engine, "CardsAddonExtProdBoProcOrderMultiple", &operator, everybody).await?;
    let card = engine.card_page(&CardQuery::default(), None, 1).await?.pop().ok_or("a card was ordered")?;
    // Refusals name a card by its id; people know it by its number.
    let (card, number) = (card.id, card.number.unwrap_or_default());
    commands(&engine, card, &operator).await?;
    for refusal in engine.explain(PERMIT, &ItemId::Card(card), &operator).await? {
        println!("    no {PERMIT}: {}", refusal.reason.replace(&card.to_string(), &number));
    }
    act(&engine, "CardsAddonExtProdBatchSyncOrder", &service, Answer::new()).await?;
    clock.advance(Duration::from_secs(5 * 24 * 60 * 60));
    act(&engine, "CardsAddonExtProdBatchSyncStatus", &service, Answer::new()).await?;
    commands(&engine, card, &operator).await?;

    println!("\nAn option of its own, checked like all others");
    for script in ["AcmePermitDays = 400", "AcmePermitDays = 90"] {
        match engine.set_options(SCRIPT, OptionSource::Script(script.to_owned()), &administrator).await {
            Ok(version) => println!("  {script}: in force, by {}", version.actor),
            Err(error) => println!("  {error}"),
        }
    }

    println!("\nIt is run: with a wrong plate, without paper, and with paper in the background");
    let permit = |plate: &str| Answer::ids([ItemId::Card(card)]).with("plate", plate);
    act(&engine, PERMIT, &operator, permit("???")).await?;
    act(&engine, PERMIT, &operator, permit("AC 1234")).await?;
    for job in engine.job_page(&Default::default(), None, 100).await? {
        if let Task::Custom { performer, .. } = &job.task {
            let remark = job.remark.as_deref().unwrap_or("");
            println!(
                "  the permit waits, to be tried again at {}: {performer} is {remark}",
                job.due.format("%H:%M:%S")
            );
        }
    }
    printer.paper.store(10, Ordering::Relaxed);
    clock.advance(Duration::from_secs(60));
    act(&engine, BATCH, &service, Answer::new()).await?;
    for sheet in printer.printed.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        println!("  printed: {sheet}");
    }

    println!("\nThe history of the card");
    for entry in engine.history(&ObjectId::Card(card)).await? {
        println!("  {:<8} {:<38} {:<14} {}", entry.actor.as_str(), entry.process.as_str(), entry.to, entry.code);
    }
    Ok(())
}

async fn commands(engine: &Engine, card: cardwright::CardId, actor: &Actor) -> Result<(), Box<dyn Error>> {
    let state = engine.cards(&[card]).await?.first().map(Card::state).ok_or("the card is there")?;
    let commands = engine.commands(&ItemId::Card(card), actor).await?;
    let names: Vec<&str> = commands.iter().map(|definition| definition.name.as_str()).collect();
    println!("  {state:<12} {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") });
    Ok(())
}

async fn act(engine: &Engine, process: &str, actor: &Actor, answer: Answer) -> Result<(), Box<dyn Error>> {
    let run = engine.open(process, actor).await?;
    let mut execution = engine.next(&run, answer).await?;
    while let Some(chunk) = execution.next_chunk().await? {
        for (item, outcome) in chunk.into_iter().filter(|_| [PERMIT, BATCH].contains(&process)) {
            match outcome {
                Outcome::Refused(refusal) => println!("  refused ({}): {}", refusal.code, refusal.reason),
                // What a plan stores is done, though a job that it wants performed at once may have to wait.
                Outcome::Done { state, .. } | Outcome::Unchanged { state } => {
                    let what =
                        if matches!(item, ItemId::Job(_)) { "the job is" } else { "stored, and the card is still" };
                    println!("  {}: {what} {state}", run.form.title);
                }
                other => println!("  {}: {other:?}", run.form.title),
            }
        }
    }
    // A run that ended before its last item says why in its report; the same run id would finish it.
    if let Some(why) = &execution.report().interrupted {
        println!("  {}: interrupted, {why}", run.form.title);
    }
    Ok(())
}

fn person(name: &str) -> Result<User, InvalidId> {
    Ok(User::new(UserId::new(name)?, UserState::Active, [("commonName".to_owned(), name.to_owned())]))
}
