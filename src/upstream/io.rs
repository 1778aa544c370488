//! The stream under hyper. It counts bytes, so "not one byte of the request left" is measured, not
//! guessed. Written bytes are those the socket took, counted below TLS, which buffers; read bytes
//! are those hyper received, counted above TLS.
//!
//! The socket is split to get two handles, not for concurrency. hyper's task owns the half it reads
//! and writes through; the pool keeps the other to check the socket (`MSG_PEEK`) without a lock, a
//! duplicate descriptor or a message to that task.

use std::{
    io,
    mem::MaybeUninit,
    net::Shutdown,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::ReadBufCursor;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream, tcp, unix},
};
use tokio_rustls::client::TlsStream;

use crate::{
    http::gather,
    upstream::{last_words::LastWords, stall::Stall},
};

/// A connected stream that counts its bytes.
#[derive(Debug)]
pub(crate) struct Io {
    stream: Stream,
    meter: Arc<Meter>,
    stall: Stall,
    last_words: LastWords,
}

/// A connected stream.
#[derive(Debug)]
pub(crate) enum Stream {
    /// As the socket gives it.
    Plain(Plain),
    /// Under TLS.
    Tls(Box<TlsStream<Plain>>),
}

/// A connected socket: the read half; writes go through the socket it refers to.
#[derive(Debug)]
pub(crate) struct Plain {
    socket: Socket,
    meter: Arc<Meter>,
}

#[derive(Debug)]
enum Socket {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
}

/// Checks a socket that another task owns.
#[derive(Debug)]
pub(crate) enum Probe {
    Tcp(Option<tcp::OwnedWriteHalf>),
    Unix(Option<unix::OwnedWriteHalf>),
}

/// Bytes that passed a connection. Written by its task, read by the request that holds it.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    written: AtomicU64,
    read: AtomicU64,
    is_cut: AtomicBool,
}

/// The counts of a [`Meter`] at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) written: u64,
    pub(crate) read: u64,
}

// === impl Io ===

impl Io {
    /// A write that stays pending for `send_idle_timeout` fails with [`io::ErrorKind::TimedOut`].
    pub(crate) fn new(stream: Stream, send_idle_timeout: Duration) -> (Self, Arc<Meter>) {
        let meter = match &stream {
            Stream::Plain(plain) => plain.meter.clone(),
            Stream::Tls(tls) => tls.get_ref().0.meter.clone(),
        };
        let stall = Stall::new(send_idle_timeout);
        (Self { stream, meter: meter.clone(), stall, last_words: LastWords::default() }, meter)
    }

    /// Passes on the outcome of a write, or a failure instead, or `lost` if the write was
    /// discarded.
    fn settle<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
        lost: T,
    ) -> Poll<io::Result<T>> {
        let polled = self.stall.judge(cx, polled);
        self.last_words.after_write(cx, polled, lost)
    }

    #[cfg(test)]
    pub(super) fn last_words(&self) -> &LastWords {
        &self.last_words
    }
}

impl hyper::rt::Read for Io {
    #[expect(unsafe_code, reason = "the only way from hyper's cursor to tokio's buffer unzeroed")]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // SAFETY: tokio's buffer only ever initialises bytes, it never makes them uninitialised.
        let mut buf = ReadBuf::uninit(unsafe { cursor.as_mut() });
        let polled = Pin::new(&mut self.stream).poll_read(cx, &mut buf);
        let filled = buf.filled().len();
        ready!(self.last_words.after_read(filled, polled))?;
        // SAFETY: tokio's buffer says that so many bytes have been initialised.
        unsafe { cursor.advance(filled) };
        self.meter.add_read(filled);
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.last_words.are_awaited() {
            return Poll::Ready(Ok(buf.len()));
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.settle(cx, polled, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = || bufs.iter().map(|buf| buf.len()).sum();
        if self.last_words.are_awaited() {
            return Poll::Ready(Ok(all()));
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.settle(cx, polled, all())
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.last_words.are_awaited() {
            return Poll::Ready(Ok(()));
        }
        // TLS accepts data that it cannot write yet: then the flush is what is pending.
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.settle(cx, polled, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

// === impl Stream ===

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

// === impl Plain ===

impl Plain {
    /// The two handles of a TCP connection.
    pub(crate) fn tcp(stream: TcpStream) -> (Self, Probe) {
        let (read, write) = stream.into_split();
        (Self::new(Socket::Tcp(read)), Probe::Tcp(Some(write)))
    }

    /// The two handles of a unix socket.
    pub(crate) fn unix(stream: UnixStream) -> (Self, Probe) {
        let (read, write) = stream.into_split();
        (Self::new(Socket::Unix(read)), Probe::Unix(Some(write)))
    }

    fn new(socket: Socket) -> Self {
        Self { socket, meter: Arc::default() }
    }
}

impl AsyncRead for Plain {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Tcp(half) => Pin::new(half).poll_read(cx, buf),
            Socket::Unix(half) => Pin::new(half).poll_read(cx, buf),
        }
    }
}

/// Tries until the socket takes something or would block; waits only then.
macro_rules! poll_until_taken {
    ($socket:expr, $cx:expr, $try:ident, $buf:expr) => {
        loop {
            ready!($socket.poll_write_ready($cx))?;
            match $socket.$try($buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                taken => break taken,
            }
        }
    };
}

impl AsyncWrite for Plain {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.meter.check()?;
        let written = match &self.socket {
            Socket::Tcp(half) => poll_until_taken!(half.as_ref(), cx, try_write, buf),
            Socket::Unix(half) => poll_until_taken!(half.as_ref(), cx, try_write, buf),
        }?;
        self.meter.add_written(written);
        Poll::Ready(Ok(written))
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
        self.meter.check()?;
        let written = match &self.socket {
            Socket::Tcp(half) => poll_until_taken!(half.as_ref(), cx, try_write_vectored, bufs),
            Socket::Unix(half) => poll_until_taken!(half.as_ref(), cx, try_write_vectored, bufs),
        }?;
        self.meter.add_written(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // We buffer nothing in front of the socket.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.socket {
            Socket::Tcp(half) => Poll::Ready(
                SockRef::from(AsRef::<TcpStream>::as_ref(half)).shutdown(Shutdown::Write),
            ),
            Socket::Unix(half) => Poll::Ready(
                SockRef::from(AsRef::<UnixStream>::as_ref(half)).shutdown(Shutdown::Write),
            ),
        }
    }
}

// === impl Probe ===

impl Probe {
    /// No data to read and not closed, as the kernel sees it now. One system call.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = match self {
            Self::Tcp(Some(half)) => SockRef::from(half.as_ref()).peek(&mut byte),
            Self::Unix(Some(half)) => SockRef::from(half.as_ref()).peek(&mut byte),
            Self::Tcp(None) | Self::Unix(None) => return false,
        };
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // Dropping a write half would shut its direction down, but that is for the reader and
        // writer to decide.
        match self {
            Self::Tcp(half) => drop(half.take().map(tcp::OwnedWriteHalf::forget)),
            Self::Unix(half) => drop(half.take().map(unix::OwnedWriteHalf::forget)),
        }
    }
}

// === impl Meter ===

// Relaxed: on one worker task switches order everything; elsewhere hyper's channel does.
impl Meter {
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            written: self.written.load(Ordering::Relaxed),
            read: self.read.load(Ordering::Relaxed),
        }
    }

    /// Nothing more is written on the connection, not even what TLS still buffers, so what the
    /// counts say of a request stays true.
    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> io::Result<()> {
        if self.is_cut.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    fn add_written(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn add_read(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn what_is_cut_takes_nothing_any_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut plain, _probe) = Plain::tcp(stream);
        plain.write_all(b"one").await.unwrap();
        let meter = plain.meter.clone();
        meter.cut();
        let error = plain.write_all(b"two").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(meter.mark().written, 3);
        plain.shutdown().await.unwrap();
    }
}
