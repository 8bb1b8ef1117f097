//! The office against a short model of it: random commands to both, on the store in memory and on SQLite. After each command the
//! answers, the states of all cards, what is in doubt, and who holds which place must be the same.
//!
//! `PROPTEST_CASES=2000` runs more cases than the usual few. A failing one prints its commands and is kept in `proptest-regressions`.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use cardwright::adapters::memory::MemoryRepository;
use cardwright::adapters::simulator::BureauBehaviour;
use cardwright::adapters::sqlite::{SqliteOptions, SqliteRepository};
use cardwright::host::{CardQuery, CardRepository, Clock as _};
use cardwright::options::OptionSource;
use cardwright::process::{Answer, ItemId, Outcome, RefusalCode};
use cardwright::{Actor, ActorId, Card, CardId, CardKind, CardState, EngineSettings, ObjectId, Route, User, UserState};
use futures::executor::block_on;
use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use tempfile::TempDir;

use crate::office::{
    ABORT, ABORT_REQUEST, ACTIVATE, APPROVAL, CARD_SCRIPT, ISSUE, LOCK, ORDER, ORDER_SCRIPT, ORDER_TEMPORARY, Office,
    REPEAT, REQUEST, RESOLVE, SYNC_ORDERS, SYNC_STATUS, TEMPORARY_SCRIPT, UPDATE, administrator, approver, clock,
    operator, person, user_id, user_item,
};

use CardState::{
    Aborted, Active, Approved, Failed, InProduction, Issued, Locked, Ordered, Processing, Produced, Rejected, Requested,
};
use RefusalCode::{
    ActiveCard, HeldBack, InDoubt, NotFound, NotInDoubt, OpenOrder, UserNotActive, WrongKind, WrongState,
};

// ---- the model ----

const USERS: usize = 3;

#[derive(Clone, Debug)]
enum Command {
    Order(Vec<usize>),
    OrderTemporary(usize),
    Request(usize),
    /// Approves, rejects or postpones: as approver, as the requester, as the holder.
    Decide(usize, &'static str, By),
    Withdraw(usize, By),
    Abort(usize),
    Update(usize),
    Repeat(usize),
    Resolve(usize, &'static str),
    Issue(usize),
    Activate(usize),
    Lock(usize),
    SyncOrders,
    SyncStatus,
    /// A user leaves or comes back.
    Turn(usize),
    /// An option is switched.
    Switch(Switch),
    Bureau(Bureau),
    Hours(u64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Approver,
    Requester,
    Holder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Switch {
    OrderApproval,
    RequestApproval,
    Queue,
    TemporaryQueue,
    SeveralOrders,
    SeveralActive,
}

const SWITCHES: [Switch; 6] = {
    use Switch::{OrderApproval, Queue, RequestApproval, SeveralActive, SeveralOrders, TemporaryQueue};
    [OrderApproval, RequestApproval, Queue, TemporaryQueue, SeveralOrders, SeveralActive]
};

/// What the bureau does with orders.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bureau {
    Accepts,
    Refuses,
    Loses,
    IsAway,
}

/// What is answered for one item.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Done(CardState),
    Postponed,
    Unchanged,
    Doubt,
    Refused(RefusalCode),
}

#[derive(Clone, Debug)]
struct Model {
    active: [bool; USERS],
    on: BTreeSet<Switch>,
    bureau: Bureau,
    hour: u64,
    cards: Vec<Shadow>,
    said: Vec<Said>,
}

#[derive(Clone, Debug)]
struct Shadow {
    kind: CardKind,
    route: Route,
    state: CardState,
    holder: Option<usize>,
    in_doubt: bool,
    /// Whether there is an approval request for it.
    asked: bool,
    /// Whether it keeps its user's place for the one open order, or the one active card.
    keeps_place: bool,
    /// When its order is sent, or its status read again.
    due: u64,
    /// When the bureau accepted it.
    accepted: u64,
}

impl Shadow {
    fn is_open_order(&self) -> bool {
        let open = [Requested, Processing, Ordered, InProduction, Produced].contains(&self.state);
        (self.kind, self.route) == (CardKind::Permanent, Route::External) && open
    }

    fn is_counted(&self, active: bool) -> bool {
        if active { self.state == Active } else { self.is_open_order() }
    }

    fn go(&mut self, state: CardState) -> Said {
        self.state = state;
        self.keeps_place &= self.is_open_order() || state == Active;
        Said::Done(state)
    }

    fn read_status(&mut self, hour: u64) -> Said {
        let made = match hour - self.accepted {
            0..4 => Ordered,
            4..72 => InProduction,
            _ => Produced,
        };
        self.due = hour + 1;
        if made == self.state { Said::Unchanged } else { self.go(made) }
    }
}

impl Model {
    fn on(&self, switch: Switch) -> bool {
        self.on.contains(&switch)
    }

    /// Whether the user has another open order, or another active card.
    fn has_other(&self, user: usize, card: Option<usize>, active: bool) -> bool {
        let others = self.cards.iter().enumerate().filter(|(place, _)| Some(*place) != card);
        others.into_iter().any(|(_, other)| other.holder == Some(user) && other.is_counted(active))
    }

    fn make(&mut self, kind: CardKind, route: Route, holder: Option<usize>) -> usize {
        let keeps_place = route == Route::External && holder.is_some_and(|user| !self.has_other(user, None, false));
        let state = Requested;
        let (in_doubt, asked, due, accepted) = (false, false, 0, 0);
        self.cards.push(Shadow { kind, route, state, holder, in_doubt, asked, keeps_place, due, accepted });
        self.cards.len() - 1
    }

    /// The order is decided: sent now, or by the queue.
    fn decide(&mut self, card: usize, queued: bool) -> Said {
        self.cards[card].due = self.hour;
        let said = self.cards[card].go(Processing);
        if queued { said } else { self.send(card) }
    }

    fn send(&mut self, card: usize) -> Said {
        let (hour, bureau) = (self.hour, self.bureau);
        let inactive = self.cards[card].holder.is_some_and(|user| !self.active[user]);
        let card = &mut self.cards[card];
        match bureau {
            _ if inactive => {
                card.due = hour + 1;
                Said::Refused(HeldBack)
            }
            Bureau::Accepts => {
                (card.accepted, card.due) = (hour, hour + 1);
                card.go(Ordered)
            }
            Bureau::Refuses => card.go(Failed),
            Bureau::Loses => {
                card.in_doubt = true;
                Said::Doubt
            }
            Bureau::IsAway => {
                card.due = hour + 1;
                Said::Done(Processing)
            }
        }
    }

    fn order(&mut self, user: usize) -> Said {
        if !self.active[user] {
            return Said::Refused(UserNotActive);
        }
        if self.has_other(user, None, false) && !self.on(Switch::SeveralOrders) {
            return Said::Refused(OpenOrder);
        }
        let card = self.make(CardKind::Permanent, Route::External, Some(user));
        if self.on(Switch::OrderApproval) {
            self.cards[card].asked = true;
            return Said::Done(Requested);
        }
        self.decide(card, self.on(Switch::Queue))
    }

    fn request(&mut self, user: usize) -> Said {
        if !self.active[user] {
            return Said::Refused(UserNotActive);
        }
        let card = self.make(CardKind::Permanent, Route::Local, Some(user));
        self.cards[card].asked = self.on(Switch::RequestApproval);
        if self.cards[card].asked { Said::Done(Requested) } else { self.cards[card].go(Approved) }
    }

    /// A command on a card that the process takes in these states: `None` if it may go on.
    fn misfit(&self, card: usize, which: &[(CardKind, Route)], states: &[CardState]) -> Option<Said> {
        let card = &self.cards[card];
        let code = if which.contains(&(card.kind, card.route)) { WrongState } else { WrongKind };
        (code == WrongKind || !states.contains(&card.state)).then_some(Said::Refused(code))
    }

    fn holder_is_active(&self, card: usize) -> bool {
        self.cards[card].holder.is_some_and(|user| self.active[user])
    }

    fn on_card(&mut self, card: usize, command: &Command) -> Said {
        use CardKind::{Permanent, Temporary};
        use Route::{External, Local};
        let (local, external) = ([(Permanent, Local)], [(Permanent, External)]);
        let ordered = [(Permanent, External), (Temporary, External)];
        let any = [(Permanent, Local), (Permanent, External), (Temporary, External)];
        let hour = self.hour;
        let misfit = match command {
            Command::Abort(_) => self.misfit(card, &ordered, &[Processing]),
            Command::Update(_) => self.misfit(card, &ordered, &[Ordered, InProduction]),
            Command::Repeat(_) => self.misfit(card, &external, &[Failed]),
            Command::Resolve(..) => self.misfit(card, &any, &[Processing, Approved, Failed]),
            Command::Issue(_) => self.misfit(card, &local, &[Approved]),
            Command::Activate(_) => self.misfit(card, &local, &[Issued]),
            Command::Lock(_) => self.misfit(card, &[local[0], external[0]], &[Active, Issued, Produced]),
            _ => self.misfit(card, &any, &[Requested]),
        };
        let user = self.cards[card].holder;
        let other = |model: &Self, active| user.is_some_and(|user| model.has_other(user, Some(card), active));
        match command {
            _ if misfit.is_some() => misfit.unwrap_or(Said::Unchanged),
            Command::Abort(_) if self.cards[card].in_doubt => Said::Refused(InDoubt),
            Command::Abort(_) => self.cards[card].go(Aborted),
            Command::Update(_) => self.cards[card].read_status(hour),
            Command::Resolve(..) if self.cards[card].state == Approved => Said::Refused(NotFound),
            Command::Resolve(..) if !self.cards[card].in_doubt => Said::Refused(NotInDoubt),
            Command::Resolve(_, resolution) => {
                let card = &mut self.cards[card];
                (card.in_doubt, card.due) = (false, hour);
                match *resolution {
                    "accepted" => {
                        card.accepted = hour;
                        card.go(Ordered)
                    }
                    "send again" => Said::Done(Processing),
                    _ => card.go(Failed),
                }
            }
            Command::Decide(_, "postpone", _) => Said::Postponed,
            Command::Decide(_, _, By::Requester | By::Holder) => Said::Refused(RefusalCode::Person),
            Command::Withdraw(_, By::Approver | By::Holder) => Said::Refused(RefusalCode::Person),
            Command::Decide(_, "reject", _) => self.cards[card].go(Rejected),
            Command::Withdraw(..) => self.cards[card].go(Aborted),
            Command::Lock(_) => self.cards[card].go(Locked),
            _ if !self.holder_is_active(card) => Said::Refused(UserNotActive),
            Command::Decide(..) if self.cards[card].route == Local => self.cards[card].go(Approved),
            Command::Decide(..) => self.decide(card, self.on(Switch::Queue)),
            Command::Repeat(_) if other(self, false) && !self.on(Switch::SeveralOrders) => Said::Refused(OpenOrder),
            Command::Repeat(_) => {
                self.cards[card].state = Processing;
                self.cards[card].keeps_place = !other(self, false);
                self.decide(card, self.on(Switch::Queue))
            }
            Command::Issue(_) => self.cards[card].go(Issued),
            Command::Activate(_) if other(self, true) && !self.on(Switch::SeveralActive) => Said::Refused(ActiveCard),
            Command::Activate(_) => {
                self.cards[card].keeps_place = !other(self, true);
                self.cards[card].go(Active)
            }
            other => unreachable!("{other:?} is not about a card"),
        }
    }

    /// Does what is due of the cards in these states; only what is refused is said.
    fn sync(&mut self, states: &[CardState], work: fn(&mut Self, usize) -> Said) -> Vec<Said> {
        let due = |card: &Shadow| states.contains(&card.state) && !card.in_doubt && card.due <= self.hour;
        let due: Vec<usize> = (0..self.cards.len()).filter(|card| due(&self.cards[*card])).collect();
        due.into_iter().map(|card| work(self, card)).filter(|said| matches!(said, Said::Refused(_))).collect()
    }
}

/// Which card a command is about.
const fn card_of(command: &Command) -> Option<usize> {
    use Command::{Abort, Activate, Decide, Issue, Lock, Repeat, Resolve, Update, Withdraw};
    match command {
        Decide(card, ..)
        | Withdraw(card, _)
        | Resolve(card, _)
        | Abort(card)
        | Update(card)
        | Repeat(card)
        | Issue(card)
        | Activate(card)
        | Lock(card) => Some(*card),
        _ => None,
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Command;

    fn init_state() -> BoxedStrategy<Self> {
        let (on, bureau) = ([Switch::Queue, Switch::TemporaryQueue].into(), Bureau::Accepts);
        Just(Self { active: [true; USERS], on, bureau, hour: 0, cards: Vec::new(), said: Vec::new() }).boxed()
    }

    fn transitions(state: &Self) -> BoxedStrategy<Command> {
        let by = prop::sample::select(vec![By::Approver, By::Approver, By::Requester, By::Holder]);
        let decision = prop::sample::select(vec!["approve", "approve", "reject", "postpone"]);
        let resolution = prop::sample::select(vec!["accepted", "send again", "give up"]);
        let bureau = vec![Bureau::Accepts, Bureau::Accepts, Bureau::Refuses, Bureau::Loses, Bureau::IsAway];
        let users = prop::sample::subsequence((0..USERS).collect::<Vec<_>>(), 1..=USERS);
        let mut commands: Vec<(u32, BoxedStrategy<Command>)> = vec![
            (4, users.prop_map(Command::Order).boxed()),
            (1, (1_usize..3).prop_map(Command::OrderTemporary).boxed()),
            (3, (0..USERS).prop_map(Command::Request).boxed()),
            (5, Just(Command::SyncOrders).boxed()),
            (3, Just(Command::SyncStatus).boxed()),
            (2, (0..USERS).prop_map(Command::Turn).boxed()),
            (3, prop::sample::select(SWITCHES.to_vec()).prop_map(Command::Switch).boxed()),
            (3, prop::sample::select(bureau).prop_map(Command::Bureau).boxed()),
            (3, prop::sample::select(vec![1, 5, 80]).prop_map(Command::Hours).boxed()),
        ];
        // Mostly cards that fit the command, sometimes any.
        let mut of_card = |weight,
                           fits: &dyn Fn(&Shadow) -> bool,
                           command: &dyn Fn(BoxedStrategy<usize>) -> BoxedStrategy<Command>| {
            let all: Vec<usize> = (0..state.cards.len()).collect();
            let fitting = all.iter().copied().filter(|card| fits(&state.cards[*card])).collect::<Vec<_>>();
            for (weight, cards) in [(3 * weight, fitting), (weight, all)] {
                if !cards.is_empty() {
                    commands.push((weight, command(prop::sample::select(cards).boxed())));
                }
            }
        };
        of_card(3, &|card| card.asked && card.state == Requested, &|card| {
            let (decision, by) = (decision.clone(), by.clone());
            (card, decision, by).prop_map(|(card, decision, by)| Command::Decide(card, decision, by)).boxed()
        });
        of_card(1, &|card| card.asked && card.state == Requested, &|card| {
            (card, by.clone()).prop_map(|(card, by)| Command::Withdraw(card, by)).boxed()
        });
        of_card(2, &|card| card.in_doubt, &|card| {
            (card, resolution.clone()).prop_map(|(card, resolution)| Command::Resolve(card, resolution)).boxed()
        });
        of_card(1, &|card| card.state == Processing, &|card| card.prop_map(Command::Abort).boxed());
        of_card(1, &|card| card.accepted > 0, &|card| card.prop_map(Command::Update).boxed());
        of_card(1, &|card| card.state == Failed, &|card| card.prop_map(Command::Repeat).boxed());
        of_card(2, &|card| card.state == Approved, &|card| card.prop_map(Command::Issue).boxed());
        of_card(2, &|card| card.state == Issued, &|card| card.prop_map(Command::Activate).boxed());
        of_card(1, &|card| [Active, Produced].contains(&card.state), &|card| card.prop_map(Command::Lock).boxed());
        prop::strategy::Union::new_weighted(commands).boxed()
    }

    fn preconditions(state: &Self, command: &Command) -> bool {
        let asks = matches!(command, Command::Decide(..) | Command::Withdraw(..));
        match card_of(command) {
            Some(card) => state.cards.get(card).is_some_and(|card| !asks || card.asked),
            None => true,
        }
    }

    fn apply(mut state: Self, command: &Command) -> Self {
        state.said = match command {
            Command::Order(users) => users.iter().map(|user| state.order(*user)).collect(),
            Command::Request(user) => vec![state.request(*user)],
            Command::OrderTemporary(amount) => (0..*amount)
                .map(|_| {
                    let card = state.make(CardKind::Temporary, Route::External, None);
                    state.decide(card, state.on(Switch::TemporaryQueue))
                })
                .collect(),
            Command::SyncOrders => state.sync(&[Processing], Self::send),
            Command::SyncStatus => state.sync(&[Ordered, InProduction], |model, card| {
                let hour = model.hour;
                model.cards[card].read_status(hour)
            }),
            Command::Turn(user) => {
                state.active[*user] = !state.active[*user];
                Vec::new()
            }
            Command::Switch(switch) => {
                if !state.on.remove(switch) {
                    state.on.insert(*switch);
                }
                Vec::new()
            }
            Command::Bureau(bureau) => {
                state.bureau = *bureau;
                Vec::new()
            }
            Command::Hours(hours) => {
                state.hour += hours;
                Vec::new()
            }
            of_card => match card_of(of_card) {
                Some(card) => vec![state.on_card(card, of_card)],
                None => Vec::new(),
            },
        };
        state
    }
}

// ---- the office ----

/// Where an office keeps its cards.
trait Store {
    fn open(clock: Arc<dyn cardwright::host::Clock>) -> (Arc<dyn CardRepository>, Option<TempDir>);
}

struct Memory;

impl Store for Memory {
    fn open(clock: Arc<dyn cardwright::host::Clock>) -> (Arc<dyn CardRepository>, Option<TempDir>) {
        (Arc::new(MemoryRepository::new(clock)), None)
    }
}

struct Sqlite;

impl Store for Sqlite {
    fn open(clock: Arc<dyn cardwright::host::Clock>) -> (Arc<dyn CardRepository>, Option<TempDir>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = SqliteRepository::open_with(folder.path().join("cards.db"), SqliteOptions::new(clock));
        (Arc::new(store.expect("the store opens")), Some(folder))
    }
}

struct Real {
    office: Office,
    store: Arc<dyn CardRepository>,
    /// The cards in the order in which they were made.
    ids: Vec<CardId>,
    _folder: Option<TempDir>,
}

fn user(number: usize) -> String {
    format!("u{}", number + 1)
}

impl Real {
    fn run(&mut self, process: &str, actor: &Actor, answer: Answer) -> Vec<Said> {
        let (_, outcomes) = self.office.run(process, actor, answer);
        outcomes.into_iter().map(|(_, outcome)| self.said(outcome)).collect()
    }

    fn said(&mut self, outcome: Outcome) -> Said {
        let mut known = |card| {
            if !self.ids.contains(&card) {
                self.ids.push(card);
            }
        };
        match outcome {
            Outcome::Done { object: Some(ObjectId::Card(card)), state } => {
                known(card);
                Said::Done(CardState::named(&state).expect("the outcome is a state of cards"))
            }
            Outcome::Done { object: Some(ObjectId::Request(_)), state } if state == "open" => Said::Postponed,
            Outcome::InDoubt { card: Some(card), .. } => {
                known(card);
                Said::Doubt
            }
            Outcome::Unchanged { .. } => Said::Unchanged,
            Outcome::Refused(refusal) => Said::Refused(refusal.code),
            other => panic!("{other:?}"),
        }
    }

    fn sync(&self, process: &str) -> Vec<Said> {
        let report = self.office.sync(process);
        report
            .refused
            .into_iter()
            .flat_map(|(code, count)| (0..count).map(move |_| Said::Refused(code.clone())))
            .collect()
    }

    fn set_options(&self, on: &BTreeSet<Switch>) {
        let option = |name: &str, switch| (name.to_owned(), on.contains(&switch).into());
        let visitor = ("TempCardsAddonExtProdProductionType".to_owned(), "visitor".into());
        for (script, values) in [
            (
                CARD_SCRIPT,
                vec![
                    option("CardsBatchRequestApproval", Switch::RequestApproval),
                    option("CardsMultipleActive", Switch::SeveralActive),
                ],
            ),
            (
                ORDER_SCRIPT,
                vec![
                    option("CardsAddonExtProdApproval", Switch::OrderApproval),
                    option("CardsAddonExtProdQueueCards", Switch::Queue),
                    option("CardsAddonExtProdMultipleCards", Switch::SeveralOrders),
                ],
            ),
            (TEMPORARY_SCRIPT, vec![option("TempCardsAddonExtProdQueueCards", Switch::TemporaryQueue), visitor]),
        ] {
            let source = OptionSource::Values(values.into_iter().collect());
            block_on(self.office.engine.set_options(script, source, &administrator())).expect("good options");
        }
    }

    fn on_card(&mut self, id: CardId, command: &Command) -> Vec<Said> {
        let card = self.office.card(id);
        let temporary = card.kind() == CardKind::Temporary;
        let item = match card.request {
            Some(request) if matches!(command, Command::Decide(..) | Command::Withdraw(..)) => ItemId::Request(request),
            _ => ItemId::Card(id),
        };
        let who = |by: &By| match (by, &card.holder) {
            (By::Approver, _) => approver(),
            (By::Requester, _) => operator(),
            (By::Holder, holder) => {
                Actor { id: ActorId::new("holder").expect("a login"), person: holder.clone(), roles: BTreeSet::new() }
            }
        };
        let answer = Answer::ids([item]);
        match command {
            Command::Decide(_, decision, by) => {
                self.run(APPROVAL, &who(by), answer.with("decision", *decision).with("reason", "because"))
            }
            Command::Withdraw(_, by) => self.run(ABORT_REQUEST, &who(by), answer),
            Command::Resolve(_, resolution) => {
                // A person who says that it was accepted has seen it in the bureau's books.
                let order_id = format!("X-{id}");
                if card.busy.as_ref().is_some_and(|busy| busy.in_doubt) && *resolution == "accepted" {
                    self.office.bureau.remember(&order_id, self.office.clock.now());
                }
                let answer = answer.with("resolution", *resolution).with("orderId", order_id).with("reason", "seen");
                self.run(RESOLVE, &operator(), answer)
            }
            Command::Abort(_) if temporary => self.run("TempCardsAddonExtProdProcAbort", &operator(), answer),
            Command::Update(_) if temporary => self.run("TempCardsAddonExtProdProcUpdate", &operator(), answer),
            Command::Abort(_) => self.run(ABORT, &operator(), answer),
            Command::Update(_) => self.run(UPDATE, &operator(), answer),
            Command::Repeat(_) => self.run(REPEAT, &operator(), answer),
            Command::Issue(_) => self.run(ISSUE, &operator(), answer),
            Command::Activate(_) => self.run(ACTIVATE, &operator(), answer),
            Command::Lock(_) => self.run(LOCK, &operator(), answer),
            other => unreachable!("{other:?} is not about a card"),
        }
    }

    fn compare(&self, model: &Model) {
        let cards = block_on(self.store.card_page(&CardQuery::default(), None, 10_000)).expect("cards can be read");
        let cards: BTreeMap<CardId, &Card> = cards.iter().map(|card| (card.id, card)).collect();
        assert_eq!(cards.len(), model.cards.len(), "as many cards");
        let mut places = BTreeMap::new();
        for (id, shadow) in self.ids.iter().zip(&model.cards) {
            let card = cards[id];
            let in_doubt = card.busy.as_ref().is_some_and(|busy| busy.in_doubt);
            let holder = shadow.holder.map(|number| user_id(&user(number)));
            assert_eq!((card.kind(), card.route(), &card.holder), (shadow.kind, shadow.route, &holder), "{card:?}");
            assert_eq!((card.state(), in_doubt), (shadow.state, shadow.in_doubt), "{card:?}");
            assert_eq!(card.is_open_order(), shadow.is_open_order(), "{card:?}");
            assert_eq!(card.busy.is_some(), shadow.state == Processing, "{card:?}");
            if let Some(user) = shadow.holder.filter(|_| shadow.keeps_place) {
                let key = if shadow.state == Active { "active-card" } else { "open-order" };
                let twice = places.insert(format!("{key}/{}", self::user(user)), id.to_string());
                assert_eq!(twice, None, "one holder each");
            }
        }
        let users = (0..USERS).map(user);
        let keys: Vec<String> =
            users.flat_map(|user| [format!("active-card/{user}"), format!("open-order/{user}")]).collect();
        let held = block_on(self.store.reservations(&keys)).expect("reservations can be read");
        let held: BTreeMap<_, _> = held.into_iter().map(|held| (held.key, held.owner)).collect();
        assert_eq!(held, places, "who holds which place");
    }
}

struct Against<S>(PhantomData<S>);

impl<S: Store> StateMachineTest for Against<S> {
    type SystemUnderTest = Real;
    type Reference = Model;

    fn init_test(model: &Model) -> Real {
        let clock = clock();
        let (store, folder) = S::open(Arc::new(clock.clone()));
        let hour = Duration::from_secs(3600);
        let settings = EngineSettings::new().poll_interval(hour).hold_back(hour).back_off(hour);
        let office = Office::on(Arc::clone(&store), clock, |builder| builder.settings(settings));
        let real = Real { office, store, ids: Vec::new(), _folder: folder };
        real.set_options(&model.on);
        real
    }

    fn apply(mut real: Real, model: &Model, command: Command) -> Real {
        let said = match &command {
            Command::Order(users) => {
                real.run(ORDER, &operator(), Answer::ids(users.iter().map(|number| user_item(&user(*number)))))
            }
            Command::OrderTemporary(amount) => {
                real.run(ORDER_TEMPORARY, &operator(), Answer::new().with("amount", amount.to_string()))
            }
            Command::Request(number) => real.run(REQUEST, &operator(), Answer::ids([user_item(&user(*number))])),
            Command::SyncOrders => real.sync(SYNC_ORDERS),
            Command::SyncStatus => real.sync(SYNC_STATUS),
            Command::Turn(number) => {
                let state = if model.active[*number] { UserState::Active } else { UserState::Inactive };
                let id = user_id(&user(*number));
                real.office.users.put(User { id, state, ..person(1) });
                Vec::new()
            }
            Command::Switch(_) => {
                real.set_options(&model.on);
                Vec::new()
            }
            Command::Bureau(bureau) => {
                let calm = BureauBehaviour::calm();
                real.office.bureau.behave(match bureau {
                    Bureau::Accepts => calm,
                    Bureau::Refuses => calm.refused(1000),
                    Bureau::Loses => calm.lost_before_accepting(1000),
                    Bureau::IsAway => calm.unavailable(1000),
                });
                Vec::new()
            }
            Command::Hours(hours) => {
                real.office.clock.advance(Duration::from_secs(hours * 3600));
                Vec::new()
            }
            of_card => match card_of(of_card) {
                Some(place) => real.on_card(real.ids[place], of_card),
                None => Vec::new(),
            },
        };
        assert_eq!(said, model.said, "{command:?} in {model:#?}");
        real
    }

    fn check_invariants(real: &Real, model: &Model) {
        real.compare(model);
    }

    fn teardown(real: Real, _: Model) {
        for id in &real.ids {
            real.office.history(*id);
        }
    }
}

fn config(cases: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    let cases = if env::var_os("PROPTEST_CASES").is_some() { config.cases } else { cases };
    ProptestConfig { cases, ..config }
}

prop_state_machine! {
    #![proptest_config(config(150))]

    #[test]
    fn the_office_in_memory_does_what_the_model_does(sequential 1..80 => Against<Memory>);
}

prop_state_machine! {
    #![proptest_config(config(15))]

    #[test]
    fn the_office_on_sqlite_does_what_the_model_does(sequential 1..80 => Against<Sqlite>);
}
