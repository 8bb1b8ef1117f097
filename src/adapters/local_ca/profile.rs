//! Profiles: what a certificate may be used for.

use serde::{Deserialize, Serialize};

use crate::certificate::CertificateKind;

const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";
const EMAIL_PROTECTION: &str = "1.3.6.1.5.5.7.3.4";
const SMART_CARD_LOGON: &str = "1.3.6.1.4.1.311.20.2.2";

/// What a certificate may be used for. Plain data: a host may read its own from a file.
///
/// ```
/// use cardwright::adapters::local_ca::{KeyUsage, Profile};
///
/// let badge_reader = Profile::new("badge reader").key_usage(KeyUsage::DigitalSignature).extended_key_usage("1.3.6.1.5.5.7.3.2");
/// assert_eq!(badge_reader.extended_key_usage.len(), 1);
/// assert_eq!(Profile::authentication().name, "authentication");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Profile {
    /// The name that orders use.
    pub name: String,
    /// What the key may do. Of these a certificate gets the ones that its key is able to: an elliptic key cannot encipher
    /// keys, an RSA key cannot agree on one. A key that is able to none of them is refused.
    pub key_usage: Vec<KeyUsage>,
    /// For which purposes, as object identifiers such as `1.3.6.1.5.5.7.3.2` (client authentication).
    pub extended_key_usage: Vec<String>,
}

impl Profile {
    /// A profile without any use yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), key_usage: Vec::new(), extended_key_usage: Vec::new() }
    }

    /// To log on: digital signature; client authentication and smart card logon.
    pub fn authentication() -> Self {
        Self::new(CertificateKind::Authentication.name())
            .key_usage(KeyUsage::DigitalSignature)
            .extended_key_usage(CLIENT_AUTH)
            .extended_key_usage(SMART_CARD_LOGON)
    }

    /// To sign: content commitment (also called non-repudiation); e-mail protection.
    pub fn signature() -> Self {
        Self::new(CertificateKind::Signature.name())
            .key_usage(KeyUsage::ContentCommitment)
            .extended_key_usage(EMAIL_PROTECTION)
    }

    /// To encrypt: key encipherment (RSA) or key agreement (elliptic curves); e-mail protection.
    pub fn encryption() -> Self {
        Self::new(CertificateKind::Encryption.name())
            .key_usage(KeyUsage::KeyEncipherment)
            .key_usage(KeyUsage::KeyAgreement)
            .extended_key_usage(EMAIL_PROTECTION)
    }

    /// The same with one more use of the key.
    #[must_use]
    pub fn key_usage(mut self, usage: KeyUsage) -> Self {
        self.key_usage.push(usage);
        self
    }

    /// The same with one more purpose, as an object identifier.
    #[must_use]
    pub fn extended_key_usage(mut self, oid: impl Into<String>) -> Self {
        self.extended_key_usage.push(oid.into());
        self
    }

    /// The purposes as numbers, or what is wrong with the profile.
    pub(super) fn purposes(&self) -> Result<Vec<Vec<u64>>, String> {
        if self.key_usage.is_empty() {
            return Err(format!("the profile `{}` has no key usage", self.name));
        }
        let purpose = |oid: &String| {
            parse_oid(oid).ok_or_else(|| format!("the profile `{}`: `{oid}` is no object identifier", self.name))
        };
        self.extended_key_usage.iter().map(purpose).collect()
    }
}

/// What a key may do (RFC 5280 section 4.2.1.3), as far as it is for certificates of people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KeyUsage {
    /// Sign, such as to prove who one is.
    DigitalSignature,
    /// Sign what one is bound by; formerly non-repudiation.
    ContentCommitment,
    /// Encrypt keys (RSA).
    KeyEncipherment,
    /// Encrypt data (RSA).
    DataEncipherment,
    /// Agree on keys (elliptic curves).
    KeyAgreement,
}

/// The numbers of an object identifier, if it is one that can be encoded (X.660: the first number is 0 to 2, the second
/// below 40 unless the first is 2).
fn parse_oid(text: &str) -> Option<Vec<u64>> {
    let number = |part: &str| {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<u64>().ok().filter(|number| digits && *number < 1 << 56)
    };
    let numbers: Vec<u64> = text.split('.').map(number).collect::<Option<_>>()?;
    match *numbers.as_slice() {
        [0 | 1, 0..40, _, ..] | [2, _, _, ..] if numbers.len() <= 32 => Some(numbers),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_identifiers_that_cannot_be_encoded_are_recognised() {
        for good in [CLIENT_AUTH, EMAIL_PROTECTION, SMART_CARD_LOGON, "2.999.1", "2.25.72057594037927935"] {
            assert!(parse_oid(good).is_some(), "{good}");
        }
        let long = ["1"; 33].join(".");
        let bad =
            ["", "1", "1.2", ".", "1..2", "3.1.1", "1.40.1", "0.99.1", "1.2.x", "1.2.-3", "1.2.+3", " 1.2.3", &long];
        for bad in bad.into_iter().chain(["1.2.18446744073709551616", "2.18446744073709551615.1"]) {
            assert_eq!(parse_oid(bad), None, "{bad}");
        }
    }
}
