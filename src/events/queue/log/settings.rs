//! Where a log is, and how it behaves.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::disk::DiskWatch;
use crate::events::queue::{
    LogId, StoreId,
    mutation::{self, Mutation},
    storage::Storage,
};

/// The smallest segment: a header and a small frame.
pub(super) const MIN_SEGMENT_BYTES: u64 = 64 << 10;

/// Sync deadline of records that nobody waits for but that work depends on.
const HURRIED: Duration = Duration::from_millis(5);

/// Where a log is kept. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Place {
    /// The store's file system.
    pub storage: Arc<dyn Storage>,
    /// The log's directory in it. Its parent exists.
    pub dir: PathBuf,
    /// The store it belongs to.
    pub store: StoreId,
    /// The log it is.
    pub id: LogId,
    /// Watches the disk's free space.
    pub disk: Arc<DiskWatch>,
}

/// How a log behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What an acknowledgement means.
    pub durability: Durability,
    /// How damage is handled.
    pub recovery: Recovery,
    /// A segment is sealed at this size.
    pub segment_bytes: u64,
    /// Initial room of a file that is created while someone waits; it grows from there. The others
    /// are prepared in the background with room for a whole segment. None: no file is prepared
    /// ahead, and each gets room for a whole segment at once.
    pub first_bytes: Option<u64>,
    /// Bound of the bytes in flight into the log.
    pub buffer_bytes: u64,
    /// Size limit of the log in bytes; none for no limit.
    pub max_bytes: Option<u64>,
    /// Unwaited records are on disk after this time.
    pub unwaited: Duration,
    /// Maximum time between syncs with [`Durability::Os`].
    pub os_interval: Duration,
    /// Minimum time between two writes of CHECKPOINT.
    pub checkpoint: Duration,
}

/// What an acknowledged record survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Power loss.
    #[default]
    Durable,
    /// A killed process.
    Os,
    /// Nothing.
    Memory,
}

/// How bytes are handled that were on disk and are bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recovery {
    /// The log goes offline and says what is bad.
    #[default]
    Strict,
    /// They are copied aside, their offsets count as lost, and the log goes on.
    Quarantine,
}

/// Who appends, which decides how far the log may be filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// New events: refused first.
    #[default]
    Publish,
    /// On behalf of something already accepted: up to a tenth above the log's limit, and as long as
    /// the disk has room beyond the reserve.
    Accepted,
    /// The journal of delivery state: as `Accepted`, and it may use the reserve.
    Journal,
}

// === impl Settings ===

impl Settings {
    /// Initial room of a file that is created while someone waits and takes `bytes` at once.
    pub(super) fn room(&self, bytes: u64) -> u64 {
        let first = self.first_bytes.unwrap_or(u64::MAX);
        self.segment_bytes.min(first).max(bytes)
    }

    /// How long at most a sync that nobody waits for is delayed; `None`: it never comes.
    pub(super) fn sync_after(&self, is_hurried: bool) -> Option<Duration> {
        match self.durability {
            // Long enough that an external kill finds acknowledged records unsynced.
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
