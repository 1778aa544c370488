//! `telemetry.tracing`.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::Resolver;
use crate::{
    config::{
        file,
        value::{Fault, GRPC_PORT, Percent},
        written::Place,
    },
    http::query,
    telemetry::tracing::{Protocol, Settings},
};

/// The share of traces that is sampled unless it is written.
const SAMPLE: f64 = 0.01;
/// As the SDKs have it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Fields sent with each export: `name=value,..`, values percent-encoded. The more special first.
const HEADERS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
/// Milliseconds for one export.
const TIMEOUTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];

impl Resolver<'_> {
    pub(super) fn tracing(&mut self, tracing: &file::Tracing) -> Option<Settings> {
        let place = tracing.otlp.place;
        let sample = self.or(tracing.sample.as_ref(), Percent(SAMPLE)).0;
        if let Some(propagate) = &tracing.propagate {
            for written in &propagate.value {
                self.value(written);
            }
            if propagate.value.is_empty() {
                let fault =
                    Fault::new("the list is empty").help("write `[w3c]`, or remove the key");
                self.error(propagate.place, fault);
            }
        }
        let headers = self.export_headers(place);
        let timeout = self.export_timeout(place);
        let collector = self.followed(&tracing.otlp)?;
        if collector.port == GRPC_PORT && matches!(collector.protocol, Protocol::Http { .. }) {
            let fault =
                Fault::new("a URL with a path means HTTP, but collectors expect gRPC on port 4317")
                    .help("remove the path for gRPC, or use port 4318 for HTTP");
            self.warn(place, fault);
        }
        Some(Settings { sample, collector, headers, timeout })
    }

    fn export_headers(&mut self, place: Place) -> Vec<(HeaderName, HeaderValue)> {
        let Some((name, text)) = self.first(HEADERS) else { return Vec::new() };
        let mut headers = Vec::new();
        for member in text.split(',').filter(|member| !member.trim().is_empty()) {
            let Some(header) = header(member) else {
                // Its value may be a secret.
                let fault = Fault::new(format!("the value of `{name}` is not valid"));
                self.error(
                    place,
                    fault.help("it must be `name=value,..` with percent-encoded values"),
                );
                break;
            };
            headers.push(header);
        }
        headers
    }

    fn export_timeout(&mut self, place: Place) -> Duration {
        let Some((name, text)) = self.first(TIMEOUTS) else { return TIMEOUT };
        let millis = text.trim().parse().ok().filter(|millis| (1..=600_000).contains(millis));
        if millis.is_none() {
            let fault = Fault::new(format!("the value of `{name}` is not valid"));
            self.error(place, fault.help("it must be a number of milliseconds from 1 to 600000"));
        }
        millis.map_or(TIMEOUT, Duration::from_millis)
    }

    /// The first of these variables that is set and not empty.
    fn first(&self, names: [&'static str; 2]) -> Option<(&'static str, String)> {
        let set = |name| Some((name, (self.env)(name).filter(|text| !text.is_empty())?));
        names.into_iter().find_map(set)
    }
}

fn header(member: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = member.split_once('=')?;
    let name = name.trim().parse().ok()?;
    let mut value: HeaderValue = query::unescape(value.trim()).parse().ok()?;
    value.set_sensitive(true);
    Some((name, value))
}
