//! `fault`: a share of requests is refused or delayed on purpose, and the operator is told where.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{Origin, Running, config, parse, within};

fn with_fault(origin: &Origin, fault: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0 }}]\n\
         admin: {{ address: 127.0.0.1:0, allow_faults: true }}\n\
         telemetry: {{ access_log: {{ path: off }} }}\n\
         upstreams: {{ origin: {{ endpoints: [\"{}\"] }} }}\n\
         routes: [{{ name: all, upstream: origin, fault: {fault} }}]\n",
        origin.address()
    )
}

fn start(yaml: &str) -> Running {
    Running::start_with(parse(yaml), sluicegate::gateway::Options::default())
}

#[tokio::test]
async fn aborted_requests_are_refused_with_the_status_and_nothing_of_them_is_sent() {
    let origin = Origin::ok("fine").await;
    let gateway = start(&with_fault(&origin, "{ abort: { percent: 100%, status: 418 } }"));
    let answer = gateway.client().await.get("/").await;
    assert_eq!(answer.status(), 418);
    assert!(answer.text().contains("fault-injected"), "{}", answer.text());
    assert!(origin.requests().is_empty());
    let routes = gateway.json("/v1/routes").await;
    let warning = routes["routes"][0]["warnings"][0].as_str().unwrap();
    assert!(warning.contains("fault"), "{warning}");
    let series = "sluice_refusals_total{reason=\"fault-injected\"}";
    assert!(gateway.metric(series).await >= 1.0);
}

#[tokio::test]
async fn about_the_share_that_is_written_is_aborted() {
    let origin = Origin::ok("fine").await;
    let gateway = start(&with_fault(&origin, "{ abort: { percent: 50%, status: 503 } }"));
    let mut client = gateway.client().await;
    let mut aborted = 0;
    for _ in 0..200 {
        aborted += u32::from(client.get("/").await.status() == 503);
    }
    assert!((50..=150).contains(&aborted), "{aborted} of 200");
}

#[tokio::test]
async fn delayed_requests_arrive_late() {
    let origin = Origin::ok("fine").await;
    let gateway = start(&with_fault(&origin, "{ delay: { percent: 100%, duration: 150ms } }"));
    let mut client = gateway.client().await;
    let started = Instant::now();
    let answer = within("a delayed answer", client.get("/")).await;
    assert_eq!(answer.text(), "fine");
    assert!(started.elapsed() >= Duration::from_millis(150));
}

#[tokio::test]
async fn a_route_without_fault_has_no_warning() {
    let gateway = Running::start_with(
        config("routes: [{ name: a, respond: { body: a } }]\n"),
        sluicegate::gateway::Options::default(),
    );
    let routes = gateway.json("/v1/routes").await;
    assert!(routes["routes"][0].get("warnings").is_none());
}
