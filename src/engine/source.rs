//! Where the items of a run come from, a chunk at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Engine;
use crate::certificate::CertificateState;
use crate::error::{During as _, Error};
use crate::host::{CardQuery, CertificateQuery, DirectoryError, RequestQuery, UserFilter};
use crate::id::{CardId, CertificateId, RequestId};
use crate::job::JobKind;
use crate::process::{AnswerError, Filter, Form, ItemId, ItemKind, Selection};

/// Where the items of a run come from.
#[derive(Debug)]
pub(super) enum Source {
    Listed { left: VecDeque<ItemId>, total: u64 },
    Users { filter: UserFilter, cursor: Option<String>, ended: bool },
    Cards { query: CardQuery, after: Option<CardId>, ended: bool },
    Requests { query: RequestQuery, after: Option<RequestId>, ended: bool },
    Certificates { query: CertificateQuery, after: Option<CertificateId>, ended: bool },
    DueJobs(Vec<JobKind>),
}

impl Source {
    pub(super) fn new(
        selection: Selection,
        answers: &BTreeMap<String, String>,
        jobs: &[JobKind],
        takes: &[ItemKind],
    ) -> Self {
        let listed = |left: VecDeque<ItemId>| {
            let total = left.len() as u64;
            Self::Listed { left, total }
        };
        match selection {
            Selection::Ids(ids) if !ids.is_empty() => {
                let mut seen = BTreeSet::new();
                listed(ids.into_iter().filter(|id| seen.insert(id.clone())).collect())
            }
            Selection::All(filter) => Self::all(filter),
            Selection::Nothing | Selection::Ids(_) if !jobs.is_empty() => Self::DueJobs(jobs.to_vec()),
            // A sweep goes through what is issued and not yet on a card.
            Selection::Nothing | Selection::Ids(_) if takes == [ItemKind::Certificate] => {
                let states = vec![CertificateState::Issued];
                Self::all(Filter::Certificates(CertificateQuery { states, ..CertificateQuery::default() }))
            }
            Selection::Nothing | Selection::Ids(_) => {
                let amount = answers.get(Form::AMOUNT).and_then(|amount| amount.parse().ok()).unwrap_or(1);
                listed((1..=amount).map(ItemId::New).collect())
            }
        }
    }

    pub(super) fn all(filter: Filter) -> Self {
        match filter {
            Filter::Users(filter) => Self::Users { filter, cursor: None, ended: false },
            Filter::Cards(query) => Self::Cards { query, after: None, ended: false },
            Filter::Requests(query) => Self::Requests { query, after: None, ended: false },
            Filter::Certificates(query) => Self::Certificates { query, after: None, ended: false },
        }
    }

    pub(super) fn total(&self) -> Option<u64> {
        match self {
            Self::Listed { total, .. } => Some(*total),
            _ => None,
        }
    }

    /// Whether it surely has nothing more to give.
    pub(super) fn is_spent(&self) -> bool {
        match self {
            Self::Listed { left, .. } => left.is_empty(),
            Self::Users { ended, .. }
            | Self::Cards { ended, .. }
            | Self::Requests { ended, .. }
            | Self::Certificates { ended, .. } => *ended,
            Self::DueJobs(_) => false,
        }
    }

    pub(super) fn cursor(&self) -> Option<String> {
        match self {
            Self::Users { cursor, .. } => cursor.clone(),
            Self::Cards { after, ended: false, .. } => after.map(|id| id.to_string()),
            Self::Requests { after, ended: false, .. } => after.map(|id| id.to_string()),
            Self::Certificates { after, ended: false, .. } => after.map(|id| id.to_string()),
            _ => None,
        }
    }

    pub(super) fn resume_at(&mut self, at: Option<&str>) -> Result<(), Error> {
        let Some(at) = at else { return Ok(()) };
        let invalid = || AnswerError::NotAllowed {
            field: "cursor".to_owned(),
            found: at.chars().take(100).collect(),
            allowed: "the `next` of the page before".to_owned(),
        };
        match self {
            Self::Users { cursor, .. } => *cursor = Some(at.to_owned()),
            Self::Cards { after, .. } => *after = Some(at.parse().map_err(|_| invalid())?),
            Self::Requests { after, .. } => *after = Some(at.parse().map_err(|_| invalid())?),
            Self::Certificates { after, .. } => *after = Some(at.parse().map_err(|_| invalid())?),
            Self::Listed { .. } | Self::DueJobs(_) => {}
        }
        Ok(())
    }
}

impl Engine {
    /// The next items of a selection, at most so many; none at its end.
    pub(super) async fn next_ids(&self, source: &mut Source, limit: usize) -> Result<Vec<ItemId>, Error> {
        match source {
            Source::Listed { left, .. } => Ok(left.drain(..limit.min(left.len())).collect()),
            Source::Users { filter, cursor, ended } => {
                let mut ids = Vec::new();
                while ids.is_empty() && !*ended {
                    let page = self
                        .in_time(self.users.search(filter, cursor.as_deref(), limit), self.settings.call_time_out)
                        .await
                        .unwrap_or_else(|| Err(DirectoryError::Unavailable { reason: "no answer in time".to_owned() }))
                        .during("searching users")?;
                    let mut seen = BTreeSet::new();
                    ids.extend(
                        page.users
                            .into_iter()
                            .map(|user| user.id)
                            .filter(|id| seen.insert(id.clone()))
                            .map(ItemId::User),
                    );
                    *ended = page.next.is_none();
                    *cursor = page.next;
                }
                Ok(ids)
            }
            Source::Cards { query, after, ended } => {
                if *ended {
                    return Ok(Vec::new());
                }
                let cards = self.repository.card_page(query, *after, limit).await.during("listing cards")?;
                *ended = cards.len() < limit;
                *after = cards.last().map(|card| card.id).or(*after);
                Ok(cards.into_iter().map(|card| ItemId::Card(card.id)).collect())
            }
            Source::Requests { query, after, ended } => {
                if *ended {
                    return Ok(Vec::new());
                }
                let page = self.repository.request_page(query, *after, limit).await.during("listing requests")?;
                *ended = page.len() < limit;
                *after = page.last().map(|request| request.id).or(*after);
                Ok(page.into_iter().map(|request| ItemId::Request(request.id)).collect())
            }
            Source::Certificates { query, after, ended } => {
                if *ended {
                    return Ok(Vec::new());
                }
                let page =
                    self.repository.certificate_page(query, *after, limit).await.during("listing certificates")?;
                *ended = page.len() < limit;
                *after = page.last().map(|certificate| certificate.id).or(*after);
                Ok(page.into_iter().map(|certificate| ItemId::Certificate(certificate.id)).collect())
            }
            Source::DueJobs(_) => Ok(Vec::new()),
        }
    }
}
