//! Predicts which endpoint the next request would get, without sending it. For `explain` on a
//! running gateway.

use tokio::time::Instant;

use crate::{
    balancer::{
        Policy,
        breaker::Phase,
        group::Shared,
        maglev::Key,
        pick,
        roster::Roster,
        set::{Board, Set, hashed},
    },
    http::selector::{Input, Part, Selector},
};

/// Which endpoint a request would get now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// Its address, if it can be told.
    pub endpoint: Option<String>,
    /// Why that one, or why none, or why it cannot be told.
    pub why: String,
    /// Whether a request would be refused.
    pub is_refused: bool,
}

/// The preview for a request with this `input`.
pub(super) fn of(shared: &Shared, input: &Input<'_>, now: Instant) -> Preview {
    let board = shared.board.borrow().clone();
    let Board { set, roster } = &*board;
    let address = |index: u16| Some(set.member(index).endpoint.address().to_string());
    let told = |endpoint, why: String| Preview { endpoint, why, is_refused: false };
    if set.members.is_empty() {
        let why = "503: it has no address at the moment".to_owned();
        return Preview { endpoint: None, why, is_refused: true };
    }
    let is_due = |index: &&u16| {
        let record = set.member(**index).standing.record();
        matches!(record.breaker.phase(now), Phase::Due { .. })
    };
    if let Some(&probe) = roster.probes.iter().find(is_due) {
        return told(address(probe), "as the probe its circuit breaker waits for".to_owned());
    }
    let policy = &shared.settings.policy;
    let key = match policy {
        Policy::Hash(selector) => selector.extract(input).map(|v| Key::new(v.as_bytes())),
        Policy::P2cEwma | Policy::LeastRequest | Policy::RoundRobin => None,
    };
    let Some(tier) = roster.tier(|| key.map_or(0.0, Key::fraction)) else {
        let why = "503 breaker-open: every circuit breaker is open".to_owned();
        return Preview { endpoint: None, why, is_refused: true };
    };
    let listed = &roster.tiers[tier];
    match (policy, key) {
        (_, _) if listed.ready.len() == 1 => {
            told(address(listed.ready[0]), "the only one that may be chosen".to_owned())
        }
        (Policy::RoundRobin, _) => {
            told(None, format!("each of {} in its turn", listed.ready.len()))
        }
        (Policy::Hash(selector), None) if is_unasked(selector) => {
            told(None, "by a value that is not part of the question".to_owned())
        }
        (_, Some(key)) => match set.table(tier) {
            Some(table) => {
                let chosen = hashed(key, table, set, listed, &listed.ready);
                told(chosen.and_then(address), "by the hash of its value".to_owned())
            }
            None => told(None, "nobody".to_owned()),
        },
        (_, None) => {
            let cheapest = cheapest(policy, set, roster, tier, now);
            let of = listed.ready.len();
            let why = if of <= pick::FULL_SCAN {
                format!("the cheapest of {of} now")
            } else {
                format!("the cheapest of {of} now: the cheaper of two random ones is chosen")
            };
            told(cheapest.and_then(address), why)
        }
    }
}

fn cheapest(policy: &Policy, set: &Set, roster: &Roster, tier: usize, now: Instant) -> Option<u16> {
    let cost = |index: &u16| {
        let member = set.member(*index);
        let load = member.endpoint.load();
        match policy {
            Policy::P2cEwma => pick::ewma_cost(load.expected(now), load.in_flight(), member.weight),
            Policy::LeastRequest | Policy::RoundRobin | Policy::Hash(_) => {
                pick::least_cost(load.in_flight(), member.weight)
            }
        }
    };
    let ready = roster.tiers.get(tier)?.ready.iter().copied();
    ready.min_by(|a, b| cost(a).total_cmp(&cost(b)))
}

/// Whether it uses values that the caller does not give.
fn is_unasked(selector: &Selector) -> bool {
    let is_unasked = |part: &Part| {
        matches!(part, Part::ClientIp | Part::Claim(_) | Part::Principal | Part::Json(_))
    };
    selector.parts().iter().any(is_unasked)
}
