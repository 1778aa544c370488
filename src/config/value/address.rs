//! Where to listen and where to connect, which networks, which hosts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::HeaderValue;
use ipnet::IpNet;
use rustls_pki_types::ServerName;
use schemars::{Schema, json_schema};

use super::{Fault, Value};
use crate::{balancer::SourceAddress, listener::BindAddress, routing::route::Host};

/// `host:port` of the operator's listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdminAddress(pub SocketAddr);

/// An origin (RFC 6454), `*`, or `null`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(pub HeaderValue);

/// A socket address; `localhost` is the one name that needs no look-up.
fn socket_address(text: &str) -> Result<SocketAddr, Fault> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let fault = Fault::new("this is not an address");
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(fault.help("`host:port`, like `0.0.0.0:8080`"));
    };
    let Ok(port) = port.parse::<u16>() else {
        return Err(fault.help("the port is a number from 0 to 65535"));
    };
    match host {
        "localhost" => Ok((Ipv4Addr::LOCALHOST, port).into()),
        "" | "*" => Err(fault.help(format!("every address of this machine: `0.0.0.0:{port}`"))),
        _ if host.contains(':') => Err(fault.help(format!("IPv6 in brackets: `[{host}]:{port}`"))),
        _ => Err(fault.help("an IP address of this machine, or `localhost`")),
    }
}

/// Whether it is a DNS name (or could be one: `_` is allowed) without a trailing dot.
fn is_name(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

impl Value for BindAddress {
    fn schema() -> Schema {
        json_schema!({ "type": "string", "examples": ["0.0.0.0:8080", "unix:/run/sluice.sock"] })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        match text.strip_prefix("unix:") {
            Some("") => Err(Fault::new("`unix:` names no socket").help("`unix:/run/sluice.sock`")),
            Some(path) => Ok(Self::Unix(path.into())),
            None => socket_address(text).map(Self::Inet),
        }
    }
}

impl Value for AdminAddress {
    fn schema() -> Schema {
        json_schema!({ "type": "string", "examples": ["127.0.0.1:9901"] })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        socket_address(text).map(Self)
    }
}

impl Value for SourceAddress {
    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "examples": ["127.0.0.1:9001", "srv:_orders._tcp.internal", "unix:/run/orders.sock", "env:ORDERS"]
        })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        let fault = || Fault::new("this is not the address of an endpoint");
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() || path.contains('\0') {
                Err(fault().help("`unix:/run/orders.sock`"))
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        if let Some(name) = text.strip_prefix("srv:") {
            let name = name.trim_end_matches('.');
            return if is_name(name) && name.contains('.') {
                Ok(Self::Srv(name.into()))
            } else {
                Err(fault().help("`srv:_service._proto.name`"))
            };
        }
        if text.contains("://") {
            return Err(
                fault().help("without a scheme: `host:port`; for https write `tls:` as well")
            );
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(fault().help("it needs a port: `host:port`"));
        };
        let Some(port) = port.parse::<u16>().ok().filter(|port| *port != 0) else {
            return Err(fault().help("the port is a number from 1 to 65535"));
        };
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let bare = bracketed.unwrap_or(host);
        match bare.parse::<IpAddr>() {
            Ok(IpAddr::V6(_)) if bracketed.is_none() => {
                Err(fault().help(format!("IPv6 in brackets: `[{bare}]:{port}`")))
            }
            Ok(ip) => Ok(Self::Host { host: ip.to_string().into(), port }),
            Err(_) if bracketed.is_none() && is_name(bare.trim_end_matches('.')) => {
                let host = bare.trim_end_matches('.').to_ascii_lowercase();
                Ok(Self::Host { host: host.into(), port })
            }
            Err(_) => Err(fault().help("a host name or an IP address: `host:port`")),
        }
    }
}

impl Value for IpNet {
    fn schema() -> Schema {
        json_schema!({ "type": "string", "examples": ["10.0.0.0/8", "192.0.2.7", "fd00::/8"] })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(ip.to_canonical().into());
        }
        let network: Self = text.parse().map_err(|_| {
            Fault::new(format!("`{text}` is not a network"))
                .help("like `10.0.0.0/8` or `192.0.2.7`")
        })?;
        if network.trunc() == network {
            Ok(network)
        } else {
            Err(Fault::new(format!("`{text}` has bits set after its prefix"))
                .help(format!("did you mean `{}`?", network.trunc())))
        }
    }
}

impl Value for Host {
    fn schema() -> Schema {
        json_schema!({ "type": "string", "examples": ["shop.example.com", "*.example.com"] })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        let fault = || Fault::new(format!("`{text}` is not a host"));
        let host = text.trim_end_matches('.').to_ascii_lowercase();
        if let Some(suffix) = host.strip_prefix('*') {
            return if suffix.strip_prefix('.').is_some_and(is_name) {
                Ok(Self::Suffix(suffix.into()))
            } else {
                Err(fault().help("a wildcard is one `*.` in front: `*.example.com`; for every host leave `host` out"))
            };
        }
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bracketed.is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()) || is_name(&host) {
            return Ok(Self::Exact(host.into()));
        }
        Err(match host.rsplit_once(':') {
            Some((name, port)) if is_name(name) && port.bytes().all(|b| b.is_ascii_digit()) => {
                fault().help(format!("without the port: `{name}`"))
            }
            _ => fault().help("a name like `shop.example.com` or `*.example.com`"),
        })
    }
}

impl Value for ServerName<'static> {
    fn schema() -> Schema {
        json_schema!({ "type": "string" })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        Self::try_from(text.to_owned())
            .map_err(|_| Fault::new(format!("`{text}` is not a server name")).help("a DNS name"))
    }
}

impl Value for Origin {
    fn schema() -> Schema {
        json_schema!({ "type": "string", "examples": ["https://shop.example.com", "*"] })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        let fault = || Fault::new(format!("`{text}` is not an origin"));
        let example = "like `https://shop.example.com`, or `*`";
        if text != "*" && text != "null" {
            let (scheme, rest) = text.split_once("://").ok_or_else(|| fault().help(example))?;
            let is_scheme = !scheme.is_empty()
                && scheme
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
            if let Some((origin, _)) = rest.split_once('/') {
                return Err(fault().help(format!("without a path: `{scheme}://{origin}`")));
            }
            if rest.bytes().any(|b| b.is_ascii_uppercase()) {
                return Err(fault().help("browsers send it in lower case"));
            }
            let (host, port) = match rest.rsplit_once(':') {
                Some((host, port)) if !port.ends_with(']') => (host, port),
                _ => (rest, "1"),
            };
            let is_host = is_name(host) || host.starts_with('[') && host.ends_with(']');
            if !is_scheme || !is_host || port.parse::<u16>().is_err() {
                return Err(fault().help(example));
            }
        }
        text.parse().map(Self).map_err(|_| fault().help(example))
    }
}
