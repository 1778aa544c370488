//! `auth.forward`: another service decides, on kept-alive connections, and nobody passes without it.

use std::{fs, time::Duration};

use tokio::time::Instant;

use crate::harness::{Message, Origin, Reply, Running, issuer::response, origin::ok};

fn yaml(auth: &Origin, upstream: &Origin, more: &str) -> String {
    format!(
        "workers: 1\n\
         upstreams: {{ origin: {{ endpoints: [\"{}\"] }} }}\n\
         routes:\n- name: all\n  match: {{ path: \"/{{*rest}}\" }}\n  upstream: origin\n  \
         auth: {{ forward: {{ url: \"http://{}/check?app=shop\", {more} }} }}\n",
        upstream.address(),
        auth.address(),
    )
}

const LISTS: &str = "request_headers: [authorization], response_headers: [x-user, x-roles]";

#[tokio::test]
async fn the_service_is_asked_and_its_word_goes_upstream() {
    let auth = Origin::start(|_, _| {
        Reply::Answer(response("200 OK", "x-user: alice\r\nx-secret: s\r\n", "welcome"))
    })
    .await;
    let upstream = Origin::ok("fine").await;
    let gateway = Running::start(&yaml(&auth, &upstream, LISTS));
    let mut client = gateway.client().await;
    for _ in 0..20 {
        let answer = client
            .request(
                "POST /orders//7?x=1 HTTP/1.1\nHost: shop.example\nAuthorization: Bearer t\n\
                 Cookie: a=b\nX-User: root\nX-Roles: admin\nX-Forwarded-For: 10.9.9.9\n\
                 Content-Length: 4",
                "body",
            )
            .await;
        assert_eq!(answer.text(), "fine");
    }
    assert_eq!(auth.connections(), 1, "its connection is kept");

    let asked = &auth.requests()[0];
    assert_eq!(asked.line, "GET /check?app=shop HTTP/1.1");
    assert_eq!(asked.field("host"), Some(auth.address().to_string().as_str()));
    assert_eq!(asked.field("authorization"), Some("Bearer t"));
    assert_eq!(asked.field("x-forwarded-method"), Some("POST"));
    assert_eq!(asked.field("x-forwarded-uri"), Some("/orders/7?x=1"));
    assert_eq!(asked.field("x-forwarded-host"), Some("shop.example"));
    assert_eq!(asked.field("x-forwarded-proto"), Some("http"));
    assert_eq!(asked.field("x-forwarded-for"), Some("127.0.0.1"));
    assert!(asked.field("x-request-id").is_some());
    assert!(asked.field("cookie").is_none() && asked.body.is_empty());

    let forwarded = &upstream.requests()[0];
    assert_eq!(forwarded.all("x-user"), ["alice"]);
    assert!(forwarded.all("x-roles").is_empty(), "the client's own word is gone");
    assert!(forwarded.field("x-secret").is_none());
    assert_eq!(forwarded.body, b"body");
}

#[tokio::test]
async fn a_refusal_is_the_answer_and_the_upstream_sees_nothing() {
    let auth = Origin::start(|number, _| {
        let fields = "www-authenticate: Basic realm=\"shop\"\r\nlocation: https://login.example/\r\n\
                      set-cookie: s=1\r\nx-internal: 10.0.0.1\r\n";
        let status = ["401 Unauthorized", "302 Found", "403 Forbidden", "500 Oops"][number % 4];
        Reply::Answer(response(status, fields, "an internal page"))
    })
    .await;
    let upstream = Origin::ok("fine").await;
    let gateway = Running::start(&yaml(&auth, &upstream, LISTS));
    let mut client = gateway.client().await;
    for status in [401, 302, 403, 500] {
        let answer = client.get("/").await;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.field("location"), Some("https://login.example/"));
        assert_eq!(answer.field("www-authenticate"), Some("Basic realm=\"shop\""));
        assert!(answer.field("set-cookie").is_none() && answer.field("x-internal").is_none());
        assert!(answer.text().contains("auth-denied"), "{}", answer.text());
    }
    assert_eq!(upstream.connections(), 0);
    let refusals = gateway.metric("sluice_refusals_total{reason=\"auth-denied\"}").await;
    assert!((3.5..4.5).contains(&refusals), "{refusals}");
}

#[tokio::test]
async fn without_an_answer_nobody_passes_and_nobody_waits() {
    for reply in [|| Reply::Hang, || Reply::Close, || Reply::Reset] {
        let auth = Origin::start(move |_, _| reply()).await;
        let upstream = Origin::ok("fine").await;
        let gateway = Running::start(&yaml(&auth, &upstream, "timeout: 100ms"));
        let start = Instant::now();
        let answer = gateway.client().await.get("/").await;
        assert_eq!(answer.status(), 503, "{}", answer.text());
        assert!(answer.text().contains("auth-unavailable"), "{}", answer.text());
        assert!(answer.field("retry-after").is_some());
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(upstream.connections(), 0);
    }
}

#[tokio::test]
async fn a_service_that_closes_its_idle_connections_refuses_nobody() {
    let auth = Origin::start(|_, _| Reply::AnswerThenClose(ok("yes"))).await;
    let upstream = Origin::ok("fine").await;
    let gateway = Running::start(&yaml(&auth, &upstream, "timeout: 5s"));
    let mut client = gateway.client().await;
    for _ in 0..50 {
        let answer: Message = client.get("/").await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
}

#[tokio::test]
async fn another_way_in_does_not_bring_the_clients_word_along() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.yaml");
    let digest = "7c35c5a1785d20704e44d5de4beb81c1fce91b6fe48ed7c3159af6f7f832078b";
    fs::write(&keys, format!("- {{ id: acme, sha256: {digest} }}\n")).unwrap();
    let auth =
        Origin::start(|_, _| Reply::Answer(response("200 OK", "x-user: alice\r\n", ""))).await;
    let upstream = Origin::ok("fine").await;
    let forward = format!("{{ forward: {{ url: \"http://{}/\", {LISTS} }} }}", auth.address());
    let gateway = Running::start(&format!(
        "workers: 1\napi_keys: {{ partners: {{ file: \"{}\" }} }}\n\
         upstreams: {{ origin: {{ endpoints: [\"{}\"] }} }}\n\
         routes:\n- name: any\n  upstream: origin\n  \
         auth: {{ any_of: [{{ api_key: {{ sets: [partners] }} }}, {forward}] }}\n\
         - name: open\n  match: {{ path: /open }}\n  upstream: origin\n",
        keys.display(),
        upstream.address(),
    ));
    let mut client = gateway.client().await;
    for (target, key) in [("/", "k-1"), ("/open", "k-1"), ("/", "k-2")] {
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}\r\nX-User: admin\r\n\
             Transfer-Encoding: chunked\r\nTrailer: x-user, x-roles, x-sum\r\n\r\n\
             2\r\nhi\r\n0\r\nx-user: admin\r\nx-roles: admin\r\nx-sum: 7\r\n\r\n"
        );
        client.send(&head).await;
        assert_eq!(client.response("POST").await.status(), 200);
    }
    let users = upstream.requests().iter().map(|seen| seen.all("x-user").join(",")).collect();
    let expected: Vec<String> = vec![String::new(), String::new(), "alice".to_owned()];
    assert_eq!((users, auth.requests().len()), (expected, 1));
    for seen in upstream.requests() {
        assert_eq!(seen.trailers, [("x-sum".to_owned(), "7".to_owned())]);
    }
}
