//! Semantics 10: refusals are quick and say when to come back; the adaptive limit of an upstream.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{Client, Message, Origin, Reply, Running, eventually, origin};

fn full(address: std::net::SocketAddr, upstream: &str, route: &str) -> String {
    format!(
        "upstreams: {{ origin: {{ endpoints: [\"{address}\"]{upstream} }} }}\n\
         routes: [{{ name: all, upstream: origin{route} }}]\n"
    )
}

/// A gateway whose one place is taken by a request that hangs, and what the next one heard.
struct Refused {
    gateway: Running,
    answer: Message,
    took: Duration,
    _first: Client,
    _origin: Origin,
}

async fn refused(upstream: &str, route: &str) -> Refused {
    let origin = Origin::start(|_, _| Reply::Hang).await;
    let gateway = Running::start(&full(origin.address(), upstream, route));
    let mut first = gateway.client().await;
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    origin.wait_for(1).await;
    let mut second = gateway.client().await;
    let started = Instant::now();
    let answer = second.get("/").await;
    let took = started.elapsed();
    assert_eq!(origin.requests().len(), 1, "nothing of it was sent");
    Refused { gateway, answer, took, _first: first, _origin: origin }
}

#[tokio::test]
async fn a_full_route_and_a_full_upstream_refuse_at_once_and_say_when_to_come_back() {
    for (upstream, route) in [("", ", max_in_flight: 1"), (", max_in_flight: 1", "")] {
        let Refused { answer, took, .. } = refused(upstream, route).await;
        assert_eq!(answer.status(), 503);
        assert!(answer.text().contains("concurrency-full"), "{}", answer.text());
        assert_eq!(answer.field("retry-after"), Some("1"));
        // Under a millisecond for the gateway; the rest is for a busy machine.
        assert!(took < Duration::from_millis(90), "{took:?}");
    }
}

#[tokio::test]
async fn a_full_adaptive_limit_waits_a_moment_and_sheds() {
    let limit = ", adaptive_concurrency: { initial: 1, min: 1, max: 1 }";
    let full = refused(limit, "").await;
    let Refused { gateway, answer, took, .. } = &full;
    assert_eq!(answer.status(), 503);
    assert!(answer.text().contains("shed-overload"), "{}", answer.text());
    assert_eq!(answer.field("retry-after"), Some("1"));
    assert!((100..2_000).contains(&took.as_millis()), "{took:?}");
    let upstreams = gateway.json("/v1/upstreams").await;
    let standing = &upstreams["upstreams"][0]["adaptive_concurrency"];
    assert_eq!((standing["limit"].as_u64(), standing["in_flight"].as_u64()), (Some(1), Some(1)));
    assert!(gateway.metric("sluice_adaptive_limit{upstream=\"origin\"}").await >= 1.0);
    let asked = r#"{"method":"GET","url":"/"}"#;
    let told = gateway.admin_with("POST", "/v1/explain", asked).await.text();
    assert!(told.contains("adaptive_concurrency") && told.contains("1 of 1"), "{told}");
}

#[tokio::test]
async fn who_waits_gets_the_place_that_comes_free() {
    let release = std::sync::Arc::new(tokio::sync::Notify::new());
    let origin =
        Origin::start(
            |number, _| {
                if number == 0 { Reply::Hang } else { Reply::Answer(origin::ok("fine")) }
            },
        )
        .await;
    let limit = ", adaptive_concurrency: { initial: 1, min: 1, max: 1 }";
    let gateway = Running::start(&full(origin.address(), limit, ""));
    let mut first = gateway.client().await;
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    origin.wait_for(1).await;
    let mut second = gateway.client().await;
    let waiting = tokio::spawn({
        let release = release.clone();
        async move {
            second.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            release.notify_one();
            second.response("GET").await
        }
    });
    release.notified().await;
    // The client that hangs leaves: its place goes to the one in line.
    drop(first);
    let answer = waiting.await.unwrap();
    assert_eq!(answer.text(), "fine", "{}", answer.status());
    eventually("the places to come back", || origin.requests().len() == 2).await;
}
