//! A peer that takes nothing: how long writes to it have been pending.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{self, Instant, Sleep};

/// How long a write has been pending. Costs a timer once one is.
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

    /// Gives `polled` on, the outcome of a write, or fails when writes were pending for too long.
    pub(super) fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            // The timer stays where it is and is moved when it is needed again.
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
