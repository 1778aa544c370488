//! The steps of a drain (semantics 10): tells control when each of them is due.

use std::future::Future;

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout_at},
};

use crate::{
    gateway::{DrainSettings, control::Order, worker::Resources},
    upstream::FAREWELL,
};

/// Closes listeners, waits for requests, releases the queue, waits for tunnels, ends the process.
pub(super) async fn wind_down(
    orders: mpsc::Sender<Order>,
    workers: Vec<Resources>,
    close_at: Instant,
    settings: DrainSettings,
) {
    sleep_until(close_at).await;
    // Sending fails only if control has stopped, and then the drain is over.
    drop(orders.send(Order::Close).await);
    let connections = all(&workers, |worker| worker.tasks.drained());
    if timeout_at(close_at + settings.requests, connections).await.is_err() {
        let left: usize = workers.iter().map(|worker| worker.tasks.running()).sum();
        tracing::warn!(left, "the drain timeout is over: closing the remaining connections");
        // Now, and not with the last tunnel.
        for worker in &workers {
            worker.connections.cut();
        }
    }
    // Before tunnels end, which may take long: the next process delivers meanwhile.
    drop(orders.send(Order::CloseQueue).await);
    let tunnels = all(&workers, |worker| worker.tunnels.drained());
    if timeout_at(close_at + settings.upgrades + FAREWELL, tunnels).await.is_err() {
        let left: usize = workers.iter().map(|worker| worker.tunnels.running()).sum();
        tracing::warn!(
            left,
            "the drain timeout for upgrades is over: closing the remaining tunnels"
        );
    }
    drop(orders.send(Order::Stop).await);
}

async fn all<'a, F: Future<Output = ()>>(
    workers: &'a [Resources],
    wait: impl Fn(&'a Resources) -> F,
) {
    for worker in workers {
        wait(worker).await;
    }
}
