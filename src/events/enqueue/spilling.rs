//! What may be spilled: a request that was certainly not sent, for want of an upstream. Pure.

use crate::{
    error::{Error, Kind, QueueFault},
    http::{Context, Outcome, Response},
};

/// Whether the request of `cx` may be stored instead of failing with `result`: nothing of it was
/// sent, and the reason is that no upstream took it.
pub(super) fn may_spill(result: &Result<Response, Error>, cx: &Context) -> bool {
    let Err(error) = result else { return false };
    Outcome::of(result, cx) == Outcome::NotSent && is_want_of_upstream(error.kind())
}

/// Whether the client gets the queue's refusal rather than the error of sending. Yes if trying
/// again may help (no room now), if the request may be stored and still be sent, or if its key
/// belongs to a different request. No if the topic would never take it: then the error of sending
/// is the reason.
pub(super) fn is_told(kind: &Kind) -> bool {
    match kind {
        Kind::Queue(fault) => match fault {
            QueueFault::Full(_)
            | QueueFault::Disk(_)
            | QueueFault::Unavailable(_)
            | QueueFault::MaybeStored(_) => true,
            QueueFault::TooLarge
            | QueueFault::KeyMissing
            | QueueFault::OtherInstance
            | QueueFault::StatusGone => false,
        },
        Kind::Idempotency(_) => true,
        _ => false,
    }
}

/// Exhaustive, so that a new kind has to decide.
fn is_want_of_upstream(kind: &Kind) -> bool {
    match kind {
        Kind::RetryBudget(last) => is_want_of_upstream(last),
        Kind::UpstreamNone
        | Kind::UpstreamDns
        | Kind::UpstreamConnect
        | Kind::UpstreamTls
        | Kind::UpstreamReset(_)
        | Kind::UpstreamClosedIdle(_)
        | Kind::UpstreamTimeoutTry(_)
        | Kind::UpstreamTimeoutTotal
        | Kind::BreakerOpen(_)
        | Kind::ConcurrencyFull
        | Kind::ShedOverload => true,
        Kind::RouteNotFound
        | Kind::MethodNotAllowed(_)
        | Kind::BadFraming
        | Kind::BadTarget
        | Kind::HeaderTooLarge
        | Kind::HeaderCount
        | Kind::BodyTooLarge
        | Kind::ClientTimeout
        | Kind::ClientClosed
        | Kind::IpDenied
        | Kind::RateLimited(_)
        | Kind::Auth(_)
        | Kind::AuthDenied(_)
        | Kind::AuthUnavailable
        | Kind::UpstreamBadResponse
        | Kind::FaultInjected(_)
        | Kind::Idempotency(_)
        | Kind::Queue(_)
        | Kind::Draining
        | Kind::Internal => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Method;
    use tokio::time::Instant;

    use super::*;
    use crate::{
        error::{RetryClass, Sent},
        http::{Body, Peer, peer::Address},
    };

    fn attempted() -> Context {
        let peer = Peer::new("web".into(), Address::Unix, Address::Unix);
        let cx = Context::new(Arc::new(peer), Method::POST, http::Version::HTTP_11);
        cx.begin_attempt("a/b".into(), Instant::now());
        cx
    }

    #[test]
    fn only_what_was_not_sent_for_want_of_an_upstream_is_spilled() {
        for kind in Kind::all() {
            let expected = match kind.retry_class() {
                RetryClass::NotSent => true,
                RetryClass::MaybeSeen => false,
                RetryClass::Final => matches!(
                    kind,
                    Kind::UpstreamNone
                        | Kind::UpstreamDns
                        | Kind::BreakerOpen(_)
                        | Kind::ConcurrencyFull
                        | Kind::ShedOverload
                ),
            };
            let told = format!("{kind:?}");
            assert_eq!(may_spill(&Err(kind.into()), &attempted()), expected, "{told}");
        }
        let unsent = Kind::RetryBudget(Box::new(Kind::UpstreamReset(Sent::Nothing)));
        assert!(may_spill(&Err(unsent.into()), &attempted()));
        assert!(!may_spill(&Ok(Response::new(Body::empty())), &attempted()));
    }

    #[test]
    fn what_an_attempt_before_may_have_done_is_not_stored_to_be_done_again() {
        let cx = attempted();
        cx.set_repeated();
        assert!(!may_spill(&Err(Kind::UpstreamConnect.into()), &cx));
    }
}
