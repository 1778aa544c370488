//! What lies on the network: the service of `auth.forward`, the key sets of issuers.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, header};

use super::{Resolver, auth::Credentials, upstreams::Upstreams};
use crate::{
    config::{
        file::auth::{ForwardAuth, Issuer, OnStart},
        value::{Fault, HttpUrl, KeySetUrl, Value as _},
        written::{Place, Written},
    },
    middleware::auth::{
        algorithm::Algorithms,
        forward,
        jwks::{self, Source, Timing},
    },
};

const DEFAULT_FORWARD_TIMEOUT: Duration = Duration::from_secs(2);

impl Resolver<'_> {
    pub(super) fn forward_auth(
        &mut self,
        written: &ForwardAuth,
        known: &Credentials,
        upstreams: &mut Upstreams,
    ) -> Option<forward::Settings> {
        let place = written.url.place;
        let timeout = self.positive(written.timeout.as_ref(), DEFAULT_FORWARD_TIMEOUT);
        let request_headers = self.passed_on(written.request_headers.as_deref());
        let response_headers = self.passed_on(written.response_headers.as_deref());
        if request_headers.is_empty() {
            let fault = Fault::new("this service gets none of the client's headers").help(
                "list those it needs, such as `request_headers: [authorization]` or `[cookie]`",
            );
            self.warn(place, fault);
        }
        for name in response_headers.iter().filter(|name| known.is_identity(name)) {
            if request_headers.contains(name) {
                let fault = Fault::new(format!("this service never sees a client's `{name}`"))
                    .help("headers in `response_headers` are removed from every request first");
                self.warn(place, fault);
            }
        }
        let url = self.value(&written.url)?.0;
        self.warn_exposed(place, &url);
        let upstream = upstreams.service(&url, place);
        let upstream = self.checked(place, upstream)?;
        Some(forward::Settings { url: url.0, timeout, request_headers, response_headers, upstream })
    }

    /// Field names; `Host` is none of them, for it says where a request goes.
    fn passed_on(&mut self, written: Option<&[Written<HeaderName>]>) -> Vec<HeaderName> {
        let mut names = Vec::new();
        for written in written.unwrap_or_default() {
            let Some(name) = self.field_name(written) else { continue };
            if name == header::HOST {
                let fault = Fault::new("`host` cannot be passed on")
                    .help("remove it: the service gets `X-Forwarded-Host`");
                self.error(written.place, fault);
            } else {
                names.push(name);
            }
        }
        names
    }

    /// The key set of an issuer that is fetched, from a URL or by discovery.
    pub(super) fn network_keys(
        &mut self,
        name: &Arc<str>,
        issuer: &Issuer,
        algorithms: Algorithms,
    ) -> Option<jwks::Settings> {
        let jwks = &issuer.jwks.value;
        let source = match (&jwks.url, &jwks.discover) {
            (Some(written), _) => {
                let url = self.value(written)?.0;
                self.warn_exposed(written.place, &url);
                Source::Url(url.0)
            }
            (None, Some(discover)) => self.discovery(discover, issuer)?,
            (None, None) => return None,
        };
        let on_start = self.or(issuer.on_start.as_ref(), OnStart::Lazy);
        Some(jwks::Settings {
            issuer: Arc::clone(name),
            source,
            algorithms,
            timing: Timing::default(),
            is_required: on_start == OnStart::Require,
        })
    }

    fn discovery(&mut self, discover: &Written<bool>, issuer: &Issuer) -> Option<Source> {
        if !self.value(discover)? {
            let fault = Fault::new("`discover: false` leaves the issuer without keys")
                .help("write `true`, or use `url`, `file` or `secret`");
            self.error(discover.place, fault);
            return None;
        }
        let text = &issuer.issuer.text;
        let found = KeySetUrl::parse(text).ok().map(|url| url.0).zip(Source::discover(text));
        let Some((url, source)) = found else {
            let fault = Fault::new(format!(
                "`discover` needs an `issuer` that is a URL, and `{text}` is not"
            ))
            .help("write `issuer: https://id.shop.example`, or `url` instead of `discover`");
            self.error(discover.place, fault);
            return None;
        };
        self.warn_exposed(issuer.issuer.place, &url);
        Some(source)
    }

    pub(super) fn warn_exposed(&mut self, place: Place, url: &HttpUrl) {
        if url.is_exposed() {
            let fault = Fault::new(
                "this URL is not encrypted: others on the network can read and change the traffic",
            )
            .help("use `https`, unless you trust that network");
            self.warn(place, fault);
        }
    }
}
