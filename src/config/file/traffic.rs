//! Traffic policy: `rate_limits`, `adaptive_concurrency`, `mirror`, `fault`.

use std::time::Duration;

use http::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::{Selector, block, word_or};
use crate::{
    config::{
        value::{Name, Percent, Rate, Text, Words},
        written::{Nothing, Placed, Shape, Written, expected},
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
    /// A limit that follows latency.
    AdaptiveMap {
        /// Before anything is known. Default: 20.
        initial: Option<Written<u32>>,
        /// Never less. Default: 5.
        min: Option<Written<u32>>,
        /// Never more. Default: 1000.
        max: Option<Written<u32>>,
    }
    /// Copies of requests. Those whose body is still on its way are not copied.
    Mirror {
        /// Where they go.
        upstream: Written<Name>,
        /// The share of requests.
        percent: Written<Percent>,
    }
    /// Failures made on purpose.
    Fault {
        /// Slower.
        delay: Option<FaultDelay>,
        /// Failed.
        abort: Option<FaultAbort>,
    }
    /// Slower.
    FaultDelay {
        /// The share of requests.
        percent: Written<Percent>,
        /// By how much.
        duration: Written<Duration>,
    }
    /// Failed.
    FaultAbort {
        /// The share of requests.
        percent: Written<Percent>,
        /// With which status, 400 to 599.
        status: Written<StatusCode>,
    }
}

/// `off`, or how the limit moves.
pub enum Adaptive {
    /// `off`
    Off(Written<Text>),
    /// On.
    On(AdaptiveMap),
}

// === impl Adaptive ===

impl<'de> Deserialize<'de> for Adaptive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Placed { value, place } =
            Placed::<Shape<Nothing, AdaptiveMap>>::deserialize(deserializer)?;
        match value {
            Shape::Scalar(text) if text == "off" => Ok(Self::Off(Written::new(text, place))),
            Shape::Map(map) => Ok(Self::On(map)),
            _ => Err(de::Error::custom(expected("`off` or a map"))),
        }
    }
}

impl JsonSchema for Adaptive {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Adaptive".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        word_or::<AdaptiveMap>(&json_schema!({ "const": "off" }), generator)
    }
}
