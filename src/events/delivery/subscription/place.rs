//! Names of events in a subscription.

use crate::events::queue::Offset;

/// One flow of events through a subscription: 0 is the live one, every job has its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneId(pub u32);

/// A partition of a topic, in one generation of its partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    /// Which split of the topic.
    pub generation: u16,
    /// Which part of that.
    pub number: u16,
}

/// One event in one lane. A lane reads one log: the live one its topic's, a job the one named by
/// [`Entry::JobStarted`](super::Entry::JobStarted).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The lane.
    pub lane: LaneId,
    /// The partition; for a redrive the one it came from.
    pub partition: Partition,
    /// Where in the lane's log.
    pub offset: Offset,
}

// === impl LaneId ===

impl LaneId {
    /// What the topic brings.
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
