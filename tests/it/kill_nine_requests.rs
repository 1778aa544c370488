//! `kill -9` of the program between receipt and answer of requests that publish, with a ledger outside:
//! what clients were told, what the upstream has done, and which events there are.
//!
//! Half of the clients send each order three times at once with one idempotency key, and again after the
//! kill; the others send each once, without a key. On real files and on files that lose what was not
//! synced. `SLUICE_CAMPAIGN` is the number of kills, 5 without it.

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

use serde_json::{Value, json};

use crate::{
    harness::{Origin, Reply, origin},
    kill_nine::{Connection, Program},
};

/// Clients with a key, and as many without.
const CLIENTS: u64 = 2;

fn yaml(upstream: SocketAddr) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0 }}]\n\
         admin: {{ address: 127.0.0.1:0 }}\n\
         telemetry: {{ access_log: {{ path: off }} }}\n\
         queue: {{ dir: data, disk: {{ low_water: 0%, min_free: 8MiB, reserve: 4MiB }} }}\n\
         topics: {{ orders: {{ partitions: 2, dedup: {{ window: 1s }} }} }}\n\
         subscriptions: [{{ name: audit, topic: orders, from: earliest, order: none }}]\n\
         upstreams: {{ shop: {{ endpoints: [\"{upstream}\"] }} }}\n\
         routes:\n\
         \x20 - name: keyed\n\
         \x20   match: {{ path: /keyed }}\n\
         \x20   upstream: shop\n\
         \x20   idempotency: {{ required: true }}\n\
         \x20   publish: {{ topic: orders, type: order.created, key: \"json:/order\" }}\n\
         \x20 - name: plain\n\
         \x20   match: {{ path: /plain }}\n\
         \x20   upstream: shop\n\
         \x20   publish: {{ topic: orders, type: order.created, key: \"json:/order\" }}\n"
    )
}

/// What the outside knows of orders, by their name.
#[derive(Debug, Default)]
struct Ledger {
    /// Sent, and whether a 2xx came back.
    orders: BTreeMap<String, bool>,
}

/// Sends an order so often at once. Whether one of the answers was a 2xx; none: the program died.
fn send(web: SocketAddr, order: &str, times: usize) -> Option<bool> {
    let path = if times > 1 { "/keyed" } else { "/plain" };
    let body = json!({ "order": order }).to_string();
    let fields = format!("Idempotency-Key: \"{order}\"\r\n");
    let post = || Connection(web).ask_with("POST", path, &fields, &body);
    let answers: Vec<_> = thread::scope(|scope| {
        let all: Vec<_> = (0..times).map(|_| scope.spawn(post)).collect();
        all.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let is_done = answers.iter().flatten().any(|(status, _)| *status / 100 == 2);
    let died = answers.iter().all(Option::is_none);
    if died { None } else { Some(is_done) }
}

/// Orders of one client until the program is dead: each with whether it was answered 2xx.
fn order(
    web: SocketAddr,
    client: u64,
    first: u64,
    again: Option<String>,
    ended: &AtomicBool,
) -> Vec<(String, bool)> {
    let times = if client.is_multiple_of(2) { 3 } else { 1 };
    let mut sent = Vec::new();
    let fresh = (first..).map(|number| format!("{client}-{number}"));
    // What nobody answered is only sent again with a key.
    for order in again.filter(|_| times > 1).into_iter().chain(fresh) {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        let outcome = send(web, &order, times);
        sent.push((order, outcome == Some(true)));
        if outcome.is_none() {
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
            let unanswered =
                |(order, is_done): &(&String, &bool)| order.starts_with(&prefix) && !**is_done;
            let again =
                ledger.orders.iter().filter(unanswered).map(|(order, _)| order.clone()).next_back();
            thread::spawn(move || order(web, client, life * 100_000, again, &ended))
        })
        .collect();
    thread::sleep(span);
    drop(program);
    ended.store(true, Ordering::Relaxed);
    for client in clients {
        for (order, is_done) in client.join().unwrap() {
            *ledger.orders.entry(order).or_default() |= is_done;
        }
    }
}

/// Events by order: certain ones, and uncertain ones.
pub fn audit(admin: SocketAddr) -> BTreeMap<String, (usize, usize)> {
    let mut found: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let connection = Connection(admin);
    loop {
        let asked = r#"{"max_events":500,"wait_ms":1500,"lease_ms":60000}"#;
        let receive = "/v1/subscriptions/audit/receive";
        let (status, answer) = connection.ask("POST", receive, asked).unwrap();
        if status == 204 {
            return found;
        }
        let events = answer["events"].as_array().cloned().unwrap_or_default();
        for event in &events {
            let order = event["event"]["data"]["order"].as_str().unwrap().to_owned();
            let (certain, uncertain) = found.entry(order).or_default();
            match event["event"]["type"].as_str().unwrap() {
                "order.created" => *certain += 1,
                "order.created.uncertain" => *uncertain += 1,
                other => panic!("{other}"),
            }
        }
        let tokens: Vec<_> = events.iter().map(|event| event["lease"]["token"].clone()).collect();
        let asked = json!({ "tokens": tokens }).to_string();
        assert_eq!(connection.ask("POST", "/v1/subscriptions/audit/ack", &asked).unwrap().0, 200);
    }
}

#[expect(clippy::print_stdout, reason = "what a campaign came to is for whoever ran it")]
async fn campaign(storage: &'static str) {
    let kills = std::env::var("SLUICE_CAMPAIGN").ok().and_then(|it| it.parse().ok()).unwrap_or(5);
    let shop = Origin::start(|_, _| {
        Reply::After(Duration::from_millis(fastrand::u64(0..15)), origin::ok("done"))
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gateway.yaml"), yaml(shop.address())).unwrap();
    let path = folder.path().to_owned();
    let (ledger, found) =
        tokio::task::spawn_blocking(move || lives(&path, storage, kills)).await.unwrap();
    let mut effects: BTreeMap<String, usize> = BTreeMap::new();
    for request in shop.requests() {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        *effects.entry(body["order"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let of = |order: &String| found.get(order).copied().unwrap_or_default();
    let done = ledger.orders.iter().filter(|(_, is_done)| **is_done);
    let lost: Vec<_> = done.clone().filter(|(order, _)| of(order) != (1, 0)).collect();
    let silent: Vec<_> = effects.keys().filter(|order| of(order).0 + of(order).1 != 1).collect();
    let twice: Vec<_> = effects.iter().filter(|(_, count)| **count > 1).collect();
    let made_up: Vec<_> =
        found.iter().filter(|(order, it)| it.0 > 0 && !effects.contains_key(*order)).collect();
    let uncertain = found.values().filter(|it| it.1 > 0).count();
    println!(
        "{storage}: {kills} kills, {} orders, {} answered 2xx, {} done by the upstream, {uncertain} \
         uncertain; lost {}, silent {}, done twice {}, made up {}",
        ledger.orders.len(),
        done.count(),
        effects.len(),
        lost.len(),
        silent.len(),
        twice.len(),
        made_up.len(),
    );
    assert!(ledger.orders.values().any(|is_done| *is_done));
    assert!(lost.is_empty(), "a 2xx without its one event: {lost:?}");
    assert!(silent.is_empty(), "an effect without its one word: {silent:?}");
    assert!(twice.is_empty(), "more than one effect of a key: {twice:?}");
    assert!(made_up.is_empty(), "an event without an effect: {made_up:?}");
}

fn lives(folder: &Path, storage: &str, kills: u64) -> (Ledger, BTreeMap<String, (usize, usize)>) {
    let mut ledger = Ledger::default();
    for life in 0..kills {
        let program = Program::start(folder, storage);
        live(program, &mut ledger, life, Duration::from_millis(fastrand::u64(100..500)));
    }
    let program = Program::start(folder, storage);
    let found = audit(program.admin);
    drop(program);
    (ledger, found)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_effect_has_its_word_after_a_kill_on_real_files() {
    campaign("real").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_effect_has_its_word_after_a_kill_where_unsynced_bytes_are_lost() {
    campaign("lossy").await;
}
