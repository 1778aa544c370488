//! Methods and paths of the event endpoints.

use std::borrow::Cow;

use http::Method;

use super::problem::Problem;
use crate::events::facade::{JobId, Verb};

/// The endpoint of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// POST `/v1/topics/{t}/events`
    Publish(String),
    /// GET `/v1/topics/{t}/stream`
    Stream(String),
    /// GET `/v1/topics/{t}/events/{partition}:{offset}`
    EventAt(String, u32, u64),
    /// GET `/v1/topics`
    Topics,
    /// GET `/v1/topics/{t}`
    Topic(String),
    /// POST `/v1/topics/{t}/reopen`
    Reopen(String),
    /// POST `/v1/topics/{t}/replay`
    Replay(String),
    /// GET `/v1/events/{id}`
    Event(String),
    /// GET `/v1/sagas/{correlationid}`
    Saga(String),
    /// GET `/v1/subscriptions`
    Subscriptions,
    /// GET `/v1/subscriptions/{s}`
    Subscription(String),
    /// POST `/v1/subscriptions/{s}/receive`
    Receive(String),
    /// POST `/v1/subscriptions/{s}/ack`, and so on
    Settle(String, Verb),
    /// POST `/v1/subscriptions/{s}/seek`
    Seek(String),
    /// POST `/v1/subscriptions/{s}/pause`
    Pause(String),
    /// POST `/v1/subscriptions/{s}/resume`
    Resume(String),
    /// POST `/v1/subscriptions/{s}/unblock`
    Unblock(String),
    /// GET `/v1/subscriptions/{s}/dead-letters`
    DeadLetters(String),
    /// GET `/v1/subscriptions/{s}/dead-letters/{id}`
    DeadLetter(String, u64),
    /// POST `/v1/subscriptions/{s}/dead-letters/redrive`
    Redrive(String),
    /// DELETE `/v1/subscriptions/{s}/dead-letters`
    Purge(String),
    /// GET `/v1/jobs`
    Jobs,
    /// GET `/v1/jobs/{id}`
    Job(JobId),
    /// DELETE `/v1/jobs/{id}`
    Cancel(JobId),
    /// GET `/v1/idempotency`
    UncertainKeys,
    /// POST `/v1/idempotency/{id}/resolve`
    ResolveKey(String),
    /// POST `/v1/queue/confirm-clock`
    ConfirmClock,
}

/// First path segments of the event endpoints.
const ROOTS: [&str; 7] =
    ["events", "idempotency", "jobs", "queue", "sagas", "subscriptions", "topics"];

// === impl Endpoint ===

impl Endpoint {
    /// Whether a path belongs to an event endpoint.
    pub fn is_about_events(path: &str) -> bool {
        let root = path.strip_prefix("/v1/").and_then(|rest| rest.split('/').next());
        root.is_some_and(|root| ROOTS.contains(&root))
    }

    /// The endpoint of this method and path.
    pub fn at(method: &Method, path: &str) -> Result<Self, Problem> {
        let mut segments = Vec::with_capacity(5);
        for segment in path.strip_prefix("/v1/").unwrap_or_default().split('/').take(6) {
            segments.push(decoded(segment).ok_or_else(Problem::no_such_path)?);
        }
        let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        let found = Self::get(&segments).map(|endpoint| ("GET, HEAD", endpoint));
        let all = [
            found,
            Self::post(&segments).map(|endpoint| ("POST", endpoint)),
            Self::delete(&segments).map(|endpoint| ("DELETE", endpoint)),
        ];
        let is_method = |allow: &str| allow.split(", ").any(|known| method == known);
        let mut allowed = Vec::new();
        for (allow, endpoint) in all.into_iter().flatten() {
            if is_method(allow) {
                return Ok(endpoint);
            }
            allowed.push(allow);
        }
        if allowed.is_empty() {
            return Err(Problem::no_such_path());
        }
        Err(Problem::method_not_allowed(allowed.join(", ")))
    }

    fn get(segments: &[&str]) -> Option<Self> {
        Some(match *segments {
            ["topics"] => Self::Topics,
            ["topics", topic] => Self::Topic(topic.to_owned()),
            ["topics", topic, "stream"] => Self::Stream(topic.to_owned()),
            ["topics", topic, "events", place] => {
                let (partition, offset) = place.split_once(':')?;
                Self::EventAt(topic.to_owned(), partition.parse().ok()?, offset.parse().ok()?)
            }
            ["events", id] => Self::Event(id.to_owned()),
            ["sagas", id] => Self::Saga(id.to_owned()),
            ["subscriptions"] => Self::Subscriptions,
            ["subscriptions", name] => Self::Subscription(name.to_owned()),
            ["subscriptions", name, "dead-letters"] => Self::DeadLetters(name.to_owned()),
            ["subscriptions", name, "dead-letters", id] => {
                Self::DeadLetter(name.to_owned(), id.parse().ok()?)
            }
            ["idempotency"] => Self::UncertainKeys,
            ["jobs"] => Self::Jobs,
            ["jobs", id] => Self::Job(id.parse().ok()?),
            _ => return None,
        })
    }

    fn post(segments: &[&str]) -> Option<Self> {
        Some(match *segments {
            ["topics", topic, "events"] => Self::Publish(topic.to_owned()),
            ["topics", topic, "reopen"] => Self::Reopen(topic.to_owned()),
            ["topics", topic, "replay"] => Self::Replay(topic.to_owned()),
            ["subscriptions", name, "receive"] => Self::Receive(name.to_owned()),
            ["subscriptions", name, "seek"] => Self::Seek(name.to_owned()),
            ["subscriptions", name, "pause"] => Self::Pause(name.to_owned()),
            ["subscriptions", name, "resume"] => Self::Resume(name.to_owned()),
            ["subscriptions", name, "unblock"] => Self::Unblock(name.to_owned()),
            ["subscriptions", name, "dead-letters", "redrive"] => Self::Redrive(name.to_owned()),
            ["subscriptions", name, word] => Self::Settle(name.to_owned(), verb(word)?),
            ["idempotency", id, "resolve"] => Self::ResolveKey(id.to_owned()),
            ["queue", "confirm-clock"] => Self::ConfirmClock,
            _ => return None,
        })
    }

    fn delete(segments: &[&str]) -> Option<Self> {
        Some(match *segments {
            ["subscriptions", name, "dead-letters"] => Self::Purge(name.to_owned()),
            ["jobs", id] => Self::Cancel(id.parse().ok()?),
            _ => return None,
        })
    }

    /// The scope that a caller needs; `None` if only the operator may call.
    pub fn scope(&self) -> Option<String> {
        match self {
            Self::Publish(topic) => Some(format!("topic:{topic}:publish")),
            Self::Receive(name) | Self::Settle(name, _) => {
                Some(format!("subscription:{name}:consume"))
            }
            _ => None,
        }
    }

    /// Whether its body is read.
    pub fn has_body(&self) -> bool {
        matches!(
            self,
            Self::Publish(_)
                | Self::Replay(_)
                | Self::Receive(_)
                | Self::Settle(..)
                | Self::Seek(_)
                | Self::Unblock(_)
                | Self::Redrive(_)
                | Self::ResolveKey(_)
        )
    }
}

fn verb(word: &str) -> Option<Verb> {
    Some(match word {
        "ack" => Verb::Ack,
        "nack" => Verb::Nack,
        "release" => Verb::Release,
        "reject" => Verb::Reject,
        "extend" => Verb::Extend,
        _ => return None,
    })
}

/// Decodes a path segment or a part of a query. `None` if a `%` lacks its digits, or it is not UTF-8.
pub(super) fn decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let (hex, after) = after.split_at_checked(2)?;
            let hex = std::str::from_utf8(hex).ok()?;
            // `from_str_radix` accepts a sign.
            if !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = after;
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(method: &str, path: &str) -> Result<Endpoint, u16> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        Endpoint::at(&method, path).map_err(|problem| problem.status().as_u16())
    }

    #[test]
    fn methods_and_paths_are_told_apart() {
        let name = || "a.b".to_owned();
        for (method, path, expected) in [
            ("POST", "/v1/topics/a.b/events", Ok(Endpoint::Publish(name()))),
            ("GET", "/v1/topics/a.b/events/3:17", Ok(Endpoint::EventAt(name(), 3, 17))),
            ("HEAD", "/v1/topics", Ok(Endpoint::Topics)),
            ("POST", "/v1/subscriptions/a.b/nack", Ok(Endpoint::Settle(name(), Verb::Nack))),
            ("GET", "/v1/subscriptions/a.b/dead-letters/7", Ok(Endpoint::DeadLetter(name(), 7))),
            ("DELETE", "/v1/subscriptions/a.b/dead-letters", Ok(Endpoint::Purge(name()))),
            ("GET", "/v1/events/a%2Fb%20c", Ok(Endpoint::Event("a/b c".to_owned()))),
            ("DELETE", "/v1/jobs/a.b:2", Ok(Endpoint::Cancel("a.b:2".parse().unwrap()))),
            ("POST", "/v1/queue/confirm-clock", Ok(Endpoint::ConfirmClock)),
            ("GET", "/v1/topics/a.b/events", Err(405)),
            ("DELETE", "/v1/topics/a.b", Err(405)),
            ("POST", "/v1/subscriptions/a.b/acknowledge", Err(404)),
            ("GET", "/v1/topics/", Ok(Endpoint::Topic(String::new()))),
            ("GET", "/v1/jobs/7", Err(404)),
            ("GET", "/v1/topics/a/events/x:1", Err(404)),
            ("GET", "/v1/events/%zz", Err(404)),
            ("GET", "/v1/events/%FF", Err(404)),
            ("GET", "/topics", Err(404)),
        ] {
            assert_eq!(at(method, path), expected, "{method} {path}");
        }
        assert!(Endpoint::is_about_events("/v1/topics/a") && Endpoint::is_about_events("/v1/jobs"));
        assert!(!Endpoint::is_about_events("/v1/config"));
        assert!(!Endpoint::is_about_events("/v1/topicsx"));
    }

    #[test]
    fn consumers_and_publishers_need_a_scope_and_the_rest_is_the_operators() {
        let scope = |method, path| at(method, path).unwrap().scope();
        let publish = scope("POST", "/v1/topics/orders/events");
        assert_eq!(publish.as_deref(), Some("topic:orders:publish"));
        let consume = scope("POST", "/v1/subscriptions/billing/extend");
        assert_eq!(consume.as_deref(), Some("subscription:billing:consume"));
        assert_eq!(scope("POST", "/v1/subscriptions/billing/seek"), None);
        assert_eq!(scope("GET", "/v1/topics"), None);
    }

    proptest! {
        #[test]
        fn any_path_never_panics(path: String, tail in "[a-z%:/0-9]{0,30}") {
            for path in [path, format!("/v1/topics/{tail}")] {
                drop(Endpoint::at(&Method::GET, &path));
                drop(Endpoint::at(&Method::POST, &path));
            }
        }
    }
}
