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
    /// A rate limit: a token bucket for each value of `key`.
    RateLimit {
        /// Who is limited: a selector such as `client_ip`, `header:NAME`, `path:NAME`, `claim:NAME`
        /// or `principal`, or a list whose values are joined. A request without a value is limited
        /// by its client address. `json:` and `response_..` selectors are not possible.
        key: Selector,
        /// Requests per second, minute, hour or day: `100/s`, `6000/m`, `1000/h`, `10000/d`. At
        /// most 1000000 per second.
        rate: Written<Rate>,
        /// Requests that a full bucket admits at once; at least 1.
        burst: Written<u32>,
        /// `enforce` answers 429 to requests over the limit; `shadow` only counts them. Default:
        /// enforce.
        mode: Option<Written<Mode>>,
        /// Keys that are tracked at a time, from 1 to 100000000. Further keys share one bucket.
        /// Default: 1000000.
        max_keys: Option<Written<usize>>,
    }
    /// A concurrency limit that follows the upstream's latency. A request over the limit waits up
    /// to 100 ms and then gets 503.
    AdaptiveMap {
        /// The limit before any latency is known, from `min` to `max`. Default: 20.
        initial: Option<Written<u32>>,
        /// The lowest limit, from 1 to `max`. Default: 5.
        min: Option<Written<u32>>,
        /// The highest limit, from 1 to 1000000. Default: 1000.
        max: Option<Written<u32>>,
    }
    /// Copies of a share of the requests. Requests whose body is still arriving are not copied, and
    /// a copy carries no credentials.
    Mirror {
        /// The upstream that gets the copies: a name under `upstreams`.
        upstream: Written<Name>,
        /// The share of requests that is copied, such as `5%`.
        percent: Written<Percent>,
    }
    /// Faults injected into a share of the requests, to test how clients handle them.
    Fault {
        /// Delays a share of the requests.
        delay: Option<FaultDelay>,
        /// Fails a share of the requests without sending them.
        abort: Option<FaultAbort>,
    }
    /// Delays a share of the requests.
    FaultDelay {
        /// The share of requests that is delayed.
        percent: Written<Percent>,
        /// How long each of them is delayed; at least 1ms.
        duration: Written<Duration>,
    }
    /// Fails a share of the requests without sending them.
    FaultAbort {
        /// The share of requests that fails.
        percent: Written<Percent>,
        /// The status of the answer, from 400 to 599.
        status: Written<StatusCode>,
    }
}

/// `off`, or the bounds of the limit.
pub enum Adaptive {
    /// `off`
    Off(Written<Text>),
    /// The bounds of the limit.
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
