//! Semantics 4 (class A) and 6: pools, dead connections, and what may be sent again.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{
    Message, Origin, Reply, Running, dead_address, eventually, origin, proxy_to, within,
};

#[tokio::test]
async fn one_connection_serves_requests_that_follow_each_other() {
    let origin = Origin::ok("fine").await;
    let gateway = Running::start(&one_worker(&proxy_to(origin.address())));
    let mut client = gateway.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), "fine");
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_refused_connection_is_tried_once_at_another_endpoint() {
    let origin = Origin::ok("fine").await;
    let dead = dead_address();
    let yaml = format!(
        "upstreams: {{ two: {{ endpoints: [\"{dead}\", \"{}\"], balance: round_robin }} }}\n\
         routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: two }}]\n",
        origin.address()
    );
    let gateway = Running::start(&one_worker(&yaml));
    for _ in 0..10 {
        let answer = gateway
            .client()
            .await
            .request("POST / HTTP/1.1\nHost: a\nContent-Length: 2", "hi")
            .await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    assert_eq!(origin.requests().len(), 10);
}

#[tokio::test]
async fn nothing_listens_is_502_upstream_connect() {
    let dead = dead_address();
    let gateway = Running::start(&proxy_to(dead));
    let answer = gateway.client().await.get("/").await;
    assert_eq!(answer.status(), 502);
    assert!(answer.text().contains("upstream-connect"), "{}", answer.text());
    assert!(!answer.text().contains(&dead.port().to_string()), "an address leaked");
}

#[tokio::test]
async fn a_post_that_may_have_been_seen_is_never_sent_again() {
    for reply in [|| Reply::Close, || Reply::Reset] {
        let origin = Origin::start(move |_, _| reply()).await;
        let gateway = Running::start(&one_worker(&proxy_to(origin.address())));
        let answer = gateway
            .client()
            .await
            .request("POST / HTTP/1.1\nHost: a\nContent-Length: 2", "hi")
            .await;
        assert_eq!(answer.status(), 502, "{}", answer.text());
        assert_eq!(origin.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_post_on_a_connection_that_closes_as_it_is_written_is_never_sent_again() {
    // The first answer keeps the connection, the second request finds it dead only after it wrote.
    let origin =
        Origin::start(
            |number, _| {
                if number == 0 { Reply::Answer(origin::ok("first")) } else { Reply::Close }
            },
        )
        .await;
    let gateway = Running::start(&one_worker(&proxy_to(origin.address())));
    let mut client = gateway.client().await;
    let post = "POST / HTTP/1.1\nHost: a\nContent-Length: 2";
    assert_eq!(client.request(post, "hi").await.status(), 200);
    let answer = client.request(post, "hi").await;
    assert_eq!(answer.status(), 502);
    assert!(answer.text().contains("upstream-closed-idle"), "{}", answer.text());
    assert_eq!(origin.requests().len(), 2, "sent once more than it may");
    assert!(gateway.metric("sluice_pool_races_total{upstream=\"origin\"}").await >= 1.0);
}

#[tokio::test]
async fn a_connection_the_upstream_closed_is_not_used_again() {
    let origin = Origin::start(|_, _| Reply::AnswerThenClose(origin::ok("bye"))).await;
    let gateway = Running::start(&one_worker(&proxy_to(origin.address())));
    let mut client = gateway.client().await;
    for round in 1..=5 {
        let answer = client.request("POST / HTTP/1.1\nHost: a\nContent-Length: 2", "hi").await;
        assert_eq!(answer.status(), 200, "round {round}: {}", answer.text());
        eventually("the close to be noticed", || origin.connections() == round).await;
    }
}

#[tokio::test]
async fn responses_that_are_not_http_are_502() {
    for bad in [
        "garbage\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ] {
        let origin = Origin::start(move |_, _| Reply::AnswerThenClose(bad.into())).await;
        let gateway = Running::start(&one_worker(&proxy_to(origin.address())));
        let answer = gateway.client().await.get("/").await;
        assert_eq!(answer.status(), 502, "{bad:?}: {}", answer.text());
        assert!(answer.text().contains("upstream-bad-response"), "{bad:?}: {}", answer.text());
        assert_eq!(origin.requests().len(), 1, "{bad:?} was asked for again");
    }
}

#[tokio::test]
async fn a_length_that_is_none_is_502_for_head_too() {
    for length in ["2, 2", "-1", "2\r\nContent-Length: 3"] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let origin = Origin::start(move |_, _| Reply::Answer(head.clone().into_bytes())).await;
        let gateway = Running::start(&proxy_to(origin.address()));
        let mut client = gateway.client().await;
        let answer = client.request("HEAD / HTTP/1.1\nHost: a", "").await;
        assert_eq!(answer.status(), 502, "{length}");
    }
    let twice = |_, _: &Message| {
        Reply::Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n".into())
    };
    let origin = Origin::start(twice).await;
    let gateway = Running::start(&proxy_to(origin.address()));
    let mut client = gateway.client().await;
    let answer = client.request("HEAD / HTTP/1.1\nHost: a", "").await;
    assert_eq!((answer.status(), answer.all("content-length")), (200, vec!["2"]));
}

#[tokio::test]
async fn a_response_head_that_is_too_large_is_502() {
    let fields = "x-many: 1\r\n".repeat(101);
    let many = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{fields}\r\n");
    let large =
        format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nx: {}\r\n\r\n", "y".repeat(40_000));
    for bad in [many, large] {
        let origin = Origin::start(move |_, _| Reply::AnswerThenClose(bad.clone().into())).await;
        let gateway = Running::start(&one_worker(&proxy_to(origin.address())));
        let answer = gateway.client().await.get("/").await;
        assert_eq!(answer.status(), 502);
        assert!(answer.text().contains("upstream-bad-response"), "{}", answer.text());
    }
}

#[tokio::test]
async fn an_http_1_0_upstream_is_answered_for_in_our_version() {
    let origin = Origin::start(|_, _| {
        Reply::AnswerThenClose(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nold".to_vec())
    })
    .await;
    let gateway = Running::start(&proxy_to(origin.address()));
    let mut client = gateway.client().await;
    for _ in 0..2 {
        let answer = client.get("/").await;
        assert_eq!(answer.line, "HTTP/1.1 200 OK");
        assert_eq!(answer.text(), "old");
    }
}

#[tokio::test]
async fn an_upload_of_unknown_length_reaches_an_http_1_0_upstream_that_keeps_connections() {
    let old = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok";
    let origin = Origin::start(move |_, _| Reply::Answer(old.into())).await;
    let gateway = Running::start(&one_worker(&proxy_to(origin.address())));
    let mut client = gateway.client().await;
    let upload = "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked";
    for _ in 0..3 {
        assert_eq!(client.request(upload, "3\r\nabc\r\n0\r\n\r\n").await.status(), 200);
    }
    let seen: Vec<_> = origin.requests().iter().map(Message::text).collect();
    assert_eq!(seen, ["abc", "abc", "abc"]);
    assert_eq!(origin.connections(), 3);
}

#[tokio::test]
async fn an_endpoint_that_answers_nobody_is_left_alone() {
    let (fine, hole) = (Origin::ok("fine").await, Origin::start(|_, _| Reply::Hang).await);
    let yaml = format!(
        "upstreams: {{ two: {{ endpoints: [\"{}\", \"{}\"] }} }}\n\
         routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: two, timeout: 100ms }}]\n",
        fine.address(),
        hole.address()
    );
    let gateway = Running::start(&one_worker(&yaml));
    let mut client = gateway.client().await;
    let mut late = 0;
    for _ in 0..40 {
        late += usize::from(client.get("/").await.status() == 504);
    }
    assert!(late <= 1, "{late} of 40 requests went where nobody answers");
    assert_eq!(hole.requests().len(), late);
    let counted = "sluice_attempts_total{upstream=\"two\",outcome=\"upstream-timeout-total\"}";
    if late > 0 {
        assert!((gateway.metric(counted).await - 1.0).abs() < f64::EPSILON);
    }
}

#[tokio::test]
async fn interim_responses_are_dropped() {
    let origin = Origin::start(|_, _| {
        Reply::Answer(
            b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
                .to_vec(),
        )
    })
    .await;
    let gateway = Running::start(&proxy_to(origin.address()));
    let answer = gateway.client().await.get("/").await;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"));
}

#[tokio::test]
async fn bytes_after_a_response_poison_nothing() {
    let origin = Origin::start(|number, _| {
        if number == 0 {
            Reply::Answer(
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
                    .to_vec(),
            )
        } else {
            Reply::Answer(origin::ok("good"))
        }
    })
    .await;
    let gateway = Running::start(&one_worker(&proxy_to(origin.address())));
    assert_eq!(gateway.client().await.get("/").await.text(), "ok");
    assert_eq!(gateway.client().await.get("/").await.text(), "good");
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_503_upstream_dns() {
    let yaml = "upstreams: { lost: { endpoints: [\"nowhere.invalid:80\"], connect_timeout: 300ms } }\n\
                routes: [{ name: all, match: { path: \"/{*rest}\" }, upstream: lost }]\n";
    let gateway = Running::start(yaml);
    let answer = gateway.client().await.get("/").await;
    assert_eq!(answer.status(), 503);
    assert!(answer.text().contains("upstream-dns"), "{}", answer.text());
    assert!(answer.field("retry-after").is_some());
}

#[tokio::test]
async fn a_slow_upstream_is_504_within_the_timeout() {
    let origin = Origin::start(|_, _| Reply::Hang).await;
    let yaml =
        proxy_to(origin.address()).replace("upstream: origin", "upstream: origin, timeout: 100ms");
    let gateway = Running::start(&yaml);
    let answer = gateway.client().await.get("/").await;
    assert_eq!(answer.status(), 504);
    assert!(answer.text().contains("upstream-timeout-total"), "{}", answer.text());
}

/// For an end that is far off no timer is made: the connection's own comes by before.
#[tokio::test]
async fn an_end_that_was_far_off_is_kept_too() {
    let origin = Origin::start(|_, _| Reply::Hang).await;
    let yaml =
        proxy_to(origin.address()).replace("upstream: origin", "upstream: origin, timeout: 3200ms");
    let gateway = Running::start(&yaml);
    let mut client = gateway.client().await;
    let asked = Instant::now();
    let answer = within("the end", client.get("/")).await;
    assert_eq!(answer.status(), 504);
    let took = asked.elapsed().as_millis();
    assert!((3200..4100).contains(&took), "{took} ms");
}

#[tokio::test]
async fn a_request_over_the_upstreams_limit_is_503() {
    let origin = Origin::start(|_, _| Reply::Hang).await;
    let yaml = format!(
        "upstreams: {{ origin: {{ endpoints: [\"{}\"], max_in_flight: 1 }} }}\n\
         routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: origin }}]\n",
        origin.address()
    );
    let gateway = Running::start(&yaml);
    let mut first = gateway.client().await;
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    origin.wait_for(1).await;
    let answer = gateway.client().await.get("/").await;
    assert_eq!(answer.status(), 503);
    assert!(answer.text().contains("concurrency-full"), "{}", answer.text());
    drop(first);
    let mut status = 503;
    within("the place to be free", async {
        while status == 503 {
            let mut client = gateway.client().await;
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            // The origin hangs: an answer that does not come is a request that was let in.
            let answer = tokio::time::timeout(Duration::from_millis(100), client.response("GET"));
            status = answer.await.map_or(0, |answer| answer.status());
        }
    })
    .await;
}

#[tokio::test]
async fn a_unix_socket_is_a_listener_like_any_other() {
    let origin = Origin::ok("fine").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sluice.sock");
    let yaml = format!(
        "listeners: [{{ name: web, address: \"unix:{}\" }}]\nadmin: {{ address: 127.0.0.1:0 }}\n\
         telemetry: {{ access_log: {{ path: off }} }}\n{}",
        path.display(),
        proxy_to(origin.address())
    );
    let _gateway =
        Running::start_with(crate::harness::parse(&yaml), sluicegate::gateway::Options::default());
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let answer =
        crate::harness::Message::read_response(&mut stream, &mut Vec::new(), "GET").await.unwrap();
    assert_eq!(answer.text(), "fine");
    // Its peers have no address to forward.
    assert_eq!(origin.requests()[0].field("x-forwarded-for"), None);
}

/// One worker has one pool: what a test says of connections is exact.
fn one_worker(yaml: &str) -> String {
    format!("workers: 1\n{yaml}")
}
