//! What people and the background services do in the office, step by step.

use std::collections::BTreeMap;
use std::error::Error;

use cardwright::host::Clock as _;
use cardwright::process::{Answer, Filter, ItemId, Outcome, RefusalCode};
use cardwright::{Card, CardId, CardState, Interruption, Job, JobId, JobKind, Report};

use crate::office::{HOUR, Office};
use crate::results::describe;
use crate::screen::{Bar, counted, detail, heading, line, row};

pub(crate) const ORDER: &str = "CardsAddonExtProdBoProcOrderMultiple";
pub(crate) const ABORT: &str = "CardsAddonExtProdProcAbort";
pub(crate) const UPDATE: &str = "CardsAddonExtProdProcUpdate";
pub(crate) const SETTLE: &str = "CardsProcResolveDoubt";
const SYNC_ORDERS: &str = "CardsAddonExtProdBatchSyncOrder";
const SYNC_STATUS: &str = "CardsAddonExtProdBatchSyncStatus";

/// After so many half days the orders that are still open are left to the next start.
const ROUNDS: u32 = 60;

impl Office {
    /// The batch: all that the search finds. Under the id of a run that was begun, it does what is left of it.
    pub(crate) async fn order_for_everybody(&self) -> Result<(), Box<dyn Error>> {
        if self.people == 0 {
            return Ok(());
        }
        let people = counted(self.people, "person", "people");
        heading(format!("Going through {people} to order cards, in run {}", self.run))?;
        let run = self.engine.open_as(self.run, ORDER, &self.operator).await?;
        let mut execution = self.engine.next(&run, Answer::all(Filter::Users(Default::default()))).await?;
        let mut examples = BTreeMap::new();
        let mut bar = Bar::new("ordering", self.people);
        while let Some(chunk) = execution.next_chunk().await? {
            for (item, outcome) in chunk {
                if let Outcome::Refused(refusal) = outcome {
                    let named = refusal.reason.contains(&item.to_string());
                    let reason = if named { refusal.reason } else { format!("{item}: {}", refusal.reason) };
                    examples.entry(refusal.code).or_insert(reason);
                }
            }
            bar.show(execution.progress().items);
        }
        bar.end();
        let report = execution.report();
        if report.done_earlier > 0 {
            row(report.done_earlier, "done by an earlier start of this run")?;
        }
        for (state, count) in &report.done {
            row(*count, state)?;
        }
        for (code, count) in &report.refused {
            row(*count, format!("refused: {code}"))?;
            let example = examples.get(code).map_or("", String::as_str);
            detail(format!("such as: {}", self.with_numbers(example).await?))?;
        }
        finished(report)
    }

    /// Takes one order out of the queue, unless that was done before.
    pub(crate) async fn abort_one(&self) -> Result<(), Box<dyn Error>> {
        if !self.with_mishaps || self.any(CardState::Aborted).await?.is_some() {
            return Ok(());
        }
        let Some(card) = self.any(CardState::Processing).await? else { return Ok(()) };
        self.one_card(ABORT, card.id).await?;
        heading(format!("Aborted one order before it was sent: {}", describe(&self.card(card.id).await?)))?;
        Ok(())
    }

    /// The background sync, until the queue is empty but for what is held back.
    pub(crate) async fn send_orders(&self) -> Result<(), Box<dyn Error>> {
        let waiting = self.open_jobs(&[JobKind::PlaceOrder]).await?;
        let count = waiting.len() as u64;
        if count > 0 {
            let orders = counted(count, "order", "orders");
            heading(format!("Sending {orders} to the bureau, which may refuse, be away, or lose its answer"))?;
        }
        let mut held: BTreeMap<JobId, String> = BTreeMap::new();
        let mut bar = Bar::new("sending", count);
        loop {
            let open = self.open_jobs(&[JobKind::PlaceOrder, JobKind::Notify]).await?;
            held.retain(|held, _| open.iter().any(|job| job.id == *held));
            if open.len() == held.len() {
                break;
            }
            for (item, outcome) in self.sync(SYNC_ORDERS, JobKind::PlaceOrder, &mut bar).await? {
                // The user of the order is not active any more: it waits until that changes.
                if let (ItemId::Job(job), Outcome::Refused(refusal)) = (item, outcome)
                    && refusal.code == RefusalCode::HeldBack
                {
                    held.insert(job, refusal.reason);
                }
            }
            self.clock.advance(HOUR / 20);
        }
        bar.end();
        self.balance(&waiting, &held).await
    }

    /// What became of the orders that waited: the rows add up to them.
    async fn balance(&self, waiting: &[Job], held: &BTreeMap<JobId, String>) -> Result<(), Box<dyn Error>> {
        let (mut accepted, mut in_doubt) = (0, 0);
        let mut refused: BTreeMap<String, u64> = BTreeMap::new();
        for card in self.cards_of(waiting).await? {
            match card.state() {
                CardState::Processing => in_doubt += u64::from(card.busy.is_some_and(|busy| busy.in_doubt)),
                CardState::Failed => {
                    *refused.entry(card.failure.map_or_else(String::new, |it| it.cause)).or_default() += 1
                }
                _ => accepted += 1,
            }
        }
        if accepted > 0 {
            row(accepted, "accepted")?;
        }
        for (cause, count) in refused {
            row(count, format!("refused: {cause}"))?;
        }
        if in_doubt > 0 {
            let doubts = self.engine.doubts(None, 1000).await?;
            let known = doubts.iter().filter(|job| waiting.iter().any(|sent| sent.id == job.id));
            let known = known.filter(|job| self.order_id_of(job).is_some()).count();
            row(in_doubt, format!("in doubt: never answered, {known} of them on the bureau's books"))?;
        }
        if let Some(reason) = held.values().next() {
            let such_as = if held.len() > 1 { ", such as" } else { "" };
            row(held.len() as u64, format!("held back{such_as}: {reason}"))?;
        }
        Ok(())
    }

    /// Asks the bureau, as a person would by telephone, under which order id it has what this job sent.
    fn order_id_of(&self, job: &Job) -> Option<String> {
        let reference = &job.attempt.as_ref()?.reference;
        self.bureau.ledger().into_iter().find(|entry| entry.reference == *reference).map(|entry| entry.order_id)
    }

    /// What is in doubt is never sent again by itself: a person asks the bureau, and says what became of it. (A simulated
    /// bureau ends with its process; of what an earlier one took and never answered, nobody knows any more.)
    pub(crate) async fn settle_one(&self) -> Result<(), Box<dyn Error>> {
        let doubts = self.engine.doubts(None, 1000).await?;
        let found = doubts.iter().find_map(|job| Some((job, job.card?, self.order_id_of(job)?)));
        let Some((job, card, order_id)) = found else { return Ok(()) };
        let reference = job.attempt.as_ref().map_or("", |attempt| attempt.reference.as_str());
        let count = counted(doubts.len() as u64, "doubt", "doubts");
        heading(format!("{} settles one of {count} with {SETTLE}", self.producer.id))?;
        line(format!("  asked for reference {reference}, the bureau found it"))?;
        let answer = Answer::ids([ItemId::Card(card)])
            .with("doubt", job.doubt())
            .with("resolution", "accepted")
            .with("orderId", order_id)
            .with("reason", "found on the bureau's books");
        for (field, value) in &answer.values {
            line(format!("  {field:<10} {value}"))?;
        }
        let run = self.engine.open(SETTLE, &self.producer).await?;
        finished(&self.engine.next(&run, answer).await?.finish().await?)?;
        line(format!("  now it is {}", describe(&self.card(card).await?)))?;
        Ok(())
    }

    /// A forced update: the status sync would do the same later.
    pub(crate) async fn update_one(&self) -> Result<Option<Card>, Box<dyn Error>> {
        let Some(card) = self.any(CardState::Ordered).await? else { return Ok(None) };
        self.clock.advance(20 * HOUR);
        self.one_card(UPDATE, card.id).await?;
        let now = self.card(card.id).await?;
        heading(format!(
            "Updated one order by hand, 20 hours later: it was {}, now it is {}",
            card.state(),
            describe(&now)
        ))?;
        Ok(Some(now))
    }

    /// The background sync, twice a day until every card is made or failed.
    pub(crate) async fn follow_orders(&self) -> Result<(), Box<dyn Error>> {
        let followed = self.open_jobs(&[JobKind::TrackOrder]).await?;
        let count = followed.len() as u64;
        if count == 0 {
            return Ok(());
        }
        heading(format!("Following {} at the bureau", counted(count, "order", "orders")))?;
        let mut bar = Bar::new("produced", count);
        let start = self.clock.now();
        for _ in 0..ROUNDS {
            if self.open_jobs(&[JobKind::TrackOrder]).await?.is_empty() {
                break;
            }
            self.clock.advance(12 * HOUR);
            self.sync(SYNC_STATUS, JobKind::TrackOrder, &mut bar).await?;
        }
        bar.end();
        let days = (self.clock.now() - start).num_hours() as f64 / 24.0;
        let open = self.open_jobs(&[JobKind::TrackOrder]).await?.len() as u64;
        let rest = if open > 0 { format!(", {open} of them left to the next start") } else { String::new() };
        line(format!("  {days:.1} days later{rest}"))?;
        let mut states: BTreeMap<CardState, u64> = BTreeMap::new();
        for card in self.cards_of(&followed).await? {
            *states.entry(card.state()).or_default() += 1;
        }
        for (state, count) in states {
            row(count, state.to_string())?;
        }
        Ok(())
    }

    /// Runs a process on one card.
    async fn one_card(&self, process: &str, card: CardId) -> Result<(), Box<dyn Error>> {
        let run = self.engine.open(process, &self.operator).await?;
        finished(&self.engine.next(&run, Answer::ids([ItemId::Card(card)])).await?.finish().await?)
    }

    /// Runs a sync, chunk by chunk, and gives all outcomes; the bar shows how many jobs of the kind are done.
    async fn sync(
        &self,
        process: &str,
        kind: JobKind,
        bar: &mut Bar,
    ) -> Result<Vec<(ItemId, Outcome)>, Box<dyn Error>> {
        let run = self.engine.open(process, &self.service).await?;
        let mut execution = self.engine.next(&run, Answer::new()).await?;
        let mut outcomes = Vec::new();
        while let Some(chunk) = execution.next_chunk().await? {
            outcomes.extend(chunk);
            bar.left(self.open_jobs(&[kind]).await?.len() as u64);
        }
        match &execution.report().interrupted {
            // The bureau is away: what is left waits for the next sync.
            Some(Interruption::HeldBack) => Ok(outcomes),
            _ => finished(execution.report()).map(|()| outcomes),
        }
    }
}

/// A run that ended before its last item is no error of the call: its report says so. What is committed stays, and the same
/// run id finishes it.
fn finished(report: &Report) -> Result<(), Box<dyn Error>> {
    match &report.interrupted {
        None => Ok(()),
        Some(why) => Err(format!("run {} was interrupted, start this again to finish it: {why}", report.run).into()),
    }
}
