use super::{PACKAGE, known_name};
use crate::card::{CardKind, CardState, Route};
use crate::change_set::ChangeSet;
use crate::job::JobState;
use crate::options::ResolvedOptions;
use crate::process::{
    Component, Field, HouseRules, Item, ItemKind, Needs, Outcome, Plan, PlanContext, Process, ProcessDefinition,
    Refusal, RefusalCode, Slot, StartPoint, temporary_cards,
};
use crate::state_graph::State as _;

/// Update card order: reads the status of the chosen orders now, as the status sync would later.
pub(crate) struct Update(ProcessDefinition);

impl Update {
    pub(crate) fn permanent() -> Self {
        Self::named("CardsAddonExtProdProcUpdate", PACKAGE, CardKind::Permanent)
    }

    pub(crate) fn temporary() -> Self {
        Self::named("TempCardsAddonExtProdProcUpdate", temporary_cards::PACKAGE, CardKind::Temporary)
    }

    fn named(name: &'static str, package: &str, kind: CardKind) -> Self {
        Self(
            ProcessDefinition::new(known_name(name), "Update card order", package, ItemKind::Card)
                .offered(Component::Operator, StartPoint::CardProfile)
                .described("Asks the bureau for the status of the order now. Nothing new is a success.")
                .for_cards(Some(kind), Some(Route::External))
                .requires([CardState::Ordered, CardState::InProduction])
                .gives(["in production", "produced", "failed", "unchanged"])
                .fits([Slot::Card(CardState::Ordered), Slot::Card(CardState::InProduction)])
                .off(),
        )
    }
}

impl Process for Update {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }

    fn fields(&self, _: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        Vec::new()
    }

    fn needs(&self) -> Needs {
        Needs::nothing().job()
    }

    fn plan(&self, mut item: Item, _: &PlanContext<'_>) -> Result<Plan, Refusal> {
        let job = item.take_job()?;
        let card = item.take_card()?;
        if job.state == JobState::InDoubt {
            let remark = job.remark.unwrap_or_default();
            let reason =
                format!("job {}, which follows the order, is in doubt ({remark}) and must be settled first", job.id);
            return Err(Refusal::new(RefusalCode::InDoubt, reason));
        }
        let unchanged = Outcome::Unchanged { state: card.state().name().into() };
        Ok(Plan::store(ChangeSet::new(), unchanged).then_perform(job.id))
    }
}
