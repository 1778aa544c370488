//! Who sends what is delivered: events to webhooks, stored requests to upstreams.
//!
//! A trait, because the event flow must not know of connections: `gateway` hands over one that goes
//! through `balancer` and `upstream` with connections of its own, tests hand over a script. What an
//! ending means for the event is decided by whoever asked.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri, uri::PathAndQuery};

use crate::telemetry::tracing::Origin;

/// Sends what is delivered.
pub trait Sink: fmt::Debug + Send + Sync + 'static {
    /// Sends once: follows no redirect and tries nothing again. Dropped, the exchange is given up.
    fn send(&self, parcel: Parcel) -> Sending;

    /// Hears that a stored request of `route` has ended so, once for each end; `None`: nothing can be read of
    /// it any more.
    fn hear(&self, _route: Option<&str>, _end: End) {}
}

/// How a stored request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was answered 2xx or 3xx.
    Succeeded,
    /// It was answered otherwise.
    Failed,
    /// It may have been seen, and nobody knows.
    Uncertain,
    /// It was given up for its age.
    Expired,
    /// It was given up otherwise.
    DeadLettered,
    /// Nothing can be read of it any more.
    Lost,
}

/// A delivery under way.
pub type Sending = Pin<Box<dyn Future<Output = Ending> + Send>>;

/// What is sent.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// Where to.
    pub target: Target,
    /// On whose behalf.
    pub subscription: Arc<str>,
    /// What its span tells; `None`: it was decided before that it has none.
    pub origin: Option<Box<Origin>>,
    /// What is asked.
    pub method: Method,
    /// Every field but `Host` and those of the framing.
    pub headers: HeaderMap,
    /// All of it.
    pub body: Bytes,
    /// From now to the end of the answer.
    pub timeout: Duration,
    /// Bytes of the answer's body that are kept; what is beyond is not waited for.
    pub max_answer: usize,
}

/// Where a parcel goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An absolute `http` or `https` URL.
    Url(Uri),
    /// One endpoint of an upstream, as its own balancer and breakers decide.
    Upstream {
        /// The key under `upstreams`.
        name: Arc<str>,
        /// What is asked for there.
        target: PathAndQuery,
    },
}

/// How a delivery ended.
#[derive(Clone, Debug)]
pub enum Ending {
    /// An answer, whatever its status.
    Answered(Reply),
    /// Not one byte of it left: no name, no endpoint, no connection, no TLS. Why, for the operator.
    NotSent(Box<str>),
    /// It may have been seen, and there is no whole answer. Why, for the operator.
    MaybeSeen(Box<str>),
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// As it came.
    pub status: StatusCode,
    /// As they came.
    pub headers: HeaderMap,
    /// At most [`Parcel::max_answer`] bytes of it.
    pub body: Bytes,
    /// `body` is all there was.
    pub is_whole: bool,
}

// === impl End ===

impl End {
    /// The word for it.
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

/// For tests of what has to have a sink and pushes nothing.
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
