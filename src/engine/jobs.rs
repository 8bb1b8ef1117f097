//! What is owed to the outside: performing claimed jobs and storing the answers.
//!
//! Before a call that is not repeatable, the attempt is stored. An answer belongs to its attempt: it is stored as long as the
//! job still waits for that attempt, whoever has claimed the job since. An attempt without an answer is looked for at the
//! bureau or is in doubt; it is never sent again by itself, unless the bureau's contract makes that safe.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::Engine;
use crate::actor::Actor;
use crate::card::{Card, CardState};
use crate::change_set::ChangeSet;
use crate::error::{During as _, Error, with_causes};
use crate::history::{ObjectId, Stamp, Why};
use crate::host::{
    Accepted, CardOrder, CommitError, CustomOutcome, FindOutcome, NotifyOutcome, OrderStatus, PlaceOutcome, Placement,
    StatusOutcome,
};
use crate::id::{CardId, JobId, RunId, SymbolicName, UserId};
use crate::job::{Attempt, Job, JobKind, JobState, Message, Task};
use crate::process::{Outcome, PlaceAnswer, Refusal, RefusalCode, order_job};
use crate::production_type::EMAIL;
use crate::state_graph::State as _;
use crate::user::User;

/// How often an answer is applied again when something else changed the same card or job at the same moment, or the store
/// was unavailable. The answer of the bureau must not be lost.
const APPLIES: u32 = 8;

/// How many messages are handed to the notifier at once.
const MESSAGES_AT_ONCE: usize = 50;

/// What performing came to.
pub(super) struct Performed {
    /// The outcome of each job that was tried or settled.
    pub(super) outcomes: Vec<(JobId, Outcome)>,
    /// Whether the outside asked not to be called for now.
    pub(super) halted: bool,
    /// What went wrong on our side. What came before it is done.
    pub(super) failed: Option<Error>,
}

/// Who performs, for the history.
#[derive(Clone, Copy)]
struct By<'a> {
    actor: &'a Actor,
    process: &'a SymbolicName,
    run: Option<RunId>,
}

/// What is to be stored for one job.
enum Answer {
    Placed(PlaceAnswer),
    Status(OrderStatus),
    /// Nothing was learned: read again then.
    StatusLater {
        until: DateTime<Utc>,
        reason: Option<String>,
    },
    /// A message or a host's own job came to an end.
    Ended {
        remark: String,
        noted: Option<&'static str>,
        refused: bool,
    },
    /// Try again then.
    Later {
        until: DateTime<Utc>,
        reason: String,
    },
    /// A host's own job that is perhaps done.
    CustomDoubt {
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
    ) -> Performed {
        let by = By { actor, process, run };
        let mut kinds: BTreeMap<JobKind, Vec<Job>> = BTreeMap::new();
        for job in jobs {
            kinds.entry(job.kind()).or_default().push(job);
        }
        let mut performed = Performed { outcomes: Vec::new(), halted: false, failed: None };
        for (kind, jobs) in kinds {
            let size = match kind {
                JobKind::PlaceOrder => self.settings.orders_per_call,
                JobKind::TrackOrder => self.settings.statuses_per_call,
                JobKind::Notify => MESSAGES_AT_ONCE,
                JobKind::Custom => 1,
            };
            let mut halted = false;
            let mut jobs = jobs.into_iter().peekable();
            while !halted && jobs.peek().is_some() {
                let mut batch: Vec<Job> = jobs.by_ref().take(size.max(1)).collect();
                let claims: Vec<(JobId, u64)> = batch.iter().map(|job| (job.id, job.version)).collect();
                let outcomes = &mut performed.outcomes;
                let tried = match self.keep_claims(&mut batch).await {
                    Err(error) => Err(error),
                    Ok(()) => match kind {
                        JobKind::PlaceOrder => self.place(batch, by, outcomes).await,
                        JobKind::TrackOrder => self.track(batch, by, outcomes).await,
                        JobKind::Notify => self.notify(batch, by, outcomes).await,
                        JobKind::Custom => self.custom(batch, by, outcomes).await,
                    },
                };
                halted = match tried {
                    Ok(halted) => halted,
                    Err(error) => {
                        // What was sent has a newer version and stays claimed; the rest need not wait for its lease to end.
                        let left = claims.into_iter().chain(jobs.map(|job| (job.id, job.version))).collect();
                        self.release(left).await;
                        performed.failed = Some(error);
                        return performed;
                    }
                };
            }
            performed.halted |= halted;
            self.release(jobs.map(|job| (job.id, job.version)).collect()).await;
        }
        performed
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

    /// Renews the claims of jobs that are about to be tried, if they might not outlast the call; drops those that were lost.
    async fn keep_claims(&self, batch: &mut Vec<Job>) -> Result<(), Error> {
        let lease = self.settings.safe_lease();
        let enough = self.now() + time_delta(self.settings.call_time_out);
        let short = |job: &Job| job.claim.as_ref().is_none_or(|claim| claim.until <= enough);
        let claims: Vec<(JobId, u64)> =
            batch.iter().filter(|job| short(job)).map(|job| (job.id, job.version)).collect();
        if claims.is_empty() {
            return Ok(());
        }
        let kept: BTreeSet<JobId> =
            self.repository.renew(&claims, lease).await.during("renewing claims")?.into_iter().collect();
        batch.retain(|job| !short(job) || kept.contains(&job.id));
        Ok(())
    }

    /// Places orders; true if the bureau does not want to be called for now.
    async fn place(&self, jobs: Vec<Job>, by: By<'_>, outcomes: &mut Vec<(JobId, Outcome)>) -> Result<bool, Error> {
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
                Some(attempt) if self.bureau.placement() == Placement::NotIdempotent => {
                    let found = self.look_for(&job, attempt, "an earlier attempt was interrupted").await;
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
            let (sent, stop) = self.send(again, &sent_before).await;
            halted = stop;
            answers.extend(sent);
        }
        self.store(answers, by, outcomes).await?;
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

    /// Stores the attempts of exactly these orders; those whose claim was lost are dropped.
    async fn store_attempts(&self, fresh: Vec<(Job, CardOrder)>) -> Result<Vec<(Job, CardOrder)>, Error> {
        if fresh.is_empty() {
            return Ok(fresh);
        }
        let now = self.now();
        let attempts: Vec<(JobId, u64, Attempt)> =
            fresh.iter().map(|(job, _)| (job.id, job.version, job.next_attempt(now))).collect();
        let lease = self.settings.safe_lease();
        let stored = self.repository.record_attempts(&attempts, lease).await.during("storing attempts")?;
        let mut stored: BTreeMap<JobId, Job> = stored.into_iter().map(|job| (job.id, job)).collect();
        Ok(fresh.into_iter().filter_map(|(job, order)| Some((stored.remove(&job.id)?, order))).collect())
    }

    /// Makes the call. What is not answered is looked for, or in doubt.
    ///
    /// Of an order that was sent before, *not now* says nothing about the first time: it keeps its attempt and reference.
    async fn send(&self, batch: Vec<(Job, CardOrder)>, sent_before: &BTreeSet<JobId>) -> (Vec<(Job, Answer)>, bool) {
        let (jobs, orders): (Vec<Job>, Vec<CardOrder>) = batch.into_iter().unzip();
        let unknown = |reason: &str| vec![PlaceOutcome::Unknown { reason: reason.to_owned() }; orders.len()];
        let mut outcomes = self
            .in_time(self.bureau.place(&orders), self.settings.call_time_out)
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
                    let until = self.now() + time_delta(retry_after);
                    not_now(&job, until, "the bureau limits the rate".to_owned())
                }
                PlaceOutcome::Unknown { reason } => match (&job.attempt, self.bureau.placement()) {
                    (Some(_), Placement::IdempotentByReference) => {
                        Answer::Later { until: self.back_off(job.setbacks), reason: clean(&reason) }
                    }
                    (Some(attempt), Placement::NotIdempotent) => self.look_for(&job, attempt, &clean(&reason)).await,
                    (None, _) => Answer::Placed(PlaceAnswer::InDoubt { reason: clean(&reason) }),
                },
            };
            answers.push((job, answer));
        }
        let halted = waits == answers.len();
        (answers, halted)
    }

    /// Looks for an attempt without an answer. Not found is not proof: it may still be on its way.
    async fn look_for(&self, job: &Job, attempt: &Attempt, reason: &str) -> Answer {
        let found = self
            .in_time(self.bureau.find(&attempt.reference), self.settings.call_time_out)
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
    async fn track(&self, jobs: Vec<Job>, by: By<'_>, outcomes: &mut Vec<(JobId, Outcome)>) -> Result<bool, Error> {
        let order_ids: Vec<String> = jobs
            .iter()
            .map(|job| match &job.task {
                Task::TrackOrder { order_id } => order_id.clone(),
                _ => String::new(),
            })
            .collect();
        let statuses = self.in_time(self.bureau.status(&order_ids), self.settings.call_time_out).await;
        let no_answer = |reason: &str| vec![StatusOutcome::Unavailable { reason: reason.to_owned() }; jobs.len()];
        let mut statuses = statuses.unwrap_or_else(|| no_answer("the bureau did not answer in time"));
        if statuses.len() != jobs.len() {
            statuses = no_answer("the bureau gave another number of answers than orders");
        }
        let mut waits = 0;
        let mut answers = Vec::with_capacity(jobs.len());
        for (job, status) in jobs.into_iter().zip(statuses) {
            let answer = match status {
                StatusOutcome::Known(status) => Answer::Status(cleaned(status)),
                StatusOutcome::NotFound => Answer::StatusLater {
                    until: self.next_poll(),
                    reason: Some("the bureau does not know the order".to_owned()),
                },
                StatusOutcome::Unavailable { reason } => {
                    waits += 1;
                    Answer::StatusLater { until: self.back_off(job.setbacks), reason: Some(clean(&reason)) }
                }
                StatusOutcome::RateLimited { retry_after } => {
                    waits += 1;
                    Answer::StatusLater {
                        until: self.now() + time_delta(retry_after),
                        reason: Some("the bureau limits the rate".to_owned()),
                    }
                }
            };
            answers.push((job, answer));
        }
        let halted = !answers.is_empty() && waits == answers.len();
        self.store(answers, by, outcomes).await?;
        Ok(halted)
    }

    /// Sends messages; at least once, each always under the same id.
    async fn notify(&self, jobs: Vec<Job>, by: By<'_>, outcomes: &mut Vec<(JobId, Outcome)>) -> Result<bool, Error> {
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
        self.store(answers, by, outcomes).await?;
        Ok(false)
    }

    async fn tell(&self, message: &Message) -> NotifyOutcome {
        self.in_time(self.notifier.send(message), self.settings.call_time_out)
            .await
            .unwrap_or_else(|| NotifyOutcome::Unavailable { reason: "no answer in time".to_owned() })
    }

    /// Performs a host's own job.
    async fn custom(&self, jobs: Vec<Job>, by: By<'_>, outcomes: &mut Vec<(JobId, Outcome)>) -> Result<bool, Error> {
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
                answers.push((job, Answer::CustomDoubt { reason }));
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
                    Answer::Later { until: self.back_off(job.setbacks), reason: clean(&reason) }
                }
                CustomOutcome::Unknown { reason } if performer.repeatable() => {
                    Answer::Later { until: self.back_off(job.setbacks), reason: clean(&reason) }
                }
                CustomOutcome::Unknown { reason } => Answer::CustomDoubt { reason: clean(&reason) },
            };
            answers.push((job, answer));
        }
        self.store(answers, by, outcomes).await?;
        Ok(false)
    }

    /// Stores the answers in one commit. What conflicts is loaded and applied again; an answer to an attempt that the job
    /// no longer waits for is kept in the card's history, never applied.
    async fn store(
        &self,
        mut answers: Vec<(Job, Answer)>,
        by: By<'_>,
        outcomes: &mut Vec<(JobId, Outcome)>,
    ) -> Result<(), Error> {
        let mut wait = Duration::from_millis(100);
        for round in 1..=APPLIES {
            if answers.is_empty() {
                return Ok(());
            }
            let cards = self.cards_by_id(answers.iter().filter_map(|(job, _)| job.card).collect()).await;
            let cards = match cards {
                Ok(cards) => cards,
                Err(error) if error.is_transient() && round < APPLIES => {
                    self.clock.sleep(wait).await;
                    wait *= 2;
                    continue;
                }
                Err(error) => return Err(error),
            };
            // Two jobs about one card cannot be stored in one commit: the second comes in the next round.
            let mut at_hand = BTreeSet::new();
            let (now, later): (Vec<_>, Vec<_>) =
                answers.into_iter().partition(|(job, _)| job.card.is_none_or(|card| at_hand.insert(card)));
            let (changes, done) = self.apply_all(&now, cards, by);
            match self.repository.commit(&changes).await {
                Ok(()) => {
                    outcomes.extend(done);
                    answers = later;
                }
                Err(CommitError::Conflicts(conflicts)) => {
                    tracing::debug!(conflicts = conflicts.len(), "answers are applied again");
                    answers = now;
                    answers.extend(later);
                    self.reload(&mut answers).await?;
                }
                Err(CommitError::Store(error)) if error.is_permanent() || round == APPLIES => {
                    return Err(Error::Store { during: "storing answers", source: error });
                }
                Err(CommitError::Store(error)) => {
                    tracing::warn!(error = %with_causes(&error), "storing answers is tried again");
                    self.clock.sleep(wait).await;
                    wait *= 2;
                    answers = now;
                    answers.extend(later);
                    self.reload(&mut answers).await?;
                }
            }
        }
        if answers.is_empty() {
            return Ok(());
        }
        Err(Error::ChangedMeanwhile { what: format!("{} jobs", answers.len()) })
    }

    /// Each card belongs to one of the answers only.
    fn apply_all(
        &self,
        answers: &[(Job, Answer)],
        mut cards: BTreeMap<CardId, Card>,
        by: By<'_>,
    ) -> (ChangeSet, Vec<(JobId, Outcome)>) {
        let stamp = self.stamp(by.actor, by.process, by.run);
        let mut changes = ChangeSet::new();
        let mut done = Vec::with_capacity(answers.len());
        for (job, answer) in answers {
            let card = job.card.and_then(|card| cards.remove(&card));
            let (set, outcome) = self.apply(job.clone(), card, answer, &stamp);
            changes.append(set);
            done.push((job.id, outcome));
        }
        (changes, done)
    }

    /// What one answer changes.
    fn apply(&self, mut job: Job, card: Option<Card>, answer: &Answer, stamp: &Stamp<'_>) -> (ChangeSet, Outcome) {
        let applied = match (answer, card) {
            (Answer::Placed(answer), Some(card)) if is_waiting_for(&card, &job) => {
                order_job::placed(job.clone(), card, answer.clone(), self.next_poll(), stamp)
            }
            (Answer::Status(status), Some(card)) if job.state == JobState::Open => order_job::status_read(
                job.clone(),
                card,
                status.clone(),
                &self.rules.status_map,
                self.next_poll(),
                stamp,
            ),
            (Answer::Placed(PlaceAnswer::Accepted(accepted)), card) => {
                let (mut changes, outcome) = late(&job, card, &accepted.order_id, stamp);
                // Stored only if the job is as it was when the order was sent; else it is loaded and judged again.
                changes.jobs.push(job);
                return (changes, outcome);
            }
            (Answer::LateAcceptance { order_id }, card) => return late(&job, card, order_id, stamp),
            (Answer::Placed(_) | Answer::Status(_) | Answer::Superseded, card) => {
                return superseded(job, card.as_ref());
            }
            (_, card) => return self.apply_to_job(job, card, answer, stamp),
        };
        applied.unwrap_or_else(|error| {
            // Cannot happen while a card waits for its job; should it, the job is kept for a person to see.
            tracing::error!(%error, "an answer does not fit the card");
            job.state = JobState::InDoubt;
            job.claim = None;
            job.remark = Some(error.to_string());
            let mut changes = ChangeSet::new();
            let outcome = Outcome::Refused(Refusal::from(error));
            changes.jobs.push(job);
            (changes, outcome)
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
                job.setbacks += u32::from(reason.is_some());
                job.remark.clone_from(reason);
            }
            Answer::Later { until, reason } => {
                job.due = *until;
                job.setbacks += 1;
                job.remark = Some(reason.clone());
                if !matches!(job.task, Task::PlaceOrder { .. }) {
                    job.attempt = None;
                }
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
            Answer::CustomDoubt { reason } => {
                job.state = JobState::InDoubt;
                job.remark = Some(reason.clone());
                if let Some(mut card) = card {
                    let reference = job.id.to_string();
                    changes.note_card(&mut card, stamp, Why::code("in_doubt").about(&reference).because(reason));
                    if let Some(busy) = card.busy.as_mut().filter(|busy| busy.job == job.id) {
                        busy.in_doubt = true;
                    }
                    outcome = Outcome::InDoubt { card: card.id, reason: reason.clone() };
                    changes.put_card(card);
                }
            }
            Answer::Placed(_) | Answer::Status(_) | Answer::LateAcceptance { .. } | Answer::Superseded => {}
        }
        changes.jobs.push(job);
        (changes, outcome)
    }

    /// Loads jobs again whose answers could not be stored. An answer to an attempt that is over stays with its job as it was
    /// sent, so that it is recorded, not applied.
    async fn reload(&self, answers: &mut Vec<(Job, Answer)>) -> Result<(), Error> {
        let ids: Vec<JobId> = answers.iter().map(|(job, _)| job.id).collect();
        let mut stored = self.jobs_by_id(&ids).await?;
        let before = std::mem::take(answers);
        for (sent, answer) in before {
            let Some(job) = stored.remove(&sent.id) else { continue };
            // An acceptance also answers a job that waits to be sent again and has not been: it need not be any more.
            let accepted = matches!(answer, Answer::Placed(PlaceAnswer::Accepted(_)));
            let waits = match job.state {
                JobState::Open => job.attempt == sent.attempt || (accepted && job.attempt.is_none()),
                JobState::InDoubt => job.attempt == sent.attempt,
                JobState::Done | JobState::Cancelled => false,
            };
            // Our own commit may have been stored although its answer was lost: then there is nothing more to do.
            let already = matches!(&answer, Answer::Placed(PlaceAnswer::Accepted(accepted))
                if job.remark.as_deref() == Some(format!("accepted as {}", accepted.order_id).as_str()));
            match answer {
                answer if waits => answers.push((job, answer)),
                Answer::Placed(PlaceAnswer::Accepted(accepted)) if !already => {
                    answers.push((job, Answer::LateAcceptance { order_id: accepted.order_id }));
                }
                Answer::LateAcceptance { .. } => answers.push((job, answer)),
                _ => {}
            }
        }
        Ok(())
    }

    fn next_poll(&self) -> DateTime<Utc> {
        self.now() + time_delta(self.settings.poll_interval)
    }

    /// When to try again after so many setbacks.
    fn back_off(&self, setbacks: u32) -> DateTime<Utc> {
        let wait = self.settings.back_off.saturating_mul(1 << setbacks.min(12)).min(Duration::from_secs(3600));
        self.now() + time_delta(wait)
    }
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

/// The card does not wait for this job: it is closed, unless an attempt of it may still be answered.
fn superseded(mut job: Job, card: Option<&Card>) -> (ChangeSet, Outcome) {
    let mut changes = ChangeSet::new();
    let state = card.map_or(job.state.name(), |card| card.state().name());
    if job.state == JobState::Open && job.attempt.is_none() {
        job.state = JobState::Done;
        job.claim = None;
        job.remark = Some("the card no longer waits for it".to_owned());
        changes.jobs.push(job);
    }
    (changes, Outcome::Unchanged { state: state.into() })
}

fn waiting_card<'a>(job: &Job, cards: &'a BTreeMap<CardId, Card>) -> Option<&'a Card> {
    cards.get(&job.card?).filter(|card| is_waiting_for(card, job))
}

fn is_waiting_for(card: &Card, job: &Job) -> bool {
    card.state() == CardState::Processing
        && card.busy.as_ref().is_some_and(|busy| busy.job == job.id)
        && matches!(job.state, JobState::Open | JobState::InDoubt)
}

/// A text from outside as it is kept: no control characters (some stores cannot hold NUL), at most 500 characters.
fn clean(text: &str) -> String {
    text.chars().take(500).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// An acceptance; in doubt if its order id is none: under an altered one, another's order could be read.
fn accepted(mut accepted: Accepted) -> Answer {
    let id = &accepted.order_id;
    if id.trim().is_empty() || *id != clean(id) {
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
