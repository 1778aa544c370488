//! `routes[].publish`.

use std::{sync::Arc, time::Duration};

use http::StatusCode;

use super::redact::Pointer;
use crate::http::selector::{Part, Selector};

/// One entry of the list.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The topic of its events.
    pub topic: Arc<str>,
    /// CloudEvents `type`.
    pub kind: Arc<str>,
    /// When the event is appended.
    pub mode: Mode,
    /// Which answers it follows from.
    pub when: When,
    /// Whether the client waits until the event is on disk.
    pub ack: Ack,
    /// What the client gets if the event cannot be stored.
    pub on_error: OnError,
    /// The order domain.
    pub key: Option<Selector>,
    /// Whether requests without a key are refused.
    pub is_key_required: bool,
    /// Equal values make two events the same; `None`: source and ID do.
    pub dedup_key: Option<Selector>,
    /// Whether an intent is recorded before the request is sent.
    pub has_intent: bool,
    /// Delivery starts this long after the request at the earliest.
    pub delay: Duration,
    /// Delivery stops this long after the request.
    pub expires: Option<Duration>,
    /// The event's data.
    pub data: Data,
    /// Values redacted in the data.
    pub redact: Box<[Pointer]>,
}

/// When an event is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// When the answer is there.
    After,
    /// Before the request is sent, whatever becomes of it.
    Before,
}

/// Which answers an event follows from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// 2xx.
    Success,
    /// Anything else.
    Failure,
    /// Any.
    Always,
    /// One of these.
    Statuses(Box<[StatusCode]>),
}

/// Whether the client waits until the event is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// The client hears of success once the event is on disk.
    Durable,
    /// It does not wait.
    Async,
}

/// What the client gets if the event cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// 503.
    Fail,
    /// Its normal answer; the loss is counted.
    Ignore,
}

/// What an event carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// The request's body.
    Request,
    /// The answer's body.
    Response,
    /// Both, in one JSON object.
    Both,
    /// Nothing.
    None,
}

// === impl Settings ===

impl Settings {
    /// Whether the request's whole body is needed before it is sent.
    pub fn reads_request(&self) -> bool {
        self.data.has_request() || self.selects_json()
    }

    /// Whether a key comes from the request's body.
    pub(super) fn selects_json(&self) -> bool {
        self.selectors().any(|part| matches!(part, Part::Json(_)))
    }

    /// Whether the answer's body becomes part of the event.
    pub(super) fn reads_response(&self) -> bool {
        let is_json = |part: &Part| matches!(part, Part::ResponseJson(_));
        self.data.has_response() || self.selectors().any(is_json)
    }

    /// Whether key and dedup key are known before there is an answer.
    pub fn has_early_keys(&self) -> bool {
        let is_late = |part: &Part| matches!(part, Part::ResponseHeader(_) | Part::ResponseJson(_));
        !self.selectors().any(is_late)
    }

    /// Whether it has key or dedup key.
    pub(super) fn has_keys(&self) -> bool {
        self.key.is_some() || self.dedup_key.is_some()
    }

    fn selectors(&self) -> impl Iterator<Item = &Part> {
        let selectors = [&self.key, &self.dedup_key].into_iter().flatten();
        selectors.flat_map(Selector::parts)
    }
}

// === impl When ===

impl When {
    /// Whether an answer with this status matches.
    pub fn takes(&self, status: StatusCode) -> bool {
        match self {
            Self::Success => status.is_success(),
            Self::Failure => !status.is_success(),
            Self::Always => true,
            Self::Statuses(statuses) => statuses.contains(&status),
        }
    }
}

// === impl Data ===

impl Data {
    /// Whether the request's body is in it.
    pub fn has_request(self) -> bool {
        matches!(self, Self::Request | Self::Both)
    }

    /// Whether the answer's body is in it.
    pub fn has_response(self) -> bool {
        matches!(self, Self::Response | Self::Both)
    }
}
