//! What an administrator does with options when scripts contradict each other, at whatever moment they are put in force, and when
//! a release does not take any more what an earlier one stored.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cardwright::adapters::memory::MemoryRepository;
use cardwright::adapters::simulator::SimulatedClock;
use cardwright::host::Clock;
use cardwright::options::{
    Allowed, Contradiction, ContradictionSide, OptionKey, OptionSource, OptionSpec, OptionState, OptionValue,
    ProblemKind, ResolvedOptions, Subject,
};
use cardwright::process::{
    Field, HouseRules, Item, ItemKind, Needs, OptionScript, Plan, PlanContext, Process, ProcessDefinition,
    ProcessPackage, Refusal, Slot,
};
use cardwright::{BuildError, EngineBuilder, Error, OptionVersion, SymbolicName};
use chrono::{DateTime, Utc};
use futures::executor::block_on;

use crate::office::{ABORT, ORDER, ORDER_SCRIPT, Office, administrator, operator};
use crate::watched::{second, store};

const CARDS_SCRIPT: &str = "CardsScriptOptions";
const BADGES: &str = "BadgeScriptOptions";
const POLISH: &str = "BadgeProcPolish";
const DEEP: OptionKey<bool> = OptionKey::new("BadgeDeep");
const DEPTH: OptionKey<u8> = OptionKey::new("BadgeDepth");

fn name(name: &str) -> SymbolicName {
    SymbolicName::new(name).unwrap()
}

/// A process that reads an option of the host's own script.
struct Polish(ProcessDefinition);

impl Process for Polish {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }
    fn fields(&self, _: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        Vec::new()
    }
    fn needs(&self) -> Needs {
        Needs::nothing()
    }
    fn plan(&self, _: Item, _: &PlanContext<'_>) -> Result<Plan, Refusal> {
        Ok(Plan::unchanged("polished"))
    }
}

/// A package of some release: how deep badges may be engraved, and what excludes what.
fn badges(deepest: i64, contradictions: Vec<Contradiction>) -> ProcessPackage {
    let specs = [
        OptionSpec::new(DEEP.name(), BADGES, Allowed::Boolean, false, "Whether to engrave deep."),
        OptionSpec::new(DEPTH.name(), BADGES, Allowed::Integer { min: 1, max: deepest }, 1, "How deep."),
    ];
    let definition = ProcessDefinition::new(name(POLISH), "Polish badges", "Badges", ItemKind::Card);
    let script = OptionScript { contradictions, ..OptionScript::new(name(BADGES), specs) };
    ProcessPackage::new()
        .process(Polish(definition.fits([Slot::Batch]).reads([name(DEEP.name()), name(DEPTH.name())])))
        .options(script)
}

fn pair(one: (&str, impl Into<OptionValue>, impl Into<OptionValue>), other: (&str, bool, bool)) -> Contradiction {
    Contradiction::new(
        ContradictionSide::new(one.0, one.1, one.2),
        ContradictionSide::new(other.0, other.1, other.2),
        "deep badges are for those with several cards",
    )
}

/// Engraving deep needs several active cards, which are not the default.
fn deep_needs_several() -> Contradiction {
    pair((DEEP.name(), true, false), ("CardsMultipleActive", false, true))
}

/// Engraving deep and several active cards exclude each other.
fn deep_excludes_several() -> Contradiction {
    pair((DEEP.name(), true, false), ("CardsMultipleActive", true, false))
}

fn set(office: &Office, script: &str, text: &str) -> Result<OptionVersion, Error> {
    block_on(office.engine.set_options(script, OptionSource::Script(text.to_owned()), &administrator()))
}

fn kind(error: &Error) -> ProblemKind {
    match error {
        Error::Options(problems) => problems.as_slice()[0].kind,
        other => panic!("{other}"),
    }
}

// ---- scripts that contradict each other --------------------------------------------------------------------------

#[test]
fn scripts_that_are_good_together_are_in_force_together_whatever_their_order() {
    let office = Office::with(|builder| builder.package(badges(9, vec![deep_needs_several()])));
    assert_eq!(kind(&set(&office, BADGES, "BadgeDeep = true").unwrap_err()), ProblemKind::Contradiction);
    set(&office, CARDS_SCRIPT, "CardsMultipleActive = true").unwrap();
    set(&office, BADGES, "BadgeDeep = true").unwrap();

    let options = block_on(office.engine.options()).unwrap();
    assert_eq!(options.broken().count(), 0);
    assert!(options.resolve(&[], &Subject::default()).unwrap().get(DEEP).unwrap());
    block_on(office.engine.open(POLISH, &operator())).unwrap();
    block_on(office.engine.open(ORDER, &operator())).unwrap();

    let error = set(&office, CARDS_SCRIPT, "CardsMultipleActive = false").unwrap_err();
    assert_eq!(kind(&error), ProblemKind::Contradiction, "{error}");
    set(&office, BADGES, "BadgeDeep = false").unwrap();
    set(&office, CARDS_SCRIPT, "CardsMultipleActive = false").unwrap();
}

type Hook = Box<dyn FnOnce() + Send>;

/// A clock that lets a test act when somebody looks at it.
#[derive(Clone)]
struct HookedClock {
    inner: SimulatedClock,
    at_next_look: Arc<Mutex<Option<Hook>>>,
}

#[async_trait]
impl Clock for HookedClock {
    fn now(&self) -> DateTime<Utc> {
        let hook = self.at_next_look.lock().unwrap().take();
        if let Some(hook) = hook {
            std::thread::spawn(hook).join().expect("what the test does at that moment works");
        }
        self.inner.now()
    }
    async fn sleep(&self, duration: Duration) {
        self.inner.sleep(duration).await;
    }
}

#[test]
fn of_two_contradictory_scripts_put_in_force_at_the_same_moment_one_is_refused() {
    let package = || badges(9, vec![deep_excludes_several()]);
    let (repository, clock) = store();
    let hooked = HookedClock { inner: clock.clone(), at_next_look: Arc::default() };
    let its_clock = hooked.clone();
    let office = Office::on(repository.clone(), clock, |builder| builder.package(package()).clock(its_clock));
    let other = second(&office, repository, |builder| builder.package(package()));
    // The first has checked its script and is about to commit when the other puts hers in force.
    *hooked.at_next_look.lock().unwrap() = Some(Box::new(move || {
        set(&other, CARDS_SCRIPT, "CardsMultipleActive = true").unwrap();
    }));
    let error = set(&office, BADGES, "BadgeDeep = true").unwrap_err();
    assert_eq!(kind(&error), ProblemKind::Contradiction, "{error}");
    assert_eq!(block_on(office.engine.option_versions(BADGES)).unwrap(), []);
    assert_eq!(block_on(office.engine.options()).unwrap().broken().count(), 0);
}

#[test]
fn two_good_scripts_put_in_force_at_the_same_moment_are_both_in_force() {
    let package = || badges(9, vec![deep_excludes_several()]);
    let (repository, clock) = store();
    let hooked = HookedClock { inner: clock.clone(), at_next_look: Arc::default() };
    let its_clock = hooked.clone();
    let office = Office::on(repository.clone(), clock, |builder| builder.package(package()).clock(its_clock));
    let other = second(&office, repository, |builder| builder.package(package()));
    *hooked.at_next_look.lock().unwrap() = Some(Box::new(move || {
        set(&other, CARDS_SCRIPT, "CardsValidityDays = 30").unwrap();
    }));
    set(&office, BADGES, "BadgeDeep = true").unwrap();
    for script in [BADGES, CARDS_SCRIPT] {
        assert_eq!(block_on(office.engine.option_versions(script)).unwrap().len(), 1, "{script}");
    }
}

// ---- what a new release does not take any more -------------------------------------------------------------------

/// An office of a new release on the store of an old one, in which a script is in force that the new one does not take.
fn after_the_release(old: ProcessPackage, scripts: &[(&str, &str)], new: ProcessPackage) -> Office {
    let (repository, clock) = store();
    let before = Office::on(repository.clone(), clock, |builder| builder.package(old));
    for (script, text) in scripts {
        set(&before, script, text).unwrap();
    }
    let release = |repository: MemoryRepository, change: Box<dyn FnOnce(EngineBuilder) -> EngineBuilder>| {
        second(&before, repository, change)
    };
    release(repository, Box::new(move |builder| builder.package(new)))
}

fn too_deep() -> Office {
    after_the_release(badges(9, Vec::new()), &[(BADGES, "BadgeDepth = 7")], badges(5, Vec::new()))
}

#[test]
fn a_script_that_a_release_does_not_take_refuses_only_the_processes_that_read_it() {
    let office = too_deep();
    match block_on(office.engine.open(POLISH, &operator())) {
        Err(error @ Error::BrokenScript { .. }) => {
            let hash = &block_on(office.engine.option_versions(BADGES)).unwrap()[0].hash;
            assert_eq!(
                error.to_string(),
                format!(
                    "BadgeProcPolish reads options of `BadgeScriptOptions`, whose version {hash} cannot be used: \
                     put another version in force"
                )
            );
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.contains("line 1: `BadgeDepth`: value not allowed: found 7"), "{cause}");
        }
        other => panic!("{other:?}"),
    }
    office.order("u1");

    let options = block_on(office.engine.options()).unwrap();
    let broken: Vec<_> = options.broken().map(|broken| broken.script()).collect();
    assert_eq!(broken, [BADGES]);
    assert!(options.resolve(&["CardsPINLength"], &Subject::default()).is_ok());
    let problem = options.resolve(&[DEEP.name()], &Subject::default()).unwrap_err();
    assert_eq!(problem.kind, ProblemKind::Broken, "{problem}");
    assert!(problem.to_string().contains("found 7"), "{problem}");
}

#[test]
fn a_broken_script_is_tried_out_replaced_and_put_back() {
    let office = too_deep();
    let broken = block_on(office.engine.option_versions(BADGES)).unwrap().remove(0);
    let good = OptionSource::Script("BadgeDepth = 3".to_owned());
    let changes = block_on(office.engine.dry_run_options(BADGES, &good, &[])).unwrap();
    let depth = changes.iter().find(|change| change.option == DEPTH.name()).unwrap();
    assert_eq!(depth.new, OptionState::Value(OptionValue::Integer(3)));
    assert!(matches!(depth.old, OptionState::Problem(_)), "{depth}");
    assert!(changes.iter().all(|change| change.option.starts_with("Badge")), "{changes:?}");

    // Other scripts are tried out, replaced and put back as ever.
    let orders = OptionSource::Script("CardsAddonExtProdQueueCards = false".to_owned());
    let changes = block_on(office.engine.dry_run_options(ORDER_SCRIPT, &orders, &[])).unwrap();
    assert_eq!(changes.len(), 1, "{changes:?}");
    office.script(ORDER_SCRIPT, "CardsAddonExtProdQueueCards = false");
    let shipped = office.engine.shipped_version(ORDER_SCRIPT).unwrap();
    block_on(office.engine.restore_options(ORDER_SCRIPT, shipped, &administrator())).unwrap();

    let error = block_on(office.engine.restore_options(BADGES, &broken.hash, &administrator())).unwrap_err();
    assert_eq!(kind(&error), ProblemKind::OutOfRange, "{error}");
    let shipped = office.engine.shipped_version(BADGES).unwrap();
    block_on(office.engine.restore_options(BADGES, shipped, &administrator())).unwrap();
    block_on(office.engine.open(POLISH, &operator())).unwrap();
    office.script(BADGES, "BadgeDepth = 3");
    assert_eq!(block_on(office.engine.options()).unwrap().broken().count(), 0);
}

#[test]
fn stored_scripts_that_contradict_each_other_in_a_new_release_are_both_broken_and_either_can_be_mended() {
    let in_force = [(CARDS_SCRIPT, "CardsMultipleActive = true"), (BADGES, "BadgeDeep = true")];
    for (script, text) in [(CARDS_SCRIPT, "CardsMultipleActive = false"), (BADGES, "BadgeDeep = false")] {
        let new = badges(9, vec![deep_excludes_several()]);
        let office = after_the_release(badges(9, Vec::new()), &in_force, new);
        let options = block_on(office.engine.options()).unwrap();
        let broken: Vec<_> =
            options.broken().map(|broken| (broken.script(), broken.problems().iter().count())).collect();
        assert_eq!(broken, [(BADGES, 1), (CARDS_SCRIPT, 1)]);
        assert!(matches!(block_on(office.engine.open(POLISH, &operator())), Err(Error::BrokenScript { .. })));
        block_on(office.engine.open(ABORT, &operator())).unwrap();

        set(&office, script, text).unwrap();
        assert_eq!(block_on(office.engine.options()).unwrap().broken().count(), 0, "after {text}");
        block_on(office.engine.open(POLISH, &operator())).unwrap();
    }
}

#[test]
fn a_broken_script_counts_as_shipped_when_others_are_checked() {
    let contradictions = || vec![deep_needs_several()];
    let office = after_the_release(
        badges(9, Vec::new()),
        &[(CARDS_SCRIPT, "CardsMultipleActive = true"), (BADGES, "BadgeDeep = true\nBadgeDepth = 7")],
        badges(5, contradictions()),
    );
    // As shipped, badges are not engraved deep, and so nothing needs several cards.
    set(&office, CARDS_SCRIPT, "CardsMultipleActive = false").unwrap();
    let error = set(&office, BADGES, "BadgeDeep = true").unwrap_err();
    assert_eq!(kind(&error), ProblemKind::Contradiction, "{error}");
    set(&office, BADGES, "BadgeDepth = 2").unwrap();
}

#[test]
fn packages_whose_shipped_scripts_contradict_each_other_make_no_engine() {
    let mut package = badges(9, vec![deep_excludes_several()]);
    let spec = OptionSpec::new("PolishDeep", "PolishScriptOptions", Allowed::Boolean, false, "Whether to polish deep.");
    let excluded = pair(("PolishDeep", true, false), (DEEP.name(), false, true));
    let script = OptionScript::new(name("PolishScriptOptions"), [spec]).shipped("PolishDeep = true");
    let polish = ProcessPackage::new().options(OptionScript { contradictions: vec![excluded], ..script });
    package = package.process(Polish(
        ProcessDefinition::new(name("BadgeProcOther"), "Other", "Badges", ItemKind::Card).fits([Slot::Batch]),
    ));
    match cardwright::Engine::builder().package(package).package(polish).build() {
        Err(BuildError::Options(problems)) => assert_eq!(problems.as_slice()[0].kind, ProblemKind::Contradiction),
        other => panic!("{other:?}"),
    }
}

// ---- what a version says -----------------------------------------------------------------------------------------

#[test]
fn what_is_in_force_can_be_read_back_and_the_shipped_scripts_too() {
    let office = Office::with(|builder| builder.package(badges(9, Vec::new())));
    let engine = &office.engine;
    let text = "CardsAddonExtProdQueueCards = false -- for the fair";
    let version = set(&office, ORDER_SCRIPT, text).unwrap();
    let source = block_on(engine.option_source(ORDER_SCRIPT, &version.hash)).unwrap();
    assert_eq!(source, OptionSource::Script(text.to_owned()));

    let mut hashes = Vec::new();
    for script in [CARDS_SCRIPT, ORDER_SCRIPT, "TempCardsAddonExtProdScriptOptions", BADGES] {
        let shipped = engine.shipped_version(script).unwrap().to_owned();
        let source = block_on(engine.option_source(script, &shipped)).unwrap();
        let OptionSource::Script(text) = &source else { panic!("{source:?}") };
        assert!(text.starts_with(&format!("-- {script}")), "a text with comments: {text}");
        assert_eq!(source.hash(), shipped);
        hashes.push(shipped);
    }
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 4, "each script has a hash of its own");

    // The shipped text changes nothing.
    let shipped = engine.shipped_version(BADGES).unwrap();
    let source = block_on(engine.option_source(BADGES, shipped)).unwrap();
    assert_eq!(block_on(engine.dry_run_options(BADGES, &source, &[])).unwrap(), []);

    match block_on(engine.option_source(ORDER_SCRIPT, "0123")) {
        Err(error @ Error::NoSuchVersion { .. }) => {
            let words = error.to_string();
            assert!(words.contains(&version.hash) && words.contains("(as shipped)"), "{words}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(block_on(engine.option_source("NoScript", "0123")), Err(Error::NoSuchVersion { .. })));
}

#[test]
fn defaults_that_no_script_can_write_are_shipped_as_typed_values() {
    let spec = OptionSpec::new(
        "BadgeLimit",
        "LimitScriptOptions",
        Allowed::Integer { min: 0, max: i64::MAX },
        i64::MAX,
        "\u{7}",
    );
    let package = ProcessPackage::new().options(OptionScript::new(name("LimitScriptOptions"), [spec]));
    let office = Office::with(|builder| builder.package(package));
    let shipped = office.engine.shipped_version("LimitScriptOptions").unwrap();
    let source = block_on(office.engine.option_source("LimitScriptOptions", shipped)).unwrap();
    assert!(matches!(source, OptionSource::Values(values) if values["BadgeLimit"] == OptionValue::Integer(i64::MAX)));
}
