//! `routes[].publish`.

use std::{sync::Arc, time::Duration};

use super::{Resolver, subscriptions::topic_named};
use crate::{
    config::{
        file::{self, events},
        value::{Fault, ParamName, Text, selector_part},
        written::{OneOrMany, Written},
    },
    events::{
        ingress::uncertain_kind,
        publish::{
            redact::Pointer,
            settings::{Ack, Data, Mode, OnError, Settings, When},
        },
        settings::{Subscription, Topic},
    },
    http::selector::{Part, Selector},
    middleware::idempotency,
};

/// Events of one request.
const MAX_EVENTS: usize = 16;
/// Values replaced in one event.
const MAX_POINTERS: usize = 100;
/// Bytes of a type at most.
const MAX_TYPE: usize = 200;
const YEAR: Duration = Duration::from_hours(24 * 365);

/// What of the event flow routes refer to.
#[derive(Clone, Copy)]
pub(super) struct Flow<'a> {
    pub(super) topics: &'a [Topic],
    pub(super) subscriptions: &'a [Subscription],
}

impl Resolver<'_> {
    /// What a route publishes.
    pub(super) fn publications(
        &mut self,
        route: &file::Route,
        params: &[ParamName],
        flow: Flow<'_>,
    ) -> Vec<Settings> {
        let written: Vec<_> = route.publish.iter().flat_map(OneOrMany::iter).collect();
        if let Some(one_too_many) = written.get(MAX_EVENTS) {
            let fault = Fault::new("this route has too many `publish` entries");
            self.error(one_too_many.topic.place, fault.help(format!("at most {MAX_EVENTS}")));
        }
        let all = written.iter().take(MAX_EVENTS);
        all.filter_map(|written| self.publication(written, route, params, flow)).collect()
    }

    fn publication(
        &mut self,
        written: &events::Publish,
        route: &file::Route,
        params: &[ParamName],
        flow: Flow<'_>,
    ) -> Option<Settings> {
        let name = topic_named(&written.topic.text, flow.topics);
        let name = self.checked(written.topic.place, name);
        let topic = name.and_then(|name| flow.topics.iter().find(|topic| topic.name == name));
        let kind = self.event_type(&written.r#type);
        let mode = match self.or(written.mode.as_ref(), events::PublishMode::After) {
            events::PublishMode::After => Mode::After,
            events::PublishMode::Before => Mode::Before,
        };
        let ack = match self.or(written.ack.as_ref(), events::Ack::Durable) {
            events::Ack::Durable => Ack::Durable,
            events::Ack::Async => Ack::Async,
        };
        let data = match self.or(written.data.as_ref(), events::EventData::Request) {
            events::EventData::Request => Data::Request,
            events::EventData::Response => Data::Response,
            events::EventData::Both => Data::Both,
            events::EventData::None => Data::None,
        };
        let settings = Settings {
            topic: topic.map(|topic| topic.name.clone()).unwrap_or_default(),
            kind: kind.unwrap_or_default(),
            mode,
            when: self.when(written.when.as_ref()),
            ack,
            on_error: match self.or(written.on_error.as_ref(), events::OnError::Fail) {
                events::OnError::Fail => OnError::Fail,
                events::OnError::Ignore => OnError::Ignore,
            },
            key: self.event_key(written.key.as_ref(), route, params),
            is_key_required: self.or(written.key_required.as_ref(), false),
            dedup_key: self.event_key(written.dedup_key.as_ref(), route, params),
            has_intent: self.intent(written, mode, ack),
            delay: self.delay(written, topic),
            expires: written.expires.as_ref().map(|expires| {
                let range = Duration::from_secs(1)..=YEAR;
                let tell = |_: &Duration| "from 1s to 365d".to_owned();
                self.in_range(Some(expires), YEAR, range, tell)
            }),
            data,
            redact: self.pointers(written, data),
        };
        self.check_before(written, &settings);
        self.check_keys(written, &settings);
        if topic.is_some() && settings.has_intent {
            self.warn_unread(written, &settings, flow.subscriptions);
        }
        topic.map(|_| settings)
    }

    /// The type of an event that the gateway publishes: a word, which no pattern of `types` can be, with room
    /// for what is put behind it.
    pub(super) fn event_type(&mut self, written: &Written<Text>) -> Option<Arc<str>> {
        let text = written.text.as_str();
        let is_odd = |c: char| c.is_control() || c.is_whitespace() || c == '*';
        let is_type = !text.is_empty() && text.len() <= MAX_TYPE && !text.contains(is_odd);
        let fault = || {
            Fault::new("this is not a valid event type")
                .help("up to 200 bytes without white space and `*`, such as `order.created`")
        };
        let checked = if is_type { Ok(text.into()) } else { Err(fault()) };
        self.checked(written.place, checked)
    }

    fn when(&mut self, written: Option<&events::When>) -> When {
        match written {
            None => When::Success,
            Some(events::When::Outcome(word)) => match self.value(word) {
                Some(events::Outcome::Failure) => When::Failure,
                Some(events::Outcome::Always) => When::Always,
                Some(events::Outcome::Success) | None => When::Success,
            },
            Some(events::When::Statuses(list)) => {
                When::Statuses(list.iter().filter_map(|status| self.value(status)).collect())
            }
        }
    }

    pub(super) fn event_key(
        &mut self,
        written: Option<&OneOrMany<Written<Text>>>,
        route: &file::Route,
        params: &[ParamName],
    ) -> Option<Selector> {
        let mut parts = Vec::new();
        for written in written? {
            let Some(part) = self.checked(written.place, selector_part(&written.text)) else {
                continue;
            };
            let fault = match &part {
                Part::Claim(_) | Part::Principal if route.auth.is_none() => {
                    let fault = Fault::new(format!("`{}` needs `auth`", written.text));
                    Some(fault.help("add `auth` to this route"))
                }
                Part::Path(name) if !params.contains(name) => {
                    let fault =
                        Fault::new(format!("this route's path has no placeholder `{name}`"));
                    Some(fault.help(format!("add `{{{name}}}` to `match.path`")))
                }
                _ => None,
            };
            match fault {
                Some(fault) => self.error(written.place, fault),
                None => parts.push(part),
            }
        }
        (!parts.is_empty()).then(|| Selector::new(parts))
    }

    fn intent(&mut self, written: &events::Publish, mode: Mode, ack: Ack) -> bool {
        let is_possible = mode == Mode::After && ack == Ack::Durable;
        let has_intent = self.or(written.intent.as_ref(), is_possible);
        if let Some(written) = written.intent.as_ref().filter(|_| has_intent && !is_possible) {
            let fault = match mode {
                Mode::Before => Fault::new(
                    "`intent` is not possible with `mode: before`, which stores the event itself first",
                ),
                Mode::After => Fault::new(
                    "`intent` is not possible with `ack: async`, where nothing waits for the disk",
                ),
            };
            self.error(written.place, fault.help("remove it"));
        }
        has_intent && is_possible
    }

    /// At most for as long as the topic keeps anything.
    fn delay(&mut self, written: &events::Publish, topic: Option<&Topic>) -> Duration {
        let most = topic.map_or(YEAR, |topic| topic.max_age);
        self.in_range(written.delay.as_ref(), Duration::ZERO, Duration::ZERO..=most, |_| {
            "at most the topic's `retention.max_age`".to_owned()
        })
    }

    fn pointers(&mut self, written: &events::Publish, data: Data) -> Box<[Pointer]> {
        let all = written.redact.as_deref().unwrap_or_default();
        if let (Data::None, Some(first)) = (data, all.first()) {
            let fault = Fault::new("`redact` has no effect with `data: none`");
            self.error(first.place, fault.help("remove it"));
        }
        if let Some(one_too_many) = all.get(MAX_POINTERS) {
            let fault =
                Fault::new("`redact` is too long").help(format!("at most {MAX_POINTERS} pointers"));
            self.error(one_too_many.place, fault);
        }
        let pointer = |written: &Written<Text>| {
            let fault =
                |error: &dyn std::fmt::Display| Fault::new(format!("`{}` {error}", written.text));
            let pointer = Pointer::parse(&written.text).map_err(|error| fault(&error));
            self.checked(written.place, pointer)
        };
        all.iter().take(MAX_POINTERS).filter_map(pointer).collect()
    }

    /// What comes before the request is sent knows nothing of its answer.
    fn check_before(&mut self, written: &events::Publish, settings: &Settings) {
        if settings.mode != Mode::Before {
            return;
        }
        let fault = || Fault::new("with `mode: before` there is no response yet");
        match &written.when {
            Some(events::When::Outcome(word)) => {
                self.error(word.place, fault().help("remove it"));
            }
            Some(events::When::Statuses(list)) => {
                if let Some(first) = list.first() {
                    self.error(first.place, fault().help("remove it"));
                }
            }
            None => {}
        }
        if let Some(data) = written.data.as_ref().filter(|_| settings.data.has_response()) {
            self.error(data.place, fault().help("write `request` or `none`"));
        }
        if !settings.has_early_keys() {
            let place = written.topic.place;
            self.error(place, fault().help("take the keys from the request"));
        }
    }

    fn check_keys(&mut self, written: &events::Publish, settings: &Settings) {
        let Some(required) = written.key_required.as_ref().filter(|_| settings.is_key_required)
        else {
            return;
        };
        if written.key.is_none() {
            let fault = Fault::new("`key_required` needs `key`")
                .help("add it, such as `key: \"json:/customer_id\"`");
            self.error(required.place, fault);
        } else if !settings.has_early_keys() {
            let fault = Fault::new("`key_required` needs a key that is taken from the request");
            self.error(
                required.place,
                fault.help("use `header:NAME`, `json:/POINTER` or another part of the request"),
            );
        }
    }

    /// The IDs of events follow from a request's key: one that is used again when it is forgotten, and its
    /// event is not, has an effect whose event is taken for a duplicate.
    pub(super) fn warn_of_repeats(
        &mut self,
        route: &file::Route,
        idempotency: Option<&idempotency::Settings>,
        publish: &[Settings],
        topics: &[Topic],
    ) {
        let (Some(written), Some(kept)) = (&route.idempotency, idempotency) else { return };
        let is_longer = |topic: &&Topic| topic.dedup.window > kept.ttl;
        let is_published = |topic: &&Topic| {
            publish.iter().any(|it| it.topic == topic.name && it.dedup_key.is_none())
        };
        let Some(topic) = topics.iter().filter(is_longer).find(is_published) else { return };
        let place = written.ttl.as_ref().map_or(route.name.place, |ttl| ttl.place);
        let fault = Fault::new(format!(
            "this route forgets its keys sooner than `{}` forgets duplicates: a key that is used again has an effect, but its event is dropped as a duplicate",
            topic.name
        ));
        self.warn(
            place,
            fault.help("make `idempotency.ttl` at least as long as the topic's `dedup.window`"),
        );
    }

    /// What may have happened is told to nobody.
    fn warn_unread(
        &mut self,
        written: &events::Publish,
        settings: &Settings,
        subscriptions: &[Subscription],
    ) {
        let kind = uncertain_kind(&settings.kind);
        let reads = |it: &Subscription| {
            let takes = it.types.is_empty() || it.types.iter().any(|types| types.matches(&kind));
            it.topic == settings.topic && takes
        };
        if !subscriptions.iter().any(reads) {
            let fault = Fault::new(format!("no subscription receives `{kind}`"));
            let help = "this event says that a request may have been done: subscribe to it, or write `intent: false`";
            self.warn(written.r#type.place, fault.help(help));
        }
    }
}
