//! How states, kinds and objects stand in columns, in every SQL store. The numbers are in stores out there: they are never changed.

use crate::approval::RequestState;
use crate::card::{CardKind, CardState, Route};
use crate::certificate::CertificateState;
use crate::history::ObjectId;
use crate::job::{JobKind, JobState};

/// A value with a number.
pub(super) trait Code: Copy {
    fn code(self) -> i16;
}

impl Code for CardKind {
    fn code(self) -> i16 {
        match self {
            Self::Permanent => 0,
            Self::Temporary => 1,
        }
    }
}

impl Code for Route {
    fn code(self) -> i16 {
        match self {
            Self::Local => 0,
            Self::External => 1,
        }
    }
}

impl Code for CardState {
    fn code(self) -> i16 {
        match self {
            Self::Registered => 0,
            Self::Requested => 1,
            Self::Aborted => 2,
            Self::Rejected => 3,
            Self::Approved => 4,
            Self::Processing => 5,
            Self::Ordered => 6,
            Self::InProduction => 7,
            Self::Produced => 8,
            Self::Failed => 9,
            Self::Issued => 10,
            Self::Active => 11,
            Self::Inactive => 12,
            Self::Unassigned => 13,
            Self::Assigned => 14,
            Self::Locked => 15,
            Self::Expired => 16,
        }
    }
}

impl Code for CertificateState {
    fn code(self) -> i16 {
        match self {
            Self::Issued => 0,
            Self::Valid => 1,
            Self::OnHold => 2,
            Self::Revoked => 3,
            Self::Expired => 4,
        }
    }
}

impl Code for RequestState {
    fn code(self) -> i16 {
        match self {
            Self::Open => 0,
            Self::Approved => 1,
            Self::Rejected => 2,
            Self::Aborted => 3,
        }
    }
}

impl Code for JobKind {
    fn code(self) -> i16 {
        match self {
            Self::PlaceOrder => 0,
            Self::TrackOrder => 1,
            Self::Notify => 2,
            Self::Custom => 3,
            Self::PrepareCard => 4,
            Self::IssueCertificate => 5,
            Self::HoldCertificate => 6,
            Self::FinishCard => 7,
            Self::DiscardCard => 8,
            Self::RemoveHold => 9,
            Self::RevokeCertificate => 10,
        }
    }
}

impl Code for JobState {
    fn code(self) -> i16 {
        match self {
            Self::Open => 0,
            Self::InDoubt => 1,
            Self::Done => 2,
            Self::Cancelled => 3,
        }
    }
}

/// The different numbers of these values, or of all values if there are none.
pub(super) fn codes<C: Code>(wanted: &[C], all: &[C]) -> Vec<i16> {
    let wanted = if wanted.is_empty() { all } else { wanted };
    let mut codes: Vec<i16> = wanted.iter().map(|value| value.code()).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

/// An object of the history as bytes: one for its kind, then its id.
pub(super) fn object_bytes(object: &ObjectId, out: &mut Vec<u8>) {
    let (tag, id) = match object {
        ObjectId::Card(id) => (1, id.uuid()),
        ObjectId::Certificate(id) => (2, id.uuid()),
        ObjectId::Request(id) => (3, id.uuid()),
        ObjectId::Run(id) => (4, id.uuid()),
        ObjectId::Record(key) => {
            out.push(5);
            out.extend_from_slice(key.as_bytes());
            return;
        }
    };
    out.push(tag);
    out.extend_from_slice(id.as_bytes());
}

/// A number that a store can hold; what is larger can be in none.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// How many rows at most.
pub(super) fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// The first text after all that begin like this; where there is none, nothing.
pub(super) fn past_prefix(prefix: &str) -> Option<String> {
    let mut rest = prefix.chars();
    while let Some(last) = rest.next_back() {
        // A range of characters leaves out the surrogates, which are none.
        if let Some(next) = (last..=char::MAX).nth(1) {
            let mut text = rest.as_str().to_owned();
            text.push(next);
            return Some(text);
        }
    }
    None
}

/// All states of jobs.
pub(super) const ALL_JOB_STATES: [JobState; 4] =
    [JobState::Open, JobState::InDoubt, JobState::Done, JobState::Cancelled];
