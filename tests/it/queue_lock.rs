//! Two gateways, one data directory (queue 7.13): the second serves what needs no store while it waits, and
//! takes over when the first has gone.

use std::{path::Path, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message as Frame;

use crate::{
    harness::{Client, Message, Origin, Running, config, within},
    queue_http::{event, publish, receive},
    upgrades::echo,
};
use sluicegate::gateway::{DrainSettings, Gateway, Options};

fn yaml(folder: &Path, origin: &Origin, lock_wait: &str) -> String {
    format!(
        "queue: {{ dir: \"{}\", required: true, lock_wait: {lock_wait}, disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
         topics: {{ orders: {{}} }}\n\
         subscriptions: [{{ name: billing, topic: orders, from: earliest }}]\n\
         events_api: {{ address: 127.0.0.1:0 }}\n\
         upstreams: {{ origin: {{ endpoints: [\"{}\"] }} }}\n\
         routes:\n\
         \x20 - {{ name: orders, match: {{ path: /orders }}, upstream: origin, publish: [{{ topic: orders, type: order.created }}] }}\n\
         \x20 - {{ name: once, match: {{ path: /once }}, upstream: origin, idempotency: {{}} }}\n\
         \x20 - {{ name: other, match: {{ path: /other }}, upstream: origin }}\n",
        folder.join("data").display(),
        origin.address(),
    )
}

async fn post(gateway: &Running, path: &str) -> Message {
    let mut client = gateway.client().await;
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nContent-Length: 2");
    within("an answer", client.request(&head, "{}")).await
}

async fn readiness(gateway: &Running) -> Message {
    gateway.admin("GET", "/readyz").await
}

#[tokio::test]
async fn the_second_serves_what_needs_no_store_and_takes_over() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::ok("done").await;
    let first = Running::start(&yaml(folder.path(), &origin, "0s"));
    publish(first.gateway().admin_address(), &event("1", "k", &json!(1))).await;

    let second = Running::start(&yaml(folder.path(), &origin, "1h"));
    for path in ["/orders", "/once"] {
        let refused = post(&second, path).await;
        assert_eq!(refused.status(), 503, "{path}");
        assert!(refused.text().contains("queue-unavailable"), "{path}: {}", refused.text());
        assert!(refused.field("retry-after").is_some(), "{path}");
    }
    assert_eq!(origin.requests().len(), 0, "refused before anything was sent");
    assert_eq!(post(&second, "/other").await.status(), 200);
    let admin = second.gateway().admin_address();
    let client = second.gateway().listener_address("events_api").unwrap();
    for address in [admin, client] {
        let refused = publish(address, &event("2", "k", &json!(2))).await;
        assert_eq!((refused.status, &refused.body["code"]), (503, &json!("queue-unavailable")));
    }
    let lacks = readiness(&second).await;
    assert_eq!(lacks.status(), 503);
    assert!(lacks.text().contains("the queue is not open"), "{}", lacks.text());

    drop(first);
    within("the second to take over", async {
        while readiness(&second).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let leased = receive(admin, "billing", &json!({ "wait_ms": 10_000 })).await;
    assert_eq!(leased[0].1["event"]["id"], "1", "what the first has taken");
    for path in ["/orders", "/once"] {
        within("the workers to have it", async {
            while post(&second, path).await.status() != 200 {}
        })
        .await;
    }
    let taken = publish(client, &event("2", "k", &json!(2))).await;
    assert_eq!(taken.status, 202, "{}", taken.body);
}

#[tokio::test]
async fn whoever_does_not_wait_is_told_what_to_do_and_whoever_waits_can_be_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::ok("done").await;
    let _first = Running::start(&yaml(folder.path(), &origin, "0s"));

    let hasty = Gateway::start(config(&yaml(folder.path(), &origin, "0s")), Options::default());
    let told = hasty.map(drop).unwrap_err().to_string();
    assert!(told.contains("another process has the data directory open; stop it"), "{told}");

    let patient = Running::start(&yaml(folder.path(), &origin, "1h"));
    assert_eq!(post(&patient, "/other").await.status(), 200);
    within("its end", tokio::task::spawn_blocking(move || drop(patient))).await.unwrap();

    let late = Running::start(&yaml(folder.path(), &origin, "10ms"));
    let mut client = Client::connect(late.address()).await;
    let head = "POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: 2";
    let refused = within("an answer", client.request(head, "{}")).await;
    assert_eq!(refused.status(), 503, "it serves on without");
}

#[tokio::test]
async fn an_open_tunnel_keeps_no_queue_from_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::ok("done").await;
    let first = format!(
        "{}\x20 - {{ name: chat, match: {{ path: /chat }}, upstream: chat }}\n",
        yaml(folder.path(), &origin, "0s").replace(
            "upstreams: {",
            &format!("upstreams: {{ chat: {{ endpoints: [\"{}\"] }},", echo().await)
        )
    );
    let drain = DrainSettings {
        before_close: Duration::ZERO,
        requests: Duration::from_secs(5),
        upgrades: Duration::from_hours(1),
    };
    let options = Options { drain, ..Options::default() };
    let first = Running::start_with(config(&first), options);
    let taken = publish(first.gateway().admin_address(), &event("1", "k", &json!(1))).await;
    assert_eq!(taken.status, 202, "{}", taken.body);
    assert_eq!(post(&first, "/orders").await.status(), 200, "its worker has the queue");
    let stream = first.client().await.into_stream();
    let (mut socket, _) = tokio_tungstenite::client_async("ws://shop/chat", stream).await.unwrap();

    let second = Running::start(&yaml(folder.path(), &origin, "1h"));
    assert_eq!(first.admin("POST", "/v1/drain").await.status(), 202);
    within("the second to take over", async {
        while readiness(&second).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let admin = second.gateway().admin_address();
    let leased = receive(admin, "billing", &json!({ "wait_ms": 10_000 })).await;
    assert_eq!(leased[0].1["event"]["id"], "1", "what the first has taken");
    socket.send(Frame::text("still here")).await.unwrap();
    let said = within("the echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(said.into_text().unwrap().as_str(), "still here");
    assert_eq!(first.admin("GET", "/livez").await.status(), 200);
}
