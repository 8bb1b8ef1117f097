//! Checking histories: that of one card, and all of them against heads that were saved elsewhere.

use std::collections::BTreeMap;

use super::Engine;
use super::run::run_key;
use crate::card::Card;
use crate::error::{During as _, Error};
use crate::history::{ChainError, ChainHead, ChainHeads, HistoryEntry, ObjectId, verify_chain};
use crate::host::{CardQuery, CertificateQuery, RequestQuery};

/// What [`Engine::verify_all`] came to.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Verified {
    /// The heads of now, to be saved and given the next time. Of what does not fit, the head that was saved before, so that it is
    /// found again.
    pub heads: ChainHeads,
    /// How many entries fit.
    pub entries: u64,
    /// What does not fit, by object; of each object the first thing.
    pub problems: Vec<ChainError>,
}

/// How many objects or entries are read at once.
const PAGE: usize = 1000;

impl Engine {
    /// Checks a card's history against its seals and against the card. If the card has changed since it was read, it must
    /// also continue the history that it had then.
    ///
    /// Gives `Ok(Err(…))` for what does not fit, and `Ok(Ok(number of entries))` if all does.
    ///
    /// # Errors
    /// [`Error::Store`] if it could not be read.
    pub async fn verify_card(&self, card: &Card) -> Result<Result<usize, ChainError>, Error> {
        let checked = self.check_history(&ObjectId::Card(card.id), card.history, Some(&card.history)).await?;
        Ok(checked.map(|(_, entries)| entries))
    }

    /// Checks the history of everything in the store, against its seals, against what it belongs to, and against heads that an
    /// earlier call gave and that were kept outside the store: those of cards, certificates and approval requests, of runs, and of
    /// the office's own records.
    ///
    /// What this finds, and who could hide it:
    /// - an entry that was changed, deleted, inserted, or swapped with another: by the seals. With a [`ChainKey`](crate::ChainKey), nobody
    ///   who does not have the key can hide it. Without one, whoever can write to the store can seal a new past;
    /// - an object that was removed but for its history, or of which the history was removed: because the other is there;
    /// - an object that was removed whole (a run is still named by what was done in it), the last entries taken off together with the head, and a past that was sealed anew: by
    ///   `saved` only, as far back as the heads were saved.
    ///
    /// It reads everything once, an object at a time, and keeps a head for each object in memory. Others may work meanwhile.
    ///
    /// # Errors
    /// [`Error::Store`] if something could not be read, which is also what becomes of an entry that is no entry any more.
    pub async fn verify_all(&self, saved: &ChainHeads) -> Result<Verified, Error> {
        let mut known: BTreeMap<ObjectId, Option<ChainHead>> = BTreeMap::new();
        known.extend(saved.0.keys().map(|object| (object.clone(), None)));
        self.objects_in_the_feed(&mut known).await?;
        self.stored_objects(&mut known).await?;
        for key in self.office_records() {
            let object = ObjectId::Record(key);
            if let Some(head) = self.head_of(&object).await? {
                known.insert(object, Some(head));
            }
        }
        let mut verified = Verified::default();
        for (object, head) in known {
            let before = saved.0.get(&object);
            let head = match head {
                Some(head) => Some(head),
                None => self.head_of(&object).await?,
            };
            let checked = match head {
                Some(head) => self.check_history(&object, head, before).await?,
                None => {
                    let entries = self.history(&object).await?.len() as u64;
                    let known = before.map_or(entries, |before| before.length.max(entries));
                    Err(ChainError::Missing { object: object.clone(), known })
                }
            };
            let head = match checked {
                Ok((head, entries)) => {
                    verified.entries += entries as u64;
                    Some(head)
                }
                Err(problem) => {
                    verified.problems.push(problem);
                    before.copied()
                }
            };
            verified.heads.0.extend(head.map(|head| (object, head)));
        }
        Ok(verified)
    }

    /// Checks one history against the object's head and against an earlier one; gives the head as it is now, and the length.
    async fn check_history(
        &self,
        object: &ObjectId,
        mut head: ChainHead,
        before: Option<&ChainHead>,
    ) -> Result<Result<(ChainHead, usize), ChainError>, Error> {
        let mut entries = self.history(object).await?;
        // Somebody may add to the history between the two readings.
        for _ in 0..10 {
            if entries.len() as u64 == head.length {
                break;
            }
            head = self.head_of(object).await?.unwrap_or(head);
            entries = self.history(object).await?;
        }
        let checked = verify_chain(object, &entries, &head, &self.key).and_then(|()| match before {
            Some(before) if !continues(&entries, before) => {
                Err(ChainError::NotContinued { object: object.clone(), sequence: before.length })
            }
            _ => Ok((head, entries.len())),
        });
        Ok(checked)
    }

    /// Where the object itself says that its history ends; `None` if it is not stored.
    async fn head_of(&self, object: &ObjectId) -> Result<Option<ChainHead>, Error> {
        let repository = &self.repository;
        let read = match object {
            ObjectId::Card(id) => repository.cards(&[*id]).await.map(|mut found| found.pop().map(|one| one.history)),
            ObjectId::Certificate(id) => {
                repository.certificates(&[*id]).await.map(|mut found| found.pop().map(|one| one.history))
            }
            ObjectId::Request(id) => {
                repository.requests(&[*id]).await.map(|mut found| found.pop().map(|one| one.history))
            }
            ObjectId::Run(id) => {
                repository.records(&[run_key(*id)]).await.map(|mut found| found.pop().map(|one| one.history))
            }
            ObjectId::Record(key) => {
                repository.records(std::slice::from_ref(key)).await.map(|mut found| found.pop().map(|one| one.history))
            }
        };
        read.during("reading where a history ends")
    }

    async fn objects_in_the_feed(&self, known: &mut BTreeMap<ObjectId, Option<ChainHead>>) -> Result<(), Error> {
        let mut cursor = None;
        loop {
            let page = self.changes_since(cursor.as_deref(), PAGE).await?;
            let last = page.entries.len() < PAGE;
            for entry in page.entries.into_iter().map(|entry| entry.entry) {
                known.extend(entry.run.map(|run| (ObjectId::Run(run), None)));
                known.insert(entry.object, None);
            }
            cursor = page.cursor;
            if last {
                return Ok(());
            }
        }
    }

    async fn stored_objects(&self, known: &mut BTreeMap<ObjectId, Option<ChainHead>>) -> Result<(), Error> {
        let mut after = None;
        loop {
            let page = self.card_page(&CardQuery::default(), after, PAGE).await?;
            known.extend(page.iter().map(|card| (ObjectId::Card(card.id), Some(card.history))));
            after = page.last().map(|card| card.id);
            if page.len() < PAGE {
                break;
            }
        }
        let mut after = None;
        loop {
            let page = self.certificate_page(&CertificateQuery::default(), after, PAGE).await?;
            known.extend(page.iter().map(|one| (ObjectId::Certificate(one.id), Some(one.history))));
            after = page.last().map(|one| one.id);
            if page.len() < PAGE {
                break;
            }
        }
        let mut after = None;
        loop {
            let page = self.request_page(&RequestQuery::default(), after, PAGE).await?;
            known.extend(page.iter().map(|one| (ObjectId::Request(one.id), Some(one.history))));
            after = page.last().map(|one| one.id);
            if page.len() < PAGE {
                return Ok(());
            }
        }
    }
}

/// Whether the history has the entry at which it ended before.
fn continues(entries: &[HistoryEntry], before: &ChainHead) -> bool {
    let last = before.length.checked_sub(1).and_then(|place| usize::try_from(place).ok());
    last.is_none_or(|place| entries.get(place).is_some_and(|entry| entry.seal == before.seal))
}
