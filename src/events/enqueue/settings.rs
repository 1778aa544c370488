//! `routes[].enqueue` and `routes[].spill`.

use std::{sync::Arc, time::Duration};

use http::HeaderName;

use crate::http::selector::{Part, Selector};

/// One of the two.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The topic that requests are stored in.
    pub topic: Arc<str>,
    /// When a request is stored.
    pub when: When,
    /// The order domain.
    pub key: Option<Selector>,
    /// Credential fields that the route does not store.
    pub credentials: Box<[HeaderName]>,
    /// Query parameters that are not stored: those `auth` reads tokens from.
    pub parameters: Box<[Box<str>]>,
    /// The field that carries the client's key, or ours if the client sends none.
    pub key_field: HeaderName,
    /// How long the status can be asked for.
    pub status_ttl: Duration,
    /// The upstream honours the key: a request it may have seen is sent again.
    pub may_redeliver: bool,
}

/// When a request is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// `enqueue`: always.
    Always {
        /// A client may prefer to wait for the result.
        may_wait: bool,
    },
    /// `spill`: when nothing of it could be sent.
    Unsent,
}

// === impl Settings ===

impl Settings {
    /// Whether the order key comes from the body.
    pub(super) fn selects_json(&self) -> bool {
        let mut parts = self.key.iter().flat_map(Selector::parts);
        parts.any(|part| matches!(part, Part::Json(_)))
    }

    /// The reason string for a stored request.
    pub(super) fn reason(&self) -> &'static str {
        match self.when {
            When::Always { .. } => "enqueued",
            When::Unsent => "spilled",
        }
    }

    /// The word for it in gateway.yaml.
    pub fn word(&self) -> &'static str {
        match self.when {
            When::Always { .. } => "enqueue",
            When::Unsent => "spill",
        }
    }
}
