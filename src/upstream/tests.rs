//! The transport against scripted upstreams that speak bytes: what they saw is what counts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::{self, Instant},
};

use super::{forward::exchange, *};
use crate::{
    error::{Error, Kind, Result, Sent},
    http::{self as ours, Body, Context, Peer, Request, Response},
    telemetry::{
        metrics::Metrics,
        task::{self, Spawner},
    },
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const EMPTY: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

struct Rig {
    local: Arc<Local>,
    pools: Arc<Pools>,
    metrics: Metrics,
    deadline: watch::Sender<Option<Instant>>,
    tunnels: Spawner,
    group: Arc<AtomicUsize>,
}

fn settings(protocol: Protocol) -> Settings {
    Settings {
        name: "orders".into(),
        protocol,
        tls: None,
        connect_timeout: Duration::from_secs(3),
        max_idle: 128,
        idle_timeout: Duration::from_secs(55),
        response_idle_timeout: Duration::from_secs(60),
        probe_idle_after: Duration::from_secs(1),
        max_h2_connections: 4,
    }
}

fn rig(address: std::net::SocketAddr, settings: Settings) -> Rig {
    let metrics = Metrics::new();
    let (deadline, receiver) = watch::channel(None);
    let tunnels = Spawner::new();
    let pools = Pools::new(metrics.thread(), tunnels.clone(), receiver);
    let endpoint = Endpoint::new("orders", Address::Inet(address), "orders.internal", Some(80));
    let transport = Transport::new(settings, None).unwrap();
    let group = Arc::default();
    let local = pools.local(&Arc::new(endpoint), &transport, &group);
    Rig { local, pools, metrics, deadline, tunnels, group }
}

fn request(method: Method, path: &str, body: Body) -> Request {
    let peer = Arc::new(Peer {
        listener: "test".into(),
        remote: ours::peer::Address::Unix,
        local: ours::peer::Address::Unix,
        trusted: false,
        tls: None,
    });
    let mut parts = http::Request::new(()).into_parts().0;
    parts.method = method.clone();
    parts.uri = path.parse().unwrap();
    Request { parts, body, cx: Context::new(peer, method, Version::HTTP_11) }
}

fn get(path: &str) -> Request {
    request(Method::GET, path, Body::empty())
}

fn post(body: &'static str) -> Request {
    request(Method::POST, "/", Body::full(body))
}

impl Rig {
    async fn send(&self, request: Request) -> Result<Response> {
        let sent = exchange(Call { request, flight: self.local.enter() }, false);
        time::timeout(Duration::from_secs(10), sent).await.expect("an answer within 10 s")
    }

    async fn text(&self, request: Request) -> String {
        text(self.send(request).await.unwrap()).await
    }

    fn counted(&self, outcome: &str) -> String {
        let wanted = format!(
            "sluice_upstream_connections_total{{upstream=\"orders\",outcome=\"{outcome}\"}} "
        );
        let rendered = self.metrics.render();
        let line = rendered.lines().find(|line| line.starts_with(&wanted));
        line.map_or_else(String::new, |line| line[wanted.len()..].to_owned())
    }
}

async fn text(response: Response) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Until `is_so`, at most five seconds.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..5000 {
        if is_so() {
            return;
        }
        time::sleep(Duration::from_millis(1)).await;
    }
    panic!("not in 5 s: {what}");
}

/// A connection to a scripted upstream.
struct Peered {
    stream: TcpStream,
    number: usize,
}

impl Peered {
    /// One request head and, by its Content-Length, the body; empty at the end.
    async fn read(&mut self) -> String {
        let mut seen = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&seen).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))
                    .map_or(0, |length| length.parse().unwrap());
                let is_chunked = head.contains("transfer-encoding: chunked");
                if body.len() >= length && (!is_chunked || body.ends_with("0\r\n\r\n")) {
                    return text;
                }
            }
            match self.stream.read_buf(&mut seen).await {
                Ok(0) | Err(_) => return text,
                Ok(_) => {}
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }
}

/// An upstream that runs `script` on each connection.
async fn upstream<F>(script: impl Fn(Peered) -> F + Send + 'static) -> std::net::SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    task::spawn("test upstream", async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            task::spawn("test connection", script(Peered { stream, number }));
        }
    });
    address
}

/// Answers each request with its connection's number.
async fn numbered(mut peer: Peered) {
    loop {
        if peer.read().await.is_empty() {
            return;
        }
        let number = peer.number.to_string();
        let length = number.len();
        peer.write(
            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{number}").as_bytes(),
        )
        .await;
    }
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let rig = rig(upstream(numbered).await, settings(Protocol::H1));
    for _ in 0..3 {
        assert_eq!(rig.text(get("/")).await, "0");
    }
    assert_eq!((rig.counted("opened"), rig.counted("reused")), ("1".into(), "2".into()));
    assert_eq!(rig.local.endpoint().load().in_flight(), 0);
    assert_eq!(rig.group.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_answer_without_a_body_gives_its_connection_back_at_once() {
    let address = upstream(|mut peer| async move {
        while !peer.read().await.is_empty() {
            peer.write(EMPTY).await;
        }
    });
    let rig = rig(address.await, settings(Protocol::H1));
    let first = rig.send(get("/")).await.unwrap();
    assert_eq!(rig.pools.idle(), 1);
    drop(first);
    rig.send(get("/")).await.unwrap();
    assert_eq!(rig.counted("opened"), "1");
}

#[tokio::test]
async fn the_newest_connection_goes_first() {
    let rig = rig(upstream(numbered).await, settings(Protocol::H1));
    let (first, second) = tokio::join!(rig.send(get("/")), rig.send(get("/")));
    let (first, second) = (text(first.unwrap()).await, text(second.unwrap()).await);
    assert_eq!(rig.pools.idle(), 2);
    for _ in 0..3 {
        assert_eq!(rig.text(get("/")).await, second, "and never {first}");
    }
}

#[tokio::test]
async fn what_is_said_upstream_is_framed_by_us() {
    let (seen, mut heads) = mpsc::channel(4);
    let address = upstream(move |mut peer| {
        let seen = seen.clone();
        async move {
            loop {
                let head = peer.read().await;
                if head.is_empty() {
                    return;
                }
                seen.send(head).await.unwrap();
                peer.write(OK).await;
            }
        }
    });
    let rig = rig(address.await, settings(Protocol::H1));
    let mut asked = get("/a/b?c=d");
    asked.parts.headers.insert(header::HOST, HeaderValue::from_static("shop.example"));
    asked.parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    rig.text(asked).await;
    assert_eq!(
        heads.recv().await.unwrap(),
        "GET /a/b?c=d HTTP/1.1\r\nhost: orders.internal:80\r\n\r\n"
    );

    let chunks =
        futures_util::stream::iter([Ok::<_, Error>(Frame::data(Bytes::from_static(b"abc")))]);
    let body = Body::boxed(http_body_util::StreamBody::new(chunks));
    rig.text(request(Method::GET, "/", body)).await;
    let head = heads.recv().await.unwrap();
    assert!(
        head.contains("transfer-encoding: chunked") && head.ends_with("3\r\nabc\r\n0\r\n\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn a_refused_connect_hands_the_request_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let rig = rig(address, settings(Protocol::H1));
    let mut error = rig.send(post("payload")).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::UpstreamConnect), "{error}");
    let request = error.take_unsent().expect("handed back");
    assert_eq!(request.body.as_full().unwrap(), "payload");
    assert_eq!(rig.counted("failed"), "1");
    assert_eq!(rig.group.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_not_used_for_an_unsafe_method() {
    let (close, closing) = watch::channel(false);
    let address = upstream(move |mut peer| {
        let mut closing = closing.clone();
        async move {
            peer.read().await;
            peer.write(OK).await;
            if peer.number == 0 {
                closing.wait_for(|&closing| closing).await.unwrap();
            } else {
                peer.read().await;
            }
        }
    });
    // Probed at once: whether our reactor has seen the end by then is a matter of luck.
    let settings = Settings { probe_idle_after: Duration::ZERO, ..settings(Protocol::H1) };
    let rig = rig(address.await, settings);
    rig.text(get("/")).await;
    assert_eq!(rig.pools.idle(), 1);
    close.send(true).unwrap();
    // The end is on its way: until it is here, the connection would be good to use.
    until("the end has arrived", || rig.local.pool().idle_are_quiet() == Some(false)).await;
    assert_eq!(rig.text(post("payload")).await, "ok");
    assert_eq!(rig.counted("opened"), "2");
    assert_eq!(rig.counted("closed-idle"), "1");
}

#[tokio::test]
async fn a_connection_that_closes_as_we_write_is_a_race_and_never_handed_back() {
    let address = upstream(|mut peer| async move {
        peer.read().await;
        peer.write(OK).await;
        // The second request is read, and not answered.
        peer.read().await;
    });
    let rig = rig(address.await, settings(Protocol::H1));
    rig.text(get("/")).await;
    let mut error = rig.send(post("payload")).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::UpstreamClosedIdle(Sent::MaybeSeen)), "{error}");
    assert!(error.take_unsent().is_none());
    assert!(rig.metrics.render().contains("sluice_pool_races_total{upstream=\"orders\"} 1"));
}

#[tokio::test]
async fn a_reset_after_a_byte_is_maybe_seen_and_never_handed_back() {
    let address = upstream(|mut peer| async move {
        peer.stream.read_u8().await.unwrap();
        peer.stream.set_zero_linger().unwrap();
    });
    let rig = rig(address.await, settings(Protocol::H1));
    let mut error = rig.send(post("payload")).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::UpstreamReset(Sent::MaybeSeen)), "{error}");
    assert!(error.take_unsent().is_none());
}

#[tokio::test]
async fn invalid_answers_are_bad_and_their_connection_is_not_used_again() {
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101));
    let large = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(33 * 1024));
    let endless = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(100 * 1024));
    let answers = [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n\r\n",
        &many,
        &large,
        &endless,
    ];
    for answer in answers.map(str::to_owned) {
        let shown: String = answer.chars().take(80).collect();
        let address = upstream(move |mut peer| {
            let answer = answer.clone();
            async move {
                peer.read().await;
                // Refused early, the rest may not be taken any more.
                drop(peer.stream.write_all(answer.as_bytes()).await);
                peer.read().await;
            }
        });
        let rig = rig(address.await, settings(Protocol::H1));
        let error = rig.send(get("/")).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::UpstreamBadResponse), "{shown}: {error}");
        assert_eq!(rig.pools.idle(), 0, "{shown}");
    }
}

#[tokio::test]
async fn bytes_after_an_answer_poison_nothing() {
    let address = upstream(|mut peer| async move {
        peer.read().await;
        let number = peer.number;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}");
        peer.write(
            format!("{answer}HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison").as_bytes(),
        )
        .await;
        peer.read().await;
    });
    let rig = rig(address.await, settings(Protocol::H1));
    assert_eq!(rig.text(get("/")).await, "0");
    assert_eq!(rig.text(get("/")).await, "1");
}

#[tokio::test]
async fn early_hints_are_dropped() {
    let address = upstream(|mut peer| async move {
        peer.read().await;
        peer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await;
        peer.write(OK).await;
    });
    let rig = rig(address.await, settings(Protocol::H1));
    let response = rig.send(get("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!response.headers().contains_key(header::LINK));
}

#[tokio::test]
async fn a_body_that_ends_early_is_never_a_clean_end() {
    let answers: [&[u8]; 2] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ];
    for answer in answers {
        let address = upstream(move |mut peer| async move {
            peer.read().await;
            peer.write(answer).await;
        });
        let rig = rig(address.await, settings(Protocol::H1));
        let response = rig.send(get("/")).await.unwrap();
        let error = response.into_body().collect().await.unwrap_err();
        assert!(matches!(error.kind(), Kind::UpstreamReset(Sent::MaybeSeen)), "{error}");
        assert_eq!(rig.pools.idle(), 0);
        assert_eq!(rig.group.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test]
async fn a_response_body_that_is_dropped_closes_its_connection() {
    let (gone, mut is_gone) = mpsc::channel(1);
    let address = upstream(move |mut peer| {
        let gone = gone.clone();
        async move {
            peer.read().await;
            peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nsome").await;
            assert_eq!(peer.read().await, "");
            gone.send(()).await.unwrap();
        }
    });
    let rig = rig(address.await, settings(Protocol::H1));
    drop(rig.send(get("/")).await.unwrap());
    time::timeout(Duration::from_secs(5), is_gone.recv()).await.unwrap().unwrap();
    assert_eq!(rig.pools.idle(), 0);
}

#[tokio::test]
async fn a_response_that_stands_still_times_out_unless_it_is_an_event_stream() {
    for (kind, fails) in [("text/plain", true), ("text/event-stream; charset=utf-8", false)] {
        let address = upstream(move |mut peer| async move {
            peer.read().await;
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: 9\r\n\r\ndata");
            peer.write(head.as_bytes()).await;
            peer.read().await;
        });
        let settings =
            Settings { response_idle_timeout: Duration::from_millis(20), ..settings(Protocol::H1) };
        let rig = rig(address.await, settings);
        let body = rig.send(get("/")).await.unwrap().into_body();
        let ended = time::timeout(Duration::from_millis(200), body.collect()).await;
        match ended {
            Ok(collected) => {
                assert!(fails, "{kind}");
                let error = collected.unwrap_err();
                assert!(
                    matches!(error.kind(), Kind::UpstreamTimeoutTry(Sent::MaybeSeen)),
                    "{error}"
                );
            }
            Err(_) => assert!(!fails, "{kind}"),
        }
    }
}

#[tokio::test]
async fn an_upstream_that_keeps_connections_for_a_second_is_not_trusted_with_one() {
    for (field, kept) in [("timeout=1", 0), ("timeout=60", 1)] {
        let address = upstream(move |mut peer| async move {
            while !peer.read().await.is_empty() {
                peer.write(
                    format!(
                        "HTTP/1.1 200 OK\r\nkeep-alive: {field}\r\ncontent-length: 2\r\n\r\nok"
                    )
                    .as_bytes(),
                )
                .await;
            }
        });
        let rig = rig(address.await, settings(Protocol::H1));
        rig.text(get("/")).await;
        rig.text(get("/")).await;
        assert_eq!(rig.counted("reused"), if kept == 1 { "1" } else { "0" }, "{field}");
    }
}

#[tokio::test]
async fn idle_connections_are_closed_after_their_time() {
    let rig = rig(upstream(numbered).await, settings(Protocol::H1));
    rig.text(get("/")).await;
    assert_eq!(rig.pools.idle(), 1);
    time::pause();
    time::advance(Duration::from_secs(54)).await;
    assert_eq!(rig.pools.idle(), 1);
    time::advance(Duration::from_secs(2)).await;
    time::resume();
    until("the janitor came", || rig.pools.idle() == 0).await;
    assert_eq!(rig.counted("closed-idle"), "1");
}

#[tokio::test]
async fn a_dial_survives_the_request_that_started_it() {
    let rig = rig(upstream(numbered).await, settings(Protocol::H1));
    {
        let mut given_up = Box::pin(rig.send(get("/")));
        assert!(futures_util::poll!(&mut given_up).is_pending());
    }
    assert_eq!(rig.group.load(Ordering::Relaxed), 0);
    until("the connection is in the pool", || rig.pools.idle() == 1).await;
    assert_eq!(rig.text(get("/")).await, "0");
    assert_eq!(rig.counted("opened"), "1");
}

#[tokio::test]
async fn a_dial_that_takes_too_long_fails() {
    // A listener whose backlog is full answers nobody; this one never does TLS either.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = TlsSettings { server_name: None, ca: Some(certificate().0), client: None };
    let settings = Settings {
        tls: Some(tls),
        connect_timeout: Duration::from_millis(30),
        ..settings(Protocol::H1)
    };
    let rig = rig(address, settings);
    let mut error = rig.send(get("/")).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::UpstreamConnect), "{error}");
    assert!(error.take_unsent().is_some());
}

/// A self-signed certificate for `orders.internal` in a file, and the pair itself.
fn certificate() -> (std::path::PathBuf, rcgen::CertifiedKey<rcgen::KeyPair>) {
    let pair = rcgen::generate_simple_self_signed(["orders.internal".to_owned()]).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap().into_temp_path().keep().unwrap();
    std::fs::write(&file, pair.cert.pem()).unwrap();
    (file, pair)
}

#[tokio::test]
async fn a_client_body_that_breaks_off_is_the_clients_doing() {
    let address = upstream(|mut peer| async move {
        peer.read().await;
    });
    let rig = rig(address.await, settings(Protocol::H1));
    let frames = [Ok(Frame::data(Bytes::from_static(b"abc"))), Err(Kind::ClientClosed.into())];
    let body = Body::boxed(http_body_util::StreamBody::new(futures_util::stream::iter(frames)));
    let error = rig.send(request(Method::POST, "/", body)).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::ClientClosed), "{error}");
}

/// An h2 upstream: answers `hold`-ing requests only when told to, with trailers.
async fn h2_upstream(max_streams: u32, release: watch::Receiver<bool>) -> std::net::SocketAddr {
    upstream(move |peer| {
        let release = release.clone();
        async move {
            let mut connection = h2::server::Builder::new()
                .max_concurrent_streams(max_streams)
                .handshake::<_, Bytes>(peer.stream)
                .await
                .unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let mut release = release.clone();
                task::spawn("test stream", async move {
                    if request.uri().path() == "/refuse" {
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                        return;
                    }
                    if request.uri().path() == "/reset" {
                        respond.send_reset(h2::Reason::INTERNAL_ERROR);
                        return;
                    }
                    release.wait_for(|&go| go).await.unwrap();
                    let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                    body.send_data(Bytes::from(peer.number.to_string()), false).unwrap();
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", HeaderValue::from_static("0"));
                    trailers.insert("content-length", HeaderValue::from_static("9"));
                    body.send_trailers(trailers).unwrap();
                });
            }
        }
    })
    .await
}

#[tokio::test]
async fn h2_shares_a_connection_and_passes_trailers() {
    let (_go, release) = watch::channel(true);
    let rig = rig(h2_upstream(100, release).await, settings(Protocol::H2));
    let (a, b) = tokio::join!(rig.send(get("/")), rig.send(get("/")));
    let collected = a.unwrap().into_body().collect().await.unwrap();
    let trailers = collected.trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert!(!trailers.contains_key("content-length"));
    assert_eq!(text(b.unwrap()).await, "0");
    assert_eq!(rig.counted("opened"), "1");
    assert_eq!(rig.group.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn at_the_stream_limit_another_connection_is_made_and_at_the_last_the_request_is_refused() {
    let (go, release) = watch::channel(false);
    let settings = Settings { max_h2_connections: 2, ..settings(Protocol::H2) };
    let rig = Arc::new(rig(h2_upstream(1, release).await, settings));
    // Makes the first connection, and learns its limit.
    rig.send(get("/refuse")).await.unwrap_err();
    let held: Vec<_> = (0..2)
        .map(|_| {
            let rig = rig.clone();
            task::spawn("test request", async move { rig.text(get("/")).await })
        })
        .collect();
    until("two are under way", || rig.local.pool().h2_open() == [1, 1]).await;
    let error = rig.send(get("/")).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::ConcurrencyFull), "{error}");
    go.send(true).unwrap();
    for request in held {
        request.await.unwrap();
    }
    assert_eq!(rig.counted("opened"), "2");
}

#[tokio::test]
async fn a_refused_stream_was_not_sent_and_any_other_reset_may_have_been() {
    let (_go, release) = watch::channel(true);
    let rig = rig(h2_upstream(100, release).await, settings(Protocol::H2));
    let refused = rig.send(get("/refuse")).await.unwrap_err();
    assert!(matches!(refused.kind(), Kind::UpstreamReset(Sent::Nothing)), "{refused}");
    let reset = rig.send(get("/reset")).await.unwrap_err();
    assert!(matches!(reset.kind(), Kind::UpstreamReset(Sent::MaybeSeen)), "{reset}");
}
