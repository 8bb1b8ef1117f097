//! Production types: what the bureau can make, and which card elements it wants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::card::Card;

/// A bureau article or layout, with the card elements it wants. The host's data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProductionType {
    /// The name that options and forms use, such as `standard`.
    pub name: String,
    /// The bureau's id of the article.
    pub article: String,
    /// The card elements, in order.
    pub elements: Vec<CardElement>,
    /// Whether the holder's photo is sent with the order.
    #[serde(default)]
    pub photo: bool,
}

/// One text on the card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardElement {
    /// The bureau's name of the element.
    pub name: String,
    /// The card attribute it is filled from; [`Card::NUMBER`] is the card's number.
    pub attribute: String,
    /// Whether an order without it is refused. A value of which nothing would be seen, such as blanks, counts as none.
    pub required: bool,
    /// The greatest length in characters; longer values are refused, never cut.
    pub max_length: usize,
}

impl CardElement {
    /// An element that must be there.
    pub fn required(name: impl Into<String>, attribute: impl Into<String>, max_length: usize) -> Self {
        Self { name: name.into(), attribute: attribute.into(), required: true, max_length }
    }

    /// An element that may be missing.
    pub fn optional(name: impl Into<String>, attribute: impl Into<String>, max_length: usize) -> Self {
        Self { name: name.into(), attribute: attribute.into(), required: false, max_length }
    }
}

impl ProductionType {
    /// A production type without elements.
    pub fn new(name: impl Into<String>, article: impl Into<String>) -> Self {
        Self { name: name.into(), article: article.into(), elements: Vec::new(), photo: false }
    }

    /// The same with one more element.
    #[must_use]
    pub fn element(mut self, element: CardElement) -> Self {
        self.elements.push(element);
        self
    }

    /// The same, sending the holder's photo.
    #[must_use]
    pub fn with_photo(self) -> Self {
        Self { photo: true, ..self }
    }

    /// Checks what an order needs before it is sent. A card that has no number yet is checked as if it had one of
    /// `longest_number` characters.
    ///
    /// # Errors
    /// [`ElementError`] for the first element that is missing or too long.
    pub fn check(&self, card: &Card, longest_number: usize) -> Result<(), ElementError> {
        for element in &self.elements {
            let length = match (element.attribute.as_str(), &card.number) {
                (Card::NUMBER, None) => longest_number,
                _ => self.value(element, card).map_or(0, |value| value.chars().count()),
            };
            if element.required && length == 0 {
                return Err(ElementError::Missing {
                    element: element.name.clone(),
                    attribute: element.attribute.clone(),
                    production_type: self.name.clone(),
                });
            }
            if length > element.max_length {
                return Err(ElementError::TooLong {
                    element: element.name.clone(),
                    found: length,
                    allowed: element.max_length,
                    production_type: self.name.clone(),
                });
            }
        }
        Ok(())
    }

    /// The card elements of an order for this card, by the bureau's names.
    ///
    /// # Errors
    /// [`ElementError`] as [`check`](Self::check).
    pub fn elements_of(&self, card: &Card) -> Result<BTreeMap<String, String>, ElementError> {
        self.check(card, 0)?;
        Ok(self
            .elements
            .iter()
            .filter_map(|element| self.value(element, card).map(|value| (element.name.clone(), value.to_owned())))
            .collect())
    }

    fn value<'a>(&self, element: &CardElement, card: &'a Card) -> Option<&'a str> {
        let value = match element.attribute.as_str() {
            Card::NUMBER => card.number.as_deref(),
            attribute => card.attributes.get(attribute).map(String::as_str),
        };
        value.filter(|value| !is_blank(value))
    }
}

/// Whether nothing of a text would be seen on a card: blanks and characters without a shape of their own, such as U+200B and U+200E.
pub(crate) fn is_blank(text: &str) -> bool {
    let unseen = |c: char| {
        c.is_whitespace()
            || c.is_control()
            || matches!(u32::from(c),
                0x00AD | 0x034F | 0x061C | 0x115F..=0x1160 | 0x17B4..=0x17B5 | 0x180B..=0x180F | 0x200B..=0x200F
                | 0x202A..=0x202E | 0x2060..=0x206F | 0x2800 | 0x3164 | 0xFE00..=0xFE0F | 0xFEFF | 0xFFA0
                | 0xFFF9..=0xFFFB | 0x1D173..=0x1D17A | 0xE0000..=0xE0FFF)
    };
    text.chars().all(unseen)
}

/// A card element that an order cannot be sent with. Names the element, never its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ElementError {
    /// A required element has no value.
    #[error(
        "card element `{element}` of production type `{production_type}` is required; attribute `{attribute}` is empty"
    )]
    Missing {
        /// The element.
        element: String,
        /// The attribute it is filled from.
        attribute: String,
        /// The production type.
        production_type: String,
    },
    /// A value is longer than the bureau takes.
    #[error(
        "card element `{element}` of production type `{production_type}` has {found} characters; at most {allowed} are allowed"
    )]
    TooLong {
        /// The element.
        element: String,
        /// The length found, in characters.
        found: usize,
        /// The greatest length allowed.
        allowed: usize,
        /// The production type.
        production_type: String,
    },
}

/// Which card attribute is copied from which user attribute (the mapping `CardsMapUserToCard`), and what cards are found by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserToCardMap {
    /// Card attribute by user attribute name: (user attribute, card attribute).
    pub attributes: Vec<(String, String)>,
    /// The card attributes that cards can be searched by. Each costs an index entry a card.
    pub searchable: Arc<BTreeSet<String>>,
}

impl Default for UserToCardMap {
    /// `commonName`, `upn`, `firstName`, `lastName`, `email`, `employeeNumber`, each under the same name; cards are found by
    /// common name, last name and employee number. Certificates need `commonName` and take `upn` and `email`.
    fn default() -> Self {
        let same = |name: &str| (name.to_owned(), name.to_owned());
        Self {
            attributes: vec![
                same("commonName"),
                same("upn"),
                same("firstName"),
                same("lastName"),
                same(EMAIL),
                same("employeeNumber"),
            ],
            searchable: Arc::new(["commonName", "employeeNumber", "lastName"].map(str::to_owned).into()),
        }
    }
}

/// The card attribute that holds the holder's e-mail address.
pub const EMAIL: &str = "email";

impl UserToCardMap {
    /// The greatest length of a value that is copied, in characters.
    pub const MAX_LENGTH: usize = 1024;

    /// Copies what the mapping names from the user onto the card; attributes that the user does not have are removed.
    /// Attributes that the mapping does not name are not looked at.
    ///
    /// # Errors
    /// [`AttributeError`] for the first value that cannot be kept: not every store takes NUL, and no card shows a page of
    /// text. The card is unchanged then.
    pub fn copy(&self, user: &BTreeMap<String, String>, card: &mut Card) -> Result<(), AttributeError> {
        for (from, _) in &self.attributes {
            let Some(value) = user.get(from) else { continue };
            if value.contains('\0') {
                return Err(AttributeError::Nul { attribute: from.clone() });
            }
            // A text is no longer in characters than in bytes.
            let found = if value.len() > Self::MAX_LENGTH { value.chars().count() } else { 0 };
            if found > Self::MAX_LENGTH {
                return Err(AttributeError::TooLong { attribute: from.clone(), found, allowed: Self::MAX_LENGTH });
            }
        }
        for (from, to) in &self.attributes {
            match user.get(from) {
                Some(value) => drop(card.attributes.insert(to.clone(), value.clone())),
                None => drop(card.attributes.remove(to)),
            }
        }
        card.searchable = Arc::clone(&self.searchable);
        Ok(())
    }
}

/// A user attribute that cannot be copied onto a card. Names the attribute, never its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttributeError {
    /// The value holds the character NUL.
    #[error("user attribute `{attribute}` contains NUL; a text without NUL is allowed")]
    Nul {
        /// The user attribute.
        attribute: String,
    },
    /// The value is longer than a card keeps.
    #[error("user attribute `{attribute}` has {found} characters; at most {allowed} are allowed")]
    TooLong {
        /// The user attribute.
        attribute: String,
        /// The length found, in characters.
        found: usize,
        /// The greatest length allowed.
        allowed: usize,
    },
}
