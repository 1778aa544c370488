//! Which endpoints of a group may be chosen, computed from the standing of each. Pure.
//!
//! Checked in this order: priority group, active health (ignored in panic), outlier ejection,
//! breaker. Computed when something changes, not per request: a request finds the lists ready.
//!
//! Health and ejection never exclude everyone: before that, first ejection and then health are
//! ignored. An open breaker is never overruled.

use std::ops::Range;

use tokio::time::Instant;

use crate::balancer::{breaker::Phase, outlier::PANIC_FROM, standing::FULL_SHARE};

/// The assumed spare capacity of a group: with 71 % of its endpoints it can still take all
/// requests. Envoy's number.
const OVERPROVISIONING: f64 = 1.4;

/// The state of an endpoint at a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seen {
    /// Health checks do not say that it is down.
    pub(crate) is_up: bool,
    pub(crate) is_ejected: bool,
    pub(crate) breaker: Phase,
    /// Its share of its weight, in percent.
    pub(crate) share: u8,
}

/// Who may be chosen. Indices are those of the set it was made for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Roster {
    /// One for each priority.
    pub(crate) tiers: Vec<Tier>,
    /// Members whose breaker is due for a probe.
    pub(crate) probes: Vec<u16>,
    /// Each member's share of its weight, in percent; empty if all have 100.
    pub(crate) shares: Vec<u8>,
    /// When the first open breaker lets a probe through.
    pub(crate) retry_at: Option<Instant>,
    /// Whether any priority ignores the results of health checks.
    pub(crate) is_panic: bool,
}

/// The members of one priority that may be chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tier {
    pub(crate) ready: Vec<u16>,
    /// Whether each of the priority's members, in order, is in `ready`.
    is_ready: Vec<bool>,
    start: u16,
    /// The part of the requests of this priority and those before it, 0 to 1.
    until: f64,
}

/// The state that is counted and shown for an endpoint: the first thing that is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    Down,
    Ejected,
    BreakerOpen,
}

/// All of them, in order.
pub(crate) const STATES: [State; 4] =
    [State::Ready, State::Down, State::Ejected, State::BreakerOpen];

/// Whether requests may go to an endpoint with a closed breaker; the flag: its priority panics.
type Rule = fn(&Seen, bool) -> bool;

// === impl Roster ===

impl Roster {
    /// `tiers` are the members of each priority, in order; `seen` is the state of each member.
    pub(crate) fn new(tiers: &[Range<u16>], seen: &[Seen], panic_threshold: f64) -> Self {
        let members = |tier: &Range<u16>| {
            tier.clone().filter_map(|index| seen.get(usize::from(index)).map(|seen| (index, seen)))
        };
        let capacities: Vec<f64> = tiers
            .iter()
            .map(|tier| {
                let sound = members(tier).filter(|(_, seen)| seen.is_sound()).count();
                (OVERPROVISIONING * sound as f64 / tier.len().max(1) as f64).min(1.0)
            })
            .collect();
        let has_others = tiers.len() > 1 && capacities.iter().sum::<f64>() >= 1.0;
        let panics: Vec<bool> = tiers
            .iter()
            .map(|tier| {
                let up = members(tier).filter(|(_, seen)| seen.is_up).count();
                let is_low = (up as f64) < panic_threshold * tier.len() as f64;
                is_low && tier.len() >= PANIC_FROM && !has_others
            })
            .collect();
        // The strictest rule that leaves somebody applies, to all priorities.
        let rules: [Rule; 3] = [
            |seen, panics| (seen.is_up || panics) && !seen.is_ejected,
            |seen, _| seen.is_up,
            |_, _| true,
        ];
        let list = |rule: Rule| -> Vec<Tier> {
            let of = |(tier, &panics): (&Range<u16>, &bool)| {
                let may = |seen: &Seen| rule(seen, panics) && seen.breaker == Phase::Closed;
                let is_ready: Vec<bool> = members(tier).map(|(_, seen)| may(seen)).collect();
                let ready = tier.clone().zip(&is_ready).filter(|(_, is_ready)| **is_ready);
                let ready = ready.map(|(index, _)| index).collect();
                Tier { ready, is_ready, start: tier.start, until: 0.0 }
            };
            tiers.iter().zip(&panics).map(of).collect()
        };
        let is_someone = |tiers: &Vec<Tier>| tiers.iter().any(|tier| !tier.ready.is_empty());
        let strictest = rules.into_iter().find(|rule| is_someone(&list(*rule)));
        let rule = strictest.unwrap_or(rules[2]);
        let mut lists = list(rule);
        divide(&mut lists, &capacities);
        // Only priorities that get requests, or would if more of their members were healthy.
        let mut taken = 0.0;
        let enough = capacities.iter().position(|capacity| {
            taken += capacity;
            taken >= 1.0
        });
        let idle = enough.map_or(lists.len(), |last| last + 1);
        let is_due = |seen: &Seen, panics| {
            matches!(seen.breaker, Phase::Due { .. } | Phase::Probing { .. }) && rule(seen, panics)
        };
        let probes = tiers[..idle].iter().zip(&panics).flat_map(|(tier, &panics)| {
            members(tier).filter(move |(_, seen)| is_due(seen, panics)).map(|(index, _)| index)
        });
        let is_warming = seen.iter().any(|seen| seen.share < FULL_SHARE);
        Self {
            probes: probes.collect(),
            tiers: lists,
            shares: if is_warming { seen.iter().map(|seen| seen.share).collect() } else { vec![] },
            retry_at: seen.iter().filter_map(Seen::reopens).min(),
            is_panic: panics.contains(&true),
        }
    }

    /// The priority of a request at `at`, from 0 to 1, in the sequence of all requests. `None` if
    /// nobody may be chosen.
    pub(crate) fn tier(&self, at: impl FnOnce() -> f64) -> Option<usize> {
        let whole = self.tiers.iter().position(|tier| !tier.ready.is_empty())?;
        if self.tiers[whole].until >= 1.0 {
            return Some(whole);
        }
        let at = at();
        let found = self.tiers.iter().position(|tier| at < tier.until && !tier.ready.is_empty());
        Some(found.unwrap_or(whole))
    }

    /// Each priority's part of the requests.
    pub(crate) fn parts(&self) -> Vec<f64> {
        let mut before = 0.0;
        let part = |tier: &Tier| {
            let part = tier.until - before;
            before = tier.until;
            part
        };
        self.tiers.iter().map(part).collect()
    }

    /// Whether requests go to this member.
    pub(crate) fn is_ready(&self, index: u16) -> bool {
        self.tiers.iter().any(|tier| tier.is_ready(index))
    }

    /// This member's share of its weight, in percent.
    pub(crate) fn share(&self, index: u16) -> u8 {
        self.shares.get(usize::from(index)).copied().unwrap_or(FULL_SHARE)
    }
}

/// Each priority takes what it can, the next ones what is left. If their total capacity is too
/// small, they share all requests in proportion.
fn divide(tiers: &mut [Tier], capacities: &[f64]) {
    let mut left = 1.0;
    let mut parts: Vec<f64> = Vec::with_capacity(tiers.len());
    for (tier, capacity) in tiers.iter().zip(capacities) {
        let part = if tier.ready.is_empty() { 0.0 } else { capacity.min(left) };
        left -= part;
        parts.push(part);
    }
    let sum: f64 = parts.iter().sum();
    if sum <= 0.0 {
        // Nobody is sound: use the first priority that has anybody.
        let first = tiers.iter().position(|tier| !tier.ready.is_empty());
        for (index, part) in parts.iter_mut().enumerate() {
            *part = f64::from(u8::from(first == Some(index)));
        }
    }
    let sum = if sum <= 0.0 { 1.0 } else { sum };
    let last = parts.iter().rposition(|part| *part > 0.0);
    let mut until = 0.0;
    for (index, (tier, part)) in tiers.iter_mut().zip(parts).enumerate() {
        until += part / sum;
        // Sums of fractions miss 1 by a little.
        if last.is_some_and(|last| index >= last) {
            until = 1.0;
        }
        tier.until = until;
    }
}

// === impl State ===

impl State {
    /// Its name in metrics and for the operator.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::BreakerOpen => "breaker-open",
        }
    }
}

// === impl Tier ===

impl Tier {
    pub(crate) fn is_ready(&self, index: u16) -> bool {
        let at = index.checked_sub(self.start).map(usize::from);
        at.and_then(|at| self.is_ready.get(at)).copied().unwrap_or(false)
    }
}

// === impl Seen ===

impl Seen {
    pub(crate) fn state(&self) -> State {
        if !self.is_up {
            State::Down
        } else if self.is_ejected {
            State::Ejected
        } else if self.breaker == Phase::Closed {
            State::Ready
        } else {
            State::BreakerOpen
        }
    }

    fn is_sound(&self) -> bool {
        self.is_up && !self.is_ejected && self.breaker == Phase::Closed
    }

    fn reopens(&self) -> Option<Instant> {
        match self.breaker {
            Phase::Open { until, .. } => Some(until),
            Phase::Closed | Phase::Due { .. } | Phase::Probing { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    const WELL: Seen =
        Seen { is_up: true, is_ejected: false, breaker: Phase::Closed, share: FULL_SHARE };
    const DOWN: Seen = Seen { is_up: false, ..WELL };
    const EJECTED: Seen = Seen { is_ejected: true, ..WELL };

    fn roster(tiers: &[&[Seen]]) -> Roster {
        let mut start = 0;
        let ranges = tiers.iter().map(|tier| {
            let range = start..start + u16::try_from(tier.len()).unwrap();
            start = range.end;
            range
        });
        Roster::new(&ranges.collect::<Vec<_>>(), &tiers.concat(), 0.5)
    }

    fn ready(roster: &Roster) -> Vec<u16> {
        roster.tiers.iter().flat_map(|tier| tier.ready.clone()).collect()
    }

    fn is_near(parts: &[f64], expected: &[f64]) -> bool {
        parts.len() == expected.len()
            && parts.iter().zip(expected).all(|(part, expected)| (part - expected).abs() < 1e-9)
    }

    #[test]
    fn who_is_down_or_ejected_is_not_chosen() {
        let roster = roster(&[&[WELL, DOWN, WELL, EJECTED, WELL]]);
        assert_eq!(ready(&roster), [0, 2, 4]);
        assert!(roster.is_ready(2) && !roster.is_ready(1) && !roster.is_panic);
        assert_eq!(roster.tier(|| 0.99), Some(0));
    }

    #[test]
    fn under_half_healthy_of_three_and_more_is_panic() {
        let panicking = roster(&[&[WELL, DOWN, DOWN]]);
        assert!(panicking.is_panic);
        assert_eq!(ready(&panicking), [0, 1, 2]);
        let half = roster(&[&[WELL, WELL, DOWN, DOWN]]);
        assert!(!half.is_panic, "half is enough");
        let two = roster(&[&[WELL, DOWN]]);
        assert!(!two.is_panic);
        assert_eq!(ready(&two), [0]);
        let ejected = roster(&[&[EJECTED, DOWN, DOWN]]);
        assert_eq!(ready(&ejected), [1, 2], "panic ignores health, not ejection");
    }

    #[test]
    fn health_and_ejection_never_leave_nobody() {
        assert_eq!(ready(&roster(&[&[DOWN, DOWN]])), [0, 1]);
        assert_eq!(ready(&roster(&[&[EJECTED, DOWN]])), [0], "ejection is ignored first");
        assert_eq!(ready(&roster(&[&[EJECTED]])), [0]);
        let all_down = roster(&[&[DOWN], &[DOWN]]);
        assert!(is_near(&all_down.parts(), &[1.0, 0.0]), "the first priority again");
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_breaker_is_not_overruled_but_probed() {
        let now = Instant::now();
        let until = now + std::time::Duration::from_secs(1);
        let open = Seen { breaker: Phase::Open { since: now, until }, ..WELL };
        let due = Seen { breaker: Phase::Due { since: now }, ..WELL };
        assert_eq!(ready(&roster(&[&[open, WELL]])), [1]);
        let nobody = roster(&[&[open, open]]);
        assert_eq!((nobody.tier(|| 0.0), nobody.retry_at), (None, Some(until)));
        let probed = roster(&[&[due, WELL], &[due]]);
        assert_eq!(
            probed.probes,
            [0, 2],
            "half of the first is not enough, so the next serves too"
        );
        assert_eq!(roster(&[&[WELL], &[due]]).probes, [0u16; 0], "nobody asks the second");
        assert_eq!(roster(&[&[Seen { is_up: false, ..due }, WELL]]).probes, [0u16; 0]);
        let all = roster(&[&[Seen { is_up: false, ..due }]]);
        assert_eq!(all.probes, [0], "with nobody else also one that is down");
    }

    #[test]
    fn the_next_priority_helps_only_below_seventy_percent() {
        let ten = |well: usize| {
            let mut tier = vec![WELL; well];
            tier.resize(10, DOWN);
            tier
        };
        let parts = |first: usize, second: usize| roster(&[&ten(first), &ten(second)]).parts();
        assert!(is_near(&parts(8, 10), &[1.0, 0.0]));
        assert!(is_near(&parts(7, 10), &[0.98, 0.02]));
        assert!(is_near(&parts(5, 10), &[0.7, 0.3]));
        assert!(is_near(&parts(0, 10), &[0.0, 1.0]));
        assert!(is_near(&parts(2, 3), &[0.4, 0.6]), "both short: in proportion");
        assert!(!roster(&[&ten(2), &ten(10)]).is_panic, "the second can take it all");
        assert!(roster(&[&ten(2), &ten(2)]).is_panic);
    }

    #[test]
    fn shares_are_listed_only_while_somebody_warms_up() {
        assert!(roster(&[&[WELL, WELL]]).shares.is_empty());
        let warming = roster(&[&[WELL, Seen { share: 10, ..WELL }]]);
        assert_eq!((warming.share(0), warming.share(1), warming.share(9)), (100, 10, 100));
    }

    fn any_seen() -> impl Strategy<Value = Seen> {
        (any::<bool>(), any::<bool>(), prop::bool::weighted(0.2)).prop_map(
            |(is_up, is_ejected, is_open)| {
                let now = Instant::now();
                let breaker = if is_open { Phase::Due { since: now } } else { Phase::Closed };
                Seen { is_up, is_ejected, breaker, share: FULL_SHARE }
            },
        )
    }

    proptest! {
        #[test]
        fn parts_sum_to_one_and_go_to_who_is_there(
            tiers in prop::collection::vec(prop::collection::vec(any_seen(), 1..12), 1..4),
            at in 0.0f64..1.0,
        ) {
            let tiers: Vec<&[Seen]> = tiers.iter().map(Vec::as_slice).collect();
            let roster = roster(&tiers);
            let has_closed = tiers.concat().iter().any(|seen| seen.breaker == Phase::Closed);
            prop_assert_eq!(roster.tier(|| at).is_some(), has_closed);
            if has_closed {
                let parts = roster.parts();
                prop_assert!((parts.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{:?}", parts);
                prop_assert!(parts.iter().all(|part| *part >= 0.0), "{:?}", parts);
                for (tier, part) in roster.tiers.iter().zip(&parts) {
                    prop_assert!(*part <= 0.0 || !tier.ready.is_empty());
                }
                let chosen = roster.tier(|| at).unwrap();
                prop_assert!(!roster.tiers[chosen].ready.is_empty());
            } else {
                prop_assert!(!roster.probes.is_empty());
            }
        }
    }
}
