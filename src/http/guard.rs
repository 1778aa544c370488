//! What has to happen when a body is over.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::sync::oneshot;

use crate::telemetry::{exchange::Exchange, in_flight::InFlight};

/// What has to happen when a body is over. A closed list: who needs something else adds it here.
pub enum Guard {
    /// Something counted as in flight until now.
    InFlight(InFlight),
    /// The access log line and the metrics of the whole exchange.
    Exchange(Exchange),
    /// An upstream connection that may be used again once the body has been read.
    Upstream(Box<dyn Finish>),
    /// Someone who waits for the end, see [`Body::watch`](crate::http::Body::watch).
    Watched(oneshot::Sender<Infallible>),
}

/// Completes when a body is over, whatever way. Cancel-safe.
#[derive(Debug)]
pub struct Over(pub(super) oneshot::Receiver<Infallible>);

/// Takes the end of a body. Called once.
pub trait Finish: Send {
    /// The body is over.
    fn finish(self: Box<Self>, end: End);
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All of it was handed on.
    Complete,
    /// Its source failed, for this reason.
    Failed(&'static str),
    /// The reader went away before the end.
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
