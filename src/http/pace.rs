//! How slowly the peer behind a body may send: an idle timeout and a minimum rate.
//!
//! Only time counts in which we asked that peer for bytes and it had none: from the poll that found
//! nothing to the wake-up that says there is something, however late the reader then comes back for
//! it. So a slow upstream never makes a client look slow, and the other way round (semantics 2).
//!
//! Cost: a body whose reader never has to wait pays nothing. The first wait allocates a timer and a
//! waker that notes the time; later waits use the same two, and touch the timer wheel only when the
//! timer stands too late.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use crate::error::{Error, Kind, Sent};

/// How slowly a peer may send its body, and what it is called when it is slower.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long one wait for it may last; `None`: for ever.
    pub idle: Option<Duration>,
    /// Bytes per second over all waits together, once they exceed [`Pace::grace`]; 0: off.
    pub min_rate: u64,
    /// Waiting that [`Pace::min_rate`] does not judge.
    pub grace: Duration,
    /// What the body fails with.
    pub error: fn() -> Error,
}

/// A body's pace and, once it has been waited for, the timer that holds the peer to it.
pub(super) enum Pacing {
    /// As slow as it likes.
    Off,
    /// Nobody had to wait for it yet.
    Unarmed(Pace),
    /// It has been waited for.
    Armed(Pin<Box<Timer>>),
}

pin_project! {
    pub(super) struct Timer {
        pace: Pace,
        // Of all waits that are over.
        waited: Duration,
        // The start of the wait under way.
        since: Option<Instant>,
        wakeup: Arc<Wakeup>,
        // `wakeup` as the source wants it.
        waker: Waker,
        #[pin]
        sleep: Sleep,
    }
}

/// Passes a wake-up on to the reader's task and notes when it came.
struct Wakeup {
    epoch: Instant,
    // Nanoseconds since `epoch`, plus one; 0: not woken.
    at: AtomicU64,
    task: AtomicWaker,
}

// === impl Pace ===

impl Pace {
    /// For a request body: `client-timeout` when the client is slower.
    pub fn client(idle: Duration, min_rate: u64, grace: Duration) -> Self {
        Self { idle: Some(idle), min_rate, grace, error: || Kind::ClientTimeout.into() }
    }

    /// For a response body: `upstream-timeout-try` when the upstream stands still for `idle`.
    pub fn upstream(idle: Duration) -> Self {
        Self {
            idle: Some(idle),
            min_rate: 0,
            grace: Duration::ZERO,
            error: || {
                Error::new(Kind::UpstreamTimeoutTry(Sent::MaybeSeen))
                    .with_detail("the response body stood still")
            },
        }
    }

    /// How long the next wait may last for a peer that has sent `seen` bytes and was waited for
    /// `waited` before; `None`: for ever.
    fn allowance(&self, waited: Duration, seen: u64) -> Option<Duration> {
        let by_rate = (self.min_rate > 0).then(|| {
            self.grace.saturating_add(span_of(seen, self.min_rate)).saturating_sub(waited)
        });
        match (self.idle, by_rate) {
            (Some(idle), Some(by_rate)) => Some(idle.min(by_rate)),
            (idle, by_rate) => idle.or(by_rate),
        }
    }
}

/// How long `bytes` take at `rate` bytes per second.
fn span_of(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes % rate) * 1_000_000_000 / u128::from(rate);
    // Less than a second's worth, because of the remainder.
    Duration::new(bytes / rate, u32::try_from(nanos).unwrap_or(0))
}

// === impl Pacing ===

impl Pacing {
    /// Polls `source`, of which `seen` bytes have passed; fails when it is slower than its pace.
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        seen: u64,
        mut source: impl FnMut(&mut Context<'_>) -> Poll<Option<Result<T, Error>>>,
    ) -> Poll<Option<Result<T, Error>>> {
        if let Self::Off = self {
            return source(cx);
        }
        if let Self::Unarmed(pace) = self {
            let polled = source(cx);
            if polled.is_ready() {
                return polled;
            }
            // Below it is asked once more, so that it holds the waker that notes the time.
            *self = Self::Armed(Box::pin(Timer::new(*pace)));
        }
        match self {
            Self::Armed(timer) => timer.as_mut().poll(cx, seen, source),
            Self::Off | Self::Unarmed(_) => Poll::Pending,
        }
    }
}

// === impl Timer ===

impl Timer {
    fn new(pace: Pace) -> Self {
        let now = Instant::now();
        let wakeup =
            Arc::new(Wakeup { epoch: now, at: AtomicU64::new(0), task: AtomicWaker::new() });
        Self {
            pace,
            waited: Duration::ZERO,
            since: None,
            waker: Waker::from(wakeup.clone()),
            wakeup,
            // Registered by its first poll, reset before that where it stands too late.
            sleep: tokio::time::sleep_until(pace.idle.map_or(now, |idle| now + idle)),
        }
    }

    fn poll<T>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        seen: u64,
        mut source: impl FnMut(&mut Context<'_>) -> Poll<Option<Result<T, Error>>>,
    ) -> Poll<Option<Result<T, Error>>> {
        let mut this = self.project();
        this.wakeup.task.register(cx.waker());
        // Taken before the poll: a later wake-up belongs to the next wait.
        let woken = this.wakeup.take();
        let polled = source(&mut Context::from_waker(this.waker));
        if polled.is_ready() {
            if let Some(since) = this.since.take() {
                *this.waited += woken.unwrap_or_else(Instant::now).saturating_duration_since(since);
            }
            return polled;
        }
        // A wake-up with nothing behind it does not interrupt the wait.
        let since = *this.since.get_or_insert_with(Instant::now);
        let allowance = this.pace.allowance(*this.waited, seen);
        let Some(deadline) = allowance.and_then(|allowance| since.checked_add(allowance)) else {
            return Poll::Pending;
        };
        if this.sleep.deadline() > deadline {
            this.sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(this.sleep.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(Some(Err((this.pace.error)())));
            }
            // It stood at the end of an earlier wait.
            this.sleep.as_mut().reset(deadline);
        }
    }
}

// === impl Wakeup ===

impl Wakeup {
    fn take(&self) -> Option<Instant> {
        // Relaxed: the time is all that is read; the source orders its own data.
        let at = self.at.swap(0, Ordering::Relaxed);
        at.checked_sub(1).map(|nanos| self.epoch + Duration::from_nanos(nanos))
    }
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let nanos = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX - 1);
        // The first wake-up ends the wait. Relaxed: see `take`.
        let _was = self.at.compare_exchange(0, nanos + 1, Ordering::Relaxed, Ordering::Relaxed);
        self.task.wake();
    }
}
