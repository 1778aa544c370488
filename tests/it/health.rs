//! Semantics 5: health checks, ejection, breakers, priorities, over real sockets.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use crate::harness::{Client, Message, Origin, Reply, Running, eventually, origin, within};

/// One route to an upstream of these endpoints, with these keys.
fn yaml(endpoints: &[&Origin], keys: &str) -> String {
    let addresses: Vec<_> = endpoints.iter().map(|at| format!("\"{}\"", at.address())).collect();
    format!(
        "workers: 1\n\
         upstreams: {{ orders: {{ endpoints: [{}], {keys} }} }}\n\
         routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: orders }}]\n",
        addresses.join(", ")
    )
}

/// An origin that is well as long as the switch is on: then 200 to everything, else 503.
async fn switched() -> (Origin, Arc<AtomicBool>) {
    let is_well = Arc::new(AtomicBool::new(true));
    let seen = is_well.clone();
    let origin = Origin::start(move |_, _| {
        let unwell = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        Reply::Answer(if seen.load(Ordering::SeqCst) {
            origin::ok("fine")
        } else {
            unwell.as_bytes().to_vec()
        })
    })
    .await;
    (origin, is_well)
}

async fn endpoints(gateway: &Running) -> Vec<Value> {
    let upstreams = gateway.json("/v1/upstreams").await;
    upstreams["upstreams"][0]["endpoints"].as_array().unwrap().clone()
}

/// The endpoint at this origin.
async fn endpoint(gateway: &Running, origin: &Origin) -> Value {
    let address = origin.address().to_string();
    let endpoints = endpoints(gateway).await;
    endpoints.into_iter().find(|endpoint| endpoint["address"] == *address).unwrap()
}

/// Waits until the endpoint at this origin is in this state.
async fn until_state(gateway: &Running, origin: &Origin, state: &str) -> Value {
    within(&format!("the state {state}"), async {
        loop {
            let endpoint = endpoint(gateway, origin).await;
            if endpoint["state"] == state {
                return endpoint;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// Requests of clients, without those of health checks.
fn asked(origin: &Origin) -> usize {
    origin.requests().iter().filter(|request| request.target() != "/healthz").count()
}

#[tokio::test]
async fn a_health_check_takes_an_endpoint_out_and_brings_it_back() {
    let ((well, _), (unwell, switch)) = (switched().await, switched().await);
    let keys = "balance: round_robin, slow_start: 0s, \
        health_check: { path: /healthz, interval: 20ms, timeout: 1s, fall: 2, rise: 2 }";
    let gateway = Running::start(&yaml(&[&well, &unwell], keys));
    within("the first checks", async {
        while endpoints(&gateway).await.iter().any(|endpoint| endpoint["health"] != "up") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    switch.store(false, Ordering::SeqCst);
    let down = until_state(&gateway, &unwell, "down").await;
    assert_eq!(down["why"], "health check: status 503");
    assert_eq!((&down["health"], &down["takes_requests"]), (&"down".into(), &false.into()));
    assert!(down["since"].is_string());
    let before = asked(&unwell);
    let mut client = gateway.client().await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.status(), 200);
    }
    assert_eq!(asked(&unwell), before);
    let address = unwell.address();
    let series = format!(
        "sluice_health_transitions_total{{upstream=\"orders\",endpoint=\"{address}\",to=\"down\"}}"
    );
    assert!((gateway.metric(&series).await - 1.0).abs() < f64::EPSILON);
    let down = gateway.metric("sluice_endpoints{upstream=\"orders\",state=\"down\"}").await;
    assert!((down - 1.0).abs() < f64::EPSILON);

    switch.store(true, Ordering::SeqCst);
    until_state(&gateway, &unwell, "ready").await;
    for _ in 0..10 {
        client.get("/").await;
    }
    assert_eq!(asked(&unwell), before + 5);
}

#[tokio::test]
async fn checks_have_a_connection_of_their_own_and_say_who_asks() {
    let (origin, _) = switched().await;
    let keys = "health_check: { path: \"/healthz?deep=1\", interval: 20ms }";
    let gateway = Running::start(&yaml(&[&origin], keys));
    origin.wait_for(3).await;
    let seen = &origin.requests()[0];
    assert_eq!(seen.line, "GET /healthz?deep=1 HTTP/1.1");
    assert_eq!(seen.field("user-agent"), Some("sluice-health-check"));
    assert_eq!(seen.field("host"), Some(origin.address().to_string().as_str()));
    assert!(origin.connections() >= 3);
    drop(gateway);
}

/// A gRPC server over prior-knowledge HTTP/2 that has this state; what it was asked for.
async fn grpc(serving: Arc<AtomicUsize>) -> (std::net::SocketAddr, Arc<Mutex<Vec<Bytes>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked: Arc<Mutex<Vec<Bytes>>> = Arc::default();
    let told = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (serving, asked) = (serving.clone(), told.clone());
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    assert_eq!(request.headers()["content-type"], "application/grpc");
                    assert_eq!(request.headers()["te"], "trailers");
                    let (serving, asked) = (serving.clone(), asked.clone());
                    tokio::spawn(async move {
                        let message = request.into_body().data().await.unwrap().unwrap();
                        asked.lock().push(message);
                        let status = u8::try_from(serving.load(Ordering::SeqCst)).unwrap();
                        let mut body =
                            respond.send_response(http::Response::new(()), false).unwrap();
                        let message = vec![0, 0, 0, 0, 2, 8, status];
                        body.send_data(Bytes::from(message), false).unwrap();
                        let mut trailers = http::HeaderMap::new();
                        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                        body.send_trailers(trailers).unwrap();
                    });
                }
            });
        }
    });
    (address, asked)
}

#[tokio::test]
async fn the_grpc_health_protocol_is_spoken() {
    let serving = Arc::new(AtomicUsize::new(1));
    let (address, asked) = grpc(serving.clone()).await;
    let text = format!(
        "upstreams: {{ orders: {{ endpoints: [\"{address}\"], protocol: h2, \
           health_check: {{ grpc: shop.Orders, interval: 15ms, fall: 2 }} }} }}\n\
         routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: orders }}]\n"
    );
    let gateway = Running::start(&text);
    let until_health = async |health: &str| {
        within(&format!("the health {health}"), async {
            while endpoints(&gateway).await[0]["health"] != health {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    };
    until_health("up").await;
    assert_eq!(&asked.lock()[0][..], b"\0\0\0\0\x0d\x0a\x0bshop.Orders");
    serving.store(2, Ordering::SeqCst);
    until_health("down").await;
    assert_eq!(endpoints(&gateway).await[0]["why"], "health check: NOT_SERVING");
    serving.store(1, Ordering::SeqCst);
    until_health("up").await;
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_down_but_the_last_one_is_tried_all_the_same() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let text = format!(
        "upstreams: {{ orders: {{ endpoints: [\"{address}\"], health_check: {{ tcp: true, interval: 10ms }} }} }}\n\
         routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: orders }}]\n"
    );
    let gateway = Running::start(&text);
    within("the state down", async {
        while endpoints(&gateway).await[0]["state"] != "down" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let endpoint = &endpoints(&gateway).await[0];
    assert!(endpoint["why"].as_str().unwrap().contains("upstream-connect"), "{endpoint}");
    assert_eq!(endpoint["takes_requests"], true);
    // Health never leads to "no healthy upstream": what is answered is what it met.
    assert!(gateway.client().await.get("/").await.text().contains("upstream-connect"));
}

#[tokio::test]
async fn panic_ignores_health_checks_and_is_told() {
    let well = switched().await;
    let (down, also_down) = (switched().await, switched().await);
    let keys = "balance: round_robin, \
        health_check: { path: /healthz, interval: 15ms, fall: 2 }, outlier: { max_ejected: 0% }";
    for (_, switch) in [&down, &also_down] {
        switch.store(false, Ordering::SeqCst);
    }
    let gateway = Running::start(&yaml(&[&well.0, &down.0, &also_down.0], keys));
    until_state(&gateway, &down.0, "down").await;
    until_state(&gateway, &also_down.0, "down").await;
    let mut client = gateway.client().await;
    let mut failed = 0;
    for _ in 0..9 {
        failed += usize::from(client.get("/").await.status() == 503);
    }
    assert_eq!(failed, 6, "all three take requests");
    assert_eq!(gateway.json("/v1/upstreams").await["upstreams"][0]["panic"], true);
    assert!((gateway.metric("sluice_panic{upstream=\"orders\"}").await - 1.0).abs() < f64::EPSILON);
    down.1.store(true, Ordering::SeqCst);
    until_state(&gateway, &down.0, "ready").await;
    assert!(gateway.metric("sluice_panic{upstream=\"orders\"}").await.abs() < f64::EPSILON);
    let before = asked(&also_down.0);
    for _ in 0..9 {
        assert_eq!(client.get("/").await.status(), 200);
    }
    assert_eq!(asked(&also_down.0), before);
}

#[tokio::test]
async fn the_next_priority_takes_over_while_the_first_is_down() {
    let ((first, switch), (second, _)) = (switched().await, switched().await);
    let text = format!(
        "workers: 1\n\
         upstreams: {{ orders: {{ endpoints: [{{ address: \"{}\" }}, {{ address: \"{}\", priority: 1 }}], \
           health_check: {{ path: /healthz, interval: 15ms, fall: 2 }}, slow_start: 0s }} }}\n\
         routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: orders }}]\n",
        first.address(),
        second.address()
    );
    let gateway = Running::start(&text);
    let mut client = gateway.client().await;
    for _ in 0..10 {
        client.get("/").await;
    }
    assert_eq!(asked(&second), 0);
    switch.store(false, Ordering::SeqCst);
    until_state(&gateway, &first, "down").await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.status(), 200);
    }
    assert_eq!(asked(&second), 10);
    switch.store(true, Ordering::SeqCst);
    until_state(&gateway, &first, "ready").await;
    let before = asked(&first);
    client.get("/").await;
    assert_eq!((asked(&first), asked(&second)), (before + 1, 10));
}

#[tokio::test]
async fn an_endpoint_that_fails_is_ejected_and_told() {
    let ((well, _), (unwell, switch)) = (switched().await, switched().await);
    switch.store(false, Ordering::SeqCst);
    let keys = "balance: round_robin, outlier: { base_ejection: 60s }";
    let gateway = Running::start(&yaml(&[&well, &unwell], keys));
    let mut client = gateway.client().await;
    let mut failed = 0;
    for _ in 0..40 {
        failed += usize::from(client.get("/").await.status() == 503);
    }
    assert_eq!((failed, unwell.requests().len()), (5, 5), "five in a row and no more");
    let out = endpoint(&gateway, &unwell).await;
    assert_eq!(out["state"], "ejected");
    assert_eq!(out["why"], "outlier detection: 5 failures in a row");
    assert!(out["until"].as_str() > out["since"].as_str());
    let series =
        format!("sluice_ejections_total{{upstream=\"orders\",endpoint=\"{}\"}}", unwell.address());
    assert!((gateway.metric(&series).await - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn an_open_breaker_refuses_at_once_and_one_request_finds_out() {
    let (origin, switch) = switched().await;
    switch.store(false, Ordering::SeqCst);
    let keys = "breaker: { consecutive_failures: 3, probe_after: 500ms, max_wait: 1s }";
    let gateway = Running::start(&yaml(&[&origin], keys));
    let mut client = gateway.client().await;
    for _ in 0..3 {
        assert!(!client.get("/").await.text().contains("breaker-open"));
    }
    let refused = client.get("/").await;
    assert_eq!(refused.status(), 503);
    assert!(refused.text().contains("breaker-open"), "{}", refused.text());
    assert_eq!(refused.field("retry-after"), Some("1"));
    assert_eq!(origin.requests().len(), 3, "nothing was sent");
    let open = endpoint(&gateway, &origin).await;
    assert_eq!((&open["state"], &open["breaker"]), (&"breaker-open".into(), &"open".into()));
    switch.store(true, Ordering::SeqCst);
    within("the breaker to close", async {
        while client.get("/").await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let address = origin.address();
    for (to, count) in [("open", 1.0), ("closed", 1.0)] {
        let series = format!(
            "sluice_breaker_transitions_total{{upstream=\"orders\",endpoint=\"{address}\",to=\"{to}\"}}"
        );
        let counted = gateway.metric(&series).await;
        assert!((counted - count).abs() < f64::EPSILON, "{to}: {counted}");
    }
}

#[tokio::test]
async fn explain_says_who_is_out_and_who_would_be_chosen() {
    let ((well, _), (unwell, switch)) = (switched().await, switched().await);
    switch.store(false, Ordering::SeqCst);
    let keys = "balance: least_request, breaker: { consecutive_failures: 9, probe_after: 60s }";
    let gateway = Running::start(&yaml(&[&well, &unwell], keys));
    let mut client = gateway.client().await;
    while endpoint(&gateway, &unwell).await["state"] == "ready" {
        client.get("/").await;
    }
    let asked = r#"{"method": "GET", "url": "http://shop/a"}"#;
    let told = gateway.admin_with("POST", "/v1/explain", asked).await;
    let told: Value = serde_json::from_slice(&told.body).unwrap();
    let steps = told["steps"].as_array().unwrap();
    let detail = |policy: &str| {
        let step = steps.iter().find(|step| step["policy"] == policy).unwrap();
        step["detail"].as_str().unwrap().to_owned()
    };
    let upstream = detail("upstream");
    let out =
        format!("{} (ejected, outlier detection: 5 failures in a row, until 20", unwell.address());
    assert!(upstream.contains(&out), "{upstream}");
    assert!(upstream.contains(&format!("{} (ready, ", well.address())), "{upstream}");
    let only = format!("{}, the only one that may be chosen", well.address());
    assert_eq!(detail("endpoint"), only);
}

/// The latency of each of `count` requests of each of `clients` clients, sorted.
async fn latencies(gateway: &Running, clients: usize, count: usize) -> Vec<Duration> {
    let clients = (0..clients).map(|_| async {
        let mut client = gateway.client().await;
        let mut took = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            assert_eq!(client.get("/").await.status(), 200);
            took.push(start.elapsed());
        }
        took
    });
    let mut all: Vec<_> = futures_util::future::join_all(clients).await.concat();
    all.sort();
    all
}

#[tokio::test]
async fn one_of_three_that_is_slow_hurts_few_with_p2c_ewma() {
    let slow =
        Origin::start(|_, _| Reply::After(Duration::from_millis(60), origin::ok("slow"))).await;
    let (one, two) = (Origin::ok("fine").await, Origin::ok("fine").await);
    let mut slow_ones = Vec::new();
    for policy in ["p2c_ewma", "round_robin"] {
        let before = slow.requests().len();
        let gateway = Running::start(&yaml(&[&slow, &one, &two], &format!("balance: {policy}")));
        let took = latencies(&gateway, 8, 100).await;
        let at = |percent: usize| took[took.len() * percent / 100];
        let delayed = slow.requests().len() - before;
        println!("{policy}: p50 {:.2?}, p99 {:.2?}, {delayed} of 800 slow", at(50), at(99));
        slow_ones.push(delayed);
    }
    // Round robin sends every third there, however slow it is.
    assert!(slow_ones[1] > 200, "{slow_ones:?}");
    assert!(slow_ones[0] < 80, "{slow_ones:?}");
}

/// What a death among three endpoints cost.
struct Death {
    /// Requests answered with 200, and otherwise.
    served: usize,
    failed: usize,
    /// From the death until nobody was sent there any more by rule; by its latency alone it may have
    /// been avoided long before.
    out_after: Option<Duration>,
    /// From its return until the first request went there, and until it had its full share.
    first_after: Duration,
    full_after: Duration,
}

impl std::fmt::Display for Death {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { served, failed, out_after, first_after, full_after } = self;
        write!(f, "{failed} of {} failed, out after {out_after:.2?}; ", served + failed)?;
        write!(f, "back: first request after {first_after:.2?}, full share after {full_after:.2?}")
    }
}

/// Clients that ask again and again, with a pause between.
struct Crowd {
    is_over: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<(usize, usize)>>,
}

impl Crowd {
    fn of(size: usize, gateway: &Running, pause: Duration) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let (address, is_over) = (gateway.address(), is_over.clone());
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let (mut served, mut failed) = (0, 0);
                while !is_over.load(Ordering::SeqCst) {
                    let is_ok = client.get("/").await.status() == 200;
                    *(if is_ok { &mut served } else { &mut failed }) += 1;
                    tokio::time::sleep(pause).await;
                }
                (served, failed)
            })
        };
        let clients = (0..size).map(client).collect();
        Self { is_over, clients }
    }

    /// How many requests were served, and how many were not.
    async fn end(self) -> (usize, usize) {
        self.is_over.store(true, Ordering::SeqCst);
        let mut sum = (0, 0);
        for client in self.clients {
            let (served, failed) = client.await.unwrap();
            sum = (sum.0 + served, sum.1 + failed);
        }
        sum
    }
}

/// Polls the endpoint at this address until it `is` so; how long that took.
async fn until(gateway: &Running, origin: &Origin, is: impl Fn(&Value) -> bool) -> Duration {
    let start = Instant::now();
    let polled = tokio::time::timeout(Duration::from_mins(2), async {
        while !is(&endpoint(gateway, origin).await) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    polled.await.expect("in two minutes");
    start.elapsed()
}

/// What was under way at an endpoint that dies may be sent to another, if its method is safe.
const RETRY: &str = ", retry: { attempts: 3, on: [connect, reset] }";

/// Kills one of three endpoints under the load of eight clients, and has it come back.
async fn one_of_three_dies(keys: &str, route_keys: &str, pause: Duration) -> Death {
    let answer = |_: usize, _: &Message| Reply::After(Duration::from_millis(2), origin::ok("fine"));
    let three =
        [Origin::start(answer).await, Origin::start(answer).await, Origin::start(answer).await];
    let [one, two, dying] = &three;
    let text = yaml(&[one, two, dying], keys);
    let text = text.replace("upstream: orders }]", &format!("upstream: orders{route_keys} }}]"));
    let gateway = Running::start(&text);
    let crowd = Crowd::of(8, &gateway, pause);
    eventually("load", || asked(dying) > 100).await;
    dying.kill();
    let out = until(&gateway, dying, |endpoint| endpoint["takes_requests"] == false);
    let out_after = tokio::time::timeout(Duration::from_secs(10), out).await.ok();
    let risen = Origin::start_at(dying.address(), answer).await;
    let rose = Instant::now();
    until(&gateway, &risen, |_| asked(&risen) > 0).await;
    let first_after = rose.elapsed();
    until(&gateway, &risen, |endpoint| {
        endpoint["state"] == "ready" && endpoint["slow_start_share"].is_null()
    })
    .await;
    let full_after = rose.elapsed();
    let (served, failed) = crowd.end().await;
    Death { served, failed, out_after, first_after, full_after }
}

#[tokio::test]
async fn one_of_three_that_dies_under_load_fails_no_get() {
    let keys = "slow_start: 300ms, outlier: { base_ejection: 100ms }, \
        health_check: { path: /healthz, interval: 50ms, fall: 2 }";
    let death = one_of_three_dies(keys, RETRY, Duration::from_millis(1)).await;
    println!("{death}");
    assert!(death.served > 100 && death.failed == 0, "{death}");
    assert!(death.full_after >= Duration::from_millis(300), "{death}");
}

/// The same with the numbers that are the default, and for each way to find out. Takes two minutes:
/// `cargo test --test it -- --ignored --nocapture demo_of_a_death`.
#[tokio::test]
#[ignore = "takes two minutes, and tells numbers instead of judging them"]
async fn demo_of_a_death() {
    let checked = "health_check: { path: /healthz }";
    let ways = [
        "balance: p2c_ewma".to_owned(),
        format!("balance: p2c_ewma, {checked}"),
        "balance: round_robin".to_owned(),
        format!("balance: round_robin, {checked}"),
        "balance: round_robin, breaker: {}, outlier: { max_ejected: 0% }".to_owned(),
    ];
    let deaths = ways.iter().map(|way| one_of_three_dies(way, RETRY, Duration::from_millis(25)));
    for (way, death) in ways.iter().zip(futures_util::future::join_all(deaths).await) {
        println!("{way}: {death}");
    }
}

#[tokio::test]
async fn a_check_survives_a_reload_at_any_pace_and_another_question_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.yaml");
    let ((well, _), (unwell, switch)) = (switched().await, switched().await);
    switch.store(false, Ordering::SeqCst);
    let text = |path: &str, fall: u32| {
        format!(
            "listeners: [{{ name: web, address: 127.0.0.1:0 }}]\n\
             admin: {{ address: 127.0.0.1:0 }}\n\
             telemetry: {{ access_log: {{ path: off }} }}\n{}",
            yaml(
                &[&well, &unwell],
                &format!("health_check: {{ path: {path}, interval: 20ms, fall: {fall} }}")
            )
        )
    };
    std::fs::write(&path, text("/healthz", 2)).unwrap();
    let options = sluicegate::gateway::Options { source: Some(path.clone()), ..Default::default() };
    let config = crate::harness::parse(&text("/healthz", 2));
    let gateway = Running::start_with(config, options);
    until_state(&gateway, &unwell, "down").await;
    gateway.gateway().reload().await.unwrap();
    assert_eq!(endpoint(&gateway, &unwell).await["state"], "down");
    std::fs::write(&path, text("/healthz", 50)).unwrap();
    gateway.gateway().reload().await.unwrap();
    assert_eq!(endpoint(&gateway, &unwell).await["state"], "down", "another pace");
    std::fs::write(&path, text("/ready", 50)).unwrap();
    gateway.gateway().reload().await.unwrap();
    let anew = endpoint(&gateway, &unwell).await;
    assert_eq!((&anew["state"], &anew["health"]), (&"ready".into(), &"unknown".into()));
}
