//! Who sent a request, once its credential is verified.

use serde_json::Value;

/// An authenticated client. Shared by the requests of one worker, never between workers.
#[derive(Debug)]
pub struct Principal {
    /// `<issuer name>:<sub>` for a JWT, `<set>:<id>` for an API key; for a client certificate its
    /// SPIFFE ID, else SAN, else subject. Empty if the credential names nobody.
    pub name: Box<str>,
    /// The claims of the verified token; `Null` if the credential has none.
    pub claims: Value,
    /// Its scopes, if they are listed beside the credential; a token has them in its claims.
    pub scopes: Option<Box<[Box<str>]>>,
}

// === impl Principal ===

impl Principal {
    /// A principal with this name and no claims.
    pub fn named(name: impl Into<Box<str>>) -> Self {
        Self { name: name.into(), claims: Value::Null, scopes: None }
    }
}
