//! The request bodies of one connection: which are not over, and the rest of one that nobody wants.
//!
//! hyper closes an HTTP/1 connection behind the answer if the request's body is dropped before its
//! end, and the client is not told. So the rest is kept until the answer is ready: if it has arrived,
//! it can be skipped, else the answer can say that the connection ends.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use hyper::body::Incoming;
use parking_lot::Mutex;

/// The request bodies of one connection.
#[derive(Debug, Default)]
pub struct Uploads {
    /// Relaxed, always: a count that orders nothing else.
    running: AtomicUsize,
    /// The number of the last body whose rest is kept, and in the lowest two bits what becomes of it.
    /// Beside the lock, which nearly no request takes.
    stage: AtomicU64,
    rest: Mutex<Option<Incoming>>,
}

/// One request body. Dropped when that is over.
#[derive(Debug)]
pub struct Upload {
    uploads: Arc<Uploads>,
    /// 0 if its rest is not kept.
    number: u64,
}

/// It is dropped at once.
const UNWANTED: u64 = 0;
/// It is kept until the answer is ready.
const WANTED: u64 = 1;
/// It is there.
const KEPT: u64 = 2;
const STAGE: u64 = 0b11;

// === impl Uploads ===

impl Uploads {
    /// Counts one more as running. `keeps_rest`: what is not read of it is kept for
    /// [`Uploads::end`]; only for a connection that has one request at a time.
    pub fn begin(self: &Arc<Self>, keeps_rest: bool) -> Upload {
        self.running.fetch_add(1, Ordering::Relaxed);
        let mut number = 0;
        if keeps_rest {
            number = (self.stage.load(Ordering::Relaxed) >> STAGE.count_ones()) + 1;
            self.stage.store(staged(number, WANTED), Ordering::Release);
        }
        Upload { uploads: self.clone(), number }
    }

    /// How many are not over.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// The answer is ready. Returns the rest of the body, if that was given up before its end.
    pub fn end(&self) -> Option<Incoming> {
        let stage = self.stage.fetch_and(!STAGE | UNWANTED, Ordering::AcqRel) & STAGE;
        (stage == KEPT).then(|| self.rest.lock().take()).flatten()
    }
}

fn staged(number: u64, stage: u64) -> u64 {
    number << STAGE.count_ones() | stage
}

// === impl Upload ===

impl Upload {
    /// It was given up, and this is what is left. Dropped if its answer was ready before, so that
    /// hyper does not wait for somebody to read it.
    pub(super) fn give_up(self, rest: Incoming) {
        let mut kept = self.uploads.rest.lock();
        let is_wanted = self.uploads.stage.compare_exchange(
            staged(self.number, WANTED),
            staged(self.number, KEPT),
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if is_wanted.is_ok() {
            *kept = Some(rest);
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.uploads.running.fetch_sub(1, Ordering::Relaxed);
    }
}
