use super::{PACKAGE, tell_requester};
use crate::actor::Role;
use crate::approval::{ApprovalRequest, RequestState};
use crate::card::{Card, CardState, Route};
use crate::change_set::ChangeSet;
use crate::history::{ObjectId, Why};
use crate::job::MessageKind;
use crate::options::{QUEUE_CARDS, ResolvedOptions, SEND_ORDERED_EMAIL};
use crate::process::external_production::{decide_order, known_name, require_active};
use crate::process::{
    Component, Field, FieldKind, HouseRules, Item, ItemKind, Needs, Outcome, Plan, PlanContext, Process,
    ProcessDefinition, Refusal, RefusalCode, SelfApproval, Slot, StartPoint,
};
use crate::state_graph::State as _;
use crate::user::User;

const DECISION: &str = "decision";
const REASON: &str = "reason";

/// Approval: approves, rejects or postpones one or many requests.
pub(crate) struct Approval(ProcessDefinition);

impl Approval {
    pub(crate) fn new() -> Self {
        Self(
            ProcessDefinition::new(known_name("CardsProcApproval"), "Approve requests", PACKAGE, ItemKind::Request)
                .offered(Component::Operator, StartPoint::Requests)
                .described(
                    "Approves, rejects (with a reason) or postpones requests. What is approved is ordered or made ready \
                     to be issued; the requester is told.",
                )
                .requires([CardState::Requested])
                .gives(["approved", "processing", "ordered", "failed", "rejected", "postponed"])
                .reads([QUEUE_CARDS.name(), SEND_ORDERED_EMAIL.name()].map(known_name))
                .fits([Slot::Request])
                .run_by([Role::Approver]),
        )
    }
}

impl Process for Approval {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }

    fn fields(&self, _: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        let decisions = ["approve", "reject", "postpone"].map(str::to_owned).to_vec();
        vec![
            Field::required(DECISION, "Decision", FieldKind::Choice(decisions)),
            Field::optional(REASON, "Reason", FieldKind::Text { max_length: 1000 }).when(DECISION, "reject"),
        ]
    }

    fn needs(&self) -> Needs {
        Needs::nothing().user()
    }

    fn plan(&self, mut item: Item, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
        let request = item.take_request()?;
        let card = item.take_card()?;
        let key = item.id.to_string();
        match context.answer(DECISION) {
            "approve" => {
                require_other_person(&request, context)?;
                approve(request, card, &item.take_user()?, &key, context)
            }
            "reject" => {
                require_other_person(&request, context)?;
                reject(request, card, &key, context)
            }
            _ => Ok(postpone(request, context)),
        }
    }
}

/// The approver is neither the requester nor the holder, unless the host has relaxed that by name. People are compared, not
/// logins: where a login belongs to no person, nobody can be told apart.
fn require_other_person(request: &ApprovalRequest, context: &PlanContext<'_>) -> Result<(), Refusal> {
    let rule = context.rules.self_approval;
    let requester_may = matches!(rule, SelfApproval::Requester | SelfApproval::Anybody);
    let holder_may = matches!(rule, SelfApproval::Holder | SelfApproval::Anybody);
    let refused = |why: &str| {
        let who = &context.actor.id;
        Err(Refusal::new(RefusalCode::Person, format!("{who} cannot decide request {}: {why}", request.id)))
    };
    if requester_may && holder_may {
        return Ok(());
    }
    let Some(person) = &context.actor.person else {
        return refused("only a person can, and the login belongs to none");
    };
    match &request.requester.person {
        _ if requester_may => {}
        Some(requester) if requester == person => return refused("it is the requester's own"),
        Some(_) => {}
        None => return refused("the requester's login belongs to no person, so it may be the same one"),
    }
    if !holder_may && *person == request.holder {
        return refused("it is about the holder");
    }
    Ok(())
}

fn approve(
    mut request: ApprovalRequest,
    mut card: Card,
    holder: &User,
    key: &str,
    context: &PlanContext<'_>,
) -> Result<Plan, Refusal> {
    require_active(holder)?;
    let mut changes = ChangeSet::new();
    let why = Why::code("approved");
    changes.history.push(request.transition(RequestState::Approved, &context.stamp, why)?);
    changes.jobs.push(tell_requester(&request, MessageKind::RequestApproved, None, key, context));
    let route = request.route;
    changes.requests.push(request);
    match route {
        Route::External => {
            let queued = context.option(QUEUE_CARDS)?;
            let notify_holder = context.option(SEND_ORDERED_EMAIL)?;
            decide_order(changes, card, why, queued, notify_holder, key, context)
        }
        Route::Local => {
            changes.move_card(&mut card, CardState::Approved, &context.stamp, why)?;
            Ok(Plan::card(changes, card))
        }
    }
}

fn reject(mut request: ApprovalRequest, mut card: Card, key: &str, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
    let reason = context.answer(REASON);
    let why = Why::code("rejected").because(reason);
    let mut changes = ChangeSet::new();
    changes.history.push(request.transition(RequestState::Rejected, &context.stamp, why)?);
    request.reason = Some(reason.to_owned());
    changes.jobs.push(tell_requester(&request, MessageKind::RequestRejected, Some(reason), key, context));
    changes.requests.push(request);
    changes.move_card(&mut card, CardState::Rejected, &context.stamp, why)?;
    Ok(Plan::card(changes, card))
}

fn postpone(mut request: ApprovalRequest, context: &PlanContext<'_>) -> Plan {
    let reason = context.answer(REASON);
    let mut changes = ChangeSet::new();
    changes.history.push(request.note(&context.stamp, Why::code("postponed").because(reason)));
    let object = Some(ObjectId::Request(request.id));
    let state = request.state().name().into();
    changes.requests.push(request);
    Plan::store(changes, Outcome::Done { object, state })
}
