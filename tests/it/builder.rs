//! Putting an engine together: what is missing or does not fit is said at once, and in words.

use std::time::Duration;

use cardwright::host::{AccessPolicy as _, Decision, NoMessages, RolePolicy};
use cardwright::options::{Allowed, OptionSpec, ProblemKind, ResolvedOptions};
use cardwright::process::{
    Field, HouseRules, Item, ItemKind, Needs, OptionScript, Outcome, Plan, PlanContext, Process, ProcessDefinition,
    ProcessPackage, ProcessRegistry, Refusal, RefusalCode, RegistryError, Slot,
};
use cardwright::{
    BuildError, Card, Engine, EngineSettings, Error, JobKind, JobState, Role, RunId, SymbolicName, UserToCardMap,
};
use futures::executor::block_on;
use uuid::Uuid;

use crate::office::{ABORT, ORDER, ORDER_SCRIPT, Office, SYNC_ORDERS, administrator, operator, rules, user_item};
use crate::watched::jobs;

fn name(name: &str) -> SymbolicName {
    SymbolicName::new(name).unwrap()
}

struct Nothing(ProcessDefinition);

impl Process for Nothing {
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
        Ok(Plan::unchanged("as it was"))
    }
}

fn own() -> ProcessDefinition {
    ProcessDefinition::new(name("OwnProc"), "Own", "Own", ItemKind::Card)
}

// ---- building ----------------------------------------------------------------------------------------------------

#[test]
fn all_missing_parts_are_named_at_once() {
    let error = Engine::builder().build().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the engine needs a repository, a user directory, a notifier and an access policy: call \
         EngineBuilder::repository, EngineBuilder::users, EngineBuilder::notifier and \
         EngineBuilder::access"
    );
    let error = Engine::builder().notifier(NoMessages).access(cardwright::host::AllowAll).build().unwrap_err();
    assert!(matches!(&error, BuildError::Missing { parts } if *parts == ["repository", "users"]), "{error}");
    let repository =
        cardwright::adapters::memory::MemoryRepository::new(std::sync::Arc::new(cardwright::host::SystemClock));
    let builder = Engine::builder().repository(repository).notifier(NoMessages);
    let builder = builder.users(cardwright::adapters::memory::MemoryUsers::new([]));
    let clock = std::sync::Arc::new(cardwright::host::SystemClock);
    let error = builder.bureau(cardwright::adapters::simulator::SimulatedBureau::new(1, clock)).build().unwrap_err();
    assert_eq!(error.to_string(), "the engine needs an access policy: call EngineBuilder::access");
}

#[test]
fn a_process_that_fits_in_no_slot_makes_no_engine() {
    let error = Engine::builder().package(ProcessPackage::new().process(Nothing(own()))).build().unwrap_err();
    assert!(matches!(&error, BuildError::NoSlot { process } if process == "OwnProc"), "{error}");
}

#[test]
fn no_user_attribute_is_mapped_onto_the_cards_number() {
    let mut map = UserToCardMap::default();
    map.attributes.push(("badgeNo".to_owned(), Card::NUMBER.to_owned()));
    let error = Engine::builder().rules(HouseRules::new().user_to_card(map)).build().unwrap_err();
    assert_eq!(
        error.to_string(),
        "user attribute `badgeNo` is mapped onto card attribute `number`, which is the card's own number: map it onto another"
    );
}

#[test]
fn an_option_of_another_script_is_refused_in_clear_words() {
    let spec = OptionSpec::new("BadgeDeep", "OtherOptions", Allowed::Boolean, false, "");
    let package = ProcessPackage::new().options(OptionScript::new(name("BadgeOptions"), [spec]));
    match Engine::builder().package(package).build() {
        Err(BuildError::Options(problems)) => {
            assert_eq!(problems.as_slice()[0].kind, ProblemKind::OtherScript);
            assert_eq!(
                problems.to_string(),
                "BadgeOptions: `BadgeDeep`: its spec names another script than the one that it is added to: \
                 found `OtherOptions`, allowed is `BadgeOptions`"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn settings_stay_in_bounds() {
    let zero = Duration::ZERO;
    let settings = EngineSettings::new()
        .statuses_per_call(0)
        .certificates_at_once(0)
        .poll_interval(zero)
        .back_off(zero)
        .hold_back(zero);
    assert_eq!((settings.statuses_per_call, settings.certificates_at_once), (1, 1));
    let second = Duration::from_secs(1);
    assert_eq!((settings.poll_interval, settings.back_off, settings.hold_back), (second, second, second));
    let settings = settings.statuses_per_call(7).certificates_at_once(8).back_off(second * 9).hold_back(second * 10);
    assert_eq!((settings.statuses_per_call, settings.certificates_at_once), (7, 8));
    assert_eq!((settings.back_off, settings.hold_back), (second * 9, second * 10));
}

// ---- ready parts -------------------------------------------------------------------------------------------------

#[test]
fn the_roles_of_a_hosts_own_definition_are_allowed_when_the_host_says_so() {
    let definition = own().fits([Slot::Batch]).run_by([Role::Approver]);
    let may = |policy: &RolePolicy, role: Role| {
        let actor = cardwright::Actor::system(cardwright::ActorId::new("x").unwrap(), [role]);
        block_on(policy.may_start(&actor, &definition.name))
    };
    assert!(matches!(may(&RolePolicy::standard(), Role::Approver), Decision::No { .. }), "not by itself");
    let policy = RolePolicy::standard().allow_roles_of(&definition);
    assert_eq!(may(&policy, Role::Approver), Decision::Yes);
    assert!(matches!(may(&policy, Role::Operator), Decision::No { .. }));
}

#[test]
fn an_office_that_sends_no_messages_says_so_in_the_job_and_goes_on() {
    let office = Office::with(|builder| builder.notifier(NoMessages));
    office.order("u1");
    office.sync(SYNC_ORDERS);
    let told = jobs(&office, JobKind::Notify).remove(0);
    assert_eq!(told.state, JobState::Done, "nothing is owed any more");
    assert_eq!(told.remark.as_deref(), Some("not sent: this office sends no messages (NoMessages)"));
}

// ---- words -------------------------------------------------------------------------------------------------------

#[test]
fn a_name_in_other_case_or_the_end_of_one_name_is_understood() {
    let registry = ProcessRegistry::standard();
    for (asked, meant) in [
        ("cardsaddonextprodprocabort", Some(ABORT)),
        ("CARDSADDONEXTPRODBOPROCORDERMULTIPLE", Some(ORDER)),
        ("BoProcOrderMultiple", Some(ORDER)),
        ("ordermultiple", Some(ORDER)),
        ("ProcAbort", None),
        ("", None),
    ] {
        match registry.process(asked).map(drop) {
            Err(RegistryError::Unknown { nearest, .. }) => {
                assert_eq!(nearest.as_ref().map(SymbolicName::as_str), meant, "{asked}");
            }
            other => panic!("{asked}: {other:?}"),
        }
    }
}

#[test]
fn an_office_without_production_types_says_that_none_is_configured() {
    let office = Office::with(|builder| builder.rules(HouseRules::new()));
    let Outcome::Refused(refusal) = office.one(ORDER, &operator(), user_item("u1"), &[]) else { panic!() };
    assert_eq!(refusal.code, RefusalCode::ProductionType);
    assert_eq!(
        refusal.reason,
        "there is no production type `standard`; none is configured (HouseRules::production_type)"
    );
    let office = Office::with(|builder| builder.rules(rules()));
    office.script(ORDER_SCRIPT, "CardsAddonExtProdProductionType = 'golden'");
    let Outcome::Refused(refusal) = office.one(ORDER, &operator(), user_item("u1"), &[]) else { panic!() };
    assert_eq!(refusal.reason, "there is no production type `golden`; the bureau makes standard, visitor");
}

#[test]
fn a_run_begun_with_another_answer_is_refused_without_digests() {
    let office = Office::new();
    let id = RunId::new(Uuid::from_u128(77));
    let run = block_on(office.engine.open_as(id, ORDER, &operator())).unwrap();
    let answer = |user: &str| cardwright::process::Answer::ids([user_item(user)]);
    block_on(async {
        office.engine.next(&run, answer("u1")).await.unwrap().finish().await.unwrap();
        let error = office.engine.next(&run, answer("u2")).await.map(drop).unwrap_err();
        assert_eq!(error.to_string(), format!("run {id} was begun with another answer"));
        let error = office.engine.open_as(id, ORDER, &administrator()).await.unwrap_err();
        assert!(matches!(error, Error::RunTaken { what: "actor", .. }), "{error}");
        assert_eq!(error.to_string(), format!("run {id} was begun as something else: its actor was olga, not ada"));
    });
}
