//! Wakes many tasks of one thread from other threads with a single wake-up of the thread.
//!
//! A single-threaded runtime writes to its event descriptor for each task that another thread
//! wakes, even if the thread is awake: one system call each. Here the waker is passed to the thread
//! instead. One task of the thread is woken for the first waker, and wakes all of them from inside,
//! which only takes a place in the queue.
//!
//! A thread must opt in ([`install`]); on others tasks are woken as usual. The number of waiting
//! wakers is bounded by the tasks of the thread that wait for another thread.

use std::{
    cell::RefCell,
    future::poll_fn,
    mem,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use super::task::spawn;

thread_local! {
    static HERE: RefCell<Option<Wakes>> = const { RefCell::new(None) };
}

/// Wakes the tasks of one thread. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Wakes(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    woken: Mutex<Woken>,
    task: AtomicWaker,
}

#[derive(Debug, Default)]
struct Woken {
    wakers: Vec<Waker>,
    /// Whether the task that wakes the others is gone.
    is_closed: bool,
}

/// While it lives, the tasks of this thread are woken together.
#[derive(Debug)]
pub struct Installed(());

/// Closes the queue and wakes everybody that is left in it.
struct CloseOnDrop(Wakes);

/// Wakes the tasks of the current thread together for as long as the returned value lives. The
/// calling runtime must be the only one that polls on the thread.
pub fn install() -> Installed {
    let wakes = Wakes::default();
    HERE.set(Some(wakes.clone()));
    let looking = CloseOnDrop(wakes);
    spawn("wake", async move {
        // Swapped back and forth, so that neither is reallocated.
        let mut spare = Vec::new();
        poll_fn(|cx| looking.0.look(cx, &mut spare)).await;
    });
    Installed(())
}

// === impl Wakes ===

impl Wakes {
    /// The one of the current thread, if it has one.
    pub fn here() -> Option<Self> {
        HERE.with_borrow(Clone::clone)
    }

    /// Wakes a task of the thread, from any thread.
    pub fn wake(&self, waker: Waker) {
        let mut woken = self.0.woken.lock();
        if woken.is_closed {
            drop(woken);
            return waker.wake();
        }
        let is_first = woken.wakers.is_empty();
        woken.wakers.push(waker);
        drop(woken);
        if is_first {
            self.0.task.wake();
        }
    }

    /// Wakes all that have come. Never completes: more will come.
    fn look(&self, cx: &mut Context<'_>, spare: &mut Vec<Waker>) -> Poll<()> {
        // Register first, then look: whoever comes in between wakes it again.
        self.0.task.register(cx.waker());
        mem::swap(spare, &mut self.0.woken.lock().wakers);
        spare.drain(..).for_each(Waker::wake);
        Poll::Pending
    }

    fn close(&self) {
        let mut woken = self.0.woken.lock();
        woken.is_closed = true;
        let left = mem::take(&mut woken.wakers);
        drop(woken);
        left.into_iter().for_each(Waker::wake);
    }
}

// === impl Installed ===

impl Drop for Installed {
    fn drop(&mut self) {
        HERE.set(None);
    }
}

// === impl CloseOnDrop ===

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
        task::Wake,
    };

    use super::*;

    #[derive(Debug, Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    impl Counted {
        fn count(&self) -> usize {
            self.0.load(Relaxed)
        }
    }

    #[test]
    fn many_are_woken_for_one_wake_up() {
        let (wakes, mut spare) = (Wakes::default(), Vec::new());
        let (thread, tasks) = (Arc::new(Counted::default()), Arc::new(Counted::default()));
        let waker = Waker::from(thread.clone());
        let mut look = || wakes.look(&mut Context::from_waker(&waker), &mut spare);
        assert!(look().is_pending());
        for _ in 0..3 {
            wakes.wake(tasks.clone().into());
        }
        assert_eq!((thread.count(), tasks.count()), (1, 0));
        assert!(look().is_pending());
        assert_eq!((thread.count(), tasks.count()), (1, 3));
        wakes.wake(tasks.clone().into());
        assert_eq!((thread.count(), tasks.count()), (2, 3), "and again");
    }

    #[test]
    fn who_looks_no_more_leaves_nobody_asleep() {
        let (wakes, tasks) = (Wakes::default(), Arc::new(Counted::default()));
        let looking = CloseOnDrop(wakes.clone());
        wakes.wake(tasks.clone().into());
        assert_eq!(tasks.count(), 0);
        drop(looking);
        assert_eq!(tasks.count(), 1);
        wakes.wake(tasks.clone().into());
        assert_eq!(tasks.count(), 2);
    }

    #[tokio::test]
    async fn tasks_of_the_thread_wake_up() {
        assert!(Wakes::here().is_none());
        let installed = install();
        let wakes = Wakes::here().unwrap();
        let is_there = AtomicUsize::new(0);
        poll_fn(|cx| {
            if is_there.fetch_add(1, Relaxed) > 0 {
                return Poll::Ready(());
            }
            let (wakes, waker) = (wakes.clone(), cx.waker().clone());
            std::thread::spawn(move || wakes.wake(waker)).join().unwrap();
            Poll::Pending
        })
        .await;
        drop(installed);
        assert!(Wakes::here().is_none());
    }
}
