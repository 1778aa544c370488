//! The way out of what is delivered: through the same balancers, breakers and connections' making as
//! live traffic, over connections of the delivery thread's own. A stored request takes its place under its
//! upstream's adaptive limit, too.
//!
//! Nothing is tried again here but what was handed back unsent, once and at once: a connection that
//! was closed while it was idle is nobody's failure. Everything else the subscription decides.

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

/// What the connection is called that deliveries seem to come on.
const NAME: &str = "delivery";

/// Sends what is delivered. A clone is the same one.
#[derive(Clone)]
pub(super) struct Outbox(Arc<Inner>);

struct Inner {
    pools: Arc<Pools>,
    peer: Arc<Peer>,
    ways: RwLock<Arc<Ways>>,
    /// Its cells are those of the thread that delivers.
    cells: Cells,
    tracer: RwLock<Option<Arc<Tracer>>>,
}

/// The adaptive limit and the balancer of an upstream.
type Way = Adaptive<Balance<Forward>>;

/// The ways to what subscriptions push to, by the upstream's name.
#[derive(Clone, Default)]
struct Ways(HashMap<Arc<str>, Way>);

/// What is known of one delivery while it is under way.
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
    /// What its endpoints' names begin with.
    upstream: Arc<str>,
}

// === impl Outbox ===

impl Outbox {
    /// It knows no way yet. Its connections belong to the runtime that what it sends is polled on.
    pub(super) fn new(cells: &Cells) -> Self {
        // No tunnel is ever opened through these.
        let (_, deadline) = channel::channel(None);
        let pools = Pools::new(cells.clone(), Spawner::new(), deadline);
        let peer = Arc::new(Peer::new(NAME.into(), Address::Unix, Address::Unix));
        let (ways, tracer) = (RwLock::default(), RwLock::default());
        Self(Arc::new(Inner { pools, peer, ways, cells: cells.clone(), tracer }))
    }

    /// Knows the ways of `plan` as well, before subscriptions hear of it. Those it knows already stay what they
    /// are: a new one in their place would take their connections over, and `plan` may yet be refused.
    pub(super) fn learn(&self, plan: &Plan) {
        let mut ways = Ways::clone(&self.0.ways.read());
        let new = self.ways(plan, |name| !ways.0.contains_key(name));
        ways.0.extend(new.0);
        *self.0.ways.write() = Arc::new(ways);
    }

    /// Knows the ways of `plan` and no others, once subscriptions follow it, and traces as it says.
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
            // A webhook is known by the name in its URL; a stored request has the host that its route keeps,
            // and else the endpoint's.
            let balance = Balance::new([group.worker(&self.0.pools)], Forward::new(true));
            Some((name, AdaptiveLayer::new([limiter]).layer(balance)))
        };
        Ways(pushed.filter_map(way).collect())
    }

    /// What is sent, or why nothing is.
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
        // In a box, so that it is known when it is dropped: after it was told why.
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
    /// Of the endpoint that it came to.
    fn address(&self, cx: &Context) -> Option<Box<str>> {
        let endpoint = cx.with_attempts(|all| Some(all.last()?.endpoint.clone()))?;
        Some(endpoint.strip_prefix(&*self.upstream)?.strip_prefix('/')?.into())
    }
}

/// One exchange; a second one if not one byte of the first left.
async fn call(mut balance: Way, request: Request) -> Result<Response> {
    let mut error: Error = match balance.call(request).await {
        Ok(response) => return Ok(response),
        Err(error) => error,
    };
    // The balancer has refused for good what it gave to nobody.
    if error.kind().retry_class() != RetryClass::NotSent {
        return Err(error);
    }
    match error.take_unsent().and_then(Unsent::into_request) {
        Some(request) => balance.call(request).await,
        None => Err(error),
    }
}

/// The answer, of which not more than `max_answer` bytes are waited for.
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
