//! A proxy of hyper's server and hyper's client with nothing between them but a list of idle connections:
//! what benches/compare measures Sluice against (`HYPER=1`), as nothing on hyper can cost less.
//!
//! `cargo run --release --example hyper -- PORT ORIGIN-PORT`

#![expect(clippy::unwrap_used, reason = "a yardstick ends where it fails")]

use std::{
    net::Ipv4Addr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    server::conn::http1,
    service::service_fn,
};
use parking_lot::Mutex;
use sluicegate::{http::io::Io, telemetry::task};
use tokio::net::{TcpListener, TcpStream};

#[global_allocator]
static ALLOCATOR: sluicegate::cli::Allocator = sluicegate::cli::Allocator;

type Idle = Arc<Mutex<Vec<SendRequest<Incoming>>>>;

/// A body that gives its connection back when it is over.
struct Returning {
    inner: Incoming,
    sender: Option<SendRequest<Incoming>>,
    idle: Idle,
}

fn main() {
    let ports: Vec<u16> = std::env::args().skip(1).map(|port| port.parse().unwrap()).collect();
    let [port, origin] = ports[..] else { panic!("PORT ORIGIN-PORT") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(serve(port, origin));
}

async fn serve(port: u16, origin: u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let idle = Idle::default();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        client.set_nodelay(true).unwrap();
        let idle = idle.clone();
        let service = service_fn(move |request| forward(request, origin, idle.clone()));
        // A client that goes away in the middle of something has ended its connection.
        let serving = http1::Builder::new().serve_connection(Io(client), service);
        task::spawn("connection", async move { drop(serving.await) });
    }
}

async fn forward(
    request: Request<Incoming>,
    origin: u16,
    idle: Idle,
) -> hyper::Result<Response<Returning>> {
    let ready = idle.lock().pop();
    let mut sender = match ready {
        Some(sender) => sender,
        None => connect(origin).await?,
    };
    let response = sender.send_request(request).await?;
    Ok(response.map(|inner| Returning { inner, sender: Some(sender), idle }))
}

async fn connect(origin: u16) -> hyper::Result<SendRequest<Incoming>> {
    let upstream = TcpStream::connect((Ipv4Addr::LOCALHOST, origin)).await.unwrap();
    upstream.set_nodelay(true).unwrap();
    let (sender, connection) = handshake(Io(upstream)).await?;
    task::spawn("upstream", async move { drop(connection.await) });
    Ok(sender)
}

// === impl Returning ===

impl Body for Returning {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        self.idle.lock().extend(self.sender.take());
    }
}
