//! The current endpoints of a group, and one worker's choice among them.
//!
//! Control publishes a [`Board`]: the endpoints, and the [`Roster`] of those that may be chosen.
//! When a worker sees a new one it turns it into a [`WorkerSet`] of its own holds; if only the
//! roster has changed, it takes over that alone. So a request checks nobody's health: it applies
//! the policy to a list that is ready, leaving out endpoints it has tried.

use std::{
    collections::HashSet,
    ops::Range,
    sync::{Arc, atomic::AtomicUsize},
};

use fastrand::Rng;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::{
    balancer::{
        Policy,
        breaker::Probe,
        maglev::{self, Key, Table},
        pick::{self, RoundRobin},
        roster::{self, Roster},
        standing::{FULL_SHARE, Standing},
    },
    http::{
        Request,
        context::Attempt,
        selector::{Input, Part, Selector},
    },
    upstream::{Endpoint, Local, Pools, Transport},
};

/// The maximum number of endpoints in a group; more are ignored.
pub(crate) const MAX_MEMBERS: usize = 4096;

/// The endpoints of a group. Shared by all workers and immutable.
#[derive(Debug, Default)]
pub(crate) struct Set {
    /// Ordered by priority.
    pub(crate) members: Vec<Member>,
    tiers: Vec<Tier>,
    pub(crate) lack: Lack,
}

/// What is published to workers: the endpoints, and which of them may be chosen.
#[derive(Debug, Default)]
pub(crate) struct Board {
    pub(crate) set: Arc<Set>,
    pub(crate) roster: Roster,
}

/// Why a set has no more members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Lack {
    /// There are no more.
    #[default]
    Nothing,
    /// A name is not resolved yet.
    Pending,
    /// A name cannot be resolved.
    Unresolved,
}

/// An endpoint and its place in the set.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) standing: Arc<Standing>,
    pub(crate) weight: u32,
    pub(crate) priority: u32,
}

/// The members of one priority.
#[derive(Debug)]
struct Tier {
    members: Range<u16>,
    table: Option<Table>,
}

/// One worker's references to the members of a set, and the state of its choices.
#[derive(Debug)]
pub(crate) struct WorkerSet {
    board: Arc<Board>,
    seats: Vec<Arc<Seat>>,
    turns: RoundRobin,
    rng: Rng,
}

/// One worker's references to a member: requests clone an `Arc` of it, not the shared ones.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) local: Arc<Local>,
    pub(crate) standing: Arc<Standing>,
}

/// The chosen endpoint.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) seat: Arc<Seat>,
    /// Set if the request is a probe through an open breaker.
    pub(crate) probe: Option<Probe>,
}

/// The inputs of one choice by the policy.
struct Chooser<'a> {
    board: &'a Board,
    turns: &'a mut RoundRobin,
    rng: &'a mut Rng,
    policy: &'a Policy,
    request: &'a Request,
    now: Instant,
}

type Candidates = SmallVec<[u16; 16]>;

// === impl Set ===

impl Set {
    /// `members` in any order; if several have one address, the first by priority is kept.
    pub(crate) fn new(mut members: Vec<Member>, policy: &Policy, lack: Lack) -> Self {
        members.sort_by(|a, b| {
            (a.priority, a.endpoint.label()).cmp(&(b.priority, b.endpoint.label()))
        });
        let mut seen = HashSet::with_capacity(members.len());
        members.retain(|member| seen.insert(member.endpoint.label().clone()));
        members.truncate(MAX_MEMBERS);
        let mut tiers: Vec<Tier> = Vec::new();
        let mut start = 0;
        for chunk in members.chunk_by(|a, b| a.priority == b.priority) {
            let end = start + u16::try_from(chunk.len()).unwrap_or(u16::MAX);
            let is_hashed = matches!(policy, Policy::Hash(_));
            tiers.push(Tier {
                members: start..end,
                table: is_hashed.then(|| table(chunk, start)).flatten(),
            });
            start = end;
        }
        Self { members, tiers, lack }
    }

    pub(crate) fn member(&self, index: u16) -> &Member {
        &self.members[usize::from(index)]
    }

    /// The table of a priority; only with `hash`.
    pub(crate) fn table(&self, tier: usize) -> Option<&Table> {
        self.tiers.get(tier)?.table.as_ref()
    }

    /// Whether both have the same endpoints.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.lack == other.lack && self.members == other.members
    }

    /// The members of each priority.
    pub(crate) fn tiers(&self) -> Vec<Range<u16>> {
        self.tiers.iter().map(|tier| tier.members.clone()).collect()
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
        board: Arc<Board>,
        pools: &Arc<Pools>,
        transport: &Arc<Transport>,
        group: &Arc<AtomicUsize>,
        generation: u64,
        rng: Rng,
    ) -> Self {
        let hold = |member: &Member| {
            Arc::new(Seat {
                local: pools.local(&member.endpoint, transport, group, generation),
                standing: member.standing.clone(),
            })
        };
        let seats = board.set.members.iter().map(hold).collect();
        pools.prune();
        Self { board, seats, turns: RoundRobin::default(), rng }
    }

    /// Adopts the roster of `board` and returns `true`, if both have the same set.
    pub(crate) fn follow(&mut self, board: &Arc<Board>) -> bool {
        let is_same = Arc::ptr_eq(&self.board.set, &board.set);
        if is_same {
            self.board = board.clone();
        }
        is_same
    }

    pub(crate) fn board(&self) -> &Board {
        &self.board
    }

    /// Picks an endpoint for `request`; `None` if there is none, or every breaker is open. Avoids
    /// those in `tried` as long as another may be chosen, of a lower priority if need be.
    pub(crate) fn pick(
        &mut self,
        policy: &Policy,
        request: &Request,
        tried: &[Attempt],
        now: Instant,
    ) -> Option<Choice> {
        let Self { board, seats, turns, rng } = self;
        let (set, roster) = (&board.set, &board.roster);
        let is_untried = |index: &u16| {
            let label = set.member(*index).endpoint.label();
            !tried.iter().any(|attempt| attempt.endpoint == *label)
        };
        let mut due = roster.probes.iter().filter(|index| is_untried(index)).map(|index| {
            let seat = &seats[usize::from(*index)];
            Some((seat, seat.standing.try_probe(now)?))
        });
        if let Some((seat, probe)) = due.find_map(|taken| taken) {
            return Some(Choice { seat: seat.clone(), probe: Some(probe) });
        }
        let chooser = Chooser { board, turns, rng, policy, request, now };
        let index = if tried.is_empty() {
            // The common case compares no names and builds no list.
            chooser.first()
        } else {
            let mut tiers = roster.tiers.iter().enumerate();
            let untried = tiers.find_map(|(tier, listed)| {
                let untried = listed.ready.iter().copied().filter(is_untried);
                let untried: Candidates = untried.collect();
                (!untried.is_empty()).then_some((tier, untried))
            });
            match untried {
                Some((tier, candidates)) => {
                    let key = chooser.key();
                    chooser.among(tier, &candidates, key)
                }
                None => chooser.first(),
            }
        }?;
        Some(Choice { seat: seats[usize::from(index)].clone(), probe: None })
    }
}

// === impl Chooser ===

impl Chooser<'_> {
    /// For a request that has tried no endpoint, or all of them.
    fn first(self) -> Option<u16> {
        let key = self.key();
        let at = || match &key {
            // The same value goes to the same priority.
            Some(key) => key.fraction(),
            None => self.rng.f64(),
        };
        let board = self.board;
        let tier = board.roster.tier(at)?;
        self.among(tier, &board.roster.tiers[tier].ready, key)
    }

    /// The value for `hash`; `None` with other policies, or if the request has no such value.
    fn key(&self) -> Option<Key> {
        let Policy::Hash(selector) = self.policy else { return None };
        let input = Input::new(&self.request.parts, &self.request.cx);
        let body = json_body(selector, self.request);
        let input = Input { body: body.as_ref(), ..input };
        Some(Key::new(selector.extract(&input)?.as_bytes()))
    }

    fn among(self, tier: usize, candidates: &[u16], key: Option<Key>) -> Option<u16> {
        let Self { board, turns, rng, policy, now, .. } = self;
        let Board { set, roster } = board;
        let in_flight = |index| set.member(index).endpoint.load().in_flight();
        let least = |index| pick::least_cost(in_flight(index), set.member(index).weight);
        if let (Some(key), Some(table)) = (key, set.table(tier)) {
            let listed = roster.tiers.get(tier)?;
            return hashed(key, table, set, listed, candidates);
        }
        if matches!(policy, Policy::RoundRobin) {
            return turns.next(candidates, |index| {
                set.member(index).weight.saturating_mul(u32::from(roster.share(index)))
            });
        }
        let warm;
        let candidates = if roster.shares.is_empty() {
            candidates
        } else {
            warm = thinned(candidates, roster, rng);
            &warm
        };
        match policy {
            Policy::P2cEwma => pick::two_choices(candidates, rng, |index| {
                let member = set.member(index);
                let expected = member.endpoint.load().expected(now);
                pick::ewma_cost(expected, in_flight(index), member.weight)
            }),
            // Without a value to hash, any endpoint may serve it.
            Policy::LeastRequest | Policy::RoundRobin | Policy::Hash(_) => {
                pick::two_choices(candidates, rng, least)
            }
        }
    }
}

/// The one of `candidates`, all in `listed`, that `key` belongs to.
pub(crate) fn hashed(
    key: Key,
    table: &Table,
    set: &Set,
    listed: &roster::Tier,
    candidates: &[u16],
) -> Option<u16> {
    let in_flight = |index| set.member(index).endpoint.load().in_flight();
    let weight = |index| f64::from(set.member(index).weight.max(1));
    // Shares among those that are left: they get the others' requests.
    let total_weight: f64 = listed.ready.iter().copied().map(weight).sum();
    let is_all = candidates.len() == listed.ready.len();
    table.pick(
        key,
        // The candidates are sorted, like `listed`.
        |index| {
            if is_all { listed.is_ready(index) } else { candidates.binary_search(&index).is_ok() }
        },
        in_flight,
        listed.ready.iter().copied().map(in_flight).sum(),
        |index| weight(index) / total_weight,
    )
}

/// The candidates while somebody warms up, each included as often as its share says. Its cost could
/// not express the share: under little load the most expensive is never chosen at all.
fn thinned(candidates: &[u16], roster: &Roster, rng: &mut Rng) -> Candidates {
    let mut is_in = |index: &u16| rng.u8(..FULL_SHARE) < roster.share(*index);
    let thinned: Candidates = candidates.iter().copied().filter(|index| is_in(index)).collect();
    if thinned.is_empty() { candidates.into() } else { thinned }
}

/// The body as JSON, if the selector needs it and the body is buffered.
fn json_body(selector: &Selector, request: &Request) -> Option<serde_json::Value> {
    let looks_into = selector.parts().iter().any(|part| matches!(part, Part::Json(_)));
    looks_into.then(|| serde_json::from_slice(request.body.as_full()?).ok()).flatten()
}
