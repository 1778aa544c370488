//! What the failure of a received body means.

use std::{error, io};

use crate::error::{Error, Kind};

/// A request body that fails is the client's fault: it left, or broke the framing.
pub(super) fn client_failed(error: hyper::Error) -> Error {
    let kind = if is_malformed(&error) { Kind::BadFraming } else { Kind::ClientClosed };
    Error::new(kind).with_source(error)
}

/// Whether a body failed because of its content, not its connection. hyper reports both as an
/// `io::Error`, decoder errors and a broken connection: only the kind differs.
pub fn is_malformed(error: &hyper::Error) -> bool {
    let cause = error::Error::source(error).and_then(|cause| cause.downcast_ref());
    let is_refused = cause.map(io::Error::kind).is_some_and(|kind| {
        matches!(kind, io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
    });
    error.is_parse() || is_refused
}
