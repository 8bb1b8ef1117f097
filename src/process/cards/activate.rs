use super::{PACKAGE, production};
use crate::card::{CardKind, CardState, Route};
use crate::certificate::{CertificateState, StateAtCa};
use crate::change_set::ChangeSet;
use crate::history::Why;
use crate::id::JobId;
use crate::job::{Job, Task};
use crate::options::{MULTIPLE_ACTIVE, ResolvedOptions};
use crate::process::{
    Component, Field, HouseRules, Item, ItemKind, Needs, Plan, PlanContext, Process, ProcessDefinition, Refusal, Slot,
    StartPoint, known_name, require_active,
};

/// Activate: an issued card becomes usable, its certificates valid.
pub(crate) struct Activate(ProcessDefinition);

impl Activate {
    pub(crate) fn new() -> Self {
        Self(
            ProcessDefinition::new(known_name("CardsProcActivate"), "Activate card", PACKAGE, ItemKind::Card)
                .offered(Component::Operator, StartPoint::CardProfile)
                .described("Makes an issued card usable and takes its certificates off hold.")
                .for_cards(Some(CardKind::Permanent), Some(Route::Local))
                .requires([CardState::Issued])
                .gives(["active"])
                .reads([known_name(MULTIPLE_ACTIVE.name())])
                .fits([Slot::Card(CardState::Issued)]),
        )
    }
}

impl Process for Activate {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }

    fn fields(&self, _: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        Vec::new()
    }

    fn needs(&self) -> Needs {
        Needs::nothing().user().active_cards().certificates()
    }

    fn plan(&self, mut item: Item, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
        let user = item.take_user()?;
        require_active(&user)?;
        let mut card = item.take_card()?;
        production::require_validity(&card, context.stamp.at)?;
        item.certificates.retain(|certificate| certificate.is_current(&card));
        production::require_valid_certificates(&item.certificates, context.stamp.at)?;
        let mut changes = ChangeSet::new();
        production::take_active_place(&mut changes, &mut card, &item.active_cards, context)?;
        let why = Why::code("activated");
        changes.move_card(&mut card, CardState::Active, &context.stamp, why)?;
        let mut perform = Vec::new();
        for certificate in std::mem::take(&mut item.certificates) {
            if certificate.state() != CertificateState::OnHold {
                continue;
            }
            if certificate.at_ca == StateAtCa::OnHold {
                let id = JobId::derive(context.run, &certificate.id.to_string(), "remove hold");
                let task = Task::RemoveHold { certificate: certificate.id };
                changes.jobs.push(Job::new(id, task, Some(card.id), &context.stamp));
                perform.push(id);
            }
            changes.move_certificate(certificate, CertificateState::Valid, &context.stamp, why)?;
        }
        Ok(perform.into_iter().fold(Plan::card(changes, card), Plan::then_perform))
    }
}
