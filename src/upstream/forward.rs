//! A request and an endpoint to a response.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tower::Service;

use crate::{
    error::{Error, Kind, Result},
    http::Response,
    upstream::Call,
};

/// Sends requests to the endpoint that was chosen for them. The innermost step of the stack.
#[derive(Clone, Copy, Debug)]
pub struct Forward {
    preserve_host: bool,
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
    type Future = Pin<Box<dyn Future<Output = Result<Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        Box::pin(exchange(call, self.preserve_host))
    }
}

/// Sends the request of `call` and gives its response. Dropping the future gives the attempt up.
pub async fn exchange(call: Call, _preserve_host: bool) -> Result<Response> {
    Err(Error::new(Kind::UpstreamNone).with_unsent(call.request))
}
