//! Card numbers: ranges from which each number is drawn once.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// A range of card numbers: areas in order, with prefix, suffix, padding and exclusions.
///
/// A drawn number is never drawn again. A number that was drawn and not used is a gap, which does no harm.
///
/// ```
/// use cardwright::NumberRange;
///
/// let mut range = NumberRange::new([(1, 2), (10, 12)])?.prefix("C-").padding(4).excluding([11]);
/// assert_eq!(range.draw(3), ["C-0001", "C-0002", "C-0010"]);
/// assert_eq!(range.draw(3), ["C-0012"], "an exhausted range gives fewer than asked");
/// # Ok::<(), cardwright::NumberRangeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
pub struct NumberRange {
    areas: Vec<(u64, u64)>,
    prefix: String,
    suffix: String,
    padding: usize,
    excluded: BTreeSet<u64>,
    /// The area that is being used, and the next number in it; `None` when all are drawn.
    next: Option<(usize, u64)>,
}

/// A range as it is read: checked before it is one. Without `next` it begins at the beginning.
#[derive(Deserialize)]
struct Stored {
    areas: Vec<(u64, u64)>,
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    suffix: String,
    #[serde(default)]
    padding: usize,
    #[serde(default)]
    excluded: BTreeSet<u64>,
    #[serde(default, deserialize_with = "some_if_there")]
    next: Option<Option<(usize, u64)>>,
}

/// Tells `null` from what is not there.
fn some_if_there<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl TryFrom<Stored> for NumberRange {
    type Error = NumberRangeError;

    fn try_from(stored: Stored) -> Result<Self, NumberRangeError> {
        let range = Self::new(stored.areas)?
            .prefix(stored.prefix)
            .suffix(stored.suffix)
            .padding(stored.padding)
            .excluding(stored.excluded);
        let next = stored.next.unwrap_or(range.next);
        let inside = next.is_none_or(|(area, number)| {
            range.areas.get(area).is_some_and(|(from, to)| (from..=to).contains(&&number))
        });
        if !inside {
            return Err(NumberRangeError::Outside);
        }
        Ok(Self { next, ..range })
    }
}

impl NumberRange {
    /// A range of these areas, each from–to with both ends included, used in the order given.
    ///
    /// # Errors
    /// [`NumberRangeError`] if there is no area, one is upside down, or two overlap: a number could come twice.
    pub fn new(areas: impl IntoIterator<Item = (u64, u64)>) -> Result<Self, NumberRangeError> {
        let areas: Vec<_> = areas.into_iter().collect();
        if areas.is_empty() {
            return Err(NumberRangeError::Empty);
        }
        for (place, &(from, to)) in areas.iter().enumerate() {
            if from > to {
                return Err(NumberRangeError::UpsideDown { from, to });
            }
            if let Some(&other) = areas[..place].iter().find(|other| from <= other.1 && other.0 <= to) {
                return Err(NumberRangeError::Overlap { first: other, second: (from, to) });
            }
        }
        let next = Some((0, areas[0].0));
        Ok(Self { areas, prefix: String::new(), suffix: String::new(), padding: 0, excluded: BTreeSet::new(), next })
    }

    /// The same with a text before each number.
    #[must_use]
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..self }
    }

    /// The same with a text after each number.
    #[must_use]
    pub fn suffix(self, suffix: impl Into<String>) -> Self {
        Self { suffix: suffix.into(), ..self }
    }

    /// The same with numbers filled up with zeros to this many digits (at most 20).
    #[must_use]
    pub fn padding(self, digits: usize) -> Self {
        Self { padding: digits.min(20), ..self }
    }

    /// The same without these numbers.
    #[must_use]
    pub fn excluding(self, numbers: impl IntoIterator<Item = u64>) -> Self {
        Self { excluded: numbers.into_iter().collect(), ..self }
    }

    /// Draws up to `count` numbers and moves on. Fewer come back when the range is exhausted.
    pub fn draw(&mut self, count: usize) -> Vec<String> {
        let mut drawn = Vec::new();
        while drawn.len() < count {
            let Some((area, number)) = self.next else { break };
            let Some(&(_, to)) = self.areas.get(area) else { break };
            self.next = if number < to {
                Some((area, number + 1))
            } else {
                self.areas.get(area + 1).map(|&(from, _)| (area + 1, from))
            };
            if !self.excluded.contains(&number) {
                let Self { prefix, suffix, padding, .. } = self;
                drawn.push(format!("{prefix}{number:0padding$}{suffix}"));
            }
        }
        drawn
    }

    /// The length in characters of the longest number the range can give.
    pub fn longest(&self) -> usize {
        let digits = self.areas.iter().map(|&(_, to)| to.to_string().len()).max().unwrap_or(0);
        self.prefix.chars().count() + digits.max(self.padding) + self.suffix.chars().count()
    }
}

/// Areas that make no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NumberRangeError {
    /// No area at all.
    #[error("a number range needs at least one area")]
    Empty,
    /// An area whose end is before its start.
    #[error("area {from} to {to} ends before it starts")]
    UpsideDown {
        /// The start.
        from: u64,
        /// The end.
        to: u64,
    },
    /// A stored range whose next number is in none of its areas.
    #[error("the next number is in none of the areas")]
    Outside,
    /// Two areas share numbers.
    #[error("areas {first:?} and {second:?} overlap: a number could be drawn twice")]
    Overlap {
        /// The one area.
        first: (u64, u64),
        /// The other.
        second: (u64, u64),
    },
}
