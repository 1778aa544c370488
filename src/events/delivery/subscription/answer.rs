//! Maps every answer of an endpoint to what is done about it. Pure.

use super::ending::{FailureKind, Reason};

/// Minimum wait after an endpoint refuses for lack of permission or of the resource.
const PATIENCE: u64 = 60_000;
/// A longer Retry-After is cut to this.
const LONGEST_WAIT: u64 = 3_600_000;

/// How a push ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing reached the endpoint: DNS, connection or TLS failed.
    NotSent,
    /// No answer in time, or an incomplete one.
    Timeout,
    /// An answer.
    Status {
        /// Its status.
        status: u16,
        /// Its Retry-After, in milliseconds.
        retry_after: Option<u64>,
    },
    /// The request may have had its effect and must not be sent again.
    MaybeSeen,
    /// As [`Answer::MaybeSeen`], for an earlier attempt: nothing was sent or answered now.
    SeenBefore,
    /// Larger than the endpoint accepts; nothing was sent.
    TooLarge,
    /// It cannot be sent to this endpoint.
    Unfit,
    /// The final answer to a stored request, whatever it says.
    Final {
        /// Whether the request was done.
        is_success: bool,
    },
}

/// What is done about an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Settled,
    /// Settled, and nothing follows.
    Failed,
    /// Retry by the schedule, but not within `apart` of this attempt.
    Retry {
        kind: FailureKind,
        counts: bool,
        apart: u64,
    },
    /// The endpoint asked to wait; `None` if it did not say how long.
    Wait(Option<u64>),
    /// One more attempt.
    Refused,
    Disable,
    Dead(Reason),
    /// Dead, because of an earlier attempt.
    Left,
}

// === impl Answer ===

impl Answer {
    /// The status, if there was an answer.
    pub(super) fn status(self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(status),
            _ => None,
        }
    }

    pub(super) fn verdict(self) -> Verdict {
        let retry = |kind, counts, apart| Verdict::Retry { kind, counts, apart };
        match self {
            Self::NotSent => retry(FailureKind::NotSent, false, 0),
            Self::Timeout => retry(FailureKind::Timeout, true, 0),
            Self::MaybeSeen => Verdict::Dead(Reason::MaybeSeen),
            Self::SeenBefore => Verdict::Left,
            Self::TooLarge => Verdict::Dead(Reason::TooLarge),
            Self::Unfit => Verdict::Dead(Reason::Rejected),
            Self::Final { is_success: true } => Verdict::Settled,
            Self::Final { is_success: false } => Verdict::Failed,
            Self::Status { status, retry_after } => match (status, retry_after) {
                (200..=299, _) => Verdict::Settled,
                (429 | 503, Some(wait)) => Verdict::Wait(Some(wait.min(LONGEST_WAIT))),
                (429, None) => Verdict::Wait(None),
                (401 | 403..=405, _) => retry(FailureKind::Status, true, PATIENCE),
                (410, _) => Verdict::Disable,
                (400 | 413 | 415 | 422, _) => Verdict::Refused,
                _ => retry(FailureKind::Status, true, 0),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, retry_after: Option<u64>) -> Verdict {
        Answer::Status { status, retry_after }.verdict()
    }

    #[test]
    fn the_table_is_as_specified() {
        let counts = |apart| Verdict::Retry { kind: FailureKind::Status, counts: true, apart };
        for code in 200..=299 {
            assert_eq!(status(code, None), Verdict::Settled);
        }
        assert_eq!(
            Answer::NotSent.verdict(),
            Verdict::Retry { kind: FailureKind::NotSent, counts: false, apart: 0 }
        );
        assert_eq!(status(429, Some(2_000)), Verdict::Wait(Some(2_000)));
        assert_eq!(status(503, Some(2_000)), Verdict::Wait(Some(2_000)));
        assert_eq!(status(503, Some(u64::MAX)), Verdict::Wait(Some(3_600_000)));
        assert_eq!(status(429, None), Verdict::Wait(None));
        for code in [500, 502, 503, 504, 599, 408, 425, 301, 302, 307, 308, 100, 402, 406, 409, 451]
        {
            assert_eq!(status(code, None), counts(0), "{code}");
        }
        assert_eq!(
            Answer::Timeout.verdict(),
            Verdict::Retry { kind: FailureKind::Timeout, counts: true, apart: 0 }
        );
        for code in [401, 403, 404, 405] {
            assert_eq!(status(code, None), counts(60_000), "{code}");
        }
        assert_eq!(status(410, None), Verdict::Disable);
        for code in [400, 413, 415, 422] {
            assert_eq!(status(code, None), Verdict::Refused, "{code}");
        }
        assert_eq!(Answer::MaybeSeen.verdict(), Verdict::Dead(Reason::MaybeSeen));
        assert_eq!(Answer::SeenBefore.verdict(), Verdict::Left);
        assert_eq!(Answer::TooLarge.verdict(), Verdict::Dead(Reason::TooLarge));
        assert_eq!(Answer::Unfit.verdict(), Verdict::Dead(Reason::Rejected));
        assert_eq!(Answer::Final { is_success: true }.verdict(), Verdict::Settled);
        assert_eq!(Answer::Final { is_success: false }.verdict(), Verdict::Failed);
    }
}
