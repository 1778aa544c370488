//! Inventory: takes stock off the shelf for an order, and puts back what was not paid.

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use serde_json::{Value, json};

use crate::{event::Event, http::Reply, order::Order, service::Business};

/// The shelf.
#[derive(Clone, Debug)]
pub(crate) struct Inventory {
    /// What there was in the morning, by article.
    pub(crate) initial: BTreeMap<String, i64>,
    /// What there is now.
    pub(crate) on_shelf: BTreeMap<String, i64>,
    /// Purchases it has heard of.
    pub(crate) heard: BTreeSet<String>,
    /// Purchases there was nothing left for.
    pub(crate) refused: BTreeSet<String>,
    /// How often something was put back.
    pub(crate) put_back: u64,
    /// Events with the number of a card in them.
    pub(crate) cards_seen: u64,
}

// === impl Inventory ===

impl Inventory {
    pub(crate) fn new(initial: BTreeMap<String, i64>) -> Self {
        Self {
            on_shelf: initial.clone(),
            initial,
            heard: BTreeSet::new(),
            refused: BTreeSet::new(),
            put_back: 0,
            cards_seen: 0,
        }
    }

    fn reserve(&mut self, order: &Order) -> Reply {
        self.heard.insert(order.purchase.clone());
        let quantity = i64::from(order.quantity);
        let Some(left) = self.on_shelf.get_mut(&order.sku).filter(|left| **left >= quantity) else {
            self.refused.insert(order.purchase.clone());
            return Reply::new(StatusCode::UNPROCESSABLE_ENTITY, json!("sold out"));
        };
        *left -= quantity;
        Reply::new(StatusCode::OK, json!(order))
    }

    fn put_back(&mut self, order: &Order) -> Reply {
        *self.on_shelf.entry(order.sku.clone()).or_default() += i64::from(order.quantity);
        self.put_back += 1;
        Reply::new(StatusCode::OK, Value::Null)
    }
}

impl Business for Inventory {
    fn take(&mut self, event: &Event) -> Reply {
        let Some(order) = Order::from_data(&event.data) else {
            return Reply::new(StatusCode::UNPROCESSABLE_ENTITY, json!("this is no order"));
        };
        self.cards_seen += u64::from(order.shows_card());
        match event.kind.as_str() {
            "order.created" => self.reserve(&order),
            "payment.failed" => self.put_back(&order),
            _ => Reply::new(StatusCode::OK, Value::Null),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::order;

    fn event(kind: &str, quantity: u32) -> Event {
        let data = serde_json::to_value(order("p-1", "lamp", quantity)).unwrap();
        Event { id: "1".to_owned(), kind: kind.to_owned(), data }
    }

    #[test]
    fn stock_is_taken_while_there_is_some_and_put_back() {
        let mut inventory = Inventory::new([("lamp".to_owned(), 3)].into());
        let reply = inventory.take(&event("order.created", 2));
        assert_eq!((reply.status, &reply.body["quantity"]), (StatusCode::OK, &json!(2)));
        assert_eq!(inventory.take(&event("order.created", 2)).status, 422);
        assert_eq!(inventory.refused.len(), 1);
        inventory.take(&event("payment.failed", 2));
        assert_eq!((inventory.on_shelf["lamp"], inventory.put_back), (3, 1));
    }
}
