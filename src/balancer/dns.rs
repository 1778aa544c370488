//! Names to addresses, again and again.
//!
//! A record holds for its TTL, at least 1 s and at most 30 s. While the resolver errs, what it said
//! last serves for up to 5 minutes; that a name has no records is an answer, not an error, and takes
//! effect at once. Every address of a name, of both families, is an endpoint of its own: what cannot
//! be reached over IPv6 fails to connect, counts as slow, and IPv4 is chosen.

use std::{
    collections::HashMap,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use hickory_resolver::{
    TokioResolver,
    config::LookupIpStrategy,
    net::NetError,
    proto::rr::{RData, Record},
};
use tokio::time::{self, Instant};

use crate::balancer::{Source, SourceAddress};

/// A record holds at least so long.
const TTL_FLOOR: Duration = Duration::from_secs(1);
/// A record holds at most so long.
const TTL_CAP: Duration = Duration::from_secs(30);
/// How long old answers serve while the resolver errs.
const STALE: Duration = Duration::from_mins(5);
/// How long one lookup may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// How many names behind SRV records are asked for at a time.
const CONCURRENT_LOOKUPS: usize = 8;
/// The most SRV records of a name; more are left out.
const MAX_SERVICES: usize = 256;

/// A resolver. A trait, so that tests can script one.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `host`, of both families.
    fn addresses<'a>(&'a self, host: &'a str) -> Lookup<'a, IpAddr>;

    /// The records of the SRV name `name`.
    fn services<'a>(&'a self, name: &'a str) -> Lookup<'a, Service>;
}

/// A lookup under way.
pub type Lookup<'a, T> = Pin<Box<dyn Future<Output = Result<Answer<T>, ResolveError>> + Send + 'a>>;

/// What a name resolves to, and for how long. An empty list is an answer: there is nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// The records.
    pub records: Vec<T>,
    /// How long they hold.
    pub ttl: Duration,
}

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The name it is at.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
    /// 0 goes first.
    pub priority: u16,
    /// Its share within its priority.
    pub weight: u16,
}

/// The resolver gave no answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ResolveError(pub String);

/// The system's name servers and hosts file, asked by hickory.
pub struct Hickory(TokioResolver);

/// Where an endpoint of a source is, as its name resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) address: SocketAddr,
    pub(crate) host: Box<str>,
    pub(crate) weight: u32,
    pub(crate) priority: u32,
}

/// What the names behind SRV records resolved to last, and when. At most [`MAX_SERVICES`].
type Known = HashMap<Box<str>, (Instant, Vec<IpAddr>)>;

/// Resolves `source` for ever and tells `publish` of each change: the addresses, or `None` when
/// there are none that may be used. `answered`: when the addresses that serve meanwhile were given,
/// if there are any. Never completes.
pub(crate) async fn follow(
    source: Source,
    resolver: Arc<dyn Resolve>,
    mut answered: Option<Instant>,
    mut publish: impl FnMut(Option<Vec<Resolved>>),
) {
    let mut failures = 0;
    let mut known = Known::new();
    loop {
        let pause = match resolve(&source, &*resolver, &mut known).await {
            Ok(answer) => {
                answered = Some(Instant::now());
                failures = 0;
                publish(Some(answer.records));
                answer.ttl.clamp(TTL_FLOOR, TTL_CAP)
            }
            Err(error) => {
                tracing::warn!(name = ?source.address, %error, "name resolution failed");
                if answered.is_none_or(|at| at.elapsed() >= STALE) {
                    publish(None);
                }
                failures += 1;
                (TTL_FLOOR * 2u32.saturating_pow(failures - 1)).min(TTL_CAP)
            }
        };
        time::sleep(pause).await;
    }
}

async fn resolve(
    source: &Source,
    resolver: &dyn Resolve,
    known: &mut Known,
) -> Result<Answer<Resolved>, ResolveError> {
    match &source.address {
        SourceAddress::Host { host, port } => {
            let answer = in_time(resolver.addresses(host)).await?;
            let at = |ip| Resolved {
                address: SocketAddr::new(ip, *port),
                host: host.clone(),
                weight: source.weight,
                priority: source.priority,
            };
            Ok(Answer { records: answer.records.into_iter().map(at).collect(), ttl: answer.ttl })
        }
        SourceAddress::Srv(name) => resolve_services(name, source, resolver, known).await,
        SourceAddress::Unix(_) => Ok(Answer { records: Vec::new(), ttl: TTL_CAP }),
    }
}

/// The end of a lookup, and of the patience for it.
async fn in_time<T>(lookup: Lookup<'_, T>) -> Result<Answer<T>, ResolveError> {
    match time::timeout(LOOKUP_TIMEOUT, lookup).await {
        Ok(answered) => answered,
        Err(_) => Err(ResolveError("timed out".to_owned())),
    }
}

/// One name behind a record that does not resolve takes neither the others away nor, for as long as
/// old answers serve, itself.
async fn resolve_services(
    name: &str,
    source: &Source,
    resolver: &dyn Resolve,
    known: &mut Known,
) -> Result<Answer<Resolved>, ResolveError> {
    let mut services = in_time(resolver.services(name)).await?;
    services.records.truncate(MAX_SERVICES);
    let lookups: Vec<_> =
        services.records.iter().map(|service| in_time(resolver.addresses(&service.host))).collect();
    // In order, so that records and answers belong together.
    let answers: Vec<_> = stream::iter(lookups).buffered(CONCURRENT_LOOKUPS).collect().await;
    let now = Instant::now();
    let mut ttl = services.ttl;
    let mut failed = None;
    let mut is_any_fresh = false;
    let mut fresh = Known::new();
    let mut records = Vec::new();
    for (service, answer) in services.records.into_iter().zip(answers) {
        let (at, addresses) = match answer {
            Ok(answer) => {
                ttl = ttl.min(answer.ttl);
                is_any_fresh = true;
                (now, answer.records)
            }
            Err(error) => {
                failed = Some(error);
                match known.get(&service.host) {
                    Some((at, addresses)) if now - *at < STALE => (*at, addresses.clone()),
                    Some(_) | None => continue,
                }
            }
        };
        records.extend(addresses.iter().map(|ip| Resolved {
            address: SocketAddr::new(*ip, service.port),
            host: service.host.clone(),
            // RFC 2782: weight 0 is "hardly ever", next to others.
            weight: source.weight.saturating_mul(u32::from(service.weight).max(1)),
            priority: source.priority.saturating_add(u32::from(service.priority)),
        }));
        fresh.insert(service.host, (at, addresses));
    }
    *known = fresh;
    match failed {
        // Nothing new was heard: what serves already is kept for as long as it may be.
        Some(error) if !is_any_fresh => Err(error),
        _ => Ok(Answer { records, ttl }),
    }
}

/// What the system gives: its name servers, or, on a system without any, an error for each name.
/// Addresses need no resolver, so that is no reason not to start. Call it on the control runtime.
pub fn system() -> Arc<dyn Resolve> {
    match Hickory::from_system() {
        Ok(resolver) => Arc::new(resolver),
        Err(error) => {
            tracing::warn!(%error, "no name servers: only endpoints given by address are reached");
            Arc::new(Nobody(error.to_string()))
        }
    }
}

/// Resolves nothing, for this reason.
struct Nobody(String);

impl Resolve for Nobody {
    fn addresses<'a>(&'a self, _: &'a str) -> Lookup<'a, IpAddr> {
        Box::pin(async { Err(ResolveError(self.0.clone())) })
    }

    fn services<'a>(&'a self, _: &'a str) -> Lookup<'a, Service> {
        Box::pin(async { Err(ResolveError(self.0.clone())) })
    }
}

// === impl Hickory ===

impl Hickory {
    /// A resolver as `/etc/resolv.conf` and `/etc/hosts` say. Call it on the control runtime.
    pub fn from_system() -> Result<Self, ResolveError> {
        let mut builder = TokioResolver::builder_tokio().map_err(ResolveError::new)?;
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // Names are kept here, for as long as our rules say and no longer.
        options.cache_size = 0;
        builder.build().map(Self).map_err(ResolveError::new)
    }
}

impl Resolve for Hickory {
    fn addresses<'a>(&'a self, host: &'a str) -> Lookup<'a, IpAddr> {
        Box::pin(async move {
            match self.0.lookup_ip(host).await {
                Ok(found) => Ok(Answer {
                    records: found.iter().collect(),
                    ttl: ttl(found.as_lookup().answers()),
                }),
                Err(error) => nothing_or(error),
            }
        })
    }

    fn services<'a>(&'a self, name: &'a str) -> Lookup<'a, Service> {
        Box::pin(async move {
            match self.0.srv_lookup(name).await {
                Ok(found) => Ok(Answer {
                    records: found.answers().iter().filter_map(service).collect(),
                    ttl: ttl(found.answers()),
                }),
                Err(error) => nothing_or(error),
            }
        })
    }
}

impl std::fmt::Debug for Hickory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hickory").finish_non_exhaustive()
    }
}

fn ttl(records: &[Record]) -> Duration {
    let seconds = records.iter().map(|record| record.ttl).min();
    Duration::from_secs(u64::from(seconds.unwrap_or_default()))
}

fn service(record: &Record) -> Option<Service> {
    let RData::SRV(srv) = &record.data else { return None };
    let host = srv.target.to_utf8();
    let host = host.trim_end_matches('.');
    // "." says that the service is not offered here.
    (!host.is_empty()).then(|| Service {
        host: host.into(),
        port: srv.port,
        priority: srv.priority,
        weight: srv.weight,
    })
}

/// That there is nothing is an answer.
fn nothing_or<T>(error: NetError) -> Result<Answer<T>, ResolveError> {
    if error.is_no_records_found() || error.is_nx_domain() {
        return Ok(Answer { records: Vec::new(), ttl: TTL_FLOOR });
    }
    Err(ResolveError::new(error))
}

// === impl ResolveError ===

impl ResolveError {
    fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}
