//! Sluice: a reverse-proxy API gateway with a durable event queue inside.

pub mod admin;
pub mod balancer;
pub mod cli;
pub mod config;
pub mod connection;
pub mod error;
pub mod http;
pub mod listener;
pub mod middleware;
pub mod routing;
pub mod telemetry;
pub mod upstream;
