//! One worker: a thread, a runtime, its own sockets, pools and stack.
//!
//! A request is accepted, served and answered here; nothing whose reference count it changes is
//! shared with another worker. Control sends complete snapshots, which the worker applies between
//! two polls: a request sees the old stack or the new one, never a mixture.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, mpsc as std_mpsc},
    thread,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

use crate::{
    connection::{self, Connections},
    gateway::{
        accepting::{Accepting, accept},
        build::{EventStack, Stack, Stacks},
        handler::Handler,
    },
    listener::{self, Acceptor, Limits, Socket, Tls},
    middleware::{
        auth::{VerifiedTokens, verified},
        retry::Budgets,
    },
    net::outbox,
    telemetry::{
        metrics::Cells,
        task::{self, Spawner},
        wakes,
    },
    upstream::{Pools, TunnelDeadline},
};

/// The capacity for orders; control waits for each.
const ORDERS: usize = 4;

/// How many tasks are polled before sockets and timers are checked again. With tokio's 61, a worker
/// under load checks several times for each round of its connections: at 64 and 256 connections,
/// 256 saves an eighth of a request's CPU time. New events wait for the rest of the tasks, 2 ms
/// longer if a poll takes 12 us; a worker that keeps up has nothing left after a few.
const EVENT_INTERVAL: u32 = 256;

/// The time from the first freed buffers until their memory is returned.
const GATHER: Duration = Duration::from_secs(1);

/// Control's side of a worker.
#[derive(Debug)]
pub(super) struct Worker {
    orders: mpsc::Sender<Order>,
    thread: thread::JoinHandle<()>,
    resources: Resources,
}

/// The worker's own resources, which live as long as it does.
#[derive(Clone, Debug)]
pub(super) struct Resources {
    /// Its metric cells.
    pub(super) cells: Cells,
    /// Its upstream connections.
    pub(super) pools: Arc<Pools>,
    /// The budgets of its retries.
    pub(super) budgets: Arc<Budgets>,
    /// Its downstream connections, including handshakes.
    pub(super) tasks: Spawner,
    /// Its tunnels.
    pub(super) tunnels: Spawner,
    /// The tokens it has verified.
    pub(super) verified: Arc<VerifiedTokens>,
    /// The connections that have completed their handshake.
    pub(super) connections: Connections,
}

/// A listener for a worker to serve.
pub(super) struct Listening {
    pub(super) id: ListenerId,
    /// A socket if this listener is new; otherwise the worker has one already.
    pub(super) socket: Option<Socket>,
    pub(super) terms: Terms,
}

/// Identifies an open port, whatever its listener's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ListenerId(pub(super) u64);

/// How connections accepted from now on are treated.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) serves: Serves,
    pub(super) listener: Arc<listener::Settings>,
    pub(super) connection: Arc<connection::Settings>,
    pub(super) limits: Limits,
    pub(super) tls: Option<Arc<Tls>>,
}

/// What connections of a listener get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serves {
    /// The routes.
    Routes,
    /// The event endpoints.
    Events,
}

/// A snapshot is sent in two steps, so that all workers apply it or none: `Prepare` may fail and
/// changes nothing, `Commit` cannot fail.
enum Order {
    Prepare(Vec<Listening>, oneshot::Sender<io::Result<()>>),
    /// The old stacks are returned, so that the worker does not spend time dropping them.
    Commit(Box<Stacks>, oneshot::Sender<Replaced>),
    /// Like `Commit`, without changing the listeners.
    Swap(Box<Stacks>, oneshot::Sender<Replaced>),
    /// Close all ports; the sender is dropped when that is done.
    Close(oneshot::Sender<()>),
    Stop,
}

/// The previous stacks.
#[derive(Default)]
pub(super) struct Replaced {
    _routes: Option<Stack>,
    _events: Option<EventStack>,
}

/// The worker's side.
struct Serving {
    resources: Resources,
    /// `None` until the first commit.
    handler: Option<Arc<Handler<Stack>>>,
    /// `None` until there is an `events_api`; after that it stays, with the latest stack.
    events: Option<Arc<Handler<EventStack>>>,
    listeners: HashMap<ListenerId, Accepting>,
    prepared: Vec<Prepared>,
}

/// A listener that the next commit starts or continues.
struct Prepared {
    id: ListenerId,
    acceptor: Option<Acceptor>,
    terms: Terms,
}

// === impl Worker ===

impl Worker {
    /// Starts a thread that serves nothing yet. `deadline` ends its tunnels, `give_back` is
    /// [`Options::give_back`](super::Options::give_back).
    pub(super) fn start(
        number: usize,
        cells: Cells,
        deadline: TunnelDeadline,
        give_back: Option<fn()>,
    ) -> io::Result<Self> {
        let (orders, inbox) = mpsc::channel(ORDERS);
        let (report, reported) = std_mpsc::sync_channel(1);
        let thread = thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = match builder.event_interval(EVENT_INTERVAL).enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(report.send(Err(error))),
            };
            runtime.block_on(async move {
                let _wakes = wakes::install();
                task::spawn("outbox", outbox::serve());
                let resources = Resources::new(number, cells, deadline);
                // Control waits for it; if control is gone, so is the inbox.
                drop(report.send(Ok(resources.clone())));
                if let Some(give_back) = give_back {
                    let connections = resources.connections.clone();
                    task::spawn("give back", give_back_when_freed(connections, give_back));
                }
                serve(resources, inbox).await;
            });
        })?;
        let resources = reported.recv().map_err(io::Error::other)??;
        Ok(Self { orders, thread, resources })
    }

    /// The resources for building its stacks.
    pub(super) fn resources(&self) -> &Resources {
        &self.resources
    }

    /// Prepares for `listeners`. Nothing changes yet; an error leaves everything as it was.
    pub(super) async fn prepare(&self, listeners: Vec<Listening>) -> io::Result<()> {
        let (done, is_done) = oneshot::channel();
        self.order(Order::Prepare(listeners, done)).await?;
        is_done.await.map_err(io::Error::other)?
    }

    /// Puts `stacks` and the prepared listeners in force. Returns the old stacks.
    pub(super) async fn commit(&self, stacks: Stacks) -> io::Result<Replaced> {
        let (done, is_done) = oneshot::channel();
        self.order(Order::Commit(Box::new(stacks), done)).await?;
        is_done.await.map_err(io::Error::other)
    }

    /// Puts `stacks` in force behind the current listeners. Returns the old stacks.
    pub(super) async fn swap(&self, stacks: Stacks) -> io::Result<Replaced> {
        let (done, is_done) = oneshot::channel();
        self.order(Order::Swap(Box::new(stacks), done)).await?;
        is_done.await.map_err(io::Error::other)
    }

    /// Closes all ports; returns once every queued connection has been accepted.
    pub(super) async fn close(&self) {
        let (done, is_done) = oneshot::channel();
        if self.order(Order::Close(done)).await.is_ok() {
            // A worker that died has closed its ports too.
            drop(is_done.await);
        }
    }

    /// Ends it now, whatever it is doing.
    pub(super) async fn stop(self) {
        if self.order(Order::Stop).await.is_err() {
            tracing::error!("a worker thread had ended before it was stopped");
        }
        if self.thread.join().is_err() {
            tracing::error!("a worker panicked");
        }
    }

    async fn order(&self, order: Order) -> io::Result<()> {
        self.orders.send(order).await.map_err(|_| io::Error::other("the worker is gone"))
    }
}

// === impl Resources ===

impl Resources {
    fn new(number: usize, cells: Cells, deadline: TunnelDeadline) -> Self {
        let tunnels = Spawner::new();
        Self {
            pools: Pools::new(cells.clone(), tunnels.clone(), deadline),
            cells,
            budgets: Arc::new(Budgets::new(number)),
            tasks: Spawner::new(),
            tunnels,
            verified: Arc::new(VerifiedTokens::new(verified::Limits::default())),
            connections: Connections::new(),
        }
    }
}

/// Collects what is freed within a second.
async fn give_back_when_freed(connections: Connections, give_back: fn()) {
    loop {
        connections.freed().await;
        sleep(GATHER).await;
        give_back();
    }
}

async fn serve(resources: Resources, mut inbox: mpsc::Receiver<Order>) {
    let mut serving = Serving {
        resources,
        handler: None,
        events: None,
        listeners: HashMap::new(),
        prepared: Vec::new(),
    };
    while let Some(order) = inbox.recv().await {
        // Control waits for every answer; if it is gone, so is the inbox.
        match order {
            Order::Prepare(listeners, done) => drop(done.send(serving.prepare(listeners))),
            Order::Commit(stacks, done) => {
                let replaced = serving.swap(*stacks);
                serving.listen();
                drop(done.send(replaced));
            }
            Order::Swap(stacks, done) => drop(done.send(serving.swap(*stacks))),
            Order::Close(done) => {
                serving.close().await;
                drop(done);
            }
            Order::Stop => return,
        }
    }
}

// === impl Serving ===

impl Serving {
    fn prepare(&mut self, listeners: Vec<Listening>) -> io::Result<()> {
        self.prepared.clear();
        for Listening { id, socket, terms } in listeners {
            let acceptor = socket.map(Acceptor::new).transpose()?;
            if acceptor.is_none() && !self.listeners.contains_key(&id) {
                return Err(io::Error::other("a listener came without a socket"));
            }
            self.prepared.push(Prepared { id, acceptor, terms });
        }
        Ok(())
    }

    fn swap(&mut self, stacks: Stacks) -> Replaced {
        Replaced {
            _routes: put(&mut self.handler, stacks.routes),
            _events: stacks.events.and_then(|events| put(&mut self.events, events)),
        }
    }

    /// Makes the prepared listeners current: new ones start, known ones get their new terms,
    /// missing ones close their port.
    fn listen(&mut self) {
        let mut before = std::mem::take(&mut self.listeners);
        for Prepared { id, acceptor, terms } in std::mem::take(&mut self.prepared) {
            let accepting = match (acceptor, before.remove(&id)) {
                (Some(acceptor), _) => match self.accept(acceptor, terms) {
                    Some(accepting) => accepting,
                    None => continue,
                },
                (None, Some(accepting)) => {
                    *accepting.terms.lock() = terms;
                    accepting
                }
                // `prepare` has ensured that there is one.
                (None, None) => continue,
            };
            self.listeners.insert(id, accepting);
        }
        for (_, gone) in before {
            drop(gone.stop);
        }
    }

    /// Starts an accept loop. `None`: there is no stack for it, which the commit rules out.
    fn accept(&self, acceptor: Acceptor, terms: Terms) -> Option<Accepting> {
        let resources = &self.resources;
        match terms.serves {
            Serves::Routes => Some(accept(acceptor, terms, self.handler.clone()?, resources)),
            Serves::Events => Some(accept(acceptor, terms, self.events.clone()?, resources)),
        }
    }

    async fn close(&mut self) {
        for (_, accepting) in self.listeners.drain() {
            drop(accepting.stop);
            // An error also means that the loop has ended.
            drop(accepting.stopped.await);
        }
    }
}

/// Puts a stack in force; returns the previous one.
fn put<S>(handler: &mut Option<Arc<Handler<S>>>, stack: S) -> Option<S> {
    if let Some(handler) = handler {
        return Some(handler.replace(stack));
    }
    *handler = Some(Arc::new(Handler::new(stack)));
    None
}
