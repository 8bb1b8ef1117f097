//! The core of a card office.

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
mod production_type;
mod state_graph;
mod user;

pub mod adapters;
pub mod conformance;
pub mod host;
pub mod options;
pub mod process;

pub use actor::{Actor, Role};
pub use approval::{ApprovalRequest, RequestState, request_graph};
pub use card::{
    BureauTimes, Busy, Card, CardKind, CardState, Failure, FailurePhase, Order, ReadOut, Route, Withdrawal, card_graph,
    fold,
};
pub use card_number::{NumberRange, NumberRangeError};
pub use certificate::{
    Certificate, CertificateKind, CertificateState, RevocationReason, UnknownReason, certificate_graph,
};
pub use change_set::{ChangeSet, Conflict, Record, Reservation, StoredId};
pub use engine::{
    BuildError, Candidate, Candidates, ENABLE_PROCESS, Engine, EngineBuilder, EngineSettings, Execution, Interruption,
    OptionVersion, Progress, Report, Run, SET_OPTIONS, StopHandle,
};
pub use error::Error;
pub use history::{ChainError, ChainHead, ChainKey, Digest, HistoryEntry, ObjectId, Stamp, Why, verify_chain};
pub use id::{ActorId, CardId, CertificateId, InvalidId, JobId, MessageId, RequestId, RunId, SymbolicName, UserId};
pub use job::{Attempt, Claim, Job, JobKind, JobState, Message, MessageKind, Recipient, Task};
pub use production_type::{CardElement, EMAIL, ElementError, ProductionType, UserToCardMap};
pub use state_graph::{State, StateGraph, TransitionError};
pub use user::{User, UserState, user_graph};
