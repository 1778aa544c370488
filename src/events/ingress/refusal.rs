//! What a client is told when a log does not accept the records of its request.

use std::time::Duration;

use crate::{
    error::{Error, Kind, QueueFault},
    events::queue::log::{AppendError, Reason, Refused},
};

/// `Retry-After` for a log that failed while it was written.
const UNAVAILABLE: Duration = Duration::from_secs(30);

/// There is no room: nothing was written.
pub fn refused(refused: Refused) -> Error {
    let after = refused.retry_after.unwrap_or_default();
    let fault = match refused.reason {
        Reason::Full | Reason::Behind => QueueFault::Full(after),
        Reason::DiskLow => QueueFault::Disk(after),
        Reason::Offline => QueueFault::Unavailable(after),
        Reason::TooLarge => QueueFault::TooLarge,
    };
    Error::new(Kind::Queue(fault)).with_detail(refused.to_string())
}

/// The record cannot be written.
pub fn failed(error: &AppendError) -> Error {
    let kind = match error {
        AppendError::Refused(it) => return refused(*it),
        AppendError::Unknown => Kind::Queue(QueueFault::Unavailable(UNAVAILABLE)),
        AppendError::Stopped => Kind::Draining,
    };
    Error::new(kind).with_detail(error.to_string())
}
