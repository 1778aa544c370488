//! The stream under HTTP. It counts bytes, so "not one byte of the request left" is measured, not
//! guessed. Written bytes are those the socket took, counted below TLS, which buffers; read bytes
//! are those that HTTP received, counted above TLS.

use std::{
    future::{Future as _, poll_fn},
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::rt::ReadBufCursor;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::unconstrained,
};
use tokio_rustls::client::TlsStream;

use crate::upstream::{
    last_words::LastWords,
    meter::{Mark, Meter},
    socket::NeverLeft,
    stall::Stall,
};

pub(crate) use super::socket::Plain;

/// A connected stream that counts its bytes.
#[derive(Debug)]
pub(crate) struct Io {
    stream: Stream,
    meter: Arc<Meter>,
    stall: Stall,
    last_words: LastWords,
    /// Comes before what the stream gives.
    read_ahead: Bytes,
}

/// A connected stream.
#[derive(Debug)]
pub(crate) enum Stream {
    /// As the socket gives it.
    Plain(Plain),
    /// Under TLS.
    Tls(Box<TlsStream<Plain>>),
}

// === impl Io ===

impl Io {
    /// A write that stays pending for `send_idle_timeout` fails with [`io::ErrorKind::TimedOut`].
    pub(crate) fn new(stream: Stream, send_idle_timeout: Duration) -> (Self, Arc<Meter>) {
        let meter = match &stream {
            Stream::Plain(plain) => plain.meter().clone(),
            Stream::Tls(tls) => tls.get_ref().0.meter().clone(),
        };
        let stall = Stall::new(send_idle_timeout);
        let (last_words, read_ahead) = (LastWords::default(), Bytes::new());
        (Self { stream, meter: meter.clone(), stall, last_words, read_ahead }, meter)
    }

    pub(crate) fn mark(&self) -> Mark {
        self.meter.mark()
    }

    /// `bytes` were read already; the next reads return them first.
    pub(crate) fn read_again(&mut self, bytes: Bytes) {
        self.read_ahead = bytes;
    }

    /// Whether a request can be posted: it then leaves soon, with those of other connections.
    pub(crate) fn can_post(&self) -> bool {
        match &self.stream {
            Stream::Plain(plain) => self.last_words.is_open() && plain.can_post(),
            Stream::Tls(_) => false,
        }
    }

    /// Posts `bytes`, in exchange for an empty buffer. Only if that [can be](Self::can_post).
    pub(crate) fn post(&self, cx: &Context<'_>, bytes: &mut Vec<u8>) {
        if let Stream::Plain(plain) = &self.stream {
            plain.post(cx, bytes);
        }
    }

    /// Takes back what was posted and has not left.
    pub(crate) fn unpost(&self) {
        if let Stream::Plain(plain) = &self.stream {
            plain.unpost();
        }
    }

    /// How many bytes of what was posted are written; what is not has to be. Its buffer is exchanged
    /// for `bytes`. Pending while it has not left.
    pub(crate) fn poll_posted(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut Vec<u8>,
    ) -> Poll<io::Result<usize>> {
        let polled = match &self.stream {
            Stream::Plain(plain) => ready!(plain.poll_posted(cx, bytes)),
            Stream::Tls(_) => Err(NeverLeft),
        };
        match polled {
            Ok(Ok(count)) => Poll::Ready(Ok(count)),
            Ok(Err(error)) => self.settle(cx, Poll::Ready(Err(error)), bytes.len()),
            Err(NeverLeft) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }

    /// Whether no write has failed.
    pub(crate) fn is_open(&self) -> bool {
        self.last_words.is_open()
    }

    /// Whether nothing has happened on it since it became idle, as far as the reactor has seen. On a
    /// socket without TLS that costs no system call.
    pub(crate) fn is_idle(&mut self) -> bool {
        let mut byte = [0];
        match &mut self.stream {
            Stream::Plain(plain) => {
                matches!(plain.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            // What arrives may be for TLS alone, a session ticket for example.
            Stream::Tls(tls) => {
                let mut buf = ReadBuf::new(&mut byte);
                let read = poll_fn(|cx| Pin::new(&mut *tls).poll_read(cx, &mut buf));
                // It has to be looked at even if this task has used up its turn.
                let mut read = pin!(unconstrained(read));
                read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
            }
        }
    }

    /// Whether the socket has no data to read and is not closed, as the kernel sees it now. One
    /// system call.
    pub(crate) fn is_quiet(&self) -> bool {
        let plain = match &self.stream {
            Stream::Plain(plain) => plain,
            Stream::Tls(tls) => tls.get_ref().0,
        };
        let mut byte = [MaybeUninit::uninit()];
        let peeked = plain.as_sock_ref().peek(&mut byte);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
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

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.read_ahead.is_empty() {
            let count = self.read_ahead.len().min(buf.remaining());
            buf.put_slice(&self.read_ahead.split_to(count));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let filled = buf.filled().len() - before;
        ready!(self.last_words.after_read(filled, polled))?;
        self.meter.add_read(filled);
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Read for Io {
    #[expect(unsafe_code, reason = "the only way from hyper's cursor to tokio's buffer unzeroed")]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // SAFETY: tokio's buffer only ever initialises bytes, it never makes them uninitialised.
        let mut buf = ReadBuf::uninit(unsafe { cursor.as_mut() });
        ready!(AsyncRead::poll_read(self, cx, &mut buf))?;
        let filled = buf.filled().len();
        // SAFETY: tokio's buffer says that so many bytes have been initialised.
        unsafe { cursor.advance(filled) };
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
