use std::time::Duration;

/// The generator of Steele, Lea and Flood: small, and the same on every machine.
pub(super) struct SplitMix64(pub(super) u64);

impl SplitMix64 {
    /// The draws for one question about one thing.
    pub(super) fn of(seed: u64, question: &str, thing: &str, count: u64) -> Self {
        let mut dice = Self(seed);
        let words = question.bytes().chain([0]).chain(thing.bytes()).map(u64::from).chain([count]);
        for word in words {
            dice.0 = dice.next() ^ word;
        }
        dice
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Draws once from a thousand; then each rate asked takes its share of what is left.
    pub(super) fn strikes(&mut self) -> impl FnMut(u16) -> bool + use<> {
        let mut left = self.next() % 1000;
        move |rate| {
            let strikes = left < u64::from(rate);
            left = left.saturating_sub(u64::from(rate));
            strikes
        }
    }

    pub(super) fn one_of<'a>(&mut self, texts: &[&'a str; 3]) -> &'a str {
        texts[(self.next() % 3) as usize]
    }

    pub(super) fn up_to(&mut self, longest: Duration) -> Duration {
        Duration::from_secs(self.next() % longest.as_secs().saturating_add(1))
    }
}
