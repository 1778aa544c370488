//! Fulfillment: learns the address with the order, and ships once the order is paid.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Value, json};

use crate::{event::Event, http::Reply, order::Order, service::Business};

/// What left the house.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fulfillment {
    /// By purchase.
    pub(crate) addresses: BTreeMap<String, String>,
    /// How many parcels, by purchase.
    pub(crate) shipped: BTreeMap<String, u32>,
    /// How many pieces, by article.
    pub(crate) pieces: BTreeMap<String, i64>,
    /// Purchases that were paid before anybody knew where to send them.
    pub(crate) without_address: u64,
}

impl Business for Fulfillment {
    fn take(&mut self, event: &Event) -> Reply {
        let Some(order) = Order::from_data(&event.data) else {
            return Reply::new(StatusCode::UNPROCESSABLE_ENTITY, json!("this is no order"));
        };
        match event.kind.as_str() {
            "order.created" => drop(self.addresses.insert(order.purchase, order.address)),
            "payment.charged" => {
                if !self.addresses.contains_key(&order.purchase) {
                    self.without_address += 1;
                }
                *self.pieces.entry(order.sku).or_default() += i64::from(order.quantity);
                *self.shipped.entry(order.purchase).or_default() += 1;
            }
            _ => {}
        }
        Reply::new(StatusCode::OK, Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::order;

    fn event(kind: &str, purchase: &str) -> Event {
        Event { id: "1".to_owned(), kind: kind.to_owned(), data: json!(order(purchase, "lamp", 2)) }
    }

    #[test]
    fn what_is_paid_is_shipped_where_the_order_said() {
        let mut fulfillment = Fulfillment::default();
        fulfillment.take(&event("order.created", "p-1"));
        fulfillment.take(&event("payment.charged", "p-1"));
        assert_eq!((fulfillment.pieces["lamp"], fulfillment.without_address), (2, 0));
        fulfillment.take(&event("payment.charged", "p-2"));
        assert_eq!((fulfillment.shipped.len(), fulfillment.without_address), (2, 1));
    }
}
