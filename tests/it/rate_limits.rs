//! Semantics 8: who is limited, what a refusal says, how exact the count is, what a reload keeps.

use std::time::Duration;

use serde_json::{Value, json};
use sluicegate::{config::Config, gateway::Options};
use tokio::time::Instant;

use crate::harness::{Client, Origin, Running, config, proxy_to};

/// `limits` on a route that answers by itself.
fn limited(limits: &str, names: &str) -> String {
    format!(
        "rate_limits: {limits}\n\
         routes: [{{ name: a, match: {{ path: \"/{{*rest}}\" }}, rate_limit: {names}, \
         respond: {{ body: fine }} }}]\n"
    )
}

async fn count(gateway: &Running, series: &str) -> u64 {
    let value = gateway.metric(series).await;
    // Counts are whole.
    format!("{value:.0}").parse().unwrap()
}

async fn explain(gateway: &Running, question: Value) -> Value {
    let answer = gateway.admin_with("POST", "/v1/explain", &question.to_string()).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let told: Value = serde_json::from_slice(&answer.body).unwrap();
    let steps = told["steps"].as_array().unwrap();
    steps.iter().find(|step| step["policy"] == "rate_limit").unwrap().clone()
}

#[tokio::test]
async fn a_denied_request_hears_why_and_when_to_come_back() {
    let yaml = limited(
        "{ per-key: { key: \"header:x-key\", rate: 1/h, burst: 2 }, \
           all: { key: method, rate: 1/m, burst: 100 } }",
        "[per-key, all]",
    );
    let gateway = Running::start(&yaml);
    let mut client = gateway.client().await;
    let ask = "GET /x HTTP/1.1\nHost: a\nX-Key: k1";
    for left in [1, 0] {
        let answer = client.request(ask, "").await;
        assert_eq!(answer.status(), 200);
        let policy = "\"per-key\";q=2;w=7200, \"all\";q=100;w=6000";
        assert_eq!(answer.field("ratelimit-policy"), Some(policy));
        let state = answer.field("ratelimit").unwrap();
        assert!(state.starts_with(&format!("\"per-key\";r={left};t=")), "{state}");
    }
    let denied = client.request(ask, "").await;
    assert_eq!(denied.status(), 429);
    let after: u64 = denied.field("retry-after").unwrap().parse().unwrap();
    assert!((3_590..=3_600).contains(&after), "{after}");
    assert!(denied.field("ratelimit").unwrap().starts_with("\"per-key\";r=0;t=7"));
    assert_eq!(
        denied.field("proxy-status"),
        Some("sluice; error=http_request_denied; details=\"rate-limited\"")
    );
    let problem: Value = serde_json::from_slice(&denied.body).unwrap();
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    assert_eq!(problem["violated-policies"], json!(["per-key"]));
    assert_eq!(problem["code"], "rate-limited");

    // Another key, and none: then the address is the key.
    let other = client.request("GET /x HTTP/1.1\nHost: a\nX-Key: k2", "").await;
    assert_eq!(other.status(), 200);
    let all = explain(&gateway, json!({ "method": "GET", "url": "/x" })).await;
    assert_eq!(all["outcome"], "limit", "the question names no key: {all}");
    let question = json!({ "method": "GET", "url": "/x", "headers": ["x-key: k1"] });
    let told = explain(&gateway, question.clone()).await;
    assert_eq!(told["outcome"], "refuse");
    assert!(told["detail"].as_str().unwrap().contains("0 of 2 left for k1"), "{told}");
    assert_eq!(told, explain(&gateway, question).await, "asking charges nothing");
    let series = |policy: &str, decision: &str| {
        format!("sluice_rate_limit_decisions_total{{policy=\"{policy}\",decision=\"{decision}\"}}")
    };
    assert_eq!(count(&gateway, &series("per-key", "admitted")).await, 3);
    assert_eq!(count(&gateway, &series("per-key", "denied")).await, 1);
    let others = count(&gateway, &series("all", "admitted")).await;
    assert_eq!(others, 3, "denied ones are not charged");
    assert_eq!(count(&gateway, "sluice_rate_limit_keys{policy=\"per-key\"}").await, 2);
    assert_eq!(count(&gateway, "sluice_refusals_total{reason=\"rate-limited\"}").await, 1);
}

#[tokio::test]
async fn failures_behind_a_limit_say_its_state_too() {
    let origin = Origin::start(|_, _| crate::harness::Reply::Close).await;
    let yaml = proxy_to(origin.address())
        .replace("upstream: origin }]", "rate_limit: few, upstream: origin }]")
        + "rate_limits: { few: { key: client_ip, rate: 1/m, burst: 9 } }\n";
    let gateway = Running::start(&yaml);
    let answer = gateway.client().await.get("/").await;
    assert_eq!(answer.status(), 502, "{}", answer.text());
    assert_eq!(answer.field("ratelimit-policy"), Some("\"few\";q=9;w=540"));
}

/// Over real sockets and the real clock: 64 clients on all workers as fast as they can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_clients_are_admitted_within_one_of_burst_and_rate_times_time() {
    const CLIENTS: usize = 64;
    const RATE: f64 = 200.0;
    // Five seconds' worth: however the process is held up, the bucket does not get full again.
    const BURST: f64 = 1_000.0;
    let yaml = limited("{ all: { key: method, rate: 200/s, burst: 1000 } }", "all");
    let gateway = Running::start(&format!("workers: 2\n{yaml}"));
    let address = gateway.address();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Client::connect(address).await);
    }
    let before = Instant::now();
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                let (mut admitted, mut denied) = (Vec::new(), Vec::new());
                let mut is_denied = false;
                // Each ends with a denial: then nothing is left that nobody asked for.
                while !is_denied || before.elapsed() < Duration::from_millis(1_500) {
                    let asked = before.elapsed();
                    let status = client.get("/x").await.status();
                    assert!(status == 200 || status == 429, "{status}");
                    is_denied = status == 429;
                    let times = (asked, before.elapsed());
                    if is_denied { denied.push(times) } else { admitted.push(times) }
                }
                (admitted, denied)
            })
        })
        .collect();
    let (mut admitted, mut denied) = (Vec::new(), Vec::new());
    for task in tasks {
        let times = task.await.unwrap();
        admitted.extend(times.0);
        denied.extend(times.1);
    }
    // When a request was judged is known only to lie between its start and its answer.
    let first = admitted.iter().map(|(asked, _)| *asked).min().unwrap();
    let last = admitted.iter().map(|(_, answered)| *answered).max().unwrap();
    let most = BURST + RATE * last.saturating_sub(first).as_secs_f64();
    // At a denial the bucket is empty. Before the first one it may have been full and lost time.
    let first = denied.iter().map(|(_, answered)| *answered).min().unwrap();
    let last = denied.iter().map(|(asked, _)| *asked).max().unwrap();
    let least = BURST + RATE * last.saturating_sub(first).as_secs_f64();
    let count = admitted.len() as f64;
    assert!(count <= most + 1.0, "{count} admitted, {most:.2} at most");
    assert!(count >= least - 1.0, "{count} admitted, {least:.2} at least");
}

#[tokio::test]
async fn a_reload_that_changes_the_rate_keeps_the_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.yaml");
    let write = |limits: &str, names: &str| {
        let text = format!(
            "listeners: [{{ name: web, address: 127.0.0.1:0 }}]\nadmin: {{ address: 127.0.0.1:0 }}\n\
             telemetry: {{ access_log: {{ path: off }} }}\n{}",
            limited(limits, names)
        );
        std::fs::write(&path, text).unwrap();
    };
    write("{ a: { key: client_ip, rate: 1/h, burst: 1 } }", "a");
    let config: Config = sluicegate::config::load(&path).unwrap_or_else(|p| panic!("{p}")).config;
    let options = Options { source: Some(path.clone()), ..Options::default() };
    let gateway = Running::start_with(config, options);
    let mut client = gateway.client().await;
    assert_eq!(client.get("/x").await.status(), 200);
    assert_eq!(client.get("/x").await.status(), 429);
    // Other policies before it, another burst, another rate: the key is still spent.
    write(
        "{ z: { key: host, rate: 1/s, burst: 9 }, a: { key: client_ip, rate: 2/h, burst: 1 } }",
        "[a, z]",
    );
    assert_eq!(gateway.admin("POST", "/v1/reload").await.status(), 200);
    let denied = client.get("/x").await;
    assert_eq!(denied.status(), 429);
    let after: u64 = denied.field("retry-after").unwrap().parse().unwrap();
    assert!(after <= 1_800, "the new rate is the one that counts: {after}");
    // Another unit is another limit.
    write("{ a: { key: client_ip, rate: 1/m, burst: 1 } }", "a");
    assert_eq!(gateway.admin("POST", "/v1/reload").await.status(), 200);
    assert_eq!(client.get("/x").await.status(), 200);
}

#[tokio::test]
async fn a_reload_that_fails_leaves_the_bounds_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.yaml");
    let write = |max_keys: usize, log: &str| {
        let limits = "{ a: { key: \"header:x-key\", rate: 1/h, burst: 1, max_keys: MAX } }";
        let text = format!(
            "listeners: [{{ name: web, address: 127.0.0.1:0 }}]\nadmin: {{ address: 127.0.0.1:0 }}\n\
             telemetry: {{ access_log: {{ path: {log} }} }}\n{}",
            limited(&limits.replace("MAX", &max_keys.to_string()), "a")
        );
        std::fs::write(&path, text).unwrap();
    };
    write(100, "off");
    let config: Config = sluicegate::config::load(&path).unwrap_or_else(|p| panic!("{p}")).config;
    let options = Options { source: Some(path.clone()), ..Options::default() };
    let gateway = Running::start_with(config, options);
    let mut client = gateway.client().await;
    let mut statuses = async |keys: [&str; 3]| {
        let mut statuses = Vec::new();
        for key in keys {
            let ask = format!("GET /x HTTP/1.1\nHost: a\nX-Key: {key}");
            statuses.push(client.request(&ask, "").await.status());
        }
        statuses
    };
    // The log cannot be opened, which is found out last.
    let missing = folder.path().join("missing").join("access.log");
    write(1, &missing.display().to_string());
    assert_ne!(gateway.admin("POST", "/v1/reload").await.status(), 200);
    assert_eq!(statuses(["k1", "k2", "k3"]).await, [200; 3], "each has a bucket of its own");
    write(1, "off");
    assert_eq!(gateway.admin("POST", "/v1/reload").await.status(), 200);
    assert_eq!(statuses(["k4", "k5", "k6"]).await, [200, 429, 429], "they share one");
}

#[tokio::test]
async fn a_shadow_denies_nobody_and_is_counted() {
    let yaml = limited("{ dry: { key: client_ip, rate: 1/h, burst: 1, mode: shadow } }", "dry");
    let gateway = Running::start_with(config(&yaml), Options::default());
    let mut client = gateway.client().await;
    for _ in 0..3 {
        let answer = client.get("/x").await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.field("ratelimit"), None);
    }
    let series = "sluice_rate_limit_decisions_total{policy=\"dry\",decision=\"shadow-denied\"}";
    assert_eq!(count(&gateway, series).await, 2);
}
