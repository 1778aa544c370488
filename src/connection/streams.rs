//! The streams of one h2 connection: finds clients that read a response too slowly, or reset too
//! many streams.
//!
//! hyper calls the service and right after that hands the stream's future to the executor. That
//! order ties a [`Progress`], made in the call, to its task. A stream whose client has not read for
//! `send_idle_timeout` is given up by ending that task; h2 then resets the stream.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{task::AbortHandle, time::Instant};

use crate::telemetry::task;

/// The state of one response. Its body writes it, the connection reads it.
#[derive(Debug)]
pub(super) struct Progress {
    origin: Instant,
    /// Milliseconds since `origin`, plus one, of the last frame handed over if no other has been
    /// asked for since; 0 while the body itself has nothing to send.
    waiting: AtomicU64,
    task: Mutex<Running>,
}

/// A stream's task. The handle keeps the task's memory alive, so it is dropped with the stream.
#[derive(Debug, Default)]
enum Running {
    #[default]
    NotYet,
    Now(AbortHandle),
    Over,
}

/// The streams, and the executor that starts them.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// Of the most recent call, until its stream is executed.
    called: Option<Arc<Progress>>,
    running: Vec<Arc<Progress>>,
}

/// Exact: trips at more than `max` resets within any `window`. Holds at most `max + 1` instants.
#[derive(Debug)]
pub(super) struct ResetLimit {
    max: usize,
    window: Duration,
    counted: u64,
    recent: VecDeque<Instant>,
}

// === impl Progress ===

// Every access to `waiting` is Relaxed: one value, judged for itself.
impl Progress {
    fn new() -> Self {
        Self { origin: Instant::now(), waiting: AtomicU64::new(0), task: Mutex::default() }
    }

    /// hyper asks for the next frame.
    pub(super) fn asked(&self) {
        self.waiting.store(0, Ordering::Relaxed);
    }

    /// A frame was handed over.
    pub(super) fn handed_over(&self) {
        let millis = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.waiting.store(millis + 1, Ordering::Relaxed);
    }

    /// Request and response are over, however they ended.
    pub(super) fn end(&self) {
        let ended = std::mem::replace(&mut *self.task.lock(), Running::Over);
        // Dropped after the lock is released: a finished task is freed here.
        drop(ended);
    }

    fn begin(&self, task: AbortHandle) {
        let mut running = self.task.lock();
        if let Running::NotYet = *running {
            *running = Running::Now(task);
        }
    }

    fn abort(&self) {
        if let Running::Now(task) = &*self.task.lock() {
            task.abort();
        }
    }

    fn waiting_since(&self) -> Option<Instant> {
        match self.waiting.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(self.origin + Duration::from_millis(millis - 1)),
        }
    }

    fn is_over(&self) -> bool {
        matches!(*self.task.lock(), Running::Over)
    }
}

// === impl Streams ===

impl Streams {
    /// A request was called: the next stream to be executed belongs to it.
    pub(super) fn called(&self) -> Arc<Progress> {
        let progress = Arc::new(Progress::new());
        self.0.lock().called = Some(progress.clone());
        progress
    }

    /// Gives up the streams on which a frame has been left unread for `timeout`. Returns how many,
    /// and when to look again.
    pub(super) fn sweep(&self, now: Instant, timeout: Duration) -> (u64, Option<Instant>) {
        let mut given_up = 0;
        let mut next: Option<Instant> = None;
        self.0.lock().running.retain(|progress| {
            if progress.is_over() {
                return false;
            }
            let Some(since) = progress.waiting_since() else { return true };
            let deadline = since + timeout;
            if deadline <= now {
                given_up += 1;
                progress.abort();
                return false;
            }
            next = Some(next.map_or(deadline, |next| next.min(deadline)));
            true
        });
        (given_up, next)
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, future: F) {
        let task = task::spawn("h2 stream", future).abort_handle();
        let mut inner = self.0.lock();
        let Some(progress) = inner.called.take() else { return };
        // Ended streams are removed before the list would grow, so it stays within twice the number
        // of streams a client may open.
        if inner.running.len() == inner.running.capacity() {
            inner.running.retain(|progress| !progress.is_over());
        }
        progress.begin(task);
        inner.running.push(progress);
    }
}

// === impl ResetLimit ===

impl ResetLimit {
    pub(super) fn new(max: u32, window: Duration) -> Self {
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        Self { max, window, counted: 0, recent: VecDeque::new() }
    }

    /// `total` streams were reset until `now`. Returns whether that is too many.
    pub(super) fn is_over(&mut self, total: u64, now: impl FnOnce() -> Instant) -> bool {
        if total == self.counted {
            return false;
        }
        let now = now();
        let new = usize::try_from(total - self.counted).unwrap_or(usize::MAX);
        self.counted = total;
        while self.recent.front().is_some_and(|&at| at + self.window < now) {
            self.recent.pop_front();
        }
        let room = self.max.saturating_add(1).saturating_sub(self.recent.len());
        self.recent.extend(std::iter::repeat_n(now, new.min(room)));
        self.recent.len() > self.max
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn a_stream_that_is_over_leaves_nothing_of_its_task() {
        let streams = Streams::default();
        let progress = streams.called();
        let over = progress.clone();
        hyper::rt::Executor::execute(&streams, async move { over.end() });
        assert!(matches!(*progress.task.lock(), Running::Now(_)));
        tokio::task::yield_now().await;
        assert!(matches!(*progress.task.lock(), Running::Over), "without a sweep");
        assert_eq!(streams.sweep(Instant::now(), Duration::ZERO), (0, None));
        assert!(streams.0.lock().running.is_empty());
    }

    #[tokio::test]
    async fn resets_count_in_any_window_and_not_before_it() {
        let start = Instant::now();
        let at = |secs| move || start + Duration::from_secs(secs);
        let mut limit = ResetLimit::new(3, Duration::from_secs(10));
        assert!(!limit.is_over(3, at(0)));
        assert!(!limit.is_over(4, at(11)), "the first three are out of the window");
        assert!(!limit.is_over(6, at(20)));
        assert!(limit.is_over(7, at(21)));
    }

    proptest! {
        #[test]
        fn the_limit_agrees_with_counting_by_hand(
            steps in prop::collection::vec((0..5_u64, 0..4_u64), 1..60),
        ) {
            let start = Instant::now();
            let window = Duration::from_secs(10);
            let mut limit = ResetLimit::new(5, window);
            let (mut now, mut total, mut all) = (start, 0, Vec::new());
            for (wait, resets) in steps {
                now += Duration::from_secs(wait);
                total += resets;
                all.extend(std::iter::repeat_n(now, usize::try_from(resets).unwrap()));
                let recent = all.iter().filter(|&&at| at + window >= now).count();
                let is_over = limit.is_over(total, || now);
                prop_assert_eq!(is_over, resets > 0 && recent > 5);
                prop_assert!(limit.recent.len() <= 6);
                if is_over {
                    break;
                }
            }
        }
    }
}
