//! The state graphs: against the domain's own words, against what the documents show, and on random walks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::{env, fs};

use cardwright::{
    Actor, ActorId, ApprovalRequest, Card, CardId, CardKind, CardState, Certificate, CertificateId, CertificateKind,
    CertificateState, ChainError, ChainHead, ChainKey, Digest, HistoryEntry, IssuedCertificate, JobId, ObjectId,
    RequestId, RequestState, Role, Route, RunId, Stamp, State, StateGraph, SymbolicName, TransitionError, UserId,
    UserState, Why, card_graph, certificate_graph, request_graph, user_graph, verify_chain,
};
use chrono::{DateTime, TimeDelta, TimeZone as _, Utc};
use proptest::prelude::*;
use proptest::sample::Index;
use uuid::Uuid;

// ---- what the domain says ----

/// One graph in the words of the domain, copied literally.
struct Words {
    start: &'static str,
    finals: &'static [&'static str],
    text: &'static str,
}

const PERMANENT_LOCAL: Words = Words {
    start: "registered",
    finals: &["aborted", "rejected", "locked", "expired"],
    text: "registered → requested, approved, issued, active, failed · requested → approved, rejected, aborted · \
           approved → issued, active, failed, aborted (ours) · failed → issued, active · \
           issued → active, locked (ours), expired (ours) · active ↔ inactive · active, inactive → locked, expired",
};

const PERMANENT_EXTERNAL: Words = Words {
    start: "registered",
    finals: &["aborted", "rejected", "locked", "expired"],
    text: "registered → requested, processing · requested → processing, rejected, aborted · \
           processing → ordered, failed, aborted · ordered → in production, produced, failed · \
           in production → produced, failed · failed → processing (repeat) · produced → active, locked (ours), \
           expired (ours) · active ↔ inactive · active, inactive → locked, expired",
};

const TEMPORARY_LOCAL: Words = Words {
    start: "requested",
    finals: &["aborted", "locked"],
    text: "requested → unassigned, failed, aborted · failed → unassigned · \
           unassigned → assigned, locked · assigned → assigned (extended), unassigned (withdrawn), expired, locked · \
           expired → unassigned",
};

const TEMPORARY_EXTERNAL: Words = Words {
    start: "requested",
    finals: &["aborted", "failed", "locked"],
    text: "requested → processing · processing → ordered, failed, aborted · ordered → in production, produced, failed · \
           in production → produced, failed · produced → unassigned · \
           unassigned → assigned, locked · assigned → assigned (extended), unassigned (withdrawn), expired, locked · \
           expired → unassigned",
};

const CERTIFICATE: Words = Words {
    start: "issued",
    finals: &["revoked", "expired"],
    text: "issued → valid, on hold, revoked, expired · valid ↔ on hold · valid, on hold → revoked, expired",
};

const REQUEST: Words = Words {
    start: "open",
    finals: &["approved", "rejected", "aborted"],
    text: "open → approved, rejected (reason mandatory), aborted (by its requester)",
};

const CARDS: [(CardKind, Route, &Words); 4] = [
    (CardKind::Permanent, Route::Local, &PERMANENT_LOCAL),
    (CardKind::Permanent, Route::External, &PERMANENT_EXTERNAL),
    (CardKind::Temporary, Route::Local, &TEMPORARY_LOCAL),
    (CardKind::Temporary, Route::External, &TEMPORARY_EXTERNAL),
];

type Transitions = BTreeMap<String, BTreeSet<String>>;

impl Words {
    /// The transitions that the words name; a state after which nothing is named has an empty row.
    fn transitions(&self) -> Transitions {
        let mut table = Transitions::new();
        for sentence in without_remarks(self.text).split('·') {
            let both_ways = sentence.contains('↔');
            let (left, right) = sentence.split_once(['→', '↔']).expect("a sentence has an arrow");
            let names = |side: &str| side.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>();
            let (left, right) = (names(left), names(right));
            for (from, to) in left.iter().flat_map(|from| right.iter().map(move |to| (from, to))) {
                table.entry(from.clone()).or_default().insert(to.clone());
                table.entry(to.clone()).or_default();
                if both_ways {
                    table.entry(to.clone()).or_default().insert(from.clone());
                }
            }
        }
        table
    }
}

fn without_remarks(text: &str) -> String {
    let mut depth = 0;
    text.chars()
        .filter(|c| {
            depth += i32::from(*c == '(');
            let keep = depth == 0;
            depth -= i32::from(*c == ')');
            keep
        })
        .collect()
}

/// The transitions of a graph, by name.
fn transitions<S: State>(graph: &StateGraph<S>) -> Transitions {
    let names = |states: &[S]| states.iter().map(|state| state.name().to_owned()).collect();
    graph.states().map(|state| (state.name().to_owned(), names(graph.after(state)))).collect()
}

fn assert_says<S: State>(graph: &StateGraph<S>, words: &Words) {
    let name = graph.name();
    assert_eq!(transitions(graph), words.transitions(), "{name}");
    assert_eq!(graph.start().name(), words.start, "{name}");
    let finals: BTreeSet<_> = graph.states().filter(|s| graph.is_final(*s)).map(State::name).collect();
    assert_eq!(finals, words.finals.iter().copied().collect(), "{name}: final states");
    for from in graph.states() {
        for to in graph.states() {
            let said = words.transitions()[from.name()].contains(to.name());
            assert_eq!(graph.allows(from, to), said, "{name}: {from:?} to {to:?}");
        }
    }
}

#[test]
fn the_graphs_say_what_the_domain_says() {
    for (kind, route, words) in CARDS {
        assert_says(card_graph(kind, route), words);
    }
    assert_says(certificate_graph(), &CERTIFICATE);
    assert_says(request_graph(), &REQUEST);
}

#[test]
fn a_user_has_the_eight_states_of_the_domain() {
    let states: Vec<_> = user_graph().states().map(State::name).collect();
    let said = ["registered", "requested", "aborted", "approved", "rejected", "active", "inactive", "locked"];
    assert_eq!(states.iter().collect::<BTreeSet<_>>(), said.iter().collect());
    assert_eq!(states.len(), said.len(), "none twice");
    assert_eq!(user_graph().start(), UserState::Registered);
}

#[test]
fn there_are_17_card_states_and_each_is_in_some_graph() {
    let said = "registered, requested, aborted, rejected, approved, processing, ordered, in production, produced, \
                failed, issued, active, inactive, unassigned, assigned, locked, expired";
    let all: Vec<_> = CardState::ALL.into_iter().map(State::name).collect();
    assert_eq!(all.join(", "), said);
    for state in CardState::ALL {
        assert!(
            CARDS.iter().any(|(kind, route, _)| card_graph(*kind, *route).contains(state)),
            "{state} is in no graph"
        );
        assert_eq!(CardState::named(state.name()), Some(state));
    }
    assert_eq!(CardState::named("Active"), None, "names are exact");
}

#[test]
fn every_graph_is_well_formed() {
    for (kind, route, _) in CARDS {
        assert_well_formed(card_graph(kind, route));
    }
    assert_well_formed(certificate_graph());
    assert_well_formed(user_graph());
    assert_well_formed(request_graph());
}

/// Every state is reached from the start; final states and no others have nothing after them; no state is named twice, and
/// none is named that has no row of its own.
fn assert_well_formed<S: State>(graph: &StateGraph<S>) {
    let name = graph.name();
    let states: Vec<S> = graph.states().collect();
    assert_eq!(states.iter().map(|s| s.name()).collect::<BTreeSet<_>>().len(), states.len(), "{name}: a row is double");
    let mut reached = vec![graph.start()];
    let mut next = 0;
    while let Some(&from) = reached.get(next) {
        next += 1;
        for &to in graph.after(from) {
            assert!(graph.contains(to), "{name}: {to:?} has no row");
            if !reached.contains(&to) {
                reached.push(to);
            }
        }
    }
    for state in states {
        assert!(reached.contains(&state), "{name}: {state:?} is never reached");
        assert_eq!(graph.is_final(state), graph.after(state).is_empty(), "{name}: {state:?}");
        let after: BTreeSet<_> = graph.after(state).iter().map(|s| s.name()).collect();
        assert_eq!(after.len(), graph.after(state).len(), "{name}: {state:?} names a follower twice");
    }
}

#[test]
fn a_state_of_another_graph_is_not_known() {
    let graph = card_graph(CardKind::Permanent, Route::Local);
    assert!(!graph.contains(CardState::Unassigned));
    assert!(graph.after(CardState::Unassigned).is_empty());
    assert!(!graph.is_final(CardState::Unassigned));
    assert!(!graph.allows(CardState::Registered, CardState::Processing));
}

// ---- what the documents show ----

const GRID_KEY: &str = "Row: the state an object is in. Column: the state that may follow. `x` is allowed, `.` is not.";

/// A heading, a line of introduction, and the two pictures of each graph.
fn pictures() -> [(&'static str, &'static str, String, String); 7] {
    fn of<S: State>(
        title: &'static str,
        intro: &'static str,
        graph: &StateGraph<S>,
    ) -> (&'static str, &'static str, String, String) {
        (title, intro, graph.grid(), graph.mermaid())
    }
    [
        of(
            "Permanent card, local",
            "A card for one user, made on the company's own printers and encoders.",
            card_graph(CardKind::Permanent, Route::Local),
        ),
        of(
            "Permanent card, external",
            "A card for one user, made by the bureau; there is no way back from ordered.",
            card_graph(CardKind::Permanent, Route::External),
        ),
        of(
            "Temporary card, local",
            "A card for the stock, made on the company's own printers, then handed out for some days.",
            card_graph(CardKind::Temporary, Route::Local),
        ),
        of(
            "Temporary card, external",
            "A card for the stock, made by the bureau; a failed one stays failed.",
            card_graph(CardKind::Temporary, Route::External),
        ),
        of("Certificate", "A certificate of a card; issued is before it is written to the card.", certificate_graph()),
        of("User", "A user of the host's directory; the office only asks whether one is active.", user_graph()),
        of("Approval request", "A request that an approver decides; a postponed one stays open.", request_graph()),
    ]
}

fn rendered_grids() -> String {
    let mut out = format!("# State graphs, state by state\n\n{GRID_KEY}\n");
    for (title, intro, grid, _) in pictures() {
        out += &format!("\n## {title}\n\n{intro}\n\n```text\n{grid}```\n");
    }
    out
}

fn rendered_diagrams() -> String {
    let mut out = String::new();
    for (title, _, _, diagram) in pictures() {
        out += &format!("\n### {title}\n\n```mermaid\n{diagram}```\n");
    }
    out
}

fn document(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn blessing() -> bool {
    env::var_os("CARDWRIGHT_BLESS").is_some_and(|value| value == "1")
}

const HOW_TO_BLESS: &str = "if the rules were meant to change, run `CARDWRIGHT_BLESS=1 cargo test --test it states`";

#[test]
fn the_documented_grids_are_those_of_the_code() {
    let path = document("docs/states.md");
    if blessing() {
        fs::write(&path, rendered_grids()).expect("the document can be written");
    }
    let committed = fs::read_to_string(&path).expect("the document is there").replace("\r\n", "\n");
    let rendered = rendered_grids();
    let differs = committed.lines().zip(rendered.lines()).position(|(old, new)| old != new);
    assert!(
        committed == rendered,
        "docs/states.md is not what the code says, from line {} on; {HOW_TO_BLESS}",
        differs.map_or(committed.lines().count().min(rendered.lines().count()), |line| line) + 1
    );
}

#[test]
fn the_architecture_shows_the_diagrams_of_the_code() {
    const HEADING: &str = "## State graphs\n";
    let path = document("ARCHITECTURE.md");
    let mut text = fs::read_to_string(&path).expect("the document is there").replace("\r\n", "\n");
    if blessing() {
        let start = text.find(HEADING).expect("the document has the section") + HEADING.len();
        let end = text[start..].find("\n## ").map_or(text.len(), |end| start + end);
        text.replace_range(start..end, &rendered_diagrams());
        fs::write(&path, &text).expect("the document can be written");
    }
    for (title, _, _, diagram) in pictures() {
        let block = format!("```mermaid\n{diagram}```");
        assert!(text.contains(&block), "ARCHITECTURE.md does not show {title:?} as the code says; {HOW_TO_BLESS}");
    }
    assert_eq!(text.matches("```mermaid\n").count(), 7, "ARCHITECTURE.md has a diagram that no graph gives");
}

#[test]
fn a_grid_and_a_diagram_show_exactly_the_transitions() {
    for (kind, route, words) in CARDS {
        assert_pictured(card_graph(kind, route), words);
    }
    assert_pictured(certificate_graph(), &CERTIFICATE);
    assert_pictured(request_graph(), &REQUEST);
}

/// Reads the pictures back, without a look at how they are drawn.
fn assert_pictured<S: State>(graph: &StateGraph<S>, words: &Words) {
    let said = words.transitions();
    let mut seen = Transitions::new();
    let (mut starts, mut ends) = (Vec::new(), BTreeSet::new());
    for line in graph.mermaid().lines().skip(1) {
        let (from, to) = line.trim().split_once(" --> ").expect("a line is an arrow");
        let (from, to) = (from.replace('_', " "), to.replace('_', " "));
        match (from.as_str(), to.as_str()) {
            ("[*]", _) => starts.push(to),
            (_, "[*]") => drop(ends.insert(from)),
            _ => assert!(seen.entry(from).or_default().insert(to), "an arrow is drawn twice: {line}"),
        }
    }
    assert_eq!(starts, [words.start]);
    assert_eq!(ends, words.finals.iter().map(|name| (*name).to_owned()).collect());
    assert_eq!(seen, said.clone().into_iter().filter(|(_, after)| !after.is_empty()).collect());

    let grid = graph.grid();
    let (heads, rows): (Vec<_>, Vec<_>) = grid.lines().skip(1).partition(|line| line.starts_with(' '));
    let columns: Vec<_> = heads.iter().map(|line| line.trim_start_matches([' ', '|'])).collect();
    assert_eq!(rows.len(), columns.len());
    for row in rows {
        let state = columns.iter().copied().find(|name| row.trim_start().starts_with(&format!("{name} "))).expect(row);
        let cells: Vec<_> = row[state.len()..].split_whitespace().collect();
        let marked: BTreeSet<_> =
            columns.iter().zip(&cells).filter(|(_, cell)| **cell == "x").map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(marked, said[state], "{state}");
        let remarks = &cells[columns.len()..];
        assert_eq!(remarks.contains(&"start"), state == words.start, "{state}");
        assert_eq!(remarks.contains(&"final"), words.finals.contains(&state), "{state}");
    }
}

// ---- random walks ----

/// An object with a state, and all history entries that came out of it.
trait Walker: Clone + PartialEq + std::fmt::Debug {
    type State: State;
    const ALL: &'static [Self::State];
    fn graph(&self) -> &'static StateGraph<Self::State>;
    fn now(&self) -> Self::State;
    fn object(&self) -> ObjectId;
    fn head(&self) -> ChainHead;
    fn step(&mut self, to: Self::State, stamp: &Stamp<'_>, why: Why<'_>) -> Result<HistoryEntry, Box<TransitionError>>;
    /// A change that leaves the state as it is.
    fn note(&mut self, stamp: &Stamp<'_>, why: Why<'_>) -> HistoryEntry;
}

macro_rules! walker {
    ($object:ty, $state:ty, $all:expr, $id:ident, $graph:expr) => {
        impl Walker for $object {
            type State = $state;
            const ALL: &'static [$state] = &$all;
            fn graph(&self) -> &'static StateGraph<$state> {
                $graph(self)
            }
            fn now(&self) -> $state {
                self.state()
            }
            fn object(&self) -> ObjectId {
                ObjectId::$id(self.id)
            }
            fn head(&self) -> ChainHead {
                self.history
            }
            fn step(
                &mut self,
                to: $state,
                stamp: &Stamp<'_>,
                why: Why<'_>,
            ) -> Result<HistoryEntry, Box<TransitionError>> {
                self.transition(to, stamp, why).map_err(Box::new)
            }
            fn note(&mut self, stamp: &Stamp<'_>, why: Why<'_>) -> HistoryEntry {
                <$object>::note(self, stamp, why)
            }
        }
    };
}

const CERTIFICATE_STATES: [CertificateState; 5] = [
    CertificateState::Issued,
    CertificateState::Valid,
    CertificateState::OnHold,
    CertificateState::Revoked,
    CertificateState::Expired,
];
const REQUEST_STATES: [RequestState; 4] =
    [RequestState::Open, RequestState::Approved, RequestState::Rejected, RequestState::Aborted];

walker!(Card, CardState, CardState::ALL, Card, Card::graph);
walker!(Certificate, CertificateState, CERTIFICATE_STATES, Certificate, |_: &Certificate| certificate_graph());
walker!(ApprovalRequest, RequestState, REQUEST_STATES, Request, |_: &ApprovalRequest| request_graph());

/// Who, by which process, in which run: what all entries of a walk share.
struct Circumstances {
    actor: ActorId,
    process: SymbolicName,
    run: Option<RunId>,
    key: ChainKey,
}

impl Circumstances {
    fn new(key: ChainKey, run: Option<u128>) -> Self {
        Self {
            actor: ActorId::new("olga").expect("a valid login"),
            process: SymbolicName::new("CardsProcActivate").expect("a valid name"),
            run: run.map(|run| RunId::new(Uuid::from_u128(run))),
            key,
        }
    }

    fn stamp(&self, place: usize) -> Stamp<'_> {
        Stamp { at: moment(place), actor: &self.actor, process: &self.process, run: self.run, key: &self.key }
    }
}

fn moment(place: usize) -> DateTime<Utc> {
    let start = Utc.with_ymd_and_hms(2030, 1, 7, 8, 0, 0).single().expect("a valid time");
    start + TimeDelta::seconds(i64::try_from(place).expect("a short walk"))
}

/// One step of a walk: towards any state at all, towards one that is allowed (so that walks get somewhere), or none.
#[derive(Clone, Debug)]
enum Step {
    Anywhere(Index),
    Onwards(Index),
    Stay(Option<String>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => any::<Index>().prop_map(Step::Anywhere),
        4 => any::<Index>().prop_map(Step::Onwards),
        1 => proptest::option::of(".{0,12}").prop_map(Step::Stay),
    ];
    proptest::collection::vec(step, 0..40)
}

fn key() -> impl Strategy<Value = ChainKey> {
    prop_oneof![
        Just(ChainKey::none()),
        proptest::collection::vec(any::<u8>(), 1..80).prop_map(|key| ChainKey::new(&key)),
    ]
}

/// Any card, certificate or request, just made.
#[derive(Clone, Copy, Debug)]
enum Subject {
    Card(CardKind, Route),
    Certificate,
    Request,
}

fn subject() -> impl Strategy<Value = Subject> {
    let cards = CARDS.map(|(kind, route, _)| Subject::Card(kind, route));
    proptest::sample::select([&cards[..], &[Subject::Certificate, Subject::Request]].concat())
}

fn new_card(kind: CardKind, route: Route, stamp: &Stamp<'_>) -> (Card, HistoryEntry) {
    Card::create(CardId::new(Uuid::from_u128(1)), kind, route, stamp, Why::code("created"))
}

fn new_certificate(stamp: &Stamp<'_>) -> (Certificate, HistoryEntry) {
    Certificate::issued(
        CertificateId::new(Uuid::from_u128(2)),
        CardId::new(Uuid::from_u128(1)),
        CertificateKind::Authentication,
        JobId::new(Uuid::from_u128(4)),
        "0004-authentication",
        IssuedCertificate {
            issuer: "CN=Office CA".to_owned(),
            serial: "0a1b".to_owned(),
            valid_until: moment(0),
            pem: "-----BEGIN CERTIFICATE-----".to_owned(),
        },
        stamp,
    )
}

fn new_request(stamp: &Stamp<'_>) -> (ApprovalRequest, HistoryEntry) {
    let user = |id: &str| UserId::new(id).expect("a valid id");
    ApprovalRequest::open(
        RequestId::new(Uuid::from_u128(3)),
        Route::External,
        BTreeMap::from([("production type".to_owned(), "standard".to_owned())]),
        CardId::new(Uuid::from_u128(1)),
        user("u1"),
        Actor::person(stamp.actor.clone(), user("p-olga"), [Role::Operator]),
        stamp,
        Why::code("asked"),
    )
}

/// A finished walk: the object, its head and its whole history.
struct Walk {
    object: ObjectId,
    state: &'static str,
    start: &'static str,
    head: ChainHead,
    entries: Vec<HistoryEntry>,
}

fn walk(subject: Subject, steps: &[Step], around: &Circumstances) -> Result<Walk, TestCaseError> {
    let stamp = around.stamp(0);
    match subject {
        Subject::Card(kind, route) => {
            let words = CARDS.iter().find(|(k, r, _)| (*k, *r) == (kind, route)).expect("four pairs").2;
            walk_from(new_card(kind, route, &stamp), words, steps, around)
        }
        Subject::Certificate => walk_from(new_certificate(&stamp), &CERTIFICATE, steps, around),
        Subject::Request => walk_from(new_request(&stamp), &REQUEST, steps, around),
    }
}

/// Takes all steps and checks each against the domain's words.
fn walk_from<W: Walker>(
    (mut object, created): (W, HistoryEntry),
    words: &Words,
    steps: &[Step],
    around: &Circumstances,
) -> Result<Walk, TestCaseError> {
    let said = words.transitions();
    let mut entries = vec![created];
    prop_assert_eq!(object.now().name(), words.start);
    for (place, step) in steps.iter().enumerate() {
        let stamp = around.stamp(place + 1);
        let from = object.now();
        let allowed = &said[from.name()];
        let to = match step {
            Step::Stay(text) => {
                let why = Why { code: "noted", reference: Some("order 7"), text: text.as_deref() };
                entries.push(object.note(&stamp, why));
                prop_assert_eq!(object.now(), from);
                continue;
            }
            Step::Onwards(index) if !allowed.is_empty() => {
                let name = index.get(&allowed.iter().collect::<Vec<_>>()).as_str();
                *W::ALL.iter().find(|state| state.name() == name).expect("a state of this object")
            }
            Step::Anywhere(index) | Step::Onwards(index) => *index.get(W::ALL),
        };
        let before = object.clone();
        match object.step(to, &stamp, Why::code("walked")) {
            Ok(entry) => {
                prop_assert!(allowed.contains(to.name()), "{from:?} to {to:?} must be refused");
                prop_assert!(!words.finals.contains(&from.name()), "{from:?} is final");
                prop_assert_eq!(object.now(), to);
                entries.push(entry);
            }
            Err(error) => {
                prop_assert!(!allowed.contains(to.name()), "{from:?} to {to:?} must be allowed: {error}");
                prop_assert_eq!(&object, &before, "a refused transition changes nothing");
                prop_assert_eq!(error.graph, object.graph().name());
                prop_assert_eq!((error.from, error.to), (from.name(), to.name()));
                prop_assert_eq!(&error.object, &object.object().to_string());
                let named: BTreeSet<_> = error.allowed.split(", ").map(str::to_owned).collect();
                if allowed.is_empty() {
                    prop_assert_eq!(&error.allowed, "nothing after it");
                } else {
                    prop_assert_eq!(&named, allowed, "the error names what is allowed");
                }
                prop_assert!(error.to_string().contains(&error.allowed));
            }
        }
        prop_assert!(said.contains_key(object.now().name()), "{:?} is not in the graph", object.now());
    }
    Ok(Walk {
        object: object.object(),
        state: object.now().name(),
        start: object.graph().start().name(),
        head: object.head(),
        entries,
    })
}

/// The state that the entries lead to, if each begins where the one before it ended.
fn replay(entries: &[HistoryEntry]) -> Option<&str> {
    let mut state = None;
    for entry in entries {
        if entry.from.as_deref() != state {
            return None;
        }
        state = Some(entry.to.as_ref());
    }
    state
}

/// The fields of an entry, for changing one of them.
const FIELDS: usize = 12;

fn change(entry: &mut HistoryEntry, field: usize) -> &'static str {
    let longer = |text: &mut String| text.push('x');
    match field {
        0 => {
            entry.object = ObjectId::Card(CardId::new(Uuid::from_u128(99)));
            "object"
        }
        1 => {
            entry.sequence += 1;
            "sequence"
        }
        2 => {
            entry.at += TimeDelta::microseconds(1);
            "at"
        }
        3 => {
            entry.actor = ActorId::new("mallory").expect("a valid login");
            "actor"
        }
        4 => {
            entry.process = SymbolicName::new("CardsProcLock").expect("a valid name");
            "process"
        }
        5 => {
            entry.run = match entry.run {
                Some(_) => None,
                None => Some(RunId::new(Uuid::from_u128(98))),
            };
            "run"
        }
        6 => {
            entry.from = match entry.from.take() {
                Some(_) => None,
                None => Some("".into()),
            };
            "from"
        }
        7 => {
            longer(entry.to.to_mut());
            "to"
        }
        8 => {
            longer(entry.code.to_mut());
            "code"
        }
        9 => {
            entry.reference = match entry.reference.take() {
                Some(_) => None,
                None => Some(String::new()),
            };
            "reference"
        }
        10 => {
            entry.text = match entry.text {
                Some(_) => None,
                None => Some(Digest::of("")),
            };
            "text"
        }
        _ => {
            entry.seal = Digest::of(&entry.seal.to_string());
            "seal"
        }
    }
}

proptest! {
    #[test]
    fn no_walk_leaves_the_graph(subject in subject(), steps in steps()) {
        walk(subject, &steps, &Circumstances::new(ChainKey::none(), None))?;
    }

    #[test]
    fn final_stays_final(subject in subject(), onwards in proptest::collection::vec(any::<Index>(), 60)) {
        // Allowed steps only, so that most walks come to an end; then every state is tried.
        let steps: Vec<_> = onwards.into_iter().map(Step::Onwards).collect();
        let around = Circumstances::new(ChainKey::none(), None);
        let ended = walk(subject, &steps, &around)?;
        let words = match subject {
            Subject::Card(kind, route) => CARDS.iter().find(|(k, r, _)| (*k, *r) == (kind, route)).expect("four").2,
            Subject::Certificate => &CERTIFICATE,
            Subject::Request => &REQUEST,
        };
        for (place, entry) in ended.entries.iter().enumerate() {
            let last = place + 1 == ended.entries.len();
            prop_assert!(last || !words.finals.contains(&&*entry.to), "{} was left", entry.to);
        }
    }

    #[test]
    fn a_history_replays_to_the_state(
        subject in subject(),
        steps in steps(),
        key in key(),
        run in proptest::option::of(1_u128..),
    ) {
        let walk = walk(subject, &steps, &Circumstances::new(key.clone(), run))?;
        prop_assert_eq!(walk.entries[0].to.as_ref(), walk.start);
        prop_assert_eq!(replay(&walk.entries), Some(walk.state));
        prop_assert_eq!(verify_chain(&walk.object, &walk.entries, &walk.head, &key), Ok(()));

        let another = ChainKey::new(b"the key of another office, which nobody here uses");
        let refused = verify_chain(&walk.object, &walk.entries, &walk.head, &another);
        prop_assert_eq!(refused, Err(ChainError::BrokenSeal { object: walk.object.clone(), sequence: 1 }));
    }

    #[test]
    fn an_edited_history_does_not_verify(
        subject in subject(),
        steps in steps(),
        key in key(),
        run in proptest::option::of(1_u128..),
        at in any::<Index>(),
        other in any::<Index>(),
    ) {
        let walk = walk(subject, &steps, &Circumstances::new(key.clone(), run))?;
        let refuses = |entries: &[HistoryEntry]| verify_chain(&walk.object, entries, &walk.head, &key).is_err();
        let at = at.index(walk.entries.len());

        for field in 0..FIELDS {
            let mut edited = walk.entries.clone();
            let name = change(&mut edited[at], field);
            prop_assert!(refuses(&edited), "`{name}` of entry {} was edited", at + 1);
        }

        let mut shortened = walk.entries.clone();
        shortened.remove(at);
        prop_assert!(refuses(&shortened), "entry {} was removed", at + 1);
        prop_assert!(refuses(&walk.entries[..at]), "the end was cut off");
        for (place, entry) in (1..).zip(&mut shortened) {
            entry.sequence = place;
        }
        prop_assert!(refuses(&shortened), "entry {} was removed and the rest counted anew", at + 1);

        let mut doubled = walk.entries.clone();
        doubled.insert(at, walk.entries[at].clone());
        prop_assert!(refuses(&doubled), "entry {} was doubled", at + 1);

        let other = other.index(walk.entries.len());
        if other != at {
            let mut swapped = walk.entries.clone();
            swapped.swap(at, other);
            prop_assert!(refuses(&swapped), "entries {} and {} were swapped", at + 1, other + 1);
            (swapped[at].sequence, swapped[other].sequence) = (swapped[other].sequence, swapped[at].sequence);
            prop_assert!(refuses(&swapped), "entries {} and {} were swapped with their places", at + 1, other + 1);
        }
    }
}

#[test]
fn every_card_walk_of_up_to_eight_steps_agrees_with_the_domain() {
    fn follow(card: &Card, said: &Transitions, around: &Circumstances, left: usize, tried: &mut usize) {
        for to in CardState::ALL {
            let mut next = card.clone();
            let moved = next.transition(to, &around.stamp(0), Why::code("walked")).is_ok();
            *tried += 1;
            assert_eq!(moved, said[card.state().name()].contains(to.name()), "{} to {to}", card.state());
            if moved && left > 1 {
                follow(&next, said, around, left - 1, tried);
            }
        }
    }
    let around = Circumstances::new(ChainKey::none(), None);
    for (kind, route, words) in CARDS {
        let mut tried = 0;
        follow(&new_card(kind, route, &around.stamp(0)).0, &words.transitions(), &around, 8, &mut tried);
        assert!(tried > 500, "{kind:?} {route:?}: only {tried} transitions were tried");
    }
}

#[test]
fn who_has_no_key_cannot_seal_a_new_past() {
    let key = ChainKey::new(b"known to the host alone");
    let around = Circumstances::new(key.clone(), None);
    let (mut card, created) = new_card(CardKind::Temporary, Route::Local, &around.stamp(0));
    let object = ObjectId::Card(card.id);
    let moved = card.transition(CardState::Failed, &around.stamp(1), Why::code("spoiled")).expect("allowed");
    verify_chain(&object, &[created, moved], &card.history, &key).expect("the true past verifies");

    let forger = Circumstances::new(ChainKey::none(), None);
    let mut head = ChainHead::default();
    let forged = [
        head.append(object.clone(), None, "requested", &forger.stamp(0), Why::code("created")),
        head.append(object.clone(), Some("requested"), "unassigned", &forger.stamp(1), Why::code("produced")),
    ];
    verify_chain(&object, &forged, &head, &ChainKey::none()).expect("without a key anyone can compute a chain");
    assert_eq!(
        verify_chain(&object, &forged, &head, &key),
        Err(ChainError::BrokenSeal { object: object.clone(), sequence: 1 })
    );
    assert!(
        matches!(
            verify_chain(&object, &forged, &card.history, &ChainKey::none()),
            Err(ChainError::WrongHead { expected: 2, found: 2, .. })
        ),
        "a forged chain does not end where the card says"
    );
}

#[test]
fn an_empty_history_belongs_to_an_empty_head_only() {
    let object = ObjectId::Record("options".to_owned());
    let key = ChainKey::none();
    assert_eq!(verify_chain(&object, &[], &ChainHead::default(), &key), Ok(()));
    let head = ChainHead { length: 1, seal: Digest::default() };
    assert_eq!(
        verify_chain(&object, &[], &head, &key),
        Err(ChainError::WrongHead { object: object.clone(), expected: 1, found: 0 })
    );
}

#[test]
fn a_refused_transition_says_what_would_be_allowed() {
    let around = Circumstances::new(ChainKey::none(), None);
    let (mut card, _) = new_card(CardKind::Permanent, Route::External, &around.stamp(0));
    let error = card.transition(CardState::Active, &around.stamp(1), Why::code("walked")).expect_err("not allowed");
    assert_eq!(
        error.to_string(),
        "card 00000000-0000-0000-0000-000000000001 cannot go from registered to active: \
         permanent card, external allows requested, processing"
    );
    let (mut request, _) = new_request(&around.stamp(0));
    request.transition(RequestState::Rejected, &around.stamp(1), Why::code("rejected")).expect("allowed");
    let error = request.transition(RequestState::Open, &around.stamp(2), Why::code("walked")).expect_err("final");
    assert_eq!(error.allowed, "nothing after it");
}
