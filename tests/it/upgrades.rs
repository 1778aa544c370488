//! WebSocket and other upgrades: a tunnel both ways, counted and drained apart.

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Origin, Reply, Running, proxy_to, within};

/// A WebSocket server that says everything back.
pub async fn echo() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_close() || socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_web_socket_passes_both_ways() {
    let gateway = Running::start(&proxy_to(echo().await));
    let stream = gateway.client().await.into_stream();
    let (mut socket, _) =
        within("the handshake", tokio_tungstenite::client_async("ws://shop/chat", stream))
            .await
            .unwrap();
    for size in [1, 1000, 1_000_000] {
        let text = "x".repeat(size);
        socket.send(Message::text(text.clone())).await.unwrap();
        let answer = within("the echo", socket.next()).await.unwrap().unwrap();
        assert_eq!(answer.into_text().unwrap().as_str(), text);
    }
    socket.close(None).await.unwrap();
}

#[tokio::test]
async fn a_web_socket_outlives_every_idle_timeout() {
    let yaml = format!(
        "limits: {{ keepalive_timeout: 50ms, send_idle_timeout: 50ms, body_idle_timeout: 50ms, header_timeout: 50ms }}\n{}",
        proxy_to(echo().await).replace("upstream: origin", "upstream: origin, timeout: 100ms")
    );
    let gateway = Running::start(&yaml);
    let stream = gateway.client().await.into_stream();
    let (mut socket, _) = tokio_tungstenite::client_async("ws://shop/chat", stream).await.unwrap();
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(200));
    for _ in 0..3 {
        tick.tick().await;
        socket.send(Message::text("still here")).await.unwrap();
        within("the echo", socket.next()).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_client_of_a_web_socket_that_takes_nothing_is_cut_off() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let flood = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while socket.send(Message::binary(vec![0; 65536])).await.is_ok() {}
    });
    let yaml = format!("limits: {{ send_idle_timeout: 100ms }}\n{}", proxy_to(address));
    let gateway = Running::start(&yaml);
    let stream = gateway.client().await.into_stream();
    let (socket, _) = tokio_tungstenite::client_async("ws://shop/chat", stream).await.unwrap();
    within("the end of the flood", flood).await.unwrap();
    drop(socket);
}

#[tokio::test]
async fn a_client_is_told_what_to_upgrade_to() {
    let origin = Origin::start(|_, _| {
        let head =
            "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade, x-hop\r\n";
        Reply::Answer(format!("{head}X-Hop: 1\r\nContent-Length: 0\r\n\r\n").into())
    })
    .await;
    let yaml = format!("limits: {{ requests_per_connection: 2 }}\n{}", proxy_to(origin.address()));
    let gateway = Running::start(&yaml);
    let mut client = gateway.client().await;
    let mut options = Vec::new();
    loop {
        let answer = client.get("/").await;
        assert_eq!((answer.status(), answer.field("upgrade")), (426, Some("websocket")));
        assert_eq!(answer.field("x-hop"), None);
        options.push(answer.field("connection").unwrap().to_owned());
        if options.last().is_some_and(|options| options.contains("close")) {
            break;
        }
    }
    let last = options.pop();
    assert_eq!(last.as_deref(), Some("upgrade, close"), "one that is the last on its connection");
    assert!(options.iter().all(|options| options == "upgrade"), "{options:?}");
    within("the end of the connection", client.closed()).await;

    // HTTP/2 has no such field (RFC 9113, 8.2.2): a client would take the answer for malformed.
    let stream = gateway.client().await.into_stream();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://shop/").body(()).unwrap();
    let (answer, _) = client.ready().await.unwrap().send_request(request, true).unwrap();
    let answer = within("the answer", answer).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().get("upgrade")), (426, None));
}

#[tokio::test]
async fn an_upgrade_that_is_refused_is_an_ordinary_answer() {
    let origin = Origin::ok("no").await;
    let gateway = Running::start(&proxy_to(origin.address()));
    let mut client = gateway.client().await;
    let answer = client
        .request(
            "GET / HTTP/1.1\nHost: a\nConnection: Upgrade\nUpgrade: websocket\n\
             Sec-WebSocket-Version: 13\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            "",
        )
        .await;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "no"));
    let seen = &origin.requests()[0];
    assert_eq!(seen.field("upgrade"), Some("websocket"));
    assert!(seen.field("connection").is_some_and(|c| c.eq_ignore_ascii_case("upgrade")));
    // The connection is still in step.
    assert_eq!(client.get("/x").await.text(), "no");
}
