//! The engine: opens runs, loads, asks plans, commits, and does what is owed. The only place that awaits.

mod administration;
mod builder;
mod execution;
mod jobs;
mod load;
mod merged;
mod productions;
mod run;
mod source;
mod verification;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, Utc};
use futures::future::{Either, select};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use administration::OptionVersion;
pub use builder::{BuildError, EngineBuilder, EngineSettings};
pub use execution::{Execution, StopHandle};
pub use run::{Candidate, Candidates, Interruption, Progress, Report, Run};
pub use verification::Verified;

use crate::actor::Actor;
use crate::card::{Card, CardKind, CardState};
use crate::card_number::NumberRange;
use crate::certificate::Certificate;
use crate::error::{During as _, Error};
use crate::history::{ChainKey, HistoryEntry, ObjectId, Stamp};
use crate::host::{
    AccessPolicy, Backlog, CardPersonalizer, CardQuery, CardRepository, CertificateAuthority, CertificateQuery, Clock,
    Decision, Entropy, FeedPage, GoCardsProvider, JobPerformer, JobQuery, Notifier, RequestQuery, UserRepository,
};
use crate::id::{CardId, CertificateId, JobId, RequestId, RunId, SymbolicName};
use crate::job::{Job, JobState, Task};
use crate::options::{OptionCatalogue, OptionSource, Options, ResolvedOptions, ScriptOptions};
use crate::process::{
    HouseRules, ItemId, Plan, PlanContext, Process, ProcessDefinition, ProcessRegistry, Refusal, RefusalCode, Slot,
};

/// The act of the administrator that puts option scripts in force, by the name that access policies know.
pub const SET_OPTIONS: &str = "CardsProcSetOptions";

/// The act of the administrator that adds processes to slots and removes them, by the name that access policies know.
pub const ENABLE_PROCESS: &str = "CardsProcEnableProcess";

/// The card office: everything a host calls.
///
/// An engine holds no state of its own that matters: several engines, in several processes, may work on one store.
pub struct Engine {
    repository: Arc<dyn CardRepository>,
    users: Arc<dyn UserRepository>,
    bureau: Option<Arc<dyn GoCardsProvider>>,
    certificate_authority: Option<Arc<dyn CertificateAuthority>>,
    personalizer: Option<Arc<dyn CardPersonalizer>>,
    entropy: Arc<dyn Entropy>,
    notifier: Arc<dyn Notifier>,
    access: Arc<dyn AccessPolicy>,
    clock: Arc<dyn Clock>,
    registry: ProcessRegistry,
    catalogue: OptionCatalogue,
    /// All options as they are without any script: what is in force is built upon them.
    defaults: Options,
    /// What each script says as long as nothing else was put in force.
    shipped: BTreeMap<String, (ScriptOptions, OptionSource)>,
    performers: BTreeMap<SymbolicName, Arc<dyn JobPerformer>>,
    rules: HouseRules,
    numbers: BTreeMap<CardKind, NumberRange>,
    key: ChainKey,
    settings: EngineSettings,
    /// Who this engine is when it claims jobs.
    worker: String,
    /// Scripts that were loaded before, by content.
    loaded: Mutex<BTreeMap<(String, String), ScriptOptions>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("processes", &self.registry)
            .field("settings", &self.settings)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Begins to put an engine together.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    /// The definitions of all processes, by symbolic name.
    pub fn definitions(&self) -> impl Iterator<Item = &ProcessDefinition> {
        self.registry.definitions()
    }

    /// The definition of a process of the background service.
    #[cfg(feature = "tokio")]
    pub(crate) fn background(&self, process: &str) -> Result<&ProcessDefinition, crate::process::RegistryError> {
        let definition = self.registry.process(process)?.definition();
        if definition.is_background() {
            return Ok(definition);
        }
        Err(crate::process::RegistryError::NotBackground { name: definition.name.clone() })
    }

    /// What the host has set.
    pub const fn rules(&self) -> &HouseRules {
        &self.rules
    }

    /// Opens a process under a new run id.
    ///
    /// # Errors
    /// [`Error::Process`] for an unknown name (with the nearest known one), [`Error::Disabled`], [`Error::NotPermitted`],
    /// and what the store and the options say.
    #[expect(clippy::disallowed_methods, reason = "the one place where a run id is drawn; hosts may give their own")]
    pub async fn open(&self, process: &str, actor: &Actor) -> Result<Run, Error> {
        self.open_as(RunId::new(Uuid::new_v4()), process, actor).await
    }

    /// Cards with these ids; those that do not exist are left out.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn cards(&self, ids: &[CardId]) -> Result<Vec<Card>, Error> {
        self.repository.cards(ids).await.during("reading cards")
    }

    /// A page of cards, by id, after the one given.
    ///
    /// # Errors
    /// [`Error::Answer`] if cards cannot be searched by one of the attributes; [`Error::Store`].
    pub async fn card_page(&self, query: &CardQuery, after: Option<CardId>, limit: usize) -> Result<Vec<Card>, Error> {
        self.check_query(query)?;
        self.repository.card_page(query, after, limit).await.during("listing cards")
    }

    /// A page of approval requests, by id, after the one given.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn request_page(
        &self,
        query: &RequestQuery,
        after: Option<RequestId>,
        limit: usize,
    ) -> Result<Vec<crate::approval::ApprovalRequest>, Error> {
        self.repository.request_page(query, after, limit).await.during("listing requests")
    }

    /// A page of certificates, by id, after the one given.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn certificate_page(
        &self,
        query: &CertificateQuery,
        after: Option<CertificateId>,
        limit: usize,
    ) -> Result<Vec<Certificate>, Error> {
        self.repository.certificate_page(query, after, limit).await.during("listing certificates")
    }

    /// A page of jobs, by id, after the one given.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn job_page(&self, query: &JobQuery, after: Option<JobId>, limit: usize) -> Result<Vec<Job>, Error> {
        self.repository.job_page(query, after, limit).await.during("listing jobs")
    }

    /// A page of what is in doubt and waits for a person, by id, after the one given.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn doubts(&self, after: Option<JobId>, limit: usize) -> Result<Vec<Job>, Error> {
        let query = JobQuery { states: vec![JobState::InDoubt], ..JobQuery::default() };
        self.job_page(&query, after, limit).await
    }

    /// The whole history of an object, oldest first.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn history(&self, object: &ObjectId) -> Result<Vec<HistoryEntry>, Error> {
        const PAGE: usize = 1000;
        let mut entries: Vec<HistoryEntry> = Vec::new();
        loop {
            let after = entries.last().map_or(0, |entry| entry.sequence);
            let page = self.repository.history(object, after, PAGE).await.during("reading history")?;
            let last = page.len() < PAGE;
            entries.extend(page);
            if last {
                return Ok(entries);
            }
        }
    }

    /// Jobs with these ids; those that do not exist are left out.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Job>, Error> {
        self.repository.jobs(ids).await.during("reading jobs")
    }

    /// How much is due by now, by kind of jobs, and how much is in doubt; of this run, or of all: figures that a host exports. What
    /// waits for a later time, such as after a setback, is not in it: to see how far a batch is, look at the states of its cards
    /// ([`card_page`](Self::card_page)).
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn backlog(&self, run: Option<RunId>) -> Result<Vec<Backlog>, Error> {
        self.repository.backlog(self.now(), run).await.during("counting jobs")
    }

    /// What happened since a cursor, for a host that follows along. `None` begins at the beginning; keep the cursor of the
    /// last entry that was dealt with.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn changes_since(&self, cursor: Option<&str>, limit: usize) -> Result<FeedPage, Error> {
        self.repository.changes_since(cursor, limit).await.during("reading the feed")
    }

    /// The processes that this actor may start now on this object: in force, offered, permitted, and in the right state.
    /// For [`ItemId::New`], those that start without an object.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Directory`].
    pub async fn commands(&self, object: &ItemId, actor: &Actor) -> Result<Vec<ProcessDefinition>, Error> {
        let slots = self.slots().await?;
        let mut found = Vec::new();
        for definition in self.registry.definitions().filter(|definition| definition.items.contains(&object.kind())) {
            if self.why_not(definition, object, actor, &slots).await?.is_empty() {
                found.push(definition.clone());
            }
        }
        Ok(found)
    }

    /// Why this actor cannot start this process on this object now; empty if it can. What only shows when the form is
    /// answered is not part of it.
    ///
    /// # Errors
    /// [`Error::Process`] for an unknown name; [`Error::Store`], [`Error::Directory`].
    pub async fn explain(&self, process: &str, object: &ItemId, actor: &Actor) -> Result<Vec<Refusal>, Error> {
        let definition = self.registry.process(process)?.definition();
        let slots = self.slots().await?;
        self.why_not(definition, object, actor, &slots).await
    }

    async fn why_not(
        &self,
        definition: &ProcessDefinition,
        object: &ItemId,
        actor: &Actor,
        slots: &Slots,
    ) -> Result<Vec<Refusal>, Error> {
        let mut reasons = Vec::new();
        let process = self.registry.process(definition.name.as_str())?;
        let enabled = slots.of(definition);
        if enabled.is_empty() {
            reasons.push(Refusal::new(
                RefusalCode::NotOffered,
                format!(
                    "{} is switched off; it can be added to the slots {}",
                    definition.name,
                    list(&definition.slots)
                ),
            ));
        }
        let may_start = self.may_start(actor, &definition.name).await;
        let may = self.may(actor, &definition.name, std::slice::from_ref(object)).await;
        let first = may.into_iter().next().unwrap_or(Decision::No { reason: "the policy did not answer".to_owned() });
        for decision in [may_start, first] {
            if let Decision::No { reason } = decision {
                let refusal = Refusal::new(RefusalCode::NotPermitted, reason);
                if !reasons.contains(&refusal) {
                    reasons.push(refusal);
                }
            }
        }
        let items = self.load(process.needs(), std::slice::from_ref(object), &BTreeMap::new()).await?;
        for item in items {
            if let Err(refusal) = guard(definition, &enabled, &item, self.now()) {
                if refusal.code != RefusalCode::NotOffered || !enabled.is_empty() {
                    reasons.push(refusal);
                }
            } else if let Some(user) = item.user.as_ref().filter(|user| !user.is_active() && item.card.is_none()) {
                reasons.push(Refusal::new(
                    RefusalCode::UserNotActive,
                    format!("user {} is {}, only active users get cards", user.id, user.state),
                ));
            }
        }
        Ok(reasons)
    }

    async fn may_start(&self, actor: &Actor, process: &SymbolicName) -> Decision {
        self.in_time(self.access.may_start(actor, process), self.settings.call_time_out)
            .await
            .unwrap_or_else(|| Decision::No { reason: "the access policy did not answer in time".to_owned() })
    }

    /// One decision for each object, whatever the policy gives.
    async fn may(&self, actor: &Actor, process: &SymbolicName, objects: &[ItemId]) -> Vec<Decision> {
        let asked = self.in_time(self.access.may(actor, process, objects), self.settings.call_time_out).await;
        let reason = match asked {
            Some(decisions) if decisions.len() == objects.len() => return decisions,
            Some(decisions) => {
                format!("the access policy gave {} decisions for {} objects", decisions.len(), objects.len())
            }
            None => "the access policy did not answer in time".to_owned(),
        };
        vec![Decision::No { reason }; objects.len()]
    }

    /// The time now, to the microsecond, which is what stores keep.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now().trunc_subsecs(6)
    }

    /// The circumstances of a change that this engine makes now.
    fn stamp<'a>(&'a self, actor: &'a Actor, process: &'a SymbolicName, run: Option<RunId>) -> Stamp<'a> {
        Stamp { at: self.now(), actor: &actor.id, process, run, key: &self.key }
    }

    /// How many items are done at once.
    #[cfg(feature = "tokio")]
    pub(crate) fn chunk(&self) -> u64 {
        self.settings.chunk.max(1) as u64
    }

    /// Waits, on the engine's clock.
    #[cfg(feature = "tokio")]
    pub(crate) async fn sleep(&self, duration: Duration) {
        self.clock.sleep(duration).await;
    }

    /// An outside call with a time-out by the engine's clock; `None` if the time was up first.
    async fn in_time<T>(&self, call: impl Future<Output = T> + Send, limit: Duration) -> Option<T> {
        let call = std::pin::pin!(call);
        let sleep = self.clock.sleep(limit);
        match select(call, sleep).await {
            Either::Left((answer, _)) => Some(answer),
            Either::Right(((), _)) => None,
        }
    }

    fn loaded(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), ScriptOptions>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which process is in which slots, as far as an administrator has changed it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Slots(BTreeMap<SymbolicName, BTreeSet<Slot>>);

impl Slots {
    const KEY: &'static str = "enablement";

    /// The slots that a process is in now.
    fn of(&self, definition: &ProcessDefinition) -> BTreeSet<Slot> {
        match self.0.get(&definition.name) {
            Some(slots) => slots.clone(),
            None if definition.on => definition.slots.iter().copied().collect(),
            None => BTreeSet::new(),
        }
    }
}

fn list(slots: &[Slot]) -> String {
    slots.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What holds for every process before it plans: the item exists, is of the right kind, in a state that the process takes
/// and is offered in, and no open job decides its next state.
fn guard(
    definition: &ProcessDefinition,
    enabled: &BTreeSet<Slot>,
    item: &crate::process::Item,
    now: DateTime<Utc>,
) -> Result<(), Refusal> {
    use crate::state_graph::State as _;
    if !definition.items.contains(&item.id.kind()) {
        let allowed: Vec<_> = definition.items.iter().map(ToString::to_string).collect();
        return Err(Refusal::new(
            RefusalCode::WrongKind,
            format!("{} takes {}, not {}", definition.name, allowed.join(" and "), item.id.kind()),
        ));
    }
    let exists = match &item.id {
        ItemId::User(_) => item.user.is_some(),
        ItemId::Card(_) => item.card.is_some(),
        ItemId::Request(_) => item.request.is_some(),
        ItemId::Job(_) => item.job.is_some(),
        ItemId::Certificate(_) => item.certificate.is_some(),
        ItemId::New(_) => true,
    };
    if !exists {
        return Err(Refusal::new(RefusalCode::NotFound, format!("{} does not exist", item.id)));
    }
    let Some(card) = &item.card else { return Ok(()) };
    let wrong_kind = definition.card_kind.is_some_and(|kind| kind != card.kind());
    let wrong_route = definition.route.is_some_and(|route| route != card.route());
    if wrong_kind || wrong_route {
        return Err(Refusal::new(
            RefusalCode::WrongKind,
            format!("card {} is a {}, which {} does not take", card.id, card.graph().name(), definition.name),
        ));
    }
    // Where a job or certificate is chosen, it is that which counts, whatever state its card has come to.
    if matches!(item.id, ItemId::Job(_) | ItemId::Certificate(_)) {
        return Ok(());
    }
    let states = &definition.required_states;
    if !states.is_empty() && !states.contains(&card.state()) {
        let allowed: Vec<_> = states.iter().map(|state| state.name()).collect();
        return Err(Refusal::new(
            RefusalCode::WrongState,
            format!(
                "card {} is {}; {} takes cards that are {}",
                card.id,
                card.state(),
                definition.name,
                allowed.join(" or ")
            ),
        ));
    }
    let by_state = definition.slots.iter().any(|slot| matches!(slot, Slot::Card(_)));
    if by_state && !enabled.contains(&Slot::Card(card.state())) {
        let slots: Vec<_> = enabled.iter().copied().collect();
        return Err(Refusal::new(
            RefusalCode::NotOffered,
            format!(
                "{} is not offered for cards that are {}; it is for {}",
                definition.name,
                card.state(),
                list(&slots)
            ),
        ));
    }
    if let Some(busy) = card.busy.as_ref().filter(|_| !definition.takes_busy_cards) {
        return Err(if busy.in_doubt {
            Refusal::new(
                RefusalCode::InDoubt,
                format!("card {} is in doubt since {}; settle that first", card.id, busy.since.format("%F %T UTC")),
            )
        } else {
            let waits = now.signed_duration_since(busy.since).num_minutes();
            let what = match card.state() {
                _ if card.production.is_some() => "being produced",
                CardState::Processing => "being ordered",
                _ => "waiting for an open job",
            };
            Refusal::new(
                RefusalCode::Busy,
                format!("card {} is busy: {what} since {} ({waits} min)", card.id, busy.since.format("%F %T UTC")),
            )
        });
    }
    Ok(())
}

/// Guards, options and the plan of one item.
fn plan_item(
    process: &dyn Process,
    enabled: &BTreeSet<Slot>,
    item: crate::process::Item,
    options: &Options,
    names: &[&str],
    context: &PlanContextParts<'_>,
) -> Result<Plan, Refusal> {
    guard(process.definition(), enabled, &item, context.stamp.at)?;
    let resolved = resolve(options, names, &item)?;
    let plan = process.plan(
        item,
        &PlanContext {
            stamp: context.stamp,
            actor: context.actor,
            run: context.run,
            options: &resolved,
            answers: context.answers,
            rules: context.rules,
        },
    )?;
    plan.changes.check().map_err(|problem| {
        let name = &process.definition().name;
        Refusal::new(RefusalCode::BadPlan, format!("{name} planned what cannot be stored: {problem}"))
    })?;
    for job in &plan.changes.jobs {
        if let Task::Custom { performer, .. } = &job.task
            && !context.performers.contains_key(performer)
        {
            return Err(Refusal::new(RefusalCode::NotEquipped, format!("nobody here performs jobs of {performer}")));
        }
    }
    Ok(plan)
}

/// What all items of a chunk share.
struct PlanContextParts<'a> {
    stamp: Stamp<'a>,
    actor: &'a Actor,
    run: RunId,
    answers: &'a BTreeMap<String, String>,
    rules: &'a HouseRules,
    performers: &'a BTreeMap<SymbolicName, Arc<dyn JobPerformer>>,
}

/// The options for one item. Functions are called with what is known of card and user; fixed values cost nothing.
fn resolve(options: &Options, names: &[&str], item: &crate::process::Item) -> Result<ResolvedOptions, Refusal> {
    use crate::state_graph::State as _;
    let failed = |problem: crate::options::OptionProblem| Refusal::new(RefusalCode::OptionFailed, problem.to_string());
    if !options.has_functions(names) {
        return options.resolve(names, &crate::options::Subject::new(None, None)).map_err(failed);
    }
    let card = item.card.as_ref().map(|card| {
        let mut table = card.attributes.clone();
        table.insert("state".to_owned(), card.state().name().to_owned());
        table.insert("kind".to_owned(), card.kind().name().to_owned());
        table.insert("route".to_owned(), card.route().name().to_owned());
        table.extend(card.number.clone().map(|number| (Card::NUMBER.to_owned(), number)));
        table
    });
    let user = item.user.as_ref().map(|user| {
        let mut table = user.attributes.clone();
        table.insert("id".to_owned(), user.id.to_string());
        table.insert("state".to_owned(), user.state.name().to_owned());
        table
    });
    options.resolve(names, &crate::options::Subject::new(card.as_ref(), user.as_ref())).map_err(failed)
}
