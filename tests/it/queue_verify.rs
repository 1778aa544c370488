//! `sluice queue verify` and `--repair` on a stopped store with damage in each of its logs.

use std::{fs, path::Path, path::PathBuf, process::Command};

use serde_json::{Value, json};

use crate::{
    harness::{Running, within},
    queue_http::{event, publish, receive, settle},
};

const SUBSCRIPTIONS: &str = "\x20 - { name: billing, topic: orders, from: earliest, order: none, retry: { schedule: [0s] } }\n";

fn yaml(folder: &Path) -> String {
    format!(
        "queue: {{ dir: \"{}\", disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
         topics: {{ orders: {{ partitions: 4 }} }}\n\
         subscriptions:\n{SUBSCRIPTIONS}",
        folder.join("data").display()
    )
}

/// A store with events, state and a dead letter, stopped.
async fn stopped(folder: &Path) {
    let gateway = Running::start(&yaml(folder));
    let admin = gateway.gateway().admin_address();
    for id in ["1", "2", "3"] {
        publish(admin, &event(id, id, &json!(format!("event number {id}")))).await;
    }
    let leased = receive(admin, "billing", &json!({ "max_events": 1, "wait_ms": 10_000 })).await;
    settle(admin, "billing", "reject", &json!({ "tokens": [leased[0].0] })).await;
    within("a dead letter", async {
        let path = "/v1/subscriptions/billing";
        while gateway.json(path).await["dead_letters"]["count"] != 1 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// What `verify` says, and its exit code.
pub(crate) fn verify(folder: &Path, more: &[&str]) -> (i32, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["queue", "verify", "--json", "--dir"])
        .arg(folder.join("data"))
        .args(more)
        .output()
        .unwrap();
    let told = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), told)
}

/// Files below a directory whose names say what they are.
pub(crate) fn files(dir: &Path, is_meant: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, is_meant));
        } else if is_meant(&entry.file_name().to_string_lossy()) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Changes one byte in the middle of what is used of a file, behind the page with a log's header.
pub(crate) fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let from = if used > 4096 { 4096 } else { 0 };
    bytes[from + (used - from) * 3 / 4] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

/// The part of the answer that is about this.
pub(crate) fn part<'a>(told: &'a Value, list: &str, kind: &str, starts: &str) -> &'a Value {
    let all = told[list].as_array().unwrap();
    let is_it = |it: &&Value| it[kind].as_str().is_some_and(|name| name.starts_with(starts));
    all.iter().find(is_it).unwrap_or_else(|| panic!("no {starts} in {told:#}"))
}

#[tokio::test]
async fn every_log_of_a_store_is_read_and_named() {
    let folder = tempfile::tempdir().unwrap();
    stopped(folder.path()).await;
    let (code, told) = verify(folder.path(), &[]);
    assert_eq!(code, 0, "{told:#}");
    for (list, kind, starts) in [
        ("topics", "topic", "orders"),
        ("logs", "log", "state/journal"),
        ("logs", "log", "ingress"),
        ("logs", "log", "dead-letters/billing"),
        ("snapshots", "file", "state/snapshot-"),
    ] {
        assert_eq!(part(&told, list, kind, starts)["sound"], true, "{starts}");
    }
    assert_eq!(part(&told, "logs", "log", "dead-letters/billing")["records"], 1);
}

#[tokio::test]
async fn damage_in_each_of_them_is_found_and_repaired_and_the_gateway_starts() {
    for (what, dir, list, kind) in [
        ("orders", "topics", "topics", "topic"),
        ("state/journal", "state/journal", "logs", "log"),
        ("dead-letters/billing", "dead-letters", "logs", "log"),
        ("state/snapshot-", "state", "snapshots", "file"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        stopped(folder.path()).await;
        let is_meant: &dyn Fn(&str) -> bool = match list {
            "snapshots" => &|name| name.starts_with("snapshot-"),
            _ => &|name| Path::new(name).extension().is_some_and(|it| it == "log"),
        };
        // The newest.
        damage(files(&folder.path().join("data").join(dir), is_meant).last().unwrap());
        let (code, told) = verify(folder.path(), &[]);
        assert_eq!(code, 1, "{what}: {told:#}");
        let all = told[list].as_array().unwrap();
        let bad: Vec<_> = all.iter().filter(|it| it["sound"] == false).collect();
        assert_eq!(bad.len(), 1, "{what}: {told:#}");
        assert!(bad[0][kind].as_str().unwrap().starts_with(what), "{what}: {told:#}");
        let (code, told) = verify(folder.path(), &["--repair"]);
        assert_eq!(code, 0, "{what}: {told:#}");
        assert_eq!(verify(folder.path(), &[]).0, 0, "{what}");
        // What was lost is lost; everything else serves.
        let gateway = Running::start(&yaml(folder.path()));
        let admin = gateway.gateway().admin_address();
        let told = publish(admin, &event("9", "9", &json!(9))).await;
        assert_eq!(told.status, 202, "{what}: {}", told.body);
    }
}

#[tokio::test]
async fn what_the_clock_is_judged_by_is_looked_at_and_damage_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    stopped(folder.path()).await;
    let (code, told) = verify(folder.path(), &[]);
    assert_eq!((code, &told["clock"]), (0, &Value::Null), "the clock is trusted");
    let file = folder.path().join("data/state/CLOCK");
    fs::write(&file, "sluice clock 1\n1700000000123\nce31494c\n").unwrap();
    let (code, told) = verify(folder.path(), &[]);
    assert_eq!((code, &told["clock"]["sound"]), (0, &json!(true)), "{told:#}");
    assert_eq!(told["clock"]["trusted_until"], "2023-11-14T22:13:20.123Z");
    assert!(told["clock"]["help"].as_str().unwrap().contains("confirm-clock"), "{told:#}");
    // What is sound is no damage.
    assert_eq!(verify(folder.path(), &["--repair"]).1["clock"]["sound"], true);

    for damaged in ["sluice clock 1\n1700000000124\nce31494c\n", "", &"x".repeat(1_000)] {
        fs::write(&file, damaged).unwrap();
        let (code, told) = verify(folder.path(), &[]);
        assert_eq!((code, &told["clock"]["sound"]), (1, &json!(false)), "{told:#}");
        assert_eq!(told["clock"]["file"], "state/CLOCK");
        assert!(told["clock"]["help"].as_str().unwrap().contains("--repair"), "{told:#}");
        let (code, told) = verify(folder.path(), &["--repair"]);
        assert_eq!((code, &told["clock"]), (0, &Value::Null), "{told:#}");
        assert!(!file.exists(), "it is set aside");
        let aside = fs::read_to_string(file.with_file_name("damaged-CLOCK")).unwrap();
        assert_eq!(aside, damaged, "and kept");
        assert_eq!(verify(folder.path(), &[]).0, 0);
    }
    let gateway = Running::start(&yaml(folder.path()));
    let told = publish(gateway.gateway().admin_address(), &event("9", "9", &json!(9))).await;
    assert_eq!(told.status, 202, "{}", told.body);
}

/// What `drop` says of this name, the configuration as it is in the folder, and its exit code.
fn drop_of(folder: &Path, name: &str) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["queue", "drop", name, "-c"])
        .arg(folder.join("gateway.yaml"))
        .output()
        .unwrap();
    let told = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(told).unwrap())
}

#[tokio::test]
async fn a_store_of_a_later_version_is_refused_by_name_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    stopped(folder.path()).await;
    let run = |command: &[&str]| {
        let mut sluice = Command::new(env!("CARGO_BIN_EXE_sluice"));
        sluice.arg("queue").args(command).arg("--dir").arg(folder.path().join("data"));
        let output = sluice.output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(told).unwrap())
    };
    let told = (0, "the store has format 1, the newest: nothing to do\n".to_owned());
    assert_eq!(run(&["upgrade"]), told);

    let meta = folder.path().join("data/META");
    let good = fs::read(&meta).unwrap();
    let mut newer = good.clone();
    newer[8] = 2;
    let end = newer.len() - 4;
    let crc = crc32c::crc32c(&newer[..end]).to_le_bytes();
    newer[end..].copy_from_slice(&crc);
    fs::write(&meta, &newer).unwrap();
    for command in [&["upgrade"][..], &["verify"], &["verify", "--repair"], &["drop", "orders"]] {
        let (code, told) = run(command);
        assert_eq!(code, 1, "{command:?}: {told}");
        assert!(told.contains("the file has version 2, and this program knows up to 1"), "{told}");
    }
    assert_eq!(fs::read(&meta).unwrap(), newer);

    // A log alone: it is said which.
    fs::write(&meta, &good).unwrap();
    let is_log = |name: &str| Path::new(name).extension().is_some_and(|it| it == "log");
    let log = files(&folder.path().join("data/state/journal"), &is_log).pop().unwrap();
    let mut newer = fs::read(&log).unwrap();
    newer[8] = 2;
    let crc = crc32c::crc32c(&newer[..124]).to_le_bytes();
    newer[124..128].copy_from_slice(&crc);
    fs::write(&log, &newer).unwrap();
    for command in [&["verify"][..], &["verify", "--repair"]] {
        let (code, told) = run(command);
        assert!(code == 1 && told.contains("state/journal/0"), "{command:?}: {code} {told}");
        assert!(told.contains("it has format 2, and this program knows up to 1"), "{told}");
    }
    assert_eq!(fs::read(&log).unwrap(), newer);
}

#[tokio::test]
async fn what_is_still_configured_is_not_dropped() {
    let folder = tempfile::tempdir().unwrap();
    stopped(folder.path()).await;
    let listeners = "listeners: [{ name: web, address: \"127.0.0.1:0\" }]\n";
    let write = |yaml: &str| fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
    let (with, without) = (yaml(folder.path()), yaml(folder.path()).replace(SUBSCRIPTIONS, "[]"));
    let without = without.replace("subscriptions:\n[]", "subscriptions: []\n");

    // Taken out of the file, but the gateway has not run without it yet.
    write(&format!("{listeners}{without}"));
    let (code, told) = drop_of(folder.path(), "billing");
    assert!(code == 1 && told.contains("start it once without"), "{code} {told}");
    drop(Running::start(&without));

    // Put into the file again, of which the store does not know yet.
    write(&format!("{listeners}{with}"));
    for name in ["billing", "orders"] {
        let (code, told) = drop_of(folder.path(), name);
        assert!(code == 1 && told.contains("take it out first"), "{code} {told}");
    }
    let (code, told) = drop_of(folder.path(), "nobody");
    assert!(code == 1 && told.contains("no topic or subscription named `nobody`"), "{told}");

    write(&format!("{listeners}{without}"));
    // One that was cut off has removed something, and is done again.
    let letters = folder.path().join("data/dead-letters");
    for entry in fs::read_dir(&letters).unwrap().flatten() {
        fs::remove_file(files(&entry.path(), &|_| true).pop().unwrap()).unwrap();
    }
    let (code, told) = drop_of(folder.path(), "billing");
    assert_eq!((code, told.as_str()), (0, "subscription `billing` is gone\n"));
    assert!(files(&letters, &|_| true).is_empty());
}

#[tokio::test]
async fn what_is_no_file_where_one_belongs_is_named_and_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    stopped(folder.path()).await;
    let data = folder.path().join("data");
    let named = |name: &'static str| {
        files(&data, &move |it| it == name).first().cloned().unwrap_or_else(|| data.join(name))
    };
    for path in [named("CHECKPOINT"), named("RESERVE"), data.join("ingress/GAPS")] {
        let kept = fs::read(&path).ok();
        if kept.is_some() {
            fs::remove_file(&path).unwrap();
        }
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let output = Command::new(env!("CARGO_BIN_EXE_sluice"))
            .args(["queue", "verify", "--dir"])
            .arg(&data)
            .output()
            .unwrap();
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        let name = path.file_name().unwrap().to_str().unwrap();
        let is_named = told.contains(&format!("{name}: it is not a file"));
        assert!(output.status.code() == Some(1) && is_named, "{}: {told}", path.display());
        fs::remove_file(&path).unwrap();
        if let Some(bytes) = kept {
            fs::write(&path, bytes).unwrap();
        }
    }
    assert_eq!(verify(folder.path(), &[]).0, 0);
}

#[tokio::test]
async fn a_directory_among_the_files_is_found_by_who_verifies_as_by_who_starts() {
    let folder = tempfile::tempdir().unwrap();
    stopped(folder.path()).await;
    let notes = files(&folder.path().join("data/topics"), &|name| name == "CHECKPOINT");
    let spare = notes[0].with_file_name("spare.new");
    fs::create_dir(&spare).unwrap();
    let (code, told) = verify(folder.path(), &[]);
    let topic = part(&told, "topics", "topic", "orders");
    assert_eq!((code, &topic["sound"]), (1, &json!(false)), "{told:#}");
    let why = topic["error"].as_str().unwrap();
    assert!(why.contains("spare.new: it is a directory"), "{why}");
    let gateway = Running::start(&yaml(folder.path()));
    let shown = gateway.json("/v1/topics/orders").await;
    assert!(shown.to_string().contains(why), "{shown}");
    drop(gateway);
    fs::remove_dir(&spare).unwrap();
    // Of the store's own files the newest is in the way of a start, the others of what follows it.
    for name in ["state/snapshot.new", "META.new", "state/RESERVE.new", "state/CLOCK.new"] {
        let path = folder.path().join("data").join(name);
        fs::create_dir(&path).unwrap();
        let (code, told) = verify(folder.path(), &[]);
        let why = told["error"].as_str().unwrap_or_default();
        assert!(code == 1 && why.contains(&format!("{name}: it is a directory")), "{told:#}");
        fs::remove_dir(&path).unwrap();
    }
    assert_eq!(verify(folder.path(), &[]).0, 0);
}
