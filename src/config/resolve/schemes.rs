//! Warnings about schemes, once listeners and routes are known: a `match.scheme` that no request can
//! have, and a redirect to the URL that the request came for.

use super::Resolver;
use crate::{
    config::{Listener, Route, file, value::Fault, written::Placed},
    http::{Cidrs, Scheme},
    middleware::{
        action::Settings,
        headers::{Part, Template},
    },
};

impl Resolver<'_> {
    pub(super) fn warn_of_schemes(
        &mut self,
        written: &[Placed<file::Route>],
        routes: &[Route],
        listeners: &[Listener],
        trusted_proxies: &Cidrs,
    ) {
        let comes = |scheme| {
            let is_own = |it: &Listener| it.socket.tls.is_some() == (scheme == Scheme::Https);
            // A proxy may say either.
            !trusted_proxies.is_empty() || listeners.iter().any(is_own)
        };
        for (Placed { value: written, .. }, route) in written.iter().zip(routes) {
            let asked = written.matches.as_ref().and_then(|matches| matches.scheme.as_ref());
            if let (Some(scheme), Some(asked)) = (route.rule.scheme, asked)
                && !comes(scheme)
            {
                let help = match scheme {
                    Scheme::Http => "every listener has `tls`",
                    Scheme::Https => {
                        "add `tls` to a listener, or list the proxy that ends TLS in `trusted_proxies`"
                    }
                };
                let fault =
                    Fault::new(format!("this route never matches: no request comes over {scheme}"));
                self.warn(asked.place, fault.help(help));
            }
            if let (Settings::Redirect { location, .. }, Some(redirect)) =
                (&route.action, &written.redirect)
                && let Some(scheme) = back_to(location).filter(|&scheme| comes(scheme))
                && loops(route, scheme, routes)
            {
                let other = match scheme {
                    Scheme::Http => Scheme::Https,
                    Scheme::Https => Scheme::Http,
                };
                let fault = Fault::new("this redirect may lead to itself").help(format!(
                    "`match: {{ scheme: {other} }}` leaves {scheme} to other routes"
                ));
                self.warn(redirect.value.location.place, fault);
            }
        }
    }
}

/// Whether a request over `scheme` reaches the redirect, too. It does not if another route that asks for
/// this scheme may take it.
fn loops(route: &Route, scheme: Scheme, routes: &[Route]) -> bool {
    match route.rule.scheme {
        Some(own) => own == scheme,
        None => routes.iter().all(|other| other.rule.scheme != Some(scheme)),
    }
}

/// The scheme of a location, if the rest of it is the URL that the request came for.
fn back_to(location: &Template) -> Option<Scheme> {
    let [Part::Text(start), Part::Host, Part::Path, rest @ ..] = location.0.as_slice() else {
        return None;
    };
    let is_query = match rest.first() {
        Some(Part::Text(text)) => text.starts_with('?'),
        Some(_) => false,
        None => true,
    };
    Scheme::parse(start.strip_suffix("://")?).filter(|_| is_query)
}
