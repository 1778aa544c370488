//! Turns an accepted socket into a stream and its peer: PROXY header, then TLS, both within
//! `handshake_timeout`.
//!
//! A PROXY header is honoured only from `trusted_proxies`; a connection from anyone else that
//! begins with one is closed. The limit per address counts clients, so it is checked after the
//! header.

use std::{io, net::IpAddr};

use bytes::{Bytes, BytesMut};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    http::{
        Peer,
        peer::{self, Address},
    },
    listener::{
        Accepted, Outcomes, Permit, ProxyProtocol, Settings, Stream, Tls,
        proxy_protocol::{self, Addresses, Decoded},
        stream::Transport,
    },
};

/// Why a connection was closed before its first request. Already counted and logged.
#[derive(Debug, Error)]
pub enum Refused {
    /// Malformed, missing, or from a peer that may not send one.
    #[error("PROXY header: {0}")]
    ProxyHeader(&'static str),
    /// The handshake failed.
    #[error("TLS: {0}")]
    Tls(#[source] io::Error),
    /// The client's address has as many connections as it may.
    #[error("too many connections of this address")]
    PerIp,
    /// Not done within `handshake_timeout`.
    #[error("handshake not done in time")]
    Timeout,
    /// The connection broke.
    #[error("connection: {0}")]
    Io(#[source] io::Error),
}

/// Makes a stream of an accepted socket, and finds out who the client is.
///
/// Dropping the future closes the connection. The future is large, but short-lived.
pub async fn handshake(
    accepted: Accepted,
    permit: Permit,
    settings: &Settings,
    tls: Option<&Tls>,
    outcomes: &Outcomes,
) -> Result<(Stream, Peer), Refused> {
    let remote = accepted.remote;
    let shaken = shake(accepted, permit, settings, tls);
    let result = match time::timeout(settings.handshake_timeout, shaken).await {
        Ok(result) => result,
        Err(_) => Err(Refused::Timeout),
    };
    match &result {
        Ok(_) => outcomes.accepted.add(1),
        Err(refused) => {
            outcomes.refused(refused);
            tracing::debug!(listener = %settings.name, ?remote, %refused, "connection closed");
        }
    }
    result
}

async fn shake(
    accepted: Accepted,
    mut permit: Permit,
    settings: &Settings,
    tls: Option<&Tls>,
) -> Result<(Stream, Peer), Refused> {
    let Accepted { mut socket, remote, local } = accepted;
    let trusted = is_trusted(remote, settings);
    let (proxied, read_ahead) = match settings.proxy_protocol {
        ProxyProtocol::Off => (None, Bytes::new()),
        mode => read_header(&mut socket, mode, trusted).await?,
    };
    let mut peer = Peer::new(
        settings.name.clone(),
        proxied.map_or(remote, |addresses| Address::Inet(addresses.source)),
        proxied.map_or(local, |addresses| Address::Inet(addresses.destination)),
    );
    peer.trusted = trusted && is_trusted(peer.remote, settings);
    if ip(peer.remote).is_some_and(|ip| !permit.claim(ip)) {
        return Err(Refused::PerIp);
    }
    let transport = Transport::new(socket, read_ahead, permit);
    let Some(tls) = tls else {
        return Ok((Stream::plain(transport), peer));
    };
    let stream = TlsAcceptor::from(tls.config()).accept(transport).await.map_err(Refused::Tls)?;
    peer.tls = Some(settled(stream.get_ref().1));
    Ok((Stream::tls(stream), peer))
}

/// What the TLS handshake settled.
fn settled(session: &rustls::ServerConnection) -> peer::Tls {
    peer::Tls {
        server_name: session.server_name().map(Into::into),
        is_h2: session.alpn_protocol() == Some(b"h2"),
        client_certificate: session
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(|leaf| leaf.as_ref().into()),
        ..peer::Tls::default()
    }
}

/// Reads until it is clear whether there is a PROXY header. Returns its addresses and the bytes
/// after it.
async fn read_header(
    socket: &mut (impl AsyncRead + Unpin),
    mode: ProxyProtocol,
    trusted: bool,
) -> Result<(Option<Addresses>, Bytes), Refused> {
    if mode == ProxyProtocol::Require && !trusted {
        return Err(Refused::ProxyHeader("required, and the peer is not in trusted_proxies"));
    }
    let mut read = BytesMut::with_capacity(256);
    loop {
        let room = proxy_protocol::MAX_HEADER - read.len();
        let count = (&mut *socket).take(room as u64).read_buf(&mut read).await;
        let is_over = count.map_err(Refused::Io)? == 0;
        match proxy_protocol::decode(&read) {
            Decoded::Header { .. } if !trusted => {
                return Err(Refused::ProxyHeader("sent by a peer that is not in trusted_proxies"));
            }
            Decoded::Header { length, addresses } => {
                return Ok((addresses, rest(&read[length..])));
            }
            Decoded::Malformed => return Err(Refused::ProxyHeader("malformed")),
            Decoded::Absent if mode == ProxyProtocol::Require => {
                return Err(Refused::ProxyHeader("required and missing"));
            }
            Decoded::Absent => return Ok((None, rest(&read))),
            Decoded::Incomplete if is_over => {
                return Err(Refused::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            Decoded::Incomplete => {}
        }
    }
}

fn is_trusted(address: Address, settings: &Settings) -> bool {
    ip(address).is_some_and(|ip| settings.trusted_proxies.contains(ip))
}

/// The bytes to be read again, in memory of exactly their size; empty if there are none.
fn rest(read: &[u8]) -> Bytes {
    if read.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(read) }
}

fn ip(address: Address) -> Option<IpAddr> {
    match address {
        Address::Inet(address) => Some(address.ip()),
        Address::Unix => None,
    }
}

#[cfg(test)]
mod tests;
