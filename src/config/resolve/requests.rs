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
                    Fault::new(format!("`{other}` delivers the requests in `{topic}` already"));
                let help = "each would be sent twice: one `push.upstream` for each topic";
                self.error(upstream.place, fault.help(help));
            } else {
                taken.insert(topic, name);
            }
        }
    }

    fn check_push(&mut self, push: &events::Push) {
        if let Some(format) = &push.format {
            let fault = Fault::new("a stored request is sent as it came");
            self.error(format.place, fault.help("`format` is for webhooks: leave it out"));
        }
        if let Some(secret) = push.secrets.iter().flatten().next() {
            let fault = Fault::new("a stored request is not signed");
            self.error(secret.place, fault.help("`secrets` are for webhooks: leave them out"));
        }
    }

    /// What may have been done has to be kept for somebody who finds out.
    fn check_ends(&mut self, subscription: &events::Subscription) {
        if let Some(first) = subscription.types.as_ref().and_then(|types| types.value.first()) {
            let fault = Fault::new("stored requests are all of one type");
            self.error(first.place, fault.help("leave `types` out"));
        }
        let letters = subscription.dead_letter.as_ref().map(|it| &it.value);
        let enabled = letters.and_then(|it| it.enabled.as_ref());
        if let Some(enabled) = enabled
            && self.value(enabled) == Some(false)
        {
            let fault = Fault::new("a request that may have been done is never sent again");
            self.error(enabled.place, fault.help("its dead letter says so: `enabled: true`"));
        }
        let then = subscription.on_exhausted.as_ref().and_then(|it| it.then.as_ref());
        if let Some(then) = then
            && matches!(self.value(then), Some(events::Then::Discard))
        {
            let fault = Fault::new("whoever was answered 202 is told what became of it");
            self.error(then.place, fault.help("`dead_letter` or `block_key`"));
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
            let fault = Fault::new("a request that was answered 202 may be lost unsent");
            self.warn(pin.place, fault.help("`pin: true` keeps it"));
        }
        let topic = topics.iter().find(|topic| *topic.name == *subscription.topic.text);
        if topic.is_some_and(|topic| topic.on_full == OnFull::DropOldest) {
            let fault = Fault::new("a request that was answered 202 may be lost unsent");
            let help = format!("`on_full: reject` of `{}` keeps it", subscription.topic.text);
            self.warn(upstream, fault.help(help));
        }
        if let Some(from) = subscription.from.as_ref().filter(|from| from.text != "latest") {
            let fault = Fault::new("what another subscription has delivered is delivered again");
            let help = "`latest`, unless nobody has delivered what is there";
            self.warn(from.place, fault.help(help));
        }
    }
}
