//! `limits`: bytes, idle times, ages.

use std::time::Duration;

use super::Resolver;
use crate::{
    config::{
        file::{self, route::RouteLimits},
        value::ByteSize,
        written::Written,
    },
    connection,
    middleware::body_limit,
};

/// `limits`, as it holds where a listener or a route says nothing.
pub(super) struct Limits {
    pub(super) connection: connection::Settings,
    pub(super) handshake_timeout: Duration,
    pub(super) body: body_limit::Settings,
    pub(super) buffer_bytes: u64,
}

/// hyper reads no head into less.
const MIN_HEADER_BYTES: u64 = 8 * 1024;
/// Every connection may cost as much.
const MAX_HEADER_BYTES: u64 = 1024 * 1024;
/// All of it is in memory for each request that waits.
const MAX_BUFFER_BYTES: u64 = 1024 * 1024 * 1024;
const DEFAULT_BUFFER_BYTES: u64 = 1024 * 1024;
const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

impl Resolver<'_> {
    pub(super) fn limits(&mut self, written: &file::Limits) -> Limits {
        let own = connection::Settings::default();
        let header_bytes = self.in_range(
            written.header_bytes.as_ref(),
            ByteSize(own.header_bytes as u64),
            ByteSize(MIN_HEADER_BYTES)..=ByteSize(MAX_HEADER_BYTES),
            |_| "from 8KiB to 1MiB".to_owned(),
        );
        let connection = connection::Settings {
            header_bytes: usize::try_from(header_bytes.0).unwrap_or(own.header_bytes),
            header_timeout: self.positive(written.header_timeout.as_ref(), own.header_timeout),
            send_idle_timeout: self
                .positive(written.send_idle_timeout.as_ref(), own.send_idle_timeout),
            keepalive_timeout: self
                .positive(written.keepalive_timeout.as_ref(), own.keepalive_timeout),
            requests_per_connection: self.in_range(
                written.requests_per_connection.as_ref(),
                own.requests_per_connection,
                1..=u64::MAX,
                |least| format!("at least {least}"),
            ),
            connection_max_age: self
                .positive(written.connection_max_age.as_ref(), own.connection_max_age),
            ..own
        };
        let own = body_limit::Settings::default();
        let body = body_limit::Settings {
            bytes: self.or(written.body_bytes.as_ref(), ByteSize(own.bytes)).0,
            idle_timeout: self.positive(written.body_idle_timeout.as_ref(), own.idle_timeout),
            min_rate: self.or(written.body_min_rate.as_ref(), own.min_rate),
            ..own
        };
        let handshake = written.handshake_timeout.as_ref();
        Limits {
            connection,
            handshake_timeout: self.positive(handshake, DEFAULT_HANDSHAKE_TIMEOUT),
            body,
            buffer_bytes: self.buffer_bytes(written.buffer_bytes.as_ref(), DEFAULT_BUFFER_BYTES),
        }
    }

    /// The limits of a route's own, and how much it may hold in memory.
    pub(super) fn route_limits(
        &mut self,
        written: Option<&RouteLimits>,
        limits: &Limits,
    ) -> (body_limit::Settings, u64) {
        let Some(written) = written else {
            return (limits.body.clone(), limits.buffer_bytes);
        };
        let all = &limits.body;
        let body = body_limit::Settings {
            bytes: self.or(written.body_bytes.as_ref(), ByteSize(all.bytes)).0,
            idle_timeout: self.positive(written.body_idle_timeout.as_ref(), all.idle_timeout),
            min_rate: self.or(written.body_min_rate.as_ref(), all.min_rate),
            min_rate_grace: all.min_rate_grace,
        };
        (body, self.buffer_bytes(written.buffer_bytes.as_ref(), limits.buffer_bytes))
    }

    fn buffer_bytes(&mut self, written: Option<&Written<ByteSize>>, default: u64) -> u64 {
        let range = ByteSize(0)..=ByteSize(MAX_BUFFER_BYTES);
        self.in_range(written, ByteSize(default), range, |_| "at most 1GiB".to_owned()).0
    }
}
