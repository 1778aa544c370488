//! CHECKPOINT: the log's start and how far it was on disk, written from time to time.

use super::{
    chain::{self, Known},
    error::OpenError,
    segment::CHECKPOINT,
    settings::Place,
};
use crate::events::queue::{
    Offset,
    codec::{Checkpoint, FileError},
};

/// Far more than the file has.
const LIMIT: u64 = 4096;

/// What it says; none if it does not exist.
pub(super) fn read(place: &Place) -> Result<Option<Known>, OpenError> {
    let bytes =
        chain::read_whole(place, CHECKPOINT, LIMIT).map_err(OpenError::io("CHECKPOINT is read"))?;
    let Some(bytes) = bytes else { return Ok(None) };
    let file = || place.path(CHECKPOINT).display().to_string();
    match Checkpoint::decode(&bytes) {
        Ok(it) if (it.store, it.log) != (place.store, place.id) => Err(OpenError::Foreign {
            file: file(),
            found: format!("log {} of store {}", it.log, it.store),
            expected: format!("log {} of store {}", place.id, place.store),
        }),
        Ok(it) => Ok(Some(Known { start: it.start, durable: it.durable, is_bad: false })),
        Err(error @ FileError::Newer { .. }) => {
            Err(OpenError::Newer { file: file(), message: error.to_string() })
        }
        Err(error) => {
            tracing::error!(log = %place.id, %error, "CHECKPOINT is damaged");
            Ok(Some(Known { is_bad: true, ..Known::default() }))
        }
    }
}

/// The bytes of the file.
pub(super) fn encode(place: &Place, start: Offset, durable: Offset) -> Vec<u8> {
    Checkpoint { store: place.store, log: place.id, start, durable }.encode()
}
