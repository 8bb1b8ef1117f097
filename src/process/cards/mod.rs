//! Cards as such: request, approval, local production, activation, locking, and settling what is in doubt.

mod abort_approved;
mod abort_request;
mod activate;
mod approval;
mod issue_multiple;
mod lock;
pub(crate) mod production;
mod request_multiple;
mod resolve_doubt;
mod sync_orphans;

pub(crate) use abort_approved::AbortApproved;
pub(crate) use abort_request::AbortRequest;
pub(crate) use activate::Activate;
pub(crate) use approval::Approval;
pub(crate) use issue_multiple::Produce;
pub(crate) use lock::Lock;
pub(crate) use request_multiple::RequestMultiple;
pub(crate) use resolve_doubt::ResolveDoubt;
pub(crate) use sync_orphans::SyncOrphans;

use super::external_production::PRODUCTION_TYPE;
use super::{Plan, PlanContext, Refusal};
use crate::actor::Role;
use crate::approval::ApprovalRequest;
use crate::card::{Card, CardState};
use crate::change_set::ChangeSet;
use crate::history::Why;
use crate::id::{JobId, RequestId};
use crate::job::{Job, Message, MessageKind, Recipient, Task};

/// The package as the source product names it.
pub(crate) const PACKAGE: &str = "Cards";

/// The job that tells the approvers that a request waits.
fn tell_approvers(request: &ApprovalRequest, item: &str, context: &PlanContext<'_>) -> Job {
    message(request, MessageKind::RequestWaiting, Recipient::Role(Role::Approver), None, item, context)
}

/// Leaves a new card to an approver.
pub(crate) fn ask_for_approval(
    mut changes: ChangeSet,
    mut card: Card,
    key: &str,
    context: &PlanContext<'_>,
) -> Result<Plan, Refusal> {
    let holder =
        card.holder.clone().ok_or_else(|| Refusal::not_found(&crate::process::ItemId::Card(card.id), "holder"))?;
    let id = RequestId::derive(context.run, key, "request");
    let mut choices = context.answers.clone();
    choices.extend(card.production_type.clone().map(|chosen| (PRODUCTION_TYPE.to_owned(), chosen)));
    let (request, opened) = ApprovalRequest::open(
        id,
        card.route(),
        choices,
        card.id,
        holder,
        context.actor.clone(),
        &context.stamp,
        Why::code("approval_wanted"),
    );
    changes.history.push(opened);
    card.request = Some(id);
    changes.move_card(&mut card, CardState::Requested, &context.stamp, Why::code("approval_wanted"))?;
    changes.jobs.push(tell_approvers(&request, key, context));
    changes.requests.push(request);
    Ok(Plan::card(changes, card))
}

/// The job that tells the requester the answer.
fn tell_requester(
    request: &ApprovalRequest,
    kind: MessageKind,
    reason: Option<&str>,
    item: &str,
    context: &PlanContext<'_>,
) -> Job {
    message(request, kind, Recipient::Actor(request.requester.id.clone()), reason, item, context)
}

fn message(
    request: &ApprovalRequest,
    kind: MessageKind,
    recipient: Recipient,
    reason: Option<&str>,
    item: &str,
    context: &PlanContext<'_>,
) -> Job {
    let id = JobId::derive(context.run, item, "message");
    let mut data = std::collections::BTreeMap::from([
        ("request".to_owned(), request.id.to_string()),
        ("card".to_owned(), request.card.to_string()),
        ("holder".to_owned(), request.holder.to_string()),
    ]);
    data.extend(reason.map(|reason| ("reason".to_owned(), reason.to_owned())));
    let message = Message { id: crate::id::MessageId::new(id.uuid()), kind, recipient, data, locale: None };
    Job::new(id, Task::Notify(message), Some(request.card), &context.stamp)
}
