//! A request's hold on its key, and the store that remembers keys.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering::Relaxed},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use uuid::Uuid;

use super::{
    handle::Ingress,
    key_record::{self, Claim, Claimed},
    keys::{Entry, KeyHash, KeyState, Mark, Moment, Verdict},
    record::{About, SMALL},
};
use crate::{
    error::QueueFault,
    events::{
        event::derived_id,
        queue::{
            Offset,
            codec::{Draft, Role},
            log::{AppendError, Purpose, Reason, Refused},
        },
    },
    http::idempotency::{IdempotencyStore, Judgement, Keyed, StoredAnswer},
};

/// Namespace for the IDs of events that follow from a keyed request.
const EVENTS: Uuid = Uuid::from_u128(0x3f0c_6f4e_5b1a_4f6e_9d6d_0a7c_5e1b_2d90);

/// Bytes of an answer's body that are stored, at most.
pub const MAX_STORED_BYTES: u64 = 64 << 10;
/// Maximum number of keys listed.
const LISTED: usize = 1_000;

/// A request's hold on its key, carried in the request's context.
///
/// Dropped before it was recorded, it restores the key's state; recorded, it ends with its exchange.
#[derive(Debug)]
pub struct Key {
    ingress: Ingress,
    hash: KeyHash,
    keyed: Keyed,
    expires: u64,
    before: Option<Entry>,
    stage: AtomicU8,
}

/// Stages of a key. Relaxed: only one exchange uses it.
const HELD: u8 = 0;
const RECORDED: u8 = 1;
const OVER: u8 = 2;

/// A key whose outcome is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UncertainKey {
    /// Its ID, for operators.
    pub id: String,
    /// The request it belongs to.
    pub request: Claimed,
}

/// The key does not exist, or its outcome is not unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUncertain;

// === impl Key ===

impl Key {
    /// Bytes of its claim.
    pub fn begin_bytes(&self, about: About<'_>) -> u64 {
        key_record::claim_bytes(&self.keyed, about)
    }

    /// The most bytes of its result, including the answer's fields.
    pub const ANSWER_BYTES: u64 = MAX_STORED_BYTES + (32 << 10);

    pub(super) fn claim(&self, about: About<'_>) -> Draft {
        key_record::claim(&self.keyed, self.hash, self.expires, about)
    }

    /// The claim, to be repeated in the record of the result.
    pub(super) fn claimed(&self) -> Claim {
        let fingerprint = key_record::short(&self.keyed.fingerprint).unwrap_or(0);
        Claim { hash: self.hash, fingerprint, expires: self.expires }
    }

    /// Its claim is on disk at this offset.
    pub(super) fn recorded(&self, at: Offset) {
        self.stage.store(RECORDED, Relaxed);
        self.ingress.0.keys.lock().placed(self.hash, at);
    }

    /// Its result is on disk at this offset.
    pub(super) fn over(&self, mark: Mark, at: Offset) {
        self.stage.store(OVER, Relaxed);
        self.ingress.0.keys.lock().mark(self.hash, mark, at);
    }

    /// Nothing was sent: restores the key's previous state.
    pub fn release(&self) {
        if self.stage.compare_exchange(HELD, OVER, Relaxed, Relaxed).is_ok() {
            self.ingress.0.keys.lock().give_back(self.hash, self.before);
        }
    }

    /// Time is up with an unknown outcome; a late answer may still decide it.
    pub fn doubt(&self) {
        if self.stage.load(Relaxed) == RECORDED {
            self.ingress.0.keys.lock().mark(self.hash, Mark::Uncertain, Offset::ZERO);
        }
    }

    /// The ID of an event of its request, the same for each repetition.
    pub fn event_id(&self, index: usize) -> Uuid {
        let Keyed { route, principal, key, .. } = &self.keyed;
        derived_id(EVENTS, &[route, principal, key, &index.to_string()])
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.release();
    }
}

// === impl Ingress ===

impl Ingress {
    fn key_hash(&self, keyed: &Keyed) -> KeyHash {
        let parts = [&*keyed.route, &*keyed.principal, &*keyed.key].map(str::as_bytes);
        self.0.hash_key.hash(Role::Idempotency, &parts)
    }

    fn judge_now(&self, keyed: Keyed) -> Result<Result<Key, Verdict>, QueueFault> {
        let inner = &self.0;
        let hash = self.key_hash(&keyed);
        let ttl = u64::try_from(keyed.ttl.as_millis()).unwrap_or(u64::MAX);
        let (wall, now) = self.clock();
        let expires = wall.saturating_add(ttl);
        let fingerprint = key_record::short(&keyed.fingerprint).unwrap_or(0);
        let taken = inner.state.lock().len() + inner.results.lock().spoken_for();
        let mut keys = inner.keys.lock();
        let is_full = (taken + keys.len()) as u64 >= inner.max_entries;
        if is_full && keys.get(hash).is_none() {
            self.full();
            return Err(full());
        }
        let moment = Moment { wall, now, ttl };
        let verdict = keys.judge(hash, fingerprint, keyed.may_resend, moment);
        drop(keys);
        let Verdict::New(before) = verdict else { return Ok(Err(verdict)) };
        let (ingress, stage) = (self.clone(), AtomicU8::new(HELD));
        Ok(Ok(Key { ingress, hash, keyed, expires, before, stage }))
    }

    async fn stored(&self, at: Offset) -> Option<StoredAnswer> {
        let mut reader = self.0.log.reader();
        let read = self.0.pool.run(move || reader.get(at)).await.ok()?.ok()??;
        let record = read.record()?;
        Some(key_record::stored_answer(&record, |bytes| read.slice(bytes)))
    }

    /// Keys with an unknown outcome, up to a bound, the first to expire first. If the claim was
    /// lost to damage, only ID and expiry are known. Blocks.
    pub fn uncertain_keys(&self) -> Vec<UncertainKey> {
        let found: Vec<_> = {
            let keys = self.0.keys.lock();
            keys.uncertain().take(LISTED).map(|(hash, entry)| (hash, *entry)).collect()
        };
        let mut reader = self.0.log.reader();
        let key = |(hash, entry): (KeyHash, Entry)| {
            let read = reader.get(entry.claim).ok().flatten();
            let claimed = read.and_then(|it| key_record::claimed_as(&it.record()?, hash));
            let lost = Claimed { expires: entry.expires, ..Claimed::default() };
            UncertainKey { id: format!("{hash:032x}"), request: claimed.unwrap_or(lost) }
        };
        found.into_iter().map(key).collect()
    }

    /// Records an operator's decision whether a key's request was done. On disk when this returns.
    pub async fn resolve_key(
        &self,
        id: &str,
        is_done: bool,
    ) -> Result<Result<(), NotUncertain>, AppendError> {
        let Ok(hash) = KeyHash::from_str_radix(id, 16) else { return Ok(Err(NotUncertain)) };
        let known = self.0.keys.lock().get(hash).copied();
        let is_uncertain = |entry: &Entry| entry.state == KeyState::Uncertain;
        let Some(Entry { fingerprint, expires, .. }) = known.filter(is_uncertain) else {
            return Ok(Err(NotUncertain));
        };
        let claim = Claim { hash, fingerprint, expires };
        let mark = if is_done { Mark::Done } else { Mark::Free };
        let permit = self.0.log.permit_for(Purpose::Accepted, SMALL)?;
        let appended = self.0.log.append(permit, vec![key_record::resolution(claim, mark)]).await?;
        let at = appended.first().map_or(Offset::ZERO, |first| first.offset);
        self.0.keys.lock().mark(hash, mark, at);
        Ok(Ok(()))
    }
}

impl IdempotencyStore for Ingress {
    fn judge(&self, keyed: Keyed) -> BoxFuture<'_, Result<Judgement, QueueFault>> {
        async move {
            Ok(match self.judge_now(keyed)? {
                Ok(key) => Judgement::New(Arc::new(key)),
                Err(Verdict::Mismatch) => Judgement::Mismatch,
                Err(Verdict::Uncertain) => Judgement::Uncertain,
                Err(Verdict::Done { at }) => match self.stored(at).await {
                    Some(answer) => Judgement::Done(answer),
                    // It was done but its answer cannot be read: it must not be done again.
                    None => return Err(unreadable()),
                },
                Err(Verdict::Running | Verdict::New(_)) => Judgement::Running,
            })
        }
        .boxed()
    }
}

fn full() -> QueueFault {
    QueueFault::Full(Refused::new(Reason::Full).retry_after.unwrap_or_default())
}

fn unreadable() -> QueueFault {
    QueueFault::Unavailable(Refused::new(Reason::Offline).retry_after.unwrap_or_default())
}
