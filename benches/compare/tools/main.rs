//! The two ends and the yardstick of `benches/compare`, as one small program.
//!
//! `tools origin PORT ADDRESSES` is the service behind every proxy. `tools floor PORT ORIGIN_PORT` is the
//! least a proxy can do: it copies bytes and looks at none. `tools load ..` sends requests at a rate,
//! `tools transfer ..` moves large bodies, `tools publish ..` loads an event queue.
//! Each is one thread over epoll, built with plain `rustc -O`: no crate, so that nothing under test is
//! also the yardstick.

mod epoll;
mod floor;
mod load;
mod origin;
mod protocol;
mod publish;
mod reply;
mod transfer;

use std::{
    env, io,
    net::{Ipv4Addr, TcpListener},
    process::ExitCode,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["origin", port, addresses] => origin::listen(port, addresses).and_then(origin::serve),
        ["floor", port, origin] => {
            listen(Ipv4Addr::LOCALHOST, port).and_then(|socket| floor::serve(socket, origin))
        }
        ["load", ref rest @ ..] => load::run(rest),
        ["transfer", ref rest @ ..] => transfer::run(rest),
        ["publish", ref rest @ ..] => publish::run(rest),
        _ => Err(io::Error::other(
            "usage: tools origin PORT ADDRESSES | tools floor PORT ORIGIN_PORT \
             | tools load PORT CONNECTIONS SECONDS RATE FIRST FILE \
             | tools transfer PORT CONNECTIONS SECONDS down|up BYTES \
             | tools publish SYSTEM PORT CONNECTIONS SECONDS BYTES BATCH",
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

fn listen(address: Ipv4Addr, port: &str) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(format!("{address}:{port}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn number(text: &str) -> io::Result<usize> {
    text.parse().map_err(|_| io::Error::other(format!("{text}: not a number")))
}
