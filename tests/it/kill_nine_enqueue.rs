//! `kill -9` of the program between receipt and 202 of requests that it stores, with a ledger outside:
//! what clients were told, and what is there afterwards.
//!
//! Half of the clients send each order three times at once under one key, and again after the kill, the
//! others once. On real files and on files that lose what was not synced. `SLUICE_CAMPAIGN` is the number
//! of kills, 5 without it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::json;

use crate::kill_nine::{Connection, Program};

/// Clients with a key, and as many without.
const CLIENTS: u64 = 2;

const YAML: &str = "\
listeners: [{ name: web, address: 127.0.0.1:0 }]
admin: { address: 127.0.0.1:0 }
telemetry: { access_log: { path: off } }
queue: { dir: data, disk: { low_water: 0%, min_free: 8MiB, reserve: 4MiB } }
topics: { intake: { partitions: 2, dedup: { window: 1h } } }
subscriptions: [{ name: audit, topic: intake, from: earliest, order: none }]
routes:
  - name: intake
    match: { path: /orders }
    enqueue: { topic: intake, key: \"json:/order\" }
";

/// Orders by name: where each that was answered 202 is to be asked for; none: it was not answered.
type Ledger = BTreeMap<String, Option<String>>;

/// Sends an order so often at once. Its ID, if one of the answers was a 202, and whether there was an answer
/// at all.
fn send(web: SocketAddr, order: &str, times: usize) -> (Option<String>, bool) {
    let body = json!({ "order": order }).to_string();
    let fields =
        if times > 1 { format!("Idempotency-Key: \"{order}\"\r\n") } else { String::new() };
    let post = || Connection(web).ask_with("POST", "/orders", &fields, &body);
    let answers: Vec<_> = thread::scope(|scope| {
        let all: Vec<_> = (0..times).map(|_| scope.spawn(post)).collect();
        all.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let accepted = answers.iter().flatten().filter(|(status, _)| *status == 202);
    let mut ids: Vec<_> =
        accepted.map(|(_, body)| body["id"].as_str().unwrap().to_owned()).collect();
    ids.dedup();
    assert!(ids.len() <= 1, "{order} is one request, and is told as {ids:?}");
    (ids.pop(), answers.iter().any(Option::is_some))
}

/// Orders of one client until the program is dead.
fn order(
    web: SocketAddr,
    client: u64,
    first: u64,
    again: Option<String>,
    ended: &AtomicBool,
) -> Vec<(String, Option<String>)> {
    let times = if client.is_multiple_of(2) { 3 } else { 1 };
    let mut sent = Vec::new();
    let fresh = (first..).map(|number| format!("{client}-{number}"));
    // What nobody answered is only sent again with a key.
    for order in again.filter(|_| times > 1).into_iter().chain(fresh) {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        let (id, is_alive) = send(web, &order, times);
        sent.push((order, id));
        if !is_alive {
            break;
        }
    }
    sent
}

fn live(program: Program, ledger: &mut Ledger, life: u64, span: Duration) {
    let ended = Arc::new(AtomicBool::new(false));
    let web = program.web;
    let clients: Vec<_> = (0..2 * CLIENTS)
        .map(|client| {
            let ended = ended.clone();
            let prefix = format!("{client}-");
            let unanswered = |(order, id): &(&String, &Option<String>)| {
                order.starts_with(&prefix) && id.is_none()
            };
            let again =
                ledger.iter().filter(unanswered).map(|(order, _)| order.clone()).next_back();
            thread::spawn(move || order(web, client, life * 100_000, again, &ended))
        })
        .collect();
    thread::sleep(span);
    drop(program);
    ended.store(true, Ordering::Relaxed);
    for client in clients {
        for (order, id) in client.join().unwrap() {
            let known = ledger.entry(order).or_default();
            *known = id.or(known.take());
        }
    }
}

/// How often each order is stored.
fn audit(admin: SocketAddr) -> BTreeMap<String, usize> {
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    let connection = Connection(admin);
    loop {
        let asked = r#"{"max_events":500,"wait_ms":500,"lease_ms":60000}"#;
        let receive = "/v1/subscriptions/audit/receive";
        let (status, answer) = connection.ask("POST", receive, asked).unwrap();
        if status == 204 {
            return found;
        }
        let events = answer["events"].as_array().cloned().unwrap_or_default();
        for event in &events {
            let order = event["event"]["data"]["order"].as_str().unwrap().to_owned();
            *found.entry(order).or_default() += 1;
        }
        let tokens: Vec<_> = events.iter().map(|event| event["lease"]["token"].clone()).collect();
        let asked = json!({ "tokens": tokens }).to_string();
        assert_eq!(connection.ask("POST", "/v1/subscriptions/audit/ack", &asked).unwrap().0, 200);
    }
}

#[expect(clippy::print_stdout, reason = "what a campaign came to is for whoever ran it")]
fn campaign(storage: &str) {
    let kills = std::env::var("SLUICE_CAMPAIGN").ok().and_then(|it| it.parse().ok()).unwrap_or(5);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gateway.yaml"), YAML).unwrap();
    let (ledger, found, asked) = lives(folder.path(), storage, kills);
    let accepted = ledger.iter().filter(|(_, id)| id.is_some());
    let of = |order: &String| found.get(order).copied().unwrap_or_default();
    let lost: Vec<_> = accepted.clone().filter(|(order, _)| of(order) != 1).collect();
    let twice: Vec<_> = found.iter().filter(|(_, count)| **count > 1).collect();
    let made_up: Vec<_> = found.keys().filter(|order| !ledger.contains_key(*order)).collect();
    let unknown: Vec<_> = asked.iter().filter(|(_, status)| *status != 200).collect();
    println!(
        "{storage}: {kills} kills, {} orders, {} answered 202, {} stored; lost {}, twice {}, made up {}, \
         unknown by their ID {} of {}",
        ledger.len(),
        accepted.count(),
        found.len(),
        lost.len(),
        twice.len(),
        made_up.len(),
        unknown.len(),
        asked.len(),
    );
    assert!(ledger.values().any(Option::is_some));
    assert!(lost.is_empty(), "a 202 without its one request: {lost:?}");
    assert!(twice.is_empty(), "stored more than once: {twice:?}");
    assert!(made_up.is_empty(), "nobody has sent it: {made_up:?}");
    assert!(unknown.is_empty(), "a 202 whose place does not know it: {unknown:?}");
}

type Audited = (Ledger, BTreeMap<String, usize>, Vec<(String, u16)>);

fn lives(folder: &Path, storage: &str, kills: u64) -> Audited {
    let mut ledger = Ledger::default();
    for life in 0..kills {
        let program = Program::start(folder, storage);
        live(program, &mut ledger, life, Duration::from_millis(fastrand::u64(100..500)));
    }
    let program = Program::start(folder, storage);
    let ask = |(order, id): (&String, &Option<String>)| {
        let path = format!("/.sluice/requests/{}", id.as_ref()?);
        Some((order.clone(), Connection(program.web).ask("GET", &path, "")?.0))
    };
    let mut asked: Vec<_> = ledger.iter().filter(|(_, id)| id.is_some()).collect();
    fastrand::shuffle(&mut asked);
    let asked = asked.into_iter().take(300).filter_map(ask).collect();
    let found = audit(program.admin);
    drop(program);
    (ledger, found, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_202_has_its_request_after_a_kill_on_real_files() {
    tokio::task::spawn_blocking(|| campaign("real")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_202_has_its_request_after_a_kill_where_unsynced_bytes_are_lost() {
    tokio::task::spawn_blocking(|| campaign("lossy")).await.unwrap();
}
