use super::PACKAGE;
use crate::actor::Role;
use crate::card::{CardKind, CardState, Route, Withdrawal};
use crate::change_set::ChangeSet;
use crate::history::Why;
use crate::options::ResolvedOptions;
use crate::process::{
    Component, Field, FieldKind, HouseRules, Item, ItemKind, Needs, Plan, PlanContext, Process, ProcessDefinition,
    Refusal, Slot, StartPoint, known_name,
};

const REASON: &str = "reason";

/// Abort card: an operator takes back an approved card that nobody wants any more.
pub(crate) struct AbortApproved(ProcessDefinition);

impl AbortApproved {
    pub(crate) fn new() -> Self {
        Self(
            ProcessDefinition::new(known_name("CardsProcAbort"), "Abort card", PACKAGE, ItemKind::Card)
                .offered(Component::Operator, StartPoint::CardProfile)
                .described("Takes back an approved card that was not made yet.")
                .for_cards(Some(CardKind::Permanent), Some(Route::Local))
                .requires([CardState::Approved])
                .gives(["aborted"])
                .fits([Slot::Card(CardState::Approved)])
                .run_by([Role::Operator, Role::CardProductionAdministrator]),
        )
    }
}

impl Process for AbortApproved {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }

    fn fields(&self, _: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        vec![Field::optional(REASON, "Reason", FieldKind::Text { max_length: 1000 })]
    }

    fn needs(&self) -> Needs {
        Needs::nothing()
    }

    fn plan(&self, mut item: Item, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
        let mut card = item.take_card()?;
        card.withdrawal = Some(Withdrawal::Approved);
        let mut changes = ChangeSet::new();
        let why = Why::code("approved_card_aborted").because(context.answer(REASON));
        changes.move_card(&mut card, CardState::Aborted, &context.stamp, why)?;
        Ok(Plan::card(changes, card))
    }
}
