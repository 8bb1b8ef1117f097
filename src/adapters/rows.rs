//! A change set as rows, for every SQL store.

use serde::Serialize;
use uuid::Uuid;

use super::codes::{Code as _, integer, object_bytes};
use crate::change_set::ChangeSet;
use crate::history::HistoryEntry;

/// What cannot be written as JSON.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot be written as JSON")]
pub(super) struct Unwritable {
    pub(super) what: &'static str,
    pub(super) source: serde_json::Error,
}

/// A part of the text of all rows.
#[derive(Clone, Copy)]
pub(super) struct Span {
    start: usize,
    end: usize,
}

/// A card.
pub(super) struct CardRow {
    pub(super) id: Uuid,
    pub(super) version: u64,
    pub(super) kind: i16,
    pub(super) route: i16,
    pub(super) state: i16,
    pub(super) in_doubt: bool,
    pub(super) holder: Option<Span>,
    pub(super) production_type: Option<Span>,
    pub(super) terms: Span,
    pub(super) data: Span,
}

/// A search term of a card.
pub(super) struct TermRow {
    pub(super) name: Span,
    pub(super) folded: Span,
    pub(super) card: Uuid,
    /// Whether its card is new; the terms of others are compared first.
    pub(super) new: bool,
}

/// A certificate.
pub(super) struct CertificateRow {
    pub(super) id: Uuid,
    pub(super) version: u64,
    pub(super) card: Uuid,
    pub(super) state: i16,
    pub(super) data: Span,
}

/// An approval request.
pub(super) struct RequestRow {
    pub(super) id: Uuid,
    pub(super) version: u64,
    pub(super) state: i16,
    pub(super) holder: Span,
    pub(super) data: Span,
}

/// A job.
pub(super) struct JobRow {
    pub(super) id: Uuid,
    pub(super) version: u64,
    pub(super) kind: i16,
    pub(super) state: i16,
    pub(super) due: i64,
    #[cfg_attr(not(feature = "sqlite"), expect(dead_code, reason = "only the store on SQLite has a column for it"))]
    pub(super) card: Option<Uuid>,
    pub(super) run: Option<Uuid>,
    pub(super) claim: Option<(Span, i64)>,
    #[cfg_attr(
        not(feature = "postgres"),
        expect(dead_code, reason = "only the store in PostgreSQL has a column for it")
    )]
    pub(super) attempts: u32,
    #[cfg_attr(
        not(feature = "postgres"),
        expect(dead_code, reason = "only the store in PostgreSQL has a column for it")
    )]
    pub(super) attempt: Option<Span>,
    pub(super) data: Span,
}

/// A record.
pub(super) struct RecordRow {
    pub(super) key: Span,
    pub(super) version: u64,
    pub(super) data: Span,
}

/// A reservation, to be taken or given back.
pub(super) struct ReservationRow {
    pub(super) key: Span,
    pub(super) owner: Span,
}

/// A history entry.
pub(super) struct HistoryRow {
    pub(super) object: Span,
    pub(super) sequence: i64,
    pub(super) data: Span,
}

/// All rows of a change set. Each table in the order of its key, which keeps writes close together; the history as given.
pub(super) struct Rows {
    text: String,
    /// The objects of the history, which are no text.
    objects: Vec<u8>,
    pub(super) cards: Vec<CardRow>,
    pub(super) terms: Vec<TermRow>,
    pub(super) certificates: Vec<CertificateRow>,
    pub(super) requests: Vec<RequestRow>,
    pub(super) jobs: Vec<JobRow>,
    pub(super) records: Vec<RecordRow>,
    pub(super) releases: Vec<ReservationRow>,
    pub(super) takes: Vec<ReservationRow>,
    pub(super) history: Vec<HistoryRow>,
}

/// One buffer for the text of all rows.
struct Buffer(Vec<u8>);

impl Buffer {
    fn text(&mut self, text: &str) -> Span {
        let start = self.0.len();
        self.0.extend_from_slice(text.as_bytes());
        Span { start, end: self.0.len() }
    }

    fn json(&mut self, what: &'static str, value: &impl Serialize) -> Result<Span, Unwritable> {
        let start = self.0.len();
        serde_json::to_writer(&mut self.0, value).map_err(|source| Unwritable { what, source })?;
        Ok(Span { start, end: self.0.len() })
    }
}

impl Rows {
    /// The rows of a change set; of each search term no more than so many bytes.
    pub(super) fn of(changes: &ChangeSet, term_bytes: usize) -> Result<Self, Unwritable> {
        let guess = 800 * changes.cards.len()
            + 2_500 * changes.certificates.len()
            + 500 * (changes.jobs.len() + changes.history.len())
            + 1024;
        let mut buffer = Buffer(Vec::with_capacity(guess));
        let mut terms = Vec::with_capacity(4 * changes.cards.len());
        let mut cards = Vec::with_capacity(changes.cards.len());
        let mut found = Vec::new();
        for card in &changes.cards {
            let id = card.id.uuid();
            found.clear();
            found.extend(card.search_terms());
            for (_, folded) in &mut found {
                folded.truncate(folded.floor_char_boundary(term_bytes));
            }
            for (name, folded) in &found {
                let (name, folded) = (buffer.text(name), buffer.text(folded));
                terms.push(TermRow { name, folded, card: id, new: card.version == 0 });
            }
            cards.push(CardRow {
                id,
                version: card.version,
                kind: card.kind().code(),
                route: card.route().code(),
                state: card.state().code(),
                in_doubt: card.busy.as_ref().is_some_and(|busy| busy.in_doubt),
                holder: card.holder.as_ref().map(|holder| buffer.text(holder.as_str())),
                production_type: card.production_type.as_ref().map(|name| buffer.text(name)),
                terms: buffer.json("a card", &found)?,
                data: buffer.json("a card", card)?,
            });
        }
        let mut certificates = Vec::with_capacity(changes.certificates.len());
        for certificate in &changes.certificates {
            certificates.push(CertificateRow {
                id: certificate.id.uuid(),
                version: certificate.version,
                card: certificate.card.uuid(),
                state: certificate.state().code(),
                data: buffer.json("a certificate", certificate)?,
            });
        }
        let mut requests = Vec::with_capacity(changes.requests.len());
        for request in &changes.requests {
            requests.push(RequestRow {
                id: request.id.uuid(),
                version: request.version,
                state: request.state().code(),
                holder: buffer.text(request.holder.as_str()),
                data: buffer.json("a request", request)?,
            });
        }
        let mut jobs = Vec::with_capacity(changes.jobs.len());
        for job in &changes.jobs {
            jobs.push(JobRow {
                id: job.id.uuid(),
                version: job.version,
                kind: job.kind().code(),
                state: job.state.code(),
                due: job.due.timestamp_micros(),
                card: job.card.map(|card| card.uuid()),
                run: job.run.map(|run| run.uuid()),
                claim: job.claim.as_ref().map(|claim| (buffer.text(&claim.worker), claim.until.timestamp_micros())),
                attempts: job.attempts,
                attempt: job.attempt.as_ref().map(|attempt| buffer.json("an attempt", attempt)).transpose()?,
                data: buffer.json("a job", job)?,
            });
        }
        let mut records = Vec::with_capacity(changes.records.len());
        for record in &changes.records {
            records.push(RecordRow {
                key: buffer.text(&record.key),
                version: record.version,
                data: buffer.json("a record", record)?,
            });
        }
        let mut reservations = |all: &[crate::change_set::Reservation]| -> Vec<ReservationRow> {
            all.iter()
                .map(|one| ReservationRow { key: buffer.text(&one.key), owner: buffer.text(&one.owner) })
                .collect()
        };
        let (releases, takes) = (reservations(&changes.releases), reservations(&changes.takes));
        let mut objects = Vec::with_capacity(17 * changes.history.len());
        let mut history = Vec::with_capacity(changes.history.len());
        for entry in &changes.history {
            let start = objects.len();
            object_bytes(&entry.object, &mut objects);
            history.push(HistoryRow {
                object: Span { start, end: objects.len() },
                sequence: integer(entry.sequence),
                data: buffer.json("a history entry", entry)?,
            });
        }
        // Text and JSON only: this cannot fail, and a lossy copy would never be made.
        let text =
            String::from_utf8(buffer.0).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        let mut rows =
            Self { text, objects, cards, terms, certificates, requests, jobs, records, releases, takes, history };
        rows.sort();
        Ok(rows)
    }

    fn sort(&mut self) {
        let text = |span: Span| &self.text.as_bytes()[span.start..span.end];
        // All stable: of two rows with one key, the first stays first.
        self.cards.sort_by_key(|row| row.id);
        // Those of changed cards come last, as they are: they are hardly ever written.
        self.terms.sort_by_key(|row| !row.new);
        let new = self.terms.partition_point(|row| row.new);
        self.terms[..new]
            .sort_by(|a, b| (text(a.name), text(a.folded), a.card).cmp(&(text(b.name), text(b.folded), b.card)));
        self.certificates.sort_by_key(|row| row.id);
        self.requests.sort_by_key(|row| row.id);
        self.jobs.sort_by_key(|row| row.id);
        self.records.sort_by(|a, b| text(a.key).cmp(text(b.key)));
        self.releases.sort_by(|a, b| text(a.key).cmp(text(b.key)));
        self.takes.sort_by(|a, b| text(a.key).cmp(text(b.key)));
    }

    /// A text of these rows.
    pub(super) fn at(&self, span: Span) -> &str {
        &self.text[span.start..span.end]
    }

    /// The same of what may be absent.
    pub(super) fn maybe(&self, span: Option<Span>) -> Option<&str> {
        span.map(|span| self.at(span))
    }
    /// The object of a history entry, as bytes.
    pub(super) fn object(&self, row: &HistoryRow) -> &[u8] {
        &self.objects[row.object.start..row.object.end]
    }

    /// What a history entry is of, for people.
    pub(super) fn object_name(&self, row: &HistoryRow) -> String {
        serde_json::from_str::<HistoryEntry>(self.at(row.data))
            .map_or_else(|_| "an object".to_owned(), |entry| entry.object.to_string())
    }
}
