//! Cards per second through whole runs of the engine, beside the same writes by hand ([`bare`]), in the same run.
//!
//! `scripts/postgres cargo bench --bench throughput` with `CARDWRIGHT_POSTGRES_FSYNC=on`, or a part of it: `-- sqlite`, `-- issue`,
//! `-- memory`, `-- peak`, `-- postgres`, `-- curves`, `-- statements`. Without a server the last three are left out.
//! `CARDWRIGHT_BENCH_CARDS=2000` for a quick look (100,000 by default). A run at full size writes its figures to `docs/benchmarks`;
//! `CARDWRIGHT_BENCH_FOLDER` names another folder, for runs of any size.

mod bare;
mod chart;
mod files;
mod keys;
mod office;
mod peak;
mod postgres;
mod recorder;
mod table;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bare::{BareFile, BareMaps, Transaction};
use cardwright::EngineSettings;
use cardwright::adapters::memory::{ManualClock, MemoryRepository, MemoryUsers};
use cardwright::adapters::sqlite::{SqliteOptions, SqliteRepository};
use cardwright::host::CardRepository;
use files::Files;
use office::{Fallible, ISSUING, ORDERING, Office, Stage};
use postgres::Server;
use recorder::{Copies, Recorder, Write};
use table::Measured;

const CARDS: &str = "CARDWRIGHT_BENCH_CARDS";
const FULL: usize = 100_000;
const ROUNDS: usize = 3;
const SQLITE_GOAL: Option<f64> = Some(0.6);
const MEMORY_GOAL: Option<f64> = Some(0.4);
const ISSUE_GOAL: Option<f64> = Some(0.5);

/// How many cards are ordered one by one.
const ONE_BY_ONE: usize = 2_000;

fn main() -> Fallible {
    if let Ok(users) = std::env::var(peak::CHILD) {
        return peak::child(users.parse()?);
    }
    let cards: usize = std::env::var(CARDS).map_or(Ok(FULL), |cards| cards.parse())?;
    let files = Files::new(cards == FULL);
    let parts: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    let mut embedded = Vec::new();
    println!("{cards} cards, chunks of {}, {ROUNDS} rounds\n", EngineSettings::new().chunk);
    Measured::heading();
    if wanted("sqlite") {
        let bulk = sqlite(cards, ORDERING, EngineSettings::new(), "SQLite", SQLITE_GOAL)?;
        let one_by_one =
            sqlite(cards.min(ONE_BY_ONE), &ORDERING[..1], EngineSettings::new().chunk(1), "SQLite, one by one", None)?;
        println!(
            "One transaction per card by hand: {:.0} cards/s; the engine in chunks is {:.1} times as fast.",
            one_by_one[0].bare(),
            bulk[0].engine() / one_by_one[0].bare()
        );
        embedded.extend(bulk.into_iter().chain(one_by_one));
    }
    if wanted("issue") {
        // A simulated machine holds any number of cards.
        let settings = EngineSettings::new().cards_at_once(50);
        embedded.extend(sqlite(cards / 10, ISSUING, settings, "SQLite", ISSUE_GOAL)?);
        keys::show(cards / 50, office::clock()?)?;
    }
    if wanted("memory") {
        embedded.extend(memory(cards)?);
    }
    if parts.is_empty() {
        files.write("embedded.csv", &Measured::csv(&embedded))?;
    }
    if ["postgres", "curves", "statements"].into_iter().any(wanted) {
        match Server::named()? {
            Some(server) => on_server(&server, cards, wanted, &files)?,
            None => println!("PostgreSQL: left out, since CARDWRIGHT_POSTGRES names no server"),
        }
    }
    if wanted("peak") {
        let judged = cards >= 100_000;
        peak::compare(if judged { 1_000_000 } else { cards }, judged)?;
    }
    Ok(())
}

fn on_server(server: &Server, cards: usize, wanted: impl Fn(&str) -> bool, files: &Files) -> Fallible {
    println!("\n{}", server.describe(cards == FULL)?);
    if wanted("postgres") {
        postgres::throughput(server, cards / 4, files)?;
    }
    if wanted("curves") {
        postgres::grow(server, cards, files)?;
    }
    if wanted("statements") {
        postgres::count(server, cards, files)?;
    }
    Ok(())
}

fn sqlite(
    cards: usize,
    stages: &[Stage],
    settings: EngineSettings,
    store: &str,
    goal: Option<f64>,
) -> Fallible<Vec<Measured>> {
    let folder = tempfile::tempdir()?;
    let users = office::users(cards);
    let written = folder.path().join("written.db");
    // Once to see what is written.
    let mut transactions: Vec<Vec<Transaction>> = Vec::new();
    let history_before;
    {
        let clock = office::clock()?;
        let copies = Copies::default();
        let recorder = Recorder::new(open(&written, &clock)?, copies.clone());
        let office = Office::new(recorder, users.clone(), clock, settings.clone())?;
        copies.take();
        history_before = bare::end_of_history(&written)?;
        let mut position = history_before;
        run(&office, cards, stages, || {
            transactions.push(bare::transactions(&written, &copies.take(), &mut position)?);
            Ok(())
        })?;
    }
    let mut measured = start(cards, stages, store, goal);
    for round in 0..ROUNDS {
        let path = folder.path().join(format!("bare-{round}.db"));
        let bare = BareFile::new(&path, &written, history_before)?;
        let mut bare_times = Vec::new();
        for transactions in &transactions {
            let begun = Instant::now();
            bare.write(transactions)?;
            bare_times.push(begun.elapsed());
        }
        drop(bare);
        if bare::contents(&path)? != bare::contents(&written)? {
            return Err("what was written by hand is not what the engine wrote".into());
        }
        remove(&path)?;

        let path = folder.path().join(format!("engine-{round}.db"));
        let clock = office::clock()?;
        let office = Office::new(open(&path, &clock)?, users.clone(), clock, settings.clone())?;
        let engine_times = run(&office, cards, stages, || Ok(()))?;
        drop(office);
        remove(&path)?;
        keep(&mut measured, &engine_times, &bare_times);
    }
    measured.iter().for_each(Measured::print);
    Ok(measured)
}

fn memory(cards: usize) -> Fallible<Vec<Measured>> {
    let users = office::users(cards);
    let mut writes: Vec<Vec<Write>> = Vec::new();
    {
        let clock = office::clock()?;
        let copies = Copies::default();
        let recorder = Recorder::new(MemoryRepository::new(Arc::new(clock.clone())), copies.clone());
        let office = Office::new(recorder, users.clone(), clock, EngineSettings::new())?;
        copies.take();
        run(&office, cards, ORDERING, || {
            writes.push(copies.take());
            Ok(())
        })?;
    }
    let mut copied = start(cards, ORDERING, "memory, copied in", MEMORY_GOAL);
    let mut moved = start(cards, ORDERING, "memory, moved in", MEMORY_GOAL);
    for _ in 0..ROUNDS {
        let mut bare = BareMaps::default();
        let mut copy_times = Vec::new();
        for writes in &writes {
            let begun = Instant::now();
            bare.copy(writes);
            copy_times.push(begun.elapsed());
        }
        let mut bare = BareMaps::default();
        let mut move_times = Vec::new();
        for writes in &writes {
            let writes = writes.clone();
            let begun = Instant::now();
            bare.write(writes);
            move_times.push(begun.elapsed());
        }

        let clock = office::clock()?;
        let repository = MemoryRepository::new(Arc::new(clock.clone()));
        let engine_times = run_in_memory(&repository, &users, clock, cards)?;
        if !bare.holds_as_much_as(&repository) {
            return Err("what was written by hand is not what the engine wrote".into());
        }
        keep(&mut copied, &engine_times, &copy_times);
        keep(&mut moved, &engine_times, &move_times);
    }
    copied.append(&mut moved);
    copied.iter().for_each(Measured::print);
    Ok(copied)
}

fn run_in_memory(
    repository: &MemoryRepository,
    users: &MemoryUsers,
    clock: ManualClock,
    cards: usize,
) -> Fallible<Vec<Duration>> {
    let office = Office::new(repository.clone(), users.clone(), clock, EngineSettings::new())?;
    run(&office, cards, ORDERING, || Ok(()))
}

/// Does the first stages, each measured, and what is wanted after each.
fn run(
    office: &Office,
    cards: usize,
    stages: &[Stage],
    mut after_each: impl FnMut() -> Fallible,
) -> Fallible<Vec<Duration>> {
    let mut times = Vec::with_capacity(stages.len());
    for (number, stage) in stages.iter().enumerate() {
        let begun = Instant::now();
        office.run(number, *stage, cards)?;
        times.push(begun.elapsed());
        office.next_day();
        after_each()?;
    }
    Ok(times)
}

fn start(cards: usize, stages: &[Stage], store: &str, goal: Option<f64>) -> Vec<Measured> {
    let measured = |(_, what): &Stage| Measured { what: format!("{store}: {what}"), cards, rounds: Vec::new(), goal };
    stages.iter().map(measured).collect()
}

fn keep(measured: &mut [Measured], engine: &[Duration], bare: &[Duration]) {
    for ((measured, engine), bare) in measured.iter_mut().zip(engine).zip(bare) {
        measured.rounds.push((*engine, *bare));
    }
}

fn open(path: &Path, clock: &ManualClock) -> Fallible<impl CardRepository + Clone + use<>> {
    Ok(SqliteRepository::open_with(path, SqliteOptions::new(Arc::new(clock.clone())))?)
}

/// Removes a database that is closed; it takes room that the next one needs.
fn remove(path: &Path) -> Fallible {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}
