//! Charges several policies for one request: all of them, or none.
//!
//! Pure except for the buckets' locks. Each bucket is locked, in the order of the stores, and
//! asked. Only then is it known whether the request passes, and either every new state is written
//! or none. A policy in shadow mode denies nothing, and is charged when it would have admitted.
//! Costs a lock and a little arithmetic per policy; no allocation for up to four.

use std::{sync::Arc, time::Duration};

use smallvec::{SmallVec, smallvec};

use super::{
    gcra::{Judgement, Nanos, judge},
    key::Fingerprint,
    policy::{Mode, Policy, Standing},
    store::Bucket,
};

/// The verdict of a policy on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether there was room.
    pub outcome: Outcome,
    /// The state of the key afterwards.
    pub standing: Standing,
    /// Whether the key shares the overflow bucket, because there was no room for its own.
    pub is_overflow: bool,
}

/// Whether a bucket had room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It had room; charged unless another policy denied.
    Admitted,
    /// It had none, and the request is denied.
    Denied {
        /// How long until it has room.
        wait: Duration,
    },
    /// It had none, but the policy only counts.
    ShadowDenied,
}

/// One verdict per policy, in their order.
pub type Verdicts = SmallVec<[Verdict; 4]>;

/// One key per policy.
pub type Keys = SmallVec<[Fingerprint; 4]>;

/// Charges each policy for a request with its key. Each policy has its own store, and they come in
/// ascending order of [`Store::id`](super::store::Store::id).
pub fn charge(policies: &[Arc<Policy>], keys: &[Fingerprint], now: Nanos) -> Verdicts {
    debug_assert!(policies.is_sorted_by(|a, b| a.store().id() < b.store().id()));
    if let ([policy], [key]) = (policies, keys) {
        // The common case needs no list.
        let (bucket, judgement) = ask(policy, *key, now);
        let is_denied = is_refusal(policy, judgement);
        return smallvec![settle(policy, bucket, judgement, is_denied, now)];
    }
    let asked: SmallVec<[_; 4]> =
        policies.iter().zip(keys).map(|(policy, key)| ask(policy, *key, now)).collect();
    let is_denied =
        asked.iter().zip(policies).any(|((_, judgement), policy)| is_refusal(policy, *judgement));
    let settled = asked
        .into_iter()
        .zip(policies)
        .map(|((bucket, judgement), policy)| settle(policy, bucket, judgement, is_denied, now));
    settled.collect()
}

/// Locks the bucket of `key` and judges the request.
fn ask(policy: &Policy, key: Fingerprint, now: Nanos) -> (Bucket<'_>, Judgement) {
    let bucket = policy.store().bucket(key, now);
    let judgement = judge(policy.settings().limit, bucket.full_at(), now);
    (bucket, judgement)
}

/// Charges the bucket if it has room and no policy denied, and unlocks it.
fn settle(
    policy: &Policy,
    bucket: Bucket<'_>,
    judgement: Judgement,
    is_denied: bool,
    now: Nanos,
) -> Verdict {
    let is_overflow = bucket.is_overflow();
    let (outcome, standing) = match judgement {
        Judgement::Pass { next, remaining } if !is_denied => {
            bucket.commit(next);
            (Outcome::Admitted, Standing { remaining, reset: next.saturating_sub(now) })
        }
        Judgement::Pass { remaining, .. } => {
            let reset = bucket.full_at().unwrap_or(now).saturating_sub(now);
            (Outcome::Admitted, Standing { remaining: remaining + 1, reset })
        }
        Judgement::Deny { wait, full_at } => {
            let standing = Standing { remaining: 0, reset: full_at.saturating_sub(now) };
            let outcome = match policy.settings().mode {
                Mode::Enforce => Outcome::Denied { wait },
                Mode::Shadow => Outcome::ShadowDenied,
            };
            (outcome, standing)
        }
    };
    Verdict { outcome, standing, is_overflow }
}

fn is_refusal(policy: &Policy, judgement: Judgement) -> bool {
    policy.settings().mode == Mode::Enforce && matches!(judgement, Judgement::Deny { .. })
}

#[cfg(test)]
mod tests {
    use std::{
        num::NonZeroU32,
        sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
        thread,
    };

    use super::*;
    use crate::{
        http::selector::{Part, Selector},
        middleware::rate_limit::{Key, Settings, gcra},
    };

    const START: u64 = 1_000_000_000;

    fn policy(name: &str, rate: u64, burst: u32, mode: Mode) -> Arc<Policy> {
        let per = Duration::from_secs(1);
        let settings = Settings {
            name: name.into(),
            key: Key::new(Selector::new([Part::ClientIp]), "client_ip"),
            limit: gcra::limit(rate, per, NonZeroU32::new(burst).unwrap()).unwrap(),
            count: rate,
            per,
            mode,
            max_keys: 1000,
        };
        Policy::new(settings, &[])
    }

    fn key(n: u64) -> Fingerprint {
        Fingerprint::from_bits(n)
    }

    fn outcomes(verdicts: &Verdicts) -> Vec<Outcome> {
        verdicts.iter().map(|verdict| verdict.outcome).collect()
    }

    #[test]
    fn when_one_denies_none_is_charged() {
        let policies =
            [policy("wide", 10, 100, Mode::Enforce), policy("narrow", 10, 2, Mode::Enforce)];
        let keys = [key(1), key(2)];
        let now = Nanos::from(START);
        for _ in 0..2 {
            let admitted = charge(&policies, &keys, now);
            assert_eq!(outcomes(&admitted), [Outcome::Admitted; 2]);
        }
        let before = policies[0].standing(keys[0], now);
        assert_eq!(before.remaining, 98);
        for _ in 0..50 {
            let denied = charge(&policies, &keys, now);
            let wait = Duration::from_millis(100);
            assert_eq!(outcomes(&denied), [Outcome::Admitted, Outcome::Denied { wait }]);
            assert_eq!(denied[0].standing, before, "told as it stands, uncharged");
            assert_eq!(denied[1].standing.remaining, 0);
        }
        assert_eq!(policies[0].standing(keys[0], now), before);
    }

    #[test]
    fn a_shadow_counts_and_admits() {
        let policies =
            [policy("shadow", 10, 1, Mode::Shadow), policy("real", 10, 3, Mode::Enforce)];
        let keys = [key(1), key(1)];
        let now = Nanos::from(START);
        assert_eq!(outcomes(&charge(&policies, &keys, now)), [Outcome::Admitted; 2]);
        for _ in 0..2 {
            let verdicts = charge(&policies, &keys, now);
            assert_eq!(outcomes(&verdicts), [Outcome::ShadowDenied, Outcome::Admitted]);
        }
        assert_eq!(policies[1].standing(keys[1], now).remaining, 0, "the other was charged");
        // The shadow is not charged for what it did not admit.
        let standing = policies[0].standing(keys[0], now);
        assert_eq!(standing.reset, Duration::from_millis(100).into());
    }

    /// The accuracy promise: whatever the threads do, at most `burst + rate x t` are admitted in
    /// `t`, and at least one less than that.
    #[test]
    fn sixty_four_clients_are_admitted_within_one_of_burst_and_rate_times_time() {
        const CLIENTS: usize = 64;
        const CHECKS: u64 = 3_000;
        // A thread preempted between the clock and the bucket is late by at most one step of each
        // other thread: less than an interval, which a burst of two can absorb. Before the first
        // request a bucket cannot, so that one comes before the threads.
        for (rate, burst) in [(1_000, 2), (1_000, 40), (50, 200)] {
            let policies = [policy("a", rate, burst, Mode::Enforce)];
            charge(&policies, &[key(1)], Nanos::from(START));
            let (admitted, clock) = (AtomicUsize::new(1), AtomicU64::new(START));
            thread::scope(|scope| {
                for _ in 0..CLIENTS {
                    scope.spawn(|| {
                        for _ in 0..CHECKS {
                            // All share one clock that never goes back, and advance it.
                            let now = clock.fetch_add(10_000, Ordering::Relaxed);
                            let verdicts = charge(&policies, &[key(1)], Nanos::from(now));
                            if verdicts[0].outcome == Outcome::Admitted {
                                admitted.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    });
                }
            });
            let took = clock.into_inner() - 10_000 - START;
            // A thread preempted between its time and its check leaves a gap. A burst bridges gaps;
            // without one, no request came in the time that is lost.
            let bridged = if burst > 1 { 1.0 } else { f64::INFINITY };
            let most = f64::from(burst) + rate as f64 * Duration::from_nanos(took).as_secs_f64();
            let admitted = admitted.into_inner() as f64;
            assert!(
                admitted <= most + 1.0 && admitted >= most - bridged,
                "{admitted} admitted of {most:.2} at {rate}/s, burst {burst}"
            );
        }
    }

    #[test]
    fn threads_that_share_policies_in_many_ways_do_not_wait_in_a_circle() {
        const BURST: u32 = 50;
        const KEYS: usize = 7;
        let all: Vec<_> = (0..4).map(|n| policy(&n.to_string(), 1, BURST, Mode::Enforce)).collect();
        let passed: [[AtomicU32; KEYS]; 4] = Default::default();
        thread::scope(|scope| {
            for mask in 1..16_usize {
                let (all, passed) = (&all, &passed);
                scope.spawn(move || {
                    let chosen: Vec<_> = (0..4).filter(|n| mask & (1 << n) != 0).collect();
                    let policies: Vec<_> = chosen.iter().map(|n| all[*n].clone()).collect();
                    for n in (0..KEYS).cycle().take(2_000) {
                        let keys: Keys = chosen.iter().map(|_| key(n as u64 + 1)).collect();
                        let verdicts = charge(&policies, &keys, Nanos::from(START));
                        if outcomes(&verdicts).iter().all(|it| *it == Outcome::Admitted) {
                            for policy in &chosen {
                                passed[*policy][n].fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        // The time stands still, and each policy was charged alone often enough to be exhausted.
        for (policy, passed) in all.iter().zip(passed) {
            for (n, passed) in (1..).zip(passed) {
                let standing = policy.standing(key(n), Nanos::from(START));
                assert_eq!((standing.remaining, passed.into_inner()), (0, BURST));
            }
        }
    }

    #[test]
    fn a_key_that_gets_a_slot_after_the_overflow_bucket_has_at_most_one_burst_more() {
        let policies = [policy("a", 1, 3, Mode::Enforce)];
        policies[0].store().set_max_keys(1);
        let admitted = |n, now: Nanos| {
            let of = |_| charge(&policies, &[key(n)], now)[0].outcome == Outcome::Admitted;
            (0..10).map(of).filter(|is_admitted| *is_admitted).count()
        };
        let start = Nanos::from(START);
        let idle = start + Duration::from_secs(2);
        charge(&policies, &[key(1)], start);
        assert_eq!(admitted(2, start), 3, "of the overflow bucket");
        assert_eq!(admitted(2, idle), 3, "of its own, in place of the idle key");
        assert_eq!(admitted(2, idle), 0);
        assert_eq!(admitted(3, idle), 2, "what came back to the overflow bucket since");
    }

    #[test]
    fn keys_without_room_share_a_bucket_and_are_told_so() {
        let policies = [policy("a", 1, 2, Mode::Enforce)];
        policies[0].store().set_max_keys(1);
        let now = Nanos::from(START);
        let of = |n| charge(&policies, &[key(n)], now)[0];
        assert!(!of(1).is_overflow);
        let others: Vec<_> = (2..6).map(of).collect();
        assert!(others.iter().all(|verdict| verdict.is_overflow));
        let admitted = others.iter().filter(|verdict| verdict.outcome == Outcome::Admitted);
        assert_eq!(admitted.count(), 2, "together they have one burst");
    }
}
