//! Analytics: comes late, has everything replayed, and fetches it at its own pace.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use serde_json::{Value, json};

use crate::{error::Error, event::Event, gateway::Gateway, order::Order};

/// So many times in a row there is nothing to fetch, each after 200 ms, though the replay has not ended.
const STANDSTILL: u32 = 100;

/// What it learnt from the whole history.
#[derive(Debug, Default)]
pub(crate) struct Analytics {
    /// Events by type.
    pub(crate) kinds: BTreeMap<String, u64>,
    /// Purchases with `order.created`.
    pub(crate) created: BTreeSet<String>,
    /// Purchases with `order.created.uncertain`.
    pub(crate) uncertain: BTreeSet<String>,
    /// Not marked as replayed.
    pub(crate) unmarked: u64,
    /// Events with the number of a card in them.
    pub(crate) cards_seen: u64,
    seen: BTreeSet<String>,
}

impl Analytics {
    /// Adds the subscription to the running gateway and reads all that ever happened.
    pub(crate) async fn of_everything(gateway: &mut Gateway) -> Result<Self, Error> {
        gateway.add_analytics().await?;
        let job = gateway.replay_to("analytics").await?;
        let mut analytics = Self::default();
        let mut idle = 0;
        while idle < STANDSTILL {
            // Asked first: what is over then is fetched below.
            let state = gateway.expect(Method::GET, &job, "").await?["state"].clone();
            if analytics.fetch(gateway).await? {
                idle = 0;
            } else if state == "running" {
                idle += 1;
            } else {
                break;
            }
        }
        // What did not come is found by the audit.
        Ok(analytics)
    }

    /// A batch. Whether there was one.
    async fn fetch(&mut self, gateway: &Gateway) -> Result<bool, Error> {
        let path = "/v1/subscriptions/analytics";
        let asked = r#"{"max_events":500,"wait_ms":200}"#;
        let answer = gateway.expect(Method::POST, &format!("{path}/receive"), asked).await?;
        let events = answer["events"].as_array().map_or(&[][..], Vec::as_slice);
        if events.is_empty() {
            return Ok(false);
        }
        for event in events {
            self.learn(&event["event"]);
        }
        let tokens: Vec<_> = events.iter().map(|event| &event["lease"]["token"]).collect();
        let asked = json!({ "tokens": tokens }).to_string();
        gateway.expect(Method::POST, &format!("{path}/ack"), &asked).await?;
        Ok(true)
    }

    fn learn(&mut self, event: &Value) {
        self.unmarked += u64::from(event["sluicereplay"] != true);
        let Some(event) = Event::parse(event) else { return };
        if !self.seen.insert(event.id) {
            return;
        }
        let order = Order::from_data(&event.data);
        self.cards_seen += u64::from(order.as_ref().is_some_and(Order::shows_card));
        if let Some(order) = order {
            match event.kind.as_str() {
                "order.created" => drop(self.created.insert(order.purchase)),
                "order.created.uncertain" => drop(self.uncertain.insert(order.purchase)),
                _ => {}
            }
        }
        *self.kinds.entry(event.kind).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::order;

    #[test]
    fn an_event_counts_once() {
        let mut analytics = Analytics::default();
        let event = |id: &str| {
            let data = json!(order("p-1", "lamp", 1));
            json!({ "id": id, "type": "order.created", "data": data, "sluicereplay": true })
        };
        analytics.learn(&event("1"));
        analytics.learn(&event("1"));
        analytics.learn(&event("2"));
        assert_eq!(analytics.kinds["order.created"], 2);
        assert_eq!((analytics.created.len(), analytics.unmarked), (1, 0));
    }
}
