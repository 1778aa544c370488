//! One exchange on a dedicated connection: what a health check sends.
//!
//! It takes the same path as requests (address, TLS, certificates, protocol) but bypasses the pool,
//! so that neither takes connections from the other. Dropping the future closes the connection. The
//! size of an answer is bounded.

use std::{future::Future, pin::pin};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, StatusCode, Uri,
    header::{CONNECTION, HOST},
    uri,
};
use http_body_util::{BodyExt, Limited};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    rt::Executor,
};

use crate::{
    error::{Error, Kind, Result},
    http::Body,
    telemetry::task,
    upstream::{Endpoint, Transport, io::Io},
};

/// The largest response head.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// The same, as HTTP/2 counts it.
const MAX_HEAD_BYTES_H2: u32 = 16 * 1024;
/// The largest body that is read; a longer one fails the check.
const MAX_BODY_BYTES: usize = 16 * 1024;

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

/// Whether the body of the answer is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Head,
    Whole,
}

/// Runs hyper's tasks of one connection.
#[derive(Clone, Copy)]
struct Spawn;

/// Connects, including TLS, and no more.
pub(crate) async fn connect(transport: &Transport, endpoint: &Endpoint) -> Result<()> {
    transport.dial(endpoint, false).await.map(drop)
}

/// Sends `request`, whose target is a path, and reads the answer. The caller limits the time.
pub(crate) async fn ask(
    transport: &Transport,
    endpoint: &Endpoint,
    mut request: http::Request<Body>,
    read: Read,
) -> Result<Answer> {
    let dialled = transport.dial(endpoint, false).await?;
    let (io, _meter) = Io::new(dialled.stream, transport.settings().send_idle_timeout);
    if dialled.is_h2 {
        absolute(&mut request, endpoint.authority(), transport.is_tls())?;
        let mut builder = http2::Builder::new(Spawn);
        builder.max_header_list_size(MAX_HEAD_BYTES_H2);
        let (mut sender, connection) = builder.handshake(io).await.map_err(broken)?;
        beside(connection, exchange(sender.send_request(request), read)).await
    } else {
        request.headers_mut().insert(HOST, endpoint.authority().clone());
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        let mut builder = http1::Builder::new();
        builder.max_header_size(MAX_HEAD_BYTES);
        let (mut sender, connection) = builder.handshake(io).await.map_err(broken)?;
        beside(connection, exchange(sender.send_request(request), read)).await
    }
}

/// The outcome of `exchange`, driving `connection` meanwhile.
async fn beside<C: Future, T>(connection: C, exchange: impl Future<Output = T>) -> T {
    let mut exchange = pin!(exchange);
    // The exchange first: an answer that has arrived counts, whatever became of its connection.
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        _ = connection => exchange.await,
    }
}

async fn exchange(
    sent: impl Future<Output = hyper::Result<http::Response<Incoming>>>,
    read: Read,
) -> Result<Answer> {
    let (parts, incoming) = sent.await.map_err(broken)?.into_parts();
    let mut answer = Answer {
        status: parts.status,
        headers: parts.headers,
        body: Bytes::new(),
        trailers: HeaderMap::new(),
    };
    if read == Read::Whole {
        let limited = Limited::new(incoming, MAX_BODY_BYTES);
        let collected = limited
            .collect()
            .await
            .map_err(|error| Error::new(Kind::UpstreamBadResponse).with_source(error))?;
        answer.trailers = collected.trailers().cloned().unwrap_or_default();
        answer.body = collected.to_bytes();
    }
    Ok(answer)
}

/// HTTP/2 has scheme and authority in the target.
fn absolute(
    request: &mut http::Request<Body>,
    authority: &HeaderValue,
    is_tls: bool,
) -> Result<()> {
    let scheme = if is_tls { uri::Scheme::HTTPS } else { uri::Scheme::HTTP };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(scheme);
    // A name of a checked configuration, or of DNS.
    parts.authority = uri::Authority::try_from(authority.as_bytes()).ok();
    *request.uri_mut() =
        Uri::from_parts(parts).map_err(|error| Error::new(Kind::Internal).with_source(error))?;
    Ok(())
}

fn broken(error: hyper::Error) -> Error {
    let kind = if error.is_parse() {
        Kind::UpstreamBadResponse
    } else {
        Kind::UpstreamReset(crate::error::Sent::MaybeSeen)
    };
    Error::new(kind).with_source(error)
}

// === impl Spawn ===

impl<F> Executor<F> for Spawn
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, future: F) {
        // Ends with its connection.
        task::spawn("health check stream", future);
    }
}
