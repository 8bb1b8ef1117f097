//! The kit against the store in memory, and against stores that are broken on purpose.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cardwright::adapters::memory::{ManualClock, MemoryRepository, MemoryUsers, RecordingNotifier};
use cardwright::adapters::postgres::PostgresRepository;
use cardwright::adapters::sqlite::{SqliteOptions, SqliteRepository};
use cardwright::conformance::card_repository::{check, check_all, clauses};
use cardwright::conformance::{Call, Kit, StoreFactory, block_on, on_threads};
use cardwright::host::{
    Backlog, CardQuery, CardRepository, CertificateQuery, ClaimRequest, Clock, CommitError, FeedPage, JobQuery,
    Notifier, NotifyOutcome, RepositoryError, RequestQuery, TextPrefix, UserFilter, UserRepository,
};
use cardwright::{
    ActorId, ApprovalRequest, Attempt, Card, CardId, CardKind, CardState, Certificate, CertificateId, ChainKey,
    ChangeSet, Conflict, HistoryEntry, Job, JobId, JobState, ObjectId, Record, RequestId, Reservation, Route, RunId,
    Stamp, StateAtCa, StoredId, SymbolicName, Task, User, UserId, UserState, Why, fold,
};
use chrono::{DateTime, Utc};
use futures::future::{FutureExt as _, join_all};
use uuid::Uuid;

use crate::database::{Database, runtime};
use crate::kits::{assert_all_shown, assert_caught};

#[test]
fn memory_keeps_every_clause() {
    let factory = Factory::new(|store| Arc::new(store));
    let kit = factory.kit();
    for clause in clauses() {
        block_on(check(&kit, clause));
    }
}

#[test]
fn sqlite_keeps_every_clause() {
    let factory = SqliteFactory::new();
    let kit = Kit::new(&factory, Uuid::from_u128(1));
    for clause in clauses() {
        block_on(check(&kit, clause));
    }
}

#[test]
fn postgres_keeps_every_clause() {
    let factory = PostgresFactory::new(|store| Arc::new(store));
    let kit = Kit::new(&factory, Uuid::from_u128(1));
    for clause in clauses() {
        runtime().block_on(check(&kit, clause));
    }
}

#[test]
fn postgres_keeps_every_clause_behind_arc_and_box_on_a_shared_database() {
    let factory = PostgresFactory::new(|store| Arc::new(Arc::new(store)));
    runtime().block_on(check_all(&Kit::new(&factory, Uuid::from_u128(1))));
    let wrap: WrapPostgres = |store| {
        let store: Box<dyn CardRepository> = Box::new(store);
        Arc::new(store)
    };
    let factory = PostgresFactory { wrap, ..factory };
    runtime().block_on(check_all(&Kit::new(&factory, Uuid::from_u128(2)).with_lease(Duration::from_secs(2))));
}

#[test]
fn memory_keeps_every_clause_behind_arc_and_box() {
    let behind_arc = Factory::new(|store| Arc::new(Arc::new(store)));
    block_on(check_all(&behind_arc.kit()));
    let behind_box = Factory::new(|store| {
        let store: Box<dyn CardRepository> = Box::new(store);
        Arc::new(store)
    });
    block_on(check_all(&behind_box.kit()));
}

#[test]
fn checks_can_be_repeated_on_one_store() {
    let factory = Factory::new(|store| Arc::new(store));
    let kit = factory.kit();
    block_on(check_all(&kit));
    block_on(check_all(&kit));
    block_on(check_all(&Kit::new(&factory, Uuid::from_u128(2)).with_lease(Duration::from_secs(2))));
}

#[test]
fn checks_can_run_as_one_task() {
    let factory = Factory { threads: false, ..Factory::new(|store| Arc::new(store)) };
    block_on(check_all(&factory.kit()));
}

#[test]
fn every_broken_store_is_caught() {
    let flaws = [
        (Flaw::IgnoresStaleVersions, "stale_version_is_refused"),
        (Flaw::IgnoresStaleVersions, "numbers_are_never_drawn_twice"),
        (Flaw::IgnoresStaleVersions, "attempt_is_fenced"),
        (Flaw::IgnoresStaleCertificates, "stale_version_is_refused"),
        (Flaw::IgnoresStaleCertificates, "commit_is_atomic"),
        (Flaw::NamesNoStaleCertificates, "every_conflict_is_named"),
        (Flaw::NamesOnlyTheFirstConflict, "every_conflict_is_named"),
        (Flaw::OverwritesReservations, "reservation_has_one_holder"),
        (Flaw::ClaimLeavesTheVersion, "claim_gives_due_open_jobs_once"),
        (Flaw::StoresPartOfARefusedCommit, "commit_is_atomic"),
        (Flaw::StoresCertificatesOfARefusedCommit, "commit_is_atomic"),
        (Flaw::StoresCertificatesOfARefusedCommit, "every_conflict_is_named"),
        (Flaw::ForgetsTheStateAtTheCa, "stored_objects_come_back_equal"),
        (Flaw::ForgetsProductions, "stored_objects_come_back_equal"),
        (Flaw::CutsTimesToSeconds, "stored_objects_come_back_equal"),
        (Flaw::PagesBeginWithTheLast, "pages_are_stable"),
        (Flaw::FullPagesLackOne, "pages_are_stable"),
        (Flaw::PagesAreBackwards, "pages_are_stable"),
        (Flaw::FullCertificatePagesLackOne, "pages_are_stable"),
        (Flaw::CertificatePagesAreBackwards, "pages_are_stable"),
        (Flaw::CertificatePagesIgnoreTheCard, "queries_filter"),
        (Flaw::CertificatePagesIgnoreTheState, "queries_filter"),
        (Flaw::IgnoresTexts, "queries_filter"),
        (Flaw::MatchesTextsAnywhere, "queries_filter"),
        (Flaw::ClaimsAlsoEarly, "claim_gives_due_open_jobs_once"),
        (Flaw::LeasesNeverEnd, "lease_ends_by_the_stores_clock"),
        (Flaw::RenewsWhatIsLost, "lease_ends_by_the_stores_clock"),
        (Flaw::ReleasesAnyVersion, "released_job_can_be_claimed_at_once"),
        (Flaw::ReleasesNothing, "released_job_can_be_claimed_at_once"),
        (Flaw::AttemptsAreNotFenced, "attempt_is_fenced"),
        (Flaw::CountsWhatIsNotDue, "backlog_counts_what_is_open"),
        (Flaw::CountsOtherRuns, "backlog_counts_what_is_open"),
        (Flaw::CountsNoDoubts, "backlog_counts_what_is_open"),
        (Flaw::CountsNothingThatIsClaimed, "backlog_counts_what_is_open"),
        (Flaw::HistoryIsBackwards, "history_is_in_order"),
        (Flaw::CertificatesHaveNoHistory, "history_is_in_order"),
        (Flaw::FeedSkips, "feed_loses_nothing"),
        (Flaw::FeedRepeats, "feed_loses_nothing"),
        (Flaw::ForgetsWhenOpenedAgain, "stored_is_stored"),
        (Flaw::KeepsNoCertificates, "stored_is_stored"),
    ];
    let caught: Vec<&str> = flaws.iter().map(|(_, clause)| *clause).collect();
    assert_all_shown(&clauses(), &caught);
    for (flaw, clause) in flaws {
        let factory = Factory { flaw: Some(flaw), ..Factory::new(|store| Arc::new(store)) };
        assert_caught(|| block_on(check(&factory.kit(), clause)), flaw, clause);
    }
}

#[test]
fn an_object_twice_in_one_change_set_is_a_conflict() {
    let (store, _) = memory();
    let (card, entry) = card(1);
    let changes = changes(vec![card.clone(), card.clone()], vec![entry]);
    let Err(CommitError::Conflicts(conflicts)) = block_on(store.commit(&changes)) else {
        panic!("one of the two must be a conflict");
    };
    let object = StoredId::Object(ObjectId::Card(card.id));
    assert_eq!(conflicts, [Conflict::Version { object, expected: 0, found: 1 }]);
}

#[test]
fn a_gap_in_a_chain_is_rejected_and_leaves_no_trace() {
    let (store, _) = memory();
    let (first, first_entry) = card(1);
    let (mut second, second_entry) = card(2);
    let gap = {
        let mut head = second.history;
        head.length += 1;
        head.append(ObjectId::Card(second.id), None, "x", &stamp(&names()), Why::code("gap"))
    };
    for history in [
        vec![first_entry.clone(), second_entry.clone(), gap.clone()],
        vec![first_entry.clone(), second_entry.clone(), second_entry.clone()],
        vec![first_entry.clone(), gap],
    ] {
        let changes = changes(vec![first.clone(), second.clone()], history);
        let refused = block_on(store.commit(&changes));
        assert!(matches!(refused, Err(CommitError::Store(RepositoryError::Rejected { .. }))), "{refused:?}");
        assert!(block_on(store.cards(&[first.id, second.id])).unwrap().is_empty());
        assert_eq!(block_on(store.changes_since(None, 9)).unwrap(), FeedPage { entries: vec![], cursor: None });
        assert!(block_on(store.history(&ObjectId::Card(first.id), 0, 9)).unwrap().is_empty());
    }
    let later = second.note(&stamp(&names()), Why::code("noted"));
    let changes = changes(vec![first, second], vec![first_entry, second_entry, later]);
    block_on(store.commit(&changes)).unwrap();
    assert_eq!(block_on(store.changes_since(None, 9)).unwrap().entries.len(), 3);
    let foreign = block_on(store.changes_since(Some("4"), 9));
    assert!(matches!(foreign, Err(RepositoryError::Rejected { .. })), "{foreign:?}");
}

#[test]
fn an_expired_claim_that_nobody_took_is_renewed() {
    let (store, clock) = memory();
    let names = names();
    let job = Job::new(JobId::new(Uuid::from_u128(1)), place_order(), None, &stamp(&names));
    let mut changes = ChangeSet::new();
    changes.jobs.push(job.clone());
    block_on(store.commit(&changes)).unwrap();
    let lease = Duration::from_secs(9);
    let claim = ClaimRequest::new("worker", 9, lease);
    let version = block_on(store.claim(&claim)).unwrap()[0].version;
    clock.advance(lease * 2);
    assert_eq!(block_on(store.renew(&[(job.id, version)], lease)).unwrap(), [job.id]);
    assert!(block_on(store.claim(&claim)).unwrap().is_empty());
    block_on(store.release(&[(job.id, version)])).unwrap();
    assert!(block_on(store.renew(&[(job.id, version)], lease)).unwrap().is_empty(), "a released claim is gone");
}

#[test]
fn users_are_found_page_by_page() {
    let user = |name: &str, state| {
        User::new(UserId::new(name).unwrap(), state, [("commonName".to_owned(), name.to_uppercase())])
    };
    let users = ["ada", "Änne", "anna", "bob"].map(|name| user(name, UserState::Active));
    let directory: MemoryUsers = users.into_iter().chain([user("anton", UserState::Locked)]).collect();
    let directory = directory.with_photo(UserId::new("ada").unwrap(), vec![1, 2]);
    let filter = UserFilter { active: Some(true), text: vec![TextPrefix::new("commonName", "an")] };
    let mut found = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = block_on(directory.search(&filter, cursor.as_deref(), 1)).unwrap();
        found.extend(page.users.into_iter().map(|user| user.id.to_string()));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found, ["anna", "Änne"]);
    let (ada, bob) = (UserId::new("ada").unwrap(), UserId::new("bob").unwrap());
    assert_eq!(block_on(directory.photo(&ada)).unwrap(), Some(vec![1, 2]));
    assert_eq!(block_on(directory.photo(&bob)).unwrap(), None);
    directory.put(user("bob", UserState::Inactive));
    let known = block_on(directory.users(&[bob.clone(), UserId::new("zoe").unwrap(), bob])).unwrap();
    assert_eq!(known, [user("bob", UserState::Inactive)]);
}

#[test]
fn a_recording_notifier_keeps_what_it_sends() {
    let Task::Notify(message) = notify().task else { panic!("a notification was asked for") };
    let notifier = RecordingNotifier::new();
    assert_eq!(block_on(notifier.send(&message)), NotifyOutcome::Sent);
    let away = NotifyOutcome::Unavailable { reason: "away".to_owned() };
    notifier.answer_with(away.clone());
    assert_eq!(block_on(notifier.send(&message)), away);
    assert_eq!(notifier.sent(), [message]);
}

#[test]
fn a_manual_clock_wakes_who_has_slept_long_enough() {
    let (_, clock) = memory();
    let start = clock.now();
    let mut sleep = clock.sleep(Duration::from_secs(10));
    let mut is_awake = || (&mut sleep).now_or_never().is_some();
    assert!(!is_awake());
    clock.advance(Duration::from_secs(9));
    assert!(!is_awake());
    clock.advance(Duration::from_secs(1));
    assert!(is_awake());
    assert_eq!(clock.now() - start, chrono::TimeDelta::seconds(10));
}

fn memory() -> (MemoryRepository, ManualClock) {
    let clock = ManualClock::new("2026-03-01T08:00:00Z".parse().unwrap());
    (MemoryRepository::new(Arc::new(clock.clone())), clock)
}

fn names() -> (ActorId, SymbolicName, ChainKey) {
    (ActorId::new("tester").unwrap(), SymbolicName::new("Test").unwrap(), ChainKey::none())
}

fn stamp((actor, process, key): &(ActorId, SymbolicName, ChainKey)) -> Stamp<'_> {
    let at = "2026-02-01T08:00:00Z".parse().unwrap();
    Stamp { at, actor, process, run: Some(RunId::new(Uuid::from_u128(9))), key }
}

fn card(number: u128) -> (Card, HistoryEntry) {
    let id = CardId::new(Uuid::from_u128(number));
    Card::create(id, CardKind::Permanent, Route::External, &stamp(&names()), Why::code("created"))
}

const fn place_order() -> Task {
    Task::PlaceOrder { notify_holder: false, queued: true }
}

fn changes(cards: Vec<Card>, history: Vec<HistoryEntry>) -> ChangeSet {
    let mut changes = ChangeSet::new();
    changes.cards = cards;
    changes.history = history;
    changes
}

fn notify() -> Job {
    let task = Task::Notify(cardwright::Message {
        id: cardwright::MessageId::new(Uuid::from_u128(3)),
        kind: cardwright::MessageKind::CardOrdered,
        recipient: cardwright::Recipient::Email("ada@example.org".to_owned()),
        data: [].into(),
        locale: None,
    });
    Job::new(JobId::new(Uuid::from_u128(4)), task, None, &stamp(&names()))
}

type Wrap = fn(MemoryRepository) -> Arc<dyn CardRepository>;

/// Opens handles onto one store in memory.
struct Factory {
    clock: ManualClock,
    store: MemoryRepository,
    wrap: Wrap,
    flaw: Option<Flaw>,
    threads: bool,
}

impl Factory {
    fn new(wrap: Wrap) -> Self {
        let (store, clock) = memory();
        Self { clock, store, wrap, flaw: None, threads: true }
    }

    fn kit(&self) -> Kit<'_> {
        Kit::new(self, Uuid::from_u128(1))
    }
}

#[async_trait]
impl StoreFactory for Factory {
    async fn open(&self) -> Arc<dyn CardRepository> {
        match self.flaw {
            None => (self.wrap)(self.store.clone()),
            Some(Flaw::ForgetsWhenOpenedAgain) => Arc::new(MemoryRepository::new(Arc::new(self.clock.clone()))),
            Some(flaw) => Arc::new(Broken { store: self.store.clone(), flaw }),
        }
    }

    async fn pass_time(&self, duration: Duration) {
        self.clock.advance(duration);
    }

    async fn at_once(&self, calls: Vec<Call>) {
        if self.threads {
            on_threads(calls).await;
        } else {
            join_all(calls).await;
        }
    }
}

/// One file; every handle is a store of its own on it.
struct SqliteFactory {
    folder: tempfile::TempDir,
    clock: ManualClock,
}

impl SqliteFactory {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder, clock: ManualClock::new("2026-03-01T08:00:00Z".parse().expect("a time")) }
    }
}

#[async_trait]
impl StoreFactory for SqliteFactory {
    async fn open(&self) -> Arc<dyn CardRepository> {
        let options = SqliteOptions::new(Arc::new(self.clock.clone()));
        Arc::new(SqliteRepository::open_with(self.folder.path().join("office.db"), options).expect("the file opens"))
    }

    async fn pass_time(&self, duration: Duration) {
        self.clock.advance(duration);
    }

    async fn at_once(&self, calls: Vec<Call>) {
        on_threads(calls).await;
    }
}

type WrapPostgres = fn(PostgresRepository) -> Arc<dyn CardRepository>;

/// One schema; every handle has a pool of its own.
struct PostgresFactory {
    database: Database,
    wrap: WrapPostgres,
}

impl PostgresFactory {
    fn new(wrap: WrapPostgres) -> Self {
        Self { database: Database::new(), wrap }
    }
}

#[async_trait]
impl StoreFactory for PostgresFactory {
    async fn open(&self) -> Arc<dyn CardRepository> {
        (self.wrap)(self.database.store())
    }

    async fn pass_time(&self, duration: Duration) {
        self.database.pass_time(duration).await;
    }

    async fn at_once(&self, calls: Vec<Call>) {
        let running: Vec<_> = calls.into_iter().map(tokio::spawn).collect();
        for call in running {
            if let Err(error) = call.await {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

/// What a store does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    IgnoresStaleVersions,
    IgnoresStaleCertificates,
    NamesNoStaleCertificates,
    NamesOnlyTheFirstConflict,
    OverwritesReservations,
    ClaimLeavesTheVersion,
    StoresPartOfARefusedCommit,
    StoresCertificatesOfARefusedCommit,
    ForgetsTheStateAtTheCa,
    ForgetsProductions,
    CutsTimesToSeconds,
    PagesBeginWithTheLast,
    FullPagesLackOne,
    PagesAreBackwards,
    FullCertificatePagesLackOne,
    CertificatePagesAreBackwards,
    CertificatePagesIgnoreTheCard,
    CertificatePagesIgnoreTheState,
    IgnoresTexts,
    MatchesTextsAnywhere,
    ClaimsAlsoEarly,
    LeasesNeverEnd,
    RenewsWhatIsLost,
    ReleasesAnyVersion,
    ReleasesNothing,
    AttemptsAreNotFenced,
    CountsWhatIsNotDue,
    CountsOtherRuns,
    CountsNoDoubts,
    CountsNothingThatIsClaimed,
    HistoryIsBackwards,
    CertificatesHaveNoHistory,
    FeedSkips,
    FeedRepeats,
    ForgetsWhenOpenedAgain,
    KeepsNoCertificates,
}

/// A store in memory with one flaw.
struct Broken {
    store: MemoryRepository,
    flaw: Flaw,
}

impl Broken {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    /// The versions that are stored, whatever the caller believes.
    async fn at_any_version(&self, jobs: &[(JobId, u64)]) -> Result<Vec<(JobId, u64)>, RepositoryError> {
        let ids: Vec<JobId> = jobs.iter().map(|(id, _)| *id).collect();
        Ok(self.store.jobs(&ids).await?.iter().map(|job| (job.id, job.version)).collect())
    }

    /// The change set as it would have to be to stand against these conflicts.
    fn forced(&self, mut changes: ChangeSet, conflicts: &[Conflict]) -> ChangeSet {
        for conflict in conflicts {
            match conflict {
                Conflict::Version { object, found, .. } if self.has(Flaw::IgnoresStaleVersions) => match object {
                    StoredId::Job(id) => {
                        changes.jobs.iter_mut().filter(|job| job.id == *id).for_each(|job| job.version = *found);
                    }
                    StoredId::Object(object) => {
                        for card in changes.cards.iter_mut().filter(|card| ObjectId::Card(card.id) == *object) {
                            card.version = *found;
                        }
                        for one in changes.certificates.iter_mut() {
                            if ObjectId::Certificate(one.id) == *object {
                                one.version = *found;
                            }
                        }
                        for request in changes.requests.iter_mut().filter(|one| ObjectId::Request(one.id) == *object) {
                            request.version = *found;
                        }
                        for record in changes.records.iter_mut() {
                            if ObjectId::Record(record.key.clone()) == *object {
                                record.version = *found;
                            }
                        }
                    }
                },
                Conflict::Version { object: StoredId::Object(ObjectId::Certificate(id)), found, .. }
                    if self.has(Flaw::IgnoresStaleCertificates) =>
                {
                    for one in changes.certificates.iter_mut().filter(|one| one.id == *id) {
                        one.version = *found;
                    }
                }
                Conflict::Taken { key, owner } if self.has(Flaw::OverwritesReservations) => {
                    changes.releases.push(Reservation { key: key.clone(), owner: owner.clone() });
                }
                _ => {}
            }
        }
        changes
    }
}

#[async_trait]
impl CardRepository for Broken {
    async fn commit(&self, changes: &ChangeSet) -> Result<(), CommitError> {
        let refused = match self.store.commit(changes).await {
            Err(CommitError::Conflicts(conflicts)) => conflicts,
            other => return other,
        };
        match self.flaw {
            Flaw::IgnoresStaleVersions | Flaw::IgnoresStaleCertificates | Flaw::OverwritesReservations => {
                self.store.commit(&self.forced(changes.clone(), &refused)).await
            }
            Flaw::NamesOnlyTheFirstConflict => Err(CommitError::Conflicts(refused[..1].to_vec())),
            Flaw::NamesNoStaleCertificates => {
                let is_of_a_certificate = |conflict: &Conflict| {
                    let certificate = |object: &StoredId| matches!(object, StoredId::Object(ObjectId::Certificate(_)));
                    matches!(conflict, Conflict::Version { object, .. } if certificate(object))
                };
                let mut named = refused;
                named.retain(|conflict| !is_of_a_certificate(conflict));
                Err(CommitError::Conflicts(named))
            }
            Flaw::StoresCertificatesOfARefusedCommit => {
                // Those of them that nothing stands against.
                for certificate in &changes.certificates {
                    let mut one = ChangeSet::new();
                    one.certificates.push(certificate.clone());
                    let _: Result<(), CommitError> = self.store.commit(&one).await;
                }
                Err(CommitError::Conflicts(refused))
            }
            Flaw::StoresPartOfARefusedCommit => {
                let mut records = ChangeSet::new();
                records.records.clone_from(&changes.records);
                let _: Result<(), CommitError> = self.store.commit(&records).await;
                Err(CommitError::Conflicts(refused))
            }
            _ => Err(CommitError::Conflicts(refused)),
        }
    }

    async fn cards(&self, ids: &[CardId]) -> Result<Vec<Card>, RepositoryError> {
        let mut cards = self.store.cards(ids).await?;
        if self.has(Flaw::CutsTimesToSeconds) {
            for card in &mut cards {
                card.created = chrono::SubsecRound::trunc_subsecs(card.created, 0);
            }
        }
        if self.has(Flaw::ForgetsProductions) {
            cards.iter_mut().for_each(|card| card.production = None);
        }
        Ok(cards)
    }

    async fn card_page(
        &self,
        query: &CardQuery,
        after: Option<CardId>,
        limit: usize,
    ) -> Result<Vec<Card>, RepositoryError> {
        if self.has(Flaw::PagesBeginWithTheLast)
            && let Some(after) = after
        {
            let mut page = self.store.cards(&[after]).await?;
            page.extend(self.store.card_page(query, Some(after), limit - 1).await?);
            return Ok(page);
        }
        if self.has(Flaw::FullPagesLackOne) {
            let mut page = self.store.card_page(query, after, limit).await?;
            if page.len() == limit {
                page.remove(1);
            }
            return Ok(page);
        }
        if self.has(Flaw::PagesAreBackwards) {
            let mut page = self.store.card_page(query, after, limit).await?;
            page.reverse();
            return Ok(page);
        }
        if self.has(Flaw::IgnoresTexts) {
            return self.store.card_page(&CardQuery { text: Vec::new(), ..query.clone() }, after, limit).await;
        }
        if self.has(Flaw::MatchesTextsAnywhere) {
            let all = CardQuery { text: Vec::new(), ..query.clone() };
            let mut page = self.store.card_page(&all, after, usize::MAX).await?;
            page.retain(|card| {
                query.text.iter().all(|text| {
                    let part = fold(&text.prefix);
                    card.search_terms().any(|(name, folded)| name == text.name && folded.contains(&part))
                })
            });
            page.truncate(limit);
            return Ok(page);
        }
        self.store.card_page(query, after, limit).await
    }

    async fn cards_of(&self, holders: &[UserId], states: &[CardState]) -> Result<Vec<Card>, RepositoryError> {
        self.store.cards_of(holders, states).await
    }

    async fn requests(&self, ids: &[RequestId]) -> Result<Vec<ApprovalRequest>, RepositoryError> {
        self.store.requests(ids).await
    }

    async fn request_page(
        &self,
        query: &RequestQuery,
        after: Option<RequestId>,
        limit: usize,
    ) -> Result<Vec<ApprovalRequest>, RepositoryError> {
        self.store.request_page(query, after, limit).await
    }

    async fn certificates(&self, ids: &[CertificateId]) -> Result<Vec<Certificate>, RepositoryError> {
        if self.has(Flaw::KeepsNoCertificates) {
            return Ok(Vec::new());
        }
        let mut certificates = self.store.certificates(ids).await?;
        if self.has(Flaw::ForgetsTheStateAtTheCa) {
            certificates.iter_mut().for_each(|certificate| certificate.at_ca = StateAtCa::Valid);
        }
        Ok(certificates)
    }

    async fn certificate_page(
        &self,
        query: &CertificateQuery,
        after: Option<CertificateId>,
        limit: usize,
    ) -> Result<Vec<Certificate>, RepositoryError> {
        let mut query = query.clone();
        if self.has(Flaw::CertificatePagesIgnoreTheCard) {
            query.cards.clear();
        }
        if self.has(Flaw::CertificatePagesIgnoreTheState) {
            query.states.clear();
        }
        let mut page = self.store.certificate_page(&query, after, limit).await?;
        if self.has(Flaw::FullCertificatePagesLackOne) && page.len() == limit {
            page.remove(1);
        }
        if self.has(Flaw::CertificatePagesAreBackwards) {
            page.reverse();
        }
        Ok(page)
    }

    async fn records(&self, keys: &[String]) -> Result<Vec<Record>, RepositoryError> {
        self.store.records(keys).await
    }

    async fn reservations(&self, keys: &[String]) -> Result<Vec<Reservation>, RepositoryError> {
        self.store.reservations(keys).await
    }

    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Job>, RepositoryError> {
        self.store.jobs(ids).await
    }

    async fn backlog(&self, due_by: DateTime<Utc>, run: Option<RunId>) -> Result<Vec<Backlog>, RepositoryError> {
        let due_by = if self.has(Flaw::CountsWhatIsNotDue) { DateTime::<Utc>::MAX_UTC } else { due_by };
        let mut counts = self.store.backlog(due_by, run.filter(|_| !self.has(Flaw::CountsOtherRuns))).await?;
        if self.has(Flaw::CountsNoDoubts) {
            counts.iter_mut().for_each(|counted| counted.in_doubt = 0);
        }
        if self.has(Flaw::CountsNothingThatIsClaimed) {
            let open = JobQuery { states: vec![JobState::Open], ..JobQuery::default() };
            for job in self.store.job_page(&open, None, 10_000).await?.iter().filter(|job| job.claim.is_some()) {
                let counted = counts.iter_mut().find(|counted| counted.kind == job.kind() && counted.due > 0);
                counted.into_iter().for_each(|counted| counted.due -= 1);
            }
        }
        Ok(counts)
    }

    async fn job_page(
        &self,
        query: &JobQuery,
        after: Option<JobId>,
        limit: usize,
    ) -> Result<Vec<Job>, RepositoryError> {
        self.store.job_page(query, after, limit).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Job>, RepositoryError> {
        let mut request = request.clone();
        if self.has(Flaw::ClaimsAlsoEarly) {
            request.early = true;
        }
        if self.has(Flaw::LeasesNeverEnd) {
            request.lease *= 1_000;
        }
        let mut jobs = self.store.claim(&request).await?;
        if self.has(Flaw::ClaimLeavesTheVersion) {
            for job in &mut jobs {
                job.version -= 1;
            }
        }
        Ok(jobs)
    }

    async fn renew(&self, jobs: &[(JobId, u64)], lease: Duration) -> Result<Vec<JobId>, RepositoryError> {
        if self.has(Flaw::RenewsWhatIsLost) {
            return self.store.renew(&self.at_any_version(jobs).await?, lease).await;
        }
        self.store.renew(jobs, lease).await
    }

    async fn release(&self, jobs: &[(JobId, u64)]) -> Result<(), RepositoryError> {
        match self.flaw {
            Flaw::ReleasesAnyVersion => self.store.release(&self.at_any_version(jobs).await?).await,
            Flaw::ReleasesNothing => Ok(()),
            _ => self.store.release(jobs).await,
        }
    }

    async fn record_attempts(
        &self,
        attempts: &[(JobId, u64, Attempt)],
        lease: Duration,
    ) -> Result<Vec<Job>, RepositoryError> {
        let mut attempts = attempts.to_vec();
        if self.has(Flaw::AttemptsAreNotFenced) {
            for (id, version, _) in &mut attempts {
                *version = self.at_any_version(&[(*id, 0)]).await?.first().map_or(0, |(_, version)| *version);
            }
        }
        self.store.record_attempts(&attempts, lease).await
    }

    async fn history(&self, object: &ObjectId, after: u64, limit: usize) -> Result<Vec<HistoryEntry>, RepositoryError> {
        let mut history = self.store.history(object, after, limit).await?;
        if self.has(Flaw::HistoryIsBackwards) {
            history.reverse();
        }
        if self.has(Flaw::CertificatesHaveNoHistory) && matches!(object, ObjectId::Certificate(_)) {
            history.clear();
        }
        Ok(history)
    }

    async fn changes_since(&self, cursor: Option<&str>, limit: usize) -> Result<FeedPage, RepositoryError> {
        let mut page = self.store.changes_since(cursor, limit).await?;
        // Only small pages are read while others write; the large ones of a later walk are whole.
        if self.has(Flaw::FeedSkips) && limit < 10 && page.entries.len() > 1 {
            page.entries.remove(0);
        }
        if self.has(Flaw::FeedRepeats) && limit < 10 && !page.entries.is_empty() && page.entries.len() < limit {
            page.entries.insert(0, page.entries[0].clone());
        }
        Ok(page)
    }
}
