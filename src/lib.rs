//! Sluice: a reverse-proxy API gateway with a durable event queue inside, configured in one YAML
//! file.
//!
//! A request passes the folders of this crate from top to bottom:
//!
//! ```text
//!  client
//!    |
//!  listener      accept, connection limit, PROXY protocol, TLS
//!    |
//!  connection    HTTP/1.1 or HTTP/2, slow clients, drain
//!    |
//!  middleware    every request:  request_id > access_log > catch_panic > respond > edge
//!    |
//!  routing       host, path, method, headers, query -> route
//!    |
//!  middleware    each route:     ip_filter > cors > body_limit > concurrency_limit > rate_limit
//!    |                           > auth > rate_limit > buffer > idempotency > publish > action
//!    |                           > fault > mirror > headers > enqueue > timeout > retry > timeout
//!    |                           > adaptive
//!  balancer      a group of endpoints -> one of them
//!    |
//!  upstream      a pooled connection; re-framing, upgrades
//!    |
//!  service
//! ```
//!
//! An event goes from its publisher to its consumer:
//!
//! ```text
//!  publisher, or a request of a route with `publish` or `enqueue`
//!    |
//!  events::api        CloudEvents over HTTP: admin listener, `events_api`
//!  events::publish    events of requests; events::enqueue stores requests instead of sending them;
//!    |                events::ingress keeps the records of both until they are settled
//!    |
//!  events::store      topics and subscriptions by name; opens, reloads and closes their logs
//!    |
//!  events::queue      storage > codec > log > topic: one log per topic, synced before it answers
//!    |
//!  events::delivery   leases, attempts, order by key, dead letters, replay
//!    |
//!  consumer
//! ```
//!
//! The other folders serve these two flows. `http`, `error`, `net` and `telemetry` are the shared
//! vocabulary: request and response types, failures, sockets, and observability. `config` turns gateway.yaml
//! into the plain `Settings` of each folder; none of the folders above imports it. `gateway`
//! assembles everything: it builds one snapshot per worker thread, and a reload replaces it as a
//! whole. `admin` is the operator's HTTP API, `cli` the command line.
//!
//! Where to start: `middleware::stack` fixes the order of the layers, `error::Kind` lists every way
//! a request can fail, `events::queue` specifies the format on disk.

pub mod listener;

pub mod connection;

pub mod routing;

pub mod middleware;

pub mod balancer;

pub mod upstream;

pub mod events;

pub mod admin;

pub mod error;

pub mod http;

pub mod net;

pub mod telemetry;

pub mod config;

pub mod gateway;

pub mod cli;
