//! Formats results: statuses as JSON values, events as their own JSON text.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    events::event::{Attribute, Event},
    events::facade::{
        DeadLetter, EventState, Found, Hold, JobKind, JobState, JobStatus, Leased, Published,
        StoredEvent, SubscriptionMode, SubscriptionState, SubscriptionStatus, TokenResult,
        TokenStatus, TopicState, TopicStatus, Trace, UncertainKey,
    },
    events::wire::structured,
    telemetry::clock,
};

/// Formats milliseconds since 1970 as RFC 3339.
pub(super) fn time(millis: u64) -> String {
    /// 9999-12-31T23:59:59.999Z
    const LAST: u64 = 253_402_300_799_999;
    clock::rfc3339(SystemTime::UNIX_EPOCH + Duration::from_millis(millis.min(LAST)))
}

/// The part of a text that messages repeat.
pub(super) fn shortened(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(100).collect()
}

/// One answer for each published event or token, in order. Serialised directly: a `Value` would
/// cost sixty allocations, and publishers and consumers wait for these.
#[derive(Serialize)]
pub(super) struct Results<T> {
    results: Vec<T>,
}

#[derive(Serialize)]
pub(super) struct PublishedView<'a> {
    id: &'a str,
    topic: &'a str,
    /// Absent for a delayed event, which gets its place in the topic when it is due.
    partition: Option<u32>,
    offset: Option<u64>,
    duplicate: bool,
    mismatch: bool,
    delayed: bool,
}

#[derive(Serialize)]
pub(super) struct SettledView<'a> {
    token: &'a str,
    status: &'static str,
}

#[derive(Serialize)]
struct LeaseView<'a> {
    token: &'a str,
    expires_at: String,
    attempt: u32,
    partition: u32,
    offset: u64,
}

pub(super) fn published<'a>(
    topic: &'a str,
    results: &'a [Published],
) -> Results<PublishedView<'a>> {
    let result = |it: &'a Published| PublishedView {
        id: &it.id,
        topic,
        partition: (!it.is_delayed).then_some(it.partition),
        offset: (!it.is_delayed).then_some(it.offset),
        duplicate: it.duplicate,
        mismatch: it.mismatch,
        delayed: it.is_delayed,
    };
    Results { results: results.iter().map(result).collect() }
}

/// The body of a receive. Written directly, because the data of events is passed on unchanged.
pub(super) fn leased(events: &[Leased]) -> Bytes {
    let bytes = events.iter().map(|it| it.event.bytes() + 512);
    let mut out = Vec::with_capacity(bytes.sum());
    out.extend_from_slice(b"{\"events\":[");
    for (index, it) in events.iter().enumerate() {
        let lease = LeaseView {
            token: &it.token,
            expires_at: time(it.expires),
            attempt: it.attempt,
            partition: it.partition,
            offset: it.offset,
        };
        push_separator(index, &mut out);
        out.extend_from_slice(b"{\"lease\":");
        push_json(&lease, &mut out);
        out.extend_from_slice(b",\"event\":");
        if it.is_replay {
            let mut event = it.event.clone();
            event.attributes.push(("sluicereplay".to_owned(), Attribute::Boolean(true)));
            structured::write(&event, &mut out);
        } else {
            structured::write(&it.event, &mut out);
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]}\n");
    out.into()
}

/// An event and its position.
pub(super) fn stored(stored: &StoredEvent, out: &mut Vec<u8>) {
    let place = place(stored);
    push_with_event(&place, &stored.event, out);
}

/// Events with the same ID or saga.
pub(super) fn trace(trace: &Trace) -> Bytes {
    let mut out = b"{\"events\":[".to_vec();
    for (index, Found { stored, states }) in trace.events.iter().enumerate() {
        let mut shown = place(stored);
        let states: Map<String, Value> =
            states.iter().map(|(name, state)| (name.to_string(), event_state(*state))).collect();
        shown.insert("subscriptions".to_owned(), states.into());
        push_separator(index, &mut out);
        push_with_event(&shown, &stored.event, &mut out);
    }
    out.extend_from_slice(format!("],\"partial\":{}}}\n", trace.partial).as_bytes());
    out.into()
}

fn place(stored: &StoredEvent) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("topic".to_owned(), json!(stored.topic));
    map.insert("partition".to_owned(), json!(stored.partition));
    map.insert("offset".to_owned(), json!(stored.offset));
    map.insert("published_at".to_owned(), json!(time(stored.published)));
    map
}

/// Appends the members of `map`, and `event` as the last one.
fn push_with_event(map: &Map<String, Value>, event: &Event, out: &mut Vec<u8>) {
    out.push(b'{');
    for (name, value) in map {
        structured::push_string(name, out);
        out.extend_from_slice(format!(":{value},").as_bytes());
    }
    out.extend_from_slice(b"\"event\":");
    structured::write(event, out);
    out.push(b'}');
}

/// For people, one line per member.
pub(super) fn pretty(value: &impl Serialize) -> Bytes {
    let mut out = Vec::with_capacity(256);
    written(serde_json::to_writer_pretty(&mut out, value));
    out.push(b'\n');
    out.into()
}

/// For programs, in one line.
pub(super) fn line(value: &impl Serialize) -> Bytes {
    let mut out = Vec::with_capacity(256);
    push_json(value, &mut out);
    out.push(b'\n');
    out.into()
}

fn push_json(value: &impl Serialize, out: &mut Vec<u8>) {
    written(serde_json::to_writer(out, value));
}

/// Writing texts, numbers and lists of them to memory does not fail.
fn written(result: serde_json::Result<()>) {
    if let Err(error) = result {
        tracing::error!(%error, "an answer of the event API could not be written as JSON and is incomplete");
    }
}

fn push_separator(index: usize, out: &mut Vec<u8>) {
    if index > 0 {
        out.push(b',');
    }
}

fn event_state(state: EventState) -> Value {
    match state {
        EventState::Queued => json!({ "state": "queued" }),
        EventState::InFlight { attempt } => json!({ "state": "in_flight", "attempt": attempt }),
        EventState::Retrying { attempts, next } => {
            json!({ "state": "retrying", "attempts": attempts, "next_at": time(next) })
        }
        EventState::KeyBlocked => json!({ "state": "key_blocked" }),
        EventState::Settled => json!({ "state": "settled" }),
    }
}

pub(super) fn settled<'a>(results: &'a [TokenResult]) -> Results<SettledView<'a>> {
    let result = |it: &'a TokenResult| {
        let status = match it.status {
            TokenStatus::Ok => "ok",
            TokenStatus::LeaseExpired => "lease_expired",
            TokenStatus::Unknown => "unknown",
            TokenStatus::Settled => "settled",
        };
        SettledView { token: &it.token, status }
    };
    Results { results: results.iter().map(result).collect() }
}

pub(super) fn topic(topic: &TopicStatus) -> Value {
    let (state, offline) = match &topic.state {
        TopicState::Serving => ("serving", Value::Null),
        TopicState::Full => ("full", Value::Null),
        TopicState::Offline { reason, range } => {
            let range = range.map(|range| json!({ "from": range.from, "to": range.to }));
            ("offline", json!({ "reason": reason, "range": range }))
        }
    };
    json!({
        "name": topic.name,
        "id": topic.id,
        "state": state,
        "offline": offline,
        "partitions": topic.partitions,
        "start": topic.start,
        "end": topic.end,
        "events": topic.events,
        "bytes": topic.bytes,
        "oldest_at": topic.oldest.map(time),
        "segments": topic.segments,
        "delayed": topic.delayed,
        "dedup": {
            "entries": topic.dedup.entries,
            "hits": topic.dedup.hits,
            "window_seconds": topic.dedup.window.as_secs_f64(),
        },
        "dropped": {
            "drop_oldest": topic.dropped.oldest,
            "pin_false": topic.dropped.unpinned,
            "dead_letter_age": topic.dropped.dead_letters,
        },
        "lost": topic.lost,
        "recovery_seconds": topic.recovery.as_secs_f64(),
        "scrubbed_at": topic.scrubbed.map(time),
        "clock_frozen": topic.is_clock_frozen,
        "orphaned": topic.is_orphaned,
        "subscriptions": topic.subscriptions,
    })
}

pub(super) fn subscription(status: &SubscriptionStatus) -> Value {
    let (state, reason) = match &status.state {
        SubscriptionState::Active => {
            let failing = status.failing.as_ref();
            ("active", json!(failing.map(|why| format!("the last push failed: {why}"))))
        }
        SubscriptionState::Paused(hold) => ("paused", json!(hold_text(hold))),
    };
    let partitions = status.partitions.iter().map(|it| {
        json!({
            "partition": it.partition,
            "floor": it.floor,
            "scan": it.scan,
            "unsettled": it.unsettled,
            "full": it.is_full,
        })
    });
    let reasons: Map<String, Value> = status
        .dead_letters
        .reasons
        .iter()
        .map(|(reason, count)| (reason.word().to_owned(), json!(count)))
        .collect();
    json!({
        "name": status.name,
        "id": status.id,
        "topic": status.topic,
        "mode": match status.mode {
            SubscriptionMode::Pull => "pull",
            SubscriptionMode::Push => "push",
        },
        "state": state,
        "reason": reason,
        "lag_events": status.lag_events,
        "lag_bytes": status.lag_bytes,
        "oldest_age_seconds": status.oldest_age.map(|age| age.as_secs_f64()),
        "in_flight": status.in_flight,
        "parked": status.parked,
        "blocked_keys": status.blocked_keys,
        "suspects": status.suspects,
        "dead_letters": {
            "count": status.dead_letters.count,
            "bytes": status.dead_letters.bytes,
            "reasons": reasons,
        },
        "next_retry_at": status.next_retry.map(time),
        "partitions": partitions.collect::<Vec<_>>(),
        "orphaned": status.is_orphaned,
    })
}

fn hold_text(hold: &Hold) -> String {
    match hold {
        Hold::Operator => "by an operator".to_owned(),
        Hold::Gone => "the endpoint answered 410".to_owned(),
        Hold::DeadLettersFull => "the dead letters are full".to_owned(),
        Hold::Disk => "no room on disk for what has to be written about a delivery".to_owned(),
        Hold::Damage { partition, from, to } => {
            format!("damage in partition {partition}, offsets {from} to {to}")
        }
        Hold::Offline { detail } => detail.clone(),
        Hold::Orphaned => "no longer configured".to_owned(),
    }
}

pub(super) fn dead_letter(letter: &DeadLetter) -> Map<String, Value> {
    let mut shown = json!({
        "id": letter.id,
        "event_id": letter.event_id,
        "type": letter.kind,
        "key": letter.key.as_deref().map(String::from_utf8_lossy),
        "reason": letter.reason.word(),
        "attempts": letter.attempts,
        "first_attempt_at": letter.first_attempt.map(time),
        "died_at": time(letter.died),
        "last_status": letter.last_status,
        "last_error": letter.last_error,
        "redrives": letter.redrives,
        "compensated": letter.is_compensated,
        "bytes": letter.bytes,
        "origin": {
            "lane": letter.origin.lane,
            "topic": letter.origin.topic,
            "partition": letter.origin.partition,
            "offset": letter.origin.offset,
        },
    });
    shown.as_object_mut().map(std::mem::take).unwrap_or_default()
}

/// A dead letter and its event.
pub(super) fn dead_letter_event(letter: &DeadLetter, event: &Event) -> Bytes {
    let mut out = Vec::with_capacity(event.bytes() + 1024);
    push_with_event(&dead_letter(letter), event, &mut out);
    out.push(b'\n');
    out.into()
}

pub(super) fn uncertain_key(key: &UncertainKey) -> Value {
    let request = &key.request;
    json!({
        "id": key.id,
        "route": request.route,
        "principal": request.principal,
        "key": request.key,
        "method": request.method,
        "target": request.target,
        "since": (request.since > 0).then(|| time(request.since)),
        "expires_at": time(request.expires),
    })
}

pub(super) fn job(job: &JobStatus) -> Value {
    let failures = job.failures.iter().map(
        |it| json!({ "partition": it.partition, "offset": it.offset, "reason": it.reason.word() }),
    );
    json!({
        "id": job.id.to_string(),
        "subscription": job.id.subscription,
        "kind": match job.kind {
            JobKind::Replay => "replay",
            JobKind::Redrive => "redrive",
        },
        "state": match job.state {
            JobState::Running => "running",
            JobState::Done => "done",
            JobState::Cancelled => "cancelled",
        },
        "started_at": time(job.started),
        "ended_at": job.ended.map(time),
        "total": job.total,
        "done": job.done,
        "delivered": job.delivered,
        "failed": job.failed,
        "failures": failures.collect::<Vec<_>>(),
    })
}
