//! The nouns: card numbers, ids, search folding, revocation reasons, production types, and what they look like stored.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use cardwright::host::{CardQuery, RequestQuery, StatusMap, TextPrefix, UserFilter};
use cardwright::process::{
    Answer, Field, FieldKind, Filter, Form, HouseRules, ItemId, ItemKind, Outcome, ProcessDefinition, ProcessRegistry,
    Refusal, RefusalCode, SelfApproval, Slot,
};
use cardwright::{
    Actor, ActorId, ApprovalRequest, Attempt, BureauTimes, Busy, Card, CardElement, CardId, CardKind, CardState,
    Certificate, CertificateId, CertificateKind, CertificateState, ChainHead, ChainKey, Delivery, Digest, ElementError,
    Failure, FailurePhase, HistoryEntry, Interruption, IssuedCertificate, Job, JobId, JobKind, JobState, Message,
    MessageId, MessageKind, NumberRange, NumberRangeError, ObjectId, Order, Production, ProductionType, ReadOut,
    Recipient, Record, Report, RequestId, RequestState, Reservation, RevocationReason, Role, Route, Run, RunId,
    SecretPlan, Stamp, State as _, StateAtCa, SymbolicName, Task, User, UserId, UserState, UserToCardMap, Why,
    Withdrawal, fold,
};
use chrono::{DateTime, TimeZone as _, Utc};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use uuid::Uuid;

// ---- number ranges ----

/// Areas that neither overlap nor run backwards, in any order; small enough to be drawn to the end.
fn areas() -> impl Strategy<Value = Vec<(u64, u64)>> {
    proptest::collection::vec((0_u64..40, 1_u64..60), 1..6)
        .prop_map(|steps| {
            let mut end = 0;
            steps
                .into_iter()
                .map(|(gap, long)| {
                    let from = end + gap;
                    end = from + long;
                    (from, end - 1)
                })
                .collect::<Vec<_>>()
        })
        .prop_shuffle()
}

proptest! {
    #[test]
    fn a_number_is_never_drawn_twice_and_none_is_lost(
        areas in areas(),
        excluded in proptest::collection::btree_set(0_u64..500, 0..40),
        chunks in proptest::collection::vec(0_usize..50, 0..30),
    ) {
        let said: Vec<String> = areas
            .iter()
            .flat_map(|&(from, to)| from..=to)
            .filter(|number| !excluded.contains(number))
            .map(|number| number.to_string())
            .collect();
        let mut range = NumberRange::new(areas).expect("good areas").excluding(excluded);
        let mut drawn = Vec::new();
        for count in chunks {
            let some = range.draw(count);
            prop_assert_eq!(some.len(), count.min(said.len() - drawn.len()), "as many as asked, while there are any");
            drawn.extend(some);
            // A range is kept in the store between two draws.
            let stored = serde_json::to_string(&range).expect("a range can be stored");
            range = serde_json::from_str(&stored).expect("a stored range can be read");
        }
        drawn.extend(range.draw(1_000));
        prop_assert_eq!(drawn.iter().collect::<BTreeSet<_>>().len(), drawn.len(), "none comes twice");
        prop_assert_eq!(drawn, said, "all come, area by area");
        prop_assert!(range.draw(1).is_empty(), "an exhausted range stays exhausted");
    }

    #[test]
    fn no_number_is_longer_than_the_range_says(
        areas in areas(),
        prefix in ".{0,5}",
        suffix in ".{0,5}",
        padding in 0_usize..30,
    ) {
        let mut range = NumberRange::new(areas).expect("good areas").prefix(prefix).suffix(suffix).padding(padding);
        let said = range.longest();
        let drawn = range.draw(1_000);
        let found = drawn.iter().map(|number| number.chars().count()).max();
        prop_assert_eq!(found, Some(said));
    }

    #[test]
    fn areas_are_taken_exactly_if_no_number_is_in_two(
        areas in proptest::collection::vec((0_u64..30, 0_u64..30), 0..5),
    ) {
        let upside_down = areas.iter().any(|(from, to)| from > to);
        let mut seen = BTreeSet::new();
        let doubled = areas.iter().flat_map(|&(from, to)| from..=to).any(|number| !seen.insert(number));
        let good = !areas.is_empty() && !upside_down && !doubled;
        prop_assert_eq!(NumberRange::new(areas).is_ok(), good);
    }
}

#[test]
fn areas_that_make_no_range_are_refused_by_name() {
    assert_eq!(NumberRange::new([]), Err(NumberRangeError::Empty));
    assert_eq!(NumberRange::new([(5, 4)]), Err(NumberRangeError::UpsideDown { from: 5, to: 4 }));
    for (first, second) in [((1, 5), (5, 9)), ((5, 9), (1, 5)), ((1, 9), (3, 4)), ((3, 4), (1, 9)), ((2, 2), (2, 2))] {
        assert_eq!(
            NumberRange::new([(100, 200), first, second]),
            Err(NumberRangeError::Overlap { first, second }),
            "{first:?} and {second:?}"
        );
    }
    assert!(NumberRange::new([(6, 9), (1, 5)]).is_ok(), "areas may touch, in any order");
    assert_eq!(
        NumberRange::new([(1, 2), (2, 3)]).expect_err("they overlap").to_string(),
        "areas (1, 2) and (2, 3) overlap: a number could be drawn twice"
    );
}

#[test]
fn a_range_ends_at_the_greatest_number_there_is() {
    let mut range = NumberRange::new([(u64::MAX - 1, u64::MAX)]).expect("good areas");
    assert_eq!(range.draw(5), [(u64::MAX - 1).to_string(), u64::MAX.to_string()]);
    assert!(range.draw(5).is_empty());
}

#[test]
fn numbers_are_padded_between_prefix_and_suffix() {
    let range = || NumberRange::new([(7, 7), (12345, 12345)]).expect("good areas");
    let cases = [
        (range(), ["7", "12345"]),
        (range().padding(4), ["0007", "12345"]),
        (range().prefix("C-").suffix("/é"), ["C-7/é", "C-12345/é"]),
        (range().prefix("{}").padding(6).suffix("%s"), ["{}000007%s", "{}012345%s"]),
    ];
    for (mut range, numbers) in cases {
        assert_eq!(range.draw(2), numbers);
    }
    assert_eq!(range().padding(usize::MAX).draw(1)[0].len(), 20, "padding ends at 20 digits");
    assert!(range().excluding([7, 12345]).draw(1).is_empty(), "all may be excluded");
}

// ---- ids ----

#[test]
fn a_symbolic_name_is_ascii_letters_and_digits_a_letter_first() {
    let long = "A".repeat(100);
    for good in ["A", "z9", "CardsBoProcRequestMulitple", "TempCardsAddonExtProdInitialize", &long] {
        let name = SymbolicName::new(good).unwrap_or_else(|error| panic!("{good:?}: {error}"));
        assert_eq!(name.as_str(), good, "never re-cased or corrected");
        assert_eq!(good.parse::<SymbolicName>().as_ref(), Ok(&name));
    }
    let too_long = "A".repeat(101);
    for bad in
        ["", " ", "9Cards", "_x", "Cards Proc", "Cards-Proc", " Cards", "Cards\n", "A\0B", "Ä", "🙂", "С", &too_long]
    {
        let error = SymbolicName::new(bad).expect_err(bad);
        assert!(error.to_string().contains("1 to 100 ASCII letters and digits, a letter first"), "{bad:?}: {error}");
        assert!(serde_json::from_value::<SymbolicName>(json!(bad)).is_err(), "{bad:?} does not come in by serde");
    }
    assert_ne!(SymbolicName::new("cards").expect("good"), SymbolicName::new("Cards").expect("good"));
}

#[test]
fn a_user_id_is_any_text_of_1_to_256_characters_without_control_characters() {
    let long = "ü".repeat(256);
    for good in
        ["u", " ", "CN=Ångström\\, Åsa,OU=Büro", "🙂👩‍👩‍👧", "\u{202e}evil", "山田太郎", "o'neil; DROP TABLE", &long]
    {
        let id = UserId::new(good).unwrap_or_else(|error| panic!("{good:?}: {error}"));
        assert_eq!(id.as_str(), good);
        assert_eq!(String::from(id), good);
        assert!(ActorId::new(good).is_ok());
    }
    let too_long = "ü".repeat(257);
    for bad in ["", "\0", "u\0", "u\n1", "\t", "u\u{7f}", "u\u{85}", &too_long] {
        let error = UserId::new(bad).expect_err("must be refused");
        assert!(error.to_string().contains("1 to 256 characters without control characters"), "{error}");
        assert!(ActorId::new(bad).is_err(), "{bad:?}");
        assert!(serde_json::from_value::<UserId>(json!(bad)).is_err(), "{bad:?} does not come in by serde");
        assert!(serde_json::from_value::<ActorId>(json!(bad)).is_err(), "{bad:?} does not come in by serde");
    }
    let message = UserId::new("x".repeat(1_000_000)).expect_err("too long").to_string();
    assert!(message.len() < 300, "a refusal does not repeat a megabyte");
}

#[test]
fn uuids_are_read_and_shown_alike() {
    let text = "6f1c9a52-0d1f-4a57-9a6b-0f4c1d2e3f40";
    let id: CardId = text.parse().expect("a UUID");
    assert_eq!(id.to_string(), text);
    assert_eq!(format!("{id:?}"), format!("CardId({text})"));
    assert_eq!(serde_json::to_value(id).expect("can be stored"), json!(text));
    for bad in ["", "card", "6f1c9a52-0d1f-4a57-9a6b-0f4c1d2e3f4", "6f1c9a52-0d1f-4a57-9a6b-0f4c1d2e3f4g", "🙂", "\0"]
    {
        let error = bad.parse::<JobId>().expect_err(bad);
        assert!(error.to_string().ends_with("is not valid: allowed is a UUID"), "{error}");
    }
}

#[test]
fn derived_ids_never_change() {
    // These are in the stores of hosts: a run that is finished by a later release must name the same things.
    let run = run_id(7);
    let card = CardId::derive(run, "user u1", "card");
    assert_eq!(card.to_string(), "71ffc7fc-ed43-5217-8d89-48d8a43b7f25");
    assert_eq!(JobId::derive(run, "user u1", "order").to_string(), "63515439-1bcb-5c69-87c3-d57fcdcbc574");
    assert_eq!(MessageId::derive(run, "", "").to_string(), "1705e6c8-5bfc-52dc-ac7d-46a4cfc65417");

    assert_eq!(CardId::derive(run, "user u1", "card"), card);
    assert_ne!(CardId::derive(run_id(8), "user u1", "card"), card);
    assert_ne!(CardId::derive(run, "user u2", "card"), card);
    assert_ne!(CardId::derive(run, "user u1", "order"), card);
    assert_ne!(CardId::derive(run, "b", "a"), CardId::derive(run, "", "ab"), "item and purpose stay apart");
}

proptest! {
    #[test]
    fn two_items_or_purposes_never_share_a_derived_id(
        one in ("[a-z ]{0,6}", "[a-z ]{0,6}"),
        other in ("[a-z ]{0,6}", "[a-z ]{0,6}"),
    ) {
        let id = |(item, purpose): &(String, String)| CardId::derive(run_id(7), item, purpose);
        prop_assert_eq!(id(&one) == id(&other), one == other);
    }
}

#[test]
fn the_next_attempt_and_a_follow_up_never_change() {
    let mut job =
        Job::new(job_id(5), Task::PlaceOrder { notify_holder: true, queued: true }, None, &Scene::new().stamp());
    assert_eq!(job.next_attempt(noon()).reference, "00000000000000000000000000000005-1");
    let first = job.follow_up("notify");
    assert_eq!(first, job.follow_up("notify"), "however often the answer is applied");
    assert_ne!(first, job.follow_up("track"));
    job.attempts = 1;
    assert_eq!(job.next_attempt(noon()).reference, "00000000000000000000000000000005-2", "one per attempt");
    assert_ne!(first, job.follow_up("notify"), "another attempt is followed by another job");
}

// ---- folding for search ----

#[test]
fn texts_are_folded_for_case_and_accents() {
    let table = [
        ("", ""),
        ("ABC-12 x", "abc-12 x"),
        ("Ångström", "angstrom"),
        ("A\u{30a}ngstro\u{308}m", "angstrom"),
        ("ÉÈÊË éèêë", "eeee eeee"),
        ("Dvořák, Şükrü, Çelik, Ñuñez", "dvorak, sukru, celik, nunez"),
        ("İstanbul", "istanbul"),
        ("ısı", "isi"),
        ("Straße", "strasse"),
        ("STRAẞE", "strasse"),
        ("ﬁnn", "finn"),
        ("Ｗｉｄｅ", "wide"),
        ("Ærø Łódź", "aero lodz"),
        ("ΑΘΉΝΑ", "αθηνα"),
        ("ΓΙΏΡΓΟΣ Γιώργος", "γιωργοσ γιωργοσ"),
        ("Ёлкин", "елкин"),
        ("山田 太郎", "山田 太郎"),
        ("مُحَمَّد", "محمد"),
        ("🙂 É", "🙂 e"),
        ("\u{202e}Ab", "\u{202e}ab"),
        ("a\0B", "a\0b"),
    ];
    for (text, folded) in table {
        assert_eq!(fold(text), folded, "{text:?}");
    }
    assert_eq!(fold("가각"), fold("\u{1100}\u{1161}\u{1100}\u{1161}\u{11a8}"), "Hangul, composed or not");
}

proptest! {
    #[test]
    fn a_folded_text_is_folded_for_good(text in any::<String>()) {
        let once = fold(&text);
        prop_assert_eq!(fold(&once), once);
    }

    #[test]
    fn a_text_is_found_by_each_of_its_beginnings(text in any::<String>(), at in any::<proptest::sample::Index>()) {
        let chars: Vec<char> = text.chars().collect();
        let beginning: String = chars[..at.index(chars.len() + 1)].iter().collect();
        prop_assert!(fold(&text).starts_with(&fold(&beginning)), "{text:?} by {beginning:?}");
    }

    #[test]
    fn ascii_letters_are_folded_alike_beside_any_other_text(text in "[ -~]{0,20}") {
        // Pure ASCII takes a shorter way through the code.
        prop_assert_eq!(fold(&format!("é{text}")), format!("e{}", fold(&text)));
    }
}

#[test]
fn a_card_is_found_by_its_number_and_its_searchable_attributes_only() {
    let mut card = Scene::new().card();
    card.number = Some("C-Ä1".to_owned());
    card.attributes = texts([("lastName", "Ångström"), ("upn", "secret@example.com")]);
    card.searchable = Arc::new(BTreeSet::from(["lastName".to_owned(), "missing".to_owned()]));
    let terms: Vec<_> = card.search_terms().collect();
    assert_eq!(terms, [("number", "c-a1".to_owned()), ("lastName", "angstrom".to_owned())]);
}

// ---- revocation reasons ----

#[test]
fn a_revocation_reason_has_its_rfc_5280_name() {
    let table = [
        ("unspecified", RevocationReason::Unspecified),
        ("keyCompromise", RevocationReason::KeyCompromise),
        ("cACompromise", RevocationReason::CaCompromise),
        ("affiliationChanged", RevocationReason::AffiliationChanged),
        ("superseded", RevocationReason::Superseded),
        ("cessationOfOperation", RevocationReason::CessationOfOperation),
        ("privilegeWithdrawn", RevocationReason::PrivilegeWithdrawn),
        ("aACompromise", RevocationReason::AaCompromise),
    ];
    for (name, reason) in table {
        assert_eq!(RevocationReason::named(name), Ok(reason));
        assert_eq!(reason.name(), name);
    }
    assert_eq!(RevocationReason::default(), RevocationReason::Unspecified);
}

#[test]
fn a_typo_revokes_nothing() {
    let typos = ["", "Unspecified", "keycompromise", "key compromise", "keyCompromise ", "superceded", "1", "\0"];
    // These two are in the RFC's list, and do not end a certificate.
    for name in typos.into_iter().chain(["certificateHold", "removeFromCRL"]) {
        let error = RevocationReason::named(name).expect_err("no reason of this name");
        assert!(error.to_string().contains("allowed are unspecified, keyCompromise"), "{name:?}: {error}");
    }
}

// ---- production types ----

fn badge() -> ProductionType {
    ProductionType::new("standard", "ART-1")
        .element(CardElement::required("NAME", "commonName", 8))
        .element(CardElement::required("NUMBER", Card::NUMBER, 6))
        .element(CardElement::optional("TITLE", "title", 3))
}

fn card_with(number: Option<&str>, attributes: &[(&str, &str)]) -> Card {
    let mut card = Scene::new().card();
    card.number = number.map(str::to_owned);
    card.attributes = texts(attributes.iter().copied());
    card
}

#[test]
fn an_order_is_checked_against_its_production_type() {
    let missing = |element: &str, attribute: &str| {
        Err(ElementError::Missing {
            element: element.to_owned(),
            attribute: attribute.to_owned(),
            production_type: "standard".to_owned(),
        })
    };
    let too_long = |element: &str, found, allowed| {
        Err(ElementError::TooLong {
            element: element.to_owned(),
            found,
            allowed,
            production_type: "standard".to_owned(),
        })
    };
    let table = [
        ("all there", Some("C-0001"), vec![("commonName", "Ann"), ("title", "Dr")], Ok(())),
        ("optional missing", Some("C-0001"), vec![("commonName", "Ann")], Ok(())),
        ("exactly as long as allowed", Some("C-0001"), vec![("commonName", "Ünlü👩‍👧")], Ok(())),
        ("required missing", Some("C-0001"), vec![], missing("NAME", "commonName")),
        ("required empty", Some("C-0001"), vec![("commonName", "")], missing("NAME", "commonName")),
        ("required blank", Some("C-0001"), vec![("commonName", " \u{a0}\t")], missing("NAME", "commonName")),
        (
            "required unseen",
            Some("C-0001"),
            vec![("commonName", "\u{200e}\u{200b} \u{feff}")],
            missing("NAME", "commonName"),
        ),
        ("seen among the unseen", Some("C-0001"), vec![("commonName", "\u{200e}Ann")], Ok(())),
        ("too long", Some("C-0001"), vec![("commonName", "Annabelle")], too_long("NAME", 9, 8)),
        ("too long, optional", Some("1"), vec![("commonName", "Ann"), ("title", "Prof")], too_long("TITLE", 4, 3)),
        ("number too long", Some("C-00001"), vec![("commonName", "Ann")], too_long("NUMBER", 7, 6)),
        ("the first problem counts", None, vec![("title", "Prof")], missing("NAME", "commonName")),
    ];
    for (case, number, attributes, expected) in table {
        let card = card_with(number, &attributes);
        assert_eq!(badge().check(&card, 6), expected, "{case}");
        assert_eq!(badge().elements_of(&card).map(drop), expected, "{case}: the same when it is sent");
    }
}

#[test]
fn a_card_without_a_number_is_checked_as_if_it_had_the_longest_and_never_sent() {
    let card = card_with(None, &[("commonName", "Ann")]);
    assert_eq!(badge().check(&card, 6), Ok(()));
    assert!(matches!(badge().check(&card, 7), Err(ElementError::TooLong { found: 7, allowed: 6, .. })));
    assert!(matches!(badge().elements_of(&card), Err(ElementError::Missing { element, .. }) if element == "NUMBER"));
}

#[test]
fn the_elements_have_the_bureaus_names_and_empty_ones_are_left_out() {
    let card = card_with(Some("C-1"), &[("commonName", "Ann"), ("title", " "), ("upn", "not asked for")]);
    assert_eq!(badge().elements_of(&card), Ok(texts([("NAME", "Ann"), ("NUMBER", "C-1")])));
}

#[test]
fn a_refused_element_is_named_and_its_value_is_not() {
    let card = card_with(Some("C-1"), &[("commonName", "Annabelle Secret")]);
    let error = badge().check(&card, 6).expect_err("too long");
    assert_eq!(
        error.to_string(),
        "card element `NAME` of production type `standard` has 16 characters; at most 8 are allowed"
    );
    let error = badge().check(&card_with(Some("C-1"), &[]), 6).expect_err("missing");
    assert_eq!(
        error.to_string(),
        "card element `NAME` of production type `standard` is required; attribute `commonName` is empty"
    );
}

#[test]
fn the_mapping_copies_what_the_user_has_and_removes_what_is_gone() {
    let map = UserToCardMap {
        attributes: vec![("mail".to_owned(), "email".to_owned()), ("title".to_owned(), "title".to_owned())],
        searchable: Arc::new(BTreeSet::from(["email".to_owned()])),
    };
    let mut card = card_with(None, &[("title", "of last year"), ("kept", "as it was")]);
    map.copy(&texts([("mail", "a@example.com"), ("salary", "1")]), &mut card).expect("plain texts");
    assert_eq!(card.attributes, texts([("email", "a@example.com"), ("kept", "as it was")]));
    assert_eq!(*card.searchable, BTreeSet::from(["email".to_owned()]));
}

// ---- digests ----

#[test]
fn a_digest_is_64_hexadecimal_digits() {
    let digest = Digest::of("abc");
    let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(digest.to_string(), hex);
    assert_eq!(format!("{digest:?}"), hex);
    assert_eq!(digest.bytes()[..2], [0xba, 0x78]);
    assert_eq!(serde_json::to_value(digest).expect("can be stored"), json!(hex));
    assert_eq!(serde_json::from_value::<Digest>(json!(hex)).expect("can be read"), digest);
    assert_eq!(Digest::default().to_string(), "0".repeat(64));
    let doubled = format!("{hex}{hex}");
    let sign = format!("+{}", &hex[1..]);
    for bad in ["", &hex[1..], &doubled, &format!("{}g", &hex[1..]), &sign, &"é".repeat(32), &" ".repeat(64)] {
        let error = serde_json::from_value::<Digest>(json!(bad)).expect_err("no digest");
        assert!(error.to_string().contains("64 hexadecimal digits"), "{bad:?}: {error}");
    }
}

proptest! {
    #[test]
    fn every_digest_comes_back(text in any::<String>()) {
        round_trip(&Digest::of(&text));
    }
}

#[test]
fn a_chain_key_never_shows_itself() {
    assert_eq!(format!("{:?}", ChainKey::new(b"secret")), "ChainKey(set)");
    assert_eq!(format!("{:?}", ChainKey::none()), "ChainKey(none)");
}

// ---- stored and read again ----

/// What all examples share.
struct Scene {
    actor: ActorId,
    process: SymbolicName,
    key: ChainKey,
}

impl Scene {
    fn new() -> Self {
        Self { actor: ActorId::new("olga").expect("good"), process: name("CardsProcApproval"), key: ChainKey::none() }
    }

    fn stamp(&self) -> Stamp<'_> {
        Stamp { at: noon(), actor: &self.actor, process: &self.process, run: Some(run_id(7)), key: &self.key }
    }

    fn card(&self) -> Card {
        Card::create(
            CardId::new(Uuid::from_u128(1)),
            CardKind::Permanent,
            Route::External,
            &self.stamp(),
            Why::default(),
        )
        .0
    }

    /// A card with something in every field.
    fn full_card(&self) -> Card {
        let mut card = self.card();
        card.transition(CardState::Processing, &self.stamp(), Why::code("order_decided")).expect("allowed");
        card.holder = Some(user_id("CN=Ångström 🙂"));
        card.number = Some("C-0001".to_owned());
        card.attributes = texts([("commonName", "Åsa \u{202e}x\0\""), ("", "empty name")]);
        card.searchable = Arc::new(BTreeSet::from(["commonName".to_owned()]));
        card.production_type = Some("standard".to_owned());
        card.order = Some(Order {
            order_id: Some("O-1".to_owned()),
            card_id: Some("K-1".to_owned()),
            status: Some("In Produktion".to_owned()),
            unknown_statuses: BTreeSet::from(["???".to_owned()]),
            times: BureauTimes {
                produced: Some(noon().naive_utc()),
                delivered: Some(noon().naive_utc()),
                activated: None,
            },
            read_outs: vec![ReadOut { technology: "LEGIC".to_owned(), value: "04A1".to_owned() }; 2],
            earlier: vec!["O-0".to_owned()],
            ..Order::decided(job_id(2))
        });
        card.failure = Some(Failure { phase: FailurePhase::BureauProduction, cause: "broken chip".to_owned() });
        card.withdrawal = Some(Withdrawal::Order);
        card.request = Some(RequestId::new(Uuid::from_u128(3)));
        card.busy = Some(Busy { job: job_id(2), since: noon(), in_doubt: true });
        card.reservations = vec!["open order/u1".to_owned()];
        card.production = Some(production());
        card.produced = Some(job_id(8));
        card.chip_serial = Some("04:A1:🙂".to_owned());
        card.valid_until = Some(noon());
        card
    }

    fn certificate(&self, kind: CertificateKind) -> Certificate {
        Certificate::issued(
            CertificateId::new(Uuid::from_u128(4)),
            CardId::new(Uuid::from_u128(1)),
            kind,
            job_id(8),
            "0008-signature",
            issued_certificate(),
            &self.stamp(),
        )
        .0
    }

    fn request(&self) -> ApprovalRequest {
        let (mut request, _) = ApprovalRequest::open(
            RequestId::new(Uuid::from_u128(3)),
            Route::Local,
            texts([("production type", "standard")]),
            CardId::new(Uuid::from_u128(1)),
            user_id("u1"),
            self.person(),
            &self.stamp(),
            Why::code("asked"),
        );
        request.transition(RequestState::Rejected, &self.stamp(), Why::code("rejected")).expect("allowed");
        request.reason = Some("no".to_owned());
        request
    }

    fn person(&self) -> Actor {
        Actor::person(self.actor.clone(), user_id("p-olga"), [Role::Operator, Role::custom("porter").unwrap()])
    }

    fn job(&self, task: Task) -> Job {
        let mut job = Job::new(job_id(2), task, Some(CardId::new(Uuid::from_u128(1))), &self.stamp());
        job.state = JobState::InDoubt;
        job.attempts = 3;
        job.attempt = Some(Attempt { reference: "r-3".to_owned(), number: 3, started: noon() });
        job.setbacks = 2;
        job.remark = Some("no answer".to_owned());
        job
    }
}

fn noon() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2030, 1, 7, 12, 0, 0).single().expect("a valid time")
        + chrono::TimeDelta::microseconds(123_456)
}

fn name(name: &str) -> SymbolicName {
    SymbolicName::new(name).expect("a good name")
}

fn user_id(id: &str) -> UserId {
    UserId::new(id).expect("a good id")
}

fn run_id(number: u128) -> RunId {
    RunId::new(Uuid::from_u128(number))
}

fn job_id(number: u128) -> JobId {
    JobId::new(Uuid::from_u128(number))
}

/// A production that has got as far as it can.
fn production() -> Production {
    Production {
        id: job_id(9),
        certificates: vec![CertificateKind::Signature, CertificateKind::Authentication],
        card_end_state: CardState::Active,
        certificate_end_state: CertificateState::Valid,
        pin: SecretPlan { length: 6, delivery: Delivery::Print },
        puk: SecretPlan { length: 8, delivery: Delivery::Email },
        handle: Some("tray 3 / \"slot\" 7".to_owned()),
        requests: BTreeMap::from([
            (CertificateKind::Signature, "-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n".to_owned()),
            (CertificateKind::Encryption, String::new()),
        ]),
    }
}

fn issued_certificate() -> IssuedCertificate {
    IssuedCertificate {
        issuer: "CN=Office \"CA\", O=Ångström".to_owned(),
        serial: "0a1b".to_owned(),
        valid_until: noon(),
        pem: "-----BEGIN CERTIFICATE-----\nMIIB\r\n-----END CERTIFICATE-----\n".to_owned(),
    }
}

fn texts<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Stored as text and as a value, and read again, it is the same.
#[track_caller]
fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let text = serde_json::to_string(value).expect("it can be stored");
    let read: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(&read, value, "{text}");
    let tree = serde_json::to_value(value).expect("it can be stored");
    assert_eq!(&serde_json::from_value::<T>(tree).expect("a value can be read"), value);
}

#[test]
fn cards_and_certificates_come_back_as_they_were_stored() {
    let scene = Scene::new();
    round_trip(&scene.card());
    round_trip(&scene.full_card());
    for kind in [CardKind::Permanent, CardKind::Temporary] {
        for route in [Route::Local, Route::External] {
            round_trip(&Card::create(CardId::new(Uuid::nil()), kind, route, &scene.stamp(), Why::default()).0);
        }
    }
    for state in CardState::ALL {
        round_trip(&state);
    }
    for kind in CertificateKind::ALL {
        round_trip(&scene.certificate(kind));
    }
    let mut certificate = scene.certificate(CertificateKind::Signature);
    certificate.transition(CertificateState::OnHold, &scene.stamp(), Why::code("held")).expect("allowed");
    certificate.at_ca = StateAtCa::OnHold;
    certificate.note(&scene.stamp(), Why::code("reconciled"));
    round_trip(&certificate);
    round_trip(&issued_certificate());
    for state in [StateAtCa::Valid, StateAtCa::OnHold, StateAtCa::Revoked, StateAtCa::Expired] {
        round_trip(&state);
    }
}

#[test]
fn a_production_comes_back_as_it_was_stored() {
    round_trip(&production());
    round_trip(&Production { certificates: Vec::new(), handle: None, requests: BTreeMap::new(), ..production() });
    for delivery in [Delivery::None, Delivery::Print, Delivery::Email] {
        round_trip(&SecretPlan { length: 0, delivery });
        round_trip(&delivery);
    }
}

#[test]
fn a_card_without_a_production_is_stored_as_before_there_was_one() {
    let scene = Scene::new();
    let stored = serde_json::to_value(scene.card()).expect("it can be stored");
    for field in ["production", "produced", "chip_serial"] {
        assert_eq!(stored.get(field), None, "{field}");
    }
    assert_eq!(serde_json::from_value::<Card>(stored).expect("it can be read"), scene.card());
}

#[test]
fn a_certificate_is_current_while_it_is_of_the_last_good_production_and_has_not_ended() {
    let scene = Scene::new();
    let mut card = scene.card();
    let mut certificate = scene.certificate(CertificateKind::Signature);
    assert!(!certificate.is_current(&card), "a card that was not produced has none");
    card.produced = Some(job_id(7));
    assert!(!certificate.is_current(&card), "it is of another production");
    card.produced = Some(certificate.production);
    for (state, current) in
        [(CertificateState::OnHold, true), (CertificateState::Valid, true), (CertificateState::Revoked, false)]
    {
        certificate.transition(state, &scene.stamp(), Why::code("moved")).expect("allowed");
        assert_eq!(certificate.is_current(&card), current, "{state}");
    }
}

#[test]
fn the_version_of_an_object_is_the_stores_and_is_not_stored_inside_it() {
    let scene = Scene::new();
    let mut card = scene.card();
    card.version = 9;
    let stored = serde_json::to_value(&card).expect("it can be stored");
    assert_eq!(stored.get("version"), None);
    assert_eq!(serde_json::from_value::<Card>(stored).expect("it can be read").version, 0);
    let mut job = scene.job(Task::PlaceOrder { notify_holder: false, queued: true });
    job.version = 9;
    let stored = serde_json::to_value(&job).expect("it can be stored");
    assert_eq!((stored.get("version"), stored.get("claim")), (None, None));
    let mut certificate = scene.certificate(CertificateKind::Signature);
    certificate.version = 9;
    let stored = serde_json::to_value(&certificate).expect("it can be stored");
    assert_eq!(stored.get("version"), None);
    assert_eq!(serde_json::from_value::<Certificate>(stored).expect("it can be read").version, 0);
}

#[test]
fn people_requests_and_roles_come_back_as_they_were_stored() {
    let scene = Scene::new();
    round_trip(&scene.request());
    round_trip(&scene.person());
    round_trip(&Actor::system(scene.actor.clone(), [Role::BatchSync]));
    for role in [
        Role::Operator,
        Role::Approver,
        Role::CardProductionAdministrator,
        Role::Administrator,
        Role::SelfService,
        Role::BatchSync,
        Role::custom("porter").unwrap(),
    ] {
        round_trip(&role);
    }
    for state in [
        UserState::Registered,
        UserState::Requested,
        UserState::Aborted,
        UserState::Approved,
        UserState::Rejected,
        UserState::Active,
        UserState::Inactive,
        UserState::Locked,
    ] {
        round_trip(&User::new(user_id("u1"), state, texts([("upn", "u1@example.com")])));
    }
}

#[test]
fn jobs_of_every_task_come_back_as_they_were_stored() {
    let scene = Scene::new();
    let message = |kind, recipient| {
        Task::Notify(Message {
            id: MessageId::new(Uuid::from_u128(6)),
            kind,
            recipient,
            data: texts([("task", "a name that the stored form uses itself"), ("number", "C-1")]),
            locale: Some("de-CH".to_owned()),
        })
    };
    let certificate = CertificateId::new(Uuid::from_u128(4));
    let tasks = [
        (Task::PlaceOrder { notify_holder: true, queued: true }, JobKind::PlaceOrder),
        (Task::TrackOrder { order_id: "O-1".to_owned() }, JobKind::TrackOrder),
        (Task::PrepareCard, JobKind::PrepareCard),
        (
            Task::IssueCertificate { kind: CertificateKind::Encryption, production: job_id(3) },
            JobKind::IssueCertificate,
        ),
        (Task::HoldCertificate { certificate }, JobKind::HoldCertificate),
        (Task::FinishCard, JobKind::FinishCard),
        (Task::DiscardCard { handle: "tray 3 / \"slot\" 7".to_owned() }, JobKind::DiscardCard),
        (Task::RemoveHold { certificate }, JobKind::RemoveHold),
        (
            Task::RevokeCertificate { certificate, reason: RevocationReason::CessationOfOperation },
            JobKind::RevokeCertificate,
        ),
        (message(MessageKind::CardOrdered, Recipient::Email("a@example.com".to_owned())), JobKind::Notify),
        (message(MessageKind::RequestWaiting, Recipient::Role(Role::Approver)), JobKind::Notify),
        (message(MessageKind::RequestApproved, Recipient::Actor(scene.actor.clone())), JobKind::Notify),
        (message(MessageKind::RequestRejected, Recipient::Role(Role::custom("x").unwrap())), JobKind::Notify),
        (message(MessageKind::Custom("own".to_owned()), Recipient::Email(String::new())), JobKind::Notify),
        (
            Task::Custom {
                performer: name("PrintLabel"),
                data: json!({"task": "own", "copies": [1, -2, 2.5, null, u64::MAX], "deep": {"yes": true}}),
            },
            JobKind::Custom,
        ),
        (Task::Custom { performer: name("PrintLabel"), data: json!(null) }, JobKind::Custom),
    ];
    let mut seen = BTreeSet::new();
    for (task, kind) in tasks {
        let job = scene.job(task);
        assert_eq!(job.kind(), kind);
        round_trip(&job);
        round_trip(&kind);
        seen.insert(kind);
    }
    assert_eq!(seen, BTreeSet::from(JobKind::ALL), "each kind of task is tried");
    for state in [JobState::Open, JobState::InDoubt, JobState::Done, JobState::Cancelled] {
        round_trip(&state);
    }
}

#[test]
fn history_comes_back_as_it_was_stored() {
    let scene = Scene::new();
    let mut head = ChainHead::default();
    let objects = [
        ObjectId::Card(CardId::new(Uuid::from_u128(1))),
        ObjectId::Certificate(CertificateId::new(Uuid::from_u128(2))),
        ObjectId::Request(RequestId::new(Uuid::from_u128(3))),
        ObjectId::Run(run_id(4)),
        ObjectId::Record("options/CardsScriptOptions".to_owned()),
    ];
    for object in objects {
        let whole: HistoryEntry = head.append(
            object.clone(),
            Some("open"),
            "rejected",
            &scene.stamp(),
            Why::code("rejected").about("r").because("no"),
        );
        round_trip(&whole);
        let bare = head.append(object.clone(), None, "open", &Stamp { run: None, ..scene.stamp() }, Why::default());
        round_trip(&bare);
        round_trip(&object);
    }
    round_trip(&head);
    assert_eq!(head.length, 10);
    round_trip(&Reservation { key: "open order/u1".to_owned(), owner: "card 1".to_owned() });
    round_trip(&Record::new("run/7", json!({"process": "X"})));
}

#[test]
fn what_the_host_sets_comes_back_as_it_was_stored() {
    let range = NumberRange::new([(1, 9), (20, 29)]).expect("good areas");
    round_trip(&range);
    let mut begun = range.prefix("C-").suffix("x").padding(6).excluding([3, 4]);
    begun.draw(4);
    round_trip(&begun);
    begun.draw(100);
    round_trip(&begun);

    let rules = HouseRules::new()
        .production_type(badge().with_photo())
        .user_to_card(UserToCardMap::default())
        .status_map(StatusMap::new().with(" Shipped ", CardState::Produced))
        .self_approval(SelfApproval::Requester);
    round_trip(&HouseRules::new());
    round_trip(&rules);
    assert_eq!(serde_json::from_value::<HouseRules>(json!({})).expect("all has a default"), HouseRules::new());
}

#[test]
fn every_definition_comes_back_as_it_was_stored() {
    let registry = ProcessRegistry::standard();
    assert!(registry.definitions().count() >= 12);
    for definition in registry.definitions() {
        round_trip::<ProcessDefinition>(definition);
        for slot in &definition.slots {
            round_trip::<Slot>(slot);
        }
    }
}

#[test]
fn forms_answers_runs_and_reports_come_back_as_they_were_stored() {
    let scene = Scene::new();
    let form = Form {
        process: name("TempCardsAddonExtProdProcOrder"),
        title: "Order temporary cards".to_owned(),
        description: "Orders cards for the stock.".to_owned(),
        searches: vec![ItemKind::User, ItemKind::Card, ItemKind::Request, ItemKind::Job, ItemKind::New],
        fields: vec![
            Field::required(Form::AMOUNT, "Amount", FieldKind::Amount { min: 1, max: 9 }).preset("1"),
            Field::optional(Form::USER, "User", FieldKind::Text { max_length: 256 }).when("decision", "reject"),
            Field::required("type", "Type", FieldKind::Choice(vec!["standard".to_owned(), "visitor".to_owned()])),
        ],
    };
    round_trip(&form);
    let items = [
        ItemId::User(user_id("u1")),
        ItemId::Card(CardId::new(Uuid::from_u128(1))),
        ItemId::Request(RequestId::new(Uuid::from_u128(3))),
        ItemId::Job(job_id(2)),
        ItemId::New(9),
    ];
    let cards = CardQuery {
        kind: Some(CardKind::Permanent),
        route: Some(Route::External),
        states: vec![CardState::InProduction],
        holders: vec![user_id("u1")],
        production_types: vec!["standard".to_owned()],
        in_doubt: Some(true),
        text: vec![TextPrefix::new("lastName", "Ång")],
    };
    let requests = RequestQuery { states: vec![RequestState::Open], holders: vec![user_id("u1")] };
    for answer in [
        Answer::new(),
        Answer::ids(items.clone()).with("amount", "3").with("type", "visitor"),
        Answer::all(Filter::Users(UserFilter::default())),
        Answer::all(Filter::Cards(cards)),
        Answer::all(Filter::Requests(requests)),
    ] {
        round_trip(&answer);
    }
    assert_eq!(serde_json::from_value::<Answer>(json!({})).expect("all has a default"), Answer::new());
    round_trip(&Run {
        id: run_id(7),
        process: form.process.clone(),
        actor: scene.person(),
        form,
        options: texts([("CardsScriptOptions", "ba78")]),
        seal: Digest::of("run"),
    });
    round_trip(&Report {
        run: run_id(7),
        items: 5,
        done: BTreeMap::from([("in production".to_owned(), 1)]),
        unchanged: 1,
        done_earlier: 1,
        in_doubt: 1,
        refused: BTreeMap::from([(RefusalCode::Busy, 1), (RefusalCode::WrongState, 2), (own_code("taste"), 3)]),
        interrupted: Some(Interruption::Failed("the store is full".to_owned())),
    });
    for outcome in [
        Outcome::card(&scene.full_card()),
        Outcome::Unchanged { state: "ordered".into() },
        Outcome::DoneEarlier { object: Some(ObjectId::Card(CardId::new(Uuid::from_u128(1)))) },
        Outcome::InDoubt {
            job: JobId::new(Uuid::from_u128(1)),
            card: Some(CardId::new(Uuid::from_u128(1))),
            reason: "no answer".to_owned(),
        },
        Outcome::Refused(Refusal::new(RefusalCode::Custom("own".to_owned()), "no")),
    ] {
        round_trip(&outcome);
    }
}

fn own_code(name: &str) -> RefusalCode {
    RefusalCode::Custom(name.to_owned())
}

#[test]
fn a_refusal_code_is_one_text_and_comes_back_whatever_a_host_calls_its_own() {
    for (code, text) in [
        (RefusalCode::OpenOrder, "open_order"),
        (RefusalCode::Person, "person"),
        (own_code("taste"), "custom:taste"),
        (own_code("open_order"), "custom:open_order"),
        (own_code("custom:open_order"), "custom:custom:open_order"),
        (own_code(""), "custom:"),
    ] {
        assert_eq!(serde_json::to_value(&code).expect("a text"), json!(text));
        round_trip(&code);
        round_trip(&BTreeMap::from([(code, 1)]));
    }
    let error = serde_json::from_value::<RefusalCode>(json!("taste")).expect_err("no such code");
    assert!(error.to_string().contains("unknown variant `taste`"), "{error}");
}

#[test]
fn a_role_of_the_hosts_own_has_a_usable_name() {
    for bad in ["", "por\0ter", "por\nter", "\u{7f}"] {
        assert!(Role::custom(bad).is_err(), "{bad:?}");
        assert!(serde_json::from_value::<Role>(json!({ "custom": bad })).is_err(), "{bad:?}");
    }
    let porter = Role::custom("porter").expect("a good name");
    assert_eq!(porter.to_string(), "porter");
    assert_eq!(serde_json::to_value(&porter).expect("data"), json!({ "custom": "porter" }));
    let production = Role::CardProductionAdministrator;
    assert_eq!(production.to_string(), "card production administrator", "for people");
    assert_eq!(serde_json::to_value(&production).expect("data"), json!("card_production_administrator"));
}

#[test]
fn a_status_map_that_is_read_as_data_is_checked_and_found_in_any_case() {
    let map = |value| serde_json::from_value::<StatusMap>(value);
    let shipped = map(json!({ " Shipped ": "produced", "In Arbeit": "in_production" })).expect("states of an order");
    assert_eq!(shipped.state("SHIPPED"), Some(CardState::Produced));
    assert_eq!(shipped.state("in arbeit "), Some(CardState::InProduction));
    let error = map(json!({ "gone": "locked" })).expect_err("no state of an order").to_string();
    assert!(error.contains("status text \"gone\": locked is not a state of an order"), "{error}");
    let error = map(json!({ "Gone": "failed", "gone": "produced" })).expect_err("twice").to_string();
    assert!(error.contains("status text \"gone\" stands for produced and"), "{error}");
    assert_eq!(
        StatusMap::of([("Shipped", CardState::Produced)]),
        Ok(StatusMap::new().with("shipped", CardState::Produced))
    );
}

#[test]
fn every_revocation_reason_and_certificate_kind_comes_back_as_it_was_stored() {
    for name in ["unspecified", "keyCompromise", "cACompromise", "affiliationChanged", "aACompromise"] {
        round_trip(&RevocationReason::named(name).expect("a reason"));
    }
    for kind in CertificateKind::ALL {
        round_trip(&kind);
        assert_eq!(serde_json::to_value(kind).expect("it can be stored"), json!(kind.name()), "{kind}");
    }
    for state in [CertificateState::Issued, CertificateState::Valid, CertificateState::OnHold] {
        round_trip(&state);
        assert!(!state.name().is_empty());
    }
}
