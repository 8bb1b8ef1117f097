use super::{PACKAGE, production};
use crate::actor::Role;
use crate::card::{CardKind, CardState, Route};
use crate::options::ResolvedOptions;
use crate::process::{
    Component, Field, HouseRules, Item, ItemKind, Needs, Plan, PlanContext, Process, ProcessDefinition, Refusal, Slot,
    StartPoint, known_name, require_active,
};

/// Makes cards here: issue multiple cards, and repeat a production that failed.
pub(crate) struct Produce(ProcessDefinition);

impl Produce {
    pub(crate) fn issue_multiple() -> Self {
        let name = "CardsBoProcIssueMultiple";
        Self(
            Self::definition_of(name, "Issue multiple cards", CardState::Approved)
                .offered(Component::Operator, StartPoint::BatchOrders)
                .described(
                    "Makes the approved cards ticked: prepares each card, has its certificates issued, writes and prints \
                     them, and hands over PIN and PUK.",
                )
                .fits([Slot::Batch]),
        )
    }

    pub(crate) fn repeat() -> Self {
        let name = "CardsProcRepeatProduction";
        Self(
            Self::definition_of(name, "Repeat production", CardState::Failed)
                .offered(Component::Operator, StartPoint::CardProfile)
                .described("Makes a card again whose production failed, with new certificates and a new PIN and PUK.")
                .fits([Slot::Card(CardState::Failed)])
                .run_by([Role::CardProductionAdministrator]),
        )
    }

    fn definition_of(name: &'static str, title: &str, state: CardState) -> ProcessDefinition {
        ProcessDefinition::new(known_name(name), title, PACKAGE, ItemKind::Card)
            .for_cards(Some(CardKind::Permanent), Some(Route::Local))
            .requires([state])
            .gives(["issued", "active", "failed", "begun", "in doubt"])
            .reads(production::OPTIONS.map(known_name))
    }
}

impl Process for Produce {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }

    fn fields(&self, options: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        production::certificate_fields(options)
    }

    fn needs(&self) -> Needs {
        Needs::nothing().user().active_cards()
    }

    fn plan(&self, mut item: Item, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
        let key = item.id.to_string();
        let user = item.take_user()?;
        require_active(&user)?;
        production::begin(item.take_card()?, &item.active_cards, &key, context)
    }
}
