//! What the fuzz targets do with their bytes. `tests/it/corpus.rs` does the same with the corpus, so that what was once found
//! stays found.
//!
//! Each function panics if the library does, or if it breaks what is said there.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cardwright::adapters::memory::{ManualClock, MemoryRepository, MemoryUsers, RecordingNotifier};
use cardwright::host::{
    Accepted, AllowAll, CardOrder, CardQuery, FindOutcome, GoCardsProvider, OrderStatus, PlaceOutcome, Placement,
    StatusMap, StatusOutcome,
};
use cardwright::options::{Limits, OptionCatalogue, OptionSource, Options, Subject, load};
use cardwright::process::{Answer, HouseRules, ItemId};
use cardwright::{
    Actor, ActorId, BureauTimes, Card, CardElement, CardState, Engine, NumberRange, ObjectId, ProductionType, ReadOut,
    Role, Run, User, UserId, UserState,
};
use futures::executor::block_on;
use serde::Serialize;
use serde::de::DeserializeOwned;

const ORDER: &str = "CardsAddonExtProdBoProcOrderMultiple";
const SYNC_ORDERS: &str = "CardsAddonExtProdBatchSyncOrder";
const SYNC_STATUS: &str = "CardsAddonExtProdBatchSyncStatus";

// ---- scripts -------------------------------------------------------------------------------------------------------

/// A script: it loads or is refused with words; what it sets can be set as values too; its functions give allowed values or
/// problems. The first byte says which script it is.
pub fn scripts(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let catalogue = OptionCatalogue::standard();
    let names: Vec<String> = catalogue.scripts().map(str::to_owned).collect();
    let script = &names[usize::from(*first) % names.len()];
    let source = OptionSource::Script(String::from_utf8_lossy(rest).into_owned());
    let limits = Limits::default();
    let loaded = match load(&catalogue, script, &source, &limits) {
        Ok(loaded) => loaded,
        Err(problems) => {
            let words = problems.to_string();
            assert!(!problems.as_slice().is_empty() && words.contains(script.as_str()), "it says where: {words}");
            assert!(words.len() <= 100_000, "{} bytes of problems", words.len());
            return;
        }
    };
    let specs = catalogue.script_specs(script).expect("it is one of the catalogue's");
    let fixed = specs.iter().filter_map(|spec| Some((spec.name.clone(), loaded.fixed(&spec.name)?.clone())));
    let values = load(&catalogue, script, &OptionSource::Values(fixed.collect()), &limits).expect("allowed as values");
    assert!(
        specs
            .iter()
            .all(|spec| loaded.fixed(&spec.name).is_none() || loaded.fixed(&spec.name) == values.fixed(&spec.name))
    );
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let Ok(options) = Options::defaults(&catalogue).with(loaded) else { return };
    let user = user("u1").attributes;
    for subject in [Subject::new(None, Some(&user)), Subject::new(Some(&user), None)] {
        for name in &names {
            if let Ok(resolved) = options.resolve(&[name], &subject)
                && let Some(value) = resolved.value(name)
            {
                let spec = catalogue.spec(name).expect("it is one of the catalogue's");
                assert_eq!(spec.check(value).as_ref(), Ok(value), "{name}");
            }
        }
    }
}

// ---- statuses ------------------------------------------------------------------------------------------------------

/// What the bureau says of an order, line by line: the card only moves forward, and its history verifies.
pub fn statuses(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let states = [CardState::InProduction, CardState::Produced, CardState::Failed, CardState::Ordered];
    let known = lines.next().unwrap_or_default().split(',').zip(states.into_iter().cycle()).take(8);
    let Ok(map) = StatusMap::of(known) else { return };
    let bureau = Bureau::default();
    let office = Office::new(bureau.clone(), map);
    office.run(ORDER, Answer::ids([ItemId::User(user_id("u1"))]));
    office.run(SYNC_ORDERS, Answer::new());
    let mut before = office.card();
    assert_eq!(before.state(), CardState::Ordered);
    for line in lines.take(6) {
        let own = before.order.as_ref().and_then(|order| order.order_id.clone()).unwrap_or_default();
        let (order_id, text) = line.split_once('|').map_or((own, line), |(other, text)| (other.to_owned(), text));
        let status = OrderStatus {
            order_id,
            card_id: Some(text.to_owned()),
            text: text.to_owned(),
            times: BureauTimes::default(),
            read_outs: vec![ReadOut { technology: line.to_owned(), value: text.to_owned() }],
        };
        *bureau.0.lock().expect("not poisoned") = Some(status);
        office.clock.advance(std::time::Duration::from_secs(24 * 3600));
        office.run(SYNC_STATUS, Answer::new());
        let card = office.card();
        assert!(rank(card.state()) >= rank(before.state()), "from {} to {}", before.state(), card.state());
        block_on(office.engine.verify_card(&card)).expect("readable").expect("its history verifies");
        before = card;
    }
}

fn rank(state: CardState) -> u8 {
    match state {
        CardState::Ordered => 0,
        CardState::InProduction => 1,
        _ => 2,
    }
}

// ---- answers -------------------------------------------------------------------------------------------------------

/// An answer to the form of a process, as JSON after a byte that says which: a typed error, or an outcome for each item.
pub fn answers(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let Ok(answer) = serde_json::from_slice::<Answer>(rest) else { return };
    let office = Office::new(Bureau::default(), StatusMap::new());
    let names: Vec<String> = office.engine.definitions().map(|process| process.name.as_str().to_owned()).collect();
    let name = &names[usize::from(*first) % names.len()];
    let Ok(run) = block_on(office.engine.open(name, &office.actor)) else { return };
    let Ok(execution) = block_on(office.engine.next(&run, answer)) else { return };
    let report = block_on(execution.finish()).expect("a report");
    assert_eq!(report.interrupted, None, "{name}");
    let text = serde_json::to_string(&report).expect("a report can be written");
    assert!(!text.is_empty());
    for card in block_on(office.engine.card_page(&CardQuery::default(), None, 1000)).expect("readable") {
        block_on(office.engine.verify_card(&card)).expect("readable").expect("its history verifies");
    }
}

// ---- values --------------------------------------------------------------------------------------------------------

/// A public type from JSON after a byte that says which: what is read can be written, and read again the same.
pub fn values(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let (_, read) = TYPES[usize::from(*first) % TYPES.len()];
    read(text);
}

/// Reads a text as some type, and does what must hold of it.
pub type Read = fn(&str);

/// The types that are read from outside, and how.
pub const TYPES: &[(&str, Read)] = &[
    ("Card", |text| {
        if let Some(card) = there_and_back::<Card>(text) {
            assert!(card.graph().contains(card.state()));
            assert!(card.search_terms().count() <= 1 + card.attributes.len());
        }
    }),
    ("Certificate", |text| drop(there_and_back::<cardwright::Certificate>(text))),
    ("ApprovalRequest", |text| drop(there_and_back::<cardwright::ApprovalRequest>(text))),
    ("Job", |text| drop(there_and_back::<cardwright::Job>(text))),
    ("Record", |text| drop(there_and_back::<cardwright::Record>(text))),
    ("HistoryEntry", |text| drop(there_and_back::<cardwright::HistoryEntry>(text))),
    ("Run", |text| {
        if let Some(run) = there_and_back::<Run>(text) {
            let office = Office::new(Bureau::default(), StatusMap::new());
            let next = block_on(office.engine.next(&run, Answer::new()));
            assert!(next.is_err(), "a run that this engine has not opened");
        }
    }),
    ("Answer", |text| drop(there_and_back::<Answer>(text))),
    ("Actor", |text| drop(there_and_back::<Actor>(text))),
    ("User", |text| drop(there_and_back::<User>(text))),
    ("NumberRange", |text| {
        if let Some(mut range) = there_and_back::<NumberRange>(text) {
            let longest = range.longest();
            let drawn = range.draw(3);
            assert!(drawn.iter().all(|number| number.chars().count() <= longest), "{drawn:?}");
        }
    }),
    ("HouseRules", |text| drop(there_and_back::<HouseRules>(text))),
    ("StatusMap", |text| drop(there_and_back::<StatusMap>(text))),
    ("RolePolicy", |text| drop(there_and_back::<cardwright::host::RolePolicy>(text))),
    ("OptionSource", |text| {
        if let Some(source) = there_and_back::<OptionSource>(text) {
            let catalogue = OptionCatalogue::standard();
            drop(load(&catalogue, "CardsScriptOptions", &source, &Limits::default()));
        }
    }),
    ("Outcome", |text| drop(there_and_back::<cardwright::process::Outcome>(text))),
    ("Report", |text| drop(there_and_back::<cardwright::Report>(text))),
    ("Form", |text| drop(there_and_back::<cardwright::process::Form>(text))),
    ("Filter", |text| drop(there_and_back::<cardwright::process::Filter>(text))),
    ("ProductionType", |text| drop(there_and_back::<ProductionType>(text))),
];

fn there_and_back<T: Serialize + DeserializeOwned>(text: &str) -> Option<T> {
    let value: T = serde_json::from_str(text).ok()?;
    let written = serde_json::to_string(&value).expect("what was read can be written");
    let again: T = serde_json::from_str(&written).expect("what was written can be read");
    assert_eq!(serde_json::to_string(&again).expect("it can be written"), written);
    Some(value)
}

// ---- an office -----------------------------------------------------------------------------------------------------

struct Office {
    engine: Engine,
    clock: ManualClock,
    actor: Actor,
}

impl Office {
    fn new(bureau: Bureau, map: StatusMap) -> Self {
        let clock = ManualClock::new("2030-01-07T08:00:00Z".parse().expect("a time"));
        let badge = ProductionType::new("standard", "ART-1").element(CardElement::required("NAME", "commonName", 40));
        let engine = Engine::builder()
            .repository(MemoryRepository::new(Arc::new(clock.clone())))
            .users(MemoryUsers::new(["u1", "u2"].map(user)))
            .bureau(bureau)
            .notifier(RecordingNotifier::new())
            .access(AllowAll)
            .clock(clock.clone())
            .rules(HouseRules::new().production_type(badge).status_map(map))
            .build()
            .expect("it has all its parts");
        let actor = Actor::person(ActorId::new("olga").expect("a login"), user_id("p-olga"), [Role::Operator]);
        Self { engine, clock, actor }
    }

    fn run(&self, process: &str, answer: Answer) {
        block_on(async {
            let run = self.engine.open(process, &self.actor).await.expect("it opens");
            let report = self.engine.next(&run, answer).await.expect("it begins").finish().await.expect("a report");
            assert_eq!(report.interrupted, None);
        });
    }

    fn card(&self) -> Card {
        let mut cards = block_on(self.engine.card_page(&CardQuery::default(), None, 10)).expect("readable");
        assert_eq!(cards.len(), 1);
        let card = cards.remove(0);
        assert!(!block_on(self.engine.history(&ObjectId::Card(card.id))).expect("readable").is_empty());
        card
    }
}

fn user(id: &str) -> User {
    User::new(user_id(id), UserState::Active, [("commonName".to_owned(), format!("Person {id}"))])
}

fn user_id(id: &str) -> UserId {
    UserId::new(id).expect("a user id")
}

/// A bureau that accepts everything and says of every order what it was told to say.
#[derive(Clone, Default)]
struct Bureau(Arc<Mutex<Option<OrderStatus>>>);

#[async_trait]
impl GoCardsProvider for Bureau {
    async fn place(&self, orders: &[CardOrder]) -> Vec<PlaceOutcome> {
        let accepted =
            |order: &CardOrder| PlaceOutcome::Accepted(Accepted { order_id: order.reference.clone(), card_id: None });
        orders.iter().map(accepted).collect()
    }

    async fn status(&self, order_ids: &[String]) -> Vec<StatusOutcome> {
        let said = self.0.lock().expect("not poisoned").clone();
        let said = said.map_or(StatusOutcome::NotFound, StatusOutcome::Known);
        vec![said; order_ids.len()]
    }

    async fn find(&self, _: &str) -> FindOutcome {
        FindOutcome::CannotLook
    }

    fn placement(&self) -> Placement {
        Placement::NotIdempotent
    }
}
