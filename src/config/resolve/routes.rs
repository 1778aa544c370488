//! `routes`: which requests a route takes, and what its layers do.

use std::{collections::HashMap, sync::Arc};

use http::{HeaderName, Method};
use regex::Regex;

use super::{Named, Resolver, limits::Limits, publish::Flow};
use crate::{
    config::{
        Route,
        file::{
            self,
            route::{EncodedSeparators, HeaderMatch, Match},
        },
        value::{Fault, Name, ParamName, Value as _, path_template},
        written::{OneOrMany, Placed, Written},
    },
    events::{enqueue, publish},
    middleware::{buffer, concurrency_limit},
    routing::{
        Rule,
        route::{HeaderPredicate, Path, Segment},
    },
};

const DEFAULT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);
const DEFAULT_MAX_IN_FLIGHT: usize = 1024;
/// The first segment that is the gateway's own.
const RESERVED: &str = ".sluice";

impl Resolver<'_> {
    pub(super) fn routes(
        &mut self,
        written: &[Placed<file::Route>],
        limits: &Limits,
        named: &mut Named<'_>,
    ) -> Vec<Route> {
        self.unique_names("routes", written.iter().map(|route| &route.value.name));
        let routes: Vec<_> = written.iter().map(|route| self.route(route, limits, named)).collect();
        self.warn_shadowed(written, &routes);
        self.check_groups(written, &routes, named.rate_limits);
        routes
    }

    fn route(
        &mut self,
        written: &Placed<file::Route>,
        limits: &Limits,
        named: &mut Named<'_>,
    ) -> Route {
        let Placed { value: route, .. } = written;
        let claims = self.claims(route, named.credentials);
        let rule = Rule { claims: claims.claims.clone(), ..self.rule(route) };
        let params = params(&rule.path);
        let (action, used) = self.action(written, &params, named.upstreams);
        let (body_limit, buffer_bytes) = self.route_limits(route.limits.as_ref(), limits);
        let idempotency = self.idempotency(route);
        let publish = self.publications(route, &params, named.flow);
        self.warn_of_repeats(route, idempotency.as_ref(), &publish, named.flow.topics);
        let key_field = idempotency.as_ref().map(|it| &it.header);
        let auth = self.auth(route.auth.as_ref(), named.credentials, named.upstreams);
        let enqueue = self.enqueue(route, &params, named.flow, key_field, auth.as_ref());
        let is_counted = idempotency.is_some()
            || enqueue.is_some()
            || publish.iter().any(publish::Settings::reads_request);
        let reads_body = used.iter().any(|index| named.upstreams.reads_body(*index)) || is_counted;
        let buffer_bytes = largest_body(&publish, enqueue.as_ref(), named.flow)
            .map_or(buffer_bytes, |largest| buffer_bytes.min(largest));
        let total = self.positive(route.timeout.as_ref(), DEFAULT_TIMEOUT);
        let (retry, timeout) = self.retry(route, total);
        let max_in_flight = self.count(route.max_in_flight.as_ref(), DEFAULT_MAX_IN_FLIGHT);
        let headers = self.headers(route, &params);
        let action = action.changed(&headers.response);
        Route {
            merge_slashes: self.or(route.merge_slashes.as_ref(), true),
            ip_filter: self.ip_filter(route),
            cors: route.cors.as_ref().map(|cors| self.cors(cors, rule.methods.as_deref())),
            body_limit,
            rate_limits: self.route_limits_named(route, &params, named.rate_limits),
            concurrency_limit: Some(concurrency_limit::Settings { max_in_flight }),
            auth,
            claims,
            buffer: buffer::Settings { bytes: reads_body.then_some(buffer_bytes), is_counted },
            idempotency,
            publish,
            enqueue,
            action,
            mirror: self.mirror(route, named, &used, total),
            upstreams: used,
            fault: self.fault(route, named),
            headers,
            timeout,
            retry,
            rule,
        }
    }

    fn rule(&mut self, route: &file::Route) -> Rule {
        let everything = Match::default();
        let matches = route.matches.as_ref().unwrap_or(&everything);
        let name = self.value(&route.name).unwrap_or_else(|| Name("".into()));
        let separators = self.or(route.encoded_separators.as_ref(), EncodedSeparators::Reject);
        if separators == EncodedSeparators::Reject {
            self.warn_of_separators(matches);
        }
        self.warn_of_foreign_names(matches);
        Rule {
            name: name.0,
            priority: self.or(route.priority.as_ref(), 0),
            hosts: self.all(matches.host.as_ref()).unwrap_or_default(),
            path: self.path(matches),
            scheme: matches.scheme.as_ref().and_then(|scheme| self.value(scheme)),
            methods: self.methods(matches.methods.as_ref()),
            headers: matches
                .headers
                .iter()
                .filter_map(|(name, predicate)| {
                    self.warn_of_removed(name);
                    Some((self.value(name)?, self.header_predicate(predicate)?))
                })
                .collect(),
            query: matches
                .query
                .iter()
                .map(|(name, value)| (name.text.as_str().into(), value.text.as_str().into()))
                .collect(),
            claims: Vec::new(),
            pass_encoded_separators: separators == EncodedSeparators::Pass,
        }
    }

    /// All of a list; an empty one would be mistaken for `any`.
    fn all<T: crate::config::value::Value>(
        &mut self,
        written: Option<&OneOrMany<Written<T>>>,
    ) -> Option<Vec<T>> {
        written.map(|list| list.iter().filter_map(|item| self.value(item)).collect())
    }

    fn methods(&mut self, written: Option<&OneOrMany<Written<Method>>>) -> Option<Vec<Method>> {
        self.all(written).filter(|methods| !methods.is_empty())
    }

    fn path(&mut self, matches: &Match) -> Path {
        match (&matches.path, &matches.path_regex) {
            (None, None) => Path::Any,
            (Some(template), None) => {
                let path = self.checked(template.place, path_template(&template.text));
                let path = path.unwrap_or(Path::Any);
                if is_reserved(&path) {
                    let fault = Fault::new("paths below `/.sluice/` are reserved for the gateway")
                        .help("choose another first segment");
                    self.error(template.place, fault);
                }
                path
            }
            (None, Some(expression)) => self.anchored(expression).map_or(Path::Any, Path::Regex),
            (Some(_), Some(expression)) => {
                let fault = Fault::new("a route has either `path` or `path_regex`")
                    .help("remove one of them");
                self.error(expression.place, fault);
                Path::Any
            }
        }
    }

    /// The expression for the whole path; checked by itself first, so that it cannot close the
    /// group around it.
    fn anchored(&mut self, written: &Written<Regex>) -> Option<Regex> {
        self.value(written)?;
        self.checked(written.place, Regex::parse(&format!(r"\A(?:{})\z", written.text)))
    }

    /// Warns of a path that only requests have which the route refuses.
    fn warn_of_separators(&mut self, matches: &Match) {
        let Some(path) = &matches.path else { return };
        let lower = path.text.to_ascii_lowercase();
        if let Some(separator) = ["%2f", "%5c"].into_iter().find(|it| lower.contains(it)) {
            let separator = separator.to_ascii_uppercase();
            let fault = Fault::new(format!(
                "requests for this path get 400, because it contains `{separator}`"
            ));
            let help = "add `encoded_separators: pass` to the route to let them through";
            self.warn(path.place, fault.help(help));
        }
    }

    /// Warns of a segment that is a placeholder elsewhere and is matched as it is written here.
    fn warn_of_foreign_names(&mut self, matches: &Match) {
        let Some(path) = &matches.path else { return };
        let is_foreign =
            |it: &&str| matches!(*it, "*" | "**") || it.len() > 1 && it.starts_with(':');
        if let Some(segment) = path.text.split('/').find(is_foreign) {
            let fault =
                Fault::new(format!("`{segment}` is not a placeholder: it matches only itself"));
            let help =
                "write `{name}` for one segment, or `{*rest}` at the end for everything below";
            self.warn(path.place, fault.help(help));
        }
    }

    /// Warns of a field that no route ever sees, because it is removed from every request.
    fn warn_of_removed(&mut self, name: &Written<HeaderName>) {
        let lower = name.text.to_ascii_lowercase();
        if lower.contains('_') || lower.starts_with("x-sluice-") {
            let fault = Fault::new(format!(
                "no request has the header `{}` when routes are matched",
                name.text
            ));
            let help = "the gateway removes headers with `_` in their name, and `x-sluice-*`";
            self.warn(name.place, fault.help(help));
        }
    }

    fn header_predicate(&mut self, written: &HeaderMatch) -> Option<HeaderPredicate> {
        match written {
            HeaderMatch::Exact(value) => self.value(value).map(HeaderPredicate::Exact),
            HeaderMatch::Regex(regex) => self.value(regex).map(HeaderPredicate::Regex),
            HeaderMatch::Present(present) => self.value(present).map(HeaderPredicate::Present),
        }
    }

    /// Two routes that ask the same of a request: the second never gets one.
    fn warn_shadowed(&mut self, written: &[Placed<file::Route>], routes: &[Route]) {
        let mut seen: HashMap<String, &Arc<str>> = HashMap::new();
        for (route, written) in routes.iter().zip(written) {
            let Rule {
                name, priority, hosts, path, scheme, methods, headers, query, claims, ..
            } = &route.rule;
            let asks = (priority, hosts, path, scheme, methods, headers, query, claims);
            let asks = format!("{asks:?}");
            if let Some(first) = seen.get(&asks) {
                let fault = Fault::new(format!(
                    "this route never matches: `{first}` takes the same requests"
                ))
                .help("the route that stands first in the file wins");
                self.warn(written.value.name.place, fault);
            } else {
                seen.insert(asks, name);
            }
        }
    }
}

/// How much of a body events and stored requests may carry, if any does.
fn largest_body(
    publications: &[publish::Settings],
    enqueue: Option<&enqueue::Settings>,
    flow: Flow<'_>,
) -> Option<u64> {
    let carrying = publications.iter().filter(|it| it.data.has_request());
    let names = carrying.map(|it| &it.topic).chain(enqueue.map(|it| &it.topic));
    let topics = names.filter_map(|name| flow.topics.iter().find(|topic| topic.name == *name));
    topics.map(|topic| topic.max_event_bytes).min()
}

/// The names in a path template.
fn params(path: &Path) -> Vec<ParamName> {
    let Path::Template(segments) = path else { return Vec::new() };
    segments
        .iter()
        .filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Name(name) | Segment::Rest(name) => Some(Arc::clone(name)),
        })
        .collect()
}

fn is_reserved(path: &Path) -> bool {
    match path {
        Path::Exact(path) => path.split('/').nth(1) == Some(RESERVED),
        Path::Template(segments) => {
            matches!(segments.first(), Some(Segment::Literal(first)) if **first == *RESERVED)
        }
        Path::Any | Path::Regex(_) => false,
    }
}
