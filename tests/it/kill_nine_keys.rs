//! `kill -9` of the program at each point between receipt and answer of requests with an idempotency key, each
//! sent three times at once and, by clients who do not give up, again three times at once after the kill.
//!
//! On a route that holds what is uncertain a key has at most one effect, and those of which nobody knows are
//! counted, listed and resolved. On a route whose upstream honours the key each has exactly one, and all
//! answers are equal. `SLUICE_CAMPAIGN` adds so many kills at random times.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    sync::Notify,
    task::{JoinSet, spawn_blocking},
};

use crate::harness::{
    Client, Origin, Reply, eventually,
    killed::{Connection, Program, STORE, rounds},
    within,
};

/// A key is used so often at once.
const TIMES: usize = 3;
/// The routes: one holds what is uncertain, the other sends it again.
const ROUTES: [&str; 2] = ["hold", "resend"];

/// When the program is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    /// Half of each request is sent.
    Upload,
    /// So long after all of them.
    After(Duration),
    /// The upstream has one and thinks about it.
    Asked,
    /// The upstream has sent half of its answer.
    HalfAnswered,
    /// A client has an answer.
    Heard,
}

/// The upstream: it does what it is asked, and on `/resend` knows keys again.
#[derive(Debug, Default)]
struct Shop {
    /// By key, the number of each effect.
    effects: BTreeMap<String, Vec<usize>>,
    next: usize,
}

/// What the clients of a key were told.
#[derive(Clone, Debug, Default)]
struct Told {
    /// Bodies of all successes.
    answers: BTreeSet<String>,
    is_uncertain: bool,
}

fn yaml(upstream: SocketAddr) -> String {
    let routes = ROUTES.map(|route| {
        format!(
            "  - {{ name: {route}, match: {{ path: /{route} }}, upstream: shop, \
             idempotency: {{ required: true, on_uncertain: {route} }}, \
             publish: {{ topic: orders, type: order.created }} }}\n"
        )
    });
    format!(
        "{STORE}\
         topics: {{ orders: {{ dedup: {{ window: 1s }} }} }}\n\
         upstreams: {{ shop: {{ endpoints: [\"{upstream}\"] }} }}\n\
         routes:\n{}",
        routes.concat()
    )
}

fn body(key: &str) -> String {
    json!({ "order": key }).to_string()
}

// === impl Point ===

impl Point {
    /// Each of them, and `more` at random times.
    fn all(more: u64) -> Vec<Self> {
        let times = [200, 1_500, 6_000].map(|micros| Self::After(Duration::from_micros(micros)));
        let named = [Self::Upload, Self::Asked, Self::HalfAnswered, Self::Heard];
        let luck = (0..more).map(|_| Self::After(Duration::from_micros(fastrand::u64(0..25_000))));
        named.into_iter().chain(times).chain(luck).collect()
    }

    fn of(key: &str, points: &[Self]) -> Self {
        let number: usize = key.rsplit('-').next().unwrap().parse().unwrap();
        points[number]
    }
}

// === impl Shop ===

impl Shop {
    /// An order, and how often its key has come before.
    fn take(&mut self, key: &str, knows_keys: bool) -> (String, usize) {
        let effects = self.effects.entry(key.to_owned()).or_default();
        let before = effects.len();
        if before == 0 || !knows_keys {
            effects.push(self.next);
            self.next += 1;
        }
        let number = effects.last().copied().unwrap_or_default();
        (format!("{{\"number\":{number}}}"), before)
    }
}

struct Rig {
    shop: Arc<Mutex<Shop>>,
    upstream: Origin,
    points: Arc<[Point]>,
    folder: tempfile::TempDir,
    storage: &'static str,
    told: BTreeMap<String, Told>,
}

impl Rig {
    async fn new(storage: &'static str) -> Self {
        let points: Arc<[Point]> = Point::all(rounds(0)).into();
        let shop = Arc::new(Mutex::new(Shop::default()));
        let upstream = Origin::start({
            let (shop, points) = (shop.clone(), points.clone());
            move |_, request| {
                let asked: Value = serde_json::from_slice(&request.body).unwrap();
                let key = asked["order"].as_str().unwrap();
                assert_eq!(
                    request.field("idempotency-key").map(|it| it.trim_matches('"')),
                    Some(key)
                );
                let (body, before) = shop.lock().take(key, request.target() == "/resend");
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 201 Created\r\ncontent-length: {length}\r\n\r\n{body}");
                match (Point::of(key, &points), before) {
                    (Point::Asked, 0) => Reply::Hang,
                    (Point::HalfAnswered, 0) => {
                        Reply::Answer(answer.as_bytes()[..answer.len() - 4].to_vec())
                    }
                    _ => Reply::Answer(answer.into_bytes()),
                }
            }
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("gateway.yaml"), yaml(upstream.address())).unwrap();
        Self { shop, upstream, points, folder, storage, told: BTreeMap::new() }
    }

    async fn start(&self) -> Program {
        let (folder, storage) = (self.folder.path().to_owned(), self.storage);
        spawn_blocking(move || Program::start(&folder, storage)).await.unwrap()
    }

    fn effects(&self, key: &str) -> usize {
        self.shop.lock().effects.get(key).map_or(0, Vec::len)
    }

    /// Sends each key of this life three times at once, and kills the program.
    async fn live(&mut self, program: Program, number: usize) {
        let point = self.points[number];
        let heard = Arc::new(Notify::new());
        let mut clients = JoinSet::new();
        let mut uploads = Vec::new();
        for route in ROUTES {
            let key = format!("{route}-{number}");
            for _ in 0..TIMES {
                if point == Point::Upload {
                    uploads.push(half(program.web, route, &key).await);
                    continue;
                }
                let (web, key, heard) = (program.web, key.clone(), heard.clone());
                clients.spawn(async move {
                    let answer = send(web, route, &key).await;
                    if answer.as_ref().is_some_and(|(status, _)| *status == 201) {
                        heard.notify_one();
                    }
                    (key, answer)
                });
            }
        }
        match point {
            Point::Upload => {}
            Point::After(span) => tokio::time::sleep(span).await,
            Point::Asked | Point::HalfAnswered => {
                eventually("the upstream to be asked", || {
                    ROUTES.iter().all(|route| self.effects(&format!("{route}-{number}")) == 1)
                })
                .await;
            }
            Point::Heard => within("an answer", heard.notified()).await,
        }
        drop(program);
        for (key, answer) in clients.join_all().await {
            if let Some((201, body)) = answer {
                self.told.entry(key).or_default().answers.insert(body);
            }
        }
    }

    /// Sends each key of a life three times at once until all know.
    async fn ask_again(&mut self, web: SocketAddr, number: usize) {
        for route in ROUTES {
            let key = format!("{route}-{number}");
            let mut clients = JoinSet::new();
            for _ in 0..TIMES {
                clients.spawn(within_reason(web, route, key.clone()));
            }
            let told = self.told.entry(key).or_default();
            for answer in clients.join_all().await {
                match answer {
                    Some(body) => drop(told.answers.insert(body)),
                    None => told.is_uncertain = true,
                }
            }
        }
    }
}

/// Half of a request, on a connection that stays open.
async fn half(web: SocketAddr, route: &str, key: &str) -> TcpStream {
    let body = body(key);
    let text = format!(
        "POST /{route} HTTP/1.1\r\nHost: a\r\nIdempotency-Key: \"{key}\"\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{}",
        body.len(),
        &body[..body.len() / 2]
    );
    let mut stream = TcpStream::connect(web).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// Status and body, or reason; none: the program died.
async fn send(web: SocketAddr, route: &str, key: &str) -> Option<(u16, String)> {
    let (path, body) = (format!("/{route}"), body(key));
    let fields = format!("Idempotency-Key: \"{key}\"\r\n");
    let ask = move || Connection(web).ask_with("POST", &path, &fields, &body);
    let (status, answer) = spawn_blocking(ask).await.unwrap()?;
    let code = answer["code"].as_str().map(str::to_owned);
    Some((status, code.unwrap_or_else(|| answer.to_string())))
}

/// The body of a success, once there is one; none: nobody knows.
async fn within_reason(web: SocketAddr, route: &'static str, key: String) -> Option<String> {
    within("a last word", async {
        loop {
            match send(web, route, &key).await {
                Some((201, body)) => return Some(body),
                Some((409, code)) if code == "idempotency-uncertain" => return None,
                Some((409, code)) if code == "idempotency-in-flight" => {}
                other => panic!("{key}: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// Keys that are held, as the metric counts them.
async fn held(admin: SocketAddr) -> String {
    let head = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close";
    let text = Client::connect(admin).await.request(head, "").await.text();
    let series = "sluice_queue_uncertain_keys ";
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.parse::<f64>().ok());
    value.unwrap_or_else(|| panic!("{text}")).to_string()
}

async fn ask(admin: SocketAddr, method: &'static str, path: String, body: String) -> (u16, Value) {
    let what = format!("{method} {path}");
    let answer = spawn_blocking(move || Connection(admin).ask(method, &path, &body)).await.unwrap();
    answer.unwrap_or_else(|| panic!("{what} is not answered"))
}

/// An operator looks at the upstream and says what became of each key. How many there were.
async fn resolve(rig: &Rig, admin: SocketAddr) -> usize {
    let (_, listed) =
        ask(admin, "GET", "/v1/idempotency?state=uncertain".into(), String::new()).await;
    let listed = listed["keys"].as_array().cloned().unwrap();
    assert_eq!(held(admin).await, listed.len().to_string(), "as many are counted as are listed");
    for it in &listed {
        let key = it["key"].as_str().unwrap();
        let outcome = if rig.effects(key) > 0 { "done" } else { "not_done" };
        let path = format!("/v1/idempotency/{}/resolve", it["id"].as_str().unwrap());
        let said = ask(admin, "POST", path, json!({ "outcome": outcome }).to_string()).await;
        assert_eq!(said.0, 200, "{key}: {}", said.1);
    }
    assert_eq!(held(admin).await, "0");
    listed.len()
}

#[expect(clippy::print_stdout, reason = "what a campaign came to is for whoever ran it")]
async fn campaign(storage: &'static str) {
    let mut rig = Rig::new(storage).await;
    let mut program = rig.start().await;
    for number in 0..rig.points.len() {
        rig.live(program, number).await;
        program = rig.start().await;
        rig.ask_again(program.web, number).await;
    }
    let uncertain: BTreeSet<String> =
        rig.told.iter().filter(|(_, told)| told.is_uncertain).map(|(key, _)| key.clone()).collect();
    let resolved = resolve(&rig, program.admin).await;
    assert_eq!(resolved, uncertain.len(), "each key that clients were left with: {uncertain:?}");
    for key in &uncertain {
        let had_effect = rig.effects(key) == 1;
        let (status, _) = send(program.web, "hold", key).await.unwrap();
        assert_eq!(status, if had_effect { 200 } else { 201 }, "{key} is settled");
    }
    println!(
        "{storage}: {} kills, {} keys sent {TIMES} times at once and again, {} requests at the upstream, \
         {resolved} uncertain and resolved",
        rig.points.len(),
        rig.told.len(),
        rig.upstream.requests().len(),
    );
    for (key, told) in &rig.told {
        let point = Point::of(key, &rig.points);
        assert_eq!(rig.effects(key), 1, "{key}, {point:?}: one effect, after all was said");
        assert!(told.answers.len() <= 1, "{key}, {point:?}: {:?}", told.answers);
        let is_resend = key.starts_with("resend");
        assert!(!is_resend || (told.answers.len() == 1 && !told.is_uncertain), "{key}, {point:?}");
        assert!(
            !told.is_uncertain || told.answers.is_empty(),
            "{key}, {point:?}: known and unknown"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_one_effect_wherever_the_program_is_killed_on_real_files() {
    campaign("real").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_one_effect_wherever_the_program_is_killed_where_unsynced_bytes_are_lost() {
    campaign("lossy").await;
}
