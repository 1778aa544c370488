//! The tower layers between routing and the upstreams, one file each.
//!
//! [`stack`] fixes their order and says why; a file's header says which requests it touches, what
//! it answers when it refuses, and what it costs. Every layer is present on every route, with
//! nothing inside when the route does not use it, so all routes have one stack type.
//!
//! To add a layer: write its file, give it a line in [`stack`], and fill its settings in
//! `gateway::build`. Below [`respond`] a layer fails with an `Error`; only `error::response` makes
//! a response of it.

pub mod access_log;
pub mod action;
pub mod adaptive;
pub mod auth;
pub mod body_limit;
pub mod buffer;
pub mod catch_panic;
pub mod concurrency_limit;
pub mod cors;
pub mod edge;
pub mod fault;
pub mod headers;
pub mod idempotency;
pub mod ip_filter;
pub mod mirror;
pub mod on_heap;
pub mod rate_limit;
pub mod request_id;
pub mod respond;
pub mod retry;
pub mod stack;
pub mod template;
pub mod timeout;

#[cfg(test)]
mod testing;
