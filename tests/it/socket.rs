//! Bureau, CA and machine in a process of their own, behind a socket: what they do stands in a file before they answer, so that they
//! can be killed as well. A line is a list of calls as JSON, and so is its answer.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use cardwright::adapters::simulator::{
    BureauBehaviour, CaBehaviour, PersonalizerBehaviour, SimulatedBureau, SimulatedCa, SimulatedClock,
    SimulatedPersonalizer,
};
use cardwright::host::{
    Accepted, CaOutcome, CaStatusOutcome, CardCertificate, CardOrder, CardPersonalizer, CertificateAuthority,
    CertificateOrder, Clock as _, DiscardOutcome, FindCertificateOutcome, FindOutcome, FinishOrder, FinishOutcome,
    GoCardsProvider, IssueOutcome, OrderStatus, PlaceOutcome, Placement, PrepareOrder, PrepareOutcome, Prepared,
    StatusOutcome, SystemClock,
};
use cardwright::{
    BureauTimes, Card, CertificateKind, Delivery, IssuedCertificate, ReadOut, RevocationReason, Secret, StateAtCa,
};
use chrono::{DateTime, Utc};
use futures::channel::oneshot;
use futures::executor::block_on;
use serde::{Deserialize, Serialize};

use crate::eavesdropping::Seeded;

/// What the outside can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Variant {
    /// The bureau can neither look by reference nor tell two orders under one reference apart from one. Keys are made on the card.
    Poor,
    /// The bureau can look, and no more; it finds an order a second after it accepted it. Keys are made at the CA.
    Looking,
    /// It finds orders by reference, and takes two orders under one reference as one. Keys are made at the CA.
    Rich,
}

impl Variant {
    pub(crate) const ALL: [Self; 3] = [Self::Poor, Self::Rich, Self::Looking];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Poor => "poor",
            Self::Looking => "looking",
            Self::Rich => "rich",
        }
    }
}

// ---- what is said --------------------------------------------------------------------------------------------------------

#[derive(Serialize, Deserialize)]
enum Call {
    Place {
        reference: String,
        article: String,
        elements: BTreeMap<String, String>,
        email: Option<String>,
        address_key: Option<String>,
    },
    ReadOrder {
        order_id: String,
    },
    FindOrder {
        reference: String,
    },
    Issue {
        key: String,
        profile: String,
        common_name: String,
        upn: Option<String>,
        email: Option<String>,
        valid_until: DateTime<Utc>,
        request: Option<String>,
    },
    FindCertificate {
        key: String,
    },
    Hold(IssuedCertificate),
    RemoveHold(IssuedCertificate),
    Revoke(IssuedCertificate, RevocationReason),
    ReadCertificate(IssuedCertificate),
    Prepare {
        reference: String,
        card: Box<Card>,
        certificates: Vec<CertificateKind>,
    },
    Finish {
        reference: String,
        handle: String,
        card: Box<Card>,
        certificates: Vec<(CertificateKind, IssuedCertificate, Option<String>)>,
        pin: Option<(String, Delivery)>,
        puk: Option<(String, Delivery)>,
    },
    Discard {
        handle: String,
    },
}

#[derive(Clone, Serialize, Deserialize)]
enum Reply {
    Accepted {
        order_id: String,
        card_id: Option<String>,
    },
    Status {
        order_id: String,
        card_id: Option<String>,
        text: String,
        times: BureauTimes,
        read_outs: Vec<ReadOut>,
    },
    Certificate {
        certificate: IssuedCertificate,
        private_key: Option<String>,
    },
    State(StateAtCa),
    Prepared {
        handle: String,
        chip_serial: Option<String>,
        requests: BTreeMap<CertificateKind, String>,
    },
    Done,
    Revoked,
    Spoiled {
        reason: String,
    },
    NotFound,
    /// Nothing was done.
    Busy,
    /// What simulators without such faults do not say.
    Other(String),
}

impl Call {
    /// Whether it is on the books.
    fn changes(&self) -> bool {
        use Call::{FindCertificate, FindOrder, ReadCertificate, ReadOrder};
        !matches!(self, ReadOrder { .. } | FindOrder { .. } | FindCertificate { .. } | ReadCertificate(_))
    }
}

fn text(secret: &Secret) -> String {
    String::from_utf8(secret.expose().to_vec()).expect("digits, or PEM")
}

// ---- the books -----------------------------------------------------------------------------------------------------------

/// Bureau, CA and machine as their books say: whoever goes through the books comes to the same.
pub(crate) struct Books {
    clock: SimulatedClock,
    pub(crate) bureau: SimulatedBureau,
    pub(crate) ca: SimulatedCa,
    pub(crate) machine: SimulatedPersonalizer,
    /// Every PIN and PUK.
    pub(crate) secrets: Vec<String>,
    file: Option<File>,
}

/// An entry of the books.
#[derive(Serialize, Deserialize)]
struct Entry {
    at: DateTime<Utc>,
    call: Call,
}

impl Books {
    fn path(folder: &Path) -> PathBuf {
        folder.join("books")
    }

    /// What the books say now.
    pub(crate) fn read(folder: &Path, variant: Variant) -> Self {
        let clock = SimulatedClock::new(DateTime::UNIX_EPOCH);
        let time = || Arc::new(clock.clone());
        let second = Duration::from_secs(1);
        let bureau = match variant {
            Variant::Poor => BureauBehaviour::calm(),
            Variant::Looking => BureauBehaviour::calm().can_look(true).found_late(second),
            Variant::Rich => BureauBehaviour::rich(),
        };
        let bureau = bureau.in_production_after(second).shipped_after(2 * second);
        let machine = PersonalizerBehaviour::calm().makes_keys(variant == Variant::Poor).finish_spoiled(100);
        let mut books = Self {
            bureau: SimulatedBureau::new(7, time()).behaving(bureau),
            ca: SimulatedCa::new(7, time()).behaving(CaBehaviour::calm()),
            machine: SimulatedPersonalizer::new(7, time()).behaving(machine),
            clock,
            secrets: Vec::new(),
            file: None,
        };
        let bytes = fs::read(Self::path(folder)).unwrap_or_default();
        for line in bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            let Entry { at, call } = serde_json::from_slice(line).expect("a line is written whole");
            books.perform(at, call);
        }
        books.turn_to(SystemClock.now());
        books
    }

    /// Opens them to go on. What was cut was never answered: it does not count.
    fn open(folder: &Path, variant: Variant) -> Self {
        let file = open_lines(&Self::path(folder));
        Self { file: Some(file), ..Self::read(folder, variant) }
    }

    /// Writes it down, does it, and answers.
    fn answer(&mut self, call: Call) -> Reply {
        let entry = Entry { at: SystemClock.now(), call };
        if entry.call.changes() {
            let mut line = serde_json::to_vec(&entry).expect("it is plain");
            line.push(b'\n');
            self.file.as_mut().expect("they are open").write_all(&line).expect("they can be written");
        }
        self.perform(entry.at, entry.call)
    }

    fn turn_to(&self, at: DateTime<Utc>) {
        self.clock.advance((at - self.clock.now()).to_std().unwrap_or_default());
    }

    fn perform(&mut self, at: DateTime<Utc>, call: Call) -> Reply {
        self.turn_to(at);
        block_on(async {
            match call {
                Call::Place { reference, article, elements, email, address_key } => {
                    let order = CardOrder::new(reference, article);
                    let order = with(order, |order| {
                        (order.elements, order.email, order.address_key) = (elements, email, address_key);
                    });
                    match self.bureau.place(&[order]).await.remove(0) {
                        PlaceOutcome::Accepted(Accepted { order_id, card_id }) => Reply::Accepted { order_id, card_id },
                        other => Reply::Other(format!("{other:?}")),
                    }
                }
                Call::ReadOrder { order_id } => match self.bureau.status(&[order_id]).await.remove(0) {
                    StatusOutcome::Known(OrderStatus { order_id, card_id, text, times, read_outs }) => {
                        Reply::Status { order_id, card_id, text, times, read_outs }
                    }
                    StatusOutcome::NotFound => Reply::NotFound,
                    other => Reply::Other(format!("{other:?}")),
                },
                Call::FindOrder { reference } => match self.bureau.find(&reference).await {
                    FindOutcome::Found(Accepted { order_id, card_id }) => Reply::Accepted { order_id, card_id },
                    FindOutcome::NotFound => Reply::NotFound,
                    other => Reply::Other(format!("{other:?}")),
                },
                Call::Issue { key, profile, common_name, upn, email, valid_until, request } => {
                    let order = CertificateOrder::new(key, profile, common_name, valid_until);
                    let order = with(order, |order| (order.upn, order.email, order.request) = (upn, email, request));
                    match self.ca.issue(&order).await {
                        IssueOutcome::Issued(certificate) => Reply::Certificate { certificate, private_key: None },
                        other => Reply::Other(format!("{other:?}")),
                    }
                }
                Call::FindCertificate { key } => match self.ca.find(&key).await {
                    FindCertificateOutcome::Found { certificate, private_key } => {
                        Reply::Certificate { certificate, private_key: private_key.as_ref().map(text) }
                    }
                    FindCertificateOutcome::NotFound => Reply::NotFound,
                    other => Reply::Other(format!("{other:?}")),
                },
                Call::Hold(certificate) => changed(self.ca.hold(&certificate).await),
                Call::RemoveHold(certificate) => changed(self.ca.remove_hold(&certificate).await),
                Call::Revoke(certificate, reason) => changed(self.ca.revoke(&certificate, reason).await),
                Call::ReadCertificate(certificate) => match self.ca.status(&[certificate]).await.remove(0) {
                    CaStatusOutcome::Known(state) => Reply::State(state),
                    CaStatusOutcome::NotFound => Reply::NotFound,
                    other => Reply::Other(format!("{other:?}")),
                },
                Call::Prepare { reference, card, certificates } => {
                    match self.machine.prepare(&PrepareOrder::new(&reference, &card, &certificates)).await {
                        PrepareOutcome::Prepared(prepared) => Reply::Prepared {
                            handle: prepared.handle,
                            chip_serial: prepared.chip_serial,
                            requests: prepared.requests,
                        },
                        other => Reply::Other(format!("{other:?}")),
                    }
                }
                Call::Finish { reference, handle, card, certificates, pin, puk } => {
                    self.secrets.extend(pin.iter().chain(&puk).map(|(digits, _)| digits.clone()));
                    let secret = |text: String| Secret::new(text.into_bytes());
                    let set = |(digits, delivery)| (secret(digits), delivery);
                    let order = with(FinishOrder::new(&reference, &handle, &card), |order| {
                        order.certificates = certificates
                            .into_iter()
                            .map(|(kind, certificate, key)| CardCertificate {
                                kind,
                                certificate,
                                private_key: key.map(secret),
                            })
                            .collect();
                        (order.pin, order.puk) = (pin.map(set), puk.map(set));
                    });
                    match self.machine.finish(order).await {
                        FinishOutcome::Good => Reply::Done,
                        FinishOutcome::Spoiled { reason } => Reply::Spoiled { reason },
                        other => Reply::Other(format!("{other:?}")),
                    }
                }
                Call::Discard { handle } => match self.machine.discard(&handle).await {
                    DiscardOutcome::Done => Reply::Done,
                    other => Reply::Other(format!("{other:?}")),
                },
            }
        })
    }
}

fn with<T>(mut thing: T, change: impl FnOnce(&mut T)) -> T {
    change(&mut thing);
    thing
}

fn changed(outcome: CaOutcome) -> Reply {
    match outcome {
        CaOutcome::Done => Reply::Done,
        CaOutcome::AlreadyRevoked => Reply::Revoked,
        other => Reply::Other(format!("{other:?}")),
    }
}

// ---- the process ---------------------------------------------------------------------------------------------------------

/// Answers whoever connects, until it is killed. With a seed some answers are late or lost, and some calls are not taken.
pub(crate) fn serve(folder: &Path, variant: Variant, seed: Option<u64>) {
    let books = Arc::new(Mutex::new(Books::open(folder, variant)));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let port = listener.local_addr().expect("it has an address").port();
    fs::write(folder.join("port.new"), port.to_string()).expect("the folder can be written");
    fs::rename(folder.join("port.new"), folder.join("port")).expect("the folder can be written");
    let dice = seed.map(Seeded::new);
    for stream in listener.incoming() {
        let drawn = dice.as_ref().map(Seeded::next);
        let books = Arc::clone(&books);
        // Who hangs up is not answered.
        thread::spawn(move || stream.and_then(|stream| answer(stream, &books, drawn)));
    }
}

fn answer(stream: TcpStream, books: &Mutex<Books>, drawn: Option<u64>) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let calls: Vec<Call> = serde_json::from_str(&line)?;
    let pause = |bits: u32| thread::sleep(Duration::from_millis(drawn.map_or(0, |drawn| (drawn >> bits) % 16)));
    pause(32);
    let replies: Vec<Reply> = match drawn.map(|drawn| drawn % 100) {
        Some(0..4) => calls.iter().map(|_| Reply::Busy).collect(),
        Some(4..6) => return Ok(()),
        fate => {
            let replies = calls.into_iter().map(|call| books.lock().expect("nobody panics").answer(call)).collect();
            match fate {
                Some(6..11) => return Ok(()),
                Some(11..13) => thread::sleep(2 * CALL_TIME_OUT),
                _ => pause(40),
            }
            replies
        }
    };
    let mut answer = serde_json::to_vec(&replies)?;
    answer.push(b'\n');
    (&stream).write_all(&answer)
}

// ---- the caller ----------------------------------------------------------------------------------------------------------

/// How long a caller waits for an answer.
pub(crate) const CALL_TIME_OUT: Duration = Duration::from_millis(500);

/// The line to that process, as the worker's bureau, CA and machine.
#[derive(Clone)]
pub(crate) struct Line {
    folder: PathBuf,
    variant: Variant,
}

/// Why there is no answer.
enum Silence {
    /// Surely nothing was done.
    NotTaken,
    /// Something was perhaps done.
    Lost,
}

const LOST: &str = "the answer was lost";
const AWAY: &str = "out of reach";

impl Line {
    pub(crate) fn new(folder: &Path, variant: Variant) -> Self {
        Self { folder: folder.to_owned(), variant }
    }

    /// The jobs of which a caller did not hear what came of them, as they stand in a file.
    pub(crate) fn unanswered(folder: &Path) -> Vec<String> {
        fs::read_to_string(folder.join("unanswered")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Asks on a thread of its own, so that the engine can lose patience.
    async fn ask(&self, calls: Vec<Call>, about: &[&str]) -> Result<Vec<Reply>, Silence> {
        let (sender, receiver) = oneshot::channel();
        let folder = self.folder.clone();
        let mut impatience = Impatience { line: self, about };
        thread::spawn(move || sender.send(exchange(&folder, &calls)));
        let answer = receiver.await.unwrap_or(Err(Silence::Lost));
        impatience.about = &[];
        match answer {
            Ok(replies) if replies.iter().any(|reply| matches!(reply, Reply::Busy)) => Err(Silence::NotTaken),
            other => other,
        }
    }

    async fn ask_one(&self, call: Call, about: &[&str]) -> Result<Reply, Silence> {
        let replies = self.ask(vec![call], about).await?;
        replies.into_iter().next().ok_or(Silence::Lost)
    }

    /// Notes that nobody has heard what came of these.
    fn unknown(&self, about: &[&str]) -> String {
        let job = |about: &&str| {
            about.rsplit_once('-').filter(|(job, _)| job.len() == 32).map_or(*about, |(job, _)| job).to_owned()
        };
        let lines: String = about.iter().map(|about| job(about) + "\n").collect();
        append(&self.folder.join("unanswered"), &lines);
        LOST.to_owned()
    }
}

/// Notes that a call was given up while it waited.
struct Impatience<'a> {
    line: &'a Line,
    about: &'a [&'a str],
}

impl Drop for Impatience<'_> {
    fn drop(&mut self) {
        self.line.unknown(self.about);
    }
}

/// Opens a file of lines to add to it; without a last line that was cut when the one who wrote it was killed.
pub(crate) fn open_lines(path: &Path) -> File {
    let bytes = fs::read(path).unwrap_or_default();
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let file = OpenOptions::new().create(true).append(true).open(path).expect("the folder can be written");
    file.set_len(whole as u64).expect("it can be written");
    file
}

/// Adds to a file.
pub(crate) fn append(path: &Path, text: &str) {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("the folder can be written");
}

fn exchange(folder: &Path, calls: &[Call]) -> Result<Vec<Reply>, Silence> {
    let port = fs::read_to_string(folder.join("port")).ok().and_then(|port| port.parse().ok());
    let stream = port.and_then(|port: u16| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok());
    let stream = stream.ok_or(Silence::NotTaken)?;
    let heard = || {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut line = serde_json::to_vec(calls)?;
        line.push(b'\n');
        (&stream).write_all(&line)?;
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer)?;
        Ok::<_, io::Error>(serde_json::from_str(&answer)?)
    };
    heard().map_err(|_| Silence::Lost)
}

#[async_trait]
impl GoCardsProvider for Line {
    fn placement(&self) -> Placement {
        match self.variant {
            Variant::Poor | Variant::Looking => Placement::NotIdempotent,
            Variant::Rich => Placement::IdempotentByReference,
        }
    }

    async fn place(&self, orders: &[CardOrder]) -> Vec<PlaceOutcome> {
        let call = |order: &CardOrder| Call::Place {
            reference: order.reference.clone(),
            article: order.article.clone(),
            elements: order.elements.clone(),
            email: order.email.clone(),
            address_key: order.address_key.clone(),
        };
        let about: Vec<&str> = orders.iter().map(|order| order.reference.as_str()).collect();
        let unknown = || PlaceOutcome::Unknown { reason: self.unknown(&about) };
        match self.ask(orders.iter().map(call).collect(), &about).await {
            Ok(replies) => replies
                .into_iter()
                .map(|reply| match reply {
                    Reply::Accepted { order_id, card_id } => PlaceOutcome::Accepted(Accepted { order_id, card_id }),
                    _ => unknown(),
                })
                .collect(),
            // Under this reference it may have been accepted before.
            Err(Silence::NotTaken) if self.variant != Variant::Rich => {
                vec![PlaceOutcome::Unavailable { reason: AWAY.to_owned() }; orders.len()]
            }
            Err(_) => vec![unknown(); orders.len()],
        }
    }

    async fn status(&self, order_ids: &[String]) -> Vec<StatusOutcome> {
        let calls = order_ids.iter().map(|order_id| Call::ReadOrder { order_id: order_id.clone() }).collect();
        let away = || StatusOutcome::Unavailable { reason: AWAY.to_owned() };
        let Ok(replies) = self.ask(calls, &[]).await else { return vec![away(); order_ids.len()] };
        let outcome = |reply| match reply {
            Reply::Status { order_id, card_id, text, times, read_outs } => {
                StatusOutcome::Known(OrderStatus { order_id, card_id, text, times, read_outs })
            }
            Reply::NotFound => StatusOutcome::NotFound,
            _ => away(),
        };
        replies.into_iter().map(outcome).collect()
    }

    async fn find(&self, reference: &str) -> FindOutcome {
        if self.variant == Variant::Poor {
            return FindOutcome::CannotLook;
        }
        match self.ask_one(Call::FindOrder { reference: reference.to_owned() }, &[]).await {
            Ok(Reply::Accepted { order_id, card_id }) => FindOutcome::Found(Accepted { order_id, card_id }),
            Ok(Reply::NotFound) => FindOutcome::NotFound,
            _ => FindOutcome::Unavailable { reason: AWAY.to_owned() },
        }
    }
}

impl Line {
    async fn change(&self, call: Call) -> CaOutcome {
        match self.ask_one(call, &[]).await {
            Ok(Reply::Done) => CaOutcome::Done,
            Ok(Reply::Revoked) => CaOutcome::AlreadyRevoked,
            Ok(Reply::Other(reason)) => CaOutcome::Refused { reason },
            _ => CaOutcome::Unavailable { reason: AWAY.to_owned() },
        }
    }
}

#[async_trait]
impl CertificateAuthority for Line {
    async fn issue(&self, order: &CertificateOrder) -> IssueOutcome {
        let call = Call::Issue {
            key: order.key.clone(),
            profile: order.profile.clone(),
            common_name: order.common_name.clone(),
            upn: order.upn.clone(),
            email: order.email.clone(),
            valid_until: order.valid_until,
            request: order.request.clone(),
        };
        let about = [order.key.as_str()];
        match self.ask_one(call, &about).await {
            Ok(Reply::Certificate { certificate, .. }) => IssueOutcome::Issued(certificate),
            // Under this key something may have been issued before.
            _ => IssueOutcome::Unknown { reason: self.unknown(&about) },
        }
    }

    async fn find(&self, key: &str) -> FindCertificateOutcome {
        match self.ask_one(Call::FindCertificate { key: key.to_owned() }, &[]).await {
            Ok(Reply::Certificate { certificate, private_key }) => FindCertificateOutcome::Found {
                certificate,
                private_key: private_key.map(|key| Secret::new(key.into_bytes())),
            },
            Ok(Reply::NotFound) => FindCertificateOutcome::NotFound,
            _ => FindCertificateOutcome::Unavailable { reason: AWAY.to_owned() },
        }
    }

    async fn hold(&self, certificate: &IssuedCertificate) -> CaOutcome {
        self.change(Call::Hold(certificate.clone())).await
    }

    async fn remove_hold(&self, certificate: &IssuedCertificate) -> CaOutcome {
        self.change(Call::RemoveHold(certificate.clone())).await
    }

    async fn revoke(&self, certificate: &IssuedCertificate, reason: RevocationReason) -> CaOutcome {
        self.change(Call::Revoke(certificate.clone(), reason)).await
    }

    async fn status(&self, certificates: &[IssuedCertificate]) -> Vec<CaStatusOutcome> {
        let calls = certificates.iter().cloned().map(Call::ReadCertificate).collect();
        let away = || CaStatusOutcome::Unavailable { reason: AWAY.to_owned() };
        let Ok(replies) = self.ask(calls, &[]).await else { return vec![away(); certificates.len()] };
        let outcome = |reply| match reply {
            Reply::State(state) => CaStatusOutcome::Known(state),
            Reply::NotFound => CaStatusOutcome::NotFound,
            _ => away(),
        };
        replies.into_iter().map(outcome).collect()
    }
}

#[async_trait]
impl CardPersonalizer for Line {
    async fn prepare(&self, order: &PrepareOrder<'_>) -> PrepareOutcome {
        let call = Call::Prepare {
            reference: order.reference.to_owned(),
            card: Box::new(order.card.clone()),
            certificates: order.certificates.to_vec(),
        };
        let about = [order.reference];
        match self.ask_one(call, &about).await {
            Ok(Reply::Prepared { handle, chip_serial, requests }) => {
                PrepareOutcome::Prepared(with(Prepared::new(handle), |prepared| {
                    (prepared.chip_serial, prepared.requests) = (chip_serial, requests);
                }))
            }
            Err(Silence::NotTaken) => PrepareOutcome::Unavailable { reason: AWAY.to_owned() },
            _ => PrepareOutcome::Unknown { reason: self.unknown(&about) },
        }
    }

    async fn finish(&self, order: FinishOrder<'_>) -> FinishOutcome {
        let set = |(secret, delivery): &(Secret, Delivery)| (text(secret), *delivery);
        let call = Call::Finish {
            reference: order.reference.to_owned(),
            handle: order.handle.to_owned(),
            card: Box::new(order.card.clone()),
            certificates: order
                .certificates
                .iter()
                .map(|written| (written.kind, written.certificate.clone(), written.private_key.as_ref().map(text)))
                .collect(),
            pin: order.pin.as_ref().map(set),
            puk: order.puk.as_ref().map(set),
        };
        let about = [order.reference];
        match self.ask_one(call, &about).await {
            Ok(Reply::Done) => FinishOutcome::Good,
            Ok(Reply::Spoiled { reason }) => FinishOutcome::Spoiled { reason },
            Err(Silence::NotTaken) => FinishOutcome::Unavailable { reason: AWAY.to_owned() },
            _ => FinishOutcome::Unknown { reason: self.unknown(&about) },
        }
    }

    async fn discard(&self, handle: &str) -> DiscardOutcome {
        match self.ask_one(Call::Discard { handle: handle.to_owned() }, &[]).await {
            Ok(Reply::Done) => DiscardOutcome::Done,
            _ => DiscardOutcome::Unavailable { reason: AWAY.to_owned() },
        }
    }
}

#[test]
fn books_that_are_read_again_say_the_same_but_for_what_was_cut() {
    let folder = tempfile::tempdir().expect("a folder");
    let card = crate::office::Office::new();
    let card = Box::new(card.card(card.order("u1")));
    let mut books = Books::open(folder.path(), Variant::Rich);
    let place = |reference: &str| Call::Place {
        reference: reference.to_owned(),
        article: "ART-1".to_owned(),
        elements: BTreeMap::new(),
        email: None,
        address_key: None,
    };
    books.answer(place("a-1"));
    let valid_until = SystemClock.now() + chrono::TimeDelta::days(1);
    let (key, profile, common_name) = ("key".to_owned(), "signature".to_owned(), "Ann".to_owned());
    let issue = Call::Issue { key, profile, common_name, upn: None, email: None, valid_until, request: None };
    let Reply::Certificate { certificate, .. } = books.answer(issue) else { panic!("it is issued") };
    books.answer(Call::Hold(certificate));
    let prepare = Call::Prepare { reference: "p-1".to_owned(), card: card.clone(), certificates: Vec::new() };
    let Reply::Prepared { handle, .. } = books.answer(prepare) else { panic!("it is prepared") };
    let pin = Some(("739105826417".to_owned(), Delivery::Print));
    let reference = "f-1".to_owned();
    books.answer(Call::Finish { reference, handle, card, certificates: Vec::new(), pin, puk: None });
    append(&Books::path(folder.path()), "{\"at\":");

    let again = Books::open(folder.path(), Variant::Rich);
    assert_eq!(again.bureau.ledger(), books.bureau.ledger());
    assert_eq!(again.ca.ledger(), books.ca.ledger());
    assert_eq!(again.ca.ledger()[0].state, StateAtCa::OnHold);
    assert_eq!(again.machine.ledger(), books.machine.ledger());
    assert_eq!(again.secrets, ["739105826417"]);
    let mut again = again;
    again.answer(place("b-1"));
    assert_eq!(Books::read(folder.path(), Variant::Rich).bureau.ledger().len(), 2, "what was cut is gone");
}
