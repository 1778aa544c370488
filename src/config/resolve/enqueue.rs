//! `routes[].enqueue` and `routes[].spill`.

use std::time::Duration;

use http::HeaderName;

use super::{Resolver, auth::token_parameters, publish::Flow, subscriptions::topic_named};
use crate::{
    config::{
        file::{self, Selector, events},
        shown::is_credential,
        value::{Fault, LogName, ParamName},
        written::{OneOrMany, Place, Written},
    },
    events::{
        enqueue::{Settings, settings::When},
        request::{CREDENTIALS, TYPE},
        settings::{Durability, Subscription, Target, Topic},
    },
    http::selector::Part,
    middleware::auth,
};

const DAY: Duration = Duration::from_hours(24);

/// What the two have in common.
struct Storing<'a> {
    /// Where the key of the route is.
    place: Place,
    when: When,
    topic: &'a Written<LogName>,
    key: Option<&'a Selector>,
    keep_headers: &'a [Written<HeaderName>],
    status_ttl: Option<&'a Written<Duration>>,
    redeliver: Option<&'a Written<bool>>,
}

impl Resolver<'_> {
    /// Whether requests are stored. `key_field`: the field of their idempotency key.
    pub(super) fn enqueue(
        &mut self,
        route: &file::Route,
        params: &[ParamName],
        flow: Flow<'_>,
        key_field: Option<&HeaderName>,
        auth: Option<&auth::Settings>,
    ) -> Option<Settings> {
        let written = self.storing(route)?;
        self.check_storing(route, &written);
        self.warn_of_secrets(route);
        self.warn_of_reads(route);
        let topic = topic_named(&written.topic.text, flow.topics);
        let name = self.checked(written.topic.place, topic);
        let topic = name.and_then(|name| flow.topics.iter().find(|topic| topic.name == name));
        let key = self.event_key(written.key, route, params);
        self.check_early(written.key);
        let kept = self.kept(&written);
        let status_ttl =
            self.in_range(written.status_ttl, DAY, Duration::from_secs(1)..=30 * DAY, |_| {
                "from 1s to 30d".to_owned()
            });
        let may_redeliver = self.or(written.redeliver, false);
        let topic = topic?;
        self.warn_of_topic(&written, topic, status_ttl);
        self.check_delivered(route, &written, topic, flow.subscriptions);
        let all = CREDENTIALS.iter().chain(&self.key_fields);
        let own = HeaderName::from_static("idempotency-key");
        Some(Settings {
            topic: topic.name.clone(),
            when: written.when,
            key,
            credentials: all.filter(|name| !kept.contains(name)).cloned().collect(),
            parameters: token_parameters(auth),
            key_field: key_field.cloned().unwrap_or(own),
            status_ttl,
            may_redeliver,
        })
    }

    fn storing<'a>(&mut self, route: &'a file::Route) -> Option<Storing<'a>> {
        if let Some(enqueue) = &route.enqueue {
            let may_wait = self.or(enqueue.value.on_prefer.as_ref(), false);
            let events::Enqueue { topic, key, keep_headers, status_ttl, redeliver, .. } =
                &enqueue.value;
            return Some(Storing {
                place: enqueue.place,
                when: When::Always { may_wait },
                topic,
                key: key.as_ref(),
                keep_headers: keep_headers.as_deref().unwrap_or_default(),
                status_ttl: status_ttl.as_ref(),
                redeliver: redeliver.as_ref(),
            });
        }
        let spill = route.spill.as_ref()?;
        let events::Spill { topic, key, keep_headers, status_ttl, redeliver } = &spill.value;
        Some(Storing {
            place: spill.place,
            when: When::Unsent,
            topic,
            key: key.as_ref(),
            keep_headers: keep_headers.as_deref().unwrap_or_default(),
            status_ttl: status_ttl.as_ref(),
            redeliver: redeliver.as_ref(),
        })
    }

    /// What a route with it cannot do besides.
    fn check_storing(&mut self, route: &file::Route, written: &Storing<'_>) {
        let has_upstream = route.upstream.is_some() || route.split.is_some();
        if let (Some(spill), true) = (&route.spill, route.enqueue.is_some()) {
            let fault = Fault::new("`enqueue` stores every request already");
            self.error(spill.place, fault.help("remove `spill`"));
        } else if written.when == When::Unsent && !has_upstream {
            let fault = Fault::new("`spill` needs a route that sends requests to an upstream")
                .help("this route has neither `upstream` nor `split`");
            self.error(written.place, fault);
        }
        let published = route.publish.iter().flat_map(OneOrMany::iter).next();
        if let (Some(first), true) = (published, route.enqueue.is_some()) {
            let fault = Fault::new(
                "`publish` cannot be combined with `enqueue`: nothing is done yet when the client is answered",
            );
            let help = "write `on_success: { publish: .. }` in the subscription that delivers the requests";
            self.error(first.topic.place, fault.help(help));
        }
    }

    /// There is no answer whose fields could be in a key.
    fn check_early(&mut self, key: Option<&Selector>) {
        for written in key.into_iter().flat_map(OneOrMany::iter) {
            let part = Part::parse(&written.text);
            if matches!(part, Ok(Part::ResponseHeader(_) | Part::ResponseJson(_))) {
                let fault = Fault::new("the request is stored before there is a response");
                self.error(written.place, fault.help("take the key from the request"));
            }
        }
    }

    /// A secret of the gateway's own is not stored, and who delivers knows of no route.
    fn warn_of_secrets(&mut self, route: &file::Route) {
        let changes = route.request_headers.iter().map(|changes| &changes.value);
        let fields = changes.flat_map(|changes| changes.set.iter().chain(&changes.add));
        for (name, _) in fields {
            if !is_credential(&name.text, &self.key_fields) {
                continue;
            }
            let fault = Fault::new(format!(
                "`{}` is not stored with the request, and not sent later",
                name.text
            ));
            let help = "let the upstream recognise the gateway in another way, for example by `tls.client_cert`";
            self.warn(name.place, fault.help(help));
        }
    }

    /// Who asks for something gets a 202 in its place.
    fn warn_of_reads(&mut self, route: &file::Route) {
        let methods = route.matches.as_ref().and_then(|matches| matches.methods.as_ref());
        if let (Some(enqueue), None) = (&route.enqueue, methods) {
            let fault = Fault::new("this route stores requests of every method, GET and HEAD too");
            self.warn(
                enqueue.place,
                fault.help("list the methods under `match`: `methods: [POST]`"),
            );
        }
    }

    fn kept(&mut self, written: &Storing<'_>) -> Vec<HeaderName> {
        let mut kept = Vec::new();
        for name in written.keep_headers {
            let Some(value) = self.value(name) else { continue };
            let is_credential = CREDENTIALS.contains(&value) || self.key_fields.contains(&value);
            if !is_credential {
                let fault = Fault::new(format!("`{value}` is stored in any case"));
                let help = "`keep_headers` is for credentials, such as `authorization`; remove it";
                self.warn(name.place, fault.help(help));
            }
            kept.push(value);
        }
        kept
    }

    fn warn_of_topic(&mut self, written: &Storing<'_>, topic: &Topic, status_ttl: Duration) {
        if topic.durability != Durability::Durable {
            let fault = Fault::new(format!(
                "a power cut can lose requests in `{}` that were answered with 202",
                topic.name
            ));
            self.warn(written.topic.place, fault.help("write `durability: durable` for the topic"));
        }
        if status_ttl > topic.max_age {
            let place = written.status_ttl.map_or(written.topic.place, |ttl| ttl.place);
            let fault = Fault::new(format!(
                "`{}` keeps requests for a shorter time than `status_ttl`",
                topic.name
            ));
            self.warn(
                place,
                fault.help("write a longer `retention.max_age` or a shorter `status_ttl`"),
            );
        }
        if status_ttl < topic.dedup.window {
            let place = written.status_ttl.map_or(written.topic.place, |ttl| ttl.place);
            let fault = Fault::new(format!(
                "`status_ttl` is shorter than the deduplication window of `{}`: between the two, a repeated key is not done again and has no status",
                topic.name
            ));
            self.warn(
                place,
                fault.help("make `status_ttl` at least as long as the topic's `dedup.window`"),
            );
        }
    }

    /// What nobody delivers is never over: its clients ask in vain, and with `spill` all that comes after it
    /// waits for it.
    fn check_delivered(
        &mut self,
        route: &file::Route,
        written: &Storing<'_>,
        topic: &Topic,
        subscriptions: &[Subscription],
    ) {
        let delivers = |it: &&Subscription| {
            let takes = it.types.is_empty() || it.types.iter().any(|types| types.matches(TYPE));
            let target = it.push.as_ref().map(|push| &push.target);
            it.topic == topic.name && takes && matches!(target, Some(Target::Upstream(_)))
        };
        let Some(first) = subscriptions.iter().find(delivers) else {
            let fault = Fault::new(format!(
                "no subscription sends the requests stored in `{}`",
                topic.name
            ));
            let help = format!(
                "add `- {{ name: .., topic: {}, push: {{ upstream: .. }} }}` to `subscriptions`",
                topic.name
            );
            return self.error(written.topic.place, fault.help(help));
        };
        let published = route.publish.iter().flat_map(OneOrMany::iter).next();
        if let (Some(published), None) = (published, &first.on_success) {
            let fault = Fault::new("a spilled request publishes nothing");
            let help = format!(
                "write `on_success: {{ publish: .. }}` in the subscription `{}`",
                first.name
            );
            self.warn(published.topic.place, fault.help(help));
        }
    }
}
