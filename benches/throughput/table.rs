//! What was measured, as a table.

use std::fmt::Write as _;
use std::time::Duration;

/// One figure for each round.
#[derive(Clone, Default)]
pub(crate) struct Rounds(pub(crate) Vec<f64>);

impl Rounds {
    pub(crate) fn median(&self) -> f64 {
        median(self.0.iter().copied())
    }

    pub(crate) fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::MAX, f64::min)
    }

    pub(crate) fn most(&self) -> f64 {
        self.0.iter().copied().fold(0.0, f64::max)
    }
}

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
            "{:<54} {:>10} {:>12} {:>7} {:>11} {:>6}  reached",
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
        let ratios =
            Rounds(self.rounds.iter().map(|(engine, bare)| bare.as_secs_f64() / engine.as_secs_f64()).collect());
        let ratio = ratios.median();
        let spread = format!("{:.2}-{:.2}", ratios.least(), ratios.most());
        let (goal, reached) = match self.goal {
            Some(goal) => (format!("{goal:.2}"), verdict(ratio >= goal)),
            None => ("-".to_owned(), "-"),
        };
        println!(
            "{:<54} {:>10.0} {:>12.0} {ratio:>7.2} {spread:>11} {goal:>6}  {reached}",
            self.what,
            self.engine(),
            self.bare(),
        );
    }

    /// All rounds, for a file.
    pub(crate) fn csv<'a>(all: impl IntoIterator<Item = &'a Self>) -> String {
        let mut csv = "what,cards,round,engine_seconds,bare_seconds,ratio\n".to_owned();
        for measured in all {
            for ((engine, bare), round) in measured.rounds.iter().zip(1..) {
                let (engine, bare) = (engine.as_secs_f64(), bare.as_secs_f64());
                let Self { what, cards, .. } = measured;
                let _ = writeln!(csv, "\"{what}\",{cards},{round},{engine:.4},{bare:.4},{:.3}", bare / engine);
            }
        }
        csv
    }

    fn rate(&self, of: impl Fn(&(Duration, Duration)) -> Duration) -> f64 {
        self.cards as f64 / median(self.rounds.iter().map(|round| of(round).as_secs_f64()))
    }
}

pub(crate) fn verdict(reached: bool) -> &'static str {
    if reached { "yes" } else { "NO" }
}

/// A number with its thousands set apart.
pub(crate) fn thousands(number: f64) -> String {
    if number < 1_000.0 {
        return format!("{number}");
    }
    let digits = format!("{number:.0}");
    let apart = |(place, digit): (usize, char)| {
        let comma = place > 0 && (digits.len() - place).is_multiple_of(3);
        comma.then_some(',').into_iter().chain([digit])
    };
    digits.chars().enumerate().flat_map(apart).collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
