//! What is owed to the outside: performing claimed jobs and storing the answers.
//!
//! Before a call that is not repeatable, the attempt is stored. An answer belongs to its attempt: it is stored as long as the
//! job still waits for that attempt, whoever has claimed the job since. An attempt without an answer is looked for at the
//! bureau or is in doubt; it is never sent again by itself, unless the bureau's contract makes that safe.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Engine, StopHandle};
use crate::actor::Actor;
use crate::card::Card;
use crate::certificate::{Certificate, IssuedCertificate};
use crate::change_set::{ChangeSet, Conflict, StoredId};
use crate::error::{During as _, Error, with_causes};
use crate::history::{ObjectId, Stamp, Why};
use crate::host::{
    Accepted, CardOrder, ClaimRequest, CommitError, CustomOutcome, FindOutcome, GoCardsProvider, NotifyOutcome,
    OrderStatus, PlaceOutcome, Placement, Prepared, RepositoryError, StatusOutcome,
};
use crate::id::{CardId, JobId, RunId, SymbolicName, UserId};
use crate::job::{Attempt, Job, JobKind, JobState, Message, Task};
use crate::process::order_job::{ORDER_UNKNOWN, Polls};
use crate::process::production::Applied;
use crate::process::{Outcome, PlaceAnswer, ProductionAnswer, Refusal, RefusalCode, order_job, production};
use crate::production_type::EMAIL;
use crate::state_graph::State as _;
use crate::user::User;

/// How often in a row storing answers is tried while the store is away. The answer of the bureau must not be lost.
const APPLIES: u32 = 8;

/// How often an answer is applied again when others change the same card or job at the same moment.
const CONFLICTS: u32 = 100;

/// The longest time for which the outside is left alone because it asked for it.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// How many messages are handed to the notifier at once.
const MESSAGES_AT_ONCE: usize = 50;

/// What performing came to.
pub(super) struct Performed {
    /// What became of each job that was tried or settled.
    pub(super) done: Vec<Done>,
    /// The kinds of jobs whose outside asked not to be called for now.
    pub(super) halted: BTreeSet<JobKind>,
    /// What went wrong on our side. What came before it is done.
    pub(super) failed: Option<Error>,
}

/// What became of a job.
pub(super) struct Done {
    pub(super) job: JobId,
    pub(super) outcome: Outcome,
    /// What follows from it and can be done now.
    next: Vec<JobId>,
    /// The card as it was stored, if something follows.
    card: Option<Card>,
}

/// Who performs, for the history.
#[derive(Clone, Copy)]
struct By<'a> {
    actor: &'a Actor,
    process: &'a SymbolicName,
    run: Option<RunId>,
    /// Looked at before each call.
    stop: &'a StopHandle,
    /// When it began, by this engine's clock.
    since: DateTime<Utc>,
}

/// What jobs are performed with, and what became of them.
pub(super) struct Work<'a> {
    /// Cards as they were stored last, as far as they are known.
    pub(super) cards: BTreeMap<CardId, Card>,
    by: By<'a>,
    done: &'a mut Vec<Done>,
}

/// What is to be stored for one job.
pub(super) enum Answer {
    Placed(PlaceAnswer),
    Status(OrderStatus),
    /// Nothing was learned: read again then.
    StatusLater {
        until: DateTime<Utc>,
        reason: String,
    },
    /// A message or a host's own job came to an end.
    Ended {
        remark: String,
        noted: Option<&'static str>,
        refused: bool,
    },
    /// Try again then. What is known of an attempt stays as it is.
    Later {
        until: DateTime<Utc>,
        reason: String,
    },
    /// The CA has taken it and has not decided: look then.
    Pending {
        until: DateTime<Utc>,
    },
    /// Surely not done: try again then, as if for the first time.
    NotDone {
        until: DateTime<Utc>,
        reason: String,
    },
    /// A link of a production, or what the CA says.
    Production(ProductionAnswer),
    /// A certificate for which the card no longer waits.
    LateCertificate(IssuedCertificate),
    /// A card that the machine has prepared (with its handle) or completed, when nobody waited for that any more.
    LateCard {
        handle: Option<String>,
    },
    /// A job that decides nothing by itself and that only a person can settle.
    JobDoubt {
        reason: String,
    },
    /// Held back without a setback: the user of the order is not active.
    HeldBack {
        until: DateTime<Utc>,
        reason: String,
    },
    /// The bureau accepted an attempt that the job no longer waits for.
    LateAcceptance {
        order_id: String,
    },
    /// The card no longer waits for this job.
    Superseded,
}

impl Engine {
    /// Performs jobs that this engine has claimed, and releases those that it does not get to.
    #[tracing::instrument(skip_all, fields(jobs = jobs.len()))]
    pub(super) async fn perform(
        &self,
        jobs: Vec<Job>,
        actor: &Actor,
        process: &SymbolicName,
        run: Option<RunId>,
        stop: &StopHandle,
    ) -> Performed {
        let by = By { actor, process, run, stop, since: self.now() };
        let (mut links, others): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| job.kind().is_link());
        let mut performed = self.perform_chains(others, by).await;
        // A machine holds but so many cards: those at hand are finished before others are prepared.
        links.sort_by_key(|job| std::cmp::Reverse(job.kind()));
        while performed.failed.is_none() && !stop.is_stopped() {
            let halted = |job: &Job| {
                performed.halted.contains(&job.kind())
                    || (job.kind() == JobKind::PrepareCard && performed.halted.iter().any(|kind| kind.is_link()))
            };
            let mut group = Vec::new();
            while let Some(place) = links.iter().position(|job| !halted(job))
                && group.len() < self.settings.cards_at_once.max(1)
            {
                group.push(links.remove(place));
            }
            if group.is_empty() {
                break;
            }
            let more = self.perform_chains(group, by).await;
            performed.done.extend(more.done);
            performed.halted.extend(more.halted);
            performed.failed = more.failed;
        }
        self.release(links.iter().map(|job| (job.id, job.version)).collect()).await;
        performed
    }

    /// Performs jobs, and what follows from them.
    async fn perform_chains(&self, jobs: Vec<Job>, by: By<'_>) -> Performed {
        let mut performed = self.perform_these(jobs, BTreeMap::new(), by).await;
        // A link of a chain brings forth the next: it is done at once, and what became of it is what became of the first.
        let mut first_of: BTreeMap<JobId, JobId> = BTreeMap::new();
        let (mut next, mut cards) = next_of(&mut performed.done, &mut first_of);
        while !next.is_empty() && performed.failed.is_none() && !by.stop.is_stopped() {
            let jobs = match self.claim_now(next).await {
                Ok(jobs) => jobs,
                Err(error) => {
                    tracing::warn!(%error, "what follows stays in the queue");
                    break;
                }
            };
            let mut more = self.perform_these(jobs, cards, by).await;
            (next, cards) = next_of(&mut more.done, &mut first_of);
            performed.done.extend(more.done);
            performed.halted.extend(more.halted);
            performed.failed = more.failed;
        }
        // The last word about each chain.
        let mut words: BTreeMap<JobId, Done> = BTreeMap::new();
        for mut done in std::mem::take(&mut performed.done) {
            if let Some(first) = first_of.get(&done.job) {
                done.job = *first;
            }
            match words.entry(done.job) {
                Entry::Vacant(place) => drop(place.insert(done)),
                Entry::Occupied(mut place) => {
                    // What follows an end, such as putting a spoiled card aside, is no other end.
                    let says_more = match &done.outcome {
                        Outcome::Unchanged { .. } => false,
                        Outcome::Done { state, .. } => *state != JobState::Done.name(),
                        _ => true,
                    };
                    if says_more {
                        place.insert(done);
                    }
                }
            }
        }
        performed.done = words.into_values().collect();
        performed
    }

    /// Performs jobs. The cards given are as the links before stored them, and need not be loaded.
    async fn perform_these(&self, jobs: Vec<Job>, cards: BTreeMap<CardId, Card>, by: By<'_>) -> Performed {
        let mut kinds: BTreeMap<JobKind, Vec<Job>> = BTreeMap::new();
        for job in jobs {
            kinds.entry(job.kind()).or_default().push(job);
        }
        let mut performed = Performed { done: Vec::new(), halted: BTreeSet::new(), failed: None };
        let mut work = Work { cards, by, done: &mut performed.done };
        for (kind, jobs) in kinds {
            let size = match kind {
                JobKind::PlaceOrder => self.settings.orders_per_call,
                JobKind::TrackOrder => self.settings.statuses_per_call,
                JobKind::PrepareCard | JobKind::FinishCard | JobKind::DiscardCard => self.settings.cards_at_once,
                JobKind::IssueCertificate
                | JobKind::HoldCertificate
                | JobKind::RemoveHold
                | JobKind::RevokeCertificate => self.settings.certificates_at_once,
                JobKind::Notify => MESSAGES_AT_ONCE,
                JobKind::Custom => 1,
            };
            if kind == JobKind::TrackOrder {
                // All at once: a question to the bureau does no harm to what was changed meanwhile. Without them, each call loads its own.
                match self.cards_by_id(jobs.iter().filter_map(|job| job.card).collect()).await {
                    Ok(loaded) => work.cards.extend(loaded),
                    Err(error) => tracing::warn!(error = %with_causes(&error), "cards are loaded for each call"),
                }
            }
            let mut halted = false;
            let mut jobs = jobs.into_iter().peekable();
            while !halted && !by.stop.is_stopped() && jobs.peek().is_some() {
                let mut batch: Vec<Job> = jobs.by_ref().take(size.max(1)).collect();
                let claims: Vec<(JobId, u64)> = batch.iter().map(|job| (job.id, job.version)).collect();
                let tried = match self.keep_claims(&mut batch, by.since).await {
                    Err(error) => Err(error),
                    Ok(()) => match kind {
                        JobKind::PlaceOrder => self.place(batch, &mut work).await,
                        JobKind::TrackOrder => self.track(batch, &mut work).await,
                        JobKind::PrepareCard => self.prepare(batch, &mut work).await,
                        JobKind::IssueCertificate => self.issue(batch, &mut work).await,
                        JobKind::FinishCard => self.finish(batch, &mut work).await,
                        JobKind::DiscardCard => self.discard(batch, &mut work).await,
                        JobKind::HoldCertificate | JobKind::RemoveHold | JobKind::RevokeCertificate => {
                            self.tell_ca(batch, &mut work).await
                        }
                        JobKind::Notify => self.notify(batch, &mut work).await,
                        JobKind::Custom => self.custom(batch, &mut work).await,
                    },
                };
                halted = match tried {
                    Ok(halted) => halted,
                    Err(error) => {
                        // What was sent has a newer version and stays claimed; the rest need not wait for its lease to end.
                        let left = claims.into_iter().chain(jobs.by_ref().map(|job| (job.id, job.version))).collect();
                        self.release(left).await;
                        // The others may still work: a revocation does not wait for the directory.
                        performed.failed.get_or_insert(error);
                        performed.halted.insert(kind);
                        break;
                    }
                };
            }
            if halted {
                performed.halted.insert(kind);
            }
            self.release(jobs.map(|job| (job.id, job.version)).collect()).await;
        }
        performed
    }

    /// Claims these jobs, due or not, as far as there is a part here to perform them.
    pub(super) async fn claim_now(&self, ids: Vec<JobId>) -> Result<Vec<Job>, RepositoryError> {
        let claim = ClaimRequest {
            kinds: JobKind::ALL.into_iter().filter(|kind| self.performs(*kind)).collect(),
            early: true,
            ..ClaimRequest::new(&self.worker, ids.len(), self.settings.safe_lease())
        };
        self.repository.claim(&ClaimRequest { ids, ..claim }).await
    }

    /// Whether there is a part here for such jobs. Others are left to other engines on the same store.
    pub(super) fn performs(&self, kind: JobKind) -> bool {
        match kind {
            JobKind::PlaceOrder | JobKind::TrackOrder => self.bureau.is_some(),
            JobKind::PrepareCard | JobKind::FinishCard | JobKind::DiscardCard => self.personalizer.is_some(),
            JobKind::IssueCertificate | JobKind::HoldCertificate | JobKind::RemoveHold | JobKind::RevokeCertificate => {
                self.certificate_authority.is_some()
            }
            JobKind::Notify | JobKind::Custom => true,
        }
    }

    /// Releases claims. If that fails, they end with their leases.
    pub(super) async fn release(&self, left: Vec<(JobId, u64)>) {
        if left.is_empty() {
            return;
        }
        if let Err(error) = self.repository.release(&left).await {
            tracing::warn!(%error, "claims are not released and end with their leases");
        }
    }

    /// Leaves jobs to an engine that has a part for them.
    pub(super) async fn leave(&self, jobs: Vec<Job>) -> Result<bool, Error> {
        self.release(jobs.iter().map(|job| (job.id, job.version)).collect()).await;
        Ok(true)
    }

    /// Renews the claims of jobs that are about to be tried, if they might not outlast the call; drops those that were lost. When they
    /// end is known by the store's clock only; how long ago they were made, by ours.
    async fn keep_claims(&self, batch: &mut Vec<Job>, since: DateTime<Utc>) -> Result<(), Error> {
        let lease = self.settings.safe_lease();
        let longest = self.settings.call_time_out.max(self.settings.production_time_out);
        let call = longest.saturating_add(self.settings.call_time_out);
        if (self.now() - since).abs() + time_delta(call) < time_delta(lease) {
            return Ok(());
        }
        let claims: Vec<(JobId, u64)> = batch.iter().map(|job| (job.id, job.version)).collect();
        let kept: BTreeSet<JobId> =
            self.repository.renew(&claims, lease).await.during("renewing claims")?.into_iter().collect();
        batch.retain(|job| kept.contains(&job.id));
        Ok(())
    }

    /// Places orders; true if the bureau does not want to be called for now.
    async fn place(&self, jobs: Vec<Job>, work: &mut Work<'_>) -> Result<bool, Error> {
        let Some(bureau) = self.bureau.as_deref() else { return self.leave(jobs).await };
        let cards = self.cards_by_id(jobs.iter().filter_map(|job| job.card).collect()).await?;
        let holders: BTreeSet<UserId> = cards.values().filter_map(|card| card.holder.clone()).collect();
        let users = self.users_by_id(holders).await?;
        let mut answers: Vec<(Job, Answer)> = Vec::new();
        let mut fresh: Vec<(Job, CardOrder)> = Vec::new();
        let mut again: Vec<(Job, CardOrder)> = Vec::new();
        for job in jobs {
            let Some(card) = waiting_card(&job, &cards) else {
                answers.push((job, Answer::Superseded));
                continue;
            };
            let reference = match &job.attempt {
                Some(attempt) if bureau.placement() == Placement::NotIdempotent => {
                    let found = self.look_for(bureau, &job, attempt, "an earlier attempt was interrupted").await;
                    answers.push((job, found));
                    continue;
                }
                Some(attempt) => attempt.reference.clone(),
                None => job.next_attempt(self.now()).reference,
            };
            match self.order(card, &users, reference, job.setbacks).await {
                Ok(order) if job.attempt.is_some() => again.push((job, order)),
                Ok(order) => fresh.push((job, order)),
                // An attempt that may have been accepted is never given up for what is wrong now.
                Err(_) if job.attempt.is_some() => {
                    let reason = "an earlier attempt was interrupted, and the order cannot be sent again".to_owned();
                    answers.push((job, Answer::Placed(PlaceAnswer::InDoubt { reason })));
                }
                Err(answer) => answers.push((job, answer)),
            }
        }
        let sent_before: BTreeSet<JobId> = again.iter().map(|(job, _)| job.id).collect();
        again.extend(self.store_attempts(fresh).await?);
        let mut halted = false;
        if !again.is_empty() {
            let (sent, stop) = self.send(bureau, again, &sent_before).await;
            halted = stop;
            answers.extend(sent);
        }
        self.store(answers, About::of(cards), work).await?;
        Ok(halted)
    }

    /// The order for a card, or why it is not sent now.
    async fn order(
        &self,
        card: &Card,
        users: &BTreeMap<UserId, User>,
        reference: String,
        setbacks: u32,
    ) -> Result<CardOrder, Answer> {
        let until = self.now() + time_delta(self.settings.hold_back);
        if let Some(holder) = &card.holder
            && !users.get(holder).is_some_and(User::is_active)
        {
            let reason = format!("user {holder} is not active any more; the order is held back");
            return Err(Answer::HeldBack { until, reason });
        }
        let refused = |reason: String| Answer::Placed(PlaceAnswer::Refused { code: "not_orderable", reason });
        let name = card.production_type.as_deref().unwrap_or("");
        let production_type =
            self.rules.production_types.get(name).ok_or_else(|| refused(self.rules.no_such_type(name).reason))?;
        let mut order = CardOrder::new(reference, production_type.article.clone());
        order.elements = production_type.elements_of(card).map_err(|error| refused(error.to_string()))?;
        order.email = card.attributes.get(EMAIL).filter(|address| !address.trim().is_empty()).cloned();
        order.address_key = card.attributes.get("addressKey").cloned();
        if let Some(holder) = card.holder.as_ref().filter(|_| production_type.photo) {
            let photo = self.in_time(self.users.photo(holder), self.settings.call_time_out).await;
            order.photo = match photo {
                Some(Ok(photo)) => photo,
                Some(Err(error)) => {
                    return Err(Answer::Later { until: self.back_off(setbacks), reason: clean(&error.to_string()) });
                }
                None => {
                    let reason = "the photo did not come in time".to_owned();
                    return Err(Answer::Later { until: self.back_off(setbacks), reason });
                }
            };
        }
        Ok(order)
    }

    /// Stores the attempts of exactly these jobs; those whose claim was lost are dropped.
    pub(super) async fn store_attempts<T>(&self, fresh: Vec<(Job, T)>) -> Result<Vec<(Job, T)>, Error> {
        if fresh.is_empty() {
            return Ok(fresh);
        }
        let now = self.now();
        let attempts: Vec<(JobId, u64, Attempt)> =
            fresh.iter().map(|(job, _)| (job.id, job.version, job.next_attempt(now))).collect();
        let lease = self.settings.safe_lease();
        let stored = self.repository.record_attempts(&attempts, lease).await.during("storing attempts")?;
        let mut stored: BTreeMap<JobId, Job> = stored.into_iter().map(|job| (job.id, job)).collect();
        Ok(fresh.into_iter().filter_map(|(job, call)| Some((stored.remove(&job.id)?, call))).collect())
    }

    /// Makes the call. What is not answered is looked for, or in doubt.
    ///
    /// Of an order that was sent before, *not now* says nothing about the first time: it keeps its attempt and reference.
    async fn send(
        &self,
        bureau: &dyn GoCardsProvider,
        batch: Vec<(Job, CardOrder)>,
        sent_before: &BTreeSet<JobId>,
    ) -> (Vec<(Job, Answer)>, bool) {
        let (jobs, orders): (Vec<Job>, Vec<CardOrder>) = batch.into_iter().unzip();
        let unknown = |reason: &str| vec![PlaceOutcome::Unknown { reason: reason.to_owned() }; orders.len()];
        let mut outcomes = self
            .in_time(bureau.place(&orders), self.settings.call_time_out)
            .await
            .unwrap_or_else(|| unknown("the bureau did not answer in time"));
        if outcomes.len() != orders.len() {
            outcomes = unknown("the bureau gave another number of answers than orders");
        }
        let not_now = |job: &Job, until, reason| {
            if sent_before.contains(&job.id) {
                Answer::Later { until, reason }
            } else {
                Answer::Placed(PlaceAnswer::NotAccepted { until, reason })
            }
        };
        let mut answers = Vec::with_capacity(jobs.len());
        let mut waits = 0;
        for (job, outcome) in jobs.into_iter().zip(outcomes) {
            let answer = match outcome {
                PlaceOutcome::Accepted(answer) => accepted(answer),
                PlaceOutcome::Refused { reason } => {
                    Answer::Placed(PlaceAnswer::Refused { code: "refused", reason: clean(&reason) })
                }
                PlaceOutcome::Unavailable { reason } => {
                    waits += 1;
                    not_now(&job, self.back_off(job.setbacks), clean(&reason))
                }
                PlaceOutcome::RateLimited { retry_after } => {
                    waits += 1;
                    let until = self.after(retry_after);
                    not_now(&job, until, "the bureau limits the rate".to_owned())
                }
                PlaceOutcome::Unknown { reason } => match (&job.attempt, bureau.placement()) {
                    (Some(_), Placement::IdempotentByReference) => {
                        Answer::Later { until: self.back_off(job.setbacks), reason: clean(&reason) }
                    }
                    (Some(attempt), Placement::NotIdempotent) => {
                        self.look_for(bureau, &job, attempt, &clean(&reason)).await
                    }
                    (None, _) => Answer::Placed(PlaceAnswer::InDoubt { reason: clean(&reason) }),
                },
            };
            answers.push((job, answer));
        }
        let halted = waits == answers.len();
        (answers, halted)
    }

    /// Looks for an attempt without an answer. Not found is not proof: it may still be on its way.
    async fn look_for(&self, bureau: &dyn GoCardsProvider, job: &Job, attempt: &Attempt, reason: &str) -> Answer {
        let found = self
            .in_time(bureau.find(&attempt.reference), self.settings.call_time_out)
            .await
            .unwrap_or_else(|| FindOutcome::Unavailable { reason: "the look-up was not answered in time".to_owned() });
        match found {
            FindOutcome::Found(answer) => accepted(answer),
            FindOutcome::NotFound => {
                Answer::Placed(PlaceAnswer::InDoubt { reason: format!("{reason}; the bureau does not find it") })
            }
            FindOutcome::CannotLook => Answer::Placed(PlaceAnswer::InDoubt { reason: reason.to_owned() }),
            FindOutcome::Unavailable { reason } => {
                Answer::Later { until: self.back_off(job.setbacks), reason: clean(&reason) }
            }
        }
    }

    /// Reads statuses; true if the bureau does not want to be called for now.
    async fn track(&self, jobs: Vec<Job>, work: &mut Work<'_>) -> Result<bool, Error> {
        let Some(bureau) = &self.bureau else { return self.leave(jobs).await };
        let order_ids: Vec<String> = jobs
            .iter()
            .map(|job| match &job.task {
                Task::TrackOrder { order_id } => order_id.clone(),
                _ => String::new(),
            })
            .collect();
        let about = About::of(jobs.iter().filter_map(|job| work.cards.remove_entry(&job.card?)).collect());
        let statuses = self.in_time(bureau.status(&order_ids), self.settings.call_time_out).await;
        let no_answer = |reason: &str| vec![StatusOutcome::Unavailable { reason: reason.to_owned() }; jobs.len()];
        let mut statuses = statuses.unwrap_or_else(|| no_answer("the bureau did not answer in time"));
        if statuses.len() != jobs.len() {
            statuses = no_answer("the bureau gave another number of answers than orders");
        }
        let mut waits = 0;
        let mut answers = Vec::with_capacity(jobs.len());
        for (mut job, status) in jobs.into_iter().zip(statuses) {
            let answer = match status {
                StatusOutcome::Known(status) => Answer::Status(cleaned(status)),
                StatusOutcome::NotFound if job.nothing_new(self.now()) > self.most_silent_days() => {
                    Answer::JobDoubt { reason: format!("{ORDER_UNKNOWN}, for {} days", job.silent_days - 1) }
                }
                StatusOutcome::NotFound => {
                    Answer::StatusLater { until: self.next_poll(), reason: ORDER_UNKNOWN.to_owned() }
                }
                StatusOutcome::Unavailable { reason } => {
                    waits += 1;
                    Answer::StatusLater { until: self.back_off(job.setbacks), reason: clean(&reason) }
                }
                StatusOutcome::RateLimited { retry_after } => {
                    waits += 1;
                    Answer::StatusLater {
                        until: self.after(retry_after),
                        reason: "the bureau limits the rate".to_owned(),
                    }
                }
            };
            answers.push((job, answer));
        }
        let halted = !answers.is_empty() && waits == answers.len();
        self.store(answers, about, work).await?;
        Ok(halted)
    }

    /// Sends messages; at least once, each always under the same id.
    async fn notify(&self, jobs: Vec<Job>, work: &mut Work<'_>) -> Result<bool, Error> {
        let sends = jobs.into_iter().map(|job| async move {
            let sent = match &job.task {
                Task::Notify(message) => self.tell(message).await,
                _ => NotifyOutcome::Refused { reason: "not a message".to_owned() },
            };
            let answer = match sent {
                NotifyOutcome::Sent => Answer::Ended { remark: "sent".to_owned(), noted: None, refused: false },
                NotifyOutcome::Refused { reason } => {
                    let remark = format!("not sent: {}", clean(&reason));
                    Answer::Ended { remark, noted: Some("message_not_sent"), refused: true }
                }
                NotifyOutcome::Unavailable { reason } => {
                    Answer::Later { until: self.back_off(job.setbacks), reason: clean(&reason) }
                }
            };
            (job, answer)
        });
        let answers = futures::future::join_all(sends).await;
        self.store(answers, About::default(), work).await?;
        Ok(false)
    }

    async fn tell(&self, message: &Message) -> NotifyOutcome {
        self.in_time(self.notifier.send(message), self.settings.call_time_out)
            .await
            .unwrap_or_else(|| NotifyOutcome::Unavailable { reason: "no answer in time".to_owned() })
    }

    /// Performs a host's own job.
    async fn custom(&self, jobs: Vec<Job>, work: &mut Work<'_>) -> Result<bool, Error> {
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            let performer = match &job.task {
                Task::Custom { performer, .. } => self.performers.get(performer),
                _ => None,
            };
            let Some(performer) = performer else {
                let reason = "no performer of that name is registered here".to_owned();
                answers.push((job, Answer::Later { until: self.back_off(0), reason }));
                continue;
            };
            let job = if performer.repeatable() {
                job
            } else if job.attempt.is_some() {
                let reason = "an earlier attempt was interrupted".to_owned();
                answers.push((job, Answer::JobDoubt { reason }));
                continue;
            } else {
                let attempt = (job.id, job.version, job.next_attempt(self.now()));
                let lease = self.settings.safe_lease();
                let stored = self.repository.record_attempts(&[attempt], lease).await.during("storing an attempt")?;
                match stored.into_iter().next() {
                    Some(job) => job,
                    None => continue,
                }
            };
            let outcome = self
                .in_time(performer.perform(&job), self.settings.call_time_out)
                .await
                .unwrap_or_else(|| CustomOutcome::Unknown { reason: "no answer in time".to_owned() });
            let answer = match outcome {
                CustomOutcome::Done { remark } => {
                    Answer::Ended { remark: clean(&remark), noted: Some("job_done"), refused: false }
                }
                CustomOutcome::Refused { reason } => {
                    Answer::Ended { remark: clean(&reason), noted: Some("job_refused"), refused: true }
                }
                CustomOutcome::Unavailable { reason } => {
                    Answer::NotDone { until: self.back_off(job.setbacks), reason: clean(&reason) }
                }
                CustomOutcome::Unknown { reason } if performer.repeatable() => {
                    Answer::Later { until: self.back_off(job.setbacks), reason: clean(&reason) }
                }
                CustomOutcome::Unknown { reason } => Answer::JobDoubt { reason: clean(&reason) },
            };
            answers.push((job, answer));
        }
        self.store(answers, About::default(), work).await?;
        Ok(false)
    }

    /// Stores the answers, together where that goes. What conflicts is loaded and applied again, the rest is stored; while the
    /// store is away they are kept. An answer to an attempt that the job no longer waits for is kept in the card's history,
    /// never applied.
    ///
    /// What was loaded before the call is not loaded again at first: what changed meanwhile is a conflict.
    pub(super) async fn store(
        &self,
        answers: Vec<(Job, Answer)>,
        about: About,
        work: &mut Work<'_>,
    ) -> Result<(), Error> {
        let mut batches = vec![Batch { about, ..Batch::of(answers) }];
        let mut settled = Vec::new();
        let mut failed = None;
        let mut setbacks = 0;
        while let Some(mut batch) = batches.pop() {
            let error = match self.store_batch(&mut batch, &mut settled, work.by).await {
                Ok(Stored { applied, later }) => {
                    work.done.extend(applied);
                    setbacks = 0;
                    batches.extend((!later.is_empty()).then(|| Batch::of(later)));
                    continue;
                }
                Err(error) => error,
            };
            match error {
                StoreError::Conflicts(conflicts) => {
                    tracing::debug!(conflicts = conflicts.len(), "answers are applied again");
                    let about = |job: &Job| conflicts.iter().any(|conflict| is_about(conflict, job));
                    let (again, free): (Vec<_>, Vec<_>) = batch.answers.into_iter().partition(|(job, _)| about(job));
                    let conflicts = batch.conflicts + 1;
                    if conflicts >= CONFLICTS {
                        failed = Some(Error::ChangedMeanwhile { what: format!("{} jobs", again.len() + free.len()) });
                    } else if again.is_empty() || free.is_empty() {
                        let answers = if again.is_empty() { free } else { again };
                        if conflicts > APPLIES {
                            self.clock.sleep(Duration::from_millis(10)).await;
                        }
                        batches.push(Batch { stale: true, conflicts, ..Batch::of(answers) });
                    } else {
                        batches.push(Batch { stale: true, conflicts, ..Batch::of(again) });
                        batches.push(Batch { conflicts, ..Batch::of(free) });
                    }
                }
                StoreError::Failed(error) if error.is_permanent() => {
                    // One of them cannot be stored; each by itself, the others can.
                    if batch.answers.len() == 1 {
                        failed = Some(Error::Store { during: "storing answers", source: error });
                    }
                    let alone = batch.answers.into_iter().filter(|_| failed.is_none());
                    batches.extend(alone.map(|answer| Batch { stale: true, ..Batch::of(vec![answer]) }));
                }
                StoreError::Failed(source) => {
                    setbacks += 1;
                    let error = Error::Store { during: "storing answers", source };
                    if setbacks >= APPLIES {
                        return Err(error);
                    }
                    tracing::warn!(error = %with_causes(&error), "storing answers is tried again");
                    self.clock.sleep(Duration::from_millis(50 << setbacks)).await;
                    batches.push(Batch { stale: true, ..batch });
                }
            }
        }
        self.tell_settled(settled, work.done).await;
        failed.map_or(Ok(()), Err)
    }

    /// One commit of a batch: of two changes of one card the first; the others are given back.
    async fn store_batch(&self, batch: &mut Batch, settled: &mut Vec<JobId>, by: By<'_>) -> Result<Stored, StoreError> {
        if batch.stale {
            self.reload(&mut batch.answers, settled).await?;
            batch.stale = false;
            batch.looks = true;
        }
        let mut at_hand = BTreeSet::new();
        let (now, later): (Vec<_>, Vec<_>) = batch
            .answers
            .drain(..)
            .partition(|(job, answer)| !changes_card(job, answer) || job.card.is_none_or(|card| at_hand.insert(card)));
        batch.answers = now;
        let about = std::mem::take(&mut batch.about);
        let stored = async {
            let about = self.load_about(&batch.answers, about, batch.looks).await?;
            let (changes, mut applied) = self.apply_all(&batch.answers, about, by);
            if !changes.is_empty() {
                self.repository.commit(&changes).await?;
            }
            let mut cards: BTreeMap<CardId, Card> = changes.cards.into_iter().map(|card| (card.id, card)).collect();
            for (done, (job, _)) in applied.iter_mut().zip(&batch.answers).filter(|(done, _)| !done.next.is_empty()) {
                let card = job.card.and_then(|card| cards.remove(&card));
                done.card = card.map(|mut card| {
                    card.version += 1;
                    card
                });
            }
            Ok(applied)
        };
        match stored.await {
            Ok(applied) => Ok(Stored { applied, later }),
            Err(error) => {
                batch.answers.extend(later);
                Err(error)
            }
        }
    }

    /// What these answers are about, as far as it is not known yet: the cards, their certificates where the answer is about these,
    /// and who holds the keys that come.
    ///
    /// At first, the key of a new certificate is taken without a look: that somebody holds it is a conflict, upon which everything is
    /// looked at.
    async fn load_about(
        &self,
        answers: &[(Job, Answer)],
        mut about: About,
        looks: bool,
    ) -> Result<About, RepositoryError> {
        let cards_of = |wanted: &dyn Fn(&Job, &Answer) -> bool| -> Vec<CardId> {
            let cards = answers.iter().filter(|(job, answer)| wanted(job, answer)).filter_map(|(job, _)| job.card);
            cards.collect::<BTreeSet<_>>().into_iter().collect()
        };
        let unknown = cards_of(&|job, _| job.card.is_some_and(|card| !about.cards.contains_key(&card)));
        if !unknown.is_empty() {
            let loaded = self.repository.cards(&unknown).await?;
            about.cards.extend(loaded.into_iter().map(|card| (card.id, card)));
        }
        let mut with_certificates = cards_of(&|job, answer| match answer {
            Answer::Production(ProductionAnswer::AtCa(_) | ProductionAnswer::Finished) | Answer::LateCertificate(_) => {
                true
            }
            // Late as well, if the card waits for it no more.
            Answer::Production(ProductionAnswer::Issued(_)) => {
                !job.card.and_then(|card| about.cards.get(&card)).is_some_and(|card| production::waits_for(card, job))
            }
            _ => false,
        });
        with_certificates.retain(|card| !about.certificates.contains_key(card));
        about.certificates.extend(self.certificates_of(with_certificates).await?);
        let is_new = |answer: &Answer| matches!(answer, Answer::Production(ProductionAnswer::Issued(_)));
        let looked_for = answers.iter().filter(|(_, answer)| looks || !is_new(answer));
        let keys: Vec<String> = looked_for.flat_map(|(_, answer)| keys_in(answer)).collect();
        if !keys.is_empty() {
            let held = self.repository.reservations(&keys).await?;
            about.held = held.into_iter().map(|held| (held.key, held.owner)).collect();
        }
        let discards: Vec<JobId> = answers.iter().filter_map(|(job, answer)| late_discard(job, answer)).collect();
        if !discards.is_empty() {
            about.discards = self.repository.jobs(&discards).await?.into_iter().map(|job| job.id).collect();
        }
        Ok(about)
    }

    fn apply_all(&self, answers: &[(Job, Answer)], mut about: About, by: By<'_>) -> (ChangeSet, Vec<Done>) {
        let stamp = self.stamp(by.actor, by.process, by.run);
        let mut changes = ChangeSet::new();
        let mut done = Vec::with_capacity(answers.len());
        for (job, answer) in answers {
            let (set, applied) = self.apply(job.clone(), &mut about, answer, &stamp);
            about.held.extend(set.takes.iter().map(|taken| (taken.key.clone(), taken.owner.clone())));
            changes.append(set);
            done.push(applied);
        }
        (changes, done)
    }

    /// What one answer changes. Each card belongs to one of the answers only.
    fn apply(&self, mut job: Job, about: &mut About, answer: &Answer, stamp: &Stamp<'_>) -> (ChangeSet, Done) {
        let id = job.id;
        let done = |outcome| Done { job: id, outcome, next: Vec::new(), card: None };
        let card = match job.card {
            Some(card) if changes_card(&job, answer) => about.cards.remove(&card),
            Some(card) => about.cards.get(&card).cloned(),
            None => None,
        };
        let applied = match (answer, card) {
            (Answer::Placed(answer), Some(card)) if order_job::is_waiting_for(&card, &job) => {
                order_job::placed(job.clone(), card, answer.clone(), self.next_poll(), stamp)
                    .map(|(changes, outcome)| (changes, done(outcome)))
            }
            (Answer::Status(status), Some(card)) if job.state == JobState::Open => order_job::status_read(
                job.clone(),
                card,
                status.clone(),
                &self.rules.status_map,
                Polls { next: self.next_poll(), most_silent_days: self.most_silent_days() },
                stamp,
            )
            .map(|(changes, outcome)| (changes, done(outcome))),
            (Answer::Production(ProductionAnswer::AtCa(state)), _)
                if matches!(job.kind(), JobKind::RemoveHold | JobKind::RevokeCertificate) =>
            {
                production::at_ca(job.clone(), about.take_certificate(&job), *state, stamp)
                    .map(|(changes, outcome)| (changes, done(outcome)))
            }
            (Answer::Production(answer), Some(card)) if production::waits_for(&card, &job) => {
                let certificates = about.certificates.remove(&card.id).unwrap_or_default();
                production::link_answered(job.clone(), card, certificates, &about.held, answer.clone(), stamp)
                    .map(|Applied { changes, outcome, next }| (changes, Done { next, ..done(outcome) }))
            }
            (Answer::Production(ProductionAnswer::Issued(issued)) | Answer::LateCertificate(issued), card) => {
                let card = card.map(|card| card.id).or(job.card);
                let known = card.and_then(|card| about.certificates.remove(&card)).unwrap_or_default();
                let (changes, outcome) = production::late_certificate(job, &known, &about.held, issued.clone(), stamp);
                return (changes, done(outcome));
            }
            (Answer::LateCard { .. }, card)
                if late_discard(&job, answer).is_some_and(|id| about.discards.contains(&id)) =>
            {
                let state = card.as_ref().map_or(job.state.name(), |card| card.state().name());
                return (ChangeSet::new(), done(Outcome::Unchanged { state: state.into() }));
            }
            (Answer::LateCard { handle }, card) => {
                // A handle that something else goes by is left alone.
                let free = |handle: &&str| !about.held.contains_key(&Card::handle_key(handle));
                let (changes, outcome) = late_card(&job, card, handle.as_deref(), free, stamp);
                return (changes, done(outcome));
            }
            (Answer::Placed(PlaceAnswer::Accepted(accepted)), card) => {
                let (mut changes, outcome) = late(&job, card, &accepted.order_id, stamp);
                // Stored only if the job is as it was when the order was sent; else it is loaded and judged again.
                job.state = JobState::Done;
                job.claim = None;
                job.remark = Some(format!("accepted as {}, which nobody waits for", accepted.order_id));
                changes.jobs.push(job);
                return (changes, done(outcome));
            }
            (Answer::LateAcceptance { order_id }, card) => {
                let (changes, outcome) = late(&job, card, order_id, stamp);
                return (changes, done(outcome));
            }
            (Answer::Placed(_) | Answer::Status(_) | Answer::Production(_) | Answer::Superseded, card) => {
                let perhaps_done = match answer {
                    Answer::Placed(PlaceAnswer::InDoubt { .. }) => true,
                    Answer::Superseded => job.attempt.is_some(),
                    Answer::Production(answer) => !matches!(answer, ProductionAnswer::Failed { .. }),
                    _ => false,
                };
                let (changes, outcome) = superseded(job, card.as_ref(), perhaps_done);
                return (changes, done(outcome));
            }
            (_, card) => {
                let (changes, outcome) = self.apply_to_job(job, card, answer, stamp);
                return (changes, done(outcome));
            }
        };
        applied.unwrap_or_else(|error| {
            // Cannot happen while a card waits for its job; should it, the job is kept for a person to see.
            tracing::error!(%error, "an answer does not fit the card");
            job = job.in_doubt(&error.to_string());
            let mut changes = ChangeSet::new();
            let outcome = Outcome::Refused(Refusal::from(error));
            changes.jobs.push(job);
            (changes, done(outcome))
        })
    }

    /// What an answer changes that leaves the card's state alone.
    fn apply_to_job(
        &self,
        mut job: Job,
        card: Option<Card>,
        answer: &Answer,
        stamp: &Stamp<'_>,
    ) -> (ChangeSet, Outcome) {
        let mut changes = ChangeSet::new();
        let state = card.as_ref().map_or(job.state.name(), |card| card.state().name());
        let mut outcome = Outcome::Unchanged { state: state.into() };
        job.claim = None;
        match answer {
            Answer::StatusLater { until, reason } => {
                job.due = *until;
                job.setbacks += 1;
                job.remark = Some(reason.clone());
                outcome = Outcome::Refused(Refusal::new(RefusalCode::HeldBack, format!("no status: {reason}")));
            }
            Answer::Later { until, reason } | Answer::NotDone { until, reason } => {
                job.due = *until;
                job.setbacks += 1;
                job.remark = Some(reason.clone());
                if matches!(answer, Answer::NotDone { .. }) {
                    job.attempt = None;
                    // Somebody may have given it up for doubtful meanwhile: it is not.
                    if job.state == JobState::InDoubt {
                        job.state = JobState::Open;
                        if let Some(card) = card {
                            no_longer_in_doubt(&mut changes, card, &job, stamp);
                        }
                    }
                }
            }
            Answer::Pending { until } => {
                job.due = *until;
                job.remark = Some("the CA has not decided yet".to_owned());
            }
            Answer::HeldBack { until, reason } => {
                job.due = *until;
                job.remark = Some(reason.clone());
                outcome = Outcome::Refused(Refusal::new(RefusalCode::HeldBack, reason.clone()));
            }
            Answer::Ended { remark, noted, refused } => {
                job.state = JobState::Done;
                job.attempt = None;
                job.remark = Some(remark.clone());
                production::is_put_aside(&mut changes, &job);
                outcome = if *refused {
                    let code = noted.unwrap_or("refused").to_owned();
                    Outcome::Refused(Refusal::new(RefusalCode::Custom(code), remark.clone()))
                } else {
                    let object = card.as_ref().map(|card| ObjectId::Card(card.id));
                    Outcome::Done { object, state: job.state.name().into() }
                };
                if let (Some(mut card), Some(code)) = (card, noted) {
                    let reference = job.id.to_string();
                    changes.note_card(&mut card, stamp, Why::code(code).about(&reference));
                    if card.busy.as_ref().is_some_and(|busy| busy.job == job.id) {
                        card.busy = None;
                    }
                    changes.put_card(card);
                }
            }
            Answer::JobDoubt { reason } => {
                job = job.in_doubt(reason);
                outcome = Outcome::InDoubt { job: job.id, card: job.card, reason: reason.clone() };
                if let Some(mut card) = card {
                    let reference = job.id.to_string();
                    changes.note_card(&mut card, stamp, Why::code("in_doubt").about(&reference).because(reason));
                    if let Some(busy) = card.busy.as_mut().filter(|busy| busy.job == job.id) {
                        busy.in_doubt = true;
                    }
                    changes.put_card(card);
                }
            }
            Answer::Placed(_)
            | Answer::Status(_)
            | Answer::Production(_)
            | Answer::LateAcceptance { .. }
            | Answer::LateCertificate(_)
            | Answer::LateCard { .. }
            | Answer::Superseded => {}
        }
        changes.jobs.push(job);
        (changes, outcome)
    }

    /// Loads jobs again whose answers could not be stored. An answer to an attempt that is over stays with its job as it was
    /// sent, so that it is recorded, not applied. What needs no answer any more is settled.
    async fn reload(&self, answers: &mut Vec<(Job, Answer)>, settled: &mut Vec<JobId>) -> Result<(), RepositoryError> {
        let ids: Vec<JobId> = answers.iter().map(|(job, _)| job.id).collect();
        let stored = if ids.is_empty() { Vec::new() } else { self.repository.jobs(&ids).await? };
        let mut stored: BTreeMap<JobId, Job> = stored.into_iter().map(|job| (job.id, job)).collect();
        let placement = self.bureau.as_ref().map(|bureau| bureau.placement());
        let is_idempotent = placement == Some(Placement::IdempotentByReference);
        let before = std::mem::take(answers);
        for (sent, answer) in before {
            let Some(job) = stored.remove(&sent.id) else { continue };
            // An acceptance also answers a job that waits to be sent again and has not been: it need not be any more.
            let accepted = matches!(answer, Answer::Placed(PlaceAnswer::Accepted(_)));
            // There is but one certificate for the key of a job.
            let issued = matches!(answer, Answer::Production(ProductionAnswer::Issued(_)));
            let waits = match job.state {
                JobState::Open | JobState::InDoubt if issued => true,
                JobState::Open => job.attempt == sent.attempt || (accepted && job.attempt.is_none()),
                JobState::InDoubt => job.attempt == sent.attempt,
                JobState::Done | JobState::Cancelled => false,
            };
            // Our own commit may have been stored although its answer was lost: then there is nothing more to do.
            let remark = match &answer {
                Answer::Placed(PlaceAnswer::Accepted(accepted)) => Some(format!("accepted as {}", accepted.order_id)),
                Answer::Production(answer) => production::done_remark(answer),
                Answer::Placed(PlaceAnswer::InDoubt { reason }) | Answer::JobDoubt { reason } => {
                    (job.state == JobState::InDoubt).then(|| reason.clone())
                }
                _ => None,
            };
            let already = remark.is_some() && job.remark == remark && job.attempts == sent.attempts;
            let answer = match answer {
                // Whoever has claimed it since may have sent the same attempt again: *not now* was said of the first time only.
                Answer::Placed(PlaceAnswer::NotAccepted { until, reason })
                    if is_idempotent && job.version != sent.version =>
                {
                    Answer::Later { until, reason }
                }
                answer => answer,
            };
            match answer {
                _ if already => settled.push(job.id),
                answer if waits => answers.push((job, answer)),
                Answer::Placed(PlaceAnswer::Accepted(accepted)) => {
                    answers.push((job, Answer::LateAcceptance { order_id: accepted.order_id }));
                }
                Answer::LateAcceptance { .. } | Answer::LateCertificate(_) | Answer::LateCard { .. } => {
                    answers.push((job, answer));
                }
                Answer::Production(
                    ProductionAnswer::Prepared(Prepared { handle, .. }) | ProductionAnswer::Unusable { handle, .. },
                ) => {
                    answers.push((job, Answer::LateCard { handle: Some(handle) }));
                }
                Answer::Production(ProductionAnswer::Finished) => {
                    answers.push((job, Answer::LateCard { handle: None }));
                }
                Answer::Production(ProductionAnswer::Issued(issued)) => {
                    answers.push((job, Answer::LateCertificate(issued)));
                }
                _ => settled.push(job.id),
            }
        }
        Ok(())
    }

    /// What became of jobs that were settled by others, or by a commit of ours that was thought lost.
    async fn tell_settled(&self, settled: Vec<JobId>, done: &mut Vec<Done>) {
        let Ok(jobs) = self.jobs_by_id(&settled).await else { return };
        let cards = self.cards_by_id(jobs.values().filter_map(|job| job.card).collect()).await.unwrap_or_default();
        for job in jobs.into_values() {
            let card = job.card.and_then(|card| cards.get(&card));
            let is_done_link = job.state == JobState::Done && job.kind().is_link();
            let outcome = match (job.state, card) {
                (JobState::Done, Some(card)) if card.production.is_none() => Outcome::card(card),
                (JobState::InDoubt, _) => {
                    Outcome::InDoubt { job: job.id, card: job.card, reason: job.remark.unwrap_or_default() }
                }
                (_, card) => {
                    let state = card.map_or(job.state.name(), |card| card.state().name());
                    Outcome::Unchanged { state: state.into() }
                }
            };
            // What follows may still be done in this run.
            let next = card.and_then(|card| card.production.as_ref().and(card.busy.as_ref()));
            let next = next.filter(|busy| is_done_link && !busy.in_doubt && busy.job != job.id);
            let next = next.map(|busy| busy.job).into_iter().collect();
            done.push(Done { job: job.id, outcome, next, card: None });
        }
    }

    pub(super) fn next_poll(&self) -> DateTime<Utc> {
        self.now() + time_delta(self.settings.poll_interval)
    }

    /// After more days in a row without anything new, an order is not asked for any more.
    fn most_silent_days(&self) -> u32 {
        u32::try_from(self.settings.longest_silence.as_secs() / (24 * 3600)).unwrap_or(u32::MAX)
    }

    /// When to try again if the outside says for how long it wants to be left alone: it may change its mind within a day.
    fn after(&self, wait: Duration) -> DateTime<Utc> {
        self.now() + time_delta(wait.min(LONGEST_WAIT))
    }

    /// When to try again after so many setbacks.
    pub(super) fn back_off(&self, setbacks: u32) -> DateTime<Utc> {
        let wait = self.settings.back_off.saturating_mul(1 << setbacks.min(12)).min(Duration::from_secs(3600));
        self.now() + time_delta(wait)
    }
}

/// Answers to be stored together.
struct Batch {
    answers: Vec<(Job, Answer)>,
    /// What was loaded already, to be tried with once.
    about: About,
    /// Whether the jobs must be loaded again first.
    stale: bool,
    /// Whether that was so once, and they are looked at before they are tried.
    looks: bool,
    /// How often something else changed what they are about.
    conflicts: u32,
}

impl Batch {
    fn of(answers: Vec<(Job, Answer)>) -> Self {
        Self { answers, about: About::default(), stale: false, looks: false, conflicts: 0 }
    }
}

/// What one commit came to.
struct Stored {
    applied: Vec<Done>,
    /// The answers that need a commit of their own.
    later: Vec<(Job, Answer)>,
}

/// Why a batch was not stored.
enum StoreError {
    Conflicts(Vec<Conflict>),
    Failed(RepositoryError),
}

impl From<RepositoryError> for StoreError {
    fn from(error: RepositoryError) -> Self {
        Self::Failed(error)
    }
}

impl From<CommitError> for StoreError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflicts(conflicts) => Self::Conflicts(conflicts),
            CommitError::Store(error) => Self::Failed(error),
        }
    }
}

/// Whether a conflict is about this job or its card.
fn is_about(conflict: &Conflict, job: &Job) -> bool {
    match conflict {
        Conflict::Version { object: StoredId::Job(id), .. } => *id == job.id,
        Conflict::Version { object: StoredId::Object(ObjectId::Card(id)), .. } => job.card == Some(*id),
        Conflict::Version { .. } => false,
        Conflict::Taken { owner, .. } | Conflict::NotHeld { owner, .. } => {
            job.card.is_some_and(|card| card.to_string() == *owner)
        }
    }
}

/// What answers are about.
#[derive(Default)]
pub(super) struct About {
    cards: BTreeMap<CardId, Card>,
    /// Of a card that is in it, at least those that the answers change.
    certificates: BTreeMap<CardId, Vec<Certificate>>,
    /// Who holds which of the keys that the answers bring.
    held: BTreeMap<String, String>,
    /// The cards that came late and are being put aside already.
    discards: BTreeSet<JobId>,
}

impl About {
    pub(super) fn of(cards: BTreeMap<CardId, Card>) -> Self {
        Self { cards, ..Self::default() }
    }

    pub(super) fn card(&self, id: CardId) -> Option<&Card> {
        self.cards.get(&id)
    }

    /// Adds certificates of a card: at least those that the answers change.
    pub(super) fn add(&mut self, card: CardId, certificates: impl IntoIterator<Item = Certificate>) {
        self.certificates.entry(card).or_default().extend(certificates);
    }

    /// The certificate that a job names.
    fn take_certificate(&mut self, job: &Job) -> Option<Certificate> {
        let (Task::RemoveHold { certificate: id } | Task::RevokeCertificate { certificate: id, .. }) = &job.task else {
            return None;
        };
        let certificates = self.certificates.get_mut(&job.card?)?;
        let place = certificates.iter().position(|certificate| certificate.id == *id)?;
        Some(certificates.swap_remove(place))
    }
}

/// Whether storing the answer may change the job's card.
fn changes_card(job: &Job, answer: &Answer) -> bool {
    match answer {
        // What the CA says after a lock or an activation is about the certificate only.
        Answer::Production(_) => !matches!(job.kind(), JobKind::RemoveHold | JobKind::RevokeCertificate),
        Answer::Ended { noted, .. } => noted.is_some(),
        Answer::NotDone { .. } | Answer::Later { .. } => job.state == JobState::InDoubt,
        Answer::HeldBack { .. } | Answer::StatusLater { .. } | Answer::Pending { .. } | Answer::LateCertificate(_) => {
            false
        }
        Answer::Placed(_)
        | Answer::Status(_)
        | Answer::LateAcceptance { .. }
        | Answer::LateCard { .. }
        | Answer::Superseded
        | Answer::JobDoubt { .. } => true,
    }
}

/// The keys that an answer brings: of a card at hand and its chip, or of a certificate.
fn keys_in(answer: &Answer) -> Vec<String> {
    match answer {
        Answer::Production(ProductionAnswer::Prepared(prepared)) => {
            let chip = prepared.chip_serial.as_deref().map(Card::chip_key);
            chip.into_iter().chain([Card::handle_key(&prepared.handle)]).collect()
        }
        Answer::Production(ProductionAnswer::Unusable { handle, .. }) | Answer::LateCard { handle: Some(handle) } => {
            vec![Card::handle_key(handle)]
        }
        Answer::Production(ProductionAnswer::Issued(issued)) | Answer::LateCertificate(issued) => {
            vec![production::serial_key(issued)]
        }
        _ => Vec::new(),
    }
}

/// The jobs that follow from these, each of them known as what the first of its chain came to, and their cards.
fn next_of(done: &mut [Done], first_of: &mut BTreeMap<JobId, JobId>) -> (Vec<JobId>, BTreeMap<CardId, Card>) {
    let (mut all, mut cards) = (Vec::new(), BTreeMap::new());
    for Done { job, next, card, .. } in done {
        let first = first_of.get(job).copied().unwrap_or(*job);
        for next in next {
            first_of.insert(*next, first);
            all.push(*next);
        }
        cards.extend(card.take().map(|card| (card.id, card)));
    }
    (all, cards)
}

/// An acceptance that nobody waits for any more is put on record, never applied: a card may now be made that nobody expects.
fn late(job: &Job, card: Option<Card>, order_id: &str, stamp: &Stamp<'_>) -> (ChangeSet, Outcome) {
    let mut changes = ChangeSet::new();
    let state = card.as_ref().map_or(job.state.name(), |card| card.state().name());
    if let Some(mut card) = card {
        tracing::error!(card = %card.id, order = %order_id, "the bureau accepted an order that nobody waits for");
        changes.note_card(&mut card, stamp, Why::code("late_acceptance").about(order_id));
        changes.put_card(card);
    }
    (changes, Outcome::Unchanged { state: state.into() })
}

/// A card that a machine made when nobody waited for it any more is put on record, and put aside if it can be.
fn late_card(
    job: &Job,
    card: Option<Card>,
    handle: Option<&str>,
    is_free: impl Fn(&&str) -> bool,
    stamp: &Stamp<'_>,
) -> (ChangeSet, Outcome) {
    let mut changes = ChangeSet::new();
    let state = card.as_ref().map_or(job.state.name(), |card| card.state().name());
    if let Some(mut card) = card {
        tracing::error!(card = %card.id, "a card was made that nobody waited for any more");
        let code = if handle.is_some() { "late_prepared_card" } else { "late_good_card" };
        let reference = job.id.to_string();
        changes.note_card(&mut card, stamp, Why::code(code).about(&reference));
        if let Some(handle) = handle.filter(is_free) {
            let id = job.follow_up(&format!("discard late card {handle}"));
            production::put_aside(&mut changes, id, handle.to_owned(), card.id, stamp);
        }
        changes.put_card(card);
    }
    (changes, Outcome::Unchanged { state: state.into() })
}

/// The job that puts a card aside that came late.
fn late_discard(job: &Job, answer: &Answer) -> Option<JobId> {
    match answer {
        Answer::LateCard { handle: Some(handle) } => Some(job.follow_up(&format!("discard late card {handle}"))),
        _ => None,
    }
}

/// The card does not wait for this job: it is closed, or in doubt if it was perhaps done.
fn superseded(mut job: Job, card: Option<&Card>, perhaps_done: bool) -> (ChangeSet, Outcome) {
    let mut changes = ChangeSet::new();
    let state = card.map_or(job.state.name(), |card| card.state().name());
    let was_settled = matches!(job.state, JobState::Done | JobState::Cancelled);
    let outcome = if perhaps_done {
        let reason = "the card no longer waits for it, and it was perhaps done".to_owned();
        job = job.in_doubt(&reason);
        Outcome::InDoubt { job: job.id, card: job.card, reason }
    } else {
        job.state = JobState::Done;
        job.claim = None;
        job.attempt = None;
        job.remark = Some("the card no longer waits for it".to_owned());
        Outcome::Unchanged { state: state.into() }
    };
    if !was_settled {
        changes.jobs.push(job);
    }
    (changes, outcome)
}

/// A card whose job turned out not to be in doubt.
fn no_longer_in_doubt(changes: &mut ChangeSet, mut card: Card, job: &Job, stamp: &Stamp<'_>) {
    let reference = job.id.to_string();
    changes.note_card(&mut card, stamp, Why::code("not_done").about(&reference));
    if let Some(busy) = card.busy.as_mut().filter(|busy| busy.job == job.id) {
        busy.in_doubt = false;
    }
    changes.put_card(card);
}

fn waiting_card<'a>(job: &Job, cards: &'a BTreeMap<CardId, Card>) -> Option<&'a Card> {
    cards.get(&job.card?).filter(|card| order_job::is_waiting_for(card, job))
}

/// A text from outside as it is kept: no private key, no control characters (some stores cannot hold NUL), at most 500 characters.
pub(super) fn clean(text: &str) -> String {
    if text.contains("PRIVATE KEY") {
        return "(the words held a private key)".to_owned();
    }
    text.chars().take(500).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// An acceptance; in doubt if its order id is none: under an altered one, another's order could be read.
fn accepted(mut accepted: Accepted) -> Answer {
    let id = &accepted.order_id;
    if !order_job::is_order_id(id) {
        let found: String = id.chars().take(100).collect();
        let reason = format!("the bureau accepted it under {found:?}, which is no order id");
        return Answer::Placed(PlaceAnswer::InDoubt { reason });
    }
    accepted.card_id = accepted.card_id.as_deref().map(clean);
    Answer::Placed(PlaceAnswer::Accepted(accepted))
}

fn cleaned(mut status: OrderStatus) -> OrderStatus {
    status.order_id = clean(&status.order_id);
    status.card_id = status.card_id.as_deref().map(clean);
    status.text = clean(&status.text);
    for read_out in &mut status.read_outs {
        read_out.technology = clean(&read_out.technology);
        read_out.value = clean(&read_out.value);
    }
    status
}

fn time_delta(duration: Duration) -> TimeDelta {
    let most = TimeDelta::days(36_500);
    TimeDelta::from_std(duration).map_or(most, |delta| delta.min(most))
}
