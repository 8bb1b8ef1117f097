use super::{PACKAGE, production};
use crate::actor::Role;
use crate::card::{CardKind, CardState};
use crate::certificate::RevocationReason;
use crate::change_set::ChangeSet;
use crate::history::Why;
use crate::options::ResolvedOptions;
use crate::process::{
    Component, Field, FieldKind, HouseRules, Item, ItemKind, Needs, Plan, PlanContext, Process, ProcessDefinition,
    Refusal, RefusalCode, Slot, StartPoint, known_name,
};

const REASON: &str = "reason";

const STATES: [CardState; 4] = [CardState::Active, CardState::Inactive, CardState::Issued, CardState::Produced];

/// Lock: a card is out of use for good, its certificates revoked.
pub(crate) struct Lock(ProcessDefinition);

impl Lock {
    pub(crate) fn new() -> Self {
        Self(
            ProcessDefinition::new(known_name("CardsProcLock"), "Lock card", PACKAGE, ItemKind::Card)
                .offered(Component::Operator, StartPoint::CardProfile)
                .described("Locks a card for good and revokes its certificates.")
                .for_cards(Some(CardKind::Permanent), None)
                .requires(STATES)
                .gives(["locked"])
                .fits(STATES.map(Slot::Card))
                .run_by([Role::Operator, Role::CardProductionAdministrator]),
        )
    }
}

impl Process for Lock {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }

    fn fields(&self, _: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        let reasons = RevocationReason::ALL.iter().map(|reason| reason.name().to_owned()).collect();
        let preset = RevocationReason::default().name();
        vec![Field::required(REASON, "Why the certificates are revoked", FieldKind::Choice(reasons)).preset(preset)]
    }

    fn needs(&self) -> Needs {
        Needs::nothing().certificates()
    }

    fn plan(&self, mut item: Item, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
        let mut card = item.take_card()?;
        let reason = match context.answer(REASON) {
            "" => RevocationReason::default(),
            name => RevocationReason::named(name)
                .map_err(|error| Refusal::new(RefusalCode::Certificate, error.to_string()))?,
        };
        let why = Why::code("locked").about(reason.name());
        let mut changes = ChangeSet::new();
        changes.move_card(&mut card, CardState::Locked, &context.stamp, why)?;
        let mut perform = Vec::new();
        for certificate in std::mem::take(&mut item.certificates) {
            if certificate.is_current(&card) {
                perform.extend(production::revoke(&mut changes, certificate, reason, context, why)?);
            }
        }
        Ok(perform.into_iter().fold(Plan::card(changes, card), Plan::then_perform))
    }
}
