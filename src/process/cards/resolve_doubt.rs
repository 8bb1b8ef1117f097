use std::borrow::Cow;
use std::collections::BTreeMap;

use super::PACKAGE;
use crate::actor::Role;
use crate::card::{Card, CardState, Failure, FailurePhase};
use crate::certificate::{Certificate, StateAtCa};
use crate::change_set::ChangeSet;
use crate::history::{ObjectId, Why};
use crate::host::Accepted;
use crate::job::{Job, JobKind, JobState, Task};
use crate::options::ResolvedOptions;
use crate::process::order_job::{ORDER_UNKNOWN, is_order_id, is_waiting_for};
use crate::process::{
    Component, Field, FieldKind, HouseRules, Item, ItemKind, Needs, Outcome, PlaceAnswer, Plan, PlanContext, Process,
    ProcessDefinition, ProductionAnswer, Refusal, RefusalCode, Slot, StartPoint, known_name, order_job, production,
    require_active,
};
use crate::user::User;

const RESOLUTION: &str = "resolution";
const ORDER_ID: &str = "orderId";
const REASON: &str = "reason";
const ACCEPTED: &str = "accepted";
const SEND_AGAIN: &str = "send again";
const GIVE_UP: &str = "give up";
/// What [`Job::doubt`](crate::Job::doubt) gives.
const DOUBT: &str = "doubt";
const GOOD_CARD: &str = "good card";
const SPOILED: &str = "spoiled";

/// The states in which a card's open job can be in doubt.
const STATES: [CardState; 3] = [CardState::Processing, CardState::Approved, CardState::Failed];

/// Resolve doubt: a person says what became of an order, a production or a call whose outcome is unknown.
pub(crate) struct ResolveDoubt(ProcessDefinition);

impl ResolveDoubt {
    pub(crate) fn new() -> Self {
        Self(
            ProcessDefinition::new(known_name("CardsProcResolveDoubt"), "Resolve doubt", PACKAGE, ItemKind::Card)
                .also_takes(ItemKind::Job)
                .offered(Component::Operator, StartPoint::CardProfile)
                .described(
                    "Settles what is in doubt. An order: accepted under the order id given, send again, or give up; also an \
                     accepted one whose order id the bureau does not know, or of which there was no news for too long. Preparing a card: send again, or spoiled. \
                     Finishing it: good card, or spoiled. A certificate: send again, or give up. A call to the CA: accepted \
                     (done there by hand), or send again. A production that gets nowhere can be given up.",
                )
                .requires(STATES)
                .gives(["ordered", "processing", "approved", "issued", "active", "failed", "open", "done"])
                .fits(STATES.map(Slot::Card))
                .even_busy()
                .run_by([Role::CardProductionAdministrator]),
        )
    }
}

impl Process for ResolveDoubt {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }

    fn fields(&self, _: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        let resolutions = [ACCEPTED, SEND_AGAIN, GIVE_UP, GOOD_CARD, SPOILED].map(str::to_owned).to_vec();
        vec![
            Field::required(
                DOUBT,
                "Which doubt, as it was listed; of several items all of theirs",
                FieldKind::Text { max_length: 1_000_000 },
            ),
            Field::required(RESOLUTION, "What became of it", FieldKind::Choice(resolutions)),
            Field::optional(
                ORDER_ID,
                "Order id at the bureau, if an order was accepted",
                FieldKind::Text { max_length: 200 },
            ),
            Field::required(REASON, "How you know", FieldKind::Text { max_length: 1000 }),
        ]
    }

    fn needs(&self) -> Needs {
        Needs::nothing().user().job().certificates()
    }

    fn plan(&self, mut item: Item, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
        let job = item.take_job()?;
        let order_id_is_wrong = job.kind() == JobKind::TrackOrder && job.remark.as_deref() == Some(ORDER_UNKNOWN);
        let resolution = context.answer(RESOLUTION);
        // A production that gets nowhere can be given up, as long as nobody is at it, and so can putting a card aside. What a
        // machine was perhaps doing is in doubt first.
        let gets_nowhere = match job.kind() {
            JobKind::DiscardCard => true,
            JobKind::PrepareCard | JobKind::FinishCard if job.attempt.is_some() => false,
            _ => item.card.as_ref().is_some_and(|card| production::waits_for(card, &job)),
        };
        let may_be_given_up = resolution == GIVE_UP
            && gets_nowhere
            && job.state == JobState::Open
            && job.claim.as_ref().is_none_or(|claim| claim.until <= context.stamp.at);
        if job.state != JobState::InDoubt && !order_id_is_wrong && !may_be_given_up {
            return Err(Refusal::new(
                RefusalCode::NotInDoubt,
                format!("job {} is {}, there is nothing to settle", job.id, job.state),
            ));
        }
        let allowed = resolutions_of(job.kind());
        if !may_be_given_up && !allowed.contains(&resolution) {
            return Err(Refusal::new(
                RefusalCode::NotOffered,
                format!("{resolution:?} does not settle a job to {}; what does is {}", job.kind(), allowed.join(", ")),
            ));
        }
        // What was said of one doubt was not said of a later one, of the same job or the same card.
        if !context.answer(DOUBT).split_whitespace().any(|named| named == job.doubt()) {
            return Err(Refusal::new(
                RefusalCode::ChangedMeanwhile,
                format!("what is there to be settled now is {}, which was not named: look again", job.doubt()),
            ));
        }
        let user = item.user.take();
        match (job.kind(), item.card.take()) {
            (JobKind::PlaceOrder, Some(card)) if is_waiting_for(&card, &job) => settle_order(job, card, context),
            (JobKind::PlaceOrder, Some(card)) => settle_late_order(job, card, context),
            (JobKind::TrackOrder, Some(card)) => correct_order(job, card, context),
            (kind, Some(card)) if kind.is_link() && production::waits_for(&card, &job) => {
                if resolution == GOOD_CARD {
                    require_still_wanted(&card, user.as_ref(), &item.certificates, context)?;
                }
                settle_production(job, card, item.certificates, context)
            }
            (JobKind::RevokeCertificate | JobKind::RemoveHold, _) if resolution == ACCEPTED => {
                settle_at_ca(job, item.certificates, context)
            }
            // What decides nothing by itself, or what the card no longer waits for.
            (_, card) => Ok(settle_job(job, card, context)),
        }
    }
}

fn settle_order(mut job: Job, mut card: Card, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
    let reason = context.answer(REASON);
    let resolution = context.answer(RESOLUTION);
    let reference = job.attempt.as_ref().map(|attempt| attempt.reference.clone());
    let code = match resolution {
        ACCEPTED => "settled_accepted",
        SEND_AGAIN => "settled_send_again",
        _ => "settled_given_up",
    };
    let mut changes = ChangeSet::new();
    changes.note_card(&mut card, &context.stamp, Why { code, reference: reference.as_deref(), text: Some(reason) });
    if let Some(busy) = &mut card.busy {
        busy.in_doubt = false;
    }
    let answer = match resolution {
        ACCEPTED => PlaceAnswer::Accepted(Accepted { order_id: given_order_id(context)?, card_id: None }),
        SEND_AGAIN => {
            reopen(&mut job, context);
            changes.jobs.push(job);
            return Ok(Plan::card(changes, card));
        }
        _ => PlaceAnswer::Refused { code: "given_up", reason: reason.to_owned() },
    };
    let (applied, outcome) = order_job::placed(job, card, answer, context.stamp.at, &context.stamp)?;
    changes.append(applied);
    Ok(Plan::store(changes, outcome))
}

/// An order for which the card no longer waits: what became of it is put on record.
fn settle_late_order(job: Job, mut card: Card, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
    match context.answer(RESOLUTION) {
        ACCEPTED => {
            let order_id = given_order_id(context)?;
            let mut changes = ChangeSet::new();
            let why = Why::code("late_acceptance").about(&order_id).because(context.answer(REASON));
            changes.note_card(&mut card, &context.stamp, why);
            let job =
                Job { state: JobState::Done, attempt: None, remark: Some(format!("accepted as {order_id}")), ..job };
            changes.jobs.push(job);
            Ok(Plan::card(changes, card))
        }
        SEND_AGAIN => Err(Refusal::new(
            RefusalCode::NotOffered,
            format!("card {} does not wait for this order any more; what settles it is accepted, give up", card.id),
        )),
        _ => Ok(settle_job(job, Some(card), context)),
    }
}

/// The order id that was given, if it can be one.
fn given_order_id(context: &PlanContext<'_>) -> Result<String, Refusal> {
    let given = context.answer(ORDER_ID).trim();
    if is_order_id(given) {
        return Ok(given.to_owned());
    }
    let found = if given.is_empty() { "none was given".to_owned() } else { format!("{given:?} is none") };
    Err(Refusal::new(
        RefusalCode::OrderId,
        format!("the order id at the bureau is needed, without control characters; {found}"),
    ))
}

/// An accepted order under an id that the bureau does not know, or without news for too long: the right id, or given up.
fn correct_order(mut job: Job, mut card: Card, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
    let reason = context.answer(REASON);
    let mut changes = ChangeSet::new();
    if context.answer(RESOLUTION) == GIVE_UP {
        card.failure = Some(Failure { phase: FailurePhase::Ordering, cause: reason.to_owned() });
        changes.move_card(
            &mut card,
            CardState::Failed,
            &context.stamp,
            Why::code("settled_given_up").because(reason),
        )?;
        job.state = JobState::Done;
    } else {
        let order_id = given_order_id(context)?;
        let known = card.order.as_ref().and_then(|order| order.order_id.as_ref()) == Some(&order_id);
        let code = if known { "order_id_confirmed" } else { "order_id_corrected" };
        changes.note_card(&mut card, &context.stamp, Why::code(code).about(&order_id).because(reason));
        if let Some(order) = card.order.as_mut().filter(|_| !known) {
            order.earlier.extend(order.order_id.replace(order_id.clone()));
        }
        job.task = Task::TrackOrder { order_id };
        job.state = JobState::Open;
        job.due = context.stamp.at;
        job.news();
    }
    job.remark = None;
    changes.jobs.push(job);
    Ok(Plan::card(changes, card))
}

/// What a person may say of a job of this kind.
fn resolutions_of(kind: JobKind) -> &'static [&'static str] {
    match kind {
        JobKind::PrepareCard => &[SEND_AGAIN, SPOILED],
        JobKind::FinishCard => &[GOOD_CARD, SPOILED],
        JobKind::IssueCertificate | JobKind::HoldCertificate => &[SEND_AGAIN, GIVE_UP],
        JobKind::RemoveHold | JobKind::RevokeCertificate => &[ACCEPTED, SEND_AGAIN],
        JobKind::TrackOrder => &[ACCEPTED, GIVE_UP],
        _ => &[ACCEPTED, SEND_AGAIN, GIVE_UP],
    }
}

/// Nobody is handed a card who has left meanwhile, nor one whose validity is over.
fn require_still_wanted(
    card: &Card,
    user: Option<&User>,
    certificates: &[Certificate],
    context: &PlanContext<'_>,
) -> Result<(), Refusal> {
    if let Some(holder) = &card.holder {
        let gone =
            || Refusal::new(RefusalCode::UserNotActive, format!("user {holder} is not in the directory any more"));
        require_active(user.ok_or_else(gone)?)?;
    }
    production::require_validity(card, context.stamp.at)?;
    let production = card.production.as_ref().map(|production| production.id);
    let made: Vec<_> =
        certificates.iter().filter(|certificate| Some(certificate.production) == production).cloned().collect();
    production::require_valid_certificates(&made, context.stamp.at)
}

fn settle_production(
    mut job: Job,
    mut card: Card,
    certificates: Vec<Certificate>,
    context: &PlanContext<'_>,
) -> Result<Plan, Refusal> {
    let reason = context.answer(REASON);
    let resolution = context.answer(RESOLUTION);
    let reference = job.id.to_string();
    let code = match resolution {
        GOOD_CARD => "settled_good_card",
        SEND_AGAIN => "settled_send_again",
        SPOILED => "settled_spoiled",
        _ => "settled_given_up",
    };
    let mut changes = ChangeSet::new();
    changes.note_card(&mut card, &context.stamp, Why::code(code).about(&reference).because(reason));
    if let Some(busy) = &mut card.busy {
        busy.in_doubt = false;
    }
    let answer = match resolution {
        SEND_AGAIN => {
            reopen(&mut job, context);
            changes.jobs.push(job);
            return Ok(Plan::card(changes, card));
        }
        GOOD_CARD => ProductionAnswer::Finished,
        // The certificate may come all the same.
        GIVE_UP if job.kind() == JobKind::IssueCertificate && job.attempts > 0 => {
            ProductionAnswer::Unwanted { reason: format!("{resolution}: {reason}") }
        }
        _ => ProductionAnswer::Failed { reason: format!("{resolution}: {reason}") },
    };
    let applied = production::link_answered(job, card, certificates, &BTreeMap::new(), answer, &context.stamp)?;
    changes.append(applied.changes);
    Ok(applied.next.into_iter().fold(Plan::store(changes, applied.outcome), Plan::then_perform))
}

/// What was done at the CA by hand.
fn settle_at_ca(job: Job, certificates: Vec<Certificate>, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
    let (id, state) = match job.task {
        Task::RevokeCertificate { certificate, .. } => (certificate, StateAtCa::Revoked),
        Task::RemoveHold { certificate } => (certificate, StateAtCa::Valid),
        _ => return Ok(settle_job(job, None, context)),
    };
    let certificate = certificates.into_iter().find(|certificate| certificate.id == id);
    let (changes, _) = production::at_ca(job, certificate, state, &context.stamp)?;
    Ok(Plan::store(
        changes,
        Outcome::Done { object: Some(ObjectId::Certificate(id)), state: JobState::Done.name().into() },
    ))
}

/// A job that decides nothing by itself: done, open again, or given up.
fn settle_job(mut job: Job, card: Option<Card>, context: &PlanContext<'_>) -> Plan {
    let reason = context.answer(REASON);
    let mut changes = ChangeSet::new();
    let state = match context.answer(RESOLUTION) {
        SEND_AGAIN => {
            reopen(&mut job, context);
            job.state.name()
        }
        resolution => {
            job.state = JobState::Done;
            job.attempt = None;
            job.remark = Some(format!("settled: {resolution}"));
            production::is_put_aside(&mut changes, &job);
            job.state.name()
        }
    };
    if let Some(mut card) = card {
        let reference = job.id.to_string();
        changes.note_card(&mut card, &context.stamp, Why::code("job_settled").about(&reference).because(reason));
        if card.busy.as_ref().is_some_and(|busy| busy.job == job.id) {
            let busy = crate::card::Busy { job: job.id, since: context.stamp.at, in_doubt: false };
            card.busy = (job.state == JobState::Open).then_some(busy);
        }
        changes.put_card(card);
    }
    changes.jobs.push(job);
    Plan::store(changes, Outcome::Done { object: None, state: Cow::Borrowed(state) })
}

/// Not accepted, surely: the job waits to be tried again, under a new reference.
fn reopen(job: &mut Job, context: &PlanContext<'_>) {
    job.state = JobState::Open;
    job.unanswered |= job.attempt.take().is_some();
    job.due = context.stamp.at;
    job.remark = Some("to be sent again".to_owned());
}
