//! What the host application provides: one trait a file.
//!
//! All traits are object-safe and have no defaulted methods. Each states its contract as named clauses, and
//! [`conformance`](crate::conformance) has a check of the same name for each clause of a store, a CA
//! and a card personalizer.

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
    CardQuery, CardRepository, CertificateQuery, ClaimRequest, CommitError, FeedEntry, FeedPage, JobQuery,
    RepositoryError, RequestQuery, TextPrefix,
};
pub use certificate_authority::{
    CaOutcome, CaStatusOutcome, CertificateAuthority, CertificateOrder, FindCertificateOutcome, IssueOutcome,
};
pub use clock::{Clock, SystemClock};
pub use entropy::{Entropy, SystemEntropy};
pub use go_cards_provider::{
    Accepted, CardOrder, FindOutcome, GoCardsProvider, OrderStatus, PlaceOutcome, Placement, StatusMap, StatusOutcome,
};
pub use job_performer::{CustomOutcome, JobPerformer};
pub use notifier::{Notifier, NotifyOutcome};
pub use user_repository::{DirectoryError, UserFilter, UserPage, UserRepository};
