//! The shared vocabulary: one [`Request`], one [`Response`], one [`Body`], one [`Context`], one
//! [`Next`]; and the pure rules of HTTP that more than one folder needs.
//!
//! Every layer of the stack is a [`Next`]: it takes a [`Request`] and returns a [`Response`] or an
//! [`Error`]. Facts about an exchange are written once to its [`Context`]; whatever must happen
//! when a body ends is attached to its [`Body`] as a guard.

pub mod body;
pub mod client_ip;
pub mod context;
pub mod der;
pub mod fetch;
pub mod fields;
pub mod guard;
pub mod held;
pub mod hex;
pub mod hop_by_hop;
pub mod idempotency;
pub mod identity;
pub mod io;
pub mod named_file;
pub mod names;
pub mod outcome;
pub mod pace;
pub mod packed;
pub mod peer;
pub mod principal;
pub mod query;
pub mod rate_limit_fields;
pub mod replay;
pub mod retry_after;
pub mod scheme;
pub mod secret;
pub mod selector;
pub mod sink;
pub mod target;
pub mod trailers;
pub mod upload;
pub mod webhook;

pub use self::{
    body::Body,
    client_ip::{Cidrs, ClientIp},
    context::Context,
    outcome::Outcome,
    pace::Pace,
    packed::PackedHead,
    peer::Peer,
    principal::Principal,
    retry_after::retry_after,
    scheme::Scheme,
    secret::Secret,
    target::Target,
};

use tower::Service;

use crate::error::Error;

/// A request on its way from the client to an upstream. Three pointers wide: each layer moves it.
#[derive(Debug)]
pub struct Request {
    /// Method, target, version, fields. `extensions` carries only what hyper puts there.
    pub parts: Box<http::request::Parts>,
    /// The body, read once and never wrapped.
    pub body: Body,
    /// What is known about this exchange; shared with the access log.
    pub cx: Context,
}

impl Request {
    /// A request made of these parts.
    pub fn new(parts: http::request::Parts, body: Body, cx: Context) -> Self {
        Self { parts: Box::new(parts), body, cx }
    }
}

/// Whether a method is idempotent (RFC 9110, 9.2.2). Unknown methods are not.
pub fn is_repeatable(method: &http::Method) -> bool {
    use http::Method;
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// A response on its way back.
pub type Response = http::Response<Body>;

/// The next step of the stack, whatever it is: the bound of every layer.
///
/// A step is always ready: a router cannot apply back-pressure, so overload is answered, never
/// signalled by `poll_ready`. That is why a layer may call `inner` without polling it first.
pub trait Next:
    Service<Request, Response = Response, Error = Error, Future: Send + 'static>
    + Clone
    + Send
    + 'static
{
}

impl<S> Next for S where
    S: Service<Request, Response = Response, Error = Error, Future: Send + 'static>
        + Clone
        + Send
        + 'static
{
}
