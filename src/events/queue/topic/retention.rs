//! Decides which sealed segments of a topic are deleted, and whether a slow reader stops publishes.
//!
//! Pure: segments, readers' needs and the time are arguments. A segment is deleted whole, oldest
//! first, when it is too old or the topic too large and nobody pins it. Pinned segments stay until
//! the topic is full: then publishes are refused or, if configured, the oldest is deleted and
//! counted.
//!
//! A segment with a time in the future was written while the clock was ahead. It was written before
//! the next one, so it is judged by the time of that: else it, and all behind it, would stay for as
//! long as the clock was ahead.

use std::time::Duration;

use crate::events::queue::Offset;

/// Smallest segment, so that a small topic does not consist of many files.
const MIN_SEGMENT_BYTES: u64 = 1 << 20;
/// Largest segment.
const MAX_SEGMENT_BYTES: u64 = 64 << 20;
/// A full topic is divided into this many segments, within those bounds.
const SEGMENTS: u64 = 16;

/// Deletion starts when less than this fraction of `max_bytes` is free, ...
const HEADROOM: u64 = 32;
/// ... or less than this many bytes, whichever is less.
const MAX_HEADROOM: u64 = 128 << 20;

/// What a topic retains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// How long events are kept.
    pub max_age: Duration,
    /// Maximum bytes of all segments together.
    pub max_bytes: u64,
    /// What happens when it is full and everything is pinned.
    pub on_full: OnFull,
}

/// What happens when a topic is full of pinned segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFull {
    /// Publishes are refused.
    #[default]
    Reject,
    /// The oldest segment is deleted, and its unsettled events are counted.
    DropOldest,
}

/// A segment, as far as retention needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The offset after its last record.
    pub end: Offset,
    /// Bytes used.
    pub bytes: u64,
    /// When its newest frame was written: milliseconds since 1970; the maximum if it is unknown.
    pub newest: u64,
    /// Whether nothing more is added.
    pub is_sealed: bool,
}

/// What a reader still needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Its first unsettled offset.
    pub from: Offset,
    /// Whether it keeps segments from deletion; if not, what is deleted counts as lost to it.
    pub pins: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Delete segments that end here or below.
    pub retire: Option<Offset>,
    /// Upper bound of unsettled events among those: from the first that any reader lacked.
    pub lost: u64,
    /// How many of those only readers lacked that do not pin.
    pub unpinned: u64,
    /// Segments that end here or below would be deleted if they were not pinned: a holder that
    /// needs only a few of their events may copy those.
    pub held: Option<Offset>,
    /// Nothing more may be deleted, and the topic is at its limit: publishes are to be refused.
    pub is_full: bool,
}

/// Decides what to delete. `segments` are all of them, oldest first. `wall` is the time to judge
/// age by, none while the clock is not trusted. `wanted`: bytes that were refused for lack of room.
pub fn decide(
    segments: &[Segment],
    keep: &Keep,
    pins: &[Pin],
    wall: Option<u64>,
    wanted: u64,
) -> Decision {
    let max_age = u64::try_from(keep.max_age.as_millis()).unwrap_or(u64::MAX);
    let pinned = pins.iter().filter(|pin| pin.pins).map(|pin| pin.from).min();
    let is_pinned = |end: Offset| pinned.is_some_and(|from| from < end);
    // Slightly early, so that no publish has to wait for the next look to delete unpinned segments.
    let headroom = (keep.max_bytes / HEADROOM).min(MAX_HEADROOM).max(wanted);
    let most = keep.max_bytes.saturating_sub(headroom);
    let mut bytes = segments.iter().map(|segment| segment.bytes).sum::<u64>();
    let mut decision = Decision::default();
    let written = written_by(segments, wall);
    for (segment, written) in segments.iter().zip(written).filter(|(it, _)| it.is_sealed) {
        let is_over = bytes > most;
        let is_old = wall.is_some_and(|wall| written.saturating_add(max_age) < wall);
        if !is_over && !is_old {
            break;
        }
        let may_drop = is_over && keep.on_full == OnFull::DropOldest;
        if decision.held.is_some() || is_pinned(segment.end) && !may_drop {
            decision.held = Some(segment.end);
            bytes -= segment.bytes;
            continue;
        }
        decision.retire = Some(segment.end);
        bytes -= segment.bytes;
    }
    let left = segments.iter().filter(|it| decision.retire.is_none_or(|end| it.end > end));
    decision.is_full = left.map(|segment| segment.bytes).sum::<u64>() >= keep.max_bytes;
    if let Some(end) = decision.retire {
        let lacked = pins.iter().map(|pin| pin.from).min();
        decision.lost = lacked.map_or(0, |from| end.since(from));
        decision.unpinned = decision.lost - pinned.map_or(0, |from| end.since(from));
    }
    decision
}

/// When each segment was written at the latest.
fn written_by(segments: &[Segment], wall: Option<u64>) -> Vec<u64> {
    let wall = wall.unwrap_or_default();
    let mut behind = wall;
    let mut written: Vec<_> = segments
        .iter()
        .rev()
        .map(|segment| {
            if segment.newest <= wall {
                behind = segment.newest;
            }
            behind
        })
        .collect();
    written.reverse();
    written
}

/// The size at which a segment is sealed: a small topic is deleted in small steps.
pub fn segment_bytes(max_bytes: u64) -> u64 {
    (max_bytes / SEGMENTS).clamp(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES)
}

/// Whether publishes are refused because a subscription's oldest unsettled event, published at
/// `oldest`, is older than `max`. Never while one of the three is unknown.
pub fn is_backed_up(max: Option<Duration>, oldest: Option<u64>, wall: Option<u64>) -> bool {
    let (Some(max), Some(oldest), Some(wall)) = (max, oldest, wall) else { return false };
    u128::from(wall.saturating_sub(oldest)) > max.as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    const KEEP: Keep =
        Keep { max_age: Duration::from_millis(100), max_bytes: 50, on_full: OnFull::Reject };

    /// Sealed ones of 10 bytes and 10 events, written at 10, 20, ..; the last one is open.
    fn segments(count: u64) -> Vec<Segment> {
        (1..=count)
            .map(|number| Segment {
                end: Offset(number * 10),
                bytes: 10,
                newest: number * 10,
                is_sealed: number < count,
            })
            .collect()
    }

    fn pin(from: u64, pins: bool) -> Pin {
        Pin { from: Offset(from), pins }
    }

    #[test]
    fn what_is_too_old_goes() {
        let decide = |wall| decide(&segments(4), &KEEP, &[], wall, 0).retire;
        assert_eq!(decide(Some(110)), None, "to the millisecond");
        assert_eq!(decide(Some(111)), Some(Offset(10)));
        assert_eq!(decide(Some(1_000)), Some(Offset(30)), "the open one stays");
        assert_eq!(decide(None), None, "with a clock that jumped nothing is old");
    }

    #[test]
    fn what_was_written_under_a_clock_that_was_ahead_goes_with_what_is_behind_it() {
        let keep = Keep { max_bytes: 500, ..KEEP };
        let mut segments = segments(5);
        segments[1].newest = 1_000_000;
        segments[2].newest = u64::MAX;
        let decide =
            |segments: &[Segment], wall| decide(segments, &keep, &[], Some(wall), 0).retire;
        assert_eq!(decide(&segments, 140), Some(Offset(10)), "the next right time is 40");
        assert_eq!(decide(&segments, 141), Some(Offset(40)));
        // The newest one is ahead, too: nothing says that it is old.
        segments[3].newest = 1_000_000;
        segments[4].newest = 1_000_000;
        assert_eq!(decide(&segments, 100_000), Some(Offset(10)));
        // Written while the clock was back: not before what is in front of it.
        segments[3].newest = 0;
        segments[4].newest = 50;
        assert_eq!(decide(&segments, 110), None);
    }

    #[test]
    fn what_is_too_much_goes() {
        let decision = decide(&segments(8), &KEEP, &[], Some(0), 0);
        assert_eq!(decision.retire, Some(Offset(40)), "so that there is room before it is needed");
        assert!(!decision.is_full);
        assert_eq!(decide(&segments(8), &KEEP, &[], None, 0).retire, Some(Offset(40)));
        let decision = decide(&segments(4), &KEEP, &[], Some(0), 0);
        assert_eq!((decision.retire, decision.is_full), (None, false));
        let decision = decide(&segments(4), &KEEP, &[], Some(0), 20);
        assert_eq!(decision.retire, Some(Offset(10)), "so that what was refused has room");
    }

    #[test]
    fn a_pin_keeps_it_and_the_topic_is_full_in_the_end() {
        let decision = decide(&segments(8), &KEEP, &[pin(25, true)], Some(1_000), 0);
        assert_eq!(decision.retire, Some(Offset(20)));
        assert_eq!(decision.held, Some(Offset(70)));
        assert!(decision.is_full);
        assert_eq!(decision.lost, 0);
        let decision = decide(&segments(5), &KEEP, &[pin(10, true)], Some(1_000), 0);
        assert_eq!((decision.retire, decision.held), (Some(Offset(10)), Some(Offset(40))));
        assert!(!decision.is_full);
    }

    #[test]
    fn the_oldest_goes_if_that_was_chosen_and_is_counted() {
        let keep = Keep { on_full: OnFull::DropOldest, ..KEEP };
        let decision = decide(&segments(8), &keep, &[pin(25, true)], Some(0), 0);
        assert_eq!((decision.retire, decision.lost), (Some(Offset(40)), 15));
        assert_eq!(decision.unpinned, 0);
        let decision = decide(&segments(8), &keep, &[pin(25, true), pin(5, false)], Some(0), 0);
        assert_eq!((decision.lost, decision.unpinned), (35, 20));
        // Only fullness takes from a pin, never age.
        let decision = decide(&segments(4), &keep, &[pin(15, true)], Some(1_000), 0);
        assert_eq!((decision.retire, decision.lost), (Some(Offset(10)), 0));
        assert_eq!(decision.held, Some(Offset(30)));
    }

    #[test]
    fn who_does_not_pin_loses_it_and_that_is_counted() {
        let decision = decide(&segments(5), &KEEP, &[pin(5, false), pin(40, true)], Some(1_000), 0);
        assert_eq!((decision.retire, decision.lost), (Some(Offset(40)), 35));
        assert_eq!(decision.unpinned, 35);
    }

    #[test]
    fn a_reader_too_far_behind_stops_publishes() {
        let max = Some(Duration::from_millis(100));
        assert!(!is_backed_up(max, Some(100), Some(200)));
        assert!(is_backed_up(max, Some(100), Some(201)));
        assert!(!is_backed_up(max, None, Some(201)), "nothing is unsettled");
        assert!(!is_backed_up(max, Some(100), None), "the clock jumped");
        assert!(!is_backed_up(None, Some(100), Some(201)));
    }

    #[test]
    fn a_small_topic_has_small_segments() {
        assert_eq!(segment_bytes(10 << 30), 64 << 20);
        assert_eq!(segment_bytes(160 << 20), 10 << 20);
        assert_eq!(segment_bytes(1), 1 << 20);
    }

    proptest! {
        /// With `reject`, nothing that is pinned ever goes; and whatever is kept is kept for a reason.
        #[test]
        fn what_is_pinned_stays(
            count in 1u64..12,
            from in prop::option::of(0u64..130),
            other in prop::option::of(0u64..130),
            wall in prop::option::of(0u64..400),
            max_bytes in 1u64..150,
            is_dropping in any::<bool>(),
        ) {
            let on_full = if is_dropping { OnFull::DropOldest } else { OnFull::Reject };
            let keep = Keep { max_bytes, on_full, ..KEEP };
            let pins: Vec<_> =
                from.map(|it| pin(it, true)).into_iter().chain(other.map(|it| pin(it, false))).collect();
            let segments = segments(count);
            let decision = decide(&segments, &keep, &pins, wall, 0);
            let retired = decision.retire.unwrap_or_default();
            prop_assert!(segments.iter().filter(|it| !it.is_sealed).all(|it| it.end > retired));
            if let Some(from) = from && !is_dropping {
                prop_assert!(retired.0 <= from);
            }
            let left: Vec<_> = segments.iter().filter(|it| it.end > retired).collect();
            let bytes = left.iter().map(|it| it.bytes).sum::<u64>();
            let first = left[0];
            if first.is_sealed {
                let is_over = bytes > max_bytes - max_bytes / 32;
                let is_old = wall.is_some_and(|wall| first.newest + 100 < wall);
                let is_pinned = from.is_some_and(|from| from < first.end.0);
                prop_assert!(is_pinned || !(is_over || is_old));
                prop_assert!(!(is_dropping && is_over && is_pinned));
            }
            prop_assert_eq!(decision.is_full, bytes >= max_bytes);
        }
    }
}
