//! How the event queue keeps a request from being done: before anything of it was sent, unless it says
//! otherwise.

use std::time::Duration;

use http::StatusCode;

use super::Side;

/// Why what a request asks of the queue cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFault {
    /// There is no room in the topic, in its buffer, in the records of requests, or among the bodies
    /// that are held; come back after so long.
    Full(Duration),
    /// The disk is low on space.
    Disk(Duration),
    /// The log is offline, or took nothing: the upstream may have acted on the request.
    Unavailable(Duration),
    /// The log failed while the request was stored in place of being sent: it may be there, and be sent
    /// later, or not.
    MaybeStored(Duration),
    /// The event is over the topic's `max_event_bytes`.
    TooLarge,
    /// The route needs a key of each event, and this request has none.
    KeyMissing,
    /// What is asked for was stored by another gateway.
    OtherInstance,
    /// What became of the request is not told any more.
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

    /// The status a client is answered with.
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

    /// The word for it.
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

    /// One sentence that a client may read.
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

    /// Whose doing it is.
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

    /// When to come back, for those that pass.
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
