//! Turns a configuration into what the workers run, from the listener down to the upstream.
//!
//! [`Plan`] is what all workers share, and survives reloads by identity; [`stacks`] makes one
//! worker's stacks from it.

mod recording;
mod reuse;

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use tower::{Layer as _, Service};

use self::reuse::{Shared, Upstreams};
use crate::{
    balancer::{Balance, Group, GroupHandle, Resolve},
    config::{Config, EventsApi, Mirror, Route},
    events::Store,
    gateway::{
        StartError,
        credentials::{Credentials, Issuers},
        events::{EventService, Served},
        keys::Keyring,
        queue::Queue,
        worker::Resources,
    },
    http::{Request, context::RouteInfo, held::HeldBodies},
    middleware::{
        access_log::AccessLogLayer,
        action,
        adaptive::{self, Limiter},
        auth::{
            Auth,
            claims::{Member, Members},
        },
        body_limit::{BodyLimit, BodyLimitLayer},
        edge::EdgeLayer,
        headers, mirror,
        rate_limit::Policy,
        request_id::RequestIdLayer,
        stack::{
            AfterAuth, Copies, EachRoute, EveryRequest, MemberSettings, RouteSettings, ToUpstream,
            after_auth, copies, each_route, every_request,
        },
    },
    routing::{RouteEntry, Router, Table},
    telemetry::{
        access_log::AccessLog, exchange::Recorder, in_flight::Counter, metrics::Cells,
        tracing::Exporter,
    },
    upstream::Forward,
};

/// The stack of a worker.
pub(super) type Stack = EveryRequest<Router<EachRoute<Balance<Forward>>>>;

/// The stack that serves `events_api`.
pub(super) type EventStack = EveryRequest<BodyLimit<Auth<EventService>>>;

/// Everything that a worker serves.
pub(super) struct Stacks {
    /// The stack of the listeners.
    pub(super) routes: Stack,
    /// `events_api`.
    pub(super) events: Option<EventStack>,
}

/// What all workers share under one configuration.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) config: Arc<Config>,
    pub(super) table: Arc<Table>,
    /// In the order of [`Config::upstreams`].
    pub(super) groups: Vec<Arc<Group>>,
    /// In the order of [`Config::upstreams`].
    pub(super) adaptive: Arc<[Option<Arc<Limiter>>]>,
    /// In the order of [`Config::rate_limits`].
    pub(super) limits: Arc<[Arc<Policy>]>,
    /// In the order of [`Config::issuers`].
    pub(super) issuers: Issuers,
    /// The limit for held bodies, over all routes.
    held: HeldBodies,
    counters: Counters,
}

/// The requests in flight on each route, by its name, which identifies it across reloads.
type Counters = HashMap<Arc<str>, Counter>;

// === impl Plan ===

impl Plan {
    /// The plan of `config`; state of `previous` with the same identity is kept.
    ///
    /// Call it on the control runtime: names are resolved and endpoints checked there. Events at
    /// endpoints are counted in `cells`. `previous` is unchanged before [`Plan::take_effect`].
    pub(super) fn new(
        config: Config,
        previous: Option<&Self>,
        resolver: &Arc<dyn Resolve>,
        cells: &Cells,
        keyring: &Keyring,
    ) -> Result<Self, StartError> {
        let mut groups = Vec::with_capacity(config.upstreams.len());
        for settings in &config.upstreams {
            let before = previous.and_then(|plan| plan.group(&settings.name));
            groups.push(Group::new(settings.clone(), before, resolver, cells)?);
        }
        Ok(Self {
            table: Arc::new(Table::new(config.routes.iter().map(|r| r.rule.clone()).collect())),
            groups,
            adaptive: adaptive(&config, previous),
            limits: limits(&config, previous.map_or(&[], |plan| &plan.limits)),
            issuers: Issuers::new(&config, previous.map(|plan| &plan.issuers), Some(keyring)),
            held: previous
                .map_or_else(|| HeldBodies::new(held_bytes(&config)), |it| it.held.clone()),
            counters: counters(&config, previous.map(|plan| &plan.counters)),
            config: Arc::new(config),
        })
    }

    /// Puts it in force: what it shares with the previous plan gets its bounds from here on.
    pub(super) fn take_effect(&self) {
        self.held.set_limit(held_bytes(&self.config));
        for group in &self.groups {
            group.take_effect();
        }
        for policy in &*self.limits {
            policy.take_effect();
        }
        for (limiter, settings) in self.adaptive.iter().zip(&self.config.adaptive) {
            if let (Some(limiter), Some(settings)) = (limiter, settings) {
                limiter.set_bounds(*settings);
            }
        }
    }

    fn group(&self, name: &str) -> Option<&Arc<Group>> {
        self.groups.iter().find(|group| **group.name() == *name)
    }
}

fn held_bytes(config: &Config) -> u64 {
    config.events.as_ref().map_or(0, |events| events.body_buffer)
}

/// The counts of `previous` for routes that still exist, new ones for the others.
fn counters(config: &Config, previous: Option<&Counters>) -> Counters {
    let routes = config.routes.iter().map(|route| {
        let name = &route.rule.name;
        let before = previous.and_then(|counters| counters.get(name));
        (name.clone(), before.cloned().unwrap_or_default())
    });
    routes.collect()
}

/// The adaptive limits; those of `previous` are kept by the upstream's name.
fn adaptive(config: &Config, previous: Option<&Plan>) -> Arc<[Option<Arc<Limiter>>]> {
    let before = |name: &str| {
        let plan = previous?;
        let index = plan.config.upstreams.iter().position(|upstream| *upstream.name == *name)?;
        plan.adaptive[index].clone()
    };
    let limiter = |(index, settings): (usize, &Option<adaptive::Settings>)| {
        let settings = (*settings)?;
        let before = before(&config.upstreams[index].name);
        Some(before.unwrap_or_else(|| Arc::new(Limiter::new(settings))))
    };
    config.adaptive.iter().enumerate().map(limiter).collect()
}

/// The rate limits, with the existing buckets of those in `previous`.
fn limits(config: &Config, previous: &[Arc<Policy>]) -> Arc<[Arc<Policy>]> {
    config.rate_limits.iter().map(|limit| Policy::new(limit.clone(), previous)).collect()
}

/// One worker's stacks; `queue` is where its clients publish to and consume from.
pub(super) fn stacks(
    plan: &Plan,
    worker: &Resources,
    access_log: &AccessLog,
    exporter: &Exporter,
    queue: &Queue,
) -> Stacks {
    let config = &plan.config;
    let sink = access_log.sink(&config.telemetry.access_log, &worker.cells);
    let tracer = exporter.tracer(config.telemetry.tracing.as_ref(), &worker.cells);
    let recorder = Arc::new(Recorder::new(&worker.cells, sink).with_tracer(tracer));
    let groups: Vec<GroupHandle> =
        plan.groups.iter().map(|group| group.worker(&worker.pools)).collect();
    worker.budgets.retain(|name| plan.group(name).is_some());
    let credentials =
        Credentials::new(config, &plan.issuers, &worker.verified, &worker.cells, &groups);
    let store = queue.store();
    let store = store.as_ref();
    let build = Build {
        plan,
        worker,
        store,
        groups: &groups,
        credentials: &credentials,
        shared: Shared::default(),
    };
    let routes = (0..config.routes.len()).map(|index| build.entry(index));
    let edge = || EdgeLayer::new(config.edge.clone(), &worker.cells);
    let event_stack = |settings: &EventsApi| {
        every_request(
            RequestIdLayer::new(),
            AccessLogLayer::new(recorder.clone()),
            edge(),
            build.events(settings, queue.served()),
        )
    };
    Stacks {
        events: config.events_api.as_ref().map(event_stack),
        routes: every_request(
            RequestIdLayer::new(),
            AccessLogLayer::new(recorder.clone()),
            edge(),
            Router::new(plan.table.clone(), routes, build.status_paths()),
        ),
    }
}

/// The inputs for one worker's stacks.
struct Build<'a> {
    plan: &'a Plan,
    worker: &'a Resources,
    store: Option<&'a Store>,
    groups: &'a [GroupHandle],
    credentials: &'a Credentials,
    shared: Shared,
}

type Stage = AfterAuth<ToUpstream<Balance<Forward>>>;

// === impl Build ===

impl Build<'_> {
    /// The route with this index. The first of a claims group represents all its members.
    fn entry(&self, index: usize) -> RouteEntry<EachRoute<Balance<Forward>>> {
        let route = &self.plan.config.routes[index];
        let members = self.plan.table.members(index);
        let members = match members {
            [first, _, ..] if *first == index => {
                let all = members.iter().map(|&member| {
                    let route = &self.plan.config.routes[member];
                    self.member(route, Some(self.info(route)))
                });
                Members::new(all)
            }
            _ => Members::new([self.member(route, None)]),
        };
        RouteEntry { info: self.info(route), stack: each_route(self.settings(route), members) }
    }

    /// The event endpoints behind their own limits and `auth`.
    fn events(&self, settings: &EventsApi, served: Served) -> BodyLimit<Auth<EventService>> {
        let name = settings.listener.socket.name.clone();
        let metrics = self.worker.cells.route(&name);
        let info = Arc::new(RouteInfo { metrics, path: "/v1/".into(), name });
        let service = EventService::new(served, info);
        let auth = self.credentials.layer(settings.auth.as_ref());
        BodyLimitLayer::new(&settings.body_limit).layer(auth.layer(service))
    }

    fn info(&self, route: &Route) -> Arc<RouteInfo> {
        let name = route.rule.name.clone();
        let path = route.rule.path.to_string().into();
        Arc::new(RouteInfo { metrics: self.worker.cells.route(&name), path, name })
    }

    fn member(&self, route: &Route, info: Option<Arc<RouteInfo>>) -> Member<Stage> {
        let upstreams = self.upstreams(route);
        // A Host set by the route is kept like one sent by the client.
        let changes = &route.headers;
        let keeps_host = changes.preserve_host || changes.request.set.contains_key(header::HOST);
        let balance = Balance::new(upstreams.groups.clone(), Forward::new(keeps_host));
        Member::new(
            &route.claims,
            info,
            after_auth(self.member_settings(route, &upstreams), self.copier(route), balance),
        )
    }

    fn settings(&self, route: &Route) -> RouteSettings {
        let counter = || self.plan.counters.get(&route.rule.name).cloned().unwrap_or_default();
        RouteSettings {
            ip_filter: route.ip_filter.clone(),
            cors: route.cors.clone(),
            body_limit: route.body_limit.clone(),
            concurrency_limit: route.concurrency_limit.map(|limit| (limit, counter())),
            rate_limit_by_address: self.rate_limit(route, false),
            auth: self.credentials.layer(route.auth.as_ref()),
        }
    }

    fn member_settings(&self, route: &Route, upstreams: &Upstreams) -> MemberSettings {
        MemberSettings {
            rate_limit_by_principal: self.rate_limit(route, true),
            buffer: (route.buffer.clone(), self.plan.held.clone()),
            idempotency: self.idempotency(route),
            publish: self.publisher(route).map(Arc::new),
            enqueue: self.enqueuer(route).map(Arc::new),
            action: own_action(&route.action),
            fault: route.fault,
            headers: own_headers(&route.headers),
            merge_slashes: route.merge_slashes,
            timeout: route.timeout,
            retry: self.retry(route, upstreams),
            adaptive: upstreams.adaptive.clone(),
        }
    }

    /// Where copies of the route's requests go; they keep the client's `Host` if the requests do.
    fn copier(&self, route: &Route) -> Option<mirror::Copier<Copies<Balance<Forward>>>> {
        let Mirror { upstream, settings } = route.mirror.as_ref()?;
        let group = self.groups[*upstream].clone();
        let name = group.name().clone();
        let balance = Balance::new([group], Forward::new(route.headers.preserve_host));
        let mut changes = own_headers(&route.headers);
        // Credentials that the gateway adds for one upstream are not for another.
        for fields in [&mut changes.request.set, &mut changes.request.add] {
            *fields = without_credentials(fields);
        }
        let copies = copies(changes, route.merge_slashes, route.timeout, balance);
        let tasks = self.worker.tasks.clone();
        Some(mirror::Copier::new(settings.clone(), &name, copies, tasks, &self.worker.cells))
    }
}

fn without_credentials(fields: &HeaderMap) -> HeaderMap {
    let shown = fields.iter().filter(|(_, value)| !value.is_sensitive());
    shown.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// A copy that shares no memory with the configuration: cloning a shared header value or body would
/// update, for every request, a reference count that all workers use.
fn own_action(action: &action::Settings) -> action::Settings {
    match action {
        action::Settings::Respond { status, headers, body } => action::Settings::Respond {
            status: *status,
            headers: own_map(headers),
            body: Bytes::copy_from_slice(body),
        },
        action::Settings::Redirect { status, location, headers } => action::Settings::Redirect {
            status: *status,
            location: location.clone(),
            headers: own_map(headers),
        },
        action::Settings::Forward { .. } => action.clone(),
    }
}

/// Like [`own_action`].
fn own_headers(settings: &headers::Settings) -> headers::Settings {
    let own = |changes: &headers::Changes| headers::Changes {
        set: own_map(&changes.set),
        add: own_map(&changes.add),
        remove: changes.remove.clone(),
    };
    headers::Settings {
        request: own(&settings.request),
        response: own(&settings.response),
        ..settings.clone()
    }
}

fn own_map(map: &HeaderMap) -> HeaderMap {
    let own = |(name, value): (&HeaderName, &HeaderValue)| {
        let own_name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        let mut own_value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
        own_value.set_sensitive(value.is_sensitive());
        Some((own_name, own_value))
    };
    let mut copy = HeaderMap::with_capacity(map.len());
    for (name, value) in map.iter().filter_map(own) {
        copy.append(name, value);
    }
    copy
}

/// A route's future is moved and kept per request: nobody may enlarge it by accident.
const _: () = assert!(size_of::<<Stack as Service<Request>>::Future>() <= 4096);
