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
    let wanted = wanted(config);
    if let Some(limit) = limit.current
        && limit < wanted
    {
        tracing::warn!(
            limit,
            wanted,
            "fewer files may be open than connections are allowed, to clients and to upstreams: \
             raise the hard limit (`ulimit -Hn`, `LimitNOFILE=`) or lower `max_connections`"
        );
    }
}

/// A socket for each client that may be connected, and one to an upstream for each of those that
/// may need it. What the process has open beside them are some dozen files; the further requests of
/// an HTTP/2 client are bounded by `max_in_flight`.
fn wanted(config: &Config) -> u64 {
    let clients = config.listeners.iter().map(|it| it.socket.max_connections);
    let clients = clients.fold(0, usize::saturating_add);
    let answered_here =
        config.events_api.as_ref().map_or(0, |it| it.listener.socket.max_connections);
    let sides = if config.upstreams.is_empty() { 1 } else { 2 };
    clients.saturating_mul(sides).saturating_add(answered_here) as u64
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn wanted_by(rest: &str) -> u64 {
        let listeners = "listeners: [{ name: a, address: \"127.0.0.1:0\", max_connections: 1000 }, \
                                     { name: b, address: \"127.0.0.1:0\", max_connections: 500 }]";
        let text = format!("{listeners}\n{rest}");
        let loaded = crate::config::parse(&text, "gateway.yaml", Path::new("."), &|_| None);
        wanted(&loaded.unwrap().0)
    }

    #[test]
    fn each_connection_of_a_client_may_need_one_to_an_upstream() {
        let routes = "routes: [{ name: a, respond: { body: a } }]";
        assert_eq!(wanted_by(routes), 1500);
        let routes = "upstreams: { u: { endpoints: [\"127.0.0.1:1\"] } }\nroutes: [{ name: a, upstream: u }]";
        assert_eq!(wanted_by(routes), 3000);
    }

    #[test]
    fn the_events_api_has_connections_of_its_own_and_no_upstream() {
        let queue = "topics: { t: {} }\nevents_api: { address: \"127.0.0.1:0\" }";
        assert_eq!(wanted_by(queue), 1500 + 20_000);
    }
}
