//! One upstream.

use std::{fmt, sync::Arc};

use serde::Serialize;

use crate::{
    balancer::{Resolve, Settings},
    upstream::{Pools, TlsError},
};

/// One upstream, shared by all workers and owned by control: where its endpoints are now.
pub struct Group {
    settings: Settings,
}

/// One worker's view of a group. Cheap to clone; all clones of one worker share their state.
#[derive(Clone, Debug)]
pub struct GroupHandle {
    group: Arc<Group>,
    pools: Arc<Pools>,
}

/// `/v1/upstreams`.
#[derive(Clone, Debug, Serialize)]
pub struct GroupSnapshot {
    /// The upstream's name.
    pub name: Arc<str>,
    /// Its endpoints, by priority.
    pub endpoints: Vec<EndpointSnapshot>,
    /// Requests under way, over all workers.
    pub in_flight: usize,
}

/// One endpoint in `/v1/upstreams`.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointSnapshot {
    /// Where it listens.
    pub address: String,
    /// Its share within its priority.
    pub weight: u32,
    /// 0 goes first.
    pub priority: u32,
    /// Requests under way, over all workers.
    pub in_flight: usize,
    /// The latency expected of it.
    pub ewma_seconds: f32,
    /// `ready`.
    pub state: &'static str,
}

// === impl Group ===

impl Group {
    /// Call it on the control runtime: names are resolved by tasks that end with the group.
    /// `previous` is the group of this name in the configuration before: its endpoints keep their
    /// state, and its addresses serve until names are resolved again.
    pub fn new(
        settings: Settings,
        previous: Option<&Arc<Self>>,
        resolver: &Arc<dyn Resolve>,
    ) -> Result<Arc<Self>, TlsError> {
        let _ = (previous, resolver);
        Ok(Arc::new(Self { settings }))
    }

    /// Its name, its identity across reloads.
    pub fn name(&self) -> &Arc<str> {
        &self.settings.name
    }

    /// A worker's view of it, with that worker's connections.
    pub fn worker(self: &Arc<Self>, pools: &Arc<Pools>) -> GroupHandle {
        GroupHandle { group: self.clone(), pools: pools.clone() }
    }

    /// Its state now.
    pub fn snapshot(&self) -> GroupSnapshot {
        GroupSnapshot { name: self.settings.name.clone(), endpoints: Vec::new(), in_flight: 0 }
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("name", &self.settings.name).finish_non_exhaustive()
    }
}
