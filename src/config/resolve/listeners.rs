//! `listeners` and `admin`.

use std::{collections::HashMap, net::SocketAddr};

use super::{Resolver, limits::Limits};
use crate::{
    admin,
    config::{
        Listener,
        file::{self, ClientAuthMode, File, ListenerProtocol, ListenerTls, TlsVersion},
        value::{AdminAddress, Fault},
        written::{Place, Placed, Written},
    },
    connection,
    http::Cidrs,
    listener::{self, BindAddress, CertificateFiles, ClientAuth, ProxyProtocol, TlsSettings},
};

const DEFAULT_ADMIN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9901);
const DEFAULT_MAX_CONNECTIONS: usize = 20_000;
/// A stream costs memory before its request is judged.
const MAX_STREAMS: u32 = 100_000;

impl Resolver<'_> {
    pub(super) fn admin(&mut self, written: Option<&file::Admin>) -> admin::Settings {
        let Some(written) = written else {
            return admin::Settings { address: DEFAULT_ADMIN, token: None, allow_faults: false };
        };
        let token = written.token.as_ref().and_then(|token| self.secret(token));
        let address = written.address.as_ref();
        let resolved = address.and_then(|address| self.followed(address));
        if let (Some(address), Some(AdminAddress(at)), None) = (address, resolved, &written.token)
            && !at.ip().is_loopback()
        {
            let fault = Fault::new(
                "without `token` everybody who can reach this address could reload and drain",
            )
            .help("add `token: env:NAME`, or use 127.0.0.1");
            self.error(address.place, fault);
        }
        admin::Settings {
            address: resolved.map_or(DEFAULT_ADMIN, |AdminAddress(address)| address),
            token,
            allow_faults: self.or(written.allow_faults.as_ref(), false),
        }
    }

    pub(super) fn listeners(
        &mut self,
        written: &Placed<Vec<Placed<file::Listener>>>,
        limits: &Limits,
        trusted_proxies: &Cidrs,
    ) -> Vec<Listener> {
        if written.value.is_empty() {
            self.error(
                written.place,
                Fault::new("the list is empty").help("a gateway needs at least one listener"),
            );
        }
        self.unique_names("listeners", written.value.iter().map(|listener| &listener.value.name));
        let mut addresses: HashMap<BindAddress, Place> = HashMap::new();
        let mut listeners = Vec::new();
        for Placed { value, .. } in &written.value {
            let Some(listener) = self.listener(value, limits, trusted_proxies) else { continue };
            let address = listener.socket.address.clone();
            if !is_any_port(&address)
                && let Some(first) = addresses.insert(address, value.address.place)
            {
                let fault = Fault::new("two listeners have this address")
                    .help(format!("the first is on line {}", first.line));
                self.error(value.address.place, fault);
            }
            listeners.push(listener);
        }
        listeners
    }

    fn listener(
        &mut self,
        written: &file::Listener,
        limits: &Limits,
        trusted_proxies: &Cidrs,
    ) -> Option<Listener> {
        let name = self.value(&written.name);
        let address = self.followed(&written.address);
        let (h1, h2) = self.protocols(written);
        let proxy_protocol = self.or(written.proxy_protocol.as_ref(), ProxyProtocol::Off);
        if let (Some(word), true, false) = (
            &written.proxy_protocol,
            trusted_proxies.is_empty(),
            proxy_protocol == ProxyProtocol::Off,
        ) {
            let fault = Fault::new(
                "PROXY headers are accepted only from `trusted_proxies`, which is empty",
            )
            .help("list the networks of your load balancers there");
            self.error(word.place, fault);
        }
        let tls = written.tls.as_ref().map(|tls| self.listener_tls(&tls.value));
        let max_streams = self.in_range(
            written.max_streams.as_ref(),
            limits.connection.max_streams,
            1..=MAX_STREAMS,
            |_| format!("from 1 to {MAX_STREAMS}"),
        );
        Some(Listener {
            socket: listener::Settings {
                max_connections: self
                    .count(written.max_connections.as_ref(), DEFAULT_MAX_CONNECTIONS),
                max_connections_per_ip: self.or(written.max_connections_per_ip.as_ref(), 0),
                name: name?.0,
                address: address?,
                h1,
                h2,
                proxy_protocol,
                tls,
                trusted_proxies: trusted_proxies.clone(),
                handshake_timeout: limits.handshake_timeout,
            },
            connection: connection::Settings { max_streams, ..limits.connection.clone() },
        })
    }

    /// Whether HTTP/1.1 and HTTP/2 are spoken.
    fn protocols(&mut self, written: &file::Listener) -> (bool, bool) {
        let Some(list) = &written.protocols else { return (true, true) };
        let (mut h1, mut h2) = (false, false);
        for word in list {
            match self.value(word) {
                Some(ListenerProtocol::H1) => h1 = true,
                Some(ListenerProtocol::H2) if written.tls.is_none() => self.error(
                    word.place,
                    Fault::new("`h2` needs `tls` on this listener")
                        .help("for HTTP/2 in plain text, write `h2c`"),
                ),
                Some(ListenerProtocol::H2c) if written.tls.is_some() => self.error(
                    word.place,
                    Fault::new("`h2c` is HTTP/2 in plain text, and this listener has `tls`")
                        .help("for HTTP/2 over TLS, write `h2`"),
                ),
                Some(ListenerProtocol::H2 | ListenerProtocol::H2c) => h2 = true,
                None => {}
            }
        }
        if list.is_empty() {
            self.error(
                written.name.place,
                Fault::new("this listener has no protocol")
                    .help("list at least one under `protocols`, or remove the key"),
            );
        }
        (h1, h2)
    }

    fn listener_tls(&mut self, written: &ListenerTls) -> TlsSettings {
        if written.certificates.value.is_empty() {
            self.error(
                written.certificates.place,
                Fault::new("the list is empty").help("`tls` needs at least one certificate"),
            );
        }
        let certificates = written
            .certificates
            .value
            .iter()
            .map(|files| {
                let (cert, key) = self.identity(&files.cert, &files.key);
                CertificateFiles { cert, key }
            })
            .collect();
        let client_auth = written.client_auth.as_ref().map_or(ClientAuth::Off, |auth| {
            let mode = self.or(Some(&auth.value.mode), ClientAuthMode::Off);
            let ca = auth.value.ca.as_ref().filter(|_| mode != ClientAuthMode::Off);
            let ca = ca.map(|ca| self.certificates(ca));
            match (mode, ca) {
                (ClientAuthMode::Off, _) => ClientAuth::Off,
                (ClientAuthMode::Request, Some(ca)) => ClientAuth::Request(ca),
                (ClientAuthMode::Require, Some(ca)) => ClientAuth::Require(ca),
                (ClientAuthMode::Request | ClientAuthMode::Require, None) => {
                    let fault = Fault::new("`client_auth` needs `ca`").help(
                        "write the PEM file of the authorities that sign client certificates",
                    );
                    self.error(auth.place, fault);
                    ClientAuth::Off
                }
            }
        });
        let min_version = self.or(written.min_version.as_ref(), TlsVersion::Tls12);
        TlsSettings { certificates, client_auth, only_tls13: min_version == TlsVersion::Tls13 }
    }

    /// The admin listener does not share a port with another.
    pub(super) fn check_admin_address(&mut self, file: &File, admin: &admin::Settings) {
        let own = BindAddress::Inet(admin.address);
        if is_any_port(&own) {
            return;
        }
        for listener in &file.listeners.value {
            let address = &listener.value.address;
            if address.text.parse().ok() == Some(admin.address) {
                self.error(
                    address.place,
                    Fault::new("the admin listener has this address already"),
                );
            }
        }
    }

    /// Names of a list are different.
    pub(super) fn unique_names<'a, T: 'a>(
        &mut self,
        list: &str,
        names: impl Iterator<Item = &'a Written<T>>,
    ) {
        let mut seen: HashMap<&str, Place> = HashMap::new();
        for name in names {
            match seen.get(name.text.as_str()) {
                Some(first) => {
                    let fault = Fault::new(format!("two {list} are called `{}`", name.text))
                        .help(format!("the first is on line {}", first.line));
                    self.error(name.place, fault);
                }
                None => {
                    seen.insert(&name.text, name.place);
                }
            }
        }
    }
}

fn is_any_port(address: &BindAddress) -> bool {
    matches!(address, BindAddress::Inet(address) if address.port() == 0)
}
