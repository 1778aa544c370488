//! One exchange, from its reservation to its end.

use std::{
    borrow::Borrow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use super::{
    handle::Ingress,
    key::Key,
    key_record::KeyEnd,
    keys::Mark,
    record::{self, About, Owed},
    state::{Id, Stage},
    target::Target,
};
use crate::events::queue::{
    Offset,
    codec::Draft,
    log::{AppendError, Later, Permit, Reason, Refused, Watch},
};

/// Room for everything an exchange may write. Dropping it gives the room back.
#[derive(Debug)]
pub struct Room {
    entry: Entry,
    permit: Permit,
    begin: u64,
    key: Option<Bound>,
}

/// An exchange whose intents are on disk. Dropped before its end, it is resolved as uncertain.
#[derive(Debug)]
pub struct Exchange {
    entry: Entry,
    /// Room for the answer.
    permit: Permit,
    at: Offset,
    intents: u16,
    key: Option<Bound>,
}

/// A key bound to its exchange: released if nothing was written, uncertain if no result is
/// recorded.
#[derive(Debug)]
pub(super) struct Bound(pub(super) Arc<Key>);

/// No event.
const NOTHING: &[Owed] = &[];

/// The result of an exchange.
#[derive(Clone, Debug)]
pub struct Answer<'a> {
    /// Nobody knows what happened, and the events say so ([`record::uncertain`]).
    pub is_uncertain: bool,
    /// The events that follow.
    pub owed: Vec<&'a Owed>,
    /// The result of the request's key, if it has one.
    pub key: Option<KeyEnd>,
}

/// Owed events on their way to their topics; over when the last append has reported.
#[derive(Debug)]
struct Settling {
    entry: Entry,
    /// Whether some event was not appended.
    is_kept: AtomicBool,
}

/// The exchange's entry in memory; dropped unfinished, it is left for recovery.
#[derive(Debug)]
struct Entry {
    ingress: Ingress,
    id: Id,
}

// === impl Room ===

impl Room {
    pub(super) fn new(
        ingress: Ingress,
        id: Id,
        permit: Permit,
        begin: u64,
        key: Option<Bound>,
    ) -> Self {
        Self { entry: Entry { ingress, id }, permit, begin, key }
    }

    /// Writes the intents: when this returns they are on disk and the request may be sent. On an
    /// error it must not be sent.
    ///
    /// If dropped before it completes, nothing was sent and nothing is owed.
    pub async fn begin(
        self,
        intents: &[impl Borrow<Owed>],
        about: About<'_>,
    ) -> Result<Exchange, AppendError> {
        let Self { entry, mut permit, begin, key } = self;
        let claim = key.as_ref().map(|key| key.0.claim(about));
        let first = u16::from(claim.is_some());
        let intents = (first..).zip(intents).map(|(index, it)| it.borrow().intent(index, about));
        let drafts: Vec<Draft> = claim.into_iter().chain(intents).collect();
        let count = u16::try_from(drafts.len()).unwrap_or(u16::MAX);
        let too_large = Refused::new(Reason::TooLarge);
        let own = permit.split(begin).ok_or(too_large)?;
        let log = &entry.ingress.0.log;
        let appended = log.append(own, drafts).await?;
        let at = appended.first().map(|first| first.offset).ok_or(AppendError::Unknown)?;
        entry.set(Stage::Begun { at, intents: count });
        if let Some(key) = &key {
            key.0.recorded(at);
        }
        Ok(Exchange { entry, permit, at, intents: count, key })
    }
}

// === impl Exchange ===

impl Exchange {
    /// Writes what happened and which events are owed, in one frame; on disk when this returns.
    ///
    /// After an error, drop the exchange: it is uncertain.
    pub async fn answer(&mut self, answer: Answer<'_>) -> Result<(), AppendError> {
        let (at, intents) = (self.at, self.intents);
        let Answer { is_uncertain, owed, key: end } = answer;
        // A key always gets a result.
        let end = end.unwrap_or(KeyEnd::Uncertain);
        let key = self.key.as_ref().map(|key| (key, &end));
        let marked = key.map(|(key, end)| (key.0.claimed(), end));
        let drafts = record::answer(at, is_uncertain, &owed, marked);
        let bytes = drafts.iter().map(|draft| draft.encoded_bytes() as u64).sum();
        let own = self.permit.split(bytes).ok_or(Refused::new(Reason::TooLarge))?;
        let entry = &self.entry;
        let commit = entry.ingress.0.log.append(own, drafts);
        // From here on the frame may be on disk, whatever becomes of this future.
        entry.set(Stage::InDoubt { at, intents });
        let appended = match commit.await {
            Ok(appended) => appended,
            Err(error) => {
                if !matches!(error, AppendError::Unknown) {
                    entry.set(Stage::Begun { at, intents });
                }
                return Err(error);
            }
        };
        let written = appended.first().map_or(at, |first| first.offset);
        if let Some((key, end)) = key {
            key.0.over(end.mark(), written);
        }
        let first = written.plus(1);
        entry.set(Stage::Owing { first, count: u16::try_from(owed.len()).unwrap_or(u16::MAX) });
        if is_uncertain {
            entry.ingress.0.uncertain.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// Whether an idempotency key is bound to it.
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Ends the exchange without events and frees its key. Does not wait for the disk: if the
    /// record is lost to a crash, the exchange is found uncertain, which is always safe.
    pub fn close(mut self) {
        let key = self.key.as_ref().map(|key| (key.0.claimed(), &KeyEnd::Free));
        let drafts = record::answer(self.at, false, NOTHING, key);
        let bytes = drafts.iter().map(|draft| draft.encoded_bytes() as u64).sum();
        if let Some(own) = self.permit.split(bytes) {
            let log = &self.entry.ingress.0.log;
            log.append_later(own, drafts, Later::Forgets).ok();
            self.entry.end();
            if let Some(key) = &self.key {
                key.0.over(Mark::Free, self.at);
            }
        }
    }

    /// Appends the owed events to their topics, and ends when they are on disk there. Nobody waits
    /// for this. If a topic refuses an event now, it gets it later: the debt is on disk.
    pub fn settle(self, owed: Vec<(Arc<dyn Target>, Permit, Draft)>) {
        let settling = Arc::new(Settling { entry: self.entry, is_kept: AtomicBool::new(false) });
        for (target, permit, record) in owed {
            let later = Later::IsWatched { by: settling.clone(), goes_on: true };
            if let Err(refused) = target.append_later(permit, vec![record], later) {
                settling.keep(&refused.into());
            }
        }
    }
}

// === impl Settling ===

impl Settling {
    fn keep(&self, error: &AppendError) {
        tracing::warn!(%error, "a topic refused an event of a request: the event is kept and appended later");
        self.is_kept.store(true, Relaxed);
    }
}

impl Watch for Settling {
    fn failed(&self, error: AppendError) {
        self.keep(&error);
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        // The last append to report: the `Arc`'s counter orders what the others have stored.
        if !self.is_kept.load(Relaxed) {
            self.entry.end();
        }
    }
}

// === impl Entry ===

impl Entry {
    fn set(&self, stage: Stage) {
        self.ingress.0.state.lock().set(self.id, stage);
    }

    /// Nothing is owed.
    fn end(&self) {
        self.ingress.0.state.lock().end(self.id);
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // Releases the key, or leaves it as recorded.
        self.0.release();
        self.0.doubt();
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // After a regular end the entry is gone, and this does nothing.
        self.ingress.0.state.lock().abandon(self.id);
    }
}
