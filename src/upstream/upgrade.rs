//! Upgraded connections.

use tokio::{sync::watch, time::Instant};

/// When tunnels have to end; `None` until the drain begins.
pub type TunnelDeadline = watch::Receiver<Option<Instant>>;
