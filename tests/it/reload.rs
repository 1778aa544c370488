//! Semantics 10: a reload closes nothing and loses nothing; a broken file changes nothing.

use futures_util::{SinkExt, StreamExt};
use sluicegate::gateway::Options;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Client, Origin, Reply, Running, eventually, origin, proxy_to, within};

fn responds(body: &str) -> String {
    format!("routes: [{{ name: a, match: {{ path: /a }}, respond: {{ body: {body} }} }}]\n")
}

/// A gateway that was started from a file, on a listener that keeps its port.
struct FromFile {
    running: Running,
    path: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

impl FromFile {
    fn start(yaml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.yaml");
        std::fs::write(&path, Self::text(yaml)).unwrap();
        let config = sluicegate::config::load(&path).unwrap_or_else(|p| panic!("{p}")).config;
        let options = Options { source: Some(path.clone()), ..Options::default() };
        Self { running: Running::start_with(config, options), path, _folder: folder }
    }

    fn text(yaml: &str) -> String {
        format!(
            "listeners: [{{ name: web, address: 127.0.0.1:0 }}]\n\
             admin: {{ address: 127.0.0.1:0 }}\n\
             telemetry: {{ access_log: {{ path: off }} }}\n{yaml}"
        )
    }

    fn write(&self, yaml: &str) {
        std::fs::write(&self.path, Self::text(yaml)).unwrap();
    }
}

#[tokio::test]
async fn a_reload_by_admin_call_takes_effect_on_open_connections() {
    let file = FromFile::start(&responds("one"));
    let mut client = file.running.client().await;
    assert_eq!(client.get("/a").await.text(), "one");
    file.write(&responds("two"));
    let answer = file.running.admin("POST", "/v1/reload").await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(client.get("/a").await.text(), "two");
}

#[tokio::test]
async fn a_changed_file_is_taken_over_by_itself() {
    let file = FromFile::start(&responds("one"));
    let mut client = file.running.client().await;
    assert_eq!(client.get("/a").await.text(), "one");
    file.write(&responds("two"));
    client.get_until("/a", "two").await;
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_is_told() {
    let file = FromFile::start(&responds("one"));
    // An alert on its increase sees the first one only if there was something to increase.
    let before = file.running.admin("GET", "/metrics").await.text();
    assert!(before.contains("\nsluice_config_reload_failures_total 0\n"), "{before}");
    file.write("routes: [{ name: a, match: { path: /a }, upstream: lost }]\n");
    let answer = file.running.admin("POST", "/v1/reload").await;
    assert_eq!(answer.status(), 422);
    assert!(answer.text().contains("no upstream named `lost`"), "{}", answer.text());
    assert_eq!(file.running.client().await.get("/a").await.text(), "one");
    assert!(file.running.metric("sluice_config_reload_failures_total").await >= 1.0);
}

#[tokio::test]
async fn a_pipe_in_place_of_a_file_is_told_and_holds_up_nothing() {
    let file = FromFile::start(&responds("one"));
    // Renamed over it, as files are replaced that must never be half there.
    let put_pipe = |at: &std::path::Path| {
        let aside = at.with_extension("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&aside).status().unwrap().success());
        std::fs::rename(&aside, at).unwrap();
    };
    put_pipe(&file.path);
    let reload = async || within("an answer", file.running.admin("POST", "/v1/reload")).await;
    let answer = reload().await;
    assert_eq!(answer.status(), 422);
    assert!(answer.text().contains("it is a pipe, not a file"), "{}", answer.text());
    assert_eq!(file.running.client().await.get("/a").await.text(), "one");
    // What the file names, too; none of it keeps the control thread from the next order.
    let keys = file.path.with_file_name("keys.json");
    put_pipe(&keys);
    std::fs::remove_file(&file.path).unwrap();
    let issuer = "issuers: { a: { issuer: a, audience: [a], algorithms: [RS256], jwks: { file: keys.json } } }\n";
    file.write(&format!("{issuer}{}", responds("two")));
    let answer = reload().await;
    assert_eq!(answer.status(), 422);
    assert!(
        answer.text().contains("`keys.json` cannot be read: it is a pipe"),
        "{}",
        answer.text()
    );
    file.write(&responds("three"));
    assert_eq!(reload().await.status(), 200);
    assert_eq!(file.running.client().await.get("/a").await.text(), "three");
}

#[tokio::test]
async fn what_needs_a_restart_is_refused() {
    let file = FromFile::start(&format!("workers: 1\n{}", responds("one")));
    file.write(&format!("workers: 2\n{}", responds("two")));
    let answer = file.running.admin("POST", "/v1/reload").await;
    assert_eq!(answer.status(), 422, "{}", answer.text());
    assert!(answer.text().contains("needs-restart"), "{}", answer.text());
    assert_eq!(file.running.client().await.get("/a").await.text(), "one");
}

#[tokio::test]
async fn a_request_under_way_ends_on_the_stack_it_began_on() {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let file = FromFile::start(&proxy_to(listener.local_addr().unwrap()));
    tokio::spawn({
        let gate = gate.clone();
        async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = Vec::new();
            crate::harness::Message::read_request(&mut stream, &mut buffer).await.unwrap();
            gate.acquire().await.unwrap().forget();
            tokio::io::AsyncWriteExt::write_all(&mut stream, &origin::ok("late")).await.unwrap();
            crate::harness::Message::read_request(&mut stream, &mut buffer).await;
        }
    });
    let mut client = file.running.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut other = file.running.client().await;
    file.write(&responds("new"));
    assert_eq!(file.running.admin("POST", "/v1/reload").await.status(), 200);
    assert_eq!(other.get("/a").await.text(), "new");
    gate.add_permits(1);
    assert_eq!(client.response("GET").await.text(), "late");
}

#[tokio::test]
async fn pooled_connections_survive_a_reload() {
    let origin = Origin::ok("fine").await;
    let file = FromFile::start(&format!("workers: 1\n{}", proxy_to(origin.address())));
    let mut client = file.running.client().await;
    for _ in 0..5 {
        assert_eq!(client.get("/").await.text(), "fine");
        assert_eq!(file.running.admin("POST", "/v1/reload").await.status(), 200);
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn listeners_come_and_go() {
    let spare = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let second = spare.local_addr().unwrap();
    drop(spare);
    let file = FromFile::start(&responds("one"));
    let two = |body: &str| {
        FromFile::text(&responds(body)).replace(
            "listeners: [",
            &format!("listeners: [{{ name: second, address: \"{second}\" }}, "),
        )
    };
    std::fs::write(&file.path, two("two")).unwrap();
    assert_eq!(file.running.admin("POST", "/v1/reload").await.status(), 200);
    let mut client = crate::harness::Client::connect(second).await;
    assert_eq!(client.get("/a").await.text(), "two");
    file.write(&responds("three"));
    assert_eq!(file.running.admin("POST", "/v1/reload").await.status(), 200);
    eventually("the second listener to leave its port", || {
        std::net::TcpStream::connect(second).is_err()
    })
    .await;
}

#[tokio::test]
async fn web_sockets_and_requests_live_through_reloads() {
    let echo = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = echo.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = echo.accept().await {
            tokio::spawn(async move {
                let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_close() || socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let origin = Origin::start(|_, _| Reply::Answer(origin::ok("fine"))).await;
    let yaml = format!(
        "upstreams: {{ echo: {{ endpoints: [\"{address}\"] }}, origin: {{ endpoints: [\"{}\"] }} }}\n\
         routes:\n  - {{ name: ws, match: {{ path: /ws }}, upstream: echo }}\n  \
         - {{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: origin }}\n",
        origin.address()
    );
    let file = FromFile::start(&yaml);
    let mut sockets = Vec::new();
    for _ in 0..50 {
        let stream = file.running.client().await.into_stream();
        sockets.push(tokio_tungstenite::client_async("ws://a/ws", stream).await.unwrap().0);
    }
    let mut client = file.running.client().await;
    for round in 0..20 {
        file.write(&format!("{yaml}# {round}\n"));
        assert_eq!(file.running.admin("POST", "/v1/reload").await.status(), 200);
        assert_eq!(client.get("/").await.text(), "fine");
    }
    for socket in &mut sockets {
        socket.send(Message::text("alive")).await.unwrap();
        let answer = within("the echo", socket.next()).await.unwrap().unwrap();
        assert_eq!(answer.into_text().unwrap().as_str(), "alive");
    }
}

#[tokio::test]
async fn a_refused_reload_leaves_the_queue_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let queue = |rest: &str| {
        format!(
            "queue: {{ dir: {} }}\ntopics: {{ orders: {{}}, {rest} }}\n",
            folder.path().display()
        )
    };
    let file = FromFile::start(&queue(""));
    let log = "telemetry: { access_log: { path: missing/access.log } }";
    let text = FromFile::text(&queue("returns: {}"));
    let refused = text.replace("telemetry: { access_log: { path: off } }", log);
    std::fs::write(&file.path, refused).unwrap();
    let answer = file.running.admin("POST", "/v1/reload").await;
    assert_eq!(answer.status(), 422, "{}", answer.text());
    assert!(answer.text().contains("missing/access.log"), "{}", answer.text());
    let topics = file.running.admin("GET", "/v1/topics").await.text();
    assert!(topics.contains("orders") && !topics.contains("returns"), "{topics}");
}

#[tokio::test]
async fn the_admin_token_of_a_reload_is_the_one_that_is_asked_for() {
    let file = FromFile::start(&responds("one"));
    let token = |name: &str| {
        let secret = file.path.with_file_name("token");
        std::fs::write(&secret, name).unwrap();
        let with =
            format!("admin: {{ address: 127.0.0.1:0, token: \"file:{}\" }}", secret.display());
        let text = FromFile::text(&responds("one"));
        std::fs::write(&file.path, text.replace("admin: { address: 127.0.0.1:0 }", &with)).unwrap();
    };
    token("first");
    assert_eq!(file.running.admin("POST", "/v1/reload").await.status(), 200);
    assert_eq!(file.running.admin("GET", "/v1/config").await.status(), 401);
    assert_eq!(file.running.admin("GET", "/livez").await.status(), 200);
    let asked = async |token: &str| {
        let address = file.running.gateway().admin_address();
        let head = format!(
            "GET /v1/config HTTP/1.1
Host: {address}
Authorization: Bearer {token}"
        );
        Client::connect(address).await.request(&head, "").await.status()
    };
    assert_eq!(asked("first").await, 200);
    token("second");
    within("the second token", async {
        while asked("second").await != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(asked("first").await, 401);
}
