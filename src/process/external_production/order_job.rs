//! What the answers of the bureau change: pure functions from job, card and answer to a change set.

use chrono::{DateTime, Utc};

use crate::card::{Card, CardState, Failure, FailurePhase, Order};
use crate::change_set::ChangeSet;
use crate::history::{Stamp, Why};
use crate::host::{Accepted, OrderStatus, StatusMap};
use crate::job::{Job, JobState, Message, MessageKind, Recipient, Task};
use crate::process::Outcome;
use crate::production_type::EMAIL;
use crate::state_graph::{State as _, TransitionError};

/// What an attempt to place an order came to.
#[derive(Clone, Debug)]
pub(crate) enum PlaceAnswer {
    /// The bureau has it.
    Accepted(Accepted),
    /// A final no, by the bureau or by a person.
    Refused { code: &'static str, reason: String },
    /// Surely not accepted: the order waits until then.
    NotAccepted { until: DateTime<Utc>, reason: String },
    /// Perhaps accepted: a person must settle it.
    InDoubt { reason: String },
}

/// What is kept of a status that the bureau could not give because it does not know the order id.
pub(crate) const ORDER_UNKNOWN: &str = "the bureau does not know the order";

/// Whether a text can be an order id: not blank, without control characters, of at most 500 characters. Under an altered id,
/// another's order could be read.
pub(crate) fn is_order_id(text: &str) -> bool {
    !text.trim().is_empty() && text.chars().count() <= 500 && !text.contains(char::is_control)
}

/// Whether the card waits for this order.
pub(crate) fn is_waiting_for(card: &Card, job: &Job) -> bool {
    card.state() == CardState::Processing
        && card.busy.as_ref().is_some_and(|busy| busy.job == job.id)
        && matches!(job.state, JobState::Open | JobState::InDoubt)
}

/// Stores the answer to an order. The card must be the one that the job is about, and be busy with that job.
pub(crate) fn placed(
    mut job: Job,
    mut card: Card,
    answer: PlaceAnswer,
    first_poll: DateTime<Utc>,
    stamp: &Stamp<'_>,
) -> Result<(ChangeSet, Outcome), TransitionError> {
    let mut changes = ChangeSet::new();
    let reference = job.attempt.as_ref().map(|attempt| attempt.reference.clone());
    job.claim = None;
    let outcome = match answer {
        PlaceAnswer::Accepted(accepted) => {
            job.state = JobState::Done;
            job.remark = Some(format!("accepted as {}", accepted.order_id));
            card.busy = None;
            let mut track = Job::new(
                job.follow_up("track order"),
                Task::TrackOrder { order_id: accepted.order_id.clone() },
                Some(card.id),
                stamp,
            );
            track.due = first_poll;
            let order = card.order.get_or_insert_with(|| Order::decided(track.id));
            order.job = track.id;
            order.card_id = accepted.card_id;
            order.order_id = Some(accepted.order_id.clone());
            changes.move_card(&mut card, CardState::Ordered, stamp, Why::code("accepted").about(&accepted.order_id))?;
            changes.jobs.push(track);
            if matches!(job.task, Task::PlaceOrder { notify_holder: true, .. }) && card.holder.is_some() {
                tell_holder(&mut changes, &mut card, &job, stamp);
            }
            Outcome::card(&card)
        }
        PlaceAnswer::Refused { code, reason } => {
            job.state = JobState::Done;
            job.remark = Some(reason.clone());
            card.busy = None;
            changes.move_card(&mut card, CardState::Failed, stamp, Why::code(code).because(&reason))?;
            card.failure = Some(Failure { phase: FailurePhase::Ordering, cause: reason });
            Outcome::card(&card)
        }
        PlaceAnswer::NotAccepted { until, reason } => {
            job.attempt = None;
            job.setbacks += 1;
            job.due = until;
            job.remark = Some(reason);
            let outcome = Outcome::Unchanged { state: card.state().name().into() };
            if job.state == JobState::InDoubt {
                // Somebody has given it up for doubtful meanwhile: it is not.
                job.state = JobState::Open;
                if let Some(busy) = &mut card.busy {
                    busy.in_doubt = false;
                }
                let why = Why { code: "not_accepted", reference: reference.as_deref(), text: None };
                changes.note_card(&mut card, stamp, why);
                changes.put_card(card);
            }
            changes.jobs.push(job);
            return Ok((changes, outcome));
        }
        PlaceAnswer::InDoubt { reason } => {
            job = job.in_doubt(&reason);
            if let Some(busy) = &mut card.busy {
                busy.in_doubt = true;
            }
            let why = Why { code: "in_doubt", reference: reference.as_deref(), text: Some(&reason) };
            changes.note_card(&mut card, stamp, why);
            Outcome::InDoubt { job: job.id, card: Some(card.id), reason }
        }
    };
    if job.state == JobState::Done {
        job.attempt = None;
    }
    changes.jobs.push(job);
    changes.put_card(card);
    Ok((changes, outcome))
}

/// The e-mail that the order was accepted; without an address it is recorded as not sent, and the order stands.
fn tell_holder(changes: &mut ChangeSet, card: &mut Card, job: &Job, stamp: &Stamp<'_>) {
    let Some(address) = card.attributes.get(EMAIL).filter(|address| !address.trim().is_empty()).cloned() else {
        changes.note_card(card, stamp, Why::code("email_not_sent_no_address"));
        return;
    };
    let id = job.follow_up("card ordered e-mail");
    let data = [("number", card.number.clone()), ("commonName", card.attributes.get("commonName").cloned())];
    let message = Message {
        id: crate::id::MessageId::new(id.uuid()),
        kind: MessageKind::CardOrdered,
        recipient: Recipient::Email(address),
        data: data.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect(),
        locale: None,
    };
    changes.jobs.push(Job::new(id, Task::Notify(message), Some(card.id), stamp));
}

/// Until when statuses are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Polls {
    /// When to read next.
    pub(crate) next: DateTime<Utc>,
    /// After more days in a row without anything new, it is not read any more.
    pub(crate) most_silent_days: u32,
}

/// Stores a status that was read. Nothing new leaves the card alone and only sets when to read again.
///
/// A status belongs to its order id; it only moves forward; a text that the map does not know is kept and changes nothing.
pub(crate) fn status_read(
    mut job: Job,
    mut card: Card,
    status: OrderStatus,
    map: &StatusMap,
    polls: Polls,
    stamp: &Stamp<'_>,
) -> Result<(ChangeSet, Outcome), TransitionError> {
    let mut changes = ChangeSet::new();
    job.claim = None;
    job.setbacks = 0;
    job.remark = None;
    job.due = polls.next;
    let before = card.state();
    let changed = match &mut card.order {
        Some(order) if order.order_id.as_deref() == Some(status.order_id.as_str()) => {
            let new_text = order.status.as_deref() != Some(status.text.as_str());
            let details = take_details(order, &status);
            note_status(&mut changes, &mut card, &status, new_text, map, stamp)? || details
        }
        Some(order) => {
            // Recorded once, however often it is said.
            let said = keep_once(order, format!("order {}: {}", status.order_id, status.text));
            if said {
                let why = Why::code("status_of_another_order").about(&status.order_id).because(&status.text);
                changes.note_card(&mut card, stamp, why);
            }
            said
        }
        None => false,
    };
    let mut outcome =
        if card.state() == before { Outcome::Unchanged { state: before.name().into() } } else { Outcome::card(&card) };
    if !matches!(card.state(), CardState::Ordered | CardState::InProduction) {
        job.state = JobState::Done;
    } else if changed {
        job.news();
    } else if job.nothing_new(stamp.at) > polls.most_silent_days {
        let reason = format!("the bureau has said nothing new for {} days", job.silent_days - 1);
        changes.note_card(&mut card, stamp, Why::code("in_doubt").about(&status.order_id).because(&reason));
        job = job.in_doubt(&reason);
        outcome = Outcome::InDoubt { job: job.id, card: Some(card.id), reason };
    }
    changes.jobs.push(job);
    if changed && changes.history.is_empty() {
        changes.note_card(&mut card, stamp, Why::code("details_read").about(&status.order_id));
    }
    if !changes.history.is_empty() {
        changes.put_card(card);
    }
    Ok((changes, outcome))
}

/// Keeps a text that changes nothing; whether it is new.
fn keep_once(order: &mut Order, text: String) -> bool {
    order.unknown_statuses.len() < Order::UNKNOWN_STATUSES_KEPT && order.unknown_statuses.insert(text)
}

/// Keeps card id, times and read-outs; whether there was anything new.
fn take_details(order: &mut Order, status: &OrderStatus) -> bool {
    let before = (order.card_id.clone(), order.times.clone(), order.read_outs.len());
    order.card_id = status.card_id.clone().or(order.card_id.take());
    order.times.produced = status.times.produced.or(order.times.produced);
    order.times.delivered = status.times.delivered.or(order.times.delivered);
    order.times.activated = status.times.activated.or(order.times.activated);
    for read_out in &status.read_outs {
        // One message repeats what the last one said; what one message says twice is two read-outs.
        let said = status.read_outs.iter().filter(|other| *other == read_out).count();
        let kept = order.read_outs.iter().filter(|other| *other == read_out).count();
        if kept < said {
            order.read_outs.push(read_out.clone());
        }
    }
    before != (order.card_id.clone(), order.times.clone(), order.read_outs.len())
}

/// Moves the card to what the text stands for, if that is forward; whether the card changed.
fn note_status(
    changes: &mut ChangeSet,
    card: &mut Card,
    status: &OrderStatus,
    new_text: bool,
    map: &StatusMap,
    stamp: &Stamp<'_>,
) -> Result<bool, TransitionError> {
    let why = Why::code("status").about(&status.order_id).because(&status.text);
    let known = map.state(&status.text);
    let mut first_time = false;
    if let Some(order) = &mut card.order
        && new_text
    {
        order.status = Some(status.text.clone());
        first_time = known.is_none() && keep_once(order, status.text.clone());
    }
    match known {
        Some(state) if card.graph().allows(card.state(), state) => {
            if state == CardState::Failed {
                card.failure = Some(Failure { phase: FailurePhase::BureauProduction, cause: status.text.clone() });
            }
            changes.move_card(card, state, stamp, why)?;
            return Ok(true);
        }
        Some(state) if state == card.state() => {}
        Some(_) if new_text => changes.note_card(card, stamp, Why { code: "status_not_forward", ..why }),
        None if first_time => changes.note_card(card, stamp, Why { code: "status_unknown", ..why }),
        _ => {}
    }
    Ok(new_text)
}
