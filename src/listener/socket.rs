//! An accepted socket.
//!
//! Small writes can be posted: they then leave with others of the worker (see [`outbox`]). They count as
//! written at once, like what is in the kernel's buffer, and nobody asks which byte has left. The
//! upstream's socket has to know exactly that, so it has its own rules for what was posted.

use std::{
    fmt,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

use crate::net::{
    Abort, Post, Socket,
    outbox::{self, To},
};

/// The most that is posted at once, bytes: an answer with a small body.
const MOST_BYTES: usize = 4096;

/// An accepted socket.
#[derive(Debug)]
pub(super) struct Connected {
    line: Arc<Line>,
    post: LastPost,
}

/// What is known of what was posted last, without a look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastPost {
    /// All of it has left.
    Left,
    /// Whoever posted it has not asked about it yet.
    Fresh,
    Unknown,
}

/// What the outbox needs of a connection.
struct Line {
    socket: Socket,
    /// Whether the client is on this machine.
    is_near: bool,
    posted: Mutex<Posted>,
}

#[derive(Debug, Default)]
struct Posted {
    /// What the kernel has not taken.
    bytes: Vec<u8>,
    fate: Fate,
    /// Woken if the kernel does not take all of it.
    task: Option<Waker>,
}

/// What became of what was posted.
#[derive(Debug, Default)]
enum Fate {
    /// All of it has left.
    #[default]
    Left,
    /// It is in the outbox.
    Waiting,
    /// The kernel did not take all of it. The rest is to be written.
    Stuck,
    /// The client cannot be reached.
    Failed(io::Error),
}

// === impl Connected ===

impl Connected {
    /// A TCP connection. `is_near`: the client is on this machine.
    pub(super) fn tcp(stream: TcpStream, is_near: bool) -> Self {
        Self::new(Socket::Tcp(stream), is_near)
    }

    /// A connection to a unix socket.
    pub(super) fn unix(stream: UnixStream) -> Self {
        Self::new(Socket::Unix(stream), true)
    }

    fn new(socket: Socket, is_near: bool) -> Self {
        let line = Arc::new(Line { socket, is_near, posted: Mutex::default() });
        Self { line, post: LastPost::Left }
    }

    /// Writes what was posted and has not left.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.post != LastPost::Left {
            ready!(self.line.posted.lock().poll_write(cx, &self.line.socket))?;
            self.post = LastPost::Left;
        }
        Poll::Ready(Ok(()))
    }
}

impl Abort for Connected {
    fn abort(&mut self) {
        let Socket::Tcp(socket) = &self.line.socket else { return };
        // Closing a socket with a linger time of zero resets it.
        if let Err(error) = SockRef::from(socket).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "a connection that broke off is closed like a complete one");
        }
    }
}

impl Post for Connected {
    fn post(&mut self, cx: &Context<'_>, bufs: &[IoSlice<'_>]) -> bool {
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        if !self.line.is_near || length > MOST_BYTES || !outbox::is_served() {
            return false;
        }
        if !self.line.posted.lock().begin(cx, bufs, length) {
            return false;
        }
        self.post = LastPost::Fresh;
        outbox::post(To::Client, self.line.clone());
        true
    }

    fn poll_posted(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.post {
            LastPost::Left => return Poll::Ready(Ok(())),
            // If it is stuck already, the task was woken and asks again.
            LastPost::Fresh => self.post = LastPost::Unknown,
            LastPost::Unknown if self.line.posted.lock().is_waiting(cx) => {}
            LastPost::Unknown => return self.poll_sent(cx),
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        if self.post != LastPost::Left {
            // It counts as written, so it is for the kernel to send it.
            self.line.posted.lock().try_write(&self.line.socket);
        }
    }
}

impl AsyncRead for Connected {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.line.socket.poll_read(cx, buf)
    }
}

impl AsyncWrite for Connected {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_sent(cx))?;
        self.line.socket.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_sent(cx))?;
        self.line.socket.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sent(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sent(cx))?;
        Poll::Ready(self.line.socket.shut_down())
    }
}

// === impl Line ===

impl outbox::Poster for Line {
    fn send(&self) -> Vec<u8> {
        let posted = &mut *self.posted.lock();
        if !matches!(posted.fate, Fate::Waiting) {
            return Vec::new();
        }
        posted.try_write(&self.socket);
        posted.tell();
        // What is stuck still needs its buffer.
        if posted.bytes.is_empty() { mem::take(&mut posted.bytes) } else { Vec::new() }
    }

    fn give_back(&self) {
        let posted = &mut *self.posted.lock();
        if matches!(posted.fate, Fate::Waiting) {
            posted.fate = Fate::Stuck;
            posted.tell();
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("socket", &self.socket).finish_non_exhaustive()
    }
}

// === impl Posted ===

impl Posted {
    /// Takes a copy of `bufs`, unless something else has not left yet.
    fn begin(&mut self, cx: &Context<'_>, bufs: &[IoSlice<'_>], length: usize) -> bool {
        if !matches!(self.fate, Fate::Left) {
            return false;
        }
        self.bytes = outbox::buffer();
        self.bytes.reserve_exact(length);
        for buf in bufs {
            self.bytes.extend_from_slice(buf);
        }
        self.fate = Fate::Waiting;
        self.task = Some(cx.waker().clone());
        true
    }

    /// Whether it is in the outbox. `cx` is then the one to be woken.
    fn is_waiting(&mut self, cx: &Context<'_>) -> bool {
        let is_waiting = matches!(self.fate, Fate::Waiting);
        if is_waiting && !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
        }
        is_waiting
    }

    /// Writes it as soon as there is room.
    fn poll_write(&mut self, cx: &mut Context<'_>, socket: &Socket) -> Poll<io::Result<()>> {
        match mem::take(&mut self.fate) {
            Fate::Left => return Poll::Ready(Ok(())),
            Fate::Failed(error) => return Poll::Ready(Err(error)),
            Fate::Waiting | Fate::Stuck => self.fate = Fate::Stuck,
        }
        while !self.bytes.is_empty() {
            let count = ready!(socket.poll_write(cx, &self.bytes)).inspect_err(|_| self.end())?;
            self.bytes.drain(..count);
        }
        self.end();
        Poll::Ready(Ok(()))
    }

    /// Writes what there is room for now.
    fn try_write(&mut self, socket: &Socket) {
        if !matches!(self.fate, Fate::Waiting | Fate::Stuck) {
            return;
        }
        self.fate = match socket.write_now(&self.bytes) {
            Ok(count) if count == self.bytes.len() => Fate::Left,
            Ok(count) => {
                self.bytes.drain(..count);
                return self.fate = Fate::Stuck;
            }
            Err(error) => Fate::Failed(error),
        };
        self.bytes.clear();
    }

    /// Lets go of it: it has left or never will.
    fn end(&mut self) {
        (self.bytes, self.fate, self.task) = (Vec::new(), Fate::Left, None);
    }

    /// Wakes who posted it, if that has something left to do.
    fn tell(&mut self) {
        if let (Some(task), Fate::Stuck | Fate::Failed(_)) = (self.task.take(), &self.fate) {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::atomic::{AtomicUsize, Ordering},
    };

    use bytes::Bytes;
    use futures_util::{FutureExt as _, future::BoxFuture};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        task::{JoinHandle, yield_now},
    };

    use super::*;
    use crate::{
        connection,
        http::{Body, Peer, Request, Response, peer::Address},
        telemetry::{metrics::Metrics, task},
    };

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn serve_here() -> JoinHandle<()> {
        let serving = task::spawn("outbox", outbox::serve());
        while !outbox::is_served() {
            yield_now().await;
        }
        serving
    }

    fn pair() -> (Connected, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Connected::unix(ours), theirs)
    }

    fn post(from: &mut Connected, text: &str) -> bool {
        let cx = Context::from_waker(Waker::noop());
        from.post(&cx, &[IoSlice::new(text.as_bytes())])
    }

    fn poll_posted(from: &mut Connected) -> Poll<io::Result<()>> {
        from.poll_posted(&mut Context::from_waker(Waker::noop()))
    }

    fn arrived(at: &UnixStream) -> String {
        let mut bytes = [0; 64];
        match at.try_read(&mut bytes) {
            Ok(count) => String::from_utf8_lossy(&bytes[..count]).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => String::new(),
            Err(error) => panic!("{error}"),
        }
    }

    async fn rest(of: &mut UnixStream) -> String {
        let mut text = String::new();
        of.read_to_string(&mut text).await.unwrap();
        text
    }

    /// Writes until the kernel takes no more; how much it took.
    fn fill(from: &mut Connected) -> usize {
        let mut filled = 0;
        while let Some(written) = from.write(&[b'x'; 1 << 12]).now_or_never() {
            filled += written.unwrap();
        }
        filled
    }

    #[tokio::test]
    async fn what_is_posted_in_one_round_leaves_at_its_end() {
        serve_here().await;
        let mut pairs = [pair(), pair(), pair()];
        for (ours, theirs) in &mut pairs {
            theirs.readable().now_or_never();
            let cx = Context::from_waker(Waker::noop());
            assert!(ours.post(&cx, &[IoSlice::new(b"HTTP"), IoSlice::new(b"/1.1")]));
            assert!(poll_posted(ours).is_ready());
            assert_eq!(arrived(theirs), "");
        }
        yield_now().await;
        for (ours, theirs) in &mut pairs {
            theirs.readable().await.unwrap();
            assert_eq!(arrived(theirs), "HTTP/1.1");
            assert!(poll_posted(ours).is_ready());
            assert!(post(ours, "again"));
        }
    }

    #[tokio::test]
    async fn what_is_written_next_comes_next() {
        serve_here().await;
        let (mut ours, mut theirs) = pair();
        assert!(post(&mut ours, "first "));
        assert!(!post(&mut ours, "second "), "only one at a time");
        ours.write_all(b"second ").await.unwrap();
        assert!(post(&mut ours, "third "));
        let bufs = [IoSlice::new(b"fou"), IoSlice::new(b"rth")];
        assert_eq!(ours.write_vectored(&bufs).await.unwrap(), 6);
        drop(ours);
        assert_eq!(rest(&mut theirs).await, "first second third fourth");
    }

    #[tokio::test]
    async fn a_flush_a_shutdown_and_a_drop_do_not_wait_for_the_others() {
        serve_here().await;
        let (mut ours, mut theirs) = pair();
        theirs.readable().now_or_never();
        assert!(post(&mut ours, "flushed "));
        ours.flush().now_or_never().unwrap().unwrap();
        assert!(post(&mut ours, "shut "));
        ours.shutdown().now_or_never().unwrap().unwrap();
        assert_eq!(rest(&mut theirs).await, "flushed shut ");
        let (mut ours, mut theirs) = pair();
        assert!(post(&mut ours, "dropped"));
        drop(ours);
        assert_eq!(rest(&mut theirs).await, "dropped");
    }

    #[tokio::test]
    async fn what_the_kernel_does_not_take_is_written_when_there_is_room() {
        serve_here().await;
        let (mut ours, mut theirs) = pair();
        let filled = fill(&mut ours);
        let woken = Arc::new(Woken::default());
        let waker = woken.clone().into();
        let mut cx = Context::from_waker(&waker);
        assert!(ours.post(&cx, &[IoSlice::new(b"answer")]));
        assert!(ours.poll_posted(&mut cx).is_ready(), "it may still leave");
        yield_now().await;
        assert_eq!(woken.0.load(Ordering::Relaxed), 1, "it has to be asked what became of it");
        assert!(ours.poll_posted(&mut cx).is_pending());
        assert!(!post(&mut ours, "next"));
        theirs.read_exact(&mut vec![0; filled]).await.unwrap();
        while woken.0.load(Ordering::Relaxed) == 1 {
            yield_now().await;
        }
        assert!(ours.poll_posted(&mut cx).is_ready());
        drop(ours);
        assert_eq!(rest(&mut theirs).await, "answer");
    }

    #[tokio::test]
    async fn that_the_client_cannot_be_reached_is_told_once() {
        serve_here().await;
        let (mut ours, theirs) = pair();
        drop(theirs);
        let woken = Arc::new(Woken::default());
        let waker = woken.clone().into();
        let mut cx = Context::from_waker(&waker);
        assert!(ours.post(&cx, &[IoSlice::new(b"answer")]));
        assert!(ours.poll_posted(&mut cx).is_ready());
        yield_now().await;
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        let Poll::Ready(Err(error)) = ours.poll_posted(&mut cx) else { panic!() };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        ours.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn only_small_writes_to_clients_on_this_machine_are_posted() {
        let (mut ours, _theirs) = pair();
        assert!(!post(&mut ours, "nobody would send it"));
        serve_here().await;
        assert!(!post(&mut ours, &"x".repeat(MOST_BYTES + 1)));
        assert!(post(&mut ours, &"x".repeat(MOST_BYTES)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(!post(&mut Connected::tcp(stream, false), "x"));
    }

    #[tokio::test]
    async fn what_nobody_sends_any_more_is_left_to_who_posted_it() {
        let serving = serve_here().await;
        let (mut ours, mut theirs) = pair();
        let woken = Arc::new(Woken::default());
        let waker = woken.clone().into();
        let mut cx = Context::from_waker(&waker);
        assert!(ours.post(&cx, &[IoSlice::new(b"answer")]));
        serving.abort();
        assert!(serving.await.unwrap_err().is_cancelled());
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(ours.poll_posted(&mut cx).is_ready());
        drop(ours);
        assert_eq!(rest(&mut theirs).await, "answer");
    }

    struct Answers {
        given: AtomicUsize,
        body: Bytes,
    }

    impl connection::Handle for Answers {
        type Future = BoxFuture<'static, Response>;

        fn handle(&self, request: Request) -> Self::Future {
            if request.parts.uri.path() == "/never" {
                return pending().boxed();
            }
            self.given.fetch_add(1, Ordering::Relaxed);
            ready(Response::new(Body::full(self.body.clone()))).boxed()
        }
    }

    /// Sends `count` requests one by one without reading an answer, the last together with `more`.
    /// Returns how many were answered.
    async fn ask(count: usize, more: &str) -> (usize, UnixStream) {
        let (ours, theirs) = pair();
        let answers =
            Arc::new(Answers { given: AtomicUsize::new(0), body: vec![b'x'; 3900].into() });
        task::spawn(
            "connection",
            connection::serve(
                ours,
                connection::Protocol::H1,
                Arc::new(Peer::new("web".into(), Address::Unix, Address::Unix)),
                Arc::default(),
                answers.clone(),
                connection::Connections::new(),
                connection::Outcomes::new(&Metrics::new().thread(), "web"),
            ),
        );
        for number in 1..=count {
            let more = if number == count { more } else { "" };
            let text = format!("GET / HTTP/1.1\r\nhost: a\r\n\r\n{more}");
            assert_eq!(theirs.try_write(text.as_bytes()).unwrap(), text.len());
            settle().await;
        }
        (answers.given.load(Ordering::Relaxed), theirs)
    }

    /// Lets everything run that can without anybody reading.
    async fn settle() {
        for _ in 0..100 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_answer_is_whole_although_the_client_leaves_during_its_next_request() {
        serve_here().await;
        let most = ask(300, "").await.0;
        assert!(most < 300, "some answers find no room");
        // At one of these the last answer is posted and finds room for a part of it.
        for count in most - 3..=most {
            let (given, mut client) = ask(count, "GET /never HTTP/1.1\r\nhost: a\r\n\r\n").await;
            assert_eq!(given, count);
            client.shutdown().await.unwrap();
            settle().await;
            let all = rest(&mut client).await;
            let answers = all.split("HTTP/1.1 200 OK").skip(1);
            let whole = answers.filter(|it| it.ends_with(&"x".repeat(3900))).count();
            assert_eq!(whole, count);
        }
    }

    #[tokio::test]
    async fn whoever_asked_last_is_woken() {
        serve_here().await;
        let (mut ours, _theirs) = pair();
        fill(&mut ours);
        assert!(post(&mut ours, "answer"));
        assert!(poll_posted(&mut ours).is_ready());
        let woken = Arc::new(Woken::default());
        let waker = woken.clone().into();
        assert!(ours.poll_posted(&mut Context::from_waker(&waker)).is_ready());
        yield_now().await;
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn what_failed_is_not_sent_after_all() {
        serve_here().await;
        let (mut ours, mut theirs) = pair();
        // As for lack of memory, or because of a packet filter.
        assert!(post(&mut ours, "failed"));
        ours.line.posted.lock().fate = Fate::Failed(io::ErrorKind::OutOfMemory.into());
        assert!(poll_posted(&mut ours).is_ready());
        assert!(matches!(poll_posted(&mut ours), Poll::Ready(Err(_))));
        ours.write_all(b"later").await.unwrap();
        drop(ours);
        assert_eq!(rest(&mut theirs).await, "later");
    }

    #[tokio::test]
    async fn neither_buffers_nor_tasks_are_kept() {
        serve_here().await;
        let (mut ours, _theirs) = pair();
        let woken = Arc::new(Woken::default());
        for is_flushed in [false, true] {
            let waker = Waker::from(woken.clone());
            let bytes = [b'x'; MOST_BYTES];
            assert!(ours.post(&Context::from_waker(&waker), &[IoSlice::new(&bytes)]));
            drop(waker);
            if is_flushed {
                ours.flush().await.unwrap();
            }
            yield_now().await;
            assert_eq!(ours.line.posted.lock().bytes.capacity(), 0, "{is_flushed}");
            assert_eq!(Arc::strong_count(&woken), 1, "{is_flushed}");
            assert_eq!(outbox::buffer().capacity() > 0, !is_flushed);
        }
    }
}
