//! Jobs: what the office still owes the outside world. One job is one outside call.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::actor::Role;
use crate::certificate::{CertificateKind, RevocationReason};
use crate::id::{ActorId, CardId, CertificateId, JobId, MessageId, RunId, SymbolicName};

/// Something the office owes the outside world, stored in the same commit as the change that owes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What is to be done.
    pub task: Task,
    /// The card it is about; `None` for a host's own job that is about no card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<CardId>,
    /// Open, in doubt, done or cancelled.
    pub state: JobState,
    /// The version it was loaded with; 0 if it is not stored yet. Every claim and every stored attempt raises it, so that
    /// it is also the fencing token: who holds an older version can commit nothing for this job.
    #[serde(skip)]
    pub version: u64,
    /// From when on it may be tried.
    pub due: DateTime<Utc>,
    /// When it was created.
    pub created: DateTime<Utc>,
    /// By which process.
    pub process: SymbolicName,
    /// In which run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// By whom.
    pub actor: ActorId,
    /// How many attempts were stored so far.
    #[serde(default)]
    pub attempts: u32,
    /// The attempt that was stored and has no answer yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
    /// Whether an attempt was never answered that is none any more, since a person wants it to be tried again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unanswered: bool,
    /// On how many days in a row the bureau was asked for its order and had nothing new to say.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub silent_days: u32,
    /// When the last of those days was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_at: Option<DateTime<Utc>>,
    /// How often it came into doubt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub doubts: u32,
    /// Who may try it now. Only stores set this.
    #[serde(skip)]
    pub claim: Option<Claim>,
    /// How often in a row the outside was unavailable.
    #[serde(default)]
    pub setbacks: u32,
    /// What was last in the way, or how it ended, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
}

impl Job {
    /// A new open job, due at once. Circumstances are those of the stamp.
    pub fn new(id: JobId, task: Task, card: Option<CardId>, stamp: &crate::history::Stamp<'_>) -> Self {
        Self {
            id,
            task,
            card,
            state: JobState::Open,
            version: 0,
            due: stamp.at,
            created: stamp.at,
            process: stamp.process.clone(),
            run: stamp.run,
            actor: stamp.actor.clone(),
            attempts: 0,
            attempt: None,
            unanswered: false,
            silent_days: 0,
            silent_at: None,
            doubts: 0,
            claim: None,
            setbacks: 0,
            remark: None,
        }
    }

    /// The kind of its task.
    pub const fn kind(&self) -> JobKind {
        match self.task {
            Task::PlaceOrder { .. } => JobKind::PlaceOrder,
            Task::TrackOrder { .. } => JobKind::TrackOrder,
            Task::PrepareCard => JobKind::PrepareCard,
            Task::IssueCertificate { .. } => JobKind::IssueCertificate,
            Task::HoldCertificate { .. } => JobKind::HoldCertificate,
            Task::FinishCard => JobKind::FinishCard,
            Task::DiscardCard { .. } => JobKind::DiscardCard,
            Task::RemoveHold { .. } => JobKind::RemoveHold,
            Task::RevokeCertificate { .. } => JobKind::RevokeCertificate,
            Task::Notify(_) => JobKind::Notify,
            Task::Custom { .. } => JobKind::Custom,
        }
    }

    /// Leaves it to a person: whether it was done is unknown.
    #[must_use]
    pub(crate) fn in_doubt(self, reason: &str) -> Self {
        let remark = Some(reason.to_owned());
        Self { state: JobState::InDoubt, doubts: self.doubts + 1, claim: None, remark, ..self }
    }

    /// There was nothing new of its order; on how many days in a row by now. What is counted is days on which it was asked, not
    /// time: a bureau that is away, workers that stand still and clocks that jump are no silence.
    pub(crate) fn nothing_new(&mut self, now: DateTime<Utc>) -> u32 {
        let is_counted = self.silent_at.is_some_and(|last| (now - last).abs() < TimeDelta::days(1));
        if !is_counted {
            self.silent_days += 1;
            self.silent_at = Some(now);
        }
        self.silent_days
    }

    /// There was something new.
    pub(crate) const fn news(&mut self) {
        self.silent_days = 0;
        self.silent_at = None;
    }

    /// Which doubt of which job there is to be settled: whoever settles it names it, so that what is said of one doubt is never
    /// taken for a word about a later one. `<job>/<how often it came into doubt>`.
    pub fn doubt(&self) -> String {
        format!("{}/{}", self.id, self.doubts)
    }

    /// The attempt that comes next. Its reference is what the outside is told; it is one per attempt.
    pub fn next_attempt(&self, at: DateTime<Utc>) -> Attempt {
        let number = self.attempts + 1;
        Attempt { reference: format!("{}-{number}", self.id.uuid().simple()), number, started: at }
    }

    /// The id of a job that follows from this one; the same however often the answer is applied.
    pub fn follow_up(&self, purpose: &str) -> JobId {
        JobId::new(uuid::Uuid::new_v5(&self.id.uuid(), format!("{purpose} {}", self.attempts).as_bytes()))
    }

    /// Whether somebody may be trying it at this time: it is claimed, or an attempt has no answer.
    pub fn is_being_tried(&self, now: DateTime<Utc>) -> bool {
        self.attempt.is_some() || self.claim.as_ref().is_some_and(|claim| claim.until > now)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "task")]
pub enum Task {
    /// Place the order for the card at the bureau. Not repeatable.
    PlaceOrder {
        /// Whether the holder is told by e-mail once the bureau has accepted.
        notify_holder: bool,
        /// Whether the background sync sends it; otherwise the run that decided it does.
        queued: bool,
    },
    /// Read the status of the card's order. Repeatable.
    TrackOrder {
        /// The bureau's order id.
        order_id: String,
    },
    /// Make a card ready for its local production. Not repeatable: what a machine did to a card, only a person can see.
    PrepareCard,
    /// Have the CA issue a certificate for the card's production. Looked for by its key before it is asked for again.
    IssueCertificate {
        /// What it is for.
        kind: CertificateKind,
        /// The production that it is made in.
        production: JobId,
    },
    /// Put a certificate on hold at the CA before the card is finished. Repeatable.
    HoldCertificate {
        /// Which one.
        certificate: CertificateId,
    },
    /// Finish the card: write, print, PIN, PUK, delivery. Not repeatable.
    FinishCard,
    /// Tell the personalizer that a prepared card is not finished any more. Repeatable.
    DiscardCard {
        /// What the personalizer calls it.
        handle: String,
    },
    /// Take a certificate off hold at the CA. Repeatable.
    RemoveHold {
        /// Which one.
        certificate: CertificateId,
    },
    /// Revoke a certificate at the CA. Repeatable.
    RevokeCertificate {
        /// Which one.
        certificate: CertificateId,
        /// The reason.
        reason: RevocationReason,
    },
    /// Send a message. Repeatable: at least once, always with the same message id.
    Notify(Message),
    /// A host's own job.
    Custom {
        /// The name under which the host registered the performer.
        performer: SymbolicName,
        /// What the performer needs.
        data: serde_json::Value,
    },
}

/// The kind of a task, by which jobs are claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// [`Task::PlaceOrder`].
    PlaceOrder,
    /// [`Task::TrackOrder`].
    TrackOrder,
    /// [`Task::PrepareCard`].
    PrepareCard,
    /// [`Task::IssueCertificate`].
    IssueCertificate,
    /// [`Task::HoldCertificate`].
    HoldCertificate,
    /// [`Task::FinishCard`].
    FinishCard,
    /// [`Task::DiscardCard`].
    DiscardCard,
    /// [`Task::RemoveHold`].
    RemoveHold,
    /// [`Task::RevokeCertificate`].
    RevokeCertificate,
    /// [`Task::Notify`].
    Notify,
    /// [`Task::Custom`].
    Custom,
}

impl JobKind {
    /// Whether it is a link of a production: prepare, issue, hold, finish.
    pub const fn is_link(self) -> bool {
        matches!(self, Self::PrepareCard | Self::IssueCertificate | Self::HoldCertificate | Self::FinishCard)
    }

    /// All kinds.
    pub const ALL: [Self; 11] = [
        Self::PlaceOrder,
        Self::TrackOrder,
        Self::PrepareCard,
        Self::IssueCertificate,
        Self::HoldCertificate,
        Self::FinishCard,
        Self::DiscardCard,
        Self::RemoveHold,
        Self::RevokeCertificate,
        Self::Notify,
        Self::Custom,
    ];

    /// The name that stores and people use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PlaceOrder => "place order",
            Self::TrackOrder => "track order",
            Self::PrepareCard => "prepare card",
            Self::IssueCertificate => "issue certificate",
            Self::HoldCertificate => "hold certificate",
            Self::FinishCard => "finish card",
            Self::DiscardCard => "discard card",
            Self::RemoveHold => "remove hold",
            Self::RevokeCertificate => "revoke certificate",
            Self::Notify => "notify",
            Self::Custom => "custom",
        }
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// To be done.
    Open,
    /// Its outcome is unknown and a person must settle it. Never tried again by itself.
    InDoubt,
    /// Done, or answered with a final no.
    Done,
    /// Taken back before it was tried.
    Cancelled,
}

impl JobState {
    /// The name that stores and people use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::InDoubt => "in doubt",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One try of a call that is not repeatable, stored before the call is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// What the outside is told, so that the attempt can be found there.
    pub reference: String,
    /// Which attempt of the job it is, from 1.
    pub number: u32,
    /// When it was stored.
    pub started: DateTime<Utc>,
}

/// Who may try a job, and until when by the store's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The worker.
    pub worker: String,
    /// The end of the lease.
    pub until: DateTime<Utc>,
}

/// A message to somebody. The words are the host's: see [`Notifier`](crate::host::Notifier).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its id, the same however often it is sent.
    pub id: MessageId,
    /// What it says.
    pub kind: MessageKind,
    /// To whom.
    pub recipient: Recipient,
    /// What the words may be filled with, such as the card number.
    pub data: BTreeMap<String, String>,
    /// The language wanted, as a BCP 47 tag; `None` for the host's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MessageKind {
    /// To the card holder: the bureau has accepted the order.
    CardOrdered,
    /// To the approvers: a request waits.
    RequestWaiting,
    /// To the requester: approved.
    RequestApproved,
    /// To the requester: rejected; the data has the reason.
    RequestRejected,
    /// A host's own message.
    Custom(String),
}

/// To whom a message goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipient {
    /// To an e-mail address.
    Email(String),
    /// To a person or service by login.
    Actor(ActorId),
    /// To everybody who has the role.
    Role(Role),
}
