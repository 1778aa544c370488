//! Where a log is, and how it treats what it is given.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::disk::DiskWatch;
use crate::events::queue::{
    LogId, StoreId,
    mutation::{self, Mutation},
    storage::Storage,
};

/// The least a segment is made for: a header and a small frame.
pub(super) const MIN_SEGMENT_BYTES: u64 = 64 << 10;

/// Records that nobody waits for, but that somebody goes on with, are on disk after so long.
const HURRIED: Duration = Duration::from_millis(5);

/// Where a log is kept. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Place {
    /// The store's file system.
    pub storage: Arc<dyn Storage>,
    /// The log's directory in it. Its parent is there.
    pub dir: PathBuf,
    /// The store it belongs to.
    pub store: StoreId,
    /// The log it is.
    pub id: LogId,
    /// How much room the disk has.
    pub disk: Arc<DiskWatch>,
}

/// How a log treats what it is given.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What an acknowledgement means.
    pub durability: Durability,
    /// What happens to damage that is found.
    pub recovery: Recovery,
    /// A segment is sealed when it has so many bytes.
    pub segment_bytes: u64,
    /// A file that is made while someone waits has room for so many bytes and grows from there; the others
    /// are made ahead, in the background, with room for a whole segment. None: no file is made ahead, and
    /// each has room for a whole segment at once.
    pub first_bytes: Option<u64>,
    /// Bytes that may be on their way into the log at once.
    pub buffer_bytes: u64,
    /// The bytes that the log may hold; none: as many as it is given.
    pub max_bytes: Option<u64>,
    /// Unwaited records are on disk after so long.
    pub unwaited: Duration,
    /// With [`Durability::Os`] a sync comes at least so often.
    pub os_interval: Duration,
    /// The time between two writings of CHECKPOINT, at least.
    pub checkpoint: Duration,
}

/// What an acknowledgement means: that what was acknowledged is still there after ...
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// ... power loss.
    #[default]
    Durable,
    /// ... a killed process.
    Os,
    /// ... nothing.
    Memory,
}

/// What happens to bytes that were on disk and are bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recovery {
    /// The log goes offline and says what is bad.
    #[default]
    Strict,
    /// They are copied aside, the offsets counted as lost, and the log goes on.
    Quarantine,
}

/// Who appends, and with that how far a log is filled for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// Something new: refused first.
    #[default]
    Publish,
    /// On behalf of something that was accepted already: a tenth more than the log may hold, and as long
    /// as the disk has any room but the reserve.
    Accepted,
    /// The journal of delivery state: as `Accepted`, and the reserve is for it.
    Journal,
}

// === impl Settings ===

impl Settings {
    /// The room of a file that is made while someone waits, and is to take `bytes` at once.
    pub(super) fn room(&self, bytes: u64) -> u64 {
        let first = self.first_bytes.unwrap_or(u64::MAX);
        self.segment_bytes.min(first).max(bytes)
    }

    /// After what time something is synced that nobody waits for, at the latest; `None`: never.
    pub(super) fn sync_after(&self, is_hurried: bool) -> Option<Duration> {
        match self.durability {
            // Long enough that a kill from outside finds what was acknowledged unsynced.
            Durability::Durable if mutation::is(Mutation::AcknowledgeBeforeTheSync) => {
                Some(10 * self.os_interval)
            }
            Durability::Durable if is_hurried => Some(self.unwaited.min(HURRIED)),
            Durability::Durable => Some(self.unwaited),
            Durability::Os => Some(self.os_interval),
            Durability::Memory => None,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            durability: Durability::Durable,
            recovery: Recovery::Strict,
            segment_bytes: 64 << 20,
            first_bytes: Some(4 << 20),
            buffer_bytes: 64 << 20,
            max_bytes: None,
            unwaited: Duration::from_millis(20),
            os_interval: Duration::from_millis(50),
            checkpoint: Duration::from_secs(1),
        }
    }
}
