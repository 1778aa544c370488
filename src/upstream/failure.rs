//! Classifies a failed exchange, and decides whether the request can be handed back.

use std::{error, io};

use hyper::client::conn::TrySendError;

use crate::{
    error::{Error, Kind, Sent},
    http::{self as ours, Body, Request, body::is_malformed},
    upstream::{h1::H1, handshake::H2Stream, io::Mark, spare::Spare},
};

type Failed = TrySendError<http::Request<Body>>;

/// Why a response body failed: hyper fails it only when the connection did.
pub(crate) fn broken_off(error: hyper::Error) -> Error {
    let kind = if is_malformed(&error) {
        Kind::UpstreamBadResponse
    } else {
        Kind::UpstreamReset(Sent::MaybeSeen)
    };
    Error::new(kind).with_source(error)
}

/// Classifies a failed exchange. If nothing of the request was written, the error carries it: the
/// one hyper hands back, or else the spare copy.
pub(crate) fn failed_h1(
    mut failed: Failed,
    h1: &H1,
    mark: Mark,
    spare: Option<Box<Spare>>,
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

/// The same on h2, where the peer's words decide. `of_upload`: why the request's body failed.
pub(crate) fn failed_h2(
    mut failed: Failed,
    stream: &H2Stream,
    of_upload: Option<&Kind>,
    spare: Option<Box<Spare>>,
    cx: ours::Context,
) -> Error {
    let unsent = failed.take_message();
    let cause = failed.into_error();
    let by_peer = find::<h2::Error>(&cause).filter(|error| error.is_remote());
    // After the remote's GOAWAY, only the streams it excludes fail.
    let is_excluded = by_peer.is_some_and(h2::Error::is_go_away);
    let is_refused = is_excluded
        || by_peer.is_some_and(|error| {
            error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
        });
    if is_excluded || unsent.is_some() {
        // hyper learns of the GOAWAY only with its next request, which must not be the retry of
        // this one.
        stream.retire_connection();
    }
    let sent = if unsent.is_some() || is_refused { Sent::Nothing } else { Sent::MaybeSeen };
    let kind = of_upload.cloned().unwrap_or_else(|| match find::<h2::Error>(&cause) {
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
    spare: Option<Box<Spare>>,
    cx: ours::Context,
) -> Error {
    match (unsent, spare) {
        (Some(request), _) => {
            let (parts, body) = request.into_parts();
            error.with_unsent(Request::new(parts, body, cx))
        }
        (None, Some(spare)) if sent == Sent::Nothing => match spare.request(cx) {
            Some(request) => error.with_unsent(request),
            None => error,
        },
        (None, _) => error,
    }
}

/// The request body's own failure, if that ended the exchange: then it is the client's fault.
fn of_body(cause: &hyper::Error) -> Option<Kind> {
    find::<Error>(cause).map(|error| error.kind().clone())
}

/// The upstream stopped reading, as our stream or the kernel found.
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
