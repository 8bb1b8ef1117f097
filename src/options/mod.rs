//! Options: what an administrator sets, checked when it is loaded, read by processes through typed keys.
//!
//! An [`OptionCatalogue`] says which options exist. [`load`] checks an [`OptionSource`], which is the text of a script or a set of typed values, and
//! reports all problems at once. [`Options`] holds what is in force; it never changes, so a failed load leaves the last good one as it is.
//!
//! ```
//! use cardwright::options::{load, Limits, OptionCatalogue, OptionSource, OptionValue, Options, Subject, QUEUE_CARDS};
//! use std::collections::BTreeMap;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let catalogue = OptionCatalogue::standard();
//! let source = OptionSource::Values(BTreeMap::from([(QUEUE_CARDS.name().to_owned(), OptionValue::Boolean(false))]));
//! let loaded = load(&catalogue, "CardsAddonExtProdScriptOptions", &source, &Limits::default())?;
//! let options = Options::defaults(&catalogue).with(loaded)?;
//!
//! let resolved = options.resolve(&[QUEUE_CARDS.name()], &Subject::default())?;
//! assert!(!resolved.get(QUEUE_CARDS)?);
//! # Ok(())
//! # }
//! ```
//!
//! # Value functions
//! A script may set an option to a function of `card` and `user`. It is called once per item and sees only these two. What it leaves behind in a
//! local variable of the script may be gone at the next call, so its result should depend on its arguments alone.
//!
//! Functions run on a thread that belongs to the script, one call at a time; the thread and its memory are given back after 30 s without calls. A call
//! costs about 10 µs, most of it for the way there and back.

//!
//! # The scripts as shipped
//! With the feature `scripting`, this is what [`Engine::option_source`](crate::Engine::option_source) gives for the version that
//! [`Engine::shipped_version`](crate::Engine::shipped_version) names. Each script of a package of a host's own has a text of the same shape.
//!
//! ## CardsScriptOptions
//! ```lua
#![doc = include_str!("defaults/CardsScriptOptions.lua")]
//! ```
//!
//! ## CardsAddonExtProdScriptOptions
//! ```lua
#![doc = include_str!("defaults/CardsAddonExtProdScriptOptions.lua")]
//! ```
//!
//! ## TempCardsAddonExtProdScriptOptions
//! ```lua
#![doc = include_str!("defaults/TempCardsAddonExtProdScriptOptions.lua")]
//! ```

mod keys;
mod problem;
#[cfg_attr(not(feature = "scripting"), path = "unsupported.rs")]
mod script;
mod spec;

pub use keys::{
    CARD_END_STATE, CERTIFICATE_END_STATE, CERTIFICATES, CardEndState, CertificateChoice, CertificateEndState,
    MULTIPLE_ACTIVE, MULTIPLE_CARDS, ORDER_APPROVAL, ORDER_PRODUCTION_TYPE, OptionKey, OptionType, PIN_DELIVERY,
    PIN_LENGTH, PUK_DELIVERY, PUK_LENGTH, PinDelivery, PukDelivery, QUEUE_CARDS, QUEUE_TEMPORARY_CARDS,
    REQUEST_APPROVAL, SEND_ORDERED_EMAIL, TEMPORARY_PRODUCTION_TYPE, VALIDITY_DAYS,
};
pub use problem::{OptionProblem, OptionProblems, ProblemKind};
pub use spec::{Allowed, Contradiction, ContradictionSide, OptionCatalogue, OptionSpec, OptionValue};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use spec::Raw;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What one script, or a set of typed values in its place, sets. Options left out keep their defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptionSource {
    /// The text of a script; needs the feature `scripting`.
    Script(String),
    /// Values by option name.
    Values(BTreeMap<String, OptionValue>),
}

impl OptionSource {
    /// The SHA-256 of the content in lower-case hexadecimal digits; equal sources have equal hashes.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut digest = Sha256::new();
        match self {
            Self::Script(text) => {
                digest.update(b"script\0");
                digest.update(text);
            }
            Self::Values(values) => {
                digest.update(b"values\0");
                for (name, value) in values {
                    digest.update(format!("{name} = {value:?}\n"));
                }
            }
        }
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// How much a script may use: when it is loaded, and again at each call of a value function.
///
/// The counts and sizes give the same result on every machine. The wall clock is a backstop for single steps that take long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Limits {
    /// How many loop iterations, calls and pattern-matching steps.
    pub interrupts: u64,
    /// Bytes of memory beyond what the libraries and the item itself take.
    pub memory_bytes: usize,
    /// Wall-clock time.
    pub wall: Duration,
    /// Greatest length of a script in bytes.
    pub script_bytes: usize,
}

impl Limits {
    /// Limits with the given counts; the greatest length of a script is 64 KiB.
    #[must_use]
    pub fn new(interrupts: u64, memory_bytes: usize, wall: Duration) -> Self {
        Self { interrupts, memory_bytes, wall, script_bytes: 64 * 1024 }
    }
}

impl Default for Limits {
    /// 200,000 interrupts, 2 MiB of memory, one second, 64 KiB of script.
    fn default() -> Self {
        Self::new(200_000, 2 * 1024 * 1024, Duration::from_secs(1))
    }
}

/// What a value function is called with: `function(card, user)`. What is absent is `nil`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Subject<'a> {
    /// The attributes of the card by name.
    pub card: Option<&'a BTreeMap<String, String>>,
    /// The attributes of the user by name.
    pub user: Option<&'a BTreeMap<String, String>>,
}

impl<'a> Subject<'a> {
    /// A subject of a card and a user, either of which may be absent.
    #[must_use]
    pub fn new(card: Option<&'a BTreeMap<String, String>>, user: Option<&'a BTreeMap<String, String>>) -> Self {
        Self { card, user }
    }
}

/// What a source sets a name to.
struct Assignment {
    name: String,
    line: Option<u32>,
    value: Assigned,
}

enum Assigned {
    Value(Raw),
    #[cfg_attr(not(feature = "scripting"), expect(dead_code, reason = "only scripts have functions"))]
    Function,
}

/// Checks a source against the catalogue.
///
/// A script runs once, under the limits, with nothing but harmless library functions in reach. Options that it leaves out have their defaults.
///
/// # Errors
/// All problems of the source at once: syntax, failure, forbidden or unknown names, options set twice, wrong types, values out of range,
/// contradictory values within the script, a limit reached. In a build without the feature `scripting`, a script is
/// [`ProblemKind::Unsupported`].
pub fn load(
    catalogue: &OptionCatalogue,
    script: &str,
    source: &OptionSource,
    limits: &Limits,
) -> Result<ScriptOptions, OptionProblems> {
    let specs = catalogue.script_specs(script).ok_or_else(|| catalogue.unknown_script(script))?;
    let (assignments, mut problems, program) = match source {
        OptionSource::Script(text) => {
            let known: Arc<[_]> = specs.iter().map(|spec| (spec.name.clone(), spec.default.clone())).collect();
            let loaded = script::load(script, text, known, limits);
            (loaded.assignments, loaded.problems, loaded.program)
        }
        OptionSource::Values(values) => {
            let assignment = |(name, value): (&String, &OptionValue)| Assignment {
                name: name.clone(),
                line: None,
                value: Assigned::Value(Raw::from(value)),
            };
            (values.iter().map(assignment).collect(), Vec::new(), None)
        }
    };

    let mut settings: BTreeMap<String, Setting> = specs
        .iter()
        .map(|spec| (spec.name.clone(), Setting { line: None, value: SettingValue::Fixed(spec.default.clone()) }))
        .collect();
    for Assignment { name, line, value } in assignments {
        let spec = catalogue.spec(&name).filter(|spec| spec.script == script);
        let (Some(spec), Some(setting)) = (spec, settings.get_mut(&name)) else {
            problems.push(catalogue.unknown_option(script, &name).at(line));
            continue;
        };
        setting.line = line;
        match value {
            Assigned::Function => setting.value = SettingValue::Function,
            Assigned::Value(raw) => match spec.check_raw(&raw, line) {
                Ok(value) => setting.value = SettingValue::Fixed(value),
                // A name that could not be read gave this value; it is reported already.
                Err(_)
                    if raw == Raw::Nil
                        && problems.iter().any(|problem| problem.line.is_some() && problem.line == line) => {}
                Err(problem) => problems.push(problem),
            },
        }
    }
    for contradiction in catalogue.contradictions() {
        let value = |name: &str| settings.get(name).and_then(Setting::fixed);
        let line = |name: &str| settings.get(name).and_then(|setting| setting.line);
        problems.extend(contradiction.check(catalogue, value, line));
    }
    OptionProblems::check(problems)?;
    Ok(ScriptOptions { script: script.to_owned(), hash: source.hash(), settings, program: program.map(Arc::new) })
}

/// The options that would change if a source were put in force, without putting it in force.
///
/// The changes without a subject come first, then those of each given subject. Value functions are called for the subjects only; one that fails is
/// a change to [`OptionState::Problem`].
///
/// # Errors
/// The problems that would keep the source from being loaded, or from being put in force beside the other scripts.
pub fn dry_run(
    current: &Options,
    catalogue: &OptionCatalogue,
    script: &str,
    source: &OptionSource,
    limits: &Limits,
    subjects: &[(String, Subject<'_>)],
) -> Result<Vec<OptionChange>, OptionProblems> {
    let next = current.with(load(catalogue, script, source, limits)?)?;
    Ok(current.changes(&next, subjects))
}

/// The checked options of one script: fixed values and value functions.
#[derive(Debug, Clone)]
pub struct ScriptOptions {
    script: String,
    hash: String,
    settings: BTreeMap<String, Setting>,
    program: Option<Arc<script::Program>>,
}

#[derive(Debug, Clone)]
struct Setting {
    line: Option<u32>,
    value: SettingValue,
}

#[derive(Debug, Clone)]
enum SettingValue {
    Fixed(OptionValue),
    Function,
}

impl Setting {
    fn fixed(&self) -> Option<&OptionValue> {
        match &self.value {
            SettingValue::Fixed(value) => Some(value),
            SettingValue::Function => None,
        }
    }
}

impl ScriptOptions {
    /// The name of the script.
    #[must_use]
    pub fn script(&self) -> &str {
        &self.script
    }

    /// The [hash](OptionSource::hash) of the source.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The names of the options that the source sets to functions, sorted.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        self.settings.iter().filter(|(_, setting)| setting.fixed().is_none()).map(|(name, _)| name.as_str())
    }

    /// The value of an option that is not a function.
    #[must_use]
    pub fn fixed(&self, name: &str) -> Option<&OptionValue> {
        self.settings.get(name).and_then(Setting::fixed)
    }

    fn call(&self, spec: &OptionSpec, subject: &Subject<'_>) -> Result<OptionValue, OptionProblem> {
        let line = self.settings.get(&spec.name).and_then(|setting| setting.line);
        let Some(program) = &self.program else {
            return Err(OptionProblem::new(&self.script, ProblemKind::NotResolved).option(&spec.name));
        };
        let raw = program.call(&spec.name, subject).map_err(|mut problem| {
            problem.option.get_or_insert_with(|| spec.name.clone());
            problem.line = problem.line.or(line);
            problem
        })?;
        spec.check_raw(&raw, line)
    }
}

/// The options in force: those of all scripts of a catalogue together, except [broken](Self::broken) ones. Never changes; cheap to clone.
#[derive(Debug, Clone)]
pub struct Options(Arc<InForce>);

#[derive(Debug)]
struct InForce {
    catalogue: Arc<OptionCatalogue>,
    scripts: BTreeMap<String, Arc<ScriptOptions>>,
    /// What does not load; not among `scripts`.
    broken: BTreeMap<String, Arc<BrokenScript>>,
    hashes: BTreeMap<String, String>,
    fixed: Arc<BTreeMap<String, OptionValue>>,
    functions: BTreeMap<String, Arc<ScriptOptions>>,
}

impl InForce {
    /// Why these options do not belong to the catalogue.
    fn misfits(&self, options: &ScriptOptions) -> Vec<OptionProblem> {
        let Some(specs) = self.catalogue.script_specs(&options.script) else {
            return vec![self.catalogue.unknown_script(&options.script)];
        };
        let unknown = options.settings.keys().filter(|name| !specs.iter().any(|spec| &spec.name == *name));
        let mut problems: Vec<_> = unknown.map(|name| self.catalogue.unknown_option(&options.script, name)).collect();
        let missing = specs.iter().filter(|spec| !options.settings.contains_key(&spec.name));
        problems.extend(missing.map(|spec| {
            OptionProblem::new(&options.script, ProblemKind::NotResolved)
                .option(&spec.name)
                .found("the script was checked against another catalogue")
        }));
        problems
    }

    /// The pairs of fixed values that exclude each other, each with the scripts of its two sides. Broken scripts count as shipped.
    fn contradictions(&self) -> impl Iterator<Item = ([&str; 2], OptionProblem)> {
        let script = |name: &str| self.catalogue.spec(name).map_or("", |spec| spec.script.as_str());
        let value = |name: &str| {
            self.fixed.get(name).or_else(|| self.broken_script_of(name).and_then(|broken| broken.instead.fixed(name)))
        };
        let line = move |name: &str| self.scripts.get(script(name))?.settings.get(name)?.line;
        self.catalogue.contradictions().iter().filter_map(move |pair| {
            let problem = pair.check(&self.catalogue, value, line)?;
            Some(([script(&pair.first.name), script(&pair.second.name)], problem))
        })
    }

    fn broken_script_of(&self, option: &str) -> Option<&BrokenScript> {
        self.broken.get(&self.catalogue.spec(option)?.script).map(Arc::as_ref)
    }
}

/// A script of which a version is in force that cannot be used: it does not load in this release, or contradicts another script.
#[derive(Debug, Clone)]
pub struct BrokenScript {
    script: String,
    hash: String,
    problems: OptionProblems,
    /// What other scripts are checked against in its place.
    instead: ScriptOptions,
}

impl BrokenScript {
    pub(crate) fn new(script: &str, hash: &str, problems: OptionProblems, instead: ScriptOptions) -> Self {
        Self { script: script.to_owned(), hash: hash.to_owned(), problems, instead }
    }

    /// The name of the script.
    #[must_use]
    pub fn script(&self) -> &str {
        &self.script
    }

    /// The [hash](OptionSource::hash) of the version in force.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// What is wrong with it.
    #[must_use]
    pub fn problems(&self) -> &OptionProblems {
        &self.problems
    }

    /// What reading this option comes to.
    fn problem(&self, option: &str) -> OptionProblem {
        let words = match self.problems.as_slice() {
            [only] => only.to_string(),
            [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
            [] => String::new(),
        };
        OptionProblem::new(&self.script, ProblemKind::Broken).option(option).found(words)
    }
}

impl Options {
    /// All options of the catalogue at their defaults.
    #[must_use]
    pub fn defaults(catalogue: &OptionCatalogue) -> Self {
        let scripts = catalogue.scripts().map(|script| {
            let specs = catalogue.script_specs(script).unwrap_or_default();
            let values: BTreeMap<_, _> = specs.iter().map(|spec| (spec.name.clone(), spec.default.clone())).collect();
            let settings = specs.iter().map(|spec| {
                (spec.name.clone(), Setting { line: None, value: SettingValue::Fixed(spec.default.clone()) })
            });
            let options = ScriptOptions {
                script: script.to_owned(),
                settings: settings.collect(),
                program: None,
                hash: OptionSource::Values(values).hash(),
            };
            (script.to_owned(), Arc::new(options))
        });
        Self::assembled(Arc::new(catalogue.clone()), scripts.collect(), BTreeMap::new())
    }

    /// The options of these scripts together; scripts that are not among them are at their defaults.
    ///
    /// Values that exclude each other are looked for once, when all scripts are in their places: in which order they are given makes no difference.
    ///
    /// # Errors
    /// A script does not belong to the catalogue, or fixed values of two scripts contradict each other.
    pub fn of(
        catalogue: &OptionCatalogue,
        scripts: impl IntoIterator<Item = ScriptOptions>,
    ) -> Result<Self, OptionProblems> {
        let defaults = Self::defaults(catalogue);
        let mut all = defaults.0.scripts.clone();
        let mut problems = Vec::new();
        for options in scripts {
            problems.extend(defaults.0.misfits(&options));
            all.insert(options.script.clone(), Arc::new(options));
        }
        OptionProblems::check(problems)?;
        let together = Self::assembled(Arc::clone(&defaults.0.catalogue), all, BTreeMap::new());
        OptionProblems::check(together.0.contradictions().map(|(_, problem)| problem).collect())?;
        Ok(together)
    }

    /// What is stored as being in force, some of which may not load in this release. Scripts that load but contradict each other count as broken
    /// too, both of them. What is not stored is as in `defaults`.
    pub(crate) fn stored(
        defaults: &Self,
        scripts: impl IntoIterator<Item = ScriptOptions>,
        broken: impl IntoIterator<Item = BrokenScript>,
        shipped: impl Fn(&str) -> Option<ScriptOptions>,
    ) -> Self {
        let mut sound = defaults.0.scripts.clone();
        sound.extend(scripts.into_iter().map(|options| (options.script.clone(), Arc::new(options))));
        let mut broken: BTreeMap<_, _> =
            broken.into_iter().map(|broken| (broken.script.clone(), Arc::new(broken))).collect();
        sound.retain(|script, _| !broken.contains_key(script));
        let catalogue = Arc::clone(&defaults.0.catalogue);
        let together = Self::assembled(Arc::clone(&catalogue), sound.clone(), BTreeMap::new());
        let mut contradictory = BTreeMap::<String, Vec<OptionProblem>>::new();
        for (scripts, problem) in together.0.contradictions() {
            for script in scripts {
                contradictory.entry(script.to_owned()).or_default().push(problem.clone());
            }
        }
        if broken.is_empty() && contradictory.is_empty() {
            return together;
        }
        for (script, problems) in contradictory {
            if let Some(options) = sound.remove(&script) {
                let instead = shipped(&script).unwrap_or_else(|| options.as_ref().clone());
                let problems = OptionProblems::all(problems);
                let hash = options.hash.clone();
                broken.insert(script.clone(), Arc::new(BrokenScript { script, hash, problems, instead }));
            }
        }
        Self::assembled(catalogue, sound, broken)
    }

    /// These options with those of one script replaced. It does not matter whether those that it replaces were [broken](Self::broken).
    ///
    /// # Errors
    /// The script does not belong to the catalogue of these options, or its fixed values contradict those of another script. A broken script counts
    /// as it was shipped.
    pub fn with(&self, options: ScriptOptions) -> Result<Self, OptionProblems> {
        OptionProblems::check(self.0.misfits(&options))?;
        let script = options.script.clone();
        let mut scripts = self.0.scripts.clone();
        scripts.insert(script.clone(), Arc::new(options));
        let mut broken = self.0.broken.clone();
        broken.remove(&script);
        let next = Self::assembled(Arc::clone(&self.0.catalogue), scripts, broken);
        let concerned = next.0.contradictions().filter(|(scripts, _)| scripts.contains(&script.as_str()));
        OptionProblems::check(concerned.map(|(_, problem)| problem).collect())?;
        Ok(next)
    }

    /// The scripts of which something is in force that does not load in this release, or that contradicts another script. Their options cannot be
    /// resolved; all others can.
    pub fn broken(&self) -> impl Iterator<Item = &BrokenScript> {
        self.0.broken.values().map(Arc::as_ref)
    }

    /// The broken script that one of these options belongs to, if there is one.
    #[must_use]
    pub fn broken_among(&self, names: &[&str]) -> Option<&BrokenScript> {
        names.iter().find_map(|name| self.0.broken_script_of(name))
    }

    /// The [hash](OptionSource::hash) of what is in force for each script, by script name. Where nothing was loaded, it is that of the defaults as
    /// typed values.
    #[must_use]
    pub fn hashes(&self) -> &BTreeMap<String, String> {
        &self.0.hashes
    }

    /// The options of one script.
    #[must_use]
    pub fn script(&self, script: &str) -> Option<&ScriptOptions> {
        self.0.scripts.get(script).map(Arc::as_ref)
    }

    /// Whether one of these options is a function, so that its value depends on the item.
    #[must_use]
    pub fn has_functions(&self, names: &[&str]) -> bool {
        !self.0.functions.is_empty() && names.iter().any(|name| self.0.functions.contains_key(*name))
    }

    /// The values of these options for an item. Fixed values are shared and cost nothing; each function is called once.
    ///
    /// # Errors
    /// An unknown name, a function that fails or returns a value that is not allowed, or values that contradict each other: the error concerns this
    /// item only, and the next call starts afresh. An option of a [broken](Self::broken) script: [`ProblemKind::Broken`].
    pub fn resolve(&self, names: &[&str], subject: &Subject<'_>) -> Result<ResolvedOptions, OptionProblem> {
        let mut own = BTreeMap::new();
        for &name in names {
            if self.0.fixed.contains_key(name) || own.contains_key(name) {
                continue;
            }
            own.insert(name.to_owned(), self.value(name, subject)?);
        }
        let fixed = Arc::clone(&self.0.fixed);
        if own.is_empty() {
            return Ok(ResolvedOptions { fixed, own: None });
        }
        let resolved = ResolvedOptions { fixed, own: Some(Arc::new(own)) };
        let line = |name: &str| self.0.functions.get(name)?.settings.get(name)?.line;
        for contradiction in self.0.catalogue.contradictions() {
            // A pair whose other half is not asked for is not in force for this item as far as the caller can see.
            if let Some(problem) = contradiction.check(&self.0.catalogue, |name| resolved.value(name), line) {
                return Err(problem);
            }
        }
        Ok(resolved)
    }

    /// What would change if `other` took the place of these options: first the options themselves, then the value of each for each subject.
    ///
    /// A subject is only listed for options that are a function before or after. Two functions of different scripts count as a change,
    /// because they cannot be compared other than for subjects.
    #[must_use]
    pub fn changes(&self, other: &Self, subjects: &[(String, Subject<'_>)]) -> Vec<OptionChange> {
        let names: BTreeSet<&str> = [self, other].iter().flat_map(|options| options.names()).collect();
        let changed = |name: &&str| self.state(name) != other.state(name);
        let changed: Vec<&str> = names.into_iter().filter(changed).collect();
        let mut changes: Vec<OptionChange> = changed
            .iter()
            .map(|name| OptionChange {
                option: (*name).to_owned(),
                subject: None,
                old: self.state(name),
                new: other.state(name),
            })
            .collect();
        for (label, subject) in subjects {
            for name in &changed {
                if !self.has_functions(&[name]) && !other.has_functions(&[name]) {
                    continue;
                }
                let (old, new) = (self.state_for(name, subject), other.state_for(name, subject));
                if old != new {
                    changes.push(OptionChange { option: (*name).to_owned(), subject: Some(label.clone()), old, new });
                }
            }
        }
        changes
    }

    fn assembled(
        catalogue: Arc<OptionCatalogue>,
        scripts: BTreeMap<String, Arc<ScriptOptions>>,
        broken: BTreeMap<String, Arc<BrokenScript>>,
    ) -> Self {
        let sound = scripts.iter().map(|(name, options)| (name.clone(), options.hash.clone()));
        let hashes = sound.chain(broken.iter().map(|(name, broken)| (name.clone(), broken.hash.clone()))).collect();
        let mut fixed = BTreeMap::new();
        let mut functions = BTreeMap::new();
        for options in scripts.values() {
            for (name, setting) in &options.settings {
                match &setting.value {
                    SettingValue::Fixed(value) => {
                        fixed.insert(name.clone(), value.clone());
                    }
                    SettingValue::Function => {
                        functions.insert(name.clone(), Arc::clone(options));
                    }
                }
            }
        }
        Self(Arc::new(InForce { catalogue, scripts, broken, hashes, fixed: Arc::new(fixed), functions }))
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let broken = self.0.broken.keys().filter_map(|script| self.0.catalogue.script_specs(script)).flatten();
        let sound = self.0.fixed.keys().chain(self.0.functions.keys()).map(String::as_str);
        sound.chain(broken.map(|spec| spec.name.as_str()))
    }

    fn value(&self, name: &str, subject: &Subject<'_>) -> Result<OptionValue, OptionProblem> {
        let spec = self.0.catalogue.spec(name);
        if let (Some(spec), Some(options)) = (spec, self.0.functions.get(name)) {
            return options.call(spec, subject);
        }
        if let Some(broken) = self.0.broken_script_of(name) {
            return Err(broken.problem(name));
        }
        self.0.fixed.get(name).cloned().ok_or_else(|| self.0.catalogue.unknown_option("", name))
    }

    fn state(&self, name: &str) -> OptionState {
        match (self.0.fixed.get(name), self.0.functions.get(name)) {
            (Some(value), _) => OptionState::Value(value.clone()),
            (None, Some(options)) => OptionState::Function { script_hash: options.hash.clone() },
            (None, None) => match self.0.broken_script_of(name) {
                Some(broken) => OptionState::Problem(Box::new(broken.problem(name))),
                None => OptionState::Absent,
            },
        }
    }

    fn state_for(&self, name: &str, subject: &Subject<'_>) -> OptionState {
        match self.resolve(&[name], subject) {
            Ok(resolved) => resolved.value(name).map_or(OptionState::Absent, |value| OptionState::Value(value.clone())),
            Err(problem) => OptionState::Problem(Box::new(problem)),
        }
    }
}

/// The values of options for one item. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedOptions {
    fixed: Arc<BTreeMap<String, OptionValue>>,
    own: Option<Arc<BTreeMap<String, OptionValue>>>,
}

impl ResolvedOptions {
    /// The value of an option as the type of its key.
    ///
    /// # Errors
    /// [`ProblemKind::NotResolved`] if the option is a function and was not among the resolved names, if there is no such option, or if it cannot be
    /// read as this type. None of this happens for the keys of this library when their names were resolved.
    pub fn get<T: OptionType>(&self, key: OptionKey<T>) -> Result<T, OptionProblem> {
        let value = self.value(key.name());
        value.and_then(T::from_value).ok_or_else(|| {
            let problem = OptionProblem::new("", ProblemKind::NotResolved).option(key.name());
            match value {
                Some(value) => problem.found(format!("{value} is not a {}", std::any::type_name::<T>())),
                None => problem,
            }
        })
    }

    /// The value of an option by its name; `None` if it is unknown, or a function that was not among the resolved names.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&OptionValue> {
        self.own.as_deref().and_then(|own| own.get(name)).or_else(|| self.fixed.get(name))
    }

    /// Whether both share the same values in memory, which is so for all items when no function is involved.
    #[must_use]
    pub fn is_shared_with(&self, other: &Self) -> bool {
        self.own.is_none() && other.own.is_none() && Arc::ptr_eq(&self.fixed, &other.fixed)
    }
}

/// One difference between two sets of options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OptionChange {
    /// The name of the option.
    pub option: String,
    /// The label of the subject for which it changes; `None` for the option itself.
    pub subject: Option<String>,
    /// What it is now.
    pub old: OptionState,
    /// What it would be.
    pub new: OptionState,
}

impl fmt::Display for OptionChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.option)?;
        if let Some(subject) = &self.subject {
            write!(f, " for {subject}")?;
        }
        write!(f, ": {} → {}", self.old, self.new)
    }
}

/// What an option is, in general or for a subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OptionState {
    /// It has this value.
    Value(OptionValue),
    /// It is a function of the script with this hash.
    Function {
        /// The hash of the script.
        script_hash: String,
    },
    /// Its function fails for this subject, or its script is broken.
    Problem(Box<OptionProblem>),
    /// There is no such option.
    Absent,
}

impl fmt::Display for OptionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => value.fmt(f),
            Self::Function { script_hash } => {
                write!(f, "a function (script {})", script_hash.get(..8).unwrap_or(script_hash))
            }
            Self::Problem(problem) => write!(f, "problem: {problem}"),
            Self::Absent => f.write_str("absent"),
        }
    }
}
