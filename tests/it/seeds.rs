//! Worlds that belong to a seed: who goes on next, what goes wrong and when time moves is drawn, and the same seed gives the same
//! world again.

mod acts;
mod turn;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use world::{Bureau, Came, World};

/// Lives through so many worlds with this bureau.
///
/// `CARDWRIGHT_SEED=7` lives through that one and tells what happened in it, `CARDWRIGHT_SEEDS=10000` through so many over all tests,
/// `CARDWRIGHT_SEEDS=10000,500` from 500 on.
fn live_through(test: &str, bureau: Bureau, usual: u64) {
    let number = |name: &str| std::env::var(name).ok();
    let (first, count) = match (number("CARDWRIGHT_SEED"), number("CARDWRIGHT_SEEDS")) {
        (Some(seed), _) => (seed.parse().expect("CARDWRIGHT_SEED is a number"), 1),
        (None, Some(seeds)) => {
            let (count, first) = seeds.split_once(',').unwrap_or((&seeds, "1"));
            let count: u64 = count.parse().expect("CARDWRIGHT_SEEDS is a number, or two");
            (first.parse().expect("CARDWRIGHT_SEEDS is a number, or two"), count.div_ceil(200) * usual)
        }
        (None, None) => (1, usual),
    };
    let traced = number("CARDWRIGHT_SEED").is_some();
    let started = Instant::now();
    let mut all = Came::default();
    for seed in first..first + count {
        let lived = catch_unwind(AssertUnwindSafe(|| World::live(seed, bureau, traced)));
        let again = format!("CARDWRIGHT_SEED={seed} cargo test --all-features --test it seeds::{test}");
        match lived {
            Ok(Ok(came)) => add(&mut all, came),
            Ok(Err(wrong)) => {
                wrong.trace.iter().for_each(|line| println!("{line}"));
                panic!("seed {seed}, at {}\n{again}", wrong.what);
            }
            Err(panic) => {
                println!("{again}");
                std::panic::resume_unwind(panic);
            }
        }
        if number("CARDWRIGHT_SEEDS").is_some() && seed % 100 == 0 {
            eprintln!("{test}: {} of {count} seeds, {} s", seed + 1 - first, started.elapsed().as_secs());
        }
    }
    println!(
        "{test}: {count} seeds, {} steps, {} commits, {} crashes survived, {} s",
        all.steps,
        all.commits,
        all.crashes,
        started.elapsed().as_secs()
    );
    println!("jobs ever in doubt: {}; in doubt at the end: {}", all.doubts.0, all.doubts.1);
    table("what went wrong", &all.faults);
    table("what happened", &all.events);
    if count >= usual {
        let missing =
            HAPPENS.iter().filter(|what| !all.events.contains_key(**what) && !all.faults.contains_key(**what));
        assert_eq!(missing.collect::<Vec<_>>(), [&""; 0], "in so many worlds all of this happens");
        assert!(all.crashes >= count && all.doubts.0 >= count, "{} crashes, {:?} doubts", all.crashes, all.doubts);
    }
}

/// What must not be missing in so many worlds, else they have become too quiet to show anything.
const HAPPENS: [&str; 37] = [
    "accepted",
    "activated",
    "approved",
    "approved_card_aborted",
    "certificate_held",
    "certificate_issued",
    "in_doubt",
    "locked",
    "order_repeated",
    "order_taken_back",
    "orphaned",
    "postponed",
    "production_failed",
    "refused",
    "rejected",
    "request_withdrawn",
    "revoked_at_ca",
    "settled_good_card",
    "settled_send_again",
    "settled_spoiled",
    "status",
    "status_unknown",
    "a commit failed",
    "a user left",
    "a worker stood still beyond its lease",
    "bureau place: RateLimited",
    "bureau place: Unavailable",
    "bureau place: Unknown",
    "bureau place: nobody waited for the answer",
    "bureau was away",
    "CA issue: Pending",
    "CA issue: Unknown",
    "machine prepare: Unknown",
    "machine finish: Spoiled",
    "store commit: Conflicts",
    "the answer to a commit was lost",
    "the clock jumped",
];

fn add(all: &mut Came, one: Came) {
    all.steps += one.steps;
    all.commits += one.commits;
    all.crashes += one.crashes;
    all.doubts = (all.doubts.0 + one.doubts.0, all.doubts.1 + one.doubts.1);
    one.faults.into_iter().for_each(|(fault, count)| *all.faults.entry(fault).or_default() += count);
    one.events.into_iter().for_each(|(event, count)| *all.events.entry(event).or_default() += count);
}

fn table(title: &str, counts: &BTreeMap<String, u64>) {
    println!("| {title} | times |\n|---|---|");
    counts.iter().for_each(|(what, times)| println!("| {what} | {times} |"));
}

#[test]
fn nothing_is_lost_or_made_twice_with_a_poor_bureau() {
    live_through("nothing_is_lost_or_made_twice_with_a_poor_bureau", Bureau::Poor, 80);
}

#[test]
fn nothing_is_lost_or_made_twice_with_a_bureau_that_can_look() {
    live_through("nothing_is_lost_or_made_twice_with_a_bureau_that_can_look", Bureau::Looking, 40);
}

#[test]
fn nothing_is_lost_or_made_twice_with_a_rich_bureau() {
    live_through("nothing_is_lost_or_made_twice_with_a_rich_bureau", Bureau::Rich, 80);
}

#[test]
fn seed_gives_the_same_world_again() {
    for bureau in [Bureau::Poor, Bureau::Looking, Bureau::Rich] {
        let live = || World::live(4, bureau, false).map_err(|wrong| wrong.what).expect("nothing is wrong");
        assert_eq!(live(), live(), "{bureau:?}");
    }
    let digest = |seed| World::live(seed, Bureau::Poor, false).map_or(0, |came| came.digest);
    assert_ne!(digest(4), digest(5), "another seed gives another world");
}
