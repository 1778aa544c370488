//! What the `idempotency` layer asks of a store of keys: traits, so that the layer knows no log.
//!
//! A key belongs to one route and one principal. What becomes of it follows from what the upstream
//! may know ([`Outcome`](super::Outcome)): whoever records the exchange takes the key from the
//! context and writes both down in one frame.

mod key;

pub use self::key::{NotAKey, key};

use std::{any::Any, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, StatusCode};

use crate::error::QueueFault;

/// A key as a client sends it, in bytes at most.
pub const MAX_KEY_BYTES: usize = 255;
/// When to come back to a store that is not there.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A request with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyed {
    /// The route.
    pub route: Arc<str>,
    /// Who sends it; empty without auth.
    pub principal: Box<str>,
    /// The key.
    pub key: Box<str>,
    /// SHA-256 of method, normalised target and body.
    pub fingerprint: [u8; 32],
    /// How long the key is remembered.
    pub ttl: Duration,
    /// What nobody knows the outcome of may be sent again: the upstream honours the key.
    pub may_resend: bool,
}

/// What is known of a key.
pub enum Judgement {
    /// Nobody had it, or what it was used for was not done: send the request, with this in its context.
    New(Rider),
    /// The first request of it still runs.
    Running,
    /// It was used for another request.
    Mismatch,
    /// Nobody knows what became of the first request.
    Uncertain,
    /// The first request was answered so.
    Done(StoredAnswer),
}

/// An answer as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its fields, without framing.
    pub headers: HeaderMap,
    /// Its body; `None`: it was too long, or is not known.
    pub body: Option<Bytes>,
}

/// That the upstream honours the key of a request: leave to send again what it may have seen. There is one
/// only for a request whose route says so.
#[derive(Debug)]
pub struct KeyHonoured(());

/// A key that a request has for itself, as whoever records the exchange knows it.
pub type Rider = Arc<dyn Any + Send + Sync>;

/// Remembers keys.
pub trait IdempotencyStore: fmt::Debug + Send + Sync {
    /// What is known of a key. If that is nothing it belongs to this request until the rider is dropped
    /// or recorded.
    fn judge(&self, keyed: Keyed) -> BoxFuture<'_, Result<Judgement, QueueFault>>;
}

/// Remembers nothing, for it is not there: every request with a key is refused.
#[derive(Clone, Copy, Debug)]
pub struct Unavailable;

// === impl KeyHonoured ===

impl KeyHonoured {
    /// By what the route of the request says.
    pub fn by(keyed: &Keyed) -> Option<Self> {
        keyed.may_resend.then_some(Self(()))
    }
}

// === impl Unavailable ===

impl IdempotencyStore for Unavailable {
    fn judge(&self, _: Keyed) -> BoxFuture<'_, Result<Judgement, QueueFault>> {
        async { Err(QueueFault::Unavailable(RETRY_AFTER)) }.boxed()
    }
}

// === impl Judgement ===

impl fmt::Debug for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New(_) => "New",
            Self::Running => "Running",
            Self::Mismatch => "Mismatch",
            Self::Uncertain => "Uncertain",
            Self::Done(_) => "Done",
        })
    }
}
