//! Bounds the retries that requests to an upstream may cause, so that retries never keep it down.
//!
//! tower's [`TpsBudget`]: every request on a route with `retry` deposits, every retry withdraws.
//! One budget per upstream and worker, so that workers share no counter; [`Budgets`] keeps them
//! across reloads. Time is tokio's, so that a paused test pauses it too. Costs an uncontended lock
//! per request of such a route.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tower::retry::budget::{Budget as _, TpsBudget};

/// Retries per second, besides the ratio, for an upstream with one endpoint: all of them go to the
/// endpoint that has just failed.
const ALONE_PER_SECOND: u32 = 3;

/// `upstreams.*.retry_budget`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The ratio of retries to requests, 0 to 1.
    pub ratio: f32,
    /// How long a request counts; 1 to 60 s, the range of [`TpsBudget`].
    pub window: Duration,
    /// Retries per second whatever the traffic, over all workers.
    pub min_per_second: u32,
}

/// The budget of one upstream on one worker.
pub struct Budget {
    base: TpsBudget,
    /// What an upstream with more than one endpoint gets on top.
    extra: TpsBudget,
}

/// One worker's budgets by the upstream's name; outlives reloads.
pub struct Budgets {
    worker: usize,
    known: Mutex<HashMap<Box<str>, Known>>,
}

/// A budget, and the settings it was made with.
type Known = (Settings, Arc<Budget>);

// === impl Settings ===

impl Default for Settings {
    /// The defaults of Finagle and Linkerd.
    fn default() -> Self {
        Self { ratio: 0.2, window: Duration::from_secs(10), min_per_second: 10 }
    }
}

// === impl Budget ===

impl Budget {
    /// The part of `worker`, counted from 0. The parts of all `workers` add up to the configured
    /// number, so some may get nothing but the ratio; class A needs no budget.
    pub fn new(settings: Settings, worker: usize, workers: usize) -> Self {
        let Settings { ratio, window, min_per_second } = settings;
        let all = part(min_per_second, worker, workers);
        let alone = part(min_per_second.min(ALONE_PER_SECOND), worker, workers).min(all);
        Self {
            base: TpsBudget::new(window, alone, ratio),
            extra: TpsBudget::new(window, all.saturating_sub(alone), 0.0),
        }
    }

    /// Counts a new request.
    pub fn deposit(&self) {
        self.base.deposit();
    }

    /// Takes one retry; `is_alone`: the upstream has only one endpoint now.
    pub fn withdraw(&self, is_alone: bool) -> bool {
        self.base.withdraw() || (!is_alone && self.extra.withdraw())
    }
}

/// One of `of` almost equal parts of `total`.
fn part(total: u32, number: usize, of: usize) -> u32 {
    let of = u32::try_from(of.max(1)).unwrap_or(u32::MAX);
    let has_one_more = u32::try_from(number).is_ok_and(|number| number < total % of);
    total / of + u32::from(has_one_more)
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").finish_non_exhaustive()
    }
}

// === impl Budgets ===

impl Budgets {
    /// No budgets yet, for the worker with this number.
    pub fn new(worker: usize) -> Self {
        Self { worker, known: Mutex::default() }
    }

    /// The budget of the upstream with this name: the existing one if its settings are the same.
    pub fn of(&self, upstream: &str, settings: Settings, workers: usize) -> Arc<Budget> {
        let mut budgets = self.known.lock();
        match budgets.get(upstream) {
            Some((before, budget)) if *before == settings => budget.clone(),
            Some(_) | None => {
                let budget = Arc::new(Budget::new(settings, self.worker, workers));
                budgets.insert(upstream.into(), (settings, budget.clone()));
                budget
            }
        }
    }

    /// Forgets the upstreams for which `is_known` is false.
    pub fn retain(&self, is_known: impl Fn(&str) -> bool) {
        self.known.lock().retain(|name, _| is_known(name));
    }
}

impl fmt::Debug for Budgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budgets").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn taken(budget: &Budget, is_alone: bool) -> usize {
        (0..10_000).take_while(|_| budget.withdraw(is_alone)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_fifth_of_the_requests_and_ten_a_second_beside_them() {
        let budget = Budget::new(Settings::default(), 0, 1);
        for _ in 0..1000 {
            budget.deposit();
        }
        assert_eq!(taken(&budget, false), 200 + 10 * 10);
        assert!(!budget.withdraw(false));
    }

    #[tokio::test(start_paused = true)]
    async fn one_endpoint_gets_three_a_second() {
        let budget = Budget::new(Settings::default(), 0, 1);
        assert_eq!(taken(&budget, true), 3 * 10);
        assert_eq!(taken(&budget, false), 7 * 10, "another endpoint brings the rest");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_spent_comes_back_after_the_window() {
        let budget = Budget::new(Settings::default(), 0, 1);
        assert_eq!(taken(&budget, true), 30);
        advance(Duration::from_secs(5)).await;
        assert_eq!(taken(&budget, true), 0);
        // The clock advances in tenths of the window, and the last of them has to be over.
        advance(Duration::from_secs(5)).await;
        budget.deposit();
        advance(Duration::from_secs(2)).await;
        assert_eq!(taken(&budget, true), 30);
    }

    #[test]
    fn workers_divide_the_rate_and_their_parts_add_up() {
        let per_second = |worker, workers| {
            let settings = Settings { ratio: 0.0, ..Settings::default() };
            let budget = Budget::new(settings, worker, workers);
            (taken(&budget, true) / 10, taken(&budget, false) / 10)
        };
        assert_eq!(per_second(0, 1), (3, 7));
        assert_eq!([per_second(0, 2), per_second(1, 2)], [(2, 3), (1, 4)]);
        for workers in [3, 7, 64] {
            let parts = (0..workers).map(|worker| per_second(worker, workers));
            let (alone, extra) = parts.fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
            assert_eq!((alone, alone + extra), (3, 10), "{workers} workers");
        }
        let none = Settings { ratio: 0.0, min_per_second: 0, ..Settings::default() };
        assert!(!Budget::new(none, 0, 1).withdraw(false), "0% and 0 a second is no retry");
    }

    #[test]
    fn a_reload_keeps_the_budget_unless_it_changes_it() {
        let budgets = Budgets::new(0);
        let settings = Settings::default();
        let before = budgets.of("orders", settings, 2);
        assert!(Arc::ptr_eq(&before, &budgets.of("orders", settings, 2)));
        let other = Settings { ratio: 0.5, ..settings };
        assert!(!Arc::ptr_eq(&before, &budgets.of("orders", other, 2)));
        budgets.retain(|name| name != "orders");
        assert!(budgets.known.lock().is_empty());
    }
}
