//! Which events wait, and until when. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::events::queue::Offset;

/// Waiting events: about 60 bytes each.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// When each is due, and its size in bytes.
    events: BTreeMap<Offset, (u64, u32)>,
    /// In order of due time, then of offset.
    by_due: BTreeSet<(u64, Offset)>,
    bytes: u64,
}

// === impl Waiting ===

impl Waiting {
    pub(super) fn insert(&mut self, offset: Offset, due: u64, bytes: u32) {
        self.remove(offset);
        self.events.insert(offset, (due, bytes));
        self.by_due.insert((due, offset));
        self.bytes += u64::from(bytes);
    }

    pub(super) fn remove(&mut self, offset: Offset) {
        if let Some((due, bytes)) = self.events.remove(&offset) {
            self.by_due.remove(&(due, offset));
            self.bytes -= u64::from(bytes);
        }
    }

    pub(super) fn contains(&self, offset: Offset) -> bool {
        self.events.contains_key(&offset)
    }

    pub(super) fn len(&self) -> u64 {
        self.events.len() as u64
    }

    /// Bytes they take on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The lowest offset that still waits.
    pub(super) fn first(&self) -> Option<Offset> {
        self.events.first_key_value().map(|(offset, _)| *offset)
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.by_due.first().map(|(due, _)| *due)
    }

    /// The oldest by offset below `end`, up to `most` of them and about `bytes` bytes.
    pub(super) fn oldest(&self, end: Offset, most: usize, bytes: u64) -> Vec<Offset> {
        let oldest = self.events.range(..end).map(|(offset, (_, size))| (*offset, *size));
        fitting(oldest, most, bytes)
    }

    /// Due events in due order, up to `most` of them and about `bytes` bytes.
    pub(super) fn due(&self, wall: u64, most: usize, bytes: u64) -> Vec<Offset> {
        let due = self.by_due.iter().take_while(|(due, _)| *due <= wall);
        let size = |offset: &Offset| self.events.get(offset).map_or(0, |(_, bytes)| *bytes);
        fitting(due.map(|(_, offset)| (*offset, size(offset))), most, bytes)
    }

    /// Postpones events due at `wall`: they follow one another from `from` on within `span`, in
    /// order.
    pub(super) fn spread(&mut self, wall: u64, from: u64, span: u64) {
        let due: Vec<_> = self.by_due.iter().take_while(|(due, _)| *due <= wall).copied().collect();
        let count = due.len() as u64;
        for (number, (due, offset)) in (0_u128..).zip(due) {
            let later = u128::from(span) * number / u128::from(count.max(1));
            let later = from.saturating_add(u64::try_from(later).unwrap_or(span));
            self.by_due.remove(&(due, offset));
            self.by_due.insert((later, offset));
            if let Some(event) = self.events.get_mut(&offset) {
                event.0 = later;
            }
        }
    }
}

/// At least one, if there is one.
fn fitting(events: impl Iterator<Item = (Offset, u32)>, most: usize, bytes: u64) -> Vec<Offset> {
    let mut left = bytes;
    let mut taken = Vec::new();
    for (offset, size) in events.take(most) {
        if !taken.is_empty() && u64::from(size) > left {
            break;
        }
        left = left.saturating_sub(u64::from(size));
        taken.push(offset);
    }
    taken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_equals_a_list(
            steps in prop::collection::vec((0_u8..4, 0_u64..20, 0_u64..100, 1_u32..50), 1..80),
        ) {
            let mut waiting = Waiting::default();
            let mut list: Vec<(u64, Offset, u32)> = Vec::new();
            for (step, offset, due, bytes) in steps {
                let offset = Offset(offset);
                match step {
                    0 | 1 => {
                        list.retain(|it| it.1 != offset);
                        list.push((due, offset, bytes));
                        waiting.insert(offset, due, bytes);
                    }
                    2 => {
                        list.retain(|it| it.1 != offset);
                        waiting.remove(offset);
                    }
                    _ => {
                        list.sort_unstable();
                        let count = list.iter().filter(|it| it.0 <= due).count() as u64;
                        for (number, it) in (0..).zip(list.iter_mut().filter(|it| it.0 <= due)) {
                            it.0 = due + 3 + 10 * number / count;
                        }
                        waiting.spread(due, due + 3, 10);
                    }
                }
                list.sort_unstable();
                let all = waiting.due(u64::MAX, usize::MAX, u64::MAX);
                prop_assert_eq!(all, list.iter().map(|it| it.1).collect::<Vec<_>>());
                prop_assert_eq!(waiting.next_due(), list.first().map(|it| it.0));
                prop_assert_eq!(waiting.first(), list.iter().map(|it| it.1).min());
                prop_assert_eq!(waiting.bytes(), list.iter().map(|it| u64::from(it.2)).sum::<u64>());
                prop_assert_eq!(waiting.len(), list.len() as u64);
            }
        }
    }
}
