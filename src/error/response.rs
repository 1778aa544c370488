//! The only maker of error responses: problem bodies (RFC 9457) with `Proxy-Status` (RFC 9209).
//!
//! A client is told the kind, the reason word, one fixed sentence and its request's ID, under which
//! the access log has more about failures that are not the client's; never an upstream's address or
//! an internal message. A gRPC client gets what it can read: status 200 without a body,
//! `grpc-status` and `grpc-message` (gRPC over HTTP/2, "Trailers-Only").

use std::{fmt::Write as _, time::Duration};

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};

use crate::{
    error::{AuthFault, IdempotencyFault, Kind, QueueFault, Side},
    http::{Body, Response, names::PROXY_STATUS},
};

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// draft-ietf-httpapi-ratelimit-headers, "Problem Types".
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";
/// Where to find more about a failure that is not the client's.
const MORE: &str = "The gateway's access log, if it has one, says more about this request_id.";
const CLOSE: HeaderValue = HeaderValue::from_static("close");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

// Codes of gRPC statuses.
const CANCELLED: &str = "1";
const INVALID_ARGUMENT: &str = "3";
const DEADLINE_EXCEEDED: &str = "4";
const NOT_FOUND: &str = "5";
const PERMISSION_DENIED: &str = "7";
const RESOURCE_EXHAUSTED: &str = "8";
const ABORTED: &str = "10";
const UNIMPLEMENTED: &str = "12";
const INTERNAL: &str = "13";
const UNAVAILABLE: &str = "14";
const UNAUTHENTICATED: &str = "16";

/// The form of an answer that a client can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// A problem body.
    Problem,
    /// gRPC: a status in the fields.
    Grpc,
}

// === impl Dialect ===

impl Dialect {
    /// The dialect of a client that sent these fields: gRPC for `application/grpc`, alone or with
    /// `+proto` and the like; not for `application/grpc-web`, whose clients read HTTP statuses.
    pub fn of(headers: &HeaderMap) -> Self {
        let rest = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
        match rest {
            Some([] | [b'+' | b';' | b' ', ..]) => Self::Grpc,
            _ => Self::Problem,
        }
    }
}

/// The answer to a request that failed with `kind`.
pub fn response(kind: &Kind, dialect: Dialect, request_id: Option<&HeaderValue>) -> Response {
    let mut response = match dialect {
        Dialect::Problem => problem(kind, request_id),
        Dialect::Grpc => grpc(kind),
    };
    let headers = response.headers_mut();
    headers.insert(PROXY_STATUS, proxy_status(kind));
    if let Some(after) = kind.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
    }
    if let Kind::MethodNotAllowed(method) = kind {
        headers.insert(ALLOW, method.allow.clone());
    }
    if let Kind::Auth(refusal) = kind
        && let Some(challenge) = &refusal.challenge
    {
        headers.insert(WWW_AUTHENTICATE, challenge.clone());
    }
    if let Kind::AuthDenied(denial) = kind {
        headers.extend((*denial.headers).clone());
    }
    if kind.closes_connection() {
        headers.insert(CONNECTION, CLOSE);
    }
    response
}

fn problem(kind: &Kind, request_id: Option<&HeaderValue>) -> Response {
    let status = kind.status();
    let mut body = String::with_capacity(384);
    // Titles and reasons are ours and need no escaping; writing to a String cannot fail.
    write!(
        body,
        r#"{{"type":"{}","title":"{}","status":{},"code":"{}""#,
        problem_type(kind),
        kind.title(),
        status.as_u16(),
        kind.reason(),
    )
    .unwrap_or_default();
    if let Some(id) = request_id.and_then(|id| id.to_str().ok()).filter(|id| is_plain(id)) {
        write!(body, r#","request_id":"{id}""#).unwrap_or_default();
        if kind.side() != Side::Downstream {
            write!(body, r#","detail":"{MORE}""#).unwrap_or_default();
        }
    }
    if let Kind::RateLimited(exceeded) = kind {
        push_policies(&exceeded.policies, &mut body);
    }
    body.push_str("}\n");
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
    response
}

/// The problem type, if one is registered.
fn problem_type(kind: &Kind) -> &'static str {
    if matches!(kind, Kind::RateLimited(_)) { QUOTA_EXCEEDED } else { "about:blank" }
}

/// Policy names are plain: letters, digits, `_`, `-`, `.`.
fn push_policies(policies: &[Box<str>], body: &mut String) {
    body.push_str(r#","violated-policies":["#);
    for (index, policy) in policies.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(body, r#"{comma}"{policy}""#).unwrap_or_default();
    }
    body.push(']');
}

/// Whether it can stand in a JSON string without escaping.
fn is_plain(id: &str) -> bool {
    id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
}

fn grpc(kind: &Kind) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::OK;
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC);
    headers.insert(GRPC_STATUS, HeaderValue::from_static(grpc_status(kind)));
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(kind.title()));
    response
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// `sluice; error=<type of RFC 9209>; details="<reason>"`.
fn proxy_status(kind: &Kind) -> HeaderValue {
    let reason = kind.reason();
    let value = match proxy_error(kind) {
        Some(error) => format!("sluice; error={error}; details=\"{reason}\""),
        None => format!("sluice; details=\"{reason}\""),
    };
    // Both words are ours: letters, digits, dashes, underscores.
    HeaderValue::from_maybe_shared(bytes::Bytes::from(value))
        .unwrap_or(HeaderValue::from_static("sluice"))
}

/// The error type of RFC 9209, 2.3. `None` if the list has none: refusing a method is not a proxy
/// error.
fn proxy_error(kind: &Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::RouteNotFound | Kind::Queue(QueueFault::OtherInstance | QueueFault::StatusGone) => {
            "destination_not_found"
        }
        Kind::MethodNotAllowed(_) => return None,
        Kind::BadFraming
        | Kind::BadTarget
        | Kind::HeaderTooLarge
        | Kind::HeaderCount
        | Kind::BodyTooLarge
        | Kind::ClientTimeout
        | Kind::ClientClosed
        | Kind::Queue(QueueFault::KeyMissing | QueueFault::TooLarge) => "http_request_error",
        Kind::IpDenied
        | Kind::RateLimited(_)
        | Kind::Auth(_)
        | Kind::AuthDenied(_)
        | Kind::Idempotency(_) => "http_request_denied",
        Kind::ConcurrencyFull | Kind::ShedOverload => "connection_limit_reached",
        Kind::UpstreamNone | Kind::BreakerOpen(_) | Kind::AuthUnavailable => {
            "destination_unavailable"
        }
        Kind::UpstreamDns => "dns_error",
        Kind::UpstreamConnect => "connection_refused",
        Kind::UpstreamTls => "tls_protocol_error",
        Kind::UpstreamReset(_) | Kind::UpstreamClosedIdle(_) => "connection_terminated",
        Kind::UpstreamTimeoutTry(_) | Kind::UpstreamTimeoutTotal => "http_response_timeout",
        Kind::UpstreamBadResponse => "http_protocol_error",
        Kind::RetryBudget(last) => return proxy_error(last),
        Kind::FaultInjected(_) => "proxy_internal_response",
        Kind::Queue(_) | Kind::Draining | Kind::Internal => "proxy_internal_error",
    })
}

/// The code of a gRPC status, as a client library would map ours (gRPC, "HTTP to gRPC Status Code
/// Mapping"), but more precise where we know more.
fn grpc_status(kind: &Kind) -> &'static str {
    match kind {
        Kind::ClientClosed => CANCELLED,
        Kind::RouteNotFound | Kind::MethodNotAllowed(_) => UNIMPLEMENTED,
        Kind::BadFraming | Kind::BadTarget | Kind::Internal => INTERNAL,
        Kind::HeaderTooLarge | Kind::HeaderCount | Kind::BodyTooLarge | Kind::RateLimited(_) => {
            RESOURCE_EXHAUSTED
        }
        Kind::ClientTimeout | Kind::UpstreamTimeoutTry(_) | Kind::UpstreamTimeoutTotal => {
            DEADLINE_EXCEEDED
        }
        Kind::IpDenied => PERMISSION_DENIED,
        Kind::Auth(refusal) => match refusal.fault {
            AuthFault::Scope => PERMISSION_DENIED,
            AuthFault::KeysUnavailable => UNAVAILABLE,
            _ => UNAUTHENTICATED,
        },
        Kind::AuthDenied(denial) => match denial.status.as_u16() {
            401 => UNAUTHENTICATED,
            429 | 502..=504 => UNAVAILABLE,
            _ => PERMISSION_DENIED,
        },
        Kind::ConcurrencyFull
        | Kind::ShedOverload
        | Kind::UpstreamNone
        | Kind::BreakerOpen(_)
        | Kind::UpstreamDns
        | Kind::UpstreamConnect
        | Kind::UpstreamTls
        | Kind::UpstreamReset(_)
        | Kind::UpstreamClosedIdle(_)
        | Kind::UpstreamBadResponse
        | Kind::AuthUnavailable
        | Kind::FaultInjected(_)
        | Kind::Draining => UNAVAILABLE,
        Kind::Idempotency(fault) => match fault {
            IdempotencyFault::Missing
            | IdempotencyFault::Several
            | IdempotencyFault::Invalid
            | IdempotencyFault::Mismatch => INVALID_ARGUMENT,
            IdempotencyFault::InFlight(_) | IdempotencyFault::Uncertain => ABORTED,
        },
        Kind::Queue(fault) => match fault {
            QueueFault::KeyMissing => INVALID_ARGUMENT,
            QueueFault::TooLarge => RESOURCE_EXHAUSTED,
            QueueFault::OtherInstance | QueueFault::StatusGone => NOT_FOUND,
            QueueFault::Full(_)
            | QueueFault::Disk(_)
            | QueueFault::Unavailable(_)
            | QueueFault::MaybeStored(_) => UNAVAILABLE,
        },
        Kind::RetryBudget(last) => grpc_status(last),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    use super::*;
    use crate::error::{Exceeded, Method405};

    async fn json_of(response: Response) -> Value {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn a_problem_names_the_kind_and_the_request() {
        let id = HeaderValue::from_static("id-1");
        let response = response(&Kind::UpstreamConnect, Dialect::Problem, Some(&id));
        assert_eq!(response.status(), 502);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(
            json_of(response).await,
            json!({
                "type": "about:blank", "title": "The service cannot be reached.", "status": 502,
                "code": "upstream-connect", "request_id": "id-1",
                "detail": "The gateway's access log, if it has one, says more about this request_id.",
            })
        );
    }

    #[tokio::test]
    async fn what_is_not_the_clients_doing_says_where_there_is_more() {
        let id = HeaderValue::from_static("id-1");
        for kind in Kind::all() {
            let is_ours = kind.side() != Side::Downstream;
            let body = json_of(response(&kind, Dialect::Problem, Some(&id))).await;
            assert_eq!(body.get("detail").is_some(), is_ours, "{kind:?}");
            let body = json_of(response(&kind, Dialect::Problem, None)).await;
            assert_eq!(body.get("detail"), None, "nobody could find it");
        }
    }

    #[tokio::test]
    async fn every_kind_makes_a_problem_that_parses_and_agrees_with_itself() {
        for kind in Kind::all() {
            let response = response(&kind, Dialect::Problem, None);
            let status = response.status();
            assert_eq!(status, kind.status());
            let proxy_status = response.headers()[PROXY_STATUS].to_str().unwrap().to_owned();
            assert!(proxy_status.starts_with("sluice; "), "{proxy_status}");
            assert!(proxy_status.ends_with(&format!("details=\"{}\"", kind.reason())));
            assert_eq!(response.headers().contains_key(RETRY_AFTER), kind.retry_after().is_some());
            assert_eq!(response.headers().contains_key(CONNECTION), kind.closes_connection());
            let body = json_of(response).await;
            assert_eq!(body["status"], status.as_u16());
            assert_eq!(body["code"], kind.reason());
        }
    }

    #[test]
    fn every_kind_makes_a_grpc_status_without_a_body() {
        for kind in Kind::all() {
            let response = response(&kind, Dialect::Grpc, None);
            assert_eq!(response.status(), 200);
            assert!(http_body::Body::is_end_stream(response.body()));
            let code: u8 = response.headers()[GRPC_STATUS].to_str().unwrap().parse().unwrap();
            assert!((1..=16).contains(&code));
            assert_eq!(response.headers()[GRPC_MESSAGE], kind.title());
        }
    }

    #[test]
    fn a_405_says_what_is_allowed() {
        let allow = HeaderValue::from_static("GET, HEAD");
        let kind = Kind::MethodNotAllowed(Method405 { allow });
        assert_eq!(response(&kind, Dialect::Problem, None).headers()[ALLOW], "GET, HEAD");
    }

    #[tokio::test]
    async fn an_id_that_is_no_plain_text_is_left_out() {
        let id = HeaderValue::from_static("a\"b");
        let body = json_of(response(&Kind::Internal, Dialect::Problem, Some(&id))).await;
        assert_eq!(body.get("request_id"), None);
    }

    #[tokio::test]
    async fn a_429_says_which_policies_were_broken() {
        let kind = Kind::RateLimited(Exceeded {
            retry_after: Duration::from_millis(1_200),
            policies: ["per-user".into(), "per-client".into()].into(),
        });
        let response = response(&kind, Dialect::Problem, None);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        let body = json_of(response).await;
        assert_eq!(body["type"], QUOTA_EXCEEDED);
        assert_eq!(body["violated-policies"], json!(["per-user", "per-client"]));
    }

    #[test]
    fn seconds_are_rounded_up() {
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
        assert_eq!(whole_seconds(Duration::from_secs(2)), 2);
        assert_eq!(whole_seconds(Duration::from_millis(2001)), 3);
    }
}
