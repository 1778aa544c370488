//! What consumers do with their leases.

use bytes::Bytes;

use super::{
    effect::Token,
    ending::{Ending, Failure, FailureKind, Reason},
    entry::{Entry, Failed, JobEnd},
    machine::{Machine, Output},
    settings::Moment,
    slab::NONE,
    state::EventStatus as Status,
};

/// The result for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenStatus {
    /// It was done.
    Ok,
    /// Nothing was done: the attempt is over, and the event is not settled.
    LeaseExpired,
    /// Nothing was done: the token refers to no attempt.
    Unknown,
    /// Nothing was done: the event is settled, or its end is certain.
    Settled,
}

impl Machine {
    /// The events were processed. Those of one key are settled in order, whatever the tokens' order.
    ///
    /// A token is valid while its attempt is the latest, even after its lease; but not if an earlier
    /// event of its key is open by then, because that one is delivered again, and this one after it.
    pub fn ack(&mut self, moment: &Moment, tokens: &[Token], out: &mut Output) -> Vec<TokenStatus> {
        let mut statuses = vec![TokenStatus::Unknown; tokens.len()];
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|&at| tokens[at].place);
        for at in order {
            statuses[at] = self.ack_one(moment, tokens[at], None, out);
        }
        statuses
    }

    /// As [`Machine::ack`] for one token, with the consumer's answer for the event that follows.
    pub fn ack_one(
        &mut self,
        moment: &Moment,
        token: Token,
        answer: Option<Bytes>,
        out: &mut Output,
    ) -> TokenStatus {
        let index = match self.look(token) {
            Ok(index) => index,
            Err(status) => return status,
        };
        let slot = &self.slab[index];
        if !slot.is_in_flight() && slot.previous != NONE {
            return TokenStatus::LeaseExpired;
        }
        self.succeed(moment, index, answer, out);
        TokenStatus::Ok
    }

    /// The attempt failed; retried by the schedule, or after `delay` milliseconds. Later events of
    /// its key that were leased with it go back too.
    pub fn nack(
        &mut self,
        moment: &Moment,
        token: Token,
        delay: Option<u64>,
        said: Option<&str>,
        out: &mut Output,
    ) -> TokenStatus {
        let index = match self.leased(token) {
            Ok(index) => index,
            Err(status) => return status,
        };
        let failure = Failure::new(FailureKind::Nack, None, said);
        self.release_behind(index, out);
        if let Some(reason) = self.worn_out(index, moment.now, Reason::AttemptsExhausted) {
            self.give_up(moment, index, (reason, false), Some(failure), out);
            return TokenStatus::Ok;
        }
        let place = self.slab[index].place;
        let until = match delay {
            Some(delay) => moment.now.saturating_add(delay),
            None => self.again_at(moment, index, 0),
        };
        let events = vec![Failed { place, until, counts: true, failure }];
        self.commit(out, Entry::Failed { at: moment.now, events });
        TokenStatus::Ok
    }

    /// The attempt is given up, uncounted; the event is delivered again after `delay` milliseconds.
    pub fn release(
        &mut self,
        moment: &Moment,
        token: Token,
        delay: u64,
        out: &mut Output,
    ) -> TokenStatus {
        let index = match self.leased(token) {
            Ok(index) => index,
            Err(status) => return status,
        };
        self.release_behind(index, out);
        let until = if delay == 0 { 0 } else { moment.now.saturating_add(delay) };
        let events = vec![self.slab[index].place];
        self.commit(out, Entry::Released { until, events });
        TokenStatus::Ok
    }

    /// Never deliver it again: it becomes a dead letter.
    pub fn reject(
        &mut self,
        moment: &Moment,
        token: Token,
        said: Option<&str>,
        out: &mut Output,
    ) -> TokenStatus {
        let index = match self.leased(token) {
            Ok(index) => index,
            Err(status) => return status,
        };
        let failure = Failure::new(FailureKind::Nack, None, said);
        self.give_up(moment, index, (Reason::Rejected, false), Some(failure), out);
        TokenStatus::Ok
    }

    /// The lease now ends `lease` milliseconds from now.
    pub fn extend(
        &mut self,
        moment: &Moment,
        token: Token,
        lease: u64,
        out: &mut Output,
    ) -> TokenStatus {
        let index = match self.leased(token) {
            Ok(index) => index,
            Err(status) => return status,
        };
        if !matches!(self.slab[index].status, Status::InFlight { deadline: Some(_), .. }) {
            return TokenStatus::Unknown;
        }
        let deadline = moment.now.saturating_add(lease);
        let events = vec![self.slab[index].place];
        self.commit(out, Entry::Extended { deadline, events });
        TokenStatus::Ok
    }

    /// This attempt will never have a result: handled as if its lease had expired.
    pub fn lapse_now(&mut self, moment: &Moment, token: Token, out: &mut Output) -> TokenStatus {
        match self.leased(token) {
            Ok(index) => {
                self.lapse_all(moment, vec![index], out);
                TokenStatus::Ok
            }
            Err(status) => status,
        }
    }

    /// The event of a token, if it is in flight.
    pub(super) fn leased(&self, token: Token) -> Result<u32, TokenStatus> {
        let index = self.look(token)?;
        match self.slab[index].status {
            Status::InFlight { .. } if self.slab[index].attempts == token.attempt => Ok(index),
            _ => Err(TokenStatus::LeaseExpired),
        }
    }

    /// The event of a token, if it is unsettled and its attempt is the latest.
    fn look(&self, token: Token) -> Result<u32, TokenStatus> {
        let place = token.place;
        let Some(lane) = self.lanes.get(&place.lane) else {
            let mut ended = self.ended.iter().filter(|(lane, _)| *lane == place.lane);
            return Err(match ended.next().and_then(|(_, job)| job.ended) {
                Some((_, JobEnd::Done)) => TokenStatus::Settled,
                Some((_, JobEnd::Cancelled)) => TokenStatus::LeaseExpired,
                None => TokenStatus::Unknown,
            });
        };
        let epoch = lane.epoch(place.partition);
        if token.epoch != epoch {
            let is_old = place.lane.is_live() && token.epoch < epoch;
            return Err(if is_old { TokenStatus::LeaseExpired } else { TokenStatus::Unknown });
        }
        let Some(index) = lane.slot(place) else {
            let is_settled = place.offset < lane.position(place.partition);
            return Err(if is_settled { TokenStatus::Settled } else { TokenStatus::Unknown });
        };
        let slot = &self.slab[index];
        if slot.is_ending() {
            return Err(TokenStatus::Settled);
        }
        // A number above the latest: its record was lost in a power failure, but the work was done.
        if token.attempt < slot.attempts {
            return Err(TokenStatus::LeaseExpired);
        }
        if token.attempt == 0 { Err(TokenStatus::Unknown) } else { Ok(index) }
    }

    /// Unblocks a key whose first event is blocked; `None`: all blocked events without a key.
    /// Returns whether there was one.
    pub fn unblock(
        &mut self,
        moment: &Moment,
        key: Option<u64>,
        action: Unblock,
        out: &mut Output,
    ) -> bool {
        let blocked: Vec<u32> = self
            .lanes
            .values()
            .flat_map(|lane| lane.parts.values().flat_map(|part| part.events.values().copied()))
            .filter(|&index| self.slab[index].key == key)
            .filter(|&index| matches!(self.slab[index].status, Status::Blocked { .. }))
            .collect();
        for &index in &blocked {
            let Status::Blocked { reason } = self.slab[index].status else { continue };
            let place = self.slab[index].place;
            match action {
                Unblock::Retry => self.commit(out, Entry::Unblocked { place }),
                Unblock::DeadLetter => {
                    self.close(moment, index, Ending::DeadLettered(reason), None, out);
                }
                Unblock::Discard => {
                    self.close(moment, index, Ending::Discarded(reason), None, out);
                }
            }
        }
        !blocked.is_empty()
    }
}

/// What happens to an event that blocked its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unblock {
    /// Delivered again, with its attempts reset.
    Retry,
    /// It becomes a dead letter.
    DeadLetter,
    /// Settled.
    Discard,
}
