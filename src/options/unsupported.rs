//! Stands in for `script` in a build without the `scripting` feature: every script is refused.

use super::problem::{OptionProblem, ProblemKind};
use super::spec::{OptionValue, Raw};
use super::{Assignment, Limits, Subject};
use std::sync::Arc;

/// A script that can be called; there is none in this build.
#[derive(Debug)]
pub(super) enum Program {}

impl Program {
    pub(super) fn call(&self, _option: &str, _subject: &Subject<'_>) -> Result<Raw, OptionProblem> {
        match *self {}
    }
}

pub(super) struct Loaded {
    pub(super) assignments: Vec<Assignment>,
    pub(super) problems: Vec<OptionProblem>,
    pub(super) program: Option<Program>,
}

pub(super) fn load(script: &str, _text: &str, _known: Arc<[(String, OptionValue)]>, _limits: &Limits) -> Loaded {
    Loaded {
        assignments: Vec::new(),
        problems: vec![OptionProblem::new(script, ProblemKind::Unsupported).allowed("set the options as typed values")],
        program: None,
    }
}
