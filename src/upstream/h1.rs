//! An HTTP/1.1 connection to an upstream: one request at a time.
//!
//! It lives in a box that moves between the pool, the request it is lent to, and the response body.
//! The box holds whatever each of them needs, so that no request allocates.

use std::{
    fmt,
    future::{self, poll_fn},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use tokio::time::Instant;
use tokio_util::sync::ReusableBoxFuture;

use crate::{
    http::{
        Body,
        body::{End, Finish},
    },
    upstream::{
        Flight,
        io::{Mark, Meter, Probe},
    },
};

/// The result of sending a request.
pub(crate) type Answer = Result<Response<Incoming>, TrySendError<Request<Body>>>;

/// An HTTP/1.1 connection: one request at a time. Dropping it closes the connection.
pub(crate) struct H1 {
    sender: http1::SendRequest<Body>,
    /// Of the latest request. hyper's future is unnameable, so it lives in a box that the
    /// connection reuses.
    answer: ReusableBoxFuture<'static, Answer>,
    meter: Arc<Meter>,
    probe: Probe,
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

// === impl H1 ===

impl H1 {
    /// A connection without a request so far, which may stay idle for `keep_alive`.
    pub(crate) fn new(
        sender: http1::SendRequest<Body>,
        meter: Arc<Meter>,
        probe: Probe,
        keep_alive: Duration,
    ) -> Self {
        Self {
            sender,
            answer: ReusableBoxFuture::new(future::pending()),
            meter,
            probe,
            is_reused: false,
            is_spent: false,
            is_doubtful: true,
            idle_since: Instant::now(),
            keep_alive,
            flight: None,
        }
    }

    /// Hands `request` to the connection's task; [`Self::poll_answer`] returns the result.
    pub(crate) fn send(&mut self, request: Request<Body>) {
        self.answer.set(self.sender.try_send_request(request));
    }

    /// The result of the latest request. Do not poll again after it is ready.
    pub(crate) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Answer> {
        self.answer.poll(cx)
    }

    /// Like [`Self::poll_answer`]. Cancel-safe.
    pub(crate) async fn answer(&mut self) -> Answer {
        poll_fn(|cx| self.poll_answer(cx)).await
    }

    /// Whether it takes a request now.
    pub(crate) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
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

    /// Whether the kernel has neither data to read nor a close for it.
    pub(crate) fn is_quiet(&self) -> bool {
        self.probe.is_quiet()
    }

    pub(crate) fn mark(&self) -> Mark {
        self.meter.mark()
    }

    /// The final counts: nothing more is written on it afterwards.
    pub(crate) fn cut(&self) -> Mark {
        self.meter.cut();
        self.meter.mark()
    }

    /// Waits until it takes a request; `false` if it is closed. Cancel-safe.
    pub(crate) async fn ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }
}

impl Finish for H1 {
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
