//! A response body on its way from an upstream: a failure of it is the upstream's, and it may not
//! stand still for longer than `response_idle_timeout`.
//!
//! Only time counts in which we asked and the upstream had nothing: a slow client never makes the
//! upstream look slow. The timer is made by the first wait and not touched while data flows; when
//! it rings it looks how long it has really been.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::{Error, Kind, Sent};

/// A response body with an idle timeout.
pub(crate) struct Received {
    incoming: Incoming,
    timeout: Duration,
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// What a failure of a response body means: hyper fails it only when the connection did.
pub(crate) fn broken_off(error: hyper::Error) -> Error {
    Error::new(Kind::UpstreamReset(Sent::MaybeSeen)).with_source(error)
}

// === impl Received ===

impl Received {
    pub(crate) fn new(incoming: Incoming, timeout: Duration) -> Self {
        Self { incoming, timeout, waiting_since: None, timer: None }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = *self.waiting_since.get_or_insert_with(Instant::now) + self.timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(cx) {
            this.waiting_since = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(broken_off)));
        }
        this.poll_idle(cx).map(|()| {
            let detail = format!("the response stood still for {:?}", this.timeout);
            Some(Err(Error::new(Kind::UpstreamTimeoutTry(Sent::MaybeSeen)).with_detail(detail)))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

