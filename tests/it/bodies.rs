//! Bodies stream in both directions: limits hold, memory stays flat, an early end is never a clean
//! one.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::harness::{Origin, Reply, Running, dead_address, proxy_to, within};

#[tokio::test]
async fn a_body_over_the_limit_is_413_before_a_byte_goes_upstream() {
    let origin = Origin::ok("never").await;
    let gateway =
        Running::start(&format!("limits: {{ body_bytes: 10 }}\n{}", proxy_to(origin.address())));
    let mut client = gateway.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n").await;
    let answer = client.response("POST").await;
    assert_eq!(answer.status(), 413);
    assert!(answer.text().contains("body-too-large"));
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn a_chunked_body_that_grows_over_the_limit_is_413() {
    let origin = Origin::start(|_, _| Reply::Hang).await;
    let gateway =
        Running::start(&format!("limits: {{ body_bytes: 10 }}\n{}", proxy_to(origin.address())));
    let mut client = gateway.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n012345\r\n6\r\n012345\r\n")
        .await;
    let answer = client.response("POST").await;
    assert_eq!(answer.status(), 413, "{}", answer.text());
}

#[tokio::test]
async fn an_early_answer_is_seen_although_the_body_was_not_read() {
    let gateway = Running::start(
        "limits: { body_bytes: 1000 }\nroutes: [{ name: a, match: { path: /a }, respond: { body: a } }]\n",
    );
    let mut client = gateway.client().await;
    client.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n").await;
    // More than any socket buffer would hide if the gateway closed at once.
    client.send(vec![b'x'; 500_000]).await;
    assert_eq!(client.response("POST").await.status(), 413);
}

/// RFC 9112, 9.3: what a client sends next is lost if the gateway closes behind its answer and does
/// not say so.
#[tokio::test]
async fn a_connection_that_ends_with_a_body_nobody_read_says_so_and_others_go_on() {
    let dead = dead_address();
    let gateway = Running::start(&format!(
        "upstreams: {{ dead: {{ endpoints: [\"{dead}\"] }} }}\nroutes:\n  - {{ name: d, match: {{ path: /502 }}, upstream: dead }}\n  - {{ name: b, match: {{ path: /403 }}, respond: {{ status: 403 }} }}\n",
    ));
    let bodies =
        [("Content-Length: 5", "order"), ("Transfer-Encoding: chunked", "5\r\norder\r\n0\r\n\r\n")];
    for status in [403, 404, 502] {
        for (framing, body) in bodies {
            let head = format!("POST /{status} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
            let mut client = gateway.client().await;
            for _ in 0..3 {
                client.send(format!("{head}{body}")).await;
                let answer = client.response("POST").await;
                assert_eq!((answer.status(), answer.field("connection")), (status, None));
            }
            client.send(head).await;
            let answer = client.response("POST").await;
            assert_eq!((answer.status(), answer.field("connection")), (status, Some("close")));
            client.send(body).await;
            client.closed().await;
        }
    }
}

#[tokio::test]
async fn the_answer_of_an_upstream_that_refuses_an_upload_and_hangs_up_is_seen() {
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = origin.local_addr().unwrap();
    // Closed with the rest of the upload unread, a connection is reset.
    let upstream = tokio::spawn(async move {
        while let Ok((mut stream, _)) = origin.accept().await {
            let mut head = [0; 16];
            stream.read_exact(&mut head).await.unwrap();
            let answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
            stream.write_all(answer).await.unwrap();
        }
    });
    let gateway = Running::start(&proxy_to(address));
    for _ in 0..20 {
        let mut client = gateway.client().await;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n";
        client.send(head).await;
        let mut stream = client.into_stream();
        let (mut read, mut write) = stream.split();
        let uploading = async {
            while write.write_all(&[b'x'; 16 * 1024]).await.is_ok() {}
            std::future::pending::<()>().await;
        };
        let mut seen = vec![0; 12];
        tokio::select! {
            answered = within("an answer", read.read_exact(&mut seen)) => drop(answered.unwrap()),
            () = uploading => {}
        }
        assert_eq!(String::from_utf8(seen).unwrap(), "HTTP/1.1 403");
    }
    upstream.abort();
}

#[tokio::test]
async fn an_upstream_that_ends_early_aborts_the_answer() {
    for head in
        ["Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
    {
        let bytes = format!("HTTP/1.1 200 OK\r\n{head}");
        let origin =
            Origin::start(move |_, _| Reply::AnswerThenClose(bytes.clone().into_bytes())).await;
        let gateway = Running::start(&proxy_to(origin.address()));
        let answer = gateway.client().await.get("/").await;
        assert_eq!(answer.status(), 200);
        assert!(!answer.is_complete, "{head:?}: half a body looked whole");
    }
}

#[tokio::test]
async fn large_bodies_stream_with_back_pressure() {
    // The origin does not read: what the gateway takes from the client is what its buffers and the
    // sockets' hold, not the body.
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let yaml =
        format!("limits: {{ body_bytes: 10GiB }}\n{}", proxy_to(origin.local_addr().unwrap()));
    let gateway = Running::start(&yaml);
    let mut client = gateway.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1073741824\r\n\r\n").await;
    let (mut upstream, _) = within("the gateway's connection", origin.accept()).await.unwrap();
    let mut stream = client.into_stream();
    let chunk = vec![b'x'; 256 * 1024];
    let mut taken = 0_usize;
    while let Ok(Ok(())) =
        tokio::time::timeout(Duration::from_millis(300), stream.write_all(&chunk)).await
    {
        taken += chunk.len();
        assert!(taken < 64 * 1024 * 1024, "the gateway takes what the upstream does not");
    }
    // It flows again as soon as the upstream reads.
    let reader = tokio::spawn(async move {
        let mut sink = vec![0; 1024 * 1024];
        let mut read = 0;
        while read < 128 * 1024 * 1024 {
            read += upstream.read(&mut sink).await.unwrap();
        }
    });
    let writer = tokio::spawn(async move { while stream.write_all(&chunk).await.is_ok() {} });
    within("128 MiB to flow", reader).await.unwrap();
    writer.abort();
}

#[tokio::test]
async fn server_sent_events_pass_as_they_come() {
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Running::start(&proxy_to(origin.local_addr().unwrap()));
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut upstream, _) = within("a connection", origin.accept()).await.unwrap();
    read_some(&mut upstream).await;
    upstream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let mut stream = client.into_stream();
    for event in ["data: one\n\n", "data: two\n\n"] {
        upstream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await.unwrap();
        within(event, async {
            let mut seen = String::new();
            while !seen.contains(event) {
                seen += &read_some(&mut stream).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_attempt() {
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Running::start(&proxy_to(origin.local_addr().unwrap()));
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut upstream, _) = within("a connection", origin.accept()).await.unwrap();
    read_some(&mut upstream).await;
    drop(client);
    within("the attempt to be cancelled", async {
        assert_eq!(upstream.read(&mut [0; 16]).await.unwrap_or(0), 0);
    })
    .await;
    let mut gone = 0.0;
    within("the request to be counted", async {
        while gone < 1.0 {
            gone = gateway.metric("sluice_refusals_total{reason=\"client-closed\"}").await;
        }
    })
    .await;
}

#[tokio::test]
async fn trailers_of_a_request_reach_an_h1_upstream_when_declared() {
    let origin = Origin::ok("fine").await;
    let gateway = Running::start(&proxy_to(origin.address()));
    let mut client = gateway.client().await;
    client
        .send(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
             Trailer: x-sum, x-sluice-attempt, x-forwarded-for, x-real-ip, x-request-id, via, x_sum\r\n\r\n\
             2\r\nhi\r\n0\r\nx-sum: 7\r\ncontent-length: 9\r\nauthorization: evil\r\n\
             x-sluice-attempt: 9\r\nx-forwarded-for: 6.6.6.6\r\nx-real-ip: 6.6.6.6\r\n\
             x-request-id: mine\r\nvia: 1.1 evil\r\nx_sum: 8\r\n\r\n",
        )
        .await;
    assert_eq!(client.response("POST").await.status(), 200);
    let seen = &origin.requests()[0];
    assert_eq!(seen.trailers, [("x-sum".to_owned(), "7".to_owned())]);
}

#[tokio::test]
async fn an_answer_that_ends_with_trailers_is_complete() {
    let origin = Origin::start(|_, _| {
        Reply::Answer(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
              2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n"
                .to_vec(),
        )
    })
    .await;
    let gateway = Running::start(&format!("workers: 1\n{}", proxy_to(origin.address())));
    let mut client = gateway.client().await;
    for _ in 0..3 {
        let answer = client.request("GET / HTTP/1.1\nHost: a\nTE: trailers", "").await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, "hi"));
    }
    let done = "sluice_requests_total{route=\"all\",status=\"2xx\"}";
    within("the requests to be counted", async { while gateway.metric(done).await < 3.0 {} }).await;
    assert!(gateway.metric("sluice_refusals_total{reason=\"client-closed\"}").await < 1.0);
    assert_eq!(origin.connections(), 1, "the connection is used again");
}

#[tokio::test]
async fn a_malformed_chunk_is_400_in_the_middle_of_a_body_too() {
    let origin = Origin::ok("never").await;
    let gateway = Running::start(&proxy_to(origin.address()));
    for chunks in ["zz\r\nhi\r\n", "2\r\nhi\r\nzz\r\n", "2\r\nhiho\r\n"] {
        let mut client = gateway.client().await;
        client
            .send(format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
            ))
            .await;
        let answer = client.response("POST").await;
        assert_eq!(answer.status(), 400, "{chunks:?}");
        assert!(answer.text().contains("bad-framing"), "{chunks:?}: {}", answer.text());
    }
    assert!(origin.requests().iter().all(|request| !request.is_complete));
}

/// Until the end of the connection.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end as well: what came before it is there.
    let _end = within("the end", stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn a_request_stream_reset_without_an_error_is_no_whole_body() {
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Running::start(&proxy_to(origin.local_addr().unwrap()));
    let stream = TcpStream::connect(gateway.address()).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::post("http://a/").body(()).unwrap();
    let (_response, mut send) = client.send_request(request, false).unwrap();
    send.send_data("half".into(), false).unwrap();
    let (mut upstream, _) = within("a connection", origin.accept()).await.unwrap();
    let mut seen = String::new();
    while !seen.contains("half") {
        seen += &read_some(&mut upstream).await;
    }
    send.send_reset(h2::Reason::NO_ERROR);
    seen += &read_all(&mut upstream).await;
    assert!(!seen.contains("0\r\n\r\n"), "half a body looked whole: {seen}");
    driver.abort();
}

#[tokio::test]
async fn a_response_stream_reset_without_an_error_is_no_whole_body() {
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let yaml = format!(
        "upstreams: {{ two: {{ endpoints: [\"{}\"], protocol: h2 }} }}\n\
         routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: two }}]\n",
        origin.local_addr().unwrap()
    );
    let gateway = Running::start(&yaml);
    let (half_seen, mut reset_now) = tokio::sync::oneshot::channel::<()>();
    let upstream = tokio::spawn(async move {
        let (stream, _) = origin.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        let mut send = respond.send_response(http::Response::new(()), false).unwrap();
        send.send_data("half".into(), false).unwrap();
        tokio::select! {
            _ = &mut reset_now => {}
            _ = connection.accept() => {}
        }
        send.send_reset(h2::Reason::NO_ERROR);
        while connection.accept().await.is_some() {}
    });
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut stream = client.into_stream();
    let mut seen = String::new();
    while !seen.contains("half") {
        seen += &read_some(&mut stream).await;
    }
    half_seen.send(()).unwrap();
    seen += &read_all(&mut stream).await;
    assert!(!seen.contains("0\r\n\r\n"), "half a body looked whole: {seen}");
    upstream.abort();
}

async fn read_some(stream: &mut TcpStream) -> String {
    let mut buffer = vec![0; 64 * 1024];
    let n = within("bytes", stream.read(&mut buffer)).await.unwrap();
    String::from_utf8_lossy(&buffer[..n]).into_owned()
}
