//! Delayed events of one topic: their log, created when the first event has to wait, and the task
//! that releases them.
//!
//! A delayed event holds no floor, no key and no deduplication window: it is in the topic only from
//! when it is due. A batch that contains a delayed event goes to this log as a whole, so that it is
//! one frame; those of its events that are due are moved at once.

use std::{
    future::pending,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::{Inner, Store, topic::Topic};
use crate::events::{
    facade::Refusal,
    queue::{
        Offset,
        log::{Place, Settings as LogSettings, Writer},
        topic::{
            Topic as Handle,
            clock_guard::Judged,
            delayed::{DelayedLog, Moved, Mover, OpenDelayedError},
            retention,
        },
    },
};
use crate::telemetry::task;

/// Maximum segment size: the oldest waiting event keeps a whole segment.
const SEGMENT: u64 = 8 << 20;
/// Maximum time between two checks whether the store still exists.
const IDLE: Duration = Duration::from_mins(1);
/// Pause before a retry.
const AGAIN: Duration = Duration::from_secs(1);

/// The delayed events of one topic.
pub(super) struct Delays {
    topic: Place,
    writer: Writer,
    log: OnceLock<DelayedLog>,
    /// Held while the log is opened, while events are moved, and while it is closed.
    state: Mutex<State>,
    /// The delayed events could not be read, and wait for the topic to be reopened. Relaxed.
    is_unreadable: AtomicBool,
    /// An event has to wait, but the log could not be created; this is retried. Relaxed.
    is_wanted: AtomicBool,
    /// Wakes the task.
    stirred: Notify,
}

#[derive(Debug)]
enum State {
    /// No event has had to wait yet.
    Unmade,
    Open(Box<Mover>),
    Closed,
}

/// The result of a run.
enum Ran {
    Moved(Moved),
    /// The log cannot be created.
    Unmade(OpenDelayedError),
    /// The log is closed for good.
    Closed,
}

/// When to run again, and what failed; `None` for never.
type Next = Option<(Duration, Option<String>)>;

// === impl Delays ===

impl Delays {
    /// For the topic whose log is at `topic`; opens nothing yet.
    pub(super) fn new(topic: Place, writer: Writer) -> Self {
        let state = Mutex::new(State::Unmade);
        let [is_unreadable, is_wanted] = [false, false].map(AtomicBool::new);
        let (log, stirred) = (OnceLock::new(), Notify::new());
        Self { topic, writer, log, state, is_unreadable, is_wanted, stirred }
    }

    /// The log, if an event has had to wait.
    pub(super) fn log(&self) -> Option<&DelayedLog> {
        self.log.get()
    }

    /// Whether the log is offline until it is reopened, or cannot be created.
    pub(super) fn is_offline(&self) -> bool {
        let is_none = self.is_unreadable.load(Relaxed) || self.is_wanted.load(Relaxed);
        is_none || self.log().is_some_and(|log| log.log().is_offline())
    }

    /// Opens the log if it exists, or recovers it if it is offline. Blocks.
    pub(super) fn open(&self, settings: &LogSettings) -> Result<(), OpenDelayedError> {
        let opened = self.try_open(settings);
        self.is_unreadable.store(opened.is_err(), Relaxed);
        self.stir();
        opened
    }

    fn try_open(&self, settings: &LogSettings) -> Result<(), OpenDelayedError> {
        let mut state = self.state.lock();
        match (&mut *state, self.log.get()) {
            (State::Open(mover), Some(log)) if self.is_offline() => {
                log.log().reopen()?;
                mover.reload()?;
            }
            (State::Unmade, _) => {
                let dir = self.topic.dir.join(DelayedLog::DIR);
                let is_there = self.topic.storage.list(&dir).is_ok_and(|names| !names.is_empty());
                if is_there || self.is_wanted.load(Relaxed) {
                    self.make_in(&mut state, settings)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The log, created if it does not exist; `None` if it is closed. After a failure the task
    /// retries every second. Blocks.
    pub(super) fn make(
        &self,
        settings: &LogSettings,
    ) -> Result<Option<DelayedLog>, OpenDelayedError> {
        let mut state = self.state.lock();
        if matches!(&*state, State::Unmade) {
            let made = self.make_in(&mut state, settings);
            self.is_wanted.store(made.is_err(), Relaxed);
            self.stir();
            made?;
        }
        let is_open = matches!(&*state, State::Open(_));
        Ok(self.log.get().filter(|_| is_open).cloned())
    }

    fn make_in(&self, state: &mut State, settings: &LogSettings) -> Result<(), OpenDelayedError> {
        let (log, mover, _) = DelayedLog::open(&self.writer, &self.topic, settings)?;
        self.log.get_or_init(|| log);
        *state = State::Open(Box::new(mover));
        self.is_unreadable.store(false, Relaxed);
        self.is_wanted.store(false, Relaxed);
        Ok(())
    }

    /// Moves one batch of due events; creates the log first if it is wanted. Blocks.
    fn run(&self, topic: &Handle, settings: &LogSettings, judged: &Judged) -> Ran {
        let mut state = self.state.lock();
        if matches!(&*state, State::Unmade)
            && self.is_wanted.load(Relaxed)
            && let Err(error) = self.make_in(&mut state, settings)
        {
            return Ran::Unmade(error);
        }
        match &mut *state {
            State::Unmade => Ran::Moved(Moved::default()),
            State::Open(mover) => Ran::Moved(mover.run(topic, judged, fastrand::u64(..))),
            State::Closed => Ran::Closed,
        }
    }

    /// Stops moving events. Blocks.
    pub(super) fn close(&self) {
        *self.state.lock() = State::Closed;
        if let Some(log) = self.log() {
            log.log().close();
        }
        self.stir();
    }

    /// Makes the task look again.
    pub(super) fn stir(&self) {
        self.stirred.notify_one();
    }

    fn watch(&self) -> Option<watch::Receiver<Offset>> {
        self.log().map(|log| log.log().subscribe_durable())
    }
}

/// The settings of the log of delayed events, derived from those of the topic's log.
pub(super) fn settings(topic: &LogSettings, max_bytes: u64) -> LogSettings {
    LogSettings {
        segment_bytes: retention::segment_bytes(max_bytes).min(SEGMENT),
        // The limit is enforced elsewhere, because it can change.
        max_bytes: None,
        ..topic.clone()
    }
}

// === impl Store ===

impl Store {
    /// Moves a topic's delayed events when they are due, for as long as the store exists.
    pub(super) fn move_delayed(&self, topic: &Arc<Topic>) {
        task::spawn("delayed", move_delayed(Arc::downgrade(&self.0), topic.clone()));
    }

    /// The log of a topic's delayed events, created if there is none.
    pub(super) async fn delayed_log(&self, topic: &Arc<Topic>) -> Result<DelayedLog, Refusal> {
        if let Some(log) = topic.delays().log() {
            return Ok(log.clone());
        }
        let making = topic.clone();
        let made = self.block(move || making.delays().make(&making.delay_settings())).await?;
        let made = made.map_err(|error| Refusal::unavailable(error.to_string()))?;
        made.ok_or(Refusal::Draining)
    }

    async fn move_due(&self, topic: &Arc<Topic>) -> Next {
        let Some(handle) = topic.handle().cloned() else { return Some((IDLE, None)) };
        let judged = self.0.guard.judge();
        let moving = topic.clone();
        let ran = self
            .0
            .movers
            .run(move || moving.delays().run(&handle, &moving.delay_settings(), &judged))
            .await;
        match ran {
            Ok(Ran::Moved(Moved { again, trouble, .. })) => {
                Some((again.unwrap_or(IDLE), trouble.map(|trouble| trouble.to_string())))
            }
            Ok(Ran::Unmade(error)) => Some((AGAIN, Some(error.to_string()))),
            Ok(Ran::Closed) => None,
            Err(undone) => Some((AGAIN, Some(undone.to_string()))),
        }
    }
}

/// Ends with the store.
async fn move_delayed(store: Weak<Inner>, topic: Arc<Topic>) {
    let mut is_troubled = false;
    loop {
        // Subscribed first, so that no append is missed.
        let appended = topic.delays().watch();
        let Some(inner) = store.upgrade() else { return };
        let Some((pause, trouble)) = Store(inner).move_due(&topic).await else { return };
        // Logged once; retried every second.
        if let Some(error) = trouble.as_ref().filter(|_| !is_troubled) {
            tracing::warn!(topic = %topic.name(), %error, "due events cannot be appended to their topic; it is tried again every second");
        }
        is_troubled = trouble.is_some();
        // Whichever comes first; a wakeup that is dropped loses nothing.
        tokio::select! {
            () = sleep(pause) => {}
            () = topic.delays().stirred.notified() => {}
            () = advanced(appended) => {}
        }
    }
}

/// Completes when more is on disk; never if there is nothing to watch or it is closed.
async fn advanced(log: Option<watch::Receiver<Offset>>) {
    if let Some(mut log) = log
        && log.changed().await.is_ok()
    {
        return;
    }
    pending::<()>().await;
}
