//! Choreographed sagas: the event that follows from another.

use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::Bytes;
use uuid::{Builder, Uuid};

use crate::events::{
    delivery::subscription::Ending,
    event::Event,
    settings::{Reaction, ReactionData},
};

/// Maximum depth of a saga: a deeper one is most likely a loop.
pub(super) const DEPTH: u8 = 8;

/// The event that follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Follower {
    pub(super) topic: Arc<str>,
    pub(super) event: Event,
}

/// The ID of the event that follows from another in a subscription: UUIDv5 (RFC 9562, 5.5) of both
/// and the outcome, so that publishing it twice is publishing it once.
pub fn follower_id(subscription: Uuid, source: &str, id: &str, outcome: &str) -> Uuid {
    let mut name = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    name.update(subscription.as_bytes());
    for part in [source, id, outcome] {
        name.update(&(part.len() as u64).to_le_bytes());
        name.update(part.as_bytes());
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&name.finish().as_ref()[..16]);
    Builder::from_sha1_bytes(bytes).into_uuid()
}

/// The event that follows from one with this ending; `None` if the saga is too deep.
pub(super) fn follow(
    subscription: Uuid,
    instance: &str,
    cause: &Event,
    ending: Ending,
    answer: Option<&Bytes>,
    reaction: &Reaction,
) -> Option<Follower> {
    if cause.depth >= DEPTH {
        return None;
    }
    let id = follower_id(subscription, &cause.source, &cause.id, word(ending)).to_string();
    let (content_type, data) = data(reaction.data, cause, answer);
    let event = Event {
        id,
        source: format!("/sluice/{instance}"),
        kind: reaction.kind.to_string(),
        subject: cause.subject.clone(),
        content_type,
        key: cause.key.clone(),
        correlation: Some(cause.correlation.clone().unwrap_or_else(|| cause.id.clone())),
        causation: Some(cause.id.clone()),
        depth: cause.depth + 1,
        trace_context: cause.trace_context.clone(),
        data,
        ..Event::default()
    };
    Some(Follower { topic: reaction.topic.clone(), event })
}

fn word(ending: Ending) -> &'static str {
    match ending {
        Ending::Succeeded => "success",
        Ending::DeadLettered(_) | Ending::Discarded(_) | Ending::Failed(_) => "exhausted",
    }
}

fn data(data: ReactionData, cause: &Event, answer: Option<&Bytes>) -> (Option<String>, Bytes) {
    let json = || Some("application/json".to_owned());
    let answer = || answer.cloned().unwrap_or_default();
    match data {
        ReactionData::Request => (cause.content_type.clone(), cause.data.clone()),
        ReactionData::Response => {
            let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&answer()).is_ok();
            let kind = if is_json { json() } else { Some("application/octet-stream".to_owned()) };
            (kind.filter(|_| !answer().is_empty()), answer())
        }
        ReactionData::Both => {
            let both = serde_json::json!({
                "request": value(&cause.data),
                "response": value(&answer()),
            });
            (json(), both.to_string().into())
        }
        ReactionData::None => (None, Bytes::new()),
    }
}

/// JSON as it is, text as a string, nothing as null.
fn value(bytes: &[u8]) -> serde_json::Value {
    if bytes.is_empty() {
        return serde_json::Value::Null;
    }
    serde_json::from_slice(bytes)
        .unwrap_or_else(|_| serde_json::Value::String(String::from_utf8_lossy(bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::delivery::subscription::Reason;

    fn cause(depth: u8) -> Event {
        Event {
            id: "7".into(),
            source: "/shop".into(),
            kind: "order.created".into(),
            key: Some(Bytes::from_static(b"customer")),
            content_type: Some("application/json".into()),
            depth,
            data: Bytes::from_static(b"{\"n\":1}"),
            ..Event::default()
        }
    }

    fn reaction(data: ReactionData) -> Reaction {
        Reaction { topic: "orders".into(), kind: "order.failed".into(), data }
    }

    fn followed(ending: Ending, data: ReactionData) -> Event {
        let answer = Bytes::from_static(b"ok");
        let follower =
            follow(Uuid::from_u128(1), "shop", &cause(0), ending, Some(&answer), &reaction(data));
        follower.unwrap().event
    }

    #[test]
    fn what_follows_has_one_id_for_one_outcome_and_carries_the_saga_on() {
        let failed = Ending::DeadLettered(Reason::Rejected);
        let event = followed(failed, ReactionData::Request);
        assert_eq!(event, followed(failed, ReactionData::Request));
        assert_eq!(event.id, followed(Ending::Discarded(Reason::Expired), ReactionData::None).id);
        assert_ne!(event.id, followed(Ending::Succeeded, ReactionData::Request).id);
        assert_eq!(event.correlation.as_deref(), Some("7"));
        assert_eq!((event.causation.as_deref(), event.depth), (Some("7"), 1));
        assert_eq!((event.key, event.data), (cause(0).key, cause(0).data));
        assert_eq!(Uuid::parse_str(&event.id).unwrap().get_version_num(), 5);
    }

    #[test]
    fn a_saga_ends_where_it_is_too_deep() {
        let at = |depth| {
            let reaction = reaction(ReactionData::None);
            follow(Uuid::nil(), "", &cause(depth), Ending::Succeeded, None, &reaction)
        };
        assert!(at(DEPTH - 1).is_some());
        assert!(at(DEPTH).is_none());
    }

    #[test]
    fn its_data_is_what_was_asked_for() {
        let response = followed(Ending::Succeeded, ReactionData::Response);
        assert_eq!(response.data, "ok");
        assert_eq!(response.content_type.as_deref(), Some("application/octet-stream"));
        let both = followed(Ending::Succeeded, ReactionData::Both);
        assert_eq!(both.data, r#"{"request":{"n":1},"response":"ok"}"#);
        assert!(followed(Ending::Succeeded, ReactionData::None).data.is_empty());
    }
}
