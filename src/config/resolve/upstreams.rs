//! `upstreams`.

use std::{sync::Arc, time::Duration};

use super::{Resolver, health};
use crate::{
    balancer::{self, Policy, Source, SourceAddress},
    config::{
        file::{
            Upstream,
            upstream::{Balance, BalanceWord, Endpoint, Pool, UpstreamTls},
        },
        push_upstream,
        value::{Fault, HttpUrl, Name, Percent, Value as _, did_you_mean, selector_part},
        written::{Entries, OneOrMany, Place, Placed, Written},
    },
    http::selector::{self, Selector},
    middleware::retry::budget,
    upstream::{self, Protocol},
};

/// All upstreams, while routes look them up.
pub(super) struct Upstreams {
    entries: Vec<Entry>,
    /// How long a write to any of them may stay pending.
    send_idle_timeout: Duration,
}

struct Entry {
    name: String,
    place: Place,
    is_used: bool,
    settings: balancer::Settings,
    retry_budget: budget::Settings,
}

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const DEFAULT_MAX_IDLE: usize = 128;
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(55);
const DEFAULT_RESPONSE_IDLE_TIMEOUT: Duration = Duration::from_mins(1);
const DEFAULT_MAX_IN_FLIGHT: usize = 1024;
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_mins(1);
const PROBE_IDLE_AFTER: Duration = Duration::from_secs(1);
const MAX_H2_CONNECTIONS: usize = 4;
/// Sums of weights stay far from overflow.
pub(super) const MAX_WEIGHT: u32 = 1_000_000;

// === impl Upstreams ===

impl Upstreams {
    /// How many there are by now.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The index of the upstream of this name, which is used from now on.
    pub(super) fn use_named(&mut self, name: &str) -> Result<usize, Fault> {
        if let Some(index) = self.entries.iter().position(|entry| entry.name == name) {
            self.entries[index].is_used = true;
            return Ok(index);
        }
        let help = did_you_mean(name, self.entries.iter().map(|entry| entry.name.as_str()));
        Err(Fault { message: format!("no upstream named `{name}`"), help })
    }

    /// What retries draw from, in the order of the file.
    pub(super) fn retry_budgets(&self) -> Vec<budget::Settings> {
        self.entries.iter().map(|entry| entry.retry_budget).collect()
    }

    /// The index of the upstream that stands for the service at `url` which decides about requests: one
    /// for each scheme, host and port, with every default.
    pub(super) fn service(&mut self, url: &HttpUrl, place: Place) -> Result<usize, Fault> {
        self.implied(url, place, url.upstream("auth"), DEFAULT_MAX_IN_FLIGHT)
    }

    /// As [`Upstreams::service`], for the receiver of what is pushed. How much goes there at once its
    /// subscriptions say.
    pub(super) fn webhook(&mut self, url: &HttpUrl, place: Place) -> Result<usize, Fault> {
        self.implied(url, place, push_upstream(&url.0), usize::MAX)
    }

    fn implied(
        &mut self,
        url: &HttpUrl,
        place: Place,
        name: String,
        max_in_flight: usize,
    ) -> Result<usize, Fault> {
        if let Some(index) = self.entries.iter().position(|entry| entry.name == name) {
            return Ok(index);
        }
        let source =
            Source { address: SourceAddress::parse(&url.address())?, weight: 1, priority: 0 };
        let tls = upstream::TlsSettings { server_name: None, ca: None, client: None };
        let service = self.defaults(name.as_str().into(), source, url.is_https().then_some(tls));
        let settings = balancer::Settings { max_in_flight, ..service };
        let retry_budget = budget::Settings::default();
        self.entries.push(Entry { name, place, is_used: true, settings, retry_budget });
        Ok(self.entries.len() - 1)
    }

    /// Whether the choice of an endpoint reads the request body.
    pub(super) fn reads_body(&self, index: usize) -> bool {
        let policy = self.entries.get(index).map(|entry| &entry.settings.policy);
        let Some(Policy::Hash(selector)) = policy else { return false };
        selector.parts().iter().any(|part| matches!(part, selector::Part::Json(_)))
    }

    /// An upstream of one source with every default.
    fn defaults(
        &self,
        name: Arc<str>,
        source: Source,
        tls: Option<upstream::TlsSettings>,
    ) -> balancer::Settings {
        let transport = upstream::Settings {
            name: Arc::clone(&name),
            protocol: Protocol::H1,
            tls,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            max_idle: DEFAULT_MAX_IDLE,
            idle_timeout: DEFAULT_IDLE_TIMEOUT,
            response_idle_timeout: DEFAULT_RESPONSE_IDLE_TIMEOUT,
            send_idle_timeout: self.send_idle_timeout,
            half_close_timeout: HALF_CLOSE_TIMEOUT,
            probe_idle_after: PROBE_IDLE_AFTER,
            max_h2_connections: MAX_H2_CONNECTIONS,
        };
        balancer::Settings {
            name,
            sources: vec![source],
            policy: Policy::P2cEwma,
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
            health_check: None,
            outlier: balancer::outlier::Settings::default(),
            breaker: None,
            panic_threshold: health::DEFAULT_PANIC_THRESHOLD,
            slow_start: health::DEFAULT_SLOW_START,
            transport,
        }
    }
}

// === impl Resolver ===

impl Resolver<'_> {
    pub(super) fn upstreams(
        &mut self,
        written: Option<&Entries<Name, Placed<Upstream>>>,
        send_idle_timeout: Duration,
    ) -> Upstreams {
        let mut upstreams = Upstreams { entries: Vec::new(), send_idle_timeout };
        for (name, upstream) in written.into_iter().flat_map(Entries::iter) {
            let settings = self.upstream(name, &upstream.value, send_idle_timeout);
            let retry_budget = self.retry_budget(upstream.value.retry_budget.as_ref());
            upstreams.entries.push(Entry {
                name: name.text.clone(),
                place: upstream.place,
                is_used: false,
                settings,
                retry_budget,
            });
        }
        upstreams
    }

    /// Says which are not used by any route, and gives the settings of all.
    pub(super) fn warn_unused(&mut self, upstreams: Upstreams) -> Vec<balancer::Settings> {
        let has_routes = upstreams.entries.iter().any(|entry| entry.is_used);
        for entry in upstreams.entries.iter().filter(|entry| has_routes && !entry.is_used) {
            self.warn(entry.place, Fault::new("no route uses this upstream"));
        }
        upstreams.entries.into_iter().map(|entry| entry.settings).collect()
    }

    fn upstream(
        &mut self,
        name: &Written<Name>,
        written: &Upstream,
        send_idle_timeout: Duration,
    ) -> balancer::Settings {
        let name = self.value(name).map_or_else(|| Arc::from(""), |name| name.0);
        if written.endpoints.value.is_empty() {
            self.error(
                written.endpoints.place,
                Fault::new("the list is empty").help("an upstream needs at least one endpoint"),
            );
        }
        let sources: Vec<Source> =
            written.endpoints.value.iter().filter_map(|endpoint| self.source(endpoint)).collect();
        let no_pool = Pool::default();
        let pool = written.pool.as_ref().unwrap_or(&no_pool);
        let transport = upstream::Settings {
            name: Arc::clone(&name),
            protocol: self.or(written.protocol.as_ref(), Protocol::H1),
            tls: written.tls.as_ref().map(|tls| self.upstream_tls(tls)),
            connect_timeout: self
                .positive(written.connect_timeout.as_ref(), DEFAULT_CONNECT_TIMEOUT),
            max_idle: self.or(pool.max_idle.as_ref(), DEFAULT_MAX_IDLE),
            idle_timeout: self.positive(pool.idle_timeout.as_ref(), DEFAULT_IDLE_TIMEOUT),
            response_idle_timeout: self
                .positive(written.response_idle_timeout.as_ref(), DEFAULT_RESPONSE_IDLE_TIMEOUT),
            send_idle_timeout,
            half_close_timeout: HALF_CLOSE_TIMEOUT,
            probe_idle_after: PROBE_IDLE_AFTER,
            max_h2_connections: MAX_H2_CONNECTIONS,
        };
        let policy = self.policy(written.balance.as_ref());
        self.warn_idle(written, &policy, &sources);
        let health_check = written.health_check.as_ref();
        let threshold = Percent(health::DEFAULT_PANIC_THRESHOLD);
        balancer::Settings {
            name,
            sources,
            policy,
            max_in_flight: self.count(written.max_in_flight.as_ref(), DEFAULT_MAX_IN_FLIGHT),
            health_check: health_check.map(|check| self.health_check(check, &transport)),
            outlier: self.outlier(written.outlier.as_ref().map(|outlier| &outlier.value)),
            breaker: written.breaker.as_ref().map(|breaker| self.breaker(breaker)),
            panic_threshold: self.or(written.panic_threshold.as_ref(), threshold).0,
            slow_start: self.or(written.slow_start.as_ref(), health::DEFAULT_SLOW_START),
            transport,
        }
    }

    fn source(&mut self, written: &Placed<Endpoint>) -> Option<Source> {
        let Endpoint { address, weight, priority } = &written.value;
        let address: Option<SourceAddress> = self.followed(address);
        let weight = self
            .in_range(weight.as_ref(), 1, 1..=MAX_WEIGHT, |_| format!("from 1 to {MAX_WEIGHT}"));
        let priority = self.or(priority.as_ref(), 0);
        Some(Source { address: address?, weight, priority })
    }

    fn upstream_tls(&mut self, written: &UpstreamTls) -> upstream::TlsSettings {
        let client = match (&written.client_cert, &written.client_key) {
            (Some(cert), Some(key)) => Some(self.identity(cert, key)),
            (None, None) => None,
            (Some(one), None) => {
                self.error(one.place, Fault::new("`client_cert` needs `client_key`"));
                None
            }
            (None, Some(one)) => {
                self.error(one.place, Fault::new("`client_key` needs `client_cert`"));
                None
            }
        };
        upstream::TlsSettings {
            server_name: written.server_name.as_ref().and_then(|name| self.value(name)),
            ca: written.ca.as_ref().map(|ca| self.certificates(ca)),
            client,
        }
    }

    fn policy(&mut self, written: Option<&Balance>) -> Policy {
        match written {
            None => Policy::P2cEwma,
            Some(Balance::Word(word)) => match self.or(Some(word), BalanceWord::P2cEwma) {
                BalanceWord::P2cEwma => Policy::P2cEwma,
                BalanceWord::LeastRequest => Policy::LeastRequest,
                BalanceWord::RoundRobin => Policy::RoundRobin,
            },
            Some(Balance::Hash(parts)) => {
                let parts: Vec<_> =
                    OneOrMany::iter(parts).filter_map(|part| self.hash_part(part)).collect();
                Policy::Hash(Selector::new(parts))
            }
        }
    }

    fn hash_part<T>(&mut self, written: &Written<T>) -> Option<selector::Part> {
        use selector::Part;

        let part = self.checked(written.place, selector_part(&written.text))?;
        let fault = match part {
            Part::ResponseHeader(_) | Part::ResponseJson(_) => {
                Fault::new("the endpoint is chosen before there is a response")
                    .help("use a part of the request: `header:NAME`, `json:/POINTER`")
            }
            Part::Claim(_) | Part::Principal => {
                Fault::new(format!("`{}` cannot select an endpoint", written.text))
                    .help("pass the claim on with `claim_headers`, and use `header:NAME`")
            }
            part => return Some(part),
        };
        self.error(written.place, fault);
        None
    }
}
