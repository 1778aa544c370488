//! Names and values of HTTP, as a user writes them.

use std::ops::RangeInclusive;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use regex::{Regex, RegexBuilder};
use schemars::{Schema, json_schema};

use super::{Fault, Value, Words, number};
use crate::http::Scheme;

/// A compiled expression may take so much memory; a pattern of a gateway needs a few KiB.
const REGEX_BYTES: usize = 1 << 20;

/// A status or a range of them: `204`, `200-299`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRange(pub RangeInclusive<u16>);

impl Value for StatusRange {
    fn schema() -> Schema {
        json_schema!({ "type": ["integer", "string"], "pattern": "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$" })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let status = |text: &str| number(text.trim(), 100_u16..=599);
        match (status(first), status(last)) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self(first..=last)),
            _ => Err(Fault::new(format!("`{text}` is not a range of statuses"))
                .help("like `200-299` or `204`")),
        }
    }
}

impl Value for HeaderName {
    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$" })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        text.parse().map_err(|_| {
            Fault::new(format!("`{text}` is not a header name")).help("letters, digits and `-`")
        })
    }
}

impl Value for HeaderValue {
    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        text.parse()
            .map_err(|_| Fault::new("a header value has no line breaks or control characters"))
    }
}

impl Value for Method {
    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[!#$%&'*+.^_`|~0-9A-Z-]+$",
            "not": { "const": "CONNECT" },
            "examples": ["GET", "POST", "PUT", "PATCH", "DELETE"]
        })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        let fault = || Fault::new(format!("`{text}` is not a method"));
        let upper = text.to_ascii_uppercase();
        if upper != text && !upper.is_empty() {
            return Err(fault().help(format!("methods are in capitals: `{upper}`")));
        }
        if upper == "CONNECT" {
            return Err(fault().help("CONNECT is answered with 405 before routing"));
        }
        text.parse().map_err(|_| fault())
    }
}

impl Words for Scheme {
    const WORDS: &'static [(&'static str, Self)] = &[("http", Self::Http), ("https", Self::Https)];
}

impl Value for StatusCode {
    fn schema() -> Schema {
        json_schema!({ "type": "integer", "minimum": 100, "maximum": 599 })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        let status = number(text, 100_u16..=599)?;
        Self::from_u16(status).map_err(|_| Fault::new(format!("`{text}` is not a status")))
    }
}

impl Value for Regex {
    fn schema() -> Schema {
        json_schema!({ "type": "string", "format": "regex" })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        RegexBuilder::new(text).size_limit(REGEX_BYTES).build().map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => Fault::new("this expression is too large"),
            // The crate's message repeats the pattern over several lines; its last is the reason.
            error => {
                let reason = error.to_string();
                let last = reason.lines().last().unwrap_or_default();
                Fault::new("this is not a regular expression")
                    .help(last.trim_start_matches("error: ").to_owned())
            }
        })
    }
}
