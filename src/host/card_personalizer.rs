use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::card::Card;
use crate::certificate::{CertificateKind, IssuedCertificate};
use crate::production::Delivery;
use crate::secret::Secret;

/// Makes cards by hand or machine: takes a blank card, makes keys on it where it can, writes certificates, prints, sets PIN
/// and PUK, and delivers those to the holder.
///
/// # Contract
/// Each clause has a check of the same name in [`conformance::card_personalizer`](crate::conformance::card_personalizer).
/// - **`handles_are_never_reused`**: each prepared card has a handle of its own, also if it is prepared under the same
///   reference, after others were finished or discarded, and when the machine is opened again.
/// - **`requests_are_for_the_wanted_kinds`**: a personalizer that makes keys on the card gives exactly one PKCS#10 request for
///   each kind of certificate wanted, each with a key of its own; one that does not gives none.
/// - **`spoiled_means_not_usable`**: *spoiled* is said only when the card is surely not usable and stays so; *unavailable* only when
///   nothing was done to a card, so that the same call can be made again. Anything else is *unknown*.
/// - **`good_means_delivered`**: *good* is said once the card is complete, with exactly the certificates of the order, and PIN
///   and PUK are delivered or deposited the way they should be.
/// - **`secrets_are_not_kept`**: PIN, PUK and private keys are on the card and with the holder only: not logged, not stored.
/// - **`discard_is_repeatable`**: discarding a handle twice, one that was finished or one that was never given is done. It
///   does nothing to a finished card, and what was discarded or never given is never finished.
///
/// # Not required
/// Keys on the card; finishing a card after a restart of the machine (answer *spoiled*).
///
/// # Cancellation
/// A dropped `prepare` or `finish` has an unknown outcome.
///
/// # Errors
/// All are outcomes.
///
/// # Implementing
/// A [`PersonalizerFactory`](crate::conformance::card_personalizer::PersonalizerFactory) says how yours is opened, and how to
/// look at a card; [`check_all`](crate::conformance::card_personalizer::check_all) checks it.
#[async_trait]
pub trait CardPersonalizer: Send + Sync + 'static {
    /// Takes a blank card for a production, and makes keys on it where it does that.
    async fn prepare(&self, order: &PrepareOrder<'_>) -> PrepareOutcome;

    /// Completes a prepared card. No handle is finished twice; if one is, *unknown* is true.
    async fn finish(&self, order: FinishOrder<'_>) -> FinishOutcome;

    /// Puts a prepared card aside that is not completed any more.
    async fn discard(&self, handle: &str) -> DiscardOutcome;
}

forward!(CardPersonalizer {
    async fn prepare(&self, order: &PrepareOrder<'_>) -> PrepareOutcome;
    async fn finish(&self, order: FinishOrder<'_>) -> FinishOutcome;
    async fn discard(&self, handle: &str) -> DiscardOutcome;
});

/// What to prepare.
#[derive(Debug)]
#[non_exhaustive]
pub struct PrepareOrder<'a> {
    /// Our reference, one for each attempt.
    pub reference: &'a str,
    /// The card, with what is copied from its holder.
    pub card: &'a Card,
    /// The kinds of certificates it is to get.
    pub certificates: &'a [CertificateKind],
}

impl<'a> PrepareOrder<'a> {
    /// An order.
    pub const fn new(reference: &'a str, card: &'a Card, certificates: &'a [CertificateKind]) -> Self {
        Self { reference, card, certificates }
    }
}

/// What became of preparing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrepareOutcome {
    /// The card is at hand.
    Prepared(Prepared),
    /// The card is not usable; the production fails.
    Spoiled {
        /// What happened.
        reason: String,
    },
    /// Nothing was done: try again later.
    Unavailable {
        /// What is in the way.
        reason: String,
    },
    /// Something was perhaps done: a person must look.
    Unknown {
        /// What happened.
        reason: String,
    },
}

/// A card at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prepared {
    /// What the personalizer calls it from now on.
    pub handle: String,
    /// The serial number of its chip, if it has one. No two cards may have the same: the production of the second fails.
    pub chip_serial: Option<String>,
    /// The certificate requests (PKCS#10, in PEM), if the keys are made on the card.
    pub requests: BTreeMap<CertificateKind, String>,
}

impl Prepared {
    /// A card without a chip serial, whose keys the CA makes.
    pub fn new(handle: impl Into<String>) -> Self {
        Self { handle: handle.into(), chip_serial: None, requests: BTreeMap::new() }
    }
}

/// How to complete a card.
#[derive(Debug)]
#[non_exhaustive]
pub struct FinishOrder<'a> {
    /// Our reference, one for each attempt.
    pub reference: &'a str,
    /// What the personalizer calls the card.
    pub handle: &'a str,
    /// The card.
    pub card: &'a Card,
    /// What to write onto it.
    pub certificates: Vec<CardCertificate>,
    /// The PIN to set, and how the holder gets it.
    pub pin: Option<(Secret, Delivery)>,
    /// The PUK to set, and how the holder gets it.
    pub puk: Option<(Secret, Delivery)>,
}

impl<'a> FinishOrder<'a> {
    /// An order without certificates, PIN and PUK.
    pub const fn new(reference: &'a str, handle: &'a str, card: &'a Card) -> Self {
        Self { reference, handle, card, certificates: Vec::new(), pin: None, puk: None }
    }
}

/// A certificate to write.
#[derive(Debug)]
pub struct CardCertificate {
    /// What it is for.
    pub kind: CertificateKind,
    /// The certificate.
    pub certificate: IssuedCertificate,
    /// Its private key (PKCS#8, in PEM), if the CA made it.
    pub private_key: Option<Secret>,
}

/// What became of completing a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishOutcome {
    /// It is complete, and PIN and PUK are on their way.
    Good,
    /// It is not usable; the production fails.
    Spoiled {
        /// What happened.
        reason: String,
    },
    /// Nothing was done: try again later.
    Unavailable {
        /// What is in the way.
        reason: String,
    },
    /// Something was perhaps done: a person must look.
    Unknown {
        /// What happened.
        reason: String,
    },
}

/// What became of discarding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscardOutcome {
    /// Done.
    Done,
    /// Not for now: it is asked again.
    Unavailable {
        /// What is in the way.
        reason: String,
    },
}
