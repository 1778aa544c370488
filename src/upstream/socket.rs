//! A socket to an endpoint. Its bytes are counted where the kernel takes and gives them.
//!
//! A small request can be posted instead of written: it then leaves with others of the worker (see
//! [`outbox`]), and what became of it is asked for later.

use std::{
    fmt, io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

use crate::{
    net::{
        Socket,
        outbox::{self, To},
        socket,
    },
    upstream::meter::Meter,
};

/// A connected socket.
#[derive(Debug)]
pub(crate) struct Plain(Arc<Line>);

/// A posted request did not leave and must not any more.
#[derive(Debug)]
pub(super) struct NeverLeft;

/// What the outbox needs of a connection.
struct Line {
    socket: Socket,
    /// Whether the peer is on this machine.
    is_near: bool,
    meter: Arc<Meter>,
    posted: Mutex<Posted>,
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

// === impl Plain ===

impl Plain {
    /// A TCP connection.
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        let is_near = match (stream.peer_addr(), stream.local_addr()) {
            (Ok(peer), Ok(own)) => socket::is_near(peer.ip(), own.ip()),
            _ => false,
        };
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
        self.0.socket.try_read(buf)
    }

    pub(super) fn as_sock_ref(&self) -> SockRef<'_> {
        self.0.socket.as_sock_ref()
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
        outbox::post(To::Service, self.0.clone());
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
        self.0.socket.poll_read(cx, buf)
    }
}

impl AsyncWrite for Plain {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.0.socket.poll_write(cx, buf))?;
        self.0.meter.add_written(count);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.0.socket.poll_write_vectored(cx, bufs))?;
        self.0.meter.add_written(count);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Only what was posted is buffered in front of the socket, and that is not flushed.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.socket.shut_down())
    }
}

// === impl Line ===

impl outbox::Poster for Line {
    fn send(&self) -> Vec<u8> {
        let posted = &mut *self.posted.lock();
        // Whoever takes a request back may send it elsewhere.
        if matches!(posted.fate, Fate::Waiting) {
            let fate = self.try_send(&posted.bytes);
            posted.settle(fate);
        }
        // Its buffer goes back to who posted it.
        Vec::new()
    }

    fn give_back(&self) {
        let posted = &mut *self.posted.lock();
        if matches!(posted.fate, Fate::Waiting) {
            posted.settle(Fate::Tried(Ok(0)));
        }
    }
}

impl Line {
    fn try_send(&self, bytes: &[u8]) -> Fate {
        // What arrived since it was posted is no answer to it, and a close makes it lost: it can
        // still be given back. A system call only if the reactor has seen something.
        let read = self.socket.try_read(&mut [0]);
        if !matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            return Fate::Spoiled;
        }
        let written = self.socket.write_now(bytes);
        if let Ok(count) = written {
            self.meter.add_written(count);
        }
        Fate::Tried(written)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("socket", &self.socket).finish_non_exhaustive()
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

#[cfg(test)]
mod tests;
