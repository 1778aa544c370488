//! Detects a peer that stops reading: measures how long writes have been pending.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{self, Instant, Sleep};

/// How long a write has been pending. Allocates a timer on the first pending write.
#[derive(Debug)]
pub(super) struct Stall {
    timeout: Duration,
    is_pending: bool,
    sleep: Option<Pin<Box<Sleep>>>,
}

// === impl Stall ===

impl Stall {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, is_pending: false, sleep: None }
    }

    /// Passes on `polled`, the outcome of a write, or fails if writes have been pending for too
    /// long.
    pub(super) fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            // The timer stays armed and is moved when it is needed again.
            self.is_pending = false;
            return polled;
        }
        let Self { timeout, is_pending, sleep } = self;
        let sleep = sleep.get_or_insert_with(|| Box::pin(time::sleep(*timeout)));
        if !*is_pending {
            *is_pending = true;
            sleep.as_mut().reset(Instant::now() + *timeout);
        }
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}
