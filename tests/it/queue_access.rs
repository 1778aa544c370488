//! Who may publish and consume: `events_api`, its `auth` and its scopes, over real sockets.

use std::{fmt::Write as _, fs, net::SocketAddr, path::Path};

use aws_lc_rs::digest;
use serde_json::{Value, json};
use sluicegate::gateway::Options;

use crate::harness::{self, Client, Running, within};

const EVENT: &str = r#"{"specversion":"1.0","id":"1","source":"/shop","type":"order.created"}"#;

fn hex(key: &str) -> String {
    let digest = digest::digest(&digest::SHA256, key.as_bytes());
    digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// A gateway whose `events_api` has this `auth`.
fn gateway(folder: &Path, auth: &str) -> Running {
    let scopes = [
        ("publisher", "[\"topic:orders:publish\"]"),
        ("consumer", "[\"subscription:billing:consume\"]"),
        ("nobody", "[]"),
    ];
    let keys = scopes.map(|(id, scopes)| {
        format!("- {{ id: {id}, sha256: \"{}\", scopes: {scopes} }}\n", hex(id))
    });
    fs::write(folder.join("keys.yaml"), keys.concat()).unwrap();
    let folder = folder.display();
    let config = harness::config(&format!(
        "api_keys: {{ partners: {{ file: \"{folder}/keys.yaml\" }} }}\n\
         queue: {{ dir: \"{folder}/data\", disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
         topics: {{ orders: {{ max_event_bytes: 64KiB }} }}\n\
         subscriptions: [{{ name: billing, topic: orders, from: earliest }}]\n\
         events_api: {{ address: 127.0.0.1:0{auth} }}\n"
    ));
    Running::start_with(config, Options::default())
}

fn events_api(gateway: &Running) -> SocketAddr {
    gateway.gateway().listener_address("events_api").unwrap()
}

async fn call(address: SocketAddr, line: &str, key: Option<&str>, body: &str) -> (u16, Value) {
    let mut client = Client::connect(address).await;
    let key = key.map(|key| format!("\nX-Api-Key: {key}")).unwrap_or_default();
    let content_type =
        if line.ends_with("/events") { "application/cloudevents+json" } else { "application/json" };
    let head = format!(
        "{line} HTTP/1.1\nHost: {address}\nConnection: close\nContent-Type: {content_type}\n\
         Content-Length: {}{key}",
        body.len()
    );
    let answer = within(line, client.request(&head, body)).await;
    (answer.status(), serde_json::from_slice(&answer.body).unwrap_or_default())
}

const PUBLISH: &str = "POST /v1/topics/orders/events";
const RECEIVE: &str = "POST /v1/subscriptions/billing/receive";

#[tokio::test]
async fn publishers_and_consumers_have_a_listener_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = gateway(folder.path(), "");
    let address = events_api(&gateway);
    assert_eq!(call(address, PUBLISH, None, EVENT).await.0, 202);
    let (status, leased) = call(address, RECEIVE, None, r#"{"wait_ms":5000}"#).await;
    assert_eq!((status, &leased["events"][0]["event"]["id"]), (200, &json!("1")));
    let tokens = json!({ "tokens": [leased["events"][0]["lease"]["token"]] }).to_string();
    let (status, settled) =
        call(address, "POST /v1/subscriptions/billing/ack", None, &tokens).await;
    assert_eq!((status, &settled["results"][0]["status"]), (200, &json!("ok")));
    // The operator's endpoints are not there.
    for line in [
        "GET /v1/topics",
        "GET /v1/topics/orders/stream",
        "GET /v1/subscriptions/billing",
        "POST /v1/subscriptions/billing/seek",
        "GET /v1/events/1",
        "GET /metrics",
        "POST /v1/reload",
    ] {
        let (status, problem) = call(address, line, None, "").await;
        assert_eq!((status, &problem["code"]), (404, &json!("name-unknown")), "{line}");
    }
    let mut client = Client::connect(address).await;
    let head = format!("{PUBLISH} HTTP/1.1\nHost: {address}\nContent-Length: 9000000");
    assert_eq!(within("a refusal", client.request(&head, "")).await.status(), 413);
    let series = "sluice_requests_total{route=\"events_api\",status=\"2xx\"}";
    assert!(gateway.metric(series).await >= 3.0);
}

#[tokio::test]
async fn a_key_is_good_for_its_scopes_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = gateway(folder.path(), ", auth: { api_key: { sets: [partners] } }");
    let address = events_api(&gateway);
    for (line, key, body, status, code) in [
        (PUBLISH, None, EVENT, 401, Some("auth-missing")),
        (PUBLISH, Some("wrong"), EVENT, 401, Some("auth-signature")),
        (PUBLISH, Some("nobody"), EVENT, 403, Some("scope-denied")),
        (PUBLISH, Some("consumer"), EVENT, 403, Some("scope-denied")),
        (PUBLISH, Some("publisher"), EVENT, 202, None),
        ("POST /v1/topics/others/events", Some("publisher"), EVENT, 403, Some("scope-denied")),
        (RECEIVE, Some("publisher"), "", 403, Some("scope-denied")),
        (RECEIVE, Some("consumer"), "{\"wait_ms\":5000}", 200, None),
        ("GET /v1/topics", Some("consumer"), "", 404, Some("name-unknown")),
    ] {
        let (answered, problem) = call(address, line, key, body).await;
        assert_eq!(answered, status, "{line} {key:?}: {problem}");
        assert_eq!(problem["code"].as_str(), code, "{line} {key:?}: {problem}");
    }
    let found = gateway.json("/v1/events/1").await;
    assert_eq!(found["events"][0]["topic"], "orders");
}
