use super::{PACKAGE, ask_for_approval};
use crate::card::{Card, CardKind, CardState, Route};
use crate::change_set::ChangeSet;
use crate::history::Why;
use crate::id::CardId;
use crate::options::{REQUEST_APPROVAL, ResolvedOptions, VALIDITY_DAYS};
use crate::process::external_production::{copy_user, validity};
use crate::process::{
    Component, Field, HouseRules, Item, ItemKind, Needs, Plan, PlanContext, Process, ProcessDefinition, Refusal, Slot,
    StartPoint, known_name, require_active,
};

/// Request multiple cards: a card for each user, to be approved or ready to be issued.
pub(crate) struct RequestMultiple(ProcessDefinition);

impl RequestMultiple {
    pub(crate) fn new() -> Self {
        Self(
            ProcessDefinition::new(
                known_name("CardsBoProcRequestMulitple"),
                "Request multiple cards",
                PACKAGE,
                ItemKind::User,
            )
            .offered(Component::Operator, StartPoint::BatchOrders)
            .described(
                "Requests a card that is made here for each user ticked. With the approval step on, the requests wait for \
                 an approver; otherwise the cards are ready to be issued. A user may get several; how many may be active is \
                 another matter.",
            )
            .gives(["requested", "approved"])
            .reads([REQUEST_APPROVAL.name(), VALIDITY_DAYS.name()].map(known_name))
            .fits([Slot::Batch]),
        )
    }
}

impl Process for RequestMultiple {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }

    fn fields(&self, _: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        Vec::new()
    }

    fn needs(&self) -> Needs {
        Needs::nothing().user()
    }

    fn plan(&self, mut item: Item, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
        let user = item.take_user()?;
        require_active(&user)?;
        let key = item.id.to_string();
        let mut changes = ChangeSet::new();
        let id = CardId::derive(context.run, &key, "card");
        let why = Why::code("created");
        let (mut card, created) = Card::create(id, CardKind::Permanent, Route::Local, &context.stamp, why);
        changes.history.push(created);
        card.valid_until = validity(context)?;
        copy_user(&user, &mut card, context.rules)?;
        card.holder = Some(user.id);
        let plan = if context.option(REQUEST_APPROVAL)? {
            ask_for_approval(changes, card, &key, context)?
        } else {
            changes.move_card(&mut card, CardState::Approved, &context.stamp, Why::code("approval_not_needed"))?;
            Plan::card(changes, card)
        };
        Ok(plan.with_number(CardKind::Permanent))
    }
}
