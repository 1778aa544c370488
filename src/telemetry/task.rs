//! The only place that spawns tasks: they are named and counted, and can be waited for.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tokio::{runtime::Handle, sync::Notify, task::JoinHandle};

/// Spawns tasks on the current runtime and knows how many are running.
///
/// Each worker has its own, and the drain waits for it: tasks that must finish before the process
/// ends (a detached request, a tunnel) are spawned here.
#[derive(Clone, Debug, Default)]
pub struct Spawner(Arc<Tasks>);

#[derive(Debug, Default)]
struct Tasks {
    /// Relaxed: the number must be exact, but orders nothing else.
    running: AtomicUsize,
    idle: Notify,
}

pin_project! {
    /// A future that is counted as a task. Not an async block, which would hold the future twice,
    /// once captured and once awaited, for as long as the task lives.
    struct Counted<F> {
        // Dropped first, so that the future is gone when it is no longer counted.
        #[pin]
        future: F,
        _running: Running,
    }
}

struct Running(Arc<Tasks>);

/// Work that its owner polls and that continues as a task of its [`Spawner`] once the owner drops
/// it. It always completes, except for a panic or the end of its runtime, and costs a task only if
/// its owner leaves.
///
/// It is counted from the beginning, without a gap between owner and task. When it continues,
/// another task polls it: its content must register its waker on every poll, and promises to the
/// owner's task ([`clock::poll_again`](super::clock::poll_again)) no longer hold.
#[must_use = "dropped, it goes on by itself"]
pub struct RunsOn<T: Send + 'static> {
    name: &'static str,
    /// `None`: it is complete, or continues on its own.
    work: Option<Counted<Pin<Box<dyn Future<Output = T> + Send>>>>,
}

/// Spawns a task that nobody waits for and that ends with its runtime.
///
/// `name` describes it in a word or two, for a debugger and the reader.
#[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    tracing::trace!(task = name, "spawned");
    tokio::spawn(future)
}

// === impl Spawner ===

impl Spawner {
    /// A spawner without running tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a task that [`Spawner::drained`] waits for.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        spawn(name, self.counted(future))
    }

    /// Work that begins with its first poll, but that [`Spawner::drained`] waits for from now on.
    pub fn runs_on<F>(&self, name: &'static str, work: F) -> RunsOn<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        RunsOn { name, work: Some(self.counted(Box::pin(work))) }
    }

    fn counted<F>(&self, future: F) -> Counted<F> {
        self.0.running.fetch_add(1, Ordering::Relaxed);
        Counted { future, _running: Running(self.0.clone()) }
    }

    /// How many of its tasks are running.
    pub fn running(&self) -> usize {
        self.0.running.load(Ordering::Relaxed)
    }

    /// Completes once none of its tasks is running. Cancel-safe.
    pub async fn drained(&self) {
        loop {
            let idle = self.0.idle.notified();
            if self.running() == 0 {
                return;
            }
            idle.await;
        }
    }
}

// === impl RunsOn ===

impl<T: Send + 'static> RunsOn<T> {
    /// Continues as a task from here on: nobody learns its result.
    pub fn detach(&mut self) {
        let Some(work) = self.work.take() else { return };
        // Without a runtime nothing would poll it.
        if Handle::try_current().is_ok() {
            drop(spawn(self.name, work));
        }
    }
}

impl<T: Send + 'static> Future for RunsOn<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        // Taken, so that a panicking future is dropped and no task polls it again.
        let Some(mut work) = self.work.take() else {
            debug_assert!(false, "{} is polled after its end", self.name);
            return Poll::Pending;
        };
        let polled = Pin::new(&mut work).poll(cx);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for RunsOn<T> {
    fn drop(&mut self) {
        self.detach();
    }
}

impl<T: Send + 'static> fmt::Debug for RunsOn<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunsOn")
            .field("name", &self.name)
            .field("is_over", &self.work.is_none())
            .finish_non_exhaustive()
    }
}

// === impl Counted ===

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().future.poll(cx)
    }
}

// === impl Running ===

impl Drop for Running {
    fn drop(&mut self) {
        // First leave the count, then notify: the waiter checks the count when notified. Only the
        // last has anything to tell.
        if self.0.running.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Ready, ready},
        sync::atomic::{AtomicBool, Ordering::Relaxed},
    };

    use futures_util::{FutureExt as _, poll};
    use tokio::sync::oneshot;

    use super::*;

    type Large = Ready<[i32; 1000]>;

    #[tokio::test]
    async fn counting_a_task_takes_hardly_more_room() {
        let spawner = Spawner::new();
        let ended = spawner.spawn("test", ready([7; 1000]));
        assert_eq!(spawner.running(), 1);
        assert_eq!(ended.await.unwrap(), [7; 1000]);
        spawner.drained().await;
        assert!(size_of::<Counted<Large>>() <= size_of::<Large>() + size_of::<Running>() + 8);
    }

    #[tokio::test]
    async fn work_that_is_waited_for_costs_no_task() {
        let tasks = Spawner::new();
        let (go, gone) = oneshot::channel();
        let mut work = tasks.runs_on("work", async move { gone.await.unwrap() });
        assert!(poll!(&mut work).is_pending());
        assert!(tasks.drained().now_or_never().is_none(), "it counts while its owner polls it");
        go.send(7).unwrap();
        assert_eq!(work.await, 7);
        assert_eq!(tasks.running(), 0);
    }

    #[tokio::test]
    async fn work_whose_owner_leaves_goes_on() {
        for is_polled in [false, true] {
            let tasks = Spawner::new();
            let (go, gone) = oneshot::channel::<()>();
            let is_done = Arc::new(AtomicBool::new(false));
            let done = is_done.clone();
            let mut work = tasks.runs_on("work", async move {
                gone.await.unwrap();
                done.store(true, Relaxed);
            });
            if is_polled {
                assert!(poll!(&mut work).is_pending());
            }
            drop(work);
            assert_eq!(tasks.running(), 1);
            assert!(tasks.drained().now_or_never().is_none());
            go.send(()).unwrap();
            tasks.drained().await;
            assert!(is_done.load(Relaxed));
        }
    }

    #[tokio::test]
    async fn what_panicked_is_not_polled_again() {
        let tasks = Spawner::new();
        let work = tasks.runs_on("work", async { panic!("on purpose") });
        assert!(std::panic::AssertUnwindSafe(work).catch_unwind().await.is_err());
        assert_eq!(tasks.running(), 0);
    }

    #[test]
    fn without_a_runtime_it_ends_with_its_owner() {
        let tasks = Spawner::new();
        drop(tasks.runs_on("work", async {}));
        assert_eq!(tasks.running(), 0);
    }
}
