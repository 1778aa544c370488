//! The commands of consumers, and the status of topics and subscriptions.

use std::time::Duration;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::{
    Asked,
    client::{Client, Sent, segment},
    get, object, post, print, show, subscription,
};
use crate::cli::token::duration;

/// `sluice queue status`
#[derive(Debug, Args)]
pub(super) struct Status {
    /// Show only this topic or subscription, in full
    name: Option<String>,
}

/// `sluice queue receive`
#[derive(Debug, Args)]
pub(super) struct Receive {
    /// The subscription
    subscription: String,
    /// The maximum number of events: 1 to 500
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    max: u64,
    /// How long to wait for the first event, at most 20s
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = any_duration)]
    wait: Duration,
    /// The lease: 1s to 12h; by default the subscription's
    #[arg(long, value_name = "DURATION", value_parser = any_duration)]
    lease: Option<Duration>,
    /// Acknowledge the events after printing them
    #[arg(long)]
    ack: bool,
}

/// `sluice queue ack`
#[derive(Debug, Args)]
pub(super) struct Tokens {
    /// The subscription
    subscription: String,
    /// Lease tokens, as printed by `receive`
    #[arg(required = true, value_name = "TOKEN")]
    tokens: Vec<String>,
}

/// `sluice queue nack`
#[derive(Debug, Args)]
pub(super) struct TokensDelayed {
    #[command(flatten)]
    of: Tokens,
    /// How long to wait before the next attempt; by default the schedule decides
    #[arg(long, value_name = "DURATION", value_parser = any_duration)]
    delay: Option<Duration>,
    /// Why, for the operator
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// `sluice queue release`
#[derive(Debug, Args)]
pub(super) struct TokensReleased {
    #[command(flatten)]
    of: Tokens,
    /// How long to wait before the next delivery
    #[arg(long, value_name = "DURATION", value_parser = any_duration)]
    delay: Option<Duration>,
}

/// `sluice queue reject`
#[derive(Debug, Args)]
pub(super) struct TokensReasoned {
    #[command(flatten)]
    of: Tokens,
    /// Why, for the operator
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// `sluice queue extend`
#[derive(Debug, Args)]
pub(super) struct TokensExtended {
    #[command(flatten)]
    of: Tokens,
    /// The new lease, from now: 1s to 12h; by default the subscription's
    #[arg(long, value_name = "DURATION", value_parser = any_duration)]
    lease: Option<Duration>,
}

/// `sluice queue event`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice queue event 0198c2f0-7a51-7c3e-9d42-1f6b1f6f2a10
  sluice queue event --topic orders --at 3:4711")]
pub(super) struct Event {
    /// The event's ID
    #[arg(required_unless_present = "topic")]
    id: Option<String>,
    /// The topic, to show the event at one place
    #[arg(long, value_name = "TOPIC", requires = "at", conflicts_with = "id")]
    topic: Option<String>,
    /// The place in the topic, as other commands print it
    #[arg(long, value_name = "PARTITION:OFFSET", requires = "topic")]
    at: Option<String>,
}

/// `sluice queue saga`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice queue saga order-7
  sluice queue saga order-7 --json

The ID is the `correlationid` of its events; that of the first event, unless its publisher chose
one.")]
pub(super) struct Saga {
    /// The saga's ID
    id: String,
}

/// Prints all topics and subscriptions, or one of them.
pub(super) async fn status(client: &Client, status: &Status, json: bool) -> Result<(), String> {
    let call = async |target: String| {
        let body = client.call(Method::GET, &target, Sent::nothing()).await?;
        serde_json::from_slice::<Value>(&body).map_err(|error| error.to_string())
    };
    let (topics, subscriptions) =
        (call("/v1/topics".to_owned()).await?, call("/v1/subscriptions".to_owned()).await?);
    let mut all = json!({
        "topics": topics["topics"],
        "subscriptions": subscriptions["subscriptions"],
    });
    if let Some(name) = &status.name {
        for list in ["topics", "subscriptions"] {
            if let Some(list) = all[list].as_array_mut() {
                list.retain(|entry| entry["name"] == name.as_str());
            }
        }
        let is_empty = |list: &str| all[list].as_array().is_none_or(Vec::is_empty);
        if is_empty("topics") && is_empty("subscriptions") {
            return Err(format!("no topic or subscription named `{name}`"));
        }
    }
    let is_full = status.name.is_some();
    print(format!("{all:#}\n").as_bytes(), json, |all| show::status(all, is_full))
}

/// Leases events, prints them, and acknowledges them if requested.
pub(super) async fn receive(client: &Client, args: &Receive, json: bool) -> Result<(), String> {
    let body = object([
        ("max_events", Some(json!(args.max))),
        ("wait_ms", Some(millis(args.wait))),
        ("lease_ms", args.lease.map(millis)),
    ]);
    let target = subscription(&args.subscription, "/receive");
    let answer = client.call(Method::POST, &target, Sent::json(&body)).await?;
    if answer.is_empty() {
        let none = json!({ "events": [] });
        return print(format!("{none}\n").as_bytes(), json, show::leased);
    }
    print(&answer, json, show::leased)?;
    if !args.ack {
        return Ok(());
    }
    let leased: Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
    let tokens = leased["events"].as_array().into_iter().flatten();
    let tokens: Vec<_> = tokens.map(|event| event["lease"]["token"].clone()).collect();
    let target = subscription(&args.subscription, "/ack");
    let settled = client.call(Method::POST, &target, Sent::json(&json!({ "tokens": tokens })));
    let settled: Value =
        serde_json::from_slice(&settled.await?).map_err(|error| error.to_string())?;
    let results = settled["results"].as_array().into_iter().flatten();
    match results.filter(|result| result["status"] != "ok").count() {
        0 => Ok(()),
        count => Err(format!("{count} of them could not be settled: their lease was over")),
    }
}

// === impl Tokens ===

impl Tokens {
    pub(super) fn asked(&self, verb: &str) -> Asked {
        let target = subscription(&self.subscription, &format!("/{verb}"));
        post(target, &json!({ "tokens": self.tokens }), show::settled)
    }

    /// Each token with these members.
    fn each(&self, verb: &str, members: &[(&str, Option<Value>)]) -> Asked {
        let item = |token: &String| {
            let mut item = json!({ "token": token });
            for (name, value) in members {
                if let Some(value) = value {
                    item[*name] = value.clone();
                }
            }
            item
        };
        let items: Vec<_> = self.tokens.iter().map(item).collect();
        let target = subscription(&self.subscription, &format!("/{verb}"));
        post(target, &json!({ "items": items }), show::settled)
    }
}

// === impl TokensDelayed ===

impl TokensDelayed {
    pub(super) fn asked(&self) -> Asked {
        let reason = self.reason.as_ref().map(|reason| json!(reason));
        self.of.each("nack", &[("delay_ms", self.delay.map(millis)), ("reason", reason)])
    }
}

// === impl TokensReleased ===

impl TokensReleased {
    pub(super) fn asked(&self) -> Asked {
        self.of.each("release", &[("delay_ms", self.delay.map(millis))])
    }
}

// === impl TokensReasoned ===

impl TokensReasoned {
    pub(super) fn asked(&self) -> Asked {
        self.of.each("reject", &[("reason", self.reason.as_ref().map(|reason| json!(reason)))])
    }
}

// === impl TokensExtended ===

impl TokensExtended {
    pub(super) fn asked(&self) -> Asked {
        self.of.each("extend", &[("lease_ms", self.lease.map(millis))])
    }
}

// === impl Event ===

impl Event {
    pub(super) fn asked(&self) -> Result<Asked, String> {
        if let (Some(topic), Some(at)) = (&self.topic, &self.at) {
            let parsed = at.split_once(':').and_then(|(partition, offset)| {
                Some((partition.parse::<u32>().ok()?, offset.parse::<u64>().ok()?))
            });
            let (partition, offset) =
                parsed.ok_or_else(|| format!("`{at}` is not PARTITION:OFFSET, such as 3:4711"))?;
            let target = format!("/v1/topics/{}/events/{partition}:{offset}", segment(topic));
            return Ok(get(target, show::event));
        }
        let id = self.id.as_deref().unwrap_or_default();
        Ok(get(format!("/v1/events/{}", segment(id)), show::trace))
    }
}

// === impl Saga ===

impl Saga {
    pub(super) fn asked(&self) -> Asked {
        get(format!("/v1/sagas/{}", segment(&self.id)), show::saga)
    }
}

fn any_duration(text: &str) -> Result<Duration, String> {
    duration(text, Duration::ZERO)
}

fn millis(duration: Duration) -> Value {
    json!(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
