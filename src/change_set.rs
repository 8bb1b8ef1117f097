//! Everything that one commit stores together.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::approval::ApprovalRequest;
use crate::card::{Card, CardState};
use crate::certificate::{Certificate, CertificateState};
use crate::history::{ChainHead, HistoryEntry, ObjectId, Stamp, Why};
use crate::id::JobId;
use crate::job::{Job, Task};
use crate::state_graph::TransitionError;

/// Everything that one commit stores together or not at all.
///
/// Each object carries the version it was loaded with (0: not stored yet) and is stored under the next one. An object
/// stands in a change set at most once; of a job about a card that has no other change, only the job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChangeSet {
    /// Cards, new or changed.
    pub cards: Vec<Card>,
    /// Certificates, new or changed.
    pub certificates: Vec<Certificate>,
    /// Approval requests, new or changed.
    pub requests: Vec<ApprovalRequest>,
    /// Jobs, new or changed.
    pub jobs: Vec<Job>,
    /// Records of the office itself, new or changed.
    pub records: Vec<Record>,
    /// Reservations to give back; done before any is taken.
    pub releases: Vec<Reservation>,
    /// Reservations to take.
    pub takes: Vec<Reservation>,
    /// History entries, in the order of each object's chain.
    pub history: Vec<HistoryEntry>,
}

impl ChangeSet {
    /// Nothing to store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds all of another change set.
    pub fn append(&mut self, other: Self) {
        let Self { cards, certificates, requests, jobs, records, releases, takes, history } = other;
        self.cards.extend(cards);
        self.certificates.extend(certificates);
        self.requests.extend(requests);
        self.jobs.extend(jobs);
        self.records.extend(records);
        self.releases.extend(releases);
        self.takes.extend(takes);
        self.history.extend(history);
    }

    /// Makes room for all of these at once: cards are large, and growing step by step would move them again and again.
    pub(crate) fn reserve<'a>(&mut self, others: impl Iterator<Item = &'a Self> + Clone) {
        let sum = |len: fn(&Self) -> usize| others.clone().map(len).sum();
        self.cards.reserve(sum(|other| other.cards.len()));
        self.certificates.reserve(sum(|other| other.certificates.len()));
        self.requests.reserve(sum(|other| other.requests.len()));
        self.jobs.reserve(sum(|other| other.jobs.len()));
        self.records.reserve(sum(|other| other.records.len()));
        self.releases.reserve(sum(|other| other.releases.len()));
        self.takes.reserve(sum(|other| other.takes.len()));
        self.history.reserve(sum(|other| other.history.len()));
    }

    /// Whether it can be stored as it is: every object once, every change of an object with a history with its entries, which
    /// end where the object says that its history ends. Stores need not check this; the engine does, for every plan.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        let heads = (self.cards.iter().map(|card| (ObjectId::Card(card.id), card.history)))
            .chain(self.certificates.iter().map(|c| (ObjectId::Certificate(c.id), c.history)))
            .chain(self.requests.iter().map(|request| (ObjectId::Request(request.id), request.history)));
        let mut entries = 0;
        let mut seen = Vec::with_capacity(self.cards.len() + self.certificates.len() + self.requests.len());
        for (object, head) in heads {
            let mut own = 0;
            for entry in self.history.iter().filter(|entry| entry.object == object).rev() {
                if Some(entry.sequence) != head.length.checked_sub(own) {
                    return Err(format!("the history of {object} is not continued entry by entry"));
                }
                own += 1;
            }
            if own == 0 {
                return Err(format!("{object} is changed without a history entry"));
            }
            if seen.contains(&object) {
                return Err(format!("{object} stands there twice"));
            }
            seen.push(object);
            entries += own;
        }
        let of_records = self.history.iter().filter(|e| matches!(e.object, ObjectId::Record(_) | ObjectId::Run(_)));
        if entries + of_records.count() as u64 != self.history.len() as u64 {
            return Err("there is a history entry of an object that is not changed".to_owned());
        }
        let deep = |job: &&Job| matches!(&job.task, Task::Custom { data, .. } if depth(data) > DEEPEST);
        if let Some(job) = self.jobs.iter().find(deep) {
            return Err(format!("the data of job {} is nested deeper than {DEEPEST} levels", job.id));
        }
        if let Some(record) = self.records.iter().find(|record| depth(&record.value) > DEEPEST) {
            return Err(format!("record {} is nested deeper than {DEEPEST} levels", record.key));
        }
        let twice = |place: usize, job: &Job| self.jobs[..place].iter().any(|other| other.id == job.id);
        if let Some((_, job)) = self.jobs.iter().enumerate().find(|(place, job)| twice(*place, job)) {
            return Err(format!("job {} stands there twice", job.id));
        }
        Ok(())
    }

    /// Moves a card to another state, keeps the history entry, and gives back the reservations that it needs no longer: its
    /// user's open order, or the place for an active card. The card itself is added with [`put_card`](Self::put_card) when it is complete.
    ///
    /// # Errors
    /// [`TransitionError`] as [`Card::transition`]; nothing is changed then.
    pub fn move_card(
        &mut self,
        card: &mut Card,
        to: CardState,
        stamp: &Stamp<'_>,
        why: Why<'_>,
    ) -> Result<(), TransitionError> {
        let entry = card.transition(to, stamp, why)?;
        self.history.push(entry);
        self.give_back(card);
        Ok(())
    }

    /// Gives back the reservations that a card needs no longer.
    pub(crate) fn give_back(&mut self, card: &mut Card) {
        for key in std::mem::take(&mut card.reservations) {
            if card.needs(&key) {
                card.reservations.push(key);
            } else {
                self.releases.push(Reservation { key, owner: card.id.to_string() });
            }
        }
    }

    /// Keeps the history entry of a change of a card that leaves its state as it is.
    pub fn note_card(&mut self, card: &mut Card, stamp: &Stamp<'_>, why: Why<'_>) {
        self.history.push(card.note(stamp, why));
    }

    /// Moves a certificate to another state, keeps the history entry, and adds it.
    ///
    /// # Errors
    /// [`TransitionError`] as [`Certificate::transition`]; nothing is changed then.
    pub fn move_certificate(
        &mut self,
        mut certificate: Certificate,
        to: CertificateState,
        stamp: &Stamp<'_>,
        why: Why<'_>,
    ) -> Result<(), TransitionError> {
        self.history.push(certificate.transition(to, stamp, why)?);
        self.certificates.push(certificate);
        Ok(())
    }

    /// Adds a card.
    pub fn put_card(&mut self, card: Card) {
        self.cards.push(card);
    }

    /// Takes a reservation for a card, which gives it back once it needs it no longer: see [`move_card`](Self::move_card).
    pub fn reserve_for(&mut self, card: &mut Card, key: String) {
        self.takes.push(Reservation { key: key.clone(), owner: card.id.to_string() });
        card.reservations.push(key);
    }
}

/// How deep data of hosts may be nested: what is stored must be read back, and readers of JSON have a limit.
const DEEPEST: usize = 64;

/// How deep a value is nested; no deeper than one more than is allowed.
fn depth(value: &serde_json::Value) -> usize {
    let mut level: Vec<&serde_json::Value> = vec![value];
    for depth in 0..=DEEPEST {
        level = level
            .into_iter()
            .flat_map(|value| match value {
                serde_json::Value::Array(values) => values.iter().collect::<Vec<_>>(),
                serde_json::Value::Object(values) => values.values().collect(),
                _ => Vec::new(),
            })
            .collect();
        if level.is_empty() {
            return depth;
        }
    }
    DEEPEST + 1
}

/// A unique key that somebody holds, such as the open order of a user. Taking a taken key is a conflict, never an overwrite.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Reservation {
    /// The key.
    pub key: String,
    /// Who holds it, as text, such as a card id.
    pub owner: String,
}

/// A versioned record of the office itself: options in force, enablement, a run, a number range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its key.
    pub key: String,
    /// The version it was loaded with; 0 if it is not stored yet.
    #[serde(skip)]
    pub version: u64,
    /// What it holds.
    pub value: serde_json::Value,
    /// The end of its history.
    #[serde(default)]
    pub history: ChainHead,
}

impl Record {
    /// A record that is not stored yet.
    pub fn new(key: impl Into<String>, value: serde_json::Value) -> Self {
        Self { key: key.into(), version: 0, value, history: ChainHead::default() }
    }
}

/// Why a commit was refused: one thing that changed meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Conflict {
    /// An object is stored under another version than the one it was loaded with.
    Version {
        /// The object.
        object: StoredId,
        /// The version it was loaded with; 0 for one that was to be new.
        expected: u64,
        /// The version in the store; 0 if it is not there.
        found: u64,
    },
    /// A reservation is held by another, or twice in the same change set.
    Taken {
        /// The key.
        key: String,
        /// Who holds it.
        owner: String,
    },
    /// A reservation that was to be given back is not held by that owner.
    NotHeld {
        /// The key.
        key: String,
        /// The owner that was to give it back.
        owner: String,
    },
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { object, expected, found } => {
                write!(f, "{object} has version {found}, {expected} was expected")
            }
            Self::Taken { key, owner } => write!(f, "`{key}` is taken by {owner}"),
            Self::NotHeld { key, owner } => write!(f, "`{key}` is not held by {owner}"),
        }
    }
}

/// What is stored under a version of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoredId {
    /// A card, a certificate, an approval request or a record.
    Object(ObjectId),
    /// A job.
    Job(JobId),
}

impl fmt::Display for StoredId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(object) => object.fmt(f),
            Self::Job(job) => write!(f, "job {job}"),
        }
    }
}
