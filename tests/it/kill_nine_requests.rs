//! `kill -9` of the program between receipt and answer of requests that publish, with a ledger outside:
//! what clients were told, what the upstream has done, and which events there are.
//!
//! On real files and on files that lose what was not synced. `SLUICE_CAMPAIGN` is the number of kills, 5
//! without it.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::harness::{
    customers::{self, effects, shop},
    killed::{Connection, STORE, rounds},
};

fn yaml(upstream: SocketAddr) -> String {
    format!(
        "{STORE}\
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

/// Events by order: certain ones, and uncertain ones.
pub fn audit(admin: SocketAddr) -> BTreeMap<String, (usize, usize)> {
    let mut found: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    loop {
        let events = Connection(admin).take("audit", 1500);
        if events.is_empty() {
            return found;
        }
        for event in &events {
            let order = event["event"]["data"]["order"].as_str().unwrap().to_owned();
            let (certain, uncertain) = found.entry(order).or_default();
            match event["event"]["type"].as_str().unwrap() {
                "order.created" => *certain += 1,
                "order.created.uncertain" => *uncertain += 1,
                other => panic!("{other}"),
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "what a campaign came to is for whoever ran it")]
async fn campaign(storage: &'static str) {
    let kills = rounds(5);
    let shop = shop().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gateway.yaml"), yaml(shop.address())).unwrap();
    let path = folder.path().to_owned();
    let lives = move || {
        let (ledger, program) = customers::lives(
            &path,
            storage,
            kills,
            |order| if order.is_keyed { "/keyed" } else { "/plain" },
            // Whether one of the answers was a 2xx.
            |_, answers| {
                answers.iter().flatten().any(|(status, _)| status / 100 == 2).then_some(())
            },
        );
        let found = audit(program.admin);
        (ledger, found)
    };
    let (ledger, found) = tokio::task::spawn_blocking(lives).await.unwrap();
    let effects = effects(&shop.requests());
    let of = |order: &String| found.get(order).copied().unwrap_or_default();
    let done = ledger.iter().filter(|(_, told)| told.is_some());
    let lost: Vec<_> = done.clone().filter(|(order, _)| of(order) != (1, 0)).collect();
    let silent: Vec<_> = effects.keys().filter(|order| of(order).0 + of(order).1 != 1).collect();
    let twice: Vec<_> = effects.iter().filter(|(_, count)| **count > 1).collect();
    let made_up: Vec<_> =
        found.iter().filter(|(order, it)| it.0 > 0 && !effects.contains_key(*order)).collect();
    let uncertain = found.values().filter(|it| it.1 > 0).count();
    println!(
        "{storage}: {kills} kills, {} orders, {} answered 2xx, {} done by the upstream, {uncertain} \
         uncertain; lost {}, silent {}, done twice {}, made up {}",
        ledger.len(),
        done.count(),
        effects.len(),
        lost.len(),
        silent.len(),
        twice.len(),
        made_up.len(),
    );
    assert!(ledger.values().any(Option::is_some));
    assert!(lost.is_empty(), "a 2xx without its one event: {lost:?}");
    assert!(silent.is_empty(), "an effect without its one word: {silent:?}");
    assert!(twice.is_empty(), "more than one effect of a key: {twice:?}");
    assert!(made_up.is_empty(), "an event without an effect: {made_up:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_effect_has_its_word_after_a_kill_on_real_files() {
    campaign("real").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_effect_has_its_word_after_a_kill_where_unsynced_bytes_are_lost() {
    campaign("lossy").await;
}
