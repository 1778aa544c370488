//! Why a request with an idempotency key is not done again.

use std::time::Duration;

use http::StatusCode;

/// Why a request on a route with `idempotency` is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdempotencyFault {
    /// The route requires a key and there is none.
    Missing,
    /// There is more than one key.
    Several,
    /// The key is not valid.
    Invalid,
    /// The key was used for another request.
    Mismatch,
    /// The first request with this key is still running; retry after this time.
    InFlight(Duration),
    /// The outcome of the first request with this key is unknown.
    Uncertain,
}

// === impl IdempotencyFault ===

impl IdempotencyFault {
    /// One of each.
    pub const ALL: [Self; 6] = [
        Self::Missing,
        Self::Several,
        Self::Invalid,
        Self::Mismatch,
        Self::InFlight(Duration::from_secs(1)),
        Self::Uncertain,
    ];

    /// The status of the answer.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Missing | Self::Several | Self::Invalid => StatusCode::BAD_REQUEST,
            Self::Mismatch => StatusCode::UNPROCESSABLE_ENTITY,
            Self::InFlight(_) | Self::Uncertain => StatusCode::CONFLICT,
        }
    }

    /// Its reason word; one for all ways to have no key.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Missing | Self::Several | Self::Invalid => "idempotency-missing",
            Self::Mismatch => "idempotency-mismatch",
            Self::InFlight(_) => "idempotency-in-flight",
            Self::Uncertain => "idempotency-uncertain",
        }
    }

    /// One sentence for the client.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Missing => "This request needs an idempotency key.",
            Self::Several => "This request has more than one idempotency key.",
            Self::Invalid => "This idempotency key is not valid.",
            Self::Mismatch => "This idempotency key was used for another request.",
            Self::InFlight(_) => "The first request with this idempotency key still runs.",
            Self::Uncertain => {
                "It is not known whether the first request with this idempotency key was done."
            }
        }
    }

    /// When to retry, for the faults that pass by themselves.
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::InFlight(after) => Some(after),
            Self::Missing | Self::Several | Self::Invalid | Self::Mismatch | Self::Uncertain => {
                None
            }
        }
    }
}
