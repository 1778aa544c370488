//! Explains what the gateway would do with a request, without doing it: the matched route and why
//! the others lost, then each policy in the order of the stack.

mod enqueue;
mod limits;
mod publish;

use std::sync::Arc;

use http::HeaderValue;

use crate::{
    balancer::{Group, Policy, Source},
    config::{Config, Route},
    gateway::{
        Asked, Issuers,
        admission::{Admission, admission},
    },
    http::{
        Principal,
        context::{Bound, Params},
    },
    middleware::{
        action,
        adaptive::Limiter,
        rate_limit::Policy as RateLimit,
        retry::resend::Repeatable,
        template::{Template, Values},
    },
    routing::{
        Table,
        explain::{Explanation, Outcome, Step, explain as explain_route},
        matcher::Head,
    },
    telemetry::tracing::propagation::TraceParent,
};

/// The running state under the explained configuration.
#[derive(Clone, Copy, Debug)]
pub struct RunningState<'a> {
    /// In the order of [`Config::upstreams`].
    pub groups: &'a [Arc<Group>],
    /// In the order of [`Config::upstreams`].
    pub adaptive: &'a [Option<Arc<Limiter>>],
    /// In the order of [`Config::rate_limits`].
    pub limits: &'a [Arc<RateLimit>],
    /// The issuers of tokens, with their current keys.
    pub issuers: &'a Issuers,
}

/// Explains `asked` under `config`, and with the `running` state if there is one.
pub fn explain(
    config: &Config,
    table: &Table,
    running: Option<RunningState<'_>>,
    asked: &Asked,
) -> Explanation {
    let head = Head {
        host: &asked.host,
        path: asked.target.merged(),
        scheme: asked.scheme,
        method: &asked.method,
        query: asked.target.query(),
        headers: &asked.headers,
    };
    let mut explanation = explain_route(table, head);
    if let Outcome::Route { index, params, .. } = &explanation.outcome
        && let Some(route) = config.routes.get(*index)
    {
        let pairs = params.iter().map(|(name, value)| (&**name, &**value));
        let (bound, text) = Bound::joined(pairs);
        let params = bound.of(&text);
        let members = table.members(*index);
        let told = Told { config, running, asked, route, params, principal: None };
        explanation.steps = told.steps(members);
    }
    explanation
}

/// A matched request that is being explained policy by policy.
struct Told<'a> {
    config: &'a Config,
    running: Option<RunningState<'a>>,
    asked: &'a Asked,
    route: &'a Route,
    params: Params<'a>,
    principal: Option<Arc<Principal>>,
}

// === impl Told ===

impl Told<'_> {
    fn steps(mut self, members: &[usize]) -> Vec<Step> {
        let mut steps = Vec::new();
        self.tracing(&mut steps);
        if self.asked.target.has_encoded_separator() && !self.route.rule.pass_encoded_separators {
            let why = "the path holds %2F or %5C and the route has encoded_separators: reject";
            steps.push(step("encoded_separators", "refuse", format!("400 bad-target: {why}")));
            return steps;
        }
        self.filters(&mut steps);
        self.rate_limits(false, &mut steps);
        if !self.auth(&mut steps) || !self.choose(members, &mut steps) {
            return steps;
        }
        self.rate_limits(true, &mut steps);
        self.buffer(&mut steps);
        self.idempotency(&mut steps);
        self.publish(&mut steps);
        if self.enqueue(&mut steps) {
            return steps;
        }
        match &self.route.action {
            action::Settings::Respond { status, .. } => {
                steps.push(step("respond", "answer", status.to_string()));
            }
            action::Settings::Redirect { status, location, .. } => {
                let location = location.render_location(&self.values());
                steps.push(step("redirect", "answer", format!("{status} to {location}")));
            }
            action::Settings::Forward { weights } => self.forward(weights, &mut steps),
        }
        steps
    }

    fn tracing(&self, steps: &mut Vec<Step>) {
        let Some(tracing) = &self.config.telemetry.tracing else { return };
        steps.push(match TraceParent::of(&self.asked.headers) {
            Some(parent) if parent.is_sampled() => {
                step("tracing", "sample", "its traceparent says so")
            }
            Some(_) => step("tracing", "pass", "its traceparent says that it is not sampled"),
            None => {
                let share = tracing.sample * 100.0;
                let why = format!("it begins a trace, of which {share}% are sampled");
                step("tracing", "depends", why)
            }
        });
    }

    /// The policies that may refuse the request first.
    fn filters(&self, steps: &mut Vec<Step>) {
        let route = self.route;
        if let Some(filter) = &route.ip_filter {
            let policy = "allow_ips, deny_ips";
            steps.push(match self.asked.client {
                Some(client) if filter.admits(client) => step(policy, "pass", client.to_string()),
                Some(client) => step(policy, "refuse", format!("403 ip-denied: {client}")),
                None => step(policy, "depends", "on the client's address, which is not given"),
            });
        }
        if let Some(cors) = &route.cors {
            steps.push(self.cors(&cors.origins));
        }
        let limit = format!("bodies up to {} bytes", route.body_limit.bytes);
        steps.push(step("limits", "pass", limit));
        if let Some(limit) = &route.concurrency_limit {
            let limit = format!("up to {} requests in flight", limit.max_in_flight);
            steps.push(step("max_in_flight", "pass", limit));
        }
    }

    /// The limits of one phase: before `auth`, or after it.
    fn rate_limits(&self, after_auth: bool, steps: &mut Vec<Step>) {
        for &index in &self.route.rate_limits {
            if self.config.rate_limits[index].key.needs_principal() == after_auth {
                steps.push(self.rate_limit(index));
            }
        }
    }

    fn buffer(&self, steps: &mut Vec<Step>) {
        if let Some(bytes) = self.route.buffer.bytes {
            let why = format!("the whole body is read first, up to {bytes} bytes");
            steps.push(step("buffer", "pass", why));
        }
    }

    /// `false`: it is refused here.
    fn auth(&mut self, steps: &mut Vec<Step>) -> bool {
        if let (Some(principal), true) = (&self.asked.principal, self.route.auth.is_some()) {
            steps.push(step("auth", "pass", format!("`{principal}`, as the question says")));
            return true;
        }
        let issuers = match self.running {
            Some(running) => running.issuers.clone(),
            None => Issuers::new(self.config, None, None),
        };
        let (told, may_go_on) = match admission(self.config, &issuers, self.route, self.asked) {
            Admission::Open => return true,
            Admission::Admitted(principal, told) => {
                self.principal = principal;
                (step("auth", "pass", told), true)
            }
            Admission::Refused(told) => (step("auth", "refuse", told), false),
            Admission::Depends(told) => (step("auth", "depends", told), true),
        };
        steps.push(told);
        may_go_on
    }

    /// Continues with the member of the claims group that takes it. `false`: none does.
    fn choose(&mut self, members: &[usize], steps: &mut Vec<Step>) -> bool {
        let routes = || members.iter().map(|&index| &self.config.routes[index]);
        if routes().all(|route| route.claims.claims.is_empty()) {
            return true;
        }
        let claims = self.principal.as_ref().map(|principal| &principal.claims);
        let Some(member) = routes().find(|route| route.claims.takes(claims)) else {
            steps.push(step(
                "match.claims",
                "refuse",
                "404 route-none: no route takes these claims",
            ));
            return false;
        };
        steps.push(step("match.claims", "choose", format!("route `{}`", member.rule.name)));
        self.route = member;
        true
    }

    fn cors(&self, origins: &[HeaderValue]) -> Step {
        let Some(origin) = self.asked.headers.get(http::header::ORIGIN) else {
            return step("cors", "pass", "there is no Origin: not a request of a page");
        };
        if origins.iter().any(|allowed| allowed == origin || allowed == "*") {
            step("cors", "allow", format!("for {}", text(origin)))
        } else {
            step("cors", "none", format!("{} gets no leave to read the answer", text(origin)))
        }
    }

    fn forward(&self, weights: &[u32], steps: &mut Vec<Step>) {
        let route = self.route;
        let upstreams = route.upstreams.iter().map(|&index| &self.config.upstreams[index]);
        if weights.len() > 1 {
            let total: u64 = weights.iter().copied().map(u64::from).sum();
            let shares = upstreams.clone().zip(weights).map(|(upstream, weight)| {
                format!("{} {}%", upstream.name, u64::from(*weight) * 100 / total.max(1))
            });
            steps.push(step("split", "choose", shares.collect::<Vec<_>>().join(", ")));
        }
        if let Some(fault) = &route.fault {
            steps.push(step("fault", "may fail", limits::told_fault(fault)));
        }
        if let Some(mirror) = &route.mirror {
            let to = &self.config.upstreams[mirror.upstream].name;
            let share = mirror.settings.share * 100.0;
            let detail = format!("{share}% to `{to}` as well, if the body is in memory by then");
            steps.push(step("mirror", "copy", detail));
        }
        steps.push(step("rewrite", "send", self.target()));
        let timeout = format!("{:?} for all attempts", route.timeout.total);
        steps.push(step("timeout", "limit", timeout));
        steps.push(self.retry());
        for (upstream, &index) in upstreams.zip(&route.upstreams) {
            let policy = match &upstream.policy {
                Policy::P2cEwma => "p2c_ewma",
                Policy::LeastRequest => "least_request",
                Policy::RoundRobin => "round_robin",
                Policy::Hash(_) => "hash",
            };
            let group = self.running.and_then(|running| running.groups.get(index));
            let candidates =
                group.map_or_else(|| written(&upstream.sources), |group| endpoints(group));
            if let Some(settings) = self.config.adaptive[index] {
                steps.push(self.adaptive(index, settings));
            }
            let detail = format!("`{}` by {policy}: {candidates}", upstream.name);
            steps.push(step("upstream", "send", detail));
            if let Some(group) = self.running.and_then(|running| running.groups.get(index)) {
                steps.push(self.endpoint(group));
            }
        }
    }

    fn retry(&self) -> Step {
        let Some(retry) = &self.route.retry else {
            let once = "one more attempt, only if no byte of the request was sent";
            return step("retry", "limit", once);
        };
        let retries = match retry.attempts.saturating_sub(1) {
            0 => return step("retry", "limit", "one attempt and no other"),
            1 => "one more attempt".to_owned(),
            more => format!("up to {more} more attempts"),
        };
        let method = &self.asked.method;
        let after = if Repeatable::by_method(method).is_some() {
            let reset = retry.on.reset.then(|| "reset".to_owned());
            let statuses = retry.on.statuses.iter().map(|status| status.as_str().to_owned());
            let words: Vec<_> =
                std::iter::once("connect".to_owned()).chain(reset).chain(statuses).collect();
            format!("after {}", words.join(", "))
        } else {
            format!("only if no byte of the request was sent: {method} is not repeated")
        };
        let each = self.route.timeout.per_attempt.map(|each| format!("; {each:?} for each"));
        step("retry", "limit", format!("{retries}, {after}{}", each.unwrap_or_default()))
    }

    /// The endpoint of a running upstream that would get it.
    fn endpoint(&self, group: &Group) -> Step {
        let told = group.preview(&self.input());
        let outcome = if told.is_refused { "refuse" } else { "choose" };
        let detail = match told.endpoint {
            Some(endpoint) => format!("{endpoint}, {}", told.why),
            None => told.why,
        };
        step("endpoint", outcome, detail)
    }

    fn target(&self) -> String {
        let forwarded = self.asked.target.path_and_query(self.route.merge_slashes);
        match &self.route.headers.rewrite {
            Some(rewrite) => format!("{forwarded} as {}", self.rewritten(rewrite)),
            None => forwarded.to_string(),
        }
    }

    fn rewritten(&self, template: &Template) -> String {
        template.render_target(&self.values())
    }

    fn values(&self) -> Values<'_> {
        let target = &self.asked.target;
        let path = if self.route.merge_slashes { target.merged() } else { target.path() };
        let host = &self.asked.host;
        Values { host, path, query: target.query(), params: self.params }
    }
}

fn endpoints(group: &Group) -> String {
    let endpoints = group.snapshot().endpoints;
    if endpoints.is_empty() {
        return "no address at the moment".to_owned();
    }
    let told = endpoints.iter().map(|endpoint| {
        let state = std::iter::once(endpoint.state.to_owned());
        let until = endpoint.until.as_ref().map(|until| format!("until {until}"));
        let share = endpoint.slow_start_share;
        let share = share.map(|share| format!("slow start {:.0}%", share * 100.0));
        let flying = format!("{} in flight", endpoint.in_flight);
        let expected = format!("{:.1} ms", endpoint.ewma_seconds * 1000.0);
        let words = state.chain(endpoint.why.clone()).chain(until).chain(share);
        let words: Vec<_> = words.chain([flying, expected]).collect();
        format!("{} ({})", endpoint.address, words.join(", "))
    });
    told.collect::<Vec<_>>().join(", ")
}

fn written(sources: &[Source]) -> String {
    let addresses = sources.iter().map(|source| source.address.to_string());
    addresses.collect::<Vec<_>>().join(", ")
}

fn step(policy: &str, outcome: &str, detail: impl Into<String>) -> Step {
    Step { policy: policy.to_owned(), outcome: outcome.to_owned(), detail: detail.into() }
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}
