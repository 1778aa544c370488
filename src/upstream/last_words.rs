//! Reads what an upstream sent before it closed, even though writing to it has failed.
//!
//! A server that refuses an upload answers and closes; because the rest of the upload is unread,
//! its kernel resets the connection. Whoever gives up an exchange at the first failed write, as hyper
//! does, loses the answer, although it has arrived. So when a write fails with a reset, that write and all
//! later ones are discarded (and reported as written) until everything received has been read; then
//! the read fails with the write's error. Writes cannot wait instead: an HTTP/2 reader may first
//! have to write, for example a PONG. And the read must fail instead of ending: an answer that
//! lasts until the connection closes may have been cut off.

use std::{
    io, mem,
    task::{Context, Poll},
};

/// The state of the peer's last words.
#[derive(Debug, Default)]
pub(super) enum LastWords {
    /// Nothing has failed: more may come.
    #[default]
    Open,
    /// A write has failed with this error, and the reader has not reached the end.
    Awaited(io::Error),
    /// The reader got the error. From now on nothing is held back.
    Heard,
}

// === impl LastWords ===

impl LastWords {
    /// Whether no write has failed.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    /// Whether a write has failed but reading has not: writes are discarded.
    pub(super) fn are_awaited(&self) -> bool {
        matches!(self, Self::Awaited(_))
    }

    /// Passes on the outcome of a write. Or holds back its failure and returns `lost` instead; the
    /// caller then has the task read once more.
    pub(super) fn after_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
        lost: T,
    ) -> Poll<io::Result<T>> {
        match polled {
            Poll::Ready(Err(error)) if matches!(self, Self::Open) && is_hang_up(&error) => {
                *self = Self::Awaited(error);
                cx.waker().wake_by_ref();
                Poll::Ready(Ok(lost))
            }
            polled => polled,
        }
    }

    /// Passes on the outcome of a read of `bytes`, or returns the failure that was held back once
    /// nothing more can be read.
    pub(super) fn after_read(
        &mut self,
        bytes: usize,
        polled: Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        if polled.is_pending() || bytes > 0 {
            return polled;
        }
        match mem::replace(self, Self::Heard) {
            Self::Awaited(error) => Poll::Ready(Err(error)),
            Self::Open | Self::Heard => polled,
        }
    }
}

/// Errors by which the kernel reports that the peer is gone: the reader sees them as well.
fn is_hang_up(error: &io::Error) -> bool {
    error.raw_os_error().is_some()
        && matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::Pin, task::Poll, time::Duration};

    use hyper::rt::Write as _;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        task::yield_now,
    };

    use crate::upstream::io::{Io, Plain, Stream};

    async fn read(io: &mut Io) -> std::io::Result<Vec<u8>> {
        let mut bytes = [0; 64];
        let count = io.read(&mut bytes).await?;
        Ok(bytes[..count].to_vec())
    }

    #[tokio::test]
    async fn an_answer_is_read_before_the_reset_that_follows_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let plain = Plain::tcp(stream);
        let (mut io, meter) = Io::new(Stream::Plain(plain), Duration::from_mins(1));
        let (mut peer, _) = listener.accept().await.unwrap();
        poll_fn(|cx| Pin::new(&mut io).poll_write(cx, b"upload")).await.unwrap();
        peer.readable().await.unwrap();
        peer.write_all(b"413").await.unwrap();
        drop(peer);
        // Unread bytes make it a reset; writes go through until it is here.
        while !io.last_words().are_awaited() {
            poll_fn(|cx| Pin::new(&mut io).poll_write(cx, b"more")).await.unwrap();
            yield_now().await;
        }
        // Who reads may have something to say first, and is not kept by it.
        let written = meter.mark().written;
        poll_fn(|cx| Pin::new(&mut io).poll_write(cx, b"more")).await.unwrap();
        poll_fn(|cx| Pin::new(&mut io).poll_flush(cx)).await.unwrap();
        assert_eq!(meter.mark().written, written, "nothing left");
        assert_eq!(read(&mut io).await.unwrap(), b"413");
        read(&mut io).await.unwrap_err();
        // Whoever has been told does not read again, and is not to wait for it.
        let written = poll_fn(|cx| Poll::Ready(Pin::new(&mut io).poll_write(cx, b"more"))).await;
        assert!(matches!(written, Poll::Ready(Err(_))), "{written:?}");
    }
}
