//! What consumers say of their leases.

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

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenStatus {
    /// What was asked for.
    Ok,
    /// Nothing: the attempt is over, and the event is not settled.
    LeaseExpired,
    /// Nothing: this stands for no attempt.
    Unknown,
    /// Nothing: the event is settled, or its end is certain.
    Settled,
}

impl Machine {
    /// The events were taken. Those of one key are settled in order whatever order the tokens have.
    ///
    /// A token counts as long as its attempt is the latest, even after its lease; but not when an event
    /// of its key before it is open by then, because that one is delivered again and it will be after it.
    pub fn ack(&mut self, moment: &Moment, tokens: &[Token], out: &mut Output) -> Vec<TokenStatus> {
        let mut statuses = vec![TokenStatus::Unknown; tokens.len()];
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|&at| tokens[at].place);
        for at in order {
            statuses[at] = self.ack_one(moment, tokens[at], None, out);
        }
        statuses
    }

    /// As [`Machine::ack`] for one, with what the consumer answered, for the event that follows.
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

    /// The attempt has failed; again by the schedule, or after `delay` milliseconds. What was leased with
    /// it and comes after it in its key goes back too.
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

    /// The attempt is given up and does not count; again after `delay` milliseconds.
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

    /// Never again: to the dead letters.
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

    /// The lease ends `lease` milliseconds from now.
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

    /// Nobody will ever say how this attempt ended: as if its lease had run out.
    pub fn lapse_now(&mut self, moment: &Moment, token: Token, out: &mut Output) -> TokenStatus {
        match self.leased(token) {
            Ok(index) => {
                self.lapse_all(moment, vec![index], out);
                TokenStatus::Ok
            }
            Err(status) => status,
        }
    }

    /// The event that a token stands for, on its way.
    pub(super) fn leased(&self, token: Token) -> Result<u32, TokenStatus> {
        let index = self.look(token)?;
        match self.slab[index].status {
            Status::InFlight { .. } if self.slab[index].attempts == token.attempt => Ok(index),
            _ => Err(TokenStatus::LeaseExpired),
        }
    }

    /// The event that a token stands for, not settled, if its attempt is the latest.
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
        // A later number than the latest: its record was lost with the power, the work was not.
        if token.attempt < slot.attempts {
            return Err(TokenStatus::LeaseExpired);
        }
        if token.attempt == 0 { Err(TokenStatus::Unknown) } else { Ok(index) }
    }

    /// Frees a key whose first event is blocked; `None`: every event without a key that is. `false`: none
    /// was.
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

/// What becomes of an event that blocked its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unblock {
    /// Delivered again, its attempts forgotten.
    Retry,
    /// To the dead letters.
    DeadLetter,
    /// Settled.
    Discard,
}
