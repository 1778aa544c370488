//! Whether a failed attempt may be followed by another. Pure: a total function of what happened.

use crate::error::{Kind, RetryClass};

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same request, once more.
    Again,
    /// The failure is the answer.
    Stop,
}

/// Judges a failure of `kind` after `tried` attempts of at most `attempts`.
///
/// Only class A, whose request never left, is tried again, and that whatever the method: an upstream
/// cannot have acted on what it never got (semantics 4).
pub fn judge(kind: &Kind, tried: u32, attempts: u32) -> Verdict {
    match kind.retry_class() {
        RetryClass::NotSent if tried < attempts => Verdict::Again,
        RetryClass::NotSent | RetryClass::MaybeSeen | RetryClass::Final => Verdict::Stop,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::error::{Method405, Sent};

    #[test]
    fn only_what_was_not_sent_is_tried_again() {
        use Verdict::{Again, Stop};
        let allow = HeaderValue::from_static("GET");
        let table = [
            (Kind::UpstreamConnect, Again),
            (Kind::UpstreamTls, Again),
            (Kind::UpstreamReset(Sent::Nothing), Again),
            (Kind::UpstreamClosedIdle(Sent::Nothing), Again),
            (Kind::UpstreamTimeoutTry(Sent::Nothing), Again),
            (Kind::UpstreamReset(Sent::MaybeSeen), Stop),
            (Kind::UpstreamClosedIdle(Sent::MaybeSeen), Stop),
            (Kind::UpstreamTimeoutTry(Sent::MaybeSeen), Stop),
            (Kind::UpstreamBadResponse, Stop),
            (Kind::UpstreamTimeoutTotal, Stop),
            (Kind::UpstreamNone, Stop),
            (Kind::UpstreamDns, Stop),
            (Kind::RouteNotFound, Stop),
            (Kind::MethodNotAllowed(Method405 { allow }), Stop),
            (Kind::BadFraming, Stop),
            (Kind::BadTarget, Stop),
            (Kind::HeaderTooLarge, Stop),
            (Kind::HeaderCount, Stop),
            (Kind::BodyTooLarge, Stop),
            (Kind::ClientTimeout, Stop),
            (Kind::ClientClosed, Stop),
            (Kind::IpDenied, Stop),
            (Kind::ConcurrencyFull, Stop),
            (Kind::Draining, Stop),
            (Kind::Internal, Stop),
        ];
        for (kind, verdict) in table {
            assert_eq!(judge(&kind, 1, 2), verdict, "{kind:?}");
        }
    }

    #[test]
    fn every_try_counts() {
        let after = |tried, attempts| judge(&Kind::UpstreamConnect, tried, attempts);
        assert_eq!(after(1, 1), Verdict::Stop);
        assert_eq!(after(1, 2), Verdict::Again);
        assert_eq!(after(2, 2), Verdict::Stop);
        assert_eq!(after(2, 3), Verdict::Again);
        assert_eq!(after(3, 3), Verdict::Stop);
    }
}
