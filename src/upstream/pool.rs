//! One worker's connections.

use std::sync::{Arc, Weak};

use crate::{
    telemetry::{metrics::Cells, task::Spawner},
    upstream::{Local, Transport, TunnelDeadline},
};

/// All connections of one worker to all endpoints; outlives reloads.
#[derive(Debug)]
pub struct Pools {
    cells: Cells,
    tunnels: Spawner,
    deadline: TunnelDeadline,
}

/// One worker's connections to one endpoint.
#[derive(Debug)]
pub(crate) struct Pool {
    pools: Arc<Pools>,
    local: Weak<Local>,
}

// === impl Pools ===

impl Pools {
    /// Call it on the worker's runtime: it starts the task that closes idle connections, which ends
    /// with the last reference. Tunnels (upgraded connections) run in `tunnels` and end at
    /// `deadline` at the latest.
    pub fn new(cells: Cells, tunnels: Spawner, deadline: TunnelDeadline) -> Arc<Self> {
        Arc::new(Self { cells, tunnels, deadline })
    }
}

impl Pool {
    pub(crate) fn new(local: Weak<Local>, _transport: &Arc<Transport>, pools: &Arc<Pools>) -> Self {
        Self { pools: pools.clone(), local }
    }
}
