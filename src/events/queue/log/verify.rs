//! Verifies and repairs a log that nobody has open.
//!
//! [`verify`] changes nothing. [`repair`] does what opening with [`Recovery::Quarantine`] does:
//! copies damaged bytes aside and counts what is lost. It also accepts the loss, so that the log
//! opens with [`Recovery::Strict`] again. It changes no byte of a log file; it cuts torn ones.

use std::{io, ops::Range, sync::Arc};

use super::{
    chain::{self, Chain, Leftovers},
    error::{OpenError, ReadError},
    handle::Log,
    judge,
    open::OpenLog,
    segment::{Segment, file_name},
    sequencer::Plain,
    settings::{Place, Recovery, Settings},
    writer::Writer,
};
use crate::events::queue::{
    Offset,
    codec::{Index, Record},
    time::SystemClock,
};

/// The contents of a log's directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Log files.
    pub files: u64,
    /// Whole records, including those above the watermark.
    pub records: u64,
    /// Bytes used.
    pub bytes: u64,
    /// From the first offset to the offset after the last.
    pub range: Range<Offset>,
    /// Bytes that were on disk and are bad.
    pub damage: Vec<Finding>,
    /// Incomplete bytes at the end that were never known to be on disk: not damage.
    pub torn_bytes: u64,
    /// Missing or invalid indexes, by file name: rebuilt when they are needed.
    pub derived: Vec<String>,
}

/// Damage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The affected offsets, end excluded.
    pub range: Range<Offset>,
    /// Whether they are lost; if not, they are still readable.
    pub is_lost: bool,
    /// Whether a repair has accepted that.
    pub is_accepted: bool,
    /// In words.
    pub what: String,
}

/// Verifies a log that nobody has open. `floor`: everything below was seen by its readers. Blocks.
pub fn verify(place: &Place, floor: Offset) -> Result<Report, OpenError> {
    look_through(place, floor, &mut |_, _| {})
}

/// As [`verify`], and shows each whole record in order, also those above the watermark. Blocks.
pub fn look_through(
    place: &Place,
    floor: Offset,
    visit: &mut dyn FnMut(Offset, &Record<'_>),
) -> Result<Report, OpenError> {
    look(place, floor, visit).map_err(|error| error.of(place))
}

fn look(
    place: &Place,
    floor: Offset,
    visit: &mut dyn FnMut(Offset, &Record<'_>),
) -> Result<Report, OpenError> {
    let log = bare(place, Recovery::Strict)?;
    let Chain { checkpoint, sealed, last, damage } = chain::find(&log, floor, Leftovers::Keep)?;
    let mut report = Report::default();
    let accepted = log.accepted.lock().clone();
    for it in damage {
        report.damage.push(Finding {
            is_accepted: accepted.covers(&it.range),
            range: it.range,
            is_lost: it.is_lost,
            what: it.what,
        });
    }
    report.range = checkpoint.start..checkpoint.start;
    log.view.set_segments(sealed.clone());
    for segment in &sealed {
        report.take(&log, segment, visit)?;
    }
    if let Some(found) = last {
        report.between(found.header.base);
        let known = checkpoint.durable.max(floor);
        let base = found.header.base;
        let verdict =
            judge::judge(&found, known, &mut Plain).map_err(|error| error.into_open(base))?;
        let end = verdict.copy.map_or(verdict.proven, |copy| copy.to);
        found.each_record(end.position, visit).map_err(|error| error.into_open(base))?;
        let lost: u64 = verdict.damage.iter().map(|it| it.range.end.since(it.range.start)).sum();
        report.files += 1;
        report.bytes += end.position;
        report.records += verdict.next.since(base).saturating_sub(lost);
        report.range.end = verdict.next;
        if verdict.is_cut {
            report.torn_bytes = found.length.saturating_sub(end.position);
        }
        report.damage.extend(verdict.damage.into_iter().map(|it| Finding {
            is_accepted: accepted.covers(&it.range),
            range: it.range,
            is_lost: it.is_lost,
            what: it.what,
        }));
    }
    Ok(report)
}

/// Repairs a log that nobody has open, so that it opens with [`Recovery::Strict`], and reports what
/// that cost. Blocks.
pub fn repair(place: &Place, settings: &Settings, floor: Offset) -> Result<Report, OpenError> {
    let before = verify(place, floor)?;
    let writer = writer()?;
    let settings = Settings { recovery: Recovery::Quarantine, ..settings.clone() };
    let (log, _) = Log::open(&writer, place.clone(), &settings, floor, Box::new(Plain))?;
    // Opening does not scan sealed files: reading does, and copies bad bytes aside.
    let mut reader = log.reader();
    let mut next = log.start();
    while next < log.durable() {
        match reader.read(next, 1 << 20) {
            Ok(block) => next = block.next().max(next.plus(1)),
            Err(ReadError::Newer(message)) => {
                return Err(OpenError::Newer { file: place.dir.display().to_string(), message });
            }
            Err(error) => {
                return Err(OpenError::io("the log is read")(io::Error::other(error)));
            }
        }
    }
    log.close();
    writer.stop();
    let mut accepted = super::accepted::Accepted::read(place)
        .map_err(OpenError::io("what is accepted is read"))?;
    // The extent of a file with a bad header is only known once a later file says where it ends.
    let after = verify(place, floor)?;
    let ranges = before.damage.into_iter().chain(after.damage).map(|it| it.range).collect();
    accepted.add(place, ranges).map_err(OpenError::io("what is accepted is written"))?;
    verify(place, floor)
}

fn bare(place: &Place, recovery: Recovery) -> Result<Arc<OpenLog>, OpenError> {
    let settings = Settings { recovery, ..Settings::default() };
    let log = OpenLog::new(&writer()?, place.clone(), settings, Box::new(Plain));
    log.read_accepted().map_err(OpenError::io("what is accepted is read"))?;
    Ok(Arc::new(log))
}

fn writer() -> Result<Writer, OpenError> {
    Writer::spawn("queue-verify", Arc::new(SystemClock)).map_err(OpenError::io("a thread starts"))
}

impl Report {
    /// Whether all damage is accepted.
    pub fn is_sound(&self) -> bool {
        self.damage.iter().all(|finding| finding.is_accepted)
    }

    /// Offsets between two files that were lost before, as the later file says: no reason to stop.
    fn between(&mut self, base: Offset) {
        if self.files > 0 && self.range.end < base {
            self.damage.push(Finding {
                range: self.range.end..base,
                is_lost: true,
                is_accepted: true,
                what: "lost and counted".into(),
            });
        }
    }

    /// Counts a sealed file.
    fn take(
        &mut self,
        log: &Arc<OpenLog>,
        segment: &Arc<Segment>,
        show: &mut dyn FnMut(Offset, &Record<'_>),
    ) -> Result<(), OpenError> {
        let extent = segment.extent();
        self.between(segment.base());
        self.files += 1;
        self.bytes += extent.position;
        self.range.end = self.range.end.max(extent.end);
        let index = log.read_derived(segment, "idx").and_then(|it| Index::decode(&it).ok());
        if index.is_none_or(|it| it.epoch != segment.header.epoch) {
            self.derived.push(file_name(segment.base(), "idx"));
        }
        let failed = OpenError::io("a sealed file is read");
        let mut expected = segment.base();
        let mut lost: Vec<Range<Offset>> = Vec::new();
        let mut seen = 0;
        let visit = &mut |record: &Record<'_>, offset: Offset| {
            show(offset, record);
            if offset > expected {
                lost.push(expected..offset);
            }
            expected = offset.plus(1);
            seen += 1;
        };
        log.each_record(segment, visit).map_err(failed)?;
        if expected < extent.end {
            lost.push(expected..extent.end);
        }
        self.records += seen;
        let accepted = log.accepted.lock().clone();
        self.damage.extend(lost.into_iter().map(|range| Finding {
            is_accepted: accepted.covers(&range),
            range,
            is_lost: true,
            what: format!(
                "{}: bytes that were on disk have changed",
                file_name(segment.base(), "log")
            ),
        }));
        Ok(())
    }
}
