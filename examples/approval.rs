//! The approval step: switched on by an option, it puts a request before each order. Requests are approved, rejected with a
//! reason, and withdrawn; nobody approves what concerns herself; everybody concerned is told.
//!
//! ```text
//! cargo run --example approval
//! ```

use std::error::Error;
use std::sync::Arc;

use cardwright::adapters::memory::{MemoryRepository, MemoryUsers, RecordingNotifier};
use cardwright::adapters::simulator::{BureauBehaviour, SimulatedBureau, SimulatedClock};
use cardwright::host::{RequestQuery, RolePolicy};
use cardwright::options::OptionSource;
use cardwright::process::{Answer, Filter, HouseRules, ItemId, Outcome};
use cardwright::{
    Actor, ActorId, ApprovalRequest, CardElement, Engine, MessageKind, ProductionType, Recipient, Report, RequestState,
    Role, User, UserId, UserState,
};
use futures::executor::block_on;

const ORDER: &str = "CardsAddonExtProdBoProcOrderMultiple";
const APPROVAL: &str = "CardsProcApproval";
const WITHDRAW: &str = "CardsProcAbortRequest";
const SYNC_ORDERS: &str = "CardsAddonExtProdBatchSyncOrder";
const SCRIPT: &str = "CardsAddonExtProdScriptOptions";

fn main() -> Result<(), Box<dyn Error>> {
    block_on(run())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let names = ["Ada Berg", "Ben Moreau", "Chloé Marin", "Dai Nguyen", "Eva Sørensen", "Anton Weiss"];
    let people = names.into_iter().map(person).collect::<Result<Vec<_>, _>>()?;
    let clock = SimulatedClock::new("2030-01-07T08:00:00Z".parse()?);
    let bureau = SimulatedBureau::new(1, Arc::new(clock.clone())).behaving(BureauBehaviour::calm());
    let mail = RecordingNotifier::new();
    let badge = ProductionType::new("standard", "BADGE-1").element(CardElement::required("NAME", "commonName", 40));
    let engine = Engine::builder()
        .repository(MemoryRepository::new(Arc::new(clock.clone())))
        .users(MemoryUsers::new(people))
        .bureau(bureau)
        .notifier(mail.clone())
        .access(RolePolicy::standard())
        .clock(clock)
        .rules(HouseRules::new().production_type(badge).status_map(SimulatedBureau::status_map()))
        .build()?;
    let administrator = actor("ada", "Ada Berg", &[Role::Administrator])?;
    let operator = actor("olga", "Olga Petri", &[Role::Operator])?;
    let approver = actor("anton", "Anton Weiss", &[Role::Approver])?;
    // One person with two logins and both roles: people are compared, not logins.
    let both = actor("olga-admin", "Olga Petri", &[Role::Operator, Role::Approver])?;
    let service = Actor::system(ActorId::new("sync")?, [Role::BatchSync]);

    let script = "CardsAddonExtProdApproval = true";
    engine.set_options(SCRIPT, OptionSource::Script(script.to_owned()), &administrator).await?;
    println!("In force: {script}\n");

    println!("olga orders cards for six people; each order waits for approval");
    act(&engine, ORDER, &operator, Answer::all(Filter::Users(Default::default()))).await?;
    sync(&engine, &service).await?;
    let open = RequestQuery { states: vec![RequestState::Open], ..RequestQuery::default() };
    let requests = engine.request_page(&open, None, 100).await?;
    let of = |name: &str| {
        let request = requests.iter().find(|request| request.holder.as_str() == name);
        request.map(|request| ItemId::Request(request.id)).ok_or("everybody has a request")
    };

    println!("\nNobody approves what concerns herself");
    let approve = |ids: Vec<ItemId>| Answer::ids(ids).with("decision", "approve");
    act(&engine, APPROVAL, &both, approve(vec![of("Ben Moreau")?])).await?;
    act(&engine, APPROVAL, &approver, approve(vec![of("Anton Weiss")?])).await?;

    println!("\nanton approves three in one run, each for itself");
    act(&engine, APPROVAL, &approver, approve(vec![of("Ada Berg")?, of("Ben Moreau")?, of("Chloé Marin")?])).await?;

    println!("\nRejecting needs a reason");
    let reject = Answer::ids([of("Dai Nguyen")?]).with("decision", "reject");
    if let Err(error) = act(&engine, APPROVAL, &approver, reject.clone()).await {
        println!("  {error}");
    }
    act(&engine, APPROVAL, &approver, reject.with("reason", "leaves the company this month")).await?;

    println!("\nOnly the requester withdraws: first somebody else tries, then olga");
    let other = actor("otto", "Otto Lind", &[Role::Operator])?;
    act(&engine, WITHDRAW, &other, Answer::ids([of("Eva Sørensen")?])).await?;
    act(&engine, WITHDRAW, &operator, Answer::ids([of("Eva Sørensen")?])).await?;

    sync(&engine, &service).await?;
    sync(&engine, &service).await?;

    println!("\nThe requests");
    for request in engine.request_page(&RequestQuery::default(), None, 100).await? {
        let ApprovalRequest { holder, requester, reason, .. } = &request;
        let card = engine.cards(&[request.card]).await?.pop().ok_or("each request has its card")?;
        let (asked, reason) = (requester.id.as_str(), reason.as_deref().unwrap_or(""));
        println!(
            "  {:<14} asked by {asked}: {:<9} card {:<12} {reason}",
            holder.as_str(),
            request.state(),
            card.state()
        );
    }

    println!("\nThe messages, to be put into words by the host");
    for message in mail.sent() {
        let to = match &message.recipient {
            Recipient::Email(address) => address.clone(),
            Recipient::Actor(login) => login.to_string(),
            Recipient::Role(role) => format!("every {role}"),
        };
        let about = ["holder", "commonName"].iter().find_map(|name| message.data.get(*name));
        let says = match &message.kind {
            MessageKind::RequestWaiting => "a request waits",
            MessageKind::RequestApproved => "approved",
            MessageKind::RequestRejected => "rejected",
            MessageKind::CardOrdered => "your card is ordered",
            _ => "something else",
        };
        println!("  to {to:<26} {says:<21} {}", about.map_or("", String::as_str));
    }
    Ok(())
}

/// The same background service that sends the orders sends the messages.
async fn sync(engine: &Engine, service: &Actor) -> Result<(), Box<dyn Error>> {
    let run = engine.open(SYNC_ORDERS, service).await?;
    finished(&engine.next(&run, Answer::new()).await?.finish().await?)
}

/// Runs a process to its end and shows what became of each item.
async fn act(engine: &Engine, process: &str, actor: &Actor, answer: Answer) -> Result<(), Box<dyn Error>> {
    let run = engine.open(process, actor).await?;
    let mut execution = engine.next(&run, answer).await?;
    while let Some(chunk) = execution.next_chunk().await? {
        for (item, outcome) in chunk {
            let (whose, request) = whose(engine, &item).await?;
            match outcome {
                Outcome::Refused(refusal) => {
                    println!("  {whose}: refused: {}", refusal.reason.replace(&item.to_string(), "this request"));
                }
                // Deciding about a request brings its card to a state: that one is what the outcome names.
                Outcome::Done { state, .. } => println!("  {whose}: {request}the card is {state}"),
                other => println!("  {whose}: {other:?}"),
            }
        }
    }
    finished(execution.report())
}

/// Whom an item is about, and how the request stands if it is one.
async fn whose(engine: &Engine, item: &ItemId) -> Result<(String, String), Box<dyn Error>> {
    Ok(match item {
        ItemId::User(user) => (user.to_string(), String::new()),
        ItemId::Request(id) => {
            let requests = engine.request_page(&RequestQuery::default(), None, 100).await?;
            let request = requests.iter().find(|request| request.id == *id).ok_or("the request is there")?;
            (request.holder.to_string(), format!("the request is {}, ", request.state()))
        }
        other => (other.to_string(), String::new()),
    })
}

/// A run that ended before its last item says why in its report; the same run id would finish it.
fn finished(report: &Report) -> Result<(), Box<dyn Error>> {
    if let Some(why) = &report.interrupted {
        return Err(format!("run {} was interrupted: {why}", report.run).into());
    }
    Ok(())
}

fn actor(login: &str, person: &str, roles: &[Role]) -> Result<Actor, Box<dyn Error>> {
    Ok(Actor::person(ActorId::new(login)?, UserId::new(person)?, roles.iter().cloned()))
}

fn person(name: &str) -> Result<User, Box<dyn Error>> {
    let email = format!("{}@example.com", cardwright::fold(name).replace(' ', "."));
    let attributes = [("commonName".to_owned(), name.to_owned()), ("email".to_owned(), email)];
    Ok(User::new(UserId::new(name)?, UserState::Active, attributes))
}
