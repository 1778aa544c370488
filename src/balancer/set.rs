//! The endpoints of a group as they are now, and one worker's choice among them.
//!
//! Control publishes a [`Set`]; each worker turns it into a [`WorkerSet`] of its own holds once it
//! sees a new one.
//!
//! Order of judgement: priority group, active health, outlier ejection, breaker, and of those left
//! what the policy chooses. `pick` is the one place that says who may be chosen at all; without
//! health checks, ejection and breakers that is whoever this request has not tried yet.

use std::{
    ops::Range,
    sync::{Arc, atomic::AtomicUsize},
};

use fastrand::Rng;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::{
    balancer::{
        Policy,
        maglev::{self, Table},
        pick::{self, RoundRobin},
    },
    http::{
        Request,
        context::Attempt,
        selector::{Input, Part, Selector},
    },
    upstream::{Endpoint, Local, Pools, Transport},
};

/// The most endpoints of one group; more are left out.
pub(crate) const MAX_MEMBERS: usize = 4096;

/// The endpoints of a group. Shared by all workers and never changed.
#[derive(Debug, Default)]
pub(crate) struct Set {
    /// By priority.
    pub(crate) members: Vec<Member>,
    tiers: Vec<Tier>,
    pub(crate) lack: Lack,
}

/// Why a set has no more members than it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Lack {
    /// There are no more.
    #[default]
    Nothing,
    /// A name has not been resolved yet.
    Pending,
    /// A name cannot be resolved.
    Unresolved,
}

/// An endpoint and its place in the set.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) weight: u32,
    pub(crate) priority: u32,
}

/// The members of one priority.
#[derive(Debug)]
struct Tier {
    members: Range<u16>,
    weight: f64,
    table: Option<Table>,
}

/// One worker's holds of the members of a set, and the state of its choices.
#[derive(Debug)]
pub(crate) struct WorkerSet {
    set: Arc<Set>,
    locals: Vec<Arc<Local>>,
    all: Vec<u16>,
    turns: RoundRobin,
    rng: Rng,
}

/// One choice: by which rule, for what.
struct Choice<'a> {
    set: &'a Set,
    turns: &'a mut RoundRobin,
    rng: &'a mut Rng,
    policy: &'a Policy,
    request: &'a Request,
    now: Instant,
}

type Candidates = SmallVec<[u16; 8]>;

// === impl Set ===

impl Set {
    /// `members` in any order; of several with one address the first is kept.
    pub(crate) fn new(mut members: Vec<Member>, policy: &Policy, lack: Lack) -> Self {
        members.sort_by(|a, b| {
            (a.priority, a.endpoint.label()).cmp(&(b.priority, b.endpoint.label()))
        });
        members.dedup_by(|a, b| a.endpoint.label() == b.endpoint.label());
        members.truncate(MAX_MEMBERS);
        let mut tiers: Vec<Tier> = Vec::new();
        let mut start = 0;
        for chunk in members.chunk_by(|a, b| a.priority == b.priority) {
            let end = start + u16::try_from(chunk.len()).unwrap_or(u16::MAX);
            let is_hashed = matches!(policy, Policy::Hash(_));
            tiers.push(Tier {
                members: start..end,
                weight: chunk.iter().map(|member| f64::from(member.weight.max(1))).sum(),
                table: is_hashed.then(|| table(chunk, start)).flatten(),
            });
            start = end;
        }
        Self { members, tiers, lack }
    }

    fn member(&self, index: u16) -> &Member {
        &self.members[usize::from(index)]
    }
}

fn table(members: &[Member], start: u16) -> Option<Table> {
    let members: Vec<_> = members
        .iter()
        .zip(start..)
        .map(|(member, index)| maglev::Member {
            index,
            name: member.endpoint.label(),
            weight: member.weight,
        })
        .collect();
    Table::new(&members)
}

// === impl Member ===

impl PartialEq for Member {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.endpoint, &other.endpoint)
            && (self.weight, self.priority) == (other.weight, other.priority)
    }
}

// === impl WorkerSet ===

impl WorkerSet {
    pub(crate) fn new(
        set: Arc<Set>,
        pools: &Arc<Pools>,
        transport: &Arc<Transport>,
        group: &Arc<AtomicUsize>,
        generation: u64,
        rng: Rng,
    ) -> Self {
        let hold = |member: &Member| pools.local(&member.endpoint, transport, group, generation);
        let locals = set.members.iter().map(hold).collect();
        pools.prune();
        let all = set.tiers.last().map_or(Vec::new(), |last| (0..last.members.end).collect());
        Self { set, locals, all, turns: RoundRobin::default(), rng }
    }

    pub(crate) fn lack(&self) -> Lack {
        self.set.lack
    }

    /// An endpoint for `request`; `None` only when there is none at all. Those `tried` by it before
    /// are avoided as long as another exists, in a lower priority if need be.
    pub(crate) fn pick(
        &mut self,
        policy: &Policy,
        request: &Request,
        tried: &[Attempt],
        now: Instant,
    ) -> Option<Arc<Local>> {
        let Self { set, locals, all, turns, rng } = self;
        let mut choice = Choice { set, turns, rng, policy, request, now };
        if tried.is_empty() {
            // The common way looks at no names and builds no list.
            let tier = set.tiers.first()?;
            let all = &all[usize::from(tier.members.start)..usize::from(tier.members.end)];
            return choice.among(tier, all).map(|index| locals[usize::from(index)].clone());
        }
        let untried = |index: &u16| {
            let label = set.member(*index).endpoint.label();
            !tried.iter().any(|attempt| attempt.endpoint == *label)
        };
        let tier = set
            .tiers
            .iter()
            .map(|tier| (tier, tier.members.clone().filter(untried).collect::<Candidates>()))
            .find(|(_, candidates)| !candidates.is_empty());
        let (tier, candidates) = match tier {
            Some(found) => found,
            // All tried: the first priority again.
            None => set.tiers.first().map(|tier| (tier, tier.members.clone().collect()))?,
        };
        choice.among(tier, &candidates).map(|index| locals[usize::from(index)].clone())
    }
}

// === impl Choice ===

impl Choice<'_> {
    fn among(&mut self, tier: &Tier, candidates: &[u16]) -> Option<u16> {
        let Self { set, ref mut turns, ref mut rng, policy, request, now } = *self;
        let in_flight = |index| set.member(index).endpoint.load().in_flight();
        let least = |index| pick::least_cost(in_flight(index), set.member(index).weight);
        match policy {
            Policy::P2cEwma => pick::two_choices(candidates, rng, |index| {
                let member = set.member(index);
                let expected = member.endpoint.load().expected(now);
                pick::ewma_cost(expected, in_flight(index), member.weight)
            }),
            Policy::LeastRequest => pick::two_choices(candidates, rng, least),
            Policy::RoundRobin => turns.next(candidates, |index| set.member(index).weight),
            Policy::Hash(selector) => {
                let input = Input::new(&request.parts, &request.cx);
                let body = json_body(selector, request);
                let input = Input { body: body.as_ref(), ..input };
                let (Some(key), Some(table)) = (selector.extract(&input), &tier.table) else {
                    // Nothing to hash: anyone may serve it.
                    return pick::two_choices(candidates, rng, least);
                };
                let total = tier.members.clone().map(in_flight).sum();
                table.pick(
                    key.as_bytes(),
                    |index| candidates.contains(&index),
                    in_flight,
                    total,
                    |index| f64::from(set.member(index).weight.max(1)) / tier.weight,
                )
            }
        }
    }
}

/// The body as JSON, if the selector looks into it; only a buffered body can be looked into.
fn json_body(selector: &Selector, request: &Request) -> Option<serde_json::Value> {
    let looks_into = selector.parts().iter().any(|part| matches!(part, Part::Json(_)));
    looks_into.then(|| serde_json::from_slice(request.body.as_full()?).ok()).flatten()
}
