//! An HTTP/1.1 connection to an upstream: one request at a time.
//!
//! The task that has the request also reads and writes the connection; there is no task beside it.
//! hyper's client has one: two wake-ups, two channels and an allocation more for each request, a
//! fifth of what a request costs (benches/compare, row `h1`). So its part of HTTP/1.1 is here: [`head`]
//! and [`chunked`] are pure, [`send`] and [`receive`] are the two directions. If an answer begins
//! before the request has ended, both go on in a task, see [`apart`].
//!
//! The connection lives in a box that moves between the pool, the request it is lent to, and the
//! response body. Dropping the box closes the connection.

mod apart;
mod chunked;
mod head;
mod read_size;
mod receive;
mod send;

use std::{
    fmt,
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, request};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use crate::{
    error::Error,
    http::{
        Body,
        body::{End, Receive},
    },
    upstream::{Flight, failure::broken_off, io::Io, meter::Mark},
};

use self::{receive::Receiving, send::Sending};

pub(crate) use self::{apart::read_apart, receive::Answer};

/// An HTTP/1.1 connection: one request at a time. Dropping it closes the connection.
pub(crate) struct H1 {
    io: Io,
    sending: Sending,
    receiving: Receiving,
    /// The request until it is written, if it can be given back.
    request: Option<(Box<request::Parts>, Body)>,
    /// The counts of the connection when the request began.
    begun: Mark,
    /// Whether a response has been read from it.
    pub(crate) is_reused: bool,
    /// Whether it takes no further request.
    pub(crate) is_spent: bool,
    /// Whether it may have been closed without our knowledge.
    pub(crate) is_doubtful: bool,
    /// When the last response ended.
    pub(crate) idle_since: Instant,
    /// How long it may stay idle.
    pub(crate) keep_alive: Duration,
    /// The request whose response body is being read.
    pub(crate) flight: Option<Flight>,
}

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The connection failed or ended.
    #[error(transparent)]
    Io(io::Error),
    /// What the upstream sent is not HTTP.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The body of the request failed: that is not the upstream's fault.
    #[error(transparent)]
    Body(Error),
    /// The body of the request is not as long as it said.
    #[error("the request's body has another length than declared")]
    Length,
}

/// Which rule of HTTP/1.1 a response breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("the response's head: {0}")]
    Head(#[from] httparse::Error),
    #[error("the response's head is over 32 KiB")]
    HeadSize,
    #[error("over 256 KiB of interim responses")]
    Interim,
    #[error("a Content-Length other than one number")]
    Length,
    #[error("a Transfer-Encoding in HTTP/1.0")]
    Coding,
    #[error("a chunk without a valid size")]
    ChunkSize,
    #[error("chunk extensions over 16 KiB")]
    ChunkExtensions,
    #[error("a chunk that is longer than its size")]
    ChunkEnd,
    #[error("invalid trailers, or over 32 KiB of them")]
    Trailers,
}

// === impl H1 ===

impl H1 {
    /// A connection without a request so far, which may stay idle for `keep_alive`.
    pub(crate) fn new(io: Io, keep_alive: Duration) -> Self {
        Self {
            begun: io.mark(),
            io,
            sending: Sending::default(),
            receiving: Receiving::default(),
            request: None,
            is_reused: false,
            is_spent: false,
            is_doubtful: true,
            idle_since: Instant::now(),
            keep_alive,
            flight: None,
        }
    }

    /// Begins a request; [`Self::poll_answer`] sends it and returns the response.
    pub(crate) fn send(&mut self, parts: Box<request::Parts>, body: Body) {
        self.begun = self.mark();
        self.request = None;
        self.receiving.begin(parts.method == Method::HEAD);
        self.sending.begin(&parts, &body, !self.is_doubtful);
        if body.is_in_memory() {
            if let Some(bytes) = body.as_full() {
                self.sending.add(bytes.clone());
            }
            self.request = Some((parts, body));
        } else {
            self.receiving.reuse(parts.headers);
            self.sending.follow(body);
        }
    }

    /// The head of the response. Do not poll again after it is ready. After a failure nothing more of
    /// the request leaves.
    pub(crate) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Broken>> {
        let polled = self.poll_head(cx);
        if let Poll::Ready(Err(_)) = polled {
            self.io.unpost();
        }
        polled
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Broken>> {
        // Sending does not end with the answer's head: see `is_sending`.
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        let answer = ready!(self.receiving.poll_head(cx, &mut self.io))?;
        if self.mark().written == self.begun.written {
            // Said before it had anything of the request, and nothing of that can be sent any more:
            // it is no answer to it.
            return Poll::Ready(Err(Broken::Io(io::ErrorKind::ConnectionReset.into())));
        }
        self.is_reused = true;
        self.is_doubtful = false;
        self.is_spent |= answer.closes;
        Poll::Ready(Ok(answer))
    }

    /// Like [`Self::poll_answer`]. Cancel-safe.
    pub(crate) async fn answer(&mut self) -> Result<Answer, Broken> {
        poll_fn(|cx| self.poll_answer(cx)).await
    }

    /// Goes on with sending; ready when the request has been written.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.sending.is_over() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.sending.poll(cx, &mut self.io))?;
        // The stream also takes what it cannot send any more, see `last_words`.
        if self.mark().written != self.begun.written
            && let Some((parts, _)) = self.request.take()
        {
            self.receiving.reuse(parts.headers);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether some of the request has not been written yet.
    pub(crate) fn is_sending(&self) -> bool {
        !self.sending.is_over()
    }

    /// The request, if it was in memory and has not been written. Only whoever knows that no byte of
    /// it left may send it again.
    pub(crate) fn take_request(&mut self) -> Option<(Box<request::Parts>, Body)> {
        self.request.take()
    }

    /// Whether request and response are over and another one may follow.
    pub(crate) fn is_ready(&self) -> bool {
        !self.is_spent
            && !self.is_sending()
            && self.receiving.is_over()
            && !self.receiving.has_more()
            && self.io.is_open()
    }

    /// Whether it has been closed while idle, or was sent something: it is of no use then.
    pub(crate) fn is_disturbed(&mut self) -> bool {
        !self.io.is_idle()
    }

    pub(crate) fn is_expired(&self, now: Instant) -> bool {
        self.has_expired(self.idle_for(now))
    }

    /// Whether `idle_for` is longer than it may stay idle.
    pub(crate) fn has_expired(&self, idle_for: Duration) -> bool {
        idle_for >= self.keep_alive
    }

    pub(crate) fn idle_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.idle_since)
    }

    /// Whether the kernel has neither data to read nor a close for it. One system call.
    pub(crate) fn is_quiet(&self) -> bool {
        self.io.is_quiet()
    }

    pub(crate) fn mark(&self) -> Mark {
        self.io.mark()
    }

    /// The counts when the latest request began.
    pub(crate) fn begun(&self) -> Mark {
        self.begun
    }

    /// Waits until the request has been written; `false` if that fails. Cancel-safe.
    pub(crate) async fn sent(&mut self) -> bool {
        poll_fn(|cx| self.poll_send(cx)).await.is_ok()
    }

    /// It is idle from `now` on: lets go of memory that it does not need until it is used.
    pub(crate) fn rest(&mut self, now: Instant) {
        self.idle_since = now;
        self.sending.shrink();
        self.receiving.shrink();
    }

    /// The stream after an upgrade.
    pub(crate) fn into_stream(self) -> Io {
        let mut io = self.io;
        io.read_again(self.receiving.into_rest());
        io
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.receiving.poll_frame(cx, &mut self.io).map_err(broken_off)
    }
}

impl Receive for H1 {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.poll_body(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.receiving.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        self.receiving.size_hint()
    }

    /// The response body is over: returns the connection, and stops counting the request.
    fn finish(mut self: Box<Self>, end: End) {
        // Any other end leaves bytes of this response on the connection: dropping closes it.
        if end == End::Complete
            && let Some(flight) = self.flight.take()
        {
            let local = flight.local();
            local.pool().put(local, self);
        }
    }
}

impl fmt::Debug for H1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H1").field("mark", &self.mark()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
