//! Semantics 4 from outside: what is sent again, where to, what upstreams, clients and operators are
//! told of it.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use crate::harness::{Message, Origin, Reply, Running, cutter::Cutter, eventually, origin, parse};

const POST: &str = "POST / HTTP/1.1\nHost: a\nContent-Length: 2";
const AMPLE: &str = "retry_budget: { ratio: 100%, min_per_second: 1000 }";

/// A route with this `retry` and more; the upstream's endpoints in order of priority.
fn yaml(endpoints: &[SocketAddr], upstream: &str, route: &str) -> String {
    let endpoints: Vec<_> = endpoints
        .iter()
        .enumerate()
        .map(|(priority, address)| format!("{{ address: \"{address}\", priority: {priority} }}"))
        .collect();
    format!(
        "workers: 1\n\
         upstreams: {{ orders: {{ endpoints: [{}], {upstream} }} }}\n\
         routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: orders, {route} }}]\n",
        endpoints.join(", ")
    )
}

fn busy(fields: &str) -> Vec<u8> {
    format!("HTTP/1.1 503 Busy\r\n{fields}content-length: 4\r\n\r\nbusy").into_bytes()
}

fn code(answer: &Message) -> String {
    let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    problem["code"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_safe_request_goes_to_another_endpoint_and_an_unsafe_one_does_not() {
    for reply in [|| Reply::Close, || Reply::Reset, || Reply::Answer(busy(""))] {
        let (bad, good) = (Origin::start(move |_, _| reply()).await, Origin::ok("fine").await);
        let text = yaml(&[bad.address(), good.address()], AMPLE, "retry: { attempts: 3 }");
        let gateway = Running::start(&text);
        for round in 1..=4 {
            let answer = gateway.client().await.get("/").await;
            assert_eq!((answer.status(), answer.text().as_str()), (200, "fine"));
            assert_eq!(good.requests().len(), round, "one attempt here, whatever `attempts` says");
        }
        let before = bad.requests().len();
        let answer = gateway.client().await.request(POST, "hi").await;
        assert!(matches!(answer.status(), 502 | 503), "{}", answer.line);
        assert_eq!(bad.requests().len(), before + 1);
        assert_eq!(good.requests().len(), 4, "a POST was sent twice");
    }
}

#[tokio::test]
async fn an_attempt_has_a_time_of_its_own() {
    let (bad, good) = (Origin::start(|_, _| Reply::Hang).await, Origin::ok("fine").await);
    let route = "timeout: 10s, retry: { per_attempt_timeout: 100ms }";
    let gateway = Running::start(&yaml(&[bad.address(), good.address()], AMPLE, route));
    assert_eq!(gateway.client().await.get("/").await.status(), 200);
    let answer = gateway.client().await.request(POST, "hi").await;
    assert_eq!((answer.status(), code(&answer).as_str()), (504, "upstream-timeout-try"));
    assert_eq!(bad.requests().len(), 2);
    assert_eq!(good.requests().len(), 1);
}

#[tokio::test]
async fn an_attempt_whose_time_was_up_before_it_was_connected_was_not_sent() {
    // It takes connections and never says that it speaks HTTP/2.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = Cutter::h2().await;
    let endpoints = [silent.local_addr().unwrap(), good.address()];
    let upstream = format!("protocol: h2, connect_timeout: 20s, {AMPLE}");
    let route = "retry: { per_attempt_timeout: 100ms }";
    let gateway = Running::start(&yaml(&endpoints, &upstream, route));
    // Without a body: while one is under way `connect_timeout` is what applies.
    let post = "POST / HTTP/1.1\nHost: a\nContent-Length: 0";
    let answer = gateway.client().await.request(post, "").await;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "hello"));
}

#[tokio::test]
async fn all_attempts_and_waits_together_have_one_too() {
    let bad = Origin::start(|_, _| Reply::Hang).await;
    let route = "timeout: 350ms, retry: { attempts: 10, per_attempt_timeout: 100ms }";
    let gateway = Running::start(&yaml(&[bad.address()], AMPLE, route));
    let start = Instant::now();
    let answer = gateway.client().await.get("/").await;
    assert_eq!(answer.status(), 504);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!((2..=4).contains(&bad.requests().len()), "{} attempts", bad.requests().len());

    // Asked to come back when it will be too late: the answer is passed on at once.
    let busy = Origin::start(|_, _| Reply::Answer(busy("retry-after: 60\r\n"))).await;
    let gateway = Running::start(&yaml(&[busy.address()], AMPLE, "retry: {}"));
    let start = Instant::now();
    let answer = gateway.client().await.get("/").await;
    assert_eq!((answer.status(), answer.text().as_str()), (503, "busy"));
    assert_eq!(answer.field("retry-after"), Some("60"));
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(busy.requests().len(), 1);
}

#[tokio::test]
async fn an_answer_that_is_not_passed_on_does_not_cost_its_connection() {
    let origin = Origin::start(|number, _| {
        Reply::Answer(if number % 2 == 0 { busy("") } else { origin::ok("fine") })
    })
    .await;
    let gateway = Running::start(&yaml(&[origin.address()], AMPLE, "retry: {}"));
    let mut client = gateway.client().await;
    for _ in 0..5 {
        assert_eq!(client.get("/").await.text(), "fine");
    }
    assert_eq!(origin.requests().len(), 10);
    assert!(origin.connections() <= 2, "{} connections", origin.connections());
}

#[tokio::test]
async fn the_upstream_is_told_which_attempt_it_sees() {
    let origin =
        Origin::start(
            |number, _| {
                if number == 1 { Reply::Close } else { Reply::Answer(origin::ok("fine")) }
            },
        )
        .await;
    let gateway = Running::start(&yaml(&[origin.address()], AMPLE, "retry: {}"));
    for target in ["/one", "/two"] {
        let head = format!("GET {target} HTTP/1.1\nHost: a\nX-Sluice-Attempt: 7");
        assert_eq!(gateway.client().await.request(&head, "").await.status(), 200);
    }
    let seen: Vec<_> = origin
        .requests()
        .iter()
        .map(|request| (request.target().to_owned(), request.all("x-sluice-attempt").join(",")))
        .collect();
    let expected = [("/one", "1"), ("/two", "1"), ("/two", "2")];
    assert_eq!(seen, expected.map(|(target, number)| (target.to_owned(), number.to_owned())));
}

#[tokio::test]
async fn an_upload_is_sent_again_from_its_copy_unless_it_is_too_large() {
    for (size, expected) in [(0, 200), (1000, 200), (60 * 1024, 200), (200 * 1024, 502)] {
        let (bad, good) = (Origin::start(|_, _| Reply::Close).await, Origin::ok("fine").await);
        let route = "retry: {}";
        let gateway = Running::start(&yaml(&[bad.address(), good.address()], AMPLE, route));
        let body = "x".repeat(size);
        let chunked = format!("{size:x}\r\n{body}\r\n0\r\n\r\n");
        for (framing, sent) in [
            (format!("Content-Length: {size}"), body.as_str()),
            (
                "Transfer-Encoding: chunked".to_owned(),
                if size == 0 { "0\r\n\r\n" } else { &chunked },
            ),
        ] {
            let head = format!("PUT / HTTP/1.1\nHost: a\n{framing}");
            let answer = gateway.client().await.request(&head, sent).await;
            assert_eq!(answer.status(), expected, "{framing}: {}", answer.text());
        }
        let whole = good.requests().iter().all(|request| request.body == body.as_bytes());
        assert!(whole && good.requests().len() == if expected == 200 { 2 } else { 0 });
    }
}

#[tokio::test]
async fn an_empty_budget_is_told_and_counted() {
    let bad = Origin::start(|_, _| Reply::Close).await;
    let none = "retry_budget: { ratio: 0%, min_per_second: 0 }";
    let gateway = Running::start(&yaml(&[bad.address()], none, "retry: {}"));
    let answer = gateway.client().await.get("/").await;
    assert_eq!((answer.status(), code(&answer).as_str()), (502, "retry-budget"));
    assert!(answer.field("proxy-status").unwrap().contains("retry-budget"), "{answer:?}");
    assert_eq!(bad.requests().len(), 1);
    let spent = gateway.metric("sluice_retry_budget_exhausted_total{upstream=\"orders\"}").await;
    assert!((spent - 1.0).abs() < f64::EPSILON);
    assert!(gateway.metric("sluice_refusals_total{reason=\"retry-budget\"}").await >= 1.0);
}

#[tokio::test]
async fn log_and_metrics_have_every_attempt_and_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let origin = Origin::start(|number, _| match number {
        0 => Reply::Close,
        1 => Reply::Answer(busy("")),
        _ => Reply::Answer(origin::ok("fine")),
    })
    .await;
    let text = format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0 }}]\nadmin: {{ address: 127.0.0.1:0 }}\n\
         telemetry: {{ access_log: {{ path: \"{}\" }} }}\n{}",
        log.display(),
        yaml(&[origin.address()], AMPLE, "retry: { attempts: 3 }")
    );
    let gateway = Running::start_with(parse(&text), sluicegate::gateway::Options::default());
    assert_eq!(gateway.client().await.get("/").await.status(), 200);
    let line = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("the line", || line().ends_with('\n')).await;
    let line: Value = serde_json::from_str(&line()).unwrap();
    let attempts = line["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 3, "{line}");
    assert_eq!(attempts[0]["reason"], "upstream-reset", "{line}");
    assert_eq!(attempts[1]["status"], 503, "{line}");
    assert_eq!(attempts[2]["status"], 200, "{line}");
    assert!(line.get("reason").is_none(), "{line}");
    for reason in ["upstream-reset", "503"] {
        let series = format!("sluice_retries_total{{upstream=\"orders\",reason=\"{reason}\"}}");
        assert!((gateway.metric(&series).await - 1.0).abs() < f64::EPSILON, "{series}");
    }
}

#[tokio::test]
async fn explain_tells_what_becomes_of_this_method() {
    let origin = Origin::ok("fine").await;
    let route = "retry: { attempts: 3, on: [reset, 503] }";
    let gateway = Running::start(&yaml(&[origin.address()], AMPLE, route));
    for (method, told) in [
        ("GET", "up to 2 more attempts, after connect, reset, 503; 10s for each"),
        (
            "POST",
            "up to 2 more attempts, only if no byte of the request was sent: POST is not repeated; 10s for each",
        ),
    ] {
        let asked = format!("{{\"method\":\"{method}\",\"url\":\"/\"}}");
        let answer = gateway.admin_with("POST", "/v1/explain", &asked).await.text();
        assert!(answer.contains(told), "{answer}");
    }
}
