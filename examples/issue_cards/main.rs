//! Cards made in the house, from the request to the active card: 1,000 requests, approved by another person, issued in one
//! run with certificates of an embedded CA; what fails is made again, what is left over is revoked, one card is lost.
//!
//! ```text
//! cargo run --release --example issue_cards [folder]
//! ```
//!
//! The office is an SQLite file; the machine that makes the cards and the time are simulated; the certificates and the
//! revocation list are real. In a folder that you give, all of it stays, and the CA keeps its journal there too: it is slower,
//! since each decision of the CA is on the disk before it is told. Without one, a folder of its own is used and removed.

mod letters;
mod revocation;

// The sample people and the screen of the quickstart.
#[path = "../quickstart/people.rs"]
mod people;
#[expect(dead_code, reason = "some of it is for the quickstart only")]
#[path = "../quickstart/screen.rs"]
mod screen;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cardwright::adapters::local_ca::{CaIdentity, FileJournal, LocalCa, MemoryJournal};
use cardwright::adapters::memory::{MemoryUsers, RecordingNotifier};
use cardwright::adapters::simulator::{
    FinishScript, HandleState, PersonalizerBehaviour, SimulatedClock, SimulatedPersonalizer,
};
use cardwright::adapters::sqlite::{SqliteOptions, SqliteRepository};
use cardwright::host::{CardQuery, CertificateQuery, Clock as _, JobQuery, RequestQuery, RolePolicy};
use cardwright::options::OptionSource;
use cardwright::process::{Answer, Filter, ItemId, Outcome};
use cardwright::{
    Actor, ActorId, Card, CardId, CardState, Certificate, CertificateState, ChainKey, Engine, EngineSettings, JobKind,
    JobState, ObjectId, Report, RequestState, Role, RunId, Secret, User, UserId,
};
use futures::executor::block_on;
use uuid::Uuid;

use letters::WithLetters;
use revocation::Sample;
use screen::Bar;

const REQUEST: &str = "CardsBoProcRequestMulitple"; // it really is spelled so
const APPROVAL: &str = "CardsProcApproval";
const ISSUE: &str = "CardsBoProcIssueMultiple";
const REPEAT: &str = "CardsProcRepeatProduction";
const RESOLVE: &str = "CardsProcResolveDoubt";
const ACTIVATE: &str = "CardsProcActivate";
const LOCK: &str = "CardsProcLock";
const SYNC_MESSAGES: &str = "CardsAddonExtProdBatchSyncOrder"; // sends orders and messages
const SYNC_PRODUCTION: &str = "CardsBatchSyncProduction";
const SYNC_ORPHANS: &str = "CardsBatchSyncOrphans";

const REQUESTS: usize = 1000;
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if arguments.len() > 1 || arguments.iter().any(|argument| argument.to_string_lossy().starts_with('-')) {
        eprintln!("usage: issue_cards [folder]");
        return ExitCode::from(2);
    }
    match block_on(run(arguments.into_iter().next())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(given: Option<PathBuf>) -> Result<(), Box<dyn Error>> {
    let people = people::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/people.csv"))?;
    let active: Vec<UserId> = people.iter().filter(|user| user.is_active()).map(|user| user.id.clone()).collect();
    let (count, own) = (people.len(), tempfile::tempdir()?);
    let folder = given.as_deref().unwrap_or(own.path());
    println!(
        "Time and the card machine are simulated: it is January 2030. Certificates and the revocation list are real.\n"
    );
    let office = Office::open(people, folder, given.is_some()).await?;

    office.request(count, &active).await?;
    office.approve().await?;
    office.issue().await?;
    office.go_on().await?;
    office.settle_doubts().await?;
    let repeated = office.repeat().await?;
    office.sweep().await?;
    office.drop_keys().await?;
    office.activate().await?;
    let lost = office.lose_one(&repeated).await?;
    office.revocation_list(folder, &lost).await?;

    office.letter(&lost);
    office.history(&lost).await?;
    office.pairs().await?;
    office.summary().await?;
    match given {
        Some(folder) => println!("\nAll of it is in {}; give another folder to begin anew.", folder.display()),
        None => println!(
            "\nIt was in a folder that is gone now. To keep the office, the CA's journal and the revocation list:\n  \
             cargo run --release --example issue_cards -- my-folder"
        ),
    }
    Ok(())
}

// ---- the office --------------------------------------------------------------------------------------------------

struct Office {
    engine: Engine,
    ca: Arc<LocalCa>,
    machine: SimulatedPersonalizer,
    printer: WithLetters<SimulatedPersonalizer>,
    mail: RecordingNotifier,
    clock: SimulatedClock,
    operator: Actor,
    approver: Actor,
    producer: Actor,
    service: Actor,
    runs: AtomicU64,
}

impl Office {
    async fn open(people: Vec<User>, folder: &Path, journal_on_disk: bool) -> Result<Self, Box<dyn Error>> {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let file = folder.join("office.db");
        if file.exists() {
            return Err(format!("{}: there is an office already, give another folder", folder.display()).into());
        }
        let clock = SimulatedClock::new("2030-01-07T08:00:00Z".parse()?).auto();
        let repository = SqliteRepository::open_with(&file, SqliteOptions::new(Arc::new(clock.clone())))?;

        // The CA: in earnest the host keeps its key, and the sealing key (32 random bytes), where it keeps its secrets.
        let now = clock.now();
        let root = CaIdentity::self_signed("Example card CA", now - DAY, now + 3650 * DAY)?;
        fs::write(folder.join("ca.pem"), root.certificate_pem())?;
        let ca =
            LocalCa::builder(root).crl_url("http://pki.example.com/cards.crl").sealing_key(Secret::new(vec![7; 32]));
        let ca_clock = Arc::new(clock.clone());
        let ca = Arc::new(match journal_on_disk {
            true => ca.open(FileJournal::open(folder.join("ca.journal"))?, ca_clock).await?,
            false => ca.open(MemoryJournal::new(), ca_clock).await?,
        });

        // The machine spoils some cards and jams now and then; once its answer gets lost.
        let machine = SimulatedPersonalizer::new(3, Arc::new(clock.clone())).behaving(
            PersonalizerBehaviour::calm().prepare_spoiled(5).prepare_jammed(10).finish_spoiled(15).finish_jammed(10),
        );
        machine.next_finish(FinishScript::LoseReplyAfterFinishing);
        let printer = WithLetters::new(machine.clone());

        let mail = RecordingNotifier::new();
        let mut settings = EngineSettings::new().chunk(100).cards_at_once(50);
        settings.certificates_at_once = 100;
        let engine = Engine::builder()
            .repository(repository)
            .users(MemoryUsers::new(people))
            .certificate_authority(Arc::clone(&ca))
            .personalizer(printer.clone())
            .notifier(mail.clone())
            .access(RolePolicy::standard())
            .clock(clock.clone())
            // A real office keeps its key outside the file that it seals.
            .chain_key(ChainKey::new(b"a key for trials"))
            .settings(settings)
            .build()?;
        let person = |login: &str, role: Role| -> Result<Actor, Box<dyn Error>> {
            Ok(Actor::person(ActorId::new(login)?, UserId::new(login)?, [role]))
        };
        let script = OptionSource::Script("CardsBatchRequestApproval = true".to_owned());
        let administrator = person("ada", Role::Administrator)?;
        engine.set_options("CardsScriptOptions", script, &administrator).await?;
        Ok(Self {
            engine,
            ca,
            machine,
            printer,
            mail,
            clock,
            operator: person("olga", Role::Operator)?,
            approver: person("anton", Role::Approver)?,
            producer: person("petra", Role::CardProductionAdministrator)?,
            service: Actor::system(ActorId::new("sync")?, [Role::BatchSync]),
            runs: AtomicU64::new(1),
        })
    }

    async fn request(&self, people: usize, active: &[UserId]) -> Result<(), Box<dyn Error>> {
        println!("\nolga requests a card for each");
        let all = Answer::all(Filter::Users(Default::default()));
        let requested = self.act(REQUEST, &self.operator, all, "requests", people).await?.done_in_all() as usize;
        let more = REQUESTS.saturating_sub(requested);
        let second = active.iter().take(more).cloned().map(ItemId::User);
        println!("and a second card for some, to make it {REQUESTS}");
        self.act(REQUEST, &self.operator, Answer::ids(second), "requests", more).await?;
        Ok(())
    }

    async fn approve(&self) -> Result<(), Box<dyn Error>> {
        println!("\nanton, who did not ask for them, approves all that wait, in one run");
        let open = RequestQuery { states: vec![RequestState::Open], ..RequestQuery::default() };
        let answer = Answer::all(Filter::Requests(open)).with("decision", "approve");
        self.act(APPROVAL, &self.approver, answer, "approvals", REQUESTS).await?;
        self.work(SYNC_MESSAGES, &[JobKind::Notify]).await?;
        println!("  {:>5}  messages: each request was announced to him, each answer to olga", self.mail.sent().len());
        Ok(())
    }

    async fn issue(&self) -> Result<(), Box<dyn Error>> {
        println!("\nolga has all approved cards made, in one run");
        println!(
            "  each: prepare the card, two certificates, put them on hold, write them, print, set a PIN, its letter"
        );
        let approved = CardQuery { states: vec![CardState::Approved], ..CardQuery::default() };
        self.act(ISSUE, &self.operator, Answer::all(Filter::Cards(approved)), "cards", REQUESTS).await?;
        Ok(())
    }

    /// What jammed is tried again, until nothing is owed.
    async fn go_on(&self) -> Result<(), Box<dyn Error>> {
        let query = CardQuery { states: vec![CardState::Approved], in_doubt: Some(false), ..CardQuery::default() };
        let begun: Vec<CardId> = self.cards(&query).await?.iter().map(|card| card.id).collect();
        if !begun.is_empty() {
            let count = begun.len();
            println!(
                "\nThe machine was jammed for the {count} that are only begun; the background service goes on with them"
            );
            let hours = self.work(SYNC_PRODUCTION, &PRODUCTION).await?;
            let states = tally(self.engine.cards(&begun).await?.iter().map(Card::state));
            println!("  {hours} hours later nothing is owed any more; of these cards are {}", sum(states));
        }
        Ok(())
    }

    /// What only a person can see: nobody knows what became of the card, so nobody guesses.
    async fn settle_doubts(&self) -> Result<(), Box<dyn Error>> {
        for job in self.engine.doubts(None, 100).await? {
            let Some(card) = self.engine.cards(&Vec::from_iter(job.card)).await?.pop() else { continue };
            println!("\nIn doubt: {}", describe(&card));
            println!("  the machine was to {}: {}", job.kind(), job.remark.as_deref().unwrap_or("no answer"));
            let in_machine = self.machine.ledger().into_iter().rfind(|made| made.card == card.id);
            let complete = in_machine.is_some_and(|made| made.state == HandleState::Finished);
            let letter = !self.printer.letters_for(card.id).is_empty();
            let (resolution, reason) = match (complete, letter) {
                (true, true) => ("good card", "the card is complete, and its letter is printed"),
                (true, false) => ("spoiled", "the card is complete, but no letter was printed: nobody has its PIN"),
                (false, _) => ("spoiled", "the card in the machine is not complete"),
            };
            println!("  petra looks into it: {reason}");
            println!("  she settles it as \"{resolution}\"");
            let answer = Answer::ids([ItemId::Job(job.id)]).with("doubt", job.doubt());
            let answer = answer.with("resolution", resolution).with("reason", reason);
            self.act(RESOLVE, &self.producer, answer, "doubts", 1).await?;
        }
        Ok(())
    }

    async fn repeat(&self) -> Result<Vec<CardId>, Box<dyn Error>> {
        let failed = self.cards(&in_state(CardState::Failed)).await?;
        println!("\nOf {} cards the production failed", failed.len());
        for (cause, count) in tally(failed.iter().filter_map(|card| card.failure.as_ref()).map(|f| f.cause.clone())) {
            println!("  {count:>5}  {cause}");
        }
        println!("petra has them made again, with new certificates and new PINs");
        let ids: Vec<CardId> = failed.iter().map(|card| card.id).collect();
        self.act(REPEAT, &self.producer, Answer::ids(ids.iter().copied().map(ItemId::Card)), "repeated", ids.len())
            .await?;
        self.work(SYNC_PRODUCTION, &PRODUCTION).await?;
        Ok(ids)
    }

    async fn sweep(&self) -> Result<(), Box<dyn Error>> {
        println!("\nThe sweep revokes the certificates that failed productions left behind");
        self.act(SYNC_ORPHANS, &self.service, Answer::new(), "swept", 0).await?;
        Ok(())
    }

    /// The CA made the keys, and kept them sealed until they were on the cards: a certificate of ours is on hold (or valid)
    /// only once its card is complete.
    async fn drop_keys(&self) -> Result<(), Box<dyn Error>> {
        let held = CertificateQuery { states: vec![CertificateState::OnHold], ..CertificateQuery::default() };
        let written = self.certificates(&held).await?;
        for certificate in &written {
            self.ca.drop_private_key(&certificate.key).await?;
        }
        println!("\nThe CA drops the private keys that are on cards now: {}", written.len());
        Ok(())
    }

    async fn activate(&self) -> Result<(), Box<dyn Error>> {
        println!("\nThe cards are handed out, and olga activates them");
        let issued = self.cards(&in_state(CardState::Issued)).await?;
        let ids = issued.iter().map(|card| ItemId::Card(card.id));
        self.act(ACTIVATE, &self.operator, Answer::ids(ids), "activated", issued.len()).await?;
        Ok(())
    }

    /// The one who loses a card has waited for it longest: it had to be made twice.
    async fn lose_one(&self, repeated: &[CardId]) -> Result<Card, Box<dyn Error>> {
        let cards = self.engine.cards(repeated).await?;
        let card = cards.into_iter().find(|card| card.state() == CardState::Active);
        let card = card.ok_or("no card that was made again is active")?;
        println!("\nLost: {}", describe(&card));
        println!("  olga locks it; whoever finds it may know the keys: keyCompromise");
        let answer = Answer::ids([ItemId::Card(card.id)]).with("reason", "keyCompromise");
        self.act(LOCK, &self.operator, answer, "locked", 1).await?;
        self.work(SYNC_PRODUCTION, &PRODUCTION).await?;
        Ok(self.engine.cards(&[card.id]).await?.pop().ok_or("the card is gone")?)
    }

    async fn revocation_list(&self, folder: &Path, lost: &Card) -> Result<(), Box<dyn Error>> {
        let list = self.ca.revocation_list().await?;
        let states = tally(self.certificates(&CertificateQuery::default()).await?.iter().map(Certificate::state));
        let of = |state| states.get(&state).copied().unwrap_or_default();
        let (revoked, held) = (of(CertificateState::Revoked), of(CertificateState::OnHold));
        println!("\nThe revocation list, in cards.crl: number {}, good until {}", list.number, list.next_update);
        println!("  {:>5}  entries: {revoked} revoked, {held} on hold", revoked + held);
        let mut samples = Vec::new();
        for (state, file, what) in [
            (CardState::Active, "good.pem", "Of an active card"),
            (
                CardState::Issued,
                "on_hold.pem",
                "Of a card that was not activated: on hold counts as revoked until it is",
            ),
            (lost.state(), "locked.pem", "Of the lost card"),
        ] {
            let card = self.cards(&in_state(state)).await?.into_iter().next().ok_or("there is no such card")?;
            let certificate = self.certificates_of(&card).await?.into_iter().next().ok_or("it has no certificates")?;
            let good = certificate.state() == CertificateState::Valid;
            samples.push(Sample { file, what, certificate: certificate.issued, good });
        }
        revocation::verify(folder, &list, revoked + held, &samples, self.clock.now())
    }

    // ---- what it came to -----------------------------------------------------------------------------------------

    fn letter(&self, card: &Card) {
        println!("\nThe letter that came with the lost card, when it was made again; the digits are masked");
        for line in self.printer.letters_for(card.id).iter().flat_map(|letter| letter.lines()) {
            println!("  | {line}");
        }
    }

    async fn history(&self, card: &Card) -> Result<(), Box<dyn Error>> {
        println!("\nHistory of {}", describe(card));
        for entry in self.engine.history(&ObjectId::Card(card.id)).await? {
            let step =
                entry.from.filter(|from| *from != entry.to).map_or_else(String::new, |from| format!("{from} → "));
            let (at, actor) = (entry.at.format("%F %H:%M"), entry.actor.as_str());
            println!("  {:>3}  {at}  {actor:<5}  {:<24} {}", entry.sequence, step + &entry.to, entry.code);
        }
        match self.engine.verify_card(card).await? {
            Ok(entries) => println!("  its chain of {entries} sealed entries is whole"),
            Err(problem) => return Err(format!("its chain is broken: {problem}").into()),
        }
        Ok(())
    }

    /// Cards and their certificates, which must fit together.
    async fn pairs(&self) -> Result<(), Box<dyn Error>> {
        let mut of_card: BTreeMap<CardId, Vec<Certificate>> = BTreeMap::new();
        for certificate in self.certificates(&CertificateQuery::default()).await? {
            of_card.entry(certificate.card).or_default().push(certificate);
        }
        let (mut pairs, mut left_over) = (BTreeMap::new(), BTreeMap::new());
        for card in self.cards(&CardQuery::default()).await? {
            let all = of_card.remove(&card.id).unwrap_or_default();
            let (own, earlier): (Vec<_>, Vec<_>) =
                all.iter().partition(|certificate| card.produced == Some(certificate.production));
            for certificate in earlier {
                *left_over.entry(certificate.state()).or_default() += 1;
            }
            let states: Vec<_> = own.iter().map(|certificate| certificate.state()).collect();
            let fits = match card.state() {
                CardState::Active => states == [CertificateState::Valid; 2],
                CardState::Issued => states == [CertificateState::OnHold; 2],
                CardState::Locked => states == [CertificateState::Revoked; 2],
                _ => states.is_empty(),
            };
            if !fits {
                return Err(format!("{} has certificates {states:?}", describe(&card)).into());
            }
            let names: Vec<_> = states.iter().map(ToString::to_string).collect();
            *pairs.entry((card.state(), names.join(", "))).or_insert(0_usize) += 1;
        }
        println!("\nCards and their certificates, which must fit together, and do");
        for ((state, certificates), count) in pairs {
            let certificates = if certificates.is_empty() { "no certificates" } else { &certificates };
            println!("  {count:>5}  {state:<9} {certificates}");
        }
        println!("Certificates of productions that failed");
        for (state, count) in left_over {
            let count: usize = count;
            println!("  {count:>5}  {state}");
        }
        Ok(())
    }

    async fn summary(&self) -> Result<(), Box<dyn Error>> {
        let requests = self.engine.request_page(&RequestQuery::default(), None, REQUESTS * 2).await?;
        let cards = self.cards(&CardQuery::default()).await?;
        println!("\nWhat it came to");
        for (state, count) in tally(requests.iter().map(|request| request.state())) {
            println!("  {count:>5}  requests {state}");
        }
        println!("  {:>5}  cards: {}", cards.len(), sum(tally(cards.iter().map(Card::state))));
        for card in cards.iter().filter(|card| card.state() == CardState::Failed) {
            println!("         {}: {}", describe(card), card.failure.as_ref().map_or("", |failure| &failure.cause));
        }
        let blanks = self.machine.ledger();
        let became = blanks.iter().map(|blank| match blank.state {
            HandleState::Finished => "complete",
            HandleState::Spoiled => "spoiled",
            HandleState::Discarded => "put aside",
            HandleState::Prepared => "in the machine",
        });
        println!("  {:>5}  blank cards: {}", blanks.len(), sum(tally(became)));
        let complete = blanks.iter().filter(|blank| blank.state == HandleState::Finished).count();
        let (letters, made) = (self.printer.count(), cards.iter().filter(|card| card.produced.is_some()).count());
        println!(
            "  {letters:>5}  letters, one for each card made; of the complete cards, {} had to be destroyed",
            complete - made
        );
        let certificates = self.certificates(&CertificateQuery::default()).await?;
        let states = sum(tally(certificates.iter().map(Certificate::state)));
        println!("  {:>5}  certificates: {states}", certificates.len());
        let numbers: BTreeSet<_> = certificates.iter().map(|certificate| &certificate.issued.serial).collect();
        println!("  {:>5}  serial numbers of certificates, each once", numbers.len());
        let open = self.owed(&JobKind::ALL).await?;
        println!("  {open:>5}  things owed, {} in doubt", self.engine.doubts(None, 100).await?.len());
        if letters != made || requests.len() != cards.len() || numbers.len() != certificates.len() {
            return Err("the figures do not add up".into());
        }
        Ok(())
    }

    // ---- how it is done ------------------------------------------------------------------------------------------

    /// Runs a process to its end and says what became of the items. The runs have ids in a row, so that everything that
    /// derives from them is the same each time.
    async fn act(
        &self,
        process: &str,
        actor: &Actor,
        answer: Answer,
        what: &'static str,
        total: usize,
    ) -> Result<Report, Box<dyn Error>> {
        let id = RunId::new(Uuid::from_u128(self.runs.fetch_add(1, Ordering::Relaxed).into()));
        let run = self.engine.open_as(id, process, actor).await?;
        let mut execution = self.engine.next(&run, answer).await?;
        let mut examples = BTreeMap::new();
        let mut bar = Bar::new(what, total as u64);
        while let Some(chunk) = execution.next_chunk().await? {
            for (_, outcome) in chunk {
                if let Outcome::Refused(refusal) = outcome {
                    examples.entry(refusal.code).or_insert(refusal.reason);
                }
            }
            bar.show(execution.progress().items);
        }
        bar.end();
        let report = execution.report().clone();
        for (state, count) in &report.done {
            println!("  {count:>5}  {state}");
        }
        if report.in_doubt > 0 {
            println!("  {:>5}  in doubt", report.in_doubt);
        }
        for (code, count) in &report.refused {
            println!("  {count:>5}  refused: {code}");
            println!("         such as: {}", examples.get(code).map_or("", String::as_str));
        }
        finished(&report)?;
        Ok(report)
    }

    /// Runs a background sync each hour until no such job is open; the hours that it took.
    async fn work(&self, process: &str, kinds: &[JobKind]) -> Result<u32, Box<dyn Error>> {
        let mut hours = 0;
        while self.owed(kinds).await? > 0 {
            self.clock.advance(HOUR);
            hours += 1;
            let run = self.engine.open(process, &self.service).await?;
            finished(&self.engine.next(&run, Answer::new()).await?.finish().await?)?;
            if hours > 1000 {
                return Err(format!("{process} does not come to an end").into());
            }
        }
        Ok(hours)
    }

    async fn owed(&self, kinds: &[JobKind]) -> Result<usize, Box<dyn Error>> {
        let query = JobQuery { kinds: kinds.to_vec(), states: vec![JobState::Open] };
        Ok(self.engine.job_page(&query, None, REQUESTS * 10).await?.len())
    }

    async fn cards(&self, query: &CardQuery) -> Result<Vec<Card>, Box<dyn Error>> {
        Ok(self.engine.card_page(query, None, REQUESTS * 2).await?)
    }

    async fn certificates(&self, query: &CertificateQuery) -> Result<Vec<Certificate>, Box<dyn Error>> {
        Ok(self.engine.certificate_page(query, None, REQUESTS * 10).await?)
    }

    /// Those of the card's good production.
    async fn certificates_of(&self, card: &Card) -> Result<Vec<Certificate>, Box<dyn Error>> {
        let query = CertificateQuery { cards: vec![card.id], ..CertificateQuery::default() };
        let all = self.certificates(&query).await?;
        Ok(all.into_iter().filter(|certificate| card.produced == Some(certificate.production)).collect())
    }
}

/// The jobs of a production, an activation or a lock.
const PRODUCTION: [JobKind; 7] = [
    JobKind::PrepareCard,
    JobKind::IssueCertificate,
    JobKind::HoldCertificate,
    JobKind::FinishCard,
    JobKind::DiscardCard,
    JobKind::RemoveHold,
    JobKind::RevokeCertificate,
];

fn finished(report: &Report) -> Result<(), Box<dyn Error>> {
    match &report.interrupted {
        None => Ok(()),
        Some(interruption) => Err(format!("run {} was interrupted: {interruption:?}", report.run).into()),
    }
}

fn in_state(state: CardState) -> CardQuery {
    CardQuery { states: vec![state], ..CardQuery::default() }
}

fn describe(card: &Card) -> String {
    let name = card.attributes.get("commonName").map_or("", String::as_str);
    format!("card {} of {name}, {}", card.number.as_deref().unwrap_or("without number"), card.state())
}

fn tally<T: Ord>(items: impl Iterator<Item = T>) -> BTreeMap<T, usize> {
    items.fold(BTreeMap::new(), |mut counts, item| {
        *counts.entry(item).or_default() += 1;
        counts
    })
}

fn sum<T: ToString>(counts: BTreeMap<T, usize>) -> String {
    let terms: Vec<_> = counts.iter().map(|(what, count)| format!("{count} {}", what.to_string())).collect();
    terms.join(" + ")
}
