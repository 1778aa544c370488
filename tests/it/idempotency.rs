//! Semantics 9: a key is one request's, whatever happens to it, and says what became of it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Message, Origin, Reply, Running, dead_address, eventually, within};

const ORDER: &str = r#"{"customer":"c7"}"#;

struct Rig {
    gateway: Running,
    origin: Origin,
    folder: tempfile::TempDir,
    yaml: String,
}

fn yaml(folder: &std::path::Path, upstream: &str, route: &str) -> String {
    format!(
        "workers: 2\n\
         queue: {{ dir: \"{}\", disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
         topics: {{ orders: {{}} }}\n\
         subscriptions: [{{ name: all, topic: orders, from: earliest, order: none }}]\n\
         upstreams: {{ origin: {{ endpoints: [\"{upstream}\"] }} }}\n\
         routes:\n\
         \x20 - {{ name: orders, match: {{ path: /orders }}, upstream: origin, {route} }}\n",
        folder.join("data").display()
    )
}

impl Rig {
    async fn new(route: &str, reply: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        let origin = Origin::start(move |number, _| reply(number)).await;
        let folder = tempfile::tempdir().unwrap();
        let yaml = yaml(folder.path(), &origin.address().to_string(), route);
        Self { gateway: Running::start(&yaml), origin, folder, yaml }
    }

    async fn post(&self, key: &str, body: &str) -> Message {
        post(&self.gateway, key, body).await
    }

    /// The same store in a gateway that is started anew.
    fn restart(self) -> Self {
        let Self { gateway, origin, folder, yaml } = self;
        drop(gateway);
        Self { gateway: Running::start(&yaml), origin, folder, yaml }
    }

    fn effects(&self) -> usize {
        self.origin.requests().len()
    }
}

async fn post(gateway: &Running, key: &str, body: &str) -> Message {
    let mut client = gateway.client().await;
    let field = if key.is_empty() { String::new() } else { format!("Idempotency-Key: {key}\r\n") };
    let head = format!(
        "POST /orders HTTP/1.1\r\nHost: a\r\n{field}Content-Type: application/json\r\nContent-Length: {}",
        body.len()
    );
    within("an answer", client.request(&head, body)).await
}

fn created(number: usize) -> Reply {
    answer("201 Created", &format!("{{\"id\":{number}}}"))
}

fn answer(status: &str, body: &str) -> Reply {
    let length = body.len();
    Reply::Answer(
        format!("HTTP/1.1 {status}\r\nx-mine: 1\r\ncontent-length: {length}\r\n\r\n{body}").into(),
    )
}

fn told(answer: &Message) -> (u16, String) {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    (answer.status(), body["code"].as_str().unwrap_or_default().to_owned())
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// Keys of which nobody knows, as the metric counts them.
async fn held(gateway: &Running) -> String {
    gateway.metric("sluice_queue_uncertain_keys").await.to_string()
}

async fn events(gateway: &Running) -> Vec<Value> {
    let path = "/v1/subscriptions/all/receive";
    let asked = r#"{"max_events":100,"wait_ms":200}"#;
    let mut events = Vec::new();
    loop {
        let answer = gateway.admin_with("POST", path, asked).await;
        if answer.status() == 204 {
            return events;
        }
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        events.extend(answer["events"].as_array().unwrap().iter().map(|it| it["event"].clone()));
    }
}

#[tokio::test]
async fn what_was_done_is_answered_again_over_a_restart_and_not_done_again() {
    let rig = Rig::new("idempotency: {}", created).await;
    let first = rig.post("\"k1\"", ORDER).await;
    assert_eq!((first.status(), first.text()), (201, r#"{"id":0}"#.to_owned()));
    assert_eq!(first.field("idempotent-replayed"), None);
    let assert_again = |again: Message| {
        assert_eq!((again.status(), again.text()), (201, r#"{"id":0}"#.to_owned()));
        assert_eq!(again.field("idempotent-replayed"), Some("true"));
        assert_eq!(again.field("x-mine"), Some("1"), "with its fields");
    };
    assert_again(rig.post("k1", ORDER).await);
    assert_eq!(told(&rig.post("k1", "{}").await), refused(422, "idempotency-mismatch"));
    assert_eq!(rig.post("k2", ORDER).await.text(), r#"{"id":1}"#, "another key");
    assert_eq!(rig.post("", ORDER).await.status(), 201, "none is needed");
    let rig = rig.restart();
    assert_again(rig.post("k1", ORDER).await);
    assert_eq!(told(&rig.post("k1", "{}").await), refused(422, "idempotency-mismatch"));
    assert_eq!(rig.effects(), 3);
}

#[tokio::test]
async fn a_key_that_is_needed_is_asked_for() {
    let rig = Rig::new("idempotency: { required: true, header: x-once }", created).await;
    for (field, title) in [
        ("", Some("This request needs an idempotency key.")),
        ("X-Once: \"a", Some("This idempotency key is not valid.")),
        ("X-Once: a\r\nX-Once: a", Some("This request has more than one idempotency key.")),
        ("X-Once: a", None),
    ] {
        let mut client = rig.gateway.client().await;
        let field = if field.is_empty() { String::new() } else { format!("\r\n{field}") };
        let head = format!("POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: 2{field}");
        let answer = client.request(&head, "{}").await;
        assert_eq!(answer.status(), if title.is_some() { 400 } else { 201 }, "{field}");
        if let Some(title) = title {
            assert_eq!(told(&answer).1, "idempotency-missing");
            let problem: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(problem["title"], title);
        }
    }
    assert_eq!(rig.gateway.client().await.get("/orders").await.status(), 201, "a GET needs none");
}

#[tokio::test]
async fn repeats_in_parallel_have_at_most_one_effect_for_each_key() {
    let slow = |number| {
        Reply::After(
            Duration::from_millis(100),
            match created(number) {
                Reply::Answer(bytes) => bytes,
                _ => Vec::new(),
            },
        )
    };
    let rig = Rig::new("idempotency: {}", slow).await;
    for key in ["a", "b", "c", "d"] {
        let all = [rig.post(key, ORDER), rig.post(key, ORDER), rig.post(key, ORDER)];
        let answers = futures_util::future::join_all(all).await;
        let done = answers.iter().filter(|it| it.status() == 201).count();
        assert!(done >= 1);
        for answer in answers.iter().filter(|it| it.status() != 201) {
            assert_eq!(told(answer), refused(409, "idempotency-in-flight"));
            assert!(answer.field("retry-after").is_some());
        }
        assert_eq!(rig.post(key, ORDER).await.field("idempotent-replayed"), Some("true"));
    }
    assert_eq!(rig.effects(), 4);
}

#[tokio::test]
async fn what_was_refused_or_not_sent_frees_the_key() {
    for (status, is_free) in [
        ("429 Too Many Requests", true),
        ("503 Busy\r\nretry-after: 1", true),
        ("503 Busy", false),
        ("404 Not Found", false),
        ("500 Oops", false),
    ] {
        let rig = Rig::new("idempotency: {}", move |number| match number {
            0 => answer(status, "no"),
            _ => created(number),
        })
        .await;
        let first = rig.post("k", ORDER).await;
        let again = rig.post("k", ORDER).await;
        assert_eq!(again.status() == 201, is_free, "{status}");
        assert_eq!(again.field("idempotent-replayed").is_some(), !is_free, "{status}");
        assert!(is_free || again.status() == first.status());
    }
    let folder = tempfile::tempdir().unwrap();
    let gateway =
        Running::start(&yaml(folder.path(), &dead_address().to_string(), "idempotency: {}"));
    for _ in 0..2 {
        assert_eq!(told(&post(&gateway, "k", ORDER).await), refused(502, "upstream-connect"));
    }
}

#[tokio::test]
async fn what_may_have_been_seen_is_held_until_somebody_says_what_became_of_it() {
    for (reply, outcome) in [(0, "done"), (1, "not_done"), (2, "done")] {
        let route = "timeout: 300ms, idempotency: {}";
        let rig = Rig::new(route, move |number| match (number, reply) {
            (0, 0) => Reply::Close,
            (0, 1) => answer("504 Gateway Timeout", ""),
            (0, _) => Reply::Hang,
            _ => created(number),
        })
        .await;
        assert!([502, 504].contains(&rig.post("k", ORDER).await.status()));
        let rig = if reply == 0 { rig.restart() } else { rig };
        assert_eq!(told(&rig.post("k", ORDER).await), refused(409, "idempotency-uncertain"));
        assert_eq!(rig.effects(), 1);
        // A late answer is waited for: then it is on disk that nobody knows.
        within("the key to be listed", async {
            while rig.gateway.metric("sluice_queue_ingress_entries").await > 0.0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        assert_eq!(held(&rig.gateway).await, "1");
        let listed = rig.gateway.json("/v1/idempotency?state=uncertain").await;
        let key = &listed["keys"][0];
        assert_eq!(
            (&key["route"], &key["key"], &key["method"], &key["target"]),
            (&json!("orders"), &json!("k"), &json!("POST"), &json!("/orders"))
        );
        let path = format!("/v1/idempotency/{}/resolve", key["id"].as_str().unwrap());
        let body = json!({ "outcome": outcome }).to_string();
        assert_eq!(rig.gateway.admin_with("POST", &path, &body).await.status(), 200);
        assert_eq!(rig.gateway.admin_with("POST", &path, &body).await.status(), 404, "once");
        assert_eq!(held(&rig.gateway).await, "0");
        let rig = rig.restart();
        let again = rig.post("k", ORDER).await;
        let is_done = outcome == "done";
        assert_eq!(again.status(), if is_done { 200 } else { 201 });
        assert_eq!(again.field("idempotent-replayed").is_some(), is_done);
        assert_eq!(rig.effects(), if is_done { 1 } else { 2 });
    }
}

#[tokio::test]
async fn the_shell_lists_uncertain_keys_and_resolves_them() {
    let rig = Rig::new("idempotency: {}", |_| answer("504 Gateway Timeout", "")).await;
    let admin = rig.gateway.gateway().admin_address().to_string();
    let queue = async |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sluice"));
        command.args(["queue", "--admin", &admin]).args(args);
        let done = tokio::task::spawn_blocking(move || command.output());
        let output = within("the program", done).await.unwrap().unwrap();
        let said = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    assert_eq!(queue(&["uncertain"]).await, (Some(0), "no uncertain keys\n".to_owned()));
    assert_eq!(rig.post("k", ORDER).await.status(), 504);
    let listed = within("the key to be listed", async {
        loop {
            let (_, listed) = queue(&["uncertain"]).await;
            if listed.contains("POST /orders") {
                return listed;
            }
        }
    })
    .await;
    let row: Vec<_> = listed.lines().nth(1).unwrap().split_whitespace().collect();
    let (id, route, key) = (row[0], row[3], row[row.len() - 3]);
    assert_eq!((route, key), ("orders", "k"), "{listed}");
    let told = queue(&["resolve", id, "--outcome", "not_done"]).await;
    assert_eq!(told, (Some(0), format!("{id} is not done\n")));
    let (code, told) = queue(&["resolve", id, "--outcome", "done"]).await;
    assert!(code == Some(1) && told.contains("no uncertain key named"), "{told}");
    assert_eq!(rig.post("k", ORDER).await.status(), 504);
    assert_eq!(rig.effects(), 2, "it was sent again");
}

/// The three answers to a key that is used three times at once.
async fn thrice(rig: &Rig, key: &str) -> Vec<Message> {
    let all = [rig.post(key, ORDER), rig.post(key, ORDER), rig.post(key, ORDER)];
    futures_util::future::join_all(all).await
}

#[tokio::test]
async fn three_at_once_have_one_effect_at_an_upstream_that_is_slower_than_the_timeout() {
    // The first answers late, the second never.
    let rig = Rig::new("timeout: 400ms, idempotency: {}", |number| match number {
        0 => Reply::After(Duration::from_millis(600), crate::harness::origin::ok("fine")),
        _ => Reply::Hang,
    })
    .await;
    for (key, ends) in [("late", 200), ("never", 409)] {
        for answer in thrice(&rig, key).await {
            let is_told = [
                refused(504, "upstream-timeout-total"),
                refused(409, "idempotency-in-flight"),
                refused(409, "idempotency-uncertain"),
            ];
            assert!(is_told.contains(&told(&answer)), "{key}: {:?}", told(&answer));
        }
        within("the last word", async {
            while rig.gateway.metric("sluice_queue_ingress_entries").await > 0.0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let again = thrice(&rig, key).await;
        assert!(again.iter().all(|it| it.status() == ends), "{key}: {:?}", told(&again[0]));
        assert!(ends != 200 || again.iter().all(|it| it.text() == "fine"), "{key}: equal answers");
    }
    assert_eq!((rig.effects(), &*held(&rig.gateway).await), (2, "1"));
    let listed = rig.gateway.json("/v1/idempotency?state=uncertain").await;
    let path = format!("/v1/idempotency/{}/resolve", listed["keys"][0]["id"].as_str().unwrap());
    let resolved = rig.gateway.admin_with("POST", &path, r#"{"outcome":"done"}"#).await;
    assert_eq!((resolved.status(), &*held(&rig.gateway).await), (200, "0"));
    assert!(thrice(&rig, "never").await.iter().all(|it| it.status() == 200));
    assert_eq!(rig.effects(), 2);

    // An upstream that knows keys again does it once, and says so as often as it is asked.
    let route = "timeout: 400ms, idempotency: { on_uncertain: resend }";
    let rig = Rig::new(route, |number| match number {
        0 | 1 => Reply::Hang,
        _ => answer("201 Created", r#"{"id":7}"#),
    })
    .await;
    let mut answers = Vec::new();
    within("all to know", async {
        while answers.len() < 3 {
            let known = thrice(&rig, "k").await.into_iter().filter(|it| it.status() == 201);
            answers.extend(known);
        }
    })
    .await;
    assert!(answers.iter().all(|it| it.text() == r#"{"id":7}"#));
    assert_eq!(&*held(&rig.gateway).await, "0");
    let requests = rig.origin.requests();
    assert!(requests.iter().all(|it| it.field("idempotency-key") == Some("k")));
    assert!(requests.len() >= 3);
}

#[tokio::test]
async fn a_late_answer_says_what_became_of_the_key() {
    let late = |_| Reply::After(Duration::from_millis(600), crate::harness::origin::ok("fine"));
    let rig = Rig::new("timeout: 400ms, idempotency: {}", late).await;
    assert_eq!(told(&rig.post("k", ORDER).await), refused(504, "upstream-timeout-total"));
    assert_eq!(told(&rig.post("k", ORDER).await), refused(409, "idempotency-uncertain"));
    within("the late answer", async {
        while rig.post("k", ORDER).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(rig.effects(), 1);
}

#[tokio::test]
async fn an_upstream_that_honours_the_key_gets_it_again() {
    let route = "idempotency: { on_uncertain: resend }, retry: { attempts: 2 }";
    let rig = Rig::new(route, |number| match number {
        0 | 2 | 3 => Reply::Close,
        _ => created(number),
    })
    .await;
    assert_eq!(rig.post("k", ORDER).await.status(), 201, "the second attempt of the first");
    assert_eq!(rig.post("l", ORDER).await.status(), 502, "both attempts");
    assert_eq!(rig.post("l", ORDER).await.status(), 201, "and once more by its client");
    let keys: Vec<_> = rig.origin.requests();
    let keys: Vec<_> = keys.iter().map(|it| it.field("idempotency-key").unwrap()).collect();
    assert_eq!(keys, ["k", "k", "l", "l", "l"], "with the same key");
    // Without a key the same route sends nothing twice.
    let rig = Rig::new(route, |_| Reply::Close).await;
    assert_eq!(rig.post("", ORDER).await.status(), 502);
    assert_eq!(rig.effects(), 1);
}

#[tokio::test]
async fn a_keyed_request_that_publishes_has_one_event_and_one_id() {
    let route =
        "idempotency: {}, publish: [{ topic: orders, type: a }, { topic: orders, type: b }]";
    let rig = Rig::new(route, created).await;
    let first = rig.post("k", ORDER).await;
    assert_eq!(first.all("sluice-event-id").len(), 2);
    let rig = rig.restart();
    let again = rig.post("k", ORDER).await;
    assert_eq!(again.field("idempotent-replayed"), Some("true"));
    assert_eq!(again.all("sluice-event-id"), first.all("sluice-event-id"), "the same events");
    let events = events(&rig.gateway).await;
    let ids: Vec<_> = events.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 2);
    assert!(first.all("sluice-event-id").iter().all(|id| ids.contains(id)));
    assert_eq!(uuid::Uuid::parse_str(ids[0]).unwrap().get_version_num(), 5);
}

#[tokio::test]
async fn a_long_answer_is_remembered_by_its_status() {
    let long = "x".repeat(70_000);
    let rig = Rig::new("idempotency: {}", {
        let long = long.clone();
        move |_| answer("200 OK", &long)
    })
    .await;
    assert_eq!(rig.post("k", ORDER).await.text(), long);
    let again = rig.post("k", ORDER).await;
    assert_eq!((again.status(), again.field("idempotent-replayed")), (200, Some("true")));
    assert!(again.text().contains("not kept"), "{}", again.text());
    assert_eq!(rig.effects(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_and_comes_again_gets_the_answer() {
    let slow = |_| Reply::After(Duration::from_millis(200), crate::harness::origin::ok("fine"));
    let rig = Rig::new("idempotency: {}", slow).await;
    let mut client = rig.gateway.client().await;
    let length = ORDER.len();
    let head = format!(
        "POST /orders HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{ORDER}"
    );
    client.send(head).await;
    rig.origin.wait_for(1).await;
    drop(client);
    within("the answer", async {
        while rig.post("k", ORDER).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    eventually("one effect", || rig.effects() == 1).await;
}
