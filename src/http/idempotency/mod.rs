//! What the `idempotency` layer needs of a store of keys: traits, so that it does not know the log.
//!
//! A key belongs to one route and one principal. Its fate follows from what the upstream may know
//! ([`Outcome`](super::Outcome)): whoever records the exchange takes the key from the context and
//! records both in one frame.

mod key;

pub use self::key::{NotAKey, key};

use std::{any::Any, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, StatusCode};

use crate::error::QueueFault;

/// The maximum length of a client's key, in bytes.
pub const MAX_KEY_BYTES: usize = 255;
/// When to retry without a store.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A request with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyed {
    /// The route.
    pub route: Arc<str>,
    /// The principal's name; empty without auth.
    pub principal: Box<str>,
    /// The key.
    pub key: Box<str>,
    /// SHA-256 of method, normalised target and body.
    pub fingerprint: [u8; 32],
    /// How long the key is remembered.
    pub ttl: Duration,
    /// Whether it may be sent again if the outcome is unknown: the upstream honours the key.
    pub may_resend: bool,
}

/// What is known about a key.
pub enum Judgement {
    /// The key is unused, or its request was not done: send the request, with this in its context.
    New(Rider),
    /// Its first request is still running.
    Running,
    /// It was used for another request.
    Mismatch,
    /// The outcome of its first request is unknown.
    Uncertain,
    /// Its first request got this answer.
    Done(StoredAnswer),
}

/// A stored answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its fields, without framing.
    pub headers: HeaderMap,
    /// Its body; `None`: it was too long, or is unknown.
    pub body: Option<Bytes>,
}

/// Proof that the upstream honours the request's key: permission to resend what it may have seen.
/// Exists only for a request whose route says so.
#[derive(Debug)]
pub struct KeyHonoured(());

/// A key that a request has reserved, in the form known to whoever records the exchange.
pub type Rider = Arc<dyn Any + Send + Sync>;

/// Remembers keys.
pub trait IdempotencyStore: fmt::Debug + Send + Sync {
    /// What is known about a key. If nothing, the key belongs to this request until the rider is
    /// dropped or recorded.
    fn judge(&self, keyed: Keyed) -> BoxFuture<'_, Result<Judgement, QueueFault>>;
}

/// A store that does not exist: refuses every request with a key.
#[derive(Clone, Copy, Debug)]
pub struct Unavailable;

// === impl KeyHonoured ===

impl KeyHonoured {
    /// Given if the request's route says so.
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
