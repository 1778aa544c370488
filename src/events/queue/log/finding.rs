//! Searches a log for a record.

use super::{error::ReadError, reader::Reader};
use crate::events::queue::{Offset, codec::Record};

/// Bytes read at once.
const BLOCK: usize = 1 << 20;

// === impl Reader ===

impl Reader {
    /// Blocks. Returns the first result of `is_it` for the records from `from` to the end, as it is
    /// when that is reached.
    ///
    /// Skips records that were retired or cannot be read: nobody can read those. A caller that must
    /// not miss anything reads block by block.
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
