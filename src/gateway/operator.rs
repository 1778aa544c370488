//! What the admin listener shows and does.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::{StatusCode, request::Parts};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    admin,
    balancer::Group,
    config::{self, Config},
    events::api::Endpoint,
    gateway::{
        self, Asked, Drain, Issuers, ReloadError,
        build::Plan,
        control::{Control, Order},
        events::answer_operator,
        queue::Queue,
    },
    http::{Response, Secret},
    middleware::{
        adaptive::{Limiter, limiter::Standing},
        auth::jwks::KeyCache,
        rate_limit::Policy,
    },
    routing::Table,
    telemetry::{
        clock,
        metrics::{
            ADAPTIVE_LIMIT, CONFIG_LOADED, CONFIG_RELOAD_FAILURES, CONFIG_RELOADS, Cells, Format,
            Metrics, RATE_LIMIT_KEYS,
        },
    },
};

/// The running state as an operator sees it.
#[derive(Debug)]
pub(super) struct Operator {
    metrics: Metrics,
    cells: Cells,
    orders: mpsc::Sender<Order>,
    live: Mutex<Live>,
    is_draining: AtomicBool,
    queue: Queue,
}

/// What is in force.
#[derive(Clone, Debug)]
struct Live {
    config: Arc<Config>,
    table: Arc<Table>,
    groups: Arc<[Arc<Group>]>,
    limits: Arc<[Arc<Policy>]>,
    issuers: Issuers,
    adaptive: Arc<[Option<Arc<Limiter>>]>,
    loaded_at: std::time::SystemTime,
}

// === impl Operator ===

impl Operator {
    pub(super) fn new(
        metrics: Metrics,
        orders: mpsc::Sender<Order>,
        plan: &Plan,
        queue: Queue,
    ) -> Self {
        let cells = metrics.thread();
        // Created at the start: an increase is only visible after a first scrape.
        for desc in [&CONFIG_RELOADS, &CONFIG_RELOAD_FAILURES] {
            cells.counter(desc, &[]);
        }
        let operator = Self {
            metrics,
            cells,
            orders,
            live: Mutex::new(Live::of(plan)),
            is_draining: AtomicBool::new(false),
            queue,
        };
        operator.took_over(plan);
        operator
    }

    /// `plan` is now in force.
    pub(super) fn took_over(&self, plan: &Plan) {
        let live = Live::of(plan);
        let loaded = clock::since_epoch(live.loaded_at).as_secs_f64();
        self.cells.gauge(&CONFIG_LOADED, &[]).set(loaded);
        *self.live.lock() = live;
    }

    /// Labels metrics according to `config` from now on: before new stacks create their cells.
    pub(super) fn follow(&self, config: &Config) {
        self.metrics.set_route_labels(config.telemetry.route_labels);
    }

    /// The cells of the control thread.
    pub(super) fn cells(&self) -> &Cells {
        &self.cells
    }

    /// Counts a reload.
    pub(super) fn reloaded(&self, is_ok: bool) {
        let desc = if is_ok { &CONFIG_RELOADS } else { &CONFIG_RELOAD_FAILURES };
        self.cells.counter(desc, &[]).add(1);
    }

    /// Stops being ready. `false`: it was not ready before.
    pub(super) fn begin_drain(&self) -> bool {
        // Relaxed: it publishes nothing else.
        !self.is_draining.swap(true, Ordering::Relaxed)
    }

    /// Sets the gauges that are determined at a scrape.
    fn report(&self) {
        let live = self.live.lock().clone();
        for limit in &*live.limits {
            let gauge = self.cells.gauge(&RATE_LIMIT_KEYS, &[&limit.settings().name]);
            gauge.set(limit.store().keys() as f64);
        }
        let issuers = self.live.lock().issuers.clone();
        issuers.caches().for_each(KeyCache::report);
        for (group, limiter) in live.limited() {
            let gauge = self.cells.gauge(&ADAPTIVE_LIMIT, &[group.name()]);
            gauge.set(limiter.standing().limit as f64);
        }
    }

    /// Whether the drain has begun.
    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }
}

impl admin::Handles for Operator {
    fn token(&self) -> Option<Secret> {
        self.live.lock().config.admin.token.clone()
    }

    fn readiness(&self) -> Vec<String> {
        let draining = self.is_draining().then(|| "draining".to_owned());
        let issuers = self.live.lock().issuers.clone();
        draining.into_iter().chain(issuers.lacks()).chain(self.queue.lacks()).collect()
    }

    fn metrics(&self, format: Format) -> admin::Answer<'_, String> {
        self.report();
        Box::pin(async move { self.metrics.render_as(format, &self.queue.told().await) })
    }

    fn config(&self) -> Value {
        let live = self.live.lock().clone();
        json!({
            "hash": live.config.hash,
            "loaded_at": clock::rfc3339(live.loaded_at),
            "config": *live.config.shown,
        })
    }

    fn routes(&self) -> Value {
        let live = self.live.lock().clone();
        let routes = live.table.in_order().into_iter().map(|index| {
            let route = &live.config.routes[index];
            let upstreams =
                route.upstreams.iter().map(|&index| &*live.config.upstreams[index].name);
            let mut told = json!({
                "name": route.rule.name,
                "match": route.rule.to_string(),
                "priority": route.rule.priority,
                "upstreams": upstreams.collect::<Vec<_>>(),
            });
            if route.fault.is_some() {
                told["warnings"] = json!(["fault: requests of this route fail on purpose"]);
            }
            told
        });
        json!({ "routes": routes.collect::<Vec<_>>() })
    }

    fn upstreams(&self) -> Value {
        let live = self.live.lock().clone();
        let mut snapshots: Vec<_> =
            live.groups.iter().map(|group| json!(group.snapshot())).collect();
        for (snapshot, limiter) in snapshots.iter_mut().zip(&*live.adaptive) {
            if let Some(limiter) = limiter {
                let Standing { limit, in_flight, waiting } = limiter.standing();
                snapshot["adaptive_concurrency"] =
                    json!({ "limit": limit, "in_flight": in_flight, "waiting": waiting });
            }
        }
        json!({ "upstreams": snapshots })
    }

    fn reload(&self) -> admin::Answer<'_, Result<String, admin::Problem>> {
        // Once sent, the order belongs to the control thread: a caller that leaves changes nothing.
        Box::pin(async {
            let reloaded = Control::reload(&self.orders).await;
            reloaded.map(|hash| hash.to_string()).map_err(problem)
        })
    }

    fn drain(&self) {
        if self.orders.try_send(Order::Drain(Drain::Announced)).is_err() {
            tracing::warn!("too many orders at once: the drain was not begun");
        }
    }

    fn takes_events(&self, path: &str) -> Option<usize> {
        let bytes = || config::event_bytes(self.live.lock().config.events.as_ref());
        let bytes = || usize::try_from(bytes()).unwrap_or(usize::MAX);
        Endpoint::is_about_events(path).then(bytes)
    }

    fn events<'a>(&'a self, parts: &'a Parts, body: Bytes) -> admin::Answer<'a, Response> {
        Box::pin(answer_operator(self.queue.served(), parts, body))
    }

    fn explain(&self, call: Value) -> Result<Value, admin::Problem> {
        let Call { method, url, headers, client_ip, principal } = serde_json::from_value(call)
            .map_err(|error| admin::Problem::bad_request(error.to_string()))?;
        let headers = headers.iter().map(String::as_str);
        let asked = Asked::parse(&method, &url, headers)
            .map_err(admin::Problem::bad_request)?
            .by(client_ip, principal);
        let live = self.live.lock().clone();
        let running = gateway::RunningState {
            groups: &live.groups,
            limits: &live.limits,
            issuers: &live.issuers,
            adaptive: &live.adaptive,
        };
        let told = gateway::explain(&live.config, &live.table, Some(running), &asked);
        serde_json::to_value(told).map_err(|error| {
            let title = "The gateway failed to explain this request.";
            admin::Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", title)
                .with_detail(error.to_string())
        })
    }
}

/// The body of `POST /v1/explain`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `method` and `url`")]
struct Call {
    method: String,
    url: String,
    /// `name: value` lines.
    #[serde(default)]
    headers: Vec<String>,
    /// The address it would come from.
    client_ip: Option<IpAddr>,
    /// The principal that `auth` would find.
    principal: Option<String>,
}

fn problem(error: ReloadError) -> admin::Problem {
    let title = "The configuration was not taken over; the old one still runs.";
    match error {
        ReloadError::Invalid(problems) => admin::Problem::config_invalid(
            problems.0.iter().map(config::Problem::to_json).collect(),
        ),
        ReloadError::NeedsRestart(_) => admin::Problem::needs_restart(error.to_string()),
        ReloadError::Start(_) | ReloadError::NoSource => {
            admin::Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "config-invalid", title)
                .with_detail(error.to_string())
        }
        ReloadError::Stopping => {
            admin::Problem::new(StatusCode::SERVICE_UNAVAILABLE, "draining", title)
                .with_detail(error.to_string())
        }
    }
}

// === impl Live ===

impl Live {
    /// The upstreams with an adaptive limit.
    fn limited(&self) -> impl Iterator<Item = (&Group, &Limiter)> {
        let all = self.groups.iter().zip(&*self.adaptive);
        all.filter_map(|(group, limiter)| Some((&**group, &**limiter.as_ref()?)))
    }

    fn of(plan: &Plan) -> Self {
        Self {
            config: plan.config.clone(),
            table: plan.table.clone(),
            groups: plan.groups.clone().into(),
            limits: plan.limits.clone(),
            issuers: plan.issuers.clone(),
            adaptive: plan.adaptive.clone(),
            loaded_at: clock::now(),
        }
    }
}
