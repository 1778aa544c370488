//! The resource that made the spans: this process, on this machine.

use opentelemetry::KeyValue;
use opentelemetry_sdk::{
    Resource,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
};
use opentelemetry_semantic_conventions::resource::{
    SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION,
};

/// From the unstable part of the conventions, which the crate keeps behind a feature.
const HOST_NAME: &str = "host.name";
const PROCESS_PID: &str = "process.pid";

/// The resource of all spans. `OTEL_RESOURCE_ATTRIBUTES` adds to it and overrides it, and
/// `OTEL_SERVICE_NAME` overrides both, as in the SDKs.
pub(super) fn detect() -> Resource {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let resource = Resource::builder_empty()
        .with_attributes([
            KeyValue::new(SERVICE_NAME, "sluice"),
            KeyValue::new(SERVICE_VERSION, env!("CARGO_PKG_VERSION")),
            KeyValue::new(SERVICE_INSTANCE_ID, instance()),
            KeyValue::new(HOST_NAME, host),
            KeyValue::new(PROCESS_PID, i64::from(std::process::id())),
        ])
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()));
    match std::env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty()) {
        Some(name) => resource.with_service_name(name).build(),
        None => resource.build(),
    }
}

/// A random UUID (RFC 9562, version 4), new for each start.
fn instance() -> String {
    let bits = fastrand::u128(..) & !(0xf << 76) & !(0b11 << 62) | 4 << 76 | 0b10 << 62;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use opentelemetry::Key;

    use super::*;

    #[test]
    fn spans_say_who_made_them() {
        let resource = detect();
        let get = |name| resource.get(&Key::new(name)).map(|value| value.to_string());
        assert_eq!(get(SERVICE_NAME).as_deref(), Some("sluice"));
        assert_eq!(get(SERVICE_VERSION).as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert!(get(HOST_NAME).is_some_and(|name| !name.is_empty()));
        let id = get(SERVICE_INSTANCE_ID).unwrap();
        assert_eq!(id.len(), 36);
        assert_eq!(&id[14..15], "4");
        assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"));
    }
}
