//! The durable log through its Rust API, on the disk that `SLUICE_BENCH_DIR` is on (default: `target`).
//!
//! `cargo bench --bench queue [-- publish | append | read | open | memory]`
//!
//! - `publish`: durable events a second and their latency, for 1 to 256 concurrent publishers that
//!   publish as fast as they can, and for 256 that publish 50,000 a second together, beside the latency
//!   of a bare write and sync on that disk in the same run.
//! - `append`: CPU time of an event when nothing is synced.
//! - `read`: records a second from the page cache.
//! - `open`: opening a log of 1 GiB in one file without CHECKPOINT.
//! - `memory`: resident bytes before and after a backlog.

#![expect(clippy::print_stdout, reason = "it reports to whoever runs it")]

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use sluicegate::events::queue::{
    LogId, Offset, StoreId,
    codec::{Draft, Fields, Kind},
    log::{
        DiskSettings, DiskWatch, Durability, Log, Opened, Place, Plain, Purpose, Settings, Writer,
    },
    storage::{Real, Storage},
    time::SystemClock,
};
use tokio::{runtime::Runtime, sync::Semaphore, time::Instant};
use uuid::Uuid;

/// How long each line is measured.
const SPAN: Duration = Duration::from_secs(3);
/// Events a second of the paced line: the goal.
const PACE: u32 = 50_000;

struct Bench {
    root: PathBuf,
    writer: Writer,
    runtime: Runtime,
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|it| !it.starts_with('-')).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|it| it == name);
    let root = std::env::var_os("SLUICE_BENCH_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let bench = Bench {
        root: root.join(format!("bench-queue-{}", std::process::id())),
        writer: Writer::spawn("writer", Arc::new(SystemClock)).expect("a thread"),
        runtime: tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime"),
    };
    if is_wanted("publish") {
        bench.publish();
    }
    if is_wanted("append") {
        bench.append();
    }
    if is_wanted("read") {
        bench.read();
    }
    if is_wanted("open") {
        bench.open_large();
    }
    if is_wanted("memory") {
        bench.memory();
    }
    bench.writer.stop();
    if bench.root.exists() {
        fs::remove_dir_all(&bench.root).expect("the directory goes");
    }
}

impl Bench {
    fn open(&self, name: &str, settings: &Settings) -> (Log, Opened) {
        let storage: Arc<dyn Storage> = Arc::new(Real::open(&self.root).expect("a directory"));
        let disk = DiskSettings { low_water: 0.0, min_free: 0, reserve: 0 };
        let place = Place {
            disk: Arc::new(DiskWatch::new(storage.clone(), disk)),
            storage,
            dir: PathBuf::from(name),
            store: StoreId(Uuid::from_u128(1)),
            id: LogId(Uuid::from_u128(2)),
        };
        Log::open(&self.writer, place, settings, Offset::ZERO, Box::new(Plain)).expect("a log")
    }

    fn remove(&self, log: &Log, name: &str) {
        log.close();
        fs::remove_dir_all(self.root.join(name)).expect("the directory goes");
    }

    fn publish(&self) {
        println!("publish: durable, {} s a line", SPAN.as_secs());
        println!(
            "{:>10} {:>9} {:>10} {:>9} {:>9} {:>9} | {:>8} {:>8} | {:>7} {:>8} {:>6}",
            "publishers",
            "bytes",
            "events/s",
            "p50 ms",
            "p99 ms",
            "max ms",
            "sync p50",
            "sync p99",
            "commit",
            "cpu us/e",
            "ratio"
        );
        for size in [512, 16 << 10] {
            for publishers in [1, 16, 64, 256] {
                self.publish_line(publishers, size, None);
            }
        }
        self.publish_line(256, 512, Some(PACE));
    }

    fn publish_line(&self, publishers: u32, size: usize, pace: Option<u32>) {
        let sync = self.bare_sync();
        let (log, _) = self.open("publish", &Settings::default());
        let cpu = cpu_time();
        let since = Instant::now();
        let mut latencies = self.runtime.block_on(publish_for(&log, publishers, size, pace, SPAN));
        let seconds = since.elapsed().as_secs_f64();
        let cpu = cpu_time().saturating_sub(cpu);
        latencies.sort_unstable();
        let events = latencies.len() as f64;
        let commits = log.gauges().commit_events.count() as f64;
        println!(
            "{publishers:>10} {size:>9} {:>10.0} {:>9.2} {:>9.2} {:>9.2} | {:>8.2} {:>8.2} | {:>7.1} {:>8.2} {:>6.2}{}",
            events / seconds,
            millis(at(&latencies, 0.5)),
            millis(at(&latencies, 0.99)),
            millis(at(&latencies, 1.0)),
            millis(at(&sync, 0.5)),
            millis(at(&sync, 0.99)),
            events / commits,
            cpu.as_secs_f64() * 1e6 / events,
            at(&latencies, 0.99) as f64 / at(&sync, 0.99) as f64,
            pace.map(|pace| format!("  at {pace}/s")).unwrap_or_default(),
        );
        self.remove(&log, "publish");
    }

    /// One write of 4 KiB and its sync after the other, in a file with room: microseconds, sorted.
    fn bare_sync(&self) -> Vec<u64> {
        let storage = Real::open(&self.root).expect("a directory");
        let path = Path::new("bare");
        let file = storage.create(path).expect("a file");
        file.allocate(64 << 20).expect("room");
        file.sync().expect("a sync");
        storage.sync_dir(Path::new("")).expect("a sync");
        let mut spans = Vec::new();
        let started = Instant::now();
        for n in 0..(64 << 20) / 4096 {
            if started.elapsed() > SPAN / 3 {
                break;
            }
            let since = Instant::now();
            file.write_at(&[7; 4096], n * 4096).expect("a write");
            file.sync().expect("a sync");
            spans.push(micros(since));
        }
        storage.remove(path).expect("the file goes");
        spans.sort_unstable();
        spans
    }

    fn append(&self) {
        let settings = Settings { durability: Durability::Memory, ..Settings::default() };
        for (drafts, publishers) in [(1, 256), (100, 8)] {
            let (log, _) = self.open("append", &settings);
            let cpu = cpu_time();
            let events = self.runtime.block_on(append_for(&log, publishers, drafts, SPAN));
            let cpu = cpu_time().saturating_sub(cpu);
            println!(
                "append: 512 B, no sync, {publishers} publishers, {drafts} at once: {:.2} us CPU an event, {:.0} events/s",
                cpu.as_secs_f64() * 1e6 / events as f64,
                events as f64 / SPAN.as_secs_f64()
            );
            self.remove(&log, "append");
        }
    }

    fn read(&self) {
        let settings = Settings { durability: Durability::Memory, ..Settings::default() };
        let (log, _) = self.open("read", &settings);
        self.runtime.block_on(append_for(&log, 8, 100, SPAN));
        let (mut reader, mut from, mut bytes, mut events) = (log.reader(), Offset::ZERO, 0, 0_u64);
        let since = Instant::now();
        loop {
            let block = reader.read(from, 1 << 20).expect("a block");
            if block.is_empty() {
                break;
            }
            for (_, record) in block.records() {
                bytes += record.body().len();
                events += 1;
            }
            from = block.next();
        }
        let span = since.elapsed().as_secs_f64();
        println!(
            "read: {events} events, {bytes} bytes, {:.3} us an event, {:.0} MB/s",
            span * 1e6 / events as f64,
            bytes as f64 / span / 1e6
        );
        self.remove(&log, "read");
    }

    fn open_large(&self) {
        let settings =
            Settings { segment_bytes: 1100 << 20, max_bytes: Some(1 << 30), ..Settings::default() };
        let (log, _) = self.open("open", &settings);
        let draft = draft(512);
        let bytes = draft.encoded_bytes() as u64 * 1000;
        let mut last = None;
        while let Ok(permit) = log.permit(bytes) {
            last = Some(log.append(permit, vec![draft.clone(); 1000]));
            if log.status().bytes > 1 << 30 {
                break;
            }
            if let Some(commit) = last.take() {
                commit.wait().expect("an append");
            }
        }
        drop(last);
        log.close();
        fs::remove_file(self.root.join("open/CHECKPOINT")).expect("CHECKPOINT goes");
        let (log, opened) = self.open("open", &settings);
        println!(
            "open: {} MiB in one file without CHECKPOINT: {:.2} s, {} records, {} copied forward",
            log.status().bytes >> 20,
            opened.took.as_secs_f64(),
            opened.end,
            opened.copied
        );
        self.remove(&log, "open");
    }

    fn memory(&self) {
        let (log, _) = self.open("memory", &Settings::default());
        self.runtime.block_on(append_for(&log, 8, 100, Duration::from_secs(1)));
        let before = resident();
        self.runtime.block_on(append_for(&log, 8, 100, SPAN * 4));
        println!(
            "memory: {} MiB resident at first, {} MiB with a backlog of {} events",
            before >> 20,
            resident() >> 20,
            log.durable()
        );
        self.remove(&log, "memory");
    }
}

/// Each publisher publishes one event after the other; with a pace, when it is its turn. Latencies in
/// microseconds, from when the turn came: an event that finds all publishers busy has waited.
async fn publish_for(
    log: &Log,
    publishers: u32,
    size: usize,
    pace: Option<u32>,
    span: Duration,
) -> Vec<u64> {
    let is_over = Arc::new(AtomicBool::new(false));
    let turns = pace.map(|pace| Turns::start(pace, span));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..publishers {
        let (log, is_over, turns) = (log.clone(), is_over.clone(), turns.clone());
        tasks.spawn(async move {
            let draft = draft(size);
            let bytes = draft.encoded_bytes() as u64;
            let mut latencies = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let since = match &turns {
                    Some(turns) => turns.next().await,
                    None => Some(Instant::now()),
                };
                let Some(since) = since else { break };
                let permit = log.permit_for(Purpose::Publish, bytes).expect("room");
                log.append(permit, vec![draft.clone()]).await.expect("an append");
                latencies.push(micros(since));
            }
            latencies
        });
    }
    tokio::time::sleep(span).await;
    is_over.store(true, Ordering::Relaxed);
    tasks.join_all().await.into_iter().flatten().collect()
}

/// Lets so many go a second, evenly.
#[derive(Clone)]
struct Turns {
    came: Arc<Mutex<VecDeque<Instant>>>,
    there: Arc<Semaphore>,
}

impl Turns {
    fn start(pace: u32, span: Duration) -> Self {
        let turns = Self { came: Arc::default(), there: Arc::new(Semaphore::new(0)) };
        let giver = turns.clone();
        // A thread of its own: tokio's timers ring once a millisecond, and then for fifty at once.
        thread::spawn(move || {
            let started = Instant::now();
            let mut given = 0;
            while started.elapsed() < span {
                let now = Instant::now();
                let due = (now - started).as_secs_f64() * f64::from(pace);
                while f64::from(given) < due {
                    giver.came.lock().push_back(now);
                    giver.there.add_permits(1);
                    given += 1;
                }
                thread::sleep(Duration::from_micros(50));
            }
            giver.there.close();
        });
        turns
    }

    /// When the turn came; `None`: there are no more.
    async fn next(&self) -> Option<Instant> {
        self.there.acquire().await.ok()?.forget();
        self.came.lock().pop_front()
    }
}

/// As many events of 512 bytes as go, several at once.
async fn append_for(log: &Log, publishers: usize, drafts: usize, span: Duration) -> u64 {
    let is_over = Arc::new(AtomicBool::new(false));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..publishers {
        let (log, is_over) = (log.clone(), is_over.clone());
        tasks.spawn(async move {
            let draft = draft(512);
            let bytes = (draft.encoded_bytes() * drafts) as u64;
            let mut events = 0;
            while !is_over.load(Ordering::Relaxed) {
                let permit = log.permit(bytes).expect("room");
                log.append(permit, vec![draft.clone(); drafts]).await.expect("an append");
                events += drafts as u64;
            }
            events
        });
    }
    tokio::time::sleep(span).await;
    is_over.store(true, Ordering::Relaxed);
    tasks.join_all().await.into_iter().sum()
}

fn draft(size: usize) -> Draft {
    let fields =
        Fields::builder().id("0193b3a0-0000-7000-8000-000000000000").source("/bench").build();
    Draft::new(Kind::Event, fields, Bytes::from(vec![7; size]))
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1e3
}

/// Of sorted values.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
fn at(sorted: &[u64], share: f64) -> u64 {
    let index = ((sorted.len().saturating_sub(1)) as f64 * share) as usize;
    sorted.get(index).copied().unwrap_or(0)
}

/// CPU time of this process, as far as ticks of 10 ms tell.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = after.split(' ').skip(11).take(2).filter_map(|it| it.parse::<u64>().ok());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|it| it.parse::<u64>().ok()).unwrap_or(0) * 4096
}
