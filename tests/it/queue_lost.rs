//! Files of a stopped store that are gone: what they said is never taken for what never was (queue 1, P2 to P4).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{
    harness::{Running, config, within},
    queue_http::{event, publish, receive, settle},
    queue_verify::{damage, files, verify},
};
use sluicegate::gateway::{Gateway, Options};

fn yaml(folder: &Path) -> String {
    format!(
        "queue: {{ dir: \"{}\", disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
         topics: {{ orders: {{ partitions: 4 }}, jobs: {{}} }}\n\
         subscriptions:\n\
         \x20 - {{ name: billing, topic: orders, from: earliest, order: none }}\n\
         \x20 - {{ name: audit, topic: orders, from: latest, order: none }}\n\
         \x20 - {{ name: workers, topic: jobs, from: latest, push: {{ upstream: nowhere }} }}\n\
         upstreams: {{ nowhere: {{ endpoints: [\"127.0.0.1:1\"] }} }}\n\
         routes: [{{ name: later, match: {{ path: /later }}, enqueue: {{ topic: jobs }} }}]\n",
        folder.join("data").display()
    )
}

/// A store that has given out, settled and buried events, stopped.
async fn stopped(folder: &Path) {
    let gateway = Running::start(&yaml(folder));
    let admin = gateway.gateway().admin_address();
    for id in ["1", "2", "3"] {
        publish(admin, &event(id, id, &json!(id))).await;
    }
    let leased = receive(admin, "billing", &json!({ "max_events": 2, "wait_ms": 10_000 })).await;
    settle(admin, "billing", "reject", &json!({ "tokens": [leased[0].0] })).await;
    settle(admin, "billing", "ack", &json!({ "tokens": [leased[1].0] })).await;
    let mut client = gateway.client().await;
    let head = "POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 2";
    assert_eq!(within("an answer", client.request(head, "{}")).await.status(), 202);
    within("a dead letter", async {
        while gateway.json("/v1/subscriptions/billing").await["dead_letters"]["count"] != 1 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Why the gateway does not start.
fn refused(folder: &Path) -> String {
    let started = Gateway::start(config(&yaml(folder)), Options::default());
    started.map(drop).expect_err("it does not start").to_string()
}

/// IDs of all that a subscription gives out.
async fn all_of(gateway: &Running, name: &str, count: usize) -> Vec<String> {
    let admin = gateway.gateway().admin_address();
    let mut ids = Vec::new();
    within("all events", async {
        while ids.len() < count {
            let leased = receive(admin, name, &json!({ "max_events": 9, "wait_ms": 10_000 })).await;
            ids.extend(leased.iter().map(|it| it.1["event"]["id"].as_str().unwrap().to_owned()));
        }
    })
    .await;
    ids.sort_unstable();
    ids
}

fn snapshots(state: &Path) -> Vec<PathBuf> {
    files(state, &|name| name.starts_with("snapshot-"))
}

fn snapshots_and_journal(state: &Path) -> Vec<PathBuf> {
    let is_log = |name: &str| Path::new(name).extension().is_some_and(|it| it == "log");
    files(state, &|name| name.starts_with("snapshot-") || is_log(name))
}

fn remove(paths: &[PathBuf]) {
    for path in paths {
        fs::remove_file(path).unwrap();
    }
}

/// Takes something of a directory away.
type Lose = fn(&Path);

#[tokio::test]
async fn delivery_state_that_is_gone_is_begun_anew_by_a_repair_and_never_by_itself() {
    let ways: [(&str, Lose); 5] = [
        ("all of it", |state| fs::remove_dir_all(state).unwrap()),
        ("journal and snapshots", |state| {
            remove(&snapshots(state));
            fs::remove_dir_all(state.join("journal")).unwrap();
        }),
        ("their files", |state| remove(&snapshots_and_journal(state))),
        ("their bytes", |state| {
            for file in snapshots_and_journal(state) {
                fs::write(file, "").unwrap();
            }
        }),
        ("one byte of each snapshot, and the files of the journal", |state| {
            for snapshot in snapshots(state) {
                damage(&snapshot);
            }
            remove(&files(&state.join("journal"), &|_| true));
        }),
    ];
    for (what, lose) in ways {
        let folder = tempfile::tempdir().unwrap();
        stopped(folder.path()).await;
        lose(&folder.path().join("data/state"));
        let (code, told) = verify(folder.path(), &[]);
        assert_eq!(code, 1, "{what}: {told:#}");
        assert_eq!(told["state"]["lost"], json!(["billing", "audit", "workers"]), "{what}");
        let why = refused(folder.path());
        assert!(why.contains("sluice queue verify"), "{what}: {why}");
        assert_eq!(verify(folder.path(), &[]).0, 1, "{what}: a start in vain changes nothing");

        let (code, told) = verify(folder.path(), &["--repair"]);
        assert_eq!(code, 0, "{what}: {told:#}");
        let begun = |name: &str| told["state"]["begun"][name].as_str().unwrap_or_default();
        assert!(begun("billing").contains("from offset 0 on; 1 dead letters"), "{what}: {told:#}");
        assert!(begun("workers").contains("it is paused"), "{what}: {told:#}");
        let (code, told) = verify(folder.path(), &[]);
        assert_eq!((code, &told["state"]["sound"]), (0, &json!(true)), "{what}: {told:#}");

        let gateway = Running::start(&yaml(folder.path()));
        let taken = publish(gateway.gateway().admin_address(), &event("4", "4", &json!(4))).await;
        assert_eq!(taken.status, 202, "{what}: {}", taken.body);
        for name in ["billing", "audit"] {
            assert_eq!(all_of(&gateway, name, 4).await, ["1", "2", "3", "4"], "{what}: {name}");
        }
        let told = gateway.json("/v1/subscriptions/billing").await;
        assert_eq!(told["dead_letters"]["count"], 1, "{what}: {told:#}");
        assert_eq!(gateway.json("/v1/subscriptions/workers").await["state"], "paused", "{what}");
        drop(gateway);
        assert_eq!(verify(folder.path(), &[]).0, 0, "{what}");
    }
}

#[tokio::test]
async fn files_of_a_topic_or_of_requests_that_are_gone_are_missed_and_accepted_by_a_repair() {
    for (what, list, kind) in [("topics", "topics", "topic"), ("ingress", "logs", "log")] {
        let folder = tempfile::tempdir().unwrap();
        stopped(folder.path()).await;
        let data = folder.path().join("data");
        fs::remove_dir_all(data.join(what)).unwrap();
        let (code, told) = verify(folder.path(), &[]);
        assert_eq!(code, 1, "{what}: {told:#}");
        let missed: Vec<&Value> =
            told[list].as_array().unwrap().iter().filter(|it| it["sound"] == false).collect();
        assert!(!missed.is_empty(), "{what}: {told:#}");
        assert_eq!(missed[0]["damage"][0]["what"], "all files are missing", "{what}: {told:#}");
        assert!(what != "ingress" || missed[0][kind] == "ingress", "{told:#}");

        // The others serve, and what is lost is not begun anew by that.
        let gateway = Running::start(&yaml(folder.path()));
        let told = publish(gateway.gateway().admin_address(), &event("4", "4", &json!(4))).await;
        let expected = if what == "topics" { 503 } else { 202 };
        assert_eq!(told.status, expected, "{what}: {}", told.body);
        drop(gateway);
        assert_eq!(verify(folder.path(), &[]).0, 1, "{what}");

        let (code, told) = verify(folder.path(), &["--repair"]);
        assert_eq!(code, 0, "{what}: {told:#}");
        assert_eq!(verify(folder.path(), &[]).0, 0, "{what}");
        let gateway = Running::start(&yaml(folder.path()));
        let told = publish(gateway.gateway().admin_address(), &event("5", "5", &json!(5))).await;
        assert_eq!(told.status, 202, "{what}: {}", told.body);
        assert!(all_of(&gateway, "audit", 1).await.contains(&"5".to_owned()) || what == "ingress");
    }
}

#[tokio::test]
async fn a_torn_registry_is_named_and_nothing_is_begun_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    stopped(folder.path()).await;
    let meta = folder.path().join("data/META");
    let good = fs::read(&meta).unwrap();
    for torn in [&good[..0], &good[..good.len() / 2], &good[..good.len() - 1]] {
        fs::write(&meta, torn).unwrap();
        let why = refused(folder.path());
        assert!(why.contains("META is damaged") && why.contains("put back a copy"), "{why}");
        for more in [&[][..], &["--repair"]] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
            let command =
                command.args(["queue", "verify", "--dir"]).arg(folder.path().join("data"));
            let output = command.args(more).output().unwrap();
            let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert!(output.status.code() == Some(1) && told.contains("META is damaged"), "{told}");
        }
        assert_eq!(fs::read(&meta).unwrap(), torn);
    }
    fs::write(&meta, &good).unwrap();
    assert_eq!(verify(folder.path(), &[]).0, 0);
    let gateway = Running::start(&yaml(folder.path()));
    assert_eq!(all_of(&gateway, "audit", 3).await, ["1", "2", "3"]);
}
