//! Checks of a [`UserRepository`], one for each clause of its contract and named like it.
//!
//! The checks read: users that the [`DirectoryFactory`] names, ids that nobody has, and searches below its filter. They write
//! nothing, but where the factory can, they let users of their own join and leave again.
//!
//! # Panics
//! Every check panics where its clause is not kept. What the directory calls unavailable is tried again for some seconds; a
//! walk whose cursor has expired is begun again.
//!
//! # Examples
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use cardwright::adapters::memory::MemoryUsers;
//! use cardwright::conformance::user_repository::{DirectoryFactory, Event, check_all};
//! use cardwright::conformance::{Call, Kit, block_on, on_threads};
//! use cardwright::host::{UserFilter, UserRepository};
//! use cardwright::{User, UserId, UserState};
//!
//! struct Staff(MemoryUsers);
//!
//! #[async_trait::async_trait]
//! impl DirectoryFactory for Staff {
//!     async fn open(&self) -> Arc<dyn UserRepository> {
//!         Arc::new(self.0.clone())
//!     }
//!
//!     async fn pass_time(&self, _: Duration) {}
//!
//!     async fn at_once(&self, calls: Vec<Call>) {
//!         on_threads(calls).await;
//!     }
//!
//!     fn known(&self) -> Vec<User> {
//!         let staff = [("ada", UserState::Active), ("bob", UserState::Locked), ("zoë", UserState::Active)];
//!         let name = |id: &str| [("commonName".to_owned(), format!("{id} example"))];
//!         staff.map(|(id, state)| User::new(UserId::new(id).expect("an id"), state, name(id))).into()
//!     }
//!
//!     fn filter(&self) -> UserFilter {
//!         UserFilter::default()
//!     }
//!
//!     fn photo(&self, user: &UserId) -> Option<Vec<u8>> {
//!         (user.as_str() == "ada").then(|| vec![0xff, 0xd8])
//!     }
//!
//!     async fn arrange(&self, event: Event<'_>) -> bool {
//!         match event {
//!             Event::Joins(user) => self.0.put(user.clone()),
//!             Event::Leaves(user) => self.0.remove(user),
//!             _ => return false,
//!         }
//!         true
//!     }
//! }
//!
//! let staff = Staff(MemoryUsers::default().with_photo(UserId::new("ada")?, vec![0xff, 0xd8]));
//! staff.known().into_iter().for_each(|user| staff.0.put(user));
//! block_on(check_all(&Kit::of_directory(&staff, uuid::Uuid::new_v4())));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;

use super::{Call, Kit, gather};
use crate::host::{Clock as _, DirectoryError, SystemClock, TextPrefix, UserFilter, UserPage, UserRepository};
use crate::{User, UserId, fold};

/// Opens the directory under test, and knows what its checks need to know of it.
///
/// The directory may hold others, and others may use it meanwhile.
#[async_trait]
pub trait DirectoryFactory: Send + Sync {
    /// A new handle onto the directory, as independent of the others as handles in production are.
    async fn open(&self) -> Arc<dyn UserRepository>;

    /// Lets time pass, so that a cursor may expire: moves the directory's clock on, or waits as long as that takes at most.
    async fn pass_time(&self, duration: Duration);

    /// Runs these calls at once, as concurrently as can be, and returns when all have ended. A panic of one is a panic of
    /// this. For a directory that needs no runtime, [`on_threads`](super::on_threads) does it; otherwise each is a task of that
    /// runtime.
    async fn at_once(&self, calls: Vec<Call>);

    /// A few users that are in the directory all the time, just as it gives them: three or more, some active and some not.
    /// Attributes with accents show more than those without.
    fn known(&self) -> Vec<User>;

    /// What all of them match, and at most some hundred others, so that the checks need not read through a large directory.
    fn filter(&self) -> UserFilter;

    /// The photo that one of them has.
    fn photo(&self, user: &UserId) -> Option<Vec<u8>>;

    /// Makes this happen. `false` if that cannot be done: then what only this can show is not checked.
    async fn arrange(&self, event: Event<'_>) -> bool;
}

/// What can happen to a directory.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'u> {
    /// This user joins. It is like one of the known ones, but for its id.
    Joins(&'u User),
    /// This user, who has joined before, leaves, if it has not left already.
    Leaves(&'u UserId),
    /// The directory cannot be reached from now on.
    Away,
    /// It can be reached again.
    Back,
}

clauses! {
    dyn DirectoryFactory, "the directory", "user repository";
    known_users_come_back,
    pages_keep_the_limit,
    search_ends,
    search_sees_everybody,
    search_filters,
    walks_do_not_meet,
    cursor_goes_on_or_expires,
    photo_belongs_to_its_user,
    reading_changes_nothing,
    away_is_not_empty,
}

/// Users come back by id, each once and just as they are, and nobody else, however many ids are asked for.
pub async fn known_users_come_back(kit: &Kit<'_, dyn DirectoryFactory>) {
    const CLAUSE: &str = "known_users_come_back";
    let known = known(kit, CLAUSE);
    let ids: Vec<UserId> = known.iter().map(|user| user.id.clone()).collect();
    let directory = Directory::open(kit, CLAUSE).await;
    let assert_given = async |directory: &Directory, asked: &[UserId], expected: &[User], what: &str| {
        let mut given = directory.users(asked).await;
        given.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(given, expected, "{CLAUSE}: {what}");
    };
    assert_given(&directory, &ids, &known, "all known users").await;
    for user in &known {
        assert_given(&directory, std::slice::from_ref(&user.id), std::slice::from_ref(user), "one alone").await;
    }
    assert_given(&directory, &[], &[], "nobody is asked for").await;
    assert_given(&directory, &[stranger(kit), stranger(kit)], &[], "ids that nobody has").await;
    let twice: Vec<UserId> = ids.iter().chain(&ids).cloned().collect();
    assert_given(&directory, &twice, &known, "each id is named twice").await;
    let mut among_strangers: Vec<UserId> = (0..MANY).map(|_| stranger(kit)).collect();
    for (place, id) in ids.iter().enumerate() {
        among_strangers.insert((place + 1) * MANY / (ids.len() + 1), id.clone());
    }
    among_strangers.push(stranger(kit));
    assert_given(&directory, &among_strangers, &known, "all known users among very many ids that nobody has").await;
    drop(directory);
    assert_given(&Directory::open(kit, CLAUSE).await, &ids, &known, "opened again").await;
}

/// No page is longer than it may be.
pub async fn pages_keep_the_limit(kit: &Kit<'_, dyn DirectoryFactory>) {
    const CLAUSE: &str = "pages_keep_the_limit";
    let directory = Directory::open(kit, CLAUSE).await;
    for limit in [1, 2, 3] {
        let mut cursor = None;
        // Enough to see first, middle and last pages of the known users.
        for _ in 0..known(kit, CLAUSE).len() {
            let page = match directory.page(&kit.factory.filter(), cursor.as_deref(), limit).await {
                Ok(page) => page,
                Err(DirectoryError::CursorExpired) => break,
                Err(error) => panic!("{CLAUSE}: a search that goes on failed: {error}"),
            };
            let length = page.users.len();
            assert!(length <= limit, "{CLAUSE}: a page of at most {limit} has {length} users");
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
    }
}

/// A walk over pages of any length comes to an end.
pub async fn search_ends(kit: &Kit<'_, dyn DirectoryFactory>) {
    const CLAUSE: &str = "search_ends";
    let directory = Directory::open(kit, CLAUSE).await;
    for limit in [1, 2, 3, LONG] {
        directory.walk_all(&kit.factory.filter(), limit).await;
    }
}

/// Who is there throughout a walk is seen, also when others join before it and leave during it.
pub async fn search_sees_everybody(kit: &Kit<'_, dyn DirectoryFactory>) {
    const CLAUSE: &str = "search_sees_everybody";
    let (known, filter) = (known(kit, CLAUSE), kit.factory.filter());
    let directory = Directory::open(kit, CLAUSE).await;
    for limit in [1, 2, 3, known.len(), LONG] {
        let seen = directory.walk_all(&filter, limit).await;
        for user in &known {
            assert_eq!(seen.get(&user.id), Some(user), "{CLAUSE}: by pages of {limit}");
        }
    }

    let visitors: Vec<User> =
        known.iter().cycle().take(4).map(|user| User { id: stranger(kit), ..user.clone() }).collect();
    for visitor in &visitors {
        kit.factory.arrange(Event::Joins(visitor)).await;
    }
    let before = directory.walk_all(&filter, LONG).await;
    let mut present: BTreeSet<UserId> =
        visitors.iter().map(|visitor| visitor.id.clone()).filter(|id| before.contains_key(id)).collect();
    // Each visitor leaves as soon as it was seen; so who is left at the end was there throughout.
    let mut seen = BTreeSet::new();
    let mut cursor: Option<String> = None;
    let mut steps = 0;
    loop {
        steps += 1;
        match directory.page(&filter, cursor.as_deref(), 1).await {
            Ok(page) => {
                for user in page.users {
                    if present.contains(&user.id) && kit.factory.arrange(Event::Leaves(&user.id)).await {
                        present.remove(&user.id);
                    }
                    seen.insert(user.id);
                }
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
            Err(DirectoryError::CursorExpired) if steps < STEPS => {
                seen.clear();
                cursor = None;
            }
            Err(error) => panic!("{CLAUSE}: a search that goes on failed: {error}"),
        }
        assert!(steps < STEPS, "{CLAUSE}: a walk during which users leave does not end");
    }
    for visitor in &visitors {
        kit.factory.arrange(Event::Leaves(&visitor.id)).await;
    }
    let missed: Vec<&UserId> = known.iter().map(|user| &user.id).filter(|id| !seen.contains(*id)).collect();
    assert!(missed.is_empty(), "{CLAUSE}: while others left, these were not seen: {missed:?}");
    let missed: Vec<&UserId> = present.iter().filter(|id| !seen.contains(*id)).collect();
    assert!(missed.is_empty(), "{CLAUSE}: while others left, these were not seen, who had joined before: {missed:?}");
}

/// A search gives who matches and nobody else, or says that it cannot search so.
pub async fn search_filters(kit: &Kit<'_, dyn DirectoryFactory>) {
    const CLAUSE: &str = "search_filters";
    let known = known(kit, CLAUSE);
    let directory = Directory::open(kit, CLAUSE).await;
    for filter in filters(&known, &kit.factory.filter()) {
        // `None` for what the directory cannot search by.
        let Some(seen) = directory.walk(&filter, LONG).await else { continue };
        let others: Vec<&UserId> = seen.values().filter(|user| !filter.matches(user)).map(|user| &user.id).collect();
        assert!(others.is_empty(), "{CLAUSE}: {filter:?} is not matched by {others:?}");
        for user in known.iter().filter(|user| filter.matches(user)) {
            assert!(seen.contains_key(&user.id), "{CLAUSE}: {filter:?} must give {}", user.id);
        }
    }
}

/// Walks at once, in turns through one handle and by eight callers, do not disturb each other.
pub async fn walks_do_not_meet(kit: &Kit<'_, dyn DirectoryFactory>) {
    const CLAUSE: &str = "walks_do_not_meet";
    let (known, filter) = (known(kit, CLAUSE), kit.factory.filter());
    let directory = Directory::open(kit, CLAUSE).await;
    let (mut first, mut second) = (Walk::default(), Walk::default());
    for _ in 0..STEPS {
        directory.step(&mut first, &filter, 1).await;
        directory.step(&mut second, &filter, 2).await;
        if first.ended && second.ended {
            break;
        }
    }
    for (walk, which) in [(first, "the first"), (second, "the second")] {
        assert!(walk.ended, "{CLAUSE}: {which} of two walks in turns does not end");
        for user in &known {
            assert!(walk.seen.contains_key(&user.id), "{CLAUSE}: {which} of two walks in turns misses {}", user.id);
        }
    }

    let active = UserFilter { active: Some(true), ..filter.clone() };
    let mut calls: Vec<BoxFuture<'static, ()>> = Vec::new();
    for caller in 0..8 {
        let directory = Directory::open(kit, CLAUSE).await;
        let filter = if caller % 2 == 0 { filter.clone() } else { active.clone() };
        let expected: Vec<UserId> =
            known.iter().filter(|user| filter.matches(user)).map(|user| user.id.clone()).collect();
        calls.push(Box::pin(async move {
            for limit in [1 + caller % 3, 1, 2] {
                let Some(seen) = directory.walk(&filter, limit).await else { return };
                for id in &expected {
                    assert!(seen.contains_key(id), "{CLAUSE}: one of eight walks at once misses {id}");
                }
            }
        }));
    }
    gather(calls, |calls| kit.factory.at_once(calls)).await;
}

/// A cursor goes on at its place wherever and whenever it is used, or has expired; and no text does any harm.
pub async fn cursor_goes_on_or_expires(kit: &Kit<'_, dyn DirectoryFactory>) {
    const CLAUSE: &str = "cursor_goes_on_or_expires";
    let (known, filter) = (known(kit, CLAUSE), kit.factory.filter());
    let directory = Directory::open(kit, CLAUSE).await;
    // Each cursor of a walk, with those who were seen until then.
    let mut places: Vec<(String, BTreeSet<UserId>)> = Vec::new();
    let mut walk = Walk::default();
    while places.len() < 2 * known.len() {
        directory.step(&mut walk, &filter, 1).await;
        match (&walk.cursor, walk.ended) {
            (Some(cursor), false) => places.push((cursor.clone(), walk.seen.keys().cloned().collect())),
            (None, false) => places.clear(),
            (_, true) => break,
        }
        assert!(walk.steps < STEPS, "{CLAUSE}: a walk does not end");
    }
    let assert_goes_on = async |directory: &Directory, when: &str| {
        for (cursor, before) in &places {
            let rest = match directory.follow(&filter, cursor.clone(), 2).await {
                Ok(rest) => rest,
                Err(DirectoryError::CursorExpired) => continue,
                Err(error) => panic!("{CLAUSE}: {when}, a cursor is neither good nor expired: {error}"),
            };
            let missed: Vec<&UserId> = known
                .iter()
                .map(|user| &user.id)
                .filter(|id| !before.contains(*id) && !rest.contains_key(*id))
                .collect();
            assert!(missed.is_empty(), "{CLAUSE}: {when}, a cursor leads past {missed:?}");
        }
    };
    assert_goes_on(&directory, "used once more").await;
    let other = Directory::open(kit, CLAUSE).await;
    assert_goes_on(&other, "through another handle").await;
    drop((directory, other));
    assert_goes_on(&Directory::open(kit, CLAUSE).await, "opened again").await;
    kit.factory.pass_time(DAY).await;
    let directory = Directory::open(kit, CLAUSE).await;
    assert_goes_on(&directory, "a day later").await;

    let mut texts = ["", " ", "0", "-1", "18446744073709551616", "%", "\u{0}", "🂡"].map(str::to_owned).to_vec();
    texts.push(stranger(kit).to_string());
    if let Some((cursor, _)) = places.first() {
        texts.push(cursor.chars().skip(1).collect());
        texts.push(format!("{cursor}{cursor}"));
    }
    for text in texts {
        match directory.follow(&filter, text.clone(), 2).await {
            Ok(seen) => {
                let others: Vec<&UserId> =
                    seen.values().filter(|user| !filter.matches(user)).map(|user| &user.id).collect();
                assert!(others.is_empty(), "{CLAUSE}: {text:?} for a cursor gives others: {others:?}");
            }
            Err(DirectoryError::CursorExpired) => {}
            Err(error) => panic!("{CLAUSE}: {text:?} for a cursor must have expired, not: {error}"),
        }
    }
}

/// Everybody's photo is that of this user, as often and by as many as it is asked for.
pub async fn photo_belongs_to_its_user(kit: &Kit<'_, dyn DirectoryFactory>) {
    const CLAUSE: &str = "photo_belongs_to_its_user";
    let known = known(kit, CLAUSE);
    let directory = Directory::open(kit, CLAUSE).await;
    for _ in 0..2 {
        for user in &known {
            let photo = directory.photo(&user.id).await;
            assert_eq!(photo, kit.factory.photo(&user.id), "{CLAUSE}: the photo of {}", user.id);
        }
        assert_eq!(directory.photo(&stranger(kit)).await, None, "{CLAUSE}: somebody who is not known has no photo");
    }
    let mut calls: Vec<BoxFuture<'static, ()>> = Vec::new();
    for caller in 0..8 {
        let directory = Directory::open(kit, CLAUSE).await;
        let user = known[caller % known.len()].id.clone();
        let photo = kit.factory.photo(&user);
        calls.push(Box::pin(async move {
            assert_eq!(
                directory.photo(&user).await,
                photo,
                "{CLAUSE}: the photo of {user}, asked for by eight at once"
            );
        }));
    }
    gather(calls, |calls| kit.factory.at_once(calls)).await;
}

/// Who is looked for and not there is not there afterwards, and who is there stays as it is.
pub async fn reading_changes_nothing(kit: &Kit<'_, dyn DirectoryFactory>) {
    const CLAUSE: &str = "reading_changes_nothing";
    let known = known(kit, CLAUSE);
    let nobody = stranger(kit);
    let mut calls: Vec<BoxFuture<'static, ()>> = Vec::new();
    for _ in 0..8 {
        let (directory, nobody) = (Directory::open(kit, CLAUSE).await, nobody.clone());
        let mut filter = kit.factory.filter();
        filter.text.extend(known[0].attributes.keys().map(|name| TextPrefix::new(name, nobody.as_str())));
        calls.push(Box::pin(async move {
            directory.users(std::slice::from_ref(&nobody)).await;
            directory.photo(&nobody).await;
            directory.walk(&filter, 2).await;
        }));
    }
    gather(calls, |calls| kit.factory.at_once(calls)).await;

    let directory = Directory::open(kit, CLAUSE).await;
    let made = directory.users(std::slice::from_ref(&nobody)).await;
    assert_eq!(made, [], "{CLAUSE}: looking for somebody has made a user");
    let seen = directory.walk_all(&kit.factory.filter(), LONG).await;
    assert!(!seen.contains_key(&nobody), "{CLAUSE}: looking for somebody has made a user, who is found");
    let ids: Vec<UserId> = known.iter().map(|user| user.id.clone()).collect();
    let mut after = directory.users(&ids).await;
    after.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(after, known, "{CLAUSE}: users that were read are others than before");
}

/// A directory that cannot be reached says so to every call, and is as before once it can be.
pub async fn away_is_not_empty(kit: &Kit<'_, dyn DirectoryFactory>) {
    const CLAUSE: &str = "away_is_not_empty";
    let (known, filter) = (known(kit, CLAUSE), kit.factory.filter());
    let directory = Directory::open(kit, CLAUSE).await;
    let mut walk = Walk::default();
    directory.step(&mut walk, &filter, 1).await;
    if !kit.factory.arrange(Event::Away).await {
        return;
    }
    let reader = &directory.users;
    let user = std::slice::from_ref(&known[0].id);
    let answers = [
        ("users", reader.users(user).await.map(|users| format!("{} users", users.len()))),
        ("users for an id that nobody has", reader.users(&[stranger(kit)]).await.map(|users| format!("{users:?}"))),
        ("search", reader.search(&filter, None, 2).await.map(|page| format!("a page of {}", page.users.len()))),
        ("photo", reader.photo(&known[0].id).await.map(|_| "an answer".to_owned())),
    ];
    let next = match &walk.cursor {
        Some(cursor) => Some(reader.search(&filter, Some(cursor), 2).await),
        None => None,
    };
    // Before anything is said of it, so that it does not stay away.
    let is_back = kit.factory.arrange(Event::Back).await;
    for (call, answer) in answers {
        assert!(
            matches!(answer, Err(DirectoryError::Unavailable { .. })),
            "{CLAUSE}: {call} must be unavailable while the directory is away, not: {answer:?}"
        );
    }
    if let Some(answer) = next {
        assert!(
            matches!(answer, Err(DirectoryError::Unavailable { .. } | DirectoryError::CursorExpired)),
            "{CLAUSE}: the next page must be unavailable while the directory is away, not: {answer:?}"
        );
    }
    if is_back {
        let back = directory.users(user).await;
        assert_eq!(back, known[..1], "{CLAUSE}: once it is back, it must be as before");
    }
}

/// How many ids that nobody has are asked for at once: more than the engine asks for unless it is told to.
const MANY: usize = 1_500;
/// The length of a page in which there is room for many.
const LONG: usize = 500;
/// After so many pages that show nobody new, a walk does not end.
const STEPS: u32 = 10_000;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// Those whom the factory knows, by id.
fn known(kit: &Kit<'_, dyn DirectoryFactory>, clause: &str) -> Vec<User> {
    let known: BTreeMap<UserId, User> = kit.factory.known().into_iter().map(|user| (user.id.clone(), user)).collect();
    let active = known.values().filter(|user| user.is_active()).count();
    assert!(
        known.len() >= 3 && active > 0 && active < known.len(),
        "{clause}: the factory must know three users or more, some active and some not"
    );
    let filter = kit.factory.filter();
    for user in known.values() {
        assert!(filter.matches(user), "{clause}: the factory's filter must be matched by {}, whom it knows", user.id);
    }
    known.into_values().collect()
}

/// An id that nobody has.
fn stranger(kit: &Kit<'_, dyn DirectoryFactory>) -> UserId {
    UserId::new(format!("conformance {}", kit.id())).expect("the text is an id")
}

/// What some of the known users match and others do not, all below the factory's filter.
fn filters(known: &[User], among: &UserFilter) -> Vec<UserFilter> {
    let with = |active: Option<bool>, texts: &[TextPrefix]| {
        let mut filter = among.clone();
        filter.active = active.or(among.active);
        filter.text.extend(texts.iter().cloned());
        filter
    };
    let mut filters = vec![with(Some(true), &[]), with(Some(false), &[])];
    for user in known.iter().take(5) {
        let mut begins = Vec::new();
        for (name, value) in &user.attributes {
            let begin: String = value.chars().take(3).collect();
            let end: String = value.chars().skip(1).collect();
            let texts = [value.clone(), begin.clone(), fold(&begin), begin.to_uppercase(), end, format!("{value}x")];
            filters.extend(texts.map(|text| with(None, &[TextPrefix::new(name, text)])));
            filters.push(with(None, &[TextPrefix::new(name, "")]));
            begins.push(TextPrefix::new(name, begin));
        }
        filters.push(with(None, &begins));
        filters.push(with(Some(true), &begins));
        filters.push(with(Some(false), &begins));
        // What one begins with, and what another does.
        for name in user.attributes.keys() {
            let of_another =
                known.iter().filter(|other| other.id != user.id).find_map(|other| other.attributes.get(name));
            if let (Some(own), Some(other)) = (user.attributes.get(name), of_another) {
                filters.push(with(None, &[own, other].map(|value| TextPrefix::new(name, value))));
            }
        }
    }
    filters.push(with(None, &[TextPrefix::new("conformance", "")]));
    let mut distinct: Vec<UserFilter> = Vec::new();
    for filter in filters {
        if !distinct.contains(&filter) {
            distinct.push(filter);
        }
    }
    distinct
}

/// A handle onto the directory under test. Tries again what it calls unavailable.
struct Directory {
    clause: &'static str,
    users: Arc<dyn UserRepository>,
}

/// How far a walk through a search is.
#[derive(Default)]
struct Walk {
    seen: BTreeMap<UserId, User>,
    cursor: Option<String>,
    ended: bool,
    steps: u32,
}

impl Directory {
    async fn open(kit: &Kit<'_, dyn DirectoryFactory>, clause: &'static str) -> Self {
        Self { clause, users: kit.factory.open().await }
    }

    async fn users(&self, ids: &[UserId]) -> Vec<User> {
        match self.patient(|| self.users.users(ids)).await {
            Ok(users) => users,
            Err(error) => panic!("{}: users failed: {error}", self.clause),
        }
    }

    async fn photo(&self, user: &UserId) -> Option<Vec<u8>> {
        match self.patient(|| self.users.photo(user)).await {
            Ok(photo) => photo,
            Err(error) => panic!("{}: photo failed: {error}", self.clause),
        }
    }

    async fn page(&self, filter: &UserFilter, cursor: Option<&str>, limit: usize) -> Result<UserPage, DirectoryError> {
        self.patient(|| self.users.search(filter, cursor, limit)).await
    }

    /// One page further, or back to the beginning if the cursor has expired. Nothing once the walk has ended.
    async fn step(&self, walk: &mut Walk, filter: &UserFilter, limit: usize) {
        if walk.ended {
            return;
        }
        walk.steps += 1;
        match self.page(filter, walk.cursor.as_deref(), limit).await {
            Ok(page) => {
                walk.seen.extend(page.users.into_iter().map(|user| (user.id.clone(), user)));
                walk.ended = page.next.is_none();
                walk.cursor = page.next;
            }
            Err(DirectoryError::CursorExpired) => {
                walk.cursor = None;
                walk.seen.clear();
            }
            Err(error) => panic!("{}: a search failed: {error}", self.clause),
        }
    }

    /// All who match. `None` if the directory cannot search so.
    async fn walk(&self, filter: &UserFilter, limit: usize) -> Option<BTreeMap<UserId, User>> {
        for _ in 0..TRIES {
            let first = match self.page(filter, None, limit).await {
                Ok(page) => page,
                Err(DirectoryError::Unsupported { .. }) => return None,
                Err(error) => panic!("{}: a search failed at its beginning: {error}", self.clause),
            };
            let mut seen: BTreeMap<UserId, User> =
                first.users.into_iter().map(|user| (user.id.clone(), user)).collect();
            let Some(cursor) = first.next else { return Some(seen) };
            match self.follow(filter, cursor, limit).await {
                Ok(rest) => {
                    seen.extend(rest);
                    return Some(seen);
                }
                Err(DirectoryError::CursorExpired) => {}
                Err(error) => panic!("{}: a search that goes on failed: {error}", self.clause),
            }
        }
        panic!("{}: the cursor of a walk without a pause expired {TRIES} times in a row", self.clause)
    }

    /// All who match what the directory must be able to search by.
    async fn walk_all(&self, filter: &UserFilter, limit: usize) -> BTreeMap<UserId, User> {
        match self.walk(filter, limit).await {
            Some(seen) => seen,
            None => panic!("{}: the directory cannot search by the factory's own filter", self.clause),
        }
    }

    /// All who come after a cursor.
    async fn follow(
        &self,
        filter: &UserFilter,
        cursor: String,
        limit: usize,
    ) -> Result<BTreeMap<UserId, User>, DirectoryError> {
        let mut seen = BTreeMap::new();
        let mut next = Some(cursor);
        let mut without_news = 0;
        while let Some(cursor) = next {
            let page = self.page(filter, Some(&cursor), limit).await?;
            let before = seen.len();
            seen.extend(page.users.into_iter().map(|user| (user.id.clone(), user)));
            without_news = if seen.len() == before { without_news + 1 } else { 0 };
            assert!(without_news < STEPS, "{}: a walk does not end: {STEPS} pages show nobody new", self.clause);
            next = page.next;
        }
        Ok(seen)
    }

    async fn patient<T, F: Future<Output = Result<T, DirectoryError>>>(
        &self,
        attempt: impl Fn() -> F,
    ) -> Result<T, DirectoryError> {
        for _ in 0..TRIES {
            match attempt().await {
                Err(error) if error.is_transient() => SystemClock.sleep(PAUSE).await,
                answer => return answer,
            }
        }
        panic!("{}: the directory was unavailable {TRIES} times in a row", self.clause)
    }
}
