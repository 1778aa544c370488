//! The status of a stored request: the interface between those who deliver it and those who ask for
//! it.

use std::fmt;

use futures_util::future::BoxFuture;

use super::Place;
use crate::{http::idempotency::StoredAnswer, telemetry::clock};

/// The most bytes of an answer that are kept, beside its fields.
pub const MAX_ANSWER_BYTES: u64 = 256 << 10;

/// The state of a stored request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits for its first attempt, or for another.
    Queued,
    /// An attempt is in flight.
    Running,
    /// It was answered 2xx or 3xx.
    Succeeded,
    /// It got any other final answer.
    Failed,
    /// The upstream may or may not have acted on it; it is not sent again.
    Uncertain,
    /// It was given up: it is a dead letter of its subscription, or was discarded.
    DeadLettered,
}

/// The status of a stored request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its state.
    pub state: State,
    /// Attempts begun.
    pub attempts: u32,
    /// Its answer; the body is `None` if it is over [`MAX_ANSWER_BYTES`].
    pub answer: Option<StoredAnswer>,
}

/// The results of stored requests.
pub trait Results: fmt::Debug + Send + Sync {
    /// The status of the request at `place`. If nothing is known of it, it waits for its first
    /// attempt.
    fn status(&self, place: Place) -> BoxFuture<'_, Status>;

    /// Completes when [`Results::status`] of this request may have changed since the call. It may
    /// also complete without a change.
    fn changed(&self, place: Place) -> BoxFuture<'static, ()>;

    /// Whether this process sends no more: what waits now is sent by the next one. Also wakes those
    /// who wait for a change.
    fn is_winding_down(&self) -> bool {
        false
    }

    /// Whether it is later than `at` (milliseconds since 1970), or just then: never, while the clock is not to be
    /// trusted.
    fn is_past(&self, at: u64) -> bool {
        clock::since_epoch(clock::now()).as_millis() >= u128::from(at)
    }

    /// While true, nothing is sent and unfinished requests have no status, until the records are
    /// repaired.
    fn is_offline(&self) -> bool {
        false
    }

    /// Reserves a place for a request about to be stored, if there is one: without a place it could
    /// not be sent. Follow it with [`Results::stored`] or [`Results::give_back`].
    fn reserve(&self) -> bool;

    /// The reserved place belongs to the request at `place`, whose status can be asked for until
    /// `until` (milliseconds since 1970).
    fn stored(&self, place: Place, until: u64);

    /// A place that was reserved is free again: nothing was stored.
    fn give_back(&self);

    /// Whether it is certain to be over, from memory: a request of its key that comes now does not
    /// overtake it.
    fn is_over(&self, place: Place) -> bool;
}

// === impl State ===

impl State {
    /// The word for it on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Uncertain => "uncertain",
            Self::DeadLettered => "dead_lettered",
        }
    }

    /// Whether it stays so; a dead letter that is sent again is another story.
    pub const fn is_over(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Uncertain | Self::DeadLettered => true,
        }
    }
}

// === impl Status ===

impl Status {
    /// Nothing has happened yet.
    pub const QUEUED: Self = Self { state: State::Queued, attempts: 0, answer: None };
}
