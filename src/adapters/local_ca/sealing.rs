//! Private keys, sealed for the journal.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::{Zeroize as _, Zeroizing};

use super::hex;
use crate::secret::Secret;

/// Seals and opens private keys with ChaCha20-Poly1305 (RFC 8439) under the host's key.
pub(super) struct Sealing(LessSafeKey);

impl Sealing {
    /// `None` if the key has not the right length.
    pub(super) fn new(key: &Secret) -> Option<Self> {
        UnboundKey::new(&CHACHA20_POLY1305, key.expose()).ok().map(|key| Self(LessSafeKey::new(key)))
    }

    /// Seals a private key for one certificate: under another serial number it cannot be opened.
    pub(super) fn seal(&self, private_key: &[u8], serial: &str) -> Option<String> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).ok()?;
        // With room for the tag, so that no copy is left behind when the vector grows.
        let mut bytes = Zeroizing::new(Vec::with_capacity(private_key.len() + CHACHA20_POLY1305.tag_len()));
        bytes.extend_from_slice(private_key);
        let place = Aad::from(serial.as_bytes());
        let sealed = self.0.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), place, &mut *bytes);
        sealed.ok().map(|()| hex::encode(&nonce) + &hex::encode(&bytes))
    }

    pub(super) fn open(&self, sealed: &str, serial: &str) -> Option<Secret> {
        let bytes = hex::decode(sealed)?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let opened = self.0.open_in_place(nonce, Aad::from(serial.as_bytes()), &mut sealed);
        let secret = opened.ok().map(|private_key| Secret::new(private_key.to_vec()));
        sealed.zeroize();
        secret
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealing(byte: u8) -> Option<Sealing> {
        Sealing::new(&Secret::new(vec![byte; 32]))
    }

    #[test]
    fn what_was_sealed_opens_only_with_its_key_and_serial() {
        let (right, wrong) = (sealing(1).expect("32 bytes"), sealing(2).expect("32 bytes"));
        let sealed = right.seal(b"private", "AB").expect("sealed");
        assert_eq!(right.open(&sealed, "AB").expect("opened").expose(), b"private");
        assert!(wrong.open(&sealed, "AB").is_none());
        assert!(right.open(&sealed, "AC").is_none());
        for bad in ["", "0", "00", "zz", &sealed[2..], &sealed[..sealed.len() - 2], "é"] {
            assert!(right.open(bad, "AB").is_none(), "{bad}");
        }
        assert_ne!(sealed, right.seal(b"private", "AB").expect("sealed"), "a nonce is used once");
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        assert!(Sealing::new(&Secret::new(vec![1; 31])).is_none());
        assert!(Sealing::new(&Secret::new(Vec::new())).is_none());
    }
}
