//! The DNS resolver: the system's name servers and hosts file.
//!
//! Each family of addresses and each name of the search list is queried separately, so that the
//! caller sees which of them failed (see [`dns`](crate::balancer::dns)).

use std::{future::Future, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use hickory_resolver::{
    TokioResolver,
    config::{ResolverConfig, ResolverOpts},
    net::runtime::TokioRuntimeProvider,
    proto::rr::{Name, RData, Record, RecordType},
    system_conf,
};

/// How long an empty answer is valid.
const NOTHING_FOR: Duration = Duration::from_secs(1);

/// A resolver. A trait so that tests can script one.
pub trait Resolve: Send + Sync + 'static {
    /// What `name` may stand for, most likely first, each a complete name.
    fn names(&self, name: &str) -> Vec<Box<str>>;

    /// The addresses in one family of one of [`Resolve::names`].
    fn addresses<'a>(&'a self, name: &'a str, family: Family) -> Lookup<'a, IpAddr>;

    /// The SRV records of one of [`Resolve::names`].
    fn services<'a>(&'a self, name: &'a str) -> Lookup<'a, Service>;
}

/// A lookup in progress.
pub type Lookup<'a, T> = Pin<Box<dyn Future<Output = Result<Answer<T>, ResolveError>> + Send + 'a>>;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

/// What a name resolves to, and for how long. An empty list is an answer too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// The records.
    pub records: Vec<T>,
    /// How long they are valid.
    pub ttl: Duration,
}

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The target's name.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
    /// 0 is used first.
    pub priority: u16,
    /// Its share within its priority.
    pub weight: u16,
}

/// The resolver gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ResolveError(pub String);

/// The system's name servers and hosts file, asked by hickory.
pub struct Hickory {
    resolver: TokioResolver,
    search: SearchList,
}

/// The domains appended to incomplete names, as in resolv.conf(5).
#[derive(Debug)]
struct SearchList {
    domains: Vec<Name>,
    /// A name with at least this many dots is tried as it is first.
    dots: usize,
}

/// The system's name servers or, if there are none, an error for each name: addresses need no
/// resolver, so that is no reason not to start. Call it on the control runtime.
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
    fn names(&self, name: &str) -> Vec<Box<str>> {
        vec![name.into()]
    }

    fn addresses<'a>(&'a self, _: &'a str, _: Family) -> Lookup<'a, IpAddr> {
        Box::pin(async { Err(ResolveError(self.0.clone())) })
    }

    fn services<'a>(&'a self, _: &'a str) -> Lookup<'a, Service> {
        Box::pin(async { Err(ResolveError(self.0.clone())) })
    }
}

// === impl Answer ===

impl<T> Answer<T> {
    /// There are no records, but there may be soon.
    pub const fn nothing() -> Self {
        Self { records: Vec::new(), ttl: NOTHING_FOR }
    }
}

// === impl Hickory ===

impl Hickory {
    /// A resolver as `/etc/resolv.conf` and `/etc/hosts` say. Call it on the control runtime.
    pub fn from_system() -> Result<Self, ResolveError> {
        let (config, options) = system_conf::read_system_conf().map_err(ResolveError::new)?;
        Self::new(config, options)
    }

    fn new(config: ResolverConfig, mut options: ResolverOpts) -> Result<Self, ResolveError> {
        let search = SearchList::new(&config, options.ndots);
        // We cache names ourselves, for as long as our own rules say.
        options.cache_size = 0;
        let runtime = TokioRuntimeProvider::default();
        let builder = TokioResolver::builder_with_config(config, runtime).with_options(options);
        Ok(Self { resolver: builder.build().map_err(ResolveError::new)?, search })
    }

    async fn look_up<T>(
        &self,
        name: &str,
        kind: RecordType,
        read: impl Fn(&Record) -> Option<T>,
    ) -> Result<Answer<T>, ResolveError> {
        match self.resolver.lookup(name, kind).await {
            Ok(found) => {
                let records = found.answers().iter().filter_map(read).collect();
                Ok(Answer { records, ttl: ttl(found.answers()) })
            }
            // An empty result is an answer.
            Err(error) if error.is_no_records_found() || error.is_nx_domain() => {
                Ok(Answer::nothing())
            }
            Err(error) => Err(ResolveError::new(error)),
        }
    }
}

impl Resolve for Hickory {
    fn names(&self, name: &str) -> Vec<Box<str>> {
        self.search.names(name)
    }

    fn addresses<'a>(&'a self, name: &'a str, family: Family) -> Lookup<'a, IpAddr> {
        let kind = match family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        };
        Box::pin(self.look_up(name, kind, |record| record.data.ip_addr()))
    }

    fn services<'a>(&'a self, name: &'a str) -> Lookup<'a, Service> {
        Box::pin(self.look_up(name, RecordType::SRV, service))
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
    // "." means that the service is not offered here.
    (!host.is_empty()).then(|| Service {
        host: host.into(),
        port: srv.port,
        priority: srv.priority,
        weight: srv.weight,
    })
}

// === impl SearchList ===

impl SearchList {
    fn new(config: &ResolverConfig, dots: usize) -> Self {
        Self {
            domains: config.domain().into_iter().chain(config.search()).cloned().collect(),
            dots,
        }
    }

    fn names(&self, name: &str) -> Vec<Box<str>> {
        let Ok(mut whole) = Name::from_utf8(name) else {
            // The lookup will report what is wrong with it.
            return vec![name.into()];
        };
        let is_complete = whole.is_fqdn();
        let is_first = usize::from(whole.num_labels()) > self.dots || whole.is_localhost();
        // A name that is too long with a domain cannot be meant.
        let appended =
            self.domains.iter().filter_map(|domain| whole.clone().append_domain(domain).ok());
        let mut names: Vec<Name> = if is_complete { Vec::new() } else { appended.collect() };
        whole.set_fqdn(true);
        names.insert(if is_first { 0 } else { names.len() }, whole);
        let mut written: Vec<Box<str>> = Vec::with_capacity(names.len());
        for mut name in names {
            name.set_fqdn(true);
            let name = name.to_utf8().into();
            if !written.contains(&name) {
                written.push(name);
            }
        }
        written
    }
}

// === impl ResolveError ===

impl ResolveError {
    fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_resolver::{
        config::{ConnectionConfig, NameServerConfig},
        proto::{
            op::{Message, ResponseCode},
            rr::rdata,
        },
    };
    use tokio::net::UdpSocket;

    use super::*;
    use crate::{balancer::dns, telemetry::task};

    /// A resolver with a local name server, which knows A of `orders.one` and `orders.two`, AAAA of
    /// `orders.six`, and fails for names that end with `troubled`.
    async fn resolver(search: &[&str]) -> Hickory {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
        let mut connection = ConnectionConfig::udp();
        connection.port = socket.local_addr().unwrap().port();
        // It ends with the test's runtime.
        let serving = task::spawn("name server", async move {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let asked = Message::from_vec(&buffer[..length]).unwrap();
                let query = asked.queries[0].clone();
                let name = query.name().to_string();
                let mut answer = Message::response(asked.metadata.id, asked.metadata.op_code);
                answer.metadata.response_code = ResponseCode::NXDomain;
                if name.ends_with("troubled.") {
                    answer.metadata.response_code = ResponseCode::ServFail;
                }
                let data = match &*name {
                    "orders.one." | "orders.two." => RData::A(rdata::A::new(10, 0, 0, 1)),
                    _ => RData::AAAA(rdata::AAAA::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
                };
                if ["orders.one.", "orders.two.", "orders.six."].contains(&&*name) {
                    answer.metadata.response_code = ResponseCode::NoError;
                    if query.query_type() == data.record_type() {
                        answer.add_answer(Record::from_rdata(query.name().clone(), 7, data));
                    }
                }
                answer.add_query(query);
                socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        drop(serving);
        let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection]);
        let search = search.iter().map(|domain| Name::from_utf8(domain).unwrap()).collect();
        let config = ResolverConfig::from_parts(None, search, vec![server]);
        Hickory::new(config, ResolverOpts::default()).unwrap()
    }

    #[tokio::test]
    async fn there_is_nothing_only_where_nobody_erred_on_the_way() {
        let at = ["10.0.0.1".parse::<IpAddr>().unwrap()];
        let well = resolver(&["none", "one", "two"]).await;
        let found = dns::addresses(&well, "orders").await.unwrap();
        assert_eq!((&*found.records, found.ttl), (&at[..], Duration::from_secs(7)));
        assert!(dns::addresses(&well, "other").await.unwrap().records.is_empty());
        assert!(dns::services(&well, "_orders._tcp").await.unwrap().records.is_empty());
        let troubled = resolver(&["none", "troubled", "more"]).await;
        dns::addresses(&troubled, "orders").await.unwrap_err();
        dns::services(&troubled, "_orders._tcp").await.unwrap_err();
        let helped = resolver(&["troubled", "two"]).await;
        assert_eq!(dns::addresses(&helped, "orders").await.unwrap().records, at);
    }

    #[tokio::test]
    async fn both_families_are_of_one_name() {
        // The second name has AAAA, the first does not.
        let well = resolver(&["one", "six"]).await;
        let found = dns::addresses(&well, "orders").await.unwrap();
        assert_eq!(found.records, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        let six = resolver(&["six"]).await;
        let found = dns::addresses(&six, "orders").await.unwrap();
        assert_eq!(found.records, ["fd00::1".parse::<IpAddr>().unwrap()]);
    }

    fn names(search: &[&str], dots: usize, name: &str) -> Vec<String> {
        let domains = search.iter().map(|domain| Name::from_utf8(domain).unwrap()).collect();
        SearchList { domains, dots }.names(name).into_iter().map(String::from).collect()
    }

    #[test]
    fn names_are_completed_as_resolv_conf_says() {
        let cluster = ["default.svc.cluster.local", "svc.cluster.local"];
        assert_eq!(
            names(&cluster, 5, "orders.shop"),
            [
                "orders.shop.default.svc.cluster.local.",
                "orders.shop.svc.cluster.local.",
                "orders.shop."
            ]
        );
        assert_eq!(
            names(&["internal"], 1, "orders.shop"),
            ["orders.shop.", "orders.shop.internal."]
        );
        assert_eq!(names(&["internal"], 1, "orders"), ["orders.internal.", "orders."]);
        assert_eq!(names(&["internal", "internal"], 1, "orders"), ["orders.internal.", "orders."]);
        assert_eq!(names(&["internal"], 1, "orders."), ["orders."]);
        assert_eq!(names(&["internal"], 1, "localhost")[0], "localhost.");
        assert_eq!(names(&[], 1, "orders"), ["orders."]);
    }
}
