//! One upstream: where its endpoints are now, and each worker's way to them.
//!
//! Control owns the [`Group`]: it resolves names and publishes sets of endpoints. A worker has a
//! [`GroupHandle`] with a set of its own holds, rebuilt by the first request that sees a new one, so
//! that no reference a request counts is shared between workers. Seeing whether there is a new one is
//! a read of a word that changes only then.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use fastrand::Rng;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{self, Instant},
};

use crate::{
    balancer::{
        EndpointSnapshot, GroupSnapshot, Resolve, Settings, Source, SourceAddress,
        dns::{self, Resolved},
        set::{Lack, Member, Set, WorkerSet},
    },
    error::{Error, Kind, Result},
    http::Request,
    telemetry::{
        metrics::{ATTEMPTS, Cells, Counter},
        task,
    },
    upstream::{Address, Endpoint, Flight, Pools, TlsError, Transport},
};

/// One upstream, shared by all workers and owned by control.
pub struct Group {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

/// One worker's view of a group. Cheap to clone; all clones share their state.
#[derive(Clone, Debug)]
pub struct GroupHandle(Arc<Handle>);

struct Shared {
    settings: Settings,
    transport: Arc<Transport>,
    /// Counts the groups of this name, one for each configuration.
    generation: u64,
    in_flight: Arc<AtomicUsize>,
    /// What each source, in the order of the settings, stands for now.
    sources: Mutex<Vec<Standing>>,
    set: watch::Sender<Arc<Set>>,
}

/// What a source stands for.
#[derive(Clone, Debug)]
struct Standing {
    members: Vec<Member>,
    lack: Lack,
    /// When its name was last resolved.
    answered: Option<Instant>,
}

struct Handle {
    name: Arc<str>,
    shared: Arc<Shared>,
    pools: Arc<Pools>,
    attempts: Attempts,
    view: Mutex<View>,
}

/// The lock around it is this worker's own: nobody waits for it.
struct View {
    published: watch::Receiver<Arc<Set>>,
    set: WorkerSet,
}

/// [`ATTEMPTS`] of one upstream on one worker.
struct Attempts {
    statuses: [Counter; 5],
    cells: Cells,
}

/// What became of a pick.
pub(crate) enum Picked {
    Endpoint(Flight),
    /// A name has not been resolved yet: [`GroupHandle::resolved`] tells when it has.
    Pending,
    Refused(Kind),
}

// === impl Group ===

impl Group {
    /// Call it on the control runtime: names are resolved by tasks that end with the group.
    /// `previous` is the group of this name in the configuration before: its endpoints keep their
    /// state, and its addresses serve until names are resolved again.
    pub fn new(
        settings: Settings,
        previous: Option<&Arc<Self>>,
        resolver: &Arc<dyn Resolve>,
    ) -> std::result::Result<Arc<Self>, TlsError> {
        let previous = previous.map(|group| &*group.shared);
        let transport =
            Transport::new(settings.transport.clone(), previous.map(|old| &old.transport))?;
        let shared = Arc::new(Shared {
            transport,
            generation: previous.map_or(0, |old| old.generation + 1),
            in_flight: previous.map_or_else(Arc::default, |old| old.in_flight.clone()),
            sources: Mutex::default(),
            set: watch::Sender::new(Arc::default()),
            settings,
        });
        let standings = shared.settings.sources.iter().map(|source| shared.begin(source, previous));
        let standings = standings.collect();
        *shared.sources.lock() = standings;
        shared.publish();
        let answered: Vec<_> = shared.sources.lock().iter().map(|s| s.answered).collect();
        let named = shared.settings.sources.iter().zip(answered).enumerate();
        let tasks = named
            .filter(|(_, (source, _))| !source.is_fixed())
            .map(|(index, (source, answered))| {
                let weak = Arc::downgrade(&shared);
                let publish = move |resolved: Option<Vec<Resolved>>| {
                    if let Some(shared) = weak.upgrade() {
                        shared.resolved(index, resolved);
                    }
                };
                // Aborted when the group is dropped: no other end is needed.
                let resolver = resolver.clone();
                task::spawn("resolve", dns::follow(source.clone(), resolver, answered, publish))
            })
            .collect();
        Ok(Arc::new(Self { shared, tasks }))
    }

    /// Its name, its identity across reloads.
    pub fn name(&self) -> &Arc<str> {
        &self.shared.settings.name
    }

    /// A worker's view of it, with that worker's connections: those that it had before, if they
    /// would be made the same way now.
    pub fn worker(&self, pools: &Arc<Pools>) -> GroupHandle {
        let shared = self.shared.clone();
        let mut published = shared.set.subscribe();
        let set = published.borrow_and_update().clone();
        let set = shared.worker_set(set, pools);
        GroupHandle(Arc::new(Handle {
            name: Arc::from(&*shared.settings.name),
            attempts: Attempts::new(pools.cells(), &shared.settings.name),
            view: Mutex::new(View { published, set }),
            pools: pools.clone(),
            shared,
        }))
    }

    /// Its state now.
    pub fn snapshot(&self) -> GroupSnapshot {
        let now = Instant::now();
        let set = self.shared.set.borrow().clone();
        let endpoint = |member: &Member| EndpointSnapshot {
            address: member.endpoint.address().to_string(),
            weight: member.weight,
            priority: member.priority,
            in_flight: member.endpoint.load().in_flight(),
            ewma_seconds: member.endpoint.load().expected(now),
            state: "ready",
        };
        GroupSnapshot {
            name: self.name().clone(),
            endpoints: set.members.iter().map(endpoint).collect(),
            in_flight: self.shared.in_flight.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("name", self.name()).finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    /// What `source` stands for before its name is resolved: what it stood for in `previous`.
    fn begin(&self, source: &Source, previous: Option<&Self>) -> Standing {
        let fixed = match &source.address {
            SourceAddress::Unix(path) => Some((Address::Unix(Path::new(&**path).into()), None)),
            SourceAddress::Host { host, port } => host
                .parse::<IpAddr>()
                .ok()
                .map(|ip| (Address::Inet(SocketAddr::new(ip, *port)), Some(*port))),
            SourceAddress::Srv(_) => None,
        };
        if let Some((address, port)) = fixed {
            let host = match &source.address {
                SourceAddress::Host { host, .. } => host,
                SourceAddress::Unix(_) | SourceAddress::Srv(_) => "localhost",
            };
            let endpoint = self.endpoint(address, host, port, previous);
            let member = Member { endpoint, weight: source.weight, priority: source.priority };
            return Standing { members: vec![member], lack: Lack::Nothing, answered: None };
        }
        let before = previous.and_then(|old| {
            let index = old.settings.sources.iter().position(|s| s.address == source.address)?;
            old.sources.lock().get(index).cloned()
        });
        match before {
            Some(mut standing) if !standing.members.is_empty() => {
                let is_host = matches!(source.address, SourceAddress::Host { .. });
                for member in standing.members.iter_mut().filter(|_| is_host) {
                    member.weight = source.weight;
                    member.priority = source.priority;
                }
                standing
            }
            _ => Standing { members: Vec::new(), lack: Lack::Pending, answered: None },
        }
    }

    /// The endpoint at `address`: the one there was, so that its state is kept.
    fn endpoint(
        &self,
        address: Address,
        host: &str,
        port: Option<u16>,
        previous: Option<&Self>,
    ) -> Arc<Endpoint> {
        let known = [Some(self), previous].into_iter().flatten().find_map(|shared| {
            let set = shared.set.borrow();
            let member = set.members.iter().find(|m| *m.endpoint.address() == address)?;
            Some(member.endpoint.clone())
        });
        match known {
            Some(known) if known.host() == host => known,
            Some(known) => Arc::new(known.renamed(host, port)),
            None => Arc::new(Endpoint::new(&self.settings.name, address, host, port)),
        }
    }

    fn resolved(&self, index: usize, resolved: Option<Vec<Resolved>>) {
        let standing = match resolved {
            Some(resolved) => {
                let member = |at: Resolved| {
                    let address = Address::Inet(at.address);
                    let port = Some(at.address.port());
                    let endpoint = self.endpoint(address, &at.host, port, None);
                    Member { endpoint, weight: at.weight, priority: at.priority }
                };
                let members: Vec<_> = resolved.into_iter().map(member).collect();
                let lack = if members.is_empty() { Lack::Unresolved } else { Lack::Nothing };
                Standing { members, lack, answered: Some(Instant::now()) }
            }
            None => Standing { members: Vec::new(), lack: Lack::Unresolved, answered: None },
        };
        if let Some(source) = self.sources.lock().get_mut(index) {
            *source = standing;
        }
        self.publish();
    }

    /// Tells the workers, if anything has changed.
    fn publish(&self) {
        let sources = self.sources.lock();
        let members = sources.iter().flat_map(|source| source.members.iter().cloned()).collect();
        let lacks = |lack| sources.iter().any(|source| source.lack == lack);
        let lack = if lacks(Lack::Pending) {
            Lack::Pending
        } else if lacks(Lack::Unresolved) {
            Lack::Unresolved
        } else {
            Lack::Nothing
        };
        let set = Set::new(members, &self.settings.policy, lack);
        self.set.send_if_modified(|current| {
            let has_changed = current.lack != set.lack || current.members != set.members;
            if has_changed {
                *current = Arc::new(set);
            }
            has_changed
        });
    }

    fn worker_set(&self, set: Arc<Set>, pools: &Arc<Pools>) -> WorkerSet {
        WorkerSet::new(set, pools, &self.transport, &self.in_flight, self.generation, Rng::new())
    }
}

// === impl GroupHandle ===

impl GroupHandle {
    /// The upstream's name.
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// An endpoint for `request`, which is counted there from now on.
    pub(crate) fn pick(&self, request: &Request, now: Instant) -> Picked {
        let handle = &*self.0;
        let shared = &*handle.shared;
        let mut view = handle.view.lock();
        if view.published.has_changed().unwrap_or(false) {
            let set = view.published.borrow_and_update().clone();
            view.set = shared.worker_set(set, &handle.pools);
        }
        let policy = &shared.settings.policy;
        let local = request.cx.with_attempts(|tried| view.set.pick(policy, request, tried, now));
        match (local, view.set.lack()) {
            (Some(local), _) => match local.enter(shared.settings.max_in_flight) {
                Some(flight) => Picked::Endpoint(flight),
                None => Picked::Refused(Kind::ConcurrencyFull),
            },
            (None, Lack::Pending) => Picked::Pending,
            (None, Lack::Unresolved) => Picked::Refused(Kind::UpstreamDns),
            (None, Lack::Nothing) => Picked::Refused(Kind::UpstreamNone),
        }
    }

    /// Whether it has one endpoint now.
    pub fn is_alone(&self) -> bool {
        self.0.shared.set.borrow().members.len() == 1
    }

    /// Waits until the first names are resolved, at most `connect_timeout`.
    pub(crate) async fn resolved(&self) -> Result<()> {
        let shared = &self.0.shared;
        let mut published = shared.set.subscribe();
        let settled =
            published.wait_for(|set| !set.members.is_empty() || set.lack != Lack::Pending);
        match time::timeout(shared.settings.transport.connect_timeout, settled).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Error::new(Kind::UpstreamDns).with_detail(&*self.0.name)),
        }
    }

    pub(crate) fn count_answer(&self, status: http::StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.0.attempts.statuses[class].add(1);
    }

    pub(crate) fn count_failure(&self, reason: &'static str) {
        let attempts = &self.0.attempts;
        attempts.cells.counter(&ATTEMPTS, &[&self.0.name, reason]).add(1);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupHandle").field("name", &self.name).finish_non_exhaustive()
    }
}

// === impl Attempts ===

impl Attempts {
    fn new(cells: &Cells, upstream: &str) -> Self {
        let statuses = ["1xx", "2xx", "3xx", "4xx", "5xx"]
            .map(|class| cells.counter(&ATTEMPTS, &[upstream, class]));
        Self { statuses, cells: cells.clone() }
    }
}

// === impl Source ===

impl Source {
    /// Its address is known from the configuration alone.
    fn is_fixed(&self) -> bool {
        match &self.address {
            SourceAddress::Unix(_) => true,
            SourceAddress::Host { host, .. } => host.parse::<IpAddr>().is_ok(),
            SourceAddress::Srv(_) => false,
        }
    }
}
