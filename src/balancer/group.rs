//! One upstream: its current endpoints.
//!
//! Control owns the [`Group`]: it resolves names, checks endpoints, and publishes them with the
//! list of those that may be chosen. Workers reach them through a [`GroupHandle`].

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use crate::{
    balancer::{
        GroupHandle, GroupSnapshot, Preview, Resolve, Settings, Source, SourceAddress, check,
        dns::{self, Known, Resolved},
        preview,
        set::{Board, Lack, Member, Set},
        snapshot,
        standing::Standing,
        tend::{self, Desk},
    },
    http::selector::Input,
    telemetry::{metrics::Cells, task},
    upstream::{Address, Endpoint, Pools, TlsError, Transport},
};

/// One upstream, shared by all workers and owned by control.
pub struct Group {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

/// The part of a group that its tasks and all workers share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) transport: Arc<Transport>,
    /// Counts the groups of this name, one for each configuration.
    pub(super) generation: u64,
    pub(super) in_flight: Arc<AtomicUsize>,
    pub(super) desk: Arc<Desk>,
    /// Whether its configuration is in force. Only then may the group change the state that
    /// endpoints keep across configurations.
    is_in_force: AtomicBool,
    /// The current endpoints of each source, in the order of the settings.
    sources: Mutex<Vec<Answer>>,
    pub(super) board: watch::Sender<Arc<Board>>,
    /// The health check task of each endpoint, by its label.
    checks: Mutex<HashMap<Arc<str>, JoinHandle<()>>>,
}

/// The endpoints of a source.
#[derive(Clone, Debug)]
struct Answer {
    members: Vec<Member>,
    lack: Lack,
    /// When its name was last resolved.
    answered: Option<Instant>,
    /// The latest answers for its names.
    known: Known,
}

// === impl Group ===

impl Group {
    /// Call it on the control runtime: tasks that end with the group resolve names and check
    /// endpoints. `previous` is the group with this name in the previous configuration: its
    /// endpoints keep their state, and its addresses are used until names are resolved again.
    /// Events at endpoints are counted in `cells`. Until [`Group::take_effect`] it runs no checks
    /// and does not change the state of endpoints it shares with `previous`.
    pub fn new(
        settings: Settings,
        previous: Option<&Arc<Self>>,
        resolver: &Arc<dyn Resolve>,
        cells: &Cells,
    ) -> std::result::Result<Arc<Self>, TlsError> {
        let previous = previous.map(|group| &*group.shared);
        let transport =
            Transport::new(settings.transport.clone(), previous.map(|old| &old.transport))?;
        let desk =
            previous.map_or_else(|| Desk::new(&settings.name, cells), |old| old.desk.clone());
        let shared = Arc::new(Shared {
            transport,
            generation: previous.map_or(0, |old| old.generation + 1),
            in_flight: previous.map_or_else(Arc::default, |old| old.in_flight.clone()),
            desk,
            is_in_force: AtomicBool::new(false),
            sources: Mutex::default(),
            board: watch::Sender::default(),
            checks: Mutex::default(),
            settings,
        });
        let answers = shared.settings.sources.iter().map(|source| shared.begin(source, previous));
        let answers = answers.collect();
        *shared.sources.lock() = answers;
        shared.publish();
        let before: Vec<_> =
            shared.sources.lock().iter().map(|s| (s.answered, s.known.clone())).collect();
        let named = shared.settings.sources.iter().zip(before).enumerate();
        let mut tasks: Vec<_> = named
            .filter(|(_, (source, _))| !source.is_fixed())
            .map(|(index, (source, (answered, known)))| {
                let weak = Arc::downgrade(&shared);
                let publish = move |resolved: Option<Vec<Resolved>>, known: &Known| {
                    if let Some(shared) = weak.upgrade() {
                        shared.resolved(index, resolved, known.clone());
                    }
                };
                // Aborted when the group is dropped; it needs no other end.
                let resolver = resolver.clone();
                let source = source.clone();
                task::spawn("resolve", dns::follow(source, resolver, answered, known, publish))
            })
            .collect();
        let tending = tend::tend(shared.desk.clone(), Arc::downgrade(&shared));
        tasks.push(task::spawn("tend", tending));
        Ok(Arc::new(Self { shared, tasks }))
    }

    /// Its configuration is in force from now on, in place of the previous one. Call it on the
    /// control runtime.
    pub fn take_effect(&self) {
        self.shared.is_in_force.store(true, Ordering::Relaxed);
        let set = self.shared.board.borrow().set.clone();
        self.shared.follow_checks(&set);
        self.shared.changed(Instant::now());
    }

    /// Its name, which identifies it across reloads.
    pub fn name(&self) -> &Arc<str> {
        &self.shared.settings.name
    }

    /// A worker's view of it, with that worker's connections: its existing ones if they would be
    /// made the same way now.
    pub fn worker(&self, pools: &Arc<Pools>) -> GroupHandle {
        GroupHandle::new(self.shared.clone(), pools)
    }

    /// Which endpoint a request with this `input` would get now.
    pub fn preview(&self, input: &Input<'_>) -> Preview {
        preview::of(&self.shared, input, Instant::now())
    }

    /// Its state now.
    pub fn snapshot(&self) -> GroupSnapshot {
        snapshot::of(&self.shared, Instant::now())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Requests in flight keep the shared part for a while.
        self.shared.is_in_force.store(false, Ordering::Relaxed);
        for task in self.tasks.iter().chain(self.shared.checks.lock().values()) {
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
    pub(super) fn is_in_force(&self) -> bool {
        // Relaxed: it guards no other memory; who reads the old value is a moment early or late.
        self.is_in_force.load(Ordering::Relaxed)
    }

    /// The endpoints of `source` until its name is resolved: those it had in `previous`.
    fn begin(&self, source: &Source, previous: Option<&Self>) -> Answer {
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
            let member = self.member(address, host, port, previous);
            let member = Member { weight: source.weight, priority: source.priority, ..member };
            let members = vec![member];
            return Answer { members, lack: Lack::Nothing, answered: None, known: Known::new() };
        }
        let before = previous.and_then(|old| {
            let index = old.settings.sources.iter().position(|s| s.address == source.address)?;
            old.sources.lock().get(index).cloned()
        });
        match before {
            Some(mut answer) if !answer.members.is_empty() => {
                let is_host = matches!(source.address, SourceAddress::Host { .. });
                for member in answer.members.iter_mut().filter(|_| is_host) {
                    member.weight = source.weight;
                    member.priority = source.priority;
                }
                answer
            }
            _ => Answer {
                members: Vec::new(),
                lack: Lack::Pending,
                answered: None,
                known: Known::new(),
            },
        }
    }

    /// The endpoint at `address`: the existing one, if any, to keep its state. The caller sets its
    /// weight and priority.
    fn member(
        &self,
        address: Address,
        host: &str,
        port: Option<u16>,
        previous: Option<&Self>,
    ) -> Member {
        let known = [Some(self), previous].into_iter().flatten().find_map(|shared| {
            let board = shared.board.borrow();
            board.set.members.iter().find(|m| *m.endpoint.address() == address).cloned()
        });
        if let Some(mut known) = known {
            if known.endpoint.host() != host {
                known.endpoint = Arc::new(known.endpoint.renamed(host, port));
            }
            return known;
        }
        // If others serve already, it was added. If none do, the process has just started, or
        // nobody was left to spare it.
        let serves = |shared: &Self| {
            let board = shared.board.borrow();
            board.set.lack != Lack::Pending && !board.set.members.is_empty()
        };
        let is_added = serves(self) || previous.is_some_and(serves);
        Member {
            endpoint: Arc::new(Endpoint::new(&self.settings.name, address, host, port)),
            standing: Standing::new(Instant::now(), is_added),
            weight: 1,
            priority: 0,
        }
    }

    fn resolved(self: &Arc<Self>, index: usize, resolved: Option<Vec<Resolved>>, known: Known) {
        let answer = match resolved {
            Some(resolved) => {
                let member = |at: Resolved| {
                    let address = Address::Inet(at.address);
                    let port = Some(at.address.port());
                    let member = self.member(address, &at.host, port, None);
                    Member { weight: at.weight, priority: at.priority, ..member }
                };
                let members: Vec<_> = resolved.into_iter().map(member).collect();
                let lack = if members.is_empty() { Lack::Unresolved } else { Lack::Nothing };
                Answer { members, lack, answered: Some(Instant::now()), known }
            }
            None => Answer { members: Vec::new(), lack: Lack::Unresolved, answered: None, known },
        };
        if let Some(source) = self.sources.lock().get_mut(index) {
            *source = answer;
        }
        self.publish();
    }

    /// Publishes the endpoints to the workers, if they have changed.
    fn publish(self: &Arc<Self>) {
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
        drop(sources);
        if self.is_in_force() {
            self.follow_checks(&set);
        }
        self.publish_with(Some(set), Instant::now());
    }

    /// Starts checks for new endpoints and stops those of removed ones.
    fn follow_checks(self: &Arc<Self>, set: &Set) {
        let settings = self.settings.health_check.as_ref();
        let mut checks = self.checks.lock();
        checks.retain(|label, task| {
            let is_there = set.members.iter().any(|member| member.endpoint.label() == label);
            if !is_there {
                task.abort();
            }
            is_there
        });
        for member in &set.members {
            member.standing.record().health.adopt(settings);
            let Some(settings) = settings else { continue };
            checks.entry(member.endpoint.label().clone()).or_insert_with(|| {
                // Aborted with the group, or when the endpoint is removed.
                let check = check::follow(member.clone(), settings.clone(), Arc::downgrade(self));
                task::spawn("health check", check)
            });
        }
    }
}

// === impl Source ===

impl Source {
    /// Whether its address is in the configuration itself.
    fn is_fixed(&self) -> bool {
        match &self.address {
            SourceAddress::Unix(_) => true,
            SourceAddress::Host { host, .. } => host.parse::<IpAddr>().is_ok(),
            SourceAddress::Srv(_) => false,
        }
    }
}
