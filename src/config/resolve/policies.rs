//! The policies of a route: networks, CORS, header changes, rewrite.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::Resolver;
use crate::{
    config::{
        file::{
            self,
            route::{Cors, HeaderChanges},
        },
        shown::is_credential,
        value::{Fault, Origin, ParamName, template},
        written::{Entries, OneOrMany, Placed, Written},
    },
    http::names::{KEEP_ALIVE, PROXY_CONNECTION},
    middleware::{
        cors,
        headers::{self, Changes, Part, Template},
        ip_filter,
    },
};

const DEFAULT_MAX_AGE: Duration = Duration::from_mins(10);
/// Framing belongs to the connection: the gateway writes these itself.
pub(super) const FRAMING: [HeaderName; 8] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    KEEP_ALIVE,
    PROXY_CONNECTION,
];

impl Resolver<'_> {
    pub(super) fn ip_filter(&mut self, route: &file::Route) -> Option<ip_filter::Settings> {
        let settings = ip_filter::Settings {
            allow: self.cidrs(&route.allow_ips),
            deny: self.cidrs(&route.deny_ips),
        };
        (!settings.allow.is_empty() || !settings.deny.is_empty()).then_some(settings)
    }

    pub(super) fn cors(
        &mut self,
        written: &Placed<Cors>,
        own: Option<&[Method]>,
    ) -> cors::Settings {
        let Cors { origins, methods, headers, max_age } = &written.value;
        let is_any = |origin: &Written<Origin>| origin.text == "*";
        if origins.iter().len() == 0 {
            self.error(
                written.place,
                Fault::new("the list is empty").help("list at least one origin, or `*`"),
            );
        }
        if let Some(any) = origins.iter().find(|origin| is_any(origin) && origins.iter().len() > 1)
        {
            let fault = Fault::new("`*` is every origin and stands alone")
                .help("write only `*`, or remove it");
            self.error(any.place, fault);
        }
        let methods = match methods {
            Some(methods) => methods.iter().filter_map(|method| self.value(method)).collect(),
            None => {
                own.map_or_else(|| vec![Method::GET, Method::HEAD, Method::POST], <[_]>::to_vec)
            }
        };
        cors::Settings {
            origins: origins.iter().filter_map(|o| self.value(o)).map(|Origin(o)| o).collect(),
            methods,
            headers: headers
                .iter()
                .flat_map(OneOrMany::iter)
                .filter_map(|name| self.value(name))
                .collect(),
            max_age: self.or(max_age.as_ref(), DEFAULT_MAX_AGE),
        }
    }

    pub(super) fn headers(
        &mut self,
        route: &file::Route,
        params: &[ParamName],
    ) -> headers::Settings {
        headers::Settings {
            request: self.changes(route.request_headers.as_ref().map(|changes| &changes.value)),
            response: self.changes(route.response_headers.as_ref()),
            rewrite: route.rewrite.as_ref().and_then(|rewrite| self.rewrite(&rewrite.path, params)),
            preserve_host: self.or(route.preserve_host.as_ref(), false),
        }
    }

    fn changes(&mut self, written: Option<&HeaderChanges>) -> Changes {
        let Some(written) = written else { return Changes::default() };
        let set = self.fields(&written.set);
        for (name, _) in &written.add {
            if set.contains_key(name.text.as_str()) {
                let fault = Fault::new(format!("`{}` is both in `set` and in `add`", name.text));
                self.error(name.place, fault);
            }
        }
        Changes {
            set,
            add: self.fields(&written.add),
            remove: written.remove.iter().filter_map(|name| self.field_name(name)).collect(),
        }
    }

    /// Fields a user sets; each name once, whatever its case.
    pub(super) fn fields(
        &mut self,
        written: &Entries<HeaderName, Written<HeaderValue>>,
    ) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in written {
            let (parsed, value) = (self.field_name(name), self.value(value));
            let (Some(parsed), Some(mut value)) = (parsed, value) else { continue };
            value.set_sensitive(is_credential(parsed.as_str(), &self.key_fields));
            if fields.insert(parsed, value).is_some() {
                let fault = Fault::new(format!("`{}` is written twice", name.text))
                    .help("header names ignore upper and lower case");
                self.error(name.place, fault);
            }
        }
        fields
    }

    pub(super) fn field_name(&mut self, written: &Written<HeaderName>) -> Option<HeaderName> {
        let name = self.value(written)?;
        if FRAMING.contains(&name) {
            let fault =
                Fault::new(format!("`{name}` belongs to the connection and cannot be used here"))
                    .help("the gateway writes it itself");
            self.error(written.place, fault);
            return None;
        }
        Some(name)
    }

    fn rewrite<T>(&mut self, written: &Written<T>, params: &[ParamName]) -> Option<Template> {
        let template = self.checked(written.place, template(&written.text, params))?;
        let starts_well = match template.0.first() {
            Some(Part::Text(text)) => text.starts_with('/'),
            Some(Part::Path) => true,
            Some(Part::Host | Part::Query | Part::Param(_)) | None => false,
        };
        let is_plain = |part: &Part| match part {
            Part::Text(text) => text.bytes().all(|b| b.is_ascii_graphic() && b != b'#'),
            Part::Host | Part::Path | Part::Query | Part::Param(_) => true,
        };
        if !starts_well {
            let fault = Fault::new("this is not a path").help("start it with `/` or `{path}`");
            self.error(written.place, fault);
        } else if !template.0.iter().all(is_plain) {
            self.error(
                written.place,
                Fault::new("this path has characters that are not allowed")
                    .help("percent-encode them"),
            );
        }
        Some(template)
    }
}
