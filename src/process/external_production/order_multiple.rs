use super::{
    PACKAGE, check_order, chosen_production_type, copy_user, decide_order, known_name, open_order_key,
    production_type_field, require_active, require_no_open_order, validity,
};
use crate::card::{Card, CardKind, Route};
use crate::change_set::ChangeSet;
use crate::history::Why;
use crate::id::CardId;
use crate::options::{
    MULTIPLE_CARDS, ORDER_APPROVAL, ORDER_PRODUCTION_TYPE, QUEUE_CARDS, ResolvedOptions, SEND_ORDERED_EMAIL,
    VALIDITY_DAYS,
};
use crate::process::cards::ask_for_approval;
use crate::process::{
    Component, Field, HouseRules, Item, ItemKind, Needs, Plan, PlanContext, Process, ProcessDefinition, Refusal, Slot,
    StartPoint,
};

/// Order multiple cards: a card order for each of many active users.
pub(crate) struct OrderMultiple(ProcessDefinition);

impl OrderMultiple {
    pub(crate) fn new() -> Self {
        Self(
            ProcessDefinition::new(
                known_name("CardsAddonExtProdBoProcOrderMultiple"),
                "Order multiple cards",
                PACKAGE,
                ItemKind::User,
            )
            .offered(Component::Operator, StartPoint::BatchOrders)
            .described(
                "Orders a card at the bureau for each chosen user. With the approval step on, asks for approval first; \
                 with the queue on, the background sync sends the orders, else this run does.",
            )
            .for_cards(Some(CardKind::Permanent), Some(Route::External))
            .gives(["requested", "processing", "ordered", "failed"])
            .reads(
                [
                    ORDER_APPROVAL.name(),
                    ORDER_PRODUCTION_TYPE.name(),
                    QUEUE_CARDS.name(),
                    MULTIPLE_CARDS.name(),
                    SEND_ORDERED_EMAIL.name(),
                    VALIDITY_DAYS.name(),
                ]
                .map(known_name),
            )
            .fits([Slot::Batch]),
        )
    }
}

impl Process for OrderMultiple {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }

    fn fields(&self, options: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        production_type_field(options, ORDER_PRODUCTION_TYPE)
    }

    fn needs(&self) -> Needs {
        Needs::nothing().user().open_orders()
    }

    fn plan(&self, mut item: Item, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
        let user = item.take_user()?;
        require_active(&user)?;
        require_no_open_order(&user.id, &item.open_orders, context.option(MULTIPLE_CARDS)?)?;
        let key = item.id.to_string();
        let mut changes = ChangeSet::new();
        let (mut card, created) = Card::create(
            CardId::derive(context.run, &key, "card"),
            CardKind::Permanent,
            Route::External,
            &context.stamp,
            Why::code("created"),
        );
        changes.history.push(created);
        card.production_type = Some(chosen_production_type(context, ORDER_PRODUCTION_TYPE)?);
        card.valid_until = validity(context)?;
        copy_user(&user, &mut card, context.rules)?;
        if item.open_orders.is_empty() {
            changes.reserve_for(&mut card, open_order_key(&user.id));
        }
        card.holder = Some(user.id);
        let plan = if context.option(ORDER_APPROVAL)? {
            check_order(&card, context)?;
            ask_for_approval(changes, card, &key, context)?
        } else {
            let queued = context.option(QUEUE_CARDS)?;
            let notify_holder = context.option(SEND_ORDERED_EMAIL)?;
            decide_order(changes, card, Why::code("order_decided"), queued, notify_holder, &key, context)?
        };
        Ok(plan.with_number(CardKind::Permanent))
    }
}
