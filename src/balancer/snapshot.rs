//! The state of a group for an operator, with the reason for each endpoint that is out.

use std::sync::{Arc, atomic::Ordering};

use serde::Serialize;
use tokio::time::Instant;

use crate::{
    balancer::{
        breaker::Phase,
        group::Shared,
        health,
        roster::State,
        set::{Board, Member},
    },
    telemetry::clock,
};

/// `/v1/upstreams`.
#[derive(Clone, Debug, Serialize)]
pub struct GroupSnapshot {
    /// The upstream's name.
    pub name: Arc<str>,
    /// Its endpoints, by priority.
    pub endpoints: Vec<EndpointSnapshot>,
    /// Requests under way, over all workers.
    pub in_flight: usize,
    /// Too few endpoints are healthy, so health checks are ignored.
    pub panic: bool,
    /// Each priority's part of the requests now.
    pub priorities: Vec<PrioritySnapshot>,
}

/// One priority in `/v1/upstreams`.
#[derive(Clone, Debug, Serialize)]
pub struct PrioritySnapshot {
    /// 0 is used first.
    pub priority: u32,
    /// 0 to 1.
    pub share: f64,
}

/// One endpoint in `/v1/upstreams`.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointSnapshot {
    /// Its address.
    pub address: String,
    /// Its share within its priority.
    pub weight: u32,
    /// 0 is used first.
    pub priority: u32,
    /// Requests under way, over all workers.
    pub in_flight: usize,
    /// Its expected latency.
    pub ewma_seconds: f32,
    /// `ready`, `down`, `ejected` or `breaker-open`.
    pub state: &'static str,
    /// Whether it gets requests now; even one that is out does, if nobody else is left.
    pub takes_requests: bool,
    /// Why it is out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Since when it has been out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Until when it is out, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// What health checks say: `off`, `unknown`, `up`, `down`.
    pub health: &'static str,
    /// `off`, `closed`, `open`, `probing`.
    pub breaker: &'static str,
    /// The number of doublings of the next ejection.
    pub ejections: u32,
    /// Its share of its weight during slow start, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start_share: Option<f64>,
}

/// Why an endpoint is out, since when and until when.
#[derive(Default)]
struct Out {
    why: Option<String>,
    since: Option<Instant>,
    until: Option<Instant>,
}

/// The group as it is now.
pub(super) fn of(shared: &Shared, now: Instant) -> GroupSnapshot {
    let board = shared.board.borrow().clone();
    let Board { set, roster } = &*board;
    let endpoints = (0..).zip(&set.members).map(|(index, member)| {
        let is_ready = roster.is_ready(index);
        endpoint(shared, member, is_ready, now)
    });
    let priorities = set.tiers().into_iter().zip(roster.parts()).map(|(members, share)| {
        PrioritySnapshot { priority: set.member(members.start).priority, share }
    });
    GroupSnapshot {
        name: shared.settings.name.clone(),
        endpoints: endpoints.collect(),
        // Relaxed: for display only.
        in_flight: shared.in_flight.load(Ordering::Relaxed),
        panic: roster.is_panic,
        priorities: priorities.collect(),
    }
}

fn endpoint(
    shared: &Shared,
    member: &Member,
    takes_requests: bool,
    now: Instant,
) -> EndpointSnapshot {
    let settings = &shared.settings;
    let record = member.standing.record();
    let seen = record.seen(settings, now);
    let state = seen.state();
    let Out { why, since, until } = match state {
        State::Ready => Out::default(),
        State::Down => Out {
            why: Some(format!("health check: {}", record.health.reason().unwrap_or("failed"))),
            since: record.health.since(),
            until: None,
        },
        State::Ejected => Out {
            why: Some(format!(
                "outlier detection: {} failures in a row",
                settings.outlier.consecutive_failures
            )),
            since: record.ejection.current().map(|span| span.since),
            until: record.ejection.current().map(|span| span.until),
        },
        State::BreakerOpen => open(seen.breaker),
    };
    let time = |at: Instant| clock::rfc3339(clock::at(at));
    EndpointSnapshot {
        address: member.endpoint.address().to_string(),
        weight: member.weight,
        priority: member.priority,
        in_flight: member.endpoint.load().in_flight(),
        ewma_seconds: member.endpoint.load().expected(now),
        state: state.word(),
        takes_requests,
        why,
        since: since.map(time),
        until: until.map(time),
        health: match record.health.state() {
            _ if !record.health.is_checked() => "off",
            health::State::Unknown => "unknown",
            health::State::Up => "up",
            health::State::Down => "down",
        },
        breaker: match (&settings.breaker, seen.breaker) {
            (None, _) => "off",
            (Some(_), Phase::Closed) => "closed",
            (Some(_), Phase::Open { .. }) => "open",
            (Some(_), Phase::Due { .. } | Phase::Probing { .. }) => "probing",
        },
        ejections: record.ejection.times(&settings.outlier, now),
        slow_start_share: (seen.share < 100).then(|| f64::from(seen.share) / 100.0),
    }
}

fn open(phase: Phase) -> Out {
    let told =
        |why: &str, since, until| Out { why: Some(why.to_owned()), since: Some(since), until };
    match phase {
        Phase::Closed => Out::default(),
        Phase::Open { since, until } => told("circuit breaker: open", since, Some(until)),
        Phase::Due { since } => told("circuit breaker: the next request is a probe", since, None),
        Phase::Probing { since } => told("circuit breaker: a probe is under way", since, None),
    }
}
