//! Our side of HTTP/1.1 beside hyper's client: whatever bytes an upstream sends, in whatever pieces,
//! both find the same message in them, or none.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, response};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use proptest::{collection::vec, prelude::*, sample::Index};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    runtime,
    task::yield_now,
};

use super::*;
use crate::{
    telemetry::task,
    upstream::{
        io::{Plain, Stream},
        reframe,
    },
};

type Fields = Vec<(String, Vec<u8>)>;

/// A response as its reader sees it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    status: StatusCode,
    fields: Fields,
    /// The body with its trailers; `None` if it broke off.
    whole: Option<(Vec<u8>, Fields)>,
}

fn listed(fields: &HeaderMap) -> Fields {
    fields.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

/// An upstream that sends these pieces, then closes its side.
fn upstream(pieces: Vec<Vec<u8>>) -> UnixStream {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    task::spawn("test upstream", async move {
        let mut request = [0; 1024];
        assert!(peer.read(&mut request).await.unwrap() > 0);
        for piece in pieces {
            // Whoever has seen enough is gone.
            if peer.write_all(&piece).await.is_err() {
                return;
            }
            for _ in 0..3 {
                yield_now().await;
            }
        }
        drop(peer.shutdown().await);
    });
    ours
}

/// What [`reframe`] lets pass of a head, its version apart.
fn passes(parts: &response::Parts) -> bool {
    let mut parts = parts.clone();
    reframe::check_response(&mut parts, false).is_ok()
}

fn seen(parts: &response::Parts, whole: Option<(Vec<u8>, HeaderMap)>) -> Option<Seen> {
    let whole = whole.map(|(body, trailers)| (body, listed(&trailers)));
    passes(parts).then(|| Seen { status: parts.status, fields: listed(&parts.headers), whole })
}

async fn ours(pieces: Vec<Vec<u8>>, method: &Method) -> Option<Seen> {
    let stream = Stream::Plain(Plain::unix(upstream(pieces)));
    let mut h1 = H1::new(Io::new(stream, Duration::from_mins(1)).0, Duration::from_mins(1));
    let request = Request::builder().method(method).uri("/").body(()).unwrap();
    h1.send(Box::new(request.into_parts().0), Body::empty());
    let Answer { parts, body, .. } = h1.answer().await.ok()?;
    if let Some(body) = body {
        return seen(&parts, Some((body.to_vec(), HeaderMap::new())));
    }
    let mut body = Vec::new();
    let mut trailers = HeaderMap::new();
    loop {
        match poll_fn(|cx| h1.poll_body(cx)).await {
            None => return seen(&parts, Some((body, trailers))),
            Some(Err(_)) => return seen(&parts, None),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => body.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().unwrap(),
            },
        }
    }
}

async fn theirs(pieces: Vec<Vec<u8>>, method: &Method) -> Option<Seen> {
    let stream = crate::http::io::Io(upstream(pieces));
    let mut builder = http1::Builder::new();
    builder.max_header_size(32 * 1024).max_buf_size(64 * 1024);
    let (mut sender, connection) = builder.handshake(stream).await.unwrap();
    task::spawn("test connection", async move { drop(connection.await) });
    let request = Request::builder().method(method).uri("/").body(Empty::<Bytes>::new()).unwrap();
    let (parts, body) = sender.send_request(request).await.ok()?.into_parts();
    let whole = body.collect().await.ok().map(|whole| {
        let trailers = whole.trailers().cloned().unwrap_or_default();
        (whole.to_bytes().to_vec(), trailers)
    });
    seen(&parts, whole)
}

/// Both in a runtime, each with its own copy of the pieces.
fn compare(bytes: &[u8], cuts: &[usize], method: &Method) -> (Option<Seen>, Option<Seen>) {
    let mut pieces = Vec::new();
    let mut from = 0;
    for &cut in cuts {
        pieces.push(bytes[from..cut].to_vec());
        from = cut;
    }
    pieces.push(bytes[from..].to_vec());
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { (ours(pieces.clone(), method).await, theirs(pieces, method).await) })
}

fn line(of: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(of)
}

const STARTS: [&str; 12] = [
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 404 Nowhere\r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.1 304 Not Modified\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n",
    "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 201 Created\r\n",
    "HTTP/1.1 599 \r\n",
    "HTTP/1.1 200\r\n",
    "\r\nHTTP/1.1 200 OK\n",
];

const FIELDS: [&str; 16] = [
    "content-length: 5\r\n",
    "content-length: 5\r\n",
    "Content-Length: 0\r\n",
    "content-length: 5, 5\r\n",
    "content-length: +5\r\n",
    "content-length:5 \r\n",
    "content-length: 18446744073709551616\r\n",
    "transfer-encoding: chunked\r\n",
    "Transfer-Encoding: Chunked\r\n",
    "transfer-encoding: gzip, chunked\r\n",
    "connection: close\r\n",
    "x: a\r\n",
    "set-cookie: a=\u{e9}\r\n",
    "x : a\r\n",
    "x: a\r\n b\r\n",
    "x: a\n",
];

const BODIES: [&str; 14] = [
    "",
    "hello",
    "hell",
    "hello, world",
    "5\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\r\nx-sum: 1\r\ny: 2\r\n\r\n",
    "05 ; a=\"b\"\r\nhello\r\nA\r\n0123456789\r\n000\r\n\r\n",
    "5\r\nhello\r\n",
    "5\nhello\n0\n\n",
    "5\r\nhello0\r\n\r\n",
    "g\r\nhello\r\n0\r\n\r\n",
    "ffffffffffffffff1\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison",
];

/// How many times as long: a campaign is this, with a larger number.
fn campaign() -> u32 {
    std::env::var("SLUICE_CAMPAIGN").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400 * campaign(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_an_upstream_sends_is_read_as_hyper_reads_it(
        start in line(&STARTS),
        fields in vec(line(&FIELDS), 0..4),
        body in line(&BODIES),
        changes in vec((any::<Index>(), any::<u8>(), 0..4_u8), 0..3),
        cuts in vec(any::<Index>(), 0..4),
        is_head in prop::bool::weighted(0.1),
    ) {
        let mut bytes = format!("{start}{}\r\n{body}", fields.concat()).into_bytes();
        for (at, byte, kind) in changes {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => {}
            }
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let method = if is_head { Method::HEAD } else { Method::GET };
        let (ours, theirs) = compare(&bytes, &cuts, &method);
        prop_assert_eq!(ours, theirs, "{:?} in pieces at {:?}", String::from_utf8_lossy(&bytes), cuts);
    }
}
