//! Translates the end of a delivery into the subscription's terms.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header;

use crate::{
    events::delivery::subscription::{Answer, Failure},
    http::{
        retry_after,
        sink::{Ending, Reply},
    },
};

/// The end of a delivery, for the subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// How it ended.
    pub answer: Answer,
    /// For people: the beginning of the answer's text, or why there is none.
    pub said: Option<Box<str>>,
    /// The body of a complete answer.
    pub body: Option<Bytes>,
}

/// Judges the end of an event's delivery at `now`. Events may be delivered twice, so one that may
/// have been seen is simply tried again.
pub fn hear(ending: Ending, now: SystemTime) -> Heard {
    match ending {
        Ending::NotSent(why) => Heard { answer: Answer::NotSent, said: Some(why), body: None },
        Ending::MaybeSeen(why) => Heard { answer: Answer::Timeout, said: Some(why), body: None },
        Ending::Answered(reply) => {
            let wait = reply.headers.get(header::RETRY_AFTER);
            let wait = wait.and_then(|value| retry_after(value, now)).map(millis);
            let answer = Answer::Status { status: reply.status.as_u16(), retry_after: wait };
            let said = beginning(&reply);
            Heard { answer, said, body: reply.is_whole.then_some(reply.body) }
        }
    }
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The beginning of an answer, if it is text.
pub(super) fn beginning(reply: &Reply) -> Option<Box<str>> {
    // The last character may be cut in two.
    let bytes = &reply.body[..reply.body.len().min(Failure::SNIPPET + 3)];
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return None,
    };
    let text = text.trim();
    (!text.is_empty()).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, StatusCode};

    use super::*;

    fn answered(status: u16, after: Option<&'static str>, body: &'static [u8]) -> Heard {
        let mut headers = HeaderMap::new();
        if let Some(after) = after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(after));
        }
        let status = StatusCode::from_u16(status).unwrap();
        let body = Bytes::from_static(body);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        hear(Ending::Answered(Reply { status, headers, body, is_whole: true }), now)
    }

    #[test]
    fn a_status_comes_with_the_wait_it_asks_for() {
        let status = |status, retry_after| Answer::Status { status, retry_after };
        assert_eq!(answered(200, None, b"").answer, status(200, None));
        assert_eq!(answered(429, Some("2"), b"").answer, status(429, Some(2_000)));
        assert_eq!(answered(503, Some("soon"), b"").answer, status(503, None));
        let date = Some("Sun, 06 Nov 1994 08:49:47 GMT");
        assert_eq!(answered(503, date, b"").answer, status(503, Some(10_000)));
    }

    #[test]
    fn without_an_answer_it_matters_whether_something_left() {
        let why = || "refused".into();
        let heard = |ending| hear(ending, SystemTime::UNIX_EPOCH);
        assert_eq!(heard(Ending::NotSent(why())).answer, Answer::NotSent);
        let seen = heard(Ending::MaybeSeen(why()));
        assert_eq!((seen.answer, seen.said.as_deref()), (Answer::Timeout, Some("refused")));
    }

    #[test]
    fn what_is_told_of_an_answer_is_text() {
        let said = |body| answered(500, None, body).said;
        assert_eq!(said(b" no such customer\n").as_deref(), Some("no such customer"));
        assert_eq!(said(b"  "), None);
        assert_eq!(said(b"\xff\xfe"), None);
        assert!(said(&[b'x'; 200]).is_some_and(|said| said.len() >= Failure::SNIPPET));
        assert_eq!(said("€".as_bytes()).as_deref(), Some("€"));
        assert_eq!(said(b"cut \xe2\x82").as_deref(), Some("cut"));
    }
}
