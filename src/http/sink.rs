//! Sends deliveries: events to webhooks, stored requests to upstreams.
//!
//! A trait, because the event flow must not know about connections: `gateway` passes an
//! implementation that uses `balancer` and `upstream` with its own connections, tests pass a
//! script. The caller decides what an ending means for the event.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri, uri::PathAndQuery};

use crate::telemetry::tracing::Origin;

/// Sends deliveries.
pub trait Sink: fmt::Debug + Send + Sync + 'static {
    /// Sends once: no redirects, no retries. Dropping the future cancels the exchange.
    fn send(&self, parcel: Parcel) -> Sending;

    /// Told how each stored request of `route` ended, once per end; `None`: nothing of the request
    /// can be read any more.
    fn hear(&self, _route: Option<&str>, _end: End) {}
}

/// The end of a stored request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It got a 2xx or 3xx.
    Succeeded,
    /// It got another status.
    Failed,
    /// It may have been seen; the outcome is unknown.
    Uncertain,
    /// It expired.
    Expired,
    /// It was given up for another reason.
    DeadLettered,
    /// Nothing can be read of it any more.
    Lost,
}

/// A delivery in progress.
pub type Sending = Pin<Box<dyn Future<Output = Ending> + Send>>;

/// A request to deliver.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// Its destination.
    pub target: Target,
    /// The subscription it is sent for.
    pub subscription: Arc<str>,
    /// The data for its span; `None`: it was decided before that there is none.
    pub origin: Option<Box<Origin>>,
    /// The method.
    pub method: Method,
    /// All fields except `Host` and those of the framing.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// The time limit, from now to the end of the answer.
    pub timeout: Duration,
    /// How many bytes of the answer's body are kept; more is not waited for.
    pub max_answer: usize,
}

/// The destination of a parcel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An absolute `http` or `https` URL.
    Url(Uri),
    /// An endpoint of an upstream, chosen by its own balancer and breakers.
    Upstream {
        /// The key under `upstreams`.
        name: Arc<str>,
        /// The path and query to ask for.
        target: PathAndQuery,
    },
}

/// The result of a delivery.
#[derive(Clone, Debug)]
pub enum Ending {
    /// An answer, whatever its status.
    Answered(Reply),
    /// Not one byte left: no name, endpoint, connection or TLS. The text is for the operator.
    NotSent(Box<str>),
    /// It may have been seen, and there is no complete answer. The text is for the operator.
    MaybeSeen(Box<str>),
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status, unchanged.
    pub status: StatusCode,
    /// The fields, unchanged.
    pub headers: HeaderMap,
    /// At most [`Parcel::max_answer`] bytes of it.
    pub body: Bytes,
    /// Whether `body` is the whole body.
    pub is_whole: bool,
}

// === impl End ===

impl End {
    /// Its reason word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Uncertain => "uncertain",
            Self::Expired => "expired",
            Self::DeadLettered => "dead_lettered",
            Self::Lost => "lost",
        }
    }
}

/// For tests of code that needs a sink and sends nothing.
#[cfg(test)]
pub(crate) mod testing {
    use super::{Ending, Parcel, Sending, Sink};

    /// Reaches nobody.
    #[derive(Debug)]
    pub(crate) struct Nowhere;

    impl Sink for Nowhere {
        fn send(&self, _: Parcel) -> Sending {
            Box::pin(async { Ending::NotSent("nowhere".into()) })
        }
    }
}
