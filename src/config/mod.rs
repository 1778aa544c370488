//! Reads gateway.yaml into a [`Config`].
//!
//! Three steps: the text becomes a [`tree`] (YAML, each node with its position), then a
//! [`file::File`] (shape; stops at the first mistake), then a [`Config`] (meaning; reports every
//! mistake).
//!
//! [`mod@file`] declares what a user may write, [`value`] parses durations, sizes and rates,
//! [`resolve`] checks references, ranges and rules, and [`problem`] formats what is wrong. To add a
//! key, start in [`mod@file`], then resolve it. The result fills the plain `Settings` types of the
//! other folders: nothing in the request path imports this one.

pub mod file;
pub mod parse;
pub mod problem;
pub mod resolve;
pub mod schema;
mod shown;
pub mod tree;
pub mod value;
pub mod written;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub use self::problem::{Problem, Problems};

use crate::{
    admin, balancer, connection, events,
    http::named_file,
    listener,
    middleware::{
        action, adaptive, auth, body_limit, buffer, concurrency_limit, cors, edge, fault, headers,
        idempotency, ip_filter, mirror, rate_limit, retry, timeout,
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
    pub rate_limits: Vec<rate_limit::Settings>,
    /// In the order of the file.
    pub issuers: Vec<auth::settings::Issuer>,
    /// In the order of the file.
    pub api_keys: Vec<auth::api_key::Settings>,
    /// In the order of the file, and then those that URLs stand for.
    pub upstreams: Vec<balancer::Settings>,
    /// So many of them are written under `upstreams`.
    pub written_upstreams: usize,
    /// What retries draw from, one for each of `upstreams`.
    pub retry_budgets: Vec<retry::budget::Settings>,
    /// `adaptive_concurrency`, in the order of [`Config::upstreams`].
    pub adaptive: Vec<Option<adaptive::Settings>>,
    /// In the order of the file.
    pub routes: Vec<Route>,
    /// `queue`, `topics`, `subscriptions`; `None`: there are neither topics nor routes with
    /// `idempotency`, and no store.
    pub events: Option<events::Settings>,
    /// `events_api`.
    pub events_api: Option<EventsApi>,
    /// Logs.
    pub telemetry: telemetry::Settings,
    /// The text it was read from, secrets still as references, hashed.
    pub hash: Arc<str>,
    /// What `GET /v1/config` shows: defaults filled in, secrets redacted.
    pub shown: Arc<serde_json::Value>,
}

/// A configuration, and what came with it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Valid.
    pub config: Config,
    /// What is odd about it, but does not keep it from running.
    pub warnings: Vec<Problem>,
    /// The files it was made from; a change of any of them asks for a reload.
    pub watched: Vec<PathBuf>,
}

/// How many bytes a body of the event endpoints may have: the largest event as JSON with its data in
/// base64, or a batch of small ones.
pub fn event_bytes(settings: Option<&events::Settings>) -> u64 {
    const LEAST: u64 = 8 * 1024 * 1024;
    const ATTRIBUTES: u64 = 256 * 1024;
    let topics = settings.into_iter().flat_map(|settings| &settings.topics);
    let largest = topics.map(|topic| topic.max_event_bytes / 3 * 4 + ATTRIBUTES).max();
    largest.unwrap_or(0).max(LEAST)
}

/// The name of the upstream that stands for the webhooks of one host and port, beside those under
/// `upstreams`.
pub fn push_upstream(url: &http::Uri) -> String {
    value::HttpUrl(url.clone()).upstream("push")
}

/// A listener and how its connections are treated.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Sockets and TLS.
    pub socket: listener::Settings,
    /// Connections.
    pub connection: connection::Settings,
}

/// The event endpoints' own listener.
#[derive(Clone, Debug)]
pub struct EventsApi {
    /// Where it listens, and how its connections are treated.
    pub listener: Listener,
    /// Who may come; `None`: whoever reaches the address.
    pub auth: Option<auth::Settings>,
    /// How slow a body may be.
    pub body_limit: body_limit::Settings,
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
    /// `rate_limit`: indexes into [`Config::rate_limits`].
    pub rate_limits: Vec<usize>,
    /// `auth`.
    pub auth: Option<auth::Settings>,
    /// `match.claims`, `claim_headers`.
    pub claims: auth::claims::Settings,
    /// Whether the whole body is needed, and how much of it may be.
    pub buffer: buffer::Settings,
    /// `idempotency`.
    pub idempotency: Option<idempotency::Settings>,
    /// `publish`.
    pub publish: Vec<events::publish::Settings>,
    /// `enqueue`, `spill`.
    pub enqueue: Option<events::enqueue::Settings>,
    /// What happens.
    pub action: action::Settings,
    /// Indexes into [`Config::upstreams`], as the weights of [`action::Settings::Forward`].
    pub upstreams: Vec<usize>,
    /// `mirror`.
    pub mirror: Option<Mirror>,
    /// `fault`.
    pub fault: Option<fault::Settings>,
    /// Header changes and rewrite.
    pub headers: headers::Settings,
    /// Deadlines.
    pub timeout: timeout::Settings,
    /// What is sent again; `None`: only what was not sent.
    pub retry: Option<retry::Settings>,
}

/// Where copies of a route's requests go.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// An index into [`Config::upstreams`].
    pub upstream: usize,
    /// How they are made.
    pub settings: mirror::Settings,
}

/// Reads gateway.yaml, the environment and the files it names.
///
/// Blocks on the file system. Relative paths start at the folder of `path`.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    let name = path.display().to_string();
    let failed = |reason: String| Problems(vec![Problem::of_file(&name, reason)]);
    let read = named_file::read(path);
    let bytes = read.map_err(|error| failed(format!("the file cannot be read: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| failed("the file is not UTF-8".to_owned()))?;
    let base = path.parent().unwrap_or(Path::new(""));
    let mut loaded = resolve::resolve(&text, &name, base, &|name| std::env::var(name).ok())?;
    loaded.watched.insert(0, path.to_owned());
    Ok(loaded)
}

/// The configuration in `text`, and warnings. `name` is the file's in messages, `base` the folder
/// where relative paths start, `env` the environment.
pub fn parse(
    text: &str,
    name: &str,
    base: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<(Config, Vec<Problem>), Problems> {
    resolve::resolve(text, name, base, env).map(|loaded| (loaded.config, loaded.warnings))
}

// === impl Loaded ===

impl Loaded {
    /// Tells the log what is odd, for whoever runs it: `sluice check` tells who writes it.
    pub fn log_warnings(&self) {
        for warning in &self.warnings {
            tracing::warn!("{warning:#}");
        }
    }
}
