//! A card personalizer that also prints the PIN letters: the host's side of the contract.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use cardwright::host::{CardPersonalizer, DiscardOutcome, FinishOrder, FinishOutcome, PrepareOrder, PrepareOutcome};
use cardwright::{CardId, Delivery};

/// A machine, and the printer beside it. Clones share one printer.
///
/// The contract says: *good* means that the card is complete **and** its PIN is delivered. So the letter is printed before
/// *good* is said, and for no other card: what is spoiled or in doubt has a PIN that is worth nothing.
#[derive(Clone)]
pub(crate) struct WithLetters<P> {
    machine: P,
    printed: Arc<Mutex<BTreeMap<CardId, Vec<String>>>>,
}

impl<P> WithLetters<P> {
    pub(crate) fn new(machine: P) -> Self {
        Self { machine, printed: Arc::default() }
    }

    /// The letters that were printed for a card, the latest last.
    pub(crate) fn letters_for(&self, card: CardId) -> Vec<String> {
        self.tray().get(&card).cloned().unwrap_or_default()
    }

    /// How many letters were printed.
    pub(crate) fn count(&self) -> usize {
        self.tray().values().map(Vec::len).sum()
    }

    fn tray(&self) -> MutexGuard<'_, BTreeMap<CardId, Vec<String>>> {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl<P: CardPersonalizer> CardPersonalizer for WithLetters<P> {
    async fn prepare(&self, order: &PrepareOrder<'_>) -> PrepareOutcome {
        self.machine.prepare(order).await
    }

    async fn finish(&self, order: FinishOrder<'_>) -> FinishOutcome {
        let card = order.card.id;
        // The machine takes the PIN with the order and wipes it: the letter is set before.
        let letter = set_letter(&order);
        let outcome = self.machine.finish(order).await;
        if outcome == FinishOutcome::Good
            && let Some(letter) = letter
        {
            // A printer that fails here makes the outcome *unknown*: the card is complete, and nobody has its PIN.
            self.tray().entry(card).or_default().push(letter);
        }
        outcome
    }

    async fn discard(&self, handle: &str) -> DiscardOutcome {
        self.machine.discard(handle).await
    }
}

/// In earnest the digits go straight to a sealed envelope, out of memory that is wiped. Here they are masked, so that no PIN
/// is printed or kept anywhere.
fn set_letter(order: &FinishOrder<'_>) -> Option<String> {
    let (pin, Delivery::Print) = order.pin.as_ref()? else { return None };
    let masked = vec!["*"; pin.expose().len()].join(" ");
    let name = order.card.attributes.get("commonName").map_or("", String::as_str);
    let number = order.card.number.as_deref().unwrap_or("");
    let certificates: Vec<_> = order.certificates.iter().map(|certificate| certificate.kind.name()).collect();
    Some(format!(
        "To {name}\n\
         Your card has the number {number}, with certificates for {}.\n\
         Its PIN:   {masked}\n\
         Keep this letter away from the card.",
        certificates.join(" and "),
    ))
}
