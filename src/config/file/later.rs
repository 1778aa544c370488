//! Keys of traffic whose behaviour comes with later versions. They have their shape already, so
//! that the schema is stable; [`crate::config::resolve`] refuses each where it is written.

use std::time::Duration;

use http::{HeaderName, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::{block, word_or};
use crate::config::{
    value::{Name, Percent, SecretReference, Text, words},
    written::{Nothing, Placed, Shape, Written, expected},
};

words! {
    /// When an issuer's keys are fetched first.
    OnStart { "lazy" = Lazy, "require" = Require }
    /// What is done about a key whose outcome is unknown.
    OnUncertain { "hold" = Hold, "resend" = Resend }
}

block! {
    /// Who signs JWTs.
    Issuer {
        /// The exact `iss`.
        issuer: Written<Text>,
        /// Any of these in `aud`.
        audience: Vec<Written<Text>>,
        /// The allowed algorithms.
        algorithms: Vec<Written<Text>>,
        /// Where its keys are.
        jwks: Jwks,
        /// Default: 60s.
        clock_skew: Option<Written<Duration>>,
        /// Claims that must be there; `exp` always. Default: `[exp, sub]`.
        require: Option<Vec<Written<Text>>>,
        /// Whether readiness waits for the first key set. Default: lazy.
        on_start: Option<Written<OnStart>>,
    }
    /// Where keys are: one of these.
    Jwks {
        /// A key set, fetched.
        url: Option<Written<Text>>,
        /// A key set in a file.
        file: Option<Written<Text>>,
        /// By the issuer's OpenID configuration.
        discover: Option<Written<bool>>,
        /// One secret, for HS*.
        secret: Option<Written<SecretReference>>,
    }
    /// A file of API keys.
    ApiKeys {
        /// It lists `{ id, sha256, scopes, expires }`.
        file: Written<Text>,
        /// The field that carries the key.
        header: Option<Written<HeaderName>>,
    }
    /// A limit that follows latency.
    AdaptiveMap {
        /// Default: 20.
        initial: Option<Written<u32>>,
        /// Default: 5.
        min: Option<Written<u32>>,
        /// Default: 1000.
        max: Option<Written<u32>>,
    }
    /// Who may come: one of these.
    Auth {
        /// A JWT.
        jwt: Option<JwtAuth>,
        /// An API key.
        api_key: Option<ApiKeyAuth>,
        /// A client certificate.
        mtls: Option<MtlsAuth>,
        /// Another service decides.
        forward: Option<ForwardAuth>,
        /// Any of these.
        any_of: Option<Vec<Auth>>,
    }
    /// By a JWT.
    JwtAuth {
        /// Names under `issuers`.
        issuers: Vec<Written<Name>>,
        /// All of these.
        scopes: Option<Vec<Written<Text>>>,
        /// `header`, `cookie:NAME`, `query:NAME`. Default: `[header]`.
        from: Option<Vec<Written<Text>>>,
    }
    /// By an API key.
    ApiKeyAuth {
        /// Names under `api_keys`.
        sets: Vec<Written<Name>>,
        /// All of these.
        scopes: Option<Vec<Written<Text>>>,
    }
    /// By a client certificate.
    MtlsAuth {
        /// Patterns for its SPIFFE ID, SAN or subject.
        allow: Vec<Written<Text>>,
    }
    /// By another service.
    ForwardAuth {
        /// Who is asked.
        url: Written<Text>,
        /// Default: 2s.
        timeout: Option<Written<Duration>>,
        /// Fields it gets.
        request_headers: Option<Vec<Written<HeaderName>>>,
        /// Fields of its answer that go upstream.
        response_headers: Option<Vec<Written<HeaderName>>>,
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
