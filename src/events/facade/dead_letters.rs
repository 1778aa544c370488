//! What nobody took, and what can be done about it.

use std::sync::Arc;

use bytes::Bytes;

use super::jobs::JobId;

/// A dead letter, without its event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its place among the subscription's dead letters.
    pub id: u64,
    /// Where it came from.
    pub origin: Origin,
    /// The event's ID.
    pub event_id: String,
    /// The event's type.
    pub kind: String,
    /// The event's key.
    pub key: Option<Bytes>,
    /// How many were counted.
    pub attempts: u32,
    /// When the first attempt began.
    pub first_attempt: Option<u64>,
    /// When it died.
    pub died: u64,
    /// Why.
    pub reason: Reason,
    /// The endpoint's last status.
    pub last_status: Option<u16>,
    /// What the consumer or the endpoint last said.
    pub last_error: Option<String>,
    /// How often it was redriven.
    pub redrives: u32,
    /// A compensating event was published for it: redriving it needs `force`.
    pub is_compensated: bool,
    /// As it lies on disk.
    pub bytes: u64,
}

/// Where a dead letter came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// 0 is live, others are jobs.
    pub lane: u32,
    /// The topic.
    pub topic: Arc<str>,
    /// Where in it.
    pub partition: u32,
    /// Where in its log.
    pub offset: u64,
}

/// Why an event died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// It had all its attempts.
    AttemptsExhausted,
    /// Its own expiry, or `max_age` of the retries.
    Expired,
    /// The consumer said so, or the endpoint does not take it.
    Rejected,
    /// Its last attempts ended without a word.
    LeaseExpiredLimit,
    /// A request that may have been seen; it is not sent twice.
    MaybeSeen,
    /// Over what the endpoint takes.
    TooLarge,
}

/// Which dead letters; what is `None` matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// With this reason.
    pub reason: Option<Reason>,
    /// That died then or later.
    pub since: Option<u64>,
    /// That died before.
    pub until: Option<u64>,
    /// With this key.
    pub key: Option<Bytes>,
    /// With this event type.
    pub kind: Option<String>,
}

/// A part of the dead letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterPage {
    /// By ID.
    pub entries: Vec<DeadLetter>,
    /// Where to go on: `after` of the next page; `None` after the last.
    pub next: Option<u64>,
}

/// How many dead letters there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterCount {
    /// All.
    pub count: u64,
    /// What they take on disk.
    pub bytes: u64,
    /// By reason; a reason without any is left out.
    pub reasons: Vec<(Reason, u64)>,
}

/// Delivers dead letters again.
#[derive(Clone, Debug, PartialEq)]
pub struct Redrive {
    /// Which.
    pub which: Which,
    /// At most so many a second.
    pub rate: Option<f64>,
    /// Only count.
    pub dry_run: bool,
    /// Also those for which a compensating event was published.
    pub force: bool,
}

/// Which dead letters are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// These.
    Ids(Vec<u64>),
    /// Those that match now.
    Filter(DeadLetterFilter),
}

/// What a redrive does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redriven {
    /// The job; none in a dry run.
    pub job: Option<JobId>,
    /// How many it delivers.
    pub matching: u64,
    /// How many it leaves, for want of `force`.
    pub skipped: u64,
}

// === impl Reason ===

impl Reason {
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::AttemptsExhausted,
        Self::Expired,
        Self::Rejected,
        Self::LeaseExpiredLimit,
        Self::MaybeSeen,
        Self::TooLarge,
    ];

    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
            Self::LeaseExpiredLimit => "lease_expired_limit",
            Self::MaybeSeen => "maybe_seen",
            Self::TooLarge => "too_large",
        }
    }

    /// The reason with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.word() == word)
    }
}
