//! The maximum number of open files: raised as far as the system allows.
//!
//! A login shell sets 1024, far below the 20,000 connections of a listener, and at the limit nobody
//! can connect any more, not even to probe `/livez`.

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::config::Config;

/// Raises the soft limit to the hard one, and warns if that is less than `config` needs.
pub(super) fn raise(config: &Config) {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit on open files cannot be raised");
            limit = getrlimit(Resource::Nofile);
        }
    }
    let wanted: usize = config.listeners.iter().map(|it| it.socket.max_connections).sum();
    if let Some(limit) = limit.current
        && limit < wanted as u64
    {
        tracing::warn!(
            limit,
            max_connections = wanted,
            "fewer files may be open than connections are allowed: raise the hard limit \
             (`ulimit -Hn`, `LimitNOFILE=`), twice as high for those to upstreams, or lower `max_connections`"
        );
    }
}
