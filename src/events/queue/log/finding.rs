//! Looks for something in a log.

use super::{error::ReadError, reader::Reader};
use crate::events::queue::{Offset, codec::Record};

/// Read at once.
const BLOCK: usize = 1 << 20;

// === impl Reader ===

impl Reader {
    /// The first that `is_it` says yes to, of all records from `from` to the end as it is when that is
    /// reached. Blocks.
    ///
    /// What is gone by age is passed over, and so are bytes that nobody can read: whatever is there is
    /// there for nobody. Who must not miss anything reads block by block.
    pub fn find<T>(
        &mut self,
        from: Offset,
        mut is_it: impl FnMut(Offset, &Record<'_>) -> Option<T>,
    ) -> Result<Option<T>, ReadError> {
        let mut next = from;
        loop {
            let block = match self.read(next, BLOCK) {
                Ok(block) => block,
                Err(ReadError::Retired { start }) => {
                    next = start;
                    continue;
                }
                Err(ReadError::Damaged { range }) => {
                    next = range.end;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if block.is_empty() {
                return Ok(None);
            }
            for (offset, record) in block.records() {
                if let Some(found) = is_it(offset, &record) {
                    return Ok(Some(found));
                }
            }
            next = block.next();
        }
    }
}
