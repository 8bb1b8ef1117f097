use super::problem::{OptionProblem, OptionProblems, ProblemKind};
use crate::production_type::is_blank;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The checked value of an option.
///
/// The display is what a script would write: `true`, `6`, `"print"`, `{ "standard", "express" }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OptionValue {
    /// Yes or no.
    Boolean(bool),
    /// A whole number; its unit is that of the option.
    Integer(i64),
    /// A text.
    Text(String),
    /// One or more names, the first being the preset.
    Names(Vec<String>),
    /// A choice for each of several names; `"true"` and `"false"` stand for the plain booleans.
    Choices(BTreeMap<String, String>),
}

impl fmt::Display for OptionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Raw::from(self).fmt(f)
    }
}

impl From<bool> for OptionValue {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<i64> for OptionValue {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<i32> for OptionValue {
    fn from(value: i32) -> Self {
        Self::Integer(value.into())
    }
}

impl From<&str> for OptionValue {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

/// Which values an option may have.
///
/// The display completes the sentence "allowed is …".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allowed {
    /// `true` or `false`.
    Boolean,
    /// A whole number from `min` to `max`, both included, written as a number or as a text of decimal digits.
    Integer {
        /// The least value.
        min: i64,
        /// The greatest value.
        max: i64,
    },
    /// One of these texts, exactly.
    OneOf(Vec<String>),
    /// A name, or a list of distinct names whose first is the preset; at least one and at most 100, each of 1 to 200 characters without control
    /// characters.
    Names,
    /// A table with one of `values` for each of `names`; a name left out keeps its default.
    ///
    /// The values `"true"` and `"false"` stand for the plain booleans, which is how a script writes them.
    ChoicesPerName {
        /// The names that may occur in the table.
        names: Vec<String>,
        /// What each of them may be set to.
        values: Vec<String>,
    },
}

impl Allowed {
    /// The value in its final form: digits as a number, a single name as a list of one, choices left out as in the default.
    fn check(&self, raw: &Raw, default: &OptionValue) -> Result<OptionValue, ProblemKind> {
        match self {
            Self::Boolean => match raw {
                Raw::Boolean(value) => Ok(OptionValue::Boolean(*value)),
                _ => Err(ProblemKind::WrongType),
            },
            Self::Integer { min, max } => {
                let number = match raw {
                    Raw::Integer(number) => *number,
                    Raw::Number(_) => return Err(ProblemKind::OutOfRange),
                    Raw::Text(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                        text.parse().map_err(|_| ProblemKind::OutOfRange)?
                    }
                    _ => return Err(ProblemKind::WrongType),
                };
                if (*min..=*max).contains(&number) {
                    Ok(OptionValue::Integer(number))
                } else {
                    Err(ProblemKind::OutOfRange)
                }
            }
            Self::OneOf(values) => match raw {
                Raw::Text(text) if values.contains(text) => Ok(OptionValue::Text(text.clone())),
                Raw::Text(_) => Err(ProblemKind::OutOfRange),
                _ => Err(ProblemKind::WrongType),
            },
            Self::Names => {
                let names = match raw {
                    Raw::Text(name) => vec![name.clone()],
                    Raw::List(items) => items
                        .iter()
                        .map(|item| match item {
                            Raw::Text(name) => Ok(name.clone()),
                            _ => Err(ProblemKind::WrongType),
                        })
                        .collect::<Result<Vec<_>, _>>()?,
                    _ => return Err(ProblemKind::WrongType),
                };
                let distinct: BTreeSet<&String> = names.iter().collect();
                let usable = |name: &String| {
                    !is_blank(name) && name.chars().count() <= 200 && !name.chars().any(char::is_control)
                };
                if names.is_empty() || names.len() > 100 || distinct.len() < names.len() || !names.iter().all(usable) {
                    return Err(ProblemKind::OutOfRange);
                }
                Ok(OptionValue::Names(names))
            }
            Self::ChoicesPerName { names, values } => {
                let given = match raw {
                    Raw::Table(given) => given.as_slice(),
                    Raw::List(items) if items.is_empty() => &[],
                    _ => return Err(ProblemKind::WrongType),
                };
                let mut choices = match default {
                    OptionValue::Choices(choices) => choices.clone(),
                    _ => BTreeMap::new(),
                };
                for (name, value) in given {
                    let choice = match value {
                        Raw::Boolean(value) => value.to_string(),
                        Raw::Text(text) if text != "true" && text != "false" => text.clone(),
                        _ => return Err(ProblemKind::WrongType),
                    };
                    if !names.contains(name) || !values.contains(&choice) {
                        return Err(ProblemKind::OutOfRange);
                    }
                    choices.insert(name.clone(), choice);
                }
                if names.iter().all(|name| choices.contains_key(name)) {
                    Ok(OptionValue::Choices(choices))
                } else {
                    Err(ProblemKind::OutOfRange)
                }
            }
        }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &[String]| values.iter().map(|value| choice_literal(value)).collect::<Vec<_>>().join(", ");
        match self {
            Self::Boolean => f.write_str("true or false"),
            Self::Integer { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::OneOf(values) => {
                let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
                write!(f, "one of {}", values.join(", "))
            }
            Self::Names => f.write_str("a name, or a list of different names of which the first is the preset"),
            Self::ChoicesPerName { names, values } => {
                write!(f, "a table of {}, each one of {}", names.join(", "), list(values))
            }
        }
    }
}

/// One option: its name, the script it is set in, what is allowed and what it is when nobody sets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OptionSpec {
    /// The name, unique in a catalogue: an ASCII letter, then letters, digits and underscores.
    pub name: String,
    /// The script that sets it.
    pub script: String,
    /// Which values it may have.
    pub allowed: Allowed,
    /// The value when nobody sets it.
    pub default: OptionValue,
    /// What it is for, in plain words.
    pub description: String,
}

impl OptionSpec {
    /// Describes an option; it is checked when it is added to an [`OptionCatalogue`].
    pub fn new(
        name: impl Into<String>,
        script: impl Into<String>,
        allowed: Allowed,
        default: impl Into<OptionValue>,
        description: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            script: script.into(),
            allowed,
            default: default.into(),
            description: description.into(),
        }
    }

    /// Checks a typed value and returns it in its final form: digits as a number, a single name as a list of one, choices left out as in the
    /// default.
    ///
    /// # Errors
    /// [`ProblemKind::WrongType`] or [`ProblemKind::OutOfRange`], with what was found and what is allowed.
    pub fn check(&self, value: &OptionValue) -> Result<OptionValue, OptionProblem> {
        self.check_raw(&Raw::from(value), None)
    }

    pub(super) fn check_raw(&self, raw: &Raw, line: Option<u32>) -> Result<OptionValue, OptionProblem> {
        self.allowed.check(raw, &self.default).map_err(|kind| {
            OptionProblem::new(&self.script, kind).at(line).option(&self.name).found(raw).allowed(&self.allowed)
        })
    }
}

/// One side of a [`Contradiction`]: an option, its value in the forbidden pair, and the value to write instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ContradictionSide {
    /// The name of the option.
    pub name: String,
    /// Its value in the pair.
    pub value: OptionValue,
    /// What to write instead.
    pub instead: OptionValue,
}

impl ContradictionSide {
    /// One side of a pair: the option, its value in the pair, and the value to write instead.
    pub fn new(name: impl Into<String>, value: impl Into<OptionValue>, instead: impl Into<OptionValue>) -> Self {
        Self { name: name.into(), value: value.into(), instead: instead.into() }
    }
}

/// Two option values that may not be in force together. Its message names both lines to write, of which one is enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Contradiction {
    /// One side of the pair.
    pub first: ContradictionSide,
    /// The other side.
    pub second: ContradictionSide,
    /// Why they exclude each other, in plain words.
    pub reason: String,
}

impl Contradiction {
    /// A pair that may not be in force together; `reason` says why, in plain words.
    pub fn new(first: ContradictionSide, second: ContradictionSide, reason: impl Into<String>) -> Self {
        Self { first, second, reason: reason.into() }
    }

    /// The problem, if both values are in force.
    pub(super) fn check<'a>(
        &self,
        catalogue: &OptionCatalogue,
        value: impl Fn(&str) -> Option<&'a OptionValue>,
        line: impl Fn(&str) -> Option<u32>,
    ) -> Option<OptionProblem> {
        let (first, second) = (&self.first, &self.second);
        if value(&first.name) != Some(&first.value) || value(&second.name) != Some(&second.value) {
            return None;
        }
        // The problem belongs to the line that was written last, or to the only one that was written.
        let place = if line(&second.name) > line(&first.name) { second } else { first };
        let script = catalogue.spec(&place.name).map_or("", |spec| spec.script.as_str());
        let found =
            format!("`{} = {}` with `{} = {}`: {}", first.name, first.value, second.name, second.value, self.reason);
        let allowed =
            format!("write either `{} = {}` or `{} = {}`", first.name, first.instead, second.name, second.instead);
        Some(
            OptionProblem::new(script, ProblemKind::Contradiction)
                .at(line(&place.name))
                .option(&place.name)
                .found(found)
                .allowed(allowed),
        )
    }
}

/// All options that exist, by script, with the pairs that exclude each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionCatalogue {
    specs: BTreeMap<String, OptionSpec>,
    scripts: BTreeMap<String, Script>,
    contradictions: Vec<Contradiction>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Script {
    options: Vec<String>,
    default_text: String,
}

impl OptionCatalogue {
    /// A catalogue without options.
    #[must_use]
    pub fn empty() -> Self {
        Self { specs: BTreeMap::new(), scripts: BTreeMap::new(), contradictions: Vec::new() }
    }

    /// The three scripts that ship with this library, with their options.
    #[must_use]
    pub fn standard() -> Self {
        let mut catalogue = Self::empty();
        for (script, text, specs, contradictions) in standard_scripts() {
            catalogue.insert(script, specs, contradictions, text.to_owned());
        }
        catalogue
    }

    /// Adds the options of a script of a host's own package. Its default script is written from the specs.
    ///
    /// A contradiction may also name options that are already in the catalogue.
    ///
    /// # Errors
    /// All that is wrong, in which case nothing is added: a script or option name that is taken, ill-formed or offered to scripts for something
    /// else; an option of another script; a default that is not allowed; a contradiction that names an unknown option, whose values are not
    /// allowed, or that forbids the defaults.
    pub fn add(
        &mut self,
        script: &str,
        specs: Vec<OptionSpec>,
        contradictions: Vec<Contradiction>,
    ) -> Result<(), OptionProblems> {
        let mut problems = Vec::new();
        if !well_formed(script) {
            problems.push(OptionProblem::new(script, ProblemKind::IllFormedName).option(script).allowed(NAME_RULE));
        }
        if self.scripts.contains_key(script) {
            problems.push(OptionProblem::new(script, ProblemKind::TakenName).option(script));
        }
        let mut next = self.clone();
        let mut added: Vec<OptionSpec> = Vec::new();
        for mut spec in specs {
            let problem = |kind| OptionProblem::new(script, kind).option(&spec.name);
            if !well_formed(&spec.name) {
                problems.push(problem(ProblemKind::IllFormedName).allowed(NAME_RULE));
            } else if self.specs.contains_key(&spec.name) || added.iter().any(|other| other.name == spec.name) {
                problems.push(problem(ProblemKind::TakenName));
            } else if spec.script != script {
                problems.push(
                    problem(ProblemKind::OtherScript)
                        .found(format!("`{}`", spec.script))
                        .allowed(format!("`{script}`")),
                );
            } else {
                match spec.check(&spec.default) {
                    Ok(default) => {
                        spec.default = default;
                        added.push(spec);
                    }
                    Err(wrong) => problems.push(wrong),
                }
            }
        }
        let text = default_script_text(script, &added);
        next.insert(script, added, Vec::new(), text);
        for mut contradiction in contradictions {
            let before = problems.len();
            for side in [&mut contradiction.first, &mut contradiction.second] {
                let Some(spec) = next.specs.get(&side.name) else {
                    let known = next.specs.keys().map(String::as_str);
                    problems
                        .push(OptionProblem::new(script, ProblemKind::UnknownOption).option(&side.name).nearest(known));
                    continue;
                };
                for value in [&mut side.value, &mut side.instead] {
                    match spec.check(value) {
                        Ok(checked) => *value = checked,
                        Err(wrong) => problems.push(wrong),
                    }
                }
            }
            let default = |name: &str| next.specs.get(name).map(|spec| &spec.default);
            problems.extend(contradiction.check(&next, default, |_| None));
            if problems.len() == before {
                next.contradictions.push(contradiction);
            }
        }
        OptionProblems::check(problems)?;
        *self = next;
        Ok(())
    }

    /// The option of this name.
    #[must_use]
    pub fn spec(&self, name: &str) -> Option<&OptionSpec> {
        self.specs.get(name)
    }

    /// All options, in the order of their names.
    pub fn specs(&self) -> impl Iterator<Item = &OptionSpec> {
        self.specs.values()
    }

    /// The names of all scripts, sorted.
    pub fn scripts(&self) -> impl Iterator<Item = &str> {
        self.scripts.keys().map(String::as_str)
    }

    /// The options of a script in the order in which it lists them; `None` if there is no such script.
    #[must_use]
    pub fn script_specs(&self, script: &str) -> Option<Vec<&OptionSpec>> {
        let script = self.scripts.get(script)?;
        Some(script.options.iter().filter_map(|name| self.specs.get(name)).collect())
    }

    /// The text of a script that sets every option to its default, with comments; a starting point for administrators.
    #[must_use]
    pub fn default_script(&self, script: &str) -> Option<&str> {
        self.scripts.get(script).map(|script| script.default_text.as_str())
    }

    /// The pairs of values that may not be in force together.
    #[must_use]
    pub fn contradictions(&self) -> &[Contradiction] {
        &self.contradictions
    }

    pub(super) fn unknown_option(&self, script: &str, name: &str) -> OptionProblem {
        let problem = OptionProblem::new(script, ProblemKind::UnknownOption).option(name);
        match self.specs.get(name) {
            Some(spec) if spec.script != script => problem.found(format!("it belongs to `{}`", spec.script)),
            _ => {
                let mine = self.specs.values().filter(|spec| spec.script == script).map(|spec| spec.name.as_str());
                let near = problem.nearest(mine);
                if near.nearest.is_some() {
                    return near;
                }
                near.nearest(self.specs.keys().map(String::as_str))
            }
        }
    }

    pub(super) fn unknown_script(&self, script: &str) -> OptionProblem {
        OptionProblem::new(script, ProblemKind::UnknownScript).option(script).nearest(self.scripts())
    }

    fn insert(
        &mut self,
        script: &str,
        specs: Vec<OptionSpec>,
        contradictions: Vec<Contradiction>,
        default_text: String,
    ) {
        let options = specs.iter().map(|spec| spec.name.clone()).collect();
        self.scripts.insert(script.to_owned(), Script { options, default_text });
        self.specs.extend(specs.into_iter().map(|spec| (spec.name.clone(), spec)));
        self.contradictions.extend(contradictions);
    }
}

impl Default for OptionCatalogue {
    fn default() -> Self {
        Self::standard()
    }
}

/// What a source sets an option to, before it is checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Raw {
    Nil,
    Boolean(bool),
    Integer(i64),
    #[cfg_attr(not(feature = "scripting"), expect(dead_code, reason = "only scripts have fractions"))]
    Number(f64),
    Text(String),
    List(Vec<Self>),
    Table(Vec<(String, Self)>),
    /// Something that no option can be, in words.
    #[cfg_attr(not(feature = "scripting"), expect(dead_code, reason = "only scripts have further types"))]
    Other(String),
}

impl From<&OptionValue> for Raw {
    fn from(value: &OptionValue) -> Self {
        match value {
            OptionValue::Boolean(value) => Self::Boolean(*value),
            OptionValue::Integer(value) => Self::Integer(*value),
            OptionValue::Text(value) => Self::Text(value.clone()),
            OptionValue::Names(names) => match names.as_slice() {
                [name] => Self::Text(name.clone()),
                names => Self::List(names.iter().cloned().map(Self::Text).collect()),
            },
            OptionValue::Choices(choices) => Self::Table(
                choices
                    .iter()
                    .map(|(name, choice)| {
                        let choice = match choice.as_str() {
                            "true" => Self::Boolean(true),
                            "false" => Self::Boolean(false),
                            text => Self::Text(text.to_owned()),
                        };
                        (name.clone(), choice)
                    })
                    .collect(),
            ),
        }
    }
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil => f.write_str("nil"),
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(&quoted(value)),
            Self::List(items) if items.is_empty() => f.write_str("{}"),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(Self::to_string).collect();
                write!(f, "{{ {} }}", items.join(", "))
            }
            Self::Table(fields) => {
                let fields: Vec<String> = fields
                    .iter()
                    .map(|(name, value)| {
                        if well_formed(name) {
                            format!("{name} = {value}")
                        } else {
                            format!("[{}] = {value}", quoted(name))
                        }
                    })
                    .collect();
                write!(f, "{{ {} }}", fields.join(", "))
            }
            Self::Other(what) => f.write_str(what),
        }
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.escape_debug())
}

fn choice_literal(choice: &str) -> String {
    match choice {
        "true" | "false" => choice.to_owned(),
        text => quoted(text),
    }
}

const NAME_RULE: &str = "a name is an ASCII letter followed by letters, digits and underscores, at most 100, and not a word of the script language";

fn well_formed(name: &str) -> bool {
    name.len() <= 100
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !KEYWORDS.contains(&name)
        && !OFFERED.contains(&name)
        && !FORBIDDEN.contains(&name)
}

const KEYWORDS: &[&str] = &[
    "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "if", "in", "local", "nil", "not", "or",
    "repeat", "return", "then", "true", "until", "while",
];

/// The global names that scripts may use.
pub(super) const OFFERED: &[&str] = &[
    "assert",
    "bit32",
    "error",
    "getmetatable",
    "ipairs",
    "math",
    "next",
    "pairs",
    "pcall",
    "rawequal",
    "rawget",
    "rawlen",
    "rawset",
    "select",
    "setmetatable",
    "string",
    "table",
    "tonumber",
    "tostring",
    "type",
    "typeof",
    "unpack",
    "utf8",
    "xpcall",
];

/// The global names of Lua and Luau that scripts may not use.
pub(super) const FORBIDDEN: &[&str] = &[
    "_G",
    "_ENV",
    "_VERSION",
    "arg",
    "bit",
    "buffer",
    "collectgarbage",
    "coroutine",
    "debug",
    "dofile",
    "ffi",
    "game",
    "gcinfo",
    "getfenv",
    "integer",
    "io",
    "jit",
    "load",
    "loadfile",
    "loadstring",
    "module",
    "newproxy",
    "os",
    "package",
    "print",
    "require",
    "script",
    "setfenv",
    "shared",
    "task",
    "vector",
    "warn",
    "workspace",
];

/// A script text that sets every option to its default.
fn default_script_text(script: &str, specs: &[OptionSpec]) -> String {
    let mut text = format!("-- {script}\n");
    for spec in specs {
        text.push('\n');
        for line in spec.description.lines() {
            // Scripts are plain text.
            text.push_str(&format!("-- {}\n", line.replace(char::is_control, " ")));
        }
        text.push_str(&format!("-- Allowed: {}.\n{} = {}\n", spec.allowed, spec.name, spec.default));
    }
    text
}

type StandardScript = (&'static str, &'static str, Vec<OptionSpec>, Vec<Contradiction>);

/// The scripts of the packages that ship with this library.
fn standard_scripts() -> [StandardScript; 3] {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let one_of = |values: &[&str]| Allowed::OneOf(names(values));
    let standard = || OptionValue::Names(names(&["standard"]));
    let certificates = [("authentication", "true"), ("signature", "true"), ("encryption", "false")];
    let certificates = certificates.map(|(kind, choice)| (kind.to_owned(), choice.to_owned()));

    let cards = "CardsScriptOptions";
    let orders = "CardsAddonExtProdScriptOptions";
    let temporary = "TempCardsAddonExtProdScriptOptions";
    [
        (
            cards,
            include_str!("defaults/CardsScriptOptions.lua"),
            vec![
                OptionSpec::new(
                    "CardsPINLength",
                    cards,
                    Allowed::Integer { min: 4, max: 12 },
                    6,
                    "Digits of a new PIN.",
                ),
                OptionSpec::new(
                    "CardsPUKLength",
                    cards,
                    Allowed::Integer { min: 6, max: 12 },
                    8,
                    "Digits of a new PUK.",
                ),
                OptionSpec::new(
                    "CardsPINDeliveryMethod",
                    cards,
                    one_of(&["print", "email", "nopin"]),
                    "print",
                    "How the holder receives the PIN.",
                ),
                OptionSpec::new(
                    "CardsPUKDeliveryMethod",
                    cards,
                    one_of(&["nopuk", "email", "print"]),
                    "nopuk",
                    "How the holder receives the PUK.",
                ),
                OptionSpec::new(
                    "CardsCertificates",
                    cards,
                    Allowed::ChoicesPerName {
                        names: names(&["authentication", "signature", "encryption"]),
                        values: names(&["true", "false", "ask", "ask, on"]),
                    },
                    OptionValue::Choices(BTreeMap::from(certificates)),
                    "Which certificates an issued card receives.",
                ),
                OptionSpec::new(
                    "CardsCardEndState",
                    cards,
                    one_of(&["issued", "active"]),
                    "issued",
                    "State of a card after issuing.",
                ),
                OptionSpec::new(
                    "CardsCertificateEndState",
                    cards,
                    one_of(&["on hold", "valid"]),
                    "on hold",
                    "State of certificates after issuing.",
                ),
                OptionSpec::new(
                    "CardsBatchRequestApproval",
                    cards,
                    Allowed::Boolean,
                    false,
                    "Whether requests for many cards need an approval.",
                ),
                OptionSpec::new(
                    "CardsMultipleActive",
                    cards,
                    Allowed::Boolean,
                    false,
                    "Whether a user may have several active cards.",
                ),
                OptionSpec::new(
                    "CardsValidityDays",
                    cards,
                    Allowed::Integer { min: 1, max: 3650 },
                    1095,
                    "Validity of a new card in days.",
                ),
            ],
            vec![Contradiction::new(
                ContradictionSide::new("CardsCardEndState", "active", "issued"),
                ContradictionSide::new("CardsCertificateEndState", "on hold", "valid"),
                "an active card needs valid certificates",
            )],
        ),
        (
            orders,
            include_str!("defaults/CardsAddonExtProdScriptOptions.lua"),
            vec![
                OptionSpec::new(
                    "CardsAddonExtProdApproval",
                    orders,
                    Allowed::Boolean,
                    false,
                    "Whether an order needs an approval.",
                ),
                OptionSpec::new(
                    "CardsAddonExtProdProductionType",
                    orders,
                    Allowed::Names,
                    standard(),
                    "Production types of ordered cards.",
                ),
                OptionSpec::new(
                    "CardsAddonExtProdQueueCards",
                    orders,
                    Allowed::Boolean,
                    true,
                    "Whether orders wait in a queue before they are sent.",
                ),
                OptionSpec::new(
                    "CardsAddonExtProdMultipleCards",
                    orders,
                    Allowed::Boolean,
                    false,
                    "Whether several cards may be ordered for a user.",
                ),
                OptionSpec::new(
                    "CardsAddonExtProdSendCardOrderedEmail",
                    orders,
                    Allowed::Boolean,
                    true,
                    "Whether the user is told by e-mail.",
                ),
            ],
            Vec::new(),
        ),
        (
            temporary,
            include_str!("defaults/TempCardsAddonExtProdScriptOptions.lua"),
            vec![
                OptionSpec::new(
                    "TempCardsAddonExtProdProductionType",
                    temporary,
                    Allowed::Names,
                    standard(),
                    "Production types of ordered temporary cards.",
                ),
                OptionSpec::new(
                    "TempCardsAddonExtProdQueueCards",
                    temporary,
                    Allowed::Boolean,
                    true,
                    "Whether orders wait in a queue before they are sent.",
                ),
            ],
            Vec::new(),
        ),
    ]
}
