//! How slowly the peer behind a body may send: an idle timeout and a minimum rate.
//!
//! Only time in which we asked that peer for bytes and it had none counts: from the poll that found
//! nothing to the wake-up, however late the reader returns after that. So a slow upstream never
//! makes a client look slow, and vice versa (semantics 2).
//!
//! While a client is being answered, nobody waits for its request body: in a gRPC stream it sends
//! when it has something to say. What it keeps waiting then is the answer, which has a pace of its
//! own. So a wait in which an answer began, went on or ended does not count, and a client that is
//! silent once the answer is over gets at most one idle timeout more.
//!
//! Cost: nothing while the reader never has to wait. The first wait allocates a timer and a waker
//! that notes the time; later waits reuse both, and touch the timer wheel only if the timer is set
//! too late.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use crate::{
    error::{Error, Kind, Sent},
    http::{self, context::Phase},
};

/// How slowly a peer may send its body, and the error if it is slower.
///
/// Kept small, because it moves with every body: times are whole milliseconds, up to 49 days.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The maximum length of one wait; [`FOR_EVER`].
    idle_millis: u32,
    /// Bytes per second over all waits together, beyond the grace; 0: off.
    min_rate: u32,
    /// Waiting time to which the rate does not apply.
    grace_millis: u32,
    sender: Sender,
}

/// The sender of the body, which determines the error if it is too slow.
#[derive(Clone, Copy, Debug)]
enum Sender {
    Client,
    Upstream,
}

const FOR_EVER: u32 = u32::MAX;

/// How often a wait that does not count is looked at.
const UNJUDGED: Duration = Duration::from_secs(30);

/// A body's pace and, after the first wait, the timer that enforces it.
pub(super) enum Pacing {
    /// No limit.
    Off,
    /// Nobody had to wait yet.
    Unarmed(Pace),
    /// Somebody had to wait.
    Armed(Pin<Box<Timer>>),
}

pin_project! {
    pub(super) struct Timer {
        pace: Pace,
        // The sum of all finished waits.
        waited: Duration,
        // The start of the current wait.
        since: Option<Instant>,
        // How far the exchange was then.
        phase: Phase,
        wakeup: Arc<Wakeup>,
        // `wakeup` as a waker for the source.
        waker: Waker,
        #[pin]
        sleep: Sleep,
    }
}

/// Passes a wake-up on to the reader's task and notes its time.
struct Wakeup {
    epoch: Instant,
    // Nanoseconds since `epoch`, plus one; 0: not woken.
    at: AtomicU64,
    task: AtomicWaker,
}

// === impl Pace ===

impl Pace {
    /// For a request body: `client-timeout` if the client is slower than `idle` in one wait, or
    /// than `min_rate` bytes per second (4 GiB/s at most; 0: off) over all waits beyond `grace`.
    pub fn client(idle: Duration, min_rate: u64, grace: Duration) -> Self {
        Self {
            idle_millis: millis(idle),
            min_rate: u32::try_from(min_rate).unwrap_or(u32::MAX),
            grace_millis: millis(grace),
            sender: Sender::Client,
        }
    }

    /// For a response body: `upstream-timeout-try` if the upstream sends nothing for `idle`.
    pub fn upstream(idle: Duration) -> Self {
        Self { idle_millis: millis(idle), min_rate: 0, grace_millis: 0, sender: Sender::Upstream }
    }

    fn idle(&self) -> Option<Duration> {
        let millis = Some(self.idle_millis).filter(|&millis| millis != FOR_EVER);
        millis.map(|millis| Duration::from_millis(millis.into()))
    }

    /// How long the next wait may last for a peer that has sent `seen` bytes and was waited for
    /// `waited` so far; `None`: for ever.
    fn allowance(&self, waited: Duration, seen: u64) -> Option<Duration> {
        let by_rate = (self.min_rate > 0).then(|| {
            let grace = Duration::from_millis(self.grace_millis.into());
            grace.saturating_add(span_of(seen, self.min_rate.into())).saturating_sub(waited)
        });
        match (self.idle(), by_rate) {
            (Some(idle), Some(by_rate)) => Some(idle.min(by_rate)),
            (idle, by_rate) => idle.or(by_rate),
        }
    }
}

/// Rounded up, so that nobody gets less than configured.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(FOR_EVER)
}

/// How long `bytes` take at `rate` bytes per second.
fn span_of(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes % rate) * 1_000_000_000 / u128::from(rate);
    // Less than a second's worth, because of the remainder.
    Duration::new(bytes / rate, u32::try_from(nanos).unwrap_or(0))
}

// === impl Sender ===

impl Sender {
    fn too_slow(self) -> Error {
        match self {
            Self::Client => Kind::ClientTimeout.into(),
            Self::Upstream => Error::new(Kind::UpstreamTimeoutTry(Sent::MaybeSeen))
                .with_detail("the response body stood still"),
        }
    }
}

// === impl Pacing ===

impl Pacing {
    /// Polls `source`, of which `seen` bytes have passed; fails if it is slower than its pace.
    /// `exchange`: whose request body it is.
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        seen: u64,
        exchange: Option<&http::Context>,
        mut source: impl FnMut(&mut Context<'_>) -> Poll<Option<Result<T, Error>>>,
    ) -> Poll<Option<Result<T, Error>>> {
        if let Self::Off = self {
            return source(cx);
        }
        if let Self::Unarmed(pace) = self {
            let polled = source(cx);
            if polled.is_ready() {
                return polled;
            }
            // The timer polls again below, so that the source has the waker that notes the time.
            *self = Self::Armed(Box::pin(Timer::new(*pace)));
        }
        match self {
            Self::Armed(timer) => timer.as_mut().poll(cx, seen, exchange, source),
            Self::Off | Self::Unarmed(_) => Poll::Pending,
        }
    }
}

// === impl Timer ===

impl Timer {
    fn new(pace: Pace) -> Self {
        let now = Instant::now();
        let wakeup =
            Arc::new(Wakeup { epoch: now, at: AtomicU64::new(0), task: AtomicWaker::new() });
        Self {
            pace,
            waited: Duration::ZERO,
            since: None,
            phase: Phase::Asking,
            waker: Waker::from(wakeup.clone()),
            wakeup,
            // Registered by its first poll, and reset before that if it is set too late.
            sleep: tokio::time::sleep_until(pace.idle().map_or(now, |idle| now + idle)),
        }
    }

    fn poll<T>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        seen: u64,
        exchange: Option<&http::Context>,
        mut source: impl FnMut(&mut Context<'_>) -> Poll<Option<Result<T, Error>>>,
    ) -> Poll<Option<Result<T, Error>>> {
        let phase = || exchange.map_or(Phase::Asking, http::Context::phase);
        let mut this = self.project();
        this.wakeup.task.register(cx.waker());
        // Taken before the poll: a later wake-up belongs to the next wait.
        let woken = this.wakeup.take();
        let polled = source(&mut Context::from_waker(this.waker));
        if polled.is_ready() {
            if let Some(since) = this.since.take()
                && is_judged(*this.phase, phase())
            {
                *this.waited += woken.unwrap_or_else(Instant::now).saturating_duration_since(since);
            }
            return polled;
        }
        loop {
            // A spurious wake-up does not interrupt the wait.
            let since = *this.since.get_or_insert_with(|| {
                *this.phase = phase();
                Instant::now()
            });
            let allowance = match this.phase {
                // Without one somebody has to notice the end of the answer all the same.
                Phase::Answering => this.pace.idle().or(Some(UNJUDGED)),
                Phase::Asking | Phase::Answered => this.pace.allowance(*this.waited, seen),
            };
            let Some(deadline) = allowance.and_then(|allowance| since.checked_add(allowance))
            else {
                return Poll::Pending;
            };
            if this.sleep.deadline() > deadline {
                this.sleep.as_mut().reset(deadline);
            }
            ready!(this.sleep.as_mut().poll(cx));
            if Instant::now() < deadline {
                // It was set for the end of an earlier wait.
                this.sleep.as_mut().reset(deadline);
            } else if is_judged(*this.phase, phase()) {
                return Poll::Ready(Some(Err(this.pace.sender.too_slow())));
            } else {
                // Waits anew from now on.
                *this.since = None;
            }
        }
    }
}

/// Whether a wait between these two moments counts: there was no answer meanwhile.
fn is_judged(then: Phase, now: Phase) -> bool {
    then == now && now != Phase::Answering
}

// === impl Wakeup ===

impl Wakeup {
    fn take(&self) -> Option<Instant> {
        // Relaxed: only the time is read; the source orders its own data.
        let at = self.at.swap(0, Ordering::Relaxed);
        at.checked_sub(1).map(|nanos| self.epoch + Duration::from_nanos(nanos))
    }
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let nanos = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX - 1);
        // The first wake-up ends the wait. Relaxed: see `take`.
        let _was = self.at.compare_exchange(0, nanos + 1, Ordering::Relaxed, Ordering::Relaxed);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use ::http::{Method, Version};
    use bytes::Bytes;
    use futures_util::{FutureExt, stream};
    use http_body::Frame;
    use http_body_util::{BodyExt, StreamBody};
    use proptest::prelude::*;
    use tokio::{sync::mpsc, time};

    use super::*;
    use crate::http::{self, Body, Peer, peer::Address};

    const SECOND: Duration = Duration::from_secs(1);

    fn client() -> Pace {
        Pace::client(30 * SECOND, 240, 5 * SECOND)
    }

    fn fed(pace: Pace) -> (mpsc::Sender<usize>, Body) {
        let (feed, mut sizes) = mpsc::channel(4);
        let frames = stream::poll_fn(move |cx| {
            let frame = |size| Ok(Frame::data(Bytes::from(vec![b'x'; size])));
            sizes.poll_recv(cx).map(|size| size.map(frame))
        });
        let mut body = Body::boxed(StreamBody::new(frames));
        body.set_pace(pace);
        (feed, body)
    }

    /// Feeds `size` bytes after each wait of `every`, and reads until the body is over. `None`, or
    /// the error and its time.
    async fn trickle(
        pace: Pace,
        size: usize,
        every: Duration,
        times: usize,
    ) -> Option<(Error, Duration)> {
        let start = Instant::now();
        let (feed, mut body) = fed(pace);
        let feeding = async move {
            for _ in 0..times {
                time::sleep(every).await;
                if feed.send(size).await.is_err() {
                    return;
                }
            }
        };
        let reading = async {
            while let Some(frame) = body.frame().await {
                if let Err(error) = frame {
                    return Some((error, start.elapsed()));
                }
            }
            None
        };
        tokio::join!(feeding, reading).1
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_given_up_when_the_idle_timeout_is_over() {
        let start = Instant::now();
        let (_feed, mut body) = fed(Pace::client(3 * SECOND, 240, 5 * SECOND));
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(matches!(error.kind(), Kind::ClientTimeout));
        assert_eq!(start.elapsed().as_secs(), 3);
        assert!(body.frame().await.is_none(), "a body that failed is over");
    }

    #[tokio::test(start_paused = true)]
    async fn each_byte_starts_the_idle_timeout_again() {
        let pace = Pace::client(30 * SECOND, 0, Duration::ZERO);
        assert!(trickle(pace, 1, 29 * SECOND, 20).await.is_none());
        assert!(trickle(pace, 1, 31 * SECOND, 20).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_below_the_rate_is_given_up_after_the_grace() {
        let (error, after) = trickle(client(), 24, SECOND, 60).await.unwrap();
        assert!(matches!(error.kind(), Kind::ClientTimeout));
        // The five pieces received until then earned half a second.
        assert_eq!(after.as_millis().div_ceil(10), 550);
        assert!(trickle(client(), 240, SECOND, 600).await.is_none(), "the rate itself is enough");
        assert!(trickle(client(), 1200, 4 * SECOND, 100).await.is_none(), "in whatever pieces");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_does_not_make_the_sender_look_slow() {
        let (feed, mut body) = fed(client());
        for _ in 0..20 {
            assert!(body.frame().now_or_never().is_none(), "asked before there is anything");
            time::advance(SECOND).await;
            feed.try_send(240).unwrap();
            time::advance(60 * SECOND).await;
            body.frame().await.unwrap().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_of_a_slow_reader_are_still_counted() {
        let (feed, mut body) = fed(client());
        let mut waits = 0;
        let failed = loop {
            if let Some(frame) = body.frame().now_or_never() {
                break frame.unwrap().unwrap_err();
            }
            time::advance(SECOND).await;
            waits += 1;
            feed.try_send(24).unwrap();
            time::advance(60 * SECOND).await;
            body.frame().await.unwrap().unwrap();
        };
        assert!(matches!(failed.kind(), Kind::ClientTimeout));
        assert_eq!(waits, 6, "more than the five seconds of grace");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wake_up_with_nothing_behind_it_does_not_start_the_wait_again() {
        let mut pacing = Pacing::Unarmed(client());
        let mut cx = Context::from_waker(Waker::noop());
        for second in 0..=30 {
            let mut waker = Waker::noop().clone();
            let polled = pacing.poll(&mut cx, 1_000_000, None, |cx| {
                waker.clone_from(cx.waker());
                Poll::<Option<Result<(), Error>>>::Pending
            });
            assert_eq!(polled.is_ready(), second == 30, "after {second} seconds");
            waker.wake();
            time::advance(SECOND).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_made_for_a_source_that_is_always_ready() {
        let mut pacing = Pacing::Unarmed(client());
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            let polled = pacing.poll(&mut cx, 0, None, |_| Poll::Ready(Some(Ok(()))));
            assert!(matches!(polled, Poll::Ready(Some(Ok(())))));
        }
        assert!(matches!(pacing, Pacing::Unarmed(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_stands_still_may_have_seen_the_request() {
        let (_feed, mut body) = fed(Pace::upstream(60 * SECOND));
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(matches!(error.kind(), Kind::UpstreamTimeoutTry(Sent::MaybeSeen)));
    }

    #[test]
    fn a_pace_is_never_stricter_than_it_was_set() {
        let pace = Pace::upstream(Duration::from_micros(1500));
        assert_eq!(pace.idle(), Some(Duration::from_millis(2)));
        assert_eq!(Pace::upstream(Duration::MAX).idle(), None);
        assert_eq!(Pace::client(SECOND, u64::MAX, SECOND).min_rate, u32::MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn without_idle_timeout_and_rate_a_peer_may_take_for_ever() {
        let pace = Pace { idle_millis: FOR_EVER, ..Pace::upstream(SECOND) };
        assert!(trickle(pace, 1, Duration::from_hours(24), 3).await.is_none());
    }

    /// Like [`fed`], with the exchange that it is the request body of.
    fn asked(pace: Pace) -> (http::Context, mpsc::Sender<usize>, Body) {
        let peer = Peer::new("web".into(), Address::Unix, Address::Unix);
        let cx = http::Context::new(Arc::new(peer), Method::POST, Version::HTTP_2);
        let (feed, mut body) = fed(pace);
        body.count_received(cx.clone());
        (cx, feed, body)
    }

    /// Waits for so long, and then reads 24 bytes.
    async fn wait_and_read(feed: &mpsc::Sender<usize>, body: &mut Body, wait: Duration) {
        let feeding = async {
            time::sleep(wait).await;
            feed.send(24).await.unwrap();
        };
        let (frame, ()) = tokio::join!(body.frame(), feeding);
        frame.unwrap().unwrap();
    }

    /// How long it takes until a silent client is given up.
    async fn given_up(body: &mut Body) -> Duration {
        let start = Instant::now();
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(matches!(error.kind(), Kind::ClientTimeout));
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_may_be_silent_while_it_is_answered() {
        let (cx, feed, mut body) = asked(client());
        wait_and_read(&feed, &mut body, SECOND).await;
        cx.begin_answer();
        for wait in [4, 29, 31, 3600] {
            for _ in 0..10 {
                wait_and_read(&feed, &mut body, wait * SECOND).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_begins_during_a_wait_excuses_it() {
        for begins in [0, 1, 4] {
            let (cx, feed, mut body) = asked(client());
            let answer = async {
                time::sleep(begins * SECOND).await;
                cx.begin_answer();
            };
            tokio::join!(answer, wait_and_read(&feed, &mut body, 100 * SECOND));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn before_the_answer_the_silence_of_its_client_is_judged() {
        let (_cx, _feed, mut body) = asked(client());
        assert_eq!(given_up(&mut body).await.as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn once_the_answer_is_over_a_silent_client_is_given_up() {
        let pace = || Pace::client(30 * SECOND, 0, Duration::ZERO);
        for ends in [2, 29, 31, 1000] {
            let (cx, _feed, mut body) = asked(pace());
            let answer = async {
                time::sleep(SECOND).await;
                cx.begin_answer();
                time::sleep((ends - 1) * SECOND).await;
                cx.end_answer();
            };
            let (given_up, ()) = tokio::join!(given_up(&mut body), answer);
            let after = given_up.saturating_sub(ends * SECOND).as_secs();
            assert!((30..=60).contains(&after), "{after} s after an answer of {ends} s");
        }
        let (cx, feed, mut body) = asked(pace());
        cx.begin_answer();
        wait_and_read(&feed, &mut body, 100 * SECOND).await;
        cx.end_answer();
        assert_eq!(given_up(&mut body).await.as_secs(), 30, "asked for after the answer");
    }

    #[tokio::test(start_paused = true)]
    async fn only_waits_outside_the_answer_count_against_the_rate() {
        let (cx, feed, mut body) = asked(client());
        wait_and_read(&feed, &mut body, 2 * SECOND).await;
        cx.begin_answer();
        for wait in [4, 4, 100] {
            wait_and_read(&feed, &mut body, wait * SECOND).await;
        }
        cx.end_answer();
        wait_and_read(&feed, &mut body, 2 * SECOND).await;
        // Five seconds and what five pieces earn, of which four are spent.
        assert_eq!(given_up(&mut body).await.as_millis(), 1_500);
    }

    proptest! {
        #[test]
        fn an_allowance_never_exceeds_the_idle_timeout(
            rate: u64, grace in 0..u64::MAX, waited: u64, seen: u64
        ) {
            let pace = Pace::client(30 * SECOND, rate, Duration::from_millis(grace));
            let allowance = pace.allowance(Duration::from_millis(waited), seen);
            prop_assert!(allowance.unwrap() <= 30 * SECOND);
        }

        #[test]
        fn bytes_earn_time_and_waiting_spends_it(
            rate in 1..u64::MAX, waited in 0..1u64 << 40, seen: u64, more: u64
        ) {
            let pace = Pace { idle_millis: FOR_EVER, ..Pace::client(SECOND, rate, 5 * SECOND) };
            let waited = Duration::from_millis(waited);
            let before = pace.allowance(waited, seen);
            prop_assert!(pace.allowance(waited, seen.saturating_add(more)) >= before);
            prop_assert!(pace.allowance(waited + SECOND, seen) <= before);
        }

        #[test]
        fn whoever_keeps_the_rate_is_never_given_up(
            rate in 1..1_000_000u64, waits in prop::collection::vec(1..30_000u64, 1..50)
        ) {
            let pace = Pace::client(30 * SECOND, rate, 5 * SECOND);
            let (mut waited, mut seen) = (Duration::ZERO, 0);
            // Each wait is paid for in advance, rounded up.
            for wait in waits {
                seen += (rate * wait).div_ceil(1000);
                let wait = Duration::from_millis(wait);
                prop_assert!(wait <= pace.allowance(waited, seen).unwrap());
                waited += wait;
            }
        }

        #[test]
        fn whoever_stays_below_it_waits_no_longer_than_grace_and_bytes_allow(
            rate in 1..1_000_000u64, sizes in prop::collection::vec(0..1_000_000u64, 1..50)
        ) {
            let pace = Pace::client(30 * SECOND, rate, 5 * SECOND);
            let (mut waited, mut seen) = (Duration::ZERO, 0);
            for size in sizes {
                // The longest wait that is not yet a failure.
                waited += pace.allowance(waited, seen).unwrap();
                seen += size;
            }
            prop_assert!(waited <= 5 * SECOND + span_of(seen, rate));
        }
    }
}
