//! An append in flight, whose caller waits or has left.
//!
//! The writer completes many appends at once, from its own thread. Tasks of a thread that asks for
//! it are woken together ([`Wakes`]).

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use parking_lot::Mutex;

use super::error::{AppendError, Refused};
use crate::{events::queue::Offset, telemetry::wakes::Wakes};

/// Where one record of an append is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its position in the log.
    pub offset: Offset,
    /// Its partition.
    pub partition: u16,
    /// Set if the record was already there; everything here is then about that one.
    pub duplicate: Option<Duplicate>,
}

/// An event that was already in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duplicate {
    /// Whether the new bytes differ from those stored.
    pub mismatch: bool,
}

/// Completes when the append is as durable as the log's mode says, with one item for each draft in
/// order, or when it failed. Dropping it does not cancel the append.
#[derive(Debug)]
#[must_use = "without it nobody learns whether the append succeeded"]
pub struct Commit(Inner);

#[derive(Debug)]
enum Inner {
    Waiting(Arc<Slot>),
    Refused(Refused),
}

/// The result of an append.
pub(super) type Outcome = Result<Vec<Appended>, AppendError>;

/// Called once with the result of an append that nobody waits for, on the writer's thread: it must
/// neither block nor take long.
pub type Then = Box<dyn FnOnce(Result<Vec<Appended>, AppendError>) + Send>;

/// Somebody who need not know where a successful append is.
pub trait Watch: Send + Sync {
    /// An append has failed. Called on the writer's thread: it must neither block nor take long.
    fn failed(&self, error: AppendError);
}

/// The writer's end of an append. Dropping it reports that the writer has stopped.
pub(super) struct Waiter(Option<End>);

enum End {
    Commit(Arc<Slot>),
    Then(Then),
    /// Dropped once the outcome is certain.
    Watch(Arc<dyn Watch>),
}

/// State shared by both ends.
#[derive(Debug, Default)]
struct Slot(Mutex<Progress>);

#[derive(Debug, Default)]
enum Progress {
    /// Nobody has asked yet.
    #[default]
    Open,
    /// Somebody waits, and is woken through this.
    Waited(Waker, Option<Wakes>),
    Done(Outcome),
    /// The result was delivered, or nobody wants it.
    Over,
}

/// Wakes a thread that sleeps.
struct Sleeper(Thread);

// === impl Commit ===

impl Commit {
    /// An append that the writer will complete.
    pub(super) fn pair() -> (Waiter, Self) {
        let slot = Arc::<Slot>::default();
        (Waiter(Some(End::Commit(slot.clone()))), Self(Inner::Waiting(slot)))
    }

    /// An append that has already failed.
    pub(super) fn refused(refused: Refused) -> Self {
        Self(Inner::Refused(refused))
    }

    /// Blocks the thread until the append completes; not for a thread that runs tasks.
    pub fn wait(self) -> Result<Vec<Appended>, AppendError> {
        let slot = match &self.0 {
            Inner::Waiting(slot) => slot,
            Inner::Refused(refused) => return Err((*refused).into()),
        };
        let waker = Waker::from(Arc::new(Sleeper(thread::current())));
        loop {
            // Without `Wakes`: a sleeping thread cannot wake others.
            match slot.poll(&waker, || None) {
                Poll::Ready(outcome) => return outcome,
                Poll::Pending => thread::park(),
            }
        }
    }
}

impl Future for Commit {
    type Output = Result<Vec<Appended>, AppendError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &self.0 {
            Inner::Waiting(slot) => slot.poll(cx.waker(), Wakes::here),
            Inner::Refused(refused) => Poll::Ready(Err((*refused).into())),
        }
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        if let Inner::Waiting(slot) = &self.0 {
            // Dropped here: a waker keeps its task alive.
            let progress = mem::replace(&mut *slot.0.lock(), Progress::Over);
            drop(progress);
        }
    }
}

// === impl Slot ===

impl Slot {
    fn poll(&self, waker: &Waker, wakes: impl FnOnce() -> Option<Wakes>) -> Poll<Outcome> {
        let mut progress = self.0.lock();
        match &mut *progress {
            Progress::Waited(known, _) if known.will_wake(waker) => {}
            // The future may have moved to another task or thread.
            Progress::Open | Progress::Waited(..) => {
                *progress = Progress::Waited(waker.clone(), wakes());
            }
            Progress::Done(_) | Progress::Over => {
                return match mem::replace(&mut *progress, Progress::Over) {
                    Progress::Done(outcome) => Poll::Ready(outcome),
                    _ => Poll::Ready(Err(AppendError::Stopped)),
                };
            }
        }
        Poll::Pending
    }

    fn complete(&self, outcome: Outcome) {
        let mut progress = self.0.lock();
        let waited = match &*progress {
            // The caller has left.
            Progress::Over => return,
            _ => mem::replace(&mut *progress, Progress::Done(outcome)),
        };
        drop(progress);
        match waited {
            Progress::Waited(waker, Some(wakes)) => wakes.wake(waker),
            Progress::Waited(waker, None) => waker.wake(),
            Progress::Open | Progress::Done(_) | Progress::Over => {}
        }
    }
}

// === impl Waiter ===

impl Waiter {
    /// Nobody waits; `then` is called with the result.
    pub(super) fn then(then: Then) -> Self {
        Self(Some(End::Then(then)))
    }

    /// Nobody waits; a failure is reported.
    pub(super) fn watched(by: Arc<dyn Watch>) -> Self {
        Self(Some(End::Watch(by)))
    }

    /// Nobody waits and nobody is told.
    pub(super) fn nobody() -> Self {
        Self(None)
    }

    /// Whether anybody wants to know where the records are.
    pub(super) fn asks(&self) -> bool {
        matches!(self.0, Some(End::Commit(_) | End::Then(_)))
    }

    /// Delivers the result.
    pub(super) fn complete(mut self, outcome: Outcome) {
        self.tell(outcome);
    }

    fn tell(&mut self, outcome: Outcome) {
        match self.0.take() {
            Some(End::Commit(slot)) => slot.complete(outcome),
            Some(End::Then(then)) => then(outcome),
            Some(End::Watch(watch)) => {
                if let Err(error) = outcome {
                    watch.failed(error);
                }
            }
            None => {}
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.tell(Err(AppendError::Stopped));
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").field("is_open", &self.0.is_some()).finish()
    }
}

// === impl Sleeper ===

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn stopped() -> Outcome {
        Err(AppendError::Stopped)
    }

    #[tokio::test]
    async fn a_commit_is_told_once_whoever_comes_first() {
        let (waiter, commit) = Commit::pair();
        waiter.complete(Ok(Vec::new()));
        assert_eq!(commit.await, Ok(Vec::new()));
        let (waiter, mut commit) = Commit::pair();
        assert_eq!((&mut commit).now_or_never(), None);
        waiter.complete(Ok(Vec::new()));
        assert_eq!(commit.await, Ok(Vec::new()));
    }

    #[tokio::test]
    async fn a_writer_that_is_gone_leaves_nobody_waiting() {
        let (waiter, commit) = Commit::pair();
        let waiting = tokio::join!(commit, async { drop(waiter) });
        assert_eq!(waiting.0, stopped());
        let (waiter, commit) = Commit::pair();
        let thread = thread::spawn(move || commit.wait());
        drop(waiter);
        assert_eq!(thread.join().unwrap(), stopped());
    }

    #[test]
    fn whoever_does_not_wait_is_told_once() {
        let (tell, told) = std::sync::mpsc::sync_channel(2);
        let waiter = |tell: &std::sync::mpsc::SyncSender<Outcome>| {
            let tell = tell.clone();
            Waiter::then(Box::new(move |outcome| tell.send(outcome).unwrap()))
        };
        waiter(&tell).complete(Ok(Vec::new()));
        drop(waiter(&tell));
        drop(tell);
        assert_eq!(told.iter().collect::<Vec<_>>(), [Ok(Vec::new()), stopped()]);
    }

    #[test]
    fn who_leaves_takes_the_waker_along() {
        let waker = Arc::new(Sleeper(thread::current()));
        let (waiter, mut commit) = Commit::pair();
        let own = Waker::from(waker.clone());
        assert!(commit.poll_unpin(&mut Context::from_waker(&own)).is_pending());
        drop((commit, own));
        assert_eq!(Arc::strong_count(&waker), 1);
        waiter.complete(stopped());
    }

    #[tokio::test]
    async fn who_moves_to_another_task_is_woken_there() {
        let (waiter, mut commit) = Commit::pair();
        assert_eq!((&mut commit).now_or_never(), None);
        let task = crate::telemetry::task::spawn("waits", commit);
        tokio::task::yield_now().await;
        thread::spawn(move || waiter.complete(Ok(Vec::new()))).join().unwrap();
        assert_eq!(task.await.unwrap(), Ok(Vec::new()));
    }
}
