//! What a route does: `upstream`, `split`, `respond`, `redirect`, `enqueue`; exactly one.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::{
    Resolver,
    upstreams::{MAX_WEIGHT, Upstreams},
};
use crate::{
    config::{
        file::{
            self,
            route::{Redirect, Respond, Share},
        },
        value::{self, Fault, ParamName},
        written::{Place, Placed},
    },
    middleware::action::Settings,
};

impl Resolver<'_> {
    /// What is done, and the upstreams it may be sent to.
    pub(super) fn action(
        &mut self,
        written: &Placed<file::Route>,
        params: &[ParamName],
        upstreams: &mut Upstreams,
    ) -> (Settings, Vec<usize>) {
        let Placed { value: route, place } = written;
        self.check_one_action(route, *place);
        self.check_use(route);
        if let Some(name) = &route.upstream {
            let index = self.checked(name.place, upstreams.use_named(&name.text));
            return (Settings::Forward { weights: vec![1] }, index.into_iter().collect());
        }
        if let Some(split) = &route.split {
            return self.split(split, upstreams);
        }
        // `enqueue` answers before an upstream is asked for.
        let action = match (&route.respond, &route.redirect) {
            (Some(respond), _) => self.respond(respond),
            (None, Some(redirect)) => self.redirect(&redirect.value, params),
            (None, None) => Settings::Forward { weights: Vec::new() },
        };
        (action, Vec::new())
    }

    fn check_one_action(&mut self, route: &file::Route, place: Place) {
        let written: Vec<_> = [
            ("upstream", route.upstream.as_ref().map(|action| action.place)),
            ("split", route.split.as_ref().map(|action| action.place)),
            ("respond", route.respond.as_ref().map(|action| action.place)),
            ("redirect", route.redirect.as_ref().map(|action| action.place)),
            ("enqueue", route.enqueue.as_ref().map(|action| action.place)),
        ]
        .into_iter()
        .filter_map(|(name, place)| Some((name, place?)))
        .collect();
        match written.as_slice() {
            [] => self.error(
                place,
                Fault::new("this route has no action")
                    .help("write one of `upstream`, `split`, `respond`, `redirect`, `enqueue`"),
            ),
            [_] => {}
            [(first, _), others @ ..] => {
                for (name, place) in others {
                    let fault = Fault::new(format!(
                        "a route has one action, and this one has `{first}` already"
                    ))
                    .help(format!("keep `{first}` or `{name}`"));
                    self.error(*place, fault);
                }
            }
        }
    }

    /// Warns of what belongs to the way to an upstream, where nothing goes that way.
    fn check_use(&mut self, route: &file::Route) {
        if route.respond.is_none() && route.redirect.is_none() {
            return;
        }
        let written = [
            ("request_headers", route.request_headers.as_ref().map(|changes| changes.place)),
            ("rewrite", route.rewrite.as_ref().map(|rewrite| rewrite.path.place)),
            ("preserve_host", route.preserve_host.as_ref().map(|keeps| keeps.place)),
            ("timeout", route.timeout.as_ref().map(|timeout| timeout.place)),
        ];
        for (name, place) in written {
            if let Some(place) = place {
                let fault = Fault::new(format!("`{name}` has no effect on this route"));
                self.warn(
                    place,
                    fault.help(
                        "the gateway answers its requests itself, without an upstream: remove it",
                    ),
                );
            }
        }
    }

    fn split(
        &mut self,
        written: &Placed<Vec<Share>>,
        upstreams: &mut Upstreams,
    ) -> (Settings, Vec<usize>) {
        let (mut weights, mut indexes) = (Vec::new(), Vec::new());
        for share in &written.value {
            let name = &share.upstream;
            let index = self.checked(name.place, upstreams.use_named(&name.text));
            let weight = self.in_range(Some(&share.weight), 1, 0..=MAX_WEIGHT, |_| {
                format!("from 0 to {MAX_WEIGHT}")
            });
            if let Some(index) = index {
                if indexes.contains(&index) {
                    self.error(name.place, Fault::new(format!("`{}` is listed twice", name.text)));
                }
                indexes.push(index);
                weights.push(weight);
            }
        }
        if written.value.is_empty() {
            self.error(
                written.place,
                Fault::new("the list is empty").help("list at least one upstream"),
            );
        } else if indexes.len() == written.value.len() && weights.iter().all(|weight| *weight == 0)
        {
            let fault = Fault::new("all weights are 0").help("at least one must be greater than 0");
            self.error(written.place, fault);
        }
        (Settings::Forward { weights }, indexes)
    }

    fn respond(&mut self, written: &Placed<Respond>) -> Settings {
        let Respond { status, headers, body } = &written.value;
        let code = self.or(status.as_ref(), StatusCode::OK);
        let body = body.as_ref().map_or_else(Bytes::new, |body| body.text.clone().into());
        if let Some(status) = status.as_ref().filter(|_| code.is_informational()) {
            self.error(
                status.place,
                Fault::new("a 1xx status is not a final answer").help("write 200 to 599"),
            );
        }
        let has_no_body = matches!(
            code,
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
        );
        if has_no_body && !body.is_empty() {
            self.error(
                written.place,
                Fault::new(format!("an answer with status {} has no body", code.as_u16())),
            );
        }
        let mut fields = HeaderMap::new();
        match headers {
            Some(headers) => fields = self.fields(headers),
            None if !body.is_empty() => {
                fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            }
            None => {}
        }
        Settings::Respond { status: code, headers: fields, body }
    }

    fn redirect(&mut self, written: &Redirect, params: &[ParamName]) -> Settings {
        let code = self.or(written.status.as_ref(), StatusCode::PERMANENT_REDIRECT);
        if let Some(status) = &written.status
            && !matches!(code.as_u16(), 301..=303 | 307 | 308)
        {
            let fault = Fault::new(format!("{} is not a redirect status", code.as_u16()))
                .help("write 301, 302, 303, 307 or 308");
            self.error(status.place, fault);
        }
        let location = &written.location;
        let location = self
            .checked(location.place, value::location(&location.text, params))
            .unwrap_or_else(|| crate::middleware::headers::Template(Vec::new()));
        Settings::Redirect { status: code, location, headers: HeaderMap::new() }
    }
}
