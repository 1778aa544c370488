//! THE order of the layers, outermost first, with one reason per line.
//!
//! Every layer is always there, with nothing inside where a route does not use it. So all routes
//! have one stack type, nothing is boxed, and what a route does is data.

use std::sync::Arc;

use tower::ServiceBuilder;

use crate::{
    events::{
        enqueue::{Enqueue, EnqueueLayer, Enqueuer, RequestStatus, RequestStatusLayer},
        publish::{Publish, PublishLayer, Publisher},
    },
    http::{held::HeldBodies, idempotency::IdempotencyStore},
    middleware::{
        access_log::{AccessLog, AccessLogLayer},
        action::{self, Action, ActionLayer},
        adaptive::{Adaptive, AdaptiveLayer},
        auth::{Auth, AuthLayer, claims::Members},
        body_limit::{self, BodyLimit, BodyLimitLayer},
        buffer::{self, Buffer, BufferLayer},
        catch_panic::{CatchPanic, CatchPanicLayer},
        concurrency_limit::{self, ConcurrencyLimit, ConcurrencyLimitLayer},
        cors::{self, Cors, CorsLayer},
        edge::{Edge, EdgeLayer},
        fault::{self, Fault, FaultLayer},
        headers::{self, Headers, HeadersLayer},
        idempotency::{self, Idempotency, IdempotencyLayer},
        ip_filter::{self, IpFilter, IpFilterLayer},
        mirror::{Copier, Mirror, MirrorLayer},
        on_heap::{OnHeap, OnHeapLayer},
        rate_limit::{RateLimit, RateLimitLayer},
        request_id::{RequestId, RequestIdLayer},
        respond::{Respond, RespondLayer},
        retry::{Retry, RetryLayer},
        timeout::{self, AttemptTimeoutLayer, Timeout, TotalTimeoutLayer},
    },
    telemetry::in_flight::Counter,
};

/// What every request passes, around routing.
pub type EveryRequest<R> = RequestId<AccessLog<CatchPanic<Respond<Edge<R>>>>>;

/// What the requests of one route pass, around the balancer.
pub type EachRoute<B> =
    IpFilter<Cors<BodyLimit<ConcurrencyLimit<RateLimit<Auth<Members<AfterAuth<ToUpstream<B>>>>>>>>>;

/// What follows once the client is authenticated.
pub type AfterAuth<U> = RateLimit<RequestStatus<Buffer<Idempotency<Publish<Action<U>>>>>>;

/// The part of a route that only requests for an upstream reach.
pub type ToUpstream<B> =
    Fault<Mirror<Copies<B>, Headers<Enqueue<OnHeap<Timeout<Retry<Timeout<Adaptive<B>>>>>>>>>;

/// What the copies that `mirror` makes pass.
pub type Copies<B> = Headers<Timeout<B>>;

/// The settings of one route's layers up to `auth`, in the order of the stack. The same for all
/// members of a claims group.
#[derive(Debug)]
pub struct RouteSettings {
    /// `allow_ips`, `deny_ips`.
    pub ip_filter: Option<ip_filter::Settings>,
    /// `cors`.
    pub cors: Option<cors::Settings>,
    /// `limits`.
    pub body_limit: body_limit::Settings,
    /// `max_in_flight`, and its counter, shared by all workers and kept over reloads.
    pub concurrency_limit: Option<(concurrency_limit::Settings, Counter)>,
    /// `rate_limit`, for keys that every request has.
    pub rate_limit_by_address: RateLimitLayer,
    /// `auth`.
    pub auth: AuthLayer,
}

/// The settings of one route's layers behind `auth`, in the order of the stack.
#[derive(Debug)]
pub struct MemberSettings {
    /// `rate_limit`, for keys that need a principal.
    pub rate_limit_by_principal: RateLimitLayer,
    /// Whether the whole body is read first.
    pub buffer: (buffer::Settings, HeldBodies),
    /// Whether requests with a key are done only once, and who remembers the keys.
    pub idempotency: Option<(idempotency::Settings, Arc<str>, Arc<dyn IdempotencyStore>)>,
    /// What its requests publish.
    pub publish: Option<Arc<Publisher>>,
    /// Whether its requests are stored, always or if they could not be sent.
    pub enqueue: Option<Arc<Enqueuer>>,
    /// What the route does with a request.
    pub action: action::Settings,
    /// `fault`.
    pub fault: Option<fault::Settings>,
    /// Header changes and rewrite.
    pub headers: headers::Settings,
    /// `merge_slashes`.
    pub merge_slashes: bool,
    /// Deadlines.
    pub timeout: timeout::Settings,
    /// `retry`, and the budgets that retries draw from.
    pub retry: RetryLayer,
    /// The adaptive limits of its upstreams, in their order.
    pub adaptive: AdaptiveLayer,
}

/// The layers of every request around `routing`.
pub fn every_request<R>(
    request_id: RequestIdLayer,
    access_log: AccessLogLayer,
    edge: EdgeLayer,
    routing: R,
) -> EveryRequest<R> {
    ServiceBuilder::new()
        .layer(request_id) // first: whatever happens below can be found by its ID
        .layer(access_log) // sees the final status and the end of the body, also after a panic
        .layer(CatchPanicLayer) // as far out as a response can still be made
        .layer(RespondLayer) // below here a failure is an `Error`, above it nothing fails
        .layer(edge) // nothing below sees an ambiguous message or a claim of identity
        .service(routing)
}

/// The steps of a mirrored request: those of a request, without those that answer, wait or retry.
pub fn copies<B>(
    headers: headers::Settings,
    merge_slashes: bool,
    timeout: timeout::Settings,
    balance: B,
) -> Copies<B> {
    ServiceBuilder::new()
        .layer(HeadersLayer::new(headers, merge_slashes)) // what the upstream sees, its copy sees
        .layer(TotalTimeoutLayer::new(timeout)) // a hanging endpoint is blamed for it
        .service(balance)
}

/// The layers of one route, or of the members of a claims group, around what follows `auth`.
pub fn each_route<B>(
    route: RouteSettings,
    members: Members<AfterAuth<ToUpstream<B>>>,
) -> EachRoute<B> {
    ServiceBuilder::new()
        .layer(IpFilterLayer::new(route.ip_filter)) // cheapest refusal, before anything is read
        .layer(CorsLayer::new(route.cors)) // before auth: a preflight has no credentials
        .layer(BodyLimitLayer::new(&route.body_limit)) // a declared length is refused unread
        .layer(ConcurrencyLimitLayer::new(route.concurrency_limit)) // shed before paying for more
        .layer(route.rate_limit_by_address) // a flood pays for no signature
        .layer(route.auth) // everything below is done on behalf of somebody
        .service(members)
}

/// The layers of one route, behind `auth`, around `balance`.
///
/// `mirror` copies its requests.
pub fn after_auth<B: Clone>(
    route: MemberSettings,
    mirror: Option<Copier<Copies<B>>>,
    balance: B,
) -> AfterAuth<ToUpstream<B>> {
    ServiceBuilder::new()
        .layer(route.rate_limit_by_principal) // by principal, once authenticated
        .layer(RequestStatusLayer::new(route.enqueue.clone())) // whoever may send a request may ask for its status
        .layer(BufferLayer::new(&route.buffer.0, Some(&route.buffer.1))) // the only reader of whole bodies; all layers below share it
        .layer(IdempotencyLayer::new(route.idempotency)) // hashes the body; what was done is not repeated
        .layer(PublishLayer::new(route.publish)) // sees who was admitted, and the outcome
        .layer(ActionLayer::new(route.action, route.merge_slashes)) // answered here, or the upstream is chosen, once
        .layer(FaultLayer::new(route.fault)) // fails only what would have been sent
        .layer(MirrorLayer::new(mirror)) // copies what is sent, with its own changes
        .layer(HeadersLayer::new(route.headers, route.merge_slashes)) // what the upstream sees
        .layer(EnqueueLayer::new(route.enqueue)) // stores what would be sent; outside all attempts: their result decides
        .layer(OnHeapLayer) // the future below is large; each layer above would move it
        .layer(TotalTimeoutLayer::new(route.timeout)) // outside retry: all attempts and waits count
        .layer(route.retry) // resending needs permission
        .layer(AttemptTimeoutLayer::new(route.timeout)) // inside retry: restarts with each attempt
        .layer(route.adaptive) // inside the attempt's deadline: a wait counts
        .service(balance)
}

#[cfg(test)]
mod tests {
    use tower::Service;

    use super::*;
    use crate::{balancer::Balance, http::Request, routing::Router, upstream::Forward};

    type Stack = EveryRequest<Router<EachRoute<Balance<Forward>>>>;

    /// Each layer moves the future below it once; whoever makes it larger should notice.
    #[test]
    fn the_future_of_a_request_stays_small() {
        let size = size_of::<<Stack as Service<Request>>::Future>();
        assert!(size <= 240, "{size}");
    }
}
