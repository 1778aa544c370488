//! A log on a modelled machine, driven step by step by the test's own thread, with a ledger of what
//! was promised.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    super::{batch::Item, open::OpenLog, *},
    draft, number, place,
};
use crate::events::queue::{Offset, storage::model::Model, time::Now};

/// What was promised and seen of one log, over all runs of its machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    /// By offset: what was acknowledged or read, which promises the same.
    pub(super) promised: BTreeMap<u64, u64>,
    /// By offset: everything that may be there.
    pub(super) possible: BTreeMap<u64, Vec<u64>>,
    /// The next number.
    pub(super) next: u64,
    /// Numbers with an unknown outcome.
    pub(super) unknown: Vec<u64>,
    /// Numbers that were refused, and must never be there.
    pub(super) refused: Vec<u64>,
}

/// A log that a test drives.
#[derive(Debug)]
pub(super) struct Driven {
    pub(super) shared: Arc<OpenLog>,
    pub(super) log: Log,
}

pub(super) fn settings() -> Settings {
    // Nothing happens in the background.
    Settings { segment_bytes: 12 << 10, first_bytes: None, ..Settings::default() }
}

impl Driven {
    pub(super) fn open(model: &Model, settings: &Settings) -> Result<Self, OpenError> {
        Self::open_at(model, settings, Offset::ZERO)
    }

    pub(super) fn open_at(
        model: &Model,
        settings: &Settings,
        floor: Offset,
    ) -> Result<Self, OpenError> {
        thread_local! {
            // Never used: the test's own thread writes.
            static WRITER: Writer = super::writer();
        }
        let place = place(Arc::new(model.clone()));
        let opened =
            WRITER.with(|writer| OpenLog::open(writer, place, settings, floor, Box::new(Plain)));
        let (shared, _) = opened?;
        Ok(Self { log: Log::of(shared.clone()), shared })
    }

    /// Writes a frame, and syncs it if it is awaited. Acknowledged events go into the ledger.
    pub(super) fn append(&self, ledger: &mut Ledger, counts: &[u64], is_awaited: bool) {
        let mut items: Vec<Item> = Vec::new();
        let mut numbers: Vec<Vec<u64>> = Vec::new();
        for count in counts {
            let of_item: Vec<u64> = (ledger.next..ledger.next + count).collect();
            ledger.next += count;
            items.push(Item::new(of_item.iter().map(|n| draft(*n)).collect()));
            numbers.push(of_item);
        }
        let now = Now { wall: 1_700_000_000_000, mono: 5_000 };
        let outcomes = self.shared.with_core(|core| {
            core.write(&mut items, now);
            for (item, numbers) in items.iter().zip(&numbers) {
                ledger.may_be(item, numbers);
            }
            if is_awaited {
                core.sync().ok();
            }
            let settle = |(outcome, needs)| core.settle(outcome, needs, true);
            items.into_iter().map(Item::into_outcome).map(settle).collect::<Vec<_>>()
        });
        for (outcome, numbers) in outcomes.into_iter().flatten().zip(&numbers) {
            match outcome {
                Ok(appended) => ledger.promise(&appended, numbers),
                Err(AppendError::Refused(_)) => ledger.refused.extend(numbers),
                Err(AppendError::Unknown | AppendError::Stopped) => ledger.unknown.extend(numbers),
            }
        }
    }

    /// Reads everything and compares it with the promises; it is then promised too.
    pub(super) fn check(&self, ledger: &mut Ledger) {
        let found: BTreeMap<u64, u64> = self.read().into_iter().collect();
        let start = self.log.start().0;
        for (offset, number) in ledger.promised.range(start..) {
            assert_eq!(found.get(offset), Some(number), "offset {offset} was promised");
        }
        for (offset, number) in &found {
            let possible = ledger.possible.get(offset).is_some_and(|all| all.contains(number));
            let possible = possible || ledger.unknown.contains(number);
            assert!(possible, "offset {offset} has {number}, which was never written there");
            assert!(!ledger.refused.contains(number), "{number} was refused, and is there");
        }
        let offsets: Vec<u64> = found.keys().copied().collect();
        let expected: Vec<u64> = (start..self.log.durable().0).collect();
        assert_eq!(offsets, expected, "a gap");
        assert!(found.values().is_sorted(), "events have changed places");
        ledger.promised.extend(found);
    }

    pub(super) fn read(&self) -> Vec<(u64, u64)> {
        let mut reader = self.log.reader();
        let mut from = self.log.start();
        let mut found = Vec::new();
        loop {
            let block = reader.read(from, 100_000).unwrap();
            if block.is_empty() {
                return found;
            }
            let records = block.records();
            found.extend(records.map(|(offset, record)| (offset.0, number(record.body()))));
            from = block.next();
        }
    }
}

impl Ledger {
    fn may_be(&mut self, item: &Item, numbers: &[u64]) {
        if let Some(Ok(appended)) = &item.outcome {
            for (appended, number) in appended.iter().zip(numbers) {
                self.possible.entry(appended.offset.0).or_default().push(*number);
            }
        }
    }

    fn promise(&mut self, appended: &[Appended], numbers: &[u64]) {
        for (appended, number) in appended.iter().zip(numbers) {
            let before = self.promised.insert(appended.offset.0, *number);
            assert_eq!(before, None, "{} was given out twice", appended.offset);
        }
    }
}
