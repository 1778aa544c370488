//! Tests of the endpoints over an event flow in memory.

mod fake;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, Method, Response, header::CONTENT_TYPE};
use proptest::prelude::*;
use serde_json::{Value, json};

use self::fake::Fake;
use super::{Access, Call, Endpoint, Payload, answer};
use crate::events::{
    event::Event,
    facade::{Bound, Refusal},
    wire,
};

const JSON: &str = "application/json";

fn event(id: &str, data: &str) -> Event {
    Event {
        id: id.to_owned(),
        source: "/shop".to_owned(),
        kind: "order.created".to_owned(),
        data: Bytes::copy_from_slice(data.as_bytes()),
        ..Event::default()
    }
}

async fn call(
    fake: &Arc<Fake>,
    access: Access,
    line: &str,
    content_type: &str,
    body: &str,
) -> Response<Payload> {
    let (method, target) = line.split_once(' ').unwrap();
    let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let endpoint = match Endpoint::at(&method, path) {
        Ok(endpoint) => endpoint,
        Err(problem) => return problem.response(),
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap());
    let body = Bytes::copy_from_slice(body.as_bytes());
    let query = query.map(str::to_owned);
    answer(fake.clone(), Call { endpoint, headers, query, body, access }).await
}

fn read(response: Response<Payload>) -> (u16, Value) {
    let status = response.status().as_u16();
    let Payload::Full(body) = response.into_body() else { panic!("a stream") };
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    (status, body)
}

async fn operator(fake: &Arc<Fake>, line: &str, body: &str) -> (u16, Value) {
    read(call(fake, Access::Operator, line, JSON, body).await)
}

#[tokio::test]
async fn published_events_are_told_one_by_one() {
    let fake = fake::with([]);
    let body = json!([
        { "specversion": "1.0", "id": "1", "source": "/shop", "type": "t", "data": 1 },
        { "specversion": "1.0", "id": "1", "source": "/shop", "type": "t", "data": 2 },
    ]);
    let line = "POST /v1/topics/orders/events";
    let answer = call(&fake, Access::Operator, line, wire::BATCH, &body.to_string()).await;
    let result = |duplicate: bool| {
        json!({
            "id": "1", "topic": "orders", "partition": 0, "offset": 0,
            "duplicate": duplicate, "mismatch": duplicate, "delayed": false,
        })
    };
    assert_eq!(read(answer), (202, json!({ "results": [result(false), result(true)] })));
    let empty = call(&fake, Access::Operator, line, wire::BATCH, "[]").await;
    assert_eq!(read(empty), (202, json!({ "results": [] })));
    let waits = json!([{
        "specversion": "1.0", "id": "2", "source": "/shop", "type": "t",
        "sluicenotbefore": "2999-01-01T00:00:00Z",
    }]);
    let waits = call(&fake, Access::Operator, line, wire::BATCH, &waits.to_string()).await;
    let (_, told) = read(waits);
    let result = &told["results"][0];
    assert_eq!((&result["delayed"], &result["offset"]), (&json!(true), &Value::Null), "{told}");
}

#[tokio::test]
async fn an_event_without_an_id_gets_one_and_keeps_who_sent_it() {
    let fake = fake::with([]);
    let body = r#"{"specversion":"1.0","source":"/shop","type":"t"}"#;
    let client = Access::Client(Some("shop:alice".into()));
    let answer = call(&fake, client, "POST /v1/topics/orders/events", wire::STRUCTURED, body).await;
    let (status, body) = read(answer);
    assert_eq!(status, 202);
    assert_eq!(body["results"][0]["id"].as_str().unwrap().len(), 36);
    assert_eq!(fake.0.lock().log[0].principal.as_deref(), Some("shop:alice"));
}

#[tokio::test]
async fn a_refused_event_says_what_where_and_what_to_do() {
    let fake = fake::with([]);
    let line = "POST /v1/topics/orders/events";
    let body = r#"[{"specversion":"1.0","id":"1","source":"/","type":"t"},{"id":"2"}]"#;
    let answer = call(&fake, Access::Operator, line, wire::BATCH, body).await;
    assert_eq!(answer.headers()[CONTENT_TYPE], "application/problem+json");
    let (status, problem) = read(answer);
    assert_eq!((status, &problem["code"]), (400, &json!("event-invalid")));
    assert_eq!(problem["detail"], "event 1: `specversion` is missing");
    let problems = problem["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 3);
    assert_eq!(
        problems[2],
        json!({
            "index": 1, "attribute": "type", "message": "is missing",
            "help": "say what happened, such as `order.created`",
        })
    );
    assert!(fake.0.lock().log.is_empty(), "all or nothing");
    let (status, problem) = read(call(&fake, Access::Operator, line, JSON, "{}").await);
    assert_eq!((status, &problem["code"]), (415, &json!("event-invalid")));
    let body = r#"{"specversion":"1.0","source":"/","type":"t"}"#;
    let unknown = "POST /v1/topics/order/events";
    let (status, problem) =
        read(call(&fake, Access::Operator, unknown, wire::STRUCTURED, body).await);
    assert_eq!((status, &problem["code"]), (404, &json!("name-unknown")));
    assert_eq!(problem["detail"], "no topic named `order`");
    assert_eq!(problem["help"], "there is `orders`");
    let client = call(&fake, Access::Client(None), unknown, wire::STRUCTURED, body).await;
    assert_eq!(read(client).1["help"], Value::Null);
}

#[tokio::test]
async fn every_refusal_has_its_status_and_its_word() {
    let after = Duration::from_millis(2_500);
    let unavailable = Refusal::Unavailable { detail: "disk sda1".to_owned(), may_exist: true };
    for (refusal, status, code, retry) in [
        (Refusal::Full { bound: Bound::Bytes, retry_after: after }, 503, "queue-full", Some("2")),
        (Refusal::Disk { retry_after: Duration::ZERO }, 503, "queue-disk", Some("1")),
        (unavailable, 503, "queue-unavailable", Some("5")),
        (Refusal::Draining, 503, "draining", Some("5")),
        (
            Refusal::Busy { detail: "b".to_owned(), retry_after: after },
            503,
            "concurrency-full",
            Some("2"),
        ),
        (Refusal::TooLarge { index: 0, limit: 9 }, 413, "event-too-large", None),
        (Refusal::Invalid { index: 0, detail: "no".to_owned() }, 400, "event-invalid", None),
        (Refusal::DelayTooLong { index: 0 }, 422, "delay-too-long", None),
        (Refusal::conflict("c"), 409, "conflict", None),
        (Refusal::internal("secret"), 500, "internal", None),
    ] {
        let fake = fake::with([]);
        for access in [Access::Operator, Access::Client(None)] {
            fake.0.lock().refusal = Some(refusal.clone());
            let body = r#"{"specversion":"1.0","source":"/","type":"t"}"#;
            let line = "POST /v1/topics/orders/events";
            let answer = call(&fake, access.clone(), line, wire::STRUCTURED, body).await;
            let told = answer.headers().get("retry-after").map(|value| value.to_str().unwrap());
            assert_eq!(told, retry, "{refusal}");
            let (answered, problem) = read(answer);
            assert_eq!((answered, &problem["code"]), (status, &json!(code)), "{refusal}");
            let inner = problem.to_string();
            let shows = inner.contains("sda1") || inner.contains("secret");
            assert!(access == Access::Operator || !shows, "{inner}");
        }
    }
}

#[tokio::test]
async fn leased_events_are_handed_out_as_they_were_sent_and_settled() {
    let fake = fake::with([event("1", r#"{"a": 1.50}"#), event("2", "")]);
    let line = "POST /v1/subscriptions/billing/receive";
    let answer = call(&fake, Access::Operator, line, JSON, r#"{"max_events":1}"#).await;
    let Payload::Full(body) = answer.into_body() else { panic!("a stream") };
    assert_eq!(
        body,
        concat!(
            r#"{"events":[{"lease":{"token":"0-1","expires_at":"2026-11-26T10:00:30.000Z","#,
            r#""attempt":1,"partition":0,"offset":0},"event":{"specversion":"1.0","id":"1","#,
            r#""source":"/shop","type":"order.created","data":{"a": 1.50}}}]}"#,
            "\n"
        )
    );
    let again = operator(&fake, line, r#"{"max_events":2}"#).await.1;
    assert_eq!(again["events"][0]["event"]["sluicereplay"], true);
    let tokens = r#"{"tokens":["0-1","0-2","1-1","what"]}"#;
    let (status, settled) = operator(&fake, "POST /v1/subscriptions/billing/ack", tokens).await;
    let statuses: Vec<_> =
        settled["results"].as_array().unwrap().iter().map(|it| it["status"].clone()).collect();
    assert_eq!(
        (status, statuses),
        (200, vec![json!("lease_expired"), json!("ok"), json!("ok"), json!("unknown")])
    );
    assert_eq!(operator(&fake, line, "").await, (204, Value::Null));
}

#[tokio::test]
async fn bodies_are_held_to_their_ranges() {
    let fake = fake::with([event("1", "")]);
    for (line, body, expected) in [
        ("receive", r#"{"max_events":0}"#, "`max_events`: 0 is out of range"),
        ("receive", r#"{"max_events":501}"#, "`max_events`: 501 is out of range"),
        ("receive", r#"{"wait_ms":20001}"#, "`wait_ms`: 20001 is out of range"),
        ("receive", r#"{"lease_ms":999}"#, "`lease_ms`: 999 is out of range"),
        ("receive", r#"{"max_bytes":0}"#, "`max_bytes`: 0 is out of range"),
        ("receive", r#"{"max":1}"#, "unknown field `max`, expected one of"),
        ("receive", "[", "EOF while parsing"),
        ("ack", "{}", "neither or both of `tokens` and `items`"),
        ("ack", r#"{"items":[{"token":"0-1","delay_ms":1}]}"#, "`delay_ms` says nothing here"),
        ("nack", r#"{"items":[{"token":"0-1","lease_ms":1}]}"#, "`lease_ms` says nothing here"),
        ("nack", r#"{"items":[{"token":"0-1","delay_ms":999999999}]}"#, "is out of range"),
        ("seek", r#"{"to":"soon"}"#, "`to`: `soon` is not good for it"),
        ("seek", r#"{"to":7}"#, "`to` is neither a text nor a map"),
        ("seek", r#"{"to":{"a":1}}"#, "invalid"),
        ("unblock", r#"{"key":"k","action":"drop"}"#, "unknown variant `drop`"),
        ("unblock", r#"{"key":7,"action":"retry"}"#, "`key` is neither a text nor null"),
        ("unblock", r#"{"action":"retry"}"#, "neither or both of `key` and `partition`"),
        ("unblock", r#"{"key":null,"partition":1,"action":"retry"}"#, "neither or both"),
        ("dead-letters/redrive", r#"{"ids":[1],"filter":{}}"#, "neither or both"),
        ("dead-letters/redrive", r#"{"ids":[1],"rate":0}"#, "`rate`: 0 is out of range"),
        ("dead-letters/redrive", r#"{"filter":{"reason":"tired"}}"#, "`tired`"),
    ] {
        let line = format!("POST /v1/subscriptions/billing/{line}");
        let (status, problem) = operator(&fake, &line, body).await;
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(status == 400 && detail.contains(expected), "{line} {body}: {problem}");
    }
    let tokens = json!({ "tokens": vec!["x"; 1001] }).to_string();
    assert_eq!(operator(&fake, "POST /v1/subscriptions/billing/ack", &tokens).await.0, 400);
    let line = "POST /v1/subscriptions/billing/receive";
    assert_eq!(read(call(&fake, Access::Operator, line, "text/plain", "{}").await).0, 415);
    assert_eq!(operator(&fake, "GET /v1/topics?verbose=1", "").await.0, 400);
}

#[tokio::test]
async fn what_is_asked_for_is_what_is_done() {
    let fake = fake::with([event("1", "")]);
    for (line, body, expected) in [
        ("receive", "", "Receive { max_events: 10, max_bytes: 4194304, wait: 0ns, lease: None }"),
        (
            "nack",
            r#"{"items":[{"token":"t","delay_ms":5,"reason":"r"}]}"#,
            "Nack [TokenItem { token: \"t\", delay: Some(5ms), reason: Some(\"r\"), lease: None }]",
        ),
        ("seek", r#"{"to":"earliest"}"#, "Earliest"),
        ("seek", r#"{"to":"1970-01-01T00:00:01Z"}"#, "Time(1000)"),
        ("seek", r#"{"to":{"3":17,"0":2}}"#, "Offsets([(0, 2), (3, 17)])"),
        ("unblock", r#"{"key":"k","action":"dead_letter"}"#, "action: DeadLetter"),
        ("unblock", r#"{"key":null,"action":"retry"}"#, "what: Keyless"),
        ("unblock", r#"{"partition":3,"action":"retry"}"#, "what: Partition(3)"),
        ("dead-letters/redrive", r#"{"ids":[4],"force":true}"#, "which: Ids([4]), rate: None"),
    ] {
        let line = format!("POST /v1/subscriptions/billing/{line}");
        let (status, told) = operator(&fake, &line, body).await;
        assert!((200..300).contains(&status), "{line}: {told}");
        let asked = fake.0.lock().asked.pop().unwrap();
        assert!(asked.contains(expected), "{asked}");
    }
    let body = r#"{"subscription":"billing","from":3,"to":"2026-11-26T10:00:00Z","rate":9.5}"#;
    let (status, job) = operator(&fake, "POST /v1/topics/orders/replay", body).await;
    assert_eq!((status, &job["id"], &job["kind"]), (202, &json!("billing:1"), &json!("replay")));
    let asked = fake.0.lock().asked.pop().unwrap();
    assert!(asked.contains("from: Offset(3), to: Some(Time(1795687200000)), rate: Some(9.5)"));
}

#[tokio::test]
async fn an_operator_sees_topics_events_subscriptions_and_jobs() {
    let fake = fake::with([event("a b", "[1]")]);
    let topics = operator(&fake, "GET /v1/topics", "").await.1;
    assert_eq!(topics["topics"][0]["end"], 1);
    assert_eq!(operator(&fake, "GET /v1/topics/orders", "").await.1, topics["topics"][0]);
    let found = operator(&fake, "GET /v1/events/a%20b", "").await.1;
    assert_eq!(found["events"][0]["event"]["data"], json!([1]));
    assert_eq!(
        found["events"][0]["subscriptions"]["billing"],
        json!({ "state": "in_flight", "attempt": 1 })
    );
    assert_eq!(operator(&fake, "GET /v1/events/none", "").await.0, 404);
    let at = operator(&fake, "GET /v1/topics/orders/events/0:0", "").await.1;
    assert_eq!((&at["offset"], &at["event"]["id"]), (&json!(0), &json!("a b")));
    assert_eq!(operator(&fake, "GET /v1/topics/orders/events/0:9", "").await.0, 404);
    let paused = operator(&fake, "POST /v1/subscriptions/billing/pause", "").await.1;
    assert_eq!((&paused["state"], &paused["reason"]), (&json!("paused"), &json!("by an operator")));
    let resumed = operator(&fake, "POST /v1/subscriptions/billing/resume", "").await.1;
    assert_eq!((&resumed["state"], &resumed["lag_events"]), (&json!("active"), &json!(1)));
    assert_eq!(operator(&fake, "POST /v1/topics/orders/reopen", "").await.0, 409);
    let clock = operator(&fake, "POST /v1/queue/confirm-clock", "").await.1;
    assert_eq!(clock["clock"], "confirmed");
    assert_eq!(operator(&fake, "GET /v1/jobs", "").await.1["jobs"][0]["state"], "running");
    assert_eq!(operator(&fake, "DELETE /v1/jobs/billing:1", "").await.1["state"], "cancelled");
}

#[tokio::test]
async fn dead_letters_are_browsed_redriven_and_purged() {
    let fake = fake::with([event("1", "[1]")]);
    operator(&fake, "POST /v1/subscriptions/billing/receive", "").await;
    let body = r#"{"items":[{"token":"0-1","reason":"no"}]}"#;
    operator(&fake, "POST /v1/subscriptions/billing/reject", body).await;
    let base = "/v1/subscriptions/billing/dead-letters";
    let (_, page) = operator(&fake, &format!("GET {base}?reason=rejected&limit=5"), "").await;
    assert_eq!(page["dead_letters"][0]["reason"], "rejected");
    assert_eq!(page["next"], Value::Null);
    let (_, one) = operator(&fake, &format!("GET {base}/0"), "").await;
    assert_eq!((&one["last_error"], &one["event"]["data"]), (&json!("no"), &json!([1])));
    let redrive = format!("POST {base}/redrive");
    let dry = operator(&fake, &redrive, r#"{"filter":{},"dry_run":true}"#).await;
    assert_eq!(dry, (200, json!({ "job": null, "matching": 1, "skipped": 0 })));
    let wet = operator(&fake, &redrive, r#"{"filter":{"type":"order.created"}}"#).await;
    assert_eq!(wet, (202, json!({ "job": "billing:1", "matching": 1, "skipped": 0 })));
    assert_eq!(operator(&fake, &format!("DELETE {base}"), "").await.0, 400);
    assert_eq!(operator(&fake, &format!("DELETE {base}?confirm=2"), "").await.0, 409);
    let purged = operator(&fake, &format!("DELETE {base}?confirm=1"), "").await;
    assert_eq!(purged, (200, json!({ "removed": 1 })));
}

#[tokio::test(start_paused = true)]
async fn a_live_tail_tells_events_as_they_come_and_ends_for_a_while() {
    let fake = fake::with([event("1", "[1,\n 2]"), event("2", "")]);
    let line = "GET /v1/topics/orders/stream?from=1";
    let answer = call(&fake, Access::Operator, line, JSON, "").await;
    assert_eq!(answer.headers()[CONTENT_TYPE], "text/event-stream");
    let Payload::Stream(mut pieces) = answer.into_body() else { panic!("no stream") };
    let mut next = async || String::from_utf8(pieces.next().await?.to_vec()).ok();
    assert_eq!(next().await.unwrap(), "id: 0\nretry: 1000\n\n");
    assert!(next().await.unwrap().starts_with("id: 1\ndata: {\"topic\":\"orders\","));
    assert_eq!(next().await.unwrap(), ": nothing new\n\n");
    fake.0.lock().log.push(event("3", "[1,\n 2]"));
    let piece = next().await.unwrap();
    assert!(piece.starts_with("id: 2\ndata: ") && piece.contains("[1,\ndata:  2]"), "{piece}");
    let mut silent = 0;
    let mut last = String::new();
    while let Some(piece) = next().await {
        silent += u32::from(piece == ": nothing new\n\n");
        last = piece;
    }
    assert_eq!((silent, last.as_str()), (3, "retry: 10\n\n"), "within its 45 s");
    let unknown = call(&fake, Access::Operator, "GET /v1/topics/order/stream", JSON, "").await;
    assert_eq!(unknown.status(), 404);
}

#[tokio::test(start_paused = true)]
async fn a_live_tail_resumes_and_says_what_it_passed_over() {
    let fake = fake::with((0..900).map(|number| event(&number.to_string(), "[]")));
    let tail = async |last: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("last-event-id", last.parse().unwrap());
        let endpoint = Endpoint::Stream("orders".to_owned());
        let (query, body, access) = (None, Bytes::new(), Access::Operator);
        answer(fake.clone(), Call { endpoint, headers, query, body, access }).await
    };
    let text = |piece: Bytes| String::from_utf8(piece.to_vec()).unwrap();
    let Payload::Stream(mut pieces) = tail("-1").await.into_body() else { panic!("no stream") };
    assert_eq!(text(pieces.next().await.unwrap()), "id: -1\nretry: 1000\n\n");
    let (mut all, mut count) = (String::new(), 0);
    while !all.contains("id: 899\n") {
        let piece = text(pieces.next().await.unwrap());
        assert!(piece.len() < 32 << 10 && piece.ends_with("\n\n"), "{}", piece.len());
        (all, count) = (all + &piece, count + 1);
    }
    let ids: Vec<_> = all.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert!(ids.iter().map(|id| id.parse::<u64>().unwrap()).eq(0..900) && count > 5, "{count}");

    fake.0.lock().skipped = 7;
    let Payload::Stream(mut pieces) = tail("889").await.into_body() else { panic!("no stream") };
    assert_eq!(text(pieces.next().await.unwrap()), "id: 889\nretry: 1000\n\n");
    let piece = text(pieces.next().await.unwrap());
    let gap = "id: 896\nevent: gap\ndata: {\"lost\":0,\"skipped\":7}\n\nid: 897\ndata: ";
    assert!(piece.starts_with(gap), "{piece}");
    for bad in ["-2", "x", "", "18446744073709551615"] {
        assert_eq!(tail(bad).await.status(), 400, "{bad}");
    }
}

proptest! {
    #[test]
    fn any_body_never_panics(body: Vec<u8>, text in r#"[\[{"tokensiema:0-9, }\]]{0,40}"#) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for body in [String::from_utf8_lossy(&body).into_owned(), text] {
            for verb in ["receive", "ack", "nack", "extend", "seek", "unblock"] {
                let line = format!("POST /v1/subscriptions/billing/{verb}");
                runtime.block_on(operator(&fake::with([]), &line, &body));
            }
        }
    }
}
