//! The closed list of failures and every decision that follows from one.

use std::time::Duration;

use http::{HeaderValue, StatusCode};

use super::{
    auth::{AuthFault, AuthRefusal},
    facts::{Denial, Exceeded, Method405, RetryClass, Sent, Side},
    idempotency::IdempotencyFault,
    queue::QueueFault,
};

/// What happened to a request. The payload is what the answer needs.
#[derive(Clone, Debug)]
pub enum Kind {
    /// No route matches this host, path and predicates.
    RouteNotFound,
    /// Routes match this path, but none with this method.
    MethodNotAllowed(Method405),
    /// The message is ambiguous or malformed; nothing more on this connection can be trusted.
    BadFraming,
    /// The request target cannot be normalised, or contains what the route refuses.
    BadTarget,
    /// The head exceeds `limits.header_bytes`.
    HeaderTooLarge,
    /// More than 100 header fields.
    HeaderCount,
    /// The request body exceeds `limits.body_bytes` or `limits.buffer_bytes`.
    BodyTooLarge,
    /// The client did not send its head or body in time.
    ClientTimeout,
    /// The client disconnected, or aborted its body.
    ClientClosed,
    /// The client's address is not allowed here.
    IpDenied,
    /// A rate limit has no room for this request.
    RateLimited(Exceeded),
    /// The credential is missing or not sufficient.
    Auth(AuthRefusal),
    /// The service of `auth.forward` refused, and this is its answer.
    AuthDenied(Denial),
    /// The service of `auth.forward` did not answer: nobody passes.
    AuthUnavailable,
    /// `max_in_flight` of the route or the upstream is reached, or every h2 stream is taken.
    ConcurrencyFull,
    /// The upstream's adaptive limit is reached, and no place became free in time.
    ShedOverload,
    /// The upstream has no endpoint at all.
    UpstreamNone,
    /// The circuit breakers of all endpoints are open; the first probe is due after this time.
    BreakerOpen(Duration),
    /// No address for an upstream's name, and no recent enough one to continue with.
    UpstreamDns,
    /// No connection to the endpoint: refused, unreachable or not in time.
    UpstreamConnect,
    /// The TLS handshake with the endpoint failed.
    UpstreamTls,
    /// The endpoint aborted the exchange.
    UpstreamReset(Sent),
    /// The endpoint closed a kept-alive connection while the request was written to it.
    UpstreamClosedIdle(Sent),
    /// One attempt took too long, or the response body stalled.
    UpstreamTimeoutTry(Sent),
    /// All attempts together took longer than the route's `timeout`.
    UpstreamTimeoutTotal,
    /// The endpoint answered with something that is not an acceptable HTTP response.
    UpstreamBadResponse,
    /// The failure of an attempt that was not retried because the upstream's budget is used up.
    RetryBudget(Box<Kind>),
    /// The route's `fault` refused it on purpose, with this status.
    FaultInjected(StatusCode),
    /// Refused because of its idempotency key.
    Idempotency(IdempotencyFault),
    /// The event queue cannot provide what the route promises.
    Queue(QueueFault),
    /// The process is draining.
    Draining,
    /// A bug: a panic, or a violated invariant.
    Internal,
}

// === impl Kind ===

impl Kind {
    /// The reason of [`Kind::RetryBudget`], for an answer that is passed on unchanged.
    pub const RETRY_BUDGET: &'static str = "retry-budget";

    /// One of each, for whatever must cover them all: documentation, tests.
    pub fn all() -> Vec<Self> {
        let auth = AuthFault::ALL.map(|fault| Self::Auth(AuthRefusal { fault, challenge: None }));
        let allow = HeaderValue::from_static("GET");
        let mut all = vec![
            Self::RouteNotFound,
            Self::MethodNotAllowed(Method405 { allow }),
            Self::BadFraming,
            Self::BadTarget,
            Self::HeaderTooLarge,
            Self::HeaderCount,
            Self::BodyTooLarge,
            Self::ClientTimeout,
            Self::ClientClosed,
            Self::IpDenied,
            Self::RateLimited(Exceeded {
                retry_after: Duration::from_secs(1),
                policies: Box::default(),
            }),
            Self::AuthDenied(Denial { status: StatusCode::FORBIDDEN, headers: Box::default() }),
            Self::AuthUnavailable,
            Self::ConcurrencyFull,
            Self::ShedOverload,
            Self::UpstreamNone,
            Self::BreakerOpen(Duration::from_secs(1)),
            Self::UpstreamDns,
            Self::UpstreamConnect,
            Self::UpstreamTls,
            Self::UpstreamReset(Sent::MaybeSeen),
            Self::UpstreamClosedIdle(Sent::MaybeSeen),
            Self::UpstreamTimeoutTry(Sent::MaybeSeen),
            Self::UpstreamTimeoutTotal,
            Self::UpstreamBadResponse,
            Self::RetryBudget(Box::new(Self::UpstreamReset(Sent::MaybeSeen))),
            Self::FaultInjected(StatusCode::SERVICE_UNAVAILABLE),
            Self::Draining,
            Self::Internal,
        ];
        all.extend(auth);
        all.extend(IdempotencyFault::ALL.map(Self::Idempotency));
        all.extend(QueueFault::ALL.map(Self::Queue));
        all
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::RouteNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadFraming | Self::BadTarget => StatusCode::BAD_REQUEST,
            Self::HeaderTooLarge | Self::HeaderCount => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::ClientClosed => client_closed_request(),
            Self::IpDenied => StatusCode::FORBIDDEN,
            Self::FaultInjected(status) => *status,
            Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Auth(refusal) => refusal.fault.status(),
            Self::Idempotency(fault) => fault.status(),
            Self::Queue(fault) => fault.status(),
            Self::AuthDenied(denial) => denial.status,
            Self::AuthUnavailable
            | Self::ConcurrencyFull
            | Self::ShedOverload
            | Self::UpstreamNone
            | Self::BreakerOpen(_)
            | Self::UpstreamDns
            | Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamConnect
            | Self::UpstreamTls
            | Self::UpstreamReset(_)
            | Self::UpstreamClosedIdle(_)
            | Self::UpstreamBadResponse => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeoutTry(_) | Self::UpstreamTimeoutTotal => StatusCode::GATEWAY_TIMEOUT,
            Self::RetryBudget(last) => last.status(),
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The reason word in log, metric, `Proxy-Status` and problem body (semantics 12).
    pub fn reason(&self) -> &'static str {
        match self {
            Self::RouteNotFound => "route-none",
            Self::MethodNotAllowed(_) => "method-not-allowed",
            Self::BadFraming => "bad-framing",
            Self::BadTarget => "bad-target",
            Self::HeaderTooLarge => "header-too-large",
            Self::HeaderCount => "header-count",
            Self::BodyTooLarge => "body-too-large",
            Self::ClientTimeout => "client-timeout",
            Self::ClientClosed => "client-closed",
            Self::IpDenied => "ip-denied",
            Self::RateLimited(_) => "rate-limited",
            Self::Auth(refusal) => refusal.fault.reason(),
            Self::Idempotency(fault) => fault.reason(),
            Self::Queue(fault) => fault.reason(),
            Self::AuthDenied(_) => "auth-denied",
            Self::AuthUnavailable => "auth-unavailable",
            Self::ConcurrencyFull => "concurrency-full",
            Self::ShedOverload => "shed-overload",
            Self::UpstreamNone => "upstream-none",
            Self::BreakerOpen(_) => "breaker-open",
            Self::UpstreamDns => "upstream-dns",
            Self::UpstreamConnect => "upstream-connect",
            Self::UpstreamTls => "upstream-tls",
            Self::UpstreamReset(_) => "upstream-reset",
            Self::UpstreamClosedIdle(_) => "upstream-closed-idle",
            Self::UpstreamTimeoutTry(_) => "upstream-timeout-try",
            Self::UpstreamTimeoutTotal => "upstream-timeout-total",
            Self::UpstreamBadResponse => "upstream-bad-response",
            Self::RetryBudget(_) => Self::RETRY_BUDGET,
            Self::FaultInjected(_) => "fault-injected",
            Self::Draining => "draining",
            Self::Internal => "internal",
        }
    }

    /// One sentence for the client: what happened, and what to do about it.
    pub fn title(&self) -> &'static str {
        match self {
            Self::RouteNotFound => "No route takes this request.",
            Self::MethodNotAllowed(_) => "This resource does not take this method.",
            Self::BadFraming => "The request is malformed or ambiguous.",
            Self::BadTarget => {
                "The request target is malformed, or contains something that this route refuses."
            }
            Self::HeaderTooLarge => "The request head is too large.",
            Self::HeaderCount => "The request has too many header fields.",
            Self::BodyTooLarge => "The request body is too large.",
            Self::ClientTimeout => "The request did not arrive in time.",
            Self::ClientClosed => "The client closed the request.",
            Self::IpDenied => "This client address is not allowed here.",
            Self::RateLimited(_) => {
                "The rate limit for these requests is used up; try again later."
            }
            Self::Auth(refusal) => refusal.fault.title(),
            Self::Idempotency(fault) => fault.title(),
            Self::Queue(fault) => fault.title(),
            Self::AuthDenied(_) => "This request was not allowed.",
            Self::AuthUnavailable => "Authorization cannot be decided at the moment; try again.",
            Self::ConcurrencyFull => "Too many requests are in flight; try again shortly.",
            Self::ShedOverload => "The service is overloaded; try again shortly.",
            Self::UpstreamNone => "No service is configured behind this route.",
            Self::BreakerOpen(_) => "The service is failing; try again shortly.",
            Self::UpstreamDns => "The service's name does not resolve at the moment.",
            Self::UpstreamConnect => "The service cannot be reached.",
            Self::UpstreamTls => "No secure connection to the service could be made.",
            Self::UpstreamReset(_) => "The service broke off the exchange.",
            Self::UpstreamClosedIdle(_) => "The service closed the connection before it answered.",
            Self::UpstreamTimeoutTry(_) | Self::UpstreamTimeoutTotal => {
                "The service did not answer in time."
            }
            Self::UpstreamBadResponse => "The service sent an invalid response.",
            Self::RetryBudget(last) => last.title(),
            Self::FaultInjected(_) => "This request was made to fail on purpose.",
            Self::Draining => "The gateway is shutting down; try again.",
            Self::Internal => "The gateway failed to handle this request.",
        }
    }

    /// Who is responsible.
    pub fn side(&self) -> Side {
        match self {
            Self::RouteNotFound
            | Self::MethodNotAllowed(_)
            | Self::BadFraming
            | Self::BadTarget
            | Self::HeaderTooLarge
            | Self::HeaderCount
            | Self::BodyTooLarge
            | Self::ClientTimeout
            | Self::ClientClosed
            | Self::IpDenied
            | Self::RateLimited(_)
            | Self::AuthDenied(_)
            | Self::Idempotency(_) => Side::Downstream,
            Self::Auth(refusal) => refusal.fault.side(),
            Self::Queue(fault) => fault.side(),
            Self::AuthUnavailable
            | Self::ConcurrencyFull
            | Self::ShedOverload
            | Self::UpstreamNone
            | Self::FaultInjected(_)
            | Self::BreakerOpen(_)
            | Self::Draining
            | Self::Internal => Side::Gateway,
            Self::UpstreamDns
            | Self::UpstreamConnect
            | Self::UpstreamTls
            | Self::UpstreamReset(_)
            | Self::UpstreamClosedIdle(_)
            | Self::UpstreamTimeoutTry(_)
            | Self::UpstreamTimeoutTotal
            | Self::UpstreamBadResponse => Side::Upstream,
            Self::RetryBudget(last) => last.side(),
        }
    }

    /// How the retry rules classify it.
    pub fn retry_class(&self) -> RetryClass {
        match self {
            Self::UpstreamConnect
            | Self::UpstreamTls
            | Self::UpstreamReset(Sent::Nothing)
            | Self::UpstreamClosedIdle(Sent::Nothing)
            | Self::UpstreamTimeoutTry(Sent::Nothing) => RetryClass::NotSent,
            Self::UpstreamReset(Sent::MaybeSeen)
            | Self::UpstreamClosedIdle(Sent::MaybeSeen)
            | Self::UpstreamTimeoutTry(Sent::MaybeSeen)
            | Self::UpstreamBadResponse => RetryClass::MaybeSeen,
            Self::RouteNotFound
            | Self::MethodNotAllowed(_)
            | Self::BadFraming
            | Self::BadTarget
            | Self::HeaderTooLarge
            | Self::HeaderCount
            | Self::BodyTooLarge
            | Self::ClientTimeout
            | Self::ClientClosed
            | Self::IpDenied
            | Self::RateLimited(_)
            | Self::Auth(_)
            | Self::AuthDenied(_)
            | Self::AuthUnavailable
            | Self::ConcurrencyFull
            | Self::ShedOverload
            | Self::UpstreamNone
            | Self::BreakerOpen(_)
            | Self::UpstreamDns
            | Self::UpstreamTimeoutTotal
            | Self::RetryBudget(_)
            | Self::FaultInjected(_)
            | Self::Idempotency(_)
            | Self::Queue(_)
            | Self::Draining
            | Self::Internal => RetryClass::Final,
        }
    }

    /// When the client should retry, for refusals that pass.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited(exceeded) => Some(exceeded.retry_after),
            Self::BreakerOpen(after) => Some(*after),
            Self::Auth(refusal) => refusal.fault.retry_after(),
            Self::Idempotency(fault) => fault.retry_after(),
            Self::Queue(fault) => fault.retry_after(),
            Self::AuthUnavailable
            | Self::ConcurrencyFull
            | Self::ShedOverload
            | Self::UpstreamNone
            | Self::UpstreamDns
            | Self::Draining => Some(Duration::from_secs(1)),
            Self::RouteNotFound
            | Self::MethodNotAllowed(_)
            | Self::BadFraming
            | Self::BadTarget
            | Self::HeaderTooLarge
            | Self::HeaderCount
            | Self::BodyTooLarge
            | Self::ClientTimeout
            | Self::ClientClosed
            | Self::IpDenied
            | Self::AuthDenied(_)
            | Self::UpstreamConnect
            | Self::UpstreamTls
            | Self::UpstreamReset(_)
            | Self::UpstreamClosedIdle(_)
            | Self::UpstreamTimeoutTry(_)
            | Self::UpstreamTimeoutTotal
            | Self::UpstreamBadResponse
            | Self::FaultInjected(_)
            | Self::Internal => None,
            Self::RetryBudget(last) => last.retry_after(),
        }
    }

    /// Whether the h1 connection must not be reused after the answer: the start of the next message
    /// is uncertain, the client was too slow, or the process is draining.
    pub fn closes_connection(&self) -> bool {
        matches!(
            self,
            Self::BadFraming
                | Self::HeaderTooLarge
                | Self::HeaderCount
                | Self::BodyTooLarge
                | Self::ClientTimeout
                | Self::Draining
        )
    }
}

/// 499, as in nginx for requests whose client left. Only logs and metrics see it.
fn client_closed_request() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}
