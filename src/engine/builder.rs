use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Engine;
use crate::card::{Card, CardKind};
use crate::card_number::NumberRange;
use crate::history::ChainKey;
use crate::host::{
    AccessPolicy, CardPersonalizer, CardRepository, CertificateAuthority, Clock, Entropy, GoCardsProvider, Notifier,
    SystemClock, SystemEntropy, UserRepository,
};
use crate::id::SymbolicName;
use crate::options::{Limits, OptionCatalogue, OptionProblems, OptionSource, Options, ScriptOptions, load};
use crate::process::{Equipment, HouseRules, ProcessPackage, ProcessRegistry, RegistryError};

/// Puts an engine together.
#[derive(Default)]
pub struct EngineBuilder {
    repository: Option<Arc<dyn CardRepository>>,
    users: Option<Arc<dyn UserRepository>>,
    bureau: Option<Arc<dyn GoCardsProvider>>,
    certificate_authority: Option<Arc<dyn CertificateAuthority>>,
    personalizer: Option<Arc<dyn CardPersonalizer>>,
    entropy: Option<Arc<dyn Entropy>>,
    notifier: Option<Arc<dyn Notifier>>,
    access: Option<Arc<dyn AccessPolicy>>,
    clock: Option<Arc<dyn Clock>>,
    packages: Vec<ProcessPackage>,
    rules: HouseRules,
    numbers: BTreeMap<CardKind, NumberRange>,
    key: ChainKey,
    settings: EngineSettings,
    worker: Option<String>,
}

impl EngineBuilder {
    /// Where cards are stored. Needed.
    #[must_use]
    pub fn repository(self, repository: impl CardRepository) -> Self {
        Self { repository: Some(Arc::new(repository)), ..self }
    }

    /// Where users come from. Needed.
    #[must_use]
    pub fn users(self, users: impl UserRepository) -> Self {
        Self { users: Some(Arc::new(users)), ..self }
    }

    /// The bureau. Needed where cards are ordered.
    #[must_use]
    pub fn bureau(self, bureau: impl GoCardsProvider) -> Self {
        Self { bureau: Some(Arc::new(bureau)), ..self }
    }

    /// The certificate authority. Needed where cards with certificates are made. One that makes no keys, such as
    /// [`LocalCa`](crate::adapters::local_ca::LocalCa) without a sealing key, needs a personalizer that does.
    #[must_use]
    pub fn certificate_authority(self, authority: impl CertificateAuthority) -> Self {
        Self { certificate_authority: Some(Arc::new(authority)), ..self }
    }

    /// Who makes cards here. Needed where cards are made locally.
    #[must_use]
    pub fn personalizer(self, personalizer: impl CardPersonalizer) -> Self {
        Self { personalizer: Some(Arc::new(personalizer)), ..self }
    }

    /// Another source of random bytes than the system's secure one: for simulations only.
    #[must_use]
    pub fn entropy(self, entropy: impl Entropy) -> Self {
        Self { entropy: Some(Arc::new(entropy)), ..self }
    }

    /// Who sends messages. Needed.
    #[must_use]
    pub fn notifier(self, notifier: impl Notifier) -> Self {
        Self { notifier: Some(Arc::new(notifier)), ..self }
    }

    /// Who may do what. Needed: access is never silent. [`AllowAll`](crate::host::AllowAll) allows all,
    /// [`RolePolicy`](crate::host::RolePolicy) goes by roles.
    #[must_use]
    pub fn access(self, access: impl AccessPolicy) -> Self {
        Self { access: Some(Arc::new(access)), ..self }
    }

    /// Another clock than that of the machine.
    #[must_use]
    pub fn clock(self, clock: impl Clock) -> Self {
        Self { clock: Some(Arc::new(clock)), ..self }
    }

    /// What the host sets as data: production types, mapping, status texts.
    #[must_use]
    pub fn rules(self, rules: HouseRules) -> Self {
        Self { rules, ..self }
    }

    /// The range that cards of this kind get their numbers from, when the store does not have one yet. Without it, `C` or
    /// `T` and eight digits.
    #[must_use]
    pub fn number_range(mut self, kind: CardKind, range: NumberRange) -> Self {
        self.numbers.insert(kind, range);
        self
    }

    /// A package of processes of the host's own.
    #[must_use]
    pub fn package(mut self, package: ProcessPackage) -> Self {
        self.packages.push(package);
        self
    }

    /// The key that seals the history. Without it the seals show accidents and simple edits only.
    #[must_use]
    pub fn chain_key(self, key: ChainKey) -> Self {
        Self { key, ..self }
    }

    /// Sizes and times.
    #[must_use]
    pub fn settings(self, settings: EngineSettings) -> Self {
        Self { settings, ..self }
    }

    /// The name of this engine when it claims jobs; for people who look at the store.
    #[must_use]
    pub fn worker(self, name: impl Into<String>) -> Self {
        Self { worker: Some(name.into()), ..self }
    }

    /// The engine.
    ///
    /// # Errors
    /// [`BuildError`] if parts are missing, a name is taken, a process fits in no slot or reads an unknown option, a package's option script has
    /// problems, or the mapping from users to cards writes the card's number.
    pub fn build(self) -> Result<Engine, BuildError> {
        let mut registry = ProcessRegistry::standard();
        let mut catalogue = OptionCatalogue::standard();
        let mut performers = BTreeMap::new();
        let mut texts = BTreeMap::new();
        for package in self.packages {
            for process in package.processes {
                registry.add(process)?;
            }
            for (name, performer) in package.performers {
                if performers.contains_key(&name) {
                    return Err(BuildError::PerformerTaken { name });
                }
                performers.insert(name, performer);
            }
            if let Some(script) = package.script {
                catalogue.add(script.name.as_str(), script.specs, script.contradictions)?;
                texts.extend(script.text.map(|text| (script.name.as_str().to_owned(), text)));
            }
        }
        for definition in registry.definitions() {
            if let Some(unknown) = definition.options.iter().find(|name| catalogue.spec(name.as_str()).is_none()) {
                return Err(BuildError::UnknownOption { process: definition.name.clone(), option: unknown.clone() });
            }
        }
        if let Some(definition) = registry.definitions().find(|definition| definition.slots.is_empty()) {
            return Err(BuildError::NoSlot { process: definition.name.clone() });
        }
        if let Some((attribute, _)) =
            self.rules.user_to_card.attributes.iter().find(|(_, to)| to.as_str() == Card::NUMBER)
        {
            return Err(BuildError::MappedOntoNumber { attribute: attribute.clone() });
        }
        let mut shipped = BTreeMap::new();
        for script in catalogue.scripts() {
            let (loaded, source) = match texts.remove(script) {
                Some(text) => {
                    let source = OptionSource::Script(text);
                    (load(&catalogue, script, &source, &Limits::default())?, source)
                }
                None => defaults(&catalogue, script)?,
            };
            shipped.insert(script.to_owned(), (loaded, source));
        }
        Options::of(&catalogue, shipped.values().map(|(options, _)| options.clone()))?;
        let mut numbers = self.numbers;
        let mut rules = self.rules;
        for (kind, prefix) in [(CardKind::Permanent, "C"), (CardKind::Temporary, "T")] {
            let range = match numbers.remove(&kind) {
                Some(range) => range,
                None => NumberRange::new([(1, 99_999_999)]).map_err(BuildError::Numbers)?.prefix(prefix).padding(8),
            };
            rules.longest_number = rules.longest_number.max(range.longest());
            numbers.insert(kind, range);
        }
        rules.equipment = Equipment {
            bureau: self.bureau.is_some(),
            personalizer: self.personalizer.is_some(),
            certificate_authority: self.certificate_authority.is_some(),
        };
        let missing: Vec<_> = [
            ("repository", self.repository.is_none()),
            ("users", self.users.is_none()),
            ("notifier", self.notifier.is_none()),
            ("access", self.access.is_none()),
        ]
        .into_iter()
        .filter_map(|(part, missing)| missing.then_some(part))
        .collect();
        let (Some(repository), Some(users), Some(notifier), Some(access)) =
            (self.repository, self.users, self.notifier, self.access)
        else {
            return Err(BuildError::Missing { parts: missing });
        };
        Ok(Engine {
            certificate_authority: self.certificate_authority,
            personalizer: self.personalizer,
            entropy: self.entropy.unwrap_or_else(|| Arc::new(SystemEntropy)),
            repository,
            users,
            bureau: self.bureau,
            notifier,
            access,
            clock: self.clock.unwrap_or_else(|| Arc::new(SystemClock)),
            registry,
            defaults: Options::defaults(&catalogue),
            catalogue,
            shipped,
            performers,
            rules,
            numbers,
            key: self.key,
            settings: self.settings,
            worker: self.worker.unwrap_or_else(|| "engine".to_owned()),
            loaded: Mutex::new(BTreeMap::new()),
        })
    }
}

/// A script that sets all its options to their defaults: as a text to be read and edited where that can be, otherwise as typed values.
fn defaults(catalogue: &OptionCatalogue, script: &str) -> Result<(ScriptOptions, OptionSource), OptionProblems> {
    let specs = catalogue.script_specs(script).unwrap_or_default();
    if cfg!(feature = "scripting")
        && let Some(text) = catalogue.default_script(script)
    {
        let source = OptionSource::Script(text.to_owned());
        // Some values cannot be written in a script, such as whole numbers that a double does not hold.
        if let Ok(loaded) = load(catalogue, script, &source, &Limits::default())
            && specs.iter().all(|spec| loaded.fixed(&spec.name) == Some(&spec.default))
        {
            return Ok((loaded, source));
        }
    }
    let source = OptionSource::Values(specs.iter().map(|spec| (spec.name.clone(), spec.default.clone())).collect());
    Ok((load(catalogue, script, &source, &Limits::default())?, source))
}

impl fmt::Debug for EngineBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Sizes and times of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineSettings {
    /// How many items are loaded, planned and committed together.
    pub chunk: usize,
    /// How many orders go to the bureau in one call. A crash leaves at most so many in doubt.
    pub orders_per_call: usize,
    /// How many cards are prepared or finished at once. A crash leaves at most so many in doubt.
    pub cards_at_once: usize,
    /// How many calls go to the CA at once.
    pub certificates_at_once: usize,
    /// How many statuses are read in one call.
    pub statuses_per_call: usize,
    /// How long a call to the outside may take.
    pub call_time_out: Duration,
    /// How long preparing or finishing a card may take: a machine is slower than a directory.
    pub production_time_out: Duration,
    /// How long a claim on a job lasts; at least four times the time-out of a call, and twice that of a production, is used.
    pub lease: Duration,
    /// How long after an order, and after each reading, its status is read again.
    pub poll_interval: Duration,
    /// How long an order may stay without news before its status is read no more: it is then in doubt, and listed by
    /// [`Engine::doubts`], until a person has looked. What counts is days on which it was read; parts of a day do not.
    pub longest_silence: Duration,
    /// How long to wait after the first time that the bureau was unavailable; doubled each time, up to an hour.
    pub back_off: Duration,
    /// How long an order is held back whose user is not active any more.
    pub hold_back: Duration,
}

/// What is due again at once would be done again and again in the same run.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

impl Default for EngineSettings {
    /// Chunks of 1,000; 20 orders and 100 statuses a call; 10 cards and 50 certificates at once; calls of 30 s, 2 min for a card; leases of 5 min; statuses every 15 min, until
    /// there was no news for 30 days; back-off from 30 s; orders of inactive users looked at again after an hour.
    fn default() -> Self {
        Self {
            chunk: 1000,
            orders_per_call: 20,
            cards_at_once: 10,
            certificates_at_once: 50,
            statuses_per_call: 100,
            call_time_out: Duration::from_secs(30),
            production_time_out: Duration::from_secs(120),
            lease: Duration::from_secs(300),
            poll_interval: Duration::from_secs(900),
            longest_silence: Duration::from_secs(30 * 24 * 3600),
            back_off: Duration::from_secs(30),
            hold_back: Duration::from_secs(3600),
        }
    }
}

impl EngineSettings {
    /// The usual settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with another chunk; at least 1.
    #[must_use]
    pub fn chunk(self, chunk: usize) -> Self {
        Self { chunk: chunk.max(1), ..self }
    }

    /// The same with another number of orders in one call; at least 1.
    #[must_use]
    pub fn orders_per_call(self, orders_per_call: usize) -> Self {
        Self { orders_per_call: orders_per_call.max(1), ..self }
    }

    /// The same with another number of cards that are prepared or finished at once; at least 1.
    #[must_use]
    pub fn cards_at_once(self, cards_at_once: usize) -> Self {
        Self { cards_at_once: cards_at_once.max(1), ..self }
    }

    /// The same with another number of calls to the CA at once; at least 1.
    #[must_use]
    pub fn certificates_at_once(self, certificates_at_once: usize) -> Self {
        Self { certificates_at_once: certificates_at_once.max(1), ..self }
    }

    /// The same with another number of statuses in one call; at least 1.
    #[must_use]
    pub fn statuses_per_call(self, statuses_per_call: usize) -> Self {
        Self { statuses_per_call: statuses_per_call.max(1), ..self }
    }

    /// The same with another time-out of calls to the outside.
    #[must_use]
    pub fn call_time_out(self, call_time_out: Duration) -> Self {
        Self { call_time_out, ..self }
    }

    /// The same with another time-out of preparing or finishing a card.
    #[must_use]
    pub fn production_time_out(self, production_time_out: Duration) -> Self {
        Self { production_time_out, ..self }
    }

    /// The same with another lease.
    #[must_use]
    pub fn lease(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    /// The same with another time between readings of a status; at least 1 s.
    #[must_use]
    pub fn poll_interval(self, poll_interval: Duration) -> Self {
        Self { poll_interval: poll_interval.max(SHORTEST_WAIT), ..self }
    }

    /// The same with another time without news, after which the status of an order is read no more.
    #[must_use]
    pub fn longest_silence(self, longest_silence: Duration) -> Self {
        Self { longest_silence, ..self }
    }

    /// The same with another time to wait after the bureau was unavailable for the first time; at least 1 s.
    #[must_use]
    pub fn back_off(self, back_off: Duration) -> Self {
        Self { back_off: back_off.max(SHORTEST_WAIT), ..self }
    }

    /// The same with another time for which an order is held back whose user is not active any more; at least 1 s.
    #[must_use]
    pub fn hold_back(self, hold_back: Duration) -> Self {
        Self { hold_back: hold_back.max(SHORTEST_WAIT), ..self }
    }

    /// The lease that claims really get: it outlasts a call and what follows it.
    pub(crate) fn safe_lease(&self) -> Duration {
        self.lease.max(self.call_time_out.saturating_mul(4)).max(self.production_time_out.saturating_mul(2))
    }
}

/// Why an engine cannot be put together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Parts that are needed, all of them.
    #[error("the engine needs {}: call {}", listed(parts, with_article), listed(parts, |part| format!("EngineBuilder::{part}")))]
    Missing {
        /// The parts, by the names of the builder's methods.
        parts: Vec<&'static str>,
    },
    /// A process that fits in no slot: it could never be started.
    #[error("{process} fits in no slot, so that nobody could ever start it: say in which with ProcessDefinition::fits")]
    NoSlot {
        /// The process.
        process: SymbolicName,
    },
    /// A user attribute that the mapping would copy onto the card's number.
    #[error(
        "user attribute `{attribute}` is mapped onto card attribute `number`, which is the card's own number: map it onto another"
    )]
    MappedOntoNumber {
        /// The user attribute.
        attribute: String,
    },
    /// A process whose name is taken.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Two packages bring a performer of the same name.
    #[error("{name} is taken by another job performer")]
    PerformerTaken {
        /// The name.
        name: SymbolicName,
    },
    /// A process that reads an option that no script has.
    #[error("{process} reads option `{option}`, which no script has")]
    UnknownOption {
        /// The process.
        process: SymbolicName,
        /// The option.
        option: SymbolicName,
    },
    /// A package whose option script has problems.
    #[error(transparent)]
    Options(#[from] OptionProblems),
    /// A number range that is none.
    #[error(transparent)]
    Numbers(crate::card_number::NumberRangeError),
}

/// What a part is called in a sentence.
fn with_article(part: &str) -> String {
    match part {
        "users" => "a user directory".to_owned(),
        "access" => "an access policy".to_owned(),
        part => format!("a {part}"),
    }
}

/// "one", "one and another", "one, another and a third".
fn listed(parts: &[&str], words: impl Fn(&str) -> String) -> String {
    let parts: Vec<_> = parts.iter().map(|part| words(part)).collect();
    match parts.as_slice() {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        parts => parts.concat(),
    }
}
