//! What hears all that should stay secret and all that is said aloud, so that a test can compare the two.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cardwright::adapters::simulator::SimulatedPersonalizer;
use cardwright::host::{
    CardPersonalizer, DiscardOutcome, Entropy, FinishOrder, FinishOutcome, PrepareOrder, PrepareOutcome,
};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Metadata, Subscriber};

/// A personalizer that remembers every PIN and PUK, as none may.
#[derive(Clone)]
pub(crate) struct Eavesdropper {
    machine: SimulatedPersonalizer,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Eavesdropper {
    pub(crate) fn new(machine: SimulatedPersonalizer) -> Self {
        Self { machine, heard: Arc::default() }
    }

    /// Every PIN and PUK that was handed on.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.heard.lock().expect("not poisoned").clone()
    }
}

#[async_trait]
impl CardPersonalizer for Eavesdropper {
    async fn prepare(&self, order: &PrepareOrder<'_>) -> PrepareOutcome {
        self.machine.prepare(order).await
    }

    async fn finish(&self, order: FinishOrder<'_>) -> FinishOutcome {
        let secrets = order.pin.iter().chain(&order.puk);
        let digits = secrets.map(|(secret, _)| String::from_utf8(secret.expose().to_vec()).expect("digits"));
        self.heard.lock().expect("not poisoned").extend(digits);
        self.machine.finish(order).await
    }

    async fn discard(&self, handle: &str) -> DiscardOutcome {
        self.machine.discard(handle).await
    }
}

/// Numbers that only look random: the same for the same seed (SplitMix64).
#[derive(Debug)]
pub(crate) struct Seeded(Mutex<u64>);

impl Seeded {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    pub(crate) fn next(&self) -> u64 {
        let mut state = self.0.lock().expect("not poisoned");
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Entropy for Seeded {
    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()> {
        bytes.fill_with(|| self.next().to_le_bytes()[7]);
        Ok(())
    }
}

/// All that is logged on this thread while it listens.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<String>>);

impl Log {
    pub(crate) fn while_listening<T>(&self, work: impl FnOnce() -> T) -> T {
        // With one subscriber alone, what other tests reach first, on threads without one, would be of interest to nobody.
        let _another = Dispatch::new(Self::default());
        tracing::subscriber::with_default(self.clone(), work)
    }

    pub(crate) fn text(&self) -> String {
        self.0.lock().expect("not poisoned").clone()
    }
}

/// Writes fields as they are logged.
struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut text = self.0.lock().expect("not poisoned");
        text.push_str(span.metadata().name());
        span.record(&mut Fields(&mut text));
        text.push('\n');
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        values.record(&mut Fields(&mut self.0.lock().expect("not poisoned")));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = self.0.lock().expect("not poisoned");
        event.record(&mut Fields(&mut text));
        text.push('\n');
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
