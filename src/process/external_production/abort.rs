use super::{PACKAGE, known_name};
use crate::card::{CardKind, CardState, Route, Withdrawal};
use crate::change_set::ChangeSet;
use crate::history::Why;
use crate::job::JobState;
use crate::options::ResolvedOptions;
use crate::process::{
    Component, Field, HouseRules, Item, ItemKind, Needs, Plan, PlanContext, Process, ProcessDefinition, Refusal,
    RefusalCode, Slot, StartPoint, temporary_cards,
};

/// Abort card order: takes an order out of the queue, as long as nobody is sending it.
pub(crate) struct Abort(ProcessDefinition);

impl Abort {
    pub(crate) fn permanent() -> Self {
        Self::named("CardsAddonExtProdProcAbort", PACKAGE, CardKind::Permanent)
    }

    pub(crate) fn temporary() -> Self {
        Self::named("TempCardsAddonExtProdProcAbort", temporary_cards::PACKAGE, CardKind::Temporary)
    }

    fn named(name: &'static str, package: &str, kind: CardKind) -> Self {
        Self(
            ProcessDefinition::new(known_name(name), "Abort card order", package, ItemKind::Card)
                .offered(Component::Operator, StartPoint::CardProfile)
                .described("Takes the order out of the queue. An order that is being sent or in doubt stays.")
                .for_cards(Some(kind), Some(Route::External))
                .requires([CardState::Processing])
                .gives(["aborted"])
                .fits([Slot::Card(CardState::Processing)])
                .even_busy()
                .off(),
        )
    }
}

impl Process for Abort {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }

    fn fields(&self, _: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        Vec::new()
    }

    fn needs(&self) -> Needs {
        Needs::nothing().job()
    }

    fn plan(&self, mut item: Item, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
        let mut job = item.take_job()?;
        let mut card = item.take_card()?;
        if job.state == JobState::InDoubt {
            return Err(Refusal::new(
                RefusalCode::InDoubt,
                format!("whether the bureau accepted the order of card {} is unknown; settle that first", card.id),
            ));
        }
        if job.is_being_tried(context.stamp.at) {
            return Err(Refusal::new(
                RefusalCode::BeingSent,
                format!("the order of card {} is being sent and cannot be aborted any more", card.id),
            ));
        }
        job.state = JobState::Cancelled;
        job.claim = None;
        job.remark = Some("taken back".to_owned());
        card.busy = None;
        card.withdrawal = Some(Withdrawal::Order);
        let mut changes = ChangeSet::new();
        changes.move_card(&mut card, CardState::Aborted, &context.stamp, Why::code("order_taken_back"))?;
        changes.jobs.push(job);
        Ok(Plan::card(changes, card))
    }
}
