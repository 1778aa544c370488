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

/// A group as its tasks and all workers have it.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) transport: Arc<Transport>,
    /// Counts the groups of this name, one for each configuration.
    pub(super) generation: u64,
    pub(super) in_flight: Arc<AtomicUsize>,
    pub(super) desk: Arc<Desk>,
    /// Its configuration is the one in force. What endpoints keep from one configuration to the next
    /// is changed by its group only.
    is_in_force: AtomicBool,
    /// What each source, in the order of the settings, stands for now.
    sources: Mutex<Vec<Answer>>,
    pub(super) board: watch::Sender<Arc<Board>>,
    /// The task that checks each endpoint, by its label.
    checks: Mutex<HashMap<Arc<str>, JoinHandle<()>>>,
}

/// What a source stands for.
#[derive(Clone, Debug)]
struct Answer {
    members: Vec<Member>,
    lack: Lack,
    /// When its name was last resolved.
    answered: Option<Instant>,
    /// What is known of its names.
    known: Known,
}

// === impl Group ===

impl Group {
    /// Call it on the control runtime: names are resolved and endpoints checked by tasks that end with
    /// the group. `previous` is the group of this name in the configuration before: its endpoints
    /// keep their state, and its addresses serve until names are resolved again. What happens to
    /// endpoints is counted in `cells`. Until [`Group::take_effect`] it checks nobody and leaves
    /// alone what endpoints it shares with `previous` are known for.
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
                // Aborted when the group is dropped: no other end is needed.
                let resolver = resolver.clone();
                let source = source.clone();
                task::spawn("resolve", dns::follow(source, resolver, answered, known, publish))
            })
            .collect();
        let tending = tend::tend(shared.desk.clone(), Arc::downgrade(&shared));
        tasks.push(task::spawn("tend", tending));
        Ok(Arc::new(Self { shared, tasks }))
    }

    /// Its configuration is in force now, that of the group before is not any more. Call it on the
    /// control runtime.
    pub fn take_effect(&self) {
        self.shared.is_in_force.store(true, Ordering::Relaxed);
        let set = self.shared.board.borrow().set.clone();
        self.shared.follow_checks(&set);
        self.shared.changed(Instant::now());
    }

    /// Its name, its identity across reloads.
    pub fn name(&self) -> &Arc<str> {
        &self.shared.settings.name
    }

    /// A worker's view of it, with that worker's connections: those that it had before, if they
    /// would be made the same way now.
    pub fn worker(&self, pools: &Arc<Pools>) -> GroupHandle {
        GroupHandle::new(self.shared.clone(), pools)
    }

    /// Which endpoint a request would get now of which `input` is known.
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
        // Requests under way keep what is shared for a while.
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
        // Relaxed: a word of its own; who reads the old one is a moment too early or too late.
        self.is_in_force.load(Ordering::Relaxed)
    }

    /// What `source` stands for before its name is resolved: what it stood for in `previous`.
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

    /// The endpoint at `address`: the one there was, so that its state is kept. Its weight and
    /// priority are the caller's to set.
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
        // Where others serve already, it was added; where none do, the process has just begun, or
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

    /// Tells the workers where the endpoints are, if that has changed.
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

    /// Begins to check the endpoints that are new, and leaves those alone that are gone.
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
                // Aborted with the group, or when the endpoint is gone.
                let check = check::follow(member.clone(), settings.clone(), Arc::downgrade(self));
                task::spawn("health check", check)
            });
        }
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
