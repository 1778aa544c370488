//! The facts that become known about one exchange as it passes the stack.
//!
//! One `Arc` per request. Each fact is written once, by the layer that finds it, and read by layers
//! below and by the access log, which keeps a clone until the response body has ended. Attempts are
//! a list: each attempt writes only to its own entry, so that a late write of a cancelled one
//! cannot touch the next.

mod attempt;
mod bound;
mod matched;
mod phase;
mod recorded;

pub use self::{
    attempt::{Attempt, AttemptHandle},
    bound::{Bound, Params},
    matched::RouteInfo,
    phase::Phase,
    recorded::GoesOn,
};

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, uri::PathAndQuery};
use opentelemetry::trace::TraceId;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;

use self::{matched::Matched, recorded::Recorded};
use crate::{
    error::response::Dialect,
    http::{ClientIp, Peer, Principal, Scheme, Target, rate_limit_fields::RateLimitFields},
    telemetry::{
        clock,
        tracing::{Noted, Trace},
    },
};

/// What is known about one exchange. Cloning counts a reference.
#[derive(Clone)]
pub struct Context(Arc<Cells>);

const UNDETERMINED: u8 = 0;
const PROBLEM: u8 = 1;
const GRPC: u8 = 2;

/// Written whole for each request and read when it is over: what few requests need is boxed.
///
/// A `OnceLock` takes two locked instructions to write. So what every request has is an atomic where
/// it fits into one: everything that writes is polled by one task.
struct Cells {
    peer: Arc<Peer>,
    started: Instant,
    method: Method,
    version: http::Version,
    asked: OnceLock<Asked>,
    request_id: OnceLock<HeaderValue>,
    client_ip: OnceLock<ClientIp>,
    host: OnceLock<Arc<str>>,
    target: OnceLock<Target>,
    matched: OnceLock<Matched>,
    member: OnceLock<Arc<RouteInfo>>,
    principal: OnceLock<Arc<Principal>>,
    upstream: OnceLock<usize>,
    cors: OnceLock<Box<HeaderMap>>,
    rate_limits: [OnceLock<Box<RateLimitFields>>; 2],
    reason: OnceLock<&'static str>,
    recorded: OnceLock<Box<Recorded>>,
    received: AtomicU64,
    /// Nanoseconds after `started`, plus one; 0: none.
    deadline: AtomicU64,
    /// [`Dialect`], plus one; 0: not determined.
    dialect: AtomicU8,
    is_direct: AtomicBool,
    is_known_host: AtomicBool,
    is_https: AtomicBool,
    is_connecting: AtomicBool,
    has_attempts: AtomicBool,
    was_repeated: AtomicBool,
    is_deferred: AtomicBool,
    phase: phase::Cell,
    attempts: Mutex<SmallVec<[Attempt; 1]>>,
}

/// The parts of the original head that are reported when the exchange is over.
#[derive(Debug)]
pub struct Asked {
    /// The target before normalisation.
    pub target: Option<PathAndQuery>,
    /// The trace it belongs to.
    pub trace_id: Option<TraceId>,
    /// Its place in that, if traces are configured.
    pub trace: Option<Trace>,
    /// More of the head, for a sampled request.
    pub noted: Option<Box<Noted>>,
}

// === impl Context ===

impl Context {
    /// A new context for a request that begins now.
    pub fn new(peer: Arc<Peer>, method: Method, version: http::Version) -> Self {
        Self(Arc::new(Cells {
            peer,
            started: clock::tick(),
            method,
            version,
            asked: OnceLock::new(),
            request_id: OnceLock::new(),
            client_ip: OnceLock::new(),
            host: OnceLock::new(),
            target: OnceLock::new(),
            matched: OnceLock::new(),
            member: OnceLock::new(),
            principal: OnceLock::new(),
            upstream: OnceLock::new(),
            cors: OnceLock::new(),
            rate_limits: [const { OnceLock::new() }; 2],
            reason: OnceLock::new(),
            recorded: OnceLock::new(),
            received: AtomicU64::new(0),
            deadline: AtomicU64::new(0),
            dialect: AtomicU8::new(0),
            is_direct: AtomicBool::new(false),
            is_known_host: AtomicBool::new(false),
            is_https: AtomicBool::new(false),
            is_connecting: AtomicBool::new(false),
            has_attempts: AtomicBool::new(false),
            was_repeated: AtomicBool::new(false),
            is_deferred: AtomicBool::new(false),
            phase: phase::Cell::new(),
            attempts: Mutex::new(SmallVec::new()),
        }))
    }

    /// The connection it came on.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.0.peer
    }

    /// When its head was complete.
    pub fn started(&self) -> Instant {
        self.0.started
    }

    /// The method the client sent.
    pub fn method(&self) -> &Method {
        &self.0.method
    }

    /// The client's protocol version.
    pub fn version(&self) -> http::Version {
        self.0.version
    }

    /// The original head, once the exchange is being followed.
    pub fn asked(&self) -> Option<&Asked> {
        self.0.asked.get()
    }

    /// Written when the exchange begins.
    pub fn set_asked(&self, asked: Asked) {
        set(&self.0.asked, asked);
    }

    /// The kind of answer its client can read, once determined.
    pub fn dialect(&self) -> Dialect {
        // Relaxed, as the write: both happen in the polls of one future.
        match self.0.dialect.load(Ordering::Relaxed) {
            GRPC => Dialect::Grpc,
            _ => Dialect::Problem,
        }
    }

    /// Determines the dialect from the client's original fields. Only the first call counts.
    pub fn note_dialect(&self, headers: &HeaderMap) {
        if self.0.dialect.load(Ordering::Relaxed) == UNDETERMINED {
            let dialect = match Dialect::of(headers) {
                Dialect::Problem => PROBLEM,
                Dialect::Grpc => GRPC,
            };
            self.0.dialect.store(dialect, Ordering::Relaxed);
        }
    }

    /// The request's ID, once `request_id` has chosen it.
    pub fn request_id(&self) -> Option<&HeaderValue> {
        self.0.request_id.get()
    }

    /// Written by `request_id`.
    pub fn set_request_id(&self, id: HeaderValue) {
        set(&self.0.request_id, id);
    }

    /// The trace it belongs to, if traces are configured.
    pub fn trace(&self) -> Option<&Trace> {
        self.asked()?.trace.as_ref()
    }

    /// The client's address, once `edge` has found it.
    pub fn client_ip(&self) -> Option<ClientIp> {
        let is_direct = self.0.is_direct.load(Ordering::Relaxed);
        if is_direct {
            return Some(ClientIp::of(&self.0.peer.remote));
        }
        self.0.client_ip.get().copied()
    }

    /// Written by `edge`.
    pub fn set_client_ip(&self, ip: ClientIp) {
        debug_assert!(self.client_ip().is_none(), "a context fact is written once");
        if ip == ClientIp::of(&self.0.peer.remote) {
            self.0.is_direct.store(true, Ordering::Relaxed);
        } else {
            set(&self.0.client_ip, ip);
        }
    }

    /// The requested host: lower case, without port or trailing dot; empty for an HTTP/1.0 request
    /// without one.
    pub fn host(&self) -> Option<&str> {
        if self.0.is_known_host.load(Ordering::Relaxed) {
            return self.0.peer.host.get().map(|known| &*known.normal);
        }
        self.0.host.get().map(AsRef::as_ref)
    }

    /// Written by `edge`: it is the host that its connection is [known](Peer::host) for.
    pub fn set_known_host(&self) {
        debug_assert!(self.host().is_none(), "a context fact is written once");
        self.0.is_known_host.store(true, Ordering::Relaxed);
    }

    /// Written by `edge` for any other host.
    pub fn set_host(&self, host: Arc<str>) {
        set(&self.0.host, host);
    }

    /// The scheme that the client used, once `edge` has found it.
    pub fn scheme(&self) -> Scheme {
        // Relaxed, as the write: both happen in the polls of one future.
        if self.0.is_https.load(Ordering::Relaxed) { Scheme::Https } else { Scheme::Http }
    }

    /// Written by `edge`.
    pub fn set_scheme(&self, scheme: Scheme) {
        self.0.is_https.store(scheme == Scheme::Https, Ordering::Relaxed);
    }

    /// The normalised target, once `edge` has made it.
    pub fn target(&self) -> Option<&Target> {
        self.0.target.get()
    }

    /// Written by `edge`.
    pub fn set_target(&self, target: Target) {
        set(&self.0.target, target);
    }

    /// The authenticated principal; `None` on a route without auth.
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        self.0.principal.get()
    }

    /// Written by `auth`.
    pub fn set_principal(&self, principal: Arc<Principal>) {
        set(&self.0.principal, principal);
    }

    /// The upstream that `split` chose: an index into the route's list, 0 without `split`.
    pub fn upstream(&self) -> usize {
        self.0.upstream.get().copied().unwrap_or(0)
    }

    /// Written by `action`.
    pub fn set_upstream(&self, index: usize) {
        set(&self.0.upstream, index);
    }

    /// The CORS fields of every answer to this request, including refusals.
    pub fn cors(&self) -> Option<&HeaderMap> {
        self.0.cors.get().map(AsRef::as_ref)
    }

    /// Written by `cors`.
    pub fn set_cors(&self, headers: HeaderMap) {
        set(&self.0.cors, Box::new(headers));
    }

    /// The rate limit fields of every answer to this request.
    pub fn rate_limits(&self) -> impl Iterator<Item = &RateLimitFields> {
        self.0.rate_limits.iter().filter_map(|fields| fields.get().map(AsRef::as_ref))
    }

    /// Written by `rate_limit`, at most once before `auth` and once after it.
    pub fn add_rate_limit(&self, fields: RateLimitFields) {
        let [first, second] = &self.0.rate_limits;
        set(if first.get().is_none() { first } else { second }, Box::new(fields));
    }

    /// Why the request failed, as a reason word.
    pub fn reason(&self) -> Option<&'static str> {
        self.0.reason.get().copied()
    }

    /// Only the first reason counts.
    pub fn set_reason(&self, reason: &'static str) {
        self.0.reason.get_or_init(|| reason);
    }

    /// When all attempts must be over; `None` while the clock does not run, because the request
    /// body is being sent or nobody has had to wait.
    pub fn deadline(&self) -> Option<Instant> {
        let nanos = self.0.deadline.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.0.started + Duration::from_nanos(nanos))
    }

    /// Written by `timeout` when its clock starts. Only the first one counts.
    pub fn set_deadline(&self, deadline: Instant) {
        if self.0.deadline.load(Ordering::Relaxed) == 0 {
            let after = deadline.saturating_duration_since(self.0.started).as_nanos();
            let nanos = u64::try_from(after).unwrap_or(u64::MAX - 1);
            self.0.deadline.store(nanos.saturating_add(1), Ordering::Relaxed);
        }
    }

    /// Bytes of the request body read so far.
    pub fn received(&self) -> u64 {
        // Relaxed, like the addition: it is only a count.
        self.0.received.load(Ordering::Relaxed)
    }

    /// Written by the request body, see [`Body::count_received`](crate::http::Body::count_received).
    pub fn add_received(&self, bytes: u64) {
        self.0.received.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A second write is a bug of ours, not of a request: the first value stays.
fn set<T>(cell: &OnceLock<T>, value: T) {
    let rejected = cell.set(value).is_err();
    debug_assert!(!rejected, "a context cell is written once");
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("request_id", &self.0.request_id)
            .field("route", &self.route().map(|route| &route.name))
            .finish_non_exhaustive()
    }
}
