//! The tower layers between routing and the upstreams, one file each.

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
