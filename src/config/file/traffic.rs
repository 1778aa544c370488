//! `rate_limits`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Selector, block};
use crate::{
    config::{
        value::{Rate, Words},
        written::Written,
    },
    middleware::rate_limit::Mode,
};

impl Words for Mode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("enforce", Self::Enforce), ("shadow", Self::Shadow)];
}

block! {
    /// A token bucket for each key.
    RateLimit {
        /// Who is limited: a selector or a list. Without a value it is the client's address.
        key: Selector,
        /// `100/s`
        rate: Written<Rate>,
        /// How many at once.
        burst: Written<u32>,
        /// `shadow` only counts those it would deny. Default: enforce.
        mode: Option<Written<Mode>>,
        /// Keys that are remembered; those beyond share one bucket. Default: 1000000.
        max_keys: Option<Written<usize>>,
    }
}
