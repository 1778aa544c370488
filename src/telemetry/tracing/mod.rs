//! Traces: W3C Trace Context in and out of every request; spans of sampled requests go to a
//! collector by OTLP.
//!
//! [`tracer`] decides for each request on its worker; [`propagation`] reads and writes the header
//! fields (pure). [`span`] and [`messaging`] name spans and fill their attributes. [`queue`] holds
//! finished spans, encoded; [`exporter`] sends them in batches from the control thread, over
//! [`otlp`].
//!
//! Without `tracing` in the configuration the fields pass through unchanged. The SDK's own tracer
//! and batch processor are not used: they allocate a span object for each request, run their own
//! thread, and do not report how many spans they dropped.

pub mod exporter;
pub mod messaging;
pub mod otlp;
pub mod propagation;
mod queue;
mod resource;
pub mod span;
pub mod tracer;

pub use self::{
    exporter::Exporter,
    messaging::{Delivered, Delivery, Origin, Publishing},
    span::Outgoing,
    tracer::{Finished, Noted, Trace, Tracer},
};

use std::time::Duration;

use http::{HeaderName, HeaderValue};

/// `telemetry.tracing`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The share of traces begun here that is sampled, 0 to 1. For others the caller decides.
    pub sample: f64,
    /// Where spans are sent.
    pub collector: Collector,
    /// Sent with each export: `OTEL_EXPORTER_OTLP_HEADERS`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The time limit of one export: `OTEL_EXPORTER_OTLP_TIMEOUT`.
    pub timeout: Duration,
}

/// An OTLP receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// How spans are sent.
    pub protocol: Protocol,
    /// Whether to use TLS, verified with the system's certificate authorities.
    pub is_tls: bool,
    /// A name or an address; IPv6 without brackets.
    pub host: Box<str>,
    /// Its port.
    pub port: u16,
}

/// The transport of OTLP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC, on HTTP/2.
    Grpc,
    /// Protobuf in the body of a POST, on HTTP/1.1, to this path.
    Http {
        /// With a leading slash.
        path: Box<str>,
    },
}
