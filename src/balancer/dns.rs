//! Resolves names, again and again.
//!
//! A record is valid for its TTL, but at least 1 s and at most 30 s. While the resolver fails, the
//! last addresses stay in use for up to 5 minutes; the answer that a name has no records is not a
//! failure and takes effect at once. Every address of a name, of both families, is an endpoint of
//! its own: one that cannot be reached over IPv6 fails to connect, counts as slow, and IPv4 is
//! chosen. The families are queried separately. A failure of one keeps what is known of it; and
//! once there are addresses of one, the other is waited for only briefly, because some name servers
//! never answer AAAA queries.

use std::{
    collections::HashMap,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{
    StreamExt,
    future::{self, Either},
    stream,
};
use tokio::time::{self, Instant};

use crate::balancer::{
    Source, SourceAddress,
    resolver::{Answer, Family, Lookup, Resolve, ResolveError, Service},
};

/// The minimum time a record is used.
const TTL_FLOOR: Duration = Duration::from_secs(1);
/// The maximum time a record is used.
const TTL_CAP: Duration = Duration::from_secs(30);
/// How long old answers stay in use while the resolver fails.
const STALE: Duration = Duration::from_mins(5);
/// The time limit of one lookup.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for one family once the other has addresses.
const OTHER_FAMILY: Duration = Duration::from_secs(2);
/// How many names behind SRV records are looked up at a time.
const CONCURRENT_LOOKUPS: usize = 8;
/// The maximum number of SRV records of a name; more are ignored.
const MAX_SERVICES: usize = 256;

/// The resolved address of an endpoint of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) address: SocketAddr,
    pub(crate) host: Box<str>,
    pub(crate) weight: u32,
    pub(crate) priority: u32,
}

/// The latest answers for each name of a source. At most [`MAX_SERVICES`].
pub(crate) type Known = HashMap<Box<str>, Heard>;

/// The latest answer for a name, per family, and when it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    v4: Option<(Instant, Vec<IpAddr>)>,
    v6: Option<(Instant, Vec<IpAddr>)>,
}

/// The answers for both families, possibly empty.
type Both = (Result<Answer<IpAddr>, ResolveError>, Result<Answer<IpAddr>, ResolveError>);

/// Resolves `source` for ever and passes each answer to `publish`: the addresses, or `None` if
/// there are none that may be used, and what is known now. `answered`: when the addresses in use
/// until then were received, if there are any; `known`: what was known then. Never completes.
pub(crate) async fn follow(
    source: Source,
    resolver: Arc<dyn Resolve>,
    answered: Option<Instant>,
    mut known: Known,
    mut publish: impl FnMut(Option<Vec<Resolved>>, &Known),
) {
    let mut failures = 0;
    let mut answered = newest(&known).or(answered);
    loop {
        let pause = match resolve(&source, &*resolver, &mut known).await {
            Ok(answer) => {
                // If only addresses of a now failing family are in use, they age as if both failed.
                answered = newest(&known).or_else(|| Some(Instant::now()));
                failures = 0;
                publish(Some(answer.records), &known);
                answer.ttl.clamp(TTL_FLOOR, TTL_CAP)
            }
            Err(error) => {
                tracing::warn!(name = %source.address, %error, "name resolution failed");
                if answered.is_none_or(|at| at.elapsed() >= STALE) {
                    publish(None, &known);
                }
                failures += 1;
                (TTL_FLOOR * 2u32.saturating_pow(failures - 1)).min(TTL_CAP)
            }
        };
        time::sleep(pause).await;
    }
}

/// When the most recent addresses were received.
fn newest(known: &Known) -> Option<Instant> {
    let families = known.values().flat_map(|heard| [&heard.v4, &heard.v6]).flatten();
    families.filter(|(_, addresses)| !addresses.is_empty()).map(|(at, _)| *at).max()
}

/// The addresses of `host`, of both families, or of one if the other is not available.
pub async fn addresses(resolver: &dyn Resolve, host: &str) -> Result<Answer<IpAddr>, ResolveError> {
    Heard::default().join(ask(resolver, host).await, Instant::now())
}

async fn resolve(
    source: &Source,
    resolver: &dyn Resolve,
    known: &mut Known,
) -> Result<Answer<Resolved>, ResolveError> {
    match &source.address {
        SourceAddress::Host { host, port } => {
            let both = ask(resolver, host).await;
            let heard = known.entry(host.clone()).or_default();
            let answer = heard.join(both, Instant::now())?;
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

/// The records of the first of `name`'s candidates that has any. An empty result counts only if no
/// lookup failed on the way: that the next name of a search list does not exist says nothing about
/// one whose name server is in trouble.
pub(crate) async fn services(
    resolver: &dyn Resolve,
    name: &str,
) -> Result<Answer<Service>, ResolveError> {
    let deadline = Instant::now() + LOOKUP_TIMEOUT;
    let mut nothing = Ok(Answer::nothing());
    for name in resolver.names(name) {
        let answer = in_time(deadline, resolver.services(&name)).await;
        if has_records(&answer) {
            return answer;
        }
        nothing = nothing.and(answer);
    }
    nothing
}

/// Like [`services`], but a failure of one family does not affect the other. Both are of the same
/// name.
async fn ask(resolver: &dyn Resolve, host: &str) -> Both {
    let deadline = Instant::now() + LOOKUP_TIMEOUT;
    let mut nothing = (Ok(Answer::nothing()), Ok(Answer::nothing()));
    for name in resolver.names(host) {
        let (v4, v6) = ask_for(resolver, &name, deadline).await;
        if has_records(&v4) || has_records(&v6) {
            return (v4, v6);
        }
        nothing = (nothing.0.and(v4), nothing.1.and(v6));
    }
    nothing
}

fn has_records<T>(answer: &Result<Answer<T>, ResolveError>) -> bool {
    answer.as_ref().is_ok_and(|answer| !answer.records.is_empty())
}

/// The result of a lookup, or an error at the deadline.
async fn in_time<T>(deadline: Instant, lookup: Lookup<'_, T>) -> Result<Answer<T>, ResolveError> {
    match time::timeout_at(deadline, lookup).await {
        Ok(answered) => answered,
        Err(_) => Err(ResolveError("timed out".to_owned())),
    }
}

async fn ask_for(resolver: &dyn Resolve, name: &str, deadline: Instant) -> Both {
    let v4 = pin!(in_time(deadline, resolver.addresses(name, Family::V4)));
    let v6 = pin!(in_time(deadline, resolver.addresses(name, Family::V6)));
    match future::select(v4, v6).await {
        Either::Left((v4, v6)) => {
            let v6 = after(&v4, v6).await;
            (v4, v6)
        }
        Either::Right((v6, v4)) => {
            let v4 = after(&v6, v4).await;
            (v4, v6)
        }
    }
}

/// The answer for the `second` family; waits only briefly if the `first` has addresses.
async fn after<T>(
    first: &Result<Answer<T>, ResolveError>,
    second: impl Future<Output = Result<Answer<T>, ResolveError>>,
) -> Result<Answer<T>, ResolveError> {
    if !has_records(first) {
        return second.await;
    }
    match time::timeout(OTHER_FAMILY, second).await {
        Ok(answered) => answered,
        Err(_) => Err(ResolveError("timed out for one family of addresses".to_owned())),
    }
}

/// If a name behind a record does not resolve, the others stay, and so does its own old answer for
/// as long as it may be used.
async fn resolve_services(
    name: &str,
    source: &Source,
    resolver: &dyn Resolve,
    known: &mut Known,
) -> Result<Answer<Resolved>, ResolveError> {
    let mut services = self::services(resolver, name).await?;
    services.records.truncate(MAX_SERVICES);
    let lookups: Vec<_> =
        services.records.iter().map(|service| ask(resolver, &service.host)).collect();
    // In order, so that records and answers match.
    let answers: Vec<_> = stream::iter(lookups).buffered(CONCURRENT_LOOKUPS).collect().await;
    let now = Instant::now();
    let mut ttl = services.ttl;
    let mut failed = None;
    let mut is_any_fresh = false;
    let mut fresh = Known::new();
    let mut records = Vec::new();
    for (service, both) in services.records.into_iter().zip(answers) {
        let mut heard = known.get(&service.host).cloned().unwrap_or_default();
        let addresses = match heard.join(both, now) {
            Ok(answer) => {
                ttl = ttl.min(answer.ttl);
                is_any_fresh = true;
                answer.records
            }
            Err(error) => {
                failed = Some(error);
                heard.addresses(now)
            }
        };
        records.extend(addresses.into_iter().map(|ip| Resolved {
            address: SocketAddr::new(ip, service.port),
            host: service.host.clone(),
            // RFC 2782: weight 0 means "hardly ever" beside others.
            weight: source.weight.saturating_mul(u32::from(service.weight).max(1)),
            priority: source.priority.saturating_add(u32::from(service.priority)),
        }));
        fresh.insert(service.host, heard);
    }
    *known = fresh;
    match failed {
        // Nothing new was learnt: what is in use stays for as long as it may.
        Some(error) if !is_any_fresh => Err(error),
        _ => Ok(Answer { records, ttl }),
    }
}

// === impl Heard ===

impl Heard {
    /// Stores the answers and returns the addresses; for a family that failed, the old ones. An
    /// error if nothing was answered, or if one family failed and there is no address left.
    fn join(&mut self, (v4, v6): Both, now: Instant) -> Result<Answer<IpAddr>, ResolveError> {
        let mut ttl = None;
        let mut is_answered = false;
        let mut failed = None;
        for (family, answer) in [(&mut self.v4, v4), (&mut self.v6, v6)] {
            match answer {
                Ok(answer) => {
                    is_answered = true;
                    // An empty answer for one family does not shorten the TTL of the other.
                    if !answer.records.is_empty() {
                        ttl = Some(ttl.map_or(answer.ttl, |ttl: Duration| ttl.min(answer.ttl)));
                    }
                    *family = Some((now, answer.records));
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let records = self.addresses(now);
        match failed {
            // One answer was empty, so the addresses may be in the family that failed.
            Some(error) if !is_answered || records.is_empty() => Err(error),
            _ => Ok(Answer { records, ttl: ttl.unwrap_or(TTL_FLOOR) }),
        }
    }

    /// The addresses that may still be used.
    fn addresses(&self, now: Instant) -> Vec<IpAddr> {
        let families = [&self.v4, &self.v6].into_iter().flatten();
        let may_serve = families.filter(|(at, _)| now.saturating_duration_since(*at) < STALE);
        may_serve.flat_map(|(_, addresses)| addresses).copied().collect()
    }
}
