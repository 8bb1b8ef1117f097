use super::PACKAGE;
use crate::actor::Role;
use crate::approval::RequestState;
use crate::card::{CardState, Withdrawal};
use crate::change_set::ChangeSet;
use crate::history::Why;
use crate::options::ResolvedOptions;
use crate::process::external_production::known_name;
use crate::process::{
    Component, Field, HouseRules, Item, ItemKind, Needs, Plan, PlanContext, Process, ProcessDefinition, Refusal,
    RefusalCode, Slot, StartPoint,
};

/// Abort request: the requester withdraws an open request.
pub(crate) struct AbortRequest(ProcessDefinition);

impl AbortRequest {
    pub(crate) fn new() -> Self {
        Self(
            ProcessDefinition::new(known_name("CardsProcAbortRequest"), "Abort request", PACKAGE, ItemKind::Request)
                .offered(Component::SelfService, StartPoint::Requests)
                .described("Withdraws an open request of one's own; request and card are aborted.")
                .requires([CardState::Requested])
                .gives(["aborted"])
                .fits([Slot::Request])
                .run_by([Role::Operator, Role::CardProductionAdministrator, Role::SelfService]),
        )
    }
}

impl Process for AbortRequest {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }

    fn fields(&self, _: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        Vec::new()
    }

    fn needs(&self) -> Needs {
        Needs::nothing()
    }

    fn plan(&self, mut item: Item, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
        let mut request = item.take_request()?;
        let mut card = item.take_card()?;
        if !request.was_asked_by(context.actor) {
            return Err(Refusal::new(
                RefusalCode::Person,
                format!("request {} can be withdrawn by its requester only", request.id),
            ));
        }
        let why = Why::code("request_withdrawn");
        let mut changes = ChangeSet::new();
        changes.history.push(request.transition(RequestState::Aborted, &context.stamp, why)?);
        card.withdrawal = Some(Withdrawal::Request);
        changes.move_card(&mut card, CardState::Aborted, &context.stamp, why)?;
        changes.requests.push(request);
        Ok(Plan::card(changes, card))
    }
}
