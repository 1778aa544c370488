//! Copies damaged bytes aside for later analysis. The program never removes the copies.

use std::{
    io::{self, ErrorKind},
    ops::Range,
};

use super::{segment::QUARANTINE, settings::Place};
use crate::events::queue::{Offset, storage::File};

/// Bytes copied at once.
const PIECE: u64 = 1 << 20;

/// Copies `bytes` of the file with this base aside, unless that was already done.
pub(super) fn keep(
    place: &Place,
    file: &dyn File,
    base: Offset,
    bytes: Range<u64>,
) -> io::Result<()> {
    let folder = place.path(QUARANTINE);
    place.storage.create_dir(&folder)?;
    let name = format!("{:020}.{}-{}.bad", base.0, bytes.start, bytes.end);
    let copy = match place.storage.create(&folder.join(name)) {
        Ok(copy) => copy,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut position = bytes.start;
    while position < bytes.end {
        let length = usize::try_from(PIECE.min(bytes.end - position)).unwrap_or(0);
        let mut piece = vec![0; length];
        let read = file.read_at(&mut piece, position)?;
        copy.write_at(&piece[..read], position - bytes.start)?;
        if read < length {
            break;
        }
        position += read as u64;
    }
    copy.sync()?;
    place.storage.sync_dir(&folder)
}
