//! The event endpoints of a running gateway, by plain HTTP: publish, receive, settle, dead letters,
//! replay, bad input of each kind, and what a restart leaves.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde_json::{Value, json};
use sluicegate::{
    events::{
        Event, Events as _, Settings, Store,
        queue::{
            storage::Real,
            time::{ManualClock, Now},
        },
        settings::Topic,
    },
    http::sink::{Parcel, Sending, Sink},
    telemetry::clock,
};

use crate::harness::{Client, Running, within};

pub const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";
pub const JSON: &str = "application/json";

/// A gateway with a topic, a subscription and their store in `folder`.
fn queue(folder: &std::path::Path, more: &str) -> String {
    format!(
        "queue: {{ dir: \"{}\", disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
         topics: {{ orders: {{ partitions: 4 }}, audit: {{}} }}\n\
         subscriptions:\n\
         \x20 - {{ name: billing, topic: orders, from: earliest, retry: {{ schedule: [0s], max_attempts: 2 }} }}\n\
         \x20 - {{ name: shipping, topic: orders, from: earliest, types: [\"order.*\"] }}\n{more}",
        folder.join("data").display()
    )
}

/// Nothing is delivered by it.
#[derive(Debug)]
struct Nobody;

impl Sink for Nobody {
    fn send(&self, _: Parcel) -> Sending {
        Box::pin(std::future::pending())
    }
}

pub struct Told {
    pub status: u16,
    pub head: String,
    pub body: Value,
}

pub async fn call(address: SocketAddr, line: &str, content_type: &str, body: &str) -> Told {
    call_with(address, line, &format!("Content-Type: {content_type}"), body).await
}

async fn call_with(address: SocketAddr, line: &str, fields: &str, body: &str) -> Told {
    let mut client = Client::connect(address).await;
    let head = format!(
        "{line} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n{fields}",
        body.len()
    );
    let answer = within(line, client.request(&head, body)).await;
    let text = answer.text();
    let body = if text.is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"))
    };
    Told { status: answer.status(), head: format!("{answer:?}").to_lowercase(), body }
}

pub fn event(id: &str, key: &str, data: &Value) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/shop", "type": "order.created",
        "subject": key, "data": data,
    })
}

pub async fn publish(address: SocketAddr, event: &Value) -> Told {
    call(address, "POST /v1/topics/orders/events", STRUCTURED, &event.to_string()).await
}

/// What a receive leases: tokens and events, in order.
pub async fn receive(address: SocketAddr, name: &str, body: &Value) -> Vec<(String, Value)> {
    let line = format!("POST /v1/subscriptions/{name}/receive");
    let told = call(address, &line, JSON, &body.to_string()).await;
    assert!(told.status == 200 || told.status == 204, "{}", told.body);
    let events = told.body["events"].as_array().cloned().unwrap_or_default();
    let pair = |it: &Value| (it["lease"]["token"].as_str().unwrap().to_owned(), it.clone());
    events.iter().map(pair).collect()
}

/// As [`receive`], until `wanted` are leased: one answer may have fewer than there are. Only for events
/// of different keys: what follows in a key waits for the settlement of what one answer leased of it.
pub async fn receive_all(address: SocketAddr, name: &str, wanted: usize) -> Vec<(String, Value)> {
    let mut leased = Vec::new();
    while leased.len() < wanted {
        let asked = json!({ "max_events": wanted - leased.len(), "wait_ms": 10_000 });
        let more = receive(address, name, &asked).await;
        assert!(!more.is_empty(), "{leased:?}");
        leased.extend(more);
    }
    leased
}

pub async fn settle(address: SocketAddr, name: &str, verb: &str, body: &Value) -> Vec<String> {
    let line = format!("POST /v1/subscriptions/{name}/{verb}");
    let told = call(address, &line, JSON, &body.to_string()).await;
    assert_eq!(told.status, 200, "{}", told.body);
    let results = told.body["results"].as_array().unwrap();
    results.iter().map(|it| it["status"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_event_is_published_received_and_settled() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Running::start(&queue(folder.path(), ""));
    let admin = gateway.gateway().admin_address();
    let told = publish(admin, &event("1", "customer-1", &json!({ "total": 7.50 }))).await;
    assert_eq!(told.status, 202, "{}", told.body);
    assert_eq!(told.body["results"][0]["id"], "1");
    assert_eq!(told.body["results"][0]["duplicate"], false);
    let again = publish(admin, &event("1", "customer-1", &json!({ "total": 8 }))).await;
    assert_eq!(again.body["results"][0]["duplicate"], true);
    assert_eq!(again.body["results"][0]["mismatch"], true);

    let leased = receive(admin, "billing", &json!({ "wait_ms": 5000 })).await;
    assert_eq!(leased.len(), 1);
    let (token, it) = &leased[0];
    assert_eq!(it["event"]["id"], "1");
    assert_eq!(it["event"]["subject"], "customer-1");
    assert_eq!(it["event"]["data"], json!({ "total": 7.50 }));
    assert_eq!(it["lease"]["attempt"], 1);
    let extended = json!({ "items": [{ "token": token, "lease_ms": 60000 }] });
    assert_eq!(settle(admin, "billing", "extend", &extended).await, ["ok"]);
    let tokens = json!({ "tokens": [token, "nonsense"] });
    assert_eq!(settle(admin, "billing", "ack", &tokens).await, ["ok", "unknown"]);
    assert_eq!(settle(admin, "billing", "ack", &json!({ "tokens": [token] })).await, ["settled"]);
    assert!(receive(admin, "billing", &json!({})).await.is_empty());
    let status = gateway.json("/v1/subscriptions/billing").await;
    assert_eq!((&status["lag_events"], &status["in_flight"]), (&json!(0), &json!(0)));
    // The other subscription has its own.
    assert_eq!(receive_all(admin, "shipping", 1).await.len(), 1);
    let found = gateway.json("/v1/events/1").await;
    assert_eq!(found["events"][0]["subscriptions"]["billing"]["state"], "settled");
    assert_eq!(found["events"][0]["subscriptions"]["shipping"]["state"], "in_flight");
}

#[tokio::test]
async fn batches_and_binary_events_keep_their_bytes_and_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Running::start(&queue(folder.path(), ""));
    let admin = gateway.gateway().admin_address();
    let batch: Vec<_> = (0..20).map(|n| event(&n.to_string(), "k", &json!(n))).collect();
    let told = call(admin, "POST /v1/topics/orders/events", BATCH, &json!(batch).to_string()).await;
    assert_eq!((told.status, told.body["results"].as_array().map(Vec::len)), (202, Some(20)));
    let fields = "ce-specversion: 1.0\r\nce-id: b%201\r\nce-source: /shop\r\nce-type: order.paid\r\n\
                  ce-partitionkey: k\r\nContent-Type: text/plain";
    let told = call_with(admin, "POST /v1/topics/orders/events", fields, "h\u{e9}llo").await;
    assert_eq!((told.status, &told.body["results"][0]["id"]), (202, &json!("b 1")));
    let mut ids = Vec::new();
    let mut last = Value::Null;
    while ids.len() < 21 {
        let leased = receive(admin, "billing", &json!({ "max_events": 7, "wait_ms": 5000 })).await;
        assert!(!leased.is_empty(), "{ids:?}");
        let tokens: Vec<_> = leased.iter().map(|(token, _)| token).collect();
        settle(admin, "billing", "ack", &json!({ "tokens": tokens })).await;
        ids.extend(leased.iter().map(|(_, it)| it["event"]["id"].as_str().unwrap().to_owned()));
        last = leased.last().unwrap().1["event"].clone();
    }
    let expected: Vec<_> = (0..20).map(|n| n.to_string()).chain(["b 1".to_owned()]).collect();
    assert_eq!(ids, expected);
    assert_eq!(
        (&last["data"], &last["datacontenttype"]),
        (&json!("h\u{e9}llo"), &json!("text/plain"))
    );
    assert_eq!(last["partitionkey"], "k");
}

#[tokio::test]
async fn a_lease_that_runs_out_makes_the_event_come_again_and_then_die() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Running::start(&queue(folder.path(), ""));
    let admin = gateway.gateway().admin_address();
    publish(admin, &event("1", "k", &json!(1))).await;
    publish(admin, &event("2", "k", &json!(2))).await;
    let short = json!({ "max_events": 1, "lease_ms": 1000, "wait_ms": 10_000 });
    let first = receive(admin, "billing", &short).await;
    let one = json!({ "max_events": 1, "wait_ms": 10_000 });
    let second = receive(admin, "billing", &one).await;
    assert_eq!(first[0].1["event"]["id"], second[0].1["event"]["id"], "its key waits for it");
    assert_eq!(second[0].1["lease"]["attempt"], 2);
    let late = json!({ "tokens": [first[0].0] });
    assert_eq!(settle(admin, "billing", "ack", &late).await, ["lease_expired"]);
    let nack = json!({ "items": [{ "token": second[0].0, "reason": "no such customer" }] });
    assert_eq!(settle(admin, "billing", "nack", &nack).await, ["ok"]);
    // Its attempts are over; the next of its key comes.
    let next = receive(admin, "billing", &one).await;
    assert_eq!(next[0].1["event"]["id"], "2");
    settle(admin, "billing", "ack", &json!({ "tokens": [next[0].0] })).await;

    let page = gateway.json("/v1/subscriptions/billing/dead-letters").await;
    let letter = &page["dead_letters"][0];
    assert_eq!(letter["event_id"], "1", "{page}");
    assert_eq!(letter["last_error"], "no such customer");
    assert_eq!(letter["attempts"], 2);
    let path = format!("/v1/subscriptions/billing/dead-letters/{}", letter["id"]);
    assert_eq!(gateway.json(&path).await["event"]["data"], 1);

    let redrive = call(
        admin,
        "POST /v1/subscriptions/billing/dead-letters/redrive",
        JSON,
        r#"{"filter":{}}"#,
    )
    .await;
    assert_eq!((redrive.status, &redrive.body["matching"]), (202, &json!(1)), "{}", redrive.body);
    let again = receive(admin, "billing", &json!({ "wait_ms": 10_000 })).await;
    assert_eq!(again[0].1["event"]["id"], "1");
    assert_eq!(again[0].1["event"]["sluicereplay"], true);
    settle(admin, "billing", "ack", &json!({ "tokens": [again[0].0] })).await;
    let job = format!("/v1/jobs/{}", redrive.body["job"].as_str().unwrap());
    within("the job to end", async {
        while gateway.json(&job).await["state"] != "done" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let page = gateway.json("/v1/subscriptions/billing/dead-letters").await;
    assert_eq!(page["dead_letters"], json!([]), "it went because it was delivered");
}

#[tokio::test]
async fn what_was_delivered_is_delivered_again_by_a_replay() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Running::start(&queue(folder.path(), ""));
    let admin = gateway.gateway().admin_address();
    for id in ["1", "2", "3"] {
        publish(admin, &event(id, "k", &json!(id))).await;
    }
    let mut settled = 0;
    while settled < 3 {
        let leased = receive(admin, "billing", &json!({ "wait_ms": 10_000 })).await;
        assert!(!leased.is_empty(), "{settled} settled");
        for (token, it) in leased {
            assert!(it["event"]["sluicereplay"].is_null(), "{it}");
            assert_eq!(
                settle(admin, "billing", "ack", &json!({ "tokens": [token] })).await,
                ["ok"]
            );
            settled += 1;
        }
    }
    let body = r#"{"subscription":"billing","from":"earliest"}"#;
    let job = call(admin, "POST /v1/topics/orders/replay", JSON, body).await;
    assert_eq!((job.status, &job.body["kind"]), (202, &json!("replay")), "{}", job.body);
    let path = format!("/v1/jobs/{}", job.body["id"].as_str().unwrap());
    let mut ids = Vec::new();
    while ids.len() < 3 {
        let again = receive(admin, "billing", &json!({ "wait_ms": 10_000 })).await;
        assert!(!again.is_empty(), "{ids:?}");
        // What is read and handed out is not done.
        let told = gateway.json(&path).await;
        assert_eq!((&told["total"], &told["done"]), (&json!(3), &json!(ids.len())), "{told}");
        for (token, it) in again {
            assert_eq!(it["event"]["sluicereplay"], true);
            ids.push(it["event"]["id"].as_str().unwrap().to_owned());
            settle(admin, "billing", "ack", &json!({ "tokens": [token] })).await;
        }
    }
    assert_eq!(ids, ["1", "2", "3"]);
}

#[tokio::test]
async fn a_restart_keeps_events_settlements_and_leases() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = queue(folder.path(), "");
    let gateway = Running::start(&yaml);
    let admin = gateway.gateway().admin_address();
    for id in ["1", "2", "3"] {
        publish(admin, &event(id, id, &json!(id))).await;
    }
    let leased = receive_all(admin, "billing", 2).await;
    let (settled, held) = (&leased[0], &leased[1]);
    settle(admin, "billing", "ack", &json!({ "tokens": [settled.0] })).await;
    drop(gateway);

    let gateway = Running::start(&yaml);
    let admin = gateway.gateway().admin_address();
    let again = publish(admin, &event("2", "2", &json!("2"))).await;
    assert_eq!(again.body["results"][0]["duplicate"], true, "known across the restart");
    assert_eq!(settle(admin, "billing", "ack", &json!({ "tokens": [held.0] })).await, ["ok"]);
    assert_eq!(
        settle(admin, "billing", "ack", &json!({ "tokens": [settled.0] })).await,
        ["settled"]
    );
    let rest = receive(admin, "billing", &json!({ "wait_ms": 5000 })).await;
    assert_eq!(rest.len(), 1);
    assert_ne!(rest[0].1["event"]["id"], settled.1["event"]["id"]);
    assert_ne!(rest[0].1["event"]["id"], held.1["event"]["id"]);
}

#[tokio::test]
async fn a_delayed_event_comes_when_it_is_due_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = queue(folder.path(), "");
    let gateway = Running::start(&yaml);
    let admin = gateway.gateway().admin_address();
    let due = clock::now() + Duration::from_secs(3);
    let mut late = event("late", "k", &json!("late"));
    late["sluicenotbefore"] = json!(clock::rfc3339(due));
    let told = publish(admin, &late).await;
    let result = &told.body["results"][0];
    assert_eq!(
        (told.status, &result["id"], &result["delayed"]),
        (202, &json!("late"), &json!(true))
    );
    assert_eq!((&result["partition"], &result["offset"]), (&Value::Null, &Value::Null));
    publish(admin, &event("now", "k", &json!("now"))).await;
    let first = receive(admin, "billing", &json!({ "wait_ms": 5000 })).await;
    assert_eq!(first[0].1["event"]["id"], "now");
    settle(admin, "billing", "ack", &json!({ "tokens": [first[0].0] })).await;
    let status = gateway.json("/v1/topics/orders").await;
    assert_eq!((&status["delayed"], &status["events"]), (&json!(1), &json!(1)), "{status}");
    drop(gateway);

    let gateway = Running::start(&yaml);
    let admin = gateway.gateway().admin_address();
    let received = within("the delayed event", async {
        loop {
            let leased = receive(admin, "billing", &json!({ "wait_ms": 1000 })).await;
            if let Some(leased) = leased.into_iter().next() {
                return leased;
            }
        }
    })
    .await;
    assert!(clock::now() >= due, "before it is due");
    assert_eq!(received.1["event"]["id"], "late");
    assert_eq!(received.1["event"]["sluicenotbefore"], late["sluicenotbefore"]);
    // From when it is due it is one of its key.
    let again = publish(admin, &event("late", "k", &json!("late"))).await;
    assert_eq!(again.body["results"][0]["duplicate"], true);
    assert_eq!(gateway.json("/v1/topics/orders").await["delayed"], 0);
}

#[tokio::test]
async fn a_store_that_was_idle_for_days_says_so_until_its_clock_is_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("data");
    std::fs::create_dir(&dir).unwrap();
    let now = u64::try_from(clock::since_epoch(clock::now()).as_millis()).unwrap();
    let before = ManualClock::at(Now { wall: now - 3 * 24 * 3_600_000, mono: 0 });
    let mut settings = Settings::new(&dir);
    settings.topics.push(Topic { partitions: 4, ..Topic::new("orders") });
    let storage = Arc::new(Real::open(&dir).unwrap());
    let store = Store::open(storage, settings, Arc::new(before), Arc::new(Nobody)).await.unwrap();
    let old = Event { id: "1".into(), source: "/".into(), kind: "t".into(), ..Event::default() };
    store.publish("orders", vec![old]).await.unwrap();
    store.shutdown(Duration::ZERO).await.unwrap();
    drop(store);

    let yaml = queue(folder.path(), "").replacen("queue: {", "queue: { lock_wait: 10s,", 1);
    let gateway = Running::start(&yaml);
    let frozen = "sluice_queue_clock_frozen{topic=\"orders\"}";
    assert!((gateway.metric(frozen).await - 1.0).abs() < f64::EPSILON);
    assert_eq!(gateway.json("/v1/topics/orders").await["clock_frozen"], true);
    let admin = gateway.gateway().admin_address();
    let told = call(admin, "POST /v1/queue/confirm-clock", JSON, "{}").await;
    assert_eq!((told.status, &told.body["clock"]), (200, &json!("confirmed")));
    assert!(gateway.metric(frozen).await.abs() < f64::EPSILON);
    assert_eq!(gateway.json("/v1/topics/orders").await["clock_frozen"], false);
}

#[tokio::test]
async fn bad_input_is_refused_with_what_where_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Running::start(&queue(folder.path(), ""));
    let admin = gateway.gateway().admin_address();
    let large = event("1", "k", &json!("x".repeat(2 * 1024 * 1024))).to_string();
    let late = json!({
        "specversion": "1.0", "id": "l", "source": "/", "type": "t",
        "sluicenotbefore": "2999-01-01T00:00:00Z",
    });
    for (line, content_type, body, status, code) in [
        ("POST /v1/topics/orders/events", STRUCTURED, "{", 400, "event-invalid"),
        ("POST /v1/topics/orders/events", STRUCTURED, "{}", 400, "event-invalid"),
        ("POST /v1/topics/orders/events", JSON, "{}", 415, "event-invalid"),
        ("POST /v1/topics/orders/events", STRUCTURED, &large, 413, "event-too-large"),
        ("POST /v1/topics/orders/events", STRUCTURED, &late.to_string(), 422, "delay-too-long"),
        (
            "POST /v1/topics/order/events",
            STRUCTURED,
            &event("1", "k", &json!(1)).to_string(),
            404,
            "name-unknown",
        ),
        ("POST /v1/subscriptions/nobody/receive", JSON, "{}", 404, "name-unknown"),
        ("POST /v1/subscriptions/billing/receive", JSON, "{\"max_events\":0}", 400, "bad-framing"),
        ("POST /v1/subscriptions/billing/ack", "text/plain", "{}", 415, "bad-framing"),
        (
            "POST /v1/subscriptions/billing/unblock",
            JSON,
            "{\"key\":\"k\",\"action\":\"retry\"}",
            404,
            "name-unknown",
        ),
        ("GET /v1/topics/orders/events/0:99", JSON, "", 404, "name-unknown"),
        ("GET /v1/topics/orders/events", JSON, "", 405, "method-not-allowed"),
        ("GET /v1/events/none", JSON, "", 404, "name-unknown"),
        ("GET /v1/jobs/billing:9", JSON, "", 404, "name-unknown"),
        ("POST /v1/topics/orders/reopen", JSON, "{}", 409, "conflict"),
        ("DELETE /v1/subscriptions/billing/dead-letters?confirm=3", JSON, "", 409, "conflict"),
        ("GET /v1/queue", JSON, "", 404, "name-unknown"),
    ] {
        let told = call(admin, line, content_type, body).await;
        let shown = &told.body;
        assert_eq!((told.status, &shown["code"]), (status, &json!(code)), "{line}: {shown}");
        assert!(shown["title"].is_string() && shown["status"] == status, "{line}: {shown}");
        assert!(told.head.contains("application/problem+json"), "{line}: {}", told.head);
    }
    let told = call(admin, "POST /v1/topics/order/events", STRUCTURED, "[]").await;
    assert_eq!(told.status, 400);
    assert_eq!(gateway.json("/v1/topics/orders").await["events"], 0, "nothing was stored");
}

#[tokio::test]
async fn without_topics_there_is_no_store() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("data");
    let yaml = format!("queue: {{ dir: \"{}\" }}\n", dir.display());
    let gateway = Running::start(&yaml);
    let told = call(gateway.gateway().admin_address(), "GET /v1/topics", JSON, "").await;
    assert_eq!((told.status, &told.body["code"]), (404, &json!("name-unknown")));
    assert!(!dir.exists());
}
