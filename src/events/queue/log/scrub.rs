//! Rereads sealed files slowly, to find damage before somebody needs the data.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::{error::ReadError, handle::Log, reader::Reader};
use crate::events::queue::{Offset, time::Clock};

/// Bytes read in one step.
const STEP_BYTES: usize = 1 << 20;
/// Minimum time between two rounds.
const REST: Duration = Duration::from_mins(10);

/// One round through the sealed files of one log.
#[derive(Debug)]
pub struct Scrub {
    log: Log,
    reader: Reader,
    next: Offset,
    findings: u64,
}

/// The result of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scrubbed {
    /// This many bytes were read, and there are more.
    Bytes(u64),
    /// The round is over.
    Done {
        /// Damaged ranges, including those already known.
        findings: u64,
    },
}

/// A thread that scrubs one log after the other at a bounded rate.
#[derive(Debug)]
pub struct Scrubber {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Stop {
    is_stopped: Mutex<bool>,
    wake: Condvar,
}

// === impl Scrub ===

impl Scrub {
    /// A round that begins at the log's start.
    pub fn new(log: &Log) -> Self {
        Self { reader: log.reader(), next: log.start(), findings: 0, log: log.clone() }
    }

    /// Reads the next part. Blocks. Damage is counted in the log's gauges; a round without any
    /// notes `wall` there at its end.
    pub fn step(&mut self, wall: u64) -> io::Result<Scrubbed> {
        let end = self.log.sealed_end();
        if self.next >= end {
            if self.findings == 0 {
                self.log.gauges().scrubbed_at.set(wall);
            }
            return Ok(Scrubbed::Done { findings: self.findings });
        }
        match self.reader.read(self.next, STEP_BYTES) {
            Ok(block) => {
                self.findings += block.gaps().len() as u64;
                self.next = block.next().max(self.next.plus(1));
                Ok(Scrubbed::Bytes(block.bytes() as u64))
            }
            Err(ReadError::Damaged { range }) => {
                self.findings += 1;
                self.next = range.end.max(self.next.plus(1));
                Ok(Scrubbed::Bytes(STEP_BYTES as u64))
            }
            Err(ReadError::Retired { start }) => {
                self.next = start;
                Ok(Scrubbed::Bytes(0))
            }
            Err(ReadError::Newer(message)) => Err(io::Error::other(message)),
            Err(ReadError::Io(error)) => Err(error),
        }
    }
}

// === impl Scrubber ===

impl Scrubber {
    /// Starts the thread, which repeats over what `logs` returns, at most so many bytes a second.
    pub fn spawn(
        clock: Arc<dyn Clock>,
        bytes_per_second: u64,
        logs: impl Fn() -> Vec<Log> + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Arc::new(Stop::default());
        let seen = stop.clone();
        let thread = thread::Builder::new().name("queue-scrub".to_owned()).spawn(move || {
            while !seen.rest(REST) {
                for log in logs() {
                    scrub(&log, &*clock, bytes_per_second.max(1), &seen);
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Scrubber {
    /// Waits for the current step.
    fn drop(&mut self) {
        *self.stop.is_stopped.lock() = true;
        self.stop.wake.notify_all();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the queue's scrub thread has panicked; please report this as a bug");
        }
    }
}

impl Stop {
    /// Sleeps. Returns whether the thread is to stop.
    fn rest(&self, span: Duration) -> bool {
        let mut is_stopped = self.is_stopped.lock();
        if !*is_stopped {
            self.wake.wait_for(&mut is_stopped, span);
        }
        *is_stopped
    }
}

fn scrub(log: &Log, clock: &dyn Clock, bytes_per_second: u64, stop: &Stop) {
    let mut round = Scrub::new(log);
    loop {
        match round.step(clock.now().wall) {
            Ok(Scrubbed::Done { .. }) => return,
            Ok(Scrubbed::Bytes(bytes)) => {
                let millis = bytes.saturating_mul(1000) / bytes_per_second;
                if stop.rest(Duration::from_millis(millis.max(1))) {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a log cannot be scrubbed");
                return;
            }
        }
    }
}
