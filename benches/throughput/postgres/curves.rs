//! What single calls cost as the tables grow.
//!
//! The store fills them itself: the engine orders cards in chunks of 1,000. At each size, before anything is measured, as many jobs as
//! [`WORN`] are stored, claimed and done in the same table, due before all others, so that a claim begins where they were. Nobody
//! calls VACUUM.

use std::time::{Duration, Instant};

use cardwright::adapters::postgres::PostgresRepository;
use cardwright::host::{CardQuery, CardRepository as _, ClaimRequest, JobQuery, TextPrefix};
use cardwright::{CardId, CardState, ChangeSet, EngineSettings, Job, JobId, JobKind, JobState, ObjectId};
use chrono::TimeDelta;
use uuid::Uuid;

use super::database::{Database, Server};
use crate::ROUNDS;
use crate::chart::{Curve, svg};
use crate::files::Files;
use crate::office::{COMMON, EndlessUsers, Fallible, RARE, wait};
use crate::table::{Rounds, thousands, verdict};

/// How many jobs come and go at each size.
const WORN: usize = 100_000;

/// How many are claimed at once.
const CLAIMED: usize = 500;

/// How many cards are on a page.
const PAGE: usize = 50;

/// How often a read is timed in a round, and how often a claim.
const READS: usize = 100;
const CLAIMS: usize = 10;

const LEASE: Duration = Duration::from_secs(300);

/// What a call at the largest size may cost, over what it costs at the smallest.
const GOAL: f64 = 2.0;

const ORDERING: &str = "ordering";

/// Lets a store grow to a million cards, or to fewer for a quick look, and measures at each size.
pub(crate) fn grow(server: &Server, cards: usize, files: &Files) -> Fallible {
    let full = cards >= 100_000;
    let sizes = if full { vec![1_000, 10_000, 100_000, 1_000_000] } else { vec![cards.div_ceil(2), cards] };
    let largest = sizes[sizes.len() - 1];
    println!("\nPostgreSQL: milliseconds for one call (median) as the store grows; ordering in cards/s while it grows");
    let database = Database::new(server, "growing")?;
    let office = database.office(database.store(), EndlessUsers(largest), EngineSettings::new())?;
    let mut growing = Growing { store: database.store(), chance: Chance(1), worn: 0 };
    let mut curves: Vec<Curve> = Vec::new();
    let mut filled = 0;
    for (number, size) in sizes.iter().copied().enumerate() {
        let begun = Instant::now();
        office.order(number, filled..size)?;
        let speed = (size - filled) as f64 / begun.elapsed().as_secs_f64();
        filled = size;
        wait(growing.wear(if full { WORN } else { cards }))?;
        let mut measured = vec![(ORDERING.to_owned(), Rounds(vec![speed]))];
        measured.extend(wait(growing.measure(size))?);
        for (place, (what, rounds)) in measured.into_iter().enumerate() {
            if number == 0 {
                curves.push(Curve { what, points: Vec::new() });
            }
            curves[place].points.push((size, rounds));
        }
    }
    drop(office);
    database.remove()?;
    print(&sizes, &curves, full);
    keep(curves, files)
}

/// A store that grows.
struct Growing {
    store: PostgresRepository,
    chance: Chance,
    /// How many jobs came and went.
    worn: u64,
}

impl Growing {
    /// Stores, claims and does so many jobs.
    async fn wear(&mut self, jobs: usize) -> Fallible {
        let query = JobQuery { kinds: vec![JobKind::PlaceOrder], states: vec![JobState::Open] };
        let pattern = self.store.job_page(&query, None, 1).await?.pop().ok_or("there are jobs")?;
        let due = pattern.due - TimeDelta::days(1);
        for _ in 0..jobs.div_ceil(CLAIMED) {
            let mut changes = ChangeSet::new();
            for _ in 0..CLAIMED {
                self.worn += 1;
                let id = JobId::new(Uuid::new_v5(&Uuid::NAMESPACE_OID, &self.worn.to_be_bytes()));
                changes.jobs.push(Job { id, version: 0, due, card: None, run: None, ..pattern.clone() });
            }
            self.store.commit(&changes).await?;
        }
        for _ in 0..jobs.div_ceil(CLAIMED) {
            let claimed = self.store.claim(&ClaimRequest::new("bench", CLAIMED, LEASE)).await?;
            if claimed.len() != CLAIMED || claimed.iter().any(|job| job.due != due) {
                return Err("the jobs that are due first are claimed first".into());
            }
            let mut changes = ChangeSet::new();
            changes.jobs = claimed.into_iter().map(|job| Job { state: JobState::Done, claim: None, ..job }).collect();
            self.store.commit(&changes).await?;
        }
        Ok(())
    }

    async fn measure(&mut self, size: usize) -> Fallible<Vec<(String, Rounds)>> {
        let in_state = CardQuery { states: vec![CardState::Processing], ..CardQuery::default() };
        let named = |name| CardQuery { text: vec![TextPrefix::new("lastName", name)], ..CardQuery::default() };
        let by_state = self.page(&in_state, size).await?;
        let by_common_name = self.page(&named(COMMON), size).await?;
        let by_rare_name = self.page(&named(RARE), size).await?;
        let history = self.history().await?;
        let claim = self.claim(size).await?;
        let measured = [
            ("page of 50 by state", by_state),
            ("page of 50, last name of every seventh", by_common_name),
            ("page of 50, last name of 62 cards", by_rare_name),
            ("history of one card", history),
            ("claim of 500 jobs", claim),
        ];
        Ok(measured.map(|(what, rounds)| (what.to_owned(), rounds)).into())
    }

    /// Pages from anywhere in the first quarter, so that each is full.
    async fn page(&mut self, query: &CardQuery, size: usize) -> Fallible<Rounds> {
        let Self { store, chance, .. } = self;
        // Of the few, only the first page is sure to be full. In a quick look no page may be.
        let first = query.text.first().is_some_and(|text| text.prefix == RARE);
        let least = if size < 1_000 { 1 } else { PAGE };
        rounds(READS, async || {
            let after = (!first).then(|| chance.card());
            let begun = Instant::now();
            let page = store.card_page(query, after, PAGE).await?;
            let taken = begun.elapsed();
            if page.len() >= least { Ok(taken) } else { Err(format!("{query:?}: {} cards", page.len()).into()) }
        })
        .await
    }

    async fn history(&mut self) -> Fallible<Rounds> {
        let Self { store, chance, .. } = self;
        rounds(READS, async || {
            let found = store.card_page(&CardQuery::default(), Some(chance.card()), 1).await?;
            let card = ObjectId::Card(found.first().ok_or("there are cards")?.id);
            let begun = Instant::now();
            let history = store.history(&card, 0, 100).await?;
            let taken = begun.elapsed();
            if history.is_empty() { Err("a card has a history".into()) } else { Ok(taken) }
        })
        .await
    }

    /// What was claimed is done before the next claim, and as many others are due then, so that there are always as many.
    async fn claim(&mut self, size: usize) -> Fallible<Rounds> {
        let Self { store, chance, .. } = self;
        let request = ClaimRequest::new("bench", CLAIMED, LEASE);
        rounds(CLAIMS, async || {
            let begun = Instant::now();
            let claimed = store.claim(&request).await?;
            let taken = begun.elapsed();
            if claimed.len() != CLAIMED.min(size) {
                return Err(format!("{} jobs were claimed", claimed.len()).into());
            }
            let mut changes = ChangeSet::new();
            for job in claimed {
                let id = JobId::new(Uuid::from_u64_pair(chance.next(), chance.next()));
                changes.jobs.push(Job { id, version: 0, claim: None, ..job.clone() });
                changes.jobs.push(Job { state: JobState::Done, claim: None, ..job });
            }
            store.commit(&changes).await?;
            Ok(taken)
        })
        .await
    }
}

/// The median of each round, in milliseconds, once the first calls are over.
async fn rounds(times: usize, mut call: impl AsyncFnMut() -> Fallible<Duration>) -> Fallible<Rounds> {
    for _ in 0..times.div_ceil(5) {
        call().await?;
    }
    let mut rounds = Rounds::default();
    for _ in 0..ROUNDS {
        let mut round = Rounds::default();
        for _ in 0..times {
            round.0.push(call().await?.as_secs_f64() * 1e3);
        }
        rounds.0.push(round.median());
    }
    Ok(rounds)
}

/// Numbers that are the same in each run of the bench.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A place in the first quarter of all cards.
    fn card(&mut self) -> CardId {
        CardId::new(Uuid::from_u64_pair(self.next() >> 2, self.next()))
    }
}

fn print(sizes: &[usize], curves: &[Curve], full: bool) {
    let heads: String = sizes.iter().map(|size| format!(" {:>10}", thousands(*size as f64))).collect();
    println!("{:<44}{heads} {:>6} {:>5}  reached", "what", "ratio", "goal");
    for Curve { what, points } in curves {
        let cells: String = points.iter().map(|(_, rounds)| format!(" {:>10.2}", rounds.median())).collect();
        let ratio = points[points.len() - 1].1.median() / points[0].1.median();
        let (goal, reached) = match what.as_str() {
            ORDERING => ("-".to_owned(), "-"),
            _ if !full => (GOAL.to_string(), "too small to judge"),
            _ => (GOAL.to_string(), verdict(ratio <= GOAL)),
        };
        println!("{what:<44}{cells} {ratio:>6.2} {goal:>5}  {reached}");
    }
}

fn keep(curves: Vec<Curve>, files: &Files) -> Fallible {
    let mut csv = "what,cards,round,value\n".to_owned();
    for Curve { what, points } in &curves {
        for (cards, rounds) in points {
            for (round, value) in (1..).zip(&rounds.0) {
                csv += &format!("\"{what}\",{cards},{round},{value:.4}\n");
            }
        }
    }
    files.write("postgres-curves.csv", &csv)?;
    let (ordering, calls): (Vec<Curve>, Vec<Curve>) = curves.into_iter().partition(|curve| curve.what == ORDERING);
    files.write("postgres-calls.svg", &svg("One call to the store in PostgreSQL", "ms", &calls))?;
    files.write("postgres-ordering.svg", &svg("Ordering while the store grows", "cards/s", &ordering))
}
