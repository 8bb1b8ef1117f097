//! The local production of a card as a chain of jobs: prepare → issue each certificate → hold each, where the end state is on
//! hold → finish. Pure functions from job, card and answer to a change set; each says which job comes next.
//!
//! Our state of a certificate is what our processes decided; what the CA last said stands beside it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::card::{Busy, Card, CardState, Failure, FailurePhase};
use crate::certificate::{
    Certificate, CertificateKind, CertificateState, IssuedCertificate, RevocationReason, StateAtCa,
};
use crate::change_set::{ChangeSet, Reservation};
use crate::history::{ObjectId, Stamp, Why};
use crate::host::Prepared;
use crate::id::{CardId, CertificateId, JobId, UserId};
use crate::job::{Job, JobState, Task};
use crate::options::{
    CARD_END_STATE, CERTIFICATE_END_STATE, CERTIFICATES, CardEndState, CertificateChoice, CertificateEndState,
    MULTIPLE_ACTIVE, PIN_DELIVERY, PIN_LENGTH, PUK_DELIVERY, PUK_LENGTH, PinDelivery, PukDelivery, ResolvedOptions,
};
use crate::process::{Field, FieldKind, Outcome, Plan, PlanContext, Refusal, RefusalCode};
use crate::production::{Delivery, Production, SecretPlan};
use crate::production_type::EMAIL;
use crate::state_graph::{State as _, TransitionError};

/// What one link of a production, or one call to the CA, came to.
#[derive(Clone, Debug)]
pub(crate) enum ProductionAnswer {
    /// The card is at hand.
    Prepared(Prepared),
    /// A card is at hand that is of no use: it is put aside, and the production fails.
    Unusable { handle: String, reason: String },
    /// The CA made the certificate.
    Issued(IssuedCertificate),
    /// What the CA now says of the certificate that the job names.
    AtCa(StateAtCa),
    /// The card is complete.
    Finished,
    /// The production cannot go on: the card fails.
    Failed { reason: String },
    /// The production does not go on, and a certificate that was asked for may still come: it is looked for.
    Unwanted { reason: String },
    /// Something may have happened that only a person can see.
    InDoubt { reason: String },
}

/// What an answer changes, and the jobs to perform next.
pub(crate) struct Applied {
    pub(crate) changes: ChangeSet,
    pub(crate) outcome: Outcome,
    pub(crate) next: Vec<JobId>,
}

/// The options that every production reads.
pub(crate) const OPTIONS: [&str; 8] = [
    PIN_LENGTH.name(),
    PUK_LENGTH.name(),
    PIN_DELIVERY.name(),
    PUK_DELIVERY.name(),
    CERTIFICATES.name(),
    CARD_END_STATE.name(),
    CERTIFICATE_END_STATE.name(),
    MULTIPLE_ACTIVE.name(),
];

const YES: &str = "yes";
const NO: &str = "no";

/// One field for each kind of certificate that the operator is asked about. Where a function decides for each card, it may ask
/// about any of them.
pub(crate) fn certificate_fields(options: &ResolvedOptions) -> Vec<Field> {
    let choices = options.get(CERTIFICATES).ok();
    let asked = CertificateKind::ALL.into_iter().filter_map(|kind| {
        let yes_or_no = FieldKind::Choice(vec![YES.to_owned(), NO.to_owned()]);
        let Some(choices) = &choices else {
            return Some(Field::optional(
                field_of(kind),
                format!("Certificate for {kind}, where it is asked"),
                yes_or_no,
            ));
        };
        let preset = match choices.get(kind.name())? {
            CertificateChoice::Ask => NO,
            CertificateChoice::AskOn => YES,
            CertificateChoice::Yes | CertificateChoice::No => return None,
        };
        Some(Field::required(field_of(kind), format!("Certificate for {kind}"), yes_or_no).preset(preset))
    });
    asked.collect()
}

fn field_of(kind: CertificateKind) -> String {
    format!("certificate.{kind}")
}

/// Begins the production of a card that is approved or failed.
pub(crate) fn begin(mut card: Card, active: &[CardId], item: &str, context: &PlanContext<'_>) -> Result<Plan, Refusal> {
    require_validity(&card, context.stamp.at)?;
    let certificates = chosen_certificates(context)?;
    if !certificates.is_empty() {
        require_attribute(&card, "commonName", "its certificates")?;
    }
    let equipment = &context.rules.equipment;
    if !equipment.personalizer {
        return Err(Refusal::new(RefusalCode::NotEquipped, "this office has no card personalizer"));
    }
    if !equipment.certificate_authority && !certificates.is_empty() {
        return Err(Refusal::new(RefusalCode::NotEquipped, "this office has no certificate authority"));
    }
    let card_end_state = match context.option(CARD_END_STATE)? {
        CardEndState::Issued => CardState::Issued,
        CardEndState::Active => CardState::Active,
    };
    let certificate_end_state = match context.option(CERTIFICATE_END_STATE)? {
        CertificateEndState::OnHold => CertificateState::OnHold,
        CertificateEndState::Valid => CertificateState::Valid,
    };
    let mut changes = ChangeSet::new();
    if card_end_state == CardState::Active {
        take_active_place(&mut changes, &mut card, active, context)?;
    }
    let pin = match context.option(PIN_DELIVERY)? {
        PinDelivery::Print => Delivery::Print,
        PinDelivery::Email => Delivery::Email,
        PinDelivery::NoPin => Delivery::None,
    };
    let puk = match context.option(PUK_DELIVERY)? {
        PukDelivery::Print => Delivery::Print,
        PukDelivery::Email => Delivery::Email,
        PukDelivery::NoPuk => Delivery::None,
    };
    if [pin, puk].contains(&Delivery::Email) {
        require_attribute(&card, EMAIL, "PIN and PUK by e-mail")?;
    }
    let id = JobId::derive(context.run, item, "prepare card");
    card.production = Some(Production {
        id,
        certificates,
        card_end_state,
        certificate_end_state,
        pin: SecretPlan { length: context.option(PIN_LENGTH)?, delivery: pin },
        puk: SecretPlan { length: context.option(PUK_LENGTH)?, delivery: puk },
        handle: None,
        requests: BTreeMap::new(),
    });
    card.busy = Some(Busy { job: id, since: context.stamp.at, in_doubt: false });
    let reference = id.to_string();
    changes.note_card(&mut card, &context.stamp, Why::code("production_begun").about(&reference));
    changes.jobs.push(Job::new(id, Task::PrepareCard, Some(card.id), &context.stamp));
    let outcome = Outcome::Done { object: Some(ObjectId::Card(card.id)), state: "begun".into() };
    changes.put_card(card);
    Ok(Plan::store(changes, outcome).then_perform(id))
}

/// Refuses a card whose validity is over.
pub(crate) fn require_validity(card: &Card, at: DateTime<Utc>) -> Result<(), Refusal> {
    require_later(card.valid_until, at, || format!("card {}", card.id))
}

/// Refuses certificates whose validity is over.
pub(crate) fn require_valid_certificates(certificates: &[Certificate], at: DateTime<Utc>) -> Result<(), Refusal> {
    certificates.iter().try_for_each(|certificate| {
        let what = || format!("the certificate for {} of card {}", certificate.kind, certificate.card);
        require_later(Some(certificate.issued.valid_until), at, what)
    })
}

fn require_later(until: Option<DateTime<Utc>>, at: DateTime<Utc>, what: impl Fn() -> String) -> Result<(), Refusal> {
    match until {
        Some(until) if until <= at => {
            let until = until.format("%F %T UTC");
            Err(Refusal::new(RefusalCode::Expired, format!("{} was valid until {until}", what())))
        }
        _ => Ok(()),
    }
}

/// Refuses a card without a value that its production needs.
fn require_attribute(card: &Card, name: &str, what_for: &str) -> Result<(), Refusal> {
    if card.attributes.get(name).is_some_and(|value| !value.trim().is_empty()) {
        return Ok(());
    }
    let reason = format!("card {} has no `{name}`, which is needed for {what_for}", card.id);
    Err(Refusal::new(RefusalCode::CardElement, reason))
}

/// Keeps the user's place for an active card, unless several are allowed.
pub(crate) fn take_active_place(
    changes: &mut ChangeSet,
    card: &mut Card,
    active: &[CardId],
    context: &PlanContext<'_>,
) -> Result<(), Refusal> {
    let several = context.option(MULTIPLE_ACTIVE)?;
    let Some(holder) = card.holder.clone() else { return Ok(()) };
    if let Some(other) = active.first() {
        // The first keeps the place also where several are allowed, so that the rule can be switched back at any time.
        if several {
            return Ok(());
        }
        return Err(Refusal::new(
            RefusalCode::ActiveCard,
            format!("user {holder} already has an active card: card {other}"),
        ));
    }
    changes.reserve_for(card, active_key(&holder));
    Ok(())
}

fn active_key(holder: &UserId) -> String {
    format!("{}{holder}", Card::ACTIVE_KEY)
}

fn chosen_certificates(context: &PlanContext<'_>) -> Result<Vec<CertificateKind>, Refusal> {
    let choices = context.option(CERTIFICATES)?;
    let mut chosen = Vec::new();
    for kind in CertificateKind::ALL {
        let answer = context.answer(&field_of(kind));
        let wanted = match choices.get(kind.name()) {
            None | Some(CertificateChoice::No) => false,
            Some(CertificateChoice::Yes) => true,
            Some(CertificateChoice::Ask) => answer == YES,
            Some(CertificateChoice::AskOn) => answer != NO,
        };
        if wanted {
            if !context.rules.certificate_profiles.contains_key(&kind) {
                return Err(Refusal::new(
                    RefusalCode::Certificate,
                    format!("the house has no certificate profile for {kind}"),
                ));
            }
            chosen.push(kind);
        }
    }
    Ok(chosen)
}

/// Whether the card's production waits for this job.
pub(crate) fn waits_for(card: &Card, job: &Job) -> bool {
    card.production.is_some()
        && card.busy.as_ref().is_some_and(|busy| busy.job == job.id)
        && matches!(job.state, JobState::Open | JobState::InDoubt)
}

/// The id of the certificate of this kind in a production.
pub(crate) fn certificate_id(production: JobId, kind: CertificateKind) -> CertificateId {
    CertificateId::new(uuid::Uuid::new_v5(&production.uuid(), kind.name().as_bytes()))
}

/// Our key at the CA for the certificate that this job has issued.
pub(crate) fn certificate_key(job: &Job) -> String {
    job.id.uuid().simple().to_string()
}

/// The key under which a certificate is kept: no CA gives a serial number twice.
pub(crate) fn serial_key(issued: &IssuedCertificate) -> String {
    let mut name = Uuid::new_v5(&Uuid::NAMESPACE_X500, issued.issuer.as_bytes());
    name = Uuid::new_v5(&name, issued.serial.to_ascii_lowercase().as_bytes());
    format!("certificate/{}", name.simple())
}

/// Stores the answer to a link of the chain. The card must wait for the job. `certificates` are those of the card, `held` who
/// holds which of the keys that the answer brings.
pub(crate) fn link_answered(
    mut job: Job,
    card: Card,
    certificates: Vec<Certificate>,
    held: &BTreeMap<String, String>,
    answer: ProductionAnswer,
    stamp: &Stamp<'_>,
) -> Result<Applied, TransitionError> {
    job.claim = None;
    job.setbacks = 0;
    let done = done_remark(&answer);
    let (changes, Some(production)) = (ChangeSet::new(), card.production.clone()) else {
        return Ok(Applied { changes: ChangeSet::new(), outcome: Outcome::card(&card), next: Vec::new() });
    };
    let mut link = Link { changes, next: Vec::new(), job, card, production, stamp: *stamp };
    let outcome = match answer {
        ProductionAnswer::Prepared(prepared) => link.prepared(prepared, held)?,
        ProductionAnswer::Unusable { handle, reason } => match held.get(&Card::handle_key(&handle)) {
            Some(holder) => link.in_doubt(&called_twice(&handle, holder)),
            None => {
                link.production.handle = Some(handle);
                link.failed(reason)?
            }
        },
        ProductionAnswer::Issued(issued) => link.issued(issued, held),
        ProductionAnswer::AtCa(state) => link.held(certificates, state)?,
        ProductionAnswer::Finished => link.finished(certificates)?,
        ProductionAnswer::Failed { reason } => link.failed(reason)?,
        ProductionAnswer::Unwanted { reason } => {
            let outcome = link.failed(reason)?;
            link.job.state = JobState::Open;
            link.job.due = stamp.at;
            outcome
        }
        ProductionAnswer::InDoubt { reason } => link.in_doubt(&reason),
    };
    let Link { mut changes, next, mut job, mut card, .. } = link;
    if job.state != JobState::InDoubt {
        job.attempt = None;
        job.remark = job.remark.or(done);
    }
    if card.production.is_some() {
        changes.note_card(&mut card, stamp, Why::code(noted(&outcome, &job)).about(&job.id.to_string()));
    }
    changes.jobs.push(job);
    changes.put_card(card);
    Ok(Applied { changes, outcome, next })
}

/// What is kept with a link that went well, by which its answer is known again should it be stored a second time.
pub(crate) fn done_remark(answer: &ProductionAnswer) -> Option<String> {
    match answer {
        ProductionAnswer::Prepared(prepared) => Some(format!("prepared as {}", prepared.handle)),
        ProductionAnswer::Issued(issued) => Some(format!("issued as {}", issued.serial)),
        ProductionAnswer::Finished => Some("finished".to_owned()),
        ProductionAnswer::Unusable { reason, .. }
        | ProductionAnswer::Failed { reason }
        | ProductionAnswer::Unwanted { reason } => Some(reason.clone()),
        ProductionAnswer::AtCa(_) | ProductionAnswer::InDoubt { .. } => None,
    }
}

/// One link that was answered.
struct Link<'a> {
    changes: ChangeSet,
    next: Vec<JobId>,
    job: Job,
    card: Card,
    production: Production,
    stamp: Stamp<'a>,
}

impl Link<'_> {
    fn prepared(&mut self, prepared: Prepared, held: &BTreeMap<String, String>) -> Result<Outcome, TransitionError> {
        let key = Card::handle_key(&prepared.handle);
        if let Some(holder) = held.get(&key) {
            return Ok(self.in_doubt(&called_twice(&prepared.handle, holder)));
        }
        self.production.handle = Some(prepared.handle);
        let wanted: BTreeSet<_> = self.production.certificates.iter().copied().collect();
        if !prepared.requests.is_empty() && !prepared.requests.keys().copied().eq(wanted) {
            return self.failed("the personalizer gave requests for other certificates than wanted".to_owned());
        }
        self.production.requests = prepared.requests;
        if let Some(serial) = prepared.chip_serial {
            let chip = Card::chip_key(&serial);
            if let Some(holder) = held.get(&chip) {
                return self.failed(format!("the chip serial {serial} is already that of card {holder}"));
            }
            self.changes.reserve_for(&mut self.card, chip);
            self.card.chip_serial = Some(serial);
        }
        self.changes.reserve_for(&mut self.card, key);
        self.done();
        self.go_on();
        Ok(self.under_way())
    }

    fn issued(&mut self, issued: IssuedCertificate, held: &BTreeMap<String, String>) -> Outcome {
        if let Some(owner) = held.get(&serial_key(&issued)) {
            return self.in_doubt(&given_twice(&issued, owner));
        }
        let Task::IssueCertificate { kind, .. } = self.job.task else { return self.under_way() };
        put_issued(&mut self.changes, &self.job, self.card.id, kind, self.production.id, issued, &self.stamp);
        self.done();
        self.go_on();
        self.under_way()
    }

    fn held(&mut self, certificates: Vec<Certificate>, state: StateAtCa) -> Result<Outcome, TransitionError> {
        let Task::HoldCertificate { certificate: id } = self.job.task else { return Ok(self.under_way()) };
        if let Some(mut certificate) = certificates.into_iter().find(|certificate| certificate.id == id) {
            self.changes.history.push(certificate.note(&self.stamp, Why::code(at_ca_code(state))));
            certificate.at_ca = state;
            self.changes.certificates.push(certificate);
        }
        if state != StateAtCa::OnHold {
            return self.failed(format!("certificate {id} could not be put on hold: {}", at_ca_code(state)));
        }
        self.done();
        self.go_on();
        Ok(self.under_way())
    }

    fn finished(&mut self, certificates: Vec<Certificate>) -> Result<Outcome, TransitionError> {
        self.done();
        self.card.production = None;
        self.card.produced = Some(self.production.id);
        self.card.busy = None;
        self.card.failure = None;
        let why = Why::code("produced");
        self.changes.move_card(&mut self.card, self.production.card_end_state, &self.stamp, why)?;
        let made = |certificate: &Certificate| {
            certificate.production == self.production.id && certificate.state() == CertificateState::Issued
        };
        for certificate in certificates.into_iter().filter(made) {
            self.changes.move_certificate(certificate, self.production.certificate_end_state, &self.stamp, why)?;
        }
        Ok(Outcome::card(&self.card))
    }

    /// The card fails; what was prepared is put aside. Its certificates stay issued until the sweep revokes them.
    fn failed(&mut self, reason: String) -> Result<Outcome, TransitionError> {
        self.done();
        self.job.remark = Some(reason.clone());
        self.card.production = None;
        self.card.busy = None;
        self.card.chip_serial = None;
        let why = Why::code("production_failed").because(&reason);
        if self.card.state() == CardState::Failed {
            self.changes.note_card(&mut self.card, &self.stamp, why);
            // It stays failed, and no longer keeps a chip or a place for an active card.
            self.changes.give_back(&mut self.card);
        } else {
            self.changes.move_card(&mut self.card, CardState::Failed, &self.stamp, why)?;
        }
        self.card.failure = Some(Failure { phase: FailurePhase::LocalProduction, cause: reason });
        if let Some(handle) = self.production.handle.take() {
            let id = self.job.follow_up("discard card");
            put_aside(&mut self.changes, id, handle, self.card.id, &self.stamp);
            self.next.push(id);
        }
        Ok(Outcome::card(&self.card))
    }

    fn in_doubt(&mut self, reason: &str) -> Outcome {
        self.job = self.job.clone().in_doubt(reason);
        if let Some(busy) = &mut self.card.busy {
            busy.in_doubt = true;
        }
        Outcome::InDoubt { job: self.job.id, card: Some(self.card.id), reason: reason.to_owned() }
    }

    fn done(&mut self) {
        self.job.state = JobState::Done;
        self.job.remark = None;
    }

    /// The next link becomes the card's open job.
    fn go_on(&mut self) {
        let task = match &self.job.task {
            Task::PrepareCard => self.issue_after(None),
            Task::IssueCertificate { kind, .. } => self.issue_after(Some(*kind)),
            Task::HoldCertificate { certificate } => self.hold_after(Some(*certificate)),
            _ => Task::FinishCard,
        };
        let id = self.job.follow_up(match &task {
            Task::IssueCertificate { kind, .. } => kind.name(),
            Task::HoldCertificate { .. } => "hold certificate",
            _ => "finish card",
        });
        self.changes.jobs.push(Job::new(id, task, Some(self.card.id), &self.stamp));
        self.next.push(id);
        self.card.busy = Some(Busy { job: id, since: self.stamp.at, in_doubt: false });
        self.card.production = Some(self.production.clone());
    }

    fn issue_after(&self, before: Option<CertificateKind>) -> Task {
        match after(&self.production.certificates, before) {
            Some(kind) => Task::IssueCertificate { kind, production: self.production.id },
            None => self.hold_after(None),
        }
    }

    fn hold_after(&self, before: Option<CertificateId>) -> Task {
        if self.production.certificate_end_state != CertificateState::OnHold {
            return Task::FinishCard;
        }
        let ids: Vec<_> =
            self.production.certificates.iter().map(|kind| certificate_id(self.production.id, *kind)).collect();
        after(&ids, before).map_or(Task::FinishCard, |certificate| Task::HoldCertificate { certificate })
    }

    /// The production goes on: what counts for the item is how it ends.
    fn under_way(&self) -> Outcome {
        Outcome::Unchanged { state: self.card.state().name().into() }
    }
}

/// What comes after an element; the first after none.
fn after<T: Copy + PartialEq>(list: &[T], before: Option<T>) -> Option<T> {
    match before {
        None => list.first().copied(),
        Some(before) => list.iter().copied().skip_while(|element| *element != before).nth(1),
    }
}

/// What is noted of a card whose production goes on.
fn noted(outcome: &Outcome, job: &Job) -> &'static str {
    match (outcome, &job.task) {
        (Outcome::InDoubt { .. }, _) => "in_doubt",
        (_, Task::PrepareCard) => "card_prepared",
        (_, Task::IssueCertificate { .. }) => "certificate_issued",
        (_, Task::HoldCertificate { .. }) => "certificate_held",
        _ => "production_noted",
    }
}

pub(crate) fn at_ca_code(state: StateAtCa) -> &'static str {
    match state {
        StateAtCa::Valid => "valid_at_ca",
        StateAtCa::OnHold => "on_hold_at_ca",
        StateAtCa::Revoked => "revoked_at_ca",
        StateAtCa::Expired => "expired_at_ca",
    }
}

/// Revokes a certificate: ours at once, the CA's by a job that is stored with it.
pub(crate) fn revoke(
    changes: &mut ChangeSet,
    certificate: Certificate,
    reason: RevocationReason,
    context: &PlanContext<'_>,
    why: Why<'_>,
) -> Result<Option<JobId>, TransitionError> {
    let job = (certificate.at_ca != StateAtCa::Revoked).then(|| {
        let id = JobId::derive(context.run, &certificate.id.to_string(), "revoke certificate");
        let task = Task::RevokeCertificate { certificate: certificate.id, reason };
        Job::new(id, task, Some(certificate.card), &context.stamp)
    });
    changes.move_certificate(certificate, CertificateState::Revoked, &context.stamp, why)?;
    let id = job.as_ref().map(|job| job.id);
    changes.jobs.extend(job);
    Ok(id)
}

/// Stores a certificate that came when nobody waited for it any more: as issued, so that the sweep revokes it.
pub(crate) fn late_certificate(
    mut job: Job,
    known: &[Certificate],
    held: &BTreeMap<String, String>,
    issued: IssuedCertificate,
    stamp: &Stamp<'_>,
) -> (ChangeSet, Outcome) {
    let mut changes = ChangeSet::new();
    let mut remark = "the certificate came when nobody waited for it any more".to_owned();
    if let (Task::IssueCertificate { kind, production }, Some(card)) = (&job.task, job.card) {
        let id = certificate_id(*production, *kind);
        if !known.iter().any(|certificate| certificate.id == id) {
            match held.get(&serial_key(&issued)) {
                Some(owner) => remark = given_twice(&issued, owner),
                None => put_issued(&mut changes, &job, card, *kind, *production, issued, stamp),
            }
        }
    }
    if matches!(job.state, JobState::Open | JobState::InDoubt) {
        job.state = JobState::Done;
        job.claim = None;
        job.attempt = None;
        job.remark = Some(remark);
        changes.jobs.push(job);
    }
    (changes, Outcome::Unchanged { state: CertificateState::Issued.name().into() })
}

/// Adds a certificate that the CA has made, and keeps its serial number.
fn put_issued(
    changes: &mut ChangeSet,
    job: &Job,
    card: CardId,
    kind: CertificateKind,
    production: JobId,
    issued: IssuedCertificate,
    stamp: &Stamp<'_>,
) {
    let id = certificate_id(production, kind);
    changes.takes.push(Reservation { key: serial_key(&issued), owner: id.to_string() });
    let (certificate, entry) = Certificate::issued(id, card, kind, production, certificate_key(job), issued, stamp);
    changes.certificates.push(certificate);
    changes.history.push(entry);
}

/// Owes the personalizer that a card is put aside. Until it is, its handle belongs to the job.
pub(crate) fn put_aside(changes: &mut ChangeSet, id: JobId, handle: String, card: CardId, stamp: &Stamp<'_>) {
    changes.takes.push(Reservation { key: Card::handle_key(&handle), owner: id.to_string() });
    changes.jobs.push(Job::new(id, Task::DiscardCard { handle }, Some(card), stamp));
}

/// Gives the handle back once a card is put aside, or nobody will.
pub(crate) fn is_put_aside(changes: &mut ChangeSet, job: &Job) {
    if let Task::DiscardCard { handle } = &job.task {
        changes.releases.push(Reservation { key: Card::handle_key(handle), owner: job.id.to_string() });
    }
}

/// What is wrong with a personalizer that gives a handle twice at a time.
fn called_twice(handle: &str, holder: &str) -> String {
    format!("the personalizer calls it {handle}, which is still held by {holder}")
}

/// What is wrong with a CA that gives a serial number twice, as far as is known here.
fn given_twice(issued: &IssuedCertificate, owner: &str) -> String {
    format!("the CA gave serial {} of {}, which is already that of certificate {owner}", issued.serial, issued.issuer)
}

/// Stores what the CA says of a certificate after a revocation, or after a hold was removed. Ours follows where the CA has
/// gone further than we have.
pub(crate) fn at_ca(
    mut job: Job,
    certificate: Option<Certificate>,
    state: StateAtCa,
    stamp: &Stamp<'_>,
) -> Result<(ChangeSet, Outcome), TransitionError> {
    let mut changes = ChangeSet::new();
    job.claim = None;
    job.state = JobState::Done;
    job.remark = Some(at_ca_code(state).replace('_', " "));
    changes.jobs.push(job);
    if let Some(mut certificate) = certificate {
        let why = Why::code(at_ca_code(state));
        // An answer that was long on its way does not undo what ended the certificate meanwhile.
        if !matches!(certificate.at_ca, StateAtCa::Revoked | StateAtCa::Expired) {
            certificate.at_ca = state;
        }
        let ours = match state {
            StateAtCa::Revoked => CertificateState::Revoked,
            StateAtCa::Expired => CertificateState::Expired,
            StateAtCa::Valid | StateAtCa::OnHold => certificate.state(),
        };
        if crate::certificate::certificate_graph().allows(certificate.state(), ours) {
            changes.move_certificate(certificate, ours, stamp, why)?;
        } else {
            changes.history.push(certificate.note(stamp, why));
            changes.certificates.push(certificate);
        }
    }
    Ok((changes, Outcome::Unchanged { state: at_ca_code(state).into() }))
}
