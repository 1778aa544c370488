//! One call to the admin API: a connection, a request, an answer.

use std::{
    fmt::{Display, Write as _},
    io,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

use crate::{http::io::Io, telemetry::task};

/// The time limit for connecting.
const CONNECT: Duration = Duration::from_secs(5);
/// The time limit from the request to the head of its answer; a receive may wait for 20 s.
const HEAD: Duration = Duration::from_secs(55);

/// The admin API to call.
#[derive(Debug)]
pub(super) struct Client {
    address: String,
    token: Option<String>,
}

/// Why a call failed.
#[derive(Debug)]
pub(super) struct Failure {
    told: String,
    /// Whether another attempt may succeed: nobody answered, or the answer was a temporary refusal.
    pub(super) is_passing: bool,
}

/// The fields and the body to send.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) content_type: &'static str,
    pub(super) body: Bytes,
    pub(super) fields: Vec<(&'static str, String)>,
}

// === impl Client ===

impl Client {
    pub(super) fn new(address: String, token: Option<String>) -> Self {
        Self { address, token }
    }

    /// Returns the body of the answer; a refusal becomes an error.
    pub(super) async fn call(
        &self,
        method: Method,
        target: &str,
        sent: Sent,
    ) -> Result<Bytes, String> {
        let response = self.open(method, target, sent).await?;
        let body = response.into_body().collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|error| self.broken(&error))
    }

    /// Like [`Client::call`], but the body is still to be read.
    pub(super) async fn open(
        &self,
        method: Method,
        target: &str,
        sent: Sent,
    ) -> Result<Response<Incoming>, Failure> {
        let connecting = timeout(CONNECT, TcpStream::connect(&self.address)).await;
        let stream = match connecting {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(Failure::lasting(format!("`{}` is not HOST:PORT", self.address)));
            }
            Ok(Err(error)) => {
                return Err(Failure::passing(format!(
                    "cannot reach the admin API on {}: {error} (is sluice running?)",
                    self.address
                )));
            }
            Err(_) => return Err(self.silent()),
        };
        let (mut sender, connection) = http1::handshake(Io(stream))
            .await
            .map_err(|error| Failure::passing(self.broken(&error)))?;
        task::spawn("admin client", async move {
            // Whoever waits for the answer learns of it.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the admin connection ended");
            }
        });
        let mut request = Request::new(Full::new(sent.body));
        *request.method_mut() = method;
        let no_target = |_| Failure::lasting(format!("`{target}` is no target"));
        *request.uri_mut() = target.parse().map_err(no_target)?;
        let headers = request.headers_mut();
        let mut fields = vec![("host", self.address.clone())];
        if !sent.content_type.is_empty() {
            fields.push(("content-type", sent.content_type.to_owned()));
        }
        if let Some(token) = &self.token {
            fields.push(("authorization", format!("Bearer {token}")));
        }
        for (name, value) in fields.into_iter().chain(sent.fields) {
            let cannot = |_| Failure::lasting(format!("`{name}` cannot be sent"));
            let value = value.try_into().map_err(cannot)?;
            headers.insert(header::HeaderName::from_static(name), value);
        }
        let response = match timeout(HEAD, sender.send_request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(Failure::passing(self.broken(&error))),
            Err(_) => return Err(self.silent()),
        };
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.into_body().collect().await;
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let is_passing = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        Err(Failure { told: told(status, &body), is_passing })
    }

    fn silent(&self) -> Failure {
        Failure::passing(format!("no answer from {}", self.address))
    }

    fn broken(&self, error: &dyn Display) -> String {
        format!("the admin API on {} broke off: {error}", self.address)
    }
}

// === impl Failure ===

impl Failure {
    fn passing(told: String) -> Self {
        Self { told, is_passing: true }
    }

    fn lasting(told: String) -> Self {
        Self { told, is_passing: false }
    }
}

impl From<Failure> for String {
    fn from(failure: Failure) -> Self {
        failure.told
    }
}

// === impl Sent ===

impl Sent {
    /// No body.
    pub(super) fn nothing() -> Self {
        Self { content_type: "", body: Bytes::new(), fields: Vec::new() }
    }

    /// A JSON body.
    pub(super) fn json(value: &Value) -> Self {
        Self {
            content_type: "application/json",
            body: value.to_string().into(),
            fields: Vec::new(),
        }
    }
}

/// A refusal in readable form.
fn told(status: StatusCode, body: &[u8]) -> String {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| problem.get(name).and_then(Value::as_str);
    let Some(title) = text("title") else { return format!("the admin API answered {status}") };
    let mut told = title.to_owned();
    let problems = problem.get("problems").and_then(Value::as_array);
    // Of several problems, the detail repeats the first.
    let detail = text("detail").filter(|_| problems.is_none());
    for text in detail.into_iter().chain(text("help")) {
        told.push_str("\n  ");
        told.push_str(text);
    }
    for problem in problems.into_iter().flatten() {
        let text = |name: &str| problem.get(name).and_then(Value::as_str).unwrap_or_default();
        let index = problem.get("index").map(ToString::to_string).unwrap_or_default();
        let help = match text("help") {
            "" => String::new(),
            help => format!(": {help}"),
        };
        let line = format!("\n  event {index}: `{}` {}{help}", text("attribute"), text("message"));
        told.push_str(&line);
    }
    if status == StatusCode::UNAUTHORIZED {
        told.push_str("\n  --token, or SLUICE_ADMIN_TOKEN in the environment");
    }
    told
}

/// Escapes a path segment: everything but unreserved characters.
pub(super) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            write!(out, "%{byte:02X}").unwrap_or_default();
        }
    }
    out
}
