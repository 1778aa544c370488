//! What it means that a body failed on its way here.

use std::{error, io};

use crate::error::{Error, Kind};

/// A request body that fails is the client's doing: it left, or broke the framing.
pub(super) fn client_failed(error: hyper::Error) -> Error {
    let kind = if is_malformed(&error) { Kind::BadFraming } else { Kind::ClientClosed };
    Error::new(kind).with_source(error)
}

/// Whether a body failed for what was in it, not for the connection under it. What its decoder
/// refuses hyper tells as an `io::Error`, as it does a broken connection: only the kind differs.
pub fn is_malformed(error: &hyper::Error) -> bool {
    let cause = error::Error::source(error).and_then(|cause| cause.downcast_ref());
    let is_refused = cause.map(io::Error::kind).is_some_and(|kind| {
        matches!(kind, io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
    });
    error.is_parse() || is_refused
}
