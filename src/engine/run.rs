//! One run of a process: open, search, next, chunk by chunk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::administration::read;
use super::execution::{Execution, StopHandle};
use super::source::Source;
use super::{Engine, guard, list};
use crate::actor::Actor;
use crate::approval::ApprovalRequest;
use crate::card::Card;
use crate::error::{During as _, Error};
use crate::history::Digest;
use crate::host::{CardQuery, Decision};
use crate::id::{ActorId, RunId, SymbolicName};
use crate::options::{Options, Subject};
use crate::process::{
    Answer, AnswerError, Filter, Form, ItemId, ItemKind, Outcome, Process, Refusal, RefusalCode, Selection, Slot,
    check_answers,
};
use crate::user::User;

/// An opened process: a plain value that may be kept, sent and finished on another instance.
///
/// Dropping it is *Cancel*: nothing has happened.
///
/// It carries who opened it, and is as good as that person's word: a host that lets it out of its hands, such as to a browser,
/// gives the engine a [`ChainKey`](crate::ChainKey), so that an altered one is refused, and checks that whoever brings it back
/// is its [`actor`](Self::actor).
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
    /// Seals all of the above but the form, with the key of the history if there is one.
    pub seal: Digest,
}

/// What the store keeps of a run, from its first chunk on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunRecord {
    pub(super) process: SymbolicName,
    pub(super) actor: ActorId,
    pub(super) answer: Digest,
    pub(super) options: BTreeMap<String, String>,
}

pub(super) fn run_key(run: RunId) -> String {
    format!("run/{run}")
}

pub(super) fn item_key(run: RunId, item: &ItemId) -> String {
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
    /// How many are done, by the state they came to. Also what failed is done: see [`Card::failure`](crate::Card::failure) for why.
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
    pub(super) fn new(run: RunId) -> Self {
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

    pub(super) fn count(&mut self, outcome: &Outcome) {
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

impl std::fmt::Display for Interruption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stopped => f.write_str("it was stopped"),
            Self::Failed(words) => f.write_str(words),
            Self::HeldBack => f.write_str("the outside does not want to be called for now"),
        }
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How many items were dealt with.
    pub items: u64,
    /// How many there are in all, if that is known.
    pub total: Option<u64>,
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
        let options = self.options_for(definition, &begun.map(|begun| begun.options).unwrap_or_default()).await?;
        let form = self.form(process.as_ref(), &options)?;
        let options = options.hashes().clone();
        let (process, actor) = (definition.name.clone(), actor.clone());
        let mut run = Run { id, process, actor, form, options, seal: Digest::of("") };
        run.seal = self.seal_of(&run)?;
        Ok(run)
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
        self.check_seal(run)?;
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
    /// [`Error::RunOutdated`] if the run was altered, or the options have changed before it was begun;
    /// [`Error::Disabled`] and [`Error::NotPermitted`] if that changed meanwhile; what store and options say.
    pub async fn next(&self, run: &Run, answer: Answer) -> Result<Execution<'_>, Error> {
        self.check_seal(run)?;
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
        // Of a run that was not begun, what was decided since the form was drawn counts: such as that an approval is needed now.
        let pinned = begun.as_ref().map(|begun| begun.options.clone()).unwrap_or_default();
        let options = self.options_for(definition, &pinned).await?;
        if begun.is_none() && *options.hashes() != run.options {
            return Err(Error::RunOutdated { run: run.id, why: "the options have changed since it was opened" });
        }
        let fields = self.form(process.as_ref(), &options)?.fields;
        let answers = check_answers(&fields, &answer.values)?;
        self.check_selection(&definition.items, &answer.selection)?;
        let source = Source::new(answer.selection, &answers, &definition.jobs, &definition.items);
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
            at_hand: Vec::new(),
            started: None,
            halted: BTreeSet::new(),
            trouble: None,
            denied: BTreeSet::new(),
        })
    }

    fn seal_of(&self, run: &Run) -> Result<Digest, Error> {
        let sealed = serde_json::to_vec(&(run.id, &run.process, &run.actor, &run.options))
            .map_err(|source| Error::Record { key: run_key(run.id), source })?;
        Ok(self.key.seal(&sealed))
    }

    fn check_seal(&self, run: &Run) -> Result<(), Error> {
        if self.seal_of(run)? == run.seal {
            return Ok(());
        }
        Err(Error::RunOutdated {
            run: run.id,
            why: "it was altered since it was opened, or opened by another office or an instance with another chain key",
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

    pub(super) async fn begun(&self, run: RunId) -> Result<Option<RunRecord>, Error> {
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
        let needs_none = takes.iter().all(|kind| matches!(kind, ItemKind::New | ItemKind::Job | ItemKind::Certificate));
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
}

pub(super) fn same_run(run: RunId, begun: &RunRecord, process: &SymbolicName, actor: &Actor) -> Result<(), Error> {
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
