//! A request and its endpoint to a response: the innermost step of the stack.
//!
//! Takes a connection from the worker's pool, says the request anew on it (`reframe`), and gives
//! the connection back once the response body has been read to its end. Dropping the future gives
//! the attempt up: on h1 the connection closes, on h2 the stream is reset.
//!
//! Fails with `upstream-connect`, `-tls`, `-reset`, `-closed-idle`, `-bad-response`, or
//! `concurrency-full` when every h2 stream is taken. The error carries the request whenever not one
//! byte of it left; whether one did is what the connection's meter says, on h2 what the peer says. Of
//! a streaming body that hyper had begun to read there is nothing left to hand back.
//!
//! Costs, on a pooled connection: hyper's channel, one box for this future, and one for the return
//! of the connection when there is a body. A new connection, one idle for a few milliseconds and
//! every h2 stream pay for a copy of the request's head as well (`spare`).

use std::{
    error,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Version;
use http_body::Body as _;
use hyper::{body::Incoming, client::conn::TrySendError};
use tower::Service;

use crate::{
    error::{Error, Kind, Result, Sent},
    http::{
        self as ours, Body, Request, Response,
        body::{End, Finish, Guard, is_malformed},
        is_repeatable,
        pace::Pace,
    },
    upstream::{
        Call, Flight,
        checkout::{Checkout, Lease},
        handshake::{H1, H2Stream},
        io::Mark,
        reframe,
        spare::Spare,
        upgrade,
        upload::{self, Progress},
    },
};

/// Sends requests to the endpoint that was chosen for them.
#[derive(Clone, Copy, Debug)]
pub struct Forward {
    preserve_host: bool,
}

/// Gives an h1 connection back at the end of the body, and ends the request's being counted.
struct Return {
    h1: Box<H1>,
    flight: Flight,
}

/// Frees an h2 stream's place at the end of the body.
struct Free {
    _stream: Streaming,
    _flight: Flight,
}

/// An h2 stream, which a request body may have a share in.
enum Streaming {
    Alone(H2Stream),
    Shared(Arc<Progress>),
}

// === impl Forward ===

impl Forward {
    /// `preserve_host`: the upstream sees the client's `Host`, not its own name.
    pub fn new(preserve_host: bool) -> Self {
        Self { preserve_host }
    }
}

impl Service<Call> for Forward {
    type Response = Response;
    type Error = Error;
    // hyper's response future has no name, so one box, here and nowhere further out.
    type Future = Pin<Box<dyn Future<Output = Result<Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        Box::pin(exchange(call, self.preserve_host))
    }
}

/// Sends the request of `call` and gives its response, as [`Forward`] does.
pub async fn exchange(call: Call, preserve_host: bool) -> Result<Response> {
    let Call { mut request, flight } = call;
    let local = flight.local();
    if let Some(asked) = upgrade::Asked::take(&mut request.parts, local.transport().settings()) {
        // In a box, so that the future of all others need not be as large.
        return Box::pin(upgrade::exchange(request, asked, flight, preserve_host)).await;
    }
    let is_unsafe = !is_repeatable(&request.parts.method);
    let lease = match local.pool().checkout(local, is_unsafe) {
        Checkout::Ready(lease) => lease,
        Checkout::Wait(waiting) => {
            request.cx.set_connecting(true);
            let waited = waiting.await;
            request.cx.set_connecting(false);
            match waited {
                Ok(lease) => lease,
                Err(error) => return Err(error.with_unsent(request)),
            }
        }
        Checkout::Full => return Err(Error::new(Kind::ConcurrencyFull).with_unsent(request)),
    };
    match lease {
        Lease::H1(h1) => exchange_h1(request, h1, flight, preserve_host).await,
        Lease::H2(stream) => exchange_h2(request, stream, flight, preserve_host).await,
    }
}

async fn exchange_h1(
    request: Request,
    mut h1: Box<H1>,
    flight: Flight,
    preserve_host: bool,
) -> Result<Response> {
    let Request { mut parts, body, cx } = request;
    reframe::to_h1(&mut parts, &body, flight.local().authority(), preserve_host);
    let spare = h1.is_doubtful.then(|| Spare::of(&parts, &body)).flatten();
    let mark = h1.mark();
    let sent = h1.sender.try_send_request(http::Request::from_parts(*parts, body));
    match sent.await {
        Ok(response) => respond_h1(response, h1, flight),
        Err(failed) => {
            let error = failed_h1(failed, &h1, mark, spare, cx);
            if matches!(error.kind(), Kind::UpstreamClosedIdle(_)) {
                flight.local().pool().count_race();
            }
            Err(error.with_detail(&**flight.local().label()))
        }
    }
}

fn respond_h1(
    response: http::Response<Incoming>,
    mut h1: Box<H1>,
    flight: Flight,
) -> Result<Response> {
    let (mut parts, incoming) = response.into_parts();
    h1.is_reused = true;
    h1.is_doubtful = false;
    // From now on hyper says HTTP/1.0 on it, without `chunked`: a body of unknown length would
    // silently be left out.
    h1.is_spent = parts.version == Version::HTTP_10;
    let settings = flight.local().transport().settings();
    h1.keep_alive = match reframe::keep_alive(&parts.headers) {
        Some(promised) => promised.min(settings.idle_timeout),
        None => settings.idle_timeout,
    };
    // On refusal the connection drops here, and with it whatever else is on it.
    reframe::check_response(&mut parts, false)?;
    if incoming.is_end_stream() {
        let local = flight.local();
        local.pool().put(local, h1);
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    let mut body = receive(&parts, incoming, &flight);
    body.attach(Guard::Upstream(Box::new(Return { h1, flight })));
    Ok(Response::from_parts(parts, body))
}

async fn exchange_h2(
    request: Request,
    stream: H2Stream,
    flight: Flight,
    preserve_host: bool,
) -> Result<Response> {
    let Request { mut parts, body, cx } = request;
    let local = flight.local();
    let is_tls = local.transport().is_tls();
    reframe::to_h2(&mut parts, &body, local.authority(), preserve_host, is_tls)?;
    let spare = Spare::of(&parts, &body);
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
            // Dropped, the request resets its stream.
            () = progress.stalled(local.transport().settings().send_idle_timeout) => {
                return Err(Error::new(Kind::UpstreamTimeoutTry(Sent::MaybeSeen))
                    .with_detail(format!("{}: it takes no more of the body", local.label())));
            }
        },
    };
    let response = match answered {
        Ok(response) => response,
        Err(failed) => {
            return Err(failed_h2(failed, &stream, spare, cx).with_detail(&**local.label()));
        }
    };
    let (mut parts, incoming) = response.into_parts();
    reframe::check_response(&mut parts, false)?;
    if incoming.is_end_stream() {
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    let mut body = receive(&parts, incoming, &flight);
    body.set_h2_response();
    body.attach(Guard::Upstream(Box::new(Free { _stream: stream, _flight: flight })));
    Ok(Response::from_parts(parts, body))
}

/// The body of a response, held to the upstream's pace.
pub(crate) fn receive(parts: &http::response::Parts, incoming: Incoming, flight: &Flight) -> Body {
    let mut body = Body::from_incoming(incoming, broken_off);
    if !reframe::is_event_stream(&parts.headers) {
        let timeout = flight.local().transport().settings().response_idle_timeout;
        body.set_pace(Pace::upstream(timeout));
    }
    body
}

/// What a failure of a response body means: hyper fails it only when the connection did.
fn broken_off(error: hyper::Error) -> Error {
    let kind = if is_malformed(&error) {
        Kind::UpstreamBadResponse
    } else {
        Kind::UpstreamReset(Sent::MaybeSeen)
    };
    Error::new(kind).with_source(error)
}

type Failed = TrySendError<http::Request<Body>>;

/// What a failed exchange means; with the request in it if nothing of it was written: as hyper hands
/// it back, or else the spare one.
pub(crate) fn failed_h1(
    mut failed: Failed,
    h1: &H1,
    mark: Mark,
    spare: Option<Spare>,
    cx: ours::Context,
) -> Error {
    let unsent = failed.take_message();
    let cause = failed.into_error();
    let now = h1.cut();
    let sent = if unsent.is_some() || now.written == mark.written {
        Sent::Nothing
    } else {
        Sent::MaybeSeen
    };
    let error = if let Some(kind) = of_body(&cause) {
        Error::new(kind)
    } else if cause.is_parse() {
        Error::new(Kind::UpstreamBadResponse)
    } else if is_timeout(&cause) {
        Error::new(Kind::UpstreamTimeoutTry(sent))
    } else if h1.is_reused && now.read == mark.read {
        Error::new(Kind::UpstreamClosedIdle(sent))
    } else {
        Error::new(Kind::UpstreamReset(sent))
    };
    with_unsent(error.with_source(cause), sent, unsent, spare, cx)
}

fn failed_h2(
    mut failed: Failed,
    stream: &Streaming,
    spare: Option<Spare>,
    cx: ours::Context,
) -> Error {
    let unsent = failed.take_message();
    let cause = failed.into_error();
    let by_peer = find::<h2::Error>(&cause).filter(|error| error.is_remote());
    // Of the streams of a connection only those it excludes fail with the remote's GOAWAY.
    let is_excluded = by_peer.is_some_and(h2::Error::is_go_away);
    let is_refused = is_excluded
        || by_peer.is_some_and(|error| {
            error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
        });
    if is_excluded || unsent.is_some() {
        // hyper learns of the GOAWAY with the next request: that is not to be the one tried again.
        stream.get().retire_connection();
    }
    let sent = if unsent.is_some() || is_refused { Sent::Nothing } else { Sent::MaybeSeen };
    let kind = stream.failure().cloned().unwrap_or_else(|| match find::<h2::Error>(&cause) {
        _ if is_timeout(&cause) => Kind::UpstreamTimeoutTry(sent),
        Some(error) if error.is_library() => Kind::UpstreamBadResponse,
        _ => Kind::UpstreamReset(sent),
    });
    with_unsent(Error::new(kind).with_source(cause), sent, unsent, spare, cx)
}

fn with_unsent(
    error: Error,
    sent: Sent,
    unsent: Option<http::Request<Body>>,
    spare: Option<Spare>,
    cx: ours::Context,
) -> Error {
    match (unsent, spare) {
        (Some(request), _) => {
            let (parts, body) = request.into_parts();
            error.with_unsent(Request::new(parts, body, cx))
        }
        (None, Some(spare)) if sent == Sent::Nothing => error.with_unsent(spare.into_request(cx)),
        (None, _) => error,
    }
}

/// The request body's own failure, if that is what ended the exchange: then it is the client's.
fn of_body(cause: &hyper::Error) -> Option<Kind> {
    find::<Error>(cause).map(|error| error.kind().clone())
}

/// The upstream took nothing of what we had for it, as our stream or the kernel found.
fn is_timeout(cause: &hyper::Error) -> bool {
    find::<io::Error>(cause).is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

fn find<E: error::Error + 'static>(error: &hyper::Error) -> Option<&E> {
    let mut cause = error::Error::source(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

// === impl Return ===

impl Finish for Return {
    fn finish(self: Box<Self>, end: End) {
        let Self { h1, flight } = *self;
        // Anything but the end leaves bytes of this response on it: it closes by being dropped.
        if end == End::Complete {
            let local = flight.local();
            local.pool().put(local, h1);
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
    fn finish(self: Box<Self>, _: End) {}
}
