//! The core of a card office, to embed: employee badges, temporary cards and certificates, from the request to the card that
//! the bureau has shipped or the house has made.
//!
//! You bring your own database, directory, bureau and mail through [host traits](host), or take a [ready adapter](adapters).
//! The library brings the states, the named processes, the administrator's options, and the promise that nothing is lost
//! and nothing is ordered twice: what is owed to the outside is stored before it is done, and what may or may not have
//! happened is put *in doubt* for a person, never guessed.
//!
//! ```
//! use std::sync::Arc;
//!
//! use cardwright::adapters::memory::{MemoryRepository, MemoryUsers, RecordingNotifier};
//! use cardwright::adapters::simulator::SimulatedBureau;
//! use cardwright::host::{AllowAll, SystemClock};
//! use cardwright::process::{Answer, Filter, HouseRules};
//! use cardwright::{Actor, ActorId, CardElement, Engine, ProductionType, Role, User, UserId, UserState};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { futures::executor::block_on(async {
//! let ann = User::new(UserId::new("ann")?, UserState::Active, [("commonName".to_owned(), "Ann".to_owned())]);
//! let badge = ProductionType::new("standard", "ART-1").element(CardElement::required("NAME", "commonName", 40));
//! let engine = Engine::builder()
//!     .repository(MemoryRepository::new(Arc::new(SystemClock)))
//!     .users(MemoryUsers::new([ann]))
//!     .bureau(SimulatedBureau::new(1, Arc::new(SystemClock)))
//!     .notifier(RecordingNotifier::new())
//!     .access(AllowAll)
//!     .rules(HouseRules::new().production_type(badge))
//!     .build()?;
//! let operator = Actor::person(ActorId::new("olga")?, UserId::new("olga")?, [Role::Operator]);
//! let run = engine.open("CardsAddonExtProdBoProcOrderMultiple", &operator).await?;
//! let report = engine.next(&run, Answer::all(Filter::Users(Default::default()))).await?.finish().await?;
//! assert_eq!(report.done["processing"], 1);
//! # Ok(()) }) }
//! ```
//!
//! # Cards made in the house
//! Requested, approved if the option `CardsBatchRequestApproval` says so, issued, activated, and locked when it is lost:
//!
//! ```
//! # use std::sync::Arc;
//! # use cardwright::adapters::memory::{MemoryRepository, MemoryUsers, RecordingNotifier};
//! use cardwright::adapters::simulator::{SimulatedCa, SimulatedPersonalizer}; // or local_ca::LocalCa, and your machine
//! # use cardwright::host::{AllowAll, CardQuery, SystemClock};
//! # use cardwright::process::{Answer, Filter};
//! # use cardwright::{Actor, ActorId, CardState, Engine, Role, User, UserId, UserState};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { futures::executor::block_on(async {
//! # let ann = User::new(UserId::new("ann")?, UserState::Active, [("commonName".to_owned(), "Ann".to_owned())]);
//! # let operator = Actor::person(ActorId::new("olga")?, UserId::new("olga")?, [Role::Operator]);
//! let engine = Engine::builder()
//!     .certificate_authority(SimulatedCa::new(1, Arc::new(SystemClock)))
//!     .personalizer(SimulatedPersonalizer::new(1, Arc::new(SystemClock)))
//! #   .repository(MemoryRepository::new(Arc::new(SystemClock))).users(MemoryUsers::new([ann]))
//! #   .notifier(RecordingNotifier::new()).access(AllowAll)
//!     // and the repository, users, notifier and access from above
//!     .build()?;
//! let people = Filter::Users(Default::default());
//! let cards_that_are = |state| Filter::Cards(CardQuery { states: vec![state], ..CardQuery::default() });
//! for (process, items) in [
//!     ("CardsBoProcRequestMulitple", people), // it really is spelled so
//!     ("CardsBoProcIssueMultiple", cards_that_are(CardState::Approved)),
//!     ("CardsProcActivate", cards_that_are(CardState::Issued)),
//!     ("CardsProcLock", cards_that_are(CardState::Active)),
//! ] {
//!     let run = engine.open(process, &operator).await?;
//!     let report = engine.next(&run, Answer::all(items)).await?.finish().await?;
//!     assert_eq!(report.done_in_all(), 1, "{process}");
//! }
//! # Ok(()) }) }
//! ```
//!
//! # The nouns
//! A [`Card`] has a [kind](CardKind) and a [route](Route), and one [`StateGraph`] for each pair says which [`CardState`] may
//! follow which ([`card_graph`] shows them all). A [process] is a named use case; opening one gives a [`Run`] with
//! a form, answering it gives an [`Execution`] that works chunk by chunk. A plan stores one [`ChangeSet`]; what must be
//! done outside is a [`Job`] in the same commit. Every change is a [`HistoryEntry`] in the object's chain.
//! [Options](mod@options) are what the administrator sets, in Luau scripts or as typed values.
//!
//! # Implementing the host side
//! - [`host::CardRepository`]: the store.
//! - [`host::UserRepository`]: your directory, read only.
//! - [`host::GoCardsProvider`]: the bureau. Its contract keeps refused, unavailable, rate-limited and unknown apart.
//! - [`host::CertificateAuthority`] and [`host::CardPersonalizer`]: for cards that are made in the house. An office without a
//!   bureau, or without these, needs none: what it cannot do is refused.
//! - [`host::Notifier`], [`host::AccessPolicy`], [`host::Clock`], [`host::JobPerformer`].
//!
//! [`host`] shows how one is written and which crates are needed beside this one; [`conformance`] (a feature) is the kit of
//! checks for your own: for each clause of a contract one, in a test file of about twenty lines.
//!
//! # Whom the engine trusts
//! The engine believes its caller: who acts is what the host says in [`Actor`], so the host has authenticated the person before. A [`Run`] carries that
//! actor and the versions of the options that count for it. It belongs on the host's side, in a session or a table: give people its form and its id,
//! and take back an [`Answer`](process::Answer) only. A run that came back from a browser could name another actor. Answers, search filters and
//! cursors, on the other hand, may come from anybody: they are checked. What the directory, the bureau and the CA say is checked for form, not for truth.
//!
//! # Examples by task
//! `quickstart` (people from a CSV file, an office in an SQLite file, a batch order from end to end), `issue_cards` (1,000
//! cards made in the house, with certificates of an embedded CA), `issue_with_on_card_keys`, `temporary_cards`,
//! `approval`, `options`, `custom_process` (a package of your own), `custom_repository` (a store of your own against the
//! kit), `worker` and `web_service` (several instances on one store). Run them with `cargo run --release --example quickstart`.
//!
//! # Background work
//! A [`worker`] (feature `tokio`) does all of it. Without one, run the syncs regularly, as an actor of role
//! [`Role::BatchSync`]; all may run on several instances at once:
//! - `CardsAddonExtProdBatchSyncOrder` sends what is queued, `CardsAddonExtProdBatchSyncStatus` brings orders up to date.
//! - `CardsBatchSyncProduction` goes on with cards that are made here, and brings the CA after what was locked or activated.
//! - `CardsBatchSyncOrphans` revokes certificates that a failed production has left.
//!
//! The first three also send the messages. None needs an answer: each finds what is due.
//!
//! Show people what [`Engine::doubts`] lists.
//!
//! # Features
//! | feature | default | what it adds |
//! |---|---|---|
//! | `scripting` | yes | option scripts in Luau (mlua); without it the same options are set as typed values |
//! | `sqlite` | no | [`adapters`]: a store on an embedded SQLite file |
//! | `postgres` | no | [`adapters`]: a store in a PostgreSQL schema, on your own `sqlx::PgPool`; TLS is a feature of sqlx that you choose |
//! | `simulator` | no | [`adapters`]: a bureau, a CA, a card personalizer and a clock on simulated time |
//! | `local-ca` | no | [`adapters`]: an embedded CA, for X.509 certificates and revocation lists |
//! | `tokio` | no | [`worker`]: runs the background processes, with back-off, rates, and figures to export |
//! | `conformance` | no | [`conformance`]: the checks with which you test your own store, directory, bureau, CA and card personalizer |
//!
//! # What it does not do
//! It has no user interface and no web service; it does not write to your directory; it cannot cancel an order
//! that the bureau has accepted, nor tell whether an unanswered order was accepted when the bureau offers no look-up: that
//! is for a person.

#![warn(missing_docs)]
#![warn(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]

mod actor;
mod approval;
mod card;
mod card_number;
mod certificate;
mod change_set;
mod engine;
mod error;
mod history;
mod id;
mod job;
mod production;
mod production_type;
mod secret;
mod state_graph;
mod user;

pub mod adapters;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod host;
pub mod options;
pub mod process;
#[cfg(feature = "tokio")]
pub mod worker;

pub use actor::{Actor, Role};
pub use approval::{ApprovalRequest, RequestState, request_graph};
pub use card::{
    BureauTimes, Busy, Card, CardKind, CardState, Failure, FailurePhase, Order, ReadOut, Route, Withdrawal, card_graph,
    fold,
};
pub use card_number::{NumberRange, NumberRangeError};
pub use certificate::{
    Certificate, CertificateKind, CertificateState, IssuedCertificate, RevocationReason, StateAtCa, UnknownReason,
    certificate_graph,
};
pub use change_set::{ChangeSet, Conflict, Record, Reservation, StoredId};
pub use engine::{
    BuildError, Candidate, Candidates, ENABLE_PROCESS, Engine, EngineBuilder, EngineSettings, Execution, Interruption,
    OptionVersion, Progress, Report, Run, SET_OPTIONS, StopHandle, Verified,
};
pub use error::Error;
pub use history::{
    ChainError, ChainHead, ChainHeads, ChainKey, Digest, HistoryEntry, ObjectId, Stamp, Why, verify_chain,
};
pub use id::{
    ActorId, CardId, CertificateId, InvalidId, JobId, MessageId, RequestId, RoleName, RunId, SymbolicName, UserId,
};
pub use job::{Attempt, Claim, Job, JobKind, JobState, Message, MessageKind, Recipient, Task};
pub use production::{Delivery, Production, SecretPlan};
pub use production_type::{AttributeError, CardElement, EMAIL, ElementError, ProductionType, UserToCardMap};
pub use secret::Secret;
pub use state_graph::{State, StateGraph, TransitionError};
pub use user::{User, UserState, user_graph};

/// The examples of the README, so that they are compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
