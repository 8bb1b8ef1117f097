//! One run of a process: open, search, next, chunk by chunk.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::administration::{numbers_key, read, to_value};
use super::{Engine, PlanContextParts, guard, list, plan_item};
use crate::actor::Actor;
use crate::approval::ApprovalRequest;
use crate::card::{Card, CardKind};
use crate::card_number::NumberRange;
use crate::change_set::{ChangeSet, Conflict, Record, Reservation, StoredId};
use crate::error::{During as _, Error};
use crate::history::{Digest, ObjectId, Why};
use crate::host::{
    CardQuery, ClaimRequest, CommitError, Decision, DirectoryError, RepositoryError, RequestQuery, UserFilter,
};
use crate::id::{ActorId, CardId, JobId, RequestId, RunId, SymbolicName};
use crate::job::{JobKind, JobState, Task};
use crate::options::{Options, Subject};
use crate::process::{
    Answer, AnswerError, Filter, Form, ItemId, ItemKind, Outcome, Plan, Process, Refusal, RefusalCode, Selection, Slot,
    check_answers,
};
use crate::user::User;

/// How often an item is loaded and planned again when others change it at the same time.
const PLANS_PER_ITEM: usize = 4;

/// How often a commit with an unknown outcome is made again. Doing so is safe: if the first one was stored, its versions and
/// reservations refuse the second.
const COMMITS_OF_UNKNOWN: usize = 3;

/// An opened process: a plain value that may be kept, sent and finished on another instance.
///
/// Dropping it is *Cancel*: nothing has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The id. Giving it again with the same process, actor and answer finishes the run and doubles nothing.
    pub id: RunId,
    /// The process.
    pub process: SymbolicName,
    /// Who opened it.
    pub actor: Actor,
    /// What the operator sees.
    pub form: Form,
    /// The versions of the option scripts that count for this run, by script.
    pub options: BTreeMap<String, String>,
}

/// What the store keeps of a run, from its first chunk on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RunRecord {
    process: SymbolicName,
    actor: ActorId,
    answer: Digest,
    options: BTreeMap<String, String>,
}

fn run_key(run: RunId) -> String {
    format!("run/{run}")
}

fn item_key(run: RunId, item: &ItemId) -> String {
    format!("run/{run}/{item}")
}

/// What a search found, a page of it.
#[derive(Clone, Debug)]
pub struct Candidates {
    /// What was found.
    pub found: Vec<Candidate>,
    /// Where the next page begins, opaque; `None` after the last.
    pub next: Option<String>,
}

/// Something that can be ticked, or would be refused.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its id, for the selection.
    pub id: ItemId,
    /// The user, in a search for users.
    pub user: Option<User>,
    /// The card, in a search for cards.
    pub card: Option<Card>,
    /// The request, in a search for requests.
    pub request: Option<ApprovalRequest>,
    /// Why it would be refused now, as far as a look shows.
    pub refusal: Option<Refusal>,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The run.
    pub run: RunId,
    /// How many items were dealt with.
    pub items: u64,
    /// How many are done, by the state they came to.
    pub done: BTreeMap<String, u64>,
    /// How many had nothing new.
    pub unchanged: u64,
    /// How many an earlier start of the run had done.
    pub done_earlier: u64,
    /// How many are in doubt.
    pub in_doubt: u64,
    /// How many were refused, by reason.
    pub refused: BTreeMap<RefusalCode, u64>,
    /// Why the run ended before its last item; it can be continued under the same run id.
    pub interrupted: Option<Interruption>,
}

impl Report {
    fn new(run: RunId) -> Self {
        Self {
            run,
            items: 0,
            done: BTreeMap::new(),
            unchanged: 0,
            done_earlier: 0,
            in_doubt: 0,
            refused: BTreeMap::new(),
            interrupted: None,
        }
    }

    fn count(&mut self, outcome: &Outcome) {
        self.items += 1;
        match outcome {
            Outcome::Done { state, .. } => {
                if let Some(count) = self.done.get_mut(state.as_ref()) {
                    *count += 1;
                } else {
                    self.done.insert(state.to_string(), 1);
                }
            }
            Outcome::Unchanged { .. } => self.unchanged += 1,
            Outcome::DoneEarlier { .. } => self.done_earlier += 1,
            Outcome::InDoubt { .. } => self.in_doubt += 1,
            Outcome::Refused(refusal) => *self.refused.entry(refusal.code.clone()).or_default() += 1,
        }
    }

    /// How many are done, in whatever state.
    pub fn done_in_all(&self) -> u64 {
        self.done.values().sum()
    }

    /// How many were refused, for whatever reason.
    pub fn refused_in_all(&self) -> u64 {
        self.refused.values().sum()
    }
}

/// Why a run ended before its last item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interruption {
    /// It was stopped.
    Stopped,
    /// The store or the directory failed: in words.
    Failed(String),
    /// The outside does not want to be called for now. What is left stays in the queue for the next sync.
    HeldBack,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How many items were dealt with.
    pub items: u64,
    /// How many there are in all, if that is known.
    pub total: Option<u64>,
}

/// Stops a run after the chunk it is at.
#[derive(Clone, Debug, Default)]
pub struct StopHandle(Arc<AtomicBool>);

impl StopHandle {
    /// Asks the run to stop. What is committed stays.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Engine {
    /// Opens a process under a run id of the host's choice. The id of a run that was begun before gives that run again, with
    /// the options it began with.
    ///
    /// # Errors
    /// [`Error::Process`], [`Error::Disabled`], [`Error::NotPermitted`]; [`Error::RunTaken`] if the id belongs to another
    /// process or actor; what store and options say.
    pub async fn open_as(&self, id: RunId, process: &str, actor: &Actor) -> Result<Run, Error> {
        let process = self.registry.process(process)?;
        let definition = process.definition();
        self.check_start(definition, actor).await?;
        let begun = self.begun(id).await?;
        if let Some(begun) = &begun {
            same_run(id, begun, &definition.name, actor)?;
        }
        let options = self.options_at(&begun.map(|begun| begun.options).unwrap_or_default()).await?;
        let form = self.form(process.as_ref(), &options)?;
        Ok(Run { id, process: definition.name.clone(), actor: actor.clone(), form, options: options.hashes().clone() })
    }

    /// Searches for what can be ticked, a page at a time. What would be refused is shown too, with the reason.
    ///
    /// # Errors
    /// [`Error::Answer`] if the process does not take what is searched for, or cards cannot be searched like that;
    /// [`Error::Store`], [`Error::Directory`].
    pub async fn search(
        &self,
        run: &Run,
        filter: &Filter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Candidates, Error> {
        let definition = self.registry.process(run.process.as_str())?.definition();
        self.check_selection(&definition.items, &Selection::All(filter.clone()))?;
        let enabled = self.slots().await?.of(definition);
        let mut source = Source::all(filter.clone());
        source.resume_at(cursor)?;
        let ids = self.next_ids(&mut source, limit.max(1)).await?;
        let needs = crate::process::Needs::nothing().user();
        let items = self.load(needs, &ids, &BTreeMap::new()).await?;
        let now = self.now();
        let found = items
            .into_iter()
            .map(|item| {
                let refusal = guard(definition, &enabled, &item, now).err().or_else(|| {
                    let user = item.user.as_ref()?;
                    crate::process::require_active(user).err().filter(|_| item.id.kind() == ItemKind::User)
                });
                Candidate { id: item.id, user: item.user, card: item.card, request: item.request, refusal }
            })
            .collect();
        Ok(Candidates { found, next: source.cursor() })
    }

    /// Goes on with what was answered: checks the answer and gives the work, of which nothing is done yet.
    ///
    /// # Errors
    /// [`Error::Answer`] if the answer does not fit the form; [`Error::RunTaken`] if the run was begun with another answer;
    /// [`Error::Disabled`] and [`Error::NotPermitted`] if that changed meanwhile; what store and options say.
    pub async fn next(&self, run: &Run, answer: Answer) -> Result<Execution<'_>, Error> {
        let process = Arc::clone(self.registry.process(run.process.as_str())?);
        let definition = process.definition();
        let enabled = self.check_start(definition, &run.actor).await?;
        let digest = Digest::of(
            &serde_json::to_string(&answer).map_err(|source| Error::Record { key: run_key(run.id), source })?,
        );
        let begun = self.begun(run.id).await?;
        if let Some(begun) = &begun {
            same_run(run.id, begun, &definition.name, &run.actor)?;
            if begun.answer != digest {
                return Err(Error::RunTaken {
                    run: run.id,
                    what: "answer",
                    found: begun.answer.to_string(),
                    given: digest.to_string(),
                });
            }
        }
        let hashes = begun.as_ref().map_or(&run.options, |begun| &begun.options);
        let options = self.options_at(hashes).await?;
        let fields = self.form(process.as_ref(), &options)?.fields;
        let answers = check_answers(&fields, &answer.values)?;
        self.check_selection(&definition.items, &answer.selection)?;
        let source = Source::new(answer.selection, &answers, &definition.jobs);
        let record = RunRecord {
            process: run.process.clone(),
            actor: run.actor.id.clone(),
            answer: digest,
            options: options.hashes().clone(),
        };
        Ok(Execution {
            engine: self,
            id: run.id,
            actor: run.actor.clone(),
            begun: begun.is_some(),
            record,
            process,
            enabled,
            options,
            answers,
            source,
            report: Report::new(run.id),
            stop: StopHandle::default(),
            ended: false,
        })
    }

    /// The definition's slots now; refuses what is switched off or not permitted.
    async fn check_start(
        &self,
        definition: &crate::process::ProcessDefinition,
        actor: &Actor,
    ) -> Result<BTreeSet<Slot>, Error> {
        if let Decision::No { reason } = self.may_start(actor, &definition.name).await {
            return Err(Error::NotPermitted { actor: actor.id.clone(), process: definition.name.clone(), reason });
        }
        let enabled = self.slots().await?.of(definition);
        if enabled.is_empty() {
            return Err(Error::Disabled { process: definition.name.clone(), slots: list(&definition.slots) });
        }
        Ok(enabled)
    }

    async fn begun(&self, run: RunId) -> Result<Option<RunRecord>, Error> {
        let key = run_key(run);
        let records = self.repository.records(std::slice::from_ref(&key)).await.during("reading the run")?;
        records.first().map(read).transpose()
    }

    fn form(&self, process: &dyn Process, options: &Options) -> Result<Form, Error> {
        let definition = process.definition();
        // An option that is a function of the item has no value yet: the form offers no choice for it.
        let fixed = options.resolve(&[], &Subject::new(None, None))?;
        let fields = process.fields(&fixed, &self.rules);
        Ok(Form {
            process: definition.name.clone(),
            title: definition.title.clone(),
            description: definition.description.clone(),
            searches: definition.items.iter().copied().filter(|kind| *kind != ItemKind::New).collect(),
            fields,
        })
    }

    fn check_selection(&self, takes: &[ItemKind], selection: &Selection) -> Result<(), Error> {
        let allowed = || takes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
        let needs_none = takes.iter().all(|kind| matches!(kind, ItemKind::New | ItemKind::Job));
        match selection {
            Selection::Nothing if needs_none => Ok(()),
            Selection::Nothing => Err(AnswerError::NothingSelected { allowed: allowed() }.into()),
            Selection::Ids(ids) if ids.is_empty() => Err(AnswerError::NothingSelected { allowed: allowed() }.into()),
            // New objects are asked for by an amount, which is checked; by number there could be any number of them.
            Selection::Ids(ids) if ids.iter().any(|id| id.kind() == ItemKind::New) => {
                let allowed = if takes == [ItemKind::New] { "an amount of them".to_owned() } else { allowed() };
                Err(AnswerError::WrongKind { found: "new objects by number".to_owned(), allowed }.into())
            }
            Selection::Ids(ids) => match ids.iter().find(|id| !takes.contains(&id.kind())) {
                Some(wrong) => {
                    Err(AnswerError::WrongKind { found: wrong.kind().to_string(), allowed: allowed() }.into())
                }
                None => Ok(()),
            },
            Selection::All(filter) if !takes.contains(&filter.kind()) => {
                Err(AnswerError::WrongKind { found: filter.kind().to_string(), allowed: allowed() }.into())
            }
            Selection::All(Filter::Cards(query)) => self.check_query(query),
            Selection::All(_) => Ok(()),
        }
    }

    /// Cards are searched by what is indexed only.
    pub(super) fn check_query(&self, query: &CardQuery) -> Result<(), Error> {
        let searchable = &self.rules.user_to_card.searchable;
        match query.text.iter().find(|text| text.name != Card::NUMBER && !searchable.contains(&text.name)) {
            Some(text) => Err(AnswerError::NotSearchable {
                found: text.name.chars().take(100).collect(),
                allowed: format!(
                    "{}, {}",
                    Card::NUMBER,
                    searchable.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
                ),
            }
            .into()),
            None => Ok(()),
        }
    }

    /// The next items of a selection, at most so many; none at its end.
    async fn next_ids(&self, source: &mut Source, limit: usize) -> Result<Vec<ItemId>, Error> {
        match source {
            Source::Listed { left, .. } => Ok(left.drain(..limit.min(left.len())).collect()),
            Source::Users { filter, cursor, ended } => {
                let mut ids = Vec::new();
                while ids.is_empty() && !*ended {
                    let page = self
                        .in_time(self.users.search(filter, cursor.as_deref(), limit), self.settings.call_time_out)
                        .await
                        .unwrap_or_else(|| Err(DirectoryError::Unavailable { reason: "no answer in time".to_owned() }))
                        .during("searching users")?;
                    let mut seen = BTreeSet::new();
                    ids.extend(
                        page.users
                            .into_iter()
                            .map(|user| user.id)
                            .filter(|id| seen.insert(id.clone()))
                            .map(ItemId::User),
                    );
                    *ended = page.next.is_none();
                    *cursor = page.next;
                }
                Ok(ids)
            }
            Source::Cards { query, after, ended } => {
                if *ended {
                    return Ok(Vec::new());
                }
                let cards = self.repository.card_page(query, *after, limit).await.during("listing cards")?;
                *ended = cards.len() < limit;
                *after = cards.last().map(|card| card.id).or(*after);
                Ok(cards.into_iter().map(|card| ItemId::Card(card.id)).collect())
            }
            Source::Requests { query, after, ended } => {
                if *ended {
                    return Ok(Vec::new());
                }
                let page = self.repository.request_page(query, *after, limit).await.during("listing requests")?;
                *ended = page.len() < limit;
                *after = page.last().map(|request| request.id).or(*after);
                Ok(page.into_iter().map(|request| ItemId::Request(request.id)).collect())
            }
            Source::DueJobs(_) => Ok(Vec::new()),
        }
    }

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

fn same_run(run: RunId, begun: &RunRecord, process: &SymbolicName, actor: &Actor) -> Result<(), Error> {
    let differs = |what, found: &str, given: &str| {
        Err(Error::RunTaken { run, what, found: found.to_owned(), given: given.to_owned() })
    };
    if begun.process != *process {
        return differs("process", begun.process.as_str(), process.as_str());
    }
    if begun.actor != actor.id {
        return differs("actor", begun.actor.as_str(), actor.id.as_str());
    }
    Ok(())
}

/// Where the items of a run come from.
#[derive(Debug)]
enum Source {
    Listed { left: VecDeque<ItemId>, total: u64 },
    Users { filter: UserFilter, cursor: Option<String>, ended: bool },
    Cards { query: CardQuery, after: Option<CardId>, ended: bool },
    Requests { query: RequestQuery, after: Option<RequestId>, ended: bool },
    DueJobs(Vec<JobKind>),
}

impl Source {
    fn new(selection: Selection, answers: &BTreeMap<String, String>, jobs: &[JobKind]) -> Self {
        let listed = |left: VecDeque<ItemId>| {
            let total = left.len() as u64;
            Self::Listed { left, total }
        };
        match selection {
            Selection::Ids(ids) if !ids.is_empty() => {
                let mut seen = BTreeSet::new();
                listed(ids.into_iter().filter(|id| seen.insert(id.clone())).collect())
            }
            Selection::All(filter) => Self::all(filter),
            Selection::Nothing | Selection::Ids(_) if !jobs.is_empty() => Self::DueJobs(jobs.to_vec()),
            Selection::Nothing | Selection::Ids(_) => {
                let amount = answers.get(Form::AMOUNT).and_then(|amount| amount.parse().ok()).unwrap_or(1);
                listed((1..=amount).map(ItemId::New).collect())
            }
        }
    }

    fn all(filter: Filter) -> Self {
        match filter {
            Filter::Users(filter) => Self::Users { filter, cursor: None, ended: false },
            Filter::Cards(query) => Self::Cards { query, after: None, ended: false },
            Filter::Requests(query) => Self::Requests { query, after: None, ended: false },
        }
    }

    fn total(&self) -> Option<u64> {
        match self {
            Self::Listed { total, .. } => Some(*total),
            _ => None,
        }
    }

    fn cursor(&self) -> Option<String> {
        match self {
            Self::Users { cursor, .. } => cursor.clone(),
            Self::Cards { after, ended: false, .. } => after.map(|id| id.to_string()),
            Self::Requests { after, ended: false, .. } => after.map(|id| id.to_string()),
            _ => None,
        }
    }

    fn resume_at(&mut self, at: Option<&str>) -> Result<(), Error> {
        let Some(at) = at else { return Ok(()) };
        let invalid = || AnswerError::NotAllowed {
            field: "cursor".to_owned(),
            found: at.chars().take(100).collect(),
            allowed: "the `next` of the page before".to_owned(),
        };
        match self {
            Self::Users { cursor, .. } => *cursor = Some(at.to_owned()),
            Self::Cards { after, .. } => *after = Some(at.parse().map_err(|_| invalid())?),
            Self::Requests { after, .. } => *after = Some(at.parse().map_err(|_| invalid())?),
            Self::Listed { .. } | Self::DueJobs(_) => {}
        }
        Ok(())
    }
}

/// The work of a run, done chunk by chunk as the host asks for it.
///
/// Dropping it between chunks is safe at any time: what is committed stays, and the same run id finishes the rest.
pub struct Execution<'a> {
    engine: &'a Engine,
    id: RunId,
    actor: Actor,
    /// Whether the store already has the run.
    begun: bool,
    record: RunRecord,
    process: Arc<dyn Process>,
    enabled: BTreeSet<Slot>,
    options: Options,
    answers: BTreeMap<String, String>,
    source: Source,
    report: Report,
    stop: StopHandle,
    ended: bool,
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
        if self.stop.is_stopped() {
            self.interrupt(Interruption::Stopped);
            return Ok(self.rest());
        }
        let chunk = self.engine.settings.chunk.max(1);
        let outcomes = if let Source::DueJobs(kinds) = &self.source {
            let kinds = kinds.clone();
            self.due_jobs(kinds).await
        } else {
            match self.engine.next_ids(&mut self.source, chunk).await {
                Ok(ids) if ids.is_empty() => Ok(Vec::new()),
                Ok(ids) => Ok(self.work(ids).await),
                Err(error) => Err(error),
            }
        };
        match outcomes {
            Ok(outcomes) if outcomes.is_empty() => {
                self.ended = true;
                Ok(None)
            }
            Ok(outcomes) => {
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

    /// A handle that stops it after the chunk it is at.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    fn interrupt(&mut self, interruption: Interruption) {
        tracing::warn!(run = %self.id, ?interruption, "run interrupted");
        self.report.interrupted = Some(interruption);
        self.ended = true;
    }

    /// Claims due jobs and performs those that the process plans to.
    async fn due_jobs(&mut self, kinds: Vec<JobKind>) -> Result<Vec<(ItemId, Outcome)>, Error> {
        let engine = self.engine;
        let request = ClaimRequest {
            kinds,
            ..ClaimRequest::new(&engine.worker, engine.settings.chunk, engine.settings.safe_lease())
        };
        let jobs = engine.repository.claim(&request).await.during("claiming jobs")?;
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        // A sync that finds nothing to do leaves no trace; one that does is on record like every run.
        if let Err(error) = self.put_on_record().await {
            engine.release(jobs.iter().map(|job| (job.id, job.version)).collect()).await;
            return Err(error);
        }
        let performed = engine.perform(jobs, &self.actor, &self.record.process, Some(self.id)).await;
        if performed.halted {
            self.interrupt(Interruption::HeldBack);
        }
        if let Some(error) = performed.failed {
            self.interrupt(Interruption::Failed(with_causes(&error)));
        }
        Ok(performed.outcomes.into_iter().map(|(job, outcome)| (ItemId::Job(job), outcome)).collect())
    }

    /// One chunk: plans, commits, performs. Every item gets an outcome, whatever happens.
    async fn work(&mut self, ids: Vec<ItemId>) -> Vec<(ItemId, Outcome)> {
        let mut chunk = Chunk { outcomes: ids.iter().map(|_| None).collect(), perform: Vec::new(), ids };
        let mut left: Vec<usize> = (0..chunk.ids.len()).collect();
        let mut failed = None;
        for round in 0..PLANS_PER_ITEM {
            match self.plan_and_commit(&mut chunk, &left, round > 0).await {
                Ok(conflicting) if conflicting.is_empty() => {
                    left.clear();
                    break;
                }
                Ok(conflicting) => left = conflicting,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        if failed.is_none() {
            for place in left {
                let reason = format!("{} was changed by others meanwhile, again and again", chunk.ids[place]);
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
                Some(object) => {
                    chunk.outcomes[*place] = Some(Outcome::DoneEarlier { object: object.clone() });
                    let card = object.strip_prefix("card ").and_then(|id| id.parse::<CardId>().ok());
                    cards.extend(card.map(|card| (card, *place)));
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
            let direct = matches!(job.task, Task::PlaceOrder { queued: false, .. }) && job.state == JobState::Open;
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
                for card in plan.changes.cards.iter_mut().filter(|card| card.version == 0 && card.number.is_none()) {
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

    /// Commits, again if the outcome is unknown: should the first one have been stored, the second conflicts with it.
    async fn commit_once(&self, changes: &ChangeSet) -> Result<(), CommitError> {
        let mut outcome = self.engine.repository.commit(changes).await;
        for _ in 1..COMMITS_OF_UNKNOWN {
            match outcome {
                Err(CommitError::Store(RepositoryError::OutcomeUnknown { .. })) => {
                    outcome = self.engine.repository.commit(changes).await;
                    if matches!(outcome, Err(CommitError::Conflicts(_))) && self.is_stored(changes).await {
                        return Ok(());
                    }
                }
                known => return known,
            }
        }
        outcome
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
        let request = ClaimRequest {
            ids: places.keys().copied().collect(),
            early: true,
            ..ClaimRequest::new(&engine.worker, places.len(), engine.settings.safe_lease())
        };
        // The items are stored: whatever happens now, they are done, and the jobs stay owed.
        let jobs = match engine.repository.claim(&request).await {
            Ok(jobs) => jobs,
            Err(error) => {
                tracing::warn!(%error, "the jobs of this run stay in the queue");
                return Ok(());
            }
        };
        let performed = engine.perform(jobs, &self.actor, &self.record.process, Some(self.id)).await;
        for (job, outcome) in performed.outcomes {
            // Where nothing came of it yet, what was stored stands.
            let new = !matches!(outcome, Outcome::Unchanged { .. });
            if let Some(place) = places.get(&job).filter(|_| new) {
                chunk.outcomes[*place] = Some(outcome);
            }
        }
        performed.failed.map_or(Ok(()), Err)
    }
}

/// The items at hand.
struct Chunk {
    ids: Vec<ItemId>,
    outcomes: Vec<Option<Outcome>>,
    /// What is to be performed, by the place of the item that wants it.
    perform: Vec<(usize, JobId)>,
}

impl Chunk {
    fn refuse(&mut self, place: usize, refusal: Refusal) {
        self.outcomes[place] = Some(Outcome::Refused(refusal));
    }
}

/// The change sets of several plans in one, so that it can be taken apart again.
struct Merged {
    changes: ChangeSet,
    parts: Vec<Part>,
}

/// How much of the merged change set belongs to one item, and what follows once it is stored.
struct Part {
    place: usize,
    outcome: Outcome,
    perform: Vec<JobId>,
    cards: usize,
    requests: usize,
    jobs: usize,
    records: usize,
    releases: usize,
    takes: usize,
    history: usize,
}

impl Merged {
    fn of(plans: Vec<(usize, Plan)>) -> Self {
        let mut merged = Self { changes: ChangeSet::new(), parts: Vec::with_capacity(plans.len()) };
        merged.changes.reserve(plans.iter().map(|(_, plan)| &plan.changes));
        for (place, Plan { changes, outcome, perform, .. }) in plans {
            merged.add(place, changes, outcome, perform);
        }
        merged
    }

    fn add(&mut self, place: usize, changes: ChangeSet, outcome: Outcome, perform: Vec<JobId>) {
        self.parts.push(Part {
            place,
            outcome,
            perform,
            cards: changes.cards.len(),
            requests: changes.requests.len(),
            jobs: changes.jobs.len(),
            records: changes.records.len(),
            releases: changes.releases.len(),
            takes: changes.takes.len(),
            history: changes.history.len(),
        });
        self.changes.append(changes);
    }

    /// All is stored: the outcomes count.
    fn finish(self, chunk: &mut Chunk) {
        for part in self.parts {
            chunk.outcomes[part.place] = Some(part.outcome);
            chunk.perform.extend(part.perform.into_iter().map(|job| (part.place, job)));
        }
    }

    /// The same without the items that these conflicts are about, and the places of those. Of several items that want the
    /// same thing, the first stays: it may get it once the others are out of its way.
    fn without(self, conflicts: &[Conflict]) -> (Self, Vec<usize>) {
        let mut objects = BTreeSet::new();
        let mut keys = BTreeSet::new();
        for conflict in conflicts {
            match conflict {
                Conflict::Version { object, .. } => drop(objects.insert(object.clone())),
                Conflict::Taken { key, .. } | Conflict::NotHeld { key, .. } => drop(keys.insert(key.as_str())),
            }
        }
        let mut wanted: BTreeMap<String, usize> = BTreeMap::new();
        let mut parts = Vec::with_capacity(self.parts.len());
        for (part, changes) in self.split() {
            for wants in changes.wants(&objects, &keys) {
                *wanted.entry(wants).or_default() += 1;
            }
            parts.push((part, changes));
        }
        let mut kept = Self { changes: ChangeSet::new(), parts: Vec::new() };
        let mut left_out = Vec::new();
        let mut seen = BTreeSet::new();
        for (part, changes) in parts {
            let wants = changes.wants(&objects, &keys);
            let first_of_several =
                !wants.is_empty() && wants.iter().all(|w| wanted.get(w).is_some_and(|n| *n > 1) && !seen.contains(w));
            if wants.is_empty() || first_of_several {
                kept.add(part.place, changes, part.outcome, part.perform);
            } else {
                left_out.push(part.place);
            }
            seen.extend(wants);
        }
        (kept, left_out)
    }

    fn split(self) -> Vec<(Part, ChangeSet)> {
        let Self { changes, parts } = self;
        let mut cards = changes.cards.into_iter();
        let mut requests = changes.requests.into_iter();
        let mut jobs = changes.jobs.into_iter();
        let mut records = changes.records.into_iter();
        let mut releases = changes.releases.into_iter();
        let mut takes = changes.takes.into_iter();
        let mut history = changes.history.into_iter();
        parts
            .into_iter()
            .map(|part| {
                let mut own = ChangeSet::new();
                own.cards.extend(cards.by_ref().take(part.cards));
                own.requests.extend(requests.by_ref().take(part.requests));
                own.jobs.extend(jobs.by_ref().take(part.jobs));
                own.records.extend(records.by_ref().take(part.records));
                own.releases.extend(releases.by_ref().take(part.releases));
                own.takes.extend(takes.by_ref().take(part.takes));
                own.history.extend(history.by_ref().take(part.history));
                (part, own)
            })
            .collect()
    }
}

impl ChangeSet {
    /// What of these a change set wants, as text.
    fn wants(&self, objects: &BTreeSet<StoredId>, keys: &BTreeSet<&str>) -> Vec<String> {
        let stored = (self.cards.iter().map(|card| StoredId::Object(ObjectId::Card(card.id))))
            .chain(self.requests.iter().map(|request| StoredId::Object(ObjectId::Request(request.id))))
            .chain(self.records.iter().map(|record| StoredId::Object(ObjectId::Record(record.key.clone()))))
            .chain(self.jobs.iter().map(|job| StoredId::Job(job.id)))
            .filter(|id| objects.contains(id))
            .map(|id| id.to_string());
        let held = (self.takes.iter().chain(&self.releases))
            .filter(|reservation| keys.contains(reservation.key.as_str()))
            .map(|reservation| reservation.key.clone());
        stored.chain(held).collect()
    }
}

/// An error with all its causes, in one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        words.push_str(": ");
        words.push_str(&next.to_string());
        cause = next.source();
    }
    words
}
