//! Protocols through the proxy: HTTP/2 on either side, gRPC with trailers, TLS.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Origin, Running, proxy_to, within};

/// An h2 server that answers every stream with its body back and a `grpc-status` trailer.
async fn h2_echo() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        let te = request.headers().get("te").cloned();
                        let mut body = request.into_body();
                        let mut response = Response::new(());
                        response
                            .headers_mut()
                            .insert("content-type", HeaderValue::from_static("application/grpc"));
                        if let Some(te) = te {
                            response.headers_mut().insert("x-te", te);
                        }
                        let mut send = respond.send_response(response, false).unwrap();
                        while let Some(Ok(data)) = body.data().await {
                            body.flow_control().release_capacity(data.len()).unwrap();
                            send.send_data(data, false).unwrap();
                        }
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", HeaderValue::from_static("0"));
                        send.send_trailers(trailers).unwrap();
                    });
                }
            });
        }
    });
    address
}

/// One h2 request by prior knowledge: status, fields, body, trailers.
async fn h2_request(
    address: std::net::SocketAddr,
    request: Request<()>,
    body: &'static [u8],
) -> (Response<()>, Vec<u8>, Option<HeaderMap>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let (response, mut send) = client.send_request(request, body.is_empty()).unwrap();
    if !body.is_empty() {
        send.send_data(Bytes::from_static(body), true).unwrap();
    }
    let response = within("an h2 answer", response).await.unwrap();
    let (parts, mut stream) = response.into_parts();
    let mut bytes = Vec::new();
    while let Some(data) = within("h2 data", stream.data()).await {
        let data = data.unwrap();
        stream.flow_control().release_capacity(data.len()).unwrap();
        bytes.extend_from_slice(&data);
    }
    let trailers = stream.trailers().await.unwrap();
    driver.abort();
    (Response::from_parts(parts, ()), bytes, trailers)
}

#[tokio::test]
async fn grpc_passes_with_its_trailers_h2_to_h2() {
    let yaml = format!(
        "upstreams: {{ grpc: {{ endpoints: [\"{}\"], protocol: h2 }} }}\n\
         routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: grpc }}]\n",
        h2_echo().await
    );
    let gateway = Running::start(&yaml);
    let request = Request::post("http://shop/pkg.Service/Method")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (response, body, trailers) = h2_request(gateway.address(), request, b"ping").await;
    assert_eq!(response.status(), 200);
    assert_eq!(body, b"ping");
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
    assert_eq!(response.headers()["x-te"], "trailers");
}

#[tokio::test]
async fn h2_downstream_h1_upstream() {
    let origin = Origin::ok("fine").await;
    let gateway = Running::start(&proxy_to(origin.address()));
    let request = Request::get("http://shop/x?y=1")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(())
        .unwrap();
    let (response, body, _) = h2_request(gateway.address(), request, b"").await;
    assert_eq!(response.status(), 200);
    assert_eq!(body, b"fine");
    assert!(response.headers().get("connection").is_none());
    let seen = &origin.requests()[0];
    assert_eq!(seen.target(), "/x?y=1");
    assert_eq!(seen.all("cookie"), ["a=1; b=2"]);
    assert_eq!(seen.field("x-forwarded-host"), Some("shop"));
}

#[tokio::test]
async fn h1_downstream_h2_upstream() {
    let yaml = format!(
        "upstreams: {{ two: {{ endpoints: [\"{}\"], protocol: h2 }} }}\n\
         routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: two }}]\n",
        h2_echo().await
    );
    let gateway = Running::start(&yaml);
    let answer = gateway
        .client()
        .await
        .request("POST /x HTTP/1.1\nHost: shop\nContent-Length: 4", "ping")
        .await;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "ping"));
}

#[tokio::test]
async fn many_streams_share_one_upstream_connection() {
    let yaml = format!(
        "workers: 1\nupstreams: {{ two: {{ endpoints: [\"{}\"], protocol: h2 }} }}\n\
         routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: two }}]\n",
        h2_echo().await
    );
    let gateway = Running::start(&yaml);
    let stream = TcpStream::connect(gateway.address()).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut answers = Vec::new();
    for _ in 0..50 {
        let mut client = client.clone().ready().await.unwrap();
        let request = Request::post("http://shop/x").body(()).unwrap();
        let (response, mut send) = client.send_request(request, false).unwrap();
        send.send_data(Bytes::from_static(b"ping"), true).unwrap();
        answers.push(response);
    }
    for answer in answers {
        assert_eq!(within("an answer", answer).await.unwrap().status(), 200);
    }
    driver.abort();
}

/// An h2 server that answers with `head` and the bytes `ping`, or none, and ends its stream once `end_now`
/// tells it to. Tells whether the stream was reset before.
async fn h2_that_ends_later(
    head: Response<()>,
    data: &'static [u8],
) -> (std::net::SocketAddr, tokio::sync::oneshot::Sender<()>, tokio::task::JoinHandle<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (end_now, told) = tokio::sync::oneshot::channel();
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        let mut send = respond.send_response(head, false).unwrap();
        if !data.is_empty() {
            send.send_data(Bytes::from_static(data), false).unwrap();
        }
        let was_reset = tokio::select! {
            _ = told => false,
            _ = std::future::poll_fn(|cx| send.poll_reset(cx)) => true,
            _ = connection.accept() => true,
        };
        if !was_reset {
            send.send_data(Bytes::new(), true).unwrap();
        }
        tokio::spawn(async move { while connection.accept().await.is_some() {} });
        was_reset
    });
    (address, end_now, served)
}

#[tokio::test]
async fn an_end_that_an_h2_upstream_says_after_the_last_byte_is_no_reset() {
    let response = |status: u16, length: &str| {
        let head = Response::builder().status(status);
        if length.is_empty() { head } else { head.header("content-length", length) }
    };
    for (method, head, data) in [
        ("GET", response(200, "4"), "ping"),
        ("HEAD", response(200, "4"), ""),
        ("GET", response(204, ""), ""),
        ("GET", response(304, "4"), ""),
    ] {
        let head = head.body(()).unwrap();
        let status = head.status();
        let (origin, end_now, served) = h2_that_ends_later(head, data.as_bytes()).await;
        let yaml = format!(
            "upstreams: {{ two: {{ endpoints: [\"{origin}\"], protocol: h2 }} }}\n\
             routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: two }}]\n"
        );
        let gateway = Running::start(&yaml);
        let mut client = gateway.client().await;
        client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        // Of which the client has all before the stream has ended.
        let answer = client.response(method).await;
        assert_eq!((answer.status(), answer.text().as_str()), (status.as_u16(), data));
        end_now.send(()).unwrap();
        assert!(
            !within("the end of the stream", served).await.unwrap(),
            "{method} {status}: reset"
        );
        let left = gateway.metric("sluice_refusals_total{reason=\"client-closed\"}").await;
        assert!(left.abs() < 0.5, "{method} {status}: the client is said to have left");
    }
}

#[tokio::test]
async fn what_an_h2_upstream_says_after_a_head_without_content_goes_nowhere() {
    for status in [204, 304] {
        let head = Response::builder().status(status).body(()).unwrap();
        let (origin, end_now, _) = h2_that_ends_later(head, b"ping").await;
        let yaml = format!(
            "upstreams: {{ two: {{ endpoints: [\"{origin}\"], protocol: h2 }} }}\n\
             routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: two }}]\n"
        );
        let gateway = Running::start(&yaml);
        let request = Request::get("http://shop/").body(()).unwrap();
        let (response, body, _) = h2_request(gateway.address(), request, b"").await;
        assert_eq!((response.status().as_u16(), body), (status, Vec::new()));
        drop(end_now);
    }
}
