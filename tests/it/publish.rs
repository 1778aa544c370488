//! Routes that publish: each mode, what is sent and stored where there is no room, and what follows when a
//! client, an upstream or the gateway goes away on the way.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, time::Instant};

use crate::harness::{
    Client, Message, Origin, Reply, Running, dead_address, eventually, origin, within,
};

const ORDER: &str = r#"{"customer":"c7","card":{"number":"4111","kind":"x"},"total":1.10}"#;

/// A gateway whose route `/orders` publishes, its store, and the upstream.
struct Rig {
    gateway: Running,
    origin: Origin,
    folder: tempfile::TempDir,
}

fn yaml(folder: &Path, upstream: &str, queue: &str, route: &str) -> String {
    format!(
        "queue: {{ dir: \"{}\", {queue} }}\n\
         topics: {{ orders: {{ partitions: 2, max_event_bytes: 64KiB }}, audit: {{}} }}\n\
         subscriptions:\n\
         \x20 - {{ name: all, topic: orders, from: earliest, order: none }}\n\
         \x20 - {{ name: trail, topic: audit, from: earliest, order: none }}\n\
         upstreams: {{ origin: {{ endpoints: [\"{upstream}\"] }} }}\n\
         routes:\n\
         \x20 - {{ name: orders, match: {{ path: /orders }}, upstream: origin, {route} }}\n\
         \x20 - {{ name: other, match: {{ path: /other }}, upstream: origin }}\n",
        folder.join("data").display()
    )
}

const QUEUE: &str = "disk: { min_free: 1MiB, reserve: 4MiB }";

impl Rig {
    async fn new(route: &str, reply: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::with(QUEUE, route, reply).await
    }

    async fn with(
        queue: &str,
        route: &str,
        reply: impl Fn(usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let origin = Origin::start(move |number, _| reply(number)).await;
        let folder = tempfile::tempdir().unwrap();
        let yaml = yaml(folder.path(), &origin.address().to_string(), queue, route);
        Self { gateway: Running::start(&yaml), origin, folder }
    }

    async fn post(&self, body: &str) -> Message {
        post(&self.gateway, body).await
    }

    async fn take(&self, subscription: &str) -> Vec<Value> {
        take(&self.gateway, subscription).await
    }
}

async fn post(gateway: &Running, body: &str) -> Message {
    let mut client = gateway.client().await;
    within("an answer", client.request(&head(body), body)).await
}

fn head(body: &str) -> String {
    format!(
        "POST /orders?q=1 HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}",
        body.len()
    )
}

/// Every event, once all that requests have led to is settled; taken and acknowledged.
pub async fn take(gateway: &Running, subscription: &str) -> Vec<Value> {
    within("everything to be settled", async {
        while gateway.metric("sluice_queue_ingress_entries").await > 0.0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    let mut events = Vec::new();
    loop {
        let path = format!("/v1/subscriptions/{subscription}/receive");
        let asked = r#"{"max_events":100,"wait_ms":50}"#;
        let answer = gateway.admin_with("POST", &path, asked).await;
        if answer.status() == 204 {
            return events;
        }
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        let received = answer["events"].as_array().unwrap();
        let tokens: Vec<_> = received.iter().map(|it| it["lease"]["token"].clone()).collect();
        let acked = json!({ "tokens": tokens }).to_string();
        let path = format!("/v1/subscriptions/{subscription}/ack");
        assert_eq!(gateway.admin_with("POST", &path, &acked).await.status(), 200);
        events.extend(received.iter().map(|it| it["event"].clone()));
    }
}

fn answer(status: &str, body: &str) -> Reply {
    let length = body.len();
    let kind = "content-type: application/json";
    Reply::Answer(
        format!("HTTP/1.1 {status}\r\n{kind}\r\ncontent-length: {length}\r\n\r\n{body}").into(),
    )
}

fn created(_: usize) -> Reply {
    answer("201 Created", r#"{"id":9}"#)
}

fn code(answer: &Message) -> String {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    body["code"].as_str().unwrap_or_default().to_owned()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn each_mode_and_acknowledgement_publishes_what_was_asked_for() {
    for (mode, ack, intent) in [
        ("after", "durable", ""),
        ("after", "durable", ", intent: false"),
        ("after", "async", ""),
        ("before", "durable", ""),
        ("before", "async", ""),
    ] {
        let publish = format!(
            "publish: {{ topic: orders, type: order.created, mode: {mode}, ack: {ack}{intent}, \
             key: \"json:/customer\", redact: [\"/card/number\"], expires: 1d }}"
        );
        let rig = Rig::new(&publish, created).await;
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut client = rig.gateway.client().await;
        let head = format!("{}\r\nTraceparent: {trace}", head(ORDER));
        let answer = client.request(&head, ORDER).await;
        let case = format!("{mode} {ack}{intent}");
        assert_eq!(answer.status(), 201, "{case}");
        assert_eq!(answer.text(), r#"{"id":9}"#);
        let events = rig.take("all").await;
        let [event] = events.as_slice() else { panic!("{case}: {events:?}") };
        assert_eq!(answer.field("sluice-event-id"), event["id"].as_str(), "{case}");
        assert_eq!(event["type"], "order.created");
        assert_eq!((&event["subject"], &event["traceparent"]), (&json!("c7"), &json!(trace)));
        assert!(event["source"].as_str().unwrap().ends_with("/orders"), "{event}");
        assert_eq!(event["data"]["card"], json!({ "number": "[redacted]", "kind": "x" }), "{case}");
        // What goes upstream is what the client sent.
        assert_eq!(rig.origin.requests()[0].text(), ORDER);
    }
}

#[tokio::test]
async fn an_event_follows_from_the_answers_it_was_asked_to() {
    for (when, status, expected) in [
        ("success", "204 No Content", 1),
        ("success", "404 Not Found", 0),
        ("failure", "404 Not Found", 1),
        ("failure", "200 OK", 0),
        ("always", "302 Found", 1),
        ("[409]", "409 Conflict", 1),
        ("[409]", "200 OK", 0),
    ] {
        let publish = format!("publish: {{ topic: orders, type: t, when: {when} }}");
        let rig = Rig::new(&publish, move |_| answer(status, "")).await;
        let answer = rig.post(ORDER).await;
        assert!(status.starts_with(&answer.status().to_string()));
        let events = rig.take("all").await;
        assert_eq!(events.len(), expected, "{when} {status}");
        assert_eq!(answer.all("sluice-event-id").len(), expected, "{when} {status}");
    }
}

#[tokio::test]
async fn an_answer_is_in_the_event_unless_it_is_too_long() {
    let long = format!("\"{}\"", "x".repeat(70_000));
    let publish = "publish: [{ topic: orders, type: a, data: response, key: \"response_json:/id\" }, \
                   { topic: audit, type: b, data: both }]";
    let rig = Rig::new(publish, {
        let long = long.clone();
        move |number| answer("200 OK", if number == 0 { r#"{"id":9}"# } else { &long })
    })
    .await;
    let answer = rig.post(ORDER).await;
    assert_eq!(answer.text(), r#"{"id":9}"#);
    assert_eq!(answer.all("sluice-event-id").len(), 2, "one for each");
    assert_eq!(rig.post(ORDER).await.text(), long, "the client gets all of it");
    let (orders, audit) = (rig.take("all").await, rig.take("trail").await);
    let of = |events: &[Value], truncated: bool| {
        let is_meant = |it: &&Value| it.get("sluicetruncated").is_some() == truncated;
        events.iter().find(is_meant).cloned().unwrap_or_else(|| panic!("{events:?}"))
    };
    let whole = of(&orders, false);
    assert_eq!((&whole["data"], &whole["subject"]), (&json!({ "id": 9 }), &json!("9")));
    let cut = of(&orders, true);
    assert_eq!((cut.get("data"), &cut["sluicetruncated"]), (None, &json!(true)));
    // 1 MiB is enough for the other topic.
    let request: Value = serde_json::from_str(ORDER).unwrap();
    assert_eq!(audit.len(), 2);
    assert!(audit.iter().all(|event| event["data"]["request"] == request));
    assert!(audit.iter().any(|event| event["data"]["response"] == json!({ "id": 9 })));
}

#[tokio::test]
async fn what_cannot_be_looked_through_is_not_stored() {
    let publish = "publish: { topic: orders, type: a, redact: [/a] }";
    let rig = Rig::new(publish, created).await;
    assert_eq!(rig.post("a=secret").await.status(), 201);
    let events = rig.take("all").await;
    assert_eq!(kinds(&events), ["a"]);
    assert!(!events[0].to_string().contains("secret"), "{events:?}");
    let series = "sluice_queue_dropped_total{topic=\"orders\",reason=\"not-redactable\"}";
    assert!(rig.gateway.metric(series).await >= 1.0);
}

#[tokio::test]
async fn a_request_without_its_key_or_with_too_much_is_not_sent() {
    let publish = "publish: { topic: orders, type: a, key: \"json:/customer\", key_required: true, \
                   data: none }";
    let rig = Rig::new(publish, created).await;
    let refused = rig.post(r#"{"customer":""}"#).await;
    assert_eq!((refused.status(), &*code(&refused)), (400, "event-key-missing"));
    assert_eq!(rig.post(ORDER).await.status(), 201);
    assert_eq!(rig.origin.requests().len(), 1);

    let rig = Rig::new("publish: { topic: orders, type: a }", created).await;
    let refused = rig.post(&"x".repeat(65 * 1024)).await;
    assert_eq!((refused.status(), &*code(&refused)), (413, "body-too-large"));
    // It fits, but not with what else the event says.
    let refused = rig.post(&"x".repeat(64 * 1024 - 8)).await;
    assert_eq!((refused.status(), &*code(&refused)), (413, "event-too-large"));
    assert_eq!(rig.origin.requests().len(), 0);
    assert!(rig.take("all").await.is_empty());
}

#[tokio::test]
async fn a_route_that_answers_by_itself_publishes() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "queue: {{ dir: \"{}\", {QUEUE} }}\ntopics: {{ orders: {{}} }}\n\
         subscriptions: [{{ name: all, topic: orders, from: earliest }}]\n\
         routes: [{{ name: hook, match: {{ path: /orders }}, respond: {{ status: 202 }}, \
         publish: {{ topic: orders, type: hook.received }} }}]\n",
        folder.path().join("data").display()
    );
    let gateway = Running::start(&yaml);
    assert_eq!(post(&gateway, ORDER).await.status(), 202);
    assert_eq!(kinds(&take(&gateway, "all").await), ["hook.received"]);
}

#[tokio::test]
async fn what_was_not_sent_leaves_no_event() {
    let folder = tempfile::tempdir().unwrap();
    let publish = "publish: { topic: orders, type: a, when: always }";
    let gateway = Running::start(&yaml(folder.path(), &dead_address().to_string(), QUEUE, publish));
    let answer = post(&gateway, ORDER).await;
    assert_eq!((answer.status(), &*code(&answer)), (502, "upstream-connect"));
    assert!(take(&gateway, "all").await.is_empty());
    assert!(gateway.metric("sluice_queue_uncertain_total").await < 1.0);
}

#[tokio::test]
async fn what_may_have_been_seen_is_uncertain() {
    let hang = "timeout: 300ms, ";
    for (case, more, reply) in
        [("broken off", "", 0), ("never answered", hang, 1), ("a 504 of a gateway behind", "", 2)]
    {
        let publish =
            format!("{more}publish: {{ topic: orders, type: a, key: \"json:/customer\" }}");
        let rig = Rig::new(&publish, move |_| match reply {
            0 => Reply::Close,
            1 => Reply::Hang,
            _ => answer("504 Gateway Timeout", ""),
        })
        .await;
        let answer = rig.post(ORDER).await;
        assert!([502, 504].contains(&answer.status()), "{case}");
        assert!(answer.all("sluice-event-id").is_empty());
        let events = rig.take("all").await;
        assert_eq!(kinds(&events), ["a.uncertain"], "{case}");
        assert_eq!(events[0]["data"], serde_json::from_str::<Value>(ORDER).unwrap());
        assert_eq!(events[0]["subject"], "c7", "it has the place of the event in its order");
        assert_eq!(rig.origin.requests().len(), 1, "{case}: it is not sent again");
        assert!(rig.gateway.metric("sluice_queue_uncertain_total").await >= 1.0);
    }
}

#[tokio::test]
async fn a_late_answer_is_an_answer_to_all_but_its_client() {
    let publish = "timeout: 400ms, publish: { topic: orders, type: a }";
    let late = |_| Reply::After(Duration::from_millis(600), origin::ok("fine"));
    let rig = Rig::new(publish, late).await;
    let answer = rig.post(ORDER).await;
    assert_eq!((answer.status(), &*code(&answer)), (504, "upstream-timeout-total"));
    assert_eq!(kinds(&rig.take("all").await), ["a"]);
}

/// Where a client leaves.
#[derive(Clone, Copy, Debug)]
enum At {
    /// Its body is under way: nothing is sent yet.
    Upload,
    /// The upstream has the request.
    Head,
    /// The answer's body is under way.
    Body,
}

#[tokio::test]
async fn each_effect_has_its_event_wherever_its_client_leaves() {
    for (at, mode, upstream) in [
        (At::Upload, "after", "answers"),
        (At::Head, "after", "answers"),
        (At::Head, "after", "breaks off"),
        (At::Head, "before", "answers"),
        (At::Body, "after", "answers"),
    ] {
        let publish = format!("publish: {{ topic: orders, type: a, mode: {mode} }}");
        let answers = upstream == "answers";
        let rig = Rig::new(&publish, move |_| match at {
            At::Body => {
                Reply::Answer(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome".to_vec())
            }
            _ if answers => Reply::After(Duration::from_millis(200), origin::ok("fine")),
            _ => Reply::Close,
        })
        .await;
        let mut stream = Client::connect(rig.gateway.address()).await.into_stream();
        stream.write_all(format!("{}\r\n\r\n", head(ORDER)).as_bytes()).await.unwrap();
        let sent = if matches!(at, At::Upload) { &ORDER[..4] } else { ORDER };
        stream.write_all(sent.as_bytes()).await.unwrap();
        match at {
            At::Upload => {}
            At::Head => rig.origin.wait_for(1).await,
            At::Body => {
                let mut first = [0; 12];
                tokio::io::AsyncReadExt::read_exact(&mut stream, &mut first).await.unwrap();
                assert_eq!(&first, b"HTTP/1.1 200");
            }
        }
        drop(stream);
        let expected: &[&str] = match (at, answers) {
            (At::Upload, _) => &[],
            (_, true) => &["a"],
            (_, false) => &["a.uncertain"],
        };
        let case = format!("{at:?} {mode} {upstream}");
        if !expected.is_empty() {
            eventually(&case, || rig.origin.requests().len() == 1).await;
        }
        // The exchange goes on: what it leaves comes, and nothing else does.
        let mut events = Vec::new();
        within(&case, async {
            while events.len() < expected.len() {
                events.extend(rig.take("all").await);
            }
        })
        .await;
        assert_eq!(kinds(&events), expected, "{case}");
    }
}

#[tokio::test]
async fn without_room_on_the_disk_nothing_is_sent_and_other_routes_go_on() {
    let queue = "disk: { low_water: 90%, min_free: 1024GiB }";
    let publish = "publish: { topic: orders, type: a }";
    let rig = Rig::with(queue, publish, created).await;
    let refused = rig.post(ORDER).await;
    assert_eq!((refused.status(), &*code(&refused)), (503, "queue-disk"));
    assert!(refused.field("retry-after").is_some());
    assert_eq!(rig.origin.requests().len(), 0);
    assert_eq!(rig.gateway.client().await.get("/other").await.status(), 201);
}

#[tokio::test]
async fn without_room_in_the_buffer_nothing_is_sent() {
    let queue = format!("{QUEUE}, publish_buffer: 2MiB");
    let publish = "publish: { topic: audit, type: a, data: response }";
    let rig = Rig::with(&queue, publish, |number| match number {
        0 => Reply::Hang,
        _ => created(number),
    })
    .await;
    let mut first = rig.gateway.client().await;
    first.send(format!("{}\r\n\r\n{ORDER}", head(ORDER))).await;
    rig.origin.wait_for(1).await;
    // It holds the room of a whole answer, twice: that of its record, too.
    let refused = rig.post(ORDER).await;
    assert_eq!((refused.status(), &*code(&refused)), (503, "queue-full"));
    assert!(refused.field("retry-after").is_some());
    assert_eq!(rig.origin.requests().len(), 1);
    drop(first);
}

#[tokio::test]
async fn an_offline_topic_refuses_its_route_and_a_route_that_ignores_it_too() {
    for on_error in ["fail", "ignore"] {
        let publish = format!("publish: {{ topic: orders, type: a, on_error: {on_error} }}");
        let rig = Rig::new(&publish, created).await;
        assert_eq!(rig.post(ORDER).await.status(), 201);
        let Rig { gateway, origin, folder } = rig;
        drop(gateway);
        damage(&folder.path().join("data/topics"));
        let gateway =
            Running::start(&yaml(folder.path(), &origin.address().to_string(), QUEUE, &publish));
        let refused = post(&gateway, ORDER).await;
        assert_eq!((refused.status(), &*code(&refused)), (503, "queue-unavailable"));
        assert_eq!(origin.requests().len(), 1, "nothing was sent");
        assert_eq!(gateway.client().await.get("/other").await.status(), 201);
    }
}

/// Flips a bit of what was stored in every topic.
fn damage(topics: &Path) {
    for topic in std::fs::read_dir(topics).unwrap() {
        for file in std::fs::read_dir(topic.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|it| it == "log") {
                let mut bytes = std::fs::read(&path).unwrap();
                let at = 4096 + 100;
                if bytes.len() > at {
                    bytes[at] ^= 1;
                    std::fs::write(&path, bytes).unwrap();
                }
            }
        }
    }
}

async fn delayed(gateway: &Running, topic: &str) -> u64 {
    gateway.json(&format!("/v1/topics/{topic}")).await["delayed"].as_u64().unwrap()
}

#[tokio::test]
async fn an_event_with_a_delay_waits_over_a_restart_and_comes_once() {
    const DELAY: Duration = Duration::from_secs(3);
    let mut rig = Rig::new(
        "publish: [{ topic: orders, type: reminder, delay: 3s }, { topic: orders, type: order, delay: 1h }, \
         { topic: audit, type: asked, mode: before, delay: 1h }]",
        created,
    )
    .await;
    let asked = Instant::now();
    let told = rig.post(ORDER).await;
    assert_eq!((told.status(), told.all("sluice-event-id").len()), (201, 3));
    // They are appended once the client has its answer; one may be due by now.
    for topic in ["orders", "audit"] {
        within("events to wait", async { while delayed(&rig.gateway, topic).await == 0 {} }).await;
    }
    let origin = rig.origin.address().to_string();
    let route = "publish: { topic: orders, type: other }";
    drop(rig.gateway);
    rig.gateway = Running::start(&yaml(rig.folder.path(), &origin, QUEUE, route));
    let mut events = Vec::new();
    within("the event to be due", async {
        while events.is_empty() {
            events = rig.take("all").await;
        }
    })
    .await;
    // It is taken by the wall clock, from when the request came.
    assert!(asked.elapsed() + Duration::from_millis(100) >= DELAY, "{:?}", asked.elapsed());
    assert_eq!(kinds(&events), ["reminder"]);
    assert!(told.all("sluice-event-id").contains(&events[0]["id"].as_str().unwrap()));
    assert_eq!(rig.take("all").await.len(), 0, "once");
    assert_eq!(
        (delayed(&rig.gateway, "orders").await, delayed(&rig.gateway, "audit").await),
        (1, 1)
    );
}

#[tokio::test]
async fn where_no_more_events_may_wait_nothing_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::start(|number, _| created(number)).await;
    let route = "publish: { topic: orders, type: reminder, delay: 1h, intent: false }";
    let yaml = yaml(folder.path(), &origin.address().to_string(), QUEUE, route);
    let gateway = Running::start(
        &yaml.replace("max_event_bytes: 64KiB", "max_event_bytes: 64KiB, max_delayed: 2"),
    );
    for _ in 0..2 {
        assert_eq!(post(&gateway, ORDER).await.status(), 201);
    }
    let refused = post(&gateway, ORDER).await;
    assert_eq!((refused.status(), &*code(&refused)), (503, "queue-full"));
    assert!(refused.field("retry-after").is_some());
    assert_eq!(origin.requests().len(), 2);
}
