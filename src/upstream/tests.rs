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
    error::{Error, Kind, Result, Sent, Unsent},
    http::{self as ours, Body, Context, Peer, Request, Response},
    telemetry::{
        metrics::Metrics,
        task::{self, Spawner},
    },
};

mod answers;
mod duplex;
mod idle;
mod leftovers;
mod requests;

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
        response_idle_timeout: Duration::from_mins(1),
        send_idle_timeout: Duration::from_mins(1),
        half_close_timeout: Duration::from_mins(1),
        probe_idle_after: Duration::from_secs(1),
        max_h2_connections: 4,
    }
}

fn rig(address: std::net::SocketAddr, settings: Settings) -> Rig {
    rig_at(Address::Inet(address), settings)
}

fn rig_at(address: Address, settings: Settings) -> Rig {
    let metrics = Metrics::new();
    let (deadline, receiver) = watch::channel(None);
    let tunnels = Spawner::new();
    let pools = Pools::new(metrics.thread(), tunnels.clone(), receiver);
    let endpoint = Endpoint::new("orders", address, "orders.internal", Some(80));
    let transport = Transport::new(settings, None).unwrap();
    let group = Arc::default();
    let local = pools.local(&Arc::new(endpoint), &transport, &group, 0);
    Rig { local, pools, metrics, deadline, tunnels, group }
}

fn request(method: Method, path: &str, body: Body) -> Request {
    let peer =
        Arc::new(Peer::new("test".into(), ours::peer::Address::Unix, ours::peer::Address::Unix));
    let mut parts = http::Request::new(()).into_parts().0;
    parts.method = method.clone();
    parts.uri = path.parse().unwrap();
    Request::new(parts, body, Context::new(peer, method, Version::HTTP_11))
}

fn get(path: &str) -> Request {
    request(Method::GET, path, Body::empty())
}

fn post(body: &'static str) -> Request {
    request(Method::POST, "/", Body::full(body))
}

impl Rig {
    async fn send(&self, request: Request) -> Result<Response> {
        let sent = exchange(Call { request, flight: self.local.enter(usize::MAX).unwrap() }, false);
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
async fn of_those_that_race_for_the_last_place_one_gets_it() {
    const ROUNDS: usize = 20_000;
    let rig = rig(upstream(numbered).await, settings(Protocol::H1));
    let (arrived, admitted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // Spinning, so that both are let go at the same moment.
    let meet = |meeting: usize| {
        arrived.fetch_add(1, Ordering::SeqCst);
        for turn in 0.. {
            if arrived.load(Ordering::SeqCst) >= 2 * meeting {
                return;
            }
            // Alone on a core, whoever spins keeps the other one away.
            if turn % 1000 == 999 { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    meet(2 * round + 1);
                    let flight = rig.local.enter(1);
                    admitted.fetch_add(usize::from(flight.is_some()), Ordering::SeqCst);
                    // Held until both have been judged.
                    meet(2 * round + 2);
                }
            });
        }
    });
    assert_eq!(admitted.into_inner(), ROUNDS);
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

/// A body of unknown length.
fn chunks(chunks: &[&'static str]) -> Body {
    let frames: Vec<Result<_>> =
        chunks.iter().map(|chunk| Ok(Frame::data(Bytes::from_static(chunk.as_bytes())))).collect();
    Body::boxed(http_body_util::StreamBody::new(futures_util::stream::iter(frames)))
}

#[tokio::test]
async fn a_connection_that_answered_in_http_1_0_is_not_used_again() {
    for fields in ["content-length: 2\r\n\r\nok", "content-length: 0\r\n\r\n"] {
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
                    let answer = format!("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n{fields}");
                    peer.write(answer.as_bytes()).await;
                }
            }
        });
        let rig = rig(address.await, settings(Protocol::H1));
        rig.text(get("/")).await;
        assert_eq!(rig.pools.idle(), 0);
        rig.text(request(Method::POST, "/", chunks(&["abc"]))).await;
        heads.recv().await.unwrap();
        let upload = heads.recv().await.unwrap();
        assert!(upload.ends_with("3\r\nabc\r\n0\r\n\r\n"), "{upload}");
        assert_eq!(rig.counted("opened"), "2");
    }
}

#[tokio::test]
async fn a_refused_connect_hands_the_request_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let rig = rig(address, settings(Protocol::H1));
    let mut error = rig.send(post("payload")).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::UpstreamConnect), "{error}");
    let request = error.take_unsent().and_then(Unsent::into_request).expect("handed back");
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
async fn what_another_hold_took_over_from_keeps_no_connections() {
    let rig = rig(upstream(numbered).await, settings(Protocol::H1));
    rig.text(get("/")).await;
    let held = rig.send(get("/")).await.unwrap();
    rig.text(get("/")).await;
    assert_eq!(rig.pools.idle(), 1);
    let again = |generation, transport: &Arc<Transport>| {
        rig.pools.local(rig.local.endpoint(), transport, &rig.group, generation)
    };
    assert!(Arc::ptr_eq(&again(1, rig.local.transport()), &rig.local), "made the same way");
    let changed = Settings { max_idle: 7, ..settings(Protocol::H1) };
    let changed = Transport::new(changed, None).unwrap();
    let new = again(2, &changed);
    assert!(!Arc::ptr_eq(&new, &rig.local));
    time::pause();
    time::advance(Duration::from_secs(2)).await;
    time::resume();
    until("the janitor came", || rig.pools.idle() == 0).await;
    text(held).await;
    rig.text(get("/")).await;
    assert_eq!(rig.pools.idle(), 0, "nothing comes back to the old one");
    assert!(!Arc::ptr_eq(&again(1, rig.local.transport()), &new));
    assert!(Arc::ptr_eq(&again(2, &changed), &new), "the latest stays");
}

#[test]
fn a_dial_that_breaks_off_is_not_waited_for() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Never accepted, the connection waits for the end of its TLS handshake.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let tls = TlsSettings { server_name: None, ca: Some(certificate().0), client: None };
    let settings = Settings { tls: Some(tls), ..settings(Protocol::H1) };
    let dialling = runtime();
    let entered = dialling.enter();
    let rig = rig(listener.local_addr().unwrap(), settings);
    drop(entered);
    let call = Call { request: get("/"), flight: rig.local.enter(usize::MAX).unwrap() };
    let mut sent = Box::pin(exchange(call, false));
    dialling.block_on(async {
        assert!(futures_util::poll!(&mut sent).is_pending());
        tokio::task::yield_now().await;
    });
    drop(dialling);
    let answered = runtime().block_on(async { time::timeout(Duration::from_secs(5), sent).await });
    let error = answered.expect("an answer, although the dial is gone").unwrap_err();
    assert!(matches!(error.kind(), Kind::UpstreamConnect), "{error}");
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
    assert!(error.take_unsent().is_some_and(|unsent| unsent.into_request().is_some()));
}

#[tokio::test]
async fn everybody_who_waits_for_a_connection_is_told_why_there_is_none() {
    // Bound, and not listened on.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    for (protocol, dials) in [(Protocol::H1, "3"), (Protocol::H2, "1")] {
        let rig = rig(socket.local_addr().unwrap(), settings(protocol));
        let errors = futures_util::future::join_all((0..3).map(|_| rig.send(get("/")))).await;
        assert_eq!(rig.counted("failed"), dials, "{protocol:?}");
        for error in errors {
            let error = error.unwrap_err().to_string();
            let is_told =
                error.starts_with("upstream-connect: orders") && error.contains("refused");
            assert!(is_told, "{protocol:?}: {error}");
        }
    }
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
    let (_go, release) = watch::channel(false);
    let rigs = [
        rig(address.await, settings(Protocol::H1)),
        rig(h2_upstream(100, release).await, settings(Protocol::H2)),
    ];
    for rig in rigs {
        let frames = [Ok(Frame::data(Bytes::from_static(b"abc"))), Err(Kind::ClientClosed.into())];
        let body = Body::boxed(http_body_util::StreamBody::new(futures_util::stream::iter(frames)));
        let error = rig.send(request(Method::POST, "/", body)).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::ClientClosed), "{error}");
        let mut large = flood();
        large.set_limit(1);
        let error = rig.send(request(Method::POST, "/", large)).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::BodyTooLarge), "{error}");
    }
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
async fn whoever_waits_for_a_connection_takes_a_stream_that_becomes_free() {
    let (go, release) = watch::channel(false);
    let served = h2_upstream(1, release);
    let served = served.await;
    // The second connection is accepted, and never greets.
    let address = upstream(move |mut peer| async move {
        if peer.number > 0 {
            std::future::pending::<()>().await;
        }
        let mut onward = TcpStream::connect(served).await.unwrap();
        drop(tokio::io::copy_bidirectional(&mut peer.stream, &mut onward).await);
    });
    let rig = Arc::new(rig(address.await, settings(Protocol::H2)));
    rig.send(get("/refuse")).await.unwrap_err();
    let held = {
        let rig = rig.clone();
        task::spawn("test request", async move { rig.text(get("/")).await })
    };
    until("it is under way", || rig.local.pool().h2_open() == [1]).await;
    let mut waiting = Box::pin(rig.text(get("/")));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    go.send(true).unwrap();
    let start = Instant::now();
    assert_eq!(waiting.await, "0");
    assert!(start.elapsed() < Duration::from_secs(3), "not by the end of the dial");
    held.await.unwrap();
}

#[tokio::test]
async fn an_endpoint_that_turns_to_h2_gets_no_more_connections_than_there_may_be() {
    let (h1, ca) = acceptor(b"http/1.1");
    let mut config = (**h1.config()).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let h2 = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let address = upstream(move |peer| {
        let (h1, h2) = (h1.clone(), h2.clone());
        async move {
            if peer.number == 0 {
                let mut stream = h1.accept(peer.stream).await.unwrap();
                assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
                let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
                stream.write_all(answer).await.unwrap();
                return;
            }
            let stream = h2.accept(peer.stream).await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                respond.send_response(http::Response::new(()), true).unwrap();
            }
        }
    });
    let tls = TlsSettings { server_name: None, ca: Some(ca), client: None };
    let settings = Settings { tls: Some(tls), max_h2_connections: 2, ..settings(Protocol::Auto) };
    let rig = rig(address.await, settings);
    rig.text(get("/")).await;
    let answers = futures_util::future::join_all((0..6).map(|_| rig.send(get("/")))).await;
    for answer in answers {
        answer.unwrap();
    }
    until("all dials are over", || rig.counted("opened") == "7").await;
    assert_eq!(rig.local.pool().h2_open(), [0, 0]);
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

/// Sends `request`, which has to come back unsent, and sends it once more.
async fn twice(rig: &Rig, request: Request) -> String {
    let mut error = rig.send(request).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::UpstreamReset(Sent::Nothing)), "{error}");
    let request = error.take_unsent().and_then(Unsent::into_request).expect("handed back");
    rig.text(request).await
}

/// Serves h2 and sends what it processed: method, and body.
async fn serve_h2(stream: TcpStream, refuses: bool, processed: mpsc::Sender<String>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let mut is_first = refuses;
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        if std::mem::take(&mut is_first) {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            continue;
        }
        let processed = processed.clone();
        task::spawn("test stream", async move {
            let (parts, mut body) = request.into_parts();
            let mut seen = parts.method.to_string();
            while let Some(Ok(data)) = body.data().await {
                seen.push_str(std::str::from_utf8(&data).unwrap());
            }
            processed.send(seen).await.unwrap();
            respond.send_response(http::Response::new(()), true).unwrap();
        });
    }
}

/// Greets in h2, reads the heads of two requests, and then says that it looks at the first only.
async fn go_away(stream: &mut TcpStream) {
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    stream.read_exact(&mut [0; 24]).await.unwrap();
    let mut head = [0; 9];
    let mut requests = 0;
    while requests < 2 {
        stream.read_exact(&mut head).await.unwrap();
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        requests += usize::from(head[3] == 1);
    }
    stream.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]).await.unwrap();
    // It stays open for what it has accepted.
    stream.read_to_end(&mut Vec::new()).await.unwrap();
}

#[tokio::test]
async fn what_h2_refuses_is_handed_back_and_processed_once() {
    for refuses in [true, false] {
        let streaming = request(Method::POST, "/", chunks(&["pay", "load"]));
        for (asked, seen) in
            [(get("/"), "GET"), (post("payload"), "POSTpayload"), (streaming, "POSTpayload")]
        {
            let (processed, mut log) = mpsc::channel(4);
            let address = upstream(move |mut peer| {
                let processed = processed.clone();
                async move {
                    if !refuses && peer.number == 0 {
                        go_away(&mut peer.stream).await;
                    } else {
                        serve_h2(peer.stream, refuses, processed).await;
                    }
                }
            });
            let rig = Arc::new(rig(address.await, settings(Protocol::H2)));
            let accepted = (!refuses).then(|| {
                let rig = rig.clone();
                task::spawn("test request", async move { drop(rig.send(get("/")).await) })
            });
            if accepted.is_some() {
                until("one is under way", || rig.local.pool().h2_open() == [1]).await;
            }
            twice(&rig, asked).await;
            assert_eq!(log.try_recv().unwrap(), seen);
            assert!(log.try_recv().is_err(), "{seen} was processed once");
            assert_eq!(rig.counted("opened"), if refuses { "1" } else { "2" });
            if let Some(accepted) = accepted {
                assert!(!accepted.is_finished(), "it is still waited for");
                accepted.abort();
            }
        }
    }
}

#[tokio::test]
async fn of_an_upload_that_was_refused_no_more_is_handed_back_than_is_kept() {
    let (_go, release) = watch::channel(true);
    let rig = rig(h2_upstream(100, release).await, settings(Protocol::H2));
    // The windows let it out before the refusal is here.
    let large = Body::boxed(
        http_body_util::Full::new(Bytes::from(vec![0; 65537])).map_err(|never| match never {}),
    );
    let mut error = rig.send(request(Method::POST, "/refuse", large)).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::UpstreamReset(Sent::Nothing)), "{error}");
    assert!(error.take_unsent().and_then(Unsent::into_request).is_none());
}

#[tokio::test]
async fn a_connection_found_reset_by_the_write_hands_the_request_back() {
    for body in [Body::full("payload"), chunks(&["pay", "load"])] {
        found_reset(body).await;
    }
}

async fn found_reset(body: Body) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (reset, when) = std::sync::mpsc::sync_channel::<()>(1);
    let (done, is_done) = std::sync::mpsc::sync_channel::<()>(1);
    // A thread of its own: the reset has to come while our runtime is looking elsewhere.
    let upstream = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let read = stream.read(&mut [0; 1024]).unwrap();
        assert!(read > 0);
        stream.write_all(OK).unwrap();
        when.recv().unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
        done.send(()).unwrap();
    });
    let rig = rig(address, settings(Protocol::H1));
    rig.text(get("/")).await;
    time::pause();
    time::advance(Duration::from_millis(6)).await;
    time::resume();
    reset.send(()).unwrap();
    is_done.recv().unwrap();
    let mut error = rig.send(request(Method::POST, "/", body)).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::UpstreamClosedIdle(Sent::Nothing)), "{error}");
    let request = error.take_unsent().and_then(Unsent::into_request).expect("handed back");
    assert_eq!(request.body.collect().await.unwrap().to_bytes(), "payload");
    upstream.join().unwrap();
}

/// More than any buffer or window on the way takes.
fn flood() -> Body {
    let frame = || Ok::<_, Error>(Frame::data(Bytes::from_static(&[0; 16 * 1024])));
    let frames = futures_util::stream::repeat_with(frame);
    Body::boxed(http_body_util::StreamBody::new(frames))
}

#[tokio::test]
async fn an_upload_the_upstream_does_not_take_times_out() {
    for protocol in [Protocol::H1, Protocol::H2] {
        let address = upstream(move |peer| async move {
            if protocol == Protocol::H1 {
                std::future::pending::<()>().await;
            }
            // It answers PINGs, and gives the stream no window.
            let mut connection = h2::server::handshake(peer.stream).await.unwrap();
            let mut held = Vec::new();
            while let Some(Ok(accepted)) = connection.accept().await {
                let _: (_, h2::server::SendResponse<Bytes>) = accepted;
                held.push(accepted);
            }
        });
        let rig = rig(address.await, settings(protocol));
        let call = Call {
            request: request(Method::POST, "/", flood()),
            flight: rig.local.enter(usize::MAX).unwrap(),
        };
        let sent = exchange(call, false);
        time::pause();
        let start = Instant::now();
        let error = time::timeout(Duration::from_mins(5), sent).await.unwrap().unwrap_err();
        let kind = error.kind();
        assert!(matches!(kind, Kind::UpstreamTimeoutTry(Sent::MaybeSeen)), "{error}");
        assert_eq!(start.elapsed().as_secs(), 60, "{protocol:?}");
        time::resume();
        until("nothing is left", || rig.local.pool().h2_open().iter().all(|&n| n == 0)).await;
    }
}

#[tokio::test]
async fn a_client_that_pauses_its_upload_is_not_the_upstreams_doing() {
    for protocol in [Protocol::H1, Protocol::H2] {
        let (processed, mut log) = mpsc::channel(4);
        let address = upstream(move |mut peer| {
            let processed = processed.clone();
            async move {
                if protocol == Protocol::H2 {
                    serve_h2(peer.stream, false, processed).await;
                } else {
                    peer.read().await;
                    processed.send("POSTab".to_owned()).await.unwrap();
                    peer.write(EMPTY).await;
                }
            }
        });
        let rig = rig(address.await, settings(protocol));
        let frames = futures_util::stream::unfold(0, |sent| async move {
            if sent == 1 {
                time::sleep(Duration::from_mins(5)).await;
            }
            let frame = Frame::data(Bytes::from_static(["a", "b"].get(sent)?.as_bytes()));
            Some((Ok::<_, Error>(frame), sent + 1))
        });
        let body = Body::boxed(http_body_util::StreamBody::new(frames));
        let call = Call {
            request: request(Method::POST, "/", body),
            flight: rig.local.enter(usize::MAX).unwrap(),
        };
        time::pause();
        exchange(call, false).await.unwrap();
        assert_eq!(log.recv().await.unwrap(), "POSTab");
        time::resume();
    }
}

#[tokio::test]
async fn an_early_answer_does_not_free_the_stream_the_upload_is_in() {
    let address = upstream(|peer| async move {
        let mut connection = h2::server::handshake(peer.stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            respond.send_response(http::Response::new(()), true).unwrap();
            task::spawn("test upload", async move {
                let mut body = request.into_body();
                while let Some(Ok(_)) = body.data().await {}
            });
        }
    });
    let rig = rig(address.await, settings(Protocol::H2));
    let (feed, frames) = mpsc::channel::<Result<Frame<Bytes>>>(1);
    let frames = futures_util::stream::unfold(frames, |mut frames| async move {
        Some((frames.recv().await?, frames))
    });
    let body = Body::boxed(http_body_util::StreamBody::new(frames));
    let response = rig.send(request(Method::POST, "/", body)).await.unwrap();
    drop(response);
    assert_eq!(rig.local.pool().h2_open(), [1]);
    drop(feed);
    until("the upload is over", || rig.local.pool().h2_open() == [0]).await;
}

#[tokio::test]
async fn an_h2_connection_that_fell_silent_is_given_up() {
    let (asked, mut was_asked) = mpsc::channel(1);
    let address = upstream(move |mut peer| {
        let asked = asked.clone();
        async move {
            peer.write(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
            // It reads, as a dead peer's kernel does not, and answers neither request nor PING.
            let mut seen = Vec::new();
            while peer.stream.read_buf(&mut seen).await.is_ok_and(|n| n > 0) {
                let _is_first = asked.try_send(());
            }
        }
    });
    let rig = rig(address.await, settings(Protocol::H2));
    let call = Call { request: get("/"), flight: rig.local.enter(usize::MAX).unwrap() };
    let mut sent = Box::pin(exchange(call, false));
    tokio::select! {
        answered = &mut sent => panic!("{answered:?}"),
        asked = was_asked.recv() => asked.unwrap(),
    }
    until("it has a stream", || rig.local.pool().h2_open() == [1]).await;
    time::pause();
    let start = Instant::now();
    let error = time::timeout(Duration::from_mins(5), sent).await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), Kind::UpstreamReset(Sent::MaybeSeen)), "{error}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

/// What the client's side of hyper sees of an upgrade: a server that asks our transport.
async fn gateway(rig: Arc<Rig>) -> std::net::SocketAddr {
    upstream(move |peer| {
        let rig = rig.clone();
        async move {
            let service = hyper::service::service_fn(move |incoming: http::Request<_>| {
                let rig = rig.clone();
                async move {
                    let (parts, body) = incoming.into_parts();
                    let mut request = get("/");
                    *request.parts = parts;
                    request.body = Body::from_client(body);
                    rig.send(request).await
                }
            });
            let io =
                io::Io::new(io::Stream::Plain(io::Plain::tcp(peer.stream)), Duration::from_mins(1))
                    .0;
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(io, service)
                .with_upgrades();
            drop(connection.await);
        }
    })
    .await
}

const ASK: &[u8] =
    b"GET /chat HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";

/// Takes upgrades, then echoes.
async fn echo(mut peer: Peered) {
    let head = peer.read().await;
    assert!(head.contains("connection: upgrade\r\n"), "{head}");
    assert!(head.contains("upgrade: websocket\r\n"), "{head}");
    peer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    )
    .await;
    let (mut read, mut write) = peer.stream.split();
    tokio::io::copy(&mut read, &mut write).await.unwrap();
}

async fn upgraded(rig: &Arc<Rig>) -> Peered {
    let stream = TcpStream::connect(gateway(rig.clone()).await).await.unwrap();
    let mut client = Peered { stream, number: 0 };
    client.write(ASK).await;
    let head = client.read().await.to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("upgrade: websocket\r\n"), "{head}");
    client
}

#[tokio::test]
async fn an_upgrade_becomes_a_tunnel_outside_the_groups_limit() {
    let rig = Arc::new(rig(upstream(echo).await, settings(Protocol::H1)));
    let mut client = upgraded(&rig).await;
    client.write(b"ping").await;
    let mut answer = [0; 4];
    client.stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"ping");
    assert_eq!(rig.tunnels.running(), 1);
    assert_eq!(rig.local.endpoint().load().in_flight(), 1);
    assert_eq!(rig.group.load(Ordering::Relaxed), 0);
    drop(client);
    time::timeout(Duration::from_secs(5), rig.tunnels.drained()).await.unwrap();
    assert_eq!(rig.local.endpoint().load().in_flight(), 0);
    assert_eq!(rig.pools.idle(), 0);
}

#[tokio::test]
async fn a_tunnel_ends_at_the_deadline_of_the_drain() {
    let rig = Arc::new(rig(upstream(echo).await, settings(Protocol::H1)));
    let mut client = upgraded(&rig).await;
    rig.deadline.send(Some(Instant::now() + Duration::from_millis(20))).unwrap();
    let mut heard = Vec::new();
    let ended = client.stream.read_to_end(&mut heard);
    time::timeout(Duration::from_secs(5), ended).await.unwrap().unwrap();
    assert_eq!(heard, websocket::going_away(None)[..], "and nothing more");
    time::timeout(Duration::from_secs(5), rig.tunnels.drained()).await.unwrap();
}

#[tokio::test]
async fn an_upgrade_that_is_declined_is_an_ordinary_answer() {
    let address = upstream(|mut peer| async move {
        peer.read().await;
        peer.write(OK).await;
        peer.read().await;
    });
    let rig = Arc::new(rig(address.await, settings(Protocol::H1)));
    let stream = TcpStream::connect(gateway(rig.clone()).await).await.unwrap();
    let mut client = Peered { stream, number: 0 };
    client.write(ASK).await;
    let answer = client.read().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("ok"), "{answer}");
    assert_eq!(rig.tunnels.running(), 0);
    assert_eq!(rig.pools.idle(), 0);
}

/// What a client gets that asks for an upgrade and is answered with `answer`, on `rig`.
async fn asked(answer: &'static str, settings: Settings) -> (String, Arc<Rig>) {
    let address = upstream(move |mut peer| async move {
        peer.read().await;
        peer.write(answer.as_bytes()).await;
        peer.read().await;
    });
    let rig = Arc::new(rig(address.await, settings));
    let stream = TcpStream::connect(gateway(rig.clone()).await).await.unwrap();
    let mut client = Peered { stream, number: 0 };
    client.write(ASK).await;
    let read = time::timeout(Duration::from_secs(5), client.read()).await;
    (read.expect("an answer or an end within 5 s"), rig)
}

#[tokio::test]
async fn a_declined_upgrade_that_stands_still_times_out() {
    let settings =
        Settings { response_idle_timeout: Duration::from_millis(30), ..settings(Protocol::H1) };
    let stuck = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
    let (answer, rig) = asked(stuck, settings).await;
    assert!(answer.ends_with("half"), "{answer}");
    until("the request is over", || rig.group.load(Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn an_upgrade_to_what_was_not_asked_for_is_refused() {
    for chosen in ["smtp", "websocket, smtp"] {
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {chosen}\r\n\r\n"
        );
        let (answer, rig) = asked(answer.leak(), settings(Protocol::H1)).await;
        assert!(!answer.contains("101"), "{answer}");
        assert_eq!(rig.tunnels.running(), 0);
    }
    let other_case =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: WebSocket\r\n\r\n";
    let (answer, _) = asked(other_case, settings(Protocol::H1)).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
}

#[tokio::test]
async fn a_tunnel_ends_some_time_after_one_side_has_ended() {
    let address = upstream(|mut peer| async move {
        peer.read().await;
        peer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        )
        .await;
        // Its side stays open for ever.
        peer.stream.read_to_end(&mut Vec::new()).await.unwrap();
        std::future::pending::<()>().await;
    });
    let rig = Arc::new(rig(address.await, settings(Protocol::H1)));
    let mut client = upgraded(&rig).await;
    client.stream.shutdown().await.unwrap();
    time::pause();
    let start = Instant::now();
    time::timeout(Duration::from_mins(5), rig.tunnels.drained()).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 60);
}

/// Shakes hands for `orders.internal`, offering `alpn`; and the file that vouches for it.
fn acceptor(alpn: &'static [u8]) -> (tokio_rustls::TlsAcceptor, std::path::PathBuf) {
    let (file, pair) = certificate();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls_pki_types::PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    (tokio_rustls::TlsAcceptor::from(Arc::new(config)), file)
}

/// A TLS upstream that offers `alpn` and says what it came to.
async fn tls_upstream(alpn: &'static [u8]) -> (std::net::SocketAddr, std::path::PathBuf) {
    let (acceptor, file) = acceptor(alpn);
    let address = upstream(move |peer| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(peer.stream).await else { return };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                    body.send_data(Bytes::from_static(b"ok"), true).unwrap();
                }
                return;
            }
            let mut seen = [0; 1024];
            while stream.read(&mut seen).await.is_ok_and(|n| n > 0) {
                stream.write_all(OK).await.unwrap();
            }
        }
    });
    (address.await, file)
}

#[tokio::test]
async fn over_tls_alpn_chooses_and_is_remembered() {
    for alpn in [b"h2".as_slice(), b"http/1.1"] {
        let (address, ca) = tls_upstream(alpn).await;
        let tls = TlsSettings { server_name: None, ca: Some(ca), client: None };
        let rig = rig(address, Settings { tls: Some(tls), ..settings(Protocol::Auto) });
        let (a, b) = tokio::join!(rig.send(get("/")), rig.send(get("/")));
        assert_eq!((text(a.unwrap()).await, text(b.unwrap()).await), ("ok".into(), "ok".into()));
        assert_eq!(rig.text(post("x")).await, "ok");
        assert_eq!(rig.counted("opened"), if alpn == b"h2" { "1" } else { "2" });
    }
}

#[tokio::test]
async fn a_check_goes_over_tls_and_speaks_what_alpn_chooses() {
    for alpn in [b"h2".as_slice(), b"http/1.1"] {
        let (address, ca) = tls_upstream(alpn).await;
        let tls = TlsSettings { server_name: None, ca: Some(ca), client: None };
        let rig = rig(address, Settings { tls: Some(tls), ..settings(Protocol::Auto) });
        let (transport, endpoint) = (rig.local.transport(), rig.local.endpoint());
        let mut request = http::Request::new(Body::empty());
        *request.uri_mut() = "/healthz".parse().unwrap();
        let answer = check::ask(transport, endpoint, request, check::Read::Whole).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (http::StatusCode::OK, &b"ok"[..]));
        check::connect(transport, endpoint).await.unwrap();
        assert_eq!(rig.counted("opened"), "0", "no connection of the pools");
    }
}

#[tokio::test]
async fn what_a_check_reads_is_bounded() {
    let address = upstream(|mut peer| async move {
        let mut seen = [0; 1024];
        if peer.stream.read(&mut seen).await.is_ok_and(|n| n > 0) {
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
            let flood = [head.as_slice(), &vec![b'x'; 100_000]].concat();
            drop(peer.stream.write_all(&flood).await);
        }
        std::future::pending::<()>().await;
    });
    let rig = rig(address.await, settings(Protocol::H1));
    let (transport, endpoint) = (rig.local.transport(), rig.local.endpoint());
    let asked = |read| check::ask(transport, endpoint, http::Request::new(Body::empty()), read);
    assert_eq!(asked(check::Read::Head).await.unwrap().status, http::StatusCode::OK);
    let error = time::timeout(Duration::from_secs(10), asked(check::Read::Whole)).await.unwrap();
    assert!(matches!(error.unwrap_err().kind(), Kind::UpstreamBadResponse));
}

#[tokio::test]
async fn tls_and_the_h2_greeting_share_the_time_to_connect() {
    let (acceptor, ca) = acceptor(b"h2");
    let address = upstream(move |peer| {
        let acceptor = acceptor.clone();
        async move {
            time::sleep(Duration::from_secs(2)).await;
            let mut stream = acceptor.accept(peer.stream).await.unwrap();
            drop(stream.read_to_end(&mut Vec::new()).await);
        }
    });
    let tls = TlsSettings { server_name: None, ca: Some(ca), client: None };
    let rig = rig(address.await, Settings { tls: Some(tls), ..settings(Protocol::H2) });
    time::pause();
    let start = Instant::now();
    let error = rig.send(get("/")).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::UpstreamConnect), "{error}");
    assert_eq!(start.elapsed().as_secs(), 3);
}

#[tokio::test]
async fn what_is_counted_as_written_is_what_left_below_tls() {
    let (address, ca) = tls_upstream(b"http/1.1").await;
    let tls = TlsSettings { server_name: None, ca: Some(ca), client: None };
    let rig = rig(address, Settings { tls: Some(tls), ..settings(Protocol::H1) });
    let opened = handshake::open(&rig.local).await.unwrap();
    let handshake::Opened::H1(h1) = opened else { panic!("it speaks h1") };
    let mark = h1.mark();
    assert!(mark.written > 0, "our side of the TLS handshake");
    assert_eq!(mark.read, 0, "of HTTP there was nothing");
}

#[tokio::test]
async fn a_certificate_nobody_vouches_for_is_refused_and_nothing_was_sent() {
    let (address, _) = tls_upstream(b"http/1.1").await;
    let tls = TlsSettings { server_name: None, ca: Some(certificate().0), client: None };
    let rig = rig(address, Settings { tls: Some(tls), ..settings(Protocol::H1) });
    let mut error = rig.send(post("x")).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::UpstreamTls), "{error}");
    assert!(error.take_unsent().is_some_and(|unsent| unsent.into_request().is_some()));
}

#[tokio::test]
async fn an_upstream_that_answers_early_is_not_reused_while_we_still_send() {
    let address = upstream(|mut peer| async move {
        peer.stream.read_u8().await.unwrap();
        peer.write(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n").await;
        peer.read().await;
    });
    let rig = rig(address.await, settings(Protocol::H1));
    let endless = futures_util::stream::pending::<Result<Frame<Bytes>>>();
    let body = Body::boxed(http_body_util::StreamBody::new(endless));
    let response = rig.send(request(Method::POST, "/", body)).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    drop(response);
    assert_eq!(rig.pools.idle(), 0);
}
