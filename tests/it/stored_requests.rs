//! Stored requests on their way over real sockets: one effect each, and one end, whatever cuts the way off.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use sluicegate::gateway::Options;

use crate::harness::{
    Origin, Reply, Running,
    cutter::{ANSWER, Cut, Cutter, End},
    within,
};

fn yaml(dir: &Path, upstream: SocketAddr, more: &str) -> String {
    format!(
        "queue: {{ dir: \"{}\", disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
         topics: {{ intake: {{ partitions: 4 }}, done: {{}} }}\n\
         upstreams: {{ shop: {{ endpoints: [\"{upstream}\"], outlier: {{ consecutive_failures: 1000 }} }} }}\n\
         subscriptions:\n\
         \x20 - {{ name: deliver, topic: intake, push: {{ upstream: shop, timeout: 5s }},\n\
         \x20     retry: {{ schedule: [0s, 100ms], max_attempts: 1000 }} {more} }}\n\
         \x20 - {{ name: watch, topic: done, from: earliest }}\n\
         routes:\n\
         \x20 - {{ name: orders, match: {{ path: /orders }}, enqueue: {{ topic: intake, key: \"json:/key\" }} }}\n\
         \x20 - {{ name: honoured, match: {{ path: /honoured }}, enqueue: {{ topic: intake, redeliver: true }} }}\n",
        dir.join("data").display()
    )
}

struct Rig {
    gateway: Running,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn new(upstream: SocketAddr, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { gateway: Running::start(&yaml(folder.path(), upstream, more)), _folder: folder }
    }

    /// Where a request is to be asked for.
    async fn post(&self, path: &str, key: &str) -> String {
        let body = json!({ "key": key }).to_string();
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nX-Own: 1\r\n\
             Content-Length: {length}"
        );
        let answer = within("a 202", self.gateway.client().await.request(&head, &body)).await;
        assert_eq!(answer.status(), 202, "{}", answer.text());
        answer.field("location").unwrap().to_owned()
    }

    async fn status(&self, location: &str) -> Value {
        let answer = self.gateway.client().await.get(&format!("{location}?wait=5s")).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// How it ended.
    async fn ended(&self, location: &str) -> Value {
        within("an end", async {
            loop {
                let status = self.status(location).await;
                if !["queued", "running"].contains(&status["state"].as_str().unwrap()) {
                    return status;
                }
            }
        })
        .await
    }

    /// Requests of `/orders` that have ended so, once there are any.
    async fn count(&self, end: &str) -> f64 {
        let labels = format!("{{route=\"orders\",end=\"{end}\"}}");
        let series = format!("sluice_stored_request_ends_total{labels}");
        within("a count", async {
            loop {
                let count = self.gateway.metric(&series).await;
                if count > 0.0 {
                    return count;
                }
            }
        })
        .await
    }

    async fn dead_letters(&self, count: usize) -> Vec<Value> {
        within("dead letters", async {
            loop {
                let shown = self.gateway.json("/v1/subscriptions/deliver/dead-letters").await;
                let letters = shown["dead_letters"].as_array().cloned().unwrap_or_default();
                if letters.len() >= count {
                    return letters;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }
}

fn answer(line: &str, body: &str) -> Reply {
    let length = body.len();
    Reply::Answer(format!("HTTP/1.1 {line}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes())
}

#[tokio::test]
async fn a_refused_reload_leaves_idle_connections_as_they_are() {
    let shop = Origin::ok("done").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.yaml");
    let written = format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0 }}]\n\
         admin: {{ address: 127.0.0.1:0 }}\n\
         telemetry: {{ access_log: {{ path: off }} }}\n{}",
        yaml(folder.path(), shop.address(), "")
    );
    std::fs::write(&path, &written).unwrap();
    let config = sluicegate::config::load(&path).unwrap().config;
    let options = Options { source: Some(path.clone()), ..Options::default() };
    let gateway = Running::start_with(config, options);
    let rig = Rig { gateway, _folder: folder };
    let location = rig.post("/orders", "a").await;
    assert_eq!(rig.ended(&location).await["state"], "succeeded");
    assert_eq!(shop.connections(), 1);
    // Connections would be made differently, were it not for a subscription that cannot go elsewhere.
    let refused = written
        .replace("outlier:", "connect_timeout: 2s, outlier:")
        .replace("name: watch, topic: done", "name: watch, topic: intake");
    std::fs::write(&path, refused).unwrap();
    let answer = rig.gateway.admin("POST", "/v1/reload").await;
    assert_eq!(answer.status(), 422, "{}", answer.text());
    for key in ["b", "c"] {
        let location = rig.post("/orders", key).await;
        assert_eq!(rig.ended(&location).await["state"], "succeeded");
    }
    assert_eq!((shop.requests().len(), shop.connections()), (3, 1));
}

#[tokio::test]
async fn a_stored_request_reaches_its_upstream_and_its_answer_whoever_asks() {
    let shop = Origin::start(|_, _| {
        Reply::Answer(
            b"HTTP/1.1 201 Created\r\nx-order: 7\r\nset-cookie: a=b\r\ncontent-length: 4\r\n\r\ndone"
                .to_vec(),
        )
    })
    .await;
    let more = ", on_success: { publish: { topic: done, type: order.done, data: response } }";
    let rig = Rig::new(shop.address(), more);
    let location = rig.post("/orders?a=1", "k").await;
    let status = rig.ended(&location).await;
    assert_eq!((&status["state"], &status["attempts"]), (&json!("succeeded"), &json!(1)));
    assert_eq!(status["answer"]["status"], 201);
    assert_eq!(status["answer"]["body"], "done");
    assert_eq!(status["answer"]["headers"]["x-order"], "7");
    assert_eq!(status["answer"]["headers"]["set-cookie"], Value::Null, "no credentials are kept");
    let sent = &shop.requests()[0];
    assert!(sent.line.starts_with("POST /orders?a=1 "), "{}", sent.line);
    assert_eq!(&sent.body[..], br#"{"key":"k"}"#);
    assert_eq!(sent.field("x-own"), Some("1"));
    let id = location.rsplit('/').next().unwrap();
    assert_eq!(sent.field("idempotency-key"), Some(&*format!("\"{id}\"")));
    assert_eq!(sent.field("host"), Some(&*shop.address().to_string()));
    let asked = r#"{"max_events":1,"wait_ms":5000}"#;
    let received = rig.gateway.admin_with("POST", "/v1/subscriptions/watch/receive", asked).await;
    let received: Value = serde_json::from_slice(&received.body).unwrap();
    assert_eq!(received["events"][0]["event"]["type"], "order.done");
    let delivered =
        "sluice_subscription_deliveries_total{subscription=\"deliver\",outcome=\"succeeded\"}";
    assert!((rig.gateway.metric(delivered).await - 1.0).abs() < 0.1);
    let counted = "sluice_stored_requests_total{route=\"orders\",how=\"enqueued\"}";
    assert!((rig.gateway.metric(counted).await - 1.0).abs() < 0.1);
    assert!((rig.count("succeeded").await - 1.0).abs() < 0.1);
}

#[tokio::test]
async fn an_upstream_that_asks_for_time_gets_it_and_the_request_once() {
    let effects = Arc::new(AtomicUsize::new(0));
    let counted = effects.clone();
    let shop = Origin::start(move |number, _| match number {
        0 => answer("429 Slow\r\nretry-after: 1", ""),
        1 => answer("503 Busy\r\nretry-after: 1", ""),
        _ => {
            counted.fetch_add(1, Ordering::SeqCst);
            answer("404 No", "no")
        }
    })
    .await;
    let rig = Rig::new(shop.address(), "");
    let since = tokio::time::Instant::now();
    let status = rig.ended(&rig.post("/orders", "k").await).await;
    assert!(since.elapsed() >= Duration::from_secs(2), "it asked for two seconds");
    assert_eq!((&status["state"], &status["attempts"]), (&json!("failed"), &json!(3)));
    assert_eq!((effects.load(Ordering::SeqCst), shop.requests().len()), (1, 3));
    let keys: Vec<_> =
        shop.requests().iter().map(|it| it.field("idempotency-key").unwrap().to_owned()).collect();
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[tokio::test]
async fn an_upstream_that_is_away_gets_its_requests_when_it_is_back() {
    let away = Origin::ok("").await;
    away.kill();
    let rig = Rig::new(away.address(), "");
    let mut locations = Vec::new();
    for number in 0..5 {
        locations.push(rig.post("/orders", &format!("k{number}")).await);
    }
    within("an attempt", async { while rig.status(&locations[0]).await["attempts"] == 0 {} }).await;
    let shop = Origin::start_at(away.address(), |_, _| answer("200 OK", "done")).await;
    for location in &locations {
        assert_eq!(rig.ended(location).await["state"], "succeeded");
    }
    assert_eq!(shop.requests().len(), 5);
}

#[tokio::test]
async fn an_upstream_that_honours_the_key_is_asked_again() {
    let shop = Origin::start(|number, _| match number {
        0 => Reply::Close,
        1 => answer("502 Bad", ""),
        _ => answer("200 OK", "done"),
    })
    .await;
    let rig = Rig::new(shop.address(), "");
    let status = rig.ended(&rig.post("/honoured", "k").await).await;
    assert_eq!((&status["state"], &status["attempts"]), (&json!("succeeded"), &json!(3)));
}

#[tokio::test]
async fn what_may_have_been_done_waits_for_an_operator() {
    let shop = Origin::start(|number, _| match number {
        0 => Reply::Close,
        _ => answer("200 OK", "done"),
    })
    .await;
    let rig = Rig::new(shop.address(), "");
    let location = rig.post("/orders", "k").await;
    let status = rig.ended(&location).await;
    assert_eq!((&status["state"], &status["answer"]), (&json!("uncertain"), &Value::Null));
    let letters = rig.dead_letters(1).await;
    assert_eq!(letters[0]["reason"], "maybe_seen");
    let redrive = "/v1/subscriptions/deliver/dead-letters/redrive";
    let answer = rig.gateway.admin_with("POST", redrive, r#"{"filter":{}}"#).await;
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(said["skipped"], 1, "it takes force: {said}");
    for (path, body) in [
        ("/v1/subscriptions/deliver/seek", r#"{"to":"earliest"}"#),
        ("/v1/topics/intake/replay", r#"{"subscription":"deliver","from":"earliest"}"#),
    ] {
        let refused = rig.gateway.admin_with("POST", path, body).await;
        assert_eq!(refused.status(), 409, "{path}: {}", refused.text());
    }
    assert_eq!(shop.requests().len(), 1);
    rig.gateway.admin_with("POST", redrive, r#"{"filter":{},"force":true}"#).await;
    within("a second end", async { while rig.status(&location).await["state"] != "succeeded" {} })
        .await;
    let keys: Vec<_> = shop.requests();
    assert_eq!(keys[0].field("idempotency-key"), keys[1].field("idempotency-key"));
    let counted = (rig.count("uncertain").await, rig.count("succeeded").await);
    assert_eq!(counted, (1.0, 1.0));
}

/// Cuts one exchange off there. What became of the request, and how often it was seen.
async fn cut(rig: &Rig, shop: &Cutter, cut: Cut, end: End) -> (String, usize) {
    let seen = shop.cut(cut, end);
    let status = rig.ended(&rig.post("/orders", "k").await).await;
    (status["state"].as_str().unwrap().to_owned(), seen.get())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_exchange_is_cut_at_any_byte_is_never_sent_twice() {
    let shop = Cutter::h1().await;
    let rig = Rig::new(shop.address(), "");
    assert_eq!(rig.ended(&rig.post("/orders", "k").await).await["state"], "succeeded");
    let length = shop.longest();
    assert!(length > 100, "{length}");
    let requests = (0..=length).map(Cut::Request);
    let cuts = requests.chain((0..ANSWER.len()).map(Cut::Response));
    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    for (number, at) in cuts.enumerate() {
        let how = if number.is_multiple_of(2) { End::Fin } else { End::Rst };
        let (state, seen) = cut(&rig, &shop, at, how).await;
        let case = format!("{at:?} {how:?}: {state}, seen {seen} times");
        assert!(seen <= 1, "sent twice: {case}");
        match (at, &*state) {
            (_, "uncertain") => {}
            // Nothing of it was on its way yet.
            (Cut::Request(0), "succeeded") => assert_eq!(seen, 1, "{case}"),
            _ => panic!("{case}"),
        }
        *states.entry(state).or_default() += 1;
        // One that is answered, so that nothing is taken for an outage.
        if number.is_multiple_of(4) {
            assert_eq!(rig.ended(&rig.post("/orders", "k").await).await["state"], "succeeded");
        }
    }
    assert!(states["uncertain"] > length, "{states:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_h2_vouches_for_is_sent_again_and_nothing_else() {
    const REFUSED_STREAM: u32 = 7;
    // The cut, and whether the upstream says that it has done nothing.
    let cuts = [
        (Cut::Reset(REFUSED_STREAM), true),
        (Cut::GoAway(0, true), true),
        (Cut::GoAway(0, false), false),
        (Cut::Reset(8), false),
        (Cut::ResetAfterHead(REFUSED_STREAM), false),
        (Cut::ResetAfterHead(8), false),
    ];
    let shop = Cutter::h2().await;
    let folder = tempfile::tempdir().unwrap();
    let yaml = yaml(folder.path(), shop.address(), "");
    let yaml = yaml.replace("outlier:", "protocol: h2, outlier:");
    let rig = Rig { gateway: Running::start(&yaml), _folder: folder };
    for (at, is_refused) in cuts {
        let (state, seen) = cut(&rig, &shop, at, End::Fin).await;
        // A refused one was looked at and not processed.
        let expected = if is_refused { ("succeeded", 2) } else { ("uncertain", 1) };
        assert_eq!((&*state, seen), expected, "{at:?}");
        assert_eq!(rig.ended(&rig.post("/orders", "k").await).await["state"], "succeeded");
    }
}
