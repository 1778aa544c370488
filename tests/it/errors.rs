//! What a client and an operator are told when something is wrong.

use serde_json::Value;

use crate::harness::{Running, dead_address, proxy_to};

#[tokio::test]
async fn an_error_is_a_problem_with_one_reason_everywhere() {
    let gateway =
        Running::start("routes: [{ name: a, match: { path: /a }, respond: { body: a } }]\n");
    let answer = gateway.client().await.get("/nowhere").await;
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.field("content-type"), Some("application/problem+json"));
    let problem: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem["status"], 404);
    assert_eq!(problem["code"], "route-none");
    assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()));
    let status = answer.field("proxy-status").unwrap();
    assert!(status.starts_with("sluice"), "{status}");
    assert!(status.contains("route-none"), "{status}");
    assert!(answer.field("x-request-id").is_some());
    let mut seen = 0.0;
    for _ in 0..50 {
        seen = gateway.metric("sluice_refusals_total{reason=\"route-none\"}").await;
        if seen > 0.0 {
            break;
        }
    }
    assert!((seen - 1.0).abs() < f64::EPSILON, "{seen}");
}

#[tokio::test]
async fn a_dead_upstream_is_told_of_without_its_address() {
    let dead = dead_address();
    let gateway = Running::start(&proxy_to(dead));
    let answer = gateway.client().await.get("/a").await;
    assert_eq!(answer.status(), 502);
    let problem: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem["request_id"].as_str(), answer.field("x-request-id"));
    assert!(problem["detail"].as_str().is_some_and(|it| it.contains("request_id")), "{problem}");
    let told = format!("{:?} {problem}", answer.field("proxy-status"));
    assert!(!told.contains(&dead.port().to_string()) && !told.contains("127.0.0.1"), "{told}");
}

#[tokio::test]
async fn head_gets_the_head_of_an_error_without_its_body() {
    let gateway =
        Running::start("routes: [{ name: a, match: { path: /a }, respond: { body: a } }]\n");
    let mut client = gateway.client().await;
    let answer = client.request("HEAD /nowhere HTTP/1.1\nHost: a", "").await;
    assert_eq!(answer.status(), 404);
    assert!(answer.body.is_empty());
    // The connection is still in step.
    assert_eq!(client.get("/a").await.text(), "a");
}

#[tokio::test]
async fn grpc_callers_get_grpc_errors() {
    let gateway =
        Running::start("routes: [{ name: a, match: { path: /a }, respond: { body: a } }]\n");
    let answer = gateway
        .client()
        .await
        .request(
            "POST /nowhere HTTP/1.1\nHost: a\nContent-Type: application/grpc\nTE: trailers\nContent-Length: 0",
            "",
        )
        .await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.field("content-type"), Some("application/grpc"));
    assert_eq!(answer.field("grpc-status"), Some("12"), "UNIMPLEMENTED");
}

#[tokio::test]
async fn the_admin_listener_tells_the_state() {
    let gateway =
        Running::start("routes: [{ name: a, match: { path: /a }, respond: { body: a } }]\n");
    assert_eq!(gateway.admin("GET", "/livez").await.status(), 200);
    assert_eq!(gateway.admin("GET", "/readyz").await.status(), 200);
    let routes = gateway.json("/v1/routes").await;
    assert!(routes.to_string().contains("\"a\""), "{routes}");
    let config = gateway.json("/v1/config").await;
    assert!(config.to_string().contains("hash"), "{config}");
    let answer = gateway.admin("GET", "/nowhere").await;
    assert_eq!(answer.status(), 404);
    assert!(answer.text().contains("name-unknown"), "{}", answer.text());
    assert_eq!(gateway.admin("DELETE", "/livez").await.status(), 405);
    let explained =
        gateway.admin_with("POST", "/v1/explain", r#"{"method":"GET","url":"http://x/a"}"#).await;
    assert_eq!(explained.status(), 200, "{}", explained.text());
    assert!(explained.text().contains("\"a\""), "{}", explained.text());
    let wrong = gateway.admin_with("POST", "/v1/explain", "null").await;
    assert_eq!(wrong.status(), 400);
    assert!(wrong.text().contains("an object with `method` and `url`"), "{}", wrong.text());
}
