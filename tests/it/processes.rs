//! The table of all processes in the documents is what the code says.

use std::path::PathBuf;
use std::{env, fs};

use cardwright::options::{
    Limits, OptionCatalogue, OptionSource, OptionValue, Options, ResolvedOptions, Subject, load,
};
use cardwright::process::{Field, FieldKind, HouseRules, ProcessDefinition, ProcessRegistry};
use cardwright::{ProductionType, State as _};

const HOW_TO_BLESS: &str =
    "if the processes were meant to change, run `CARDWRIGHT_BLESS=1 cargo test --test it processes`";

#[test]
fn the_documented_processes_are_those_of_the_code() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/processes.md");
    let rendered = rendered();
    if env::var_os("CARDWRIGHT_BLESS").is_some_and(|value| value == "1") {
        fs::write(&path, &rendered).expect("the document can be written");
    }
    let committed = fs::read_to_string(&path).expect("the document is there").replace("\r\n", "\n");
    let differs = committed.lines().zip(rendered.lines()).position(|(old, new)| old != new);
    assert!(
        committed == rendered,
        "docs/processes.md is not what the code says, from line {} on; {HOW_TO_BLESS}",
        differs.unwrap_or_else(|| committed.lines().count().min(rendered.lines().count())) + 1
    );
}

const INTRO: &str = "\
# The processes

Each by its symbolic name, under which it is opened, enabled and permitted.

## Where they are offered, and to whom

A process that is *off* is refused until an administrator adds it to one of the slots that it fits in. The roles are those that usually run it, and what
`RolePolicy::standard` allows.

| symbolic name | title | takes | slots | roles |
|---|---|---|---|---|
";

const FORMS: &str = "
## What they ask, and what comes out

*If the options let choose* marks a field that is there only when an option offers more than one answer. The production types are examples.

| symbolic name | fields and what may be answered | outcomes | options read |
|---|---|---|---|
";

fn rendered() -> String {
    let registry = ProcessRegistry::standard();
    let (as_shipped, with_choices) = (options(&[]), options(&choices()));
    let rules = ["standard", "express"]
        .iter()
        .fold(HouseRules::new(), |rules, name| rules.production_type(ProductionType::new(*name, *name)));
    let mut text = INTRO.to_owned();
    for process in registry.definitions() {
        let slots = or_none(process.slots.iter().map(ToString::to_string));
        let slots = if process.on { format!("on: {slots}") } else { format!("off: {slots}") };
        let roles = or_none(process.roles.iter().map(ToString::to_string));
        text += &format!("| `{}` | {} | {} | {slots} | {roles} |\n", process.name, process.title, takes(process));
    }
    text += FORMS;
    for process in registry.definitions() {
        let code = registry.process(process.name.as_str()).expect("it is one of them");
        let always = code.fields(&as_shipped, &rules);
        let fields = code.fields(&with_choices, &rules);
        let fields = fields.iter().map(|field| {
            let words = described(field);
            if always.iter().any(|other| other.name == field.name) {
                words
            } else {
                format!("{words} (*if the options let choose*)")
            }
        });
        let options = or_none(process.options.iter().map(|name| format!("`{name}`")));
        let fields = fields.collect::<Vec<_>>().join("<br>");
        let fields = if fields.is_empty() { "none".to_owned() } else { fields };
        text += &format!("| `{}` | {fields} | {} | {options} |\n", process.name, process.outcomes.join(", "));
    }
    text
}

/// What an administrator sets to let operators choose wherever that can be.
fn choices() -> Vec<(&'static str, &'static str, OptionValue)> {
    let types = || OptionValue::Names(vec!["standard".to_owned(), "express".to_owned()]);
    let kinds = ["authentication", "signature", "encryption"];
    let certificates = OptionValue::Choices(kinds.map(|kind| (kind.to_owned(), "ask".to_owned())).into());
    vec![
        ("CardsScriptOptions", "CardsCertificates", certificates),
        ("CardsAddonExtProdScriptOptions", "CardsAddonExtProdProductionType", types()),
        ("TempCardsAddonExtProdScriptOptions", "TempCardsAddonExtProdProductionType", types()),
    ]
}

fn options(set: &[(&str, &str, OptionValue)]) -> ResolvedOptions {
    let catalogue = OptionCatalogue::standard();
    let scripts = set.iter().map(|(script, option, value)| {
        let source = OptionSource::Values([((*option).to_owned(), value.clone())].into());
        load(&catalogue, script, &source, &Limits::default()).expect("good values")
    });
    let options = Options::of(&catalogue, scripts).expect("no contradictions");
    options.resolve(&[], &Subject::default()).expect("no functions")
}

/// Kinds of items; of cards, which ones.
fn takes(process: &ProcessDefinition) -> String {
    let items = process.items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    let kind = process.card_kind.map(|kind| kind.name().to_owned());
    let route = process.route.map(|route| route.name().to_owned());
    let states: Vec<_> = process.required_states.iter().map(|state| state.name()).collect();
    let states = Some(states.join(" or ")).filter(|states| !states.is_empty());
    let which: Vec<_> = [kind, route, states].into_iter().flatten().collect();
    match (which.is_empty(), items == "cards") {
        (true, _) => items,
        (false, true) => format!("{items}: {}", which.join(", ")),
        (false, false) => format!("{items}; of cards: {}", which.join(", ")),
    }
}

fn described(field: &Field) -> String {
    let allowed = match &field.kind {
        FieldKind::Choice(choices) => choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", "),
        kind => kind.to_string(),
    };
    let needed = match (&field.required_when, field.required, &field.preset) {
        (Some((other, answer)), ..) => format!("; needed when `{other}` is `{answer}`"),
        (None, _, Some(preset)) => format!("; preset `{preset}`"),
        (None, true, None) => "; needed".to_owned(),
        (None, false, None) => "; may be left empty".to_owned(),
    };
    format!("`{}`: {allowed}{needed}", field.name)
}

fn or_none(words: impl Iterator<Item = String>) -> String {
    let words: Vec<_> = words.collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}
