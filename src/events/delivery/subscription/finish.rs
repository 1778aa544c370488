//! The end of an event: outcome, dead letter, follower, settlement, in this order.

use bytes::Bytes;

use super::{
    effect::{Conclusion, Effect, Letter, Publication},
    ending::{Ending, Failure, FailureKind, Outcome, Reason},
    entry::{Entry, LapsedEvent, Mode, Removal},
    machine::{Machine, Output},
    place::Place,
    settings::{Fate, Moment, mix},
    slab::NONE,
    state::EventStatus as Status,
};
use crate::events::queue::Offset;

impl Machine {
    /// Call this once after [`Machine::restore`] and the journal's entries, before anything else:
    /// pushes that were in flight ended without a result, and events with an outcome are completed.
    pub fn recover(&mut self, moment: &Moment, out: &mut Output) {
        let mut pushed = Vec::new();
        let mut ending = Vec::new();
        for lane in self.lanes.values() {
            for &index in lane.parts.values().flat_map(|part| part.events.values()) {
                match &self.slab[index].status {
                    Status::InFlight { deadline: None, .. } => pushed.push(index),
                    Status::Ending { .. } => ending.push(index),
                    _ => {}
                }
            }
        }
        self.tally.is_circuit_open.set(self.outage.open.is_some());
        self.lapse_all(moment, pushed, out);
        for index in ending {
            self.proceed(index, moment.now, true, out);
        }
        let lanes: Vec<_> = self.lanes.keys().copied().collect();
        for lane in lanes {
            self.end_if_done(lane, moment.now, out);
        }
    }

    /// The dead letter of an event is synced. It says why the event died, which may be known better
    /// than when the outcome was written.
    pub fn dead_lettered(
        &mut self,
        moment: &Moment,
        place: Place,
        reason: Reason,
        (letter, bytes): (Offset, u32),
        out: &mut Output,
    ) {
        let Some(index) = self.find(place) else { return };
        let Status::Ending { outcome, letter: None } = &self.slab[index].status else { return };
        if outcome.dead_letter.is_none() {
            return;
        }
        self.amend(index, Ending::DeadLettered(reason), out);
        self.commit(out, Entry::DeadLettered { place, letter, bytes });
        self.proceed(index, moment.now, false, out);
    }

    /// The end of an event that was given up was reported; its reason may be known better by then.
    pub fn concluded(
        &mut self,
        moment: &Moment,
        (place, is_recovered): (Place, bool),
        reason: Reason,
        out: &mut Output,
    ) {
        let Some(index) = self.find(place) else { return };
        let Status::Ending { outcome, letter: None } = &self.slab[index].status else { return };
        let ending = match outcome.ending {
            Ending::Discarded(_) => Ending::Discarded(reason),
            Ending::Failed(_) => Ending::Failed(reason),
            Ending::Succeeded | Ending::DeadLettered(_) => return,
        };
        self.amend(index, ending, out);
        self.follow(index, moment.now, is_recovered, out);
    }

    /// Rewrites an outcome if the ending differs.
    fn amend(&mut self, index: u32, ending: Ending, out: &mut Output) {
        let Status::Ending { outcome, .. } = &self.slab[index].status else { return };
        if outcome.ending != ending {
            let outcome = Outcome { ending, ..(**outcome).clone() };
            self.commit(out, Entry::Outcome(outcome));
        }
    }

    /// The event that follows from another is synced.
    pub fn published(&mut self, moment: &Moment, place: Place, out: &mut Output) {
        let Some(index) = self.find(place) else { return };
        let Status::Ending { outcome, letter } = &self.slab[index].status else { return };
        if outcome.publish.is_some() && (outcome.dead_letter.is_none() || letter.is_some()) {
            let ending = outcome.ending;
            self.over(moment.now, ending, place, out);
        }
    }

    /// Takes the next step for an event with an outcome.
    fn proceed(&mut self, index: u32, now: u64, is_recovered: bool, out: &mut Output) {
        let slot = &self.slab[index];
        let Status::Ending { outcome, letter } = &slot.status else { return };
        let (place, parked, letter) = (slot.place, slot.parked, *letter);
        let left = slot.left();
        if let (Some(target), None, Ending::DeadLettered(reason)) =
            (outcome.dead_letter, letter, outcome.ending)
        {
            out.effects.push(Effect::DeadLetter(Letter {
                place,
                parked,
                reason,
                attempts: slot.counted,
                first_attempt: slot.first,
                at: outcome.at,
                failure: slot.failure.as_deref().cloned(),
                left,
                target,
                is_compensated: outcome.publish.is_some(),
                is_recovered,
            }));
        } else if let Ending::Discarded(reason) | Ending::Failed(reason) = outcome.ending
            && self.settings.tells_ends
        {
            let conclusion = Conclusion { place, parked, reason, left, is_recovered };
            out.effects.push(Effect::Conclude(conclusion));
        } else {
            self.follow(index, now, is_recovered, out);
        }
    }

    /// Takes the last step for an event with an outcome.
    fn follow(&mut self, index: u32, now: u64, is_recovered: bool, out: &mut Output) {
        let slot = &self.slab[index];
        let Status::Ending { outcome, letter } = &slot.status else { return };
        let (place, parked, letter) = (slot.place, slot.parked, *letter);
        if let Some(target) = outcome.publish {
            out.effects.push(Effect::Publish(Publication {
                place,
                parked,
                letter,
                ending: outcome.ending,
                answer: outcome.answer.clone(),
                target,
                is_recovered,
            }));
        } else {
            let ending = outcome.ending;
            self.over(now, ending, place, out);
        }
    }

    /// Settles an event; consecutive ones with the same ending share an entry.
    pub(super) fn over(&mut self, at: u64, ending: Ending, place: Place, out: &mut Output) {
        self.count_ending(at, ending, place);
        self.settle(ending, place);
        match out.entries.last_mut() {
            Some(Entry::Settled { at: other, ending: also, events })
                if *other == at && *also == ending =>
            {
                events.push(place);
            }
            _ => out.entries.push(Entry::Settled { at, ending, events: vec![place] }),
        }
        if place.lane.is_live() {
            return;
        }
        let is_redrive = self
            .lanes
            .get(&place.lane)
            .and_then(|lane| lane.job.as_ref())
            .is_some_and(super::Job::is_redrive);
        if is_redrive && ending == Ending::Succeeded {
            let letters = vec![place.offset];
            self.commit(out, Entry::LettersRemoved { removal: Removal::Delivered, letters });
        }
        self.end_if_done(place.lane, at, out);
    }

    /// Whether this event may have a follower at all.
    fn publishes(&self, place: Place) -> bool {
        let job = self.lanes.get(&place.lane).and_then(|lane| lane.job.as_ref());
        job.is_none_or(|job| job.publishes)
    }

    /// An event was delivered.
    pub(super) fn succeed(
        &mut self,
        moment: &Moment,
        index: u32,
        answer: Option<Bytes>,
        out: &mut Output,
    ) {
        let place = self.slab[index].place;
        if !self.settings.publishes_success || !self.publishes(place) {
            self.over(moment.now, Ending::Succeeded, place, out);
            return;
        }
        let outcome = Outcome {
            at: moment.now,
            place,
            ending: Ending::Succeeded,
            dead_letter: None,
            publish: Some(moment.targets.success),
            failure: None,
            answer,
        };
        self.commit(out, Entry::Outcome(outcome));
        self.proceed(index, moment.now, false, out);
    }

    /// Gives up an event. `is_own_expiry`: because its own expiry has passed.
    pub(super) fn give_up(
        &mut self,
        moment: &Moment,
        index: u32,
        (reason, is_own_expiry): (Reason, bool),
        failure: Option<Failure>,
        out: &mut Output,
    ) {
        let place = self.slab[index].place;
        let has_key = self.slab[index].key.is_some();
        let fate = self.settings.fate(reason, is_own_expiry, has_key);
        let ending = match fate {
            _ if !place.lane.is_live() => Ending::Failed(reason),
            Fate::DeadLetter => Ending::DeadLettered(reason),
            Fate::Discard => Ending::Discarded(reason),
            Fate::Block => {
                self.commit(out, Entry::Blocked { at: moment.now, place, reason, failure });
                return;
            }
        };
        self.close(moment, index, ending, failure, out);
    }

    /// Ends an event that nobody took.
    pub(super) fn close(
        &mut self,
        moment: &Moment,
        index: u32,
        ending: Ending,
        failure: Option<Failure>,
        out: &mut Output,
    ) {
        let place = self.slab[index].place;
        let is_published = self.settings.publishes_failure && self.publishes(place);
        let outcome = Outcome {
            // A clock that was set back must not make a dead letter old at once when it is right.
            at: moment.now.max(moment.judged),
            place,
            ending,
            dead_letter: matches!(ending, Ending::DeadLettered(_))
                .then_some(moment.targets.letters),
            publish: is_published.then_some(moment.targets.failure),
            failure,
            answer: None,
        };
        self.commit(out, Entry::Outcome(outcome));
        self.proceed(index, moment.now, false, out);
    }

    /// Why an event gets no other attempt after a failed one, if so.
    pub(super) fn worn_out(&self, index: u32, now: u64, reason: Reason) -> Option<Reason> {
        let slot = &self.slab[index];
        if slot.counted >= self.settings.max_attempts {
            return Some(reason);
        }
        let is_silent = reason == Reason::LeaseExpiredLimit;
        let aged = if is_silent { reason } else { Reason::Expired };
        slot.is_aged(self.settings.max_age, now).then_some(aged)
    }

    /// When an event is retried after a failed attempt, at least `apart` from now.
    pub(super) fn again_at(&self, moment: &Moment, index: u32, apart: u64) -> u64 {
        let slot = &self.slab[index];
        let random = mix(moment.random, slot.place.offset.0 ^ u64::from(slot.attempts) << 48);
        let delay = self.settings.delay(slot.failures.saturating_add(1), random).max(apart);
        let first = slot.first.unwrap_or(moment.now);
        let last =
            first.saturating_add(self.settings.max_age).max(moment.now.saturating_add(apart));
        moment.now.saturating_add(delay).min(last)
    }

    /// Attempts ended without a result. Events behind them in a run of their key go back too.
    pub(super) fn lapse_all(&mut self, moment: &Moment, mut lapsed: Vec<u32>, out: &mut Output) {
        if lapsed.is_empty() {
            return;
        }
        let now = moment.now;
        lapsed.sort_unstable_by_key(|&index| self.slab[index].place);
        let was_alone: Vec<bool> = lapsed
            .iter()
            .map(|&index| match self.slab[index].status {
                Status::InFlight { mode, .. } => mode != Mode::Shared,
                _ => false,
            })
            .collect();
        let events = lapsed
            .iter()
            .map(|&index| LapsedEvent {
                place: self.slab[index].place,
                until: self.again_at(moment, index, 0),
            })
            .collect();
        self.commit(out, Entry::Lapsed { at: now, events });
        for &index in &lapsed {
            self.release_behind(index, out);
        }
        for (index, was_alone) in lapsed.into_iter().zip(was_alone) {
            // In a shared delivery other events may be to blame.
            if !was_alone {
                continue;
            }
            if let Some(reason) = self.worn_out(index, now, Reason::LeaseExpiredLimit) {
                let failure = Failure::new(FailureKind::Lapsed, None, None);
                self.give_up(moment, index, (reason, false), Some(failure), out);
            }
        }
    }

    /// Takes back, uncounted, what is in flight behind this event in its key and lane.
    pub(super) fn release_behind(&mut self, index: u32, out: &mut Output) {
        let mut left = self.keys.in_flight(self.slab[index].key);
        let mut events = Vec::new();
        let mut next = self.slab[index].next;
        while next != NONE && left > 0 {
            if self.slab[next].is_in_flight() {
                events.push(self.slab[next].place);
                left -= 1;
            }
            next = self.slab[next].next;
        }
        if !events.is_empty() {
            self.commit(out, Entry::Released { until: 0, events });
        }
    }
}
