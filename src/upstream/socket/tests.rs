//! What is written and posted to a socket: what leaves, what comes back to who posted it, and what
//! never leaves.

use std::{
    future::Future as _,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    task::Wake,
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::Request;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::yield_now,
};

use super::*;
use crate::{
    http::Body,
    net::outbox::{is_served, serve},
    telemetry::task,
    upstream::{
        h1::H1,
        io::{Io, Stream},
    },
};

async fn tcp_pair() -> (Plain, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (Plain::tcp(ours), listener.accept().await.unwrap().0)
}

#[tokio::test]
async fn what_the_peer_has_closed_can_be_shut_down() {
    let (mut ours, theirs) = tcp_pair().await;
    SockRef::from(&theirs).set_linger(Some(Duration::ZERO)).unwrap();
    drop(theirs);
    ours.read(&mut [0; 8]).await.unwrap_err();
    ours.shutdown().await.unwrap();
}

#[tokio::test]
async fn short_reads_and_writes_are_waited_for_and_none_is_lost() {
    let (mut ours, mut theirs) = tcp_pair().await;
    let sent: Vec<u8> = (0..4_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let mut received = vec![0; sent.len()];
    let (written, read) = tokio::join!(ours.write_all(&sent), theirs.read_exact(&mut received));
    written.unwrap();
    read.unwrap();
    assert!(sent == received);
    assert_eq!(ours.meter().mark().written, 4_000_000);
    let mut back = vec![0; sent.len()];
    let (written, read) = tokio::join!(theirs.write_all(&sent), ours.read_exact(&mut back));
    written.unwrap();
    read.unwrap();
    assert!(sent == back);
}

// --- posted

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn serve_here() {
    task::spawn("outbox", serve());
    while !is_served() {
        yield_now().await;
    }
}

fn pair() -> (Plain, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Plain::unix(ours), theirs)
}

fn post(from: &Plain, text: &str) {
    assert!(from.can_post());
    from.post(&Context::from_waker(Waker::noop()), &mut text.into());
}

/// How much of what was posted is written; `None` if it has not left. Panics if it never will.
fn left(from: &Plain) -> Option<usize> {
    let cx = Context::from_waker(Waker::noop());
    match from.poll_posted(&cx, &mut Vec::new()) {
        Poll::Ready(told) => Some(told.unwrap().unwrap()),
        Poll::Pending => None,
    }
}

/// What has arrived; `None` if nothing has.
fn arrived(at: &UnixStream) -> Option<String> {
    let mut bytes = [0; 64];
    match at.try_read(&mut bytes) {
        Ok(count) => Some(str::from_utf8(&bytes[..count]).unwrap().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    }
}

async fn next(at: &UnixStream) -> String {
    loop {
        at.readable().await.unwrap();
        if let Some(text) = arrived(at) {
            return text;
        }
    }
}

#[tokio::test]
async fn what_is_posted_in_one_round_leaves_at_its_end() {
    serve_here().await;
    let pairs = [pair(), pair(), pair()];
    for (ours, theirs) in &pairs {
        theirs.readable().now_or_never();
        post(ours, "request");
        assert_eq!(left(ours), None);
        assert_eq!(ours.meter().mark().written, 0);
    }
    yield_now().await;
    for (ours, theirs) in &pairs {
        assert_eq!(left(ours), Some(7));
        assert_eq!(ours.meter().mark().written, 7);
        assert_eq!(next(theirs).await, "request");
    }
}

#[tokio::test]
async fn what_is_given_up_does_not_leave() {
    serve_here().await;
    let (taken_back, theirs) = pair();
    post(&taken_back, "request");
    taken_back.unpost();
    let (dropped, mut gone) = pair();
    post(&dropped, "request");
    drop(dropped);
    yield_now().await;
    assert_eq!(taken_back.meter().mark().written, 0);
    post(&taken_back, "next");
    assert_eq!(next(&theirs).await, "next");
    let mut rest = String::new();
    gone.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "");
}

#[tokio::test]
async fn where_nobody_sends_nothing_is_posted() {
    let (ours, _theirs) = pair();
    assert!(!ours.can_post());
    serve_here().await;
    assert!(ours.can_post());
}

#[tokio::test]
async fn what_nobody_sends_any_more_goes_back_to_who_posted_it() {
    let serving = task::spawn("outbox", serve());
    yield_now().await;
    let (ours, _theirs) = pair();
    let woken = Arc::new(Woken::default());
    ours.post(&Context::from_waker(&woken.clone().into()), &mut b"request".to_vec());
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    assert!(woken.0.load(Ordering::Relaxed));
    assert_eq!(left(&ours), Some(0));
    assert!(!ours.can_post());
}

#[tokio::test]
async fn whoever_asked_last_is_woken() {
    serve_here().await;
    let (mut ours, _theirs) = pair();
    while ours.write(&[b'x'; 1 << 12]).now_or_never().is_some() {}
    post(&ours, "request");
    let woken = Arc::new(Woken::default());
    let cx = Context::from_waker(Waker::noop());
    assert!(ours.poll_posted(&cx, &mut Vec::new()).is_pending());
    let waker = woken.clone().into();
    let cx = Context::from_waker(&waker);
    assert!(ours.poll_posted(&cx, &mut Vec::new()).is_pending());
    yield_now().await;
    assert!(woken.0.load(Ordering::Relaxed));
}

#[tokio::test]
async fn on_a_connection_where_something_happened_nothing_leaves() {
    for says in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\n\r\n"] {
        serve_here().await;
        let (ours, mut theirs) = pair();
        theirs.write_all(says).await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut h1 = used(ours);
        while !h1.is_disturbed() {
            yield_now().await;
        }
        // The task that has the request does not read before it has left.
        send(&mut h1, "body");
        let woken = Arc::new(Woken::default());
        let waker = woken.clone().into();
        assert!(pin!(h1.sent()).poll(&mut Context::from_waker(&waker)).is_pending());
        yield_now().await;
        assert!(woken.0.load(Ordering::Relaxed));
        assert!(h1.answer().now_or_never().unwrap().is_err());
        assert_eq!(h1.mark(), h1.begun());
        assert!(h1.take_request().is_some());
        assert_eq!(theirs.read(&mut [0; 64]).now_or_never().transpose().unwrap(), None);
    }
}

#[tokio::test]
async fn what_the_kernel_does_not_take_goes_back_to_who_posted_it() {
    serve_here().await;
    let (mut ours, mut theirs) = pair();
    let mut filled = 0;
    while let Some(written) = ours.write(&[b'x'; 1 << 12]).now_or_never() {
        filled += written.unwrap();
    }
    let woken = Arc::new(Woken::default());
    let mut bytes = b"request".to_vec();
    ours.post(&Context::from_waker(&woken.clone().into()), &mut bytes);
    assert!(bytes.is_empty());
    yield_now().await;
    assert!(woken.0.load(Ordering::Relaxed));
    let cx = Context::from_waker(Waker::noop());
    let Poll::Ready(told) = ours.poll_posted(&cx, &mut bytes) else { panic!() };
    assert_eq!(told.unwrap().unwrap(), 0);
    assert_eq!(bytes, b"request");
    theirs.read_exact(&mut vec![0; filled]).await.unwrap();
}

/// A connection that was used just now.
fn used(over: Plain) -> H1 {
    let minute = Duration::from_mins(1);
    let mut h1 = H1::new(Io::new(Stream::Plain(over), minute).0, minute);
    h1.is_doubtful = false;
    h1
}

fn send(by: &mut H1, body: &'static str) {
    let parts = Request::post("/").body(()).unwrap().into_parts().0;
    by.send(Box::new(parts), Body::full(Bytes::from_static(body.as_bytes())));
}

#[tokio::test]
async fn a_connection_serves_one_posted_request_after_the_other() {
    serve_here().await;
    let (ours, theirs) = pair();
    let mut h1 = used(ours);
    for body in ["first", "second"] {
        send(&mut h1, body);
        assert!(h1.answer().now_or_never().is_none());
        assert_eq!(next(&theirs).await, format!("POST / HTTP/1.1\r\n\r\n{body}"));
        theirs.try_write(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        assert_eq!(h1.answer().await.unwrap().parts.status, 204);
        assert!(h1.is_ready());
    }
}

#[tokio::test]
async fn a_request_that_has_not_left_can_be_given_back() {
    serve_here().await;
    let (ours, mut theirs) = pair();
    let mut h1 = used(ours);
    theirs.shutdown().await.unwrap();
    while !h1.is_disturbed() {
        yield_now().await;
    }
    send(&mut h1, "body");
    assert!(h1.answer().now_or_never().unwrap().is_err());
    assert_eq!(h1.mark(), h1.begun());
    assert!(h1.take_request().is_some());
    yield_now().await;
    assert_eq!(h1.mark(), h1.begun());
    assert_eq!(theirs.read(&mut [0; 64]).now_or_never().transpose().unwrap(), None);
}
