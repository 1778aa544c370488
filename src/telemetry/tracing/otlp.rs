//! Exports over one kept connection: OTLP by gRPC or by HTTP with Protobuf.
//!
//! Both are a POST of the same message, so both are implemented here with the `h2`, `hyper` and
//! `rustls` that the gateway has anyway. Cancelling an export at any point closes its connection;
//! the next one makes another.

use std::{fmt, sync::Arc, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header, request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{Collector, Protocol, Settings};
use crate::{http::io::Io, telemetry::task};

const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const USER_AGENT: &str = concat!("sluice/", env!("CARGO_PKG_VERSION"));
/// The most that is read of an answer.
const MAX_ANSWER: usize = 64 * 1024;
/// The prefix of a gRPC message: whether it is compressed, and its length.
const FRAME: usize = 5;

/// Connects to one collector.
pub(super) struct Client {
    settings: Settings,
    tls: Option<TlsConnector>,
    /// Taken out during use.
    kept: Option<Connection>,
}

/// Why spans were not exported.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The connection is broken; whether the spans arrived is unknown.
    #[error("{0}")]
    Broken(String),
    /// They may be sent again, after this long if it says so.
    #[error("{message}")]
    Later { message: String, after: Option<Duration> },
    /// They were refused and must not be sent again.
    #[error("{0}")]
    Refused(String),
}

enum Connection {
    Grpc(h2::client::SendRequest<Bytes>),
    Http(http1::SendRequest<Full<Bytes>>),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

// === impl Client ===

impl Client {
    /// Does not connect yet. Fails if the system has no certificate authorities.
    pub(super) fn new(settings: Settings) -> Result<Self, String> {
        let tls = settings.collector.is_tls.then(|| tls(&settings.collector)).transpose()?;
        Ok(Self { settings, tls, kept: None })
    }

    /// Whether it was made with these settings.
    pub(super) fn fits(&self, settings: &Settings) -> bool {
        let own = &self.settings;
        own.collector == settings.collector
            && own.headers == settings.headers
            && own.timeout == settings.timeout
    }

    /// Sends an encoded `ExportTraceServiceRequest`; returns how many of its spans were rejected.
    pub(super) async fn export(&mut self, message: &Bytes) -> Result<u64, Failure> {
        let timeout = self.settings.timeout;
        tokio::time::timeout(timeout, self.try_export(message)).await.unwrap_or_else(|_| {
            Err(Failure::Broken(format!("{}: no answer in {timeout:?}", self.settings.collector)))
        })
    }

    async fn try_export(&mut self, message: &Bytes) -> Result<u64, Failure> {
        if let Some(mut kept) = self.kept.take() {
            match self.send(&mut kept, message).await {
                // It may have been closed while idle.
                Err(Failure::Broken(_)) => {}
                answered => {
                    self.kept = Some(kept);
                    return answered;
                }
            }
        }
        let mut connection = self.connect().await.map_err(|error| self.broken(&error))?;
        let answered = self.send(&mut connection, message).await;
        if !matches!(answered, Err(Failure::Broken(_))) {
            self.kept = Some(connection);
        }
        answered
    }

    async fn connect(&self) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
        let Collector { host, port, protocol, .. } = &self.settings.collector;
        let stream = TcpStream::connect((&**host, *port)).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &self.tls {
            Some(tls) => {
                let name = ServerName::try_from(host.to_string())?;
                Box::new(tls.connect(name, stream).await?)
            }
            None => Box::new(stream),
        };
        Ok(match protocol {
            Protocol::Grpc => {
                let (sender, connection) = h2::client::handshake(stream).await?;
                // Whoever waits for an answer learns of a failure; nobody else needs to.
                task::spawn("otlp grpc", async move { drop(connection.await) });
                Connection::Grpc(sender)
            }
            Protocol::Http { .. } => {
                let (sender, connection) = http1::handshake(Io(stream)).await?;
                task::spawn("otlp http", async move { drop(connection.await) });
                Connection::Http(sender)
            }
        })
    }

    async fn send(&self, connection: &mut Connection, message: &Bytes) -> Result<u64, Failure> {
        match connection {
            Connection::Grpc(sender) => self.send_grpc(sender, message).await,
            Connection::Http(sender) => self.send_http(sender, message).await,
        }
    }

    async fn send_grpc(
        &self,
        sender: &mut h2::client::SendRequest<Bytes>,
        message: &Bytes,
    ) -> Result<u64, Failure> {
        let broken = |error: h2::Error| self.broken(&error);
        let mut sender = sender.clone().ready().await.map_err(broken)?;
        let request = self.request("application/grpc", Version::HTTP_2).map(|builder| {
            builder.header(header::TE, "trailers").header("grpc-timeout", self.grpc_timeout())
        });
        let request = request.and_then(|builder| builder.body(())).map_err(|e| self.broken(&e))?;
        let (response, mut body) = sender.send_request(request, false).map_err(broken)?;
        body.send_data(framed(message), true).map_err(broken)?;
        let (head, mut body) = response.await.map_err(broken)?.into_parts();
        if head.status != StatusCode::OK {
            return Err(self.failure(head.status, &head.headers));
        }
        let mut answer = BytesMut::new();
        while let Some(piece) = body.data().await {
            let piece = piece.map_err(broken)?;
            body.flow_control().release_capacity(piece.len()).map_err(broken)?;
            if answer.len() + piece.len() > MAX_ANSWER {
                return Err(self.broken(&"its answer is too long"));
            }
            answer.extend_from_slice(&piece);
        }
        let trailers = body.trailers().await.map_err(broken)?;
        // Without a message the status is in the head.
        self.judge_grpc(trailers.as_ref().unwrap_or(&head.headers))?;
        answer.advance(FRAME.min(answer.len()));
        Ok(rejected(&answer))
    }

    async fn send_http(
        &self,
        sender: &mut http1::SendRequest<Full<Bytes>>,
        message: &Bytes,
    ) -> Result<u64, Failure> {
        let broken = |error: hyper::Error| self.broken(&error);
        sender.ready().await.map_err(broken)?;
        let request = self
            .request("application/x-protobuf", Version::HTTP_11)
            .map(|builder| builder.header(header::HOST, self.settings.collector.authority()))
            .and_then(|builder| builder.body(Full::new(message.clone())))
            .map_err(|error| self.broken(&error))?;
        let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        let answer = Limited::new(body, MAX_ANSWER).collect().await;
        let answer = answer.map_err(|error| self.broken(&error))?.to_bytes();
        if !head.status.is_success() {
            return Err(self.failure(head.status, &head.headers));
        }
        Ok(rejected(&answer))
    }

    fn request(&self, kind: &str, version: Version) -> Result<request::Builder, http::Error> {
        let collector = &self.settings.collector;
        let uri = match &collector.protocol {
            Protocol::Http { path } => path.parse()?,
            Protocol::Grpc => http::Uri::builder()
                .scheme(if collector.is_tls { "https" } else { "http" })
                .authority(collector.authority())
                .path_and_query(GRPC_PATH)
                .build()?,
        };
        let mut builder = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .version(version)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::CONTENT_TYPE, kind);
        for (name, value) in &self.settings.headers {
            builder = builder.header(name, value);
        }
        Ok(builder)
    }

    fn grpc_timeout(&self) -> HeaderValue {
        // At most eight digits.
        let millis = u64::try_from(self.settings.timeout.as_millis()).unwrap_or(u64::MAX);
        HeaderValue::try_from(format!("{}m", millis.min(99_999_999)))
            .unwrap_or(HeaderValue::from_static("10S"))
    }

    /// `grpc-status`: zero is success, and the OTLP specification lists which may be retried.
    fn judge_grpc(&self, fields: &HeaderMap) -> Result<(), Failure> {
        let text = |name| fields.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let Some(status) = text("grpc-status") else {
            return Err(self.broken(&"it does not speak gRPC"));
        };
        let said = text("grpc-message").unwrap_or_default();
        let message = format!("{}: gRPC status {status} {said}", self.settings.collector);
        match status {
            "0" => Ok(()),
            "1" | "4" | "8" | "10" | "11" | "14" | "15" => {
                Err(Failure::Later { message, after: None })
            }
            _ => Err(Failure::Refused(message)),
        }
    }

    fn failure(&self, status: StatusCode, fields: &HeaderMap) -> Failure {
        let message = format!("{}: {status}", self.settings.collector);
        match status.as_u16() {
            429 | 502 | 503 | 504 => {
                let after = fields.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
                let after = after.and_then(|text| text.parse().ok()).map(Duration::from_secs);
                Failure::Later { message, after }
            }
            _ => Failure::Refused(message),
        }
    }

    fn broken(&self, error: &dyn fmt::Display) -> Failure {
        Failure::Broken(format!("{}: {error}", self.settings.collector))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("collector", &self.settings.collector)
            .finish_non_exhaustive()
    }
}

fn framed(message: &Bytes) -> Bytes {
    let mut frame = BytesMut::with_capacity(FRAME + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(message);
    frame.freeze()
}

/// Anything else rejects nothing: its status was a success.
fn rejected(answer: &[u8]) -> u64 {
    let answer = ExportTraceServiceResponse::decode(answer).unwrap_or_default();
    let partial = answer.partial_success.unwrap_or_default();
    u64::try_from(partial.rejected_spans).unwrap_or(0)
}

// Names the provider, never the default: nothing else may decide how we encrypt.
fn tls(collector: &Collector) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    let (added, _unreadable) = roots.add_parsable_certificates(native.certs);
    if added == 0 {
        return Err("the system has no certificate authorities".to_owned());
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = match collector.protocol {
        Protocol::Grpc => vec![b"h2".to_vec()],
        Protocol::Http { .. } => vec![b"http/1.1".to_vec()],
    };
    Ok(Arc::new(config).into())
}

// === impl Collector ===

impl Collector {
    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())?;
        match &self.protocol {
            Protocol::Grpc => Ok(()),
            Protocol::Http { path } => f.write_str(path),
        }
    }
}
