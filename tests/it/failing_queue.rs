//! A route that publishes beside a queue that fails while it runs: what clients of that route see, that those of
//! others see nothing of it, and that all is well again when the disk is, without a restart.
//!
//! The disk is the file size that the process may write, which is taken from it and given back while it runs:
//! on real files each write fails, as on a full disk; on lossy ones, which keep what they are given until it is
//! synced, each sync fails, which poisons the log. Campaigns (`SLUICE_CAMPAIGN`) do it so often.

use std::{net::SocketAddr, time::Duration};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    harness::{
        Client, Message, Origin, Reply,
        customers::effects,
        eventually,
        killed::{BACK, Connection, Program, STORE, rounds},
        origin, within,
    },
    kill_nine_requests::audit,
};

/// Each route, and what it says beside its topic and type.
const ROUTES: [(&str, &str); 4] = [
    ("fail", ""),
    ("ignore", ", on_error: ignore"),
    ("before", ", mode: before"),
    ("direct", ", intent: false"),
];
/// A request that has nothing to do with the queue takes no longer, on a busy machine.
const LONGEST: Duration = Duration::from_secs(10);

fn yaml(upstream: SocketAddr) -> String {
    let routes = ROUTES.map(|(name, how)| {
        format!(
            "  - {{ name: {name}, match: {{ path: /{name} }}, upstream: shop, \
             publish: {{ topic: orders, type: order.created{how} }} }}\n"
        )
    });
    format!(
        "{STORE}\
         topics: {{ orders: {{ dedup: {{ window: 1s }} }} }}\n\
         subscriptions: [{{ name: audit, topic: orders, from: earliest, order: none }}]\n\
         upstreams: {{ shop: {{ endpoints: [\"{upstream}\"] }} }}\n\
         routes:\n{}  - {{ name: other, match: {{ path: /other }}, upstream: shop }}\n",
        routes.concat()
    )
}

struct Rig {
    program: Program,
    shop: Origin,
    _folder: tempfile::TempDir,
}

impl Rig {
    async fn new(storage: &'static str) -> Self {
        let shop = Origin::start(|_, request| {
            let done = origin::ok("done");
            if request.text().contains("slow") {
                Reply::After(Duration::from_millis(700), done)
            } else {
                Reply::Answer(done)
            }
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("gateway.yaml"), yaml(shop.address())).unwrap();
        let path = folder.path().to_owned();
        let start = move || Program::start_where_files_are_limited(&path, storage);
        let program = tokio::task::spawn_blocking(start).await.unwrap();
        Self { program, shop, _folder: folder }
    }

    /// The disk takes so many bytes of a file and no more; `None`: whatever there is.
    fn disk(&self, bytes: Option<u64>) {
        let limit = Rlimit { current: bytes, maximum: None };
        let pid = Pid::from_raw(self.program.pid().try_into().unwrap());
        prlimit(pid, Resource::Fsize, limit).unwrap();
    }

    async fn post(&self, route: &str, order: &str) -> Message {
        post(self.program.web, route, order).await
    }

    /// So often the upstream was sent an order.
    fn effects(&self, order: &str) -> usize {
        let body = body(order);
        self.shop.requests().iter().filter(|it| it.text() == body).count()
    }
}

fn body(order: &str) -> String {
    json!({ "order": order }).to_string()
}

async fn post(web: SocketAddr, route: &str, order: &str) -> Message {
    let body = body(order);
    let head = format!(
        "POST /{route} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}",
        body.len()
    );
    let mut client = Client::connect(web).await;
    within("an answer", client.request(&head, &body)).await
}

fn code(answer: &Message) -> String {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    body["code"].as_str().unwrap_or_default().to_owned()
}

/// What one storage does when the disk fails: the codes that routes may be refused with.
async fn campaign(storage: &'static str, expected: &[&str]) {
    let rounds = rounds(1);
    let rig = Rig::new(storage).await;
    for round in 0..rounds {
        fail_once(&rig, round, expected).await;
    }
    let admin = rig.program.admin;
    let found = tokio::task::spawn_blocking(move || audit(admin)).await.unwrap();
    let mut effects = effects(&rig.shop.requests());
    effects.retain(|order, _| !order.contains("other"));
    for (order, count) in &effects {
        let (certain, uncertain) = found.get(order).copied().unwrap_or_default();
        let may_be_lost = order.starts_with("direct");
        assert_eq!(*count, 1, "{order}");
        // Without an intent nothing remembers what the disk did not take: that is what `intent: false` says.
        assert!(
            certain + uncertain == 1 || may_be_lost && certain + uncertain == 0,
            "{order}: {certain} and {uncertain}"
        );
    }
    for (order, (certain, _)) in &found {
        assert!(
            *certain == 0 || effects.contains_key(order) || order.contains("before"),
            "{order}"
        );
    }
}

async fn fail_once(rig: &Rig, round: u64, expected: &[&str]) {
    for (route, _) in ROUTES {
        let answer = rig.post(route, &format!("{route}-{round}-well")).await;
        assert_eq!(answer.status(), 200, "{route}: {}", answer.text());
    }
    // The upstream has these when the disk fails.
    let slow = ROUTES.map(|(route, _)| {
        let (web, order) = (rig.program.web, format!("{route}-{round}-slow"));
        tokio::spawn(async move { post(web, route, &order).await })
    });
    for (route, _) in ROUTES {
        let order = format!("{route}-{round}-slow");
        eventually(&order, || rig.effects(&order) == 1).await;
    }
    rig.disk(Some(4096));
    let told = futures_util::future::join_all(slow).await;
    for ((route, _), answer) in ROUTES.iter().zip(told) {
        let answer = answer.unwrap();
        let status = if matches!(*route, "fail" | "direct") { 503 } else { 200 };
        assert_eq!(answer.status(), status, "{route}: {}", answer.text());
    }
    // Nothing is sent of what comes now, and others do not notice.
    for (route, _) in ROUTES {
        let order = format!("{route}-{round}-refused");
        let refused = rig.post(route, &order).await;
        let code = code(&refused);
        assert!(refused.status() == 503 && expected.contains(&&*code), "{route}: {code}");
        assert!(refused.field("retry-after").is_some(), "{route}");
        // Without an intent the first write is that of the event: a failure that no permit foresees comes too late.
        assert!(rig.effects(&order) == 0 || route == "direct", "{route}: it was sent");
    }
    for number in 0..20 {
        let since = Instant::now();
        let answer = rig.post("other", &format!("other-{round}-{number}")).await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, "done"));
        assert!(since.elapsed() < LONGEST, "{:?}", since.elapsed());
    }
    let alive = Client::connect(rig.program.admin).await.get("/livez").await;
    assert_eq!(alive.status(), 200);

    rig.disk(None);
    // A poisoned topic waits for its operator; the records of requests come back by themselves, within 30 s.
    let until = Instant::now() + BACK;
    for (route, _) in ROUTES {
        for number in 0.. {
            let answer = rig.post(route, &format!("{route}-{round}-again-{number}")).await;
            if answer.status() == 200 {
                break;
            }
            assert!(Instant::now() < until, "{route}: {}", answer.text());
            let admin = rig.program.admin;
            let reopen = move || Connection(admin).ask("POST", "/v1/topics/orders/reopen", "");
            tokio::task::spawn_blocking(reopen).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_refuses_routes_that_publish_and_nobody_else() {
    campaign("real", &["queue-disk"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_log_refuses_routes_that_publish_and_nobody_else() {
    // A log that wants a new file just then finds no room for it, and is not poisoned.
    campaign("lossy", &["queue-unavailable", "queue-disk"]).await;
}
