use serde::{Deserialize, Serialize};
use std::fmt;

/// What is wrong with an option, so that a caller can tell the cases apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProblemKind {
    /// The script is not well-formed text: a syntax error, a NUL, or compiled code instead of text.
    Syntax,
    /// The script is longer than [`Limits::script_bytes`](super::Limits::script_bytes).
    TooLong,
    /// The script or function raised an error of its own.
    Runtime,
    /// The script reached for something that option scripts may not use, such as `io` or `os`.
    Forbidden,
    /// The script read a name that is neither an option nor offered to scripts.
    UnknownName,
    /// There is no option of this name, or it belongs to another script.
    UnknownOption,
    /// There is no option script of this name.
    UnknownScript,
    /// The spec of an option names another script than the one that it is added to.
    OtherScript,
    /// A script sets the same option twice.
    AssignedTwice,
    /// The value is of the wrong type.
    WrongType,
    /// The value is of the right type, but not among the allowed ones.
    OutOfRange,
    /// Two options are set to values that may not be in force together.
    Contradiction,
    /// The interrupt count or the wall clock of [`Limits`](super::Limits) is used up.
    OutOfTime,
    /// The memory of [`Limits`](super::Limits) is used up.
    OutOfMemory,
    /// Calls are nested too deeply.
    TooDeep,
    /// The source is a script, and this build of the library has no `scripting` feature.
    Unsupported,
    /// The option was read without having been resolved, or as a type it cannot be read as.
    NotResolved,
    /// The version in force of the option's script cannot be used: it does not load in this release, or contradicts another script.
    Broken,
    /// The stored version of a script cannot be read.
    Unreadable,
    /// A name given to the catalogue is already taken.
    TakenName,
    /// A name given to the catalogue is not a usable name.
    IllFormedName,
}

impl ProblemKind {
    fn summary(self) -> &'static str {
        match self {
            Self::Syntax => "not a well-formed script",
            Self::TooLong => "the script is too long",
            Self::Runtime => "the script failed",
            Self::Forbidden => "not available to option scripts",
            Self::UnknownName => "no such name",
            Self::UnknownOption => "no such option",
            Self::UnknownScript => "no such option script",
            Self::OtherScript => "its spec names another script than the one that it is added to",
            Self::AssignedTwice => "set more than once",
            Self::WrongType => "wrong type",
            Self::OutOfRange => "value not allowed",
            Self::Contradiction => "contradictory options",
            Self::OutOfTime => "out of time",
            Self::OutOfMemory => "out of memory",
            Self::TooDeep => "calls nested too deeply",
            Self::Unsupported => "scripts need the feature `scripting`",
            Self::NotResolved => "option not resolved",
            Self::Broken => "the version in force of its script cannot be used",
            Self::Unreadable => "the stored version cannot be read",
            Self::TakenName => "name already taken",
            Self::IllFormedName => "not a usable name",
        }
    }
}

/// One thing that is wrong with an option script, a typed option value or the result of a value function.
///
/// The display names all that is known: script, line, option, what was found, what is allowed and the nearest known name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub struct OptionProblem {
    /// The option script, such as `CardsScriptOptions`.
    pub script: String,
    /// The line in the script, counted from 1; `None` for typed values and where no line is known.
    pub line: Option<u32>,
    /// The option or name concerned.
    pub option: Option<String>,
    /// What is wrong.
    pub kind: ProblemKind,
    /// What was found, as the script would write it, or the message of the failure; may be empty.
    pub found: Box<str>,
    /// What is allowed instead; may be empty.
    pub allowed: Box<str>,
    /// The known name that is nearest to an unknown one.
    pub nearest: Option<String>,
}

impl OptionProblem {
    pub(crate) fn new(script: &str, kind: ProblemKind) -> Self {
        Self {
            script: script.to_owned(),
            line: None,
            option: None,
            kind,
            found: Box::default(),
            allowed: Box::default(),
            nearest: None,
        }
    }

    pub(super) fn at(mut self, line: Option<u32>) -> Self {
        self.line = line;
        self
    }

    pub(super) fn option(mut self, name: &str) -> Self {
        self.option = Some(name.to_owned());
        self
    }

    pub(crate) fn found(mut self, found: impl fmt::Display) -> Self {
        self.found = shortened(&found.to_string()).into();
        self
    }

    pub(super) fn allowed(mut self, allowed: impl fmt::Display) -> Self {
        self.allowed = allowed.to_string().into();
        self
    }

    pub(super) fn nearest<'a>(mut self, known: impl IntoIterator<Item = &'a str>) -> Self {
        self.nearest = self.option.as_deref().and_then(|name| nearest(name, known)).map(str::to_owned);
        self
    }
}

impl fmt::Display for OptionProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.script)?;
        if let Some(line) = self.line {
            write!(f, " line {line}")?;
        }
        if let Some(option) = &self.option {
            write!(f, ": `{option}`")?;
        }
        write!(f, ": {}", self.kind.summary())?;
        if !self.found.is_empty() {
            match self.kind {
                ProblemKind::WrongType | ProblemKind::OutOfRange | ProblemKind::OtherScript => {
                    write!(f, ": found {}", self.found)?;
                }
                _ => write!(f, ": {}", self.found)?,
            }
        }
        if !self.allowed.is_empty() {
            match self.kind {
                ProblemKind::WrongType | ProblemKind::OutOfRange | ProblemKind::OtherScript => {
                    write!(f, ", allowed is {}", self.allowed)?;
                }
                _ => write!(f, "; {}", self.allowed)?,
            }
        }
        if let Some(nearest) = &self.nearest {
            write!(f, "; did you mean `{nearest}`?")?;
        }
        Ok(())
    }
}

/// All problems of one source, in the order of their lines; never empty when returned as an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptionProblems(Vec<OptionProblem>);

impl OptionProblems {
    /// The problems, in the order of their lines.
    #[must_use]
    pub fn as_slice(&self) -> &[OptionProblem] {
        &self.0
    }

    /// Iterates over the problems in the order of their lines.
    pub fn iter(&self) -> std::slice::Iter<'_, OptionProblem> {
        self.0.iter()
    }

    /// These problems, of which there is at least one.
    pub(super) fn all(problems: Vec<OptionProblem>) -> Self {
        Self(problems)
    }

    pub(super) fn check(mut problems: Vec<OptionProblem>) -> Result<(), Self> {
        if problems.is_empty() {
            return Ok(());
        }
        problems.sort_by(|a, b| (a.line.unwrap_or(u32::MAX), &a.option).cmp(&(b.line.unwrap_or(u32::MAX), &b.option)));
        Err(Self(problems))
    }
}

impl From<OptionProblem> for OptionProblems {
    fn from(problem: OptionProblem) -> Self {
        Self(vec![problem])
    }
}

impl IntoIterator for OptionProblems {
    type Item = OptionProblem;
    type IntoIter = std::vec::IntoIter<OptionProblem>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a OptionProblems {
    type Item = &'a OptionProblem;
    type IntoIter = std::slice::Iter<'a, OptionProblem>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Display for OptionProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for OptionProblems {}

/// The known name nearest to `name`, if one is near enough to be meant.
fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > 200 {
        return None; // the comparison takes the product of both lengths
    }
    let folded = name.to_lowercase();
    let far = (name.len() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&folded, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= far)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Cuts what a script produced to a length that fits into a message.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 240;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(LONGEST).collect();
    short.push('…');
    short
}
