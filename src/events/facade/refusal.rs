//! Every reason to refuse an operation.

use std::{fmt, time::Duration};

use thiserror::Error;

/// Why an operation was refused. Nothing of it was done, unless a variant says otherwise.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// There is no room for it.
    #[error("{bound}")]
    Full {
        /// The limit that was reached.
        bound: Bound,
        /// When to retry.
        retry_after: Duration,
    },
    /// The disk is low.
    #[error("the disk is low on space")]
    Disk {
        /// When to retry.
        retry_after: Duration,
    },
    /// The log is offline, or the store is not open (yet, or any more).
    #[error("unavailable: {detail}")]
    Unavailable {
        /// Details for an operator.
        detail: String,
        /// Whether the events may exist after recovery, because the disk failed during the write.
        may_exist: bool,
    },
    /// The process is draining.
    #[error("draining")]
    Draining,
    /// The maximum of concurrent operations of this kind is reached.
    #[error("{detail}")]
    Busy {
        /// Which limit.
        detail: String,
        /// When to retry.
        retry_after: Duration,
    },
    /// No such topic, subscription, event, dead letter, key, partition or job exists.
    #[error("no {what} named `{name}`")]
    NameUnknown {
        /// `topic`, `subscription`, `event`, `dead letter`, `blocked key`, `blocked partition`, `job`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// No event without a key is blocked.
    #[error("no events without a key are blocked")]
    NoneKeyless,
    /// The event exceeds `max_event_bytes`, or the batch exceeds the size of a frame.
    #[error("event {index} is over {limit} bytes")]
    TooLarge {
        /// The index in the batch.
        index: usize,
        /// The limit in bytes.
        limit: u64,
    },
    /// Something in the event cannot be stored.
    #[error("event {index}: {detail}")]
    Invalid {
        /// The index in the batch.
        index: usize,
        /// What is wrong, and what would be right.
        detail: String,
    },
    /// It would wait longer than the topic keeps events.
    #[error("event {index} waits for longer than the topic keeps events")]
    DelayTooLong {
        /// The index in the batch.
        index: usize,
    },
    /// The current state forbids it: a receive where events are pushed, another count to purge.
    #[error("{detail}")]
    Conflict {
        /// What prevents it.
        detail: String,
    },
    /// The store cannot be changed to these settings.
    #[error("{detail}")]
    ConfigInvalid {
        /// Which settings, and why.
        detail: String,
    },
    /// The settings can only be changed by a restart.
    #[error("{detail}")]
    NeedsRestart {
        /// Which settings.
        detail: String,
    },
    /// A bug.
    #[error("internal: {detail}")]
    Internal {
        /// For the log.
        detail: String,
    },
}

/// A limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The bytes stored in the topic or in flight to it.
    Bytes,
    /// The age of the oldest event that a subscription has not settled.
    OldestAge,
    /// The events waiting in the topic until they are due.
    Delayed,
    /// The consumers waiting for events of one subscription.
    Receives,
}

// === impl Bound ===

impl Bound {
    /// How to raise or relieve it.
    pub const fn help(self) -> &'static str {
        match self {
            Self::Bytes => {
                "a subscription that does not keep up holds the room: `sluice queue status`; with \
                 `on_full: drop_oldest` there is room within a second; `retention.max_bytes` is the bound"
            }
            Self::OldestAge => {
                "`sluice queue status` shows whose oldest event is too old: settle it, or change \
                 `backpressure.oldest_age` of the topic"
            }
            Self::Delayed => {
                "`max_delayed` and `retention.max_bytes` of the topic are the bounds; room comes as \
                 events become due"
            }
            Self::Receives => "receive with fewer consumers at once",
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "the topic is full",
            Self::OldestAge => {
                "a subscription's oldest unsettled event is older than the topic's \
                 `backpressure.oldest_age`"
            }
            Self::Delayed => "as many events wait until they are due as may",
            Self::Receives => "as many consumers wait for events of this subscription as may",
        })
    }
}

// === impl Refusal ===

impl Refusal {
    /// The reason's name in logs, metrics and problem bodies.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Full { .. } => "queue-full",
            Self::Disk { .. } => "queue-disk",
            Self::Unavailable { .. } => "queue-unavailable",
            Self::Draining => "draining",
            Self::Busy { .. } => "concurrency-full",
            Self::NameUnknown { .. } | Self::NoneKeyless => "name-unknown",
            Self::TooLarge { .. } => "event-too-large",
            Self::Invalid { .. } => "event-invalid",
            Self::DelayTooLong { .. } => "delay-too-long",
            Self::Conflict { .. } => "conflict",
            Self::ConfigInvalid { .. } => "config-invalid",
            Self::NeedsRestart { .. } => "needs-restart",
            Self::Internal { .. } => "internal",
        }
    }

    /// When to retry, if known.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Full { retry_after, .. }
            | Self::Disk { retry_after }
            | Self::Busy { retry_after, .. } => Some(*retry_after),
            Self::Unavailable { .. } | Self::Draining => Some(Duration::from_secs(5)),
            Self::NameUnknown { .. }
            | Self::NoneKeyless
            | Self::TooLarge { .. }
            | Self::Invalid { .. }
            | Self::DelayTooLong { .. }
            | Self::Conflict { .. }
            | Self::ConfigInvalid { .. }
            | Self::NeedsRestart { .. }
            | Self::Internal { .. } => None,
        }
    }

    /// No such thing exists.
    pub fn unknown(what: &'static str, name: impl Into<String>) -> Self {
        Self::NameUnknown { what, name: name.into() }
    }

    /// The store or log is not open (yet, or any more); nothing was done.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::Unavailable { detail: detail.into(), may_exist: false }
    }

    /// The current state does not allow it.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::Conflict { detail: detail.into() }
    }

    /// A bug.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::Internal { detail: detail.into() }
    }
}
