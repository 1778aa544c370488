//! `subscriptions`.

use std::{sync::Arc, time::Duration};

use http::Uri;

use super::{GIB, HOUR};
use crate::http::webhook::SigningKey;

/// One subscription.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    /// Its name.
    pub name: Arc<str>,
    /// Its topic; cannot be changed.
    pub topic: Arc<str>,
    /// The types it receives; all if empty.
    pub types: Vec<TypePattern>,
    /// Where a new subscription starts.
    pub from: StartAt,
    /// Where events are pushed to; `None` if consumers pull them.
    pub push: Option<Push>,
    /// Length of a consumer's lease, 1 s to 12 h.
    pub lease: Duration,
    /// Whether its topic keeps what it has not settled.
    pub is_pinning: bool,
    /// The delivery order.
    pub order: Order,
    /// When failed deliveries are retried.
    pub retry: Retry,
    /// Limits of concurrency and rate.
    pub limits: Limits,
    /// The dead letters; `None` if there are none, and `then` decides.
    pub dead_letter: Option<DeadLetters>,
    /// What happens to an event whose attempts are used up.
    pub then: Then,
    /// The event that follows a success.
    pub on_success: Option<Reaction>,
    /// The event that follows if nobody took an event.
    pub on_exhausted: Option<Reaction>,
}

/// A type, or a prefix of types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypePattern {
    /// This type.
    Exact(Box<str>),
    /// All types with this prefix.
    Prefix(Box<str>),
}

/// Where a new subscription starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartAt {
    /// At the first event stored.
    Earliest,
    /// After the last event.
    #[default]
    Latest,
    /// At the first event published at this time or later, in milliseconds since 1970.
    Time(u64),
}

/// How events are pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// The receiver.
    pub target: Target,
    /// The format.
    pub format: Format,
    /// Time limit of a delivery.
    pub timeout: Duration,
    /// Keys that sign deliveries to a webhook; several while one replaces another.
    pub secrets: Vec<SigningKey>,
}

/// The receiver of pushed events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A webhook: an absolute `http` or `https` URL.
    Url(Uri),
    /// An upstream, which gets stored requests.
    Upstream(Arc<str>),
}

/// The format of a pushed event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// CloudEvents as one JSON object.
    #[default]
    Structured,
    /// CloudEvents with attributes as header fields.
    Binary,
    /// The data alone.
    Raw,
}

/// The order in which events are delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// In order within each key.
    #[default]
    Key,
    /// No order.
    None,
    /// In order within each partition.
    Partition,
}

/// When failed deliveries are retried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The waits before the first attempt, the second, and so on; the last one applies to all that
    /// follow. At least one.
    pub schedule: Vec<Duration>,
    /// Maximum number of counted attempts, at least 1.
    pub max_attempts: u32,
    /// No attempt begins later than this after the first counted one.
    pub max_age: Duration,
}

/// Limits of concurrency and rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Maximum concurrent deliveries to an endpoint.
    pub concurrency: u32,
    /// Maximum deliveries to an endpoint per second.
    pub rate: Option<f64>,
    /// Maximum number of events being delivered.
    pub in_flight: u32,
    /// Maximum number of a partition's events waiting in memory.
    pub parked: u32,
}

/// The dead letters of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetters {
    /// How long they are kept.
    pub max_age: Duration,
    /// Maximum bytes; at this size the subscription stops.
    pub max_bytes: u64,
}

/// What happens to an event whose attempts are used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Then {
    /// It becomes a dead letter.
    #[default]
    DeadLetter,
    /// It is dropped.
    Discard,
    /// It holds its key until an operator unblocks it.
    BlockKey,
}

/// An event that follows from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reaction {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its type.
    pub kind: Arc<str>,
    /// Its data.
    pub data: ReactionData,
}

/// The data of an event that follows from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReactionData {
    /// The data of that event.
    #[default]
    Request,
    /// The answer of the endpoint.
    Response,
    /// Both of these.
    Both,
    /// No data.
    None,
}

// === impl Subscription ===

impl Subscription {
    /// The defaults, with this name and topic.
    pub fn new(name: impl Into<Arc<str>>, topic: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            topic: topic.into(),
            types: Vec::new(),
            from: StartAt::Latest,
            push: None,
            lease: Duration::from_secs(30),
            is_pinning: true,
            order: Order::Key,
            retry: Retry::service(),
            limits: Limits::default(),
            dead_letter: Some(DeadLetters::default()),
            then: Then::DeadLetter,
            on_success: None,
            on_exhausted: None,
        }
    }
}

// === impl Retry ===

impl Retry {
    /// For services of one owner: seconds at first, a day in total.
    pub fn service() -> Self {
        let seconds = [0, 1, 2, 4, 8, 15, 30, 60, 300, 900, 1_800];
        let schedule = seconds.map(Duration::from_secs).to_vec();
        Self { schedule, max_attempts: 60, max_age: 24 * HOUR }
    }

    /// For any receiver, as Standard Webhooks suggest: ten attempts in 76 hours.
    pub fn standard() -> Self {
        let seconds = [0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400]
            .map(Duration::from_secs);
        Self { schedule: seconds.to_vec(), max_attempts: 10, max_age: 76 * HOUR }
    }
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self { concurrency: 64, rate: None, in_flight: 1_000, parked: 10_000 }
    }
}

// === impl DeadLetters ===

impl Default for DeadLetters {
    fn default() -> Self {
        Self { max_age: 14 * 24 * HOUR, max_bytes: GIB }
    }
}

// === impl TypePattern ===

impl TypePattern {
    /// A type, or with a `*` at the end a prefix of types.
    pub fn parse(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.into()),
            None => Self::Exact(text.into()),
        }
    }

    /// Whether a type matches.
    pub fn matches(&self, kind: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *kind,
            Self::Prefix(prefix) => kind.starts_with(&**prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_at_the_end_is_any_end() {
        assert!(TypePattern::parse("order.*").matches("order.created"));
        assert!(TypePattern::parse("*").matches(""));
        assert!(!TypePattern::parse("order.*").matches("order"));
        assert!(!TypePattern::parse("order").matches("order.created"));
        assert!(TypePattern::parse("a*b").matches("a*b"), "a star elsewhere is a character");
    }
}
