//! Field names that `http` has no constant for, and the gateway's own paths.

use http::HeaderName;

/// `Forwarded` (RFC 7239).
pub use http::header::FORWARDED;
/// `Idempotent-Replayed`: marks a replayed answer.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// `Keep-Alive`: hop-by-hop, carries the upstream's idle timeout.
pub const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// `Prefer` (RFC 7240).
pub const PREFER: HeaderName = HeaderName::from_static("prefer");
/// `Preference-Applied` (RFC 7240).
pub const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// `Proxy-Connection`: never standard, still sent, hop-by-hop.
pub const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// `HTTP2-Settings`: belongs to `Upgrade: h2c`, which is never tunnelled.
pub const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
/// `Proxy-Status` (RFC 9209).
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
/// `RateLimit` (draft-ietf-httpapi-ratelimit-headers).
pub const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers).
pub const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// `X-Forwarded-For`.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `X-Forwarded-Host`.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// `X-Forwarded-Method`: the method of the request that another service is asked about.
pub const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
/// `X-Forwarded-Proto`.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `X-Forwarded-Uri`: the target of the request that another service is asked about.
pub const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
/// `X-Request-Id`.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The IDs of the events that a request led to.
pub const SLUICE_EVENT_ID: HeaderName = HeaderName::from_static("sluice-event-id");
/// Set on a copy sent by `mirror`.
pub const X_SLUICE_MIRROR: HeaderName = HeaderName::from_static("x-sluice-mirror");
/// The number of this attempt, for the upstream.
pub const X_SLUICE_ATTEMPT: HeaderName = HeaderName::from_static("x-sluice-attempt");
/// The status of each stored request is below it, by the request's ID.
pub const STATUS_PATH: &str = "/.sluice/requests/";
