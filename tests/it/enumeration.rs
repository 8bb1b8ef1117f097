//! Every process on everything that it could meet: state × process × option pairs × user × actor × answer, on the pure plans; and
//! state × process × user × busy card through an engine, for what is checked before a plan.
//!
//! What is expected stands in [`RULES`] and [`reasons`], in the words of the domain; a case goes through exactly where these
//! give no reason against it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cardwright::adapters::memory::{MemoryRepository, MemoryUsers};
use cardwright::host::{CardQuery, CardRepository as _, Clock as _};
use cardwright::options::{
    Allowed, CARD_END_STATE, CERTIFICATES, CardEndState, CertificateChoice, Limits, MULTIPLE_ACTIVE, MULTIPLE_CARDS,
    ORDER_APPROVAL, ORDER_PRODUCTION_TYPE, OptionCatalogue, OptionSource, OptionValue, Options, PIN_DELIVERY,
    PUK_DELIVERY, PinDelivery, PukDelivery, QUEUE_CARDS, QUEUE_TEMPORARY_CARDS, REQUEST_APPROVAL, ResolvedOptions,
    Subject, TEMPORARY_PRODUCTION_TYPE, load,
};
use cardwright::process::{
    Answer, Field, FieldKind, HouseRules, Item, ItemId, ItemKind, Outcome, Plan, PlanContext, Process, ProcessRegistry,
    RefusalCode,
};
use cardwright::{
    Actor, ActorId, ApprovalRequest, Busy, Card, CardId, CardKind, CardState, Certificate, CertificateId,
    CertificateKind, CertificateState, ChainHead, ChainKey, ChangeSet, Claim, Delivery, HistoryEntry,
    IssuedCertificate, Job, JobId, JobKind, JobState, Message, MessageId, MessageKind, ObjectId, Order, Production,
    Recipient, RequestId, RequestState, Reservation, RevocationReason, Route, RunId, SecretPlan, Stamp, State,
    StateAtCa, StateGraph, SymbolicName, Task, User, UserState, Why, Withdrawal, card_graph, certificate_graph,
    request_graph, verify_chain,
};
use chrono::{DateTime, TimeDelta, Utc};
use futures::executor::block_on;
use uuid::Uuid;

use crate::office::{
    ABORT, ABORT_REQUEST, ACTIVATE, APPROVAL, ISSUE, LOCK, ORDER, ORDER_TEMPORARY, Office, REPEAT, REPEAT_PRODUCTION,
    REQUEST, RESOLVE, SYNC_ORDERS, SYNC_ORPHANS, SYNC_PRODUCTION, SYNC_STATUS, UPDATE, approver, clock, operator,
    person, user_id,
};

use CardKind::{Permanent, Temporary};
use CardState::{
    Aborted, Active, Approved, Failed, InProduction, Inactive, Issued, Locked, Ordered, Processing, Produced, Rejected,
    Requested,
};
use Route::{External, Local};

// ---- what the domain says ----

/// Which cards a process takes, and in which state its plan leaves them. Without states: it makes new cards, or is not about
/// their state.
struct Rule {
    process: &'static str,
    item: ItemKind,
    kind: Option<CardKind>,
    route: Option<Route>,
    taken: &'static [CardState],
    left: &'static [CardState],
    /// Whether it takes a card whose next state an open job decides.
    even_busy: bool,
}

const fn rule(
    process: &'static str,
    item: ItemKind,
    kind: Option<CardKind>,
    route: Option<Route>,
    taken: &'static [CardState],
    left: &'static [CardState],
) -> Rule {
    Rule { process, item, kind, route, taken, left, even_busy: false }
}

const fn even_busy(rule: Rule) -> Rule {
    Rule { even_busy: true, ..rule }
}

const ABORT_APPROVED: &str = "CardsProcAbort";
const TEMPORARY_ABORT: &str = "TempCardsAddonExtProdProcAbort";
const TEMPORARY_UPDATE: &str = "TempCardsAddonExtProdProcUpdate";

#[rustfmt::skip]
const RULES: [Rule; 20] = [
    rule(ORDER, ItemKind::User, Some(Permanent), Some(External), &[], &[Requested, Processing]),
    rule(ORDER_TEMPORARY, ItemKind::New, Some(Temporary), Some(External), &[], &[Processing]),
    rule(REQUEST, ItemKind::User, None, None, &[], &[Requested, Approved]),
    rule(APPROVAL, ItemKind::Request, None, None, &[Requested], &[Approved, Processing, Rejected, Requested]),
    rule(ABORT_REQUEST, ItemKind::Request, None, None, &[Requested], &[Aborted]),
    rule(ABORT_APPROVED, ItemKind::Card, Some(Permanent), Some(Local), &[Approved], &[Aborted]),
    // A production only begins: the card keeps its state until it ends.
    rule(ISSUE, ItemKind::Card, Some(Permanent), Some(Local), &[Approved], &[Approved]),
    rule(REPEAT_PRODUCTION, ItemKind::Card, Some(Permanent), Some(Local), &[Failed], &[Failed]),
    rule(ACTIVATE, ItemKind::Card, Some(Permanent), Some(Local), &[Issued], &[Active]),
    rule(LOCK, ItemKind::Card, Some(Permanent), None, &[Active, Inactive, Issued, Produced], &[Locked]),
    rule(REPEAT, ItemKind::Card, Some(Permanent), Some(External), &[Failed], &[Processing]),
    even_busy(rule(ABORT, ItemKind::Card, Some(Permanent), Some(External), &[Processing], &[Aborted])),
    even_busy(rule(TEMPORARY_ABORT, ItemKind::Card, Some(Temporary), Some(External), &[Processing], &[Aborted])),
    rule(UPDATE, ItemKind::Card, Some(Permanent), Some(External), &[Ordered, InProduction], &[Ordered, InProduction]),
    rule(TEMPORARY_UPDATE, ItemKind::Card, Some(Temporary), Some(External), &[Ordered, InProduction], &[Ordered, InProduction]),
    even_busy(rule(RESOLVE, ItemKind::Card, None, None, &[Processing, Approved, Failed], &[Processing, Ordered, Failed, Approved, Issued, Active])),
    even_busy(rule(SYNC_ORDERS, ItemKind::Job, None, Some(External), &[], &[])),
    even_busy(rule(SYNC_STATUS, ItemKind::Job, None, Some(External), &[], &[])),
    even_busy(rule(SYNC_PRODUCTION, ItemKind::Job, None, None, &[], &[])),
    even_busy(rule(SYNC_ORPHANS, ItemKind::Certificate, None, None, &[], &[])),
];

impl Rule {
    /// Why the card is none that this process takes, whatever else holds.
    fn misfit(&self, card: &Card) -> Option<RefusalCode> {
        let wrong_kind = self.kind.is_some_and(|kind| kind != card.kind());
        let wrong_route = self.route.is_some_and(|route| route != card.route());
        let wrong_state = !self.taken.is_empty() && !self.taken.contains(&card.state());
        match &card.busy {
            _ if wrong_kind || wrong_route => Some(RefusalCode::WrongKind),
            _ if wrong_state => Some(RefusalCode::WrongState),
            Some(busy) if !self.even_busy && busy.in_doubt => Some(RefusalCode::InDoubt),
            Some(_) if !self.even_busy => Some(RefusalCode::Busy),
            _ => None,
        }
    }
}

/// One case of a process that takes its card.
struct Case<'a> {
    rule: &'a Rule,
    item: Item,
    actor: &'a Actor,
    answers: &'a BTreeMap<String, String>,
    options: &'a ResolvedOptions,
}

/// Why the domain refuses a case; nothing: it goes through. `None`: it says nothing of it.
fn reasons(case: &Case<'_>) -> Option<BTreeSet<RefusalCode>> {
    let Case { rule, item, actor, options, .. } = case;
    let process = rule.process;
    let answer = |field: &str| case.answers.get(field).map_or("", String::as_str);
    let on = |key| options.get(key).expect("a boolean");
    let mut reasons = BTreeSet::new();
    let mut refuse = |when: bool, code: RefusalCode| {
        if when {
            reasons.insert(code);
        }
    };

    // Only who is active gets a card: when it is requested, approved, sent, issued, activated.
    let for_somebody = match process {
        APPROVAL => answer("decision") == "approve",
        ORDER_TEMPORARY => !answer("user").is_empty(),
        _ => [ORDER, REQUEST, ISSUE, REPEAT_PRODUCTION, ACTIVATE, REPEAT].contains(&process),
    };
    refuse(for_somebody && item.user.is_none(), RefusalCode::NotFound);
    refuse(for_somebody && item.user.as_ref().is_some_and(|user| !user.is_active()), RefusalCode::UserNotActive);

    // One open order, one active card, unless several are allowed.
    let orders = [ORDER, REPEAT].contains(&process);
    refuse(orders && !item.open_orders.is_empty() && !on(MULTIPLE_CARDS), RefusalCode::OpenOrder);
    let produces = [ISSUE, REPEAT_PRODUCTION].contains(&process);
    let activates = process == ACTIVATE || (produces && options.get(CARD_END_STATE) == Ok(CardEndState::Active));
    refuse(activates && !item.active_cards.is_empty() && !on(MULTIPLE_ACTIVE), RefusalCode::ActiveCard);

    // What the bureau is to write must be there; what it is to make must be offered.
    let offered = match process {
        ORDER => options.get(ORDER_PRODUCTION_TYPE).expect("names"),
        ORDER_TEMPORARY => options.get(TEMPORARY_PRODUCTION_TYPE).expect("names"),
        _ => vec!["standard".to_owned()],
    };
    let made = Some(answer("productionType").to_owned()).filter(|made| !made.is_empty()).unwrap_or(offered[0].clone());
    refuse(!offered.contains(&made) || !["standard", "visitor"].contains(&made.as_str()), RefusalCode::ProductionType);
    let nameless = item.user.as_ref().is_none_or(|user| !user.attributes.contains_key("commonName"));
    let written = orders || process == ORDER_TEMPORARY;
    refuse(written && made == "standard" && (nameless || process == ORDER_TEMPORARY), RefusalCode::CardElement);

    if let Some(card) = &item.card {
        let over = card.valid_until.is_some_and(|until| until <= now());
        let ended = |c: &&Certificate| c.is_current(card) && c.issued.valid_until <= now();
        let certificate_over = process == ACTIVATE && item.certificates.iter().any(|c| ended(&c));
        refuse((over && (produces || process == ACTIVATE)) || certificate_over, RefusalCode::Expired);
        // A certificate names its holder; a PIN by e-mail needs an address.
        let certified =
            options.get(CERTIFICATES).expect("choices").values().any(|choice| *choice != CertificateChoice::No);
        let mailed =
            options.get(PIN_DELIVERY) == Ok(PinDelivery::Email) || options.get(PUK_DELIVERY) == Ok(PukDelivery::Email);
        let has = |name: &str| card.attributes.contains_key(name);
        refuse(produces && ((certified && !has("commonName")) || (mailed && !has("email"))), RefusalCode::CardElement);
    }
    if let Some(request) = &item.request {
        let decides = process == APPROVAL && answer("decision") != "postpone";
        let withdraws = process == ABORT_REQUEST;
        let asked = actor.person.is_some() && actor.person == request.requester.person;
        refuse(decides && (asked || actor.person.as_ref().is_none_or(|p| *p == request.holder)), RefusalCode::Person);
        let by_login = actor.person.is_none() && actor.id == request.requester.id;
        refuse(withdraws && !asked && !by_login, RefusalCode::Person);
        refuse((decides || withdraws) && request.state() != RequestState::Open, RefusalCode::WrongState);
    }
    if [ABORT, TEMPORARY_ABORT].contains(&process) {
        let Some(job) = &item.job else { return Some([RefusalCode::NotFound].into()) };
        if job.kind() != JobKind::PlaceOrder || matches!(job.state, JobState::Done | JobState::Cancelled) {
            return None;
        }
        refuse(job.state == JobState::InDoubt, RefusalCode::InDoubt);
        refuse(job.is_being_tried(now()), RefusalCode::BeingSent);
    }
    if [UPDATE, TEMPORARY_UPDATE, RESOLVE].contains(&process) {
        refuse(item.job.is_none(), RefusalCode::NotFound);
    }
    if let (UPDATE | TEMPORARY_UPDATE, Some(job)) = (process, &item.job) {
        refuse(job.state == JobState::InDoubt, RefusalCode::InDoubt);
    }
    if let (RESOLVE, Some(job)) = (process, &item.job) {
        // An order in doubt is settled in one of three ways; what is settled, or never was in doubt, is left alone.
        let settled = matches!(job.state, JobState::Done | JobState::Cancelled);
        let order = job.kind() == JobKind::PlaceOrder;
        let says = answer("resolution");
        let waits = order && waits(item);
        if !settled && !waits {
            return None;
        }
        refuse(job.state != JobState::InDoubt, RefusalCode::NotInDoubt);
        refuse(!["accepted", "send again", "give up"].contains(&says), RefusalCode::NotOffered);
        let named = answer("doubt").split(' ').any(|doubt| doubt == job.doubt());
        refuse(!named, RefusalCode::ChangedMeanwhile);
        refuse(says == "accepted" && answer("orderId").is_empty(), RefusalCode::OrderId);
    }
    if let (ItemKind::Job, Some(job)) = (rule.item, &item.job) {
        let done_by = match job.kind() {
            JobKind::Notify => &[SYNC_ORDERS, SYNC_STATUS, SYNC_PRODUCTION][..],
            JobKind::PlaceOrder | JobKind::Custom => &[SYNC_ORDERS],
            JobKind::TrackOrder => &[SYNC_STATUS],
            _ => &[SYNC_PRODUCTION],
        };
        refuse(!done_by.contains(&process), RefusalCode::WrongKind);
    }
    Some(reasons)
}

/// Whether the card waits for the answer to its order.
fn waits(item: &Item) -> bool {
    item.card.as_ref().is_some_and(|card| card.state() == Processing && card.busy.is_some())
}

/// What a plan of a case that goes through must come to, besides what holds of every plan.
fn comes_to(case: &Case<'_>, plan: &Plan, card: Option<&Card>) -> Result<(), String> {
    let Case { rule, options, item, .. } = case;
    let answer = |field: &str| case.answers.get(field).map_or("", String::as_str);
    let on = |key| options.get(key).expect("a boolean");
    let state = card.map(Card::state);
    let sent = |queued: bool| {
        let placed = plan.changes.jobs.iter().find(|job| job.kind() == JobKind::PlaceOrder);
        ensure(placed.is_some_and(|job| plan.perform.contains(&job.id) != queued), "sent now or by the queue")
    };
    if let Some(state) = state {
        ensure(rule.left.contains(&state), "left in a state that the domain names")?;
    }
    match rule.process {
        ORDER if on(ORDER_APPROVAL) => {
            ensure(state == Some(Requested) && plan.perform.is_empty(), "not ordered without approval")?;
            let waiting = plan.changes.requests.iter().any(|request| request.state() == RequestState::Open);
            ensure(waiting && !orders(plan), "asks for approval and orders nothing")
        }
        ORDER | REPEAT => {
            ensure(state == Some(Processing), "in processing")?;
            sent(on(QUEUE_CARDS))
        }
        ORDER_TEMPORARY => {
            ensure(state == Some(Processing), "in processing")?;
            sent(on(QUEUE_TEMPORARY_CARDS))
        }
        REQUEST => {
            let asks = plan.changes.requests.iter().any(|request| request.state() == RequestState::Open);
            let wanted = if on(REQUEST_APPROVAL) { Requested } else { Approved };
            ensure(state == Some(wanted) && asks == on(REQUEST_APPROVAL) && !orders(plan), "asks where it must")
        }
        APPROVAL => {
            let route = item.card.as_ref().map(Card::route);
            let wanted = match (answer("decision"), route) {
                ("approve", Some(External)) => Some((Some(Processing), RequestState::Approved)),
                ("approve", _) => Some((Some(Approved), RequestState::Approved)),
                ("reject", _) => Some((Some(Rejected), RequestState::Rejected)),
                _ => item.request.as_ref().map(|request| (None, request.state())),
            };
            let request = plan.changes.requests.first().map(ApprovalRequest::state);
            ensure(wanted.is_some_and(|(card, decided)| card == state && Some(decided) == request), "as was decided")?;
            let reason = plan.changes.requests.first().and_then(|request| request.reason.as_deref());
            ensure((answer("decision") == "reject") == reason.is_some(), "a rejection has its reason")?;
            if state == Some(Processing) { sent(on(QUEUE_CARDS)) } else { ensure(!orders(plan), "nothing is ordered") }
        }
        ABORT_REQUEST => {
            let request = plan.changes.requests.first().map(ApprovalRequest::state);
            ensure((state, request) == (Some(Aborted), Some(RequestState::Aborted)), "request and card are aborted")
        }
        ABORT_APPROVED => {
            let withdrawal = card.and_then(|card| card.withdrawal);
            ensure(
                withdrawal == Some(Withdrawal::Approved) && plan.changes.jobs.is_empty(),
                "an approved card is taken back",
            )
        }
        ISSUE | REPEAT_PRODUCTION => {
            let begun = card.is_some_and(|card| card.production.is_some() && card.busy.is_some());
            ensure(begun && plan.perform.len() == 1, "a production has begun")
        }
        ACTIVATE | LOCK => {
            let certificates = after(&item.certificates, &plan.changes.certificates);
            let fits = card.is_some_and(|card| {
                certificates
                    .filter(|certificate| certificate.is_current(card))
                    .all(|certificate| rule.process == ACTIVATE && certificate.state() == CertificateState::Valid)
            });
            ensure(fits, "card and certificates fit together")
        }
        ABORT | TEMPORARY_ABORT => {
            let cancelled = plan.changes.jobs.iter().all(|job| job.state == JobState::Cancelled);
            let idle = card.is_some_and(|card| card.busy.is_none());
            ensure(state == Some(Aborted) && cancelled && idle && !plan.changes.jobs.is_empty(), "taken back")
        }
        UPDATE | TEMPORARY_UPDATE | SYNC_ORDERS | SYNC_STATUS | SYNC_PRODUCTION => {
            let job: Vec<JobId> = item.job.iter().map(|job| job.id).collect();
            ensure(plan.changes.is_empty() && plan.perform == job, "performs the job and nothing else")
        }
        RESOLVE if waits(item) && item.job.as_ref().is_some_and(|job| job.kind() == JobKind::PlaceOrder) => {
            let wanted = match answer("resolution") {
                "accepted" => Ordered,
                "give up" => Failed,
                _ => Processing,
            };
            ensure(state == Some(wanted), "settled as was said")
        }
        RESOLVE => Ok(()),
        SYNC_ORPHANS => {
            let orphan = item.certificate.as_ref().is_some_and(|certificate| {
                certificate.state() == CertificateState::Issued
                    && running(item).is_none_or(|production| production.id != certificate.production)
            });
            let revoked = plan.changes.certificates.iter().all(|c| c.state() == CertificateState::Revoked);
            ensure(revoked && orphan != plan.changes.certificates.is_empty(), "orphans are revoked, others are not")
        }
        other => Err(format!("nothing is known of {other}")),
    }
}

fn running(item: &Item) -> Option<&Production> {
    item.card.as_ref()?.production.as_ref()
}

fn orders(plan: &Plan) -> bool {
    plan.changes.jobs.iter().any(|job| job.kind() == JobKind::PlaceOrder)
}

/// The certificates as they are after a change.
fn after<'a>(before: &'a [Certificate], changed: &'a [Certificate]) -> impl Iterator<Item = &'a Certificate> {
    before.iter().filter(|old| changed.iter().all(|new| new.id != old.id)).chain(changed)
}

// ---- what holds of every plan ----

fn ensure(holds: bool, words: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("not so: {words}")) }
}

/// Even of a card that is none for the process: along the graph, with its history.
fn check_changes(plan: &Plan, past: &Past) -> Result<(), String> {
    let changes = &plan.changes;
    let mut entries = 0;
    for card in &changes.cards {
        entries += check_history(&ObjectId::Card(card.id), &card.history, card.graph(), card.state(), changes, past)?;
    }
    for one in &changes.certificates {
        let (object, graph) = (ObjectId::Certificate(one.id), certificate_graph());
        entries += check_history(&object, &one.history, graph, one.state(), changes, past)?;
    }
    for one in &changes.requests {
        let (object, graph) = (ObjectId::Request(one.id), request_graph());
        entries += check_history(&object, &one.history, graph, one.state(), changes, past)?;
    }
    ensure(entries == changes.history.len(), "there is history of changed objects only")?;
    let objects: BTreeSet<&ObjectId> = changes.history.iter().map(|entry| &entry.object).collect();
    let changed = changes.cards.len() + changes.certificates.len() + changes.requests.len();
    ensure(objects.len() == changed, "each object stands there once")
}

fn held_by_job(job: &Job) -> Option<Reservation> {
    match (&job.task, job.state) {
        (Task::DiscardCard { handle }, JobState::Open | JobState::InDoubt) => {
            Some(Reservation { key: format!("handle/{handle}"), owner: job.id.to_string() })
        }
        _ => None,
    }
}

fn check_plan(item: &Item, plan: &Plan) -> Result<(), String> {
    let changes = &plan.changes;
    let mut keys = (BTreeSet::new(), BTreeSet::new());
    for card in &changes.cards {
        let before = item.card.as_ref().filter(|before| before.id == card.id);
        keys.0.extend(before.iter().flat_map(|before| held(before)));
        keys.1.extend(held(card));
        check_reservations(item, before, card)?;
        check_busy(item, card, plan)?;
        ensure(card.version == before.map_or(0, |before| before.version), "under the version it was loaded with")?;
        ensure(plan.number.is_some() == before.is_none(), "a new card draws a number")?;
    }
    // What is to be put aside keeps its handle until it is.
    for job in changes.jobs.iter().filter(|job| job.state != JobState::Cancelled) {
        keys.0.extend(item.job.iter().filter(|before| before.id == job.id).filter_map(held_by_job));
        keys.1.extend(held_by_job(job));
    }
    let taken: BTreeSet<Reservation> = changes.takes.iter().cloned().collect();
    let released: BTreeSet<Reservation> = changes.releases.iter().cloned().collect();
    ensure(
        taken == &keys.1 - &keys.0 && released == &keys.0 - &keys.1,
        "takes and gives back what the card then holds",
    )?;

    let known: BTreeSet<JobId> = changes.jobs.iter().chain(&item.job).map(|job| job.id).collect();
    ensure(plan.perform.iter().all(|job| known.contains(job)), "performs jobs that are there")?;
    check_outcome(item, plan)
}

fn check_history<S: State>(
    object: &ObjectId,
    head: &ChainHead,
    graph: &StateGraph<S>,
    state: S,
    changes: &ChangeSet,
    past: &Past,
) -> Result<usize, String> {
    let before = past.get(object).map_or(&[][..], Vec::as_slice);
    let new = || changes.history.iter().filter(|entry| entry.object == *object);
    let mut last = before.last().map(|entry| entry.to.clone());
    for entry in new() {
        ensure(entry.from == last, "an entry begins where the last one ended")?;
        let named = |name: &str| graph.states().find(|state| state.name() == name);
        let to = named(&entry.to).ok_or("an unknown state")?;
        match entry.from.as_deref().and_then(named) {
            Some(from) => ensure(from == to || graph.allows(from, to), &format!("{} to {}", from.name(), to.name()))?,
            None => ensure(to == graph.start(), "it begins in its start state")?,
        }
        last = Some(entry.to.clone());
    }
    ensure(new().next().is_some(), &format!("{object} changed with its history"))?;
    ensure(last.as_deref() == Some(state.name()), "the history ends in the state that the object has")?;
    let all: Vec<HistoryEntry> = before.iter().chain(new()).cloned().collect();
    verify_chain(object, &all, head, &ChainKey::none()).map_err(|error| error.to_string())?;
    Ok(new().count())
}

fn held(card: &Card) -> impl Iterator<Item = Reservation> {
    let owner = card.id.to_string();
    card.reservations.iter().map(move |key| Reservation { key: key.clone(), owner: owner.clone() })
}

/// The key of the open order and that of the active card are held by whom they stand for, unless another held them before.
fn check_reservations(item: &Item, before: Option<&Card>, card: &Card) -> Result<(), String> {
    let keeps = |key: &str, card: &Card| card.reservations.iter().any(|held| held.starts_with(key));
    let becomes = card.production.as_ref().is_some_and(|production| production.card_end_state == Active);
    for (key, stands, stood, others) in [
        ("open-order/", card.is_open_order(), before.is_some_and(Card::is_open_order), &item.open_orders),
        (
            "active-card/",
            card.state() == Active || becomes,
            before.is_some_and(|b| b.state() == Active),
            &item.active_cards,
        ),
    ] {
        let held_before = before.is_some_and(|before| keeps(key, before));
        let wanted = stands && (held_before || (!stood && others.is_empty()));
        ensure(keeps(key, card) == wanted, &format!("{key} is held as long as it must be"))?;
    }
    Ok(())
}

/// At most one open job decides the card's next state, and the card names it.
fn check_busy(item: &Item, card: &Card, plan: &Plan) -> Result<(), String> {
    let decides = |job: &&Job| {
        matches!(job.state, JobState::Open | JobState::InDoubt)
            && matches!(
                job.kind(),
                JobKind::PlaceOrder
                    | JobKind::PrepareCard
                    | JobKind::IssueCertificate
                    | JobKind::HoldCertificate
                    | JobKind::FinishCard
            )
    };
    let deciding: Vec<JobId> = plan.changes.jobs.iter().filter(decides).map(|job| job.id).collect();
    let named = card.busy.as_ref().map(|busy| busy.job);
    let known = named.is_none_or(|named| deciding.contains(&named) || item.job.iter().any(|job| job.id == named));
    let own = item.card.as_ref().and_then(|card| card.busy.as_ref()).map(|busy| busy.job);
    ensure(deciding.len() <= 1 && (known || named == own), "one deciding job, which the card names")?;
    // A certificate that was asked for is looked for even after its production was given up. What the card did not wait for before
    // decides nothing now.
    let idle = item.job.as_ref().filter(|job| job.kind() == JobKind::IssueCertificate || own.is_none());
    ensure(
        deciding.iter().all(|job| named == Some(*job) || idle.is_some_and(|idle| idle.id == *job)),
        "no other decides",
    )
}

fn check_outcome(item: &Item, plan: &Plan) -> Result<(), String> {
    let changes = &plan.changes;
    match &plan.outcome {
        Outcome::Done { object: Some(ObjectId::Card(id)), state } => {
            let card = changes.cards.iter().find(|card| card.id == *id).ok_or("the card that is done is stored")?;
            let begun = state == "begun" && card.production.is_some();
            ensure(begun || *state == card.state().name(), "the outcome is the state of the card")
        }
        Outcome::Done { object: Some(ObjectId::Request(id)), state } => {
            let request = changes.requests.iter().find(|request| request.id == *id);
            ensure(request.is_some_and(|r| r.state().name() == state), "the outcome is the state of the request")
        }
        Outcome::Done { object: Some(ObjectId::Certificate(id)), state } => {
            let one = changes.certificates.iter().find(|certificate| certificate.id == *id);
            let said = one.map_or_else(|| item.certificate.as_ref().map(|_| "done"), |one| Some(one.state().name()));
            ensure(
                said.is_some_and(|said| said == state || *state == "done"),
                "the outcome is the state of the certificate",
            )
        }
        Outcome::Done { object: None, state } => {
            ensure(changes.jobs.iter().any(|job| job.state.name() == state), "the outcome is the state of the job")
        }
        Outcome::Unchanged { .. } => ensure(changes.cards.is_empty(), "unchanged leaves the card alone"),
        other => Err(format!("no plan comes to {other:?}")),
    }
}

// ---- the cases ----

/// The history of everything that the cases begin with.
type Past = BTreeMap<ObjectId, Vec<HistoryEntry>>;

fn now() -> DateTime<Utc> {
    clock().now()
}

/// An id of its own for each text.
fn uuid(text: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes())
}

fn the_job() -> JobId {
    JobId::new(uuid("job"))
}

fn production() -> JobId {
    JobId::new(uuid("production"))
}

fn begun() -> Production {
    let secret = SecretPlan { length: 6, delivery: Delivery::None };
    Production {
        id: production(),
        certificates: vec![CertificateKind::Signature],
        card_end_state: Issued,
        certificate_end_state: CertificateState::OnHold,
        pin: secret,
        puk: secret,
        handle: None,
        requests: BTreeMap::new(),
    }
}

fn with_stamp<T>(work: impl FnOnce(&Stamp<'_>) -> T) -> T {
    let (actor, process) = (ActorId::new("before").unwrap(), SymbolicName::new("Before").unwrap());
    work(&Stamp { at: now(), actor: &actor, process: &process, run: None, key: &ChainKey::none() })
}

/// The shortest way through a graph.
fn way<S: State + Ord>(graph: &StateGraph<S>, to: S) -> Vec<S> {
    let mut ways = BTreeMap::from([(graph.start(), vec![])]);
    while !ways.contains_key(&to) {
        for (from, way) in ways.clone() {
            for next in graph.after(from) {
                ways.entry(*next).or_insert_with(|| way.iter().copied().chain([*next]).collect());
            }
        }
    }
    ways.remove(&to).expect("just found")
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mark {
    Free,
    Busy,
    InDoubt,
}

const MARKS: [Mark; 3] = [Mark::Free, Mark::Busy, Mark::InDoubt];

/// Every kind, route and state.
fn card_states() -> Vec<(CardKind, Route, CardState)> {
    let pairs = [(Permanent, Local), (Permanent, External), (Temporary, Local), (Temporary, External)];
    pairs
        .into_iter()
        .flat_map(|(kind, route)| card_graph(kind, route).states().map(move |state| (kind, route, state)))
        .collect()
}

/// A card that has come to its state along its graph, with what a card in that state has.
fn card_in(
    label: &str,
    (kind, route, state): (CardKind, Route, CardState),
    mark: Mark,
    job: JobId,
    past: &mut Past,
) -> Card {
    with_stamp(|stamp| {
        let id = CardId::new(uuid(&format!("{label} {kind:?} {route:?} {state:?}")));
        let (mut card, created) = Card::create(id, kind, route, stamp, Why::code("created"));
        let mut entries = vec![created];
        for next in way(card.graph(), state) {
            entries.push(card.transition(next, stamp, Why::code("moved")).expect("along the graph"));
        }
        past.insert(ObjectId::Card(id), entries);
        card.version = 1;
        card.number = Some("C1".to_owned());
        card.attributes = person(1).attributes;
        card.valid_until = Some(now() + TimeDelta::days(1));
        let in_stock = kind == Temporary && state != CardState::Assigned;
        card.holder = (!in_stock).then(|| user_id("u1"));
        if route == External {
            card.production_type = Some("standard".to_owned());
            card.order = (![CardState::Registered, Requested].contains(&state)).then(|| Order::decided(job));
        }
        if card.is_open_order() {
            card.reservations.push("open-order/u1".to_owned());
        }
        if kind == Permanent && state == Active {
            card.reservations.push("active-card/u1".to_owned());
        }
        let made = [Issued, Active, Inactive, Locked, CardState::Expired].contains(&state);
        card.produced = (kind == Permanent && route == Local && made).then(production);
        card.busy = (mark != Mark::Free).then(|| Busy { job, since: now(), in_doubt: mark == Mark::InDoubt });
        card
    })
}

/// One certificate in each state that a card may have it in, and one that an earlier production left.
fn certificates(card: &Card, past: &mut Past) -> Vec<Certificate> {
    use CertificateState::{Expired, Issued, OnHold, Revoked, Valid};
    let at_ca = [(Valid, StateAtCa::Valid), (OnHold, StateAtCa::OnHold), (OnHold, StateAtCa::Revoked)];
    let ended = [(Revoked, StateAtCa::Revoked), (Expired, StateAtCa::Expired), (Issued, StateAtCa::Valid)];
    let all = at_ca.into_iter().chain(ended);
    all.map(|(state, at_ca)| {
        let from = if state == Issued { JobId::new(uuid("earlier")) } else { production() };
        certificate_in(&format!("{state:?} {at_ca:?}"), card, state, at_ca, from, past)
    })
    .collect()
}

fn certificate_in(
    label: &str,
    card: &Card,
    state: CertificateState,
    at_ca: StateAtCa,
    production: JobId,
    past: &mut Past,
) -> Certificate {
    with_stamp(|stamp| {
        let id = CertificateId::new(uuid(&format!("{} {label}", card.id)));
        let issued = IssuedCertificate {
            issuer: "CN=CA".to_owned(),
            serial: "1".to_owned(),
            valid_until: now(),
            pem: String::new(),
        };
        let kind = CertificateKind::Signature;
        let (mut one, entry) = Certificate::issued(id, card.id, kind, production, "key", issued, stamp);
        let mut entries = vec![entry];
        for next in way(certificate_graph(), state) {
            entries.push(one.transition(next, stamp, Why::code("moved")).expect("along the graph"));
        }
        past.insert(ObjectId::Certificate(id), entries);
        one.version = 1;
        one.at_ca = at_ca;
        one
    })
}

/// A request of Rita for the card.
fn request_in(card: &Card, state: RequestState, past: &mut Past) -> ApprovalRequest {
    with_stamp(|stamp| {
        let id = RequestId::new(uuid(&format!("{} {state:?}", card.id)));
        let holder = user_id("u1");
        let (mut request, opened) = ApprovalRequest::open(
            id,
            card.route(),
            BTreeMap::new(),
            card.id,
            holder,
            rita(),
            stamp,
            Why::code("asked"),
        );
        let mut entries = vec![opened];
        for next in way(request_graph(), state) {
            entries.push(request.transition(next, stamp, Why::code("decided")).expect("along the graph"));
        }
        past.insert(ObjectId::Request(id), entries);
        request
    })
}

fn rita() -> Actor {
    Actor::person(ActorId::new("rita").unwrap(), user_id("p-rita"), [])
}

/// The requester under another login, the holder, another person, and no person under the login of the requester.
fn actors() -> [Actor; 4] {
    let person = |login: &str, person: &str| Actor::person(ActorId::new(login).unwrap(), user_id(person), []);
    [
        person("rita2", "p-rita"),
        person("ann", "u1"),
        person("anton", "p-anton"),
        Actor::system(ActorId::new("rita").unwrap(), []),
    ]
}

/// Nobody, everybody who is not active, an active user, and one without a name.
fn users() -> Vec<Option<User>> {
    use UserState::{Aborted, Active, Approved, Inactive, Locked, Registered, Rejected, Requested};
    let in_state = |state| Some(User { state, ..person(1) });
    let nameless = person(1).attributes.into_iter().filter(|(name, _)| name != "commonName");
    let mut users = vec![None, Some(User::new(user_id("u1"), Active, nameless))];
    users.extend([Registered, Requested, Aborted, Approved, Rejected, Active, Inactive, Locked].map(in_state));
    users
}

/// Jobs of every kind and state, at rest, claimed, and with an attempt that has no answer.
fn jobs(card: Option<&Card>, certificate: CertificateId) -> Vec<Job> {
    let message = Message {
        id: MessageId::new(uuid("message")),
        kind: MessageKind::CardOrdered,
        recipient: Recipient::Email("u1@example.com".to_owned()),
        data: BTreeMap::new(),
        locale: None,
    };
    let tasks = [
        Task::PlaceOrder { notify_holder: true, queued: true },
        Task::TrackOrder { order_id: "O-1".to_owned() },
        Task::PrepareCard,
        Task::IssueCertificate { kind: CertificateKind::Signature, production: production() },
        Task::HoldCertificate { certificate },
        Task::FinishCard,
        Task::DiscardCard { handle: "h".to_owned() },
        Task::RemoveHold { certificate },
        Task::RevokeCertificate { certificate, reason: RevocationReason::default() },
        Task::Notify(message),
        Task::Custom { performer: SymbolicName::new("Own").unwrap(), data: serde_json::Value::Null },
    ];
    let mut jobs = Vec::new();
    for task in tasks {
        for state in [JobState::Open, JobState::InDoubt, JobState::Done, JobState::Cancelled] {
            for tried in 0..3 {
                let mut job = with_stamp(|stamp| Job::new(the_job(), task.clone(), card.map(|card| card.id), stamp));
                job.state = state;
                job.version = 1;
                job.claim = (tried == 1).then(|| Claim { worker: "w".to_owned(), until: now() + TimeDelta::hours(1) });
                job.attempt = (tried == 2).then(|| job.next_attempt(now()));
                job.attempts = u32::from(tried == 2);
                jobs.push(job);
            }
        }
    }
    jobs
}

/// Everything that a process could be given.
fn items(rule: &Rule, process: &dyn Process, past: &mut Past) -> Vec<Item> {
    let needs = process.needs();
    let other = |wanted: bool| if wanted { vec![vec![], vec![CardId::new(uuid("other"))]] } else { vec![vec![]] };
    let people = if needs.user { users() } else { vec![None] };
    let mut items = Vec::new();
    let mut add = |id: ItemId, change: &dyn Fn(&mut Item)| {
        let mut item = Item::new(id);
        change(&mut item);
        items.push(item);
    };
    if matches!(rule.item, ItemKind::User | ItemKind::New) {
        let id = if rule.item == ItemKind::User { ItemId::User(user_id("u1")) } else { ItemId::New(1) };
        for user in &people {
            for open in other(needs.open_orders) {
                add(id.clone(), &|item| (item.user, item.open_orders) = (user.clone(), open.clone()));
            }
        }
        return items;
    }
    // Temporary cards have no approval step.
    let kinds = if rule.item == ItemKind::Request { &[Permanent][..] } else { &[Permanent, Temporary] };
    for place in card_states().into_iter().filter(|(kind, ..)| kinds.contains(kind)) {
        for mark in MARKS {
            let card = card_in("", place, mark, the_job(), past);
            let all = certificates(&card, past);
            match rule.item {
                ItemKind::Request => {
                    for state in
                        [RequestState::Open, RequestState::Approved, RequestState::Rejected, RequestState::Aborted]
                    {
                        let request = request_in(&card, state, past);
                        for user in &people {
                            add(ItemId::Request(request.id), &|item| {
                                item.user = user.clone();
                                item.card = Some(card.clone());
                                item.request = Some(request.clone());
                            });
                        }
                    }
                }
                ItemKind::Certificate => {
                    let issued = CertificateState::Issued;
                    let new = certificate_in("new", &card, issued, StateAtCa::Valid, production(), past);
                    for one in all.iter().chain([&new]) {
                        add(ItemId::Certificate(one.id), &|item| {
                            let mut card = card.clone();
                            card.production = (mark != Mark::Free).then(begun);
                            (item.card, item.certificate) = (Some(card), Some(one.clone()));
                        });
                    }
                }
                _ => {
                    let wants_job = needs.job || rule.item == ItemKind::Job;
                    let none = std::iter::once(None).filter(|_| rule.item != ItemKind::Job);
                    let some = jobs(Some(&card), all[0].id).into_iter().filter(|_| wants_job).map(Some);
                    let id = if rule.item == ItemKind::Job { ItemId::Job(the_job()) } else { ItemId::Card(card.id) };
                    for job in none.chain(some) {
                        for user in &people {
                            for active in other(needs.open_orders || needs.active_cards) {
                                for days in if needs.active_cards { vec![1, 0] } else { vec![1] } {
                                    add(id.clone(), &|item| {
                                        let mut card = card.clone();
                                        card.valid_until = Some(now() + TimeDelta::days(days));
                                        (item.card, item.job, item.user) = (Some(card), job.clone(), user.clone());
                                        item.certificates = if needs.certificates { all.clone() } else { Vec::new() };
                                        (item.open_orders, item.active_cards) = (active.clone(), active.clone());
                                    });
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    items
}

/// What an administrator might set an option to: every boolean and choice, the ends of a range.
fn values(catalogue: &OptionCatalogue, name: &str) -> Vec<OptionValue> {
    let spec = catalogue.spec(name).expect("an option of the catalogue");
    match &spec.allowed {
        Allowed::Boolean => vec![true.into(), false.into()],
        Allowed::Integer { min, max } => vec![OptionValue::Integer(*min), OptionValue::Integer(*max)],
        Allowed::OneOf(texts) => texts.iter().map(|text| text.as_str().into()).collect(),
        Allowed::Names => [&["standard"][..], &["visitor"], &["standard", "visitor"], &["unknown"]]
            .map(|names| OptionValue::Names(names.iter().map(|name| (*name).to_owned()).collect()))
            .into(),
        Allowed::ChoicesPerName { names, values } => {
            let all = |value: &String| names.iter().map(|name| (name.clone(), value.clone())).collect();
            values.iter().map(|value| OptionValue::Choices(all(value))).collect()
        }
    }
}

/// The defaults, and every pair of values of two of these options, the others at their defaults; without the one pair that
/// contradicts itself, which is refused when it is loaded.
fn option_pairs(names: &[SymbolicName]) -> Vec<ResolvedOptions> {
    let catalogue = OptionCatalogue::standard();
    let mut sets = vec![BTreeMap::new()];
    for (place, first) in names.iter().enumerate() {
        for second in &names[place..] {
            for a in values(&catalogue, first.as_str()) {
                for b in values(&catalogue, second.as_str()) {
                    let set: BTreeMap<&str, _> = [(first.as_str(), a.clone()), (second.as_str(), b)].into();
                    sets.push(set);
                }
            }
        }
    }
    let mut refused = BTreeSet::new();
    let resolved = sets.into_iter().filter_map(|mut set| {
        // An active card with certificates on hold, as is the default, is the contradiction.
        if set.get("CardsCardEndState") == Some(&"active".into()) {
            set.entry("CardsCertificateEndState").or_insert_with(|| "valid".into());
        }
        let mut scripts = BTreeMap::<_, BTreeMap<_, _>>::new();
        for (name, value) in &set {
            let script = &catalogue.spec(name).expect("an option of the catalogue").script;
            scripts.entry(script).or_default().insert((*name).to_owned(), value.clone());
        }
        let loaded = scripts
            .into_iter()
            .map(|(script, values)| load(&catalogue, script, &OptionSource::Values(values), &Limits::default()));
        match loaded.collect::<Result<Vec<_>, _>>() {
            Ok(loaded) => {
                let options = Options::of(&catalogue, loaded).expect("no contradiction between scripts");
                Some(options.resolve(&[], &Subject::default()).expect("no functions"))
            }
            Err(_) => {
                refused.insert(set.into_values().map(|value| value.to_string()).collect::<Vec<_>>().join(", "));
                None
            }
        }
    });
    let resolved: Vec<_> = resolved.collect();
    assert!(refused.iter().all(|pair| pair == "\"active\", \"on hold\""), "{refused:?}");
    resolved
}

/// Every way to fill in a form, and a production type that was offered when the form was drawn but is not for this item.
fn answers(fields: &[Field]) -> Vec<BTreeMap<String, String>> {
    let mut all = vec![BTreeMap::new()];
    for field in fields {
        let mut may = match &field.kind {
            FieldKind::Choice(choices) => choices.clone(),
            FieldKind::Amount { min, .. } => vec![min.to_string()],
            FieldKind::Text { .. } if field.name == "doubt" => vec![format!("{}/0", the_job()), "another".to_owned()],
            FieldKind::Text { .. } => vec!["u1".to_owned()],
        };
        if field.name == "productionType" {
            may.push("elsewhere".to_owned());
        }
        let filled = |form: &BTreeMap<String, String>| {
            let needed = field.required_when.as_ref().is_some_and(|(other, value)| form.get(other) == Some(value));
            let empty = (!needed && (!field.required || field.preset.is_some())).then(|| form.clone());
            let with = |value: &String| form.clone().into_iter().chain([(field.name.clone(), value.clone())]).collect();
            empty.into_iter().chain(may.iter().map(with)).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(filled).collect();
    }
    all
}

// ---- the pure plans ----

#[test]
fn every_plan_keeps_the_rules_of_the_domain() {
    let office = Office::new();
    let registry = ProcessRegistry::standard();
    let names: BTreeSet<_> = registry.definitions().map(|definition| definition.name.as_str()).collect();
    assert_eq!(names, RULES.iter().map(|rule| rule.process).collect(), "each process has its rule");
    let mut cases = 0;
    for rule in &RULES {
        let of_process = plans_of(rule, registry.process(rule.process).unwrap().as_ref(), office.engine.rules());
        println!(
            "{:7} plans, {:6} of them of cards it takes, {:6} made: {}",
            of_process[0], of_process[1], of_process[2], rule.process
        );
        assert!(of_process[2] > 0, "{} plans something", rule.process);
        cases += of_process[0];
    }
    println!("{cases:7} plans in all");
    assert!(cases >= 800_000, "only {cases} cases");
}

/// How many plans were asked for, how many of them of cards that the process takes, and how many were made.
fn plans_of(rule: &Rule, process: &dyn Process, rules: &HouseRules) -> [u64; 3] {
    let mut past = Past::new();
    let items = items(rule, process, &mut past);
    let actors = actors();
    let run = RunId::new(uuid("run"));
    let mut counts = [0; 3];
    for (place, options) in option_pairs(&process.definition().options).iter().enumerate() {
        for (answer, answers) in answers(&process.fields(options, rules)).iter().enumerate() {
            for item in &items {
                let misfit = item.card.as_ref().filter(|_| matches!(rule.item, ItemKind::Card | ItemKind::Request));
                let misfit = misfit.and_then(|card| rule.misfit(card));
                // What the engine refuses before there is a plan gets no plan; here it must only do no harm.
                if misfit.is_some() && (place > 0 || answer > 0) {
                    continue;
                }
                for actor in if misfit.is_some() { &actors[..1] } else { &actors } {
                    let stamp = Stamp {
                        at: now(),
                        actor: &actor.id,
                        process: &process.definition().name,
                        run: Some(run),
                        key: &ChainKey::none(),
                    };
                    let context = PlanContext { stamp, actor, run, options, answers, rules };
                    let plan = process.plan(item.clone(), &context);
                    counts[0] += 1;
                    counts[1] += u64::from(misfit.is_none());
                    counts[2] += u64::from(plan.is_ok());
                    let case = Case { rule, item: item.clone(), actor, answers, options };
                    let checked = match &plan {
                        Ok(plan) if misfit.is_some() => check_changes(plan, &past),
                        Ok(plan) => {
                            check_changes(plan, &past).and_then(|()| check_plan(item, plan)).and_then(
                                |()| match reasons(&case) {
                                    Some(reasons) if !reasons.is_empty() => {
                                        Err(format!("to be refused for {reasons:?}"))
                                    }
                                    Some(_) => comes_to(&case, plan, plan.changes.cards.first()),
                                    None => Ok(()),
                                },
                            )
                        }
                        Err(refusal) => match reasons(&case).filter(|_| misfit.is_none()) {
                            Some(reasons) if !reasons.contains(&refusal.code) => {
                                Err(format!("refused for {refusal:?}, not for one of {reasons:?}"))
                            }
                            _ => ensure(refusal.reason.len() > 10, "a reason that can be read"),
                        },
                    };
                    if let Err(words) = checked {
                        panic!(
                            "{}: {words}\nanswers {answers:?}\nactor {actor:?}\noptions {options:?}\n{item:#?}\n{plan:#?}",
                            rule.process
                        );
                    }
                }
            }
        }
    }
    counts
}

// ---- what is checked before a plan ----

/// What the run of a process leaves a card in that it takes, with a calm bureau and options at their defaults.
fn left_by_its_run(process: &str, before: CardState, answer: &str) -> CardState {
    match process {
        ISSUE | REPEAT_PRODUCTION => Issued,
        ACTIVATE => Active,
        LOCK => Locked,
        REPEAT => Processing,
        ABORT | TEMPORARY_ABORT | ABORT_REQUEST | ABORT_APPROVED => Aborted,
        APPROVAL if answer == "reject" => Rejected,
        APPROVAL => Approved,
        RESOLVE => Failed,
        _ => before,
    }
}

#[test]
fn every_guard_holds_in_the_engine() {
    let mut cases = 0;
    for rule in RULES.iter().filter(|rule| matches!(rule.item, ItemKind::Card | ItemKind::Request)) {
        let [all, done] = guarded(rule);
        println!("{all:5} cards, {done:3} of them done: {}", rule.process);
        assert!(done > 0, "{} takes something", rule.process);
        cases += all;
    }
    println!("{cases:5} cards in all");
    assert!(cases >= 4_000, "only {cases} cases");
}

/// A card of every kind and route in every state, free, busy and in doubt, of a user who is active, inactive or gone, given to one
/// run of the process: how many, and how many were done.
fn guarded(rule: &Rule) -> [u64; 2] {
    let mut past = Past::new();
    let mut items = BTreeMap::new();
    let mut users = Vec::new();
    let mut changes = ChangeSet::new();
    let kinds = if rule.item == ItemKind::Request { &[Permanent][..] } else { &[Permanent, Temporary] };
    for place in card_states().into_iter().filter(|(kind, ..)| kinds.contains(kind)) {
        for mark in MARKS {
            for state in [Some(UserState::Active), Some(UserState::Inactive), None] {
                let label = format!("{mark:?} {state:?}");
                let holder = user_id(&format!("{place:?} {label}"));
                let job_id = JobId::new(uuid(holder.as_str()));
                let mut card = card_in(&label, place, mark, job_id, &mut past);
                let user = state.map(|state| User { id: holder.clone(), state, ..person(1) });
                card.holder = card.holder.map(|_| holder.clone());
                card.reservations = card.reservations.iter().map(|key| key.replace("u1", holder.as_str())).collect();
                card.number = Some(format!("C{:04}", items.len()));
                card.version = 0;
                let tracked = [Ordered, InProduction].contains(&card.state());
                if let Some(order) = card.order.as_mut().filter(|_| tracked) {
                    order.order_id = Some("O-1".to_owned());
                }
                let task = match tracked {
                    true => Task::TrackOrder { order_id: "O-1".to_owned() },
                    false => Task::PlaceOrder { notify_holder: false, queued: true },
                };
                let mut job = with_stamp(|stamp| Job::new(job_id, task, Some(card.id), stamp));
                job.state = if mark == Mark::InDoubt { JobState::InDoubt } else { JobState::Open };
                let asked = rule.item == ItemKind::Request;
                let request = asked.then(|| request_in(&card, RequestState::Open, &mut past));

                let id = request.as_ref().map_or(ItemId::Card(card.id), |request| ItemId::Request(request.id));
                let mut item = Item::new(id.clone());
                item.user = user.clone().filter(|_| card.holder.is_some());
                // What the card does not name is not loaded with it.
                item.job = Some(job.clone()).filter(|_| card.busy.is_some() || card.order.is_some());
                (item.card, item.request) = (Some(card.clone()), request.clone());
                items.insert(id, item);
                users.extend(user);
                changes.takes.extend(held(&card));
                changes.history.extend(past[&ObjectId::Card(card.id)].clone());
                changes.history.extend(request.iter().flat_map(|request| past[&ObjectId::Request(request.id)].clone()));
                changes.requests.extend(request);
                changes.jobs.push(job);
                changes.put_card(card);
            }
        }
    }
    let clock = clock();
    let store = MemoryRepository::new(Arc::new(clock.clone()));
    let office = Office::on(store.clone(), clock, |builder| builder.users(MemoryUsers::new(users)));
    block_on(store.commit(&changes)).expect("the cards are stored");
    office.bureau.remember("O-1", now());

    let values: &[(&str, &str)] = match rule.process {
        APPROVAL => &[("decision", "reject"), ("reason", "no need")],
        RESOLVE => &[("resolution", "give up"), ("reason", "it never came")],
        _ => &[],
    };
    let answer = values.iter().fold(Answer::ids(items.keys().cloned()), |answer, (f, v)| answer.with(*f, *v));
    let answer = if rule.process == RESOLVE { office.naming_the_doubt(answer) } else { answer };
    let answers: BTreeMap<String, String> = answer.values.clone();
    let actor = match rule.process {
        APPROVAL => approver(),
        ABORT_REQUEST => rita(),
        _ => operator(),
    };
    let (report, outcomes) = office.run(rule.process, &actor, answer);
    assert_eq!((report.items, report.interrupted), (items.len() as u64, None));

    let [options, ..] = &option_pairs(&[])[..] else { unreachable!("the defaults are always there") };
    let mut done = 0;
    for (id, outcome) in outcomes {
        let item = &items[&id];
        let before = item.card.as_ref().expect("each item has a card");
        let case = Case { rule, item: item.clone(), actor: &actor, answers: &answers, options };
        let expected = rule.misfit(before).map_or_else(|| reasons(&case), |code| Some([code].into()));
        let card = office.card(before.id);
        let words = format!("{}: {outcome:?}, reasons {expected:?}, of {before:#?}", rule.process);
        if let Outcome::Refused(refusal) = &outcome {
            assert!(expected.is_none_or(|reasons| reasons.contains(&refusal.code)), "{words}");
            let mut unchanged = before.clone();
            unchanged.version = 1;
            assert_eq!(card, unchanged, "a refusal changes nothing: {words}");
        } else if let Some(reasons) = expected {
            assert!(reasons.is_empty(), "{words}");
            let left =
                left_by_its_run(rule.process, before.state(), answers.get("decision").map_or("", String::as_str));
            assert_eq!(card.state(), left, "{words}");
            if let Outcome::Done { state, .. } | Outcome::Unchanged { state } = &outcome {
                assert_eq!(state, left.name(), "{words}");
            }
            done += 1;
        }
        office.history(card.id);
    }
    let cards = block_on(store.card_page(&CardQuery::default(), None, 10_000)).unwrap();
    assert_eq!(cards.len(), items.len(), "no card was made");
    [items.len() as u64, done]
}
