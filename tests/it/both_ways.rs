//! Requests and answers that go on side by side, as in a gRPC stream.

use std::{net::SocketAddr, path::Path, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use serde_json::Value;
use sluicegate::{config::Config, gateway::Options};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::timeout,
};

use crate::harness::{Running, config, eventually, parse, within};

/// The limit that a silent client is over.
const LIMIT: Duration = Duration::from_millis(400);

/// An upstream that answers at once and sends back what it gets, as it gets it.
async fn echo(protocol: &str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let is_h2 = protocol == "h2";
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        if is_h2 { echo_h2(stream).await } else { echo_h1(stream).await }
    });
    address
}

async fn echo_h1(mut stream: TcpStream) {
    let mut seen = Vec::new();
    while !seen.windows(4).any(|end| end == b"\r\n\r\n") {
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0);
    }
    // The answer lasts until the connection is closed, so that chunks may go back as they came.
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    while !seen.ends_with(b"\r\n0\r\n\r\n") {
        let mut more = Vec::new();
        if stream.read_buf(&mut more).await.unwrap_or(0) == 0 {
            return;
        }
        stream.write_all(&more).await.unwrap();
        seen.extend_from_slice(&more);
    }
}

async fn echo_h2(stream: TcpStream) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            let mut body = request.into_body();
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
                send.send_data(data, false).unwrap();
            }
            drop(send.send_data(Bytes::new(), true));
        });
    }
}

/// A gateway with one route to this upstream, with more settings.
fn yaml(protocol: &str, upstream: SocketAddr, limits: &str) -> String {
    format!(
        "limits: {{ {limits} }}\n\
         upstreams: {{ chat: {{ endpoints: [\"{upstream}\"], protocol: {protocol} }} }}\n\
         routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: chat }}]\n"
    )
}

/// A client in the middle of a stream over HTTP/2.
struct Chat {
    send: h2::SendStream<Bytes>,
    answer: h2::RecvStream,
    _driver: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

impl Chat {
    /// Sends the head and waits for that of the answer.
    async fn begin(gateway: &Running) -> Self {
        let stream = TcpStream::connect(gateway.address()).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        let driver = tokio::spawn(connection);
        let request = Request::post("http://chat/").body(()).unwrap();
        let (response, mut send) = client.send_request(request, false).unwrap();
        send.send_data("hello".into(), false).unwrap();
        let response = within("an answer", response).await.unwrap();
        assert_eq!(response.status(), 200);
        Self { send, answer: response.into_body(), _driver: driver }
    }

    /// Sends a word and waits until it comes back.
    async fn say(&mut self, word: &'static str) {
        self.send.send_data(word.into(), false).unwrap();
        let mut heard = String::new();
        while !heard.contains(word) {
            heard += &self.hear().await.unwrap().unwrap_or_else(|| panic!("over after {heard}"));
        }
    }

    async fn hear(&mut self) -> Result<Option<String>, h2::Error> {
        let Some(data) = within("an answer", self.answer.data()).await else { return Ok(None) };
        let data = data?;
        self.answer.flow_control().release_capacity(data.len()).unwrap();
        Ok(Some(String::from_utf8_lossy(&data).into_owned()))
    }

    /// Says nothing for so long, and hears nothing: the stream is not cut.
    async fn stay_silent(&mut self, span: Duration) {
        if let Ok(heard) = timeout(span, self.answer.data()).await {
            panic!("{heard:?}");
        }
    }
}

async fn stays_silent(protocol: &str, config: Config) {
    let gateway = Running::start_with(config, Options::default());
    let mut chat = Chat::begin(&gateway).await;
    for word in ["one", "two"] {
        chat.say(word).await;
        chat.stay_silent(3 * LIMIT).await;
    }
    chat.say("three").await;
    chat.send.send_data(Bytes::new(), true).unwrap();
    while chat.hear().await.unwrap_or_else(|error| panic!("{protocol}: {error}")).is_some() {}
}

#[tokio::test]
async fn a_client_may_be_silent_as_long_as_it_is_answered() {
    let mut cases = Vec::new();
    for protocol in ["h1", "h2"] {
        let limits = "body_idle_timeout: 400ms, body_min_rate: 0";
        cases.push((protocol, config(&yaml(protocol, echo(protocol).await, limits))));
        let limits = "body_min_rate: 1000";
        let mut rated = config(&yaml(protocol, echo(protocol).await, limits));
        rated.routes[0].body_limit.min_rate_grace = LIMIT;
        cases.push((protocol, rated));
    }
    join_all(cases.into_iter().map(|(protocol, config)| stays_silent(protocol, config))).await;
}

#[tokio::test]
async fn a_client_that_is_silent_after_an_early_answer_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let mut send = respond.send_response(Response::new(()), false).unwrap();
        send.send_data("early".into(), true).unwrap();
        tokio::spawn(async move { while connection.accept().await.is_some() {} });
        let mut body = request.into_body();
        let end = loop {
            match body.data().await {
                Some(Ok(_)) => {}
                end => break end,
            }
        };
        tell.send(end).unwrap();
    });
    let gateway = Running::start(&yaml("h2", address, "body_idle_timeout: 100ms"));
    let mut chat = Chat::begin(&gateway).await;
    assert_eq!(chat.hear().await.unwrap().as_deref(), Some("early"));
    assert_eq!(chat.hear().await.unwrap(), None);
    let end = within("the end of the request", told).await.unwrap();
    assert!(matches!(end, Some(Err(_))), "{end:?}");
}

fn lines(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("access.log")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[tokio::test]
async fn what_a_client_does_wrong_while_it_is_answered_is_not_the_services_fault() {
    for protocol in ["h1", "h2"] {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "listeners: [{{ name: web, address: 127.0.0.1:0 }}]\n\
             admin: {{ address: 127.0.0.1:0 }}\n\
             telemetry: {{ access_log: {{ path: \"{}/access.log\" }} }}\n{}",
            folder.path().display(),
            yaml(protocol, echo(protocol).await, "body_bytes: 20")
        );
        let gateway = Running::start_with(parse(&text), Options::default());
        let mut chat = Chat::begin(&gateway).await;
        chat.say("short").await;
        chat.send.send_data("longer than the limit".into(), false).unwrap();
        within("the end", async { while matches!(chat.hear().await, Ok(Some(_))) {} }).await;
        eventually("a line", || !lines(folder.path()).is_empty()).await;
        let line = lines(folder.path()).remove(0);
        assert_eq!(
            (&line["status"], &line["reason"]),
            (&200.into(), &"body-too-large".into()),
            "{protocol}: {line}"
        );
        let series = "sluice_refusals_total{reason=\"body-too-large\"}";
        assert!((gateway.metric(series).await - 1.0).abs() < f64::EPSILON);
    }
}
