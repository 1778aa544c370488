//! What `GET /v1/config` shows: the file as it was written, with the defaults filled in.
//!
//! Secrets and addresses from elsewhere are shown as they are written, `env:NAME`: what they
//! stand for never gets here. Fields that carry credentials are redacted.

use http::HeaderName;
use serde_json::{Map, Value, json};

use super::tree::Tree;

/// Fields whose values are credentials, beside those that the configuration names.
const CREDENTIALS: [&str; 5] =
    ["authorization", "cookie", "proxy-authorization", "set-cookie", "x-api-key"];

/// Where a route has fields with values, as JSON pointers.
const FIELDS: [&str; 6] = [
    "/match/headers",
    "/request_headers/add",
    "/request_headers/set",
    "/respond/headers",
    "/response_headers/add",
    "/response_headers/set",
];

/// The effective configuration. `keys`: the fields that carry API keys.
pub(super) fn effective(tree: &Tree, keys: &[HeaderName]) -> Value {
    let mut shown = tree.to_json();
    fill(&mut shown, &of_file());
    if let Some(tracing) = shown.pointer_mut("/telemetry/tracing").filter(|it| it.is_object()) {
        fill(tracing, &json!({ "sample": "1%", "propagate": ["w3c"] }));
    }
    each(&mut shown, "listeners", |listener| {
        let has_tls = listener.get("tls").is_some_and(|tls| !tls.is_null());
        let protocols = if has_tls { ["h1", "h2"] } else { ["h1", "h2c"] };
        fill(listener, &of_listener(&protocols));
        if let Some(tls) = listener.get_mut("tls").filter(|tls| tls.is_object()) {
            fill(tls, &json!({ "client_auth": { "mode": "off" }, "min_version": "1.2" }));
        }
    });
    each(&mut shown, "rate_limits", |limit| {
        fill(limit, &json!({ "mode": "enforce", "max_keys": 1_000_000 }));
    });
    each(&mut shown, "issuers", |issuer| {
        fill(issuer, &json!({ "clock_skew": "60s", "require": ["exp", "sub"] }));
    });
    each(&mut shown, "api_keys", |set| fill(set, &json!({ "header": "x-api-key" })));
    each(&mut shown, "upstreams", |upstream| fill(upstream, &of_upstream()));
    fill_events(&mut shown);
    each(&mut shown, "routes", |route| {
        fill(route, &of_route());
        if let Some(retry) = route.get_mut("retry").filter(|retry| retry.is_object()) {
            fill(retry, &of_retry());
        }
        if let Some(keys) = route.get_mut("idempotency").filter(|it| it.is_object()) {
            fill(keys, &of_idempotency());
        }
        match route.get_mut("publish") {
            Some(list @ Value::Array(_)) => {
                list.as_array_mut().into_iter().flatten().for_each(fill_publish);
            }
            Some(one) if one.is_object() => fill_publish(one),
            _ => {}
        }
        for fields in FIELDS {
            if let Some(Value::Object(fields)) = route.pointer_mut(fields) {
                redact(fields, keys);
            }
        }
    });
    shown
}

fn of_file() -> Value {
    json!({
        "workers": "auto",
        "admin": { "address": "127.0.0.1:9901", "allow_faults": false },
        "trusted_proxies": [],
        "limits": {
            "header_bytes": "32KiB",
            "body_bytes": "10MiB",
            "buffer_bytes": "1MiB",
            "handshake_timeout": "10s",
            "header_timeout": "10s",
            "send_idle_timeout": "60s",
            "body_idle_timeout": "30s",
            "body_min_rate": 240,
            "keepalive_timeout": "75s",
            "requests_per_connection": 10_000,
            "connection_max_age": "1h",
        },
        "upstreams": {},
        "routes": [],
        "telemetry": {
            "access_log": { "path": "stdout", "format": "json", "sample": "100%", "query": false },
            "log_level": "info",
            "metrics": { "route_labels": true },
        },
    })
}

fn of_listener(protocols: &[&str]) -> Value {
    json!({
        "protocols": protocols,
        "proxy_protocol": "off",
        "max_connections": 20_000,
        "max_connections_per_ip": 0,
        "max_streams": 100,
    })
}

fn of_upstream() -> Value {
    json!({
        "protocol": "h1",
        "balance": "p2c_ewma",
        "connect_timeout": "3s",
        "pool": { "max_idle": 128, "idle_timeout": "55s" },
        "response_idle_timeout": "60s",
        "max_in_flight": 1024,
        "retry_budget": { "ratio": "20%", "window": "10s", "min_per_second": 10 },
        "adaptive_concurrency": "off",
    })
}

fn of_route() -> Value {
    json!({
        "priority": 0,
        "preserve_host": false,
        "merge_slashes": true,
        "encoded_separators": "reject",
        "timeout": "30s",
        "max_in_flight": 1024,
    })
}

fn of_idempotency() -> Value {
    json!({
        "header": "idempotency-key",
        "required": false,
        "ttl": "24h",
        "on_uncertain": "hold",
    })
}

fn of_retry() -> Value {
    json!({
        "attempts": 2,
        "per_attempt_timeout": "10s",
        "on": ["connect", "reset", 502, 503, 504],
    })
}

fn fill_publish(publish: &mut Value) {
    let has_answer = publish.get("mode").and_then(Value::as_str) != Some("before");
    let is_waited = publish.get("ack").and_then(Value::as_str) != Some("async");
    if has_answer {
        fill(publish, &json!({ "when": "success", "intent": is_waited }));
    }
    fill(
        publish,
        &json!({
            "mode": "after",
            "ack": "durable",
            "on_error": "fail",
            "key_required": false,
            "delay": "0s",
            "data": "request",
            "redact": [],
        }),
    );
}

/// `queue`, `topics` and `subscriptions`, where there are topics.
fn fill_events(shown: &mut Value) {
    if shown.get("topics").and_then(Value::as_object).is_none_or(Map::is_empty) {
        return;
    }
    fill(shown, &json!({ "queue": of_queue() }));
    let durability = shown.pointer("/queue/durability").cloned().unwrap_or_default();
    each(shown, "topics", |topic| {
        fill(topic, &of_topic());
        fill(topic, &json!({ "durability": durability }));
    });
    each(shown, "subscriptions", |subscription| {
        fill(subscription, &of_subscription());
        if let Some(push) = subscription.get_mut("push").filter(|push| push.is_object()) {
            fill(push, &json!({ "timeout": "15s" }));
            if push.get("url").is_some() {
                fill(push, &json!({ "format": "structured" }));
            }
            fill(subscription, &json!({ "limits": { "concurrency": 64 } }));
        }
        let schedule = subscription.pointer("/retry/schedule").and_then(Value::as_str);
        match schedule {
            Some("service") => {
                fill(subscription, &json!({ "retry": { "max_attempts": 60, "max_age": "24h" } }));
            }
            Some("standard") => {
                fill(subscription, &json!({ "retry": { "max_attempts": 10, "max_age": "76h" } }));
            }
            _ => {}
        }
        if subscription.pointer("/dead_letter/enabled") == Some(&Value::Bool(true)) {
            let kept = json!({ "dead_letter": { "max_age": "14d", "max_bytes": "1GiB" } });
            fill(subscription, &kept);
        }
    });
}

fn of_queue() -> Value {
    json!({
        "dir": "data",
        "instance": "auto",
        "required": false,
        "publish_buffer": "64MiB",
        "body_buffer": "256MiB",
        "lock_wait": "0s",
        "ingress": { "max_entries": 2_000_000, "max_bytes": "5GiB" },
        "durability": "durable",
        "os_interval": "50ms",
        "disk": { "low_water": "5%", "min_free": "1GiB", "reserve": "32MiB" },
        "recovery": "strict",
    })
}

fn of_topic() -> Value {
    json!({
        "partitions": 16,
        "max_event_bytes": "1MiB",
        "retention": { "max_age": "7d", "max_bytes": "10GiB" },
        "on_full": "reject",
        "dedup": { "window": "1h", "max_entries": 2_000_000 },
        "max_delayed": 1_000_000,
    })
}

fn of_subscription() -> Value {
    json!({
        "from": "latest",
        "lease": "30s",
        "pin": true,
        "order": "key",
        "retry": { "schedule": "service" },
        "limits": { "in_flight": 1000, "parked": 10_000 },
        "dead_letter": { "enabled": true },
    })
}

/// Adds what is absent or null, level by level.
fn fill(value: &mut Value, defaults: &Value) {
    let Value::Object(defaults) = defaults else { return };
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(map) = value else { return };
    for (key, default) in defaults {
        match map.get_mut(key) {
            Some(written) if default.is_object() => fill(written, default),
            Some(written) if written.is_null() => *written = default.clone(),
            Some(_) => {}
            None => {
                map.insert(key.clone(), default.clone());
            }
        }
    }
}

/// Changes every item of this list, or every value of this map.
fn each(shown: &mut Value, key: &str, change: impl Fn(&mut Value)) {
    match shown.get_mut(key) {
        Some(Value::Array(list)) => list.iter_mut().for_each(change),
        Some(Value::Object(map)) => map.values_mut().for_each(change),
        _ => {}
    }
}

fn redact(fields: &mut Map<String, Value>, keys: &[HeaderName]) {
    for (name, value) in fields.iter_mut() {
        if is_credential(name, keys) && !value.is_object() {
            *value = "[redacted]".into();
        }
    }
}

/// Whether a field of this name carries a credential; `keys` carry API keys.
pub(super) fn is_credential(name: &str, keys: &[HeaderName]) -> bool {
    let keys = keys.iter().map(HeaderName::as_str);
    CREDENTIALS.into_iter().chain(keys).any(|credential| name.eq_ignore_ascii_case(credential))
}
