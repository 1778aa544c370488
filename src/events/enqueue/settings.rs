//! `routes[].enqueue` and `routes[].spill`.

use std::{sync::Arc, time::Duration};

use http::HeaderName;

use crate::http::selector::{Part, Selector};

/// One of the two.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where requests are stored.
    pub topic: Arc<str>,
    /// When they are.
    pub when: When,
    /// The order domain.
    pub key: Option<Selector>,
    /// Fields that are not stored: credentials that the route does not keep.
    pub credentials: Box<[HeaderName]>,
    /// Parameters of the query that are not stored: what `auth` takes for tokens.
    pub parameters: Box<[Box<str>]>,
    /// The field that has the client's key, and gets ours where there is none.
    pub key_field: HeaderName,
    /// How long the status can be asked for.
    pub status_ttl: Duration,
    /// The upstream honours the key: what it may have seen is sent again.
    pub may_redeliver: bool,
}

/// When a request is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// `enqueue`: each one.
    Always {
        /// A client may prefer to wait for the result.
        may_wait: bool,
    },
    /// `spill`: where nothing of it could be sent.
    Unsent,
}

// === impl Settings ===

impl Settings {
    /// Whether its key is taken from the body.
    pub(super) fn selects_json(&self) -> bool {
        let mut parts = self.key.iter().flat_map(Selector::parts);
        parts.any(|part| matches!(part, Part::Json(_)))
    }

    /// What is said of a request that is stored.
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
