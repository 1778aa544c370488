//! What an operator sees and does: metrics of deliveries, keys and partitions that are blocked.

use std::{net::SocketAddr, path::Path, time::Duration};

use serde_json::json;

use crate::{
    harness::{Running, within},
    queue_http::{JSON, call, event, publish, receive, settle},
};

/// A gateway with a topic and these subscriptions.
fn start(folder: &Path, subscriptions: &str) -> (Running, SocketAddr) {
    let gateway = Running::start(&format!(
        "queue: {{ dir: \"{}\", disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
         topics: {{ orders: {{ partitions: 4 }} }}\n\
         subscriptions:\n{subscriptions}",
        folder.join("data").display()
    ));
    let admin = gateway.gateway().admin_address();
    (gateway, admin)
}

/// Waits until a metric is what it has to be.
async fn counts(gateway: &Running, series: &str, expected: f64) {
    let name = format!("sluice_subscription_{series}");
    within(&format!("{name} {expected}"), async {
        while (gateway.metric(&name).await - expected).abs() > f64::EPSILON {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn each_end_of_a_delivery_moves_its_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, admin) = start(
        folder.path(),
        "\x20 - { name: billing, topic: orders, from: earliest, order: none, retry: { schedule: [0s], max_attempts: 2 } }\n",
    );
    for id in ["1", "2", "3", "4"] {
        publish(admin, &event(id, id, &json!(id))).await;
    }
    let of = |end: &str| format!("deliveries_total{{subscription=\"billing\",outcome=\"{end}\"}}");
    let letters = |reason: &str| {
        format!("dead_letters_total{{subscription=\"billing\",reason=\"{reason}\"}}")
    };
    counts(&gateway, &of("succeeded"), 0.0).await;
    let text = gateway.admin("GET", "/metrics").await.text();
    assert!(text.contains(&of("lapsed")), "a series is there before it moves: {text}");

    let take = async |wanted: &str| {
        let ask = json!({ "max_events": 1, "wait_ms": 10_000, "lease_ms": 60_000 });
        let leased = receive(admin, "billing", &ask).await;
        assert_eq!(leased[0].1["event"]["id"], wanted);
        leased[0].0.clone()
    };
    // Taken at once; given back, then taken; refused; failed twice; left alone until its lease is over.
    settle(admin, "billing", "ack", &json!({ "tokens": [take("1").await] })).await;
    counts(&gateway, &of("succeeded"), 1.0).await;
    let none = "sluice_subscription_circuit_state";
    assert!(!gateway.admin("GET", "/metrics").await.text().contains(&format!("{none}{{")));
    let token = take("2").await;
    let delayed = json!({ "items": [{ "token": token, "delay_ms": 60_000 }] });
    settle(admin, "billing", "release", &delayed).await;
    counts(&gateway, &of("released"), 1.0).await;
    settle(admin, "billing", "reject", &json!({ "tokens": [take("3").await] })).await;
    counts(&gateway, &of("rejected"), 1.0).await;
    counts(&gateway, &letters("rejected"), 1.0).await;
    for times in [1.0, 2.0] {
        let nack = json!({ "items": [{ "token": take("4").await, "delay_ms": 0 }] });
        settle(admin, "billing", "nack", &nack).await;
        counts(&gateway, &of("failed"), times).await;
    }
    counts(&gateway, &letters("attempts_exhausted"), 1.0).await;
    publish(admin, &event("5", "5", &json!(5))).await;
    let short = json!({ "max_events": 1, "wait_ms": 10_000, "lease_ms": 1000 });
    assert_eq!(receive(admin, "billing", &short).await[0].1["event"]["id"], "5");
    counts(&gateway, &of("lapsed"), 1.0).await;

    // 1 in one attempt, 3 in one, 4 in two.
    let attempts = |le: &str| format!("attempts_bucket{{subscription=\"billing\",le=\"{le}\"}}");
    counts(&gateway, &attempts("1"), 2.0).await;
    counts(&gateway, &attempts("2"), 3.0).await;
    counts(&gateway, "attempts_sum{subscription=\"billing\"}", 4.0).await;
    // 1, 3, and 4 twice had an answer; only 1 has come to its end well.
    counts(&gateway, "delivery_seconds_count{subscription=\"billing\"}", 4.0).await;
    counts(&gateway, "end_to_end_seconds_count{subscription=\"billing\"}", 1.0).await;

    counts(&gateway, "discarded_events_total{subscription=\"billing\"}", 0.0).await;

    // Purged, they are gone; that they were there is not.
    let purge = "DELETE /v1/subscriptions/billing/dead-letters?confirm=2";
    assert_eq!(call(admin, purge, JSON, "").await.status, 200);
    counts(&gateway, "dead_letters{subscription=\"billing\",reason=\"rejected\"}", 0.0).await;
    counts(&gateway, &letters("rejected"), 1.0).await;
}

#[tokio::test]
async fn what_a_policy_discards_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, admin) = start(
        folder.path(),
        "\x20 - { name: billing, topic: orders, from: earliest, order: none, retry: { schedule: [0s], max_attempts: 1 }, dead_letter: { enabled: false }, on_exhausted: { then: discard } }\n",
    );
    for (number, verb) in [(1.0, "reject"), (2.0, "nack")] {
        publish(admin, &event(verb, verb, &json!(verb))).await;
        let leased = receive(admin, "billing", &json!({ "wait_ms": 10_000 })).await;
        settle(admin, "billing", verb, &json!({ "tokens": [leased[0].0] })).await;
        counts(&gateway, "discarded_events_total{subscription=\"billing\"}", number).await;
    }
    assert_eq!(gateway.json("/v1/subscriptions/billing").await["lag_events"], 0);
}

/// Takes one event and fails it, which blocks what it is in order with.
async fn block(admin: SocketAddr, gateway: &Running) {
    let leased = receive(admin, "billing", &json!({ "max_events": 1, "wait_ms": 10_000 })).await;
    settle(admin, "billing", "nack", &json!({ "tokens": [leased[0].0] })).await;
    counts(gateway, "blocked_keys{subscription=\"billing\"}", 1.0).await;
}

#[tokio::test]
async fn a_blocked_partition_is_freed_by_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, admin) = start(
        folder.path(),
        "\x20 - { name: billing, topic: orders, from: earliest, order: partition, retry: { schedule: [0s], max_attempts: 1 }, on_exhausted: { then: block_key } }\n",
    );
    let told = publish(admin, &event("1", "k", &json!(1))).await;
    publish(admin, &event("2", "k", &json!(2))).await;
    block(admin, &gateway).await;
    assert!(receive(admin, "billing", &json!({})).await.is_empty(), "its partition waits");
    let partition = told.body["results"][0]["partition"].as_u64().unwrap();
    let line = "POST /v1/subscriptions/billing/unblock";
    for (what, name) in [
        (json!({ "key": "k", "action": "retry" }), "no blocked key named `k`"),
        (
            json!({ "partition": (partition + 1) % 4, "action": "retry" }),
            "no blocked partition named",
        ),
    ] {
        let told = call(admin, line, JSON, &what.to_string()).await;
        let detail = told.body["detail"].as_str().unwrap_or_default();
        assert!(told.status == 404 && detail.contains(name), "{}", told.body);
    }
    let free = json!({ "partition": partition, "action": "dead_letter" });
    let told = call(admin, line, JSON, &free.to_string()).await;
    assert_eq!(told.status, 200, "{}", told.body);
    let next = receive(admin, "billing", &json!({ "wait_ms": 10_000 })).await;
    assert_eq!(next[0].1["event"]["id"], "2");
    let letters = "dead_letters{subscription=\"billing\",reason=\"attempts_exhausted\"}";
    counts(&gateway, letters, 1.0).await;
}

#[tokio::test]
async fn blocked_events_without_a_key_are_freed_together() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, admin) = start(
        folder.path(),
        "\x20 - { name: billing, topic: orders, from: earliest, retry: { schedule: [0s], max_attempts: 1 }, dead_letter: { enabled: false, then: block_key } }\n",
    );
    let keyless =
        json!({ "specversion": "1.0", "id": "1", "source": "/shop", "type": "order.created" });
    publish(admin, &keyless).await;
    let line = "POST /v1/subscriptions/billing/unblock";
    let free = r#"{"key":null,"action":"retry"}"#;
    let told = call(admin, line, JSON, free).await;
    let detail = "no events without a key are blocked";
    assert_eq!((told.status, &told.body["detail"]), (404, &json!(detail)), "{}", told.body);
    assert_eq!(told.body["code"], "name-unknown");
    block(admin, &gateway).await;
    let told = call(admin, line, JSON, free).await;
    assert_eq!(told.status, 200, "{}", told.body);
    let again = receive(admin, "billing", &json!({ "wait_ms": 10_000 })).await;
    assert_eq!(again[0].1["event"]["id"], "1");
    counts(&gateway, "blocked_keys{subscription=\"billing\"}", 0.0).await;
}
