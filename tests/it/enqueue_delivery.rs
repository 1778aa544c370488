//! Routes that store requests, and the subscription that delivers them: what their clients hear of the
//! upstream's answer, and in which order the upstream hears of them.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::harness::{Message, Origin, Reply, Running, eventually, within};

const ORDER: &str = r#"{"customer":"c7"}"#;

struct Rig {
    gateway: Running,
    folder: tempfile::TempDir,
}

fn yaml(folder: &Path, upstream: &str) -> String {
    format!(
        "workers: 2\n\
         queue: {{ dir: \"{}\", disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
         topics: {{ intake: {{ partitions: 2 }} }}\n\
         subscriptions:\n\
         \x20 - {{ name: deliver, topic: intake, from: earliest, push: {{ upstream: shop, timeout: 2s }},\n\
         \x20     retry: {{ schedule: [50ms, 50ms, 50ms, 100ms], max_attempts: 60 }} }}\n\
         upstreams: {{ shop: {{ endpoints: [\"{upstream}\"] }} }}\n\
         routes:\n\
         \x20 - {{ name: intake, match: {{ path: /later }}, rewrite: {{ path: \"/v2{{path}}\" }},\n\
         \x20     request_headers: {{ set: {{ x-tier: gold }} }}, response_headers: {{ set: {{ x-gate: a }} }},\n\
         \x20     enqueue: {{ topic: intake, key: \"json:/customer\", on_prefer: true }} }}\n\
         \x20 - {{ name: orders, match: {{ path: /now }}, upstream: shop,\n\
         \x20     spill: {{ topic: intake, key: \"json:/customer\" }} }}\n",
        folder.join("data").display()
    )
}

impl Rig {
    fn new(upstream: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let gateway = Running::start(&yaml(folder.path(), upstream));
        Self { gateway, folder }
    }

    /// The same store in a gateway that is started anew.
    fn restart(self, upstream: &str) -> Self {
        let Self { gateway, folder } = self;
        drop(gateway);
        let gateway = Running::start(&yaml(folder.path(), upstream));
        Self { gateway, folder }
    }

    /// An order of the customer `c7`, for the route that spills.
    async fn order(&self, order: &str) -> Message {
        let body = json!({ "customer": "c7", "order": order }).to_string();
        self.send("POST /now", "", &body).await
    }

    async fn send(&self, line: &str, fields: &str, body: &str) -> Message {
        let mut client = self.gateway.client().await;
        let length = body.len();
        let head = format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: {length}");
        within("an answer", client.request(&head, body)).await
    }

    /// How a request stands once it is over.
    async fn result(&self, location: &str) -> Value {
        within("the end of a request", async {
            loop {
                let answer = self.send(&format!("GET {location}?wait=20s"), "", "").await;
                assert_eq!(answer.status(), 200, "{}", answer.text());
                let told: Value = serde_json::from_slice(&answer.body).unwrap();
                if told["state"] != "queued" && told["state"] != "running" {
                    return told;
                }
            }
        })
        .await
    }
}

fn location(answer: &Message) -> String {
    assert_eq!(answer.status(), 202, "{}", answer.text());
    answer.field("location").unwrap().to_owned()
}

fn answer(status: &str, body: &str) -> Reply {
    let length = body.len();
    Reply::Answer(
        format!("HTTP/1.1 {status}\r\nserver: mine\r\ncontent-length: {length}\r\n\r\n{body}")
            .into(),
    )
}

#[tokio::test]
async fn what_is_stored_is_sent_as_it_would_have_been_and_its_answer_told() {
    let shop = Origin::start(|_, _| answer("201 Created", r#"{"id":9}"#)).await;
    let rig = Rig::new(&shop.address().to_string());
    let fields = "Authorization: Bearer secret\r\nX-Mine: 1\r\n";
    let path = location(&rig.send("POST /later?q=1", fields, ORDER).await);
    let told = rig.result(&path).await;
    assert_eq!((&told["state"], &told["attempts"]), (&json!("succeeded"), &json!(1)));
    assert_eq!(
        (&told["answer"]["status"], &told["answer"]["body"]),
        (&json!(201), &json!(r#"{"id":9}"#))
    );
    assert_eq!(told["answer"]["headers"]["x-gate"], "a", "changed as that of a live request");
    let [sent] = <[Message; 1]>::try_from(shop.requests()).unwrap();
    assert_eq!(sent.line, "POST /v2/later?q=1 HTTP/1.1");
    assert_eq!(sent.body, ORDER.as_bytes());
    assert_eq!((sent.field("x-mine"), sent.field("x-tier")), (Some("1"), Some("gold")));
    assert!(sent.field("x-forwarded-for").is_some() && sent.field("authorization").is_none());
    let id = path.rsplit('/').next().unwrap();
    assert_eq!(sent.field("idempotency-key"), Some(&*format!("\"{id}\"")));
}

#[tokio::test]
async fn a_client_that_prefers_to_wait_gets_the_upstreams_answer() {
    let shop = Origin::start(|_, _| {
        Reply::After(
            Duration::from_millis(50),
            b"HTTP/1.1 409 Conflict\r\ncontent-length: 2\r\n\r\nno".into(),
        )
    })
    .await;
    let rig = Rig::new(&shop.address().to_string());
    let answer = rig.send("POST /later", "Prefer: wait=20\r\n", ORDER).await;
    assert_eq!((answer.status(), answer.text().as_str()), (409, "no"));
    assert_eq!(answer.field("preference-applied"), Some("wait=20"));
    assert_eq!(answer.field("x-gate"), Some("a"));
    let told = rig.result(answer.field("content-location").unwrap()).await;
    assert_eq!((&told["state"], &told["answer"]["status"]), (&json!("failed"), &json!(409)));
}

#[tokio::test]
async fn what_may_have_been_seen_is_uncertain_and_not_sent_again() {
    let shop = Origin::start(|_, _| Reply::Reset).await;
    let rig = Rig::new(&shop.address().to_string());
    let path = location(&rig.send("POST /later", "", ORDER).await);
    let told = rig.result(&path).await;
    assert_eq!((&told["state"], told.get("answer")), (&json!("uncertain"), None));
    assert_eq!(shop.requests().len(), 1);
}

/// The customers' orders, in the order of the upstream.
fn seen(shop: &Origin) -> Vec<String> {
    let order = |request: Message| {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        body["order"].as_str().unwrap().to_owned()
    };
    shop.requests().into_iter().map(order).collect()
}

/// Refuses connections until it listens; bound, so that the port is ours.
fn refusing() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

fn listening(socket: TcpSocket) -> Origin {
    let done = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone";
    Origin::start_on(socket.listen(64).unwrap(), move |_, _| {
        Reply::After(Duration::from_millis(5), done.into())
    })
}

/// Sends so many, one after the other; gives where those are that were spilled.
async fn orders(rig: &Rig, prefix: &str, count: usize, sent: &mut Vec<String>) -> Vec<String> {
    let mut spilled = Vec::new();
    for number in 0..count {
        let order = format!("{prefix}{number}");
        let answer = rig.order(&order).await;
        sent.push(order);
        if answer.status() != 200 {
            spilled.push(location(&answer));
        }
    }
    spilled
}

#[tokio::test]
async fn what_was_spilled_comes_before_what_came_after_it_and_then_nothing_is_spilled() {
    let (socket, address) = refusing();
    let rig = Rig::new(&address);
    let mut sent = Vec::new();
    let mut spilled = orders(&rig, "a", 5, &mut sent).await;
    assert_eq!(spilled.len(), 5);
    let shop = listening(socket);
    // Those that come while others wait are spilled behind them, and are over before one is sent at once.
    spilled.extend(orders(&rig, "b", 8, &mut sent).await);
    for path in &spilled {
        assert_eq!(rig.result(path).await["state"], "succeeded");
    }
    assert!(orders(&rig, "c", 1, &mut sent).await.is_empty());
    eventually("every order", || shop.requests().len() >= sent.len()).await;
    assert_eq!(seen(&shop), sent, "each once, none before one that came first");
}

#[tokio::test]
async fn after_a_restart_nothing_overtakes_what_was_spilled_before_it() {
    let (socket, address) = refusing();
    let rig = Rig::new(&address);
    let mut sent = Vec::new();
    let mut spilled = orders(&rig, "a", 5, &mut sent).await;
    let rig = rig.restart(&address);
    let shop = listening(socket);
    spilled.extend(orders(&rig, "b", 8, &mut sent).await);
    for path in &spilled {
        assert_eq!(rig.result(path).await["state"], "succeeded");
    }
    eventually("every order", || shop.requests().len() >= sent.len()).await;
    assert_eq!(seen(&shop), sent, "each once, none before one that came first");
    // What is over is looked at once a second.
    within("the end of the spilling", async {
        while rig.order("c").await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}
