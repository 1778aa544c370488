//! Whether the answer is under way: what that means for a slow request body, see `http::pace`.

use std::sync::atomic::{AtomicU8, Ordering};

use super::Context;

/// How far an exchange is, as its client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No answer has begun, or none that anybody has to wait for.
    Asking,
    /// The answer's head has been passed on, its body is under way.
    Answering,
    /// The answer is over, however it ended. The request body may go on.
    Answered,
}

/// A [`Phase`], by its number.
pub(super) struct Cell(AtomicU8);

impl Context {
    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.0.phase.get()
    }

    /// The answer to the client begins, and its body has to be waited for.
    pub fn begin_answer(&self) {
        self.0.phase.set(Phase::Answering);
    }

    /// That answer is over; without one, nothing changes.
    pub fn end_answer(&self) {
        if self.phase() == Phase::Answering {
            self.0.phase.set(Phase::Answered);
        }
    }
}

// === impl Cell ===

// Relaxed: the request body asks only when its time is up, and orders nothing by it.
impl Cell {
    pub(super) fn new() -> Self {
        Self(AtomicU8::new(Phase::Asking as u8))
    }

    fn get(&self) -> Phase {
        match self.0.load(Ordering::Relaxed) {
            0 => Phase::Asking,
            1 => Phase::Answering,
            _ => Phase::Answered,
        }
    }

    fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }
}
