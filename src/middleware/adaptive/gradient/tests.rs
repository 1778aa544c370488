//! The limit in front of a simulated upstream: a number of servers and one queue before them.

use std::{cmp::Reverse, collections::BinaryHeap};

use fastrand::Rng;
use proptest::prelude::*;

use super::*;

/// The limiter's window, in seconds.
const WINDOW: f64 = 0.1;
const SAMPLES: u32 = 10;

/// An upstream with this many servers, each with this mean service time (exponential).
#[derive(Clone, Copy)]
struct Upstream {
    servers: usize,
    seconds: f64,
}

/// What was observed.
#[derive(Clone, Copy, Debug)]
struct Seen {
    limit: usize,
    per_second: f64,
    mean_seconds: f64,
}

/// Arrivals beyond the limit are refused at once.
struct Simulation {
    gradient: Gradient,
    rng: Rng,
    now: f64,
    /// When each server becomes free; one entry per server.
    free_at: BinaryHeap<Reverse<Time>>,
    /// Attempts in flight: when each ends, and when it began.
    under_way: BinaryHeap<Reverse<(Time, Time)>>,
    window_ends: f64,
    sum: f64,
    count: u32,
    most: usize,
}

/// Seconds, with a total order.
#[derive(Clone, Copy, PartialEq)]
struct Time(f64);

impl Eq for Time {}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Time {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Simulation {
    fn new(settings: Settings) -> Self {
        Self {
            gradient: Gradient::new(settings),
            rng: Rng::with_seed(7),
            now: 0.0,
            free_at: BinaryHeap::new(),
            under_way: BinaryHeap::new(),
            window_ends: WINDOW,
            sum: 0.0,
            count: 0,
            most: 0,
        }
    }

    /// Runs for `seconds` with `arrivals` in each; reports on the second half.
    fn run(&mut self, upstream: Upstream, arrivals: f64, seconds: f64) -> Seen {
        let (end, half) = (self.now + seconds, self.now + seconds / 2.0);
        let (mut done, mut took) = (0_u32, 0.0);
        while self.now < end {
            self.now += self.exponential(1.0 / arrivals);
            while let Some(Reverse((ends, began))) = self.under_way.peek().copied() {
                if ends.0 > self.now {
                    break;
                }
                self.under_way.pop();
                self.sample(ends.0, ends.0 - began.0);
                if ends.0 > half {
                    done += 1;
                    took += ends.0 - began.0;
                }
            }
            if self.under_way.len() < self.gradient.limit() {
                self.admit(upstream);
            }
        }
        Seen {
            limit: self.gradient.limit(),
            per_second: f64::from(done) / (seconds / 2.0),
            mean_seconds: took / f64::from(done.max(1)),
        }
    }

    fn admit(&mut self, upstream: Upstream) {
        while self.free_at.len() < upstream.servers {
            self.free_at.push(Reverse(Time(self.now)));
        }
        while self.free_at.len() > upstream.servers {
            self.free_at.pop();
        }
        let free = self.free_at.pop().map_or(self.now, |Reverse(free)| free.0);
        let ends = free.max(self.now) + self.exponential(upstream.seconds);
        self.free_at.push(Reverse(Time(ends)));
        self.under_way.push(Reverse((Time(ends), Time(self.now))));
        self.most = self.most.max(self.under_way.len());
    }

    fn sample(&mut self, at: f64, took: f64) {
        self.sum += took;
        self.count += 1;
        if at >= self.window_ends && self.count >= SAMPLES {
            self.gradient.update(self.sum / f64::from(self.count), self.most);
            (self.sum, self.count, self.most) = (0.0, 0, self.under_way.len());
            self.window_ends = at + WINDOW;
        }
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.rng.f64()).ln()
    }
}

const UPSTREAM: Upstream = Upstream { servers: 50, seconds: 0.02 };

/// 50 servers of 20 ms do 2,500 a second; the knee is at 50.
#[test]
fn under_overload_the_limit_comes_to_rest_near_the_knee() {
    let mut simulation = Simulation::new(Settings::default());
    let seen = simulation.run(UPSTREAM, 5_000.0, 60.0);
    assert!((50..=120).contains(&seen.limit), "{seen:?}");
    assert!(seen.per_second > 2_400.0, "the upstream is kept busy: {seen:?}");
    assert!(seen.mean_seconds < 2.5 * UPSTREAM.seconds, "attempts do not queue there: {seen:?}");
    // Without a limit, the queue and the wait would grow by one second every two.
}

#[test]
fn it_shrinks_when_the_upstream_slows_and_grows_back_when_it_recovers() {
    let mut simulation = Simulation::new(Settings::default());
    let before = simulation.run(UPSTREAM, 5_000.0, 60.0);
    let fewer = Upstream { servers: 10, ..UPSTREAM };
    let slow = simulation.run(fewer, 5_000.0, 10.0);
    assert!(slow.limit * 2 < before.limit, "{before:?}, then {slow:?}");
    assert!(slow.limit >= 10, "no less than it can do: {slow:?}");
    assert!(slow.per_second > 450.0, "it is still kept busy: {slow:?}");
    let after = simulation.run(UPSTREAM, 5_000.0, 30.0);
    assert!(after.limit >= 50, "{before:?}, {slow:?}, then {after:?}");
    assert!(after.per_second > 2_400.0, "{after:?}");
}

/// The long-term average must not learn our own queue: the limit would follow it up without end.
#[test]
fn an_overload_of_twenty_minutes_moves_it_no_further() {
    let small = Upstream { servers: 10, seconds: 0.02 };
    let mut simulation = Simulation::new(Settings::default());
    let first = simulation.run(small, 1_000.0, 60.0);
    let last = simulation.run(small, 1_000.0, 1_200.0);
    assert!(last.limit <= first.limit * 3 / 2, "{first:?}, then {last:?}");
    assert!(last.per_second > 480.0, "{last:?}");
}

#[test]
fn an_upstream_that_became_slower_by_itself_is_not_throttled_for_it() {
    let mut simulation = Simulation::new(Settings::default());
    simulation.run(UPSTREAM, 5_000.0, 60.0);
    let slower = Upstream { seconds: 0.06, ..UPSTREAM };
    // About 833 a second is all it can do now.
    let seen = simulation.run(slower, 5_000.0, 20.0);
    assert!(seen.per_second > 790.0, "{seen:?}");
    assert!((45..=150).contains(&seen.limit), "{seen:?}");
}

#[test]
fn an_upstream_that_is_not_full_refuses_nobody() {
    let mut simulation = Simulation::new(Settings::default());
    // About 10 in flight at once, of 50.
    let seen = simulation.run(UPSTREAM, 500.0, 60.0);
    assert!((470.0..530.0).contains(&seen.per_second), "{seen:?}");
    assert!(seen.limit >= 20, "nothing is probed for by taking places away: {seen:?}");
}

#[test]
fn the_bounds_hold_and_can_be_moved() {
    let settings = Settings { initial: 2000, min: 5, max: 1000 };
    let mut gradient = Gradient::new(settings);
    assert_eq!(gradient.limit(), 1000);
    gradient.set_bounds(Settings { max: 100, ..settings });
    assert_eq!(gradient.limit(), 100);
    for _ in 0..20 {
        gradient.update(0.01, 100);
    }
    assert_eq!(gradient.limit(), 100);
    // Latency grows with the number admitted: a queue.
    for _ in 0..200 {
        gradient.update(gradient.limit() as f64, 100);
    }
    assert!(gradient.limit() < 10, "{}", gradient.limit());
}

#[test]
fn a_limit_that_is_not_used_stays_as_it_is() {
    let mut gradient = Gradient::new(Settings::default());
    for _ in 0..100 {
        gradient.update(0.01, 9);
    }
    assert_eq!(gradient.limit(), 20);
}

proptest! {
    #[test]
    fn whatever_comes_the_limit_is_between_its_bounds(
        windows in prop::collection::vec((0.0_f64..100.0, 0_usize..5_000), 0..300),
    ) {
        let mut gradient = Gradient::new(Settings::default());
        for (short, in_flight) in windows {
            gradient.update(short, in_flight);
            prop_assert!((5..=1000).contains(&gradient.limit()));
        }
    }
}
