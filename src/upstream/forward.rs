//! Sends a request to its endpoint and returns the response: the innermost step of the stack.
//!
//! Takes a connection from the worker's pool, rewrites the head for it (`reframe`), and returns the
//! connection once the response body has been read to its end. Dropping the future cancels the
//! attempt: on h1 the connection closes, on h2 the stream is reset.
//!
//! Fails with `upstream-connect`, `-tls`, `-reset`, `-closed-idle`, `-bad-response`, or
//! `concurrency-full` when every h2 stream is taken. The error carries the request if no byte of it
//! left: on h1 the connection's meter decides that, on h2 what the peer says. If some of a streaming
//! body had been read, the request comes back with what `spare` has kept of it.
//!
//! Cost on a pooled h1 connection: one copy of the response's head, with the body if that is small.
//! Everything else, including new connections and h2, pays for a box. Streaming bodies on a new
//! connection, on one idle for a few milliseconds and on every h2 stream also pay for a copy of the
//! request's head and of the first 64 KiB of the body (`spare`).

use std::{
    future::{self, Future},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::Body as _;
use hyper::body::Incoming;
use tower::Service;

use crate::{
    error::{Error, Kind, Result, Sent},
    http::{
        self as ours, Body, Request, Response,
        body::{End, Finish, Guard},
        is_repeatable,
        pace::Pace,
    },
    upstream::{
        Call, Flight,
        checkout::{Checkout, Lease, Waiting},
        failure::{broken_off_h2, failed_h1, failed_h2},
        h1::{self, Answer, Broken, H1},
        handshake::H2Stream,
        reframe,
        spare::Spare,
        upgrade,
        upload::{self, Progress},
    },
};

/// Sends each request to the endpoint that was chosen for it.
#[derive(Clone, Copy, Debug)]
pub struct Forward {
    preserve_host: bool,
}

/// The response, or why there is none.
pub struct ResponseFuture(State);

enum State {
    /// Not yet polled: nothing has been done.
    Asked(Option<Call>, Forward),
    H1(ExchangeH1),
    /// hyper's futures are unnameable, and so are those that wait for them.
    Boxed(Boxed),
    Over,
}

type Boxed = Pin<Box<dyn Future<Output = Result<Response>> + Send>>;

/// A request on an h1 connection that had to be waited for.
struct ExchangeH1 {
    h1: Box<H1>,
    flight: Flight,
    spare: Option<Box<Spare>>,
    cx: ours::Context,
}

/// Frees an h2 stream's place when the body ends.
struct Free {
    stream: Streaming,
    _flight: Flight,
}

/// An h2 stream, which the request body may share.
enum Streaming {
    Alone(H2Stream),
    Shared(Arc<Progress>),
}

// === impl Forward ===

impl Forward {
    /// `preserve_host`: the upstream sees the client's `Host` instead of its own name.
    pub fn new(preserve_host: bool) -> Self {
        Self { preserve_host }
    }
}

impl Service<Call> for Forward {
    type Response = Response;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        ResponseFuture(State::Asked(Some(call), *self))
    }
}

/// Sends the request of `call` and returns its response, as [`Forward`] does.
pub fn exchange(call: Call, preserve_host: bool) -> ResponseFuture {
    Forward::new(preserve_host).call(call)
}

fn begin(call: Call, Forward { preserve_host }: Forward) -> State {
    let Call { mut request, flight } = call;
    let local = flight.local();
    if let Some(asked) = upgrade::Asked::take(&mut request.parts, local.transport().settings()) {
        return State::boxed(upgrade::exchange(request, asked, flight, preserve_host));
    }
    let is_unsafe = !is_repeatable(&request.parts.method);
    match local.pool().checkout(local, is_unsafe) {
        Checkout::Ready(Lease::H1(h1)) => {
            State::H1(ExchangeH1::begin(request, h1, flight, preserve_host))
        }
        Checkout::Ready(Lease::H2(stream)) => {
            State::boxed(exchange_h2(request, stream, flight, preserve_host))
        }
        Checkout::Wait(waiting) => {
            State::boxed(exchange_later(request, waiting, flight, preserve_host))
        }
        Checkout::Full => {
            let error = Error::new(Kind::ConcurrencyFull).with_unsent(request);
            State::boxed(future::ready(Err(error)))
        }
    }
}

/// Like [`begin`], on a connection that has to be waited for.
async fn exchange_later(
    request: Request,
    waiting: Waiting,
    flight: Flight,
    preserve_host: bool,
) -> Result<Response> {
    request.cx.set_connecting(true);
    let waited = waiting.await;
    request.cx.set_connecting(false);
    match waited {
        Ok(Lease::H1(h1)) => {
            let begun = ExchangeH1::begin(request, h1, flight, preserve_host);
            ResponseFuture(State::H1(begun)).await
        }
        Ok(Lease::H2(stream)) => exchange_h2(request, stream, flight, preserve_host).await,
        Err(error) => Err(error.with_unsent(request)),
    }
}

fn respond_h1(answer: Answer, mut h1: Box<H1>, flight: Flight) -> Result<Response> {
    let Answer { mut parts, body, .. } = answer;
    let settings = flight.local().transport().settings();
    h1.keep_alive = match reframe::keep_alive(&parts.headers) {
        Some(promised) => promised.min(settings.idle_timeout),
        None => settings.idle_timeout,
    };
    // A refused response drops the connection here, with whatever else is on it.
    reframe::check_response(&mut parts, false)?;
    let body = receive_h1(&parts, body, h1, flight);
    Ok(Response::from_parts(parts, body))
}

/// The body of a response: what is here of it, or what is still to be read from the connection.
pub(crate) fn receive_h1(
    parts: &http::response::Parts,
    whole: Option<Bytes>,
    mut h1: Box<H1>,
    flight: Flight,
) -> Body {
    if let Some(whole) = whole {
        let local = flight.local();
        local.pool().put(local, h1);
        return Body::full(whole);
    }
    let idle_timeout = flight.local().transport().settings().response_idle_timeout;
    h1.flight = Some(flight);
    let mut body = if h1.is_sending() { h1::read_apart(h1) } else { Body::received(h1) };
    if !reframe::is_event_stream(&parts.headers) {
        body.set_pace(Pace::upstream(idle_timeout));
    }
    body
}

async fn exchange_h2(
    request: Request,
    stream: H2Stream,
    flight: Flight,
    preserve_host: bool,
) -> Result<Response> {
    let Request { mut parts, mut body, cx } = request;
    let local = flight.local();
    let is_tls = local.transport().is_tls();
    reframe::to_h2(&mut parts, &body, local.authority(), preserve_host, is_tls)?;
    let spare = Spare::of(&parts, &mut body);
    let method = parts.method.clone();
    let (body, stream) = if body.is_in_memory() {
        (body, Streaming::Alone(stream))
    } else {
        let (body, progress) = upload::watch(body, stream);
        (body, Streaming::Shared(progress))
    };
    let sent = stream.get().sender().try_send_request(http::Request::from_parts(*parts, body));
    let answered = match &stream {
        Streaming::Alone(_) => sent.await,
        Streaming::Shared(progress) => tokio::select! {
            biased;
            answered = sent => answered,
            // Dropping the request resets its stream.
            () = progress.stalled(local.transport().settings().send_idle_timeout) => {
                return Err(Error::new(Kind::UpstreamTimeoutTry(Sent::MaybeSeen))
                    .with_detail(format!("{}: it takes no more of the body", local.label())));
            }
        },
    };
    let response = match answered {
        Ok(response) => response,
        Err(failed) => {
            return Err(failed_h2(failed, stream.get(), stream.failure(), spare, cx)
                .with_detail(&**local.label()));
        }
    };
    let (mut parts, incoming) = response.into_parts();
    reframe::check_response(&mut parts, false)?;
    if incoming.is_end_stream() {
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    let mut body = receive_h2(&parts, incoming, &flight);
    body.attach(Guard::Upstream(Box::new(Free { stream, _flight: flight })));
    if reframe::is_without_content(&method, parts.status) {
        body.read_end_apart();
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    Ok(Response::from_parts(parts, body))
}

/// The body of a response over h2, with the upstream's pace and idle timeout enforced.
fn receive_h2(parts: &http::response::Parts, incoming: Incoming, flight: &Flight) -> Body {
    let mut body = Body::from_incoming(incoming, broken_off_h2);
    body.set_h2_response();
    if !reframe::is_event_stream(&parts.headers) {
        let timeout = flight.local().transport().settings().response_idle_timeout;
        body.set_pace(Pace::upstream(timeout));
    }
    body
}

// === impl ResponseFuture ===

impl Future for ResponseFuture {
    type Output = Result<Response>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let State::Asked(call, forward) = &mut self.0
            && let Some(call) = call.take()
        {
            self.0 = begin(call, *forward);
        }
        let answer = match &mut self.0 {
            State::H1(exchange) => ready!(exchange.h1.poll_answer(cx)),
            State::Boxed(boxed) => return boxed.as_mut().poll(cx),
            State::Asked(..) | State::Over => return Poll::Pending,
        };
        match mem::replace(&mut self.0, State::Over) {
            State::H1(exchange) => Poll::Ready(exchange.end(answer)),
            State::Asked(..) | State::Boxed(_) | State::Over => Poll::Pending,
        }
    }
}

// === impl State ===

impl State {
    fn boxed(future: impl Future<Output = Result<Response>> + Send + 'static) -> Self {
        Self::Boxed(Box::pin(future))
    }
}

// === impl ExchangeH1 ===

impl ExchangeH1 {
    fn begin(request: Request, mut h1: Box<H1>, flight: Flight, preserve_host: bool) -> Self {
        let Request { mut parts, mut body, cx } = request;
        reframe::to_h1(&mut parts, &body, flight.local().authority(), preserve_host);
        // A body in memory stays with the connection until it is written.
        let may_need = h1.is_doubtful && !body.is_in_memory();
        let spare = may_need.then(|| Spare::of(&parts, &mut body)).flatten();
        h1.send(parts, body);
        Self { h1, flight, spare, cx }
    }

    fn end(self, answer: std::result::Result<Answer, Broken>) -> Result<Response> {
        let Self { mut h1, flight, spare, cx } = self;
        match answer {
            Ok(answer) => respond_h1(answer, h1, flight),
            Err(broken) => {
                let error = failed_h1(broken, &mut h1, spare, cx);
                if matches!(error.kind(), Kind::UpstreamClosedIdle(_)) {
                    flight.local().pool().count_race();
                }
                Err(error.with_detail(&**flight.local().label()))
            }
        }
    }
}

// === impl Streaming ===

impl Streaming {
    fn get(&self) -> &H2Stream {
        match self {
            Self::Alone(stream) => stream,
            Self::Shared(progress) => progress.stream(),
        }
    }

    fn failure(&self) -> Option<&Kind> {
        match self {
            Self::Alone(_) => None,
            Self::Shared(progress) => progress.failure(),
        }
    }
}

// === impl Free ===

impl Finish for Free {
    fn cause(&self) -> Option<&Kind> {
        self.stream.failure()
    }

    fn finish(self: Box<Self>, _: End) {}
}
