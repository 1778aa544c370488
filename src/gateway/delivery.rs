//! The thread that delivers: a runtime of its own, and the store whose tasks run on it.
//!
//! Neither workers nor control run a delivery: a storm of them starves no request and no probe. They ask
//! the store, which answers any thread.

use std::{sync::Arc, thread};

use tokio::sync::{mpsc, oneshot};

use crate::{
    events::{
        Settings,
        facade::Refusal,
        queue::{storage, time::SystemClock},
        store::Store,
    },
    gateway::StartError,
    http::sink::Sink,
};

/// Orders that may wait; control waits for each.
const ORDERS: usize = 2;

/// Control's side of the thread.
#[derive(Debug)]
pub(super) struct Delivery {
    store: Store,
    orders: mpsc::Sender<Order>,
    thread: thread::JoinHandle<()>,
}

enum Order {
    /// Follow these, on this thread: what is new starts its tasks here.
    Reload(Box<Settings>, oneshot::Sender<Result<(), Refusal>>),
    /// Write everything down and end.
    Stop,
}

// === impl Delivery ===

impl Delivery {
    /// Starts the thread and opens the store there; it is open when this returns. What is pushed goes out
    /// by `sink`, on that thread.
    pub(super) async fn start(settings: Settings, sink: Arc<dyn Sink>) -> Result<Self, StartError> {
        let (report, reported) = oneshot::channel();
        let (orders, inbox) = mpsc::channel(ORDERS);
        let thread = thread::Builder::new()
            .name("delivery".into())
            .spawn(move || run((settings, sink), inbox, report))
            .map_err(StartError::Thread)?;
        match reported.await {
            Ok(Ok(store)) => Ok(Self { store, orders, thread }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(StartError::Queue("the delivery thread died".to_owned())),
        }
    }

    /// What is served.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Follows other settings. Refused: nothing has changed.
    pub(super) async fn reload(&self, settings: Settings) -> Result<(), StartError> {
        let (reply, answer) = oneshot::channel();
        let gone = || StartError::Queue("the delivery thread died".to_owned());
        let order = Order::Reload(Box::new(settings), reply);
        self.orders.send(order).await.map_err(|_| gone())?;
        let followed = answer.await.map_err(|_| gone())?;
        followed.map_err(|refusal| StartError::Queue(refusal.to_string()))
    }

    /// Closes the store and ends the thread: what was accepted is on disk then.
    pub(super) async fn stop(self) {
        if self.orders.send(Order::Stop).await.is_err() || self.thread.join().is_err() {
            tracing::error!("the delivery thread died");
        }
    }
}

/// The whole life of the thread.
fn run(
    (settings, sink): (Settings, Arc<dyn Sink>),
    mut inbox: mpsc::Receiver<Order>,
    report: oneshot::Sender<Result<Store, StartError>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        // Whoever started us waits for this.
        Err(error) => return drop(report.send(Err(StartError::Thread(error)))),
    };
    runtime.block_on(async move {
        let store = match open(settings, sink).await {
            Ok(store) => store,
            Err(error) => return drop(report.send(Err(error))),
        };
        drop(report.send(Ok(store.clone())));
        while let Some(Order::Reload(settings, reply)) = inbox.recv().await {
            // Control waits for it; if control is gone, so is the inbox.
            drop(reply.send(store.reload(*settings).await));
        }
        if let Err(refusal) = store.shutdown().await {
            tracing::warn!(%refusal, "the queue could not be closed in order");
        }
    });
}

async fn open(settings: Settings, sink: Arc<dyn Sink>) -> Result<Store, StartError> {
    let dir = settings.dir.clone();
    let failed =
        |error: &dyn std::fmt::Display| StartError::Queue(format!("{}: {error}", dir.display()));
    let storage = storage::open(&settings.dir).map_err(|error| failed(&error))?;
    let clock = Arc::new(SystemClock);
    Store::open(storage, settings, clock, sink).await.map_err(|error| failed(&error))
}
