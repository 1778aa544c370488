//! Sends deliveries through the same balancers, breakers and connection setup as live traffic, over
//! the delivery thread's own connections. A stored request also takes a place under its upstream's
//! adaptive limit.
//!
//! The only retry here is a single, immediate one of a request that was handed back unsent: a
//! connection that was closed while idle is nobody's failure. The subscription decides the rest.

use std::{collections::HashMap, fmt, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Uri, Version, header, uri::PathAndQuery};
use http_body_util::BodyExt as _;
use parking_lot::RwLock;
use tokio::{
    sync::watch as channel,
    time::{Instant, timeout_at},
};
use tower::{Layer as _, Service as _};

use crate::{
    balancer::Balance,
    config,
    error::{Error, Kind, Result, RetryClass, Sent, Unsent},
    events::settings,
    gateway::build::Plan,
    http::{
        Body, Context, Peer, Request, Response,
        outcome::Outcome,
        peer::Address,
        sink::{End, Ending, Parcel, Reply, Sending, Sink, Target},
    },
    middleware::adaptive::{Adaptive, AdaptiveLayer},
    telemetry::{
        metrics::{Cells, STORED_REQUEST_ENDS},
        task::Spawner,
        tracing::{Delivered, Delivery, Exporter, Tracer, propagation::TRACEPARENT},
    },
    upstream::{Forward, Pools},
};

/// The name of the connection that deliveries appear to come from.
const NAME: &str = "delivery";

/// Sends deliveries. Clones share everything.
#[derive(Clone)]
pub(super) struct Outbox(Arc<Inner>);

struct Inner {
    pools: Arc<Pools>,
    peer: Arc<Peer>,
    ways: RwLock<Arc<Ways>>,
    /// The cells of the delivery thread.
    cells: Cells,
    tracer: RwLock<Option<Arc<Tracer>>>,
}

/// The path to an upstream: its adaptive limit and its balancer.
type Way = Adaptive<Balance<Forward>>;

/// The paths to the targets of subscriptions, by the upstream's name.
#[derive(Clone, Default)]
struct Ways(HashMap<Arc<str>, Way>);

/// The state of one delivery in progress.
struct Exchange {
    balance: Way,
    request: Request,
    deadline: Instant,
    max_answer: usize,
    traced: Option<Traced>,
}

/// Its span.
struct Traced {
    tracer: Arc<Tracer>,
    delivery: Delivery,
    /// The prefix of its endpoints' names.
    upstream: Arc<str>,
}

// === impl Outbox ===

impl Outbox {
    /// Has no paths yet. Its connections belong to the runtime that polls what it sends.
    pub(super) fn new(cells: &Cells) -> Self {
        // No tunnel is ever opened through these.
        let (_, deadline) = channel::channel(None);
        let pools = Pools::new(cells.clone(), Spawner::new(), deadline);
        let peer = Arc::new(Peer::new(NAME.into(), Address::Unix, Address::Unix));
        let (ways, tracer) = (RwLock::default(), RwLock::default());
        Self(Arc::new(Inner { pools, peer, ways, cells: cells.clone(), tracer }))
    }

    /// Adds the paths of `plan`, before subscriptions use it. Existing paths stay: a new one would
    /// take over their connections, and `plan` may still be refused.
    pub(super) fn learn(&self, plan: &Plan) {
        let mut ways = Ways::clone(&self.0.ways.read());
        let new = self.ways(plan, |name| !ways.0.contains_key(name));
        ways.0.extend(new.0);
        *self.0.ways.write() = Arc::new(ways);
    }

    /// Uses only the paths and the tracing of `plan`, once subscriptions use it.
    pub(super) fn follow(&self, plan: &Plan, exporter: &Exporter) {
        let tracing = plan.config.telemetry.tracing.as_ref();
        *self.0.tracer.write() = exporter.tracer(tracing, &self.0.cells).map(Arc::new);
        *self.0.ways.write() = Arc::new(self.ways(plan, |_| true));
        self.0.pools.prune();
    }

    fn ways(&self, plan: &Plan, is_meant: impl Fn(&str) -> bool) -> Ways {
        let subscriptions = plan.config.events.iter().flat_map(|events| &events.subscriptions);
        let pushed = subscriptions.filter_map(|it| it.push.as_ref());
        let way = |push: &settings::Push| {
            let name: Arc<str> = match &push.target {
                settings::Target::Url(url) => config::push_upstream(url).into(),
                settings::Target::Upstream(name) => name.clone(),
            };
            if !is_meant(&name) {
                return None;
            }
            let index = plan.groups.iter().position(|group| *group.name() == name)?;
            let (group, limiter) = (&plan.groups[index], plan.adaptive[index].clone());
            // A webhook is addressed by the name in its URL; a stored request by the host that its
            // route keeps, or else the endpoint's.
            let balance = Balance::new([group.worker(&self.0.pools)], Forward::new(true));
            Some((name, AdaptiveLayer::new([limiter]).layer(balance)))
        };
        Ways(pushed.filter_map(way).collect())
    }

    /// The exchange to run, or why there is none.
    fn pack(&self, parcel: Parcel) -> std::result::Result<Exchange, Box<str>> {
        let deadline = Instant::now() + parcel.timeout;
        let (name, host, target) = match &parcel.target {
            Target::Url(url) => (config::push_upstream(url).into(), host(url), path(url)),
            Target::Upstream { name, target } => (name.clone(), None, target.clone()),
        };
        let ways = self.0.ways.read().clone();
        let balance =
            ways.0.get(&name).cloned().ok_or_else(|| format!("`{name}` is not configured"))?;
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = parcel.method.clone();
        parts.uri = target.into();
        parts.headers = parcel.headers;
        parts.headers.extend(host.map(|host| (header::HOST, host)));
        let tracer = self.0.tracer.read().clone();
        let traced = tracer.zip(parcel.origin).and_then(|(tracer, origin)| {
            let delivery = tracer.deliver(origin)?;
            // A stored request has the field unless its route removes it.
            let is_stored = matches!(parcel.target, Target::Upstream { .. });
            if !is_stored || parts.headers.contains_key(TRACEPARENT) {
                parts.headers.insert(TRACEPARENT, delivery.traceparent());
            }
            Some(Traced { tracer, delivery, upstream: name })
        });
        let cx = Context::new(self.0.peer.clone(), parcel.method, Version::HTTP_11);
        let request = Request::new(parts, Body::full(parcel.body), cx);
        Ok(Exchange { balance, request, deadline, max_answer: parcel.max_answer, traced })
    }
}

impl Sink for Outbox {
    fn send(&self, parcel: Parcel) -> Sending {
        let packed = self.pack(parcel);
        Box::pin(async move {
            match packed {
                Ok(exchange) => exchange.run().await,
                Err(why) => Ending::NotSent(why),
            }
        })
    }

    fn hear(&self, route: Option<&str>, end: End) {
        self.0.cells.route_counter(&STORED_REQUEST_ENDS, route, &[end.word()]).add(1);
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("pools", &self.0.pools).finish_non_exhaustive()
    }
}

fn host(url: &Uri) -> Option<HeaderValue> {
    HeaderValue::from_str(url.authority()?.as_str()).ok()
}

fn path(url: &Uri) -> PathAndQuery {
    url.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
}

// === impl Exchange ===

impl Exchange {
    async fn run(self) -> Ending {
        let Self { balance, request, deadline, max_answer, traced } = self;
        let cx = request.cx.clone();
        // Boxed, so that it can be dropped explicitly, after its context got the reason.
        let mut answer = Box::pin(call(balance, request));
        let result = timeout_at(deadline, &mut answer).await.unwrap_or_else(|_| {
            cx.give_up_attempt(Kind::UpstreamTimeoutTotal.reason());
            Err(Error::new(Kind::UpstreamTimeoutTotal).with_detail("no answer in time"))
        });
        drop(answer);
        let outcome = Outcome::of(&result, &cx);
        let mut end = Delivered {
            address: traced.as_ref().and_then(|traced| traced.address(&cx)),
            status: result.as_ref().ok().map(Response::status),
            reason: result.as_ref().err().map(|error| error.kind().reason()),
        };
        let ending = match result {
            Ok(response) => read(response, deadline, max_answer).await,
            Err(error) if outcome == Outcome::NotSent => Ending::NotSent(error.to_string().into()),
            Err(error) => Ending::MaybeSeen(error.to_string().into()),
        };
        if let Some(Traced { tracer, delivery, .. }) = &traced {
            if !matches!(ending, Ending::Answered(_)) {
                end.reason.get_or_insert(Kind::UpstreamReset(Sent::MaybeSeen).reason());
            }
            tracer.delivered(delivery, &end);
        }
        ending
    }
}

// === impl Traced ===

impl Traced {
    /// The address of the endpoint that was used.
    fn address(&self, cx: &Context) -> Option<Box<str>> {
        let endpoint = cx.with_attempts(|all| Some(all.last()?.endpoint.clone()))?;
        Some(endpoint.strip_prefix(&*self.upstream)?.strip_prefix('/')?.into())
    }
}

/// One exchange, and a second one if not one byte of the first left.
async fn call(mut balance: Way, request: Request) -> Result<Response> {
    let mut error: Error = match balance.call(request).await {
        Ok(response) => return Ok(response),
        Err(error) => error,
    };
    // The balancer gave it to no endpoint, so its refusal is final.
    if error.kind().retry_class() != RetryClass::NotSent {
        return Err(error);
    }
    match error.take_unsent().and_then(Unsent::into_request) {
        Some(request) => balance.call(request).await,
        None => Err(error),
    }
}

/// The answer; waits for at most `max_answer` bytes.
async fn read(response: Response, deadline: Instant, max_answer: usize) -> Ending {
    let (parts, body) = response.into_parts();
    match timeout_at(deadline, collect(body, max_answer)).await {
        Ok(Ok((body, is_whole))) => {
            let (status, headers) = (parts.status, parts.headers);
            Ending::Answered(Reply { status, headers, body, is_whole })
        }
        Ok(Err(error)) => Ending::MaybeSeen(error.to_string().into()),
        Err(_) => Ending::MaybeSeen("half of an answer in time".into()),
    }
}

async fn collect(mut body: Body, max_answer: usize) -> Result<(Bytes, bool)> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        let room = max_answer - bytes.len();
        if data.len() > room {
            bytes.extend_from_slice(&data[..room]);
            return Ok((bytes.freeze(), false));
        }
        bytes.extend_from_slice(&data);
    }
    Ok((bytes.freeze(), true))
}
