//! Refusals as problem bodies (RFC 9457): what happened, where, and what to do about it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::Payload;
use crate::events::{
    facade::{Bound, Refusal},
    wire::Unreadable,
};

/// Why a call failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem(Box<Told>);

/// The content of a problem. Boxed, because it is rare and large.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    status: StatusCode,
    /// The code, one word.
    code: &'static str,
    /// One fixed sentence.
    title: &'static str,
    /// What happened this time.
    detail: Option<String>,
    /// What would be right.
    help: Option<String>,
    /// Each single problem, if there are several places.
    problems: Vec<Value>,
    retry_after: Option<Duration>,
    allow: Option<String>,
}

// === impl Problem ===

impl Problem {
    fn new(status: StatusCode, code: &'static str, title: &'static str) -> Self {
        Self(Box::new(Told {
            status,
            code,
            title,
            detail: None,
            help: None,
            problems: Vec::new(),
            retry_after: None,
            allow: None,
        }))
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The code, one word.
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// Adds what happened this time.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Adds what would be right.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    /// As [`Problem::help`], if there is help.
    #[must_use]
    pub fn help_if(self, help: Option<String>) -> Self {
        match help {
            Some(help) => self.help(help),
            None => self,
        }
    }

    /// This path does not exist.
    pub fn no_such_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "name-unknown", "There is nothing under this path.")
    }

    /// No topics are configured.
    pub fn no_store() -> Self {
        Self::new(StatusCode::NOT_FOUND, "name-unknown", "This gateway has no event queue.")
            .help("configure `topics`")
    }

    /// The path only takes other methods.
    pub fn method_not_allowed(allow: String) -> Self {
        let title = "This resource does not take this method.";
        let mut problem = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", title);
        problem.0.allow = Some(allow);
        problem
    }

    /// The credential lacks this scope.
    pub fn out_of_scope(scope: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "scope-denied", "The credential is not good for this.")
            .help(format!("it needs the scope `{scope}`"))
    }

    /// The body or the query is not valid for the endpoint.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        let title = "The request is malformed.";
        Self::new(StatusCode::BAD_REQUEST, "bad-framing", title).detail(detail)
    }

    /// The body exceeds the limit.
    pub fn body_too_large(limit: u64) -> Self {
        let title = "The request body is too large.";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", title)
            .detail(format!("at most {limit} bytes are read"))
            .help("publish fewer events at once")
    }

    /// The body did not arrive in time.
    pub fn client_timeout() -> Self {
        let title = "The request did not arrive in time.";
        Self::new(StatusCode::REQUEST_TIMEOUT, "client-timeout", title)
    }

    /// The content type is not JSON.
    pub fn not_json() -> Self {
        let title = "The body is of a kind that is not taken here.";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "bad-framing", title)
            .help("send `Content-Type: application/json`")
    }

    /// The message contains no valid events.
    pub fn unreadable(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::MediaType(media_type) => {
                let title = "The body is of a kind that is not taken here.";
                let help = "send `application/cloudevents+json`, \
                            `application/cloudevents-batch+json`, or `ce-` fields with the data \
                            as the body";
                Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "event-invalid", title)
                    .detail(match media_type.as_str() {
                        "" => "there is no `Content-Type`".to_owned(),
                        media_type => format!("`{media_type}` is not a form of events"),
                    })
                    .help(help)
            }
            Unreadable::Malformed(detail) => Self::event_invalid().detail(detail),
            Unreadable::Invalid(invalid) => {
                let detail =
                    invalid.first().map(|(index, invalid)| match invalid.attribute.len() {
                        0 => format!("event {index} {}", invalid.message),
                        _ => format!("event {index}: `{}` {}", invalid.attribute, invalid.message),
                    });
                let problems = invalid.iter().map(|(index, invalid)| {
                    json!({
                        "index": index,
                        "attribute": invalid.attribute,
                        "message": invalid.message,
                        "help": invalid.help,
                    })
                });
                let mut problem = Self::event_invalid();
                problem.0.problems = problems.take(100).collect();
                problem.0.detail = detail;
                problem
            }
        }
    }

    fn event_invalid() -> Self {
        let title = "What was sent is not a CloudEvent; nothing was published.";
        Self::new(StatusCode::BAD_REQUEST, "event-invalid", title)
    }

    /// A refusal of the event flow. Only the operator sees details about disks and logs.
    pub fn refused(refusal: &Refusal, is_operator: bool) -> Self {
        let (status, title) = match refusal {
            Refusal::Full { bound: Bound::Receives, .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "As many wait as may; try again later.")
            }
            Refusal::Full { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "The topic takes nothing now; try again later.")
            }
            Refusal::Disk { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "The disk is low on space; try again later.")
            }
            Refusal::Unavailable { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "This part of the queue is not available.")
            }
            Refusal::Draining => {
                (StatusCode::SERVICE_UNAVAILABLE, "The gateway is shutting down; try again.")
            }
            Refusal::Busy { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "As many are served as may be; try again later.")
            }
            Refusal::NameUnknown { .. } | Refusal::NoneKeyless => {
                (StatusCode::NOT_FOUND, "There is nothing of this name.")
            }
            Refusal::TooLarge { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, "An event is too large; nothing was published.")
            }
            Refusal::Invalid { .. } => {
                (StatusCode::BAD_REQUEST, "An event cannot be stored; nothing was published.")
            }
            Refusal::DelayTooLong { .. } => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "An event would wait for too long; nothing was published.",
            ),
            Refusal::Conflict { .. } => {
                (StatusCode::CONFLICT, "What is there does not allow this.")
            }
            Refusal::ConfigInvalid { .. } | Refusal::NeedsRestart { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, "The configuration cannot be followed.")
            }
            Refusal::Internal { .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, "The gateway failed to handle this request.")
            }
        };
        let mut problem = Self::new(status, refusal.reason(), title);
        problem.0.retry_after = refusal.retry_after();
        let is_inner = matches!(refusal, Refusal::Unavailable { .. } | Refusal::Internal { .. });
        if is_operator || !is_inner {
            problem.0.detail = Some(refusal.to_string());
        }
        problem.0.help = help(refusal).map(str::to_owned);
        problem
    }

    /// The answer.
    pub fn response(&self) -> Response<Payload> {
        let mut body = json!({
            "type": "about:blank",
            "title": self.0.title,
            "status": self.0.status.as_u16(),
            "code": self.0.code,
        });
        for (name, text) in [("detail", &self.0.detail), ("help", &self.0.help)] {
            if let Some(text) = text {
                body[name] = json!(text);
            }
        }
        if !self.0.problems.is_empty() {
            body["problems"] = json!(self.0.problems);
        }
        let body = Bytes::from(format!("{body:#}\n"));
        let mut response = super::respond(self.0.status, "application/problem+json", body);
        let headers = response.headers_mut();
        if let Some(after) = self.0.retry_after {
            headers.insert(header::RETRY_AFTER, after.as_secs().max(1).into());
        }
        let allow = self.0.allow.as_deref().and_then(|allow| HeaderValue::from_str(allow).ok());
        if let Some(allow) = allow {
            headers.insert(header::ALLOW, allow);
        }
        response
    }
}

fn help(refusal: &Refusal) -> Option<&'static str> {
    match refusal {
        Refusal::Full { bound, .. } => Some(bound.help()),
        Refusal::Disk { .. } => Some("make room; publishing goes on by itself"),
        Refusal::Unavailable { may_exist: true, .. } => {
            Some("it may have been stored: publish again with the same `id`")
        }
        Refusal::TooLarge { .. } => Some("`max_event_bytes` of the topic is the bound"),
        Refusal::DelayTooLong { .. } => {
            Some("`sluicenotbefore` within the topic's `retention.max_age`")
        }
        _ => None,
    }
}
