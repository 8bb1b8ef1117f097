//! Temporary cards: cards in stock that are handed out for some days.

mod order;

pub(crate) use order::Order;

/// The package as the source product names it.
pub(crate) const PACKAGE: &str = "Temporary cards";
