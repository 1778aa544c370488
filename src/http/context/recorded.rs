//! The facts about an exchange whose request is recorded: its idempotency key, its events, whether
//! it was repeated, and that the current attempt continues after its timeout, so that a late answer
//! can be recorded.

use std::{
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use uuid::Uuid;

use super::Context;
use crate::{
    error::Error,
    http::{
        held::Held,
        idempotency::{KeyHonoured, Rider},
    },
    telemetry::tracing::Publishing,
};

/// Allocated with the first of these facts: most exchanges have none.
#[derive(Default)]
pub(super) struct Recorded {
    event_ids: OnceLock<Box<[Uuid]>>,
    publishings: Mutex<Vec<Publishing>>,
    overtime: Overtime,
    rider: OnceLock<Rider>,
    key_honoured: OnceLock<KeyHonoured>,
    held: OnceLock<Held>,
    going_on: OnceLock<Mutex<GoingOn>>,
}

/// Whether the attempt may continue after the timeout, and the client's answer then. The flags are
/// relaxed, and spare most polls the lock: one task polls the attempt and whoever waits for it.
#[derive(Debug, Default)]
struct Overtime {
    is_allowed: AtomicBool,
    has_begun: AtomicBool,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
enum Told {
    #[default]
    NotYet,
    Failure(Error),
    Taken,
}

/// Work for a request that continues if its client leaves, until this is dropped.
#[derive(Debug)]
pub struct GoesOn(Context);

/// What waits for the end of that work; `None`: it has ended.
#[derive(Default)]
struct GoingOn(Option<Vec<Then>>);

/// Done once.
type Then = Box<dyn FnOnce() + Send>;

impl Context {
    fn recorded(&self) -> Option<&Recorded> {
        self.0.recorded.get().map(AsRef::as_ref)
    }

    fn record(&self) -> &Recorded {
        self.0.recorded.get_or_init(Box::default)
    }

    fn overtime(&self) -> Option<&Overtime> {
        self.recorded().map(|it| &it.overtime).filter(|it| it.is_allowed.load(Ordering::Relaxed))
    }

    /// Allows overtime: whoever enforces the timeout then stores the failure here, once, and lets
    /// the attempt continue for as long again. Called once, by whoever polls the attempt and checks
    /// [`Context::take_overtime`] afterwards.
    pub fn allow_overtime(&self) {
        self.record().overtime.is_allowed.store(true, Ordering::Relaxed);
    }

    /// Begins overtime: the client gets the result of `error`. `false`: overtime is not allowed.
    pub fn begin_overtime(&self, error: impl FnOnce() -> Error) -> bool {
        let Some(overtime) = self.overtime() else { return false };
        let mut told = overtime.told.lock();
        if matches!(*told, Told::NotYet) {
            *told = Told::Failure(error());
            overtime.has_begun.store(true, Ordering::Relaxed);
        }
        true
    }

    /// Whether the time is up and the attempt continues.
    pub fn is_overtime(&self) -> bool {
        self.overtime().is_some_and(|overtime| overtime.has_begun.load(Ordering::Relaxed))
    }

    /// The client's answer once the time is up and the attempt continues; returned only once.
    pub fn take_overtime(&self) -> Option<Error> {
        let overtime = self.overtime().filter(|it| it.has_begun.load(Ordering::Relaxed))?;
        match std::mem::replace(&mut *overtime.told.lock(), Told::Taken) {
            Told::Failure(error) => Some(error),
            Told::NotYet | Told::Taken => None,
        }
    }

    /// An attempt that the upstream may have seen, or has answered, is followed by another.
    pub fn set_repeated(&self) {
        // Relaxed, like the read: both happen in polls of the same future.
        self.0.was_repeated.store(true, Ordering::Relaxed);
    }

    /// Whether the upstream may have seen the request before its last attempt.
    pub fn was_repeated(&self) -> bool {
        self.0.was_repeated.load(Ordering::Relaxed)
    }

    /// Written by `buffer`: the body is held in memory, for as long as anybody has the exchange
    /// unless released earlier.
    pub fn hold_body(&self, held: Held) {
        super::set(&self.record().held, held);
    }

    /// Nobody needs the body any more.
    pub fn release_body(&self) {
        self.recorded().and_then(|it| it.held.get()).inspect(|held| held.give_back());
    }

    /// The request is stored and done later: its answer says nothing about the result.
    pub fn set_deferred(&self) {
        // Relaxed, like the read: both happen in polls of the same future.
        self.0.is_deferred.store(true, Ordering::Relaxed);
    }

    /// Whether it was stored instead of done.
    pub fn is_deferred(&self) -> bool {
        self.0.is_deferred.load(Ordering::Relaxed)
    }

    /// The idempotency key that this request has reserved.
    pub fn rider(&self) -> Option<&Rider> {
        self.recorded()?.rider.get()
    }

    /// Written by `idempotency`.
    pub fn set_rider(&self, rider: Rider) {
        super::set(&self.record().rider, rider);
    }

    /// Proof that the upstream honours the request's idempotency key.
    pub fn key_honoured(&self) -> Option<&KeyHonoured> {
        self.recorded()?.key_honoured.get()
    }

    /// Written by `idempotency`.
    pub fn set_key_honoured(&self, honoured: KeyHonoured) {
        super::set(&self.record().key_honoured, honoured);
    }

    /// The IDs of the events that this request led to; empty until they are certain.
    pub fn event_ids(&self) -> &[Uuid] {
        self.recorded().and_then(|it| it.event_ids.get()).map_or(&[], AsRef::as_ref)
    }

    /// Written by `publish`.
    pub fn set_event_ids(&self, ids: impl IntoIterator<Item = Uuid>) {
        super::set(&self.record().event_ids, ids.into_iter().collect());
    }

    /// Calls `read` with the data for the spans of its events. The list is locked meanwhile.
    pub fn with_publishings<R>(&self, read: impl FnOnce(&[Publishing]) -> R) -> R {
        match self.recorded() {
            Some(recorded) => read(&recorded.publishings.lock()),
            None => read(&[]),
        }
    }

    /// Work that begins now for this request continues if its client leaves. Call it once, for a
    /// sampled request only.
    pub fn go_on(&self) -> GoesOn {
        super::set(&self.record().going_on, Mutex::new(GoingOn(Some(Vec::new()))));
        GoesOn(self.clone())
    }

    /// Runs `then` once no such work is left; most often that is now.
    pub fn when_over(&self, then: impl FnOnce() + Send + 'static) {
        if let Some(going_on) = self.recorded().and_then(|it| it.going_on.get()) {
            let mut going_on = going_on.lock();
            if let GoingOn(Some(waiting)) = &mut *going_on {
                return waiting.push(Box::new(then));
            }
        }
        then();
    }

    /// Written by `publish`, for a sampled request only.
    pub fn add_publishings(&self, more: impl IntoIterator<Item = Publishing>) {
        self.record().publishings.lock().extend(more);
    }
}

// === impl GoesOn ===

impl Drop for GoesOn {
    fn drop(&mut self) {
        let waiting =
            self.0.recorded().and_then(|it| it.going_on.get()).and_then(|it| it.lock().0.take());
        for then in waiting.into_iter().flatten() {
            then();
        }
    }
}

impl fmt::Debug for GoingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GoingOn").field(&self.0.as_ref().map(Vec::len)).finish()
    }
}
