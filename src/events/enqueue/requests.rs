//! The store's side of stored requests, for those who accept them and those who ask for them: one
//! for each store, shared by all workers and kept over reloads.

use std::{collections::HashMap, fmt, sync::Arc};

use parking_lot::Mutex;

use super::order::{Over, Stored, Waiting};
use crate::events::{
    ingress::{Target, Topics},
    queue::{
        LogId, Offset,
        codec::{HashKey, Role},
        log::{OwnedRecord, ReadError},
        pool::{Pool, Undone},
    },
    request::{Place, RequestId, RequestIds, Results, StoredRequest},
};

/// See the module's documentation. Clones are cheap and share everything.
#[derive(Clone)]
pub struct Requests(Arc<Inner>);

struct Inner {
    around: Around,
    spilled: Mutex<HashMap<LogId, Waiting>>,
}

/// What [`Requests`] needs from its store.
pub struct Around {
    /// Makes and reads request IDs.
    pub ids: RequestIds,
    /// Secret of the hashes.
    pub hash_key: HashKey,
    /// Reads records.
    pub pool: Pool,
    /// The topics that requests are stored in.
    pub topics: Arc<dyn Topics>,
    /// The results of stored requests.
    pub results: Arc<dyn Results>,
}

/// A request being spilled: later requests of its key are ordered behind it. Dropped unfinished, it
/// was not stored.
pub(super) struct Spilling<'a> {
    requests: &'a Requests,
    topic: LogId,
    key: u64,
    is_over: bool,
}

/// A place reserved for a request about to be stored. Dropping it frees the place.
pub(super) struct Reserved {
    requests: Requests,
    is_kept: bool,
}

/// Which requests of one topic are over.
struct Known<'a> {
    target: &'a dyn Target,
    results: &'a dyn Results,
}

// === impl Requests ===

impl Requests {
    /// For the store that `around` describes.
    pub fn new(around: Around) -> Self {
        Self(Arc::new(Inner { around, spilled: Mutex::default() }))
    }

    /// Makes and reads request IDs.
    pub fn ids(&self) -> &RequestIds {
        &self.0.around.ids
    }

    /// The results of stored requests.
    pub fn results(&self) -> &dyn Results {
        &*self.0.around.results
    }

    /// Reserves a place for a request about to be stored; `None` if there is none.
    pub(super) fn reserve(&self) -> Option<Reserved> {
        let has_place = self.results().reserve();
        // Only after the reservation succeeded: dropping a `Reserved` gives its place back.
        has_place.then(|| Reserved { requests: self.clone(), is_kept: false })
    }

    pub(super) fn hash_key(&self) -> &HashKey {
        &self.0.around.hash_key
    }

    pub(super) fn topics(&self) -> &dyn Topics {
        &*self.0.around.topics
    }

    /// The topic that the request with this ID is in.
    pub(super) fn topic_of(&self, id: &RequestId) -> Option<Arc<dyn Target>> {
        self.0.around.topics.find(&|topic| id.is_of(topic))
    }

    /// The record at `at`; `None` if there is none.
    pub(super) async fn read(
        &self,
        target: &dyn Target,
        at: Offset,
    ) -> Result<Result<Option<OwnedRecord>, ReadError>, Undone> {
        let Some(log) = target.log() else { return Ok(Ok(None)) };
        self.0.around.pool.run(move || log.reader().get(at)).await
    }

    /// Whether a request must not be sent, because it is stored already or a spilled request of its
    /// order key waits. While the topic is not open nobody knows, so the answer is yes.
    pub(super) fn holds_back(&self, target: &dyn Target, request: &StoredRequest) -> bool {
        let knows = |key| target.opening().is_none() || target.knows(key);
        let is_stored = request.dedup_key.as_deref().is_some_and(knows);
        is_stored || request.key.as_ref().is_some_and(|key| self.waits(target, key))
    }

    /// Whether a request of `key` has to wait for a spilled one.
    fn waits(&self, target: &dyn Target, key: &[u8]) -> bool {
        self.with(target, |waiting, known| waiting.waits(self.hash(key), known))
    }

    /// Notes that a request of `key` is being stored.
    pub(super) fn begin(&self, target: &dyn Target, key: &[u8]) -> Spilling<'_> {
        let hash = self.hash(key);
        self.with(target, |waiting, known| waiting.begin(hash, known));
        Spilling { requests: self, topic: target.id(), key: hash, is_over: false }
    }

    fn with<T>(&self, target: &dyn Target, act: impl FnOnce(&mut Waiting, &Known<'_>) -> T) -> T {
        let known = Known { target, results: self.results() };
        let mut spilled = self.0.spilled.lock();
        act(spilled.entry(target.id()).or_default(), &known)
    }

    #[expect(clippy::cast_possible_truncation, reason = "half of a hash is one")]
    fn hash(&self, key: &[u8]) -> u64 {
        self.hash_key().hash(Role::Dedup, &[b"spill", key]) as u64
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").finish_non_exhaustive()
    }
}

// === impl Spilling ===

impl Spilling<'_> {
    /// The request was stored at `at`.
    pub(super) fn stored(mut self, at: Offset) {
        self.end(Stored::At(at));
    }

    fn end(&mut self, stored: Stored) {
        if !std::mem::replace(&mut self.is_over, true)
            && let Some(waiting) = self.requests.0.spilled.lock().get_mut(&self.topic)
        {
            waiting.end(self.key, stored);
        }
    }
}

impl Drop for Spilling<'_> {
    fn drop(&mut self) {
        self.end(Stored::Nowhere);
    }
}

// === impl Reserved ===

impl Reserved {
    /// The request was stored at `place`; its status can be asked for until `until`.
    pub(super) fn keep(mut self, place: Place, until: u64) {
        self.is_kept = true;
        self.requests.results().stored(place, until);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.is_kept {
            self.requests.results().give_back();
        }
    }
}

// === impl Known ===

impl Over for Known<'_> {
    fn opening(&self) -> Option<u64> {
        self.target.opening()
    }

    fn end(&self) -> Offset {
        self.target.end()
    }

    fn below(&self) -> Offset {
        self.target.settled()
    }

    fn is_over(&self, at: Offset) -> bool {
        self.results.is_over(Place { topic: self.target.id(), offset: at })
    }
}
