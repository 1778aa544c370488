//! How long after its append an event is on the wire of a live tail: a whole gateway, over sockets, on
//! the disk that `SLUICE_BENCH_DIR` is on (default: `target`).
//!
//! `cargo bench --bench tail [-- SECONDS]`
//!
//! Publishers send one event after the other on connections of their own, at a pace; every tail receives
//! all of them. `append` is from the answer to the publisher (the event is on disk then) to its receipt
//! by a tail; `publish` from before it was sent; `answer` is what publishers wait. In milliseconds, over all
//! tails: p50 and p99.

#![expect(clippy::print_stdout, reason = "it reports to whoever runs it")]

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use sluicegate::{
    config,
    gateway::{Gateway, Options},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, MissedTickBehavior, interval},
};

/// Publishers, events a second of all of them, tails.
const LINES: [(u64, u64, usize); 6] =
    [(1, 100, 0), (1, 100, 1), (16, 2_000, 0), (16, 2_000, 1), (16, 2_000, 8), (16, 2_000, 32)];
/// Bytes of an event's data.
const DATA: usize = 400;

/// What is known of each event, by number: nanoseconds since the start, 0 is not yet.
struct Ledger {
    start: Instant,
    sent: Vec<AtomicU64>,
    answered: Vec<AtomicU64>,
}

fn main() {
    let seconds = std::env::args().skip(1).find_map(|it| it.parse().ok()).unwrap_or(5);
    let root = std::env::var_os("SLUICE_BENCH_DIR").unwrap_or_else(|| "target".into());
    let root = Path::new(&root).join(format!("bench-tail-{}", std::process::id()));
    fs::create_dir_all(&root).expect("a directory");
    let root = root.canonicalize().expect("a path");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    println!("tail: {seconds} s a line, events of {DATA} bytes, ms");
    println!(
        "{:>10} {:>8} {:>5} {:>8} | {:>9} {:>9} {:>9} | {:>11} {:>11} | {:>9} {:>9}",
        "publishers",
        "events/s",
        "tails",
        "received",
        "append50",
        "append99",
        "max",
        "publish50",
        "publish99",
        "answer50",
        "answer99"
    );
    for (number, line) in LINES.into_iter().enumerate() {
        let gateway = start(&root.join(number.to_string()));
        runtime.block_on(measure(&gateway, line, seconds));
        gateway.stop();
    }
    fs::remove_dir_all(&root).expect("the directory goes");
}

fn start(folder: &Path) -> Gateway {
    let text = format!(
        "workers: 1\n\
         listeners: [{{ name: web, address: 127.0.0.1:0 }}]\n\
         admin: {{ address: 127.0.0.1:0 }}\n\
         telemetry: {{ access_log: {{ path: off }} }}\n\
         queue: {{ dir: \"{}\", disk: {{ low_water: 0%, min_free: 64MiB }} }}\n\
         topics: {{ bench: {{}} }}\n\
         upstreams: {{ own: {{ endpoints: [127.0.0.1:1] }} }}\n\
         routes:\n\
         - {{ name: all, match: {{ path: \"/\" }}, respond: {{ status: 204 }},\n\
         \x20   publish: {{ topic: bench, type: bench, mode: before, data: request }} }}\n",
        folder.display()
    );
    match config::parse(&text, "bench.yaml", Path::new("."), &|_| None) {
        Ok((config, _)) => Gateway::start(config, Options::default()).expect("it starts"),
        Err(problems) => panic!("{problems}"),
    }
}

async fn measure(gateway: &Gateway, (publishers, rate, tails): (u64, u64, usize), seconds: u64) {
    let count = rate * seconds;
    let times = || (0..count).map(|_| AtomicU64::new(0)).collect();
    let ledger = Arc::new(Ledger { start: Instant::now(), sent: times(), answered: times() });
    let mut receiving = tokio::task::JoinSet::new();
    for _ in 0..tails {
        let socket = open(gateway.admin_address(), "/v1/topics/bench/stream").await;
        receiving.spawn(receive(socket, ledger.clone()));
    }
    let address = gateway.listener_address("web").expect("a listener");
    let mut publishing = tokio::task::JoinSet::new();
    for publisher in 0..publishers {
        publishing.spawn(publish(address, (publisher, publishers, rate), ledger.clone()));
    }
    publishing.join_all().await;
    let received = receiving.join_all().await;
    let since = |times: &[AtomicU64]| {
        let all = received.iter().flat_map(|received| received.iter().zip(times));
        sorted(
            all.filter(|(at, _)| **at > 0).map(|(at, time)| at.saturating_sub(time.load(Relaxed))),
        )
    };
    let (append, publish) = (since(&ledger.answered), since(&ledger.sent));
    let answers = ledger.answered.iter().zip(&ledger.sent);
    let answer = sorted(answers.map(|(at, sent)| at.load(Relaxed) - sent.load(Relaxed)));
    println!(
        "{publishers:>10} {rate:>8} {tails:>5} {:>8} | {:>9.2} {:>9.2} {:>9.2} | {:>11.2} {:>11.2} | {:>9.2} {:>9.2}",
        append.len(),
        at(&append, 0.5),
        at(&append, 0.99),
        at(&append, 1.0),
        at(&publish, 0.5),
        at(&publish, 0.99),
        at(&answer, 0.5),
        at(&answer, 0.99),
    );
}

/// A stream that has begun.
async fn open(address: SocketAddr, path: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.expect("a connection");
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.expect("a request");
    let mut text = Vec::new();
    while !text.windows(6).any(|six| six == b"retry:") {
        let count = socket.read_buf(&mut text).await.expect("an answer");
        assert!(count > 0, "{}", String::from_utf8_lossy(&text));
    }
    assert!(text.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&text));
    socket
}

/// When each event came, until all have.
async fn receive(mut socket: TcpStream, ledger: Arc<Ledger>) -> Vec<u64> {
    let mut received = vec![0; ledger.sent.len()];
    let (mut text, mut left) = (Vec::with_capacity(1 << 20), received.len());
    while left > 0 {
        if socket.read_buf(&mut text).await.expect("the stream") == 0 {
            break;
        }
        let now = ledger.nanos();
        // Whole lines; the framing of chunks is between messages or far from the number.
        let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole = String::from_utf8_lossy(&text[..end]).into_owned();
        text.drain(..end);
        for part in whole.split("\"number\":").skip(1) {
            let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
            let place = digits.parse().ok().and_then(|number: usize| received.get_mut(number));
            if let Some(place) = place.filter(|place| **place == 0) {
                *place = now;
                left -= 1;
            }
        }
    }
    received
}

/// Sends its share of the events, each when it is its turn or as soon as the one before is answered.
async fn publish(
    address: SocketAddr,
    (own, publishers, rate): (u64, u64, u64),
    ledger: Arc<Ledger>,
) {
    let mut socket = TcpStream::connect(address).await.expect("a connection");
    socket.set_nodelay(true).expect("a socket");
    let mut turns = interval(
        Duration::from_secs(1) * u32::try_from(publishers).unwrap_or(1)
            / u32::try_from(rate).unwrap_or(1),
    );
    turns.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut answer = vec![0; 4096];
    for number in (own..ledger.sent.len() as u64).step_by(usize::try_from(publishers).unwrap_or(1))
    {
        turns.tick().await;
        let body = format!("{{\"number\":{number},\"more\":\"{}\"}}", "x".repeat(DATA));
        let head = format!(
            "POST / HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let index = usize::try_from(number).unwrap_or(0);
        ledger.sent[index].store(ledger.nanos(), Relaxed);
        socket.write_all(head.as_bytes()).await.expect("a request");
        let count = socket.read(&mut answer).await.expect("an answer");
        ledger.answered[index].store(ledger.nanos(), Relaxed);
        let told = &answer[..count];
        assert!(told.starts_with(b"HTTP/1.1 204"), "{}", String::from_utf8_lossy(told));
    }
}

// === impl Ledger ===

impl Ledger {
    /// Since the start, never 0.
    fn nanos(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
    }
}

fn sorted(nanos: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut all: Vec<u64> = nanos.collect();
    all.sort_unstable();
    all
}

/// In milliseconds, of sorted nanoseconds.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
fn at(sorted: &[u64], share: f64) -> f64 {
    let index = ((sorted.len().saturating_sub(1)) as f64 * share) as usize;
    sorted.get(index).map_or(f64::NAN, |nanos| *nanos as f64 / 1e6)
}
