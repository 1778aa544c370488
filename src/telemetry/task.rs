//! The only place that spawns: tasks have a name, are counted, and can be waited for.

use std::{future::Future, sync::Arc};

use tokio::{sync::Notify, task::JoinHandle};

use crate::telemetry::in_flight::{Counter, InFlight};

/// Spawns tasks on the current runtime and knows how many still run.
///
/// Each worker has its own, and the drain waits for it: a task that must not outlive the process's
/// duties (a detached request, a tunnel) is spawned here.
#[derive(Clone, Debug, Default)]
pub struct Spawner {
    running: Arc<Counter>,
    idle: Arc<Notify>,
}

struct Running {
    idle: Arc<Notify>,
    count: Option<InFlight>,
}

/// Spawns a task that nobody waits for and that ends with its runtime.
///
/// `name` says what it does, in a word or two, for a debugger and the reader.
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
    /// A spawner with nothing running.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a task that [`Spawner::drained`] waits for.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let running = Running { idle: self.idle.clone(), count: Some(self.running.enter()) };
        spawn(name, async move {
            let _running = running;
            future.await
        })
    }

    /// How many of its tasks still run.
    pub fn running(&self) -> usize {
        self.running.get()
    }

    /// Completes once none of its tasks runs. Cancel-safe.
    pub async fn drained(&self) {
        loop {
            let idle = self.idle.notified();
            if self.running() == 0 {
                return;
            }
            idle.await;
        }
    }
}

// === impl Running ===

impl Drop for Running {
    fn drop(&mut self) {
        // First out of the count, then tell: the waiter looks at the count when it is told.
        drop(self.count.take());
        self.idle.notify_waiters();
    }
}
