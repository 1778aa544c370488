//! What is known of an exchange whose request leaves a record: its idempotency key, its events, whether it
//! was repeated, and that the attempt under way goes on when its time is up, so that a late answer can be
//! written down.

use std::{fmt, sync::atomic::Ordering};

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

/// What the client is told once the time is up, until somebody takes it.
#[derive(Debug, Default)]
pub(super) struct Overtime(Mutex<Told>);

#[derive(Debug, Default)]
enum Told {
    #[default]
    NotYet,
    Failure(Error),
    Taken,
}

/// What is done for a request and is not over when its client leaves, until it is dropped.
#[derive(Debug)]
pub struct GoesOn(Context);

/// What waits for that; `None`: it is over.
#[derive(Default)]
pub(super) struct GoingOn(Option<Vec<Then>>);

/// Done once.
type Then = Box<dyn FnOnce() + Send>;

impl Context {
    /// From now on whoever bounds the time of this exchange leaves the failure here, once, and lets the
    /// attempt run on for as long again. To be called once, by who polls the attempt and looks afterwards
    /// ([`Context::take_overtime`]).
    pub fn allow_overtime(&self) {
        super::set(&self.0.overtime, Overtime::default());
    }

    /// The time is up, and the client gets what `error` makes. `false`: the attempt does not run on.
    pub fn begin_overtime(&self, error: impl FnOnce() -> Error) -> bool {
        let Some(overtime) = self.0.overtime.get() else { return false };
        let mut told = overtime.0.lock();
        if matches!(*told, Told::NotYet) {
            *told = Told::Failure(error());
        }
        true
    }

    /// Whether the time is up and the attempt runs on.
    pub fn is_overtime(&self) -> bool {
        let overtime = self.0.overtime.get();
        overtime.is_some_and(|overtime| !matches!(*overtime.0.lock(), Told::NotYet))
    }

    /// What the client is to be told, as the time is up and the attempt runs on. Once.
    pub fn take_overtime(&self) -> Option<Error> {
        let mut told = self.0.overtime.get()?.0.lock();
        if matches!(*told, Told::NotYet) {
            return None;
        }
        match std::mem::replace(&mut *told, Told::Taken) {
            Told::Failure(error) => Some(error),
            Told::NotYet | Told::Taken => None,
        }
    }

    /// An attempt that the upstream may have seen, or has answered, is followed by another.
    pub fn set_repeated(&self) {
        // Relaxed, as the read: both happen in the polls of one future.
        self.0.was_repeated.store(true, Ordering::Relaxed);
    }

    /// Whether the upstream may have seen the request before the last attempt of it.
    pub fn was_repeated(&self) -> bool {
        self.0.was_repeated.load(Ordering::Relaxed)
    }

    /// Written by `buffer`: its body is held in memory, and is as long as anybody knows of the exchange, if
    /// nobody says otherwise.
    pub fn hold_body(&self, held: Held) {
        super::set(&self.0.held, held);
    }

    /// Nobody has its body any more.
    pub fn release_body(&self) {
        self.0.held.get().inspect(|held| held.give_back());
    }

    /// It is stored, and done later: what it is answered with says nothing of what was asked for.
    pub fn set_deferred(&self) {
        // Relaxed, as the read: both happen in the polls of one future.
        self.0.is_deferred.store(true, Ordering::Relaxed);
    }

    /// Whether it is stored instead of done.
    pub fn is_deferred(&self) -> bool {
        self.0.is_deferred.load(Ordering::Relaxed)
    }

    /// The idempotency key that this request has for itself.
    pub fn rider(&self) -> Option<&Rider> {
        self.0.rider.get()
    }

    /// Written by `idempotency`.
    pub fn set_rider(&self, rider: Rider) {
        super::set(&self.0.rider, rider);
    }

    /// That the upstream honours the request's idempotency key.
    pub fn key_honoured(&self) -> Option<&KeyHonoured> {
        self.0.key_honoured.get()
    }

    /// Written by `idempotency`.
    pub fn set_key_honoured(&self, honoured: KeyHonoured) {
        super::set(&self.0.key_honoured, honoured);
    }

    /// The IDs of the events that this request led to; none until they are certain.
    pub fn event_ids(&self) -> &[Uuid] {
        self.0.event_ids.get().map_or(&[], AsRef::as_ref)
    }

    /// Written by `publish`.
    pub fn set_event_ids(&self, ids: impl IntoIterator<Item = Uuid>) {
        super::set(&self.0.event_ids, ids.into_iter().collect());
    }

    /// What the spans of its events tell. The list is locked meanwhile.
    pub fn with_publishings<R>(&self, read: impl FnOnce(&[Publishing]) -> R) -> R {
        match self.0.publishings.get() {
            Some(all) => read(&all.lock()),
            None => read(&[]),
        }
    }

    /// What is begun now for this request goes on if its client leaves. To be called once, of a sampled
    /// request only.
    pub fn go_on(&self) -> GoesOn {
        super::set(&self.0.going_on, Box::new(Mutex::new(GoingOn(Some(Vec::new())))));
        GoesOn(self.clone())
    }

    /// Does `then` once nothing goes on any more: now, most often.
    pub fn when_over(&self, then: impl FnOnce() + Send + 'static) {
        if let Some(going_on) = self.0.going_on.get() {
            let mut going_on = going_on.lock();
            if let GoingOn(Some(waiting)) = &mut *going_on {
                return waiting.push(Box::new(then));
            }
        }
        then();
    }

    /// Written by `publish`, of a sampled request only.
    pub fn add_publishings(&self, more: impl IntoIterator<Item = Publishing>) {
        self.0.publishings.get_or_init(Box::default).lock().extend(more);
    }
}

// === impl GoesOn ===

impl Drop for GoesOn {
    fn drop(&mut self) {
        let waiting = self.0.0.going_on.get().and_then(|it| it.lock().0.take());
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
