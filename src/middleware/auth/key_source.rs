//! The interface between verifying tokens and fetching keys.
//!
//! Whoever loads keys (from a file, a secret, or the network) owns a [`Published`] and puts each
//! new set into it; workers share nothing else. A worker reads through a [`View`]: one atomic load
//! per request tells whether there is a new set, and the set is reached through the worker's own
//! pointer, so that workers do not contend for a reference count.
//!
//! If a set lacks the key for a token, the check calls [`KeySource::missing`] once, waits if told
//! to, and looks once more. So the fetching side implements two functions:
//!
//! ```text
//!  published()    where it puts sets: Published::publish(set), Published::withdraw()
//!  missing(kid)   Missing::Now(Unknown)      the kid is negatively cached, or a refetch is not due
//!                 Missing::Now(Unavailable)  there is no set, and none may be asked for at present
//!                 Missing::Wait(future)      single flight; at most 500 ms; resolves to an Answer
//! ```

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::keys::KeySet;

/// Where the keys of one issuer come from.
pub trait KeySource: fmt::Debug + Send + Sync {
    /// The sets it has published.
    fn published(&self) -> &Published;

    /// Called if a token needs a key that the published set lacks: `kid`, or any key if there is no
    /// set or the token names none. Bounded: whatever tokens come, storing and fetching have limits
    /// of their own.
    fn missing(&self, kid: Option<&str>) -> Missing;
}

/// What can be done about a missing key.
pub enum Missing {
    /// Nothing: this is the answer.
    Now(Answer),
    /// A newer set is on its way.
    Wait(Waiting),
}

/// The outcome for a missing key. With several sources the most severe counts, which is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// There is a new set since: look again, once.
    Published,
    /// There is no such key: `auth-kid-unknown`.
    Unknown,
    /// Unknown, because there is no set: `auth-keys-unavailable`.
    Unavailable,
}

/// Resolves within 500 ms. Dropping it stops the wait; the fetch belongs to the source and goes on.
pub type Waiting = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// The successive sets of one issuer, shared by all workers and whoever loads them.
#[derive(Debug, Default)]
pub struct Published {
    /// How often the set has changed. Release and Acquire: whoever reads a number finds the set
    /// that belongs to it, or a later one.
    changes: AtomicU64,
    latest: Mutex<Latest>,
}

#[derive(Debug, Default)]
struct Latest {
    set: Option<Arc<KeySet>>,
    /// The generation of the next new key.
    next: u64,
}

/// A worker's view of a source. Locked only by that worker, so never contended.
#[derive(Debug)]
pub struct View {
    source: Arc<dyn KeySource>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    changes: u64,
    set: Option<Arc<KeySet>>,
}

/// Keys that never change: from a file or a secret. A changed file makes a new source.
#[derive(Debug)]
pub struct Fixed(Published);

// === impl Published ===

impl Published {
    /// Publishes `set`. Keys that were in the previous set keep their generation, so what was
    /// verified with them stays verified.
    pub fn publish(&self, mut set: KeySet) {
        let mut latest = self.latest.lock();
        latest.next = set.follow(latest.set.as_deref(), latest.next);
        latest.set = Some(Arc::new(set));
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Leaves no keys: the last set is too old to be trusted.
    pub fn withdraw(&self) {
        self.latest.lock().set = None;
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// The current set. Clones a shared `Arc`: not for the request path.
    pub fn latest(&self) -> Option<Arc<KeySet>> {
        self.latest.lock().set.clone()
    }

    /// How often the set has changed.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }
}

// === impl View ===

impl View {
    /// A view of `source`.
    pub fn new(source: Arc<dyn KeySource>) -> Self {
        Self { source, seen: Mutex::default() }
    }

    /// Calls `read` with the current set and how often it has changed so far.
    pub fn with<R>(&self, read: impl FnOnce(Option<&KeySet>, u64) -> R) -> R {
        let mut seen = self.seen.lock();
        let changes = self.source.published().changes();
        if changes != seen.changes {
            *seen = Seen { changes, set: self.source.published().latest() };
        }
        read(seen.set.as_deref(), changes)
    }

    /// How often the set has changed so far.
    pub fn changes(&self) -> u64 {
        self.source.published().changes()
    }

    /// See [`KeySource::missing`].
    pub fn missing(&self, kid: Option<&str>) -> Missing {
        self.source.missing(kid)
    }
}

// === impl Fixed ===

impl Fixed {
    /// A source of just these keys.
    pub fn new(set: KeySet) -> Self {
        let published = Published::default();
        published.publish(set);
        Self(published)
    }
}

impl KeySource for Fixed {
    fn published(&self) -> &Published {
        &self.0
    }

    fn missing(&self, _: Option<&str>) -> Missing {
        Missing::Now(Answer::Unknown)
    }
}

// === impl Missing ===

impl fmt::Debug for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(answer) => f.debug_tuple("Now").field(answer).finish(),
            Self::Wait(_) => f.write_str("Wait"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::auth::algorithm::{Algorithm, Algorithms};

    const HS: Algorithms = Algorithms::HMAC;

    fn set(keys: &[(&str, &str)]) -> KeySet {
        let list: Vec<_> = keys
            .iter()
            .map(|(kid, k)| serde_json::json!({ "kty": "oct", "kid": kid, "k": k.repeat(11) }))
            .collect();
        KeySet::parse(serde_json::json!({ "keys": list }).to_string().as_bytes(), HS).unwrap()
    }

    fn generation(view: &View, kid: &str) -> Option<u64> {
        view.with(|set, _| Some(set?.find(Some(kid), Algorithm::Hs256).ok()?.generation()))
    }

    #[test]
    fn a_key_keeps_its_generation_as_long_as_it_is_published() {
        let source = Arc::new(Fixed::new(set(&[("a", "AAAA"), ("b", "BBBB")])));
        let view = View::new(source.clone());
        let (a, b) = (generation(&view, "a").unwrap(), generation(&view, "b").unwrap());
        assert_ne!(a, b);

        source.0.publish(set(&[("c", "CCCC"), ("a", "AAAA")]));
        assert_eq!(generation(&view, "a"), Some(a), "it is the same key");
        assert!(!view.with(|set, _| set.unwrap().has(b)), "b is gone");

        source.0.publish(set(&[("a", "DDDD"), ("b", "BBBB")]));
        let others = [generation(&view, "a").unwrap(), generation(&view, "b").unwrap()];
        assert!(others.iter().all(|other| *other > b), "{others:?}: a name is no identity");

        source.0.withdraw();
        assert!(view.with(|set, changes| set.is_none() && changes == 4));
    }

    #[test]
    fn a_view_follows_only_when_something_changed() {
        let source = Arc::new(Fixed::new(set(&[("a", "AAAA")])));
        let view = View::new(source.clone());
        view.with(|_, _| ());
        let held = Arc::strong_count(&source.0.latest().unwrap());
        (0..10).for_each(|_| view.with(|set, _| assert!(set.is_some())));
        assert_eq!(Arc::strong_count(&source.0.latest().unwrap()), held);
        assert_eq!(view.changes(), 1);
        assert!(matches!(view.missing(Some("x")), Missing::Now(Answer::Unknown)));
    }
}
