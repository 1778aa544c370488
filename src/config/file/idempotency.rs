//! `routes[].idempotency`.

use std::time::Duration;

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;

use super::block;
use crate::config::{value::words, written::Written};

words! {
    /// What is done about a key whose outcome is unknown.
    OnUncertain { "hold" = Hold, "resend" = Resend }
}

block! {
    /// Requests with a key are done once.
    Idempotency {
        /// Default: idempotency-key.
        header: Option<Written<HeaderName>>,
        /// Default: false.
        required: Option<Written<bool>>,
        /// Default: 24h.
        ttl: Option<Written<Duration>>,
        /// Default: hold.
        on_uncertain: Option<Written<OnUncertain>>,
    }
}
