//! The yardstick: hyper's server and hyper's client, with nothing between them.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, thread};

use hyper::{Request, body::Incoming, client, server, service::service_fn};
use sluicegate::http::io::Io;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Builder,
};

/// Serves one connection, as long as it lasts.
pub(crate) fn start(origin: SocketAddr) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(proxy(listener, origin));
    });
    address
}

async fn proxy(listener: std::net::TcpListener, origin: SocketAddr) {
    let listener = TcpListener::from_std(listener).unwrap();
    let (client, _) = listener.accept().await.unwrap();
    client.set_nodelay(true).unwrap();
    let upstream = TcpStream::connect(origin).await.unwrap();
    upstream.set_nodelay(true).unwrap();
    let (sender, forwarding) = client::conn::http1::handshake(Io(upstream)).await.unwrap();
    let sender = Rc::new(RefCell::new(sender));
    let service = service_fn(|request: Request<Incoming>| {
        // One request at a time: nobody else borrows it.
        sender.borrow_mut().send_request(request)
    });
    let serving = server::conn::http1::Builder::new().serve_connection(Io(client), service);
    // The end of the client's connection is the end of both.
    tokio::select! {
        _ = serving => {}
        _ = forwarding => {}
    }
}
