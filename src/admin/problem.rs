//! Refusals of the admin API as problem bodies (RFC 9457).

use http::StatusCode;
use serde_json::{Map, Value, json};

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The status of the answer.
    pub status: StatusCode,
    /// The reason word (semantics 12).
    pub code: &'static str,
    /// One fixed sentence.
    pub title: &'static str,
    /// The details of this occurrence.
    pub detail: Option<String>,
    /// Several problems at once, as found by a reload.
    pub problems: Vec<Value>,
    /// The `Allow` field of a 405.
    pub(super) allow: Option<&'static str>,
}

// === impl Problem ===

impl Problem {
    /// A problem without details.
    pub fn new(status: StatusCode, code: &'static str, title: &'static str) -> Self {
        Self { status, code, title, detail: None, problems: Vec::new(), allow: None }
    }

    /// The new configuration has these problems; the old one still runs.
    pub fn config_invalid(problems: Vec<Value>) -> Self {
        let title = "The configuration is invalid; the old one still runs.";
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Self { problems, ..Self::new(status, "config-invalid", title) }
    }

    /// The new configuration changes something that needs a restart.
    pub fn needs_restart(detail: impl Into<String>) -> Self {
        let title = "The change needs a restart; the old configuration still runs.";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "needs-restart", title).with_detail(detail)
    }

    /// The body of the call is not what the endpoint accepts.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        let title = "The request is malformed.";
        Self::new(StatusCode::BAD_REQUEST, "bad-framing", title).with_detail(detail)
    }

    /// Adds the details of this occurrence.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The problem body.
    pub fn to_json(&self) -> Value {
        let mut body = Map::new();
        body.insert("type".to_owned(), json!("about:blank"));
        body.insert("title".to_owned(), json!(self.title));
        body.insert("status".to_owned(), json!(self.status.as_u16()));
        body.insert("code".to_owned(), json!(self.code));
        if let Some(detail) = &self.detail {
            body.insert("detail".to_owned(), json!(detail));
        }
        if !self.problems.is_empty() {
            body.insert("problems".to_owned(), json!(self.problems));
        }
        Value::Object(body)
    }
}
