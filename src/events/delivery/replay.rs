//! Restores delivery state from a snapshot and the journal after it. Pure.
//!
//! **Behind a gap in the journal nothing counts** for a subscription whose state is older than the
//! gap. A record that says how far was scanned stands for everything found up to there. If such a
//! record is lost, applying the next one would leave events behind that were never settled. What is
//! ignored is delivered again, which is still at least once; what is applied wrongly is never
//! delivered.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
};

use uuid::Uuid;

use super::{encoding::Malformed, journal, runner::Restored, snapshot::Snapshot};
use crate::events::queue::Offset;

/// Delivery state restored so far.
#[derive(Debug)]
pub struct Replay {
    restored: HashMap<Uuid, Restored>,
    /// Up to which journal offset the snapshot contains each subscription.
    positions: HashMap<Uuid, Offset>,
    /// The journal offset expected next.
    next: Offset,
    /// From the first lost offset to the end of the last.
    lost: Option<Range<Offset>>,
}

/// Restored delivery state.
#[derive(Debug, Default)]
pub struct Replayed {
    /// By subscription.
    pub restored: HashMap<Uuid, Restored>,
    /// Subscriptions for which everything behind the loss was ignored.
    pub behind: BTreeSet<Uuid>,
    /// The lost range of the journal that would have been needed.
    pub lost: Option<Range<Offset>>,
}

// === impl Replay ===

impl Replay {
    /// Starts from a snapshot. Then feed the journal from [`Snapshot::start`] on.
    pub fn new(snapshot: &Snapshot) -> Result<Self, Malformed> {
        let (mut restored, mut positions) = (HashMap::new(), HashMap::new());
        for section in &snapshot.sections {
            let state = journal::decode_state(&section.state)?;
            restored.insert(section.subscription, Restored { state, entries: Vec::new() });
            positions.insert(section.subscription, section.position);
        }
        Ok(Self { restored, positions, next: snapshot.start(), lost: None })
    }

    /// The journal offset expected next.
    pub fn next(&self) -> Offset {
        self.next
    }

    /// Applies the next record. One from before [`Replay::next`] is ignored.
    pub fn take(&mut self, offset: Offset, body: &[u8]) -> Result<(), Malformed> {
        if offset < self.next {
            return Ok(());
        }
        self.skip(offset);
        let step = match journal::decode(body) {
            // Intact but not decodable: treat it as lost.
            Err(Malformed::Bytes) => {
                self.skip(offset.plus(1));
                return Ok(());
            }
            step => step?,
        };
        self.next = offset.plus(1);
        let position = self.position(step.subscription);
        if offset >= position && !self.is_behind(position) {
            self.restored.entry(step.subscription).or_default().entries.extend(step.entries);
        }
        Ok(())
    }

    /// The journal continues at `to`: everything expected before is lost.
    pub fn skip(&mut self, to: Offset) {
        if to > self.next {
            let from = self.lost.as_ref().map_or(self.next, |lost| lost.start);
            (self.lost, self.next) = (Some(from..to), to);
        }
    }

    /// The journal ends at `end`.
    pub fn finish(mut self, end: Offset) -> Replayed {
        self.skip(end);
        let known = self.restored.keys().copied();
        let behind: BTreeSet<Uuid> =
            known.filter(|id| self.is_behind(self.position(*id))).collect();
        Replayed { restored: self.restored, behind, lost: self.lost }
    }

    fn position(&self, subscription: Uuid) -> Offset {
        self.positions.get(&subscription).copied().unwrap_or_default()
    }

    /// Whether a loss lies behind a state at `position`.
    fn is_behind(&self, position: Offset) -> bool {
        self.lost.as_ref().is_some_and(|lost| lost.end > position)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::events::delivery::{
        snapshot::Section,
        subscription::{Entry, LaneId, State},
    };

    const ONE: Uuid = Uuid::from_u128(1);
    const TWO: Uuid = Uuid::from_u128(2);

    fn section(subscription: Uuid, position: u64) -> Section {
        let state = journal::encode_state(&State::default());
        Section { subscription, position: Offset(position), state }
    }

    fn scanned(to: u64) -> Entry {
        let (moved, added) = (Vec::new(), Vec::new());
        Entry::Scanned { lane: LaneId::LIVE, to: Offset(to), moved, added }
    }

    fn step(subscription: Uuid, to: u64) -> Bytes {
        journal::encode(subscription, &[scanned(to)])
    }

    fn entries(replayed: &Replayed, subscription: Uuid) -> Vec<Entry> {
        replayed.restored[&subscription].entries.clone()
    }

    #[test]
    fn what_the_journal_has_after_the_snapshot_is_taken_and_nothing_twice() {
        let snapshot = Snapshot { sections: vec![section(ONE, 5), section(TWO, 7)] };
        let mut replay = Replay::new(&snapshot).unwrap();
        assert_eq!(replay.next(), Offset(5));
        for (offset, of) in [(4, ONE), (5, ONE), (6, TWO), (7, TWO), (8, ONE)] {
            replay.take(Offset(offset), &step(of, offset)).unwrap();
        }
        let replayed = replay.finish(Offset(9));
        assert_eq!(entries(&replayed, ONE), [scanned(5), scanned(8)]);
        assert_eq!(entries(&replayed, TWO), [scanned(7)]);
        assert_eq!((replayed.behind.len(), replayed.lost), (0, None));
    }

    #[test]
    fn behind_a_gap_nothing_counts_but_for_a_state_from_behind_it() {
        let snapshot = Snapshot { sections: vec![section(ONE, 5), section(TWO, 8)] };
        let mut replay = Replay::new(&snapshot).unwrap();
        replay.take(Offset(5), &step(ONE, 5)).unwrap();
        for (offset, of) in [(8, ONE), (9, TWO)] {
            replay.take(Offset(offset), &step(of, offset)).unwrap();
        }
        let replayed = replay.finish(Offset(10));
        assert_eq!(entries(&replayed, ONE), [scanned(5)]);
        assert_eq!(entries(&replayed, TWO), [scanned(9)]);
        assert!(replayed.behind.iter().eq([&ONE]));
        assert_eq!(replayed.lost, Some(Offset(6)..Offset(8)));
    }

    #[test]
    fn a_subscription_whose_first_record_is_lost_is_not_made_of_the_rest() {
        let mut replay = Replay::new(&Snapshot::default()).unwrap();
        replay.skip(Offset(3));
        replay.take(Offset(3), &step(ONE, 3)).unwrap();
        let replayed = replay.finish(Offset(4));
        assert!(replayed.restored.is_empty());
        assert_eq!(replayed.lost, Some(Offset(0)..Offset(3)));
    }

    #[test]
    fn what_is_lost_at_the_end_and_what_says_nothing_are_gaps_and_a_later_version_is_not() {
        let snapshot = Snapshot { sections: vec![section(ONE, 5)] };
        let replay = Replay::new(&snapshot).unwrap();
        let replayed = replay.finish(Offset(6));
        assert!(replayed.behind.contains(&ONE) && replayed.lost == Some(Offset(5)..Offset(6)));

        let mut replay = Replay::new(&snapshot).unwrap();
        replay.take(Offset(5), b"\0").unwrap();
        replay.take(Offset(6), &step(ONE, 6)).unwrap();
        assert_eq!(replay.take(Offset(7), b"\xff"), Err(Malformed::Newer));
        let replayed = replay.finish(Offset(7));
        assert_eq!(entries(&replayed, ONE), []);
        assert_eq!(replayed.lost, Some(Offset(5)..Offset(6)));
    }
}
