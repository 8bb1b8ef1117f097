use super::{PACKAGE, known_name};
use crate::actor::Role;
use crate::card::Route;
use crate::change_set::ChangeSet;
use crate::job::JobKind;
use crate::options::ResolvedOptions;
use crate::process::{
    Component, Field, HouseRules, Item, ItemKind, Needs, Outcome, Plan, PlanContext, Process, ProcessDefinition,
    Refusal, RefusalCode, Slot, StartPoint, cards,
};
use crate::state_graph::State as _;

/// A background sync: performs the due jobs of its kinds.
pub(crate) struct Sync(ProcessDefinition);

impl Sync {
    pub(crate) fn orders() -> Self {
        Self::named(
            "CardsAddonExtProdBatchSyncOrder",
            "Order what is in processing",
            "Sends the orders that wait in the queue to the bureau and the messages that follow, and does the jobs of the \
             host's own processes.",
            [JobKind::PlaceOrder, JobKind::Notify, JobKind::Custom],
        )
    }

    pub(crate) fn statuses() -> Self {
        Self::named(
            "CardsAddonExtProdBatchSyncStatus",
            "Bring orders up to date",
            "Asks the bureau for the status of ordered cards and of those in production, and sends the messages.",
            [JobKind::TrackOrder, JobKind::Notify],
        )
    }

    pub(crate) fn productions() -> Self {
        let Self(definition) = Self::named(
            "CardsBatchSyncProduction",
            "Go on with productions",
            "Does what is left of local productions, activations and locks: what the personalizer and the CA could not do \
             at once. Sends the messages.",
            [
                JobKind::PrepareCard,
                JobKind::IssueCertificate,
                JobKind::HoldCertificate,
                JobKind::FinishCard,
                JobKind::DiscardCard,
                JobKind::RemoveHold,
                JobKind::RevokeCertificate,
                JobKind::Notify,
            ],
        );
        let definition =
            definition.for_cards(None, None).gives(["issued", "active", "failed", "in doubt", "done", "unchanged"]);
        Self(ProcessDefinition { package: cards::PACKAGE.to_owned(), ..definition })
    }

    fn named(name: &'static str, title: &str, description: &str, jobs: impl IntoIterator<Item = JobKind>) -> Self {
        Self(
            ProcessDefinition::new(known_name(name), title, PACKAGE, ItemKind::Job)
                .offered(Component::Background, StartPoint::Schedule)
                .described(description)
                .for_cards(None, Some(Route::External))
                .gives(["ordered", "in production", "produced", "failed", "in doubt", "done", "unchanged"])
                .performs(jobs)
                .fits([Slot::Background])
                .even_busy()
                .run_by([Role::BatchSync, Role::CardProductionAdministrator]),
        )
    }
}

impl Process for Sync {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }

    fn fields(&self, _: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        Vec::new()
    }

    fn needs(&self) -> Needs {
        Needs::nothing()
    }

    fn plan(&self, mut item: Item, _: &PlanContext<'_>) -> Result<Plan, Refusal> {
        let job = item.take_job()?;
        if !self.0.jobs.contains(&job.kind()) {
            let allowed: Vec<_> = self.0.jobs.iter().map(ToString::to_string).collect();
            return Err(Refusal::new(
                RefusalCode::WrongKind,
                format!("job {} is to {}; {} does {}", job.id, job.kind(), self.0.name, allowed.join(", ")),
            ));
        }
        let state = item.card.map_or(job.state.name(), |card| card.state().name());
        Ok(Plan::store(ChangeSet::new(), Outcome::Unchanged { state: state.into() }).then_perform(job.id))
    }
}
