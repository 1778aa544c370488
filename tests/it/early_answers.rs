//! Semantics 4 where an upstream answers 503 while it is still being sent the request: the rest of
//! the body goes to one attempt only, and what that attempt gets is the whole body.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::Response;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::harness::{Message, Running, eventually, within};

const BUSY: &[u8] = b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy";
const FINE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine";

/// An upstream that answers the first request with 503 once it has read this much of its body, and
/// reads on; the others as they should be.
struct Hasty {
    address: SocketAddr,
    attempts: Attempts,
}

type Attempts = Arc<Mutex<Vec<Attempt>>>;

/// What was seen of an attempt.
#[derive(Clone, Default)]
struct Attempt {
    /// Of the first on HTTP/1.1, with chunk framing.
    body: Vec<u8>,
    is_whole: bool,
    is_over: bool,
}

/// A request, how much of its body is sent before the answer, and how often it may be sent.
#[derive(Clone, Copy, Debug)]
struct Case {
    method: &'static str,
    first: usize,
    size: usize,
    attempts: usize,
}

const CASES: [Case; 5] = [
    Case { method: "PUT", first: 1_000, size: 2_000, attempts: 2 },
    Case { method: "PUT", first: 0, size: 2_000, attempts: 2 },
    // More than is kept, but not yet when it was answered.
    Case { method: "PUT", first: 1_000, size: 300_000, attempts: 2 },
    Case { method: "PUT", first: 100_000, size: 200_000, attempts: 1 },
    Case { method: "POST", first: 1_000, size: 2_000, attempts: 1 },
];

impl Hasty {
    async fn start(protocol: &'static str, first: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let attempts = Attempts::default();
        let log = attempts.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let log = log.clone();
                tokio::spawn(async move {
                    match protocol {
                        "h2" => serve_h2(stream, log, first).await,
                        _ => serve_h1(stream, log, first).await,
                    }
                });
            }
        });
        Self { address, attempts }
    }

    fn attempts(&self) -> Vec<Attempt> {
        self.attempts.lock().clone()
    }
}

/// The number of a new attempt, from 0.
fn begin(log: &Attempts) -> usize {
    let mut attempts = log.lock();
    attempts.push(Attempt::default());
    attempts.len() - 1
}

async fn serve_h1(mut stream: TcpStream, log: Attempts, first: usize) {
    let mut buffer = Vec::new();
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|end| end == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let number = begin(&log);
    if number > 0 {
        let message = Message::read_request(&mut stream, &mut buffer).await.unwrap();
        log.lock()[number] =
            Attempt { body: message.body, is_whole: message.is_complete, is_over: true };
        stream.write_all(FINE).await.unwrap();
        return;
    }
    let mut body = buffer.split_off(end);
    while body.len() < first {
        assert!(stream.read_buf(&mut body).await.unwrap() > 0);
    }
    stream.write_all(BUSY).await.unwrap();
    while stream.read_buf(&mut body).await.unwrap_or(0) > 0 {}
    let head = String::from_utf8_lossy(&buffer).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let is_whole =
        length.map_or(body.ends_with(b"0\r\n\r\n"), |length: usize| body.len() >= length);
    log.lock()[number] = Attempt { body, is_whole, is_over: true };
}

async fn serve_h2(stream: TcpStream, log: Attempts, first: usize) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let log = log.clone();
        tokio::spawn(async move {
            let number = begin(&log);
            let mut body = request.into_body();
            let answer = |status| Response::builder().status(status).body(()).unwrap();
            let mut early = (number == 0).then_some(&mut respond);
            loop {
                if log.lock()[number].body.len() >= first
                    && let Some(respond) = early.take()
                {
                    let mut send = respond.send_response(answer(503), false).unwrap();
                    send.send_data("busy".into(), true).unwrap();
                }
                match body.data().await {
                    Some(Ok(data)) => {
                        body.flow_control().release_capacity(data.len()).unwrap();
                        log.lock()[number].body.extend_from_slice(&data);
                    }
                    end => {
                        let mut attempts = log.lock();
                        attempts[number].is_whole = end.is_none();
                        attempts[number].is_over = true;
                        break;
                    }
                }
            }
            if number > 0 {
                let mut send = respond.send_response(answer(200), false).unwrap();
                send.send_data(Bytes::from("fine"), true).unwrap();
            }
        });
    }
}

/// A part of a body as it is written.
fn framed(part: &[u8], is_chunked: bool) -> Vec<u8> {
    match (is_chunked, part.len()) {
        (false, _) | (true, 0) => part.to_vec(),
        (true, size) => [format!("{size:x}\r\n").as_bytes(), part, b"\r\n"].concat(),
    }
}

async fn read(stream: &mut TcpStream, told: &str) -> Message {
    within(told, Message::read_response(stream, &mut Vec::new(), "PUT")).await.unwrap()
}

async fn answered_early(protocol: &'static str, is_chunked: bool, case: Case) {
    let told = format!("{protocol}, chunked {is_chunked}, {case:?}");
    let Case { method, first, size, attempts } = case;
    let upstream = Hasty::start(protocol, first).await;
    let gateway = Running::start(&format!(
        "workers: 1\n\
         upstreams:\n  hasty: {{ endpoints: [\"{}\"], protocol: {protocol}, retry_budget: {{ ratio: 100%, min_per_second: 1000 }} }}\n\
         routes: [{{ name: all, match: {{ path: / }}, upstream: hasty, retry: {{ attempts: 3 }} }}]\n",
        upstream.address
    ));
    let body: Vec<u8> = (0..size).map(|at| b'a' + u8::try_from(at % 26).unwrap()).collect();
    let framing = if is_chunked {
        "Transfer-Encoding: chunked".to_owned()
    } else {
        format!("Content-Length: {size}")
    };
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    let head = format!("{method} / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&framed(&body[..first], is_chunked)).await.unwrap();
    eventually(&format!("{attempts} attempts: {told}"), || upstream.attempts().len() == attempts)
        .await;

    if attempts == 1 {
        let answer = read(&mut stream, &told).await;
        assert_eq!((answer.status(), answer.text().as_str()), (503, "busy"), "{told}");
        drop(stream);
        eventually(&format!("its end: {told}"), || upstream.attempts()[0].is_over).await;
        let [attempt] = &upstream.attempts()[..] else { panic!("{told}: sent again") };
        assert!(!attempt.is_whole, "{told}");
        return;
    }
    let rest = framed(&body[first..], is_chunked);
    stream.write_all(&rest).await.unwrap();
    if is_chunked {
        stream.write_all(b"0\r\n\r\n").await.unwrap();
    }
    let answer = read(&mut stream, &told).await;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "fine"), "{told}");
    eventually(&format!("the end of the first attempt: {told}"), || upstream.attempts()[0].is_over)
        .await;
    let [early, again] = &upstream.attempts()[..] else { panic!("{told}: sent too often") };
    assert!(again.is_whole && again.body == body, "{told}: {} bytes", again.body.len());
    // Chunk framing included, that is no more than had been sent when it was answered.
    assert!(!early.is_whole && early.body.len() <= first + 16, "{told}: {}", early.body.len());
}

#[tokio::test]
async fn the_rest_of_a_body_goes_to_the_attempt_that_gets_all_of_it_over_h1() {
    for case in CASES {
        for is_chunked in [false, true] {
            answered_early("h1", is_chunked, case).await;
        }
    }
}

#[tokio::test]
async fn the_rest_of_a_body_goes_to_the_attempt_that_gets_all_of_it_over_h2() {
    for case in CASES {
        for is_chunked in [false, true] {
            answered_early("h2", is_chunked, case).await;
        }
    }
}
