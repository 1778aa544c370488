//! Formats answers for people.

use std::fmt::{self, Write as _};

use serde_json::Value;

use super::table::{age, bytes, table};

/// Topics and subscriptions; with `is_full` also each partition.
pub(super) fn status(all: &Value, is_full: bool) -> String {
    let mut out = String::new();
    let topics = list(all, "topics");
    if !topics.is_empty() {
        out.push_str(&topics_table(&topics));
    }
    let subscriptions = list(all, "subscriptions");
    if !subscriptions.is_empty() {
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&subscriptions_table(&subscriptions));
    }
    if is_full {
        for subscription in subscriptions {
            out.push('\n');
            out.push_str(&partitions(subscription));
        }
    }
    if out.is_empty() { "no topics\n".to_owned() } else { out }
}

pub(super) fn topic(topic: &Value) -> String {
    topics_table(&[topic])
}

pub(super) fn subscription(subscription: &Value) -> String {
    subscriptions_table(&[subscription])
}

fn topics_table(topics: &[&Value]) -> String {
    let row = |topic: &&Value| {
        let mut state = text(&topic["state"]);
        if let Some(reason) = topic["offline"]["reason"].as_str() {
            state = format!("{state}: {reason}");
        }
        for (flag, word) in [("orphaned", "orphaned"), ("clock_frozen", "clock frozen")] {
            if topic[flag] == true {
                state = format!("{state}, {word}");
            }
        }
        vec![
            text(&topic["name"]),
            text(&topic["partitions"]),
            text(&topic["start"]),
            text(&topic["end"]),
            text(&topic["events"]),
            size(&topic["bytes"]),
            text(&topic["delayed"]),
            state,
        ]
    };
    let rows: Vec<_> = topics.iter().map(row).collect();
    let head = ["TOPIC", "PARTITIONS", "START", "END", "EVENTS", "BYTES", "DELAYED", "STATE"];
    table(&head, &rows)
}

fn subscriptions_table(subscriptions: &[&Value]) -> String {
    let row = |it: &&Value| {
        let mut state = text(&it["state"]);
        if let Some(reason) = it["reason"].as_str() {
            state = format!("{state}: {reason}");
        }
        vec![
            text(&it["name"]),
            text(&it["topic"]),
            text(&it["mode"]),
            text(&it["lag_events"]),
            it["oldest_age_seconds"].as_f64().map_or_else(|| "-".to_owned(), age),
            text(&it["in_flight"]),
            text(&it["parked"]),
            text(&it["dead_letters"]["count"]),
            state,
        ]
    };
    let rows: Vec<_> = subscriptions.iter().map(row).collect();
    let head =
        ["SUBSCRIPTION", "TOPIC", "MODE", "LAG", "OLDEST", "IN FLIGHT", "PARKED", "DEAD", "STATE"];
    table(&head, &rows)
}

fn partitions(subscription: &Value) -> String {
    let row = |it: &&Value| {
        vec![
            text(&it["partition"]),
            text(&it["floor"]),
            text(&it["scan"]),
            text(&it["unsettled"]),
            if it["full"] == true { "full".to_owned() } else { String::new() },
        ]
    };
    let rows: Vec<_> = list(subscription, "partitions").iter().map(row).collect();
    table(&["PARTITION", "FLOOR", "SCAN", "UNSETTLED", ""], &rows)
}

pub(super) fn published(told: &Value) -> String {
    let row = |it: &&Value| {
        let note = match (it["duplicate"] == true, it["mismatch"] == true) {
            (_, true) => "duplicate, but it said something else",
            (true, false) => "duplicate",
            (false, false) if it["delayed"] == true => "waits for its time",
            (false, false) => "",
        };
        vec![text(&it["id"]), text(&it["partition"]), text(&it["offset"]), note.to_owned()]
    };
    let rows: Vec<_> = list(told, "results").iter().map(row).collect();
    table(&["ID", "PARTITION", "OFFSET", ""], &rows)
}

pub(super) fn leased(told: &Value) -> String {
    let events = list(told, "events");
    if events.is_empty() {
        return "no events\n".to_owned();
    }
    let mut out = String::new();
    for it in events {
        let lease = &it["lease"];
        push(
            &mut out,
            format_args!(
                "{}:{}  attempt {}  until {}\n  token {}\n  {}\n",
                text(&lease["partition"]),
                text(&lease["offset"]),
                text(&lease["attempt"]),
                text(&lease["expires_at"]),
                text(&lease["token"]),
                it["event"],
            ),
        );
    }
    out
}

pub(super) fn settled(told: &Value) -> String {
    let row = |it: &&Value| vec![text(&it["status"]), text(&it["token"])];
    let rows: Vec<_> = list(told, "results").iter().map(row).collect();
    table(&["STATUS", "TOKEN"], &rows)
}

pub(super) fn trace(told: &Value) -> String {
    let mut out = String::new();
    for it in list(told, "events") {
        out.push_str(&event(it));
        for state in states(it) {
            push(&mut out, format_args!("  {state}\n"));
        }
    }
    out.push_str(partial(told));
    out
}

/// One event and its place.
pub(super) fn event(it: &Value) -> String {
    format!(
        "{} {}  {}\n  {}\n",
        text(&it["topic"]),
        place(it),
        text(&it["published_at"]),
        it["event"],
    )
}

/// The events of a saga, one line each.
pub(super) fn saga(told: &Value) -> String {
    let row = |it: &&Value| {
        let event = &it["event"];
        vec![
            text(&it["published_at"]),
            text(&event["type"]),
            text(&it["topic"]),
            place(it),
            text(&event["id"]),
            text(&event["causationid"]),
            states(it).collect::<Vec<_>>().join("; "),
        ]
    };
    let rows: Vec<_> = list(told, "events").iter().map(row).collect();
    if rows.is_empty() {
        return format!("no events\n{}", partial(told));
    }
    let head = ["PUBLISHED", "TYPE", "TOPIC", "PLACE", "ID", "CAUSE", "SUBSCRIPTIONS"];
    table(&head, &rows) + partial(told)
}

/// `PARTITION:OFFSET`
fn place(it: &Value) -> String {
    format!("{}:{}", text(&it["partition"]), text(&it["offset"]))
}

/// What each subscription has done with an event: `billing: retrying, attempt 2`.
fn states(it: &Value) -> impl Iterator<Item = String> {
    it["subscriptions"].as_object().into_iter().flatten().map(|(name, state)| {
        let attempts = state.get("attempt").or(state.get("attempts"));
        let attempts = attempts.map(|count| format!(", attempt {count}")).unwrap_or_default();
        format!("{name}: {}{attempts}", text(&state["state"]))
    })
}

fn partial(told: &Value) -> &'static str {
    if told["partial"] == true { "the search took too long: there may be more\n" } else { "" }
}

pub(super) fn dead_letters(told: &Value) -> String {
    let letters = list(told, "dead_letters");
    if letters.is_empty() {
        return "no dead letters\n".to_owned();
    }
    let row = |it: &&Value| {
        vec![
            text(&it["id"]),
            text(&it["died_at"]),
            text(&it["reason"]),
            text(&it["attempts"]),
            text(&it["type"]),
            text(&it["event_id"]),
            text(&it["last_error"]).chars().take(60).collect(),
        ]
    };
    let rows: Vec<_> = letters.iter().map(row).collect();
    let mut out = table(&["ID", "DIED", "REASON", "ATTEMPTS", "TYPE", "EVENT", "ERROR"], &rows);
    if let Some(next) = told["next"].as_u64() {
        push(&mut out, format_args!("more: --after {next}\n"));
    }
    out
}

/// One dead letter in full.
pub(super) fn dead_letter(told: &Value) -> String {
    format!("{told:#}\n")
}

pub(super) fn redriven(told: &Value) -> String {
    let skipped = match told["skipped"].as_u64() {
        None | Some(0) => String::new(),
        Some(count) => format!(", {count} left because they were compensated (--force)"),
    };
    match told["job"].as_str() {
        Some(job) => format!("job {job}: {} dead letters{skipped}\n", told["matching"]),
        None => format!("{} dead letters would be delivered again{skipped}\n", told["matching"]),
    }
}

pub(super) fn jobs(told: &Value) -> String {
    match list(told, "jobs").as_slice() {
        [] => "no jobs\n".to_owned(),
        jobs => jobs_table(jobs),
    }
}

pub(super) fn job(told: &Value) -> String {
    let mut out = jobs_table(&[told]);
    for it in list(told, "failures") {
        let place = format!("{}:{}", it["partition"], it["offset"]);
        push(&mut out, format_args!("  failed: {place}  {}\n", text(&it["reason"])));
    }
    out
}

pub(super) fn uncertain(told: &Value) -> String {
    let row = |it: &&Value| {
        vec![
            text(&it["id"]),
            text(&it["since"]),
            text(&it["expires_at"]),
            text(&it["route"]),
            text(&it["principal"]),
            text(&it["key"]),
            format!("{} {}", text(&it["method"]), text(&it["target"])),
        ]
    };
    let rows: Vec<_> = list(told, "keys").iter().map(row).collect();
    if rows.is_empty() {
        return "no uncertain keys\n".to_owned();
    }
    table(&["ID", "SINCE", "UNTIL", "ROUTE", "PRINCIPAL", "KEY", "REQUEST"], &rows)
}

pub(super) fn resolved(told: &Value) -> String {
    format!("{} is {}\n", text(&told["id"]), text(&told["outcome"]).replace('_', " "))
}

fn jobs_table(jobs: &[&Value]) -> String {
    let row = |it: &&Value| {
        vec![
            text(&it["id"]),
            text(&it["kind"]),
            text(&it["state"]),
            text(&it["started_at"]),
            format!("{}/{}", it["done"], it["total"]),
            text(&it["delivered"]),
            text(&it["failed"]),
        ]
    };
    let rows: Vec<_> = jobs.iter().map(row).collect();
    table(&["JOB", "KIND", "STATE", "STARTED", "DONE", "DELIVERED", "FAILED"], &rows)
}

fn list<'a>(value: &'a Value, name: &str) -> Vec<&'a Value> {
    value[name].as_array().into_iter().flatten().collect()
}

/// A scalar without quotes; `-` if there is none.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn size(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), bytes)
}

fn push(out: &mut String, text: fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    out.write_fmt(text).unwrap_or_default();
}
