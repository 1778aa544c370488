//! Classifies a failed exchange, and decides whether the request can be handed back.

use std::{error, io};

use hyper::client::conn::TrySendError;

use crate::{
    error::{Error, Kind, Sent},
    http::{self as ours, Body, Request, body::is_malformed},
    upstream::{
        h1::{Broken, H1},
        handshake::H2Stream,
        spare::Spare,
    },
};

/// Why a response body failed.
pub(crate) fn broken_off(broken: Broken) -> Error {
    let kind = match &broken {
        // The request's body: its client broke the exchange off.
        Broken::Body(error) => error.kind().clone(),
        Broken::Invalid(_) => Kind::UpstreamBadResponse,
        Broken::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
            Kind::UpstreamTimeoutTry(Sent::MaybeSeen)
        }
        Broken::Io(_) | Broken::Length => Kind::UpstreamReset(Sent::MaybeSeen),
    };
    Error::new(kind).with_source(broken)
}

/// The same on h2. If it follows from a failure of the request's body, its guard knows.
pub(crate) fn broken_off_h2(error: hyper::Error) -> Error {
    let kind = if is_malformed(&error) {
        Kind::UpstreamBadResponse
    } else {
        Kind::UpstreamReset(Sent::MaybeSeen)
    };
    Error::new(kind).with_source(error)
}

/// Classifies a failed exchange. If nothing of the request was written, the
/// error carries it: the one that waits to be written, or else the spare copy.
pub(crate) fn failed_h1(
    broken: Broken,
    h1: &mut H1,
    spare: Option<Box<Spare>>,
    cx: ours::Context,
) -> Error {
    let (mark, now) = (h1.begun(), h1.mark());
    let sent = if now.written == mark.written { Sent::Nothing } else { Sent::MaybeSeen };
    let kind = match &broken {
        Broken::Body(error) => error.kind().clone(),
        Broken::Invalid(_) => Kind::UpstreamBadResponse,
        Broken::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
            Kind::UpstreamTimeoutTry(sent)
        }
        Broken::Length => Kind::BadFraming,
        Broken::Io(_) if h1.is_reused && now.read == mark.read => Kind::UpstreamClosedIdle(sent),
        Broken::Io(_) => Kind::UpstreamReset(sent),
    };
    let error = Error::new(kind).with_source(broken);
    if sent == Sent::MaybeSeen {
        return error;
    }
    let unsent = match h1.take_request() {
        Some((parts, body)) => Some(Request { parts, body, cx }),
        None => spare.and_then(|spare| spare.request(cx)),
    };
    match unsent {
        Some(request) => error.with_unsent(request),
        None => error,
    }
}

/// The same on h2, where the peer's words decide. `of_upload`: why the request's body failed.
pub(crate) fn failed_h2(
    mut failed: TrySendError<http::Request<Body>>,
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
    let error = Error::new(kind).with_source(cause);
    let unsent = match unsent {
        Some(request) => {
            let (parts, body) = request.into_parts();
            Some(Request::new(parts, body, cx))
        }
        None if sent == Sent::Nothing => spare.and_then(|spare| spare.request(cx)),
        None => None,
    };
    match unsent {
        Some(request) => error.with_unsent(request),
        None => error,
    }
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
