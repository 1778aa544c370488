//! The real gateway against real sockets: one file per behaviour.

mod harness;

mod bodies;
mod config;
mod drain;
mod edge;
mod errors;
mod forwarding;
mod program;
mod reload;
mod routes;
mod slow_clients;
mod tls;
mod upgrades;
mod upstreams;
