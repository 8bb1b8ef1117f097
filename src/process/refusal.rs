use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ItemId;
use crate::state_graph::TransitionError;

/// Why one item was refused. Nothing was changed for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// What a program goes by.
    pub code: RefusalCode,
    /// What a person reads: what, found, allowed.
    pub reason: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: RefusalCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    pub(crate) fn not_found(item: &ItemId, what: &str) -> Self {
        let reason = match item {
            ItemId::User(_) | ItemId::Card(_) | ItemId::Request(_) | ItemId::Job(_)
                if item.to_string().starts_with(what) =>
            {
                format!("{item} does not exist")
            }
            _ => format!("the {what} of {item} does not exist"),
        };
        Self::new(RefusalCode::NotFound, reason)
    }
}

impl From<TransitionError> for Refusal {
    fn from(error: TransitionError) -> Self {
        Self::new(RefusalCode::WrongState, error.to_string())
    }
}

/// The kinds of refusals.
///
/// As data, a code is one text, so that it may also be the key of an object: the variant in small letters with underscores, `open_order`, and a code of
/// a host's own with a mark before it, `custom:taste`. With the mark, a code of the host's own may have any name, even that of another code.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RefusalCode {
    /// The object does not exist.
    NotFound,
    /// The process takes other kinds of items.
    WrongKind,
    /// The object is in a state that the process does not take.
    WrongState,
    /// The process, or what was answered, is not offered for such an object.
    NotOffered,
    /// The access policy says no for this object.
    NotPermitted,
    /// An open job will decide the card's next state.
    Busy,
    /// The outcome of the card's open job is unknown and must be settled first.
    InDoubt,
    /// Nothing is in doubt here.
    NotInDoubt,
    /// The order is being sent and can no longer be taken back.
    BeingSent,
    /// The user is not active.
    UserNotActive,
    /// The user already has an open card order, and only one is allowed.
    OpenOrder,
    /// The production type is unknown or not among those that the options allow.
    ProductionType,
    /// A required card element is missing, or one is too long; or an attribute of the user cannot be copied onto a card.
    CardElement,
    /// The user already has an active card, and only one is allowed.
    ActiveCard,
    /// A kind of certificate, or a reason to revoke one, that is not offered here.
    Certificate,
    /// The validity of the card is over.
    Expired,
    /// An order id is missing, or is none.
    OrderId,
    /// The office has no personalizer or no certificate authority.
    NotEquipped,
    /// An option function failed for this item.
    OptionFailed,
    /// The approver is the requester or the holder, or the one who withdraws is not the requester.
    Person,
    /// The number range is exhausted.
    NumbersExhausted,
    /// Others changed the object again and again, or what is to be settled is not the doubt that was named.
    ChangedMeanwhile,
    /// The store or the directory failed; the run can be continued.
    Store,
    /// The queued order waits, since its user is not active any more or the bureau is unavailable.
    HeldBack,
    /// The process planned something that cannot be stored, such as a change without its history entry.
    BadPlan,
    /// The run was stopped before this item.
    Stopped,
    /// A refusal of a host's own process or job; of a message that was not sent, `message_not_sent`.
    Custom(String),
}

/// What stands before a code of a host's own.
const CUSTOM: &str = "custom:";

/// Each code with its name as data. The match makes sure that none is left out.
macro_rules! names {
    ($($code:ident = $name:literal),+ $(,)?) => {
        impl RefusalCode {
            fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$code),)+
                    name => name.strip_prefix(CUSTOM).map(|own| Self::Custom(own.to_owned())),
                }
            }
        }

        impl Serialize for RefusalCode {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    $(Self::$code => serializer.serialize_str($name),)+
                    Self::Custom(own) => serializer.collect_str(&format_args!("{CUSTOM}{own}")),
                }
            }
        }

        impl<'de> Deserialize<'de> for RefusalCode {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = String::deserialize(deserializer)?;
                Self::named(&name).ok_or_else(|| D::Error::unknown_variant(&name, &[$($name,)+ "custom:…"]))
            }
        }
    };
}

names! {
    NotFound = "not_found",
    WrongKind = "wrong_kind",
    WrongState = "wrong_state",
    NotOffered = "not_offered",
    NotPermitted = "not_permitted",
    Busy = "busy",
    InDoubt = "in_doubt",
    NotInDoubt = "not_in_doubt",
    BeingSent = "being_sent",
    UserNotActive = "user_not_active",
    OpenOrder = "open_order",
    ProductionType = "production_type",
    CardElement = "card_element",
    ActiveCard = "active_card",
    Certificate = "certificate",
    NotEquipped = "not_equipped",
    Expired = "expired",
    OrderId = "order_id",
    BadPlan = "bad_plan",
    OptionFailed = "option_failed",
    Person = "person",
    NumbersExhausted = "numbers_exhausted",
    ChangedMeanwhile = "changed_meanwhile",
    Store = "store",
    HeldBack = "held_back",
    Stopped = "stopped",
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotFound => "not found",
            Self::WrongKind => "wrong kind",
            Self::WrongState => "wrong state",
            Self::NotOffered => "not offered",
            Self::NotPermitted => "not permitted",
            Self::Busy => "busy",
            Self::InDoubt => "in doubt",
            Self::NotInDoubt => "not in doubt",
            Self::BeingSent => "being sent",
            Self::UserNotActive => "user not active",
            Self::OpenOrder => "open order",
            Self::ProductionType => "production type",
            Self::CardElement => "card element",
            Self::ActiveCard => "active card",
            Self::Certificate => "certificate",
            Self::Expired => "expired",
            Self::OrderId => "order id",
            Self::NotEquipped => "not equipped",
            Self::OptionFailed => "option failed",
            Self::Person => "wrong person",
            Self::NumbersExhausted => "numbers exhausted",
            Self::ChangedMeanwhile => "changed meanwhile",
            Self::Store => "store",
            Self::HeldBack => "held back",
            Self::BadPlan => "bad plan",
            Self::Stopped => "stopped",
            Self::Custom(name) => name,
        })
    }
}
