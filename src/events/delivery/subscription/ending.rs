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
    /// It was dropped because the settings or an operator said so.
    Discarded(Reason),
    /// A job could not deliver it, and reports it.
    Failed(Reason),
}

/// Why nobody took an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// It had all its attempts.
    AttemptsExhausted,
    /// Its own expiry, or the age up to which it is retried.
    Expired,
    /// The consumer said so, or the endpoint does not take it.
    Rejected,
    /// It had all its attempts, and nobody came back from the last.
    LeaseExpiredLimit,
    /// A request that may have been seen; it is not sent twice.
    MaybeSeen,
    /// Over what the endpoint takes.
    TooLarge,
}

/// An end that is certain, and what it still asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// When.
    pub at: u64,
    /// Which event.
    pub place: Place,
    /// How it ends.
    pub ending: Ending,
    /// A copy goes to the dead letters.
    pub dead_letter: Option<Target>,
    /// Then an event that follows goes to its topic.
    pub publish: Option<Target>,
    /// How the last attempt ended.
    pub failure: Option<Failure>,
    /// What the endpoint answered, where the event that follows carries it.
    pub answer: Option<Bytes>,
}

/// Where something is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The log.
    pub log: LogId,
    /// Its end when the outcome was written: from there on one looks whether it was appended already.
    pub end: Offset,
}

/// Why an attempt failed, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In one word.
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
    /// Nobody came back from it.
    Lapsed,
    /// Nothing was sent: no name, no connection, no TLS.
    NotSent,
    /// The endpoint asked for time.
    Throttled,
    /// The endpoint answered something that is no success.
    Status,
    /// The endpoint did not answer in time, or broke off.
    Timeout,
    /// The endpoint does not take such an event.
    Refused,
    /// The endpoint is gone for good.
    Gone,
}

/// What a failed attempt says of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// Nothing: a consumer's word, or nothing was sent on purpose.
    None,
    /// It is there and has looked at the event.
    There,
    /// It may be away.
    Away,
}

// === impl Failure ===

impl Failure {
    /// Bytes of what was said that are kept.
    pub const SNIPPET: usize = 160;

    /// One, with at most [`Failure::SNIPPET`] bytes of what was said.
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

    /// What it says of the endpoint. An event that is too large for it is refused without being sent: that has
    /// no status.
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
