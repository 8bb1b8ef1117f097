//! Cards as such: approval, withdrawal of requests, and settling what is in doubt.

mod abort_request;
mod approval;
mod resolve_doubt;

pub(crate) use abort_request::AbortRequest;
pub(crate) use approval::Approval;
pub(crate) use resolve_doubt::ResolveDoubt;

use super::PlanContext;
use crate::actor::Role;
use crate::approval::ApprovalRequest;
use crate::id::JobId;
use crate::job::{Job, Message, MessageKind, Recipient, Task};

/// The package as the source product names it.
pub(crate) const PACKAGE: &str = "Cards";

/// The job that tells the approvers that a request waits.
pub(crate) fn tell_approvers(request: &ApprovalRequest, item: &str, context: &PlanContext<'_>) -> Job {
    message(request, MessageKind::RequestWaiting, Recipient::Role(Role::Approver), None, item, context)
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
