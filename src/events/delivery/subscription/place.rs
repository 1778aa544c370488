//! Identifies events in a subscription.

use crate::events::queue::Offset;

/// One flow of events through a subscription: 0 is the live one, and every job has its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneId(pub u32);

/// A partition of a topic, in one generation of its partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    /// The generation.
    pub generation: u16,
    /// The number of the partition in it.
    pub number: u16,
}

/// One event in one lane. The live lane reads its topic's log; a job reads the one in
/// [`Entry::JobStarted`](super::Entry::JobStarted).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The lane.
    pub lane: LaneId,
    /// The partition; for a redrive, the original one.
    pub partition: Partition,
    /// The offset in the lane's log.
    pub offset: Offset,
}

// === impl LaneId ===

impl LaneId {
    /// The lane of the topic's new events.
    pub const LIVE: Self = Self(0);

    /// Whether it is the live one.
    pub const fn is_live(self) -> bool {
        self.0 == 0
    }
}

// === impl Place ===

impl Place {
    /// An event of the live lane.
    pub const fn live(partition: Partition, offset: Offset) -> Self {
        Self { lane: LaneId::LIVE, partition, offset }
    }
}
