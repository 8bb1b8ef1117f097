use std::borrow::Cow;

use super::PACKAGE;
use crate::actor::Role;
use crate::card::Card;
use crate::card::CardState;
use crate::change_set::ChangeSet;
use crate::history::Why;
use crate::host::Accepted;
use crate::job::{Job, JobState, Task};
use crate::options::ResolvedOptions;
use crate::process::external_production::known_name;
use crate::process::{
    Component, Field, FieldKind, HouseRules, Item, ItemKind, Needs, Outcome, PlaceAnswer, Plan, PlanContext, Process,
    ProcessDefinition, Refusal, RefusalCode, Slot, StartPoint, order_job,
};

const RESOLUTION: &str = "resolution";
const ORDER_ID: &str = "orderId";
const REASON: &str = "reason";
const ACCEPTED: &str = "accepted";
const SEND_AGAIN: &str = "send again";
const GIVE_UP: &str = "give up";

/// Resolve doubt: a person says what became of an order whose outcome is unknown.
pub(crate) struct ResolveDoubt(ProcessDefinition);

impl ResolveDoubt {
    pub(crate) fn new() -> Self {
        Self(
            ProcessDefinition::new(known_name("CardsProcResolveDoubt"), "Resolve doubt", PACKAGE, ItemKind::Card)
                .also_takes(ItemKind::Job)
                .offered(Component::Operator, StartPoint::CardProfile)
                .described(
                    "Settles what is in doubt: accepted under the order id given, not accepted and to be sent again, or \
                     not accepted and given up.",
                )
                .requires([CardState::Processing])
                .gives(["ordered", "processing", "failed"])
                .fits([Slot::Card(CardState::Processing)])
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
        let resolutions = [ACCEPTED, SEND_AGAIN, GIVE_UP].map(str::to_owned).to_vec();
        vec![
            Field::required(RESOLUTION, "What became of it", FieldKind::Choice(resolutions)),
            Field::optional(ORDER_ID, "Order id at the bureau", FieldKind::Text { max_length: 200 })
                .when(RESOLUTION, ACCEPTED),
            Field::required(REASON, "How you know", FieldKind::Text { max_length: 1000 }),
        ]
    }

    fn needs(&self) -> Needs {
        Needs::nothing().job()
    }

    fn plan(&self, mut item: Item, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
        let job = item.take_job()?;
        if job.state != JobState::InDoubt {
            return Err(Refusal::new(
                RefusalCode::NotInDoubt,
                format!("job {} is {}, there is nothing to settle", job.id, job.state),
            ));
        }
        match (&job.task, item.card.take()) {
            (Task::PlaceOrder { .. }, Some(card)) => settle_order(job, card, context),
            (Task::Custom { .. }, card) => Ok(settle_custom(job, card, context)),
            _ => Err(Refusal::not_found(&item.id, "card")),
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
        ACCEPTED => {
            PlaceAnswer::Accepted(Accepted { order_id: context.answer(ORDER_ID).trim().to_owned(), card_id: None })
        }
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

/// A host's own job: done, open again, or given up.
fn settle_custom(mut job: Job, card: Option<Card>, context: &PlanContext<'_>) -> Plan {
    let reason = context.answer(REASON);
    let state = match context.answer(RESOLUTION) {
        SEND_AGAIN => {
            reopen(&mut job, context);
            job.state.name()
        }
        resolution => {
            job.state = JobState::Done;
            job.attempt = None;
            job.remark = Some(format!("settled: {resolution}"));
            job.state.name()
        }
    };
    let mut changes = ChangeSet::new();
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
    job.attempt = None;
    job.due = context.stamp.at;
    job.remark = Some("to be sent again".to_owned());
}
