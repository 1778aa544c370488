//! `request_headers`, `response_headers`, `rewrite`: what is changed on the way through.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

/// `request_headers` and `response_headers`, `rewrite`, `preserve_host`.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Applied before the request is sent.
    pub request: Changes,
    /// Applied before the response is passed back.
    pub response: Changes,
    /// The path (and query) sent upstream, instead of the client's.
    pub rewrite: Option<Template>,
    /// `Host` goes upstream as the client sent it, instead of the endpoint's own name.
    pub preserve_host: bool,
}

/// Removed first, then set, then added.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// These fields replace those of the same name.
    pub set: HeaderMap,
    /// These come beside those of the same name.
    pub add: HeaderMap,
    /// These go.
    pub remove: Vec<HeaderName>,
}

/// Text with placeholders: `{path}`, `{query}` and the names of the route's path template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(pub Vec<Part>);

/// A piece of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// As it stands.
    Text(Box<str>),
    /// `{path}`: the normalised path, with its leading slash.
    Path,
    /// `{query}`: the query without its `?`; empty without one.
    Query,
    /// `{name}` of the path template.
    Param(Arc<str>),
}
