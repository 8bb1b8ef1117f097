//! PKCS#10 requests.

use rcgen::{PKCS_ED25519, PublicKeyData as _, SubjectPublicKeyInfo};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

use super::profile::KeyUsage;

/// A key for a certificate, and what it is able to.
pub(super) struct RequestedKey {
    pub(super) key: SubjectPublicKeyInfo,
    pub(super) kind: KeyKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyKind {
    Rsa,
    Elliptic,
    Edwards,
}

impl KeyKind {
    /// Whether a key of this kind may be certified for a use (RFC 3279, RFC 5480, RFC 8410).
    pub(super) fn is_able_to(self, usage: KeyUsage) -> bool {
        match usage {
            KeyUsage::DigitalSignature | KeyUsage::ContentCommitment => true,
            KeyUsage::KeyEncipherment | KeyUsage::DataEncipherment => self == Self::Rsa,
            KeyUsage::KeyAgreement => self == Self::Elliptic,
        }
    }
}

/// A request of a card is about one KiB; far more is none.
const LONGEST: usize = 64 * 1024;

/// Reads a request and checks its signature: whoever made it has the private key. Only the key is taken from it: names and
/// extensions come from the order and the profile.
pub(super) fn read(pem: &str) -> Result<RequestedKey, String> {
    if pem.len() > LONGEST {
        return Err(format!("the request is longer than {LONGEST} bytes"));
    }
    let (_, block) = parse_x509_pem(pem.as_bytes()).map_err(|_| "the request is not PEM".to_owned())?;
    if !["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"].contains(&block.label.as_str()) {
        return Err("the PEM is not labelled CERTIFICATE REQUEST".to_owned());
    }
    let malformed = || "the request is not a PKCS#10 request".to_owned();
    let (rest, request) = X509CertificationRequest::from_der(&block.contents).map_err(|_| malformed())?;
    if !rest.is_empty() {
        return Err(malformed());
    }
    let algorithm = &request.signature_algorithm.algorithm;
    if *algorithm == OID_PKCS1_SHA1WITHRSA || *algorithm == OID_SHA1_WITH_RSA {
        return Err("the request is signed with SHA-1".to_owned());
    }
    let public_key = &request.certification_request_info.subject_pki;
    let unfit = || "the key of the request is none of RSA, P-256, P-384 and Ed25519".to_owned();
    let key = SubjectPublicKeyInfo::from_der(public_key.raw).map_err(|_| unfit())?;
    let kind = match public_key.parsed() {
        Ok(PublicKey::RSA(rsa)) if !(2048..=8192).contains(&rsa.key_size()) => {
            return Err(format!("the RSA key of the request has {} bits, and not 2048 to 8192", rsa.key_size()));
        }
        Ok(PublicKey::RSA(_)) => KeyKind::Rsa,
        Ok(PublicKey::EC(_)) => KeyKind::Elliptic,
        Ok(_) if key.algorithm() == &PKCS_ED25519 => KeyKind::Edwards,
        _ => return Err(unfit()),
    };
    request.verify_signature().map_err(|_| "the signature of the request is wrong".to_owned())?;
    Ok(RequestedKey { key, kind })
}
