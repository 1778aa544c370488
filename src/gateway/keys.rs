//! Fetches the keys of issuers: one instance for the life of the control thread.

use std::{fmt, sync::Arc};

use tokio::sync::watch as channel;

use crate::{
    balancer::Resolve,
    gateway::fetch::Client,
    http::fetch::Fetch,
    middleware::auth::jwks::{self, KeyCache},
    telemetry::{metrics::Cells, task::Spawner},
    upstream::Pools,
};

/// Makes the key caches of issuers whose keys are on the network.
pub(super) struct Keyring {
    fetch: Arc<dyn Fetch>,
    cells: Cells,
}

// === impl Keyring ===

impl Keyring {
    /// Fetches with its own connections on this runtime.
    pub(super) fn new(resolver: Arc<dyn Resolve>, cells: Cells) -> Self {
        // No tunnel is ever opened through these.
        let (_, deadline) = channel::channel(None);
        let pools = Pools::new(cells.clone(), Spawner::new(), deadline);
        Self { fetch: Arc::new(Client::new(resolver, pools)), cells }
    }

    /// A cache that begins to fetch now.
    pub(super) fn cache(&self, settings: &jwks::Settings) -> KeyCache {
        KeyCache::new(settings.clone(), self.fetch.clone(), &self.cells)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").finish_non_exhaustive()
    }
}
