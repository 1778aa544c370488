//! The order service: takes every order it is sent, as often as it is sent, and learns how each ends.

use std::collections::BTreeMap;

use http::{Method, StatusCode, request::Parts};
use serde_json::{Value, json};

use crate::{event::Event, http::Reply, order::Order, service::Business};

/// What it has in its books.
#[derive(Clone, Debug, Default)]
pub(crate) struct Orders {
    /// By purchase.
    pub(crate) book: BTreeMap<String, Entry>,
    /// The number of the next one.
    taken: u64,
}

/// A purchase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Orders that were taken for it. One is right.
    pub(crate) orders: u32,
    /// Its event has come.
    pub(crate) is_announced: bool,
    /// Nobody knew whether the order was taken, and it was called off.
    pub(crate) is_doubted: bool,
    pub(crate) end: Option<End>,
}

/// How a purchase ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Paid,
    NotPaid,
    SoldOut,
    CalledOff,
}

// === impl Orders ===

impl Orders {
    /// How many purchases are under way.
    pub(crate) fn open(&self) -> usize {
        self.book.values().filter(|entry| entry.end.is_none()).count()
    }

    /// How many have ended so.
    pub(crate) fn ended(&self, end: End) -> u64 {
        self.book.values().filter(|entry| entry.end == Some(end)).count() as u64
    }

    fn place(&mut self, body: &[u8]) -> Reply {
        let Ok(order) = serde_json::from_slice::<Order>(body) else {
            return Reply::new(StatusCode::BAD_REQUEST, json!("this is no order"));
        };
        self.taken += 1;
        self.book.entry(order.purchase.clone()).or_default().orders += 1;
        let answer = json!({ "order": self.taken, "purchase": order.purchase, "state": "taken" });
        Reply::new(StatusCode::CREATED, answer)
    }

    fn look(&self, purchase: &str) -> Reply {
        let Some(entry) = self.book.get(purchase) else {
            return Reply::new(StatusCode::NOT_FOUND, json!("there is no such order"));
        };
        let state = entry.end.map_or("under way", End::word);
        Reply::new(StatusCode::OK, json!({ "purchase": purchase, "state": state }))
    }
}

impl Business for Orders {
    fn take(&mut self, event: &Event) -> Reply {
        let Some(order) = Order::from_data(&event.data) else {
            return Reply::new(StatusCode::UNPROCESSABLE_ENTITY, json!("this is no order"));
        };
        let entry = self.book.entry(order.purchase).or_default();
        let end = match event.kind.as_str() {
            "order.created" => {
                entry.is_announced = true;
                None
            }
            "order.created.uncertain" => {
                entry.is_doubted = true;
                Some(End::CalledOff)
            }
            "stock.refused" => Some(End::SoldOut),
            "payment.charged" => Some(End::Paid),
            "payment.failed" => Some(End::NotPaid),
            _ => None,
        };
        entry.end = entry.end.or(end);
        Reply::new(StatusCode::OK, Value::Null)
    }

    fn request(&mut self, head: &Parts, body: &[u8]) -> Reply {
        match (&head.method, head.uri.path().strip_prefix("/orders")) {
            (&Method::POST, Some("")) => self.place(body),
            (&Method::GET, Some(rest)) => self.look(rest.trim_start_matches('/')),
            _ => Reply::new(StatusCode::NOT_FOUND, Value::Null),
        }
    }
}

// === impl End ===

impl End {
    fn word(self) -> &'static str {
        match self {
            Self::Paid => "paid",
            Self::NotPaid => "cancelled: not paid",
            Self::SoldOut => "cancelled: sold out",
            Self::CalledOff => "called off: please order again",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::order;

    fn event(kind: &str, purchase: &str) -> Event {
        let data = serde_json::to_value(order(purchase, "lamp", 1)).unwrap();
        Event { id: kind.to_owned(), kind: kind.to_owned(), data }
    }

    #[test]
    fn every_request_is_an_order() {
        let mut orders = Orders::default();
        let body = serde_json::to_vec(&order("p-1", "lamp", 1)).unwrap();
        assert_eq!(orders.place(&body).body["order"], 1);
        assert_eq!(orders.place(&body).body["order"], 2);
        assert_eq!(orders.book["p-1"].orders, 2);
        assert_eq!(orders.place(b"{}").status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn an_order_ends_once() {
        let mut orders = Orders::default();
        orders.take(&event("order.created", "p-1"));
        assert_eq!(
            (orders.open(), orders.look("p-1").body["state"].clone()),
            (1, json!("under way"))
        );
        orders.take(&event("payment.failed", "p-1"));
        orders.take(&event("payment.charged", "p-1"));
        assert_eq!((orders.open(), orders.ended(End::NotPaid), orders.ended(End::Paid)), (0, 1, 0));
    }
}
