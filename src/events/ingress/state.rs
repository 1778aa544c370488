//! What is owed to requests, in memory: a pure state machine over the records of the ingress log.
//!
//! Invariant: **everything that is not settled lies at or above [`State::low`]**, so reading the
//! log from there finds all of it again. An exchange counts even before its first record has an
//! offset.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound::{Excluded, Unbounded},
};

use super::record::Entry;
use crate::events::queue::Offset;

/// The ID of an exchange in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id(u64);

/// Unsettled exchanges.
#[derive(Debug, Default)]
pub(super) struct State {
    exchanges: BTreeMap<Id, Exchange>,
    next: u64,
    /// While the log is read: offsets at which exchanges began, to match later records.
    begun: HashMap<Offset, Id>,
}

#[derive(Clone, Copy, Debug)]
struct Exchange {
    stage: Stage,
    /// Only recovery continues it, see [`State::orphans`].
    is_orphan: bool,
}

/// The stage of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its first frame has no offset yet, but will be at or above `floor`.
    Beginning { floor: Offset },
    /// Its request may have been sent; it has this many intents, from `at` on.
    Begun { at: Offset, intents: u16 },
    /// The frame that ends it may or may not be written.
    InDoubt { at: Offset, intents: u16 },
    /// This many events from `first` on may be missing in their topics.
    Owing { first: Offset, count: u16 },
}

// === impl State ===

impl State {
    /// The number of exchanges.
    pub(super) fn len(&self) -> usize {
        self.exchanges.len()
    }

    /// Begins an exchange, whose records will be at or above `floor`.
    pub(super) fn begin(&mut self, floor: Offset) -> Id {
        self.insert(Stage::Beginning { floor }, false)
    }

    fn insert(&mut self, stage: Stage, is_orphan: bool) -> Id {
        let id = Id(self.next);
        self.next += 1;
        self.exchanges.insert(id, Exchange { stage, is_orphan });
        id
    }

    /// Sets its stage.
    pub(super) fn set(&mut self, id: Id, stage: Stage) {
        if let Some(exchange) = self.exchanges.get_mut(&id) {
            exchange.stage = stage;
        }
    }

    /// It owes nothing any more.
    pub(super) fn end(&mut self, id: Id) {
        self.exchanges.remove(&id);
    }

    /// Its owner is gone.
    pub(super) fn abandon(&mut self, id: Id) {
        match self.exchanges.get_mut(&id) {
            // Nothing was written, or nobody was told so: nothing was sent.
            Some(Exchange { stage: Stage::Beginning { .. }, .. }) => self.end(id),
            Some(exchange) => exchange.is_orphan = true,
            None => {}
        }
    }

    /// Up to `most` orphans after `after`, oldest first.
    pub(super) fn orphans(&self, after: Option<Id>, most: usize) -> Vec<(Id, Stage)> {
        let later = (after.map_or(Unbounded, Excluded), Unbounded);
        let orphans = self.exchanges.range(later).filter(|(_, exchange)| exchange.is_orphan);
        orphans.take(most).map(|(id, exchange)| (*id, exchange.stage)).collect()
    }

    /// Everything below is settled, in a log that is durable up to `durable`.
    pub(super) fn low(&self, durable: Offset) -> Offset {
        let at = self.exchanges.values().map(|exchange| exchange.stage.at());
        at.min().map_or(durable, |at| at.min(durable))
    }

    /// Applies the next record of a log that is read from its beginning.
    pub(super) fn replay(&mut self, offset: Offset, entry: Entry) {
        match entry {
            Entry::Intent { .. } | Entry::Claim { .. } => {
                let index = if let Entry::Intent { index } = entry { index } else { 0 };
                let at = Offset(offset.0.saturating_sub(index.into()));
                let stage = Stage::Begun { at, intents: index.saturating_add(1) };
                match self.begun.get(&at) {
                    Some(id) => self.set(*id, stage),
                    None => drop(self.replayed(at, stage)),
                }
            }
            Entry::Answer { exchange, .. } => {
                if let Some(id) = self.begun.remove(&exchange) {
                    self.end(id);
                }
            }
            Entry::Owed { exchange } => match self.begun.get(&exchange).copied() {
                Some(id) => {
                    if let Some(Exchange { stage: Stage::Owing { count, .. }, .. }) =
                        self.exchanges.get_mut(&id)
                    {
                        *count = count.saturating_add(1);
                    }
                }
                None => drop(self.replayed(exchange, Stage::Owing { first: offset, count: 1 })),
            },
            Entry::Resolved(_) | Entry::Request { .. } => {}
            Entry::Settled { below } => {
                self.exchanges.retain(|_, exchange| exchange.stage.at() >= below);
                let exchanges = &self.exchanges;
                self.begun.retain(|_, id| exchanges.contains_key(id));
            }
        }
    }

    fn replayed(&mut self, began: Offset, stage: Stage) -> Id {
        let id = self.insert(stage, true);
        self.begun.insert(began, id);
        id
    }

    /// The log was read to its end.
    pub(super) fn replayed_all(&mut self) {
        self.begun = HashMap::new();
    }
}

// === impl Stage ===

impl Stage {
    /// The first offset it needs.
    fn at(self) -> Offset {
        match self {
            Self::Beginning { floor: at }
            | Self::Begun { at, .. }
            | Self::InDoubt { at, .. }
            | Self::Owing { first: at, .. } => at,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_under_way_keeps_the_low_mark_from_before_it_has_an_offset() {
        let mut state = State::default();
        assert_eq!(state.low(Offset(7)), Offset(7));
        let id = state.begin(Offset(7));
        assert_eq!(state.low(Offset(20)), Offset(7));
        state.set(id, Stage::Begun { at: Offset(9), intents: 2 });
        assert_eq!(state.low(Offset(20)), Offset(9));
        state.set(id, Stage::Owing { first: Offset(15), count: 1 });
        assert_eq!(state.low(Offset(20)), Offset(15));
        state.end(id);
        assert_eq!(state.low(Offset(20)), Offset(20));
    }

    #[test]
    fn what_was_never_begun_leaves_nothing_behind_and_the_rest_an_orphan() {
        let mut state = State::default();
        let first = state.begin(Offset(1));
        let second = state.begin(Offset(1));
        state.set(second, Stage::Begun { at: Offset(1), intents: 1 });
        state.abandon(first);
        assert!(state.orphans(None, 9).is_empty());
        state.abandon(second);
        assert_eq!(state.orphans(None, 9), [(second, Stage::Begun { at: Offset(1), intents: 1 })]);
    }

    #[test]
    fn numbers_that_nobody_writes_are_read_as_far_as_they_go() {
        let mut state = State::default();
        state.replay(Offset(9), Entry::Intent { index: u16::MAX });
        let begun = Stage::Begun { at: Offset::ZERO, intents: u16::MAX };
        assert_eq!(state.orphans(None, 9).iter().map(|it| it.1).collect::<Vec<_>>(), [begun]);
        let mut state = State::default();
        for offset in 0..=u64::from(u16::MAX) + 1 {
            state.replay(Offset(100 + offset), Entry::Owed { exchange: Offset(1) });
        }
        let owing = Stage::Owing { first: Offset(100), count: u16::MAX };
        assert_eq!(state.orphans(None, 9).iter().map(|it| it.1).collect::<Vec<_>>(), [owing]);
    }

    /// Interleaved exchanges in a log, and what a reader must find of them.
    #[derive(Clone, Debug)]
    enum Step {
        Begin(u16),
        Answer(usize, u16),
        Settle(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1_u16..4).prop_map(Step::Begin),
            (any::<usize>(), 0_u16..4).prop_map(|(which, events)| Step::Answer(which, events)),
            any::<usize>().prop_map(Step::Settle),
        ]
    }

    proptest! {
        #[test]
        fn a_log_read_again_says_what_the_one_that_wrote_it_knew(
            steps in prop::collection::vec(step(), 0..60),
            marks in prop::collection::vec(0_usize..60, 0..4),
        ) {
            let (mut live, mut entries) = (State::default(), Vec::new());
            let mut under_way: Vec<(Id, Offset)> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                let end = Offset(entries.len() as u64);
                match step {
                    Step::Begin(intents) => {
                        let id = live.begin(end);
                        entries.extend((0..intents).map(|index| Entry::Intent { index }));
                        live.set(id, Stage::Begun { at: end, intents });
                        under_way.push((id, end));
                    }
                    Step::Answer(which, count) if !under_way.is_empty() => {
                        let (id, exchange) = under_way.swap_remove(which % under_way.len());
                        entries.push(Entry::Answer { exchange, key: None });
                        entries.extend((0..count).map(|_| Entry::Owed { exchange }));
                        let first = end.plus(1);
                        match count {
                            0 => live.end(id),
                            _ => live.set(id, Stage::Owing { first, count }),
                        }
                    }
                    Step::Settle(which) => {
                        let owing: Vec<_> = live.exchanges.iter()
                            .filter(|(_, it)| matches!(it.stage, Stage::Owing { .. }))
                            .map(|(id, _)| *id).collect();
                        if !owing.is_empty() {
                            live.end(owing[which % owing.len()]);
                        }
                    }
                    Step::Answer(..) => {}
                }
                if marks.contains(&number) {
                    entries.push(Entry::Settled { below: live.low(Offset(entries.len() as u64)) });
                }
            }
            let mut read = State::default();
            for (offset, entry) in entries.iter().enumerate() {
                read.replay(Offset(offset as u64), *entry);
            }
            read.replayed_all();
            let stages = |state: &State| {
                let mut stages: Vec<_> = state.exchanges.values().map(|it| it.stage).collect();
                stages.sort_by_key(|stage| stage.at());
                stages
            };
            // Only the mark says what is settled: what was settled after the last is found again.
            let found = stages(&read);
            prop_assert!(stages(&live).iter().all(|stage| found.contains(stage)));
            prop_assert!(read.orphans(None, usize::MAX).len() == found.len());
        }
    }
}
