//! What a failure carries, and what follows from it: the nouns of [`Kind`].

use std::{collections::HashMap, sync::LazyLock, time::Duration};

use http::{HeaderMap, HeaderValue, StatusCode};

use super::Kind;

/// The `Allow` header of a 405.
#[derive(Clone, Debug)]
pub struct Method405 {
    /// Comma-separated methods, as the header wants them.
    pub allow: HeaderValue,
}

/// What a 429 says.
#[derive(Clone, Debug)]
pub struct Exceeded {
    /// Until all of the limits have room for one more.
    pub retry_after: Duration,
    /// The names of the limits that had none.
    pub policies: Box<[Box<str>]>,
}

/// How another service refused a request.
#[derive(Clone, Debug)]
pub struct Denial {
    /// 300 to 599.
    pub status: StatusCode,
    /// What the client is told beside our own fields.
    pub headers: Box<HeaderMap>,
}

/// Whose doing a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Downstream,
    /// Our own, or our configuration's.
    Gateway,
    /// The service's.
    Upstream,
}

/// Whether the upstream may have seen any of the request. Measured by counting the bytes that were
/// written, never guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Not one byte left: safe to send elsewhere, whatever the method.
    Nothing,
    /// Some byte left: the upstream may have acted on it.
    MaybeSeen,
}

/// What the retry rules may do about a failure (semantics 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryClass {
    /// A: the request never left.
    NotSent,
    /// B: the upstream may have seen it.
    MaybeSeen,
    /// Not about an upstream at all: another attempt changes nothing.
    Final,
}

// === impl Side ===

impl Side {
    /// Whose doing it is by the reason word; `None`: that is no failure.
    pub fn of(reason: &str) -> Option<Self> {
        static SIDES: LazyLock<HashMap<&str, Side>> = LazyLock::new(|| {
            Kind::all().into_iter().map(|kind| (kind.reason(), kind.side())).collect()
        });
        SIDES.get(reason).copied()
    }
}
