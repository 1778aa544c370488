//! Finds out whether a dead letter was already appended.

use super::Death;
use crate::events::{
    delivery::{
        side_log::{Appended, SideLog},
        subscription::{Letter, Place, Reason},
    },
    queue::{
        Offset,
        log::{ReadError, Reader},
        pool::Pool,
    },
};

/// The dead letter of an event whose outcome is recorded, if it was appended, and its reason.
pub async fn find(
    letters: &SideLog,
    pool: &Pool,
    letter: &Letter,
) -> Result<Option<(Appended, Reason)>, String> {
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
) -> Result<Option<(Appended, Reason)>, ReadError> {
    reader.find(from, |offset, record| {
        let is_it = |death: &Death| death.origin == origin && death.at == at;
        let death = Death::read(record).ok().filter(is_it)?;
        let bytes = u32::try_from(record.encoded_bytes()).unwrap_or(u32::MAX);
        Some((Appended { offset, bytes }, death.reason))
    })
}
