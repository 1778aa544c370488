//! Routes that store requests: what is answered, what is stored, who may ask for it, and what is left of
//! it after a restart.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use crate::harness::{Message, Origin, Running, dead_address, eventually, origin, within};

const ORDER: &str = r#"{"customer":"c7"}"#;

/// SHA-256 of `one` and of `two`.
const KEYS: &str = "\
- { id: alice, sha256: 7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed }
- { id: bob, sha256: 3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3 }
";

struct Rig {
    gateway: Running,
    folder: tempfile::TempDir,
    yaml: String,
}

fn yaml(folder: &Path, queue: &str, routes: &str) -> String {
    std::fs::write(folder.join("keys.yaml"), KEYS).unwrap();
    format!(
        "workers: 2\n\
         queue: {{ dir: \"{0}/data\", {queue} }}\n\
         api_keys: {{ partners: {{ file: \"{0}/keys.yaml\" }} }}\n\
         topics: {{ intake: {{ partitions: 2, max_event_bytes: 8KiB }} }}\n\
         subscriptions:\n\
         \x20 - {{ name: all, topic: intake, from: earliest, order: none }}\n\
         \x20 - {{ name: deliver, topic: intake, push: {{ upstream: shop }} }}\n\
         {routes}",
        folder.display()
    )
}

const QUEUE: &str = "disk: { min_free: 1MiB, reserve: 4MiB }";

const ENQUEUE: &str = "upstreams: { shop: { endpoints: [\"127.0.0.1:1\"] } }\n\
    routes:\n\
    \x20 - { name: intake, match: { path: /orders }, auth: { api_key: { sets: [partners] } },\n\
    \x20     rewrite: { path: \"/v2{path}\" }, request_headers: { set: { x-tier: gold } },\n\
    \x20     response_headers: { set: { x-gate: a } },\n\
    \x20     enqueue: { topic: intake, key: \"json:/customer\", on_prefer: true } }\n\
    \x20 - { name: open, match: { path: /open }, idempotency: {}, enqueue: { topic: intake } }\n\
    \x20 - { name: brief, match: { path: /brief }, enqueue: { topic: intake, status_ttl: 1s } }\n";

fn spilling(upstream: &str) -> String {
    format!(
        "upstreams: {{ shop: {{ endpoints: [\"{upstream}\"] }} }}\n\
         routes:\n\
         \x20 - {{ name: orders, match: {{ path: /orders }}, upstream: shop,\n\
         \x20     spill: {{ topic: intake, key: \"json:/customer\" }},\n\
         \x20     publish: {{ topic: intake, type: order.created, key: \"json:/customer\" }} }}\n"
    )
}

impl Rig {
    /// What is stored stays so: nothing is delivered.
    async fn new(queue: &str, routes: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let yaml = yaml(folder.path(), queue, routes);
        let gateway = Running::start(&yaml);
        let paused = gateway.admin_with("POST", "/v1/subscriptions/deliver/pause", "").await;
        assert_eq!(paused.status(), 200, "{}", paused.text());
        Self { gateway, folder, yaml }
    }

    /// The same store in a gateway that is started anew.
    fn restart(self) -> Self {
        let Self { gateway, folder, yaml } = self;
        drop(gateway);
        Self { gateway: Running::start(&yaml), folder, yaml }
    }

    async fn send(&self, line: &str, fields: &str, body: &str) -> Message {
        let mut client = self.gateway.client().await;
        let length = body.len();
        let head = format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: {length}");
        within("an answer", client.request(&head, body)).await
    }

    async fn post(&self, key: &str, body: &str) -> Message {
        self.send("POST /orders?q=1", &format!("X-Api-Key: {key}\r\n"), body).await
    }

    async fn status(&self, location: &str, key: &str) -> Message {
        let fields = if key.is_empty() { String::new() } else { format!("X-Api-Key: {key}\r\n") };
        self.send(&format!("GET {location}"), &fields, "").await
    }

    /// Every event of the topic, taken and acknowledged.
    async fn events(&self) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let asked = r#"{"max_events":100,"wait_ms":100}"#;
            let path = "/v1/subscriptions/all/receive";
            let answer = self.gateway.admin_with("POST", path, asked).await;
            if answer.status() == 204 {
                return events;
            }
            let answer: Value = serde_json::from_slice(&answer.body).unwrap();
            let received = answer["events"].as_array().unwrap();
            let tokens: Vec<_> = received.iter().map(|it| it["lease"]["token"].clone()).collect();
            let acked = json!({ "tokens": tokens }).to_string();
            let path = "/v1/subscriptions/all/ack";
            assert_eq!(self.gateway.admin_with("POST", path, &acked).await.status(), 200);
            events.extend(received.iter().map(|it| it["event"].clone()));
        }
    }
}

fn json_of(answer: &Message) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{}", answer.text()))
}

fn refused(answer: &Message) -> (u16, String) {
    let code = json_of(answer)["code"].as_str().unwrap_or_default().to_owned();
    (answer.status(), code)
}

fn refusal(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

fn location(answer: &Message) -> String {
    assert_eq!(answer.status(), 202, "{}", answer.text());
    answer.field("location").unwrap().to_owned()
}

#[tokio::test]
async fn what_is_accepted_is_there_for_its_sender_after_a_restart() {
    let rig = Rig::new(QUEUE, ENQUEUE).await;
    let answer = rig.post("one", ORDER).await;
    let path = location(&answer);
    assert!(path.starts_with("/.sluice/requests/"), "{path}");
    assert_eq!((answer.field("retry-after"), answer.field("x-gate")), (Some("1"), Some("a")));
    let rig = rig.restart();
    let status = rig.status(&path, "one").await;
    assert_eq!(status.status(), 200, "{}", status.text());
    let told = json_of(&status);
    assert_eq!((&told["state"], &told["attempts"]), (&json!("queued"), &json!(0)));
    assert!(path.ends_with(told["id"].as_str().unwrap()));
    assert_eq!(refused(&rig.status(&path, "two").await), refusal(404, "route-none"));
    assert_eq!(refused(&rig.status(&path, "").await), refusal(401, "auth-missing"));
    let shortened = &path[..path.len() - 1];
    assert_eq!(refused(&rig.status(shortened, "one").await), refusal(404, "route-none"));
    let posted = rig.send(&format!("POST {path}"), "X-Api-Key: one\r\n", "").await;
    assert_eq!(refused(&posted), refusal(405, "method-not-allowed"));
    let events = rig.events().await;
    let [event] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(
        (&event["type"], &event["data"]),
        (&json!("sluice.request"), &json!({ "customer": "c7" }))
    );
    let other = Rig::new(QUEUE, ENQUEUE).await;
    assert_eq!(refused(&other.status(&path, "one").await), refusal(404, "other-instance"));
}

#[tokio::test]
async fn one_key_is_one_request_with_one_place_to_ask() {
    let rig = Rig::new(QUEUE, ENQUEUE).await;
    let send = async |path: &str, body| {
        let fields = "Idempotency-Key: \"k\"\r\nX-Api-Key: one\r\n";
        rig.send(&format!("POST {path}"), fields, body).await
    };
    // By the topic alone, and where the route remembers keys.
    for (path, replayed) in [("/orders", None), ("/open", Some("true"))] {
        let first = send(path, ORDER).await;
        let again = send(path, ORDER).await;
        assert_eq!(location(&first), location(&again), "{path}");
        assert_eq!(again.field("idempotent-replayed"), replayed, "{path}");
        let other = send(path, r#"{"customer":"other"}"#).await;
        assert_eq!(refused(&other), refusal(422, "idempotency-mismatch"), "{path}");
    }
    assert_eq!(rig.events().await.len(), 2);
}

#[tokio::test]
async fn a_status_is_told_for_as_long_as_the_route_says() {
    let rig = Rig::new(QUEUE, ENQUEUE).await;
    let path = location(&rig.send("POST /brief", "", ORDER).await);
    let status = rig.status(&path, "").await;
    assert_eq!((status.status(), status.field("cache-control")), (200, Some("no-store")));
    within("the end of the status", async {
        while rig.status(&path, "").await.status() == 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(refused(&rig.status(&path, "").await), refusal(410, "status-gone"));
}

#[tokio::test]
async fn without_room_nothing_is_stored_and_other_routes_answer() {
    let low = Rig::new("disk: { low_water: 90%, min_free: 1024GiB }", ENQUEUE).await;
    let answer = low.post("one", ORDER).await;
    assert_eq!(refused(&answer), refusal(503, "queue-disk"));
    assert!(answer.field("retry-after").is_some());
    let rig = Rig::new(QUEUE, ENQUEUE).await;
    let long = "x".repeat(9 << 10);
    assert_eq!(refused(&rig.post("one", &long).await), refusal(413, "body-too-large"));
    assert!(rig.events().await.is_empty());
}

#[tokio::test]
async fn a_client_that_prefers_to_wait_is_answered_202_when_its_time_is_up() {
    let rig = Rig::new(QUEUE, ENQUEUE).await;
    let fields = "X-Api-Key: one\r\nPrefer: respond-async, wait=1\r\n";
    let answer = rig.send("POST /orders", fields, ORDER).await;
    assert_eq!(answer.field("preference-applied"), Some("respond-async, wait=1"));
    let path = location(&answer);
    let status = rig.status(&format!("{path}?wait=100ms"), "one").await;
    assert_eq!((status.status(), &json_of(&status)["state"]), (200, &json!("queued")));
}

#[tokio::test]
async fn what_cannot_be_sent_is_spilled_and_nothing_is_published_of_it() {
    let rig = Rig::new(QUEUE, &spilling(&dead_address().to_string())).await;
    let answer = rig.send("POST /orders", "", ORDER).await;
    let path = location(&answer);
    assert_eq!(answer.field("sluice-event-id"), None);
    assert_eq!(json_of(&rig.status(&path, "").await)["state"], "queued");
    assert_eq!(
        rig.send("GET /orders", "", "").await.status(),
        502,
        "a question is not asked later"
    );
    let events = rig.events().await;
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["sluice.request"]);
    let counted = "sluice_stored_requests_total{route=\"orders\",how=\"spilled\"}";
    assert!((rig.gateway.metric(counted).await - 1.0).abs() < 0.1);
}

/// Spills, publishes nothing; `keys` are those of its upstream.
fn only_spilling(upstream: &str, keys: &str) -> String {
    format!(
        "upstreams: {{ shop: {{ endpoints: [\"{upstream}\"], {keys} }} }}\n\
         routes: [{{ name: orders, match: {{ path: /orders }}, upstream: shop, spill: {{ topic: intake }} }}]\n"
    )
}

#[tokio::test]
async fn what_can_neither_be_sent_nor_stored_is_told_when_to_come_back() {
    let full = "disk: { low_water: 90%, min_free: 1024GiB }";
    let rig = Rig::new(full, &only_spilling(&dead_address().to_string(), "")).await;
    let answer = rig.send("POST /orders", "", ORDER).await;
    assert_eq!(refused(&answer), refusal(503, "queue-disk"));
    assert!(answer.field("retry-after").is_some(), "{}", answer.text());
    let answer = rig.send("GET /orders", "", "").await;
    assert_eq!(refused(&answer), refusal(502, "upstream-connect"), "nobody would have stored it");
}

#[tokio::test]
async fn an_open_breaker_and_a_full_upstream_spill() {
    let breaker = "outlier: { consecutive_failures: 100 },\
        breaker: { consecutive_failures: 1, probe_after: 60s }";
    let broken = Origin::start(|_, _| origin::Reply::Reset).await;
    let rig = Rig::new(QUEUE, &only_spilling(&broken.address().to_string(), breaker)).await;
    let first = rig.send("POST /orders", "", ORDER).await;
    assert_eq!(refused(&first), refusal(502, "upstream-reset"), "it may have been seen");
    location(&rig.send("POST /orders", "", ORDER).await);
    assert_eq!(broken.requests().len(), 1);

    let busy = Origin::start(|_, _| origin::Reply::Hang).await;
    let rig =
        Rig::new(QUEUE, &only_spilling(&busy.address().to_string(), "max_in_flight: 1")).await;
    let mut client = rig.gateway.client().await;
    client.send("POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    eventually("the request that fills it", || busy.requests().len() == 1).await;
    location(&rig.send("POST /orders", "", ORDER).await);
    assert_eq!(busy.requests().len(), 1);
}

#[tokio::test]
async fn what_can_be_sent_is_sent_and_its_event_published() {
    let shop = Origin::start(|_, _| origin::Reply::Answer(origin::ok("done"))).await;
    let rig = Rig::new(QUEUE, &spilling(&shop.address().to_string())).await;
    let answer = rig.send("POST /orders", "", ORDER).await;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "done"));
    assert!(answer.field("sluice-event-id").is_some());
    eventually("the request", || shop.requests().len() == 1).await;
    let kinds: Vec<_> = rig.events().await.iter().map(|event| event["type"].clone()).collect();
    assert_eq!(kinds, ["order.created"]);
}

#[tokio::test]
async fn explain_says_what_would_be_stored() {
    let rig = Rig::new(QUEUE, &spilling(&dead_address().to_string())).await;
    let explain = async |method: &str| {
        let asked = json!({ "method": method, "url": "http://a/orders" }).to_string();
        rig.gateway.admin_with("POST", "/v1/explain", &asked).await.text()
    };
    let told = explain("POST").await;
    assert!(told.contains("if nothing of it can be sent, its key is in its body"), "{told}");
    let told = explain("GET").await;
    assert!(told.contains("a GET is not done later"), "{told}");
    let rig = Rig::new(QUEUE, ENQUEUE).await;
    let asked = json!({ "method": "POST", "url": "http://a/open" }).to_string();
    let told = rig.gateway.admin_with("POST", "/v1/explain", &asked).await.text();
    assert!(told.contains("in `intake`, no key, so no order; 202"), "{told}");
}
