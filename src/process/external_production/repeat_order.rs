use super::{PACKAGE, copy_user, decide_order, known_name, open_order_key, require_active, require_no_open_order};
use crate::actor::Role;
use crate::card::{CardKind, CardState, Route};
use crate::change_set::ChangeSet;
use crate::history::Why;
use crate::options::{MULTIPLE_CARDS, QUEUE_CARDS, ResolvedOptions, SEND_ORDERED_EMAIL};
use crate::process::{
    Component, Field, HouseRules, Item, ItemKind, Needs, Plan, PlanContext, Process, ProcessDefinition, Refusal, Slot,
    StartPoint,
};

/// Repeat order: orders a failed card again, with the user's data copied afresh.
pub(crate) struct RepeatOrder(ProcessDefinition);

impl RepeatOrder {
    pub(crate) fn new() -> Self {
        Self(
            ProcessDefinition::new(
                known_name("CardsAddonExtProdProcRepeatOrder"),
                "Repeat card order",
                PACKAGE,
                ItemKind::Card,
            )
            .offered(Component::Operator, StartPoint::CardProfile)
            .described("Orders a failed card again, with the user's data as it is now.")
            .for_cards(Some(CardKind::Permanent), Some(Route::External))
            .requires([CardState::Failed])
            .gives(["processing", "ordered", "failed"])
            .reads([MULTIPLE_CARDS.name(), QUEUE_CARDS.name(), SEND_ORDERED_EMAIL.name()].map(known_name))
            .fits([Slot::Card(CardState::Failed)])
            .run_by([Role::CardProductionAdministrator]),
        )
    }
}

impl Process for RepeatOrder {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }

    fn fields(&self, _: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        Vec::new()
    }

    fn needs(&self) -> Needs {
        Needs::nothing().user().open_orders()
    }

    fn plan(&self, mut item: Item, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
        let user = item.take_user()?;
        let mut card = item.take_card()?;
        require_active(&user)?;
        require_no_open_order(&user.id, &item.open_orders, context.option(MULTIPLE_CARDS)?)?;
        copy_user(&user, &mut card, context.rules)?;
        let mut changes = ChangeSet::new();
        if item.open_orders.is_empty() {
            changes.reserve_for(&mut card, open_order_key(&user.id));
        }
        let queued = context.option(QUEUE_CARDS)?;
        let notify_holder = context.option(SEND_ORDERED_EMAIL)?;
        let key = item.id.to_string();
        decide_order(changes, card, Why::code("order_repeated"), queued, notify_holder, &key, context)
    }
}
