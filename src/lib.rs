//! Sluice: a reverse-proxy API gateway with a durable event queue inside, configured in one YAML
//! file.
//!
//! The folders of this crate are the path of a request, in order:
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
//!    |                           > fault > mirror > headers > timeout > retry > timeout > adaptive
//!  balancer      a group of endpoints -> one of them
//!    |
//!  upstream      a pooled connection; re-framing, upgrades
//!    |
//!  service
//! ```
//!
//! And the path of an event, from whoever publishes it to whoever takes it:
//!
//! ```text
//!  publisher, or a request of a route with `publish`
//!    |
//!  events::api        CloudEvents over HTTP: admin listener, `events_api`
//!  events::publish    events of requests; events::ingress has their records until they are settled
//!    |
//!  events::store      topics and subscriptions by name; what is open, and for how long
//!    |
//!  events::queue      storage > codec > log > topic: one log per topic, synced before it answers
//!    |
//!  events::delivery   leases, attempts, order by key, dead letters, replay
//!    |
//!  consumer
//! ```
//!
//! `error` says what can go wrong and how the client hears of it; `http` and `telemetry` are the
//! vocabulary of all of them. `config` turns gateway.yaml into the plain `Settings` of these folders
//! and is known to none of them. `gateway` puts everything together: one snapshot per worker
//! thread, replaced as a whole on reload. `admin` shows it to the operator, `cli` to the shell.

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

pub mod telemetry;

pub mod config;

pub mod gateway;

pub mod cli;
