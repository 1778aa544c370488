//! The one timer of a connection.
//!
//! [`Watch`] is pure: after each poll it is given what the wrapper saw and the time, and says which
//! timeout has expired. [`Timer`] is one `Sleep`, reset only when a deadline comes earlier than it
//! would fire; otherwise it fires, looks, and sleeps again. So a request costs one reading of the
//! clock, and a busy connection touches the timer wheel once in `park_after`, however many requests
//! that is.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Waker},
    time::Duration,
};

use tokio::{
    task::coop,
    time::{Instant, Sleep},
};

use crate::connection::{Settings, state::Seen};

/// What ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// `keepalive_timeout`: idle for that long.
    KeepAlive,
    /// `header_timeout`: a head was not completed within it.
    Header,
    /// `send_idle_timeout`: a write that has been pending for that long.
    SendIdle,
    /// `connection_max_age`. Reported once.
    Age,
    /// `park_after`: idle for that long, with buffers that could be given back.
    Park,
}

/// Assigns times to what was seen.
///
/// A head counts from the first byte that arrives while no request runs. The start of a pipelined
/// head that arrived with the request before it is not seen as one until `park_after`.
#[derive(Debug)]
pub(super) struct Watch {
    phase: Phase,
    since: Instant,
    requests: u64,
    pending: Option<(Instant, u64)>,
    age_out: Option<Instant>,
    has_heads: bool,
    is_closing: bool,
    is_parkable: bool,
    /// Until then a connection that is to close may still send its first request.
    first_request_by: Instant,
    header_timeout: Duration,
    keepalive_timeout: Duration,
    park_after: Duration,
    send_idle_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Head,
    Running,
}

/// A [`Watch`] on tokio's clock.
#[derive(Debug)]
pub(super) struct Timer {
    watch: Watch,
    sleep: Pin<Box<Sleep>>,
    armed: Instant,
    /// The task woken at `armed`; `None` after the timer was moved.
    woken: Option<Waker>,
    /// It looks at least this often, so that swept streams need no deadline here.
    horizon: Duration,
}

// === impl Watch ===

impl Watch {
    pub(super) fn new(settings: &Settings, now: Instant) -> Self {
        Self {
            phase: Phase::Idle,
            since: now,
            requests: 0,
            pending: None,
            age_out: Some(now + jitter(settings.connection_max_age)),
            has_heads: true,
            is_closing: false,
            is_parkable: false,
            first_request_by: now + settings.discard_timeout,
            park_after: settings.park_after,
            header_timeout: settings.header_timeout,
            keepalive_timeout: settings.keepalive_timeout,
            send_idle_timeout: settings.send_idle_timeout,
        }
    }

    /// Takes in what is seen at `now`.
    pub(super) fn observe(&mut self, seen: Seen, now: Instant) {
        let phase = if seen.is_running {
            Phase::Running
        } else if seen.has_head_begun && self.has_heads {
            Phase::Head
        } else {
            Phase::Idle
        };
        if phase != self.phase || seen.requests != self.requests {
            self.phase = phase;
            self.since = now;
            self.requests = seen.requests;
        }
        self.is_closing = seen.is_closing;
        if self.pending.is_some() && !seen.is_write_pending && phase == Phase::Head {
            // The head is read on only from now.
            self.since = now;
        }
        self.pending = match self.pending {
            _ if !seen.is_write_pending => None,
            Some((since, written)) if written == seen.written => Some((since, written)),
            _ => Some((now, seen.written)),
        };
    }

    /// What has expired by `now`, the most severe first.
    pub(super) fn expired(&mut self, now: Instant) -> Option<Expired> {
        let is_over = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if is_over(self.write_deadline()) {
            Some(Expired::SendIdle)
        } else if is_over(self.phase_deadline()) {
            Some(if self.phase == Phase::Head { Expired::Header } else { Expired::KeepAlive })
        } else if is_over(self.age_out) {
            self.age_out = None;
            Some(Expired::Age)
        } else if is_over(self.park_deadline()) {
            Some(Expired::Park)
        } else {
            None
        }
    }

    /// The next instant at which something can expire.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.write_deadline(), self.phase_deadline(), self.age_out, self.park_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Idle: since when.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.phase == Phase::Idle).then_some(self.since)
    }

    fn begin_closing(&mut self, timeout: Duration, now: Instant) {
        self.keepalive_timeout = timeout;
        self.is_parkable = false;
        self.since = now;
    }

    fn phase_deadline(&self) -> Option<Instant> {
        match self.phase {
            // While a write is pending, only the write's timeout applies.
            Phase::Idle | Phase::Head if self.pending.is_some() => None,
            Phase::Idle if self.is_closing && self.has_heads && self.requests == 0 => {
                Some(self.first_request_by.min(self.since + self.keepalive_timeout))
            }
            Phase::Idle => Some(self.since + self.keepalive_timeout),
            Phase::Head => Some(self.since + self.header_timeout),
            Phase::Running => None,
        }
    }

    fn park_deadline(&self) -> Option<Instant> {
        let is_idle = self.phase == Phase::Idle && self.pending.is_none() && self.requests > 0;
        (self.is_parkable && is_idle).then(|| self.since + self.park_after)
    }

    fn write_deadline(&self) -> Option<Instant> {
        self.pending.map(|(since, _)| since + self.send_idle_timeout)
    }
}

/// `value` plus or minus up to a tenth, so that connections opened together do not end together.
pub(super) fn jitter(value: Duration) -> Duration {
    value.mul_f64(0.9 + 0.2 * fastrand::f64())
}

// === impl Timer ===

impl Timer {
    pub(super) fn new(settings: &Settings) -> Self {
        let now = Instant::now();
        let watch = Watch::new(settings, now);
        let horizon = settings.keepalive_timeout.min(settings.send_idle_timeout);
        let armed = now + horizon;
        let sleep = Box::pin(tokio::time::sleep_until(armed));
        Self { watch, sleep, armed, woken: None, horizon }
    }

    /// Bytes of an idle connection are no longer the beginning of a head: h2 has frames of its own.
    pub(super) fn ignore_heads(&mut self) {
        self.watch.has_heads = false;
    }

    /// Whether [`Expired::Park`] may be reported.
    pub(super) fn set_parkable(&mut self, is_parkable: bool) {
        self.watch.is_parkable = is_parkable;
    }

    /// The connection was told to end: from now on it is given up when idle for `timeout`.
    pub(super) fn begin_closing(&mut self, timeout: Duration) {
        self.watch.begin_closing(timeout, Instant::now());
        self.horizon = self.horizon.min(timeout);
    }

    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.watch.idle_since()
    }

    /// Takes in what is seen at `now`, and says what ran out. Whoever it wakes is woken by `again_by`
    /// too. Otherwise `cx` is woken when something may
    /// have.
    ///
    /// `sweep` is asked only when the timer fires. It looks after whatever else has deadlines,
    /// which must be at least [`Settings::send_idle_timeout`] from when they come up, and gives the
    /// next.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        seen: Seen,
        mut now: Instant,
        again_by: Option<Instant>,
        mut sweep: impl FnMut(Instant) -> Option<Instant>,
    ) -> Option<Expired> {
        self.watch.observe(seen, now);
        loop {
            if let Some(earlier) = [self.watch.deadline(), again_by].into_iter().flatten().min()
                && earlier < self.armed
            {
                self.arm(earlier);
            }
            // It cannot have fired, and knows whom to wake.
            if now < self.armed && self.woken.as_ref().is_some_and(|it| it.will_wake(cx.waker())) {
                return None;
            }
            if self.sleep.as_mut().poll(cx).is_pending() {
                // Without budget it was not even registered, and this task is woken at once.
                self.woken = coop::has_budget_remaining().then(|| cx.waker().clone());
                return None;
            }
            now = now.max(Instant::now());
            if let Some(expired) = self.watch.expired(now) {
                return Some(expired);
            }
            let next = [self.watch.deadline(), again_by, sweep(now), Some(now + self.horizon)];
            self.arm(next.into_iter().flatten().min().unwrap_or(now + self.horizon));
        }
    }

    fn arm(&mut self, at: Instant) {
        self.armed = at;
        self.woken = None;
        self.sleep.as_mut().reset(at);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll};

    use tokio::{
        task::yield_now,
        time::{advance, timeout},
    };

    use super::*;

    const IDLE: Seen = Seen {
        is_running: false,
        has_head_begun: false,
        requests: 0,
        is_write_pending: false,
        written: 0,
        is_closing: false,
    };

    fn settings() -> Settings {
        Settings { connection_max_age: secs(10_000), ..Settings::default() }
    }

    fn watch() -> (Watch, Instant) {
        let now = Instant::now();
        (Watch::new(&settings(), now), now)
    }

    /// Polls the timer of an idle connection.
    fn idle() -> impl FnMut(&mut Context<'_>) -> Poll<Expired> {
        let mut timer = Timer::new(&settings());
        move |cx| match timer.poll(cx, IDLE, Instant::now(), None, |_| None) {
            Some(expired) => Poll::Ready(expired),
            None => Poll::Pending,
        }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[tokio::test]
    async fn each_phase_counts_from_where_it_began() {
        let (mut watch, start) = watch();
        assert_eq!(watch.deadline(), Some(start + secs(75)));
        watch.observe(Seen { has_head_begun: true, ..IDLE }, start + secs(70));
        watch.observe(Seen { has_head_begun: true, ..IDLE }, start + secs(79));
        assert_eq!(watch.deadline(), Some(start + secs(80)));
        assert_eq!(watch.expired(start + secs(79)), None);
        assert_eq!(watch.expired(start + secs(80)), Some(Expired::Header));
        watch.observe(Seen { is_running: true, requests: 1, ..IDLE }, start + secs(79));
        assert_eq!(watch.expired(start + secs(900)), None);
        watch.observe(Seen { requests: 1, ..IDLE }, start + secs(900));
        assert_eq!(watch.idle_since(), Some(start + secs(900)));
        // A whole request between two looks begins the idle time anew.
        watch.observe(Seen { requests: 2, ..IDLE }, start + secs(950));
        assert_eq!(watch.expired(start + secs(1024)), None);
        assert_eq!(watch.expired(start + secs(1025)), Some(Expired::KeepAlive));
    }

    #[tokio::test]
    async fn a_pending_write_counts_from_its_last_progress() {
        let (mut watch, start) = watch();
        let pending = |written| Seen { is_write_pending: true, written, ..IDLE };
        watch.observe(pending(1), start);
        watch.observe(pending(1), start + secs(59));
        watch.observe(pending(2), start + secs(59));
        // The response is over for us, but not for the client: that is not idle.
        assert_eq!(watch.expired(start + secs(118)), None);
        assert_eq!(watch.expired(start + secs(119)), Some(Expired::SendIdle));
        watch.observe(Seen { written: 3, ..IDLE }, start + secs(119));
        assert_eq!(watch.expired(start + secs(119)), Some(Expired::KeepAlive));
    }

    #[tokio::test]
    async fn a_head_is_not_late_while_the_response_before_it_is_being_written() {
        let (mut watch, start) = watch();
        let head = Seen { has_head_begun: true, requests: 1, ..IDLE };
        watch.observe(Seen { is_write_pending: true, ..head }, start);
        assert_eq!(watch.expired(start + secs(50)), None);
        watch.observe(head, start + secs(50));
        assert_eq!(watch.expired(start + secs(59)), None);
        assert_eq!(watch.expired(start + secs(60)), Some(Expired::Header));
    }

    #[tokio::test]
    async fn only_what_has_been_idle_after_a_request_is_parked() {
        let (mut watch, start) = watch();
        watch.is_parkable = true;
        let idle = Seen { requests: 1, ..IDLE };
        for busy in [
            IDLE,
            Seen { is_running: true, ..idle },
            Seen { has_head_begun: true, ..idle },
            Seen { is_write_pending: true, ..idle },
        ] {
            watch.observe(busy, start);
            assert_eq!(watch.expired(start + secs(5)), None, "{busy:?}");
        }
        watch.observe(idle, start + secs(5));
        assert_eq!(watch.expired(start + secs(6)), Some(Expired::Park));
        // A request that came and went begins the time anew.
        watch.observe(Seen { requests: 2, ..IDLE }, start + secs(6));
        assert_eq!(watch.expired(start + secs(6)), None);
        assert_eq!(watch.deadline(), Some(start + secs(7)));
    }

    #[tokio::test]
    async fn age_is_reported_once() {
        let (mut watch, start) = watch();
        let running = Seen { is_running: true, ..IDLE };
        watch.observe(running, start);
        assert_eq!(watch.expired(start + secs(8_999)), None);
        assert_eq!(watch.expired(start + secs(11_000)), Some(Expired::Age));
        assert_eq!(watch.expired(start + secs(11_000)), None);
        assert_eq!(watch.deadline(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_polled_last_is_woken_however_often_that_was() {
        let (mut poll, start) = (idle(), Instant::now());
        let mut nobody = Context::from_waker(Waker::noop());
        assert!(poll(&mut nobody).is_pending());
        assert!(poll(&mut nobody).is_pending());
        for _ in 0..3 {
            assert!(poll_fn(|cx| Poll::Ready(poll(cx))).await.is_pending());
            advance(secs(1)).await;
        }
        assert_eq!(poll_fn(poll).await, Expired::KeepAlive);
        assert_eq!(start.elapsed().as_secs(), 75);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_no_budget_left_is_woken_in_the_end() {
        let (mut poll, start) = (idle(), Instant::now());
        // The first look is at the end of a poll in which the connection has used up all there is.
        let looked = poll_fn(|cx| {
            for _ in 0..128 {
                assert!(coop::poll_proceed(cx).map(|unit| unit.made_progress()).is_ready());
            }
            Poll::Ready(poll(cx))
        });
        assert!(looked.await.is_pending());
        assert!(!coop::has_budget_remaining());
        yield_now().await;
        let expired = timeout(secs(100), poll_fn(poll)).await;
        assert_eq!((expired, start.elapsed().as_secs()), (Ok(Expired::KeepAlive), 75));
    }
}
