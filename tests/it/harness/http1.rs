//! HTTP/1.1 by hand: what a test writes and reads is bytes.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::within;

/// A message as it stood on the wire.
#[derive(Clone, Debug)]
pub struct Message {
    /// The request or status line.
    pub line: String,
    /// Fields in order, names as they were written.
    pub fields: Vec<(String, String)>,
    /// The body, without chunk framing.
    pub body: Vec<u8>,
    /// Trailer fields of a chunked body.
    pub trailers: Vec<(String, String)>,
    /// The body had the length its framing promised.
    pub is_complete: bool,
}

/// A client of raw bytes.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

// === impl Message ===

impl Message {
    /// The value of the first field of this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.all(name).into_iter().next()
    }

    /// The values of all fields of this name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The status code of a response.
    pub fn status(&self) -> u16 {
        self.line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// The target of a request.
    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Reads one request; `None` when the peer closes before its head is whole.
    pub async fn read_request(
        stream: &mut (impl AsyncRead + Unpin),
        buffer: &mut Vec<u8>,
    ) -> Option<Self> {
        let (line, fields) = read_head(stream, buffer).await?;
        let mut message =
            Self { line, fields, body: Vec::new(), trailers: Vec::new(), is_complete: true };
        if message.field("transfer-encoding").is_some() {
            message.read_chunked(stream, buffer).await;
        } else if let Some(length) = message.field("content-length") {
            let length = length.parse().unwrap_or(0);
            message.read_length(stream, buffer, length).await;
        }
        Some(message)
    }

    /// Reads one final response to a request of this method.
    pub async fn read_response(
        stream: &mut (impl AsyncRead + Unpin),
        buffer: &mut Vec<u8>,
        method: &str,
    ) -> Option<Self> {
        let (line, fields) = read_head(stream, buffer).await?;
        let mut message =
            Self { line, fields, body: Vec::new(), trailers: Vec::new(), is_complete: true };
        let status = message.status();
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Some(message);
        }
        if message.field("transfer-encoding").is_some() {
            message.read_chunked(stream, buffer).await;
        } else if let Some(length) = message.field("content-length") {
            let length = length.parse().unwrap_or(0);
            message.read_length(stream, buffer, length).await;
        } else {
            while fill(stream, buffer).await {}
            message.body = std::mem::take(buffer);
        }
        Some(message)
    }

    async fn read_length(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        buffer: &mut Vec<u8>,
        length: usize,
    ) {
        while buffer.len() < length {
            if !fill(stream, buffer).await {
                self.is_complete = false;
                break;
            }
        }
        let length = length.min(buffer.len());
        self.body.extend(buffer.drain(..length));
    }

    async fn read_chunked(&mut self, stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) {
        loop {
            let Some(line) = read_line(stream, buffer).await else {
                self.is_complete = false;
                return;
            };
            let size = line.split(';').next().unwrap_or_default().trim();
            let Ok(size) = usize::from_str_radix(size, 16) else {
                self.is_complete = false;
                return;
            };
            if size == 0 {
                break;
            }
            self.read_length(stream, buffer, size).await;
            if !self.is_complete || read_line(stream, buffer).await.is_none() {
                self.is_complete = false;
                return;
            }
        }
        while let Some(line) = read_line(stream, buffer).await {
            let Some(field) = split_field(&line) else { return };
            self.trailers.push(field);
        }
        self.is_complete = false;
    }
}

async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> Option<(String, Vec<(String, String)>)> {
    let first = read_line(stream, buffer).await?;
    let mut fields = Vec::new();
    loop {
        let line = read_line(stream, buffer).await?;
        match split_field(&line) {
            Some(field) => fields.push(field),
            None => return Some((first, fields)),
        }
    }
}

fn split_field(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    Some((name.to_owned(), value.trim().to_owned()))
}

async fn read_line(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(2).position(|two| two == b"\r\n") {
            let line = String::from_utf8_lossy(&buffer[..end]).into_owned();
            buffer.drain(..end + 2);
            return Some(line);
        }
        if !fill(stream, buffer).await {
            return None;
        }
    }
}

async fn fill(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> bool {
    let mut chunk = vec![0; 16 * 1024];
    match stream.read(&mut chunk).await {
        Ok(0) | Err(_) => false,
        Ok(n) => {
            buffer.extend_from_slice(&chunk[..n]);
            true
        }
    }
}

// === impl Client ===

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Writes these bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads the answer to a request of this method; panics when there is none.
    pub async fn response(&mut self, method: &str) -> Message {
        let response = Message::read_response(&mut self.stream, &mut self.buffer, method);
        within("a response", response).await.expect("the connection closed without an answer")
    }

    /// Sends a request with these header lines and reads the answer.
    pub async fn request(&mut self, head: &str, body: impl AsRef<[u8]>) -> Message {
        let method = head.split(' ').next().unwrap_or_default().to_owned();
        self.send(format!("{}\r\n\r\n", head.replace("\r\n", "\n").replace('\n', "\r\n"))).await;
        self.send(body).await;
        self.response(&method).await
    }

    /// A GET of this target on the host `test`.
    pub async fn get(&mut self, target: &str) -> Message {
        self.request(&format!("GET {target} HTTP/1.1\nHost: test"), "").await
    }

    /// Asks for this target until the answer is `wanted`. Not as fast as it can: a connection is good for
    /// so many requests.
    pub async fn get_until(&mut self, target: &str, wanted: &str) {
        within("the new answer", async {
            while self.get(target).await.text() != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Waits until the peer closes; gives what it sent before that.
    pub async fn closed(&mut self) -> Vec<u8> {
        within("the peer's close", async {
            while fill(&mut self.stream, &mut self.buffer).await {}
        })
        .await;
        std::mem::take(&mut self.buffer)
    }

    /// The bare stream, for what is not a request.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}
