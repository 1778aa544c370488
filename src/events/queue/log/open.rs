//! An open log: the state shared by its handles, readers and writer.

use std::{
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    accepted::Accepted,
    batch::Item,
    checkpoint,
    commit::{Commit, Waiter},
    core::Core,
    disk::GONE,
    error::{OpenError, RetireError},
    live::Live,
    opening::{self, Findings},
    permit::{Budget, Permit},
    room::Tries,
    segment::{CHECKPOINT, file_name, remove_if_there},
    sequencer::Sequencer,
    settings::{Durability, Place, Recovery, Settings},
    spare::Spare,
    status::{Offline, Opened, State, Status},
    view::View,
    writer::{Queue, Request, Urgency, Writer},
};
use crate::{
    events::queue::{Offset, gauges::Gauges},
    telemetry::clock,
};

/// CHECKPOINT is delayed by this factor while there is always more to write.
const BUSY_FACTOR: u32 = 10;

/// One open log.
#[derive(Debug)]
pub(super) struct OpenLog {
    pub(super) place: Place,
    pub(super) settings: Settings,
    pub(super) gauges: Arc<Gauges>,
    pub(super) view: View,
    pub(super) budget: Arc<Budget>,
    queue: Arc<Queue>,
    engine: Mutex<Engine>,
    noted: Mutex<Noted>,
    /// Everything below may have been read, in this run of the process or an earlier one.
    seen: Mutex<Offset>,
    /// Damage found so far.
    pub(super) findings: Mutex<Findings>,
    pub(super) accepted: Mutex<Accepted>,
    is_closed: AtomicBool,
    pub(super) tries: Tries,
    pub(super) spare: Spare,
    pub(super) live: Live,
}

/// The state of the writing side.
#[derive(Debug)]
pub(super) enum Engine {
    Running(Box<Core>),
    Down(Box<dyn Sequencer>),
    /// Only during the transition between them.
    Gone,
}

/// What CHECKPOINT says.
#[derive(Debug)]
struct Noted {
    durable: Offset,
    at: Instant,
}

// === impl OpenLog ===

impl OpenLog {
    pub(super) fn open(
        writer: &Writer,
        place: Place,
        settings: &Settings,
        floor: Offset,
        sequencer: Box<dyn Sequencer>,
    ) -> Result<(Arc<Self>, Opened), OpenError> {
        let mut settings = settings.clone();
        if settings.durability == Durability::Memory {
            // This mode promises nothing, so missing data is no reason to stop.
            settings.recovery = Recovery::Quarantine;
        }
        place.make_dir().map_err(OpenError::io("the log's directory is made"))?;
        let log = Arc::new(Self::new(writer, place, settings, sequencer));
        log.queue.serves(&log);
        let opened = log.recover(floor)?;
        Ok((log, opened))
    }

    /// A log of which nothing is known yet.
    pub(super) fn new(
        writer: &Writer,
        place: Place,
        settings: Settings,
        sequencer: Box<dyn Sequencer>,
    ) -> Self {
        Self {
            budget: Budget::new(settings.buffer_bytes),
            place,
            settings,
            gauges: Arc::default(),
            view: View::new(),
            queue: writer.queue().clone(),
            engine: Mutex::new(Engine::Down(sequencer)),
            noted: Mutex::new(Noted { durable: Offset::ZERO, at: Instant::now() }),
            findings: Mutex::default(),
            accepted: Mutex::default(),
            seen: Mutex::default(),
            is_closed: AtomicBool::new(false),
            tries: Tries::default(),
            spare: Spare::default(),
            live: Live::default(),
        }
    }

    /// Loads the damage that an operator has accepted.
    pub(super) fn read_accepted(&self) -> io::Result<()> {
        *self.accepted.lock() = Accepted::read(&self.place)?;
        Ok(())
    }

    /// Whether damage to `range` takes the log offline.
    pub(super) fn stops_at(&self, range: &Range<Offset>) -> bool {
        self.settings.recovery == Recovery::Strict && !self.accepted.lock().covers(range)
    }

    pub(super) fn reopen(self: &Arc<Self>) -> Result<Opened, OpenError> {
        self.set_state(State::Offline(Offline {
            reason: "it is being reopened".into(),
            range: None,
        }));
        self.is_closed.store(false, Ordering::Relaxed);
        let is_proven = self.settings.durability != Durability::Memory;
        self.recover(if is_proven { self.view.durable() } else { Offset::ZERO })
    }

    fn recover(self: &Arc<Self>, floor: Offset) -> Result<Opened, OpenError> {
        if self.place.disk.is_gone() {
            let source = io::Error::new(io::ErrorKind::NotFound, GONE);
            return Err(OpenError::Io { action: "the log is opened", source });
        }
        let since = Instant::now();
        // Held throughout: the writer sees the log as offline, or taken, and does not wait.
        let mut engine = self.engine.lock();
        // Readers have seen what is below: it must exist even if damage moved the end back.
        let mut seen = self.seen.lock();
        *seen = floor.max(*seen);
        let floor = *seen;
        drop(seen);
        let mut sequencer = match std::mem::replace(&mut *engine, Engine::Gone) {
            Engine::Running(core) => core.into_sequencer(),
            Engine::Down(sequencer) => sequencer,
            Engine::Gone => Box::new(super::sequencer::Plain),
        };
        let now = self.queue.clock.now();
        let recovered = match opening::recover(self, &mut *sequencer, floor, now) {
            Ok(recovered) => recovered,
            Err(error) => {
                *engine = Engine::Down(sequencer);
                let reason = error.to_string();
                self.set_state(State::Offline(Offline { reason, range: None }));
                return Err(error);
            }
        };
        let mut opened = recovered.opened;
        self.view.set_start(opened.start);
        self.view.set_segments(recovered.segments);
        self.view.set_durable(opened.end);
        let state = match (recovered.offline, recovered.is_full) {
            (Some(offline), _) => State::Offline(offline),
            (None, true) => State::Full,
            (None, false) => State::Serving,
        };
        let is_running = recovered.tail.is_some();
        *engine = match recovered.tail {
            Some(tail) => {
                let core = Core::new(self.clone(), sequencer, tail, opened.end);
                Engine::Running(Box::new(core))
            }
            None => Engine::Down(sequencer),
        };
        self.view.opened();
        self.set_state(state);
        self.update_size();
        drop(engine);
        if is_running {
            self.write_checkpoint(opened.end);
        }
        opened.took = since.elapsed();
        let millis = u64::try_from(opened.took.as_millis()).unwrap_or(u64::MAX);
        self.gauges.recovery_millis.set(millis);
        Ok(opened)
    }

    pub(super) fn close(self: &Arc<Self>) {
        if self.is_closed.swap(true, Ordering::Relaxed) {
            return;
        }
        // Completes after everything in flight. A stopped writer has written that already.
        let (waiter, commit) = Commit::pair();
        self.submit(Permit::empty(&self.budget), Vec::new(), waiter, Urgency::Synced);
        drop(commit.wait());
        self.spare.stop();
        let mut engine = self.engine.lock();
        // Breaks the reference cycle between the core and its log.
        let synced = match std::mem::replace(&mut *engine, Engine::Gone) {
            Engine::Running(mut core) => {
                let synced = core.sync().ok().map(|()| core.synced());
                *engine = Engine::Down(core.into_sequencer());
                synced
            }
            other => {
                *engine = other;
                None
            }
        };
        self.set_state(State::Offline(Offline { reason: "it is closed".into(), range: None }));
        drop(engine);
        if let Some(synced) = synced {
            self.write_checkpoint(synced);
        }
    }

    /// Nobody writes any more. Breaks the reference cycle between the core and its log.
    pub(super) fn end(&self) {
        let mut engine = self.engine.lock();
        *engine = match std::mem::replace(&mut *engine, Engine::Gone) {
            Engine::Running(core) => Engine::Down(core.into_sequencer()),
            other => other,
        };
    }

    pub(super) fn submit(
        self: &Arc<Self>,
        permit: Permit,
        drafts: Vec<crate::events::queue::codec::Draft>,
        waiter: Waiter,
        urgency: Urgency,
    ) {
        // To the millisecond at which appends collect: no need to read the clock.
        let since = clock::tick();
        let item = Item { is_asked: waiter.asks(), ..Item::new(drafts) };
        let shared = self.clone();
        self.queue.submit(Request { shared, item, permit, waiter, urgency, since });
    }

    /// Runs `run` on the core, unless the log is offline or being reopened.
    pub(super) fn with_core<T>(&self, run: impl FnOnce(&mut Core) -> T) -> Option<T> {
        // Another holder is opening or closing the log: it counts as offline.
        match &mut *self.engine.try_lock()? {
            Engine::Running(core) => Some(run(core)),
            Engine::Down(_) | Engine::Gone => None,
        }
    }

    /// When the next work is due that nobody waits for. `None` while the log is poisoned or gone.
    pub(super) fn due(&self) -> Option<Instant> {
        let noted = self.noted.lock();
        let (durable, at) = (noted.durable, noted.at);
        drop(noted);
        self.with_core(|core| {
            if core.is_poisoned() || self.place.disk.is_gone() {
                return None;
            }
            let checkpoint = (core.synced() > durable).then_some(at + self.settings.checkpoint);
            self.settings.sync_after(false)?;
            checkpoint.into_iter().chain(core.sync_due()).min()
        })
        .flatten()
    }

    /// Does what is due, or everything with `at_once`. While the writer is busy CHECKPOINT can
    /// wait, because the next frame says as much. Returns whether work is left for later.
    pub(super) fn look_after(&self, at_once: bool, is_busy: bool) -> bool {
        let now = Instant::now();
        let is_due = at_once || self.due().is_some_and(|due| due <= now);
        if is_due {
            let synced = self.with_core(|core| core.sync().map(|()| core.synced()));
            let noted = self.noted.lock();
            let apart = self.settings.checkpoint * if is_busy { BUSY_FACTOR } else { 1 };
            let is_late = at_once || noted.at + apart <= now;
            let is_news = |synced: &Offset| *synced > noted.durable;
            let synced = synced.and_then(Result::ok).filter(is_news).filter(|_| is_late);
            drop(noted);
            if let Some(synced) = synced {
                self.write_checkpoint(synced);
            }
        }
        self.due().is_some()
    }

    /// Notes on disk that everything below `durable` is there. A failure does no harm: a later
    /// recovery knows less.
    pub(super) fn write_checkpoint(&self, durable: Offset) {
        if self.place.disk.is_gone() {
            return;
        }
        let mut noted = self.noted.lock();
        noted.at = Instant::now();
        match self.put_checkpoint(self.view.start(), durable) {
            Ok(()) => noted.durable = durable,
            Err(error) => {
                tracing::warn!(log = %self.place.id, %error, "CHECKPOINT cannot be written");
            }
        }
    }

    fn put_checkpoint(&self, start: Offset, durable: Offset) -> io::Result<()> {
        let bytes = checkpoint::encode(&self.place, start, durable);
        self.place.replace(CHECKPOINT, &bytes)?;
        self.place.sync_dir()
    }

    pub(super) fn retire(&self, below: Offset) -> Result<Offset, RetireError> {
        if self.is_offline() {
            return Err(RetireError::Offline);
        }
        let mut noted = self.noted.lock();
        let start = self.view.start();
        let new = self.view.start_for(below.min(self.view.durable())).unwrap_or(start);
        if new <= start {
            return Ok(start);
        }
        let durable = noted.durable.max(new);
        self.put_checkpoint(new, durable)?;
        (noted.durable, noted.at) = (durable, Instant::now());
        self.view.set_start(new);
        let gone = self.view.take_below(new);
        drop(noted);
        self.update_size();
        for segment in gone {
            for ending in ["log", "idx", "keys"] {
                let path = self.place.path(&file_name(segment.base(), ending));
                remove_if_there(&*self.place.storage, &path)?;
            }
        }
        Ok(new)
    }

    /// Whether it takes no appends.
    pub(super) fn is_offline(&self) -> bool {
        self.place.disk.is_gone() || self.view.is_offline()
    }

    fn state(&self) -> State {
        if self.place.disk.is_gone() {
            return State::Offline(Offline { reason: GONE.to_owned(), range: None });
        }
        self.view.state()
    }

    pub(super) fn status(&self) -> Status {
        let (start, durable) = (self.view.start(), self.view.durable());
        Status {
            state: self.state(),
            start,
            durable,
            bytes: self.view.bytes(),
            events: durable.since(start),
        }
    }

    pub(super) fn set_state(&self, state: State) {
        self.gauges.is_offline.set(matches!(state, State::Offline(_)));
        self.gauges.is_full.set(state == State::Full);
        self.view.set_state(state);
    }

    /// Lets readers go up to `durable`.
    pub(super) fn published(&self, durable: Offset, newest_bytes: u64) {
        self.view.set_durable(durable);
        self.gauges.events.set(durable.since(self.view.start()));
        self.gauges.bytes.set(self.view.sealed_bytes() + newest_bytes);
    }

    fn update_size(&self) {
        self.gauges.events.set(self.view.durable().since(self.view.start()));
        self.gauges.bytes.set(self.view.bytes());
    }
}
