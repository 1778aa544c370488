//! The gateway's own requests, with the connections, TLS and parsing of `upstream`, like all
//! others.
//!
//! Runs on the control thread, a few times an hour: it opens a connection for each request and
//! keeps none, and loads the system's certificate authorities anew, so that replaced ones are
//! noticed.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Uri, Version, header, uri::Scheme};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::time::timeout_at;

use crate::{
    balancer::{Resolve, dns},
    error::{Error, Kind, RetryClass},
    http::{
        Body, Context, Peer, Request, Response,
        fetch::{self, Answer, Fetch, FetchError, Fetching, Question},
        peer::Address as PeerAddress,
    },
    upstream::{
        self, Address, Call, Endpoint, Pools, Protocol, TlsSettings, Transport, forward::exchange,
    },
};

/// How many addresses of a name are tried, one after another, until one connects.
const MAX_ADDRESSES: usize = 4;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The time limit of each step of an exchange; the question's deadline covers all of it.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// Its name in logs and metrics.
const NAME: &str = "gateway";

/// Fetches with its own connections.
pub(super) struct Client {
    resolver: Arc<dyn Resolve>,
    pools: Arc<Pools>,
    peer: Arc<Peer>,
}

/// The destination of a URL.
struct Place {
    is_https: bool,
    /// Without brackets.
    host: Box<str>,
    port: u16,
    authority: HeaderValue,
}

// === impl Client ===

impl Client {
    /// A client that uses the connections of `pools`. Both belong to the runtime it is used on.
    pub(super) fn new(resolver: Arc<dyn Resolve>, pools: Arc<Pools>) -> Self {
        let peer = Peer::new(NAME.into(), PeerAddress::Unix, PeerAddress::Unix);
        Self { resolver, pools, peer: Arc::new(peer) }
    }

    async fn ask(&self, question: &Question) -> Result<Answer, FetchError> {
        let place = Place::of(&question.url)?;
        let transport = transport(place.is_https)?;
        let mut failed = FetchError::Connect("no address".into());
        for ip in self.addresses(&place.host).await?.into_iter().take(MAX_ADDRESSES) {
            let address = SocketAddr::new(ip, place.port);
            match self.send(question, &place, address, &transport).await {
                Ok(response) => return read(response, question.max_bytes).await,
                // Nothing was sent, so the name's next address is just as good.
                Err(error) if error.kind().retry_class() == RetryClass::NotSent => {
                    failed = explain(&error);
                }
                Err(error) => return Err(explain(&error)),
            }
        }
        Err(failed)
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, FetchError> {
        if let Ok(ip) = host.parse() {
            return Ok(vec![ip]);
        }
        let failed = |reason: Box<str>| FetchError::Dns { host: host.into(), reason };
        match dns::addresses(&*self.resolver, host).await {
            Ok(answer) if answer.records.is_empty() => Err(failed("there is no such name".into())),
            Ok(answer) => Ok(answer.records),
            Err(error) => Err(failed(error.0.into())),
        }
    }

    async fn send(
        &self,
        question: &Question,
        place: &Place,
        address: SocketAddr,
        transport: &Arc<Transport>,
    ) -> Result<Response, Error> {
        let endpoint = Endpoint::new(NAME, Address::Inet(address), &place.host, Some(place.port));
        let local = self.pools.local(&Arc::new(endpoint), transport, &Arc::default(), 0);
        let flight = local.enter(usize::MAX).ok_or(Kind::ConcurrencyFull)?;
        let request = self.request(question, place);
        let response = exchange(Call { request, flight }, true).await;
        drop(local);
        self.pools.prune();
        response
    }

    fn request(&self, question: &Question, place: &Place) -> Request {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = question.method.clone();
        parts.uri = question.url.clone();
        parts.headers = question.headers.clone();
        parts.headers.insert(header::HOST, place.authority.clone());
        let cx = Context::new(self.peer.clone(), question.method.clone(), Version::HTTP_11);
        Request { parts: Box::new(parts), body: Body::empty(), cx }
    }
}

impl Fetch for Client {
    fn fetch(&self, question: Question) -> Fetching<'_> {
        Box::pin(async move {
            timeout_at(question.deadline, self.ask(&question))
                .await
                .unwrap_or(Err(FetchError::Timeout))
        })
    }
}

// === impl Place ===

impl Place {
    fn of(url: &Uri) -> Result<Self, FetchError> {
        let fail = || FetchError::Url(url.clone());
        let is_https = match url.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(_) | None => return Err(fail()),
        };
        let (Some(host), Some(port)) = (url.host(), fetch::port(url)) else { return Err(fail()) };
        let authority = match url.port_u16() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        Ok(Self {
            is_https,
            host: host.trim_start_matches('[').trim_end_matches(']').into(),
            port,
            authority: HeaderValue::from_str(&authority).map_err(|_| fail())?,
        })
    }
}

fn transport(is_https: bool) -> Result<Arc<Transport>, FetchError> {
    let settings = upstream::Settings {
        name: NAME.into(),
        protocol: Protocol::H1,
        tls: is_https.then_some(TlsSettings { server_name: None, ca: None, client: None }),
        connect_timeout: CONNECT_TIMEOUT,
        max_idle: 0,
        idle_timeout: STEP_TIMEOUT,
        response_idle_timeout: STEP_TIMEOUT,
        send_idle_timeout: STEP_TIMEOUT,
        half_close_timeout: STEP_TIMEOUT,
        probe_idle_after: STEP_TIMEOUT,
        max_h2_connections: 1,
    };
    Transport::new(settings, None).map_err(|error| FetchError::Connect(error.message.into()))
}

/// Reads the whole answer, never holding more than `max_bytes`.
async fn read(response: Response, max_bytes: usize) -> Result<Answer, FetchError> {
    let (parts, mut body) = response.into_parts();
    let limit = u64::try_from(max_bytes).unwrap_or(u64::MAX);
    if body.size_hint().lower() > limit {
        return Err(FetchError::TooLarge(max_bytes));
    }
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| explain(&error))?.into_data() else { continue };
        if data.len() > max_bytes - bytes.len() {
            return Err(FetchError::TooLarge(max_bytes));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Answer { status: parts.status, headers: parts.headers, body: Bytes::from(bytes) })
}

fn explain(error: &Error) -> FetchError {
    let text = error.to_string();
    // It is clear that a fetch failed, and each layer begins with the same word.
    let text = text.trim_start_matches(&format!("{}: ", error.kind().reason())).into();
    match error.kind() {
        Kind::UpstreamConnect | Kind::UpstreamTls => FetchError::Connect(text),
        Kind::UpstreamTimeoutTry(_) | Kind::UpstreamTimeoutTotal => FetchError::Timeout,
        _ => FetchError::Broken(text),
    }
}

#[cfg(test)]
mod tests {
    use std::future;

    use http::Method;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        time::Instant,
    };

    use super::*;
    use crate::{
        balancer::resolver,
        telemetry::{metrics::Metrics, task, task::Spawner},
    };

    fn client() -> Client {
        let (_, deadline) = tokio::sync::watch::channel(None);
        Client::new(
            resolver::system(),
            Pools::new(Metrics::new().thread(), Spawner::new(), deadline),
        )
    }

    fn question(url: &str) -> Question {
        Question {
            method: Method::GET,
            url: url.parse().unwrap(),
            headers: http::HeaderMap::new(),
            max_bytes: 64,
            deadline: Instant::now() + Duration::from_secs(10),
        }
    }

    /// A server that answers one connection with `answer`, then closes it or, asked to, hangs.
    async fn serving(answer: &'static str, hangs: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        task::spawn("server", async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 4096];
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(buffer[..read].starts_with(b"GET /keys?x=1 HTTP/1.1\r\nhost: 127.0.0.1:"));
            stream.write_all(answer.as_bytes()).await.unwrap();
            if hangs {
                future::pending::<()>().await;
            }
        });
        format!("http://{address}/keys?x=1")
    }

    #[tokio::test]
    async fn gives_the_whole_answer_and_keeps_no_connection() {
        let client = client();
        let url =
            serving("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\na: b\r\n\r\nno", false).await;
        let answer = client.fetch(question(&url)).await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (404, &b"no"[..]));
        assert_eq!(answer.headers["a"], "b");
        assert_eq!(client.pools.idle(), 0);
    }

    #[tokio::test]
    async fn holds_no_more_than_it_may() {
        let declared = "HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\nx";
        let url = serving(declared, true).await;
        let error = client().fetch(question(&url)).await.unwrap_err();
        assert_eq!(error, FetchError::TooLarge(64));

        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                       64\r\n0123456789012345678901234567890123456789012345678901234567890123456789\
                       012345678901234567890123456789\r\n";
        let url = serving(chunked, true).await;
        let error = client().fetch(question(&url)).await.unwrap_err();
        assert_eq!(error, FetchError::TooLarge(64));
    }

    #[tokio::test]
    async fn an_answer_that_does_not_end_is_none() {
        let url = serving("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", true).await;
        let soon =
            Question { deadline: Instant::now() + Duration::from_millis(50), ..question(&url) };
        assert_eq!(client().fetch(soon).await.unwrap_err(), FetchError::Timeout);

        let url = serving("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", false).await;
        let error = client().fetch(question(&url)).await.unwrap_err();
        assert!(matches!(error, FetchError::Broken(_)), "{error}");
    }

    #[tokio::test]
    async fn a_closed_port_and_another_scheme_say_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = client().fetch(question(&format!("http://{address}/"))).await.unwrap_err();
        assert!(matches!(error, FetchError::Connect(_)), "{error}");
        let error = client().fetch(question("ftp://a/")).await.unwrap_err();
        assert!(matches!(error, FetchError::Url(_)), "{error}");
    }
}
