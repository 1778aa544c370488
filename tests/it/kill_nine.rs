//! `kill -9` of the program under load over HTTP, with a ledger outside of it.
//!
//! Publishers count up, each under a key of its own, and repeat after the kill what was not answered
//! before it. A consumer takes events in order by key and acknowledges them. Afterwards a subscription
//! that was never read gets everything from the beginning: what is there, and how often. On real files
//! and, with `SLUICE_TEST_STORAGE=lossy` in the program, on files that lose what was not synced.
//!
//! `SLUICE_CAMPAIGN` is the number of kills, 50 without it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use sluicegate::telemetry::clock;
use tokio::time::Instant;

const PUBLISHERS: u64 = 4;

const YAML: &str = "\
listeners: [{ name: web, address: 127.0.0.1:0 }]
admin: { address: 127.0.0.1:0 }
queue: { dir: data, disk: { low_water: 0%, min_free: 8MiB, reserve: 4MiB } }
topics:
  orders: { partitions: 4, retention: { max_age: 1d, max_bytes: 1GiB }, dedup: { window: 1h } }
  # No duplicates are found: what was moved is not moved again for another reason.
  late: { partitions: 1, dedup: { window: 0s } }
subscriptions:
  - { name: late, topic: late, from: earliest, order: none, lease: 60s }
  - { name: work, topic: orders, from: earliest, lease: 1s }
  - { name: audit, topic: orders, from: earliest, order: none }
routes: [{ name: a, match: { path: /a }, respond: { body: a } }]
";

/// The program, and what it says of itself.
pub struct Program {
    child: Killed,
    pub admin: SocketAddr,
    pub web: SocketAddr,
    opened: Duration,
}

/// Gets SIGKILL when it is dropped.
struct Killed(Child);

/// An event by publisher and number.
type Name = (u64, u64);

/// A listener, which is asked one thing on a connection.
pub struct Connection(pub SocketAddr);

/// Where an event is: partition and offset.
type Place = (u64, u64);

/// What the outside knows.
#[derive(Debug, Default)]
struct Ledger {
    /// By publisher and number.
    published: BTreeMap<Name, Place>,
    /// The newest number that was sent, by publisher.
    sent: BTreeMap<u64, u64>,
    acked: BTreeSet<Name>,
    /// First deliveries, by publisher, in their order.
    delivered: BTreeMap<u64, Vec<u64>>,
}

// === impl Program ===

impl Program {
    /// Starts it and waits until it is ready.
    pub fn start(folder: &Path, storage: &str) -> Self {
        let mut program = Command::new(env!("CARGO_BIN_EXE_sluice"));
        program.arg("run");
        Self::start_as(program, folder, storage)
    }

    /// As [`Program::start`]; a file that may not grow fails its writes, as a full disk does, instead of ending the
    /// program with a signal.
    pub fn start_where_files_are_limited(folder: &Path, storage: &str) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; exec \"$0\" run", env!("CARGO_BIN_EXE_sluice")]);
        Self::start_as(shell, folder, storage)
    }

    fn start_as(mut command: Command, folder: &Path, storage: &str) -> Self {
        let since = Instant::now();
        let child = command
            .current_dir(folder)
            .env("SLUICE_TEST_STORAGE", storage)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut child = Killed(child);
        let mut lines =
            BufReader::new(child.0.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut seen = Vec::new();
        let (admin, web) = loop {
            let Some(line) = lines.next() else { panic!("it ended: {seen:#?}") };
            let address = |what: &str| -> Option<SocketAddr> {
                let rest = line.split(what).nth(1)?;
                rest.split([',', ' ', '"']).next()?.parse().ok()
            };
            let both = address("admin on ").zip(address("web on "));
            if let Some(both) = both.filter(|_| line.contains("serving")) {
                break both;
            }
            seen.push(line);
        };
        // What else it says is read, so that it does not wait for a reader.
        thread::spawn(move || lines.for_each(drop));
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            let answer = Connection(admin).ask("GET", "/readyz", "");
            if answer.is_some_and(|(status, _)| status == 200) {
                return Self { child, admin, web, opened: since.elapsed() };
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("it is not ready");
    }

    /// Of its process.
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }
}

// === impl Killed ===

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().expect("it is ours");
        self.0.wait().expect("it is dead");
    }
}

// === impl Connection ===

impl Connection {
    /// Status and body; none: the program is dead.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
        self.ask_with(method, path, "", body)
    }

    /// As [`Connection::ask`], with these fields.
    pub fn ask_with(
        &self,
        method: &str,
        path: &str,
        fields: &str,
        body: &str,
    ) -> Option<(u16, Value)> {
        let kind = if path.ends_with("/events") { "cloudevents+json" } else { "json" };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/{kind}\r\n{fields}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(self.0).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut buffer = BufReader::new(stream);
        let mut line = String::new();
        buffer.read_line(&mut line).ok().filter(|count| *count > 0)?;
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let mut length = 0;
        loop {
            line.clear();
            buffer.read_line(&mut line).ok().filter(|count| *count > 0)?;
            if line == "\r\n" {
                break;
            }
            let (name, value) = line.split_once(':')?;
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        buffer.read_exact(&mut body).ok()?;
        Some((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }
}

fn publish(
    admin: SocketAddr,
    publisher: u64,
    first: u64,
    ended: &AtomicBool,
) -> (u64, Vec<(u64, Place)>) {
    let mut published = Vec::new();
    let mut number = first;
    let connection = Connection(admin);
    while !ended.load(Ordering::Relaxed) {
        let event = json!({
            "specversion": "1.0", "id": format!("{publisher}-{number}"), "source": "/kill", "type": "t",
            "partitionkey": publisher.to_string(), "data": { "pad": "x".repeat(usize::try_from(number % 400).unwrap()) },
        });
        let answer = connection.ask("POST", "/v1/topics/orders/events", &event.to_string());
        let Some((202, answer)) = answer else { break };
        let result = &answer["results"][0];
        published.push((
            number,
            (result["partition"].as_u64().unwrap(), result["offset"].as_u64().unwrap()),
        ));
        number += 1;
    }
    (number, published)
}

fn who(event: &Value) -> Name {
    let id = event["event"]["id"].as_str().unwrap();
    let (publisher, number) = id.split_once('-').unwrap();
    (publisher.parse().unwrap(), number.parse().unwrap())
}

fn place(event: &Value) -> Place {
    let lease = &event["lease"];
    (lease["partition"].as_u64().unwrap(), lease["offset"].as_u64().unwrap())
}

/// Events delivered, in order, and those whose acknowledgement was answered.
fn consume(admin: SocketAddr, ended: &AtomicBool) -> (Vec<Name>, BTreeSet<Name>) {
    let (mut delivered, mut acked) = (Vec::new(), BTreeSet::new());
    let connection = Connection(admin);
    while !ended.load(Ordering::Relaxed) {
        let asked = r#"{"max_events":20,"wait_ms":100}"#;
        let answer = connection.ask("POST", "/v1/subscriptions/work/receive", asked);
        let events = match answer {
            Some((200, answer)) => answer["events"].as_array().cloned().unwrap_or_default(),
            Some((204, _)) => continue,
            _ => break,
        };
        delivered.extend(events.iter().map(who));
        let tokens: Vec<_> = events.iter().map(|event| event["lease"]["token"].clone()).collect();
        let asked = json!({ "tokens": tokens }).to_string();
        let Some((200, answer)) = connection.ask("POST", "/v1/subscriptions/work/ack", &asked)
        else {
            break;
        };
        let results = answer["results"].as_array().cloned().unwrap_or_default();
        let settled = results.iter().zip(&events).filter(|(result, _)| result["status"] == "ok");
        acked.extend(settled.map(|(_, event)| who(event)));
    }
    (delivered, acked)
}

/// One life of the program.
fn live(program: Program, ledger: &mut Ledger, span: Duration) {
    let ended = Arc::new(AtomicBool::new(false));
    let admin = program.admin;
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let ended = ended.clone();
            let first = ledger.sent.get(&publisher).copied().unwrap_or(0);
            thread::spawn(move || (publisher, publish(admin, publisher, first, &ended)))
        })
        .collect();
    let consumer = {
        let ended = ended.clone();
        thread::spawn(move || consume(admin, &ended))
    };
    thread::sleep(span);
    drop(program);
    ended.store(true, Ordering::Relaxed);
    for publisher in publishers {
        let (publisher, (next, published)) = publisher.join().unwrap();
        ledger.sent.insert(publisher, next);
        for (number, place) in published {
            ledger.published.insert((publisher, number), place);
        }
    }
    let (delivered, acked) = consumer.join().unwrap();
    for (publisher, number) in delivered {
        let all = ledger.delivered.entry(publisher).or_default();
        if !all.contains(&number) {
            all.push(number);
        }
    }
    ledger.acked.extend(acked);
}

/// Everything there is: by event, each place it was found at.
fn audit(admin: SocketAddr) -> BTreeMap<Name, BTreeSet<Place>> {
    let mut found: BTreeMap<_, BTreeSet<Place>> = BTreeMap::new();
    let connection = Connection(admin);
    loop {
        let asked = r#"{"max_events":500,"wait_ms":300,"lease_ms":60000}"#;
        let (status, answer) =
            connection.ask("POST", "/v1/subscriptions/audit/receive", asked).unwrap();
        if status == 204 {
            return found;
        }
        assert_eq!(status, 200, "{answer}");
        let events = answer["events"].as_array().cloned().unwrap_or_default();
        for event in &events {
            found.entry(who(event)).or_default().insert(place(event));
        }
        let tokens: Vec<_> = events.iter().map(|event| event["lease"]["token"].clone()).collect();
        let asked = json!({ "tokens": tokens }).to_string();
        assert_eq!(connection.ask("POST", "/v1/subscriptions/audit/ack", &asked).unwrap().0, 200);
    }
}

#[expect(clippy::print_stdout, reason = "what a campaign came to is for whoever ran it")]
fn campaign(storage: &str) {
    let kills = std::env::var("SLUICE_CAMPAIGN").ok().and_then(|it| it.parse().ok()).unwrap_or(50);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gateway.yaml"), YAML).unwrap();
    let mut ledger = Ledger::default();
    let mut slowest = Duration::ZERO;
    for _ in 0..kills {
        let program = Program::start(folder.path(), storage);
        slowest = slowest.max(program.opened);
        live(program, &mut ledger, Duration::from_millis(fastrand::u64(50..600)));
    }
    let program = Program::start(folder.path(), storage);
    slowest = slowest.max(program.opened);
    let found = audit(program.admin);
    drop(program);
    let lost = ledger
        .published
        .iter()
        .filter(|(event, place)| found.get(*event).is_none_or(|places| !places.contains(*place)));
    let lost = lost.count();
    let twice = found.values().filter(|places| places.len() > 1).count();
    let mut at: BTreeMap<Place, u64> = BTreeMap::new();
    found.values().flatten().for_each(|place| *at.entry(*place).or_default() += 1);
    let shared = at.values().filter(|count| **count > 1).count();
    // In order by key, and no hole before an event that was delivered.
    let out_of_order = ledger
        .delivered
        .values()
        .filter(|all| !all.iter().copied().eq(0..all.len() as u64))
        .count();
    println!(
        "{storage}: {kills} kills, {} acknowledged, {} found, {lost} lost, {twice} twice, {shared} offsets \
         given twice, {} consumed, {out_of_order} out of order, ready within {slowest:?}",
        ledger.published.len(),
        found.len(),
        ledger.acked.len(),
    );
    assert!(!ledger.published.is_empty() && !ledger.acked.is_empty());
    assert_eq!((lost, twice, shared, out_of_order), (0, 0, 0, 0), "{ledger:?}");
}

/// Publishes events that are soon due until the program is killed; those that were accepted.
fn delay(admin: SocketAddr, first: u64, ended: &AtomicBool) -> (u64, BTreeSet<String>) {
    let mut accepted = BTreeSet::new();
    let mut number = first;
    while !ended.load(Ordering::Relaxed) {
        let id = number.to_string();
        number += 1;
        let due = clock::now() + Duration::from_millis(fastrand::u64(50..400));
        let event = json!({
            "specversion": "1.0", "id": id, "source": "/kill", "type": "t",
            "sluicenotbefore": clock::rfc3339(due),
        });
        let answer = Connection(admin).ask("POST", "/v1/topics/late/events", &event.to_string());
        let Some((202, answer)) = answer else { break };
        if answer["results"][0]["delayed"] == true {
            accepted.insert(id);
        }
    }
    (number, accepted)
}

/// Kills it while events wait, are moved and have been moved.
fn delayed_campaign(storage: &str) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gateway.yaml"), YAML).unwrap();
    let (mut next, mut accepted) = (0, BTreeSet::new());
    for _ in 0..6 {
        let program = Program::start(folder.path(), storage);
        let ended = Arc::new(AtomicBool::new(false));
        let publisher = {
            let (admin, ended) = (program.admin, ended.clone());
            thread::spawn(move || delay(admin, next, &ended))
        };
        thread::sleep(Duration::from_millis(fastrand::u64(300..900)));
        drop(program);
        ended.store(true, Ordering::Relaxed);
        let (number, more) = publisher.join().unwrap();
        next = number;
        accepted.extend(more);
    }
    let program = Program::start(folder.path(), storage);
    let connection = Connection(program.admin);
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    let until = Instant::now() + Duration::from_secs(30);
    while !accepted.iter().all(|id| found.contains_key(id)) && Instant::now() < until {
        let asked = r#"{"max_events":500,"wait_ms":1000}"#;
        let received = connection.ask("POST", "/v1/subscriptions/late/receive", asked);
        let (_, answer) = received.expect("it runs");
        let events = answer["events"].as_array().cloned().unwrap_or_default();
        for event in &events {
            *found.entry(event["event"]["id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        let tokens: Vec<_> = events.iter().map(|event| event["lease"]["token"].clone()).collect();
        let asked = json!({ "tokens": tokens }).to_string();
        let acked = connection.ask("POST", "/v1/subscriptions/late/ack", &asked);
        assert!(events.is_empty() || acked.is_some_and(|(status, _)| status == 200));
    }
    let lost: Vec<_> = accepted.iter().filter(|id| !found.contains_key(*id)).collect();
    let twice: Vec<_> = found.iter().filter(|(_, count)| **count > 1).collect();
    assert!(accepted.len() > 20, "{accepted:?}");
    assert!(lost.is_empty() && twice.is_empty(), "{storage}: lost {lost:?}, twice {twice:?}");
}

#[test]
fn what_waits_survives_a_killed_program_and_comes_once() {
    for storage in ["real", "lossy"] {
        delayed_campaign(storage);
    }
}

#[test]
fn a_killed_program_loses_nothing_on_real_files() {
    campaign("real");
}

#[test]
fn a_killed_program_loses_nothing_where_unsynced_bytes_are_lost() {
    campaign("lossy");
}
