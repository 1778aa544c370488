//! Semantics 4 under chance: origins that fail in every way they can, and count.
//!
//! `SLUICE_CAMPAIGN=100000 cargo test --test it retry_campaign -- --nocapture` goes on until the origins
//! have failed so often; by default it is a few seconds' worth.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use crate::harness::{Message, Running, killed::rounds};

const METHODS: [&str; 8] = ["GET", "POST", "PUT", "PATCH", "DELETE", "POST", "HEAD", "PROPFIND"];
const ATTEMPTS: usize = 3;
const CLIENTS: usize = 32;

/// What the origins saw and did.
#[derive(Clone, Default)]
struct Ledger(Arc<Seen>);

#[derive(Default)]
struct Seen {
    /// How often each request's target was read.
    targets: Mutex<HashMap<String, usize>>,
    /// How often an origin failed.
    failures: AtomicUsize,
}

/// What the clients were told.
#[derive(Default)]
struct Told {
    safe: Mutex<HashMap<u16, usize>>,
    not_safe: Mutex<HashMap<u16, usize>>,
    broken: AtomicUsize,
}

impl Ledger {
    fn see(&self, target: &str) {
        *self.0.targets.lock().entry(target.to_owned()).or_default() += 1;
    }

    /// An origin fails; which counts.
    fn fail(&self) {
        self.0.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether to fail here.
    fn fails(&self, percent: u8) -> bool {
        let fails = chance(percent);
        if fails {
            self.fail();
        }
        fails
    }

    fn failures(&self) -> usize {
        self.0.failures.load(Ordering::Relaxed)
    }
}

fn is_safe(method: &str) -> bool {
    !matches!(method, "POST" | "PATCH" | "PROPFIND")
}

fn chance(percent: u8) -> bool {
    fastrand::u8(..100) < percent
}

/// Closes with RST or FIN, as it happens.
fn close(stream: &TcpStream) {
    if chance(50) {
        stream.set_zero_linger().unwrap();
    }
}

async fn listen<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// HTTP/1.1 in every way to fail: before, within and after the request, within and after the answer.
async fn fail_h1(mut stream: TcpStream, ledger: Ledger) {
    if ledger.fails(3) {
        return close(&stream);
    }
    let mut buffer = Vec::new();
    loop {
        if ledger.fails(5) {
            // Some bytes of the request, which count if they name it.
            let mut some = vec![0; fastrand::usize(1..200)];
            let read = stream.read(&mut some).await.unwrap_or(0);
            buffer.extend_from_slice(&some[..read]);
            let text = String::from_utf8_lossy(&buffer).into_owned();
            if let Some((target, _)) = text.split_once(' ').and_then(|(_, it)| it.split_once(' ')) {
                ledger.see(target);
            }
            return close(&stream);
        }
        let Some(request) = Message::read_request(&mut stream, &mut buffer).await else { return };
        ledger.see(request.target());
        let body = if request.line.starts_with("HEAD ") { "" } else { "hello" };
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{body}");
        let fate = fastrand::u8(..100);
        if fate < 15 {
            ledger.fail();
        }
        match fate {
            0..4 => return close(&stream),
            4..8 => {
                let some = fastrand::usize(1..answer.len());
                drop(stream.write_all(&answer.as_bytes()[..some]).await);
                return close(&stream);
            }
            8..12 => {
                let busy = "HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy";
                let length = if body.is_empty() { busy.len() - 4 } else { busy.len() };
                if stream.write_all(&busy.as_bytes()[..length]).await.is_err() {
                    return;
                }
            }
            12..14 => {
                drop(stream.write_all(b"SSH-2.0-nonsense\r\n\r\n").await);
                return close(&stream);
            }
            14..15 => {
                sleep(Duration::from_millis(400)).await;
                return close(&stream);
            }
            _ => {
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
                if fate < 25 {
                    // Some time after the answer: as likely as not just when the next comes.
                    sleep(Duration::from_micros(fastrand::u64(..2000))).await;
                    return close(&stream);
                }
            }
        }
    }
}

/// HTTP/2: streams refused, reset and left, connections that say goodbye and connections that do not.
async fn fail_h2(stream: TcpStream, ledger: Ledger) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        if ledger.fails(5) {
            // Refused: this origin vouches that it did nothing.
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            continue;
        }
        ledger.see(request.uri().path());
        if ledger.fails(2) {
            return;
        }
        if chance(2) {
            connection.graceful_shutdown();
        }
        if ledger.fails(1) {
            connection.abrupt_shutdown(h2::Reason::INTERNAL_ERROR);
        }
        let ledger = ledger.clone();
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(Ok(data)) = body.data().await {
                drop(body.flow_control().release_capacity(data.len()));
            }
            let reasons =
                [h2::Reason::CANCEL, h2::Reason::PROTOCOL_ERROR, h2::Reason::INTERNAL_ERROR];
            let fate = fastrand::u8(..100);
            if fate < 13 {
                ledger.fail();
            }
            match fate {
                0..5 => respond.send_reset(reasons[fastrand::usize(..reasons.len())]),
                5..10 => {
                    let head = http::Response::builder().status(503).body(()).unwrap();
                    drop(respond.send_response(head, true));
                }
                10..13 => {
                    if let Ok(mut body) = respond.send_response(http::Response::new(()), false) {
                        body.send_reset(reasons[fastrand::usize(..reasons.len())]);
                    }
                }
                _ => {
                    if let Ok(mut body) = respond.send_response(http::Response::new(()), false) {
                        drop(body.send_data(Bytes::from_static(b"hello"), true));
                    }
                }
            }
        });
    }
}

/// A request on a connection of the client's; `None` when the connection is of no more use.
async fn ask(
    stream: &mut TcpStream,
    (method, target): (&str, &str),
    got: &mut Vec<u8>,
) -> Option<(Message, bool)> {
    let body = if matches!(method, "POST" | "PUT" | "PATCH") { "order" } else { "" };
    let framing = match (body.len(), chance(50)) {
        (0, _) => String::new(),
        (length, true) => format!("Content-Length: {length}\r\n"),
        (_, false) => "Transfer-Encoding: chunked\r\n".to_owned(),
    };
    let body = if framing.starts_with('T') {
        format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
    } else {
        body.to_owned()
    };
    let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{framing}\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    if chance(20) {
        tokio::task::yield_now().await;
    }
    stream.write_all(body.as_bytes()).await.ok()?;
    let answer = Message::read_response(stream, got, method).await?;
    let closes = answer.field("connection").is_some_and(|value| value == "close");
    let goes_on = answer.is_complete && !closes;
    Some((answer, goes_on))
}

/// Sends requests until it is over; `ids`: how many there were.
async fn client(
    gateway: SocketAddr,
    ids: Arc<AtomicUsize>,
    is_over: impl Fn(usize) -> bool,
    told: Arc<Told>,
) {
    let mut stream = None;
    loop {
        let id = ids.fetch_add(1, Ordering::Relaxed);
        if is_over(id) {
            return;
        }
        let method = METHODS[fastrand::usize(..METHODS.len())];
        let route = if chance(60) { "h1" } else { "h2" };
        let target = format!("/{route}/{method}/{id}");
        let mut connection = match stream.take() {
            Some(stream) => stream,
            None => TcpStream::connect(gateway).await.unwrap(),
        };
        let mut got = Vec::new();
        let asking = ask(&mut connection, (method, &target), &mut got);
        let answered = tokio::time::timeout(Duration::from_secs(20), asking).await;
        let Ok(answered) = answered else {
            panic!("{method} {target}: 20 s, but {:?}", String::from_utf8_lossy(&got));
        };
        let Some((answer, goes_on)) = answered else {
            told.broken.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let counts = if is_safe(method) { &told.safe } else { &told.not_safe };
        *counts.lock().entry(answer.status()).or_default() += 1;
        stream = goes_on.then_some(connection);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_unsafe_is_seen_twice() {
    let ledger = Ledger::default();
    let mut origins = Vec::new();
    for _ in 0..3 {
        let ledger = ledger.clone();
        origins.push(listen(move |stream| fail_h1(stream, ledger.clone())).await);
    }
    // One where nothing listens.
    origins.push(TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap());
    let h2 = {
        let ledger = ledger.clone();
        [
            listen({
                let ledger = ledger.clone();
                move |stream| fail_h2(stream, ledger.clone())
            })
            .await,
            listen(move |stream| fail_h2(stream, ledger.clone())).await,
        ]
    };
    let budget = "retry_budget: { ratio: 100%, min_per_second: 1000000 }";
    let retry = format!(
        "retry: {{ attempts: {ATTEMPTS}, per_attempt_timeout: 200ms, on: [connect, reset, 502, 503] }}"
    );
    let yaml = format!(
        "upstreams:\n\
         \x20 h1: {{ endpoints: {origins:?}, balance: round_robin, {budget} }}\n\
         \x20 h2: {{ endpoints: {h2:?}, protocol: h2, balance: round_robin, {budget} }}\n\
         routes:\n\
         \x20 - {{ name: h1, match: {{ path: \"/h1/{{*rest}}\" }}, upstream: h1, {retry} }}\n\
         \x20 - {{ name: h2, match: {{ path: \"/h2/{{*rest}}\" }}, upstream: h2, {retry} }}\n"
    );
    let yaml = quoted(&yaml, origins.iter().chain(&h2));
    let gateway = Running::start(&yaml);
    let failures = usize::try_from(rounds(500)).unwrap();
    let (ids, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(Told::default()));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let ledger = ledger.clone();
            let is_over = move |_| ledger.failures() >= failures;
            tokio::spawn(client(gateway.address(), ids.clone(), is_over, told.clone()))
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    judge(&ledger, &told);
}

/// What the origins saw beside what the clients were told.
#[expect(clippy::print_stdout, reason = "what a campaign shows is its numbers")]
fn judge(ledger: &Ledger, told: &Told) {
    let answers = |counts: &Mutex<HashMap<u16, usize>>| counts.lock().values().sum::<usize>();
    let broken = told.broken.load(Ordering::Relaxed);
    let total = answers(&told.safe) + answers(&told.not_safe) + broken;
    let seen = ledger.0.targets.lock().clone();
    let (mut most, mut twice, mut retried) = (0, Vec::new(), 0);
    for (target, times) in seen {
        let method = target.split('/').nth(2).unwrap_or_default();
        if is_safe(method) {
            most = most.max(times);
            retried += times - 1;
        } else if times > 1 {
            twice.push((target, times));
        }
    }
    println!(
        "{} failures in {total} requests: safe {:?}, seen again {retried} times, at most {most} times \
         one; unsafe {:?}, seen twice {}; {broken} answers broken off",
        ledger.failures(),
        sorted(&told.safe),
        sorted(&told.not_safe),
        twice.len(),
    );
    assert!(twice.is_empty(), "sent twice: {twice:?}");
    assert!(most <= ATTEMPTS, "an attempt too many");
    assert!(retried > total / 100, "nothing was tried again: this shows nothing");
    let answered: usize = told.not_safe.lock().get(&502).copied().unwrap_or(0);
    assert!(answered > total / 100, "nothing unsafe failed: this shows nothing");
}

/// The addresses in `yaml`, quoted.
fn quoted<'a>(yaml: &str, addresses: impl Iterator<Item = &'a SocketAddr>) -> String {
    addresses.fold(yaml.to_owned(), |yaml, address| {
        yaml.replace(&address.to_string(), &format!("\"{address}\""))
    })
}

fn sorted(counts: &Mutex<HashMap<u16, usize>>) -> Vec<(u16, usize)> {
    let mut counts: Vec<_> = counts.lock().iter().map(|(status, n)| (*status, *n)).collect();
    counts.sort_unstable();
    counts
}

/// An origin that closes kept-alive connections just as they are used again: no safe request fails
/// for it, and of the others only what crossed the FIN, which is told and counted as what it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keep_alive_races_cost_no_safe_request_an_error() {
    let ledger = Ledger::default();
    let origin = {
        let ledger = ledger.clone();
        listen(move |mut stream| {
            let ledger = ledger.clone();
            async move {
                let mut buffer = Vec::new();
                while let Some(request) = Message::read_request(&mut stream, &mut buffer).await {
                    ledger.see(request.target());
                    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
                    let length =
                        answer.len() - if request.line.starts_with("HEAD ") { 5 } else { 0 };
                    if stream.write_all(&answer.as_bytes()[..length]).await.is_err() {
                        return;
                    }
                    if chance(50) {
                        sleep(Duration::from_micros(fastrand::u64(..1500))).await;
                        return close(&stream);
                    }
                }
            }
        })
        .await
    };
    let gateway = Running::start(&format!(
        "upstreams: {{ origin: {{ endpoints: [\"{origin}\"], retry_budget: {{ ratio: 100% }} }} }}\n\
         routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: origin, retry: {{ attempts: 10, on: [reset] }} }}]\n"
    ));
    let total = usize::try_from(rounds(1_000)).unwrap();
    let (ids, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(Told::default()));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let is_over = move |id| id >= total;
            tokio::spawn(client(gateway.address(), ids.clone(), is_over, told.clone()))
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let races = gateway.metric("sluice_pool_races_total{upstream=\"origin\"}").await;
    println!(
        "{total} requests: safe {:?}, unsafe {:?}, {races} races",
        sorted(&told.safe),
        sorted(&told.not_safe)
    );
    assert_eq!(told.broken.load(Ordering::Relaxed), 0, "a connection was closed without a word");
    let safe = sorted(&told.safe);
    assert!(matches!(safe.as_slice(), [(200, _)]), "{safe:?}");
    let not_safe = sorted(&told.not_safe);
    assert!(not_safe.iter().all(|(status, _)| matches!(status, 200 | 502)), "{not_safe:?}");
    let failed = told.not_safe.lock().get(&502).copied().unwrap_or(0);
    let counted = gateway.metric("sluice_refusals_total{reason=\"upstream-closed-idle\"}").await;
    assert!((counted - failed as f64).abs() < f64::EPSILON, "{failed} failed, {counted} counted");
    for (target, times) in ledger.0.targets.lock().iter() {
        let method = target.split('/').nth(2).unwrap_or_default();
        assert!(is_safe(method) || *times <= 1, "{target} was sent {times} times");
    }
}
