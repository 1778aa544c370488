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
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use sluicegate::telemetry::clock;
use tokio::time::Instant;

use crate::harness::killed::{self, Connection, Program, STORE, rounds};

const PUBLISHERS: u64 = 4;

const YAML: &str = "\
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

/// An event by publisher and number.
type Name = (u64, u64);

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

/// Works until the program is killed.
type Client = Box<dyn FnOnce(&AtomicBool) -> Done + Send>;

/// What a client has come to.
enum Done {
    /// This publisher: the number it is to go on with, and what was acknowledged.
    Published(u64, (u64, Vec<(u64, Place)>)),
    /// Delivered in this order, and acknowledged.
    Consumed((Vec<Name>, BTreeSet<Name>)),
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
    let admin = program.admin;
    let publisher = |publisher: u64| -> Client {
        let first = ledger.sent.get(&publisher).copied().unwrap_or(0);
        Box::new(move |ended| Done::Published(publisher, publish(admin, publisher, first, ended)))
    };
    let consumer: Client = Box::new(move |ended| Done::Consumed(consume(admin, ended)));
    let clients: Vec<_> = (0..PUBLISHERS).map(publisher).chain([consumer]).collect();
    for done in killed::live(program, span, clients) {
        match done {
            Done::Published(publisher, (next, published)) => {
                ledger.sent.insert(publisher, next);
                let published = published.into_iter();
                ledger.published.extend(published.map(|(number, at)| ((publisher, number), at)));
            }
            Done::Consumed((delivered, acked)) => {
                for (publisher, number) in delivered {
                    let all = ledger.delivered.entry(publisher).or_default();
                    if !all.contains(&number) {
                        all.push(number);
                    }
                }
                ledger.acked.extend(acked);
            }
        }
    }
}

/// Everything there is: by event, each place it was found at.
fn audit(admin: SocketAddr) -> BTreeMap<Name, BTreeSet<Place>> {
    let mut found: BTreeMap<_, BTreeSet<Place>> = BTreeMap::new();
    loop {
        let events = Connection(admin).take("audit", 300);
        if events.is_empty() {
            return found;
        }
        for event in &events {
            found.entry(who(event)).or_default().insert(place(event));
        }
    }
}

#[expect(clippy::print_stdout, reason = "what a campaign came to is for whoever ran it")]
fn campaign(storage: &str) {
    let kills = rounds(50);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gateway.yaml"), format!("{STORE}{YAML}")).unwrap();
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
    std::fs::write(folder.path().join("gateway.yaml"), format!("{STORE}{YAML}")).unwrap();
    let (mut next, mut accepted) = (0, BTreeSet::new());
    for _ in 0..6 {
        let program = Program::start(folder.path(), storage);
        let span = Duration::from_millis(fastrand::u64(300..900));
        let admin = program.admin;
        let publisher = |ended: &AtomicBool| delay(admin, next, ended);
        let (number, more) = killed::live(program, span, [publisher]).remove(0);
        next = number;
        accepted.extend(more);
    }
    let program = Program::start(folder.path(), storage);
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    let until = Instant::now() + Duration::from_secs(30);
    while !accepted.iter().all(|id| found.contains_key(id)) && Instant::now() < until {
        for event in Connection(program.admin).take("late", 1000) {
            *found.entry(event["event"]["id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
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
