//! The two ends, on blocking sockets and fixed buffers: neither allocates for a request.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

const BUFFER: usize = 8 * 1024;
const BODY: &[u8] = br#"{"id":"7d9f2c1e-4b7a-4f0e-9a51-2f6f0d9b8c3a","sku":"A-1042-041"}"#;

/// Requests over one connection, one after another.
pub(crate) struct Requests {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: [u8; BUFFER],
}

/// Starts the service; it runs as long as the process.
pub(crate) fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Answers until the proxy goes.
fn serve(mut stream: TcpStream) {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        BODY.len()
    );
    let answer = [head.as_bytes(), BODY].concat();
    stream.set_nodelay(true).unwrap();
    let (mut buffer, mut filled) = ([0; BUFFER], 0);
    while let Ok(length @ 1..) = stream.read(&mut buffer[filled..]) {
        filled += length;
        if buffer[..filled].ends_with(b"\r\n\r\n") {
            filled = 0;
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    }
}

// === impl Requests ===

impl Requests {
    pub(crate) fn new(address: SocketAddr, token: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let authorization = match token {
            "" => String::new(),
            token => format!("authorization: Bearer {token}\r\n"),
        };
        let request = format!("GET /orders/7 HTTP/1.1\r\nhost: localhost\r\n{authorization}\r\n");
        Self { stream, request: request.into_bytes(), buffer: [0; BUFFER] }
    }

    /// Sends one and reads its answer, which has to be a good one.
    pub(crate) fn next(&mut self) {
        self.stream.write_all(&self.request).unwrap();
        let mut filled = 0;
        while !self.buffer[..filled].ends_with(BODY) {
            let length = self.stream.read(&mut self.buffer[filled..]).unwrap();
            filled += length;
            let text = || String::from_utf8_lossy(&self.buffer[..filled]);
            assert!(length > 0, "closed after {}", text());
            assert!(filled < 12 || self.buffer.starts_with(b"HTTP/1.1 200"), "{}", text());
        }
    }
}
