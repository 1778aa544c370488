//! `kill -9` of the program between receipt and 202 of requests that it stores, and while it delivers them,
//! with a ledger outside: what clients were told, what is stored, what the upstream has done, and what the
//! status of each says.
//!
//! On real files and on files that lose what was not synced. `SLUICE_CAMPAIGN` is the number of kills, 5
//! without it.

use std::{collections::BTreeMap, net::SocketAddr};

use serde_json::Value;

use crate::harness::{
    customers::{self, Ledger, Order, effects, shop},
    killed::{Connection, Program, STORE, rounds},
};

fn yaml(upstream: SocketAddr) -> String {
    format!(
        "{STORE}\
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

/// The ID of an order's request, if one of the answers was a 202.
fn id(order: &Order<'_>, answers: &[Option<(u16, Value)>]) -> Option<String> {
    let accepted = answers.iter().flatten().filter(|(status, _)| *status == 202);
    let mut ids: Vec<_> =
        accepted.map(|(_, body)| body["id"].as_str().unwrap().to_owned()).collect();
    ids.dedup();
    assert!(ids.len() <= 1, "{} is one request, and is told as {ids:?}", order.name);
    ids.pop()
}

/// How often each order is stored.
fn audit(admin: SocketAddr) -> BTreeMap<String, usize> {
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    loop {
        let events = Connection(admin).take("audit", 500);
        if events.is_empty() {
            return found;
        }
        for event in &events {
            let order = event["event"]["data"]["order"].as_str().unwrap().to_owned();
            *found.entry(order).or_default() += 1;
        }
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

/// How some of those that were answered 202 stand.
fn states(program: &Program, ledger: &Ledger<String>) -> Vec<(String, String)> {
    let accepted = ledger.iter().filter_map(|(order, id)| Some((order, id.as_deref()?)));
    let mut asked: Vec<_> = accepted.collect();
    fastrand::shuffle(&mut asked);
    let asked = asked.into_iter().take(300);
    asked.map(|(order, id)| (order.clone(), result(program.web, id))).collect()
}

#[expect(clippy::print_stdout, reason = "what a campaign came to is for whoever ran it")]
async fn campaign(storage: &'static str) {
    let kills = rounds(5);
    let shop = shop().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gateway.yaml"), yaml(shop.address())).unwrap();
    let path = folder.path().to_owned();
    let lives = move || {
        let (ledger, program) = customers::lives(&path, storage, kills, |_| "/orders", id);
        let states = states(&program, &ledger);
        let found = audit(program.admin);
        (ledger, states, found)
    };
    let (ledger, states, found) = tokio::task::spawn_blocking(lives).await.unwrap();
    let effects = effects(&shop.requests());
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
    assert!(uncertain <= usize::try_from(kills * 32).unwrap(), "only what was on its way");
    assert!(lost.is_empty(), "a 202 without its one request: {lost:?}");
    assert!(twice.is_empty(), "stored or done more than once: {twice:?}");
    assert!(made_up.is_empty(), "nobody has sent it: {made_up:?}");
    assert!(wrong.is_empty(), "told otherwise than it was: {wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_202_has_its_request_after_a_kill_on_real_files() {
    campaign("real").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_202_has_its_request_after_a_kill_where_unsynced_bytes_are_lost() {
    campaign("lossy").await;
}
