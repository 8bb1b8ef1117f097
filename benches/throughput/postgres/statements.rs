//! How many statements the store sends, counted where sqlx tells of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cardwright::EngineSettings;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::database::{Database, Server};
use crate::files::Files;
use crate::office::{self, DIRECT, Fallible, ISSUING, ORDERING, Stage};
use crate::table::verdict;

const CHUNKS: usize = 5;

/// Counts what sqlx sends.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicU64>);

impl Subscriber for Counter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::query"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Prints how many statements a chunk takes at several sizes, and whether the size makes a difference.
pub(crate) fn count(server: &Server, cards: usize, files: &Files) -> Fallible {
    let sizes = [10, 100, 1_000].map(|size: usize| size.min(cards / 20).max(1));
    println!(
        "\nPostgreSQL: statements sent for a chunk, BEGIN and COMMIT included (a run of {CHUNKS} chunks, divided)"
    );
    let mut csv = "stage,chunk,statements\n".to_owned();
    for whole in [true, false] {
        let calls = if whole { "a chunk in one call to the bureau" } else { "calls of the usual size" };
        println!("{:<44} {:>8} {:>8} {:>8}  constant", calls, sizes[0], sizes[1], sizes[2]);
        for stages in [ORDERING, DIRECT, ISSUING] {
            let counts = sizes.iter().map(|size| of_run(server, stages, *size, whole)).collect::<Fallible<Vec<_>>>()?;
            for (place, (_, what)) in stages.iter().enumerate() {
                let [ten, hundred, thousand] = [0, 1, 2].map(|size: usize| counts[size][place]);
                // What is done once for a run may weigh differently by one.
                let constant = thousand - ten < 1.0;
                let judged = if whole { verdict(constant) } else { "-" };
                println!("{what:<44} {ten:>8.1} {hundred:>8.1} {thousand:>8.1}  {judged}");
                for (size, count) in sizes.iter().zip([ten, hundred, thousand]) {
                    csv += &format!("\"{what}, {calls}\",{size},{count:.1}\n");
                }
            }
        }
    }
    files.write("postgres-statements.csv", &csv)
}

/// For each stage, how many statements a chunk takes.
fn of_run(server: &Server, stages: &[Stage], size: usize, whole: bool) -> Fallible<Vec<f64>> {
    let cards = CHUNKS * size;
    let usual = EngineSettings::new().chunk(size);
    let settings = if whole {
        usual.orders_per_call(size).statuses_per_call(size).cards_at_once(size).certificates_at_once(size)
    } else {
        usual
    };
    let database = Database::new(server, "counted")?;
    let office = database.office(database.store(), office::users(cards), settings)?;
    if stages == DIRECT {
        office.send_at_once()?;
    }
    let counter = Counter::default();
    let counts = tracing::subscriber::with_default(counter.clone(), || {
        let mut counts = Vec::new();
        for (number, stage) in stages.iter().enumerate() {
            let before = counter.0.load(Ordering::Relaxed);
            office.run(number, *stage, cards)?;
            counts.push((counter.0.load(Ordering::Relaxed) - before) as f64 / CHUNKS as f64);
            office.next_day();
            database.set_time(office.now())?;
        }
        Ok::<_, Box<dyn std::error::Error>>(counts)
    })?;
    drop(office);
    database.remove()?;
    Ok(counts)
}
