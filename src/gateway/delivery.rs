//! The delivery thread: its own runtime, and the store whose tasks run on it.
//!
//! Neither workers nor control run deliveries, so a storm of them starves no request and no probe.
//! They call the store, which answers any thread.
//!
//! If another process has the data directory, the thread waits for it, at most `queue.lock_wait`,
//! while the gateway serves everything that needs no store.

use std::{future, io, sync::Arc, thread, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    events::{
        Settings,
        facade::Refusal,
        queue::{
            storage::{self, Storage},
            time::SystemClock,
            topic::registry::is_locked,
        },
        store::Store,
    },
    gateway::StartError,
    http::sink::Sink,
    telemetry::wakes,
};

/// The capacity for orders; control waits for each.
const ORDERS: usize = 2;
/// The number of reports: that it waits, and how that ended.
const REPORTS: usize = 2;
/// The time between two attempts at a data directory that another process has.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Control's side of the thread.
#[derive(Debug)]
pub(super) struct Delivery {
    /// `None`: the thread waits for it, or could not open it.
    store: Option<Store>,
    reports: mpsc::Receiver<Report>,
    orders: mpsc::Sender<Order>,
    thread: thread::JoinHandle<()>,
}

#[derive(Debug)]
enum Report {
    /// Another process has the data directory.
    Waiting,
    /// The last report: the open store, or the end of the thread.
    Opened(Result<Store, StartError>),
}

enum Order {
    /// Apply these settings, on this thread: new tasks start here.
    Reload(Box<Settings>, oneshot::Sender<Result<(), Refusal>>),
    /// Begin no more deliveries.
    WindDown,
    /// Write everything down and end; deliveries in progress get this long.
    Stop(Duration),
}

// === impl Delivery ===

impl Delivery {
    /// Starts the thread and opens the store there; deliveries go out through `sink`, on that
    /// thread. Returns when the store is open, or another process has it and there is time to wait.
    pub(super) async fn start(settings: Settings, sink: Arc<dyn Sink>) -> Result<Self, StartError> {
        let (report, mut reports) = mpsc::channel(REPORTS);
        let (orders, inbox) = mpsc::channel(ORDERS);
        let thread = thread::Builder::new()
            .name("delivery".into())
            .spawn(move || run((settings, sink), inbox, &report))
            .map_err(StartError::Thread)?;
        let store = match reports.recv().await {
            Some(Report::Waiting) => None,
            Some(Report::Opened(outcome)) => Some(outcome?),
            None => return Err(died()),
        };
        Ok(Self { store, reports, orders, thread })
    }

    /// The open store; `None`: it waits for the data directory, or could not be opened.
    pub(super) fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// Returns once, when the wait for the data directory is over. Cancel-safe.
    pub(super) async fn opened(&mut self) -> Result<Store, StartError> {
        if self.store.is_some() {
            return future::pending().await;
        }
        let store = match self.reports.recv().await {
            Some(Report::Opened(outcome)) => outcome?,
            Some(Report::Waiting) | None => return Err(died()),
        };
        self.store = Some(store.clone());
        Ok(store)
    }

    /// Applies other settings. On an error nothing has changed.
    pub(super) async fn reload(&self, settings: Settings) -> Result<(), StartError> {
        let (reply, answer) = oneshot::channel();
        let order = Order::Reload(Box::new(settings), reply);
        self.orders.send(order).await.map_err(|_| died())?;
        let followed = answer.await.map_err(|_| died())?;
        followed.map_err(|refusal| StartError::Queue(refusal.to_string()))
    }

    /// Begins no more deliveries; a store that is waited for will not be opened.
    pub(super) async fn wind_down(&self) {
        // A thread that died begins nothing.
        drop(self.orders.send(Order::WindDown).await);
    }

    /// Closes the store and ends the thread: everything accepted is then on disk. Waits this long
    /// for deliveries in progress.
    pub(super) async fn stop(self, patience: Duration) {
        let is_told = self.orders.send(Order::Stop(patience)).await.is_ok();
        // Probes are answered meanwhile; joining takes only a moment after that.
        self.orders.closed().await;
        if !is_told || self.thread.join().is_err() {
            tracing::error!("the delivery thread died; please report this as a bug");
        }
    }
}

fn died() -> StartError {
    StartError::Queue("the delivery thread died".to_owned())
}

/// Runs the thread to its end.
fn run(
    (settings, sink): (Settings, Arc<dyn Sink>),
    mut inbox: mpsc::Receiver<Order>,
    report: &mpsc::Sender<Report>,
) {
    let tell = |what| {
        // There is room for all reports; if the receiver is gone, nobody needs them.
        drop(report.try_send(what));
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tell(Report::Opened(Err(StartError::Thread(error)))),
    };
    runtime.block_on(async move {
        let _wakes = wakes::install();
        let waiting = || tell(Report::Waiting);
        let store = match open(settings, sink, &mut inbox, waiting).await {
            Ok(Some(store)) => store,
            Ok(None) => return,
            Err(error) => return tell(Report::Opened(Err(error))),
        };
        tell(Report::Opened(Ok(store.clone())));
        let patience = loop {
            match inbox.recv().await {
                // Control waits for the reply; if control is gone, so is the inbox.
                Some(Order::Reload(settings, reply)) => {
                    drop(reply.send(store.reload(*settings).await));
                }
                Some(Order::WindDown) => store.wind_down().await,
                Some(Order::Stop(patience)) => break patience,
                None => break Duration::ZERO,
            }
        };
        if let Err(refusal) = store.shutdown(patience).await {
            tracing::warn!(%refusal, "the queue was not closed cleanly: the next start recovers it");
        }
    });
}

/// Opens the store, `waiting` until it is free if there is time. `None`: told to stop meanwhile.
async fn open(
    mut settings: Settings,
    sink: Arc<dyn Sink>,
    inbox: &mut mpsc::Receiver<Order>,
    waiting: impl Fn(),
) -> Result<Option<Store>, StartError> {
    let dir = settings.dir.clone();
    let failed =
        |error: &dyn std::fmt::Display| StartError::Queue(format!("{}: {error}", dir.display()));
    let storage = storage::open(&dir).map_err(|error| failed(&helped(&error)))?;
    let is_taken = is_locked(&*storage).map_err(|error| failed(&helped(&error)))?;
    if is_taken && !settings.lock_wait.is_zero() {
        waiting();
        if !wait_until_free(&*storage, &mut settings, inbox).await.map_err(|it| failed(&it))? {
            return Ok(None);
        }
    }
    // The waiting time is used up.
    settings.lock_wait = Duration::ZERO;
    let store = Store::open(storage, settings, Arc::new(SystemClock), sink).await;
    store.map(Some).map_err(|error| failed(&error))
}

/// The system's error about the data directory, and what to do if that is known.
fn helped(error: &io::Error) -> String {
    let help = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; the user that runs this has to own the folder, or `queue.dir` be another"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "; `queue.dir` has to be where something can be written"
        }
        _ => "",
    };
    format!("{error}{help}")
}

/// Waits until the data directory is free or the time is over, applying `settings` meanwhile.
/// Returns whether to continue.
async fn wait_until_free(
    storage: &dyn Storage,
    settings: &mut Settings,
    inbox: &mut mpsc::Receiver<Order>,
) -> io::Result<bool> {
    let (dir, wait) = (settings.dir.display().to_string(), settings.lock_wait);
    tracing::warn!(%dir, ?wait, "another process has the data directory open; waiting for it");
    let until = Instant::now() + wait;
    while is_locked(storage)? {
        tokio::select! {
            () = sleep(LOCK_PAUSE) => {}
            () = sleep_until(until) => break,
            order = inbox.recv() => match order {
                Some(Order::Reload(new, reply)) => {
                    *settings = *new;
                    drop(reply.send(Ok(())));
                }
                Some(Order::WindDown) => {
                    // Nobody needs it any more; only the end is left.
                    while !matches!(inbox.recv().await, Some(Order::Stop(_)) | None) {}
                    return Ok(false);
                }
                Some(Order::Stop(_)) | None => return Ok(false),
            },
        }
    }
    Ok(true)
}
