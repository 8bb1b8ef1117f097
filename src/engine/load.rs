//! Loading in bulk: for a chunk of items, a constant number of reads.

use std::collections::{BTreeMap, BTreeSet};

use super::Engine;
use crate::card::{Card, CardState};
use crate::certificate::Certificate;
use crate::error::{During as _, Error};
use crate::host::{CertificateQuery, DirectoryError, RepositoryError};
use crate::id::{CardId, CertificateId, JobId, UserId};
use crate::job::Job;
use crate::process::{Form, Item, ItemId, Needs};
use crate::user::User;

impl Engine {
    /// The items with what the process needs, in the order given.
    pub(super) async fn load(
        &self,
        needs: Needs,
        ids: &[ItemId],
        answers: &BTreeMap<String, String>,
    ) -> Result<Vec<Item>, Error> {
        let mut items: Vec<Item> = ids.iter().cloned().map(Item::new).collect();
        self.load_requests(&mut items).await?;
        self.load_jobs(&mut items).await?;
        self.load_named_certificates(&mut items).await?;
        self.load_cards(&mut items).await?;
        if needs.job {
            self.load_card_jobs(&mut items).await?;
        }
        self.load_users(&mut items, needs.user, answers).await?;
        if needs.open_orders {
            self.load_open_orders(&mut items).await?;
        }
        if needs.active_cards {
            self.load_active_cards(&mut items).await?;
        }
        if needs.certificates {
            self.load_certificates(&mut items).await?;
        }
        Ok(items)
    }

    async fn load_requests(&self, items: &mut [Item]) -> Result<(), Error> {
        let ids: Vec<_> =
            items.iter().filter_map(|item| if let ItemId::Request(id) = item.id { Some(id) } else { None }).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let requests = self.repository.requests(&ids).await.during("loading requests")?;
        let mut requests: BTreeMap<_, _> = requests.into_iter().map(|request| (request.id, request)).collect();
        for item in items {
            if let ItemId::Request(id) = item.id {
                item.request = requests.remove(&id);
            }
        }
        Ok(())
    }

    async fn load_jobs(&self, items: &mut [Item]) -> Result<(), Error> {
        let ids: Vec<_> =
            items.iter().filter_map(|item| if let ItemId::Job(id) = item.id { Some(id) } else { None }).collect();
        let mut jobs = self.jobs_by_id(&ids).await?;
        for item in items {
            if let ItemId::Job(id) = item.id {
                item.job = jobs.remove(&id);
            }
        }
        Ok(())
    }

    async fn load_cards(&self, items: &mut [Item]) -> Result<(), Error> {
        let card_of = |item: &Item| match item.id {
            ItemId::Card(id) => Some(id),
            ItemId::Request(_) => item.request.as_ref().map(|request| request.card),
            ItemId::Job(_) => item.job.as_ref().and_then(|job| job.card),
            ItemId::Certificate(_) => item.certificate.as_ref().map(|certificate| certificate.card),
            ItemId::User(_) | ItemId::New(_) => None,
        };
        let ids: BTreeSet<CardId> = items.iter().filter_map(card_of).collect();
        let with_jobs = items.iter().any(|item| item.job.is_some());
        let mut cards = self.cards_by_id(ids).await?;
        for item in items {
            // A card and its own job may both be items.
            item.card = card_of(item).and_then(|id| match item.id {
                ItemId::Card(_) if !with_jobs => cards.remove(&id),
                _ => cards.get(&id).cloned(),
            });
        }
        Ok(())
    }

    /// The job that a card names: the open one that decides, else that of its order.
    async fn load_card_jobs(&self, items: &mut [Item]) -> Result<(), Error> {
        let job_of = |item: &Item| {
            let card = item.card.as_ref().filter(|_| item.job.is_none())?;
            card.busy.as_ref().map(|busy| busy.job).or(card.order.as_ref().map(|order| order.job))
        };
        let ids: Vec<JobId> = items.iter().filter_map(job_of).collect();
        let mut jobs = self.jobs_by_id(&ids).await?;
        for item in items {
            if let Some(id) = job_of(item) {
                item.job = jobs.remove(&id);
            }
        }
        Ok(())
    }

    async fn load_users(
        &self,
        items: &mut [Item],
        wanted: bool,
        answers: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let named = answers.get(Form::USER).and_then(|id| UserId::new(id.clone()).ok());
        let user_of = |item: &Item| match &item.id {
            ItemId::User(id) => Some(id.clone()),
            _ if !wanted => None,
            ItemId::New(_) => named.clone(),
            _ => item.card.as_ref().and_then(|card| card.holder.clone()),
        };
        let ids: BTreeSet<UserId> = items.iter().filter_map(user_of).collect();
        let mut users = self.users_by_id(ids).await?;
        // Several cards may have the same holder; a user that is an item is there once, and moves.
        for item in items.iter_mut().filter(|item| !matches!(item.id, ItemId::User(_))) {
            item.user = user_of(item).and_then(|id| users.get(&id).cloned());
        }
        for item in items {
            if let ItemId::User(id) = &item.id {
                item.user = users.remove(id);
            }
        }
        Ok(())
    }

    async fn load_open_orders(&self, items: &mut [Item]) -> Result<(), Error> {
        let open = self.other_cards(items, &Card::OPEN_ORDER_STATES, Card::is_open_order).await?;
        for (item, cards) in items.iter_mut().zip(open) {
            item.open_orders = cards;
        }
        Ok(())
    }

    async fn load_active_cards(&self, items: &mut [Item]) -> Result<(), Error> {
        let states = [CardState::Active, CardState::Approved, CardState::Failed];
        let active = self.other_cards(items, &states, Card::is_or_becomes_active).await?;
        for (item, cards) in items.iter_mut().zip(active) {
            item.active_cards = cards;
        }
        Ok(())
    }

    /// For each item, the cards of its user in one of these states, other than its own.
    async fn other_cards(
        &self,
        items: &[Item],
        states: &[CardState],
        wanted: fn(&Card) -> bool,
    ) -> Result<Vec<Vec<CardId>>, Error> {
        let holders: BTreeSet<UserId> =
            items.iter().filter_map(|item| item.user.as_ref().map(|user| user.id.clone())).collect();
        let mut found: BTreeMap<UserId, Vec<CardId>> = BTreeMap::new();
        if !holders.is_empty() {
            let holders: Vec<_> = holders.into_iter().collect();
            let cards = self.repository.cards_of(&holders, states).await.during("looking for the user's cards")?;
            for card in cards.into_iter().filter(wanted) {
                if let Some(holder) = card.holder {
                    found.entry(holder).or_default().push(card.id);
                }
            }
        }
        let others = items.iter().map(|item| {
            let own = item.card.as_ref().map(|card| card.id);
            let cards = item.user.as_ref().and_then(|user| found.get(&user.id));
            cards.map_or_else(Vec::new, |cards| cards.iter().copied().filter(|card| Some(*card) != own).collect())
        });
        Ok(others.collect())
    }

    async fn load_named_certificates(&self, items: &mut [Item]) -> Result<(), Error> {
        let id_of = |item: &Item| if let ItemId::Certificate(id) = item.id { Some(id) } else { None };
        let ids: Vec<_> = items.iter().filter_map(id_of).collect();
        let mut certificates = self.certificates_by_id(&ids).await?;
        for item in items {
            item.certificate = id_of(item).and_then(|id| certificates.remove(&id));
        }
        Ok(())
    }

    async fn load_certificates(&self, items: &mut [Item]) -> Result<(), Error> {
        let cards = items.iter().filter_map(|item| item.card.as_ref().map(|card| card.id)).collect();
        let mut certificates = self.certificates_of(cards).await.during("loading certificates")?;
        for item in items {
            item.certificates = item.card.as_ref().and_then(|card| certificates.remove(&card.id)).unwrap_or_default();
        }
        Ok(())
    }

    pub(super) async fn certificates_by_id(
        &self,
        ids: &[CertificateId],
    ) -> Result<BTreeMap<CertificateId, Certificate>, Error> {
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let certificates = self.repository.certificates(ids).await.during("loading certificates")?;
        Ok(certificates.into_iter().map(|certificate| (certificate.id, certificate)).collect())
    }

    /// All certificates of these cards, by card.
    pub(super) async fn certificates_of(
        &self,
        cards: Vec<CardId>,
    ) -> Result<BTreeMap<CardId, Vec<Certificate>>, RepositoryError> {
        const PAGE: usize = 10_000;
        let mut found: BTreeMap<CardId, Vec<Certificate>> = BTreeMap::new();
        if cards.is_empty() {
            return Ok(found);
        }
        let query = CertificateQuery { cards, ..CertificateQuery::default() };
        let mut after = None;
        loop {
            let page = self.repository.certificate_page(&query, after, PAGE).await?;
            let last = page.len() < PAGE;
            after = page.last().map(|certificate| certificate.id);
            for certificate in page {
                found.entry(certificate.card).or_default().push(certificate);
            }
            if last {
                return Ok(found);
            }
        }
    }

    pub(super) async fn jobs_by_id(&self, ids: &[JobId]) -> Result<BTreeMap<JobId, Job>, Error> {
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let jobs = self.repository.jobs(ids).await.during("loading jobs")?;
        Ok(jobs.into_iter().map(|job| (job.id, job)).collect())
    }

    pub(super) async fn cards_by_id(&self, ids: BTreeSet<CardId>) -> Result<BTreeMap<CardId, Card>, Error> {
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let ids: Vec<_> = ids.into_iter().collect();
        let cards = self.repository.cards(&ids).await.during("loading cards")?;
        Ok(cards.into_iter().map(|card| (card.id, card)).collect())
    }

    pub(super) async fn users_by_id(&self, ids: BTreeSet<UserId>) -> Result<BTreeMap<UserId, User>, Error> {
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let ids: Vec<_> = ids.into_iter().collect();
        let users = self
            .in_time(self.users.users(&ids), self.settings.call_time_out)
            .await
            .unwrap_or_else(|| Err(DirectoryError::Unavailable { reason: "no answer in time".to_owned() }))
            .during("loading users")?;
        Ok(users.into_iter().map(|user| (user.id.clone(), user)).collect())
    }
}
