//! Iterates over the records of a frame, past damaged ones.

use super::{
    reading::Reading,
    record::{self, Record, RecordError, Seed},
};
use crate::events::queue::Offset;

/// The search for a record after a damaged one reads at most the frame's length times this.
const RESYNC_FACTOR: usize = 8;

/// Iterates over the records of a frame: one item for each offset, whatever is damaged.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    seed: Seed,
    next: Offset,
    end: Offset,
    /// After an unreadable record, the next readable one: its offset and distance in bytes.
    resync: Option<(Offset, usize)>,
    /// Bytes that may still be read in searches.
    budget: usize,
}

// === impl Records ===

impl<'a> Records<'a> {
    pub(super) fn new(rest: &'a [u8], seed: Seed, next: Offset, end: Offset) -> Self {
        let budget = rest.len().saturating_mul(RESYNC_FACTOR);
        Self { rest, seed, next, end, resync: None, budget }
    }

    /// Whether no byte is left.
    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Searches after a damaged record for the next whole one: returns its offset and its distance
    /// in bytes. Tries the damaged record's length first.
    fn find(&mut self) -> Option<(Offset, usize)> {
        let told = Reading(self.rest).u32().map(|it| it as usize)?;
        let told = told.next_multiple_of(record::ALIGNMENT);
        if told >= record::RECORD_HEADER_BYTES && self.is_record(told, self.next) {
            return Some((self.next, told));
        }
        let mut at = record::ALIGNMENT;
        while at + record::RECORD_HEADER_BYTES <= self.rest.len() && self.budget > 0 {
            let candidate = self.candidate(at);
            if let Some(offset) = candidate.filter(|offset| self.is_record(at, *offset)) {
                return Some((offset, at));
            }
            self.budget = self.budget.saturating_sub(1);
            at += record::ALIGNMENT;
        }
        None
    }

    /// The offset of a record that begins there, if it is one still to come.
    fn candidate(&self, at: usize) -> Option<Offset> {
        let low = Reading(self.rest.get(at + 36..)?).u32()?;
        #[expect(clippy::cast_possible_truncation, reason = "the low half is what a record tells")]
        let ahead = low.wrapping_sub(self.next.0 as u32);
        let offset = self.next.plus(u64::from(ahead));
        (offset < self.end).then_some(offset)
    }

    fn is_record(&mut self, at: usize, offset: Offset) -> bool {
        let Some(bytes) = self.rest.get(at..) else { return false };
        if offset >= self.end || !record::may_begin(bytes, offset) {
            return false;
        }
        let told = Reading(bytes).u32().map_or(0, |it| it as usize).min(bytes.len());
        if told > self.budget {
            return false;
        }
        self.budget -= told;
        !matches!(Record::decode(bytes, self.seed, offset), Err(RecordError::Damaged))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = (Offset, Result<Record<'a>, RecordError>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let offset = self.next;
        self.next = offset.plus(1);
        if let Some((found, at)) = self.resync {
            if offset < found {
                return Some((offset, Err(RecordError::Damaged)));
            }
            self.resync = None;
            self.rest = self.rest.get(at..).unwrap_or_default();
        }
        match Record::decode(self.rest, self.seed, offset) {
            Ok((record, length)) => {
                self.rest = self.rest.get(length..).unwrap_or_default();
                Some((offset, Ok(record)))
            }
            Err(RecordError::Damaged) => {
                // None found: all that follow are lost, and no further search is made.
                self.resync = Some(self.find().unwrap_or((self.end, self.rest.len())));
                Some((offset, Err(RecordError::Damaged)))
            }
            Err(other) => {
                let length = Reading(self.rest).u32().map_or(0, |it| it as usize);
                let length = length.next_multiple_of(record::ALIGNMENT);
                self.rest = self.rest.get(length..).unwrap_or_default();
                Some((offset, Err(other)))
            }
        }
    }
}
