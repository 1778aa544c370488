//! `issuers`, `api_keys` and `routes[].auth`: which credentials a client needs.

use std::time::Duration;

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;

use super::block;
use crate::config::{
    value::{DecisionUrl, KeySetUrl, Name, SecretReference, Text, words},
    written::{Placed, Written},
};

words! {
    /// When the keys of an issuer are needed.
    OnStart { "lazy" = Lazy, "require" = Require }
}

block! {
    /// An issuer of JWTs: which tokens are valid.
    Issuer {
        /// The exact `iss` of its tokens.
        issuer: Written<Text>,
        /// Audiences; `aud` of a token must contain one of them.
        audience: Placed<Vec<Written<Text>>>,
        /// Signature algorithms that are allowed, such as `RS256`. HS256, HS384 and HS512 cannot be
        /// combined with others.
        algorithms: Placed<Vec<Written<Text>>>,
        /// Where the keys come from: exactly one of `url`, `file`, `discover` and `secret`.
        jwks: Placed<Jwks>,
        /// How far the clocks of issuer and gateway may differ when `exp` and `nbf` are checked; at
        /// most 1h. Default: 60s.
        clock_skew: Option<Written<Duration>>,
        /// Claims that a token must have, in addition to `exp`. Default: `[exp, sub]`.
        require: Option<Vec<Written<Text>>>,
        /// For keys from the network. `lazy`: the gateway is ready before the first key set has
        /// arrived. `require`: `/readyz` fails until then. Default: lazy.
        on_start: Option<Written<OnStart>>,
    }
    /// Where the keys of an issuer come from: exactly one of these.
    Jwks {
        /// URL of a JWK set, which is fetched and refreshed in the background.
        url: Option<Written<KeySetUrl>>,
        /// File with a JWK set. The gateway reads it again when it changes.
        file: Option<Written<Text>>,
        /// `true`: the URL is taken from the OpenID configuration of `issuer`, which must be a URL.
        discover: Option<Written<bool>>,
        /// A shared secret for HS256, HS384 or HS512, as `env:NAME` or `file:PATH`; at least 32
        /// bytes are recommended.
        secret: Option<Written<SecretReference>>,
    }
    /// A set of API keys.
    ApiKeys {
        /// YAML file with a list of `{ id, sha256, scopes, expires }`. The gateway reads it again
        /// when it changes.
        file: Written<Text>,
        /// The request header that carries the key. Default: x-api-key.
        header: Option<Written<HeaderName>>,
    }
    /// One API key in the file of a set.
    ApiKeyEntry {
        /// Whose key it is; unique in the file.
        id: Written<Name>,
        /// The SHA-256 digest of the key, 64 hexadecimal digits.
        sha256: Written<Text>,
        /// Scopes of the key. Default: none.
        scopes: Option<Vec<Written<Text>>>,
        /// When the key expires: `2027-01-31` or `2027-01-31T12:00:00Z`. Default: never.
        expires: Option<Written<Text>>,
    }
    /// The credential that a client needs: exactly one of these.
    Auth {
        /// A JWT.
        jwt: Option<JwtAuth>,
        /// An API key.
        api_key: Option<ApiKeyAuth>,
        /// A client certificate. A listener must ask for it by `tls.client_auth`.
        mtls: Option<MtlsAuth>,
        /// Another service decides.
        forward: Option<ForwardAuth>,
        /// Several of these; a client needs one of them.
        any_of: Option<Vec<Placed<Auth>>>,
    }
    /// A JWT is needed.
    JwtAuth {
        /// Names under `issuers`; a token of any of them is accepted.
        issuers: Placed<Vec<Written<Name>>>,
        /// Scopes that the token must have, all of them. Default: none.
        scopes: Option<Vec<Written<Text>>>,
        /// Where the token is looked for: `header` (`Authorization: Bearer`), `cookie:NAME`,
        /// `query:NAME`. Default: `[header]`.
        from: Option<Vec<Written<Text>>>,
    }
    /// An API key is needed.
    ApiKeyAuth {
        /// Names under `api_keys`; a key of any of them is accepted.
        sets: Placed<Vec<Written<Name>>>,
        /// Scopes that the key must have, all of them. Default: none.
        scopes: Option<Vec<Written<Text>>>,
    }
    /// A client certificate is needed.
    MtlsAuth {
        /// Patterns for the SPIFFE ID, the subject alternative name or the subject of the
        /// certificate; one must match. `*` matches any characters.
        allow: Placed<Vec<Written<Text>>>,
    }
    /// Another service decides about each request.
    ForwardAuth {
        /// The URL of the service, which is asked with a GET. With 2xx the request is let through;
        /// with any other status the client gets that status.
        url: Written<DecisionUrl>,
        /// How long the service may take. Without an answer the request gets 503. Default: 2s.
        timeout: Option<Written<Duration>>,
        /// Request headers that the service gets, in addition to `X-Forwarded-*` and
        /// `X-Request-Id`. Default: none.
        request_headers: Option<Vec<Written<HeaderName>>>,
        /// Headers of the service's answer that the upstream gets. The client's own headers of
        /// these names are removed. Default: none.
        response_headers: Option<Vec<Written<HeaderName>>>,
    }
}
