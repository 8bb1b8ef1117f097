//! What the host application provides: one trait a file.
//!
//! All traits are object-safe and have no defaulted methods. Each states its contract as named clauses, and
//! [`conformance`](crate::conformance) has a check of the same name for each clause of a store, a directory, a bureau, a CA
//! and a card personalizer.
//!
//! # Writing one
//! Write `#[async_trait]` above the implementation, as the traits have it themselves; without it the compiler complains about lifetimes that do not
//! match. A clock, whole:
//!
//! ```
//! use std::time::Duration;
//!
//! use async_trait::async_trait;
//! use cardwright::host::{Clock, SystemClock};
//! use chrono::{DateTime, TimeDelta, Utc};
//!
//! /// The machine's clock, which is known to be behind.
//! struct Corrected {
//!     behind: TimeDelta,
//! }
//!
//! #[async_trait]
//! impl Clock for Corrected {
//!     fn now(&self) -> DateTime<Utc> {
//!         SystemClock.now() + self.behind
//!     }
//!
//!     async fn sleep(&self, duration: Duration) {
//!         SystemClock.sleep(duration).await;
//!     }
//! }
//!
//! # let clock = Corrected { behind: TimeDelta::seconds(2) };
//! # assert!(clock.now() > SystemClock.now());
//! # cardwright::Engine::builder().clock(clock);
//! ```
//!
//! Methods take `&self` and are called from many threads at once: what changes goes behind a lock or a pool. An `Arc` or `Box` of an implementation is
//! one too.
//!
//! # Companion crates
//! | crate | for |
//! |---|---|
//! | `async-trait` 0.1 | every trait of this module |
//! | `uuid` 1 | ids of cards, certificates, requests, jobs and runs, which are made from a `Uuid` |
//! | `chrono` 0.4 | times: [`Clock`], what a store keeps, what a bureau or CA says |
//! | `serde_json` 1 | the data of a store's records and of own jobs ([`Task::Custom`](crate::Task::Custom)); most stores keep the rest as JSON too |

/// Forwards a host trait through `Arc` and `Box`, so that both can be handed to the engine.
macro_rules! forward {
    ($trait:ident { $(fn $sync:ident(&self $(, $sarg:ident: $sty:ty)*) -> $sret:ty;)* $(async fn $name:ident(&self $(, $arg:ident: $ty:ty)*) -> $ret:ty;)* }) => {
        forward!(@one std::sync::Arc<T>, $trait { $(fn $sync(&self $(, $sarg: $sty)*) -> $sret;)* $(async fn $name(&self $(, $arg: $ty)*) -> $ret;)* });
        forward!(@one Box<T>, $trait { $(fn $sync(&self $(, $sarg: $sty)*) -> $sret;)* $(async fn $name(&self $(, $arg: $ty)*) -> $ret;)* });
    };
    (@one $outer:ty, $trait:ident { $(fn $sync:ident(&self $(, $sarg:ident: $sty:ty)*) -> $sret:ty;)* $(async fn $name:ident(&self $(, $arg:ident: $ty:ty)*) -> $ret:ty;)* }) => {
        #[async_trait::async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<T: $trait + ?Sized> $trait for $outer {
            $(fn $sync(&self $(, $sarg: $sty)*) -> $sret { (**self).$sync($($sarg),*) })*
            $(async fn $name(&self $(, $arg: $ty)*) -> $ret { (**self).$name($($arg),*).await })*
        }
    };
}

mod access_policy;
mod card_personalizer;
mod card_repository;
mod certificate_authority;
mod clock;
mod entropy;
mod go_cards_provider;
mod job_performer;
mod notifier;
mod user_repository;

pub use access_policy::{AccessPolicy, AllowAll, Decision, RolePolicy};
pub use card_personalizer::{
    CardCertificate, CardPersonalizer, DiscardOutcome, FinishOrder, FinishOutcome, PrepareOrder, PrepareOutcome,
    Prepared,
};
pub use card_repository::{
    Backlog, CardQuery, CardRepository, CertificateQuery, ClaimRequest, CommitError, FeedEntry, FeedPage, JobQuery,
    RepositoryError, RequestQuery, TextPrefix,
};
pub use certificate_authority::{
    CaOutcome, CaStatusOutcome, CertificateAuthority, CertificateOrder, FindCertificateOutcome, IssueOutcome,
};
pub use clock::{Clock, SystemClock};
pub use entropy::{Entropy, SystemEntropy};
pub use go_cards_provider::{
    Accepted, CardOrder, FindOutcome, GoCardsProvider, OrderStatus, PlaceOutcome, Placement, StatusMap, StatusMapError,
    StatusOutcome,
};
pub use job_performer::{CustomOutcome, JobPerformer};
pub use notifier::{NoMessages, Notifier, NotifyOutcome};
pub use user_repository::{DirectoryError, UserFilter, UserPage, UserRepository};
