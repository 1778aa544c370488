//! A few threads for blocking work: reading segments, opening logs, writing snapshots.
//!
//! Bounded on both sides: callers wait while all threads are busy and the queue is full, and work
//! is done in order. A panic in the work does not end its thread.

use std::{
    any::Any,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

/// Length of the queue for each thread.
const ROW: usize = 16;

type Work = Box<dyn FnOnce() + Send>;

/// Threads for blocking work. Clones share them; they end with the last clone, once all work is done.
#[derive(Clone)]
pub struct Pool {
    row: mpsc::Sender<Work>,
}

/// The work panicked, or the threads are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work was not done")]
pub struct Undone;

// === impl Pool ===

impl Pool {
    /// A pool with this many reading threads, at least one.
    pub fn new(threads: usize) -> io::Result<Self> {
        Self::named("queue-read", threads)
    }

    /// A pool with this many threads, at least one, and this prefix of their names.
    pub fn named(name: &str, threads: usize) -> io::Result<Self> {
        let threads = threads.max(1);
        let (row, waiting) = mpsc::channel::<Work>(threads * ROW);
        let waiting = Arc::new(Mutex::new(waiting));
        for number in 0..threads {
            let waiting = waiting.clone();
            let name = format!("{name}-{number}");
            thread::Builder::new().name(name).spawn(move || serve(&waiting))?;
        }
        Ok(Self { row })
    }

    /// Does `work` on one of the threads. Once this was polled far enough to submit the work, it is
    /// done even if the future is dropped.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Undone> {
        let (done, result) = oneshot::channel();
        let work = Box::new(move || {
            // The caller may have left.
            drop(done.send(work()));
        });
        self.row.send(work).await.map_err(|_| Undone)?;
        result.await.map_err(|_| Undone)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

fn serve(waiting: &Mutex<mpsc::Receiver<Work>>) {
    loop {
        // One thread waits in the channel, the others for the lock: taking work lets the next one in.
        let work = waiting.lock().blocking_recv();
        let Some(work) = work else { return };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            tracing::error!(
                panic = said(&*panic),
                "a task of the queue's file pool has panicked; please report this as a bug"
            );
        }
    }
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn work_is_done_by_the_threads_and_a_panic_costs_one_piece() {
        let pool = Pool::new(2).unwrap();
        assert_eq!(pool.run(|| 6 * 7).await, Ok(42));
        for _ in 0..4 {
            assert_eq!(pool.run(|| -> u8 { panic!("on purpose") }).await, Err(Undone));
        }
        let name = pool.run(|| thread::current().name().map(str::to_owned)).await.unwrap();
        assert!(name.unwrap().starts_with("queue-read-"));
    }

    #[tokio::test]
    async fn no_more_work_at_a_time_than_there_are_threads() {
        let pool = Pool::new(2).unwrap();
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let work = (0..100).map(|_| {
            let (now, most) = (now.clone(), most.clone());
            pool.run(move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::yield_now();
                now.fetch_sub(1, Ordering::SeqCst);
            })
        });
        let done = futures_util::future::join_all(work).await;
        assert!(done.iter().all(Result::is_ok));
        assert!(most.load(Ordering::SeqCst) <= 2);
    }
}
