use super::spec::OptionValue;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// The name of an option together with the type it is read as.
///
/// ```
/// use cardwright::options::{OptionKey, QUEUE_CARDS};
///
/// const MY_OPTION: OptionKey<bool> = OptionKey::new("MyOption");
/// assert_eq!(MY_OPTION.name(), "MyOption");
/// assert_eq!(QUEUE_CARDS.name(), "CardsAddonExtProdQueueCards");
/// ```
pub struct OptionKey<T> {
    name: &'static str,
    kind: PhantomData<fn() -> T>,
}

impl<T> OptionKey<T> {
    /// A key for the option of this name.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, kind: PhantomData }
    }

    /// The name of the option.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<T> Clone for OptionKey<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for OptionKey<T> {}

impl<T> fmt::Debug for OptionKey<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OptionKey").field(&self.name).finish()
    }
}

/// A type that an option can be read as.
pub trait OptionType: Sized {
    /// The value as this type; `None` if it is of another kind or does not fit.
    fn from_value(value: &OptionValue) -> Option<Self>;
}

impl OptionType for OptionValue {
    fn from_value(value: &OptionValue) -> Option<Self> {
        Some(value.clone())
    }
}

impl OptionType for bool {
    fn from_value(value: &OptionValue) -> Option<Self> {
        match value {
            OptionValue::Boolean(value) => Some(*value),
            _ => None,
        }
    }
}

macro_rules! whole_numbers {
    ($($number:ty),*) => {$(
        impl OptionType for $number {
            fn from_value(value: &OptionValue) -> Option<Self> {
                match value {
                    OptionValue::Integer(value) => Self::try_from(*value).ok(),
                    _ => None,
                }
            }
        }
    )*};
}
whole_numbers!(u8, u16, u32, u64, i64);

impl OptionType for String {
    fn from_value(value: &OptionValue) -> Option<Self> {
        match value {
            OptionValue::Text(value) => Some(value.clone()),
            _ => None,
        }
    }
}

impl OptionType for Vec<String> {
    fn from_value(value: &OptionValue) -> Option<Self> {
        match value {
            OptionValue::Names(names) => Some(names.clone()),
            _ => None,
        }
    }
}

impl OptionType for BTreeMap<String, CertificateChoice> {
    fn from_value(value: &OptionValue) -> Option<Self> {
        match value {
            OptionValue::Choices(choices) => {
                let typed =
                    choices.iter().map(|(name, choice)| Some((name.clone(), CertificateChoice::from_text(choice)?)));
                typed.collect()
            }
            _ => None,
        }
    }
}

macro_rules! text_choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// The value as the option scripts write it, without quotes.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            fn from_text(text: &str) -> Option<Self> {
                match text {
                    $($text => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl OptionType for $name {
            fn from_value(value: &OptionValue) -> Option<Self> {
                match value {
                    OptionValue::Text(text) => Self::from_text(text),
                    _ => None,
                }
            }
        }
    };
}

text_choice! {
    /// How the holder receives the PIN of a new card.
    PinDelivery {
        /// On a printed letter.
        Print = "print",
        /// By e-mail.
        Email = "email",
        /// Not at all: the holder sets it.
        NoPin = "nopin",
    }
}

text_choice! {
    /// How the holder receives the PUK of a new card.
    PukDelivery {
        /// Not at all.
        NoPuk = "nopuk",
        /// By e-mail.
        Email = "email",
        /// On a printed letter.
        Print = "print",
    }
}

text_choice! {
    /// Whether an issued card receives a certificate of some kind.
    CertificateChoice {
        /// Always.
        Yes = "true",
        /// Never.
        No = "false",
        /// The operator decides in the form, where it is preset to no.
        Ask = "ask",
        /// The operator decides in the form, where it is preset to yes.
        AskOn = "ask, on",
    }
}

text_choice! {
    /// The state of a card after issuing.
    CardEndState {
        /// Issued; it is activated later.
        Issued = "issued",
        /// Active at once.
        Active = "active",
    }
}

text_choice! {
    /// The state of the certificates of a card after issuing.
    CertificateEndState {
        /// On hold; they become valid when the card is activated.
        OnHold = "on hold",
        /// Valid at once.
        Valid = "valid",
    }
}

/// Digits of a new PIN, 4 to 12.
///
/// `CardsPINLength` in `CardsScriptOptions`, by default `6`.
pub const PIN_LENGTH: OptionKey<u8> = OptionKey::new("CardsPINLength");
/// Digits of a new PUK, 6 to 12.
///
/// `CardsPUKLength` in `CardsScriptOptions`, by default `8`.
pub const PUK_LENGTH: OptionKey<u8> = OptionKey::new("CardsPUKLength");
/// How the holder receives the PIN.
///
/// `CardsPINDeliveryMethod` in `CardsScriptOptions`, by default `"print"`.
pub const PIN_DELIVERY: OptionKey<PinDelivery> = OptionKey::new("CardsPINDeliveryMethod");
/// How the holder receives the PUK.
///
/// `CardsPUKDeliveryMethod` in `CardsScriptOptions`, by default `"nopuk"`.
pub const PUK_DELIVERY: OptionKey<PukDelivery> = OptionKey::new("CardsPUKDeliveryMethod");
/// Which certificates an issued card receives, by kind: `authentication`, `signature`, `encryption`.
///
/// `CardsCertificates` in `CardsScriptOptions`, by default `{ authentication = true, encryption = false, signature = true }`.
pub const CERTIFICATES: OptionKey<BTreeMap<String, CertificateChoice>> = OptionKey::new("CardsCertificates");
/// The state of a card after issuing.
///
/// `CardsCardEndState` in `CardsScriptOptions`, by default `"issued"`.
pub const CARD_END_STATE: OptionKey<CardEndState> = OptionKey::new("CardsCardEndState");
/// The state of the certificates of a card after issuing.
///
/// `CardsCertificateEndState` in `CardsScriptOptions`, by default `"on hold"`.
pub const CERTIFICATE_END_STATE: OptionKey<CertificateEndState> = OptionKey::new("CardsCertificateEndState");
/// Whether requests for many cards need an approval.
///
/// `CardsBatchRequestApproval` in `CardsScriptOptions`, by default `false`.
pub const REQUEST_APPROVAL: OptionKey<bool> = OptionKey::new("CardsBatchRequestApproval");
/// Whether a user may have several active cards.
///
/// `CardsMultipleActive` in `CardsScriptOptions`, by default `false`.
pub const MULTIPLE_ACTIVE: OptionKey<bool> = OptionKey::new("CardsMultipleActive");
/// Validity of a new card in days, 1 to 3650.
///
/// `CardsValidityDays` in `CardsScriptOptions`, by default `1095`.
pub const VALIDITY_DAYS: OptionKey<u16> = OptionKey::new("CardsValidityDays");
/// Whether an order needs an approval.
///
/// `CardsAddonExtProdApproval` in `CardsAddonExtProdScriptOptions`, by default `false`.
pub const ORDER_APPROVAL: OptionKey<bool> = OptionKey::new("CardsAddonExtProdApproval");
/// The production types of ordered cards; of several, the operator picks one and the first is preset.
///
/// `CardsAddonExtProdProductionType` in `CardsAddonExtProdScriptOptions`, by default `"standard"`.
pub const ORDER_PRODUCTION_TYPE: OptionKey<Vec<String>> = OptionKey::new("CardsAddonExtProdProductionType");
/// Whether orders wait in a queue before they are sent to the bureau.
///
/// `CardsAddonExtProdQueueCards` in `CardsAddonExtProdScriptOptions`, by default `true`.
pub const QUEUE_CARDS: OptionKey<bool> = OptionKey::new("CardsAddonExtProdQueueCards");
/// Whether a card may be ordered for a user who already has an open order.
///
/// `CardsAddonExtProdMultipleCards` in `CardsAddonExtProdScriptOptions`, by default `false`.
pub const MULTIPLE_CARDS: OptionKey<bool> = OptionKey::new("CardsAddonExtProdMultipleCards");
/// Whether the user is told by e-mail that the bureau has accepted the order.
///
/// `CardsAddonExtProdSendCardOrderedEmail` in `CardsAddonExtProdScriptOptions`, by default `true`.
pub const SEND_ORDERED_EMAIL: OptionKey<bool> = OptionKey::new("CardsAddonExtProdSendCardOrderedEmail");
/// The production types of temporary cards; of several, the operator picks one and the first is preset.
///
/// `TempCardsAddonExtProdProductionType` in `TempCardsAddonExtProdScriptOptions`, by default `"standard"`.
pub const TEMPORARY_PRODUCTION_TYPE: OptionKey<Vec<String>> = OptionKey::new("TempCardsAddonExtProdProductionType");
/// Whether orders of temporary cards wait in a queue before they are sent to the bureau.
///
/// `TempCardsAddonExtProdQueueCards` in `TempCardsAddonExtProdScriptOptions`, by default `true`.
pub const QUEUE_TEMPORARY_CARDS: OptionKey<bool> = OptionKey::new("TempCardsAddonExtProdQueueCards");
