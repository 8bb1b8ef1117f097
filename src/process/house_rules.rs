use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Refusal, RefusalCode};
use crate::card::Card;
use crate::certificate::CertificateKind;
use crate::host::StatusMap;
use crate::production_type::{ProductionType, UserToCardMap};

/// What the host sets once, as data: what the bureau makes, what is copied from users to cards, what status texts mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(default)]
pub struct HouseRules {
    /// The production types, by name.
    pub production_types: BTreeMap<String, ProductionType>,
    /// What is copied from a user to a card (the mapping `CardsMapUserToCard`), and what cards are found by.
    pub user_to_card: UserToCardMap,
    /// What the bureau's status texts mean.
    pub status_map: StatusMap,
    /// Whether somebody may approve what concerns herself.
    pub self_approval: SelfApproval,
    /// The length in characters of the longest card number; set by the engine from the number ranges.
    #[serde(skip)]
    pub(crate) longest_number: usize,
    /// The profile at the CA for each kind of certificate that is offered.
    pub certificate_profiles: BTreeMap<CertificateKind, String>,
    /// What the office can do; set by the engine from its parts.
    #[serde(skip)]
    pub(crate) equipment: Equipment,
}

/// What an office has besides what every office has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Equipment {
    pub(crate) bureau: bool,
    pub(crate) personalizer: bool,
    pub(crate) certificate_authority: bool,
}

impl Default for Equipment {
    /// Everything, for plans that are made without an engine.
    fn default() -> Self {
        Self { bureau: true, personalizer: true, certificate_authority: true }
    }
}

impl Default for HouseRules {
    /// No production types, the usual mapping, no status texts, nobody approves for herself; a profile for each kind of
    /// certificate under the name of the kind.
    fn default() -> Self {
        let profile = |kind: CertificateKind| (kind, kind.name().to_owned());
        Self {
            production_types: BTreeMap::new(),
            user_to_card: UserToCardMap::default(),
            status_map: StatusMap::default(),
            self_approval: SelfApproval::default(),
            longest_number: 0,
            certificate_profiles: CertificateKind::ALL.map(profile).into(),
            equipment: Equipment::default(),
        }
    }
}

impl HouseRules {
    /// The default rules.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with one more production type.
    #[must_use]
    pub fn production_type(mut self, production_type: ProductionType) -> Self {
        self.production_types.insert(production_type.name.clone(), production_type);
        self
    }

    /// The same with these profiles at the CA; a kind of certificate without one is not offered.
    #[must_use]
    pub fn certificate_profiles(self, profiles: impl IntoIterator<Item = (CertificateKind, String)>) -> Self {
        Self { certificate_profiles: profiles.into_iter().collect(), ..self }
    }

    /// The same with another mapping from users to cards.
    #[must_use]
    pub fn user_to_card(self, user_to_card: UserToCardMap) -> Self {
        Self { user_to_card, ..self }
    }

    /// The same with these status texts.
    #[must_use]
    pub fn status_map(self, status_map: StatusMap) -> Self {
        Self { status_map, ..self }
    }

    /// The same with another rule for approving what concerns oneself.
    #[must_use]
    pub fn self_approval(self, self_approval: SelfApproval) -> Self {
        Self { self_approval, ..self }
    }

    /// Checks that a card has what an order of its production type needs.
    ///
    /// # Errors
    /// [`RefusalCode::ProductionType`] if there is no such type, [`RefusalCode::CardElement`] if an element is missing or
    /// too long.
    pub fn check_order(&self, card: &Card) -> Result<(), Refusal> {
        let name = card.production_type.as_deref().unwrap_or("");
        let production_type = self.production_types.get(name).ok_or_else(|| self.no_such_type(name))?;
        production_type
            .check(card, self.longest_number)
            .map_err(|error| Refusal::new(RefusalCode::CardElement, error.to_string()))
    }

    pub(crate) fn no_such_type(&self, name: &str) -> Refusal {
        let known: Vec<_> = self.production_types.keys().map(String::as_str).collect();
        let made = if known.is_empty() {
            "none is configured (HouseRules::production_type)".to_owned()
        } else {
            format!("the bureau makes {}", known.join(", "))
        };
        Refusal::new(RefusalCode::ProductionType, format!("there is no production type `{name}`; {made}"))
    }
}

/// Whether somebody may approve what concerns herself. Nobody may, unless the host says so by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SelfApproval {
    /// The approver is neither the requester nor the holder.
    #[default]
    Nobody,
    /// The requester may approve what is for another.
    Requester,
    /// The holder may approve what another asked for.
    Holder,
    /// Both may.
    Anybody,
}
