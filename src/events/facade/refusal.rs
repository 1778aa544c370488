//! Everything that an operation can be refused for.

use std::{fmt, time::Duration};

use thiserror::Error;

/// Why an operation was not done. Nothing of it was, unless a variant says otherwise.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// There is no room for it.
    #[error("{bound}")]
    Full {
        /// Of what there is as much as may be.
        bound: Bound,
        /// When to come back.
        retry_after: Duration,
    },
    /// The disk is low.
    #[error("the disk is low on space")]
    Disk {
        /// When to come back.
        retry_after: Duration,
    },
    /// The log is offline, or the store is not open (yet, or any more).
    #[error("unavailable: {detail}")]
    Unavailable {
        /// What is known, for an operator.
        detail: String,
        /// The events may be there after recovery: the disk failed while it took them.
        may_exist: bool,
    },
    /// The process is draining.
    #[error("draining")]
    Draining,
    /// As many are served as may be at once.
    #[error("{detail}")]
    Busy {
        /// Of what there are too many.
        detail: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// There is no such topic, subscription, event, dead letter, key, partition or job.
    #[error("no {what} named `{name}`")]
    NameUnknown {
        /// `topic`, `subscription`, `event`, `dead letter`, `blocked key`, `blocked partition`, `job`.
        what: &'static str,
        /// What was asked for.
        name: String,
    },
    /// Over `max_event_bytes`, or the batch is over what one frame takes.
    #[error("event {index} is over {limit} bytes")]
    TooLarge {
        /// Which of the batch.
        index: usize,
        /// What it may have, in bytes.
        limit: u64,
    },
    /// Something in it cannot be stored.
    #[error("event {index}: {detail}")]
    Invalid {
        /// Which of the batch.
        index: usize,
        /// What, and what would do.
        detail: String,
    },
    /// It would wait for longer than the topic keeps anything.
    #[error("event {index} waits for longer than the topic keeps events")]
    DelayTooLong {
        /// Which of the batch.
        index: usize,
    },
    /// What is there does not allow it: a receive where events are pushed, another count to purge.
    #[error("{detail}")]
    Conflict {
        /// What stands in the way.
        detail: String,
    },
    /// The settings cannot be followed from where the store is.
    #[error("{detail}")]
    ConfigInvalid {
        /// Which, and why.
        detail: String,
    },
    /// Only a restart can follow the settings.
    #[error("{detail}")]
    NeedsRestart {
        /// Which.
        detail: String,
    },
    /// A bug.
    #[error("internal: {detail}")]
    Internal {
        /// For the log.
        detail: String,
    },
}

/// What is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// What the topic has, or what is on its way to it.
    Bytes,
    /// The age of the oldest event that a subscription has not settled.
    OldestAge,
    /// What waits in the topic until it is due.
    Delayed,
    /// Consumers that wait for events of one subscription.
    Receives,
}

// === impl Bound ===

impl Bound {
    /// What lifts it.
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
    /// The word for it in log, metric and problem.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Full { .. } => "queue-full",
            Self::Disk { .. } => "queue-disk",
            Self::Unavailable { .. } => "queue-unavailable",
            Self::Draining => "draining",
            Self::Busy { .. } => "concurrency-full",
            Self::NameUnknown { .. } => "name-unknown",
            Self::TooLarge { .. } => "event-too-large",
            Self::Invalid { .. } => "event-invalid",
            Self::DelayTooLong { .. } => "delay-too-long",
            Self::Conflict { .. } => "conflict",
            Self::ConfigInvalid { .. } => "config-invalid",
            Self::NeedsRestart { .. } => "needs-restart",
            Self::Internal { .. } => "internal",
        }
    }

    /// When to come back, where that is known.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Full { retry_after, .. }
            | Self::Disk { retry_after }
            | Self::Busy { retry_after, .. } => Some(*retry_after),
            Self::Unavailable { .. } | Self::Draining => Some(Duration::from_secs(5)),
            Self::NameUnknown { .. }
            | Self::TooLarge { .. }
            | Self::Invalid { .. }
            | Self::DelayTooLong { .. }
            | Self::Conflict { .. }
            | Self::ConfigInvalid { .. }
            | Self::NeedsRestart { .. }
            | Self::Internal { .. } => None,
        }
    }

    /// There is no such thing.
    pub fn unknown(what: &'static str, name: impl Into<String>) -> Self {
        Self::NameUnknown { what, name: name.into() }
    }

    /// Not open, or not any more; nothing was done.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::Unavailable { detail: detail.into(), may_exist: false }
    }

    /// What is there does not allow it.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::Conflict { detail: detail.into() }
    }

    /// A bug.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::Internal { detail: detail.into() }
    }
}
