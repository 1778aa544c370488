//! The next file of a log, made and filled before it is needed: filling takes a disk tens of
//! milliseconds, and those who publish then would wait for it.

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

/// So many bytes are filled and synced at once, so that a commit's sync finds little of them in its way.
const STEP: u64 = 1 << 20;
/// And then the disk is left alone for so long.
const PAUSE: Duration = Duration::from_millis(4);

/// Whether there is one.
#[derive(Debug, Default)]
pub(super) struct Spare {
    /// One is being made. Relaxed: who sees it late makes none, or makes one too many and fails.
    is_busy: AtomicBool,
    /// It is there, whole and synced. Released by who made it.
    is_ready: AtomicBool,
    /// None is wanted any more. Relaxed: who sees it late makes a step too many.
    is_stopped: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Spare {
    /// Has it made in the background, unless that is done or being done.
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

    /// Ends the making of it; it goes when the log is opened again.
    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        if let Some(Err(_)) = self.thread.lock().take().map(JoinHandle::join) {
            tracing::error!(
                "the thread that prepares log files has panicked; please report this as a bug"
            );
        }
    }

    /// Makes it, all zero and on disk.
    fn make(&self, place: &Place, bytes: u64) -> io::Result<()> {
        let path = path(place);
        remove_if_there(&*place.storage, &path)?;
        let file = place.storage.create(&path)?;
        let filled = self.fill(&*file, bytes);
        if filled.is_err() {
            // It would be removed when the log is opened; its room is wanted now.
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

    /// It, for who needs it now. It has still its own name.
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
