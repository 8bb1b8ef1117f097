//! The plans of a chunk as one change set, which can be taken apart again.

use std::collections::{BTreeMap, BTreeSet};

use crate::change_set::{ChangeSet, Conflict, StoredId};
use crate::history::ObjectId;
use crate::id::JobId;
use crate::process::{ItemId, Outcome, Plan, Refusal};

/// The items at hand.
pub(super) struct Chunk {
    pub(super) ids: Vec<ItemId>,
    pub(super) outcomes: Vec<Option<Outcome>>,
    /// What is to be performed, by the place of the item that wants it.
    pub(super) perform: Vec<(usize, JobId)>,
}

impl Chunk {
    pub(super) fn refuse(&mut self, place: usize, refusal: Refusal) {
        self.outcomes[place] = Some(Outcome::Refused(refusal));
    }
}

/// The change sets of several plans in one, so that it can be taken apart again.
pub(super) struct Merged {
    pub(super) changes: ChangeSet,
    parts: Vec<Part>,
}

/// How much of the merged change set belongs to one item, and what follows once it is stored.
struct Part {
    place: usize,
    outcome: Outcome,
    perform: Vec<JobId>,
    cards: usize,
    certificates: usize,
    requests: usize,
    jobs: usize,
    records: usize,
    releases: usize,
    takes: usize,
    history: usize,
}

impl Merged {
    pub(super) fn of(plans: Vec<(usize, Plan)>) -> Self {
        let mut merged = Self { changes: ChangeSet::new(), parts: Vec::with_capacity(plans.len()) };
        merged.changes.reserve(plans.iter().map(|(_, plan)| &plan.changes));
        for (place, Plan { changes, outcome, perform, .. }) in plans {
            merged.add(place, changes, outcome, perform);
        }
        merged
    }

    fn add(&mut self, place: usize, changes: ChangeSet, outcome: Outcome, perform: Vec<JobId>) {
        self.parts.push(Part {
            place,
            outcome,
            perform,
            cards: changes.cards.len(),
            certificates: changes.certificates.len(),
            requests: changes.requests.len(),
            jobs: changes.jobs.len(),
            records: changes.records.len(),
            releases: changes.releases.len(),
            takes: changes.takes.len(),
            history: changes.history.len(),
        });
        self.changes.append(changes);
    }

    /// All is stored: the outcomes count.
    pub(super) fn finish(self, chunk: &mut Chunk) {
        for part in self.parts {
            chunk.outcomes[part.place] = Some(part.outcome);
            chunk.perform.extend(part.perform.into_iter().map(|job| (part.place, job)));
        }
    }

    /// The same without the items that these conflicts are about, and the places of those. Of several items that want the
    /// same thing, the first stays: it may get it once the others are out of its way.
    pub(super) fn without(self, conflicts: &[Conflict]) -> (Self, Vec<usize>) {
        let mut objects = BTreeSet::new();
        let mut keys = BTreeSet::new();
        for conflict in conflicts {
            match conflict {
                Conflict::Version { object, .. } => drop(objects.insert(object.clone())),
                Conflict::Taken { key, .. } | Conflict::NotHeld { key, .. } => drop(keys.insert(key.as_str())),
            }
        }
        let mut wanted: BTreeMap<String, usize> = BTreeMap::new();
        let mut parts = Vec::with_capacity(self.parts.len());
        for (part, changes) in self.split() {
            let wants = changes.wants(&objects, &keys);
            let distinct: BTreeSet<String> = wants.iter().cloned().collect();
            // What wants the same thing twice is in its own way.
            let impossible = distinct.len() < wants.len();
            for wants in &distinct {
                *wanted.entry(wants.clone()).or_default() += 1;
            }
            parts.push((part, changes, distinct, impossible));
        }
        let mut kept = Self { changes: ChangeSet::new(), parts: Vec::new() };
        let mut left_out = Vec::new();
        let mut seen = BTreeSet::new();
        for (part, changes, wants, impossible) in parts {
            let first_of_several =
                !impossible && wants.iter().all(|w| wanted.get(w).is_some_and(|n| *n > 1) && !seen.contains(w));
            if wants.is_empty() || first_of_several {
                kept.add(part.place, changes, part.outcome, part.perform);
            } else {
                left_out.push(part.place);
            }
            seen.extend(wants);
        }
        (kept, left_out)
    }

    fn split(self) -> Vec<(Part, ChangeSet)> {
        let Self { changes, parts } = self;
        let mut cards = changes.cards.into_iter();
        let mut certificates = changes.certificates.into_iter();
        let mut requests = changes.requests.into_iter();
        let mut jobs = changes.jobs.into_iter();
        let mut records = changes.records.into_iter();
        let mut releases = changes.releases.into_iter();
        let mut takes = changes.takes.into_iter();
        let mut history = changes.history.into_iter();
        parts
            .into_iter()
            .map(|part| {
                let mut own = ChangeSet::new();
                own.cards.extend(cards.by_ref().take(part.cards));
                own.certificates.extend(certificates.by_ref().take(part.certificates));
                own.requests.extend(requests.by_ref().take(part.requests));
                own.jobs.extend(jobs.by_ref().take(part.jobs));
                own.records.extend(records.by_ref().take(part.records));
                own.releases.extend(releases.by_ref().take(part.releases));
                own.takes.extend(takes.by_ref().take(part.takes));
                own.history.extend(history.by_ref().take(part.history));
                (part, own)
            })
            .collect()
    }
}

impl ChangeSet {
    /// What of these a change set wants, as text.
    fn wants(&self, objects: &BTreeSet<StoredId>, keys: &BTreeSet<&str>) -> Vec<String> {
        let stored = (self.cards.iter().map(|card| StoredId::Object(ObjectId::Card(card.id))))
            .chain(self.certificates.iter().map(|c| StoredId::Object(ObjectId::Certificate(c.id))))
            .chain(self.requests.iter().map(|request| StoredId::Object(ObjectId::Request(request.id))))
            .chain(self.records.iter().map(|record| StoredId::Object(ObjectId::Record(record.key.clone()))))
            .chain(self.jobs.iter().map(|job| StoredId::Job(job.id)))
            .filter(|id| objects.contains(id))
            .map(|id| id.to_string());
        // A key that is handed on, released and taken, is wanted once.
        let handed_on = |key: &str| self.takes.iter().any(|taken| taken.key == key);
        let released = self.releases.iter().filter(|released| !handed_on(&released.key));
        let held = (self.takes.iter().chain(released))
            .filter(|reservation| keys.contains(reservation.key.as_str()))
            .map(|reservation| reservation.key.clone());
        stored.chain(held).collect()
    }
}
