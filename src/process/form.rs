use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ItemId, ItemKind};
use crate::host::{CardQuery, CertificateQuery, RequestQuery, UserFilter};
use crate::id::SymbolicName;
use crate::production_type::is_blank;

/// What an operator sees when a process opens: enough for any user interface to draw it. *Cancel* closes it without any
/// effect, *Next* goes on with an [`Answer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    /// The process.
    pub process: SymbolicName,
    /// The name that people see.
    pub title: String,
    /// What *Next* will do.
    pub description: String,
    /// What it searches and lets tick; empty if it makes new objects.
    pub searches: Vec<ItemKind>,
    /// What is asked besides.
    pub fields: Vec<Field>,
}

impl Form {
    /// The field that says how many new objects are to be made.
    pub const AMOUNT: &'static str = "amount";
    /// The field in which a host may name a user for whom new objects are made.
    pub const USER: &'static str = "user";
}

/// One field of a form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// The name under which it is answered.
    pub name: String,
    /// The words beside it.
    pub label: String,
    /// What may be answered.
    pub kind: FieldKind,
    /// Whether it must be answered.
    pub required: bool,
    /// It must be answered when another field has this answer: (field, answer).
    pub required_when: Option<(String, String)>,
    /// What stands in it at the start. Left so, the process takes its preset for each item.
    pub preset: Option<String>,
}

impl Field {
    /// A field that must be answered.
    pub fn required(name: impl Into<String>, label: impl Into<String>, kind: FieldKind) -> Self {
        Self { required: true, ..Self::optional(name, label, kind) }
    }

    /// A field that may be left empty.
    pub fn optional(name: impl Into<String>, label: impl Into<String>, kind: FieldKind) -> Self {
        Self { name: name.into(), label: label.into(), kind, required: false, required_when: None, preset: None }
    }

    /// The same, required when another field has this answer.
    #[must_use]
    pub fn when(self, field: impl Into<String>, answer: impl Into<String>) -> Self {
        Self { required_when: Some((field.into(), answer.into())), ..self }
    }

    /// The same with a preset.
    #[must_use]
    pub fn preset(self, preset: impl Into<String>) -> Self {
        Self { preset: Some(preset.into()), ..self }
    }
}

/// What may be answered in a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldKind {
    /// One of these.
    Choice(Vec<String>),
    /// A whole number between these two, both included, in decimal digits without a sign or leading zeros.
    Amount {
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
    /// A text of at most so many characters.
    Text {
        /// The greatest length in characters.
        max_length: usize,
    },
}

/// What an operator answers to a form.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Answer {
    /// What was ticked.
    #[serde(default)]
    pub selection: Selection,
    /// What was answered, by field name.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
}

impl Answer {
    /// Nothing ticked, nothing answered: for processes that make new objects or run in the background.
    pub fn new() -> Self {
        Self::default()
    }

    /// These items.
    pub fn ids(items: impl IntoIterator<Item = ItemId>) -> Self {
        Self { selection: Selection::Ids(items.into_iter().collect()), values: BTreeMap::new() }
    }

    /// All that match.
    pub fn all(filter: Filter) -> Self {
        Self { selection: Selection::All(filter), values: BTreeMap::new() }
    }

    /// The same with one more field answered.
    #[must_use]
    pub fn with(mut self, field: impl Into<String>, value: impl Into<String>) -> Self {
        self.values.insert(field.into(), value.into());
        self
    }
}

/// Which items a run is about.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// None that exist.
    #[default]
    Nothing,
    /// These; one that is named twice counts once.
    Ids(Vec<ItemId>),
    /// All that match when the run comes to them.
    All(Filter),
}

/// What to search for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Users.
    Users(UserFilter),
    /// Cards.
    Cards(CardQuery),
    /// Approval requests.
    Requests(RequestQuery),
    /// Certificates.
    Certificates(CertificateQuery),
}

impl Filter {
    /// The kind of items it finds.
    pub const fn kind(&self) -> ItemKind {
        match self {
            Self::Users(_) => ItemKind::User,
            Self::Cards(_) => ItemKind::Card,
            Self::Requests(_) => ItemKind::Request,
            Self::Certificates(_) => ItemKind::Certificate,
        }
    }
}

/// An answer that does not fit the form. Nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// A field that the form does not have.
    #[error("the form has no field `{field}`; it has {allowed}")]
    UnknownField {
        /// The field, at most 100 characters of it.
        field: String,
        /// The fields it has.
        allowed: String,
    },
    /// A field that must be answered.
    #[error("field `{field}` must be answered: {allowed}")]
    Missing {
        /// The field.
        field: String,
        /// What may be answered.
        allowed: String,
    },
    /// An answer that is not allowed.
    #[error("field `{field}`: {found:?} is not allowed; allowed is {allowed}")]
    NotAllowed {
        /// The field.
        field: String,
        /// What was answered, at most 100 characters of it.
        found: String,
        /// What may be answered.
        allowed: String,
    },
    /// Nothing was ticked.
    #[error("nothing is selected: {allowed} must be")]
    NothingSelected {
        /// What may be selected.
        allowed: String,
    },
    /// The selection is of a kind that the process does not take.
    #[error("the process does not take {found}; it takes {allowed}")]
    WrongKind {
        /// What was selected.
        found: String,
        /// What may be selected.
        allowed: String,
    },
    /// Cards cannot be searched by this attribute.
    #[error("cards cannot be searched by `{found}`; they can by {allowed}")]
    NotSearchable {
        /// The attribute, at most 100 characters of it.
        found: String,
        /// The attributes that can be searched by.
        allowed: String,
    },
}

/// Checks the answers against the fields; blank ones count as not given.
pub(crate) fn check_answers(
    fields: &[Field],
    given: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, AnswerError> {
    if let Some(unknown) = given.keys().find(|name| !fields.iter().any(|field| field.name == **name)) {
        let names: Vec<_> = fields.iter().map(|field| format!("`{}`", field.name)).collect();
        return Err(AnswerError::UnknownField {
            field: unknown.chars().take(100).collect(),
            allowed: if names.is_empty() { "none".to_owned() } else { names.join(", ") },
        });
    }
    let answered =
        |field: &Field| given.get(&field.name).filter(|value| !is_blank(value)).or(field.preset.as_ref()).cloned();
    let mut checked = BTreeMap::new();
    for field in fields {
        let allowed = || field.kind.to_string();
        let Some(value) = given.get(&field.name).filter(|value| !is_blank(value)) else {
            let wanted = field.required_when.as_ref().is_some_and(|(other, answer)| {
                fields.iter().find(|f| f.name == *other).and_then(answered).as_ref() == Some(answer)
            });
            if (field.required && field.preset.is_none()) || wanted {
                return Err(AnswerError::Missing { field: field.name.clone(), allowed: allowed() });
            }
            continue;
        };
        if !field.kind.takes(value) {
            let found = value.chars().take(100).collect();
            return Err(AnswerError::NotAllowed { field: field.name.clone(), found, allowed: allowed() });
        }
        checked.insert(field.name.clone(), value.clone());
    }
    Ok(checked)
}

impl FieldKind {
    fn takes(&self, value: &str) -> bool {
        match self {
            Self::Choice(choices) => choices.iter().any(|choice| choice == value),
            // Written in one way only: no sign, no leading zeros.
            Self::Amount { min, max } => {
                value.parse::<u32>().is_ok_and(|amount| (*min..=*max).contains(&amount) && amount.to_string() == *value)
            }
            Self::Text { max_length } => value.chars().count() <= *max_length && !value.contains('\0'),
        }
    }
}

impl fmt::Display for FieldKind {
    /// What may be answered, in words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Choice(choices) => write!(f, "one of {}", choices.join(", ")),
            Self::Amount { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Text { max_length } => write!(f, "a text of at most {max_length} characters, without NUL"),
        }
    }
}
