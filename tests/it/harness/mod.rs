//! The real gateway on port 0, against upstreams that count and record what they saw.

pub mod customers;
pub mod cutter;
pub mod http1;
pub mod issuer;
pub mod killed;
pub mod origin;

use std::{future::Future, net::SocketAddr, path::Path, time::Duration};

use serde_json::Value;
use sluicegate::{
    config::{self, Config},
    gateway::{Gateway, Options},
};

pub use self::{http1::Client, http1::Message, origin::Origin, origin::Reply};

/// A running gateway; stops when it is dropped.
pub struct Running {
    gateway: Option<Gateway>,
}

/// Waits for `future`, with a bound: what a test waits for comes, or the test says what did not.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .unwrap_or_else(|_| panic!("waited too long for {what}"))
}

/// Polls `condition` until it holds, with a bound.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(2));
    within(what, async {
        while !condition() {
            tick.tick().await;
        }
    })
    .await;
}

/// The configuration of this text, with a listener `web` and an admin listener on port 0.
pub fn config(yaml: &str) -> Config {
    let text = format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0 }}]\n\
         admin: {{ address: 127.0.0.1:0 }}\n\
         telemetry: {{ access_log: {{ path: off }} }}\n{yaml}"
    );
    parse(&text)
}

/// The configuration of exactly this text.
pub fn parse(text: &str) -> Config {
    match config::parse(text, "test.yaml", Path::new("."), &|_| None) {
        Ok((config, _)) => config,
        Err(problems) => panic!("{problems}"),
    }
}

/// An address on which nobody listens as long as the tests run: bound, so that no other test gets
/// its port.
pub fn dead_address() -> SocketAddr {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    std::mem::forget(socket);
    address
}

/// One route `/{*rest}` to this upstream, on top of [`config`].
pub fn proxy_to(address: SocketAddr) -> String {
    format!(
        "upstreams: {{ origin: {{ endpoints: [\"{address}\"] }} }}\n\
         routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: origin }}]\n"
    )
}

// === impl Running ===

impl Running {
    /// Starts a gateway of this configuration (see [`config`]).
    pub fn start(yaml: &str) -> Self {
        Self::start_with(config(yaml), Options::default())
    }

    pub fn start_with(config: Config, options: Options) -> Self {
        let gateway = Gateway::start(config, options).unwrap_or_else(|error| panic!("{error}"));
        Self { gateway: Some(gateway) }
    }

    pub fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().expect("runs until dropped")
    }

    /// The address of the listener `web`.
    pub fn address(&self) -> SocketAddr {
        self.gateway().listener_address("web").expect("a TCP listener called web")
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address()).await
    }

    /// Asks the admin API.
    pub async fn admin(&self, method: &str, path: &str) -> Message {
        self.admin_with(method, path, "").await
    }

    pub async fn admin_with(&self, method: &str, path: &str, body: &str) -> Message {
        let address = self.gateway().admin_address();
        let mut client = Client::connect(address).await;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\nHost: {address}\nContent-Length: {length}\n\
             Content-Type: application/json\nConnection: close"
        );
        client.request(&head, body).await
    }

    /// The value of a metric with these labels, 0 when it is not there.
    pub async fn metric(&self, series: &str) -> f64 {
        let text = self.admin("GET", "/metrics").await.text();
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or(0.0)
    }

    pub async fn json(&self, path: &str) -> Value {
        let answer = self.admin("GET", path).await;
        serde_json::from_slice(&answer.body).expect("the admin API speaks JSON")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            // On a thread of its own: a test's runtime must not be blocked.
            let stopped = std::thread::spawn(|| gateway.stop()).join();
            assert!(stopped.is_ok_and(|clean| clean) || std::thread::panicking());
        }
    }
}
