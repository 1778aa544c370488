//! Everything that can go wrong with a request, named for what happened.
//!
//! [`Kind`] is one closed list. Whatever depends on a failure (status, whose fault it is, whether
//! it may be retried, the reason string, what happens to the connection) is a total function of it,
//! so the compiler finds every place that a new kind must be handled. Only [`response`] turns an
//! error into a response.

mod auth;
mod facts;
mod idempotency;
mod kind;
mod queue;
pub mod response;

pub use self::{
    auth::{AuthFault, AuthRefusal},
    facts::{Denial, Exceeded, Method405, RetryClass, Sent, Side},
    idempotency::IdempotencyFault,
    kind::Kind,
    queue::QueueFault,
};

use std::{error, fmt};

use parking_lot::Mutex;

use crate::http::Request;

type Source = Box<dyn error::Error + Send + Sync>;

/// A failed request: a [`Kind`], and the details for the log.
///
/// One pointer wide, so that `Result<Response, Error>` costs nothing on success. `detail` and
/// `source` are for the operator's log only; a client never sees them.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    detail: Option<Box<str>>,
    source: Option<Source>,
    /// The mutex only makes it `Sync`, which hyper requires of a body's error; it is never locked.
    unsent: Mutex<Option<Request>>,
}

/// Proof that not one byte of a request left. Only an error that says so gives one out: with the
/// types of `middleware::retry` this ensures that nothing unsafe is sent twice.
#[derive(Debug)]
pub struct Unsent(Option<Request>);

/// `Result` with the crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

// === impl Error ===

impl Error {
    /// An error of this kind without details.
    pub fn new(kind: Kind) -> Self {
        Self(Box::new(Inner { kind, detail: None, source: None, unsent: Mutex::new(None) }))
    }

    /// Adds a sentence for the operator's log.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Box<str>>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Adds the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Hands the request back: not one byte of it left. Only whoever counted the bytes may do so.
    #[must_use]
    pub fn with_unsent(mut self, request: Request) -> Self {
        *self.0.unsent.get_mut() = Some(request);
        self
    }

    /// Proof that not one byte of the request left, if this is such a failure, with the request if
    /// it was handed back. The kind decides: a request that may have been seen is never returned.
    pub fn take_unsent(&mut self) -> Option<Unsent> {
        let request = self.0.unsent.get_mut().take();
        match self.0.kind.retry_class() {
            RetryClass::NotSent => Some(Unsent(request)),
            RetryClass::MaybeSeen => None,
            // Refused before it could be sent, if whoever refused it handed it back.
            RetryClass::Final => request.map(|request| Unsent(Some(request))),
        }
    }

    /// What happened.
    pub fn kind(&self) -> &Kind {
        &self.0.kind
    }

    /// The sentence for the operator's log, without the causes.
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }
}

// === impl Unsent ===

impl Unsent {
    /// The request, unless its sender had begun to read the body and lost it.
    pub fn into_request(self) -> Option<Request> {
        self.0
    }
}

// === impl Error ===

impl From<Kind> for Error {
    fn from(kind: Kind) -> Self {
        Self::new(kind)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = self.0.kind.reason();
        f.write_str(reason)?;
        if let Some(detail) = &self.0.detail {
            // A failure that several requests share is passed on as its text, reason included.
            match detail.strip_prefix(reason) {
                Some(rest) if rest.is_empty() || rest.starts_with(": ") => f.write_str(rest)?,
                _ => write!(f, ": {detail}")?,
            }
        }
        let mut cause = self.0.source.as_deref().map(|e| e as &dyn error::Error);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("detail", &self.0.detail)
            .field("source", &self.0.source)
            .finish()
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as &(dyn error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_is_passed_on_as_text_has_its_reason_once() {
        let first = Error::new(Kind::UpstreamConnect).with_detail("a:1").with_source("refused");
        assert_eq!(first.to_string(), "upstream-connect: a:1: refused");
        let passed_on = Error::new(Kind::UpstreamConnect).with_detail(first.to_string());
        assert_eq!(passed_on.to_string(), "upstream-connect: a:1: refused");
        let bare = Error::new(Kind::UpstreamConnect);
        let bare = Error::new(Kind::UpstreamConnect).with_detail(bare.to_string());
        assert_eq!(bare.to_string(), "upstream-connect");
        let other = Error::new(Kind::UpstreamConnect).with_detail("upstream-connected: a:1");
        assert_eq!(other.to_string(), "upstream-connect: upstream-connected: a:1");
    }
}
