//! Appends due events to the topic: each exactly once, whenever the machine crashes.
//!
//! A move begins with a synced note of its events and of where the topic ends. Once the topic has
//! them durably, they are noted as settled. An event with the first note but not the second is in
//! doubt: it is looked up in the topic from that end on, by its identity, and moved only if it is
//! not there. So this needs no dedup window, which may be over when a store is opened again.
//!
//! The oldest waiting event keeps everything after it on disk. When little of it still waits, the events
//! of the oldest file are appended again at the end, in one frame with the note that settles them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use super::{
    log::Counts,
    lookup::{find, identity},
    mark::Mark,
    target::Target,
    waiting::Waiting,
};
use crate::events::queue::{
    Offset,
    codec::Draft,
    log::{
        AppendError, Appended, Block, Log, Permit, Purpose, ReadError, Reader, Reason, RetireError,
    },
    topic::clock_guard::Judged,
};

/// A batch moves at most this many events, ...
const BATCH: usize = 256;
/// ... or about this many bytes.
const BATCH_BYTES: u64 = 1 << 20;
/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;
/// Events in doubt that are looked up in one pass over the topic.
const DOUBTS: usize = 4096;
/// Events that became due while the clock was frozen are moved over this many milliseconds, ...
const SPREAD: u64 = 60_000;
/// ... beginning within this many, so that topics do not start together.
const JITTER: u64 = 5_000;
/// The clock is checked at least this often.
const LOOK: Duration = Duration::from_secs(1);
/// Files are compacted when less than this fraction of them waits.
const SPARSE: u64 = 4;

/// Releases the delayed events of one topic.
#[derive(Debug)]
pub struct Mover {
    log: Log,
    reader: Reader,
    counts: Arc<Counts>,
    waiting: Waiting,
    /// Everything before was read.
    seen: Offset,
    /// Events that may be in the topic at or after an offset. They are in `waiting` too.
    doubts: BTreeMap<Offset, Offset>,
    /// Events that are in the topic but not yet noted as settled.
    unmarked: Vec<Offset>,
    /// Events that cannot be read.
    stuck: BTreeSet<Offset>,
    thaws: u64,
    segment_bytes: u64,
    /// Number of its own notes that it has not read back yet.
    notes: u64,
}

/// The result of a run.
#[derive(Debug, Default)]
pub struct Moved {
    /// Events newly appended to the topic.
    pub events: u64,
    /// When to run again, unless more is appended before; none: only then.
    pub again: Option<Duration>,
    /// What prevents progress. Nothing is lost.
    pub trouble: Option<Trouble>,
}

/// Why delayed events are not released.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The topic refuses them.
    #[error("delayed events cannot be appended to the topic: {0}")]
    Topic(AppendError),
    /// Their own log refuses a note.
    #[error("nothing can be noted of delayed events: {0}")]
    Note(AppendError),
    /// One of the two logs cannot be read.
    #[error("delayed events cannot be read: {0}")]
    Read(#[from] ReadError),
    /// Files cannot be removed.
    #[error("files of delayed events cannot be removed: {0}")]
    Retire(#[from] RetireError),
}

// === impl Mover ===

impl Mover {
    pub(super) fn open(
        log: Log,
        counts: Arc<Counts>,
        segment_bytes: u64,
    ) -> Result<Self, ReadError> {
        let mut mover = Self {
            reader: log.reader(),
            seen: log.start(),
            log,
            counts,
            waiting: Waiting::default(),
            doubts: BTreeMap::new(),
            unmarked: Vec::new(),
            stuck: BTreeSet::new(),
            thaws: 0,
            segment_bytes,
            notes: 0,
        };
        mover.catch_up(true)?;
        Ok(mover)
    }

    /// Reads everything again: call it after the log was reopened.
    pub fn reload(&mut self) -> Result<(), ReadError> {
        *self = Self {
            thaws: self.thaws,
            ..Self::open(self.log.clone(), self.counts.clone(), self.segment_bytes)?
        };
        Ok(())
    }

    /// Moves one batch of due events. Blocks. `random` decides when a frozen clock's backlog begins.
    pub fn run(&mut self, topic: &dyn Target, judged: &Judged, random: u64) -> Moved {
        let mut moved = Moved::default();
        if let Err(trouble) = self.try_run(topic, judged, random, &mut moved) {
            moved.again = Some(trouble.pause());
            moved.trouble = Some(trouble);
        } else {
            moved.again = self.waiting.next_due().map(|due| {
                let left = Duration::from_millis(due.saturating_sub(judged.wall));
                if judged.is_frozen { LOOK } else { left.min(LOOK) }
            });
        }
        self.tell();
        moved
    }

    fn try_run(
        &mut self,
        topic: &dyn Target,
        judged: &Judged,
        random: u64,
        moved: &mut Moved,
    ) -> Result<(), Trouble> {
        self.catch_up(false)?;
        if judged.thaws != self.thaws {
            self.thaws = judged.thaws;
            let from = judged.wall.saturating_add(random % JITTER);
            self.waiting.spread(judged.wall, from, SPREAD);
        }
        self.resolve(topic.log())?;
        if !judged.is_frozen {
            moved.events = self.move_due(topic, judged.wall, BATCH)?;
        }
        self.mark()?;
        self.compact()?;
        self.retire()
    }

    fn tell(&self) {
        self.counts.waiting.store(self.waiting.len(), Relaxed);
        self.counts.seen.store(self.seen.plus(self.notes).0, Relaxed);
        self.counts.stuck.store(self.stuck.len() as u64, Relaxed);
    }

    // --- reading ---

    /// Reads what was appended. Notes of moves matter only while the log is opened: later ones are
    /// this mover's own.
    fn catch_up(&mut self, is_opening: bool) -> Result<(), ReadError> {
        loop {
            let block = self.reader.read(self.seen, READ_BYTES)?;
            if block.is_empty() {
                self.tell();
                return Ok(());
            }
            self.take(&block, is_opening);
            self.seen = block.next();
        }
    }

    fn take(&mut self, block: &Block, is_opening: bool) {
        for (offset, record) in block.records() {
            let mark = Mark::read(&record);
            self.notes = self.notes.saturating_sub(u64::from(mark.is_some()));
            match mark {
                Some(Mark::Settled(offsets)) => self.forget_all(&offsets),
                Some(Mark::Moving(end, offsets)) if is_opening => {
                    let waiting = offsets.into_iter().filter(|it| self.waiting.contains(*it));
                    self.doubts.extend(waiting.map(|it| (it, end)));
                }
                Some(Mark::Moving(..)) => {}
                None => {
                    let bytes = u32::try_from(record.encoded_bytes()).unwrap_or(u32::MAX);
                    self.waiting.insert(offset, record.not_before().unwrap_or(0), bytes);
                }
            }
        }
        let lost: u64 = block.gaps().iter().map(|gap| gap.end.since(gap.start)).sum();
        if lost > 0 && is_opening {
            // A lost record may have been a note, so any earlier event may be in the topic.
            let before = self.waiting.oldest(block.next(), usize::MAX, u64::MAX);
            self.doubts.extend(before.into_iter().map(|it| (it, Offset::ZERO)));
        }
        self.counts.lost.fetch_add(lost, Relaxed);
    }

    fn forget_all(&mut self, offsets: &[Offset]) {
        for offset in offsets {
            self.forget(*offset);
        }
    }

    fn forget(&mut self, offset: Offset) {
        self.waiting.remove(offset);
        self.doubts.remove(&offset);
    }

    /// The events at these offsets, without those that are lost or unreadable.
    fn read(&mut self, offsets: &[Offset]) -> Result<Vec<(Offset, Draft)>, ReadError> {
        let mut events = Vec::with_capacity(offsets.len());
        for &offset in offsets {
            match self.reader.get(offset) {
                Ok(Some(event)) => {
                    // Its time of publishing is when it reaches the topic.
                    let draft = event.record().map(|it| Draft { published: None, ..it.to_draft() });
                    events.extend(draft.map(|draft| (offset, draft)));
                }
                Ok(None) => {
                    self.counts.lost.fetch_add(1, Relaxed);
                    self.forget(offset);
                    self.unmarked.push(offset);
                }
                Err(ReadError::Damaged { .. }) => {
                    self.forget(offset);
                    self.stuck.insert(offset);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(events)
    }

    // --- moving ---

    /// Looks up in the topic the events that may be there.
    fn resolve(&mut self, topic: &Log) -> Result<(), Trouble> {
        while !self.doubts.is_empty() {
            if topic.is_offline() {
                // The outcome of the last append is known once it is open again.
                return Err(Trouble::Topic(AppendError::Unknown));
            }
            let doubts: Vec<_> =
                self.doubts.iter().take(DOUBTS).map(|(at, end)| (*at, *end)).collect();
            let offsets: Vec<Offset> = doubts.iter().map(|(at, _)| *at).collect();
            let from = doubts.iter().map(|(_, end)| *end).min().unwrap_or_default();
            let mut wanted: HashMap<Vec<u8>, Vec<Offset>> = HashMap::new();
            for (offset, draft) in self.read(&offsets)? {
                wanted.entry(identity(&draft)).or_default().push(offset);
            }
            let found = find(topic, from, &wanted)?;
            self.forget_all(&found);
            self.unmarked.extend(found);
            self.doubts.retain(|it, _| !offsets.contains(it));
            self.mark()?;
        }
        Ok(())
    }

    fn move_due(&mut self, topic: &dyn Target, wall: u64, most: usize) -> Result<u64, Trouble> {
        let due = self.waiting.due(wall, most, BATCH_BYTES);
        let events = self.read(&due)?;
        if events.is_empty() {
            return Ok(0);
        }
        let (offsets, drafts): (Vec<Offset>, Vec<Draft>) = events.into_iter().unzip();
        let permit = match topic.permit(bytes_of(&drafts)).map_err(AppendError::Refused) {
            Ok(permit) => permit,
            Err(AppendError::Refused(refused)) if refused.reason == Reason::TooLarge => {
                if offsets.len() > 1 {
                    return self.move_due(topic, wall, 1);
                }
                // The topic will never accept it; others must not wait behind it.
                tracing::error!("a delayed event is too large for its topic");
                self.forget_all(&offsets);
                self.stuck.extend(offsets);
                return Ok(0);
            }
            Err(error) => return Err(Trouble::Topic(error)),
        };
        let end = topic.log().durable();
        self.note(&Mark::Moving(end, offsets.clone()))?;
        match topic.log().append(permit, drafts).wait() {
            Ok(appended) => {
                self.forget_all(&offsets);
                self.unmarked.extend(offsets);
                let is_new = |it: &&Appended| it.duplicate.is_none();
                Ok(appended.iter().filter(is_new).count() as u64)
            }
            Err(AppendError::Unknown) => {
                self.doubts.extend(offsets.into_iter().map(|it| (it, end)));
                Err(Trouble::Topic(AppendError::Unknown))
            }
            Err(error) => Err(Trouble::Topic(error)),
        }
    }

    /// Writes and syncs a note.
    fn note(&mut self, mark: &Mark) -> Result<(), Trouble> {
        let drafts = vec![mark.to_draft()];
        let permit = permit(&self.log, &drafts).map_err(Trouble::Note)?;
        self.log.append(permit, drafts).wait().map_err(Trouble::Note)?;
        self.notes += 1;
        Ok(())
    }

    /// Notes as settled what is in the topic. Nobody waits: without the note it is looked up.
    fn mark(&mut self) -> Result<(), Trouble> {
        if self.unmarked.is_empty() {
            return Ok(());
        }
        let drafts = vec![Mark::Settled(self.unmarked.clone()).to_draft()];
        let permit = permit(&self.log, &drafts).map_err(Trouble::Note)?;
        drop(self.log.append_unwaited(permit, drafts));
        self.notes += 1;
        self.unmarked.clear();
        Ok(())
    }

    // --- space ---

    /// Appends the events of the oldest file again, if little of all files still waits.
    fn compact(&mut self) -> Result<(), Trouble> {
        let bytes = self.log.gauges().bytes.get();
        let is_sparse = bytes > 2 * self.segment_bytes && self.waiting.bytes() * SPARSE < bytes;
        if !is_sparse || !self.stuck.is_empty() || !self.unmarked.is_empty() {
            return Ok(());
        }
        let segments = self.log.segments();
        let Some(oldest) = segments.first().filter(|it| it.is_sealed) else { return Ok(()) };
        let offsets = self.waiting.oldest(oldest.end, BATCH, BATCH_BYTES);
        let events = self.read(&offsets)?;
        if events.is_empty() {
            return Ok(());
        }
        let (offsets, mut drafts): (Vec<Offset>, Vec<Draft>) = events.into_iter().unzip();
        drafts.push(Mark::Settled(offsets.clone()).to_draft());
        let permit = permit(&self.log, &drafts).map_err(Trouble::Note)?;
        self.log.append(permit, drafts).wait().map_err(Trouble::Note)?;
        self.forget_all(&offsets);
        self.catch_up(false).map_err(Trouble::Read)
    }

    /// Removes files in which nothing waits.
    fn retire(&mut self) -> Result<(), Trouble> {
        let unmarked = self.unmarked.iter().min().copied();
        let needed = [self.waiting.first(), self.stuck.first().copied(), unmarked];
        let below = needed.into_iter().flatten().min().unwrap_or(self.seen).min(self.seen);
        match self.log.retire(below) {
            Ok(_) | Err(RetireError::Offline) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Room on behalf of events already accepted.
fn permit(log: &Log, drafts: &[Draft]) -> Result<Permit, AppendError> {
    log.permit_for(Purpose::Accepted, bytes_of(drafts)).map_err(AppendError::Refused)
}

fn bytes_of(drafts: &[Draft]) -> u64 {
    drafts.iter().map(|draft| draft.encoded_bytes() as u64).sum()
}

// === impl Trouble ===

impl Trouble {
    /// When a retry makes sense.
    fn pause(&self) -> Duration {
        match self {
            Self::Topic(AppendError::Refused(refused))
            | Self::Note(AppendError::Refused(refused)) => {
                refused.retry_after.unwrap_or(LOOK).min(LOOK)
            }
            Self::Topic(_) | Self::Note(_) | Self::Read(_) | Self::Retire(_) => LOOK,
        }
    }
}
