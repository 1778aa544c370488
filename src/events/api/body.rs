//! JSON bodies of calls, with checks of their ranges.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_TYPE};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

use super::{problem::Problem, query};
use crate::events::facade::{
    Action, Blocked, DeadLetterFilter, Receive, Redrive, Replay, Seek, Start, TokenItem, Unblock,
    Verb, Which,
};

/// Default number of events in a receive.
const EVENTS: usize = 10;
/// Default and maximum number of bytes in a receive.
const BYTES: u64 = 4 * 1024 * 1024;
const MAX_BYTES: u64 = 32 * 1024 * 1024;
/// Maximum number of tokens, or IDs of dead letters, in a call.
const MAX_ITEMS: usize = 1000;
/// Milliseconds.
const HOUR: u64 = 3_600_000;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ReceiveBody {
    max_events: Option<u64>,
    max_bytes: Option<u64>,
    wait_ms: Option<u64>,
    lease_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SettleBody {
    tokens: Option<Vec<String>>,
    items: Option<Vec<Item>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    token: String,
    delay_ms: Option<u64>,
    reason: Option<String>,
    lease_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeekBody {
    to: Value,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResolveBody {
    outcome: Outcome,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Done,
    NotDone,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnblockBody {
    /// `null` is a key too: it means events without one.
    #[serde(default, deserialize_with = "given")]
    key: Option<Value>,
    partition: Option<u32>,
    action: Word,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Retry,
    DeadLetter,
    Discard,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RedriveBody {
    ids: Option<Vec<u64>>,
    filter: Option<FilterBody>,
    rate: Option<f64>,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    force: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FilterBody {
    reason: Option<String>,
    since: Option<String>,
    until: Option<String>,
    key: Option<String>,
    r#type: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplayBody {
    subscription: String,
    from: Value,
    to: Option<Value>,
    rate: Option<f64>,
    #[serde(default)]
    publish: bool,
}

pub(super) fn receive(headers: &HeaderMap, body: &Bytes) -> Result<Receive, Problem> {
    // Everything has a default, so an empty body is valid.
    let body: ReceiveBody =
        if body.is_empty() { ReceiveBody::default() } else { parsed(headers, body)? };
    let max_events = ranged("max_events", body.max_events, 1..=500)?;
    Ok(Receive {
        max_events: max_events.and_then(|count| usize::try_from(count).ok()).unwrap_or(EVENTS),
        max_bytes: ranged("max_bytes", body.max_bytes, 1..=MAX_BYTES)?.unwrap_or(BYTES),
        wait: millis("wait_ms", body.wait_ms, 0..=20_000)?.unwrap_or_default(),
        lease: lease(body.lease_ms)?,
    })
}

pub(super) fn settle(
    headers: &HeaderMap,
    body: &Bytes,
    verb: Verb,
) -> Result<Vec<TokenItem>, Problem> {
    let body: SettleBody = parsed(headers, body)?;
    let items = match (body.tokens, body.items) {
        (Some(tokens), None) => tokens
            .into_iter()
            .map(|token| Ok(TokenItem { token, ..TokenItem::default() }))
            .collect::<Result<Vec<_>, Problem>>()?,
        (None, Some(items)) => {
            items.into_iter().map(|item| item.of(verb)).collect::<Result<_, _>>()?
        }
        _ => {
            let problem = Problem::bad_request("neither or both of `tokens` and `items`");
            return Err(problem.help("`{\"tokens\": [\"..\"]}`"));
        }
    };
    bounded(items.len(), "tokens")?;
    Ok(items)
}

pub(super) fn seek(headers: &HeaderMap, body: &Bytes) -> Result<Seek, Problem> {
    let SeekBody { to } = parsed(headers, body)?;
    match &to {
        Value::String(word) if word == "earliest" => Ok(Seek::Earliest),
        Value::String(word) if word == "latest" => Ok(Seek::Latest),
        Value::String(time) => query::moment("to", time).map(Seek::Time).map_err(|problem| {
            problem.help("`earliest`, `latest`, a time, or `{\"<partition>\": <offset>}`")
        }),
        Value::Object(_) => {
            let offsets: BTreeMap<u32, u64> =
                serde_json::from_value(to).map_err(|error| malformed(&error))?;
            bounded(offsets.len(), "partitions")?;
            Ok(Seek::Offsets(offsets.into_iter().collect()))
        }
        _ => Err(Problem::bad_request("`to` is neither a text nor a map")
            .help("`earliest`, `latest`, a time, or `{\"<partition>\": <offset>}`")),
    }
}

pub(super) fn unblock(headers: &HeaderMap, body: &Bytes) -> Result<Unblock, Problem> {
    let UnblockBody { key, partition, action } = parsed(headers, body)?;
    let what = match (key, partition) {
        (Some(Value::String(key)), None) => Blocked::Key(key.into()),
        (Some(Value::Null), None) => Blocked::Keyless,
        (Some(_), None) => return Err(Problem::bad_request("`key` is neither a text nor null")),
        (None, Some(partition)) => Blocked::Partition(partition),
        _ => {
            let problem = Problem::bad_request("neither or both of `key` and `partition`");
            return Err(problem.help("`partition` is for `order: partition`; `key` may be null"));
        }
    };
    let action = match action {
        Word::Retry => Action::Retry,
        Word::DeadLetter => Action::DeadLetter,
        Word::Discard => Action::Discard,
    };
    Ok(Unblock { what, action })
}

/// Whether the request of an uncertain key was done.
pub(super) fn outcome(headers: &HeaderMap, body: &Bytes) -> Result<bool, Problem> {
    let ResolveBody { outcome } = parsed(headers, body)?;
    Ok(matches!(outcome, Outcome::Done))
}

pub(super) fn redrive(headers: &HeaderMap, body: &Bytes) -> Result<Redrive, Problem> {
    let body: RedriveBody = parsed(headers, body)?;
    let which = match (body.ids, body.filter) {
        (Some(ids), None) => {
            bounded(ids.len(), "ids")?;
            Which::Ids(ids)
        }
        (None, Some(filter)) => Which::Filter(filter.meant()?),
        _ => {
            let problem = Problem::bad_request("neither or both of `ids` and `filter`");
            return Err(problem.help("`{\"filter\": {}}` is all of them"));
        }
    };
    Ok(Redrive { which, rate: rate(body.rate)?, dry_run: body.dry_run, force: body.force })
}

pub(super) fn replay(headers: &HeaderMap, body: &Bytes) -> Result<Replay, Problem> {
    let body: ReplayBody = parsed(headers, body)?;
    Ok(Replay {
        subscription: body.subscription,
        from: start("from", &body.from)?,
        to: body.to.map(|to| start("to", &to)).transpose()?,
        rate: rate(body.rate)?,
        publishes: body.publish,
    })
}

// === impl Item ===

impl Item {
    /// The fields that the verb uses; any other is refused.
    fn of(self, verb: Verb) -> Result<TokenItem, Problem> {
        let Self { token, delay_ms, reason, lease_ms } = self;
        for (name, is_given, is_read) in [
            ("delay_ms", delay_ms.is_some(), matches!(verb, Verb::Nack | Verb::Release)),
            ("reason", reason.is_some(), matches!(verb, Verb::Nack | Verb::Reject)),
            ("lease_ms", lease_ms.is_some(), verb == Verb::Extend),
        ] {
            if is_given && !is_read {
                return Err(Problem::bad_request(format!("`{name}` says nothing here")).help(
                    "`delay_ms` is for nack and release, `reason` for nack and reject, \
                           `lease_ms` for extend",
                ));
            }
        }
        let delay = millis("delay_ms", delay_ms, 0..=7 * 24 * HOUR)?;
        Ok(TokenItem { token, delay, reason, lease: lease(lease_ms)? })
    }
}

// === impl FilterBody ===

impl FilterBody {
    fn meant(self) -> Result<DeadLetterFilter, Problem> {
        let moment = |name: &str, text: Option<String>| {
            text.map(|text| query::moment(name, &text)).transpose()
        };
        Ok(DeadLetterFilter {
            reason: self.reason.map(|word| query::reason(&word)).transpose()?,
            since: moment("since", self.since)?,
            until: moment("until", self.until)?,
            key: self.key.map(Into::into),
            kind: self.r#type,
        })
    }
}

/// A value that is present, `null` included.
fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

/// Parses a JSON body. Requires its content type, to keep out forms on web pages.
fn parsed<T: DeserializeOwned>(headers: &HeaderMap, body: &Bytes) -> Result<T, Problem> {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = media_type.and_then(|text| text.split(';').next()).unwrap_or_default();
    if !essence.trim().eq_ignore_ascii_case("application/json") {
        return Err(Problem::not_json());
    }
    serde_json::from_slice(body).map_err(|error| malformed(&error))
}

fn malformed(error: &serde_json::Error) -> Problem {
    Problem::bad_request(error.to_string())
}

fn ranged(
    name: &str,
    value: Option<u64>,
    range: RangeInclusive<u64>,
) -> Result<Option<u64>, Problem> {
    match value {
        Some(value) if !range.contains(&value) => {
            let (least, most) = range.into_inner();
            Err(Problem::bad_request(format!("`{name}`: {value} is out of range"))
                .help(format!("from {least} to {most}")))
        }
        value => Ok(value),
    }
}

fn millis(
    name: &str,
    value: Option<u64>,
    range: RangeInclusive<u64>,
) -> Result<Option<Duration>, Problem> {
    Ok(ranged(name, value, range)?.map(Duration::from_millis))
}

fn lease(value: Option<u64>) -> Result<Option<Duration>, Problem> {
    millis("lease_ms", value, 1_000..=12 * HOUR)
}

fn rate(value: Option<f64>) -> Result<Option<f64>, Problem> {
    match value {
        Some(rate) if !(rate > 0.0 && rate <= 1e6) => {
            Err(Problem::bad_request(format!("`rate`: {rate} is out of range"))
                .help("events in a second, more than 0, at most 1000000"))
        }
        rate => Ok(rate),
    }
}

fn start(name: &str, value: &Value) -> Result<Start, Problem> {
    match value {
        Value::String(word) if word == "earliest" => Ok(Start::Earliest),
        Value::String(time) => query::moment(name, time).map(Start::Time),
        other => other.as_u64().map(Start::Offset).ok_or_else(|| {
            Problem::bad_request(format!("`{name}` is no place in a topic"))
                .help("`earliest`, a time such as `2027-01-31T12:00:00Z`, or an offset")
        }),
    }
}

fn bounded(count: usize, what: &str) -> Result<(), Problem> {
    if count <= MAX_ITEMS {
        return Ok(());
    }
    let told = format!("{count} {what} are too many for one call");
    Err(Problem::bad_request(told).help(format!("at most {MAX_ITEMS}")))
}
