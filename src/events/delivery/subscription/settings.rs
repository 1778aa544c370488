//! The inputs of a subscription: settings, and the moment of a decision.

use super::ending::{Reason, Target};

/// Settings of one subscription, valid by construction. Times are milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Who starts deliveries.
    pub delivery: DeliveryMode,
    /// Which events are kept in order, from the scan position on.
    pub order: Order,
    /// The waits before the first attempt (taken as none), the second, and so on; the last one applies
    /// to all that follow. Not empty.
    pub schedule: Vec<u64>,
    /// Maximum number of counted attempts, at least 1.
    pub max_attempts: u32,
    /// No attempt is planned later than this after the first counted one.
    pub max_age: u64,
    /// Maximum number of events being delivered or ending, at least 1.
    pub in_flight: u32,
    /// Maximum number of a partition's events waiting in memory, at least 1.
    pub parked: u32,
    /// Partitions of the topic's newest generation, at least 1.
    pub partitions: u16,
    /// Bytes of dead letters at which delivery stops; `None` if there are no dead letters.
    pub dead_letter_bytes: Option<u64>,
    /// What happens to an event whose attempts are used up.
    pub then: Then,
    /// Whether an event follows a success.
    pub publishes_success: bool,
    /// Whether an event follows if nobody took it.
    pub publishes_failure: bool,
    /// For stored requests: somebody may ask how an event ended, and is told before it is settled.
    pub tells_ends: bool,
}

/// Who starts deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// The consumer.
    Pull,
    /// The gateway.
    Push {
        /// Maximum concurrent pushes, at least 1.
        concurrency: u32,
        /// Maximum pushes per thousand seconds.
        rate: Option<u64>,
    },
}

/// Which events are kept in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Events of one key.
    #[default]
    Key,
    /// Nothing.
    None,
    /// Events of one partition.
    Partition,
}

/// What happens to an event whose attempts are used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Then {
    /// It becomes a dead letter.
    #[default]
    DeadLetter,
    /// It is dropped and counted.
    Discard,
    /// It holds its key until an operator unblocks it.
    BlockKey,
}

/// The time and randomness of a decision, and the ends of the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since 1970. Never goes back; [`super::Machine::clock_moved`] reports a clock
    /// that was set.
    pub now: u64,
    /// The time by which events expire: as `now`, but stands still while the clock is not trusted.
    pub judged: u64,
    /// A new random number for each decision.
    pub random: u64,
    /// Where something would be appended.
    pub targets: Targets,
}

/// Logs and their ends: everything appended before now is below them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Targets {
    /// The subscription's dead letters.
    pub letters: Target,
    /// The topic of events that follow a success.
    pub success: Target,
    /// The topic of events that follow a failure.
    pub failure: Target,
}

/// What happens to an event that nobody took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    DeadLetter,
    Discard,
    Block,
}

/// `schedule: service`: for a service behind the gateway, 60 attempts in 24 h.
pub const SERVICE: [u64; 11] =
    [0, 1_000, 2_000, 4_000, 8_000, 15_000, 30_000, 60_000, 300_000, 900_000, 1_800_000];
/// `schedule: standard`: Standard Webhooks' shape, 10 attempts in 76 h.
pub const STANDARD: [u64; 10] = [
    0, 5_000, 300_000, 1_800_000, 7_200_000, 18_000_000, 36_000_000, 50_400_000, 72_000_000,
    86_400_000,
];

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            delivery: DeliveryMode::Pull,
            order: Order::Key,
            schedule: SERVICE.to_vec(),
            max_attempts: 60,
            max_age: 24 * 3_600_000,
            in_flight: 1000,
            parked: 10_000,
            partitions: 16,
            dead_letter_bytes: Some(1 << 30),
            then: Then::DeadLetter,
            publishes_success: false,
            publishes_failure: false,
            tells_ends: false,
        }
    }
}

impl Settings {
    /// Ready events besides those in flight, at most: enough that a receive never waits for a read.
    pub(super) fn lookahead(&self) -> usize {
        self.in_flight.clamp(16, 1024) as usize
    }

    /// Reading of a full partition resumes when it holds no more than this.
    pub(super) fn low_parked(&self) -> u32 {
        self.parked - (self.parked / 4).max(1)
    }

    /// The wait before the attempt after the `failures`th failure, with a jitter of a fifth, so
    /// that events which failed together do not return together. `random` decides.
    pub(super) fn delay(&self, failures: u32, random: u64) -> u64 {
        let index = (failures as usize).min(self.schedule.len().saturating_sub(1));
        let delay = self.schedule.get(index).copied().unwrap_or(0);
        jitter(delay, random)
    }

    /// What happens to a live event that nobody took, for this reason.
    pub(super) fn fate(&self, reason: Reason, is_own_expiry: bool, has_key: bool) -> Fate {
        let is_worn_out = match reason {
            Reason::AttemptsExhausted | Reason::LeaseExpiredLimit => true,
            Reason::Expired => !is_own_expiry,
            Reason::Rejected | Reason::MaybeSeen | Reason::TooLarge => false,
        };
        let has_letters = self.dead_letter_bytes.is_some();
        match self.then {
            _ if !is_worn_out && has_letters => Fate::DeadLetter,
            // Without a key nothing has to wait behind it.
            Then::BlockKey if has_letters && !has_key => Fate::DeadLetter,
            Then::DeadLetter if has_letters => Fate::DeadLetter,
            Then::Discard => Fate::Discard,
            // It has expired, so it must not hold a key any longer.
            Then::BlockKey | Then::DeadLetter if is_own_expiry => Fate::Discard,
            Then::BlockKey | Then::DeadLetter => Fate::Block,
        }
    }
}

/// A wait within a fifth of `delay`.
pub(super) fn jitter(delay: u64, random: u64) -> u64 {
    // 0.8 to 1.2 in steps of 2^-20, in integers: the same on every machine.
    let share = 4 * (random >> 44) / 10 + 8 * (1 << 20) / 10;
    ((u128::from(delay) * u128::from(share)) >> 20).try_into().unwrap_or(u64::MAX)
}

/// Derives a number for one event from that of a decision (splitmix64).
pub(super) const fn mix(random: u64, salt: u64) -> u64 {
    let mut z = random.wrapping_add(salt.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_within_a_fifth_of_the_schedule_and_the_last_one_holds() {
        let settings = Settings::default();
        for (failures, base) in [(1, 1_000), (5, 15_000), (10, 1_800_000), (59, 1_800_000)] {
            for random in (0..1000).map(|salt| mix(7, salt)).chain([0, u64::MAX]) {
                let delay = settings.delay(failures, random);
                assert!(delay >= base * 799 / 1000 && delay <= base * 12 / 10, "{delay} of {base}");
            }
        }
        assert_eq!(settings.delay(0, u64::MAX), 0);
        let low = settings.delay(1, 0);
        let high = settings.delay(1, u64::MAX);
        assert!(low < 810 && high > 1190, "{low} {high}: the whole fifth is used");
    }

    #[test]
    fn the_named_schedules_are_as_specified() {
        assert_eq!(SERVICE.len(), 11);
        assert_eq!(STANDARD.len(), 10, "as many as its attempts");
        let span: u64 = STANDARD.iter().sum();
        assert_eq!(span / 3_600_000, 75, "ten attempts fit into 76 h");
    }

    #[test]
    fn what_becomes_of_what_nobody_took() {
        let with = |then, letters: bool| Settings {
            then,
            dead_letter_bytes: letters.then_some(1),
            ..Settings::default()
        };
        let worn = |settings: Settings| settings.fate(Reason::AttemptsExhausted, false, true);
        let refused = |settings: Settings| settings.fate(Reason::Rejected, false, true);
        let expired = |settings: Settings| settings.fate(Reason::Expired, true, true);
        assert_eq!(worn(with(Then::DeadLetter, true)), Fate::DeadLetter);
        assert_eq!(worn(with(Then::Discard, true)), Fate::Discard);
        assert_eq!(worn(with(Then::BlockKey, true)), Fate::Block);
        assert_eq!(
            worn(with(Then::DeadLetter, false)),
            Fate::Block,
            "never lost by a contradiction"
        );
        assert_eq!(refused(with(Then::Discard, true)), Fate::DeadLetter);
        assert_eq!(refused(with(Then::BlockKey, true)), Fate::DeadLetter);
        assert_eq!(refused(with(Then::Discard, false)), Fate::Discard);
        assert_eq!(refused(with(Then::BlockKey, false)), Fate::Block);
        assert_eq!(expired(with(Then::BlockKey, true)), Fate::DeadLetter);
        assert_eq!(expired(with(Then::BlockKey, false)), Fate::Discard);
        let aged = with(Then::BlockKey, true).fate(Reason::Expired, false, true);
        assert_eq!(aged, Fate::Block, "by age");
        let keyless = |letters| with(Then::BlockKey, letters).fate(Reason::Expired, false, false);
        assert_eq!(keyless(true), Fate::DeadLetter);
        assert_eq!(keyless(false), Fate::Block, "kept, for want of another place");
    }
}
