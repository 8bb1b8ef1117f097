//! History: who changed what, when, by which process, from what to what, and why; one chain for each object.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, SubsecRound as _, Utc};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::id::{ActorId, CardId, CertificateId, RequestId, RunId, SymbolicName};

/// An object that has a history.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectId {
    /// A card.
    Card(CardId),
    /// A certificate.
    Certificate(CertificateId),
    /// An approval request.
    Request(RequestId),
    /// A run of a process.
    Run(RunId),
    /// A record of the office itself, such as the options in force, by its key.
    Record(String),
}

impl ObjectId {
    /// The object that is shown like this.
    pub(crate) fn of_text(text: &str) -> Option<Self> {
        let (kind, id) = text.split_once(' ')?;
        match kind {
            "card" => id.parse().ok().map(Self::Card),
            "certificate" => id.parse().ok().map(Self::Certificate),
            "request" => id.parse().ok().map(Self::Request),
            "run" => id.parse().ok().map(Self::Run),
            "record" => Some(Self::Record(id.to_owned())),
            _ => None,
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Card(id) => write!(f, "card {id}"),
            Self::Certificate(id) => write!(f, "certificate {id}"),
            Self::Request(id) => write!(f, "request {id}"),
            Self::Run(id) => write!(f, "run {id}"),
            Self::Record(key) => write!(f, "record {key}"),
        }
    }
}

/// A SHA-256 or HMAC-SHA-256 value; shown and stored as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The SHA-256 of a text: how a personal value, such as a free reason, enters the history.
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// The 32 bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0_u8; 64];
        for (i, byte) in self.0.iter().enumerate() {
            text[2 * i] = HEX[usize::from(byte >> 4)];
            text[2 * i + 1] = HEX[usize::from(byte & 15)];
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        parse_digest(&text).ok_or_else(|| serde::de::Error::custom("a digest has 64 hexadecimal digits"))
    }
}

fn parse_digest(text: &str) -> Option<Digest> {
    let text = text.as_bytes();
    if text.len() != 64 {
        return None;
    }
    let mut bytes = [0_u8; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(Digest(bytes))
}

/// What seals the history.
///
/// With a key the chain is HMAC-SHA-256: who has no key cannot change the past unnoticed. Without one it is SHA-256, which
/// shows accidents and simple edits only, since anyone can compute it again.
#[derive(Clone, Default)]
pub struct ChainKey(Option<Hmac<Sha256>>);

impl ChainKey {
    /// No key: plain SHA-256.
    pub fn none() -> Self {
        Self(None)
    }

    /// A key of the host's, of any length; 32 random bytes are a good one. The host keeps it; the library never stores it.
    pub fn new(key: &[u8]) -> Self {
        Self(Hmac::new_from_slice(key).ok())
    }

    pub(crate) fn seal(&self, bytes: &[u8]) -> Digest {
        Digest(match &self.0 {
            Some(keyed) => {
                let mut keyed = keyed.clone();
                keyed.update(bytes);
                keyed.finalize().into_bytes().into()
            }
            None => Sha256::digest(bytes).into(),
        })
    }
}

impl fmt::Debug for ChainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "ChainKey(set)" } else { "ChainKey(none)" })
    }
}

/// The end of an object's chain, kept on the object itself: how many entries there are, and the seal of the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChainHead {
    /// How many entries the chain has.
    pub length: u64,
    /// The seal of the last entry; all zero for an empty chain.
    pub seal: Digest,
}

/// The ends of many histories, to be kept where whoever can write to the store cannot. What was removed whole, or written anew from
/// the beginning, can only be found against them: see [`Engine::verify_all`](crate::Engine::verify_all).
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<(ObjectId, ChainHead)>", into = "Vec<(ObjectId, ChainHead)>")]
pub struct ChainHeads(pub BTreeMap<ObjectId, ChainHead>);

impl From<Vec<(ObjectId, ChainHead)>> for ChainHeads {
    fn from(heads: Vec<(ObjectId, ChainHead)>) -> Self {
        Self(heads.into_iter().collect())
    }
}

impl From<ChainHeads> for Vec<(ObjectId, ChainHead)> {
    fn from(ChainHeads(heads): ChainHeads) -> Self {
        heads.into_iter().collect()
    }
}

/// One entry: a change of one object. Holds ids and codes only; personal values only as digests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The object that changed.
    pub object: ObjectId,
    /// The place in the object's chain, from 1.
    pub sequence: u64,
    /// When, in UTC, to the microsecond.
    pub at: DateTime<Utc>,
    /// Who.
    pub actor: ActorId,
    /// By which process, or which act of the administrator.
    pub process: SymbolicName,
    /// In which run; `None` outside a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// The state before; `None` when the object was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Cow<'static, str>>,
    /// The state after; equal to `from` when something else than the state changed.
    pub to: Cow<'static, str>,
    /// Why, as a code, such as `accepted`.
    pub code: Cow<'static, str>,
    /// What it refers to, such as an order id; never a personal value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The digest of a free text that belongs to the change, such as a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Digest>,
    /// The seal over the previous entry's seal and all of the above.
    pub seal: Digest,
}

impl HistoryEntry {
    fn sealed_bytes(&self, previous: &Digest, out: &mut Vec<u8>) {
        use std::io::Write as _;
        out.clear();
        out.extend_from_slice(previous.bytes());
        let mut field = |write: &mut dyn FnMut(&mut Vec<u8>)| {
            let start = out.len();
            out.extend_from_slice(&[0; 8]);
            write(out);
            let long = (out.len() - start - 8) as u64;
            out[start..start + 8].copy_from_slice(&long.to_le_bytes());
        };
        // Writing to a vector cannot fail.
        field(&mut |out| drop(write!(out, "{}", self.object)));
        field(&mut |out| out.extend_from_slice(&self.sequence.to_le_bytes()));
        field(&mut |out| out.extend_from_slice(&self.at.timestamp_micros().to_le_bytes()));
        field(&mut |out| out.extend_from_slice(self.actor.as_str().as_bytes()));
        field(&mut |out| out.extend_from_slice(self.process.as_str().as_bytes()));
        field(&mut |out| out.extend_from_slice(self.run.map(RunId::uuid).as_ref().map_or(&[], |run| run.as_bytes())));
        field(&mut |out| optional(out, self.from.as_deref()));
        field(&mut |out| out.extend_from_slice(self.to.as_bytes()));
        field(&mut |out| out.extend_from_slice(self.code.as_bytes()));
        field(&mut |out| optional(out, self.reference.as_deref()));
        field(&mut |out| out.extend_from_slice(self.text.as_ref().map_or(&[], |d| d.bytes().as_slice())));
    }
}

fn optional(out: &mut Vec<u8>, text: Option<&str>) {
    if let Some(text) = text {
        out.push(1);
        out.extend_from_slice(text.as_bytes());
    }
}

/// The circumstances of a change: who, when, by which process, in which run, and with which seal.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// When.
    pub at: DateTime<Utc>,
    /// Who.
    pub actor: &'a ActorId,
    /// By which process.
    pub process: &'a SymbolicName,
    /// In which run.
    pub run: Option<RunId>,
    /// What seals the entry.
    pub key: &'a ChainKey,
}

/// Why something changes: a code, what it refers to, and a free text of which only the digest is kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Why<'a> {
    /// A short code, such as `accepted`.
    pub code: &'static str,
    /// An id it refers to, such as an order id.
    pub reference: Option<&'a str>,
    /// A free text; the history keeps its digest.
    pub text: Option<&'a str>,
}

impl<'a> Why<'a> {
    /// Just a code.
    pub const fn code(code: &'static str) -> Self {
        Self { code, reference: None, text: None }
    }

    /// The same, referring to an id.
    #[must_use]
    pub const fn about(self, reference: &'a str) -> Self {
        Self { code: self.code, reference: Some(reference), text: self.text }
    }

    /// The same, with a free text.
    #[must_use]
    pub const fn because(self, text: &'a str) -> Self {
        Self { code: self.code, reference: self.reference, text: Some(text) }
    }
}

impl ChainHead {
    /// Makes the next entry of the chain, sealed, and moves the head to it.
    pub fn append(
        &mut self,
        object: ObjectId,
        from: Option<&'static str>,
        to: &'static str,
        stamp: &Stamp<'_>,
        why: Why<'_>,
    ) -> HistoryEntry {
        let mut entry = HistoryEntry {
            object,
            sequence: self.length + 1,
            at: stamp.at.trunc_subsecs(6),
            actor: stamp.actor.clone(),
            process: stamp.process.clone(),
            run: stamp.run,
            from: from.map(Cow::Borrowed),
            to: Cow::Borrowed(to),
            code: Cow::Borrowed(why.code),
            reference: why.reference.map(str::to_owned),
            text: why.text.map(Digest::of),
            seal: Digest::default(),
        };
        let mut bytes = Vec::with_capacity(320);
        entry.sealed_bytes(&self.seal, &mut bytes);
        entry.seal = stamp.key.seal(&bytes);
        self.length += 1;
        self.seal = entry.seal;
        entry
    }
}

/// What is wrong with a chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// An entry is missing, doubled or out of place.
    #[error("{object}: entry {expected} was expected, entry {found} was found")]
    OutOfSequence {
        /// The object.
        object: ObjectId,
        /// The place that comes next.
        expected: u64,
        /// The place that the entry says it has.
        found: u64,
    },
    /// An entry belongs to the history of another object.
    #[error("{object}: entry {sequence} is one of {of}")]
    OfAnother {
        /// The object.
        object: ObjectId,
        /// The entry.
        sequence: u64,
        /// The object that the entry is about.
        of: ObjectId,
    },
    /// An entry was changed, or sealed with another key.
    #[error("{object}: the seal of entry {sequence} does not fit")]
    BrokenSeal {
        /// The object.
        object: ObjectId,
        /// The entry.
        sequence: u64,
    },
    /// The chain is intact but does not end where the object says.
    #[error("{object}: the chain has {found} entries, the object says {expected}")]
    WrongHead {
        /// The object.
        object: ObjectId,
        /// The length that the object keeps.
        expected: u64,
        /// The length that was found.
        found: u64,
    },
    /// The object is not in the store, although its history was known.
    #[error("{object}: it is not in the store; {known} entries of its history are known")]
    Missing {
        /// The object.
        object: ObjectId,
        /// How many entries are in the store, or were when its head was saved.
        known: u64,
    },
    /// The history is not the one whose head was saved: it is shorter, or was written anew.
    #[error("{object}: entry {sequence} is not there any more as it was when the head was saved")]
    NotContinued {
        /// The object.
        object: ObjectId,
        /// The last entry that was there when the head was saved.
        sequence: u64,
    },
}

impl ChainError {
    /// The object whose history does not fit.
    pub const fn object(&self) -> &ObjectId {
        match self {
            Self::OutOfSequence { object, .. }
            | Self::OfAnother { object, .. }
            | Self::BrokenSeal { object, .. }
            | Self::WrongHead { object, .. }
            | Self::Missing { object, .. }
            | Self::NotContinued { object, .. } => object,
        }
    }
}

/// Checks a whole chain, in order from its first entry, against the head that the object keeps.
///
/// # Errors
/// [`ChainError`] names the first thing that does not fit.
pub fn verify_chain(
    object: &ObjectId,
    entries: &[HistoryEntry],
    head: &ChainHead,
    key: &ChainKey,
) -> Result<(), ChainError> {
    let mut previous = Digest::default();
    let mut bytes = Vec::new();
    for (place, entry) in (1..).zip(entries) {
        if entry.object != *object {
            let of = entry.object.clone();
            return Err(ChainError::OfAnother { object: object.clone(), sequence: place, of });
        }
        if entry.sequence != place {
            return Err(ChainError::OutOfSequence { object: object.clone(), expected: place, found: entry.sequence });
        }
        entry.sealed_bytes(&previous, &mut bytes);
        if key.seal(&bytes) != entry.seal {
            return Err(ChainError::BrokenSeal { object: object.clone(), sequence: place });
        }
        previous = entry.seal;
    }
    if head.length != entries.len() as u64 || head.seal != previous {
        return Err(ChainError::WrongHead {
            object: object.clone(),
            expected: head.length,
            found: entries.len() as u64,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use crate::history::ObjectId;
    use crate::id::{CardId, CertificateId, RequestId, RunId};

    #[test]
    fn an_object_is_known_by_how_it_is_shown() {
        let id = Uuid::from_u128(7);
        for object in [
            ObjectId::Card(CardId::new(id)),
            ObjectId::Certificate(CertificateId::new(id)),
            ObjectId::Request(RequestId::new(id)),
            ObjectId::Run(RunId::new(id)),
            ObjectId::Record("options in force".to_owned()),
        ] {
            assert_eq!(ObjectId::of_text(&object.to_string()), Some(object));
        }
        for text in ["", "card", "card 7", "job 00000000-0000-0000-0000-000000000007"] {
            assert_eq!(ObjectId::of_text(text), None, "{text}");
        }
    }
}
