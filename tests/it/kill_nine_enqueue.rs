//! `kill -9` of the program between receipt and 202 of requests that it stores, and while it delivers them,
//! with a ledger outside: what clients were told, what is stored, what the upstream has done, and what the
//! status of each says.
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
         topics: {{ intake: {{ partitions: 2, dedup: {{ window: 1h }} }} }}\n\
         upstreams: {{ shop: {{ endpoints: [\"{upstream}\"] }} }}\n\
         subscriptions:\n\
         \x20 - {{ name: audit, topic: intake, from: earliest, order: none }}\n\
         \x20 - {{ name: deliver, topic: intake, from: earliest, push: {{ upstream: shop }} }}\n\
         routes:\n\
         \x20 - name: intake\n\
         \x20   match: {{ path: /orders }}\n\
         \x20   enqueue: {{ topic: intake, key: \"json:/order\" }}\n"
    )
}

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

/// How a request stands once it is over.
fn result(web: SocketAddr, id: &str) -> String {
    let path = format!("/.sluice/requests/{id}?wait=20s");
    for _ in 0..5 {
        let (status, told) = Connection(web).ask("GET", &path, "").unwrap();
        assert_eq!(status, 200, "a 202 whose place does not know it: {told}");
        let state = told["state"].as_str().unwrap();
        if !matches!(state, "queued" | "running") {
            return state.to_owned();
        }
    }
    panic!("{id} is not over");
}

#[expect(clippy::print_stdout, reason = "what a campaign came to is for whoever ran it")]
async fn campaign(storage: &'static str) {
    let kills = std::env::var("SLUICE_CAMPAIGN").ok().and_then(|it| it.parse().ok()).unwrap_or(5);
    let shop = Origin::start(|_, _| {
        Reply::After(Duration::from_millis(fastrand::u64(0..5)), origin::ok("done"))
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gateway.yaml"), yaml(shop.address())).unwrap();
    let path = folder.path().to_owned();
    let Audited { ledger, found, states } =
        tokio::task::spawn_blocking(move || lives(&path, storage, kills)).await.unwrap();
    let mut effects: BTreeMap<String, usize> = BTreeMap::new();
    for request in shop.requests() {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        *effects.entry(body["order"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let accepted = ledger.iter().filter(|(_, id)| id.is_some());
    let of = |of: &BTreeMap<String, usize>, order: &String| of.get(order).copied().unwrap_or(0);
    let lost: Vec<_> = accepted.clone().filter(|(order, _)| of(&found, order) != 1).collect();
    let twice: Vec<_> = found.iter().chain(&effects).filter(|(_, count)| **count > 1).collect();
    let made_up: Vec<_> = found.keys().filter(|order| !ledger.contains_key(*order)).collect();
    let wrong: Vec<_> = states
        .iter()
        .filter(|(order, state)| {
            let done = of(&effects, order);
            // Of what is uncertain nobody knows: it was done once, or it was not.
            let is_right = match state.as_str() {
                "succeeded" => done == 1,
                "uncertain" => done <= 1,
                _ => false,
            };
            !is_right
        })
        .collect();
    let uncertain = states.iter().filter(|(_, state)| state == "uncertain").count();
    println!(
        "{storage}: {kills} kills, {} orders, {} answered 202, {} stored, {} done by the upstream, \
         {uncertain} of {} uncertain; lost {}, twice {}, made up {}, told wrong {}",
        ledger.len(),
        accepted.count(),
        found.len(),
        effects.len(),
        states.len(),
        lost.len(),
        twice.len(),
        made_up.len(),
        wrong.len(),
    );
    assert!(states.iter().any(|(_, state)| state == "succeeded"));
    assert!(lost.is_empty(), "a 202 without its one request: {lost:?}");
    assert!(twice.is_empty(), "stored or done more than once: {twice:?}");
    assert!(made_up.is_empty(), "nobody has sent it: {made_up:?}");
    assert!(wrong.is_empty(), "told otherwise than it was: {wrong:?}");
}

struct Audited {
    ledger: Ledger,
    /// How often each order is stored.
    found: BTreeMap<String, usize>,
    /// What the status says of some of those that were answered 202.
    states: Vec<(String, String)>,
}

fn lives(folder: &Path, storage: &str, kills: u64) -> Audited {
    let mut ledger = Ledger::default();
    for life in 0..kills {
        let program = Program::start(folder, storage);
        live(program, &mut ledger, life, Duration::from_millis(fastrand::u64(100..500)));
    }
    let program = Program::start(folder, storage);
    let mut asked: Vec<_> = ledger.iter().filter(|(_, id)| id.is_some()).collect();
    fastrand::shuffle(&mut asked);
    let asked = asked.into_iter().take(300);
    let states = asked
        .map(|(order, id)| (order.clone(), result(program.web, id.as_deref().unwrap_or_default())));
    let states = states.collect();
    let found = audit(program.admin);
    drop(program);
    Audited { ledger, found, states }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_202_has_its_request_after_a_kill_on_real_files() {
    campaign("real").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_202_has_its_request_after_a_kill_where_unsynced_bytes_are_lost() {
    campaign("lossy").await;
}
