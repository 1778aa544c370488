//! The delayed log's `Control` records about earlier events: `kind u8, end u64, offsets u64 ..`,
//! little-endian.

use bytes::Bytes;

use crate::events::queue::{
    Offset,
    codec::{Draft, Fields, Kind, Record},
};

/// A note about waiting events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// They are about to be appended to the topic, which ended here: they are there at or after it,
    /// or not at all.
    Moving(Offset, Vec<Offset>),
    /// They no longer wait.
    Settled(Vec<Offset>),
}

const MOVING: u8 = 1;
const SETTLED: u8 = 2;

// === impl Mark ===

impl Mark {
    pub(super) fn to_draft(&self) -> Draft {
        let (kind, end, offsets) = match self {
            Self::Moving(end, offsets) => (MOVING, *end, offsets),
            Self::Settled(offsets) => (SETTLED, Offset::ZERO, offsets),
        };
        let mut body = Vec::with_capacity(9 + offsets.len() * 8);
        body.push(kind);
        body.extend_from_slice(&end.0.to_le_bytes());
        for offset in offsets {
            body.extend_from_slice(&offset.0.to_le_bytes());
        }
        Draft::new(Kind::Control, Fields::default(), Bytes::from(body))
    }

    /// `None` if it is not a mark that this version knows.
    pub(super) fn read(record: &Record<'_>) -> Option<Self> {
        let (kind, rest) =
            record.body().split_first().filter(|_| record.kind() == Kind::Control)?;
        let (end, offsets) = rest.split_first_chunk::<8>()?;
        let (offsets, left) = offsets.as_chunks::<8>();
        let offsets = offsets.iter().map(|it| Offset(u64::from_le_bytes(*it))).collect();
        match *kind {
            MOVING if left.is_empty() => {
                Some(Self::Moving(Offset(u64::from_le_bytes(*end)), offsets))
            }
            SETTLED if left.is_empty() => Some(Self::Settled(offsets)),
            _ => None,
        }
    }
}
