//! Small parts by themselves: time and allocations of one operation.
//!
//! `cargo bench --bench micro`; `CARDWRIGHT_BENCH_CARDS=2000` for a quick look (100,000 by default).

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use cardwright::options::{
    Limits, OptionCatalogue, OptionSource, OptionValue, Options, QUEUE_CARDS, ResolvedOptions, Subject, load,
};
use cardwright::process::{HouseRules, Item, ItemId, PlanContext, ProcessRegistry};
use cardwright::{
    Actor, ActorId, Card, CardElement, CardId, CardKind, CardState, ChainHead, ChainKey, ObjectId, ProductionType,
    Role, Route, RunId, Stamp, SymbolicName, User, UserId, UserState, Why, card_graph, fold,
};
use uuid::Uuid;

const CARDS: &str = "CARDWRIGHT_BENCH_CARDS";
const ROUNDS: usize = 5;
const ORDER: &str = "CardsAddonExtProdBoProcOrderMultiple";
const SCRIPT: &str = "CardsAddonExtProdScriptOptions";

fn main() -> Result<(), Box<dyn Error>> {
    let times: u32 = std::env::var(CARDS).map_or(Ok(100_000), |cards| cards.parse())?;
    println!("{:<40} {:>10} {:>13}", "one operation", "ns", "allocations");

    let graph = card_graph(CardKind::Permanent, Route::External);
    let pair = [(CardState::Inactive, CardState::Expired), (CardState::Ordered, CardState::Processing)];
    let mut turn = 0;
    let allocations = measure("transition check", times, || {
        turn += 1;
        let (from, to) = black_box(pair[turn % 2]);
        graph.allows(from, to)
    });
    if allocations > 0.0 {
        return Err("a transition check allocates".into());
    }

    let user = user()?;
    let catalogue = OptionCatalogue::standard();
    let no_values = OptionSource::Values(BTreeMap::<String, OptionValue>::new());
    let fixed = Options::defaults(&catalogue).with(load(&catalogue, SCRIPT, &no_values, &Limits::default())?)?;
    let subject = Subject::new(None, Some(&user.attributes));
    measure("options, fixed values", times, || fixed.resolve(&[QUEUE_CARDS.name()], &subject).is_ok());
    let function = OptionSource::Script(format!(
        "{} = function(card, user) return user.department ~= \"Guests\" end",
        QUEUE_CARDS.name()
    ));
    let functions = fixed.with(load(&catalogue, SCRIPT, &function, &Limits::default())?)?;
    functions.resolve(&[QUEUE_CARDS.name()], &subject)?;
    measure("options, one function", times / 10, || functions.resolve(&[QUEUE_CARDS.name()], &subject).is_ok());

    let actor = Actor::person(ActorId::new("olga")?, UserId::new("p-olga")?, [Role::Operator]);
    let process = SymbolicName::new(ORDER)?;
    let at = "2030-01-07T08:00:00Z".parse()?;
    let run = RunId::new(Uuid::from_u128(1));
    let (plain, keyed) = (ChainKey::none(), ChainKey::new(&[7; 32]));
    for (what, key) in [("history entry, SHA-256", &plain), ("history entry, HMAC-SHA-256", &keyed)] {
        let stamp = Stamp { at, actor: &actor.id, process: &process, run: Some(run), key };
        let object = ObjectId::Card(CardId::new(Uuid::from_u128(2)));
        let mut head = ChainHead::default();
        measure(what, times, || {
            head.append(object.clone(), Some("processing"), "ordered", &stamp, Why::code("accepted").about("O-1"))
        });
    }

    let registry = ProcessRegistry::standard();
    let order = registry.process(ORDER)?;
    let stamp = Stamp { at, actor: &actor.id, process: &process, run: Some(run), key: &plain };
    let names: Vec<&str> = order.definition().options.iter().map(SymbolicName::as_str).collect();
    let options: ResolvedOptions = fixed.resolve(&names, &subject)?;
    let answers = BTreeMap::new();
    let rules = rules();
    let context = PlanContext { stamp, actor: &actor, run, options: &options, answers: &answers, rules: &rules };
    let item = || {
        let mut item = Item::new(ItemId::User(user.id.clone()));
        item.user = Some(user.clone());
        item
    };
    order.plan(item(), &context).map_err(|refusal| refusal.reason)?;
    measure("plan of one order, with loading its user", times, || order.plan(item(), &context).is_ok());
    measure("  of which the copy of the user", times, || item().user.is_some());

    let planned = order.plan(item(), &context).map_err(|refusal| refusal.reason)?;
    let card = planned.changes.cards.into_iter().next().ok_or("an order has a card")?;
    let text = serde_json::to_string(&card)?;
    let mut buffer = Vec::with_capacity(2 * text.len());
    measure(&format!("card to JSON, {} bytes", text.len()), times, || {
        buffer.clear();
        serde_json::to_writer(&mut buffer, &card).is_ok()
    });
    measure("card from JSON", times, || serde_json::from_str::<Card>(&text).is_ok());
    measure("copy of a card", times, || card.clone());

    measure("fold for search, ASCII", times, || fold(black_box("Person 17 Baker")));
    measure("fold for search, accents", times, || fold(black_box("Zoë Ångström-Dvořák")));
    Ok(())
}

/// Prints what one operation takes, the median of some rounds, and how often it allocates; gives the latter.
fn measure<T>(what: &str, times: u32, mut operation: impl FnMut() -> T) -> f64 {
    let times = times.max(1);
    let mut rounds = [0.0; ROUNDS];
    for nanos in &mut rounds {
        let begun = Instant::now();
        for _ in 0..times {
            black_box(operation());
        }
        *nanos = begun.elapsed().as_nanos() as f64 / f64::from(times);
    }
    rounds.sort_by(f64::total_cmp);
    let counted = allocation_counter::measure(|| {
        for _ in 0..times {
            black_box(operation());
        }
    });
    let allocations = counted.count_total as f64 / f64::from(times);
    println!("{what:<40} {:>10.1} {allocations:>13.1}", rounds[ROUNDS / 2]);
    allocations
}

fn user() -> Result<User, Box<dyn Error>> {
    let attributes = [
        ("commonName", "Person 17 Ångström"),
        ("upn", "u17@corp.example.com"),
        ("firstName", "Person"),
        ("lastName", "Ångström"),
        ("email", "u17@example.com"),
        ("employeeNumber", "E0017"),
        ("department", "Logistics"),
    ];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Ok(User::new(UserId::new("u17")?, UserState::Active, attributes))
}

fn rules() -> HouseRules {
    // How long numbers get is known to an engine only, so the element for it may be missing here.
    HouseRules::new().production_type(
        ProductionType::new("standard", "ART-1")
            .element(CardElement::required("NAME", "commonName", 40))
            .element(CardElement::optional("NUMBER", Card::NUMBER, 12))
            .element(CardElement::optional("EMPLOYEE", "employeeNumber", 10)),
    )
}
