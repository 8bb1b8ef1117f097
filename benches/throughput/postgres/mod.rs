//! PostgreSQL: whole runs beside the bare bound, the cost of single calls as the tables grow, and statements counted.

mod bare;
mod curves;
mod database;
mod shapes;
mod statements;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cardwright::EngineSettings;
use cardwright::adapters::memory::MemoryUsers;

use crate::office::{self, DIRECT, Fallible, ISSUING, ORDERING, Office, Stage};
use crate::recorder::Recorder;
use crate::table::Measured;
use crate::{ONE_BY_ONE, ROUNDS, files::Files, keep, run, start};

use bare::{BareSchema, RowWitness, Transaction, Way};
use database::Database;

pub(crate) use curves::grow;
pub(crate) use database::Server;
pub(crate) use statements::count;

const GOAL: Option<f64> = Some(0.6);

/// What is done for so many cards, in an office that is set for it.
struct Trial {
    what: &'static str,
    cards: usize,
    stages: &'static [Stage],
    settings: EngineSettings,
    goal: Option<f64>,
}

/// Whole runs beside the bare bound.
pub(crate) fn throughput(server: &Server, cards: usize, files: &Files) -> Fallible {
    let (what, settings) = ("PostgreSQL", EngineSettings::new());
    let queued = Trial { what, cards, stages: ORDERING, settings: settings.clone(), goal: GOAL };
    let direct = Trial { stages: DIRECT, settings: settings.clone(), ..queued };
    // A simulated machine holds any number of cards.
    let issue = Trial { cards: cards / 5, stages: ISSUING, settings: settings.clone().cards_at_once(50), ..queued };
    let one_by_one = Trial {
        what: "PostgreSQL, one by one",
        cards: cards.min(ONE_BY_ONE),
        stages: &ORDERING[..1],
        settings: settings.chunk(1),
        goal: None,
    };
    Measured::heading();
    let bulk = queued.measure(server)?;
    let mut all = direct.measure(server)?;
    all.extend(issue.measure(server)?);
    let singly = one_by_one.measure(server)?;
    println!(
        "One transaction per card by hand: {:.0} cards/s; the engine in chunks is {:.1} times as fast.",
        singly[0].bare(),
        bulk[0].engine() / singly[0].bare()
    );
    files.write("postgres.csv", &Measured::csv(bulk.iter().chain(&all).chain(&singly)))
}

impl Trial {
    fn measure(&self, server: &Server) -> Fallible<Vec<Measured>> {
        let users = office::users(self.cards);
        let written = Arc::new(Database::new(server, "written")?);
        let transactions = self.record(&written, &users)?;
        let sums = bare::contents(&written)?;
        remove(written)?;
        let ways = [(Way::Parts, self.what.to_owned()), (Way::Whole, format!("{}, in one statement", self.what))];
        let mut measured = ways.map(|(way, what)| (way, start(self.cards, self.stages, &what, self.goal)));
        for round in 0..ROUNDS {
            let engine_times = self.by_engine(server, round, &users)?;
            for (way, measured) in &mut measured {
                let bare_times = self.by_hand(server, round, *way, &users, &transactions, &sums)?;
                keep(measured, &engine_times, &bare_times);
            }
        }
        let measured: Vec<Measured> = measured.into_iter().flat_map(|(_, measured)| measured).collect();
        measured.iter().for_each(Measured::print);
        Ok(measured)
    }

    /// Once to see what is written, stage by stage.
    fn record(&self, written: &Arc<Database>, users: &MemoryUsers) -> Fallible<Vec<Vec<Transaction>>> {
        let witness = RowWitness::new(Arc::clone(written));
        let recorder = Recorder::new(written.store(), witness.clone());
        let office = self.prepare(written.office(recorder, users.clone(), self.settings.clone())?)?;
        witness.take();
        let mut transactions = Vec::new();
        run(&office, self.cards, self.stages, || {
            transactions.push(witness.take());
            written.set_time(office.now())
        })?;
        Ok(transactions)
    }

    fn by_hand(
        &self,
        server: &Server,
        round: usize,
        way: Way,
        users: &MemoryUsers,
        transactions: &[Vec<Transaction>],
        sums: &[(i64, i64)],
    ) -> Fallible<Vec<Duration>> {
        let database = Database::new(server, &format!("bare_{round}"))?;
        // What the engine finds when it begins.
        self.prepare(database.office(database.store(), users.clone(), self.settings.clone())?)?;
        let mut bare = BareSchema::new(&database)?;
        let mut times = Vec::new();
        for transactions in transactions {
            let begun = Instant::now();
            bare.write(transactions, way)?;
            times.push(begun.elapsed());
        }
        drop(bare);
        if bare::contents(&database)? != sums {
            return Err("what was written by hand is not what the engine wrote".into());
        }
        database.remove()?;
        Ok(times)
    }

    fn by_engine(&self, server: &Server, round: usize, users: &MemoryUsers) -> Fallible<Vec<Duration>> {
        let database = Database::new(server, &format!("engine_{round}"))?;
        let office = self.prepare(database.office(database.store(), users.clone(), self.settings.clone())?)?;
        let times = run(&office, self.cards, self.stages, || database.set_time(office.now()))?;
        drop(office);
        database.remove()?;
        Ok(times)
    }

    fn prepare(&self, office: Office) -> Fallible<Office> {
        if self.stages == DIRECT {
            office.send_at_once()?;
        }
        Ok(office)
    }
}

fn remove(database: Arc<Database>) -> Fallible {
    Arc::into_inner(database).ok_or("the office on it is closed")?.remove()
}
