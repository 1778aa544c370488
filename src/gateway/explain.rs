//! What the gateway would do with a request, told and not done: the matched route and why the
//! others lost, then each policy in the order of the stack.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::{
    balancer::{Group, Policy, Source, SourceAddress},
    config::{Config, Route},
    http::{Target, context::Params},
    middleware::{
        action,
        template::{Template, Values},
    },
    routing::{
        Table,
        explain::{Explanation, Outcome, Step, explain as explain_route},
        matcher::Head,
    },
};

/// A request somebody asks about.
#[derive(Clone, Debug)]
pub struct Asked {
    method: Method,
    host: String,
    target: Target,
    headers: HeaderMap,
}

// === impl Asked ===

impl Asked {
    /// A request of these words. The error is a sentence for whoever typed them.
    ///
    /// `url` may be a path alone; `headers` are `name: value` lines, and `host` among them wins
    /// over the URL's.
    pub fn parse<'a>(
        method: &str,
        url: &str,
        headers: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, String> {
        let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes())
            .map_err(|_| format!("`{method}` is not an HTTP method"))?;
        let uri: Uri = url
            .parse()
            .map_err(|_| format!("`{url}` is not a URL; try http://shop.example.com/orders"))?;
        let headers = parse_headers(headers)?;
        let host = match headers.get(http::header::HOST) {
            Some(host) => host.to_str().map_err(|_| "Host is not text".to_owned())?.to_owned(),
            None => uri.authority().map_or_else(|| "localhost".to_owned(), ToString::to_string),
        };
        let host: http::uri::Authority =
            host.parse().map_err(|_| format!("`{host}` is not a host"))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let target = Target::parse_str(path)
            .map_err(|error| format!("400 bad-target: `{path}`: {error}"))?;
        let host = host.host().trim_end_matches('.').to_ascii_lowercase();
        Ok(Self { method, host, target, headers })
    }
}

fn parse_headers<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let parsed = line.split_once(':').and_then(|(name, value)| {
            let name: HeaderName = name.trim().parse().ok()?;
            let value: HeaderValue = value.trim().parse().ok()?;
            Some((name, value))
        });
        let (name, value) =
            parsed.ok_or_else(|| format!("`{line}` is not a header; write 'name: value'"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Explains `asked` under `config`. `groups` are the running upstreams, where there are any.
pub fn explain(
    config: &Config,
    table: &Table,
    groups: Option<&[Arc<Group>]>,
    asked: &Asked,
) -> Explanation {
    let head = Head {
        host: &asked.host,
        path: asked.target.merged(),
        method: &asked.method,
        query: asked.target.query(),
        headers: &asked.headers,
    };
    let mut explanation = explain_route(table, head);
    if let Outcome::Route { index, params, .. } = &explanation.outcome
        && let Some(route) = config.routes.get(*index)
    {
        let params: Params = params
            .iter()
            .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
            .collect();
        explanation.steps = Told { config, groups, asked, route, params: &params }.steps();
    }
    explanation
}

/// A matched request about to be told policy by policy.
struct Told<'a> {
    config: &'a Config,
    groups: Option<&'a [Arc<Group>]>,
    asked: &'a Asked,
    route: &'a Route,
    params: &'a Params,
}

// === impl Told ===

impl Told<'_> {
    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.asked.target.has_encoded_separator() && !self.route.rule.pass_encoded_separators {
            let why = "the path holds %2F or %5C and the route has encoded_separators: reject";
            steps.push(step("encoded_separators", "refuse", format!("400 bad-target: {why}")));
            return steps;
        }
        self.filters(&mut steps);
        match &self.route.action {
            action::Settings::Respond { status, .. } => {
                steps.push(step("respond", "answer", status.to_string()));
            }
            action::Settings::Redirect { status, location } => {
                let location = location.render_location(&self.values());
                steps.push(step("redirect", "answer", format!("{status} to {location}")));
            }
            action::Settings::Forward { weights } => self.forward(weights, &mut steps),
        }
        steps
    }

    /// What may refuse the request before anything is done with it.
    fn filters(&self, steps: &mut Vec<Step>) {
        let route = self.route;
        if route.ip_filter.is_some() {
            let why = "by the client's address, which is not part of the question";
            steps.push(step("allow_ips, deny_ips", "depends", why));
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
        if let Some(bytes) = route.buffer.bytes {
            let why = format!("the whole body is read first, up to {bytes} bytes");
            steps.push(step("buffer", "pass", why));
        }
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
        steps.push(step("rewrite", "send", self.target()));
        let timeout = format!("{:?} for all attempts", route.timeout.total);
        steps.push(step("timeout", "limit", timeout));
        let once = "one more attempt, only if no byte of the request was sent";
        steps.push(step("retry", "limit", once));
        for (upstream, &index) in upstreams.zip(&route.upstreams) {
            let policy = match &upstream.policy {
                Policy::P2cEwma => "p2c_ewma",
                Policy::LeastRequest => "least_request",
                Policy::RoundRobin => "round_robin",
                Policy::Hash(_) => "hash",
            };
            let candidates = match self.groups.and_then(|groups| groups.get(index)) {
                Some(group) => running(group),
                None => upstream.sources.iter().map(source).collect::<Vec<_>>().join(", "),
            };
            let detail = format!("`{}` by {policy}: {candidates}", upstream.name);
            steps.push(step("upstream", "send", detail));
        }
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
        Values { path, query: target.query(), params: self.params }
    }
}

fn running(group: &Group) -> String {
    let endpoints = group.snapshot().endpoints;
    if endpoints.is_empty() {
        return "no address at the moment".to_owned();
    }
    let told = endpoints.iter().map(|endpoint| {
        let expected = endpoint.ewma_seconds * 1000.0;
        let flying = endpoint.in_flight;
        format!("{} ({}, {flying} in flight, {expected:.1} ms)", endpoint.address, endpoint.state)
    });
    told.collect::<Vec<_>>().join(", ")
}

fn source(source: &Source) -> String {
    match &source.address {
        SourceAddress::Host { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        SourceAddress::Host { host, port } => format!("{host}:{port}"),
        SourceAddress::Srv(name) => format!("srv:{name}"),
        SourceAddress::Unix(path) => format!("unix:{path}"),
    }
}

fn step(policy: &str, outcome: &str, detail: impl Into<String>) -> Step {
    Step { policy: policy.to_owned(), outcome: outcome.to_owned(), detail: detail.into() }
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}
