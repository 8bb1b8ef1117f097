//! Options as scripts: a bad one is refused with all its problems, a good one is tried dry on some people, put in force,
//! and taken back by putting the version before it in force again.
//!
//! ```text
//! cargo run --example options
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use cardwright::adapters::memory::{MemoryRepository, MemoryUsers, RecordingNotifier};
use cardwright::adapters::simulator::{BureauBehaviour, SimulatedBureau, SimulatedClock};
use cardwright::host::RolePolicy;
use cardwright::options::{OptionSource, Subject};
use cardwright::process::{Answer, Filter, HouseRules};
use cardwright::{
    Actor, ActorId, CardElement, Engine, Error as OfficeError, ProductionType, Role, User, UserId, UserState,
};
use futures::executor::block_on;

const ORDER: &str = "CardsAddonExtProdBoProcOrderMultiple";
const SCRIPT: &str = "CardsAddonExtProdScriptOptions";

/// What an administrator may write in a hurry.
const BAD: &str = r#"
CardsAddonExtProdQueuCards = false
CardsAddonExtProdApproval = "yes"
CardsAddonExtProdProductionType = {}
CardsAddonExtProdMultipleCards = os.getenv("SEVERAL") ~= nil
"#;

const FIRST: &str = r#"
-- Orders go out at once.
CardsAddonExtProdQueueCards = false
"#;

/// A value may be a function: it is called once for each person.
const SECOND: &str = r#"
CardsAddonExtProdQueueCards = false

local outside = { External = true, Contractor = true }

-- Who is no employee needs an approval.
CardsAddonExtProdApproval = function(card, user)
    return outside[user.department] == true
end

CardsAddonExtProdProductionType = function(card, user)
    if user.department == "Security" then return { "express", "standard" } end
    return "standard"
end
"#;

fn main() -> Result<(), Box<dyn Error>> {
    block_on(run())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let people = [("Ada Berg", "Finance"), ("Ben Moreau", "External"), ("Chloé Marin", "Security")];
    let people =
        people.into_iter().map(|(name, department)| person(name, department)).collect::<Result<Vec<_>, _>>()?;
    let clock = SimulatedClock::new("2030-01-07T08:00:00Z".parse()?);
    let bureau = SimulatedBureau::new(1, Arc::new(clock.clone())).behaving(BureauBehaviour::calm());
    let badge = |name: &str, article: &str| {
        ProductionType::new(name, article).element(CardElement::required("NAME", "commonName", 40))
    };
    let rules =
        HouseRules::new().production_type(badge("standard", "BADGE-1")).production_type(badge("express", "BADGE-2"));
    let engine = Engine::builder()
        .repository(MemoryRepository::new(Arc::new(clock.clone())))
        .users(MemoryUsers::new(people.clone()))
        .bureau(bureau)
        .notifier(RecordingNotifier::new())
        .access(RolePolicy::standard())
        .clock(clock.clone())
        .rules(rules.status_map(SimulatedBureau::status_map()))
        .build()?;
    let administrator = Actor::person(ActorId::new("ada")?, UserId::new("Ada Berg")?, [Role::Administrator]);
    let operator = Actor::person(ActorId::new("olga")?, UserId::new("Olga Petri")?, [Role::Operator]);

    println!("A script with mistakes: all are named at once, and what is in force stays");
    let refused = engine.set_options(SCRIPT, OptionSource::Script(BAD.to_owned()), &administrator).await;
    if let Err(OfficeError::Options(problems)) = refused {
        for problem in &problems {
            println!("  {problem}");
        }
    }
    println!("  versions put in force so far: {}", engine.option_versions(SCRIPT).await?.len());

    println!("\nA good one");
    let first = engine.set_options(SCRIPT, OptionSource::Script(FIRST.to_owned()), &administrator).await?;
    println!("  {} put version {} in force", first.actor, short(&first.hash));

    println!("\nThe next one, tried dry on three people: nothing is put in force");
    let subjects: Vec<(String, Subject<'_>)> =
        people.iter().map(|user| (user.id.to_string(), Subject::new(None, Some(&user.attributes)))).collect();
    let second = OptionSource::Script(SECOND.to_owned());
    for change in engine.dry_run_options(SCRIPT, &second, &subjects).await? {
        println!("  {change}");
    }

    println!("\nPut in force, and cards ordered for the three");
    engine.set_options(SCRIPT, second, &administrator).await?;
    order(&engine, &operator).await?;

    println!("\nPut back");
    engine.restore_options(SCRIPT, &first.hash, &administrator).await?;
    for (place, version) in (1..).zip(engine.option_versions(SCRIPT).await?) {
        println!("  {place}  {}  by {}", short(&version.hash), version.actor);
    }
    Ok(())
}

async fn order(engine: &Engine, operator: &Actor) -> Result<(), Box<dyn Error>> {
    let run = engine.open(ORDER, operator).await?;
    let report = engine.next(&run, Answer::all(Filter::Users(Default::default()))).await?.finish().await?;
    // A run that ended before its last item says why in its report; the same run id would finish it.
    if let Some(why) = report.interrupted {
        return Err(format!("run {} was interrupted: {why}", report.run).into());
    }
    for card in engine.card_page(&Default::default(), None, 100).await? {
        let holder = card.holder.as_ref().map_or("", UserId::as_str);
        println!("  {holder:<12} {:<9} {}", card.production_type.as_deref().unwrap_or(""), card.state());
    }
    Ok(())
}

fn short(hash: &str) -> &str {
    hash.get(..8).unwrap_or(hash)
}

fn person(name: &str, department: &str) -> Result<User, Box<dyn Error>> {
    let attributes = [("commonName", name), ("department", department)];
    let attributes: BTreeMap<String, String> = attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    Ok(User::new(UserId::new(name)?, UserState::Active, attributes))
}
