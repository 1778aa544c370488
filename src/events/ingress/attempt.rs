//! One attempt at a stored request, and its result.
//!
//! [`Ingress::attempt`] writes to disk that the request may be seen from now on; only then it is
//! sent. The attempt ends by [`Attempt::end`] (on disk when it returns; then the request is
//! settled) or [`Attempt::give_back`] (nothing was done). If its task or process ends first, the
//! attempt is an orphan: the request is then uncertain, unless it may safely be seen twice.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::sleep;

use super::{
    handle::Ingress,
    key_record::{has_answer, stored_answer},
    result_record::{self, STEP_BYTES},
    results::{Asked, Entry, Recorded, Verdict, is_forgotten},
};
use crate::{
    events::{
        queue::{
            Offset,
            log::{AppendError, Commit, Permit, Purpose, Reason, Refused},
        },
        request::{Place, Results, State, Status},
    },
    http::idempotency::StoredAnswer,
};

/// Reserved before a request is sent: room for its end, without the answer's body.
const END_BYTES: u64 = 4 << 10;
/// How often the body of an answer waits for room in the log,
const PATIENCE: u32 = 50;
/// and for how long each time.
const WAIT: Duration = Duration::from_millis(100);

/// A stored request to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Which one.
    pub place: Place,
    /// Its flow: 0, or a job's. A request that has ended is sent again only for a job, once for
    /// each job; one that may have been seen, only if forced.
    pub lane: u32,
    /// It may safely be seen twice.
    pub may_repeat: bool,
    /// An operator accepts that it may be seen twice.
    pub is_forced: bool,
    /// Until when its end can be asked for, in milliseconds since 1970.
    pub until: u64,
    /// When an earlier attempt began that ended without a result, as the sender knows. If that is
    /// so long ago that it is forgotten here, the request may have been seen then.
    pub left: Option<u64>,
}

/// The decision whether a request may be sent.
#[derive(Debug)]
pub enum Begun {
    /// It may be sent.
    Attempt(Attempt),
    /// Another attempt is in flight.
    Busy,
    /// It has ended with this state, and is not sent again.
    Over(State),
}

/// A request that was given up, or had ended before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// Its final state.
    pub state: State,
    /// Whether it ended by this call.
    pub is_new: bool,
}

/// An attempt that is on disk. Dropped before its end, it is an orphan.
#[derive(Debug)]
pub struct Attempt {
    guard: Guard,
    recorded: Recorded,
    /// Room for its end.
    permit: Permit,
}

/// The attempt's entry in memory.
#[derive(Debug)]
struct Guard {
    ingress: Ingress,
    place: Place,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Nothing is on disk or sent yet; holds the request's previous entry.
    Beginning(Option<Entry>),
    Begun,
    Over,
}

// === impl Ingress ===

impl Ingress {
    /// If the request may be sent, records on disk that it may be seen. After an error do not send.
    pub async fn attempt(&self, due: Due) -> Result<Begun, AppendError> {
        let verdict = match self.judge_attempt(due) {
            Verdict::Orphan(known) => {
                self.doubt(due.place, known).await?;
                // A job may still want it.
                self.judge_attempt(due)
            }
            verdict => verdict,
        };
        match verdict {
            Verdict::Begun { recorded, before } => {
                let stage = Stage::Beginning(before);
                let guard = Guard { ingress: self.clone(), place: due.place, stage };
                let room = 2 * STEP_BYTES + END_BYTES;
                let permit = self.0.log.permit_for(Purpose::Accepted, room)?;
                let attempt = Attempt { guard, recorded, permit };
                attempt.begin().await.map(Begun::Attempt)
            }
            Verdict::Unknown(asked) => {
                self.doubt(due.place, asked).await?;
                Ok(Begun::Over(State::Uncertain))
            }
            Verdict::Over(state) => Ok(Begun::Over(state)),
            Verdict::Full => {
                self.full();
                Err(Refused::new(Reason::Full).into())
            }
            Verdict::Busy | Verdict::Orphan(_) => Ok(Begun::Busy),
        }
    }

    fn judge_attempt(&self, due: Due) -> Verdict {
        let inner = &self.0;
        let others = inner.state.lock().len() + inner.keys.lock().len();
        let mut results = inner.results.lock();
        let is_full = (others + results.taken()) as u64 >= inner.max_entries;
        let Due { place, lane, may_repeat, is_forced, until, left } = due;
        let recorded = Recorded { state: State::Running, attempts: 0, lane, may_repeat, until };
        let asked = Asked { recorded, is_forced, left };
        // Under the lock, so that whoever computes how far back the log is needed sees the attempt.
        match results.begin(place, asked, (inner.log.durable(), self.clock().0)) {
            Verdict::Begun { before: None, .. } if is_full => {
                results.give_back(place, None);
                Verdict::Full
            }
            verdict => verdict,
        }
    }

    /// Records an attempt with no known result as uncertain. On disk when this returns.
    async fn doubt(&self, place: Place, known: Recorded) -> Result<(), AppendError> {
        let recorded = Recorded { state: State::Uncertain, ..known };
        let permit = self.0.log.permit_for(Purpose::Accepted, STEP_BYTES)?;
        let at = self.write(permit, place, recorded, None).await?;
        self.doubted(place, recorded, at.first().map_or(Offset::ZERO, |first| first.offset));
        Ok(())
    }

    fn doubted(&self, place: Place, recorded: Recorded, at: Offset) {
        let wall = self.clock().0;
        if self.0.results.lock().record_orphan(place, recorded, at, wall) {
            self.tell(place, recorded.state);
        }
    }

    fn tell(&self, place: Place, state: State) {
        if state == State::Uncertain {
            self.0.uncertain.fetch_add(1, Relaxed);
        }
        self.0.waiters.ring(place);
    }

    /// Ends orphaned attempts: a request that may have been seen is uncertain, the rest wait for
    /// another attempt. Call it before anything is delivered, too: what it records about an attempt
    /// must precede the next one. Blocks.
    pub fn resolve_attempts(&self) -> Result<(), AppendError> {
        if self.is_offline() {
            return Ok(());
        }
        let orphans = self.0.results.lock().orphans();
        for (place, known) in orphans {
            let state = if known.may_repeat { State::Queued } else { State::Uncertain };
            let recorded = Recorded { state, ..known };
            let permit = self.0.log.permit_for(Purpose::Accepted, STEP_BYTES)?;
            let appended = self.write(permit, place, recorded, None).wait()?;
            let at = appended.first().map_or(Offset::ZERO, |first| first.offset);
            self.doubted(place, recorded, at);
        }
        Ok(())
    }

    /// Records that a request was given up, and returns its final state; on disk when this returns.
    /// An end that is already known stays. `is_maybe_seen`: the caller knows that the request may
    /// have been seen.
    pub async fn conclude(&self, due: Due, is_maybe_seen: bool) -> Result<GivenUp, AppendError> {
        let known = self.0.results.lock().get(due.place).map(|entry| entry.recorded);
        if let Some(known) = known.filter(|known| known.state.is_over()) {
            return Ok(GivenUp { state: known.state, is_new: false });
        }
        let known = known.filter(|known| known.is_known());
        let Due { place, lane, may_repeat, until, left, .. } = due;
        let attempts = known.map_or(0, |known| known.attempts);
        let is_uncertain = match known {
            Some(known) => known.state == State::Running && !known.may_repeat,
            None => !may_repeat && left.is_some_and(|left| is_forgotten(left, self.clock().0)),
        };
        let is_uncertain = is_uncertain || is_maybe_seen;
        let state = if is_uncertain { State::Uncertain } else { State::DeadLettered };
        let recorded = Recorded { state, attempts, lane, may_repeat, until };
        let permit = self.0.log.permit_for(Purpose::Accepted, STEP_BYTES)?;
        let appended = self.write(permit, place, recorded, None).await?;
        self.recorded(place, recorded, appended.first().map(|first| first.offset));
        Ok(GivenUp { state, is_new: true })
    }

    /// Like [`Ingress::conclude`], for a request that can no longer be read.
    pub async fn conclude_lost(&self, place: Place) -> Result<GivenUp, AppendError> {
        let known = self.0.results.lock().get(place).map(|entry| entry.recorded);
        let Recorded { lane, may_repeat, until, .. } = known.unwrap_or(Recorded {
            state: State::Queued,
            attempts: 0,
            lane: 0,
            may_repeat: false,
            until: 0,
        });
        let due = Due { place, lane, may_repeat, is_forced: false, until, left: None };
        self.conclude(due, false).await
    }

    fn write(
        &self,
        permit: Permit,
        place: Place,
        recorded: Recorded,
        answer: Option<&StoredAnswer>,
    ) -> Commit {
        self.0.log.append(permit, vec![result_record::draft(place, recorded, answer)])
    }

    fn recorded(&self, place: Place, recorded: Recorded, at: Option<Offset>) {
        let wall = self.clock().0;
        self.0.results.lock().record(place, recorded, at.unwrap_or_default(), wall);
        self.tell(place, recorded.state);
    }

    async fn stored_result(&self, at: Offset) -> Option<StoredAnswer> {
        let mut reader = self.0.log.reader();
        let read = self.0.pool.run(move || reader.get(at)).await.ok()?.ok()??;
        let record = read.record().filter(has_answer)?;
        Some(stored_answer(&record, |bytes| read.slice(bytes)))
    }
}

impl Results for Ingress {
    fn status(&self, place: Place) -> BoxFuture<'_, Status> {
        let known = self.0.results.lock().get(place).copied();
        async move {
            let Some(Entry { recorded, at, .. }) = known else {
                return Status { state: State::Queued, attempts: 0, answer: None };
            };
            let Recorded { state, attempts, .. } = recorded;
            let is_answered = matches!(state, State::Succeeded | State::Failed);
            let answer = if is_answered { self.stored_result(at).await } else { None };
            Status { state, attempts, answer }
        }
        .boxed()
    }

    fn changed(&self, place: Place) -> BoxFuture<'static, ()> {
        self.0.waiters.changed(place).boxed()
    }

    fn is_winding_down(&self) -> bool {
        self.0.is_winding_down.load(Relaxed)
    }

    fn is_offline(&self) -> bool {
        self.0.log.is_offline()
    }

    fn is_past(&self, at: u64) -> bool {
        self.clock().1 >= at
    }

    fn reserve(&self) -> bool {
        self.reserve_place()
    }

    fn stored(&self, place: Place, until: u64) {
        let wall = self.clock().0;
        self.0.results.lock().stored(place, until, wall);
    }

    fn give_back(&self) {
        self.0.results.lock().release();
    }

    fn is_over(&self, place: Place) -> bool {
        let results = self.0.results.lock();
        results.get(place).is_some_and(|entry| entry.recorded.state.is_over())
    }
}

// === impl Attempt ===

impl Attempt {
    async fn begin(mut self) -> Result<Self, AppendError> {
        let own = self.permit.split(STEP_BYTES).ok_or(Refused::new(Reason::TooLarge))?;
        let Guard { ingress, place, .. } = &self.guard;
        let appended = ingress.write(own, *place, self.recorded, None).await?;
        if let Some(first) = appended.first() {
            ingress.0.results.lock().placed(*place, first.offset);
        }
        ingress.0.waiters.ring(*place);
        self.guard.stage = Stage::Begun;
        Ok(self)
    }

    /// The number of the attempt, from 1.
    pub fn number(&self) -> u32 {
        self.recorded.attempts
    }

    /// Writes how the request ended; on disk when this returns, and only then may the request be
    /// settled. After an error the end still has to be written. If there is no room for the
    /// answer's body, not even after a while, the end is written without it.
    pub async fn end(
        &mut self,
        state: State,
        answer: Option<&StoredAnswer>,
    ) -> Result<(), AppendError> {
        let recorded = Recorded { state, ..self.recorded };
        let (permit, shortened) = self.room(recorded, answer).await?;
        let Guard { ingress, place, .. } = &self.guard;
        let answer = shortened.as_ref().or(answer);
        let appended = ingress.write(permit, *place, recorded, answer).await?;
        ingress.recorded(*place, recorded, appended.first().map(|first| first.offset));
        self.guard.stage = Stage::Over;
        Ok(())
    }

    /// Takes room for the end, and cuts the answer if there is not enough.
    async fn room(
        &mut self,
        recorded: Recorded,
        answer: Option<&StoredAnswer>,
    ) -> Result<(Permit, Option<StoredAnswer>), Refused> {
        let Guard { ingress, place, .. } = &self.guard;
        let bytes = result_record::draft(*place, recorded, answer).encoded_bytes() as u64;
        let log = &ingress.0.log;
        for _ in 0..PATIENCE {
            if let Some(permit) = self.permit.split(bytes) {
                return Ok((permit, None));
            }
            if let Ok(permit) = log.permit_for(Purpose::Accepted, bytes) {
                return Ok((permit, None));
            }
            sleep(WAIT).await;
        }
        let bare = |answer: &StoredAnswer| StoredAnswer {
            status: answer.status,
            headers: http::HeaderMap::new(),
            body: None,
        };
        let permit = self.permit.split(STEP_BYTES).ok_or(Refused::new(Reason::TooLarge))?;
        Ok((permit, answer.map(bare)))
    }

    /// Nothing was done; the request waits for another attempt. Does not wait for the disk: if the
    /// record is lost to a crash, the request is found uncertain, which is always safe.
    pub fn give_back(mut self) {
        let recorded = Recorded { state: State::Queued, ..self.recorded };
        if let Some(own) = self.permit.split(STEP_BYTES) {
            let Guard { ingress, place, .. } = &self.guard;
            let draft = result_record::draft(*place, recorded, None);
            drop(ingress.0.log.append_unwaited(own, vec![draft]));
            ingress.recorded(*place, recorded, None);
            self.guard.stage = Stage::Over;
        }
    }
}

// === impl Guard ===

impl Drop for Guard {
    fn drop(&mut self) {
        let mut results = self.ingress.0.results.lock();
        match self.stage {
            Stage::Beginning(before) => results.give_back(self.place, before),
            Stage::Begun => results.abandon(self.place),
            Stage::Over => {}
        }
    }
}
