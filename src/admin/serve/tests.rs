//! The operator's listener over real sockets.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{StatusCode, request::Parts};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    net::TcpStream,
};

use super::*;
use crate::{
    admin::{Answer, Problem},
    http::{Body, Response, Secret},
    telemetry::metrics::Format,
};

/// A size in bytes that a slow client does not get in a minute.
const LARGE: usize = 512 * 1024;

#[derive(Default)]
struct Fake {
    reasons: Vec<String>,
    drains: AtomicUsize,
    reload: Option<Problem>,
    token: Mutex<Option<Secret>>,
}

impl Handles for Fake {
    fn token(&self) -> Option<Secret> {
        self.token.lock().clone()
    }

    fn readiness(&self) -> Vec<String> {
        self.reasons.clone()
    }

    fn metrics(&self, format: Format) -> Answer<'_, String> {
        Box::pin(async move { format!("sluice_up 1\n# {format:?}\n") })
    }

    fn config(&self) -> Value {
        json!({"hash": "h1"})
    }

    fn routes(&self) -> Value {
        json!([{"name": "a"}])
    }

    fn upstreams(&self) -> Value {
        json!([])
    }

    fn reload(&self) -> Answer<'_, Result<String, Problem>> {
        let result = self.reload.clone().map_or(Ok("h2".to_owned()), Err);
        Box::pin(async { result })
    }

    fn drain(&self) {
        self.drains.fetch_add(1, Ordering::Relaxed);
    }

    fn explain(&self, call: Value) -> Result<Value, Problem> {
        if call.get("method").is_none() {
            return Err(Problem::bad_request("no method"));
        }
        Ok(json!({"call": call}))
    }

    fn takes_events(&self, path: &str) -> Option<usize> {
        path.starts_with("/v1/topics").then_some(16)
    }

    fn events<'a>(&'a self, parts: &'a Parts, body: Bytes) -> Answer<'a, Response> {
        if parts.uri.path() == "/v1/topics/large" {
            return Box::pin(async { Response::new(Body::full(vec![b'x'; LARGE])) });
        }
        let told = format!("{} {} {}", parts.method, parts.uri, String::from_utf8_lossy(&body));
        Box::pin(async { Response::new(Body::full(told)) })
    }
}

/// A whole answer: its head as text, and its body.
struct Told {
    status: u16,
    head: String,
    body: String,
}

impl Told {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

async fn exchange(fake: Arc<Fake>, token: Option<&str>, raw: &str) -> Told {
    let (mut client, server) = duplex(4 * 1024 * 1024);
    *fake.token.lock() = token.map(|token| Secret::new(token.as_bytes()));
    let served = task::spawn("test", connection(server, fake));
    client.write_all(raw.as_bytes()).await.unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    served.await.unwrap();
    Told::parse(&text)
}

async fn call(line: &str, fields: &str, body: &str) -> Told {
    let length = body.len();
    let raw = format!(
        "{line} HTTP/1.1\r\nHost: 127.0.0.1:9901\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
    );
    exchange(Arc::default(), None, &raw).await
}

#[tokio::test(start_paused = true)]
async fn answers_what_an_operator_asks() {
    for (line, status, part) in [
        ("GET /livez", 200, "\"live\""),
        ("GET /readyz", 200, "\"ready\""),
        ("GET /metrics", 200, "sluice_up 1\n"),
        ("GET /v1/config", 200, "\"h1\""),
        ("GET /v1/routes?x=1", 200, "\"name\": \"a\""),
        ("GET /v1/upstreams", 200, "[]"),
        ("POST /v1/reload", 200, "\"h2\""),
        ("POST /v1/drain", 202, "\"draining\""),
    ] {
        let told = call(line, "", "").await;
        assert_eq!(told.status, status, "{line}");
        assert!(told.body.contains(part), "{line}: {}", told.body);
        assert!(told.head.contains("cache-control: no-store"), "{line}");
    }
    let told = call("GET /metrics", "Accept: application/openmetrics-text\r\n", "").await;
    assert!(told.head.contains("content-type: application/openmetrics-text; version=1.0.0"));
    assert!(told.body.contains("# OpenMetrics"), "{}", told.body);
    let told = call("HEAD /v1/config", "", "").await;
    assert_eq!((told.status, told.body.as_str()), (200, ""));
}

#[tokio::test(start_paused = true)]
async fn explains_a_request_given_as_json() {
    let json_type = "Content-Type: application/json; charset=utf-8\r\n";
    let told = call("POST /v1/explain", json_type, r#"{"method":"GET"}"#).await;
    assert_eq!((told.status, told.json()), (200, json!({"call": {"method": "GET"}})));
    for (fields, body, detail) in [
        (json_type, "{}", "no method"),
        ("", "{}", "the body has to be application/json"),
        (json_type, "{", "EOF while parsing an object at line 1 column 1"),
    ] {
        let told = call("POST /v1/explain", fields, body).await;
        assert_eq!((told.status, &told.json()["detail"]), (400, &json!(detail)));
    }
    let large = "x".repeat(1024 * 1024 + 1);
    let told = call("POST /v1/explain", json_type, &large).await;
    assert_eq!((told.status, &told.json()["code"]), (413, &json!("body-too-large")));
}

#[tokio::test(start_paused = true)]
async fn refusals_are_problems() {
    let told = call("GET /v1/nothing", "", "").await;
    assert_eq!((told.status, &told.json()["code"]), (404, &json!("name-unknown")));
    assert!(told.head.contains("content-type: application/problem+json"));
    let told = call("POST /v1/config", "", "").await;
    assert_eq!((told.status, &told.json()["code"]), (405, &json!("method-not-allowed")));
    assert!(told.head.contains("allow: get, head"));
    let told = call("GET /v1/drain", "", "").await;
    assert!(told.head.contains("allow: post"));
}

#[tokio::test(start_paused = true)]
async fn says_why_it_is_not_ready() {
    let fake = Arc::new(Fake { reasons: vec!["draining".to_owned()], ..Fake::default() });
    // A probe needs no token and may use any name.
    let told = exchange(fake, Some("t"), "GET /readyz HTTP/1.1\r\nHost: gw.example\r\n\r\n").await;
    assert_eq!(told.status, 503);
    assert_eq!(told.json(), json!({"status": "not-ready", "reasons": ["draining"]}));
}

#[tokio::test(start_paused = true)]
async fn a_failed_reload_tells_every_problem() {
    let problem = Problem::config_invalid(vec![json!({"line": 3}), json!({"line": 9})]);
    let fake = Arc::new(Fake { reload: Some(problem), ..Fake::default() });
    let told = exchange(fake, None, "POST /v1/reload HTTP/1.1\r\nHost: [::1]\r\n\r\n").await;
    assert_eq!(told.status, StatusCode::UNPROCESSABLE_ENTITY.as_u16());
    assert_eq!(told.json()["code"], "config-invalid");
    assert_eq!(told.json()["problems"], json!([{"line": 3}, {"line": 9}]));
}

#[tokio::test(start_paused = true)]
async fn asks_for_the_token_before_anything_else() {
    let send = async |path: &str, authorization: &str| {
        let raw = format!("GET {path} HTTP/1.1\r\nHost: gw.example\r\n{authorization}\r\n");
        exchange(Arc::default(), Some("s3cret"), &raw).await
    };
    assert_eq!(send("/v1/config", "Authorization: bearer s3cret\r\n").await.status, 200);
    for authorization in [
        "",
        "Authorization: Bearer s3creT\r\n",
        "Authorization: Bearer s3cret0\r\n",
        "Authorization: Bearer s3cre\r\n",
        "Authorization: Bearer \r\n",
        "Authorization: Basic s3cret\r\n",
    ] {
        for path in ["/v1/config", "/metrics", "/v1/nothing"] {
            let told = send(path, authorization).await;
            assert_eq!((told.status, &told.json()["code"]), (401, &json!("unauthorized")));
            assert!(told.head.contains("www-authenticate: bearer"));
        }
    }
    assert_eq!(send("/livez", "").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn web_pages_cannot_call() {
    let fake = Arc::new(Fake::default());
    let send = async |raw: &str| exchange(fake.clone(), None, raw).await.status;
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:9901", "a@b"] {
        assert_eq!(send(&format!("GET /v1/config HTTP/1.1\r\nHost: {host}\r\n\r\n")).await, 403);
    }
    for host in ["localhost:9901", "LOCALHOST", "127.0.0.1", "[::1]:9901"] {
        assert_eq!(send(&format!("GET /v1/config HTTP/1.1\r\nHost: {host}\r\n\r\n")).await, 200);
    }
    let drain = "POST /v1/drain HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n\r\n";
    assert_eq!(send(drain).await, 403);
    assert_eq!(fake.drains.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_caller_loses_its_place() {
    let started = tokio::time::Instant::now();
    let told = exchange(Arc::default(), None, "GET /livez HT").await;
    assert_eq!((told.status, started.elapsed().as_secs()), (0, HEAD_TIMEOUT.as_secs()));
    let started = tokio::time::Instant::now();
    let raw =
        "POST /v1/explain HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    let told = exchange(Arc::default(), None, raw).await;
    assert_eq!((told.status, started.elapsed().as_secs()), (408, 10));
}

#[tokio::test(start_paused = true)]
async fn who_takes_an_answer_slowly_gets_all_of_it_and_who_hardly_does_nothing_more() {
    for (each_half_minute, is_whole) in [(40 * 1024, true), (8 * 1024, false)] {
        let (mut client, server) = duplex(1024);
        let served = task::spawn("test", connection(server, Arc::new(Fake::default())));
        let raw = "GET /v1/topics/large HTTP/1.1\r\nHost: localhost\r\n\r\n";
        client.write_all(raw.as_bytes()).await.unwrap();
        let (mut read, mut piece) = (0, vec![0; each_half_minute]);
        loop {
            sleep(Duration::from_secs(30)).await;
            match client.read_exact(&mut piece).await {
                Ok(bytes) => read += bytes,
                Err(_) => break,
            }
        }
        assert_eq!(read + each_half_minute > LARGE, is_whole, "{read} bytes");
        served.await.unwrap();
    }
}

#[tokio::test]
async fn serves_on_a_socket_one_exchange_per_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let fake = Arc::new(Fake::default());
    let handles = fake.clone();
    let server = task::spawn("test", async move {
        serve(listener, handles).await;
    });
    for drains in 1..=MAX_CONNECTIONS + 3 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"POST /v1/drain HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(Told::parse(&text).status, 202);
        assert_eq!(fake.drains.load(Ordering::Relaxed), drains);
    }
    server.abort();
}

#[tokio::test]
async fn calls_about_events_are_handed_on_under_the_same_rules() {
    let call = async |token: Option<&str>, raw: &str| exchange(Arc::default(), token, raw).await;
    let post = "POST /v1/topics/a?b=c HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n";
    assert_eq!(call(None, &format!("{post}\r\nbody")).await.body, "POST /v1/topics/a?b=c body");
    assert_eq!(call(Some("t"), &format!("{post}\r\nbody")).await.status, 401);
    let origin = format!("{post}Origin: http://evil.example\r\n\r\nbody");
    assert_eq!(call(None, &origin).await.status, 403);
    let delete = "DELETE /v1/topics/a HTTP/1.1\r\nHost: localhost\r\nOrigin: x\r\n\r\n";
    assert_eq!(call(None, delete).await.status, 403);
    let foreign = "GET /v1/topics HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    assert_eq!(call(None, foreign).await.status, 403);
    let large = post.replace("Length: 4", "Length: 17");
    let told = call(None, &format!("{large}\r\n{}", "x".repeat(17))).await;
    assert_eq!((told.status, &told.json()["code"]), (413, &json!("body-too-large")));
}
