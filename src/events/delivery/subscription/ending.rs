//! How attempts and events end.

use bytes::Bytes;

use super::place::Place;
use crate::events::queue::{LogId, Offset};

/// How an event ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// It was taken.
    Succeeded,
    /// It is a dead letter.
    DeadLettered(Reason),
    /// It was dropped, by the settings or an operator.
    Discarded(Reason),
    /// A job could not deliver it, and reports that.
    Failed(Reason),
}

/// Why nobody took an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// It used up its attempts.
    AttemptsExhausted,
    /// It passed its own expiry, or the maximum age for retries.
    Expired,
    /// The consumer rejected it, or the endpoint does not accept it.
    Rejected,
    /// It used up its attempts, and the last one ended without a result.
    LeaseExpiredLimit,
    /// A request that may have been seen and is not sent twice.
    MaybeSeen,
    /// Larger than the endpoint accepts.
    TooLarge,
}

/// An end that is certain, and what remains to be done for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// When.
    pub at: u64,
    /// The event.
    pub place: Place,
    /// How it ends.
    pub ending: Ending,
    /// Where a copy goes as a dead letter.
    pub dead_letter: Option<Target>,
    /// Where the event that follows goes, after that.
    pub publish: Option<Target>,
    /// How the last attempt ended.
    pub failure: Option<Failure>,
    /// The endpoint's answer, if the event that follows carries it.
    pub answer: Option<Bytes>,
}

/// Where something is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The log.
    pub log: LogId,
    /// Its end when the outcome was written: a search for what was already appended starts here.
    pub end: Offset,
}

/// Why an attempt failed, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind of failure.
    pub kind: FailureKind,
    /// The endpoint's status.
    pub status: Option<u16>,
    /// What the consumer or the endpoint said, cut to [`Failure::SNIPPET`] bytes.
    pub snippet: Option<Box<str>>,
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The consumer gave it back as failed.
    Nack,
    /// It ended without a result.
    Lapsed,
    /// Nothing was sent: DNS, connection or TLS failed.
    NotSent,
    /// The endpoint asked to wait.
    Throttled,
    /// The endpoint answered with an error.
    Status,
    /// The endpoint did not answer in time, or broke off.
    Timeout,
    /// The endpoint does not accept such events.
    Refused,
    /// The endpoint is gone for good.
    Gone,
}

/// What a failed attempt says about the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// Nothing: a consumer failed, or nothing was sent on purpose.
    None,
    /// It is up and has looked at the event.
    There,
    /// It may be down.
    Away,
}

// === impl Failure ===

impl Failure {
    /// Bytes of a message that are kept.
    pub const SNIPPET: usize = 160;

    /// A failure, with at most [`Failure::SNIPPET`] bytes of the message.
    pub fn new(kind: FailureKind, status: Option<u16>, said: Option<&str>) -> Self {
        let snippet = said.filter(|said| !said.is_empty()).map(|said| {
            let mut end = said.len().min(Self::SNIPPET);
            while !said.is_char_boundary(end) {
                end -= 1;
            }
            said[..end].into()
        });
        Self { kind, status, snippet }
    }

    /// What it says about the endpoint. An event that is too large is refused without being sent:
    /// that has no status.
    pub(super) fn of_endpoint(&self) -> Sign {
        match self.kind {
            FailureKind::Nack | FailureKind::Lapsed => Sign::None,
            FailureKind::Refused if self.status.is_none() => Sign::None,
            FailureKind::Refused => Sign::There,
            FailureKind::NotSent
            | FailureKind::Throttled
            | FailureKind::Status
            | FailureKind::Timeout
            | FailureKind::Gone => Sign::Away,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_cut_between_characters() {
        let failure = Failure::new(FailureKind::Nack, None, Some(&"é".repeat(200)));
        assert_eq!(failure.snippet.as_deref(), Some("é".repeat(80).as_str()));
        let failure = Failure::new(FailureKind::Nack, None, Some(&format!("a{}", "é".repeat(200))));
        assert_eq!(failure.snippet.map(|snippet| snippet.len()), Some(159));
        assert_eq!(Failure::new(FailureKind::Nack, None, Some("")).snippet, None);
    }
}
