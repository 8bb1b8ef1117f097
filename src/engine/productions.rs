//! Calls to the card personalizer and the certificate authority.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use futures::future::{join_all, join3};

use super::Engine;
use super::jobs::{About, Answer, Work, clean};
use crate::card::Card;
use crate::certificate::{Certificate, CertificateState, IssuedCertificate, StateAtCa};
use crate::error::{During as _, Error};
use crate::host::{
    CaOutcome, CaStatusOutcome, CardCertificate, CardPersonalizer, CertificateAuthority, CertificateOrder,
    DiscardOutcome, FindCertificateOutcome, FinishOrder, FinishOutcome, IssueOutcome, PrepareOrder, PrepareOutcome,
    Prepared,
};
use crate::id::{CardId, JobId, UserId};
use crate::job::{Job, JobKind, Task};
use crate::process::{ProductionAnswer, production};
use crate::production::{Delivery, Production, SecretPlan};
use crate::production_type::EMAIL;
use crate::secret::Secret;
use crate::user::User;

/// Why a card with certificates is not finished by an engine without a CA.
const NO_AUTHORITY: &str = "no certificate authority is set up here";

/// How often a certificate is looked for that nobody waits for and that is not there: over some hours, as the back-off grows.
const LATE_LOOKS: u32 = 10;

/// The longest text in PEM that is taken from outside, in bytes.
const LONGEST_PEM: usize = 65_536;

/// The longest handle or serial number that is taken from outside, in characters.
const LONGEST_NAME: usize = 200;

/// The longest name of an issuer, in characters: a distinguished name may have many parts.
const LONGEST_ISSUER: usize = 4000;

impl Engine {
    /// Prepares cards; true if the personalizer does not want to be called for now.
    pub(super) async fn prepare(&self, jobs: Vec<Job>, work: &mut Work<'_>) -> Result<bool, Error> {
        let Some(personalizer) = &self.personalizer else { return self.leave(jobs).await };
        let Waiting { at_hand, mut answers, about, .. } = self.waiting(jobs, work).await?;
        let mut fresh = Vec::new();
        for (job, card) in at_hand {
            if job.attempt.is_some() {
                answers.push((job, doubt("preparing it was interrupted")));
            } else {
                fresh.push((job, card));
            }
        }
        let calls = self.store_attempts(fresh).await?.into_iter().map(|(job, card)| async move {
            let (production, reference) = (card.production.as_ref(), reference(&job));
            let wanted = production.map_or(&[][..], |production| &production.certificates);
            let order = PrepareOrder::new(&reference, &card, wanted);
            let outcome = self.in_time(personalizer.prepare(&order), self.settings.production_time_out).await;
            let answer = match outcome {
                Some(PrepareOutcome::Prepared(prepared)) => checked_card(prepared),
                Some(PrepareOutcome::Spoiled { reason }) => failed(&reason),
                Some(PrepareOutcome::Unavailable { reason }) => self.not_done(&job, &reason),
                Some(PrepareOutcome::Unknown { reason }) => doubt(&reason),
                None => doubt("the personalizer did not answer in time"),
            };
            (job, answer)
        });
        answers.extend(join_all(calls).await);
        self.store_all(answers, about, work).await
    }

    /// Has certificates issued. An order that was perhaps taken is looked for first.
    pub(super) async fn issue(&self, jobs: Vec<Job>, work: &mut Work<'_>) -> Result<bool, Error> {
        let Some(authority) = &self.certificate_authority else { return self.leave(jobs).await };
        let Waiting { at_hand, answers, asked_for, about } = self.waiting(jobs, work).await?;
        let mut answers = self.look_for_the_late(authority.as_ref(), answers).await;
        let (again, fresh): (Vec<_>, Vec<_>) = at_hand.into_iter().partition(|(job, _)| job.attempt.is_some());
        let mut ordered = Vec::new();
        for (job, card) in fresh {
            match self.certificate_order(&job, &card) {
                Ok(order) => ordered.push((job, order)),
                Err(reason) if job.unanswered => answers.push((job, doubt(&reason))),
                Err(reason) => answers.push((job, failed(&reason))),
            }
        }
        let first = self.store_attempts(ordered).await?.into_iter().map(|(job, order)| async move {
            let answer = self.ask_for(authority.as_ref(), &job, &order).await;
            (job, answer)
        });
        let looks = again.into_iter().map(|(job, card)| async move {
            let key = production::certificate_key(&job);
            let answer = match self.look(authority.as_ref(), &job, &key).await {
                Some(answer) => answer,
                // There is nothing under the key, and there can be but one certificate: it is asked for again.
                None => match self.certificate_order(&job, &card) {
                    Ok(order) => match self.ask_for(authority.as_ref(), &job, &order).await {
                        // That it is not taken now says nothing about the first time.
                        Answer::NotDone { until, reason } => Answer::Later { until, reason },
                        answer => answer,
                    },
                    Err(reason) => doubt(&reason),
                },
            };
            (job, answer)
        });
        let unwanted = asked_for.into_iter().map(|(job, reason)| async move {
            let found = self.look(authority.as_ref(), &job, &production::certificate_key(&job)).await;
            let answer = match found {
                // What was never answered with a no is for a person; anything else was.
                Some(Answer::Production(ProductionAnswer::InDoubt { .. })) if job.attempt.is_none() => failed(&reason),
                // Somebody may still be asking: that there is none now is no proof.
                None => Answer::Production(ProductionAnswer::Unwanted { reason: clean(&reason) }),
                Some(found) => found,
            };
            (job, answer)
        });
        let (first, looks, unwanted) = join3(join_all(first), join_all(looks), join_all(unwanted)).await;
        answers.extend(first.into_iter().chain(looks).chain(unwanted));
        self.store_all(answers, about, work).await
    }

    /// A card may have failed while its certificate was asked for: what came of that is looked for, so that it can be revoked.
    async fn look_for_the_late(
        &self,
        authority: &dyn CertificateAuthority,
        answers: Vec<(Job, Answer)>,
    ) -> Vec<(Job, Answer)> {
        let looks = answers.into_iter().map(|(job, answer)| async move {
            if !matches!(answer, Answer::Superseded) || job.attempts == 0 {
                return (job, answer);
            }
            let answer = match self.look(authority, &job, &production::certificate_key(&job)).await {
                Some(Answer::Production(ProductionAnswer::Issued(issued))) => Answer::LateCertificate(issued),
                Some(answer @ (Answer::Later { .. } | Answer::Pending { .. })) => answer,
                Some(Answer::Production(ProductionAnswer::InDoubt { reason })) => Answer::JobDoubt { reason },
                // Whoever asked may have been slow: it is looked for some hours.
                None if job.setbacks < LATE_LOOKS => self.later(&job, "the CA has none yet"),
                _ => Answer::Ended { remark: "the CA has none".to_owned(), noted: None, refused: false },
            };
            (job, answer)
        });
        join_all(looks).await
    }

    async fn ask_for(&self, authority: &dyn CertificateAuthority, job: &Job, order: &CertificateOrder) -> Answer {
        match self.in_time(authority.issue(order), self.settings.call_time_out).await {
            Some(IssueOutcome::Issued(issued)) => checked_certificate(issued),
            Some(IssueOutcome::Pending) => self.pending(),
            Some(IssueOutcome::Refused { reason }) => failed(&reason),
            Some(IssueOutcome::Unavailable { reason }) => self.not_done(job, &reason),
            Some(IssueOutcome::Unknown { reason }) => self.perhaps_issued(authority, job, &reason).await,
            None => self.perhaps_issued(authority, job, "the CA did not answer in time").await,
        }
    }

    async fn perhaps_issued(&self, authority: &dyn CertificateAuthority, job: &Job, reason: &str) -> Answer {
        let key = production::certificate_key(job);
        self.look(authority, job, &key).await.unwrap_or_else(|| self.later(job, reason))
    }

    /// What is found under a key; `None` if there is nothing.
    async fn look(&self, authority: &dyn CertificateAuthority, job: &Job, key: &str) -> Option<Answer> {
        Some(match self.in_time(authority.find(key), self.settings.call_time_out).await {
            Some(FindCertificateOutcome::Found { certificate, .. }) => checked_certificate(certificate),
            Some(FindCertificateOutcome::Pending) => self.pending(),
            Some(FindCertificateOutcome::Refused { reason }) => failed(&reason),
            Some(FindCertificateOutcome::NotFound) => return None,
            Some(FindCertificateOutcome::CannotLook) => {
                doubt("the CA did not say whether it issued the certificate, and cannot look")
            }
            Some(FindCertificateOutcome::Unavailable { reason }) => self.later(job, &reason),
            None => self.later(job, "the look-up was not answered in time"),
        })
    }

    fn certificate_order(&self, job: &Job, card: &Card) -> Result<CertificateOrder, String> {
        let (Task::IssueCertificate { kind, .. }, Some(production)) = (&job.task, &card.production) else {
            return Err("the card is not in production".to_owned());
        };
        let profile = self
            .rules
            .certificate_profiles
            .get(kind)
            .ok_or_else(|| format!("the house has no certificate profile for {kind}"))?;
        let valid_until = card.valid_until.ok_or("the card has no validity")?;
        let name = card.attributes.get("commonName").filter(|name| !name.trim().is_empty());
        let name = name.ok_or("the card has no common name")?;
        let mut order = CertificateOrder::new(production::certificate_key(job), profile, name, valid_until);
        order.upn = card.attributes.get("upn").cloned();
        order.email = card.attributes.get(EMAIL).cloned();
        order.request = production.requests.get(kind).cloned();
        Ok(order)
    }

    /// Puts certificates on hold, takes them off hold, revokes them.
    pub(super) async fn tell_ca(&self, jobs: Vec<Job>, work: &mut Work<'_>) -> Result<bool, Error> {
        let Some(authority) = &self.certificate_authority else { return self.leave(jobs).await };
        let (holds, others): (Vec<_>, Vec<_>) =
            jobs.into_iter().partition(|job| job.kind() == JobKind::HoldCertificate);
        let Waiting { at_hand, mut answers, mut about, .. } = self.waiting(holds, work).await?;
        let jobs = at_hand.into_iter().map(|(job, _)| job).chain(others);
        let named: Vec<_> = jobs.filter_map(|job| Some((named_certificate(&job)?, job))).collect();
        let ids: Vec<_> = named.iter().map(|(id, _)| *id).collect();
        let certificates = self.certificates_by_id(&ids).await?;
        let calls = named.into_iter().map(|(id, job)| {
            let certificate = certificates.get(&id);
            async move {
                let answer = match certificate {
                    Some(certificate) => self.ask_ca(authority.as_ref(), &job, certificate).await,
                    None => Answer::Superseded,
                };
                (job, answer)
            }
        });
        answers.extend(join_all(calls).await);
        for certificate in certificates.into_values() {
            about.add(certificate.card, [certificate]);
        }
        self.store_all(answers, about, work).await
    }

    async fn ask_ca(&self, authority: &dyn CertificateAuthority, job: &Job, certificate: &Certificate) -> Answer {
        let issued = &certificate.issued;
        let (call, done) = match &job.task {
            Task::HoldCertificate { .. } => (authority.hold(issued), StateAtCa::OnHold),
            Task::RemoveHold { .. } if certificate.state() != CertificateState::Valid => return Answer::Superseded,
            Task::RemoveHold { .. } => (authority.remove_hold(issued), StateAtCa::Valid),
            Task::RevokeCertificate { reason, .. } => (authority.revoke(issued, *reason), StateAtCa::Revoked),
            _ => return Answer::Superseded,
        };
        let at_ca = |state| Answer::Production(ProductionAnswer::AtCa(state));
        let no = |reason: &str| match job.kind() {
            JobKind::HoldCertificate => failed(reason),
            _ => Answer::JobDoubt { reason: clean(reason) },
        };
        match self.in_time(call, self.settings.call_time_out).await {
            Some(CaOutcome::Done) => at_ca(done),
            Some(CaOutcome::AlreadyRevoked) => at_ca(StateAtCa::Revoked),
            Some(CaOutcome::AlreadyExpired) => at_ca(StateAtCa::Expired),
            Some(CaOutcome::Refused { reason }) => no(&reason),
            Some(CaOutcome::Unsupported) => no("the CA does not do that"),
            Some(CaOutcome::Unavailable { reason }) => self.later(job, &reason),
            None => self.later(job, "the CA did not answer in time"),
        }
    }

    /// Finishes cards: PIN and PUK are drawn here, and handed on once.
    pub(super) async fn finish(&self, jobs: Vec<Job>, work: &mut Work<'_>) -> Result<bool, Error> {
        let Some(personalizer) = &self.personalizer else { return self.leave(jobs).await };
        let Waiting { mut at_hand, mut answers, mut about, .. } = self.waiting(jobs, work).await?;
        let mut halted = false;
        if self.certificate_authority.is_none() {
            let certified = |card: &Card| card.production.as_ref().is_some_and(|made| !made.certificates.is_empty());
            let (left, rest): (Vec<_>, Vec<_>) = at_hand.into_iter().partition(|(_, card)| certified(card));
            at_hand = rest;
            if !left.is_empty() {
                halted = self.leave(left.into_iter().map(|(job, _)| job).collect()).await?;
            }
        }
        let (interrupted, at_hand): (Vec<_>, Vec<_>) = at_hand.into_iter().partition(|(job, _)| job.attempt.is_some());
        answers.extend(interrupted.into_iter().map(|(job, _)| (job, doubt("finishing it was interrupted"))));
        let mut certificates = self.to_write(&at_hand).await?;
        for (_, card) in &at_hand {
            let own = certificates.get(&card.id).into_iter().flatten().map(|(certificate, _)| certificate.clone());
            about.add(card.id, own);
        }
        let parts = at_hand.into_iter().map(|(job, card)| {
            let own = certificates.remove(&card.id).unwrap_or_default();
            async move {
                let parts = self.to_finish(&job, &card, own).await;
                (job, card, parts)
            }
        });
        let mut fresh = Vec::new();
        for (job, card, parts) in join_all(parts).await {
            match parts {
                Ok(parts) => fresh.push((job, (card, parts))),
                Err(answer) => answers.push((job, answer)),
            }
        }
        let calls = self.store_attempts(fresh).await?.into_iter().map(|(job, (card, parts))| async move {
            let answer = self.finish_one(personalizer.as_ref(), &job, &card, parts).await;
            (job, answer)
        });
        answers.extend(join_all(calls).await);
        Ok(self.store_all(answers, about, work).await? || halted)
    }

    async fn finish_one(
        &self,
        personalizer: &dyn CardPersonalizer,
        job: &Job,
        card: &Card,
        parts: FinishParts,
    ) -> Answer {
        let reference = reference(job);
        let handed_on = [&parts.pin, &parts.puk].into_iter().flatten().map(|(secret, _)| secret);
        let keys = parts.certificates.iter().filter_map(|certificate| certificate.private_key.as_ref());
        let secrets: Vec<Secret> = handed_on.chain(keys).map(|secret| Secret::new(secret.expose().to_vec())).collect();
        let mut order = FinishOrder::new(&reference, &parts.handle, card);
        order.certificates = parts.certificates;
        order.pin = parts.pin;
        order.puk = parts.puk;
        match self.in_time(personalizer.finish(order), self.settings.production_time_out).await {
            Some(FinishOutcome::Good) => Answer::Production(ProductionAnswer::Finished),
            Some(FinishOutcome::Spoiled { reason }) => failed(&without(&reason, &secrets)),
            Some(FinishOutcome::Unavailable { reason }) => self.not_done(job, &without(&reason, &secrets)),
            Some(FinishOutcome::Unknown { reason }) => doubt(&without(&reason, &secrets)),
            None => doubt("the personalizer did not answer in time"),
        }
    }

    /// The certificates that were made for these cards, each with what the CA says of it now.
    async fn to_write(
        &self,
        at_hand: &[(Job, Card)],
    ) -> Result<BTreeMap<CardId, Vec<(Certificate, CaStatusOutcome)>>, Error> {
        let cards = at_hand.iter().map(|(_, card)| card.id).collect();
        let certificates = self.certificates_of(cards).await.during("loading certificates")?;
        let productions: BTreeSet<JobId> =
            at_hand.iter().filter_map(|(_, card)| Some(card.production.as_ref()?.id)).collect();
        let made = |c: &Certificate| productions.contains(&c.production) && c.state() == CertificateState::Issued;
        let certificates: Vec<Certificate> = certificates.into_values().flatten().filter(made).collect();
        let mut by_card: BTreeMap<CardId, Vec<(Certificate, CaStatusOutcome)>> = BTreeMap::new();
        let said = self.ask_states(&certificates).await;
        for (certificate, said) in certificates.into_iter().zip(said) {
            by_card.entry(certificate.card).or_default().push((certificate, said));
        }
        Ok(by_card)
    }

    /// What the CA says of these certificates, one result each.
    async fn ask_states(&self, certificates: &[Certificate]) -> Vec<CaStatusOutcome> {
        let no_answer =
            |reason: &str| vec![CaStatusOutcome::Unavailable { reason: reason.to_owned() }; certificates.len()];
        let Some(authority) = &self.certificate_authority else { return no_answer(NO_AUTHORITY) };
        if certificates.is_empty() {
            return Vec::new();
        }
        let issued: Vec<IssuedCertificate> =
            certificates.iter().map(|certificate| certificate.issued.clone()).collect();
        match self.in_time(authority.status(&issued), self.settings.call_time_out).await {
            Some(said) if said.len() == issued.len() => said,
            Some(_) => no_answer("the CA gave another number of answers than certificates"),
            None => no_answer("the CA did not answer in time"),
        }
    }

    /// What the personalizer needs to finish a card, or why it is not finished now.
    async fn to_finish(
        &self,
        job: &Job,
        card: &Card,
        certificates: Vec<(Certificate, CaStatusOutcome)>,
    ) -> Result<FinishParts, Answer> {
        let Some(production) = &card.production else { return Err(Answer::Superseded) };
        let handle = production.handle.clone().ok_or_else(|| failed("the card was not prepared"))?;
        let wanted = match production.certificate_end_state {
            CertificateState::OnHold => StateAtCa::OnHold,
            _ => StateAtCa::Valid,
        };
        let mut to_write = Vec::with_capacity(certificates.len());
        for kind in &production.certificates {
            let (certificate, said) = (certificates.iter().find(|(certificate, _)| certificate.kind == *kind))
                .ok_or_else(|| failed(&format!("the certificate for {kind} is missing")))?;
            match said {
                CaStatusOutcome::Known(state) if *state == wanted => {}
                // It was changed at the CA meanwhile.
                CaStatusOutcome::Known(state) => {
                    let (found, wanted) = (production::at_ca_code(*state), production::at_ca_code(wanted));
                    let words = format!("the certificate for {kind} is {found}, {wanted} was expected");
                    return Err(failed(&words.replace('_', " ")));
                }
                CaStatusOutcome::NotFound => {
                    return Err(failed(&format!("the CA does not know the certificate for {kind}")));
                }
                CaStatusOutcome::Unavailable { reason } => return Err(self.later(job, reason)),
            }
            let private_key = self.private_key(job, production, certificate).await?;
            to_write.push(CardCertificate { kind: *kind, certificate: certificate.issued.clone(), private_key });
        }
        Ok(FinishParts {
            handle,
            certificates: to_write,
            pin: self.draw(production.pin).map_err(|error| self.later(job, &error.to_string()))?,
            puk: self.draw(production.puk).map_err(|error| self.later(job, &error.to_string()))?,
        })
    }

    /// The key of a certificate whose key the CA made.
    async fn private_key(
        &self,
        job: &Job,
        production: &Production,
        certificate: &Certificate,
    ) -> Result<Option<Secret>, Answer> {
        if production.requests.contains_key(&certificate.kind) {
            return Ok(None);
        }
        let Some(authority) = &self.certificate_authority else {
            return Err(self.later(job, NO_AUTHORITY));
        };
        match self.in_time(authority.find(&certificate.key), self.settings.call_time_out).await {
            Some(FindCertificateOutcome::Found { private_key: Some(key), .. }) => Ok(Some(key)),
            Some(FindCertificateOutcome::Unavailable { reason }) => Err(self.later(job, &reason)),
            None => Err(self.later(job, "the CA did not answer in time")),
            Some(_) => {
                Err(failed(&format!("the CA does not give the key of the certificate for {}", certificate.kind)))
            }
        }
    }

    fn draw(&self, plan: SecretPlan) -> std::io::Result<Option<(Secret, Delivery)>> {
        if plan.delivery == Delivery::None {
            return Ok(None);
        }
        let drawn = Secret::digits(usize::from(plan.length), |bytes| self.entropy.fill(bytes))?;
        let secret = drawn.ok_or_else(|| std::io::Error::other("the source of random bytes gives nothing random"))?;
        Ok(Some((secret, plan.delivery)))
    }

    /// Has cards put aside that are not finished any more.
    pub(super) async fn discard(&self, jobs: Vec<Job>, work: &mut Work<'_>) -> Result<bool, Error> {
        let Some(personalizer) = &self.personalizer else { return self.leave(jobs).await };
        let calls = jobs.into_iter().map(|job| async move {
            let handle = if let Task::DiscardCard { handle } = &job.task { handle.as_str() } else { "" };
            let answer = match self.in_time(personalizer.discard(handle), self.settings.call_time_out).await {
                Some(DiscardOutcome::Done) => {
                    Answer::Ended { remark: "put aside".to_owned(), noted: None, refused: false }
                }
                Some(DiscardOutcome::Unavailable { reason }) => self.later(&job, &reason),
                None => self.later(&job, "the personalizer did not answer in time"),
            };
            (job, answer)
        });
        let answers = join_all(calls).await;
        self.store_all(answers, About::default(), work).await
    }

    /// The jobs whose card's production waits for them, with the card; answers for the others. Of the cards that are known already,
    /// it takes those of the jobs.
    async fn waiting(&self, jobs: Vec<Job>, work: &mut Work<'_>) -> Result<Waiting, Error> {
        let (mut cards, mut unknown) = (BTreeMap::new(), BTreeSet::new());
        for id in jobs.iter().filter_map(|job| job.card).collect::<BTreeSet<_>>() {
            match work.cards.remove(&id) {
                Some(card) => drop(cards.insert(id, card)),
                None => drop(unknown.insert(id)),
            }
        }
        cards.extend(self.cards_by_id(unknown).await?);
        let holders: BTreeSet<UserId> = cards.values().filter_map(|card| card.holder.clone()).collect();
        let users = self.users_by_id(holders).await?;
        let mut waiting = Waiting {
            at_hand: Vec::with_capacity(jobs.len()),
            answers: Vec::new(),
            asked_for: Vec::new(),
            about: About::of(cards),
        };
        for job in jobs {
            // Two jobs may be about one card: that which it waits for, and one of a production that was given up.
            let card = job.card.and_then(|card: CardId| waiting.about.card(card).cloned());
            match card.filter(|card| production::waits_for(card, &job)) {
                None => waiting.answers.push((job, Answer::Superseded)),
                Some(card) => match unwanted(&card, &users, self.now()) {
                    // A certificate that was ever asked for is got hold of first, so that it can be revoked.
                    Some(reason) if job.kind() == JobKind::IssueCertificate && job.attempts > 0 => {
                        // Where the CA cannot look, a person wants it to be asked for again: that is how it is got hold of.
                        if job.attempt.is_none() && job.unanswered {
                            waiting.at_hand.push((job, card));
                        } else {
                            waiting.asked_for.push((job, reason));
                        }
                    }
                    // What was perhaps done is settled before anything else.
                    Some(reason) if job.attempt.is_none() => waiting.answers.push((job, failed(&reason))),
                    _ => waiting.at_hand.push((job, card)),
                },
            }
        }
        Ok(waiting)
    }

    /// Stores answers; true if all say that it is not for now.
    async fn store_all(&self, answers: Vec<(Job, Answer)>, about: About, work: &mut Work<'_>) -> Result<bool, Error> {
        let not_now = |answer: &Answer| matches!(answer, Answer::Later { .. } | Answer::NotDone { .. });
        let halted = !answers.is_empty() && answers.iter().all(|(_, answer)| not_now(answer));
        self.store(answers, about, work).await?;
        Ok(halted)
    }

    fn later(&self, job: &Job, reason: &str) -> Answer {
        Answer::Later { until: self.back_off(job.setbacks), reason: clean(reason) }
    }

    fn not_done(&self, job: &Job, reason: &str) -> Answer {
        Answer::NotDone { until: self.back_off(job.setbacks), reason: clean(reason) }
    }

    fn pending(&self) -> Answer {
        Answer::Pending { until: self.next_poll() }
    }
}

struct Waiting {
    at_hand: Vec<(Job, Card)>,
    answers: Vec<(Job, Answer)>,
    /// Certificates that were asked for and are wanted no more, and why.
    asked_for: Vec<(Job, String)>,
    /// All cards of the jobs.
    about: About,
}

struct FinishParts {
    handle: String,
    certificates: Vec<CardCertificate>,
    pin: Option<(Secret, Delivery)>,
    puk: Option<(Secret, Delivery)>,
}

fn failed(reason: &str) -> Answer {
    Answer::Production(ProductionAnswer::Failed { reason: clean(reason) })
}

fn doubt(reason: &str) -> Answer {
    Answer::Production(ProductionAnswer::InDoubt { reason: clean(reason) })
}

fn reference(job: &Job) -> String {
    job.attempt.as_ref().map_or_else(String::new, |attempt| attempt.reference.clone())
}

fn named_certificate(job: &Job) -> Option<crate::id::CertificateId> {
    match &job.task {
        Task::HoldCertificate { certificate }
        | Task::RemoveHold { certificate }
        | Task::RevokeCertificate { certificate, .. } => Some(*certificate),
        _ => None,
    }
}

/// Why a card is not made any more whose production has begun: its holder has left, or its validity is over.
fn unwanted(card: &Card, users: &BTreeMap<UserId, User>, now: DateTime<Utc>) -> Option<String> {
    let left = card.holder.as_ref().filter(|holder| !users.get(*holder).is_some_and(User::is_active));
    left.map(|holder| format!("user {holder} is not active any more"))
        .or_else(|| production::require_validity(card, now).err().map(|refusal| refusal.reason))
}

/// A prepared card. In doubt if it has no usable handle: there is a card that nobody can name. What else cannot be used is put
/// aside.
fn checked_card(prepared: Prepared) -> Answer {
    if !is_name(&prepared.handle, LONGEST_NAME) {
        return doubt("the personalizer gave a handle that is none");
    }
    let unusable = |reason: &str| {
        let (handle, reason) = (prepared.handle.clone(), reason.to_owned());
        Answer::Production(ProductionAnswer::Unusable { handle, reason })
    };
    if !prepared.chip_serial.as_deref().is_none_or(|serial| is_name(serial, LONGEST_NAME)) {
        return unusable("the personalizer gave a chip serial that is none");
    }
    if !prepared.requests.values().all(|request| is_pem(request, "CERTIFICATE REQUEST")) {
        return unusable("the personalizer gave a certificate request that is none");
    }
    Answer::Production(ProductionAnswer::Prepared(prepared))
}

/// An issued certificate; in doubt if it cannot be one: only a person can revoke it, by what is said of it here.
fn checked_certificate(issued: IssuedCertificate) -> Answer {
    if is_name(&issued.issuer, LONGEST_ISSUER)
        && is_name(&issued.serial, LONGEST_NAME)
        && is_pem(&issued.pem, "CERTIFICATE")
    {
        Answer::Production(ProductionAnswer::Issued(issued))
    } else {
        let short = |text: &str| text.chars().take(100).collect::<String>();
        let (serial, issuer) = (short(&issued.serial), short(&issued.issuer));
        doubt(&format!("the CA gave a certificate that is none: serial {serial:?} of {issuer:?}"))
    }
}

fn is_name(text: &str, longest: usize) -> bool {
    !text.trim().is_empty() && !text.contains(char::is_control) && text.chars().count() <= longest
}

/// Whether a text is one block of PEM with such a label, and surely no private key.
fn is_pem(text: &str, label: &str) -> bool {
    let begins: Vec<&str> = text.lines().filter(|line| line.starts_with("-----BEGIN ")).collect();
    text.len() <= LONGEST_PEM
        && !text.contains('\0')
        && !text.contains("PRIVATE KEY")
        && matches!(begins[..], [line] if line.trim_end().ends_with(&format!("{label}-----")))
}

/// A reason without the secrets that the engine has just handed on: a machine may repeat them in its words, or lines of a key.
fn without(reason: &str, secrets: &[Secret]) -> String {
    if reason.contains("PRIVATE KEY") {
        return reason.to_owned(); // `clean` leaves nothing of it
    }
    let texts = secrets.iter().filter_map(|secret| std::str::from_utf8(secret.expose()).ok());
    let mut lines: Vec<&str> = texts.flat_map(str::lines).map(str::trim).filter(|line| !line.is_empty()).collect();
    // What holds another goes first, so that nothing of it is left.
    lines.sort_by_key(|line| std::cmp::Reverse(line.len()));
    lines.into_iter().fold(reason.to_owned(), |reason, line| reason.replace(line, "…"))
}
