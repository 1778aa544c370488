//! What an upstream knows of a request after its exchange: **the never-twice rule** as a type.
//!
//! Pure. There are exactly three answers, and everything that records the outcome of a request
//! (`publish`, `idempotency`, stored requests) uses this one judgement: what may have been seen is
//! never sent again and never treated as not done.

use http::StatusCode;

use crate::{
    error::{Error, Kind, QueueFault, RetryClass},
    http::{Context, Response},
};

/// The outcome of a request as far as its upstream is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not one byte of it reached an upstream: class A, or refused before it was sent.
    NotSent,
    /// It was answered, with this status.
    Answered(StatusCode),
    /// An upstream may have acted on it, or may still be asked to: class B, a timeout, a 502 or 504
    /// from a gateway behind this one, which cannot tell either, or a failure while storing it.
    MaybeSeen,
}

// === impl Outcome ===

impl Outcome {
    /// The outcome of the exchange of `cx`. If it was repeated, an earlier attempt may have been
    /// seen, whatever the outcome of the last.
    pub fn of(result: &Result<Response, Error>, cx: &Context) -> Self {
        match result {
            Ok(response) => Self::of_status(response.status(), cx),
            Err(error) if !cx.was_repeated() && was_not_sent(error.kind(), cx) => Self::NotSent,
            Err(_) => Self::MaybeSeen,
        }
    }

    /// A status that no upstream sent, such as that of `respond`, is taken literally.
    fn of_status(status: StatusCode, cx: &Context) -> Self {
        let is_second_hand =
            matches!(status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT);
        let came_from_upstream = || cx.with_attempts(|attempts| !attempts.is_empty());
        if is_second_hand && came_from_upstream() {
            Self::MaybeSeen
        } else {
            Self::Answered(status)
        }
    }
}

/// Total, so that a new kind needs a decision here.
fn was_not_sent(kind: &Kind, cx: &Context) -> bool {
    match kind {
        Kind::RetryBudget(last) => was_not_sent(last, cx),
        // Waiting for room or for a connection, so nothing can have been written.
        Kind::UpstreamTimeoutTotal => cx.is_connecting() || cx.with_attempts(<[_]>::is_empty),
        // The body was aborted while it was sent, or before.
        Kind::ClientClosed | Kind::ClientTimeout | Kind::BodyTooLarge | Kind::Internal => {
            cx.with_attempts(<[_]>::is_empty)
        }
        Kind::UpstreamConnect
        | Kind::UpstreamTls
        | Kind::UpstreamReset(_)
        | Kind::UpstreamClosedIdle(_)
        | Kind::UpstreamTimeoutTry(_)
        | Kind::UpstreamBadResponse => kind.retry_class() == RetryClass::NotSent,
        // A stored request may still be sent by delivery.
        Kind::Queue(QueueFault::MaybeStored(_)) => false,
        // Refused on the way to an upstream.
        Kind::RouteNotFound
        | Kind::MethodNotAllowed(_)
        | Kind::BadFraming
        | Kind::BadTarget
        | Kind::HeaderTooLarge
        | Kind::HeaderCount
        | Kind::IpDenied
        | Kind::RateLimited(_)
        | Kind::Auth(_)
        | Kind::AuthDenied(_)
        | Kind::AuthUnavailable
        | Kind::ConcurrencyFull
        | Kind::ShedOverload
        | Kind::UpstreamNone
        | Kind::BreakerOpen(_)
        | Kind::UpstreamDns
        | Kind::FaultInjected(_)
        | Kind::Idempotency(_)
        | Kind::Queue(_)
        | Kind::Draining => true,
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use http::Method;
    use tokio::time::Instant;

    use super::*;
    use crate::{
        error::Sent,
        http::{Body, Peer, peer::Address},
    };

    fn cx() -> Context {
        let peer = Peer::new("web".into(), Address::Unix, Address::Unix);
        Context::new(Arc::new(peer), Method::POST, http::Version::HTTP_11)
    }

    /// A context with an attempt in progress.
    fn attempted() -> Context {
        let cx = cx();
        cx.begin_attempt("a/b".into(), Instant::now());
        cx
    }

    fn failed(kind: Kind, cx: &Context) -> Outcome {
        Outcome::of(&Err(kind.into()), cx)
    }

    fn answered(status: u16, cx: &Context) -> Outcome {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        Outcome::of(&Ok(response), cx)
    }

    #[test]
    fn class_a_and_refusals_were_not_sent_and_class_b_may_have_been_seen() {
        for kind in Kind::all() {
            let expected = match kind.retry_class() {
                RetryClass::NotSent => Outcome::NotSent,
                RetryClass::MaybeSeen => Outcome::MaybeSeen,
                RetryClass::Final => match kind {
                    Kind::UpstreamTimeoutTotal
                    | Kind::RetryBudget(_)
                    | Kind::ClientClosed
                    | Kind::ClientTimeout
                    | Kind::BodyTooLarge
                    | Kind::Internal
                    | Kind::Queue(QueueFault::MaybeStored(_)) => Outcome::MaybeSeen,
                    _ => Outcome::NotSent,
                },
            };
            assert_eq!(failed(kind.clone(), &attempted()), expected, "{kind:?}");
        }
    }

    #[test]
    fn what_never_had_a_connection_was_not_sent_however_long_it_took() {
        assert_eq!(failed(Kind::UpstreamTimeoutTotal, &cx()), Outcome::NotSent);
        let connecting = attempted();
        connecting.set_connecting(true);
        assert_eq!(failed(Kind::UpstreamTimeoutTotal, &connecting), Outcome::NotSent);
        let refused = Kind::RetryBudget(Box::new(Kind::UpstreamReset(Sent::Nothing)));
        assert_eq!(failed(refused, &attempted()), Outcome::NotSent);
    }

    #[test]
    fn what_an_attempt_before_may_have_done_the_last_one_does_not_undo() {
        let repeated = attempted();
        repeated.set_repeated();
        repeated.set_connecting(true);
        for kind in
            [Kind::UpstreamConnect, Kind::BreakerOpen(Duration::ZERO), Kind::UpstreamTimeoutTotal]
        {
            assert_eq!(failed(kind, &repeated), Outcome::MaybeSeen);
        }
        assert_eq!(answered(200, &repeated), Outcome::Answered(StatusCode::OK));
    }

    #[test]
    fn a_gateway_behind_this_one_does_not_know_either() {
        for status in [502, 504] {
            assert_eq!(answered(status, &attempted()), Outcome::MaybeSeen);
            assert!(matches!(answered(status, &cx()), Outcome::Answered(_)), "that of `respond`");
        }
        for status in [200, 404, 500, 503] {
            assert!(matches!(answered(status, &attempted()), Outcome::Answered(_)));
        }
    }
}
