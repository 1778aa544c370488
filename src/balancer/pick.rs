//! Chooses one of several candidates. Pure: costs and randomness are arguments.
//!
//! "Power of two choices": the cheaper of two random candidates is almost as good as the cheapest
//! of all, and unlike that one it does not attract everyone at once. Up to three candidates are all
//! compared: two random ones would too often be the two worse ones.

use fastrand::Rng;

/// Up to this number of candidates, all are compared.
pub(crate) const FULL_SCAN: usize = 3;

/// Smooth weighted round robin, as in nginx: `{5, 1, 1}` gives `a a b a c a a`, not `a a a a a`.
#[derive(Debug, Default)]
pub(crate) struct RoundRobin {
    credits: Vec<i64>,
}

/// The expected cost of one more request: with twice the weight, half the cost.
pub(crate) fn ewma_cost(expected_seconds: f32, in_flight: usize, weight: u32) -> f64 {
    f64::from(expected_seconds) * least_cost(in_flight, weight)
}

/// The load after one more request: with twice the weight, half the load.
pub(crate) fn least_cost(in_flight: usize, weight: u32) -> f64 {
    (in_flight as f64 + 1.0) / f64::from(weight.max(1))
}

/// One of `candidates`, biased towards the cheap; `None` only if there is none.
pub(crate) fn two_choices(
    candidates: &[u16],
    rng: &mut Rng,
    cost: impl Fn(u16) -> f64,
) -> Option<u16> {
    match candidates {
        [] => None,
        [only] => Some(*only),
        few if few.len() <= FULL_SCAN => {
            // From a random start, so that equals share: only a cheaper one replaces it.
            let start = rng.usize(..few.len());
            let mut rest = few.iter().cycle().skip(start).take(few.len()).copied();
            let first = rest.next()?;
            let best = rest.fold((first, cost(first)), |best, other| {
                let cost = cost(other);
                if cost < best.1 { (other, cost) } else { best }
            });
            Some(best.0)
        }
        many => {
            let first = rng.usize(..many.len());
            // One of the others: the index steps over the first choice.
            let second = rng.usize(..many.len() - 1);
            let second = second + usize::from(second >= first);
            let (first, second) = (many[first], many[second]);
            Some(if cost(second) < cost(first) { second } else { first })
        }
    }
}

// === impl RoundRobin ===

impl RoundRobin {
    /// The next of `candidates`; over time each is chosen in proportion to its weight.
    pub(crate) fn next(&mut self, candidates: &[u16], weight: impl Fn(u16) -> u32) -> Option<u16> {
        let mut total = 0;
        let mut best: Option<u16> = None;
        for &candidate in candidates {
            let index = usize::from(candidate);
            if self.credits.len() <= index {
                self.credits.resize(index + 1, 0);
            }
            let weight = i64::from(weight(candidate).max(1));
            total += weight;
            self.credits[index] += weight;
            if best.is_none_or(|best| self.credits[index] > self.credits[usize::from(best)]) {
                best = Some(candidate);
            }
        }
        let best = best?;
        self.credits[usize::from(best)] -= total;
        Some(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use fastrand::Rng;
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    fn counts(rounds: usize, of: usize, mut pick: impl FnMut() -> u16) -> Vec<usize> {
        let mut counts = vec![0; of];
        for _ in 0..rounds {
            counts[usize::from(pick())] += 1;
        }
        counts
    }

    #[test]
    fn of_few_the_cheapest_is_always_found() {
        let mut rng = Rng::with_seed(7);
        let counts = counts(1000, 3, || {
            two_choices(&[0, 1, 2], &mut rng, |c| [3.0, 1.0, 2.0][usize::from(c)]).unwrap()
        });
        assert_eq!(counts, [0, 1000, 0]);
    }

    #[test]
    fn equals_share() {
        for candidates in [vec![0, 1, 2], vec![0, 1, 2, 3, 4, 5, 6, 7]] {
            let mut rng = Rng::with_seed(7);
            let n = candidates.len();
            let counts = counts(8000, n, || two_choices(&candidates, &mut rng, |_| 1.0).unwrap());
            let fair = 8000 / n;
            assert!(counts.iter().all(|&c| c.abs_diff(fair) < fair / 5), "{counts:?}");
        }
    }

    #[test]
    fn of_many_the_dearest_is_never_chosen() {
        let mut rng = Rng::with_seed(7);
        let candidates: Vec<u16> = (0..10).collect();
        let counts = counts(10_000, 10, || two_choices(&candidates, &mut rng, f64::from).unwrap());
        assert_eq!(counts[9], 0);
        assert!(counts.is_sorted_by(|a, b| a >= b), "{counts:?}");
    }

    #[test]
    fn round_robin_is_smooth() {
        let mut turns = RoundRobin::default();
        let weights = [5, 1, 1];
        let order: Vec<u16> =
            (0..7).map(|_| turns.next(&[0, 1, 2], |c| weights[usize::from(c)]).unwrap()).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn weights_divide_the_cost() {
        assert!(ewma_cost(0.03, 9, 10) < ewma_cost(0.03, 1, 1));
        assert!((least_cost(3, 2) - 2.0).abs() < f64::EPSILON);
        assert!((least_cost(0, 0) - 1.0).abs() < f64::EPSILON);
    }

    proptest! {
        #[test]
        fn round_robin_keeps_the_proportions(weights in prop::collection::vec(1u32..20, 1..8)) {
            let mut turns = RoundRobin::default();
            let candidates: Vec<u16> = (0..u16::try_from(weights.len()).unwrap()).collect();
            let total = weights.iter().sum::<u32>() as usize;
            let seen = counts(total, weights.len(), || {
                turns.next(&candidates, |c| weights[usize::from(c)]).unwrap()
            });
            let wanted: Vec<usize> = weights.iter().map(|&w| w as usize).collect();
            prop_assert_eq!(seen, wanted);
        }

        #[test]
        fn the_chosen_one_is_a_candidate(
            candidates in prop::collection::vec(any::<u16>(), 0..20), seed: u64,
        ) {
            let mut rng = Rng::with_seed(seed);
            let picked = two_choices(&candidates, &mut rng, f64::from);
            prop_assert_eq!(picked.is_none(), candidates.is_empty());
            prop_assert!(picked.is_none_or(|picked| candidates.contains(&picked)));
        }
    }
}
