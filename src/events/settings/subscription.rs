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
    /// Its topic; a change is an error.
    pub topic: Arc<str>,
    /// Which types it takes; empty is all.
    pub types: Vec<TypePattern>,
    /// Where it starts when it is new.
    pub from: StartAt,
    /// Where events are sent; `None`: they are fetched.
    pub push: Option<Push>,
    /// How long a consumer has, 1 s to 12 h.
    pub lease: Duration,
    /// Its topic keeps what it has not settled.
    pub is_pinning: bool,
    /// In which order.
    pub order: Order,
    /// When a failed delivery is tried again.
    pub retry: Retry,
    /// How much at once.
    pub limits: Limits,
    /// Where events go that nobody took; `None`: nowhere, `then` says what becomes of them.
    pub dead_letter: Option<DeadLetters>,
    /// What becomes of an event at the end of its attempts.
    pub then: Then,
    /// What follows a success.
    pub on_success: Option<Reaction>,
    /// What follows when nobody took it.
    pub on_exhausted: Option<Reaction>,
}

/// A type, or how types begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypePattern {
    /// This one.
    Exact(Box<str>),
    /// All that begin so.
    Prefix(Box<str>),
}

/// Where a new subscription starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartAt {
    /// With the first event that is kept.
    Earliest,
    /// After the last one.
    #[default]
    Latest,
    /// With the first event published then or later, in milliseconds since 1970.
    Time(u64),
}

/// Where events are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// Where to.
    pub target: Target,
    /// In which form.
    pub format: Format,
    /// How long an endpoint has.
    pub timeout: Duration,
    /// What deliveries to a webhook are signed with; several while one takes the place of another.
    pub secrets: Vec<SigningKey>,
}

/// Who gets pushed events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A webhook: an absolute `http` or `https` URL.
    Url(Uri),
    /// An upstream, which gets stored requests.
    Upstream(Arc<str>),
}

/// The form of a pushed event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// CloudEvents, one JSON object.
    #[default]
    Structured,
    /// CloudEvents, attributes as header fields.
    Binary,
    /// The data alone.
    Raw,
}

/// In which order events are delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// One event of a key after the other.
    #[default]
    Key,
    /// None.
    None,
    /// One event of a partition after the other.
    Partition,
}

/// When a failed delivery is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Before the first attempt, the second, and so on; the last one holds for all that follow. At least
    /// one.
    pub schedule: Vec<Duration>,
    /// So many attempts count, at least 1.
    pub max_attempts: u32,
    /// None begins later than so long after the first one that counted.
    pub max_age: Duration,
}

/// How much at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Deliveries to an endpoint.
    pub concurrency: u32,
    /// Deliveries to an endpoint in a second.
    pub rate: Option<f64>,
    /// Events being delivered.
    pub in_flight: u32,
    /// Events of one partition that wait in memory.
    pub parked: u32,
}

/// Where events go that nobody took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetters {
    /// Kept for so long.
    pub max_age: Duration,
    /// Kept up to so many bytes; then the subscription stops.
    pub max_bytes: u64,
}

/// What becomes of an event at the end of its attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Then {
    /// To the dead letters.
    #[default]
    DeadLetter,
    /// Nothing.
    Discard,
    /// It holds its key until an operator frees it.
    BlockKey,
}

/// An event that follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reaction {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its type.
    pub kind: Arc<str>,
    /// What its data is.
    pub data: ReactionData,
}

/// What the data of an event that follows is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReactionData {
    /// That of the event.
    #[default]
    Request,
    /// What the endpoint answered.
    Response,
    /// Both.
    Both,
    /// None.
    None,
}

// === impl Subscription ===

impl Subscription {
    /// The defaults, for a name and a topic.
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
    /// Between services of one owner: seconds at first, a day at most.
    pub fn service() -> Self {
        let seconds = [0, 1, 2, 4, 8, 15, 30, 60, 300, 900, 1_800];
        let schedule = seconds.map(Duration::from_secs).to_vec();
        Self { schedule, max_attempts: 60, max_age: 24 * HOUR }
    }

    /// To whom it may concern, as Standard Webhooks suggest: ten attempts in 76 hours.
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
    /// A type; with a `*` at its end, how types begin.
    pub fn parse(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.into()),
            None => Self::Exact(text.into()),
        }
    }

    /// Whether a type is meant.
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
