//! What it came to: all cards, what is in doubt, and the history of one card.

use std::collections::BTreeMap;
use std::error::Error;

use cardwright::host::CardQuery;
use cardwright::{Card, CardId, CardState, ObjectId};

use crate::office::Office;
use crate::screen::{counted, detail, heading, line, row};
use crate::steps::SETTLE;

/// How many doubts are shown one by one.
const SHOWN: usize = 20;

impl Office {
    /// All cards by state, page by page.
    pub(crate) async fn summary(&self) -> Result<(), Box<dyn Error>> {
        let mut states: BTreeMap<(CardState, bool), u64> = BTreeMap::new();
        let mut causes: BTreeMap<String, u64> = BTreeMap::new();
        let mut after = None;
        loop {
            let page = self.engine.card_page(&CardQuery::default(), after, 500).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            for card in page {
                *states.entry((card.state(), card.busy.as_ref().is_some_and(|busy| busy.in_doubt))).or_default() += 1;
                if let Some(failure) = card.failure {
                    *causes.entry(failure.cause).or_default() += 1;
                }
            }
        }
        if states.is_empty() {
            heading("The office has no cards")?;
            return Ok(());
        }
        heading(format!("All {} of the office", counted(states.values().sum(), "card", "cards")))?;
        for ((state, in_doubt), count) in states {
            row(count, format!("{state}{}", if in_doubt { ", in doubt" } else { "" }))?;
            let causes = if state == CardState::Failed { std::mem::take(&mut causes) } else { BTreeMap::new() };
            for (cause, count) in causes {
                detail(format!("{count}: {cause}"))?;
            }
        }
        Ok(())
    }

    /// What only a person can settle.
    pub(crate) async fn doubts(&self) -> Result<(), Box<dyn Error>> {
        let doubts = self.engine.doubts(None, 1000).await?;
        if doubts.is_empty() {
            return Ok(());
        }
        heading(format!("Still in doubt: {}", counted(doubts.len() as u64, "order", "orders")))?;
        line(format!(
            "  Ask the bureau for the reference, then run {SETTLE} with the doubt (Job::doubt), a reason and the resolution"
        ))?;
        line("  \"accepted\" with the order id, \"send again\", or \"give up\". Nothing is sent twice by itself.")?;
        for job in doubts.iter().take(SHOWN) {
            let Some(card) = job.card else { continue };
            let reference = job.attempt.as_ref().map_or("", |attempt| attempt.reference.as_str());
            detail(format!("{reference}  {}", describe(&self.card(card).await?)))?;
        }
        if doubts.len() > SHOWN {
            detail(format!("and {} more", doubts.len() - SHOWN))?;
        }
        Ok(())
    }

    pub(crate) async fn history(&self, card: &Card) -> Result<(), Box<dyn Error>> {
        let card = self.card(card.id).await?;
        heading(format!("History of {}", describe(&card)))?;
        for entry in self.engine.history(&ObjectId::Card(card.id)).await? {
            let step =
                entry.from.filter(|from| *from != entry.to).map_or_else(String::new, |from| format!("{from} → "));
            let (at, actor) = (entry.at.format("%F %H:%M"), entry.actor.as_str());
            let reference = entry.reference.unwrap_or_default();
            row(entry.sequence, format!("{at}  {actor:<5} {:<28} {} {reference}", step + &entry.to, entry.code))?;
        }
        match self.engine.verify_card(&card).await? {
            Ok(entries) => line(format!("  its chain of {entries} sealed entries is whole"))?,
            Err(problem) => line(format!("  its chain is broken: {problem}"))?,
        }
        Ok(())
    }

    /// The same words with card numbers: refusals name a card by its id, people know it by its number.
    pub(crate) async fn with_numbers(&self, words: &str) -> Result<String, Box<dyn Error>> {
        let mut text = words.to_owned();
        for id in words.split(' ').filter_map(|word| word.parse::<CardId>().ok()) {
            if let Some(number) = self.engine.cards(&[id]).await?.pop().and_then(|card| card.number) {
                text = text.replace(&id.to_string(), &number);
            }
        }
        Ok(text)
    }
}

/// A card as people speak of it.
pub(crate) fn describe(card: &Card) -> String {
    let name = card.attributes.get("commonName").map_or("", String::as_str);
    format!("card {} of {name}, {}", card.number.as_deref().unwrap_or("without number"), card.state())
}
