//! One connection over an in-memory pipe, on paused time: its timers, its ends, what is parked, and
//! what hyper decides by itself.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use http::header::{CONNECTION, HOST};
use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream},
    task::JoinHandle,
    time::{self, timeout},
};

use super::*;
use crate::{
    http::{Body, peer::Address},
    telemetry::{metrics::Metrics, task},
};

type Answer = dyn Fn(Request) -> BoxFuture<'static, Response> + Send + Sync;

/// Answers with a closure and counts its calls.
struct Answers {
    called: AtomicUsize,
    answer: Box<Answer>,
}

impl Handle for Answers {
    type Future = BoxFuture<'static, Response>;

    fn handle(&self, request: Request) -> Self::Future {
        self.called.fetch_add(1, Ordering::Relaxed);
        (self.answer)(request)
    }
}

/// One connection that is served over an in-memory pipe.
struct Served {
    client: DuplexStream,
    task: JoinHandle<()>,
    answers: Arc<Answers>,
    connections: Connections,
    outcomes: Outcomes,
}

impl Served {
    fn new<F>(
        settings: Settings,
        protocol: Protocol,
        answer: impl Fn(Request) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response> + Send + 'static,
    {
        Self::with_pipe(settings, protocol, 64 * 1024, answer)
    }

    fn with_pipe<F>(
        settings: Settings,
        protocol: Protocol,
        pipe: usize,
        answer: impl Fn(Request) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response> + Send + 'static,
    {
        let (client, server) = tokio::io::duplex(pipe);
        let answers = Arc::new(Answers {
            called: AtomicUsize::new(0),
            answer: Box::new(move |request| answer(request).boxed()),
        });
        let connections = Connections::new();
        let outcomes = Outcomes::new(&Metrics::new().thread(), "web");
        let serving = serve(
            server,
            protocol,
            peer(),
            Arc::new(settings),
            answers.clone(),
            connections.clone(),
            outcomes.clone(),
        );
        let task = task::spawn("served", serving);
        Self { client, task, answers, connections, outcomes }
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.client.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads one response that has no body, and gives its head.
    async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.client.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    /// Reads to the end of the connection.
    async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        self.client.read_to_end(&mut rest).await.unwrap();
        String::from_utf8(rest).unwrap()
    }

    fn called(&self) -> usize {
        self.answers.called.load(Ordering::Relaxed)
    }
}

fn peer() -> Arc<Peer> {
    let address = Address::Inet(SocketAddr::from(([127, 0, 0, 1], 80)));
    Arc::new(Peer::new("web".into(), address, address))
}

fn empty() -> Response {
    Response::new(Body::empty())
}

async fn no_content(_request: Request) -> Response {
    empty()
}

async fn never(_request: Request) -> Response {
    std::future::pending().await
}

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

fn h1() -> Served {
    Served::new(Settings::default(), Protocol::H1, no_content)
}

// --- timers

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_after_keepalive_timeout() {
    let mut served = h1();
    let started = Instant::now();
    assert_eq!(served.rest().await, "");
    assert_eq!(started.elapsed().as_secs(), 75);
    assert_eq!(served.outcomes.keepalive_timeout.get(), 1);

    let mut served = h1();
    for _ in 0..3 {
        time::sleep(Duration::from_secs(70)).await;
        served.send(GET).await;
        assert!(served.head().await.starts_with("HTTP/1.1 200"));
    }
    let last = Instant::now();
    assert_eq!(served.rest().await, "");
    assert_eq!(last.elapsed().as_secs(), 75);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_in_time_is_answered_408() {
    for protocol in [Protocol::H1, Protocol::Either] {
        for before in ["", GET] {
            let mut served = Served::new(Settings::default(), protocol, no_content);
            served.send(before).await;
            if !before.is_empty() {
                served.head().await;
            }
            time::sleep(Duration::from_mins(1)).await;
            let started = Instant::now();
            // Bytes that trickle in do not extend it.
            served.send("P").await;
            time::sleep(Duration::from_secs(6)).await;
            served.send("RI").await;
            assert!(served.rest().await.starts_with("HTTP/1.1 408 "), "{protocol:?} {before}");
            assert_eq!(started.elapsed().as_secs(), 10);
            assert_eq!(served.outcomes.header_timeout.get(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_running_request_is_under_no_timer_of_the_connection() {
    let mut served = Served::new(Settings::default(), Protocol::H1, |_| async {
        time::sleep(Duration::from_secs(1000)).await;
        empty()
    });
    served.send(GET).await;
    assert!(served.head().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_trickles_in_is_no_head() {
    let mut served = Served::new(Settings::default(), Protocol::H1, |request| async {
        let body = request.body.collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), 5);
        empty()
    });
    served.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n").await;
    for _ in 0..5 {
        time::sleep(Duration::from_secs(20)).await;
        served.send("x").await;
    }
    assert!(served.head().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_is_closed_after_send_idle_timeout() {
    let mut served = Served::with_pipe(Settings::default(), Protocol::H1, 1024, |_| async {
        Response::new(Body::full(vec![b'x'; 100_000]))
    });
    served.send(GET).await;
    let started = Instant::now();
    // Each read makes room for more: progress, so the timer starts anew.
    time::sleep(Duration::from_secs(40)).await;
    served.client.read_u8().await.unwrap();
    (&mut served.task).await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 100);
    assert_eq!(served.outcomes.send_idle.get(), 1);
}

// --- orderly ends

#[tokio::test(start_paused = true)]
async fn the_last_of_requests_per_connection_says_close() {
    let settings = Settings { requests_per_connection: 3, ..Settings::default() };
    let mut served = Served::new(settings, Protocol::H1, no_content);
    for last in [false, false, true] {
        served.send(GET).await;
        assert_eq!(served.head().await.contains("connection: close"), last);
    }
    assert_eq!(served.rest().await, "");
}

#[tokio::test(start_paused = true)]
async fn an_aged_connection_ends_after_its_response_or_when_idle() {
    let settings =
        || Settings { connection_max_age: Duration::from_secs(50), ..Settings::default() };
    let mut served = Served::new(settings(), Protocol::H1, no_content);
    let started = Instant::now();
    assert_eq!(served.rest().await, "");
    assert!((45..=55).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());

    let mut served = Served::new(settings(), Protocol::H1, |_| async {
        time::sleep(Duration::from_mins(1)).await;
        empty()
    });
    served.send(GET).await;
    assert!(served.head().await.contains("connection: close"));
    assert_eq!(served.rest().await, "");
}

#[tokio::test(start_paused = true)]
async fn a_drain_closes_idle_connections_now_and_busy_ones_with_their_response() {
    let mut idle = h1();
    idle.send(GET).await;
    idle.head().await;
    idle.connections.drain();
    let started = Instant::now();
    assert_eq!(idle.rest().await, "");
    idle.connections.drained().await;
    assert_eq!(started.elapsed(), Duration::ZERO);

    let mut busy = Served::new(Settings::default(), Protocol::H1, |_| async {
        time::sleep(Duration::from_secs(5)).await;
        empty()
    });
    busy.send(GET).await;
    time::sleep(Duration::from_secs(1)).await;
    assert_eq!(busy.connections.open(), 1);
    busy.connections.drain();
    assert!(busy.head().await.contains("connection: close"));
    assert_eq!(busy.rest().await, "");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_comes_during_a_drain_may_send_one_request() {
    for protocol in [Protocol::H1, Protocol::Either] {
        let mut served = Served::new(Settings::default(), protocol, no_content);
        served.connections.drain();
        time::sleep(Duration::from_secs(4)).await;
        assert_eq!(served.connections.open(), 1);
        served.send(GET).await;
        assert!(served.head().await.contains("connection: close"));
        assert_eq!(served.rest().await, "");

        let mut silent = Served::new(Settings::default(), protocol, no_content);
        silent.connections.drain();
        let started = Instant::now();
        assert_eq!(silent.rest().await, "");
        assert_eq!(started.elapsed().as_secs(), 5);
        assert_eq!(silent.outcomes.keepalive_timeout.get(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_connection_that_was_idle_for_longest_makes_room() {
    let mut served = h1();
    let started = Instant::now();
    tokio::task::yield_now().await;
    assert!(!served.connections.close_oldest_idle("other"), "of this listener only");
    assert!(served.connections.close_oldest_idle("web"));
    assert!(!served.connections.close_oldest_idle("web"), "once");
    assert_eq!(served.rest().await, "");
    assert_eq!(started.elapsed(), Duration::ZERO, "although it had no request yet");

    let mut busy = Served::new(Settings::default(), Protocol::H1, never);
    busy.send(GET).await;
    tokio::task::yield_now().await;
    assert!(!busy.connections.close_oldest_idle("web"));
}

#[tokio::test(start_paused = true)]
async fn an_early_answer_is_seen_although_the_body_is_still_being_sent() {
    let mut served = Served::with_pipe(Settings::default(), Protocol::H1, 4096, no_content);
    served.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 900000\r\n\r\n").await;
    assert!(served.head().await.starts_with("HTTP/1.1 200"));
    // All of it is taken, which a closed socket would have answered with a reset.
    served.send(vec![b'x'; 900_000]).await;
    assert_eq!(served.rest().await, "");
}

#[tokio::test(start_paused = true)]
async fn what_is_discarded_has_bounds() {
    let mut served = Served::with_pipe(Settings::default(), Protocol::H1, 4096, no_content);
    served.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 90000000\r\n\r\n").await;
    served.head().await;
    let sent = served.client.write_all(&vec![b'x'; 2 * 1024 * 1024]).await;
    assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::BrokenPipe);

    let mut served = Served::with_pipe(Settings::default(), Protocol::H1, 4096, no_content);
    served.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 90000000\r\n\r\n").await;
    served.head().await;
    let started = Instant::now();
    (&mut served.task).await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 5);
}

// --- bodies that nobody reads

/// Answers without reading on after the first `frames` frames of the body.
fn unread(frames: usize) -> Served {
    Served::new(Settings::default(), Protocol::H1, move |mut request| async move {
        for _ in 0..frames {
            request.body.frame().await.unwrap().unwrap();
        }
        drop(request);
        // Whatever has arrived by then counts.
        time::sleep(Duration::from_secs(1)).await;
        empty()
    })
}

#[tokio::test(start_paused = true)]
async fn a_connection_goes_on_behind_a_body_that_nobody_reads_if_it_is_there() {
    let length = |size: usize| {
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n");
        head + &"x".repeat(size)
    };
    let chunked = |end: &str| {
        format!(
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\norder\r\n{end}"
        )
    };
    let trailers = "0\r\nx-sum: 1\r\n\r\n";
    for whole in [length(5), length(60_000), chunked("0\r\n\r\n"), chunked(trailers)] {
        for frames in [0, 1] {
            let mut served = unread(frames);
            for number in 1..=3 {
                served.send(&whole).await;
                let head = served.head().await;
                assert!(!head.contains("connection"), "{frames} read of {whole:.90}: {head}");
                assert_eq!(served.called(), number);
            }
        }
    }
    let missing = length(5).replace("order", "ord").replace("xxxxx", "xxxx");
    for part in [missing, chunked(""), chunked("0\r\n"), length(70_000)] {
        for frames in [0, 1] {
            let mut served = unread(frames);
            served.send(&part.as_bytes()[..part.len().min(60_000)]).await;
            let head = served.head().await;
            assert!(head.contains("connection: close"), "{frames} read of {part:.90}: {head}");
            served.client.shutdown().await.unwrap();
            assert_eq!(served.rest().await, "");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_body_is_never_taken_for_a_request() {
    let mut served = unread(0);
    let body = "GET /a HTTP/1.1\r\nhost: a\r\n\r\n";
    let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
    served.send([&head, body, &head, &body[..9]].concat()).await;
    assert!(!served.head().await.contains("connection"));
    assert!(served.head().await.contains("connection: close"));
    served.send(&body[9..]).await;
    assert_eq!((served.rest().await.as_str(), served.called()), ("", 2));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_outlasts_its_answer_is_read_on() {
    let (bodies, mut taken) = tokio::sync::mpsc::channel(1);
    let mut served = Served::new(Settings::default(), Protocol::H1, move |request| {
        bodies.try_send(request.body).unwrap();
        std::future::ready(empty())
    });
    served.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n").await;
    assert!(!served.head().await.contains("connection"));
    let body = taken.recv().await.unwrap();
    served.send("order").await;
    assert_eq!(body.collect().await.unwrap().to_bytes(), "order");
    served.send(GET).await;
    served.head().await;
    drop(taken.recv().await);
    // Given up behind its answer: hyper closes, and does not wait for somebody to read it.
    served.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n").await;
    served.head().await;
    drop(taken.recv().await.unwrap());
    assert_eq!(served.rest().await, "");
}

#[tokio::test(start_paused = true)]
async fn a_body_given_up_behind_its_answer_is_not_taken_for_the_next_ones() {
    let slot = parking_lot::Mutex::new(None::<Body>);
    let mut served = Served::new(Settings::default(), Protocol::H1, move |mut request| {
        assert!(request.body.frame().now_or_never().is_none(), "asked for, and not here yet");
        let mut slot = slot.lock();
        match slot.take() {
            None => *slot = Some(request.body),
            Some(before) => drop((before, request.body)),
        }
        std::future::ready(empty())
    });
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n";
    served.send(format!("{head}order{head}or")).await;
    assert!(!served.head().await.contains("connection"));
    assert!(served.head().await.contains("connection: close"));
}

/// A client that has sent an HTTP/1.0 request, whose answer lasts until the connection closes; the
/// connection's task, and how often its stream was aborted.
async fn asked(
    answer: impl Fn(Request) -> BoxFuture<'static, Response> + Send + Sync + 'static,
) -> (DuplexStream, JoinHandle<()>, Arc<AtomicUsize>) {
    let (mut client, server) = tokio::io::duplex(1024);
    let aborted = Arc::new(AtomicUsize::new(0));
    let served = serve(
        Probe { inner: server, asked: Arc::default(), aborted: aborted.clone() },
        Protocol::H1,
        peer(),
        Arc::new(Settings::default()),
        Arc::new(Answers { called: AtomicUsize::new(0), answer: Box::new(answer) }),
        Connections::new(),
        Outcomes::new(&Metrics::new().thread(), "web"),
    );
    let task = task::spawn("served", served);
    client.write_all(b"GET / HTTP/1.0\r\nhost: a\r\n\r\n").await.unwrap();
    (client, task, aborted)
}

#[tokio::test(start_paused = true)]
async fn a_response_that_breaks_off_is_no_orderly_end() {
    use futures_util::stream;
    for (breaks, reads, expected) in [(false, true, 0), (true, true, 1), (false, false, 1)] {
        let answer = move |_: Request| {
            let chunk = Bytes::from(vec![b'x'; 10_000]);
            let end = breaks.then(|| Err(crate::error::Kind::Internal.into()));
            let frames = std::iter::once(Ok(http_body::Frame::data(chunk))).chain(end);
            let body = http_body_util::StreamBody::new(stream::iter(frames));
            let response = Response::new(Body::boxed(body));
            async { response }.boxed()
        };
        let (mut client, task, aborted) = asked(answer).await;
        if reads {
            client.read_to_end(&mut Vec::new()).await.unwrap();
        }
        task.await.unwrap();
        assert_eq!(aborted.load(Ordering::Relaxed), expected, "{breaks} {reads}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_in_the_middle_of_its_answer_sees_no_orderly_end() {
    use futures_util::{StreamExt as _, stream};
    for (begins, expected) in [(true, 1), (false, 0)] {
        let answer = move |request: Request| {
            if !begins {
                return never(request).boxed();
            }
            let some = stream::iter([Ok(http_body::Frame::data(Bytes::from_static(b"some")))]);
            let body = http_body_util::StreamBody::new(some.chain(stream::pending()));
            let response = Response::new(Body::boxed(body));
            async { response }.boxed()
        };
        let (mut client, task, aborted) = asked(answer).await;
        if begins {
            let mut read = Vec::new();
            while !read.ends_with(b"some") {
                client.read_buf(&mut read).await.unwrap();
            }
        }
        client.shutdown().await.unwrap();
        task.await.unwrap();
        assert_eq!(aborted.load(Ordering::Relaxed), expected, "{begins}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_cancels_its_request() {
    struct OnDrop(tokio::sync::mpsc::Sender<()>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.try_send(()).unwrap();
        }
    }
    let (sender, mut dropped) = tokio::sync::mpsc::channel(1);
    let mut served = Served::new(Settings::default(), Protocol::H1, move |request| {
        let guard = OnDrop(sender.clone());
        async move {
            let _guard = guard;
            never(request).await
        }
    });
    served.send(GET).await;
    tokio::task::yield_now().await;
    drop(served.client);
    dropped.recv().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_is_under_no_timer() {
    let mut served = Served::new(Settings::default(), Protocol::Either, |mut request| async move {
        let upgrade = hyper::upgrade::on(hyper::Request::from_parts(
            {
                let (mut parts, ()) = hyper::Request::new(()).into_parts();
                std::mem::swap(&mut parts.extensions, &mut request.parts.extensions);
                parts
            },
            (),
        ));
        task::spawn("tunnel", async move {
            let upgraded = upgrade.await.unwrap();
            time::sleep(Duration::from_secs(1000)).await;
            let (mut io, read_ahead) = {
                let parts = upgraded.downcast::<Io<DuplexStream>>().ok().unwrap();
                (parts.io, parts.read_buf)
            };
            assert_eq!(read_ahead, "early");
            io.stream_mut().write_all(b"late").await.unwrap();
        });
        let mut response = empty();
        *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("upgrade"));
        response
    });
    served
        .send("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nearly")
        .await;
    assert!(served.head().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(served.rest().await, "late");
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_that_is_refused_ends_like_any_other_request() {
    let body = Bytes::from(vec![b'x'; 50_000]);
    let answer = body.clone();
    let mut served = Served::with_pipe(Settings::default(), Protocol::H1, 4096, move |_| {
        let mut response = Response::new(Body::full(answer.clone()));
        response.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("close"));
        async { response }
    });
    served
        .send(
            "POST / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\
             content-length: 900000\r\n\r\n",
        )
        .await;
    // By now hyper is done with reading, and has most of the answer still to write.
    time::sleep(Duration::from_secs(10)).await;
    assert!(served.head().await.starts_with("HTTP/1.1 200"));
    let mut read = vec![0; body.len()];
    served.client.read_exact(&mut read).await.unwrap();
    assert_eq!(read, body);
    // And what the client still sends is taken, as after every early answer.
    served.send(vec![b'x'; 900_000]).await;
    assert_eq!(served.rest().await, "");
}

// --- parking

/// Notes how much was asked for at the last read, and that it was aborted.
struct Probe {
    inner: DuplexStream,
    asked: Arc<AtomicUsize>,
    aborted: Arc<AtomicUsize>,
}

impl Abort for Probe {
    fn abort(&mut self) {
        self.aborted.fetch_add(1, Ordering::Relaxed);
    }
}

impl Post for Probe {}

impl AsyncRead for Probe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.asked.store(buf.remaining(), Ordering::Relaxed);
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Probe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_holds_no_buffers_of_hyper() {
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let asked = Arc::new(AtomicUsize::new(0));
    let served = serve(
        Probe { inner: server, asked: asked.clone(), aborted: Arc::default() },
        Protocol::H1,
        peer(),
        Arc::new(Settings::default()),
        Arc::new(Answers {
            called: AtomicUsize::new(0),
            answer: Box::new(|request| no_content(request).boxed()),
        }),
        Connections::new(),
        Outcomes::new(&Metrics::new().thread(), "web"),
    );
    let size = size_of_val(&served);
    assert!(size <= 704, "{size} bytes");
    let task = task::spawn("served", served);
    let mut head = [0; 4096];
    for _ in 0..2 {
        tokio::task::yield_now().await;
        assert!(asked.load(Ordering::Relaxed) <= 4096, "no byte has come");
        client.write_all(GET.as_bytes()).await.unwrap();
        assert!(client.read(&mut head).await.unwrap() > 0);
        time::sleep(Duration::from_millis(900)).await;
        assert!(asked.load(Ordering::Relaxed) > 4096, "more requests may follow");
        time::sleep(Duration::from_millis(200)).await;
        assert!(asked.load(Ordering::Relaxed) <= 4096, "parked");
    }
    drop(client);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn parking_loses_nothing_of_a_head_that_has_begun() {
    // What came with the request before it, when, and what the client gets.
    for split in 1..GET.len() {
        let mut served = h1();
        served.send([GET, &GET[..split]].concat()).await;
        assert!(served.head().await.starts_with("HTTP/1.1 200"));
        time::sleep(Duration::from_secs(5)).await;
        served.send(&GET[split..]).await;
        assert!(served.head().await.starts_with("HTTP/1.1 200"));
        assert_eq!(served.called(), 2);
    }
    // It is under the header timeout then.
    let mut served = h1();
    served.send([GET, "GET"].concat()).await;
    served.head().await;
    let started = Instant::now();
    assert!(served.rest().await.starts_with("HTTP/1.1 408 "));
    assert_eq!(started.elapsed().as_secs(), 11);
}

#[tokio::test(start_paused = true)]
async fn parking_keeps_the_count_and_the_ends_of_a_connection() {
    let settings = Settings { requests_per_connection: 3, ..Settings::default() };
    let mut served = Served::new(settings, Protocol::Either, no_content);
    for last in [false, false, true] {
        served.send(GET).await;
        assert_eq!(served.head().await.contains("connection: close"), last);
        time::sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(served.rest().await, "");

    let parked = async || {
        let mut served = h1();
        served.send(GET).await;
        served.head().await;
        time::sleep(Duration::from_secs(2)).await;
        served
    };
    let started = async |mut served: Served| {
        let started = Instant::now();
        assert_eq!(served.rest().await, "");
        started.elapsed()
    };
    let mut half_closed = parked().await;
    half_closed.client.shutdown().await.unwrap();
    assert_eq!(started(half_closed).await, Duration::ZERO);
    let drained = parked().await;
    drained.connections.drain();
    assert_eq!(started(drained).await, Duration::ZERO);
    let shed = parked().await;
    assert!(shed.connections.close_oldest_idle("web"));
    assert_eq!(started(shed).await, Duration::ZERO);
    let forgotten = parked().await;
    assert_eq!(started(forgotten).await, Duration::from_secs(73));
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_still_being_written_is_not_parked() {
    let mut served = Served::with_pipe(Settings::default(), Protocol::H1, 1024, |_| async {
        Response::new(Body::full(vec![b'x'; 50_000]))
    });
    for _ in 0..2 {
        served.send(GET).await;
        time::sleep(Duration::from_secs(30)).await;
        assert!(served.head().await.starts_with("HTTP/1.1 200"));
        served.client.read_exact(&mut vec![0; 50_000]).await.unwrap();
    }
}

// --- what hyper decides itself

/// Sends `head` and gives all that comes back; `called` is how many requests were called.
async fn exchange(head: &str) -> (String, usize, Outcomes) {
    exchange_with(Settings::default(), head).await
}

async fn exchange_with(settings: Settings, head: &str) -> (String, usize, Outcomes) {
    let mut served = Served::with_pipe(settings, Protocol::H1, 256 * 1024, no_content);
    served.send(head).await;
    let _half = served.client.shutdown().await;
    let answer = timeout(Duration::from_mins(1), served.rest()).await.unwrap();
    (answer, served.called(), served.outcomes.clone())
}

#[tokio::test(start_paused = true)]
async fn hyper_answers_malformed_heads_with_400_and_they_are_counted() {
    for head in [
        "GET\r\n\r\n",
        "GE(T / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.2\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n folded: b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nno-colon\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxy",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\nx",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let (answer, called, outcomes) = exchange(head).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.0 400 "),
            "{head:?} -> {answer:?}"
        );
        assert_eq!(called, 0, "{head:?}");
        assert_eq!(outcomes.bad_framing.get(), 1, "{head:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn hyper_answers_large_heads_with_431_or_414_and_they_are_counted() {
    let large = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(33 * 1024));
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(100));
    for (head, status) in [(large, 431), (many, 431)] {
        let (answer, called, outcomes) = exchange(&head).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer:?}");
        assert_eq!((called, outcomes.header_too_large.get()), (0, 1));
    }
    // hyper's own bound of a target lies above our default for the whole head.
    let settings = Settings { header_bytes: 128 * 1024, ..Settings::default() };
    let long = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(70_000));
    let (answer, called, outcomes) = exchange_with(settings, &long).await;
    assert!(answer.starts_with("HTTP/1.1 414 "), "{answer:?}");
    assert_eq!((called, outcomes.header_too_large.get()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn hyper_repairs_lone_line_feeds_length_beside_chunked_and_equal_lengths() {
    async fn describe(request: Request) -> Response {
        let lengths = request.parts.headers.get_all(http::header::CONTENT_LENGTH).iter().count();
        let body = request.body.collect().await.unwrap().to_bytes();
        Response::new(Body::full(format!("{lengths} {}", String::from_utf8_lossy(&body))))
    }
    for (head, expected, closes) in [
        ("POST / HTTP/1.1\nhost: a\ncontent-length: 2\n\nhi", "1 hi", false),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n\
             2\r\nhi\r\n0\r\n\r\n",
            "0 hi",
            true,
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nhi",
            "1 hi",
            false,
        ),
    ] {
        let mut served = Served::new(Settings::default(), Protocol::H1, describe);
        served.send(head).await;
        let answer = served.head().await;
        let mut body = vec![0; expected.len()];
        served.client.read_exact(&mut body).await.unwrap();
        assert_eq!(String::from_utf8(body).unwrap(), expected, "{head:?}");
        assert_eq!(answer.contains("connection: close"), closes, "{head:?} -> {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_are_answered_in_order() {
    let mut served = Served::new(Settings::default(), Protocol::H1, |request| async move {
        let mut response = empty();
        let path = request.parts.uri.path().parse().unwrap();
        response.headers_mut().insert("x-path", path);
        response
    });
    served.send("GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(served.head().await.contains("x-path: /1"));
    assert!(served.head().await.contains("x-path: /2"));
}

// --- HTTP/2

type H2Client = h2::client::SendRequest<Bytes>;

/// Speaks h2 with `served`.
async fn h2_client(client: DuplexStream) -> (H2Client, JoinHandle<Result<(), h2::Error>>) {
    let (sender, connection) = h2::client::handshake(client).await.unwrap();
    (sender, task::spawn("h2 client", connection))
}

fn get() -> http::Request<()> {
    let mut request = http::Request::new(());
    *request.uri_mut() = "http://a/".parse().unwrap();
    request.headers_mut().remove(HOST);
    request
}

#[tokio::test(start_paused = true)]
async fn prior_knowledge_and_http1_share_a_plain_listener() {
    let served = Served::new(Settings::default(), Protocol::Either, |request| async move {
        let mut response = empty();
        assert_eq!(request.parts.version, http::Version::HTTP_2);
        response.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("close"));
        response
    });
    let (mut sender, _task) = h2_client(served.client).await;
    let response = sender.send_request(get(), true).unwrap().0.await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key(CONNECTION), "h2 has no connection fields");

    let mut served = Served::new(Settings::default(), Protocol::Either, no_content);
    served.send("PUT / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(served.head().await.starts_with("HTTP/1.1 200"));
}

// It speaks neither protocol, and HTTP/1.1 is the one with an answer that anybody can read.
#[tokio::test(start_paused = true)]
async fn a_wrong_h2_preface_is_a_malformed_http1_head() {
    for preface in ["INVALID CONNECTION PREFACE\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n"] {
        let mut served = Served::new(Settings::default(), Protocol::Either, no_content);
        served.send(preface).await;
        let answer = served.rest().await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{preface:?} -> {answer:?}");
        assert!(answer.contains("connection: close\r\n"), "{preface:?} -> {answer:?}");
        assert_eq!((served.called(), served.outcomes.bad_framing.get()), (0, 1), "{preface:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_h2_connection_gets_goaway_and_is_closed() {
    let served = Served::new(Settings::default(), Protocol::H2, no_content);
    let (mut sender, task) = h2_client(served.client).await;
    sender.send_request(get(), true).unwrap().0.await.unwrap();
    let started = Instant::now();
    task.await.unwrap().unwrap();
    assert_eq!(started.elapsed().as_secs(), 75);
}

#[tokio::test(start_paused = true)]
async fn a_drain_sends_goaway_and_lets_streams_finish() {
    let served = Served::new(Settings::default(), Protocol::H2, |_| async {
        time::sleep(Duration::from_secs(20)).await;
        empty()
    });
    let (mut sender, task) = h2_client(served.client).await;
    let response = sender.send_request(get(), true).unwrap().0;
    time::sleep(Duration::from_secs(1)).await;
    served.connections.drain();
    assert_eq!(response.await.unwrap().status(), 200);
    task.await.unwrap().unwrap();
    served.connections.drained().await;
}

#[tokio::test(start_paused = true)]
async fn a_body_reset_without_an_error_is_a_client_that_left() {
    let (bodies, mut body) = tokio::sync::mpsc::channel(1);
    let served = Served::new(Settings::default(), Protocol::H2, move |request: Request| {
        bodies.try_send(request.body).unwrap();
        std::future::pending()
    });
    let (mut sender, _task) = h2_client(served.client).await;
    let (_response, mut stream) = sender.send_request(get(), false).unwrap();
    stream.send_data(Bytes::from_static(b"half"), false).unwrap();
    let mut body = body.recv().await.unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
    stream.send_reset(h2::Reason::NO_ERROR);
    let error = body.frame().await.expect("not the end").unwrap_err();
    assert_eq!(error.kind().reason(), "client-closed");
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_what_h2_has_still_to_write() {
    let served = Served::new(Settings::default(), Protocol::H2, |_| async {
        Response::new(Body::full(vec![b'x'; 100_000]))
    });
    let (mut sender, _task) = h2_client(served.client).await;
    let mut body = sender.send_request(get(), true).unwrap().0.await.unwrap().into_body();
    served.connections.drain();
    // The stream's window holds 65,535 bytes; hyper has handed over the rest long ago.
    time::sleep(Duration::from_secs(20)).await;
    let mut read = 0;
    while let Some(data) = body.data().await {
        let count = data.unwrap().len();
        read += count;
        body.flow_control().release_capacity(count).unwrap();
    }
    assert_eq!(read, 100_000);
}

#[tokio::test(start_paused = true)]
async fn too_many_reset_streams_close_the_connection() {
    let settings = Settings { max_resets: 30, ..Settings::default() };
    let served = Served::new(settings, Protocol::H2, never);
    let (mut sender, task) = h2_client(served.client).await;
    for _ in 0..40 {
        let Ok(ready) = sender.ready().await else { break };
        sender = ready;
        let Ok((response, mut stream)) = sender.send_request(get(), true) else { break };
        time::sleep(Duration::from_millis(10)).await;
        stream.send_reset(h2::Reason::CANCEL);
        drop(response);
        time::sleep(Duration::from_millis(10)).await;
    }
    let _ended = task.await.unwrap();
    served.task.await.unwrap();
    assert_eq!(served.outcomes.resets.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_left_unread_resets_its_stream_only() {
    let served = Served::new(Settings::default(), Protocol::H2, |request| async move {
        let size = if request.parts.uri.path() == "/large" { 1024 * 1024 } else { 1 };
        let chunks = vec![Bytes::from(vec![b'x'; 16 * 1024]); size / (16 * 1024) + 1];
        let frames = chunks.into_iter().map(|chunk| Ok(http_body::Frame::data(chunk)));
        Response::new(Body::boxed(http_body_util::StreamBody::new(futures_util::stream::iter(
            frames,
        ))))
    });
    let (mut sender, _task) = h2_client(served.client).await;
    let mut large = get();
    *large.uri_mut() = "http://a/large".parse().unwrap();
    let mut unread = sender.send_request(large, true).unwrap().0.await.unwrap().into_body();
    let started = Instant::now();
    let reset = loop {
        match unread.data().await.unwrap() {
            Ok(_without_release) => {}
            Err(error) => break error,
        }
    };
    assert!(reset.is_reset(), "{reset:?}");
    assert!((60..=62).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert_eq!(served.outcomes.send_idle.get(), 1);
    assert_eq!(sender.send_request(get(), true).unwrap().0.await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_response_in_one_piece_that_is_read_slowly_comes_whole() {
    let served = Served::new(Settings::default(), Protocol::H2, |_| async {
        Response::new(Body::full(vec![b'x'; 1024 * 1024]))
    });
    let (mut sender, _task) = h2_client(served.client).await;
    let mut body = sender.send_request(get(), true).unwrap().0.await.unwrap().into_body();
    let (started, mut read) = (Instant::now(), 0);
    while let Some(data) = body.data().await {
        let data = data.unwrap_or_else(|error| panic!("{error} after {read} bytes"));
        read += data.len();
        time::sleep(Duration::from_secs(2)).await;
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    assert_eq!(read, 1024 * 1024);
    assert!(started.elapsed() > Duration::from_mins(2), "{:?}", started.elapsed());
    assert_eq!(served.outcomes.send_idle.get(), 0);
}

// --- pure parts

#[test]
fn what_is_spoken_follows_alpn_or_the_listener() {
    let plain = peer();
    let tls = |is_h2| Peer {
        tls: Some(crate::http::peer::Tls { is_h2, ..Default::default() }),
        ..Peer::new("web".into(), Address::Unix, Address::Unix)
    };
    assert_eq!(Protocol::of(&plain, true, false), Protocol::H1);
    assert_eq!(Protocol::of(&plain, false, true), Protocol::H2);
    assert_eq!(Protocol::of(&plain, true, true), Protocol::Either);
    assert_eq!(Protocol::of(&tls(true), true, true), Protocol::H2);
    assert_eq!(Protocol::of(&tls(false), true, true), Protocol::H1);
    assert_eq!(Protocol::of(&tls(false), false, true), Protocol::H2);
}
