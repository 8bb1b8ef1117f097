//! Peak memory of one large batch, each measured in a process of its own.

use std::process::Command;

use cardwright::EngineSettings;
use cardwright::adapters::sqlite::{SqliteOptions, SqliteRepository};
use cardwright::host::UserFilter;
use cardwright::process::{Answer, Filter};
use futures::executor::block_on;

use crate::office::{self, EndlessUsers, Fallible, ORDERING, Office};
use crate::table;

/// Set in the child: how many users its batch has.
pub(crate) const CHILD: &str = "CARDWRIGHT_BENCH_PEAK_OF";

/// The goal: the peak of a batch over that of one of a tenth of its size.
const GOAL: f64 = 1.5;

/// Compares a batch with one ten times as large.
pub(crate) fn compare(large: usize, judged: bool) -> Fallible {
    println!("\nPeak memory of \"order multiple\" for all that match, SQLite (VmHWM of a process of its own)");
    let small = large / 10;
    let (Some(small_peak), Some(large_peak)) = (measured(small)?, measured(large)?) else {
        println!("  not measured: this system has no /proc/self/status");
        return Ok(());
    };
    let ratio = large_peak as f64 / small_peak as f64;
    println!("  {small:>9} users: {:>7.1} MiB", small_peak as f64 / 1024.0);
    println!("  {large:>9} users: {:>7.1} MiB", large_peak as f64 / 1024.0);
    let verdict = if judged { table::verdict(ratio <= GOAL) } else { "too small to judge" };
    println!("  ratio {ratio:.2}, goal at most {GOAL}: {verdict}");
    Ok(())
}

/// The peak in KiB, as a child of this process says.
fn measured(users: usize) -> Fallible<Option<u64>> {
    let output = Command::new(std::env::current_exe()?)
        .env(CHILD, users.to_string())
        .stderr(std::process::Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("the batch of {users} users failed").into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse().ok())
}

/// The child: does the batch and prints its peak in KiB, or nothing where the system does not tell.
pub(crate) fn child(users: usize) -> Fallible {
    let folder = tempfile::tempdir()?;
    let clock = office::clock()?;
    let options = SqliteOptions::new(std::sync::Arc::new(clock.clone()));
    let store = SqliteRepository::open_with(folder.path().join("office.db"), options)?;
    let office = Office::new(store, EndlessUsers(users), clock, EngineSettings::new())?;
    let done = block_on(async {
        let actor = cardwright::Actor::system(cardwright::ActorId::new("bench")?, [cardwright::Role::Operator]);
        let run = office.engine.open(ORDERING[0].0, &actor).await?;
        let all = Answer::all(Filter::Users(UserFilter { active: Some(true), ..UserFilter::default() }));
        let mut execution = office.engine.next(&run, all).await?;
        let mut next = users / 10;
        while execution.next_chunk().await?.is_some() {
            let items = execution.progress().items;
            if items as usize >= next {
                eprint!("\r  {items} of {users} ordered");
                next += users / 10;
            }
        }
        eprintln!();
        Ok::<_, Box<dyn std::error::Error>>(execution.report().done_in_all())
    })?;
    if done != users as u64 {
        return Err(format!("{done} of {users} cards were ordered").into());
    }
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        println!("{}", peak.map_or("", |peak| peak.trim().trim_end_matches(" kB")));
    }
    Ok(())
}
