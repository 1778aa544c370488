//! Requests as the upstream reads them, byte for byte.

use std::fmt::Write as _;

use super::*;

/// The bytes of an upstream's first connection until nothing more comes, and what the exchange came
/// to. The upstream answers once it has read `until`, or never.
async fn read_of(request: Request, until: &'static [u8]) -> (Vec<u8>, String) {
    let (seen, mut all) = mpsc::channel(1);
    let address = upstream(move |mut peer| {
        let seen = seen.clone();
        async move {
            let mut read = Vec::new();
            let mut has_answered = until.is_empty();
            loop {
                if !has_answered && read.ends_with(until) {
                    peer.write(EMPTY).await;
                    has_answered = true;
                }
                match peer.stream.read_buf(&mut read).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
            drop(seen.send(read).await);
        }
    });
    let rig = rig(address.await, settings(Protocol::H1));
    let flight = rig.local.enter(usize::MAX).unwrap();
    let sent = exchange(Call { request, flight }, false);
    let came = match time::timeout(Duration::from_secs(2), sent).await {
        Ok(Ok(response)) => response.status().as_u16().to_string(),
        Ok(Err(mut error)) => {
            let unsent = if error.take_unsent().is_some() { " unsent" } else { "" };
            format!("{:?}{unsent}", error.kind())
        }
        Err(_) => "waits".to_owned(),
    };
    // With its pools, its connections go.
    drop(rig);
    let read = time::timeout(Duration::from_secs(5), all.recv()).await.unwrap().unwrap();
    (read, came)
}

/// A streaming body that says it has `length` bytes, if anything, and comes to `frames`. If paced,
/// it has to be waited for before all but the first.
struct Stream {
    frames: Vec<Result<Frame<Bytes>>>,
    length: Option<u64>,
    ends_with_its_last: bool,
    is_paced: bool,
    is_next_ready: bool,
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>>>> {
        if !std::mem::replace(&mut self.is_next_ready, true) {
            cx.waker().wake_by_ref();
            return std::task::Poll::Pending;
        }
        self.is_next_ready = !self.is_paced;
        let next = (!self.frames.is_empty()).then(|| self.frames.remove(0));
        std::task::Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.ends_with_its_last && self.frames.is_empty()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.length.map_or_else(http_body::SizeHint::default, http_body::SizeHint::with_exact)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it stands beside failures")]
fn data(text: &'static str) -> Result<Frame<Bytes>> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

#[expect(clippy::unnecessary_wraps, reason = "it stands beside failures")]
fn trailers(fields: &[(&'static str, &'static str)]) -> Result<Frame<Bytes>> {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(*name, HeaderValue::from_static(value));
    }
    Ok(Frame::trailers(map))
}

/// The body of `frames` in four ways: its end is known with the last, or only afterwards; all of it
/// is there at once, or has to be waited for.
fn streams(frames: impl Fn() -> Vec<Result<Frame<Bytes>>>, length: Option<u64>) -> [Body; 4] {
    [(true, false), (false, false), (true, true), (false, true)].map(
        |(ends_with_its_last, is_paced)| {
            let frames = frames();
            Body::boxed(Stream {
                frames,
                length,
                ends_with_its_last,
                is_paced,
                is_next_ready: true,
            })
        },
    )
}

fn with(mut request: Request, fields: &[(&'static str, &[u8])]) -> Request {
    for (name, value) in fields {
        request.parts.headers.append(*name, HeaderValue::from_bytes(value).unwrap());
    }
    request
}

fn streaming(body: Body) -> Request {
    request(Method::POST, "/", body)
}

async fn check_read(asked: Request, expected: &[u8]) {
    let what = format!("{} {}", asked.parts.method, asked.parts.uri);
    let end: &'static [u8] = expected[expected.len().saturating_sub(5)..].to_vec().leak();
    let (read, came) = read_of(asked, end).await;
    let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
    assert_eq!(shown(&read), shown(expected), "{what} came to {came}");
    assert_eq!(came, "204", "{what}");
}

#[tokio::test]
async fn requests_without_a_body() {
    let cases: &[(&str, &str, &[u8])] = &[
        ("GET", "/", b"GET / HTTP/1.1\r\nhost: orders.internal:80\r\n\r\n"),
        ("HEAD", "/a", b"HEAD /a HTTP/1.1\r\nhost: orders.internal:80\r\n\r\n"),
        ("DELETE", "/", b"DELETE / HTTP/1.1\r\nhost: orders.internal:80\r\n\r\n"),
        ("TRACE", "/", b"TRACE / HTTP/1.1\r\nhost: orders.internal:80\r\n\r\n"),
        ("OPTIONS", "*", b"OPTIONS * HTTP/1.1\r\nhost: orders.internal:80\r\n\r\n"),
        ("PROPFIND", "/", b"PROPFIND / HTTP/1.1\r\nhost: orders.internal:80\r\n\r\n"),
        ("M-SEARCH!#$%", "/", b"M-SEARCH!#$% / HTTP/1.1\r\nhost: orders.internal:80\r\n\r\n"),
        ("get", "/", b"get / HTTP/1.1\r\nhost: orders.internal:80\r\n\r\n"),
        ("PURGE", "/", b"PURGE / HTTP/1.1\r\nhost: orders.internal:80\r\n\r\n"),
        ("QUERY", "/", b"QUERY / HTTP/1.1\r\nhost: orders.internal:80\r\n\r\n"),
        ("POST", "/", b"POST / HTTP/1.1\r\nhost: orders.internal:80\r\ncontent-length: 0\r\n\r\n"),
        ("PUT", "/", b"PUT / HTTP/1.1\r\nhost: orders.internal:80\r\ncontent-length: 0\r\n\r\n"),
        (
            "PATCH",
            "/",
            b"PATCH / HTTP/1.1\r\nhost: orders.internal:80\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            "GET",
            "/a%2Fb//c;d/%C3%A9?q=%20&x=[y]|'{}",
            b"GET /a%2Fb//c;d/%C3%A9?q=%20&x=[y]|'{} HTTP/1.1\r\nhost: orders.internal:80\r\n\r\n",
        ),
        ("GET", "/?", b"GET /? HTTP/1.1\r\nhost: orders.internal:80\r\n\r\n"),
        ("GET", "http://shop.example", b"GET / HTTP/1.1\r\nhost: orders.internal:80\r\n\r\n"),
        (
            "GET",
            "http://shop.example?a=b",
            b"GET /?a=b HTTP/1.1\r\nhost: orders.internal:80\r\n\r\n",
        ),
        (
            "GET",
            "https://shop.example:8443/a?b",
            b"GET /a?b HTTP/1.1\r\nhost: orders.internal:80\r\n\r\n",
        ),
    ];
    for &(method, target, expected) in cases {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        check_read(request(method, target, Body::empty()), expected).await;
    }
}

#[tokio::test]
async fn a_head_passes_in_order_in_lower_case_and_as_bytes() {
    let fields: &[(&str, &[u8])] = &[
        ("x-b", b"2"),
        ("x-a", b"1"),
        ("accept", b""),
        ("x-b", b"3"),
        ("x-obs", b"\xe9\xff\x80"),
        ("x-tab", b"a\tb"),
        ("user-agent", b"one two"),
        ("cookie", b"a=1"),
        ("cookie", b"b=\xe9"),
        ("expect", b"100-continue"),
        ("te", b"trailers"),
        ("connection", b"x-hop, close"),
        ("x-hop", b"1"),
        ("keep-alive", b"timeout=5"),
        ("transfer-encoding", b"gzip, chunked"),
        ("content-length", b"99"),
        ("trailer", b"x-sum"),
    ];
    let expected = b"GET / HTTP/1.1\r\nx-b: 2\r\nx-b: 3\r\nx-a: 1\r\naccept: \r\n\
        x-obs: \xe9\xff\x80\r\nx-tab: a\tb\r\nuser-agent: one two\r\ncookie: a=1; b=\xe9\r\n\
        expect: 100-continue\r\nhost: orders.internal:80\r\ntrailer: x-sum\r\n\r\n";
    check_read(with(get("/"), fields), expected).await;
}

#[tokio::test]
async fn many_fields_pass() {
    let mut asked = get("/");
    let mut expected = String::new();
    for number in 0..150 {
        let name: http::HeaderName = format!("x-{number}").parse().unwrap();
        asked.parts.headers.insert(name, HeaderValue::from(number));
        write!(expected, "x-{number}: {number}\r\n").unwrap();
    }
    let large = "v".repeat(60_000);
    asked.parts.headers.insert("x-large", HeaderValue::from_str(&large).unwrap());
    let expected =
        format!("GET / HTTP/1.1\r\n{expected}x-large: {large}\r\nhost: orders.internal:80\r\n\r\n");
    check_read(asked, expected.as_bytes()).await;
}

#[tokio::test]
async fn a_body_in_memory_has_a_length_whatever_the_method() {
    for method in ["POST", "PUT", "GET", "HEAD", "DELETE", "TRACE", "PROPFIND"] {
        let asked = with(
            request(method.parse().unwrap(), "/", Body::full("payload")),
            &[("content-length", b"99")],
        );
        let expected = format!(
            "{method} / HTTP/1.1\r\ncontent-length: 7\r\nhost: orders.internal:80\r\n\r\npayload"
        );
        check_read(asked, expected.as_bytes()).await;
    }
}

#[tokio::test]
async fn a_streaming_body_of_known_length_has_it_and_one_of_unknown_length_is_chunked() {
    let frames = || vec![data("pay"), data(""), data("load"), data("0123456789")];
    for method in ["POST", "GET", "DELETE", "HEAD", "OPTIONS"] {
        for body in streams(frames, Some(17)) {
            let expected = format!(
                "{method} / HTTP/1.1\r\nhost: orders.internal:80\r\ncontent-length: 17\r\n\r\npayload0123456789"
            );
            check_read(request(method.parse().unwrap(), "/", body), expected.as_bytes()).await;
        }
        for body in streams(frames, None) {
            let expected = format!(
                "{method} / HTTP/1.1\r\nhost: orders.internal:80\r\ntransfer-encoding: chunked\r\n\r\n3\r\npay\r\n4\r\nload\r\nA\r\n0123456789\r\n0\r\n\r\n"
            );
            check_read(request(method.parse().unwrap(), "/", body), expected.as_bytes()).await;
        }
    }
}

#[tokio::test]
async fn an_empty_body_of_unknown_length_is_chunked_and_one_of_known_length_is_none() {
    let head = "POST / HTTP/1.1\r\nhost: orders.internal:80\r\n";
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n0\r\n\r\n");
    let length = format!("{head}content-length: 0\r\n\r\n");
    let empty = || vec![data("")];
    for body in streams(empty, None) {
        check_read(streaming(body), chunked.as_bytes()).await;
    }
    for body in streams(empty, Some(0)) {
        check_read(streaming(body), length.as_bytes()).await;
    }
    let [_, at_once, _, waited_for] = streams(Vec::new, None);
    for body in [at_once, waited_for] {
        check_read(streaming(body), chunked.as_bytes()).await;
    }
}

#[tokio::test]
async fn a_body_of_unknown_length_that_is_empty_is_framed_all_the_same() {
    let expected = b"POST / HTTP/1.1\r\nhost: orders.internal:80\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    for body in streams(Vec::new, None) {
        check_read(streaming(body), expected).await;
    }
}

#[tokio::test]
async fn only_declared_trailers_pass() {
    let declared: &[(&str, &[u8])] = &[("trailer", b"X-Sum, x-other"), ("trailer", b"x-twice")];
    let sent: &[(&str, &str)] = &[
        ("x-twice", "1"),
        ("x-sum", "2"),
        ("x-twice", "3"),
        ("x-undeclared", "4"),
        ("content-length", "5"),
    ];
    let head = "POST / HTTP/1.1\r\n";
    let declares = "trailer: X-Sum, x-other\r\ntrailer: x-twice\r\n";
    let host = "host: orders.internal:80\r\n";
    let chunked = "transfer-encoding: chunked\r\n\r\n";
    let check_all = async |frames: &dyn Fn() -> _, fields, length, expected: String| {
        for body in streams(frames, length) {
            check_read(with(streaming(body), fields), expected.as_bytes()).await;
        }
    };
    let ab = || vec![data("ab"), trailers(sent)];
    let end = "2\r\nab\r\n0\r\nx-twice: 1\r\nx-twice: 3\r\nx-sum: 2\r\n\r\n";
    check_all(&ab, declared, None, format!("{head}{declares}{host}{chunked}{end}")).await;
    let none = "2\r\nab\r\n0\r\n\r\n";
    check_all(&ab, &[], None, format!("{head}{host}{chunked}{none}")).await;
    let length = "content-length: 2\r\n\r\nab";
    check_all(&ab, declared, Some(2), format!("{head}{declares}{host}{length}")).await;
    let alone = || vec![trailers(&[("x-sum", "1")])];
    let end = "0\r\nx-sum: 1\r\n\r\n";
    check_all(&alone, declared, None, format!("{head}{declares}{host}{chunked}{end}")).await;
    let no_fields = || vec![data("ab"), trailers(&[])];
    check_all(&no_fields, declared, None, format!("{head}{declares}{host}{chunked}{none}")).await;
    let refused = || vec![data("ab"), trailers(&[("authorization", "1")])];
    let declares = "trailer: authorization\r\n";
    let fields: &[(&str, &[u8])] = &[("trailer", b"authorization")];
    check_all(&refused, fields, None, format!("{head}{declares}{host}{chunked}{none}")).await;
}

/// What the upstream reads of a body that goes wrong, and what that comes to; it answers nothing.
async fn broken(body: Body) -> String {
    let (read, came) = read_of(streaming(body), b"").await;
    let head = b"POST / HTTP/1.1\r\nhost: orders.internal:80\r\n";
    format!("{} {came}", read.strip_prefix(head).unwrap_or(&read).escape_ascii())
}

#[tokio::test]
async fn a_body_that_fails_is_never_ended() {
    let fails = || vec![data("abc"), Err(Kind::ClientClosed.into())];
    let at_once = || vec![Err(Kind::ClientTimeout.into())];
    for (length, of_three) in [
        (None, r"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n ClientClosed"),
        (Some(5), r"content-length: 5\r\n\r\nabc ClientClosed"),
    ] {
        for body in streams(fails, length) {
            assert_eq!(broken(body).await, of_three);
        }
        for body in streams(at_once, length) {
            assert_eq!(broken(body).await, " ClientTimeout");
        }
    }
}

#[tokio::test]
async fn a_body_that_fails_behind_its_declared_length_has_been_sent() {
    let expected = b"POST / HTTP/1.1\r\nhost: orders.internal:80\r\ncontent-length: 3\r\n\r\nabc";
    for body in streams(|| vec![data("abc"), Err(Kind::ClientClosed.into())], Some(3)) {
        check_read(streaming(body), expected).await;
    }
}

#[tokio::test]
async fn a_body_of_another_length_than_it_said_is_never_whole() {
    let short = [|| vec![data("abc")], || vec![data("a"), data("bc")]];
    let long = [|| vec![data("abc"), data("defg")], || vec![data("abcdefg")]];
    for frames in short.into_iter().chain(long) {
        for body in streams(frames, Some(5)) {
            let came = broken(body).await;
            assert!(came.contains(" BadFraming"), "{came}");
            assert!(!came.contains("abcde"), "{came}");
        }
    }
}
