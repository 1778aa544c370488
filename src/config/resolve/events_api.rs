//! `events_api`: the event endpoints' own listener.

use super::{Resolver, auth::Credentials, limits::Limits, upstreams::Upstreams};
use crate::{
    config::{self, EventsApi, Listener, file::File, value::Fault},
    events::settings::Settings,
    http::Cidrs,
    listener::{self, BindAddress, ProxyProtocol},
    middleware::{auth::settings::Scheme, body_limit},
};

/// What its listener is called in logs and metrics.
const NAME: &str = "events_api";
const MAX_CONNECTIONS: usize = 20_000;

impl Resolver<'_> {
    pub(super) fn events_api(
        &mut self,
        file: &File,
        settings: Option<&Settings>,
        limits: &Limits,
        (known, upstreams): (&Credentials, &mut Upstreams),
    ) -> Option<EventsApi> {
        let written = file.events_api.as_ref()?;
        if settings.is_none() {
            let fault = Fault::new("there are no `topics`: nothing can be published or received");
            self.warn(written.place, fault);
        }
        let auth = self.auth(written.value.auth.as_ref(), known, upstreams);
        if let (Some(auth), Some(placed)) = (&auth, &written.value.auth)
            && auth.any_of.iter().any(|scheme| matches!(scheme, Scheme::Mtls(_)))
        {
            let fault =
                Fault::new("this listener has no TLS, so clients cannot present a certificate");
            self.error(placed.place, fault.help("use `jwt`, `api_key` or `forward`"));
        }
        let at = &written.value.address;
        let address = self.followed(at);
        let listener = file.listeners.value.iter().find(|it| it.value.name.text == NAME);
        if let Some(listener) = listener {
            let fault = Fault::new("this name is reserved for the listener of `events_api`");
            self.error(listener.value.name.place, fault.help("choose another name"));
        }
        let same = |text: &str| text == at.text && !text.ends_with(":0");
        let admin = file.admin.as_ref().and_then(|admin| admin.address.as_ref());
        if file.listeners.value.iter().any(|it| same(&it.value.address.text))
            || same(admin.map_or("127.0.0.1:9901", |address| &address.text))
        {
            self.error(at.place, Fault::new("another listener has this address already"));
        }
        if let (Some(BindAddress::Inet(inet)), None) = (&address, &written.value.auth)
            && !inet.ip().is_loopback()
        {
            let fault = Fault::new(
                "without `auth` everybody who can reach this address could publish and consume",
            );
            self.error(at.place, fault.help("add `auth`, or use 127.0.0.1"));
        }
        Some(EventsApi {
            listener: Listener {
                socket: listener::Settings {
                    name: NAME.into(),
                    address: address?,
                    h1: true,
                    h2: true,
                    proxy_protocol: ProxyProtocol::Off,
                    tls: None,
                    max_connections: MAX_CONNECTIONS,
                    max_connections_per_ip: 0,
                    trusted_proxies: Cidrs::default(),
                    handshake_timeout: limits.handshake_timeout,
                },
                connection: limits.connection.clone(),
            },
            auth,
            body_limit: body_limit::Settings {
                bytes: config::event_bytes(settings),
                ..limits.body.clone()
            },
        })
    }
}
