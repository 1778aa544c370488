//! Small requests of one worker leave together.
//!
//! A send to a server on the same machine wakes it if it sleeps, and that costs the sender several
//! times what the send does. A busy worker makes a request every ten microseconds; a fast server has
//! answered it in less, and sleeps again. So a request waits here for those that the worker makes in
//! the same round of its tasks: they leave one right behind the other, and wake the server once.
//!
//! Only requests to servers on this machine are posted, because no others are woken by the send
//! itself; and only on connections that were used just now, as those of a busy worker are.
//!
//! Bounded: the worker's task that empties the outbox is queued when the first request comes in, so
//! it runs behind what was queued at that moment; and [`MOST`] requests leave at once. A worker
//! with nothing else to do sends a request in the same turn. If that task ends, its requests go back
//! to who posted them.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::socket::Line;

/// So many requests do not wait for more.
const MOST: usize = 16;

thread_local! {
    static OUTBOX: RefCell<Outbox> = const { RefCell::new(Outbox::closed()) };
}

/// The connections with a request to send.
#[derive(Debug)]
struct Outbox {
    lines: VecDeque<Arc<Line>>,
    /// The task that empties it; `None`: nobody does.
    task: Option<Waker>,
}

/// Closes the thread's outbox when its task ends.
struct CloseOnDrop;

/// Empties this thread's outbox for as long as it is polled. One task per thread.
pub(crate) async fn serve() {
    let _closing = CloseOnDrop;
    poll_fn(|cx| OUTBOX.with_borrow_mut(|outbox| outbox.poll(cx))).await;
}

/// Whether somebody empties this thread's outbox.
pub(super) fn is_served() -> bool {
    OUTBOX.with_borrow(|outbox| outbox.task.is_some())
}

/// Sends what `line` has soon, or now.
pub(super) fn post(line: Arc<Line>) {
    OUTBOX.with_borrow_mut(|outbox| {
        if outbox.lines.is_empty()
            && let Some(task) = &outbox.task
        {
            task.wake_by_ref();
        }
        outbox.lines.push_back(line);
        if outbox.lines.len() >= MOST || outbox.task.is_none() {
            outbox.empty();
        }
    });
}

// === impl Outbox ===

impl Outbox {
    const fn closed() -> Self {
        Self { lines: VecDeque::new(), task: None }
    }

    fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
        }
        self.empty();
        Poll::Pending
    }

    fn empty(&mut self) {
        // One by one: if one panics, the others are still here.
        while let Some(line) = self.lines.pop_front() {
            line.send_posted();
        }
    }
}

// === impl CloseOnDrop ===

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        let left = OUTBOX.replace(Outbox::closed());
        left.lines.iter().for_each(|line| line.give_back());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future as _,
        io,
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
        net::UnixStream,
        task::yield_now,
    };

    use super::*;
    use crate::{
        http::Body,
        telemetry::task,
        upstream::{
            h1::H1,
            io::{Io, Stream},
            socket::Plain,
        },
    };

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
    async fn as_many_as_may_wait_leave_at_once() {
        serve_here().await;
        let pairs: Vec<_> = (0..MOST).map(|_| pair()).collect();
        for (ours, _) in &pairs {
            post(ours, "request");
        }
        assert!(pairs.iter().all(|(ours, _)| left(ours) == Some(7)));
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
}
