//! Text with placeholders, and what it becomes for one request. Pure.
//!
//! What a client sent never changes the meaning of the text around it: a value is percent-encoded so
//! that in the path it cannot begin a query or a fragment, in the query it cannot begin another
//! parameter, and nowhere it can end a header field. Escapes that a value already has are kept, so
//! that nothing is encoded twice (RFC 3986, 2.4).

use std::sync::Arc;

use crate::http::Context;

/// Text with placeholders: `{path}`, `{query}` and the names of the route's path template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(pub Vec<Part>);

/// A piece of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// As it stands.
    Text(Box<str>),
    /// `{path}`: the normalised path, with its leading slash.
    Path,
    /// `{query}`: the query without its `?`; empty without one.
    Query,
    /// `{name}` of the path template.
    Param(Arc<str>),
}

/// What the placeholders stand for in one request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Values<'a> {
    /// `{path}`.
    pub path: &'a str,
    /// `{query}`.
    pub query: Option<&'a str>,
    /// The names of the path template.
    pub params: &'a [(Arc<str>, Box<str>)],
}

/// Where in a URI reference a value is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Path,
    // A value within a query: not the query as a whole.
    QueryValue,
    Query,
}

// === impl Template ===

impl Template {
    /// The text for one request: printable ASCII without white space, unless the template's own
    /// text has other things in it. A name that is not among `values` is empty.
    ///
    /// A `?` or `&` in front of an empty `{query}` at the end goes with it.
    pub fn render(&self, values: &Values<'_>) -> String {
        let mut out =
            String::with_capacity(values.path.len() + values.query.map_or(0, str::len) + 32);
        let mut place = Place::Path;
        for part in &self.0 {
            match part {
                Part::Text(text) => {
                    out.push_str(text);
                    if text.contains('?') {
                        place = Place::QueryValue;
                    }
                }
                Part::Path => encode(&mut out, values.path, place),
                Part::Query => encode(&mut out, values.query.unwrap_or(""), Place::Query),
                Part::Param(name) => {
                    let mut params = values.params.iter();
                    if let Some((_, value)) = params.find(|(bound, _)| bound == name) {
                        encode(&mut out, value, place);
                    }
                }
            }
        }
        let is_empty_query = values.query.is_none_or(str::is_empty);
        if is_empty_query && matches!(self.0.last(), Some(Part::Query)) && out.ends_with(['?', '&'])
        {
            out.pop();
        }
        out
    }

    /// The path and query to send upstream. A template that says nothing about the query, neither by
    /// a `?` nor by `{query}`, keeps the client's.
    pub fn render_target(&self, values: &Values<'_>) -> String {
        let mut out = self.render(values);
        if !out.starts_with('/') {
            out.insert(0, '/');
        }
        if let (Some(query), false) = (values.query, self.has_query()) {
            out.push('?');
            encode(&mut out, query, Place::Query);
        }
        out
    }

    /// A URI reference to send a client to. One that begins with a value begins with one slash: two
    /// would name another host.
    pub fn render_location(&self, values: &Values<'_>) -> String {
        let out = self.render(values);
        match self.0.first() {
            Some(Part::Path | Part::Query | Part::Param(_)) => {
                format!("/{}", out.trim_start_matches('/'))
            }
            Some(Part::Text(_)) | None => out,
        }
    }

    fn has_query(&self) -> bool {
        self.0.iter().any(|part| match part {
            Part::Text(text) => text.contains('?'),
            Part::Query => true,
            Part::Path | Part::Param(_) => false,
        })
    }
}

// === impl Values ===

impl<'a> Values<'a> {
    /// Those of the request of `cx`; `merge`: runs of `/` in the path are merged. Before `edge` has
    /// made the target the path is empty.
    pub fn of(cx: &'a Context, merge: bool) -> Self {
        let params = cx.params();
        cx.target().map_or(Self { params, ..Self::default() }, |target| Self {
            path: if merge { target.merged() } else { target.path() },
            query: target.query(),
            params,
        })
    }
}

// === impl Place ===

impl Place {
    /// RFC 3986: `pchar`, `/`, and in a query `?`; less what separates parameters within a value.
    fn takes(self, byte: u8) -> bool {
        match byte {
            b'&' | b'+' | b';' | b'=' => self != Self::QueryValue,
            b'?' => self == Self::Query,
            _ => byte.is_ascii_alphanumeric() || b"-._~!$'()*,:@/".contains(&byte),
        }
    }
}

fn encode(out: &mut String, value: &str, place: Place) {
    const DIGITS: [u8; 16] = *b"0123456789ABCDEF";
    let bytes = value.as_bytes();
    for (index, &byte) in bytes.iter().enumerate() {
        let is_escape = byte == b'%'
            && bytes.get(index + 1).is_some_and(u8::is_ascii_hexdigit)
            && bytes.get(index + 2).is_some_and(u8::is_ascii_hexdigit);
        if is_escape || place.takes(byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}
