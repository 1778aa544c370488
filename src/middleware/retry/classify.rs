//! Whether a failed attempt may be followed by another. Pure: a total function of what happened.

use http::StatusCode;
use smallvec::SmallVec;

use crate::error::{Kind, RetryClass};

/// How an attempt failed, by what the upstream may have seen (semantics 4). Class D, an answer
/// whose first byte has gone downstream, is missing here: by then this layer is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A: not one byte of the request left.
    NotSent,
    /// B: the upstream may have seen it.
    MaybeSeen,
    /// C: it was answered, with a status that is retried.
    Answered,
}

/// `retry.on`: the failures that are retried. Class A always is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct On {
    /// `reset`: all of class B, including the timeout of an attempt.
    pub reset: bool,
    /// The statuses of class C.
    pub statuses: SmallVec<[StatusCode; 4]>,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send the same request once more.
    Again,
    /// Answer with the failure.
    Stop,
}

// === impl Class ===

impl Class {
    /// The class of a failure; `None` if another attempt changes nothing.
    pub fn of_failure(kind: &Kind) -> Option<Self> {
        match kind.retry_class() {
            RetryClass::NotSent => Some(Self::NotSent),
            RetryClass::MaybeSeen => Some(Self::MaybeSeen),
            RetryClass::Final => None,
        }
    }
}

// === impl On ===

impl On {
    /// The rule for a route without `retry`: class A alone.
    pub const NOT_SENT: Self = Self { reset: false, statuses: SmallVec::new_const() };

    /// Whether an answer with this status is a failure. A 429 without `Retry-After` is an answer
    /// like any other.
    pub fn lists(&self, status: StatusCode, has_retry_after: bool) -> bool {
        let is_asked = status != StatusCode::TOO_MANY_REQUESTS || has_retry_after;
        is_asked && self.statuses.contains(&status)
    }
}

impl Default for On {
    fn default() -> Self {
        let statuses =
            [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
        Self { reset: true, statuses: statuses.into_iter().collect() }
    }
}

/// Judges a failure of `class` after `tried` attempts of at most `attempts`.
///
/// Class A is retried whatever the method: an upstream cannot have acted on what it never got.
/// Whether a request of class B or C may be sent again is not decided here: that takes the
/// permission that only its method or its key gives (`resend`).
pub fn judge(on: &On, class: Class, tried: u32, attempts: u32) -> Verdict {
    let is_asked = match class {
        // An answer is of class C only if its status is listed.
        Class::NotSent | Class::Answered => true,
        Class::MaybeSeen => on.reset,
    };
    if is_asked && tried < attempts { Verdict::Again } else { Verdict::Stop }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Sent;

    #[test]
    fn only_what_is_about_an_upstream_has_a_class() {
        use Class::{MaybeSeen, NotSent};
        for kind in Kind::all() {
            let class = match kind {
                Kind::UpstreamConnect | Kind::UpstreamTls => Some(NotSent),
                Kind::UpstreamReset(sent)
                | Kind::UpstreamClosedIdle(sent)
                | Kind::UpstreamTimeoutTry(sent) => {
                    Some(if sent == Sent::Nothing { NotSent } else { MaybeSeen })
                }
                Kind::UpstreamBadResponse => Some(MaybeSeen),
                _ => None,
            };
            assert_eq!(Class::of_failure(&kind), class, "{kind:?}");
        }
        for kind in [Kind::UpstreamReset, Kind::UpstreamClosedIdle, Kind::UpstreamTimeoutTry] {
            assert_eq!(Class::of_failure(&kind(Sent::Nothing)), Some(NotSent));
            assert_eq!(Class::of_failure(&kind(Sent::MaybeSeen)), Some(MaybeSeen));
        }
    }

    #[test]
    fn class_b_is_tried_again_only_where_it_is_asked_for() {
        for class in [Class::NotSent, Class::Answered] {
            assert_eq!(judge(&On::NOT_SENT, class, 1, 2), Verdict::Again);
        }
        assert_eq!(judge(&On::NOT_SENT, Class::MaybeSeen, 1, 2), Verdict::Stop);
        assert_eq!(judge(&On::default(), Class::MaybeSeen, 1, 2), Verdict::Again);
    }

    #[test]
    fn every_try_counts() {
        let after = |tried, attempts| judge(&On::NOT_SENT, Class::NotSent, tried, attempts);
        assert_eq!(after(1, 1), Verdict::Stop);
        assert_eq!(after(1, 2), Verdict::Again);
        assert_eq!(after(2, 2), Verdict::Stop);
        assert_eq!(after(2, 3), Verdict::Again);
        assert_eq!(after(3, 3), Verdict::Stop);
    }

    #[test]
    fn a_429_has_to_say_when_to_come_back() {
        let on =
            On { reset: true, statuses: [StatusCode::TOO_MANY_REQUESTS].into_iter().collect() };
        assert!(on.lists(StatusCode::TOO_MANY_REQUESTS, true));
        assert!(!on.lists(StatusCode::TOO_MANY_REQUESTS, false));
        assert!(!On::default().lists(StatusCode::TOO_MANY_REQUESTS, true), "it is not a default");
        assert!(On::default().lists(StatusCode::SERVICE_UNAVAILABLE, false));
        assert!(!On::default().lists(StatusCode::INTERNAL_SERVER_ERROR, true));
        assert!(!On::NOT_SENT.lists(StatusCode::SERVICE_UNAVAILABLE, true));
    }
}
