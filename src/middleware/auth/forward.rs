//! `auth.forward`: asks another service.
//!
//! The service gets a GET for `url` with who asks for what (`X-Forwarded-Method`, `-Proto`,
//! `-Host`, `-Uri`, `-For`, `X-Request-Id`) and the listed fields of the request, never a body. 2xx
//! admits the request; the listed fields of the answer replace the client's fields of the same
//! names. Fields that state an identity were already removed at the edge, so another check of
//! `any_of` does not let the client's own through. Any other status becomes the client's answer,
//! with `WWW-Authenticate`, `Location` and `Retry-After`, and `Set-Cookie` if listed. No answer
//! within `timeout` is 503 `auth-unavailable`: nobody is admitted unchecked.
//!
//! Costs one exchange on this worker's own kept-alive connections, a box, and a context of its own,
//! so that the request's log shows only its own attempts. Dropping the future cancels the exchange.

use std::{fmt, time::Duration};

use futures_util::FutureExt as _;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header, request::Parts,
};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout_at};

use super::check::{Decide, Deciding};
use crate::{
    error::{Denial, Error, Kind, Result, RetryClass},
    http::{
        Body, ClientIp, Context, Next, Request, Response,
        names::{
            X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_METHOD, X_FORWARDED_PROTO,
            X_FORWARDED_URI, X_REQUEST_ID,
        },
    },
    telemetry::task,
};

/// How much of an answer is read so that its connection can be reused.
const MAX_ANSWER: u64 = 16 * 1024;
/// Fields of a refusal that the client always gets, besides those listed.
const ALWAYS_TOLD: [HeaderName; 3] =
    [header::WWW_AUTHENTICATE, header::LOCATION, header::RETRY_AFTER];

/// `auth.forward`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The service's absolute URL.
    pub url: Uri,
    /// From the question to the head of its answer.
    pub timeout: Duration,
    /// Fields of the request that are sent to the service.
    pub request_headers: Vec<HeaderName>,
    /// Fields of its answer that are sent upstream; the client's own are removed.
    pub response_headers: Vec<HeaderName>,
    /// Index of the service among the upstreams.
    pub upstream: usize,
}

/// Asks one service. One per worker and route.
pub struct Forward<S> {
    settings: Settings,
    host: HeaderValue,
    service: S,
}

// === impl Forward ===

impl<S: Next + Sync> Forward<S> {
    /// `service` leads to the host of `settings.url` and must keep the `Host` it is given.
    pub fn new(settings: Settings, service: S) -> Self {
        let authority = settings.url.authority().map_or("", |authority| authority.as_str());
        Self {
            host: HeaderValue::from_str(authority)
                .unwrap_or_else(|_| HeaderValue::from_static("localhost")),
            settings,
            service,
        }
    }

    /// Admits the request, with the service's fields put into its head, or fails with `auth-denied`
    /// or `auth-unavailable`.
    async fn judge(&self, parts: &mut Parts, cx: &Context) -> Result<()> {
        let deadline = Instant::now() + self.settings.timeout;
        let answered = timeout_at(deadline, self.ask(parts, cx)).await;
        let unavailable = || Error::new(Kind::AuthUnavailable);
        let timeout = self.settings.timeout;
        let answer = answered
            .map_err(|_| unavailable().with_detail(format!("no answer within {timeout:?}")))?
            .map_err(|error| unavailable().with_source(error))?;
        let (answer, body) = answer.into_parts();
        drain_apart(body, deadline);
        match answer.status.as_u16() {
            200..=299 => {
                self.pass(parts, &answer.headers);
                Ok(())
            }
            // 304 answers a conditional request, and ours has no condition.
            300..=303 | 305..=599 => {
                Err(Kind::AuthDenied(self.denial(answer.status, &answer.headers)).into())
            }
            status => Err(unavailable().with_detail(format!("it answered with {status}"))),
        }
    }

    async fn ask(&self, parts: &Parts, cx: &Context) -> Result<Response> {
        match self.service.clone().call(self.question(parts, cx)).await {
            // The question changes nothing, so it is asked again if its connection was closing.
            Err(error) if is_stale(error.kind()) => {
                self.service.clone().call(self.question(parts, cx)).await
            }
            answered => answered,
        }
    }

    fn question(&self, parts: &Parts, cx: &Context) -> Request {
        let settings = &self.settings;
        let (mut question, ()) = http::Request::new(()).into_parts();
        question.method = Method::GET;
        question.uri = settings.url.clone();
        let headers = &mut question.headers;
        for name in &settings.request_headers {
            for value in parts.headers.get_all(name) {
                headers.append(name.clone(), value.clone());
            }
        }
        // After the listed fields, so that the client cannot override what we say about it.
        headers.insert(header::HOST, self.host.clone());
        for (name, value) in about(parts, cx) {
            match value {
                Some(value) => drop(headers.insert(name, value)),
                None => drop(headers.remove(name)),
            }
        }
        let cx = Context::new(cx.peer().clone(), Method::GET, Version::HTTP_11);
        Request { parts: Box::new(question), body: Body::empty(), cx }
    }

    /// Replaces the client's fields with the listed names by the service's.
    fn pass(&self, parts: &mut Parts, answer: &HeaderMap) {
        for name in &self.settings.response_headers {
            parts.headers.remove(name);
            for value in answer.get_all(name) {
                parts.headers.append(name.clone(), value.clone());
            }
        }
    }

    fn denial(&self, status: StatusCode, answer: &HeaderMap) -> Denial {
        let cookies = self.settings.response_headers.contains(&header::SET_COOKIE);
        let told = ALWAYS_TOLD.into_iter().chain(cookies.then_some(header::SET_COOKIE));
        let mut headers = HeaderMap::new();
        for name in told {
            for value in answer.get_all(&name) {
                headers.append(name.clone(), value.clone());
            }
        }
        Denial { status, headers: Box::new(headers) }
    }
}

impl<S: Next + Sync> Decide for Forward<S> {
    fn decide<'a>(&'a self, parts: &'a mut Parts, cx: &'a Context) -> Deciding<'a> {
        Box::pin(self.judge(parts, cx))
    }
}

/// What the service is told about the request; `None` removes the field, whoever set it.
fn about(parts: &Parts, cx: &Context) -> [(HeaderName, Option<HeaderValue>); 6] {
    let value = |text: &str| HeaderValue::from_str(text).ok();
    let kept = |name: HeaderName| (name.clone(), parts.headers.get(name).cloned());
    // The form used for matching routes: the service must decide on the same path.
    let target = cx.target().map(|target| target.path_and_query(true));
    let client = cx.client_ip().and_then(ClientIp::ip).and_then(|ip| value(&ip.to_string()));
    [
        (X_FORWARDED_METHOD, value(parts.method.as_str())),
        (X_FORWARDED_URI, target.and_then(|target| value(target.as_str()))),
        (X_FORWARDED_FOR, client),
        (X_REQUEST_ID, cx.request_id().cloned()),
        kept(X_FORWARDED_PROTO),
        kept(X_FORWARDED_HOST),
    ]
}

/// Whether the connection failed rather than the service.
fn is_stale(kind: &Kind) -> bool {
    matches!(kind, Kind::UpstreamClosedIdle(_)) || kind.retry_class() == RetryClass::NotSent
}

/// Reads the rest of an answer by `deadline`. The client does not wait: the decision is made.
fn drain_apart(body: Body, deadline: Instant) {
    let mut draining = Box::pin(timeout_at(deadline, drain(body)));
    // Most often the rest is here already, or there is none.
    if draining.as_mut().now_or_never().is_none() {
        task::spawn("auth answer", draining);
    }
}

/// Reads a short body to its end; if there is more, the connection is given up.
async fn drain(mut body: Body) {
    while let Some(Ok(_)) = body.frame().await {
        if body.seen() > MAX_ANSWER {
            return;
        }
    }
}

impl<S> fmt::Debug for Forward<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{future, sync::Arc};

    use parking_lot::Mutex;
    use tower::service_fn;

    use super::*;
    use crate::{error::Sent, middleware::testing};

    fn settings(request: &[&'static str], response: &[&'static str]) -> Settings {
        let names = |names: &[&'static str]| {
            names.iter().map(|name| HeaderName::from_static(name)).collect()
        };
        Settings {
            url: "http://auth.internal:9000/check?app=shop".parse().unwrap(),
            timeout: Duration::from_secs(2),
            request_headers: names(request),
            response_headers: names(response),
            upstream: 0,
        }
    }

    /// A request as `edge` leaves it.
    fn asked(method: Method) -> Request {
        let body = Body::full("a secret body");
        let mut request = testing::request(method, "/orders/7?x=1", body);
        request.cx.set_client_ip(ClientIp::Ip("192.0.2.7".parse().unwrap()));
        request.cx.set_request_id(HeaderValue::from_static("r-1"));
        for (name, value) in [
            ("authorization", "Bearer t"),
            ("cookie", "a=b"),
            ("x-user", "root"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop.example"),
            ("x-forwarded-for", "10.9.9.9, 192.0.2.7"),
        ] {
            request.parts.headers.insert(name, HeaderValue::from_static(value));
        }
        request
    }

    fn answer(status: u16, fields: &[(&'static str, &'static str)]) -> Response {
        let mut response = Response::new(Body::full("a page of the service"));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in fields {
            response.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        response
    }

    type Seen = Arc<Mutex<Vec<Request>>>;

    /// A service that answers with `answers(n)` to question number n.
    fn service(
        answers: impl Fn(usize) -> Result<Response> + Clone + Send + Sync + 'static,
    ) -> (Seen, impl Next + Sync) {
        let seen = Seen::default();
        let service = service_fn({
            let seen = seen.clone();
            move |request: Request| {
                let mut seen = seen.lock();
                seen.push(request);
                future::ready(answers(seen.len()))
            }
        });
        (seen, service)
    }

    #[tokio::test]
    async fn the_service_learns_what_is_listed_and_never_the_body() {
        let (seen, service) = service(|_| Ok(answer(204, &[])));
        let forward = Forward::new(settings(&["authorization", "x-forwarded-for"], &[]), service);
        let mut request = asked(Method::POST);
        forward.decide(&mut request.parts, &request.cx).await.unwrap();

        let question = seen.lock().pop().unwrap();
        assert_eq!(question.parts.method, Method::GET);
        assert_eq!(question.parts.uri, "http://auth.internal:9000/check?app=shop");
        assert!(question.body.is_in_memory() && question.body.as_full().is_none());
        let mut fields: Vec<_> = question
            .parts
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        fields.sort();
        assert_eq!(
            fields,
            [
                "authorization: Bearer t",
                "host: auth.internal:9000",
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-host: shop.example",
                "x-forwarded-method: POST",
                "x-forwarded-proto: https",
                "x-forwarded-uri: /orders/7?x=1",
                "x-request-id: r-1",
            ]
        );
        assert!(
            request.cx.with_attempts(<[_]>::is_empty),
            "the log has the request's own attempts"
        );
    }

    #[tokio::test]
    async fn what_the_service_says_takes_the_place_of_what_the_client_said() {
        let (_, service) = service(|_| {
            Ok(answer(200, &[("x-user", "alice"), ("x-other", "no"), ("cookie", "no")]))
        });
        let forward = Forward::new(settings(&[], &["x-user", "x-roles"]), service);
        let mut request = asked(Method::GET);
        request.parts.headers.insert("x-roles", HeaderValue::from_static("admin"));
        forward.decide(&mut request.parts, &request.cx).await.unwrap();
        let headers = &request.parts.headers;
        assert_eq!(headers["x-user"], "alice");
        assert!(!headers.contains_key("x-roles"), "the client's word does not stay");
        assert!(!headers.contains_key("x-other"));
        assert_eq!(headers["cookie"], "a=b");
    }

    #[tokio::test]
    async fn a_refusal_is_the_clients_answer_with_safe_fields_only() {
        let fields = &[
            ("www-authenticate", "Basic"),
            ("location", "https://login.example/"),
            ("set-cookie", "s=1"),
            ("set-cookie", "t=2"),
            ("x-user", "alice"),
            ("x-internal", "10.0.0.1"),
        ];
        for (status, response_headers, cookies) in [
            (401, &["x-user"][..], 0),
            (302, &["set-cookie", "x-internal"][..], 2),
            (500, &[][..], 0),
        ] {
            let (_, service) = service(move |_| Ok(answer(status, fields)));
            let forward = Forward::new(settings(&[], response_headers), service);
            let mut request = asked(Method::GET);
            let error = forward.decide(&mut request.parts, &request.cx).await.unwrap_err();
            let Kind::AuthDenied(denial) = error.kind() else { panic!("{error}") };
            assert_eq!(denial.status.as_u16(), status);
            assert_eq!(denial.headers["location"], "https://login.example/");
            assert_eq!(denial.headers["www-authenticate"], "Basic");
            assert_eq!(denial.headers.get_all("set-cookie").iter().count(), cookies);
            assert_eq!(denial.headers.len(), 2 + cookies, "and nothing else");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_answer_nobody_passes() {
        let hanging = service_fn(|_: Request| future::pending::<Result<Response>>());
        let forward = Forward::new(settings(&[], &["x-user"]), hanging);
        let mut request = asked(Method::GET);
        let start = Instant::now();
        let error = forward.decide(&mut request.parts, &request.cx).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::AuthUnavailable), "{error}");
        assert_eq!(start.elapsed(), Duration::from_secs(2));

        for failure in [
            Kind::UpstreamReset(Sent::MaybeSeen),
            Kind::UpstreamBadResponse,
            Kind::UpstreamDns,
            Kind::ConcurrencyFull,
        ] {
            let (seen, service) = service(move |_| Err(failure.clone().into()));
            let forward = Forward::new(settings(&[], &[]), service);
            let error = forward.decide(&mut request.parts, &request.cx).await.unwrap_err();
            assert!(matches!(error.kind(), Kind::AuthUnavailable), "{error}");
            assert_eq!(seen.lock().len(), 1);
        }
        let (_, service) = service(|_| Ok(answer(304, &[])));
        let forward = Forward::new(settings(&[], &[]), service);
        let error = forward.decide(&mut request.parts, &request.cx).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::AuthUnavailable), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_of_an_answer_is_nothing_to_wait_for() {
        let (feed, body) = testing::fed();
        let body = Arc::new(Mutex::new(Some(body)));
        let service = service_fn(move |_: Request| {
            future::ready(Ok(Response::new(body.lock().take().unwrap())))
        });
        let forward = Forward::new(settings(&[], &[]), service);
        let mut request = asked(Method::GET);
        let start = Instant::now();
        forward.decide(&mut request.parts, &request.cx).await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
        // It is read, so that the connection can be reused, but not for ever.
        feed.send(testing::data("more")).await.unwrap();
        feed.closed().await;
        assert_eq!(start.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test]
    async fn a_connection_that_died_while_idle_costs_nobody_an_answer() {
        for stale in [Kind::UpstreamClosedIdle(Sent::MaybeSeen), Kind::UpstreamReset(Sent::Nothing)]
        {
            let (seen, service) = service(move |number| match number {
                1 => Err(stale.clone().into()),
                _ => Ok(answer(200, &[])),
            });
            let forward = Forward::new(settings(&[], &[]), service);
            let mut request = asked(Method::GET);
            forward.decide(&mut request.parts, &request.cx).await.unwrap();
            assert_eq!(seen.lock().len(), 2);
        }
    }
}
