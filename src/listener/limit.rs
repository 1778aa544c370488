//! How many connections may be open: per listener over all workers, and per client address.
//!
//! At the listener's limit the worker's oldest idle connection makes room; if none is idle, the new
//! one is closed. The map of addresses holds only addresses with an open connection, so the
//! listener's limit bounds it. Costs one atomic per connection, plus one lock if there is a limit
//! per address; nothing per request.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::listener::{
    Settings,
    outcomes::{Open, Outcomes},
};

/// The limits of one listener. Clones, and what [`Limits::changed`] makes, share the counts.
#[derive(Clone, Debug)]
pub struct Limits {
    max: usize,
    max_per_ip: usize,
    counts: Arc<Counts>,
}

/// Permission for one connection to be open, until it is dropped. Lives in its
/// [`Stream`](crate::listener::Stream), and so in a tunnel too.
#[derive(Debug)]
pub struct Permit {
    limits: Limits,
    ip: Option<IpAddr>,
    _open: Open,
}

#[derive(Debug, Default)]
struct Counts {
    open: AtomicUsize,
    per_ip: Mutex<HashMap<IpAddr, usize, RandomState>>,
}

// === impl Limits ===

impl Limits {
    /// The limits of a new listener.
    pub fn new(settings: &Settings) -> Self {
        Self {
            max: settings.max_connections,
            max_per_ip: settings.max_connections_per_ip,
            counts: Arc::default(),
        }
    }

    /// The same listener under changed settings: open connections stay counted.
    #[must_use]
    pub fn changed(&self, settings: &Settings) -> Self {
        Self { counts: self.counts.clone(), ..Self::new(settings) }
    }

    /// Connections open now, over all workers.
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::Relaxed)
    }

    /// Admits one more connection, or returns `None`: then it has to be closed.
    ///
    /// At the limit, `shed` closes this worker's oldest idle connection and returns whether there
    /// was one. The new connection is then admitted at once, so the limit is exceeded by one until
    /// the old one has closed.
    pub fn admit(&self, outcomes: &Outcomes, shed: impl FnOnce() -> bool) -> Option<Permit> {
        // Relaxed: orders nothing else. Count first, then judge: two that race for the last place
        // cannot both get it.
        let before = self.counts.open.fetch_add(1, Ordering::Relaxed);
        let permit = Permit { limits: self.clone(), ip: None, _open: outcomes.enter() };
        if before < self.max {
            return Some(permit);
        }
        if shed() {
            outcomes.shed.add(1);
            return Some(permit);
        }
        outcomes.limit.add(1);
        None
    }
}

// === impl Permit ===

impl Permit {
    /// Counts the connection for its client's address. `false`: the address is at its limit; close
    /// it.
    pub(super) fn claim(&mut self, ip: IpAddr) -> bool {
        let max = self.limits.max_per_ip;
        if max == 0 {
            return true;
        }
        let key = network(ip);
        let mut per_ip = self.limits.counts.per_ip.lock();
        let open = per_ip.entry(key).or_default();
        if *open >= max {
            return false;
        }
        *open += 1;
        self.ip = Some(key);
        true
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let counts = &self.limits.counts;
        counts.open.fetch_sub(1, Ordering::Relaxed);
        let Some(ip) = self.ip else { return };
        let mut per_ip = counts.per_ip.lock();
        if let Some(open) = per_ip.get_mut(&ip) {
            *open -= 1;
            if *open == 0 {
                per_ip.remove(&ip);
            }
        }
    }
}

/// What counts as one client: an IPv4 address, or the /64 of an IPv6 address, all of which one
/// client holds.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (!0 << 64))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        http::Cidrs,
        listener::{BindAddress, ProxyProtocol},
        telemetry::metrics::Metrics,
    };

    fn limits(max: usize, max_per_ip: usize) -> (Limits, Outcomes, Metrics) {
        let metrics = Metrics::new();
        (Limits::new(&settings(max, max_per_ip)), Outcomes::new(&metrics.thread(), "web"), metrics)
    }

    fn settings(max_connections: usize, max_connections_per_ip: usize) -> Settings {
        Settings {
            name: "web".into(),
            address: BindAddress::Inet("127.0.0.1:0".parse().unwrap()),
            h1: true,
            h2: true,
            proxy_protocol: ProxyProtocol::Off,
            tls: None,
            max_connections,
            max_connections_per_ip,
            trusted_proxies: Cidrs::default(),
            handshake_timeout: Duration::from_secs(10),
        }
    }

    #[test]
    fn at_the_limit_the_oldest_idle_connection_makes_room() {
        let (limits, outcomes, _metrics) = limits(1, 0);
        let _first = limits.admit(&outcomes, || panic!("below the limit")).unwrap();
        let second = limits.admit(&outcomes, || true);
        assert!(second.is_some());
        assert_eq!((outcomes.shed.get(), outcomes.limit.get()), (1, 0));
    }

    #[test]
    fn at_the_limit_without_an_idle_connection_the_new_one_is_closed() {
        let (limits, outcomes, metrics) = limits(2, 0);
        let first = limits.admit(&outcomes, || false).unwrap();
        let _second = limits.admit(&outcomes, || false).unwrap();
        assert!(limits.admit(&outcomes, || false).is_none());
        assert_eq!(outcomes.limit.get(), 1);
        assert_eq!(limits.open(), 2);
        assert!(metrics.render().contains("sluice_connections_open{listener=\"web\"} 2\n"));
        drop(first);
        assert!(limits.admit(&outcomes, || false).is_some());
    }

    #[test]
    fn an_address_has_its_own_limit_and_ipv6_counts_by_64() {
        let (limits, outcomes, _metrics) = limits(100, 1);
        let mut permits: Vec<_> =
            (0..5).map(|_| limits.admit(&outcomes, || false).unwrap()).collect();
        assert!(permits[0].claim("192.0.2.1".parse().unwrap()));
        assert!(!permits[1].claim("::ffff:192.0.2.1".parse().unwrap()));
        assert!(permits[2].claim("2001:db8::1".parse().unwrap()));
        assert!(!permits[3].claim("2001:db8::2:3".parse().unwrap()));
        assert!(permits[4].claim("2001:db8:0:1::1".parse().unwrap()));
        permits.remove(0);
        assert!(permits[0].claim("192.0.2.1".parse().unwrap()));
        drop(permits);
        assert!(limits.counts.per_ip.lock().is_empty(), "only addresses with open connections");
    }

    #[test]
    fn a_reload_keeps_the_count_and_changes_the_limit() {
        let (limits, outcomes, _metrics) = limits(1, 0);
        let _first = limits.admit(&outcomes, || false).unwrap();
        let limits = limits.changed(&settings(2, 0));
        assert_eq!(limits.open(), 1);
        let _second = limits.admit(&outcomes, || false).unwrap();
        assert!(limits.admit(&outcomes, || false).is_none());
    }
}
