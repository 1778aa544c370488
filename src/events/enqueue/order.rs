//! Order of spilled requests: **while a spilled request of a key waits, no later one of that key is
//! sent**.
//!
//! Pure; what is over is an argument. One table for each topic, shared by all workers; keys are
//! hashed. Nobody remembers the keys of requests stored before the topic was (re)opened, nor of
//! those in flight when its log failed. Until all of these are over, every key waits. Every key
//! also waits while the topic is not open, and when more keys are stored than the bounded table
//! remembers: order then costs more than needed, but it holds.

use std::collections::HashMap;

use crate::events::queue::Offset;

/// Keys remembered at most.
const MAX_KEYS: usize = 100_000;
/// The table is swept when it has doubled since the last sweep, but not below this size.
const SMALLEST_SWEEP: usize = 1_024;

/// The requests of one topic that wait.
#[derive(Debug)]
pub struct Waiting {
    /// Which opening of the topic this is about; `None`: it was never seen open.
    opening: Option<u64>,
    /// Requests of unknown keys may wait below this offset.
    unknown: Offset,
    keys: HashMap<u64, Key>,
    max_keys: usize,
    sweep_at: usize,
}

/// The waiting requests of one key.
#[derive(Clone, Copy, Debug, Default)]
struct Key {
    /// Requests being stored.
    storing: u32,
    /// The last one stored.
    last: Option<Offset>,
}

/// What is known of the requests in the topic.
pub trait Over {
    /// A number that differs for each opening; `None` while it is not open.
    fn opening(&self) -> Option<u64>;

    /// Its end, in that opening or a later one.
    fn end(&self) -> Offset;

    /// Below this offset every request is over.
    fn below(&self) -> Offset;

    /// Whether the request at `at` is over.
    fn is_over(&self, at: Offset) -> bool;
}

// === impl Waiting ===

impl Default for Waiting {
    fn default() -> Self {
        Self {
            opening: None,
            unknown: Offset::ZERO,
            keys: HashMap::new(),
            max_keys: MAX_KEYS,
            sweep_at: SMALLEST_SWEEP,
        }
    }
}

impl Waiting {
    /// Whether a request of `key` has to wait for a spilled one.
    pub fn waits(&mut self, key: u64, over: &impl Over) -> bool {
        if !self.follow(over) {
            return true;
        }
        if self.unknown > Offset::ZERO {
            if over.below() < self.unknown {
                return true;
            }
            self.unknown = Offset::ZERO;
        }
        let Some(known) = self.keys.get(&key) else { return false };
        let waits = known.waits(over);
        if !waits {
            self.keys.remove(&key);
        }
        waits
    }

    /// A request of `key` is being stored: later ones are ordered behind it.
    pub fn begin(&mut self, key: u64, over: &impl Over) {
        self.follow(over);
        if self.keys.len() >= self.sweep_at {
            self.keys.retain(|_, key| key.waits(over));
            self.sweep_at = (2 * self.keys.len()).max(SMALLEST_SWEEP);
        }
        if self.keys.len() < self.max_keys || self.keys.contains_key(&key) {
            self.keys.entry(key).or_default().storing += 1;
        }
    }

    /// Returns whether the topic is open. What a new opening already contains has unknown keys.
    fn follow(&mut self, over: &impl Over) -> bool {
        let opening = over.opening();
        if opening.is_some() && self.opening != opening {
            self.opening = opening;
            self.unknown = self.unknown.max(over.end());
        }
        opening.is_some()
    }

    /// The request was stored, or not.
    pub fn end(&mut self, key: u64, stored: Stored) {
        if let Some(known) = self.keys.get_mut(&key) {
            known.storing = known.storing.saturating_sub(1);
            match stored {
                Stored::At(offset) => known.last = known.last.max(Some(offset)),
                Stored::Nowhere if known.storing == 0 && known.last.is_none() => {
                    self.keys.remove(&key);
                }
                Stored::Nowhere => {}
            }
        } else if let Stored::At(offset) = stored {
            self.unknown = self.unknown.max(offset.plus(1));
        }
    }
}

/// What became of a request that was being stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Stored at this offset.
    At(Offset),
    /// Not stored, or unknown: then its log has failed, and is reopened before anything is sent.
    Nowhere,
}

// === impl Key ===

impl Key {
    fn waits(&self, over: &impl Over) -> bool {
        let last_waits = |at: Offset| at >= over.below() && !over.is_over(at);
        self.storing > 0 || self.last.is_some_and(last_waits)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    struct Known {
        opening: Option<u64>,
        end: u64,
        below: u64,
        over: BTreeSet<u64>,
    }

    impl Default for Known {
        fn default() -> Self {
            Self { opening: Some(1), end: 0, below: 0, over: BTreeSet::new() }
        }
    }

    impl Over for Known {
        fn opening(&self) -> Option<u64> {
            self.opening
        }

        fn end(&self) -> Offset {
            Offset(self.end)
        }

        fn below(&self) -> Offset {
            Offset(self.below)
        }

        fn is_over(&self, at: Offset) -> bool {
            self.over.contains(&at.0)
        }
    }

    fn store(waiting: &mut Waiting, key: u64, at: u64) {
        waiting.begin(key, &Known::default());
        waiting.end(key, Stored::At(Offset(at)));
    }

    #[test]
    fn a_key_waits_from_the_moment_one_is_stored_until_the_last_is_over() {
        let mut waiting = Waiting::default();
        let mut known = Known::default();
        assert!(!waiting.waits(1, &known));
        waiting.begin(1, &known);
        assert!(waiting.waits(1, &known) && !waiting.waits(2, &known));
        waiting.end(1, Stored::At(Offset(5)));
        store(&mut waiting, 1, 7);
        known.over.insert(5);
        assert!(waiting.waits(1, &known), "the later one waits");
        known.over.insert(7);
        assert!(!waiting.waits(1, &known));
        store(&mut waiting, 1, 9);
        known.below = 10;
        assert!(!waiting.waits(1, &known), "by what the subscription has settled");
        assert!(waiting.keys.is_empty());
    }

    #[test]
    fn what_could_not_be_stored_keeps_nobody_waiting() {
        let mut waiting = Waiting::default();
        waiting.begin(1, &Known::default());
        waiting.begin(1, &Known::default());
        waiting.end(1, Stored::Nowhere);
        assert!(waiting.waits(1, &Known::default()));
        waiting.end(1, Stored::Nowhere);
        assert!(!waiting.waits(1, &Known::default()) && waiting.keys.is_empty());
    }

    #[test]
    fn after_a_start_every_key_waits_until_what_was_there_is_over() {
        let mut waiting = Waiting::default();
        let mut known = Known { end: 10, below: 9, ..Known::default() };
        assert!(waiting.waits(1, &known));
        store(&mut waiting, 2, 12);
        known.below = 10;
        assert!(!waiting.waits(1, &known) && waiting.waits(2, &known));
    }

    #[test]
    fn while_a_topic_is_not_open_every_key_waits_and_then_for_all_that_is_there() {
        let mut waiting = Waiting::default();
        let mut known = Known { opening: None, ..Known::default() };
        assert!(waiting.waits(1, &known), "what is there nobody can know");
        known = Known { end: 10, below: 9, ..Known::default() };
        assert!(waiting.waits(1, &known));
        known.below = 10;
        assert!(!waiting.waits(1, &known));
        // On its way when the log fails: whether it is there shows when it is opened again.
        waiting.begin(1, &known);
        known.opening = None;
        waiting.end(1, Stored::Nowhere);
        assert!(waiting.waits(1, &known));
        (known.opening, known.end) = (Some(2), 11);
        assert!(waiting.waits(1, &known) && waiting.waits(2, &known));
        known.below = 11;
        assert!(!waiting.waits(1, &known) && waiting.keys.is_empty());
    }

    #[test]
    fn more_keys_than_are_remembered_all_wait() {
        let mut waiting = Waiting { max_keys: 2, ..Waiting::default() };
        for (key, at) in [(1, 1), (2, 2), (3, 3)] {
            store(&mut waiting, key, at);
        }
        let mut known = Known::default();
        assert!(waiting.keys.len() == 2 && waiting.waits(4, &known));
        known.below = 4;
        assert!(!waiting.waits(4, &known));
    }

    #[test]
    fn what_is_over_is_forgotten_even_if_its_key_never_comes_again() {
        let mut waiting = Waiting::default();
        for key in 0..10 * SMALLEST_SWEEP as u64 {
            let known = Known { below: key, ..Known::default() };
            waiting.begin(key, &known);
            waiting.end(key, Stored::At(Offset(key)));
            assert!(waiting.keys.len() <= 2 * SMALLEST_SWEEP);
        }
    }

    proptest! {
        /// Against a list of all that was stored: nobody overtakes, whatever the bounds.
        #[test]
        fn no_key_is_let_past_one_that_waits(
            steps in prop::collection::vec((0..3_u8, 0..6_u8), 1..80), max_keys in 1..5_usize
        ) {
            let mut waiting = Waiting { max_keys, sweep_at: 3, ..Waiting::default() };
            let (mut all, mut known) = (Vec::new(), Known::default());
            for (what, number) in steps {
                let key = u64::from(number);
                match what {
                    0 => {
                        let at = all.len() as u64;
                        waiting.begin(key, &known);
                        waiting.end(key, Stored::At(Offset(at)));
                        all.push(key);
                    }
                    1 => {
                        if let Some(at) = all.len().checked_sub(1 + usize::from(number)) {
                            known.over.insert(at as u64);
                            while known.over.contains(&known.below) {
                                known.below += 1;
                            }
                        }
                    }
                    _ => {
                        // The last of a key is over after those before it: they are in order.
                        let last = all.iter().rposition(|it| *it == key);
                        if last.is_some_and(|at| !known.over.contains(&(at as u64))) {
                            prop_assert!(waiting.waits(key, &known));
                        }
                    }
                }
            }
        }
    }
}
