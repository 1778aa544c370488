//! Copies the few live events of an old segment, so that the segment can be deleted.

use std::{sync::Arc, time::Duration};

use futures_util::future::try_join_all;

use super::{Reading, Store, topic::Topic};
use crate::events::{
    delivery::{
        runner::{Letter, Shelf},
        side_log::{Appended, SideLog},
    },
    facade::{DeadLetterFilter, Refusal},
    queue::{
        Offset,
        codec::Draft,
        log::{Log, SegmentInfo},
        pool::Pool,
    },
};

/// A segment with more live events than this is not copied: it is still needed.
const FEW: usize = 1_000;
/// A segment of dead letters is copied forward if less than this fraction of it remains.
const LEFT: u64 = 4;
/// A segment is left alone for this many milliseconds after its last record.
const STILL: u64 = 60_000;

// === impl Store ===

impl Store {
    /// Copies the few unsettled events below `below` into their subscription's parked log.
    pub(super) async fn park(
        &self,
        topic: &Topic,
        reading: &Reading,
        below: Offset,
    ) -> Result<(), Refusal> {
        let places = reading.subscription.to_park(below, FEW + 1).await?;
        if places.is_empty() || places.len() > FEW {
            return Ok(());
        }
        let offsets = places.iter().map(|place| place.offset).collect();
        let drafts = self.copies(topic.shelf().clone(), offsets).await?;
        let around = reading.subscription.surroundings();
        let (places, drafts): (Vec<_>, Vec<_>) = places
            .into_iter()
            .zip(drafts)
            .filter_map(|(place, draft)| Some((place, draft?)))
            .unzip();
        let copied = append(&around.parked, &around.pool, drafts).await?;
        for (place, copy) in places.into_iter().zip(copied) {
            reading.subscription.parked(place, copy.offset).await?;
        }
        Ok(())
    }

    /// Deletes what nobody needs any more in a subscription's parked log.
    pub(super) async fn unpark(&self, reading: &Reading) -> Result<(), Refusal> {
        let around = reading.subscription.surroundings();
        let Some(log) = around.parked.log() else { return Ok(()) };
        // Read first: what is parked meanwhile is after it.
        let durable = log.durable();
        let needed = reading.subscription.pins().await?.parked;
        self.retire(log, needed.map_or(durable, |needed| needed.min(durable))).await
    }

    /// Deletes segments of dead letters; copies forward what remains of a sparse one.
    pub(super) async fn tidy_letters(&self, reading: &Reading) -> Result<(), Refusal> {
        let around = reading.subscription.surroundings();
        let Some(log) = around.letters.log() else { return Ok(()) };
        let asked = log.clone();
        let segments = self.block(move || asked.segments()).await?;
        let all = DeadLetterFilter::default;
        let letters = reading.subscription.letters(None, all(), usize::MAX).await?;
        // A recent segment may have a letter that was not reported to the subscription yet.
        let is_still = is_still(&segments, self.now());
        let oldest = segments.first().filter(|oldest| oldest.is_sealed && is_still);
        let Some(oldest) = oldest else { return Ok(()) };
        if is_worth_copying(oldest, &segments, &letters) {
            let moving: Vec<Offset> =
                letters.iter().filter(|it| it.id < oldest.end).map(|it| it.id).collect();
            let drafts = self.copies(around.letters.shelf().clone(), moving.clone()).await?;
            let (moving, drafts): (Vec<_>, Vec<_>) = moving
                .into_iter()
                .zip(drafts)
                .filter_map(|(from, draft)| Some((from, draft?)))
                .unzip();
            let copied = append(&around.letters, &around.pool, drafts).await?;
            for (from, copy) in moving.into_iter().zip(copied) {
                reading.subscription.letter_moved(from, copy.offset).await?;
            }
        }
        // A sealed segment gets no more letters: those in it are known or were copied.
        let first = reading.subscription.letters(None, all(), 1).await?;
        let is_needed = first.first().is_some_and(|first| first.id < oldest.end);
        if is_needed { Ok(()) } else { self.retire(log, oldest.end).await }
    }

    async fn retire(&self, log: Log, below: Offset) -> Result<(), Refusal> {
        let retired = self.block(move || log.retire(below)).await?;
        retired.map(drop).map_err(|error| Refusal::unavailable(error.to_string()))
    }

    /// Copies of records; `None` for unreadable ones.
    async fn copies(
        &self,
        shelf: Shelf,
        offsets: Vec<Offset>,
    ) -> Result<Vec<Option<Draft>>, Refusal> {
        self.block(move || {
            let copied = shelf.read(|reader| {
                let mut copy = |offset: &Offset| {
                    let record = reader.get(*offset).ok().flatten()?;
                    record.record().map(|record| record.to_draft())
                };
                offsets.iter().map(&mut copy).collect()
            });
            copied.unwrap_or_default()
        })
        .await
    }
}

/// Whether the last record of the oldest segment was written a while before `now`. A time after that
/// is from a clock that was ahead; it was written before the next segment.
fn is_still(segments: &[SegmentInfo], now: u64) -> bool {
    let mut written = segments.iter().map(|segment| segment.newest_wall);
    // 0: there is no record in it.
    let newest = written.find(|&wall| wall > 0 && wall <= now);
    newest.is_some_and(|newest| newest + STILL < now)
}

/// Whether to copy what remains of the oldest segment: little of it does, or little of all of them.
fn is_worth_copying(oldest: &SegmentInfo, segments: &[SegmentInfo], letters: &[Letter]) -> bool {
    let of_oldest = || letters.iter().filter(|letter| letter.id < oldest.end);
    if of_oldest().any(|letter| letter.is_redriven) {
        return false;
    }
    let bytes = |letter: &Letter| u64::from(letter.bytes);
    let all: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let is_little = of_oldest().map(bytes).sum::<u64>().saturating_mul(LEFT) < oldest.bytes;
    is_little || letters.iter().map(bytes).sum::<u64>().saturating_mul(LEFT) < all
}

async fn append(
    log: &Arc<SideLog>,
    pool: &Pool,
    drafts: Vec<Draft>,
) -> Result<Vec<Appended>, Refusal> {
    let appends = drafts.into_iter().map(|draft| log.clone().append(pool, draft));
    try_join_all(appends).await.map_err(|_| Refusal::Disk { retry_after: Duration::from_secs(1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_of_a_clock_that_was_ahead_is_as_old_as_the_next() {
        let segments = |walls: &[u64]| -> Vec<_> {
            let segment = |&newest_wall: &u64| SegmentInfo {
                epoch: 1,
                base: Offset(0),
                end: Offset(1),
                bytes: 1,
                newest_wall,
                is_sealed: true,
                partitions: Vec::new(),
            };
            walls.iter().map(segment).collect()
        };
        let now = 10 * STILL;
        for (walls, expected) in [
            (&[now - STILL - 1][..], true),
            (&[now - STILL, 1], false),
            (&[now + 1, now - STILL - 1], true),
            (&[u64::MAX, now + 1, now - STILL - 1], true),
            (&[now + 1, now - 1], false),
            (&[now + 1], false),
            (&[now + 1, 0], false),
            (&[], false),
        ] {
            assert_eq!(is_still(&segments(walls), now), expected, "{walls:?}");
        }
    }
}
