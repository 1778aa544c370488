//! A request to the endpoint it goes to.

use std::{
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tower::Service;

use crate::{
    balancer::GroupHandle,
    error::{Error, Kind, Result},
    http::{Request, Response},
    upstream::Call,
};

/// Chooses an endpoint of the route's upstream and calls the transport with it.
#[derive(Clone, Debug)]
pub struct Balance<S> {
    groups: Arc<[GroupHandle]>,
    inner: S,
}

/// The response, or why there is none.
pub struct ResponseFuture<F> {
    inner: PhantomData<F>,
}

// === impl Balance ===

impl<S> Balance<S> {
    /// `groups` are the route's upstreams, in the order `Context::upstream` counts.
    pub fn new(groups: impl Into<Arc<[GroupHandle]>>, inner: S) -> Self {
        Self { groups: groups.into(), inner }
    }
}

impl<S> Service<Request> for Balance<S>
where
    S: Service<Call, Response = Response, Error = Error>,
{
    type Response = Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request) -> Self::Future {
        ResponseFuture { inner: PhantomData }
    }
}

// === impl ResponseFuture ===

impl<F> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response>>,
{
    type Output = Result<Response>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Err(Kind::UpstreamNone.into()))
    }
}
