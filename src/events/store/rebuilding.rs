//! Rebuilds the state of a subscription that was lost, from what its logs still contain.
//!
//! Nothing that was accepted is forgotten: everything its topic stores is delivered again, and all
//! dead letters in its log and all copies of events whose segments are gone are back. That includes
//! what had been settled, redriven or removed. Stored requests are not repeated by this: their
//! subscription is held until an operator says whether it continues or is moved.

use std::{collections::BTreeMap, fmt, path::Path};

use super::layout::{LETTERS, PARKED};
use crate::events::{
    delivery::{
        dead_letter::Death,
        subscription::{
            Added, EventState, EventStatus, Hold, LaneId, LaneState, LetterState, Partition, State,
        },
    },
    queue::{
        Offset,
        codec::{Kind, Record, SubscriptionMeta},
        log::{self, OpenError, Place},
        topic::registry::Registry,
    },
};

/// A rebuilt state.
#[derive(Clone, Debug)]
pub(super) struct Rebuilt {
    pub(super) state: State,
    /// Its topic is delivered from here on.
    from: Offset,
    /// Number of copies of events that were not included.
    left_out: usize,
}

/// Rebuilds the state of a subscription; `now` in milliseconds since 1970. `near`: any log of its
/// store. Blocks.
pub(super) fn rebuild(
    near: &Place,
    meta: &SubscriptionMeta,
    now: u64,
) -> Result<Rebuilt, OpenError> {
    let at = |dir: &Path, id| Place { dir: dir.to_owned(), id, ..near.clone() };
    let own = |kind: &str| at(&Path::new(kind).join(meta.id.to_string()), meta.id);
    let mut has_requests = false;
    let mut look = |_, record: &Record<'_>| has_requests |= record.kind() == Kind::Request;
    let topic = at(&Registry::topic_dir(meta.topic), meta.topic);
    let from = log::look_through(&topic, Offset::ZERO, &mut look)?.range.start;
    let letters = letters(&own(LETTERS))?;
    let copies = copies(&own(PARKED))?;
    let mut live = LaneState { lane: LaneId::LIVE, scan: from, ..LaneState::default() };
    let count = copies.len();
    if !has_requests {
        // Original offsets are unknown: those in the parked log stand in, below the topic's start.
        live.events = copies.into_iter().filter(|it| it.event.offset < from).collect();
    }
    let left_out = count - live.events.len();
    let state = State {
        lanes: vec![live],
        // Earlier jobs had lower numbers, so no new one is mistaken for one of them.
        next_lane: u32::try_from(now / 1_000).unwrap_or(u32::MAX),
        hold: has_requests.then_some(Hold::Operator),
        letters,
        ..State::default()
    };
    Ok(Rebuilt { state, from, left_out })
}

/// Every dead letter in a log; if one was copied forward, the copy.
fn letters(place: &Place) -> Result<Vec<(Offset, LetterState)>, OpenError> {
    let mut found = BTreeMap::new();
    log::look_through(place, Offset::ZERO, &mut |offset, record| {
        let Ok(death) = Death::read(record) else { return };
        let letter = LetterState {
            reason: death.reason,
            died: death.at,
            bytes: bytes(record),
            redrives: 0,
            is_compensated: death.is_compensated,
            failure: None,
        };
        let Partition { generation, number } = death.origin.partition;
        let origin = (death.origin.lane.0, generation, number, death.origin.offset, death.at);
        found.insert(origin, (offset, letter));
    })?;
    let mut letters: Vec<_> = found.into_values().collect();
    letters.sort_unstable_by_key(|(offset, _)| *offset);
    Ok(letters)
}

/// Every copy of an event in a parked log.
fn copies(place: &Place) -> Result<Vec<EventState>, OpenError> {
    let mut copies = Vec::new();
    log::look_through(place, Offset::ZERO, &mut |offset, record| {
        let partition = Partition { generation: record.generation(), number: record.partition() };
        let event = Added {
            partition,
            offset,
            // The key by which it was ordered is not known here.
            key: None,
            published: record.published(),
            expires: record.expiry(),
            bytes: bytes(record),
        };
        copies.push(EventState {
            event,
            attempts: 0,
            counted: 0,
            failures: 0,
            unknown: 0,
            is_refused: false,
            first_attempt: None,
            failure: None,
            parked: Some(offset),
            status: EventStatus::Waiting { until: 0 },
        });
    })?;
    Ok(copies)
}

fn bytes(record: &Record<'_>) -> u32 {
    u32::try_from(record.encoded_bytes()).unwrap_or(u32::MAX)
}

// === impl Rebuilt ===

impl fmt::Display for Rebuilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state, from, left_out } = self;
        let copies: usize = state.lanes.iter().map(|lane| lane.events.len()).sum();
        let letters = state.letters.len();
        write!(f, "begun anew: its topic is delivered again from offset {from} on")?;
        if copies > 0 {
            write!(f, ", {copies} parked events again")?;
        }
        if letters > 0 {
            write!(f, "; {letters} dead letters are there again")?;
        }
        if *left_out > 0 {
            write!(f, "; {left_out} parked copies stay where they are, undelivered")?;
        }
        if state.hold.is_some() {
            f.write_str(
                "; it is paused, as requests that were done long ago would be done again: `sluice queue seek` \
                 moves it, `sluice queue resume` has it go on",
            )?;
        }
        Ok(())
    }
}
