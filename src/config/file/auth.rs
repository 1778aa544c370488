//! `issuers`, `api_keys` and `routes[].auth`: who may come, by which credential.

use std::time::Duration;

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;

use super::block;
use crate::config::{
    value::{HttpUrl, Name, SecretReference, Text, words},
    written::{Placed, Written},
};

words! {
    /// When an issuer's keys are fetched first.
    OnStart { "lazy" = Lazy, "require" = Require }
}

block! {
    /// Who signs JWTs.
    Issuer {
        /// The exact `iss`.
        issuer: Written<Text>,
        /// Any of these in `aud`.
        audience: Placed<Vec<Written<Text>>>,
        /// The allowed algorithms. HS* never mixes with others.
        algorithms: Placed<Vec<Written<Text>>>,
        /// Where its keys are.
        jwks: Placed<Jwks>,
        /// By how much clocks may differ. Default: 60s.
        clock_skew: Option<Written<Duration>>,
        /// Claims that must be there; `exp` always. Default: `[exp, sub]`.
        require: Option<Vec<Written<Text>>>,
        /// Whether readiness waits for the first key set. Default: lazy.
        on_start: Option<Written<OnStart>>,
    }
    /// Where keys are: one of these.
    Jwks {
        /// A key set, fetched and refreshed.
        url: Option<Written<HttpUrl>>,
        /// A key set in a file, which is watched.
        file: Option<Written<Text>>,
        /// `true`: where the OpenID configuration of `issuer` says, which must be a URL then.
        discover: Option<Written<bool>>,
        /// One secret, for HS*.
        secret: Option<Written<SecretReference>>,
    }
    /// A file of API keys.
    ApiKeys {
        /// It lists `{ id, sha256, scopes, expires }`, and is watched.
        file: Written<Text>,
        /// The field that carries the key. Default: x-api-key.
        header: Option<Written<HeaderName>>,
    }
    /// One key of such a file.
    ApiKeyEntry {
        /// Whose it is; unique in the file.
        id: Written<Name>,
        /// The SHA-256 digest of the key, in hexadecimal digits.
        sha256: Written<Text>,
        /// What it may. Default: nothing that needs a scope.
        scopes: Option<Vec<Written<Text>>>,
        /// From when on it is not valid any more: `2027-01-31`, `2027-01-31T12:00:00Z`.
        expires: Option<Written<Text>>,
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
        any_of: Option<Vec<Placed<Auth>>>,
    }
    /// By a JWT.
    JwtAuth {
        /// Names under `issuers`.
        issuers: Placed<Vec<Written<Name>>>,
        /// All of these.
        scopes: Option<Vec<Written<Text>>>,
        /// `header`, `cookie:NAME`, `query:NAME`. Default: `[header]`.
        from: Option<Vec<Written<Text>>>,
    }
    /// By an API key.
    ApiKeyAuth {
        /// Names under `api_keys`.
        sets: Placed<Vec<Written<Name>>>,
        /// All of these.
        scopes: Option<Vec<Written<Text>>>,
    }
    /// By a client certificate.
    MtlsAuth {
        /// Patterns for its SPIFFE ID, SAN or subject: `*` stands for any characters.
        allow: Placed<Vec<Written<Text>>>,
    }
    /// By another service.
    ForwardAuth {
        /// Who is asked, with a GET: 2xx lets the request through, any other status is its answer.
        url: Written<HttpUrl>,
        /// How long it may take; without an answer the request is refused. Default: 2s.
        timeout: Option<Written<Duration>>,
        /// Fields of the request that it gets, beside X-Forwarded-*. Default: none.
        request_headers: Option<Vec<Written<HeaderName>>>,
        /// Fields of its answer that the upstream gets instead of the client's own. Default: none.
        response_headers: Option<Vec<Written<HeaderName>>>,
    }
}
