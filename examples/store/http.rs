//! HTTP/1.1 as small as it gets: a server that can be killed, a client that keeps its connection.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client, server, service::service_fn};
use serde_json::Value;
use sluicegate::http::io::Io;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time,
};

/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a service says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) retry_after: Option<u32>,
    pub(crate) body: Value,
}

/// Answers requests; `None` breaks the connection without a word.
pub(crate) trait Handler: Send + Sync + 'static {
    fn answer(self: Arc<Self>, head: Parts, body: Bytes) -> BoxFuture<'static, Option<Reply>>;
}

/// Serves until it is dropped, which breaks off whatever is under way.
#[derive(Debug)]
pub(crate) struct Server {
    _tasks: JoinSet<()>,
}

/// One connection, made when it is needed.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    connection: Option<client::conn::http1::SendRequest<Full<Bytes>>>,
    tasks: JoinSet<()>,
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// There was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost;

/// A port nobody listens on.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

// === impl Reply ===

impl Reply {
    pub(crate) fn new(status: StatusCode, body: Value) -> Self {
        Self { status, retry_after: None, body }
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.body.to_string())));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

// === impl Server ===

impl Server {
    /// Listens there.
    pub(crate) async fn start(address: SocketAddr, handler: Arc<impl Handler>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, handler));
        Ok(Self { _tasks: tasks })
    }
}

async fn accept(listener: TcpListener, handler: Arc<impl Handler>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(serve(stream, Arc::clone(&handler)))),
                Err(_) => time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, handler: Arc<impl Handler>) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(move |request: Request<Incoming>| {
        let handler = Arc::clone(&handler);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map_err(|_| Lost)?.to_bytes();
            handler.answer(head, body).await.map(Reply::into_response).ok_or(Lost)
        }
    });
    // It ends with the client, or with an answer that is not given. Either is wanted.
    drop(server::conn::http1::Builder::new().serve_connection(Io(stream), service).await);
}

// === impl Client ===

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, connection: None, tasks: JoinSet::new() }
    }

    /// Sends a request, once.
    pub(crate) async fn send(&mut self, request: Request<Bytes>) -> Result<Answer, Lost> {
        let sent = time::timeout(PATIENCE, self.exchange(request.map(Full::new))).await;
        let answer = sent.unwrap_or(Err(Lost));
        if answer.is_err() {
            self.connection = None;
        }
        answer
    }

    async fn exchange(&mut self, mut request: Request<Full<Bytes>>) -> Result<Answer, Lost> {
        let host = self.address.to_string().parse().map_err(|_| Lost)?;
        request.headers_mut().insert(header::HOST, host);
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => self.connect().await?,
        };
        connection.ready().await.map_err(|_| Lost)?;
        let response = connection.send_request(request).await.map_err(|_| Lost)?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|_| Lost)?.to_bytes();
        self.connection = Some(connection);
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    async fn connect(&mut self) -> Result<client::conn::http1::SendRequest<Full<Bytes>>, Lost> {
        let stream = TcpStream::connect(self.address).await.map_err(|_| Lost)?;
        stream.set_nodelay(true).map_err(|_| Lost)?;
        let (sender, connection) =
            client::conn::http1::handshake(Io(stream)).await.map_err(|_| Lost)?;
        // The one before it has ended.
        self.tasks.abort_all();
        while self.tasks.try_join_next().is_some() {}
        self.tasks.spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}

// === impl Answer ===

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

// === impl Lost ===

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no answer")
    }
}

impl std::error::Error for Lost {}
