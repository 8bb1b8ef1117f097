//! The registry: names, packages of a host's own, slots, access, search, and options that an administrator changes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cardwright::host::{
    AccessPolicy, AllowAll, CardQuery, CustomOutcome, Decision, JobPerformer, RolePolicy, TextPrefix, UserFilter,
};
use cardwright::options::{Allowed, OptionKey, OptionSource, OptionSpec, OptionState, OptionValue, ResolvedOptions};
use cardwright::process::{
    Answer, AnswerError, Component, Field, FieldKind, Filter, Form, HouseRules, Item, ItemId, ItemKind, Needs,
    OptionScript, Outcome, Plan, PlanContext, Process, ProcessDefinition, ProcessPackage, Refusal, RefusalCode,
    RegistryError, Slot, StartPoint,
};
use cardwright::{
    Actor, ActorId, BuildError, Busy, Candidates, CardId, CardState, ChangeSet, ENABLE_PROCESS, Engine, Error, Job,
    JobId, JobKind, JobState, ObjectId, Role, SET_OPTIONS, SymbolicName, Task, User, Why,
};
use futures::FutureExt as _;
use futures::executor::block_on;

use crate::office::{
    ABORT, ABORT_REQUEST, APPROVAL, ORDER, ORDER_SCRIPT, ORDER_TEMPORARY, Office, REPEAT, REQUEST, RESOLVE,
    SYNC_ORDERS, SYNC_STATUS, UPDATE, administrator, approver, operator, person, service, user_id, user_item,
};
use crate::watched::{jobs, second, store};

fn name(name: &str) -> SymbolicName {
    SymbolicName::new(name).unwrap()
}

fn with_role(role: Role) -> Actor {
    Actor::person(ActorId::new("somebody").unwrap(), user_id("p-somebody"), [role])
}

fn code(outcome: &Outcome) -> RefusalCode {
    match outcome {
        Outcome::Refused(refusal) => refusal.code.clone(),
        other => panic!("refused, not {other:?}"),
    }
}

// ---- names -------------------------------------------------------------------------------------------------------

#[test]
fn an_unknown_process_is_refused_with_the_nearest_name() {
    let office = Office::new();
    for (asked, nearest) in [
        ("CardsAddonExtProdProcAbrot", Some(ABORT)),
        ("CardsAddonExtProdBoProcOrderMulitple", Some(ORDER)),
        ("cardsaddonextprodprocabort", Some(ABORT)),
        ("somethingElse", None),
        ("", None),
    ] {
        match block_on(office.engine.open(asked, &operator())) {
            Err(Error::Process(RegistryError::Unknown { name, nearest: found })) => {
                assert_eq!(name, asked);
                if asked != "cardsaddonextprodprocabort" {
                    assert_eq!(found.as_ref().map(SymbolicName::as_str), nearest, "{asked}");
                }
            }
            other => panic!("{asked}: {other:?}"),
        }
    }
}

#[test]
fn a_name_means_one_process() {
    let taken = Engine::builder().package(ProcessPackage::new().process(Engrave::named(ORDER))).build();
    assert!(matches!(taken, Err(BuildError::Registry(RegistryError::NameTaken { .. }))), "{taken:?}");
    let twice = ProcessPackage::new().process(Engrave::named("Own")).process(Engrave::named("Own"));
    let taken = Engine::builder().package(twice).build();
    assert!(matches!(taken, Err(BuildError::Registry(RegistryError::NameTaken { .. }))), "{taken:?}");
    for ill_formed in ["", "two words", "Ünicode"] {
        assert!(SymbolicName::new(ill_formed).is_err(), "{ill_formed:?}");
    }
}

#[test]
fn a_process_cannot_read_an_option_that_no_script_has() {
    let package = ProcessPackage::new().process(Engrave::named("Own"));
    let built = Engine::builder().package(package).build();
    assert!(matches!(built, Err(BuildError::UnknownOption { .. })), "{built:?}");
}

#[test]
fn definitions_and_forms_are_data() {
    let office = Office::new();
    for definition in office.engine.definitions() {
        let text = serde_json::to_string(definition).unwrap();
        assert_eq!(&serde_json::from_str::<ProcessDefinition>(&text).unwrap(), definition);
        let run = block_on(office.engine.open(definition.name.as_str(), &operator())).unwrap();
        let text = serde_json::to_string(&run.form).unwrap();
        assert_eq!(serde_json::from_str::<Form>(&text).unwrap(), run.form);
        assert_eq!(run.form.title, definition.title);
    }
}

// ---- a host's own package ----------------------------------------------------------------------------------------

const ENGRAVE: &str = "BadgeProcEngrave";
const ENGRAVE_BATCH: &str = "BadgeBatchEngrave";
const ENGRAVER: &str = "engraver";
const DEEP: OptionKey<bool> = OptionKey::new("BadgeDeep");

/// Engraves a card: a job of the host's own, performed at once, that decides nothing about the card.
struct Engrave(ProcessDefinition);

impl Engrave {
    fn named(symbolic: &str) -> Self {
        let definition = ProcessDefinition::new(name(symbolic), "Engrave card", "Badges", ItemKind::Card);
        Self(definition.fits([Slot::Batch]).reads([name(DEEP.name())]))
    }
}

impl Process for Engrave {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }
    fn fields(&self, _: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        vec![Field::required("words", "Words", FieldKind::Text { max_length: 20 })]
    }
    fn needs(&self) -> Needs {
        Needs::nothing()
    }
    fn plan(&self, mut item: Item, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
        let mut card = item.take_card()?;
        if context.answer("words") == "nonsense" {
            return Err(Refusal::new(RefusalCode::Custom("taste".to_owned()), "not on our badges"));
        }
        let id = JobId::derive(context.run, &item.id.to_string(), "engrave");
        let data = serde_json::json!({ "words": context.answer("words"), "deep": context.option(DEEP)? });
        let task = Task::Custom { performer: name(ENGRAVER), data };
        let mut changes = ChangeSet::new();
        changes.note_card(&mut card, &context.stamp, Why::code("engraving_wanted"));
        card.busy = Some(Busy { job: id, since: context.stamp.at, in_doubt: false });
        changes.jobs.push(Job::new(id, task, Some(card.id), &context.stamp));
        Ok(Plan::card(changes, card).then_perform(id))
    }
}

/// The host's own sync.
struct EngraveBatch(ProcessDefinition);

impl EngraveBatch {
    fn new() -> Self {
        let definition = ProcessDefinition::new(name(ENGRAVE_BATCH), "Engrave what waits", "Badges", ItemKind::Job);
        let definition = definition.offered(Component::Background, StartPoint::Schedule).performs([JobKind::Custom]);
        Self(definition.fits([Slot::Background]).even_busy())
    }
}

impl Process for EngraveBatch {
    fn definition(&self) -> &ProcessDefinition {
        &self.0
    }
    fn fields(&self, _: &ResolvedOptions, _: &HouseRules) -> Vec<Field> {
        Vec::new()
    }
    fn needs(&self) -> Needs {
        Needs::nothing()
    }
    fn plan(&self, mut item: Item, _: &PlanContext<'_>) -> Result<Plan, Refusal> {
        let job = item.take_job()?;
        Ok(Plan::unchanged(job.state.name()).then_perform(job.id))
    }
}

/// An engraver that does what it is told, and otherwise its work.
#[derive(Clone)]
struct Engraver {
    repeatable: bool,
    /// `None`: it never comes back.
    next: Arc<Mutex<VecDeque<Option<CustomOutcome>>>>,
    performed: Arc<Mutex<Vec<serde_json::Value>>>,
}

impl Engraver {
    fn new(repeatable: bool) -> Self {
        Self { repeatable, next: Arc::default(), performed: Arc::default() }
    }

    fn next(&self, outcome: Option<CustomOutcome>) {
        self.next.lock().unwrap().push_back(outcome);
    }

    fn calls(&self) -> usize {
        self.performed.lock().unwrap().len()
    }
}

#[async_trait]
impl JobPerformer for Engraver {
    fn repeatable(&self) -> bool {
        self.repeatable
    }
    async fn perform(&self, job: &Job) -> CustomOutcome {
        assert_eq!(job.attempt.is_some(), !self.repeatable, "what is not repeatable has its attempt stored first");
        let Task::Custom { data, .. } = &job.task else { panic!("not ours: {job:?}") };
        self.performed.lock().unwrap().push(data.clone());
        let next = self.next.lock().unwrap().pop_front();
        match next {
            Some(Some(outcome)) => outcome,
            Some(None) => std::future::pending().await,
            None => CustomOutcome::Done { remark: "engraved".to_owned() },
        }
    }
}

fn unknown() -> Option<CustomOutcome> {
    Some(CustomOutcome::Unknown { reason: "the machine went dark".to_owned() })
}

/// An office with the host's package and a card that is ordered.
fn engraving(repeatable: bool) -> (Office, Engraver, CardId) {
    let engraver = Engraver::new(repeatable);
    let spec = OptionSpec::new(DEEP.name(), "BadgeScriptOptions", Allowed::Boolean, false, "Whether to engrave deep.");
    let package = ProcessPackage::new()
        .process(Engrave::named(ENGRAVE))
        .process(EngraveBatch::new())
        .options(OptionScript::new(name("BadgeScriptOptions"), [spec]).shipped("BadgeDeep = true"))
        .performer(name(ENGRAVER), engraver.clone());
    let office = Office::with(|builder| builder.package(package));
    let card = office.order("u1");
    office.sync(SYNC_ORDERS);
    (office, engraver, card)
}

fn engrave(office: &Office, card: CardId) -> Outcome {
    office.one(ENGRAVE, &operator(), ItemId::Card(card), &[("words", "to Ada")])
}

fn the_job(office: &Office) -> Job {
    jobs(office, JobKind::Custom).remove(0)
}

#[test]
fn a_hosts_own_process_runs_with_its_own_options_and_performer() {
    let (office, engraver, card) = engraving(false);
    assert!(matches!(engrave(&office, card), Outcome::Done { .. }));
    let expected = serde_json::json!({ "words": "to Ada", "deep": true });
    assert_eq!(*engraver.performed.lock().unwrap(), [expected], "as the package's script ships");
    let job = the_job(&office);
    assert_eq!((job.state, job.remark.as_deref()), (JobState::Done, Some("engraved")));
    assert!(office.card(card).busy.is_none());
    assert_eq!(office.history(card), ["created", "order_decided", "accepted", "engraving_wanted", "job_done"]);

    office.script("BadgeScriptOptions", "BadgeDeep = false");
    engrave(&office, card);
    assert_eq!(engraver.performed.lock().unwrap()[1]["deep"], false);
    let refused = office.one(ENGRAVE, &operator(), ItemId::Card(card), &[("words", "nonsense")]);
    assert_eq!(code(&refused), RefusalCode::Custom("taste".to_owned()));
}

#[test]
fn an_own_job_that_is_unavailable_waits_for_the_hosts_own_sync() {
    let (office, engraver, card) = engraving(false);
    engraver.next(Some(CustomOutcome::Unavailable { reason: "lunch".to_owned() }));
    engrave(&office, card);
    assert_eq!(the_job(&office).state, JobState::Open);
    assert_eq!(code(&engrave(&office, card)), RefusalCode::Busy);
    office.sync(SYNC_ORDERS);
    office.sync(ENGRAVE_BATCH);
    assert_eq!(engraver.calls(), 1, "not before it is due, and not by a sync of other jobs");
    office.clock.advance(Duration::from_secs(60));
    office.sync(ENGRAVE_BATCH);
    assert_eq!((engraver.calls(), the_job(&office).state), (2, JobState::Done));
}

#[test]
fn a_repeatable_own_job_is_done_again_after_an_unknown_outcome() {
    let (office, engraver, card) = engraving(true);
    engraver.next(unknown());
    engrave(&office, card);
    assert_eq!(the_job(&office).state, JobState::Open);
    office.clock.advance(Duration::from_secs(60));
    office.sync(ENGRAVE_BATCH);
    assert_eq!((engraver.calls(), the_job(&office).state), (2, JobState::Done));
}

#[test]
fn an_own_job_that_is_not_repeatable_is_in_doubt_after_an_unknown_outcome() {
    for outcome in [unknown(), None] {
        let (office, engraver, card) = engraving(false);
        engraver.next(outcome);
        let outcome = engrave(&office, card);
        assert!(matches!(outcome, Outcome::InDoubt { .. }), "{outcome:?}");
        assert_eq!(code(&engrave(&office, card)), RefusalCode::InDoubt);
        office.clock.advance(Duration::from_secs(24 * 3600));
        office.sync(ENGRAVE_BATCH);
        assert_eq!(engraver.calls(), 1, "never again by itself");
        assert_eq!(block_on(office.engine.doubts(None, 10)).unwrap()[0].id, the_job(&office).id);
    }
}

#[test]
fn an_own_job_in_doubt_is_settled_by_a_person_whatever_state_its_card_is_in() {
    for (resolution, state, calls) in
        [("accepted", JobState::Done, 1), ("give up", JobState::Done, 1), ("send again", JobState::Open, 2)]
    {
        let (office, engraver, card) = engraving(false);
        assert_eq!(office.state(card), CardState::Ordered);
        engraver.next(unknown());
        engrave(&office, card);
        let values = [("resolution", resolution), ("orderId", "none"), ("reason", "I looked")];
        let outcome = office.one(RESOLVE, &operator(), ItemId::Job(the_job(&office).id), &values);
        assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
        assert_eq!(the_job(&office).state, state);
        assert!(!office.card(card).busy.is_some_and(|busy| busy.in_doubt));
        assert_eq!(office.history(card).last().map(String::as_str), Some("job_settled"));
        office.sync(ENGRAVE_BATCH);
        assert_eq!(engraver.calls(), calls);
        assert_eq!(the_job(&office).state, JobState::Done);
    }
}

#[test]
fn a_worker_that_dies_over_an_own_job_leaves_it_in_doubt() {
    let (office, engraver, card) = engraving(false);
    engraver.next(None);
    block_on(async {
        let run = office.engine.open(ENGRAVE, &operator()).await.unwrap();
        let answer = Answer::ids([ItemId::Card(card)]).with("words", "to Ada");
        let mut execution = office.engine.next(&run, answer).await.unwrap();
        assert!(execution.next_chunk().now_or_never().is_none());
    });
    office.clock.advance(Duration::from_secs(301));
    let report = office.sync(ENGRAVE_BATCH);
    assert_eq!((report.in_doubt, engraver.calls()), (1, 1), "{report:?}");
}

#[test]
fn a_doubt_about_an_order_can_be_settled_on_its_job_too() {
    use cardwright::adapters::simulator::PlaceScript;
    let office = Office::new();
    let card = office.order("u1");
    office.bureau.next_place(PlaceScript::LoseReplyAfterAccepting);
    office.sync(SYNC_ORDERS);
    let job = block_on(office.engine.doubts(None, 1)).unwrap().remove(0);
    let values = [("resolution", "accepted"), ("orderId", "GC-000001"), ("reason", "asked")];
    office.one(RESOLVE, &operator(), ItemId::Job(job.id), &values);
    assert_eq!(office.state(card), CardState::Ordered);
    let again = office.one(RESOLVE, &operator(), ItemId::Job(job.id), &values);
    assert_eq!(code(&again), RefusalCode::NotInDoubt);
}

// ---- slots -------------------------------------------------------------------------------------------------------

/// Allows all but changing slots, so that everything stays as it ships.
struct NothingIsEnabled;

#[async_trait]
impl AccessPolicy for NothingIsEnabled {
    async fn may_start(&self, actor: &Actor, process: &SymbolicName) -> Decision {
        if process.as_str() == ENABLE_PROCESS {
            return Decision::No { reason: "not here".to_owned() };
        }
        AllowAll.may_start(actor, process).await
    }
    async fn may(&self, actor: &Actor, process: &SymbolicName, objects: &[ItemId]) -> Vec<Decision> {
        AllowAll.may(actor, process, objects).await
    }
}

#[test]
fn what_is_off_by_default_is_refused_with_where_it_can_be_added() {
    let office = Office::with(|builder| builder.access(NothingIsEnabled));
    for (process, slots) in [
        (UPDATE, "cards ordered, cards in production"),
        (ABORT, "cards processing"),
        (ORDER_TEMPORARY, "new"),
        ("TempCardsAddonExtProdProcAbort", "cards processing"),
        ("TempCardsAddonExtProdProcUpdate", "cards ordered, cards in production"),
    ] {
        match block_on(office.engine.open(process, &operator())) {
            Err(Error::Disabled { slots: found, .. }) => assert_eq!(found, slots, "{process}"),
            other => panic!("{process}: {other:?}"),
        }
    }
    for process in [ORDER, APPROVAL, ABORT_REQUEST, REPEAT, RESOLVE, SYNC_ORDERS, SYNC_STATUS] {
        block_on(office.engine.open(process, &operator())).unwrap();
    }
}

#[test]
fn processes_are_switched_off_and_on_for_all_instances_at_run_time() {
    let (repository, clock) = store();
    let office = Office::on(repository.clone(), clock, |builder| builder);
    let other = second(&office, repository, |builder| builder);
    let run = block_on(office.engine.open(ORDER, &operator())).unwrap();
    block_on(other.engine.disable(ORDER, Slot::Batch, &administrator())).unwrap();
    let disabled = |result: Result<(), Error>| assert!(matches!(result, Err(Error::Disabled { .. })), "{result:?}");
    disabled(block_on(office.engine.open(ORDER, &operator())).map(drop));
    disabled(block_on(office.engine.next(&run, Answer::ids([user_item("u1")]))).map(drop));
    block_on(other.engine.enable(ORDER, Slot::Batch, &administrator())).unwrap();
    office.order("u1");

    let entries = block_on(office.engine.history(&ObjectId::Record("enablement".to_owned()))).unwrap();
    let last: Vec<_> = entries.iter().rev().take(2).map(|entry| (entry.code.as_ref(), entry.actor.as_str())).collect();
    assert_eq!(last, [("enabled", "ada"), ("disabled", "ada")]);
    assert_eq!(entries.last().unwrap().reference.as_deref(), Some(ORDER));
}

#[test]
fn a_slot_that_does_not_fit_is_refused_with_those_that_do() {
    let office = Office::new();
    for slot in [Slot::Batch, Slot::New, Slot::Card(CardState::Ordered)] {
        for result in [
            block_on(office.engine.enable(ABORT, slot, &administrator())),
            block_on(office.engine.disable(ABORT, slot, &administrator())),
        ] {
            match result {
                Err(Error::Slot { slot: found, allowed, .. }) => {
                    assert_eq!((found, allowed.as_str()), (slot, "cards processing"));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(matches!(
        block_on(office.engine.enable("Nonsense", Slot::New, &administrator())),
        Err(Error::Process(RegistryError::Unknown { .. }))
    ));
}

#[test]
fn a_process_is_offered_in_the_states_it_was_added_to_and_no_other() {
    let office = Office::new();
    let card = office.order("u1");
    office.sync(SYNC_ORDERS);
    block_on(office.engine.disable(UPDATE, Slot::Card(CardState::InProduction), &administrator())).unwrap();
    office.clock.advance(Duration::from_secs(5 * 3600));
    office.one(UPDATE, &operator(), ItemId::Card(card), &[]);
    assert_eq!(office.state(card), CardState::InProduction);
    assert_eq!(code(&office.one(UPDATE, &operator(), ItemId::Card(card), &[])), RefusalCode::NotOffered);
    let why = block_on(office.engine.explain(UPDATE, &ItemId::Card(card), &operator())).unwrap();
    assert_eq!(why.iter().map(|refusal| refusal.code.clone()).collect::<Vec<_>>(), [RefusalCode::NotOffered]);
}

#[test]
fn commands_are_what_may_be_started_now_and_explain_says_why_not() {
    let office = Office::with(|builder| builder.access(RolePolicy::standard()));
    let commands = |item: &ItemId, actor: &Actor| -> Vec<String> {
        let found = block_on(office.engine.commands(item, actor)).unwrap();
        found.into_iter().map(|definition| definition.name.as_str().to_owned()).collect()
    };
    let why = |process: &str, item: &ItemId, actor: &Actor| -> Vec<RefusalCode> {
        let found = block_on(office.engine.explain(process, item, actor)).unwrap();
        found.into_iter().map(|refusal| refusal.code).collect()
    };
    assert_eq!(commands(&user_item("u1"), &operator()), [ORDER, REQUEST]);
    assert_eq!(commands(&user_item("gone"), &operator()), [""; 0]);
    assert_eq!(why(ORDER, &user_item("gone"), &operator()), [RefusalCode::UserNotActive]);
    assert_eq!(why(ORDER, &user_item("nobody"), &operator()), [RefusalCode::NotFound]);
    assert_eq!(why(ORDER, &user_item("gone"), &approver()), [RefusalCode::NotPermitted, RefusalCode::UserNotActive]);
    assert_eq!(commands(&ItemId::New(1), &operator()), [ORDER_TEMPORARY]);

    let id = office.order("u1");
    let card = ItemId::Card(id);
    assert_eq!(commands(&card, &with_role(Role::Operator)), [ABORT]);
    assert_eq!(why(UPDATE, &card, &operator()), [RefusalCode::WrongState]);
    assert_eq!(why(ORDER, &card, &operator()), [RefusalCode::WrongKind]);
    office.sync(SYNC_ORDERS);
    assert_eq!(commands(&card, &operator()), [UPDATE]);
    block_on(office.engine.disable(UPDATE, Slot::Card(CardState::Ordered), &administrator())).unwrap();
    assert_eq!(commands(&card, &operator()), [""; 0]);
    assert!(block_on(office.engine.explain("Nonsense", &card, &operator())).is_err());
}

// ---- access ------------------------------------------------------------------------------------------------------

#[test]
fn the_standard_policy_goes_by_roles() {
    use Role::{
        Administrator as Admin, Approver, BatchSync as Sync, CardProductionAdministrator as Production, Operator,
        SelfService,
    };
    let table: [(&str, &[Role]); 14] = [
        (ORDER, &[Operator, Production]),
        (ORDER_TEMPORARY, &[Operator, Production]),
        (UPDATE, &[Operator, Production]),
        (ABORT, &[Operator, Production]),
        ("TempCardsAddonExtProdProcAbort", &[Operator, Production]),
        ("TempCardsAddonExtProdProcUpdate", &[Operator, Production]),
        (APPROVAL, &[Approver]),
        (ABORT_REQUEST, &[Operator, Production, SelfService]),
        (REPEAT, &[Production]),
        (RESOLVE, &[Production]),
        (SYNC_ORDERS, &[Sync, Production]),
        (SYNC_STATUS, &[Sync, Production]),
        (SET_OPTIONS, &[Admin]),
        (ENABLE_PROCESS, &[Admin]),
    ];
    let policy = RolePolicy::standard();
    for (process, allowed) in table {
        for role in [Operator, Approver, Production, Admin, SelfService, Sync, Role::custom("guest").unwrap()] {
            let decision = block_on(policy.may_start(&with_role(role.clone()), &name(process)));
            assert_eq!(decision == Decision::Yes, allowed.contains(&role), "{process} by {role}: {decision:?}");
        }
    }
    let guest = with_role(Role::custom("guest").unwrap());
    let own = policy.allow(name(ENGRAVE), Role::custom("guest").unwrap());
    assert_eq!(block_on(own.may_start(&guest, &name(ENGRAVE))), Decision::Yes);
    let text = serde_json::to_string(&own).unwrap();
    assert_eq!(serde_json::from_str::<RolePolicy>(&text).unwrap(), own, "a table that hosts may store");
}

#[test]
fn who_may_not_is_refused_at_the_door_for_processes_options_and_slots() {
    let office = Office::with(|builder| builder.access(RolePolicy::standard()));
    let refused = |result: Result<(), Error>| match result {
        Err(Error::NotPermitted { .. }) => {}
        other => panic!("{other:?}"),
    };
    refused(block_on(office.engine.open(ORDER, &approver())).map(drop));
    refused(block_on(office.engine.open(APPROVAL, &operator())).map(drop));
    refused(block_on(office.engine.open(SYNC_ORDERS, &with_role(Role::Operator))).map(drop));
    refused(block_on(office.engine.enable(ABORT, Slot::Card(CardState::Processing), &operator())));
    refused(block_on(office.engine.disable(ABORT, Slot::Card(CardState::Processing), &operator())));
    let source = OptionSource::Script("CardsAddonExtProdQueueCards = false".to_owned());
    refused(block_on(office.engine.set_options(ORDER_SCRIPT, source, &operator())).map(drop));
    office.order("u1");
    office.run(SYNC_ORDERS, &service(), Answer::new());
}

/// Allows all to start, nothing for `u2`, and loses count when asked for more than two.
struct PerObject;

#[async_trait]
impl AccessPolicy for PerObject {
    async fn may_start(&self, _: &Actor, _: &SymbolicName) -> Decision {
        Decision::Yes
    }
    async fn may(&self, _: &Actor, _: &SymbolicName, objects: &[ItemId]) -> Vec<Decision> {
        let decide = |id: &ItemId| {
            if *id == user_item("u2") { Decision::No { reason: "not hers".to_owned() } } else { Decision::Yes }
        };
        objects.iter().take(2).map(decide).collect()
    }
}

#[test]
fn the_policy_decides_object_by_object() {
    let office = Office::with(|builder| builder.access(PerObject));
    let (report, outcomes) = office.run(ORDER, &operator(), Answer::ids(["u1", "u2"].map(user_item)));
    assert_eq!(report.done.get("processing"), Some(&1), "{report:?}");
    let Outcome::Refused(refusal) = &outcomes[1].1 else { panic!("{outcomes:?}") };
    assert_eq!((refusal.code.clone(), refusal.reason.as_str()), (RefusalCode::NotPermitted, "not hers"));
}

#[test]
fn a_policy_that_gives_the_wrong_number_of_decisions_has_said_no_to_all() {
    let office = Office::with(|builder| builder.access(PerObject));
    let (report, _) = office.run(ORDER, &operator(), Answer::ids(["u1", "u3", "u4"].map(user_item)));
    assert_eq!(report.refused.get(&RefusalCode::NotPermitted), Some(&3), "{report:?}");
}

// ---- search ------------------------------------------------------------------------------------------------------

fn search(office: &Office, process: &str, filter: &Filter, cursor: Option<&str>, limit: usize) -> Candidates {
    let run = block_on(office.engine.open(process, &operator())).unwrap();
    block_on(office.engine.search(&run, filter, cursor, limit)).unwrap()
}

fn found(candidates: &Candidates) -> Vec<ItemId> {
    candidates.found.iter().map(|candidate| candidate.id.clone()).collect()
}

#[test]
fn users_are_found_by_prefix_without_case_and_accents_and_inactive_ones_shown_as_refused() {
    let office = Office::new();
    let by = |name: &str, prefix: &str| {
        let text = vec![TextPrefix::new(name, prefix)];
        Filter::Users(UserFilter { text, ..UserFilter::default() })
    };
    for prefix in ["angstrom 1", "ÅNGSTRÖM 1", "ångström 1", "Angström 1"] {
        let both = found(&search(&office, ORDER, &by("lastName", prefix), None, 20));
        assert_eq!(both, ["u1", "u10"].map(user_item), "{prefix}");
    }
    assert_eq!(found(&search(&office, ORDER, &by("lastName", "strom"), None, 20)), []);

    let page = search(&office, ORDER, &Filter::Users(UserFilter::default()), None, 20);
    assert_eq!(page.found.len(), 11);
    for candidate in page.found {
        let gone = candidate.id == user_item("gone");
        let code = candidate.refusal.map(|refusal| refusal.code);
        assert_eq!(code, gone.then_some(RefusalCode::UserNotActive));
        assert!(candidate.user.is_some());
    }
    let inactive = Filter::Users(UserFilter { active: Some(false), ..UserFilter::default() });
    assert_eq!(found(&search(&office, ORDER, &inactive, None, 20)), [user_item("gone")]);
}

#[test]
fn a_search_goes_page_by_page_through_users_and_cards() {
    let office = Office::new();
    office.run(ORDER, &operator(), Answer::all(Filter::Users(UserFilter::default())));
    let all = |process: &str, filter: Filter| {
        let (mut ids, mut cursor) = (Vec::new(), None);
        loop {
            let page = search(&office, process, &filter, cursor.as_deref(), 3);
            assert!(page.found.len() <= 3);
            ids.extend(found(&page));
            cursor = page.next;
            if cursor.is_none() {
                return ids;
            }
        }
    };
    assert_eq!(all(ORDER, Filter::Users(UserFilter::default())).len(), 11);
    let mut cards = all(ABORT, Filter::Cards(CardQuery::default()));
    cards.sort();
    cards.dedup();
    assert_eq!(cards.len(), 10);
}

#[test]
fn cards_are_found_by_state_number_and_what_is_searchable() {
    let office = Office::new();
    let cards = ["u1", "u2", "u3"].map(|user| office.order(user));
    office.one(ABORT, &operator(), ItemId::Card(cards[2]), &[]);
    let ids = |query: CardQuery| {
        let mut ids = found(&search(&office, ABORT, &Filter::Cards(query), None, 20));
        ids.sort();
        ids
    };
    let sorted = |cards: &[CardId]| {
        let mut ids: Vec<_> = cards.iter().map(|id| ItemId::Card(*id)).collect();
        ids.sort();
        ids
    };
    let text = |name: &str, prefix: &str| vec![TextPrefix::new(name, prefix)];
    assert_eq!(ids(CardQuery { states: vec![CardState::Aborted], ..CardQuery::default() }), sorted(&cards[2..]));
    assert_eq!(ids(CardQuery { text: text("lastName", "ANGSTROM 2"), ..CardQuery::default() }), sorted(&cards[1..2]));
    assert_eq!(ids(CardQuery { text: text("number", "c00000001"), ..CardQuery::default() }), sorted(&cards[..1]));
    assert_eq!(ids(CardQuery { holders: vec![user_id("u2")], ..CardQuery::default() }), sorted(&cards[1..2]));
    let both =
        CardQuery { states: vec![CardState::Processing], text: text("commonName", "person"), ..CardQuery::default() };
    assert_eq!(ids(both), sorted(&cards[..2]));

    let page = search(&office, ABORT, &Filter::Cards(CardQuery::default()), None, 20);
    let aborted = page.found.iter().find(|candidate| candidate.id == ItemId::Card(cards[2])).unwrap();
    assert_eq!(aborted.refusal.as_ref().map(|refusal| refusal.code.clone()), Some(RefusalCode::WrongState));
}

#[test]
fn what_is_not_indexed_cannot_be_searched_by_nor_ticked() {
    let office = Office::new();
    office.order("u1");
    let query = CardQuery { text: vec![TextPrefix::new("email", "u1")], ..CardQuery::default() };
    let not_searchable = |error: Error| match error {
        Error::Answer(AnswerError::NotSearchable { found, allowed }) => {
            assert_eq!(found, "email");
            assert_eq!(allowed, "number, commonName, employeeNumber, lastName");
        }
        other => panic!("{other}"),
    };
    let run = block_on(office.engine.open(ABORT, &operator())).unwrap();
    not_searchable(block_on(office.engine.search(&run, &Filter::Cards(query.clone()), None, 5)).unwrap_err());
    not_searchable(
        block_on(office.engine.next(&run, Answer::all(Filter::Cards(query.clone())))).map(drop).unwrap_err(),
    );
    not_searchable(block_on(office.engine.card_page(&query, None, 5)).unwrap_err());
    let users = Filter::Users(UserFilter::default());
    let error = block_on(office.engine.search(&run, &users, None, 5)).unwrap_err();
    assert!(matches!(error, Error::Answer(AnswerError::WrongKind { .. })), "{error}");
}

// ---- options -----------------------------------------------------------------------------------------------------

/// Puts `u1` into the department that gets the other badge, and a department of nonsense.
fn departments(office: &Office) {
    for (number, department) in [(1, "reception"), (2, "workshop"), (3, "nowhere")] {
        let mut user = person(number);
        user.attributes.insert("department".to_owned(), department.to_owned());
        office.users.put(user);
    }
}

const BY_DEPARTMENT: &str = r#"
local types = { reception = "visitor", workshop = "standard" }
CardsAddonExtProdProductionType = function(card, user)
    return types[user.department]
end
"#;

#[test]
fn an_option_function_chooses_for_each_user_and_a_failing_one_refuses_that_user_only() {
    let office = Office::new();
    departments(&office);
    office.script(ORDER_SCRIPT, BY_DEPARTMENT);
    let (report, outcomes) = office.run(ORDER, &operator(), Answer::ids(["u1", "u2", "u3"].map(user_item)));
    assert_eq!(report.done.get("processing"), Some(&2), "{report:?}");
    let types: Vec<_> = outcomes
        .iter()
        .filter_map(|(_, outcome)| match outcome {
            Outcome::Done { object: Some(ObjectId::Card(card)), .. } => office.card(*card).production_type,
            _ => None,
        })
        .collect();
    assert_eq!(types, ["visitor", "standard"]);
    let Outcome::Refused(refusal) = &outcomes[2].1 else { panic!("{outcomes:?}") };
    assert_eq!(refusal.code, RefusalCode::OptionFailed);
    assert!(refusal.reason.contains("CardsAddonExtProdProductionType"), "{}", refusal.reason);
}

#[test]
fn a_function_for_one_option_leaves_the_choice_of_another_in_the_form() {
    for body in ["return user.department == 'reception'", "return false"] {
        let office = Office::new();
        departments(&office);
        office.script(
            ORDER_SCRIPT,
            &format!(
                "CardsAddonExtProdQueueCards = function(card, user) {body} end\n\
                 CardsAddonExtProdProductionType = {{ \"standard\", \"visitor\" }}"
            ),
        );
        let run = block_on(office.engine.open(ORDER, &operator())).unwrap();
        let offered: Vec<_> = run.form.fields.iter().map(|field| (field.name.as_str(), field.kind.clone())).collect();
        let choice = FieldKind::Choice(vec!["standard".to_owned(), "visitor".to_owned()]);
        assert_eq!(offered, [("productionType", choice)], "{body}");
    }
}

#[test]
fn an_option_that_is_a_function_is_not_offered_as_if_it_had_one_value() {
    let office = Office::new();
    departments(&office);
    office.script(
        ORDER_SCRIPT,
        r#"CardsAddonExtProdProductionType = function(card, user)
            if user and user.department == "reception" then return "visitor" end
            return "standard"
        end"#,
    );
    let run = block_on(office.engine.open(ORDER, &operator())).unwrap();
    assert_eq!(run.form.fields, [], "there is no item yet to ask the function about");
    let (report, _) = office.run(ORDER, &operator(), Answer::ids(["u1", "u2"].map(user_item)));
    assert_eq!(report.done.get("processing"), Some(&2), "{report:?}");
}

#[test]
fn the_operator_picks_among_the_production_types_on_offer() {
    let office = Office::new();
    office.script(ORDER_SCRIPT, r#"CardsAddonExtProdProductionType = { "visitor", "standard" }"#);
    let card = office.order("u1");
    assert_eq!(office.card(card).production_type.as_deref(), Some("visitor"), "the first is preset");
    let Outcome::Done { object: Some(ObjectId::Card(card)), .. } =
        office.one(ORDER, &operator(), user_item("u2"), &[("productionType", "standard")])
    else {
        panic!()
    };
    assert_eq!(office.card(card).production_type.as_deref(), Some("standard"));
    let answer = Answer::ids([user_item("u3")]).with("productionType", "golden");
    let error = office.try_run(ORDER, &operator(), answer).unwrap_err();
    assert!(matches!(error, Error::Answer(AnswerError::NotAllowed { .. })), "{error}");
    let error = office.try_run(ORDER, &operator(), Answer::ids([user_item("u3")]).with("colour", "red")).unwrap_err();
    assert!(matches!(error, Error::Answer(AnswerError::UnknownField { .. })), "{error}");
}

#[test]
fn an_amount_is_written_in_one_way_and_what_is_not_seen_is_no_answer() {
    let office = Office::new();
    let answer = |amount: &str| office.try_run(ORDER_TEMPORARY, &operator(), Answer::new().with(Form::AMOUNT, amount));
    for wrong in ["+5", "005", "-1", "5.0", " 5", "0", "10", "٣"] {
        let error = answer(wrong).unwrap_err();
        assert!(matches!(error, Error::Answer(AnswerError::NotAllowed { .. })), "{wrong:?}: {error}");
    }
    for blank in ["", " ", "\u{200e}\u{200b}"] {
        let error = answer(blank).unwrap_err();
        assert!(matches!(error, Error::Answer(AnswerError::Missing { .. })), "{blank:?}: {error}");
    }
    assert_eq!(answer("5").unwrap().0.items, 5);
}

#[test]
fn a_production_type_has_a_name_that_can_be_seen() {
    let office = Office::new();
    let source = OptionSource::Script("CardsAddonExtProdProductionType = '\u{200b}'".to_owned());
    let set = block_on(office.engine.set_options(ORDER_SCRIPT, source, &administrator()));
    assert!(matches!(set, Err(Error::Options(_))), "{set:?}");
}

#[test]
fn a_bad_script_reports_all_its_problems_and_leaves_the_last_good_one_in_force() {
    let office = Office::new();
    office.script(ORDER_SCRIPT, "CardsAddonExtProdQueueCards = false");
    let bad = "CardsAddonExtProdQueuCards = true\nCardsAddonExtProdApproval = 7";
    let source = OptionSource::Script(bad.to_owned());
    match block_on(office.engine.set_options(ORDER_SCRIPT, source, &administrator())) {
        Err(Error::Options(problems)) => {
            assert_eq!(problems.iter().count(), 2, "{problems}");
            assert!(problems.to_string().contains("CardsAddonExtProdQueueCards"), "the nearest name: {problems}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(block_on(office.engine.option_versions(ORDER_SCRIPT)).unwrap().len(), 1);
    office.order("u1");
    assert_eq!(office.bureau.ledger().len(), 1, "still without the queue");
    let nonsense = OptionSource::Script(String::new());
    assert!(matches!(
        block_on(office.engine.set_options("NoScript", nonsense, &administrator())),
        Err(Error::Options(_))
    ));
}

#[test]
fn versions_say_who_and_when_and_any_can_be_put_back() {
    let office = Office::new();
    let engine = &office.engine;
    let set = |text: &str| {
        let source = OptionSource::Script(text.to_owned());
        block_on(engine.set_options(ORDER_SCRIPT, source, &administrator())).unwrap()
    };
    let first = set("CardsAddonExtProdQueueCards = false");
    office.clock.advance(Duration::from_secs(60));
    let later = set("CardsAddonExtProdQueueCards = true");
    assert_eq!(block_on(engine.option_versions(ORDER_SCRIPT)).unwrap(), [first.clone(), later.clone()]);
    assert_eq!((first.actor.as_str(), (later.at - first.at).num_seconds()), ("ada", 60));

    let back = block_on(engine.restore_options(ORDER_SCRIPT, &first.hash, &administrator())).unwrap();
    assert_eq!(back.hash, first.hash);
    assert_eq!(block_on(engine.option_versions(ORDER_SCRIPT)).unwrap().len(), 3);
    office.order("u1");
    assert_eq!(office.bureau.ledger().len(), 1, "the queue is off again");

    match block_on(engine.restore_options(ORDER_SCRIPT, "0123", &administrator())) {
        Err(Error::NoSuchVersion { version, .. }) => assert_eq!(version, "0123"),
        other => panic!("{other:?}"),
    }
    let refused = block_on(office.engine.restore_options(ORDER_SCRIPT, &later.hash, &administrator()));
    assert!(refused.is_ok());
}

#[test]
fn a_version_put_in_force_counts_for_every_instance() {
    let (repository, clock) = store();
    let office = Office::on(repository.clone(), clock, |builder| builder);
    let other = second(&office, repository, |builder| builder);
    other.order("u1");
    office.script(ORDER_SCRIPT, "CardsAddonExtProdQueueCards = false");
    other.order("u2");
    assert_eq!(office.bureau.ledger().len(), 1);
}

#[test]
fn a_dry_run_shows_what_would_change_for_whom_and_changes_nothing() {
    let office = Office::new();
    let subject = |department: &str| BTreeMap::from([("department".to_owned(), department.to_owned())]);
    let (reception, workshop) = (subject("reception"), subject("workshop"));
    let subjects = [("Rita", &reception), ("Wim", &workshop)]
        .map(|(label, user)| (label.to_owned(), cardwright::options::Subject::new(None, Some(user))));
    let source = OptionSource::Script(format!("CardsAddonExtProdQueueCards = false\n{BY_DEPARTMENT}"));
    let changes = block_on(office.engine.dry_run_options(ORDER_SCRIPT, &source, &subjects)).unwrap();
    let queue = changes.iter().find(|change| change.option == "CardsAddonExtProdQueueCards").unwrap();
    assert_eq!(queue.old, OptionState::Value(OptionValue::Boolean(true)));
    assert_eq!(queue.new, OptionState::Value(OptionValue::Boolean(false)));
    let people: Vec<_> = changes.iter().filter_map(|change| change.subject.as_deref()).collect();
    assert_eq!(people, ["Rita"], "for Wim the type stays: {changes:?}");
    assert_eq!(block_on(office.engine.option_versions(ORDER_SCRIPT)).unwrap(), []);
    office.order("u1");
    assert_eq!(office.bureau.ledger().len(), 0, "the queue is still on");
    let bad = OptionSource::Script("Nonsense = 1".to_owned());
    assert!(matches!(block_on(office.engine.dry_run_options(ORDER_SCRIPT, &bad, &[])), Err(Error::Options(_))));
}

#[test]
fn user_data_is_copied_when_it_is_ordered() {
    let office = Office::new();
    let card = office.card(office.order("u1"));
    let copied: Vec<_> = card.attributes.keys().map(String::as_str).collect();
    assert_eq!(copied, ["commonName", "email", "employeeNumber", "firstName", "lastName"]);
    let mut user: User = person(2);
    user.attributes.insert("commonName".to_owned(), "x".repeat(41));
    office.users.put(user);
    assert_eq!(code(&office.one(ORDER, &operator(), user_item("u2"), &[])), RefusalCode::CardElement);
}
