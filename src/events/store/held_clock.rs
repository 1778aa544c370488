//! CLOCK: remembers over a restart that the clock was not trusted.
//!
//! A start trusts the clock if it is near the last frame. But while the clock is frozen, frames are
//! written with the untrusted time, so a restart or a crash would confirm what only an operator
//! may. Therefore this file holds the last trusted time for as long as the clock is frozen, and a
//! start uses that instead. It is removed at the first check after the clock is back or confirmed.

use std::{
    io::{self, ErrorKind},
    path::Path,
    sync::Arc,
};

use parking_lot::Mutex;

use super::layout::{CLOCK, STATE};
use crate::events::queue::{storage::Storage, topic::clock_guard::GuardedClock};

const HEAD: &str = "sluice clock 1";
/// Maximum size of the file.
const MAX_BYTES: u64 = 128;

/// The file, and its known content.
#[derive(Debug)]
pub(super) struct HeldClock {
    storage: Arc<dyn Storage>,
    /// The file's content; none if it does not exist.
    noted: Mutex<Option<u64>>,
}

/// The content of the file of a closed store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotedClock {
    /// Its size.
    pub bytes: u64,
    /// The last trusted time, in milliseconds since 1970; `None` if the file is damaged.
    pub trusted: Option<u64>,
}

/// Examines the file; `None` if there is none, because the clock was trusted. Blocks.
pub fn examine_clock(storage: &dyn Storage) -> io::Result<Option<NotedClock>> {
    let bytes = match storage.open_read(Path::new(CLOCK)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened?.length()?,
    };
    Ok(Some(NotedClock { bytes, trusted: decode(&read(storage)?) }))
}

// === impl HeldClock ===

impl HeldClock {
    /// Starts `clock` with the time in the file, or else with when anything was last written, the
    /// delivery state included, and updates the file before anything else is written. Blocks.
    pub(super) fn begin(
        storage: Arc<dyn Storage>,
        clock: &GuardedClock,
        last: Option<u64>,
        state: Option<u64>,
    ) -> io::Result<Self> {
        let held = Self::read(storage)?;
        clock.begin(last, state, held.held());
        held.follow(clock)?;
        Ok(held)
    }

    /// Reads the file, and ignores a damaged one. Blocks.
    fn read(storage: Arc<dyn Storage>) -> io::Result<Self> {
        let noted = match read(&*storage) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            other => {
                let held = decode(&other?);
                if held.is_none() {
                    tracing::warn!(
                        file = CLOCK,
                        "CLOCK is damaged and ignored: the clock is judged by the last frame"
                    );
                }
                // Damaged or not, the file exists.
                Some(held.unwrap_or(u64::MAX))
            }
        };
        Ok(Self { storage, noted: Mutex::new(noted) })
    }

    /// The time to compare with at this start; none for that of the last frame.
    fn held(&self) -> Option<u64> {
        self.noted.lock().filter(|held| *held != u64::MAX)
    }

    /// Updates the file from `clock`. Call it before anything is written, about once a second, and
    /// when the clock is confirmed. Blocks.
    pub(super) fn follow(&self, clock: &GuardedClock) -> io::Result<()> {
        let mut noted = self.noted.lock();
        let held = clock.held();
        if *noted != held {
            match held {
                Some(wall) => self.write(wall)?,
                None => remove(&*self.storage, Path::new(CLOCK))?,
            }
            self.storage.sync_dir(Path::new(STATE))?;
            *noted = held;
        }
        Ok(())
    }

    fn write(&self, wall: u64) -> io::Result<()> {
        let path = Path::new(CLOCK);
        let unfinished = path.with_extension("new");
        remove(&*self.storage, &unfinished)?;
        let file = self.storage.create(&unfinished)?;
        file.write_at(encode(wall).as_bytes(), 0)?;
        file.sync()?;
        self.storage.rename(&unfinished, path)
    }
}

fn read(storage: &dyn Storage) -> io::Result<Vec<u8>> {
    let file = storage.open_read(Path::new(CLOCK))?;
    let length = usize::try_from(file.length()?.min(MAX_BYTES)).unwrap_or_default();
    let mut bytes = vec![0; length];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

fn remove(storage: &dyn Storage, path: &Path) -> io::Result<()> {
    match storage.remove(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn encode(wall: u64) -> String {
    let text = format!("{HEAD}\n{wall}\n");
    let crc = crc32c::crc32c(text.as_bytes());
    format!("{text}{crc:08x}\n")
}

fn decode(bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let wall = text.strip_prefix(HEAD)?.lines().nth(1)?.parse().ok()?;
    (encode(wall) == text).then_some(wall)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let text = encode(1_700_000_000_123);
        assert_eq!(text, "sluice clock 1\n1700000000123\nce31494c\n");
        assert_eq!(decode(text.as_bytes()), Some(1_700_000_000_123));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert_eq!(decode(&bytes), None, "byte {at}");
            assert_eq!(decode(&text.as_bytes()[..at]), None, "{at} bytes");
        }
    }
}
