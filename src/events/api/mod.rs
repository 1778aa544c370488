//! Events over HTTP: the endpoints that take and give them, as [`wire`](crate::events::wire) writes
//! them.
//!
//! [`endpoint`] is which method and path is what; [`body`] and [`query`] what a call may say;
//! [`answer`](fn@answer) does it, by what [`facade`](crate::events::facade) offers; [`view`] is how
//! things are shown and [`problem`] how a refusal is told. It knows no sockets: whoever has one hands
//! in the head and the whole body.

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
    /// All of it.
    Full(Bytes),
    /// Piece by piece, as there is something to tell.
    Stream(BoxStream<'static, Bytes>),
}

/// An answer that is all there.
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
