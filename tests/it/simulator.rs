//! The simulated bureau and its clock.

use std::collections::BTreeSet;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cardwright::adapters::simulator::{BureauBehaviour, PlaceScript, SimulatedBureau, SimulatedClock};
use cardwright::host::{
    CardOrder, Clock as _, FindOutcome, GoCardsProvider, OrderStatus, PlaceOutcome, Placement, StatusOutcome,
};
use cardwright::{CardState, ReadOut};
use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use futures::future::{Either, select};

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const SECOND: Duration = Duration::from_secs(1);

fn start() -> DateTime<Utc> {
    "2030-01-07T08:00:00Z".parse().expect("a time")
}

fn bureau(behaviour: BureauBehaviour) -> (SimulatedClock, SimulatedBureau) {
    seeded(1, behaviour)
}

fn seeded(seed: u64, behaviour: BureauBehaviour) -> (SimulatedClock, SimulatedBureau) {
    let clock = SimulatedClock::new(start());
    let bureau = SimulatedBureau::new(seed, Arc::new(clock.clone())).behaving(behaviour);
    (clock, bureau)
}

fn order(reference: &str) -> CardOrder {
    let mut order = CardOrder::new(reference, "badge");
    order.elements.insert("name".to_owned(), "Ada Byron".to_owned());
    order
}

fn place(bureau: &SimulatedBureau, reference: &str) -> PlaceOutcome {
    let mut outcomes = bureau.place(&[order(reference)]).now_or_never().expect("an answer at once");
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0)
}

fn accepted(bureau: &SimulatedBureau, reference: &str) -> String {
    match place(bureau, reference) {
        PlaceOutcome::Accepted(accepted) => accepted.order_id,
        other => panic!("{reference}: {other:?}"),
    }
}

fn read(bureau: &SimulatedBureau, order_id: &str) -> StatusOutcome {
    bureau.status(&[order_id.to_owned()]).now_or_never().expect("an answer at once").remove(0)
}

fn known(bureau: &SimulatedBureau, order_id: &str) -> OrderStatus {
    match read(bureau, order_id) {
        StatusOutcome::Known(status) => status,
        other => panic!("{order_id}: {other:?}"),
    }
}

fn find(bureau: &SimulatedBureau, reference: &str) -> FindOutcome {
    bureau.find(reference).now_or_never().expect("an answer at once")
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls until done; for futures that wake themselves.
fn drive<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    for _ in 0..1_000 {
        if let Poll::Ready(output) = poll(future.as_mut()) {
            return output;
        }
    }
    panic!("it waits for ever");
}

/// What happens to 500 orders with a good part of all faults, sent first to last or last to first.
fn fates(seed: u64, backwards: bool) -> Vec<(String, PlaceOutcome)> {
    let behaviour = BureauBehaviour::poor().refused(100).unavailable(100).lost_after_accepting(100).late(0);
    let (_, bureau) = seeded(seed, behaviour);
    let mut references: Vec<_> = (0..500).map(|n| format!("R{n}")).collect();
    if backwards {
        references.reverse();
    }
    let mut fates: Vec<_> = references.into_iter().map(|r| (r.clone(), without_ids(place(&bureau, &r)))).collect();
    fates.sort_by(|one, other| one.0.cmp(&other.0));
    fates
}

/// Order ids are given in the order of arrival.
fn without_ids(outcome: PlaceOutcome) -> PlaceOutcome {
    match outcome {
        PlaceOutcome::Accepted(mut accepted) => {
            accepted.order_id.clear();
            PlaceOutcome::Accepted(accepted)
        }
        other => other,
    }
}

#[test]
fn fates_follow_from_the_seed_and_not_from_the_order_of_arrival() {
    assert_eq!(fates(7, false), fates(7, false));
    assert_eq!(fates(7, false), fates(7, true));
    assert_ne!(fates(7, false), fates(8, false));
}

#[test]
fn rates_strike_about_as_often_as_they_say() {
    let fates = fates(3, false);
    let refused = fates.iter().filter(|(_, outcome)| matches!(outcome, PlaceOutcome::Refused { .. })).count();
    assert!((25..=80).contains(&refused), "{refused} of 500 at 100 in a thousand");
    let (_, never) = bureau(BureauBehaviour::calm());
    let (_, always) = bureau(BureauBehaviour::calm().refused(1000));
    for n in 0..300 {
        accepted(&never, &format!("R{n}"));
        assert!(matches!(place(&always, &format!("R{n}")), PlaceOutcome::Refused { .. }));
    }
}

#[test]
fn a_second_try_may_have_another_fate() {
    let (_, bureau) = bureau(BureauBehaviour::calm().unavailable(500));
    let tries: BTreeSet<_> = (0..20).map(|_| matches!(place(&bureau, "R"), PlaceOutcome::Accepted(_))).collect();
    assert_eq!(tries.len(), 2);
}

#[test]
fn the_same_seed_gives_the_same_lives() {
    let life = |seed| {
        let (clock, bureau) = seeded(seed, BureauBehaviour::poor().late(0).status_unknown(500).production_failed(200));
        let references: Vec<_> = (0..50).map(|n| format!("R{n}")).collect();
        for reference in &references {
            place(&bureau, reference);
        }
        let ids: Vec<_> = bureau.ledger().into_iter().map(|entry| entry.order_id).collect();
        let mut reads = Vec::new();
        for _ in 0..30 {
            clock.advance(8 * HOUR);
            reads.extend(bureau.status(&ids).now_or_never().expect("an answer at once"));
        }
        reads
    };
    assert_eq!(life(1), life(1));
    assert_ne!(life(1), life(2));
}

#[test]
fn by_default_it_is_as_poor_as_published_go_cards() {
    let clock = SimulatedClock::new(start());
    let bureau = SimulatedBureau::new(1, Arc::new(clock));
    assert_eq!(bureau.behaviour(), BureauBehaviour::poor());
    assert_eq!(bureau.placement(), Placement::NotIdempotent);
    bureau.next_place(PlaceScript::Accept);
    let order_id = accepted(&bureau, "R");
    assert_eq!(order_id, "GC-000001");
    assert_eq!(find(&bureau, "R"), FindOutcome::CannotLook);
    bureau.next_place(PlaceScript::Accept);
    assert_eq!(accepted(&bureau, "R"), "GC-000002");
    assert_eq!(bureau.productions_for("R"), 2);
}

#[test]
fn each_scripted_fate_happens_once_in_turn() {
    let (_, bureau) = bureau(BureauBehaviour::calm());
    bureau.next_place(PlaceScript::Refuse("no such article".to_owned()));
    bureau.next_place(PlaceScript::Unavailable);
    bureau.next_place(PlaceScript::RateLimited(3 * SECOND));
    bureau.next_place(PlaceScript::LoseReplyBeforeAccepting);
    bureau.next_place(PlaceScript::LoseReplyAfterAccepting);
    bureau.next_place(PlaceScript::Accept);

    assert_eq!(place(&bureau, "1"), PlaceOutcome::Refused { reason: "no such article".to_owned() });
    assert!(matches!(place(&bureau, "2"), PlaceOutcome::Unavailable { .. }));
    assert_eq!(place(&bureau, "3"), PlaceOutcome::RateLimited { retry_after: 3 * SECOND });
    assert!(matches!(place(&bureau, "4"), PlaceOutcome::Unknown { .. }));
    assert!(matches!(place(&bureau, "5"), PlaceOutcome::Unknown { .. }));
    assert!(matches!(place(&bureau, "6"), PlaceOutcome::Accepted(_)));
    assert!(matches!(place(&bureau, "7"), PlaceOutcome::Accepted(_)));

    let references: Vec<_> = bureau.ledger().into_iter().map(|entry| entry.reference).collect();
    assert_eq!(references, ["5", "6", "7"], "only what was accepted is on the books");
    assert_eq!((bureau.calls().place, bureau.calls().placed_orders), (7, 7));
}

#[test]
fn fates_are_scripted_for_orders_that_match() {
    let (_, bureau) = bureau(BureauBehaviour::calm());
    bureau.next_place_where(|order| order.reference == "B", PlaceScript::Unavailable);
    bureau.every_place_where(
        |order| order.elements.get("name").is_some_and(|name| name == "Eve"),
        PlaceScript::Refuse("not her".to_owned()),
    );
    let mut eve = order("E");
    eve.elements.insert("name".to_owned(), "Eve".to_owned());

    let orders = [order("A"), order("B"), eve.clone(), order("B"), eve];
    let outcomes = bureau.place(&orders).now_or_never().expect("an answer at once");
    assert!(matches!(
        outcomes.as_slice(),
        [
            PlaceOutcome::Accepted(_),
            PlaceOutcome::Unavailable { .. },
            PlaceOutcome::Refused { .. },
            PlaceOutcome::Accepted(_),
            PlaceOutcome::Refused { .. },
        ]
    ));
    assert_eq!((bureau.calls().place, bureau.calls().placed_orders), (1, 5));
}

#[test]
fn an_order_is_made_over_simulated_time() {
    let (clock, bureau) = bureau(BureauBehaviour::calm());
    let map = SimulatedBureau::status_map();
    let id = accepted(&bureau, "R");

    let at_once = known(&bureau, &id);
    assert_eq!((at_once.text.as_str(), map.state(&at_once.text)), ("received", Some(CardState::Ordered)));
    assert_eq!(at_once.order_id, id);
    assert!(at_once.read_outs.is_empty() && at_once.times.produced.is_none());

    clock.advance(4 * HOUR);
    assert_eq!(map.state(&known(&bureau, &id).text), Some(CardState::InProduction));

    clock.advance(3 * DAY);
    let shipped = known(&bureau, &id);
    assert_eq!((shipped.text.as_str(), map.state(&shipped.text)), ("shipped", Some(CardState::Produced)));
    assert_eq!(shipped.card_id.as_deref(), Some("GC-000001-1"));
    assert_eq!(shipped.times.produced, Some((start() + 3 * DAY).naive_utc()));
    assert_eq!(shipped.times.delivered, None);
    let technologies: Vec<_> = shipped.read_outs.iter().map(|read_out| read_out.technology.as_str()).collect();
    assert_eq!(technologies, ["LEGIC", "LEGIC", "MIFARE"]);
    assert_eq!(shipped.read_outs.iter().map(|r: &ReadOut| &r.value).collect::<BTreeSet<_>>().len(), 3);

    clock.advance(DAY);
    let delivered = known(&bureau, &id);
    assert_eq!(map.state(&delivered.text), Some(CardState::Produced));
    assert_eq!(delivered.times.delivered, Some((start() + 4 * DAY).naive_utc()));
    assert_eq!(delivered.read_outs, shipped.read_outs);
    assert_eq!(read(&bureau, "GC-000002"), StatusOutcome::NotFound);
}

#[test]
fn with_its_faults_it_makes_nearly_everything_in_the_end() {
    let (clock, bureau) = bureau(BureauBehaviour::poor().late(0));
    for n in 0..500 {
        place(&bureau, &format!("R{n}"));
    }
    clock.advance(10 * DAY);
    let map = SimulatedBureau::status_map();
    let states: Vec<_> = bureau.ledger().iter().map(|entry| map.state(&entry.status)).collect();
    assert!(states.len() > 450);
    assert!(states.iter().all(|state| matches!(state, Some(CardState::Produced | CardState::Failed))));
}

#[test]
fn production_may_fail() {
    let (clock, bureau) = bureau(BureauBehaviour::calm().production_failed(1000));
    let id = accepted(&bureau, "R");
    clock.advance(3 * DAY);
    let failed = known(&bureau, &id);
    assert_eq!(SimulatedBureau::status_map().state(&failed.text), Some(CardState::Failed));
    assert!(failed.read_outs.is_empty() && failed.times.produced.is_none());
}

#[test]
fn an_unknown_text_may_come_in_between() {
    let (clock, bureau) = bureau(BureauBehaviour::calm().status_unknown(1000));
    let id = accepted(&bureau, "R");
    let mut states = Vec::new();
    for _ in 0..80 {
        states.push(SimulatedBureau::status_map().state(&known(&bureau, &id).text));
        clock.advance(HOUR);
    }
    states.dedup();
    use CardState::{InProduction, Ordered, Produced};
    assert_eq!(states, [Some(Ordered), Some(InProduction), None, Some(InProduction), Some(Produced)]);
}

#[test]
fn a_status_may_go_backwards_or_be_repeated() {
    let (clock, bureau) = bureau(BureauBehaviour::calm());
    let id = accepted(&bureau, "R");
    clock.advance(4 * HOUR);
    let in_production = known(&bureau, &id);
    assert_eq!(in_production.text, "in production");

    bureau.behave(BureauBehaviour::calm().status_backwards(1000));
    assert_eq!(known(&bureau, &id).text, "received");
    clock.advance(3 * DAY);
    assert_eq!(known(&bureau, &id), in_production);

    bureau.behave(BureauBehaviour::calm().status_repeated(1000));
    assert_eq!(known(&bureau, &id), in_production);
    bureau.behave(BureauBehaviour::calm().status_unavailable(1000));
    assert!(matches!(read(&bureau, &id), StatusOutcome::Unavailable { .. }));
    bureau.behave(BureauBehaviour::calm().status_rate_limited(1000));
    assert!(matches!(read(&bureau, &id), StatusOutcome::RateLimited { .. }));
    bureau.behave(BureauBehaviour::calm());
    assert_eq!(known(&bureau, &id).text, "shipped");
}

#[test]
fn a_test_may_set_the_status() {
    let (clock, bureau) = bureau(BureauBehaviour::calm().status_backwards(1000));
    let id = accepted(&bureau, "R");
    clock.advance(HOUR);
    assert!(bureau.set_status(&id, "on hold at customs"));
    assert_eq!(known(&bureau, &id).text, "on hold at customs");
    assert!(bureau.set_status(&id, " Shipped "));
    clock.advance(HOUR);
    let shipped = known(&bureau, &id);
    assert_eq!(shipped.times.produced, Some((start() + HOUR).naive_utc()));
    assert_eq!(shipped.read_outs.len(), 3);
    assert_eq!(bureau.ledger()[0].status, " Shipped ");
    assert!(!bureau.set_status("GC-999999", "shipped"));
}

#[test]
fn a_lost_reply_leaves_an_order_on_the_books() {
    let (_, bureau) = bureau(BureauBehaviour::calm());
    bureau.next_place(PlaceScript::LoseReplyAfterAccepting);
    assert!(matches!(place(&bureau, "R"), PlaceOutcome::Unknown { .. }));
    assert_eq!(bureau.productions_for("R"), 1);
    assert_eq!(bureau.ledger()[0].elements["name"], "Ada Byron");
    assert!(!format!("{:?} {bureau:?}", bureau.ledger()).contains("Ada"));
}

#[test]
fn a_late_reply_comes_when_the_time_has_passed() {
    let (clock, bureau) = bureau(BureauBehaviour::calm().late(1000).late_by(30 * SECOND));
    let orders = [order("R")];
    let mut placing = pin!(bureau.place(&orders));
    assert!(poll(placing.as_mut()).is_pending());
    assert_eq!(bureau.productions_for("R"), 1, "it was accepted at once");
    clock.advance(29 * SECOND);
    assert!(poll(placing.as_mut()).is_pending());
    clock.advance(SECOND);
    assert!(poll(placing.as_mut()).is_ready());
}

#[test]
fn a_dropped_late_order_stays_on_the_books() {
    let (clock, bureau) = bureau(BureauBehaviour::calm());
    bureau.next_place(PlaceScript::Late(HOUR));
    assert!(bureau.place(&[order("R")]).now_or_never().is_none());
    assert_eq!(bureau.productions_for("R"), 1);
    assert_eq!(clock.sleepers(), 0, "a dropped sleep is forgotten");
}

#[test]
fn a_silent_order_is_never_answered_and_not_accepted() {
    let (clock, bureau) = bureau(BureauBehaviour::calm());
    for (script, accepted) in [(PlaceScript::Silent, 0), (PlaceScript::Late(Duration::MAX), 1)] {
        let orders = [order("other"), order("R")];
        bureau.next_place(PlaceScript::Accept);
        bureau.next_place(script);
        let mut placing = pin!(bureau.place(&orders));
        assert!(poll(placing.as_mut()).is_pending());
        clock.advance(1000 * DAY);
        assert!(poll(placing.as_mut()).is_pending());
        assert_eq!(bureau.productions_for("R"), accepted);
    }
}

#[test]
fn what_was_refused_stays_refused_where_a_reference_has_one_answer() {
    for (behaviour, stays) in [(BureauBehaviour::rich(), true), (BureauBehaviour::poor(), false)] {
        let (_, bureau) = bureau(behaviour);
        bureau.next_place(PlaceScript::Refuse("no".to_owned()));
        assert!(matches!(place(&bureau, "R"), PlaceOutcome::Refused { .. }));
        bureau.next_place(PlaceScript::LoseReplyAfterAccepting);
        assert!(matches!(place(&bureau, "R"), PlaceOutcome::Unknown { .. }));
        bureau.next_place(PlaceScript::Late(HOUR));
        let orders = [order("R")];
        let mut placing = pin!(bureau.place(&orders));
        assert_eq!(poll(placing.as_mut()).is_ready(), stays, "a no comes at once");
        assert_eq!(bureau.productions_for("R") == 0, stays);
    }
}

#[test]
fn nothing_is_accepted_read_or_found_during_an_outage() {
    let (clock, bureau) = bureau(BureauBehaviour::rich());
    let id = accepted(&bureau, "R");
    bureau.outage(start() + HOUR);
    bureau.next_place(PlaceScript::Refuse("no".to_owned()));
    assert!(matches!(place(&bureau, "S"), PlaceOutcome::Unavailable { .. }));
    assert!(matches!(place(&bureau, "R"), PlaceOutcome::Unknown { .. }), "R was accepted, so not: surely not accepted");
    assert!(matches!(read(&bureau, &id), StatusOutcome::Unavailable { .. }));
    assert!(matches!(find(&bureau, "R"), FindOutcome::Unavailable { .. }));

    clock.advance(HOUR);
    assert!(matches!(place(&bureau, "S"), PlaceOutcome::Refused { .. }), "the script waited for the end");
    assert!(matches!(place(&bureau, "T"), PlaceOutcome::Accepted(_)));
    assert!(matches!(find(&bureau, "R"), FindOutcome::Found(_)));
    assert_eq!(bureau.ledger().len(), 2);
}

#[test]
fn a_rich_bureau_finds_by_reference_and_takes_two_orders_as_one() {
    let (_, bureau) = bureau(BureauBehaviour::rich());
    assert_eq!(bureau.placement(), Placement::IdempotentByReference);
    assert_eq!(find(&bureau, "R"), FindOutcome::NotFound);
    bureau.next_place(PlaceScript::LoseReplyAfterAccepting);
    place(&bureau, "R");
    let PlaceOutcome::Accepted(second) = place(&bureau, "R") else { panic!("not accepted") };
    assert_eq!(second.card_id.as_deref(), Some("GC-000001-1"));
    bureau.next_place(PlaceScript::Refuse("no".to_owned()));
    assert_eq!(place(&bureau, "R"), PlaceOutcome::Accepted(second.clone()), "what was accepted is not refused");
    assert_eq!(find(&bureau, "R"), FindOutcome::Found(second));
    assert_eq!(find(&bureau, "r"), FindOutcome::NotFound);
    assert_eq!(bureau.productions_for("R"), 1);
    assert_eq!(bureau.ledger().len(), 1);
}

#[test]
fn an_order_may_be_found_late_but_read_at_once() {
    let (clock, bureau) = bureau(BureauBehaviour::rich().found_late(HOUR));
    let id = accepted(&bureau, "R");
    assert_eq!(find(&bureau, "R"), FindOutcome::NotFound);
    assert_eq!(known(&bureau, &id).text, "received");
    clock.advance(HOUR);
    assert!(matches!(find(&bureau, "R"), FindOutcome::Found(_)));
}

#[test]
fn a_remembered_order_goes_on_and_its_id_is_not_given_again() {
    let (clock, bureau) = bureau(BureauBehaviour::calm());
    for id in ["GC-000002", "GC-000001", "GC-000002"] {
        bureau.remember(id, start());
    }
    assert_eq!(bureau.ledger().len(), 2, "one that it knows is not taken twice");
    assert_eq!(accepted(&bureau, "new"), "GC-000003");
    assert_eq!(known(&bureau, "GC-000001").text, "received");
    clock.advance(3 * DAY);
    assert_eq!(known(&bureau, "GC-000001").text, "shipped");
    bureau.remember("GC-000005", start());
    assert_eq!(accepted(&bureau, "another"), "GC-000006");
}

#[test]
fn behaviour_is_data() {
    let behaviour = BureauBehaviour::rich().refused(17).late_by(5 * SECOND);
    let text = serde_json::to_string(&behaviour).expect("json");
    assert_eq!(serde_json::from_str::<BureauBehaviour>(&text).expect("behaviour"), behaviour);
    assert_eq!(serde_json::from_str::<BureauBehaviour>("{}").expect("behaviour"), BureauBehaviour::poor());
    assert!(serde_json::from_str::<BureauBehaviour>(r#"{"refussed": 3}"#).is_err());
}

#[test]
fn a_sleep_ends_when_the_clock_has_passed_it() {
    let clock = SimulatedClock::new(start());
    let mut short = pin!(clock.sleep(SECOND));
    let mut long = pin!(clock.sleep(3 * SECOND));
    assert!(poll(long.as_mut()).is_pending() && poll(short.as_mut()).is_pending());
    assert_eq!(clock.sleepers(), 2);
    assert!(clock.advance_to_next());
    assert_eq!(clock.now(), start() + SECOND);
    assert!(poll(short.as_mut()).is_ready() && poll(long.as_mut()).is_pending());
    clock.advance(5 * SECOND);
    assert!(poll(long.as_mut()).is_ready());
    assert_eq!(clock.now(), start() + 6 * SECOND);
    assert!(!clock.advance_to_next());
    assert!(clock.sleep(Duration::ZERO).now_or_never().is_some());
}

#[test]
fn sleepers_are_woken_in_the_order_in_which_their_sleeps_end() {
    use std::sync::Mutex;
    struct Note(u64, Arc<Mutex<Vec<u64>>>);
    impl std::task::Wake for Note {
        fn wake(self: Arc<Self>) {
            self.1.lock().expect("no panic").push(self.0);
        }
    }
    let clock = SimulatedClock::new(start());
    let woken = Arc::default();
    let mut sleeps: Vec<_> = [3, 1, 2, 9, 1].map(|seconds| clock.sleep(Duration::from_secs(seconds))).into();
    for (number, sleep) in (0..).zip(&mut sleeps) {
        let waker = Waker::from(Arc::new(Note(number, Arc::clone(&woken))));
        assert!(sleep.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    clock.advance(5 * SECOND);
    assert_eq!(*woken.lock().expect("no panic"), [1, 4, 2, 0]);
}

#[test]
fn an_automatic_clock_lets_the_shorter_sleep_go_first() {
    let clock = SimulatedClock::new(start()).auto();
    drive(clock.sleep(DAY));
    assert_eq!(clock.now(), start() + DAY);

    let bureau = SimulatedBureau::new(1, Arc::new(clock.clone())).behaving(BureauBehaviour::calm());
    let orders = [order("R")];
    for (late_by, answered) in [(20 * SECOND, true), (40 * SECOND, false)] {
        let before = clock.now();
        bureau.next_place(PlaceScript::Late(late_by));
        let first = drive(select(bureau.place(&orders), clock.sleep(30 * SECOND)));
        assert_eq!(matches!(first, Either::Left(_)), answered);
        assert_eq!(clock.now(), before + late_by.min(30 * SECOND));
        drop(first);
        assert_eq!(clock.sleepers(), 0);
    }
    bureau.next_place(PlaceScript::Silent);
    assert!(matches!(drive(select(bureau.place(&orders), clock.sleep(30 * SECOND))), Either::Right(_)));
}

#[test]
fn it_serves_as_a_shared_provider() {
    fn is_sendable<T: Send>(value: T) -> T {
        value
    }
    let (_, bureau) = bureau(BureauBehaviour::calm());
    let shared: Arc<dyn GoCardsProvider> = Arc::new(bureau.clone());
    let outcomes = is_sendable(shared.place(&[order("R")])).now_or_never();
    assert!(matches!(outcomes.as_deref(), Some([PlaceOutcome::Accepted(_)])));
    assert_eq!(bureau.ledger().len(), 1, "clones share one bureau");
}
