//! What an operator is told of a group.

use std::sync::Arc;

use serde::Serialize;

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
