//! A saga over real sockets: the next step, the compensation, a restart between, and what an operator sees.

use std::{net::SocketAddr, path::Path};

use serde_json::{Value, json};

use crate::{
    harness::{Running, within},
    queue_http::{JSON, call, event, publish, receive, settle},
};

fn start(folder: &Path) -> (Running, SocketAddr) {
    let gateway = Running::start(&format!(
        "queue: {{ dir: \"{}\", instance: shop, disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
         topics: {{ orders: {{ partitions: 4 }}, stock: {{}} }}\n\
         subscriptions:\n\
         \x20 - name: inventory\n\
         \x20   topic: orders\n\
         \x20   types: [order.created]\n\
         \x20   from: earliest\n\
         \x20   on_success: {{ publish: {{ topic: stock, type: stock.reserved }} }}\n\
         \x20   on_exhausted: {{ publish: {{ topic: orders, type: order.refused, data: none }} }}\n\
         \x20 - name: payment\n\
         \x20   topic: stock\n\
         \x20   from: earliest\n\
         \x20   on_success: {{ publish: {{ topic: orders, type: order.paid }} }}\n",
        folder.join("data").display()
    ));
    let admin = gateway.gateway().admin_address();
    (gateway, admin)
}

/// Takes the next event of a subscription and says this of it.
async fn take(admin: SocketAddr, name: &str, verb: &str) -> Value {
    let leased = receive(admin, name, &json!({ "max_events": 1, "wait_ms": 10_000 })).await;
    let (token, it) = leased.first().unwrap_or_else(|| panic!("nothing for {name}"));
    assert_eq!(settle(admin, name, verb, &json!({ "tokens": [token] })).await, ["ok"]);
    it["event"].clone()
}

/// The types of a saga, once it has this many events.
async fn saga(gateway: &Running, id: &str, count: usize) -> Vec<Value> {
    within(&format!("{count} events of {id}"), async {
        loop {
            let told = gateway.json(&format!("/v1/sagas/{id}")).await;
            let events = told["events"].as_array().cloned().unwrap_or_default();
            if events.len() >= count {
                return events;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await
}

#[tokio::test]
async fn each_step_is_followed_by_the_next_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, admin) = start(folder.path());
    publish(admin, &event("o-1", "customer", &json!({ "total": 7 }))).await;
    take(admin, "inventory", "ack").await;
    drop(gateway);

    let (gateway, admin) = start(folder.path());
    let reserved = take(admin, "payment", "ack").await;
    assert_eq!(
        (&reserved["type"], &reserved["data"]),
        (&json!("stock.reserved"), &json!({ "total": 7 }))
    );
    assert_eq!(
        (&reserved["correlationid"], &reserved["causationid"]),
        (&json!("o-1"), &json!("o-1"))
    );
    assert_eq!(
        (&reserved["source"], &reserved["subject"]),
        (&json!("/sluice/shop"), &json!("customer"))
    );
    let events = saga(&gateway, "o-1", 3).await;
    let types: Vec<_> = events.iter().map(|it| it["event"]["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["order.created", "stock.reserved", "order.paid"]);
    assert_eq!(events[2]["event"]["causationid"], reserved["id"]);
    assert_eq!(events[2]["event"]["correlationid"], "o-1");
}

#[tokio::test]
async fn what_is_compensated_is_not_redriven_without_force() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, admin) = start(folder.path());
    publish(admin, &event("o-2", "customer", &json!({ "total": 7 }))).await;
    take(admin, "inventory", "reject").await;
    let events = saga(&gateway, "o-2", 2).await;
    assert_eq!(events[1]["event"]["type"], "order.refused");
    assert_eq!(events[1]["event"]["data"], Value::Null);
    let line = "POST /v1/subscriptions/inventory/dead-letters/redrive";
    let told = call(admin, line, JSON, r#"{"filter":{}}"#).await.body;
    assert_eq!((&told["matching"], &told["skipped"]), (&json!(0), &json!(1)), "{told}");
    let told = call(admin, line, JSON, r#"{"filter":{},"force":true}"#).await.body;
    assert_eq!(told["matching"], 1, "{told}");
    take(admin, "inventory", "ack").await;
    within("the redrive", async {
        let job = format!("/v1/jobs/{}", told["job"].as_str().unwrap());
        while gateway.json(&job).await["state"] != "done" {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    let events = gateway.json("/v1/sagas/o-2").await;
    assert_eq!(
        events["events"].as_array().map(Vec::len),
        Some(2),
        "a job publishes nothing: {events}"
    );
}

/// What `sluice queue` says, and how it ends.
async fn queue(admin: SocketAddr, args: &[&str]) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.args(["queue", "--admin", &admin.to_string()]).args(args);
    let done = tokio::task::spawn_blocking(move || command.output());
    let output = within("the program", done).await.unwrap().unwrap();
    let said = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn the_shell_shows_a_saga_and_each_of_its_events() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, admin) = start(folder.path());
    publish(admin, &event("o-3", "customer", &json!({ "total": 7 }))).await;
    take(admin, "inventory", "ack").await;
    let events = saga(&gateway, "o-3", 2).await;

    let (code, told) = queue(admin, &["saga", "o-3"]).await;
    let rows: Vec<Vec<_>> = told.lines().map(|row| row.split_whitespace().collect()).collect();
    assert_eq!((code, rows.len()), (Some(0), 3), "{told}");
    assert_eq!(rows[0], ["PUBLISHED", "TYPE", "TOPIC", "PLACE", "ID", "CAUSE", "SUBSCRIPTIONS"]);
    assert_eq!((rows[1][1], rows[1][2], rows[1][4]), ("order.created", "orders", "o-3"), "{told}");
    assert!(told.contains("inventory: settled") && told.contains("payment: queued"), "{told}");
    assert_eq!((rows[2][1], rows[2][2], rows[2][5]), ("stock.reserved", "stock", "o-3"), "{told}");
    let (_, json) = queue(admin, &["saga", "o-3", "--json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["events"].as_array().map(Vec::len), Some(2));

    let place = format!("{}:{}", events[1]["partition"], events[1]["offset"]);
    assert_eq!(rows[2][3], place);
    let (code, told) = queue(admin, &["event", "--topic", "stock", "--at", &place]).await;
    assert!(code == Some(0) && told.starts_with(&format!("stock {place}  ")), "{told}");
    assert!(told.contains("\"type\":\"stock.reserved\""), "{told}");
    for (args, code, says) in [
        (&["saga", "o-9"][..], 0, "no events"),
        (&["event", "--topic", "stock", "--at", "0:99"], 1, "99"),
        (&["event", "--topic", "stock", "--at", "99"], 1, "is not PARTITION:OFFSET"),
        (&["event", "--topic", "stock"], 2, "--at"),
        (&["event"], 2, "ID"),
        (&["event", "o-3", "--topic", "stock", "--at", "0:0"], 2, "cannot be used with"),
    ] {
        let (found, told) = queue(admin, args).await;
        assert!(found == Some(code) && told.contains(says), "{args:?}: {found:?} {told}");
    }
}
