//! An upstream of raw sockets: records every byte it is sent and answers by script.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::AbortHandle,
};

use super::{http1::Message, within};

/// A scripted upstream. Stops when it is dropped.
pub struct Origin {
    address: SocketAddr,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct State {
    connections: AtomicUsize,
    requests: Mutex<Vec<Message>>,
    arrived: Notify,
    open: Mutex<Vec<AbortHandle>>,
}

type Script = Arc<dyn Fn(usize, &Message) -> Reply + Send + Sync>;

/// What the upstream does with a request.
pub enum Reply {
    /// Writes this and keeps the connection open.
    Answer(Vec<u8>),
    /// Writes this and closes the connection.
    AnswerThenClose(Vec<u8>),
    /// Closes the connection without a word.
    Close,
    /// Resets the connection without a word.
    Reset,
    /// Writes this after so long and keeps the connection open.
    After(Duration, Vec<u8>),
    /// Says nothing and keeps the connection open.
    Hang,
}

impl Origin {
    /// An upstream that asks `script` what to do with each request; it gets the number of the
    /// request, from 0.
    pub async fn start(script: impl Fn(usize, &Message) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), script).await
    }

    /// As [`Origin::start`], at this address.
    pub async fn start_at(
        address: SocketAddr,
        script: impl Fn(usize, &Message) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_on(TcpListener::bind(address).await.unwrap(), script)
    }

    /// As [`Origin::start`], on this socket.
    pub fn start_on(
        listener: TcpListener,
        script: impl Fn(usize, &Message) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let script: Script = Arc::new(script);
        let task = tokio::spawn({
            let state = state.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    state.connections.fetch_add(1, Ordering::SeqCst);
                    let serving = tokio::spawn(serve(stream, state.clone(), script.clone()));
                    state.open.lock().push(serving.abort_handle());
                }
            }
        });
        Self { address, state, task }
    }

    /// An upstream that answers everything with 200 and this body.
    pub async fn ok(body: &'static str) -> Self {
        Self::start(move |_, _| Reply::Answer(ok(body))).await
    }

    /// Stops at once, and closes every connection: what was under way is broken off.
    pub fn kill(&self) {
        self.task.abort();
        for connection in self.state.open.lock().drain(..) {
            connection.abort();
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Requests read to their end so far.
    pub fn requests(&self) -> Vec<Message> {
        self.state.requests.lock().clone()
    }

    /// Waits until `n` requests have arrived.
    pub async fn wait_for(&self, n: usize) {
        within("requests at the origin", async {
            loop {
                let arrived = self.state.arrived.notified();
                if self.state.requests.lock().len() >= n {
                    return;
                }
                arrived.await;
            }
        })
        .await;
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A 200 with this body.
pub fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

async fn serve(mut stream: TcpStream, state: Arc<State>, script: Script) {
    let mut buffer = Vec::new();
    while let Some(message) = Message::read_request(&mut stream, &mut buffer).await {
        let number = {
            let mut requests = state.requests.lock();
            requests.push(message.clone());
            requests.len() - 1
        };
        state.arrived.notify_waiters();
        match script(number, &message) {
            Reply::Answer(bytes) => {
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Reply::After(pause, bytes) => {
                tokio::time::sleep(pause).await;
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Reply::AnswerThenClose(bytes) => {
                drop(stream.write_all(&bytes).await);
                return;
            }
            Reply::Close => return,
            Reply::Reset => {
                stream.set_zero_linger().unwrap();
                return;
            }
            Reply::Hang => {
                // Until the peer gives up.
                let mut rest = [0; 1024];
                while stream.read(&mut rest).await.is_ok_and(|n| n > 0) {}
                return;
            }
        }
    }
}
