use super::{PACKAGE, production};
use crate::actor::Role;
use crate::certificate::{CertificateState, RevocationReason};
use crate::change_set::ChangeSet;
use crate::history::{ObjectId, Why};
use crate::options::ResolvedOptions;
use crate::process::{
    Component, Field, HouseRules, Item, ItemKind, Needs, Outcome, Plan, PlanContext, Process, ProcessDefinition,
    Refusal, Slot, StartPoint, known_name,
};
use crate::state_graph::State as _;

/// The sweep: revokes certificates that an ended, failed production left issued.
pub(crate) struct SyncOrphans(ProcessDefinition);

impl SyncOrphans {
    pub(crate) fn new() -> Self {
        let name = known_name("CardsBatchSyncOrphans");
        Self(
            ProcessDefinition::new(name, "Revoke orphaned certificates", PACKAGE, ItemKind::Certificate)
                .offered(Component::Background, StartPoint::Schedule)
                .described(
                    "Revokes certificates that a failed production left issued; never those of a production that runs or \
                     is in doubt.",
                )
                .gives(["revoked", "unchanged"])
                .fits([Slot::Background])
                .even_busy()
                .run_by([Role::BatchSync, Role::CardProductionAdministrator]),
        )
    }
}

impl Process for SyncOrphans {
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
        let certificate = item.take_certificate()?;
        let running = item.card.as_ref().and_then(|card| card.production.as_ref());
        let runs = running.is_some_and(|production| production.id == certificate.production);
        if certificate.state() != CertificateState::Issued || runs {
            return Ok(Plan::unchanged(certificate.state().name()));
        }
        let object = Some(ObjectId::Certificate(certificate.id));
        let mut changes = ChangeSet::new();
        let why = Why::code("orphaned");
        let job = production::revoke(&mut changes, certificate, RevocationReason::default(), context, why)?;
        let plan = Plan::store(changes, Outcome::Done { object, state: CertificateState::Revoked.name().into() });
        Ok(job.into_iter().fold(plan, Plan::then_perform))
    }
}
