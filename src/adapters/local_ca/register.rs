//! What the records of a journal amount to.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::hex;
use super::journal::CaRecord;
use crate::certificate::{IssuedCertificate, RevocationReason};

/// The state of a CA. It changes by records only.
#[derive(Default)]
pub(super) struct Register {
    /// How many records it is made of: the number of the last.
    pub(super) records: u64,
    /// The CA's name and the digest of its key.
    pub(super) authority: Option<(String, String)>,
    /// The number of the last revocation list.
    pub(super) lists: u64,
    by_key: BTreeMap<String, Entry>,
    keys_by_serial: BTreeMap<String, String>,
}

/// What became of an order.
pub(super) enum Entry {
    Issued(Issued),
    Refused(String),
}

pub(super) struct Issued {
    pub(super) certificate: IssuedCertificate,
    pub(super) sealed_key: Option<String>,
    pub(super) standing: Standing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Good,
    Held(DateTime<Utc>),
    Revoked(DateTime<Utc>, RevocationReason),
}

impl Register {
    pub(super) fn under(&self, key: &str) -> Option<&Entry> {
        self.by_key.get(key)
    }

    pub(super) fn numbered(&self, serial: &str) -> Option<&Issued> {
        match self.by_key.get(self.keys_by_serial.get(serial)?)? {
            Entry::Issued(issued) => Some(issued),
            Entry::Refused(_) => None,
        }
    }

    pub(super) fn issued(&self) -> impl Iterator<Item = &Issued> {
        self.keys_by_serial.keys().filter_map(|serial| self.numbered(serial))
    }

    /// Takes up the next record. One that cannot be is refused and changes nothing.
    pub(super) fn apply(&mut self, record: CaRecord) -> Result<(), &'static str> {
        if self.authority.is_none() != matches!(record, CaRecord::Begun { .. }) {
            return Err("a journal begins, once, with the name of its CA");
        }
        match record {
            CaRecord::Begun { issuer, authority } => self.authority = Some((issuer, authority)),
            CaRecord::Issued { key, certificate, sealed_key } => {
                if self.by_key.contains_key(&key) {
                    return Err("a second answer under one key");
                }
                if self.keys_by_serial.contains_key(&certificate.serial) {
                    return Err("a second certificate with one serial number");
                }
                if hex::decode(&certificate.serial).is_none_or(|serial| serial.is_empty()) {
                    return Err("a serial number that is none");
                }
                self.keys_by_serial.insert(certificate.serial.clone(), key.clone());
                let issued = Issued { certificate, sealed_key, standing: Standing::Good };
                self.by_key.insert(key, Entry::Issued(issued));
            }
            CaRecord::Refused { key, reason } => {
                if self.by_key.contains_key(&key) {
                    return Err("a second answer under one key");
                }
                self.by_key.insert(key, Entry::Refused(reason));
            }
            CaRecord::KeyDropped { key } => match self.by_key.get_mut(&key) {
                Some(Entry::Issued(issued)) => issued.sealed_key = None,
                _ => return Err("a private key of a certificate that was not issued"),
            },
            CaRecord::Held { serial, at } => *self.standing(&serial)? = Standing::Held(at),
            CaRecord::HoldRemoved { serial, .. } => *self.standing(&serial)? = Standing::Good,
            CaRecord::Revoked { serial, at, reason } => *self.standing(&serial)? = Standing::Revoked(at, reason),
            CaRecord::ListMade { number, .. } => {
                if number <= self.lists {
                    return Err("a revocation list with a number that was given before");
                }
                self.lists = number;
            }
        }
        self.records += 1;
        Ok(())
    }

    /// The standing of a certificate that is not revoked.
    fn standing(&mut self, serial: &str) -> Result<&mut Standing, &'static str> {
        let issued = self.keys_by_serial.get(serial).and_then(|key| self.by_key.get_mut(key));
        match issued {
            Some(Entry::Issued(Issued { standing: Standing::Revoked(..), .. })) => {
                Err("a change of a certificate that is revoked")
            }
            Some(Entry::Issued(issued)) => Ok(&mut issued.standing),
            _ => Err("a change of a certificate that was not issued"),
        }
    }
}
