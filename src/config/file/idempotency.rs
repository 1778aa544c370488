//! `routes[].idempotency`.

use std::time::Duration;

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;

use super::block;
use crate::config::{value::words, written::Written};

words! {
    /// What happens to a key whose request may have been done.
    OnUncertain { "hold" = Hold, "resend" = Resend }
}

block! {
    /// Unsafe requests with an idempotency key are done at most once; a repeated request gets the
    /// first answer.
    Idempotency {
        /// The request header that carries the key. Default: idempotency-key.
        header: Option<Written<HeaderName>>,
        /// Whether unsafe requests without a key are refused with 400. Default: false.
        required: Option<Written<bool>>,
        /// How long a key is remembered, from 1s to 30d. Default: 24h.
        ttl: Option<Written<Duration>>,
        /// What happens when the upstream may have done a request and nobody knows. `hold`: repeats
        /// get 409 until the outcome is known or `ttl` ends. `resend`: the request is sent again
        /// with the same key; the upstream must honour it. Default: hold.
        on_uncertain: Option<Written<OnUncertain>>,
    }
}
