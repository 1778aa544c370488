//! How a key keeps a request from being done again.

use std::time::Duration;

use http::StatusCode;

/// Why a request with an idempotency key, or without one, is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdempotencyFault {
    /// The route needs a key, and there is none, or none that can be one.
    Missing,
    /// The key was used for another request.
    Mismatch,
    /// The first request of this key still runs; come back after so long.
    InFlight(Duration),
    /// Nobody knows what became of the first request of this key.
    Uncertain,
}

// === impl IdempotencyFault ===

impl IdempotencyFault {
    /// One of each.
    pub const ALL: [Self; 4] =
        [Self::Missing, Self::Mismatch, Self::InFlight(Duration::from_secs(1)), Self::Uncertain];

    /// The status a client is answered with.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Missing => StatusCode::BAD_REQUEST,
            Self::Mismatch => StatusCode::UNPROCESSABLE_ENTITY,
            Self::InFlight(_) | Self::Uncertain => StatusCode::CONFLICT,
        }
    }

    /// The word for it.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Missing => "idempotency-missing",
            Self::Mismatch => "idempotency-mismatch",
            Self::InFlight(_) => "idempotency-in-flight",
            Self::Uncertain => "idempotency-uncertain",
        }
    }

    /// One sentence that a client may read.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Missing => "This request needs an idempotency key.",
            Self::Mismatch => "This idempotency key was used for another request.",
            Self::InFlight(_) => "The first request with this idempotency key still runs.",
            Self::Uncertain => {
                "It is not known whether the first request with this idempotency key was done."
            }
        }
    }

    /// When to come back, for those that pass by themselves.
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::InFlight(after) => Some(after),
            Self::Missing | Self::Mismatch | Self::Uncertain => None,
        }
    }
}
