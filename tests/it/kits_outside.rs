//! The kits for the directory and the bureau: against the adapters, against hosts as poor as may be, and against hosts that
//! are broken on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use cardwright::adapters::memory::{ManualClock, MemoryUsers};
use cardwright::adapters::simulator::{BureauBehaviour, LedgerEntry, PlaceScript, SimulatedBureau, SimulatedClock};
use cardwright::conformance::go_cards_provider::{self, BureauFactory, SeenOrder};
use cardwright::conformance::user_repository::{self, DirectoryFactory};
use cardwright::conformance::{Call, Kit, block_on, on_threads};
use cardwright::host::{
    Accepted, CardOrder, Clock as _, DirectoryError, FindOutcome, GoCardsProvider, OrderStatus, PlaceOutcome,
    Placement, StatusOutcome, TextPrefix, UserFilter, UserPage, UserRepository,
};
use cardwright::{User, UserId, UserState, fold};
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use uuid::Uuid;

use crate::kits::assert_all_shown;

/// Asserts that of all clauses this is the first that a host breaks, and that its own check says so.
fn assert_caught(
    clauses: &[&str],
    check: impl Fn(&str),
    check_all: impl Fn(),
    flaw: impl std::fmt::Debug,
    clause: &str,
) {
    let named_by = |check: &dyn Fn()| -> Vec<&str> {
        let Err(panic) = catch_unwind(AssertUnwindSafe(check)) else {
            panic!("{clause} does not catch one that {flaw:?}");
        };
        let message = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let message = message.expect("a message");
        clauses.iter().copied().filter(|clause| message.contains(clause)).collect()
    };
    assert_eq!(named_by(&|| check(clause)), [clause], "one that {flaw:?}");
    assert_eq!(named_by(&check_all), [clause], "the first clause that is broken by one that {flaw:?}");
}

fn start() -> DateTime<Utc> {
    "2030-01-07T08:00:00Z".parse().expect("a time")
}

async fn run(threads: bool, calls: Vec<Call>) {
    if threads {
        on_threads(calls).await;
    } else {
        join_all(calls).await;
    }
}

// ---- the directory -----------------------------------------------------------------------------------------------

#[test]
fn the_directory_in_memory_keeps_every_clause() {
    let staff = Staff::new();
    let kit = staff.kit();
    for clause in user_repository::clauses() {
        block_on(user_repository::check(&kit, clause));
    }
    assert_eq!(staff.users_now(), Staff::new().users_now(), "the kit leaves nobody behind");
}

#[test]
fn the_directory_in_memory_keeps_every_clause_behind_arc_and_box_and_as_one_task() {
    let wraps: [fn(MemoryUsers) -> Arc<dyn UserRepository>; 2] = [
        |users| Arc::new(Arc::new(users)),
        |users| {
            let users: Box<dyn UserRepository> = Box::new(users);
            Arc::new(users)
        },
    ];
    for wrap in wraps {
        let staff = Staff { wrap, threads: false, ..Staff::new() };
        block_on(user_repository::check_all(&staff.kit()));
        // And once more on the same directory.
        block_on(user_repository::check_all(&Kit::of_directory(&staff, Uuid::from_u128(2))));
    }
}

#[test]
fn a_directory_that_can_be_away_keeps_every_clause() {
    let staff = Staff { flaw: Some(Slip::None), ..Staff::new() };
    block_on(user_repository::check_all(&staff.kit()));
    assert!(!staff.notes.away.load(Ordering::Relaxed), "the kit lets it come back");
}

#[test]
fn a_directory_as_poor_as_may_be_keeps_every_clause() {
    for nothing_can_be_arranged in [false, true] {
        let mut staff = Staff::new();
        staff.can_arrange = !nothing_can_be_arranged;
        let ldap = Ldap { staff, clock: ManualClock::new(start()) };
        block_on(user_repository::check_all(&Kit::of_directory(&ldap, Uuid::from_u128(1))));
    }
}

#[test]
fn every_broken_directory_is_caught() {
    let flaws = [
        (Slip::LeavesOutTheLast, "known_users_come_back"),
        (Slip::GivesTwiceWhoIsNamedTwice, "known_users_come_back"),
        (Slip::GivesEverybodyForNone, "known_users_come_back"),
        (Slip::InventsStrangers, "known_users_come_back"),
        (Slip::LeavesOutAttributes, "known_users_come_back"),
        (Slip::ReadsAThousandIds, "known_users_come_back"),
        (Slip::GivesOneMore, "pages_keep_the_limit"),
        (Slip::GivesAllAtOnce, "pages_keep_the_limit"),
        (Slip::RepeatsTheLastPage, "search_ends"),
        (Slip::BeginsAgain, "search_ends"),
        (Slip::FullPagesLackOne, "search_sees_everybody"),
        (Slip::CountsPlaces, "search_sees_everybody"),
        (Slip::SearchLeavesOutAttributes, "search_sees_everybody"),
        (Slip::FindsTheActiveOnly, "search_sees_everybody"),
        (Slip::PassesOverWhoIsActive, "search_filters"),
        (Slip::PassesOverTexts, "search_filters"),
        (Slip::PassesOverUnknownAttributes, "search_filters"),
        (Slip::MatchesAnywhere, "search_filters"),
        (Slip::MatchesWholeValues, "search_filters"),
        (Slip::MindsCase, "search_filters"),
        (Slip::MindsAccents, "search_filters"),
        (Slip::OneTextSuffices, "search_filters"),
        (Slip::OneWalkForAll, "walks_do_not_meet"),
        (Slip::OneWalkAtATime, "walks_do_not_meet"),
        (Slip::ForeignCursorsAreTheEnd, "cursor_goes_on_or_expires"),
        (Slip::OldCursorsAreTheEnd, "cursor_goes_on_or_expires"),
        (Slip::UsedCursorsAreTheEnd, "cursor_goes_on_or_expires"),
        (Slip::BadCursorsAreUnsupported, "cursor_goes_on_or_expires"),
        (Slip::BadCursorsAreUnavailable, "cursor_goes_on_or_expires"),
        (Slip::BadCursorsGiveEverybody, "cursor_goes_on_or_expires"),
        (Slip::OnePhotoForAll, "photo_belongs_to_its_user"),
        (Slip::HasNoPhotos, "photo_belongs_to_its_user"),
        (Slip::CutsPhotos, "photo_belongs_to_its_user"),
        (Slip::GivesPhotosOnce, "photo_belongs_to_its_user"),
        (Slip::RefusesPhotosOfStrangers, "photo_belongs_to_its_user"),
        (Slip::MakesWhoIsLookedFor, "reading_changes_nothing"),
        (Slip::MakesWhoseFaceIsLookedFor, "reading_changes_nothing"),
        (Slip::KnowsNobodyWhenAway, "away_is_not_empty"),
        (Slip::EndsWhenAway, "away_is_not_empty"),
        (Slip::HasNoPhotosWhenAway, "away_is_not_empty"),
        (Slip::ExpiresWhenAway, "away_is_not_empty"),
        (Slip::RefusesWhenAway, "away_is_not_empty"),
    ];
    let clauses = user_repository::clauses();
    assert_all_shown(&clauses, flaws.map(|(_, clause)| clause).as_slice());
    for (flaw, clause) in flaws {
        let staff = || Staff { flaw: Some(flaw), ..Staff::new() };
        assert_caught(
            &clauses,
            |clause| block_on(user_repository::check(&staff().kit(), clause)),
            || block_on(user_repository::check_all(&staff().kit())),
            flaw,
            clause,
        );
    }
}

#[test]
fn a_factory_that_knows_too_little_is_told_so() {
    let staff = Staff { known: 2, ..Staff::new() };
    let told = catch_unwind(AssertUnwindSafe(|| block_on(user_repository::check_all(&staff.kit()))));
    let message = told.expect_err("two are too few").downcast::<String>().expect("a text");
    assert!(message.contains("the factory must know three users or more"), "{message}");
}

/// Opens handles onto one directory in memory, in which there are others, too.
struct Staff {
    users: MemoryUsers,
    known: usize,
    can_arrange: bool,
    threads: bool,
    wrap: fn(MemoryUsers) -> Arc<dyn UserRepository>,
    flaw: Option<Slip>,
    notes: Arc<DirectoryNotes>,
}

impl Staff {
    fn new() -> Self {
        let outside = ["amy", "cem", "dan", "fay", "zul"].map(|name| person(name, name, "Sales", UserState::Active));
        let users: MemoryUsers = tested().into_iter().chain(outside).collect();
        Self {
            users: users
                .with_photo(tested()[0].id.clone(), vec![1, 2, 3])
                .with_photo(tested()[2].id.clone(), vec![4, 5]),
            known: usize::MAX,
            can_arrange: true,
            threads: true,
            wrap: |users| Arc::new(users),
            flaw: None,
            notes: Arc::default(),
        }
    }

    fn kit(&self) -> Kit<'_, dyn DirectoryFactory> {
        Kit::of_directory(self, Uuid::from_u128(1))
    }

    fn users_now(&self) -> Vec<User> {
        block_on(self.users.search(&UserFilter::default(), None, 1_000)).expect("readable").users
    }
}

/// Those of whom the kit knows.
fn tested() -> [User; 5] {
    [
        person("ada", "Ada Ångström", "Tests", UserState::Active),
        person("bob", "BOB Groß", "Testing", UserState::Locked),
        person("eve", "Eve Example", "tests", UserState::Active),
        person("per", "Åse Østby", "Tests", UserState::Inactive),
        person("zoe", "Zoë Example", "TESTS", UserState::Active),
    ]
}

fn person(id: &str, name: &str, department: &str, state: UserState) -> User {
    let attributes = [("commonName", name), ("department", department), ("email", &format!("{id}@example.org"))];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned()));
    User::new(UserId::new(id).expect("an id"), state, attributes)
}

fn in_tests() -> UserFilter {
    UserFilter { active: None, text: vec![TextPrefix::new("department", "test")] }
}

#[async_trait]
impl DirectoryFactory for Staff {
    async fn open(&self) -> Arc<dyn UserRepository> {
        let Some(flaw) = self.flaw else { return (self.wrap)(self.users.clone()) };
        Arc::new(BrokenDirectory {
            users: self.users.clone(),
            flaw,
            notes: Arc::clone(&self.notes),
            given: Mutex::default(),
        })
    }

    async fn pass_time(&self, duration: Duration) {
        self.notes.seconds.fetch_add(duration.as_secs(), Ordering::Relaxed);
    }

    async fn at_once(&self, calls: Vec<Call>) {
        run(self.threads, calls).await;
    }

    fn known(&self) -> Vec<User> {
        tested().into_iter().take(self.known).collect()
    }

    fn filter(&self) -> UserFilter {
        in_tests()
    }

    fn photo(&self, user: &UserId) -> Option<Vec<u8>> {
        match user.as_str() {
            "ada" => Some(vec![1, 2, 3]),
            "eve" => Some(vec![4, 5]),
            _ => None,
        }
    }

    async fn arrange(&self, event: user_repository::Event<'_>) -> bool {
        use user_repository::Event;
        match event {
            _ if !self.can_arrange => return false,
            Event::Joins(user) => self.users.put(user.clone()),
            Event::Leaves(user) => self.users.remove(user),
            Event::Away if self.flaw.is_some() => self.notes.away.store(true, Ordering::Relaxed),
            Event::Back if self.flaw.is_some() => self.notes.away.store(false, Ordering::Relaxed),
            _ => return false,
        }
        true
    }
}

/// What a directory does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slip {
    None,
    LeavesOutTheLast,
    GivesTwiceWhoIsNamedTwice,
    GivesEverybodyForNone,
    InventsStrangers,
    LeavesOutAttributes,
    ReadsAThousandIds,
    GivesOneMore,
    GivesAllAtOnce,
    RepeatsTheLastPage,
    BeginsAgain,
    FullPagesLackOne,
    CountsPlaces,
    SearchLeavesOutAttributes,
    FindsTheActiveOnly,
    PassesOverWhoIsActive,
    PassesOverTexts,
    PassesOverUnknownAttributes,
    MatchesAnywhere,
    MatchesWholeValues,
    MindsCase,
    MindsAccents,
    OneTextSuffices,
    OneWalkForAll,
    OneWalkAtATime,
    ForeignCursorsAreTheEnd,
    OldCursorsAreTheEnd,
    UsedCursorsAreTheEnd,
    BadCursorsAreUnsupported,
    BadCursorsAreUnavailable,
    BadCursorsGiveEverybody,
    OnePhotoForAll,
    HasNoPhotos,
    CutsPhotos,
    GivesPhotosOnce,
    RefusesPhotosOfStrangers,
    MakesWhoIsLookedFor,
    MakesWhoseFaceIsLookedFor,
    KnowsNobodyWhenAway,
    EndsWhenAway,
    HasNoPhotosWhenAway,
    ExpiresWhenAway,
    RefusesWhenAway,
}

/// A directory in memory that can be away, with one flaw.
struct BrokenDirectory {
    users: MemoryUsers,
    flaw: Slip,
    notes: Arc<DirectoryNotes>,
    /// The cursors that this handle gave.
    given: Mutex<BTreeSet<String>>,
}

/// What the flawed handles share.
#[derive(Default)]
struct DirectoryNotes {
    away: AtomicBool,
    seconds: AtomicU64,
    /// How many walks were begun.
    walks: AtomicU64,
    /// Whom the last page ended with.
    last: Mutex<Option<UserId>>,
    asked: Mutex<BTreeSet<UserId>>,
    photos: Mutex<BTreeSet<UserId>>,
    used: Mutex<BTreeSet<String>>,
    /// When a cursor was given.
    times: Mutex<BTreeMap<String, u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("the lock")
}

impl BrokenDirectory {
    fn has(&self, flaw: Slip) -> bool {
        self.flaw == flaw
    }

    fn is_away(&self) -> bool {
        self.notes.away.load(Ordering::Relaxed)
    }

    fn away<T>(&self) -> Result<T, DirectoryError> {
        let reason = "the cable is out".to_owned();
        match self.flaw {
            Slip::ExpiresWhenAway => Err(DirectoryError::CursorExpired),
            Slip::RefusesWhenAway => Err(DirectoryError::Unsupported { reason }),
            _ => Err(DirectoryError::Unavailable { reason }),
        }
    }

    /// Who matches, in order; in the way of this directory.
    async fn matching(&self, filter: &UserFilter) -> Result<Vec<User>, DirectoryError> {
        let mut filter = filter.clone();
        match self.flaw {
            Slip::PassesOverWhoIsActive => filter.active = None,
            Slip::FindsTheActiveOnly => filter.active = Some(true),
            Slip::PassesOverTexts => filter.text.truncate(1),
            Slip::PassesOverUnknownAttributes => {
                filter.text.retain(|text| ["commonName", "department", "email"].contains(&text.name.as_str()));
            }
            _ => {}
        }
        let all = self.users.search(&UserFilter::default(), None, usize::MAX).await?.users;
        let begins = |user: &User, text: &TextPrefix| {
            let Some(value) = user.attributes.get(&text.name) else { return false };
            let (folded, prefix) = (fold(value), fold(&text.prefix));
            match self.flaw {
                // The department is where the kit's users are told from others.
                _ if text.name == "department" => folded.starts_with(&prefix),
                Slip::MatchesAnywhere => folded.contains(&prefix),
                Slip::MatchesWholeValues => folded == prefix,
                Slip::MindsCase => value.starts_with(&text.prefix),
                Slip::MindsAccents => value.to_lowercase().starts_with(&text.prefix.to_lowercase()),
                _ => folded.starts_with(&prefix),
            }
        };
        let matches = |user: &User| {
            filter.active.is_none_or(|active| active == user.is_active())
                && match (self.flaw, filter.text.split_first()) {
                    (Slip::OneTextSuffices, Some((first, rest))) if !rest.is_empty() => {
                        begins(user, first) && rest.iter().any(|text| begins(user, text))
                    }
                    _ => filter.text.iter().all(|text| begins(user, text)),
                }
        };
        Ok(all.into_iter().filter(matches).collect())
    }

    /// Where a page begins in what matches.
    fn place_of(&self, cursor: Option<&str>, matching: &[User]) -> Result<usize, DirectoryError> {
        let Some(cursor) = cursor else { return Ok(0) };
        let end = matching.len();
        if !self.has(Slip::OneWalkForAll) && !lock(&self.notes.times).contains_key(cursor) {
            return match self.flaw {
                Slip::BadCursorsAreUnsupported => Err(DirectoryError::Unsupported { reason: "no cursor".to_owned() }),
                Slip::BadCursorsAreUnavailable => Err(DirectoryError::Unavailable { reason: "no cursor".to_owned() }),
                _ => Err(DirectoryError::CursorExpired),
            };
        }
        match self.flaw {
            Slip::OneWalkForAll => {
                let last = lock(&self.notes.last).clone();
                Ok(matching.iter().position(|user| Some(&user.id) > last.as_ref()).unwrap_or(end))
            }
            Slip::OneWalkAtATime if !cursor.starts_with(&format!("{} ", self.notes.walks.load(Ordering::SeqCst))) => {
                Err(DirectoryError::CursorExpired)
            }
            Slip::CountsPlaces => Ok(end.min(cursor.parse().unwrap_or(end))),
            Slip::ForeignCursorsAreTheEnd if !lock(&self.given).contains(cursor) => Ok(end),
            Slip::UsedCursorsAreTheEnd if !lock(&self.notes.used).insert(cursor.to_owned()) => Ok(end),
            Slip::OldCursorsAreTheEnd
                if lock(&self.notes.times)[cursor] < self.notes.seconds.load(Ordering::Relaxed) =>
            {
                Ok(end)
            }
            _ => {
                let id = cursor.split_once(' ').map_or(cursor, |(_, id)| id);
                Ok(matching.iter().position(|user| user.id.as_str() > id).unwrap_or(end))
            }
        }
    }
}

#[async_trait]
impl UserRepository for BrokenDirectory {
    async fn users(&self, ids: &[UserId]) -> Result<Vec<User>, DirectoryError> {
        if self.is_away() {
            return if self.has(Slip::KnowsNobodyWhenAway) { Ok(Vec::new()) } else { self.away() };
        }
        let mut users = self.users.users(ids).await?;
        let distinct: BTreeSet<&UserId> = ids.iter().collect();
        let strangers = distinct.iter().filter(|id| users.iter().all(|user| user.id != ***id));
        let strangers: Vec<User> = strangers.map(|id| User::new((*id).clone(), UserState::Registered, [])).collect();
        match self.flaw {
            Slip::LeavesOutTheLast if ids.len() > 1 => drop(users.pop()),
            Slip::GivesTwiceWhoIsNamedTwice if distinct.len() < ids.len() => users.extend(users.clone()),
            Slip::GivesEverybodyForNone if ids.is_empty() => users = self.matching(&UserFilter::default()).await?,
            Slip::InventsStrangers => users.extend(strangers),
            Slip::LeavesOutAttributes => users.iter_mut().for_each(|user| drop(user.attributes.remove("email"))),
            Slip::ReadsAThousandIds => users = self.users.users(&ids[..ids.len().min(1_000)]).await?,
            Slip::MakesWhoIsLookedFor => {
                let mut asked = lock(&self.notes.asked);
                users.extend(strangers.into_iter().filter(|user| !asked.insert(user.id.clone())));
            }
            Slip::MakesWhoseFaceIsLookedFor => {
                let asked = lock(&self.notes.asked);
                users.extend(strangers.into_iter().filter(|user| asked.contains(&user.id)));
            }
            _ => {}
        }
        Ok(users)
    }

    async fn search(
        &self,
        filter: &UserFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<UserPage, DirectoryError> {
        if self.is_away() {
            return if self.has(Slip::EndsWhenAway) { Ok(UserPage::default()) } else { self.away() };
        }
        if self.has(Slip::BadCursorsGiveEverybody)
            && cursor.is_some_and(|cursor| !lock(&self.notes.times).contains_key(cursor))
        {
            return Ok(UserPage { users: self.matching(&UserFilter::default()).await?, next: None });
        }
        if cursor.is_none() {
            self.notes.walks.fetch_add(1, Ordering::SeqCst);
        }
        let matching = self.matching(filter).await?;
        let from = self.place_of(cursor, &matching)?;
        let length = match self.flaw {
            Slip::GivesOneMore => limit + 1,
            Slip::GivesAllAtOnce => usize::MAX,
            _ => limit,
        };
        let to = from.saturating_add(length).min(matching.len());
        let mut users = matching[from..to].to_vec();
        let end = to == matching.len();
        let mut next = users.last().filter(|_| !end).map(|last| match self.flaw {
            Slip::CountsPlaces => format!("{to}"),
            Slip::OneWalkForAll => "next".to_owned(),
            Slip::OneWalkAtATime => format!("{} {}", self.notes.walks.load(Ordering::SeqCst), last.id),
            // Never the same twice.
            Slip::UsedCursorsAreTheEnd => format!("{} {}", self.notes.walks.fetch_add(1, Ordering::SeqCst), last.id),
            _ => format!("{} {}", self.notes.seconds.load(Ordering::Relaxed), last.id),
        });
        match self.flaw {
            Slip::RepeatsTheLastPage if end && cursor.is_some() => next = cursor.map(str::to_owned),
            Slip::BeginsAgain if end && users.len() < matching.len() => next = Some("0  ".to_owned()),
            Slip::OneWalkForAll => *lock(&self.notes.last) = users.last().map(|last| last.id.clone()),
            Slip::FullPagesLackOne if users.len() == limit && limit > 1 => drop(users.remove(1)),
            Slip::SearchLeavesOutAttributes => users.iter_mut().for_each(|user| drop(user.attributes.remove("email"))),
            _ => {}
        }
        if let Some(next) = &next {
            lock(&self.given).insert(next.clone());
            lock(&self.notes.times).insert(next.clone(), self.notes.seconds.load(Ordering::Relaxed));
        }
        Ok(UserPage { users, next })
    }

    async fn photo(&self, user: &UserId) -> Result<Option<Vec<u8>>, DirectoryError> {
        if self.is_away() {
            return if self.has(Slip::HasNoPhotosWhenAway) { Ok(None) } else { self.away() };
        }
        let photo = self.users.photo(user).await?;
        match self.flaw {
            Slip::OnePhotoForAll => self.users.photo(&tested()[0].id).await,
            Slip::HasNoPhotos => Ok(None),
            Slip::CutsPhotos => Ok(photo.map(|photo| photo[..photo.len().min(2)].to_vec())),
            Slip::GivesPhotosOnce => Ok(photo.filter(|_| lock(&self.notes.photos).insert(user.clone()))),
            Slip::RefusesPhotosOfStrangers if self.users.users(std::slice::from_ref(user)).await?.is_empty() => {
                Err(DirectoryError::Unsupported { reason: "nobody of that name".to_owned() })
            }
            Slip::MakesWhoseFaceIsLookedFor => {
                lock(&self.notes.asked).insert(user.clone());
                Ok(photo)
            }
            _ => Ok(photo),
        }
    }
}

/// Opens handles onto a directory like one that is read by LDAP: what is not required it does not do.
struct Ldap {
    staff: Staff,
    clock: ManualClock,
}

#[async_trait]
impl DirectoryFactory for Ldap {
    async fn open(&self) -> Arc<dyn UserRepository> {
        let connection = LdapConnection {
            users: self.staff.users.clone(),
            clock: self.clock.clone(),
            away: Arc::clone(&self.staff.notes),
            walks: Mutex::default(),
            pages: AtomicU64::new(0),
        };
        Arc::new(connection)
    }

    async fn pass_time(&self, duration: Duration) {
        self.clock.advance(duration);
    }

    async fn at_once(&self, calls: Vec<Call>) {
        self.staff.at_once(calls).await;
    }

    fn known(&self) -> Vec<User> {
        self.staff.known()
    }

    fn filter(&self) -> UserFilter {
        self.staff.filter()
    }

    fn photo(&self, user: &UserId) -> Option<Vec<u8>> {
        self.staff.photo(user)
    }

    async fn arrange(&self, event: user_repository::Event<'_>) -> bool {
        self.staff.arrange(event).await
    }
}

/// A connection. Its cursors are good for one use, on this connection and for five minutes; users come in no order and some
/// of them twice; some pages are empty; it searches by two attributes only, and not by state.
struct LdapConnection {
    users: MemoryUsers,
    clock: ManualClock,
    away: Arc<DirectoryNotes>,
    /// Who is left of each walk, by cursor, and until when the cursor is good.
    walks: Mutex<BTreeMap<String, Left>>,
    pages: AtomicU64,
}

type Left = (Vec<User>, DateTime<Utc>);

impl LdapConnection {
    fn answer(&self) -> Result<(), DirectoryError> {
        if self.away.away.load(Ordering::Relaxed) {
            return Err(DirectoryError::Unavailable { reason: "no route".to_owned() });
        }
        Ok(())
    }
}

#[async_trait]
impl UserRepository for LdapConnection {
    async fn users(&self, ids: &[UserId]) -> Result<Vec<User>, DirectoryError> {
        self.answer()?;
        let mut users = self.users.users(ids).await?;
        users.reverse();
        Ok(users)
    }

    async fn search(
        &self,
        filter: &UserFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<UserPage, DirectoryError> {
        self.answer()?;
        let searched = |text: &TextPrefix| ["commonName", "department"].contains(&text.name.as_str());
        if filter.active.is_some() || !filter.text.iter().all(searched) {
            return Err(DirectoryError::Unsupported { reason: "there is no index for this".to_owned() });
        }
        let mut left = match cursor {
            Some(cursor) => match lock(&self.walks).remove(cursor) {
                Some((left, until)) if self.clock.now() < until => left,
                _ => return Err(DirectoryError::CursorExpired),
            },
            None => {
                let mut all = self.users.search(filter, None, usize::MAX).await?.users;
                all.extend(all.first().cloned());
                let by = all.len().min(2);
                all.rotate_left(by);
                all
            }
        };
        let page = self.pages.fetch_add(1, Ordering::Relaxed);
        let users = left.split_off(left.len() - if page % 3 == 1 { 0 } else { limit.min(left.len()) });
        let next = (!left.is_empty()).then(|| format!("{page}"));
        if let Some(next) = &next {
            lock(&self.walks).insert(next.clone(), (left, self.clock.now() + TimeDelta::minutes(5)));
        }
        Ok(UserPage { users, next })
    }

    async fn photo(&self, user: &UserId) -> Result<Option<Vec<u8>>, DirectoryError> {
        self.answer()?;
        self.users.photo(user).await
    }
}

// ---- the bureau --------------------------------------------------------------------------------------------------

#[test]
fn the_simulated_bureau_keeps_every_clause_whatever_it_can_do() {
    for abilities in 0..8_u8 {
        let can = |ability: u8| abilities & (1 << ability) != 0;
        let behaviour = BureauBehaviour::calm().idempotent(can(0)).can_look(can(1)).card_id_at_once(can(2));
        for (can_see, can_arrange) in [(true, true), (true, false), (false, true)] {
            let counter = Counter { can_see, can_arrange, ..Counter::new(behaviour.clone()) };
            let kit = counter.kit();
            for clause in go_cards_provider::clauses() {
                block_on(go_cards_provider::check(&kit, clause));
            }
        }
    }
}

#[test]
fn the_simulated_bureau_keeps_every_clause_poor_or_rich_with_faults_and_when_it_takes_its_time() {
    // One that refuses by chance has no order that it must take.
    let poor = BureauBehaviour::poor().refused(0);
    let rich = BureauBehaviour::rich();
    let slow = rich.clone().found_late(Duration::from_secs(7 * 60 * 60));
    let faults = |behaviour: BureauBehaviour| {
        behaviour
            .unavailable(100)
            .rate_limited(100)
            .lost_after_accepting(50)
            .lost_before_accepting(50)
            .status_backwards(200)
            .status_repeated(200)
            .status_unavailable(100)
            .status_rate_limited(100)
    };
    for behaviour in [poor.clone(), rich.clone(), slow, faults(poor), faults(rich)] {
        for can_arrange in [true, false] {
            let counter = Counter { can_arrange, ..Counter::new(behaviour.clone()) };
            block_on(go_cards_provider::check_all(&counter.kit()));
        }
    }
}

#[test]
fn the_simulated_bureau_keeps_every_clause_behind_arc_and_box_and_as_one_task() {
    let wraps: [fn(SimulatedBureau) -> Arc<dyn GoCardsProvider>; 2] = [
        |bureau| Arc::new(Arc::new(bureau)),
        |bureau| {
            let bureau: Box<dyn GoCardsProvider> = Box::new(bureau);
            Arc::new(bureau)
        },
    ];
    for wrap in wraps {
        let counter = Counter { wrap, threads: false, ..Counter::new(BureauBehaviour::rich()) };
        block_on(go_cards_provider::check_all(&counter.kit()));
        // And once more at the same bureau.
        block_on(go_cards_provider::check_all(&Kit::of_bureau(&counter, Uuid::from_u128(2))));
    }
}

#[test]
fn a_bureau_as_poor_as_may_be_keeps_every_clause() {
    block_on(go_cards_provider::check_all(&Kit::of_bureau(&LetterBox::default(), Uuid::from_u128(1))));
}

#[test]
fn every_broken_bureau_is_caught() {
    let calm = || BureauBehaviour::calm();
    let rich = || BureauBehaviour::rich();
    let looks = || BureauBehaviour::calm().can_look(true);
    let flaws: Vec<(BureauBehaviour, Defect, &str)> = vec![
        (calm(), Defect::AcceptsBlindly, "accepted_means_ordered"),
        (calm(), Defect::LeavesOutElements, "accepted_means_ordered"),
        (calm(), Defect::LeavesOutThePhoto, "accepted_means_ordered"),
        (calm(), Defect::OrdersTwice, "accepted_means_ordered"),
        (calm(), Defect::OneOrderIdForAll, "accepted_means_ordered"),
        (calm(), Defect::GivesNoOrderId, "accepted_means_ordered"),
        (calm(), Defect::TakesFinalNoForLater, "failures_stay_apart"),
        (calm(), Defect::TakesFinalNoForUnknown, "failures_stay_apart"),
        (calm(), Defect::TakesAwayForFinalNo, "failures_stay_apart"),
        (calm(), Defect::TakesTooManyForAway, "failures_stay_apart"),
        (calm(), Defect::TakesTooManyForFinalNo, "failures_stay_apart"),
        (calm(), Defect::StaysAway, "failures_stay_apart"),
        (calm(), Defect::AnswersBackwards, "one_result_per_order"),
        (calm(), Defect::SwapsTheAccepted, "one_result_per_order"),
        (calm(), Defect::AnswersTheFirstOnly, "one_result_per_order"),
        (calm(), Defect::OneAnswerForAll, "one_result_per_order"),
        (calm(), Defect::AnswersForNone, "one_result_per_order"),
        (calm(), Defect::StatusesAreBackwards, "one_result_per_order"),
        (calm(), Defect::StatusesLeaveOutStrangers, "one_result_per_order"),
        (calm(), Defect::SaysUnavailableWhenLost, "refused_means_not_accepted"),
        (calm(), Defect::SaysRefusedWhenLost, "refused_means_not_accepted"),
        (calm(), Defect::SaysRateLimitedWhenLost, "refused_means_not_accepted"),
        (calm(), Defect::SaysRefusedWhenGarbled, "refused_means_not_accepted"),
        (calm(), Defect::OrdersLaterWhatItRefused, "refused_means_not_accepted"),
        (calm(), Defect::OrdersLaterWhatWasTooMany, "refused_means_not_accepted"),
        (calm(), Defect::SendsAgainAtOnce, "no_retry_of_the_unknown"),
        (rich(), Defect::SendsAgainAtOnce, "no_retry_of_the_unknown"),
        (calm(), Defect::SendsAgainLater, "no_retry_of_the_unknown"),
        (calm(), Defect::SendsTheWholeCallAgain, "no_retry_of_the_unknown"),
        (looks(), Defect::FindsAnything, "found_means_accepted"),
        (looks(), Defect::FindsWhatBeginsSo, "found_means_accepted"),
        (looks(), Defect::FindsWhatEndsSo, "found_means_accepted"),
        (looks(), Defect::FindsTheLatest, "found_means_accepted"),
        (looks(), Defect::FindsTheRefused, "found_means_accepted"),
        (looks(), Defect::FindsTheLost, "found_means_accepted"),
        (looks(), Defect::FindsUnderAnotherOrderId, "found_means_accepted"),
        (looks(), Defect::FindsNothing, "accepted_is_found"),
        (looks(), Defect::FindsOnlyItsOwn, "accepted_is_found"),
        (looks(), Defect::FindsOnlyWhatItHeard, "accepted_is_found"),
        (looks(), Defect::ForgetsAfterAMonth, "accepted_is_found"),
        (calm(), Defect::KnowsNoStatus, "status_is_of_its_order"),
        (calm(), Defect::LeavesOutOrderIds, "status_is_of_its_order"),
        (calm(), Defect::OneCardForAll, "status_is_of_its_order"),
        (calm(), Defect::AnotherCardEachTime, "status_is_of_its_order"),
        (calm(), Defect::ReadsAStatusOnce, "status_is_of_its_order"),
        (calm(), Defect::KnowsEveryStatus, "status_is_of_its_order"),
        (calm(), Defect::KnowsStatusesThatBeginSo, "status_is_of_its_order"),
        (looks(), Defect::FindsNothingWhenAway, "not_found_means_looked"),
        (calm(), Defect::KnowsNoStatusWhenAway, "not_found_means_looked"),
        (looks(), Defect::OrdersWhatItLooksFor, "reading_changes_nothing"),
        (calm(), Defect::EndsWhatManyRead, "reading_changes_nothing"),
        (calm(), Defect::BoastsOfIdempotency, "idempotent_means_one_order"),
        (calm(), Defect::EachHandleIsIdempotent, "idempotent_means_one_order"),
        (calm(), Defect::LooksThenOrders, "idempotent_means_one_order"),
        (calm(), Defect::IdempotentForAMonth, "idempotent_means_one_order"),
        (calm(), Defect::IdempotentForCalls, "idempotent_means_one_order"),
        (rich(), Defect::HandlesDisagree, "idempotent_means_one_order"),
        (rich(), Defect::RefusesTheSecond, "idempotent_means_one_order"),
        (rich(), Defect::AnotherOrderIdForTheSecond, "idempotent_means_one_order"),
        (rich(), Defect::ForgetsWhatItRefused, "idempotent_means_one_answer"),
        (rich(), Defect::OneAnswerForAMonth, "idempotent_means_one_answer"),
        (rich(), Defect::EachHandleHasItsAnswer, "idempotent_means_one_answer"),
    ];
    let clauses = go_cards_provider::clauses();
    assert_all_shown(&clauses, &flaws.iter().map(|(.., clause)| *clause).collect::<Vec<_>>());
    for (behaviour, flaw, clause) in flaws {
        let counter = || Counter { flaw: Some(flaw), ..Counter::new(behaviour.clone()) };
        assert_caught(
            &clauses,
            |clause| block_on(go_cards_provider::check(&counter().kit(), clause)),
            || block_on(go_cards_provider::check_all(&counter().kit())),
            flaw,
            clause,
        );
    }
}

/// Opens handles onto one simulated bureau.
struct Counter {
    clock: SimulatedClock,
    bureau: SimulatedBureau,
    can_see: bool,
    can_arrange: bool,
    threads: bool,
    wrap: fn(SimulatedBureau) -> Arc<dyn GoCardsProvider>,
    flaw: Option<Defect>,
    opened: AtomicU64,
    notes: Arc<BureauNotes>,
}

impl Counter {
    fn new(behaviour: BureauBehaviour) -> Self {
        let clock = SimulatedClock::new(start()).auto();
        let bureau = SimulatedBureau::new(7, Arc::new(clock.clone())).behaving(behaviour);
        bureau.every_place_where(is_withdrawn, PlaceScript::Refuse("no such article".to_owned()));
        Self {
            clock,
            bureau,
            can_see: true,
            can_arrange: true,
            threads: true,
            wrap: |bureau| Arc::new(bureau),
            flaw: None,
            opened: AtomicU64::new(0),
            notes: Arc::default(),
        }
    }

    fn kit(&self) -> Kit<'_, dyn BureauFactory> {
        Kit::of_bureau(self, Uuid::from_u128(1))
    }
}

fn is_withdrawn(order: &CardOrder) -> bool {
    order.article == "withdrawn"
}

#[async_trait]
impl BureauFactory for Counter {
    async fn open(&self) -> Arc<dyn GoCardsProvider> {
        let Some(flaw) = self.flaw else { return (self.wrap)(self.bureau.clone()) };
        Arc::new(BrokenBureau {
            bureau: self.bureau.clone(),
            clock: self.clock.clone(),
            flaw,
            number: self.opened.fetch_add(1, Ordering::Relaxed),
            notes: Arc::clone(&self.notes),
            own: Mutex::default(),
        })
    }

    async fn pass_time(&self, duration: Duration) {
        self.clock.advance(duration);
    }

    async fn at_once(&self, calls: Vec<Call>) {
        run(self.threads, calls).await;
    }

    fn order(&self, reference: &str) -> CardOrder {
        let mut order = CardOrder::new(reference, "ART-1");
        order.elements =
            [("NAME", "Zoë Example"), ("NUMBER", "0007")].map(|(a, b)| (a.to_owned(), b.to_owned())).into();
        order.email = Some("zoe@example.org".to_owned());
        order.address_key = Some("HQ".to_owned());
        order.photo = Some(vec![0xff, 0xd8, 0xff]);
        order
    }

    fn refused_order(&self, reference: &str) -> CardOrder {
        CardOrder::new(reference, "withdrawn")
    }

    async fn look(&self, reference: &str) -> Option<Vec<SeenOrder>> {
        let entries = self.bureau.ledger().into_iter().filter(|entry| entry.reference == reference);
        self.can_see.then(|| entries.map(seen).collect())
    }

    async fn arrange(&self, event: go_cards_provider::Event<'_>) -> bool {
        use go_cards_provider::Event;
        let (reference, script) = match event {
            _ if !self.can_arrange => return false,
            Event::Away | Event::Back => {
                let days = if event == Event::Away { 10_000 } else { 0 };
                self.bureau.outage(self.clock.now() + TimeDelta::days(days));
                return true;
            }
            Event::TooMany(reference) => (reference, PlaceScript::RateLimited(Duration::from_secs(60))),
            Event::LoseAnswer(reference) => (reference, PlaceScript::LoseReplyAfterAccepting),
            Event::GarbleAnswer(reference) => {
                lock(&self.notes.garbled).insert(reference.to_owned());
                (reference, PlaceScript::LoseReplyAfterAccepting)
            }
            Event::LoseOrder(reference) => {
                lock(&self.notes.lost).insert(reference.to_owned());
                (reference, PlaceScript::LoseReplyBeforeAccepting)
            }
            _ => return false,
        };
        let reference = reference.to_owned();
        self.bureau.next_place_where(move |order| order.reference == reference, script);
        true
    }
}

fn seen(entry: LedgerEntry) -> SeenOrder {
    let mut seen = SeenOrder::new(entry.order_id, entry.article);
    seen.elements = entry.elements;
    seen.email = entry.email;
    seen.address_key = entry.address_key;
    seen.photo_bytes = entry.photo_bytes;
    seen
}

/// What a provider does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    AcceptsBlindly,
    LeavesOutElements,
    LeavesOutThePhoto,
    OrdersTwice,
    OneOrderIdForAll,
    GivesNoOrderId,
    TakesFinalNoForLater,
    TakesFinalNoForUnknown,
    TakesAwayForFinalNo,
    TakesTooManyForAway,
    TakesTooManyForFinalNo,
    StaysAway,
    AnswersBackwards,
    SwapsTheAccepted,
    AnswersTheFirstOnly,
    OneAnswerForAll,
    AnswersForNone,
    StatusesAreBackwards,
    StatusesLeaveOutStrangers,
    SaysUnavailableWhenLost,
    SaysRefusedWhenLost,
    SaysRateLimitedWhenLost,
    SaysRefusedWhenGarbled,
    OrdersLaterWhatItRefused,
    OrdersLaterWhatWasTooMany,
    SendsAgainAtOnce,
    SendsAgainLater,
    SendsTheWholeCallAgain,
    FindsAnything,
    FindsWhatBeginsSo,
    FindsWhatEndsSo,
    FindsTheLatest,
    FindsTheRefused,
    FindsTheLost,
    FindsUnderAnotherOrderId,
    FindsNothing,
    FindsOnlyItsOwn,
    FindsOnlyWhatItHeard,
    ForgetsAfterAMonth,
    KnowsNoStatus,
    LeavesOutOrderIds,
    OneCardForAll,
    AnotherCardEachTime,
    ReadsAStatusOnce,
    KnowsEveryStatus,
    KnowsStatusesThatBeginSo,
    FindsNothingWhenAway,
    KnowsNoStatusWhenAway,
    OrdersWhatItLooksFor,
    EndsWhatManyRead,
    BoastsOfIdempotency,
    EachHandleIsIdempotent,
    LooksThenOrders,
    IdempotentForAMonth,
    IdempotentForCalls,
    HandlesDisagree,
    RefusesTheSecond,
    AnotherOrderIdForTheSecond,
    ForgetsWhatItRefused,
    OneAnswerForAMonth,
    EachHandleHasItsAnswer,
}

/// A simulated bureau with one flaw.
struct BrokenBureau {
    bureau: SimulatedBureau,
    clock: SimulatedClock,
    flaw: Defect,
    number: u64,
    notes: Arc<BureauNotes>,
    /// What this handle was told, by reference.
    own: Mutex<BTreeMap<String, Accepted>>,
}

/// What the flawed handles share.
#[derive(Default)]
struct BureauNotes {
    count: AtomicU64,
    broken: AtomicBool,
    garbled: Mutex<BTreeSet<String>>,
    lost: Mutex<BTreeSet<String>>,
    /// What was refused, to which handle and when.
    refused: Mutex<BTreeMap<String, (u64, DateTime<Utc>)>>,
    later: Mutex<Vec<CardOrder>>,
    reads: Mutex<BTreeMap<String, u32>>,
    heard: Mutex<BTreeMap<String, (Accepted, DateTime<Utc>)>>,
}

impl BrokenBureau {
    fn has(&self, flaw: Defect) -> bool {
        self.flaw == flaw
    }

    /// Does what it has put off.
    async fn catch_up(&self) {
        let later = std::mem::take(&mut *lock(&self.notes.later));
        if !later.is_empty() {
            self.bureau.place(&later).await;
        }
    }

    fn made_up(&self) -> Accepted {
        let count = self.notes.count.fetch_add(1, Ordering::Relaxed);
        Accepted { order_id: format!("made up {count}"), card_id: None }
    }

    /// What it keeps of references, where it is idempotent by itself.
    fn remembered(&self, reference: &str) -> Option<Accepted> {
        match self.flaw {
            Defect::EachHandleIsIdempotent => lock(&self.own).get(reference).cloned(),
            Defect::LooksThenOrders | Defect::IdempotentForAMonth | Defect::IdempotentForCalls => {
                let (accepted, at) = lock(&self.notes.heard).get(reference).cloned()?;
                let old = self.clock.now() - at > TimeDelta::days(31);
                (!old || !self.has(Defect::IdempotentForAMonth)).then_some(accepted)
            }
            _ => None,
        }
    }

    /// Whether it takes an order as new that the bureau would refuse once more.
    fn answers_anew(&self, reference: &str) -> bool {
        let Some((handle, at)) = lock(&self.notes.refused).get(reference).copied() else { return false };
        match self.flaw {
            Defect::ForgetsWhatItRefused => true,
            Defect::OneAnswerForAMonth => self.clock.now() - at > TimeDelta::days(31),
            Defect::EachHandleHasItsAnswer => handle != self.number,
            _ => false,
        }
    }

    async fn place_one(&self, order: &CardOrder) -> PlaceOutcome {
        let mut sent = order.clone();
        match self.flaw {
            Defect::AcceptsBlindly => return PlaceOutcome::Accepted(self.made_up()),
            Defect::LeavesOutElements => drop(sent.elements.pop_last()),
            Defect::LeavesOutThePhoto => sent.photo = None,
            Defect::OrdersTwice => drop(self.bureau.place(std::slice::from_ref(order)).await),
            Defect::StaysAway if self.notes.broken.load(Ordering::Relaxed) => {
                return PlaceOutcome::Unavailable { reason: "no line".to_owned() };
            }
            _ => {}
        }
        let known = lock(&self.notes.heard).contains_key(&order.reference);
        if self.has(Defect::RefusesTheSecond) && known && is_withdrawn(order) {
            return PlaceOutcome::Refused { reason: "no such article".to_owned() };
        }
        if let Some(accepted) = self.remembered(&order.reference) {
            return PlaceOutcome::Accepted(accepted);
        }
        if self.has(Defect::LooksThenOrders) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if self.answers_anew(&order.reference) {
            sent.reference = format!("{} anew", order.reference);
        }
        let mut outcome = self.bureau.place(std::slice::from_ref(&sent)).await.remove(0);
        let reason = || "so it was said".to_owned();
        let garbled = lock(&self.notes.garbled).contains(&order.reference);
        match (&mut outcome, self.flaw) {
            (PlaceOutcome::Accepted(accepted), Defect::OneOrderIdForAll) => accepted.order_id = "the one".to_owned(),
            (PlaceOutcome::Accepted(accepted), Defect::GivesNoOrderId) => accepted.order_id.clear(),
            (PlaceOutcome::Accepted(accepted), Defect::AnotherOrderIdForTheSecond) if known => {
                *accepted = self.made_up();
            }
            (PlaceOutcome::Refused { .. }, Defect::TakesFinalNoForLater) => {
                outcome = PlaceOutcome::Unavailable { reason: reason() };
            }
            (PlaceOutcome::Refused { .. }, Defect::TakesFinalNoForUnknown) => {
                outcome = PlaceOutcome::Unknown { reason: reason() };
            }
            (PlaceOutcome::Refused { .. }, Defect::OrdersLaterWhatItRefused)
            | (PlaceOutcome::RateLimited { .. }, Defect::OrdersLaterWhatWasTooMany) => {
                sent.article = "ART-1".to_owned();
                lock(&self.notes.later).push(sent);
            }
            (PlaceOutcome::Refused { .. }, _) => {
                lock(&self.notes.refused).insert(order.reference.clone(), (self.number, self.clock.now()));
            }
            (PlaceOutcome::Unavailable { .. }, Defect::TakesAwayForFinalNo)
            | (PlaceOutcome::RateLimited { .. }, Defect::TakesTooManyForFinalNo)
            | (PlaceOutcome::Unknown { .. }, Defect::SaysRefusedWhenLost) => {
                outcome = PlaceOutcome::Refused { reason: reason() };
            }
            (PlaceOutcome::Unknown { .. }, Defect::SaysRefusedWhenGarbled) if garbled => {
                outcome = PlaceOutcome::Refused { reason: reason() };
            }
            (PlaceOutcome::RateLimited { .. }, Defect::TakesTooManyForAway)
            | (PlaceOutcome::Unknown { .. }, Defect::SaysUnavailableWhenLost) => {
                outcome = PlaceOutcome::Unavailable { reason: reason() };
            }
            (PlaceOutcome::Unknown { .. }, Defect::SaysRateLimitedWhenLost) => {
                outcome = PlaceOutcome::RateLimited { retry_after: Duration::from_secs(1) };
            }
            (PlaceOutcome::Unavailable { .. }, Defect::StaysAway) => {
                self.notes.broken.store(true, Ordering::Relaxed);
            }
            (PlaceOutcome::Unknown { .. }, Defect::SendsAgainAtOnce) => {
                outcome = self.bureau.place(std::slice::from_ref(&sent)).await.remove(0);
            }
            (PlaceOutcome::Unknown { .. }, Defect::SendsAgainLater) => lock(&self.notes.later).push(sent),
            _ => {}
        }
        if let PlaceOutcome::Accepted(accepted) = &outcome {
            lock(&self.own).insert(order.reference.clone(), accepted.clone());
            if !self.has(Defect::IdempotentForCalls) {
                lock(&self.notes.heard).insert(order.reference.clone(), (accepted.clone(), self.clock.now()));
            }
        }
        outcome
    }

    fn entry(&self, matches: impl Fn(&LedgerEntry) -> bool) -> FindOutcome {
        match self.bureau.ledger().into_iter().rev().find(matches) {
            Some(entry) => FindOutcome::Found(Accepted { order_id: entry.order_id, card_id: None }),
            None => FindOutcome::NotFound,
        }
    }
}

#[async_trait]
impl GoCardsProvider for BrokenBureau {
    fn placement(&self) -> Placement {
        match self.flaw {
            Defect::BoastsOfIdempotency
            | Defect::EachHandleIsIdempotent
            | Defect::LooksThenOrders
            | Defect::IdempotentForAMonth
            | Defect::IdempotentForCalls => Placement::IdempotentByReference,
            Defect::HandlesDisagree if self.number % 2 == 1 => Placement::NotIdempotent,
            _ => self.bureau.placement(),
        }
    }

    async fn place(&self, orders: &[CardOrder]) -> Vec<PlaceOutcome> {
        self.catch_up().await;
        let mut outcomes = Vec::new();
        for order in orders {
            outcomes.push(self.place_one(order).await);
        }
        if self.has(Defect::IdempotentForCalls) {
            // It keeps references once the call is done.
            for (order, outcome) in orders.iter().zip(&outcomes) {
                if let PlaceOutcome::Accepted(accepted) = outcome {
                    lock(&self.notes.heard).insert(order.reference.clone(), (accepted.clone(), self.clock.now()));
                }
            }
        }
        match self.flaw {
            Defect::AnswersBackwards => outcomes.reverse(),
            Defect::SwapsTheAccepted => {
                let mut accepted: Vec<PlaceOutcome> =
                    outcomes.iter().filter(|outcome| matches!(outcome, PlaceOutcome::Accepted(_))).cloned().collect();
                for outcome in &mut outcomes {
                    if matches!(outcome, PlaceOutcome::Accepted(_)) {
                        *outcome = accepted.pop().expect("as many as there are");
                    }
                }
            }
            Defect::AnswersTheFirstOnly => outcomes.truncate(1),
            Defect::OneAnswerForAll => {
                if let Some(first) = outcomes.first().cloned() {
                    outcomes.fill(first);
                }
            }
            Defect::AnswersForNone if orders.is_empty() => {
                outcomes.push(PlaceOutcome::Unknown { reason: "nothing was sent".to_owned() });
            }
            Defect::SendsTheWholeCallAgain
                if outcomes.iter().any(|outcome| matches!(outcome, PlaceOutcome::Unknown { .. }))
                    && orders.len() > 1 =>
            {
                self.bureau.place(orders).await;
            }
            _ => {}
        }
        outcomes
    }

    async fn status(&self, order_ids: &[String]) -> Vec<StatusOutcome> {
        self.catch_up().await;
        let mut outcomes = self.bureau.status(order_ids).await;
        for (outcome, order_id) in outcomes.iter_mut().zip(order_ids) {
            let reads = {
                let mut reads = lock(&self.notes.reads);
                let count = reads.entry(order_id.clone()).or_default();
                *count += 1;
                *count
            };
            match (&mut *outcome, self.flaw) {
                (StatusOutcome::Known(status), Defect::LeavesOutOrderIds) => status.order_id.clear(),
                (StatusOutcome::Known(status), Defect::OneCardForAll) => status.card_id = Some("the one".to_owned()),
                (StatusOutcome::Known(status), Defect::AnotherCardEachTime) => {
                    status.card_id = Some(format!("{order_id} {reads}"));
                }
                (_, Defect::KnowsNoStatus) => *outcome = StatusOutcome::NotFound,
                (_, Defect::ReadsAStatusOnce) if reads > 1 => *outcome = StatusOutcome::NotFound,
                (_, Defect::EndsWhatManyRead) if reads > 6 => *outcome = StatusOutcome::NotFound,
                (StatusOutcome::Unavailable { .. }, Defect::KnowsNoStatusWhenAway) => {
                    *outcome = StatusOutcome::NotFound;
                }
                (StatusOutcome::NotFound, Defect::KnowsEveryStatus) => {
                    let text = "received".to_owned();
                    *outcome =
                        StatusOutcome::Known(OrderStatus { order_id: order_id.clone(), text, ..Default::default() });
                }
                (StatusOutcome::NotFound, Defect::KnowsStatusesThatBeginSo) => {
                    if let Some(entry) = self.bureau.ledger().iter().find(|entry| order_id.starts_with(&entry.order_id))
                    {
                        *outcome = self.bureau.status(std::slice::from_ref(&entry.order_id)).await.remove(0);
                    }
                }
                _ => {}
            }
        }
        match self.flaw {
            Defect::StatusesAreBackwards => outcomes.reverse(),
            Defect::StatusesLeaveOutStrangers if outcomes.len() > 1 => {
                outcomes.retain(|outcome| *outcome != StatusOutcome::NotFound);
            }
            _ => {}
        }
        outcomes
    }

    async fn find(&self, reference: &str) -> FindOutcome {
        self.catch_up().await;
        let found = self.bureau.find(reference).await;
        match self.flaw {
            Defect::FindsAnything => FindOutcome::Found(self.made_up()),
            Defect::FindsWhatBeginsSo => self.entry(|entry| entry.reference.starts_with(reference)),
            Defect::FindsWhatEndsSo => self.entry(|entry| entry.reference.ends_with(reference)),
            Defect::FindsTheLatest => self.entry(|_| true),
            Defect::FindsTheRefused if lock(&self.notes.refused).contains_key(reference) => {
                FindOutcome::Found(self.made_up())
            }
            Defect::FindsTheLost if lock(&self.notes.lost).contains(reference) => FindOutcome::Found(self.made_up()),
            Defect::FindsUnderAnotherOrderId if matches!(found, FindOutcome::Found(_)) => {
                FindOutcome::Found(self.made_up())
            }
            Defect::FindsNothing => FindOutcome::NotFound,
            Defect::FindsOnlyItsOwn if !lock(&self.own).contains_key(reference) => FindOutcome::NotFound,
            Defect::FindsOnlyWhatItHeard if !lock(&self.notes.heard).contains_key(reference) => FindOutcome::NotFound,
            Defect::ForgetsAfterAMonth => match lock(&self.notes.heard).get(reference) {
                Some((_, at)) if self.clock.now() - *at > TimeDelta::days(29) => FindOutcome::NotFound,
                _ => found,
            },
            Defect::FindsNothingWhenAway if matches!(found, FindOutcome::Unavailable { .. }) => FindOutcome::NotFound,
            Defect::OrdersWhatItLooksFor if found == FindOutcome::NotFound => {
                self.bureau.place(&[CardOrder::new(reference, "ART-1")]).await;
                found
            }
            _ => found,
        }
    }
}

/// A bureau as poor as may be, of which nobody can see more than it says: it cannot look, is not idempotent, and knows its
/// orders an hour late.
#[derive(Clone, Default)]
struct LetterBox {
    letters: Arc<Mutex<Vec<DateTime<Utc>>>>,
    clock: Arc<AtomicU64>,
}

impl LetterBox {
    fn now(&self) -> DateTime<Utc> {
        start() + Duration::from_secs(self.clock.load(Ordering::SeqCst))
    }
}

#[async_trait]
impl GoCardsProvider for LetterBox {
    fn placement(&self) -> Placement {
        Placement::NotIdempotent
    }

    async fn place(&self, orders: &[CardOrder]) -> Vec<PlaceOutcome> {
        let place = |order: &CardOrder| {
            if is_withdrawn(order) {
                return PlaceOutcome::Refused { reason: "no such article".to_owned() };
            }
            let mut letters = lock(&self.letters);
            letters.push(self.now());
            PlaceOutcome::Accepted(Accepted { order_id: format!("L{:06}", letters.len()), card_id: None })
        };
        orders.iter().map(place).collect()
    }

    async fn status(&self, order_ids: &[String]) -> Vec<StatusOutcome> {
        let letters = lock(&self.letters);
        let read = |order_id: &String| {
            let number = order_id.strip_prefix('L').filter(|number| number.len() == 6);
            let number: Option<usize> = number.and_then(|number| number.parse().ok());
            match number.and_then(|number| letters.get(number.checked_sub(1)?)) {
                Some(at) if *at + TimeDelta::hours(1) <= self.now() => {
                    StatusOutcome::Known(OrderStatus { order_id: order_id.clone(), ..Default::default() })
                }
                _ => StatusOutcome::NotFound,
            }
        };
        order_ids.iter().map(read).collect()
    }

    async fn find(&self, _: &str) -> FindOutcome {
        FindOutcome::CannotLook
    }
}

#[async_trait]
impl BureauFactory for LetterBox {
    async fn open(&self) -> Arc<dyn GoCardsProvider> {
        Arc::new(self.clone())
    }

    async fn pass_time(&self, duration: Duration) {
        self.clock.fetch_add(duration.as_secs(), Ordering::SeqCst);
    }

    async fn at_once(&self, calls: Vec<Call>) {
        on_threads(calls).await;
    }

    fn order(&self, reference: &str) -> CardOrder {
        CardOrder::new(reference, "ART-1")
    }

    fn refused_order(&self, reference: &str) -> CardOrder {
        CardOrder::new(reference, "withdrawn")
    }

    async fn look(&self, _: &str) -> Option<Vec<SeenOrder>> {
        None
    }

    async fn arrange(&self, _: go_cards_provider::Event<'_>) -> bool {
        false
    }
}
