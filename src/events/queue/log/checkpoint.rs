//! CHECKPOINT: where a log begins and up to where it was on disk, noted now and then.

use uuid::Uuid;

use super::{
    chain::{self, Known},
    error::OpenError,
    segment::CHECKPOINT,
    settings::Place,
};
use crate::events::queue::{LogId, Offset, StoreId};

const MAGIC: [u8; 8] = *b"SLUICE\x01C";
/// Of the file. A newer one is refused.
const VERSION: u32 = 1;
/// What the checksum covers; it follows.
const COVERED: usize = 8 + 4 + 4 + 16 + 16 + 8 + 8;

/// What it says; none: it is not there.
pub(super) fn read(place: &Place) -> Result<Option<Known>, OpenError> {
    let bytes = chain::read_whole(place, CHECKPOINT, COVERED as u64 + 4)
        .map_err(OpenError::io("CHECKPOINT is read"))?;
    let Some(bytes) = bytes else { return Ok(None) };
    let file = || place.path(CHECKPOINT).display().to_string();
    let Some((version, store, log, start, durable)) = decode(&bytes) else {
        tracing::error!(log = %place.id, "CHECKPOINT is damaged");
        return Ok(Some(Known { is_bad: true, ..Known::default() }));
    };
    if version > VERSION {
        let message = format!("it has format {version}, and this program knows up to {VERSION}");
        return Err(OpenError::Newer { file: file(), message });
    }
    if (store, log) != (place.store, place.id) {
        return Err(OpenError::Foreign {
            file: file(),
            found: format!("log {log} of store {store}"),
            expected: format!("log {} of store {}", place.id, place.store),
        });
    }
    Ok(Some(Known { start, durable, is_bad: false }))
}

/// As it is on disk.
pub(super) fn encode(place: &Place, start: Offset, durable: Offset) -> Vec<u8> {
    let mut out = Vec::with_capacity(COVERED + 4);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(place.store.0.as_bytes());
    out.extend_from_slice(place.id.0.as_bytes());
    out.extend_from_slice(&start.0.to_le_bytes());
    out.extend_from_slice(&durable.0.to_le_bytes());
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// `None`: it is none, or damaged.
fn decode(bytes: &[u8]) -> Option<(u32, StoreId, LogId, Offset, Offset)> {
    let (covered, crc) = bytes.split_at_checked(COVERED)?;
    if covered[..8] != MAGIC || crc != crc32c::crc32c(covered).to_le_bytes() {
        return None;
    }
    let uuid = |at: usize| Uuid::from_slice(covered.get(at..at + 16)?).ok();
    let number = |at: usize| Some(u64::from_le_bytes(covered.get(at..at + 8)?.try_into().ok()?));
    let version = u32::from_le_bytes(covered.get(8..12)?.try_into().ok()?);
    let (store, log) = (StoreId(uuid(16)?), LogId(uuid(32)?));
    Some((version, store, log, Offset(number(48)?), Offset(number(56)?)))
}
