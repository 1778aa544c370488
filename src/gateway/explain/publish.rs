//! Explains a request's key, and what it would publish.

use std::time::Duration;

use http::StatusCode;

use super::{Told, step};
use crate::{
    events::publish::{
        Settings,
        settings::{Ack, Mode, When},
    },
    http::{
        idempotency::{self, NotAKey},
        selector::Part,
    },
    routing::explain::Step,
};

impl Told<'_> {
    pub(super) fn idempotency(&self, steps: &mut Vec<Step>) {
        let Some(settings) = &self.route.idempotency else { return };
        let name = &settings.header;
        let (outcome, detail) = match idempotency::key(&self.asked.headers, name) {
            Ok(Some(key)) => ("depends", format!("on what is known of key `{key}`")),
            Ok(None) if settings.is_required => {
                ("refuse", format!("400 idempotency-missing: there is no {name}"))
            }
            Ok(None) => ("pass", format!("there is no {name}")),
            Err(NotAKey::Several) => {
                ("refuse", format!("400 idempotency-missing: there is more than one {name}"))
            }
            Err(NotAKey::Invalid) => {
                ("refuse", format!("400 idempotency-missing: its {name} is no key"))
            }
        };
        steps.push(step("idempotency", outcome, detail));
    }

    pub(super) fn publish(&self, steps: &mut Vec<Step>) {
        steps.extend(self.route.publish.iter().map(|settings| {
            let Settings { topic, kind, .. } = settings;
            let when = when(settings);
            let ack = match settings.ack {
                Ack::Durable => "waits for the disk",
                Ack::Async => "does not wait for the disk",
            };
            let intent = if settings.has_intent { ", written down before it is sent" } else { "" };
            let delay = match settings.delay {
                Duration::ZERO => String::new(),
                delay => format!(", {delay:?} later"),
            };
            let key = self.key(settings);
            let detail = format!("`{kind}` to `{topic}`{delay}, {when}; {ack}{intent}; {key}");
            let outcome = if settings.mode == Mode::Before { "append" } else { "depends" };
            step("publish", outcome, detail)
        }));
    }

    fn key(&self, settings: &Settings) -> String {
        let Some(selector) = &settings.key else { return "no key, so no order".to_owned() };
        if let Some(key) = selector.extract(&self.input()) {
            return format!("key `{key}`");
        }
        let is_later = |part: &Part| {
            matches!(part, Part::Json(_) | Part::ResponseJson(_) | Part::ResponseHeader(_))
        };
        match selector.parts().iter().any(is_later) {
            true => "its key is in a body".to_owned(),
            false if settings.is_key_required => "no key: 400 event-key-missing".to_owned(),
            false => "no key, so no order".to_owned(),
        }
    }
}

fn when(settings: &Settings) -> String {
    match (&settings.mode, &settings.when) {
        (Mode::Before, _) => "before it is sent".to_owned(),
        (Mode::After, When::Success) => "if the answer is 2xx".to_owned(),
        (Mode::After, When::Failure) => "if the answer is not 2xx".to_owned(),
        (Mode::After, When::Always) => "whatever the answer is".to_owned(),
        (Mode::After, When::Statuses(statuses)) => {
            let words: Vec<_> = statuses.iter().map(StatusCode::as_str).collect();
            format!("if the answer is {}", words.join(", "))
        }
    }
}
