use crate::card::{Card, CardKind, Route};
use crate::change_set::ChangeSet;
use crate::history::Why;
use crate::id::CardId;
use crate::options::{QUEUE_TEMPORARY_CARDS, ResolvedOptions, TEMPORARY_PRODUCTION_TYPE, VALIDITY_DAYS};
use crate::process::external_production::{
    chosen_production_type, decide_order, known_name, production_type_field, require_active, validity,
};
use crate::process::{
    Component, Field, FieldKind, Form, HouseRules, Item, ItemKind, Needs, Plan, PlanContext, Process,
    ProcessDefinition, Refusal, RefusalCode, Slot, StartPoint,
};

/// Order temporary cards: 1 to 9 cards for the stock.
pub(crate) struct Order(ProcessDefinition);

impl Order {
    pub(crate) fn new() -> Self {
        Self(
            ProcessDefinition::new(
                known_name("TempCardsAddonExtProdProcOrder"),
                "Order temporary cards",
                super::PACKAGE,
                ItemKind::New,
            )
            .offered(Component::Operator, StartPoint::QuickSearch)
            .described("Orders temporary cards for the stock at the bureau.")
            .for_cards(Some(CardKind::Temporary), Some(Route::External))
            .gives(["processing", "ordered", "failed"])
            .reads(
                [TEMPORARY_PRODUCTION_TYPE.name(), QUEUE_TEMPORARY_CARDS.name(), VALIDITY_DAYS.name()].map(known_name),
            )
            .fits([Slot::New])
            .off(),
        )
    }
}

impl Process for Order {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }

    fn fields(&self, options: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        let mut fields = vec![
            Field::required(Form::AMOUNT, "Amount", FieldKind::Amount { min: 1, max: 9 }),
            Field::optional(Form::USER, "User", FieldKind::Text { max_length: 256 }),
        ];
        fields.extend(production_type_field(options, TEMPORARY_PRODUCTION_TYPE));
        fields
    }

    fn needs(&self) -> Needs {
        Needs::nothing().user()
    }

    fn plan(&self, mut item: Item, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
        let named = context.answer(Form::USER);
        if !named.is_empty() {
            let not_found = || Refusal::new(RefusalCode::NotFound, format!("user {named} does not exist"));
            require_active(&item.user.take().ok_or_else(not_found)?)?;
        }
        let key = item.id.to_string();
        let (mut card, created) = Card::create(
            CardId::derive(context.run, &key, "card"),
            CardKind::Temporary,
            Route::External,
            &context.stamp,
            Why::code("created"),
        );
        let mut changes = ChangeSet::new();
        changes.history.push(created);
        card.production_type = Some(chosen_production_type(context, TEMPORARY_PRODUCTION_TYPE)?);
        card.valid_until = validity(context)?;
        let queued = context.option(QUEUE_TEMPORARY_CARDS)?;
        let plan = decide_order(changes, card, Why::code("order_decided"), queued, false, &key, context)?;
        Ok(plan.with_number(CardKind::Temporary))
    }
}
