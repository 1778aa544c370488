//! What became of a stored request, as whoever delivers it tells whoever is asked for it.

use std::fmt;

use futures_util::future::BoxFuture;

use super::Place;
use crate::http::idempotency::StoredAnswer;

/// The most bytes of an answer that are kept, beside its fields.
pub const MAX_ANSWER_BYTES: u64 = 256 << 10;

/// How far a stored request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits, for its first attempt or for another.
    Queued,
    /// An attempt is under way.
    Running,
    /// It was answered 2xx or 3xx.
    Succeeded,
    /// It was answered otherwise, and that is final.
    Failed,
    /// The upstream may have acted on it, and nobody knows: it is not sent again.
    Uncertain,
    /// It was given up: among the dead letters of its subscription, or discarded.
    DeadLettered,
}

/// How a stored request stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// How far it is.
    pub state: State,
    /// Attempts that have begun.
    pub attempts: u32,
    /// What it was answered; its body is `None` where it is over [`MAX_ANSWER_BYTES`].
    pub answer: Option<StoredAnswer>,
}

/// Knows what became of stored requests.
pub trait Results: fmt::Debug + Send + Sync {
    /// How the request there stands. One of which nothing is known waits for its first attempt.
    fn status(&self, place: Place) -> BoxFuture<'_, Status>;

    /// Ends when [`Results::status`] of the request there may say something else than at the time of the
    /// call; it may end without that, too.
    fn changed(&self, place: Place) -> BoxFuture<'static, ()>;

    /// Nothing is sent any more: what waits now is sent by the next process. Whoever waits for a change hears
    /// of that, too.
    fn is_winding_down(&self) -> bool {
        false
    }

    /// Nothing can be told of what is not over, and nothing is sent, before somebody has seen to the records.
    fn is_offline(&self) -> bool {
        false
    }

    /// Takes a place for a request that is about to be stored, if there is one: what is stored without can
    /// not be sent. It is to be followed by [`Results::stored`] or [`Results::give_back`].
    fn reserve(&self) -> bool;

    /// The place that was reserved is that of the request there, which is asked for up to `until`
    /// (milliseconds since 1970).
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
