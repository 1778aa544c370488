//! The one language for taking a value from a request.

use std::sync::Arc;

use http::HeaderName;

/// Where a value is taken from; a list joins several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(Box<[Part]>);

/// One place a value can come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// `client_ip`
    ClientIp,
    /// `header:NAME`
    Header(HeaderName),
    /// `cookie:NAME`
    Cookie(Box<str>),
    /// `query:NAME`
    Query(Box<str>),
    /// `path:NAME`, from the route's template.
    Path(Arc<str>),
    /// `claim:NAME`, dots go down.
    Claim(Box<str>),
    /// `host`
    Host,
    /// `method`
    Method,
    /// `json:/POINTER`, of the request body.
    Json(Box<str>),
    /// `response_header:NAME`
    ResponseHeader(HeaderName),
    /// `response_json:/POINTER`
    ResponseJson(Box<str>),
    /// `principal`
    Principal,
}

// === impl Selector ===

impl Selector {
    /// All of these, joined.
    pub fn new(parts: impl IntoIterator<Item = Part>) -> Self {
        Self(parts.into_iter().collect())
    }

    /// Its parts, in order.
    pub fn parts(&self) -> &[Part] {
        &self.0
    }
}
