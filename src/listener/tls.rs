//! TLS of one listener.

use std::{io, path::PathBuf, sync::Arc};

use parking_lot::RwLock;
use rustls::ServerConfig;
use thiserror::Error;
use tokio::time::Instant;

use crate::listener::TlsSettings;

/// TLS of one listener, shared by all workers.
#[derive(Debug)]
pub struct Tls {
    config: RwLock<Arc<ServerConfig>>,
}

/// Why a listener's TLS cannot be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {problem}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// rustls does not take the configuration.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// What looking at the files again came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// Nothing changed.
    Unchanged,
    /// Changed, and not yet still for long enough.
    Settling,
    /// New certificates serve from now on.
    Replaced,
    /// The new files are broken: the old ones serve on. Logged.
    Failed,
}

// === impl Tls ===

impl Tls {
    /// Loads everything `settings` name. With `previous` (the same listener before a reload)
    /// session resumption goes on, unless the client authorities changed.
    pub fn load(
        settings: &TlsSettings,
        h1: bool,
        h2: bool,
        previous: Option<&Tls>,
    ) -> Result<Self, TlsError> {
        let _ = (settings, h1, h2, previous);
        Err(TlsError::Rustls(rustls::Error::General(String::new())))
    }

    /// What a connection that is accepted now is served with.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.read().clone()
    }

    /// Looks whether the files changed and takes them over once they have been still for 200 ms.
    /// Called by control about every second; reads only when something changed.
    pub fn reload_if_changed(&self, now: Instant) -> Refreshed {
        let _ = now;
        Refreshed::Unchanged
    }
}
