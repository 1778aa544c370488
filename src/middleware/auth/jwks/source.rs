//! One fetch of a key set: discovery, redirects, and every reason to reject the answer.
//!
//! At most [`MAX_BYTES`] of each document are read, and at most [`MAX_REDIRECTS`] redirects
//! followed, only to the same host. Each [`Failure`] has a word for the metric and a sentence that
//! says what to do.

use std::{fmt, net::Ipv4Addr, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Uri,
    header::{ACCEPT, AGE, CACHE_CONTROL, CONTENT_TYPE, LOCATION},
    uri::Scheme,
};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    http::fetch::{self, Answer, Fetch, FetchError, Question, RedirectError},
    middleware::auth::json,
};

/// The maximum size of a key set or a discovery document, in bytes.
pub const MAX_BYTES: usize = 256 * 1024;
/// The most redirects in a row.
const MAX_REDIRECTS: usize = 3;
/// The longest URL that is taken from a discovery document.
const MAX_URL: usize = 2048;
/// The path where an issuer says where its keys are (OpenID Connect Discovery 1.0, 4).
const WELL_KNOWN: &str = "/.well-known/openid-configuration";

const JSON: HeaderValue = HeaderValue::from_static("application/jwk-set+json, application/json");
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");

/// Where an issuer's key set is fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// From this URL.
    Url(Uri),
    /// From the URL in this issuer's discovery document.
    Discover {
        /// The issuer's identifier, exactly: the document must repeat it.
        issuer: Box<str>,
        /// Where the document is.
        document: Uri,
    },
}

/// A document that was fetched and looks like a key set.
#[derive(Debug)]
pub struct Fetched {
    /// Not parsed yet.
    pub body: Bytes,
    /// How long it is valid, if the server says so.
    pub max_age: Option<Duration>,
}

/// Why there is no new key set.
#[derive(Debug)]
pub enum Failure {
    /// There was no answer.
    Fetch(FetchError),
    /// The status was not 200.
    Status(StatusCode),
    /// A redirect that may not be followed.
    Redirect(RedirectError),
    /// Too many redirects in a row.
    RedirectLoop,
    /// The `Content-Type` is not JSON.
    Type(Box<str>),
    /// The discovery document is for another issuer.
    OtherIssuer(Box<str>),
    /// Not a discovery document, or its `jwks_uri` may not be used.
    Discovery(Box<str>),
    /// Not a key set.
    Invalid(Box<str>),
    /// A key set without a usable key, and why the first of its keys is not.
    Empty(&'static str),
}

// === impl Source ===

impl Source {
    /// Discovery for `issuer`; `None` if that is no URL.
    pub fn discover(issuer: &str) -> Option<Self> {
        let document: Uri = format!("{}{WELL_KNOWN}", issuer.trim_end_matches('/')).parse().ok()?;
        let is_http = matches!(document.scheme_str(), Some("http" | "https"));
        let is_plain = is_http && document.host().is_some() && document.query().is_none();
        is_plain.then(|| Self::Discover { issuer: issuer.into(), document })
    }

    /// Fetches the set once. `is_past_caches`: no cache on the way may answer.
    ///
    /// Dropping the future cancels the exchange.
    pub async fn fetch(
        &self,
        fetch: &dyn Fetch,
        is_past_caches: bool,
        deadline: Instant,
    ) -> Result<Fetched, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, JSON);
        if is_past_caches {
            headers.insert(CACHE_CONTROL, NO_CACHE);
        }
        let get = |url| get(fetch, url, &headers, deadline);
        let keys = match self {
            Self::Url(url) => url.clone(),
            Self::Discover { issuer, document } => {
                let answer = get(document.clone()).await?;
                let keys = jwks_uri(issuer, document, &answer.body)?;
                keys.clone()
            }
        };
        let answer = get(keys).await?;
        Ok(Fetched { max_age: max_age(&answer.headers), body: answer.body })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) | Self::Discover { document: url, .. } => url.fmt(f),
        }
    }
}

/// Gets a JSON document from `url`, following redirects.
async fn get(
    fetch: &dyn Fetch,
    mut url: Uri,
    headers: &HeaderMap,
    deadline: Instant,
) -> Result<Answer, Failure> {
    for _ in 0..=MAX_REDIRECTS {
        let question = Question {
            method: Method::GET,
            url: url.clone(),
            headers: headers.clone(),
            max_bytes: MAX_BYTES,
            deadline,
        };
        let answer = fetch.fetch(question).await.map_err(Failure::Fetch)?;
        match answer.status.as_u16() {
            200 => {
                check_type(&answer.headers)?;
                return Ok(answer);
            }
            301 | 302 | 303 | 307 | 308 => {
                url = fetch::redirect(&url, answer.headers.get(LOCATION))
                    .map_err(Failure::Redirect)?;
            }
            _ => return Err(Failure::Status(answer.status)),
        }
    }
    Err(Failure::RedirectLoop)
}

/// Accepts `application/json` and any `+json`; without a `Content-Type` the body is taken for JSON,
/// and the parser decides.
fn check_type(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || essence.ends_with("+json") {
        return Ok(());
    }
    Err(Failure::Type(essence.chars().take(64).collect::<String>().into()))
}

/// The URL of the key set in this discovery document.
fn jwks_uri(issuer: &str, document: &Uri, body: &[u8]) -> Result<Uri, Failure> {
    let discovery = |why: String| Failure::Discovery(why.into());
    let found = json::parse(body).map_err(|error| discovery(error.to_string()))?;
    let text = |name: &str| {
        let text = found.get(name).and_then(Value::as_str);
        text.ok_or_else(|| discovery(format!("its `{name}` is not a text")))
    };
    // OpenID Connect Discovery 1.0, 4.3: must be identical, or whoever can write one document at
    // that host speaks for everybody there.
    let said = text("issuer")?;
    if said != issuer {
        return Err(Failure::OtherIssuer(brief(said)));
    }
    let keys = text("jwks_uri")?;
    destination(keys, document)
        .map_err(|why| discovery(format!("its jwks_uri `{}` {why}", brief(keys))))
}

/// Where the document may send the gateway: to any host that proves its name with a certificate, or
/// unencrypted to its own host. To this machine only from this machine: what listens here may trust
/// everybody who can connect.
fn destination(keys: &str, document: &Uri) -> Result<Uri, &'static str> {
    if keys.len() > MAX_URL {
        return Err("is too long");
    }
    let url: Uri = keys.parse().map_err(|_| "is not a URL")?;
    let (Some(scheme), Some(authority)) = (url.scheme(), url.authority()) else {
        return Err("is not a URL");
    };
    let host = authority.host();
    let has_port = authority.as_str() != host;
    if host.is_empty() || has_port && authority.port_u16().is_none_or(|port| port == 0) {
        return Err("has no host, or no valid port");
    }
    if authority.as_str().contains('@') {
        return Err("has a user");
    }
    let is_same_host = document.host().is_some_and(|home| home.eq_ignore_ascii_case(host));
    let is_at_home = is_same_host && *scheme == Scheme::HTTP && document.scheme() == url.scheme();
    if *scheme != Scheme::HTTPS && !is_at_home {
        return Err("is neither https nor on the same host");
    }
    if !fetch::is_loopback(document) && (fetch::is_loopback(&url) || is_odd_address(host)) {
        return Err("leads to the gateway's own machine");
    }
    Ok(url)
}

/// Whether a resolver may read an address in it that is not written as one, such as `127.1` or
/// `0x7f000001`.
fn is_odd_address(host: &str) -> bool {
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let is_hex = last.to_ascii_lowercase().starts_with("0x");
    let is_number = is_hex || !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    is_number && host.parse::<Ipv4Addr>().is_err()
}

/// The start of a stranger's text, as it may be logged.
fn brief(text: &str) -> Box<str> {
    text.escape_debug().take(200).collect::<String>().into()
}

/// How long an answer stays fresh, minus the time it spent in caches (RFC 9111, 4.2).
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let directives = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut found = None;
    for directive in directives.flat_map(|line| line.split(',')).map(str::trim) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => return Some(Duration::ZERO),
            "max-age" => found = found.or_else(|| value.trim_matches('"').parse::<u32>().ok()),
            _ => {}
        }
    }
    let age = headers.get(AGE).and_then(|age| age.to_str().ok()?.parse::<u32>().ok()).unwrap_or(0);
    found.map(|seconds| Duration::from_secs(u64::from(seconds.saturating_sub(age))))
}

// === impl Failure ===

impl Failure {
    /// The label in the metric.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Fetch(FetchError::Timeout) => "timeout",
            Self::Fetch(FetchError::TooLarge(_)) => "too-large",
            Self::Fetch(FetchError::Dns { .. }) => "dns",
            Self::Fetch(FetchError::Url(_) | FetchError::Connect(_)) => "connect",
            Self::Fetch(FetchError::Broken(_)) => "broken",
            Self::Status(_) => "status",
            Self::Redirect(_) | Self::RedirectLoop => "redirect",
            Self::Type(_) => "type",
            Self::OtherIssuer(_) | Self::Discovery(_) => "discovery",
            Self::Invalid(_) => "invalid",
            Self::Empty(_) => "empty",
        }
    }

    /// What an operator who reads the log can do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Fetch(FetchError::Timeout | FetchError::Connect(_) | FetchError::Dns { .. }) => {
                "check that the gateway can reach the issuer"
            }
            Self::Fetch(FetchError::Url(_)) => "correct `jwks.url`",
            Self::Fetch(FetchError::TooLarge(_)) => {
                "is this a key set? a larger one can be given as `jwks.file`"
            }
            Self::Fetch(FetchError::Broken(_)) | Self::Status(_) => {
                "ask the issuer's operator; it is tried again by itself"
            }
            Self::Redirect(_) | Self::RedirectLoop => {
                "write the URL it leads to as `jwks.url`, if you trust it"
            }
            Self::Type(_) => {
                "is this the URL of a key set? it has to be served as application/json"
            }
            Self::OtherIssuer(_) => {
                "`issuer` must be exactly what the document says, or is it a stranger's?"
            }
            Self::Discovery(_) => "write the key set's URL as `jwks.url` instead of `discover`",
            Self::Invalid(_) => "is this the URL of a key set (RFC 7517)?",
            Self::Empty(_) => "does the issuer sign with one of `algorithms`?",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fetch(error) => error.fmt(f),
            Self::Status(status) => write!(f, "the answer was {status}"),
            Self::Redirect(error) => error.fmt(f),
            Self::RedirectLoop => write!(f, "over {MAX_REDIRECTS} redirects"),
            Self::Type(found) => write!(f, "the answer is `{found}`, not JSON"),
            Self::OtherIssuer(found) => write!(f, "the discovery document is of issuer `{found}`"),
            Self::Discovery(why) => write!(f, "the discovery document cannot be used: {why}"),
            Self::Invalid(why) => write!(f, "the answer is not a key set: {why}"),
            Self::Empty(why) => write!(f, "the key set has no key that can be used: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use parking_lot::Mutex;

    use super::*;
    use crate::http::fetch::Fetching;

    /// Status, fields, body.
    type Scripted = (u16, &'static [(&'static str, &'static str)], &'static str);

    /// Answers by URL, and records what it was asked.
    #[derive(Default)]
    struct Script {
        answers: HashMap<&'static str, Scripted>,
        asked: Mutex<Vec<String>>,
    }

    impl Fetch for Script {
        fn fetch(&self, question: Question) -> Fetching<'_> {
            let url = question.url.to_string();
            let cache = question.headers.contains_key(CACHE_CONTROL);
            self.asked.lock().push(if cache { format!("{url} no-cache") } else { url.clone() });
            let (status, fields, body) = self.answers[url.as_str()];
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            let status = StatusCode::from_u16(status).unwrap();
            Box::pin(async move {
                Ok(Answer { status, headers, body: Bytes::from_static(body.as_bytes()) })
            })
        }
    }

    async fn fetched(
        source: &Source,
        script: &Script,
        is_past_caches: bool,
    ) -> Result<Fetched, Failure> {
        source.fetch(script, is_past_caches, Instant::now() + Duration::from_secs(1)).await
    }

    fn url(url: &str) -> Source {
        Source::Url(url.parse().unwrap())
    }

    const KEYS: &str = r#"{"keys":[]}"#;

    #[tokio::test]
    async fn follows_redirects_at_home_only() {
        let script = Script {
            answers: [
                ("https://a/1", (302, &[("location", "/2")][..], "")),
                ("https://a/2", (200, &[("content-type", "application/json")][..], KEYS)),
                ("https://a/away", (301, &[("location", "https://b/2")][..], "")),
                ("https://a/loop", (307, &[("location", "/loop")][..], "")),
                ("https://a/lost", (303, &[][..], "")),
            ]
            .into(),
            ..Script::default()
        };
        assert_eq!(fetched(&url("https://a/1"), &script, true).await.unwrap().body, KEYS);
        assert_eq!(*script.asked.lock(), ["https://a/1 no-cache", "https://a/2 no-cache"]);
        for (from, outcome) in [
            ("https://a/away", "redirect"),
            ("https://a/loop", "redirect"),
            ("https://a/lost", "redirect"),
        ] {
            let failure = fetched(&url(from), &script, false).await.unwrap_err();
            assert_eq!(failure.outcome(), outcome, "{from}: {failure}");
        }
        assert_eq!(script.asked.lock().iter().filter(|url| *url == "https://a/loop").count(), 4);
    }

    #[tokio::test]
    async fn believes_json_with_status_200_only() {
        for (status, content_type, is_good) in [
            (200, Some("application/json; charset=utf-8"), true),
            (200, Some("application/jwk-set+json"), true),
            (200, None, true),
            (200, Some("text/html"), false),
            (200, Some("application/octet-stream"), false),
            (204, Some("application/json"), false),
            (500, Some("application/json"), false),
            (404, Some("application/json"), false),
        ] {
            let fields: &'static [(&str, &str)] = match content_type {
                Some(value) => Box::leak(Box::new([("content-type", value)])),
                None => &[],
            };
            let script = Script {
                answers: [("https://a/", (status, fields, KEYS))].into(),
                ..Script::default()
            };
            let result = fetched(&url("https://a/"), &script, false).await;
            assert_eq!(result.is_ok(), is_good, "{status} {content_type:?}");
        }
    }

    #[tokio::test]
    async fn discovery_is_believed_of_the_issuer_itself_only() {
        const DOCUMENT: &str = "https://id.example/t/.well-known/openid-configuration";
        for (body, outcome) in [
            (r#"{"issuer":"https://id.example/t","jwks_uri":"https://keys.example/k"}"#, None),
            (
                r#"{"issuer":"https://id.example/t/","jwks_uri":"https://keys.example/k"}"#,
                Some("discovery"),
            ),
            (
                r#"{"issuer":"https://evil.example","jwks_uri":"https://keys.example/k"}"#,
                Some("discovery"),
            ),
            (
                r#"{"issuer":"https://id.example/t","jwks_uri":"http://id.example/k"}"#,
                Some("discovery"),
            ),
            (r#"{"issuer":"https://id.example/t","jwks_uri":"/k"}"#, Some("discovery")),
            (r#"{"issuer":"https://id.example/t","jwks_uri":"file:///k"}"#, Some("discovery")),
            (
                r#"{"issuer":"x","issuer":"https://id.example/t","jwks_uri":"https://keys.example/k"}"#,
                Some("discovery"),
            ),
            ("<html>", Some("discovery")),
        ] {
            let script = Script {
                answers: [
                    (DOCUMENT, (200, &[][..], body)),
                    ("https://keys.example/k", (200, &[][..], KEYS)),
                ]
                .into(),
                ..Script::default()
            };
            let source = Source::discover("https://id.example/t").unwrap();
            let result = fetched(&source, &script, false).await;
            assert_eq!(result.as_ref().err().map(Failure::outcome), outcome, "{body}");
        }
    }

    #[test]
    fn discovery_needs_an_issuer_that_is_a_url() {
        assert!(Source::discover("http://127.0.0.1:9/realms/shop/").is_some());
        for issuer in ["shop", "urn:shop", "ftp://a", "https://a?x=1", ""] {
            assert!(Source::discover(issuer).is_none(), "{issuer}");
        }
    }

    #[test]
    fn http_keys_are_believed_only_where_the_issuer_is_http_too() {
        let body = br#"{"issuer":"i","jwks_uri":"http://127.0.0.1:2/k"}"#;
        assert!(jwks_uri("i", &"http://127.0.0.1:1/d".parse().unwrap(), body).is_ok());
        assert!(jwks_uri("i", &"http://127.0.0.2:1/d".parse().unwrap(), body).is_err());
        assert!(jwks_uri("i", &"https://127.0.0.1:1/d".parse().unwrap(), body).is_err());
    }

    #[test]
    fn a_document_leads_only_where_a_stranger_may_send_the_gateway() {
        let found = |document: &str, keys: &str| {
            let body = format!(r#"{{"issuer":"i","jwks_uri":"{keys}"}}"#);
            jwks_uri("i", &document.parse().unwrap(), body.as_bytes()).is_ok()
        };
        for keys in ["https://keys.example/k", "https://keys.example:8443/k", "https://10.0.0.1/k"]
        {
            assert!(found("https://id.example/d", keys), "{keys}");
        }
        for keys in [
            "https://localhost/k",
            "https://LOCALHOST./k",
            "https://id.localhost:8443/k",
            "https://127.0.0.1/k",
            "https://127.9:1/k",
            "https://2130706433/k",
            "https://0x7f.1/k",
            "https://[::1]:8443/k",
            "https://[::ffff:127.0.0.1]/k",
            "https://0.0.0.0/k",
            "https://[::]/k",
            "https://id.example@keys.example/k",
            "https://user:password@id.example/k",
            "https://keys.example:0/k",
            "https://keys.example:99999/k",
            "https://keys.example:/k",
            "HTTP://id.example/k",
            "unix:/run/keys",
            "https:///k",
            "//keys.example/k",
            "https://keys.example/ k",
            "",
        ] {
            assert!(!found("https://id.example/d", keys), "{keys}");
        }
        // Whose issuer is this machine itself is at home there.
        assert!(found("http://localhost:1/d", "https://127.0.0.1:2/k"));
        assert!(found("http://ID.internal/d", "http://id.internal:8080/k"));
        assert!(!found("http://id.internal/d", "http://user@id.internal/k"));
    }

    #[tokio::test]
    async fn a_document_that_is_none_is_no_long_story() {
        let long = r"a\u0007\u202e".repeat(8_000);
        let issuer = r#""issuer":"https://id.example""#;
        for body in [
            "null".to_owned(),
            "[]".to_owned(),
            "7".to_owned(),
            "{}".to_owned(),
            format!("{{{issuer}}}"),
            format!(r#"{{{issuer},"jwks_uri":null}}"#),
            format!(r#"{{{issuer},"jwks_uri":["https://keys.example/k"]}}"#),
            format!(r#"{{{issuer},"jwks_uri":{{"a":1}}}}"#),
            format!(r#"{{{issuer},"jwks_uri":"https://keys.example/k"}} and more"#),
            format!(r#"{{{issuer},"jwks_uri":"https://keys.example/{}"}}"#, "k".repeat(60_000)),
            format!(r#"{{{issuer},"jwks_uri":"ftp://keys.example/{}"}}"#, "k".repeat(60_000)),
            format!(r#"{{{issuer},"jwks_uri":"{long}"}}"#),
            format!(r#"{{"issuer":"{long}","jwks_uri":"https://keys.example/k"}}"#),
            r#"{"issuer":["https://id.example"],"jwks_uri":"https://keys.example/k"}"#.to_owned(),
            format!(r#""{long}""#),
            format!(r#"{{"a":{}{},{issuer}}}"#, "[".repeat(100_000), "]".repeat(100_000)),
        ] {
            let document = "https://id.example/.well-known/openid-configuration";
            let start: String = body.chars().take(80).collect();
            let script = Script {
                answers: [(document, (200, &[][..], &*body.leak()))].into(),
                ..Script::default()
            };
            let source = Source::discover("https://id.example").unwrap();
            let failure = fetched(&source, &script, false).await.unwrap_err();
            assert_eq!(failure.outcome(), "discovery", "{start}");
            let told = failure.to_string();
            assert!(told.len() < 1_000, "{} bytes for {start}", told.len());
            assert!(told.chars().all(|c| (' '..='~').contains(&c)), "{told:?}");
            assert_eq!(script.asked.lock().len(), 1, "{start}: the keys were not asked for");
        }
    }

    #[test]
    fn reads_how_long_an_answer_holds() {
        let age = |fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            max_age(&headers).map(|age| age.as_secs())
        };
        assert_eq!(age(&[]), None);
        assert_eq!(age(&[("cache-control", "public, max-age=600, must-revalidate")]), Some(600));
        assert_eq!(age(&[("cache-control", "Max-Age=\"600\""), ("age", "100")]), Some(500));
        assert_eq!(age(&[("cache-control", "max-age=5"), ("age", "100")]), Some(0));
        assert_eq!(
            age(&[("cache-control", "max-age=600"), ("cache-control", "no-store")]),
            Some(0)
        );
        assert_eq!(age(&[("cache-control", "max-age=never")]), None);
        assert_eq!(age(&[("cache-control", "max-age=99999999999999")]), None);
    }
}
