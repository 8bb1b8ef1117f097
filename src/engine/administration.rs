//! What an administrator does: option scripts and enablement. Both live in the store, so that all instances agree.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ENABLE_PROCESS, Engine, SET_OPTIONS, Slots, list};
use crate::actor::Actor;
use crate::card::CardKind;
use crate::card_number::NumberRange;
use crate::change_set::{ChangeSet, Record};
use crate::error::{During as _, Error, with_causes};
use crate::history::{ObjectId, Why};
use crate::host::{CommitError, Decision};
use crate::id::{ActorId, SymbolicName};
use crate::options::{
    BrokenScript, Limits, OptionChange, OptionProblem, OptionSource, Options, ProblemKind, ScriptOptions, Subject,
    dry_run, load,
};
use crate::process::{ProcessDefinition, Slot};

/// How often a record that others change at the same time is tried again.
const TRIES: usize = 20;

/// One version of an option script that was put in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptionVersion {
    /// The hash of its content.
    pub hash: String,
    /// Who put it in force.
    pub actor: ActorId,
    /// When.
    pub at: DateTime<Utc>,
}

/// The versions of one script, the last one in force.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Versions {
    versions: Vec<OptionVersion>,
}

/// The record that every change of what is in force raises, whatever the script. Two administrators who put scripts in force at the same moment,
/// each of which is good by itself, meet here, and the second is checked against what the first has set.
const OPTION_CHANGES: &str = "options";

fn versions_key(script: &str) -> String {
    format!("options/{script}")
}

pub(super) fn numbers_key(kind: CardKind) -> String {
    format!("numbers/{}", kind.name())
}

fn source_key(script: &str, hash: &str) -> String {
    format!("options/{script}/{hash}")
}

/// How often a commit with an unknown outcome is made in all.
const COMMITS_OF_UNKNOWN: u32 = 3;

impl Engine {
    /// The options in force. A stored script that does not load in this release is listed by [`Options::broken`]; the options of the others can be
    /// read.
    ///
    /// # Errors
    /// [`Error::Store`]; [`Error::Record`] if the list of versions cannot be read.
    pub async fn options(&self) -> Result<Options, Error> {
        self.options_at(&BTreeMap::new()).await
    }

    /// Puts a script in force, or typed values in its place, after checking it. All problems are reported at once, and a
    /// script with problems leaves the last good version in force. It is checked together with the other scripts in force; one of those that does
    /// not load in this release counts as it was shipped, and so does not stand in the way of the repair.
    ///
    /// # Errors
    /// [`Error::Options`] with all problems; [`Error::NotPermitted`]; [`Error::ChangedMeanwhile`]; [`Error::Store`].
    pub async fn set_options(&self, script: &str, source: OptionSource, actor: &Actor) -> Result<OptionVersion, Error> {
        let act = self.permit(SET_OPTIONS, actor).await?;
        let loaded = load(&self.catalogue, script, &source, &Limits::default())?;
        let hash = loaded.hash().to_owned();
        for _ in 0..TRIES {
            // Read before what the script is checked against: whoever changes that from now on makes the commit fail.
            let (mut changed, times) = self.record::<u64>(OPTION_CHANGES).await?;
            self.options().await?.with(loaded.clone())?;
            changed.value = to_value(OPTION_CHANGES, &times.saturating_add(1))?;
            let (mut record, mut held) = self.record::<Versions>(&versions_key(script)).await?;
            let stamp = self.stamp(actor, &act, None);
            let version = OptionVersion { hash: hash.clone(), actor: actor.id.clone(), at: stamp.at };
            held.versions.push(version.clone());
            let from = (record.version > 0).then_some("in force");
            let entry = record.history.append(
                ObjectId::Record(record.key.clone()),
                from,
                "in force",
                &stamp,
                Why::code("options_set").about(&hash),
            );
            record.value = to_value(&record.key, &held)?;
            let mut changes = ChangeSet::new();
            changes.history.push(entry);
            changes.records.extend([changed, record]);
            let key = source_key(script, &hash);
            let stored = self.repository.records(std::slice::from_ref(&key)).await.during("reading options")?;
            if stored.is_empty() {
                changes.records.push(Record::new(key.clone(), to_value(&key, &source)?));
            }
            if self.commit_record(&changes).await? {
                self.loaded().insert((script.to_owned(), hash), loaded);
                return Ok(version);
            }
        }
        Err(Error::ChangedMeanwhile { what: versions_key(script) })
    }

    /// What a script would change if it were put in force: the options with old and new value, and for each subject given
    /// (a name and what is known of card and user) the change for it. Nothing is put in force. What is in force may be broken.
    ///
    /// # Errors
    /// [`Error::Options`] with all problems; [`Error::Store`].
    pub async fn dry_run_options(
        &self,
        script: &str,
        source: &OptionSource,
        subjects: &[(String, Subject<'_>)],
    ) -> Result<Vec<OptionChange>, Error> {
        let current = self.options().await?;
        Ok(dry_run(&current, &self.catalogue, script, source, &Limits::default(), subjects)?)
    }

    /// The versions of a script that were put in force, oldest first; the last one is in force. Empty: as shipped.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn option_versions(&self, script: &str) -> Result<Vec<OptionVersion>, Error> {
        Ok(self.record::<Versions>(&versions_key(script)).await?.1.versions)
    }

    /// What a version of a script says: one of [`option_versions`](Self::option_versions), or the
    /// [shipped](Self::shipped_version) one. With the feature `scripting`, the shipped one is a text with comments, to be shown and edited.
    ///
    /// # Errors
    /// [`Error::NoSuchVersion`]; [`Error::Record`] if it was stored by a newer release or by hand; [`Error::Store`].
    pub async fn option_source(&self, script: &str, hash: &str) -> Result<OptionSource, Error> {
        self.source(script, hash).await
    }

    /// The version of a script as it was shipped, which can be put back like any other; `None` for a script that does not
    /// exist.
    pub fn shipped_version(&self, script: &str) -> Option<&str> {
        self.shipped.get(script).map(|(shipped, _)| shipped.hash())
    }

    /// Sets the range that cards of this kind get their numbers from, from now on: to go on when one is exhausted. Its areas
    /// should hold no number that was drawn before; one that was is not given again, but costs the item another try.
    ///
    /// # Errors
    /// [`Error::NotPermitted`], [`Error::ChangedMeanwhile`], [`Error::Store`].
    pub async fn set_number_range(&self, kind: CardKind, range: NumberRange, actor: &Actor) -> Result<(), Error> {
        let act = self.permit(SET_OPTIONS, actor).await?;
        let key = numbers_key(kind);
        for _ in 0..TRIES {
            let (mut record, _) = self.record::<Option<NumberRange>>(&key).await?;
            let from = (record.history.length > 0).then_some("in force");
            let stamp = self.stamp(actor, &act, None);
            let object = ObjectId::Record(key.clone());
            let entry = record.history.append(object, from, "in force", &stamp, Why::code("range_set"));
            record.value = to_value(&key, &range)?;
            let mut changes = ChangeSet::new();
            changes.history.push(entry);
            changes.records.push(record);
            if self.commit_record(&changes).await? {
                return Ok(());
            }
        }
        Err(Error::ChangedMeanwhile { what: key })
    }

    /// Puts an earlier version of a script back in force.
    ///
    /// # Errors
    /// [`Error::NoSuchVersion`]; otherwise as [`set_options`](Self::set_options).
    pub async fn restore_options(&self, script: &str, hash: &str, actor: &Actor) -> Result<OptionVersion, Error> {
        let source = self.source(script, hash).await?;
        self.set_options(script, source, actor).await
    }

    /// Adds a process to a slot.
    ///
    /// # Errors
    /// [`Error::Process`] for an unknown name, [`Error::Slot`] if it does not fit there; [`Error::NotPermitted`];
    /// [`Error::Store`].
    pub async fn enable(&self, process: &str, slot: Slot, actor: &Actor) -> Result<(), Error> {
        self.change_slots(process, actor, "enabled", |slots, fits| {
            if fits.contains(&slot) { Ok(slots.insert(slot)) } else { Err(slot) }
        })
        .await
    }

    /// Takes a process out of a slot; out of the last one, it is refused from then on.
    ///
    /// # Errors
    /// As [`enable`](Self::enable).
    pub async fn disable(&self, process: &str, slot: Slot, actor: &Actor) -> Result<(), Error> {
        self.change_slots(process, actor, "disabled", |slots, fits| {
            if fits.contains(&slot) { Ok(slots.remove(&slot)) } else { Err(slot) }
        })
        .await
    }

    async fn change_slots(
        &self,
        process: &str,
        actor: &Actor,
        code: &'static str,
        change: impl Fn(&mut BTreeSet<Slot>, &[Slot]) -> Result<bool, Slot> + Send,
    ) -> Result<(), Error> {
        let definition = self.registry.process(process)?.definition();
        let act = self.permit(ENABLE_PROCESS, actor).await?;
        for _ in 0..TRIES {
            let (mut record, mut held) = self.record::<Slots>(Slots::KEY).await?;
            let mut slots = held.of(definition);
            let changed = change(&mut slots, &definition.slots).map_err(|slot| Error::Slot {
                process: definition.name.clone(),
                slot,
                allowed: list(&definition.slots),
            })?;
            if !changed {
                return Ok(());
            }
            held.0.insert(definition.name.clone(), slots);
            let stamp = self.stamp(actor, &act, None);
            let from = (record.version > 0).then_some("in force");
            let object = ObjectId::Record(record.key.clone());
            let why = Why::code(code).about(definition.name.as_str());
            let entry = record.history.append(object, from, "in force", &stamp, why);
            record.value = to_value(&record.key, &held)?;
            let mut changes = ChangeSet::new();
            changes.history.push(entry);
            changes.records.push(record);
            if self.commit_record(&changes).await? {
                return Ok(());
            }
        }
        Err(Error::ChangedMeanwhile { what: Slots::KEY.to_owned() })
    }

    pub(super) async fn slots(&self) -> Result<Slots, Error> {
        Ok(self.record::<Slots>(Slots::KEY).await?.1)
    }

    /// The options of these versions for a process, by script; scripts that are not named are as they are in force now.
    ///
    /// A script that does not load concerns the processes only that read one of its options.
    pub(super) async fn options_for(
        &self,
        definition: &ProcessDefinition,
        hashes: &BTreeMap<String, String>,
    ) -> Result<Options, Error> {
        let options = self.options_at(hashes).await?;
        let names: Vec<_> = definition.options.iter().map(SymbolicName::as_str).collect();
        let Some(broken) = options.broken_among(&names) else { return Ok(options) };
        // What a run names and nobody has ever put in force is the run's own fault.
        if hashes.contains_key(broken.script())
            && let Err(error @ Error::NoSuchVersion { .. }) = self.script_at(broken.script(), broken.hash()).await
        {
            return Err(error);
        }
        Err(Error::BrokenScript {
            process: definition.name.clone(),
            script: broken.script().to_owned(),
            version: broken.hash().to_owned(),
            source: broken.problems().clone(),
        })
    }

    /// The keys of the office's own records that have a history.
    pub(super) fn office_records(&self) -> impl Iterator<Item = String> {
        let own = [Slots::KEY, OPTION_CHANGES].map(str::to_owned);
        own.into_iter().chain(self.catalogue.scripts().map(versions_key))
    }

    async fn options_at(&self, hashes: &BTreeMap<String, String>) -> Result<Options, Error> {
        let keys: Vec<String> = self.catalogue.scripts().map(versions_key).collect();
        let records = self.repository.records(&keys).await.during("reading options")?;
        let (mut sound, mut broken) = (Vec::new(), Vec::new());
        for (script, (shipped, _)) in &self.shipped {
            let key = versions_key(script);
            let in_force = match records.iter().find(|record| record.key == key) {
                Some(record) => read::<Versions>(record)?.versions.pop().map(|version| version.hash),
                None => None,
            };
            let wanted = match hashes.get(script).cloned().or(in_force) {
                Some(hash) if hash != shipped.hash() => hash,
                _ => {
                    sound.push(shipped.clone());
                    continue;
                }
            };
            let problems = match self.script_at(script, &wanted).await {
                Ok(options) => {
                    sound.push(options);
                    continue;
                }
                Err(Error::Options(problems)) => problems,
                Err(error @ (Error::NoSuchVersion { .. } | Error::Record { .. })) => {
                    OptionProblem::new(script, ProblemKind::Unreadable).found(with_causes(&error)).into()
                }
                Err(error) => return Err(error),
            };
            broken.push(BrokenScript::new(script, &wanted, problems, shipped.clone()));
        }
        let shipped = |script: &str| self.shipped.get(script).map(|(shipped, _)| shipped.clone());
        Ok(Options::stored(&self.defaults, sound, broken, shipped))
    }

    async fn script_at(&self, script: &str, hash: &str) -> Result<ScriptOptions, Error> {
        let key = (script.to_owned(), hash.to_owned());
        if let Some(loaded) = self.loaded().get(&key) {
            return Ok(loaded.clone());
        }
        let source = self.source(script, hash).await?;
        let loaded = load(&self.catalogue, script, &source, &Limits::default())?;
        self.loaded().insert(key, loaded.clone());
        Ok(loaded)
    }

    async fn source(&self, script: &str, hash: &str) -> Result<OptionSource, Error> {
        let key = source_key(script, hash);
        let stored = self.repository.records(std::slice::from_ref(&key)).await.during("reading options")?;
        match stored.first() {
            Some(record) => read(record),
            None => {
                if let Some((_, source)) = self.shipped.get(script).filter(|(shipped, _)| shipped.hash() == hash) {
                    return Ok(source.clone());
                }
                let versions = self.option_versions(script).await?.into_iter().map(|version| version.hash);
                let shipped = self.shipped_version(script).map(|hash| format!("{hash} (as shipped)"));
                let mut seen = BTreeSet::new();
                let known: Vec<_> = versions.chain(shipped).filter(|hash| seen.insert(hash.clone())).collect();
                Err(Error::NoSuchVersion {
                    script: script.to_owned(),
                    version: hash.to_owned(),
                    known: if known.is_empty() { "none".to_owned() } else { known.join(", ") },
                })
            }
        }
    }

    pub(super) async fn permit(&self, act: &'static str, actor: &Actor) -> Result<SymbolicName, Error> {
        let act = crate::process::known_name(act);
        match self.may_start(actor, &act).await {
            Decision::Yes => Ok(act),
            Decision::No { reason } => Err(Error::NotPermitted { actor: actor.id.clone(), process: act, reason }),
        }
    }

    /// A record and what it holds; a new one with the default if it is not stored yet.
    pub(super) async fn record<T>(&self, key: &str) -> Result<(Record, T), Error>
    where
        T: Default + for<'de> Deserialize<'de>,
    {
        let key = key.to_owned();
        let mut records = self.repository.records(std::slice::from_ref(&key)).await.during("reading a record")?;
        match records.pop() {
            Some(record) => {
                let held = read(&record)?;
                Ok((record, held))
            }
            None => Ok((Record::new(key, Value::Null), T::default())),
        }
    }

    /// Stores; false if others were first, or perhaps ourselves: the caller looks again.
    pub(super) async fn commit_record(&self, changes: &ChangeSet) -> Result<bool, Error> {
        match self.commit_again(changes).await.0 {
            Ok(()) => Ok(true),
            Err(CommitError::Conflicts(_)) => Ok(false),
            Err(CommitError::Store(source)) => Err(Error::Store { during: "storing a record", source }),
        }
    }

    /// Commits, and again while the outcome is unknown: should the first one be stored, its versions and reservations refuse the
    /// second. Whether the outcome was unknown goes with it: then a conflict may be with ourselves. Nothing but success or a
    /// conflict makes it known.
    pub(super) async fn commit_again(&self, changes: &ChangeSet) -> (Result<(), CommitError>, bool) {
        let mut unknown = None;
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match self.repository.commit(changes).await {
                Err(CommitError::Store(error)) => error,
                known => return (known, unknown.is_some()),
            };
            if unknown.is_none() && !matches!(error, crate::host::RepositoryError::OutcomeUnknown { .. }) {
                return (Err(CommitError::Store(error)), false);
            }
            let first = unknown.take().unwrap_or(error);
            if tries >= COMMITS_OF_UNKNOWN {
                return (Err(CommitError::Store(first)), true);
            }
            unknown = Some(first);
            self.clock.sleep(std::time::Duration::from_millis(50 << tries)).await;
        }
    }
}

pub(super) fn read<T: for<'de> Deserialize<'de>>(record: &Record) -> Result<T, Error> {
    T::deserialize(&record.value).map_err(|source| Error::Record { key: record.key.clone(), source })
}

pub(super) fn to_value<T: Serialize>(key: &str, held: &T) -> Result<Value, Error> {
    serde_json::to_value(held).map_err(|source| Error::Record { key: key.to_owned(), source })
}
