//! The HTTP endpoints that publish and hand out events, in the formats of
//! [`wire`](crate::events::wire).
//!
//! A call passes [`endpoint`] (method and path), then [`query`] and [`body`] (its parameters), then
//! [`answer`](fn@answer), which carries it out through [`facade`](crate::events::facade). [`view`]
//! formats results, [`problem`] formats refusals. No sockets here: the caller passes in the head
//! and the whole body.

mod answer;
mod body;
mod endpoint;
mod problem;
mod query;
mod stream;
mod view;

#[cfg(test)]
mod tests;

pub use self::{
    answer::{Access, Call, answer},
    endpoint::Endpoint,
    problem::Problem,
};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::{HeaderValue, Response, StatusCode, header};

/// The body of an answer.
pub enum Payload {
    /// The whole body.
    Full(Bytes),
    /// Piece by piece, as events come.
    Stream(BoxStream<'static, Bytes>),
}

/// A complete answer.
fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Payload> {
    let mut response = Response::new(Payload::Full(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full(bytes) => f.debug_tuple("Full").field(&bytes.len()).finish(),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}
