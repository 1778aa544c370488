//! Opening a log: from whatever a crash has left to a log that may be appended to.
//!
//! W, the watermark, is the highest offset that anything proves to have been on disk: CHECKPOINT, a
//! frame that says so, a reader that has been there. Bad bytes at or above it are what a crash does to
//! writes that nobody was told of: the log is cut there. Bad bytes below it are damage.
//!
//! What is whole and above W was written, but nothing proves that it is on the disk: the page cache shows
//! what was written even where the disk never got it. So before it is served it is copied into a new
//! file, under a new epoch, and synced there.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::{
    chain::{self, Chain, Leftovers},
    core::Tail,
    error::OpenError,
    open::OpenLog,
    segment::Segment,
    sequencer::{Learnt, Sequencer},
    settings::Place,
    status::{Offline, Opened},
    tail,
};
use crate::events::queue::{Offset, codec::Record, storage::File, time::Now};

/// A log as opening found and left it.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) segments: Vec<Arc<Segment>>,
    /// Where it grows; none: it is offline.
    pub(super) tail: Option<Tail>,
    /// Why it is offline.
    pub(super) offline: Option<Offline>,
    /// There was no room for a new file: what is there is served, and appends have to wait.
    pub(super) is_full: bool,
    pub(super) opened: Opened,
}

/// Bytes that were on disk and are bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// The offsets that are lost with them.
    pub(super) range: Range<Offset>,
    /// In which file, from which byte to which; none: the file is not there.
    pub(super) bytes: Option<(Offset, Range<u64>)>,
    /// In words.
    pub(super) what: String,
    /// Whether the offsets are lost; else they could be read all the same.
    pub(super) is_lost: bool,
}

/// So many are remembered.
const MAX_FINDINGS: usize = 4096;

/// Where damage was found, so that each is counted once. Ranges that do not touch.
#[derive(Debug, Default)]
pub(super) struct Findings(BTreeMap<Offset, Offset>);

impl Findings {
    /// How many of these offsets were not known; none: all of them were.
    fn add(&mut self, range: &Range<Offset>) -> Option<u64> {
        let (mut start, mut end) = (range.start, range.end);
        let mut known = 0;
        let touches = |(from, to): &(&Offset, &Offset)| **from <= end && **to >= start;
        let touched: Vec<(Offset, Offset)> =
            self.0.iter().filter(touches).map(|(from, to)| (*from, *to)).collect();
        for (from, to) in &touched {
            known += (*to).min(range.end).since((*from).max(range.start));
        }
        let new = range.end.since(range.start).saturating_sub(known);
        let is_known = touched.iter().any(|(from, to)| *from <= range.start && *to >= range.end);
        if is_known || self.0.len() >= MAX_FINDINGS {
            return None;
        }
        for (from, to) in touched {
            self.0.remove(&from);
            (start, end) = (start.min(from), end.max(to));
        }
        self.0.insert(start, end);
        Some(new)
    }
}

/// Opens the log, whose directory is there.
pub(super) fn recover(
    shared: &OpenLog,
    sequencer: &mut dyn Sequencer,
    floor: Offset,
    now: Now,
) -> Result<Recovered, OpenError> {
    let place = &shared.place;
    sequencer.reset();
    shared.read_accepted().map_err(OpenError::io("what is accepted is read"))?;
    let Chain { checkpoint, sealed, last, damage } = chain::find(shared, floor, Leftovers::Remove)?;
    for it in &damage {
        note(shared, it);
    }
    if let Some(first) = damage.iter().find(|it| shared.stops_at(&it.range)) {
        return Ok(stopped_before(first, sealed, checkpoint.start));
    }
    learn_sealed(shared, sequencer, &sealed, now)?;
    let mut opened = Opened {
        start: checkpoint.start,
        gaps: damage.into_iter().filter(|it| it.is_lost).map(|it| it.range).collect(),
        ..Opened::default()
    };
    let recovered = match last {
        Some(found) => tail::recover(shared, sequencer, &checkpoint, &found, floor, &mut opened)?,
        None => tail::begin(shared, &checkpoint, floor, &mut opened)?,
    };
    let mut segments = sealed;
    segments.extend(recovered.segments);
    if let Some(first) = segments.first() {
        opened.start = opened.start.max(first.base());
    }
    opened.gaps.retain(|gap| gap.end > opened.start);
    place.sync_dir().map_err(OpenError::io("the directory is synced"))?;
    Ok(Recovered {
        segments,
        tail: recovered.tail,
        offline: recovered.offline,
        is_full: recovered.is_full,
        opened,
    })
}

/// Counts damage and tells of it, if it was not known. Whether it was not.
pub(super) fn note(shared: &OpenLog, damage: &Damage) -> bool {
    let Damage { range, what, is_lost, .. } = damage;
    // What can be read all the same may be found to be lost later.
    let known = if *is_lost { shared.findings.lock().add(range) } else { Some(0) };
    let Some(new) = known else { return false };
    tracing::error!(log = %shared.place.id, from = %range.start, to = %range.end, what, "damage");
    shared.gauges.corruption.add(1);
    if !shared.stops_at(range) {
        shared.gauges.lost.add(new);
    }
    true
}

/// The log is offline, and what is before the damage can be read.
fn stopped_before(damage: &Damage, mut sealed: Vec<Arc<Segment>>, start: Offset) -> Recovered {
    sealed.retain(|segment| segment.extent().end <= damage.range.start);
    let end = sealed.last().map_or(damage.range.start, |it| it.extent().end);
    Recovered {
        segments: sealed,
        tail: None,
        offline: Some(damage.offline()),
        is_full: false,
        opened: Opened { start: start.min(end), end, ..Opened::default() },
    }
}

/// Shows the sequencer the sealed segments that are young enough to matter to it.
fn learn_sealed(
    shared: &OpenLog,
    sequencer: &mut dyn Sequencer,
    sealed: &[Arc<Segment>],
    now: Now,
) -> Result<(), OpenError> {
    let since = sequencer.since(now);
    let is_old = |segment: &Arc<Segment>| segment.extent().newest_wall < since;
    let first = sealed.iter().rposition(is_old).map_or(0, |last_old| last_old + 1);
    for segment in &sealed[first..] {
        let range = segment.base()..segment.extent().end;
        let keys = shared.read_derived(segment, "keys");
        let epoch = segment.header.epoch;
        if sequencer.learn_sealed(epoch, range.clone(), keys.as_deref()) == Learnt::Wanting {
            let action = "a sealed segment is read";
            let learn = &mut |record: &Record<'_>, offset| sequencer.learn(record, offset);
            shared.each_record(segment, learn).map_err(OpenError::io(action))?;
            if let Some(keys) = sequencer.sealed(epoch, range) {
                shared.keep_derived(segment, "keys", &keys);
            }
        }
    }
    Ok(())
}

impl Damage {
    pub(super) fn offline(&self) -> Offline {
        Offline { reason: self.what.clone(), range: Some(self.range.clone()) }
    }

    /// Copies the bad bytes aside, for whoever wants to know what they were.
    pub(super) fn quarantine(&self, place: &Place, file: &dyn File) {
        if let Some((base, bytes)) = &self.bytes
            && let Err(error) = super::quarantine::keep(place, file, *base, bytes.clone())
        {
            tracing::warn!(log = %place.id, %error, "damaged bytes cannot be copied to the quarantine directory");
        }
    }
}
