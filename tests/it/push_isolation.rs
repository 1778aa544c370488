//! What a slow and a dead receiver cost a healthy one on the same topic: the time from publication to arrival, in
//! rounds with the others paused and rounds with them at work, one after the other in one run.
//!
//! `SLUICE_CAMPAIGN` is the number of rounds, 3 without it; a campaign also holds the healthy one's p99 to 1.2
//! times what it is alone, as the median over the rounds. On a machine that is busy with other things that is luck:
//! then only what waits for others would be seen.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::harness::{Client, Origin, Reply, Running, dead_address, eventually, origin};

/// Events of a round, and the time between two.
const EVENTS: u64 = 400;
const PACE: Duration = Duration::from_millis(4);
/// The slow receiver's time for each event: with what it does at once, far less than comes.
const SLOW: Duration = Duration::from_secs(2);
/// Waiting for one of the others, an event would take this much longer.
const STALL: Duration = Duration::from_millis(500);

type Arrivals = Arc<Mutex<HashMap<String, Instant>>>;

struct Rig {
    gateway: Running,
    arrivals: Arrivals,
    _receivers: [Origin; 2],
    _folder: tempfile::TempDir,
}

impl Rig {
    async fn new() -> Self {
        let arrivals = Arrivals::default();
        let healthy = Origin::start({
            let arrivals = arrivals.clone();
            move |_, request| {
                let event: Value = serde_json::from_slice(&request.body).unwrap();
                let id = event["id"].as_str().unwrap().to_owned();
                arrivals.lock().entry(id).or_insert_with(Instant::now);
                Reply::Answer(origin::ok(""))
            }
        })
        .await;
        let slow = Origin::start(|_, _| Reply::After(SLOW, origin::ok(""))).await;
        let folder = tempfile::tempdir().unwrap();
        let to = |name: &str, address| {
            format!(
                "  - {{ name: {name}, topic: orders, from: latest, order: none, \
                 push: {{ url: \"http://{address}/\" }} }}\n"
            )
        };
        let gateway = Running::start(&format!(
            "queue: {{ dir: \"{}\", disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
             topics: {{ orders: {{ partitions: 4 }} }}\nsubscriptions:\n{}{}{}",
            folder.path().join("data").display(),
            to("healthy", healthy.address()),
            to("slow", slow.address()),
            to("dead", dead_address()),
        ));
        Self { gateway, arrivals, _receivers: [healthy, slow], _folder: folder }
    }

    /// `pause` or `resume` of the two that are not well.
    async fn others(&self, verb: &str) {
        for name in ["slow", "dead"] {
            let path = format!("/v1/subscriptions/{name}/{verb}");
            assert_eq!(self.gateway.admin("POST", &path).await.status(), 200);
        }
    }

    /// Publishes the events of a round; from the call to the arrival of each, in order of size.
    async fn round(&self, name: &str) -> Vec<Duration> {
        let admin = self.gateway.gateway().admin_address();
        let mut tick = interval(PACE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut published = Vec::new();
        for number in 0..EVENTS {
            tick.tick().await;
            let id = format!("{name}-{number}");
            let event = json!({
                "specversion": "1.0", "id": id, "source": "/shop", "type": "order.created",
                "data": { "pad": "x".repeat(400) },
            });
            let body = event.to_string();
            let head = format!(
                "POST /v1/topics/orders/events HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\
                 Content-Type: application/cloudevents+json\r\nContent-Length: {}",
                body.len()
            );
            let since = Instant::now();
            let answer = Client::connect(admin).await.request(&head, &body).await;
            assert_eq!(answer.status(), 202, "{}", answer.text());
            published.push((id, since));
        }
        eventually("all to arrive", || {
            let arrivals = self.arrivals.lock();
            published.iter().all(|(id, _)| arrivals.contains_key(id))
        })
        .await;
        let arrivals = self.arrivals.lock();
        let mut took: Vec<_> = published.iter().map(|(id, since)| arrivals[id] - *since).collect();
        took.sort_unstable();
        took
    }
}

/// The least value that this share of the sorted ones does not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_and_a_dead_receiver_cost_a_healthy_one_nothing() {
    let campaign = std::env::var("SLUICE_CAMPAIGN").ok().and_then(|it| it.parse::<usize>().ok());
    let rig = Rig::new().await;
    rig.others("pause").await;
    rig.round("warm").await;
    let mut ratios = Vec::new();
    println!("round        alone p50    p99 ms   beside p50    p99 ms   ratio of p99");
    for number in 0..campaign.unwrap_or(3) {
        rig.others("pause").await;
        let alone = rig.round(&format!("alone-{number}")).await;
        rig.others("resume").await;
        let beside = rig.round(&format!("beside-{number}")).await;
        let [a, b] = [&alone, &beside].map(|took| (percentile(took, 50), percentile(took, 99)));
        let ratio = b.1.as_secs_f64() / a.1.as_secs_f64();
        println!(
            "{number:>5}   {:>14.2} {:>9.2} {:>12.2} {:>9.2} {ratio:>14.2}",
            millis(a.0),
            millis(a.1),
            millis(b.0),
            millis(b.1)
        );
        ratios.push(ratio);
        assert!(b.0 < a.0 + STALL, "{:?} in the middle", b.0);
    }
    ratios.sort_unstable_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    println!("median ratio of p99 over {} rounds: {median:.2}", ratios.len());
    // The others were at work: what they have not taken is still there.
    for name in ["slow", "dead"] {
        let shown = rig.gateway.json(&format!("/v1/subscriptions/{name}")).await;
        assert!(shown["lag_events"].as_u64().unwrap() > EVENTS / 2, "{shown}");
        assert_eq!(shown["dead_letters"]["count"], 0, "{shown}");
    }
    assert!(campaign.is_none() || median <= 1.2, "{median}");
}
