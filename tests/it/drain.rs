//! Semantics 10: a drain refuses nothing that has begun and leaves nothing behind.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use sluicegate::gateway::{DrainSettings, Options};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite;

use crate::{
    harness::{
        Client, Message, Origin, Reply, Running, config, eventually, origin, proxy_to, within,
    },
    publish::take,
};

fn options() -> Options {
    Options {
        drain: DrainSettings {
            before_close: Duration::from_millis(100),
            requests: Duration::from_secs(5),
            upgrades: Duration::from_millis(300),
        },
        ..Options::default()
    }
}

#[tokio::test]
async fn readiness_fails_first_and_the_listener_closes_later() {
    let mut slow = options();
    slow.drain.before_close = Duration::from_secs(2);
    let yaml = "routes: [{ name: a, match: { path: /a }, respond: { body: a } }]\n";
    let gateway = Running::start_with(config(yaml), slow);
    assert_eq!(gateway.admin("GET", "/readyz").await.status(), 200);
    assert_eq!(gateway.admin("POST", "/v1/drain").await.status(), 202);
    let answer = gateway.admin("GET", "/readyz").await;
    assert_eq!(answer.status(), 503);
    assert!(answer.text().contains("draining"), "{}", answer.text());
    // Whoever still comes is served, and told to go.
    let answer = gateway.client().await.get("/a").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.field("connection"), Some("close"));
}

#[tokio::test]
async fn a_client_that_connects_late_is_answered_however_long_it_thinks() {
    let mut slow = options();
    slow.drain.before_close = Duration::from_secs(2);
    let yaml = "routes: [{ name: a, match: { path: /a }, respond: { body: a } }]\n";
    let gateway = Running::start_with(config(yaml), slow);
    assert_eq!(gateway.admin("POST", "/v1/drain").await.status(), 202);
    let mut late = gateway.client().await;
    within("the connection to be accepted", async {
        let series = "sluice_connections_total{listener=\"web\",outcome=\"accepted\"}";
        while gateway.metric(series).await < 1.0 {}
    })
    .await;
    let answer = late.get("/a").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.field("connection"), Some("close"));
    late.closed().await;
}

#[tokio::test]
async fn requests_under_way_end_and_idle_connections_close() {
    let hang_from_the_second = |number, _: &_| match number {
        0 => Reply::Answer(origin::ok("")),
        _ => Reply::Hang,
    };
    let origin = Origin::start(hang_from_the_second).await;
    let gateway = Running::start_with(config(&proxy_to(origin.address())), options());
    let address = gateway.address();
    let mut idle = gateway.client().await;
    assert_eq!(idle.get("/").await.status(), 200);
    let mut busy = gateway.client().await;
    busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    origin.wait_for(2).await;
    assert_eq!(gateway.admin("POST", "/v1/drain").await.status(), 202);
    idle.closed().await;
    eventually("the listener to close", || std::net::TcpStream::connect(address).is_err()).await;
    // The one that is under way is still open: its client gets to see the end.
    drop(origin);
    drop(busy);
    within("the process to be done", gateway.gateway().stopped()).await;
}

#[tokio::test]
async fn a_slow_answer_is_waited_for() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let yaml = proxy_to(listener.local_addr().unwrap());
    let gateway = Running::start_with(config(&yaml), options());
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut upstream, _) = within("a connection", listener.accept()).await.unwrap();
    let mut buffer = Vec::new();
    Message::read_request(&mut upstream, &mut buffer).await.unwrap();
    assert_eq!(gateway.admin("POST", "/v1/drain").await.status(), 202);
    eventually("the listener to close", || {
        std::net::TcpStream::connect(gateway.address()).is_err()
    })
    .await;
    upstream.write_all(&origin::ok("late")).await.unwrap();
    let answer = client.response("GET").await;
    assert_eq!(answer.text(), "late");
    within("the process to be done", gateway.gateway().stopped()).await;
}

/// These routes, before a shop that stored requests are sent to.
fn storing(folder: &tempfile::TempDir, shop: &Origin, routes: &str) -> String {
    format!(
        "queue: {{ dir: \"{}\", disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
         topics: {{ intake: {{}} }}\n\
         upstreams: {{ shop: {{ endpoints: [\"{}\"] }} }}\n\
         subscriptions: [{{ name: deliver, topic: intake, push: {{ upstream: shop, timeout: 1m }} }}]\n\
         routes:\n{routes}",
        folder.path().join("data").display(),
        shop.address()
    )
}

#[tokio::test]
async fn clients_and_stored_requests_share_one_deadline() {
    let (folder, origin) = (tempfile::tempdir().unwrap(), Origin::start(|_, _| Reply::Hang).await);
    let yaml = storing(
        &folder,
        &origin,
        "\x20 - { name: live, match: { path: /live }, upstream: shop }\n\
         \x20 - { name: orders, match: { path: /orders }, enqueue: { topic: intake } }\n",
    );
    let (mut slow, deadline) = (options(), Duration::from_secs(3));
    slow.drain.requests = deadline;
    let gateway = Running::start_with(config(&yaml), slow);
    let mut client = gateway.client().await;
    client.send("GET /live HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut other = gateway.client().await;
    let stored = other.request("POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: 1", "1").await;
    assert_eq!(stored.status(), 202);
    origin.wait_for(2).await;
    let since = tokio::time::Instant::now();
    assert_eq!(gateway.admin("POST", "/v1/drain").await.status(), 202);
    within("the process to be done", gateway.gateway().stopped()).await;
    let took = since.elapsed();
    assert!(took >= deadline, "{took:?}: cut off");
    assert!(took < 2 * deadline, "{took:?}: one after the other");
    drop(gateway);
    let next = Running::start_with(config(&yaml), options());
    let status = next.client().await.get(stored.field("location").unwrap()).await;
    assert!(status.text().contains("\"state\":\"uncertain\""), "{}", status.text());
}

#[tokio::test]
async fn who_waits_for_what_the_next_process_sends_is_told_at_once() {
    let (folder, origin) = (tempfile::tempdir().unwrap(), Origin::start(|_, _| Reply::Hang).await);
    let yaml = storing(
        &folder,
        &origin,
        "\x20 - { name: orders, match: { path: /orders }, enqueue: { topic: intake, key: \"header:x-key\", \
         on_prefer: true } }\n",
    );
    let mut short = options();
    short.drain.requests = Duration::from_secs(4);
    let gateway = Running::start_with(config(&yaml), short);
    let post = "POST /orders HTTP/1.1\r\nHost: a\r\nX-Key: k\r\nContent-Length: 1\r\n";
    let mut first = gateway.client().await;
    first.send(&format!("{post}\r\n1")).await;
    assert_eq!(first.response("POST").await.status(), 202);
    origin.wait_for(1).await;
    // One of its key comes after it.
    let mut second = gateway.client().await;
    second.send(&format!("{post}Prefer: wait=30\r\n\r\n1")).await;
    let stored = "sluice_stored_requests_total{route=\"orders\",how=\"enqueued\"}";
    within("both to be stored", async { while gateway.metric(stored).await < 2.0 {} }).await;
    assert_eq!(gateway.admin("POST", "/v1/drain").await.status(), 202);
    let answer = within("an answer", second.response("POST")).await;
    assert_eq!(answer.status(), 202, "it is not cut off when the time is over");
    assert!(answer.field("location").is_some());
}

/// Sends an order, and leaves once `arrived` is over.
async fn leave(gateway: &Running, is_h2: bool, arrived: impl Future) {
    if !is_h2 {
        let mut client = gateway.client().await;
        client.send("POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n1").await;
        arrived.await;
        return;
    }
    let stream = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::post("http://a/orders").body(()).unwrap();
    let (answer, mut body) = client.send_request(request, false).unwrap();
    body.send_data(bytes::Bytes::from_static(b"1"), true).unwrap();
    arrived.await;
    driver.abort();
    drop(answer);
}

#[tokio::test]
async fn an_order_whose_client_has_left_is_seen_through() {
    for is_h2 in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let yaml = format!(
            "queue: {{ dir: \"{}\", disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
             topics: {{ orders: {{}} }}\n\
             subscriptions: [{{ name: all, topic: orders, from: earliest }}]\n\
             upstreams: {{ shop: {{ endpoints: [\"{}\"] }} }}\n\
             routes: [{{ name: orders, match: {{ path: /orders }}, upstream: shop, \
             publish: {{ topic: orders, type: placed }} }}]\n",
            folder.path().join("data").display(),
            listener.local_addr().unwrap()
        );
        let gateway = Running::start_with(config(&yaml), options());
        let (sender, mut upstream) = tokio::sync::mpsc::channel(1);
        leave(&gateway, is_h2, async {
            let (mut stream, _) = within("a connection", listener.accept()).await.unwrap();
            Message::read_request(&mut stream, &mut Vec::new()).await.unwrap();
            sender.send(stream).await.unwrap();
        })
        .await;
        within("the client's end to be noticed", async {
            while gateway.metric("sluice_connections_open{listener=\"web\"}").await > 0.0 {}
        })
        .await;
        assert_eq!(gateway.admin("POST", "/v1/drain").await.status(), 202);
        eventually("the listener to close", || {
            std::net::TcpStream::connect(gateway.address()).is_err()
        })
        .await;
        let mut stream = upstream.recv().await.unwrap();
        stream.write_all(&origin::ok("fine")).await.unwrap();
        within("the process to be done", gateway.gateway().stopped()).await;
        drop(gateway);
        let next = Running::start_with(config(&yaml), options());
        let events = take(&next, "all").await;
        let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
        // What nobody had waited for would be uncertain.
        assert_eq!(kinds, ["placed"], "HTTP/2: {is_h2}");
    }
}

#[tokio::test]
async fn both_ends_of_a_web_socket_hear_that_the_gateway_goes_away() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let yaml = proxy_to(listener.local_addr().unwrap());
    let gateway = Running::start_with(config(&yaml), options());
    let stream = gateway.client().await.into_stream();
    let (client, server) =
        tokio::join!(tokio_tungstenite::client_async("ws://shop/chat", stream), async {
            let (stream, _) = within("a connection", listener.accept()).await.unwrap();
            tokio_tungstenite::accept_async(stream).await
        });
    assert_eq!(gateway.admin("POST", "/v1/drain").await.status(), 202);
    for mut socket in [client.unwrap().0, server.unwrap()] {
        let heard = within("a word", socket.next()).await.unwrap().unwrap();
        let tungstenite::Message::Close(Some(frame)) = heard else { panic!("{heard:?}") };
        assert_eq!(u16::from(frame.code), 1001);
    }
    within("the process to be done", gateway.gateway().stopped()).await;
}

#[tokio::test]
async fn a_request_whose_time_is_over_does_not_wait_for_a_tunnel() {
    let hanging = Origin::start(|number, _| match number {
        0 => Reply::Answer(b"HTTP/1.1 200 OK\r\n\r\nhalf".to_vec()),
        _ => Reply::Hang,
    })
    .await;
    let yaml = format!(
        "upstreams: {{ chat: {{ endpoints: [\"{}\"] }}, shop: {{ endpoints: [\"{}\"] }} }}\n\
         routes:\n\
         \x20 - {{ name: chat, match: {{ path: /chat }}, upstream: chat }}\n\
         \x20 - {{ name: shop, match: {{ path: /shop }}, upstream: shop }}\n",
        crate::upgrades::echo().await,
        hanging.address()
    );
    let mut short = options();
    short.drain.requests = Duration::from_millis(300);
    short.drain.upgrades = Duration::from_mins(10);
    let gateway = Running::start_with(config(&yaml), short);
    let stream = gateway.client().await.into_stream();
    let (mut socket, _) = tokio_tungstenite::client_async("ws://shop/chat", stream).await.unwrap();
    let get = "GET /shop HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut half = gateway.client().await;
    half.send(get).await;
    let mut half = half.into_stream();
    let mut begun = [0; 12];
    half.read_exact(&mut begun).await.unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200");
    let mut waiting = gateway.client().await;
    waiting.send(get).await;
    hanging.wait_for(2).await;
    let stream = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::get("http://a/shop").body(()).unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    hanging.wait_for(3).await;

    assert_eq!(gateway.admin("POST", "/v1/drain").await.status(), 202);
    // What has begun must not look whole: its end is that of the connection.
    let rest = within("the end", half.read_to_end(&mut Vec::new())).await;
    assert!(rest.is_err(), "{rest:?}");
    within("the end of the one that waits", waiting.closed()).await;
    assert!(within("the end of the stream", answer).await.is_err());
    drop(within("the end of the connection", connection).await);
    // It was not the clients who left.
    let counted = async |reason: &str| {
        gateway.metric(&format!("sluice_refusals_total{{reason=\"{reason}\"}}")).await
    };
    within("all three to be told", async { while counted("draining").await < 3.0 {} }).await;
    assert!(counted("client-closed").await < 1.0);
    // The tunnel goes on.
    socket.send(tungstenite::Message::text("still here")).await.unwrap();
    let echo = within("the echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(echo.into_text().unwrap().as_str(), "still here");
}

/// What those hear who wait for events when a drain begins, on this listener.
async fn consumers_are_sent_home(address: std::net::SocketAddr, gateway: &Running) {
    let receive = |wait: u64| {
        let body = format!("{{\"max_events\":1,\"wait_ms\":{wait}}}");
        let length = body.len();
        format!(
            "POST /v1/subscriptions/billing/receive HTTP/1.1\r\nHost: {address}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    // The operator's alone.
    let admin = gateway.gateway().admin_address();
    let mut tail = Client::connect(admin).await;
    let stream = format!("GET /v1/topics/orders/stream HTTP/1.1\r\nHost: {admin}\r\n\r\n");
    tail.send(stream).await;
    let mut waiting = Client::connect(address).await;
    // An answer to the first one: the second is waiting.
    waiting.send(receive(20_000)).await;
    let mut other = Client::connect(address).await;
    other.send(receive(1)).await;
    assert_eq!(other.response("POST").await.status(), 204);

    let since = tokio::time::Instant::now();
    assert_eq!(gateway.admin("POST", "/v1/drain").await.status(), 202);
    let answer = waiting.response("POST").await;
    assert_eq!((answer.status(), answer.field("connection")), (204, Some("close")));
    assert!(answer.body.is_empty());
    let told = within("the end of the tail", tail.closed()).await;
    assert!(told.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&told));
    assert!(since.elapsed() < Duration::from_secs(10), "nobody waits it out");
}

#[tokio::test]
async fn who_waits_for_events_is_sent_home_when_the_listeners_close() {
    for on_admin in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let yaml = format!(
            "queue: {{ dir: \"{}\", disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
             topics: {{ orders: {{}} }}\n\
             events_api: {{ address: \"127.0.0.1:0\" }}\n\
             subscriptions: [{{ name: billing, topic: orders, from: earliest }}]\n\
             upstreams: {{ chat: {{ endpoints: [\"{}\"] }} }}\n\
             routes: [{{ name: chat, match: {{ path: /chat }}, upstream: chat }}]\n",
            folder.path().join("data").display(),
            crate::upgrades::echo().await,
        );
        let mut patient = options();
        // Time for those that wait to be known.
        patient.drain.before_close = Duration::from_secs(1);
        patient.drain.requests = Duration::from_mins(1);
        patient.drain.upgrades = Duration::from_mins(10);
        let gateway = Running::start_with(config(&yaml), patient);
        // Keeps the gateway itself from stopping.
        let stream = gateway.client().await.into_stream();
        let tunnel = tokio_tungstenite::client_async("ws://shop/chat", stream).await.unwrap();
        let admin = gateway.gateway().admin_address();
        let events = gateway.gateway().listener_address("events_api").unwrap();
        let address = if on_admin { admin } else { events };
        consumers_are_sent_home(address, &gateway).await;
        // Who comes after that does not wait long; once the queue is closed he is told why, and when to come back.
        let asked = r#"{"max_events":1,"wait_ms":20000}"#;
        let path = "/v1/subscriptions/billing/receive";
        within("the queue to be closed", async {
            loop {
                let answer = gateway.admin_with("POST", path, asked).await;
                if answer.status() == 204 {
                    continue;
                }
                assert_eq!(answer.status(), 503, "{}", answer.text());
                assert!(answer.text().contains("\"code\": \"draining\""), "{}", answer.text());
                assert!(answer.field("retry-after").is_some());
                if gateway.admin("GET", "/v1/topics").await.status() != 200 {
                    break;
                }
            }
        })
        .await;
        drop(tunnel);
    }
}

#[tokio::test]
async fn within_a_frame_of_a_web_socket_nothing_is_said() {
    const FRAME: &[u8] = &[0x81, 5, b'h', b'e'];
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let yaml = proxy_to(listener.local_addr().unwrap());
    let gateway = Running::start_with(config(&yaml), options());
    let mut client = gateway.client().await;
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{upgrade}")).await;
    let (mut upstream, _) = within("a connection", listener.accept()).await.unwrap();
    Message::read_request(&mut upstream, &mut Vec::new()).await.unwrap();
    let switching = format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}");
    upstream.write_all(&[switching.as_bytes(), FRAME].concat()).await.unwrap();
    assert_eq!(client.response("GET").await.status(), 101);
    assert_eq!(gateway.admin("POST", "/v1/drain").await.status(), 202);
    assert_eq!(client.closed().await, FRAME);
    within("the process to be done", gateway.gateway().stopped()).await;
}
