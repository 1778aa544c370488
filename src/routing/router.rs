//! The step from the layers of every request to a route's own stack.
//!
//! Touches every request. Reads scheme, host, target and fields; writes the route and the values bound by
//! its template into the context. Refuses with `route-none`, `method-not-allowed`, and `bad-target`
//! if the path contains an encoded separator that the route does not allow. Costs the search (see
//! `matcher`) and a reference of the bound names: no lock, no box, no clone of a stack. Each worker
//! has its own router, with its own names and metrics, over one shared table. Dropping the future
//! drops the route's.

use std::{
    collections::HashSet,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use pin_project_lite::pin_project;
use tower::Service;

use super::{
    Rule, Table,
    matcher::{self, Head, Match},
};
use crate::{
    error::{Error, Kind, Method405},
    http::{
        Next, Request, Response,
        context::{Bound, RouteInfo},
    },
};

/// One worker's part of a rule.
#[derive(Clone, Debug)]
pub struct RouteEntry<S> {
    /// For logs and metrics.
    pub info: Arc<RouteInfo>,
    /// The layers that its requests pass.
    pub stack: S,
}

/// Tells which route answers for a reserved path, so that the rules for the route's clients also
/// apply to requests for that path.
pub trait OwnPaths: fmt::Debug + Send + Sync {
    /// The index of the route, or the reason for none.
    fn route(&self, path: &str) -> Result<usize, Error>;
}

/// Passes each request to the stack of its route.
pub struct Router<S> {
    table: Arc<Table>,
    routes: Box<[Route<S>]>,
    own: Option<Arc<dyn OwnPaths>>,
}

#[derive(Clone)]
struct Route<S> {
    entry: RouteEntry<S>,
    /// Copies of the template's names, so that workers share no reference counts. One for all
    /// templates with the same names: the last request will have used it.
    names: Arc<[Box<str>]>,
    pass_encoded_separators: bool,
}

pin_project! {
    /// The answer of a route, or the refusal of a request without one.
    pub struct ResponseFuture<F> {
        #[pin]
        step: Step<F>,
    }
}

pin_project! {
    #[project = StepProjected]
    enum Step<F> {
        Refused { error: Option<Error> },
        Routed { #[pin] future: F },
    }
}

// === impl Router ===

impl<S> Router<S> {
    /// A router over `table` with one entry for each of its rules, in the order of the file; `own`:
    /// which of them answer for reserved paths.
    ///
    /// A rule without an entry answers `internal`.
    pub fn new(
        table: Arc<Table>,
        entries: impl IntoIterator<Item = RouteEntry<S>>,
        own: Option<Box<dyn OwnPaths>>,
    ) -> Self {
        let mut shared: HashSet<Arc<[Box<str>]>> = HashSet::new();
        let route = |(rule, entry): (&Rule, _)| {
            let names: Arc<[Box<str>]> = rule.path.names().map(|name| (**name).into()).collect();
            let names = shared.get(&names).cloned().unwrap_or(names);
            shared.insert(names.clone());
            Route { entry, names, pass_encoded_separators: rule.pass_encoded_separators }
        };
        let routes = table.rules().iter().zip(entries).map(route).collect();
        Self { table, routes, own: own.map(Arc::from) }
    }

    /// Finds the route of a request and sets it in the context.
    fn route(&mut self, request: &Request) -> Result<&mut Route<S>, Error> {
        let cx = &request.cx;
        let Some(target) = cx.target() else {
            return Err(Error::new(Kind::Internal).with_detail("routed without a target"));
        };
        if matcher::is_reserved(target.merged()) {
            let own = self.own.as_ref().ok_or(Kind::RouteNotFound)?;
            let index = own.route(target.merged())?;
            let route = self.routes.get_mut(index).ok_or(Kind::RouteNotFound)?;
            cx.set_route(route.entry.info.clone(), None);
            return Ok(route);
        }
        let head = Head {
            host: cx.host().unwrap_or_default(),
            path: target.merged(),
            scheme: cx.scheme(),
            method: &request.parts.method,
            query: target.query(),
            headers: &request.parts.headers,
        };
        match matcher::find(&self.table, head) {
            Match::None => Err(Kind::RouteNotFound.into()),
            Match::MethodNotAllowed { allow } => {
                Err(Kind::MethodNotAllowed(Method405 { allow }).into())
            }
            Match::Route { index, values } => {
                let Some(route) = self.routes.get_mut(index) else {
                    return Err(Error::new(Kind::Internal).with_detail("a rule without a route"));
                };
                let bound = (!values.is_empty())
                    .then(|| Bound::new(&route.names, target.merged(), &values));
                cx.set_route(route.entry.info.clone(), bound);
                if target.has_encoded_separator() && !route.pass_encoded_separators {
                    let detail = "the path holds %2F or %5C";
                    return Err(Error::new(Kind::BadTarget).with_detail(detail));
                }
                Ok(route)
            }
        }
    }
}

impl<S: Clone> Clone for Router<S> {
    fn clone(&self) -> Self {
        Self { table: self.table.clone(), routes: self.routes.clone(), own: self.own.clone() }
    }
}

impl<S> fmt::Debug for Router<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("routes", &self.routes.len()).finish_non_exhaustive()
    }
}

impl<S: Next> Service<Request> for Router<S> {
    type Response = Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let step = match self.route(&request) {
            Ok(route) => Step::Routed { future: route.entry.stack.call(request) },
            Err(error) => Step::Refused { error: Some(error) },
        };
        ResponseFuture { step }
    }
}

// === impl ResponseFuture ===

impl<F: Future<Output = Result<Response, Error>>> Future for ResponseFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        match self.project().step.project() {
            StepProjected::Routed { future } => future.poll(cx),
            // Must not be polled again after its end; still an answer, not a panic.
            StepProjected::Refused { error } => {
                Poll::Ready(Err(error.take().unwrap_or_else(|| Kind::Internal.into())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method, StatusCode};
    use tower::service_fn;

    use super::*;
    use crate::{
        http::{Body, Context, Peer, Target, peer::Address},
        routing::{Rule, route::Path, route::Segment},
        telemetry::metrics::Metrics,
    };

    fn rule(name: &str, path: Path, methods: Option<Vec<Method>>) -> Rule {
        Rule {
            name: Arc::from(name),
            priority: 0,
            hosts: Vec::new(),
            path,
            scheme: None,
            methods,
            headers: Vec::new(),
            query: Vec::new(),
            claims: Vec::new(),
            pass_encoded_separators: false,
        }
    }

    fn table() -> Table {
        let id = Path::Template(vec![
            Segment::Literal("orders".into()),
            Segment::Name("id".into()),
            Segment::Rest("rest".into()),
        ]);
        let mut raw = rule(
            "raw",
            Path::Template(vec![Segment::Literal("raw".into()), Segment::Name("x".into())]),
            None,
        );
        raw.pass_encoded_separators = true;
        Table::new(vec![rule("order", id, Some(vec![Method::GET])), raw])
    }

    fn request(method: Method, target: &str) -> Request {
        let peer = Peer::new(Arc::from("web"), Address::Unix, Address::Unix);
        let cx = Context::new(Arc::new(peer), method.clone(), http::Version::HTTP_11);
        cx.set_host("".into());
        cx.set_target(Target::parse_str(target).unwrap());
        let mut parts = http::Request::new(()).into_parts().0;
        parts.method = method;
        Request::new(parts, Body::empty(), cx)
    }

    /// The first route answers for one path.
    #[derive(Debug)]
    struct Own;

    impl OwnPaths for Own {
        fn route(&self, path: &str) -> Result<usize, Error> {
            match path {
                "/.sluice/requests/a" => Ok(0),
                "/.sluice/requests/b" => Ok(7),
                _ => Err(Kind::RouteNotFound.into()),
            }
        }
    }

    /// The route's name and bound values, or the failure.
    async fn send(method: Method, target: &str) -> Result<String, Error> {
        let cells = Metrics::new().thread();
        let table = Arc::new(table());
        let entries = table.rules().iter().map(|rule| RouteEntry {
            info: Arc::new(RouteInfo {
                name: rule.name.clone(),
                path: rule.path.to_string().into(),
                metrics: cells.route(&rule.name),
            }),
            stack: service_fn(|request: Request| async move {
                let bound: Vec<String> =
                    request.cx.params().iter().map(|(n, v)| format!("{n}={v}")).collect();
                let text = format!("{} {}", request.cx.route().unwrap().name, bound.join(","));
                Ok::<_, Error>(Response::new(Body::full(text)))
            }),
        });
        let entries: Vec<_> = entries.collect();
        let response =
            Router::new(table, entries, Some(Box::new(Own))).call(request(method, target)).await?;
        let body = response.into_body();
        Ok(String::from_utf8(body.as_full().unwrap().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn calls_the_stack_of_the_route() {
        let answer = send(Method::GET, "/orders//7/a//b%20").await.unwrap();
        assert_eq!(answer, "order id=7,rest=a/b%20");
        assert_eq!(send(Method::PUT, "/raw/a%2Fb").await.unwrap(), "raw x=a%2Fb");
    }

    #[tokio::test]
    async fn paths_of_the_gateways_own_go_to_the_route_that_answers_for_them() {
        let answer = send(Method::DELETE, "/.sluice//requests/a").await.unwrap();
        assert_eq!(answer, "order ", "whatever its rule asks for");
        for target in ["/.sluice/requests/b", "/.sluice/requests/c", "/.sluice/", "/.sluice"] {
            let error = send(Method::GET, target).await.unwrap_err();
            assert_eq!(error.kind().reason(), "route-none", "{target}");
        }
    }

    #[tokio::test]
    async fn refuses_what_no_route_takes() {
        let error = send(Method::GET, "/none").await.unwrap_err();
        assert_eq!(error.kind().status(), StatusCode::NOT_FOUND);
        let error = send(Method::PUT, "/orders/7/").await.unwrap_err();
        let Kind::MethodNotAllowed(Method405 { allow }) = error.kind() else { panic!("{error}") };
        assert_eq!(allow, HeaderValue::from_static("GET, HEAD"));
        let error = send(Method::GET, "/orders/a%5Cb/").await.unwrap_err();
        assert_eq!(error.kind().reason(), "bad-target");
    }
}
