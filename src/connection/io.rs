//! The counting wrapper between a stream and hyper.
//!
//! A read or write costs a few plain stores here: no clock, no lock, no timer, no allocation.
//! What happened is recorded as flags and counts; [`timer`](super::timer) assigns times to them after
//! each poll of the connection. With TLS, the counts are of plaintext.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, ReadBuf};

use crate::{connection::state::State, net::Post};

/// How much is read at once to see whether a client is still there. It seldom sends anything, unless
/// it sends all its requests without waiting.
const LOOK_BYTES: usize = 4 * 1024;

/// What hyper reads from and writes to. After an upgrade the tunnel owns it.
#[derive(Debug)]
pub(super) struct Io<S> {
    stream: S,
    read_ahead: Bytes,
    /// hyper serves HTTP/1 over it: reads no further than the request, flushes in each poll.
    is_h1: bool,
    state: Arc<State>,
}

// === impl Io ===

impl<S> Io<S> {
    pub(super) fn new(stream: S, state: Arc<State>) -> Self {
        Self { stream, read_ahead: Bytes::new(), is_h1: false, state }
    }

    /// The stream itself, for reads and writes that hyper does not do.
    pub(super) fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// `bytes` were read already; the next reads return them first.
    pub(super) fn read_again(&mut self, bytes: Bytes) {
        if self.read_ahead.is_empty() {
            self.read_ahead = bytes;
        } else if !bytes.is_empty() {
            self.read_ahead = [bytes, std::mem::take(&mut self.read_ahead)].concat().into();
        }
    }

    /// Whether some bytes are to be read again.
    pub(super) fn has_read_ahead(&self) -> bool {
        !self.read_ahead.is_empty()
    }

    /// From now on, hyper serves HTTP/1 over it. A client that leaves while its request runs is noticed
    /// here ([`State::is_gone`]), because hyper reads no further than the request.
    pub(super) fn begin_h1(&mut self) {
        self.is_h1 = true;
    }

    /// Whether writes may be posted: hyper flushes in each of its polls, which asks what became of them.
    /// A tunnel does not.
    fn may_post(&self) -> bool {
        self.is_h1 && !self.state.is_switch_granted()
    }
}

impl<S: AsyncRead + Unpin> Io<S> {
    /// Looks for the end of the stream while a request runs and hyper does not wait for more of it.
    /// What the client sends instead is kept for later; nothing more is read then.
    fn look(&mut self, cx: &mut Context<'_>) {
        if !self.is_h1 || self.has_read_ahead() || !self.state.is_unwatched() {
            return;
        }
        let mut room = [MaybeUninit::uninit(); LOOK_BYTES];
        let mut read = ReadBuf::uninit(&mut room);
        match Pin::new(&mut self.stream).poll_read(cx, &mut read) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                self.read_ahead = Bytes::copy_from_slice(read.filled());
            }
            Poll::Ready(_) => self.state.note_gone(),
        }
    }
}

impl<S: AsyncRead + Unpin> hyper::rt::Read for Io<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.read_ahead.is_empty() {
            let mut count = this.read_ahead.len().min(cursor.remaining());
            cursor.put_slice(&this.read_ahead.split_to(count));
            if cursor.remaining() > 0
                && let Poll::Ready(Ok(more)) = poll_read_into(&mut this.stream, cx, &mut cursor)
            {
                // The end of the stream, and most errors, are there for the next read too.
                count += more;
            }
            this.state.note_read(count);
            return Poll::Ready(Ok(()));
        }
        let polled = poll_read_into(&mut this.stream, cx, &mut cursor);
        this.state.note_waits(polled.is_pending());
        this.state.note_read(ready!(polled)?);
        Poll::Ready(Ok(()))
    }
}

/// hyper's cursor as tokio's buffer: both are a slice that may be uninitialised.
#[expect(unsafe_code, reason = "neither crate has a safe way that does not copy or zero first")]
fn poll_read_into<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    cursor: &mut ReadBufCursor<'_>,
) -> Poll<io::Result<usize>> {
    // SAFETY: `ReadBuf` never de-initialises the memory it was given, and the cursor advances by
    // exactly the number of bytes that `ReadBuf` guarantees to be initialised.
    unsafe {
        let mut buf = ReadBuf::uninit(cursor.as_mut());
        ready!(Pin::new(stream).poll_read(cx, &mut buf))?;
        let count = buf.filled().len();
        cursor.advance(count);
        Poll::Ready(Ok(count))
    }
}

impl<S: AsyncRead + Post> hyper::rt::Write for Io<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.may_post() && this.stream.post(cx, bufs) {
            let polled = Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
            this.state.note_write(&polled);
            return polled;
        }
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.state.note_write(&polled);
        if polled.is_pending() {
            this.look(cx);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = if self.may_post() {
            self.stream.poll_posted(cx)
        } else {
            Pin::new(&mut self.stream).poll_flush(cx)
        };
        self.state.note_flush(&polled);
        // hyper flushes at the end of each of its polls.
        self.look(cx);
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state.is_parking() {
            // Nobody flushes while it is parked.
            return Pin::new(&mut self.stream).poll_flush(cx);
        }
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.state.note_flush(&polled);
        if polled.is_ready() {
            self.state.note_shut_down();
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::{mem, task::Waker};

    use hyper::rt::{Read as _, Write as _};
    use tokio::io::{
        AsyncWrite, AsyncWriteExt as _, DuplexStream, Empty, Join, duplex, empty, join,
    };

    use super::*;

    const POSTED: usize = usize::MAX;
    const ASKED: usize = usize::MAX - 1;
    const FLUSHED: usize = usize::MAX - 2;

    /// Notes the pieces it is given, one entry a call.
    #[derive(Debug, Default)]
    struct Pieces(Vec<Vec<usize>>);

    impl AsyncWrite for Pieces {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.push(vec![buf.len()]);
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.0.push(bufs.iter().map(|buf| buf.len()).collect());
            Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.0.push(vec![FLUSHED]);
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl Post for Join<Empty, Pieces> {
        fn post(&mut self, _: &Context<'_>, bufs: &[IoSlice<'_>]) -> bool {
            let is_small = bufs.len() == 1;
            if is_small {
                self.writer_mut().0.push(vec![POSTED, bufs[0].len()]);
            }
            is_small
        }

        fn poll_posted(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.writer_mut().0.push(vec![ASKED]);
            Poll::Ready(Ok(()))
        }
    }

    impl Post for Join<Empty, DuplexStream> {}

    #[test]
    fn writes_are_posted_while_hyper_serves_http1_and_no_longer() {
        let mut cx = Context::from_waker(Waker::noop());
        let state = Arc::new(State::default());
        let mut io = Io::new(join(empty(), Pieces::default()), state.clone());
        let write = |io: &mut Io<Join<Empty, Pieces>>, bufs: &[IoSlice<'_>]| {
            let mut cx = Context::from_waker(Waker::noop());
            assert!(Pin::new(&mut *io).poll_write_vectored(&mut cx, bufs).is_ready());
            assert!(Pin::new(&mut *io).poll_flush(&mut cx).is_ready());
            mem::take(&mut io.stream_mut().writer_mut().0)
        };
        let one = [IoSlice::new(b"one")];
        let large = [0; 8192];
        assert_eq!(write(&mut io, &one), [vec![3], vec![FLUSHED]], "not HTTP/1");
        io.begin_h1();
        assert_eq!(write(&mut io, &one), [vec![POSTED, 3], vec![ASKED]]);
        let two = [IoSlice::new(b"one"), IoSlice::new(&large)];
        assert_eq!(write(&mut io, &two), [vec![3, 8192], vec![ASKED]]);
        assert_eq!(state.seen().written, 3 + 3 + 3 + 8192);
        state.set_parking(true);
        assert!(Pin::new(&mut io).poll_shutdown(&mut cx).is_ready());
        assert_eq!(mem::take(&mut io.stream_mut().writer_mut().0), [[FLUSHED]]);
        state.set_parking(false);
        state.ask_to_switch();
        assert!(state.grant_switch());
        assert_eq!(write(&mut io, &one), [vec![3], vec![FLUSHED]], "a tunnel");
    }

    /// A client, and the connection on which it has just sent a request.
    fn running() -> (DuplexStream, Io<DuplexStream>, Arc<State>) {
        let (client, server) = duplex(64);
        let state = Arc::new(State::default());
        state.begin_request();
        let mut io = Io::new(server, state.clone());
        io.begin_h1();
        (client, io, state)
    }

    fn flush(io: &mut Io<DuplexStream>) {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(io).poll_flush(&mut cx).is_ready());
    }

    fn read(io: &mut Io<DuplexStream>) -> Vec<u8> {
        let mut room = [0; 8];
        let mut read = hyper::rt::ReadBuf::new(&mut room);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(io).poll_read(&mut cx, read.unfilled()).is_ready());
        read.filled().to_vec()
    }

    #[test]
    fn a_client_that_leaves_while_its_request_runs_is_noticed_at_a_flush() {
        let (client, mut io, state) = running();
        flush(&mut io);
        assert!(!state.is_gone());
        drop(client);
        flush(&mut io);
        assert!(state.is_gone() && state.is_read_closed());
    }

    #[tokio::test]
    async fn a_client_that_leaves_while_it_takes_nothing_is_noticed_at_a_write() {
        for pieces in [1, 2] {
            let state = Arc::new(State::default());
            state.begin_request();
            // It has ended, and takes nothing.
            let (mut full, _client) = duplex(1);
            full.write_all(b"x").await.unwrap();
            let mut io = Io::new(join(empty(), full), state.clone());
            io.begin_h1();
            let bufs = [IoSlice::new(b"a"), IoSlice::new(b"b")];
            let mut cx = Context::from_waker(Waker::noop());
            let io = Pin::new(&mut io);
            let polled = if pieces == 1 {
                io.poll_write(&mut cx, b"a")
            } else {
                io.poll_write_vectored(&mut cx, &bufs)
            };
            assert!(polled.is_pending() && state.is_gone(), "{pieces}");
        }
    }

    #[test]
    fn nobody_looks_while_hyper_waits_or_after_the_answer() {
        let (client, mut io, state) = running();
        let mut room = [0; 8];
        let mut buf = hyper::rt::ReadBuf::new(&mut room);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut io).poll_read(&mut cx, buf.unfilled()).is_pending());
        drop(client);
        flush(&mut io);
        assert!(!state.is_gone(), "hyper waits for a body, and will see its end");
        state.begin_poll();
        state.end_request();
        flush(&mut io);
        assert!(!state.is_gone(), "it may leave after its answer");
    }

    #[test]
    fn a_client_that_leaves_before_its_body_is_wanted_is_noticed() {
        let (client, mut io, state) = running();
        let _body = state.uploads().begin(true);
        drop(client);
        flush(&mut io);
        assert!(state.is_gone());
    }

    #[test]
    fn an_answer_has_begun_with_its_first_byte() {
        let (_client, mut io, state) = running();
        assert!(!state.is_answering());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut io).poll_write(&mut cx, b"HTTP").is_ready());
        assert!(state.is_answering());
        state.end_request();
        state.begin_request();
        assert!(!state.is_answering());
    }

    #[tokio::test]
    async fn what_comes_while_a_request_runs_is_the_next_head() {
        let (mut client, mut io, state) = running();
        client.write_all(b"GET ").await.unwrap();
        flush(&mut io);
        client.write_all(b"/b").await.unwrap();
        flush(&mut io);
        drop(client);
        flush(&mut io);
        assert!(!state.is_gone(), "it has sent more, so it waits for more");
        assert!(!state.seen().has_head_begun);
        state.end_request();
        assert_eq!(read(&mut io), b"GET /b");
        assert!(state.seen().has_head_begun);
        assert_eq!(read(&mut io), b"");
    }
}
