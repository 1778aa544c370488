//! Carries out calls.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Payload, body, endpoint::Endpoint, problem::Problem, query, respond, stream, view};
use crate::{
    events::{
        event::new_id,
        facade::{Events, Refusal},
        wire,
    },
    telemetry::clock,
};

/// The caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// May do everything, and sees internal details.
    Operator,
    /// May publish and consume. The name is stored with published events.
    Client(Option<Arc<str>>),
}

/// A call with its body.
#[derive(Debug)]
pub struct Call {
    /// Its endpoint.
    pub endpoint: Endpoint,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its query, without the `?`.
    pub query: Option<String>,
    /// The whole body.
    pub body: Bytes,
    /// The caller.
    pub access: Access,
}

/// The answer to a call. Dropping the future does not cancel what the event flow has accepted.
pub async fn answer(events: Arc<dyn Events>, call: Call) -> Response<Payload> {
    let is_operator = call.access == Access::Operator;
    match done(events.clone(), call).await {
        Ok(response) => response,
        Err(Failed::Problem(problem)) => problem.response(),
        Err(Failed::Refusal(refusal)) => {
            let problem = Problem::refused(&refusal, is_operator);
            match refusal {
                Refusal::NameUnknown { what, .. } if is_operator => {
                    problem.help_if(known(&*events, what).await).response()
                }
                _ => problem.response(),
            }
        }
    }
}

enum Failed {
    Problem(Problem),
    Refusal(Refusal),
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(refusal)
    }
}

#[expect(clippy::too_many_lines, reason = "a table: one arm for each endpoint")]
async fn done(events: Arc<dyn Events>, call: Call) -> Result<Response<Payload>, Failed> {
    let Call { endpoint, headers, query, body, access } = call;
    let query = query.as_deref();
    let has_query = matches!(
        endpoint,
        Endpoint::Stream(_)
            | Endpoint::DeadLetters(_)
            | Endpoint::Purge(_)
            | Endpoint::UncertainKeys
    );
    if !has_query {
        query::none(query)?;
    }
    Ok(match endpoint {
        Endpoint::Publish(topic) => publish(&*events, &topic, &headers, &body, access).await?,
        Endpoint::Stream(topic) => {
            let is_operator = access == Access::Operator;
            stream::answer(&*events, &topic, &headers, query, is_operator).await?
        }
        Endpoint::Receive(name) => {
            let receive = body::receive(&headers, &body)?;
            match events.receive(&name, receive).await? {
                leased if leased.is_empty() => {
                    respond(StatusCode::NO_CONTENT, "application/json", Bytes::new())
                }
                leased => json_bytes(view::leased(&leased)),
            }
        }
        Endpoint::Settle(name, verb) => {
            let items = body::settle(&headers, &body, verb)?;
            json_value(&view::settled(&events.settle(&name, verb, items).await?))
        }
        Endpoint::Topics => {
            let topics = events.topics().await?;
            json_value(&json!({ "topics": topics.iter().map(view::topic).collect::<Vec<_>>() }))
        }
        Endpoint::Topic(topic) => json_value(&view::topic(&events.topic(&topic).await?)),
        Endpoint::Reopen(topic) => json_value(&view::topic(&events.reopen(&topic).await?)),
        Endpoint::EventAt(topic, partition, offset) => {
            let mut out = Vec::new();
            view::stored(&events.event_at(&topic, partition, offset).await?, &mut out);
            out.push(b'\n');
            json_bytes(out.into())
        }
        Endpoint::Event(id) => {
            let trace = events.event(&id).await?;
            if trace.events.is_empty() && !trace.partial {
                return Err(Refusal::unknown("event", view::shortened(&id)).into());
            }
            json_bytes(view::trace(&trace))
        }
        Endpoint::Saga(id) => json_bytes(view::trace(&events.saga(&id).await?)),
        Endpoint::UncertainKeys => {
            query::state_uncertain(query)?;
            let keys = events.uncertain_keys().await?;
            json_value(&json!({ "keys": keys.iter().map(view::uncertain_key).collect::<Vec<_>>() }))
        }
        Endpoint::ResolveKey(id) => {
            let is_done = body::outcome(&headers, &body)?;
            events.resolve_key(&id, is_done).await?;
            json_value(&json!({ "id": id, "outcome": if is_done { "done" } else { "not_done" } }))
        }
        Endpoint::ConfirmClock => {
            events.confirm_clock().await?;
            json_value(&json!({ "clock": "confirmed" }))
        }
        Endpoint::Replay(topic) => {
            let replay = body::replay(&headers, &body)?;
            accepted(&view::job(&events.replay(&topic, replay).await?))
        }
        Endpoint::Jobs => {
            let jobs = events.jobs().await?;
            json_value(&json!({ "jobs": jobs.iter().map(view::job).collect::<Vec<_>>() }))
        }
        Endpoint::Job(id) => json_value(&view::job(&events.job(&id).await?)),
        Endpoint::Cancel(id) => json_value(&view::job(&events.cancel(&id).await?)),
        Endpoint::Subscriptions => {
            let all = events.subscriptions().await?;
            let all: Vec<_> = all.iter().map(view::subscription).collect();
            json_value(&json!({ "subscriptions": all }))
        }
        Endpoint::Subscription(name) => state(&*events, &name).await?,
        Endpoint::Seek(name) => {
            events.seek(&name, body::seek(&headers, &body)?).await?;
            state(&*events, &name).await?
        }
        Endpoint::Pause(name) => {
            events.pause(&name).await?;
            state(&*events, &name).await?
        }
        Endpoint::Resume(name) => {
            events.resume(&name).await?;
            state(&*events, &name).await?
        }
        Endpoint::Unblock(name) => {
            events.unblock(&name, body::unblock(&headers, &body)?).await?;
            state(&*events, &name).await?
        }
        Endpoint::DeadLetters(name) => dead_letters(&*events, &name, query).await?,
        Endpoint::DeadLetter(name, id) => {
            let (letter, event) = events.dead_letter(&name, id).await?;
            json_bytes(view::dead_letter_event(&letter, &event))
        }
        Endpoint::Redrive(name) => redrive(&*events, &name, &headers, &body).await?,
        Endpoint::Purge(name) => {
            let query::Purge { confirm, filter } = query::purge(query)?;
            let removed = events.purge(&name, filter, confirm).await?;
            json_value(&json!({ "removed": removed }))
        }
    })
}

async fn publish(
    events: &dyn Events,
    topic: &str,
    headers: &HeaderMap,
    body: &Bytes,
    access: Access,
) -> Result<Response<Payload>, Failed> {
    let now = clock::since_epoch(clock::now()).as_millis();
    let now = u64::try_from(now).unwrap_or(u64::MAX);
    let mut read =
        wire::read(headers, body, || new_id(now).to_string()).map_err(Problem::unreadable)?;
    if let Access::Client(Some(name)) = access {
        for event in &mut read {
            event.principal = Some(name.to_string());
        }
    }
    let published = if read.is_empty() { Vec::new() } else { events.publish(topic, read).await? };
    let told = view::line(&view::published(topic, &published));
    Ok(respond(StatusCode::ACCEPTED, "application/json", told))
}

async fn state(events: &dyn Events, name: &str) -> Result<Response<Payload>, Failed> {
    Ok(json_value(&view::subscription(&events.subscription(name).await?)))
}

async fn dead_letters(
    events: &dyn Events,
    name: &str,
    query: Option<&str>,
) -> Result<Response<Payload>, Failed> {
    let query::Page { after, limit, filter } = query::page(query)?;
    let page = events.dead_letters(name, after, limit, filter).await?;
    let entries = page.entries.iter().map(|letter| Value::Object(view::dead_letter(letter)));
    let entries: Vec<_> = entries.collect();
    Ok(json_value(&json!({ "dead_letters": entries, "next": page.next })))
}

async fn redrive(
    events: &dyn Events,
    name: &str,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Response<Payload>, Failed> {
    let redriven = events.redrive(name, body::redrive(headers, body)?).await?;
    let told = json!({
        "job": redriven.job.map(|id| id.to_string()),
        "matching": redriven.matching,
        "skipped": redriven.skipped,
    });
    Ok(if told["job"].is_null() { json_value(&told) } else { accepted(&told) })
}

/// The existing names, to help somebody who mistyped one.
async fn known(events: &dyn Events, what: &str) -> Option<String> {
    let names: Vec<Arc<str>> = match what {
        "topic" => events.topics().await.ok()?.into_iter().map(|it| it.name).collect(),
        "subscription" => {
            events.subscriptions().await.ok()?.into_iter().map(|it| it.name).collect()
        }
        _ => return None,
    };
    let shown: Vec<_> = names.iter().take(10).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > shown.len() { ", .." } else { "" };
    (!shown.is_empty()).then(|| format!("there is {}{more}", shown.join(", ")))
}

fn json_value(value: &impl Serialize) -> Response<Payload> {
    json_bytes(view::pretty(value))
}

fn json_bytes(body: Bytes) -> Response<Payload> {
    respond(StatusCode::OK, "application/json", body)
}

fn accepted(value: &impl Serialize) -> Response<Payload> {
    respond(StatusCode::ACCEPTED, "application/json", view::pretty(value))
}
