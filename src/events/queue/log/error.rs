//! Errors of a log: one enum for each operation.

use std::{fmt, io, ops::Range, time::Duration};

use super::settings::Place;
use crate::events::queue::{Offset, storage};

/// An append was refused before anything was written; it may be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// A retry before this is pointless; none: until somebody has changed something.
    pub retry_after: Option<Duration>,
}

/// Why an append is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Too much is in flight, or the log is at its size limit.
    Full,
    /// A reader is too far behind.
    Behind,
    /// The disk has too little room.
    DiskLow,
    /// The log takes nothing until it is reopened.
    Offline,
    /// It is larger than the log can ever take at once.
    TooLarge,
}

/// An append failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The disk failed during the write: whether it is stored is known once the log is reopened.
    #[error("the disk failed while it was written: it may be stored, or not")]
    Unknown,
    /// Nothing was written.
    #[error("{0}")]
    Refused(Refused),
    /// The log was closed first. Nothing was written.
    #[error("the log is closed")]
    Stopped,
}

/// A read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset is below the log's start.
    #[error("the log begins at {start}")]
    Retired {
        /// The log's first offset.
        start: Offset,
    },
    /// Bytes that were on disk are bad. Reading can continue at the end of the range.
    #[error("offsets {} to {} are damaged", range.start, range.end)]
    Damaged {
        /// Offsets that cannot be read, end excluded.
        range: Range<Offset>,
    },
    /// Written by a later version of the program.
    #[error("{0}")]
    Newer(String),
    /// The disk failed. A retry may succeed.
    #[error("the log cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// A log cannot be opened. Retrying makes sense once somebody has looked at it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It belongs to another store or is another log.
    #[error("{file} belongs to {found}, not to {expected}")]
    Foreign {
        /// The file.
        file: String,
        /// Whom it says it belongs to.
        found: String,
        /// Whom it should belong to.
        expected: String,
    },
    /// Written by a later version of the program.
    #[error("{file}: {message}")]
    Newer {
        /// The file.
        file: String,
        /// In words.
        message: String,
    },
    /// The disk failed.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// How it failed.
        source: io::Error,
    },
}

/// Old segments could not be removed. What remains of them is removed at the next open.
#[derive(Debug, thiserror::Error)]
pub enum RetireError {
    /// The log is offline.
    #[error("the log is offline")]
    Offline,
    /// The disk failed.
    #[error("old segments cannot be removed: {0}")]
    Io(#[from] io::Error),
}

// === impl Refused ===

impl Refused {
    /// A refusal for this reason, with the usual time to retry after.
    pub const fn new(reason: Reason) -> Self {
        let retry_after = match reason {
            Reason::Full | Reason::Behind => Some(Duration::from_secs(1)),
            Reason::DiskLow => Some(Duration::from_secs(10)),
            Reason::Offline => Some(Duration::from_secs(30)),
            Reason::TooLarge => None,
        };
        Self { reason, retry_after }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.reason {
            Reason::Full => "the log is full",
            Reason::Behind => "a subscription is too far behind",
            Reason::DiskLow => "the disk is nearly full",
            Reason::Offline => "the log is offline",
            Reason::TooLarge => "it is more than the log takes at once",
        })
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for AppendError {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl OpenError {
    /// For `map_err`: `action` says what was tried.
    pub(super) fn io(action: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }

    /// Adds where the log is.
    pub(super) fn of(self, place: &Place) -> Self {
        let dir = place.dir.display();
        match self {
            Self::Io { action, source } => {
                let told = source.to_string();
                let is_told = told.contains(&dir.to_string());
                // The kind is kept, because decisions depend on it.
                let more = || io::Error::new(source.kind(), format!("{dir}: {told}"));
                Self::Io { action, source: if is_told { source } else { more() } }
            }
            Self::Newer { file, message } if !file.contains('/') => {
                Self::Newer { file: format!("{dir}/{file}"), message }
            }
            other => other,
        }
    }

    /// Whether a full disk is the only cause.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if storage::is_full(source))
    }
}
