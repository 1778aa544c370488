//! `subscriptions[].on_success` and `on_exhausted.publish`: the steps of a saga.

use super::{Resolver, subscriptions::topic_named};
use crate::{
    config::{
        file::events,
        value::{Fault, Value as _},
        written::{Placed, Written},
    },
    events::settings::{Reaction, ReactionData, Subscription, Topic},
};

impl Resolver<'_> {
    /// What follows a success, and what follows when nobody took an event.
    pub(super) fn reactions(
        &mut self,
        written: &events::Subscription,
        topics: &[Topic],
    ) -> (Option<Reaction>, Option<Reaction>) {
        let is_push = written.push.is_some();
        let success = written.on_success.as_ref().map(|reaction| &reaction.publish);
        if let Some(data) = success.and_then(|event| event.data.as_ref())
            && !is_push
            && needs_an_answer(data)
        {
            let fault =
                Fault::new("without `push` there is no response whose data could be published");
            self.warn(data.place, fault.help("write `request` or `none`"));
        }
        let exhausted = written.on_exhausted.as_ref().and_then(|it| it.publish.as_ref());
        if let Some(data) = exhausted.and_then(|event| event.data.as_ref())
            && needs_an_answer(data)
        {
            let fault = Fault::new("an event that has used up its attempts has no response");
            self.warn(data.place, fault.help("write `request` or `none`"));
        }
        (
            success.and_then(|event| self.reaction(event, topics)),
            exhausted.and_then(|event| self.reaction(event, topics)),
        )
    }

    fn reaction(&mut self, written: &events::ReactionEvent, topics: &[Topic]) -> Option<Reaction> {
        let topic = topic_named(&written.topic.text, topics);
        let topic = self.checked(written.topic.place, topic);
        let kind = self.event_type(&written.r#type);
        let data = match self.or(written.data.as_ref(), events::EventData::Request) {
            events::EventData::Request => ReactionData::Request,
            events::EventData::Response => ReactionData::Response,
            events::EventData::Both => ReactionData::Both,
            events::EventData::None => ReactionData::None,
        };
        Some(Reaction { topic: topic?, kind: kind?, data })
    }

    /// An event that leads back to the subscription that made it ends at the depth limit, and hardly as it
    /// was meant.
    pub(super) fn warn_of_loops(
        &mut self,
        written: &[Placed<events::Subscription>],
        all: &[Subscription],
    ) {
        for placed in written {
            let name = &placed.value.name.text;
            let Some(start) = all.iter().position(|it| *it.name == **name) else { continue };
            let success = placed.value.on_success.as_ref().map(|reaction| &reaction.publish);
            let exhausted = placed.value.on_exhausted.as_ref().and_then(|it| it.publish.as_ref());
            let reactions =
                [(success, &all[start].on_success), (exhausted, &all[start].on_exhausted)];
            for (event, reaction) in reactions {
                if let (Some(event), Some(reaction)) = (event, reaction)
                    && leads_to(reaction, start, all)
                {
                    let fault = Fault::new(format!(
                        "events that follow from this one are delivered to `{name}` again"
                    ));
                    let help = "a chain ends after 8 events: nothing follows from the last one";
                    self.warn(event.r#type.place, fault.help(help));
                }
            }
        }
    }
}

fn needs_an_answer(data: &Written<events::EventData>) -> bool {
    let parsed = events::EventData::parse(&data.text);
    matches!(parsed, Ok(events::EventData::Response | events::EventData::Both))
}

/// Whether the event of `reaction`, or one that follows from it, is delivered to the subscription `end`.
fn leads_to(reaction: &Reaction, end: usize, all: &[Subscription]) -> bool {
    let takes = |it: &Subscription, event: &Reaction| {
        it.topic == event.topic
            && (it.types.is_empty() || it.types.iter().any(|types| types.matches(&event.kind)))
    };
    let mut seen = vec![false; all.len()];
    let mut events = vec![reaction];
    while let Some(event) = events.pop() {
        for (index, it) in all.iter().enumerate().filter(|(_, it)| takes(it, event)) {
            if index == end {
                return true;
            }
            if !std::mem::replace(&mut seen[index], true) {
                events.extend(it.on_success.iter().chain(&it.on_exhausted));
            }
        }
    }
    false
}
