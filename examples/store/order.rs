//! What is bought: the one thing that requests, events and services speak of.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a customer wants once, however often it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Made by the customer's browser: what makes two requests the same purchase.
    pub(crate) purchase: String,
    pub(crate) customer: String,
    pub(crate) address: String,
    pub(crate) sku: String,
    pub(crate) quantity: u32,
    pub(crate) cents: u64,
    pub(crate) card: Card,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Card {
    /// For the order service alone. Events have something else in its place.
    #[serde(default)]
    pub(crate) number: Value,
    /// What payment charges by.
    pub(crate) token: String,
}

/// Cards with this token have no money.
pub(crate) const DECLINED: &str = "tok_declined";
/// How every number of a card begins here.
pub(crate) const CARD_NUMBER: &str = "4000-0000-0000-";

// === impl Order ===

impl Order {
    pub(crate) fn from_data(data: &Value) -> Option<Self> {
        serde_json::from_value(data.clone()).ok()
    }

    pub(crate) fn is_declined(&self) -> bool {
        self.card.token == DECLINED
    }

    /// Whether the number of the card came along where it must not.
    pub(crate) fn shows_card(&self) -> bool {
        self.card.number.as_str().is_some_and(|number| number.starts_with(CARD_NUMBER))
    }
}

#[cfg(test)]
pub(crate) fn order(purchase: &str, sku: &str, quantity: u32) -> Order {
    Order {
        purchase: purchase.to_owned(),
        customer: "customer-1".to_owned(),
        address: "1 Main Street".to_owned(),
        sku: sku.to_owned(),
        quantity,
        cents: 100,
        card: Card { number: Value::Null, token: "tok_good".to_owned() },
    }
}
