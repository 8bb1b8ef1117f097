//! Keys that are made on the card and never leave it: the personalizer gives a certificate request for each, the CA certifies
//! the keys in those, and the personalizer checks that a certificate is for the key on this card before it writes it.
//!
//! The personalizer here is software, and the part that a host writes for its own machine.
//!
//! ```text
//! cargo run --example issue_with_on_card_keys
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use cardwright::adapters::local_ca::{CaIdentity, LocalCa, MemoryJournal};
use cardwright::adapters::memory::{MemoryRepository, MemoryUsers, RecordingNotifier};
use cardwright::adapters::simulator::SimulatedClock;
use cardwright::host::{
    CardPersonalizer, CardQuery, CertificateAuthority as _, CertificateQuery, Clock as _, DiscardOutcome,
    FindCertificateOutcome, FinishOrder, FinishOutcome, PrepareOrder, PrepareOutcome, Prepared, RolePolicy,
};
use cardwright::process::{Answer, Filter, ItemId};
use cardwright::{
    Actor, ActorId, CardState, CertificateKind, Engine, IssuedCertificate, Role, RunId, User, UserId, UserState,
};
use futures::executor::block_on;
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use uuid::Uuid;
use x509_parser::pem::parse_x509_pem;

const REQUEST: &str = "CardsBoProcRequestMulitple"; // it really is spelled so
const ISSUE: &str = "CardsBoProcIssueMultiple";
const REPEAT: &str = "CardsProcRepeatProduction";
const SYNC_ORPHANS: &str = "CardsBatchSyncOrphans";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

// ---- the personalizer --------------------------------------------------------------------------------------------

/// A card personalizer in software: its cards are chips in memory. Clones share one machine.
#[derive(Clone, Default)]
struct SoftwarePersonalizer {
    machine: Arc<Mutex<Machine>>,
}

#[derive(Default)]
struct Machine {
    /// The cards at hand, by handle.
    chips: BTreeMap<String, Chip>,
    taken: u32,
    /// How many cards are complete.
    complete: u32,
    /// Somebody swaps the next blank card for another after its keys were made.
    swap_next: bool,
}

/// A chip makes its keys, and never gives them out.
struct Chip {
    serial: String,
    keys: BTreeMap<CertificateKind, KeyPair>,
}

impl Chip {
    fn new(serial: String, kinds: &[CertificateKind]) -> Result<Self, rcgen::Error> {
        let key = |kind: &CertificateKind| Ok((*kind, KeyPair::generate()?)); // P-256
        Ok(Self { serial, keys: kinds.iter().map(key).collect::<Result<_, rcgen::Error>>()? })
    }

    /// A certificate request (PKCS#10) for each key, signed with it. The CA takes names from the order, so none are needed here.
    fn requests(&self) -> Result<BTreeMap<CertificateKind, String>, rcgen::Error> {
        let request = |(kind, key): (&CertificateKind, &KeyPair)| {
            Ok((*kind, CertificateParams::default().serialize_request(key)?.pem()?))
        };
        self.keys.iter().map(request).collect()
    }

    /// Whether the certificate is for the key that this chip has for the kind.
    fn has_key_of(&self, kind: CertificateKind, certificate: &IssuedCertificate) -> bool {
        let Some(key) = self.keys.get(&kind) else { return false };
        let Ok((_, pem)) = parse_x509_pem(certificate.pem.as_bytes()) else { return false };
        pem.parse_x509().is_ok_and(|parsed| parsed.public_key().raw == key.subject_public_key_info())
    }
}

impl SoftwarePersonalizer {
    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn swap_next(&self) {
        self.machine().swap_next = true;
    }
}

#[async_trait]
impl CardPersonalizer for SoftwarePersonalizer {
    async fn prepare(&self, order: &PrepareOrder<'_>) -> PrepareOutcome {
        let mut machine = self.machine();
        // Each call takes another blank card, also under the same reference.
        machine.taken += 1;
        let serial = format!("CHIP-{:04}", machine.taken);
        let prepared = Chip::new(serial.clone(), order.certificates).and_then(|chip| Ok((chip.requests()?, chip)));
        let (requests, mut chip) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return PrepareOutcome::Spoiled { reason: error.to_string() },
        };
        if std::mem::take(&mut machine.swap_next)
            && let Ok(other) = Chip::new(format!("{serial}-OTHER"), order.certificates)
        {
            chip = other;
        }
        let mut prepared = Prepared::new(format!("slot {}", machine.taken));
        prepared.chip_serial = Some(serial);
        prepared.requests = requests;
        machine.chips.insert(prepared.handle.clone(), chip);
        PrepareOutcome::Prepared(prepared)
    }

    async fn finish(&self, order: FinishOrder<'_>) -> FinishOutcome {
        let mut machine = self.machine();
        // Taken out: a handle is finished once, and a card that is not good is never offered again.
        let Some(chip) = machine.chips.remove(order.handle) else {
            return FinishOutcome::Spoiled { reason: "the card is not in the machine any more".to_owned() };
        };
        // All is checked before anything is written.
        for certificate in &order.certificates {
            let kind = certificate.kind;
            if certificate.private_key.is_some() {
                return FinishOutcome::Spoiled { reason: format!("the key for {kind} was not made on the card") };
            }
            if !chip.has_key_of(kind, &certificate.certificate) {
                let reason = format!("the certificate for {kind} is for a key that is not on this card");
                return FinishOutcome::Spoiled { reason };
            }
        }
        for certificate in &order.certificates {
            println!("  {}: writes the certificate for {}, which is for its own key", chip.serial, certificate.kind);
        }
        if let Some((pin, delivery)) = &order.pin {
            println!("  {}: sets a PIN of {} digits, delivery: {delivery:?}", chip.serial, pin.expose().len());
        }
        // Here a host prints the letter: *good* means that the PIN is delivered too. The example issue_cards shows that.
        machine.complete += 1;
        FinishOutcome::Good
    }

    async fn discard(&self, handle: &str) -> DiscardOutcome {
        self.machine().chips.remove(handle);
        DiscardOutcome::Done
    }
}

// ---- the office --------------------------------------------------------------------------------------------------

fn main() -> Result<(), Box<dyn Error>> {
    block_on(run())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let clock = SimulatedClock::new("2030-01-07T08:00:00Z".parse()?);
    let root = CaIdentity::self_signed("Example card CA", clock.now() - DAY, clock.now() + 3650 * DAY)?;
    // No sealing key: this CA makes no keys, and would refuse an order without a request.
    let ca = Arc::new(LocalCa::builder(root).open(MemoryJournal::new(), Arc::new(clock.clone())).await?);
    let personalizer = SoftwarePersonalizer::default();
    let people = ["Ada Berg", "Ben Moreau", "Dai Nguyen"].into_iter().map(person).collect::<Result<Vec<_>, _>>()?;
    let engine = Engine::builder()
        .repository(MemoryRepository::new(Arc::new(clock.clone())))
        .users(MemoryUsers::new(people))
        .certificate_authority(Arc::clone(&ca))
        .personalizer(personalizer.clone())
        .notifier(RecordingNotifier::new())
        .access(RolePolicy::standard())
        .clock(clock)
        .build()?;
    let roles = [Role::Operator, Role::CardProductionAdministrator];
    let operator = Actor::person(ActorId::new("olga")?, UserId::new("olga")?, roles);
    let service = Actor::system(ActorId::new("sync")?, [Role::BatchSync]);
    let of_state = |state| CardQuery { states: vec![state], ..CardQuery::default() };

    println!("Three cards; the blank of the first is swapped for another after its keys were made");
    personalizer.swap_next();
    act(&engine, REQUEST, &operator, Answer::all(Filter::Users(Default::default()))).await?;
    act(&engine, ISSUE, &operator, Answer::all(Filter::Cards(of_state(CardState::Approved)))).await?;
    let failed = engine.card_page(&of_state(CardState::Failed), None, 10).await?;
    if failed.len() != 1 {
        return Err(format!("one card should have failed, not {}", failed.len()).into());
    }
    for card in &failed {
        println!("  {}: {}", card.number.as_deref().unwrap_or(""), card.failure.as_ref().map_or("", |f| &f.cause));
    }

    println!("\nIt is made again, with new keys; what was certified for the card that is not there is revoked");
    act(&engine, REPEAT, &operator, Answer::ids(failed.iter().map(|card| ItemId::Card(card.id)))).await?;
    act(&engine, SYNC_ORPHANS, &service, Answer::new()).await?;

    println!("\nThe certificates, and what the CA has of their keys");
    let mut lines = Vec::new();
    for certificate in engine.certificate_page(&CertificateQuery::default(), None, 100).await? {
        let card = engine.cards(&[certificate.card]).await?.pop().ok_or("each certificate has its card")?;
        let key = match ca.find(&certificate.key).await {
            FindCertificateOutcome::Found { private_key: None, .. } => "no private key",
            other => return Err(format!("the CA should have the certificate alone: {other:?}").into()),
        };
        let (number, kind) = (card.number.as_deref().unwrap_or(""), certificate.kind);
        lines.push(format!("  {number}  {kind:<14}  {:<8}  {key}", certificate.state()));
    }
    lines.sort();
    println!("{}", lines.join("\n"));
    println!("\n{} cards complete", personalizer.machine().complete);
    Ok(())
}

/// Runs a process to its end and says what became of the items.
async fn act(engine: &Engine, process: &str, actor: &Actor, answer: Answer) -> Result<(), Box<dyn Error>> {
    // Each process is run once: with ids that derive from their names, everything is the same each time.
    let id = RunId::new(Uuid::new_v5(&Uuid::NAMESPACE_OID, process.as_bytes()));
    let run = engine.open_as(id, process, actor).await?;
    println!("{}: {}", actor.id.as_str(), run.form.title);
    let report = engine.next(&run, answer).await?.finish().await?;
    for (state, count) in &report.done {
        println!("  {count} {state}");
    }
    match report.refused_in_all() {
        0 => Ok(()),
        refused => Err(format!("{refused} were refused").into()),
    }
}

fn person(name: &str) -> Result<User, Box<dyn Error>> {
    let attributes = [("commonName".to_owned(), name.to_owned())];
    Ok(User::new(UserId::new(name)?, UserState::Active, attributes))
}
