//! Where traces go.

use http::Uri;
use rustls_pki_types::ServerName;
use schemars::{Schema, json_schema};

use super::{Fault, Value};
use crate::telemetry::tracing::{Collector, Protocol};

/// Where collectors listen for gRPC, by convention.
pub const GRPC_PORT: u16 = 4317;
/// Where they listen for HTTP.
const HTTP_PORT: u16 = 4318;
/// What they take there.
const HTTP_PATH: &str = "/v1/traces";

impl Value for Collector {
    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^https?://",
            "examples": ["http://127.0.0.1:4317", "https://otlp.example.com/v1/traces"]
        })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        // The text is not repeated: it may have credentials in it.
        let fault = || Fault::new("this is not the URL of a collector");
        let like =
            "like `http://127.0.0.1:4317` (gRPC) or `http://127.0.0.1:4318/v1/traces` (HTTP)";
        let Some((scheme, rest)) = text.split_once("://") else {
            let help = match text.rsplit_once(':') {
                Some((_, port)) if port.parse::<u16>().is_ok() => {
                    format!("it needs a scheme: `http://{text}`")
                }
                _ => like.to_owned(),
            };
            return Err(fault().help(help));
        };
        let is_tls = match scheme {
            "http" => false,
            "https" => true,
            "grpc" => {
                return Err(fault().help("gRPC is `http://host:4317`, over TLS `https://host`"));
            }
            _ => return Err(fault().help("`http://` or `https://`")),
        };
        if rest.contains('@') {
            let help = "credentials are taken from the variable `OTEL_EXPORTER_OTLP_HEADERS`";
            return Err(fault().help(help));
        }
        if rest.contains(['?', '#']) {
            return Err(fault().help("it has no query and no fragment"));
        }
        let uri: Uri = text.parse().map_err(|_| fault().help(like))?;
        let host = uri.host().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host);
        if ServerName::try_from(host).is_err() {
            return Err(fault().help(like));
        }
        let authority = uri.authority().map_or("", |it| it.as_str());
        let port = match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((_, port)) => match port.parse::<u16>() {
                Ok(port @ 1..) => Some(port),
                _ => return Err(fault().help("the port is a number from 1 to 65535")),
            },
            None => is_tls.then_some(443),
        };
        let Some(port) = port else {
            let help = format!("which port? `http://{host}:4317` is gRPC, `:4318` HTTP");
            return Err(fault().help(help));
        };
        let protocol = match uri.path() {
            "" | "/" if port == HTTP_PORT => Protocol::Http { path: HTTP_PATH.into() },
            "" | "/" => Protocol::Grpc,
            path => Protocol::Http { path: path.into() },
        };
        Ok(Self { protocol, is_tls, host: host.into(), port })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> String {
        match Collector::parse(text) {
            Ok(collector) => {
                let kind = if collector.protocol == Protocol::Grpc { "grpc" } else { "http" };
                format!("{kind} {collector}")
            }
            Err(fault) => fault.help.unwrap(),
        }
    }

    #[test]
    fn the_path_and_the_port_choose_the_protocol() {
        assert_eq!(read("http://127.0.0.1:4317"), "grpc http://127.0.0.1:4317");
        assert_eq!(read("http://[::1]:4317/"), "grpc http://[::1]:4317");
        assert_eq!(read("http://collector:9000"), "grpc http://collector:9000");
        assert_eq!(read("https://otlp.example"), "grpc https://otlp.example:443");
        assert_eq!(read("http://collector:4318"), "http http://collector:4318/v1/traces");
        assert_eq!(read("http://collector:80/otlp"), "http http://collector:80/otlp");
        let hosted = "https://otlp.example/v1/traces";
        assert_eq!(read(hosted), "http https://otlp.example:443/v1/traces");
    }

    #[test]
    fn what_is_no_collector_gets_a_hint() {
        for (text, hint) in [
            ("localhost:4317", "it needs a scheme: `http://localhost:4317`"),
            ("collector", "like `http://127.0.0.1:4317` (gRPC)"),
            ("grpc://collector:4317", "gRPC is `http://host:4317`"),
            ("ftp://collector:4317", "`http://` or `https://`"),
            ("http://collector", "which port? `http://collector:4317` is gRPC"),
            ("http://collector:0", "the port is a number"),
            ("https://collector:", "the port is a number"),
            ("http://:4317", "like `http"),
            ("https://a_b:99999", "the port is a number"),
            ("http://-:4317", "like `http"),
            ("https://user:s3cr3t@otlp.example", "credentials are taken from the variable"),
            ("https://otlp.example/?key=s3cr3t", "it has no query"),
        ] {
            let told = read(text);
            assert!(told.starts_with(hint), "{text}: {told}");
            let message = Collector::parse(text).unwrap_err().message;
            assert!(!message.contains("s3cr3t") && !told.contains("s3cr3t"), "{message} {told}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_collector_or_a_fault(text in "(https?://)?\\PC{0,24}") {
            if let Ok(collector) = Collector::parse(&text) {
                prop_assert_eq!(Collector::parse(&collector.to_string()), Ok(collector));
            }
        }
    }
}
