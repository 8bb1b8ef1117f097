//! The bare bound: what the engine wrote, written by hand in the store's fastest way.
//!
//! The rows, their bytes, the schema with its indices and the transactions are those that a run of the engine left behind;
//! all of it is at hand before the time starts. What is left is what no library can save: the store's own work.
//!
//! Two things are merged that the engine does apart: the card numbers of a chunk are drawn in the transaction of the chunk,
//! and nothing is read at all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cardwright::adapters::memory::MemoryRepository;
use cardwright::{
    Card, CardId, CardState, Certificate, CertificateId, CertificateState, ChangeSet, HistoryEntry, Job, JobId,
    JobKind, JobState, ObjectId, Record, Reservation, RunId, UserId,
};
use chrono::{DateTime, Utc};
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, params, params_from_iter};

use crate::office::Fallible;
use crate::recorder::Write;

/// A row, column by column.
type Row = Vec<Value>;

/// One transaction of rows.
#[derive(Default)]
pub(crate) struct Transaction {
    new_cards: Vec<Row>,
    changed_cards: Vec<Row>,
    terms: Vec<(String, String, Vec<u8>)>,
    new_certificates: Vec<Row>,
    changed_certificates: Vec<Row>,
    new_jobs: Vec<Row>,
    changed_jobs: Vec<Row>,
    claims: Vec<Row>,
    attempts: Vec<Row>,
    records: Vec<(String, u64, String)>,
    releases: Vec<Reservation>,
    takes: Vec<Reservation>,
    history: Vec<Row>,
}

const CARD: &str = "id, version, kind, route, state, in_doubt, holder, production_type, terms, data";
const CHANGED_CARD: &str = "id, version, state, in_doubt, data";
const CERTIFICATE: &str = "id, version, card, state, data";
const JOB: &str = "id, version, kind, state, due, card, run, claim_worker, claim_until, data";
const HISTORY: &str = "position, object, sequence, data";

/// Reads from the file that the engine wrote what each of its transactions stored, each table sorted by its key, which
/// keeps writes close together. `position` is where the history ended before.
pub(crate) fn transactions(file: &Path, writes: &[Write], position: &mut i64) -> Fallible<Vec<Transaction>> {
    let file = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let row = |columns: &str, table: &str, key: &str, value: &dyn rusqlite::ToSql| -> rusqlite::Result<Row> {
        let mut statement = file.prepare_cached(&format!("SELECT {columns} FROM {table} WHERE {key} = ?1"))?;
        let count = statement.column_count();
        statement.query_row([value], |row| (0..count).map(|column| row.get(column)).collect())
    };
    let mut transactions = Vec::with_capacity(writes.len());
    for write in writes {
        let mut transaction = Transaction::default();
        match write {
            Write::Commit(changes) => {
                let mut cards: Vec<&Card> = changes.cards.iter().collect();
                cards.sort_by_key(|card| card.id);
                for card in cards {
                    let id = card.id.uuid().into_bytes().to_vec();
                    if card.version == 0 {
                        transaction.new_cards.push(row(CARD, "card", "id", &id)?);
                        for (name, folded) in card.search_terms() {
                            transaction.terms.push((name.to_owned(), folded, id.clone()));
                        }
                    } else {
                        transaction.changed_cards.push(row(CHANGED_CARD, "card", "id", &id)?);
                    }
                }
                transaction.terms.sort();
                let mut certificates: Vec<&Certificate> = changes.certificates.iter().collect();
                certificates.sort_by_key(|certificate| certificate.id);
                for certificate in certificates {
                    let id = certificate.id.uuid().into_bytes().to_vec();
                    let stored = row(CERTIFICATE, "certificate", "id", &id)?;
                    let new = certificate.version == 0;
                    let rows =
                        if new { &mut transaction.new_certificates } else { &mut transaction.changed_certificates };
                    rows.push(stored);
                }
                let mut jobs: Vec<&Job> = changes.jobs.iter().collect();
                jobs.sort_by_key(|job| job.id);
                for job in jobs {
                    let stored = row(JOB, "job", "id", &job.id.uuid().into_bytes().to_vec())?;
                    let rows = if job.version == 0 { &mut transaction.new_jobs } else { &mut transaction.changed_jobs };
                    rows.push(stored);
                }
                for record in &changes.records {
                    let data = serde_json::to_string(record)?;
                    transaction.records.push((record.key.clone(), record.version + 1, data));
                }
                transaction.releases.clone_from(&changes.releases);
                transaction.releases.sort();
                transaction.takes.clone_from(&changes.takes);
                transaction.takes.sort();
                for _ in &changes.history {
                    *position += 1;
                    transaction.history.push(row(HISTORY, "history", "position", position)?);
                }
            }
            Write::Claim(jobs) => {
                for job in jobs {
                    let claim = job.claim.as_ref().ok_or("a claimed job has a claim")?;
                    transaction.claims.push(vec![
                        job.id.uuid().into_bytes().to_vec().into(),
                        i64::try_from(job.version)?.into(),
                        claim.worker.clone().into(),
                        claim.until.timestamp_micros().into(),
                    ]);
                }
            }
            Write::Attempts(jobs) => {
                for job in jobs {
                    let until = job.claim.as_ref().map(|claim| claim.until.timestamp_micros());
                    transaction.attempts.push(vec![
                        job.id.uuid().into_bytes().to_vec().into(),
                        i64::try_from(job.version)?.into(),
                        until.into(),
                        serde_json::to_string(job)?.into(),
                    ]);
                }
            }
        }
        transactions.push(transaction);
    }
    Ok(transactions)
}

/// How many history entries a file has.
pub(crate) fn end_of_history(file: &Path) -> Fallible<i64> {
    let file = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    Ok(file.query_row("SELECT coalesce(max(position), 0) FROM history", [], |row| row.get(0))?)
}

/// What a file holds, to see that two hold the same: for each table, rows and bytes.
pub(crate) fn contents(file: &Path) -> Fallible<Vec<(i64, i64)>> {
    const SUMS: [&str; 6] = [
        "SELECT count(*), sum(length(data) + length(terms)) FROM card",
        "SELECT count(*), sum(length(folded)) FROM card_term",
        "SELECT count(*), coalesce(sum(length(data)), 0) FROM certificate",
        "SELECT count(*), sum(length(data)) FROM job",
        "SELECT count(*), sum(length(key) + length(owner)) FROM reservation",
        "SELECT count(*), sum(length(data)) FROM history",
    ];
    let file = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    SUMS.iter().map(|sum| Ok(file.query_row(sum, [], |row| Ok((row.get(0)?, row.get(1)?)))?)).collect()
}

/// A file written by hand.
pub(crate) struct BareFile(Connection);

impl BareFile {
    /// A new file with the schema of the one that the engine wrote, under the settings of the adapter, with the rows that
    /// the engine found there when it began.
    pub(crate) fn new(path: &Path, written: &Path, history_before: i64) -> Fallible<Self> {
        let file = Connection::open(path)?;
        file.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 8000;
             PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -65536; PRAGMA temp_store = MEMORY;",
        )?;
        file.set_prepared_statement_cache_capacity(64);
        file.execute("ATTACH ?1 AS written", [written.to_str().ok_or("a path that SQLite can attach")?])?;
        let schema: Vec<String> = file
            .prepare("SELECT sql FROM written.sqlite_schema WHERE sql IS NOT NULL")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        file.execute_batch(&schema.join(";\n"))?;
        file.execute("INSERT INTO history SELECT * FROM written.history WHERE position <= ?1", [history_before])?;
        file.execute_batch("DETACH written")?;
        Ok(Self(file))
    }

    pub(crate) fn write(&self, transactions: &[Transaction]) -> Fallible {
        let insert = |table: &str, columns: &str| {
            let places = vec!["?"; columns.split(',').count()].join(", ");
            self.0.prepare(&format!("INSERT INTO {table} ({columns}) VALUES ({places})"))
        };
        let mut new_card = insert("card", CARD)?;
        let mut changed_card =
            self.0.prepare("UPDATE card SET version = ?2, state = ?3, in_doubt = ?4, data = ?5 WHERE id = ?1")?;
        let mut term = insert("card_term", "name, folded, card")?;
        let mut new_certificate = insert("certificate", CERTIFICATE)?;
        let mut changed_certificate =
            self.0.prepare("UPDATE certificate SET version = ?2, card = ?3, state = ?4, data = ?5 WHERE id = ?1")?;
        let mut new_job = insert("job", JOB)?;
        let mut changed_job = self.0.prepare(
            "UPDATE job SET version = ?2, kind = ?3, state = ?4, due = ?5, card = ?6, run = ?7, claim_worker = ?8, \
             claim_until = ?9, data = ?10 WHERE id = ?1",
        )?;
        let mut claim =
            self.0.prepare("UPDATE job SET version = ?2, claim_worker = ?3, claim_until = ?4 WHERE id = ?1")?;
        let mut attempt = self.0.prepare("UPDATE job SET version = ?2, claim_until = ?3, data = ?4 WHERE id = ?1")?;
        let mut record = self.0.prepare(
            "INSERT INTO record (key, version, data) VALUES (?1, ?2, ?3) \
             ON CONFLICT (key) DO UPDATE SET version = ?2, data = ?3",
        )?;
        let mut release = self.0.prepare("DELETE FROM reservation WHERE key = ?1")?;
        let mut take = insert("reservation", "key, owner")?;
        let mut history = insert("history", HISTORY)?;
        for transaction in transactions {
            self.0.execute_batch("BEGIN IMMEDIATE")?;
            for (statement, rows) in [
                (&mut new_card, &transaction.new_cards),
                (&mut changed_card, &transaction.changed_cards),
                (&mut new_certificate, &transaction.new_certificates),
                (&mut changed_certificate, &transaction.changed_certificates),
                (&mut new_job, &transaction.new_jobs),
                (&mut changed_job, &transaction.changed_jobs),
                (&mut claim, &transaction.claims),
                (&mut attempt, &transaction.attempts),
            ] {
                for row in rows {
                    statement.execute(params_from_iter(row))?;
                }
            }
            for (name, folded, card) in &transaction.terms {
                term.execute(params![name, folded, card])?;
            }
            for (key, version, data) in &transaction.records {
                record.execute(params![key, i64::try_from(*version)?, data])?;
            }
            for Reservation { key, .. } in &transaction.releases {
                release.execute([key])?;
            }
            for Reservation { key, owner } in &transaction.takes {
                take.execute([key, owner])?;
            }
            for row in &transaction.history {
                history.execute(params_from_iter(row))?;
            }
            self.0.execute_batch("COMMIT")?;
        }
        Ok(())
    }
}

/// The maps of [`MemoryRepository`], filled by hand; nothing is checked.
#[derive(Default)]
pub(crate) struct BareMaps {
    cards: BTreeMap<CardId, Card>,
    cards_by_holder: BTreeSet<(UserId, CardId)>,
    cards_by_state: BTreeMap<CardState, BTreeSet<CardId>>,
    terms: BTreeMap<String, BTreeSet<(String, CardId)>>,
    certificates: BTreeMap<CertificateId, Certificate>,
    certificates_by_card: BTreeSet<(CardId, CertificateId)>,
    certificates_by_state: BTreeMap<CertificateState, BTreeSet<CertificateId>>,
    jobs: BTreeMap<JobId, Job>,
    unsettled_jobs: BTreeMap<JobState, BTreeSet<JobId>>,
    free_jobs: BTreeSet<(JobKind, DateTime<Utc>, JobId)>,
    free_jobs_by_run: BTreeSet<(RunId, DateTime<Utc>, JobId)>,
    leased_jobs: BTreeSet<(DateTime<Utc>, JobId)>,
    records: BTreeMap<String, Record>,
    reservations: BTreeMap<String, String>,
    feed: Vec<HistoryEntry>,
    chains: BTreeMap<ObjectId, Vec<usize>>,
}

impl BareMaps {
    /// Copies everything in, as a store must that is shown what to keep, and as SQLite copies its rows.
    pub(crate) fn copy(&mut self, writes: &[Write]) {
        for write in writes {
            self.write([write.clone()]);
        }
    }

    /// Moves everything in: without the copy that a store makes of what it is shown.
    pub(crate) fn write(&mut self, writes: impl IntoIterator<Item = Write>) {
        for write in writes {
            match write {
                Write::Commit(changes) => self.commit(changes),
                Write::Claim(jobs) | Write::Attempts(jobs) => jobs.into_iter().for_each(|job| self.put_job(job)),
            }
        }
    }

    fn commit(&mut self, changes: ChangeSet) {
        for mut card in changes.cards {
            card.version += 1;
            let (id, state) = (card.id, card.state());
            if let Some(stored) = self.cards.get_mut(&id) {
                if stored.state() != state {
                    if let Some(ids) = self.cards_by_state.get_mut(&stored.state()) {
                        ids.remove(&id);
                    }
                    self.cards_by_state.entry(state).or_default().insert(id);
                }
                *stored = card;
                continue;
            }
            if let Some(holder) = &card.holder {
                self.cards_by_holder.insert((holder.clone(), id));
            }
            self.cards_by_state.entry(state).or_default().insert(id);
            for (name, folded) in card.search_terms() {
                if let Some(terms) = self.terms.get_mut(name) {
                    terms.insert((folded, id));
                } else {
                    self.terms.insert(name.to_owned(), BTreeSet::from([(folded, id)]));
                }
            }
            self.cards.insert(id, card);
        }
        for mut certificate in changes.certificates {
            certificate.version += 1;
            let (id, card, state) = (certificate.id, certificate.card, certificate.state());
            let old = self.certificates.insert(id, certificate).map(|old| old.state());
            if old.is_none() {
                self.certificates_by_card.insert((card, id));
            }
            if old != Some(state) {
                if let Some(ids) = old.and_then(|old| self.certificates_by_state.get_mut(&old)) {
                    ids.remove(&id);
                }
                self.certificates_by_state.entry(state).or_default().insert(id);
            }
        }
        for mut job in changes.jobs {
            job.version += 1;
            self.put_job(job);
        }
        for mut record in changes.records {
            record.version += 1;
            self.records.insert(record.key.clone(), record);
        }
        for Reservation { key, .. } in changes.releases {
            self.reservations.remove(&key);
        }
        for Reservation { key, owner } in changes.takes {
            self.reservations.insert(key, owner);
        }
        for entry in changes.history {
            self.chains.entry(entry.object.clone()).or_default().push(self.feed.len());
            self.feed.push(entry);
        }
    }

    fn put_job(&mut self, job: Job) {
        let keys = |job: &Job| (job.kind(), job.state, job.due, job.run, job.claim.as_ref().map(|claim| claim.until));
        let (id, new) = (job.id, keys(&job));
        let old = self.jobs.insert(id, job).as_ref().map(keys);
        if old == Some(new) {
            return;
        }
        if let Some((kind, state, due, run, until)) = old {
            if state != new.1
                && let Some(ids) = self.unsettled_jobs.get_mut(&state)
            {
                ids.remove(&id);
            }
            if let Some(until) = until {
                self.leased_jobs.remove(&(until, id));
            } else {
                self.free_jobs.remove(&(kind, due, id));
                run.map(|run| self.free_jobs_by_run.remove(&(run, due, id)));
            }
        }
        let (kind, state, due, run, until) = new;
        if state != JobState::Done && old.is_none_or(|old| old.1 != state) {
            self.unsettled_jobs.entry(state).or_default().insert(id);
        }
        if state == JobState::Open {
            if let Some(until) = until {
                self.leased_jobs.insert((until, id));
            } else {
                self.free_jobs.insert((kind, due, id));
                run.map(|run| self.free_jobs_by_run.insert((run, due, id)));
            }
        }
    }

    /// Whether as much is stored as in the store that the engine wrote, by what that store says of itself.
    pub(crate) fn holds_as_much_as(&self, written: &MemoryRepository) -> bool {
        let (cards, jobs) = (self.cards.len(), self.jobs.len());
        format!("{written:?}").starts_with(&format!("MemoryRepository {{ cards: {cards}, requests: 0, jobs: {jobs},"))
    }
}
