//! State graphs as data: the states, which are final, and the allowed transitions.

use std::fmt;

/// A state of some object: a small closed set whose members are named as people name them.
pub trait State: Copy + Eq + fmt::Debug + 'static {
    /// The name that people use, in lower case, such as `in production`.
    fn name(self) -> &'static str;
}

/// The allowed life of one kind of object, as a table.
///
/// # Examples
/// ```
/// use cardwright::{CardKind, CardState, Route};
///
/// let graph = cardwright::card_graph(CardKind::Permanent, Route::External);
/// assert!(graph.allows(CardState::Processing, CardState::Ordered));
/// assert!(!graph.allows(CardState::Ordered, CardState::Processing), "there is no way back from ordered");
/// ```
#[derive(Debug)]
pub struct StateGraph<S: State> {
    name: &'static str,
    start: S,
    finals: &'static [S],
    transitions: &'static [(S, &'static [S])],
}

impl<S: State> StateGraph<S> {
    /// A graph from its table: one row for each state, with the states that may follow it.
    pub(crate) const fn new(
        name: &'static str,
        start: S,
        finals: &'static [S],
        transitions: &'static [(S, &'static [S])],
    ) -> Self {
        Self { name, start, finals, transitions }
    }

    /// What the graph describes, such as `permanent card, external`.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The state in which an object is created.
    pub const fn start(&self) -> S {
        self.start
    }

    /// All states of the graph, in the order of the table.
    pub fn states(&self) -> impl Iterator<Item = S> + '_ {
        self.transitions.iter().map(|(state, _)| *state)
    }

    /// The states that may follow `from`; empty for a final state and for one that is not in the graph.
    pub fn after(&self, from: S) -> &'static [S] {
        self.transitions.iter().find(|(state, _)| *state == from).map_or(&[], |(_, after)| after)
    }

    /// Whether `to` may follow `from`. Allocates nothing.
    pub fn allows(&self, from: S, to: S) -> bool {
        self.after(from).contains(&to)
    }

    /// Whether the state belongs to the graph.
    pub fn contains(&self, state: S) -> bool {
        self.transitions.iter().any(|(known, _)| *known == state)
    }

    /// Whether nothing may follow the state, on purpose.
    pub fn is_final(&self, state: S) -> bool {
        self.finals.contains(&state)
    }

    /// The graph as text: one row for each state, one column for each state that may follow.
    ///
    /// `x` allowed, `.` not allowed; a final state's row is marked `final`.
    pub fn grid(&self) -> String {
        use fmt::Write as _;
        let states: Vec<S> = self.states().collect();
        let wide = states.iter().map(|s| s.name().len()).max().unwrap_or(0);
        let mut out = format!("{}\n", self.name);
        for (column, state) in states.iter().enumerate() {
            let _ = writeln!(out, "{:wide$}  {}{}", "", "| ".repeat(column), state.name());
        }
        for from in &states {
            let _ = write!(out, "{:wide$} ", from.name());
            for to in &states {
                out.push_str(if self.allows(*from, *to) { " x" } else { " ." });
            }
            if *from == self.start {
                out.push_str("  start");
            }
            if self.is_final(*from) {
                out.push_str("  final");
            }
            out.push('\n');
        }
        out
    }

    /// The graph as a Mermaid state diagram.
    pub fn mermaid(&self) -> String {
        use fmt::Write as _;
        let id = |state: S| state.name().replace(' ', "_");
        let mut out = String::from("stateDiagram-v2\n");
        let _ = writeln!(out, "    [*] --> {}", id(self.start));
        for (from, after) in self.transitions {
            for to in *after {
                let _ = writeln!(out, "    {} --> {}", id(*from), id(*to));
            }
            if self.is_final(*from) {
                let _ = writeln!(out, "    {} --> [*]", id(*from));
            }
        }
        out
    }
}

/// A change of state that the graph does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object} cannot go from {from} to {to}: {graph} allows {allowed}")]
pub struct TransitionError {
    /// The object that was to change.
    pub object: String,
    /// The name of the graph.
    pub graph: &'static str,
    /// The state it is in.
    pub from: &'static str,
    /// The state that was asked for.
    pub to: &'static str,
    /// The states that may follow, as text.
    pub allowed: String,
}

impl TransitionError {
    pub(crate) fn new<S: State>(graph: &StateGraph<S>, object: impl fmt::Display, from: S, to: S) -> Self {
        let after = graph.after(from);
        let allowed = if after.is_empty() {
            "nothing after it".to_owned()
        } else {
            after.iter().map(|s| s.name()).collect::<Vec<_>>().join(", ")
        };
        Self { object: object.to_string(), graph: graph.name(), from: from.name(), to: to.name(), allowed }
    }
}
