//! The files of a log, and whether each continues the one before it.
//!
//! A file's header says where the file before it ended, and its epoch. So every file but the newest
//! has a known end, was synced up to there, and need not be scanned when the log is opened.

use std::{
    io::{self, ErrorKind},
    ops::ControlFlow,
    path::Path,
    sync::Arc,
};

use super::{
    error::OpenError,
    open::OpenLog,
    opening::Damage,
    scan::{self, Stretch, WalkError},
    segment::{self, Extent, FIRST_FRAME, Segment, UNFINISHED, base_of, remove_if_there},
    settings::Place,
};
use crate::events::queue::{
    Offset,
    codec::{self, FRAME_HEADER_BYTES, Record, SEGMENT_HEADER_BYTES, SegmentError, SegmentHeader},
    mutation::{self, Mutation},
    storage::File,
};

/// The files of a log.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) checkpoint: Known,
    /// All but the newest, oldest first.
    pub(super) sealed: Vec<Arc<Segment>>,
    /// The newest; none if there is no file.
    pub(super) last: Option<Found>,
    pub(super) damage: Vec<Damage>,
}

/// What CHECKPOINT says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// The log's first offset.
    pub(super) start: Offset,
    /// Everything below was on disk.
    pub(super) durable: Offset,
    /// The file exists but is damaged.
    pub(super) is_bad: bool,
}

/// What to do with files that are no longer part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leftovers {
    Remove,
    Keep,
}

/// A log file that exists.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) header: SegmentHeader,
    pub(super) file: Box<dyn File>,
    pub(super) length: u64,
    /// The header was damaged and is reconstructed from the neighbours.
    pub(super) is_mended: bool,
}

/// A file with the name of a log file.
struct Candidate {
    base: Offset,
    file: Box<dyn File>,
    length: u64,
    header: Result<SegmentHeader, SegmentError>,
}

/// Finds the log's files, and removes leftovers.
pub(super) fn find(
    shared: &OpenLog,
    floor: Offset,
    leftovers: Leftovers,
) -> Result<Chain, OpenError> {
    let place = &shared.place;
    let names = names(place).map_err(OpenError::io("the log's directory is listed"))?;
    let checkpoint = super::checkpoint::read(place)?;
    if checkpoint.is_some_and(|it| it.is_bad) {
        shared.gauges.corruption.add(1);
    }
    let start = checkpoint.map_or(Offset::ZERO, |it| it.start);
    let bases = sort_out(place, &names, start, leftovers)?;
    let mut candidates = Vec::with_capacity(bases.len());
    for base in bases {
        candidates.push(Candidate::open(place, base)?);
    }
    let mut damage = Vec::new();
    let found = mend(candidates, place, &mut damage);
    let first = found.first().map(|it| it.header.base);
    let mut checkpoint = checkpoint.unwrap_or_default();
    match first {
        // The oldest file that is kept covers the start, unless the start is unknown.
        Some(first) if checkpoint.start < first && checkpoint.durable > Offset::ZERO => {
            let range = checkpoint.start..first;
            let what = "the oldest files are missing".into();
            damage.push(Damage { range, bytes: None, what, is_lost: true });
        }
        Some(first) => checkpoint.start = checkpoint.start.max(first),
        None if checkpoint.durable.max(floor) > checkpoint.start => {
            let range = checkpoint.start..checkpoint.durable.max(floor);
            let what = "all files are missing".into();
            damage.push(Damage { range, bytes: None, what, is_lost: true });
        }
        None => {}
    }
    let (sealed, last) = link(found, &mut damage)?;
    if leftovers == Leftovers::Remove {
        let is_unknown = |segment: &&Arc<Segment>| segment.extent().newest_wall == 0;
        sealed.iter().filter(is_unknown).for_each(|segment| shared.learn_newest_wall(segment));
    }
    damage.sort_by_key(|it| it.range.start);
    Ok(Chain { checkpoint, sealed, last, damage })
}

/// The names in the log's directory; none if it does not exist.
fn names(place: &Place) -> io::Result<Vec<String>> {
    match place.storage.list(&place.dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        names => names,
    }
}

/// The floor to open a log with whose readers have seen everything below `floor`. A log that was
/// begun has a file: if it has none, at least its first offset is lost.
pub fn floor_of(place: &Place, floor: Offset, is_begun: bool) -> Result<Offset, OpenError> {
    let names = names(place).map_err(OpenError::io("the log's directory is listed"))?;
    let has_file = names.iter().any(|name| base_of(name, "log").is_some());
    Ok(if is_begun && !has_file { floor.max(Offset(1)) } else { floor })
}

/// Leftovers are unfinished files and those wholly below the start. Returns the bases of the other
/// log files, in order.
fn sort_out(
    place: &Place,
    names: &[String],
    start: Offset,
    leftovers: Leftovers,
) -> Result<Vec<Offset>, OpenError> {
    let failed = OpenError::io("leftovers are removed");
    let mut bases: Vec<_> = names.iter().filter_map(|name| base_of(name, "log")).collect();
    bases.sort_unstable();
    let passed = bases.windows(2).take_while(|pair| pair[1] <= start).count();
    let is_leftover = |name: &String| {
        let derived = ["idx", "keys"].iter().find_map(|ending| base_of(name, ending));
        name.ends_with(UNFINISHED)
            || derived.is_some_and(|base| !bases[passed..].contains(&base))
            || base_of(name, "log").is_some_and(|base| bases[..passed].contains(&base))
    };
    for name in names.iter().filter(|name| is_leftover(name)) {
        let path = place.path(name);
        // Whoever only verifies says beforehand what would be in the way.
        refuse_dir(place, &path).map_err(&failed)?;
        if leftovers == Leftovers::Remove {
            remove_if_there(&*place.storage, &path).map_err(&failed)?;
        }
    }
    Ok(bases.split_off(passed))
}

/// A directory is not ours, and may have files in it: it is named and not removed.
fn refuse_dir(place: &Place, path: &Path) -> io::Result<()> {
    if place.storage.list(path).is_err() {
        return Ok(());
    }
    let said = format!("{}: it is a directory, where only files belong", path.display());
    Err(io::Error::new(ErrorKind::IsADirectory, said))
}

impl Candidate {
    fn open(place: &Place, base: Offset) -> Result<Self, OpenError> {
        let path = place.segment_path(base);
        let failed = OpenError::io("a log file is opened");
        let file = place.storage.open(&path).map_err(&failed)?;
        let length = file.length().map_err(&failed)?;
        let mut page = vec![0; SEGMENT_HEADER_BYTES];
        let read = file.read_at(&mut page, 0).map_err(&failed)?;
        let header = SegmentHeader::decode(&page[..read]);
        let file_name = || path.display().to_string();
        match &header {
            Err(error @ (SegmentError::Newer { .. } | SegmentError::UnknownFlags { .. })) => {
                return Err(OpenError::Newer { file: file_name(), message: error.to_string() });
            }
            Ok(it) if (it.store, it.log) != (place.store, place.id) => {
                return Err(OpenError::Foreign {
                    file: file_name(),
                    found: format!("log {} of store {}", it.log, it.store),
                    expected: format!("log {} of store {}", place.id, place.store),
                });
            }
            _ => {}
        }
        // A file under another base's name does not belong there.
        let header =
            header.and_then(|it| if it.base == base { Ok(it) } else { Err(SegmentError::Foreign) });
        Ok(Self { base, file, length, header })
    }

    /// The epoch of the first frame, if there is one.
    fn epoch_of_frames(&self) -> Option<u64> {
        let mut head = [0; FRAME_HEADER_BYTES];
        self.file.read_at(&mut head, FIRST_FRAME).ok()?;
        let epoch = u64::from_le_bytes(head[16..24].try_into().ok()?);
        let head = codec::parse_head(&head, epoch).ok()?;
        (head.base == self.base).then_some(epoch)
    }
}

/// Reconstructs damaged headers from their neighbours, newest first.
fn mend(candidates: Vec<Candidate>, place: &Place, damage: &mut Vec<Damage>) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::with_capacity(candidates.len());
    for candidate in candidates.into_iter().rev() {
        let next = found.last().map(|it| &it.header);
        let is_mended = candidate.header.is_err();
        let header = match &candidate.header {
            Ok(header) => *header,
            Err(error) => {
                let told = next.and_then(|next| next.predecessor).map(|it| it.epoch);
                let epoch = told.or_else(|| candidate.epoch_of_frames());
                let base = candidate.base;
                let end = next.map_or(base.plus(1), |next| next.base);
                damage.push(Damage {
                    range: base..end,
                    bytes: Some((base, 0..FIRST_FRAME)),
                    what: format!("{}: {error}", segment::file_name(base, "log")),
                    is_lost: false,
                });
                SegmentHeader {
                    store: place.store,
                    log: place.id,
                    base,
                    epoch: epoch.unwrap_or_else(segment::random_epoch),
                    predecessor: None,
                    gap: 0,
                }
            }
        };
        found.push(Found { header, file: candidate.file, length: candidate.length, is_mended });
    }
    found.reverse();
    found
}

/// Gives every file but the newest its end; returns those, and the newest.
fn link(
    found: Vec<Found>,
    damage: &mut Vec<Damage>,
) -> Result<(Vec<Arc<Segment>>, Option<Found>), OpenError> {
    let mut sealed = Vec::new();
    let mut rest = found.into_iter().peekable();
    while let Some(it) = rest.next() {
        let Some(next) = rest.peek() else { return Ok((sealed, Some(it))) };
        let told = next
            .header
            .predecessor
            .filter(|told| told.epoch == it.header.epoch || mutation::is(Mutation::EpochIgnored));
        let newest_wall = first_wall(next);
        let extent = match told {
            Some(told) => Extent {
                end: told.end_offset,
                position: told.end_position,
                newest_wall: newest_wall.unwrap_or(0),
                is_sealed: true,
            },
            None => end_without_successor(&it, next, damage)?,
        };
        sealed.push(Arc::new(Segment::new(it.header, extent)));
    }
    Ok((sealed, None))
}

/// When the first frame of a file was written: not before the last frame of the file before.
fn first_wall(found: &Found) -> Option<u64> {
    let mut head = [0; FRAME_HEADER_BYTES];
    found.file.read_at(&mut head, FIRST_FRAME).ok()?;
    codec::parse_head(&head, found.header.epoch).ok().map(|head| head.closing.wall)
}

/// Finds the end of a file whose successor is not its own.
fn end_without_successor(
    it: &Found,
    next: &Found,
    damage: &mut Vec<Damage>,
) -> Result<Extent, OpenError> {
    let stretch = it.stretch();
    let mut newest_wall = 0;
    let end = scan::walk(&*it.file, &stretch, &mut |piece| {
        if let scan::Piece::Frame(_, frame) = piece {
            if frame.end() > next.header.base {
                return ControlFlow::Break(());
            }
            newest_wall = frame.head().closing.wall;
        }
        ControlFlow::Continue(())
    });
    let end = end.map_err(|error| error.into_open(it.header.base))?;
    let offset = end.offset.min(next.header.base);
    let what = "a file is missing, or not the one that belongs there".into();
    if offset < next.header.base {
        let range = offset..next.header.base;
        damage.push(Damage { range, bytes: None, what, is_lost: true });
    } else if next.header.predecessor.is_some() {
        // It ends where the next file begins, but that file continues another one.
        let range = it.header.base..next.header.base;
        damage.push(Damage { range, bytes: None, what, is_lost: false });
    }
    Ok(Extent { end: offset, position: end.position, newest_wall, is_sealed: true })
}

impl Found {
    /// Passes each whole record of the frames before `limit` to a visitor.
    pub(super) fn each_record(
        &self,
        limit: u64,
        visit: &mut dyn FnMut(Offset, &Record<'_>),
    ) -> Result<(), WalkError> {
        let stretch = Stretch { limit, ..self.stretch() };
        let walked = scan::walk(&*self.file, &stretch, &mut |piece| {
            if let scan::Piece::Frame(_, frame) = piece {
                for (offset, record) in frame.records() {
                    if let Ok(record) = record {
                        visit(offset, &record);
                    }
                }
            }
            ControlFlow::Continue(())
        });
        walked.map(drop)
    }

    /// All of its frames.
    pub(super) fn stretch(&self) -> Stretch {
        Stretch {
            epoch: self.header.epoch,
            position: FIRST_FRAME,
            offset: self.header.base,
            limit: self.length,
            previous_crc: Some(0),
        }
    }
}

impl WalkError {
    /// As the error of opening the log, met in the file with this base.
    pub(super) fn into_open(self, base: Offset) -> OpenError {
        match self {
            Self::Io(error) => OpenError::io("a log file is read")(error),
            Self::Newer(message) => {
                OpenError::Newer { file: segment::file_name(base, "log"), message }
            }
        }
    }
}

/// A whole small file; none if it does not exist.
pub(super) fn read_whole(place: &Place, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match place.storage.open_read(&place.path(name)) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = usize::try_from(file.length()?.min(limit)).unwrap_or(0);
    let mut bytes = vec![0; length];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}
