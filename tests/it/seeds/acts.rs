//! Who does what: operators, approvers, an administrator, and people who settle what is in doubt.

use std::sync::Arc;

use cardwright::adapters::simulator::HandleState;
use cardwright::host::{CardRepository as _, RequestQuery};
use cardwright::options::OptionSource;
use cardwright::process::{Answer, ItemId, Selection};
use cardwright::{
    Actor, ActorId, Card, CardId, CardState, Engine, Error, Job, JobKind, JobState, RequestState, Role, Route, RunId,
    StateAtCa,
};
use futures::executor::block_on;
use uuid::Uuid;

use super::world::{PEOPLE, World};
use crate::eavesdropping::Seeded;
use crate::invariants::Ran;
use crate::office::{
    ABORT, ABORT_REQUEST, ACTIVATE, APPROVAL, CARD_SCRIPT, ISSUE, LOCK, ORDER, ORDER_SCRIPT, ORDER_TEMPORARY, REPEAT,
    REPEAT_PRODUCTION, REQUEST, RESOLVE, SYNC_ORDERS, TEMPORARY_SCRIPT, UPDATE, administrator, service, user_id,
    user_item,
};

const ABORT_APPROVED: &str = "CardsProcAbort";
const ABORT_TEMPORARY: &str = "TempCardsAddonExtProdProcAbort";
const UPDATE_TEMPORARY: &str = "TempCardsAddonExtProdProcUpdate";

/// The logins, and whose they are. The last one approves, and gets cards too.
pub(super) const PEOPLE_AT_WORK: [(&str, &str); 4] =
    [("olga", "p-olga"), ("otto", "p-otto"), ("anton", "p-anton"), ("una", "u1")];

fn actor(place: usize) -> Actor {
    let (login, person) = PEOPLE_AT_WORK[place];
    let roles = [Role::Operator, Role::CardProductionAdministrator, Role::Approver];
    Actor::person(ActorId::new(login).expect("a valid login"), user_id(person), roles)
}

// ---- what is done ------------------------------------------------------------------------------------------------------

/// Something that somebody wants done.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Run { id: RunId, process: &'static str, actor: Actor, answer: Answer },
    SetOptions(&'static str, String),
}

impl Act {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Run { process, .. } => process,
            Self::SetOptions(script, _) => script,
        }
    }

    pub(super) const fn is_a_run(&self) -> bool {
        matches!(self, Self::Run { .. })
    }

    pub(super) fn is_a_service(&self) -> bool {
        matches!(self, Self::Run { actor, .. } if actor.id == service().id)
    }
}

/// Does it, and tells what came of a run.
pub(super) async fn perform(engine: Arc<Engine>, act: Act) -> Result<Option<Ran>, Error> {
    match act {
        Act::Run { id, process, actor, answer } => {
            let run = engine.open_as(id, process, &actor).await?;
            let mut execution = engine.next(&run, answer).await?;
            let mut outcomes = Vec::new();
            while let Some(chunk) = execution.next_chunk().await? {
                outcomes.extend(chunk);
            }
            Ok(Some(Ran { report: execution.report().clone(), outcomes }))
        }
        Act::SetOptions(script, text) => {
            engine.set_options(script, OptionSource::Script(text), &administrator()).await?;
            Ok(None)
        }
    }
}

// ---- the options -------------------------------------------------------------------------------------------------------

/// What the administrator of a world does with the options. Some are the same all the time, so that it can be checked that
/// they are kept to.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) orders_are_always_approved: bool,
    pub(super) requests_are_always_approved: bool,
    pub(super) several_orders_at_times: bool,
    pub(super) several_active_at_times: bool,
}

impl Script {
    pub(super) fn drawn(dice: &Seeded) -> Self {
        let one_in = |count| dice.next().is_multiple_of(count);
        Self {
            orders_are_always_approved: one_in(5),
            requests_are_always_approved: one_in(5),
            several_orders_at_times: one_in(3),
            several_active_at_times: one_in(3),
        }
    }

    /// A version of this script.
    pub(super) fn text(&self, script: &str, dice: &Seeded) -> String {
        let one_in = |count| dice.next().is_multiple_of(count);
        let end_states = [
            "\"issued\"\nCardsCertificateEndState = \"on hold\"",
            "\"issued\"\nCardsCertificateEndState = \"valid\"",
            "\"active\"\nCardsCertificateEndState = \"valid\"",
        ];
        match script {
            ORDER_SCRIPT => format!(
                "CardsAddonExtProdApproval = {}\nCardsAddonExtProdMultipleCards = {}\nCardsAddonExtProdQueueCards = {}\n\
                 CardsAddonExtProdSendCardOrderedEmail = {}",
                self.orders_are_always_approved || one_in(5),
                self.several_orders_at_times && one_in(2),
                one_in(2),
                !one_in(4),
            ),
            // PIN and PUK are so long that none is in a text by chance.
            CARD_SCRIPT => format!(
                "CardsPINLength = 12\nCardsPUKLength = 12\nCardsPUKDeliveryMethod = \"print\"\nCardsCardEndState = {}\n\
                 CardsCertificates = {{ signature = {} }}\nCardsBatchRequestApproval = {}\nCardsMultipleActive = {}",
                end_states[(dice.next() % 3) as usize],
                one_in(2),
                self.requests_are_always_approved || one_in(5),
                self.several_active_at_times && one_in(2),
            ),
            _ => format!(
                "TempCardsAddonExtProdProductionType = \"visitor\"\nTempCardsAddonExtProdQueueCards = {}",
                one_in(2)
            ),
        }
    }
}

// ---- the people --------------------------------------------------------------------------------------------------------

impl World {
    /// A run of this process, under an id of the seed's.
    pub(super) fn act(&self, process: &'static str, actor: Actor, answer: Answer) -> Act {
        let id = RunId::new(Uuid::from_u64_pair(self.dice.next(), self.dice.next()));
        Act::Run { id, process, actor, answer }
    }

    /// One of the two operators.
    fn operator(&self) -> Actor {
        actor(self.below(2) as usize)
    }

    pub(super) fn other_options(&self) -> Act {
        let script = self.pick(&[ORDER_SCRIPT, ORDER_SCRIPT, CARD_SCRIPT, CARD_SCRIPT, TEMPORARY_SCRIPT]);
        let script = script.expect("there are some");
        Act::SetOptions(script, self.script.text(script, &self.dice))
    }

    /// Somebody wants something done, and perhaps somebody else the same thing, or the opposite.
    pub(super) fn somebody_comes(&mut self) {
        let Some(act) = self.somebodys_act() else { return };
        let rival = if self.chance(25) { self.rival(&act) } else { None };
        self.begin(act);
        if let Some(rival) = rival {
            self.begin(rival);
        }
    }

    fn somebodys_act(&mut self) -> Option<Act> {
        use CardState::{Active, Approved, Failed, InProduction, Issued, Ordered, Processing, Produced};
        use Route::{External, Local};
        let act = match self.below(100) {
            0..11 => self.act(ORDER, self.operator(), self.some_users()),
            11..13 => {
                let answer = Answer::new().with("amount", (1 + self.below(2)).to_string());
                self.act(ORDER_TEMPORARY, self.operator(), answer)
            }
            13..22 => self.act(REQUEST, self.operator(), self.some_users()),
            22..32 => {
                let answer = Answer::ids(self.some_requests()?);
                let decided = match self.below(10) {
                    0..7 => answer.with("decision", "approve"),
                    7 | 8 => answer.with("decision", "reject").with("reason", "not now"),
                    _ => answer.with("decision", "postpone"),
                };
                // Mostly the approver, at times somebody who may not.
                let who = self.pick(&[2, 2, 2, 3, 3, 0]).expect("there are some");
                self.act(APPROVAL, actor(who), decided)
            }
            32..34 => self.act(ABORT_REQUEST, self.operator(), Answer::ids(self.some_requests()?)),
            34..38 => self.on_cards(ABORT, External, &[Processing])?,
            38 => self.on_cards(ABORT_TEMPORARY, External, &[Processing])?,
            39..41 => self.on_cards(ABORT_APPROVED, Local, &[Approved])?,
            41..47 => self.on_cards(REPEAT, External, &[Failed])?,
            47..65 => self.on_cards(ISSUE, Local, &[Approved])?,
            65..69 => self.on_cards(REPEAT_PRODUCTION, Local, &[Failed])?,
            69..80 => self.activate_all_of_somebody()?,
            80..84 => self.on_cards(LOCK, Local, &[Issued, Active])?,
            84 => self.on_cards(LOCK, External, &[Produced])?,
            85..89 => self.on_cards(UPDATE, External, &[Ordered, InProduction])?,
            89 => self.on_cards(UPDATE_TEMPORARY, External, &[Ordered, InProduction])?,
            90 => self.give_up_a_production()?,
            _ => {
                let job = self.pick(&self.jobs(&[JobState::InDoubt]))?;
                // Mostly they look; some just say something.
                self.settle(&job, self.chance(80))
            }
        };
        Some(act)
    }

    fn some_users(&self) -> Answer {
        let count = 1 + self.below(3);
        Answer::ids((0..count).map(|_| user_item(&format!("u{}", 1 + self.below(PEOPLE)))))
    }

    fn some_requests(&self) -> Option<Vec<ItemId>> {
        let states = if self.chance(90) { vec![RequestState::Open] } else { Vec::new() };
        let query = RequestQuery { states, ..RequestQuery::default() };
        let requests = block_on(self.store.request_page(&query, None, usize::MAX)).expect("requests can be read");
        self.some_of(&requests.iter().map(|request| ItemId::Request(request.id)).collect::<Vec<_>>())
    }

    /// One to three of these.
    fn some_of(&self, items: &[ItemId]) -> Option<Vec<ItemId>> {
        let count = 1 + self.below(3);
        let mut some: Vec<ItemId> = (0..count).filter_map(|_| self.pick(items)).collect();
        some.sort();
        some.dedup();
        (!some.is_empty()).then_some(some)
    }

    /// This process on some cards in these states; at times on any.
    fn on_cards(&self, process: &'static str, route: Route, states: &[CardState]) -> Option<Act> {
        let any = self.chance(6);
        let fits = |card: &&Card| any || (card.route() == route && states.contains(&card.state()));
        let cards: Vec<ItemId> = self.cards().iter().filter(fits).map(|card| ItemId::Card(card.id)).collect();
        Some(self.act(process, self.operator(), Answer::ids(self.some_of(&cards)?)))
    }

    /// All cards of one user that could be activated, each in a run of its own.
    fn activate_all_of_somebody(&mut self) -> Option<Act> {
        let cards: Vec<Card> = self.cards().into_iter().filter(|card| card.state() == CardState::Issued).collect();
        let holder = self.pick(&cards)?.holder;
        let mut acts: Vec<Act> = (cards.iter().filter(|card| card.holder == holder))
            .map(|card| self.act(ACTIVATE, self.operator(), Answer::ids([ItemId::Card(card.id)])))
            .collect();
        let last = acts.pop();
        acts.into_iter().for_each(|act| self.begin(act));
        last
    }

    fn give_up_a_production(&self) -> Option<Act> {
        let cards: Vec<CardId> =
            self.cards().iter().filter(|card| card.production.is_some()).map(|card| card.id).collect();
        let answer = Answer::ids([ItemId::Card(self.pick(&cards)?)]);
        Some(self.act(
            RESOLVE,
            self.operator(),
            answer.with("resolution", "give up").with("reason", "it takes too long"),
        ))
    }

    /// Somebody who wants the same thing at the same time, or the opposite.
    fn rival(&self, act: &Act) -> Option<Act> {
        let Act::Run { process, answer, .. } = act else { return None };
        let same =
            |process| self.act(process, self.operator(), Answer { values: Default::default(), ..answer.clone() });
        let is_of_items = matches!(answer.selection, Selection::Ids(_));
        Some(match *process {
            _ if self.chance(20) => act.clone(),
            APPROVAL => same(ABORT_REQUEST),
            ABORT => self.act(SYNC_ORDERS, service(), Answer::new()),
            ISSUE => same(self.pick(&[ISSUE, ABORT_APPROVED])?),
            ACTIVATE => same(LOCK),
            RESOLVE => return None,
            process if is_of_items => same(process),
            _ => return None,
        })
    }

    fn is_calm(&self) -> bool {
        self.turn.desk().calm
    }

    fn waits_for(&self, job: &Job) -> bool {
        self.cards().iter().any(|card| card.busy.as_ref().is_some_and(|busy| busy.job == job.id))
    }

    /// What a person says of a job in doubt: what the books of the outside say, or whatever comes to mind.
    pub(super) fn settle(&self, job: &Job, looks: bool) -> Act {
        let reference = job.attempt.as_ref().map(|attempt| attempt.reference.as_str()).unwrap_or_default();
        let mut order_id = None;
        let any = |of: &[&'static str]| self.pick(of).expect("there are some");
        let resolution = match job.kind() {
            JobKind::PlaceOrder => {
                let ledger = self.bureau.ledger();
                match ledger.iter().find(|entry| entry.reference == reference).filter(|_| looks) {
                    Some(entry) => {
                        order_id = Some(entry.order_id.clone());
                        "accepted"
                    }
                    None => any(&["send again", "give up"]),
                }
            }
            JobKind::PrepareCard => {
                let taken = self.machine.ledger().iter().any(|entry| entry.reference == reference);
                let said = if taken { "spoiled" } else { "send again" };
                if looks { said } else { any(&["send again", "spoiled"]) }
            }
            JobKind::FinishCard => {
                let finished = self.machine.ledger().iter().any(|entry| {
                    entry.state == HandleState::Finished && entry.finish_references.iter().any(|own| own == reference)
                });
                let said = if finished { "good card" } else { "spoiled" };
                if looks { said } else { any(&["good card", "spoiled"]) }
            }
            JobKind::IssueCertificate if !self.waits_for(job) && self.is_calm() => {
                // The CA cannot look, so a person does once nothing is on its way any more, and revokes by hand what is there.
                let key = job.id.uuid().simple().to_string();
                if let Some(entry) = self.ca.ledger().into_iter().find(|entry| entry.key == key) {
                    self.ca.set_state(&entry.certificate.serial, StateAtCa::Revoked);
                }
                "give up"
            }
            JobKind::IssueCertificate if self.waits_for(job) => any(&["send again", "send again", "give up"]),
            _ => "send again",
        };
        self.turn.desk().count(if looks {
            "a person looked and settled a doubt"
        } else {
            "a person settled a doubt without looking"
        });
        let answer =
            Answer::ids([ItemId::Job(job.id)]).with("resolution", resolution).with("reason", "that is how it is");
        let answer = answer.with("doubt", job.doubt());
        let answer = order_id.into_iter().fold(answer, |answer, id| answer.with("orderId", id));
        self.act(RESOLVE, self.operator(), answer)
    }
}
