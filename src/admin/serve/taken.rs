//! How much of an answer its client takes.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::sleep,
};

/// The bytes taken so far. Clones share the count.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken(Arc<AtomicU64>);

/// A stream that counts how many of the bytes written to it were taken.
pub(super) struct Counted<T> {
    stream: T,
    taken: Taken,
}

// === impl Taken ===

impl Taken {
    /// Completes at the end of a `span` in which fewer than `min` bytes were taken. Cancel-safe.
    pub(super) async fn falls_below(&self, min: u64, span: Duration) {
        let mut before = self.get();
        loop {
            sleep(span).await;
            let now = self.get();
            if now - before < min {
                return;
            }
            before = now;
        }
    }

    // Relaxed: one task counts and reads.
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Counted ===

impl<T> Counted<T> {
    /// Wraps `stream` and counts in `taken`.
    pub(super) fn new(stream: T, taken: &Taken) -> Self {
        Self { stream, taken: taken.clone() }
    }

    fn count(&self, polled: io::Result<usize>) -> Poll<io::Result<usize>> {
        if let Ok(bytes) = &polled {
            self.taken.0.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        Poll::Ready(polled)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        self.count(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs));
        self.count(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
