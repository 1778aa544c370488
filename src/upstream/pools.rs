//! All connections of one worker: its hold of each endpoint, the number of idle connections, and
//! the one task that closes expired ones.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{self, Instant};

use crate::{
    telemetry::{
        metrics::Cells,
        task::{self, Spawner},
    },
    upstream::{Endpoint, Local, Transport, TunnelDeadline},
};

/// Idle connections of one worker, to all endpoints together.
const MAX_IDLE_TOTAL: usize = 1024;
/// How often idle connections are checked for expiry.
const JANITOR_INTERVAL: Duration = Duration::from_secs(1);

/// All connections of one worker to all endpoints; outlives reloads.
pub struct Pools {
    cells: Cells,
    tunnels: Spawner,
    deadline: TunnelDeadline,
    idle: AtomicUsize,
    has_janitor: AtomicBool,
    locals: Mutex<Locals>,
}

/// Bounded by the configuration: endpoints that are gone are pruned when a set of endpoints is
/// made.
#[derive(Default)]
struct Locals {
    /// With the configuration generation that uses each.
    current: HashMap<Name, (Weak<Local>, u64)>,
    /// Holds whose endpoint has a newer hold: the janitor closes their connections in its next
    /// round, by when requests use the new hold.
    superseded: Vec<Weak<Local>>,
}

/// An endpoint's label, and the name it is known by.
type Name = (Arc<str>, Box<str>);

// === impl Pools ===

impl Pools {
    /// No connection yet. Tunnels (upgraded connections) run in `tunnels` and end at `deadline` at
    /// the latest.
    pub fn new(cells: Cells, tunnels: Spawner, deadline: TunnelDeadline) -> Arc<Self> {
        Arc::new(Self {
            cells,
            tunnels,
            deadline,
            idle: AtomicUsize::new(0),
            has_janitor: AtomicBool::new(false),
            locals: Mutex::default(),
        })
    }

    /// This worker's hold of `endpoint`: the existing one with its connections, or a new one if
    /// connections would be made differently. The latest `generation` that asks decides how. An
    /// older generation, with its last requests still in flight, gets a hold that keeps no
    /// connections.
    pub(crate) fn local(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        transport: &Arc<Transport>,
        group: &Arc<AtomicUsize>,
        generation: u64,
    ) -> Arc<Local> {
        let key = (endpoint.label().clone(), Box::from(endpoint.host()));
        let mut locals = self.locals.lock();
        let known = locals.current.get(&key);
        let latest = known.map_or(generation, |(_, latest)| generation.max(*latest));
        let known = known.and_then(|(local, _)| local.upgrade());
        let is_same = |local: &Arc<Local>| {
            Arc::ptr_eq(local.endpoint(), endpoint)
                && Arc::ptr_eq(local.transport(), transport)
                && Arc::ptr_eq(local.group(), group)
        };
        let local = match &known {
            Some(known) if is_same(known) => known.clone(),
            Some(_) | None => Local::new(endpoint.clone(), transport.clone(), group.clone(), self),
        };
        if generation < latest {
            if known.is_none_or(|known| !Arc::ptr_eq(&known, &local)) {
                local.pool().retire();
            }
            return local;
        }
        if let Some(known) = known
            && !Arc::ptr_eq(&known, &local)
        {
            locals.superseded.push(Arc::downgrade(&known));
        }
        locals.current.insert(key, (Arc::downgrade(&local), latest));
        local
    }

    /// Forgets holds that nobody uses any more.
    pub(crate) fn prune(&self) {
        let mut locals = self.locals.lock();
        locals.current.retain(|_, (local, _)| local.strong_count() > 0);
        locals.superseded.retain(|local| local.strong_count() > 0);
    }

    /// The cells of this worker.
    pub(crate) fn cells(&self) -> &Cells {
        &self.cells
    }

    pub(crate) fn tunnels(&self) -> &Spawner {
        &self.tunnels
    }

    pub(crate) fn tunnel_deadline(&self) -> TunnelDeadline {
        self.deadline.clone()
    }

    /// Idle connections to all endpoints.
    pub fn idle(&self) -> usize {
        // Relaxed, like all accesses: a count, exact because every change is one operation.
        self.idle.load(Ordering::Relaxed)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.idle() >= MAX_IDLE_TOTAL
    }

    pub(crate) fn add_idle(&self) {
        self.idle.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_idle(&self, count: usize) {
        self.idle.fetch_sub(count, Ordering::Relaxed);
    }

    /// Started when the first connection becomes idle, so that it runs on the worker's runtime.
    pub(crate) fn ensure_janitor(self: &Arc<Self>) {
        // Nearly always: a plain read.
        if self.has_janitor.load(Ordering::Relaxed)
            || self.has_janitor.swap(true, Ordering::Relaxed)
        {
            return;
        }
        let pools = Arc::downgrade(self);
        // One timer for all idle connections instead of one for each; ends with the worker's pools.
        task::spawn("upstream janitor", async move {
            loop {
                time::sleep(JANITOR_INTERVAL).await;
                let Some(pools) = pools.upgrade() else { return };
                pools.expire(Instant::now());
            }
        });
    }

    fn expire(&self, now: Instant) {
        let mut locals = self.locals.lock();
        let superseded = std::mem::take(&mut locals.superseded);
        let current: Vec<_> =
            locals.current.values().filter_map(|(local, _)| local.upgrade()).collect();
        drop(locals);
        for local in superseded.iter().filter_map(Weak::upgrade) {
            local.pool().retire();
        }
        for local in current {
            local.pool().expire(now);
        }
    }
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pools").field("idle", &self.idle()).finish_non_exhaustive()
    }
}
