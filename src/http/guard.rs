//! What has to happen when a body is over.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::oneshot;

use crate::{
    error::{Error, Kind},
    http::upload::Upload,
    telemetry::{exchange::Exchange, in_flight::InFlight},
};

/// What must happen when a body is over. A closed list: extend it for other needs.
pub enum Guard {
    /// A count of what is in flight.
    InFlight(InFlight),
    /// A request body of a client's connection.
    Upload(Upload),
    /// The access log line and the metrics of the whole exchange.
    Exchange(Exchange),
    /// An upstream connection that can be reused once the body has been read.
    Upstream(Box<dyn Finish>),
    /// Somebody who waits for the end, see [`Body::watch`](crate::http::Body::watch).
    Watched(oneshot::Sender<Infallible>),
}

/// Completes when a body is over, however it ended. Cancel-safe.
#[derive(Debug)]
pub struct Over(pub(super) oneshot::Receiver<Infallible>);

/// A response body that its connection reads itself.
pub trait Receive: Send {
    /// The next frame; `None` at the end.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>>;

    /// Whether nothing follows.
    fn is_end_stream(&self) -> bool;

    /// How much follows.
    fn size_hint(&self) -> SizeHint;

    /// The body is over. Called once.
    fn finish(self: Box<Self>, end: End);
}

/// Called once, when a body ends.
pub trait Finish: Send {
    /// Why the body fails, if that is not its own fault. Asked before its end.
    fn cause(&self) -> Option<&Kind> {
        None
    }

    /// The body is over.
    fn finish(self: Box<Self>, end: End);
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All of it was passed on.
    Complete,
    /// Its source failed, for this reason.
    Failed(&'static str),
    /// The reader dropped it before the end.
    Dropped,
}

// === impl Over ===

impl Future for Over {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Nothing is ever sent: the guard is dropped when the body is over.
        Pin::new(&mut self.0).poll(cx).map(|_| ())
    }
}
