//! What an upstream said before it hung up is read, although nothing more can be written to it.
//!
//! A server that refuses an upload answers and closes; with the rest of the upload unread, its kernel resets
//! the connection. hyper gives an exchange up at the first write that fails, and the answer with it, though
//! that has arrived. So where a write fails for a reset, it and all that follow it go nowhere until all that
//! came before has been read; then the read fails with the write's error. They do not wait: on HTTP/2 who
//! reads may first have to write, a PONG say. And the read fails and does not end: an answer that lasts until
//! the connection closes may be one that was cut off.

use std::{
    io, mem,
    task::{Context, Poll},
};

/// What became of the peer's last words.
#[derive(Debug, Default)]
pub(super) enum LastWords {
    /// As far as is known there are more to come.
    #[default]
    Open,
    /// A write has failed, with this, and the reader has not come to it.
    Awaited(io::Error),
    /// The reader was told. From now on nothing is kept back: nobody would read.
    Heard,
}

// === impl LastWords ===

impl LastWords {
    /// Whether a write has failed and reading has not: what is written goes nowhere.
    pub(super) fn are_awaited(&self) -> bool {
        matches!(self, Self::Awaited(_))
    }

    /// Gives the outcome of a write on, or keeps it back and gives `lost` in its place: then the task is to
    /// read once more.
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

    /// Gives the outcome of a read on, which brought `bytes`, or the failure that was kept back where there
    /// is nothing more to read.
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

/// What the kernel says of a peer that is gone, and nobody else: the reader is told, too.
fn is_hang_up(error: &io::Error) -> bool {
    error.raw_os_error().is_some()
        && matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, mem::MaybeUninit, pin::Pin, task::Poll, time::Duration};

    use hyper::rt::{Read as _, ReadBuf, Write as _};
    use tokio::{
        io::AsyncWriteExt as _,
        net::{TcpListener, TcpStream},
        task::yield_now,
    };

    use crate::upstream::io::{Io, Plain, Stream};

    async fn read(io: &mut Io) -> std::io::Result<Vec<u8>> {
        let mut bytes = [MaybeUninit::uninit(); 64];
        let mut buf = ReadBuf::uninit(&mut bytes);
        poll_fn(|cx| Pin::new(&mut *io).poll_read(cx, buf.unfilled())).await?;
        Ok(buf.filled().to_vec())
    }

    #[tokio::test]
    async fn an_answer_is_read_before_the_reset_that_follows_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (plain, _probe) = Plain::tcp(stream);
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
