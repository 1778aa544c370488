//! What all workers share of an upstream's adaptive limit: the count, the window, the waiters.
//!
//! While there is room, taking a place and freeing it cost one atomic operation each. Without room
//! an attempt waits a short while, newest first: under overload the oldest would time out anyway,
//! and a queue served in order makes everybody late. The line is as long as the limit; one attempt
//! too many ends the wait of the oldest. A freed place goes to a waiter of any worker.
//!
//! Invariant: a place is counted from the moment it is taken until it is freed, and a place given
//! to a waiter that has just left is freed as well.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::timeout};

use super::gradient::{Gradient, Settings};

/// How long an attempt may wait for a place.
pub const PATIENCE: Duration = Duration::from_millis(100);
/// The minimum length of a window, and the minimum number of attempts in it.
const WINDOW: Duration = Duration::from_millis(100);
const WINDOW_SAMPLES: u32 = 10;
/// How many may wait even if the limit is smaller.
const MIN_LINE: usize = 16;

/// The adaptive limit of one upstream.
#[derive(Debug)]
pub struct Limiter {
    limit: AtomicUsize,
    in_flight: AtomicUsize,
    /// The length of `line`.
    waiting: AtomicUsize,
    line: Mutex<VecDeque<oneshot::Sender<Token>>>,
    window: Window,
    gradient: Mutex<Gradient>,
    /// The long-term average latency of attempts, in microseconds.
    long_micros: AtomicU64,
    patience: Duration,
}

/// What was measured since the last update.
#[derive(Debug, Default)]
struct Window {
    /// Microseconds on the clock passed to [`Limiter::sample`].
    ends_at: AtomicU64,
    sum_micros: AtomicU64,
    samples: AtomicU32,
    most_in_flight: AtomicUsize,
}

/// A place being handed from one worker to another; dropping it frees the place.
#[derive(Debug)]
pub struct Token(Option<Arc<Limiter>>);

/// The current state, for an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The number of places.
    pub limit: usize,
    /// Places taken.
    pub in_flight: usize,
    /// Attempts waiting for a place; some may have left already.
    pub waiting: usize,
}

// === impl Limiter ===

impl Limiter {
    /// A limit without any measurement yet.
    pub fn new(settings: Settings) -> Self {
        Self::with_patience(settings, PATIENCE)
    }

    /// As [`new`](Self::new), with this patience instead of [`PATIENCE`].
    pub fn with_patience(settings: Settings, patience: Duration) -> Self {
        let gradient = Gradient::new(settings);
        Self {
            limit: AtomicUsize::new(gradient.limit()),
            in_flight: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            line: Mutex::default(),
            window: Window::default(),
            gradient: Mutex::new(gradient),
            long_micros: AtomicU64::new(0),
            patience,
        }
    }

    /// Replaces the bounds.
    pub fn set_bounds(self: &Arc<Self>, settings: Settings) {
        let mut gradient = self.gradient.lock();
        gradient.set_bounds(settings);
        self.limit.store(gradient.limit(), Ordering::SeqCst);
        drop(gradient);
        self.serve_line();
    }

    /// The current state.
    pub fn standing(&self) -> Standing {
        Standing {
            limit: self.limit.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }

    /// Takes a place, if there is one.
    ///
    /// The counts are SeqCst throughout: whoever joins the line then looks for a place, whoever
    /// frees one then looks at the line, and one of the two must see the other.
    pub fn try_enter(&self) -> bool {
        let limit = self.limit.load(Ordering::SeqCst);
        let room = |taken| (taken < limit).then_some(taken + 1);
        let entered = self.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, room);
        if let Ok(before) = entered {
            // Relaxed, like the whole window: it is a statistic.
            self.window.most_in_flight.fetch_max(before + 1, Ordering::Relaxed);
        }
        entered.is_ok()
    }

    /// Waits for a place; `None` if there is none in time. Cancel-safe: a place that comes
    /// afterwards goes to the next in line.
    pub async fn wait(self: &Arc<Self>) -> Option<Token> {
        let (place, handed) = oneshot::channel();
        self.join_line(place);
        self.serve_line();
        timeout(self.patience, handed).await.ok()?.ok()
    }

    /// Frees a place.
    pub fn leave(self: &Arc<Self>) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.serve_line();
        }
    }

    /// Records that an attempt took this long; `now` is on any clock that never goes back.
    pub fn sample(self: &Arc<Self>, took: Duration, now: Duration) {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let (window, now) = (&self.window, micros(now));
        // A minute says as much as an hour, and a thousand of them do not overflow the sum.
        let took = micros(took.min(Duration::from_mins(1)));
        window.sum_micros.fetch_add(took, Ordering::Relaxed);
        let samples = window.samples.fetch_add(1, Ordering::Relaxed) + 1;
        if samples < WINDOW_SAMPLES || now < window.ends_at.load(Ordering::Relaxed) {
            return;
        }
        // If another thread has the lock, it is doing this update.
        let Some(mut gradient) = self.gradient.try_lock() else { return };
        let sum = window.sum_micros.swap(0, Ordering::Relaxed);
        let samples = window.samples.swap(0, Ordering::Relaxed);
        let now_in_flight = self.in_flight.load(Ordering::Relaxed);
        let most = window.most_in_flight.swap(now_in_flight, Ordering::Relaxed);
        window.ends_at.store(now.saturating_add(micros(WINDOW)), Ordering::Relaxed);
        // A sample between the two swaps counts half in the next window: that evens out.
        gradient.update(sum as f64 / 1e6 / f64::from(samples.max(1)), most);
        let long = Duration::try_from_secs_f64(gradient.long()).unwrap_or_default();
        self.long_micros.store(micros(long), Ordering::Relaxed);
        let before = self.limit.swap(gradient.limit(), Ordering::SeqCst);
        let has_grown = gradient.limit() > before;
        drop(gradient);
        if has_grown {
            self.serve_line();
        }
    }

    /// Records an attempt that was cancelled after this long, if that is longer than the average.
    pub fn sample_if_long(self: &Arc<Self>, took: Duration, now: Duration) {
        let long = Duration::from_micros(self.long_micros.load(Ordering::Relaxed));
        if took > long {
            self.sample(took, now);
        }
    }

    fn join_line(&self, place: oneshot::Sender<Token>) {
        let mut line = self.line.lock();
        if line.len() >= self.limit.load(Ordering::Relaxed).max(MIN_LINE) {
            line.retain(|waiter| !waiter.is_closed());
        }
        if line.len() >= self.limit.load(Ordering::Relaxed).max(MIN_LINE) {
            // Dropping the sender tells the waiter that it gets no place.
            line.pop_front();
        }
        line.push_back(place);
        self.waiting.store(line.len(), Ordering::SeqCst);
    }

    /// Hands places to the newest in line while there are both.
    fn serve_line(self: &Arc<Self>) {
        let mut line = self.line.lock();
        while !line.is_empty() && self.try_enter() {
            let mut token = Token(Some(self.clone()));
            loop {
                let Some(waiter) = line.pop_back() else {
                    // All had left. The token's drop would call this function again.
                    token.0 = None;
                    self.in_flight.fetch_sub(1, Ordering::SeqCst);
                    break;
                };
                match waiter.send(token) {
                    Ok(()) => break,
                    Err(unread) => token = unread,
                }
            }
        }
        self.waiting.store(line.len(), Ordering::SeqCst);
    }
}

// === impl Token ===

impl Token {
    /// Passes the place to the caller, who frees it with [`Limiter::leave`].
    pub fn take(mut self) {
        self.0 = None;
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if let Some(limiter) = self.0.take() {
            limiter.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const ONE: Settings = Settings { initial: 1, min: 1, max: 1 };

    fn limiter(settings: Settings) -> Arc<Limiter> {
        Arc::new(Limiter::new(settings))
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_goes_to_the_newest_in_line() {
        let limiter = limiter(ONE);
        assert!(limiter.try_enter() && !limiter.try_enter());
        let (mut old, mut new) = (Box::pin(limiter.wait()), Box::pin(limiter.wait()));
        assert!(old.as_mut().now_or_never().is_none() && new.as_mut().now_or_never().is_none());
        limiter.leave();
        assert!(old.as_mut().now_or_never().is_none());
        let token = new.now_or_never().unwrap().unwrap();
        assert_eq!(limiter.standing(), Standing { limit: 1, in_flight: 1, waiting: 1 });
        token.take();
        assert_eq!(limiter.standing().in_flight, 1, "whoever took it gives it back");
        limiter.leave();
        drop(old.await.unwrap());
        assert_eq!(limiter.standing(), Standing { limit: 1, in_flight: 0, waiting: 0 });
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_patience() {
        let limiter = limiter(ONE);
        assert!(limiter.try_enter());
        let started = tokio::time::Instant::now();
        assert!(limiter.wait().await.is_none());
        assert_eq!(started.elapsed(), PATIENCE);
        limiter.leave();
        assert_eq!(limiter.standing(), Standing { limit: 1, in_flight: 0, waiting: 0 });
        assert!(limiter.try_enter(), "the place is not lost to those who left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_handed_to_one_who_left_is_given_back() {
        let limiter = limiter(ONE);
        assert!(limiter.try_enter());
        let mut waiting = Box::pin(limiter.wait());
        assert!(waiting.as_mut().now_or_never().is_none());
        limiter.leave();
        assert_eq!(limiter.standing().in_flight, 1, "on its way");
        drop(waiting);
        assert_eq!(limiter.standing().in_flight, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_too_many_in_line_ends_the_wait_of_the_oldest() {
        let limiter = limiter(ONE);
        assert!(limiter.try_enter());
        let mut line: Vec<_> = (0..=MIN_LINE).map(|_| Box::pin(limiter.wait())).collect();
        for (n, waiting) in line.iter_mut().enumerate().skip(1) {
            assert!(waiting.as_mut().now_or_never().is_none(), "{n}");
        }
        assert_eq!(limiter.standing().waiting, MIN_LINE);
        assert!(line[0].as_mut().now_or_never().is_none(), "it joined last");
        assert!(line[1].as_mut().now_or_never().unwrap().is_none(), "the oldest is told");
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_grows_lets_those_in_line_in() {
        let limiter = limiter(ONE);
        assert!(limiter.try_enter());
        let mut waiting = Box::pin(limiter.wait());
        assert!(waiting.as_mut().now_or_never().is_none());
        limiter.set_bounds(Settings { initial: 1, min: 2, max: 9 });
        drop(waiting.await.unwrap());
        assert_eq!(limiter.standing(), Standing { limit: 2, in_flight: 1, waiting: 0 });
    }

    #[test]
    fn windows_move_the_limit() {
        let limiter = limiter(Settings::default());
        let at = |window: u64| Duration::from_millis(window * 100);
        let fill = |window: u64, took: Duration| {
            let taken = (0..20).filter(|_| limiter.try_enter()).count();
            (0..taken).for_each(|_| limiter.sample(took, at(window)));
            (0..taken).for_each(|_| limiter.leave());
        };
        (1..50).for_each(|window| fill(window, Duration::from_millis(10)));
        let grown = limiter.standing().limit;
        assert!(grown > 30, "{grown}");
        for window in 50..80 {
            // Twenty are less than half of what it has grown to: it is judged only when it is used.
            (0..grown).for_each(|_| assert!(limiter.try_enter() || window > 50));
            // Latency grows with the number admitted: a queue.
            let took = Duration::from_millis(2) * u32::try_from(limiter.standing().limit).unwrap();
            (0..20).for_each(|_| limiter.sample(took, at(window)));
            (0..limiter.standing().in_flight).for_each(|_| limiter.leave());
        }
        let shrunk = limiter.standing().limit;
        assert!(shrunk * 2 < grown, "{grown}, then {shrunk}");
        limiter.sample_if_long(Duration::from_millis(1), at(81));
        assert_eq!(limiter.standing().in_flight, 0);
    }

    #[test]
    fn threads_that_take_and_wait_lose_no_place() {
        let limiter = limiter(Settings { initial: 3, min: 3, max: 3 });
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let limiter = &limiter;
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_time()
                        .build()
                        .unwrap();
                    runtime.block_on(async {
                        for _ in 0..500 {
                            if limiter.try_enter() {
                                tokio::task::yield_now().await;
                            } else if let Some(token) = limiter.wait().await {
                                token.take();
                            } else {
                                continue;
                            }
                            assert!(limiter.standing().in_flight <= 3);
                            limiter.leave();
                        }
                    });
                });
            }
        });
        assert_eq!(limiter.standing().in_flight, 0);
    }
}
