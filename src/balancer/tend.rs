//! Keeps the roster of a group in step with the standing of its endpoints.
//!
//! Whoever causes a change recomputes the roster at once, so that it holds for the next request of
//! every worker. Changes caused by time (the end of an ejection, a breaker that is due, the steps
//! of slow start) are made by one task on control, which sleeps until the next one.
//!
//! Endpoints outlive a reload, and for a while two configurations share them: each change rings a
//! bell that the tasks of both hear.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{self, Instant},
};

use crate::{
    balancer::{
        breaker::Probe,
        group::Shared,
        health,
        outlier::Census,
        roster::{Roster, STATES, State},
        set::{Board, Member, Set},
        standing::{Outcome, Standing, Turned},
    },
    telemetry::metrics::{
        BREAKER_TRANSITIONS, Cells, Desc, EJECTIONS, ENDPOINT_READY, ENDPOINTS, Gauge,
        HEALTH_TRANSITIONS, PANIC,
    },
};

/// How often to look even if nothing is due.
const IDLE: Duration = Duration::from_hours(1);
/// How many endpoints of one upstream get their own label during a process's life; others are
/// counted as `other`.
const MAX_LABELLED: usize = 256;

/// What the groups with one name share across configurations.
#[derive(Debug)]
pub(super) struct Desk {
    /// Rung when the state of an endpoint changes.
    bell: Notify,
    cells: Cells,
    upstream: Arc<str>,
    /// At most [`MAX_LABELLED`].
    labelled: Mutex<HashSet<Box<str>>>,
    /// Held during an ejection: if two endpoints compete for the last one allowed, one gets it.
    ejecting: Mutex<()>,
    /// Held while a roster is made, published and shown, so that the one shown last is the one
    /// published last.
    shown: Mutex<Shown>,
    /// [`ENDPOINTS`], in the order of [`STATES`].
    states: [Gauge; STATES.len()],
    /// [`PANIC`].
    panic: Gauge,
}

/// The current values of the gauges.
#[derive(Debug, Default)]
struct Shown {
    set: Arc<Set>,
    states: Vec<State>,
    /// [`ENDPOINT_READY`] of at most [`MAX_LABELLED`] current endpoints.
    ready: HashMap<Box<str>, Gauge>,
    /// A continuing panic is logged only once.
    is_panic: bool,
}

/// The result of assessing all endpoints.
struct Assessed {
    roster: Roster,
    /// When the result next changes by itself.
    next: Option<Instant>,
    /// Endpoints that have just come back from an ejection.
    back: Vec<Member>,
    /// The state of each endpoint.
    states: Vec<State>,
}

/// Renews the roster as time passes. Completes only when the group ends.
pub(super) async fn tend(desk: Arc<Desk>, group: Weak<Shared>) {
    loop {
        let mut bell = std::pin::pin!(desk.bell.notified());
        // Listening from now on: what changes during the assessment causes another one.
        bell.as_mut().enable();
        let Some(shared) = group.upgrade() else { return };
        let next = shared.reassess(Instant::now());
        drop(shared);
        let next = next.unwrap_or_else(|| Instant::now() + IDLE);
        tokio::select! {
            () = bell => {}
            () = time::sleep_until(next) => {}
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Takes what an attempt said about its endpoint.
    pub(super) fn observe(
        &self,
        standing: &Arc<Standing>,
        outcome: Outcome,
        probe: Option<Probe>,
        now: Instant,
    ) {
        let told = standing.observe(outcome, probe, &self.settings, now);
        if told.is_outlier {
            self.eject(standing, now);
        }
        if let Some(turned) = told.breaker {
            self.turned(standing, turned);
        }
        // A probe without a result changes nobody's list: the next request finds its place free.
        if told.breaker.is_some() || told.is_still_open {
            self.changed(now);
        }
    }

    /// Takes the result of a health check.
    pub(super) fn checked(
        &self,
        member: &Member,
        result: Result<(), Box<str>>,
        settings: &Arc<health::Settings>,
        now: Instant,
    ) {
        let mut record = member.standing.record();
        let was_down = record.health.state() == health::State::Down;
        let turned = record.health.record(result, settings, now, fastrand::f64());
        let reason = record.health.reason().unwrap_or_default().to_owned();
        if turned == Some(health::State::Up) && was_down {
            record.warm_up(now);
        }
        drop(record);
        let endpoint = member.endpoint.label();
        let to = match turned {
            Some(health::State::Down) => {
                tracing::warn!(%endpoint, %reason, "endpoint is down");
                "down"
            }
            Some(health::State::Up) => {
                tracing::info!(%endpoint, "endpoint is up");
                "up"
            }
            Some(health::State::Unknown) | None => return,
        };
        self.desk.count(&HEALTH_TRANSITIONS, member, &[to]);
        if was_down && to == "up" {
            self.believe(member, now);
        }
        self.changed(now);
    }

    pub(super) fn changed(&self, now: Instant) {
        self.reassess(now);
        self.desk.bell.notify_waiters();
    }

    /// Ejects the endpoint, if the group can spare it.
    fn eject(&self, standing: &Arc<Standing>, now: Instant) {
        let settings = &self.settings.outlier;
        if settings.max_ejected <= 0.0 {
            return;
        }
        let board = self.board.borrow().clone();
        let found = board.set.members.iter().find(|m| Arc::ptr_eq(&m.standing, standing));
        let Some(member) = found else { return };
        let _ejecting = self.desk.ejecting.lock();
        let census = board.set.members.iter().fold(Census::default(), |census, member| {
            let record = member.standing.record();
            let is_ejected = record.ejection.current().is_some_and(|span| span.until > now);
            let is_sound = !is_ejected && record.health.state() != health::State::Down;
            census.with(is_ejected, is_sound)
        });
        let mut record = standing.record();
        // An endpoint that is down or ejected already may still fail live requests.
        let is_asked = record.ejection.current().is_none()
            && record.health.state() != health::State::Down
            && census.may_eject(settings.max_ejected, self.settings.panic_threshold);
        if !is_asked {
            return;
        }
        let until = record.ejection.eject(settings, now, fastrand::f64());
        drop(record);
        tracing::warn!(endpoint = %member.endpoint.label(), seconds = (until - now).as_secs_f32(),
            "endpoint ejected: too many failures in a row");
        self.desk.count(&EJECTIONS, member, &[]);
        self.changed(now);
    }

    fn turned(&self, standing: &Arc<Standing>, turned: Turned) {
        let board = self.board.borrow().clone();
        let found = board.set.members.iter().find(|m| Arc::ptr_eq(&m.standing, standing));
        let Some(member) = found else { return };
        let endpoint = member.endpoint.label();
        let to = match turned {
            Turned::Opened => {
                tracing::warn!(%endpoint, "circuit breaker opened");
                "open"
            }
            Turned::Closed => {
                tracing::info!(%endpoint, "circuit breaker closed");
                self.believe(member, Instant::now());
                "closed"
            }
        };
        self.desk.count(&BREAKER_TRANSITIONS, member, &[to]);
    }

    /// Gives a recovered endpoint the least latency expected of the others: what was measured while
    /// it failed would keep requests away for long.
    fn believe(&self, recovered: &Member, now: Instant) {
        let board = self.board.borrow().clone();
        let others =
            board.set.members.iter().filter(|m| !Arc::ptr_eq(&m.standing, &recovered.standing));
        let expected = others.map(|member| member.endpoint.load().expected(now));
        if let Some(least) = expected.min_by(f32::total_cmp) {
            recovered.endpoint.load().expect(least, now);
        }
    }

    /// Renews the roster and publishes it if it changed. Returns when it changes by itself.
    pub(super) fn reassess(&self, now: Instant) -> Option<Instant> {
        self.publish_with(None, now)
    }

    /// Like [`Shared::reassess`], but replaces the set by `set` if they differ.
    pub(super) fn publish_with(&self, set: Option<Set>, now: Instant) -> Option<Instant> {
        let mut shown = self.desk.shown.lock();
        let mut made = None;
        self.board.send_if_modified(|current| {
            let set = match set {
                Some(set) if !set.is_same(&current.set) => Arc::new(set),
                Some(_) | None => current.set.clone(),
            };
            let Assessed { roster, next, back, states } = self.assess(&set, now);
            made = Some((set.clone(), next, back, states, roster.is_panic));
            if Arc::ptr_eq(&set, &current.set) && roster == current.roster {
                return false;
            }
            *current = Arc::new(Board { set, roster });
            true
        });
        let (set, next, back, states, is_panic) = made?;
        for member in &back {
            tracing::info!(endpoint = %member.endpoint.label(), "endpoint is back from its ejection");
            self.believe(member, now);
        }
        if self.is_in_force() {
            if std::mem::replace(&mut shown.is_panic, is_panic) != is_panic {
                self.tell_panic(is_panic);
            }
            self.desk.show(&mut shown, set, states);
        }
        next
    }

    fn tell_panic(&self, is_panic: bool) {
        let upstream = &self.settings.name;
        if is_panic {
            tracing::warn!(%upstream, "panic: too few healthy endpoints, health checks are ignored");
        } else {
            tracing::info!(%upstream, "panic is over: health checks hold again");
        }
        self.desk.panic.set(f64::from(u8::from(is_panic)));
    }

    fn assess(&self, set: &Set, now: Instant) -> Assessed {
        let is_in_force = self.is_in_force();
        let mut next: Option<Instant> = None;
        let mut back = Vec::new();
        let mut states = Vec::with_capacity(set.members.len());
        let mut seen = Vec::with_capacity(set.members.len());
        for member in &set.members {
            let settled = if is_in_force {
                member.standing.settle(&self.settings, now)
            } else {
                member.standing.look(&self.settings, now)
            };
            next = next.into_iter().chain(settled.next).min();
            if settled.is_back {
                back.push(member.clone());
            }
            states.push(settled.seen.state());
            seen.push(settled.seen);
        }
        let roster = Roster::new(&set.tiers(), &seen, self.settings.panic_threshold);
        Assessed { roster, next, back, states }
    }
}

// === impl Desk ===

impl Desk {
    pub(super) fn new(upstream: &Arc<str>, cells: &Cells) -> Arc<Self> {
        let panic = cells.gauge(&PANIC, &[upstream]);
        panic.set(0.0);
        Arc::new(Self {
            bell: Notify::new(),
            states: STATES.map(|state| cells.gauge(&ENDPOINTS, &[upstream, state.word()])),
            panic,
            shown: Mutex::default(),
            cells: cells.clone(),
            upstream: upstream.clone(),
            labelled: Mutex::default(),
            ejecting: Mutex::default(),
        })
    }

    /// Sets the gauges to the `states` of the members of `set`, if they differ.
    fn show(&self, shown: &mut Shown, set: Arc<Set>, states: Vec<State>) {
        if Arc::ptr_eq(&shown.set, &set) && shown.states == states {
            return;
        }
        shown.set = set;
        shown.states = states;
        let Shown { set, states, ready, .. } = shown;
        for (gauge, state) in self.states.iter().zip(STATES) {
            gauge.set(states.iter().filter(|is| **is == state).count() as f64);
        }
        let there = set.members.iter().map(|member| member.endpoint.address().to_string());
        let there: HashMap<String, State> = there.zip(states.iter().copied()).collect();
        ready.retain(|address, _| {
            let is_there = there.contains_key(&**address);
            if !is_there {
                self.cells.forget_gauge(&ENDPOINT_READY, &[&self.upstream, address]);
            }
            is_there
        });
        for (address, state) in &there {
            if ready.len() < MAX_LABELLED && !ready.contains_key(&**address) {
                let gauge = self.cells.gauge(&ENDPOINT_READY, &[&self.upstream, address]);
                ready.insert(address.as_str().into(), gauge);
            }
            if let Some(gauge) = ready.get(&**address) {
                gauge.set(f64::from(u8::from(*state == State::Ready)));
            }
        }
    }

    /// Counts one more in `desc`, with the labels upstream, endpoint and `rest`.
    fn count(&self, desc: &'static Desc, member: &Member, rest: &[&str]) {
        let address = member.endpoint.address().to_string();
        let mut labelled = self.labelled.lock();
        let is_labelled = labelled.contains(&*address)
            || labelled.len() < MAX_LABELLED && labelled.insert(address.as_str().into());
        drop(labelled);
        let endpoint = if is_labelled { &*address } else { "other" };
        let labels: Vec<&str> =
            [&*self.upstream, endpoint].into_iter().chain(rest.iter().copied()).collect();
        self.cells.counter(desc, &labels).add(1);
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // The upstream was removed.
        for gauge in self.states.iter().chain([&self.panic]) {
            gauge.set(0.0);
        }
        for address in self.shown.get_mut().ready.keys() {
            self.cells.forget_gauge(&ENDPOINT_READY, &[&self.upstream, address]);
        }
    }
}
