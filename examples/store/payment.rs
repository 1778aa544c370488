//! Payment: charges the card of an order, each time it is told to.

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use serde_json::json;

use crate::{event::Event, http::Reply, order::Order, service::Business};

/// What was charged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Payment {
    /// How often, by purchase.
    pub(crate) charged: BTreeMap<String, u32>,
    /// Purchases whose card had no money.
    pub(crate) declined: BTreeSet<String>,
    pub(crate) cents: u64,
}

impl Business for Payment {
    fn take(&mut self, event: &Event) -> Reply {
        let Some(order) = Order::from_data(&event.data) else {
            return Reply::new(StatusCode::UNPROCESSABLE_ENTITY, json!("this is no order"));
        };
        if order.is_declined() {
            self.declined.insert(order.purchase);
            return Reply::new(StatusCode::UNPROCESSABLE_ENTITY, json!("the card is declined"));
        }
        *self.charged.entry(order.purchase.clone()).or_default() += 1;
        self.cents += order.cents;
        Reply::new(StatusCode::OK, json!(order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::{DECLINED, order};

    #[test]
    fn a_card_is_charged_or_declined() {
        let mut payment = Payment::default();
        let mut order = order("p-1", "lamp", 1);
        let event = |order: &Order| Event {
            id: "1".to_owned(),
            kind: "stock.reserved".to_owned(),
            data: json!(order),
        };
        assert_eq!(payment.take(&event(&order)).status, 200);
        assert_eq!(payment.take(&event(&order)).status, 200);
        DECLINED.clone_into(&mut order.card.token);
        assert_eq!(payment.take(&event(&order)).status, 422);
        assert_eq!((payment.charged["p-1"], payment.cents, payment.declined.len()), (2, 200, 1));
    }
}
