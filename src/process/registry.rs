use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{Process, ProcessDefinition, cards, external_production, temporary_cards};
use crate::actor::Role;
use crate::host::JobPerformer;
use crate::id::SymbolicName;
use crate::options::{Contradiction, OptionSpec};

/// A set of processes that come together, with their options and the performers of their own jobs.
#[derive(Default)]
pub struct ProcessPackage {
    pub(crate) processes: Vec<Arc<dyn Process>>,
    pub(crate) script: Option<OptionScript>,
    pub(crate) performers: Vec<(SymbolicName, Arc<dyn JobPerformer>)>,
}

impl ProcessPackage {
    /// An empty package.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with one more process.
    #[must_use]
    pub fn process(mut self, process: impl Process) -> Self {
        self.processes.push(Arc::new(process));
        self
    }

    /// The same with an option script of its own.
    #[must_use]
    pub fn options(self, script: OptionScript) -> Self {
        Self { script: Some(script), ..self }
    }

    /// The same with a performer of its own jobs, under the name that its tasks give.
    #[must_use]
    pub fn performer(mut self, name: SymbolicName, performer: impl JobPerformer) -> Self {
        self.performers.push((name, Arc::new(performer)));
        self
    }
}

impl fmt::Debug for ProcessPackage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |processes: &[Arc<dyn Process>]| -> Vec<SymbolicName> {
            processes.iter().map(|process| process.definition().name.clone()).collect()
        };
        f.debug_struct("ProcessPackage").field("processes", &names(&self.processes)).finish_non_exhaustive()
    }
}

/// The options of a package: what may be set, and the script that ships with it.
#[derive(Clone, Debug)]
pub struct OptionScript {
    /// The name of the script.
    pub name: SymbolicName,
    /// What may be set in it.
    pub specs: Vec<OptionSpec>,
    /// What may not be set together.
    pub contradictions: Vec<Contradiction>,
    /// The script as shipped; `None`: the defaults of the specs.
    pub text: Option<String>,
}

impl OptionScript {
    /// Options without contradictions, with the defaults of the specs.
    pub fn new(name: SymbolicName, specs: impl IntoIterator<Item = OptionSpec>) -> Self {
        Self { name, specs: specs.into_iter().collect(), contradictions: Vec::new(), text: None }
    }

    /// The same with a script that ships with the package.
    #[must_use]
    pub fn shipped(self, text: impl Into<String>) -> Self {
        Self { text: Some(text.into()), ..self }
    }
}

/// The processes that an engine knows, by symbolic name.
#[derive(Clone, Default)]
pub struct ProcessRegistry {
    processes: BTreeMap<SymbolicName, Arc<dyn Process>>,
}

impl ProcessRegistry {
    /// A registry without processes.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The processes that come with the library.
    pub fn standard() -> Self {
        let mut registry = Self::empty();
        for process in standard_processes() {
            registry.processes.insert(process.definition().name.clone(), process);
        }
        registry
    }

    /// Adds a process.
    ///
    /// # Errors
    /// [`RegistryError::NameTaken`] if its symbolic name is taken: a name means one process.
    pub fn add(&mut self, process: Arc<dyn Process>) -> Result<(), RegistryError> {
        let name = process.definition().name.clone();
        if let Some(taken) = self.processes.get(&name) {
            return Err(RegistryError::NameTaken { package: taken.definition().package.clone(), name });
        }
        self.processes.insert(name, process);
        Ok(())
    }

    /// The process with this symbolic name.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`] with the known name that may be meant: the same but for case, the only one that ends so, or else the nearest.
    pub fn process(&self, name: &str) -> Result<&Arc<dyn Process>, RegistryError> {
        self.processes.get(name).ok_or_else(|| {
            let name: String = name.chars().take(100).collect();
            let nearest = self.nearest(&name).cloned();
            RegistryError::Unknown { name, nearest }
        })
    }

    fn nearest(&self, name: &str) -> Option<&SymbolicName> {
        let known = || self.processes.keys();
        if let Some(same) = known().find(|known| known.as_str().eq_ignore_ascii_case(name)) {
            return Some(same);
        }
        let lower = name.to_ascii_lowercase();
        let mut ending = known().filter(|known| known.as_str().to_ascii_lowercase().ends_with(&lower));
        if let (false, Some(only), None) = (name.is_empty(), ending.next(), ending.next()) {
            return Some(only);
        }
        known()
            .map(|known| (strsim::jaro_winkler(known.as_str(), name), known))
            .filter(|(likeness, _)| *likeness > 0.8)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, known)| known)
    }

    /// All definitions, by symbolic name.
    pub fn definitions(&self) -> impl Iterator<Item = &ProcessDefinition> {
        self.processes.values().map(|process| process.definition())
    }
}

impl fmt::Debug for ProcessRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.processes.keys()).finish()
    }
}

/// A name that cannot be used for a process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The name belongs to another process.
    #[error("{name} is taken by a process of package {package:?}")]
    NameTaken {
        /// The name.
        name: SymbolicName,
        /// The package of the process that has it.
        package: String,
    },
    /// No process has this name.
    #[error("`{name}`: no such process{}", nearest.as_ref().map_or(String::new(), |n| format!("; did you mean {n:?}?")))]
    Unknown {
        /// The name that was asked for, at most 100 characters of it.
        name: String,
        /// The nearest known name.
        nearest: Option<SymbolicName>,
    },
    /// A worker was to run a process that is not offered to the background service.
    #[error("{name} is not offered to the background service on a schedule: people start it")]
    NotBackground {
        /// The process.
        name: SymbolicName,
    },
}

fn standard_processes() -> Vec<Arc<dyn Process>> {
    vec![
        Arc::new(external_production::OrderMultiple::new()),
        Arc::new(external_production::Abort::permanent()),
        Arc::new(external_production::Abort::temporary()),
        Arc::new(external_production::Update::permanent()),
        Arc::new(external_production::Update::temporary()),
        Arc::new(external_production::RepeatOrder::new()),
        Arc::new(external_production::Sync::orders()),
        Arc::new(external_production::Sync::statuses()),
        Arc::new(temporary_cards::Order::new()),
        Arc::new(cards::Approval::new()),
        Arc::new(cards::AbortRequest::new()),
        Arc::new(cards::AbortApproved::new()),
        Arc::new(cards::RequestMultiple::new()),
        Arc::new(cards::Produce::issue_multiple()),
        Arc::new(cards::Produce::repeat()),
        Arc::new(cards::Activate::new()),
        Arc::new(cards::Lock::new()),
        Arc::new(cards::SyncOrphans::new()),
        Arc::new(external_production::Sync::productions()),
        Arc::new(cards::ResolveDoubt::new()),
    ]
}

/// Who usually runs which process, and the two acts of the administrator.
pub(crate) fn standard_roles() -> Vec<(SymbolicName, Vec<Role>)> {
    let acts = [crate::engine::SET_OPTIONS, crate::engine::ENABLE_PROCESS];
    standard_processes()
        .iter()
        .map(|process| (process.definition().name.clone(), process.definition().roles.clone()))
        .chain(acts.into_iter().filter_map(|act| Some((SymbolicName::new(act).ok()?, vec![Role::Administrator]))))
        .collect()
}
