//! `subscriptions[].push.upstream`: what a subscription that delivers stored requests may say.

use std::collections::HashMap;

use super::Resolver;
use crate::{
    config::{
        file::events,
        value::Fault,
        written::{Place, Placed},
    },
    events::settings::{OnFull, Topic},
};

impl Resolver<'_> {
    /// Checks those that deliver stored requests, each by itself and all together.
    pub(super) fn check_requests(
        &mut self,
        written: &[Placed<events::Subscription>],
        topics: &[Topic],
    ) {
        let mut taken = HashMap::new();
        for placed in written {
            let subscription = &placed.value;
            let Some(push) = &subscription.push else { continue };
            let (Some(upstream), None) = (&push.value.upstream, &push.value.url) else { continue };
            self.check_push(&push.value);
            self.check_ends(subscription);
            self.warn_losses(subscription, topics, upstream.place);
            let (topic, name) = (&subscription.topic.text, &subscription.name.text);
            if let Some(other) = taken.get(topic) {
                let fault =
                    Fault::new(format!("`{other}` sends the requests stored in `{topic}` already"));
                let help = "a topic has one subscription with `push.upstream`: otherwise each request would be sent twice";
                self.error(upstream.place, fault.help(help));
            } else {
                taken.insert(topic, name);
            }
        }
    }

    fn check_push(&mut self, push: &events::Push) {
        if let Some(format) = &push.format {
            let fault = Fault::new("stored requests have no `format`: they are sent as they came");
            self.error(format.place, fault.help("remove it; `format` is for `url`"));
        }
        if let Some(secret) = push.secrets.iter().flatten().next() {
            let fault = Fault::new("stored requests are not signed");
            self.error(secret.place, fault.help("remove `secrets`; they are for `url`"));
        }
    }

    /// What may have been done has to be kept for somebody who finds out.
    fn check_ends(&mut self, subscription: &events::Subscription) {
        if let Some(first) = subscription.types.as_ref().and_then(|types| types.value.first()) {
            let fault = Fault::new("stored requests are all of one type");
            self.error(first.place, fault.help("remove `types`"));
        }
        let letters = subscription.dead_letter.as_ref().map(|it| &it.value);
        let enabled = letters.and_then(|it| it.enabled.as_ref());
        if let Some(enabled) = enabled
            && self.value(enabled) == Some(false)
        {
            let fault = Fault::new(
                "stored requests need dead letters: one that may have been done is kept there",
            );
            self.error(enabled.place, fault.help("write `enabled: true`, or remove the key"));
        }
        let then = subscription.on_exhausted.as_ref().and_then(|it| it.then.as_ref());
        if let Some(then) = then
            && matches!(self.value(then), Some(events::Then::Discard))
        {
            let fault = Fault::new(
                "a stored request cannot be discarded: its client may ask for its status",
            );
            self.error(then.place, fault.help("write `dead_letter` or `block_key`"));
        }
    }

    fn warn_losses(
        &mut self,
        subscription: &events::Subscription,
        topics: &[Topic],
        upstream: Place,
    ) {
        let pin = subscription.pin.as_ref();
        if let Some(pin) = pin.filter(|pin| pin.text == "false") {
            let fault =
                Fault::new("requests that were answered with 202 may be lost before they are sent");
            self.warn(pin.place, fault.help("write `pin: true`"));
        }
        let topic = topics.iter().find(|topic| *topic.name == *subscription.topic.text);
        if topic.is_some_and(|topic| topic.on_full == OnFull::DropOldest) {
            let fault =
                Fault::new("requests that were answered with 202 may be lost before they are sent");
            let help =
                format!("write `on_full: reject` for the topic `{}`", subscription.topic.text);
            self.warn(upstream, fault.help(help));
        }
        if let Some(from) = subscription.from.as_ref().filter(|from| from.text != "latest") {
            let fault = Fault::new(
                "requests that another subscription has sent already would be sent again",
            );
            let help = "write `latest`, unless none of the requests in the topic was sent yet";
            self.warn(from.place, fault.help(help));
        }
    }
}
