//! Semantics 2: who may keep a connection, and for how long.

use std::time::Duration;

use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use crate::harness::{Origin, Reply, Running, proxy_to, within};

const RESPOND: &str = "routes: [{ name: a, match: { path: /a }, respond: { body: a } }]\n";

fn limits(limits: &str) -> String {
    format!("limits: {{ {limits} }}\n{RESPOND}")
}

#[tokio::test]
async fn a_head_that_does_not_come_is_408() {
    let gateway = Running::start(&limits("header_timeout: 100ms"));
    let mut client = gateway.client().await;
    client.send("GET /a HTTP/1.1\r\nHost: ").await;
    assert_eq!(client.response("GET").await.status(), 408);
    client.closed().await;
}

#[tokio::test]
async fn a_head_that_trickles_is_408_all_the_same() {
    let gateway = Running::start(&limits("header_timeout: 200ms"));
    let client = gateway.client().await;
    let mut stream = client.into_stream();
    let (mut reader, mut writer) = stream.split();
    let trickle = async {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        loop {
            tick.tick().await;
            if tokio::io::AsyncWriteExt::write_all(&mut writer, b"x").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let mut buffer = Vec::new();
    let answer = crate::harness::Message::read_response(&mut reader, &mut buffer, "GET");
    let read = async { answer.await.map(|answer| answer.status()) };
    let status = within("408", async {
        tokio::select! {
            () = trickle => unreachable!(),
            status = read => status,
        }
    })
    .await;
    assert_eq!(status, Some(408));
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let gateway = Running::start(&limits("keepalive_timeout: 100ms"));
    let mut client = gateway.client().await;
    assert_eq!(client.get("/a").await.status(), 200);
    assert!(client.closed().await.is_empty());
    let mut silent = gateway.client().await;
    assert!(silent.closed().await.is_empty());
}

#[tokio::test]
async fn a_connection_that_is_parked_after_every_request_loses_nothing() {
    let mut config = crate::harness::config(RESPOND);
    config.listeners[0].connection.park_after = Duration::ZERO;
    let gateway = Running::start_with(config, sluicegate::gateway::Options::default());
    let mut client = gateway.client().await;
    let head = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    // A whole request and the beginning of the next, then its rest.
    for split in 1..head.len() {
        client.send(&[head, &head[..split]].concat()).await;
        assert_eq!(client.response("GET").await.text(), "a");
        client.send(&head[split..]).await;
        assert_eq!(client.response("GET").await.text(), "a");
    }
}

#[tokio::test]
async fn a_body_that_stops_is_408() {
    let origin = Origin::start(|_, _| Reply::Hang).await;
    let yaml = format!("limits: {{ body_idle_timeout: 100ms }}\n{}", proxy_to(origin.address()));
    let gateway = Running::start(&yaml);
    let mut client = gateway.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await;
    let answer = client.response("POST").await;
    assert_eq!(answer.status(), 408, "{}", answer.text());
    assert!(answer.text().contains("client-timeout"));
}

#[tokio::test]
async fn a_slow_upstream_never_makes_the_client_look_slow() {
    let origin = Origin::start(|_, _| Reply::Hang).await;
    let yaml = format!(
        "limits: {{ body_idle_timeout: 50ms }}\n{}",
        proxy_to(origin.address()).replace("upstream: origin", "upstream: origin, timeout: 300ms")
    );
    let gateway = Running::start(&yaml);
    let mut client = gateway.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody").await;
    let answer = client.response("POST").await;
    assert_eq!(answer.status(), 504, "{}", answer.text());
}

#[tokio::test]
async fn a_connection_is_closed_after_its_requests() {
    let gateway = Running::start(&limits("requests_per_connection: 10"));
    let mut client = gateway.client().await;
    for served in 1..=11 {
        let answer = client.get("/a").await;
        assert_eq!(answer.status(), 200);
        if answer.field("connection") == Some("close") {
            assert!((9..=11).contains(&served), "closed after {served}");
            client.closed().await;
            return;
        }
    }
    panic!("still open after eleven requests");
}

#[tokio::test]
async fn an_old_connection_is_closed_in_an_orderly_way() {
    let gateway = Running::start(&limits("connection_max_age: 100ms"));
    let mut client = gateway.client().await;
    assert_eq!(client.get("/a").await.status(), 200);
    assert!(client.closed().await.is_empty());
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let body = "x".repeat(1024 * 1024);
    let length = body.len();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
    let origin = Origin::start(move |_, _| Reply::Answer(answer.clone().into_bytes())).await;
    let yaml = format!("limits: {{ send_idle_timeout: 100ms }}\n{}", proxy_to(origin.address()));
    let gateway = Running::start(&yaml);
    let mut client = gateway.client().await;
    // Enough answers to fill every socket buffer on the way.
    for _ in 0..16 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    }
    within("the connection to be counted as cut", async {
        let series = "sluice_connections_total{listener=\"web\",outcome=\"send_idle\"}";
        while gateway.metric(series).await < 1.0 {}
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_does_not_read_is_given_up() {
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = deaf.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = deaf.accept().await {
            held.push(stream);
        }
    });
    let limits = "limits: { send_idle_timeout: 100ms, body_bytes: 1GiB }";
    let gateway = Running::start(&format!("{limits}\n{}", proxy_to(address)));
    let mut stream = gateway.client().await.into_stream();
    let (mut reader, mut writer) = stream.split();
    let upload = async {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 1u64 << 29);
        writer.write_all(head.as_bytes()).await.unwrap();
        while writer.write_all(&[0; 8192]).await.is_ok() {}
        std::future::pending().await
    };
    let mut buffer = Vec::new();
    let answer = crate::harness::Message::read_response(&mut reader, &mut buffer, "POST");
    let status = within("the answer", async {
        tokio::select! {
            status = async { answer.await.map(|answer| answer.status()) } => status,
            status = upload => status,
        }
    })
    .await;
    assert_eq!(status, Some(504));
}

#[tokio::test]
async fn at_the_connection_limit_an_idle_connection_makes_room() {
    let mut config = crate::harness::config(&format!("workers: 1\n{RESPOND}"));
    config.listeners[0].socket.max_connections = 2;
    let gateway = Running::start_with(config, sluicegate::gateway::Options::default());
    let mut first = gateway.client().await;
    assert_eq!(first.get("/a").await.status(), 200);
    let mut second = gateway.client().await;
    assert_eq!(second.get("/a").await.status(), 200);
    let mut third = gateway.client().await;
    assert_eq!(third.get("/a").await.status(), 200);
    first.closed().await;
    assert_eq!(second.get("/a").await.status(), 200, "only the oldest idle one goes");
}
