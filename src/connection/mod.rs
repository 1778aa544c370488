//! Turns an accepted stream into requests.
//!
//! [`fn@serve`] runs one connection: `sniff` detects the protocol from the first bytes, hyper parses
//! HTTP/1 (`h1`) or HTTP/2 (`streams`), and `requests` converts between hyper's types and ours.
//! hyper reads and writes through the counting wrapper in `io`; from its counts `timer` enforces
//! every timeout of the connection with a single `Sleep`. `drain` tracks the open connections of a
//! worker so that they can be closed gracefully, and `linger` closes a stream so that the client
//! can still read an early answer.
//!
//! What every timeout means is in [`Settings`].

mod drain;
mod h1;
mod io;
mod linger;
mod outcomes;
mod requests;
mod serve;
mod sniff;
mod state;
mod streams;
mod telling;
mod timer;
mod unread;

pub use self::{
    drain::Connections,
    outcomes::Outcomes,
    serve::{Handle, Protocol, Transport, serve},
};

use std::time::Duration;

/// What of `limits` concerns a connection.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The request head, all fields together, bytes.
    pub header_bytes: usize,
    /// From the first byte of a head to its end.
    pub header_timeout: Duration,
    /// How long a write may stay pending; h2: how long a response body may go unpolled.
    pub send_idle_timeout: Duration,
    /// Until the first byte of the next request.
    pub keepalive_timeout: Duration,
    /// After so long between two requests an h1 connection gives its buffers back.
    pub park_after: Duration,
    /// After so many requests (jittered by 10 %) the connection is closed in an orderly way.
    pub requests_per_connection: u64,
    /// After so long (jittered by 10 %) likewise.
    pub connection_max_age: Duration,
    /// h2: concurrent streams.
    pub max_streams: u32,
    /// h2: resets in [`Settings::reset_window`] after which the connection is closed.
    pub max_resets: u32,
    /// h2: the span [`Settings::max_resets`] is counted over.
    pub reset_window: Duration,
    /// What is discarded of an unread body after an early answer: at most so many bytes,
    pub discard_bytes: u64,
    /// and for so long.
    pub discard_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            header_bytes: 32 * 1024,
            header_timeout: Duration::from_secs(10),
            send_idle_timeout: Duration::from_mins(1),
            keepalive_timeout: Duration::from_secs(75),
            park_after: Duration::from_secs(1),
            requests_per_connection: 10_000,
            connection_max_age: Duration::from_hours(1),
            max_streams: 100,
            max_resets: 100,
            reset_window: Duration::from_secs(10),
            discard_bytes: 1024 * 1024,
            discard_timeout: Duration::from_secs(5),
        }
    }
}
