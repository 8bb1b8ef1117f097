//! The embedded CA: each clause of the contract, what stands in its certificates and lists, its journal, and bad input. What
//! it makes is judged by the `openssl` program.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use cardwright::adapters::local_ca::{
    CaIdentity, CaJournal, CaRecord, FileJournal, JournalError, KeyUsage, LocalCa, LocalCaBuilder, LocalCaError,
    MemoryJournal, Profile,
};
use cardwright::adapters::memory::ManualClock;
use cardwright::conformance::certificate_authority::{self, CaFactory, KeyIn};
use cardwright::conformance::{Call, Kit, block_on, on_threads};
use cardwright::host::{
    CaOutcome, CaStatusOutcome, CertificateAuthority, CertificateOrder, Clock as _, FindCertificateOutcome,
    IssueOutcome, SystemClock,
};
use cardwright::{IssuedCertificate, RevocationReason, Secret, StateAtCa};
use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer as _;

const START: &str = "2026-03-01T08:00:00Z";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CRL_URL: &str = "http://pki.example.com/cards.crl";

// ---- given ----

/// A CA's surroundings: what a host keeps.
struct Host {
    clock: ManualClock,
    journal: MemoryJournal,
    certificate: String,
    key: Vec<u8>,
    folder: tempfile::TempDir,
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().expect("a time")
}

impl Host {
    fn new() -> Self {
        let root =
            CaIdentity::self_signed("Example card CA", time("2026-01-01T00:00:00Z"), time("2031-01-01T00:00:00Z"));
        let root = root.expect("a root");
        Self::with(root.certificate_pem(), root.key_pem().expose())
    }

    fn with(certificate: &str, key: &[u8]) -> Self {
        Self {
            clock: ManualClock::new(time(START)),
            journal: MemoryJournal::new(),
            certificate: certificate.to_owned(),
            key: key.to_vec(),
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn identity(&self) -> CaIdentity {
        CaIdentity::new(&*self.certificate, Secret::new(self.key.clone()))
    }

    fn builder(&self) -> LocalCaBuilder {
        LocalCa::builder(self.identity()).crl_url(CRL_URL).sealing_key(sealing_key(7))
    }

    fn open(&self) -> LocalCa {
        self.open_on(self.journal.clone()).expect("the CA opens")
    }

    fn open_on(&self, journal: impl CaJournal) -> Result<LocalCa, LocalCaError> {
        block_on(self.builder().open(journal, Arc::new(self.clock.clone())))
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, content).expect("a file is written");
        path.to_string_lossy().into_owned()
    }

    /// What `openssl verify` says, by the simulated time.
    fn verify(&self, certificate: &IssuedCertificate, more: &[&str]) -> (bool, String) {
        let root = self.file("root.pem", &self.certificate);
        let leaf = self.file("leaf.pem", &certificate.pem);
        let at = self.clock.now().timestamp().to_string();
        let arguments = ["verify", "-x509_strict", "-attime", &at, "-CAfile", &root];
        try_openssl(&[&arguments, more, &[&leaf]].concat(), b"")
    }

    /// What `openssl verify` says with a revocation list.
    fn verify_by_list(&self, certificate: &IssuedCertificate, list: &str) -> (bool, String) {
        let list = self.file("list.pem", list);
        self.verify(certificate, &["-crl_check", "-CRLfile", &list])
    }

    /// A list's text, once its signature is verified.
    fn list_text(&self, list: &str) -> String {
        let root = self.file("root.pem", &self.certificate);
        let (good, text) = try_openssl(&["crl", "-noout", "-text", "-verify", "-CAfile", &root], list.as_bytes());
        assert!(good && text.contains("verify OK"), "{text}");
        text
    }

    /// A new key and a request for it, both by `openssl`.
    fn request(&self, algorithm: &[&str]) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let key = self.folder.path().join(format!("card{count}.key")).to_string_lossy().into_owned();
        let arguments = ["req", "-new", "-nodes", "-batch", "-subj", "/CN=what the card says", "-keyout", &key];
        openssl(&[&arguments, algorithm].concat(), b"")
    }
}

fn sealing_key(byte: u8) -> Secret {
    Secret::new(vec![byte; 32])
}

const P256: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
const RSA: [&str; 2] = ["-newkey", "rsa:2048"];

fn order(key: &str) -> CertificateOrder {
    let mut order = CertificateOrder::new(key, "authentication", "Ann Example", time("2027-03-01T00:00:00Z"));
    order.upn = Some("ann@corp.example".to_owned());
    order.email = Some("ann@example.com".to_owned());
    order
}

/// The same order, changed.
fn but(mut order: CertificateOrder, change: impl FnOnce(&mut CertificateOrder)) -> CertificateOrder {
    change(&mut order);
    order
}

fn of_profile(key: &str, profile: &str) -> CertificateOrder {
    but(order(key), |order| order.profile = profile.to_owned())
}

fn with_request(key: &str, request: String) -> CertificateOrder {
    but(order(key), |order| order.request = Some(request))
}

trait Shorter {
    fn issued(&self, order: &CertificateOrder) -> IssuedCertificate;
    fn refused(&self, order: &CertificateOrder) -> String;
    fn found(&self, key: &str) -> (IssuedCertificate, Option<Secret>);
    fn state(&self, certificate: &IssuedCertificate) -> StateAtCa;
    fn list(&self) -> String;
}

impl Shorter for LocalCa {
    fn issued(&self, order: &CertificateOrder) -> IssuedCertificate {
        match block_on(self.issue(order)) {
            IssueOutcome::Issued(certificate) => certificate,
            other => panic!("not issued: {other:?}"),
        }
    }

    fn refused(&self, order: &CertificateOrder) -> String {
        match block_on(self.issue(order)) {
            IssueOutcome::Refused { reason } => reason,
            other => panic!("not refused: {other:?}"),
        }
    }

    fn found(&self, key: &str) -> (IssuedCertificate, Option<Secret>) {
        match block_on(self.find(key)) {
            FindCertificateOutcome::Found { certificate, private_key } => (certificate, private_key),
            other => panic!("not found: {other:?}"),
        }
    }

    fn state(&self, certificate: &IssuedCertificate) -> StateAtCa {
        match block_on(self.status(std::slice::from_ref(certificate))).as_slice() {
            [CaStatusOutcome::Known(state)] => *state,
            other => panic!("no state: {other:?}"),
        }
    }

    fn list(&self) -> String {
        block_on(self.revocation_list()).expect("a list").pem
    }
}

// ---- openssl ----

/// Runs the program; gives whether it was content, its standard output, and its standard error.
fn run_openssl(arguments: &[&str], input: &[u8]) -> (bool, String, String) {
    let child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|error| {
        panic!("these tests need the openssl program ({error}): install OpenSSL 3 (Debian: apt-get install openssl)")
    });
    // A program that ends without reading its input closes the pipe.
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    let output = child.wait_with_output().expect("openssl ends");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// Whether it was content, and all it says.
fn try_openssl(arguments: &[&str], input: &[u8]) -> (bool, String) {
    let (good, output, words) = run_openssl(arguments, input);
    (good, output + &words)
}

/// What it writes, if it is content.
fn openssl(arguments: &[&str], input: &[u8]) -> String {
    let (good, output, words) = run_openssl(arguments, input);
    assert!(good, "openssl {arguments:?}: {words}");
    output
}

/// What it writes about a certificate. Releases differ in a few spaces and colons.
fn shown(arguments: &[&str], certificate: &IssuedCertificate) -> String {
    let text = openssl(&[&["x509", "-noout"], arguments].concat(), certificate.pem.as_bytes());
    text.replace(" = ", "=").replace("UPN::", "UPN:").replace("keyid:", "")
}

fn text_of(certificate: &IssuedCertificate) -> String {
    shown(&["-text"], certificate)
}

fn public_key_of(certificate: &IssuedCertificate) -> String {
    shown(&["-pubkey"], certificate)
}

/// What stands in the lines after a heading, up to a depth of one line.
fn below(text: &str, heading: &str) -> String {
    let mut lines = text.lines().skip_while(|line| !line.contains(heading)).skip(1);
    lines.next().unwrap_or_default().trim().to_owned()
}

// ---- the contract ----

#[test]
fn the_embedded_ca_keeps_every_clause_of_the_kit() {
    // Instances of their own on one journal; and one that is closed with its last handle and opened again from its file.
    for on_file in [false, true] {
        for makes_keys in [false, true] {
            let own = Own { host: Host::new(), on_file, makes_keys, open: Mutex::default() };
            let kit = Kit::of_ca(&own, uuid::Uuid::from_u128(1));
            for clause in certificate_authority::clauses() {
                block_on(certificate_authority::check(&kit, clause));
            }
        }
    }
}

/// Opens handles onto the embedded CA.
struct Own {
    host: Host,
    on_file: bool,
    makes_keys: bool,
    open: Mutex<Weak<LocalCa>>,
}

impl Own {
    fn builder(&self) -> LocalCaBuilder {
        let builder = LocalCa::builder(self.host.identity());
        if self.makes_keys { builder.sealing_key(sealing_key(7)) } else { builder }
    }
}

#[async_trait::async_trait]
impl CaFactory for Own {
    async fn open(&self) -> Arc<dyn CertificateAuthority> {
        let clock = Arc::new(self.host.clock.clone());
        if !self.on_file {
            return Arc::new(self.builder().open(self.host.journal.clone(), clock).await.expect("the CA opens"));
        }
        if let Some(ca) = self.open.lock().expect("the lock").upgrade() {
            return ca;
        }
        let journal = FileJournal::open(self.host.folder.path().join("ca.journal")).expect("the journal opens");
        let ca = Arc::new(self.builder().open(journal, clock).await.expect("the CA opens"));
        *self.open.lock().expect("the lock") = Arc::downgrade(&ca);
        ca
    }

    async fn pass_time(&self, duration: Duration) {
        self.host.clock.advance(duration);
    }

    async fn at_once(&self, calls: Vec<Call>) {
        on_threads(calls).await;
    }

    fn order(&self, key: &str) -> CertificateOrder {
        order(key)
    }

    fn refused_order(&self, key: &str) -> CertificateOrder {
        of_profile(key, "visitor")
    }

    fn request(&self) -> Option<String> {
        let key = KeyPair::generate().expect("a key");
        let request = CertificateParams::default().serialize_request(&key).expect("a request");
        Some(request.pem().expect("PEM"))
    }

    fn public_key(&self, of: KeyIn<'_>) -> Option<Vec<u8>> {
        let block = |pem: &str| parse_x509_pem(pem.as_bytes()).ok().map(|(_, block)| block.contents);
        match of {
            KeyIn::Certificate(certificate) => {
                let der = block(&certificate.pem)?;
                let (_, certificate) = X509Certificate::from_der(&der).ok()?;
                Some(certificate.public_key().raw.to_vec())
            }
            KeyIn::Request(request) => {
                let der = block(request)?;
                let (_, request) = X509CertificationRequest::from_der(&der).ok()?;
                Some(request.certification_request_info.subject_pki.raw.to_vec())
            }
            KeyIn::PrivateKey(key) => {
                let pem = String::from_utf8(key.expose().to_vec()).ok()?;
                Some(KeyPair::from_pem(&pem).ok()?.subject_public_key_info())
            }
        }
    }
}

#[test]
fn one_certificate_per_key() {
    let host = Host::new();
    let ca = host.open();
    let first = ca.issued(&order("key 1"));
    assert_eq!(ca.issued(&order("key 1")), first);
    assert_eq!(ca.issued(&of_profile("key 1", "signature")), first, "whatever the order says");
    assert_ne!(ca.issued(&order("key 2")).serial, first.serial);

    drop(ca);
    assert_eq!(host.open().issued(&order("key 1")), first, "also after a restart");
}

#[test]
fn one_certificate_per_key_between_callers_and_between_instances() {
    let host = Host::new();
    // Two instances on one journal, four callers each.
    let instances = [Arc::new(host.open()), Arc::new(host.open())];
    let callers = instances.iter().flat_map(|ca| [(); 4].map(|()| Arc::clone(ca)));
    let threads: Vec<_> = callers
        .map(|ca| std::thread::spawn(move || (0..20).map(|n| ca.issued(&order(&n.to_string())).serial).collect()))
        .collect();
    let serials: Vec<Vec<String>> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
    assert!(serials.iter().all(|of_one| *of_one == serials[0]));
    assert_eq!(serials[0].iter().collect::<BTreeSet<_>>().len(), 20);
    let records = block_on(host.journal.read(0)).expect("a journal");
    assert_eq!(records.iter().filter(|record| matches!(record, CaRecord::Issued { .. })).count(), 20);
}

#[test]
fn found_is_what_was_issued() {
    let host = Host::new();
    let ca = host.open();
    assert!(matches!(block_on(ca.find("key 1")), FindCertificateOutcome::NotFound));
    let issued = ca.issued(&order("key 1"));
    assert_eq!(ca.found("key 1").0, issued);
    assert!(matches!(block_on(ca.find("key 2")), FindCertificateOutcome::NotFound));
    assert_eq!(host.open().found("key 1").0, issued, "also after a restart");
}

#[test]
fn refused_leaves_nothing() {
    let host = Host::new();
    let ca = host.open();
    let reason = ca.refused(&of_profile("key 1", "nonsense"));
    assert_eq!(ca.refused(&order("key 1")), reason, "a good order under the same key comes too late");
    assert_eq!(host.open().refused(&order("key 1")), reason);
    assert!(matches!(block_on(ca.find("key 1")), FindCertificateOutcome::Refused { .. }));
    assert!(!ca.list().is_empty());
}

#[test]
fn request_keeps_its_key() {
    let host = Host::new();
    let ca = host.open();
    let ed25519 = ["-newkey", "ed25519"];
    let p384 = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"];
    let algorithms: [&[&str]; 4] = [&P256, &RSA, &p384, &ed25519];
    for (n, algorithm) in algorithms.into_iter().enumerate() {
        let request = host.request(algorithm);
        let requested = openssl(&["req", "-noout", "-pubkey"], request.as_bytes());
        let key = format!("key {n}");
        let certificate = ca.issued(&with_request(&key, request));
        assert_eq!(public_key_of(&certificate), requested);
        assert!(host.verify(&certificate, &[]).0, "{:?}", host.verify(&certificate, &[]));
        assert!(ca.found(&key).1.is_none(), "the CA has no key of a card");
        let subject = shown(&["-subject"], &certificate);
        assert_eq!(subject.trim(), "subject=CN=Ann Example", "names come from the order");
    }
}

#[test]
fn ca_side_key_comes_with_find() {
    let host = Host::new();
    let ca = host.open();
    let certificate = ca.issued(&order("key 1"));
    for ca in [&ca, &host.open()] {
        let key = ca.found("key 1").1.expect("a private key");
        assert!(key.expose().starts_with(b"-----BEGIN PRIVATE KEY-----"), "PKCS#8");
        assert_eq!(openssl(&["pkey", "-pubout"], key.expose()), public_key_of(&certificate));
        let text = openssl(&["pkey", "-noout", "-text"], key.expose());
        assert!(text.contains("NIST CURVE: P-256"), "{text}");
    }

    block_on(ca.drop_private_key("key 1")).expect("dropped");
    block_on(ca.drop_private_key("key 1")).expect("dropped already");
    for ca in [&ca, &host.open()] {
        let (found, key) = ca.found("key 1");
        assert_eq!(found, certificate);
        assert!(key.is_none(), "the host has dropped it");
    }
    assert_eq!(block_on(ca.drop_private_key("key 2")), Err(LocalCaError::NotFound));
}

#[test]
fn repeating_changes_nothing() {
    let host = Host::new();
    let ca = host.open();
    let certificate = ca.issued(&order("key 1"));
    assert_eq!(block_on(ca.remove_hold(&certificate)), CaOutcome::Done, "nothing to remove");
    for _ in 0..2 {
        assert_eq!(block_on(ca.hold(&certificate)), CaOutcome::Done);
    }
    let records = block_on(host.journal.read(0)).expect("a journal").len();
    assert_eq!(block_on(ca.hold(&certificate)), CaOutcome::Done);
    assert_eq!(block_on(host.journal.read(0)).expect("a journal").len(), records, "nothing was recorded again");
    for _ in 0..2 {
        assert_eq!(block_on(ca.remove_hold(&certificate)), CaOutcome::Done);
    }
    assert_eq!(block_on(ca.revoke(&certificate, RevocationReason::Superseded)), CaOutcome::Done);
    let again = block_on(ca.revoke(&certificate, RevocationReason::KeyCompromise));
    assert_eq!(again, CaOutcome::AlreadyRevoked);
    let text = host.list_text(&ca.list());
    assert!(text.contains("Superseded") && !text.contains("Key Compromise"), "{text}");
}

#[test]
fn revoked_stays_revoked() {
    let host = Host::new();
    let ca = host.open();
    let certificate = ca.issued(&order("key 1"));
    block_on(ca.hold(&certificate));
    assert_eq!(block_on(ca.revoke(&certificate, RevocationReason::KeyCompromise)), CaOutcome::Done);
    for ca in [&ca, &host.open()] {
        assert_eq!(block_on(ca.hold(&certificate)), CaOutcome::AlreadyRevoked);
        assert_eq!(block_on(ca.remove_hold(&certificate)), CaOutcome::AlreadyRevoked);
        assert_eq!(block_on(ca.revoke(&certificate, RevocationReason::Unspecified)), CaOutcome::AlreadyRevoked);
        assert_eq!(ca.state(&certificate), StateAtCa::Revoked);
    }
    host.clock.advance(DAY * 1000);
    assert_eq!(ca.state(&certificate), StateAtCa::Revoked, "also past its validity");
}

#[test]
fn status_tells_what_was_done() {
    let host = Host::new();
    let ca = host.open();
    let [valid, held, freed, revoked] = ["1", "2", "3", "4"].map(|key| ca.issued(&order(key)));
    block_on(ca.hold(&held));
    block_on(ca.hold(&freed));
    block_on(ca.remove_hold(&freed));
    block_on(ca.revoke(&revoked, RevocationReason::Unspecified));
    let stranger = IssuedCertificate { serial: "AB".to_owned(), ..valid.clone() };
    let foreign = IssuedCertificate { issuer: "CN=another".to_owned(), ..valid.clone() };
    let small = IssuedCertificate { serial: valid.serial.to_lowercase(), ..valid.clone() };

    let all = [revoked, valid.clone(), stranger.clone(), held.clone(), foreign.clone(), freed, small];
    use CaStatusOutcome::{Known, NotFound};
    use StateAtCa::{Expired, OnHold, Revoked, Valid};
    let known = [Known(Revoked), Known(Valid), NotFound, Known(OnHold), NotFound, Known(Valid), Known(Valid)];
    assert_eq!(block_on(ca.status(&all)), known);
    assert_eq!(block_on(host.open().status(&all)), known);
    for unknown in [&stranger, &foreign] {
        assert!(matches!(block_on(ca.hold(unknown)), CaOutcome::Refused { .. }));
        assert!(matches!(block_on(ca.revoke(unknown, RevocationReason::Unspecified)), CaOutcome::Refused { .. }));
    }

    host.clock.advance(DAY * 366);
    assert_eq!([ca.state(&valid), ca.state(&held)], [Expired, Expired]);
    assert_eq!(block_on(ca.revoke(&valid, RevocationReason::Unspecified)), CaOutcome::AlreadyExpired);
    assert_eq!(block_on(ca.hold(&valid)), CaOutcome::AlreadyExpired);
    assert_eq!(block_on(ca.status(&[])), []);
}

// ---- what stands in a certificate ----

#[test]
fn profiles_say_what_a_certificate_is_for() {
    let host = Host::new();
    let ca = host.open();
    let expected = [
        (
            "authentication",
            "Digital Signature",
            "Digital Signature",
            "TLS Web Client Authentication, Microsoft Smartcard Login",
        ),
        ("signature", "Non Repudiation", "Non Repudiation", "E-mail Protection"),
        ("encryption", "Key Agreement", "Key Encipherment", "E-mail Protection"),
    ];
    for (profile, elliptic, rsa, purposes) in expected {
        let by_ca = ca.issued(&of_profile(profile, profile));
        let request = Some(host.request(&RSA));
        let by_card =
            ca.issued(&but(of_profile(&format!("{profile} on card"), profile), |order| order.request = request));
        for (certificate, usage) in [(&by_ca, elliptic), (&by_card, rsa)] {
            let text = text_of(certificate);
            assert_eq!(below(&text, "X509v3 Key Usage: critical"), usage, "{text}");
            assert_eq!(below(&text, "X509v3 Extended Key Usage:"), purposes);
            assert_eq!(below(&text, "X509v3 Basic Constraints: critical"), "CA:FALSE");
            let names = below(&text, "X509v3 Subject Alternative Name:");
            assert_eq!(names, "othername: UPN:ann@corp.example, email:ann@example.com");
            assert!(text.contains(&format!("URI:{CRL_URL}")), "{text}");
            assert!(text.contains("Subject: CN=Ann Example") && text.contains("Version: 3"), "{text}");
            let root = openssl(&["x509", "-noout", "-ext", "subjectKeyIdentifier"], host.certificate.as_bytes());
            let root_id = root.lines().last().unwrap_or_default().trim().trim_start_matches("keyid:");
            assert_eq!(below(&text, "X509v3 Authority Key Identifier:"), root_id);
            assert!(text.contains("X509v3 Subject Key Identifier:"));
            assert_eq!(host.verify(certificate, &[]), (true, host.verify(certificate, &[]).1));
        }
    }
    let purpose = |key, purpose| host.verify(&ca.found(key).0, &["-purpose", purpose]).0;
    assert!(purpose("authentication", "sslclient") && !purpose("authentication", "sslserver"));
    assert!(purpose("signature", "smimesign") && !purpose("signature", "sslclient"));
    assert!(purpose("encryption on card", "smimeencrypt") && !purpose("signature", "smimeencrypt"));
}

#[test]
fn a_host_adds_profiles_of_its_own() {
    let host = Host::new();
    let door: Profile = serde_json::from_str(
        r#"{ "name": "door", "key_usage": ["digitalSignature", "keyAgreement"], "extended_key_usage": ["1.3.6.1.4.1.99999.1"] }"#,
    )
    .expect("plain data");
    let signature = Profile::new("signature").key_usage(KeyUsage::DigitalSignature);
    let builder = host.builder().profile(door).profile(signature);
    let ca = block_on(builder.open(host.journal.clone(), Arc::new(host.clock.clone()))).expect("the CA opens");
    let text = text_of(&ca.issued(&of_profile("1", "door")));
    assert_eq!(below(&text, "X509v3 Key Usage: critical"), "Digital Signature, Key Agreement");
    assert_eq!(below(&text, "X509v3 Extended Key Usage:"), "1.3.6.1.4.1.99999.1");
    let text = text_of(&ca.issued(&of_profile("2", "signature")));
    assert_eq!(
        below(&text, "X509v3 Key Usage: critical"),
        "Digital Signature",
        "its own in the place of the ready one"
    );
    assert!(!text.contains("Extended Key Usage"), "{text}");
}

#[test]
fn a_key_that_is_not_able_to_what_the_profile_says_is_refused() {
    let host = Host::new();
    let ca = host.open();
    let request = Some(host.request(&["-newkey", "ed25519"]));
    let reason = ca.refused(&but(of_profile("1", "encryption"), |order| order.request = request));
    assert!(reason.contains("cannot be used for the profile `encryption`"), "{reason}");
}

#[test]
fn serial_numbers_are_random_positive_and_of_one_length() {
    let host = Host::new();
    let ca = host.open();
    let serials: BTreeSet<_> = (0..50).map(|n| ca.issued(&order(&n.to_string())).serial).collect();
    assert_eq!(serials.len(), 50);
    assert!(
        serials
            .iter()
            .all(|serial| serial.len() == 40 && ('4'..='7').contains(&serial.chars().next().expect("digits")))
    );
    let certificate = ca.issued(&order("0"));
    let shown = openssl(&["x509", "-noout", "-serial"], certificate.pem.as_bytes());
    assert_eq!(shown.trim(), format!("serial={}", certificate.serial));
}

#[test]
fn validity_ends_with_the_order_or_the_ca_whichever_is_first() {
    let host = Host::new();
    let ca = host.open();
    let end = |key: &str, until: &str| {
        let certificate = ca.issued(&but(order(key), |order| order.valid_until = time(until)));
        let shown = openssl(&["x509", "-noout", "-dates", "-dateopt", "iso_8601"], certificate.pem.as_bytes());
        let not_after = certificate.valid_until.format("notAfter=%Y-%m-%d %H:%M:%SZ").to_string();
        assert!(shown.contains(&not_after), "{shown}");
        assert!(shown.contains("notBefore=2026-03-01 07:55:00Z"), "{shown}");
        assert!(host.verify(&certificate, &[]).0);
        certificate.valid_until
    };
    assert_eq!(end("1", "2027-03-01T12:00:00.999999Z"), time("2027-03-01T12:00:00Z"));
    assert_eq!(end("2", "2040-01-01T00:00:00Z"), time("2031-01-01T00:00:00Z"), "the CA's own end");
    assert_eq!(end("3", "+262142-12-31T23:59:59Z"), time("2031-01-01T00:00:00Z"));
    let over = but(order("4"), |order| order.valid_until = time(START));
    assert_eq!(ca.refused(&over), "the validity that was ordered is over");
    let long_over = but(order("5"), |order| order.valid_until = DateTime::<Utc>::MIN_UTC);
    assert_eq!(ca.refused(&long_over), "the validity that was ordered is over");
}

#[test]
fn a_certificate_does_not_begin_before_its_ca() {
    let root = CaIdentity::self_signed("New", time(START), time("2060-01-01T00:00:00Z")).expect("a root");
    let host = Host::with(root.certificate_pem(), root.key_pem().expose());
    let order = but(order("1"), |order| order.valid_until = time("2055-01-01T00:00:00Z"));
    let certificate = host.open().issued(&order);
    let text = text_of(&certificate);
    assert!(text.contains("Not Before: Mar  1 08:00:00 2026 GMT"), "{text}");
    assert!(text.contains("Not After : Jan  1 00:00:00 2055 GMT"), "past 2050 too: {text}");
    assert!(host.verify(&certificate, &[]).0);
}

#[test]
fn cas_that_openssl_made_are_taken_over() {
    let algorithms: [&[&str]; 3] = [&RSA, &P256, &["-newkey", "ed25519"]];
    for algorithm in algorithms {
        let scratch = Host::new();
        let key = scratch.folder.path().join("ca.key").to_string_lossy().into_owned();
        let make = ["req", "-x509", "-new", "-nodes", "-batch", "-days", "30000", "-keyout", &key];
        let name = ["-utf8", "-subj", "/C=CH/O=Müller & Söhne/OU=Karten/CN=Office CA"];
        let usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"];
        let certificate = openssl(&[&make[..], &name, &usage, algorithm].concat(), b"");
        let mut host = Host::with(&certificate, &[]);
        host.key = fs::read(&key).expect("a key");
        host.clock = ManualClock::new(SystemClock.now() + TimeDelta::days(1));
        let ca = host.open();
        let order = but(order("1"), |order| order.valid_until = host.clock.now() + TimeDelta::days(90));
        let certificate = ca.issued(&order);
        assert!(host.verify(&certificate, &[]).0, "{:?}", host.verify(&certificate, &[]));
        block_on(ca.revoke(&certificate, RevocationReason::CessationOfOperation));
        assert!(host.list_text(&ca.list()).contains("Cessation Of Operation"));
        assert!(host.verify_by_list(&certificate, &ca.list()).1.contains("certificate revoked"));
    }
}

// ---- the list ----

#[test]
fn the_list_shows_hold_and_revocation_with_reasons_and_dates() {
    let host = Host::new();
    let ca = host.open();
    let empty = host.list_text(&ca.list());
    assert!(empty.contains("No Revoked Certificates") && empty.contains("X509v3 Authority Key Identifier"), "{empty}");

    let [valid, held, freed] = ["1", "2", "3"].map(|key| ca.issued(&order(key)));
    block_on(ca.hold(&freed));
    block_on(ca.hold(&held));
    let before = ca.list();
    assert!(host.verify_by_list(&freed, &before).1.contains("certificate revoked"));
    host.clock.advance(Duration::from_secs(3600));
    block_on(ca.remove_hold(&freed));
    let reasons = [
        (RevocationReason::KeyCompromise, "Key Compromise"),
        (RevocationReason::CaCompromise, "CA Compromise"),
        (RevocationReason::AffiliationChanged, "Affiliation Changed"),
        (RevocationReason::Superseded, "Superseded"),
        (RevocationReason::CessationOfOperation, "Cessation Of Operation"),
        (RevocationReason::PrivilegeWithdrawn, "Privilege Withdrawn"),
        (RevocationReason::AaCompromise, "AA Compromise"),
    ];
    for (reason, _) in reasons {
        block_on(ca.revoke(&ca.issued(&order(reason.name())), reason));
    }
    let unspecified = ca.issued(&order("unspecified"));
    block_on(ca.revoke(&unspecified, RevocationReason::Unspecified));

    let list = ca.list();
    let text = host.list_text(&list);
    let entry = |certificate: &IssuedCertificate| {
        let from = text.find(&format!("Serial Number: {}", certificate.serial))?;
        let rest = &text[from + 1..];
        Some(rest[..rest.find("Serial Number:").unwrap_or(rest.len())].to_owned())
    };
    assert_eq!(entry(&valid), None);
    assert_eq!(entry(&freed), None, "taken off hold, off the list");
    let on_hold = entry(&held).expect("listed");
    assert!(on_hold.contains("Certificate Hold") && on_hold.contains("Mar  1 08:00:00 2026"), "{on_hold}");
    for (reason, words) in reasons {
        let revoked = entry(&ca.found(reason.name()).0).expect("listed");
        assert!(revoked.contains(words) && revoked.contains("Mar  1 09:00:00 2026"), "{revoked}");
    }
    let revoked = entry(&unspecified).expect("listed");
    assert!(!revoked.contains("Reason Code"), "RFC 5280 5.3.1: absent instead of unspecified: {revoked}");

    for certificate in [&valid, &freed] {
        assert!(host.verify_by_list(certificate, &list).0, "{:?}", host.verify_by_list(certificate, &list));
    }
    for certificate in [&held, &unspecified] {
        let (good, words) = host.verify_by_list(certificate, &list);
        assert!(!good && words.contains("certificate revoked"), "{words}");
    }
    block_on(ca.revoke(&held, RevocationReason::KeyCompromise));
    assert!(!host.list_text(&ca.list()).contains("Certificate Hold"), "what was on hold is revoked now");
}

#[test]
fn lists_are_numbered_and_dated() {
    let host = Host::new();
    let open = || {
        let builder = host.builder().crl_lifetime(DAY);
        block_on(builder.open(host.journal.clone(), Arc::new(host.clock.clone()))).expect("the CA opens")
    };
    let first = block_on(open().revocation_list()).expect("a list");
    let second = block_on(open().revocation_list()).expect("a list");
    assert_eq!((first.number, second.number), (1, 2), "also across a restart");
    let text = host.list_text(&second.pem);
    assert!(text.contains("Last Update: Mar  1 08:00:00 2026") && text.contains("Next Update: Mar  2 08:00:00 2026"));
    assert!(below(&text, "X509v3 CRL Number:").ends_with('2'), "{text}");
    let der = host.file("list.der", &second.der);
    let from_der = openssl(&["crl", "-inform", "DER", "-in", &der, "-outform", "PEM"], b"");
    assert_eq!(from_der, second.pem);
}

#[test]
fn what_has_expired_leaves_the_list_once_it_stood_there_after_its_end() {
    let host = Host::new();
    let ca = host.open();
    let revoked = ca.issued(&order("1"));
    block_on(ca.revoke(&revoked, RevocationReason::Unspecified));
    let listed = || host.list_text(&ca.list()).contains(&revoked.serial);
    host.clock.advance(DAY * 365 + DAY);
    assert_eq!(ca.state(&revoked), StateAtCa::Revoked);
    assert!(listed());
    host.clock.advance(DAY * 7);
    assert!(!listed());
}

// ---- bad input ----

#[test]
fn bad_orders_are_refused_with_a_reason() {
    let host = Host::new();
    let ca = host.open();
    let long = "x".repeat(65);
    let request = host.request(&P256);
    let request_lines: Vec<_> = request.lines().collect();
    let weak = host.request(&["-newkey", "rsa:1024"]);
    let p521 = host.request(&["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-521"]);
    let sha1 = host.request(&["-newkey", "rsa:2048", "-sha1"]);
    let public_key = openssl(&["req", "-noout", "-pubkey"], request.as_bytes());
    let cut = [request_lines[0], request_lines[1], request_lines[request_lines.len() - 1]].join("\n");

    let order = |n: usize| order(&format!("bad {n}"));
    let named = |n, name: &str| but(order(n), |order| order.common_name = name.to_owned());
    let upn = |n, upn: &str| but(order(n), |order| order.upn = Some(upn.to_owned()));
    let email = |n, email: &str| but(order(n), |order| order.email = Some(email.to_owned()));
    let requested = |n, request: &str| but(order(n), |order| order.request = Some(request.to_owned()));
    let table = [
        (
            of_profile("bad profile", "Authentication"),
            "no profile \"Authentication\", there are authentication, signature",
        ),
        (of_profile("no profile", ""), "no profile \"\""),
        (named(1, ""), "the common name is empty"),
        (named(2, " \u{a0}\t"), "the common name is empty"),
        (named(3, &long), "the common name is longer than 64 characters"),
        (named(4, "Ann\0Admin"), "the common name has a control character"),
        (named(5, "Ann\nExample"), "the common name has a control character"),
        (upn(6, ""), "the UPN is empty"),
        (upn(7, "ann\0@corp.example"), "the UPN has a control character"),
        (upn(8, &"u".repeat(100_000)), "the UPN is longer than 1024 characters"),
        (email(9, ""), "the e-mail address is empty"),
        (email(10, "ann\0@example.com"), "the e-mail address has a control character"),
        (email(11, "anné@example.com"), "characters that an rfc822Name cannot hold"),
        (email(12, "😀@example.com"), "characters that an rfc822Name cannot hold"),
        (email(13, "ann example@example.com"), "characters that an rfc822Name cannot hold"),
        (email(14, "ann"), "not of the form user@host"),
        (email(15, "@example.com"), "not of the form user@host"),
        (email(16, &format!("{}@example.com", "a".repeat(300))), "longer than 254 characters"),
        (requested(17, ""), "not PEM"),
        (requested(18, "-----BEGIN CERTIFICATE REQUEST-----"), "not PEM"),
        (requested(28, "-----BEGIN -----"), "not PEM"),
        (requested(29, "-----BEGIN é\n-----END é"), "not PEM"),
        (
            requested(30, "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----"),
            "not a PKCS#10 request",
        ),
        (requested(31, "-----BEGIN \u{301}-----\n\0\n-----END "), "not PEM"),
        (requested(19, &request.replace('M', "*")), "not PEM"),
        (requested(20, &host.certificate), "not labelled CERTIFICATE REQUEST"),
        (requested(21, &host.certificate.replace("CERTIFICATE", "CERTIFICATE REQUEST")), "not a PKCS#10 request"),
        (requested(22, &public_key), "not labelled"),
        (requested(23, &cut), "not a PKCS#10 request"),
        (requested(24, &weak), "has 1024 bits"),
        (requested(25, &p521), "none of RSA, P-256, P-384 and Ed25519"),
        (requested(26, &sha1), "signed with SHA-1"),
        (requested(27, &"A".repeat(100_000)), "longer than 65536 bytes"),
    ];
    for (order, expected) in &table {
        let reason = ca.refused(order);
        assert!(reason.contains(expected), "{}: {reason}", order.key);
    }
    let records = block_on(host.journal.read(0)).expect("a journal");
    assert!(!records.iter().any(|record| matches!(record, CaRecord::Issued { .. })), "nothing was issued");

    for key in ["", "é", "a\nb", &"k".repeat(101)] {
        assert!(ca.refused(&self::order(key)).contains("printable ASCII"));
    }
    assert_eq!(block_on(host.journal.read(0)).expect("a journal").len(), records.len(), "a bad key is not recorded");
}

#[test]
fn a_request_with_a_wrong_signature_is_refused() {
    let host = Host::new();
    let ca = host.open();
    for (n, algorithm) in [&P256[..], &RSA].into_iter().enumerate() {
        let request = host.request(algorithm);
        let der = host.folder.path().join("request.der").to_string_lossy().into_owned();
        openssl(&["req", "-outform", "DER", "-out", &der], request.as_bytes());
        let mut bytes = fs::read(&der).expect("DER");
        // One letter of the name that the card gave itself.
        let at = bytes.windows(4).position(|found| found == b"what").expect("the name");
        bytes[at] = b'W';
        let text = host.file("changed.der", &bytes);
        let base64 = openssl(&["base64", "-in", &text], b"");
        let changed = format!("-----BEGIN CERTIFICATE REQUEST-----\n{base64}-----END CERTIFICATE REQUEST-----\n");
        let reason = ca.refused(&with_request(&format!("key {n}"), changed));
        assert_eq!(reason, "the signature of the request is wrong");
    }
}

#[test]
fn no_damage_of_a_request_does_any() {
    let host = Host::new();
    let ca = host.open();
    let request = host.request(&P256);
    let der = host.folder.path().join("request.der").to_string_lossy().into_owned();
    openssl(&["req", "-outform", "DER", "-out", &der], request.as_bytes());
    let good = fs::read(&der).expect("DER");
    let encode = |bytes: &[u8]| {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let word = chunk.iter().enumerate().fold(0_u32, |word, (n, byte)| word | u32::from(*byte) << (16 - 8 * n));
            for n in 0..4 {
                let letter = ALPHABET[(word >> (18 - 6 * n) & 63) as usize];
                text.push(if n <= chunk.len() { char::from(letter) } else { '=' });
            }
        }
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
    };
    let requested = public_key_of(&ca.issued(&with_request("good", encode(&good))));
    for at in 0..good.len() {
        for byte in [0, 0x7f, 0x80, 0xff, good[at] ^ 1] {
            let mut bad = good.clone();
            bad[at] = byte;
            if bad != good {
                match block_on(ca.issue(&with_request(&format!("{at} {byte}"), encode(&bad)))) {
                    IssueOutcome::Refused { .. } => {}
                    // A byte that is not signed, such as of the algorithm's name.
                    IssueOutcome::Issued(certificate) => assert_eq!(public_key_of(&certificate), requested),
                    other => panic!("{other:?}"),
                }
            }
        }
        ca.refused(&with_request(&format!("cut at {at}"), encode(&good[..at])));
    }
}

#[test]
fn odd_names_that_may_be_stand_in_the_certificate() {
    let host = Host::new();
    let ca = host.open();
    let mut odd = order("1");
    odd.common_name = "Žofie \"Žo\" 😀, O=Other / CN=root".to_owned();
    odd.upn = Some("žofie😀@corp.example".to_owned());
    odd.email = Some("o'neil+x=y@example.com".to_owned());
    let certificate = ca.issued(&odd);
    assert!(host.verify(&certificate, &[]).0);
    let shown = openssl(&["x509", "-noout", "-subject", "-nameopt", "utf8,sep_multiline"], certificate.pem.as_bytes());
    assert!(shown.contains("CN=Žofie \"Žo\" 😀, O=Other / CN=root"), "{shown}");
    assert!(!shown.contains("\n    O="), "one name, not several: {shown}");
    let der = host.folder.path().join("odd.der").to_string_lossy().into_owned();
    openssl(&["x509", "-outform", "DER", "-out", &der], certificate.pem.as_bytes());
    let bytes = fs::read(&der).expect("DER");
    let upn = "žofie😀@corp.example".as_bytes();
    assert!(bytes.windows(upn.len()).any(|found| found == upn));
    assert!(text_of(&certificate).contains("email:o'neil+x=y@example.com"));
    // As long as may be.
    let mut long = order("2");
    long.common_name = "é".repeat(64);
    long.upn = Some("é".repeat(1024));
    assert!(host.verify(&ca.issued(&long), &[]).0);
}

#[test]
fn without_a_sealing_key_the_ca_makes_no_keys() {
    let host = Host::new();
    let sealed = host.open();
    sealed.issued(&order("0"));
    let builder = LocalCa::builder(host.identity());
    let ca = block_on(builder.open(host.journal.clone(), Arc::new(host.clock.clone()))).expect("the CA opens");
    assert!(ca.refused(&order("1")).contains("makes no keys"));
    ca.issued(&with_request("2", host.request(&P256)));
    let earlier = block_on(ca.find("0"));
    assert!(matches!(earlier, FindCertificateOutcome::Unavailable { .. }), "never a certificate without its key");
}

#[test]
fn while_the_ca_is_not_valid_it_is_unavailable() {
    let host = Host::new();
    let ca = host.open();
    let revoked = ca.issued(&order("1"));
    host.clock.advance(DAY * 365 * 5);
    let outcome = block_on(ca.issue(&order("2")));
    assert!(matches!(&outcome, IssueOutcome::Unavailable { reason } if reason.contains("valid from")), "{outcome:?}");
    assert!(matches!(block_on(ca.revocation_list()), Err(LocalCaError::NotValid { .. })));
    assert_eq!(block_on(ca.revoke(&revoked, RevocationReason::Unspecified)), CaOutcome::AlreadyExpired);
    assert!(matches!(block_on(ca.find("2")), FindCertificateOutcome::NotFound), "and nothing was refused");
    assert_eq!(ca.issued(&order("1")), revoked, "what was issued is still given");

    let early = Host { clock: ManualClock::new(time("2020-01-01T00:00:00Z")), ..Host::new() };
    assert!(matches!(block_on(early.open().issue(&order("1"))), IssueOutcome::Unavailable { .. }));
}

#[test]
fn cas_that_cannot_be_used_are_refused() {
    let (host, other) = (Host::new(), Host::new());
    let ca = host.open();
    let leaf = ca.issued(&order("1"));
    let leaf_key = ca.found("1").1.expect("a key").expose().to_vec();
    let ec_key = openssl(&["ec"], &host.key);
    let key_path = host.folder.path().join("x.key").to_string_lossy().into_owned();
    let no_list = ["req", "-x509", "-new", "-nodes", "-batch", "-subj", "/CN=x", "-keyout", &key_path];
    let no_list = openssl(&[&no_list[..], &["-addext", "keyUsage=critical,keyCertSign"], &P256].concat(), b"");
    let no_list_key = fs::read(&key_path).expect("a key");
    let several =
        ["req", "-x509", "-new", "-nodes", "-batch", "-multivalue-rdn", "-subj", "/CN=x+OU=y", "-keyout", &key_path];
    let several = openssl(&[&several[..], &P256].concat(), b"");
    let several_key = fs::read(&key_path).expect("a key");
    let table: [(&str, &[u8], &str); 10] = [
        (&host.certificate, b"", "its key is not PKCS#8"),
        (&host.certificate, b"\xff", "its key is not PEM"),
        (&host.certificate, host.certificate.as_bytes(), "its key is not PKCS#8"),
        (&host.certificate, ec_key.as_bytes(), "its key is not PKCS#8"),
        (&host.certificate, &other.key, "not the key of its certificate"),
        ("", &host.key, "its certificate is not PEM"),
        (&String::from_utf8_lossy(&host.key), &host.key, "not an X.509 certificate"),
        (&leaf.pem, &leaf_key, "not one of a CA"),
        (&no_list, &no_list_key, "may not sign certificates and revocation lists"),
        (&several, &several_key, "several values"),
    ];
    for (certificate, key, expected) in table {
        let error = Host::with(certificate, key).open_on(MemoryJournal::new()).expect_err(expected);
        assert!(error.to_string().contains(expected) && matches!(error, LocalCaError::Identity { .. }), "{error}");
    }
    let root = |name, from: &str, until: &str| CaIdentity::self_signed(name, time(from), time(until));
    for (name, from, until) in [
        ("", START, "2030-01-01T00:00:00Z"),
        ("a\0b", START, "2030-01-01T00:00:00Z"),
        ("x", START, START),
        ("x", START, "+12000-01-01T00:00:00Z"),
    ] {
        assert!(matches!(root(name, from, until), Err(LocalCaError::Identity { .. })), "{name:?} {until}");
    }
}

#[test]
fn wrong_settings_are_refused() {
    let host = Host::new();
    let refused = |builder: LocalCaBuilder| {
        let opened = block_on(builder.open(MemoryJournal::new(), Arc::new(host.clock.clone())));
        match opened.expect_err("a wrong setting") {
            LocalCaError::Settings { reason } => reason,
            other => panic!("{other:?}"),
        }
    };
    for url in ["", "cards.crl", "http://", "http:///x", "ftp://x/y", "http://exämple/x", "http://x/a b", "http://x/\0"]
    {
        assert!(refused(host.builder().crl_url(url)).contains("URL"), "{url}");
    }
    assert!(refused(host.builder().sealing_key(Secret::new(vec![1; 16]))).contains("32 bytes"));
    assert!(refused(host.builder().crl_lifetime(Duration::ZERO)).contains("lifetime"));
    assert!(refused(host.builder().crl_lifetime(Duration::MAX)).contains("lifetime"));
    assert!(refused(host.builder().profile(Profile::new("x"))).contains("has no key usage"));
    let no_oid = Profile::new("x").key_usage(KeyUsage::DigitalSignature).extended_key_usage("9.9");
    assert!(refused(host.builder().profile(no_oid)).contains("`9.9` is no object identifier"));
    // A list that would end after the last year there is.
    let builder = host.builder().crl_lifetime(DAY * 365 * 20_000);
    let ca = block_on(builder.open(MemoryJournal::new(), Arc::new(host.clock.clone()))).expect("the CA opens");
    assert!(matches!(block_on(ca.revocation_list()), Err(LocalCaError::Signing { .. })));
}

#[test]
fn debug_output_shows_no_key_and_no_person() {
    let host = Host::new();
    let ca = host.open();
    ca.issued(&order("1"));
    let secret = String::from_utf8_lossy(&host.key).lines().nth(1).expect("base64").to_owned();
    let shown = format!("{ca:?} {:?} {:?} {:?}", host.identity(), host.builder(), host.journal);
    // With a blank: three letters stand in a random base64 text once in some hundred runs.
    for absent in [&*secret, "PRIVATE", "Ann Example", "ann@"] {
        assert!(!shown.contains(absent), "{shown}");
    }
}

// ---- the journal ----

/// A journal file with a few records, and the CA's host.
fn filled() -> (Host, PathBuf, Vec<IssuedCertificate>) {
    let host = Host::new();
    let path = host.folder.path().join("ca.journal");
    let ca = host.open_on(FileJournal::open(&path).expect("a file")).expect("the CA opens");
    let certificates = ["1", "2", "3"].map(|key| ca.issued(&order(key))).to_vec();
    block_on(ca.revoke(&certificates[0], RevocationReason::KeyCompromise));
    block_on(ca.hold(&certificates[1]));
    (host, path, certificates)
}

#[test]
fn a_ca_is_opened_again_from_its_file() {
    let (host, path, certificates) = filled();
    let ca = host.open_on(FileJournal::open(&path).expect("a file")).expect("the CA opens");
    let states: Vec<_> = certificates.iter().map(|certificate| ca.state(certificate)).collect();
    assert_eq!(states, [StateAtCa::Revoked, StateAtCa::OnHold, StateAtCa::Valid]);
    for (key, certificate) in ["1", "2", "3"].iter().zip(&certificates) {
        assert_eq!(ca.issued(&order(key)), *certificate);
        let private_key = ca.found(key).1.expect("a key");
        assert_eq!(openssl(&["pkey", "-pubout"], private_key.expose()), public_key_of(certificate));
    }
    let lines = fs::read_to_string(&path).expect("a file");
    assert_eq!(lines.lines().count(), 6);
    for line in lines.lines() {
        let _: serde_json::Value = serde_json::from_str(line).expect("JSON");
    }
    assert!(!lines.contains("PRIVATE"), "no private key in the clear");
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).expect("a file").permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_file_is_open_once() {
    let (_host, path, _) = filled();
    let first = FileJournal::open(&path).expect("a file");
    let second = FileJournal::open(&path).expect_err("it is open");
    assert!(second.to_string().contains("another journal has it open"), "{second}");
    drop(first);
    FileJournal::open(&path).expect("it was closed");
}

#[test]
fn a_torn_last_line_is_cut_off() {
    let (host, path, certificates) = filled();
    let whole = fs::read(&path).expect("a file");
    let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').expect("lines") + 1;
    for cut in last..whole.len() {
        fs::write(&path, &whole[..cut]).expect("written");
        let ca = host.open_on(FileJournal::open(&path).expect("a torn line is no damage")).expect("the CA opens");
        // The hold was never answered, and so may be there or not; a line that is whole but for its end is.
        let expected = if cut == whole.len() - 1 { StateAtCa::OnHold } else { StateAtCa::Valid };
        assert_eq!(ca.state(&certificates[1]), expected, "cut at {cut}");
        assert_eq!(block_on(ca.hold(&certificates[1])), CaOutcome::Done);
        ca.list();
        drop(ca);
        let ca = host.open_on(FileJournal::open(&path).expect("mended")).expect("the CA opens");
        assert_eq!(ca.state(&certificates[1]), StateAtCa::OnHold);
    }
    // What a power cut leaves of a file that grew, and was not filled.
    fs::write(&path, [&whole[..], &[0; 4096]].concat()).expect("written");
    let ca = host.open_on(FileJournal::open(&path).expect("a torn line is no damage")).expect("the CA opens");
    assert_eq!(ca.state(&certificates[1]), StateAtCa::OnHold);
    drop(ca);
    assert_eq!(fs::read(&path).expect("a file"), whole);
}

#[test]
fn a_damaged_file_is_refused_and_the_line_named() {
    let (_host, path, _) = filled();
    let whole = fs::read_to_string(&path).expect("a file");
    let lines: Vec<_> = whole.lines().collect();
    let changed = |n: usize, line: &str| {
        let mut lines = lines.clone();
        lines[n] = line;
        lines.join("\n") + "\n"
    };
    let without = |n: usize| [&lines[..n], &lines[n + 1..]].concat().join("\n") + "\n";
    let swapped = [lines[0], lines[2], lines[1], lines[3], lines[4], lines[5]].join("\n") + "\n";
    let table = [
        (changed(1, "nonsense"), "line 2: no record of a CA"),
        (changed(1, ""), "line 2: no record of a CA"),
        (changed(5, "nonsense"), "line 6: no record of a CA"),
        (changed(2, &lines[2].replace("MII", "MIJ")), "line 3: its check value does not fit"),
        (changed(4, &lines[4].replace("keyCompromise", "superseded")), "line 5: its check value does not fit"),
        (changed(4, &lines[4].replace("keyCompromise", "nonsense")), "line 5: no record of a CA"),
        (changed(3, &lines[3].replace("\"number\":4", "\"number\":5")), "line 4: it has number 5"),
        (without(0), "line 1: it has number 2"),
        (without(3), "line 4: it has number 5"),
        (swapped, "line 2: it has number 3"),
        (whole.clone() + lines[5] + "\n", "line 7: it has number 6"),
        ("\n".to_owned() + &whole, "line 1: no record of a CA"),
    ];
    for (text, expected) in table {
        fs::write(&path, &text).expect("written");
        let error = FileJournal::open(&path).expect_err(expected);
        assert!(matches!(error, JournalError::Damaged { .. }), "{error:?}");
        assert!(
            error.to_string().contains(expected) && error.to_string().contains("ca.journal"),
            "{expected}: {error}"
        );
        assert_eq!(fs::read_to_string(&path).expect("a file"), text, "what is damaged is left for a person");
    }
    assert!(FileJournal::open(path.join("below")).is_err());
    assert!(FileJournal::open(path.parent().expect("a folder")).is_err());
}

fn begun() -> CaRecord {
    CaRecord::Begun { issuer: "CN=x".to_owned(), authority: "AB".to_owned() }
}

fn listed(number: u64) -> CaRecord {
    CaRecord::ListMade { number, at: time(START) }
}

/// Runs a check on each ready journal, empty.
fn on_each_journal(check: impl Fn(&dyn CaJournal)) {
    let folder = tempfile::tempdir().expect("a folder");
    check(&MemoryJournal::new());
    check(&FileJournal::open(folder.path().join("ca.journal")).expect("a file"));
}

#[test]
fn appended_is_durable() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ca.journal");
    for (n, record) in (1..).zip([begun(), listed(1), listed(2)]) {
        let journal = FileJournal::open(&path).expect("a file");
        assert_eq!(block_on(journal.append(n, &record)), Ok(()));
    }
    let journal = FileJournal::open(&path).expect("a file");
    assert_eq!(block_on(journal.read(0)), Ok(vec![begun(), listed(1), listed(2)]));
}

#[test]
fn a_number_is_given_once() {
    on_each_journal(|journal| {
        let answers: Vec<_> = std::thread::scope(|scope| {
            let callers: Vec<_> =
                (0..8).map(|n| scope.spawn(move || block_on(journal.append(1, &listed(n))))).collect();
            callers.into_iter().map(|caller| caller.join().expect("no panic")).collect()
        });
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
        assert!(answers.iter().all(|answer| matches!(answer, Ok(()) | Err(JournalError::Taken))), "{answers:?}");
        let stored = block_on(journal.read(0)).expect("records");
        let taken = answers.iter().position(Result::is_ok).expect("one");
        assert_eq!(stored, [listed(taken as u64)], "and nothing of the others");
    });
}

#[test]
fn numbers_have_no_gaps() {
    on_each_journal(|journal| {
        for bad in [0, 2, u64::MAX] {
            assert_eq!(block_on(journal.append(bad, &begun())), Err(JournalError::Taken), "{bad}");
        }
        assert_eq!(block_on(journal.append(1, &begun())), Ok(()));
        for bad in [0, 1, 3] {
            assert_eq!(block_on(journal.append(bad, &listed(1))), Err(JournalError::Taken), "{bad}");
        }
    });
}

#[test]
fn read_gives_all_in_order() {
    on_each_journal(|journal| {
        assert_eq!(block_on(journal.read(0)), Ok(vec![]));
        for (n, record) in (1..).zip([begun(), listed(1), listed(2)]) {
            assert_eq!(block_on(journal.append(n, &record)), Ok(()));
        }
        assert_eq!(block_on(journal.read(0)), Ok(vec![begun(), listed(1), listed(2)]));
        assert_eq!(block_on(journal.read(2)), Ok(vec![listed(2)]));
        for none in [3, 4, u64::MAX] {
            assert_eq!(block_on(journal.read(none)), Ok(vec![]));
        }
    });
}

/// A journal that stores a record and, once, never says so.
struct Silent {
    inner: MemoryJournal,
    silent: std::sync::atomic::AtomicBool,
}

#[async_trait::async_trait]
impl CaJournal for Silent {
    async fn read(&self, after: u64) -> Result<Vec<CaRecord>, JournalError> {
        self.inner.read(after).await
    }

    async fn append(&self, number: u64, record: &CaRecord) -> Result<(), JournalError> {
        self.inner.append(number, record).await?;
        if self.silent.swap(false, Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

#[test]
fn a_call_that_was_dropped_in_the_middle_is_found() {
    let host = Host::new();
    let silent = std::sync::atomic::AtomicBool::new(false);
    let journal = Arc::new(Silent { inner: host.journal.clone(), silent });
    let ca = host.open_on(Arc::clone(&journal)).expect("the CA opens");
    journal.silent.store(true, Ordering::Relaxed);
    assert_eq!(ca.issue(&order("1")).now_or_never(), None, "dropped while it waits");
    let (found, key) = ca.found("1");
    assert_eq!(ca.issued(&order("1")), found);
    assert!(key.is_some());
}

#[test]
fn a_renewed_ca_goes_on_with_its_journal() {
    let mut host = Host::new();
    let ca = host.open();
    let [good, revoked] = ["1", "2"].map(|key| ca.issued(&order(key)));
    block_on(ca.revoke(&revoked, RevocationReason::KeyCompromise));
    let id = openssl(&["x509", "-noout", "-ext", "subjectKeyIdentifier"], host.certificate.as_bytes());
    let id = id.lines().last().expect("an id").trim().replace(':', "");
    let config = format!(
        "[req]\ndistinguished_name = name\nx509_extensions = ca\n[name]\n[ca]\nbasicConstraints = critical,CA:TRUE\n\
         keyUsage = critical,keyCertSign,cRLSign\nsubjectKeyIdentifier = {id}\n"
    );
    let (config, key) = (host.file("ca.cnf", config), host.file("ca.key", &host.key));
    let renew = ["req", "-x509", "-new", "-utf8", "-subj", "/CN=Example card CA", "-days", "20000"];
    host.certificate = openssl(&[&renew[..], &["-config", &config, "-key", &key]].concat(), b"");
    // The program dates by the machine's clock.
    host.clock = ManualClock::new(SystemClock.now() + TimeDelta::minutes(1));

    let ca = host.open();
    assert_eq!(ca.issued(&order("1")), good);
    let far = host.clock.now() + TimeDelta::days(10_000);
    let new = ca.issued(&but(order("3"), |order| order.valid_until = far));
    assert!(host.verify(&new, &[]).0, "{:?}", host.verify(&new, &[]));
    assert_eq!(new.issuer, good.issuer);
    let list = ca.list();
    host.list_text(&list);
    assert!(host.verify_by_list(&new, &list).0, "{:?}", host.verify_by_list(&new, &list));
}

#[test]
fn a_journal_of_another_ca_or_key_is_refused() {
    let (host, other) = (Host::new(), Host::new());
    host.open().issued(&order("1"));
    let error = other.open_on(host.journal.clone()).expect_err("the same name, another key");
    assert_eq!(error, LocalCaError::AnotherCa { issuer: "CN=Example card CA".to_owned() });
    let builder = LocalCa::builder(host.identity()).sealing_key(sealing_key(8));
    let error =
        block_on(builder.open(host.journal.clone(), Arc::new(host.clock.clone()))).expect_err("another sealing key");
    assert!(error.to_string().contains("another sealing key"), "{error}");
}

#[test]
fn records_that_cannot_be_are_refused() {
    let host = Host::new();
    let ca = host.open();
    let certificate = ca.issued(&order("1"));
    block_on(ca.revoke(&certificate, RevocationReason::Unspecified));
    let good = block_on(host.journal.read(0)).expect("a journal");
    let key = "2".to_owned();
    let serial = certificate.serial.clone();
    let at = time(START);
    let table = [
        (good[0].clone(), "begins, once"),
        (good[1].clone(), "a second answer under one key"),
        (CaRecord::Refused { key: "1".to_owned(), reason: String::new() }, "a second answer under one key"),
        (
            CaRecord::Issued { key: key.clone(), certificate: certificate.clone(), sealed_key: None },
            "one serial number",
        ),
        (
            CaRecord::Issued {
                key: key.clone(),
                certificate: IssuedCertificate { serial: "é".to_owned(), ..certificate },
                sealed_key: None,
            },
            "a serial number that is none",
        ),
        (CaRecord::KeyDropped { key }, "was not issued"),
        (CaRecord::HoldRemoved { serial, at }, "that is revoked"),
        (CaRecord::Held { serial: "AB".to_owned(), at }, "was not issued"),
        (CaRecord::ListMade { number: 0, at }, "given before"),
    ];
    for (record, expected) in table {
        let journal = MemoryJournal::new();
        for (n, record) in good.iter().chain([&record]).enumerate() {
            block_on(journal.append(n as u64 + 1, record)).expect("stored");
        }
        match host.open_on(journal).expect_err(expected) {
            LocalCaError::Journal(JournalError::Damaged { reason }) => {
                assert!(reason.contains(expected) && reason.contains("record 4"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A journal that does not answer as it should, once each.
struct Failing {
    inner: MemoryJournal,
    answer: std::sync::Mutex<Option<(JournalError, bool)>>,
}

#[async_trait::async_trait]
impl CaJournal for Failing {
    async fn read(&self, after: u64) -> Result<Vec<CaRecord>, JournalError> {
        self.inner.read(after).await
    }

    async fn append(&self, number: u64, record: &CaRecord) -> Result<(), JournalError> {
        let planned = self.answer.lock().expect("no panic").take();
        match planned {
            None => self.inner.append(number, record).await,
            Some((error, stored)) => {
                if stored {
                    self.inner.append(number, record).await?;
                }
                Err(error)
            }
        }
    }
}

#[test]
fn a_journal_that_fails_is_told_as_it_is() {
    let host = Host::new();
    let journal = Arc::new(Failing { inner: host.journal.clone(), answer: std::sync::Mutex::new(None) });
    let ca = host.open_on(Arc::clone(&journal)).expect("the CA opens");
    let plan = |error: JournalError, stored| *journal.answer.lock().expect("no panic") = Some((error, stored));
    let reason = || "the disk is full".to_owned();
    let unavailable = || JournalError::Unavailable { reason: reason() };
    let unknown = || JournalError::OutcomeUnknown { reason: reason() };

    plan(unavailable(), false);
    assert!(matches!(block_on(ca.issue(&order("1"))), IssueOutcome::Unavailable { .. }));
    assert!(matches!(block_on(ca.find("1")), FindCertificateOutcome::NotFound));
    let certificate = ca.issued(&order("1"));

    plan(unknown(), true);
    assert!(matches!(block_on(ca.issue(&order("2"))), IssueOutcome::Unknown { .. }));
    assert_eq!(ca.found("2").0, ca.issued(&order("2")), "it was stored, so it is found");
    plan(unknown(), false);
    assert!(matches!(block_on(ca.issue(&order("3"))), IssueOutcome::Unknown { .. }));
    assert!(matches!(block_on(ca.find("3")), FindCertificateOutcome::NotFound), "it was not stored");
    ca.issued(&order("3"));

    for error in [unavailable(), unknown()] {
        plan(error, false);
        assert!(matches!(block_on(ca.hold(&certificate)), CaOutcome::Unavailable { .. }));
        assert_eq!(ca.state(&certificate), StateAtCa::Valid);
    }
    plan(unavailable(), false);
    assert!(matches!(block_on(ca.revocation_list()), Err(LocalCaError::Journal(_))));
    assert_eq!(block_on(ca.revocation_list()).expect("a list").number, 1);

    plan(unavailable(), false);
    let outcome = block_on(ca.issue(&of_profile("4", "nonsense")));
    assert!(matches!(outcome, IssueOutcome::Unavailable { .. }), "a refusal that is not recorded is none: {outcome:?}");
    assert!(matches!(block_on(ca.find("4")), FindCertificateOutcome::NotFound));
}
