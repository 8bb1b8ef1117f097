//! Options: catalogue, loading, resolving, changes, and scripts that mean harm.

use cardwright::options::{
    Allowed, CARD_END_STATE, CERTIFICATE_END_STATE, CERTIFICATES, CardEndState, CertificateChoice, CertificateEndState,
    Contradiction, ContradictionSide, Limits, MULTIPLE_ACTIVE, MULTIPLE_CARDS, ORDER_APPROVAL, ORDER_PRODUCTION_TYPE,
    OptionCatalogue, OptionKey, OptionProblems, OptionSource, OptionSpec, OptionState, OptionValue, Options,
    PIN_DELIVERY, PIN_LENGTH, PUK_DELIVERY, PUK_LENGTH, PinDelivery, ProblemKind, PukDelivery, QUEUE_CARDS,
    QUEUE_TEMPORARY_CARDS, REQUEST_APPROVAL, SEND_ORDERED_EMAIL, ScriptOptions, Subject, TEMPORARY_PRODUCTION_TYPE,
    VALIDITY_DAYS, dry_run, load,
};
use std::collections::BTreeMap;

const CARDS: &str = "CardsScriptOptions";
const ORDERS: &str = "CardsAddonExtProdScriptOptions";

fn load_values(script: &str, values: &[(&str, OptionValue)]) -> Result<ScriptOptions, OptionProblems> {
    let values = values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    load(&OptionCatalogue::standard(), script, &OptionSource::Values(values), &Limits::default())
}

fn attributes(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn kinds(problems: &OptionProblems) -> Vec<ProblemKind> {
    problems.iter().map(|problem| problem.kind).collect()
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let options = Options::defaults(&OptionCatalogue::standard());
    let all = options.resolve(&[], &Subject::default()).unwrap();
    assert_eq!(all.get(PIN_LENGTH).unwrap(), 6);
    assert_eq!(all.get(PUK_LENGTH).unwrap(), 8);
    assert_eq!(all.get(PIN_DELIVERY).unwrap(), PinDelivery::Print);
    assert_eq!(all.get(PUK_DELIVERY).unwrap(), PukDelivery::NoPuk);
    let certificates = all.get(CERTIFICATES).unwrap();
    assert_eq!(certificates["authentication"], CertificateChoice::Yes);
    assert_eq!(certificates["signature"], CertificateChoice::Yes);
    assert_eq!(certificates["encryption"], CertificateChoice::No);
    assert_eq!(all.get(CARD_END_STATE).unwrap(), CardEndState::Issued);
    assert_eq!(all.get(CERTIFICATE_END_STATE).unwrap(), CertificateEndState::OnHold);
    assert!(!all.get(REQUEST_APPROVAL).unwrap());
    assert!(!all.get(MULTIPLE_ACTIVE).unwrap());
    assert_eq!(all.get(VALIDITY_DAYS).unwrap(), 1095);
    assert!(!all.get(ORDER_APPROVAL).unwrap());
    assert_eq!(all.get(ORDER_PRODUCTION_TYPE).unwrap(), ["standard"]);
    assert!(all.get(QUEUE_CARDS).unwrap());
    assert!(!all.get(MULTIPLE_CARDS).unwrap());
    assert!(all.get(SEND_ORDERED_EMAIL).unwrap());
    assert_eq!(all.get(TEMPORARY_PRODUCTION_TYPE).unwrap(), ["standard"]);
    assert!(all.get(QUEUE_TEMPORARY_CARDS).unwrap());
}

#[test]
fn each_key_names_its_option_its_script_and_its_default() {
    let keys = include_str!("../../src/options/keys.rs");
    let mut named = 0;
    for spec in OptionCatalogue::standard().specs() {
        let line = format!("/// `{}` in `{}`, by default `{}`.", spec.name, spec.script, spec.default);
        assert!(keys.contains(&line), "{line}");
        named += 1;
    }
    assert_eq!(keys.matches("\npub const ").count(), named);
}

#[test]
fn typed_values_are_checked_as_scripts_are() {
    use OptionValue::{Boolean, Choices, Integer, Names, Text};
    let text = |text: &str| Text(text.to_owned());
    let names = |names: &[&str]| Names(names.iter().map(|&name| name.to_owned()).collect());
    let choices = |name: &str, choice: &str| Choices(attributes(&[(name, choice)]));
    let cases: Vec<(&str, OptionValue, Option<ProblemKind>)> = vec![
        ("CardsPINLength", Integer(4), None),
        ("CardsPINLength", Integer(12), None),
        ("CardsPINLength", text("6"), None),
        ("CardsPINLength", Integer(3), Some(ProblemKind::OutOfRange)),
        ("CardsPINLength", Integer(13), Some(ProblemKind::OutOfRange)),
        ("CardsPINLength", text("13"), Some(ProblemKind::OutOfRange)),
        ("CardsPINLength", text("99999999999999999999"), Some(ProblemKind::OutOfRange)),
        ("CardsPINLength", text("six"), Some(ProblemKind::WrongType)),
        ("CardsPINLength", text(""), Some(ProblemKind::WrongType)),
        ("CardsPINLength", Boolean(true), Some(ProblemKind::WrongType)),
        ("CardsPUKLength", Integer(5), Some(ProblemKind::OutOfRange)),
        ("CardsPINDeliveryMethod", text("nopin"), None),
        ("CardsPINDeliveryMethod", text("Print"), Some(ProblemKind::OutOfRange)),
        ("CardsPINDeliveryMethod", Integer(1), Some(ProblemKind::WrongType)),
        ("CardsValidityDays", Integer(3650), None),
        ("CardsValidityDays", Integer(0), Some(ProblemKind::OutOfRange)),
        ("CardsCertificates", choices("encryption", "ask, on"), None),
        ("CardsCertificates", choices("encryption", "maybe"), Some(ProblemKind::OutOfRange)),
        ("CardsCertificates", choices("login", "true"), Some(ProblemKind::OutOfRange)),
        ("CardsCertificates", Boolean(true), Some(ProblemKind::WrongType)),
        ("CardsMultipleActive", text("true"), Some(ProblemKind::WrongType)),
        ("CardsAddonExtProdProductionType", text("express"), None),
        ("CardsAddonExtProdProductionType", names(&["a", "b"]), None),
        ("CardsAddonExtProdProductionType", names(&[]), Some(ProblemKind::OutOfRange)),
        ("CardsAddonExtProdProductionType", names(&["a", "a"]), Some(ProblemKind::OutOfRange)),
        ("CardsAddonExtProdProductionType", text(" "), Some(ProblemKind::OutOfRange)),
        ("CardsAddonExtProdProductionType", text("a\0"), Some(ProblemKind::OutOfRange)),
    ];
    for (name, value, expected) in cases {
        let script = if name.starts_with("CardsAddon") { ORDERS } else { CARDS };
        let result = load_values(script, &[(name, value.clone())]);
        match expected {
            None => assert!(result.is_ok(), "{name} = {value}: {result:?}"),
            Some(kind) => {
                let problems = result.expect_err(&format!("{name} = {value}"));
                assert_eq!(kinds(&problems), [kind], "{name} = {value}");
                let problem = &problems.as_slice()[0];
                assert!(!problem.found.is_empty() && !problem.allowed.is_empty(), "{problem}");
            }
        }
    }
}

#[test]
fn certificates_left_out_keep_their_default() {
    let loaded =
        load_values(CARDS, &[("CardsCertificates", OptionValue::Choices(attributes(&[("encryption", "ask")])))])
            .unwrap();
    let options = Options::defaults(&OptionCatalogue::standard()).with(loaded).unwrap();
    let certificates = options.resolve(&[], &Subject::default()).unwrap().get(CERTIFICATES).unwrap();
    assert_eq!(certificates["encryption"], CertificateChoice::Ask);
    assert_eq!(certificates["signature"], CertificateChoice::Yes);
}

#[test]
fn contradictory_pair_names_both_lines_to_write() {
    let problems = load_values(CARDS, &[("CardsCardEndState", "active".into())]).unwrap_err();
    assert_eq!(kinds(&problems), [ProblemKind::Contradiction]);
    let message = problems.to_string();
    assert!(
        message.contains("`CardsCardEndState = \"active\"` with `CardsCertificateEndState = \"on hold\"`"),
        "{message}"
    );
    assert!(
        message.contains("write either `CardsCardEndState = \"issued\"` or `CardsCertificateEndState = \"valid\"`"),
        "{message}"
    );
    load_values(CARDS, &[("CardsCardEndState", "active".into()), ("CardsCertificateEndState", "valid".into())])
        .unwrap();
}

#[test]
fn unknown_names_come_with_the_nearest() {
    let problems = load_values(
        ORDERS,
        &[("CardsAddonExtProdQueuCards", true.into()), ("CardsPINLength", 6.into()), ("Zzz", 1.into())],
    )
    .unwrap_err();
    let message = problems.to_string();
    assert_eq!(kinds(&problems), [ProblemKind::UnknownOption; 3]);
    assert!(
        message.contains("`CardsAddonExtProdQueuCards`: no such option; did you mean `CardsAddonExtProdQueueCards`?"),
        "{message}"
    );
    assert!(message.contains("`CardsPINLength`: no such option: it belongs to `CardsScriptOptions`"), "{message}");
    let problems = load_values("CardScriptOptions", &[]).unwrap_err();
    assert_eq!(problems.as_slice()[0].kind, ProblemKind::UnknownScript);
    assert_eq!(problems.as_slice()[0].nearest.as_deref(), Some(CARDS));
}

#[test]
fn equal_sources_have_equal_hashes() {
    let values = |value: bool| OptionSource::Values(BTreeMap::from([("A".to_owned(), OptionValue::Boolean(value))]));
    assert_eq!(values(true).hash(), values(true).hash());
    assert_ne!(values(true).hash(), values(false).hash());
    assert_eq!(OptionSource::Script(String::new()).hash().len(), 64);
    assert_ne!(OptionSource::Script(String::new()).hash(), OptionSource::Values(BTreeMap::new()).hash());
    let json = serde_json::to_string(&values(true)).unwrap();
    assert_eq!(serde_json::from_str::<OptionSource>(&json).unwrap(), values(true));

    let before = Options::defaults(&OptionCatalogue::standard());
    let after = before.with(load_values(ORDERS, &[("CardsAddonExtProdQueueCards", false.into())]).unwrap()).unwrap();
    assert_ne!(before.hashes()[ORDERS], after.hashes()[ORDERS]);
    assert_eq!(before.hashes()[CARDS], after.hashes()[CARDS]);
}

#[test]
fn fixed_values_are_shared_by_all_items() {
    let options = Options::defaults(&OptionCatalogue::standard());
    let user = attributes(&[("name", "Ann")]);
    let names = [QUEUE_CARDS.name(), PIN_LENGTH.name()];
    let first = options.resolve(&names, &Subject::default()).unwrap();
    let second = options.resolve(&names, &Subject::new(None, Some(&user))).unwrap();
    assert!(first.is_shared_with(&second));
    assert!(!options.has_functions(&names));
}

#[test]
fn reading_what_is_not_there_is_an_error() {
    let options = Options::defaults(&OptionCatalogue::standard());
    let error = options.resolve(&["CardsPINLenght"], &Subject::default()).unwrap_err();
    assert_eq!((error.kind, error.nearest.as_deref()), (ProblemKind::UnknownOption, Some("CardsPINLength")));
    let resolved = options.resolve(&[], &Subject::default()).unwrap();
    assert_eq!(resolved.get(OptionKey::<bool>::new("CardsPINLength")).unwrap_err().kind, ProblemKind::NotResolved);
    assert_eq!(resolved.get(OptionKey::<bool>::new("Nothing")).unwrap_err().kind, ProblemKind::NotResolved);
}

#[test]
fn hosts_add_scripts_of_their_own() {
    let number = || Allowed::Integer { min: 1, max: 9 };
    let mut catalogue = OptionCatalogue::standard();
    let specs = vec![
        OptionSpec::new("BadgeCount", "BadgeOptions", number(), 3, "How many badges."),
        OptionSpec::new("BadgePrinted", "BadgeOptions", Allowed::Boolean, false, "Whether they are printed."),
    ];
    let pair = Contradiction::new(
        ContradictionSide::new("BadgePrinted", true, false),
        ContradictionSide::new("CardsPINDeliveryMethod", "email", "print"),
        "paper and mail do not mix",
    );
    catalogue.add("BadgeOptions", specs, vec![pair]).unwrap();
    let source = OptionSource::Values(BTreeMap::from([("BadgePrinted".to_owned(), OptionValue::Boolean(true))]));
    let badges = load(&catalogue, "BadgeOptions", &source, &Limits::default()).unwrap();
    let options = Options::defaults(&catalogue).with(badges).unwrap();
    assert!(options.resolve(&[], &Subject::default()).unwrap().get(OptionKey::<bool>::new("BadgePrinted")).unwrap());

    let source = OptionSource::Values(BTreeMap::from([("CardsPINDeliveryMethod".to_owned(), "email".into())]));
    let cards = load(&catalogue, CARDS, &source, &Limits::default()).unwrap();
    let problems = options.with(cards).unwrap_err();
    assert_eq!(kinds(&problems), [ProblemKind::Contradiction]);

    let foreign = load(&catalogue, "BadgeOptions", &OptionSource::Values(BTreeMap::new()), &Limits::default()).unwrap();
    assert_eq!(
        kinds(&Options::defaults(&OptionCatalogue::standard()).with(foreign).unwrap_err()),
        [ProblemKind::UnknownScript]
    );
}

#[test]
fn bad_specs_are_refused_and_nothing_is_added() {
    let boolean = |name: &str, script: &str| OptionSpec::new(name, script, Allowed::Boolean, true, "");
    let cases = [
        ("Mine", boolean("CardsPINLength", "Mine"), ProblemKind::TakenName),
        ("Mine", boolean("2nd", "Mine"), ProblemKind::IllFormedName),
        ("Mine", boolean("string", "Mine"), ProblemKind::IllFormedName),
        ("Mine", boolean("os", "Mine"), ProblemKind::IllFormedName),
        ("Mine", boolean("end", "Mine"), ProblemKind::IllFormedName),
        ("Mine", boolean("a b", "Mine"), ProblemKind::IllFormedName),
        ("Mine", boolean("Other", "Elsewhere"), ProblemKind::OtherScript),
        ("Mine", OptionSpec::new("Wrong", "Mine", Allowed::Boolean, 1, ""), ProblemKind::WrongType),
        ("Mine", OptionSpec::new("Wrong", "Mine", Allowed::Integer { min: 1, max: 2 }, 3, ""), ProblemKind::OutOfRange),
        (CARDS, boolean("Fine", CARDS), ProblemKind::TakenName),
        ("", boolean("Fine", ""), ProblemKind::IllFormedName),
    ];
    for (script, spec, kind) in cases {
        let mut catalogue = OptionCatalogue::standard();
        let problems = catalogue.add(script, vec![spec.clone()], Vec::new()).expect_err(&spec.name);
        assert_eq!(kinds(&problems), [kind], "{problems}");
        assert_eq!(catalogue, OptionCatalogue::standard());
    }
    let mut catalogue = OptionCatalogue::standard();
    let twice = vec![boolean("Mine1", "Mine"), boolean("Mine1", "Mine")];
    assert_eq!(kinds(&catalogue.add("Mine", twice, Vec::new()).unwrap_err()), [ProblemKind::TakenName]);
    let defaults = Contradiction::new(
        ContradictionSide::new("Mine1", true, false),
        ContradictionSide::new("CardsPINLength", 6, 7),
        "",
    );
    let problems = catalogue.add("Mine", vec![boolean("Mine1", "Mine")], vec![defaults]).unwrap_err();
    assert_eq!(kinds(&problems), [ProblemKind::Contradiction]);
}

#[test]
fn dry_run_lists_what_would_change() {
    let catalogue = OptionCatalogue::standard();
    let current = Options::defaults(&catalogue);
    let source = OptionSource::Values(BTreeMap::from([
        ("CardsPINLength".to_owned(), 8.into()),
        ("CardsPUKLength".to_owned(), 8.into()),
    ]));
    let changes = dry_run(&current, &catalogue, CARDS, &source, &Limits::default(), &[]).unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].to_string(), "`CardsPINLength`: 6 → 8");
    assert_eq!(changes[0].old, OptionState::Value(6.into()));
    assert_eq!(current.resolve(&[], &Subject::default()).unwrap().get(PIN_LENGTH).unwrap(), 6);
}

#[cfg(not(feature = "scripting"))]
#[test]
fn scripts_are_unsupported_in_this_build() {
    let source = OptionSource::Script("CardsPINLength = 6".to_owned());
    let problems = load(&OptionCatalogue::standard(), CARDS, &source, &Limits::default()).unwrap_err();
    assert_eq!(kinds(&problems), [ProblemKind::Unsupported]);
}

#[cfg(feature = "scripting")]
mod scripts {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

    /// No single script may take longer, whatever the machine; the wall clock of the limits is one second.
    const PATIENCE: Duration = Duration::from_secs(5);

    fn load_script(script: &str, text: &str) -> Result<ScriptOptions, OptionProblems> {
        load(&OptionCatalogue::standard(), script, &OptionSource::Script(text.to_owned()), &Limits::default())
    }

    fn put(text: &str) -> Options {
        let loaded = load_script(CARDS, text).unwrap_or_else(|problems| panic!("{text}\n{problems}"));
        Options::defaults(&OptionCatalogue::standard()).with(loaded).unwrap()
    }

    #[test]
    fn shipped_scripts_set_exactly_the_defaults() {
        let mut catalogue = OptionCatalogue::standard();
        let text =
            OptionSpec::new("HostText", "HostOptions", Allowed::OneOf(vec!["a\"b".to_owned()]), "a\"b", "Two\nlines.");
        let names = OptionValue::Names(vec!["a".to_owned(), "b".to_owned()]);
        let names = OptionSpec::new("HostNames", "HostOptions", Allowed::Names, names, "");
        catalogue.add("HostOptions", vec![text, names], Vec::new()).unwrap();
        let defaults = Options::defaults(&catalogue);
        assert_eq!(catalogue.scripts().count(), 4);
        for script in catalogue.scripts() {
            let text = catalogue.default_script(script).unwrap();
            for spec in catalogue.script_specs(script).unwrap() {
                assert!(
                    text.lines().any(|line| line.starts_with(&format!("{} = ", spec.name))),
                    "{} is not set in {script}",
                    spec.name
                );
            }
            let source = OptionSource::Script(text.to_owned());
            let loaded = load(&catalogue, script, &source, &Limits::default()).unwrap();
            assert_eq!(defaults.changes(&defaults.with(loaded).unwrap(), &[]), []);
        }
    }

    #[test]
    fn script_may_change_only_some_values() {
        let options =
            put("local digits = 4 + 4\nCardsPINLength = digits\nCardsPUKLength = tostring(CardsPINLength + 2)\n");
        let resolved = options.resolve(&[], &Subject::default()).unwrap();
        assert_eq!((resolved.get(PIN_LENGTH).unwrap(), resolved.get(PUK_LENGTH).unwrap()), (8, 10));
        assert_eq!(resolved.get(VALIDITY_DAYS).unwrap(), 1095);
    }

    #[test]
    fn all_problems_are_reported_at_once_with_their_lines() {
        let text = "CardsPINLength = 13\n\nCardsPINLenght = 6\nCardsPUKLength = 8\nCardsPUKLength = 9\nCardsCardEndState = \"active\"\n\
                    CardsMultipleActive = ture\nCardsValidityDays = {}\nlocal x = os\nprint(\"end\")\n";
        let problems = load_script(CARDS, text).unwrap_err();
        let seen: Vec<_> = problems.iter().map(|problem| (problem.line.unwrap(), problem.kind)).collect();
        let expected = [
            (1, ProblemKind::OutOfRange),
            (3, ProblemKind::UnknownOption),
            (5, ProblemKind::AssignedTwice),
            (6, ProblemKind::Contradiction),
            (7, ProblemKind::UnknownName),
            (8, ProblemKind::WrongType),
            (9, ProblemKind::Forbidden),
            (10, ProblemKind::Forbidden),
        ];
        assert_eq!(seen, expected, "{problems}");
        let message = problems.to_string();
        assert!(
            message.contains(
                "line 1: `CardsPINLength`: value not allowed: found 13, allowed is a whole number from 4 to 12"
            ),
            "{message}"
        );
        assert!(
            message.contains(
                "CardsScriptOptions line 3: `CardsPINLenght`: no such option; did you mean `CardsPINLength`?"
            ),
            "{message}"
        );
        assert!(message.contains("did you mean `true`?"), "{message}");
    }

    #[test]
    fn functions_see_card_and_user() {
        let options = put(concat!(
            "CardsPINLength = function(card, user)\n",
            "  if card == nil and user == nil then return 4 end\n",
            "  if card then return card.digits end\n",
            "  local n = 0\n  for name, value in pairs(user) do n += #value end\n  return n\nend\n",
        ));
        let names = [PIN_LENGTH.name()];
        let (card, user) = (attributes(&[("digits", "10")]), attributes(&[("a", "xxx"), ("b", "yyyy")]));
        let digits = |subject: &Subject<'_>| options.resolve(&names, subject).unwrap().get(PIN_LENGTH).unwrap();
        assert_eq!(digits(&Subject::default()), 4);
        assert_eq!(digits(&Subject::new(Some(&card), None)), 10);
        assert_eq!(digits(&Subject::new(None, Some(&user))), 7);
        assert!(options.has_functions(&names));
        assert!(options.resolve(&[], &Subject::default()).unwrap().get(PIN_LENGTH).is_err(), "not resolved");
    }

    #[test]
    fn function_that_fails_refuses_that_item_only() {
        let options =
            put("CardsPINLength = function(card, user)\n  if user.bad then error(\"no\") end\n  return 5\nend");
        let (bad, good) = (attributes(&[("bad", "1")]), attributes(&[]));
        for _ in 0..3 {
            let problem = options.resolve(&[PIN_LENGTH.name()], &Subject::new(None, Some(&bad))).unwrap_err();
            assert_eq!(problem.to_string(), "CardsScriptOptions line 2: `CardsPINLength`: the script failed: no");
            let resolved = options.resolve(&[PIN_LENGTH.name()], &Subject::new(None, Some(&good))).unwrap();
            assert_eq!(resolved.get(PIN_LENGTH).unwrap(), 5);
        }
    }

    #[test]
    fn function_results_are_checked_for_contradictions() {
        let options = put("CardsCardEndState = function(card, user) return user.state end");
        let names = [CARD_END_STATE.name(), CERTIFICATE_END_STATE.name()];
        let (active, issued) = (attributes(&[("state", "active")]), attributes(&[("state", "issued")]));
        let problem = options.resolve(&names, &Subject::new(None, Some(&active))).unwrap_err();
        assert_eq!((problem.kind, problem.line), (ProblemKind::Contradiction, Some(1)));
        options.resolve(&names, &Subject::new(None, Some(&issued))).unwrap();
    }

    #[test]
    fn function_is_called_once_per_item() {
        let options = put("local n = 3\nCardsPINLength = function() n += 1 return n end");
        let names = [PIN_LENGTH.name(), PIN_LENGTH.name()];
        let values: Vec<u8> =
            (0..3).map(|_| options.resolve(&names, &Subject::default()).unwrap().get(PIN_LENGTH).unwrap()).collect();
        assert_eq!(values, [4, 5, 6]);
    }

    #[test]
    fn dry_run_evaluates_functions_for_the_subjects() {
        let catalogue = OptionCatalogue::standard();
        let current = Options::defaults(&catalogue);
        let source =
            OptionSource::Script("CardsPINLength = function(card, user) return tonumber(user.digits) end".to_owned());
        let people = ["6", "8", "99"].map(|digits| attributes(&[("digits", digits)]));
        let subjects: Vec<_> =
            people.iter().map(|user| (user["digits"].clone(), Subject::new(None, Some(user)))).collect();
        let changes = dry_run(&current, &catalogue, CARDS, &source, &Limits::default(), &subjects).unwrap();
        let subjects: Vec<_> = changes.iter().map(|change| change.subject.as_deref()).collect();
        assert_eq!(subjects, [None, Some("8"), Some("99")]);
        assert!(matches!(&changes[0].new, OptionState::Function { .. }));
        assert_eq!(changes[1].to_string(), "`CardsPINLength` for 8: 6 → 8");
        assert!(matches!(&changes[2].new, OptionState::Problem(problem) if problem.kind == ProblemKind::OutOfRange));
    }

    #[test]
    fn large_subjects_do_not_count_against_the_script() {
        let options = put("CardsPINLength = function(card, user) return #user.a500 end");
        let user: BTreeMap<String, String> = (0..10_000)
            .map(|n| (format!("a{n}"), format!("{n:0>6}") + &"x".repeat(if n == 500 { 1 } else { 300 })))
            .collect();
        for _ in 0..5 {
            let resolved = options.resolve(&[PIN_LENGTH.name()], &Subject::new(None, Some(&user))).unwrap();
            assert_eq!(resolved.get(PIN_LENGTH).unwrap(), 7);
        }
    }

    #[test]
    fn functions_may_be_called_from_many_threads() {
        let options = put("CardsPINLength = function(card, user) return #user.name end");
        std::thread::scope(|scope| {
            for length in 4..12_u8 {
                let options = options.clone();
                scope.spawn(move || {
                    let user = attributes(&[("name", &"n".repeat(length.into()))]);
                    for _ in 0..50 {
                        let resolved = options.resolve(&[PIN_LENGTH.name()], &Subject::new(None, Some(&user))).unwrap();
                        assert_eq!(resolved.get(PIN_LENGTH).unwrap(), length);
                    }
                });
            }
        });
    }

    /// What a hostile piece of code does, the code (a function body), and the kinds of problem in which it may end.
    const HOSTILE: &[(&str, &str, &[ProblemKind])] = {
        use ProblemKind::*;
        &[
            ("endless loop", "while true do end", &[OutOfTime]),
            ("endless repeat with work", "local n = 0 repeat n += 1 until n < 0", &[OutOfTime]),
            ("pcall around endless loop", "while true do pcall(function() while true do end end) end", &[OutOfTime]),
            ("pcall swallows the stop", "pcall(function() while true do end end) return 6", &[OutOfTime]),
            ("xpcall with endless handler", "xpcall(error, function() while true do end end) return 6", &[OutOfTime]),
            (
                "handler that calls itself",
                "local function h(e) return xpcall(error, h) end xpcall(error, h) return h",
                &[TooDeep, OutOfTime],
            ),
            ("endless loop in coroutine", "coroutine.wrap(function() while true do end end)()", &[Forbidden]),
            (
                "coroutine bomb",
                "local t = {} while true do t[#t+1] = coroutine.create(function() end) end",
                &[Forbidden],
            ),
            ("coroutine yield", "coroutine.yield(6)", &[Forbidden]),
            ("string.rep bomb", "local s = string.rep('x', 1e9) return #s", &[OutOfMemory]),
            ("string.rep huge", "return #string.rep('xxxx', 2^31 - 1)", &[OutOfMemory]),
            ("string.rep of nothing", "return #string.rep('', 2^31 - 1) + 6 + os", &[Forbidden]),
            ("string.rep method swallowed", "pcall(function() return ('x'):rep(1e8) end) return 6", &[OutOfMemory]),
            ("concat doubling", "local s = 'x' while true do s = s .. s end", &[OutOfMemory]),
            (
                "concat doubling swallowed",
                "local s = 'x' while true do pcall(function() s = s .. s end) end",
                &[OutOfMemory],
            ),
            ("table bomb", "local t = {} while true do t[#t+1] = {} end", &[OutOfMemory]),
            ("nested table bomb", "local t = {} while true do t = {t} end", &[OutOfMemory]),
            (
                "closure bomb",
                "local f = function() end while true do local g = f f = function() return g end end",
                &[OutOfMemory],
            ),
            ("hash bomb", "local t, n = {}, 0 while true do n += 1 t['k' .. n] = n end", &[OutOfMemory]),
            ("table.create bomb", "return #table.create(1e8, 1)", &[OutOfMemory]),
            ("table.create huge", "return #table.create(2^31 - 1, 1)", &[OutOfMemory, Runtime]),
            (
                "table.concat bomb",
                "local t = table.create(1000, string.rep('x', 10000)) return table.concat(t)",
                &[OutOfMemory],
            ),
            ("table.concat of nothing", "return table.concat({}, 'x', 1, 2^31 - 1)", &[Runtime]),
            ("table.move over a huge range", "return table.move({}, 1, 2^31 - 2, 2)", &[Runtime]),
            ("table.unpack huge", "return table.unpack({}, 1, 1e7)", &[Runtime]),
            (
                "table.insert in front",
                "local t = table.create(5e4, 1) while true do table.insert(t, 1, 1) table.remove(t, 1) end",
                &[OutOfTime],
            ),
            (
                "sort with a lying order",
                "local t = table.create(5e4, 1) while true do table.sort(t, function() return true end) end",
                &[OutOfTime, Runtime],
            ),
            ("sort that never ends", "table.sort({1, 2, 3}, function() while true do end end)", &[OutOfTime]),
            (
                "pathological find",
                "return string.find(string.rep('a', 30000), string.rep('a?', 80) .. string.rep('a', 80) .. 'b')",
                &[OutOfTime],
            ),
            (
                "pathological find with stars",
                "return string.find(string.rep('a', 30000), '.-.-.-.-.-.-.-b')",
                &[OutOfTime],
            ),
            ("pathological match", "return string.match(string.rep('a', 30000), '(.*)(.*)(.*)(.*)b')", &[OutOfTime]),
            ("pathological gsub method", "return (('a'):rep(30000)):gsub('.-.-.-.-b', '')", &[OutOfTime]),
            (
                "pathological gmatch",
                "for _ in string.gmatch(string.rep('a', 30000), '.-.-.-.-.-b') do end",
                &[OutOfTime],
            ),
            (
                "swallowed pathological find",
                "pcall(string.find, string.rep('a', 30000), '.-.-.-.-.-.-.-b') return 6",
                &[OutOfTime],
            ),
            (
                "plain find of long text",
                "local s = ('a'):rep(5e5) return s:find(('a'):rep(2e5) .. 'b', 1, true)",
                &[Runtime],
            ),
            ("long class in pattern", "return (('a'):rep(6e4)):find('[' .. ('b'):rep(1e5) .. ']+')", &[Runtime]),
            ("split on long text", "return #string.split(('a'):rep(6e4), ('a'):rep(3e4) .. 'b')", &[Runtime]),
            ("pattern recursion", "return string.find(string.rep('(', 250), string.rep('(', 250))", &[Runtime]),
            ("format with huge width", "return string.format('%999999999d', 1)", &[Runtime]),
            ("format with huge precision", "return string.format('%.999999999f', 1)", &[Runtime]),
            ("format bomb", "local s = ('x'):rep(1e6) return string.format('%s%s%s%s', s, s, s, s)", &[OutOfMemory]),
            (
                "__index loop",
                "local t t = setmetatable({}, {__index = function(s, k) return t[k .. 'x'] end}) return t.x",
                &[TooDeep],
            ),
            (
                "__index cycle",
                "local a, b = {}, {} setmetatable(a, {__index = b}) setmetatable(b, {__index = a}) return a.x",
                &[Runtime],
            ),
            (
                "__newindex loop",
                "local t t = setmetatable({}, {__newindex = function(s, k, v) t[k .. 'x'] = v end}) t.x = 1",
                &[TooDeep],
            ),
            (
                "__eq loop",
                "local m = {} m.__eq = function(a, b) return a == b end return setmetatable({}, m) == setmetatable({}, m)",
                &[TooDeep],
            ),
            (
                "__lt loop",
                "local m = {} m.__lt = function(a, b) return a < b end return setmetatable({}, m) < setmetatable({}, m)",
                &[TooDeep],
            ),
            (
                "__concat loop",
                "local m = {} m.__concat = function(a, b) return a .. b end return setmetatable({}, m) .. 'x'",
                &[TooDeep],
            ),
            (
                "__tostring loop",
                "local m = {} m.__tostring = function(s) return tostring(s) end return tostring(setmetatable({}, m))",
                &[TooDeep],
            ),
            (
                "__call loop",
                "local m = {} m.__call = function(s) return s() + 1 end return setmetatable({}, m)()",
                &[TooDeep, OutOfMemory],
            ),
            ("__len endless", "return #setmetatable({}, {__len = function() while true do end end})", &[OutOfTime]),
            (
                "__iter endless",
                "for _ in setmetatable({}, {__iter = function() return function() return 1 end end}) do end",
                &[OutOfTime],
            ),
            ("deep recursion", "local function f() return 1 + f() end return f()", &[TooDeep, OutOfMemory]),
            (
                "deep recursion with pcall",
                "local function f() local ok = pcall(f) return ok end f() return 6",
                &[TooDeep, OutOfMemory],
            ),
            (
                "branching recursion with pcall",
                "local function f() pcall(f) pcall(f) end f() return 6",
                &[TooDeep, OutOfMemory, OutOfTime],
            ),
            (
                "deep recursion with xpcall",
                "local function f() xpcall(f, f) end f() return 6",
                &[TooDeep, OutOfMemory, OutOfTime],
            ),
            ("recursion through sort", "local function f() table.sort({1, 2}, f) end f()", &[TooDeep]),
            ("recursion through gsub", "local function f() return (('a'):gsub('a', f)) end return f()", &[TooDeep]),
            ("tail calls without end", "local function f() return f() end return f()", &[OutOfTime, TooDeep]),
            ("reach for io", "return io.open('/etc/passwd')", &[Forbidden]),
            ("reach for os in pcall", "pcall(function() os.exit() end) return 6", &[Forbidden]),
            ("reach for load", "return load('return 6')()", &[Forbidden]),
            ("reach for loadstring", "return loadstring('return 6')()", &[Forbidden]),
            ("reach for require", "return require('os')", &[Forbidden]),
            ("reach for getfenv", "return getfenv(0)", &[Forbidden]),
            ("reach for setfenv", "setfenv(1, {}) return 6", &[Forbidden]),
            ("reach for debug", "return debug.info(1, 'l')", &[Forbidden]),
            ("reach for _G", "return _G.os", &[Forbidden]),
            ("reach for collectgarbage", "collectgarbage('stop') return 6", &[Forbidden]),
            ("reach for newproxy", "return newproxy(true)", &[Forbidden]),
            ("reach for buffer", "return buffer.create(1e9)", &[Forbidden]),
            ("reach for print", "print('x') return 6", &[Forbidden]),
            ("random", "return math.random(4, 12)", &[Runtime]),
            ("poison the text methods", "getmetatable('').__index = function() return 6 end", &[Runtime]),
            ("replace the text metatable", "return setmetatable('', {})", &[Runtime]),
            ("poison a library", "string.find = nil", &[Runtime]),
            ("poison a library raw", "rawset(string, 'find', 1)", &[Runtime]),
            ("poison a library's metatable", "setmetatable(math, {__index = function() return 6 end})", &[Runtime]),
            ("poison through freeze", "setmetatable(table.freeze({}), {}) return 6", &[Runtime]),
            ("error with a table", "error({code = 1})", &[Runtime]),
            (
                "error with a hostile table",
                "error(setmetatable({}, {__tostring = function() while true do end end}))",
                &[Runtime, OutOfTime],
            ),
            ("error with nil", "error(nil)", &[Runtime]),
            ("error with a function", "error(function() end)", &[Runtime]),
            ("error with a huge text", "error(('x'):rep(1e6))", &[Runtime, OutOfMemory]),
            ("error that claims another line", "error('script:999999999999: no', 0)", &[Runtime]),
            ("call of nil", "local x return x()", &[Runtime]),
        ]
    };

    #[test]
    fn hostile_scripts_end_in_a_named_problem() {
        for (what, code, expected) in HOSTILE {
            let start = Instant::now();
            let problems =
                load_script(CARDS, &format!("do\nlocal function run() {code}\nend\nrun()\nend")).expect_err(what);
            let elapsed = start.elapsed();
            assert!(problems.iter().any(|problem| expected.contains(&problem.kind)), "{what}: {problems}");
            assert!(elapsed < PATIENCE, "{what} took {elapsed:?}");
            put("CardsPINLength = string.find('xxxxabc', 'abc')");
        }
    }

    #[test]
    fn hostile_functions_refuse_their_item_only() {
        for (what, code, expected) in HOSTILE {
            let options = put(&format!(
                "CardsPINLength = function(card, user)\nif user then return ('xxxxabc'):find('abc') end\n{code}\nend"
            ));
            let good = attributes(&[]);
            for round in 0..2 {
                let start = Instant::now();
                let problem = options.resolve(&[PIN_LENGTH.name()], &Subject::default()).expect_err(what);
                let elapsed = start.elapsed();
                assert!(expected.contains(&problem.kind), "{what}: {problem}");
                assert_eq!(problem.script, CARDS);
                assert!(elapsed < PATIENCE, "{what} took {elapsed:?}");
                let resolved = options.resolve(&[PIN_LENGTH.name()], &Subject::new(None, Some(&good)));
                let resolved = resolved.unwrap_or_else(|problem| panic!("after {what}, round {round}: {problem}"));
                assert_eq!(resolved.get(PIN_LENGTH).unwrap(), 5);
            }
        }
    }

    /// On a thread with a stack of a host that is short of it.
    fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
        let thread = std::thread::Builder::new().stack_size(128 * 1024).spawn(work).expect("a thread");
        thread.join().expect("nothing panics on a small stack");
    }

    /// Each nests library functions that call back as deep as it can.
    const NESTING: &[(&str, &str)] = &[
        ("gsub", "local function f() return (('a'):gsub('a', f)) end return f()"),
        ("gsub with text", "local function f(t) return (('aaaa'):rep(100):gsub('a+', f)) end return f()"),
        (
            "__tostring",
            "local m = {} m.__tostring = function(s) return tostring(s) end return tostring(setmetatable({}, m))",
        ),
        ("__tostring is tostring", "return tostring(setmetatable({}, {__tostring = tostring}))"),
        (
            "__tostring in format",
            "local m = {} m.__tostring = function(s) return string.format('%s %s', s, s) end return tostring(setmetatable({}, m))",
        ),
        ("sort", "local function f() local t = table.create(200, 1) table.sort(t, f) end f()"),
        ("__index", "local t = {} setmetatable(t, {__index = function(s, k) return s[k .. 'x'] end}) return t.a"),
        (
            "__lt",
            "local m = {} local a, b = setmetatable({}, m), setmetatable({}, m) m.__lt = function(x, y) return x < y end return a < b",
        ),
        (
            "__concat and sort",
            "local m = {} local a = setmetatable({}, m) m.__concat = function(x, y) table.sort({1, 2, 3}, function() return x .. y end) end return a .. a",
        ),
        (
            "gsub in sort in pcall",
            "local function f() pcall(table.sort, {3, 2, 1}, function() return (('a'):gsub('a', f)) end) end f()",
        ),
        (
            "xpcall handlers",
            "local function f() return xpcall(f, function() return ('a'):gsub('a', f) end) end f() return 6",
        ),
        ("__iter", "local m = {} m.__iter = function(s) for _ in s do end end for _ in setmetatable({}, m) do end"),
        (
            "__eq",
            "local m = {} m.__eq = function(x, y) return setmetatable({}, m) == setmetatable({}, m) end return setmetatable({}, m) == setmetatable({}, m)",
        ),
    ];

    #[test]
    fn hostile_functions_do_not_touch_the_stack_of_the_caller() {
        let cases = HOSTILE.iter().map(|(what, code, _)| (*what, *code)).chain(NESTING.iter().copied());
        for (what, code) in cases {
            let options =
                put(&format!("CardsPINLength = function(card, user)\nif user then return 5 end\n{code}\nend"));
            on_a_small_stack(move || {
                let problem = options.resolve(&[PIN_LENGTH.name()], &Subject::default()).expect_err(what);
                assert_ne!(problem.kind, ProblemKind::NotResolved, "{what}: {problem}");
                let good = attributes(&[]);
                let resolved = options.resolve(&[PIN_LENGTH.name()], &Subject::new(None, Some(&good)));
                assert_eq!(resolved.expect(what).get(PIN_LENGTH).expect(what), 5);
            });
        }
    }

    #[test]
    fn hostile_scripts_do_not_touch_the_stack_of_the_caller() {
        for (what, code) in NESTING {
            on_a_small_stack(move || {
                load_script(CARDS, &format!("do local function run() {code} end run() end")).expect_err(what);
            });
        }
    }

    #[test]
    fn options_whose_functions_are_called_from_many_threads_give_each_its_own_answer() {
        let options = put("CardsPINLength = function(card, user) return tonumber(user.length) end");
        std::thread::scope(|scope| {
            for length in 4..=12_u8 {
                let options = options.clone();
                scope.spawn(move || {
                    let user = attributes(&[("length", &length.to_string())]);
                    for _ in 0..200 {
                        let resolved = options.resolve(&[PIN_LENGTH.name()], &Subject::new(None, Some(&user))).unwrap();
                        assert_eq!(resolved.get(PIN_LENGTH).unwrap(), length);
                    }
                });
            }
        });
    }

    #[test]
    fn hostile_values_are_refused() {
        use ProblemKind::{Forbidden, OutOfRange, WrongType};
        let cases = [
            ("nil", WrongType),
            ("{}", WrongType),
            ("true", WrongType),
            ("6.5", OutOfRange),
            ("0/0", OutOfRange),
            ("1/0", OutOfRange),
            ("-1/0", OutOfRange),
            ("2^53", OutOfRange),
            ("1e300", OutOfRange),
            ("-6", OutOfRange),
            ("'6.0'", WrongType),
            ("' 6'", WrongType),
            ("'0x6'", WrongType),
            ("('9'):rep(1000)", OutOfRange),
            ("('9'):rep(1e6)", WrongType),
            ("'\\255'", WrongType),
            ("setmetatable({}, {__index = function() return 6 end})", WrongType),
            ("setmetatable({}, {__tostring = function() while true do end end})", WrongType),
            ("{{{}}}", WrongType),
            ("{[{}] = 1}", WrongType),
            ("table.create(1000, 1)", WrongType),
            ("string", WrongType),
        ];
        for (value, kind) in cases {
            let problems = load_script(CARDS, &format!("CardsPINLength = {value}")).expect_err(value);
            assert_eq!(kinds(&problems), [kind], "{value}: {problems}");
            assert_eq!(problems.as_slice()[0].line, Some(1));
            let options = put(&format!("CardsPINLength = function() return {value} end"));
            let problem = options.resolve(&[PIN_LENGTH.name()], &Subject::default()).expect_err(value);
            assert_eq!((problem.kind, problem.line), (kind, Some(1)), "{value}: {problem}");
        }
        let options = put("CardsPINLength = function() return function() end end");
        assert_eq!(options.resolve(&[PIN_LENGTH.name()], &Subject::default()).unwrap_err().kind, WrongType);
        let options = put("CardsPINLength = function() CardsPUKLength = 6 return 6 end");
        assert_eq!(options.resolve(&[PIN_LENGTH.name()], &Subject::default()).unwrap_err().kind, Forbidden);
        let options = put("CardsPINLength = function() pcall(function() CardsPUKLength = 6 end) return 6 end");
        assert_eq!(options.resolve(&[PIN_LENGTH.name()], &Subject::default()).unwrap_err().kind, Forbidden);
        let options = put("CardsPINLength = function(card, user) user.name = 'x' return 6 end");
        let user = attributes(&[("name", "a")]);
        assert_eq!(
            options.resolve(&[PIN_LENGTH.name()], &Subject::new(None, Some(&user))).unwrap_err().kind,
            ProblemKind::Runtime
        );
    }

    #[test]
    fn certificates_and_names_are_read_from_tables() {
        let options = put("CardsCertificates = { encryption = 'ask, on', signature = false }");
        let certificates = options.resolve(&[], &Subject::default()).unwrap().get(CERTIFICATES).unwrap();
        let choices: Vec<_> = certificates.values().map(|choice| choice.text()).collect();
        assert_eq!(choices, ["true", "ask, on", "false"]);
        for value in
            ["{ signature = 'true' }", "{ 1 }", "{ signature = true, 1 }", "{ signature = setmetatable({}, {}) }"]
        {
            let problems = load_script(CARDS, &format!("CardsCertificates = {value}")).expect_err(value);
            assert_eq!(kinds(&problems), [ProblemKind::WrongType], "{value}");
        }
        let production = |value: &str| load_script(ORDERS, &format!("CardsAddonExtProdProductionType = {value}"));
        assert!(production("{ 'standard', 'express' }").is_ok());
        for value in ["{ 'a', nil, 'b' }", "{ 'a', 1 }", "{ a = 'b' }"] {
            assert_eq!(kinds(&production(value).unwrap_err()), [ProblemKind::WrongType], "{value}");
        }
    }

    #[test]
    fn hostile_texts_are_refused_before_they_run() {
        let cases: Vec<(&str, String, ProblemKind)> = vec![
            ("bytecode", "\x1bLua".to_owned(), ProblemKind::Syntax),
            ("Luau bytecode", "\x06\x03\x01".to_owned(), ProblemKind::Syntax),
            ("NUL hides the rest", "CardsPINLength = 6\n\0 while true do end".to_owned(), ProblemKind::Syntax),
            ("too long", " ".repeat(70_000), ProblemKind::TooLong),
            ("not Lua", "CardsPINLength == 6".to_owned(), ProblemKind::Syntax),
            ("unfinished", "CardsPINLength = {".to_owned(), ProblemKind::Syntax),
            (
                "deep parentheses",
                format!("CardsPINLength = {}6{}", "(".repeat(30_000), ")".repeat(30_000)),
                ProblemKind::Syntax,
            ),
            (
                "deep tables",
                format!("CardsPINLength = {}{}", "{".repeat(30_000), "}".repeat(30_000)),
                ProblemKind::Syntax,
            ),
            (
                "tables just not too deep",
                format!("CardsPINLength = {}{}", "{".repeat(190), "}".repeat(190)),
                ProblemKind::WrongType,
            ),
            ("deep functions", "local x = function() ".repeat(2_000), ProblemKind::Syntax),
            ("deep blocks", "do ".repeat(20_000), ProblemKind::Syntax),
            ("deep conditions", "if 1 then ".repeat(5_000), ProblemKind::Syntax),
            ("long chain of conditions", "if x then else".repeat(4_000), ProblemKind::Syntax),
            ("deep negation", format!("local x = {}1", "not ".repeat(15_000)), ProblemKind::Syntax),
            ("long concatenation", format!("local x = 'a'{}", "..'a'".repeat(12_000)), ProblemKind::Syntax),
            ("many locals", "local a = {}\n".repeat(300), ProblemKind::Syntax),
        ];
        for (what, text, kind) in cases {
            let start = Instant::now();
            let problems = load_script(CARDS, &text).expect_err(what);
            assert_eq!(kinds(&problems), [kind], "{what}: {problems}");
            assert!(start.elapsed() < PATIENCE, "{what} took {:?}", start.elapsed());
        }
    }

    #[test]
    fn straight_code_without_loops_stays_in_bounds() {
        for step in ["b=a..'y'\n", "b=a<c\n"] {
            let mut text = "local a,b,c=('x'):rep(1e6),nil,('x'):rep(1e5)\n".to_owned();
            while text.len() < 64_000 {
                text.push_str(step);
            }
            let start = Instant::now();
            let _ = load_script(CARDS, &text);
            assert!(start.elapsed() < PATIENCE, "{step:?} took {:?}", start.elapsed());
        }
    }

    #[test]
    fn names_offered_to_scripts_cannot_be_replaced() {
        let problems = load_script(
            CARDS,
            "string = {}\nfunction helper() end\npcall = nil\nCardsPINLength = string.len('xxxxxx')",
        )
        .unwrap_err();
        assert_eq!(kinds(&problems), [ProblemKind::UnknownOption; 3], "{problems}");
    }

    #[test]
    fn budgets_are_what_the_limits_say() {
        let text = "for i = 1, 1000 do end\nCardsPINLength = 6";
        let run =
            |limits: Limits| load(&OptionCatalogue::standard(), CARDS, &OptionSource::Script(text.to_owned()), &limits);
        assert!(run(Limits::new(2_000, 1 << 20, Duration::from_secs(10))).is_ok());
        assert_eq!(
            kinds(&run(Limits::new(500, 1 << 20, Duration::from_secs(10))).unwrap_err()),
            [ProblemKind::OutOfTime]
        );
        assert_eq!(kinds(&run(Limits::new(2_000, 1 << 20, Duration::ZERO)).unwrap_err()), [ProblemKind::OutOfTime]);
        assert_eq!(
            kinds(&run(Limits::new(2_000, 16, Duration::from_secs(10))).unwrap_err()),
            [ProblemKind::OutOfMemory]
        );
    }

    #[test]
    fn what_a_function_hoards_costs_one_item_and_is_then_forgotten() {
        let options = put(
            "local hoard = {}\nCardsPINLength = function() hoard[#hoard + 1] = ('x'):rep(100000 + #hoard) return 6 end",
        );
        let results: Vec<bool> =
            (0..60).map(|_| options.resolve(&[PIN_LENGTH.name()], &Subject::default()).is_ok()).collect();
        let refused = results.iter().filter(|ok| !**ok).count();
        assert!((1..=6).contains(&refused), "{results:?}");
        assert!(!results.windows(2).any(|pair| pair == [false, false]), "{results:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn random_text_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = load_script(CARDS, &String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn random_words_never_panic(words in proptest::collection::vec(proptest::sample::select(vec![
            "CardsPINLength", "=", "function", "end", "(", ")", "{", "}", "return", "6", "'x'", "..", "string", ".", "rep", "local", "x", ",", "\n",
            "pcall", "error", "while", "true", "do", "setmetatable", "nil", "os", "[", "]", "#", "-", "if", "then",
        ]), 0..40)) {
            let text = words.join(" ");
            if let Ok(loaded) = load_script(CARDS, &text) {
                let options = Options::defaults(&OptionCatalogue::standard()).with(loaded).unwrap();
                let _ = options.resolve(&[PIN_LENGTH.name()], &Subject::default());
            }
        }
    }
}
