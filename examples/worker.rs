//! A background worker. Start it several times on one store: each job is done by one of them, and one that is killed loses nothing.
//!
//! ```text
//! cargo run --release --example worker -- office.db --order 200
//! cargo run --release --example worker -- office.db                 (beside it, in another terminal)
//! cargo run --release --example worker -- postgres://user:password@localhost/office      (in its schema `cardwright`)
//! ```
//!
//! The store is the path of an SQLite file or a `postgres://` address. What it counts are jobs: an order, a reading of its status and a
//! message are one each. `--order N` orders cards for N people first, `--once` does what
//! is due and ends. Ctrl-C lets it finish what it has begun.

#[path = "shared/mod.rs"]
mod shared;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use cardwright::process::{Answer, ItemId};
use cardwright::worker::{Schedule, Watch, Worker};
use cardwright::{Role, UserId};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (mut address, mut order, mut once) = ("worker.db".to_owned(), 0, false);
    let usage = "usage: worker [store] [--order N] [--once]; a number comes after --order";
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--once" => once = true,
            "--order" => order = arguments.next().and_then(|number| number.parse().ok()).ok_or(usage)?,
            option if option.starts_with('-') => return Err(usage.into()),
            _ => address = argument,
        }
    }

    let engine = Arc::new(
        shared::office(shared::store(&address).await?, &format!("process {}", std::process::id()), false).await?,
    );
    if order > 0 {
        let people = (1..=order).map(|number: u32| UserId::new(format!("p{number}")).map(ItemId::User));
        let answer = Answer::ids(people.collect::<Result<Vec<_>, _>>()?);
        let run = engine.open("CardsAddonExtProdBoProcOrderMultiple", &shared::actor("olga", Role::Operator)?).await?;
        let report = engine.next(&run, answer).await?.finish().await?;
        println!("ordered: {:?}, refused: {:?}", report.done, report.refused);
    }

    let lanes = Schedule::jobs().every(Duration::from_secs(1)).lanes(4);
    let worker = Worker::new(engine, shared::service()?)
        .schedule("CardsAddonExtProdBatchSyncOrder", lanes)?
        .schedule("CardsAddonExtProdBatchSyncStatus", lanes)?;
    if once {
        let told = worker.run_once().await;
        if told.is_empty() {
            println!("nothing is due");
        }
        let mut failed = None;
        for (process, report) in told {
            let report = match report {
                Ok(report) => report,
                Err(error) => {
                    println!("{process}: {error}");
                    failed = Some(error);
                    continue;
                }
            };
            println!(
                "{process}: done: {:?}, in doubt: {}, refused: {:?}",
                report.done, report.in_doubt, report.refused
            );
            if let Some(why) = report.interrupted {
                println!("{process}: broken off: {why}");
            }
        }
        return failed.map_or(Ok(()), |error| Err(error.into()));
    }
    let figures = tokio::spawn(tell(worker.watch()));
    // An address may hold a password.
    println!("working on {}; Ctrl-C to stop", if address.contains("://") { "PostgreSQL" } else { &address });
    let stopped = worker.run(async { drop(tokio::signal::ctrl_c().await) }).await;
    figures.abort();
    println!("stopped: {stopped:?}");
    Ok(())
}

/// Prints the figures every two seconds; a service would export them.
async fn tell(watch: Watch) {
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        match watch.health().await {
            Ok(health) => {
                for open in health.backlog {
                    let since = open.oldest_due.map_or_else(String::new, |due| format!(" since {}", due.format("%T")));
                    println!("to {}: {} due{since}, {} in doubt", open.kind, open.due, open.in_doubt);
                }
                for (process, did) in health.processes.iter().filter(|(_, did)| did.last_minute > 0) {
                    println!("{process}: {} jobs in the last minute, {} done", did.last_minute, did.done);
                }
            }
            Err(error) => println!("no figures: {error}"),
        }
    }
}
