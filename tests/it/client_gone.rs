//! A client that leaves, wherever its request is: one line in the access log, nothing left in flight.

use std::{path::Path, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::harness::{Message, Origin, Reply, Running, eventually, origin, parse, within};

/// Where the request is when its client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// No connection to the upstream yet.
    Connecting,
    /// The same with a body that is complete and not read yet.
    ConnectingWithBody,
    /// The client's body is under way.
    Upload,
    /// The upstream has it and says nothing.
    Head,
    /// The upstream asked to come back later.
    Backoff,
    /// The first attempt failed, the second is under way.
    SecondAttempt,
    /// The answer is under way.
    ResponseBody,
}

const PLACES: [At; 7] = [
    At::Connecting,
    At::ConnectingWithBody,
    At::Upload,
    At::Head,
    At::Backoff,
    At::SecondAttempt,
    At::ResponseBody,
];

#[derive(Clone, Copy, Debug)]
enum Leaves {
    Fin,
    Rst,
    /// HTTP/2: the stream is reset.
    Stream,
}

/// What the origin does with the requests of this case; then it is well.
fn reply(at: At, number: usize) -> Reply {
    match (at, number) {
        (At::Head | At::Connecting | At::ConnectingWithBody | At::Upload, 0)
        | (At::SecondAttempt, 1) => Reply::Hang,
        (At::Backoff, 0) => Reply::Answer(
            b"HTTP/1.1 503 Busy\r\nretry-after: 20\r\ncontent-length: 4\r\n\r\nbusy".to_vec(),
        ),
        (At::SecondAttempt, 0) => Reply::Close,
        (At::ResponseBody, 0) => {
            Reply::Answer(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome".to_vec())
        }
        _ => Reply::Answer(origin::ok("fine")),
    }
}

struct Rig {
    gateway: Running,
    origin: Origin,
    /// Takes connections and says nothing.
    silent: TcpListener,
    folder: tempfile::TempDir,
}

impl Rig {
    async fn new(at: At) -> Self {
        let origin = Origin::start(move |number, _| reply(at, number)).await;
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("access.log");
        // A TLS handshake that nobody answers is a connection that is never made.
        let (endpoint, tls) = match at {
            At::Connecting | At::ConnectingWithBody => {
                (silent.local_addr().unwrap(), ", tls: { server_name: a }")
            }
            _ => (origin.address(), ""),
        };
        let yaml = format!(
            "workers: 1\nlisteners: [{{ name: web, address: 127.0.0.1:0 }}]\n\
             admin: {{ address: 127.0.0.1:0 }}\n\
             telemetry: {{ access_log: {{ path: \"{}\" }} }}\n\
             upstreams: {{ origin: {{ endpoints: [\"{endpoint}\"], connect_timeout: 20s, max_in_flight: 1{tls} }} }}\n\
             routes:\n\
             \x20 - {{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: origin, max_in_flight: 1, timeout: 60s, \
             retry: {{ attempts: 3, per_attempt_timeout: 50s }} }}\n",
            log.display()
        );
        let gateway = Running::start_with(parse(&yaml), sluicegate::gateway::Options::default());
        Self { gateway, origin, silent, folder }
    }

    /// Waits until the request is where its client leaves.
    async fn arrive(&self, at: At) {
        match at {
            At::Connecting | At::ConnectingWithBody => {
                // The connection is held until the test is over.
                let (stream, _) = within("a connection", self.silent.accept()).await.unwrap();
                std::mem::forget(stream);
            }
            At::Upload => {
                eventually("the upload to begin", || self.origin.connections() == 1).await;
            }
            At::Head | At::Backoff | At::ResponseBody => self.origin.wait_for(1).await,
            At::SecondAttempt => self.origin.wait_for(2).await,
        }
        let attempts = if at == At::SecondAttempt { 2 } else { 1 };
        within("the attempt to be counted", async {
            while self.begun().await < attempts {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }

    /// Attempts that are over, and the one under way.
    async fn begun(&self) -> u64 {
        let text = self.gateway.admin("GET", "/metrics").await.text();
        let over: u64 = text
            .lines()
            .filter(|line| line.starts_with("sluice_attempts_total{"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum();
        over + self.in_flight().await
    }

    async fn in_flight(&self) -> u64 {
        let groups = self.gateway.json("/v1/upstreams").await;
        let text = groups.to_string();
        let groups = groups.as_array().cloned().or_else(|| groups["upstreams"].as_array().cloned());
        let group = groups.and_then(|all| all.first().cloned()).unwrap_or_else(|| panic!("{text}"));
        let endpoints: u64 = group["endpoints"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|endpoint| endpoint["in_flight"].as_u64())
            .sum();
        endpoints.max(group["in_flight"].as_u64().unwrap_or_default())
    }

    fn lines(&self) -> Vec<Value> {
        read_lines(self.folder.path())
    }
}

fn read_lines(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("access.log")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Sends the request so far as this case has it sent, waits, and leaves.
async fn leave(rig: &Rig, at: At, leaves: Leaves) {
    let is_upload = at == At::Upload;
    if matches!(leaves, Leaves::Stream) {
        let stream = TcpStream::connect(rig.gateway.address()).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        let driver = tokio::spawn(connection);
        let request = http::Request::put("http://a/gone").body(()).unwrap();
        let has_body = is_upload || at == At::ConnectingWithBody;
        let (answer, mut body) = client.send_request(request, !has_body).unwrap();
        if has_body {
            body.send_data(bytes::Bytes::from_static(b"some"), false).unwrap();
        }
        rig.arrive(at).await;
        body.send_reset(h2::Reason::CANCEL);
        drop(answer);
        eventually("the line", || !read_lines(rig.folder.path()).is_empty()).await;
        driver.abort();
        return;
    }
    let mut stream = TcpStream::connect(rig.gateway.address()).await.unwrap();
    let has_body = is_upload || at == At::ConnectingWithBody;
    let length = match at {
        At::Upload => "Content-Length: 10\r\n",
        At::ConnectingWithBody => "Content-Length: 4\r\n",
        _ => "",
    };
    let request = format!("PUT /gone HTTP/1.1\r\nHost: a\r\n{length}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    if has_body {
        stream.write_all(b"some").await.unwrap();
    }
    rig.arrive(at).await;
    if matches!(leaves, Leaves::Rst) {
        stream.set_zero_linger().unwrap();
    }
}

/// As for NGINX, Envoy and HAProxy from 3.3: a client that closes its socket looks the same until something is
/// sent to it, and those are many.
#[tokio::test]
async fn a_client_that_has_shut_down_its_side_has_left() {
    let rig = Rig::new(At::Head).await;
    let mut stream = TcpStream::connect(rig.gateway.address()).await.unwrap();
    stream.write_all(b"PUT /gone HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    rig.arrive(At::Head).await;
    stream.shutdown().await.unwrap();
    let mut told = Vec::new();
    within("the end of the connection", stream.read_to_end(&mut told)).await.unwrap();
    assert!(told.is_empty(), "{}", String::from_utf8_lossy(&told));
    eventually("a line", || !rig.lines().is_empty()).await;
    let line = rig.lines().remove(0);
    assert_eq!(
        (&line["status"], &line["reason"]),
        (&499.into(), &"client-closed".into()),
        "{line}"
    );
    within("nothing in flight", async {
        while rig.in_flight().await > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn wherever_a_client_leaves_there_is_one_line_and_nothing_in_flight() {
    for at in PLACES {
        for leaves in [Leaves::Fin, Leaves::Rst, Leaves::Stream] {
            let rig = Rig::new(at).await;
            leave(&rig, at, leaves).await;
            let what = format!("{at:?} {leaves:?}");
            let is_connecting = matches!(at, At::Connecting | At::ConnectingWithBody);
            eventually(&format!("a line: {what}"), || !read_lines(rig.folder.path()).is_empty())
                .await;
            within(&format!("nothing in flight: {what}"), async {
                while rig.in_flight().await > 0 {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
            .await;
            if !is_connecting {
                // One place on the route and one at the upstream: both are free again.
                let answer: Message = rig.gateway.client().await.get("/next").await;
                assert_eq!((answer.status(), answer.text().as_str()), (200, "fine"), "{what}");
            }
            let expected = if is_connecting { 1 } else { 2 };
            eventually("the lines", || read_lines(rig.folder.path()).len() >= expected).await;
            let lines = rig.lines();
            let gone: Vec<_> = lines.iter().filter(|line| line["path"] == "/gone").collect();
            assert_eq!(gone.len(), 1, "{what}: {lines:?}");
            assert_eq!(gone[0]["reason"], "client-closed", "{what}: {lines:?}");
            if at == At::SecondAttempt {
                assert_eq!(gone[0]["attempts"].as_array().map(Vec::len), Some(2), "{what}");
            }
        }
    }
}
