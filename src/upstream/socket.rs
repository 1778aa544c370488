//! A connected socket. Its bytes are counted where the kernel takes and gives them.
//!
//! A small request can be posted instead of written: it then leaves with others of the worker (see
//! [`outbox`]), and what became of it is asked for later.

use std::{
    fmt, io, mem,
    net::{Shutdown, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};

use crate::{
    http::gather,
    upstream::{meter::Meter, outbox},
};

/// A connected socket.
#[derive(Debug)]
pub(crate) struct Plain(Arc<Line>);

/// What the outbox needs of a connection.
pub(super) struct Line {
    socket: Socket,
    /// Whether the peer is on this machine.
    is_near: bool,
    meter: Arc<Meter>,
    posted: Mutex<Posted>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A request that was posted.
#[derive(Debug, Default)]
struct Posted {
    bytes: Vec<u8>,
    fate: Fate,
    /// Woken if the kernel did not take all of it.
    task: Option<Waker>,
}

/// What became of a posted request.
#[derive(Debug, Default)]
enum Fate {
    /// Nothing is posted.
    #[default]
    None,
    /// It has not left yet.
    Waiting,
    /// The peer said something or closed before it left: it never will.
    Spoiled,
    /// The kernel took so many of its bytes, or failed. What it did not take has to be written.
    Tried(io::Result<usize>),
}

/// Calls a method of the socket, whichever it is.
macro_rules! on {
    ($socket:expr, $io:ident => $call:expr) => {
        match $socket {
            Socket::Tcp($io) => $call,
            Socket::Unix($io) => $call,
        }
    };
}

// === impl Plain ===

impl Plain {
    /// A TCP connection.
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        let is_near = is_near(stream.peer_addr(), stream.local_addr());
        Self::new(Socket::Tcp(stream), is_near)
    }

    /// A connection to a unix socket.
    pub(crate) fn unix(stream: UnixStream) -> Self {
        Self::new(Socket::Unix(stream), true)
    }

    fn new(socket: Socket, is_near: bool) -> Self {
        let (meter, posted) = (Arc::default(), Mutex::default());
        Self(Arc::new(Line { socket, is_near, meter, posted }))
    }

    pub(super) fn meter(&self) -> &Arc<Meter> {
        &self.0.meter
    }

    /// Reads without waiting.
    pub(super) fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        on!(&self.0.socket, io => io.try_read(buf))
    }

    pub(super) fn as_sock_ref(&self) -> SockRef<'_> {
        on!(&self.0.socket, io => SockRef::from(io))
    }

    /// Whether it pays to post a request, and somebody sends it.
    pub(super) fn can_post(&self) -> bool {
        self.0.is_near && outbox::is_served()
    }

    /// Posts `bytes`, in exchange for an empty buffer. `cx` is woken unless the kernel takes all.
    pub(super) fn post(&self, cx: &Context<'_>, bytes: &mut Vec<u8>) {
        {
            let mut posted = self.0.posted.lock();
            posted.bytes.clear();
            mem::swap(&mut posted.bytes, bytes);
            posted.fate = Fate::Waiting;
            posted.task = Some(cx.waker().clone());
        }
        outbox::post(self.0.clone());
    }

    /// Takes back what was posted and has not left.
    pub(super) fn unpost(&self) {
        let mut posted = self.0.posted.lock();
        if matches!(posted.fate, Fate::Waiting) {
            posted.fate = Fate::None;
        }
    }

    /// How many bytes of what was posted the kernel has taken, the buffer being exchanged for
    /// `bytes`. Told once. Pending while it has not left; `cx` is then the one to be woken.
    pub(super) fn poll_posted(
        &self,
        cx: &Context<'_>,
        bytes: &mut Vec<u8>,
    ) -> Poll<Result<io::Result<usize>, NeverLeft>> {
        let posted = &mut *self.0.posted.lock();
        match mem::take(&mut posted.fate) {
            Fate::Waiting => {
                posted.fate = Fate::Waiting;
                if !posted.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
                    posted.task = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            Fate::Tried(result) => {
                mem::swap(&mut posted.bytes, bytes);
                Poll::Ready(Ok(result))
            }
            Fate::Spoiled | Fate::None => Poll::Ready(Err(NeverLeft)),
        }
    }
}

/// A posted request did not leave and must not any more.
#[derive(Debug)]
pub(super) struct NeverLeft;

/// Whether a peer is on this machine, as far as addresses tell.
fn is_near(peer: io::Result<SocketAddr>, own: io::Result<SocketAddr>) -> bool {
    let (Ok(peer), Ok(own)) = (peer, own) else { return false };
    peer.ip().is_loopback() || peer.ip() == own.ip()
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.unpost();
    }
}

impl AsyncRead for Plain {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = &self.0.socket;
        loop {
            ready!(on!(socket, io => io.poll_read_ready(cx)))?;
            let room = buf.remaining();
            match on!(socket, io => io.try_read_buf(buf)) {
                Ok(count) => {
                    if count > 0 && count < room {
                        socket.used_up(Interest::READABLE);
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Plain {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let write = |socket: &Socket| on!(socket, io => io.try_write(buf));
        self.0.poll_write(cx, buf.len(), write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(polled) = gather::write_small(bufs, |bytes| self.as_mut().poll_write(cx, bytes))
        {
            return polled;
        }
        let write = |socket: &Socket| on!(socket, io => io.try_write_vectored(bufs));
        // Of very many slices a system call may leave some out although there is room.
        self.0.poll_write(cx, 0, write)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Only what was posted is buffered in front of the socket, and that is not flushed.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.as_sock_ref().shutdown(Shutdown::Write) {
            // The peer has closed already: nothing is left to tell it.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}

// === impl Line ===

impl Line {
    /// Sends what was posted, unless it was taken back.
    pub(super) fn send_posted(&self) {
        let posted = &mut *self.posted.lock();
        // Whoever takes a request back may send it elsewhere.
        if !matches!(posted.fate, Fate::Waiting) {
            return;
        }
        // What arrived since it was posted is no answer to it, and a close makes it lost: it can
        // still be given back. A system call only if the reactor has seen something.
        let read = on!(&self.socket, io => io.try_read(&mut [0]));
        if !matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            return posted.settle(Fate::Spoiled);
        }
        match on!(&self.socket, io => io.try_write(&posted.bytes)) {
            Ok(count) => {
                self.meter.add_written(count);
                posted.settle(Fate::Tried(Ok(count)));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                posted.settle(Fate::Tried(Ok(0)));
            }
            Err(error) => posted.settle(Fate::Tried(Err(error))),
        }
    }

    /// Leaves it to who posted it to write it.
    pub(super) fn give_back(&self) {
        let posted = &mut *self.posted.lock();
        if matches!(posted.fate, Fate::Waiting) {
            posted.settle(Fate::Tried(Ok(0)));
        }
    }

    /// Lets `write` write once the socket has room. If it writes less than `most` bytes, there is none
    /// left.
    fn poll_write(
        &self,
        cx: &mut Context<'_>,
        most: usize,
        write: impl Fn(&Socket) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(on!(&self.socket, io => io.poll_write_ready(cx)))?;
            match write(&self.socket) {
                Ok(count) => {
                    self.meter.add_written(count);
                    if count > 0 && count < most {
                        self.socket.used_up(Interest::WRITABLE);
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

// === impl Posted ===

impl Posted {
    fn settle(&mut self, fate: Fate) {
        let is_all = matches!(fate, Fate::Tried(Ok(count)) if count == self.bytes.len());
        self.fate = fate;
        if let Some(task) = self.task.take()
            && !is_all
        {
            task.wake();
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("socket", &self.socket).finish_non_exhaustive()
    }
}

// === impl Socket ===

impl Socket {
    /// The kernel gave or took less than was asked for: there is no more, which saves the system call
    /// that would find that out. Only for runtimes of one thread: on others the reactor may have seen
    /// more in between, and that would be forgotten.
    fn used_up(&self, interest: Interest) {
        let blocked = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        // It only clears the readiness.
        if let Err(error) = on!(self, io => io.try_io(interest, blocked)) {
            debug_assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    async fn pair() -> (Plain, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Plain::tcp(ours), listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn what_the_peer_has_closed_can_be_shut_down() {
        let (mut ours, theirs) = pair().await;
        SockRef::from(&theirs).set_linger(Some(Duration::ZERO)).unwrap();
        drop(theirs);
        ours.read(&mut [0; 8]).await.unwrap_err();
        ours.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn short_reads_and_writes_are_waited_for_and_none_is_lost() {
        let (mut ours, mut theirs) = pair().await;
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

    #[test]
    fn a_peer_is_near_if_an_address_says_so() {
        let at = |text: &str| Ok(text.parse().unwrap());
        assert!(is_near(at("127.0.0.1:80"), at("127.0.0.1:9")));
        assert!(is_near(at("[::1]:80"), at("[::1]:9")));
        assert!(is_near(at("192.0.2.1:80"), at("192.0.2.1:9")), "its own address");
        assert!(!is_near(at("192.0.2.1:80"), at("192.0.2.2:9")));
        assert!(!is_near(Err(io::ErrorKind::NotConnected.into()), at("192.0.2.2:9")));
    }
}
