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
    /// Before anything is known.
    pub initial: u32,
    /// Never less.
    pub min: u32,
    /// Never more.
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

/// A limit that is on its way down: where that began, and the longest window since.
#[derive(Clone, Copy, Debug)]
struct Shrinking {
    from: f64,
    longest: f64,
}

/// An average that forgets: exact over the first samples, exponential from then on.
#[derive(Debug, Default)]
struct Average {
    value: f64,
    samples: u32,
}

/// How much longer than the long average counts as not longer at all.
const TOLERANCE: f64 = 1.5;
/// The share of each new limit in the next one.
const SMOOTHING: f64 = 0.2;
/// The most a window can take away, before smoothing.
const LEAST_GRADIENT: f64 = 0.5;
/// How many may queue at the upstream; also what the limit grows by, before smoothing.
const QUEUE: f64 = 4.0;
/// Windows in the long average.
const LONG_WINDOW: f64 = 6_000.0;
/// Windows before it becomes exponential.
const WARM_UP: u32 = 10;
/// A long average this much over what attempts take now is from worse times: it is let go of sooner.
const RECOVERED: f64 = 2.0;
const RECOVERY: f64 = 0.95;
/// Of what attempts took, the share they still take at half the limit if it was not our queue.
const NOT_OURS: f64 = 0.8;

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self { initial: 20, min: 5, max: 1000 }
    }
}

// === impl Gradient ===

impl Gradient {
    /// Nothing is known yet.
    pub fn new(settings: Settings) -> Self {
        let limit = settings.initial.clamp(settings.min, settings.max);
        Self { settings, limit: f64::from(limit), long: Average::default(), shrinking: None }
    }

    /// The limit now.
    pub fn limit(&self) -> usize {
        // At least `min`, at most `max`: both fit.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between two numbers of 32 bits"
        )]
        let whole = self.limit as usize;
        whole
    }

    /// Other bounds from now on; what was found out holds within them.
    pub fn set_bounds(&mut self, settings: Settings) {
        self.settings = settings;
        self.limit = self.bounded(self.limit);
    }

    /// A window is over in which attempts took `short` seconds on average and at most `in_flight` were
    /// under way.
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
        // Where fewer than half of them come, how long they take says nothing of the other half.
        if (in_flight as f64) < self.limit / 2.0 {
            return;
        }
        let gradient = (TOLERANCE * self.long.value / short).clamp(LEAST_GRADIENT, 1.0);
        self.watch(short, gradient < 1.0);
        let next = self.limit * gradient + QUEUE;
        self.limit = self.bounded(self.limit * (1.0 - SMOOTHING) + next * SMOOTHING);
    }

    /// What attempts take on the long average, in seconds; 0 before the first window.
    pub fn long(&self) -> f64 {
        self.long.value
    }

    /// Tells an upstream that became slower from one that we fill, by what a lower limit does to it.
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
