//! The work of one run, chunk by chunk: load, plan, number, commit, perform.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};

use super::administration::{numbers_key, to_value};
use super::jobs::Done;
use super::merged::{Chunk, Merged};
use super::run::{Interruption, Progress, Report, RunRecord, item_key, run_key, same_run};
use super::source::Source;
use super::{Engine, PlanContextParts, plan_item};
use crate::actor::Actor;
use crate::card::{Card, CardKind};
use crate::card_number::NumberRange;
use crate::change_set::{ChangeSet, Conflict, Record, Reservation, StoredId};
use crate::error::{During as _, Error, with_causes};
use crate::history::{ObjectId, Why};
use crate::host::{ClaimRequest, CommitError, Decision, RepositoryError};
use crate::id::{CardId, JobId, RunId, SymbolicName};
use crate::job::{Job, JobKind, JobState, Task};
use crate::options::Options;
use crate::process::{ItemId, Outcome, Plan, Process, Refusal, RefusalCode, Slot};

/// How often an item is loaded and planned again when others change it at the same time.
const PLANS_PER_ITEM: usize = 4;

/// Stops a run after the call to the outside or the commit it is at.
#[derive(Clone, Debug, Default)]
pub struct StopHandle(Arc<AtomicBool>);

impl StopHandle {
    /// Asks the run to stop. What is committed stays, and jobs that it did not get to stay in the queue.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The work of a run, done chunk by chunk as the host asks for it.
///
/// Dropping it between chunks is safe at any time: what is committed stays, and the same run id finishes the rest.
pub struct Execution<'a> {
    pub(super) engine: &'a Engine,
    pub(super) id: RunId,
    pub(super) actor: Actor,
    /// Whether the store already has the run.
    pub(super) begun: bool,
    pub(super) record: RunRecord,
    pub(super) process: Arc<dyn Process>,
    pub(super) enabled: BTreeSet<Slot>,
    pub(super) options: Options,
    pub(super) answers: BTreeMap<String, String>,
    pub(super) source: Source,
    pub(super) report: Report,
    pub(super) stop: StopHandle,
    pub(super) ended: bool,
    /// The chunk that is being worked on.
    pub(super) at_hand: Vec<ItemId>,
    /// When the first jobs were claimed.
    pub(super) started: Option<DateTime<Utc>>,
    /// The kinds of jobs that are left alone: their outside does not want to be called for now, or something failed.
    pub(super) halted: BTreeSet<JobKind>,
    /// What went wrong with some of the jobs.
    pub(super) trouble: Option<Interruption>,
    /// Jobs that the actor may not touch.
    pub(super) denied: BTreeSet<JobId>,
}

impl std::fmt::Debug for Execution<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Execution").field("run", &self.id).field("report", &self.report).finish_non_exhaustive()
    }
}

impl Execution<'_> {
    /// Does the next chunk and gives the outcome of each of its items; `None` when there is nothing more to do.
    ///
    /// When the store or the directory fails, the items at hand are given back as refused with
    /// [`RefusalCode::Store`], [`Report::interrupted`] says why, and the run can be continued under the same run id. What is
    /// left of a list is then given back likewise, or with [`RefusalCode::Stopped`] when the run was stopped.
    ///
    /// # Errors
    /// None of its own: failures are part of the report. Kept as a `Result` so that hosts handle what later releases add.
    #[tracing::instrument(skip_all, fields(run = %self.id, process = %self.record.process))]
    pub async fn next_chunk(&mut self) -> Result<Option<Vec<(ItemId, Outcome)>>, Error> {
        if self.ended {
            return Ok(self.rest());
        }
        if self.stop.is_stopped() && self.at_hand.is_empty() && !self.source.is_spent() {
            self.interrupt(Interruption::Stopped);
            return Ok(self.rest());
        }
        match self.next_outcomes().await {
            Ok(None) => {
                self.ended = true;
                Ok(None)
            }
            Ok(Some(outcomes)) => {
                for (_, outcome) in &outcomes {
                    self.report.count(outcome);
                }
                tracing::debug!(items = outcomes.len(), "chunk done");
                Ok(Some(outcomes))
            }
            Err(error) => {
                self.interrupt(Interruption::Failed(with_causes(&error)));
                Ok(self.rest())
            }
        }
    }

    /// The outcomes of the next chunk; `None` if there is none.
    async fn next_outcomes(&mut self) -> Result<Option<Vec<(ItemId, Outcome)>>, Error> {
        if let Source::DueJobs(kinds) = &self.source {
            let kinds = kinds.clone();
            return self.due_jobs(kinds).await;
        }
        // A chunk whose future was dropped is still at hand: what of it was stored, perhaps with the run itself, is found again.
        let dropped = !self.at_hand.is_empty();
        if !dropped {
            let chunk = self.engine.settings.chunk.max(1);
            self.at_hand = self.engine.next_ids(&mut self.source, chunk).await?;
        }
        if self.at_hand.is_empty() {
            return Ok(None);
        }
        let outcomes = self.work(self.at_hand.clone(), dropped).await;
        self.at_hand.clear();
        Ok(Some(outcomes))
    }

    /// After an interruption: what is left of a list, a chunk at a time, so that every item has an outcome. What is left
    /// of "all that match" nobody knows yet.
    fn rest(&mut self) -> Option<Vec<(ItemId, Outcome)>> {
        let refusal = match self.report.interrupted.as_ref()? {
            Interruption::Stopped => Refusal::new(RefusalCode::Stopped, "the run was stopped before this item"),
            Interruption::HeldBack => {
                Refusal::new(RefusalCode::HeldBack, "the outside does not want to be called for now")
            }
            Interruption::Failed(words) => {
                Refusal::new(RefusalCode::Store, format!("the run was interrupted before this item: {words}"))
            }
        };
        let Source::Listed { left, .. } = &mut self.source else { return None };
        let count = self.engine.settings.chunk.max(1).min(left.len());
        let outcomes: Vec<_> = left.drain(..count).map(|id| (id, Outcome::Refused(refusal.clone()))).collect();
        for (_, outcome) in &outcomes {
            self.report.count(outcome);
        }
        (!outcomes.is_empty()).then_some(outcomes)
    }

    /// Does all that is left and gives the report.
    ///
    /// # Errors
    /// As [`next_chunk`](Self::next_chunk).
    pub async fn finish(mut self) -> Result<Report, Error> {
        while self.next_chunk().await?.is_some() {}
        Ok(self.report)
    }

    /// The outcomes as a stream, item by item.
    pub fn into_stream(self) -> impl futures::Stream<Item = Result<(ItemId, Outcome), Error>> {
        use futures::{StreamExt as _, TryStreamExt as _, stream};
        stream::try_unfold(self, |mut execution| async move {
            let chunk = execution.next_chunk().await?;
            Ok::<_, Error>(chunk.map(|outcomes| (stream::iter(outcomes).map(Ok), execution)))
        })
        .try_flatten()
    }

    /// What the run came to so far.
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        Progress { items: self.report.items, total: self.source.total() }
    }

    /// A handle that stops it, also within a chunk that makes several calls to the outside.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    fn interrupt(&mut self, interruption: Interruption) {
        tracing::warn!(run = %self.id, ?interruption, "run interrupted");
        self.report.interrupted = Some(interruption);
        self.ended = true;
    }

    /// Claims due jobs and performs them; `None` if there are none left that this run should do.
    async fn due_jobs(&mut self, kinds: Vec<JobKind>) -> Result<Option<Vec<(ItemId, Outcome)>>, Error> {
        let engine = self.engine;
        let wanted = |kind: &JobKind| engine.performs(*kind) && !self.halted.contains(kind);
        let kinds: Vec<JobKind> = kinds.into_iter().filter(wanted).collect();
        if kinds.is_empty() {
            return Ok(self.no_more_jobs());
        }
        let request = ClaimRequest {
            kinds,
            // Those that are denied are still due, and first in line.
            limit: engine.settings.chunk.saturating_add(self.denied.len()),
            ..ClaimRequest::new(&engine.worker, engine.settings.chunk, engine.settings.safe_lease())
        };
        let claimed = engine.repository.claim(&request).await.during("claiming jobs")?;
        // What came due while the run was at work waits for the next one, so that a run ends; what is new is done.
        let since = *self.started.get_or_insert_with(|| engine.now());
        let (jobs, later): (Vec<Job>, Vec<Job>) =
            claimed.into_iter().partition(|job| job.due <= since || job.due == job.created);
        engine.release(later.iter().map(|job| (job.id, job.version)).collect()).await;
        let ids: Vec<ItemId> = jobs.iter().map(|job| ItemId::Job(job.id)).collect();
        let mut outcomes = Vec::with_capacity(jobs.len());
        let mut permitted = Vec::with_capacity(jobs.len());
        let mut denied = Vec::new();
        if !jobs.is_empty() {
            let decisions = engine.may(&self.actor, &self.record.process, &ids).await;
            for ((job, id), decision) in jobs.into_iter().zip(ids).zip(decisions) {
                match decision {
                    Decision::Yes => permitted.push(job),
                    Decision::No { reason } => {
                        denied.push((job.id, job.version));
                        if self.denied.insert(job.id) {
                            outcomes.push((id, Outcome::Refused(Refusal::new(RefusalCode::NotPermitted, reason))));
                        }
                    }
                }
            }
        }
        engine.release(denied).await;
        if permitted.is_empty() {
            return Ok(if outcomes.is_empty() { self.no_more_jobs() } else { Some(outcomes) });
        }
        // A sync that finds nothing to do leaves no trace; one that does is on record like every run.
        if let Err(error) = self.put_on_record().await {
            engine.release(permitted.iter().map(|job| (job.id, job.version)).collect()).await;
            return Err(error);
        }
        let performed = engine.perform(permitted, &self.actor, &self.record.process, Some(self.id), &self.stop).await;
        self.halted.extend(performed.halted);
        if let Some(error) = performed.failed {
            self.trouble.get_or_insert(Interruption::Failed(with_causes(&error)));
        }
        outcomes.extend(performed.done.into_iter().map(|done| (ItemId::Job(done.job), done.outcome)));
        Ok(Some(outcomes))
    }

    /// The end of a sync, and why it is one before its time, if it is.
    fn no_more_jobs(&mut self) -> Option<Vec<(ItemId, Outcome)>> {
        if let Some(why) = self.trouble() {
            self.interrupt(why);
        }
        None
    }

    /// Why it ended or will end before its time, as far as that is known.
    pub(crate) fn trouble(&self) -> Option<Interruption> {
        let held_back = (!self.halted.is_empty()).then_some(Interruption::HeldBack);
        self.report.interrupted.clone().or_else(|| self.trouble.clone()).or(held_back)
    }

    /// One chunk: plans, commits, performs. Every item gets an outcome, whatever happens. If it was tried before, some may be done.
    async fn work(&mut self, ids: Vec<ItemId>, mut again: bool) -> Vec<(ItemId, Outcome)> {
        let mut chunk = Chunk { outcomes: ids.iter().map(|_| None).collect(), perform: Vec::new(), ids };
        let mut left: Vec<usize> = (0..chunk.ids.len()).collect();
        let mut failed = None;
        let mut in_vain = 0;
        // As long as some get through, the others were in each other's way only.
        while !left.is_empty() && in_vain < PLANS_PER_ITEM {
            match self.plan_and_commit(&mut chunk, &left, again).await {
                Ok(conflicting) => {
                    in_vain = if conflicting.len() < left.len() { 0 } else { in_vain + 1 };
                    left = conflicting;
                    again = true;
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        if failed.is_none() {
            for place in left {
                let reason =
                    format!("{} was changed by others, or what it needs was, again and again", chunk.ids[place]);
                chunk.refuse(place, Refusal::new(RefusalCode::ChangedMeanwhile, reason));
            }
            failed = self.perform_now(&mut chunk).await.err();
        }
        if let Some(error) = failed {
            let words = with_causes(&error);
            for place in 0..chunk.ids.len() {
                if chunk.outcomes[place].is_none() {
                    chunk.refuse(place, Refusal::new(RefusalCode::Store, words.clone()));
                }
            }
            self.interrupt(Interruption::Failed(words));
        }
        let outcomes = chunk.outcomes.into_iter().flatten();
        chunk.ids.into_iter().zip(outcomes).collect()
    }

    /// Plans these items and commits what they come to; gives those that conflicted.
    async fn plan_and_commit(&mut self, chunk: &mut Chunk, places: &[usize], again: bool) -> Result<Vec<usize>, Error> {
        let mut places = Cow::Borrowed(places);
        if self.begun || again {
            places = Cow::Owned(self.leave_out_done(chunk, &places).await?);
        }
        let places = self.leave_out_forbidden(chunk, &places).await;
        let ids: Vec<ItemId> = places.iter().map(|place| chunk.ids[*place].clone()).collect();
        let items = self.engine.load(self.process.needs(), &ids, &self.answers).await?;
        let mut plans = self.plan(chunk, places.into_iter().zip(items));
        self.number(chunk, &mut plans).await?;
        for (place, plan) in &mut plans {
            if !plan.changes.is_empty() {
                let owner = match &plan.outcome {
                    Outcome::Done { object: Some(object), .. } => object.to_string(),
                    _ => chunk.ids[*place].to_string(),
                };
                plan.changes.takes.push(Reservation { key: item_key(self.id, &chunk.ids[*place]), owner });
            }
        }
        self.commit(chunk, plans).await
    }

    /// Items that an earlier start of the run has done are done, before any guard.
    async fn leave_out_done(&self, chunk: &mut Chunk, places: &[usize]) -> Result<Vec<usize>, Error> {
        let keys: Vec<String> = places.iter().map(|place| item_key(self.id, &chunk.ids[*place])).collect();
        let held = self.engine.repository.reservations(&keys).await.during("looking for what is done")?;
        let held: BTreeMap<String, String> = held.into_iter().map(|held| (held.key, held.owner)).collect();
        let mut left = Vec::with_capacity(places.len());
        let mut cards = BTreeMap::new();
        for (place, key) in places.iter().zip(&keys) {
            match held.get(key) {
                Some(owner) => {
                    let object = ObjectId::of_text(owner);
                    if let Some(ObjectId::Card(card)) = object {
                        cards.insert(card, *place);
                    }
                    chunk.outcomes[*place] = Some(Outcome::DoneEarlier { object });
                }
                None => left.push(*place),
            }
        }
        self.perform_what_was_left(chunk, &cards).await?;
        Ok(left)
    }

    /// Orders that an earlier start of this run was to place itself, and did not come to, are placed now.
    async fn perform_what_was_left(&self, chunk: &mut Chunk, cards: &BTreeMap<CardId, usize>) -> Result<(), Error> {
        let busy = self.engine.cards_by_id(cards.keys().copied().collect()).await?;
        let jobs: Vec<JobId> = busy.values().filter_map(|card| card.busy.as_ref().map(|busy| busy.job)).collect();
        for job in self.engine.jobs_by_id(&jobs).await?.into_values() {
            let direct = job.state == JobState::Open
                && (matches!(job.task, Task::PlaceOrder { queued: false, .. })
                    || job.card.and_then(|card| busy.get(&card)).is_some_and(|card| card.production.is_some()));
            if let Some(place) =
                job.card.and_then(|card| cards.get(&card)).filter(|_| direct && job.run == Some(self.id))
            {
                chunk.perform.push((*place, job.id));
            }
        }
        Ok(())
    }

    async fn leave_out_forbidden(&self, chunk: &mut Chunk, places: &[usize]) -> Vec<usize> {
        let objects: Vec<ItemId> = places.iter().map(|place| chunk.ids[*place].clone()).collect();
        if objects.is_empty() {
            return Vec::new();
        }
        let decisions = self.engine.may(&self.actor, &self.record.process, &objects).await;
        let mut left = Vec::with_capacity(places.len());
        for (place, decision) in places.iter().zip(decisions) {
            match decision {
                Decision::Yes => left.push(*place),
                Decision::No { reason } => chunk.refuse(*place, Refusal::new(RefusalCode::NotPermitted, reason)),
            }
        }
        left
    }

    fn plan(
        &self,
        chunk: &mut Chunk,
        items: impl ExactSizeIterator<Item = (usize, crate::process::Item)>,
    ) -> Vec<(usize, Plan)> {
        let parts = PlanContextParts {
            stamp: self.engine.stamp(&self.actor, &self.record.process, Some(self.id)),
            actor: &self.actor,
            run: self.id,
            answers: &self.answers,
            rules: &self.engine.rules,
            performers: &self.engine.performers,
        };
        let definition = self.process.definition();
        let names: Vec<&str> = definition.options.iter().map(SymbolicName::as_str).collect();
        let mut plans = Vec::with_capacity(items.len());
        for (place, item) in items {
            match plan_item(self.process.as_ref(), &self.enabled, item, &self.options, &names, &parts) {
                Ok(plan) => plans.push((place, plan)),
                Err(refusal) => chunk.refuse(place, refusal),
            }
        }
        plans
    }

    /// Gives the new cards their numbers; refuses those for which there are none.
    async fn number(&self, chunk: &mut Chunk, plans: &mut Vec<(usize, Plan)>) -> Result<(), Error> {
        for kind in [CardKind::Permanent, CardKind::Temporary] {
            let wanted = plans.iter().filter(|(_, plan)| plan.number == Some(kind)).count();
            if wanted == 0 {
                continue;
            }
            let rules = &self.engine.rules;
            let mut numbers = self.engine.draw_numbers(kind, wanted).await?;
            plans.retain_mut(|(place, plan)| {
                if plan.number != Some(kind) {
                    return true;
                }
                let Some(number) = numbers.pop_front() else {
                    let reason = format!("the number range of {} cards is exhausted", kind.name());
                    chunk.refuse(*place, Refusal::new(RefusalCode::NumbersExhausted, reason));
                    return false;
                };
                // A range set since the office was built may have longer numbers than the plan reckoned with.
                let surprising = number.chars().count() > rules.longest_number;
                let new = |card: &&mut Card| card.version == 0 && card.number.is_none() && card.kind() == kind;
                if let Some(card) = plan.changes.cards.iter_mut().find(new) {
                    let owner = card.id.to_string();
                    plan.changes.takes.push(Reservation { key: format!("number/{number}"), owner });
                    card.number = Some(number.clone());
                    if surprising
                        && card.production_type.is_some()
                        && let Err(refusal) = rules.check_order(card)
                    {
                        chunk.refuse(*place, refusal);
                        return false;
                    }
                }
                true
            });
        }
        Ok(())
    }

    /// Commits the plans together. What conflicts is left out and the rest committed; the conflicting places are given back.
    async fn commit(&mut self, chunk: &mut Chunk, plans: Vec<(usize, Plan)>) -> Result<Vec<usize>, Error> {
        let mut conflicting = Vec::new();
        let mut merged = Merged::of(plans);
        loop {
            // Also a run that changes nothing is on record.
            let opening = !self.begun;
            if opening {
                self.begin(&mut merged.changes)?;
            }
            if merged.changes.is_empty() {
                merged.finish(chunk);
                return Ok(conflicting);
            }
            match self.commit_once(&merged.changes).await {
                Ok(()) => {
                    self.begun |= opening;
                    merged.finish(chunk);
                    return Ok(conflicting);
                }
                Err(CommitError::Conflicts(conflicts)) => {
                    let run = StoredId::Object(ObjectId::Record(run_key(self.id)));
                    let run_begun =
                        conflicts.iter().any(|c| matches!(c, Conflict::Version { object, .. } if *object == run));
                    if run_begun {
                        self.check_begun().await?;
                    }
                    let (rest, left_out) = merged.without(&conflicts);
                    if left_out.is_empty() && !run_begun {
                        return Err(Error::Store {
                            during: "committing a chunk",
                            source: RepositoryError::rejected(format!(
                                "conflicts that belong to no item: {}",
                                conflicts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
                            )),
                        });
                    }
                    conflicting.extend(left_out);
                    merged = rest;
                }
                Err(CommitError::Store(source)) => {
                    return Err(Error::Store { during: "committing a chunk", source });
                }
            }
        }
    }

    /// Commits; where the outcome was unknown, a conflict may be with ourselves.
    async fn commit_once(&self, changes: &ChangeSet) -> Result<(), CommitError> {
        match self.engine.commit_again(changes).await {
            (Err(CommitError::Conflicts(_)), true) if self.is_stored(changes).await => Ok(()),
            (outcome, _) => outcome,
        }
    }

    /// Whether everything that a change set takes is held as it says. Each item takes a key of its own, and a commit is all
    /// or nothing: if all are held, it was stored.
    async fn is_stored(&self, changes: &ChangeSet) -> bool {
        let keys: Vec<String> = changes.takes.iter().map(|taken| taken.key.clone()).collect();
        let held = self.engine.repository.reservations(&keys).await.unwrap_or_default();
        let held: BTreeSet<&Reservation> = held.iter().collect();
        !changes.takes.is_empty() && changes.takes.iter().all(|taken| held.contains(taken))
    }

    /// Adds the run itself to its first commit.
    fn begin(&self, changes: &mut ChangeSet) -> Result<(), Error> {
        let key = run_key(self.id);
        let mut record = Record::new(key.clone(), to_value(&key, &self.record)?);
        let stamp = self.engine.stamp(&self.actor, &self.record.process, Some(self.id));
        let why = Why::code("run_begun");
        changes.history.push(record.history.append(ObjectId::Run(self.id), None, "begun", &stamp, why));
        changes.records.push(record);
        Ok(())
    }

    /// Stores the run before it has changed anything.
    async fn put_on_record(&mut self) -> Result<(), Error> {
        if !self.begun {
            let mut changes = ChangeSet::new();
            self.begin(&mut changes)?;
            if !self.engine.commit_record(&changes).await? {
                self.check_begun().await?;
            }
            self.begun = true;
        }
        Ok(())
    }

    /// Another start of the same run was faster: it must be the same.
    async fn check_begun(&mut self) -> Result<(), Error> {
        if let Some(begun) = self.engine.begun(self.id).await? {
            same_run(self.id, &begun, &self.record.process, &self.actor)?;
            if begun.answer != self.record.answer || begun.options != self.record.options {
                return Err(Error::RunTaken {
                    run: self.id,
                    what: "answer",
                    found: begun.answer.to_string(),
                    given: self.record.answer.to_string(),
                });
            }
            self.begun = true;
        }
        Ok(())
    }

    /// Performs what the plans want done in the same run, and lets the answers stand as outcomes.
    async fn perform_now(&mut self, chunk: &mut Chunk) -> Result<(), Error> {
        if chunk.perform.is_empty() {
            return Ok(());
        }
        let places: BTreeMap<JobId, usize> = chunk.perform.drain(..).map(|(place, job)| (job, place)).collect();
        let engine = self.engine;
        // The items are stored: whatever happens now, they are done, and the jobs stay owed.
        let jobs = match engine.claim_now(places.keys().copied().collect()).await {
            Ok(jobs) => jobs,
            Err(error) => {
                tracing::warn!(%error, "the jobs of this run stay in the queue");
                return Ok(());
            }
        };
        let performed = engine.perform(jobs, &self.actor, &self.record.process, Some(self.id), &self.stop).await;
        for Done { job, outcome, .. } in performed.done {
            // Where nothing came of it yet, what was stored stands; so it does where a host's own job is simply done.
            let new = match &outcome {
                Outcome::Unchanged { .. } => false,
                Outcome::Done { state, .. } => *state != JobState::Done.name(),
                _ => true,
            };
            if let Some(place) = places.get(&job).filter(|_| new) {
                chunk.outcomes[*place] = Some(outcome);
            }
        }
        performed.failed.map_or(Ok(()), Err)
    }
}

impl Engine {
    /// Draws numbers in a short transaction of its own; fewer when the range is exhausted.
    async fn draw_numbers(&self, kind: CardKind, count: usize) -> Result<VecDeque<String>, Error> {
        let key = numbers_key(kind);
        let fresh = self.numbers.get(&kind);
        for _ in 0..1000 {
            let (mut record, held) = self.record::<Option<NumberRange>>(&key).await?;
            let Some(mut range) = held.or_else(|| fresh.cloned()) else { return Ok(VecDeque::new()) };
            let drawn = range.draw(count);
            if drawn.is_empty() {
                return Ok(VecDeque::new());
            }
            record.value = to_value(&key, &range)?;
            let mut changes = ChangeSet::new();
            changes.records.push(record);
            if self.commit_record(&changes).await? {
                return Ok(drawn.into());
            }
        }
        Err(Error::ChangedMeanwhile { what: key })
    }
}
