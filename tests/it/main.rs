//! The real gateway against real sockets: one file per behaviour.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test may panic, spawns on its own runtime, and shares its harness with all files"
)]

mod harness;

mod auth;
mod bodies;
mod config;
mod drain;
mod edge;
mod errors;
mod forwarding;
mod health;
mod program;
mod rate_limits;
mod reload;
mod routes;
mod slow_clients;
mod tls;
mod traces;
mod upgrades;
mod upstreams;
