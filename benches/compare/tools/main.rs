//! The two ends and the yardstick of `benches/compare`, as one small program.
//!
//! `tools origin PORT` is the service behind every proxy. `tools floor PORT ORIGIN_PORT` is the
//! least a proxy can do: it copies bytes and looks at none. `tools publish ..` loads an event queue.
//! Each is one thread over epoll, built with plain `rustc -O`: no crate, so that nothing under test is
//! also the yardstick.

mod epoll;
mod floor;
mod origin;
mod protocol;
mod publish;

use std::{env, io, net::TcpListener, process::ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["origin", port] => listen(port).and_then(origin::serve),
        ["floor", port, origin] => listen(port).and_then(|socket| floor::serve(socket, origin)),
        ["publish", ref rest @ ..] => publish::run(rest),
        _ => Err(io::Error::other(
            "usage: tools origin PORT | tools floor PORT ORIGIN_PORT \
             | tools publish SYSTEM PORT CONNECTIONS SECONDS BYTES",
        )),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tools: {error}");
            ExitCode::FAILURE
        }
    }
}

fn listen(port: &str) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
