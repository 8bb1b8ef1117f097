//! The texts of pages, each written so that one index alone gives both the rows and their order.

use uuid::Uuid;

use super::PostgresRepository;
use super::commit::TERM_BYTES;
use super::queries::{Text, texts};
use crate::adapters::codes::{Code as _, codes, past_prefix};
use crate::card::fold;
use crate::host::{CardQuery, TextPrefix};
use crate::id::UserId;

/// Which index a page goes along.
pub(super) enum Walk<'a> {
    /// All, by id.
    Ids,
    /// Cards whose open job is in doubt.
    InDoubt,
    /// Cards that have this text, by id.
    Text(&'a TextPrefix),
    /// Those with one of these values in this column. Of each value the first of a page are taken, and of those the first of all.
    Along(&'static str, Values),
}

/// Values that are looked for.
pub(super) enum Values {
    Codes(Vec<i16>),
    Texts(Vec<String>),
}

/// A page of a table: those that the walk and the filter leave, by id, after the one given.
///
/// The filter must leave alone what is walked along: it would lead back to the beginning on every page.
pub(super) fn page(
    store: &PostgresRepository,
    table: &str,
    walk: Walk<'_>,
    after: Option<Uuid>,
    at_most: i64,
    filter: impl Fn(&mut Text),
) -> Text {
    let beside = if table == "job" { ", claim_worker, claim_until, attempts, attempt" } else { "" };
    let columns = format!("SELECT id, version, data{beside} FROM ");
    let beyond = if after.is_some() { ">" } else { ">=" };
    let after = after.unwrap_or(Uuid::nil());
    let mut text = store.text("");
    match walk {
        Walk::Ids => {
            text.add(&columns).add(&format!("@{table} WHERE id {beyond} ")).value(after);
            filter(&mut text);
            text.add(" ORDER BY id LIMIT ").value(at_most);
        }
        Walk::InDoubt => {
            text.add(&columns).add(&format!("@{table} WHERE in_doubt AND (in_doubt, id) {beyond} (true, "));
            text.value(after).add(")");
            filter(&mut text);
            text.add(" ORDER BY in_doubt, id LIMIT ").value(at_most);
        }
        Walk::Text(prefix) => {
            // A card may have several that begin like this. `OFFSET 0` keeps the two from being turned around.
            text.add(&columns).add(&format!("(SELECT DISTINCT card FROM @card_term WHERE card {beyond} ")).value(after);
            has(&mut text, prefix, "folded");
            text.add(&format!(
                " ORDER BY card OFFSET 0) AS term JOIN @{table} AS {table} ON id = term.card WHERE true"
            ));
            filter(&mut text);
            text.add(" ORDER BY term.card LIMIT ").value(at_most);
        }
        Walk::Along(column, values) => {
            text.add("SELECT page.* FROM unnest(");
            match values {
                Values::Codes(codes) => text.value(codes).add("::smallint[]"),
                Values::Texts(texts) => text.value(texts).add("::text[]"),
            };
            text.add(") AS wanted (a) CROSS JOIN LATERAL (").add(&columns);
            // Written so that no other index has this order.
            text.add(&format!("@{table} WHERE ({column}, id) {beyond} (wanted.a, ")).value(after);
            text.add(&format!(") AND {column} <= wanted.a"));
            filter(&mut text);
            text.add(&format!(" ORDER BY {column}, id LIMIT ")).value(at_most);
            text.add(") AS page ORDER BY id LIMIT ").value(at_most);
        }
    }
    text
}

/// How many cards a text may have for all of them to be looked at; of a text that more cards have, one comes soon wherever one looks.
const FEW: i64 = 400;

/// Counts, no further than to the first that is too many, the cards that have each of these texts.
pub(super) fn counts(store: &PostgresRepository, texts: &[TextPrefix]) -> Text {
    let mut text = store.text("");
    for (place, prefix) in texts.iter().enumerate() {
        text.add(if place > 0 { " UNION ALL " } else { "" });
        text.add(&format!("SELECT {place}, count(*) FROM (SELECT FROM @card_term WHERE true"));
        has(&mut text, prefix, "folded");
        text.add(" ORDER BY folded LIMIT ").value(FEW + 1).add(") AS few");
    }
    text
}

/// The place of the text that the fewest cards have, and whether they are few.
pub(super) fn fewest(counts: Vec<(i32, i64)>) -> Option<(usize, bool)> {
    let (place, count) = counts.into_iter().min_by_key(|(_, count)| *count)?;
    Some((usize::try_from(place).ok()?, count <= FEW))
}

/// A page of cards; `fewest` is the place of the text that the fewest cards have, and whether they are few.
pub(super) fn cards(
    store: &PostgresRepository,
    query: &CardQuery,
    fewest: Option<(usize, bool)>,
    after: Option<Uuid>,
    at_most: i64,
) -> Text {
    let states = codes(&query.states, &[]);
    let holders = texts(query.holders.iter().map(UserId::as_str));
    let types = texts(query.production_types.iter().map(String::as_str));
    let (few, many) = match fewest {
        Some((place, true)) => (Some(place), None),
        Some((place, false)) => (None, Some(place)),
        None => (None, None),
    };
    // What is likely to leave the fewest cards decides where to look.
    let (mut states_left, mut holders_left, mut types_left) =
        (!states.is_empty(), !holders.is_empty(), !types.is_empty());
    let walk = if few.is_some() {
        Walk::Ids
    } else if let Some(prefix) = many.and_then(|place| query.text.get(place)) {
        Walk::Text(prefix)
    } else if std::mem::take(&mut holders_left) {
        Walk::Along("holder", Values::Texts(holders.clone()))
    } else if query.in_doubt == Some(true) {
        Walk::InDoubt
    } else if std::mem::take(&mut states_left) {
        Walk::Along("state", Values::Codes(states.clone()))
    } else if std::mem::take(&mut types_left) {
        Walk::Along("production_type", Values::Texts(types.clone()))
    } else {
        Walk::Ids
    };
    page(store, "card", walk, after, at_most, |text| {
        if let Some(kind) = query.kind {
            text.add(" AND kind = ").value(kind.code());
        }
        if let Some(route) = query.route {
            text.add(" AND route = ").value(route.code());
        }
        if let Some(in_doubt) = query.in_doubt {
            text.add(" AND in_doubt = ").value(in_doubt);
        }
        if states_left {
            text.add(" AND state = ANY(").value(states.clone()).add(")");
        }
        if holders_left {
            text.add(" AND holder = ANY(").value(holders.clone()).add(")");
        }
        if types_left {
            text.add(" AND production_type = ANY(").value(types.clone()).add(")");
        }
        for (place, prefix) in query.text.iter().enumerate().filter(|(place, _)| many != Some(*place)) {
            // All that have it are looked up at once; or each card is asked, and the index by text must look useless for that.
            let (begin, end) = if few == Some(place) {
                (" AND id = ANY(ARRAY(SELECT card FROM @card_term AS term WHERE true", "))")
            } else {
                (" AND (SELECT true FROM @card_term AS term WHERE term.card = card.id", " LIMIT 1)")
            };
            text.add(begin);
            has(text, prefix, if few == Some(place) { "folded" } else { "folded || ''" });
            text.add(end);
        }
    })
}

/// Only search terms that begin like this; `term` is how they are called.
fn has(text: &mut Text, prefix: &TextPrefix, term: &str) {
    let folded = searched(prefix);
    text.add(" AND name = ").value(prefix.name.clone());
    if let Some(end) = past_prefix(&folded) {
        text.add(&format!(" AND {term} < ")).value(end);
    }
    text.add(&format!(" AND {term} >= ")).value(folded);
}

/// As much of a prefix as is sure to be in what is stored of a term.
fn searched(prefix: &TextPrefix) -> String {
    let mut folded = fold(&prefix.prefix);
    folded.truncate(folded.floor_char_boundary(TERM_BYTES - 4));
    folded
}

/// Whether what is stored of the terms tells which cards match.
pub(super) fn is_exact(query: &CardQuery) -> bool {
    query.text.iter().all(|prefix| fold(&prefix.prefix).len() <= TERM_BYTES - 4)
}
