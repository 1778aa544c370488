//! What a scraper reads, in the format that it asks for.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::json;

use crate::{
    harness::{Client, Message, Origin, Running, proxy_to},
    queue_http::{event, publish},
};

async fn scrape(gateway: &Running, accept: &str) -> Message {
    let address = gateway.gateway().admin_address();
    let head = format!("GET /metrics HTTP/1.1\nHost: {address}\nAccept: {accept}");
    Client::connect(address).await.request(&head, "").await
}

/// The names of the samples of each family, with its type. The rules of OpenMetrics 1.0.0 that a parser goes by.
fn families(text: &str) -> BTreeMap<&str, (&str, BTreeSet<&str>)> {
    let mut families: BTreeMap<&str, (&str, BTreeSet<&str>)> = BTreeMap::new();
    let mut current = ("", "");
    let lines = text.strip_suffix("# EOF\n").expect("it says that it is whole").lines();
    for line in lines {
        if let Some(head) = line.strip_prefix("# TYPE ") {
            current = head.split_once(' ').unwrap();
            let (name, kind) = current;
            assert!(families.insert(name, (kind, BTreeSet::new())).is_none(), "{name} comes twice");
        } else if let Some(head) = line.strip_prefix("# HELP ") {
            assert!(!head.is_empty());
        } else {
            let name = line.split(['{', ' ']).next().unwrap();
            let suffix =
                name.strip_prefix(current.0).unwrap_or_else(|| panic!("{line}: {current:?}"));
            let is_allowed = match current.1 {
                "counter" => suffix == "_total",
                "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
                "gauge" | "unknown" => suffix.is_empty(),
                _ => false,
            };
            assert!(is_allowed, "{line} in {current:?}");
            families.get_mut(current.0).unwrap().1.insert(name);
        }
    }
    families
}

/// What Prometheus's own tool says, where it is installed.
fn lint(text: &str) {
    let tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut tool) = tool else { return };
    let mut input = tool.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    let output = tool.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_scraper_gets_the_format_that_it_asks_for_with_the_same_series() {
    let origin = Origin::ok("ok").await;
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "queue: {{ dir: \"{}\", disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
         topics: {{ orders: {{}} }}\n\
         subscriptions: [{{ name: billing, topic: orders, order: none }}]\n{}",
        folder.path().join("data").display(),
        // What is published is counted in two places.
        proxy_to(origin.address())
            .replace("upstream: origin", "upstream: origin, publish: { topic: orders, type: t }")
    );
    let gateway = Running::start(&yaml);
    assert_eq!(gateway.client().await.get("/").await.status(), 200);
    publish(gateway.gateway().admin_address(), &event("1", "k", &json!(1))).await;

    let text = scrape(&gateway, "*/*").await;
    assert_eq!(text.field("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(!text.text().contains("# EOF"));
    lint(&text.text());

    let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    let open = scrape(&gateway, accept).await;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(open.field("content-type"), Some(content_type));
    let told = open.text();
    let families = families(&told);
    assert_eq!(families["sluice_requests"].0, "counter");
    assert!(told.contains("le=\"1.0\""), "{told}");

    let names = |text: &str| -> BTreeSet<String> {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect()
    };
    let samples = families.values().flat_map(|(_, names)| names).map(|name| (*name).to_owned());
    assert_eq!(samples.collect::<BTreeSet<_>>(), names(&text.text()));
}
