//! Keys of traffic whose behaviour comes with later versions. They have their shape already, so
//! that the schema is stable; [`crate::config::resolve`] refuses each where it is written.

use std::time::Duration;

use http::{HeaderName, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::{block, word_or};
use crate::config::{
    value::{Name, Percent, Text, words},
    written::{Nothing, Placed, Shape, Written, expected},
};

words! {
    /// What is done about a key whose outcome is unknown.
    OnUncertain { "hold" = Hold, "resend" = Resend }
}

block! {
    /// A limit that follows latency.
    AdaptiveMap {
        /// Default: 20.
        initial: Option<Written<u32>>,
        /// Default: 5.
        min: Option<Written<u32>>,
        /// Default: 1000.
        max: Option<Written<u32>>,
    }
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
    /// Copies of requests.
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
        /// With which status.
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
