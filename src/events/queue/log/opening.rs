//! Opens a log: from whatever a crash left to a log that takes appends.
//!
//! W, the watermark, is the highest offset that anything proves to have been on disk: CHECKPOINT, a
//! frame that says so, a reader that was there. Bad bytes at or above W are what a crash does to
//! unacknowledged writes: the log is cut there. Bad bytes below W are damage.
//!
//! Whole frames above W were written, but nothing proves that they are on disk: the page cache
//! shows writes that the disk never got. So before they are served they are copied into a new file,
//! under a new epoch, and synced there.

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

/// A log after opening.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) segments: Vec<Arc<Segment>>,
    /// Where it grows; none if it is offline.
    pub(super) tail: Option<Tail>,
    /// Why it is offline.
    pub(super) offline: Option<Offline>,
    /// There was no room for a new file: existing records are served, and appends have to wait.
    pub(super) is_full: bool,
    pub(super) opened: Opened,
}

/// Bytes that were on disk and are bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// The offsets it affects.
    pub(super) range: Range<Offset>,
    /// The file (by its base) and the range of bad bytes in it; none if the file is missing.
    pub(super) bytes: Option<(Offset, Range<u64>)>,
    /// In words.
    pub(super) what: String,
    /// Whether the offsets are lost; if not, they are still readable.
    pub(super) is_lost: bool,
}

/// Bound of the findings that are remembered.
const MAX_FINDINGS: usize = 4096;

/// Damage found so far, so that each range is counted once. Ranges do not touch.
#[derive(Debug, Default)]
pub(super) struct Findings(BTreeMap<Offset, Offset>);

impl Findings {
    /// How many of these offsets are new; none if all were known.
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

/// Opens the log. Its directory exists.
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

/// Counts and logs damage that was not known. Returns whether it was new.
pub(super) fn note(shared: &OpenLog, damage: &Damage) -> bool {
    let Damage { range, what, is_lost, .. } = damage;
    // Damage that is still readable may turn out to be lost later.
    let known = if *is_lost { shared.findings.lock().add(range) } else { Some(0) };
    let Some(new) = known else { return false };
    tracing::error!(log = %shared.place.id, from = %range.start, to = %range.end, what, "damage");
    shared.gauges.corruption.add(1);
    if !shared.stops_at(range) {
        shared.gauges.lost.add(new);
    }
    true
}

/// The log is offline; what precedes the damage is readable.
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

/// Shows the sequencer the sealed segments that are recent enough to matter to it.
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

    /// Copies the bad bytes aside for later analysis.
    pub(super) fn quarantine(&self, place: &Place, file: &dyn File) {
        if let Some((base, bytes)) = &self.bytes
            && let Err(error) = super::quarantine::keep(place, file, *base, bytes.clone())
        {
            tracing::warn!(log = %place.id, %error, "damaged bytes cannot be copied to the quarantine directory");
        }
    }
}
