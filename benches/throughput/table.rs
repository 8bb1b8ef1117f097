//! What was measured, as a table.

use std::time::Duration;

/// How many cards, and for each round how long the engine and the bare bound took for them.
pub(crate) struct Measured {
    pub(crate) what: String,
    pub(crate) cards: usize,
    pub(crate) rounds: Vec<(Duration, Duration)>,
    /// The least ratio wanted, if any is.
    pub(crate) goal: Option<f64>,
}

impl Measured {
    pub(crate) fn heading() {
        println!(
            "{:<44} {:>10} {:>12} {:>7} {:>11} {:>6}  reached",
            "what (medians)", "cards/s", "bare cards/s", "ratio", "spread", "goal"
        );
    }

    /// The median of the bare bound.
    pub(crate) fn bare(&self) -> f64 {
        self.rate(|round| round.1)
    }

    /// The median of the engine.
    pub(crate) fn engine(&self) -> f64 {
        self.rate(|round| round.0)
    }

    /// The rounds alternate, so each has a ratio of its own; the median of those counts. The spread shows how noisy the
    /// machine is.
    pub(crate) fn print(&self) {
        let ratios = || self.rounds.iter().map(|(engine, bare)| bare.as_secs_f64() / engine.as_secs_f64());
        let ratio = median(ratios());
        let spread = format!("{:.2}-{:.2}", ratios().fold(f64::MAX, f64::min), ratios().fold(0.0, f64::max));
        let (goal, reached) = match self.goal {
            Some(goal) => (format!("{goal:.2}"), verdict(ratio >= goal)),
            None => ("-".to_owned(), "-"),
        };
        println!(
            "{:<44} {:>10.0} {:>12.0} {ratio:>7.2} {spread:>11} {goal:>6}  {reached}",
            self.what,
            self.engine(),
            self.bare(),
        );
    }

    fn rate(&self, of: impl Fn(&(Duration, Duration)) -> Duration) -> f64 {
        self.cards as f64 / median(self.rounds.iter().map(|round| of(round).as_secs_f64()))
    }
}

pub(crate) fn verdict(reached: bool) -> &'static str {
    if reached { "yes" } else { "NO" }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
