//! The CA's own certificate and key, and what it signs with them.

use std::fmt;

use chrono::{DateTime, Utc};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData,
    RevokedCertParams, SanType, SerialNumber,
};
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer as _;
use zeroize::{Zeroize as _, Zeroizing};

use super::LocalCaError;
use super::hex;
use super::profile::KeyUsage;
use super::register::Standing;
use crate::certificate::RevocationReason;
use crate::secret::Secret;

/// Microsoft's user principal name.
const UPN: [u64; 10] = [1, 3, 6, 1, 4, 1, 311, 20, 2, 3];

/// The longest common name that X.520 allows.
const LONGEST_NAME: usize = 64;

/// A CA's certificate and its private key. The host keeps both, the key as the secret that it is.
///
/// ```
/// use cardwright::adapters::local_ca::CaIdentity;
///
/// let root = CaIdentity::self_signed("Trial root", "2026-01-01T00:00:00Z".parse()?, "2036-01-01T00:00:00Z".parse()?)?;
/// assert!(root.certificate_pem().starts_with("-----BEGIN CERTIFICATE-----"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CaIdentity {
    certificate: String,
    key: Secret,
}

impl CaIdentity {
    /// A CA that exists: its certificate in PEM, and its private key as unencrypted PKCS#8 in PEM (RSA of 2048 bits or more,
    /// P-256, P-384 or Ed25519). They are checked when the CA is opened.
    pub fn new(certificate_pem: impl Into<String>, key_pem: Secret) -> Self {
        Self { certificate: certificate_pem.into(), key: key_pem }
    }

    /// A new root for trials: a P-256 key, and a certificate signed with it.
    ///
    /// # Errors
    /// [`LocalCaError::Identity`] if the name or the times cannot stand in a certificate.
    pub fn self_signed(
        common_name: &str,
        valid_from: DateTime<Utc>,
        valid_until: DateTime<Utc>,
    ) -> Result<Self, LocalCaError> {
        check_text("common name", common_name, LONGEST_NAME).map_err(identity)?;
        if valid_until <= valid_from {
            return Err(identity("it would end before it begins"));
        }
        let mut key = KeyPair::generate().map_err(identity)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.serial_number = Some(random_serial().map_err(identity)?.to_vec().into());
        params.not_before = time_of(valid_from).map_err(identity)?;
        params.not_after = time_of(valid_until).map_err(identity)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(identity)?.pem();
        let secret = Secret::new(key.serialize_pem().into_bytes());
        key.zeroize();
        Ok(Self::new(certificate, secret))
    }

    /// The certificate, in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    /// The private key, as PKCS#8 in PEM, for whoever keeps it.
    pub const fn key_pem(&self) -> &Secret {
        &self.key
    }
}

impl fmt::Debug for CaIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaIdentity").field("certificate", &self.certificate).field("key", &self.key).finish()
    }
}

/// An identity that was checked.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The CA's name as text.
    pub(super) name: String,
    /// SHA-256 of its public key.
    pub(super) id: String,
    key_id: KeyIdMethod,
    pub(super) from: DateTime<Utc>,
    pub(super) until: DateTime<Utc>,
}

/// What a certificate is to say.
pub(super) struct Content<'a> {
    pub(super) serial: &'a [u8],
    pub(super) common_name: &'a str,
    pub(super) upn: Option<&'a str>,
    pub(super) email: Option<&'a str>,
    pub(super) from: DateTime<Utc>,
    pub(super) until: DateTime<Utc>,
    pub(super) key_usage: Vec<KeyUsage>,
    pub(super) purposes: &'a [Vec<u64>],
    pub(super) crl_url: Option<&'a str>,
}

impl Content<'_> {
    fn params(&self) -> Result<CertificateParams, String> {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(self.serial));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.common_name);
        params.not_before = time_of(self.from)?;
        params.not_after = time_of(self.until)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = self.key_usage.iter().map(|usage| usage_bit(*usage)).collect();
        params.extended_key_usages = self.purposes.iter().cloned().map(ExtendedKeyUsagePurpose::Other).collect();
        if let Some(upn) = self.upn {
            params.subject_alt_names.push(SanType::OtherName((UPN.to_vec(), upn.into())));
        }
        if let Some(email) = self.email {
            let email = Ia5String::try_from(email).map_err(|error| error.to_string())?;
            params.subject_alt_names.push(SanType::Rfc822Name(email));
        }
        if let Some(url) = self.crl_url {
            params.crl_distribution_points.push(CrlDistributionPoint { uris: vec![url.to_owned()] });
        }
        Ok(params)
    }
}

/// What a revocation list is to say.
pub(super) struct ListContent {
    pub(super) number: u64,
    pub(super) from: DateTime<Utc>,
    pub(super) until: DateTime<Utc>,
    /// Serial numbers and what became of them.
    pub(super) entries: Vec<(String, Standing)>,
}

impl Authority {
    pub(super) fn new(identity_given: &CaIdentity) -> Result<Self, LocalCaError> {
        let key_pem = std::str::from_utf8(identity_given.key.expose()).map_err(|_| identity("its key is not PEM"))?;
        let key = KeyPair::from_pem(key_pem)
            .map_err(|_| identity("its key is not PKCS#8 in PEM of an RSA, P-256, P-384 or Ed25519 key"))?;
        let (_, block) = parse_x509_pem(identity_given.certificate.as_bytes())
            .map_err(|_| identity("its certificate is not PEM"))?;
        let (_, certificate) = X509Certificate::from_der(&block.contents)
            .map_err(|_| identity("its certificate is not an X.509 certificate"))?;
        check_is_ca(&certificate)?;
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err(identity("its key is not the key of its certificate"));
        }
        // A name with several values in one part would make the library that writes certificates stop.
        if certificate.subject().iter().any(|part| part.iter().count() != 1) {
            return Err(identity("its name has parts with several values"));
        }
        let instant = |timestamp| DateTime::from_timestamp(timestamp, 0).ok_or_else(|| identity("its validity"));
        let validity = certificate.validity();
        let authority = Self {
            name: certificate.subject().to_string(),
            id: hex::encode(&Sha256::digest(certificate.public_key().raw)),
            key_id: key_id(&certificate),
            from: instant(validity.not_before.timestamp())?,
            until: instant(validity.not_after.timestamp())?,
            issuer: Issuer::from_ca_cert_der(&block.contents.as_slice().into(), key).map_err(identity)?,
        };
        authority.try_out(&certificate)?;
        Ok(authority)
    }

    /// Signs a certificate that nobody gets, so that a name or key that others could not follow shows now.
    fn try_out(&self, own: &X509Certificate<'_>) -> Result<(), LocalCaError> {
        let content = Content {
            serial: &[1],
            common_name: "trial",
            upn: None,
            email: None,
            from: self.from,
            until: self.until,
            key_usage: vec![KeyUsage::DigitalSignature],
            purposes: &[],
            crl_url: None,
        };
        let params = content.params().map_err(identity)?;
        let made = params.signed_by(self.issuer.key(), &self.issuer).map_err(identity)?;
        let (_, made) = X509Certificate::from_der(made.der()).map_err(identity)?;
        if made.issuer().as_raw() != own.subject().as_raw() {
            return Err(identity("its name cannot be written as it stands in its certificate"));
        }
        made.verify_signature(Some(own.public_key())).map_err(|_| identity("what it signs cannot be verified"))
    }

    /// Signs a certificate for a key; in PEM.
    pub(super) fn certify(&self, key: &impl PublicKeyData, content: &Content<'_>) -> Result<String, String> {
        let certificate = content.params()?.signed_by(key, &self.issuer).map_err(|error| error.to_string())?;
        Ok(certificate.pem())
    }

    /// Signs a revocation list; in DER and PEM.
    pub(super) fn sign_list(&self, content: &ListContent) -> Result<(Vec<u8>, String), String> {
        let entry = |(serial, standing): &(String, Standing)| {
            let (at, reason) = match *standing {
                Standing::Good => return None,
                Standing::Held(at) => (at, rcgen::RevocationReason::CertificateHold),
                Standing::Revoked(at, reason) => (at, reason_code(reason)),
            };
            let serial = hex::decode(serial).ok_or_else(|| format!("serial number {serial}"));
            Some(serial.and_then(|serial| {
                Ok(RevokedCertParams {
                    serial_number: serial.into(),
                    revocation_time: time_of(at)?,
                    reason_code: Some(reason),
                    invalidity_date: None,
                })
            }))
        };
        let params = CertificateRevocationListParams {
            this_update: time_of(content.from)?,
            next_update: time_of(content.until)?,
            crl_number: content.number.into(),
            issuing_distribution_point: None,
            revoked_certs: content.entries.iter().filter_map(entry).collect::<Result<_, _>>()?,
            key_identifier_method: self.key_id.clone(),
        };
        let list = params.signed_by(&self.issuer).map_err(|error| error.to_string())?;
        let pem = list.pem().map_err(|error| error.to_string())?;
        Ok((list.der().to_vec(), pem))
    }
}

/// A new P-256 key pair, and its private key as PKCS#8 in PEM.
pub(super) fn new_key() -> Result<(KeyPair, Zeroizing<Vec<u8>>), String> {
    let mut key = KeyPair::generate().map_err(|error| error.to_string())?;
    let pem = Zeroizing::new(key.serialize_pem().into_bytes());
    key.zeroize();
    Ok((key, pem))
}

/// 20 random bytes, the most that RFC 5280 allows; positive, and always of the same length.
pub(super) fn random_serial() -> Result<[u8; 20], String> {
    let mut serial = [0; 20];
    getrandom::fill(&mut serial).map_err(|error| format!("no random bytes: {error}"))?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

/// Checks a person's or a CA's common name.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    check_text("common name", name, LONGEST_NAME)
}

/// Checks what is to stand in a certificate as UTF-8.
pub(super) fn check_text(what: &str, text: &str, longest: usize) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err(format!("the {what} is empty"));
    }
    if text.chars().count() > longest {
        return Err(format!("the {what} is longer than {longest} characters"));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("the {what} has a control character"));
    }
    Ok(())
}

fn check_is_ca(certificate: &X509Certificate<'_>) -> Result<(), LocalCaError> {
    let constraints = certificate.basic_constraints().map_err(identity)?;
    if !constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(identity("its certificate is not one of a CA (basic constraints)"));
    }
    let usage = certificate.key_usage().map_err(identity)?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign() || !usage.value.crl_sign()) {
        return Err(identity("its key may not sign certificates and revocation lists (key usage)"));
    }
    Ok(())
}

fn key_id(certificate: &X509Certificate<'_>) -> KeyIdMethod {
    let found = certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(KeyIdMethod::PreSpecified(id.0.to_vec())),
        _ => None,
    });
    found.unwrap_or(KeyIdMethod::Sha256)
}

fn time_of(at: DateTime<Utc>) -> Result<time::OffsetDateTime, String> {
    time::OffsetDateTime::from_unix_timestamp(at.timestamp())
        .ok()
        .filter(|time| (0..=9999).contains(&time.year()))
        .ok_or_else(|| format!("the time {at} cannot stand in a certificate"))
}

fn identity(reason: impl ToString) -> LocalCaError {
    LocalCaError::Identity { reason: reason.to_string() }
}

const fn usage_bit(usage: KeyUsage) -> KeyUsagePurpose {
    match usage {
        KeyUsage::DigitalSignature => KeyUsagePurpose::DigitalSignature,
        KeyUsage::ContentCommitment => KeyUsagePurpose::ContentCommitment,
        KeyUsage::KeyEncipherment => KeyUsagePurpose::KeyEncipherment,
        KeyUsage::DataEncipherment => KeyUsagePurpose::DataEncipherment,
        KeyUsage::KeyAgreement => KeyUsagePurpose::KeyAgreement,
    }
}

const fn reason_code(reason: RevocationReason) -> rcgen::RevocationReason {
    match reason {
        RevocationReason::Unspecified => rcgen::RevocationReason::Unspecified,
        RevocationReason::KeyCompromise => rcgen::RevocationReason::KeyCompromise,
        RevocationReason::CaCompromise => rcgen::RevocationReason::CaCompromise,
        RevocationReason::AffiliationChanged => rcgen::RevocationReason::AffiliationChanged,
        RevocationReason::Superseded => rcgen::RevocationReason::Superseded,
        RevocationReason::CessationOfOperation => rcgen::RevocationReason::CessationOfOperation,
        RevocationReason::PrivilegeWithdrawn => rcgen::RevocationReason::PrivilegeWithdrawn,
        RevocationReason::AaCompromise => rcgen::RevocationReason::AaCompromise,
    }
}
