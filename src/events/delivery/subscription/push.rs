//! Pushes: which event goes next, and what an answer does.

use bytes::Bytes;

use super::{
    answer::{Answer, Verdict},
    effect::{Delivery, Token},
    ending::{Ending, Failure, FailureKind, Reason},
    entry::{Circuit, Entry, Failed, Hold, Mode},
    machine::{Machine, Output},
    outage::Outage,
    place::{LaneId, Place},
    settings::{DeliveryMode, Moment, mix},
    state::EventStatus as Status,
    verbs::TokenStatus,
};

impl Machine {
    /// The next event to push, if one may start now.
    pub fn next_push(&mut self, moment: &Moment, out: &mut Output) -> Option<Delivery> {
        self.tick(moment, out);
        let DeliveryMode::Push { rate, .. } = self.settings.delivery else { return None };
        if !self.delivers() || self.push_from() > moment.now || !self.has_place() {
            return None;
        }
        let is_probe = self.outage.open.is_some();
        let suspect = if self.counts.alone == 0 { self.pick_suspect(moment, out) } else { None };
        let index = if let Some(index) = suspect {
            index
        } else {
            let lanes: Vec<LaneId> = self.lanes.keys().copied().collect();
            lanes.into_iter().find_map(|lane| self.pick(moment, lane, out))?
        };
        self.pay(self.slab[index].place.lane, moment.now);
        if let Some(rate) = rate {
            self.rate.take(rate, moment.now);
        }
        let mode = match suspect {
            _ if is_probe => Mode::Probe,
            Some(_) => Mode::Alone,
            None => Mode::Shared,
        };
        self.start(moment, None, mode, &[index], out).pop()
    }

    /// No push before this: the endpoint asked to wait, the circuit is open, or the rate is used up.
    pub(super) fn push_from(&self) -> u64 {
        let circuit = self.outage.open.map_or(0, |open| open.until);
        let rate = match self.settings.delivery {
            DeliveryMode::Push { rate: Some(rate), .. } => self.rate.next(rate),
            _ => 0,
        };
        self.outage.until.max(circuit).max(rate)
    }

    /// Whether another push may start.
    pub(super) fn has_place(&self) -> bool {
        let DeliveryMode::Push { concurrency, .. } = self.settings.delivery else { return false };
        match self.outage.open {
            Some(_) => self.counts.probes == 0,
            None => self.counts.pushed < self.window.size(concurrency),
        }
    }

    /// A push has ended. `said` is a part of the endpoint's answer, `body` what the event that
    /// follows carries of it.
    pub fn pushed(
        &mut self,
        moment: &Moment,
        token: Token,
        answer: Answer,
        (said, body): (Option<&str>, Option<Bytes>),
        out: &mut Output,
    ) -> TokenStatus {
        let index = match self.leased(token) {
            Ok(index) => index,
            Err(status) => return status,
        };
        let Status::InFlight { mode, .. } = self.slab[index].status else {
            return TokenStatus::LeaseExpired;
        };
        let verdict = answer.verdict();
        let is_probe = mode == Mode::Probe;
        self.learn(verdict, answer, moment.now);
        let fail = |kind| Failure::new(kind, answer.status(), said);
        match verdict {
            Verdict::Settled => self.succeed(moment, index, body, out),
            Verdict::Failed => {
                let place = self.slab[index].place;
                self.over(moment.now, Ending::Succeeded, place, out);
            }
            Verdict::Dead(reason) => {
                let kind = match reason {
                    Reason::MaybeSeen => FailureKind::Timeout,
                    _ => FailureKind::Refused,
                };
                self.give_up(moment, index, (reason, false), Some(fail(kind)), out);
            }
            Verdict::Left => {
                let failure = Some(fail(FailureKind::Lapsed));
                self.give_up(moment, index, (Reason::MaybeSeen, false), failure, out);
                // This says nothing about the endpoint, not even as a probe.
                return TokenStatus::Ok;
            }
            Verdict::Disable => {
                self.put_back(moment, index, moment.now, fail(FailureKind::Gone), out);
                self.commit(out, Entry::Held(Hold::Gone));
            }
            Verdict::Wait(wait) => {
                self.put_back(moment, index, moment.now, fail(FailureKind::Throttled), out);
                self.throttle(moment, wait, out);
            }
            Verdict::Retry { kind, .. } if self.outage.open.is_some() => {
                let until = moment.now;
                self.put_back(moment, index, until, fail(kind), out);
            }
            Verdict::Retry { kind, counts, apart } => {
                self.retry(moment, index, fail(kind), (counts, apart), out);
            }
            Verdict::Refused if self.slab[index].is_refused => {
                let failure = Some(fail(FailureKind::Refused));
                self.give_up(moment, index, (Reason::Rejected, false), failure, out);
            }
            Verdict::Refused => {
                self.retry(moment, index, fail(FailureKind::Refused), (true, 0), out);
            }
        }
        if matches!(verdict, Verdict::Settled | Verdict::Failed | Verdict::Refused) {
            self.welcome(is_probe, out);
        } else {
            self.judge(moment, is_probe, out);
        }
        TokenStatus::Ok
    }

    /// Gives back pushes in flight, because the gateway stops and the events are not at fault.
    pub fn release_pushes(&mut self, out: &mut Output) {
        let slots = self.lanes.values().flat_map(|lane| lane.parts.values());
        let events: Vec<Place> = slots
            .flat_map(|part| part.events.values())
            .filter(|&&index| {
                matches!(self.slab[index].status, Status::InFlight { deadline: None, .. })
            })
            .map(|&index| self.slab[index].place)
            .collect();
        if !events.is_empty() {
            self.commit(out, Entry::Released { until: 0, events });
        }
    }

    /// Learns from an answer how much the endpoint takes.
    fn learn(&mut self, verdict: Verdict, answer: Answer, now: u64) {
        let DeliveryMode::Push { concurrency, .. } = self.settings.delivery else { return };
        let is_overload = matches!(answer, Answer::NotSent | Answer::Timeout | Answer::MaybeSeen)
            || matches!(verdict, Verdict::Wait(_))
            || matches!(answer.status(), Some(503 | 504));
        if matches!(verdict, Verdict::Settled | Verdict::Failed) {
            self.window.succeed(self.counts.pushed, concurrency);
        } else if is_overload {
            self.window.cut(now, concurrency);
        }
    }

    /// Gives the attempt back; the event is ready when the endpoint is.
    fn put_back(
        &mut self,
        moment: &Moment,
        index: u32,
        until: u64,
        failure: Failure,
        out: &mut Output,
    ) {
        let place = self.slab[index].place;
        let events = vec![Failed { place, until, counts: false, failure }];
        self.commit(out, Entry::Failed { at: moment.now, events });
    }

    /// Schedules a retry, or gives the event up.
    fn retry(
        &mut self,
        moment: &Moment,
        index: u32,
        failure: Failure,
        (counts, apart): (bool, u64),
        out: &mut Output,
    ) {
        let worn_out = self.worn_out(index, moment.now, Reason::AttemptsExhausted);
        if let Some(reason) = worn_out.filter(|_| counts) {
            self.give_up(moment, index, (reason, false), Some(failure), out);
            return;
        }
        let place = self.slab[index].place;
        let until = self.again_at(moment, index, apart);
        let events = vec![Failed { place, until, counts, failure }];
        self.commit(out, Entry::Failed { at: moment.now, events });
    }

    fn throttle(&mut self, moment: &Moment, wait: Option<u64>, out: &mut Output) {
        let random = mix(moment.random, 1);
        let is_waiting = self.outage.until > moment.now;
        let (wait, throttled) = match wait {
            Some(wait) => (wait, self.outage.throttled),
            // Pushes sent before it asked get the same answer: they must not double the wait.
            None if is_waiting => return,
            None => (self.outage.throttle(random), self.outage.throttled.saturating_add(1)),
        };
        let until = moment.now.saturating_add(wait);
        if until > self.outage.until {
            self.commit(out, Entry::EndpointWaits { until, throttled });
        }
    }

    /// Closes the circuit if a probe was taken or refused. Answers to pushes from before it opened
    /// do not count.
    fn welcome(&mut self, is_probe: bool, out: &mut Output) {
        if is_probe && self.outage.open.is_some() {
            self.commit(out, Entry::Circuit(Circuit::Closed));
        }
    }

    /// Opens the circuit after a row of failures, and delays the next probe after a failed one.
    fn judge(&mut self, moment: &Moment, is_probe: bool, out: &mut Output) {
        let random = mix(moment.random, 2);
        if self.outage.is_due() {
            let (until, wait) = Outage::first_wait(moment.now, random);
            let given_back = self
                .outage
                .run
                .iter()
                .flat_map(|failing| std::iter::repeat_n(failing.place, failing.counted as usize))
                .collect();
            let opened = Circuit::Opened { at: moment.now, until, wait, given_back };
            self.commit(out, Entry::Circuit(opened));
        } else if is_probe && self.outage.open.is_some() {
            let (until, wait) = self.outage.next_wait(moment.now, random);
            self.commit(out, Entry::Circuit(Circuit::Waits { until, wait }));
        }
    }
}
