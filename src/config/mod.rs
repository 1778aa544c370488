//! gateway.yaml to [`Config`].
//!
//! [`file`] is what a user may write, [`resolve`] what it means, [`problem`] how it is told what is
//! wrong with it, [`value`] the words for durations, sizes, rates. Nothing in the request path
//! imports this folder: it fills the plain `Settings` of the others.

use std::sync::Arc;

use crate::{
    admin, balancer, connection, listener,
    middleware::{
        action, body_limit, buffer, concurrency_limit, cors, edge, headers, ip_filter, timeout,
    },
    routing::Rule,
    telemetry,
};

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Worker threads; `None`: one per core the process may use.
    pub workers: Option<usize>,
    /// In the order of the file.
    pub listeners: Vec<Listener>,
    /// The operator's listener.
    pub admin: admin::Settings,
    /// What holds for every request.
    pub edge: edge::Settings,
    /// In the order of the file.
    pub upstreams: Vec<balancer::Settings>,
    /// In the order of the file.
    pub routes: Vec<Route>,
    /// Logs.
    pub telemetry: telemetry::Settings,
    /// The text it was read from, secrets still as references, hashed.
    pub hash: Arc<str>,
    /// What `GET /v1/config` shows: defaults filled in, secrets redacted.
    pub shown: Arc<serde_json::Value>,
}

/// A listener and how its connections are treated.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Sockets and TLS.
    pub socket: listener::Settings,
    /// Connections.
    pub connection: connection::Settings,
}

/// A route: its rule, and the settings of each layer in the order of the stack.
#[derive(Clone, Debug)]
pub struct Route {
    /// Which requests.
    pub rule: Rule,
    /// `merge_slashes`.
    pub merge_slashes: bool,
    /// `allow_ips`, `deny_ips`.
    pub ip_filter: Option<ip_filter::Settings>,
    /// `cors`.
    pub cors: Option<cors::Settings>,
    /// `limits`.
    pub body_limit: body_limit::Settings,
    /// `max_in_flight`.
    pub concurrency_limit: Option<concurrency_limit::Settings>,
    /// Whether the whole body is needed, and how much of it may be.
    pub buffer: buffer::Settings,
    /// What happens.
    pub action: action::Settings,
    /// Indexes into [`Config::upstreams`], as the weights of [`action::Settings::Forward`].
    pub upstreams: Vec<usize>,
    /// Header changes and rewrite.
    pub headers: headers::Settings,
    /// Deadlines.
    pub timeout: timeout::Settings,
}
