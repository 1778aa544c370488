//! A limit that follows latency: Netflix's Gradient2 (concurrency-limits, `Gradient2Limit`).
//!
//! Pure. While an upstream is not full, attempts take as long as usual and the limit grows by a
//! few. Once attempts queue there, they take longer than the long-term average, and the limit
//! shrinks in proportion. Half of the average is tolerated as noise, so the limit settles somewhat
//! above the point where queueing begins, and the upstream stays busy.
//!
//! The long-term average follows slowly (about ten minutes of windows). There is no probing:
//! lowering the limit on purpose, to measure an idle upstream, would refuse requests that it could
//! have taken.
//!
//! The numbers are Netflix's, with two differences. A window is a tenth of theirs, so the limit is
//! found ten times sooner; the long-term average has ten times as many windows in turn. And while
//! every place is taken, the average does not rise: it would learn our own queue, and in half an
//! hour of overload the limit would follow it to its maximum. If an upstream has become slower for
//! good, a lower limit shows that: our queue disappears, and attempts that still take as long at
//! half the limit are that slow by themselves. Then that is the average.

/// `upstreams.*.adaptive_concurrency`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The limit before anything has been measured.
    pub initial: u32,
    /// The limit is never lower.
    pub min: u32,
    /// The limit is never higher.
    pub max: u32,
}

/// The limit of one upstream.
#[derive(Debug)]
pub struct Gradient {
    settings: Settings,
    limit: f64,
    long: Average,
    shrinking: Option<Shrinking>,
}

/// A limit that is shrinking: where that began, and the longest window average since.
#[derive(Clone, Copy, Debug)]
struct Shrinking {
    from: f64,
    longest: f64,
}

/// A moving average: exact over the first samples, exponential from then on.
#[derive(Debug, Default)]
struct Average {
    value: f64,
    samples: u32,
}

/// Up to this multiple of the long-term average, attempts do not count as slower.
const TOLERANCE: f64 = 1.5;
/// The weight of each new value in the next limit.
const SMOOTHING: f64 = 0.2;
/// The smallest factor that a window can apply, before smoothing.
const LEAST_GRADIENT: f64 = 0.5;
/// How many may queue at the upstream; also how much the limit grows, before smoothing.
const QUEUE: f64 = 4.0;
/// The number of windows in the long-term average.
const LONG_WINDOW: f64 = 6_000.0;
/// The number of windows before it becomes exponential.
const WARM_UP: u32 = 10;
/// Above this multiple of the current average, the long-term one is outdated and decays faster.
const RECOVERED: f64 = 2.0;
const RECOVERY: f64 = 0.95;
/// If attempts still take this share of their time at half the limit, it was not our queue.
const NOT_OURS: f64 = 0.8;

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self { initial: 20, min: 5, max: 1000 }
    }
}

// === impl Gradient ===

impl Gradient {
    /// A limit without any measurement yet.
    pub fn new(settings: Settings) -> Self {
        let limit = settings.initial.clamp(settings.min, settings.max);
        Self { settings, limit: f64::from(limit), long: Average::default(), shrinking: None }
    }

    /// The current limit.
    pub fn limit(&self) -> usize {
        // Between `min` and `max`: both fit.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between two numbers of 32 bits"
        )]
        let whole = self.limit as usize;
        whole
    }

    /// Replaces the bounds; what was learnt is kept within them.
    pub fn set_bounds(&mut self, settings: Settings) {
        self.settings = settings;
        self.limit = self.bounded(self.limit);
    }

    /// Ends a window in which attempts took `short` seconds on average and at most `in_flight` were
    /// in flight.
    pub fn update(&mut self, short: f64, in_flight: usize) {
        if short <= 0.0 {
            return;
        }
        let is_ours = self.long.samples >= WARM_UP
            && short > self.long.value
            && in_flight >= self.limit()
            && self.limit > f64::from(self.settings.min);
        if !is_ours {
            self.long.add(short);
        }
        if self.long.value / short > RECOVERED {
            self.long.value *= RECOVERY;
        }
        // With less than half the limit in flight, latency says nothing about the other half.
        if (in_flight as f64) < self.limit / 2.0 {
            return;
        }
        let gradient = (TOLERANCE * self.long.value / short).clamp(LEAST_GRADIENT, 1.0);
        self.watch(short, gradient < 1.0);
        let next = self.limit * gradient + QUEUE;
        self.limit = self.bounded(self.limit * (1.0 - SMOOTHING) + next * SMOOTHING);
    }

    /// The long-term average latency of attempts, in seconds; 0 before the first window.
    pub fn long(&self) -> f64 {
        self.long.value
    }

    /// Tells an upstream that became slower from one that we fill, by the effect of a lower limit.
    fn watch(&mut self, short: f64, is_shrinking: bool) {
        if !is_shrinking {
            self.shrinking = None;
            return;
        }
        let begun = Shrinking { from: self.limit, longest: short };
        let Shrinking { from, longest } = self.shrinking.unwrap_or(begun);
        let longest = longest.max(short);
        self.shrinking = Some(Shrinking { from: from.max(self.limit), longest });
        if self.limit <= from / 2.0 {
            if short > longest * NOT_OURS {
                self.long.value = short;
            }
            self.shrinking = Some(begun);
        }
    }

    fn bounded(&self, limit: f64) -> f64 {
        limit.max(f64::from(self.settings.min)).min(f64::from(self.settings.max))
    }
}

// === impl Average ===

impl Average {
    fn add(&mut self, sample: f64) {
        let weight = if self.samples < WARM_UP {
            self.samples += 1;
            1.0 / f64::from(self.samples)
        } else {
            2.0 / (LONG_WINDOW + 1.0)
        };
        self.value += (sample - self.value) * weight;
    }
}

#[cfg(test)]
mod tests;
