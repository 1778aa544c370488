//! The composition root: the only folder that knows all the others.
//!
//! ```text
//!  Gateway (a handle)
//!     |  orders
//!  control thread          reload, drain, admin listener, DNS, changed files; no client traffic
//!     |  one snapshot each
//!  worker threads          accept, serve and answer; own sockets, own pools, own metric cells
//! ```
//!
//! [`control`] takes orders one after another. For a start or a reload, [`build`] turns the
//! configuration into one snapshot for each worker, read from the listener down to the upstream,
//! and [`reload`] decides which state survives. [`worker`] is one worker. Events are delivered on
//! threads of their own ([`delivery`]).

mod accepting;
mod admission;
mod asked;
mod build;
mod control;
mod credentials;
mod delivery;
mod drain;
mod events;
mod explain;
mod fetch;
mod handler;
mod keys;
mod listeners;
mod operator;
mod outbox;
mod queue;
mod reload;
mod status_paths;
mod watch;
mod worker;

pub use self::{
    asked::Asked,
    credentials::Issuers,
    explain::{RunningState, explain},
};

use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, mpsc as std_mpsc},
    thread,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch as channel};

use self::control::{Control, Order};
use crate::{
    config::{Config, Problems},
    http::peer::Address,
    listener,
    telemetry::logging::LogHandle,
    upstream,
};

/// A running gateway. Dropping the handle leaves it running; [`Gateway::stop`] ends it.
#[derive(Debug)]
pub struct Gateway {
    orders: mpsc::Sender<Order>,
    started: Started,
    thread: thread::JoinHandle<()>,
    stopped: channel::Receiver<bool>,
}

/// What a caller of [`Gateway::start`] may choose besides the configuration.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The file to reload from: on order, and automatically when it changes.
    pub source: Option<PathBuf>,
    /// Other files that the configuration was made from: when one changes, `source` is read again.
    pub watched: Vec<PathBuf>,
    /// The times of a drain.
    pub drain: DrainSettings,
    /// The process's log, whose level follows `telemetry.log_level`.
    pub log: Option<LogHandle>,
    /// Called by a worker, at most once a second, after connections have freed their buffers: the
    /// time to return memory. Blocks the worker while it runs.
    pub give_back: Option<fn()>,
}

/// The times of a drain (semantics 10).
#[derive(Clone, Copy, Debug)]
pub struct DrainSettings {
    /// Not ready, but still accepting: the time a load balancer needs to notice.
    pub before_close: Duration,
    /// How long requests may continue after that.
    pub requests: Duration,
    /// How long upgraded connections may continue after that.
    pub upgrades: Duration,
}

/// The addresses of a started gateway.
#[derive(Clone, Debug)]
pub struct Started {
    /// The admin listener.
    pub admin: SocketAddr,
    /// The listeners of the first configuration, by name.
    pub listeners: Vec<(Arc<str>, Address)>,
    /// The number of worker threads.
    pub workers: usize,
}

/// Why a gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address.
    #[error("listener `{listener}`: {source}")]
    Bind {
        /// Its name.
        listener: Arc<str>,
        /// What is in the way, and what to do about it.
        source: listener::BindError,
    },
    /// The admin listener's address.
    #[error("admin: cannot listen on {address}: {source}{}", hint(.source))]
    Admin {
        /// `admin.address`.
        address: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// A listener's TLS files.
    #[error("listener `{listener}`: {source}")]
    Tls {
        /// Its name.
        listener: Arc<str>,
        /// Which file, and what is wrong with it.
        source: listener::TlsError,
    },
    /// An upstream's TLS files.
    #[error(transparent)]
    UpstreamTls(#[from] upstream::TlsError),
    /// The access log's file.
    #[error("telemetry.access_log.path: {0}")]
    AccessLog(std::io::Error),
    /// The event queue's store.
    #[error("queue: {0}")]
    Queue(String),
    /// A thread or runtime could not be created.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// Why a new configuration was not applied; the old one runs on unchanged.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file has problems.
    #[error("{0}")]
    Invalid(Problems),
    /// It changes keys that need a restart.
    #[error("{} changed: restart sluice to apply", .0.join(", "))]
    NeedsRestart(Vec<&'static str>),
    /// It is valid, but cannot be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The gateway was not started from a file.
    #[error("there is no file to reload from")]
    NoSource,
    /// The gateway is draining or gone.
    #[error("the gateway is shutting down")]
    Stopping,
}

/// How a gateway ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Stops being ready first, closes listeners after `before_close`: SIGTERM, the admin API.
    Announced,
    /// Closes listeners at once: SIGINT.
    Prompt,
}

/// What to do if the admin address cannot be bound.
fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => " (is sluice running already?)",
        _ => "",
    }
}

// === impl Gateway ===

impl Gateway {
    /// Starts `config` on its own threads; when it returns, every listener accepts.
    pub fn start(config: Config, options: Options) -> Result<Self, StartError> {
        let (orders, inbox) = mpsc::channel(16);
        let (report, reported) = std_mpsc::sync_channel(1);
        let (stopping, stopped) = channel::channel(false);
        let own_orders = orders.clone();
        let thread = thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                control::run(config, options, own_orders, inbox, &report);
                stopping.send_replace(true);
            })
            .map_err(StartError::Thread)?;
        match reported.recv() {
            Ok(Ok(started)) => Ok(Self { orders, started, thread, stopped }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(StartError::Thread(std::io::Error::other("the control thread died"))),
        }
    }

    /// The addresses.
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// The address of the TCP listener with this name.
    pub fn listener_address(&self, name: &str) -> Option<SocketAddr> {
        let (_, address) = self.started.listeners.iter().find(|(known, _)| **known == *name)?;
        match address {
            Address::Inet(address) => Some(*address),
            Address::Unix => None,
        }
    }

    /// The address of the admin listener.
    pub fn admin_address(&self) -> SocketAddr {
        self.started.admin
    }

    /// Reads the file again and applies it as a whole, or changes nothing. Returns the hash of the
    /// running configuration.
    pub async fn reload(&self) -> Result<Arc<str>, ReloadError> {
        Control::reload(&self.orders).await
    }

    /// Like [`Gateway::reload`], without waiting for the result, which is logged and counted.
    pub fn reload_soon(&self) {
        let (reply, _unread) = oneshot::channel();
        if self.orders.try_send(Order::Reload(reply)).is_err() {
            tracing::warn!("too many orders at once: not reloaded");
        }
    }

    /// Begins the drain; returns at once. A second call changes nothing.
    pub fn drain(&self, drain: Drain) {
        if self.orders.try_send(Order::Drain(drain)).is_err() {
            tracing::warn!("too many orders at once, or none are taken any more: not draining");
        }
    }

    /// Completes when the gateway has ended. Cancel-safe.
    pub async fn stopped(&self) {
        // An error means that the sender is gone, and with it the thread.
        drop(self.stopped.clone().wait_for(|stopped| *stopped).await);
    }

    /// Ends the gateway now, whatever is in progress, and waits for its threads. `false`: the
    /// control thread had died of a bug.
    pub fn stop(self) -> bool {
        let Self { orders, thread, .. } = self;
        // Waits if the inbox is full; a closed one belongs to a gateway that has ended.
        drop(orders.blocking_send(Order::Stop));
        thread.join().is_ok()
    }
}

// === impl DrainSettings ===

impl Default for DrainSettings {
    fn default() -> Self {
        Self {
            before_close: Duration::from_secs(5),
            requests: Duration::from_secs(30),
            upgrades: Duration::from_mins(10),
        }
    }
}

impl fmt::Display for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, address)) in self.listeners.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            match address {
                Address::Inet(address) => write!(f, "{comma}{name} on {address}")?,
                Address::Unix => write!(f, "{comma}{name} on a unix socket")?,
            }
        }
        let plural = if self.workers == 1 { "" } else { "s" };
        write!(f, ", admin on {}, {} worker{plural}", self.admin, self.workers)
    }
}
