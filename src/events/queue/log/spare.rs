//! Prepares the next file of a log ahead: filling it takes a disk tens of milliseconds, for which
//! publishers would otherwise wait.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    open::OpenLog,
    segment::{UNFINISHED, remove_if_there},
    settings::Place,
};
use crate::events::queue::storage::File;

/// Bytes filled and synced at once, few enough not to delay a commit's sync.
const STEP: u64 = 1 << 20;
/// Pause between these steps.
const PAUSE: Duration = Duration::from_millis(4);

/// Whether there is a spare file.
#[derive(Debug, Default)]
pub(super) struct Spare {
    /// One is being made. Relaxed: a late reader makes none, or tries once too often and fails.
    is_busy: AtomicBool,
    /// It exists, whole and synced. Set with Release.
    is_ready: AtomicBool,
    /// None is wanted any more. Relaxed: a late reader makes one step too many.
    is_stopped: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Spare {
    /// Has a spare made in the background, unless one exists or is being made.
    pub(super) fn want(&self, log: &Arc<OpenLog>) {
        if self.is_ready.load(Ordering::Relaxed) || self.is_busy.swap(true, Ordering::Relaxed) {
            return;
        }
        let log = log.clone();
        let name = "queue-spare".to_owned();
        let started = thread::Builder::new().name(name).spawn(move || {
            let made = log.spare.make(&log.place, log.settings.segment_bytes);
            log.spare.end(made.is_ok());
            if let Err(error) = made {
                tracing::debug!(log = %log.place.id, %error, "no file is made ahead");
            }
        });
        match started {
            Ok(thread) => *self.thread.lock() = Some(thread),
            Err(_) => self.end(false),
        }
    }

    /// Stops making one; what was made is removed when the log is reopened.
    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        if let Some(Err(_)) = self.thread.lock().take().map(JoinHandle::join) {
            tracing::error!(
                "the thread that prepares log files has panicked; please report this as a bug"
            );
        }
    }

    /// Creates it, all zeros and on disk.
    fn make(&self, place: &Place, bytes: u64) -> io::Result<()> {
        let path = path(place);
        remove_if_there(&*place.storage, &path)?;
        let file = place.storage.create(&path)?;
        let filled = self.fill(&*file, bytes);
        if filled.is_err() {
            // Opening the log would remove it too, but its room is needed now.
            remove_if_there(&*place.storage, &path)?;
        }
        filled
    }

    fn fill(&self, file: &dyn File, bytes: u64) -> io::Result<()> {
        let mut length = 0;
        while length < bytes {
            if self.is_stopped.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            length = bytes.min(length + STEP);
            file.allocate(length)?;
            file.sync()?;
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn end(&self, is_ready: bool) {
        self.is_ready.store(is_ready, Ordering::Release);
        self.is_busy.store(false, Ordering::Relaxed);
    }

    /// Hands the spare over, still under its own name.
    pub(super) fn take(&self, place: &Place) -> Option<(PathBuf, Box<dyn File>)> {
        if !self.is_ready.swap(false, Ordering::Acquire) {
            return None;
        }
        let path = path(place);
        place.storage.open(&path).ok().map(|file| (path, file))
    }
}

fn path(place: &Place) -> PathBuf {
    place.path(&format!("spare{UNFINISHED}"))
}
