//! What an answer comes to, whole and in pieces: what the client gets of it, and whether its
//! connection is used again.

use std::fmt::Write as _;

use super::*;

use Then::{Closes, Resets, Stays};

/// What the upstream does after its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Stays,
    Closes,
    Resets,
}

/// The answer, what follows, and what that comes to, see [`come_to`].
type Case = (&'static [u8], Then, &'static str);

/// Counts itself while it lives.
pub(super) struct Alive(Arc<AtomicUsize>);

impl Alive {
    pub(super) fn new(alive: &Arc<AtomicUsize>) -> Self {
        alive.fetch_add(1, Ordering::Relaxed);
        Self(alive.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lets everybody else look at their sockets.
pub(super) async fn pause() {
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
}

/// Long ones are told by their length.
fn shown(bytes: &[u8]) -> String {
    if bytes.len() > 100 {
        return format!("{} bytes", bytes.len());
    }
    bytes.escape_ascii().to_string()
}

fn shown_fields(fields: &HeaderMap, sign: &str) -> String {
    if fields.len() > 10 {
        return format!(" [{sign}{} fields]", fields.len());
    }
    let field =
        |(name, value): (_, &HeaderValue)| format!(" [{sign}{name}: {}]", shown(value.as_bytes()));
    fields.iter().map(field).collect()
}

fn shown_error(error: &mut Error) -> String {
    let unsent = if error.take_unsent().is_some() { " unsent" } else { "" };
    format!(" !{:?}{unsent}", error.kind())
}

/// Status, fields, body, trailers, failure.
pub(super) async fn shown_answer(answer: Result<Response>) -> String {
    let (parts, mut body) = match answer {
        Ok(response) => response.into_parts(),
        Err(mut error) => return shown_error(&mut error),
    };
    let mut text = parts.status.as_u16().to_string();
    if let Some(reason) = parts.extensions.get::<hyper::ext::ReasonPhrase>() {
        write!(text, " ({})", shown(reason.as_bytes())).unwrap();
    }
    text += &shown_fields(&parts.headers, "");
    let mut data = Vec::new();
    let mut end = String::new();
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(bytes)) => data.extend_from_slice(&bytes),
            Ok(Err(frame)) => end += &shown_fields(&frame.into_trailers().unwrap(), "+"),
            Err(mut error) => end += &shown_error(&mut error),
        }
    }
    format!("{text} <{}>{end}", shown(&data))
}

/// What the client gets of an answer that arrives in `pieces`, and whether the connection is `kept`
/// for the next request, which always gets its own answer.
async fn come_to(method: &Method, pieces: Vec<Vec<u8>>, then: Then) -> String {
    let alive = Arc::default();
    let counted = Arc::clone(&alive);
    let (told, mut is_told) = watch::channel(false);
    let address = upstream(move |mut peer| {
        let (alive, pieces, told) = (Alive::new(&counted), pieces.clone(), told.clone());
        async move {
            let _alive = alive;
            peer.stream.set_nodelay(true).unwrap();
            loop {
                let asked = peer.read().await;
                if asked.is_empty() {
                    return;
                }
                if asked.starts_with("GET /again ") {
                    peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nagain").await;
                    continue;
                }
                for piece in &pieces {
                    // Refused early, the rest may not be taken any more.
                    drop(peer.stream.write_all(piece).await);
                    pause().await;
                }
                if then == Resets {
                    peer.stream.set_zero_linger().unwrap();
                }
                told.send(true).unwrap();
                if then != Stays {
                    return;
                }
            }
        }
    });
    let rig = rig(address.await, settings(Protocol::H1));
    let answered =
        async { shown_answer(rig.send(request(method.clone(), "/", Body::empty())).await).await };
    let answer = time::timeout(Duration::from_secs(5), answered).await;
    let answer = answer.unwrap_or_else(|_| " waits".to_owned());
    assert_eq!(rig.local.endpoint().load().in_flight(), 0, "{answer}");
    assert_eq!(rig.group.load(Ordering::Relaxed), 0, "{answer}");
    is_told.wait_for(|&told| told).await.unwrap();
    pause().await;
    until("it is given back or closed", || {
        rig.pools.idle() == 1 || alive.load(Ordering::Relaxed) == 0
    })
    .await;
    if then != Stays && rig.pools.idle() == 1 {
        until("the end has arrived", || rig.local.pool().idle_are_quiet() == Some(false)).await;
        pause().await;
    }
    assert_eq!(rig.text(get("/again")).await, "again", "after {answer}");
    until("the other is closed", || alive.load(Ordering::Relaxed) == 1).await;
    let connection = if rig.counted("opened") == "1" { "kept" } else { "closed" };
    format!("{answer} {connection}").trim_start().to_owned()
}

/// Each answer, behind `start`, whole and byte by byte.
async fn check(method: Method, start: &str, cases: &[Case]) {
    let mut wrong = String::new();
    for &(answer, then, expected) in cases {
        let whole = [start.as_bytes(), answer].concat();
        let mut ways = vec![vec![whole.clone()]];
        if whole.len() > 1 && whole.len() < 1000 {
            ways.push(whole.chunks(1).map(<[u8]>::to_vec).collect());
        }
        for pieces in ways {
            let how = if pieces.len() == 1 { "whole" } else { "in bytes" };
            let came = come_to(&method, pieces, then).await;
            if came != expected {
                let answer = shown(answer);
                write!(wrong, "{answer} {how}\n  {expected}\n  {came}\n").unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[tokio::test]
async fn what_a_body_of_a_declared_length_comes_to() {
    let cases: &[Case] = &[
        (b"content-length: 2\r\n\r\nok", Stays, "200 [content-length: 2] <ok> kept"),
        (b"content-length: 0\r\n\r\n", Stays, "200 [content-length: 0] <> kept"),
        (b"content-length: 000002\r\n\r\nok", Stays, "200 [content-length: 000002] <ok> kept"),
        (b"content-length:\t 2 \t\r\n\r\nok", Stays, "200 [content-length: 2] <ok> kept"),
        (
            b"content-length: 2\r\ncontent-length: 2\r\n\r\nok",
            Stays,
            "200 [content-length: 2] <ok> kept",
        ),
        (b"content-length: 2\r\n\r\nok", Closes, "200 [content-length: 2] <ok> closed"),
        (b"content-length: 2\r\n\r\nok", Resets, "200 [content-length: 2] <ok> closed"),
        (
            b"content-length: 4\r\n\r\nok",
            Closes,
            "200 [content-length: 4] <ok> !UpstreamReset(MaybeSeen) closed",
        ),
        (
            b"content-length: 4\r\n\r\n",
            Closes,
            "200 [content-length: 4] <> !UpstreamReset(MaybeSeen) closed",
        ),
        (
            b"content-length: 4\r\n\r\nok",
            Resets,
            "200 [content-length: 4] <ok> !UpstreamReset(MaybeSeen) closed",
        ),
        (b"content-length: 2\r\n\r\nok\r\n", Stays, "200 [content-length: 2] <ok> closed"),
        (b"content-length: 2\r\n\r\noknot asked for", Stays, "200 [content-length: 2] <ok> closed"),
        (
            b"content-length: 0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison",
            Stays,
            "200 [content-length: 0] <> closed",
        ),
        (b"content-length: 2\r\ncontent-length: 3\r\n\r\nok", Stays, "!UpstreamBadResponse closed"),
        (b"content-length: 2, 2\r\n\r\nok", Stays, "!UpstreamBadResponse closed"),
        (b"content-length: +2\r\n\r\nok", Stays, "!UpstreamBadResponse closed"),
        (b"content-length: -2\r\n\r\nok", Stays, "!UpstreamBadResponse closed"),
        (b"content-length: 0x2\r\n\r\nok", Stays, "!UpstreamBadResponse closed"),
        (b"content-length: 2 2\r\n\r\nok", Stays, "!UpstreamBadResponse closed"),
        (b"content-length: \r\n\r\nok", Stays, "!UpstreamBadResponse closed"),
        (b"content-length: 18446744073709551615\r\n\r\nok", Closes, "!UpstreamBadResponse closed"),
        (
            b"content-length: 18446744073709551612\r\n\r\nok",
            Closes,
            "200 [content-length: 18446744073709551612] <ok> !UpstreamReset(MaybeSeen) closed",
        ),
        (b"content-length: 18446744073709551616\r\n\r\nok", Stays, "!UpstreamBadResponse closed"),
        (
            b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            Stays,
            "!UpstreamBadResponse closed",
        ),
        (
            b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            Stays,
            "!UpstreamBadResponse closed",
        ),
    ];
    check(Method::GET, "HTTP/1.1 200 OK\r\n", cases).await;
}

#[tokio::test]
async fn what_a_chunked_body_comes_to() {
    let cases: &[Case] = &[
        (b"2\r\nok\r\n0\r\n\r\n", Stays, "200 <ok> kept"),
        (b"0\r\n\r\n", Stays, "200 <> kept"),
        (b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n", Stays, "200 <ok> kept"),
        (b"a\r\n0123456789\r\n0\r\n\r\n", Stays, "200 <0123456789> kept"),
        (b"A\r\n0123456789\r\n0\r\n\r\n", Stays, "200 <0123456789> kept"),
        (b"00000000000000000000000000000002\r\nok\r\n0000\r\n\r\n", Stays, "200 <ok> kept"),
        (b"2;name=value\r\nok\r\n0;last\r\n\r\n", Stays, "200 <ok> kept"),
        (b"2;a=\"\x01\xff\r\nok\r\n0\r\n\r\n", Stays, "200 <ok> kept"),
        (b"2 \t ;a\r\nok\r\n0 \r\n\r\n", Stays, "200 <ok> kept"),
        (b"2\r\nok\r\n0\r\n\r\n", Closes, "200 <ok> closed"),
        (b"2\r\nok\r\n0\r\n\r\n", Resets, "200 <ok> closed"),
        (b"2\r\nok\r\n0\r\n\r\n0\r\n\r\n", Stays, "200 <ok> closed"),
        (
            b"2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison",
            Stays,
            "200 <ok> closed",
        ),
        (b"\r\nok\r\n0\r\n\r\n", Stays, "200 <> !UpstreamBadResponse closed"),
        (b" 2\r\nok\r\n0\r\n\r\n", Stays, "200 <> !UpstreamBadResponse closed"),
        (b"g\r\nok\r\n0\r\n\r\n", Stays, "200 <> !UpstreamBadResponse closed"),
        (b"+2\r\nok\r\n0\r\n\r\n", Stays, "200 <> !UpstreamBadResponse closed"),
        (b"-2\r\nok\r\n0\r\n\r\n", Stays, "200 <> !UpstreamBadResponse closed"),
        (b"0x2\r\nok\r\n0\r\n\r\n", Stays, "200 <> !UpstreamBadResponse closed"),
        (b"2 2\r\nok\r\n0\r\n\r\n", Stays, "200 <> !UpstreamBadResponse closed"),
        (b";a\r\nok\r\n0\r\n\r\n", Stays, "200 <> !UpstreamBadResponse closed"),
        (b"fffffffffffffffe\r\nok", Closes, "200 <ok> !UpstreamReset(MaybeSeen) closed"),
        (b"ffffffffffffffff\r\nok", Closes, "200 <ok> !UpstreamReset(MaybeSeen) closed"),
        (b"10000000000000000\r\nok", Stays, "200 <> !UpstreamBadResponse closed"),
        (b"10000000000000002\r\nok\r\n0\r\n\r\n", Stays, "200 <> !UpstreamBadResponse closed"),
        (b"2\r\nok0\r\n\r\n", Stays, "200 <ok> !UpstreamBadResponse closed"),
        (b"2\r\nok\n0\r\n\r\n", Stays, "200 <ok> !UpstreamBadResponse closed"),
        (b"2\r\nok\r0\r\n\r\n", Stays, "200 <ok> !UpstreamBadResponse closed"),
        (b"2\r\nokay\r\n0\r\n\r\n", Stays, "200 <ok> !UpstreamBadResponse closed"),
        (b"2\nok\r\n0\r\n\r\n", Stays, "200 <> !UpstreamBadResponse closed"),
        (b"2\rok\r\n0\r\n\r\n", Stays, "200 <> !UpstreamBadResponse closed"),
        (b"2;a\nok\r\n0\r\n\r\n", Stays, "200 <> !UpstreamBadResponse closed"),
        (b"2\r\nok\r\n0\n\r\n", Stays, "200 <ok> !UpstreamBadResponse closed"),
        (b"2\r\nok\r\n0\r\n\n", Closes, "200 <ok> !UpstreamBadResponse closed"),
        (b"", Closes, "200 <> !UpstreamReset(MaybeSeen) closed"),
        (b"2", Closes, "200 <> !UpstreamReset(MaybeSeen) closed"),
        (b"2\r", Closes, "200 <> !UpstreamReset(MaybeSeen) closed"),
        (b"2\r\n", Closes, "200 <> !UpstreamReset(MaybeSeen) closed"),
        (b"2\r\no", Closes, "200 <o> !UpstreamReset(MaybeSeen) closed"),
        (b"2\r\nok", Closes, "200 <ok> !UpstreamReset(MaybeSeen) closed"),
        (b"2\r\nok\r", Closes, "200 <ok> !UpstreamReset(MaybeSeen) closed"),
        (b"2\r\nok\r\n", Closes, "200 <ok> !UpstreamReset(MaybeSeen) closed"),
        (b"2\r\nok\r\n0", Closes, "200 <ok> !UpstreamReset(MaybeSeen) closed"),
        (b"2\r\nok\r\n0\r\n", Closes, "200 <ok> !UpstreamReset(MaybeSeen) closed"),
        (b"2\r\nok\r\n0\r\n\r", Closes, "200 <ok> !UpstreamReset(MaybeSeen) closed"),
        (b"2\r\nok\r\n0\r\nx-sum: 1", Closes, "200 <ok> !UpstreamReset(MaybeSeen) closed"),
        (b"2\r\nok\r\n0\r\nx-sum: 1\r\n", Closes, "200 <ok> !UpstreamReset(MaybeSeen) closed"),
        (b"2\r\no", Resets, "200 <o> !UpstreamReset(MaybeSeen) closed"),
        (b"2\r\nok\r\n0\r\n", Resets, "200 <ok> !UpstreamReset(MaybeSeen) closed"),
    ];
    check(Method::GET, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", cases).await;
}

#[tokio::test]
async fn what_trailers_come_to() {
    let cases: &[Case] = &[
        (b"x-sum: 1\r\n\r\n", Stays, "200 <ok> [+x-sum: 1] kept"),
        (
            b"x-sum: 1\r\nx-other:2\r\nX-Sum:\t3 \r\n\r\n",
            Stays,
            "200 <ok> [+x-sum: 1] [+x-sum: 3] [+x-other: 2] kept",
        ),
        (b"x-sum: \xe9\r\n\r\n", Stays, "200 <ok> [+x-sum: \\xe9] kept"),
        (b"x-sum:\r\n\r\n", Stays, "200 <ok> [+x-sum: ] kept"),
        (
            b"content-length: 9\r\nset-cookie: a\r\nx-sum: 1\r\n\r\n",
            Stays,
            "200 <ok> [+x-sum: 1] kept",
        ),
        (b"content-length: 9\r\n\r\n", Stays, "200 <ok> kept"),
        (b"x-sum: 1\r\n\r\nmore", Stays, "200 <ok> [+x-sum: 1] closed"),
        (b"x-sum: 1\n\n", Closes, "200 <ok> !UpstreamBadResponse closed"),
        (b"x-sum: 1\r\n\n", Closes, "200 <ok> !UpstreamBadResponse closed"),
        (b"x-sum: 1\n\r\n", Closes, "200 <ok> !UpstreamBadResponse closed"),
        (b"x-sum : 1\r\n\r\n", Stays, "200 <ok> !UpstreamBadResponse closed"),
        (b"x-sum: 1\r\n folded\r\n\r\n", Stays, "200 <ok> !UpstreamBadResponse closed"),
        (b" x-sum: 1\r\n\r\n", Stays, "200 <ok> !UpstreamBadResponse closed"),
        (b"no colon\r\n\r\n", Stays, "200 <ok> !UpstreamBadResponse closed"),
        (b": no name\r\n\r\n", Stays, "200 <ok> !UpstreamBadResponse closed"),
        (b"x-sum: \x00\r\n\r\n", Stays, "200 <ok> !UpstreamBadResponse closed"),
        (b"x-sum: a\rb\r\n\r\n", Stays, "200 <ok> !UpstreamBadResponse closed"),
    ];
    let start = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n";
    check(Method::GET, start, cases).await;
}

#[tokio::test]
async fn what_a_reason_comes_to() {
    let cases: &[Case] = &[
        (b"200 Fine\r\ncontent-length: 0\r\n\r\n", Stays, "200 (Fine) [content-length: 0] <> kept"),
        (b"200 \r\ncontent-length: 0\r\n\r\n", Stays, "200 () [content-length: 0] <> kept"),
        (b"200\r\ncontent-length: 0\r\n\r\n", Stays, "200 () [content-length: 0] <> kept"),
        (
            b"200  two  \r\ncontent-length: 0\r\n\r\n",
            Stays,
            "200 ( two  ) [content-length: 0] <> kept",
        ),
        (
            b"200 a\tb\r\ncontent-length: 0\r\n\r\n",
            Stays,
            "200 (a\\tb) [content-length: 0] <> kept",
        ),
        (b"200 a\x01b\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"200 a\x00b\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"200OK\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
    ];
    check(Method::GET, "HTTP/1.1 ", cases).await;
}

#[tokio::test]
async fn what_a_status_comes_to() {
    let cases: &[Case] = &[
        (b" 200 OK\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"20 OK\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"2000 OK\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"2x0 OK\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"000 Low\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"099 Low\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"99 Low\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"299 Warm\r\ncontent-length: 0\r\n\r\n", Stays, "299 (Warm) [content-length: 0] <> kept"),
        (
            b"205 Reset Content\r\ncontent-length: 2\r\n\r\nok",
            Stays,
            "205 [content-length: 2] <ok> kept",
        ),
        (
            b"418 Teapot\r\ncontent-length: 0\r\n\r\n",
            Stays,
            "418 (Teapot) [content-length: 0] <> kept",
        ),
        (b"600 High\r\ncontent-length: 0\r\n\r\n", Stays, "600 (High) [content-length: 0] <> kept"),
        (
            b"999 Denied\r\ncontent-length: 2\r\n\r\nok",
            Stays,
            "999 (Denied) [content-length: 2] <ok> kept",
        ),
        (b"1000 Higher\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"-20 OK\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
    ];
    check(Method::GET, "HTTP/1.1 ", cases).await;
}

#[tokio::test]
async fn what_comes_of_another_version() {
    let cases: &[Case] = &[
        (b"HTTP/1.1\t200 OK\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"HTTP/1.1\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"HTTP/1.2 200 OK\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"HTTP/2 200 OK\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"HTTP/0.9 200 OK\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"http/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"ICY 200 OK\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"RTSP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"200 OK\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"<html>no head</html>", Stays, "!UpstreamBadResponse closed"),
        (b" HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
    ];
    check(Method::GET, "", cases).await;
}

#[tokio::test]
async fn what_a_head_comes_to() {
    let cases: &[Case] = &[
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Stays, "200 [content-length: 0] <> kept"),
        (
            b"HTTP/1.1 200 OK\r\nx-a: 1\r\nX-B:2\r\nx-a:\t 3 \r\ncontent-length: 0\r\n\r\n",
            Stays,
            "200 [x-a: 1] [x-a: 3] [x-b: 2] [content-length: 0] <> kept",
        ),
        (
            b"\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            Stays,
            "200 [content-length: 0] <> kept",
        ),
        (
            b"\r\n\r\n\n\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            Stays,
            "200 [content-length: 0] <> kept",
        ),
        (b"\rHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok", Stays, "200 [content-length: 2] <ok> kept"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\n\r\nok",
            Stays,
            "200 [content-length: 2] <ok> kept",
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\nok",
            Stays,
            "200 [content-length: 2] <ok> kept",
        ),
        (b"HTTP/1.1 200\ncontent-length: 2\n\nok", Stays, "200 () [content-length: 2] <ok> kept"),
        (b"HTTP/1.1 200 OK\rcontent-length: 0\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"HTTP/1.1 200 OK\r\n\r\n", Closes, "200 <> closed"),
    ];
    check(Method::GET, "", cases).await;
}

#[tokio::test]
async fn what_a_field_comes_to() {
    let cases: &[Case] = &[
        (b"x-a:\r\n\r\n", Stays, "200 [content-length: 0] [x-a: ] <> kept"),
        (b"x-a:   \r\n\r\n", Stays, "200 [content-length: 0] [x-a: ] <> kept"),
        (b"x-a: a b\tc \r\n\r\n", Stays, "200 [content-length: 0] [x-a: a b\\tc] <> kept"),
        (
            b"x-a: \xe9\xff\x80\r\n\r\n",
            Stays,
            "200 [content-length: 0] [x-a: \\xe9\\xff\\x80] <> kept",
        ),
        (b"x-a: \xc3\xa9\r\n\r\n", Stays, "200 [content-length: 0] [x-a: \\xc3\\xa9] <> kept"),
        (b"x-a: \x00\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"x-a: a\x01b\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"x-a: a\x1fb\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"x-a: a\x7fb\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"x-a: a\x0bb\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"x-a: a\rb\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"x-a: a\r\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"x-a: a\r\n b\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"x-a: a\r\n\tb\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"x-a: a\r\n \r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b" x-a: a\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"x-a : a\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"x-a\t: a\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"content-length : 2\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"no colon\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"nocolon\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b": no name\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"x a: b\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"x(a): b\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"x\x00a: b\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"x\xe9a: b\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (
            b"x_a!#$%&'*+-.^`|~: b\r\n\r\n",
            Stays,
            "200 [content-length: 0] [x_a!#$%&'*+-.^`|~: b] <> kept",
        ),
        (b"x-a: b: c\r\n\r\n", Stays, "200 [content-length: 0] [x-a: b: c] <> kept"),
    ];
    check(Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n", cases).await;
}

#[tokio::test]
async fn what_comes_of_an_answer_that_is_none() {
    let cases: &[Case] = &[
        (b"", Closes, "!UpstreamReset(MaybeSeen) closed"),
        (b"", Resets, "!UpstreamReset(MaybeSeen) closed"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", Closes, "!UpstreamReset(MaybeSeen) closed"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", Resets, "!UpstreamReset(MaybeSeen) closed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n", Closes, "!UpstreamReset(MaybeSeen) closed"),
        (b"H", Closes, "!UpstreamReset(MaybeSeen) closed"),
        (b"H", Resets, "!UpstreamReset(MaybeSeen) closed"),
        (b"\r\n", Closes, "!UpstreamReset(MaybeSeen) closed"),
        (b"\r\n", Resets, "!UpstreamReset(MaybeSeen) closed"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"\x15\x03\x01\x00\x02\x02\x46", Stays, "!UpstreamBadResponse closed"),
        (b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76", Stays, "!UpstreamBadResponse closed"),
        (b"220 mail.example ESMTP\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", Stays, "!UpstreamBadResponse closed"),
        (b"-ERR unknown command\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"\x00", Stays, "!UpstreamBadResponse closed"),
    ];
    check(Method::GET, "", cases).await;
}

#[tokio::test]
async fn what_a_body_without_a_length_comes_to() {
    let cases: &[Case] = &[
        (b"\r\nok", Closes, "200 <ok> closed"),
        (b"\r\n", Closes, "200 <> closed"),
        (b"\r\nok", Resets, "200 <ok> !UpstreamReset(MaybeSeen) closed"),
        (b"\r\n", Resets, "200 <> !UpstreamReset(MaybeSeen) closed"),
        (b"connection: keep-alive\r\n\r\nok", Closes, "200 <ok> closed"),
        (b"transfer-encoding: identity\r\n\r\nok", Closes, "!UpstreamBadResponse closed"),
        (
            b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            Closes,
            "!UpstreamBadResponse closed",
        ),
        (b"transfer-encoding: chunked, gzip\r\n\r\nok", Closes, "!UpstreamBadResponse closed"),
        (
            b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
            Closes,
            "!UpstreamBadResponse closed",
        ),
        (
            b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            Closes,
            "!UpstreamBadResponse closed",
        ),
        (b"transfer-encoding: xchunked\r\n\r\nok", Closes, "!UpstreamBadResponse closed"),
        (b"transfer-encoding: chunked;a=b\r\n\r\nok", Closes, "!UpstreamBadResponse closed"),
        (b"transfer-encoding: \"chunked\"\r\n\r\nok", Closes, "!UpstreamBadResponse closed"),
        (b"transfer-encoding: \r\n\r\nok", Closes, "!UpstreamBadResponse closed"),
        (b"transfer-encoding: \xffchunked\r\n\r\nok", Closes, "!UpstreamBadResponse closed"),
        (b"transfer-encoding: CHUNKED\r\n\r\n2\r\nok\r\n0\r\n\r\n", Stays, "200 <ok> kept"),
        (b"transfer-encoding:\t chunked \r\n\r\n2\r\nok\r\n0\r\n\r\n", Stays, "200 <ok> kept"),
    ];
    check(Method::GET, "HTTP/1.1 200 OK\r\n", cases).await;
}

#[tokio::test]
async fn what_an_answer_in_http_1_0_comes_to() {
    let cases: &[Case] = &[
        (b"content-length: 2\r\n\r\nok", Stays, "200 [content-length: 2] <ok> closed"),
        (b"content-length: 2\r\n\r\nok", Closes, "200 [content-length: 2] <ok> closed"),
        (
            b"content-length: 2\r\nconnection: keep-alive\r\n\r\nok",
            Stays,
            "200 [content-length: 2] <ok> closed",
        ),
        (
            b"content-length: 0\r\nconnection: keep-alive\r\n\r\n",
            Stays,
            "200 [content-length: 0] <> closed",
        ),
        (
            b"content-length: 4\r\n\r\nok",
            Closes,
            "200 [content-length: 4] <ok> !UpstreamReset(MaybeSeen) closed",
        ),
        (b"\r\nok", Closes, "200 <ok> closed"),
        (b"\r\nok", Resets, "200 <ok> !UpstreamReset(MaybeSeen) closed"),
        (
            b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            Closes,
            "!UpstreamBadResponse closed",
        ),
        (b"transfer-encoding: identity\r\n\r\nok", Closes, "!UpstreamBadResponse closed"),
        (
            b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\nok",
            Closes,
            "!UpstreamBadResponse closed",
        ),
    ];
    check(Method::GET, "HTTP/1.0 200 OK\r\n", cases).await;
}

#[tokio::test]
async fn what_an_answer_to_head_comes_to() {
    let cases: &[Case] = &[
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
            Stays,
            "200 [content-length: 10] <> kept",
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\ncontent-length: 10\r\n\r\n",
            Stays,
            "200 [content-length: 10] <> kept",
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\ncontent-length: 11\r\n\r\n",
            Stays,
            "!UpstreamBadResponse closed",
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: +10\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Stays, "200 <> kept"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
            Stays,
            "!UpstreamBadResponse closed",
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n",
            Stays,
            "!UpstreamBadResponse closed",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n", Stays, "200 <> kept"),
        (b"HTTP/1.1 200 OK\r\n\r\n", Closes, "200 <> closed"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            Stays,
            "200 [content-length: 2] <> closed",
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            Stays,
            "200 <> closed",
        ),
        (
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 10\r\n\r\n",
            Stays,
            "404 [content-length: 10] <> kept",
        ),
        (
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
            Stays,
            "200 [content-length: 10] <> kept",
        ),
        (
            b"HTTP/1.0 200 OK\r\ncontent-length: 10\r\n\r\n",
            Stays,
            "200 [content-length: 10] <> closed",
        ),
        (b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Stays, "200 <> closed"),
    ];
    check(Method::HEAD, "", cases).await;
}

#[tokio::test]
async fn what_a_status_without_content_comes_to() {
    let cases: &[Case] = &[
        (b"204 No Content\r\n\r\n", Stays, "204 <> kept"),
        (b"204 No Content\r\ncontent-length: 0\r\n\r\n", Stays, "204 <> kept"),
        (b"204 No Content\r\ncontent-length: 2\r\n\r\n", Stays, "204 <> kept"),
        (b"204 No Content\r\ncontent-length: 2\r\n\r\nok", Stays, "204 <> closed"),
        (
            b"204 No Content\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            Stays,
            "!UpstreamBadResponse closed",
        ),
        (b"204 No Content\r\ntransfer-encoding: chunked\r\n\r\n", Stays, "204 <> kept"),
        (b"204 No Content\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Stays, "204 <> closed"),
        (b"204 No Content\r\nconnection: close\r\n\r\n", Stays, "204 <> closed"),
        (b"304 Not Modified\r\n\r\n", Stays, "304 <> kept"),
        (
            b"304 Not Modified\r\ncontent-length: 10\r\netag: \"a\"\r\n\r\n",
            Stays,
            "304 [content-length: 10] [etag: \\\"a\\\"] <> kept",
        ),
        (
            b"304 Not Modified\r\ncontent-length: 2\r\n\r\nok",
            Stays,
            "304 [content-length: 2] <> closed",
        ),
        (b"304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n", Stays, "304 <> kept"),
        (
            b"304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            Stays,
            "304 <> closed",
        ),
    ];
    check(Method::GET, "HTTP/1.1 ", cases).await;
}

#[tokio::test]
async fn what_an_answer_says_of_its_connection() {
    let cases: &[Case] = &[
        (b"connection: close\r\n\r\nok", Stays, "200 [content-length: 2] <ok> closed"),
        (b"connection: close\r\n\r\nok", Closes, "200 [content-length: 2] <ok> closed"),
        (b"Connection: Close, x\r\nx: 1\r\n\r\nok", Stays, "200 [content-length: 2] <ok> closed"),
        (
            b"connection: x-hop\r\nconnection: close\r\nx-hop: 1\r\n\r\nok",
            Stays,
            "200 [content-length: 2] <ok> closed",
        ),
        (
            b"connection: close\r\nconnection: keep-alive\r\n\r\nok",
            Stays,
            "200 [content-length: 2] <ok> closed",
        ),
        (b"connection: keep-alive, close\r\n\r\nok", Stays, "200 [content-length: 2] <ok> closed"),
        (b"connection: keep-alive\r\n\r\nok", Stays, "200 [content-length: 2] <ok> kept"),
        (b"connection: closed\r\n\r\nok", Stays, "200 [content-length: 2] <ok> kept"),
        (b"connection: \r\n\r\nok", Stays, "200 [content-length: 2] <ok> kept"),
        (
            b"connection: content-length, date\r\ndate: now\r\n\r\nok",
            Stays,
            "200 [content-length: 2] <ok> kept",
        ),
        (b"proxy-connection: close\r\n\r\nok", Stays, "200 [content-length: 2] <ok> kept"),
        (b"keep-alive: timeout=60, max=1\r\n\r\nok", Stays, "200 [content-length: 2] <ok> kept"),
        (b"keep-alive: timeout=1\r\n\r\nok", Stays, "200 [content-length: 2] <ok> closed"),
        (b"keep-alive: timeout=0\r\n\r\nok", Stays, "200 [content-length: 2] <ok> closed"),
        (b"keep-alive: max=0\r\n\r\nok", Stays, "200 [content-length: 2] <ok> kept"),
        (
            b"upgrade: h2c\r\nconnection: upgrade\r\n\r\nok",
            Stays,
            "200 [content-length: 2] <ok> kept",
        ),
    ];
    check(Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n", cases).await;
}

#[tokio::test]
async fn what_an_interim_answer_comes_to() {
    let cases: &[Case] = &[
        (b"100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Stays, "200 [content-length: 2] <ok> kept"),
        (b"100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Stays, "200 [content-length: 2] <ok> kept"),
        (b"102 Processing\r\nx-a: 1\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", Stays, "204 <> kept"),
        (b"103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Stays, "200 [content-length: 2] <ok> kept"),
        (b"104 New\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Stays, "200 [content-length: 2] <ok> kept"),
        (b"199 Odd\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Stays, "200 [content-length: 2] <ok> kept"),
        (b"100 Continue\r\ncontent-length: 2\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Stays, "200 [content-length: 2] <ok> kept"),
        (b"100 Continue\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Stays, "!UpstreamBadResponse closed"),
        (b"100 Continue\r\ntransfer-encoding: chunked\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Stays, "200 [content-length: 2] <ok> kept"),
        (b"100 Continue\r\nconnection: close\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Stays, "200 [content-length: 2] <ok> kept"),
        (b"100 Continue\r\nkeep-alive: timeout=1\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Stays, "200 [content-length: 2] <ok> kept"),
        (b"100 Continue\r\n\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Stays, "200 [content-length: 2] <ok> kept"),
        (b"100 Continue\r\nno colon\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Stays, "!UpstreamBadResponse closed"),
        (b"100 Continue\r\n\r\nHTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", Stays, "200 [content-length: 2] <ok> closed"),
        (b"100 Continue\r\n\r\n", Closes, "!UpstreamReset(MaybeSeen) closed"),
        (b"100 Continue\r\n\r\n", Resets, "!UpstreamReset(MaybeSeen) closed"),
        (b"100 Continue\r\n", Closes, "!UpstreamReset(MaybeSeen) closed"),
        (b"100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncon", Closes, "!UpstreamReset(MaybeSeen) closed"),
        (b"100 Continue\r\n\r\nnot a head", Stays, "!UpstreamBadResponse closed"),
        (b"101 Switching Protocols\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
        (b"101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nnew bytes", Stays, "!UpstreamBadResponse closed"),
        (b"100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
    ];
    check(Method::GET, "HTTP/1.1 ", cases).await;
}

#[tokio::test]
async fn what_an_answer_to_an_unsafe_method_comes_to() {
    let cases: &[Case] = &[
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            Stays,
            "200 [content-length: 2] <ok> kept",
        ),
        (
            b"HTTP/1.1 201 Created\r\nlocation: /a\r\ncontent-length: 0\r\n\r\n",
            Stays,
            "201 [location: /a] [content-length: 0] <> kept",
        ),
        (
            b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n",
            Stays,
            "417 [content-length: 0] <> kept",
        ),
        (b"", Closes, "!UpstreamReset(MaybeSeen) closed"),
        (b"", Resets, "!UpstreamReset(MaybeSeen) closed"),
        (b"no head\r\n\r\n", Stays, "!UpstreamBadResponse closed"),
    ];
    check(Method::POST, "", cases).await;
}

#[tokio::test]
async fn a_reason_that_is_not_ascii_is_lost() {
    let cases: &[Case] = &[(
        b"HTTP/1.1 200 \xe9t\xe9\r\ncontent-length: 0\r\n\r\n",
        Stays,
        "200 () [content-length: 0] <> kept",
    )];
    check(Method::GET, "", cases).await;
}

#[tokio::test]
async fn a_close_is_seen_whatever_stands_beside_it() {
    let cases: &[Case] =
        &[(b"connection: \xff, close\r\n\r\nok", Stays, "200 [content-length: 2] <ok> closed")];
    check(Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n", cases).await;
}

/// How a large head or body comes out, in one piece and in thirty.
async fn check_large(answer: &str, then: Then, expected: &str) {
    let whole = vec![answer.as_bytes().to_vec()];
    let pieces = answer.as_bytes().chunks(answer.len().div_ceil(30)).map(<[u8]>::to_vec).collect();
    for pieces in [whole, pieces] {
        let how = pieces.len();
        let came = come_to(&Method::GET, pieces, then).await;
        let start = &answer[..answer.len().min(100)];
        assert_eq!(came, expected, "{} bytes in {how}: {start}", answer.len());
    }
}

const STATUS: &str = "HTTP/1.1 200 OK\r\n";
const LENGTH: &str = "content-length: 2\r\n\r\nok";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
const KEPT: &str = "200 [content-length: 2] <ok> kept";
const REFUSED: &str = "!UpstreamBadResponse closed";
const KIB: usize = 1024;

#[tokio::test]
async fn a_head_has_100_fields_at_most() {
    let fields = |count| format!("{STATUS}{}{LENGTH}", "a: b\r\n".repeat(count));
    check_large(&fields(99), Stays, "200 [100 fields] <ok> kept").await;
    check_large(&fields(100), Stays, REFUSED).await;
}

#[tokio::test]
async fn a_head_has_32_kib_at_most() {
    let of_size = |size: usize| {
        let around = format!("{STATUS}a: \r\n{LENGTH}").len() - "ok".len();
        format!("{STATUS}a: {}\r\n{LENGTH}", "b".repeat(size - around))
    };
    let kept = |value| format!("200 [a: {value} bytes] [content-length: 2] <ok> kept");
    check_large(&of_size(31 * KIB), Stays, &kept(31 * KIB - 43)).await;
    check_large(&of_size(32 * KIB), Stays, &kept(32 * KIB - 43)).await;
    check_large(&of_size(32 * KIB + 1), Stays, REFUSED).await;
    check_large(&of_size(70 * KIB), Stays, REFUSED).await;
    let reason = format!("HTTP/1.1 200 {}\r\n{LENGTH}", "b".repeat(30 * KIB));
    check_large(&reason, Stays, "200 (30720 bytes) [content-length: 2] <ok> kept").await;
    let name = format!("{STATUS}{}: b\r\n{LENGTH}", "a".repeat(33 * KIB));
    check_large(&name, Stays, REFUSED).await;
}

#[tokio::test]
async fn what_comes_before_an_answer_is_limited_each_by_itself() {
    let hints = |fields: &str| format!("HTTP/1.1 103 Early Hints\r\n{fields}\r\n");
    let behind = |before: &str| format!("{before}{STATUS}{LENGTH}");
    check_large(&behind(&hints("a: b\r\n").repeat(10)), Stays, KEPT).await;
    check_large(&behind(&hints("a: b\r\n").repeat(2000)), Stays, KEPT).await;
    check_large(&behind(&hints(&"a: b\r\n".repeat(100))), Stays, KEPT).await;
    check_large(&behind(&hints(&"a: b\r\n".repeat(101))), Stays, REFUSED).await;
    check_large(&behind(&hints(&format!("a: {}\r\n", "b".repeat(31 * KIB)))), Stays, KEPT).await;
    check_large(&behind(&hints(&format!("a: {}\r\n", "b".repeat(33 * KIB)))), Stays, REFUSED).await;
    check_large(&behind(&"\r\n".repeat(100)), Stays, KEPT).await;
}

#[tokio::test]
async fn what_a_large_body_comes_to() {
    let body = "b".repeat(300_000);
    let length = |length: &str| format!("{STATUS}content-length: {length}\r\n\r\n{body}");
    let all = "200 [content-length: 300000] <300000 bytes>";
    check_large(&length("300000"), Stays, &format!("{all} kept")).await;
    check_large(&(length("300000") + "x"), Stays, &format!("{all} closed")).await;
    let short = "200 [content-length: 300001] <300000 bytes> !UpstreamReset(MaybeSeen) closed";
    check_large(&length("300001"), Closes, short).await;
    check_large(&format!("{STATUS}\r\n{body}"), Closes, "200 <300000 bytes> closed").await;
    let chunk = format!("{CHUNKED}493e0\r\n{body}\r\n0\r\n\r\n");
    check_large(&chunk, Stays, "200 <300000 bytes> kept").await;
    let chunks = format!("{CHUNKED}{}0\r\n\r\n", "1\r\nb\r\n".repeat(5000));
    check_large(&chunks, Stays, "200 <5000 bytes> kept").await;
    let zeros = format!("{CHUNKED}{}2\r\nok\r\n0\r\n\r\n", "0".repeat(20_000));
    check_large(&zeros, Stays, "200 <> !UpstreamBadResponse closed").await;
}

#[tokio::test]
async fn the_extensions_of_all_chunks_have_16_kib_at_most() {
    let extension = |size| format!("{CHUNKED}2;{}\r\nok\r\n0\r\n\r\n", "a".repeat(size));
    check_large(&extension(15 * KIB), Stays, "200 <ok> kept").await;
    check_large(&extension(16 * KIB), Stays, "200 <> !UpstreamBadResponse closed").await;
    let many = |count| format!("{CHUNKED}{}0\r\n\r\n", "1;aaaa\r\nb\r\n".repeat(count));
    check_large(&many(4000), Stays, "200 <4000 bytes> kept").await;
    check_large(&many(5000), Stays, "200 <4095 bytes> !UpstreamBadResponse closed").await;
}

#[tokio::test]
async fn trailers_have_100_fields_and_32_kib_at_most() {
    let trailers = |fields: &str| format!("{CHUNKED}2\r\nok\r\n0\r\n{fields}\r\n");
    let large = |size| trailers(&format!("a: {}\r\n", "b".repeat(size)));
    let refused = "200 <ok> !UpstreamBadResponse closed";
    check_large(&trailers(&"a: b\r\n".repeat(100)), Stays, "200 <ok> [+100 fields] kept").await;
    check_large(&trailers(&"a: b\r\n".repeat(101)), Stays, refused).await;
    check_large(&large(31 * KIB), Stays, "200 <ok> [+a: 31744 bytes] kept").await;
    check_large(&large(33 * KIB), Stays, refused).await;
}

#[tokio::test]
async fn wherever_an_answer_is_split_it_comes_to_the_same() {
    let cases: &[(&str, &[u8], Then)] = &[
        ("GET", b"HTTP/1.1 200 OK\r\nx-a: \xe9\r\ncontent-length: 2\r\n\r\nok", Stays),
        ("GET", b"HTTP/1.1 200 Fine\ncontent-length: 2\n\nok", Stays),
        ("GET", b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok", Closes),
        ("GET", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok", Closes),
        ("GET", b"HTTP/1.0 200 OK\r\n\r\nok", Closes),
        ("GET", b"HTTP/1.1 103 Early Hints\r\na: b\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", Stays),
        ("GET", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0A\r\n0123456789\r\n0\r\nx-sum: 1\r\n\r\n", Stays),
        ("GET", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nmore", Stays),
        ("GET", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n", Stays),
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", Stays),
        ("GET", b"\r\nHTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n", Stays),
        ("GET", b"HTTP/1.1 200 OK\r\na: b\r\n folded\r\n\r\n", Stays),
    ];
    for &(method, answer, then) in cases {
        let method = method.parse().unwrap();
        let whole = come_to(&method, vec![answer.to_vec()], then).await;
        for at in 1..answer.len() {
            let (first, second) = answer.split_at(at);
            let came = come_to(&method, vec![first.to_vec(), second.to_vec()], then).await;
            assert_eq!(came, whole, "{} | {}", shown(first), shown(second));
        }
    }
}

/// What a client of HTTP/1.1 that takes trailers reads until the end, without the date.
async fn at_the_client(answer: &'static [u8], then: Then) -> Vec<u8> {
    let address = upstream(move |mut peer| async move {
        peer.read().await;
        peer.write(answer).await;
        if then == Stays {
            peer.read().await;
        }
    });
    let rig = Arc::new(rig(address.await, settings(Protocol::H1)));
    let mut client = TcpStream::connect(gateway(rig.clone()).await).await.unwrap();
    let ask = b"GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te, close\r\n\r\n";
    client.write_all(ask).await.unwrap();
    let mut read = Vec::new();
    time::timeout(Duration::from_secs(5), client.read_to_end(&mut read)).await.unwrap().unwrap();
    let lines = read.split_inclusive(|&byte| byte == b'\n');
    let kept: Vec<_> = lines.filter(|line| !line.starts_with(b"date: ")).collect();
    kept.concat()
}

#[tokio::test]
async fn what_the_client_reads_of_it() {
    let cases: &[(&[u8], Then, &[u8])] = &[
        (b"HTTP/1.1 200 OK\r\nX-B: 2\r\nx-a: 1\r\nX-b:3\r\ncontent-length: 2\r\n\r\nok", Stays, b"HTTP/1.1 200 OK\r\nx-b: 2\r\nx-b: 3\r\nx-a: 1\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"),
        (b"HTTP/1.1 200 Fine\r\nx-a: \xe9\r\ncontent-length: 2\r\n\r\nok", Stays, b"HTTP/1.1 200 Fine\r\nx-a: \xe9\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"),
        (b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok", Stays, b"HTTP/1.1 200 \r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"),
        (b"HTTP/1.1 200 \xe9t\xe9\r\ncontent-length: 2\r\n\r\nok", Stays, b"HTTP/1.1 200 \r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"),
        (b"HTTP/1.1 999 Denied\r\ncontent-length: 2\r\n\r\nok", Stays, b"HTTP/1.1 999 Denied\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"),
        (b"HTTP/1.1 418\r\ncontent-length: 002\r\n\r\nok", Stays, b"HTTP/1.1 418 \r\ncontent-length: 002\r\nconnection: close\r\n\r\nok"),
        (b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", Stays, b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n", Stays, b"HTTP/1.1 304 Not Modified\r\nconnection: close\r\n\r\n"),
        (b"HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n", Stays, b"HTTP/1.1 304 Not Modified\r\nconnection: close\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\nok", Closes, b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        (b"HTTP/1.0 200 OK\r\n\r\nok", Closes, b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2;a=b\r\nok\r\n0\r\nx-sum: 1\r\n\r\n", Stays, b"HTTP/1.1 200 OK\r\ntrailer: x-sum\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n", Stays, b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", Closes, b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok", Closes, b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nok"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n", Stays, b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", Stays, b""),
    ];
    let mut wrong = String::new();
    for &(answer, then, expected) in cases {
        let came = at_the_client(answer, then).await;
        if came != expected {
            let (answer, expected, came) =
                (answer.escape_ascii(), expected.escape_ascii(), came.escape_ascii());
            write!(wrong, "{answer}\n  {expected}\n  {came}\n").unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
