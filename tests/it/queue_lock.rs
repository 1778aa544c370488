//! Two gateways, one data directory (queue 7.13): the second serves what needs no store while it waits, and
//! takes over when the first has gone.

use std::{path::Path, time::Duration};

use serde_json::json;

use crate::{
    harness::{Client, Message, Origin, Running, config, within},
    queue_http::{event, publish, receive},
};
use sluicegate::gateway::{Gateway, Options};

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
