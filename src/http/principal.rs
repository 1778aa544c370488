//! Who a request comes from, once a credential of it has been verified.

use serde_json::Value;

/// Somebody who was authenticated. Shared by the requests of one worker, never between workers.
#[derive(Debug)]
pub struct Principal {
    /// `<issuer name>:<sub>` for a JWT, `<set>:<id>` for an API key; for a client certificate its
    /// SPIFFE ID, else SAN, else subject. Empty when the credential names nobody.
    pub name: Box<str>,
    /// The claims of the verified token; `Null` for a credential that has none.
    pub claims: Value,
    /// What it may, where a list of it is kept beside the credential; a token has it in its claims.
    pub scopes: Option<Box<[Box<str>]>>,
}

// === impl Principal ===

impl Principal {
    /// Somebody of this name without claims.
    pub fn named(name: impl Into<Box<str>>) -> Self {
        Self { name: name.into(), claims: Value::Null, scopes: None }
    }
}
