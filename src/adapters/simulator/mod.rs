//! The outside on simulated time, for trials and tests: a card bureau, a certificate authority, a card personalizer.
//!
//! The [`SimulatedBureau`] takes orders, makes cards over days that pass in no time, and fails in every way in which a
//! bureau can fail. The [`SimulatedCa`] and the [`SimulatedPersonalizer`] do the same for certificates and for cards that
//! are made in the house. Each keeps its own books, so that a test can prove that nothing was ordered, issued or finished
//! twice. All of it depends on a seed: the same seed gives the same fates, in whatever order the calls come.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use cardwright::adapters::simulator::{BureauBehaviour, PlaceScript, SimulatedBureau, SimulatedClock};
//! use cardwright::host::{CardOrder, GoCardsProvider, PlaceOutcome};
//! use futures::FutureExt as _;
//!
//! let clock = SimulatedClock::new("2030-01-07T08:00:00Z".parse()?);
//! let bureau = SimulatedBureau::new(1, Arc::new(clock.clone())).behaving(BureauBehaviour::calm());
//!
//! // The bureau takes the order, and its answer gets lost.
//! bureau.next_place(PlaceScript::LoseReplyAfterAccepting);
//! let answers = bureau.place(&[CardOrder::new("order 1", "badge")]).now_or_never();
//! assert!(matches!(answers.as_deref(), Some([PlaceOutcome::Unknown { .. }])));
//! assert_eq!(bureau.productions_for("order 1"), 1);
//!
//! // Five days later the card is made.
//! clock.advance(Duration::from_secs(5 * 24 * 60 * 60));
//! assert_eq!(bureau.ledger()[0].status, "delivered");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::host::Clock;

/// The setters of a behaviour, named like its fields.
macro_rules! setters {
    ($($name:ident: $type:ty),* $(,)?) => {$(
        #[doc = concat!("The same with this [`", stringify!($name), "`](field@Self::", stringify!($name), ").")]
        #[must_use]
        pub const fn $name(mut self, $name: $type) -> Self {
            self.$name = $name;
            self
        }
    )*};
}

mod bureau;
mod certificate_authority;
mod clock;
mod dice;
mod personalizer;
mod script;

pub use bureau::{BureauBehaviour, BureauCalls, LedgerEntry, PlaceScript, SimulatedBureau};
pub use certificate_authority::{
    CaBehaviour, CaCalls, CaLedgerEntry, ChangeScript, FindScript, IssueScript, SimulatedCa,
};
pub use clock::SimulatedClock;
pub use personalizer::{
    DiscardScript, FinishScript, HandleState, PersonalizerBehaviour, PersonalizerCalls, PersonalizerLedgerEntry,
    PrepareScript, SecretDigest, SetSecret, SimulatedPersonalizer,
};

/// Waits before an answer: not at all for zero, for ever for [`Duration::MAX`].
async fn pass(clock: &dyn Clock, wait: Duration) {
    if wait == Duration::MAX {
        std::future::pending::<()>().await;
    } else if !wait.is_zero() {
        clock.sleep(wait).await;
    }
}

fn later(at: DateTime<Utc>, by: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(by).ok().and_then(|by| at.checked_add_signed(by)).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
