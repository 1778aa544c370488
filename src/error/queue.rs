//! Why the event queue prevents a request: nothing of it was sent, unless the fault says otherwise.

use std::time::Duration;

use http::StatusCode;

use super::Side;

/// Why the queue cannot do what a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFault {
    /// No room in the topic, in its buffer, in the records of requests, or for the bodies held;
    /// retry after this time.
    Full(Duration),
    /// The disk is low on space.
    Disk(Duration),
    /// The log is offline or accepted nothing: the upstream may have acted on the request.
    Unavailable(Duration),
    /// The log failed while the request was stored instead of sent: it may have been stored and be
    /// sent later, or not.
    MaybeStored(Duration),
    /// The event exceeds the topic's `max_event_bytes`.
    TooLarge,
    /// The route requires a key for each event, and this request has none.
    KeyMissing,
    /// The requested item was stored by another gateway.
    OtherInstance,
    /// The status of the request is no longer kept.
    StatusGone,
}

// === impl QueueFault ===

impl QueueFault {
    /// One of each.
    pub const ALL: [Self; 8] = [
        Self::Full(Duration::from_secs(1)),
        Self::Disk(Duration::from_secs(10)),
        Self::Unavailable(Duration::from_secs(30)),
        Self::MaybeStored(Duration::from_secs(30)),
        Self::TooLarge,
        Self::KeyMissing,
        Self::OtherInstance,
        Self::StatusGone,
    ];

    /// The status of the answer.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Full(_) | Self::Disk(_) | Self::Unavailable(_) | Self::MaybeStored(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::KeyMissing => StatusCode::BAD_REQUEST,
            Self::OtherInstance => StatusCode::NOT_FOUND,
            Self::StatusGone => StatusCode::GONE,
        }
    }

    /// The reason word.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Full(_) => "queue-full",
            Self::Disk(_) => "queue-disk",
            Self::Unavailable(_) | Self::MaybeStored(_) => "queue-unavailable",
            Self::TooLarge => "event-too-large",
            Self::KeyMissing => "event-key-missing",
            Self::OtherInstance => "other-instance",
            Self::StatusGone => "status-gone",
        }
    }

    /// One sentence for the client.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Full(_) => {
                "The queue has no room for this request or its events now; try again shortly."
            }
            Self::Disk(_) => {
                "The queue's disk has no room for this request or its events; try again later."
            }
            Self::Unavailable(_) => {
                "The queue cannot store this request or its events; try again later."
            }
            Self::MaybeStored(_) => {
                "It is not known whether this request was stored: it may be done later, or not at all."
            }
            Self::TooLarge => "The event of this request is too large to be stored.",
            Self::KeyMissing => "This request lacks the value that orders its event.",
            Self::OtherInstance => "Another gateway accepted this request: ask that one.",
            Self::StatusGone => "The status of this request is no longer kept.",
        }
    }

    /// Who is responsible.
    pub const fn side(self) -> Side {
        match self {
            Self::Full(_) | Self::Disk(_) | Self::Unavailable(_) | Self::MaybeStored(_) => {
                Side::Gateway
            }
            Self::TooLarge | Self::KeyMissing | Self::OtherInstance | Self::StatusGone => {
                Side::Downstream
            }
        }
    }

    /// When to retry, for the faults that pass.
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Full(after)
            | Self::Disk(after)
            | Self::Unavailable(after)
            | Self::MaybeStored(after) => Some(after),
            Self::TooLarge | Self::KeyMissing | Self::OtherInstance | Self::StatusGone => None,
        }
    }
}
