//! Answers that come while the upload goes on, and requests that are given up.

use tokio::sync::oneshot;

use super::{
    answers::{Alive, shown_answer},
    *,
};

const MIB: usize = 1024 * 1024;
const EARLY: &[u8] = b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 5\r\n\r\nlarge";
const EARLY_EMPTY: &[u8] = b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\n\r\n";

type Feed = mpsc::Sender<Result<Frame<Bytes>>>;

/// A body of unknown length that is fed by hand, and ends when its feed is dropped.
fn fed() -> (Feed, Body) {
    let (feed, frames) = mpsc::channel(1);
    let frames = futures_util::stream::unfold(frames, |mut frames| async move {
        Some((frames.recv().await?, frames))
    });
    (feed, Body::boxed(http_body_util::StreamBody::new(frames)))
}

#[expect(clippy::unnecessary_wraps, reason = "it stands beside failures")]
fn data(bytes: impl Into<Bytes>) -> Result<Frame<Bytes>> {
    Ok(Frame::data(bytes.into()))
}

/// Comes without end, but lets others run.
fn endless() -> Body {
    let frames = futures_util::stream::unfold((), |()| async {
        tokio::task::yield_now().await;
        Some((data(vec![0; MIB / 16]), ()))
    });
    Body::boxed(http_body_util::StreamBody::new(frames))
}

fn upload(body: Body) -> Request {
    request(Method::POST, "/", body)
}

impl Peered {
    /// Reads until what was read ends with `end`.
    async fn read_until(&mut self, end: &[u8]) -> Vec<u8> {
        let mut seen = Vec::new();
        while !seen.ends_with(end) {
            let read = self.stream.read_buf(&mut seen).await.unwrap();
            assert!(read > 0, "ended behind {}", seen.escape_ascii());
        }
        seen
    }
}

/// The next request gets its own answer; whether on the first connection.
async fn is_kept(rig: &Rig) -> bool {
    assert_eq!(rig.text(get("/")).await, "ok");
    rig.counted("opened") == "1"
}

/// Reads requests and answers them with `ok`.
async fn serve(mut peer: Peered) {
    while !peer.read().await.is_empty() {
        peer.write(OK).await;
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    time::timeout(Duration::from_secs(5), future).await.expect("within 5 s")
}

/// An upstream that answers with `early` once it has a byte of the first upload, and reads the
/// rest of that and all other requests.
async fn early_upstream(early: &'static [u8], alive: &Arc<AtomicUsize>) -> std::net::SocketAddr {
    let alive = alive.clone();
    upstream(move |mut peer| {
        let alive = Alive::new(&alive);
        async move {
            let _alive = alive;
            if peer.number == 0 {
                peer.read_until(b"first\r\n").await;
                peer.write(early).await;
                let mut seen = Vec::new();
                while !seen.ends_with(b"0\r\n\r\n") {
                    if peer.stream.read_buf(&mut seen).await.unwrap() == 0 {
                        return;
                    }
                }
            }
            serve(peer).await;
        }
    })
    .await
}

#[tokio::test]
async fn an_upload_that_ends_soon_after_an_early_answer_keeps_the_connection() {
    for (early, expected) in [
        (EARLY, "413 [content-length: 5] <large>"),
        (EARLY_EMPTY, "413 [content-length: 0] <>"),
        (OK, "200 [content-length: 2] <ok>"),
    ] {
        let alive = Arc::default();
        let rig = rig(early_upstream(early, &alive).await, settings(Protocol::H1));
        let (feed, body) = fed();
        feed.send(data("first")).await.unwrap();
        assert_eq!(shown_answer(rig.send(upload(body)).await).await, expected);
        assert_eq!(rig.local.endpoint().load().in_flight(), 0, "with the answer it is over");
        assert_eq!(rig.pools.idle(), 0);
        soon(feed.send(data("last"))).await.unwrap();
        drop(feed);
        until("it is given back", || rig.pools.idle() == 1).await;
        assert!(is_kept(&rig).await, "{expected}");
    }
}

#[tokio::test]
async fn an_upload_that_ends_before_its_early_answer_does_keeps_the_connection() {
    let address = upstream(|mut peer| async move {
        if peer.number == 0 {
            peer.read_until(b"first\r\n").await;
            peer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n").await;
            peer.read_until(b"0\r\n\r\n").await;
            peer.write(b"4\r\nlast\r\n0\r\n\r\n").await;
        }
        serve(peer).await;
    });
    let rig = rig(address.await, settings(Protocol::H1));
    let (feed, body) = fed();
    feed.send(data("first")).await.unwrap();
    let response = rig.send(upload(body)).await.unwrap();
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ok");
    feed.send(data("more")).await.unwrap();
    drop(feed);
    assert_eq!(soon(body.collect()).await.unwrap().to_bytes(), "last");
    assert!(is_kept(&rig).await);
}

#[tokio::test]
async fn an_upload_goes_on_for_five_seconds_behind_an_early_answer() {
    for early in [EARLY, EARLY_EMPTY] {
        let alive = Arc::default();
        let rig = rig(early_upstream(early, &alive).await, settings(Protocol::H1));
        let (feed, body) = fed();
        feed.send(data("first")).await.unwrap();
        shown_answer(rig.send(upload(body)).await).await;
        time::pause();
        time::sleep(Duration::from_millis(4_900)).await;
        assert!(!feed.is_closed());
        time::sleep(Duration::from_millis(200)).await;
        assert!(feed.is_closed());
        time::resume();
        until("it is closed", || alive.load(Ordering::Relaxed) == 0).await;
        assert!(!is_kept(&rig).await);
    }
}

#[tokio::test]
async fn an_upload_that_fails_behind_an_early_answer_closes_the_connection() {
    let alive = Arc::default();
    let rig = rig(early_upstream(EARLY, &alive).await, settings(Protocol::H1));
    let (feed, body) = fed();
    feed.send(data("first")).await.unwrap();
    let answer = shown_answer(rig.send(upload(body)).await).await;
    assert_eq!(answer, "413 [content-length: 5] <large>");
    feed.send(Err(Kind::ClientClosed.into())).await.unwrap();
    until("it is closed", || alive.load(Ordering::Relaxed) == 0).await;
    assert!(!is_kept(&rig).await);
}

/// How a client can break off its own upload.
fn of_client() -> [Kind; 4] {
    [Kind::ClientClosed, Kind::ClientTimeout, Kind::BodyTooLarge, Kind::BadFraming]
}

#[tokio::test]
async fn an_upload_that_fails_in_the_middle_of_an_answer_breaks_it_off_for_its_own_reason() {
    for kind in of_client() {
        let address = upstream(|mut peer| async move {
            peer.read_until(b"first\r\n").await;
            peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok").await;
            drop(peer.stream.read_to_end(&mut Vec::new()).await);
        });
        let rig = rig(address.await, settings(Protocol::H1));
        let (feed, body) = fed();
        feed.send(data("first")).await.unwrap();
        let response = rig.send(upload(body)).await;
        let expected = format!("200 [content-length: 9] <ok> !{kind:?}");
        feed.send(Err(kind.into())).await.unwrap();
        assert_eq!(soon(shown_answer(response)).await, expected);
        assert_eq!(rig.pools.idle(), 0);
    }
}

#[tokio::test]
async fn an_upload_that_fails_breaks_an_h2_answer_off_for_its_own_reason() {
    for kind in of_client() {
        let address = upstream(|peer| async move {
            let mut connection = h2::server::handshake(peer.stream).await.unwrap();
            let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
            let mut send = respond.send_response(http::Response::new(()), false).unwrap();
            send.send_data("ok".into(), false).unwrap();
            while connection.accept().await.is_some() {}
        });
        let rig = rig(address.await, settings(Protocol::H2));
        let (feed, body) = fed();
        feed.send(data("first")).await.unwrap();
        let mut answer = rig.send(upload(body)).await.unwrap().into_body();
        let first = soon(answer.frame()).await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "ok");
        let expected = format!("{kind:?}");
        feed.send(Err(kind.into())).await.unwrap();
        let error = soon(answer.frame()).await.unwrap().unwrap_err();
        assert_eq!(format!("{:?}", error.kind()), expected);
    }
}

#[tokio::test]
async fn an_answer_that_nobody_reads_does_not_hold_up_the_upload() {
    let alive = Arc::default();
    let rig = rig(early_upstream(EARLY, &alive).await, settings(Protocol::H1));
    let (feed, body) = fed();
    feed.send(data("first")).await.unwrap();
    let response = rig.send(upload(body)).await.unwrap();
    for _ in 0..4 * 16 {
        soon(feed.send(data(vec![0; MIB / 16]))).await.unwrap();
    }
    drop(feed);
    assert_eq!(text(response).await, "large");
    until("it is given back", || rig.pools.idle() == 1).await;
    assert!(is_kept(&rig).await);
}

/// An upstream that sends back what it gets, as it gets it.
async fn echoing() -> std::net::SocketAddr {
    upstream(|mut peer| async move {
        peer.read_until(b"\r\n\r\n").await;
        peer.write(b"HTTP/1.1 200 OK\r\n\r\n").await;
        let (mut read, mut write) = peer.stream.split();
        drop(tokio::io::copy(&mut read, &mut write).await);
    })
    .await
}

/// What comes back of `chunks` of 64 KiB: as much, framed by us.
fn echoed(chunks: usize) -> usize {
    chunks * (b"10000\r\n".len() + MIB / 16 + b"\r\n".len()) + b"0\r\n\r\n".len()
}

/// Reads until as much has come back; the upstream does not end by itself.
async fn read_echo(body: &mut Body, chunks: usize) {
    let mut read = 0;
    while read < echoed(chunks) {
        read += soon(body.frame()).await.unwrap().unwrap().into_data().unwrap().len();
    }
    assert_eq!(read, echoed(chunks));
}

#[tokio::test]
async fn an_echo_that_is_read_only_when_all_is_sent() {
    let chunks = 3 * 16;
    let rig = rig(echoing().await, settings(Protocol::H1));
    let (feed, body) = fed();
    let mut answer = rig.send(upload(body)).await.unwrap().into_body();
    for _ in 0..chunks {
        soon(feed.send(data(vec![0; MIB / 16]))).await.unwrap();
    }
    drop(feed);
    read_echo(&mut answer, chunks).await;
}

#[tokio::test]
async fn an_echo_that_is_read_while_it_comes() {
    let chunks = 32 * 16;
    let rig = rig(echoing().await, settings(Protocol::H1));
    let (feed, body) = fed();
    let mut answer = rig.send(upload(body)).await.unwrap().into_body();
    let send = async {
        for _ in 0..chunks {
            soon(feed.send(data(vec![0; MIB / 16]))).await.unwrap();
        }
        drop(feed);
    };
    tokio::join!(send, read_echo(&mut answer, chunks));
}

#[tokio::test]
async fn the_answer_of_an_upstream_that_takes_no_more_arrives() {
    let (done, is_done) = watch::channel(false);
    let address = upstream(move |mut peer| {
        let mut is_done = is_done.clone();
        async move {
            peer.stream.read_u8().await.unwrap();
            peer.write(EARLY).await;
            drop(is_done.wait_for(|&done| done).await);
        }
    });
    let rig = rig(address.await, settings(Protocol::H1));
    let answer = soon(shown_answer(rig.send(upload(endless())).await)).await;
    assert_eq!(answer, "413 [content-length: 5] <large>");
    assert_eq!(rig.pools.idle(), 0);
    assert_eq!(rig.group.load(Ordering::Relaxed), 0);
    done.send(true).unwrap();
}

#[tokio::test]
async fn the_answer_of_an_upstream_that_hangs_up_on_an_upload() {
    let length = "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 20000\r\n\r\n";
    let chunked = "HTTP/1.1 413 Payload Too Large\r\ntransfer-encoding: chunked\r\n\r\n";
    let large = "a".repeat(20_000);
    let cases = [
        (format!("{length}{large}"), "413 [content-length: 20000] <20000 bytes>"),
        (format!("{chunked}2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n"), "413 <ok> [+x-sum: 1]"),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n".to_owned(), "204 <>"),
        ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), "204 <>"),
        (format!("{length}half"), "413 [content-length: 20000] <half> !UpstreamReset(MaybeSeen)"),
        (format!("{chunked}2\r\nok\r\n"), "413 <ok> !UpstreamReset(MaybeSeen)"),
        (
            "HTTP/1.1 413 Payload Too Large\r\n\r\nok".to_owned(),
            "413 <ok> !UpstreamReset(MaybeSeen)",
        ),
        ("HTTP/1.1 413 Payload".to_owned(), " !UpstreamReset(MaybeSeen)"),
        (String::new(), " !UpstreamReset(MaybeSeen)"),
    ];
    for (answer, expected) in cases {
        let address = upstream(move |mut peer| {
            let answer = answer.clone();
            async move {
                peer.stream.read_u8().await.unwrap();
                peer.stream.readable().await.unwrap();
                peer.write(answer.as_bytes()).await;
            }
        });
        let rig = rig(address.await, settings(Protocol::H1));
        assert_eq!(soon(shown_answer(rig.send(upload(endless())).await)).await, expected);
        assert_eq!(rig.pools.idle(), 0);
        assert_eq!(rig.group.load(Ordering::Relaxed), 0);
    }
}

/// When a request is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    BeforeTheHead,
    InTheHead,
    BeforeTheBody,
    InTheBody,
}

/// Gives a request up at `at`, with an upload that goes on or without: the connection closes, and
/// nothing is counted or kept.
async fn give_up(at: At, uploads: bool, answer: &'static str) {
    let (seen, mut has_seen) = watch::channel(false);
    let (gone, is_gone) = oneshot::channel();
    let gone = Arc::new(parking_lot::Mutex::new(Some(gone)));
    let address = upstream(move |mut peer| {
        let (seen, gone) = (seen.clone(), gone.clone());
        async move {
            peer.read_until(b"\r\n\r\n").await;
            if at != At::BeforeTheHead {
                peer.write(answer.as_bytes()).await;
            }
            seen.send(true).unwrap();
            drop(peer.stream.read_to_end(&mut Vec::new()).await);
            gone.lock().take().unwrap().send(()).unwrap();
        }
    });
    let rig = rig(address.await, settings(Protocol::H1));
    let (feed, body) = fed();
    let asked = if uploads { upload(body) } else { get("/") };
    let flight = rig.local.enter(usize::MAX).unwrap();
    let mut sent = Box::pin(exchange(Call { request: asked, flight }, false));
    if matches!(at, At::BeforeTheHead | At::InTheHead) {
        tokio::select! {
            answered = &mut sent => panic!("{answered:?}"),
            seen = has_seen.wait_for(|&seen| seen) => drop(seen.unwrap()),
        }
        drop(sent);
    } else {
        let mut body = soon(sent).await.unwrap().into_body();
        if at != At::BeforeTheBody {
            soon(body.frame()).await.unwrap().unwrap();
        }
        assert_eq!(rig.local.endpoint().load().in_flight(), 1, "{at:?}");
        drop(body);
    }
    let what = format!("{at:?} {uploads} {answer}");
    let counted = || rig.local.endpoint().load().in_flight() + rig.group.load(Ordering::Relaxed);
    if uploads {
        // A task of its own goes on with both directions.
        until(&what, || counted() == 0).await;
    }
    assert_eq!(counted(), 0, "{what}");
    time::timeout(Duration::from_secs(5), is_gone).await.expect(&what).unwrap();
    if uploads {
        soon(feed.closed()).await;
    }
    assert_eq!(rig.pools.idle(), 0, "{what}");
}

#[tokio::test]
async fn a_request_that_is_given_up_closes_its_connection() {
    let length = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok";
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n";
    let until_the_end = "HTTP/1.1 200 OK\r\n\r\nok";
    for uploads in [false, true] {
        give_up(At::BeforeTheHead, uploads, "").await;
        give_up(At::InTheHead, uploads, "HTTP/1.1 200 OK\r\ncontent-").await;
        give_up(At::InTheHead, uploads, "HTTP/1.1 100 Continue\r\n\r\n").await;
        for answer in [length, chunked, until_the_end] {
            give_up(At::BeforeTheBody, uploads, answer).await;
            give_up(At::InTheBody, uploads, answer).await;
        }
    }
    // All of it has come, but it was not read.
    give_up(At::BeforeTheBody, false, format!("{chunked}0\r\n\r\n").leak()).await;
}

#[tokio::test]
async fn an_upload_outlives_an_answer_that_came_whole_and_was_dropped_unread() {
    let alive = Arc::default();
    let rig = rig(early_upstream(EARLY, &alive).await, settings(Protocol::H1));
    let (feed, body) = fed();
    feed.send(data("first")).await.unwrap();
    drop(rig.send(upload(body)).await.unwrap());
    assert_eq!(rig.local.endpoint().load().in_flight(), 0);
    for _ in 0..16 {
        soon(feed.send(data(vec![0; MIB / 16]))).await.unwrap();
    }
    assert_eq!(alive.load(Ordering::Relaxed), 1);
    drop(feed);
    until("it is given back", || rig.pools.idle() == 1).await;
    assert!(is_kept(&rig).await);
}

#[tokio::test]
async fn an_answer_that_came_whole_with_its_head_gives_its_connection_back_unread() {
    let rig = rig(upstream(serve).await, settings(Protocol::H1));
    let answer = rig.send(get("/")).await.unwrap();
    assert_eq!((rig.local.endpoint().load().in_flight(), rig.pools.idle()), (0, 1));
    drop(answer);
    assert!(is_kept(&rig).await);
}

/// What a client gets whose request for an upgrade is answered with 101 once `seen` has arrived.
async fn upgraded_at(seen: &'static [u8], ask: &[u8]) -> (String, Arc<Rig>) {
    let address = upstream(move |mut peer| async move {
        peer.read_until(seen).await;
        peer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        )
        .await;
        peer.stream.read_to_end(&mut Vec::new()).await.unwrap();
    });
    let rig = Arc::new(rig(address.await, settings(Protocol::H1)));
    let stream = TcpStream::connect(gateway(rig.clone()).await).await.unwrap();
    let mut client = Peered { stream, number: 0 };
    client.write(ask).await;
    (soon(client.read()).await, rig)
}

#[tokio::test]
async fn an_upgrade_before_the_request_is_complete_is_refused() {
    let head = "POST /chat HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                content-length: 4\r\n\r\n";
    let (answer, rig) = upgraded_at(b"ab", format!("{head}ab").as_bytes()).await;
    assert!(!answer.contains("101"), "{answer}");
    assert_eq!((rig.tunnels.running(), rig.pools.idle()), (0, 0));
    let (answer, _) = upgraded_at(b"abcd", format!("{head}abcd").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
}
