//! The data of a failure, and what follows from it: the nouns of [`Kind`].

use std::{collections::HashMap, sync::LazyLock, time::Duration};

use http::{HeaderMap, HeaderValue, StatusCode};

use super::Kind;

/// The `Allow` header of a 405.
#[derive(Clone, Debug)]
pub struct Method405 {
    /// Comma-separated methods, in the form of the header.
    pub allow: HeaderValue,
}

/// The content of a 429.
#[derive(Clone, Debug)]
pub struct Exceeded {
    /// How long until all of the limits have room for one more.
    pub retry_after: Duration,
    /// The names of the limits without room.
    pub policies: Box<[Box<str>]>,
}

/// How another service refused a request.
#[derive(Clone, Debug)]
pub struct Denial {
    /// 300 to 599.
    pub status: StatusCode,
    /// The fields for the client, besides our own.
    pub headers: Box<HeaderMap>,
}

/// Who is responsible for a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Downstream,
    /// We, or our configuration.
    Gateway,
    /// The upstream service.
    Upstream,
}

/// Whether the upstream may have seen any of the request. Measured by counting the bytes written,
/// never guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Not one byte left: safe to send elsewhere, whatever the method.
    Nothing,
    /// Some byte left: the upstream may have acted on it.
    MaybeSeen,
}

/// How the retry rules classify a failure (semantics 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryClass {
    /// A: the request never left.
    NotSent,
    /// B: the upstream may have seen it.
    MaybeSeen,
    /// Not about an upstream: another attempt changes nothing.
    Final,
}

// === impl Side ===

impl Side {
    /// Who is responsible, by reason word; `None` if that is no failure.
    pub fn of(reason: &str) -> Option<Self> {
        static SIDES: LazyLock<HashMap<&str, Side>> = LazyLock::new(|| {
            Kind::all().into_iter().map(|kind| (kind.reason(), kind.side())).collect()
        });
        SIDES.get(reason).copied()
    }
}
