//! Builds the request to send from a stored one, and judges its answer by the never-twice rule.
//! Pure.
//!
//! | Ending | Unsafe | May be seen twice |
//! |---|---|---|
//! | not one byte was sent (class A) | again, does not count | the same |
//! | 429; 503 with Retry-After | again when the upstream says; does not count | the same |
//! | it may have been seen: class B, no answer in time, half of one; 502, 504 | `uncertain`, never again | again by the schedule, counts |
//! | any other answer | final: 2xx and 3xx `succeeded`, else `failed` | the same |
//!
//! A safe or idempotent method may be seen twice, and any request whose route says that its upstream honours
//! the key (`redeliver`).

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_LENGTH, RETRY_AFTER, SET_COOKIE, TRANSFER_ENCODING},
};

use super::{
    answer::{Heard, beginning, millis},
    parcel::Addressed,
};
use crate::{
    events::{
        delivery::subscription::Answer,
        request::{State, StoredRequest},
    },
    http::{
        idempotency::StoredAnswer,
        retry_after,
        sink::{Ending, Parcel, Reply, Target},
    },
    telemetry::tracing::{
        Origin,
        propagation::{TRACEPARENT, TraceParent},
    },
};

/// The wait after a 503 whose Retry-After cannot be parsed, in milliseconds.
const UNREADABLE: u64 = 1_000;
/// A longer body is not carried by the event that follows.
const MAX_FOLLOWING: usize = 64 << 10;
/// Bytes kept of an answer's fields.
const MAX_FIELD_BYTES: usize = 24 << 10;

/// The judgement of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// For the subscription.
    pub heard: Heard,
    /// How the request has ended; `None` if it has not.
    pub end: Option<(State, Option<StoredAnswer>)>,
}

/// Judges the end of an attempt at `now`.
pub fn judge(ending: Ending, may_repeat: bool, now: SystemTime) -> Judged {
    match ending {
        Ending::NotSent(why) => again(Answer::NotSent, Some(why)),
        Ending::MaybeSeen(why) => maybe_seen(Answer::Timeout, may_repeat, Some(why)),
        Ending::Answered(reply) => judge_reply(reply, may_repeat, now),
    }
}

fn judge_reply(reply: Reply, may_repeat: bool, now: SystemTime) -> Judged {
    let said = beginning(&reply);
    let wait = reply.headers.get(RETRY_AFTER);
    let wait = wait.map(|value| retry_after(value, now).map_or(UNREADABLE, millis));
    let status = reply.status.as_u16();
    let answer = Answer::Status { status, retry_after: wait };
    match reply.status {
        StatusCode::TOO_MANY_REQUESTS => again(answer, said),
        StatusCode::SERVICE_UNAVAILABLE if wait.is_some() => again(answer, said),
        // Some gateway behind this one answered, and does not know either.
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
            let answer = Answer::Status { status, retry_after: None };
            maybe_seen(answer, may_repeat, said)
        }
        status => {
            let is_success = status.is_success() || status.is_redirection();
            let state = if is_success { State::Succeeded } else { State::Failed };
            let body = reply.is_whole.then_some(reply.body);
            let follows = body.clone().filter(|body| body.len() <= MAX_FOLLOWING);
            let heard = Heard { answer: Answer::Final { is_success }, said, body: follows };
            let answer = StoredAnswer { status, headers: kept(&reply.headers), body };
            Judged { heard, end: Some((state, Some(answer))) }
        }
    }
}

fn again(answer: Answer, said: Option<Box<str>>) -> Judged {
    Judged { heard: Heard { answer, said, body: None }, end: None }
}

fn maybe_seen(answer: Answer, may_repeat: bool, said: Option<Box<str>>) -> Judged {
    if may_repeat {
        return again(answer, said);
    }
    let heard = Heard { answer: Answer::MaybeSeen, said, body: None };
    Judged { heard, end: Some((State::Uncertain, None)) }
}

/// What the subscription is told of a request that had already ended.
pub fn ended(state: State) -> Heard {
    let answer = match state {
        State::Succeeded => Answer::Final { is_success: true },
        State::Failed => Answer::Final { is_success: false },
        State::Queued | State::Running | State::Uncertain | State::DeadLettered => {
            Answer::SeenBefore
        }
    };
    Heard { answer, said: None, body: None }
}

/// The fields of an answer that are kept: without framing and cookies, and only as many as fit.
fn kept(headers: &HeaderMap) -> HeaderMap {
    let mut bytes = 0;
    let is_kept = |(name, value): &(&HeaderName, &HeaderValue)| {
        bytes += name.as_str().len() + value.len() + 8;
        let is_left_out = [&CONTENT_LENGTH, &TRANSFER_ENCODING, &SET_COOKIE].contains(name);
        bytes <= MAX_FIELD_BYTES && !is_left_out
    };
    let kept = headers.iter().filter(is_kept);
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The request to send to `upstream`. `id`: its request ID.
pub fn errand(
    mut request: StoredRequest,
    id: &str,
    (upstream, timeout): (Arc<str>, Duration),
    addressed: Addressed,
) -> Parcel {
    request.put_key(id);
    let context = request.headers.get(TRACEPARENT);
    let context = context.and_then(|context| TraceParent::parse(context.as_bytes()));
    let origin = context.is_none_or(|it| it.is_sampled()).then(|| {
        Box::new(Origin {
            context,
            topic: addressed.topic,
            partition: addressed.place.partition.number,
            subscription: addressed.subscription.clone(),
            // Not the request ID: whoever knows that may ask for the status.
            id: request.event_id().into(),
            bytes: request.body.len(),
            attempt: addressed.attempt,
        })
    });
    Parcel {
        target: Target::Upstream { name: upstream, target: request.target },
        subscription: addressed.subscription,
        origin,
        method: request.method,
        headers: request.headers,
        body: request.body,
        timeout,
        max_answer: addressed.max_answer,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn answered(status: u16, after: Option<&'static str>, may_repeat: bool) -> Judged {
        let mut headers = HeaderMap::new();
        if let Some(after) = after {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(after));
        }
        let status = StatusCode::from_u16(status).unwrap();
        let body = Bytes::from_static(b"said");
        let reply = Reply { status, headers, body, is_whole: true };
        judge(Ending::Answered(reply), may_repeat, SystemTime::UNIX_EPOCH)
    }

    fn state(judged: &Judged) -> Option<State> {
        judged.end.as_ref().map(|end| end.0)
    }

    #[test]
    fn only_what_was_not_seen_is_sent_again() {
        let again = |judged: Judged, answer| {
            assert_eq!((judged.heard.answer, judged.end), (answer, None));
        };
        let status = |status, retry_after| Answer::Status { status, retry_after };
        let not_sent = || Ending::NotSent("refused".into());
        for may_repeat in [false, true] {
            again(judge(not_sent(), may_repeat, SystemTime::UNIX_EPOCH), Answer::NotSent);
            again(answered(429, None, may_repeat), status(429, None));
            again(answered(429, Some("2"), may_repeat), status(429, Some(2_000)));
            again(answered(503, Some("2"), may_repeat), status(503, Some(2_000)));
            again(answered(503, Some("soon"), may_repeat), status(503, Some(1_000)));
        }
    }

    #[test]
    fn what_may_have_been_seen_is_uncertain_unless_it_does_no_harm() {
        let silence =
            |may_repeat| judge(Ending::MaybeSeen("cut".into()), may_repeat, SystemTime::UNIX_EPOCH);
        for judged in [silence(false), answered(502, Some("2"), false), answered(504, None, false)]
        {
            assert_eq!(judged.heard.answer, Answer::MaybeSeen);
            assert_eq!(judged.end, Some((State::Uncertain, None)));
        }
        assert_eq!((silence(true).heard.answer, silence(true).end), (Answer::Timeout, None));
        for status in [502, 504] {
            let judged = answered(status, Some("2"), true);
            let expected = Answer::Status { status, retry_after: None };
            assert_eq!((judged.heard.answer, judged.end), (expected, None));
        }
    }

    #[test]
    fn any_other_answer_is_final() {
        for status in (200..600).filter(|status| ![429, 502, 504].contains(status)) {
            for may_repeat in [false, true] {
                let judged = answered(status, None, may_repeat);
                let is_success = status < 400;
                let expected = if is_success { State::Succeeded } else { State::Failed };
                assert_eq!(judged.heard.answer, Answer::Final { is_success }, "{status}");
                assert_eq!(state(&judged), Some(expected), "{status}");
                let answer = judged.end.unwrap().1.unwrap();
                assert_eq!(
                    (answer.status.as_u16(), &answer.body.unwrap()[..]),
                    (status, &b"said"[..])
                );
            }
        }
    }

    #[test]
    fn what_is_kept_of_an_answer_is_bounded_and_has_no_credentials() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("content-type", "a"), ("set-cookie", "b"), ("content-length", "4"), ("x-made", "c")]
        {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let reply = |headers, is_whole| Reply {
            status: StatusCode::OK,
            headers,
            body: Bytes::from_static(b"said"),
            is_whole,
        };
        let answer = |reply| {
            judge(Ending::Answered(reply), false, SystemTime::UNIX_EPOCH).end.unwrap().1.unwrap()
        };
        let short = answer(reply(headers, true));
        let names: Vec<_> = short.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!((names, short.body.is_some()), (vec!["content-type", "x-made"], true));
        let mut long = HeaderMap::new();
        for _ in 0..100 {
            long.append("x-long", HeaderValue::from_str(&"x".repeat(1_000)).unwrap());
        }
        let cut = answer(reply(long, false));
        assert!((1..30).contains(&cut.headers.len()));
        assert_eq!(cut.body, None, "a part of a body is none");
    }

    #[test]
    fn what_had_ended_is_heard_of_as_it_ended() {
        for (state, answer) in [
            (State::Succeeded, Answer::Final { is_success: true }),
            (State::Failed, Answer::Final { is_success: false }),
            (State::Uncertain, Answer::SeenBefore),
        ] {
            assert_eq!(ended(state).answer, answer);
        }
    }
}
