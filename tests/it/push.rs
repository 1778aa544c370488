//! Pushed events over real sockets: what a receiver is sent, what its answers do, and what is left of
//! it all by a restart, a kill and a reload.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use sluicegate::gateway::Options;
use standardwebhooks::Webhook;
use tokio::time::Instant;

use crate::harness::{
    Client, Message, Origin, Reply, Running, dead_address,
    killed::{Connection, Program, live, rounds},
    origin, within,
};

const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// Failures come again at once, and nearly for ever.
const AT_ONCE: &str = "retry: { schedule: [0s], max_attempts: 1000 }";

/// A store in `folder` with a topic and these subscriptions, one a line.
fn store(folder: &Path, subscriptions: &[String]) -> String {
    let lines: Vec<_> = subscriptions
        .iter()
        .map(|rest| format!("  - {{ topic: orders, from: earliest, {rest} }}\n"))
        .collect();
    format!(
        "queue: {{ dir: \"{}\", disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
         topics: {{ orders: {{ partitions: 4 }} }}\nsubscriptions:\n{}",
        folder.join("data").display(),
        lines.concat()
    )
}

/// A subscription of this name that pushes to `address`.
fn to(name: &str, address: SocketAddr, push: &str, rest: &str) -> String {
    format!("name: {name}, push: {{ url: \"http://{address}/{name}?a=b\"{push} }}, {rest}")
}

async fn publish(gateway: &Running, events: &[Value]) {
    let admin = gateway.gateway().admin_address();
    let body = json!(events).to_string();
    let head = format!(
        "POST /v1/topics/orders/events HTTP/1.1\nHost: {admin}\nConnection: close\n\
         Content-Type: application/cloudevents-batch+json\nContent-Length: {}",
        body.len()
    );
    let answer = Client::connect(admin).await.request(&head, &body).await;
    assert_eq!(answer.status(), 202, "{}", answer.text());
}

fn event(id: &str, key: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/shop", "type": "order.created",
        "subject": key, "data": { "id": id },
    })
}

/// The ID of the event that was sent, structured.
fn id(message: &Message) -> String {
    let event: Value = serde_json::from_slice(&message.body).unwrap();
    event["id"].as_str().unwrap().to_owned()
}

fn status(line: &str) -> Reply {
    let (line, fields) = line.split_once('\n').unwrap_or((line, ""));
    let fields = if fields.is_empty() { String::new() } else { format!("{fields}\r\n") };
    Reply::Answer(format!("HTTP/1.1 {line}\r\n{fields}content-length: 2\r\n\r\nno").into_bytes())
}

fn done() -> Reply {
    Reply::Answer(origin::ok(""))
}

async fn subscription(gateway: &Running, name: &str) -> Value {
    gateway.json(&format!("/v1/subscriptions/{name}")).await
}

/// Waits until the subscription's state is as wanted.
async fn until(gateway: &Running, name: &str, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    within(what, async {
        loop {
            let shown = subscription(gateway, name).await;
            if is_it(&shown) {
                return shown;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// Everything that was published is settled.
async fn settled(gateway: &Running, name: &str) -> Value {
    until(gateway, name, "all to be settled", |shown| {
        shown["lag_events"] == 0 && shown["in_flight"] == 0
    })
    .await
}

fn verify(secret: &str, message: &Message) -> bool {
    let mut headers = http::HeaderMap::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        headers.insert(name, message.field(name).unwrap_or_default().parse().unwrap());
    }
    Webhook::new(secret).unwrap().verify(&message.body, &headers).is_ok()
}

#[tokio::test]
async fn an_event_is_sent_in_the_form_that_is_asked_for_and_signed_with_each_secret() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Origin::ok("").await;
    let secret = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("{text}\n")).unwrap();
        format!("file:{}", path.display())
    };
    let secrets = format!(", secrets: [\"{}\", \"{}\"]", secret("new", NEW), secret("old", OLD));
    let gateway = Running::start(&store(
        folder.path(),
        &[
            to("structured", receiver.address(), &secrets, ""),
            to("binary", receiver.address(), ", format: binary", ""),
            to("raw", receiver.address(), ", format: raw", ""),
        ],
    ));
    let mut sent = event("ord/1", "K\u{fc}nde 7");
    sent["traceparent"] = json!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
    sent["vip"] = json!(true);
    publish(&gateway, &[sent.clone()]).await;
    receiver.wait_for(3).await;
    let requests = receiver.requests();
    let of = |name: &str| {
        let line = format!("POST /{name}?a=b HTTP/1.1");
        requests.iter().find(|it| it.line == line).unwrap_or_else(|| panic!("{requests:#?}"))
    };

    let structured = of("structured");
    assert_eq!(structured.field("content-type"), Some("application/cloudevents+json"));
    let told: Value = serde_json::from_slice(&structured.body).unwrap();
    assert_eq!(
        (&told["id"], &told["data"], &told["vip"]),
        (&sent["id"], &sent["data"], &json!(true))
    );
    assert!(verify(OLD, structured) && verify(NEW, structured), "{structured:?}");
    assert_eq!(structured.field("host"), Some(receiver.address().to_string().as_str()));

    let binary = of("binary");
    assert_eq!(binary.field("content-type"), None, "the event has none");
    assert_eq!(binary.text(), r#"{"id":"ord/1"}"#);
    assert_eq!((binary.field("ce-id"), binary.field("ce-vip")), (Some("ord/1"), Some("true")));
    assert_eq!(binary.field("ce-subject"), Some("K%C3%BCnde%207"));
    assert_eq!(binary.field("webhook-signature"), None, "without secrets");

    let raw = of("raw");
    assert_eq!(raw.text(), r#"{"id":"ord/1"}"#);
    assert!(raw.fields.iter().all(|(name, _)| !name.starts_with("ce-")), "{raw:?}");
    for message in [structured, binary, raw] {
        let id = message.field("webhook-id").unwrap();
        assert_eq!(Some(id), structured.field("webhook-id"), "one for all");
        assert_eq!(id.as_bytes()[14], b'5', "a UUIDv5, for the ID has a slash: {id}");
        assert_eq!(message.field("sluice-attempt"), Some("1"));
        assert_eq!(message.field("sluice-key"), Some("K%C3%BCnde%207"));
        assert_eq!(message.field("sluice-replay"), None);
        assert!(message.field("sluice-sequence").is_some_and(|it| it.ends_with(":0")));
        assert!(message.field("traceparent").unwrap().contains("0af7651916cd43dd8448eb211c80319c"));
    }
    for name in ["structured", "binary", "raw"] {
        settled(&gateway, name).await;
    }
}

#[tokio::test]
async fn nobody_fetches_what_is_pushed_and_a_replay_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Origin::ok("").await;
    let gateway = Running::start(&store(folder.path(), &[to("all", receiver.address(), "", "")]));
    publish(&gateway, &[event("1", "a")]).await;
    settled(&gateway, "all").await;
    let refused = gateway.admin_with("POST", "/v1/subscriptions/all/receive", "{}").await;
    assert_eq!(refused.status(), 409, "{}", refused.text());
    let replay = r#"{"subscription":"all","from":"earliest"}"#;
    let started = gateway.admin_with("POST", "/v1/topics/orders/replay", replay).await;
    assert_eq!(started.status(), 202, "{}", started.text());
    receiver.wait_for(2).await;
    assert_eq!(receiver.requests()[1].field("sluice-replay"), Some("true"));
}

/// What each event is answered, attempt by attempt; then 200.
const SCRIPT: [(&str, &[&str]); 11] = [
    ("ok", &["204 No Content\nx: y"]),
    ("error", &["500 Oops", "502 Bad Gateway"]),
    ("late", &["408 Request Timeout", "425 Too Early"]),
    ("moved", &["307 Temporary Redirect\nlocation: /elsewhere"]),
    ("busy", &["429 Too Many Requests"]),
    ("asks", &["503 Service Unavailable\nretry-after: 1"]),
    ("silent", &["hang"]),
    ("cut", &["close"]),
    ("odd", &["422 Unprocessable", "200 OK"]),
    ("wrong", &["400 Bad Request", "422 Unprocessable"]),
    ("large", &["413 Too Large", "413 Too Large"]),
];

#[tokio::test]
async fn each_answer_does_what_the_table_says() {
    let folder = tempfile::tempdir().unwrap();
    let script: BTreeMap<&str, &[&str]> = SCRIPT.into();
    let answers: BTreeMap<String, Vec<String>> = script
        .iter()
        .map(|(id, answers)| {
            ((*id).to_owned(), answers.iter().map(|it| (*it).to_owned()).collect())
        })
        .collect();
    let left = Arc::new(Mutex::new(answers));
    let receiver = Origin::start(move |_, message| {
        let mut left = left.lock();
        let answers = left.get_mut(&id(message)).unwrap();
        match if answers.is_empty() { "200 OK".to_owned() } else { answers.remove(0) }.as_str() {
            "hang" => Reply::Hang,
            "close" => Reply::Close,
            line => status(line),
        }
    })
    .await;
    let rest = "order: none, retry: { schedule: [0s, 10ms], max_attempts: 5 }";
    let push = to("all", receiver.address(), ", timeout: 500ms", rest);
    let gateway = Running::start(&store(folder.path(), &[push]));
    // One after the other: a row of failures would open the circuit, and burn no attempts.
    for id in script.keys() {
        publish(&gateway, &[event(id, id)]).await;
        settled(&gateway, "all").await;
    }
    let shown = subscription(&gateway, "all").await;
    assert_eq!(shown["dead_letters"]["count"], 2, "{shown}");
    let page = gateway.json("/v1/subscriptions/all/dead-letters").await;
    let dead: BTreeMap<_, _> = page["dead_letters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            (it["event_id"].as_str().unwrap(), (it["reason"].clone(), it["last_error"].clone()))
        })
        .collect();
    let rejected = (json!("rejected"), json!("no"));
    assert_eq!(dead, [("large", rejected.clone()), ("wrong", rejected)].into(), "{page}");

    let mut attempts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for message in receiver.requests() {
        assert_eq!(message.target(), "/all?a=b", "no redirect is followed");
        let attempt = message.field("sluice-attempt").unwrap().to_owned();
        attempts.entry(id(&message)).or_default().push(attempt);
    }
    for (id, answers) in script {
        let least = answers.len() + usize::from(!matches!(id, "ok" | "odd" | "wrong" | "large"));
        let expected: Vec<_> = (1..=least).map(|number| number.to_string()).collect();
        assert_eq!(attempts[id], expected, "{id}");
    }
}

#[tokio::test]
async fn events_of_a_key_come_in_order_at_a_receiver_that_fails_now_and_then() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Origin::start(|number, _| match number % 7 {
        3 => status("500 Oops"),
        5 => Reply::Close,
        _ => done(),
    })
    .await;
    let push = to("all", receiver.address(), "", AT_ONCE);
    let gateway = Running::start(&store(folder.path(), &[push]));
    let events: Vec<_> =
        (0..120).map(|n| event(&format!("{}-{:03}", n % 6, n / 6), &(n % 6).to_string())).collect();
    publish(&gateway, &events).await;
    settled(&gateway, "all").await;
    // In the order of their first sight, each key counts up; nothing is seen before what is before it
    // was answered.
    let mut first = BTreeSet::new();
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    for message in receiver.requests() {
        let id = id(&message);
        let (key, number) = id.split_once('-').unwrap();
        let before = last.insert(key.to_owned(), number.to_owned()).unwrap_or_default();
        assert!(before.as_str() <= number, "{id} after {before}");
        first.insert(id);
    }
    assert_eq!(first.len(), 120);
}

#[tokio::test]
async fn a_receiver_that_is_gone_for_good_is_left_alone_until_it_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Origin::start(|number, _| match number {
        0 => status("410 Gone"),
        _ => done(),
    })
    .await;
    let push = to("all", receiver.address(), "", "");
    let gateway = Running::start(&store(folder.path(), &[push]));
    publish(&gateway, &[event("1", "a"), event("2", "a")]).await;
    let shown = until(&gateway, "all", "it to be disabled", |it| it["state"] != "active").await;
    assert_eq!(shown["lag_events"], 2, "its backlog is kept: {shown}");
    assert_eq!(receiver.requests().len(), 1);
    let resumed = gateway.admin_with("POST", "/v1/subscriptions/all/resume", "{}").await;
    assert!(resumed.status() < 300, "{}", resumed.text());
    settled(&gateway, "all").await;
    assert_eq!(receiver.requests().len(), 3);
}

#[tokio::test]
async fn a_receiver_that_asks_for_time_gets_it() {
    let folder = tempfile::tempdir().unwrap();
    let times = Arc::new(Mutex::new(Vec::new()));
    let seen = times.clone();
    let receiver = Origin::start(move |number, _| {
        seen.lock().push(Instant::now());
        match number {
            0 => status("429 Too Many Requests\nretry-after: 1"),
            _ => done(),
        }
    })
    .await;
    let push = to("all", receiver.address(), "", AT_ONCE);
    let gateway = Running::start(&store(folder.path(), &[push]));
    publish(&gateway, &[event("1", "a")]).await;
    settled(&gateway, "all").await;
    let times = times.lock();
    assert_eq!(times.len(), 2);
    assert!(times[1] - times[0] >= Duration::from_millis(900), "{times:?}");
}

#[tokio::test]
async fn dead_and_silent_receivers_delay_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let silent = Origin::start(|_, _| Reply::Hang).await;
    let healthy = Origin::ok("").await;
    let gateway = Running::start(&store(
        folder.path(),
        &[
            to("dead", dead_address(), "", AT_ONCE),
            to("silent", silent.address(), "", ""),
            to("healthy", healthy.address(), "", ""),
        ],
    ));
    let events: Vec<_> = (0..100).map(|n| event(&n.to_string(), &n.to_string())).collect();
    publish(&gateway, &events).await;
    silent.wait_for(1).await;
    settled(&gateway, "healthy").await;
    assert_eq!(healthy.requests().len(), 100);
    for name in ["dead", "silent"] {
        let shown = subscription(&gateway, name).await;
        assert_eq!(shown["lag_events"], 100, "{shown}");
        assert_eq!(shown["dead_letters"]["count"], 0, "an outage burns no attempt: {shown}");
    }
    // Whoever is woken reads why, and not only that it waits.
    let why = |shown: &Value| shown["reason"].as_str().unwrap_or_default().to_owned();
    let shown =
        until(&gateway, "dead", "a reason", |shown| why(shown).contains("Connection refused"))
            .await;
    assert!(
        why(&shown).starts_with("the last push failed: upstream-connect: push http://"),
        "{shown}"
    );
    assert_eq!(why(&shown).matches("upstream-connect").count(), 1, "{shown}");
    assert_eq!(subscription(&gateway, "healthy").await["reason"], Value::Null);
}

#[tokio::test]
async fn a_restart_delivers_what_was_on_its_way_again_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Origin::start(|number, message| match id(message).as_str() {
        "2" if number < 2 => Reply::Hang,
        _ => done(),
    })
    .await;
    let push = to("all", receiver.address(), "", "");
    let yaml = store(folder.path(), &[push]);
    let gateway = Running::start(&yaml);
    publish(&gateway, &[event("1", "a")]).await;
    settled(&gateway, "all").await;
    publish(&gateway, &[event("2", "b")]).await;
    receiver.wait_for(2).await;
    drop(gateway);

    let gateway = Running::start(&yaml);
    settled(&gateway, "all").await;
    let requests = receiver.requests();
    let sent: Vec<_> =
        requests.iter().map(|it| (id(it), it.field("sluice-attempt").unwrap())).collect();
    let sent: Vec<_> = sent.iter().map(|(id, attempt)| (id.as_str(), *attempt)).collect();
    assert_eq!(sent, [("1", "1"), ("2", "1"), ("2", "2")]);
}

#[tokio::test]
async fn a_reload_sends_what_follows_and_what_waits_to_the_new_url() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Origin::start(|_, _| status("500 Oops")).await, Origin::ok("").await);
    let path = folder.path().join("gateway.yaml");
    let write = |address| {
        let rest = "retry: { schedule: [0s, 20ms], max_attempts: 1000 }";
        let yaml = store(folder.path(), &[to("all", address, "", rest)]);
        let text = format!(
            "listeners: [{{ name: web, address: 127.0.0.1:0 }}]\n\
             admin: {{ address: 127.0.0.1:0 }}\n\
             telemetry: {{ access_log: {{ path: off }} }}\n{yaml}"
        );
        std::fs::write(&path, text).unwrap();
    };
    write(old.address());
    let config = sluicegate::config::load(&path).unwrap().config;
    let options = Options { source: Some(path.clone()), ..Options::default() };
    let gateway = Running::start_with(config, options);
    publish(&gateway, &[event("1", "a")]).await;
    old.wait_for(2).await;
    write(new.address());
    let answer = gateway.admin("POST", "/v1/reload").await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    settled(&gateway, "all").await;
    assert_eq!(new.requests().len(), 1);
    publish(&gateway, &[event("2", "a")]).await;
    settled(&gateway, "all").await;
    assert_eq!(new.requests().len(), 2);
}

/// Publishes one event after the other until the program is gone; those that were acknowledged.
fn publish_until_killed(admin: SocketAddr, key: u64, first: u64) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in first.. {
        let id = format!("{key}-{number:06}");
        let body = event(&id, &key.to_string()).to_string();
        match Connection(admin).ask("POST", "/v1/topics/orders/events", &body) {
            Some((202, _)) => acknowledged.push(id),
            _ => break,
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_program_delivers_every_acknowledged_event_and_each_key_in_order() {
    let kills = rounds(3);
    let receiver = Origin::start(|number, _| match number % 11 {
        7 => status("500 Oops"),
        9 => Reply::After(Duration::from_millis(20), origin::ok("")),
        _ => done(),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let push = to("all", receiver.address(), "", "retry: { schedule: [0s], max_attempts: 1000 }");
    let yaml = store(folder.path(), &[push]);
    let text = format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0 }}]\nadmin: {{ address: 127.0.0.1:0 }}\n\
         routes: [{{ name: a, match: {{ path: /a }}, respond: {{ body: a }} }}]\n{yaml}"
    );
    std::fs::write(folder.path().join("gateway.yaml"), text).unwrap();
    let path = folder.path().to_owned();
    let (acknowledged, program) = tokio::task::spawn_blocking(move || {
        let mut acknowledged = BTreeSet::new();
        let mut next = [0; 3];
        for _ in 0..kills {
            let program = Program::start(&path, "real");
            let admin = program.admin;
            let publishers: Vec<_> = (0..3)
                .zip(next)
                .map(|(key, first)| move |_: &AtomicBool| publish_until_killed(admin, key, first))
                .collect();
            let span = Duration::from_millis(fastrand::u64(100..500));
            for (key, ids) in live(program, span, publishers).into_iter().enumerate() {
                // The one that was not answered may be there too: its number is not used again.
                next[key] += u64::try_from(ids.len()).unwrap() + 1;
                acknowledged.extend(ids);
            }
        }
        (acknowledged, Program::start(&path, "real"))
    })
    .await
    .unwrap();
    assert!(!acknowledged.is_empty());
    let is_there = || {
        let seen: BTreeSet<_> = receiver.requests().iter().map(id).collect();
        acknowledged.iter().all(|id| seen.contains(id))
    };
    within("every acknowledged event", async {
        while !is_there() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    drop(program);
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    for message in receiver.requests() {
        let id = id(&message);
        let (key, number) = id.split_once('-').unwrap();
        let before = last.insert(key.to_owned(), number.to_owned()).unwrap_or_default();
        assert!(before.as_str() <= number, "{id} after {before}");
    }
}
