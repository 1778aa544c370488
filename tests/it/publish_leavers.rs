//! Clients that leave requests that publish, at every place: after each part of what they send, so long after
//! it that each wait of the gateway is hit, when the upstream has it, and while they read the answer. Each
//! effect of the upstream has its event or its `.uncertain`, and without an effect there is no event.
//!
//! `SLUICE_CAMPAIGN` is the number of rounds, 1 without it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    harness::{Origin, Reply, Running, eventually, killed::rounds, origin, within},
    publish::take,
};

/// Routes by name, and how each publishes.
const ROUTES: [(&str, &str); 6] = [
    ("after", ""),
    ("direct", ", intent: false"),
    ("async", ", ack: async"),
    ("before", ", mode: before"),
    ("ignored", ", on_error: ignore"),
    ("keyed", ""),
];
/// What the upstream does with an order.
const MANNERS: [&str; 5] = ["quick", "slow", "close", "reset", "cut"];
/// Clients at once.
const CLIENTS: usize = 8;
/// Of a round, by route: times after sending at which a client leaves, within [`LONGEST`].
const SPANS: u32 = 30;
const LONGEST: Duration = Duration::from_millis(15);

/// When a client leaves.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    /// So much of its request is sent.
    Sending(usize),
    /// So long after all of it.
    After(Duration),
    /// The upstream has it.
    Asked,
    /// It has so much of the answer.
    Reading(usize),
}

/// One client.
#[derive(Clone, Debug)]
struct Case {
    route: &'static str,
    order: String,
    leaves: Leaves,
    resets: bool,
}

fn yaml(folder: &std::path::Path, upstream: SocketAddr) -> String {
    let routes = ROUTES.map(|(name, how)| {
        let key = if name == "keyed" { "idempotency: { required: true }, " } else { "" };
        format!(
            "  - {{ name: {name}, match: {{ path: /{name} }}, upstream: shop, {key}\
             publish: {{ topic: orders, type: a, key: \"json:/order\"{how} }} }}\n"
        )
    });
    format!(
        "workers: 2\n\
         queue: {{ dir: \"{}\", disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
         topics: {{ orders: {{ partitions: 2 }} }}\n\
         subscriptions: [{{ name: all, topic: orders, from: earliest, order: none }}]\n\
         upstreams: {{ shop: {{ endpoints: [\"{upstream}\"] }} }}\n\
         routes:\n{}",
        folder.join("data").display(),
        routes.concat()
    )
}

fn order(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap();
    body["order"].as_str().unwrap().to_owned()
}

fn manner(order: &str) -> &str {
    order.rsplit('-').next().unwrap()
}

/// Requests of a round, each with its own order.
fn cases(round: u64) -> Vec<Case> {
    let mut cases = Vec::new();
    for (route, _) in ROUTES {
        let mut add = |leaves| {
            let number = cases.len();
            let order = format!("{route}-{round}-{number}-{}", MANNERS[number % MANNERS.len()]);
            cases.push(Case { route, order, leaves, resets: number % 3 == 0 });
        };
        let length = request(route, "x-0-000-quick").len();
        (0..=12).for_each(|part| add(Leaves::Sending(length * part / 12)));
        for span in 0..SPANS {
            let span = LONGEST * span / SPANS;
            let luck = Duration::from_micros(fastrand::u64(0..500));
            add(Leaves::After(span + luck));
        }
        for bytes in [1, 10, 17, 40, 80] {
            add(Leaves::Asked);
            add(Leaves::Reading(bytes));
        }
    }
    cases
}

fn request(route: &str, order: &str) -> String {
    let body = format!("{{\"order\":\"{order}\"}}");
    format!(
        "POST /{route} HTTP/1.1\r\nHost: a\r\nIdempotency-Key: \"{order}\"\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn leave(gateway: SocketAddr, case: &Case, asked: &Asked) {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    let request = request(case.route, &case.order);
    let sent = match case.leaves {
        Leaves::Sending(bytes) => bytes.min(request.len()),
        _ => request.len(),
    };
    stream.write_all(&request.as_bytes()[..sent]).await.unwrap();
    match case.leaves {
        Leaves::Sending(_) => {}
        Leaves::After(span) => tokio::time::sleep(span).await,
        Leaves::Asked => {
            eventually("the upstream to be asked", || asked.lock().contains(&case.order)).await;
        }
        Leaves::Reading(bytes) => {
            // An answer may be shorter, or broken off.
            let mut read = vec![0; bytes];
            drop(within("an answer", stream.read_exact(&mut read)).await);
        }
    }
    if case.resets {
        stream.set_zero_linger().unwrap();
    }
}

/// What has been asked for, by order.
type Asked = Arc<Mutex<BTreeSet<String>>>;

async fn shop(asked: &Asked) -> Origin {
    let asked = asked.clone();
    Origin::start(move |_, request| {
        let order = order(&request.body);
        asked.lock().insert(order.clone());
        match manner(&order) {
            "slow" => Reply::After(Duration::from_millis(5), origin::ok("done")),
            "close" => Reply::Close,
            "reset" => Reply::Reset,
            "cut" => Reply::AnswerThenClose(
                b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome".to_vec(),
            ),
            _ => Reply::Answer(origin::ok("done")),
        }
    })
    .await
}

/// By order: certain events, and uncertain ones.
async fn words(gateway: &Running) -> BTreeMap<String, (usize, usize)> {
    let mut words: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for event in take(gateway, "all").await {
        let word = words.entry(event["data"]["order"].as_str().unwrap().to_owned()).or_default();
        match event["type"].as_str().unwrap() {
            "a" => word.0 += 1,
            _ => word.1 += 1,
        }
    }
    words
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_client_leaves_each_effect_has_its_word() {
    let rounds = rounds(1);
    let asked = Arc::default();
    let shop = shop(&asked).await;
    let folder = tempfile::tempdir().unwrap();
    let gateway = Running::start(&yaml(folder.path(), shop.address()));
    let mut sent = Vec::new();
    for round in 0..rounds {
        let all = cases(round);
        let address = gateway.address();
        stream::iter(&all).for_each_concurrent(CLIENTS, |case| leave(address, case, &asked)).await;
        sent.extend(all);
    }
    within("every exchange to end", async {
        while gateway.metric("sluice_tasks_detached").await > 0.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let mut effects: BTreeMap<String, usize> = BTreeMap::new();
    for request in shop.requests() {
        assert!(request.is_complete, "half a request was sent");
        *effects.entry(order(&request.body)).or_default() += 1;
    }
    let words = words(&gateway).await;
    let uncertain = words.values().filter(|word| word.1 > 0).count();
    println!(
        "{} requests left, {} had an effect: {} events, {uncertain} of them uncertain",
        sent.len(),
        effects.len(),
        words.len()
    );
    for case in &sent {
        let effects = effects.get(&case.order).copied().unwrap_or(0);
        let word = words.get(&case.order).copied().unwrap_or_default();
        let breaks_off = ["close", "reset"].contains(&manner(&case.order));
        let expected = match (effects, breaks_off) {
            // What comes before the request needs no effect, and says nothing of one.
            _ if case.route == "before" => (word.0.max(effects), 0),
            (0, _) => (0, 0),
            (_, false) => (1, 0),
            (_, true) => (0, 1),
        };
        assert!(effects <= 1, "{case:?}: {effects} effects");
        assert_eq!(word, expected, "{case:?}: {effects} effects");
        let is_sent = !matches!(case.leaves, Leaves::Sending(_));
        assert!(
            !is_sent || !matches!(case.leaves, Leaves::Asked | Leaves::Reading(_)) || effects == 1
        );
    }
    assert!(effects.len() > sent.len() / 3, "most were carried out");
}
