//! Semantics 1: what is ambiguous is refused at the edge, what is repaired is re-framed, and no
//! byte of a refused request reaches an upstream.

use tokio::net::TcpStream;

use crate::harness::{Origin, Reply, Running, dead_address, origin, proxy_to, within};

/// Sends `request` and expects this status, this reason, a closed connection, and an upstream that
/// saw nothing.
async fn refused(request: &str, status: u16, reason: &str) {
    let origin = Origin::ok("never").await;
    let gateway = Running::start(&proxy_to(origin.address()));
    let mut client = gateway.client().await;
    client.send(request).await;
    let method = request.split(' ').next().unwrap_or_default();
    let answer = client.response(method).await;
    assert_eq!(answer.status(), status, "{request:?}: {}", answer.text());
    assert!(
        answer.field("proxy-status").is_some_and(|field| field.contains(reason)),
        "{request:?}: {:?}",
        answer.fields
    );
    if status == 400 {
        assert_eq!(answer.field("connection"), Some("close"), "{request:?}");
        client.closed().await;
    }
    assert!(origin.requests().is_empty(), "{request:?} reached the upstream");
}

/// Sends `request`, expects 200, and gives what the upstream saw.
async fn forwarded(request: &str) -> crate::harness::Message {
    let origin = Origin::ok("fine").await;
    let gateway = Running::start(&proxy_to(origin.address()));
    let mut client = gateway.client().await;
    client.send(request).await;
    let method = request.split(' ').next().unwrap_or_default();
    let answer = client.response(method).await;
    assert_eq!(answer.status(), 200, "{request:?}: {}", answer.text());
    origin.requests().remove(0)
}

#[tokio::test]
async fn transfer_encoding_other_than_one_chunked_is_refused() {
    for coding in ["chunked, chunked", "gzip, chunked"] {
        let request =
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n");
        refused(&request, 400, "bad-framing").await;
    }
}

#[tokio::test]
async fn repeated_transfer_encoding_is_refused() {
    refused(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "bad-framing",
    )
    .await;
}

#[tokio::test]
async fn host_must_be_there_once_and_be_a_host() {
    for hosts in [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host: user@a\r\n",
        "Host: a:port\r\n",
        "Host: a/b\r\n",
        "Host: [::1\r\n",
        "Host: a b\r\n",
        "Host: \r\n",
    ] {
        refused(&format!("GET / HTTP/1.1\r\n{hosts}\r\n"), 400, "bad-framing").await;
    }
}

#[tokio::test]
async fn absolute_form_must_name_the_host_that_host_names() {
    refused("GET http://other/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad-framing").await;
    let seen = forwarded("GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(seen.target(), "/x");
}

#[tokio::test]
async fn connect_is_405() {
    refused("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405, "method-not-allowed").await;
}

#[tokio::test]
async fn what_a_client_sends_into_a_tunnel_there_is_not_is_no_request() {
    let gateway = Running::start("routes: [{ name: all, match: { path: /x }, respond: {} }]");
    let mut client = gateway.client().await;
    client.send("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n").await;
    client.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let seen = String::from_utf8(client.closed().await).unwrap();
    assert_eq!(seen.matches("HTTP/1.1 ").count(), 1, "{seen}");
    assert!(seen.starts_with("HTTP/1.1 405 "), "{seen}");
}

/// hyper's own limit of an h1 head is the same hundred: the edge never sees such a request.
#[tokio::test]
async fn over_a_hundred_fields_on_h1_are_431_what_hyper_answers_by_itself() {
    let origin = Origin::ok("never").await;
    let gateway = Running::start(&proxy_to(origin.address()));
    let mut client = gateway.client().await;
    let fields = "x-many: 1\r\n".repeat(101);
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
    assert_eq!(client.response("GET").await.status(), 431);
    client.closed().await;
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn over_a_hundred_fields_on_h2_are_431_header_count() {
    let origin = Origin::ok("never").await;
    let gateway = Running::start(&proxy_to(origin.address()));
    let stream = TcpStream::connect(gateway.address()).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::get("http://a/");
    let request = (0..101).fold(request, |request, _| request.header("x-many", "1"));
    let (response, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
    let response = within("an answer", response).await.unwrap();
    assert_eq!(response.status(), 431);
    let status = response.headers()["proxy-status"].to_str().unwrap();
    assert!(status.contains("header-count"), "{status}");
    assert!(origin.requests().is_empty());
    driver.abort();
}

#[tokio::test]
async fn the_asterisk_is_for_options_only() {
    let origin = Origin::ok("never").await;
    let gateway = Running::start(&proxy_to(origin.address()));
    let mut client = gateway.client().await;
    client.send("GET * HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = client.response("GET").await;
    assert_eq!(answer.status(), 400);
    assert!(answer.text().contains("bad-target"), "{}", answer.text());
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn a_head_that_hyper_refuses_is_answered_and_counted() {
    let origin = Origin::ok("never").await;
    let gateway = Running::start(&proxy_to(origin.address()));
    for (request, status) in [
        ("GET / HTTP/9.9\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nx: 1\r\n folded\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nx: a\0b\r\n\r\n".to_owned(), 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
                .to_owned(),
            400,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n".to_owned(), 400),
        (
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            400,
        ),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "y".repeat(40 * 1024)), 431),
    ] {
        let mut client = gateway.client().await;
        client.send(&request).await;
        let head = request.get(..80.min(request.len())).unwrap_or_default();
        let answer = client.response("GET").await;
        assert_eq!(answer.status(), status, "{head:?}");
        client.closed().await;
    }
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn lone_line_feeds_are_repaired_and_re_framed() {
    let seen = forwarded("GET /x HTTP/1.1\nHost: a\nX-One: 1\n\n").await;
    assert_eq!(seen.target(), "/x");
    assert_eq!(seen.field("x-one"), Some("1"));
}

#[tokio::test]
async fn a_length_beside_chunked_is_dropped_and_the_connection_closed() {
    let origin = Origin::ok("fine").await;
    let gateway = Running::start(&proxy_to(origin.address()));
    let mut client = gateway.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert_eq!(client.response("POST").await.status(), 200);
    client.closed().await;
    let requests = origin.requests();
    assert_eq!(requests.len(), 1, "what follows an ambiguous message is not a request");
    assert_eq!(requests[0].text(), "hello");
    assert_eq!(requests[0].field("content-length"), None);
}

#[tokio::test]
async fn equal_repeated_lengths_become_one() {
    let seen =
        forwarded("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi")
            .await;
    assert_eq!(seen.all("content-length"), ["2"]);
    assert_eq!(seen.text(), "hi");
}

#[tokio::test]
async fn hop_by_hop_fields_are_removed_in_both_directions() {
    let origin = Origin::start(|_, _| {
        Reply::Answer(
            b"HTTP/1.1 200 OK\r\nConnection: x-private\r\nX-Private: 1\r\nKeep-Alive: timeout=9\r\n\
              Proxy-Connection: keep-alive\r\nX-Public: 1\r\nContent-Length: 0\r\n\r\n"
                .to_vec(),
        )
    })
    .await;
    let gateway = Running::start(&proxy_to(origin.address()));
    let answer = gateway
        .client()
        .await
        .request(
            "GET / HTTP/1.1\nHost: a\nConnection: x-secret, keep-alive, host\nX-Secret: 1\n\
             Keep-Alive: timeout=1\nProxy-Connection: keep-alive\nTE: gzip, trailers\nX-Kept: 1",
            "",
        )
        .await;
    assert_eq!(answer.status(), 200);
    let seen = &origin.requests()[0];
    for gone in ["x-secret", "keep-alive", "proxy-connection"] {
        assert_eq!(seen.field(gone), None, "{gone} went upstream");
    }
    assert_eq!(seen.field("x-kept"), Some("1"));
    assert!(seen.field("host").is_some(), "`Connection: host` must not remove Host");
    for gone in ["x-private", "keep-alive", "proxy-connection"] {
        assert_eq!(answer.field(gone), None, "{gone} came back");
    }
    assert_eq!(answer.field("x-public"), Some("1"));
}

#[tokio::test]
async fn h2c_upgrades_are_never_tunnelled() {
    let seen = forwarded(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\n\r\n",
    )
    .await;
    assert_eq!(seen.field("upgrade"), None);
    assert_eq!(seen.field("http2-settings"), None);
}

#[tokio::test]
async fn identity_of_an_untrusted_peer_is_replaced() {
    let seen = forwarded(
        "GET / HTTP/1.1\r\nHost: shop:80\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Request-Id: mine\r\nX-Sluice-Attempt: 9\r\nx_under: 1\r\n\r\n",
    )
    .await;
    assert_eq!(seen.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.field("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.field("x-forwarded-host"), Some("shop:80"));
    assert_ne!(seen.field("x-request-id"), Some("mine"));
    assert!(seen.field("x-request-id").is_some());
    assert_eq!(seen.field("x_under"), None);
    assert_ne!(seen.field("x-sluice-attempt"), Some("9"));
    assert!(!seen.field("forwarded").unwrap_or_default().contains("6.6.6.6"));
}

#[tokio::test]
async fn identity_of_a_trusted_peer_is_kept_and_appended_to() {
    let origin = Origin::ok("fine").await;
    let yaml = format!("trusted_proxies: [127.0.0.0/8]\n{}", proxy_to(origin.address()));
    let gateway = Running::start(&yaml);
    let answer = gateway
        .client()
        .await
        .request(
            "GET / HTTP/1.1\nHost: inner\nX-Forwarded-For: 6.6.6.6\nX-Forwarded-Proto: https\n\
             X-Forwarded-Host: shop\nX-Request-Id: mine\nVia: 1.1 edge",
            "",
        )
        .await;
    assert_eq!(answer.status(), 200);
    let seen = &origin.requests()[0];
    assert_eq!(seen.field("x-forwarded-for"), Some("6.6.6.6, 127.0.0.1"));
    assert_eq!(seen.field("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.field("x-forwarded-host"), Some("shop"));
    assert_eq!(seen.field("x-request-id"), Some("mine"));
    assert!(seen.all("via").join(", ").starts_with("1.1 edge, 1.1 "), "{:?}", seen.all("via"));
}

#[tokio::test]
async fn the_target_is_normalised_once_and_forwarded_so() {
    for (sent, seen) in [
        ("/a/%7Euser/./b/../c", "/a/~user/c"),
        ("/a//b", "/a/b"),
        ("/%2e%2e/x", "/x"),
        ("/x;v=1/y?q=%2F..", "/x;v=1/y?q=%2F.."),
    ] {
        let request = format!("GET {sent} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(forwarded(&request).await.target(), seen, "{sent}");
    }
    for bad in ["/a%2Fb", "/a%5Cb", "/a%00", "/a%FF"] {
        let request = format!("GET {bad} HTTP/1.1\r\nHost: a\r\n\r\n");
        let origin = Origin::ok("never").await;
        let gateway = Running::start(&proxy_to(origin.address()));
        let mut client = gateway.client().await;
        client.send(&request).await;
        let answer = client.response("GET").await;
        assert_eq!(answer.status(), 400, "{bad}");
        assert!(answer.text().contains("bad-target"), "{bad}: {}", answer.text());
        assert!(origin.requests().is_empty(), "{bad}");
    }
}

#[tokio::test]
async fn encoded_separators_pass_where_the_route_says_so() {
    let origin = Origin::ok("fine").await;
    let yaml = proxy_to(origin.address())
        .replace("upstream: origin", "upstream: origin, encoded_separators: pass");
    let gateway = Running::start(&yaml);
    assert_eq!(gateway.client().await.get("/a%2fb").await.status(), 200);
    assert_eq!(origin.requests()[0].target(), "/a%2Fb");
}

#[tokio::test]
async fn expect_is_consumed_and_continue_sent_when_the_body_is_read() {
    let origin = Origin::ok("fine").await;
    let gateway = Running::start(&proxy_to(origin.address()));
    let mut client = gateway.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        .await;
    assert_eq!(client.response("POST").await.status(), 100);
    client.send("hi").await;
    assert_eq!(client.response("POST").await.status(), 200);
    let seen = &origin.requests()[0];
    assert_eq!(seen.field("expect"), None);
    assert_eq!(seen.text(), "hi");
}

#[tokio::test]
async fn who_asks_before_sending_a_body_is_told_if_the_connection_ends_with_the_refusal() {
    let origin = Origin::ok("fine").await;
    let dead = dead_address();
    let routes = "routes:\n  - { name: c, match: { path: /c }, upstream: dead }\n  - { name: a, match: { path: /a }, upstream: u }\n  - { name: b, match: { path: /b }, respond: { status: 403 } }\n";
    let gateway = Running::start(&format!(
        "upstreams: {{ u: {{ endpoints: [\"{}\"] }}, dead: {{ endpoints: [\"{dead}\"] }} }}\n{routes}",
        origin.address()
    ));
    let asks = |target: &str, length: &str| {
        format!("POST {target} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n{length}\r\n\r\n")
    };
    for (target, status) in [("/nowhere", 404), ("/b", 403), ("/c", 502)] {
        for length in ["Content-Length: 2", "Transfer-Encoding: chunked"] {
            let mut client = gateway.client().await;
            client.send(asks(target, length)).await;
            let answer = client.response("POST").await;
            assert_eq!(answer.status(), status, "{length}");
            assert_eq!(answer.field("connection"), Some("close"), "{target} {length}");
            client.closed().await;
        }
    }
    // Nothing ends with an answer to a whole request, or to one without a body.
    let mut client = gateway.client().await;
    for _ in 0..2 {
        client.send(asks("/a", "Content-Length: 2")).await;
        assert_eq!(client.response("POST").await.status(), 100);
        client.send("hi").await;
        let answer = client.response("POST").await;
        assert_eq!((answer.status(), answer.field("connection")), (200, None));
        client.send(asks("/b", "Content-Length: 0")).await;
        let answer = client.response("POST").await;
        assert_eq!((answer.status(), answer.field("connection")), (403, None));
    }
}

#[tokio::test]
async fn a_body_of_unknown_length_is_chunked_whatever_the_method() {
    for method in ["GET", "DELETE", "POST"] {
        let seen = forwarded(&format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
        ))
        .await;
        assert_eq!(seen.field("transfer-encoding"), Some("chunked"), "{method}");
        assert_eq!(seen.text(), "hi", "{method}");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start(|_, request| Reply::Answer(origin::ok(request.target()))).await;
    let gateway = Running::start(&proxy_to(origin.address()));
    let mut client = gateway.client().await;
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.response("GET").await.text(), "/1");
    assert_eq!(client.response("GET").await.text(), "/2");
}
