//! Dead letters: events that nobody took, and operations on them.

use std::sync::Arc;

use bytes::Bytes;

use super::jobs::JobId;

/// A dead letter, without its event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its offset among the subscription's dead letters.
    pub id: u64,
    /// Where it came from.
    pub origin: Origin,
    /// The event's ID.
    pub event_id: String,
    /// The event's type.
    pub kind: String,
    /// The event's key.
    pub key: Option<Bytes>,
    /// Number of counted attempts.
    pub attempts: u32,
    /// When the first attempt began.
    pub first_attempt: Option<u64>,
    /// When it died.
    pub died: u64,
    /// Why it died.
    pub reason: Reason,
    /// The endpoint's last status.
    pub last_status: Option<u16>,
    /// The last message of the consumer or the endpoint.
    pub last_error: Option<String>,
    /// How often it was redriven.
    pub redrives: u32,
    /// Whether a compensating event was published for it; redriving it then needs `force`.
    pub is_compensated: bool,
    /// Its size on disk.
    pub bytes: u64,
}

/// The origin of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The lane: 0 is live, others are jobs.
    pub lane: u32,
    /// The topic.
    pub topic: Arc<str>,
    /// The partition of the topic.
    pub partition: u32,
    /// The offset in its log.
    pub offset: u64,
}

/// Why an event died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// It used up its attempts.
    AttemptsExhausted,
    /// It passed its own expiry, or `max_age` of the retries.
    Expired,
    /// The consumer rejected it, or the endpoint does not accept it.
    Rejected,
    /// Its last attempts ended without a result.
    LeaseExpiredLimit,
    /// A request that may have been seen and is not sent twice.
    MaybeSeen,
    /// Larger than the endpoint accepts.
    TooLarge,
}

/// Selects dead letters; `None` matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// With this reason.
    pub reason: Option<Reason>,
    /// That died at this time or later.
    pub since: Option<u64>,
    /// That died before this time.
    pub until: Option<u64>,
    /// With this key.
    pub key: Option<Bytes>,
    /// With this event type.
    pub kind: Option<String>,
}

/// A page of dead letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterPage {
    /// In order of ID.
    pub entries: Vec<DeadLetter>,
    /// The `after` of the next page; `None` for the last page.
    pub next: Option<u64>,
}

/// Numbers of dead letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterCount {
    /// How many there are.
    pub count: u64,
    /// Their size on disk.
    pub bytes: u64,
    /// Number by reason, without reasons that do not occur.
    pub reasons: Vec<(Reason, u64)>,
}

/// A request to deliver dead letters again.
#[derive(Clone, Debug, PartialEq)]
pub struct Redrive {
    /// Which dead letters.
    pub which: Which,
    /// Maximum deliveries per second.
    pub rate: Option<f64>,
    /// Whether to only count them.
    pub dry_run: bool,
    /// Whether to include those that were compensated, and those that may have been done.
    pub force: bool,
}

/// Selects dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// With these IDs.
    Ids(Vec<u64>),
    /// Matching this filter now.
    Filter(DeadLetterFilter),
}

/// The result of a redrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redriven {
    /// The job; none in a dry run.
    pub job: Option<JobId>,
    /// How many dead letters it delivers.
    pub matching: u64,
    /// How many it skips, for lack of `force`.
    pub skipped: u64,
}

// === impl Reason ===

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 6] = [
        Self::AttemptsExhausted,
        Self::Expired,
        Self::Rejected,
        Self::LeaseExpiredLimit,
        Self::MaybeSeen,
        Self::TooLarge,
    ];

    /// Its name.
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

    /// The reason with this name.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.word() == word)
    }
}
