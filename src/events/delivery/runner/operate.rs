//! Requests of consumers and operators to a subscription.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash as _, Hasher as _},
    time::Duration,
};

use super::{
    actor::{Actor, Step},
    ledger::Until,
    reading::Sieve,
};
use crate::events::{
    delivery::subscription::{
        DeliveryMode, LaneId, Loss, Machine, Order as OrderRule, Partition, Pins, Place, Refused,
        Removal, Seek, Settings as Rules, Then as ThenRule, Token, TokenStatus as Status, Unblock,
    },
    facade::{
        Action, Blocked, Refusal, TokenItem, TokenResult, TokenStatus, Unblock as Unblocking, Verb,
    },
    queue::Offset,
    settings::{Order, Subscription as Settings, Target, Then},
};

/// A consumer's token, with its decoded form if it was issued here.
pub(super) type Spoken = (Option<Token>, TokenItem);

/// The settings as the machine needs them.
pub(super) fn rules(settings: &Settings, partitions: usize) -> Rules {
    let has_letters = settings.dead_letter.as_ref();
    Rules {
        delivery: match &settings.push {
            None => DeliveryMode::Pull,
            Some(_) => DeliveryMode::Push {
                concurrency: settings.limits.concurrency.max(1),
                rate: settings.limits.rate.map(per_thousand_seconds),
            },
        },
        order: match settings.order {
            Order::Key => OrderRule::Key,
            Order::None => OrderRule::None,
            Order::Partition => OrderRule::Partition,
        },
        schedule: settings.retry.schedule.iter().copied().map(millis).collect(),
        max_attempts: settings.retry.max_attempts.max(1),
        max_age: millis(settings.retry.max_age),
        in_flight: settings.limits.in_flight.max(1),
        parked: settings.limits.parked.max(1),
        partitions: u16::try_from(partitions.max(1)).unwrap_or(u16::MAX),
        dead_letter_bytes: has_letters.map(|letters| letters.max_bytes),
        then: match settings.then {
            Then::DeadLetter => ThenRule::DeadLetter,
            Then::Discard => ThenRule::Discard,
            Then::BlockKey => ThenRule::BlockKey,
        },
        publishes_success: settings.on_success.is_some(),
        publishes_failure: settings.on_exhausted.is_some(),
        tells_ends: settings
            .push
            .as_ref()
            .is_some_and(|push| matches!(push.target, Target::Upstream(_))),
    }
}

/// Distinguishes settings, for readers of the journal.
pub(super) fn fingerprint(settings: &Settings) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{settings:?}").hash(&mut hasher);
    hasher.finish()
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A rate per second, as the machine needs it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped; a rate is not told to the thousandth"
)]
pub(super) fn per_thousand_seconds(rate: f64) -> u64 {
    (rate * 1000.0).clamp(1.0, 1e15) as u64
}

// === impl Actor ===

impl Actor {
    /// Applies one verb to the attempts of some tokens.
    pub(super) fn settle(
        &mut self,
        verb: Verb,
        items: Vec<Spoken>,
    ) -> Result<Vec<TokenResult>, Refusal> {
        let lease = millis(self.settings.lease);
        let (statuses, _) = self.decide(Until::Written, |machine, moment, out| {
            if verb == Verb::Ack {
                let tokens: Vec<Token> = items.iter().filter_map(|(token, _)| *token).collect();
                let mut statuses = machine.ack(moment, &tokens, out).into_iter();
                let status = |(token, _): &Spoken| token.and_then(|_| statuses.next());
                return items.iter().map(status).collect();
            }
            let mut one = |(token, item): &Spoken| {
                let token = (*token)?;
                let said = item.reason.as_deref();
                let delay = item.delay.map(millis);
                Some(match verb {
                    Verb::Ack => return None,
                    Verb::Nack => machine.nack(moment, token, delay, said, out),
                    Verb::Release => machine.release(moment, token, delay.unwrap_or(0), out),
                    Verb::Reject => machine.reject(moment, token, said, out),
                    Verb::Extend => {
                        let lease = item.lease.map_or(lease, millis);
                        machine.extend(moment, token, lease, out)
                    }
                })
            };
            items.iter().map(&mut one).collect::<Vec<Option<Status>>>()
        })?;
        let result = |((_, item), status): (Spoken, Option<Status>)| TokenResult {
            token: item.token,
            status: match status {
                Some(Status::Ok) => TokenStatus::Ok,
                Some(Status::LeaseExpired) => TokenStatus::LeaseExpired,
                Some(Status::Settled) => TokenStatus::Settled,
                Some(Status::Unknown) | None => TokenStatus::Unknown,
            },
        };
        Ok(items.into_iter().zip(statuses).map(result).collect())
    }

    /// Moves the position.
    pub(super) fn seek(&mut self, seek: Seek) -> Result<Step, Refusal> {
        let decided =
            self.decide(Until::Synced, |machine, _, out| machine.seek(seek, true, out))?;
        let (sought, written) = decided;
        sought.map_err(refused)?;
        Ok(written)
    }

    pub(super) fn pause(&mut self) -> Result<Step, Refusal> {
        Ok(self.decide(Until::Synced, |machine, _, out| machine.pause(out))?.1)
    }

    pub(super) fn resume(&mut self) -> Result<Step, Refusal> {
        self.retry_at = None;
        Ok(self.decide(Until::Synced, |machine, _, out| machine.resume(out))?.1)
    }

    /// Unblocks a key or a partition. The step is `None` if it was not blocked.
    pub(super) fn unblock(&mut self, unblock: &Unblocking) -> Result<Option<Step>, Refusal> {
        let keys = match &unblock.what {
            Blocked::Key(key) => vec![Some(self.around.hash.hash(key))],
            Blocked::Keyless => vec![None],
            Blocked::Partition(number) => {
                let all = self.partitions().into_iter();
                // In every generation, because users only see the number.
                let meant = all.filter(|partition| u32::from(partition.number) == *number);
                meant.map(|partition| Some(Machine::partition_key(partition))).collect()
            }
        };
        let action = match unblock.action {
            Action::Retry => Unblock::Retry,
            Action::DeadLetter => Unblock::DeadLetter,
            Action::Discard => Unblock::Discard,
        };
        let decided = self.decide(Until::Synced, |machine, moment, out| {
            let mut was_any = false;
            for key in keys {
                was_any |= machine.unblock(moment, key, action, out);
            }
            was_any
        })?;
        let (was_blocked, written) = decided;
        Ok(was_blocked.then_some(written))
    }

    /// Starts delivering a range of the topic again.
    pub(super) fn replay(
        &mut self,
        (from, to): (Offset, Offset),
        rate: Option<f64>,
        publishes: bool,
    ) -> Result<(LaneId, Step), Refusal> {
        let log = self.around.topic.id();
        let rate = rate.map(per_thousand_seconds);
        let (lane, written) = self.decide(Until::Synced, |machine, moment, out| {
            machine.replay(moment.now, (log, from, to), (rate, publishes), out)
        })?;
        Ok((lane.map_err(refused)?, written))
    }

    /// Starts delivering dead letters again.
    pub(super) fn redrive(
        &mut self,
        letters: &[Offset],
        rate: Option<f64>,
        is_forced: bool,
    ) -> Result<(LaneId, Step), Refusal> {
        let log = self.around.letters.id();
        let rate = rate.map(per_thousand_seconds);
        let (lane, written) = self.decide(Until::Synced, |machine, moment, out| {
            machine.redrive(moment.now, (log, letters), (rate, false), is_forced, out)
        })?;
        Ok((lane.map_err(refused)?, written))
    }

    /// Ends a job.
    pub(super) fn cancel(&mut self, lane: LaneId) -> Result<Step, Refusal> {
        let (cancelled, written) = self
            .decide(Until::Synced, |machine, moment, out| machine.cancel(moment.now, lane, out))?;
        cancelled.map_err(refused)?;
        Ok(written)
    }

    /// Dead letters that died before `until`.
    pub(super) fn aged_letters(&mut self, now: u64, until: u64, most: usize) -> Vec<Offset> {
        self.machine.aged_dead_letters(now, until, most)
    }

    /// Removes dead letters.
    pub(super) fn remove_letters(
        &mut self,
        removal: Removal,
        letters: Vec<Offset>,
    ) -> Result<Step, Refusal> {
        let ((), written) = self.decide(Until::Synced, |machine, moment, out| {
            machine.remove_dead_letters(moment.now, removal, letters, out);
        })?;
        Ok(written)
    }

    /// Notes that a dead letter was copied forward.
    pub(super) fn letter_moved(&mut self, from: Offset, to: Offset) -> Result<Step, Refusal> {
        Ok(self
            .decide(Until::Synced, |machine, _, out| machine.dead_letter_moved(from, to, out))?
            .1)
    }

    /// Notes that an event was copied into the parked log.
    pub(super) fn parked(&mut self, place: Place, at: Offset) -> Result<Step, Refusal> {
        Ok(self.decide(Until::Synced, |machine, _, out| machine.parked(place, at, out))?.1)
    }

    /// Notes that the topic's log has deleted everything before `start`.
    pub(super) fn dropped(&mut self, start: Offset) -> Result<Step, Refusal> {
        let ((), written) = self.decide(Until::Written, |machine, moment, out| {
            let lost = (LaneId::LIVE, Loss::Dropped);
            machine.lose(moment.now, lost, (Offset::ZERO, start), out);
        })?;
        Ok(written)
    }

    /// Changes the settings.
    pub(super) fn configure(&mut self, settings: Settings) -> Result<Step, Refusal> {
        let partitions = self.around.topics.partitions(&settings.topic).len();
        let (rules, fingerprint) = (rules(&settings, partitions), fingerprint(&settings));
        self.sieve = Sieve::new(&settings, self.around.hash.clone());
        self.settings = std::sync::Arc::new(settings);
        let ((), written) = self.decide(Until::Synced, |machine, moment, out| {
            machine.configure(moment.now, rules, fingerprint, out);
        })?;
        Ok(written)
    }

    /// Notes that the log it reads was reopened.
    pub(super) fn reopened(&mut self) {
        self.retry_at = None;
        self.forget_durable();
    }

    /// The lowest offsets it still needs.
    pub(super) fn pins(&self) -> Pins {
        self.machine.pins()
    }

    /// Up to `most` live events that would keep segments below `below`.
    pub(super) fn to_park(&self, below: Offset, most: usize) -> Vec<Place> {
        self.machine.to_park(below, most)
    }

    /// All partitions of its topic.
    pub(super) fn partitions(&self) -> Vec<Partition> {
        self.around.topics.partitions(&self.settings.topic)
    }
}

fn refused(refused: Refused) -> Refusal {
    match refused {
        Refused::InFlight => Refusal::conflict("consumers hold leases"),
        Refused::NoSuchJob => Refusal::conflict("the job is over"),
        Refused::Nothing => Refusal::conflict("there is nothing to deliver"),
        Refused::TooManyJobs => Refusal::conflict("as many jobs run as may; wait for one to end"),
    }
}
