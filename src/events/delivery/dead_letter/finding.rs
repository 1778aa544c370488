//! Whether a dead letter was appended already.

use super::Death;
use crate::events::{
    delivery::{
        side_log::{Appended, SideLog},
        subscription::{Letter, Place},
    },
    queue::{
        Offset,
        log::{ReadError, Reader},
        pool::Pool,
    },
};

/// The dead letter of an event whose outcome was written, if it was appended.
pub async fn find(
    letters: &SideLog,
    pool: &Pool,
    letter: &Letter,
) -> Result<Option<Appended>, String> {
    let (shelf, from, origin, at) =
        (letters.shelf().clone(), letter.target.end, letter.place, letter.at);
    let look = move || shelf.read(|reader| look(reader, from, origin, at));
    match pool.run(look).await {
        Ok(Some(Ok(found))) => Ok(found),
        Ok(Some(Err(error))) => Err(error.to_string()),
        Ok(None) => Ok(None),
        Err(undone) => Err(undone.to_string()),
    }
}

fn look(
    reader: &mut Reader,
    from: Offset,
    origin: Place,
    at: u64,
) -> Result<Option<Appended>, ReadError> {
    let mut next = from;
    loop {
        let block = match reader.read(next, 256 << 10) {
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
            let is_it = |death: Death| death.origin == origin && death.at == at;
            if Death::read(&record).is_ok_and(is_it) {
                let bytes = u32::try_from(record.encoded_bytes()).unwrap_or(u32::MAX);
                return Ok(Some(Appended { offset, bytes }));
            }
        }
        next = block.next();
    }
}
